import assert from "node:assert/strict";
import test from "node:test";
import { BROWSERS, launch } from "../../../tests/clients/lib/browsers.mjs";
import { runModel } from "./model.mjs";
import { SEED } from "./lib/random.mjs";

/** Drives a client in a page. */
function driver(page) {
    return {
        async start(proxy, options) {
            await page.goto(`${proxy.url}/test/pages/blank.html`);
            await page.waitForFunction(() => window.isReady);
            await page.evaluate((url, options) => void (window.recorder = ringcast.record(ringcast.connect, url, options)), proxy.url, options);
        },
        subscribe: (channel, after) => page.evaluate((channel, after) => recorder.subscribe(channel, after), channel, after),
        prefer: (name) => page.evaluate((name) => recorder.prefer(name), name),
        last: () => page.evaluate(() => recorder.last()),
        look: () => page.evaluate(() => recorder.look()),
        stop: () => page.close(),
    };
}

for (const name of BROWSERS) {
    test(`${name}: each event once and in order, or one gap (RINGCAST_SEED=${SEED})`, { timeout: 180_000 }, async (t) => {
        const browser = await launch(name);
        t.after(() => browser.close());
        const transports = ["ws", "sse", "poll"];
        const did = await runModel({ driver: driver(await browser.newPage()), seed: SEED, count: 10_000, transports });
        assert.ok(did.cuts > 10 && did.kills && did.overflows && did.late && did.gaps, JSON.stringify(did));
        for (const name of transports) assert.ok(did.states.includes(name), `${name} was used`);
        t.diagnostic(JSON.stringify({ ...did, states: did.states.length }));
    });
}
