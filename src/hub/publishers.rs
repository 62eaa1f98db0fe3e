//! The feed's connections: one task per publisher.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::unix::{UnixOwnedReadHalf, UnixOwnedWriteHalf};
use tracing::{debug, info, warn};

use crate::link::Listening;
use crate::logic::event::ChannelName;
use crate::logic::protocol::feed::{FeedError, Line, LineSplitter, parse, write_error, write_ok_with};
use crate::sys::clock::unix_ms;
use crate::sys::readiness::Readiness;
use crate::sys::socket;

use super::core::{Core, Outcome};
use super::listeners::Outbox;
use super::{Hub, HubFigures};

/// Bytes of one read: also what a publisher may publish before another one has its turn.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of answers that wait at most before they are written: a publisher that does not read them waits.
const REPLIES_MAX: usize = 256 * 1024;
/// How long shards may take to say what they have ended, or what they see.
const SHARDS_ANSWER_MAX: Duration = Duration::from_secs(5);
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

/// Serves a connection of the server's own.
pub(super) async fn serve_own(hub: Rc<Hub>, stream: UnixStream) {
    if let Err(error) = converse(&hub, stream, true).await {
        debug!(%error, "a connection of the server's own broke");
    }
}

async fn serve(hub: Rc<Hub>, stream: UnixStream) {
    let figures = hub.core.borrow().figures.clone();
    HubFigures::add(&figures.publishers, 1);
    if let Err(error) = converse(&hub, stream, false).await {
        debug!(%error, "a publisher's connection broke");
    }
    HubFigures::subtract(&figures.publishers, 1);
}

/// One feed connection.
struct Conversation {
    /// Whether it may only look.
    is_reader: bool,
    /// Where answers go, until it listens.
    writer: Option<UnixOwnedWriteHalf>,
    /// Where they go once it listens.
    outbox: Option<Rc<Outbox>>,
}

impl Conversation {
    /// Lets out what was published, and only then says so.
    async fn answer(&mut self, hub: &Hub, replies: Vec<u8>) -> io::Result<Vec<u8>> {
        hub.core.borrow_mut().flush();
        if replies.is_empty() {
            return Ok(replies);
        }
        let mut replies = match (&mut self.writer, &self.outbox) {
            (Some(writer), _) => {
                let (written, replies) = writer.write_all(replies).await;
                written?;
                replies
            }
            (None, outbox) => {
                let Some(outbox) = outbox else { return Ok(replies) };
                while outbox.len() > REPLIES_MAX && !outbox.is_closed() {
                    outbox.written.wait().await;
                }
                if outbox.is_closed() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                outbox.push(&replies);
                replies
            }
        };
        replies.clear();
        replies.shrink_to(REPLIES_MAX);
        Ok(replies)
    }

    /// Where lines go that answer no command.
    fn outbox(&mut self, hub: &Rc<Hub>) -> Rc<Outbox> {
        let outbox = self.outbox.get_or_insert_with(Rc::default).clone();
        if let Some(writer) = self.writer.take() {
            monoio::spawn(write_out(hub.clone(), outbox.clone(), writer));
        }
        outbox
    }

    /// Gives the connection a copy of a channel's events.
    fn trace(&mut self, hub: &Rc<Hub>, channel: ChannelName) -> Result<(), FeedError> {
        let outbox = self.outbox(hub);
        // Who has stopped reading would be owed what nobody writes out.
        if outbox.is_closed() {
            return Ok(());
        }
        hub.core.borrow_mut().traces.add(channel, &outbox)
    }

    /// Makes the connection a listener, or changes what it listens to.
    fn listen(&mut self, hub: &Rc<Hub>, what: Listening) {
        let outbox = self.outbox(hub);
        if outbox.is_closed() {
            return;
        }
        let mut core = hub.core.borrow_mut();
        if core.listeners.set(&outbox, what) {
            core.tell_what_is_heard();
        }
    }

    /// The connection has ended.
    fn end(&mut self, hub: &Hub) {
        if let Some(outbox) = self.outbox.take() {
            end_listening(hub, &outbox);
        }
    }
}

/// A listener has gone: what waits for it is owed to nobody.
fn end_listening(hub: &Hub, outbox: &Rc<Outbox>) {
    let mut core = hub.core.borrow_mut();
    if core.listeners.remove(outbox) {
        core.tell_what_is_heard();
    }
    core.traces.remove(outbox);
    outbox.close();
    core.flush();
}

/// Writes a listener's lines for as long as it is there.
async fn write_out(hub: Rc<Hub>, outbox: Rc<Outbox>, mut writer: UnixOwnedWriteHalf) {
    while !outbox.is_closed() {
        if outbox.len() == 0 {
            outbox.added.wait().await;
            continue;
        }
        let mut waiting = outbox.take();
        let (written, _) = writer.write_all(std::mem::take(&mut waiting.bytes)).await;
        // Only now is what clients have said off their shards' accounts.
        drop(waiting);
        if written.is_err() {
            end_listening(&hub, &outbox);
        }
        hub.core.borrow_mut().flush();
        outbox.written.notify();
    }
}

