use serde_json::{Value, json};

use super::clients::{Answer, Http, Socket, Stream, get};
use super::server::Server;

#[test]
fn a_stream_gets_what_is_published_after_its_head() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    assert!(stream.head.contains("Content-Type: text/event-stream"));
    let id = server.publish("a", "one\ntwo");
    let event = stream.next().unwrap();
    assert_eq!((event.id, event.data.as_str()), (id, "one\ntwo"));
    let command = json!({ "op": "publish", "channel": "a", "data": { "x": [1, 2] }, "event": "named" });
    server.feed().call(command).unwrap();
    let event = stream.next().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("named", r#"{"x":[1,2]}"#));
    server.feed().call(json!({ "op": "publish", "channel": "a", "data_b64": "AP8=" })).unwrap();
    assert_eq!(stream.next().unwrap().data, "AP8=");
}

#[test]
fn many_subscribers_on_several_shards_all_get_everything() {
    let server = Server::start_with("", &["--shards", "3", "--no-pin"]);
    let mut streams: Vec<Stream> = (0..60).map(|_| Stream::open(server.address, "/sse?channel=a")).collect();
    let mut feed = server.feed();
    for number in 0..20 {
        super::server::publish(&mut feed, "a", &number.to_string());
    }
    for stream in &mut streams {
        for number in 0..20 {
            assert_eq!(stream.next().unwrap().data, number.to_string());
        }
    }
    server.await_fresh_figures();
    let stats = server.stats();
    let used =
        stats["shards"].as_array().unwrap().iter().filter(|shard| shard["connections_sse"].as_u64() > Some(0)).count();
    assert!(used > 1, "the kernel spreads connections over the shards: {stats}");
}

#[test]
fn several_channels_are_told_apart() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a&channel=b,c");
    server.publish("c", "x");
    assert_eq!(stream.next().unwrap().data, r#"{"channel":"c","data":"x"}"#);
    let mut bare = Stream::open(server.address, "/sse?channel=a,b&envelope=0");
    server.publish("b", "y");
    assert_eq!(bare.next().unwrap().data, "y");
}

#[test]
fn a_stream_over_http_1_0_ends_with_the_connection() {
    let server = Server::start("[http]\nsse_padding = 64");
    let mut http = Http::connect(server.address);
    http.send("GET /events?channel=a HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n");
    let head = http.head();
    assert!(head.contains("Connection: close") && !head.contains("chunked"), "{head}");
    server.publish("a", "x");
    server.feed().call(json!({ "op": "end", "channel": "a" })).unwrap();
    while http.fill() {}
    let body = String::from_utf8(http.waiting).unwrap();
    let (hello, events) = body.split_once("\n\n").unwrap();
    assert!(hello.starts_with(&format!(":{}\nid: ", " ".repeat(64))), "{body}");
    assert!(hello.contains("\nevent: ringcast.hello\nretry: 3000\ndata: {\"id\":\""), "{body}");
    assert!(events.starts_with("id: "), "{body}");
    assert!(body.contains("\ndata: x\n\n") && body.contains("event: ringcast.end\n"), "{body}");
}

#[test]
fn a_quiet_stream_gets_comments() {
    let server = Server::start("[heartbeat]\nsse = \"200ms\"");
    let stream = Stream::open(server.address, "/sse?channel=a");
    let mut http = stream.http;
    for _ in 0..3 {
        while http.waiting.len() < 7 {
            assert!(http.fill());
        }
        let rest = http.waiting.split_off(7);
        assert_eq!(std::mem::replace(&mut http.waiting, rest), b"2\r\n:\n\r\n");
    }
}

