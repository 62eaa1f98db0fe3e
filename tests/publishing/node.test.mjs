// The Node client of the feed (clients/node) against the real server.
import assert from "node:assert/strict";
import childProcess from "node:child_process";
import fs from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Feed, FeedError } from "../../clients/node/ringcast-feed.mjs";
import { Server } from "../clients/lib/server.mjs";
import { eventually } from "../clients/lib/wait.mjs";
import { Stream, WebSocketClient } from "./lib/clients.mjs";
import { FeedCutter } from "./lib/cutter.mjs";

const CONFIG = `[namespace."*"]
    history_events = 20000
    history_bytes = "64MiB"
    presence = true`;
const EVENTS = 10_000;

/** Runs a test with a server and a feed, which end with it. */
function withServer(name, config, run, options = {}) {
    test(name, async (t) => {
        const server = await Server.start(config);
        const closing = [() => server.close()];
        t.after(async () => {
            for (const close of closing.reverse()) await close();
        });
        const keep = (value) => (closing.push(() => value.close()), value);
        await run({ server, keep, feed: keep(new Feed({ path: server.feedPath, ...options })) });
    });
}

/** All events of a channel, page by page. */
async function historyOf(feed, channel) {
    const all = [];
    for (let after; ; after = all.at(-1).id) {
        const { events } = await feed.history(channel, { limit: 1000, ...(after && { after }) });
        if (events.length === 0) return all;
        all.push(...events);
    }
}

/** Stops the server's process, and returns once all of its threads stand still. */
async function freeze({ child }) {
    child.kill("SIGSTOP");
    const folder = `/proc/${child.pid}/task`;
    await eventually("all threads stand still", () =>
        fs.readdirSync(folder).every((thread) => /\) T /.test(fs.readFileSync(`${folder}/${thread}/stat`, "utf8"))));
}

const numbers = (events) => events.map(({ data }) => (typeof data === "string" ? JSON.parse(data) : data).n);
const upTo = (count) => Array.from({ length: count }, (_, n) => n);
const failure = (promise) => promise.then(() => assert.fail("this must fail"), (error) => error);

withServer("each event comes once and in order, however often the connection is cut", CONFIG, async ({ server, keep, feed }) => {
    const cutter = keep(await FeedCutter.start(server.feedPath));
    cutter.cutEach(100_000, 12);
    const stream = keep(await Stream.open(server.port, "c"));
    const cut = keep(new Feed({ path: cutter.path }));
    const ids = await Promise.all(upTo(EVENTS).map((n) => cut.publish("c", { n }, { key: `cut-${n}` })));
    assert.equal(cutter.cuts, 12);
    const events = await historyOf(feed, "c");
    assert.deepEqual(numbers(events), upTo(EVENTS));
    assert.deepEqual(events.map(({ id }) => id), ids);
    await eventually("the subscriber has all events", () => stream.events.length >= EVENTS);
    assert.deepEqual(stream.events.map(({ id }) => id), ids);
});

withServer("autoKey gives each publish and each item of a batch a key", CONFIG, async ({ server, keep, feed }) => {
    const cutter = keep(await FeedCutter.start(server.feedPath));
    cutter.cutEach(20_000, 5);
    const cut = keep(new Feed({ path: cutter.path, autoKey: true }));
    await Promise.all(upTo(1000).map((n) => (n % 2 ? cut.publish("c", { n }) : cut.batch([{ channel: "c", data: { n } }]))));
    assert.equal(cutter.cuts, 5);
    assert.deepEqual(numbers(await historyOf(feed, "c")), upTo(1000));
});

