//! The watch over the threads without which the server does nothing: a shard or the hub that stands still for a second
//! is logged with the place in the program where it stands, long before a service manager ends the process. The watch
//! also notes for how long the log's reader has taken nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::figures::Stats;
use crate::sys::{process, stack};

use super::logging::Lines;

/// The interval at which the threads' counts are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks without a change after which a thread stands still: one second. Looks are counted and not the time, because a
/// pause of the whole process (SIGSTOP, a live migration) is no standstill of one thread.
const LOOKS_STILL: u32 = 4;
/// The time that a thread has to report its stack.
const REPORT_MAX: Duration = Duration::from_millis(500);
/// The shortest pause of the whole process that is told.
const FREEZE_MIN: Duration = Duration::from_secs(1);
/// Frames of a stack that are logged; the innermost ones tell the place.
const FRAMES_LOGGED: usize = 32;

/// A thread that is watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The thread's id; 0 before the thread runs and after it has ended.
    thread: AtomicI32,
    is_over: AtomicBool,
}

impl Watched {
    /// Notes that the calling thread is the one that is watched.
    pub(super) fn begin(&self) {
        self.thread.store(stack::thread_id(), Ordering::Relaxed);
    }

    /// Notes that the thread has ended in order.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Starts the watching thread. `watched` are the hub and the shards, in the order of [`Stats::rounds`].
///
/// # Errors
/// If the thread cannot be started, or the signal that asks threads for their stacks cannot be handled.
pub(super) fn start(watched: Vec<Arc<Watched>>, stats: Arc<Stats>, lines: Lines) -> io::Result<()> {
    stack::install()?;
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let mut pulse = Pulse::default();
        loop {
            let begun = Instant::now();
            std::thread::sleep(LOOK_EVERY);
            note_freeze(begun.elapsed(), &stats);
            stats.server.log_waiting_ms.store(lines.waiting().as_millis() as u64, Ordering::Relaxed);
            let rounds = stats.rounds();
            for (index, change) in pulse.look(rounds.iter().map(|(_, rounds)| *rounds)) {
                let (Some((name, _)), Some(watched)) = (rounds.get(index), watched.get(index)) else { continue };
                if !watched.is_over.load(Ordering::Relaxed) {
                    report(name, watched, change, &stats);
                }
            }
        }
    })?;
    Ok(())
}

/// Counts and logs a pause of the whole process, which shows in a sleep that took much longer than it should.
fn note_freeze(slept: Duration, stats: &Stats) {
    if slept >= LOOK_EVERY + FREEZE_MIN {
        stats.server.freezes.fetch_add(1, Ordering::Relaxed);
        let milliseconds = (slept - LOOK_EVERY).as_millis() as u64;
        warn!(
            milliseconds,
            "the whole process stood still: it was stopped, frozen with its host, or had no processor time"
        );
    }
}

/// Logs that a thread stands still and where, or that it goes on.
fn report(name: &str, watched: &Watched, change: Change, stats: &Stats) {
    let thread = watched.thread.load(Ordering::Relaxed);
    match change {
        Change::StandsStill => {
            stats.server.standstills.fetch_add(1, Ordering::Relaxed);
            let state = process::thread_state(thread);
            let frames = stack::of_thread(thread, REPORT_MAX);
            let frames = frames.map_or_else(
                || "unknown: the thread did not answer the signal".into(),
                |frames| brief(&stack::describe(&frames)),
            );
            let milliseconds = (LOOK_EVERY * LOOKS_STILL).as_millis() as u64;
            error!(thread = name, milliseconds, state, frames, "a thread stands still");
        }
        Change::GoesOn(looks) => {
            let milliseconds = (LOOK_EVERY * looks).as_millis() as u64;
            warn!(thread = name, milliseconds, "a thread that stood still goes on");
        }
    }
}

/// The innermost frames as one text.
pub(super) fn brief(frames: &[String]) -> String {
    frames[..frames.len().min(FRAMES_LOGGED)].join(" < ")
}

/// What a look at a thread's count has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The thread has stood still for [`LOOKS_STILL`] looks.
    StandsStill,
    /// A thread that had stood still for that many looks moves again.
    GoesOn(u32),
}

/// The counts of all threads at the last look, and for how many looks each has been the same.
#[derive(Debug, Default)]
struct Pulse(Vec<(u64, u32)>);

impl Pulse {
    /// Takes the present counts, and returns the threads for which something has changed, by their place.
    fn look(&mut self, counts: impl Iterator<Item = u64>) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        for (index, count) in counts.enumerate() {
            let Some((before, looks)) = self.0.get_mut(index) else {
                self.0.push((count, 0));
                continue;
            };
            if *before == count {
                *looks = looks.saturating_add(1);
                changes.extend((*looks == LOOKS_STILL).then_some((index, Change::StandsStill)));
            } else {
                changes.extend((*looks >= LOOKS_STILL).then_some((index, Change::GoesOn(*looks))));
                (*before, *looks) = (count, 0);
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_that_takes_too_long_is_a_freeze() {
        let stats = Stats::default();
        for slept in [LOOK_EVERY, LOOK_EVERY + FREEZE_MIN / 2, LOOK_EVERY + FREEZE_MIN, Duration::from_secs(100)] {
            note_freeze(slept, &stats);
        }
        assert_eq!(stats.server.freezes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_standstill_is_told_once_and_so_is_its_end() {
        let mut pulse = Pulse::default();
        let mut told = Vec::new();
        for round in 0..20u64 {
            // The second thread counts up to 3, stands still, and goes on at the fifteenth look.
            let second = if round < 15 { round.min(3) } else { round };
            told.extend(pulse.look([round, second].into_iter()).into_iter().map(|change| (round, change)));
        }
        assert_eq!(told, [(7, (1, Change::StandsStill)), (15, (1, Change::GoesOn(11)))]);
    }
}
