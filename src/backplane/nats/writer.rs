//! The side that appends and looks after the log.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use arcstr::ArcStr;
use async_nats::Client;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::link::backplane::Unordered;
use crate::logic::entry::{Content, Control, Origin, packed};
use crate::logic::id::Id;

use super::super::broker::{Appended, BrokerError, Continuity, Writer};
use super::ids::{Numbering, PLACES};
use super::link::{Cut, Failure, ask};
use super::values::{Refusal, Stored, StreamInfo, code, nanos_of};
use super::{Names, Read, Shared, Unknown, look, publish};

/// Messages that are remembered, for finding the newest one that the log still has.
const REMEMBERED: usize = 64;
/// The most messages that a fence fills up with; beyond it the log is emptied.
const FILL_MAX: u64 = 1000;
/// The messages that an emptied log jumps over, beyond what this node has read.
const JUMP: u64 = 64;

/// The side that appends.
pub(in super::super) struct NatsWriter {
    client: Client,
    cut: Arc<Cut>,
    mark: ArcStr,
    names: Rc<Names>,
    shared: Rc<RefCell<Shared>>,
}

/// Entries as one message, with the number of the first one.
struct Packed {
    first: u64,
    count: usize,
    payload: Vec<u8>,
}

fn begin(first: u64) -> Packed {
    let mut payload = Vec::new();
    packed::begin(&mut payload);
    Packed { first, count: 0, payload }
}

/// Packs entries into messages of up to `bytes_max`, unless one alone is greater.
fn pack(mark: &ArcStr, entries: &[Unordered], bytes_max: usize) -> Vec<Packed> {
    let mut messages: Vec<Packed> = Vec::new();
    for entry in entries {
        let origin = Origin { node: mark.clone(), number: entry.number };
        let mut alone = begin(entry.number);
        packed::push(&mut alone.payload, &origin, &entry.content);
        alone.count = 1;
        match messages.last_mut() {
            Some(last) if last.count < PLACES && last.payload.len() + alone.payload.len() <= bytes_max => {
                // The first byte is the version.
                last.payload.extend_from_slice(&alone.payload[1..]);
                last.count += 1;
            }
            _ => messages.push(alone),
        }
    }
    messages
}

impl NatsWriter {
    pub(super) fn new(
        client: Client,
        cut: Arc<Cut>,
        mark: ArcStr,
        names: Rc<Names>,
        shared: Rc<RefCell<Shared>>,
    ) -> NatsWriter {
        NatsWriter { client, cut, mark, names, shared }
    }

    /// Publishes one message; the outcome holds for all of its entries.
    async fn publish(&self, message: Packed) -> Result<Appended, BrokerError> {
        let max = self.client.max_payload();
        if message.payload.len() > max {
            let length = message.payload.len();
            return Ok(Appended::Refused(format!(
                "{length} bytes are more than one message of the broker takes ({max})"
            )));
        }
        let id = format!("{}.{}", self.mark, message.first);
        let payload = Bytes::from(message.payload);
        self.shared.borrow_mut().unknown =
            Some(Unknown { id: id.clone(), payload: payload.clone(), since: Instant::now() });
        let outcome = match publish(&self.client, &self.cut, &self.names, &id, payload).await {
            Ok(()) => Appended::Done,
            Err(Failure::Refused(Refusal { err_code, description })) => {
                Appended::Refused(format!("the broker answers {description} ({err_code})"))
            }
            Err(Failure::Nobody) => Appended::Again("the broker's JetStream has no leader now".into()),
            Err(Failure::Broken(error)) => return Err(error),
        };
        self.shared.borrow_mut().unknown = None;
        Ok(outcome)
    }

