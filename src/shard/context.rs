//! The context that every part of a shard gets beside the slots and lanes: the settings, the time, the figures, and a
//! queue for the effects that only the turn can carry out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::figures::{Counters, Measures};
use crate::link::{HubMessage, LocalChannel};
use crate::logic::protocol::http::Date;
use crate::logic::reason::Reason;
use crate::logic::retry;
use crate::logic::session::{Farewell, Violation};
use crate::logic::wheel::Tick;
use crate::sys::clock::unix_ms;

use super::admission::Admission;
use super::rates::Rates;
use super::settings::{Settings, TICK_MS, TICKS_PER_SECOND};

/// A change that a part cannot make itself, because it concerns another part. The turn carries effects out in the order
/// in which they were queued. Effects are for changes of a connection's state; a delivery has none.
#[derive(Debug)]
pub(super) enum Effect {
    /// A message goes to the hub.
    ToHub(HubMessage),
    /// A connection has joined a channel with presence, or has left it.
    Presence {
        /// The connection's slot.
        slot: u32,
        /// The channel, by the shard's number.
        channel: LocalChannel,
        /// Whether the connection has joined the channel.
        is_coming: bool,
    },
    /// A stream or WebSocket has ended; listening backends must be told.
    Gone {
        /// The connection's slot.
        slot: u32,
        /// The reason for the end.
        reason: Reason,
    },
    /// A connection must end in good order.
    End {
        /// The connection's slot.
        slot: u32,
        /// The reason, and the words for the client.
        ending: Ending,
    },
    /// A connection is broken and must be dropped.
    Drop {
        /// The connection's slot.
        slot: u32,
        /// The reason for the end.
        reason: Reason,
    },
    /// A held poll has its answer: the identity and the address that came with its request are given up.
    PollAnswered(u32),
    /// The hub must be asked for the next page of the events that a connection has missed.
    AskForPage { slot: u32, number: u32 },
    /// A page of missed events has been sent, or is no longer needed.
    PageSent,
}

/// An end in good order: its reason, and the words for the client.
#[derive(Debug)]
pub(super) struct Ending {
    /// The reason for the end.
    pub(super) reason: Reason,
    /// A sentence for the client; `None` for the reason's own words.
    pub(super) words: Option<Arc<str>>,
    /// The close code that the client has sent, which is sent back (RFC 6455 §5.5.1).
    pub(super) echoed: Option<u16>,
}

impl Ending {
    /// An ending in the reason's own words.
    pub(super) fn new(reason: Reason) -> Ending {
        Ending { reason, words: None, echoed: None }
    }

    /// An ending in other words than the reason's own.
    pub(super) fn in_words(reason: Reason, words: &Arc<str>) -> Ending {
        Ending { words: Some(words.clone()), ..Ending::new(reason) }
    }

    /// The farewell to the client, which may connect again after `retry_ms`.
    pub(super) fn farewell(&self, retry_ms: u64) -> Farewell<'_> {
        let words = self.words.as_deref().unwrap_or(self.reason.words());
        Farewell { close_code: self.echoed, ..Farewell::new(self.reason).in_words(words).with_retry(retry_ms) }
    }
}

impl From<Violation> for Ending {
    fn from(violation: Violation) -> Ending {
        Ending { words: Some(violation.words.into()), ..Ending::new(violation.reason) }
    }
}

/// What each part is given; see the module's documentation.
pub(super) struct Context {
    /// The shard's number.
    pub(super) index: u16,
    pub(super) settings: Settings,
    /// The counters of connections that all shards share.
    pub(super) admission: Arc<Admission>,
    /// The present time, in ticks since the start. The first tick is 1, so that 0 can stand for "never".
    pub(super) now: Tick,
    pub(super) counters: Counters,
    pub(super) measures: Measures,
    /// What the clients have used up of the rates that they may have.
    pub(super) rates: Rates,
    pub(super) effects: Vec<Effect>,
    /// The date of the second of `now` in which it was asked for last.
    pub(super) dated: Option<(Tick, Date)>,
    /// The time at which the drain is over, as far as the shard knows; `None` if the shard does not drain.
    pub(super) drain_ends: Option<Tick>,
    pub(super) rng: fastrand::Rng,
}

impl Context {
    /// Queues an effect.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Queues a message to the hub.
    pub(super) fn tell_hub(&mut self, message: HubMessage) {
        self.effects.push(Effect::ToHub(message));
    }

