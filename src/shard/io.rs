//! The kernel as a shard uses it: the shard's ring, and reads from its sockets. Tests put faults here.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::sys::ring::{Completion, Ring, RingCounters};
use crate::sys::socket;

#[cfg(test)]
use super::tests::faulty::Faults;

/// The shard's ring and sockets. In builds for tests an operation may be made to fail; otherwise this is the ring
/// alone.
pub(super) struct Io {
    ring: Ring,
    #[cfg(test)]
    pub(super) faults: Option<Faults>,
}

impl Io {
    /// Makes the ring; see [`Ring::new`].
    pub(super) fn new(completions_max: u32) -> io::Result<Io> {
        Ok(Io {
            ring: Ring::new(completions_max)?,
            #[cfg(test)]
            faults: None,
        })
    }

    /// See [`Ring::waitable`].
    pub(super) fn waitable(&self) -> io::Result<OwnedFd> {
        self.ring.waitable()
    }

    /// See [`Ring::counters`].
    pub(super) fn counters(&self) -> RingCounters {
        self.ring.counters()
    }

    /// See [`Ring::arm_poll`].
    pub(super) fn arm_poll(&mut self, fd: BorrowedFd<'_>, events: u32, user_data: u64) -> io::Result<()> {
        self.ring.arm_poll(fd, events, user_data)
    }

    /// See [`Ring::arm_multishot_poll`].
    pub(super) fn arm_multishot_poll(&mut self, fd: BorrowedFd<'_>, user_data: u64) -> io::Result<()> {
        self.ring.arm_multishot_poll(fd, user_data)
    }

    /// See [`Ring::submit`].
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    /// See [`Ring::has_stashed`].
    pub(super) fn has_stashed(&self) -> bool {
        #[cfg(test)]
        if self.faults.as_ref().is_some_and(Faults::holds_reports_back) {
            return true;
        }
        self.ring.has_stashed()
    }

    /// See [`Ring::completions`].
    pub(super) fn completions(&mut self, out: &mut Vec<Completion>, max: usize) -> bool {
        let more = self.ring.completions(out, max);
        #[cfg(test)]
        if let Some(faults) = &mut self.faults {
            faults.delay_reports(out);
        }
        more
    }

    /// See [`Ring::send_batch`].
    pub(super) fn send_batch<'a>(
        &mut self,
        sends: impl Iterator<Item = (BorrowedFd<'a>, &'a [u8])>,
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &mut self.faults {
            return faults.send_batch(&mut self.ring, sends, results);
        }
        self.ring.send_batch(sends, results)
    }

    /// See [`socket::receive`].
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(faults) = &mut self.faults {
            return faults.receive(fd, buffer);
        }
        socket::receive(fd, buffer)
    }
}
