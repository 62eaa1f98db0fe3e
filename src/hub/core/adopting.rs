//! The successor's side of a hand-over: the hub is made of what its predecessor sends. No publisher is touched before the main
//! thread says so.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use prost::Message;

use crate::link::handover::{Adopting, HandoverError, Incoming, Moved, Verdict};
use crate::link::{HubInbox, Listening};
use crate::logic::event::{Draft, Event, Kind as Payload};
use crate::logic::handover::feeds as record;
use crate::logic::handover::{FormatError, Kind};
use crate::logic::id::Id;

use super::super::Order;
use super::super::roles::Role;
use super::{Core, HubFigures};

/// What was rebuilt so far.
#[derive(Default)]
struct Rebuilding {
    /// The channel that events belong to.
    channel: Option<u32>,
    /// By the predecessor's numbers, those of clients' messages on account.
    accounts: HashMap<u64, usize>,
    /// The numbers of the feed's connections, by their places.
    publishers: Vec<usize>,
    listener: Option<UnixListener>,
    /// The hub's numbers have come: from here on all channels come as they are now. Those before were sent ahead.
    has_numbers: bool,
    /// The channels that are there now.
    present: HashSet<u32>,
    /// The newest event.
    newest: Id,
}

fn nonsense(what: &'static str) -> HandoverError {
    FormatError::Nonsense(what).into()
}

fn decode<T: Message + Default>(body: &[u8]) -> Result<T, HandoverError> {
    Ok(T::decode(body).map_err(FormatError::from)?)
}

impl Core {
    /// Takes a predecessor's hub over. Returns the feed's listener if the hub is to go on: else the hand-over has failed.
    pub(in crate::hub) fn adopt(&mut self, adopting: &Adopting, inbox: &HubInbox) -> Option<UnixListener> {
        let mut listener = None;
        let taken = self.take_all(Incoming::new(adopting.as_fd())).and_then(|(moved, feed)| {
            listener = feed;
            if listener.is_some() { Ok(moved) } else { Err(nonsense("a hub without the feed's listener")) }
        });
        let _ = adopting.part.report.send(taken);
        loop {
            match adopting.part.await_verdict(|| {}) {
                Verdict::Settle => {
                    self.hear_adopted(inbox);
                    let _ = adopting.part.report.send(Ok(Moved::default()));
                }
                Verdict::Go => return listener,
                Verdict::Back => return None,
            }
        }
    }

    /// Hears which channels the shards follow and who is on them. No limit holds for these, and presence tells of none.
    pub(in crate::hub) fn hear_adopted(&mut self, inbox: &HubInbox) {
        self.is_adopting = true;
        while let Some(message) = inbox.next() {
            self.heard += 1;
            self.hear(message, self.now);
        }
        self.is_adopting = false;
        self.flush();
    }

    /// Rebuilds the hub from a predecessor's records; returns the feed's listener, if it came.
    pub(in crate::hub) fn take_all(
        &mut self,
        incoming: Incoming<'_>,
    ) -> Result<(Moved, Option<UnixListener>), HandoverError> {
        self.now = (self.clock)();
        let mut rebuilding = Rebuilding::default();
        incoming.read_all(|kind, body, right| self.take_record(&mut rebuilding, kind, body, right))?;
        if !rebuilding.has_numbers {
            return Err(nonsense("a hub without its numbers"));
        }
        if rebuilding.newest > self.applied {
            return Err(nonsense("an event after the newest one"));
        }
        self.channels.restore_end(&rebuilding.present);
        let connections = rebuilding.publishers.len() as u64;
        Ok((Moved { connections, left: 0 }, rebuilding.listener))
    }

    fn take_record(
        &mut self,
        rebuilding: &mut Rebuilding,
        kind: Kind,
        body: &[u8],
        right: Option<OwnedFd>,
    ) -> Result<(), HandoverError> {
        match (kind, right) {
            (Kind::Hub, None) => {
                rebuilding.has_numbers = true;
                self.take_numbers(&decode(body)?)
            }
            (Kind::Feed, Some(socket)) => {
                rebuilding.listener = Some(UnixListener::from(socket));
                Ok(())
            }
            (Kind::HubChannel, None) => {
                let channel = self.take_channel(&decode(body)?);
                rebuilding.channel = Some(channel);
                if rebuilding.has_numbers {
                    rebuilding.present.insert(channel);
                }
                Ok(())
            }
            (Kind::Events, None) => {
                let channel = rebuilding.channel.ok_or(nonsense("events of no channel"))?;
                rebuilding.newest = rebuilding.newest.max(self.take_events(channel, decode(body)?)?);
                Ok(())
            }
            (Kind::Key, None) => {
                let record::Key { key, channels, ids, age_ms } = decode(body)?;
                let ids: Vec<Id> = ids.into_iter().map(Id::from_bits).collect();
                self.keys.restore(&key, channels, &ids, self.now.steady_ms.saturating_sub(age_ms));
                Ok(())
            }
            (Kind::Revoked, None) => {
                let record::Revoked { id, until_s, is_unwritten } = decode(body)?;
                self.revocations.restore(id.as_str().into(), until_s, is_unwritten);
                Ok(())
            }
            (Kind::Account, None) => self.take_account(rebuilding, &decode(body)?),
            (Kind::Publisher, Some(socket)) => self.take_publisher(rebuilding, decode(body)?, socket),
            (Kind::Ear, None) => self.take_ear(rebuilding, decode(body)?),
            _ => Err(nonsense("a record that is no hub's, or has no descriptor")),
        }
    }

