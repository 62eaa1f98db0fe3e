// The types of the library's interface.

export { RingcastError } from "./error.js";

/** A map from channels to the types of their data. A `*` in a name stands for any text: `"orders:*"`. */
export type Channels = Record<string, any>;

type Pattern<Name> = Name extends `${infer Start}*${infer End}` ? `${Start}${string}${End}` : Name;

/** The names that a map allows. */
export type ChannelOf<M> = Pattern<keyof M & string> & string;

/** The type of a channel's data. */
export type DataOf<M, C extends string> = C extends keyof M
    ? M[C]
    : { [P in keyof M]: C extends Pattern<P> ? M[P] : never }[keyof M];

/** What was published on a channel. */
export interface RingcastEvent<T = any> {
    /** The event's id, which is a position on any set of channels. */
    id: string;
    channel: string;
    /** The name that the publisher gave it. */
    event?: string;
    /** A JSON value, a text, or the bytes of a binary payload. */
    data: T;
}

/** Events that are lost: those of these channels after `after`, up to `resumed`. */
export interface Gap {
    channels: string[];
    after: string;
    resumed: string;
}

export type TransportName = "ws" | "sse" | "poll";

/** The reason for an end, or for a wait. */
export interface Reason {
    /** A code of the server's vocabulary, or one of the library's: `closed`, `cut`, `silent`, `token`. */
    code: string;
    message: string;
}

export type State =
    | { name: "idle" }
    | { name: "connecting" }
    | {
          name: "open";
          transport: TransportName;
          /** The connection's name, as the backend knows it. */
          conn: string;
          /** Whether the connection is one for all tabs, and whether it is this tab's. */
          shared?: "holder" | "follower";
      }
    | { name: "waiting"; ms: number; reason: Reason }
    | { name: "closed"; reason: Reason };

/** A function that the library calls with what happens. */
export interface Listeners {
    state: State;
    gap: Gap;
    /** The publisher has ended a channel. */
    end: { channel: string };
    /** The backend has taken the client off a channel, or refuses it the channel. */
    unsubscribed: { channel: string; reason: string };
    /** A message for this connection alone. */
    message: unknown;
    /** A handler, or the function `token`, has thrown an error. */
    error: unknown;
}

export interface SubscribeOptions {
    /** The position to begin after, such as the id that the page was made with; without one, from now on. */
    after?: string | null | undefined;
    /** Only events of this name. */
    event?: string | undefined;
    signal?: AbortSignal | undefined;
}

export interface EventsOptions extends SubscribeOptions {
    /** The number of events that may wait to be taken: 256 if it is not given. */
    buffer?: number | undefined;
}

export interface Options {
    /** The token, or a function that gets one. It is called for each connection, before the token expires, and once after a refusal. */
    token?: string | (() => string | Promise<string>) | undefined;
    /** The transports, the preferred one first: `["ws", "sse", "poll"]`. */
    transports?: TransportName[] | undefined;
    /** One connection for all tabs: of the token's subject, or of the name that is given. */
    share?: boolean | string | undefined;
    /** The longest time between two signs of life from the server, in seconds: 20 if it is not given. */
    beat?: number | undefined;
    /** The time in milliseconds over which clients come back after a cut that the server has not announced. */
    spread?: number | undefined;
    /** Closes the client when it is aborted. */
    signal?: AbortSignal | undefined;
    /** In place of the platform's own. */
    fetch?: typeof globalThis.fetch | undefined;
    /** In place of the platform's own. */
    WebSocket?: (new (url: string) => WebSocket) | undefined;
}

/** The chunks of an answer, such as a language model's. */
export interface TokenStream<T> extends AsyncGenerator<T, void, undefined> {
    /** Ends the iteration, and sends `{"cancel":"CHANNEL"}` to the backend. */
    cancel(): Promise<void>;
}

/** A client of a ringcast server. */
export interface Ringcast<M extends object = Channels> {
    /**
     * Calls `handler` with each event of a channel, once each and in order. Returns a function that ends this. Without `after` it
     * begins with what is published from now on.
     */
    subscribe<C extends ChannelOf<M>>(channel: C, handler: (event: RingcastEvent<DataOf<M, C>>) => unknown, options?: SubscribeOptions): () => void;
    /**
     * The events of a channel, to be iterated over, up to the channel's end. While the loop is busy at most `buffer` events wait in
     * memory; then the library reads no further, and resumes later.
     */
    events<C extends ChannelOf<M>>(channel: C, options?: EventsOptions): AsyncGenerator<RingcastEvent<DataOf<M, C>>, void, undefined>;
    /** The chunks that are published on a channel, up to its end. Lost chunks are an error with the code `gap`. */
    stream<C extends ChannelOf<M>>(channel: C, options?: EventsOptions): TokenStream<DataOf<M, C>>;
    /** Calls `listener` when something happens. Returns a function that ends this. */
    on<N extends keyof Listeners>(name: N, listener: (value: Listeners[N]) => unknown): () => void;
    /** Sends a message to the backend. Rejected if the connection is cut before the server has it: nothing is queued. */
    send(data: unknown): Promise<void>;
    /** Publishes an event, if the token allows it, and returns its id. */
    publish<C extends ChannelOf<M>>(channel: C, data: DataOf<M, C>, event?: string): Promise<string>;
    /** The position up to which all subscriptions have their events: `after` for the next page. */
    readonly position: string | undefined;
    readonly state: State;
    /** Connects at once, also after a refusal. After `close` it does nothing. */
    reconnect(): void;
    /** Ends everything for good. */
    close(): void;
    /** `using rc = connect(…)`. */
    [Symbol.dispose](): void;
}
