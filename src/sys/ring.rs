//! The lean ring: readiness of many parked sockets, and batches of sends.
//!
//! Two uses of io_uring only. *Polls* of connections report once, and hold no memory of ours. There is no way to take one
//! back: the kernel would look for it in a table of 256 lists, which with 100,000 polls takes longer than all else that a
//! connection costs. Who wants a connection's polls to end shuts it down, and they report that. *Sends* are submitted as
//! a batch whose memory is borrowed for the length of one call: each carries `MSG_DONTWAIT`, so the kernel completes it
//! while it is submitted, and the call returns only when every completion of the batch has been seen. So no buffer is
//! ever in flight between two calls, and no reference counting is needed to keep one alive.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::process;

/// Readable: there is data, or the peer has closed.
pub const POLL_IN: u32 = libc::POLLIN as u32;
/// Writable again after a send that the kernel had no room for.
pub const POLL_OUT: u32 = libc::POLLOUT as u32;
/// The peer has closed its sending side.
pub const POLL_RDHUP: u32 = libc::POLLRDHUP as u32;
/// The connection is broken.
pub const POLL_ERR: u32 = libc::POLLERR as u32;
/// Both directions are closed.
pub const POLL_HUP: u32 = libc::POLLHUP as u32;

/// The most sends that one [`Ring::send_batch`] takes.
pub const SEND_BATCH_MAX: usize = 512;

/// The first pause after the kernel had no memory for the ring's operations.
const HUNGRY_PAUSE_MIN: Duration = Duration::from_micros(250);
/// The longest such pause.
const HUNGRY_PAUSE_MAX: Duration = Duration::from_millis(50);
/// The tries in a row after which the kernel is not waited for any more: some half a minute.
const HUNGRY_TRIES_MAX: u32 = 600;

/// `user_data` of sends: this bit and the index within the batch. Callers' own values stay below it.
const SEND_TAG: u64 = 1 << 63;
/// What a poll reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the poll was armed with.
    pub user_data: u64,
    /// The ready events as `POLL_…` bits, or a negative error number.
    pub result: i32,
    /// Whether more may come from the same poll.
    pub armed: bool,
}

/// What the ring counted since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingCounters {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Operations handed over in those.
    pub submissions: u64,
    /// Times the completion queue was found to have overflowed into the kernel.
    pub overflows: u64,
    /// Times the kernel had no memory for the operations.
    pub hungry: u64,
}

/// One io_uring, owned by one thread.
pub struct Ring {
    inner: IoUring,
    /// Poll completions seen while a batch of sends was being reaped.
    stashed: VecDeque<Completion>,
    /// Scratch for building a batch before any of it reaches the submission queue.
    entries: Vec<squeue::Entry>,
    counters: RingCounters,
    /// The tries in a row for which the kernel had no memory.
    hungry: u32,
    /// The next calls that fail for want of memory.
    #[cfg(test)]
    refusals: u32,
}