async fn converse(hub: &Rc<Hub>, stream: UnixStream, is_own: bool) -> io::Result<()> {
    // The ring waits for the socket; it must not say that it would block.
    stream.set_nonblocking(false)?;
    let mut stream = monoio::net::UnixStream::from_std(stream)?;
    let peer = stream.peer_cred()?;
    if !is_own {
        info!(pid = peer.pid(), uid = peer.uid(), gid = peer.gid(), "publisher connected");
    }
    let is_reader = !is_own && hub.readers.contains(&peer.uid());
    let is_allowed = is_own || hub.allowed_users.is_empty() || hub.allowed_users.contains(&peer.uid());
    let may_connect = is_reader || is_allowed;
    if !may_connect {
        let mut replies = Vec::new();
        let message = format!("user {} may not publish here; see [feed] allow_users", peer.uid());
        write_error(&mut replies, None, &FeedError::new("forbidden", message));
        return stream.write_all(replies).await.0.map(|_| ());
    }
    let (mut reader, writer) = stream.into_split();
    let mut conversation = Conversation { is_reader, writer: Some(writer), outbox: None };
    let result = hear(hub, &mut reader, &mut conversation).await;
    conversation.end(hub);
    result
}

async fn hear(hub: &Rc<Hub>, reader: &mut UnixOwnedReadHalf, conversation: &mut Conversation) -> io::Result<()> {
    let mut replies = Vec::new();
    let mut lines = LineSplitter::new(hub.max_line);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (read, returned) = reader.read(buffer).await;
        buffer = returned;
        let length = read?;
        // What shards have said comes before what is published now: that is what makes a client that has been
        // told it is subscribed receive whatever is published after that.
        hub.hear_shards();
        if length == 0 {
            break;
        }
        lines.push(&buffer[..length]);
        while !work_off(hub, &mut lines, &mut replies, conversation).await {
            replies = conversation.answer(hub, replies).await?;
        }
        replies = conversation.answer(hub, replies).await?;
    }
    if lines.has_rest() {
        let error = FeedError::new("cut", "the connection ended within a line, which was not carried out");
        refuse(hub, None, &error, &mut replies);
        conversation.answer(hub, replies).await?;
    }
    Ok(())
}

/// Carries out the lines that are whole, until their answers are too many; returns whether all are done.
async fn work_off(
    hub: &Rc<Hub>,
    lines: &mut LineSplitter,
    replies: &mut Vec<u8>,
    conversation: &mut Conversation,
) -> bool {
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
                Ok(request) if conversation.is_reader && !request.command.is_read_only() => {
                    let message = "this user may only look: stats, history, presence, channels, connections, trace, and listening to connections";
                    (request.reference, Err(FeedError::new("forbidden", message)))
                }
                Ok(request) => {
                    let reference = request.reference.clone();
                    let result = hub.core.borrow_mut().execute(request, unix_ms(), replies);
                    (reference, result)
                }
            },
        };
        match result {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Listen(what)) => {
                conversation.listen(hub, what);
                if let Some(reference) = reference {
                    write_ok_with(replies, &reference, |_| ());
                }
            }
            Ok(Outcome::Trace(channel)) => match conversation.trace(hub, channel) {
                Ok(()) => {
                    if let Some(reference) = reference {
                        write_ok_with(replies, &reference, |_| ());
                    }
                }
                Err(error) => refuse(hub, reference.as_deref(), &error, replies),
            },
            Ok(Outcome::Look(request)) => {
                let is_answered = |core: &Core| core.looks.get(&request).is_none_or(|look| look.missing == 0);
                wait_for_shards(hub, is_answered).await;
                hub.core.borrow_mut().write_look(request, reference.as_deref().unwrap_or("null"), replies);
            }
            Ok(Outcome::Kick { request, counted }) => {
                let count = wait_for_kick(hub, request).await;
                if let Some(reference) = reference {
                    write_ok_with(replies, &reference, |out| {
                        out.extend_from_slice(format!(",\"{counted}\":{count}").as_bytes())
                    });
                }
            }
            Err(error) => refuse(hub, reference.as_deref(), &error, replies),
        }
    }
    false
}

fn refuse(hub: &Hub, reference: Option<&str>, error: &FeedError, replies: &mut Vec<u8>) {
    HubFigures::add(&hub.core.borrow().figures.feed_errors, 1);
    write_error(replies, reference, error);
}

/// Waits until all shards have answered, and returns how many connections they have ended.
async fn wait_for_kick(hub: &Hub, kick: u64) -> u64 {
    wait_for_shards(hub, |core| core.kicks.get(&kick).is_none_or(|kick| kick.missing == 0)).await;
    hub.core.borrow_mut().kicks.remove(&kick).map_or(0, |kick| kick.count)
}

/// Waits until all shards have answered, or for as long as they may take.
async fn wait_for_shards(hub: &Hub, is_answered: impl Fn(&Core) -> bool) {
    hub.core.borrow_mut().flush();
    let begun = Instant::now();
    while !is_answered(&hub.core.borrow()) && begun.elapsed() < SHARDS_ANSWER_MAX {
        let answered = hub.answered.clone();
        let _ = monoio::time::timeout(SHARDS_ANSWER_MAX.saturating_sub(begun.elapsed()), answered.wait()).await;
    }
}
