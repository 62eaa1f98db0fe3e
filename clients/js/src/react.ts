// Hooks for React 18 and newer.

import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { ChannelOf, Channels, DataOf, Ringcast, RingcastEvent, State, SubscribeOptions } from "./types.js";

/** Clients by key, with the number of components that use each. */
const clients = new Map<string, { client: Ringcast<any>; uses: number }>();

/**
 * A client for as long as a component uses it: `useRingcast("main", () => connect("/push"))`. All components with the same key have
 * the same one. Without the client's own page (on a server) nothing is connected before something subscribes.
 */
export function useRingcast<M extends object = Channels>(key: string, make: () => Ringcast<M>): Ringcast<M> {
    const [client] = useState(() => {
        const present = clients.get(key) ?? { client: make(), uses: 0 };
        clients.set(key, present);
        return present.client as Ringcast<M>;
    });
    useEffect(() => {
        const entry = clients.get(key) ?? { client, uses: 0 };
        clients.set(key, entry);
        entry.uses++;
        return () => {
            entry.uses--;
            // React mounts components twice in its strict mode, so a client is closed only if nobody has taken it up again.
            setTimeout(() => {
                if (entry.uses || clients.get(key) !== entry) return;
                clients.delete(key);
                entry.client.close();
            });
        };
    }, [key]);
    return client;
}

/** Calls `handler`, which may change, with each event of a channel. */
export function useChannel<M extends object, C extends ChannelOf<M>>(
    client: Ringcast<M>,
    channel: C,
    handler: (event: RingcastEvent<DataOf<M, C>>) => unknown,
    { after, event }: Pick<SubscribeOptions, "after" | "event"> = {},
): void {
    const latest = useRef(handler);
    latest.current = handler;
    // A component that is mounted again goes on where it was.
    const position = useRef<{ of: string; id: string | undefined }>(undefined);
    useEffect(() => {
        const from = position.current?.of === channel ? position.current.id : undefined;
        return client.subscribe(
            channel,
            (told) => {
                position.current = { of: channel, id: told.id };
                return latest.current(told);
            },
            { after: from ?? after, event },
        );
    }, [client, channel, after, event]);
}

/** The newest event of a channel, `undefined` before the first. */
export function useLatest<M extends object, C extends ChannelOf<M>>(client: Ringcast<M>, channel: C, options: Pick<SubscribeOptions, "after" | "event"> = {}): RingcastEvent<DataOf<M, C>> | undefined {
    const [latest, setLatest] = useState<RingcastEvent<DataOf<M, C>>>();
    useChannel(client, channel, setLatest, options);
    return latest?.channel === channel ? latest : undefined;
}

/** The client's state, as it changes. */
export function useRingcastState(client: Ringcast<any>): State {
    const read = () => client.state;
    return useSyncExternalStore((changed) => client.on("state", changed), read, read);
}