#[test]
fn every_answer_has_a_date_and_head_says_what_get_would() {
    let server = Server::start("[http]\nmax_header_fields = 10");
    let dated = |answer: &Answer| answer.header("date").is_some_and(|date| date.ends_with(" GMT") && date.len() == 29);
    let head = |target: &str| {
        let mut http = Http::connect(server.address);
        let answer = http.request("HEAD", target, "Connection: close\r\n");
        assert!(dated(&answer) && http.is_closed(), "{target} {}", answer.head);
        (answer.status, answer.header("content-type").unwrap().to_owned(), answer.header("content-length").is_some())
    };
    assert_eq!(head("/sse?channel=a"), (200, "text/event-stream".into(), false));
    assert_eq!(head("/poll?channel=a"), (200, "application/json".into(), false), "the length is not known");
    assert_eq!(head("/healthz"), (200, "text/plain; charset=utf-8".into(), true));
    assert_eq!(head("/sse"), (400, "application/json".into(), true));
    let stream = Stream::open(server.address, "/sse?channel=a");
    assert!(stream.head.contains("\r\nDate: "), "{}", stream.head);
    let options = Http::connect(server.address).request("OPTIONS", "/sse", "");
    assert!(dated(&options) && dated(&get(server.address, "/poll?channel=a&wait=0")));
    let mut http = Http::connect(server.address);
    http.send("nonsense\r\n\r\n");
    assert!(dated(&http.answer(false)));
    let with =
        |count: usize| Http::connect(server.address).request("GET", "/healthz", &"X: y\r\n".repeat(count)).status;
    assert_eq!((with(9), with(10)), (200, 431), "the Host field counts too");
}

#[test]
fn scripts_see_heartbeats_if_they_ask_for_them() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a&beat=1");
    assert_eq!(serde_json::from_str::<Value>(&stream.hello.data).unwrap()["beat_ms"], 1000);
    for _ in 0..2 {
        let beat = stream.next().unwrap();
        assert_eq!((&*beat.name, &*beat.data, &*beat.id), ("ringcast.beat", "{}", ""));
    }
    let mut socket = Socket::open(server.address, "/ws?channel=a&beat=1");
    assert_eq!(socket.hello()["beat_ms"], 1000);
    assert_eq!((socket.json(), socket.json()), (json!({ "beat": {} }), json!({ "beat": {} })));
    assert_eq!(get(server.address, "/sse?channel=a&beat=0").status, 400);
}

#[test]
fn bytes_and_names_have_a_place_in_every_form() {
    let server = Server::start("");
    let open = |query: &str| Stream::open(server.address, &format!("/sse?channel=a&{query}"));
    let (mut plain, mut envelope) = (open("envelope=0"), open("envelope=1"));
    let (mut unnamed, mut both) = (open("names=0"), open("envelope=1&names=0"));
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    socket.hello();
    let event = json!({ "op": "publish", "channel": "a", "data_b64": "AP8=", "event": "n" });
    server.feed().call(event).unwrap();
    let told = |stream: &mut Stream| {
        let event = stream.next().unwrap();
        (event.name, event.data)
    };
    let data = "{\"channel\":\"a\",\"event\":\"n\",\"data_b64\":\"AP8=\"}".to_owned();
    assert_eq!(told(&mut plain), ("n".into(), "AP8=".into()));
    assert_eq!(told(&mut envelope), ("n".into(), data.clone()));
    assert_eq!(told(&mut unnamed), (String::new(), "AP8=".into()));
    assert_eq!(told(&mut both), (String::new(), data));
    let message = socket.json();
    assert_eq!(
        (&message["event"], &message["data_b64"], &message["data"]),
        (&json!("n"), &json!("AP8="), &Value::Null)
    );
    let answer = get(server.address, "/poll?channel=a&after=1-0").json();
    assert_eq!(answer["events"][0]["data_b64"], "AP8=");
    let history = server.feed().call(json!({ "op": "history", "channel": "a" })).unwrap();
    assert_eq!(history["events"][0]["data_b64"], "AP8=");
}

#[test]
fn an_ended_channel_ends_its_streams_after_what_is_pending() {
    let server = Server::start("");
    let mut one = Stream::open(server.address, "/sse?channel=a");
    let mut two = Stream::open(server.address, "/sse?channel=a,b");
    let id = server.publish("a", "last");
    server.feed().call(json!({ "op": "end", "channel": "a" })).unwrap();
    assert_eq!(one.next().unwrap().data, "last");
    assert_eq!(one.next().unwrap().name, "ringcast.end");
    assert_eq!(one.next(), None);
    assert!(one.is_over, "the body was ended, not cut");
    assert!(two.next().unwrap().data.contains("last"));
    assert_eq!(two.next().unwrap().name, "ringcast.end");
    server.publish("b", "more");
    assert!(two.next().unwrap().data.contains("more"));
    // A client that has missed nothing is told that nothing will come, which stops an `EventSource`.
    for target in ["/sse?channel=a".to_owned(), format!("/sse?channel=a&last_event_id={id}")] {
        let answer = get(server.address, &target);
        assert_eq!((answer.status, answer.header("connection")), (204, Some("close")), "{target}");
    }
    // With a channel that goes on it is told of the end.
    let mut both = Stream::open(server.address, "/sse?channel=a,b");
    assert_eq!(both.next().unwrap().name, "ringcast.end");
    // A later client gets the events in history, and the end.
    let mut late = Stream::open(server.address, "/sse?channel=a&last_event_id=1-0");
    let first = late.next().unwrap();
    assert!(first.name == "ringcast.gap", "{first:?}");
    assert_eq!(late.next().unwrap().id, id);
    assert_eq!(late.next().unwrap().name, "ringcast.end");
    assert!(late.next().is_none() && late.is_over);
}

