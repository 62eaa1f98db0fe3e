//! The load generator's interface: commands to threads of clients, and the figures that they count.
//! [`super::reader`] is such a thread.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use hdrhistogram::Histogram;
use rustls::ClientConfig;

use super::args::{Format, Reading, Sample, Transport};
use super::{BenchError, procfs, reader};
use crate::sys::affinity;

/// The channel that all subscribers share, and that the publisher publishes to.
pub(crate) const CHANNEL: &str = "bench:all";
/// The key of every WebSocket handshake, the example of RFC 6455: one key, so that the bare loop has one answer.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Descriptors of a table that are left for other uses than clients.
const SPARE_DESCRIPTORS: u64 = 1_500;
/// Connections that are being made at a time, over all threads: well below every backlog.
const PENDING_MAX: usize = 256;
/// Loopback addresses of one thread.
const ADDRESSES: usize = 4;
/// The pause between two looks at the progress of the threads.
const LOOK: Duration = Duration::from_millis(2);

/// The clients' request and the address that they send it to.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The server's address.
    pub(crate) target: SocketAddrV4,
    /// The transport.
    pub(crate) transport: Transport,
    /// The format of events on a WebSocket.
    pub(crate) format: Format,
    /// The path, instead of the transport's own; `{channel}` is replaced.
    pub(crate) path: Option<String>,
    /// Channels of each client alone; 0 if the clients share channels.
    pub(crate) own_channels: u32,
    /// Channels that all clients share, the first of which is [`CHANNEL`].
    pub(crate) shared_channels: u32,
    /// The number of this load's first thread: threads of different numbers connect from different addresses.
    pub(crate) first_thread: usize,
    /// The id after which the clients resume.
    pub(crate) last_event_id: Option<String>,
    /// A number that changes the addresses from which clients connect: clients that connect again need no port that is
    /// still in TIME_WAIT.
    pub(crate) generation: u8,
    /// How clients shake hands, if they speak TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Subscription {
    /// The request of client `index` of thread `thread`.
    pub(crate) fn request(&self, thread: usize, index: usize) -> Vec<u8> {
        let channel = match self.own_channels {
            0 => self.shared_channels().join(","),
            count => (0..count).map(|nth| self.own_channel(thread, index, nth)).collect::<Vec<_>>().join(","),
        };
        let Self { target, format, .. } = self;
        let path = match (&self.path, self.transport) {
            (Some(path), _) => path.replace("{channel}", &channel),
            (None, Transport::Sse) => format!("/sse?channel={channel}"),
            (None, Transport::Ws) => format!("/ws?channel={channel}&format={}", format.name()),
            (None, Transport::Poll) => format!("/poll?channel={channel}&wait=25"),
        };
        let resume = match (&self.last_event_id, self.transport) {
            (Some(id), Transport::Sse) => (String::new(), format!("Last-Event-ID: {id}\r\n")),
            (Some(id), Transport::Ws) => (format!("&last_event_id={id}"), String::new()),
            (Some(id), Transport::Poll) => (format!("&after={id}"), String::new()),
            (None, _) => Default::default(),
        };
        let kind = match self.transport {
            Transport::Sse => "Accept: text/event-stream\r\n".to_owned(),
            Transport::Ws => format!(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\n"
            ),
            Transport::Poll => String::new(),
        };
        format!("GET {path}{} HTTP/1.1\r\nHost: {target}\r\n{kind}{}\r\n", resume.0, resume.1).into_bytes()
    }

    /// The names of the channels that all clients share.
    pub(crate) fn shared_channels(&self) -> Vec<String> {
        let others = (1..self.shared_channels).map(|nth| format!("{CHANNEL}-{nth}"));
        std::iter::once(CHANNEL.to_owned()).chain(others).collect()
    }

    fn own_channel(&self, thread: usize, index: usize, nth: u32) -> String {
        match self.own_channels {
            1 => format!("bench:{thread}-{index}"),
            _ => format!("bench:{thread}-{index}-{nth}"),
        }
    }

    /// The address that client `index` of thread `thread` connects from.
    ///
    /// Each thread has loopback addresses of its own. The kernel tries an address's ports one by one, first one half of
    /// them and then the other, so that connecting becomes a slow search once the first half is used up.
    pub(crate) fn source(&self, thread: usize, index: usize) -> Ipv4Addr {
        let within = |number: usize| (number % 250) as u8 + 1;
        let thread = self.first_thread + thread;
        let group = self.generation as usize * ADDRESSES + index % ADDRESSES;
        Ipv4Addr::new(127, within(group), within(thread / 250), within(thread))
    }
}

/// A command to a thread.
pub(crate) enum Command {
    /// Connects so many more clients.
    Connect(Arc<Subscription>, usize),
    /// Closes all clients, by a reset if `abort` is set.
    Close { abort: bool },
    /// Sets all counters to zero, and changes the way of reading.
    Reset(Reading, Sample),
    /// Sends the counters back.
    Report(Sender<Box<Tally>>),
}

