//! Starts that cannot be: one clear sentence, and no half-started server.

use std::process::Stdio;

use crate::broker::{Broker, KEY, Redis, free_port};
use crate::nats_server::Nats;
use crate::server::command;

/// What a start that fails says.
fn failure(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let feed = folder.path().join("feed.sock");
    let mut command = command();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "1", "--feed"]).arg(&feed);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_broker_that_cannot_be_used_is_named_in_a_sentence() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let text = failure(&["--backplane", &redis.url()]);
    assert!(text.contains("cannot join the cluster") && text.contains("NOAUTH"), "{text}");
    let text = failure(&["--backplane", &format!("redis://:wrong@127.0.0.1:{}", redis.port)]);
    assert!(text.contains("WRONGPASS") || text.contains("uthentication"), "{text}");
    let typed = Redis::start();
    typed.ask(&["SET", KEY, "text"]);
    let text = failure(&["--backplane", &typed.url()]);
    assert!(text.contains("WRONGTYPE"), "{text}");
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    let text = failure(&["--backplane", &nowhere]);
    assert!(text.contains("refused"), "{text}");
    let text = failure(&["--backplane", "http://127.0.0.1"]);
    assert!(text.contains("[backplane] url"), "{text}");
}

#[test]
fn nats_servers_that_cannot_be_used_are_named_in_a_sentence() {
    let locked =
        Nats::start_locked("accounts: { A: { jetstream: enabled, users: [{ user: node, password: secret }] } }");
    let url = |user: &str| format!("nats://{user}127.0.0.1:{}", locked.port);
    for user in ["", "node:wrong@"] {
        let text = failure(&["--backplane", &url(user)]);
        assert!(text.contains("cannot join the cluster") && text.contains("uthorization"), "{text}");
    }
    let text = failure(&["--backplane", &format!("nats://127.0.0.1:{}", free_port())]);
    assert!(text.contains("refused"), "{text}");
    let alone = Nats::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringcast.toml");
    std::fs::write(&file, "[backplane]\nreplicas = 3\n").unwrap();
    let text = failure(&["--backplane", &alone.url(), "--config", file.to_str().unwrap()]);
    assert!(text.contains("replicas > 1 not supported"), "{text}");
    let without = Nats::start_locked("accounts: { A: { users: [{ user: node, password: secret }] } }");
    let text = failure(&["--backplane", &format!("nats://node:secret@127.0.0.1:{}", without.port)]);
    assert!(text.contains("JetStream"), "{text}");
}
