//! Joining a cluster's log: the thread that speaks with the broker, and the wait until the node has caught up.

use std::time::Duration;

use crossbeam_channel::Receiver;
use tracing::{error, info};

use crate::backplane::{self, BackplaneParts};
use crate::config::Backplane;
use crate::figures::Stats;
use crate::hub::order::{LogOrder, LogParts};
use crate::link::backplane::to_broker;
use crate::link::{ConnectionId, ToHub};

use super::StartError;

/// The time for the first connection to the broker, with the attempts.
const CONNECT_MAX: Duration = Duration::from_secs(25);

/// A node that has not caught up with the log yet.
pub(super) struct Joining {
    started: Receiver<Result<(), String>>,
    caught_up: Receiver<()>,
}

/// Starts the thread that speaks with the broker.
///
/// # Errors
/// If a thread or a descriptor cannot be had.
pub(super) fn join(config: &Backplane, to_hub: &ToHub, stats: &Stats) -> Result<(LogOrder, Joining), StartError> {
    let (queue, inbox) = to_broker()?;
    let (started_sender, started) = crossbeam_channel::bounded(1);
    let (caught_up_sender, caught_up) = crossbeam_channel::bounded(1);
    let start = fastrand::u32(..);
    let node = if config.node.is_empty() { format!("n{start:08x}") } else { config.node.clone() };
    let mark = format!("{node}~{start:08x}");
    info!(node, kind = ?config.kind, cluster = config.name, "joining the cluster");
    ConnectionId::set_node(node.as_str().into());
    let log = LogOrder::new(LogParts {
        queue,
        node: node.into(),
        mark: mark.as_str().into(),
        pending_max: config.pending,
        resume_wait: config.resume_wait,
        needs_confirmation: config.replicas() > 0,
        caught_up: caught_up_sender,
    });
    let parts = BackplaneParts {
        config: config.clone(),
        mark: mark.into(),
        inbox,
        to_hub: to_hub.clone(),
        state: stats.state.clone(),
        figures: stats.server.clone(),
        started: started_sender,
    };
    std::thread::Builder::new().name("backplane".into()).spawn(move || {
        if let Err(error) = backplane::run(parts) {
            error!(%error, "the thread for the broker cannot go on; the server ends");
            std::process::exit(1);
        }
    })?;
    Ok((log, Joining { started, caught_up }))
}

impl Joining {
    /// Waits until the node has read the log.
    ///
    /// # Errors
    /// If the broker cannot be reached, or refuses what the node needs.
    pub(super) fn catch_up(self) -> Result<(), StartError> {
        match self.started.recv_timeout(CONNECT_MAX) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(StartError::Backplane(why)),
            Err(_) => return Err(StartError::Backplane("the broker did not answer in time".into())),
        }
        // Reading takes as long as it takes; a thread that ends ends the wait.
        self.caught_up.recv().map_err(|_| StartError::Backplane("the hub has ended".into()))
    }
}
