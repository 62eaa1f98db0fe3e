// The connection's life: when, over which transport, from which positions, and why not.

import { isAfter, least } from "./ids.js";
import { isFollower, isHolder, join, leave, tabLink, tellTabs } from "./share.js";
import { poll } from "./transports/poll.js";
import { sse } from "./transports/sse.js";
import { ws } from "./transports/ws.js";
import { RingcastError, type Listeners, type Reason, type RingcastEvent, type State, type TransportName } from "./types.js";

/** Nothing is asked for (0), the server was asked (1), has confirmed it (2), or there is no room for more events (3). */
export type Standing = 0 | 1 | 2 | 3;

/** One subscription: a handler, an iterator, or another tab's. */
export interface Sub {
    _channel: string;
    /** The only name of events that it takes. */
    _name?: string | undefined;
    /** The position: the last event that was taken, or what lies before the first. */
    _at?: string | undefined;
    /** Where it stands with the present link. */
    _is?: Standing;
    /** The position that the server was asked for. */
    _from?: string | undefined;
    /** The end of the last gap that was told. */
    _told?: string;
    /** Takes an event. The promise is one of room for a further event. */
    _take(event: RingcastEvent): void | Promise<void>;
    _end?(error?: RingcastError): void;
    _onGap?(): void;
    _onConfirmed?(): void;
    /** The position of the program, if that lies behind. */
    _taken?(): string | undefined;
}

/** A connection, over whatever transport. */
export interface Link {
    /** Brings the server's subscriptions in line with the session's. */
    _sync(): void;
    _stop(): void;
    /** Asks for a sign of life, if the transport has a way. */
    _probe?(): void;
    /** Sends a message, if the transport has a way. */
    _send?(message: object): void;
}

/** Why a link has ended. */
export interface Ending {
    code?: string | undefined;
    message?: string | undefined;
    reason?: string | undefined;
    /** The status of HTTP. */
    status?: number | undefined;
    /** The time after which the server wants the client back, in milliseconds. */
    retry_ms?: number | undefined;
}

export type Transport = (token: string | undefined) => Link;

const scope = globalThis as any;

/** The claims of a token, as far as they can be read. */
export function claims(token: any): { exp?: number; iat?: number; sub?: string } {
    try {
        return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    } catch {
        return {};
    }
}

export const subs = new Set<Sub>();
const listeners: { [name: string]: Set<(value: any) => unknown> } = {};
const { token } = options;
export const { beat = 20 } = options;
/** Channels that are read again from older positions, while all others wait. */
export const late = new Set<string>();
export let state: State = { name: "idle" };
export let link: Link | undefined;
/** Another object for each link, and for none. */
let generation = {};
/** Ends the page's events. */
let hooks: AbortController | undefined;
/** Whether the client had long been connected, so that all others may have been cut with it. */
let isSettled = false;
let tries = 0;
let denials = 0;
/** When the link told something; in all future while it is not read. */
let heardAt = 0;
/** When the link opened; 0 before that. */
export let openedAt = 0;
let tickedAt = 0;
let refreshAt = NaN;
let silence = 0;
let timer: any;
let ticks: any;
/** Those that wait for answers, by the numbers of the messages. */
const calls = new Map<number, (answer: any) => void>();
let refs = 0;
// The transport: its name and place in the list, failures in a row that it may have, and when it became this one.
let transport: TransportName = "sse";
let place = 0;
let patience = 2;
let placedAt = 0;

// ---- what the program is told

export const fault = ({ code, message }: Reason) => new RingcastError(code, message);

export const guard = (call: (value: any) => any, value: unknown, name?: string): void => {
    const report = (error: unknown) => (name == "error" ? console.error(error) : emit("error", error));
    try {
        call(value)?.catch?.(report);
    } catch (error) {
        report(error);
    }
};
const emit = <N extends keyof Listeners>(name: N, value: Listeners[N]): void => {
    const all = listeners[name];
    if (!all?.size && /r|p/.test(name)) console.warn("ringcast", name, value);
    all?.forEach((listener) => guard(listener, value, name));
};
export const set = (next: State): void => {
    state = next;
    if (FULL) tellTabs("up", next);
    emit("state", next);
};
export const on = (name: string, listener: (value: any) => unknown): (() => void) => {
    const all = (listeners[name] ??= new Set());
    all.add(listener);
    if (FULL && name == "message") begin();
    return () => all.delete(listener);
};

