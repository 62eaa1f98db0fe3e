//! The hub's runtime, and the only file of the hub that knows it (monoio).
//!
//! The driver notices that the queue from the shards was rung, that a connection waits to be accepted, that a
//! publisher's socket can be read or written, or that some time has passed. It notes each of these as a mark and calls
//! a turn, which does all other work. Each watched descriptor has a task of its own, which only waits and marks.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use monoio::net::TcpStream;
use tracing::warn;

use super::core::{Core, Ports};
use super::watch::{Mark, Next, Want};

/// Runs a hub on the calling thread until it is told to stop.
pub(super) fn run(core: Core, ports: Ports) -> io::Result<()> {
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(1024).enable_timer().build()?;
    // The driver is a task of its own, because the runtime polls its main future again without a look at the kernel.
    runtime.block_on(async move { monoio::spawn(drive(core, ports)).await })
}

async fn drive(mut core: Core, mut ports: Ports) -> io::Result<()> {
    let mut watchers = Watchers::new(&ports)?;
    let mut marks = Vec::new();
    loop {
        watchers.noticed.take(&mut marks)?;
        let next = core.turn(&ports, &mut marks);
        watchers.carry_out(&mut core, &mut ports);
        match next {
            Next::Again => look_at_the_kernel().await,
            Next::Wait => watchers.noticed.wait().await,
            Next::Stop => break,
        }
    }
    if let Err(error) = core.close_ids() {
        warn!(%error, "the last id could not be written; ids will run ahead of the clock for some seconds");
    }
    Ok(())
}

