// The library in pages: the README's own, React in strict mode, Vue, Echo, and a browser that sleeps.
import assert from "node:assert/strict";
import fs from "node:fs";
import test, { describe } from "node:test";
import { build } from "esbuild";
import { BROWSERS } from "../../../tests/clients/lib/browsers.mjs";
import { eventually } from "../../../tests/clients/lib/wait.mjs";
import { processes } from "./lib/processes.mjs";
import { stage } from "./lib/stage.mjs";

/** The time in seconds for which a browser sleeps. The long form is RINGCAST_SLEEP=90. */
const SLEEP = Number(process.env.RINGCAST_SLEEP ?? 9);

const README = fs.readFileSync(new URL("../../../README.md", import.meta.url), "utf8");

async function setUp(t, name) {
    const { server, proxy, browser } = await stage(t, '[server]\ndrain_timeout = "2s"\n[http]\nretry = "200ms"', name);
    proxy.pages.set("/ringcast.js", fs.readFileSync(new URL("../dist/ringcast.js", import.meta.url)));
    const open = async (html) => {
        proxy.pages.set("/page.html", html);
        const page = await browser.newPage();
        page.errors = [];
        // Firefox calls each connection that fails an error of the page.
        page.on("pageerror", ({ message }) => /connection to/.test(message) || page.errors.push(message));
        await page.goto(`${proxy.url}/page.html`);
        return page;
    };
    return { server, proxy, browser, open };
}

/** A page whose script is bundled with the packages that it imports. */
async function bundled(source) {
    const { outputFiles } = await build({
        stdin: { contents: source, resolveDir: new URL("..", import.meta.url).pathname },
        bundle: true,
        write: false,
        format: "esm",
        define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
        logLevel: "silent",
        tsconfigRaw: "{}",
    });
    return `<!doctype html><div id="app"></div><script type="module">${outputFiles[0].text.replaceAll("</script", "<\\/script")}</script>`;
}

// These wait most of the time, so they run together.
describe("the README's page", { concurrency: true }, () => {
    for (const name of BROWSERS) {
        test(`${name}: the README's page survives cuts, restarts and a change of transport`, { timeout: 180_000 }, async (t) => {
            const { server, proxy, open } = await setUp(t, name);
            const [, html] = /```html\n([^]*?)```/.exec(README) ?? assert.fail("the README has a page");
            const page = await open(html);
            await server.awaitSubscribers("news", 1);
            const lines = () => page.evaluate(() => [...document.querySelectorAll("#news li")].map((line) => line.textContent));
            const wanted = [];
            const publish = async (text) => {
                wanted.push(text);
                await server.publish("news", text);
            };
            const arrive = () => eventually(async () => `the page shows ${wanted}; it shows ${await lines()}`, async () => (await lines()).length >= wanted.length, 60_000);
            await publish("one");
            await arrive();
            proxy.cutAll(true);
            await publish("two");
            await arrive();
            proxy.stripsUpgrades = true;
            proxy.cutAll();
            await publish("three");
            await arrive();
            await server.end("SIGTERM");
            await server.run();
            // What is published before the page is back would be lost with the history of a server that has just started.
            await server.awaitSubscribers("news", 1);
            await publish("four");
            await arrive();
            assert.deepEqual(await lines(), wanted);
            assert.deepEqual(page.errors, []);
        });
    }
});

for (const name of BROWSERS) {
    test(`${name}: a browser that slept ${SLEEP} s notices within five seconds`, { timeout: 240_000 }, async (t) => {
        const { server, proxy, browser, open } = await setUp(t, name);
        const page = await open(`<script type="module">
            import { connect } from "/dist/ringcast.js";
            window.told = []; window.states = [];
            const rc = (window.rc = connect("/", { transports: ["ws"], beat: 2 }));
            rc.on("state", (state) => states.push(state.reason?.code ?? state.name));
            rc.subscribe("a", ({ data }) => told.push(data));
        </script>`);
        await server.awaitSubscribers("a", 1);
        // Until it has a position, the page does not know that it is subscribed.
        await eventually("the page has a position", () => page.evaluate(() => rc.position));
        // The network forgets the connection while the browser's processes stand still.
        const all = processes(browser.process().pid);
        for (const pid of all) process.kill(pid, "SIGSTOP");
        proxy.isStalled = true;
        await server.publish("a", "asleep");
        await new Promise((resolve) => setTimeout(resolve, SLEEP * 1000));
        const began = Date.now();
        for (const pid of all) process.kill(pid, "SIGCONT");
        await eventually("the page notices", () => page.evaluate(() => states.includes("silent")), 10_000);
        assert.ok(Date.now() - began < 5000, `${Date.now() - began} ms`);
        proxy.isStalled = false;
        proxy.cutAll();
        const seen = () => page.evaluate(() => JSON.stringify([told, states]));
        await eventually(async () => `the event comes: ${await seen()}`, () => page.evaluate(() => told.length === 1));
        assert.deepEqual(await page.evaluate(() => told), ["asleep"]);
    });
}

