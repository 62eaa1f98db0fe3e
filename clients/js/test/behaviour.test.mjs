// The rules of the library, one by one, against the real server behind a proxy that misbehaves.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import test, { describe } from "node:test";
import { promisify } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import WebSocket from "ws";
import { KEYS } from "../../../tests/clients/lib/tokens.mjs";
import { eventually } from "../../../tests/clients/lib/wait.mjs";
import { connect } from "../dist/ringcast.js";
import { connect as connectSse } from "../dist/sse.js";
import { stage } from "./lib/stage.mjs";
import { tokenOf } from "./lib/tokens.mjs";

const TRANSPORTS = ["ws", "sse", "poll"];
const STRICT = KEYS.replace("allow_anonymous = true", "");

async function setUp(t, config = "") {
    const clients = [];
    t.after(() => clients.forEach((client) => client.close()));
    const { server, proxy } = await stage(t, config);
    const make = (options, how = connect) => {
        const client = how(proxy.url, { WebSocket, spread: 50, beat: 1, ...options });
        clients.push(client);
        return client;
    };
    const isOpen = (client, transport) =>
        eventually(() => `the client is open over ${transport}: ${JSON.stringify(client.state)}`, () => client.state.name === "open" && (!transport || client.state.transport === transport));
    return { server, proxy, make, isOpen };
}

// These wait most of the time, so they run together.
describe("tokens", { concurrency: true }, () => {
    for (const transport of TRANSPORTS) {
        test(`${transport}: a token is asked for at each connection and before it expires, and is in no URL`, async (t) => {
            const { server, proxy, make, isOpen } = await setUp(t, STRICT);
            const tokens = [];
            let fails = 0;
            const client = make({
                transports: [transport],
                token: async () => {
                    if (tokens.length === 2 && !fails++) throw new Error("the token cannot be had");
                    tokens.push(tokenOf({ sub: "u", channels: "*", jti: `${tokens.length}` }, 4));
                    return tokens.at(-1);
                },
            });
            const errors = [];
            client.on("error", (error) => errors.push(error.message));
            const told = [];
            client.subscribe("a", ({ data }) => told.push(data));
            await isOpen(client);
            await eventually("the subscription has a position", () => client.position);
            for (let n = 0; n < 45; n++) {
                await server.publish("a", { n });
                await new Promise((resolve) => setTimeout(resolve, 200));
            }
            await eventually(() => `all events: ${told.length}`, () => told.length === 45);
            assert.deepEqual(told.map(({ n }) => n), Array.from({ length: 45 }, (_, n) => n));
            assert.ok(tokens.length >= 3 && tokens.length <= 6, `${tokens.length} tokens`);
            assert.deepEqual(errors, ["the token cannot be had"]);
            for (const { url } of proxy.requests) assert.ok(!tokens.some((token) => url.includes(token.slice(-20))), url);
        });
    }
});

