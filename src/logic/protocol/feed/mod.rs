//! The feed, by which publishers and backends speak with the hub: one JSON object per line, in both directions.

mod command;
mod lines;
mod listen;
mod look;
mod raw;
mod reply;

pub use command::{
    Command, FeedError, KickTarget, Publish, Refused, Request, SendTarget, check_event_name, draft_of, draft_of_json,
    parse,
};
pub use lines::{Line, LineSplitter};
pub use listen::{Answer, Listening, Notice, write_said};
pub use look::{ChannelFilter, ChannelRow, ChannelsAnswer, ConnectionFilter, LOOK_LIMIT, LOOK_LIMIT_MAX};
pub use reply::{
    Ended, PresenceAnswer, PresentUser, write_error, write_ids, write_members, write_ok, write_ready_made,
};
