//! The running server's side of a hand-over: the hub has everything come to rest, and sends what its successor needs.
//!
//! All of it happens within one turn, in which no publisher is read and no line carried out. If the hand-over fails, the turn
//! goes on as if nothing had been.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread::sleep;
use std::time::Duration;

use crate::link::handover::{HandoverError, HubParting, Moved, Outgoing, Part, Verdict};
use crate::link::{HubInbox, HubMessage, Listening, ShardMessage};
use crate::logic::event::{Event, Kind as Payload};
use crate::logic::handover::Kind;
use crate::logic::handover::feeds as record;
use crate::logic::id::Id;

use super::super::Order;
use super::super::answers::Awaited;
use super::ahead::Sent;
use super::turn::Ports;
use super::{Core, HubFigures};

/// The pause between two looks at a queue.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// The bytes of events in one record, about.
const EVENTS_BYTES: usize = 32 * 1024;
/// The work of a stage that is not bounded by its work.
const ALL: usize = usize::MAX;

impl Core {
    /// Takes part in a hand-over: returns if it has failed, and never if it has succeeded.
    pub(super) fn part(&mut self, ports: &Ports, parting: HubParting, sent: Sent) {
        let HubParting { carrier, part, shards, .. } = parting;
        let mut kept = Vec::new();
        if self.come_to_rest(&ports.inbox, &part, shards, &mut kept) {
            self.settle_answers();
            let figures = self.figures.clone();
            let beat = || HubFigures::add(&figures.rounds, 1);
            let listener = self.rebound.as_ref().unwrap_or(&ports.listener);
            let sent = self.send_all(Some(listener.as_fd()), carrier.as_fd(), sent, beat);
            // A main thread that has ended decides nothing.
            let _ = part.report.send(sent);
            while part.await_verdict(beat) == Verdict::Go {
                // The successor has the publishers. This process is about to end, and must touch nothing.
                sleep(Duration::from_secs(1));
            }
        }
        for message in kept {
            self.hear(message, self.now);
        }
        // Messages may have come whose wake-up was taken for one of those above.
        self.is_hearing = true;
    }

    /// Ends what is under way in shards and hub, so that every queue is empty. Messages of the server are left in `kept`. Returns
    /// whether it was done: else the hand-over was called off.
    fn come_to_rest(&mut self, inbox: &HubInbox, part: &Part, shards: Vec<Part>, kept: &mut Vec<HubMessage>) -> bool {
        loop {
            let mut budget = self.begin_stage(ALL);
            if self.go_on_applying(&mut budget) {
                break;
            }
            if self.waits_in_vain(part) {
                return false;
            }
        }
        let missing = shards.len();
        for (shard, part) in (0..).zip(shards) {
            self.shards.stage(shard, ShardMessage::Quiet(Box::new(part)));
        }
        if !self.flush_all(part) || !self.hear_until_quiet(inbox, part, missing, kept) {
            return false;
        }
        self.accounts.release_held();
        self.flush();
        self.shards.stage_all(|| ShardMessage::Part);
        self.flush_all(part)
    }

    /// Pauses for a moment; returns whether the hand-over was called off.
    fn waits_in_vain(&mut self, part: &Part) -> bool {
        HubFigures::add(&self.figures.rounds, 1);
        self.flush();
        sleep(LOOK_EVERY);
        part.is_called_off()
    }

    /// Gives every shard its messages; returns whether all have them.
    fn flush_all(&mut self, part: &Part) -> bool {
        self.flush();
        while self.shards.has_staged() {
            if self.waits_in_vain(part) {
                return false;
            }
        }
        true
    }

    /// Hears the shards until so many of them are quiet; returns whether they are.
    fn hear_until_quiet(
        &mut self,
        inbox: &HubInbox,
        part: &Part,
        mut missing: usize,
        kept: &mut Vec<HubMessage>,
    ) -> bool {
        while missing > 0 {
            match inbox.next() {
                Some(HubMessage::Quiet { attempt }) => missing -= usize::from(attempt == part.number),
                Some(message) if is_servers(&message) => kept.push(message),
                Some(message) => {
                    self.heard += 1;
                    self.now = (self.clock)();
                    self.hear(message, self.now);
                }
                None if self.waits_in_vain(part) => return false,
                None => {}
            }
        }
        true
    }

    /// Sends the hub's state and its descriptors.
    pub(in crate::hub) fn send_all(
        &self,
        listener: Option<BorrowedFd<'_>>,
        carrier: BorrowedFd<'_>,
        ahead: Sent,
        beat: impl FnMut(),
    ) -> Result<Moved, HandoverError> {
        let Order::Local(ids) = &self.order else {
            return Err(HandoverError::Refused("the order is that of a cluster's log".into()));
        };
        let mut outgoing = Outgoing::after(ahead.packer, carrier, beat)?;
        let (revoked_bytes, revoked_lines) = self.revocations.extent();
        let (floor, lost_until) = self.channels.bounds();
        let numbers = record::Hub {
            applied: self.applied.bits(),
            last: ids.last().bits(),
            mark_ms: ids.mark_ms(),
            floor: floor.bits(),
            lost_until: lost_until.bits(),
            questions: self.questions.newest(),
            revoked_bytes,
            revoked_lines,
        };
        outgoing.add(Kind::Hub, &numbers, None)?;
        if let Some(listener) = listener {
            // The listener outlives the records: both belong to this call.
            outgoing.add(Kind::Feed, &record::Ear::default(), Some(listener))?;
        }
        let now_ms = (self.clock)().steady_ms;
        self.send_channels(&mut outgoing, ahead.until, now_ms)?;
        self.send_keys(&mut outgoing, now_ms)?;
        let connections = self.send_publishers(&mut outgoing, now_ms)?;
        outgoing.end()?;
        Ok(Moved { connections, left: 0 })
    }

