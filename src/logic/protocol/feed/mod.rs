//! The feed: one JSON object per line, both ways.

mod command;
mod lines;
mod reply;

pub use command::{Command, FeedError, KickTarget, Publish, Refused, Request, parse};
pub use lines::{Line, LineSplitter};
pub use reply::{write_error, write_ids, write_ok, write_ok_with};
