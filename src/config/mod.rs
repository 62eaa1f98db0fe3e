//! What an operator may set: flags beat the environment, which beats the file, which beats the defaults.
//!
//! `table` has one entry per key, in the words that `section` defines; everything else here works for all keys alike.

mod address;
mod args;
mod check;
mod docs;
mod load;
mod namespace;
mod origins;
mod section;
mod table;
mod units;
mod values;

pub use address::{AdminAddress, ListenAddress, Network};
pub use args::{KeyArgs, ServeArgs};
pub use check::check_exposure;
pub use check::warnings;
pub use docs::document;
pub use load::{ConfigError, check_file, default_feed_path, load};
pub use table::{
    Admin, Auth, Backplane, Certificate, Config, Diagnostics, Feed, Heartbeat, Http, Limits, Log, Namespace,
    NamespacePolicy, Server, Tls, TokenKey, WebSocket,
};
pub use values::{
    BackplaneKind, ClientAuth, LogFormat, LogOutput, Mode, ReadFrom, Replicas, SlowPolicy, Storage, TlsVersion,
    Verdict, memory_budget,
};
