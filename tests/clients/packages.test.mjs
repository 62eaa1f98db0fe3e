// Published client packages against the real server: 200 events of many forms arrive once each and in order, while the
// connection is cut in the middle of an event, the backend kicks the client, and the server is restarted.
import assert from "node:assert/strict";
import fs from "node:fs";
import readline from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launch } from "./lib/browsers.mjs";
import { Cutter } from "./lib/cutter.mjs";
import { servePages } from "./lib/pages.mjs";
import { spawn } from "./lib/processes.mjs";
import { Server } from "./lib/server.mjs";
import { eventually } from "./lib/wait.mjs";
import { NODE_PACKAGES } from "./packages/node.mjs";

const PYTHON = fileURLToPath(new URL("../../target/clients-venv/bin/python", import.meta.url));
const LARGE = 100 * 1024;

/** The event of a number: one of ten forms. */
function event(number) {
    const forms = [
        { data: `plain ${number}` },
        { data: { n: number }, event: "tick" },
        { data: `one\ntwo ${number}\n\nfour\r\nfive\rsix` },
        { data: "" },
        { data: `grüße, 世界, 👩‍🚀, \u2028, \u0085, \v, \f and \0: ${number}` },
        { data: `${number} ${"x".repeat(LARGE)}` },
        { data: { text: `"quoted" \\ ${number}`, list: [1, 2.5, null, true], nested: { "ü": {} } } },
        { data: `  : id: ${number}\nevent: none\n`, event: "tick" },
        { data: `${number} ${`${"é".repeat(500)}\n`.repeat(100)}`, event: "tick" },
        { data: "", event: "tick" },
    ];
    return forms[number % forms.length];
}

/** A package for Python, in a process of its own that prints its messages. */
function inPython(script) {
    return (url, told) => {
        const file = fileURLToPath(new URL(`packages/${script}`, import.meta.url));
        const child = spawn(PYTHON, [file, url], "stdout");
        readline.createInterface(child.stdout).on("line", (line) => told(JSON.parse(line)));
        const close = async () => {
            child.kill("SIGKILL");
            await child.ended;
        };
        return { close };
    };
}

const PYTHON_PACKAGES = [
    { name: "httpx-sse", transport: "sse", survivesErrors: true, connect: inPython("httpx_sse_client.py") },
    { name: "sseclient-py", transport: "sse", survivesErrors: true, connect: inPython("sseclient_py_client.py") },
    { name: "websockets", transport: "ws", survivesErrors: true, connect: inPython("websockets_client.py") },
];

/** A package for pages, in a page of another origin than the server's. */
function inPage(name, world) {
    return async (url, told) => {
        const page = await world.browser.newPage();
        await page.exposeFunction("told", told);
        await page.goto(`${world.pages.admitted}/pages/blank.html`);
        await page.evaluate(async (name, url) => {
            const { packages } = await import("/pages/packages.js");
            packages[name](url, window.told);
        }, name, url);
        return { close: () => page.close() };
    };
}

/** Tells whether a message is a publisher's, and not about the connection. */
function isEvent({ name }) {
    return !["ringcast.hello", "ringcast.gap", "ringcast.bye", "ringcast.end"].includes(name);
}

/** The text that an event stream has for a payload: its lines do not tell how they were ended. */
function text(data) {
    return typeof data === "string" ? data.replace(/\r\n?/g, "\n") : JSON.stringify(data);
}

/** One package with a server and a proxy of its own. */
class Trial {
    async begin(subject, origin) {
        this.subject = subject;
        this.server = await Server.start(`
            [server]
            drain_timeout = "1s"
            [http]
            retry = "200ms"
            cors_origins = ["${origin}"]
            [heartbeat]
            sse = "100ms"
            ws = "100ms"
            [namespace."*"]
            history_events = 1000
            history_bytes = "64MiB"
            max_lag = "16MiB"`);
        this.cutter = await Cutter.start(this.server.port, subject.survivesErrors);
        this.messages = [];
        this.expected = [];
        const scheme = subject.transport === "ws" ? "ws" : "http";
        const url = `${scheme}://${this.cutter.address}/${subject.transport}?channel=room`;
        this.client = await subject.connect(url, (message) => this.messages.push(message));
        await this.server.awaitSubscribers("room", 1);
    }

    async end() {
        await this.client?.close();
        this.cutter?.close();
        await this.server?.close();
    }

    /** Publishes the events of some numbers. */
    async publish(from, to) {
        for (let number = from; number < to; number++) {
            const { data, event: name } = event(number);
            const id = await this.server.publish("room", data, name);
            this.expected.push({ id, name: name ?? "message", data: this.subject.transport === "ws" ? data : text(data) });
        }
    }

