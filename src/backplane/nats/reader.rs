//! The side that reads.
//!
//! A consumer in the server's memory, of this node alone, hands messages out in their order from a sequence on. The reader
//! asks for more before what it asked for has come. It checks that the sequence has no holes, and that the server still
//! answers: a consumer that is gone is made anew where the reader is.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::timeout;

use crate::logic::entry::Entry;
use crate::logic::id::Id;

use super::super::broker::{ANSWER_MAX, BrokerError, Page, Reader};
use super::ids::Numbering;
use super::link::{Cut, ask};
use super::message::entries_of;
use super::values::{ConsumerInfo, Place, millis_of, place_of};
use super::{Names, Read, Shared};

/// The time for which a read waits for an entry.
const WAIT: Duration = Duration::from_secs(1);
/// The messages and bytes that are asked for at once.
const ASKED: usize = 1000;
const ASKED_BYTES: usize = 4 << 20;
/// The time after which what was asked for is asked for again.
const EXPIRES: Duration = Duration::from_secs(30);
/// The time after which a server says that it has nothing.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The time after which the server removes a consumer that nobody asks.
const INACTIVE: Duration = Duration::from_mins(1);
/// The most entries and bytes of one page, about.
const PAGE_ENTRIES: usize = 512;
const PAGE_BYTES: usize = 4 << 20;
/// The bytes of a message that is looked at again.
const SMALL: usize = 4096;

/// The side that reads.
pub(in super::super) struct NatsReader {
    client: Client,
    cut: Arc<Cut>,
    names: Rc<Names>,
    shared: Rc<RefCell<Shared>>,
    consumer: Option<Consumer>,
}

/// A consumer at the server.
struct Consumer {
    name: String,
    inbox: String,
    messages: Subscriber,
    numbering: Numbering,
    /// The sequence of the message that comes next.
    next: u64,
    /// The messages that were asked for and have not come.
    asked: usize,
    /// The last time at which the server was heard.
    heard: Instant,
    /// A message after a hole, which begins the next page.
    held: Option<Message>,
}

/// What a message is that says nothing of the stream.
enum Status {
    /// The server is there.
    Alive,
    /// What was asked for is over, with so many messages that have not come.
    Over(usize),
    /// The consumer is gone.
    Gone,
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<usize> {
    headers?.get(name)?.as_str().parse().ok()
}

fn status_of(message: &Message) -> Option<Status> {
    let over = || Status::Over(number(message.headers.as_ref(), "Nats-Pending-Messages").unwrap_or(usize::MAX));
    match message.status?.as_u16() {
        100 => Some(Status::Alive),
        404 | 408 => Some(over()),
        409 if message.description.as_deref().is_some_and(|why| why.contains("MaxBytes")) => Some(over()),
        _ => Some(Status::Gone),
    }
}

impl NatsReader {
    pub(super) fn new(client: Client, cut: Arc<Cut>, names: Rc<Names>, shared: Rc<RefCell<Shared>>) -> NatsReader {
        NatsReader { client, cut, names, shared, consumer: None }
    }

    /// Makes the consumer; returns the server's time, in milliseconds since 1970.
    pub(super) async fn begin(&mut self, next: u64) -> Result<u64, BrokerError> {
        self.end_consumer().await;
        let config = json!({
            "stream_name": self.names.stream,
            "config": {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": next.max(1),
                "ack_policy": "none",
                "replay_policy": "instant",
                "max_deliver": 1,
                "num_replicas": 1,
                "mem_storage": true,
                "inactive_threshold": INACTIVE.as_nanos() as u64,
            },
        });
        let subject = format!("CONSUMER.CREATE.{}", self.names.stream);
        let info: ConsumerInfo = ask(&self.client, &self.cut, subject, &config).await?;
        let inbox = self.client.new_inbox();
        let messages = self.client.subscribe(inbox.clone()).await;
        let messages = messages.map_err(|error| BrokerError::Away(format!("the broker: {error}")))?;
        self.consumer = Some(Consumer {
            name: info.name,
            inbox,
            messages,
            numbering: self.shared.borrow().numbering,
            next: next.max(1),
            asked: 0,
            heard: Instant::now(),
            held: None,
        });
        Ok(millis_of(&info.created).unwrap_or(0))
    }

