//! Whether the log still is what this node has read.
//!
//! A position is looked up that was the newest one at the look before: the present one would be found even if the log
//! was emptied and written again meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};

use crate::logic::id::Id;

use super::super::broker::{BrokerError, Continuity};
use super::{ask, failed, id_of, integer, member, try_ask};

/// Positions that are remembered, for finding the newest one that the log still has.
const REMEMBERED: usize = 64;

/// What `XINFO STREAM` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// The oldest entry.
    pub(super) first: Option<Id>,
    /// The newest id that was given.
    pub(super) last: Id,
    /// The entries that were ever added, since Redis 7.
    pub(super) added: Option<i64>,
    /// The entries that there are.
    length: i64,
    /// Whether there is a stream at all.
    pub(super) exists: bool,
}

/// The look at the log.
pub(super) struct Checker {
    key: Arc<str>,
    retention: Duration,
    /// Positions at the looks before, the newest last.
    verified: VecDeque<Id>,
    info: Info,
}

impl Checker {
    pub(super) fn new(key: Arc<str>, retention: Duration) -> Checker {
        Checker { key, retention, verified: VecDeque::new(), info: Info::default() }
    }

    /// Forgets the positions at the looks before.
    pub(super) fn forget(&mut self) {
        self.verified.clear();
    }

    /// The time of the newest entry, in milliseconds since 1970.
    pub(super) fn newest_ms(&self) -> u64 {
        self.info.last.ms()
    }

    /// Asks for the state of the stream at the start of a connection.
    pub(super) async fn begin(&mut self, connection: &mut MultiplexedConnection) -> Result<Info, BrokerError> {
        let info = self.look(connection).await?;
        if self.verified.is_empty() {
            self.info = info;
        }
        Ok(info)
    }

    async fn look(&self, connection: &mut MultiplexedConnection) -> Result<Info, BrokerError> {
        let reply = try_ask(connection, cmd("XINFO").arg("STREAM").arg(&*self.key)).await;
        match reply {
            Ok(reply) => Ok(Info {
                first: member(&reply, "first-entry").and_then(|entry| match entry {
                    Value::Array(parts) => parts.first().and_then(id_of),
                    _ => None,
                }),
                last: member(&reply, "last-generated-id").and_then(id_of).unwrap_or_default(),
                length: member(&reply, "length").and_then(integer).unwrap_or(0),
                added: member(&reply, "entries-added").and_then(integer),
                exists: true,
            }),
            Err(error) if error.detail().is_some_and(|text| text.contains("no such key")) => Ok(Info::default()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn has(&self, connection: &mut MultiplexedConnection, id: Id) -> Result<bool, BrokerError> {
        let id = id.to_string();
        let reply = ask(connection, cmd("XRANGE").arg(&*self.key).arg(&id).arg(&id)).await?;
        Ok(matches!(reply, Value::Array(entries) if !entries.is_empty()))
    }

    /// Looks whether the log still has what was read up to `position`.
    pub(super) async fn check(
        &mut self,
        connection: &mut MultiplexedConnection,
        position: Id,
        is_entry: bool,
    ) -> Result<Continuity, BrokerError> {
        let verified = self.verified.back().copied();
        // This is asked first: if the position has been trimmed, the oldest entry that is seen afterwards is newer. The other way round a
        // log that is trimmed between the two answers would look like one that has lost what was written.
        let has_verified = match verified {
            Some(verified) => self.has(connection, verified).await?,
            None => false,
        };
        let info = self.look(connection).await?;
        let before = std::mem::replace(&mut self.info, info);
        let Some(verified) = verified else {
            // Entries with ids that this node has passed would never be read.
            if info.exists && info.last < position {
                return Ok(Continuity::Lost(position));
            }
            // After a loss the position may be that of an entry or not.
            let is_entry = self.has(connection, position).await?;
            self.remember(position, is_entry);
            return Ok(Continuity::Whole);
        };
        let was_reset = info.added.zip(before.added).is_some_and(|(now, before)| now < before);
        let was_emptied = was_reset && info.last >= position && info.first.is_none_or(|first| first > verified);
        if !info.exists || was_emptied {
            self.verified.clear();
            let before_first = info.first.map_or(position, Id::before);
            return Ok(Continuity::Emptied(before_first.max(position)));
        }
        let result = match info.first {
            _ if has_verified && info.last >= position => Continuity::Whole,
            Some(first) if first > verified => self.trimmed(info, first, verified, position),
            // Without entries, nothing can be told from a log that was trimmed.
            None if info.last >= position => Continuity::Whole,
            _ => Continuity::Lost(self.newest_common(connection).await?),
        };
        match result {
            Continuity::Whole => self.remember(position, is_entry),
            _ => self.verified.clear(),
        }
        Ok(result)
    }

    /// The position that was looked up is older than the oldest entry.
    fn trimmed(&self, info: Info, first: Id, verified: Id, position: Id) -> Continuity {
        let age_ms = info.last.ms().saturating_sub(verified.ms());
        let is_young = age_ms < self.retention.as_millis() as u64 / 2;
        // A stream of which nothing was ever deleted is another one than that which had the position. Before Redis 7 it is
        // not known whether something was, and a young entry is taken for emptied.
        if info.added.map_or(is_young, |added| added == info.length) {
            return Continuity::Emptied(first.before().max(position));
        }
        if position >= first.before() { Continuity::Whole } else { Continuity::Trimmed(first.before()) }
    }

    fn remember(&mut self, position: Id, is_entry: bool) {
        if is_entry && self.verified.back() != Some(&position) {
            self.verified.push_back(position);
        }
        if self.verified.len() > REMEMBERED {
            self.verified.pop_front();
        }
    }

    /// The newest remembered position that the log still has; the oldest remembered one if it has none.
    async fn newest_common(&self, connection: &mut MultiplexedConnection) -> Result<Id, BrokerError> {
        for id in self.verified.iter().rev() {
            if self.has(connection, *id).await? {
                return Ok(*id);
            }
        }
        Ok(self.verified.front().copied().unwrap_or_default())
    }
}