withServer("over kill -9 and restart each event is in the history of the server that has answered, once", CONFIG, async ({ server, keep, feed }) => {
    const stream = keep(await Stream.open(server.port, "c"));
    let [answered, ending] = [0, undefined];
    const publish = async (n) => {
        const id = await feed.publish("c", { n }, { key: `kill-${n}` });
        // The server is killed while half of the events are on their way, before the other half is published.
        if (++answered === EVENTS / 10) ending = server.end("SIGKILL");
        return id;
    };
    const half = upTo(EVENTS / 2).map(publish);
    await eventually("the server is killed", () => ending !== undefined);
    const other = upTo(EVENTS / 2).map((n) => publish(EVENTS / 2 + n));
    await ending;
    await server.run();
    const ids = await Promise.all([...half, ...other]);
    assert.equal(new Set(ids).size, EVENTS);
    const events = await historyOf(feed, "c");
    // Answers of the first server are those of ids that the second does not have.
    const later = new Set(events.map(({ id }) => id));
    const expected = upTo(EVENTS).filter((n) => later.has(ids[n]));
    assert.ok(expected.length > 0 && expected.length < EVENTS);
    assert.deepEqual(numbers(events), expected);
    await eventually("the subscriber has the events after the restart", () => stream.events.at(-1)?.id === ids.at(-1));
    const told = stream.events.filter(({ id }) => later.has(id));
    assert.deepEqual(numbers(told), expected);
    // An event that was carried out, but not answered, before the end of the first server is published again by the second.
    const before = stream.events.filter(({ id }) => !later.has(id));
    const answeredBefore = upTo(EVENTS).filter((n) => !later.has(ids[n]));
    assert.equal(new Set(numbers(before)).size, before.length);
    const twice = numbers(before).filter((n) => later.has(ids[n]));
    assert.ok(twice.every((n) => !answeredBefore.includes(n)));
});

withServer("without a key a publish fails at a cut, and says that its outcome is unknown", CONFIG, async ({ server, keep, feed }) => {
    const cutter = keep(await FeedCutter.start(server.feedPath));
    const cut = keep(new Feed({ path: cutter.path }));
    await cut.publish("other", 1);
    cutter.cutEach(500_000, 1);
    const text = "x".repeat(1000);
    const results = await Promise.allSettled(upTo(3000).map((n) => cut.publish("c", { n, text })));
    const failed = results.filter(({ status }) => status === "rejected");
    assert.ok(failed.length > 0 && failed.length < 3000, `${failed.length} have failed`);
    for (const { reason } of failed) {
        assert.ok(reason instanceof FeedError);
        assert.equal(reason.code, "outcome_unknown");
        assert.match(reason.message, /cut before the answer.*is unknown.*key/);
    }
    // The others are there once, those included that had not been sent before the cut.
    const seen = numbers(await historyOf(feed, "c"));
    assert.equal(new Set(seen).size, seen.length);
    results.forEach(({ status }, n) => assert.ok(status === "rejected" || seen.includes(n), `${n}`));
    assert.equal(results.at(-1).status, "fulfilled");
});

withServer("commands wait for a server that is away, and fail when their time is up", CONFIG, async ({ server, keep }) => {
    const feed = keep(new Feed({ path: server.feedPath, timeout: 8000 }));
    const hasty = keep(new Feed({ path: server.feedPath, timeout: 200 }));
    await feed.publish("c", { n: 0 });
    await server.end("SIGKILL");
    // The first of these may have been written before the end of the connection was noticed, so it has a key.
    const other = keep(new Feed({ path: server.feedPath, timeout: 8000 }));
    const waiting = [feed.publish("c", { n: 1 }, { key: "k" }), other.publish("d", { n: 2 })];
    const error = await failure(hasty.publish("c", { n: 2 }));
    assert.equal(error.code, "not_sent");
    assert.match(error.message, /not sent within 200 ms: .*feed.sock: no server listens there; is it running\?/);
    await server.run();
    await Promise.all(waiting);
    assert.deepEqual([numbers(await historyOf(feed, "c")), numbers(await historyOf(feed, "d"))], [[1], [2]]);
    const nowhere = keep(new Feed({ path: "/nowhere/feed.sock", timeout: 100 }));
    assert.match((await failure(nowhere.publish("c", 1))).message, /there is no such socket/);
    assert.equal((await failure(nowhere.listen())).code, "not_sent");
});

