// Each program in docs/publishing.md and in the READMEs of the clients does what its page says, against the real server.
import assert from "node:assert/strict";
import childProcess from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { freePort } from "../clients/lib/ports.mjs";
import { ENVIRONMENT, spawn, temporaryFolder } from "../clients/lib/processes.mjs";
import { Server } from "../clients/lib/server.mjs";
import { eventually } from "../clients/lib/wait.mjs";
import { Stream, WebSocketClient } from "./lib/clients.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const FEED = "/run/ringcast/feed.sock";
const PAGES = ["docs/publishing.md", "clients/node/README.md", "clients/python/README.md"];
/** The file and the command of a program in each language. */
const RUN = {
    sh: ["publish.sh", "bash", "-euo", "pipefail"],
    js: ["publish.mjs", process.execPath],
    python: ["publish.py", "python3"],
    php: ["publish.php", "php"],
    go: ["publish.go", "go", "run"],
    ruby: ["publish.rb", "ruby"],
};

/** The fenced programs of a page: their line, language, text, and what a comment before them says of their test. */
function programsOf(page) {
    const text = fs.readFileSync(path.join(ROOT, page), "utf8");
    const found = [...text.matchAll(/(?:<!-- test: (\w+) -->\n)?```(\w+)\n(.*?)\n```\n/gs)];
    assert.equal(found.length * 2, text.split("\n```").length - 1, `${page} has fences that were not found`);
    return found.map(({ index, 1: kind = "publishes", 2: language, 3: program }) => {
        const line = text.slice(0, index).split("\n").length;
        return { name: `${page}:${line}, ${language}`, kind, language, program };
    });
}

/** A folder in which the program finds what an installation has. */
function prepare({ language, program }, server) {
    const folder = temporaryFolder();
    fs.mkdirSync(path.join(folder, "bin"));
    fs.symlinkSync(path.join(ROOT, "target/debug/ringcast"), path.join(folder, "bin/ringcast"));
    fs.mkdirSync(path.join(folder, "node_modules"));
    fs.symlinkSync(path.join(ROOT, "clients/node"), path.join(folder, "node_modules/ringcast-feed"));
    const [file, command, ...args] = RUN[language];
    const text = program.replaceAll(FEED, server.feedPath).replaceAll("127.0.0.1:8081", server.admin);
    fs.writeFileSync(path.join(folder, file), text);
    const variables = {
        PATH: `${path.join(folder, "bin")}:${ENVIRONMENT.PATH}`,
        PYTHONPATH: path.join(ROOT, "clients/python"),
        PYTHONDONTWRITEBYTECODE: "1",
        GOCACHE: path.join(ROOT, "target/publishing-go"),
        CGO_ENABLED: "0",
        TOKEN: "the admin token of these tests",
    };
    return { folder, command, args: [...args, path.join(folder, file)], variables };
}

/** Runs a program to its end and returns what it prints. */
function run({ folder, command, args, variables }) {
    return new Promise((resolve, reject) => {
        const options = { cwd: folder, env: { ...ENVIRONMENT, ...variables }, timeout: 60_000 };
        childProcess.execFile(command, args, options, (error, stdout, stderr) => {
            if (error) reject(new Error(`${error.message}\n${stdout}${stderr}`));
            else resolve(stdout);
        });
    });
}

const KINDS = {
    /** It publishes and ends; with a key, running it again adds nothing. */
    async publishes(t, snippet) {
        const server = await Server.start(`[namespace."*"]\n history_events = 10000`);
        t.after(() => server.close());
        const streams = await Promise.all(["orders:1", "news"].map((channel) => Stream.open(server.port, channel)));
        t.after(() => streams.forEach((stream) => stream.close()));
        const told = () => streams.flatMap(({ events }) => events);
        const history = async () => {
            let count = 0;
            for (const { channel } of streams) {
                for (let after = "0-0"; after; ) {
                    const { events } = await server.feed.call({ op: "history", channel, after, limit: 1000 });
                    count += events.length;
                    after = events.at(-1)?.id;
                }
            }
            return count;
        };
        const prepared = prepare(snippet, server);
        const output = await run(prepared);
        assert.match(output, /\d/, "it prints an id, or a number of ids");
        const count = await history();
        assert.ok(count > 0, "nothing was published");
        await eventually("the subscriber has the events", () => told().length === count);
        assert.equal(await run(prepared).then(history), /key/i.test(snippet.program) ? count : 2 * count);
    },

    /** It publishes on chat:1 what a client says. */
    async listens(t, snippet) {
        const server = await Server.start("");
        t.after(() => server.close());
        const { command, args, variables } = prepare(snippet, server);
        const program = spawn(command, args, "stdout", variables);
        t.after(() => program.kill("SIGKILL"));
        const client = await WebSocketClient.open(server.port, "channel=chat:1");
        t.after(() => client.close());
        await eventually("the client has what it said", () => {
            client.send({ send: "hello" });
            const conn = client.messages.find(({ hello }) => hello)?.hello.conn;
            return client.messages.some(({ data }) => data?.text === "hello" && data.from === conn);
        });
    },

    /** It lets in the client with a session, to the channels that are for it. */
    async decides(t, snippet) {
        const server = await Server.start(`[auth]\nask_backend = true\n[namespace."*"]\npresence = true`);
        t.after(() => server.close());
        const { command, args, variables } = prepare(snippet, server);
        const program = spawn(command, args, "stdout", variables);
        t.after(() => program.kill("SIGKILL"));
        const ask = async (channel, headers) => {
            const stream = await Stream.open(server.port, channel, headers).catch(({ message }) => message);
            if (stream instanceof Stream) t.after(() => stream.close());
            return stream;
        };
        const session = { Cookie: "session=1f3a" };
        await eventually("the client with a session is let in", async () => (await ask("news", session)) instanceof Stream);
        const { users } = await server.feed.call({ op: "presence", channel: "news" });
        assert.deepEqual(users.map(({ user }) => user), ["ann"]);
        assert.match(await ask("orders:1", session), /has answered 40[13]/);
        assert.match(await ask("news", {}), /has answered 40[13]/);
    },
};

