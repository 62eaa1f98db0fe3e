// The library's error.

/** An error with a code: one of the server's vocabulary, or the library's own. */
export class RingcastError extends Error {
    readonly code: string;
    constructor(code: string, message?: string) {
        super(message || code);
        this.code = code;
    }
}
