//! The feed: one JSON object per line, both ways.

mod command;
mod lines;
mod listen;
mod look;
mod reply;

pub use command::{Command, FeedError, KickTarget, Publish, Refused, Request, SendTarget, draft_of, parse};
pub use lines::{Line, LineSplitter};
pub use listen::{Answer, Listening, write_came, write_gone, write_lost, write_question, write_said};
pub use look::{ChannelFilter, ConnectionFilter, LOOK_LIMIT, LOOK_LIMIT_MAX};
pub use reply::{write_error, write_ids, write_ok, write_ok_with};
