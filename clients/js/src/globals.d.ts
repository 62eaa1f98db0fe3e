/** Whether the build has more than event streams: WebSocket, polls and one connection for all tabs. Set by the build. */
declare const FULL: boolean;
/** What `connect` was called with. The build makes one function of the modules, which runs once for each client. */
declare const url: string;
declare const options: import("./types.js").Options;
