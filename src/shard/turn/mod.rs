//! The turn: the only place where a shard's state changes.
//!
//! A turn takes its inputs in a fixed order, each within a budget: the ring's reports, the clients' bytes, new
//! connections, the hub's messages, the clock. Then it delivers. A turn never blocks and is never entered from within
//! itself. The parts do the work; steps that concern several parts are in the modules below this one, and effects are
//! carried out here.

pub(super) mod adopting;
mod carrier;
mod ending;
mod greeting;
#[cfg(test)]
pub(super) mod hooks;
mod input;
mod messages;
mod orders;
pub(super) mod parting;
mod permission;
mod requests;
mod sessions;
mod sweep;
mod time;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::figures::{Counters, Longest, Measure, Measures, ShardFigures};
use crate::link::HubMessage;
use crate::link::handover::Mailbox;
use crate::logic::cells::Slack;
use crate::logic::tls::TlsSettings;

use super::Pages;
use super::ShardParts;
use super::accept::{self, Acceptor, Queue};
use super::access::Access;
use super::connection::Flags;
use super::context::{Budget, Context, Effect};
use super::deadlines::Deadlines;
use super::drain::Drain;
use super::lanes::Lanes;
use super::memory::Memory;
use super::next::plan;
use super::rates::Rates;
use super::resume::Resumes;
use super::settings::Settings;
use super::slots::Slots;
use super::survey::{Identified, Surveys, View};
use super::upstream::Upstream;
use super::walk::{Length, Walks};
use super::wire::Wire;
#[cfg(test)]
pub(super) use sweep::LISTED_MAX;
use sweep::Order;

/// The time for which the shard goes on turning before its driver looks for other readiness.
const SLICE: Duration = Duration::from_millis(2);
/// The budgets of the parts of a turn: pieces of work, each of about a microsecond, and a time. Together with the
/// kernel's work on a batch they stay well below the 50 ms that no turn may take.
///
/// This one is for reads, requests and messages of clients. Requests that have waited for the hub's messages have another
/// one of the same size.
const INPUT: (usize, Duration) = (4096, Duration::from_millis(4));
/// The budget for accepting connections.
const ACCEPT: (usize, Duration) = (512, Duration::from_millis(2));
/// The budget for merging frames and answering polls in each of the parts of a delivery.
const MERGE: (usize, Duration) = (4096, Duration::from_millis(2));
/// The budget for handshakes, of which each costs some hundred microseconds: one at least is gone on with in each turn.
const GREET: (usize, Duration) = (usize::MAX, Duration::from_micros(500));
/// The budget for surveys.
const SURVEY: (usize, Duration) = (1024, Duration::from_millis(1));
/// The most connections that are closed at the end of a turn.
const BURIALS_MAX: usize = 512;
/// The most sends in one batch: about two milliseconds of the kernel's time.
const BATCH_MAX: usize = 256;
/// The most sends in one batch for short walks while other sends wait.
const SHORT_MAX: usize = 96;
/// The most sends in one batch to connections that are not part of a walk.
const READY_MAX: usize = 96;

/// The shard's next step after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The shard has more work and turns again.
    Go,
    /// The shard has no work until the driver reports readiness.
    Wait,
    /// The shard is drained.
    Stop,
}

/// A shard's state: its slots and lanes, and the parts that work on them. One thread owns it.
pub(super) struct Shard {
    pub(super) slots: Slots,
    pub(super) lanes: Lanes,
    pub(super) cx: Context,
    pub(super) wire: Wire,
    pub(super) walks: Walks,
    pub(super) memory: Memory,
    pub(super) resumes: Resumes,
    pub(super) access: Access,
    pub(super) acceptor: Acceptor,
    pub(super) upstream: Upstream,
    pub(super) deadlines: Deadlines,
    surveys: Surveys,
    drain: Option<Drain>,
    /// An order about many connections that the shard is carrying out.
    pub(super) order: Option<Order>,
    /// Connections with a request that waits until the hub's messages before it are worked off.
    parked: VecDeque<u32>,
    /// The next slot of which the shard looks whether its token has expired while the shard stood still.
    expired_from: u32,
    /// An empty list whose memory is used while effects are carried out.
    spare_effects: Vec<Effect>,
    /// The hub's messages that were queued before the parked requests are worked off.
    is_caught_up: bool,
    /// The clock has ticked since the last turn.
    has_ticked: bool,
    /// The rest of this turn's budget for reading clients.
    reading: Budget,
    /// The pages that are served, if there are some.
    pages: Option<Pages>,
    /// What handshakes are made with, if there are listeners for TLS.
    pub(super) tls: Option<Arc<RwLock<TlsSettings>>>,
    figures: Arc<ShardFigures>,
    /// The time of the shard's start, from which `longest` counts.
    started: Instant,
    longest: Longest,
    /// The socket through which the shard gets the one for a hand-over's records.
    mailbox: Option<Mailbox>,
    /// The next slot whose connection of a predecessor is not waited for yet; none are left if it is the greatest number.
    unarmed: u32,
}

