// A TCP proxy that cuts connections.
import net from "node:net";

/** The answer of a reverse proxy while the server behind it is away. */
const AWAY = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\naway\n";

export class Cutter {
    /**
     * Starts a proxy to a port. While that port refuses connections, the proxy answers 503 if `saysAway`, and else ends the
     * client's connection without an answer.
     */
    static start(port, saysAway) {
        const cutter = new Cutter();
        cutter.saysAway = saysAway;
        cutter.cuts = 0;
        cutter.refusals = 0;
        cutter.pairs = new Set();
        cutter.server = net.createServer((client) => cutter.pass(client, port));
        return new Promise((resolve) => {
            cutter.server.listen(0, "127.0.0.1", () => {
                cutter.address = `127.0.0.1:${cutter.server.address().port}`;
                resolve(cutter);
            });
        });
    }

    pass(client, port) {
        const upstream = net.connect(port, "127.0.0.1");
        const pair = { client, upstream };
        this.pairs.add(pair);
        let isConnected = false;
        upstream.on("connect", () => (isConnected = true));
        upstream.on("data", (bytes) => this.forward(pair, bytes));
        client.on("data", (bytes) => upstream.write(bytes));
        upstream.on("end", () => client.end());
        client.on("end", () => upstream.end());
        upstream.on("error", () => {
            if (isConnected) return client.destroy();
            this.refusals++;
            if (this.saysAway) client.end(AWAY);
            else client.destroy();
        });
        client.on("error", () => upstream.destroy());
        client.on("close", () => {
            upstream.destroy();
            this.pairs.delete(pair);
        });
    }

    forward({ client, upstream }, bytes) {
        if (this.bytesLeft === undefined || bytes.length < this.bytesLeft) {
            if (this.bytesLeft !== undefined) this.bytesLeft -= bytes.length;
            if (!client.write(bytes)) {
                upstream.pause();
                client.once("drain", () => upstream.resume());
            }
            return;
        }
        const last = bytes.subarray(0, this.bytesLeft);
        this.bytesLeft = undefined;
        this.cuts++;
        upstream.destroy();
        client.write(last, () => client.destroy());
    }

    /** Cuts the connection over which this number of further bytes have come from the server. */
    cutAfter(bytes) {
        this.bytesLeft = bytes;
    }

    close() {
        for (const { client, upstream } of this.pairs) {
            client.destroy();
            upstream.destroy();
        }
        this.server.close();
    }
}
