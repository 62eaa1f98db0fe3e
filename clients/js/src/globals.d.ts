/** Whether the build has more than event streams: WebSocket, polls and one connection for all tabs. Set by the build. */
declare const FULL: boolean;
