//! What is particular to NATS: servers that die, hang, forget, or give the lead away, and messages by hand.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::broker::{Broker, figure, node};
use crate::clients::{Stream, get};
use crate::failures::{gaps, publish, publish_at_last, read_up_to};
use crate::nats_server::{Nats, STREAM, Three, id_of, number_of};
use crate::server::{Server, code, eventually};

fn node_of(url: &str, name: &str, config: &str) -> Server {
    Server::start_in(tempfile::tempdir().unwrap(), config, &["--backplane", url, "--node", name])
}

/// Waits until both nodes have looked at the log since now.
fn await_looks() {
    std::thread::sleep(Duration::from_millis(2200));
}

#[test]
fn a_backends_plain_message_is_a_full_publish() {
    let nats = Nats::start();
    let a = node(&nats, "a", "");
    let mut stream = Stream::open(a.address, "/sse?channel=orders:7");
    let mut dotted = Stream::open(a.address, "/sse?channel=a..b");
    let id = nats.add("orders:7", "{\"state\": \"paid\"}");
    let event = stream.next().unwrap();
    assert_eq!((event.id, event.data.as_str()), (id, "{\"state\":\"paid\"}"));
    let headers = "Rc-Channel: a..b\r\nRc-Event: note\r\nRc-Kind: text\r\nRc-Key: k";
    let id = nats.publish("rc.main.e", headers, "two\nlines");
    nats.publish("rc.main.e", headers, "two\nlines");
    nats.publish("rc.main.e", "Rc-Channel: a..b", "3");
    let event = dotted.next().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str(), event.id), ("note", "two\nlines", id));
    assert_eq!(dotted.next().unwrap().data, "3", "a key counts once");
}

#[test]
fn a_message_that_cannot_be_read_stops_nothing() {
    let nats = Nats::start();
    let a = node(&nats, "a", "");
    let mut stream = Stream::open(a.address, "/sse?channel=x");
    for (subject, headers, payload) in [
        ("rc.main.e", "", "1"),
        ("rc.main.e.x", "", "{"),
        ("rc.main.e.x", "Rc-Kind: xml", "1"),
        ("rc.main.e", "Rc-Channel: $x", "1"),
        ("rc.main.unknown", "", "1"),
        ("rc.main.log", "", ""),
        ("rc.main.log", "", "\u{1}\u{1}c\u{9}"),
    ] {
        nats.publish(subject, headers, payload);
    }
    let id = nats.add("x", "1");
    assert_eq!(stream.next().unwrap().id, id);
    assert_eq!(figure(&a, "entries_bad"), 7);
}

#[test]
fn a_position_ahead_of_the_node_is_waited_for() {
    let nats = Nats::start();
    let (a, b) = (node(&nats, "a", ""), node(&nats, "b", ""));
    let ahead = id_of(number_of(&a.publish("x", "before")) + (6 << 14));
    let mut late = std::thread::scope(|scope| {
        let late = scope.spawn(|| Stream::open_with(b.address, &format!("/sse?channel=x&last_event_id={ahead}"), ""));
        eventually("the resume is held", || (figure(&b, "resumes_held") == 1).then_some(()));
        eventually("the log has come so far", || {
            (number_of(&a.publish("x", "more")) > number_of(&ahead)).then_some(())
        });
        late.join().unwrap()
    });
    let id = a.publish("x", "last");
    assert_eq!(gaps(&read_up_to(&mut late, &id)), 0);
}

