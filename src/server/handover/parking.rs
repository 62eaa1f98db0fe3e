//! Parking, for `systemctl restart`, where the next process is started only after this one has ended: the service manager keeps
//! everything meanwhile. The running server hands over to a thread of its own, which copies the records into files in memory and
//! moves the descriptors into the queues of socket pairs; in the next process a thread reads both and hands over in turn.
//!
//! Nothing is taken out of files and queues before the new process has everything, so one that fails is followed by another that finds
//! all still there. The third one begins without clients.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::config::Config;
use crate::link::handover::HandoverError;
use crate::logic::handover::words::{FORMAT, Hello, Offer, Word};
use crate::logic::handover::{MESSAGE_MAX, Unpacker};
use crate::sys::clock::unix_ms;
use crate::sys::kept::{self, Peeks, Queues};
use crate::sys::rights;

use super::super::{StartError, service};
use super::{hear, meeting_path, say};

/// The attempts to take over what is parked.
const ATTEMPTS_MAX: u32 = 2;
/// The most descriptors in the service manager's care: `FileDescriptorStoreMax=` of the unit.
const KEPT_MAX: usize = 64;
const META: &str = "meta";
const STATE: &str = "state.";
const QUEUE: &str = "queue.";

/// What is parked beside the records.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Meta {
    format: u32,
    /// The attempts to take over so far.
    attempts: u32,
    /// The addresses of the configuration, as successors compare them.
    listen: Vec<String>,
    /// The folder of the state.
    state_dir: String,
    /// What the server said about itself.
    offer: Offer,
    /// The time at which the records were complete, in milliseconds since 1970.
    parked_ms: u64,
    /// The connections that were not parked.
    left: u64,
}

/// The records and descriptors of one thread.
#[derive(Debug, Default)]
struct Place {
    state: Option<File>,
    queues: Vec<OwnedFd>,
}

/// Takes what the running server hands over at `connection`, and gives it to the service manager. `hello` is what a successor of
/// the same configuration would say.
pub(super) fn park(connection: OwnedFd, hello: Hello) {
    if let Err(reason) = try_to_park(&connection, hello) {
        let _ = say(connection.as_fd(), &Word::Refused { reason }, &[]);
    }
}