impl Ring {
    /// Makes a ring for the calling thread, with room for `completions_max` completions.
    ///
    /// # Errors
    /// What the kernel says; [`explain_setup_error`] turns it into a sentence.
    pub fn new(completions_max: u32) -> io::Result<Ring> {
        let inner = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions_max.max(SEND_BATCH_MAX as u32 * 4))
            .setup_clamp()
            .dontfork()
            .build(SEND_BATCH_MAX as u32 * 2)?;
        Ok(Ring {
            inner,
            stashed: VecDeque::new(),
            entries: Vec::with_capacity(SEND_BATCH_MAX),
            counters: RingCounters::default(),
            hungry: 0,
            #[cfg(test)]
            refusals: 0,
        })
    }

    /// A descriptor that is readable while completions wait.
    pub fn waitable(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring's descriptor is open for as long as `self.inner` lives, which outlasts this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) };
        borrowed.try_clone_to_owned()
    }

    /// What was counted so far.
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Reports once when one of `events` holds for `fd`, which may be now; the completion carries `user_data`, which
    /// must be below 2^63. That the connection is broken or over in both directions is always reported.
    ///
    /// The descriptor may be closed only after the completion.
    pub fn arm_poll(&mut self, fd: BorrowedFd<'_>, events: u32, user_data: u64) -> io::Result<()> {
        assert!(user_data < SEND_TAG, "the highest bit of user_data is the ring's own");
        self.push(&opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).build().user_data(user_data))
    }

    /// Reports each time `fd` becomes readable, for as long as the completions say that the poll is armed.
    pub fn arm_multishot_poll(&mut self, fd: BorrowedFd<'_>, user_data: u64) -> io::Result<()> {
        assert!(user_data < SEND_TAG, "the highest bit of user_data is the ring's own");
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), POLL_IN).multi(true).build();
        self.push(&entry.user_data(user_data))
    }

    /// Makes the ring's descriptor readable by a completion that carries `user_data`.
    pub fn nudge(&mut self, user_data: u64) -> io::Result<()> {
        assert!(user_data < SEND_TAG, "the highest bit of user_data is the ring's own");
        self.push(&opcode::Nop::new().build().user_data(user_data))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: poll and nop entries refer to no memory of this process.
            if unsafe { self.inner.submission().push(entry) }.is_ok() {
                self.counters.submissions += 1;
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Hands everything pushed so far to the kernel.
    pub fn submit(&mut self) -> io::Result<()> {
        if self.inner.submission().is_empty() {
            return Ok(());
        }
        self.enter(0, &mut []).map(|_| ())
    }

    /// Enters the kernel once; returns the number of sends whose completions had to be taken for it, with their results in
    /// `results`.
    fn enter(&mut self, want: usize, results: &mut [i32]) -> io::Result<usize> {
        self.counters.enters += 1;
        let error = match self.try_enter(want) {
            Ok(_) => {
                self.hungry = 0;
                return Ok(0);
            }
            Err(error) => error,
        };
        let stashed = self.stashed.len();
        match error.raw_os_error() {
            // EBUSY: completions must be taken first. EAGAIN: that too may help, if the kernel has no memory.
            Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => {
                let sends = self.stash_completions(results);
                let is_stuck =
                    error.raw_os_error() == Some(libc::EAGAIN) && sends == 0 && self.stashed.len() == stashed;
                if is_stuck {
                    self.wait_for_memory(error)?;
                }
                Ok(sends)
            }
            _ => Err(error),
        }
    }

    fn try_enter(&mut self, want: usize) -> io::Result<usize> {
        #[cfg(test)]
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        self.inner.submit_and_wait(want)
    }

    /// Pauses before the next try, because the kernel has no memory for the ring's operations. The pauses double up to
    /// [`HUNGRY_PAUSE_MAX`]: trying at once, again and again, would take the processor from the threads that could give
    /// memory back.
    ///
    /// # Errors
    /// The kernel's error after [`HUNGRY_TRIES_MAX`] tries.
    fn wait_for_memory(&mut self, error: io::Error) -> io::Result<()> {
        self.counters.hungry += 1;
        self.hungry += 1;
        if self.hungry > HUNGRY_TRIES_MAX {
            return Err(error);
        }
        let pause = HUNGRY_PAUSE_MIN * (1 << (self.hungry - 1).min(8));
        std::thread::sleep(pause.min(HUNGRY_PAUSE_MAX));
        Ok(())
    }

    /// Sends each slice on its socket without blocking; `results[i]` is then the number of bytes taken or a
    /// negative error number (`-EAGAIN`: no room).
    ///
    /// Takes at most [`SEND_BATCH_MAX`] sends; whatever else was pushed goes along in the same call.
    ///
    /// # Errors
    /// Only if the ring itself is broken.
    pub fn send_batch<'a>(
        &mut self,
        sends: impl Iterator<Item = (BorrowedFd<'a>, &'a [u8])>,
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        self.entries.clear();
        for (fd, bytes) in sends.take(SEND_BATCH_MAX) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let entry = opcode::Send::new(types::Fd(fd.as_raw_fd()), bytes.as_ptr(), length)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(SEND_TAG | self.entries.len() as u64);
            self.entries.push(entry);
        }
        let count = self.entries.len();
        results.clear();
        results.resize(count, PENDING);
        if count == 0 {
            return self.submit();
        }
        self.counters.submissions += count as u64;
        let queue = self.inner.submission();
        let room = queue.capacity() - queue.len();
        drop(queue);
        if room < count {
            self.submit()?;
        }
        // SAFETY: the entries point into slices that are borrowed for `'a`, which outlasts this call. From here
        // on the function returns only once every one of these operations has completed (`reap_sends`), and
        // aborts the process if that becomes impossible, so the kernel never reads them after the borrow ends.
        if unsafe { self.inner.submission().push_multiple(&self.entries) }.is_err() {
            return Err(io::Error::other("the submission queue has no room for a batch of sends"));
        }
        self.reap_sends(results);
        Ok(())
    }

    fn reap_sends(&mut self, results: &mut [i32]) {
        let mut missing = results.len();
        while missing > 0 {
            // Sends complete while they are submitted, so one enter normally brings all of them; `want` counts
            // what lies in the queue already, so it can only return early, never hang on a poll's completion.
            let taken = self.enter(1, results).unwrap_or_else(|error| {
                process::say_at_once(&format!("ringcast: the ring broke while sends were in flight: {error}\n"));
                // Returning would end the borrow of memory that the kernel may still read.
                std::process::abort();
            });
            missing -= taken + self.stash_completions(results);
        }
    }

    /// Moves all completions out of the queue: sends into `results`, polls into the stash. Returns how many
    /// sends there were.
    fn stash_completions(&mut self, results: &mut [i32]) -> usize {
        let mut sends = 0;
        let Ring { inner, stashed, .. } = self;
        for entry in inner.completion() {
            let user_data = entry.user_data();
            if user_data & SEND_TAG != 0 {
                let index = (user_data & !SEND_TAG) as usize;
                debug_assert_eq!(results.get(index), Some(&PENDING), "one completion per send");
                if let Some(result) = results.get_mut(index) {
                    *result = entry.result();
                    sends += 1;
                }
            } else {
                stashed.push_back(completion_of(&entry));
            }
        }
        sends
    }

    /// Appends up to `max` completions to `out`, oldest first; returns whether there may be more.
    pub fn completions(&mut self, out: &mut Vec<Completion>, max: usize) -> bool {
        let Ring { inner, stashed, .. } = self;
        let mut left = max;
        while left > 0
            && let Some(completion) = stashed.pop_front()
        {
            out.push(completion);
            left -= 1;
        }
        if stashed.is_empty() && stashed.capacity() > 4096 {
            stashed.shrink_to(1024);
        }
        let mut queue = inner.completion();
        while left > 0
            && let Some(entry) = queue.next()
        {
            out.push(completion_of(&entry));
            left -= 1;
        }
        drop(queue);
        // What did not fit the queue waits in the kernel until it is asked for.
        let has_overflowed = inner.submission().cq_overflow();
        self.counters.overflows += u64::from(has_overflowed);
        if (has_overflowed || inner.submission().taskrun()) && left > 0 {
            let _ = self.enter_for_events();
            return true;
        }
        left == 0
    }

    /// Whether completions were taken over while sends were waited for: the ring's descriptor does not tell of them.
    pub fn has_stashed(&self) -> bool {
        !self.stashed.is_empty()
    }

    /// Lets the kernel run what it deferred and hand over what overflowed, without waiting.
    fn enter_for_events(&mut self) -> io::Result<()> {
        self.counters.enters += 1;
        // SAFETY: no argument is passed, so the kernel reads no memory of ours; entries already pushed are polls
        // and nops, which refer to none either (sends never stay in the queue between calls).
        unsafe { self.inner.submitter().enter::<libc::sigset_t>(0, 0, libc_enter_getevents(), None) }.map(|_| ())
    }
}

