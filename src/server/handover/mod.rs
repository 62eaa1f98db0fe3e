//! Handing everything over to a successor on the same host, without a client noticing: the running server's side (`offering`),
//! the successor's (`taking`), and the socket at which they meet.
//!
//! Only a process of the same user may take over, by the kernel's word (SO_PEERCRED), and one at a time.

pub mod launching;
mod offering;
mod parking;
mod taking;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{AdminAddress, Config};
use crate::logic::handover::MESSAGE_MAX;
use crate::logic::handover::words::{FEATURES, FORMAT, Hello, Offer, Wish, Word};
use crate::sys::rights;

pub(super) use offering::{Offering, offer};
pub(super) use parking::Parked;
pub(super) use taking::Taking;

/// The time that a word of the other process may take while nobody is kept waiting.
const WORD_MAX: Duration = Duration::from_secs(10);

/// The time that a server may take to park everything.
const PARK_MAX: Duration = Duration::from_secs(15);

/// The path of the socket at which a server and its successor meet: beside the feed's.
pub fn meeting_path(feed: &Path) -> PathBuf {
    let mut path = OsString::from(feed);
    path.push(".handover");
    path.into()
}

/// Asks the server at a feed what it would hand over. `Err` has the sentence why there is no answer, or why it would not.
///
/// # Errors
/// The sentence for people.
pub fn probe(feed: &Path) -> Result<Offer, String> {
    let path = meeting_path(feed);
    let connection = rights::connect(&path).map_err(|error| no_server(&path, &error))?;
    let said = rights::set_patience(connection.as_fd(), WORD_MAX)
        .and_then(|()| say(connection.as_fd(), &Word::Hello(hello(Wish::Probe, 0, Vec::new(), String::new())), &[]));
    said.map_err(|error| format!("the running server does not answer: {error}"))?;
    match hear(connection.as_fd()) {
        Ok((Word::Offer(offer), _)) => Ok(*offer),
        Ok((Word::Refused { reason }, _)) => Err(reason),
        Ok(_) => Err("the running server's answer makes no sense".into()),
        Err(error) => Err(format!("the running server does not answer: {error}")),
    }
}

/// Has the server at a feed leave everything with the service manager, and waits until it has ended. `Err` has the sentence why it
/// goes on.
///
/// # Errors
/// The sentence for people.
pub fn park(feed: &Path) -> Result<(), String> {
    let path = meeting_path(feed);
    let connection = rights::connect(&path).map_err(|error| no_server(&path, &error))?;
    let said = rights::set_patience(connection.as_fd(), PARK_MAX)
        .and_then(|()| say(connection.as_fd(), &Word::Hello(hello(Wish::Park, 0, Vec::new(), String::new())), &[]));
    said.map_err(|error| format!("the running server does not answer: {error}"))?;
    match hear(connection.as_fd()) {
        Ok((Word::Refused { reason }, _)) => Err(reason),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(format!("the running server does not answer: {error}")),
        Ok(_) => Err("the running server's answer makes no sense".into()),
    }
}

fn hello(wish: Wish, shards: usize, listen: Vec<String>, state_dir: String) -> Hello {
    let features = FEATURES.iter().map(|feature| (*feature).to_owned()).collect();
    Hello { wish, format: FORMAT, features, version: env!("CARGO_PKG_VERSION").into(), shards, listen, state_dir }
}

/// Why there is nobody at the meeting point.
fn no_server(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("no server that could hand over is running at {path}")
        }
        _ => format!("cannot reach the running server at {path}: {error}"),
    }
}

/// Says a word to the other process.
fn say(connection: BorrowedFd<'_>, word: &Word, rights: &[BorrowedFd<'_>]) -> io::Result<()> {
    rights::send(connection, &word.to_bytes(), rights)
}

/// Hears the other process's next word, with the descriptors that come with it.
fn hear(connection: BorrowedFd<'_>) -> io::Result<(Word, Vec<OwnedFd>)> {
    let (mut buffer, mut rights) = (vec![0; MESSAGE_MAX], Vec::new());
    let length = rights::receive(connection, &mut buffer, &mut rights)?;
    if length == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has ended the hand-over"));
    }
    let word = Word::from_bytes(&buffer[..length]);
    word.map(|word| (word, rights)).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown word"))
}

/// Hears the next word within a time; `None` if none has come.
fn hear_within(connection: BorrowedFd<'_>, time: Duration) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
    rights::set_patience(connection, time.max(Duration::from_millis(1)))?;
    match hear(connection) {
        Ok(heard) => Ok(Some(heard)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// The addresses of a configuration, as both processes compare them.
fn addresses_of(config: &Config) -> Vec<String> {
    let plain = config.server.listen.iter().map(|address| (address, ""));
    let tls = config.server.listen_tls.iter().map(|address| (address, "tls "));
    plain.chain(tls).map(|(address, kind)| format!("{kind}{address}")).collect()
}

/// The state's folder, as both processes compare it.
fn state_dir_of(config: &Config) -> String {
    let folder = &config.server.state_dir;
    std::fs::canonicalize(folder).unwrap_or_else(|_| folder.clone()).display().to_string()
}

/// Whether a configuration has an admin listener.
fn has_admin(config: &Config) -> bool {
    matches!(config.admin.listen, AdminAddress::At(_))
}

/// The time until a deadline.
fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
