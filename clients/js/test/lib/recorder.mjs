// The client's side of the model test: it subscribes and writes down what it is told. It runs in Node and in browsers.

/** Whether a subscription was told everything up to the end of a gap. */
function isTold({ told }, { resumed }) {
    const last = told.at(-1);
    const [a, b] = resumed.split("-").map(Number);
    const [c, d] = (last?.id ?? last?.gap.resumed ?? "0-0").split("-").map(Number);
    return c > a || (c === a && d >= b);
}

/** Makes a client whose subscriptions are recorded. `transports` is kept, so that its order can be changed while it runs. */
export function record(connect, url, options) {
    const transports = [...options.transports];
    const client = connect(url, { ...options, transports });
    /** For each subscription the channel, the position that it began after, the events, and the gaps. */
    const subscriptions = [];
    const states = [];
    client.on("gap", (gap) => {
        const all = subscriptions.filter((one) => gap.channels.includes(one.channel));
        for (const one of all) {
            // Two subscriptions of a channel may be at different positions, and the gap that of the other one.
            const isOthers = isTold(one, gap) && all.some((other) => other.channel === one.channel && !isTold(other, gap));
            if (!isOthers) one.told.push({ gap });
        }
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
