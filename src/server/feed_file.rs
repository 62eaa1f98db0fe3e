//! The file of the feed's socket: a cleaner of /run, or another process, may take it away while the server runs. Then no
//! publisher can connect any more, so the server binds the socket again.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tracing::{error, warn};

use crate::config::Feed;
use crate::figures::ServerState;
use crate::link::{HubMessage, ToHub};
use crate::sys::socket::{self, SocketFile, UnixListenError};

/// The time between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The looks between two log lines while the socket cannot be bound.
const LOOKS_PER_LINE: u32 = 120;

/// The feed's file, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct FeedFile(Arc<Mutex<SocketFile>>);

/// Binds the feed's socket.
///
/// # Errors
/// If another process listens there, or the socket cannot be bound.
pub(super) fn bind(feed: &Feed) -> Result<(std::os::unix::net::UnixListener, SocketFile), UnixListenError> {
    let group = Some(feed.group.as_str()).filter(|group| !group.is_empty());
    let listener = socket::listen_unix(&feed.path, feed.mode.0, group)?;
    let failed = |source| UnixListenError::Io { path: feed.path.display().to_string(), source };
    Ok((listener, SocketFile::at(&feed.path).map_err(failed)?))
}

/// Watches the file from now on, in a thread of its own.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn watch(feed: Feed, file: SocketFile, state: Arc<ServerState>, to_hub: ToHub) -> std::io::Result<FeedFile> {
    let file = FeedFile(Arc::new(Mutex::new(file)));
    let watched = Arc::downgrade(&file.0);
    std::thread::Builder::new().name("feed-file".into()).spawn(move || {
        let mut failed = 0;
        loop {
            std::thread::sleep(LOOK_EVERY);
            if !look(&feed, &watched, &state, &to_hub, &mut failed) {
                return;
            }
        }
    })?;
    Ok(file)
}

/// Looks at the file once, and binds the socket again if it is gone. `failed` counts the looks for which that has failed.
/// Returns whether the server still runs.
fn look(feed: &Feed, watched: &Weak<Mutex<SocketFile>>, state: &ServerState, to_hub: &ToHub, failed: &mut u32) -> bool {
    let Some(file) = watched.upgrade() else { return false };
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    if file.is_there() {
        return true;
    }
    let path = feed.path.display();
    match bind(feed) {
        Ok((listener, bound)) => {
            warn!(%path, "the feed's socket file was gone, and is bound again; publishers that were connected stay");
            *file = bound;
            to_hub.send(HubMessage::Feed(listener));
            to_hub.ring();
            state.set_feed_lost(false);
            *failed = 0;
        }
        Err(error) => {
            state.set_feed_lost(true);
            if failed.is_multiple_of(LOOKS_PER_LINE) {
                error!(%path, %error, "the feed's socket file is gone and cannot be bound again: publishers cannot connect");
            }
            *failed += 1;
        }
    }
    true
}
