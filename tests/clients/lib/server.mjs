// The real server with its feed, in a folder of its own.
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";
import { freePort } from "./ports.mjs";
import { spawn, temporaryFolder } from "./processes.mjs";
import { eventually } from "./wait.mjs";

const PROGRAM = fileURLToPath(new URL("../../../target/debug/ringcast", import.meta.url));
const ADMIN_TOKEN = "the admin token of these tests";

export class Server {
    /** Starts a server with this configuration, on a port that it keeps over restarts. */
    static async start(config) {
        const server = new Server();
        const folder = temporaryFolder();
        server.port = await freePort();
        server.feedPath = path.join(folder, "feed.sock");
        server.configPath = path.join(folder, "ringcast.toml");
        fs.writeFileSync(server.configPath, `${config}\n[admin]\ntoken = "${ADMIN_TOKEN}"\n`);
        await server.run();
        return server;
    }

    /** Starts the program on the folder's state. */
    async run() {
        const log = [];
        const child = spawn(
            PROGRAM,
            ["serve", "--config", this.configPath, "--feed", this.feedPath, "--listen", `127.0.0.1:${this.port}`,
                "--admin", "127.0.0.1:0", "--shards", "1", "--no-pin", "--log-format", "json"],
            "stderr",
        );
        readline.createInterface(child.stderr).on("line", (line) => log.push(line));
        const find = (message) => {
            const line = log.find((line) => line.includes(`"message":"${message}"`));
            return line && JSON.parse(line);
        };
        this.child = child;
        await eventually(() => `the server is ready; its log: ${log.join("\n")}`, () => {
            if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}: ${log.join("\n")}`);
            return find("ready");
        });
        this.admin = find("admin listening").address;
        this.feed = await Feed.connect(this.feedPath);
    }

    /** Ends the program, by SIGTERM in order or by SIGKILL, and waits for its end. */
    async end(signal) {
        this.feed?.close();
        this.child.kill(signal);
        await this.child.ended;
    }

    close() {
        return this.end("SIGKILL");
    }

    /** Publishes an event and returns its id. */
    async publish(channel, data, event) {
        return (await this.feed.call({ op: "publish", channel, data, ...(event && { event }) })).id;
    }

    /** The sum of a figure over the shards. */
    async figure(name) {
        const { stats } = await this.feed.call({ op: "stats" });
        return stats.shards.reduce((sum, shard) => sum + shard[name], 0);
    }

    /** Waits until the channel has this number of subscribers that are connected. */
    async awaitSubscribers(channel, count) {
        await eventually(`${count} subscribers of ${channel}`, async () => {
            return (await this.feed.call({ op: "connections", channel })).matched === count;
        });
    }

    /** Begins or ends a drain over the admin API. */
    async drain(draining) {
        const answer = await fetch(`http://${this.admin}/v1/drain`, {
            method: "PUT",
            headers: { "Content-Type": "application/json", Authorization: `Bearer ${ADMIN_TOKEN}` },
            body: JSON.stringify({ draining }),
        });
        if (!answer.ok) throw new Error(`the admin API answered ${answer.status}: ${await answer.text()}`);
    }
}

/** A publisher's connection to the feed. */
class Feed {
    static connect(path) {
        return new Promise((resolve, reject) => {
            const feed = new Feed();
            feed.waiting = new Map();
            feed.next = 1;
            feed.socket = net.connect(path, () => resolve(feed));
            feed.socket.on("error", reject);
            feed.socket.on("close", () => {
                for (const { reject } of feed.waiting.values()) reject(new Error("the feed has ended"));
            });
            readline.createInterface(feed.socket).on("line", (line) => feed.hear(JSON.parse(line)));
        });
    }

    hear(answer) {
        const { resolve, reject } = this.waiting.get(answer.ref);
        this.waiting.delete(answer.ref);
        if (answer.ok) resolve(answer);
        else reject(new Error(JSON.stringify(answer.error)));
    }

    /** Sends a command and returns its answer. */
    call(command) {
        const ref = this.next++;
        return new Promise((resolve, reject) => {
            this.waiting.set(ref, { resolve, reject });
            this.socket.write(`${JSON.stringify({ ...command, ref })}\n`);
        });
    }

    close() {
        this.socket.destroy();
    }
}