withServer("the server's errors are passed on, and the connection goes on", CONFIG, async ({ feed }) => {
    const bad = await failure(feed.publish("a b", 1));
    assert.deepEqual([bad.name, bad.code], ["FeedError", "bad_channel"]);
    assert.match(bad.message, /a channel name holds a byte that is not allowed.*"a b"/);
    const [long, next] = [feed.publish("c", "x".repeat(2 << 20)), feed.publish("c", 2)];
    assert.equal((await failure(long)).code, "too_long");
    await next;
    assert.equal((await failure(feed.publish("c", undefined))).code, "bad_field");
    assert.equal((await failure(feed.call({ op: "fly" }))).code, "unknown_op");
    await assert.rejects(feed.publish("c", 1n), TypeError);
    const first = await feed.publish(["c", "d"], 1, { key: "k" });
    assert.equal((await failure(feed.publish("c", 1, { key: "k" }))).code, "bad_field");
    assert.deepEqual(await feed.publish(["c", "d"], 1, { key: "k" }), first);
    assert.equal(first.length, 2);
});

withServer("a batch is all or nothing, and data comes as it was", CONFIG, async ({ feed }) => {
    const error = await failure(feed.batch([{ channel: "c", data: 1 }, { channel: "$c", data: 2 }]));
    assert.match(error.message, /^items\[1\]: /);
    assert.deepEqual((await feed.history("c")).events, []);
    const ids = await feed.batch([
        { channel: "c", data: { a: ["ü", 1.5, null] }, event: "e" },
        { channel: "c", data: "line\nline", key: "k" },
        { channel: "c", data: new Uint8Array([0, 255]) },
    ]);
    assert.deepEqual((await feed.history("c")).events, [
        { id: ids[0], channel: "c", event: "e", data: { a: ["ü", 1.5, null] } },
        { id: ids[1], channel: "c", data: "line\nline" },
        { id: ids[2], channel: "c", data_b64: "AP8=" },
    ]);
    assert.equal((await feed.history("c", { after: ids[0], limit: 1 })).events[0].id, ids[1]);
    assert.ok((await feed.stats()).shards.length === 1);
});

withServer("clients' messages, connects and disconnects are heard, and clients are answered", CONFIG, async ({ server, keep, feed }) => {
    const told = await feed.listen();
    const next = async () => (await told.next()).value;
    const client = keep(await WebSocketClient.open(server.port, "channel=c"));
    const connect = await next();
    assert.deepEqual([connect.op, connect.transport], ["connect", "ws"]);
    client.send({ send: { hi: "ü" }, ref: 1 });
    assert.deepEqual(await next(), { op: "message", conn: connect.conn, data: { hi: "ü" } });
    await feed.send({ conn: connect.conn }, { back: 1 });
    await eventually("the client has the answer", () => client.messages.some(({ data }) => data?.back === 1));
    assert.equal((await feed.presence("c")).connections, 1);
    assert.equal(await feed.kick({ channel: "c", reason: "test" }), 1);
    assert.deepEqual(await next(), { op: "disconnect", conn: connect.conn, reason: "kicked" });
    assert.equal(await feed.unsubscribe({ user: "u", channel: "c" }), 0);
    // After a restart the listener goes on, and says that there may be a hole.
    await server.end("SIGKILL");
    await server.run();
    assert.deepEqual(await next(), { op: "lost" });
    keep(await WebSocketClient.open(server.port, "channel=c"));
    assert.equal((await next()).op, "connect");
    // A loop that is left ends its connection.
    const loop = await feed.listen(["messages"]);
    const again = keep(await WebSocketClient.open(server.port, "channel=c"));
    again.send({ send: 1 });
    for await (const { data } of loop) {
        assert.equal(data, 1);
        break;
    }
    assert.deepEqual(await loop.next(), { value: undefined, done: true });
    const ending = told.next();
    feed.close();
    for (let line = await ending; !line.done; line = await told.next()) assert.ok(line.value.op);
});

withServer("what a listener does not take holds up clients, and nothing is lost", CONFIG, async ({ server, keep, feed }) => {
    const told = await feed.listen(["messages"]);
    const client = keep(await WebSocketClient.open(server.port, "channel=c"));
    const text = "x".repeat(10_000);
    const count = 900;
    const acks = () => client.messages.filter(({ ref }) => ref !== undefined).length;
    // The rate of messages is limited to 1,000 a second.
    for (const n of upTo(count)) client.send({ send: { n, text }, ref: n });
    let [before, since] = [0, Date.now()];
    await eventually("the server takes no more messages", () => {
        if (acks() > before) [before, since] = [acks(), Date.now()];
        return before > 0 && Date.now() - since > 500;
    });
    assert.ok(before < count, "nine megabytes were taken although nobody reads them");
    for (const n of upTo(count)) assert.equal((await told.next()).value.data.n, n);
    await eventually("all messages are answered", () => acks() === count);
});