/// A result no operation can have: a send that has not completed yet.
const PENDING: i32 = i32::MIN;

/// `IORING_ENTER_GETEVENTS`.
const fn libc_enter_getevents() -> u32 {
    1
}

fn completion_of(entry: &cqueue::Entry) -> Completion {
    Completion { user_data: entry.user_data(), result: entry.result(), armed: cqueue::more(entry.flags()) }
}

/// A sentence that says why no ring could be made and what to do about it.
pub fn explain_setup_error(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring; ringcast needs Linux 6.1 or newer".into(),
        Some(libc::EPERM | libc::EACCES) if disabled.trim() != "0" && !disabled.is_empty() => format!(
            "io_uring is switched off on this host (kernel.io_uring_disabled = {}); \
             set it with: sysctl kernel.io_uring_disabled=0",
            disabled.trim()
        ),
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden to this process, most likely by a seccomp filter (a container's default profile)"
                .into()
        }
        Some(libc::EINVAL) => "this kernel's io_uring lacks what ringcast uses; it needs Linux 6.1 or newer".into(),
        Some(libc::ENOMEM) => {
            "no memory may be locked for io_uring; raise the limit (LimitMEMLOCK=infinity, or ulimit -l unlimited)"
                .into()
        }
        _ => format!("io_uring cannot be set up: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn collect(ring: &mut Ring) -> Vec<Completion> {
        ring.submit().unwrap();
        let mut out = Vec::new();
        while ring.completions(&mut out, 64) {}
        out
    }

    #[test]
    fn a_batch_of_sends_arrives_in_one_call() {
        let mut ring = Ring::new(256).unwrap();
        let pairs: Vec<_> = (0..SEND_BATCH_MAX).map(|_| UnixStream::pair().unwrap()).collect();
        let texts: Vec<_> = (0..pairs.len()).map(|i| format!("text {i}")).collect();
        let mut results = Vec::new();
        let sends = pairs.iter().zip(&texts).map(|((a, _), text)| (a.as_fd(), text.as_bytes()));
        ring.send_batch(sends, &mut results).unwrap();
        for (((_, peer), text), result) in pairs.iter().zip(&texts).zip(&results) {
            assert_eq!(*result as usize, text.len());
            let mut read = vec![0; text.len()];
            (&*peer).read_exact(&mut read).unwrap();
            assert_eq!(read, text.as_bytes());
        }
    }

    #[test]
    fn a_full_socket_says_so_and_tells_when_there_is_room_again() {
        let mut ring = Ring::new(256).unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        let block = vec![1u8; 1 << 20];
        let mut results = Vec::new();
        let mut sent = 0;
        loop {
            ring.send_batch([(a.as_fd(), &block[..])].into_iter(), &mut results).unwrap();
            if results[0] == -libc::EAGAIN {
                break;
            }
            sent += results[0] as usize;
        }
        ring.arm_poll(a.as_fd(), POLL_OUT, 7).unwrap();
        assert_eq!(collect(&mut ring), []);
        let mut read = vec![0; sent];
        b.read_exact(&mut read).unwrap();
        let completions = collect(&mut ring);
        assert!(
            matches!(completions[..], [Completion { user_data: 7, result, armed: false }] if result as u32 & POLL_OUT != 0)
        );
    }

    #[test]
    fn a_poll_reports_once_what_comes_and_what_is_there() {
        let mut ring = Ring::new(256).unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        for round in 0..3 {
            ring.arm_poll(a.as_fd(), POLL_IN, 42).unwrap();
            let before = collect(&mut ring);
            assert_eq!(before.len(), usize::from(round > 0), "the bytes of the round before are still unread");
            b.write_all(b"x").unwrap();
            let after = collect(&mut ring);
            assert_eq!(before.len() + after.len(), 1);
            assert!(before.iter().chain(&after).all(|c| c.user_data == 42 && c.result as u32 & POLL_IN != 0));
        }
    }

    #[test]
    fn a_multishot_poll_reports_again_and_again() {
        let mut ring = Ring::new(256).unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        ring.arm_multishot_poll(a.as_fd(), 42).unwrap();
        assert_eq!(collect(&mut ring), []);
        for _ in 0..3 {
            b.write_all(b"x").unwrap();
            let completions = collect(&mut ring);
            assert!(completions.iter().all(|c| c.user_data == 42 && c.armed && c.result as u32 & POLL_IN != 0));
            assert_eq!(completions.len(), 1);
        }
    }

    #[test]
    fn polls_end_when_their_connection_is_shut_down_whatever_they_wait_for() {
        let mut ring = Ring::new(256).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        for fd in [tcp.as_fd(), unix.as_fd()] {
            ring.arm_poll(fd, POLL_IN | POLL_RDHUP, 1).unwrap();
            ring.arm_poll(fd, 0, 2).unwrap();
            assert_eq!(collect(&mut ring), []);
            // One that the kernel does not have yet when it happens.
            ring.arm_poll(fd, 0, 3).unwrap();
            crate::sys::socket::shutdown(fd);
            let mut seen: Vec<u64> = collect(&mut ring).iter().map(|completion| completion.user_data).collect();
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3]);
        }
    }

    #[test]
    fn poll_completions_that_come_with_sends_are_kept() {
        let mut ring = Ring::new(256).unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        ring.arm_poll(a.as_fd(), POLL_IN, 1).unwrap();
        ring.submit().unwrap();
        b.write_all(b"in").unwrap();
        let mut results = Vec::new();
        ring.send_batch([(a.as_fd(), &b"out"[..])].into_iter(), &mut results).unwrap();
        assert_eq!(results, [3]);
        assert!(ring.has_stashed(), "waiting on the descriptor would not end for this one");
        assert_eq!(collect(&mut ring).len(), 1);
        assert!(!ring.has_stashed());
        let RingCounters { enters, submissions, overflows, hungry } = ring.counters();
        assert!(enters >= 2 && submissions == 2 && overflows == 0 && hungry == 0);
    }

    #[test]
    fn a_kernel_without_memory_is_asked_again_after_pauses() {
        let mut ring = Ring::new(256).unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        ring.refusals = 12;
        let begun = std::time::Instant::now();
        let mut results = Vec::new();
        ring.send_batch([(a.as_fd(), &b"late"[..])].into_iter(), &mut results).unwrap();
        // The pauses double: a quarter of a millisecond, half a one, … and then 50 ms each.
        assert!(begun.elapsed() > Duration::from_millis(200), "{:?}", begun.elapsed());
        assert_eq!((&results[..], ring.counters().hungry, ring.hungry), (&[4][..], 12, 0));
        let mut read = [0; 4];
        std::io::Read::read_exact(&mut b, &mut read).unwrap();
        assert_eq!(&read, b"late");
        // What was not handed over stays in the queue.
        ring.arm_poll(b.as_fd(), POLL_IN, 7).unwrap();
        ring.refusals = 1;
        ring.submit().unwrap();
        ring.submit().unwrap();
        ring.send_batch([(a.as_fd(), &b"more"[..])].into_iter(), &mut results).unwrap();
        assert_eq!(results, [4]);
        assert_eq!(collect(&mut ring).iter().map(|completion| completion.user_data).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_kernel_that_never_has_memory_is_given_up() {
        let mut ring = Ring::new(256).unwrap();
        ring.refusals = u32::MAX;
        ring.hungry = HUNGRY_TRIES_MAX;
        ring.nudge(1).unwrap();
        assert_eq!(ring.submit().unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn a_send_to_a_gone_peer_is_an_error_not_a_signal() {
        let mut ring = Ring::new(256).unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        let mut results = vec![1];
        // Another test may just be copying the descriptor table, and hold the other end open a moment longer.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while results == [1] && std::time::Instant::now() < deadline {
            ring.send_batch([(a.as_fd(), &b"x"[..])].into_iter(), &mut results).unwrap();
        }
        assert_eq!(results, [-libc::EPIPE]);
    }

    #[test]
    fn a_completion_queue_that_overflows_loses_nothing() {
        let mut ring = Ring::new(1024).unwrap();
        let pairs: Vec<_> = (0..6000).map(|_| UnixStream::pair().unwrap()).collect();
        for (i, (a, _)) in pairs.iter().enumerate() {
            ring.arm_poll(a.as_fd(), POLL_IN, i as u64).unwrap();
        }
        ring.submit().unwrap();
        for (_, b) in &pairs {
            (&*b).write_all(b"x").unwrap();
        }
        let mut seen = std::collections::HashSet::new();
        let mut out = Vec::new();
        for _ in 0..200 {
            out.clear();
            ring.completions(&mut out, 256);
            seen.extend(out.iter().map(|c| c.user_data));
            let _ = ring.enter_for_events();
        }
        assert_eq!(seen.len(), pairs.len());
    }

    #[test]
    fn a_nudge_makes_the_ring_readable() {
        let mut ring = Ring::new(256).unwrap();
        let waitable = ring.waitable().unwrap();
        ring.nudge(5).unwrap();
        ring.submit().unwrap();
        let mut poll = libc::pollfd { fd: waitable.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives on this stack frame, and its count.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, 1000) }, 1);
        assert_eq!(collect(&mut ring), [Completion { user_data: 5, result: 0, armed: false }]);
    }
}
