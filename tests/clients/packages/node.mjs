// Client packages for Node, each used as its documentation says. `connect` subscribes and calls `told` with every message that the
// package gives to a program's handler. It returns what ends the subscription (`close`), and, of packages that stop for good when
// the server tells them to, whether that has happened (`isOver`).
import { createEventSource } from "eventsource-client";
import { EventSource } from "eventsource";
import ReconnectingWebSocket from "reconnecting-websocket";
import { WebSocket } from "ws";

/** The names of the events that a program listens to. */
const NAMES = ["message", "tick", "ringcast.gap", "ringcast.bye"];

function eventsource(url, told) {
    const source = new EventSource(url);
    for (const name of NAMES) {
        source.addEventListener(name, (event) => told({ id: event.lastEventId, name, data: event.data }));
    }
    return { close: () => source.close(), isOver: () => source.readyState === EventSource.CLOSED };
}

function eventsourceClient(url, told) {
    const source = createEventSource({
        url,
        onMessage: ({ id, event, data }) => told({ id, name: event ?? "message", data }),
    });
    return { close: () => source.close(), isOver: () => source.readyState === "closed" };
}

/** A message of the server as the SSE packages tell theirs. */
function fromSocket(text) {
    const message = JSON.parse(text);
    if (message.id) return { id: message.id, name: message.event ?? "message", data: message.data };
    const [[name, data]] = Object.entries(message);
    return { id: data.id, name: `ringcast.${name}`, data };
}

/** The package has no means to reconnect, so the program does it, with the id of the last message. */
function ws(url, told) {
    let last;
    let socket;
    let timer;
    const open = () => {
        socket = new WebSocket(last ? `${url}&last_event_id=${last}` : url);
        socket.on("message", (data) => {
            const message = fromSocket(data);
            last = message.id ?? last;
            told(message);
        });
        socket.on("error", () => {});
        socket.on("close", () => (timer = setTimeout(open, 200)));
    };
    open();
    const close = () => {
        socket.removeAllListeners("close");
        socket.terminate();
        clearTimeout(timer);
    };
    return { close };
}

/** The package reconnects, and asks the program for the URL each time. */
function reconnectingWebsocket(url, told) {
    let last;
    const socket = new ReconnectingWebSocket(() => (last ? `${url}&last_event_id=${last}` : url), [], {
        WebSocket,
        minReconnectionDelay: 100,
        maxReconnectionDelay: 500,
    });
    socket.addEventListener("message", ({ data }) => {
        const message = fromSocket(data);
        last = message.id ?? last;
        told(message);
    });
    return { close: () => socket.close() };
}

export const NODE_PACKAGES = [
    { name: "eventsource", transport: "sse", connect: eventsource },
    { name: "eventsource-client", transport: "sse", survivesErrors: true, connect: eventsourceClient },
    { name: "ws", transport: "ws", survivesErrors: true, connect: ws },
    { name: "reconnecting-websocket", transport: "ws", survivesErrors: true, connect: reconnectingWebsocket },
];
