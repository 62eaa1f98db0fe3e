//! Redis and Valkey: the log is one stream.
//!
//! An entry is `XADD ringcast:{NAME} * c CHANNEL d DATA …`, so a backend can write one by hand. One connection appends, and
//! another one waits in `XREAD BLOCK`.

mod address;
mod continuity;
mod probe;
mod values;

use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::sync::Mutex;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value, cmd};

use crate::config::{Backplane, ReadFrom};
use crate::link::backplane::Unordered;
use crate::logic::entry::{Content, Control, Origin, field};
use crate::logic::id::Id;

use super::broker::{Appended, Broker, BrokerError, Continuity, Page, Reader, Tail, Writer};

use address::Address;
use continuity::Checker;
pub(super) use probe::probe;
use values::{entries_of, id_of, integer, member, sentence, text};

/// The time for which a read waits for an entry.
const BLOCK_MS: usize = 1000;
/// The bytes that one read is to bring, about.
const READ_BYTES: usize = 4 << 20;
/// The most entries of one read.
const READ_ENTRIES: usize = 512;
/// The time for `WAIT`.
const WAIT_MS: usize = 1000;
/// Appends between two trims by the number of entries.
const TRIM_EVERY: u64 = 10_000;

/// One Redis, or the one that Sentinels name.
pub(super) struct Redis {
    address: Address,
    key: Arc<str>,
    mark: ArcStr,
    retention: Duration,
    retention_bytes: u64,
    ack_replicas: u32,
    read_from: ReadFrom,
    /// The last writing connection, if there was one: its id, if the server tells.
    last: Option<Option<i64>>,
    /// What was read, over all connections.
    checker: Arc<Mutex<Checker>>,
}

impl Redis {
    /// A Redis as it is configured.
    ///
    /// # Errors
    /// If the address or a file that it needs cannot be read.
    pub(super) fn new(config: &Backplane, mark: &ArcStr) -> Result<Redis, BrokerError> {
        let address = Address::of(config)?;
        let key: Arc<str> = format!("ringcast:{{{}}}", config.name).into();
        let ack_replicas = config.replicas();
        Ok(Redis {
            address,
            checker: Arc::new(Mutex::new(Checker::new(key.clone(), config.retention))),
            key,
            mark: mark.clone(),
            retention: config.retention,
            retention_bytes: config.retention_bytes as u64,
            ack_replicas,
            read_from: config.read_from,
            last: None,
        })
    }
}

/// A failed command as an error of the broker.
fn failed(error: &RedisError) -> BrokerError {
    let text = sentence(error);
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "WRONGTYPE") => BrokerError::Refused(text),
        _ => BrokerError::Away(text),
    }
}

/// Sends a command. What the server answers with an error is an error.
async fn try_ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    connection.send_packed_command(command).await?.extract_error()
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, BrokerError> {
    try_ask(connection, command).await.map_err(|error| failed(&error))
}

impl Broker for Redis {
    type Writer = RedisWriter;
    type Reader = RedisReader;

    async fn open(&mut self) -> Result<(RedisWriter, RedisReader, Tail), BrokerError> {
        let (client, address, mut writer) = self.address.connect_to_primary(&self.key).await?;
        let reader = self.address.connect(&client).await?;
        let replicas = self.address.check_role(&mut writer).await?;
        // A primary that was restarted without its log has no replicas until Sentinels have made up their minds.
        let is_alone = replicas.is_some_and(|replicas| replicas < self.ack_replicas as usize);
        if self.last.is_some() && is_alone {
            return Err(BrokerError::Away(format!("the broker has fewer than {} replicas", self.ack_replicas)));
        }
        let is_fenced_off = self.end_last_connection(&mut writer).await;
        self.name_connection(&mut writer).await;
        let info = self.checker.lock().await.begin(&mut writer).await?;
        let now_ms = match ask(&mut writer, &cmd("TIME")).await? {
            Value::Array(parts) => {
                let part = |at: usize| parts.get(at).and_then(integer).unwrap_or(0) as u64;
                part(0) * 1000 + part(1) / 1000
            }
            _ => 0,
        };
        let oldest = Id::new(now_ms.saturating_sub(self.retention.as_millis() as u64), 0);
        // Everything after this is in the log, unless the log was trimmed further.
        let from = info.first.map_or(info.last, |first| oldest.max(first.before()));
        let tail = Tail { from, last: info.last, now_ms, is_fenced_off };
        let mut writer = RedisWriter {
            connection: writer,
            key: self.key.clone(),
            mark: self.mark.clone(),
            address: self.address.clone(),
            connected: address,
            retention: self.retention,
            retention_bytes: self.retention_bytes,
            ack_replicas: self.ack_replicas,
            appended: 0,
            bytes: 0,
            checker: self.checker.clone(),
            newest_ms: info.last.ms(),
        };
        let replica = match self.read_from {
            ReadFrom::Primary => None,
            ReadFrom::Replica => self.address.connect_to_replica(&mut writer.connection).await,
        };
        let until = info.last;
        Ok((writer, RedisReader { connection: reader, replica, until, key: self.key.clone(), entry_bytes: 1024 }, tail))
    }
}