// ---- subscriptions

const isNeeded = () => subs.size + (FULL ? (listeners["message"]?.size ?? 0) : 0);
export const wanted = () => [...subs].filter((sub) => !sub._is);
/** Tells the link of changed subscriptions, after the present task. */
const sync = () => queueMicrotask(() => link?._sync());
export const add = (sub: Sub) => {
    subs.add(sub);
    begin();
    sync();
};
export const remove = (sub: Sub) => {
    if (subs.delete(sub)) sync();
};
/** The link tells the events of these subscriptions from now on, after this position if they have none. */
export const confirm = (some: Sub[], position?: string) => {
    for (const sub of some) {
        if (sub._is != 1) continue;
        sub._at ??= position;
        sub._is = 2;
        if (FULL) sub._onConfirmed?.();
    }
};
/** Nothing is asked for any more. */
export const off = () => {
    if (FULL) late.clear();
    for (const sub of subs) if (sub._is != 3) sub._is = 0;
};
/** Sends a message, and hears its answer before anything that follows it. Nothing is queued. */
export const say = (message: object, hear: (answer: any) => void): any => {
    if (!link?._send) return hear({ error: { code: link ? "one_way" : "cut" } });
    calls.set(++refs, hear);
    link._send({ ...message, ref: refs });
    return refs;
};
export const answer = (told: any): void => {
    calls.get(told.ref)?.(told);
    calls.delete(told.ref);
};

// ---- what links tell

/**
 * Hears messages. Firefox breaks off a function of a page that is left or closed, perhaps before its first statement, and the page may
 * still hear the next message. So one function counts what another one carries out, and after a message that was not, the link is given up.
 */
export const listen = (from: EventTarget, carryOut: (data: any) => void): void => {
    let begun = 0;
    let done = 0;
    from.addEventListener("message", () => {
        begun++;
    });
    from.addEventListener("message", ({ data }: any) => {
        if (begun - done == 1) carryOut(data);
        else if (link) over(link, {});
        done = begun;
    });
};

export const hear = () => {
    heardAt = Date.now();
};
const opened = ({ conn, beat_ms }: { conn: string; beat_ms: number }) => {
    hear();
    openedAt = heardAt;
    silence = 1.75 * beat_ms;
    if (FULL) patience = 5;
    set({ name: "open", transport, conn, ...(FULL && isHolder && { shared: "holder" }) });
};
/**
 * Tells an event. Events come in the order of their ids, so each is a position on all channels of the link, except while some
 * are read again. If a subscription has no room for more, a stream is not read on, and a link of messages leaves the channel.
 */
