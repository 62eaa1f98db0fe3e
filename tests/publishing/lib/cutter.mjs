// A proxy in front of a feed, which cuts connections.
import net from "node:net";
import path from "node:path";
import { temporaryFolder } from "../../clients/lib/processes.mjs";

export class FeedCutter {
    /** Starts a proxy to the feed at a path. `path` is where it listens. */
    static async start(feedPath) {
        const cutter = new FeedCutter();
        cutter.path = path.join(temporaryFolder(), "cut.sock");
        cutter.cuts = 0;
        cutter.connections = 0;
        cutter.pairs = new Set();
        cutter.server = net.createServer((client) => cutter.pass(client, feedPath));
        await new Promise((resolve) => cutter.server.listen(cutter.path, resolve));
        return cutter;
    }

    pass(client, feedPath) {
        this.connections++;
        const pair = [client, net.connect(feedPath)];
        this.pairs.add(pair);
        for (const [from, to] of [pair, [...pair].reverse()]) {
            from.on("data", (bytes) => this.forward(pair, from, to, bytes));
            from.on("error", () => to.destroy());
            from.on("close", () => {
                to.destroy();
                this.pairs.delete(pair);
            });
        }
    }

    forward(pair, from, to, bytes) {
        if (pair.isCut) return;
        this.passed += bytes.length;
        if (this.cutAfter === undefined || this.passed < this.cutAfter()) {
            if (!to.write(bytes)) {
                from.pause();
                to.once("drain", () => from.resume());
            }
            return;
        }
        // The last bytes of a connection end within a line, as those of a program that is killed may.
        this.passed = 0;
        this.cuts++;
        pair.isCut = true;
        to.write(bytes.subarray(0, bytes.length / 2), () => this.cut(pair));
    }

    /** Cuts one connection, or all. */
    cut(one) {
        for (const pair of one ? [one] : this.pairs) for (const end of pair) end.destroy();
    }

    /** Cuts a connection whenever about this number of bytes has passed, until `times` cuts. */
    cutEach(bytes, times) {
        this.passed = 0;
        this.cutAfter = () => (this.cuts < times ? bytes : Infinity);
    }

    close() {
        this.cut();
        this.server.close();
    }
}
