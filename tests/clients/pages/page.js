// Functions for the pages of the tests. Each keeps a record of the messages that come, which the tests look at.

const NAMES = ["message", "ringcast.hello", "ringcast.gap", "ringcast.end", "ringcast.bye"];

/** All event streams and WebSockets of the page. */
window.records = [];

/** Opens an event stream, and returns the index of its record. */
window.openStream = (url, options) => {
    const record = { source: new EventSource(url, options), events: [], errors: 0, isClosed: false };
    for (const name of NAMES) {
        record.source.addEventListener(name, ({ data, lastEventId }) => record.events.push({ name, data, id: lastEventId }));
    }
    // A browser that gives a stream up says so by an error event.
    record.source.onerror = () => {
        record.errors++;
        record.isClosed ||= record.source.readyState === EventSource.CLOSED;
    };
    return records.push(record) - 1;
};

/** Opens a WebSocket, and returns the index of its record. If it is to be `kept`, the page opens it again when it has ended. */
window.openSocket = (url, isKept) => {
    const record = { events: [], isClosed: false };
    let last;
    const open = () => {
        const socket = new WebSocket(last ? `${url}&last_event_id=${last}` : url);
        socket.onmessage = ({ data }) => {
            const message = JSON.parse(data);
            last = message.id ?? message.hello?.id ?? last;
            record.events.push(message);
        };
        socket.onclose = ({ code, reason }) => {
            Object.assign(record, { isClosed: true, code, reason });
            if (isKept) setTimeout(open, 200);
        };
    };
    open();
    return records.push(record) - 1;
};

/** A record as plain data. */
window.look = (index) => {
    const { source, ...rest } = records[index];
    return { ...rest, readyState: source?.readyState };
};
