// A proxy that does to connections what bad networks and bad proxies do, and serves the pages of the tests on the same origin.
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript" };
const PATHS = /^\/(ws|sse|poll|events)\b/;

export class Proxy {
    /** Connections are refused. */
    isAway = false;
    /** No byte goes either way, and nothing is closed, as when a link is gone. */
    isStalled = false;
    /** Answers are held back until they are whole, as some proxies do. */
    buffers = false;
    /** Upgrades are answered as if they were plain requests. */
    stripsUpgrades = false;
    /** The answer to all requests in place of the server's: `{ status, headers, body }`. */
    refusal = undefined;
    /** The requests of the paths that clients connect to: path and query. */
    requests = [];
    /** Connections that were cut. */
    cuts = 0;
    /** Pages beside those of the package: path to HTML. */
    pages = new Map();
    #left;
    #open = new Set();

    static async start(port, listen = 0) {
        const proxy = new Proxy();
        proxy.target = port;
        proxy.server = http.createServer((request, response) => proxy.#pass(request, response));
        proxy.server.on("upgrade", (request, socket, head) => proxy.#upgrade(request, socket, head));
        proxy.server.on("connection", (socket) => proxy.isAway && socket.destroy());
        await new Promise((resolve) => proxy.server.listen(listen, "127.0.0.1", resolve));
        proxy.port = proxy.server.address().port;
        proxy.url = `http://127.0.0.1:${proxy.port}`;
        return proxy;
    }

    /** The number of connections to the server. */
    get connections() {
        return this.#open.size;
    }

    /** Cuts the connection over which the server's bytes of this number come next, after the last of them. */
    cutAfter(bytes) {
        this.#left = bytes;
    }

    /** Cuts all connections: in order, or with a reset. */
    cutAll(isReset) {
        for (const { client } of this.#open) {
            this.cuts++;
            if (isReset && client.resetAndDestroy) client.resetAndDestroy();
            else client.destroy();
        }
    }

    close() {
        this.isAway = true;
        this.cutAll();
        this.server.close();
        this.server.closeAllConnections();
    }

    /** Passes the server's bytes on, up to the cut. */
    #forward(pair, bytes, write) {
        if (this.isStalled || pair.isCut) return;
        if (this.#left !== undefined && bytes.length >= this.#left) {
            const part = bytes.subarray(0, this.#left);
            this.#left = undefined;
            this.cuts++;
            pair.isCut = true;
            write(part, () => pair.client.destroy());
            pair.upstream.destroy();
            return;
        }
        if (this.#left !== undefined) this.#left -= bytes.length;
        if (!write(bytes)) {
            pair.upstream.pause();
            pair.client.once("drain", () => pair.upstream.resume());
        }
    }

    #serve(request, response) {
        const { pathname } = new URL(request.url, this.url);
        if (this.pages.has(pathname)) {
            response.writeHead(200, { "Content-Type": TYPES[path.extname(pathname)] });
            return response.end(this.pages.get(pathname));
        }
        const file = path.join(ROOT, path.normalize(pathname));
        if (!fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return response.writeHead(404).end();
        response.writeHead(200, { "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream" });
        return fs.createReadStream(file).pipe(response);
    }

    #pass(request, response) {
        if (!PATHS.test(request.url)) return this.#serve(request, response);
        this.requests.push({ url: request.url, headers: request.headers, at: Date.now() });
        if (this.isAway) return request.socket.destroy();
        if (this.refusal) {
            const { status, headers, body = "" } = this.refusal;
            return response.writeHead(status, headers).end(body);
        }
        const { url, method, headers } = request;
        const pair = { client: request.socket };
        pair.upstream = http.request({ port: this.target, host: "127.0.0.1", path: url, method, headers, agent: false }, (answer) => {
            const whole = [];
            pair.upstream = answer;
            response.writeHead(answer.statusCode, answer.headers);
            if (!this.buffers) response.flushHeaders();
            answer.on("data", (bytes) => (this.buffers ? whole.push(bytes) : this.#forward(pair, bytes, (part, then) => response.write(part, then))));
            answer.on("end", () => {
                for (const bytes of whole) response.write(bytes);
                response.end();
            });
            answer.on("error", () => request.socket.destroy());
            answer.on("close", () => this.#open.delete(pair));
        });
        this.#open.add(pair);
        pair.upstream.on("error", () => {
            this.#open.delete(pair);
            request.socket.destroy();
        });
        response.on("close", () => {
            this.#open.delete(pair);
            pair.upstream.destroy();
        });
        pair.upstream.end();
        return undefined;
    }

    #upgrade(request, client, head) {
        this.requests.push({ url: request.url, headers: request.headers, at: Date.now() });
        client.on("error", () => {});
        if (this.stripsUpgrades) return client.end("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        if (this.refusal) return client.end(`HTTP/1.1 ${this.refusal.status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
        const upstream = net.connect(this.target, "127.0.0.1", () => {
            const fields = request.rawHeaders.map((text, i) => (i % 2 ? `${text}\r\n` : `${text}: `)).join("");
            upstream.write(`GET ${request.url} HTTP/1.1\r\n${fields}\r\n`);
            upstream.write(head);
        });
        const pair = { client, upstream };
        this.#open.add(pair);
        upstream.on("data", (bytes) => this.#forward(pair, bytes, (part, then) => client.write(part, then)));
        client.on("data", (bytes) => this.isStalled || upstream.write(bytes));
        upstream.on("end", () => this.isStalled || client.end());
        upstream.on("error", () => this.isStalled || client.destroy());
        upstream.on("close", () => this.isStalled || client.destroy());
        client.on("close", () => {
            upstream.destroy();
            this.#open.delete(pair);
        });
        return undefined;
    }
}
