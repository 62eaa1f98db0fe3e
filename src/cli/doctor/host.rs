//! Facts about the host, read from files of /proc and /sys below a root, so that tests can make up hosts.

use std::path::PathBuf;

use crate::sys::process::kib;

/// A host, by the root of its file system.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

/// A network card of the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Card {
    /// The name of the interface.
    pub(super) name: String,
    /// How many queues it receives by.
    pub(super) receive_queues: usize,
    /// Whether the kernel spreads the packets of one queue over several cores (RPS).
    pub(super) spreads: bool,
}

impl Host {
    /// The host that this process runs on.
    pub(super) fn this() -> Host {
        Host { root: "/".into() }
    }

    /// A made-up host.
    #[cfg(test)]
    pub(super) fn at(root: PathBuf) -> Host {
        Host { root }
    }

    /// A file's text without white space around it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        Some(std::fs::read_to_string(self.root.join(path)).ok()?.trim().to_owned())
    }

    /// A kernel setting by its name in sysctl(8).
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        self.read(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// The first number of a setting.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.setting(name)?.split_whitespace().next()?.parse().ok()
    }

    /// All numbers of a setting.
    pub(super) fn numbers(&self, name: &str) -> Vec<u64> {
        let text = self.setting(name).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// The kernel's version: 6 and 1 for 6.1.0-13-amd64.
    pub(super) fn kernel(&self) -> Option<(u32, u32)> {
        let release = self.setting("kernel.osrelease")?;
        let mut parts = release.split(['.', '-', '+']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }

    /// A figure of /proc/meminfo, in bytes.
    pub(super) fn memory(&self, name: &str) -> Option<u64> {
        kib(&self.read("proc/meminfo")?, name)
    }

    /// The soft and the hard limit of descriptors of a process: a number, or `self`.
    pub(super) fn descriptor_limits(&self, process: &str) -> Option<(u64, u64)> {
        let text = self.read(&format!("proc/{process}/limits"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap_or(u64::MAX));
        Some((numbers.next()?, numbers.next()?))
    }

    /// The memory limit of a process's control group (version 2), if there is one.
    pub(super) fn memory_limit(&self, process: &str) -> Option<u64> {
        let groups = self.read(&format!("proc/{process}/cgroup"))?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        // A limit of a group further up holds as well.
        let ancestors = std::path::Path::new(path).ancestors();
        let limit = |path: &std::path::Path| self.read(&format!("sys/fs/cgroup/{}/memory.max", path.display()));
        ancestors.filter_map(limit).filter_map(|text| text.parse().ok()).min()
    }

    /// The network cards of hardware, by name.
    pub(super) fn cards(&self) -> Vec<Card> {
        let folder = self.root.join("sys/class/net");
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut cards: Vec<Card> = entries
            .filter(|entry| entry.path().join("device").exists())
            .map(|entry| {
                let queues = std::fs::read_dir(entry.path().join("queues")).into_iter().flatten().flatten();
                let queues: Vec<_> =
                    queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).collect();
                let mask = |queue: &std::fs::DirEntry| std::fs::read_to_string(queue.path().join("rps_cpus"));
                let spreads = queues.iter().filter_map(|queue| mask(queue).ok());
                Card {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    receive_queues: queues.len(),
                    spreads: spreads.into_iter().any(|mask| mask.contains(|c: char| c.is_ascii_hexdigit() && c != '0')),
                }
            })
            .collect();
        cards.sort_by(|a, b| a.name.cmp(&b.name));
        cards
    }
}
