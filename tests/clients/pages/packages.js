// Client packages for pages, each used as its documentation says. Each calls `told` with every message that the package gives to
// a page's handler.
import { fetchEventSource } from "/node_modules/@microsoft/fetch-event-source/lib/esm/index.js";
import ReconnectingEventSource from "/node_modules/reconnecting-eventsource/build/esm/reconnecting-eventsource.js";

export const packages = {
    "@microsoft/fetch-event-source": (url, told) => {
        let last;
        fetchEventSource(url, {
            onmessage: ({ id, event, data }) => {
                last = id || last;
                told({ id, name: event || "message", data });
            },
            // Without this the package ends the stream of a hidden page, and may open two when the page is shown again.
            openWhenHidden: true,
            // The package takes the id of an event when it has read the id's line, so it would not ask again for an event that was
            // cut in two. The id of the last whole event is put in its place.
            fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...(last && { "last-event-id": last }) } }),
            // Without this the package takes an orderly end, which follows a bye, for the end of the subscription.
            onclose() {
                throw new Error("the server has ended the stream");
            },
        });
    },
    "reconnecting-eventsource": (url, told) => {
        const source = new ReconnectingEventSource(url, { max_retry_time: 500 });
        // The package keeps the id of events that come through listeners, and not of those that come through `onmessage`.
        for (const name of ["message", "tick", "ringcast.hello", "ringcast.gap", "ringcast.bye"]) {
            source.addEventListener(name, (event) => told({ id: event.lastEventId, name, data: event.data }));
        }
    },
};
