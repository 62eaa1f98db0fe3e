//! What can be wrong with a host, in the order of what hurts first.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::config::{Config, ListenAddress};

use super::host::Host;
use super::{Finding, Severity};

/// What a connection costs the process, by its own bench (docs/benchmarks.md), with something to spare.
const USER_BYTES: u64 = 400;
/// What a TCP socket costs the kernel while it is idle, by the same bench.
const KERNEL_BYTES: u64 = 4300;
/// Pages that tcp_mem counts.
const PAGE: u64 = 4096;
/// The oldest kernel that has what the ring needs.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// What is asked about.
pub(super) struct Question<'a> {
    pub(super) host: &'a Host,
    pub(super) config: &'a Config,
    /// Connections that there are to be.
    pub(super) connections: u64,
    pub(super) shards: u64,
    pub(super) cores: u64,
    /// The process whose limits hold: a running server's number, or `self`.
    pub(super) process: String,
    /// What the kernel said to an attempt to make a ring; `None` if it made one.
    pub(super) ring_error: Option<String>,
    pub(super) clock_is_synchronized: bool,
}

fn finding(severity: Severity, about: &'static str, found: String, why: &str, change: String) -> Finding {
    Finding { severity, about, found, why: why.into(), change }
}

fn fine(about: &'static str, found: String) -> Finding {
    finding(Severity::Ok, about, found, "", String::new())
}

/// Compares a setting with what it should be at least.
fn at_least(host: &Host, name: &'static str, wanted: u64, severity: Severity, why: &str) -> Option<Finding> {
    let found = host.number(name)?;
    let text = format!("{name} = {found}");
    Some(match found >= wanted {
        true => fine(name, text),
        false => finding(severity, name, text, why, format!("sysctl -w {name}={wanted}")),
    })
}

