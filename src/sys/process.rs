//! The resources that this process uses, as the kernel counts them.

use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Resources that this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Anonymous memory in RAM (RssAnon of proc_pid_status(5)); 0 where /proc does not tell.
    pub memory_bytes: u64,
    /// Processor time of all threads, in user space and in the kernel.
    pub cpu: Duration,
    /// The time since [`note_start`], or since the first call of [`usage`].
    pub uptime: Duration,
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Begins to count [`Usage::uptime`].
pub fn note_start() {
    LazyLock::force(&STARTED);
}

/// Asks the kernel for the resources that this process uses.
pub fn usage() -> Usage {
    Usage {
        memory_bytes: std::fs::read_to_string("/proc/self/status").map_or(0, |text| kib(&text, "RssAnon").unwrap_or(0)),
        cpu: cpu().unwrap_or_default(),
        uptime: STARTED.elapsed(),
    }
}

/// Descriptors in the table of the main thread, which is that of all threads without a table of their own; 0 where /proc does
/// not tell.
pub fn descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count() as u64)
}

/// What the kernel says that a thread of this process does, in a word (proc_pid_stat(5)).
pub fn thread_state(thread: i32) -> &'static str {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The thread's name stands in brackets before the state, and may hold any character.
    match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
        Some('R') => "running",
        Some('S') => "sleeping",
        Some('D') => "waiting in the kernel",
        Some('T' | 't') => "stopped",
        Some('Z' | 'X') => "ended",
        _ => "unknown",
    }
}

/// Whether a process of this number is there and has not ended.
pub fn is_there(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A figure that the kernel gives in kB, as in /proc/meminfo and /proc/PID/status, in bytes.
pub fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The host's own name (gethostname(2)); `None` if it has none, or one that is no UTF-8.
pub fn host_name() -> Option<String> {
    // Linux has names of 64 bytes at most.
    let mut name = [0u8; 65];
    // SAFETY: the buffer lives on this stack frame, and its last byte is not the kernel's to write.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } != 0 {
        return None;
    }
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?;
    Some(name.to_owned()).filter(|name| !name.is_empty() && name != "(none)")
}

/// Has a function called when the process ends by the end of `main` or by `std::process::exit` (atexit(3)). It must not
/// panic.
pub fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function is safe to call at any time and lives as long as the program. If the C library has no room for
    // it, it is not called.
    unsafe { libc::atexit(call) };
}

/// Ends the process with a status at once: nothing is called at its end, no thread is waited for, and no core is dumped.
pub fn end_at_once(status: i32) -> ! {
    // SAFETY: takes no pointers, and does not return.
    unsafe { libc::_exit(status) }
}

/// Writes a text to standard error unless it would have to wait for room, for the case that there is nothing else left to
/// say it with.
pub fn say_at_once(text: &str) {
    let mut poll = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointers are to this stack frame and to `text`, with their lengths. A pipe that poll(2) calls writable
    // takes PIPE_BUF bytes without waiting (pipe(7)).
    unsafe {
        if libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len().min(libc::PIPE_BUF));
        }
    }
}

fn cpu() -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to this stack frame, and the clock exists on every Linux.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something() {
        let usage = usage();
        assert!(usage.memory_bytes > 10_000 && usage.cpu > Duration::ZERO && descriptors() > 2, "{usage:?}");
    }

    #[test]
    fn a_threads_state_is_known() {
        assert_eq!(thread_state(crate::sys::stack::thread_id()), "running");
        assert_eq!(thread_state(0), "unknown");
    }

    #[test]
    fn the_host_has_the_name_that_the_kernel_knows() {
        let known = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(host_name().unwrap_or("(none)".into()), known.trim());
    }

    #[test]
    fn figures_in_kib_are_found_by_their_whole_name() {
        let text = "MemTotalX:  1 kB\nMemTotal:       24684084 kB\nSlab: many\n";
        assert_eq!(kib(text, "MemTotal"), Some(24_684_084 * 1024));
        assert_eq!((kib(text, "Mem"), kib(text, "Slab")), (None, None));
    }
}
