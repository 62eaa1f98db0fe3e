// Many clients that had long been connected, against the real server: a drain, a crash, and a time of refusals. No second may have
// more than a tenth of them. RINGCAST_CLIENTS=10000 is the long form.
import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import { Server } from "../../../tests/clients/lib/server.mjs";
import { eventually } from "../../../tests/clients/lib/wait.mjs";
import { connect } from "../dist/ringcast.js";

const COUNT = Number(process.env.RINGCAST_CLIENTS ?? 1000);
/** What all clients may need to come back. */
const PATIENCE = 120_000;
const CONFIG = `[server]
    drain_timeout = "20s"
    [limits]
    joins = 0
    new_names = 0`;

/** A server, and clients that have long been connected to it, whose tries are noted. */
class World {
    clients = [];
    /** The times at which clients asked for a connection. */
    attempts = [];
    /** The newest event of each client. */
    told = new Map();

    async open() {
        this.server = await Server.start(CONFIG);
        const { attempts, clients, told } = this;
        const url = `http://127.0.0.1:${this.server.port}`;
        /** Has one of several addresses, whose ports do not run out. Every other one is told why it is refused, as browsers are. */
        class Socket extends WebSocket {
            constructor(address) {
                super(address, { localAddress: `127.0.0.${2 + (attempts.length % 8)}`, perMessageDeflate: false, ...(attempts.length % 2 && { origin: url }) });
                attempts.push(performance.now());
            }
        }
        for (let i = 0; i < COUNT; i++) {
            // The longest heartbeat, so that the clock may be put forward.
            const client = connect(url, { WebSocket: Socket, transports: ["ws"], beat: 120 });
            client.on("gap", () => {});
            client.subscribe("spread", ({ data }) => told.set(client, [...(told.get(client) ?? []), data]));
            clients.push(client);
            if (i % 50 === 0) await sleep(5);
        }
        await this.isBack();
        attempts.length = 0;
    }

    isBack() {
        const isOpen = () => this.clients.filter(({ state }) => state.name === "open").length;
        return eventually(() => `all clients are connected: ${isOpen()}`, () => isOpen() === COUNT, PATIENCE);
    }

    /** The most attempts within any second. */
    peak() {
        let most = 0;
        for (let first = 0, last = 0; last < this.attempts.length; last++) {
            while (this.attempts[last] - this.attempts[first] >= 1000) first++;
            most = Math.max(most, last - first + 1);
        }
        return most;
    }

    async close() {
        for (const client of this.clients) client.close();
        await this.server?.close();
    }
}

const STEPS = {
    "a drain and a restart": async (server) => {
        await server.end("SIGTERM");
        await server.run();
    },
    "a kill -9 and a restart after 5 s": async (server) => {
        await server.end("SIGKILL");
        await sleep(5000);
        await server.run();
    },
    "a kill -9 and refusals for 15 s": async (server) => {
        await server.end("SIGKILL");
        await server.run();
        await server.drain(true);
        await sleep(15_000);
        await server.drain(false);
    },
};

/** Does it to the server, and looks at how the clients come back. */
async function check(t, name, world) {
    const { server, clients, told, attempts } = world;
    await STEPS[name](server);
    await world.isBack();
    t.diagnostic(`${name}: at most ${world.peak()} of ${COUNT} in a second, ${attempts.length} attempts in ${Math.round((attempts.at(-1) - attempts[0]) / 1000)} s`);
    // Of few clients chance makes a second that has more.
    assert.ok(world.peak() <= COUNT / 10 + (COUNT < 10_000 ? 2 * Math.sqrt(COUNT / 10) : 0), `${name}: ${world.peak()} of ${COUNT} clients came within a second`);
    // They are back with their subscriptions.
    await server.awaitSubscribers("spread", COUNT);
    await server.publish("spread", name);
    await eventually(`${name}: all have the event`, () => clients.every((client) => told.has(client)), PATIENCE);
    for (const client of clients) assert.deepEqual(told.get(client), [name]);
}

test(`no second has more than a tenth of ${COUNT} clients`, { timeout: 900_000 }, async (t) => {
    const { now } = Date;
    const worlds = [];
    t.after(async () => {
        Date.now = now;
        for (const world of worlds) await world.close();
    });
    const names = Object.keys(STEPS);
    // As many as the process has descriptors for are looked at together.
    for (const group of COUNT < 5000 ? [names] : names.map((name) => [name])) {
        const present = group.map(() => new World());
        worlds.push(...present);
        for (const world of present) await world.open();
        // All of them have been connected for over a minute.
        Date.now = ((before) => () => before() + 61_000)(Date.now);
        await Promise.all(group.map((name, i) => check(t, name, present[i])));
        for (const world of present) await world.close();
    }
});
