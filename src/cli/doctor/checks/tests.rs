use super::*;

/// A host made of these files.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let host = Host::at(folder.path().into());
    (folder, host)
}

const GOOD: [(&str, &str); 11] = [
    ("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/meminfo", "MemTotal:       24684084 kB\nMemAvailable:   20000000 kB\n"),
    (
        "proc/self/limits",
        "Limit   Soft  Hard  Units\nMax open files            1024                 1048576              files\n",
    ),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/net/core/somaxconn", "65535\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535\n"),
    ("proc/sys/net/ipv4/tcp_mem", "289227\t385638\t578454\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
];

fn ask(changed: &[(&str, &str)], connections: u64, config: &Config, ring_error: Option<&str>) -> Vec<Finding> {
    let mut files = GOOD.to_vec();
    for (path, text) in changed {
        files.retain(|(known, _)| known != path);
        files.push((path, text));
    }
    let (_folder, host) = host(&files);
    Question {
        host: &host,
        config,
        connections,
        channels: Some(100),
        shards: 4,
        cores: 8,
        process: "self".into(),
        ring_error: ring_error.map(str::to_owned),
        clock_is_synchronized: true,
        broker: Vec::new(),
    }
    .answer()
}

fn worst(changed: &[(&str, &str)], connections: u64) -> (Severity, &'static str) {
    let config = Config {
        feed: crate::config::Feed { path: "/proc/feed.sock".into(), ..Default::default() },
        ..Config::default()
    };
    let findings = ask(changed, connections, &config, None);
    (findings[0].severity, findings[0].about)
}

#[test]
fn a_good_host_is_fine() {
    assert_eq!(worst(&[], 60_000), (Severity::Ok, "kernel"));
}

#[test]
fn what_will_hurt_is_named() {
    for (changed, connections, expected) in [
        (&[("proc/sys/kernel/osrelease", "5.15.0-91-generic")][..], 1000, (Severity::Fail, "kernel")),
        (&[("proc/self/limits", "Max open files  1024  2048  files")], 8_000, (Severity::Warn, "descriptors")),
        (&[("proc/self/limits", "Max open files  256  256  files")], 60_000, (Severity::Fail, "descriptors")),
        (&[("proc/sys/fs/nr_open", "4096")], 60_000, (Severity::Warn, "fs.nr_open")),
        (&[("proc/sys/fs/file-max", "50000")], 60_000, (Severity::Warn, "fs.file-max")),
        (&[("proc/meminfo", "MemTotal: 131072 kB")], 60_000, (Severity::Fail, "memory")),
        (&[("proc/sys/net/core/somaxconn", "128")], 1000, (Severity::Warn, "net.core.somaxconn")),
        (&[("proc/sys/net/ipv4/tcp_mem", "1 2 3")], 60_000, (Severity::Warn, "net.ipv4.tcp_mem")),
        (
            &[("proc/sys/net/netfilter/nf_conntrack_max", "65536")],
            60_000,
            (Severity::Warn, "net.netfilter.nf_conntrack_max"),
        ),
        (&[("proc/sys/net/ipv4/ip_local_port_range", "32768 60999")], 60_000, (Severity::Warn, "ports")),
        (
            &[("sys/class/net/eth0/device/x", ""), ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00,00")],
            1000,
            (Severity::Note, "network card"),
        ),
        (&[("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")], 1000, (Severity::Note, "governor")),
        (
            &[
                ("proc/self/cgroup", "0::/system.slice/r.service"),
                ("sys/fs/cgroup/system.slice/memory.max", "104857600"),
            ],
            60_000,
            (Severity::Fail, "memory"),
        ),
    ] {
        assert_eq!(worst(changed, connections), expected, "{changed:?}");
    }
}

#[test]
fn a_card_that_spreads_needs_no_more_queues() {
    let card = [("sys/class/net/eth0/device/x", ""), ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00,0f")];
    assert_eq!(worst(&card, 1000), (Severity::Ok, "kernel"));
}

#[test]
fn without_io_uring_nothing_goes() {
    let findings = ask(&[("proc/sys/kernel/io_uring_disabled", "2")], 10, &Config::default(), Some("not permitted"));
    assert_eq!((findings[0].severity, findings[0].about), (Severity::Fail, "io_uring"));
    assert!(findings[0].change.contains("io_uring_disabled=0"));
}

#[test]
fn a_feed_for_everybody_is_pointed_out() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feed.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut config = Config::default();
    config.feed.path.clone_from(&path);
    let severity = |config: &Config| {
        ask(&[], 1000, config, None).into_iter().find(|finding| finding.about == "feed").unwrap().severity
    };
    for (mode, expected) in [(0o660, Severity::Ok), (0o666, Severity::Warn)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(severity(&config), expected);
    }
    config.feed.path = folder.path().join("file");
    std::fs::write(&config.feed.path, "").unwrap();
    assert_eq!(severity(&config), Severity::Fail);
}

#[test]
fn the_most_memory_is_the_sum_of_its_terms() {
    let findings = ask(&[], 1000, &Config::default(), None);
    let most = findings.iter().find(|finding| finding.about == "most memory").unwrap();
    let sum: u64 = most.terms.iter().map(|term| term.bytes).sum();
    assert!(most.found.starts_with(&memory::readable(sum)), "{most:?}");
    assert!(most.found.contains("2259 MiB of TCP at most"), "{most:?}");
}
