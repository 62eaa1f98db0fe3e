//! Hostile and unlucky clients against the real binary, and what they cost the others.
//!
//! Each attack of [`attacks`] is a bounded client that acts beside an honest load ([`honest`]). A table says what it cost:
//! the longest turn, the memory, the honest clients' latency, and publishers' refusals. The promises of [`judge`] are
//! asserted. [`together`] has the attacks act at the same time, and [`chaos`] has everything happen at once, from a seed.
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
mod together;
mod watch;

use judge::Promise;

/// Promises that an attack still breaks: the attack, the promise, and the behaviour that is missing. A promise that is not
/// listed here is asserted. A row goes when the behaviour is there.
const UNMENDED: &[(&str, Promise, &str)] = &[];

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
