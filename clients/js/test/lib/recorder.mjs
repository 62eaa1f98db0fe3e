// The client's side of the model test: it subscribes and writes down what it is told. It runs in Node and in browsers.

/** Makes a client whose subscriptions are recorded. `transports` is kept, so that its order can be changed while it runs. */
export function record(connect, url, options) {
    const transports = [...options.transports];
    const client = connect(url, { ...options, transports });
    /** For each subscription the channel, the position that it began after, the events, and the gaps. */
    const subscriptions = [];
    const states = [];
    client.on("gap", (gap) => {
        for (const one of subscriptions) if (gap.channels.includes(one.channel)) one.told.push({ gap });
        return undefined;
    });
    client.on("state", (state) => states.push(state.name === "open" ? state.transport : state.name));
    client.on("error", (error) => states.push(`error: ${error}`));
    return {
        client,
        states,
        subscriptions,
        subscribe(channel, after) {
            const one = { channel, after, told: [] };
            subscriptions.push(one);
            client.subscribe(channel, ({ id, data }) => one.told.push({ id, n: data.n }), { after });
        },
        /** Reads the channel with an iterator that waits for `ms` between events. */
        async iterate(channel, after, ms, buffer) {
            const one = { channel, after, told: [] };
            subscriptions.push(one);
            for await (const { id, data } of client.events(channel, { after, buffer })) {
                one.told.push({ id, n: data.n });
                if (ms) await new Promise((resolve) => setTimeout(resolve, ms));
            }
        },
        /** Prefers another transport from the next connection on. */
        prefer(name) {
            transports.sort((a, b) => (b === name) - (a === name));
        },
        /** For each subscription, the position up to which it was told everything, or told of a gap. */
        last: () => subscriptions.map(({ told }) => (told.length ? told.at(-1).id ?? told.at(-1).gap.resumed : null)),
        look: () => JSON.parse(JSON.stringify({ subscriptions, states, state: client.state, position: client.position })),
    };
}
