// Real browsers behind real proxies: Chromium and Firefox ESR, whose pages are subscribed through nginx, HAProxy and Caddy with the
// configurations of tuning/proxies. The pages are of another origin than the server.
import assert from "node:assert/strict";
import fs from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BROWSERS, launch } from "./lib/browsers.mjs";
import { servePages } from "./lib/pages.mjs";
import { PROXIES, startProxy } from "./lib/proxies.mjs";
import { Server } from "./lib/server.mjs";
import { KEYS, tokenFor } from "./lib/tokens.mjs";
import { told, Visitor } from "./lib/visitor.mjs";
import { eventually } from "./lib/wait.mjs";

/** The event streams of one page in the tests that are about all of them. A browser opens six connections to a host at most. */
const STREAMS = 3;
/** The time in milliseconds for which a page is frozen. */
const FROZEN = 8000;

const browsers = {};
let pages;

/** A server with a proxy in front. */
class World {
    async start(proxy) {
        this.server = await Server.start(`
            [server]
            trusted_proxies = ["127.0.0.1"]
            drain_timeout = "1s"
            [http]
            retry = "1s"
            cors_origins = ["${pages.admitted}"]
            ${KEYS}
            [limits]
            retained = 0
            [namespace.short]
            history_events = 2`);
        this.proxy = await startProxy(proxy, this.server.port);
    }

    async end() {
        await this.proxy?.close();
        await this.server?.close();
    }

    stream(channel, more = "") {
        return `http://${this.proxy.address}/sse?channel=${channel}${more}`;
    }

    socket(channel, more = "") {
        return `ws://${this.proxy.address}/ws?channel=${channel}${more}`;
    }

    kick(channel) {
        return this.server.feed.call({ op: "kick", channel });
    }
}

function visit(browser, test, origin = pages.admitted, page = "blank.html", program = browsers[browser]) {
    return Visitor.open(program, `${origin}/pages/${page}`, test);
}

async function tokenExpires(world, browser, test) {
    const visitor = await visit(browser, test);
    const token = `&token=${tokenFor(4)}`;
    const stream = await visitor.subscribe(world.stream(`expiry-${browser}`, token));
    const socket = await visitor.openSocket(world.socket(`expiry-${browser}`, token));
    const streamed = await visitor.awaitRecord(stream, "a bye", (record) => told(record, "ringcast.bye").length > 0);
    assert.equal(JSON.parse(told(streamed, "ringcast.bye")[0]).code, "token_expired");
    const closed = await visitor.awaitRecord(socket, "a close code", (record) => record.isClosed);
    assert.equal(closed.code, 4001);
    assert.ok(closed.events[0].hello);
    assert.equal(closed.events[1].bye.code, "token_expired");
    // The browser comes back with the same token, which is refused for good.
    await visitor.awaitRecord(stream, "the stream is given up", (record) => record.isClosed);
}

async function historyIsGone(world, browser, test) {
    const visitor = await visit(browser, test);
    const channel = `short:${browser}`;
    const index = await visitor.subscribe(world.stream(channel));
    const first = await world.server.publish(channel, "0");
    await visitor.awaitRecord(index, "the first event", (record) => told(record, "message").length === 1);
    await world.kick(channel);
    const ids = [];
    for (let number = 1; number <= 5; number++) ids.push(await world.server.publish(channel, String(number)));
    const record = await visitor.awaitRecord(index, "the last event", (record) => told(record, "message").includes("5"));
    assert.deepEqual(told(record, "message"), ["0", "4", "5"]);
    const [gap, ...others] = told(record, "ringcast.gap").map(JSON.parse);
    assert.equal(others.length, 0);
    assert.equal(gap.after, first);
    assert.equal(gap.resumed, ids[2], "events after this one are there");

    const socket = await visitor.openSocket(world.socket(channel, `&last_event_id=${first}`));
    const resumed = await visitor.awaitRecord(socket, "the last event", ({ events }) => events.some(({ data }) => data === "5"));
    const [hello, notice, ...events] = resumed.events;
    assert.equal(hello.hello.id, first);
    assert.deepEqual(notice.gap, gap);
    assert.deepEqual(events.map(({ data }) => data), ["4", "5"]);
}

async function channelEnds(world, browser, test) {
    const visitor = await visit(browser, test);
    const channel = `ended-${browser}`;
    const index = await visitor.subscribe(world.stream(channel));
    await world.server.publish(channel, "last");
    await world.server.feed.call({ op: "end", channel });
    const record = await visitor.awaitRecord(index, "the channel's end", (record) => told(record, "ringcast.end").length > 0);
    assert.deepEqual(told(record, "message"), ["last"]);
    // The browser asks once more, and the answer 204 tells it to stop.
    const stopped = await visitor.awaitRecord(index, "the stream is given up", (record) => record.isClosed);
    assert.equal(stopped.errors, 2, "one error for the end of the response, and one for the answer to the next request");
    assert.deepEqual(told(stopped, "ringcast.end"), [JSON.stringify({ channel })]);
}