impl Shard {
    /// A shard of these parts, whose thread may have `descriptors` descriptors.
    pub(super) fn new(parts: ShardParts, descriptors: u64) -> io::Result<Shard> {
        let mut wire = Wire::new()?;
        let upstream = Upstream::new(parts.to_hub, parts.from_hub);
        wire.watch_inbox(upstream.wake())?;
        let lines_per_second = parts.config.log.connections_per_second;
        Ok(Shard {
            slots: Slots::new(),
            lanes: Lanes::new(),
            cx: Context {
                index: parts.index,
                settings: Settings::new(parts.config, parts.lag_memory),
                admission: parts.admission,
                now: 1,
                counters: Counters::default(),
                measures: Measures::default(),
                rates: Rates::new(),
                effects: Vec::new(),
                dated: None,
                drain_ends: None,
                rng: fastrand::Rng::new(),
            },
            wire,
            walks: Walks::default(),
            memory: Memory::default(),
            resumes: Resumes::default(),
            access: Access::new(parts.keyring, parts.revoked),
            acceptor: Acceptor::new(parts.listeners, descriptors),
            upstream,
            deadlines: Deadlines::new(lines_per_second),
            surveys: Surveys::default(),
            drain: None,
            order: None,
            parked: VecDeque::new(),
            expired_from: u32::MAX,
            spare_effects: Vec::new(),
            is_caught_up: false,
            has_ticked: false,
            reading: Budget::new((0, Duration::ZERO)),
            pages: parts.pages,
            tls: parts.tls,
            figures: parts.figures,
            started: Instant::now(),
            longest: Longest::default(),
            mailbox: parts.mailbox,
            unarmed: u32::MAX,
        })
    }

    /// A descriptor that is readable while the ring has reports.
    pub(super) fn waitable(&self) -> io::Result<OwnedFd> {
        self.wire.waitable()
    }

