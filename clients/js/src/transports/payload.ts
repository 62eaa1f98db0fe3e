// Payloads.

/** An event, or a message, with a binary payload as bytes. */
export const binary = ({ data_b64, ...told }: any): any => (data_b64 == null ? told : { ...told, data: Uint8Array.from(atob(data_b64), (c) => c.charCodeAt(0)) });
