// Long polls, which pass every proxy.

import * as session from "../session.js";
import { ask, requests } from "./http.js";
import { binary } from "./payload.js";
import type { Transport } from "../session.js";

export const poll: Transport = (token) =>
    requests(token, async (subs, query, signal) => {
        // Without a position the answer is the present one, and no events.
        const wait = query.after && session.openedAt ? session.beat : 0;
        const answer = await ask("poll", { ...query, wait }, token, signal);
        const { events, next, gap, resumed = next, ended = [] } = await answer.json();
        if (signal.aborted) return;
        session.hear();
        if (!session.openedAt) session.notice("hello", { conn: "", beat_ms: session.beat * 1000 });
        session.confirm(subs, next);
        if (gap) session.notice("gap", { after: query.after, resumed });
        for (const event of events) {
            await session.event(binary(event));
            if (signal.aborted) return;
        }
        // All channels are told up to here.
        session.event({ id: next, channel: "", data: 0 });
        session.lost(ended);
    });
