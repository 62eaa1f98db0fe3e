//! Records in messages: each has its length, its kind, whether a descriptor belongs to it, and its body.
//!
//! A message holds whole records, up to [`MESSAGE_MAX`] bytes and [`SOCKETS_MAX`] descriptors; the k-th record with a
//! descriptor has the message's k-th one. A longer body comes in parts. The last record is the end, with the counts of all and a
//! checksum over all messages before its own.

use prost::Message;

use super::{FormatError, crc};

/// The most bytes of a message.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most descriptors of a message: what the kernel passes at a time.
pub const SOCKETS_MAX: usize = 253;
/// The bytes of a record beside its body.
const HEADER: usize = 6;
/// The most bytes of a part of a body.
const PART_MAX: usize = MESSAGE_MAX - HEADER;
/// The most bytes of a whole body: no record is sent that is longer.
const BODY_MAX: usize = 1 << 30;
/// The mark in a record's flags that a descriptor belongs to it.
const HAS_SOCKET: u8 = 1;

/// The kinds of records. Their numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A part of a body, whose rest follows in the next records.
    Part = 1,
    /// The end, with counts and checksum.
    End = 2,
    /// A shard's own numbers.
    Shard = 10,
    /// A listener of a shard; with a descriptor.
    Listener = 11,
    /// A protocol in a coding.
    Dialect = 12,
    /// A channel of a shard.
    Channel = 13,
    /// A lane of a shard.
    Lane = 14,
    /// Frames of a lane's log.
    Frames = 15,
    /// A connection; with a descriptor.
    Connection = 16,
    /// The hub's own numbers.
    Hub = 30,
    /// A channel of the hub.
    HubChannel = 31,
    /// Events of a channel's history.
    Events = 32,
    /// An idempotency key.
    Key = 33,
    /// A revoked token.
    Revoked = 34,
    /// A message of a client that waits for listeners.
    Account = 35,
    /// A connection of the feed; with a descriptor.
    Publisher = 36,
    /// A connection of the feed that listens.
    Ear = 37,
    /// The feed's listener; with a descriptor.
    Feed = 38,
}

impl Kind {
    const ALL: [Kind; 18] = [
        Kind::Part,
        Kind::End,
        Kind::Shard,
        Kind::Listener,
        Kind::Dialect,
        Kind::Channel,
        Kind::Lane,
        Kind::Frames,
        Kind::Connection,
        Kind::Hub,
        Kind::HubChannel,
        Kind::Events,
        Kind::Key,
        Kind::Revoked,
        Kind::Account,
        Kind::Publisher,
        Kind::Ear,
        Kind::Feed,
    ];

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The counts of all records before the end.
#[derive(Clone, PartialEq, Eq, Message)]
struct End {
    #[prost(uint64, tag = "1")]
    records: u64,
    #[prost(uint64, tag = "2")]
    sockets: u64,
    #[prost(fixed32, tag = "3")]
    sum: u32,
}

/// Puts records into messages.
#[derive(Debug, Default)]
pub struct Packer {
    message: Vec<u8>,
    sockets: usize,
    records: u64,
    all_sockets: u64,
    sum: u32,
}

impl Packer {
    /// Adds a record. `flush` is called with each message that is full before it, and must have sent the message and its
    /// descriptors when it returns; the record's own descriptor belongs to the message that comes next.
    ///
    /// # Errors
    /// What `flush` returns.
    pub fn add<E>(
        &mut self,
        kind: Kind,
        body: &[u8],
        has_socket: bool,
        mut flush: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = body;
        while rest.len() > PART_MAX {
            self.flush(&mut flush)?;
            let (part, after) = rest.split_at(PART_MAX);
            self.put(Kind::Part, part, false);
            rest = after;
        }
        if self.message.len() + HEADER + rest.len() > MESSAGE_MAX || has_socket && self.sockets == SOCKETS_MAX {
            self.flush(&mut flush)?;
        }
        self.put(kind, rest, has_socket);
        Ok(())
    }

