//! A page over TLS: event stream, WebSocket and poll from the demo's page, whose certificate the server has made.

use serde_json::json;

use crate::Browser;
use crate::server::{Server, eventually};

/// Opens an event stream and a WebSocket and polls, each in `window`.
const OPEN: &str = "
    const done = arguments[arguments.length - 1];
    window.heard = { sse: [], ws: [], poll: [] };
    const source = new EventSource('/sse?channel=secured');
    source.onmessage = event => window.heard.sse.push(event.data);
    const socket = new WebSocket(`wss://${location.host}/ws?channel=secured`);
    socket.onmessage = event => {
        const message = JSON.parse(event.data);
        if (message.channel) window.heard.ws.push(message.data);
    };
    socket.onclose = event => { window.ended = `${event.code} ${event.wasClean}`; };
    fetch('/poll?channel=secured&wait=20').then(answer => answer.json()).then(answer => {
        window.heard.poll.push(...answer.events.map(event => event.data));
    });
    const wait = () => {
        const isOpen = source.readyState === 1 && socket.readyState === 1;
        isOpen ? setTimeout(() => done(true), 300) : setTimeout(wait, 20);
    };
    wait();
";

#[tokio::test(flavor = "current_thread")]
async fn a_page_over_tls_hears_events_by_every_transport() {
    let server = Server::start_with("", &["--demo", "--tls", "127.0.0.1:0"]);
    let told = eventually("the demo has an address", || {
        let log = server.log.lock().unwrap();
        log.iter().find_map(|line| line["message"].as_str()?.strip_prefix("the demo is at https://").map(str::to_owned))
    });
    let browser = Browser::open(&format!("https://{}", told)).await;
    assert_eq!(browser.run(OPEN, vec![]).await, json!(true));
    server.await_at_least("tls_connections", 1);
    let mut feed = server.feed();
    // A poll that is held late gets one of the events after the first.
    for text in ["one", "two", "three"] {
        feed.call(json!({ "op": "publish", "channel": "secured", "data": text })).unwrap();
    }
    browser.await_true("window.heard.sse.join() === 'one,two,three'").await;
    browser.await_true("window.heard.ws.join() === 'one,two,three'").await;
    browser.await_true("window.heard.poll.length > 0").await;
    feed.call(json!({ "op": "kick", "channel": "secured" })).unwrap();
    browser.await_true("window.ended").await;
    assert_eq!(browser.value("window.ended").await, json!("4003 true"));
    // The event stream comes back by itself.
    server.await_at_least("opened_sse", 2);
    browser.client.clone().close().await.unwrap();
}

/// Opens twenty event streams and a WebSocket.
const OPEN_MANY: &str = "
    const done = arguments[arguments.length - 1];
    window.heard = 0;
    const sources = [];
    for (let number = 0; number < 20; number++) {
        const source = new EventSource('/sse?channel=many');
        source.onmessage = event => { window.heard += event.data === 'to all'; };
        sources.push(source);
    }
    window.sources = sources;
    const socket = new WebSocket(`wss://${location.host}/ws?channel=many`);
    socket.onmessage = event => {
        const message = JSON.parse(event.data);
        if (message.channel) window.socket = message.data;
    };
    const wait = () => {
        const isOpen = sources.every(source => source.readyState === 1) && socket.readyState === 1;
        isOpen ? done(true) : setTimeout(wait, 20);
    };
    wait();
";

#[tokio::test(flavor = "current_thread")]
async fn twenty_event_streams_of_a_page_share_one_connection() {
    let server = Server::start_with("", &["--demo", "--tls", "127.0.0.1:0"]);
    let told = eventually("the demo has an address", || {
        let log = server.log.lock().unwrap();
        log.iter().find_map(|line| line["message"].as_str()?.strip_prefix("the demo is at https://").map(str::to_owned))
    });
    let browser = Browser::open(&format!("https://{told}")).await;
    assert_eq!(browser.run(OPEN_MANY, vec![]).await, json!(true));
    server.await_at_least("connections_sse", 20);
    server.await_at_least("h2_streams", 21);
    assert_eq!(server.figure("h2_connections"), 1, "all of them are streams of one connection, the WebSocket too");
    server.publish("many", "to all");
    browser.await_true("window.heard === 20 && window.socket === 'to all'").await;
    server.feed().call(json!({ "op": "kick", "channel": "many" })).unwrap();
    // The event streams come back by themselves, on the same connection.
    server.await_at_least("opened_sse", 40);
    server.await_at_least("connections_sse", 20);
    assert_eq!((server.figure("h2_connections"), server.figure("h2_errors")), (1, 0));
    browser.client.clone().close().await.unwrap();
}
