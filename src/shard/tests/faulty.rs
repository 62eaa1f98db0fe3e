//! A kernel with faults that a real one seldom has, drawn from a seed: sends are taken in part or not at all or meet a
//! lack of memory, reports come late, and bytes are received in small pieces or later.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::ring::{Completion, Ring};
use crate::sys::socket;

/// The faults that a shard's [`Io`](crate::shard::io::Io) is given.
#[derive(Debug)]
pub(in crate::shard) struct Faults {
    rng: fastrand::Rng,
    /// The number of operations of 256 that have a fault.
    rate: u8,
    /// The reports that are held back.
    late: VecDeque<Completion>,
    /// The numbers of faults by kind: short, refused and starved sends, short and late receives, late reports, interrupted
    /// receives.
    pub(in crate::shard) counts: [u64; 7],
}

impl Faults {
    pub(in crate::shard) fn new(seed: u64, rate: u8) -> Faults {
        Faults { rng: fastrand::Rng::with_seed(seed), rate, late: VecDeque::new(), counts: [0; 7] }
    }

    fn strikes(&mut self) -> bool {
        self.rng.u8(..) < self.rate
    }

    /// Forgets the reports that are held back: they are of a ring that is not used any more.
    pub(in crate::shard) fn forget_reports(&mut self) {
        self.late.clear();
    }

    /// Ends the faults. Reports that are held back come next.
    pub(in crate::shard) fn end(&mut self) {
        self.rate = 0;
    }

    /// Whether reports are held back. The ring's descriptor does not show these.
    pub(in crate::shard) fn holds_reports_back(&self) -> bool {
        !self.late.is_empty()
    }

    /// Holds some reports back, and releases others that were held back before.
    pub(in crate::shard) fn delay_reports(&mut self, out: &mut Vec<Completion>) {
        let mut now: Vec<Completion> = Vec::new();
        while !self.late.is_empty() && !self.strikes() {
            now.extend(self.late.pop_front());
        }
        for report in out.drain(..) {
            // A report stays behind earlier ones that are held back.
            if !self.late.is_empty() || self.strikes() {
                self.counts[5] += 1;
                self.late.push_back(report);
            } else {
                now.push(report);
            }
        }
        out.append(&mut now);
    }

    /// Sends with faults: a send may be taken in part, or meet a full socket or a kernel without memory.
    pub(in crate::shard) fn send_batch<'a>(
        &mut self,
        ring: &mut Ring,
        sends: impl Iterator<Item = (BorrowedFd<'a>, &'a [u8])>,
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        let mut all = Vec::new();
        let mut faults = Vec::new();
        for (fd, bytes) in sends {
            let fault = if self.strikes() { self.rng.u8(..3) } else { 3 };
            let part = match fault {
                0 if bytes.len() > 1 => &bytes[..self.rng.usize(1..bytes.len())],
                1 | 2 => &bytes[..0],
                _ => bytes,
            };
            faults.push(fault);
            all.push((fd, part));
        }
        ring.send_batch(all.into_iter(), results)?;
        for (fault, result) in faults.into_iter().zip(results) {
            match fault {
                0 => self.counts[0] += 1,
                1 => (*result, self.counts[1]) = (-libc::EAGAIN, self.counts[1] + 1),
                2 => (*result, self.counts[2]) = (-libc::ENOBUFS, self.counts[2] + 1),
                _ => {}
            }
        }
        Ok(())
    }

    /// Receives with faults: the kernel may give fewer bytes than it has, have none yet, or be interrupted.
    pub(in crate::shard) fn receive(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        if self.strikes() {
            let fault = self.rng.usize(..3);
            self.counts[[3, 4, 6][fault]] += 1;
            match fault {
                1 => return Err(io::ErrorKind::WouldBlock.into()),
                2 => return Err(io::ErrorKind::Interrupted.into()),
                _ => {}
            }
            let length = self.rng.usize(1..=16.min(buffer.len()));
            return socket::receive(fd, &mut buffer[..length]);
        }
        socket::receive(fd, buffer)
    }
}

impl super::Model {
    /// A model with faults of the kernel, and with a queue to the shard that is full at times.
    pub(in crate::shard) fn with_faults(seed: u64) -> super::Model {
        let mut model = super::Model::with_queue(seed, super::BATCHES_FEW);
        let rate = model.rng.u8(1..80);
        model.shard.wire.io.faults = Some(Faults::new(seed, rate));
        model
    }

    /// A model whose slow clients have little memory, with faults of the kernel for every other seed.
    pub(in crate::shard) fn with_little_memory(seed: u64) -> super::Model {
        let mut model = if seed.is_multiple_of(2) { super::Model::new(seed) } else { super::Model::with_faults(seed) };
        model.shard.cx.settings.lag_memory = super::LITTLE_MEMORY;
        model
    }
}