const ASKING = `[auth]
    ask_backend = true
    [namespace."*"]
    presence = true`;
withServer("the backend decides about clients without a token", ASKING, async ({ server, keep, feed }) => {
    const errors = [];
    const decide = async ({ channels, cookie }) => {
        if (cookie === "broken") throw new Error("no database");
        if (channels[0] === "some") return ["some"];
        return channels[0] === "open" && { allow: true, user: "ann" };
    };
    const listener = keep(await feed.authorize(decide, { onError: (error) => errors.push(error.message) }));
    const stream = keep(await Stream.open(server.port, "open"));
    await feed.publish("open", { n: 1 });
    await eventually("the event is there", () => stream.events.length === 1);
    assert.deepEqual((await feed.presence("open")).users, [{ user: "ann", connections: 1 }]);
    keep(await Stream.open(server.port, "some"));
    await assert.rejects(Stream.open(server.port, "secret"), /403|401/);
    assert.deepEqual(errors, []);
    await assert.rejects(Stream.open(server.port, "open", { Cookie: "broken" }), /403|401/);
    assert.deepEqual(errors, ["no database"]);
    // Slow decisions do not wait for one another.
    listener.close();
    let [running, most] = [0, 0];
    const slow = async () => {
        most = Math.max(most, ++running);
        await eventually("five decisions are under way", () => most >= 5);
        running--;
        return true;
    };
    keep(await feed.authorize(slow, { concurrency: 5 }));
    await Promise.all(upTo(5).map(async (n) => keep(await Stream.open(server.port, `open-${n}`))));
    assert.equal(most, 5);
});

withServer("what is pending is bounded, and room() waits for the server", CONFIG, async ({ server, keep }) => {
    const feed = keep(new Feed({ path: server.feedPath, maxPending: 500, timeout: 15_000 }));
    await feed.publish("c", { n: 0 });
    await freeze(server);
    const pending = upTo(1000).map((n) => feed.publish("c", { n: n + 1 }));
    assert.equal((await failure(feed.publish("c", { n: -1 }))).code, "busy");
    let hasRoom = false;
    const room = feed.room().then(() => (hasRoom = true));
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(!hasRoom);
    server.child.kill("SIGCONT");
    await Promise.all([...pending, room]);
    // Many that wait for room at once do not take it from one another.
    let n = 1001;
    const produce = async () => {
        const sent = [];
        while (n < 5000) {
            await feed.room();
            sent.push(feed.publish("c", { n: n++ }));
        }
        await Promise.all(sent);
    };
    await Promise.all(upTo(50).map(produce));
    assert.deepEqual(numbers(await historyOf(feed, "c")), upTo(n));
    const few = keep(new Feed({ path: server.feedPath, maxPendingBytes: 1000 }));
    const first = few.publish("c", "x".repeat(3000));
    assert.equal((await failure(few.publish("c", 1))).code, "busy");
    await first;
});

withServer("an answer that does not come in time leaves the outcome unknown", CONFIG, async ({ server, keep }) => {
    const feed = keep(new Feed({ path: server.feedPath, timeout: 300 }));
    await feed.publish("c", { n: 0 });
    await freeze(server);
    const error = await failure(feed.publish("c", { n: 1 }, { key: "late" }));
    assert.equal(error.code, "outcome_unknown");
    assert.match(error.message, /no answer came within 300 ms.*same key/);
    // It is still the server's, so it counts among the pending ones.
    const few = keep(new Feed({ path: server.feedPath, maxPending: 1, timeout: 300 }));
    server.child.kill("SIGCONT");
    await few.publish("d", 1);
    await freeze(server);
    for (const promise of [few.publish("d", 2), few.publish("d", 3)].map(failure)) assert.equal((await promise).code, "outcome_unknown");
    assert.equal((await failure(few.publish("d", 4))).code, "busy");
    server.child.kill("SIGCONT");
    await few.room();
    await eventually("the server answers again", () => feed.publish("c", { n: 1 }, { key: "late" }).catch(() => false));
    assert.deepEqual(numbers(await historyOf(feed, "c")), [0, 1]);
});

