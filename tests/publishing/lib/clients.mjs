// Clients of the server, on raw sockets: an event stream that resumes, and a WebSocket.
import crypto from "node:crypto";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** An event stream that comes back after each cut. Its `events` are those of the channels, its `notices` the server's own. */
export class Stream {
    /** Subscribes, and returns once the server has said the position. */
    static async open(port, channel, headers = {}) {
        const stream = new Stream();
        Object.assign(stream, { port, channel, headers, events: [], notices: [], position: undefined, isClosed: false, isEnded: false });
        stream.following = stream.follow();
        while (stream.position === undefined) {
            if (stream.status && stream.status !== 200) throw new Error(`the server has answered ${stream.status}`);
            await sleep(5);
        }
        return stream;
    }

    async follow() {
        while (!this.isClosed && !this.isEnded) {
            await this.connect().catch(() => {});
            if (this.status && this.status !== 200) return;
            await sleep(20);
        }
    }

    connect() {
        return new Promise((resolve, reject) => {
            const headers = { Accept: "text/event-stream", ...this.headers, ...(this.position && { "Last-Event-ID": this.position }) };
            const request = http.get({ port: this.port, path: `/sse?channel=${encodeURIComponent(this.channel)}`, headers, agent: false });
            this.request = request;
            request.on("error", reject);
            request.on("response", (response) => {
                this.status = response.statusCode;
                let rest = "";
                response.setEncoding("utf8");
                response.on("data", (text) => {
                    const blocks = (rest + text).split("\n\n");
                    rest = blocks.pop();
                    for (const block of blocks) this.take(block);
                });
                response.on("error", reject);
                response.on("close", resolve);
            });
        });
    }

    take(block) {
        const event = { data: "" };
        for (const line of block.split("\n")) {
            const [, name, value] = /^([a-z]*): ?(.*)$/s.exec(line) ?? [];
            if (name === "data") event.data += value;
            else if (name) event[name] = value;
        }
        if (event.id) this.position = event.id;
        if (!event.event?.startsWith("ringcast.")) return event.id && this.events.push(event);
        this.notices.push(event);
        if (event.event === "ringcast.end") this.isEnded = true;
    }

    close() {
        this.isClosed = true;
        this.request?.destroy();
    }
}

/** A WebSocket in the JSON format. Its `messages` are parsed. */
export class WebSocketClient {
    static open(port, query) {
        return new Promise((resolve, reject) => {
            const key = crypto.randomBytes(16).toString("base64");
            const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key };
            const request = http.get({ port, path: `/ws?${query}`, headers, agent: false });
            request.on("error", reject);
            request.on("response", (response) => reject(new Error(`the server has answered ${response.statusCode}`)));
            request.on("upgrade", (_, socket, head) => {
                const client = new WebSocketClient();
                Object.assign(client, { socket, messages: [], rest: head });
                socket.on("error", () => {});
                socket.on("data", (bytes) => client.take(bytes));
                client.take(Buffer.alloc(0));
                resolve(client);
            });
        });
    }

    /** Takes whole frames of the server, which are not masked. */
    take(bytes) {
        this.rest = Buffer.concat([this.rest, bytes]);
        for (;;) {
            if (this.rest.length < 2) return;
            let [length, start] = [this.rest[1] & 127, 2];
            if (length === 126) [length, start] = [this.rest.length < 4 ? Infinity : this.rest.readUInt16BE(2), 4];
            if (length === 127) [length, start] = [this.rest.length < 10 ? Infinity : Number(this.rest.readBigUInt64BE(2)), 10];
            if (this.rest.length < start + length) return;
            if ((this.rest[0] & 15) === 1) this.messages.push(JSON.parse(this.rest.subarray(start, start + length)));
            this.rest = this.rest.subarray(start + length);
        }
    }

    send(message) {
        const payload = Buffer.from(JSON.stringify(message));
        const head = payload.length < 126 ? [0x81, 0x80 | payload.length] : [0x81, 0xfe, payload.length >> 8, payload.length & 255];
        // A mask of zeros leaves the payload as it is.
        this.socket.write(Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), payload]));
    }

    close() {
        this.socket.destroy();
    }
}
