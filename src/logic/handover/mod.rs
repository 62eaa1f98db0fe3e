//! The format in which a running server hands its state to its successor: `frame`s of records with numbered fields, those of
//! a shard (`clients`) and those of the hub (`feeds`), and the words in which both processes agree (`words`).
//!
//! Rules for those who change it: a field's number, a kind's number and the number of an enum's value are never used again;
//! a reader skips the fields that it does not know; a new meaning of a known field is a new feature, which a server uses only
//! if its successor has named it.

pub mod clients;
mod crc;
pub mod feeds;
mod frame;
mod secrets;
pub mod words;

pub use frame::{Kind, MESSAGE_MAX, Packer, Record, SOCKETS_MAX, Unpacker};

/// The reason why records cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A message or a record ends early, or has an unknown form.
    #[error("a message of the hand-over is cut or damaged")]
    Cut,
    /// The checksum or the counts of the last record do not fit what came before.
    #[error("messages of the hand-over are missing or damaged")]
    Sum,
    /// A record is larger than any that is sent.
    #[error("a record of the hand-over is too large")]
    TooLarge,
    /// A record's fields cannot be read.
    #[error("a record of the hand-over cannot be read: {0}")]
    Fields(#[from] prost::DecodeError),
    /// A record names something that did not come, or a value that is none.
    #[error("a record of the hand-over makes no sense: {0}")]
    Nonsense(&'static str),
}