    /// Removes the consumer, without waiting for the answer.
    async fn end_consumer(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.names.stream, consumer.name);
        let _ = self.client.publish_with_reply(subject, consumer.inbox, "".into()).await;
    }

    /// Asks for more messages, if half of those that were asked for have come.
    async fn ask_for_more(&mut self) -> Result<(), BrokerError> {
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        if consumer.asked > ASKED / 2 {
            return Ok(());
        }
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.names.stream, consumer.name);
        let question = json!({
            "batch": ASKED,
            "max_bytes": ASKED_BYTES.max(self.client.max_payload() * 2),
            "expires": EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let asked = self.client.publish_with_reply(subject, consumer.inbox.clone(), question.to_string().into()).await;
        asked.map_err(|error| BrokerError::Away(format!("the broker: {error}")))?;
        consumer.asked += ASKED;
        Ok(())
    }

    /// The next message, if there is one within a time.
    async fn next(&mut self, wait: Duration) -> Result<Option<Message>, BrokerError> {
        let until = Instant::now() + wait;
        loop {
            self.ask_for_more().await?;
            let Some(consumer) = &mut self.consumer else { return Ok(None) };
            if let Some(held) = consumer.held.take() {
                return Ok(Some(held));
            }
            let next = match consumer.messages.next().now_or_never() {
                Some(next) => next,
                None if wait.is_zero() => return Ok(None),
                None => {
                    let rest = until.saturating_duration_since(Instant::now());
                    let next = tokio::select! {
                        next = timeout(rest, consumer.messages.next()) => next,
                        error = self.cut.ended() => return Err(error),
                    };
                    match next {
                        Ok(next) => next,
                        Err(_) => {
                            if consumer.heard.elapsed() > ANSWER_MAX {
                                self.consumer = None;
                            }
                            return Ok(None);
                        }
                    }
                }
            };
            let Some(message) = next else {
                return Err(BrokerError::Away("the connection to the broker has ended".into()));
            };
            consumer.heard = Instant::now();
            match status_of(&message) {
                None => {
                    consumer.asked = consumer.asked.saturating_sub(1);
                    return Ok(Some(message));
                }
                Some(Status::Alive) => {}
                Some(Status::Over(missing)) => consumer.asked = consumer.asked.saturating_sub(missing.min(ASKED)),
                Some(Status::Gone) => {
                    self.consumer = None;
                    return Ok(None);
                }
            }
        }
    }

    /// The entries of a message.
    fn unpack(&self, message: Message, place: Place, numbering: Numbering, out: &mut Vec<Entry>) {
        let read = Read { sequence: place.sequence, at_ns: place.at_ns };
        let mut shared = self.shared.borrow_mut();
        shared.read = Some(read);
        if message.payload.len() <= SMALL {
            shared.read_small = Some(read);
        }
        let at_ms = place.at_ns / 1_000_000;
        let found = entries_of(&self.names.subjects, &message.subject, message.headers.as_ref(), message.payload);
        let entry = |(at, (origin, content))| Entry { id: numbering.id(place.sequence, at), at_ms, origin, content };
        out.extend(found.into_iter().enumerate().map(entry));
    }
}

impl Reader for NatsReader {
    async fn read(&mut self, after: Id, is_entry: bool) -> Result<Page, BrokerError> {
        let numbering = self.shared.borrow().numbering;
        let wanted = numbering.sequence(after) + 1;
        if self.consumer.as_ref().is_none_or(|consumer| consumer.numbering != numbering || consumer.next != wanted) {
            self.begin(wanted).await?;
        }
        let mut page = Page::default();
        let (mut wait, mut bytes) = (WAIT, 0);
        while page.entries.len() < PAGE_ENTRIES && bytes < PAGE_BYTES {
            let Some(message) = self.next(wait).await? else { break };
            wait = Duration::ZERO;
            let Some(consumer) = &mut self.consumer else { break };
            let Some(place) = message.reply.as_deref().and_then(place_of) else { continue };
            if place.sequence < consumer.next {
                continue;
            }
            if place.sequence > consumer.next && !page.entries.is_empty() {
                consumer.held = Some(message);
                break;
            }
            page.has_hole |= is_entry && place.sequence > consumer.next;
            consumer.next = place.sequence + 1;
            bytes += message.payload.len();
            self.unpack(message, place, numbering, &mut page.entries);
        }
        Ok(page)
    }
}
