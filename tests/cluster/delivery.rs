//! One order and one set of ids on all nodes.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::broker::{Broker, KEY, Redis, figure, node, node_in, on_each_broker};
use crate::clients::{Socket, Stream, get};
use crate::server::{code, eventually, publish};

fn all_nodes_deliver_the_same_events_in_one_order_with_the_same_ids<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", ""), node(&broker, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x&channel=y"));
    let mut sockets = [&a, &b].map(|node| Socket::open(node.address, "/ws?channel=x&channel=y"));
    sockets.iter_mut().for_each(|socket| {
        socket.hello();
    });
    let mut feeds = [a.feed(), b.feed()];
    let mut ids = Vec::new();
    for number in 0..40 {
        let feed = &mut feeds[number % 2];
        ids.push(match number % 4 {
            3 => broker.add("x", &format!("{number}")),
            _ => publish(feed, if number % 3 == 0 { "x" } else { "y" }, &number.to_string()),
        });
    }
    for stream in &mut streams {
        let seen: Vec<String> = (0..40).map(|_| stream.next().unwrap().id).collect();
        assert_eq!(seen, ids);
    }
    for socket in &mut sockets {
        let seen: Vec<_> = (0..40).map(|_| socket.json()["id"].clone()).collect();
        assert_eq!(json!(seen), json!(ids));
    }
    assert!(streams[0].hello.data.contains("\"conn\":\"a.0.") && streams[1].hello.data.contains("\"conn\":\"b.0."));
}

#[test]
fn a_backends_plain_xadd_is_a_full_publish() {
    let redis = Redis::start();
    let a = node(&redis, "a", "");
    let mut stream = Stream::open(a.address, "/sse?channel=orders:7");
    let id = redis.add("orders:7", "{\"state\": \"paid\"}");
    let event = stream.next().unwrap();
    assert_eq!((event.id, event.data.as_str()), (id, "{\"state\":\"paid\"}"));
    redis.ask(&["XADD", KEY, "*", "c", "orders:7", "d", "two\nlines", "t", "text", "e", "note"]);
    let event = stream.next().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("note", "two\nlines"));
}

fn a_position_of_one_node_is_exact_on_another<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", ""), node(&broker, "b", ""));
    let ids: Vec<String> = (0..10).map(|number| a.publish("x", &number.to_string())).collect();
    for from in 0..10 {
        let mut stream = Stream::open_with(b.address, "/sse?channel=x", &format!("Last-Event-ID: {}\r\n", ids[from]));
        for id in &ids[from + 1..] {
            assert_eq!(stream.next().unwrap().id, *id);
        }
        let answer = get(b.address, &format!("/poll?channel=x&wait=0&after={}", ids[from])).json();
        assert_eq!((answer["events"].as_array().unwrap().len(), answer["gap"].as_bool()), (9 - from, Some(false)));
    }
}

#[test]
fn a_position_ahead_of_the_node_is_waited_for() {
    let redis = Redis::start();
    let (a, b) = (node(&redis, "a", ""), node(&redis, "b", ""));
    let last = a.publish("x", "before");
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let ahead = format!("{}-0", now_ms + 1200);
    let mut stream = Stream::open_with(b.address, "/sse?channel=x", "");
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| Stream::open_with(b.address, &format!("/sse?channel=x&last_event_id={ahead}"), ""));
        eventually("the resume is held", || (figure(&b, "resumes_held") == 1).then_some(()));
        let id = eventually("the log has come so far", || {
            let id = a.publish("x", "later");
            (id > ahead).then_some(id)
        });
        (late.join().unwrap(), id)
    });
    let (mut late, id) = late;
    let end = eventually("the stream has the event", || {
        let event = late.next().unwrap();
        assert_ne!(event.name, "ringcast.gap");
        (event.id >= id).then_some(event.id)
    });
    assert_eq!(end, id);
    assert!(stream.next().unwrap().id >= last);
    let never = format!("{}-0", now_ms + 3_600_000);
    let answer = get(b.address, &format!("/poll?channel=x&wait=0&after={never}")).json();
    assert_eq!(answer["gap"], true, "a position that does not come is a gap after some seconds");
    assert_eq!(figure(&b, "resumes_expired"), 1);
}

