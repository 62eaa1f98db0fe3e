// Everything: WebSocket, event streams, polls, and one connection for all tabs.

import { makeClient } from "./client.js";
import { join } from "./share.js";
import { poll } from "./transports/poll.js";
import { sse } from "./transports/sse.js";
import { ws } from "./transports/ws.js";
import type { Channels, Options, Ringcast } from "./types.js";

export * from "./types.js";

/** Makes a client. It connects with its first subscription or message. */
export const connect = <M extends object = Channels>(url: string, options: Options = {}): Ringcast<M> => makeClient(url, options, { ws, sse, poll }, join);
