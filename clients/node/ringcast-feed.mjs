// The feed of a ringcast server, from a backend's side: publishing, and hearing clients. Needs Node 18 or newer and nothing else.
// docs/publishing.md shows how it is used; docs/protocol.md has the lines of the feed and the codes of errors.
import crypto from "node:crypto";
import net from "node:net";

/**
 * The first line of each connection. The server tells a connection that it refuses so and closes it; until this line is answered,
 * nothing else is sent, so that no command's outcome is unknown for that.
 */
const GREETING = { op: "history", channel: "-", limit: 0, ref: 0 };
/** The longest wait before the first attempt to connect again, and the longest of all, in milliseconds. Each wait is random. */
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 2000;

/**
 * @typedef {string | number | boolean | null | object | Uint8Array} Data A text, bytes, or any value that JSON has.
 * @typedef {{ event?: string, key?: string, [more: string]: unknown }} PublishOptions The event's name; the idempotency key.
 * @typedef {{ channel: string, data: Data } & PublishOptions | { channels: string[], data: Data } & PublishOptions} Item
 * @typedef {{ retry?: boolean }} Repeating Whether to send the command again if the connection is cut before the answer. It may
 *     then be carried out twice.
 * @typedef {{ conn: string } | { user: string } | { channel: string } | { jti: string, expires?: number }} KickTarget
 * @typedef {{ id: string, channel: string, event?: string, data?: any, data_b64?: string }} Event
 * @typedef {{ events: Event[], complete_since: string, more?: boolean }} History
 * @typedef {{ connections: number, count: number, users: { user: string, connections: number }[] }} Presence
 * @typedef {{ op: "message", conn: string, user?: string, data: any }
 *     | { op: "connect", conn: string, user?: string, address: string, transport: string }
 *     | { op: "disconnect", conn: string, user?: string, reason: string }
 *     | { op: "lost", count?: number }} Told Lines were left out where `lost` stands: `count` connects and disconnects, or, without
 *     `count`, all that was to be told while the connection was cut.
 * @typedef {{ op: "authorize", conn: string, ask: number, channels: string[], address: string, authorization?: string,
 *     cookie?: string, origin?: string }} Question
 * @typedef {boolean | string[] | { allow: boolean | string[], user?: string }} Decision
 */

/**
 * An error with a code for programs: one of the server's, or
 * - `not_sent`: the command did not reach the server in time, so it was not carried out;
 * - `outcome_unknown`: the connection was cut, or the time was up, before the answer: the command may have been carried out;
 * - `busy`: too many commands wait for answers already, so this one was not taken;
 * - `closed`: the program has closed the feed, and the command was not sent.
 */
export class FeedError extends Error {
    /** @param {string} code @param {string} message */
    constructor(code, message) {
        super(message);
        this.name = "FeedError";
        this.code = code;
    }
}

/** A connection that is made again after a cut. What happens on it is told to `owner`. */
class Link {
    /**
     * @param {string} path
     * @param {object} greeting The line that is sent and answered first.
     * @param {{ opened(): void, drained?(): void, heard(line: any): void, read?(): void, cut(): void, isWanted(): boolean }} owner
     *     `isWanted` is asked before each new attempt.
     * @param {boolean} keepsRunning Whether the open connection keeps the program from ending.
     */
    constructor(path, greeting, owner, keepsRunning) {
        this.path = path;
        this.greeting = greeting;
        this.owner = owner;
        this.keepsRunning = keepsRunning;
        this.isOpen = this.isClosed = false;
        this.tries = 0;
        /** Why there is no connection, and whether another attempt is of no use. @type {FeedError & { isFinal?: boolean } | undefined} */
        this.cause = undefined;
        /** @type {net.Socket | undefined} */
        this.socket = undefined;
        /** @type {NodeJS.Timeout | undefined} */
        this.timer = undefined;
    }

