// WebSocket: all subscriptions and messages over one connection, each subscription from its own position.

import { isAfter } from "../ids.js";
import { binary } from "./payload.js";
import { RingcastError } from "../types.js";
import type { Ending, Link, Sub, Transport } from "../session.js";

export const ws: Transport = (session, token) => {
    const { WebSocket = globalThis.WebSocket } = session._options;
    const socket = new WebSocket(session._address("ws", { beat: session._beat }).replace("http", "ws"));
    const calls = new Map<number, (answer: any) => void>();
    /** The channels that the server was asked for, and not asked to leave. */
    const has = new Set<string>();
    let refs = 0;

    /** Sends a message. The answer is heard before anything that follows it. */
    const say = (message: object, hear: (answer: any) => void): void => {
        calls.set(++refs, hear);
        socket.send(JSON.stringify({ ...message, ref: refs }));
    };
    const fail = (ending: Ending) => session._over(link, ending);

    /** Asks for subscriptions, which count once the server has answered. */
    const ask = (subs: Sub[], isPositioned: boolean) => {
        if (!subs[0]) return;
        const positions: { [channel: string]: string | null } = {};
        // The oldest position of a channel counts, and each subscription leaves out the events that it has. The server reads
        // channels of the same position at once, if they stand beside each other.
        if (isPositioned) subs.sort((a, b) => (isAfter(a._at!, b._at) ? 1 : -1));
        const isOrdered = !isPositioned || (!has.size && !isAfter(subs.at(-1)!._at!, subs[0]._at));
        for (const sub of subs) {
            sub._asked = link;
            has.add(sub._channel);
            sub._from = positions[sub._channel] ??= sub._at ?? (null as any);
        }
        say({ subscribe: positions }, ({ id, error }) => {
            if (!error) {
                if (!isOrdered) for (const name in positions) session._late.add(name);
                return session._confirm(subs.filter((sub) => sub._asked == link), id);
            }
            const { code, message, channels } = error;
            if (!channels) return fail({ code, message });
            for (const sub of subs) sub._asked = undefined;
            for (const channel of channels) {
                has.delete(channel);
                session._notice("unsubscribed", { channel, reason: message });
            }
            link._sync();
        });
    };

    const link: Link = {
        _sync() {
            if (socket.readyState != 1) return;
            const wanted = session._wanted();
            const gone = [...has].filter((channel) => ![...session._subs].some((sub) => sub._channel == channel && !sub._isFull));
            gone.forEach((channel) => has.delete(channel));
            if (gone[0]) say({ unsubscribe: gone }, () => {});
            ask(wanted.filter((sub) => !sub._at), false);
            // A channel is read again from one position, so all of its subscriptions count, also those that have not caught up.
            ask([...session._subs].filter((sub) => sub._at && !sub._isFull && wanted.some((other) => other._at && other._channel == sub._channel)), true);
        },
        _stop() {
            socket.onmessage = socket.onclose = null;
            // Closing a socket that is not open yet is an error on the page's console.
            socket.onopen = () => socket.close();
            if (socket.readyState) socket.close();
            for (const hear of calls.values()) hear({ error: { code: "cut" } });
        },
        _probe: () => socket.send('{"ping":1}'),
        _call: (message) =>
            new Promise((resolve, reject) =>
                say(message, (answer) => (answer.error ? reject(new RingcastError(answer.error.code, answer.error.message)) : resolve(answer))),
            ),
    };

    // The close that follows says it.
    socket.onerror = () => {};
    socket.onopen = () => {
        if (token) say({ token }, ({ error }) => error && /^(unauth|invalid_t|token_)/.test(error.code) && fail(error));
        link._sync();
    };
    socket.onmessage = ({ data }) => {
        session._hear();
        const told = JSON.parse(data);
        const { hello, bye, error, ref } = told;
        if (told.channel) session._event(binary(told));
        else if (hello) session._opened("ws", hello.conn, hello.beat_ms);
        else if (bye) fail({ code: bye.code, message: bye.reason, retry: bye.retry_ms });
        else if (ref || error) {
            calls.get(ref)?.(told);
            calls.delete(ref);
        } else if ("data" in told || told.data_b64) session._notice("message", binary(told).data);
        else for (const name in told) session._notice(name, told[name]);
    };
    socket.onclose = ({ code, reason }) => {
        const [, word, message] = /^(\w+): (.*)/.exec(reason) ?? [];
        // The server has had enough for now.
        fail({ code: word, message, status: code == 4001 ? 401 : code == 4003 ? 403 : 0, retry: code == 1008 ? 30_000 : undefined });
    };
    return link;
};
