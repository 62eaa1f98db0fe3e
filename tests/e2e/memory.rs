//! The memory that clients which do not read make the server hold, and that it comes back.

use super::clients::{Http, Stream};
use super::server::{Server, eventually, publish};
use super::slow::lazy;

const MIB: u64 = 1 << 20;

/// The largest resident memory while `is_over` does not hold yet.
fn most_until(server: &Server, what: &str, is_over: impl Fn() -> bool) -> u64 {
    let mut most = 0;
    eventually(what, || {
        most = most.max(server.resident_bytes());
        is_over().then_some(())
    });
    most
}

fn is_given_back(server: &Server, clients: Vec<Http>, before: u64) {
    drop(clients);
    eventually("the memory is given back", || (server.resident_bytes() < before + 6 * MIB).then_some(()));
}

#[test]
fn clients_that_are_cut_off_within_a_long_event_leave_no_copy_of_it() {
    let server = Server::start(
        "[limits]\nretained = 0\n[namespace.\"*\"]\nslow = \"disconnect\"\nmax_lag = \"64KiB\"\nhistory_events = 0",
    );
    let clients: Vec<Http> = (0..150).map(|_| lazy(&server, "/sse?channel=a")).collect();
    let mut reader = Stream::open(server.address, "/sse?channel=a");
    server.await_figure("connections_sse", 151);
    let before = server.resident_bytes();
    let mut feed = server.feed();
    let text = "x".repeat(500_000);
    let mut most = 0;
    while server.figure("slow_disconnected") < 150 {
        publish(&mut feed, "a", &text);
        // The client that reads gets each event before the next one comes.
        assert!(std::iter::from_fn(|| reader.next()).any(|event| event.data.len() == 500_000));
        most = most.max(server.resident_bytes());
    }
    most = most.max(most_until(&server, "all others have gone", || server.figure("connections_sse") == 1));
    assert!(most < before + 24 * MIB, "{} MiB more", (most - before) / MIB);
    is_given_back(&server, clients, before);
}

#[test]
fn logs_that_clients_keep_by_not_reading_are_within_the_budget() {
    let config = "[limits]\nretained = 0\nlag_memory = \"6MiB\"\n[namespace.\"*\"]\nhistory_events = 0";
    let server = Server::start_with(config, &["--shards", "1"]);
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    let mut reader = Stream::open(server.address, "/sse?channel=end");
    let clients: Vec<Http> =
        (0..80).map(|n| lazy(&server, &format!("/sse?channel={}", names(n / 2 * 10..n / 2 * 10 + 10)))).collect();
    server.await_figure("connections_sse", 81);
    server.await_figure("channels", 401);
    let before = server.resident_bytes();
    let mut feed = server.feed();
    let text = "x".repeat(20_000);
    let mut most = 0;
    for round in 0..4800 {
        publish(&mut feed, &format!("c{}", round % 400), &text);
        if round % 50 == 0 {
            most = most.max(server.resident_bytes());
            assert!(server.figure("lagging_bytes") <= 6 * MIB + 200_000, "{}", server.figure("lagging_bytes"));
        }
    }
    // Twelve events on each of four hundred channels are 96 MB. The allocator needs more than the account says.
    assert!(most < before + 40 * MIB, "{} MiB more", (most - before) / MIB);
    server.await_at_least("memory_disconnected", 1);
    assert_eq!(server.figure("slow_disconnected"), 0, "no client was further behind than its namespace allows");
    publish(&mut feed, "end", "end");
    assert!(std::iter::from_fn(|| reader.next()).any(|event| event.data == "end"), "others get their events");
    is_given_back(&server, clients, before);
}

#[test]
fn pages_of_missed_events_that_nobody_reads_are_within_the_budget() {
    let config = "[limits]\nlag_memory = \"6MiB\"\n[namespace.\"*\"]\nhistory_bytes = \"4MiB\"";
    let server = Server::start_with(config, &["--shards", "1"]);
    let mut feed = server.feed();
    let text = "x".repeat(500_000);
    publish(&mut feed, "a", "first");
    (0..4).for_each(|_| drop(publish(&mut feed, "a", &text)));
    let before = server.resident_bytes();
    let clients: Vec<Http> = (0..120).map(|_| lazy(&server, "/sse?channel=a&last_event_id=1-0")).collect();
    server.await_figure("resumed_hub", 120);
    server.await_at_least("memory_disconnected", 1);
    let is_quiet = || server.figure("output_bytes") <= 6 * MIB;
    let most = most_until(&server, "the budget holds", is_quiet);
    assert!(most < before + 20 * MIB, "{} MiB more", (most - before) / MIB);
    // A client that reads may be cut off with the others as long as it has stood no shorter than these.
    eventually("a client that reads gets everything", || {
        let mut reader = Stream::open(server.address, "/sse?channel=a&last_event_id=1-0");
        let events = std::iter::from_fn(|| reader.next()).filter(|event| event.data.len() == 500_000);
        (events.take(4).count() == 4).then_some(())
    });
    is_given_back(&server, clients, before);
}