impl Question<'_> {
    /// All findings, what is worst first; among equals in the order in which it would hurt.
    pub(super) fn answer(&self) -> Vec<Finding> {
        let mut findings = vec![self.kernel(), self.io_uring()];
        findings.extend(self.descriptors());
        findings.push(self.memory());
        findings.extend(self.settings());
        findings.extend(self.ports());
        findings.push(self.feed());
        findings.push(self.threads());
        findings.push(self.clock());
        findings.extend(self.cards());
        findings.extend(self.governor());
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    fn kernel(&self) -> Finding {
        let release = self.host.setting("kernel.osrelease").unwrap_or_default();
        match self.host.kernel() {
            Some(version) if version >= KERNEL_MIN => fine("kernel", format!("Linux {release}")),
            _ => finding(
                Severity::Fail,
                "kernel",
                format!("Linux {release}"),
                "multishot polls and the ring's flags need Linux 6.1",
                "install a kernel of version 6.1 or newer".into(),
            ),
        }
    }

    fn io_uring(&self) -> Finding {
        let disabled = self.host.number("kernel.io_uring_disabled").unwrap_or(0);
        match &self.ring_error {
            None => fine("io_uring", format!("works (kernel.io_uring_disabled = {disabled})")),
            Some(error) => finding(
                Severity::Fail,
                "io_uring",
                error.clone(),
                "the server is made of it and does not start without",
                match disabled {
                    0 => "allow io_uring_setup, io_uring_enter and io_uring_register in the sandbox (seccomp)".into(),
                    _ => "sysctl -w kernel.io_uring_disabled=0".into(),
                },
            ),
        }
    }

    fn descriptors(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let wanted = (self.connections.div_ceil(self.shards) + 256).next_multiple_of(1024);
        if let Some((_, hard)) = self.host.descriptor_limits(&self.process) {
            let room = hard.saturating_mul(self.shards);
            let whose = if self.process == "self" { "this shell's" } else { "the running server's" };
            let text = format!(
                "{hard} per shard ({whose} limit) × {} shards for {} connections",
                self.shards, self.connections
            );
            let severity = if room < self.connections / 10 { Severity::Fail } else { Severity::Warn };
            findings.push(match hard >= wanted {
                true => fine("descriptors", text),
                false => finding(
                    severity,
                    "descriptors",
                    text,
                    "who comes beyond it is turned away with 503",
                    format!("LimitNOFILE={wanted} in the unit (ulimit -n), or lower [server] max_connections"),
                ),
            });
        }
        findings.extend(at_least(
            self.host,
            "fs.nr_open",
            wanted,
            Severity::Warn,
            "no limit of descriptors can be set above it",
        ));
        let files = self.connections + self.connections / 10 + 10_000;
        let why = "all files of the host together; beyond it nothing can be opened any more";
        findings.extend(at_least(self.host, "fs.file-max", files, Severity::Warn, why));
        findings
    }

    fn memory(&self) -> Finding {
        let total = self.host.memory("MemTotal").unwrap_or(0);
        let limit = self.host.memory_limit(&self.process).unwrap_or(u64::MAX).min(total);
        let own = self.connections * USER_BYTES + self.config.limits.retained as u64 * self.shards;
        let need = own + self.connections * KERNEL_BYTES;
        let mib = |bytes: u64| bytes >> 20;
        let text = format!(
            "{} connections need some {} MiB ({} in the process, the rest in the kernel), histories come on top; there are \
             {} MiB",
            self.connections,
            mib(need),
            mib(own),
            mib(limit)
        );
        let change = "add memory, or lower [server] max_connections".to_owned();
        let why = "the kernel ends the process when there is none left";
        match () {
            () if need > limit => finding(Severity::Fail, "memory", text, why, change),
            () if need > limit / 4 * 3 => finding(Severity::Warn, "memory", text, why, change),
            () => fine("memory", text),
        }
    }

    fn settings(&self) -> Vec<Finding> {
        let host = self.host;
        let backlog = u64::from(self.config.limits.backlog);
        let mut findings: Vec<Finding> = [
            at_least(
                host,
                "net.core.somaxconn",
                backlog,
                Severity::Warn,
                "it caps [limits] backlog: in a reconnect storm clients wait for a second try, a second later",
            ),
            at_least(
                host,
                "net.ipv4.tcp_max_syn_backlog",
                backlog.min(65_536),
                Severity::Note,
                "connections that are half open in a reconnect storm",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        // Beyond its third number the kernel gives TCP no more memory: connections stall and are cut.
        if let [_, _, most] = host.numbers("net.ipv4.tcp_mem")[..] {
            let wanted = self.connections * KERNEL_BYTES / 2 / PAGE;
            let text = format!("net.ipv4.tcp_mem allows {} MiB", (most * PAGE) >> 20);
            findings.push(match most >= wanted {
                true => fine("net.ipv4.tcp_mem", text),
                false => finding(
                    Severity::Warn,
                    "net.ipv4.tcp_mem",
                    text,
                    "beyond it the kernel cuts connections off",
                    format!("sysctl -w net.ipv4.tcp_mem='{} {} {}'", wanted / 2, wanted * 3 / 4, wanted),
                ),
            });
        }
        let why = "a full table drops packets of everybody, new and old, with one line in the kernel's log";
        let tracked = self.connections + self.connections / 5;
        findings.extend(at_least(host, "net.netfilter.nf_conntrack_max", tracked, Severity::Warn, why));
        findings
    }

    /// A proxy on this host runs out of ports towards one TCP address.
    fn ports(&self) -> Option<Finding> {
        let is_local = |address: &&ListenAddress| matches!(address, ListenAddress::Tcp(tcp) if tcp.ip().is_loopback());
        let local = self.config.server.listen.iter().find(is_local)?;
        let all_local = self.config.server.listen.iter().all(|address| is_local(&address));
        let range = self.host.numbers("net.ipv4.ip_local_port_range");
        let [first, last] = range[..] else { return None };
        let ports = last.saturating_sub(first) + 1;
        let text = format!("{ports} ports towards {local}");
        (all_local && ports < self.connections).then(|| {
            finding(
                Severity::Warn,
                "ports",
                text,
                "a proxy on this host needs one per client towards a TCP listener",
                "listen on a Unix socket for it: [server] listen = [\"unix:/run/ringcast/clients.sock\"]".into(),
            )
        })
    }

    fn feed(&self) -> Finding {
        let path = &self.config.feed.path;
        let name = path.display();
        let Ok(metadata) = std::fs::symlink_metadata(path) else {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return match folder.exists() {
                true => fine("feed", format!("{name} is not there yet: no server runs with this configuration")),
                false => finding(
                    Severity::Note,
                    "feed",
                    format!("the folder {} is not there", folder.display()),
                    "the server makes it if it may",
                    "RuntimeDirectory= in the unit, or make it for the server's user".into(),
                ),
            };
        };
        let mode = metadata.mode() & 0o777;
        let text = format!("{name}, mode {mode:o}, user {}, group {}", metadata.uid(), metadata.gid());
        if !metadata.file_type().is_socket() {
            let change = "move it away, or set [feed] path".to_owned();
            return finding(Severity::Fail, "feed", text, "it is no socket, and the server does not start", change);
        }
        if mode & 0o002 != 0 {
            let why = "every user of this host may publish to everybody";
            return finding(Severity::Warn, "feed", text, why, "set [feed] mode = \"0660\" and a group".into());
        }
        fine("feed", text)
    }

    fn threads(&self) -> Finding {
        let text = format!("{} shards on {} usable cores", self.shards, self.cores);
        match self.shards > self.cores {
            true => finding(
                Severity::Note,
                "shards",
                text,
                "more shards than cores take turns, and an event waits for the turn; none is pinned",
                "set [server] shards, or leave it at 0 (unless it is for the room in their descriptor tables)".into(),
            ),
            false => fine("shards", text),
        }
    }

    fn clock(&self) -> Finding {
        match self.clock_is_synchronized {
            true => fine("clock", "synchronized".into()),
            false => finding(
                Severity::Note,
                "clock",
                "not synchronized".into(),
                "tokens end by it, and histories age by it; ids never go backwards all the same",
                "run systemd-timesyncd or chrony".into(),
            ),
        }
    }

    fn cards(&self) -> Vec<Finding> {
        let finding_of = |card: super::host::Card| {
            let text = format!("{}: {} receive queues", card.name, card.receive_queues);
            match (card.receive_queues as u64) < self.shards && !card.spreads {
                true => finding(
                    Severity::Note,
                    "network card",
                    text,
                    "fewer queues than shards: some cores do the receiving of others",
                    format!("tuning/nic {}, or RPS where the card has no more", card.name),
                ),
                false => fine("network card", text),
            }
        };
        self.host.cards().into_iter().map(finding_of).collect()
    }

    fn governor(&self) -> Option<Finding> {
        let governor = self.host.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
        Some(match governor.as_str() {
            "performance" => fine("governor", governor),
            _ => finding(
                Severity::Note,
                "governor",
                governor,
                "a core that clocks down between events takes some 10 to 100 µs to be fast again",
                "tuning/cpu, or cpupower frequency-set -g performance".into(),
            ),
        })
    }
}

#[cfg(test)]
mod tests;
