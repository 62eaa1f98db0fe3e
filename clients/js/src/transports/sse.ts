// Event streams over fetch: tokens in a header, statuses that can be read, and reading that stops when there is no room.

import { ask, endAll, requests } from "./http.js";
import { binary } from "./payload.js";
import type { Transport } from "../session.js";

export const sse: Transport = (session, token) =>
    requests(session, false, token, async (subs, query, signal) => {
        const answer = await ask(session, "sse", { ...query, envelope: 1, names: 0, beat: session._beat }, token, signal);
        if (answer.status == 204) return endAll(session, subs);
        const reader = answer.body!.getReader();
        const decoder = new TextDecoder();
        for (let text = "", end; ; ) {
            const { value, done } = await reader.read();
            if (done) return session._subs.size ? {} : undefined;
            session._hear();
            text += decoder.decode(value, { stream: true });
            while ((end = text.indexOf("\n\n")) >= 0) {
                const fields: any = {};
                for (const line of text.slice(0, end).split("\n")) {
                    const colon = line.indexOf(": ");
                    fields[line.slice(0, colon)] = line.slice(colon + 2);
                }
                text = text.slice(end + 2);
                const { id, event, data } = fields;
                if (signal.aborted) return;
                if (event) {
                    const told = JSON.parse(data);
                    const name = event.slice(9);
                    if (name == "bye") return { code: told.code, message: told.reason, retry: told.retry_ms };
                    if (name == "hello") {
                        session._opened("sse", told.conn, told.beat_ms);
                        session._confirm(subs, told.id);
                    } else session._notice(name, told);
                } else if (id) {
                    const room = session._event({ id, ...binary(JSON.parse(data)) });
                    if (room && !(await session._hasRoom(room))) return;
                } else if (FULL) session._notice("message", data);
            }
        }
    });
