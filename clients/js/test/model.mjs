// The model test: events are published while connections are cut, transports change, the server is killed, and history overflows.
// Each subscription is told each event once and in order, or of the gap that it lies in.
import assert from "node:assert/strict";
import { eventually } from "../../../tests/clients/lib/wait.mjs";
import { Server } from "../../../tests/clients/lib/server.mjs";
import { Proxy } from "./lib/proxy.mjs";
import { seeded } from "./lib/random.mjs";

const CHANNELS = ["m:a", "m:b", "m:c"];
const HISTORY = 400;
const CONFIG = `[namespace."*"]
    history_events = ${HISTORY}
    history_bytes = "4MiB"
    [limits]
    # Missed events come from the history alone, so that it overflows.
    retained = 0
    request_rate = 0
    new_names = 0`;

const isAfter = (id, other) => {
    const [a, b] = id.split("-").map(Number);
    const [c, d] = other.split("-").map(Number);
    return a > c || (a === c && b > d);
};

/**
 * Runs the model with a driver of the client: `start(url, options)`, and then what `lib/recorder.mjs` has. Returns what happened.
 */
export async function runModel({ driver, seed, count, transports }) {
    const random = seeded(seed);
    const server = await Server.start(CONFIG);
    const proxy = await Proxy.start(server.port);
    /** All events in order. */
    const published = [];
    const numbers = {};
    const publish = async (channel, size) => {
        const items = Array.from({ length: size }, () => {
            numbers[channel] = (numbers[channel] ?? 0) + 1;
            return { channel, data: { n: numbers[channel], text: "x".repeat(random(400)) } };
        });
        const { ids } = await server.feed.call({ op: "batch", items });
        items.forEach(({ data }, i) => published.push({ channel, n: data.n, id: ids[i] }));
    };
    const did = { cuts: 0, changes: 0, kills: 0, overflows: 0, late: 0 };
    /** Waits until every subscription has the newest event of its channel. */
    const settle = async () => {
        const newest = (channel) => published.findLast((one) => one.channel === channel)?.id;
        let seen;
        await eventually(
            () => `the client has the newest events ${CHANNELS.map(newest)}; it has ${JSON.stringify(seen)}, ${JSON.stringify(subscribed)}, ${JSON.stringify(did)}`,
            async () => {
                seen = await driver.last();
                return subscribed.every((one, i) => {
                    const wanted = newest(one.channel);
                    return !wanted || (seen[i] && !isAfter(wanted, seen[i])) || (one.after && !isAfter(wanted, one.after));
                });
            },
            40_000,
        );
    };
    const subscribed = [];
    const subscribe = async (channel, after) => {
        subscribed.push({ channel, after });
        await driver.subscribe(channel, after);
    };
    try {
        await driver.start(proxy, { transports, spread: 40, beat: 2 });
        const first = (await server.feed.call({ op: "publish", channel: "m:start", data: 0 })).id;
        for (const channel of CHANNELS) await subscribe(channel, first);
        while (published.length < count) {
            await publish(CHANNELS[random(3)], 1 + random(60));
            // Late in the run, what chance has left out is done.
            const isDue = published.length > 0.6 * count;
            const left = [[did.kills, 78], [did.overflows, 76], [did.late, 74]].find(([times]) => !times);
            const choice = isDue && left ? left[1] : random(100);
            if (choice < 55) {
                did.cuts++;
                proxy.cutAfter(1 + random(8000));
            } else if (choice < 62) {
                did.cuts++;
                proxy.cutAll(choice % 2);
            } else if (choice < 72 && transports.length > 1) {
                did.changes++;
                await driver.prefer(transports[random(transports.length)]);
                proxy.cutAll();
            } else if (choice < 75 && subscribed.length < 9 && published.length) {
                // Another subscription, from an older position than the others are at.
                did.late++;
                const from = published[Math.max(0, published.length - 1 - random(HISTORY / 2))];
                await subscribe(CHANNELS[random(3)], from.id);
            } else if (choice < 77 && did.overflows < 3) {
                did.overflows++;
                await settle();
                proxy.isAway = true;
                proxy.cutAll();
                await publish(CHANNELS[random(3)], HISTORY + 1 + random(200));
                proxy.isAway = false;
            } else if (choice < 79 && did.kills < 2 && published.length > count / 4) {
                did.kills++;
                // What the client has not taken yet is lost with the server.
                await server.end("SIGKILL");
                await server.run();
            }
            if (random(100) < 25) await settle();
        }
        proxy.cutAfter(undefined);
        await settle();
        did.cuts = proxy.cuts;
        const record = await driver.look();
        const gaps = check(record, published);
        return { ...did, gaps, states: record.states, events: published.length };
    } finally {
        await driver.stop();
        proxy.close();
        await server.close();
    }
}

/** Checks what was told, and returns the number of gaps. */
function check({ subscriptions }, published) {
    let gaps = 0;
    for (const { channel, after, told } of subscriptions) {
        const expected = published.filter((one) => one.channel === channel && isAfter(one.id, after));
        const numbers = new Map(expected.map(({ id, n }) => [id, n]));
        const holes = [];
        const seen = new Set();
        let last = after;
        for (const { id, n, gap } of told) {
            if (gap) {
                const before = holes.at(-1);
                assert.ok(isAfter(gap.resumed, gap.after), `a gap goes forward: ${JSON.stringify(gap)}`);
                assert.ok(!before || !isAfter(before.resumed, gap.after), `one loss is told once: ${JSON.stringify([before, gap])}`);
                holes.push(gap);
                continue;
            }
            assert.ok(isAfter(id, last), `${channel}: ${id} comes after ${last}`);
            assert.equal(n, numbers.get(id), `${channel}: ${id} is the event that was published`);
            last = id;
            seen.add(id);
        }
        for (const { id } of expected) {
            const isLost = holes.some((gap) => isAfter(id, gap.after) && !isAfter(id, gap.resumed));
            assert.ok(seen.has(id) || isLost, `${channel}: ${id} was told, or lies in a gap: ${JSON.stringify(holes)}`);
        }
        gaps += holes.length;
    }
    return gaps;
}