    fn take_numbers(&mut self, numbers: &record::Hub) -> Result<(), HandoverError> {
        let (applied, last) = (Id::from_bits(numbers.applied), Id::from_bits(numbers.last));
        let Order::Local(ids) = &mut self.order else {
            return Err(HandoverError::Refused("the order of this configuration is that of a cluster's log".into()));
        };
        if applied > last || last == Id::MAX {
            return Err(nonsense("the last id"));
        }
        ids.restore(last, numbers.mark_ms);
        (self.applied, self.announced) = (applied, applied);
        self.channels.restore(Id::from_bits(numbers.floor), Id::from_bits(numbers.lost_until));
        self.questions.restore(numbers.questions);
        self.revocations.restore_extent(numbers.revoked_bytes, numbers.revoked_lines);
        Ok(())
    }

    fn take_channel(&mut self, channel: &record::HubChannel) -> u32 {
        let name = channel.name.as_str().into();
        let ended = channel.ended.map(Id::from_bits);
        self.channels.restore_channel(&name, Id::from_bits(channel.since), ended, channel.is_published)
    }

    /// Adds events to a channel's history; returns the newest one's id.
    fn take_events(&mut self, index: u32, events: record::Events) -> Result<Id, HandoverError> {
        let mut newest = Id::ZERO;
        let Some(channel) = self.channels.known_name(index).cloned() else { return Ok(newest) };
        for record::Event { id, name, kind, payload, age_ms } in events.events {
            let kind = match kind {
                0 => Payload::Text,
                1 => Payload::Json,
                2 => Payload::Binary,
                _ => return Err(nonsense("the kind of an event")),
            };
            let id = Id::from_bits(id);
            if id <= newest || kind != Payload::Binary && std::str::from_utf8(&payload).is_err() {
                return Err(nonsense("an event"));
            }
            // The payload shares the memory of a record with others; a copy of its own goes when the event does.
            let payload = bytes::Bytes::copy_from_slice(&payload);
            let draft = Draft { name: name.map(Into::into), kind, payload };
            let event = Arc::new(Event { id, channel: channel.clone(), draft });
            self.channels.restore_event(index, event, self.now.steady_ms.saturating_sub(age_ms));
            newest = id;
        }
        Ok(newest)
    }

    fn take_account(&mut self, rebuilding: &mut Rebuilding, account: &record::Account) -> Result<(), HandoverError> {
        let shard = u16::try_from(account.shard).map_err(|_| nonsense("the shard of a message"))?;
        if account.holders == 0 {
            return Err(nonsense("a message that waits for no listener"));
        }
        let number = self.accounts.keep(shard, account.bytes as usize, account.holders as usize);
        rebuilding.accounts.insert(account.number, number);
        Ok(())
    }

    fn take_publisher(
        &mut self,
        rebuilding: &mut Rebuilding,
        mut record: record::Publisher,
        socket: OwnedFd,
    ) -> Result<(), HandoverError> {
        let mut owed = Vec::new();
        for record::Owed { end, number } in &record.owed {
            let number = rebuilding.accounts.get(number).ok_or(nonsense("a message on account"))?;
            owed.push((*end, *number));
        }
        let role = if record.is_reader { Role::Reader } else { Role::Publisher };
        let traces = std::mem::take(&mut record.traces);
        let number = self.publishers.restore(socket, role, record, owed, &mut self.wants);
        for channel in traces {
            // No more channels are traced than before.
            let _ = self.traces.add(channel.as_str().into(), number);
        }
        HubFigures::add(&self.figures.publishers, 1);
        rebuilding.publishers.push(number);
        Ok(())
    }

    fn take_ear(&mut self, rebuilding: &Rebuilding, ear: record::Ear) -> Result<(), HandoverError> {
        let publisher = rebuilding.publishers.get(ear.publisher as usize).ok_or(nonsense("a listener's connection"))?;
        let is_set = |bit| ear.what & bit != 0;
        let what = Listening { messages: is_set(1), connections: is_set(2), authorize: is_set(4) };
        self.listeners.restore(*publisher, what, &ear.asked_ms, ear.is_passed_over, self.now.steady_ms);
        Ok(())
    }
}
