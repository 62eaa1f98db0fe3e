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

/// Descriptors in the table of the calling thread; 0 where /proc does not tell.
pub fn descriptors() -> u64 {
    std::fs::read_dir("/proc/thread-self/fd").map_or(0, |list| list.count() as u64)
}

/// A figure that the kernel gives in kB, as in /proc/meminfo and /proc/PID/status, in bytes.
pub fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
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
    fn figures_in_kib_are_found_by_their_whole_name() {
        let text = "MemTotalX:  1 kB\nMemTotal:       24684084 kB\nSlab: many\n";
        assert_eq!(kib(text, "MemTotal"), Some(24_684_084 * 1024));
        assert_eq!((kib(text, "Mem"), kib(text, "Slab")), (None, None));
    }
}
