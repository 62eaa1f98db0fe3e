// What event streams and polls have in common.

import * as session from "../session.js";
import { least } from "../ids.js";
import type { Link, Sub } from "../session.js";

/** Sends a request and returns its answer, which has a body; else throws an `Ending`, perhaps with the channels that it concerns. */
export async function ask(path: string, query: { channel: string; [name: string]: unknown }, token: string | undefined, signal: AbortSignal): Promise<Response> {
    const answer = await (options.fetch ?? fetch)(session.address(path, query), { headers: token ? { Authorization: "Bearer " + token } : {}, signal });
    const { status } = answer;
    // All channels have ended.
    if (status == 204) throw { status, channels: query.channel.split(",") };
    if (answer.ok) return answer;
    const { error } = await answer.json().catch(() => ({}));
    throw { code: "http", message: status, ...error, status, retry_ms: +answer.headers.get("retry-after")! * 1000 };
}

const channelsOf = (subs: Iterable<Sub>): string => [...new Set([...subs].map((sub) => sub._channel))].join();

/**
 * A link of requests, each with the subscriptions of its time: `run` carries one out. Changed subscriptions end the request and
 * begin the next.
 */
export function requests(
    token: string | undefined,
    run: (subs: Sub[], query: { channel: string; after?: string }, signal: AbortSignal) => Promise<void>,
): Link {
    let request = new AbortController();
    let timer: any;
    /** The channels of the present request. */
    let channel: string | undefined;
    const turn = async () => {
        request.abort();
        const { signal } = (request = new AbortController());
        try {
            while (!signal.aborted) {
                session.off();
                const subs = session.wanted();
                channel = channelsOf(subs);
                if (!subs[0]) return session.rest();
                // A subscription that begins now needs a position, if others have theirs: a request has one for all.
                const fresh = FULL ? subs.filter((sub) => !sub._at) : [];
                if (FULL && fresh[0] && fresh.length < subs.length) {
                    const { next } = await (await ask("poll", { channel: channelsOf(fresh), wait: 0 }, token, signal)).json();
                    fresh.forEach((sub) => (sub._at ??= next));
                }
                if (FULL && signal.aborted) return;
                const after = least(subs.map((sub) => sub._at));
                for (const sub of subs) {
                    sub._is = 1;
                    if (FULL) sub._from = after;
                }
                await run(subs, { channel, ...(after && { after }) }, signal);
            }
        } catch (error: any) {
            if (signal.aborted) return;
            const { channels, message, status } = error;
            if (!channels) return session.over(link, status ? error : {});
            session.lost(channels, status == 204 ? "end" : "unsubscribed", message);
            turn();
        }
    };
    const link: Link = {
        _sync() {
            if (channel == channelsOf(session.subs) && !session.wanted()[0]) return;
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
