//! All attacks at once, against the most memory that `ringcast doctor` says the server can use.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::attacks::{ATTACKS, Attack, Scene};
use super::follower::{ADMIN_TOKEN, admin};
use super::honest::Honest;
use super::judge::limits;
use super::server::{Server, command};
use super::watch::{Watch, memory};
use super::{alone, is_full, show};

/// Attacks that need a process or a configuration of their own: they have it stand still, take its descriptors, stop the
/// log's reader, or have the backend asked about every client.
const APART: [&str; 4] = ["pause", "idle_feed", "log_stands_still", "authorize_hangs"];
/// The connections and channels that the server may have.
const CONNECTIONS: usize = 6000;
const CHANNELS: usize = 20_000;

/// A configuration whose sum is small, so that exceeding it is easy: tokens for those attacks that send some, and all
/// channels for anybody.
fn config() -> String {
    let keys = |name: &str| format!("{}/tests/keys/{name}.pub.pem", env!("CARGO_MANIFEST_DIR"));
    format!(
        r#"
[admin]
token = "{ADMIN_TOKEN}"
[server]
max_connections = {CONNECTIONS}
[limits]
channels = {CHANNELS}
lag_memory = "32MiB"
hub_memory = "128MiB"
queue = "4MiB"
retained = "4MiB"
[feed]
max_connections = 32
max_line = "1MiB"
idempotency_keys = 1000
[auth]
allow_anonymous = true
keys = [
    {{ alg = "ES384", pem_file = "{}" }},
    {{ alg = "ES256", pem_file = "{}" }},
    {{ alg = "HS256", secret = "a secret of at least 32 bytes, yes" }},
]
[namespace.room]
presence = true
"#,
        keys("es384"),
        keys("es256"),
    )
}

/// The sum that the doctor prints for a server's configuration, in bytes.
fn most(server: &Server) -> u64 {
    let (connections, channels) = (CONNECTIONS.to_string(), CHANNELS.to_string());
    let asked = ["doctor", "--shards", "2", "--connections", &connections, "--channels", &channels, "--json"];
    let config = server.folder.path().join("ringcast.toml");
    let printed = command().args(asked).arg("--config").arg(config).output().unwrap().stdout;
    let findings: Vec<Value> = serde_json::from_slice(&printed).unwrap();
    let terms = findings.iter().filter_map(|finding| finding["terms"].as_array()).flatten();
    terms.map(|term| term["bytes"].as_u64().unwrap()).sum()
}

#[test]
fn all_attacks_at_once_stay_within_the_doctors_sum() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let listener = format!("unix:{}", folder.path().join("clients.sock").display());
    let server = Server::start_in(folder, &config(), &["--shards", "2", "--no-pin", "--listen", &listener]);
    let most = most(&server);
    let honest = Honest::start(server.address, server.feed_path.clone());
    let before = memory(server.id());
    let watch = Watch::start(server.id(), server.admin);
    let begun = Instant::now();
    let until = begun + Duration::from_secs(if is_full() { 60 } else { 8 });
    let attacks: Vec<&Attack> = ATTACKS.iter().filter(|attack| !APART.contains(&attack.name)).collect();
    std::thread::scope(|scope| {
        for attack in &attacks {
            // An attack's promise of its own is about that attack alone.
            scope.spawn(|| (attack.act)(&Scene { server: &server, front: server.address, until }));
        }
    });
    let ended = Instant::now();
    let after = loop {
        let memory = memory(server.id());
        if memory <= before + limits().left_over || ended.elapsed() > limits().give_back {
            break memory;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let measured = watch.stop();
    let seen = honest.stop(begun, ended);
    let mib = |bytes: u64| bytes >> 20;
    show(&format!(
        "{} attacks at once: at most {} MiB of the sum of {} MiB, {} MiB {:.1} s later; honest p99 {:?}, longest turn {:?}, \
         starved {:?}; {:?}",
        attacks.len(),
        mib(measured.memory_peak),
        mib(most),
        mib(after),
        ended.elapsed().as_secs_f64(),
        seen.quantile(0.99),
        measured.shard_turn.at_most,
        measured.starved,
        seen.broken,
    ));
    assert!(measured.memory_peak <= most, "{} of {most} bytes", measured.memory_peak);
    assert!(after <= before + limits().left_over, "{} MiB are kept, after {} MiB before", mib(after), mib(before));
    // Histories share `hub_memory`, which the events of all attacks together fill several times a second: a client that polls may
    // have been away for longer, and is told so.
    let broken: Vec<_> = seen.broken.iter().filter(|how| !how.ends_with("was told of a gap")).collect();
    assert!(seen.refused.is_empty() && broken.is_empty(), "{:?} {broken:?}", seen.refused);
    assert!(admin(server.admin, "/v1/stats").is_ok());
}
