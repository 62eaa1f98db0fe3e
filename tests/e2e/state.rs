//! The files that outlive the process, descriptors, and ids that are ahead of the clock.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use ringcast::feed::client::FeedClient;
use serde_json::json;

use super::server::{Server, command, eventually, publish};

const DAY_MS: u64 = 86_400_000;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The output of a server that does not start, with these state files beside its feed.
fn refusal(prepare: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let feed = folder.path().join("feed.sock");
    let mut serve = command();
    serve.args(["serve", "--admin", "off", "--shards", "1", "--listen", "127.0.0.1:0", "--feed"]).arg(&feed);
    let ended = serve.output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(!feed.exists(), "what it has made is removed");
    String::from_utf8(ended.stderr).unwrap()
}

#[test]
fn a_mark_that_cannot_be_right_stops_the_start_with_a_sentence() {
    let ahead = refusal(|folder| {
        std::fs::write(folder.join("feed.ids"), format!("{}\n", now_ms() + 3 * DAY_MS + 60_000)).unwrap();
    });
    assert!(ahead.contains("3 days from now: set the clock right, or remove the file"), "{ahead}");
    let damaged = refusal(|folder| std::fs::write(folder.join("feed.ids"), "01700000000000 12345678\n").unwrap());
    assert!(damaged.contains("it is damaged; if the clock is right, remove it"), "{damaged}");
}

#[test]
fn state_files_are_the_users_own_and_not_reached_through_links() {
    for name in ["ids", "revoked", "lock"] {
        let said = refusal(|folder| {
            std::fs::write(folder.join("elsewhere"), "").unwrap();
            std::os::unix::fs::symlink(folder.join("elsewhere"), folder.join(format!("feed.{name}"))).unwrap();
        });
        assert!(said.contains("symbolic link"), "{name}: {said}");
    }
    let server = Server::start("");
    for name in ["ids", "revoked", "lock"] {
        let mode = std::fs::metadata(server.feed_path.with_extension(name)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn history_grows_old_though_ids_are_ahead_of_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("feed.ids"), format!("{}\n", now_ms() + DAY_MS / 2)).unwrap();
    let server = Server::start_in(folder, "[namespace.\"*\"]\nhistory_ttl = \"300ms\"", &[]);
    let id = server.publish("a", "x");
    assert!(id.parse::<ringcast::logic::id::Id>().unwrap().ms() > now_ms() + DAY_MS / 3);
    let mut feed = server.feed();
    eventually("the event has left the history", || {
        let answer = feed.call(json!({ "op": "history", "channel": "a" })).unwrap();
        answer["events"].as_array().unwrap().is_empty().then_some(())
    });
    eventually("the channel is forgotten", || (server.stats()["node"]["channels"] == 0).then_some(()));
    let ahead =
        eventually("the figure is there", || server.stats()["node"]["ids_ahead_ms"].as_u64().filter(|ms| *ms > 0));
    assert!(ahead > DAY_MS / 3, "{ahead}");
    let warned = || server.log.lock().unwrap().iter().any(|line| line["message"].to_string().contains("run ahead"));
    eventually("it is in the log", || warned().then_some(()));
}

struct Limited {
    child: Child,
    feed: std::path::PathBuf,
    admin: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that may have so many descriptors.
fn start_limited(descriptors: usize) -> Limited {
    let folder = tempfile::tempdir().unwrap();
    let feed = folder.path().join("feed.sock");
    let script = format!(
        "ulimit -n {descriptors}; exec {} serve --shards 1 --listen 127.0.0.1:0 --admin 127.0.0.1:0 --log-format json --feed {}",
        env!("CARGO_BIN_EXE_ringcast"),
        feed.display()
    );
    let mut bash = std::process::Command::new("bash");
    let mut child = bash.arg("-c").arg(script).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let mut admin = None;
    loop {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        match line["message"].as_str() {
            Some("admin listening") => admin = line["address"].as_str().and_then(|address| address.parse().ok()),
            Some("ready") => break,
            _ => {}
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    Limited { child, feed, admin: admin.unwrap(), _folder: folder }
}

#[test]
fn idle_connections_of_the_feed_leave_descriptors_for_everything_else() {
    let server = start_limited(300);
    let mut feed = FeedClient::connect(&server.feed).unwrap();
    let idle: Vec<UnixStream> = (0..300).map(|_| UnixStream::connect(&server.feed).unwrap()).collect();
    let refused = eventually("some are refused", || {
        let stats = feed.call(json!({ "op": "stats" })).unwrap();
        stats["stats"]["node"]["publishers_refused"].as_u64().filter(|count| *count > 100)
    });
    assert!(refused < 300, "{refused}");
    publish(&mut feed, "a", "x");
    feed.call(json!({ "op": "kick", "jti": "t" })).unwrap();
    let answer = super::clients::get(server.admin, "/healthz");
    assert_eq!(answer.status, 200);
    drop(idle);
    eventually("there is room again", || {
        let mut other = FeedClient::connect(&server.feed).ok()?;
        other.call(json!({ "op": "stats" })).ok()
    });
}