test("React in strict mode: components share one connection, which stays over a double mount and ends with the last", { timeout: 60_000 }, async (t) => {
    const { server, proxy, open } = await setUp(t, "chromium");
    const page = await open(await bundled(`
        import { createElement as h, StrictMode, useState } from "react";
        import { createRoot } from "react-dom/client";
        import { connect } from "ringcast";
        import { useChannel, useLatest, useRingcast, useRingcastState } from "ringcast/react";
        window.told = [];
        const make = () => connect(location.origin, { transports: ["ws"], beat: 2 });
        function News({ id }) {
            const rc = useRingcast("main", make);
            useChannel(rc, "news", ({ data }) => told.push(id + data));
            return h("p", { id }, useLatest(rc, "news")?.data ?? "none", " ", useRingcastState(rc).name);
        }
        function App() {
            const [isOn, setOn] = useState(true);
            window.setOn = setOn;
            return isOn ? [h(News, { key: 1, id: "a" }), h(News, { key: 2, id: "b" })] : null;
        }
        createRoot(document.getElementById("app")).render(h(StrictMode, null, h(App)));`));
    await eventually(() => `it is open: ${page.errors}`, () => page.evaluate(() => document.getElementById("a")?.textContent === "none open"));
    await server.awaitSubscribers("news", 1);
    await server.publish("news", "1");
    await eventually(async () => `both have it: ${await page.evaluate(() => told)}`, () => page.evaluate(() => told.length === 2 && document.getElementById("b").textContent === "1 open"));
    assert.deepEqual(await page.evaluate(() => told), ["a1", "b1"]);
    assert.equal(proxy.requests.length, 1);
    await page.evaluate(() => setOn(false));
    await server.awaitSubscribers("news", 0);
    await eventually("the connection is closed", () => proxy.connections === 0);
    assert.deepEqual(page.errors, []);
});

test("Vue: a component follows a channel that changes", { timeout: 60_000 }, async (t) => {
    const { server, open } = await setUp(t, "chromium");
    const page = await open(await bundled(`
        import { createApp, h, ref } from "vue";
        import { connect } from "ringcast";
        import { useLatest } from "ringcast/vue";
        const rc = connect(location.origin, { transports: ["ws"], beat: 2 });
        window.channel = ref("a");
        const App = { setup() { const latest = useLatest(rc, window.channel); return () => h("p", latest.value?.data ?? "none"); } };
        createApp(App).mount("#app");`));
    const shows = (text) => eventually(`the page shows ${text}`, () => page.evaluate((text) => document.querySelector("p")?.textContent === text, text));
    await server.awaitSubscribers("a", 1);
    await server.publish("a", "of a");
    await shows("of a");
    await page.evaluate(() => void (channel.value = "b"));
    await server.awaitSubscribers("b", 1);
    await server.awaitSubscribers("a", 0);
    await server.publish("b", "of b");
    await shows("of b");
});

test("Echo: Laravel's events and whispers", { timeout: 60_000 }, async (t) => {
    const { server, open } = await setUp(t, "chromium");
    const page = await open(await bundled(`
        import Echo from "laravel-echo";
        import { RingcastConnector } from "ringcast/echo";
        window.told = [];
        window.echo = new Echo({ broadcaster: RingcastConnector, host: location.origin, ringcast: { transports: ["ws"], beat: 2 } });
        echo.private("orders.1").listen("OrderPaid", (data) => told.push(data)).listen(".custom", (data) => told.push(data))
            .listenForWhisper("typing", (data) => told.push(data)).subscribed(() => told.push("subscribed"));`));
    await server.awaitSubscribers("private-orders.1", 1);
    await server.publish("private-orders.1", { total: 1 }, "App\\Events\\OrderPaid");
    await server.publish("private-orders.1", { total: 2 }, "App\\Events\\Other");
    await server.publish("private-orders.1", { total: 3 }, "custom");
    await server.publish("private-orders.1", { user: 4 }, "client-typing");
    await eventually(async () => `Echo tells three: ${JSON.stringify(await page.evaluate(() => told))}`, () => page.evaluate(() => told.length === 4));
    assert.deepEqual(await page.evaluate(() => told), ["subscribed", { total: 1 }, { total: 3 }, { user: 4 }]);
    assert.match(await page.evaluate(() => echo.socketId()), /^\d/);
    await page.evaluate(() => echo.leave("orders.1"));
    await server.awaitSubscribers("private-orders.1", 0);
});
