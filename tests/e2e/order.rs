use super::clients::{Http, Socket, Stream};
use super::server::{Server, publish};

#[test]
fn events_of_several_channels_come_in_the_order_of_their_ids_also_under_lag() {
    let server = Server::start("[namespace.\"*\"]\nmax_lag = \"64MiB\"");
    let mut stream = Stream::open(server.address, "/sse?channel=a,b,c");
    let mut feed = server.feed();
    // The events are long enough to fill the kernel's buffers, so that the connection is behind on all three channels.
    let padding = "x".repeat(1000);
    for number in 0..8000 {
        publish(&mut feed, ["a", "b", "c"][number % 3], &format!("{number} {padding}"));
    }
    // The client has fallen behind.
    server.await_at_least("sends_blocked", 1);
    for number in 0..8000 {
        let event = stream.next().unwrap();
        assert!(event.data.contains(&format!("\"data\":\"{number} ")), "{number}: {:.80}", event.data);
    }
}

#[test]
fn a_lagging_client_may_leave_a_channel_between_frames() {
    let server = Server::start("[namespace.\"*\"]\nmax_lag = \"64MiB\"");
    let mut socket = Socket::open(server.address, "/ws?channel=a,b");
    let mut feed = server.feed();
    let padding = "x".repeat(1000);
    for number in 0..6000 {
        publish(&mut feed, ["a", "b"][number % 2], &format!("{number} {padding}"));
    }
    // The client has fallen behind.
    server.await_at_least("sends_blocked", 1);
    socket.say(r#"{"unsubscribe":["a"],"ref":"left"}"#);
    let mut last = 0;
    let mut has_left = false;
    loop {
        let message = socket.json();
        if message["ref"] == "left" {
            has_left = true;
            continue;
        }
        let number: u64 = message["data"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(number >= last);
        last = number;
        assert!(!has_left || message["channel"] == "b");
        if number == 5999 {
            break;
        }
    }
    assert!(has_left);
}

#[test]
fn a_pong_or_heartbeat_never_falls_into_a_frame() {
    let server = Server::start("[namespace.\"*\"]\nmax_lag = \"64MiB\"\n[heartbeat]\nws = \"100ms\"\nsse = \"100ms\"");
    let mut socket = Socket::open(server.address, "/ws?channel=a&format=raw");
    let mut feed = server.feed();
    let padding = "y".repeat(30_000);
    for number in 0..300 {
        publish(&mut feed, "a", &format!("{number} {padding}"));
        if number % 10 == 0 {
            socket.socket.send(tungstenite::Message::Ping(vec![1].into())).unwrap();
        }
    }
    let (mut expected, mut pongs) = (0, 0);
    while expected < 300 || pongs < 30 {
        match socket.next() {
            tungstenite::Message::Text(text) => {
                assert_eq!(text.len(), padding.len() + 1 + expected.to_string().len());
                assert!(text.starts_with(&format!("{expected} ")));
                expected += 1;
            }
            tungstenite::Message::Pong(_) => pongs += 1,
            _ => {}
        }
    }
}

#[test]
fn small_channels_are_served_while_a_giant_one_is_in_full_fan_out() {
    let server = Server::start("");
    let giant: Vec<Http> = (0..2000)
        .map(|_| {
            let mut http = Http::connect(server.address);
            http.send("GET /sse?channel=giant HTTP/1.1\r\nHost: x\r\n\r\n");
            http
        })
        .collect();
    server.await_figure("connections_sse", 2000);
    let mut small = Stream::open(server.address, "/sse?channel=small");
    let mut feed = server.feed();
    for number in 0..50 {
        publish(&mut feed, "giant", "x");
        publish(&mut feed, "small", &number.to_string());
    }
    for number in 0..50 {
        assert_eq!(small.next().unwrap().data, number.to_string());
    }
    server.await_figure("deliveries", 2000 * 50 + 50);
    drop(giant);
}
