// One connection for all tabs of a user. The tab that holds a Web Lock has the connection, and tells the others over a
// BroadcastChannel. Each tab keeps its own positions, so that any of them can go on as the holder.

import { claims, type Group, type Join, type Link, type Sub } from "./session.js";
import { RingcastError, type RingcastEvent } from "./types.js";

/** The silence of the holder after which a tab that is shown takes its place, in milliseconds. */
const SILENCE = 2000;
/** The time after which a holder that is not shown gives way to a tab that is. */
const HIDDEN = 10_000;

const hex = async (text: string) => {
    const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    return [...new Uint8Array(bytes)].map((byte) => byte.toString(16)).join();
};

export const join: Join = async (session, token, present) => {
    const { locks } = globalThis.navigator ?? {};
    if (!locks || !globalThis.BroadcastChannel) return;
    const { share } = session._options;
    // Tabs of different users have different names. No part of a token is in them.
    const name = "ringcast1 " + (await hex(`${session._address("")} ${share === true ? (claims(token).sub ?? token) : share}`));
    if (present?._name == name) return present;
    present?._leave();

    const me = crypto.randomUUID();
    const channel = new BroadcastChannel(name);
    const queue = new AbortController();
    /** As a holder: the other tabs' subscriptions, by tab and number. */
    const remote = new Map<string, Sub>();
    const tabs = new Set<string>();
    /** As a follower: this tab's subscriptions and calls, by number. */
    const own = new Map<number, Sub>();
    const calls = new Map<number, (answer: any) => void>();
    let holder: string | undefined;
    let count = 0;
    let heardAt = Date.now();
    let tickedAt = heardAt;
    let hiddenAt = 0;
    let hasLeft = false;
    let isJoined = false;
    let last: RingcastEvent | undefined;
    let joined: () => void;
    let release: (() => void) | undefined;

    const post = (message: object) => hasLeft || channel.postMessage({ ...message, from: me });
    const dropTab = (tab: string) => {
        for (const [key, sub] of remote) {
            if (!key.startsWith(tab)) continue;
            remote.delete(key);
            session._remove(sub);
        }
    };
    const hold = () =>
        new Promise<void>((resolve) => {
            if (hasLeft) return resolve();
            release = resolve;
            holder = me;
            group._isHolder = true;
            post({ t: "up" });
            if (isJoined) session._connect();
            joined();
        });
    /** Another tab has taken the lock, or this one leaves. */
    const lose = () => {
        if (hasLeft || !group._isHolder) return;
        group._isHolder = false;
        holder = undefined;
        heardAt = Date.now();
        dropTab("");
        tabs.clear();
        wait();
        session._connect();
    };
    const wait = () => {
        locks.request(name, { signal: queue.signal }, hold).catch(lose);
        post({ t: "ask" });
    };
    const steal = () => {
        heardAt = Date.now();
        locks.request(name, { steal: true }, hold).catch(lose);
    };
    const tick = () => {
        const now = Date.now();
        // A tab that was frozen itself gives the holder its time.
        if (now - tickedAt > 1500) heardAt = now;
        tickedAt = now;
        if (group._isHolder || document.hidden) return;
        if (now - heardAt > SILENCE) steal();
        else post({ t: "ask" });
    };
    const ticks = setInterval(tick, 500);

    const link = (): Link => {
        const present: Link = {
            _isTab: true,
            _sync() {
                if (!holder) return;
                const gone = [...own].filter(([, sub]) => !session._subs.has(sub) || sub._isFull).map(([number]) => number);
                for (const number of gone) own.delete(number);
                const wants = session._wanted().map((sub) => {
                    sub._asked = present;
                    own.set(++count, sub);
                    return [count, sub._channel, sub._at];
                });
                if (gone[0] || wants[0]) post({ t: "want", v: wants, gone });
            },
            _stop() {
                own.clear();
                for (const hear of calls.values()) hear({ error: { code: "cut" } });
                calls.clear();
            },
            _call: (message) =>
                new Promise((resolve, reject) => {
                    calls.set(++count, ({ error, value }) => (error ? reject(new RingcastError(error.code, error.message)) : resolve(value)));
                    post({ t: "call", v: count, message });
                }),
        };
        return present;
    };

    /** What a tab asks the holder for. */
    const serve = ({ t, v, from, gone, message }: any) => {
        // A tab whose timers stand still is frozen, though it may hear messages.
        if (t == "ask" && Date.now() - tickedAt < 1500) {
            hiddenAt = document.hidden ? hiddenAt || Date.now() : 0;
            post({ t: "up", state: session._state(), isHidden: hiddenAt && Date.now() - hiddenAt > HIDDEN });
        }
        if (t == "want") {
            // A tab's lock is free when the tab is gone.
            if (!tabs.has(from)) locks.request(name + from, { signal: queue.signal }, () => dropTab(from)).catch(() => {});
            tabs.add(from);
            for (const number of gone) {
                session._remove(remote.get(from + number)!);
                remote.delete(from + number);
            }
            for (const [number, channel, at] of v) {
                const sub: Sub = {
                    _channel: channel,
                    _at: at,
                    _take(event) {
                        if (last != event) post({ t: "event", v: event, isLate: session._late.has(event.channel) });
                        last = event;
                    },
                    _onConfirmed: () => post({ t: "on", to: from, v: number, at: sub._at }),
                };
                remote.set(from + number, sub);
                session._add(sub);
            }
        }
        if (t == "call") {
            const call = session._link()?._call;
            const answer = (answer: object) => post({ t: "answer", to: from, v, ...answer });
            if (!call) return answer({ error: { code: "one_way" } });
            call(message).then(
                (value) => answer({ value }),
                ({ code, message }) => answer({ error: { code, message } }),
            );
        }
    };
    /** What the holder tells a tab. */
    const follow = ({ t, v, from, to, at, isLate, state, isHidden, ...rest }: any) => {
        if (t == "up" && holder != from) {
            const isNew = holder;
            holder = from;
            heardAt = Date.now();
            joined();
            if (isNew) session._connect();
            else session._link()?._sync();
        }
        if (from != holder || (to && to != me)) return;
        heardAt = Date.now();
        if (t == "up") {
            if (state) mirror(state);
            if (isHidden && !document.hidden) steal();
        }
        if (t == "state") mirror(v);
        if (t == "notice") session._notice(v[0], v[1]);
        if (t == "event") session._event(v, isLate);
        if (t == "on" && own.has(v)) session._confirm([own.get(v)!], at);
        if (t == "answer") {
            calls.get(v)?.(rest);
            calls.delete(v);
        }
    };
    /** The holder's state is the tab's, also its end, unless only the holder's program has closed it. */
    const mirror = (state: any) => {
        if (!session._link() || JSON.stringify({ ...state, shared: 0 }) == JSON.stringify({ ...session._state(), shared: 0 })) return;
        if (state.name != "closed") session._set(state);
        else if (state.reason.code != "closed") session._close(state.reason, true);
    };
    channel.onmessage = ({ data }) => (group._isHolder ? data.t == "up" || serve(data) : follow(data));

    const group: Group = {
        _name: name,
        _isHolder: false,
        _link: link,
        _post: post,
        _leave() {
            clearInterval(ticks);
            hasLeft = true;
            queue.abort();
            release?.();
            releaseTab?.();
            channel.close();
        },
    };
    let releaseTab: (() => void) | undefined;
    locks.request(name + me, () => new Promise<void>((resolve) => (hasLeft ? resolve() : (releaseTab = resolve))));
    await new Promise<void>((resolve) => {
        joined = resolve;
        setTimeout(resolve, 1000);
        wait();
    });
    isJoined = true;
    return group;
};