async function otherOrigins(world, browser, test) {
    const channel = `origins-${browser}`;
    const poll = (visitor) => visitor.page.evaluate((url) => {
        return fetch(url, { credentials: "include" }).then((answer) => answer.json(), () => "refused");
    }, `http://${world.proxy.address}/poll?channel=${channel}&wait=0`);

    const admitted = await visit(browser, test);
    const stream = await admitted.subscribe(world.stream(channel));
    const socket = await admitted.openSocket(world.socket(channel));
    await admitted.awaitRecord(socket, "a hello", ({ events }) => events.length === 1);
    await world.server.publish(channel, "to pages");
    await admitted.awaitRecord(stream, "the event", (record) => told(record, "message")[0] === "to pages");
    await admitted.awaitRecord(socket, "the event", ({ events }) => events[1]?.data === "to pages");
    assert.deepEqual((await poll(admitted)).events, []);

    const refused = await visit(browser, test, pages.refused);
    const noStream = await refused.openStream(world.stream(channel));
    const noSocket = await refused.openSocket(world.socket(channel));
    const unread = await refused.awaitRecord(noStream, "the stream is given up", (record) => record.isClosed);
    assert.deepEqual(unread.events, []);
    const closed = await refused.awaitRecord(noSocket, "the WebSocket is closed", (record) => record.isClosed);
    assert.ok(!closed.events.some(({ hello, data }) => hello || data), "a page of another origin gets nothing of a channel");
    assert.equal(await poll(refused), "refused");
}

/** The processes of a Firefox that run pages. */
function pageProcesses(firefox) {
    const read = (id, name) => {
        try {
            return fs.readFileSync(`/proc/${id}/${name}`, "utf8");
        } catch {
            return "";
        }
    };
    const parent = (id) => Number(read(id, "status").match(/^PPid:\t(\d+)/m)?.[1] ?? 0);
    const isWithin = (id) => id > 1 && (id === firefox.process().pid || isWithin(parent(id)));
    const ids = fs.readdirSync("/proc").map(Number).filter(Boolean);
    return ids.filter((id) => / -contentproc .* tab\0$/s.test(read(id, "cmdline")) && isWithin(id));
}

/** Freezes a page: Chromium as it does with one that was long in the background; of Firefox the processes that run pages stop. */
async function freeze(visitor, isFrozen, firefox) {
    if (firefox) {
        const processes = pageProcesses(firefox);
        assert.ok(processes.length > 0, "Firefox runs pages in processes of their own");
        for (const id of processes) process.kill(id, isFrozen ? "SIGSTOP" : "SIGCONT");
        return;
    }
    visitor.session ??= await visitor.page.createCDPSession();
    await visitor.session.send("Page.setWebLifecycleState", { state: isFrozen ? "frozen" : "active" });
}

async function pageIsFrozen(world, browser, test) {
    let firefox;
    if (browser === "firefox") {
        // Pages of other tests share their processes with this one, so this page has a Firefox of its own.
        firefox = await launch("firefox");
        test.after(() => firefox.close());
    }
    const visitor = await visit(browser, test, undefined, undefined, firefox);
    const channel = `frozen-${browser}`;
    const stream = await visitor.subscribe(world.stream(channel));
    // Chromium ends the WebSockets of a page that it freezes, so the page opens its own again.
    const socket = await visitor.openSocket(world.socket(channel), true);
    await visitor.awaitRecord(socket, "a hello", ({ events }) => events.length === 1);
    await visitor.page.evaluate(() => {
        window.ticks = [Date.now()];
        setInterval(() => ticks.push(Date.now()), 100);
    });
    await freeze(visitor, true, firefox);
    const expected = [];
    for (let number = 0; number < 40; number++) {
        expected.push(`${number} ${"x".repeat(number * 500)}`);
        await world.server.publish(channel, expected[number]);
        // The test is about elapsed time, so it must wait.
        await sleep(FROZEN / 40);
    }
    await freeze(visitor, false, firefox);
    const streamed = await visitor.awaitRecord(stream, "all events", (record) => told(record, "message").length >= 40);
    assert.deepEqual(told(streamed, "message"), expected);
    const data = ({ events }) => events.flatMap(({ data }) => data ?? []);
    const resumed = await visitor.awaitRecord(socket, "all events", (record) => data(record).length >= 40);
    assert.deepEqual(data(resumed), expected);
    const longest = () => visitor.page.evaluate(() => Math.max(...ticks.slice(1).map((time, index) => time - ticks[index])));
    await eventually("the page's timer has stood still", async () => (await longest()) >= FROZEN);
}