    /// Whether the log still has a message as it was read; nothing if it has none of that number.
    async fn has(&self, read: Read) -> Result<Option<bool>, BrokerError> {
        let subject = format!("STREAM.MSG.GET.{}", self.names.stream);
        match ask::<Stored>(&self.client, &self.cut, subject, &json!({ "seq": read.sequence })).await {
            Ok(stored) => Ok(Some(nanos_of(&stored.message.time) == Some(read.at_ns))),
            Err(Failure::Refused(Refusal { err_code: code::NO_MESSAGE | code::NO_MESSAGE_AT, .. })) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The newest remembered message that the log still has; the position before the oldest remembered one if it has none.
    async fn newest_common(&self, numbering: Numbering) -> Result<Id, BrokerError> {
        let verified = self.shared.borrow().verified.clone();
        for read in verified.iter().rev() {
            if self.has(*read).await? == Some(true) {
                return Ok(numbering.before(read.sequence + 1));
            }
        }
        Ok(verified.front().map_or(numbering.before(1), |read| numbering.before(read.sequence)))
    }

    /// The stream is another one than that which was read.
    fn turn_to(&self, info: &StreamInfo, base_ms: u64, position: Id) -> Continuity {
        let numbering = Numbering { base_ms };
        let mut shared = self.shared.borrow_mut();
        *shared = Shared { unknown: shared.unknown.take(), window: shared.window, numbering, ..Shared::default() };
        let resumed = numbering.before(info.state.first());
        // A stream that was made by a node with a slow clock: its ids are to get beyond what was told.
        if resumed < position { Continuity::Lost(position) } else { Continuity::Emptied(resumed) }
    }

    fn remember(&self) {
        let mut shared = self.shared.borrow_mut();
        if let Some(read) = shared.read_small.filter(|read| shared.verified.back() != Some(read)) {
            shared.verified.push_back(read);
        }
        if shared.verified.len() > REMEMBERED {
            shared.verified.pop_front();
        }
    }

    fn message_of(&self, control: Control) -> Vec<u8> {
        let mut payload = Vec::new();
        packed::begin(&mut payload);
        packed::push_unowned(&mut payload, &Content::Control(control));
        payload
    }
}

impl Writer for NatsWriter {
    async fn append(&mut self, entries: &[Unordered], is_whole: bool) -> Result<Vec<Appended>, BrokerError> {
        let bytes_max = if is_whole { usize::MAX } else { self.client.max_payload() / 2 };
        let mut outcomes = Vec::with_capacity(entries.len());
        for message in pack(&self.mark, entries, bytes_max) {
            let count = message.count;
            let outcome = self.publish(message).await?;
            outcomes.extend(std::iter::repeat_n(outcome, count));
            // What comes after an entry that is to be sent again waits for it.
            if let Some(Appended::Again(_)) = outcomes.last() {
                let last = outcomes.last().cloned();
                outcomes.resize(entries.len(), last.unwrap_or(Appended::Done));
                break;
            }
        }
        Ok(outcomes)
    }

    async fn check(&mut self, position: Id, _is_entry: bool) -> Result<Continuity, BrokerError> {
        let info = look(&self.client, &self.cut, &self.names, position).await?;
        let numbering = self.shared.borrow().numbering;
        let base_ms = info.base_ms().unwrap_or(numbering.base_ms);
        if base_ms != numbering.base_ms {
            return Ok(self.turn_to(&info, base_ms, position));
        }
        let verified = self.shared.borrow().verified.back().copied();
        let first = info.state.first();
        let is_other = match verified.filter(|verified| verified.sequence >= first) {
            Some(verified) => self.has(verified).await? == Some(false),
            None => false,
        };
        if is_other || info.state.last_seq < numbering.sequence(position) {
            let after = self.newest_common(numbering).await?;
            self.shared.borrow_mut().verified.clear();
            return Ok(Continuity::Lost(after));
        }
        if first > numbering.sequence(position) + 1 {
            self.shared.borrow_mut().verified.clear();
            return Ok(Continuity::Trimmed(numbering.before(first)));
        }
        self.remember();
        Ok(Continuity::Whole)
    }

    async fn forget(&mut self) {
        self.shared.borrow_mut().verified.clear();
    }

    async fn fence(&mut self, position: Id, after: Id) -> Result<(), BrokerError> {
        let info = look(&self.client, &self.cut, &self.names, position).await?;
        let numbering = self.shared.borrow().numbering;
        let least = numbering.sequence(position);
        let missing = least.saturating_sub(info.state.last_seq);
        if missing > FILL_MAX {
            let purge = json!({ "seq": least + JUMP });
            let subject = format!("STREAM.PURGE.{}", self.names.stream);
            ask::<IgnoredAny>(&self.client, &self.cut, subject, &purge).await?;
        } else if missing > 0 {
            // An entry that says nothing, as it has no writer.
            let nothing = Control::Beat { position: after, version: "".into(), name: "".into() };
            let payload = Bytes::from(self.message_of(nothing));
            for _ in 0..missing {
                let sent = self.client.publish(self.names.subjects.log.clone(), payload.clone()).await;
                sent.map_err(|error| BrokerError::Away(format!("the broker: {error}")))?;
            }
        }
        let fence = self.message_of(Control::Fence { after });
        // A fence at the same position may be needed again, if this one is lost.
        let id = format!("{}.fence.{:08x}", self.mark, fastrand::u32(..));
        publish(&self.client, &self.cut, &self.names, &id, fence.into()).await.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::entry::{Logged, Part};
    use crate::logic::event::{Draft, Kind};

    #[test]
    fn entries_are_packed_in_order_up_to_a_size() {
        let content = |bytes: usize| {
            let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; bytes].into() };
            Content::Event(Logged { channel: "c".into(), draft, key: None, part: Part::ONLY, is_client: false })
        };
        let sizes = [10, 10, 2000, 10, 10];
        let entries: Vec<Unordered> = sizes
            .iter()
            .enumerate()
            .map(|(at, size)| Unordered { number: at as u64 + 7, content: content(*size) })
            .collect();
        let mark = ArcStr::from("n~1");
        let messages = pack(&mark, &entries, 1000);
        let shape: Vec<(u64, usize)> = messages.iter().map(|message| (message.first, message.count)).collect();
        assert_eq!(shape, [(7, 2), (9, 1), (10, 2)]);
        let read = messages.into_iter().flat_map(|message| packed::read(&message.payload.into()).unwrap());
        let numbers: Vec<u64> = read.map(|(origin, _)| origin.unwrap().number).collect();
        assert_eq!(numbers, [7, 8, 9, 10, 11]);
        assert_eq!(pack(&mark, &entries, usize::MAX).len(), 1);
    }
}
