// Payloads.

/** An event, or a message, with a binary payload as bytes. */
export const binary = (told: any): any =>
    told.data_b64 == null ? told : { ...told, data_b64: undefined, data: Uint8Array.from(atob(told.data_b64), (c) => c.charCodeAt(0)) };
