//! The records of TLS connections' secrets, which are neither shown nor left in memory.

use prost::Message;
use zeroize::Zeroize;

/// The secrets of one direction of a TLS connection.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct Direction {
    /// The traffic secret of TLS 1.3.
    #[prost(bytes = "vec", tag = "1")]
    pub secret: Vec<u8>,
    /// The key.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// The initialisation vector.
    #[prost(bytes = "vec", tag = "3")]
    pub iv: Vec<u8>,
    /// The number of the next record.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
}

/// Secrets are not shown.
impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Direction")
    }
}

/// What is kept of TLS for a connection.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Tls {
    /// The suite's number: in the order of the program's list, from 1 on.
    #[prost(uint32, tag = "1")]
    pub suite: u32,
    /// The secrets for sending.
    #[prost(message, optional, tag = "2")]
    pub send: Option<Direction>,
    /// The secrets for receiving.
    #[prost(message, optional, tag = "3")]
    pub receive: Option<Direction>,
    /// Whether the peer has sent `close_notify`.
    #[prost(bool, tag = "4")]
    pub is_closed: bool,
    /// Whether the peer is owed new keys.
    #[prost(bool, tag = "5")]
    pub owes_update: bool,
    /// Records without application data in a row, key updates without data between them, and alerts that were let pass.
    #[prost(uint32, repeated, tag = "6")]
    pub counts: Vec<u32>,
    /// Whether `close_notify` is sent, or waits in `rest`.
    #[prost(bool, tag = "7")]
    pub has_ended: bool,
    /// The sealed bytes that come before everything else.
    #[prost(bytes = "vec", tag = "8")]
    pub rest: Vec<u8>,
    /// The beginning of a record of the client.
    #[prost(bytes = "vec", tag = "9")]
    pub partial: Vec<u8>,
    /// The time at which `partial` has begun.
    #[prost(uint32, tag = "10")]
    pub since: u32,
}

impl Tls {
    /// Overwrites the secrets.
    pub fn wipe(mut self) {
        for direction in self.send.iter_mut().chain(&mut self.receive) {
            [&mut direction.secret, &mut direction.key, &mut direction.iv]
                .into_iter()
                .for_each(|bytes| bytes.zeroize());
        }
    }
}