#[test]
fn a_server_that_restarts_with_its_log_loses_nothing() {
    let mut nats = Nats::start();
    let (a, b) = (node(&nats, "a", ""), node(&nats, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    publish(&a, "1").unwrap();
    nats.crash();
    nats.restart();
    let id = publish_at_last(&a, "2");
    assert_eq!(read_up_to(&mut stream, &id), [(String::new(), "1".to_owned())], "nothing is lost, and no gap is told");
    assert_eq!((figure(&a, "log_gaps"), figure(&b, "log_gaps")), (0, 0));
}

#[test]
fn a_log_that_is_gone_is_told_as_one_gap_on_all_nodes_and_ids_go_on() {
    let mut nats = Nats::start();
    let config = "[backplane]\nstorage = \"memory\"";
    let (a, b) = (node(&nats, "a", config), node(&nats, "b", config));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x"));
    let mut last = publish(&a, "1").unwrap();
    for round in 1..3 {
        await_looks();
        if round == 1 {
            nats.delete();
        } else {
            nats.crash();
            nats.restart();
        }
        for node in [&a, &b] {
            eventually("the gap is told", || (figure(node, "log_gaps") == round).then_some(()));
        }
        let id = publish_at_last(&b, &format!("after {round}"));
        assert!(number_of(&id) > number_of(&last), "{id} {last}");
        for stream in &mut streams {
            let seen = read_up_to(stream, &id);
            assert_eq!(gaps(&seen), 1, "{seen:?}");
        }
        last = id;
    }
}

#[test]
fn a_purge_is_a_gap_only_for_a_node_that_had_not_read() {
    let nats = Nats::start();
    let (a, b) = (node(&nats, "a", ""), node(&nats, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x"));
    publish(&a, "1").unwrap();
    await_looks();
    nats.trim();
    await_looks();
    let id = publish(&a, "2").unwrap();
    streams.iter_mut().for_each(|stream| assert_eq!(gaps(&read_up_to(stream, &id)), 0));
    b.signal(libc::SIGSTOP);
    publish(&a, "3").unwrap();
    // What the server has sent to the stopped node is still read, so the rest goes to a connection of its own.
    nats.trim();
    b.signal(libc::SIGCONT);
    let id = publish_at_last(&a, "4");
    let seen = streams.each_mut().map(|stream| read_up_to(stream, &id));
    assert_eq!(gaps(&seen[0]), 0);
    assert!(gaps(&seen[1]) == 1 || seen[1].iter().any(|(_, data)| data == "3"), "{seen:?}");
}

#[test]
fn messages_that_a_server_has_lost_are_told_as_a_gap_and_ids_go_on() {
    let mut nats = Nats::start();
    let (a, b) = (node(&nats, "a", ""), node(&nats, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x"));
    publish(&a, "kept").unwrap();
    await_looks();
    nats.signal(libc::SIGSTOP);
    let copy = tempfile::tempdir().unwrap();
    let run = |from: &std::path::Path, to: &std::path::Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    run(&nats.store(), copy.path());
    nats.signal(libc::SIGCONT);
    let lost = publish_at_last(&a, "lost");
    for number in 0..20 {
        publish_at_last(&a, &format!("lost {number}"));
    }
    nats.crash();
    std::fs::remove_dir_all(nats.store()).unwrap();
    run(&copy.path().join("store"), &nats.store());
    nats.restart();
    for node in [&a, &b] {
        eventually("the loss is told", || (figure(node, "log_gaps") >= 1).then_some(()));
    }
    let id = publish_at_last(&b, "next");
    assert!(number_of(&id) > number_of(&lost));
    for stream in &mut streams {
        let seen = read_up_to(stream, &id);
        assert!(gaps(&seen) >= 1, "{seen:?}");
        assert_eq!(seen.iter().filter(|(_, data)| data == "lost").count(), 1, "{seen:?}");
    }
}

#[test]
fn publishers_are_told_the_truth_while_the_server_hangs() {
    let nats = Nats::start();
    let (a, b) = (node(&nats, "a", "[backplane]\npublish_timeout = \"1s\""), node(&nats, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    publish(&a, "before").unwrap();
    nats.signal(libc::SIGSTOP);
    let begun = Instant::now();
    let refusal = publish(&a, "k").unwrap_err();
    assert!(["unsure", "unavailable"].contains(&refusal.as_str()), "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    eventually("the broker is away", || (figure(&a, "backplane_up") == 0).then_some(()));
    assert_eq!(publish(&a, "never").unwrap_err(), "unavailable");
    nats.signal(libc::SIGCONT);
    publish_at_last(&a, "k");
    let last = publish_at_last(&a, "last");
    let seen = read_up_to(&mut stream, &last);
    let events: Vec<&str> = seen.iter().map(|(_, data)| data.as_str()).collect();
    assert_eq!(events, ["before", "k"], "repeating with the key is exact");
}

#[test]
fn an_event_without_a_key_comes_once_although_the_server_hung_while_it_was_under_way() {
    let nats = Nats::start();
    let (a, b) = (node(&nats, "a", "[backplane]\npublish_timeout = \"1m\""), node(&nats, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    a.publish("x", "before");
    nats.signal(libc::SIGSTOP);
    let mut feed = a.feed();
    for number in 0..20 {
        feed.send(json!({ "op": "publish", "channel": "x", "data": number })).unwrap();
    }
    eventually("the broker is away", || (figure(&a, "backplane_up") == 0).then_some(()));
    nats.signal(libc::SIGCONT);
    let ids: Vec<_> = (0..20).map(|_| feed.receive().unwrap()["id"].as_str().unwrap().to_owned()).collect();
    let last = publish_at_last(&a, "last");
    let seen: Vec<String> = read_up_to(&mut stream, &last).into_iter().map(|(_, data)| data).collect();
    let expected: Vec<String> = ["before".to_owned()].into_iter().chain((0..20).map(|n| n.to_string())).collect();
    assert_eq!(seen, expected);
    assert!(ids.is_sorted_by_key(|id| number_of(id)));
}

#[test]
fn an_event_that_is_greater_than_a_message_is_refused_with_the_reason() {
    let nats = Nats::start_with("max_payload: 4096");
    let a = node(&nats, "a", "");
    let error = a.feed().call(json!({ "op": "publish", "channel": "x", "data": "x".repeat(5000) })).unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
    assert_eq!(code(error), "unavailable");
    // Several that fit one by one are more than one message.
    let mut feed = a.feed();
    for _ in 0..10 {
        feed.send(json!({ "op": "publish", "channel": "x", "data": "x".repeat(1500) })).unwrap();
    }
    (0..10).for_each(|_| assert!(feed.receive().unwrap()["id"].is_string()));
}

#[test]
fn three_servers_lose_nothing_while_one_dies_and_the_lead_goes_over() {
    let mut three = Three::start();
    let config = "[backplane]\nreplicas = 3\npublish_timeout = \"20s\"";
    let (a, b) = (node_of(&three.url(), "a", config), node_of(&three.url(), "b", config));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let mut number = 0;
    let mut some = |node: &Server| {
        for _ in 0..10 {
            node.publish("x", &number.to_string());
            number += 1;
        }
    };
    some(&a);
    let leader = three.leader();
    three.servers[(leader + 1) % 3].ask(&format!("STREAM.LEADER.STEPDOWN.{STREAM}"), &json!({}));
    some(&a);
    some(&b);
    let leader = three.leader();
    three.servers[leader].crash();
    some(&a);
    some(&b);
    let last = publish_at_last(&b, "last");
    let seen: Vec<String> = read_up_to(&mut stream, &last).into_iter().map(|(_, data)| data).collect();
    assert_eq!(seen, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!((figure(&a, "log_gaps"), figure(&b, "log_gaps")), (0, 0));
    // Consumers are made by the leader of all servers, which may be elected anew.
    three.servers.iter().enumerate().filter(|(at, _)| *at != leader).for_each(|(_, server)| server.await_up());
    let c = node_of(&three.url(), "c", config);
    let history = get(c.address, "/poll?channel=x&wait=0&after=1-0").json();
    assert_eq!(history["events"].as_array().unwrap().len(), 51, "a node that starts with two servers left knows all");
}