impl Redis {
    /// Ends the last writing connection at the server, so that nothing of it can be carried out later. Returns whether that
    /// is so. On another server, or on one that was restarted, the connection's id may be that of a stranger, which its name
    /// tells.
    async fn end_last_connection(&self, connection: &mut MultiplexedConnection) -> bool {
        let Some(last) = self.last else { return true };
        let Some(client) = last else { return false };
        let Ok(list) = try_ask(connection, cmd("CLIENT").arg("LIST").arg("ID").arg(client)).await else { return false };
        let is_ours = text(&list).is_some_and(|list| list.contains(&format!(" name={} ", self.mark)));
        !is_ours || try_ask(connection, cmd("CLIENT").arg("KILL").arg("ID").arg(client)).await.is_ok()
    }

    /// Names the writing connection, and remembers its id, by which it can be ended later.
    async fn name_connection(&mut self, connection: &mut MultiplexedConnection) {
        let named = try_ask(connection, cmd("CLIENT").arg("SETNAME").arg(&*self.mark)).await;
        let id = ask(connection, cmd("CLIENT").arg("ID")).await.ok().and_then(|id| integer(&id));
        self.last = Some(id.filter(|_| named.is_ok()));
    }
}

/// The connection that appends and looks after the log.
pub(super) struct RedisWriter {
    connection: MultiplexedConnection,
    key: Arc<str>,
    mark: ArcStr,
    address: Address,
    /// The address of the server that this connection is to.
    connected: String,
    retention: Duration,
    retention_bytes: u64,
    ack_replicas: u32,
    /// Entries since the last trim by number, and their bytes.
    appended: u64,
    bytes: u64,
    checker: Arc<Mutex<Checker>>,
    /// The time of the newest entry at the last look, in milliseconds since 1970.
    newest_ms: u64,
}

impl RedisWriter {
    /// `XADD` for one entry. The last one of a batch trims the log by age.
    fn add(&self, entry: &Unordered, trim_before: Option<Id>) -> Cmd {
        let mut add = cmd("XADD");
        add.arg(&*self.key);
        if let Some(oldest) = trim_before {
            add.arg("MINID").arg("~").arg(oldest.to_string());
        }
        add.arg("*");
        add_fields(&mut add, &entry.content);
        let origin = Origin { node: self.mark.clone(), number: entry.number };
        add.arg(field::ORIGIN).arg(&origin.to_bytes()[..]);
        add
    }

    /// `XADD` for a fence with that id.
    fn add_fence(&self, id: &str, after: Id) -> Cmd {
        let mut add = cmd("XADD");
        add.arg(&*self.key).arg(id);
        add_fields(&mut add, &Content::Control(Control::Fence { after }));
        add
    }

    /// The oldest entry that is kept, by the newest one that is known.
    fn oldest(&self) -> Option<Id> {
        let oldest = self.newest_ms.checked_sub(self.retention.as_millis() as u64)?;
        Some(Id::new(oldest, 0))
    }

    /// Trims the log to the configured bytes, by the mean size of entries.
    async fn trim(&mut self) -> Result<(), BrokerError> {
        if self.appended < TRIM_EVERY {
            return Ok(());
        }
        let mean = (self.bytes / self.appended).max(64);
        (self.appended, self.bytes) = (0, 0);
        let mut trim = cmd("XTRIM");
        trim.arg(&*self.key).arg("MAXLEN").arg("~").arg(self.retention_bytes / mean);
        ask(&mut self.connection, &trim).await.map(|_| ())
    }

    /// Waits until replicas have everything that was appended.
    async fn wait_for_replicas(&mut self) -> Result<Option<String>, BrokerError> {
        if self.ack_replicas == 0 {
            return Ok(None);
        }
        let reply = ask(&mut self.connection, cmd("WAIT").arg(self.ack_replicas).arg(WAIT_MS)).await?;
        let count = integer(&reply).unwrap_or(0);
        let is_enough = count >= i64::from(self.ack_replicas);
        Ok((!is_enough).then(|| format!("{count} of {} replicas have confirmed it", self.ack_replicas)))
    }
}

fn add_fields(add: &mut Cmd, content: &Content) {
    content.write(|name, value| {
        add.arg(name).arg(&value[..]);
    });
}

/// The outcome of one entry by the server's reply.
fn outcome(reply: &Value) -> Appended {
    match reply {
        Value::ServerError(error) => refused(error.code(), error.details()),
        _ => Appended::Done,
    }
}

