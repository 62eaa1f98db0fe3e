// Event streams over fetch: tokens in a header, statuses that can be read, and reading that stops when there is no room.

import * as session from "../session.js";
import { ask, requests } from "./http.js";
import { binary } from "./payload.js";
import type { Transport } from "../session.js";

export const sse: Transport = (token) =>
    requests(token, async (subs, query, signal) => {
        const answer = await ask("sse", { ...query, envelope: 1, names: 0, beat: session.beat }, token, signal);
        const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
        for (let text = ""; ; ) {
            const { value, done } = await reader.read();
            if (done) throw {};
            session.hear();
            const parts = (text + value).split("\n\n");
            text = parts.pop()!;
            for (const part of parts) {
                const { id, event, data } = Object.fromEntries(part.split("\n").map((line) => line.split(/: (.*)/s)));
                if (signal.aborted) return;
                if (event) {
                    const told = JSON.parse(data);
                    session.notice(event.slice(9), told);
                    // The hello has the position.
                    if (told.id) session.confirm(subs, told.id);
                } else if (id) await session.event({ id, ...binary(JSON.parse(data)) });
                else if (FULL) session.notice("message", data);
            }
        }
    });
