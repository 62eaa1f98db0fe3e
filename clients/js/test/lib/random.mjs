/** A generator of random numbers below a bound, the same for the same seed (mulberry32). */
export function seeded(seed) {
    let state = seed >>> 0;
    return (bound) => {
        state = (state + 0x6d2b79f5) >>> 0;
        let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
        mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
        return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * bound);
    };
}

/** The seed of this run: `RINGCAST_SEED`, or a new one. */
export const SEED = Number(process.env.RINGCAST_SEED ?? Date.now() % 1_000_000);
