import crypto from "node:crypto";

const SECRET = "a secret of at least 32 bytes, yes";

/** The configuration of a server that knows the key of the tokens here, and does without tokens too. */
export const KEYS = `[auth]
    allow_anonymous = true
    keys = [{ alg = "HS256", secret = "${SECRET}" }]`;

/** A token for all channels that expires after some seconds. */
export function tokenFor(seconds) {
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = { channels: "*", exp: Math.floor(Date.now() / 1000) + seconds };
    const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
    return `${text}.${crypto.createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}