    /// The present date, which is made once per second.
    pub(super) fn date(&mut self) -> Date {
        let second = self.now / TICKS_PER_SECOND;
        match self.dated {
            Some((known, date)) if known == second => date,
            _ => {
                let date = Date::of(unix_ms() / 1000);
                self.dated = Some((second, date));
                date
            }
        }
    }

    /// The seconds after which a refused client may come back. They are random, so that not all clients come at once, and
    /// lie after the end of a drain.
    pub(super) fn retry_after_secs(&mut self) -> u32 {
        let left_secs = self.drain_left_ms().div_ceil(1000) as u32;
        left_secs + retry::after_refusal_secs(self.rng.u64(..))
    }

    /// Whether the shard drains: each answer is then the last one on its connection.
    pub(super) fn is_draining(&self) -> bool {
        self.drain_ends.is_some()
    }

    /// The milliseconds until the end of the drain; 0 if the shard does not drain.
    pub(super) fn drain_left_ms(&self) -> u64 {
        self.drain_ends.map_or(0, |end| u64::from(Tick::saturating_sub(end, self.now)) * TICK_MS)
    }
}

/// The share of one kind of work in a turn: a number of pieces and a time. The budget is spent when either is used up.
///
/// One piece stands for about a microsecond. Work that costs more takes more pieces off the budget ([`Budget::spend`]),
/// so that the clock is looked at after an amount of work and not after a number of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: usize,
    /// The pieces until the next look at the clock.
    unlooked: usize,
    until: Instant,
}

/// The pieces of work between two looks at the clock.
const PIECES_PER_LOOK: usize = 16;

impl Budget {
    /// A budget of `pieces` and `time` from now on.
    pub(super) fn new((pieces, time): (usize, Duration)) -> Budget {
        Budget { left: pieces, unlooked: PIECES_PER_LOOK, until: Instant::now() + time }
    }

    /// Takes one piece off the budget; returns whether one was left.
    pub(super) fn take(&mut self) -> bool {
        let has_piece = self.left > 0;
        self.spend(1);
        has_piece
    }

    /// Takes `pieces` off the budget for work that was done, and looks at the clock if that was much work.
    pub(super) fn spend(&mut self, pieces: usize) {
        self.left = self.left.saturating_sub(pieces);
        self.unlooked = self.unlooked.saturating_sub(pieces);
        if self.unlooked == 0 {
            self.look();
        }
    }

    /// Looks at the clock, after work of unknown cost.
    pub(super) fn look(&mut self) {
        self.unlooked = PIECES_PER_LOOK;
        if self.left > 0 && Instant::now() >= self.until {
            self.left = 0;
        }
    }

    /// Whether the budget has no piece left in this turn.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_with_its_pieces_or_its_time() {
        let hour = Duration::from_secs(3600);
        let mut budget = Budget::new((40, hour));
        assert_eq!((0..100).filter(|_| budget.take()).count(), 40);
        assert!(budget.is_spent());
        let mut over = Budget::new((1000, Duration::ZERO));
        let taken = (0..100).filter(|_| over.take()).count();
        assert_eq!(taken, PIECES_PER_LOOK);
    }

    #[test]
    fn costly_work_takes_more_and_has_the_clock_looked_at() {
        let mut budget = Budget::new((1000, Duration::from_secs(3600)));
        (0..10).for_each(|_| budget.spend(64));
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 360);
        let mut over = Budget::new((1_000_000, Duration::ZERO));
        over.spend(PIECES_PER_LOOK - 1);
        assert!(!over.is_spent(), "cheap work looks at the clock now and then");
        over.spend(1);
        assert!(over.is_spent());
        let mut over = Budget::new((1_000_000, Duration::ZERO));
        over.look();
        assert!(over.is_spent() && !over.take());
    }

    #[test]
    fn a_budget_of_time_alone_ends_at_the_next_look() {
        let mut over = Budget::new((usize::MAX, Duration::ZERO));
        assert_eq!(
            (0..1000)
                .take_while(|_| {
                    over.spend(1);
                    !over.is_spent()
                })
                .count(),
            PIECES_PER_LOOK - 1
        );
        let mut over = Budget::new((usize::MAX, Duration::ZERO));
        over.spend(PIECES_PER_LOOK);
        assert!(over.is_spent(), "many pieces at once are looked at too");
        let mut budget = Budget::new((usize::MAX, Duration::from_secs(3600)));
        (0..10_000).for_each(|_| budget.spend(3));
        assert!(!budget.is_spent());
    }
}