fn try_to_park(connection: &OwnedFd, hello: Hello) -> Result<(), String> {
    let lost = |error: io::Error| error.to_string();
    let (mut offer, mut carriers) = (None, Vec::new());
    loop {
        match hear(connection.as_fd()).map_err(lost)? {
            (Word::Offer(said), _) => offer = Some(*said),
            (Word::Carriers, some) => carriers.extend(some),
            (Word::Files { .. }, _) => break,
            _ => return Err("the server's word makes no sense".into()),
        }
    }
    let offer = offer.ok_or("the server has offered nothing")?;
    say(connection.as_fd(), &Word::Ready, &[]).map_err(lost)?;
    let places = std::thread::scope(|scope| {
        let threads: Vec<_> = carriers.into_iter().map(|carrier| scope.spawn(move || keep(&carrier))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Place, HandoverError>>| match thread.join() {
            Ok(place) => place.map_err(|error| error.to_string()),
            Err(_) => Err("a thread has panicked".to_owned()),
        };
        threads.into_iter().map(join).collect::<Result<Vec<Place>, String>>()
    })?;
    let Hello { listen, state_dir, .. } = hello;
    let left = offer.let_go.iter().map(|some| some.connections).sum();
    let meta = Meta { format: FORMAT, attempts: 0, listen, state_dir, offer, parked_ms: unix_ms(), left };
    let names = give_away(&meta, places)?;
    say(connection.as_fd(), &Word::Prepared, &[]).map_err(lost)?;
    match hear(connection.as_fd()) {
        Ok((Word::Go { .. }, _)) => Ok(()),
        _ => {
            // The server goes on with its clients, so nobody else may find them.
            service::forget(&names);
            Err("the server goes on".into())
        }
    }
}

/// Copies what comes over a carrier.
fn keep(carrier: &OwnedFd) -> Result<Place, HandoverError> {
    let state = kept::file(c"ringcast")?;
    let (mut file, mut queues) = (BufWriter::new(state.try_clone()?), Queues::default());
    let (mut unpacker, mut buffer) = (Unpacker::default(), vec![0; MESSAGE_MAX]);
    while !unpacker.is_over() {
        let mut descriptors = Vec::new();
        let length = rights::receive(carrier.as_fd(), &mut buffer, &mut descriptors)?;
        if length == 0 {
            return Err(HandoverError::Ended);
        }
        let message = &buffer[..length];
        unpacker.take(message, |_, _| Ok::<(), HandoverError>(()))?;
        file.write_all(&(length as u32).to_le_bytes())?;
        file.write_all(&(descriptors.len() as u32).to_le_bytes())?;
        file.write_all(message)?;
        queues.push(&descriptors)?;
    }
    file.flush()?;
    // The bytes may be secrets of TLS connections.
    buffer.fill(0);
    Ok(Place { state: Some(state), queues: queues.into_ends() })
}

/// Gives everything to the service manager, and waits until it has it; returns the names.
fn give_away(meta: &Meta, places: Vec<Place>) -> Result<Vec<String>, String> {
    let lost = |error: io::Error| format!("the service manager cannot keep the connections: {error}");
    let mut file = kept::file(c"ringcast").map_err(lost)?;
    write_meta(&mut file, meta).map_err(lost)?;
    let mut all: Vec<(String, OwnedFd)> = vec![(META.to_owned(), file.into())];
    for (number, Place { state, queues }) in places.into_iter().enumerate() {
        all.extend(state.map(|state| (format!("{STATE}{number}"), state.into())));
        let queues = queues.into_iter().enumerate();
        all.extend(queues.map(|(nth, queue)| (format!("{QUEUE}{number}.{nth}"), queue)));
    }
    if all.len() > KEPT_MAX {
        return Err(format!("the service manager keeps {KEPT_MAX} descriptors, and {} are needed", all.len()));
    }
    service::keep(&all).map_err(lost)?;
    Ok(all.into_iter().map(|(name, _)| name).collect())
}

fn write_meta(file: &mut File, meta: &Meta) -> io::Result<()> {
    file.rewind()?;
    file.set_len(0)?;
    serde_json::to_writer(file, meta).map_err(io::Error::from)
}

/// What an earlier process has parked.
pub(in crate::server) struct Parked {
    meta: Meta,
    places: Vec<Place>,
}

impl Parked {
    /// Finds what is parked among what the service manager has kept.
    ///
    /// # Errors
    /// If it cannot be used.
    pub(in crate::server) fn find(kept: Vec<(String, OwnedFd)>) -> Result<Parked, StartError> {
        Parked::read(kept).map_err(StartError::TakeOver)
    }

    fn read(kept: Vec<(String, OwnedFd)>) -> Result<Parked, String> {
        let (mut meta, mut places) = (None, Vec::<Place>::new());
        let mut queues = Vec::new();
        for (name, descriptor) in kept {
            if name == META {
                meta = Some(File::from(descriptor));
            } else if let Some(number) = name.strip_prefix(STATE).and_then(|number| number.parse::<usize>().ok()) {
                if number >= KEPT_MAX {
                    return Err(format!("{name:?} cannot be"));
                }
                places.resize_with(places.len().max(number + 1), Place::default);
                places[number].state = Some(File::from(descriptor));
            } else if let Some(place) = name.strip_prefix(QUEUE).and_then(queue_place) {
                queues.push((place, descriptor));
            } else {
                return Err(format!("{name:?} is unknown"));
            }
        }
        queues.sort_by_key(|(place, _)| *place);
        for ((number, _), queue) in queues {
            places.get_mut(number).ok_or("a queue belongs to no thread")?.queues.push(queue);
        }
        let mut file = meta.ok_or("the description is missing")?;
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.map_err(|error| error.to_string())?;
        let mut meta: Meta = serde_json::from_str(&text).map_err(|error| format!("the description: {error}"))?;
        if meta.attempts >= ATTEMPTS_MAX {
            return Err(format!("{ATTEMPTS_MAX} processes could not take them over"));
        }
        meta.attempts += 1;
        write_meta(&mut file, &meta).map_err(|error| error.to_string())?;
        if places.len() != meta.offer.shards + 1 || places.iter().any(|place| place.state.is_none()) {
            return Err("some of the state is missing".into());
        }
        Ok(Parked { meta, places })
    }

    /// Hands everything over to this process, from a thread of its own; returns the connection over which a running server would.
    ///
    /// # Errors
    /// If there is no thread or no socket.
    pub(in crate::server) fn serve(self, config: &Config) -> io::Result<OwnedFd> {
        let (near, far) = rights::pair()?;
        let path = meeting_path(&config.feed.path);
        std::thread::Builder::new().name("parked".into()).spawn(move || {
            let served = rights::listen(&path)
                .map_err(|error| error.to_string())
                .and_then(|meeting| self.hand_over(&far, &meeting));
            if let Err(reason) = served {
                let _ = say(far.as_fd(), &Word::Refused { reason }, &[]);
            }
        })?;
        Ok(near)
    }

    /// Says what a running server says.
    fn hand_over(self, connection: &OwnedFd, meeting: &OwnedFd) -> Result<(), String> {
        let lost = |error: io::Error| error.to_string();
        let Parked { meta, places } = self;
        match hear(connection.as_fd()).map_err(lost)? {
            (Word::Hello(hello), _) => check(&meta, &hello)?,
            _ => return Err("the first word makes no sense".into()),
        }
        let (parked_ms, left) = (meta.parked_ms, meta.left);
        say(connection.as_fd(), &Word::Offer(Box::new(meta.offer)), &[]).map_err(lost)?;
        let pairs = places.iter().map(|_| rights::pair()).collect::<io::Result<Vec<_>>>().map_err(lost)?;
        let (ends, theirs): (Vec<OwnedFd>, Vec<OwnedFd>) = pairs.into_iter().unzip();
        for some in theirs.chunks(rights::RIGHTS_MAX) {
            let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
            say(connection.as_fd(), &Word::Carriers, &some).map_err(lost)?;
        }
        drop(theirs);
        say(connection.as_fd(), &Word::Files { has_admin: false }, &[meeting.as_fd()]).map_err(lost)?;
        match hear(connection.as_fd()).map_err(lost)? {
            (Word::Ready, _) => {}
            _ => return Err("the new process is not ready".into()),
        }
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                places.into_iter().zip(&ends).map(|(place, end)| scope.spawn(move || play(place, end))).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(played) => played.map_err(|error| error.to_string()),
                Err(_) => Err("a thread has panicked".to_owned()),
            })
        })?;
        match hear(connection.as_fd()).map_err(lost)? {
            (Word::Prepared, _) => {}
            _ => return Err("the new process has not taken everything".into()),
        }
        let pause_ms = unix_ms().saturating_sub(parked_ms);
        info!(pause_ms, taking_ms = begun.elapsed().as_millis() as u64, "everything is taken from the service manager");
        say(connection.as_fd(), &Word::Go { pause_ms, left }, &[]).map_err(lost)
    }
}

