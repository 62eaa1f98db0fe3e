//! The thread that speaks with a broker, so that several nodes read one log.
//!
//! The `driver` is the same for every broker: it appends what the hub hands over, reads the log on, and finds out what
//! became of entries whose outcome is not known. A `broker` is one kind of server behind it: `redis`, `nats`, or in tests a
//! log in memory (`fake`). Tokio runs here, on a thread of its own, and nothing else does.

// Without a broker, only its errors are left.
#[cfg_attr(not(any(feature = "nats", feature = "redis", test)), allow(dead_code))]
mod broker;
#[cfg(any(feature = "nats", feature = "redis", test))]
mod driver;
#[cfg(test)]
mod fake;
#[cfg(feature = "nats")]
mod nats;
mod probe;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "nats", feature = "redis", test))]
mod state;

use std::io;
use std::sync::Arc;

use arcstr::ArcStr;

use crate::config::Backplane;
#[cfg(any(feature = "nats", feature = "redis"))]
use crate::config::BackplaneKind;
use crate::figures::{ServerFigures, ServerState};
use crate::link::ToHub;
use crate::link::backplane::BrokerInbox;

pub use probe::{Grade, Probed, probe};

/// Everything that the thread is made of.
pub struct BackplaneParts {
    /// The configuration.
    pub config: Backplane,
    /// The origin of this node's entries: its name with a mark of this start.
    pub mark: ArcStr,
    /// The end of the queue from the hub.
    pub inbox: BrokerInbox,
    /// The queue to the hub.
    pub to_hub: ToHub,
    /// The server's state, which tells load balancers whether to send clients.
    pub state: Arc<ServerState>,
    /// The figures to count in.
    pub figures: Arc<ServerFigures>,
    /// The channel for the outcome of the first connection.
    pub started: crossbeam_channel::Sender<Result<(), String>>,
}

/// Runs the thread until the hub has ended.
///
/// # Errors
/// If the runtime cannot be made.
pub fn run(parts: BackplaneParts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kind = parts.config.kind;
    runtime.block_on(async move {
        match kind {
            #[cfg(feature = "redis")]
            BackplaneKind::Redis => match redis::Redis::new(&parts.config, &parts.mark) {
                Ok(broker) => driver::run(broker, parts).await,
                Err(error) => {
                    let _ = parts.started.send(Err(error.to_string()));
                }
            },
            #[cfg(feature = "nats")]
            BackplaneKind::Nats => match nats::Nats::new(&parts.config, &parts.mark) {
                Ok(broker) => driver::run(broker, parts).await,
                Err(error) => {
                    let _ = parts.started.send(Err(error.to_string()));
                }
            },
            kind => {
                let sentence = format!("this build has no backplane of the kind {kind:?}");
                let _ = parts.started.send(Err(sentence));
            }
        }
    });
    Ok(())
}
