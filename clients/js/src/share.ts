// One connection for all tabs of a user. The tab that holds a Web Lock has the connection, and tells the others over a
// BroadcastChannel. Each tab keeps its own positions, so that any of them can go on as the holder.

import * as session from "./session.js";
import { claims, type Link, type Sub } from "./session.js";
import type { RingcastEvent, State } from "./types.js";

/** The time between two questions of a tab that is shown to the holder, in milliseconds. */
const TURN = 500;
/** The silence of the holder after which such a tab takes its place. */
const SILENCE = 2000;
/** The time after which a holder that is not shown gives way to a tab that is. */
const HIDDEN = 10_000;

/** The kind, what it is about, the tab that posts it, the one that it is for, and whether that is a holder which gives way. */
type Message = [type: string, value: any, from: string, to?: string, isIdle?: boolean];

const { locks } = globalThis.navigator ?? {};
/** This tab's part in its group, until it leaves. */
let life: AbortController | undefined;
let group: string | undefined;
let me: string;
let channel: BroadcastChannel;
export let isHolder = false;
let holder: string | undefined;
let isStealing = false;
/** Goes on with the connection that waits for a holder. */
let arrive: () => void;
/** As a holder: the other tabs' subscriptions, by the tab and the number of its message. */
const remote = new Map<string, Map<number, Sub>>();
/** As a follower: this tab's subscriptions, and the numbers of their messages. */
const own = new Map<Sub, number>();
/** When the holder answered, the own timer ran, and the page was shown. */
let heardAt = 0;
let tickedAt = 0;
let shownAt = 0;
let last: RingcastEvent | undefined;
let ticks: any;

export const isFollower = () => life && !isHolder;
const post = (type: string, value?: unknown, to?: string, isIdle?: boolean) => life && channel.postMessage([type, value, me, to, isIdle]);
export const tellTabs = (type: string, value: unknown): unknown => isHolder && post(type, value);

export const leave = () => {
    if (!life) return;
    clearInterval(ticks);
    life.abort();
    channel.close();
    life = group = holder = undefined;
    isHolder = isStealing = false;
};

const dropTab = (tab: string) => {
    remote.get(tab)?.forEach(session.remove);
    remote.delete(tab);
};

/** Asks for the holder's lock. What becomes of it concerns this tab until it leaves. */
const request = (more: { steal: true } | { signal: AbortSignal }) => {
    const { signal } = life!;
    const hold = () => {
        if (signal.aborted) return;
        isHolder = true;
        isStealing = false;
        holder = me;
        post("up");
        if (session.link) session.connect();
        else arrive();
        return new Promise((resolve) => (signal.onabort = resolve));
    };
    /** Another tab has taken the lock. */
    const lose = () => {
        if (signal.aborted || !isHolder) return;
        isHolder = false;
        holder = undefined;
        heardAt = Date.now();
        for (const tab of remote.keys()) dropTab(tab);
        queue();
        session.connect();
    };
    locks!.request(group!, more, hold).catch(lose);
};
const queue = () => {
    request({ signal: life!.signal });
    post("ask");
};

const steal = () => {
    // A second time would take it from this tab.
    if (isStealing) return;
    isStealing = true;
    request({ steal: true });
};

const tick = () => {
    const now = Date.now();
    // A tab that was frozen itself gives the holder its time.
    if (now - tickedAt > 3 * TURN) heardAt = now;
    tickedAt = now;
    if (document.hidden) return;
    shownAt = now;
    if (isHolder) return;
    if (now - heardAt > SILENCE) steal();
    else post("ask");
};

/** Joins the tabs with the same server and user, if it is not among them, and waits for their holder. */
export const join = async (token: string | undefined): Promise<void> => {
    const { share } = options;
    const user = share === true ? (token ? claims(token).sub : "") : share;
    const name = locks && globalThis.document && user != null ? `ringcast3 ${session.address("")} ${user}` : undefined;
    if (name == group) return;
    leave();
    if (!name) return;
    group = name;
    me = `${Math.random()}`;
    life = new AbortController();
    channel = new BroadcastChannel(name);
    session.listen(channel, (data: Message) => (isHolder ? serve : follow)(...data));
    heardAt = tickedAt = shownAt = Date.now();
    ticks = setInterval(tick, TURN);
    const { signal } = life;
    // This lock is free when the tab is gone.
    locks!.request(name + me, () => new Promise((resolve) => (signal.aborted ? resolve(0) : signal.addEventListener("abort", resolve))));
    await new Promise<void>((resolve) => {
        arrive = resolve;
        setTimeout(resolve, 1000);
        queue();
    });
};

/** The link of a tab that follows. */
export const tabLink = (): Link => {
    // The answer has the state.
    post("ask");
    return {
    _sync() {
        if (!holder) return;
        for (const [sub, ref] of own) {
            if (session.subs.has(sub) && sub._is != 3) continue;
            own.delete(sub);
            post("gone", ref);
        }
        for (const sub of session.wanted()) {
            sub._is = 1;
            own.set(sub, session.say({ want: sub._channel, at: sub._at }, ({ at, error }) => error || session.confirm([sub], at)));
        }
    },
    _stop: () => own.clear(),
    _send: (message) => post("call", message),
    };
};

/** What a tab asks the holder for. */
const serve = (...[type, value, from]: Message) => {
    const now = Date.now();
    // A tab whose timers stand still is frozen, though it may hear messages.
    if (type == "ask" && now - tickedAt < 3 * TURN) post("up", session.state, undefined, now - shownAt > HIDDEN);
    if (type == "gone") {
        session.remove(remote.get(from)?.get(value)!);
        remote.get(from)?.delete(value);
    }
    if (type != "call") return;
    const { ref, want, at } = value;
    const answer = (told: object) => post("answer", { ...told, ref }, from);
    if (!want) return session.say(value, answer);
    if (!remote.has(from)) {
        remote.set(from, new Map());
        locks!.request(group + from, life!, () => dropTab(from)).catch(() => {});
    }
    const sub: Sub = {
        _channel: want,
        _at: at,
        _take(event) {
            if (last != event) post("event", [event, session.late.has(want)]);
            last = event;
        },
        _onConfirmed: () => answer({ at: sub._at }),
    };
    remote.get(from)!.set(ref, sub);
    session.add(sub);
};

/** What the holder tells a tab. */
const follow = (...[type, value, from, to, isIdle]: Message) => {
    if (type == "up" && holder != from) {
        const isOther = holder;
        holder = from;
        arrive();
        if (isOther) session.connect();
        else session.link?._sync();
    }
    if (from != holder || (to && to != me)) return;
    if (type == "up") {
        heardAt = Date.now();
        if (value) mirror(value);
        if (isIdle && !document.hidden) steal();
    }
    if (type == "notice") session.notice(value[0], value[1]);
    if (type == "event") session.event(value[0], value[1]);
    if (type == "answer") session.answer(value);
};
/** The holder's state is the tab's, also its end, unless only the holder's program has closed it. */
const mirror = (state: State) => {
    if (!session.link || state.name == session.state.name) return;
    if (state.name != "closed") session.set(state.name == "open" ? { ...state, shared: "follower" } : state);
    else if (state.reason.code != "closed") session.close(state.reason, true);
};
