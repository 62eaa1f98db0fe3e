//! Questions about what there is, channels and connections, and the answer about channels.

use core::net::IpAddr;

use arcstr::ArcStr;
use serde::{Serialize, Serializer};

use crate::logic::event::ChannelName;

/// Which connections an answer shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Only connections on this channel.
    pub channel: Option<ChannelName>,
    /// Only connections of this user.
    pub user: Option<ArcStr>,
    /// Only connections from this address.
    pub address: Option<IpAddr>,
    /// The connections that are furthest behind first, instead of in no order.
    pub slowest_first: bool,
    /// The most connections that are shown.
    pub limit: usize,
}

/// Which channels an answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelFilter {
    /// The channels with the most events of late.
    Busiest {
        /// The most channels that are shown.
        limit: usize,
    },
    /// All channels whose name starts with a prefix, page by page.
    Named {
        /// The prefix.
        prefix: Box<str>,
        /// Where the page begins: the cursor of the page before, or 0.
        cursor: u32,
        /// The most channels on a page.
        limit: usize,
    },
}

/// How many connections or channels one answer shows where the question names no limit.
pub const LOOK_LIMIT: usize = 50;
/// The highest limit that a question can name.
pub const LOOK_LIMIT_MAX: usize = 1000;

/// The members of the answer to `channels`.
#[derive(Debug, PartialEq, Serialize)]
pub struct ChannelsAnswer {
    /// The channels.
    pub channels: Vec<ChannelRow>,
    /// Where the next page begins, if there is one.
    pub cursor: Option<u32>,
}

/// One channel, as it is shown.
#[derive(Debug, PartialEq, Serialize)]
pub struct ChannelRow {
    /// The channel's name.
    #[serde(serialize_with = "text")]
    pub channel: ChannelName,
    /// Whether the channel was ended and nothing was published on it since.
    pub ended: bool,
    /// Events per second of late, to the hundredth.
    pub events_per_second: f64,
    /// Bytes in its history, by the events' weight.
    pub history_bytes: usize,
    /// Events in its history.
    pub history_events: usize,
    /// Subscribers on all shards that have answered; `None` as long as none has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<u64>,
}

fn text<S: Serializer>(name: &ChannelName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_members_in_alphabetical_order() {
        let row = |channel: &str, subscribers| ChannelRow {
            channel: channel.into(),
            ended: false,
            events_per_second: 0.25,
            history_bytes: 10,
            history_events: 1,
            subscribers,
        };
        let answer = ChannelsAnswer { channels: vec![row("a", Some(3)), row("b", None)], cursor: None };
        let expected = concat!(
            r#"{"channels":[{"channel":"a","ended":false,"events_per_second":0.25,"history_bytes":10,"history_events":1,"#,
            r#""subscribers":3},{"channel":"b","ended":false,"events_per_second":0.25,"history_bytes":10,"#,
            r#""history_events":1}],"cursor":null}"#
        );
        assert_eq!(serde_json::to_string(&answer).unwrap(), expected);
    }
}
