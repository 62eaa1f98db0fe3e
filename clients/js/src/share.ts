import type { Join } from "./session.js";
export const join: Join = async () => undefined;
