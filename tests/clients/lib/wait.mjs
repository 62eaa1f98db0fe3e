// Waiting for conditions, which the tests do instead of sleeping.
import { setTimeout as sleep } from "node:timers/promises";

/** The time in milliseconds that a step may take before its test fails. */
export const PATIENCE = 20_000;

/** Calls `look` until it returns something true, and returns that; fails with the text `what` after the patience. */
export async function eventually(what, look, patience = PATIENCE) {
    const deadline = Date.now() + patience;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > deadline) throw new Error(`this did not happen in time: ${typeof what === "string" ? what : await what()}`);
        await sleep(20);
    }
}