    /** Connects, unless there is a connection, or an attempt is made or waited for. */
    open() {
        if (this.socket || this.timer || this.isClosed) return;
        const socket = net.connect(this.path).setEncoding("utf8");
        this.socket = socket;
        if (!this.keepsRunning) socket.unref();
        let rest = "";
        socket.on("connect", () => {
            // A failed write would end the socket before the reason of a refusal is read, so that has a moment to come.
            setTimeout(() => socket.destroyed || socket.write(`${JSON.stringify(this.greeting)}\n`), 1);
        });
        socket.on("data", (/** @type {string} */ text) => {
            const lines = text.split("\n");
            lines[0] = rest + lines[0];
            rest = /** @type {string} */ (lines.pop());
            for (const line of lines) {
                if (socket.destroyed) return;
                try {
                    const value = JSON.parse(line);
                    if (this.isOpen || value.op) this.owner.heard(value);
                    else this.#greet(value);
                } catch (error) {
                    const { message } = /** @type {Error} */ (error);
                    return void socket.destroy(new Error(`what listens there is no feed: ${message}`));
                }
            }
            this.owner.read?.();
        });
        socket.on("drain", () => this.owner.drained?.());
        socket.on("error", (error) => (this.cause = explain(error, this.path, this.cause)));
        socket.on("close", () => {
            this.isOpen = false;
            this.socket = undefined;
            if (this.isClosed) return;
            this.cause ??= new FeedError("not_sent", `the server has closed the connection to ${this.path}`);
            const wait = Math.random() * Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.tries++);
            const timer = (this.timer = setTimeout(() => {
                this.timer = undefined;
                if (this.owner.isWanted()) this.open();
            }, wait));
            if (!this.keepsRunning) timer.unref();
            this.owner.cut();
        });
    }

    /** @param {any} answer */
    #greet({ ok, error }) {
        if (ok) {
            this.isOpen = true;
            this.tries = 0;
            this.cause = undefined;
            this.owner.opened();
        } else {
            this.cause = Object.assign(new FeedError(error.code, error.message), { isFinal: error.code !== "full" });
            this.socket?.destroy();
        }
    }

    /** Ends the connection for good. */
    close() {
        this.isClosed = true;
        clearTimeout(this.timer);
        this.socket?.destroy();
    }
}

/** @param {NodeJS.ErrnoException} error @param {string} path @param {FeedError} [before] */
function explain(error, path, before) {
    const hints = /** @type {Record<string, string>} */ ({
        ENOENT: "there is no such socket; is the server running, and is this its feed?",
        ECONNREFUSED: "no server listens there; is it running?",
        EACCES: "this user may not connect; see [feed] mode and group in the server's configuration",
    });
    const hint = hints[error.code ?? ""];
    // The end of a connection says less than the reason that the server gave when it refused one.
    if (before && !hint) return before;
    return Object.assign(new FeedError("not_sent", `${path}: ${hint ?? error.message}`), { isFinal: error.code === "EACCES" });
}

/** The feed of a server. It connects with the first command and again after each cut, until it is closed. */
export class Feed {
    /** @type {Map<number, any>} The commands that are not answered, by `ref` and in their order. */
    #calls = new Map();
    /** @type {Set<any>} Those of them that the socket has not been given. */
    #unsent = new Set();
    /** @type {Set<Listener>} */
    #listeners = new Set();
    /** @type {(() => void)[]} */
    #waiting = [];
    #bytes = 0;
    #next = 1;
    #options;
    #link;