fn a_key_counts_once_over_all_nodes<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", ""), node(&broker, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let line = |data: u8| json!({ "op": "publish", "channel": "x", "data": data, "key": "k" });
    let first = a.feed().call(line(1)).unwrap()["id"].clone();
    assert_eq!(b.feed().call(line(2)).unwrap()["id"], first);
    let several = |data: u8| json!({ "op": "publish", "channels": ["x", "y"], "data": data, "key": "m" });
    let ids = b.feed().call(several(3)).unwrap()["ids"].clone();
    assert_eq!(a.feed().call(several(4)).unwrap()["ids"], ids);
    let other = json!({ "op": "publish", "channel": "z", "data": 1, "key": "k" });
    assert_eq!(code(a.feed().call(other).unwrap_err()), "bad_field");
    broker.add("x", "5");
    let seen: Vec<String> = (0..3).map(|_| stream.next().unwrap().data).collect();
    assert_eq!(seen, ["1", "3", "5"]);
    assert_eq!(figure(&a, "publishes_suppressed"), 2);
}

fn answers_keep_the_order_of_lines_and_questions_see_what_was_published_before<B: Broker>() {
    let broker = B::start();
    let a = node(&broker, "a", "");
    let mut feed = a.feed();
    let mut refs = Vec::new();
    for number in 0..200 {
        refs.push(feed.send(json!({ "op": "publish", "channel": "x", "data": number })).unwrap());
        if number % 50 == 49 {
            refs.push(feed.send(json!({ "op": "history", "channel": "x", "limit": 1000 })).unwrap());
        }
    }
    let mut published = 0;
    for reference in refs {
        let answer = feed.receive().unwrap();
        assert_eq!(answer["ref"], reference, "{answer}");
        match answer["events"].as_array() {
            Some(events) => assert_eq!(events.len(), published),
            None => published += 1,
        }
    }
}

fn a_node_that_starts_knows_the_history_and_ended_channels<B: Broker>() {
    let broker = B::start();
    let a = node(&broker, "a", "");
    let ids: Vec<String> = (0..50).map(|number| a.publish("x", &number.to_string())).collect();
    a.feed().call(json!({ "op": "publish", "channel": "done", "data": 1 })).unwrap();
    a.feed().call(json!({ "op": "end", "channel": "done" })).unwrap();
    let b = node(&broker, "b", "");
    let history = |server: &crate::server::Server| {
        server.feed().call(json!({ "op": "history", "channel": "x", "limit": 1000 })).unwrap()["events"].clone()
    };
    assert_eq!(history(&b), history(&a));
    let mut stream = Stream::open_with(b.address, "/sse?channel=x", &format!("Last-Event-ID: {}\r\n", ids[9]));
    assert_eq!(stream.next().unwrap().id, ids[10]);
    let mut done = Stream::open(b.address, &format!("/sse?channel=done&last_event_id={}", ids[49]));
    assert_eq!(done.next().unwrap().data, "1");
    assert_eq!(done.next().unwrap().name, "ringcast.end");
    // A node that is restarted goes on where it was.
    let folder = a.stop();
    let id = b.publish("x", "meanwhile");
    let a = node_in(folder, &broker, "a", "");
    let mut stream = Stream::open_with(a.address, "/sse?channel=x", &format!("Last-Event-ID: {}\r\n", ids[49]));
    assert_eq!(stream.next().unwrap().id, id);
}

fn an_end_is_told_on_all_nodes<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", ""), node(&broker, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=answer"));
    a.publish("answer", "last");
    b.feed().call(json!({ "op": "end", "channel": "answer" })).unwrap();
    let ends = streams.each_mut().map(|stream| {
        assert_eq!(stream.next().unwrap().data, "last");
        stream.next().unwrap()
    });
    assert_eq!((ends[0].name.as_str(), &ends[0].id), ("ringcast.end", &ends[1].id));
}

#[test]
fn an_entry_that_cannot_be_read_stops_nothing() {
    let redis = Redis::start();
    let a = node(&redis, "a", "");
    let mut stream = Stream::open(a.address, "/sse?channel=x");
    for poison in [
        &["nothing", "1"][..],
        &["c", "x"],
        &["c", "$x", "d", "1"],
        &["c", "x", "d", "{"],
        &["w", "warp", "d", "{}"],
        &["w", "join", "d", "[]"],
        &["c", "x", "d", "1", "x", "9/2"],
    ] {
        let mut command = vec!["XADD", KEY, "*"];
        command.extend_from_slice(poison);
        redis.ask(&command);
    }
    let id = redis.add("x", "1");
    assert_eq!(stream.next().unwrap().id, id);
    assert_eq!(figure(&a, "entries_bad"), 7);
}

on_each_broker!(
    all_nodes_deliver_the_same_events_in_one_order_with_the_same_ids,
    a_position_of_one_node_is_exact_on_another,
    a_key_counts_once_over_all_nodes,
    answers_keep_the_order_of_lines_and_questions_see_what_was_published_before,
    a_node_that_starts_knows_the_history_and_ended_channels,
    an_end_is_told_on_all_nodes,
);
