use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};

use super::server::{Server, command};

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn publish_prints_the_id_and_subscribe_resumes_from_it() {
    let server = Server::start("");
    let feed = server.feed_path.to_str().unwrap();
    let url = format!("http://{}", server.address);
    let first = run(&["publish", "--feed", feed, "a", "one"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let id = text(&first.stdout);
    let mut child = command()
        .args(["publish", "--feed", feed, "a", "-", "--json", "--event", "e"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"x\": 1}\n").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    for transport in ["sse", "ws", "poll"] {
        let arguments =
            ["subscribe", &url, "--channel", "a", "--transport", transport, "--since", id.trim(), "--count", "1"];
        let output = run(&arguments);
        assert!(output.status.success(), "{transport}: {}", text(&output.stderr));
        let event: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&event["event"], &event["data"]["x"]), (&"e".into(), &1.into()), "{transport}");
    }
}

#[test]
fn subscribe_reconnects_and_misses_nothing() {
    let server = Server::start("");
    let url = format!("http://{}", server.address);
    for transport in ["sse", "ws"] {
        let mut child = command()
            .args(["subscribe", &url, "--channel", "a", "--transport", transport, "--format", "data", "--count", "3"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.await_figure(&format!("connections_{transport}"), 1);
        let before = server.figure("deliveries");
        server.publish("a", "1");
        server.await_figure("deliveries", before + 1);
        let kicked = server.feed().call(serde_json::json!({ "op": "kick", "channel": "a" })).unwrap();
        assert_eq!(kicked["kicked"], 1);
        server.publish("a", "2");
        // The close code of a kick tells a WebSocket client not to reconnect; a stream has no such code.
        if transport == "ws" {
            assert_eq!(child.wait().unwrap().code(), Some(1));
            continue;
        }
        server.publish("a", "3");
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), "1\n2\n3\n");
    }
}

#[test]
fn subscribe_sends_a_token_and_kick_ends_a_users_connections() {
    let server = Server::start(&format!("{}token_timeout = \"300ms\"", super::tokens::KEYS));
    let url = format!("http://{}", server.address);
    let token = super::tokens::token(serde_json::json!({ "sub": "u", "channels": ["a"] }));
    for transport in ["sse", "ws", "poll"] {
        let args = ["subscribe", &url, "--channel", "a", "--transport", transport, "--no-reconnect"];
        let refused = command().args(args).output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{transport} without a token");
        let mut child = command().args(args).env("RINGCAST_TOKEN", &token).stdout(Stdio::null()).spawn().unwrap();
        server.await_figure("identified", 1);
        if transport == "poll" {
            child.kill().unwrap();
        } else {
            let feed = server.feed_path.to_str().unwrap();
            assert_eq!(text(&run(&["kick", "--feed", feed, "--user", "u"]).stdout), "1\n");
        }
        child.wait().unwrap();
        server.await_figure("identified", 0);
    }
}

#[test]
fn subscribe_ends_with_the_last_of_its_channels() {
    let server = Server::start("");
    let url = format!("http://{}/", server.address);
    let end = |channel: &str| server.feed().call(serde_json::json!({ "op": "end", "channel": channel })).unwrap();
    for transport in ["sse", "ws", "poll"] {
        let (first, second) = (format!("{transport}:1"), format!("{transport}:2"));
        let mut child = command()
            .args(["subscribe", &url, "--transport", transport, "--format", "data"])
            .args(["--channel", &format!("{first},{second}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        server.await_figure(&format!("connections_{transport}"), 1);
        server.publish(&first, "1");
        end(&first);
        server.publish(&second, "2");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.by_ref().take(2).collect::<Vec<_>>(), ["1", "2"], "{transport}");
        assert!(child.try_wait().unwrap().is_none(), "{transport}: {second} has not ended");
        end(&second);
        assert_eq!(lines.next(), None, "{transport}");
        assert!(child.wait().unwrap().success(), "{transport}");
    }
}

#[test]
fn subscribe_takes_channels_from_the_url() {
    let server = Server::start("");
    let id = server.publish("a:1", "x");
    let before = server.publish("b", "y");
    let target = format!("http://{}/events?channel=a%3A1,b&after={id}", server.address);
    for transport in ["sse", "ws", "poll"] {
        let output = run(&["subscribe", &target, "--transport", transport, "--count", "1"]);
        assert!(output.status.success(), "{transport}: {}", text(&output.stderr));
        let event: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(event["id"], before, "{transport}");
    }
    let output = run(&["subscribe", &format!("http://{}/sse?x=y", server.address)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--channel CHANNEL"), "{}", text(&output.stderr));
}

#[test]
fn subscribe_prints_refusals_and_messages_for_its_connection() {
    let server = Server::start(super::tokens::KEYS);
    let url = format!("http://{}", server.address);
    let token = super::tokens::token(serde_json::json!({ "sub": "u", "channels": ["a"] }));
    for transport in ["sse", "ws", "poll"] {
        let args = ["subscribe", &url, "--channel", "b,c", "--transport", transport, "--timeout", "20"];
        let refused = command().args(args).env("RINGCAST_TOKEN", &token).output().unwrap();
        assert_eq!(refused.status.code(), Some(1), "{transport}");
        assert!(text(&refused.stderr).contains("does not allow the channel"), "{}", text(&refused.stderr));
    }
    for transport in ["sse", "ws"] {
        let child = command()
            .args(["subscribe", &url, "--channel", "a", "--transport", transport, "--count", "1"])
            .env("RINGCAST_TOKEN", &token)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        server.await_figure(&format!("connections_{transport}"), 1);
        let line = serde_json::json!({ "op": "send", "user": "u", "data": { "for": "you" } });
        server.feed().call(line).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), "{\"data\":{\"for\":\"you\"}}\n", "{transport}");
    }
}

#[test]
fn the_environment_overrides_the_file_and_the_flag_overrides_both() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, "[server]\nlisten = [\"0.0.0.0:80\"]\n[auth]\nallow_anonymous = true\n").unwrap();
    let print = |value: &str, flags: &[&str]| {
        let print = ["config", "print", "--config", file.to_str().unwrap()];
        command().args(print).args(flags).env("RINGCAST_ALLOW_ANONYMOUS", value).output().unwrap()
    };
    assert!(print("1", &[]).status.success());
    for refused in [print("false", &[]), print("0", &[]), print("true", &["--allow-anonymous=no"])] {
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
        assert!(text(&refused.stderr).contains("can be reached from other hosts"), "{}", text(&refused.stderr));
    }
    let output = print("false", &["--allow-anonymous", "--shards", "3"]);
    assert!(text(&output.stdout).contains("allow_anonymous = true"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("shards = 3"));
    assert_eq!(print("perhaps", &[]).status.code(), Some(2), "this is neither yes nor no");
    let output = print("", &[]);
    assert!(
        text(&output.stdout).contains("allow_anonymous = true"),
        "an empty variable is none: {}",
        text(&output.stderr)
    );
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, "[server]\nshard = 1\n").unwrap();
    let path = file.to_str().unwrap();
    let output = run(&["config", "check", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("line 2") && text(&output.stderr).contains("did you mean `shards`?"));
    std::fs::write(&file, "[server]\nshards = 1\n").unwrap();
    assert!(run(&["config", "check", path]).status.success());
    std::fs::write(&file, "[server]\nlisten = [\"0.0.0.0:80\"]\n").unwrap();
    let open = run(&["config", "check", path]);
    assert_eq!(open.status.code(), Some(1), "a file with which serve does not start");
    assert!(text(&open.stderr).contains("allow_anonymous = true"), "{}", text(&open.stderr));
    std::fs::write(&file, "[server]\nshards = 1\n").unwrap();
    let printed = run(&["config", "print", "--config", path, "--listen", "127.0.0.1:9"]);
    assert!(text(&printed.stdout).contains("127.0.0.1:9"), "{}", text(&printed.stdout));
    assert_eq!(run(&["serve", "--no-such-flag"]).status.code(), Some(2));
    let open = run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(1));
    assert!(text(&open.stderr).contains("allow_anonymous = true"), "{}", text(&open.stderr));
    let nobody = run(&["publish", "--feed", "/nonexistent/feed.sock", "a", "x"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("is the server running"));
}

#[test]
fn taken_ports_are_named() {
    let server = Server::start("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let feed = server.folder.path().join("other.sock");
    let output = run(&["serve", "--admin", "off", "--listen", &address, "--feed", feed.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn figures_need_the_configured_token() {
    let server = Server::start("[admin]\ntoken = \"secret\"");
    let ask = |fields: &str| super::clients::Http::connect(server.admin).request("GET", "/stats", fields).status;
    assert_eq!(ask(""), 401);
    assert_eq!(ask("Authorization: Bearer secre7\r\n"), 401);
    assert_eq!(ask("Authorization: Bearer secret\r\n"), 200);
    assert_eq!(super::clients::get(server.admin, "/healthz").status, 200);
}

#[test]
fn stats_and_kick_speak_to_the_feed() {
    let server = Server::start("");
    let feed = server.feed_path.to_str().unwrap();
    let stats = run(&["stats", "--feed", feed]);
    assert!(text(&stats.stdout).contains("accepted"));
    let json = run(&["stats", "--feed", feed, "--json"]);
    assert!(serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap()["shards"].is_array());
    assert_eq!(text(&run(&["kick", "--feed", feed, "--channel", "a"]).stdout), "0\n");
    let admin = super::clients::get(server.admin, "/stats").json();
    assert_eq!(admin["node"]["ready"], true);
}
