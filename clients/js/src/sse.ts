// Event streams alone, for pages that count bytes.

import type { Channels, Options, Ringcast } from "./types.js";

export * from "./types.js";

/** Makes a client that reads event streams. It connects with its first subscription. */
export declare const connect: <M extends object = Channels>(
    url: string,
    options?: Omit<Options, "share" | "transports" | "WebSocket">,
) => Omit<Ringcast<M>, "send" | "publish" | "stream">;