export const event = async (told: RingcastEvent, isLate = FULL && late.has(told.channel)): Promise<void> => {
    const at = link;
    let room: Promise<void> | undefined;
    if (FULL && !isLate) late.clear();
    for (const sub of subs) {
        if (sub._is != 2 || !isAfter(told.id, sub._at)) continue;
        const isIts = sub._channel == told.channel;
        const full = isIts && (!sub._name || sub._name == told.event) && sub._take(told);
        if (!FULL || isIts || !isLate) sub._at = told.id;
        if (FULL && full && at!._send) {
            sub._is = 3;
            sync();
            full.then(() => {
                sub._is = 0;
                sync();
            });
        } else room = full || room;
    }
    if (!room) return;
    heardAt = Infinity;
    await room;
    if (at == link) hear();
};
/** Tells of lost events, of each once. A server that has not reached the position names one after the newest event. */
const gap = ({ after, resumed }: { after: string; resumed: string }) => {
    const isForeign = isAfter(after, resumed);
    let present = [...subs].filter((sub) => sub._is == 2);
    // Channels that were asked for from other positions have not lost these events.
    if (FULL && present.some((sub) => sub._from == after)) present = present.filter((sub) => sub._from == after);
    /** The channels that have lost events, and the positions after which. */
    const ends: { [channel: string]: string } = {};
    const told: { [after: string]: string[] } = {};
    for (const sub of present) {
        const { _at = "", _told = "", _channel } = sub;
        const end = isAfter(_told, _at) ? _told : _at;
        if (isForeign ? !isAfter(_at, resumed) : !isAfter(resumed, end)) continue;
        ends[_channel] = least([ends[_channel], end])!;
        sub._told = resumed;
        // Events of other channels that lie before the gap's end may still come.
        if (isForeign) sub._at = resumed;
        if (FULL) sub._onGap?.();
    }
    // Channels are told together if they have lost events after the same position.
    for (const channel in ends) (told[ends[channel]!] ??= []).push(channel);
    for (const after in told) emit("gap", { channels: told[after]!, after, resumed });
};
export const notice = (name: string, value: any): void => {
    if (name == "hello") return opened(value);
    if (name == "bye") return over(link, value);
    if (FULL) tellTabs("notice", [name, value]);
    if (name == "gap") gap(value);
    if (FULL && name == "message") emit(name, value);
    if (name != "end" && name != "unsubscribed") return;
    const its = [...subs].filter((sub) => sub._channel == value.channel);
    if (its[0]) emit(name, value);
    for (const sub of its) {
        remove(sub);
        sub._end?.(name == "end" ? undefined : fault({ code: name, message: value.reason }));
    }
};
/** The server has no more of these channels for this client. */
export const lost = (channels: string[], name: "end" | "unsubscribed" = "end", reason?: string) => channels.forEach((channel) => notice(name, { channel, reason }));
/** The codes and statuses with which a token is refused, and those which are no use to try again. */
export const DENIED = /^(401|unauth|invalid_t|token_)/;
const FINAL = /^(4(?!01|08|29)|bad_|kicked|forbidden|origin)/;

export const over = (at: Link | undefined, { code = "cut", reason: words, message = words ?? code, status, retry_ms }: Ending): void => {
    if (at != link) return;
    const age = openedAt && Date.now() - openedAt;
    const reason = { code, message };
    const why = `${status ?? code}`;
    const isDenied = DENIED.test(why);
    drop();
    if (age) {
        isSettled = age > 60_000 && code != "silent";
        tries = age > 10_000 ? 0 : Math.min(tries, 2);
    }
    // The server had taken the token.
    if (age > 1000) denials = 0;
    if (isDenied && typeof token == "function" && !denials++) connect();
    else if (isDenied || FINAL.test(why)) close(reason, true);
    else if (!isNeeded()) rest();
    else {
        // The next transport, where one does not open, or a proxy holds its answers back.
        if (FULL && !age && !status && !retry_ms && ((code == "silent" && !at!._send) || !--patience)) {
            patience = 2;
            place++;
            placedAt = Date.now();
        }
        // A refusal's time is one of a few for all clients.
        wait(reason, retry_ms ? retry_ms + (age ? 0 : 20_000 * Math.random()) : undefined);
    }
};

// ---- connecting

export const begin = () => {
    if (state.name == "idle") connect();
};
/**
 * Waits for the next try. Without a time of the server's it is anything from 0 to a bound that grows. The first bound is the program's
 * `spread`, or short; but after a cut of all clients a tenth of them within a second is too many. A page that is shown goes first.
 */