/// Lets the other tasks run, and the runtime take the kernel's reports.
async fn look_at_the_kernel() {
    let mut has_looked = false;
    poll_fn(|context| {
        if has_looked {
            return Poll::Ready(());
        }
        has_looked = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The marks that the tasks have made since the last turn.
#[derive(Default)]
struct Noticed {
    marks: RefCell<Vec<Mark>>,
    /// The error because of which the hub cannot go on.
    failure: Cell<Option<io::Error>>,
    turn: Cell<Option<Waker>>,
}

impl Noticed {
    fn add(&self, mark: Mark) {
        self.marks.borrow_mut().push(mark);
        self.wake();
    }

    fn fail(&self, error: io::Error) {
        self.failure.set(Some(error));
        self.wake();
    }

    fn wake(&self) {
        if let Some(turn) = self.turn.take() {
            turn.wake();
        }
    }

    /// Moves the collected marks into `marks`, which is empty.
    fn take(&self, marks: &mut Vec<Mark>) -> io::Result<()> {
        std::mem::swap(&mut *self.marks.borrow_mut(), marks);
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Waits until a task has made a mark.
    async fn wait(&self) {
        poll_fn(|context| {
            if !self.marks.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.turn.set(Some(context.waker().clone()));
            match self.failure.take() {
                Some(error) => {
                    self.failure.set(Some(error));
                    Poll::Ready(())
                }
                None => Poll::Pending,
            }
        })
        .await;
    }
}

/// The next step of a watcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// The watcher waits for an order.
    #[default]
    Rest,
    /// The watcher waits for its descriptor and marks it once.
    Watch,
    /// The watcher ends.
    End,
}

/// The gate through which the turn gives a watcher its orders.
#[derive(Default)]
struct Gate {
    order: Cell<Order>,
    watcher: Cell<Option<Waker>>,
}

impl Gate {
    fn give(&self, order: Order) {
        self.order.set(order);
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    /// Waits for an order to watch; returns whether one came.
    async fn pass(&self) -> bool {
        poll_fn(|context| match self.order.get() {
            Order::Watch => {
                self.order.set(Order::Rest);
                Poll::Ready(true)
            }
            Order::End => Poll::Ready(false),
            Order::Rest => {
                self.watcher.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

/// A descriptor that the runtime can wait for. The runtime waits for sockets of its own types only; as it asks the kernel for
/// a poll, which works for every descriptor, the descriptor is wrapped as a socket, and only the poll is used.
fn pollable(descriptor: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(descriptor))
}

/// The direction in which a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

/// Starts a watcher. A descriptor that cannot be watched is marked as `broken`, or ends the hub where there is no such
/// mark.
fn watch(noticed: &Rc<Noticed>, fd: impl AsFd, way: Way, mark: Mark, broken: Option<Mark>) -> io::Result<Rc<Gate>> {
    let descriptor = pollable(fd.as_fd().try_clone_to_owned()?)?;
    let gate = Rc::new(Gate::default());
    let (noticed, own) = (noticed.clone(), gate.clone());
    monoio::spawn(async move {
        while own.pass().await {
            let result = match way {
                Way::Read => descriptor.readable(false).await,
                Way::Write => descriptor.writable(false).await,
            };
            // The publisher may have gone, and its number may belong to another one.
            if own.order.get() == Order::End {
                return;
            }
            match (result, broken) {
                (Ok(()), _) => noticed.add(mark),
                (Err(_), Some(broken)) => noticed.add(broken),
                (Err(error), None) => noticed.fail(error),
            }
        }
    });
    Ok(gate)
}

/// The watchers of one publisher's socket.
struct Pair {
    read: Rc<Gate>,
    /// The watcher for writing, which is started the first time that the socket is full.
    write: Option<Rc<Gate>>,
}

/// The watchers of all descriptors.
struct Watchers {
    noticed: Rc<Noticed>,
    inbox: Rc<Gate>,
    listener: Rc<Gate>,
    /// The publishers' watchers, by the publishers' numbers.
    publishers: Vec<Option<Pair>>,
}

impl Watchers {
    fn new(ports: &Ports) -> io::Result<Watchers> {
        let noticed = Rc::default();
        Ok(Watchers {
            inbox: watch(&noticed, &ports.inbox.wake, Way::Read, Mark::Inbox, None)?,
            listener: watch(&noticed, &ports.listener, Way::Read, Mark::Listener, None)?,
            publishers: Vec::new(),
            noticed,
        })
    }

    /// Carries out the orders of a turn.
    fn carry_out(&mut self, core: &mut Core, ports: &mut Ports) {
        let mut wants = std::mem::take(&mut core.wants);
        for want in wants.drain(..) {
            match want {
                Want::Inbox => self.inbox.give(Order::Watch),
                Want::Listener => self.listener.give(Order::Watch),
                Want::Rebind => self.rebind(core, ports),
                Want::Tick(time) => {
                    let noticed = self.noticed.clone();
                    monoio::spawn(async move {
                        monoio::time::sleep(time).await;
                        noticed.add(Mark::Tick);
                    });
                }
                Want::Opened(number) => self.try_watch(number, |watchers| watchers.open(core, number)),
                Want::Readable(number) => {
                    if let Some(Some(pair)) = self.publishers.get(number) {
                        pair.read.give(Order::Watch);
                    }
                }
                Want::Writable(number) => self.try_watch(number, |watchers| watchers.watch_for_room(core, number)),
                Want::Closed(number) => self.close(number),
            }
        }
        core.wants = wants;
    }

    /// Has the feed's new listener take the place of the old one.
    fn rebind(&mut self, core: &mut Core, ports: &mut Ports) {
        let Some(listener) = core.rebound.take() else { return };
        match watch(&self.noticed, &listener, Way::Read, Mark::Listener, None) {
            Ok(gate) => {
                std::mem::replace(&mut self.listener, gate).give(Order::End);
                ports.listener = listener;
                // Publishers may have come to it already.
                self.noticed.add(Mark::Listener);
            }
            Err(error) => warn!(%error, "the feed's new socket cannot be watched"),
        }
    }

    fn try_watch(&mut self, number: usize, watch: impl FnOnce(&mut Watchers) -> io::Result<()>) {
        if watch(self).is_err() {
            self.noticed.add(Mark::Broken(number));
        }
    }

    fn open(&mut self, core: &Core, number: usize) -> io::Result<()> {
        let Some(socket) = core.publishers.socket(number) else { return Ok(()) };
        let read = watch(&self.noticed, socket, Way::Read, Mark::Readable(number), Some(Mark::Broken(number)))?;
        if self.publishers.len() <= number {
            self.publishers.resize_with(number + 1, || None);
        }
        self.publishers[number] = Some(Pair { read, write: None });
        Ok(())
    }

    fn watch_for_room(&mut self, core: &Core, number: usize) -> io::Result<()> {
        let Some(Some(pair)) = self.publishers.get_mut(number) else { return Ok(()) };
        let write = match &pair.write {
            Some(write) => write,
            None => {
                let Some(socket) = core.publishers.socket(number) else { return Ok(()) };
                let broken = Some(Mark::Broken(number));
                pair.write.insert(watch(&self.noticed, socket, Way::Write, Mark::Writable(number), broken)?)
            }
        };
        write.give(Order::Watch);
        Ok(())
    }

    fn close(&mut self, number: usize) {
        if let Some(pair) = self.publishers.get_mut(number).and_then(Option::take) {
            pair.read.give(Order::End);
            if let Some(write) = pair.write {
                write.give(Order::End);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::ids::IdSource;
    use super::super::publishers::Publishers;
    use super::*;
    use crate::link::{FromHub, HubMessage, ShardMessage, ToHub, to_hub, to_shard};
    use crate::logic::history::HistoryLimits;
    use crate::sys::socket;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A hub on a thread of its own, with one shard that is the test.
    struct Running {
        hub: std::thread::JoinHandle<io::Result<()>>,
        to_hub: ToHub,
        shard: FromHub,
        folder: tempfile::TempDir,
    }

    fn start(queue_bytes: usize) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let (to_hub, inbox) = to_hub().unwrap();
        let (to_shard, shard) = to_shard(queue_bytes, inbox.wake.clone()).unwrap();
        let (drained, _) = crossbeam_channel::bounded(1);
        let listener = socket::listen_unix(&folder.path().join("feed.sock"), 0o600, None).unwrap();
        let ids = IdSource::open(&folder.path().join("x.ids"), 1000).unwrap();
        let hub = std::thread::spawn(move || {
            let limits = HistoryLimits { events_max: 50, bytes_max: 1 << 20, age_max_ms: 1_000_000 };
            let mut core = Core::new(crate::hub::Order::Local(ids), vec![to_shard], Box::new(move |_| limits));
            core.publishers = Publishers::new(100_000);
            run(core, Ports { listener, inbox, drained })
        });
        Running { hub, to_hub, shard, folder }
    }

    impl Running {
        fn connect(&self) -> BufReader<UnixStream> {
            let stream = UnixStream::connect(self.folder.path().join("feed.sock")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        }

        fn stop(self) {
            self.to_hub.send(HubMessage::Stop);
            self.to_hub.ring();
            self.hub.join().unwrap().unwrap();
        }
    }

    fn say(feed: &mut BufReader<UnixStream>, line: &str) {
        feed.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn answer(feed: &mut BufReader<UnixStream>) -> serde_json::Value {
        let mut line = String::new();
        feed.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn publishers_come_speak_and_go() {
        let running = start(1 << 20);
        // A publisher's number is used again, and each watcher marks its own connection.
        for round in 0..20 {
            let mut feeds = [running.connect(), running.connect(), running.connect()];
            for n in 0..5 {
                for feed in &mut feeds {
                    say(feed, &format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":{round},\"ref\":{n}}}"));
                    assert_eq!(answer(feed)["ref"], n);
                }
            }
        }
        running.stop();
    }

    #[test]
    fn answers_go_on_when_they_are_read_again() {
        let running = start(1 << 20);
        let mut feed = running.connect();
        for _ in 0..50 {
            say(&mut feed, &format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(5000)));
        }
        for n in 0..50 {
            say(&mut feed, &format!("{{\"op\":\"history\",\"channel\":\"a\",\"ref\":{n}}}"));
        }
        for n in 0..50 {
            let answer = answer(&mut feed);
            assert_eq!((&answer["ref"], answer["events"].as_array().unwrap().len()), (&n.into(), 50));
        }
        running.stop();
    }

    #[test]
    fn a_shard_that_has_room_again_is_noticed() {
        let running = start(20_000);
        running.to_hub.send(HubMessage::Follow { shard: 0, local: 0, name: "a".into() });
        let mut feed = running.connect();
        let events = 5_000;
        let publisher = std::thread::spawn(move || {
            for n in 0..events {
                say(&mut feed, &format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":{n}}}"));
            }
            feed
        });
        let mut received = 0;
        let deadline = std::time::Instant::now() + PATIENCE;
        while received < events {
            assert!(std::time::Instant::now() < deadline, "{received} of {events}");
            let Some(batch) = running.shard.next() else {
                std::thread::yield_now();
                continue;
            };
            running.shard.done(FromHub::weigh(&batch));
            received += batch.iter().filter(|message| matches!(message, ShardMessage::Event(..))).count();
        }
        drop(publisher.join().unwrap());
        running.stop();
    }
}
