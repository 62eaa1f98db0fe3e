//! Looking at what there is: channels and connections.

use core::net::IpAddr;

use arcstr::ArcStr;

use crate::logic::event::ChannelName;

/// Which connections to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Only those on this channel.
    pub channel: Option<ChannelName>,
    /// Only those of this user.
    pub user: Option<ArcStr>,
    /// Only those from this address.
    pub address: Option<IpAddr>,
    /// Those that are furthest behind first, instead of in no order.
    pub slowest_first: bool,
    /// How many at most.
    pub limit: usize,
}

/// Which channels to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelFilter {
    /// Those with the most events of late.
    Busiest {
        /// How many at most.
        limit: usize,
    },
    /// All whose name starts with something, page by page.
    Named {
        /// What.
        prefix: Box<str>,
        /// Where to go on, from the page before.
        cursor: u32,
        /// How many at most.
        limit: usize,
    },
}

/// How many connections or channels one answer shows if the question does not say, and at most.
pub const LOOK_LIMIT: usize = 50;
/// See [`LOOK_LIMIT`].
pub const LOOK_LIMIT_MAX: usize = 1000;
