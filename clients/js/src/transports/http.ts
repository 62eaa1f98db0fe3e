// What event streams and polls have in common.

import { least } from "../ids.js";
import type { Ending, Link, Session, Sub } from "../session.js";

/** Sends a request and returns its answer, which is a success; else throws an `Ending`. */
export async function ask(session: Session, path: string, query: object, token: string | undefined, signal: AbortSignal): Promise<Response> {
    const { fetch = globalThis.fetch } = session._options;
    const headers: { [name: string]: string } = { Accept: path == "sse" ? "text/event-stream" : "application/json" };
    if (token) headers["Authorization"] = "Bearer " + token;
    const answer = await fetch(session._address(path, query), { headers, signal, cache: "no-store" });
    const { status } = answer;
    if (answer.ok) return answer;
    const { error = {} } = await answer.json().catch(() => ({}));
    throw { code: "http", message: status, ...error, status, retry: +answer.headers.get("retry-after")! * 1000 || undefined };
}

/** Ends the subscriptions to channels that have nothing more to tell. */
export const endAll = (session: Session, subs: Sub[], name = "end", reason?: string): void =>
    subs.forEach(({ _channel }) => session._notice(name, { channel: _channel, reason }));

const channelsOf = (subs: Sub[]): string => [...new Set(subs.map((sub) => sub._channel))].join();

/**
 * A link of requests, each with the subscriptions of its time: `run` carries one out. Changed subscriptions end the request and
 * begin the next.
 */
export function requests(
    session: Session,
    isPoll: boolean,
    token: string | undefined,
    run: (subs: Sub[], query: { channel: string; after?: string }, signal: AbortSignal) => Promise<Ending | void>,
): Link {
    let request = new AbortController();
    let timer: any;
    /** The subscriptions of the present request. */
    let current: Sub[] = [];
    const present = () => [...session._subs].filter((sub) => !(FULL && sub._isFull));
    const turn = async () => {
        request.abort();
        const { signal } = (request = new AbortController());
        try {
            while (!signal.aborted) {
                session._off();
                // A subscription that begins now needs a position, if others have theirs: a request has one for all.
                const fresh = present().filter((sub) => !sub._at);
                if (FULL && fresh[0] && (isPoll || fresh.length < present().length)) {
                    const answer = await ask(session, "poll", { channel: channelsOf(fresh), wait: 0 }, token, signal);
                    if (answer.status == 204) endAll(session, fresh);
                    else {
                        const { next } = await answer.json();
                        fresh.forEach((sub) => (sub._at ??= next));
                    }
                }
                if (signal.aborted) return;
                const subs = (current = present());
                if (!subs[0]) return session._rest();
                const after = least(subs.map((sub) => sub._at));
                // Without polls it begins with the newest event that the others have.
                if (!FULL) fresh.forEach((sub) => (sub._at = session._newest()));
                for (const sub of subs) {
                    sub._from = after;
                    sub._asked = link;
                }
                const ending = await run(subs, { channel: channelsOf(subs), ...(after && { after }) }, signal);
                if (ending && !signal.aborted) return session._over(link, ending);
            }
        } catch (error: any) {
            if (signal.aborted) return;
            const { channels, message, status } = error;
            if (!channels) return session._over(link, status ? error : {});
            endAll(session, channels.map((_channel: string) => ({ _channel })), "unsubscribed", message);
            turn();
        }
    };
    const link: Link = {
        _sync() {
            const isKept = current[0] && current.every((sub) => [...session._subs].some((other) => other._channel == sub._channel));
            if (isKept && !session._wanted()[0]) return;
            clearTimeout(timer);
            timer = setTimeout(turn, 5);
        },
        _stop() {
            clearTimeout(timer);
            request.abort();
        },
    };
    return link;
}
