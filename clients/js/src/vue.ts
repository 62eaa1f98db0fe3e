// Composables for Vue 3.

import { onScopeDispose, shallowRef, toValue, watch, type MaybeRefOrGetter, type ShallowRef } from "vue";
import type { ChannelOf, DataOf, Ringcast, RingcastEvent, State, SubscribeOptions } from "./types.js";

/** Calls `handler` with each event of a channel, which may be a ref, while the scope lives. */
export function useChannel<M extends object, C extends ChannelOf<M>>(
    client: Ringcast<M>,
    channel: MaybeRefOrGetter<C>,
    handler: (event: RingcastEvent<DataOf<M, C>>) => unknown,
    options: SubscribeOptions = {},
): void {
    watch(
        () => toValue(channel),
        (name, _, onCleanup) => onCleanup(client.subscribe(name, handler, options)),
        { immediate: true },
    );
}

/** The newest event of a channel, `undefined` before the first. */
export function useLatest<M extends object, C extends ChannelOf<M>>(
    client: Ringcast<M>,
    channel: MaybeRefOrGetter<C>,
    options: SubscribeOptions = {},
): Readonly<ShallowRef<RingcastEvent<DataOf<M, C>> | undefined>> {
    const latest = shallowRef<RingcastEvent<DataOf<M, C>>>();
    useChannel(client, channel, (event) => (latest.value = event), options);
    return latest;
}

/** The client's state, as it changes. */
export function useRingcastState(client: Ringcast<any>): Readonly<ShallowRef<State>> {
    const state = shallowRef(client.state);
    onScopeDispose(client.on("state", (next) => (state.value = next)));
    return state;
}
