import assert from "node:assert/strict";
import test from "node:test";
import { BROWSERS } from "../../../tests/clients/lib/browsers.mjs";
import { eventually } from "../../../tests/clients/lib/wait.mjs";
import { KEYS } from "../../../tests/clients/lib/tokens.mjs";
import { processOf } from "./lib/processes.mjs";
import { stage } from "./lib/stage.mjs";
import { tokenOf } from "./lib/tokens.mjs";

const PATIENCE = 5000;

/** Opens tabs that share a connection, and subscribes each to the channel. */
async function openTabs(t, name, { count, options = { share: true }, transport = "ws", preferences }) {
    const context = { ...(await stage(t, KEYS, name, preferences)), tabs: [] };
    const { proxy, browser } = context;
    context.open = async (own = options) => {
        const page = await browser.newPage();
        await page.goto(`${proxy.url}/test/pages/blank.html`);
        await page.waitForFunction(() => window.isReady);
        await page.evaluate(
            (url, options) => {
                window.recorder = ringcast.record(ringcast.connect, url, { beat: 2, ...options });
                recorder.subscribe("tabs:a", options.after);
            },
            proxy.url,
            { transports: [transport], ...own },
        );
        context.tabs.push(page);
        await eventually(async () => `a tab is open: ${JSON.stringify(await page.evaluate(() => [recorder.states, recorder.client.state]))}`, () => page.evaluate(() => recorder.client.state.name === "open"));
        return page;
    };
    for (let i = 0; i < count; i++) await context.open();
    return context;
}

const numbers = (page) => page.evaluate(() => recorder.subscriptions[0].told.map((told) => told.n ?? told));
const role = (page) => page.evaluate(() => recorder.client.state.shared);

/** Waits until a tab was told these numbers, each once. */
async function awaitNumbers(page, wanted, patience) {
    let seen;
    await eventually(async () => `the tab is told ${wanted.length} events; it has ${JSON.stringify(seen)}, ${JSON.stringify(await page.evaluate(() => [recorder.states, recorder.client.state, document.hidden]))}`, async () => (seen = await numbers(page)).length >= wanted.length, patience);
    assert.deepEqual(seen, wanted);
}

const upTo = (count) => Array.from({ length: count }, (_, i) => i + 1);

for (const name of BROWSERS) {
    test(`${name}: five tabs are one connection, and the next tab goes on when the holder is closed`, { timeout: 120_000 }, async (t) => {
        const { server, proxy, tabs } = await openTabs(t, name, { count: 5 });
        await server.awaitSubscribers("tabs:a", 1);
        let n = 0;
        const publish = async (count) => {
            for (let i = 0; i < count; i++) await server.publish("tabs:a", { n: ++n });
        };
        await publish(20);
        for (const tab of tabs) await awaitNumbers(tab, upTo(n));
        assert.equal(proxy.connections, 1);
        for (let round = 0; round < 2; round++) {
            const roles = await Promise.all(tabs.map(role));
            const place = roles.indexOf("holder");
            assert.equal(roles.filter((role) => role === "holder").length, 1, `${roles}`);
            const [closed] = tabs.splice(place, 1);
            await publish(5);
            await closed.close();
            await publish(5);
            const began = Date.now();
            for (const tab of tabs) await awaitNumbers(tab, upTo(n), PATIENCE);
            assert.ok(Date.now() - began < PATIENCE);
        }
        await server.awaitSubscribers("tabs:a", 1);
    });

    test(`${name}: a tab that comes later reads from its own position, and a message goes over the holder`, { timeout: 120_000 }, async (t) => {
        const { server, tabs: all, open } = await openTabs(t, name, { count: 2 });
        const tabs = [...all];
        const first = await server.publish("tabs:a", { n: 1 });
        await server.publish("tabs:a", { n: 2 });
        for (const tab of tabs) await awaitNumbers(tab, [1, 2]);
        const late = await open({ share: true, after: first });
        await awaitNumbers(late, [2]);
        await server.publish("tabs:a", { n: 3 });
        await awaitNumbers(late, [2, 3]);
        for (const tab of tabs) await awaitNumbers(tab, [1, 2, 3]);
        assert.equal(await role(late), "follower");
        const refused = await late.evaluate(() => recorder.client.send("hello").catch((error) => error.code));
        assert.equal(refused, "no_backend");
        await late.evaluate(() => recorder.client.close());
        await server.publish("tabs:a", { n: 4 });
        for (const tab of tabs) await awaitNumbers(tab, [1, 2, 3, 4]);
        await awaitNumbers(late, [2, 3]);
    });

    test(`${name}: a tab that is behind when the holder is closed reads the rest over the next one`, { timeout: 120_000 }, async (t) => {
        const { server, tabs, open } = await openTabs(t, name, { count: 2 });
        const first = await server.publish("tabs:a", { n: 1 });
        const items = Array.from({ length: 500 }, (_, i) => ({ channel: "tabs:a", data: { n: i + 2, text: "x".repeat(1000) } }));
        for (const item of items) await server.publish(item.channel, item.data);
        for (const tab of tabs) await awaitNumbers(tab, upTo(501));
        const behind = await open({ share: true, after: first });
        await tabs[0].close();
        await server.publish("tabs:a", { n: 502 });
        await awaitNumbers(tabs[1], upTo(502));
        await awaitNumbers(behind, upTo(502).slice(1));
    });

    test(`${name}: tabs of different users do not share`, { timeout: 120_000 }, async (t) => {
        const { server, open } = await openTabs(t, name, { count: 0 });
        const tabs = [];
        for (const user of ["u1", "u2", "u1"]) tabs.push(await open({ share: true, token: tokenOf({ sub: user, channels: "*" }, 600) }));
        await server.awaitSubscribers("tabs:a", 2);
        await server.feed.call({ op: "send", user: "u1", data: "for u1" });
        const { connections } = await server.feed.call({ op: "connections", channel: "tabs:a" });
        assert.deepEqual(connections.map(({ user }) => user).sort(), ["u1", "u2"]);
        assert.deepEqual(await Promise.all(tabs.map(role)), ["holder", "holder", "follower"]);
    });
}