    /// Copies of the listeners' descriptors, for waiting.
    pub(super) fn listener_descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        self.acceptor.listeners().iter().map(|listener| listener.as_fd().try_clone_to_owned()).collect()
    }

    /// Notes that a listener's queue has connections.
    pub(super) fn note_ready(&mut self, listener: usize) {
        self.acceptor.note_ready(listener);
    }

    /// The state of a listener's queue.
    pub(super) fn queue(&self, listener: usize) -> Queue {
        self.acceptor.queue(listener)
    }

    /// Notes that the clock has ticked.
    pub(super) fn note_tick(&mut self) {
        self.has_ticked = true;
    }

    /// Turns until there is no work or the slice is used up.
    pub(super) fn turns(&mut self) -> io::Result<Next> {
        let begun = Instant::now();
        let mut turn_begun = begun;
        loop {
            let next = self.turn()?;
            let now = Instant::now();
            self.cx.measures.record(Measure::Turn, (now - turn_begun).as_micros() as u64);
            self.longest.note(now - turn_begun, now - self.started);
            turn_begun = now;
            if next != Next::Go || now - begun >= SLICE {
                self.cx.counters.busy_us += (now - begun).as_micros() as u64;
                self.cx.counters.turn_longest_us = self.longest.us(now - self.started);
                self.publish();
                return Ok(next);
            }
        }
    }

    /// One turn; see the module's documentation.
    pub(super) fn turn(&mut self) -> io::Result<Next> {
        self.cx.counters.turns += 1;
        self.read_clock();
        let reports = self.wire.take_reports(&mut self.slots, self.upstream.wake())?;
        if reports.inbox {
            self.upstream.note_messages();
        }
        self.reading = Budget::new(INPUT);
        input::read_all(self)?;
        if self.acceptor.has_waiting() {
            self.acceptor.take(&mut self.slots, &mut self.cx, Budget::new(ACCEPT), reports.has_more);
            input::read_all(self)?;
        }
        orders::work_off(self);
        input::read_parked(self)?;
        time::pass(self);
        let more_to_send = self.deliver()?;
        greeting::go_on(self);
        let more_to_free = self.give_back();
        let more_to_show = self.go_on_with_surveys();
        let more_to_arm = adopting::arm_some(self)?;
        let more_to_close = self.end_turn()?;
        let more = reports.has_more
            || more_to_arm
            || more_to_close
            || more_to_send
            || more_to_show
            || more_to_free
            || self.slots.unread() > 0
            || !self.slots.ready.is_empty()
            || self.slots.tls.has_queued()
            || !self.parked.is_empty()
            || orders::has_work(self)
            || self.acceptor.has_waiting()
            || time::has_more(self)
            // The ring's descriptor does not tell of reports that came while sends were under way.
            || self.wire.io.has_stashed();
        Ok(match more {
            true => Next::Go,
            false if self.drain.as_ref().is_some_and(Drain::is_over) => Next::Stop,
            false => Next::Wait,
        })
    }

    /// Looks at the clock. If the shard has stood still, its time has too, and only tokens have come nearer to their end.
    fn read_clock(&mut self) {
        let (now, paused) = self.deadlines.read_clock();
        self.cx.now = now;
        if paused > 0 {
            self.cx.counters.pauses += 1;
            self.access.note_pause(paused);
            self.expired_from = 0;
        }
    }

    /// Frees slots, submits the ring's operations to the kernel, and wakes the hub. Returns whether there are more slots to
    /// free.
    fn end_turn(&mut self) -> io::Result<bool> {
        self.carry_out();
        let more_to_close = self.slots.bury_some(BURIALS_MAX);
        let access = &self.access;
        self.deadlines.schedule_all(&mut self.slots, &self.cx, |slot| access.ends(slot));
        self.wire.io.submit()?;
        self.upstream.ring();
        Ok(more_to_close)
    }

    /// Sends one batch; returns whether there is more to send.
    fn deliver(&mut self) -> io::Result<bool> {
        self.wire.batch.begin();
        self.walk(Length::Short, SHORT_MAX);
        self.plan_ready(READY_MAX);
        self.walk(Length::Long, BATCH_MAX);
        self.walk(Length::Short, BATCH_MAX);
        if self.slots.h2.carriers() > 0 {
            // Walks only mark streams, whose connections are planned once for all of their streams.
            self.plan_ready(BATCH_MAX);
        }
        // The follow must be in the queue to the hub before the client reads that it is subscribed.
        self.carry_out();
        self.wire.send(&mut self.slots, &mut self.lanes, &mut self.cx)?;
        self.resumes.ask_for_waiting(&mut self.slots, &mut self.cx);
        self.carry_out();
        Ok(!self.slots.ready.is_empty() || !self.walks.is_empty())
    }

    fn walk(&mut self, length: Length, plans_max: usize) {
        let Shard { slots, lanes, cx, wire, walks, .. } = self;
        // Each part has a budget of its own, so that costly sends of one part keep no other from its share.
        wire.batch.budget = Budget::new(MERGE);
        walks.go_on(slots, lanes, cx, &mut wire.batch, (length, plans_max));
    }

    /// Plans sends to connections that are not part of a walk.
    fn plan_ready(&mut self, most: usize) {
        let Shard { slots, lanes, cx, wire, .. } = self;
        wire.batch.budget = Budget::new(MERGE);
        for _ in 0..slots.ready.len().min(most) {
            if wire.batch.budget.is_spent() || wire.batch.len() >= BATCH_MAX {
                break;
            }
            let Some(slot) = slots.ready.pop_front() else { break };
            let flags = &mut slots[slot].flags;
            let has_page = flags.intersects(Flags::PAGE);
            flags.remove(Flags::QUEUED | Flags::PAGE);
            plan(slots, lanes, cx, &mut wire.batch, slot);
            if has_page {
                // The planned send includes the page.
                cx.effect(Effect::PageSent);
            }
        }
    }

    /// Whether the shard must give memory back before it takes more input and events.
    fn is_short_of_memory(&self) -> bool {
        self.memory.is_short(&self.slots, &self.lanes, &self.cx)
    }

    /// Gives back memory beyond the budget; returns whether there is more to give back.
    fn give_back(&mut self) -> bool {
        let Shard { slots, lanes, cx, memory, walks, .. } = self;
        memory.go_on(slots, lanes, cx, !walks.is_empty())
    }

    /// Gives back the memory of lists that were long once, so that an attack leaves nothing behind.
    fn give_back_slack(&mut self) {
        self.slots.give_back_slack();
        self.lanes.give_back_slack();
        self.wire.give_back_slack();
        self.resumes.give_back_slack();
        self.deadlines.give_back_slack();
        self.parked.give_back_slack();
        self.cx.effects.give_back_slack();
        self.spare_effects.give_back_slack();
    }

    fn go_on_with_surveys(&mut self) -> bool {
        let Shard { slots, lanes, cx, access, surveys, .. } = self;
        let mut budget = Budget::new(SURVEY);
        surveys.go_on(&View { slots, lanes, identity: &|slot| identified(access, slot) }, cx, &mut budget)
    }

    /// Carries out all queued effects, and the effects that these cause.
    pub(super) fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.spare_effects);
        while !self.cx.effects.is_empty() {
            std::mem::swap(&mut self.cx.effects, &mut effects);
            for effect in effects.drain(..) {
                self.carry(effect);
            }
        }
        self.spare_effects = effects;
    }

    fn carry(&mut self, effect: Effect) {
        match effect {
            Effect::ToHub(message) => self.upstream.send(message),
            Effect::Presence { slot, channel, is_coming } => {
                let (shard, local, user) = (self.cx.index, channel, self.access.user(slot).cloned());
                self.upstream.send(match is_coming {
                    true => HubMessage::Join { shard, local, user },
                    false => HubMessage::Leave { shard, local, user },
                });
            }
            Effect::Gone { slot, reason } => {
                if self.upstream.listening.connections {
                    let who = messages::speaker(self, slot);
                    self.upstream.send(HubMessage::Gone { who, reason: reason.name() });
                }
            }
            Effect::End { slot, ending } => ending::end(self, slot, &ending),
            Effect::Drop { slot, reason } => ending::drop_connection(self, slot, reason),
            Effect::PollAnswered(slot) => {
                if self.slots[slot].flags.intersects(Flags::VIA_PROXY) {
                    // The proxy keeps the connection for other clients' requests.
                    accept::give_back_address(&mut self.slots, &self.cx, slot);
                }
                self.access.forget(&self.cx, slot);
            }
            Effect::AskForPage { slot, number } => {
                self.resumes.ask_for_page_of(&mut self.slots, &mut self.cx, (slot, number));
            }
            Effect::PageSent => self.resumes.on_page_sent(&mut self.slots, &mut self.cx),
        }
    }

    /// Makes the present figures readable for other threads.
    fn publish(&mut self) {
        let counters = &mut self.cx.counters;
        let open = self.slots.open();
        counters.connections_http = open.http;
        counters.connections_sse = open.sse;
        counters.connections_ws = open.websocket;
        counters.connections_poll = open.poll;
        counters.tls_connections = self.slots.tls.secured() as u64;
        counters.h2_connections = self.slots.h2.carriers() as u64;
        counters.h2_streams = self.slots.h2.streams() as u64;
        counters.tls_handshakes_open = self.slots.tls.greetings() as u64;
        counters.slots = self.slots.used() as u64;
        counters.identified = self.access.identities.len() as u64;
        counters.channels = self.lanes.channels.used() as u64;
        counters.log_bytes = self.lanes.kept_bytes;
        counters.lagging_bytes = self.lanes.lagging_bytes;
        counters.output_bytes = self.slots.buffers.output as u64;
        counters.input_bytes = self.slots.buffers.input as u64;
        counters.lag_memory_bytes = self.cx.settings.lag_memory;
        counters.queued_bytes = self.upstream.waiting_bytes() as u64;
        counters.descriptors_max = self.acceptor.descriptors_max() as u64;
        let ring = self.wire.io.counters();
        counters.ring_enters = ring.enters;
        counters.ring_submissions = ring.submissions;
        counters.ring_overflows = ring.overflows;
        counters.ring_hungry = ring.hungry;
        counters.publish(&self.figures);
    }
}

/// A connection's identity as a survey shows it.
fn identified(access: &Access, slot: u32) -> Identified<'_> {
    Identified { user: access.user(slot).map(|user| user.as_str()), expires: access.ends(slot) }
}
