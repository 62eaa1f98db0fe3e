//! The checks of a host, in the order in which a wrong setting hurts.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::backplane::{Grade, Probed};
use crate::config::{Config, ListenAddress};
use crate::server::certificates::{self, Expiry};
use crate::sys::memory::available;

use super::host::Host;
use super::memory::{self, Numbers};
use super::{Finding, Severity};

/// The memory that a connection takes in the process, as measured (docs/benchmarks.md) and with a margin.
const USER_BYTES: u64 = 400;
/// The memory that an idle TCP socket takes in the kernel, as measured.
const KERNEL_BYTES: u64 = 4300;
/// The size of the pages that tcp_mem counts in.
const PAGE: u64 = 4096;
/// The oldest kernel with the features that the ring needs.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// What the host is checked for.
pub(super) struct Question<'a> {
    /// The host.
    pub(super) host: &'a Host,
    /// The configuration.
    pub(super) config: &'a Config,
    /// The number of connections to be ready for.
    pub(super) connections: u64,
    /// The number of channels to compute the most memory for, if that was asked for.
    pub(super) channels: Option<u64>,
    /// The number of shards.
    pub(super) shards: u64,
    /// The number of cores that the process may use.
    pub(super) cores: u64,
    /// The process whose limits hold: a running server's number, or `self`.
    pub(super) process: String,
    /// The kernel's error when a ring was to be made; `None` if one was made.
    pub(super) ring_error: Option<String>,
    /// Whether the kernel takes the clock for synchronized.
    pub(super) clock_is_synchronized: bool,
    /// What was found about the broker of the cluster's log.
    pub(super) broker: Vec<Probed>,
}

fn finding(severity: Severity, about: &'static str, found: String, why: &str, change: String) -> Finding {
    Finding { severity, about, found, why: why.into(), change, terms: Vec::new() }
}

fn fine(about: &'static str, found: String) -> Finding {
    finding(Severity::Ok, about, found, "", String::new())
}

/// Compares a setting with the least value that it should have.
fn at_least(host: &Host, name: &'static str, wanted: u64, severity: Severity, why: &str) -> Option<Finding> {
    let found = host.number(name)?;
    let text = format!("{name} = {found}");
    Some(match found >= wanted {
        true => fine(name, text),
        false => finding(severity, name, text, why, format!("sysctl -w {name}={wanted}")),
    })
}

