//! Starts that cannot be: one clear sentence, and no half-started server.

use std::process::Stdio;

use crate::broker::{KEY, Redis, free_port};
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
