//! Sessions: what is spoken on a connection once its request is answered, in both directions.
//!
//! A [`Protocol`] is one file. [`TABLE`] lists the protocols and the paths that lead to them. The shard holds a
//! [`LaneKey`] per connection and per lane, and no protocol by name.

mod beat;
mod coding;
mod echo;
mod intent;
mod notice;
#[cfg(test)]
mod parrot;
mod poll;
mod protocol;
mod sse;
mod table;
#[cfg(test)]
mod tests;
mod websocket;
mod ws_json;
mod ws_raw;

pub use crate::logic::reason::Violation;
pub use beat::Beat;
pub use coding::{Coding, LaneKey};
pub use intent::{ChannelArg, Intent};
pub use notice::{Farewell, Notice, Outcome, Payload, Welcome};
pub use protocol::{Carrier, Parsed, Protocol, Said};
pub use table::{Choice, Route, Site, Spoken, TABLE, route};