test("firefox: the next tab goes on when the holder is frozen, killed, crashed, or its page is left", { timeout: 180_000 }, async (t) => {
    // Each tab has a process of its own.
    const preferences = { "dom.ipc.processCount.webIsolated": 8, "dom.ipc.processPrelaunch.enabled": false };
    const { server, proxy, browser, tabs } = await openTabs(t, "firefox", { count: 5, preferences });
    let n = 0;
    const publish = async (count) => {
        for (let i = 0; i < count; i++) await server.publish("tabs:a", { n: ++n });
    };
    /** Takes the holder away from a tab that is shown, and sees the others go on. Returns the former holder. */
    const takeHolder = async (away) => {
        const place = (await Promise.all(tabs.map(role))).indexOf("holder");
        const [holder] = tabs.splice(place, 1);
        const pid = await processOf(holder, browser);
        await tabs.at(-1).bringToFront();
        await publish(3);
        const began = Date.now();
        await away(holder, pid);
        await publish(5);
        for (const tab of tabs) await awaitNumbers(tab, upTo(n), PATIENCE);
        assert.ok(Date.now() - began < PATIENCE, `${Date.now() - began} ms`);
        return { holder, pid };
    };
    for (const tab of tabs) await awaitNumbers(tab, []);
    const { holder: frozen, pid } = await takeHolder((_, pid) => process.kill(pid, "SIGSTOP"));
    // The tab that thaws goes on as one of the others, without a loss.
    process.kill(pid, "SIGCONT");
    await publish(3);
    await awaitNumbers(frozen, upTo(n));
    assert.equal(await role(frozen), "follower");
    tabs.unshift(frozen);
    await takeHolder((_, pid) => process.kill(pid, "SIGKILL"));
    await takeHolder((_, pid) => process.kill(pid, "SIGSEGV"));
    proxy.pages.set("/other.html", "<title>another page</title>");
    const { holder: left } = await takeHolder((holder) => holder.goto(`${proxy.url}/other.html`));
    await left.close();
    for (const tab of tabs) await awaitNumbers(tab, upTo(n));
});

test("chromium: the next tab goes on when the holder is frozen, and when it crashes", { timeout: 120_000 }, async (t) => {
    const { server, tabs } = await openTabs(t, "chromium", { count: 4 });
    let n = 0;
    const publish = async (count) => {
        for (let i = 0; i < count; i++) await server.publish("tabs:a", { n: ++n });
    };
    await publish(3);
    const [frozen, , third, fourth] = tabs;
    for (const tab of tabs) await awaitNumbers(tab, upTo(n));
    await fourth.bringToFront();
    const session = await frozen.createCDPSession();
    await session.send("Page.setWebLifecycleState", { state: "frozen" });
    await publish(20);
    await awaitNumbers(fourth, upTo(n), PATIENCE);
    await awaitNumbers(third, upTo(n), PATIENCE);
    // The tab that thaws goes on as one of the others, without a loss.
    await session.send("Page.setWebLifecycleState", { state: "active" });
    await publish(3);
    await awaitNumbers(frozen, upTo(n));
    assert.equal(await role(frozen), "follower");
    // The holder crashes.
    const roles = await Promise.all(tabs.map(role));
    const holder = tabs[roles.indexOf("holder")];
    const rest = tabs.filter((tab) => tab !== holder);
    holder.goto("chrome://crash").catch(() => {});
    await publish(5);
    const began = Date.now();
    for (const tab of rest) await awaitNumbers(tab, upTo(n), PATIENCE);
    assert.ok(Date.now() - began < PATIENCE);
});

test("chromium: a holder that is kept in the back/forward cache lets go, and comes back", { timeout: 120_000 }, async (t) => {
    const { server, proxy, tabs } = await openTabs(t, "chromium", { count: 2 });
    const [holder, other] = tabs;
    await server.publish("tabs:a", { n: 1 });
    for (const tab of tabs) await awaitNumbers(tab, [1]);
    await holder.evaluate(() => addEventListener("pageshow", ({ persisted }) => (window.wasKept = persisted)));
    proxy.pages.set("/other.html", "<title>another page</title>");
    await holder.goto(`${proxy.url}/other.html`);
    await server.publish("tabs:a", { n: 2 });
    await awaitNumbers(other, [1, 2], PATIENCE);
    await holder.goBack();
    assert.equal(await holder.evaluate(() => window.wasKept), true);
    await awaitNumbers(holder, [1, 2], PATIENCE);
    await server.publish("tabs:a", { n: 3 });
    for (const tab of tabs) await awaitNumbers(tab, [1, 2, 3]);
    await server.awaitSubscribers("tabs:a", 1);
});