    /// Adds the end, and hands out the last messages.
    ///
    /// # Errors
    /// What `flush` returns.
    pub fn end<E>(&mut self, mut flush: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.flush(&mut flush)?;
        let end = End { records: self.records, sockets: self.all_sockets, sum: self.sum };
        self.put(Kind::End, &end.encode_to_vec(), false);
        self.flush(&mut flush)
    }

    /// Hands out what is there of a message.
    fn flush<E>(&mut self, flush: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.message.is_empty() {
            return Ok(());
        }
        self.sum = crc::add(self.sum, &self.message);
        flush(&self.message)?;
        self.sockets = 0;
        // The bytes may be secrets of TLS connections, so that none of them stays here.
        self.message.fill(0);
        self.message.clear();
        Ok(())
    }

    fn put(&mut self, kind: Kind, body: &[u8], has_socket: bool) {
        self.message.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.message.extend_from_slice(&[kind as u8, if has_socket { HAS_SOCKET } else { 0 }]);
        self.message.extend_from_slice(body);
        self.sockets += usize::from(has_socket);
        self.all_sockets += u64::from(has_socket);
        self.records += 1;
    }
}

/// A record of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's kind.
    pub kind: Kind,
    /// The body's bytes, together.
    pub body: &'a [u8],
    /// Whether the message's next descriptor belongs to it.
    pub has_socket: bool,
}

/// Takes records out of messages.
#[derive(Debug, Default)]
pub struct Unpacker {
    /// The parts of a body so far.
    body: Vec<u8>,
    records: u64,
    sockets: u64,
    sum: u32,
    is_over: bool,
}

