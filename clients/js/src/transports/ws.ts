// WebSocket: all subscriptions and messages over one connection, each subscription from its own position.

import * as session from "../session.js";
import { compare } from "../ids.js";
import { binary } from "./payload.js";
import type { Ending, Link, Transport } from "../session.js";

export const ws: Transport = (token) => {
    const { WebSocket = globalThis.WebSocket } = options;
    const socket = new WebSocket(session.address("ws", { beat: session.beat }).replace("http", "ws"));
    /** The channels that the server was asked for, and not asked to leave. */
    const has = new Set<string>();
    const fail = (ending: Ending) => session.over(link, ending);

    const link: Link = {
        _sync() {
            if (socket.readyState != 1) return;
            const active = [...session.subs].filter((sub) => sub._is != 3);
            const unsubscribe = [...has].filter((channel) => !active.some((sub) => sub._channel == channel));
            for (const channel of unsubscribe) has.delete(channel);
            if (unsubscribe[0]) session.say({ unsubscribe }, () => {});
            // A channel is read from one position, so all of its subscriptions count, also those that have not caught up. Each leaves
            // out the events that it has. The server reads channels of the same position at once, if they stand beside each other.
            const wanted = session.wanted();
            const subs = active.filter((sub) => wanted.some((other) => other._channel == sub._channel && (other == sub || other._at))).sort((a, b) => compare(a._at ?? "", b._at ?? ""));
            if (!subs[0]) return;
            const subscribe: { [channel: string]: string | null } = {};
            for (const sub of subs) subscribe[sub._channel] ??= sub._at ?? null;
            // While channels are read from different positions, an event is a position on its own channel alone.
            const late = Object.keys(subscribe).filter((channel) => subscribe[channel]);
            const isOrdered = !has.size && new Set(late.map((channel) => subscribe[channel])).size < 2;
            for (const sub of subs) {
                sub._is ||= 1;
                sub._from = subscribe[sub._channel]!;
                has.add(sub._channel);
            }
            session.say({ subscribe }, ({ id, error }) => {
                if (!error) {
                    if (!isOrdered) for (const channel of late) session.late.add(channel);
                    return session.confirm(subs, id);
                }
                const { channels, message } = error;
                if (!channels) return fail(error);
                for (const sub of subs) if (sub._is == 1) sub._is = 0;
                session.lost(channels, "unsubscribed", message);
                link._sync();
            });
        },
        _stop() {
            socket.onclose = null;
            // Closing a socket that is not open yet is an error on the page's console.
            socket.onopen = () => socket.close();
            if (socket.readyState) socket.close();
        },
        _probe: () => socket.send('{"ping":1}'),
        _send: (message) => socket.send(JSON.stringify(message)),
    };

    // The close that follows says it.
    socket.onerror = () => {};
    socket.onopen = () => {
        if (token) session.say({ token }, ({ error }) => error && session.DENIED.test(error.code) && fail(error));
        link._sync();
    };
    session.listen(socket, (data) => {
        if (link != session.link) return;
        session.hear();
        const told = JSON.parse(data);
        if (told.channel) session.event(binary(told));
        else if (told.ref) session.answer(told);
        else if ("data" in told || told.data_b64) session.notice("message", binary(told).data);
        else for (const name in told) session.notice(name, told[name]);
    });
    socket.onclose = ({ code, reason }) => {
        const [, word, message] = /^(\w+): (.*)/.exec(reason) ?? [];
        // At 1008 the server has had enough for now.
        fail({ code: word, message, retry_ms: code == 1008 ? 30_000 : undefined });
    };
    return link;
};
