//! Hostile and unlucky clients against the real binary, and what they cost the others.
//!
//! Each attack of [`attacks`] is a bounded client that acts beside an honest load ([`honest`]). A table says what it cost:
//! the longest turn, the memory, the honest clients' latency, and publishers' refusals. The promises of [`judge`] are
//! asserted. [`chaos`] has everything happen at once, from a seed.
//!
//! | command | what it runs |
//! |---|---|
//! | `cargo test --test hostile` | the small form, for every change: bounds that hold on a busy machine |
//! | `RINGCAST_HOSTILE=full cargo test --release --test hostile attacks` | the full form: more clients for longer, and the promised figures |
//! | `RINGCAST_ATTACK=names cargo test --test hostile attacks` | the attacks whose names contain one of these texts, which commas separate |
//! | `RINGCAST_CHAOS_SECONDS=3600 cargo test --release --test hostile chaos` | an hour of chaos; `RINGCAST_CHAOS_SEED=N` makes the choices of that run again |
//!
//! The tests need root (a small disk is mounted, and the server is given fewer descriptors), nginx and libfaketime.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod chaos;
mod follower;
mod honest;
mod judge;
mod limited;
#[path = "../e2e/proxy.rs"]
#[allow(dead_code)]
mod proxy;
#[path = "../e2e/server.rs"]
#[allow(dead_code)]
mod server;
mod swarm;
mod watch;

use judge::Promise;

/// Promises that an attack still breaks: the attack, the promise, and the behaviour that is missing. A promise that is not
/// listed here is asserted. A row goes when the behaviour is there.
const UNMENDED: &[(&str, Promise, &str)] = &[
    ("bad_tokens_ws", Promise::Latency, "a share of a turn's time for those who have waited"),
    ("bad_tokens_http", Promise::Turn, "a budget of time within the turn"),
    ("pipelined_polls", Promise::Turn, "a budget of time within the turn"),
    ("never_read", Promise::Turn, "a budget for what slow clients hold together"),
    ("resume_unread", Promise::Turn, "a bound on pages of missed events with their framing"),
    ("pinned_logs", Promise::Turn, "a budget for what slow clients hold together"),
    ("wide_line", Promise::Turn, "the queues' bound within a line"),
    ("kick_reason", Promise::Turn, "a bound on reasons"),
    ("oversized", Promise::Turn, "a budget of time within the turn"),
    ("bad_tokens_http", Promise::Latency, "a share of a turn's time for those who have waited"),
    ("pipelined_polls", Promise::Latency, "a share of a turn's time for those who have waited"),
    ("pipelined_polls", Promise::Memory, "a bound on the output of all connections together"),
    ("pipelined_polls", Promise::GivenBack, "giving back what answers were written in"),
    ("pipelined_polls", Promise::Names, "lanes that go at once when they never had an event"),
    ("new_names", Promise::Publishers, "a limit on followers' names that publishers do not share"),
    ("new_names", Promise::Names, "lanes that go at once when they never had an event"),
    ("many_followers", Promise::Publishers, "a limit on followers' names that publishers do not share"),
    ("many_followers", Promise::Names, "lanes that go at once when they never had an event"),
    ("surveys", Promise::Names, "lanes that go at once when they never had an event"),
    ("log_stands_still", Promise::Latency, "a thread of its own that writes the log"),
    ("log_stands_still", Promise::Turn, "a thread of its own that writes the log"),
    ("never_read", Promise::Memory, "a budget for what slow clients hold together"),
    ("never_read", Promise::Latency, "a budget for what slow clients hold together"),
    ("resume_unread", Promise::Memory, "a bound on pages of missed events with their framing"),
    ("resume_unread", Promise::Latency, "a bound on pages of missed events with their framing"),
    ("pinned_logs", Promise::Memory, "a budget for what slow clients hold together"),
    ("pinned_logs", Promise::Latency, "a budget for what slow clients hold together"),
    ("idle_feed", Promise::Publishers, "state files that stay open, and a reserve of descriptors"),
    ("idle_feed", Promise::Own, "state files that stay open, and a reserve of descriptors"),
    ("deaf_unix", Promise::Own, "a send deadline on Unix sockets"),
    ("wide_line", Promise::Memory, "the queues' bound within a line"),
    ("wide_line", Promise::Latency, "the queues' bound within a line"),
    ("kick_reason", Promise::Memory, "a bound on reasons"),
    ("kick_reason", Promise::Latency, "a bound on reasons"),
    ("authorize_hangs", Promise::Own, "asking the next backend after three unanswered questions"),
    ("oversized", Promise::Latency, "a share of a turn's time for those who have waited"),
    ("presence_churn", Promise::Latency, "a rate of presence events"),
    ("presence_churn", Promise::Memory, "a bound on the queue from a shard to the hub"),
    ("presence_churn", Promise::Turn, "a rate of presence events"),
];

/// Tests of this binary run one after the other, because they measure.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Waits until no other test of this binary runs.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether the full form was asked for.
fn is_full() -> bool {
    std::env::var("RINGCAST_HOSTILE").is_ok_and(|form| form == "full")
}

/// Shows a text at once, also where the test harness captures what tests print.
fn show(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
