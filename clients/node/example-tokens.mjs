// A backend that streams answers token by token, as one in front of a language model does; the text here is made up.
//
//     RINGCAST_FEED=… PORT=3000 node example-tokens.mjs
//     curl -d 'Why is the sky blue?' http://127.0.0.1:3000/answers      prints {"channel":"answer:ID","after":"POSITION"}
//     curl -N 'http://127.0.0.1:8080/sse?channel=answer:ID&last_event_id=POSITION'
//
// The position lies before the first token, so a client misses none, however late it subscribes or however often it is cut. A client
// cancels with the WebSocket message {"send":{"cancel":"answer:ID"}}; its id is random, so only its own clients know it.
import crypto from "node:crypto";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { Feed } from "./ringcast-feed.mjs";

const pace = Number(process.env.PACE_MS ?? 50);
const feed = new Feed();
/** The signals that stop the answers under way, by channel. */
const writing = new Map();

/** Stands for the model: tokens at a pace, until the signal is aborted. */
async function* model(prompt, signal) {
    const text = `You ask: ${prompt}\nThat is a good question. ${"It has many sides, and each of them deserves a word. ".repeat(12)}`;
    for (const token of text.match(/\s*\S+/g)) {
        await sleep(pace, undefined, { signal });
        yield token;
    }
}

/** Writes an answer into its channel, and ends the channel. */
async function write(channel, prompt, signal) {
    try {
        let number = 0;
        // With its key a token is there once, however often the connection to the server is cut.
        for await (const token of model(prompt, signal)) await feed.publish(channel, token, { key: `${channel}-${number++}` });
    } catch (error) {
        if (!signal.aborted) {
            console.error(`${channel}:`, error);
            await feed.publish(channel, { message: "the answer is not complete" }, { event: "failed", key: `${channel}-failed` });
        }
    }
    // Nothing follows on this channel, so ending it twice does no harm.
    await feed.end(channel, { retry: true });
}

/** Begins an answer. Returns its channel and the position before its first token. */
async function begin(prompt) {
    const channel = `answer:${crypto.randomUUID()}`;
    const after = await feed.publish(channel, prompt, { event: "prompt", key: channel });
    const stop = new AbortController();
    writing.set(channel, stop);
    write(channel, prompt, stop.signal)
        .catch((error) => console.error(`${channel}:`, error))
        .finally(() => writing.delete(channel));
    return { channel, after };
}

const server = http.createServer(async (request, response) => {
    let prompt = "";
    for await (const text of request.setEncoding("utf8")) prompt += text;
    if (request.method !== "POST" || request.url !== "/answers") return response.writeHead(404).end();
    try {
        const answer = JSON.stringify(await begin(prompt));
        response.writeHead(201, { "Content-Type": "application/json" }).end(`${answer}\n`);
    } catch (error) {
        console.error(error);
        response.writeHead(503).end();
    }
});
// Clients may cancel as soon as they can ask.
const messages = await feed.listen(["messages"]);
server.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
for await (const { op, data } of messages) if (op === "message") writing.get(data?.cancel)?.abort();
