// Everything: WebSocket, event streams, polls, and one connection for all tabs.

import type { Channels, Options, Ringcast } from "./types.js";

export * from "./types.js";

/** Makes a client. It connects with its first subscription or message. */
export declare const connect: <M extends object = Channels>(url: string, options?: Options) => Ringcast<M>;
