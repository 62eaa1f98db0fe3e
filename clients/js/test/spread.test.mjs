// 10,000 clients that had long been connected, through a drain, a crash of the server, and a time of refusals. The library is the real one;
// sockets and time are the test's own.
import assert from "node:assert/strict";
import test from "node:test";
import { connect } from "../dist/ringcast.js";

const CLIENTS = 10_000;

/** A server that is up, away or full. */
class World {
    state = "up";
    sockets = new Set();
    attempts = [];

    socket() {
        const world = this;
        return class {
            readyState = 0;
            constructor() {
                world.attempts.push(Date.now());
                setTimeout(() => {
                    if (world.state === "away") return this.onclose?.({ code: 1006, reason: "" });
                    this.readyState = 1;
                    world.sockets.add(this);
                    this.onopen?.();
                    if (world.state === "full") {
                        // The server names 1 to 5 seconds.
                        return this.tell({ bye: { code: "full", reason: "no room", retry_ms: 1000 * Math.ceil(Math.random() * 5) } });
                    }
                    this.tell({ hello: { id: "1-0", conn: "c", beat_ms: 20_000 } });
                    return undefined;
                }, 5);
            }
            tell(message) {
                this.onmessage?.({ data: JSON.stringify(message) });
            }
            send(text) {
                const { subscribe, ref } = JSON.parse(text);
                if (subscribe) this.tell({ ref, ok: true, id: "1-0" });
            }
            close() {
                this.readyState = 3;
                world.sockets.delete(this);
            }
        };
    }

    /** The most attempts within a second since a time. */
    peak(since) {
        const counts = new Map();
        for (const at of this.attempts) if (at >= since) counts.set(Math.floor((at - since) / 1000), (counts.get(Math.floor((at - since) / 1000)) ?? 0) + 1);
        return Math.max(...counts.values());
    }
}

/** Lets time pass while the server's heartbeats come. */
async function pass(t, world, seconds) {
    for (let second = 0; second < seconds; second++) {
        t.mock.timers.tick(1000);
        if (second % 15 === 0) for (const socket of world.sockets) socket.tell({ beat: {} });
        // What waits for a promise goes on.
        await new Promise(setImmediate);
    }
}

test("no second has more than a tenth of all clients", { timeout: 120_000 }, async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_700_000_000_000 });
    const world = new World();
    const clients = Array.from({ length: CLIENTS }, () => connect("http://push.test", { WebSocket: world.socket(), transports: ["ws"] }));
    for (const client of clients) client.subscribe("a", () => {});
    await new Promise(setImmediate);
    await pass(t, world, 120);
    assert.equal(world.sockets.size, CLIENTS);

    const step = async (name, seconds, run) => {
        const since = Date.now();
        await run();
        await pass(t, world, seconds);
        assert.equal(world.sockets.size, CLIENTS, `${name}: all clients are back`);
        const peak = world.peak(since);
        t.diagnostic(`${name}: at most ${peak} of ${CLIENTS} in a second`);
        assert.ok(peak <= CLIENTS / 10, `${name}: ${peak} of ${CLIENTS} clients came within a second`);
    };
    await step("a drain", 100, async () => {
        // The server lets clients go over 15 seconds, each with a time of its own: half of 3 seconds to three times as much.
        const all = [...world.sockets];
        for (let second = 0; second < 15; second++) {
            const some = all.slice((second * CLIENTS) / 15, ((second + 1) * CLIENTS) / 15);
            for (const socket of some) socket.tell({ bye: { code: "draining", reason: "going away", retry_ms: 1500 + Math.random() * 7500 } });
            await pass(t, world, 1);
        }
    });
    /** Cuts all clients off without a word. */
    const crash = () => {
        world.state = "away";
        for (const socket of [...world.sockets]) {
            world.sockets.delete(socket);
            socket.onclose?.({ code: 1006, reason: "" });
        }
    };
    await step("a crash", 150, async () => {
        crash();
        await pass(t, world, 5);
        world.state = "up";
    });
    await step("a crash, and refusals after it", 250, async () => {
        crash();
        await pass(t, world, 10);
        world.state = "full";
        await pass(t, world, 40);
        world.state = "up";
    });
    for (const client of clients) client.close();
});
