import assert from "node:assert/strict";
import test from "node:test";
import WebSocket from "ws";
import { connect } from "../dist/ringcast.js";
import { runModel } from "./model.mjs";
import { SEED } from "./lib/random.mjs";
import { record } from "./lib/recorder.mjs";

/** Drives a client in this process. */
function driver() {
    let recorder;
    return {
        start: (proxy, options) => void (recorder = record(connect, proxy.url, { ...options, WebSocket })),
        subscribe: (channel, after) => recorder.subscribe(channel, after),
        prefer: (name) => recorder.prefer(name),
        last: () => recorder.last(),
        look: () => recorder.look(),
        stop: () => recorder?.client.close(),
    };
}

for (const transports of [["ws"], ["sse"], ["poll"], ["ws", "sse", "poll"]]) {
    test(`Node, over ${transports}: each event once and in order, or one gap (RINGCAST_SEED=${SEED})`, { timeout: 120_000 }, async (t) => {
        const did = await runModel({ driver: driver(), seed: SEED, count: transports.length > 1 ? 10_000 : 3000, transports });
        assert.ok(did.cuts > 5, "connections were cut");
        if (transports.length > 1) {
            for (const name of transports) assert.ok(did.states.includes(name), `${name} was used`);
            assert.ok(did.kills && did.overflows && did.late && did.gaps, JSON.stringify(did));
        }
        t.diagnostic(JSON.stringify({ ...did, states: did.states.length }));
    });
}
