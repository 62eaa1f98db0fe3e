// Long polls, which pass every proxy.

import { FOREIGN, isAfter } from "../ids.js";
import { ask, endAll, requests } from "./http.js";
import { binary } from "./payload.js";
import type { Transport } from "../session.js";

export const poll: Transport = (session, token) =>
    requests(session, true, token, async (subs, query, signal) => {
        const wait = session._isOpen() ? session._beat : 0;
        const answer = await ask(session, "poll", { ...query, wait }, token, signal);
        if (answer.status == 204) return endAll(session, subs);
        const { events, next, gap, resumed = next, ended = [] } = await answer.json();
        if (signal.aborted) return;
        session._hear();
        if (!wait) session._opened("poll", "", session._beat * 1000);
        session._confirm(subs);
        if (gap) session._notice("gap", { after: isAfter(query.after!, next) ? FOREIGN : query.after, resumed });
        for (const event of events) {
            const room = session._event(binary(event));
            if (room && !(await session._hasRoom(room))) return;
            if (signal.aborted) return;
        }
        // All channels are told up to here.
        session._event({ id: next, channel: "", data: 0 });
        for (const channel of ended) session._notice("end", { channel });
    });
