//! Against servers that do what no real one can be made to do in time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use super::connection::Url;
use super::sse::{self, Event};
use super::transports::{poll, stream, take_answer, take_message, take_stream_event};
use super::*;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    args: SubscribeArgs,
}

fn arguments(line: &str) -> SubscribeArgs {
    Arguments::parse_from(["subscribe"].into_iter().chain(line.split(' '))).args
}

/// A subscriber that prints into `out`.
fn subscriber<'a>(args: &'a SubscribeArgs, out: &'a mut Vec<u8>) -> Subscriber<'a> {
    Subscriber::new(args, &args.url.parse().unwrap(), Box::new(out))
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nretry: 1500\n\n";

/// A server for one connection, which has read the request's head when `script` begins.
fn server<T: Send + 'static>(script: impl FnOnce(TcpStream, String) -> T + Send + 'static) -> (Url, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream).lines().map_while(std::io::Result::ok);
        let request = lines.next().unwrap();
        assert!(lines.any(|line| line.is_empty()));
        script(stream, request)
    });
    (url, thread)
}

/// Whether the client stays for this long.
fn stays(mut stream: &TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    stream.read(&mut [0; 100]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn why(ended: Ended) -> String {
    match ended {
        Ended::Again { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pauses_grow_up_to_a_bound_and_are_spread() {
    assert_eq!(pause(0, None, 0.0), PAUSE_MIN / 2);
    assert_eq!(pause(0, None, 1.0), PAUSE_MIN);
    assert!(pause(3, None, 1.0) == PAUSE_MIN * 8);
    assert_eq!(pause(60, None, 1.0), PAUSE_MAX);
    assert_eq!(pause(0, Some(Duration::from_secs(3)), 1.0), Duration::from_secs(3));
}

#[test]
fn a_busy_stream_ends_in_time() {
    let (url, server) = server(|mut stream, _| {
        stream.write_all(HEAD).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if stream.write_all(b"id: 1-0\ndata: {\"channel\":\"a\",\"data\":1}\n\n").is_err() {
                return true;
            }
        }
        false
    });
    let (args, mut out) = (arguments("http://h --channel a --timeout 1"), Vec::new());
    let ended = stream(&url, &mut subscriber(&args, &mut out));
    assert!(matches!(ended, Ended::Done), "{ended:?}");
    assert!(!out.is_empty());
    assert!(server.join().unwrap(), "the client has gone before the server did");
}

#[test]
fn a_time_without_end_is_none() {
    let (args, mut out) = (arguments(&format!("http://h --channel a --timeout {}", u64::MAX)), Vec::new());
    assert_eq!(subscriber(&args, &mut out).deadline, None);
}

#[test]
fn a_slow_answer_is_waited_for_also_with_a_timeout() {
    let (url, server) = server(|mut stream, _| {
        let stays = stays(&stream, Duration::from_millis(500));
        let _ = stream.write_all(HEAD);
        let _ = stream.write_all(b"id: 1-0\ndata: {\"channel\":\"a\",\"data\":1}\n\n");
        stays
    });
    let (args, mut out) = (arguments("http://h --channel a --timeout 60 --count 1"), Vec::new());
    let ended = stream(&url, &mut subscriber(&args, &mut out));
    assert!(server.join().unwrap());
    assert!(matches!(ended, Ended::Done), "{ended:?}");
}

#[test]
fn a_silent_server_is_given_up() {
    for answer in [HEAD, b""] {
        let (url, server) = server(move |mut stream, _| {
            stream.write_all(answer).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let (args, mut out) = (arguments("http://h --channel a"), Vec::new());
        let mut subscriber = subscriber(&args, &mut out);
        let short = Duration::from_millis(50);
        subscriber.patience = match answer.is_empty() {
            true => Patience { answer: short, ..PATIENCE },
            false => Patience { silence: short, ..PATIENCE },
        };
        assert!(why(stream(&url, &mut subscriber)).contains("sent nothing"));
        server.join().unwrap();
    }
}

#[test]
fn a_quiet_connection_was_no_failed_try() {
    let (url, _server) = server(|mut stream, _| stream.write_all(HEAD).unwrap());
    let (args, mut out) = (arguments("http://h --channel a"), Vec::new());
    let mut subscriber = subscriber(&args, &mut out);
    why(stream(&url, &mut subscriber));
    assert_eq!((subscriber.is_fresh, subscriber.retry), (true, Some(Duration::from_millis(1500))));
}

#[test]
fn a_poll_is_held_for_the_last_part_of_a_second_too() {
    let (url, server) = server(|_, request| request);
    let (args, mut out) = (arguments("http://h --channel a --timeout 20"), Vec::new());
    why(poll(&url, &mut subscriber(&args, &mut out)));
    let request = server.join().unwrap();
    assert!(request.contains("&wait=20 "), "{request}");
}

/// What a client prints and how it ends after some messages of a WebSocket.
fn after_messages(line: &str, messages: &[serde_json::Value]) -> (String, Option<Ended>, Option<Duration>) {
    let (args, mut out) = (arguments(line), Vec::new());
    let mut subscriber = subscriber(&args, &mut out);
    let take = |message: &serde_json::Value| take_message(&mut subscriber, message.to_string().as_bytes()).err();
    let ended = messages.iter().find_map(take);
    let retry = subscriber.retry;
    drop(subscriber);
    (String::from_utf8(out).unwrap(), ended, retry)
}

#[test]
fn a_websocket_says_when_to_come_back() {
    let bye = json!({ "bye": { "reason": "drain", "retry_ms": 1500 } });
    let (out, ended, retry) = after_messages("http://h --channel a", &[bye]);
    assert!(out.is_empty() && ended.is_none());
    assert_eq!(retry, Some(Duration::from_millis(1500)));
}

#[test]
fn with_the_last_channel_a_websocket_is_over() {
    let error = |channel: &str| json!({ "error": { "code": "forbidden", "message": "no", "channels": [channel] } });
    let end = |channel: &str| json!({ "end": { "channel": channel } });
    let line = "http://h --channel a,b";
    assert!(after_messages(line, &[error("a")]).1.is_none());
    assert!(matches!(after_messages(line, &[error("a"), error("b")]).1, Some(Ended::Refused(why)) if why == "no"));
    assert!(matches!(after_messages(line, &[error("a"), end("b")]).1, Some(Ended::Refused(_))));
    assert!(after_messages(line, &[end("a"), end("a")]).1.is_none());
    assert!(matches!(after_messages(line, &[end("a"), end("b")]).1, Some(Ended::Done)));
    let unsubscribed = json!({ "unsubscribed": { "channel": "a", "reason": "left" } });
    let (out, ended, _) = after_messages("http://h --channel a", &[unsubscribed]);
    assert!(out.is_empty() && matches!(ended, Some(Ended::Refused(_))));
}

#[test]
fn what_is_for_one_connection_is_printed_as_it_is() {
    let (out, ..) = after_messages("http://h --channel a", &[json!({ "data": { "x": 1 } })]);
    assert_eq!(out, "{\"data\":{\"x\":1}}\n");
    let text = b"id: 1-0\ndata: {\"channel\":\"a\",\"data\":1}\n\ndata: {\"x\":1}\n\ndata: two\ndata: lines\n\n\
        event: ringcast.unsubscribed\ndata: {\"channel\":\"b\",\"reason\":\"left\"}\n\n";
    let (args, mut out) = (arguments("http://h --channel a,b"), Vec::new());
    let mut subscriber = subscriber(&args, &mut out);
    for event in sse::Parser::default().push(text) {
        take_stream_event(&mut subscriber, event).unwrap();
    }
    assert_eq!((subscriber.printed, subscriber.last_id.as_deref()), (3, Some("1-0")));
    assert_eq!(subscriber.query("after"), "?channel=a&after=1-0", "what it was taken off is not asked for again");
    drop(subscriber);
    let expected = "{\"channel\":\"a\",\"data\":1,\"id\":\"1-0\"}\n{\"data\":{\"x\":1}}\n{\"data\":\"two\\nlines\"}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_stream_cut_after_a_gap_goes_on_after_it() {
    let (args, mut out) = (arguments("http://h --channel a"), Vec::new());
    let mut subscriber = subscriber(&args, &mut out);
    let gap = Event { id: Some("5-0".into()), has_own_id: true, name: Some("ringcast.gap".into()), data: "{}".into() };
    take_stream_event(&mut subscriber, gap).unwrap();
    assert_eq!((subscriber.last_id.as_deref(), subscriber.printed), (Some("5-0"), 0));
}

#[test]
fn a_poll_takes_a_channel_for_ended_when_it_has_all_of_it() {
    let (args, mut out) = (arguments("http://h --channel a --channel b"), Vec::new());
    let mut subscriber = subscriber(&args, &mut out);
    let event = json!({ "id": "1-0", "channel": "a", "data": 1 });
    take_answer(&mut subscriber, json!({ "events": [event], "next": "1-0", "gap": false, "ended": ["a"] })).unwrap();
    assert_eq!(subscriber.query("after"), "?channel=a&channel=b&after=1-0");
    take_answer(&mut subscriber, json!({ "events": [], "next": "1-0", "gap": false, "ended": ["a"] })).unwrap();
    assert_eq!(subscriber.query("after"), "?channel=b&after=1-0");
    let last = take_answer(&mut subscriber, json!({ "events": [], "next": "2-0", "gap": false, "ended": ["b"] }));
    assert!(matches!(last, Err(Ended::Done)));
}

#[test]
fn what_is_in_no_envelope_is_taken_as_it_is() {
    let (args, mut out) = (arguments("http://h --channel a --format json"), Vec::new());
    let mut to = subscriber(&args, &mut out);
    for data in ["[1]", "hello", "7", "null", "{\"channel\":\"a\",\"data\":[2]}"] {
        let event = Event { id: Some("1-0".into()), data: data.into(), has_own_id: true, ..Event::default() };
        take_stream_event(&mut to, event).unwrap();
    }
    take_message(&mut to, b"[1]").unwrap();
    for answer in [json!([]), json!(1), json!({ "events": 1, "next": 1 }), json!({ "events": [1, []] })] {
        let is_object = answer.is_object();
        assert_eq!(take_answer(&mut to, answer).is_ok(), is_object);
    }
    drop(to);
    let lines = String::from_utf8(out).unwrap();
    let data: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let data: Vec<_> = data.iter().map(|line| line["data"].to_string()).collect();
    assert_eq!(data, ["\"[1]\"", "\"hello\"", "\"7\"", "\"null\"", "[2]", "null", "null"]);
}