for (const transport of TRANSPORTS) {
    test(`${transport}: a link that goes silent is noticed within two heartbeats, and nothing is lost`, async (t) => {
        const { server, proxy, make, isOpen } = await setUp(t);
        const client = make({ transports: [transport] });
        const told = [];
        client.subscribe("a", ({ data }) => told.push(data));
        await isOpen(client);
        await eventually("the subscription has a position", () => client.position);
        await server.publish("a", "1");
        await eventually("the first event", () => told.length === 1);
        const states = [];
        client.on("state", (state) => states.push({ ...state, at: Date.now() }));
        proxy.isStalled = true;
        const began = Date.now();
        await server.publish("a", "2");
        await eventually("the silence is noticed", () => states[0]);
        assert.equal(states[0].reason?.code, "silent");
        assert.ok(states[0].at - began <= 2100, `${states[0].at - began} ms`);
        proxy.isStalled = false;
        await eventually(() => `the second event comes: ${told}`, () => told.length === 2);
        assert.deepEqual(told, ["1", "2"]);
    });

    test(`${transport}: a refused token is asked for once more, and then the client is closed until it is told to connect`, async (t) => {
        const { server, make, isOpen } = await setUp(t, STRICT);
        let calls = 0;
        let token = "bad";
        const client = make({ transports: [transport], token: () => (calls++, token) });
        client.subscribe("a", () => {});
        await eventually(() => `the client is closed: ${JSON.stringify(client.state)}`, () => client.state.name === "closed");
        assert.equal(calls, 2);
        assert.match(client.state.reason.code, /^(invalid_token|unauthorized)$/);
        token = tokenOf({ channels: "a" }, 60);
        client.reconnect();
        await isOpen(client);
        client.subscribe("b", () => assert.fail("b is refused"));
        await eventually(() => `b is refused: ${JSON.stringify(client.state)}`, () => transport !== "ws" ? client.state.name === "closed" : true);
        await server.publish("b", "x");
    });

    test(`${transport}: an iterator has a bounded buffer, and gets everything`, async (t) => {
        const { server, make } = await setUp(t);
        const first = await server.publish("a", { n: 0 });
        const client = make({ transports: [transport] });
        const fast = [];
        client.subscribe("b", ({ data }) => fast.push(data.n), { after: first });
        const items = Array.from({ length: 400 }, (_, n) => ({ channel: n % 2 ? "a" : "b", data: { n } }));
        await server.feed.call({ op: "batch", items });
        const slow = [];
        for await (const { data } of client.events("a", { after: first, buffer: 10 })) {
            slow.push(data.n);
            if (slow.length % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
            if (slow.length === 200) break;
        }
        assert.deepEqual(slow, items.flatMap(({ channel, data }) => (channel === "a" ? [data.n] : [])));
        await eventually(() => `the handler has everything: ${fast.length}`, () => fast.length === 200);
        assert.deepEqual(fast, items.flatMap(({ channel, data }) => (channel === "b" ? [data.n] : [])));
    });

    test(`${transport}: a stream of chunks goes on over a cut and ends with its channel`, async (t) => {
        const { server, proxy, make } = await setUp(t);
        const client = make({ transports: [transport] });
        const first = await server.publish("answer:1", "a ");
        const chunks = [];
        const reading = (async () => {
            for await (const chunk of client.stream("answer:1", { after: first })) chunks.push(chunk);
        })();
        await server.publish("answer:1", "b ");
        await eventually("the first chunk", () => chunks.length === 1);
        proxy.cutAll();
        await server.publish("answer:1", "c ");
        await server.feed.call({ op: "end", channel: "answer:1" });
        await reading;
        assert.deepEqual(chunks, ["b ", "c "]);
        await eventually(() => `the client rests: ${JSON.stringify(client.state)}`, () => client.state.name === "idle");
    });
}

test("a channel that is read again is read from the position of the subscription that is behind", async (t) => {
    const { server, make } = await setUp(t, '[namespace."*"]\nhistory_events = 1000\nhistory_bytes = "32MiB"');
    // More than the sockets on the way take at once.
    const items = Array.from({ length: 1000 }, (_, n) => ({ channel: "a", data: { n, text: "x".repeat(20_000) } }));
    const ids = [];
    for (const item of items) ids.push(await server.publish(item.channel, item.data));
    const first = ids[0];
    const client = make({ transports: ["ws"] });
    const behind = [];
    const ahead = [];
    client.subscribe(
        "a",
        ({ data }) => {
            behind.push(data.n);
            // While most of the first one's events are still to come.
            if (behind.length === 1) client.subscribe("a", ({ data }) => ahead.push(data.n), { after: ids[899] });
        },
        { after: first },
    );
    await eventually(() => `both have the last event: ${[behind.length, ahead.length]}`, () => behind.at(-1) === 999 && ahead.at(-1) === 999);
    assert.deepEqual(behind, items.slice(1).map(({ data }) => data.n));
    assert.deepEqual(ahead, items.slice(900).map(({ data }) => data.n));
});

test("a stream that is cancelled tells the backend", async (t) => {
    const { server, make, isOpen } = await setUp(t);
    await server.feed.call({ op: "listen", what: ["messages"] });
    const messages = [];
    server.feed.hear = ((hear) => function (line) {
        if (line.op === "message") messages.push(line.data);
        else hear.call(this, line);
    })(server.feed.hear);
    const client = make({ transports: ["ws"] });
    const answer = client.stream("answer:2");
    const reading = (async () => {
        for await (const chunk of answer) void chunk;
    })();
    await isOpen(client);
    await answer.cancel();
    await reading;
    await eventually("the backend hears it", () => messages.length === 1);
    assert.deepEqual(messages, [{ cancel: "answer:2" }]);
});

test("a proxy that strips upgrades makes it event streams, and one that buffers them makes it polls", { timeout: 60_000 }, async (t) => {
    const { server, proxy, make, isOpen } = await setUp(t);
    proxy.stripsUpgrades = true;
    const client = make({});
    const told = [];
    client.subscribe("a", ({ data }) => told.push(data));
    await isOpen(client, "sse");
    proxy.buffers = true;
    proxy.cutAll();
    await isOpen(client, "poll");
    await eventually("the subscription has a position", () => client.position);
    await server.publish("a", "x");
    await eventually("the event comes", () => told.length === 1);
});

test("messages are not queued: what a cut takes is rejected", async (t) => {
    const { proxy, make, isOpen } = await setUp(t);
    const client = make({ transports: ["ws"] });
    client.subscribe("a", () => {});
    await isOpen(client);
    await assert.rejects(client.send("hello"), { code: "no_backend" });
    proxy.isStalled = true;
    const sent = client.send("hello");
    proxy.cutAll();
    await assert.rejects(sent, { code: "cut" });
    proxy.isStalled = false;
    const other = make({ transports: ["sse"] });
    other.subscribe("a", () => {});
    await assert.rejects(other.send("hello"), { code: "one_way" });
});

test("closing is final, and Node ends", async (t) => {
    const { proxy, make, isOpen } = await setUp(t);
    const client = make({});
    client.subscribe("a", () => {});
    await isOpen(client);
    client.close();
    client.reconnect();
    assert.equal(client.state.name, "closed");
    assert.throws(() => client.subscribe("a", () => {}), { code: "closed" });
    const program = `import { connect } from "ringcast"; const rc = connect("${proxy.url}"); rc.subscribe("a", () => {});
        rc.on("state", ({ name }) => name === "open" && rc.close());`;
    await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { cwd: new URL("..", import.meta.url), timeout: 10_000 });
});

