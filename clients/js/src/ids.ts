// Ids: `1700000000000-0`. They order all events of all channels, so one id is a position on any set of channels.

/** The position that the server names in a gap for a position that it has not reached. */
export const FOREIGN = "17592186044415-1048575";

/** Whether an id lies after another one. Each lies after none. */
export const isAfter = (id: string, other?: string): boolean => !other || padded(id) > padded(other);

const padded = (id: string): string => id.replace(/\d+/g, (digits) => digits.padStart(16, "0"));

/** The least of some ids. */
export const least = (ids: (string | undefined)[]): string | undefined => ids.reduce((a, b) => (!a || (b && isAfter(a, b)) ? b : a), undefined);
