// The connection's life: when, over which transport, from which positions, and why not.

import { afterRefusal, jitter } from "./backoff.js";
import { FOREIGN, isAfter, least } from "./ids.js";
import { RingcastError, type Listeners, type Options, type Reason, type RingcastEvent, type State, type TransportName } from "./types.js";

/** One subscription: a handler, an iterator, or another tab's. */
export interface Sub {
    _channel: string;
    /** The position: the last event that was taken, or what lies before the first. */
    _at?: string | undefined;
    /** The link over which the server has confirmed the subscription. */
    _link?: Link | undefined;
    /** The link over which the server was asked for it. */
    _asked?: Link | undefined;
    /** The position that the server was asked for. */
    _from?: string | undefined;
    /** The end of the last gap that was told. */
    _told?: string;
    /** Whether it takes no events at present. */
    _isFull?: boolean;
    /** Takes an event. `false`: there is no room for it. A promise: there is no room for a further one until then. */
    _take(event: RingcastEvent): false | void | Promise<void>;
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
    _call?(message: object): Promise<any>;
    /** Whether it goes over another tab, which watches over it. */
    _isTab?: boolean;
}

/** Why a link has ended. */
export interface Ending {
    code?: string | undefined;
    message?: string | undefined;
    /** The status of HTTP, or one that means the same. */
    status?: number | undefined;
    /** The time after which the server wants the client back, in milliseconds. */
    retry?: number | undefined;
}

export type Transport = (session: Session, token: string | undefined) => Link;
export type Transports = { [name in TransportName]?: Transport };

/** A tab among those that share a connection. */
export interface Group {
    _name: string;
    _isHolder: boolean;
    _link(): Link;
    _post(message: object): void;
    _leave(): void;
}
export type Join = (session: Session, token: string | undefined, present: Group | undefined) => Promise<Group | undefined>;

export type Session = ReturnType<typeof makeSession>;

const scope = globalThis as any;

/** The claims of a token, as far as they can be read. */
export function claims(token: any): { exp?: number; iat?: number; sub?: string } {
    try {
        return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    } catch {
        return {};
    }
}

