// Ids: `1700000000000-0`. They order all events of all channels, so one id is a position on any set of channels.

/** Compares two ids by their numbers. */
export const { compare } = new Intl.Collator("en", { numeric: true });

/** Whether an id lies after another one. Each lies after none. */
export const isAfter = (id: string, other = ""): boolean => compare(id, other) > 0;

/** The least of some ids. */
export const least = (ids: (string | undefined)[]): string | undefined => (ids as string[]).filter(Boolean).sort(compare)[0];
