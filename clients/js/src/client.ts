// What a program has in hand.

import { makeSession, type Join, type Session, type Sub, type Transports } from "./session.js";
import { RingcastError, type EventsOptions, type Options, type Ringcast, type RingcastEvent, type State, type SubscribeOptions } from "./types.js";

/** Calls a function when a signal is aborted. */
const follow = (signal: AbortSignal | undefined, off: () => void): void => (signal?.aborted ? off() : signal?.addEventListener("abort", off));

const add = (session: Session, sub: Sub, { after, signal }: SubscribeOptions, off: () => void): void => {
    if (session._state().name == "closed") throw new RingcastError("closed");
    if (after && !/^\d+-\d+$/.test(after)) throw new TypeError("no position: " + after);
    sub._at = after || undefined;
    session._add(sub);
    follow(signal, off);
};

/** Iterates over a channel's events with a bounded buffer; over their data alone, without a gap, if it is a stream. */
function iterate(session: Session, channel: string, options: EventsOptions, cancel?: () => Promise<void>): any {
    const { event: name, buffer = 256, after } = options;
    const queue: RingcastEvent[] = [];
    let taken = after || undefined;
    let isOver = false;
    let error: unknown;
    let wake: (() => void) | undefined;
    let room: (() => void) | undefined;
    const end = (reason?: unknown) => {
        isOver = true;
        error ??= reason;
        session._remove(sub);
        wake?.();
        room?.();
    };
    const sub: Sub = {
        _channel: channel,
        _take(event) {
            if (name && event.event != name) return;
            if (FULL && queue.length >= buffer) return false;
            queue.push(event);
            wake?.();
            if (queue.length >= buffer) return new Promise((resolve) => (room = resolve));
        },
        _end: end,
        ...(FULL && { _onGap: () => cancel && end(new RingcastError("gap")) }),
        // An event that waits here, or is worked on, is not done.
        _taken: () => (queue[0] ? taken : undefined),
    };
    add(session, sub, options, end);
    const events = (async function* () {
        try {
            for (;;) {
                for (let event; (event = queue[0]); taken = event.id) {
                    yield FULL && cancel ? event.data : event;
                    queue.shift();
                    if (FULL && queue.length > buffer / 2) continue;
                    room?.();
                    if (FULL && sub._isFull) {
                        sub._isFull = false;
                        session._sync();
                    }
                }
                if (error) throw error;
                if (isOver) return;
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

/** Makes a client. */
export function makeClient(url: string, options: Options, transports: Transports, join?: Join): Ringcast<any> {
    const session = makeSession(url, options, transports, join);
    const call = (message: object): Promise<any> =>
        new Promise((resolve, reject) => {
            session._begin();
            const go = (state: State): void => {
                if (state.name == "connecting") return;
                off();
                const send = session._link()?._call;
                if (state.name == "open" && send) send(message).then(resolve, reject);
                else reject(new RingcastError(state.name == "open" ? "one_way" : "cut"));
            };
            const off = session._on("state", go);
            go(session._state());
        });
    const send = async (data: unknown) => {
        await call({ send: data });
    };
    const close = () => session._close({ code: "closed", message: "closed" });
    follow(options.signal, close);
    return {
        subscribe(channel, handler, options = {}) {
            const sub: Sub = {
                _channel: channel,
                _take(event) {
                    if (!options.event || event.event == options.event) session._guard(handler, event);
                },
            };
            const off = () => session._remove(sub);
            add(session, sub, options, off);
            return off;
        },
        events: (channel, options = {}) => iterate(session, channel, options),
        on: session._on,
        ...(FULL && {
            stream: (channel: string, options = {}) => iterate(session, channel, options, () => send({ cancel: channel })),
            send,
            publish: async (channel: string, data: unknown, event?: string) => (await call({ publish: { channel, data, event } })).id,
        }),
        get position() {
            return session._position();
        },
        get state() {
            return session._state();
        },
        reconnect: session._reconnect,
        close,
        [(Symbol as any).dispose]: close,
    } as Ringcast<any>;
}