    events() {
        return this.messages.filter(isEvent);
    }

    named(name) {
        return this.messages.filter((message) => message.name === name);
    }

    async awaitAll() {
        await eventually(() => `${this.events().length} of ${this.expected.length} events have arrived`, () => {
            return this.events().length >= this.expected.length;
        });
        assert.equal(this.events().length, this.expected.length, "no event is told twice, and no empty message");
        for (const [index, message] of this.events().entries()) {
            assert.deepEqual(message, this.expected[index], `event ${index}`);
        }
    }
}

async function losesNothing(subject, origin, context) {
    const trial = new Trial();
    context.after(() => trial.end());
    await trial.begin(subject, origin);
    const { server, cutter } = trial;

    // The connection breaks in the middle of a large event.
    await trial.publish(0, 20);
    await trial.awaitAll();
    cutter.cutAfter(5.5 * LARGE);
    await trial.publish(20, 90);
    await trial.awaitAll();
    assert.equal(cutter.cuts, 1);

    // The backend kicks the client while it publishes.
    await server.awaitSubscribers("room", 1);
    await trial.publish(90, 120);
    const { kicked } = await server.feed.call({ op: "kick", channel: "room" });
    assert.equal(kicked, 1);
    await trial.publish(120, 150);
    await trial.awaitAll();
    assert.equal(trial.named("ringcast.gap").length, 0, "nothing was lost");

    // Heartbeats come, and the handler sees none of them.
    const heartbeats = await server.figure("heartbeats");
    await eventually("two heartbeats", async () => (await server.figure("heartbeats")) >= heartbeats + 2);
    await trial.awaitAll();

    // A restart ends the history: the client is told so, and gets all that the new process publishes, also before it is back.
    await server.end("SIGTERM");
    await eventually("the client has tried to come back", () => cutter.refusals > 0);
    await server.run();
    await trial.publish(150, 160);
    await server.awaitSubscribers("room", 1);
    await trial.publish(160, 200);
    await trial.awaitAll();
    const gap = trial.named("ringcast.gap");
    assert.equal(gap.length, 1, "the client is told once that the history is gone");
    const { after: last } = typeof gap[0].data === "string" ? JSON.parse(gap[0].data) : gap[0].data;
    assert.equal(last, trial.expected[149].id, "the gap begins after the last event before the restart");
    const before = trial.messages.slice(0, trial.messages.indexOf(gap[0])).filter(isEvent);
    assert.equal(before.length, 150, "the gap comes before the new process's events");
}

async function stopsAtTheEnd(subject, origin, context) {
    const trial = new Trial();
    context.after(() => trial.end());
    await trial.begin(subject, origin);
    await trial.publish(0, 1);
    await trial.awaitAll();
    assert.ok(!trial.client.isOver());
    await trial.server.feed.call({ op: "end", channel: "room" });
    await eventually("the package has stopped", () => trial.client.isOver());
    await trial.awaitAll();
}

/** The versions of the packages in the files that pin them. */
function pinned() {
    const read = (name) => fs.readFileSync(new URL(name, import.meta.url), "utf8");
    const python = [...read("requirements.txt").matchAll(/^(\S+)==(\S+) /gm)].map(([, name, version]) => [name, version]);
    return { ...JSON.parse(read("package.json")).dependencies, ...Object.fromEntries(python) };
}

describe("packages", { concurrency: 3 }, () => {
    const world = {};
    before(async () => {
        world.pages = await servePages();
        world.browser = await launch("chromium");
    });
    after(async () => {
        await world.browser?.close();
        world.pages?.close();
    });
    const pagePackages = ["@microsoft/fetch-event-source", "reconnecting-eventsource"].map((name) => {
        return { name, transport: "sse", survivesErrors: true, connect: inPage(name, world) };
    });
    const subjects = [...NODE_PACKAGES, ...pagePackages, ...PYTHON_PACKAGES];
    for (const subject of subjects) {
        test(`${subject.name} loses nothing`, { timeout: 60_000 }, (context) => {
            return losesNothing(subject, world.pages.admitted, context);
        });
    }
    for (const subject of NODE_PACKAGES.filter(({ transport }) => transport === "sse")) {
        test(`${subject.name} stops when the channel has ended`, { timeout: 60_000 }, (context) => {
            return stopsAtTheEnd(subject, world.pages.admitted, context);
        });
    }
    test("the documentation names the versions that are tested", () => {
        const text = fs.readFileSync(new URL("../../docs/protocol.md", import.meta.url), "utf8");
        const versions = pinned();
        for (const { name } of subjects) {
            assert.ok(text.includes(`| \`${name}\` ${versions[name]} |`), `docs/protocol.md has no row for ${name} ${versions[name]}`);
        }
    });
});