withServer("a command that was sent and cannot be sent again has an unknown outcome", CONFIG, async ({ server, keep }) => {
    const feed = keep(new Feed({ path: server.feedPath, timeout: 1000 }));
    await feed.publish("c", 1);
    await freeze(server);
    const sent = failure(feed.publish("c", 2, { key: "k" }));
    await new Promise((resolve) => setImmediate(resolve));
    await server.end("SIGKILL");
    assert.equal((await sent).code, "outcome_unknown");
    assert.equal((await failure(feed.publish("c", 3, { key: "l" }))).code, "not_sent");
});

withServer("closing is final", CONFIG, async ({ server }) => {
    const feed = new Feed({ path: server.feedPath });
    await feed.publish("c", { n: 0 });
    const listener = await feed.listen();
    await freeze(server);
    const sent = failure(feed.publish("c", { n: 1 }, { key: "k" }));
    await new Promise((resolve) => setImmediate(resolve));
    const unsent = failure(feed.publish("c", { n: 2 }));
    feed.close();
    server.child.kill("SIGCONT");
    assert.equal((await sent).code, "outcome_unknown");
    assert.equal((await unsent).code, "closed");
    assert.equal((await failure(feed.publish("c", 3))).code, "closed");
    assert.equal((await failure(feed.listen())).code, "closed");
    assert.deepEqual(await listener.next(), { value: undefined, done: true });
});

withServer("a program ends by itself once its commands are answered", CONFIG, async ({ server, feed }) => {
    const client = fileURLToPath(new URL("../../clients/node/ringcast-feed.mjs", import.meta.url));
    const program = `import { Feed } from ${JSON.stringify(client)}; new Feed().publish("c", { n: 0 });`;
    const env = { ...process.env, RINGCAST_FEED: server.feedPath };
    const { status, stderr } = await new Promise((resolve) => {
        const child = childProcess.execFile(process.execPath, ["--input-type=module", "-e", program], { env, timeout: 15_000 },
            (_, __, stderr) => resolve({ status: child.exitCode, stderr }));
    });
    assert.deepEqual([status, stderr], [0, ""]);
    assert.deepEqual(numbers(await historyOf(feed, "c")), [0]);
});

test("a connection that the server refuses says why", async (t) => {
    const refusing = await Server.start(`[feed]\nmax_connections = 3`);
    const feeds = [1, 2].map(() => new Feed({ path: refusing.feedPath }));
    t.after(async () => {
        for (const feed of feeds) feed.close();
        await refusing.close();
    });
    for (const feed of feeds) await feed.publish("c", 1);
    const hasty = new Feed({ path: refusing.feedPath, timeout: 300 });
    const error = await failure(hasty.publish("c", 1));
    hasty.close();
    assert.equal(error.code, "full");
    assert.match(error.message, /max_connections/);
    // A command that was written to a refused connection was not carried out: it is sent again when there is room.
    const patient = new Feed({ path: refusing.feedPath });
    feeds.push(patient);
    const waiting = patient.publish("c", 2);
    await new Promise((resolve) => setTimeout(resolve, 100));
    feeds[0].close();
    await waiting;
    assert.deepEqual((await patient.history("c")).events.map(({ data }) => data), [1, 1, 2]);
});

test("a user who may not use the feed is told so at once", { skip: process.getuid() !== 0 && "needs root" }, async (t) => {
    const started = Date.now();
    const server = await Server.start(`[feed]\nreaders = ["root"]`);
    t.after(() => server.close());
    const feed = new Feed({ path: server.feedPath });
    t.after(() => feed.close());
    assert.equal((await failure(feed.publish("c", 1))).code, "forbidden");
    assert.equal((await failure(feed.listen(["messages"]))).code, "forbidden");
    assert.deepEqual((await feed.history("c")).events, []);
    assert.ok(Date.now() - started < 10_000);
});
