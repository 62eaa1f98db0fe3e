//! What an operator may set: flags beat the environment, which beats the file, which beats the defaults.

mod address;
mod args;
mod load;
mod model;
mod namespace;
mod units;

pub use address::{ListenAddress, Network};
pub use args::ServeArgs;
pub use load::{ConfigError, check_exposure, check_file, default_feed_path, load};
pub use model::{
    Admin, Auth, Backplane, Config, Diagnostics, Feed, Heartbeat, Http, Limits, Log, LogFormat, LogOutput, Server,
    TokenKey, Verdict, WebSocket,
};
pub use namespace::{Namespace, NamespacePolicy, SlowPolicy};
