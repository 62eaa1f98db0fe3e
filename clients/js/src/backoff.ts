// The time to wait before the next connection.

/**
 * Chooses the wait in milliseconds: anything from 0 to a bound that grows (full jitter). `spread` is the first bound that the program
 * asks for. `isSettled`: the client had long been connected, so all others may have been cut with it, and a tenth of them within a
 * second is too many. `isWatched`: a page that is shown.
 */
export const jitter = (tries: number, isSettled: boolean, isWatched: boolean, spread?: number): number =>
    Math.random() * Math.min(30_000, (spread ?? (isSettled ? (isWatched ? 3000 : 18_000) : 500)) * 2 ** tries);

/** The wait after a refusal that tells a time, which is one of a few for all clients. */
export const afterRefusal = (told: number): number => told * (1 + 10 * Math.random());
