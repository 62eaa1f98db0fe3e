// Ids: `1700000000000-0`. They order all events of all channels, so one id is a position on any set of channels.

/** The position that the server names in a gap for a position that it has not reached. */
export const FOREIGN = "17592186044415-1048575";

/** Whether an id lies after another one. Each lies after none. */
export function isAfter(id: string, other?: string): boolean {
    if (!other) return true;
    const [ms, number] = id.split("-") as any;
    const [otherMs, otherNumber] = other.split("-") as any;
    return ms - otherMs > 0 || (ms == otherMs && number - otherNumber > 0);
}

/** The least of some ids. */
export const least = (ids: (string | undefined)[]): string | undefined => ids.reduce((a, b) => (!a || (b && isAfter(a, b)) ? b : a), undefined);