impl Unpacker {
    /// Whether the end has come, and everything before it.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes a message, and calls `take` with each of its records whose kind is known. A record of an unknown kind is skipped,
    /// which is told by `None`, with whether it has a descriptor.
    ///
    /// # Errors
    /// If the message is damaged, if `take` fails, or if the end does not fit what came before.
    pub fn take<E: From<FormatError>>(
        &mut self,
        message: &[u8],
        mut take: impl FnMut(Option<Record<'_>>, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = message;
        while !rest.is_empty() {
            let (header, after) = rest.split_at_checked(HEADER).ok_or(FormatError::Cut)?;
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let (part, after) = after.split_at_checked(length).ok_or(FormatError::Cut)?;
            rest = after;
            let has_socket = header[5] == HAS_SOCKET;
            match Kind::from_number(header[4]) {
                _ if self.is_over || header[5] > HAS_SOCKET => return Err(FormatError::Cut.into()),
                Some(Kind::End | Kind::Part) if has_socket => return Err(FormatError::Cut.into()),
                Some(Kind::End) => self.check_end(part)?,
                Some(Kind::Part) if self.body.len() + part.len() > BODY_MAX => return Err(FormatError::TooLarge.into()),
                Some(Kind::Part) => self.body.extend_from_slice(part),
                Some(kind) if self.body.is_empty() => take(Some(Record { kind, body: part, has_socket }), has_socket)?,
                Some(kind) => {
                    self.body.extend_from_slice(part);
                    let body = std::mem::take(&mut self.body);
                    take(Some(Record { kind, body: &body, has_socket }), has_socket)?;
                }
                None => {
                    self.body.clear();
                    take(None, has_socket)?;
                }
            }
            self.records += 1;
            self.sockets += u64::from(has_socket);
        }
        self.sum = crc::add(self.sum, message);
        Ok(())
    }

    fn check_end(&mut self, body: &[u8]) -> Result<(), FormatError> {
        let end = End::decode(body)?;
        let found = End { records: self.records, sockets: self.sockets, sum: self.sum };
        if end != found || !self.body.is_empty() {
            return Err(FormatError::Sum);
        }
        self.is_over = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The messages of some records, each with the number of its descriptors.
    fn packed(records: &[(Kind, Vec<u8>, bool)]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut packer = Packer::default();
        let mut keep = |message: &[u8]| -> Result<(), FormatError> {
            messages.push(message.to_vec());
            Ok(())
        };
        for (kind, body, has_socket) in records {
            packer.add(*kind, body, *has_socket, &mut keep).unwrap();
        }
        packer.end(&mut keep).unwrap();
        messages
    }

    fn unpacked(messages: &[Vec<u8>]) -> Result<Vec<(Kind, Vec<u8>, bool)>, FormatError> {
        let mut unpacker = Unpacker::default();
        let mut records = Vec::new();
        for message in messages {
            let mut sockets = 0;
            unpacker.take(message, |record, has_socket| {
                sockets += usize::from(has_socket);
                if let Some(Record { kind, body, has_socket }) = record {
                    records.push((kind, body.to_vec(), has_socket));
                }
                Ok::<(), FormatError>(())
            })?;
            assert!(sockets <= SOCKETS_MAX);
        }
        if unpacker.is_over() { Ok(records) } else { Err(FormatError::Cut) }
    }

    #[test]
    fn a_long_body_comes_in_parts_and_messages_have_bounds() {
        let records = vec![
            (Kind::Connection, vec![1; 3 * MESSAGE_MAX], true),
            (Kind::Lane, vec![2; PART_MAX], false),
            (Kind::Lane, vec![], false),
        ];
        let records = [records, vec![(Kind::Connection, vec![3; 5], true); 2 * SOCKETS_MAX + 1]].concat();
        let messages = packed(&records);
        assert!(messages.iter().all(|message| message.len() <= MESSAGE_MAX), "{}", messages.len());
        assert_eq!(unpacked(&messages).unwrap(), records);
    }

    #[test]
    fn the_numbers_of_kinds_are_never_used_again() {
        let numbers = Kind::ALL.map(|kind| kind as u8);
        assert_eq!(numbers, [1, 2, 10, 11, 12, 13, 14, 15, 16, 30, 31, 32, 33, 34, 35, 36, 37, 38]);
        assert!(numbers.iter().all(|number| Kind::from_number(*number).is_some_and(|kind| kind as u8 == *number)));
    }

    #[test]
    fn an_unknown_kind_is_skipped_with_its_descriptor() {
        let mut messages = packed(&[(Kind::Lane, vec![1], true), (Kind::Lane, vec![2], true)]);
        messages[0][4] = 250;
        let mut unpacker = Unpacker::default();
        let mut found = Vec::new();
        let taken = unpacker.take(&messages[0], |record, has_socket| {
            found.push((record.map(|record| record.body.to_vec()), has_socket));
            Ok::<(), FormatError>(())
        });
        assert_eq!((taken, found), (Ok(()), vec![(None, true), (Some(vec![2]), true)]));
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            records in prop::collection::vec((0usize..8, prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..600),
        ) {
            let kinds = [Kind::Shard, Kind::Listener, Kind::Channel, Kind::Lane, Kind::Frames, Kind::Connection, Kind::Hub, Kind::Key];
            let records: Vec<_> = records.into_iter().map(|(kind, body, has_socket)| (kinds[kind], body, has_socket)).collect();
            prop_assert_eq!(unpacked(&packed(&records)).unwrap(), records);
        }

        #[test]
        fn damage_is_noticed(place in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let records = [(Kind::Lane, vec![9; 40], true), (Kind::Frames, vec![7; 70_000], false), (Kind::Key, vec![], false)];
            let messages = packed(&records);
            let mut damaged = messages.clone();
            let number = cut.index(messages.len());
            let byte = place.index(messages[number].len());
            damaged[number][byte] ^= 1 << bit;
            prop_assert!(unpacked(&damaged).is_err());
            let mut missing = messages.clone();
            missing.remove(number);
            prop_assert!(unpacked(&missing).is_err());
            let mut short = messages;
            short[number].truncate(byte);
            prop_assert!(unpacked(&short).is_err());
        }
    }
}
