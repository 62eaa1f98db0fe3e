//! The kernel's figures of a server's process and of the host.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BenchError;
use crate::sys::affinity::usable_cores;
use crate::sys::clock::unix_ms;
use crate::sys::process::kib;

/// The processor time that all threads of `pid` have used, in nanoseconds.
///
/// The scheduler's own sums are exact, where `/proc/PID/stat` counts in steps of 10 ms. Threads that have ended are
/// left out, so values from before and after the end of a thread must not be compared.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64, BenchError> {
    sum_of_threads(pid, |_| true)
}

/// Like [`cpu_ns`], of the threads with a name.
pub(crate) fn thread_cpu_ns(pid: u32, name: &str) -> Result<u64, BenchError> {
    let has_name = |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    sum_of_threads(pid, has_name)
}

fn sum_of_threads(pid: u32, counts: impl Fn(&Path) -> bool) -> Result<u64, BenchError> {
    let tasks = format!("/proc/{pid}/task");
    let gone = |source| BenchError::Io { doing: format!("reading the server's processor time in {tasks}"), source };
    let mut sum = 0;
    for task in fs::read_dir(&tasks).map_err(gone)? {
        let task = task.map_err(gone)?.path();
        if !counts(&task) {
            continue;
        }
        let path = task.join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(line) = fs::read_to_string(path) else { continue };
        sum += line.split_whitespace().next().and_then(|run| run.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// The user-space memory of `pid`: its resident anonymous pages, in bytes.
pub(crate) fn rss_anon(pid: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path)
        .map_err(|source| BenchError::Io { doing: format!("reading the server's memory in {path}"), source })?;
    Ok(kib(&status, "RssAnon").unwrap_or(0))
}

/// The host's memory in the kernel's slabs and in TCP's buffers, in bytes: sockets are most of it under load.
pub(crate) fn kernel_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let slab = kib(&meminfo, "Slab").unwrap_or(0);
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = field(&sockstat, "TCP:").and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    // TCP's buffers are counted in pages.
    slab + tcp * 4096
}

/// The processes that hold a listening socket of a port.
pub(crate) fn listeners(port: u16) -> Vec<u32> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_there = fields.get(1)?.ends_with(&format!(":{port:04X}")) && *fields.get(3)? == LISTEN;
            is_there.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
        })
        .collect();
    let holds = |pid: &u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(holds).collect()
}

/// The host that a report was measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Memory of the host, in bytes.
    pub(crate) memory_bytes: u64,
    /// The most descriptors one table may hold.
    pub(crate) descriptors: u64,
    /// The time of the run, UTC.
    pub(crate) date: String,
    /// The version of this program.
    pub(crate) version: String,
}

impl Host {
    /// The host as it is now.
    pub(crate) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let seconds = unix_ms() / 1000;
        Self {
            kernel,
            cpu: field(&cpuinfo, "model name").map_or_else(unknown, |name| name.trim_start_matches([':', ' ']).into()),
            cores: usable_cores().len(),
            memory_bytes: kib(&meminfo, "MemTotal").unwrap_or(0),
            descriptors: descriptor_limit(),
            date: utc(seconds),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The soft `RLIMIT_NOFILE` of this process.
pub(crate) fn descriptor_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    field(&limits, "Max open files").and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(1024)
}

/// The rest of the first line that starts with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Seconds since 1970 as `2026-01-31T12:34:56Z`: civil-from-days of Howard Hinnant's date algorithms.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_figures_are_there() {
        let pid = std::process::id();
        assert!(cpu_ns(pid).unwrap() > 0);
        assert_eq!(thread_cpu_ns(pid, "no thread has it").unwrap(), 0);
        assert!(rss_anon(pid).unwrap() > 100_000);
        assert!(descriptor_limit() > 0);
        assert!(!usable_cores().is_empty());
        assert!(cpu_ns(u32::MAX).is_err());
    }

    #[test]
    fn who_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listeners(port), [std::process::id()]);
        drop(listener);
        // Another test may just be copying the descriptor table, and hold it open a moment longer.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !listeners(port).is_empty() {
            assert!(std::time::Instant::now() < deadline, "nobody listens there any more");
        }
        assert!(kernel_bytes() > 1_000_000);
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_767_225_599), "2025-12-31T23:59:59Z");
    }
}