/// The outcome of an entry that the server has refused.
fn refused(code: &str, details: Option<&str>) -> Appended {
    let why = format!("the broker answers {code} {}", details.unwrap_or_default()).trim_end().to_owned();
    // The server is no primary, or not any more.
    let is_elsewhere = matches!(code, "READONLY" | "LOADING" | "MASTERDOWN" | "MOVED");
    if is_elsewhere { Appended::Again(why) } else { Appended::Refused(why) }
}

impl Writer for RedisWriter {
    async fn append(&mut self, entries: &[Unordered], is_whole: bool) -> Result<Vec<Appended>, BrokerError> {
        let mut pipeline = Pipeline::with_capacity(entries.len());
        if is_whole {
            pipeline.atomic();
        }
        let oldest = self.oldest();
        for (place, entry) in entries.iter().enumerate() {
            let is_last = place + 1 == entries.len();
            pipeline.add_command(self.add(entry, oldest.filter(|_| is_last)));
            self.bytes += entry.content.weight() as u64;
        }
        self.appended += entries.len() as u64;
        let (offset, count) = if is_whole { (entries.len() + 1, 1) } else { (0, entries.len()) };
        let replies = self.connection.send_packed_commands(&pipeline, offset, count).await;
        let replies = match &replies {
            Ok(replies) => replies,
            // A transaction is refused as a whole.
            Err(error) if is_whole && let Some(code) = error.code() => {
                return Ok(vec![refused(code, error.detail()); entries.len()]);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut outcomes = match (is_whole, replies.first()) {
            (true, Some(Value::Array(replies))) => replies.iter().map(outcome).collect(),
            (true, Some(reply)) => vec![outcome(reply); entries.len()],
            _ => replies.iter().map(outcome).collect::<Vec<_>>(),
        };
        if let Some(why) = self.wait_for_replicas().await? {
            outcomes.iter_mut().filter(|outcome| **outcome == Appended::Done).for_each(|outcome| {
                *outcome = Appended::Unconfirmed(why.clone());
            });
        }
        self.trim().await?;
        Ok(outcomes)
    }

    async fn check(&mut self, position: Id, is_entry: bool) -> Result<Continuity, BrokerError> {
        self.address.check_still(&self.connected).await?;
        self.address.check_role(&mut self.connection).await?;
        let mut checker = self.checker.lock().await;
        let result = checker.check(&mut self.connection, position, is_entry).await?;
        self.newest_ms = checker.newest_ms();
        Ok(result)
    }

    async fn forget(&mut self) {
        self.checker.lock().await.forget();
    }

    async fn fence(&mut self, position: Id, after: Id) -> Result<(), BrokerError> {
        let beyond = Id::new(position.ms() + 1, 0).to_string();
        let add = self.add_fence(&beyond, after);
        match try_ask(&mut self.connection, &add).await {
            Ok(_) => Ok(()),
            // Another node was first, or entries after the position are in the log already.
            Err(error) if error.detail().is_some_and(|text| text.contains("equal or smaller")) => {
                let add = self.add_fence("*", after);
                ask(&mut self.connection, &add).await.map(|_| ())
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The connection that reads.
pub(super) struct RedisReader {
    connection: MultiplexedConnection,
    /// The replica that entries are read from as they come.
    replica: Option<MultiplexedConnection>,
    /// The newest entry of the primary at the connection's beginning, up to which the primary is read: what it does not have
    /// will not come, which a replica that is behind cannot tell.
    until: Id,
    key: Arc<str>,
    /// The bytes of an entry, about.
    entry_bytes: usize,
}

impl Reader for RedisReader {
    async fn read(&mut self, after: Id, is_entry: bool) -> Result<Page, BrokerError> {
        let connection = match &mut self.replica {
            Some(replica) if after >= self.until => replica,
            _ => &mut self.connection,
        };
        let after = after.to_string();
        let count = (READ_BYTES / self.entry_bytes).clamp(1, READ_ENTRIES);
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(count).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(&*self.key).arg(&after);
        // While the log has the position, nothing after it was trimmed.
        let mut look = cmd("XRANGE");
        look.arg(&*self.key).arg(&after).arg(&after);
        let look_again = look.clone();
        let mut both = Pipeline::with_capacity(2);
        both.add_command(look).add_command(read);
        let replies = connection.send_packed_commands(&both, 0, 2).await.map_err(|error| failed(&error))?;
        let [look, read] = <[Value; 2]>::try_from(replies).unwrap_or_default();
        let read = read.extract_error().map_err(|error| failed(&error))?;
        let is_missing = |look: &Value| is_entry && matches!(look, Value::Array(found) if found.is_empty());
        let entries = entries_of(read);
        // A replica that was behind has got the position meanwhile.
        let has_hole = is_missing(&look) && !entries.is_empty() && is_missing(&ask(connection, &look_again).await?);
        if !entries.is_empty() {
            let bytes: usize = entries.iter().map(|entry| entry.content.weight()).sum();
            self.entry_bytes = (self.entry_bytes * 3 + bytes / entries.len()) / 4 + 1;
        }
        Ok(Page { entries, has_hole })
    }
}