for (const page of PAGES) {
    for (const snippet of programsOf(page)) {
        if (snippet.language === "yaml") continue;
        if (snippet.language === "toml") {
            test(snippet.name, () => Server.start(snippet.program).then((server) => server.close()));
            continue;
        }
        assert.ok(RUN[snippet.language], `${snippet.name}: there is no way to run this`);
        test(snippet.name, (t) => KINDS[snippet.kind](t, snippet));
    }
}

test("the pages have programs in all languages", () => {
    const languages = PAGES.flatMap(programsOf).map(({ language }) => language);
    assert.deepEqual(Object.keys(RUN).filter((language) => !languages.includes(language)), []);
});

test("a PHP worker goes on after the server was started again", async (t) => {
    const server = await Server.start("");
    t.after(() => server.close());
    const [snippet] = programsOf(PAGES[0]).filter(({ language }) => language === "php");
    const { folder, variables } = prepare(snippet, server);
    const port = await freePort();
    const worker = spawn("php", ["-q", "-S", `127.0.0.1:${port}`, path.join(folder, "publish.php")], "stdout", variables);
    t.after(() => worker.kill("SIGKILL"));
    const request = async () => (await fetch(`http://127.0.0.1:${port}/`)).text();
    const first = await eventually("the worker answers", () => request().catch(() => false));
    assert.match(first, /^\d+-\d+\n$/);
    assert.equal(await request(), first, "the key is the same");
    await server.end("SIGKILL");
    await server.run();
    const second = await request();
    assert.match(second, /^\d+-\d+\n$/);
    assert.notEqual(second, first);
});

test("a container that has the folder and the group publishes, over a restart of the server", { skip: process.getuid() !== 0 && "needs root" }, async (t) => {
    const GROUP = "4242";
    const server = await Server.start(`[feed]\ngroup = "${GROUP}"\nmode = "0660"`);
    t.after(() => server.close());
    const folder = path.dirname(server.feedPath);
    fs.chmodSync(folder, 0o755);
    const mounted = temporaryFolder();
    fs.chmodSync(mounted, 0o755);
    // A mount namespace with a bind mount, and a user of another number: what a container is to a socket.
    const script = `mount --bind ${folder} ${mounted} && echo mounted && while read -r groups; do
        setpriv --reuid=54321 --regid=54321 $groups ${path.join(ROOT, "target/debug/ringcast")} publish --feed ${mounted}/feed.sock c x 2>&1; echo done; done`;
    const container = childProcess.spawn("unshare", ["--mount", "--propagation", "private", "bash", "-c", script], { stdio: ["pipe", "pipe", "inherit"] });
    t.after(() => container.kill("SIGKILL"));
    let output = "";
    container.stdout.setEncoding("utf8").on("data", (text) => (output += text));
    await eventually("the folder is mounted", () => output.includes("mounted\n"));
    const publish = async (groups) => {
        output = "";
        container.stdin.write(`${groups}\n`);
        await eventually("it has published", () => output.includes("done\n"));
        return output;
    };
    assert.match(await publish("--clear-groups"), /this user may not/);
    assert.match(await publish(`--groups=${GROUP}`), /^\d+-\d+\n/);
    await server.end("SIGTERM");
    await server.run();
    assert.match(await publish(`--groups=${GROUP}`), /^\d+-\d+\n/);
});