const wait = (reason: Reason, ms?: number) => {
    const first = options.spread ?? (isSettled ? (scope.document?.hidden === false ? 3000 : 25_000) : 500);
    ms ??= Math.random() * Math.min(30_000, first * 2 ** tries++);
    clearTimeout(timer);
    timer = setTimeout(connect, ms);
    set({ name: "waiting", ms: Math.round(ms), reason });
};
export const rest = () => {
    drop();
    set({ name: "idle" });
};
/** Lets go of the link, whose further words are not heard. */
const drop = () => {
    generation = {};
    clearTimeout(timer);
    clearInterval(ticks);
    off();
    const last = link;
    link = undefined;
    openedAt = 0;
    last?._stop();
    if (!FULL) return;
    for (const hear of calls.values()) hear({ error: { code: "cut" } });
    calls.clear();
};
const getToken = async (): Promise<string | undefined> => {
    const text = await (typeof token == "function" ? token() : token);
    if (!FULL) return text;
    const now = Date.now();
    const { exp, iat = now / 1000 } = claims(text);
    const life = (exp! - iat) * 1000;
    refreshAt = now + Math.max(0.8 * life, life - 30_000);
    return text;
};
export const connect = async (): Promise<void> => {
    drop();
    const own = generation;
    if (!hooks) {
        hooks = new AbortController();
        for (const type of FULL ? ["online", "visibilitychange", "pagehide", "pageshow"] : ["online"]) scope.addEventListener?.(type, onPage, hooks);
    }
    set({ name: "connecting" });
    try {
        const text = FULL && isFollower() ? undefined : await getToken();
        if (FULL && options.share && own == generation && !isFollower()) {
            await join(text);
        }
        if (own != generation) return;
        heardAt = tickedAt = Date.now();
        if (!FULL) link = sse(text);
        else if (isFollower()) link = tabLink();
        else {
            if (heardAt - placedAt > 3_600_000) place = 0;
            const names = (options.transports ?? (["ws", "sse", "poll"] as const)).filter((name) => name != "ws" || options.WebSocket || scope.WebSocket);
            link = { ws, sse, poll }[(transport = names[place % names.length]!)](text);
        }
        ticks = setInterval(tick, Math.min(1000, beat * 200));
        link._sync();
    } catch (error) {
        if (own != generation) return;
        emit("error", error);
        wait({ code: "token", message: `${error}` });
    }
};
/** Gets the next token before the present one expires. If that fails, the connection ends with its token. */
const refresh = () => {
    refreshAt = NaN;
    if (!link!._send) return connect();
    const at = link;
    getToken().then(
        (text) => at == link && say({ refresh: text }, ({ error }) => error && emit("error", fault(error))),
        (error) => emit("error", error),
    );
};
export const reconnect = () => {
    if ("reason" in state && state.reason.code == "closed") return;
    tries = denials = 0;
    connect();
};
/** Ends everything. `isRefused`: by the server, so that the program may try again. */
export const close = (reason: Reason, isRefused?: boolean) => {
    if (state.name == "closed") return;
    drop();
    hooks?.abort();
    hooks = undefined;
    set({ name: "closed", reason });
    if (FULL) leave();
    for (const sub of subs) {
        if (!isRefused) subs.delete(sub);
        sub._end?.(isRefused ? fault(reason) : undefined);
    }
};

// ---- time, and the page

const tick = () => {
    const now = Date.now();
    const hasSlept = now - tickedAt > 6000;
    tickedAt = now;
    if (FULL && isFollower()) return;
    if (now - heardAt > (openedAt ? silence : 10_000)) over(link, { code: "silent" });
    else if (FULL && hasSlept) probe();
    else if (FULL && openedAt && now > refreshAt) refresh();
};
/** Asks whether the link is alive, or judges by the last heartbeat. */
const probe = () => {
    if (!openedAt || (FULL && (isFollower() || scope.document?.hidden))) return;
    if (FULL && link!._probe) {
        // It has 3.5 seconds.
        heardAt = Math.min(heardAt, Date.now() + 3500 - silence);
        link!._probe();
    } else if (Date.now() - heardAt > silence / 1.75) over(link, { code: "silent" });
};
const onPage = ({ type, persisted }: any) => {
    if (FULL && type == "pagehide") {
        leave();
        rest();
    } else if (FULL && type == "pageshow") {
        if (persisted && isNeeded()) connect();
    } else if (state.name != "waiting") probe();
    else if (!FULL || type == "online") wait(state.reason, Math.min(state.ms, 1000 * Math.random()));
};

/** The address of a path of the server's. */
export const address = (path: string, query?: any): string =>
    `${new URL(url.replace(/^ws/, "http").replace(/\/*$/, "/" + path), scope.location)}?${new URLSearchParams(query)}`;

export const position = (): string | undefined => least([...subs].map((sub) => sub._taken?.() ?? sub._at));