/// The counters of a thread since the last reset.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Events received.
    pub(crate) events: u64,
    /// Bytes received.
    pub(crate) bytes: u64,
    /// Events whose number does not follow the number before.
    pub(crate) disordered: u64,
    /// The fewest events that one verified connection received.
    pub(crate) least: u32,
    /// The most events that one verified connection received.
    pub(crate) most: u32,
    /// The time at which the last event arrived, in microseconds of `payload::now_us`.
    pub(crate) last_us: u64,
    /// Microseconds from the time that an event carries to its arrival.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    /// Counters at zero.
    pub(crate) fn new() -> Result<Self, BenchError> {
        // Up to half an hour, with three significant digits.
        let latency = Histogram::new_with_bounds(1, 1_800_000_000, 3)
            .map_err(|error| BenchError::Harness(format!("making a histogram: {error}")))?;
        Ok(Self { events: 0, bytes: 0, disordered: 0, least: u32::MAX, most: 0, last_us: 0, latency })
    }

    /// Sets all counters to zero.
    pub(crate) fn clear(&mut self) {
        self.latency.reset();
        (self.events, self.bytes, self.disordered) = (0, 0, 0);
        (self.least, self.most, self.last_us) = (u32::MAX, 0, 0);
    }

    fn merge(&mut self, other: &Self) -> Result<(), BenchError> {
        self.events += other.events;
        self.bytes += other.bytes;
        self.disordered += other.disordered;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
        self.last_us = self.last_us.max(other.last_us);
        self.latency.add(&other.latency).map_err(|error| BenchError::Harness(format!("adding up histograms: {error}")))
    }
}

/// The progress of a thread, which others may read at any time.
#[derive(Default)]
pub(crate) struct Progress {
    /// Clients whose request was answered.
    pub(crate) ready: AtomicUsize,
    /// Clients whose request failed.
    pub(crate) failed: AtomicUsize,
    /// Clients that the server has disconnected after its answer.
    pub(crate) lost: AtomicUsize,
    /// Open sockets.
    pub(crate) open: AtomicUsize,
    /// Events received since the last reset.
    pub(crate) events: AtomicU64,
    /// The first failure's message.
    pub(crate) first_error: Mutex<Option<String>>,
}

struct Thread {
    commands: Sender<Command>,
    progress: Arc<Progress>,
    handle: Option<JoinHandle<()>>,
}

/// A running load generator. Dropping it closes all its clients.
pub(crate) struct Load {
    threads: Vec<Thread>,
}

impl Load {
    /// Starts the threads that `clients` need, or `threads` of them if those are more; if `cores` is not empty, the
    /// same number on each core. `prompt` threads have a real-time priority where that is allowed.
    pub(crate) fn start(
        clients: usize,
        threads: Option<u32>,
        cores: &[usize],
        prompt: bool,
    ) -> Result<Self, BenchError> {
        let each = usize::try_from(procfs::descriptor_limit().saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(usize::MAX);
        if each == 0 {
            return Err(BenchError::Harness("the limit of open files is too low to hold clients: raise it".into()));
        }
        let needed = clients.div_ceil(each).max(1);
        let count = threads.map_or(needed, |threads| threads as usize).max(needed);
        let count = count.next_multiple_of(cores.len().max(1));
        let pending = (PENDING_MAX / count).max(16);
        let start = |index| {
            let (commands, inbox): (_, Receiver<Command>) = crossbeam_channel::unbounded();
            let progress = Arc::new(Progress::default());
            let shown = Arc::clone(&progress);
            let core = cores.iter().cycle().nth(index).copied();
            let handle = std::thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || {
                    core.map(affinity::pin_to);
                    if prompt {
                        // Without CAP_SYS_NICE a busy host delays the clients, which counts as latency.
                        let _ = crate::sys::load::run_promptly();
                    }
                    reader::run(index, pending, &inbox, &shown);
                })
                .map_err(|source| BenchError::Io { doing: "starting a load thread".into(), source })?;
            Ok(Thread { commands, progress, handle: Some(handle) })
        };
        Ok(Self { threads: (0..count).map(start).collect::<Result<_, BenchError>>()? })
    }

