//! The feed's connections: one task per publisher.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use tracing::{debug, info, warn};

use crate::logic::protocol::feed::{FeedError, Line, LineSplitter, parse, write_error, write_ok_with};
use crate::sys::readiness::Readiness;
use crate::sys::socket;

use super::core::Outcome;
use super::{Hub, HubFigures, now_ms};

/// Bytes of one read: also what a publisher may publish before another one has its turn.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of answers that wait at most before they are written: a publisher that does not read them waits.
const REPLIES_MAX: usize = 256 * 1024;
/// How long shards may take to say how many connections they have ended.
const KICK_ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long to leave the queue alone when the kernel cannot give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts publishers for as long as the hub runs.
pub(super) async fn accept_loop(hub: Rc<Hub>, listener: UnixListener) -> io::Result<()> {
    let readiness = Readiness::new(listener.as_fd().try_clone_to_owned()?)?;
    loop {
        readiness.wait().await?;
        loop {
            match socket::accept(listener.as_fd()) {
                Ok(Some((fd, _))) => {
                    monoio::spawn(serve(hub.clone(), UnixStream::from(fd)));
                }
                Ok(None) => break,
                // That one has gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "a publisher cannot be accepted");
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                    break;
                }
            }
        }
    }
}

async fn serve(hub: Rc<Hub>, stream: UnixStream) {
    let figures = hub.core.borrow().figures.clone();
    HubFigures::add(&figures.publishers, 1);
    if let Err(error) = converse(&hub, stream).await {
        debug!(%error, "a publisher's connection broke");
    }
    HubFigures::subtract(&figures.publishers, 1);
}

async fn converse(hub: &Hub, stream: UnixStream) -> io::Result<()> {
    // The ring waits for the socket; it must not say that it would block.
    stream.set_nonblocking(false)?;
    let mut stream = monoio::net::UnixStream::from_std(stream)?;
    let peer = stream.peer_cred()?;
    info!(pid = peer.pid(), uid = peer.uid(), gid = peer.gid(), "publisher connected");
    let mut replies = Vec::new();
    if !hub.allowed_users.is_empty() && !hub.allowed_users.contains(&peer.uid()) {
        let message = format!("user {} may not publish here; see [feed] allow_users", peer.uid());
        write_error(&mut replies, None, &FeedError::new("forbidden", message));
        return stream.write_all(replies).await.0.map(|_| ());
    }
    let mut lines = LineSplitter::new(hub.max_line);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (read, returned) = stream.read(buffer).await;
        buffer = returned;
        let length = read?;
        // What shards have said comes before what is published now: that is what makes a client that has been
        // told it is subscribed receive whatever is published after that.
        hub.hear_shards();
        if length == 0 {
            break;
        }
        lines.push(&buffer[..length]);
        while !work_off(hub, &mut lines, &mut replies).await {
            replies = answer(hub, &mut stream, replies).await?;
        }
        replies = answer(hub, &mut stream, replies).await?;
    }
    if lines.has_rest() {
        HubFigures::add(&hub.core.borrow().figures.errors, 1);
        let error = FeedError::new("cut", "the connection ended within a line, which was not carried out");
        write_error(&mut replies, None, &error);
        stream.write_all(replies).await.0?;
    }
    Ok(())
}

/// Lets out what was published, and only then says so.
async fn answer(hub: &Hub, stream: &mut monoio::net::UnixStream, replies: Vec<u8>) -> io::Result<Vec<u8>> {
    hub.core.borrow_mut().flush();
    if replies.is_empty() {
        return Ok(replies);
    }
    let (written, mut replies) = stream.write_all(replies).await;
    written?;
    replies.clear();
    replies.shrink_to(REPLIES_MAX);
    Ok(replies)
}

/// Carries out the lines that are whole, until their answers are too many; returns whether all are done.
async fn work_off(hub: &Hub, lines: &mut LineSplitter, replies: &mut Vec<u8>) -> bool {
    while replies.len() < REPLIES_MAX {
        let Some(line) = lines.next_line() else { return true };
        if hub.core.borrow().is_congested() {
            hub.wait_for_room().await;
        }
        let (reference, result) = match line {
            Line::TooLong => {
                let message = format!("the line is longer than {} bytes and was skipped", hub.max_line);
                (None, Err(FeedError::new("too_long", message)))
            }
            Line::Whole(line) => match parse(line) {
                Err(refused) => (refused.reference, Err(refused.error)),
                Ok(request) => {
                    let reference = request.reference.clone();
                    let result = hub.core.borrow_mut().execute(request, now_ms(), replies);
                    (reference, result)
                }
            },
        };
        match result {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Kick { request, counted }) => {
                let count = wait_for_kick(hub, request).await;
                if let Some(reference) = reference {
                    write_ok_with(replies, &reference, |out| {
                        out.extend_from_slice(format!(",\"{counted}\":{count}").as_bytes())
                    });
                }
            }
            Err(error) => {
                HubFigures::add(&hub.core.borrow().figures.errors, 1);
                write_error(replies, reference.as_deref(), &error);
            }
        }
    }
    false
}

/// Waits until all shards have answered, and returns how many connections they have ended.
async fn wait_for_kick(hub: &Hub, kick: u64) -> u64 {
    hub.core.borrow_mut().flush();
    let begun = Instant::now();
    loop {
        let is_answered = hub.core.borrow().kicks.get(&kick).is_none_or(|kick| kick.missing == 0);
        if is_answered || begun.elapsed() >= KICK_ANSWER_MAX {
            return hub.core.borrow_mut().kicks.remove(&kick).map_or(0, |kick| kick.count);
        }
        let answered = hub.kick_answered.clone();
        let _ = monoio::time::timeout(KICK_ANSWER_MAX.saturating_sub(begun.elapsed()), answered.wait()).await;
    }
}
