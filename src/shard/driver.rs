//! The driver: the only file of a shard that knows the runtime. It turns readiness of the listeners and the ring, and the
//! clock's ticks, into bits, and has the shard turn.
//!
//! The runtime waits on a ring of its own for what is rare: listeners, the clock, and the shard's ring as a whole. Its
//! tasks set bits and wake the main task; none of them touches the shard.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::net::TcpStream;

use crate::link::handover::Adopting;
use crate::sys::ring;
use crate::sys::wake::Wake;
use crate::sys::{affinity, fdtable};

use super::accept::Queue;
use super::settings::TICK_MS;
use super::turn::{Next, Shard, adopting};
use super::{Listener, ShardParts};

/// The time for which a listener's queue is left alone when the kernel has no descriptor or memory for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A wake-up of one task by others of the same thread.
#[derive(Default)]
struct Signal {
    is_set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    fn set(&self) {
        self.is_set.set(true);
        if let Some(waiter) = self.waiter.borrow_mut().take() {
            waiter.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_set.replace(false) {
            return Poll::Ready(());
        }
        *self.waiter.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    async fn wait(&self) {
        poll_fn(|context| self.poll(context)).await;
    }
}

/// The bits between the tasks, which wait, and the main task, which has the shard turn.
#[derive(Default)]
struct Bits {
    /// The clock has ticked.
    tick: Cell<bool>,
    listeners: Vec<ListenerBits>,
    /// One of the bits is set.
    changed: Signal,
}

#[derive(Default)]
struct ListenerBits {
    /// The listener's queue has connections that the shard has not been told of.
    is_ready: Cell<bool>,
    /// The state of the queue after the shard has taken connections.
    queue: Cell<Option<Queue>>,
    /// `queue` is set.
    taken: Signal,
}

impl Bits {
    /// Moves the bits that are set into the shard.
    fn hand_over(&self, shard: &mut Shard) {
        if self.tick.take() {
            shard.note_tick();
        }
        for (number, listener) in self.listeners.iter().enumerate() {
            if listener.is_ready.take() {
                shard.note_ready(number);
                listener.queue.set(Some(Queue::Ready));
            }
        }
    }

    /// Wakes the tasks of the listeners from which the shard has taken connections.
    fn report(&self, shard: &Shard) {
        for (number, listener) in self.listeners.iter().enumerate() {
            let queue = shard.queue(number);
            if listener.queue.get() == Some(Queue::Ready) && queue != Queue::Ready {
                listener.queue.set(Some(queue));
                listener.taken.set();
            }
        }
    }
}

/// Runs a shard on the calling thread until it is drained.
///
/// # Errors
/// If the shard cannot start, which is also reported through [`ShardParts::started`], or if its ring breaks.
pub fn run(mut parts: ShardParts) -> io::Result<()> {
    let started = parts.started.clone();
    let adopting = parts.adopting.take();
    let begun = begin(parts, adopting.as_ref()).and_then(|shard| {
        let runtime =
            monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(256).enable_timer().build()?;
        Ok((shard, runtime))
    });
    let (mut shard, mut runtime) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = started.send(Err(ring::explain_setup_error(&error)));
            return Err(error);
        }
    };
    let _ = started.send(Ok(()));
    if adopting.is_some_and(|adopting| !adopting::adopt(&mut shard, &adopting)) {
        return Ok(());
    }
    runtime.block_on(serve(shard))
}

/// Prepares the thread and makes the shard on it.
fn begin(parts: ShardParts, adopting: Option<&Adopting>) -> io::Result<Shard> {
    if let Some(core) = parts.core {
        affinity::pin_to(core);
    }
    let descriptors = fdtable::raise_descriptor_limit()?;
    {
        let mut keep: Vec<_> = parts.listeners.iter().map(Listener::as_fd).collect();
        keep.extend(parts.from_hub.descriptors());
        keep.push(parts.to_hub.descriptor());
        keep.extend(parts.mailbox.iter().map(AsFd::as_fd));
        keep.extend(adopting.map(AsFd::as_fd));
        fdtable::isolate(&keep)?;
    }
    Shard::new(parts, descriptors)
}

/// A descriptor that the runtime can wait for. The runtime waits for sockets of its own types only; as it asks the kernel for
/// a poll, which works for every descriptor, the descriptor is wrapped as a socket, and only the poll is used.
fn pollable(descriptor: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(std::net::TcpStream::from(descriptor))
}

async fn serve(mut shard: Shard) -> io::Result<()> {
    let descriptors = shard.listener_descriptors()?;
    let listeners = descriptors.iter().map(|_| ListenerBits::default()).collect();
    let bits = Rc::new(Bits { listeners, ..Bits::default() });
    for (number, descriptor) in descriptors.into_iter().enumerate() {
        monoio::spawn(guard(watch_listener(bits.clone(), number, descriptor)));
    }
    monoio::spawn(guard(watch_clock(bits.clone())));
    // This descriptor is always readable. Waiting for it lets the other tasks run and the runtime look at its ring.
    let pause = Wake::new()?;
    pause.ring();
    let pause = pollable(pause.waitable()?)?;
    let ring = pollable(shard.waitable()?)?;
    let mut reports = pin!(ring.readable(false));
    loop {
        bits.hand_over(&mut shard);
        let next = shard.turns()?;
        bits.report(&shard);
        match next {
            Next::Stop => return Ok(()),
            Next::Go => pause.readable(false).await?,
            Next::Wait => {
                // A bit that ends this wait leaves the ring's poll armed, because the kernel would have to search for
                // it to take it back.
                let reported = poll_fn(|context| match reports.as_mut().poll(context) {
                    Poll::Ready(result) => Poll::Ready(Some(result)),
                    Poll::Pending => bits.changed.poll(context).map(|()| None),
                });
                if let Some(result) = reported.await {
                    result?;
                    reports.set(ring.readable(false));
                }
            }
        }
    }
}

/// Runs a task, and ends the process if the task fails: a shard without its accept task or its clock would look alive
/// and take no connection.
async fn guard(task: impl Future<Output = io::Result<()>>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a shard cannot go on");
        std::process::exit(1);
    }
}

/// Sets a listener's bit whenever its queue has connections, until the shard listens no more.
async fn watch_listener(bits: Rc<Bits>, number: usize, descriptor: OwnedFd) -> io::Result<()> {
    let descriptor = pollable(descriptor)?;
    let listener = &bits.listeners[number];
    loop {
        descriptor.readable(false).await?;
        listener.is_ready.set(true);
        bits.changed.set();
        listener.taken.wait().await;
        match listener.queue.take() {
            Some(Queue::Exhausted) => monoio::time::sleep(EXHAUSTED_PAUSE).await,
            Some(Queue::Closed) => return Ok(()),
            _ => {}
        }
    }
}

async fn watch_clock(bits: Rc<Bits>) -> io::Result<()> {
    let mut ticks = monoio::time::interval(Duration::from_millis(TICK_MS));
    loop {
        ticks.tick().await;
        bits.tick.set(true);
        bits.changed.set();
    }
}