    /// Connects `count` more clients, spread evenly over the threads, and waits for the answers to all of them.
    pub(crate) fn connect(
        &self,
        subscription: Subscription,
        count: usize,
        limit: Duration,
    ) -> Result<Duration, BenchError> {
        let start = Instant::now();
        let before = self.sum(|progress| &progress.ready);
        let subscription = Arc::new(subscription);
        for (index, thread) in self.threads.iter().enumerate() {
            let share = self.share(index, count);
            // A thread that has ended has left its error in its progress, which is checked below.
            let _ = thread.commands.send(Command::Connect(Arc::clone(&subscription), share));
        }
        loop {
            let ready = self.sum(|progress| &progress.ready) - before;
            self.check()?;
            if ready >= count {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                let what = format!("{count} clients to connect ({ready} have)");
                return Err(BenchError::Timeout { what, limit });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// A thread's part of `count` clients.
    fn share(&self, thread: usize, count: usize) -> usize {
        count / self.threads.len() + usize::from(thread < count % self.threads.len())
    }

    /// The names of the first `count` clients' own channels.
    pub(crate) fn own_channels(&self, subscription: &Subscription, count: usize) -> Vec<String> {
        let of = |thread| (0..self.share(thread, count)).map(move |index| subscription.own_channel(thread, index, 0));
        (0..self.threads.len()).flat_map(of).collect()
    }

    /// Closes all clients, and waits until their sockets are closed.
    pub(crate) fn close(&self, abort: bool, limit: Duration) -> Result<(), BenchError> {
        for thread in &self.threads {
            let _ = thread.commands.send(Command::Close { abort });
        }
        let start = Instant::now();
        while self.sum(|progress| &progress.open) > 0 {
            if start.elapsed() > limit {
                return Err(BenchError::Timeout { what: "the clients to close".into(), limit });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Sets all counters to zero, and changes the way of reading. To be called while no event is under way.
    pub(crate) fn reset(&self, reading: Reading, sample: Sample) -> Result<(), BenchError> {
        for thread in &self.threads {
            let _ = thread.commands.send(Command::Reset(reading, sample));
        }
        // Commands are carried out in order, so the answer to the next one means that the reset is done.
        self.tally().map(drop)
    }

    /// Events received since the last reset.
    pub(crate) fn events(&self) -> u64 {
        self.threads.iter().map(|thread| thread.progress.events.load(Relaxed)).sum()
    }

    /// Clients that the server has disconnected.
    pub(crate) fn lost(&self) -> usize {
        self.sum(|progress| &progress.lost)
    }

    /// The counters of all threads together.
    pub(crate) fn tally(&self) -> Result<Tally, BenchError> {
        let mut sum = Tally::new()?;
        for thread in &self.threads {
            let (answer, wait) = crossbeam_channel::bounded(1);
            let _ = thread.commands.send(Command::Report(answer));
            let limit = Duration::from_secs(30);
            let tally = wait.recv_timeout(limit).map_err(|_| {
                self.check().err().unwrap_or(BenchError::Timeout { what: "a load thread's figures".into(), limit })
            })?;
            sum.merge(&tally)?;
        }
        Ok(sum)
    }

    /// Returns an error if a client or a thread has failed.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        let failed = self.sum(|progress| &progress.failed);
        if failed == 0 {
            return Ok(());
        }
        let first = |thread: &Thread| thread.progress.first_error.lock().ok().and_then(|error| error.clone());
        let error = self.threads.iter().find_map(first).unwrap_or_default();
        Err(BenchError::Clients { failed, error })
    }

    fn sum(&self, counter: impl Fn(&Progress) -> &AtomicUsize) -> usize {
        self.threads.iter().map(|thread| counter(&thread.progress).load(Relaxed)).sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for thread in std::mem::take(&mut self.threads) {
            let Thread { commands, handle, .. } = thread;
            // A thread ends when its queue of commands is closed.
            drop(commands);
            if let Some(handle) = handle {
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(transport: Transport, last_event_id: Option<&str>) -> Subscription {
        Subscription {
            target: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80),
            transport,
            format: Format::Raw,
            path: None,
            own_channels: u32::from(last_event_id.is_some()),
            shared_channels: 1,
            first_thread: 0,
            last_event_id: last_event_id.map(str::to_owned),
            generation: 3,
            tls: None,
        }
    }

    #[test]
    fn requests_are_http() {
        let text = |transport, id| String::from_utf8(subscription(transport, id).request(2, 5)).unwrap();
        let sse = text(Transport::Sse, Some("17-3"));
        assert!(sse.starts_with("GET /sse?channel=bench:2-5 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"), "{sse}");
        assert!(sse.ends_with("Last-Event-ID: 17-3\r\n\r\n"), "{sse}");
        let ws = text(Transport::Ws, None);
        assert!(ws.starts_with("GET /ws?channel=bench:all&format=raw HTTP/1.1\r\n"), "{ws}");
        assert!(text(Transport::Poll, Some("17-3")).contains("&after=17-3 HTTP/1.1\r\n"));
    }

    #[test]
    fn threads_have_addresses_of_their_own() {
        let source = |thread, index| subscription(Transport::Sse, None).source(thread, index).to_string();
        assert_eq!([source(0, 0), source(249, 4), source(250, 8)], ["127.13.1.1", "127.13.1.250", "127.13.2.1"]);
        assert_eq!([source(7, 1), source(7, 3)], ["127.14.1.8", "127.16.1.8"]);
    }
}
