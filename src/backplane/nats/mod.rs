//! NATS JetStream: the log is one stream.
//!
//! A node packs entries into messages, of which one is under way at a time. A message whose outcome is not known is sent
//! again as it was when the connection is made anew: the server drops the second one by its `Nats-Msg-Id`, so nothing of
//! the earlier connection can come later. The reader pulls from a consumer of its own and checks the sequence.

mod address;
mod ids;
mod link;
mod message;
mod probe;
mod reader;
mod values;
mod writer;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arcstr::ArcStr;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use serde_json::json;

use crate::config::{Backplane, Storage};
use crate::logic::id::Id;

use super::broker::{Broker, BrokerError, Tail};

use address::Address;
use ids::Numbering;
use link::{Cut, Failure, answered, ask};
use message::Subjects;
pub(super) use probe::probe;
use reader::NatsReader;
use values::{Acknowledged, Refusal, StreamInfo, code};
use writer::NatsWriter;

/// The time within which the server knows a message's id again, of a stream that a node has made.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// NATS servers as they are configured.
pub(super) struct Nats {
    address: Address,
    mark: ArcStr,
    names: Rc<Names>,
    /// What is known over all connections.
    shared: Rc<RefCell<Shared>>,
}

/// What things are called, and how the stream is made.
struct Names {
    stream: String,
    subjects: Subjects,
    retention: Duration,
    retention_bytes: usize,
    replicas: usize,
    storage: Storage,
}

/// What is known over all connections.
#[derive(Default)]
struct Shared {
    numbering: Numbering,
    /// The message whose outcome is not known.
    unknown: Option<Unknown>,
    /// The last message that was read, and the last one that is small.
    read: Option<Read>,
    read_small: Option<Read>,
    /// Messages that the log had at looks before, the newest last.
    verified: VecDeque<Read>,
    /// The time within which the server knows a message's id again.
    window: Duration,
}

/// A message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Read {
    sequence: u64,
    at_ns: u64,
}

/// A message that was sent and of which nothing was heard.
#[derive(Clone)]
struct Unknown {
    id: String,
    payload: Bytes,
    since: Instant,
}

impl Nats {
    /// Servers as they are configured.
    ///
    /// # Errors
    /// If the address or a file that it needs cannot be read.
    pub(super) fn new(config: &Backplane, mark: &ArcStr) -> Result<Nats, BrokerError> {
        let names = Names {
            stream: format!("RC_{}", config.name),
            subjects: Subjects::of(&config.name),
            retention: config.retention,
            retention_bytes: config.retention_bytes,
            replicas: config.replicas,
            storage: config.storage,
        };
        let address = Address::of(config)?;
        Ok(Nats { address, mark: mark.clone(), names: Rc::new(names), shared: Rc::default() })
    }
}

/// The position after everything that was read, for a stream that is made anew.
fn position(shared: &Shared) -> Id {
    let read = shared.read.map_or(Id::ZERO, |read| shared.numbering.before(read.sequence + 1));
    read.max(shared.numbering.before(1))
}

/// Looks at the stream, and makes it if there is none.
async fn look(client: &Client, cut: &Cut, names: &Names, position: Id) -> Result<StreamInfo, BrokerError> {
    let subject = format!("STREAM.INFO.{}", names.stream);
    match ask(client, cut, subject.clone(), &json!({})).await {
        Err(Failure::Refused(Refusal { err_code: code::STREAM_NOT_FOUND, .. })) => {}
        other => return Ok(other?),
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let Numbering { base_ms } = Numbering::beyond(position, now_ms);
    let config = json!({
        "name": names.stream,
        "description": format!("ringcast base={base_ms}"),
        "subjects": [names.subjects.all],
        "retention": "limits",
        "discard": "old",
        "max_age": names.retention.as_nanos() as u64,
        "max_bytes": names.retention_bytes,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msg_size": -1,
        "duplicate_window": DUPLICATE_WINDOW.min(names.retention).as_nanos() as u64,
        "storage": match names.storage {
            Storage::File => "file",
            Storage::Memory => "memory",
        },
        "num_replicas": names.replicas,
    });
    match ask(client, cut, format!("STREAM.CREATE.{}", names.stream), &config).await {
        // Another node was first.
        Err(Failure::Refused(Refusal { err_code: code::STREAM_NAME_IN_USE, .. })) => {
            Ok(ask(client, cut, subject, &json!({})).await?)
        }
        other => Ok(other?),
    }
}

/// Publishes a message to the log, and waits until the stream has it.
async fn publish(client: &Client, cut: &Cut, names: &Names, id: &str, payload: Bytes) -> Result<(), Failure> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    let request = client.request_with_headers(names.subjects.log.clone(), headers, payload);
    answered::<Acknowledged>(cut, request).await.map(|_| ())
}

impl Broker for Nats {
    type Writer = NatsWriter;
    type Reader = NatsReader;

    async fn open(&mut self) -> Result<(NatsWriter, NatsReader, Tail), BrokerError> {
        let cut = Arc::new(Cut::default());
        let client = self.address.connect(&self.mark, cut.clone()).await?;
        let at = position(&self.shared.borrow());
        let mut info = look(&client, &cut, &self.names, at).await?;
        let base_ms =
            info.base_ms().ok_or_else(|| BrokerError::Refused("the stream has no time of creation".into()))?;
        {
            let mut shared = self.shared.borrow_mut();
            shared.window = Duration::from_nanos(info.config.duplicate_window);
            // On a later connection, the look at the log finds out that the stream is another one.
            if shared.read.is_none() {
                shared.numbering = Numbering { base_ms };
            }
        }
        let is_fenced_off = self.send_unknown(&client, &cut).await?;
        if self.shared.borrow().read.is_some() {
            info = look(&client, &cut, &self.names, at).await?;
        }
        let (state, numbering) = (info.state, Numbering { base_ms });
        let mut reader = NatsReader::new(client.clone(), cut.clone(), self.names.clone(), self.shared.clone());
        let next = self.shared.borrow().read.map_or(state.first(), |read| read.sequence + 1);
        let now_ms = reader.begin(next).await?;
        let from = numbering.before(state.first());
        let last = if state.last_seq < state.first() { from } else { numbering.id(state.last_seq, 0) };
        let tail = Tail { from, last, now_ms, is_fenced_off };
        let writer = NatsWriter::new(client, cut, self.mark.clone(), self.names.clone(), self.shared.clone());
        Ok((writer, reader, tail))
    }
}

impl Nats {
    /// Sends the message again whose outcome is not known. Returns whether nothing of an earlier connection can come now.
    async fn send_unknown(&mut self, client: &Client, cut: &Cut) -> Result<bool, BrokerError> {
        let (unknown, window) = {
            let shared = self.shared.borrow();
            (shared.unknown.clone(), shared.window)
        };
        let Some(Unknown { id, payload, since }) = unknown else { return Ok(true) };
        // The server forgets ids after the window.
        let is_known_again = since.elapsed() < window / 2;
        let is_settled = match is_known_again {
            true => match publish(client, cut, &self.names, &id, payload).await {
                Ok(()) => true,
                Err(Failure::Refused(_)) => false,
                Err(failure) => return Err(failure.into()),
            },
            false => false,
        };
        self.shared.borrow_mut().unknown = None;
        Ok(is_settled)
    }
}
