import crypto from "node:crypto";
import { KEYS } from "../../../../tests/clients/lib/tokens.mjs";

const [, SECRET] = /secret = "(.*?)"/.exec(KEYS);

/** A token with these claims that expires after some seconds, signed with the key of `KEYS`. */
export function tokenOf(claims, seconds) {
    const now = Math.floor(Date.now() / 1000);
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ iat: now, exp: now + seconds, ...claims })}`;
    return `${text}.${crypto.createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}