    /// Writes the answers that have waited for shards: all shards have answered.
    pub(in crate::hub) fn settle_answers(&mut self) {
        let Core { publishers, questions, .. } = self;
        for number in publishers.numbers() {
            publishers.settle(number, |later, out| match later.awaited {
                Awaited::Question(question) => {
                    let null = serde_json::value::RawValue::NULL;
                    questions.write(question, later.reference.as_deref().unwrap_or(null), out)
                }
                Awaited::Ticket(_) => false,
            });
        }
    }

    /// Sends all channels, with their events after an id.
    fn send_channels(&self, outgoing: &mut Outgoing<'_>, after: Id, now_ms: u64) -> Result<(), HandoverError> {
        for index in 0..self.channels.places() {
            let mut after = after;
            if self.channels.known_name(index).is_some() {
                self.send_channel(outgoing, index)?;
                while let Some(newest) = self.send_events(outgoing, index, after, now_ms)? {
                    after = newest;
                }
            }
        }
        Ok(())
    }

    /// Sends a channel without its events.
    pub(super) fn send_channel(&self, outgoing: &mut Outgoing<'_>, index: u32) -> Result<(), HandoverError> {
        let name = self.channels.known_name(index).map(ToString::to_string).unwrap_or_default();
        let (since, ended, is_published) = self.channels.facts(index);
        let ended = ended.map(|id| id.bits());
        outgoing.add(Kind::HubChannel, &record::HubChannel { name, since: since.bits(), ended, is_published }, None)
    }

    /// Sends some of the events after an id of the channel that was sent last; returns the newest one's id if there was one.
    pub(super) fn send_events(
        &self,
        outgoing: &mut Outgoing<'_>,
        index: u32,
        after: Id,
        now_ms: u64,
    ) -> Result<Option<Id>, HandoverError> {
        let (mut batch, mut bytes, mut newest) = (record::Events::default(), 0, None);
        for (event, arrived_ms) in self.channels.history(index).into_iter().flat_map(|h| h.arrived_after(after)) {
            bytes += event.weight() + 32;
            newest = Some(event.id);
            batch.events.push(of_event(event, now_ms.saturating_sub(arrived_ms)));
            if bytes >= EVENTS_BYTES {
                break;
            }
        }
        if newest.is_some() {
            outgoing.add(Kind::Events, &batch, None)?;
        }
        Ok(newest)
    }

    fn send_keys(&self, outgoing: &mut Outgoing<'_>, now_ms: u64) -> Result<(), HandoverError> {
        for (key, channels, ids, at_ms) in self.keys.iter() {
            let ids = ids.iter().map(|id| id.bits()).collect();
            let age_ms = now_ms.saturating_sub(at_ms);
            outgoing.add(Kind::Key, &record::Key { key: key.into(), channels, ids, age_ms }, None)?;
        }
        for (id, until_s, is_unwritten) in self.revocations.iter() {
            outgoing.add(Kind::Revoked, &record::Revoked { id: id.to_string(), until_s, is_unwritten }, None)?;
        }
        Ok(())
    }

    /// Sends the feed's connections, those of listeners in their order; returns how many there are.
    fn send_publishers<'a>(&'a self, outgoing: &mut Outgoing<'a>, now_ms: u64) -> Result<u64, HandoverError> {
        for (number, shard, bytes, holders) in self.accounts.iter() {
            let (number, bytes) = (number as u64, bytes as u64);
            let record = record::Account { number, shard: shard.into(), bytes, holders: holders as u32 };
            outgoing.add(Kind::Account, &record, None)?;
        }
        let mut places = std::collections::HashMap::new();
        for number in self.publishers.numbers() {
            let (Some(record), Some(socket)) = (self.publishers.record(number), self.publishers.socket(number)) else {
                continue;
            };
            let traces = self.traces.by(number).iter().map(|channel| channel.to_string()).collect();
            outgoing.add(Kind::Publisher, &record::Publisher { traces, ..record }, Some(socket))?;
            places.insert(number, places.len() as u32);
        }
        for ear in self.listeners.iter(now_ms) {
            if let Some(place) = places.get(&ear.publisher) {
                let Listening { messages, connections, authorize } = ear.what;
                let what = u32::from(messages) | u32::from(connections) << 1 | u32::from(authorize) << 2;
                let (asked_ms, is_passed_over) = (ear.asked_ages_ms, ear.is_passed_over);
                outgoing.add(Kind::Ear, &record::Ear { publisher: *place, what, asked_ms, is_passed_over }, None)?;
            }
        }
        Ok(places.len() as u64)
    }
}

/// Whether a message is the server's, and can wait until the hand-over is over.
fn is_servers(message: &HubMessage) -> bool {
    matches!(
        message,
        HubMessage::Pause(_) | HubMessage::Keys(_) | HubMessage::Drain | HubMessage::Stop | HubMessage::HandOver(_)
    )
}

fn of_event(event: &Event, age_ms: u64) -> record::Event {
    record::Event {
        id: event.id.bits(),
        name: event.draft.name.as_deref().map(Into::into),
        kind: match event.draft.kind {
            Payload::Text => 0,
            Payload::Json => 1,
            Payload::Binary => 2,
        },
        payload: event.draft.payload.clone(),
        age_ms,
    }
}
