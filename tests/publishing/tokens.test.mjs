// The example that streams tokens (clients/node/example-tokens.mjs): all tokens arrive in order with the end, and cancelling stops it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Feed } from "../../clients/node/ringcast-feed.mjs";
import { freePort } from "../clients/lib/ports.mjs";
import { spawn } from "../clients/lib/processes.mjs";
import { Server } from "../clients/lib/server.mjs";
import { eventually } from "../clients/lib/wait.mjs";
import { Stream, WebSocketClient } from "./lib/clients.mjs";

const EXAMPLE = fileURLToPath(new URL("../../clients/node/example-tokens.mjs", import.meta.url));

/** Starts the server and the example, and returns a function that asks it. */
async function start(t, pace) {
    const server = await Server.start("");
    const port = await freePort();
    const example = spawn(process.execPath, [EXAMPLE], "stderr", { RINGCAST_FEED: server.feedPath, PORT: port, PACE_MS: pace });
    const errors = [];
    example.stderr.setEncoding("utf8").on("data", (text) => errors.push(text));
    t.after(async () => {
        example.kill("SIGKILL");
        await server.close();
    });
    const ask = (prompt) => fetch(`http://127.0.0.1:${port}/answers`, { method: "POST", body: prompt });
    // The answer to another path shows that the example listens.
    await eventually("the example listens", () => fetch(`http://127.0.0.1:${port}/`).catch(() => false));
    return { server, errors, ask: async (prompt) => (await ask(prompt)).json() };
}

const PROMPT = "Warum ist der Himmel blau?";

test("all tokens come in order, with the end, also to a client that is cut", async (t) => {
    const { server, errors, ask } = await start(t, 2);
    const { channel, after } = await ask(PROMPT);
    const text = `You ask: ${PROMPT}\nThat is a good question. ${"It has many sides, and each of them deserves a word. ".repeat(12)}`;
    const stream = await Stream.open(server.port, channel, { "Last-Event-ID": after });
    t.after(() => stream.close());
    await eventually("there are some tokens", () => stream.events.length > 20);
    stream.request.destroy();
    await eventually("the channel has ended", () => stream.isEnded);
    assert.equal(stream.events.map(({ data }) => data).join(""), text.replaceAll("\n", "").trimEnd());
    assert.equal(stream.notices.at(-1).event, "ringcast.end");
    // One that comes when all is over gets the same.
    const late = await Stream.open(server.port, channel, { "Last-Event-ID": after });
    t.after(() => late.close());
    await eventually("the late client has the end", () => late.isEnded);
    assert.deepEqual(late.events, stream.events);
    assert.deepEqual(errors, []);
});

test("cancelling stops the answer and ends its channel", async (t) => {
    const { server, errors, ask } = await start(t, 20);
    const { channel, after } = await ask(PROMPT);
    const other = await ask(PROMPT);
    const stream = await Stream.open(server.port, channel, { "Last-Event-ID": after });
    t.after(() => stream.close());
    await eventually("there are some tokens", () => stream.events.length > 5);
    const client = await WebSocketClient.open(server.port, "");
    t.after(() => client.close());
    client.send({ send: { cancel: channel }, ref: 1 });
    await eventually("the channel has ended", () => stream.isEnded);
    const told = stream.events.length;
    assert.ok(told < 100, `${told} tokens came after all`);
    const feed = new Feed({ path: server.feedPath });
    t.after(() => feed.close());
    // The other answer goes on, while nothing is added to this one.
    const length = async (name) => (await feed.history(name, { limit: 1000 })).events.length;
    const before = await length(other.channel);
    await eventually("the other answer goes on", async () => (await length(other.channel)) > before);
    assert.equal(await length(channel), told + 1);
    assert.deepEqual(errors, []);
});