#[test]
fn requests_are_answered_as_the_rfcs_require() {
    let server = Server::start("[http]\ncors_origins = [\"https://app.example\"]");
    let mut http = Http::connect(server.address);
    assert_eq!(http.get("/healthz").body, "ok\n");
    assert_eq!(http.get("/readyz").status, 200);
    let head = http.request("HEAD", "/healthz", "");
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    assert_eq!(http.get("/nothing").status, 404);
    assert_eq!(http.get("/").status, 404, "only the demo serves a page");
    let post = http.request("POST", "/sse?channel=a", "");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let error = http.get("/sse").json();
    assert_eq!(error["error"]["code"], "no_channel");
    assert_eq!(http.get("/sse?channel=a%20b").status, 400);
    assert_eq!(http.get("/poll?channel=a&when=yesterday").status, 400);
    assert_eq!(http.get("/ws?channel=a").status, 426);
    let fields = "Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\n\
                  Access-Control-Request-Headers: last-event-id\r\n";
    let preflight = http.request("OPTIONS", "/sse?channel=a", fields);
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("last-event-id"));
    let other = http.request("GET", "/healthz", "Origin: https://evil.example\r\n");
    assert_eq!(other.header("access-control-allow-origin"), None);
    assert_eq!(http.get("http://any.host/healthz").status, 200);
    assert_eq!(http.request("HEAD", "/sse?channel=a", "").header("content-type"), Some("text/event-stream"));
    let closed = http.request("GET", "/healthz", "Connection: close\r\n");
    assert_eq!(closed.header("connection"), Some("close"));
    assert!(http.is_closed());
}

#[test]
fn the_demo_shows_its_page_and_publishes() {
    let server = Server::start_with("", &["--demo"]);
    let page = get(server.address, "/");
    assert!(page.body.contains("EventSource") && page.head.contains("text/html"));
    let mut stream = Stream::open(server.address, "/sse?channel=demo:ticker");
    assert!(stream.next().unwrap().data.contains("price"));
}

#[test]
fn a_unix_listener_serves_the_same() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let listen = format!("unix:{}", path.display());
    let server = Server::start_with("", &["--shards", "2", "--no-pin", "--listen", &listen]);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(super::server::PATIENCE)).unwrap();
    stream.write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("retry") {
        let length = stream.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    server.publish("a", "through the socket");
    while !text.contains("through the socket") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0);
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    server.stop();
    assert!(!path.exists(), "the server removes its socket's file");
}

#[test]
fn curl_reads_streams_and_polls() {
    let server = Server::start("");
    let first = server.publish("a", "one");
    server.publish("a", "two");
    let curl = |arguments: &[&str]| {
        let output = std::process::Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).output();
        let output = output.expect("curl must be installed for this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let base = format!("http://{}", server.address);
    assert_eq!(curl(&[&format!("{base}/healthz")]), "ok\n");
    let answer: serde_json::Value =
        serde_json::from_str(&curl(&[&format!("{base}/poll?channel=a&after={first}")])).unwrap();
    assert_eq!(answer["events"][0]["data"], "two");
    server.feed().call(json!({ "op": "end", "channel": "a" })).unwrap();
    // The stream ends with a last chunk, so curl reports a whole response.
    let stream = curl(&["-N", "-H", &format!("Last-Event-ID: {first}"), &format!("{base}/sse?channel=a")]);
    assert!(stream.contains("data: two\n\n") && stream.contains("ringcast.end"), "{stream}");
    let all = curl(&["-i", &format!("{base}/healthz"), &format!("{base}/nothing"), &format!("{base}/readyz")]);
    assert_eq!(all.matches("HTTP/1.1 ").count(), 3, "over one connection");
    assert!(server.figure("accepted") <= 4);
}
