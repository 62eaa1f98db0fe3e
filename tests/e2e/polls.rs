use serde_json::{Value, json};

use super::clients::{Http, get};
use super::server::Server;

#[test]
fn a_short_poll_tells_the_present_position() {
    let server = Server::start("");
    let answer = get(server.address, "/poll?channel=a&wait=0").json();
    assert_eq!((answer["events"].as_array().unwrap().len(), &answer["gap"]), (0, &false.into()));
    let next = answer["next"].as_str().unwrap();
    let id = server.publish("a", "x");
    let answer = get(server.address, &format!("/poll?channel=a&after={next}&wait=0")).json();
    assert_eq!(answer["events"][0]["id"], id);
    assert_eq!(answer["events"][0]["channel"], "a");
    assert_eq!(answer["next"], id);
}

#[test]
fn a_held_poll_is_answered_by_an_event_and_the_connection_goes_on() {
    let server = Server::start("");
    let mut http = Http::connect(server.address);
    http.send("GET /poll?channel=a&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n");
    server.await_figure("connections_poll", 1);
    // A pipelined request waits for its turn.
    http.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let id = server.publish("a", "x");
    let answer = http.answer(false).json();
    assert_eq!((&answer["events"][0]["id"], &answer["next"]), (&id.clone().into(), &id.into()));
    assert_eq!(http.answer(false).body, "ok\n");
    assert_eq!(http.get("/poll?channel=a&wait=0").status, 200);
    server.await_figure("accepted", 1);
}

#[test]
fn a_poll_whose_time_is_over_is_answered_empty() {
    let server = Server::start("");
    server.publish("a", "before");
    let mut http = Http::connect(server.address);
    let answer = http.get("/poll?channel=a&wait=1").json();
    assert_eq!(answer["events"].as_array().unwrap().len(), 0);
    let next = answer["next"].as_str().unwrap().to_string();
    let id = server.publish("a", "after");
    assert_eq!(http.get(&format!("/poll?channel=a&after={next}")).json()["events"][0]["id"], id);
}

#[test]
fn polling_on_loses_nothing_and_repeats_nothing() {
    let server = Server::start_with("", &["--shards", "2", "--no-pin"]);
    let mut next = get(server.address, "/poll?channel=a,b&wait=0").json()["next"].as_str().unwrap().to_string();
    let feed_path = server.feed_path.clone();
    let publisher = std::thread::spawn(move || {
        let mut feed = ringcast::feed::client::FeedClient::connect(&feed_path).unwrap();
        for number in 0..2000 {
            super::server::publish(&mut feed, if number % 3 == 0 { "a" } else { "b" }, &number.to_string());
        }
    });
    let mut expected = 0;
    while expected < 2000 {
        // Each poll has a new connection, so the polls come to both shards.
        let answer = get(server.address, &format!("/poll?channel=a,b&after={next}&wait=10")).json();
        assert_eq!(answer["gap"], false);
        for event in answer["events"].as_array().unwrap() {
            assert_eq!(event["data"], expected.to_string());
            expected += 1;
        }
        next = answer["next"].as_str().unwrap().to_string();
    }
    publisher.join().unwrap();
}

#[test]
fn a_poll_is_told_of_events_that_history_has_lost() {
    let server = Server::start("[namespace.\"*\"]\nhistory_events = 2");
    let first = server.publish("a", "0");
    for number in 1..5 {
        server.publish("a", &number.to_string());
    }
    let answer = get(server.address, &format!("/poll?channel=a&after={first}")).json();
    assert_eq!(answer["gap"], true);
    let data: Vec<_> = answer["events"].as_array().unwrap().iter().map(|event| event["data"].clone()).collect();
    assert_eq!(data, ["3", "4"]);
}

#[test]
fn a_poll_is_told_of_an_end_once() {
    let server = Server::start("");
    let end = |channel: &str| server.feed().call(json!({ "op": "end", "channel": channel })).unwrap();
    let last = server.publish("a", "last");
    server.publish("b", "1");
    end("a");
    let poll = |channels: &str, after: &str, wait: u32| {
        get(server.address, &format!("/poll?channel={channels}&after={after}&wait={wait}"))
    };
    let answer = poll("a,b", &last, 20).json();
    assert_eq!((&answer["events"][0]["data"], &answer["ended"]), (&json!("1"), &json!(["a"])));
    let next = answer["next"].as_str().unwrap();
    // The next poll is held, and goes on with the other channel.
    let mut held = Http::connect(server.address);
    held.send(&format!("GET /poll?channel=a,b&after={next}&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n"));
    server.await_figure("connections_poll", 1);
    let short = poll("a,b", next, 0).json();
    assert_eq!((short["events"].as_array().unwrap().len(), &short["ended"]), (0, &Value::Null));
    server.publish("b", "2");
    let answer = held.answer(false).json();
    assert_eq!((&answer["events"][0]["data"], &answer["ended"]), (&json!("2"), &Value::Null));
    // A client that was told of all ends is told that nothing will come.
    assert_eq!(poll("a", next, 20).status, 204);
    assert_eq!(poll("a", &last, 20).json()["ended"], json!(["a"]));
    // The channel goes on, and ends again.
    let id = server.publish("a", "more");
    assert_eq!(poll("a", next, 20).json()["events"][0]["id"], id);
    end("a");
    assert_eq!(poll("a", &id, 20).json()["ended"], json!(["a"]));
}