async function backAndForward(world, browser, test) {
    const channel = `kept-${browser}`;
    const url = encodeURIComponent(world.stream(channel));
    const { page } = await visit(browser, test, pages.admitted, `kept.html?url=${url}`);
    const stored = (name) => page.evaluate((name) => JSON.parse(sessionStorage.getItem(name) ?? "[]"), name);
    const awaitSeen = async (...expected) => {
        let seen;
        await eventually(() => `${expected} were seen: ${seen}`, async () => (seen = await stored("seen")).length >= expected.length);
        assert.deepEqual(seen, expected);
    };
    await eventually("the page is subscribed", () => page.evaluate(() => sessionStorage.getItem("last")));
    await world.server.publish(channel, "1");
    await awaitSeen("1");
    await page.goto(`${pages.admitted}/pages/blank.html`);
    await world.server.publish(channel, "while it was away");
    await page.goBack();
    await awaitSeen("1", "while it was away");
    await world.server.publish(channel, "back");
    await awaitSeen("1", "while it was away", "back");
    const shows = await stored("shows");
    assert.equal(shows.length, 2);
    test.diagnostic(`${browser}: the page with a stream was ${shows[1] === "kept" ? "kept in the back/forward cache" : "loaded again"}`);
}

/** Opens several streams of one channel in a page of each browser, and returns what waits for an event on all of them. */
async function subscribeEverywhere(world, channel, test) {
    const streams = [];
    for (const browser of BROWSERS) {
        const visitor = await visit(browser, test);
        for (let count = 0; count < STREAMS; count++) {
            const index = await visitor.subscribe(world.stream(channel), { withCredentials: count % 2 === 1 });
            streams.push({ browser, visitor, index });
        }
    }
    return (what, condition) => Promise.all(streams.map(({ browser, visitor, index }) => {
        return visitor.awaitRecord(index, `${browser}: ${what}`, (record) => {
            assert.ok(!record.isClosed, `${browser} has given a stream up; it has seen ${JSON.stringify(record)}`);
            return condition(record);
        });
    }));
}

/** The codes of the byes that a page was told, each of which must say when to come back. */
function byes(record) {
    return told(record, "ringcast.bye").map((data) => {
        const bye = JSON.parse(data);
        assert.ok(bye.retry_ms > 0, data);
        return bye.code;
    });
}

async function drainIsUndone(world, test) {
    const awaitAll = await subscribeEverywhere(world, "drained", test);
    test.after(() => world.server.drain(false));
    await world.server.drain(true);
    await awaitAll("a second bye, as the answer to coming back", (record) => byes(record).length >= 2);
    await world.server.publish("drained", "during the drain");
    await world.server.drain(false);
    await world.server.publish("drained", "after the drain");
    const records = await awaitAll("the events", (record) => told(record, "message").length >= 2);
    for (const record of records) {
        assert.deepEqual(told(record, "message"), ["during the drain", "after the drain"]);
        assert.deepEqual(new Set(byes(record)), new Set(["draining"]));
    }
}

async function restarts(world, test) {
    const awaitAll = await subscribeEverywhere(world, "restarted", test);
    const expected = [];
    const publish = async (text) => {
        expected.push(text);
        await world.server.publish("restarted", text);
    };
    for (const [signal, away] of [["SIGTERM", 300], ["SIGKILL", 300], ["SIGKILL", 7000], ["SIGTERM", 7000]]) {
        await world.server.end(signal);
        // The test is about elapsed time, so it must wait.
        await sleep(away);
        await world.server.run();
        await publish(`early after ${signal} and ${away} ms`);
        await awaitAll(`the event after ${signal} and ${away} ms`, (record) => told(record, "message").length >= expected.length);
        await publish(`late after ${signal} and ${away} ms`);
        const records = await awaitAll("the event after that", (record) => told(record, "message").length >= expected.length);
        for (const record of records) assert.deepEqual(told(record, "message"), expected);
    }
    for (const record of await awaitAll("nothing more", () => true)) {
        // The server says that it goes away, and the proxy that the server is away.
        assert.deepEqual(new Set(byes(record)), new Set(["draining", "unavailable"]));
    }
}

function behind(proxy) {
    const world = new World();
    before(() => world.start(proxy));
    after(() => world.end());
    describe("pages", { concurrency: 4 }, () => {
        const cases = {
            "is told that its token has expired": tokenExpires,
            "is told that the history is gone": historyIsGone,
            "stops when the channel has ended": channelEnds,
            "of another origin subscribes only where it may": otherOrigins,
            "that was frozen loses nothing": pageIsFrozen,
            "that comes back by the history's buttons loses nothing": backAndForward,
        };
        for (const [name, check] of Object.entries(cases)) {
            for (const browser of BROWSERS) {
                test(`a page in ${browser} ${name}`, { timeout: 90_000 }, (test) => check(world, browser, test));
            }
        }
    });
    test("a drain that is undone ends no EventSource", { timeout: 90_000 }, (test) => drainIsUndone(world, test));
    test("restarts end no EventSource", { timeout: 120_000 }, (test) => restarts(world, test));
}

describe("browsers", { concurrency: PROXIES.length }, () => {
    before(async () => {
        pages = await servePages();
        for (const browser of BROWSERS) browsers[browser] = await launch(browser);
    });
    after(async () => {
        for (const browser of Object.values(browsers)) await browser.close();
        pages?.close();
    });
    for (const proxy of PROXIES) {
        describe(`behind ${proxy}`, { concurrency: 1 }, () => behind(proxy));
    }
});
