//! Questions about channels and connections, and the answer about channels.

use core::net::IpAddr;

use arcstr::ArcStr;
use serde::{Serialize, Serializer};

use crate::logic::event::ChannelName;

/// The filter of the connections that an answer shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Only connections on this channel.
    pub channel: Option<ChannelName>,
    /// Only connections of this user.
    pub user: Option<ArcStr>,
    /// Only connections from this address.
    pub address: Option<IpAddr>,
    /// Whether the connections with the largest backlog come first, instead of in no order.
    pub slowest_first: bool,
    /// The most connections that are shown.
    pub limit: usize,
}

/// The filter of the channels that an answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelFilter {
    /// The channels with the most events of late.
    Busiest {
        /// The most channels that are shown.
        limit: usize,
    },
    /// All channels whose name starts with a prefix, page by page.
    Named {
        /// The beginning of the channels' names.
        prefix: Box<str>,
        /// The beginning of the page: the cursor of the page before, or 0.
        cursor: u32,
        /// The most channels on a page.
        limit: usize,
    },
}

/// The most connections or channels that one answer shows if the question names no limit.
pub const LOOK_LIMIT: usize = 50;
/// The highest limit that a question can name.
pub const LOOK_LIMIT_MAX: usize = 1000;

/// The members of the answer to `channels`.
#[derive(Debug, PartialEq, Serialize)]
pub struct ChannelsAnswer {
    /// The channels.
    pub channels: Vec<ChannelRow>,
    /// The beginning of the next page, if there is one.
    pub cursor: Option<u32>,
}

/// One channel as an answer shows it.
#[derive(Debug, PartialEq, Serialize)]
pub struct ChannelRow {
    /// The channel's name.
    #[serde(serialize_with = "text")]
    pub channel: ChannelName,
    /// Whether the channel was ended and nothing was published on it since.
    pub ended: bool,
    /// The channel's recent events per second, to the hundredth.
    pub events_per_second: f64,
    /// The bytes in the channel's history, by the events' weight.
    pub history_bytes: usize,
    /// The number of events in the channel's history.
    pub history_events: usize,
    /// The number of subscribers on all shards that have answered; `None` as long as none has.
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
