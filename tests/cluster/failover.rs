//! A primary that Sentinels replace.

use crate::broker::{Watched, figure, watched_node};
use crate::clients::Stream;
use crate::failures::{publish, publish_at_last, read_up_to};

#[test]
fn a_failover_in_order_loses_nothing_and_doubles_nothing() {
    let watched = Watched::start();
    let (a, b) = (watched_node(&watched, "a", ""), watched_node(&watched, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    for number in 0..20 {
        publish_at_last(&a, &number.to_string());
    }
    watched.fail_over();
    for number in 20..40 {
        publish_at_last(&a, &number.to_string());
    }
    watched.await_primary(&watched.replica);
    let last = publish_at_last(&a, "last");
    let seen: Vec<String> = read_up_to(&mut stream, &last).into_iter().map(|(_, data)| data).collect();
    assert_eq!(seen, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_primary_that_dies_is_replaced_and_acknowledged_events_are_there() {
    let mut watched = Watched::start();
    let (a, b) = (watched_node(&watched, "a", ""), watched_node(&watched, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        acknowledged.extend(publish(&a, &number.to_string()).ok().map(|_| number.to_string()));
    }
    assert!(!acknowledged.is_empty());
    watched.primary.crash();
    // Without a replica of its own the new primary confirms nothing, so nothing more is acknowledged.
    watched.await_primary(&watched.replica);
    watched.primary.restart();
    let last = publish_at_last(&b, "last");
    let seen: Vec<String> = read_up_to(&mut stream, &last).into_iter().map(|(_, data)| data).collect();
    assert_eq!(seen.iter().filter(|data| acknowledged.contains(data)).count(), acknowledged.len(), "{seen:?}");
    assert_eq!(figure(&b, "log_gaps"), 0);
}

#[test]
fn a_primary_that_was_cut_off_and_wakes_up_gives_no_false_acknowledgement() {
    let watched = Watched::start();
    let a = watched_node(&watched, "a", "[backplane]\npublish_timeout = \"1s\"");
    publish_at_last(&a, "before");
    watched.primary.signal(libc::SIGSTOP);
    watched.await_primary(&watched.replica);
    watched.primary.signal(libc::SIGCONT);
    let mut acknowledged = Vec::new();
    for number in 0..10 {
        if let Ok(id) = publish(&a, &number.to_string()) {
            acknowledged.push(id);
        }
    }
    let last = publish_at_last(&a, "last");
    // What was acknowledged is on the primary that stays.
    for id in acknowledged.iter().chain([&last]) {
        let found = watched.replica.ask(&["XRANGE", crate::broker::KEY, id, id]);
        assert_eq!(found, "*1", "{id}");
    }
}