test("a handler that throws is reported, and the others go on", async (t) => {
    const { server, make, isOpen } = await setUp(t);
    const client = make({ transports: ["ws"] });
    const told = [];
    const errors = [];
    client.on("error", (error) => errors.push(error.message));
    client.subscribe("a", () => {
        throw new Error("a fault of the page");
    });
    client.subscribe("a", async () => {
        throw new Error("another one");
    });
    client.subscribe("a", ({ data }) => told.push(data));
    await isOpen(client);
    await eventually("the subscription has a position", () => client.position);
    await server.publish("a", "1");
    await server.publish("a", "2");
    await eventually("both events", () => told.length === 2 && errors.length === 4);
    assert.deepEqual(errors.sort(), ["a fault of the page", "a fault of the page", "another one", "another one"]);
    assert.throws(() => client.subscribe("a", () => {}, { after: "null" }), TypeError);
});

test("100,000 subscriptions that come and go leave nothing", { timeout: 60_000 }, async (t) => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc");
    const { make, isOpen } = await setUp(t);
    const client = make({ transports: ["ws"], beat: 20 });
    client.subscribe("a", () => {});
    await isOpen(client);
    const round = async (count) => {
        for (let n = 0; n < count; n++) {
            client.subscribe(`b:${n % 50}`, () => {})();
            if (n % 1000 === 0) await new Promise(setImmediate);
        }
        collect();
        return process.memoryUsage().heapUsed;
    };
    const before = await round(10_000);
    const after = await round(100_000);
    assert.ok(after - before < 2 ** 20, `${after - before} bytes more`);
});

test("ringcast/sse reads, resumes and tells of gaps", async (t) => {
    const { server, proxy, make, isOpen } = await setUp(t, '[namespace."*"]\nhistory_events = 5\n[limits]\nretained = 0');
    const client = make({}, connectSse);
    const told = [];
    const gaps = [];
    client.on("gap", (gap) => gaps.push(gap));
    client.subscribe("a", ({ data }) => told.push(data.n));
    await isOpen(client, "sse");
    await server.publish("a", { n: 1 });
    await eventually("the first event", () => told.length === 1);
    proxy.isAway = true;
    proxy.cutAll();
    for (let n = 2; n <= 10; n++) await server.publish("a", { n });
    proxy.isAway = false;
    await eventually("the last event", () => told.at(-1) === 10);
    assert.deepEqual(told, [1, 6, 7, 8, 9, 10]);
    assert.equal(gaps.length, 1);
    assert.deepEqual(gaps[0].channels, ["a"]);
});