/// The thread and the place of a queue among the thread's, by the end of its name.
fn queue_place(name: &str) -> Option<(usize, usize)> {
    let (number, nth) = name.split_once('.')?;
    Some((number.parse().ok()?, nth.parse().ok()?))
}

/// Whether this process can have what is parked.
fn check(meta: &Meta, hello: &Hello) -> Result<(), String> {
    if meta.format != hello.format {
        return Err(format!("the records have format {}, and this version reads {}", meta.format, hello.format));
    }
    if meta.offer.shards != hello.shards || meta.listen != hello.listen || meta.state_dir != hello.state_dir {
        return Err("the configuration has other shards, addresses or another state_dir".into());
    }
    Ok(())
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kept records are damaged")
}

/// Sends the records and descriptors of a thread on, and leaves them where they are.
fn play(place: Place, carrier: &OwnedFd) -> Result<(), HandoverError> {
    let mut file = place.state.ok_or(HandoverError::Ended)?;
    file.rewind()?;
    let (mut file, mut peeks, mut buffer) = (BufReader::new(file), Peeks::new(place.queues), vec![0; MESSAGE_MAX]);
    let mut number = [0; 4];
    loop {
        match file.read_exact(&mut number) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        let length = u32::from_le_bytes(number) as usize;
        file.read_exact(&mut number)?;
        let count = u32::from_le_bytes(number) as usize;
        let message = buffer.get_mut(..length).filter(|_| count <= rights::RIGHTS_MAX).ok_or_else(damaged)?;
        file.read_exact(message)?;
        let descriptors = peeks.next(count)?;
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        rights::send(carrier.as_fd(), message, &borrowed)?;
    }
    buffer.fill(0);
    Ok(())
}