impl Question<'_> {
    /// All findings, the worst first, and equally bad ones in the order in which they would hurt.
    pub(super) fn answer(&self) -> Vec<Finding> {
        let mut findings = vec![self.kernel(), self.io_uring()];
        findings.extend(self.descriptors());
        findings.push(self.memory());
        findings.extend(self.most_memory());
        findings.extend(self.settings());
        findings.extend(self.ports());
        findings.push(self.feed());
        findings.push(self.threads());
        findings.push(self.clock());
        findings.extend(self.broker());
        findings.extend(self.certificates());
        findings.extend(self.cards());
        findings.extend(self.governor());
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }

    /// Whether the broker of the cluster's log is as nodes need it.
    fn broker(&self) -> impl Iterator<Item = Finding> {
        self.broker.iter().map(|probed| {
            let severity = match probed.grade {
                Grade::Fine => Severity::Ok,
                Grade::Note => Severity::Note,
                Grade::Warn => Severity::Warn,
                Grade::Fail => Severity::Fail,
            };
            finding(severity, probed.about, probed.found.clone(), probed.why, probed.change.clone())
        })
    }

    /// Whether the TLS certificates can be used, and for how long.
    fn certificates(&self) -> Vec<Finding> {
        let about = "TLS certificates";
        let change = "renew the certificate; the server reads the files again when they change".to_owned();
        let expiries = match certificates::check(&self.config.tls) {
            Ok(expiries) => expiries,
            Err(error) => {
                let why = "the server does not start with such a certificate";
                return vec![finding(Severity::Fail, about, error.to_string(), why, change)];
            }
        };
        let each = |expiry: &Expiry| match expiry.warning() {
            Some(warning) => {
                let why = "clients refuse a certificate that has expired";
                finding(Severity::Warn, about, warning, why, change.clone())
            }
            None => fine(about, format!("{} is valid for more than three weeks", expiry.path.display())),
        };
        expiries.iter().map(each).collect()
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
                "the server needs io_uring and does not start without it",
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
                    "clients beyond the limit are refused with 503",
                    format!("LimitNOFILE={wanted} in the unit (ulimit -n), or lower [server] max_connections"),
                ),
            });
        }
        findings.extend(at_least(
            self.host,
            "fs.nr_open",
            wanted,
            Severity::Warn,
            "no process's limit of descriptors can be above it",
        ));
        let files = self.connections + self.connections / 10 + 10_000;
        let why = "it bounds the open files of the whole host; when it is reached no process can open any";
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
            "{} connections need about {} MiB ({} in the process, the rest in the kernel), histories not included; the host \
             has {} MiB",
            self.connections,
            mib(need),
            mib(own),
            mib(limit)
        );
        let change = "add memory, or lower [server] max_connections".to_owned();
        let why = "the kernel kills the process when memory is used up";
        match () {
            () if need > limit => finding(Severity::Fail, "memory", text, why, change),
            () if need > limit / 4 * 3 => finding(Severity::Warn, "memory", text, why, change),
            () => fine("memory", text),
        }
    }

    /// The most memory that the server can ever use, with the terms of the sum.
    fn most_memory(&self) -> Option<Finding> {
        let channels = self.channels?;
        let numbers = Numbers { connections: self.connections, channels, shards: self.shards };
        let terms = memory::terms(self.config, numbers, available());
        let tcp_mem = self.host.numbers("net.ipv4.tcp_mem").get(2).copied();
        let (idle, most) = memory::kernel(numbers, tcp_mem, PAGE);
        let text = format!(
            "{} in the process at most, whatever clients do ({} connections, {channels} channels); in the kernel {} while \
             connections are idle, and {} of TCP at most",
            memory::readable(memory::total(&terms)),
            self.connections,
            memory::readable(idle),
            most.map_or("an unknown amount".into(), memory::readable)
        );
        Some(Finding { terms, ..fine("most memory", text) })
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
                "it caps [limits] backlog: when many clients reconnect at once, those beyond it wait a second for their next try",
            ),
            at_least(
                host,
                "net.ipv4.tcp_max_syn_backlog",
                backlog.min(65_536),
                Severity::Note,
                "it bounds the connections that are half open when many clients reconnect at once",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        // The third number is a hard limit: when TCP has so much memory, connections stall and are cut.
        if let [_, _, most] = host.numbers("net.ipv4.tcp_mem")[..] {
            let wanted = self.connections * KERNEL_BYTES / 2 / PAGE;
            let text = format!("net.ipv4.tcp_mem allows {} MiB", (most * PAGE) >> 20);
            findings.push(match most >= wanted {
                true => fine("net.ipv4.tcp_mem", text),
                false => finding(
                    Severity::Warn,
                    "net.ipv4.tcp_mem",
                    text,
                    "when TCP has so much memory, the kernel cuts connections off",
                    format!("sysctl -w net.ipv4.tcp_mem='{} {} {}'", wanted / 2, wanted * 3 / 4, wanted),
                ),
            });
        }
        let why = "when the table is full, packets of all connections are dropped, with one line in the kernel's log";
        let tracked = self.connections + self.connections / 5;
        findings.extend(at_least(host, "net.netfilter.nf_conntrack_max", tracked, Severity::Warn, why));
        findings
    }

    /// Whether a proxy on this host would run out of ports towards one TCP address.
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
                "a proxy on this host needs one port per client towards a TCP listener",
                "let the proxy connect to a Unix socket: [server] listen = [\"unix:/run/ringcast/clients.sock\"]"
                    .into(),
            )
        })
    }

    fn feed(&self) -> Finding {
        let path = &self.config.feed.path;
        let name = path.display();
        let Ok(metadata) = std::fs::symlink_metadata(path) else {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return match folder.exists() {
                true => fine("feed", format!("{name} does not exist yet: no server runs with this configuration")),
                false => finding(
                    Severity::Note,
                    "feed",
                    format!("the folder {} does not exist", folder.display()),
                    "the server makes it, if it is permitted to",
                    "RuntimeDirectory= in the unit, or make it for the server's user".into(),
                ),
            };
        };
        let mode = metadata.mode() & 0o777;
        let text = format!("{name}, mode {mode:o}, user {}, group {}", metadata.uid(), metadata.gid());
        if !metadata.file_type().is_socket() {
            let change = "move it away, or set [feed] path".to_owned();
            return finding(Severity::Fail, "feed", text, "it is not a socket, and the server does not start", change);
        }
        if mode & 0o002 != 0 {
            let why = "every user of this host may publish to all clients";
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
                "shards beyond the number of cores share cores, so events wait for their shard to run; no shard is pinned",
                "set [server] shards to 0 or to the number of cores (unless the shards are for the sake of their descriptor tables)".into(),
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
                "tokens expire and histories age by the clock; ids never go backwards, however it moves",
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
                    "with fewer queues than shards, some cores receive packets for others",
                    format!("tuning/nic {}, or RPS if the card has no more queues", card.name),
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
                "a core that lowers its clock between events takes 10 to 100 µs to be fast again",
                "tuning/cpu, or cpupower frequency-set -g performance".into(),
            ),
        })
    }
}

#[cfg(test)]
mod tests;
