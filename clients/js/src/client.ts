// What a program has in hand.

import * as session from "./session.js";
import type { Sub } from "./session.js";
import { RingcastError, type EventsOptions, type Ringcast, type RingcastEvent, type State, type SubscribeOptions } from "./types.js";

/** Calls a function when a signal is aborted. */
const follow = (signal: AbortSignal | undefined, off: () => void): void => (signal?.aborted ? off() : signal?.addEventListener("abort", () => off()));

const add = (sub: Sub, { after, event, signal }: SubscribeOptions, off: () => void): void => {
    if (session.state.name == "closed") throw new RingcastError("closed");
    if (after && !/^\d+-\d+$/.test(after)) throw new TypeError("no position: " + after);
    sub._at = after || undefined;
    sub._name = event;
    session.add(sub);
    follow(signal, off);
};

/** Iterates over a channel's events with a bounded buffer; over their data alone, without a gap, if it is a stream. */
function iterate(channel: string, options: EventsOptions, cancel?: () => Promise<void>): any {
    const { buffer = 256, after } = options;
    const queue: RingcastEvent[] = [];
    let taken = after || undefined;
    let over: { error?: unknown } | undefined;
    let wake: (() => void) | undefined;
    let room: (() => void) | undefined;
    const end = (error?: unknown) => {
        over ??= { error };
        session.remove(sub);
        wake?.();
        room?.();
    };
    const sub: Sub = {
        _channel: channel,
        _take(event) {
            queue.push(event);
            wake?.();
            if (queue.length >= buffer) return new Promise((resolve) => (room = resolve));
        },
        _end: end,
        ...(FULL && { _onGap: () => cancel && end(new RingcastError("gap")) }),
        // An event that waits here, or is worked on, is not done.
        _taken: () => (queue[0] ? taken : undefined),
    };
    add(sub, options, end);
    const events = (async function* () {
        try {
            for (;;) {
                for (let event; (event = queue[0]); taken = event.id) {
                    yield FULL && cancel ? event.data : event;
                    queue.shift();
                    if (queue.length <= buffer / 2) room?.();
                }
                if (over?.error) throw over.error;
                if (over) return;
                await new Promise<void>((resolve) => (wake = resolve));
            }
        } finally {
            end();
        }
    })();
    if (!FULL || !cancel) return events;
    return Object.assign(events, {
        cancel() {
            queue.length = 0;
            end();
            return cancel();
        },
    });
}

const call = (message: object): Promise<any> =>
    new Promise((resolve, reject) => {
        session.begin();
        const go = (state: State): void => {
            if (state.name == "connecting") return;
            off();
            session.say(message, ({ error, id }) => (error ? reject(session.fault(error)) : resolve(id)));
        };
        const off = session.on("state", go);
        go(session.state);
    });
const send = (data: unknown) => call({ send: data });
const close = () => session.close({ code: "closed", message: "closed" });
follow(options.signal, close);
/** What the program has in hand. */
export const client = {
    subscribe(channel, handler, options = {}) {
        const sub: Sub = { _channel: channel, _take: (event) => session.guard(handler, event) };
        const off = () => session.remove(sub);
        add(sub, options, off);
        return off;
    },
    events: (channel, options = {}) => iterate(channel, options),
    on: session.on,
    ...(FULL && {
        stream: (channel: string, options = {}) => iterate(channel, options, () => send({ cancel: channel })),
        send,
        publish: (channel: string, data: unknown, event?: string) => call({ publish: { channel, data, event } }),
    }),
    get position() {
        return session.position();
    },
    get state() {
        return session.state;
    },
    reconnect: session.reconnect,
    close,
    [(Symbol as any).dispose]: close,
} as Ringcast<any>;