export function makeSession(url: string, options: Options, transports: Transports, join?: Join) {
    const subs = new Set<Sub>();
    const listeners: { [name: string]: Set<(value: any) => unknown> } = {};
    const { beat = 20, spread, token } = options;
    /** Channels that are read again from older positions, while all others wait. */
    const late = new Set<string>();
    let state: State = { name: "idle" };
    let link: Link | undefined;
    let group: Group | undefined;
    let generation = {};
    let isOpen = false;
    let isHooked = false;
    let isSettled = false;
    let isSyncing = false;
    let isPaused = false;
    let tries = 0;
    let denials = 0;
    let heardAt = 0;
    let openedAt = 0;
    let tickedAt = 0;
    let probedAt = 0;
    let refreshAt = NaN;
    let silence = 0;
    let timer: any;
    let ticks: any;
    // The transport: its place in the list, failures in a row, the places that have worked, and when it became this one.
    let place = 0;
    let fails = 0;
    let placedAt = 0;
    const works: { [place: number]: boolean } = {};

    // ---- what the program is told

    const guard = (call: (value: any) => any, value: unknown, name?: string): void => {
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
    const set = (next: State): void => {
        if (FULL && group) {
            if (next.name == "open") next.shared = group._isHolder ? "holder" : "follower";
            relay({ t: "state", v: next });
        }
        emit("state", (state = next));
    };
    const relay = (message: object): void => {
        if (FULL && group?._isHolder) group._post(message);
    };
    const on = (name: string, listener: (value: any) => unknown) => {
        const all = (listeners[name] ??= new Set());
        all.add(listener);
        if (FULL && name == "message") begin();
        return () => void all.delete(listener);
    };

    // ---- subscriptions

    const isNeeded = () => subs.size + (FULL ? (listeners["message"]?.size ?? 0) : 0);
    const wanted = () => [...subs].filter((sub) => !(FULL && sub._isFull) && !(link && (sub._link == link || sub._asked == link)));
    /** Tells the link of changed subscriptions, once for all changes of a task. */
    const sync = () => {
        if (isSyncing) return;
        isSyncing = true;
        queueMicrotask(() => {
            isSyncing = false;
            link?._sync();
        });
    };
    const add = (sub: Sub) => {
        subs.add(sub);
        begin();
        sync();
    };
    const remove = (sub: Sub) => {
        if (subs.delete(sub)) sync();
    };
    /** The link tells the events of these subscriptions from now on, after this position if they have none. */
    const confirm = (some: Sub[], position?: string) => {
        for (const sub of some) {
            sub._at ??= position;
            sub._link = link;
            if (FULL) sub._onConfirmed?.();
        }
    };
    /** Nothing is confirmed any more. */
    const off = () => {
        if (FULL) late.clear();
        for (const sub of subs) sub._link = sub._asked = undefined;
    };

    // ---- what links tell

    const hear = () => {
        heardAt = Date.now();
        if (FULL) probedAt = 0;
    };
    const opened = (transport: TransportName, conn: string, beatMs: number) => {
        hear();
        isOpen = true;
        silence = 1.75 * beatMs;
        openedAt = heardAt;
        if (FULL) {
            fails = 0;
            works[place] = true;
        }
        set({ name: "open", transport, conn });
    };
    /**
     * Tells an event. Events come in the order of their ids, so each is a position on all channels of the link, except while some
     * are read again. If there is no room for more, this returns a promise of it.
     */
    const event = (told: RingcastEvent, isLate = FULL && late.has(told.channel)): Promise<void> | undefined => {
        const at = link;
        let room: Promise<void> | undefined;
        if (FULL && !isLate) late.clear();
        for (const sub of subs) {
            if (!at || link != at || sub._link != at || !isAfter(told.id, sub._at)) continue;
            if (sub._channel == told.channel) {
                const taken = sub._take(told);
                if (FULL && taken === false) {
                    sub._link = sub._asked = undefined;
                    sub._isFull = true;
                    sync();
                    continue;
                }
                room = taken || room;
            } else if (FULL && isLate) continue;
            sub._at = told.id;
        }
        return room;
    };
    /** Waits for room, during which nothing is read. Returns whether the link is still the present one. */
    const hasRoom = async (room?: Promise<void>) => {
        const at = link;
        isPaused = true;
        await room;
        if (at != link) return false;
        isPaused = false;
        hear();
        return true;
    };
    /** Tells of lost events, of each once. */
    const gap = ({ after, resumed }: { after: string; resumed: string }) => {
        const isForeign = after == FOREIGN;
        const present = [...subs].filter((sub) => sub._link == link);
        const asked = FULL ? present.filter((sub) => sub._from == after) : present;
        const hit = (asked[0] ? asked : present).filter((sub) =>
            isForeign ? isAfter(sub._at!, resumed) : isAfter(resumed, sub._at) && isAfter(resumed, sub._told),
        );
        if (!hit[0]) return;
        // Channels are told together if they have lost events after the same position.
        const told: { [after: string]: string[] } = {};
        for (const channel of new Set(hit.map((sub) => sub._channel))) {
            const ends = hit.filter((sub) => sub._channel == channel).map((sub) => (sub._told && isAfter(sub._told, sub._at) ? sub._told : sub._at));
            (told[least(ends)!] ??= []).push(channel);
        }
        for (const sub of hit) {
            sub._told = resumed;
            // Events of other channels that lie before the gap's end may still come.
            if (isForeign || present.every((other) => other._channel == sub._channel)) sub._at = resumed;
            if (FULL) sub._onGap?.();
        }
        for (const after in told) emit("gap", { channels: told[after]!, after, resumed });
    };
    const notice = (name: string, value: any): void => {
        relay({ t: "notice", v: [name, value] });
        if (name == "gap") gap(value);
        if (FULL && name == "message") emit(name, value);
        if (name != "end" && name != "unsubscribed") return;
        let has = false;
        for (const sub of subs) {
            if (sub._channel != value.channel) continue;
            has = true;
            remove(sub);
            sub._end?.(name == "end" ? undefined : new RingcastError(name, value.reason));
        }
        if (has) emit(name, value);
    };
    const over = (at: Link | undefined, { code = "cut", message = code, status = 0, retry }: Ending): void => {
        if (at != link) return;
        const wasOpen = isOpen;
        const age = wasOpen ? Date.now() - openedAt : 0;
        const reason = { code, message };
        drop();
        if (age > 10_000) tries = 0;
        // The server had taken the token.
        if (age > 1000) denials = 0;
        if (wasOpen) {
            isSettled = age > 60_000 && code != "silent";
            tries = Math.min(tries, 2);
        }
        if (/^(unauth|invalid_t|token_)/.test(code)) status = 401;
        if (/^(kicked|forbidden|origin)/.test(code)) status = 403;
        if (status == 401 && typeof token == "function" && !denials++) connect();
        else if (status > 399 && status < 500 && status != 408 && status != 429) close(reason, true);
        else if (!isNeeded()) rest();
        else {
            if (FULL && !wasOpen && !status && retry === undefined) next(code == "silent" && !at!._call);
            wait(reason, retry === undefined ? undefined : wasOpen ? retry : afterRefusal(retry));
        }
    };
    /** Goes on to the next transport, where one does not open, or a proxy holds its answers back. */
    const next = (isHeld: boolean) => {
        if (!isHeld && ++fails < (works[place] ? 5 : 2)) return;
        fails = 0;
        place++;
        placedAt = Date.now();
    };

    // ---- connecting

    const begin = () => {
        if (state.name == "idle") connect();
    };
    const wait = (reason: Reason, ms = jitter(tries++, isSettled, scope.document?.hidden === false, spread)) => {
        clearTimeout(timer);
        timer = setTimeout(connect, ms);
        set({ name: "waiting", ms: Math.round(ms), reason });
    };
    const rest = () => {
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
        isOpen = isPaused = false;
        last?._stop();
    };
    const isFollower = () => FULL && group && !group._isHolder;
    const getToken = async (): Promise<string | undefined> => {
        const text = await (typeof token == "function" ? token() : token);
        if (!FULL) return text;
        const now = Date.now();
        const { exp, iat = now / 1000 } = claims(text);
        const life = (exp! - iat) * 1000;
        refreshAt = now + Math.max(0.8 * life, life - 30_000);
        return text;
    };
    const connect = async (given?: string): Promise<void> => {
        drop();
        hook(true);
        const own = generation;
        if (state.name != "connecting") set({ name: "connecting" });
        try {
            let text = given;
            if (!isFollower()) text ??= await getToken();
            if (FULL && join && options.share && own == generation && !isFollower()) {
                const joined = await join(session, text, group);
                if (own == generation) group = joined;
                else if (joined != group) joined?._leave();
            }
            if (own != generation) return;
            heardAt = tickedAt = Date.now();
            if (!FULL) link = transports.sse!(session, text);
            else if (isFollower()) link = group!._link();
            else {
                if (heardAt - placedAt > 3_600_000) place = 0;
                const names = (options.transports ?? (["ws", "sse", "poll"] as const)).filter((name) => name != "ws" || options.WebSocket || scope.WebSocket);
                link = transports[names[place % names.length]!]!(session, text);
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
    const refresh = async () => {
        const at = link;
        refreshAt = NaN;
        try {
            const text = await getToken();
            if (at != link) return;
            if (FULL && at!._call) await at!._call({ refresh: text });
            else await connect(text);
        } catch (error) {
            emit("error", error);
        }
    };
    const reconnect = () => {
        if (state.name == "closed" && state.reason.code == "closed") return;
        tries = denials = 0;
        connect();
    };
    const leave = () => {
        if (!FULL) return;
        const left = group;
        group = undefined;
        left?._leave();
    };
    /** Ends everything. `isRefused`: by the server, so that the program may try again. */
    const close = (reason: Reason, isRefused?: boolean) => {
        if (state.name == "closed") return;
        drop();
        hook(false);
        set({ name: "closed", reason });
        leave();
        for (const sub of subs) {
            if (!isRefused) subs.delete(sub);
            sub._end?.(isRefused ? new RingcastError(reason.code, reason.message) : undefined);
        }
    };

    // ---- time, and the page

    const tick = () => {
        const now = Date.now();
        const hasSlept = now - tickedAt > 6000;
        tickedAt = now;
        if (isPaused || (FULL && link!._isTab)) return;
        if (now - heardAt > (isOpen ? silence : 10_000) || (FULL && probedAt && now - probedAt > 3500)) over(link, { code: "silent" });
        else if (FULL && hasSlept) probe();
        else if (FULL && isOpen && now > refreshAt) refresh();
    };
    const probe = () => {
        if (!isOpen || (FULL && (link!._isTab || scope.document?.hidden))) return;
        if (FULL && link!._probe) {
            probedAt ||= Date.now();
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
        else if (type == "online") wait(state.reason, Math.min(state.ms, 1000 * Math.random()));
    };
    const hook = (is: boolean) => {
        if (is == isHooked) return;
        isHooked = is;
        for (const type of FULL ? ["online", "visibilitychange", "pagehide", "pageshow"] : ["online"]) scope[(is ? "add" : "remove") + "EventListener"]?.(type, onPage);
    };

    /** The address of a path of the server's. */
    const address = (path: string, query?: any): string =>
        new URL(url.replace(/^ws/, "http").replace(/\/*$/, "/" + path), scope.location?.href).href + "?" + new URLSearchParams(query);

    const session = {
        _options: options,
        _subs: subs,
        _beat: beat,
        _link: () => link,
        _state: () => state,
        _position: () => least([...subs].map((sub) => sub._taken?.() ?? sub._at)),
        _newest: FULL ? (undefined as never) : () => [...subs].reduce((newest: string | undefined, { _at }) => (_at && isAfter(_at, newest) ? _at : newest), undefined),
        _on: on,
        _guard: guard,
        _wanted: wanted,
        _sync: sync,
        _add: add,
        _remove: remove,
        _confirm: confirm,
        _off: off,
        _hear: hear,
        _opened: opened,
        _event: event,
        _hasRoom: hasRoom,
        _notice: notice,
        _over: over,
        _rest: rest,
        _reconnect: reconnect,
        _close: close,
        _address: address,
        _late: FULL ? late : (undefined as never),
        _isOpen: FULL ? () => isOpen : (undefined as never),
        _set: FULL ? set : (undefined as never),
        _begin: FULL ? begin : (undefined as never),
        _connect: FULL ? connect : (undefined as never),
    };
    return session;
}
