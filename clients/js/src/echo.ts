// A connector for laravel-echo 2: `new Echo({ broadcaster: RingcastConnector, host: "https://push.example.com" })`.

import { connect } from "ringcast";
import type { Options, Ringcast, RingcastEvent, State } from "./types.js";

/** Echo's options, as far as this connector reads them. */
export interface RingcastEchoOptions {
    /** The server's address. */
    host: string;
    /** The namespace of event classes: `App.Events` if it is not given. */
    namespace?: string | false | null;
    bearerToken?: string | null;
    /** The client's own options. */
    ringcast?: Options;
}

type Callback = (...values: any[]) => unknown;
export type ConnectionStatus = "connected" | "disconnected" | "connecting" | "reconnecting" | "failed";

const NOTIFICATION = ".Illuminate\\Notifications\\Events\\BroadcastNotificationCreated";

/** A channel in Echo's sense. */
export class RingcastChannel {
    private listeners: { event: string; callback: Callback; isAll?: boolean }[] = [];
    private errors: Callback[] = [];
    private off: () => void;

    constructor(
        private client: Ringcast,
        readonly name: string,
        private namespace: string | false | null,
    ) {
        const offs = [
            client.subscribe(name, (event) => this.hear(event)),
            client.on("unsubscribed", (told) => told.channel === name && this.errors.forEach((callback) => callback(told))),
        ];
        this.off = () => offs.forEach((off) => off());
    }

    private hear({ event = "", data }: RingcastEvent): void {
        for (const one of this.listeners) {
            if (one.isAll) one.callback(event, data);
            else if (one.event === event) one.callback(data);
        }
    }

    private format(event: string): string {
        if (/^[.\\]/.test(event)) return event.slice(1);
        return (this.namespace ? `${this.namespace}.${event}` : event).replace(/\./g, "\\");
    }

    listen(event: string, callback: Callback): this {
        this.listeners.push({ event: this.format(event), callback });
        return this;
    }

    listenToAll(callback: Callback): this {
        this.listeners.push({ event: "", callback, isAll: true });
        return this;
    }

    stopListening(event: string, callback?: Callback): this {
        const name = this.format(event);
        this.listeners = this.listeners.filter((one) => one.event !== name || (callback && one.callback !== callback));
        return this;
    }

    notification(callback: Callback): this {
        return this.listen(NOTIFICATION, callback);
    }

    stopListeningForNotification(callback: Callback): this {
        return this.stopListening(NOTIFICATION, callback);
    }

    listenForWhisper(event: string, callback: Callback): this {
        return this.listen(`.client-${event}`, callback);
    }

    stopListeningForWhisper(event: string, callback?: Callback): this {
        return this.stopListening(`.client-${event}`, callback);
    }

    /** Publishes an event of this client, which the server must allow (`client_publish`, and the token's `publish`). */
    whisper(event: string, data: unknown): this {
        this.client.publish(this.name, data, `client-${event}`).catch((error) => this.errors.forEach((callback) => callback(error)));
        return this;
    }

    subscribed(callback: Callback): this {
        if (this.client.state.name === "open") queueMicrotask(callback);
        else {
            const off = this.client.on("state", ({ name }) => {
                if (name !== "open") return;
                off();
                callback();
            });
        }
        return this;
    }

    error(callback: Callback): this {
        this.errors.push(callback);
        return this;
    }

    unsubscribe(): void {
        this.off();
    }

    // Presence: the server tells of users who join and leave.

    joining(callback: Callback): this {
        return this.listen(".ringcast.join", callback);
    }

    leaving(callback: Callback): this {
        return this.listen(".ringcast.leave", callback);
    }

    /** Calls back with the users who have joined since this page listens. */
    here(callback: Callback): this {
        const users = new Map<string, unknown>();
        this.joining((user) => callback([...users.set(user.user, user).values()]));
        return this.leaving((user) => users.delete(user.user) && callback([...users.values()]));
    }
}

const STATUS: { [name in State["name"]]: ConnectionStatus } = {
    idle: "disconnected",
    connecting: "connecting",
    open: "connected",
    waiting: "reconnecting",
    closed: "failed",
};

/** The connector, which Echo makes. */
export class RingcastConnector {
    client!: Ringcast;
    private channels: { [name: string]: RingcastChannel } = {};

    constructor(readonly options: RingcastEchoOptions) {
        this.connect();
    }

    connect(): void {
        const { host, bearerToken, ringcast } = this.options;
        this.client = connect(host, { ...(bearerToken && { token: bearerToken }), ...ringcast });
    }

    channel(name: string): RingcastChannel {
        const { namespace = "App.Events" } = this.options;
        return (this.channels[name] ??= new RingcastChannel(this.client, name, namespace));
    }

    listen(name: string, event: string, callback: Callback): RingcastChannel {
        return this.channel(name).listen(event, callback);
    }

    privateChannel(name: string): RingcastChannel {
        return this.channel(`private-${name}`);
    }

    presenceChannel(name: string): RingcastChannel {
        return this.channel(`presence-${name}`);
    }

    leave(name: string): void {
        for (const one of [name, `private-${name}`, `presence-${name}`]) this.leaveChannel(one);
    }

    leaveChannel(name: string): void {
        this.channels[name]?.unsubscribe();
        delete this.channels[name];
    }

    /** The connection's name, with which a backend leaves it out (`"except"` of a publish). */
    socketId(): string | undefined {
        const { state } = this.client;
        return state.name === "open" ? state.conn : undefined;
    }

    connectionStatus(): ConnectionStatus {
        return STATUS[this.client.state.name];
    }

    onConnectionChange(callback: (status: ConnectionStatus) => void): () => void {
        return this.client.on("state", ({ name }) => callback(STATUS[name]));
    }

    disconnect(): void {
        this.client.close();
        this.channels = {};
    }
}