    /**
     * @param {{ path?: string, timeout?: number, autoKey?: boolean, maxPending?: number, maxPendingBytes?: number }} [options]
     *     `path`: the feed's socket, by default `$RINGCAST_FEED` or /run/ringcast/feed.sock. `timeout`: milliseconds for each
     *     command, attempts after a cut included; it must be shorter than the server's `[feed] idempotency_window`. `autoKey`:
     *     gives each publish that has no key a random one. `maxPending`, `maxPendingBytes`: commands without an answer beyond which
     *     `room` waits; those beyond twice as many are refused (`busy`).
     */
    constructor(options = {}) {
        const path = options.path || process.env.RINGCAST_FEED || "/run/ringcast/feed.sock";
        this.#options = { timeout: 10_000, autoKey: false, maxPending: 10_000, maxPendingBytes: 64 << 20, ...options, path };
        const [flush, isWanted] = [() => this.#flush(), () => this.#calls.size > 0];
        const owner = { opened: flush, drained: flush, heard: this.#heard.bind(this), cut: this.#cut.bind(this), isWanted };
        this.#link = new Link(path, GREETING, owner, false);
    }

    /**
     * Publishes an event to a channel, or to several; returns its id, or one id per channel.
     * @template {string | string[]} C
     * @param {C} channel @param {Data} data @param {PublishOptions} [options]
     * @returns {Promise<C extends string ? string : string[]>}
     */
    async publish(channel, data, options = {}) {
        const item = this.#item({ [Array.isArray(channel) ? "channels" : "channel"]: channel, data, ...options });
        const answer = await this.call({ op: "publish", ...item }, { retry: item.key !== undefined });
        return answer.id ?? answer.ids;
    }

    /**
     * Publishes all of these events or, if one is refused, none; returns their ids.
     * @param {Item[]} items @returns {Promise<string[]>}
     */
    async batch(items) {
        const list = items.map((item) => this.#item(item));
        return (await this.call({ op: "batch", items: list }, { retry: list.every((item) => item.key !== undefined) })).ids;
    }

    /**
     * Ends a channel.
     * @param {string} channel @param {Repeating} [options] @returns {Promise<void>}
     */
    async end(channel, options) {
        await this.call({ op: "end", channel }, options);
    }

    /**
     * Ends connections; returns their number.
     * @param {KickTarget & { reason?: string }} target @param {Repeating} [options] @returns {Promise<number>}
     */
    async kick(target, options) {
        return (await this.call({ op: "kick", ...target }, options)).kicked;
    }

    /**
     * Takes a user off a channel; returns the number of subscriptions.
     * @param {{ user: string, channel: string, reason?: string }} target @param {Repeating} [options]
     * @returns {Promise<number>}
     */
    async unsubscribe(target, options) {
        return (await this.call({ op: "unsubscribe", ...target }, options)).unsubscribed;
    }

    /**
     * Sends a message to one connection, or to all of a user.
     * @param {{ conn: string } | { user: string }} target @param {Data} data @param {Repeating} [options]
     * @returns {Promise<void>}
     */
    async send(target, data, options) {
        await this.call({ op: "send", ...target, ...payload(data) }, options);
    }

    /**
     * The users on a channel.
     * @param {string} channel @returns {Promise<Presence>}
     */
    async presence(channel) {
        const { connections, count, users } = await this.call({ op: "presence", channel }, { retry: true });
        return { connections, count, users };
    }

    /**
     * A channel's events after an id.
     * @param {string} channel @param {{ after?: string, limit?: number }} [options] @returns {Promise<History>}
     */
    async history(channel, options = {}) {
        const { events, complete_since, more } = await this.call({ op: "history", channel, ...options }, { retry: true });
        return { events, complete_since, ...(more && { more }) };
    }

    /** The server's figures. @returns {Promise<any>} */
    async stats() {
        return (await this.call({ op: "stats" }, { retry: true })).stats;
    }

    /**
     * Carries out any command of the feed and returns the server's answer. Commands are carried out in the order of the calls.
     * @param {{ op: string, [field: string]: unknown }} command @param {Repeating} [options] @returns {Promise<any>}
     */
    call(command, { retry = false } = {}) {
        return new Promise((resolve, reject) => {
            if (this.#link.isClosed) throw closed("the feed");
            if (this.#isFull(2)) throw new FeedError("busy", `${this.#calls.size} commands wait for answers: await room() before more`);
            const ref = this.#next++;
            const line = `${JSON.stringify({ ...command, ref })}\n`;
            const call = { ref, line, retry, resolve, reject, isSent: false, mayBeDone: false, isSettled: false };
            this.#bytes += line.length;
            this.#calls.set(ref, Object.assign(call, { timer: setTimeout(() => this.#expire(call), this.#options.timeout) }));
            this.#unsent.add(call);
            // Commands of the same turn of the program go out in one write.
            if (this.#unsent.size === 1) process.nextTick(() => this.#flush());
        });
    }

    /** Waits until a further command is taken, for programs that publish faster than the server. @returns {Promise<void>} */
    async room() {
        while (this.#isFull(1)) await new Promise((resolve) => this.#waiting.push(() => resolve(undefined)));
    }

    /**
     * Listens to clients: returns an iterator of their messages, connects and disconnects, once the server knows of it. It has a
     * connection of its own. What is not taken from it is not read, so that the server holds up the clients' messages.
     * @param {("messages" | "connections")[]} what @returns {Promise<AsyncIterableIterator<Told> & { close(): void }>}
     */
    async listen(what = ["messages", "connections"]) {
        return /** @type {any} */ (this.#listen(what));
    }

    /**
     * Decides about clients without a token, where the server has `[auth] ask_backend`. `decide` is given each question, and answers
     * with true, false, the allowed channels, or `{ allow, user }`. If it throws, the client is refused and `onError` is told.
     * @param {(question: Question) => Decision | Promise<Decision>} decide
     * @param {{ concurrency?: number, onError?: (error: any) => void }} [options] @returns {Promise<{ close(): void }>}
     */
    async authorize(decide, { concurrency = 100, onError = console.error } = {}) {
        const listener = await this.#listen(["authorize"]);
        const answer = async (/** @type {Question} */ question) => {
            let decision = /** @type {any} */ ({ allow: false });
            try {
                const made = await decide(question);
                const isPlain = typeof made === "boolean" || Array.isArray(made);
                decision = isPlain ? { allow: made } : { allow: made.allow, user: made.user };
            } catch (error) {
                onError(error);
            }
            listener.write({ op: "authorized", conn: question.conn, ask: question.ask, ...decision });
        };
        const answerAll = async () => {
            const running = new Set();
            for await (const line of listener) {
                if (line.op !== "authorize") continue;
                const task = answer(line).finally(() => running.delete(task));
                running.add(task);
                if (running.size >= concurrency) await Promise.race(running);
            }
        };
        answerAll().catch(onError);
        return listener;
    }

    /** Ends the connections at once and for good. Commands without an answer fail; await them before, if they matter. */
    close() {
        this.#link.close();
        for (const listener of this.#listeners) listener.close();
        for (const call of [...this.#calls.values()]) {
            this.#settle(call, call.isSent || call.mayBeDone ? unknown("the feed was closed", call) : closed("the feed"));
            this.#forget(call);
        }
    }

    /** @param {string[]} what */
    async #listen(what) {
        if (this.#link.isClosed) throw closed("the feed");
        const listener = new Listener(this.#options, what, () => this.#listeners.delete(listener));
        this.#listeners.add(listener);
        await listener.ready;
        return listener;
    }

    /** @param {number} times */
    #isFull(times) {
        const { maxPending, maxPendingBytes } = this.#options;
        return this.#calls.size >= times * maxPending || this.#bytes >= times * maxPendingBytes;
    }

    /** @param {any} item */
    #item({ data, ...item }) {
        if (item.key === undefined && this.#options.autoKey) item.key = crypto.randomUUID();
        return { ...item, ...payload(data) };
    }

    /** Gives the socket as many commands as it takes. */
    #flush() {
        const { socket, isOpen } = this.#link;
        if (this.#unsent.size === 0) return;
        if (!socket || !isOpen) return this.#link.open();
        socket.cork();
        for (const call of this.#unsent) {
            if (socket.writableNeedDrain) break;
            call.isSent = true;
            this.#unsent.delete(call);
            socket.write(call.line);
        }
        socket.uncork();
    }

    /** @param {any} answer */
    #heard(answer) {
        const { ref, ok, error } = answer;
        // Answers come in the order of the lines, so one to a line that the server could not read is that to the oldest.
        const call = ref === undefined ? this.#calls.values().next().value : this.#calls.get(ref);
        if (!call) return;
        this.#settle(call, ok ? undefined : new FeedError(error.code, error.message), answer);
        this.#forget(call);
    }

    /** Sorts the commands after a cut: those that may be sent again, and those whose outcome is unknown. */
    #cut() {
        const { cause } = this.#link;
        for (const call of [...this.#calls.values()]) {
            call.mayBeDone ||= call.isSent;
            const isLost = call.isSent && (call.isSettled || !call.retry);
            call.isSent = false;
            if (isLost) this.#settle(call, unknown("the connection was cut before the answer", call));
            else if (cause?.isFinal) this.#settle(call, call.mayBeDone ? unknown(cause.message, call) : cause);
            if (call.isSettled) this.#forget(call);
        }
        this.#unsent = new Set(this.#calls.values());
    }

    /** @param {any} call */
    #expire(call) {
        const { timeout } = this.#options;
        if (call.isSent || call.mayBeDone) {
            this.#settle(call, unknown(`no answer came within ${timeout} ms`, call));
            // A command that was sent counts as pending until its answer comes or the connection is cut.
            if (call.isSent) return;
        } else {
            const { code, message } = this.#link.cause ?? new FeedError("not_sent", "the server takes no commands at the moment");
            this.#settle(call, new FeedError(code, `not sent within ${timeout} ms: ${message}`));
        }
        this.#forget(call);
    }

    /** @param {any} call @param {FeedError} [error] @param {any} [answer] */
    #settle(call, error, answer) {
        clearTimeout(call.timer);
        if (call.isSettled) return;
        call.isSettled = true;
        if (error) call.reject(error);
        else call.resolve(answer);
    }

    /** @param {any} call */
    #forget(call) {
        this.#calls.delete(call.ref);
        this.#unsent.delete(call);
        this.#bytes -= call.line.length;
        if (this.#waiting.length > 0) setImmediate(() => this.#wake());
    }

    /** Wakes one that waits for room, and the next one after the first has had the time to use it. */
    #wake() {
        if (this.#waiting.length === 0 || this.#isFull(1)) return;
        this.#waiting.shift()?.();
        setImmediate(() => this.#wake());
    }
}

/** @param {Data} data */
function payload(data) {
    if (!(data instanceof Uint8Array)) return { data };
    return { data_b64: Buffer.from(data.buffer, data.byteOffset, data.length).toString("base64") };
}

/** @param {string} event @param {{ retry: boolean }} call */
function unknown(event, call) {
    const advice = call.retry ? "it may be repeated, a publish with the same key" : "a publish that has a key may be repeated";
    return new FeedError("outcome_unknown", `${event}: whether the command was carried out is unknown; ${advice}`);
}

/** @param {string} what */
function closed(what) {
    return new FeedError("closed", `${what} was closed by this program`);
}

/** Lines that the server tells over a connection of its own, as an iterator. */
class Listener {
    /** @type {any[]} */
    #lines = [];
    /** @type {(() => void)[]} */
    #waiting = [];
    /** @type {FeedError | undefined} */
    #error;
    #isReady = false;
    /** @type {Link} */
    #link;
    #settle = (/** @type {FeedError | undefined} */ _error = undefined) => {};

    /** @param {{ path: string, timeout: number }} options @param {string[]} what @param {() => void} ended */
    constructor({ path, timeout }, what, ended) {
        this.ended = ended;
        this.#link = new Link(path, { op: "listen", what, ref: 0 }, {
            opened: () => this.#opened(),
            // An answer is an error about a decision for a client that has gone.
            heard: (line) => line.op && this.#lines.push(line),
            read: () => this.#lines.length > 0 && (this.#link.socket?.pause(), this.#wake()),
            cut: () => this.#link.cause?.isFinal && this.#end(this.#link.cause),
            isWanted: () => true,
        }, true);
        const timer = setTimeout(() => {
            const { code, message } = this.#link.cause ?? { code: "not_sent", message: "the server does not answer" };
            this.#end(new FeedError(code, `not listening within ${timeout} ms: ${message}`));
        }, timeout);
        /** Whether the server knows of the listener. @type {Promise<void>} */
        this.ready = new Promise((resolve, reject) => {
            this.#settle = (error) => (clearTimeout(timer), error ? reject(error) : resolve());
        });
        this.#link.open();
    }

    #opened() {
        // Lines that were to be told while the connection was cut are lost.
        if (this.#isReady) this.#lines.push({ op: "lost" });
        this.#isReady = true;
        this.#settle();
    }

    #wake() {
        for (const wake of this.#waiting.splice(0)) wake();
    }

    /** @param {object} line */
    write(line) {
        if (this.#link.isOpen) this.#link.socket?.write(`${JSON.stringify(line)}\n`);
    }

    [Symbol.asyncIterator]() {
        return this;
    }

    /** @returns {Promise<IteratorResult<any>>} */
    async next() {
        for (;;) {
            if (this.#error) throw this.#error;
            if (this.#link.isClosed) return { value: undefined, done: true };
            if (this.#lines.length > 0) return { value: this.#lines.shift(), done: false };
            await new Promise((resolve) => {
                this.#waiting.push(() => resolve(undefined));
                this.#link.socket?.resume();
            });
        }
    }

    /** Ends with the loop that takes the lines. @returns {Promise<IteratorResult<any>>} */
    async return() {
        this.close();
        return { value: undefined, done: true };
    }

    /** Ends the connection at once and for good. */
    close() {
        this.#end();
    }

    /** @param {FeedError} [error] */
    #end(error) {
        if (this.#link.isClosed) return;
        this.#error = error;
        this.#link.close();
        this.#settle(error ?? closed("the listener"));
        this.ended();
        this.#wake();
    }
}
