//! Waking another thread: an eventfd that is written once per batch, not once per message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The wake-up of a receiving thread, shared with all threads that may ring it.
///
/// The descriptor must exist before any thread takes a private descriptor table: only then does its number mean the same
/// file in all tables.
#[derive(Clone, Debug)]
pub struct Wake {
    shared: Arc<Shared<AtomicBool>>,
}

/// The memory that both sides share, behind a trait so that a test can switch threads between any two steps.
trait Flag: Default {
    fn exchange(&self, value: bool) -> bool;
    fn is_set(&self) -> bool;
}

impl Flag for AtomicBool {
    fn exchange(&self, value: bool) -> bool {
        self.swap(value, Ordering::SeqCst)
    }

    fn is_set(&self) -> bool {
        self.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Shared<F> {
    eventfd: OwnedFd,
    /// Set by a sender that rings, cleared by the receiver before it drains: while it is set, another write is not needed.
    pending: F,
}

impl<F: Flag> Shared<F> {
    fn new() -> io::Result<Shared<F>> {
        // SAFETY: eventfd takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened by this call and nobody else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Shared { eventfd, pending: F::default() })
    }

    fn ring(&self) {
        if self.pending.exchange(true) {
            return;
        }
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live on this stack frame, as eventfd(2) asks for.
        let written = unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        debug_assert_eq!(written, 8, "an eventfd that is drained now and then takes every write");
    }

    fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes on this stack frame. An empty counter is no error here.
        unsafe { libc::read(self.eventfd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        // An exchange, not a store: reading the sender's write makes its messages, queued before, visible here.
        self.pending.exchange(false);
    }
}

impl Wake {
    /// Makes a wake-up that has not been rung.
    pub fn new() -> io::Result<Wake> {
        Ok(Wake { shared: Arc::new(Shared::new()?) })
    }

    /// Wakes the receiver, unless a wake-up is already on its way to it.
    pub fn ring(&self) {
        self.shared.ring();
    }

    /// Whether a thread has rung since the last [`Wake::clear`]. Costs no system call.
    pub fn is_rung(&self) -> bool {
        self.shared.pending.is_set()
    }

    /// Makes further senders ring again. The receiver calls this before it drains its queue.
    ///
    /// The descriptor is read in any case: a sender may have written after an earlier `clear` has cleared its mark, and a
    /// receiver that waits for the level, not for the edge, would be woken by that write for ever.
    pub fn clear(&self) {
        self.shared.clear();
    }

    /// A second descriptor of the same wake-up, to wait for. It belongs to the table of the calling thread.
    pub fn waitable(&self) -> io::Result<OwnedFd> {
        self.shared.eventfd.try_clone()
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ring::Ring;

    #[test]
    fn rings_once_until_cleared() {
        let wake = Wake::new().unwrap();
        let mut ring = Ring::new(64).unwrap();
        ring.arm_multishot_poll(wake.as_fd(), 9).unwrap();
        ring.submit().unwrap();
        let count = |ring: &mut Ring| {
            let mut out = Vec::new();
            ring.submit().unwrap();
            while ring.completions(&mut out, 16) {}
            out.len()
        };
        wake.ring();
        wake.ring();
        assert_eq!(count(&mut ring), 1);
        wake.clear();
        wake.ring();
        assert_eq!(count(&mut ring), 1);
    }

    #[test]
    fn a_late_write_is_cleared_too() {
        let wake = Wake::new().unwrap();
        wake.ring();
        // As if the receiver had looked between the two steps of `ring`.
        wake.shared.pending.store(false, Ordering::SeqCst);
        wake.clear();
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes on this stack frame.
        let read = unsafe { libc::read(wake.as_fd().as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        assert_eq!(read, -1, "nothing is left that would wake a waiter again");
    }
    impl Flag for shuttle::sync::atomic::AtomicBool {
        fn exchange(&self, value: bool) -> bool {
            self.swap(value, Ordering::SeqCst)
        }

        fn is_set(&self) -> bool {
            self.load(Ordering::SeqCst)
        }
    }

    /// Whether a waiter would be woken.
    fn is_readable(fd: &OwnedFd) -> bool {
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    /// Two threads queue and ring, a third waits, clears and drains, in any order the scheduler can think of.
    fn hand_over(clears_after_draining: bool) {
        const EACH: usize = 3;
        let shared: Arc<Shared<shuttle::sync::atomic::AtomicBool>> = Arc::new(Shared::new().unwrap());
        let queue = Arc::new(shuttle::sync::Mutex::new(0));
        for _ in 0..2 {
            let (shared, queue) = (shared.clone(), queue.clone());
            shuttle::thread::spawn(move || {
                for _ in 0..EACH {
                    *queue.lock().unwrap() += 1;
                    shared.ring();
                }
            });
        }
        let mut taken = 0;
        while taken < 2 * EACH {
            if !is_readable(&shared.eventfd) {
                shuttle::thread::yield_now();
                continue;
            }
            if !clears_after_draining {
                shared.clear();
            }
            taken += std::mem::take(&mut *queue.lock().unwrap());
            if clears_after_draining {
                shared.clear();
            }
        }
    }

    #[test]
    fn no_wake_up_is_lost_in_any_order() {
        shuttle::check_random(|| hand_over(false), 5_000);
        shuttle::check_pct(|| hand_over(false), 5_000, 4);
    }

    #[test]
    #[should_panic]
    fn clearing_after_draining_would_lose_one() {
        shuttle::check_random(|| hand_over(true), 5_000);
    }
}
