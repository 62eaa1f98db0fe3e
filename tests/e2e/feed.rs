use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use ringcast::feed::client::FeedClient;
use serde_json::{Value, json};

use super::clients::{Socket, Stream};
use super::server::{PATIENCE, Server, code, command, eventually, publish};

struct Raw {
    reader: BufReader<UnixStream>,
}

impl Raw {
    fn connect(server: &Server) -> Raw {
        let stream = UnixStream::connect(&server.feed_path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw { reader: BufReader::new(stream) }
    }

    fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.reader.read_line(&mut line).unwrap() > 0, "the connection ended");
        serde_json::from_str(&line).unwrap()
    }
}

#[test]
fn errors_say_where_and_the_connection_stays_usable() {
    let server = Server::start("[feed]\nmax_line = 2000");
    let mut raw = Raw::connect(&server);
    for (line, code) in [
        ("{\"op\":\n", "bad_json"),
        ("[]\n", "bad_field"),
        ("{\"op\":\"fly\",\"ref\":1}\n", "unknown_op"),
        ("{\"op\":\"publish\",\"channel\":\"a b\",\"data\":1}\n", "bad_channel"),
        ("{\"op\":\"publish\",\"chanel\":\"a\",\"data\":1}\n", "bad_field"),
        ("{\"op\":\"batch\",\"items\":[{\"channel\":\"a\",\"data\":1},{}]}\n", "bad_field"),
        ("\u{fffd}\n", "bad_json"),
    ] {
        raw.send(line);
        let answer = raw.line();
        assert_eq!(answer["error"]["code"], code, "{line} {answer}");
    }
    raw.send(&format!("{}\n", "x".repeat(5000)));
    assert_eq!(raw.line()["error"]["code"], "too_long");
    // Without a ref only errors are answered.
    raw.send("{\"op\":\"publish\",\"channel\":\"a\",\"data\":1}\n{\"op\":\"publish\",\"channel\":\"a\",\"data\":2,\"ref\":\"x\"}\r\n");
    let answer = raw.line();
    assert_eq!((&answer["ref"], &answer["ok"]), (&"x".into(), &true.into()));
    raw.send("{\"op\":\"publish\",");
    raw.reader.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(raw.line()["error"]["code"], "cut");
    assert_eq!(server.stats()["node"]["feed_errors"], 9);
}

#[test]
fn batches_lists_and_keys() {
    let server = Server::start("");
    let mut stream = Stream::open(server.address, "/sse?channel=a,b");
    let mut feed = server.feed();
    let list = feed.call(json!({ "op": "publish", "channels": ["a", "b"], "data": 1, "key": "k" })).unwrap();
    assert_eq!(list["ids"].as_array().unwrap().len(), 2);
    let again = feed.call(json!({ "op": "publish", "channels": ["a", "b"], "data": 1, "key": "k" })).unwrap();
    assert_eq!(again["ids"], list["ids"]);
    for others in [json!(["b", "a"]), json!(["a", "c"]), json!(["a"])] {
        let other = feed.call(json!({ "op": "publish", "channels": others, "data": 1, "key": "k" }));
        assert_eq!(code(other.unwrap_err()), "bad_field", "the key was used for other channels");
    }
    let items = json!([{ "channel": "a", "data": 2 }, { "channel": "b", "data": 3, "event": "e" }]);
    let batch = feed.call(json!({ "op": "batch", "items": items })).unwrap();
    let ids: Vec<&str> = list["ids"]
        .as_array()
        .unwrap()
        .iter()
        .chain(batch["ids"].as_array().unwrap())
        .map(|id| id.as_str().unwrap())
        .collect();
    for id in ids {
        assert_eq!(stream.next().unwrap().id, id);
    }
    let history = feed.call(json!({ "op": "history", "channel": "a" })).unwrap();
    assert_eq!(history["events"].as_array().unwrap().len(), 2);
}

#[test]
fn a_channel_is_traced_once_and_the_number_of_traces_is_limited() {
    let server = Server::start("");
    let mut raw = Raw::connect(&server);
    for n in 0..100 {
        raw.send(&format!("{{\"op\":\"trace\",\"channel\":\"c{n}\"}}\n"));
    }
    raw.send("{\"op\":\"trace\",\"channel\":\"c0\",\"ref\":1}\n{\"op\":\"trace\",\"channel\":\"more\",\"ref\":2}\n");
    assert_eq!(raw.line(), json!({ "ref": 1, "ok": true }));
    assert_eq!(raw.line()["error"]["code"], "traces");
    for channel in ["more", "c0", "c1"] {
        server.publish(channel, channel);
    }
    for channel in ["c0", "c1"] {
        assert_eq!(raw.line()["event"]["channel"], channel, "once");
    }
}

#[test]
fn kicked_clients_are_told_and_counted() {
    let server = Server::start_with("", &["--shards", "2", "--no-pin"]);
    let mut sockets: Vec<Socket> = (0..5).map(|_| Socket::open(server.address, "/ws?channel=a")).collect();
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    let _other = Stream::open(server.address, "/sse?channel=b");
    let answer = server.feed().call(json!({ "op": "kick", "channel": "a", "reason": "maintenance" })).unwrap();
    assert_eq!(answer["kicked"], 6);
    for socket in &mut sockets {
        assert!(socket.json()["bye"]["reason"].as_str().unwrap().contains("maintenance"));
        assert_eq!(socket.close_code(), 4003);
    }
    assert_eq!(stream.next().unwrap().name, "ringcast.bye");
    let conn = eventually("the log names the connection", || {
        let log = server.log.lock().unwrap();
        log.iter()
            .find(|line| line["message"] == "connected" && line["channel"] == "b")
            .map(|line| line["conn"].clone())
    });
    assert_eq!(server.feed().call(json!({ "op": "send", "conn": conn, "data": "for you" })).unwrap()["ok"], true);
    assert_eq!(server.feed().call(json!({ "op": "kick", "conn": conn })).unwrap()["kicked"], 1);
    assert_eq!(server.feed().call(json!({ "op": "kick", "conn": conn })).unwrap()["kicked"], 0);
    assert_eq!(code(server.feed().call(json!({ "op": "kick", "conn": "what" })).unwrap_err()), "no_connection");
}

#[test]
fn a_message_for_one_connection_reaches_it_alone() {
    let server = Server::start("");
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    let mut other = Socket::open(server.address, "/ws?channel=a");
    let conn = eventually("the log names the connection", || {
        let log = server.log.lock().unwrap();
        log.iter().find(|line| line["message"] == "connected").map(|line| line["conn"].clone())
    });
    server.feed().call(json!({ "op": "send", "conn": conn, "data": { "x": 1 } })).unwrap();
    assert_eq!(socket.json(), json!({ "data": { "x": 1 } }));
    server.publish("a", "both");
    assert_eq!(other.json()["data"], "both");
}

#[test]
fn the_socket_has_its_mode_and_a_live_one_is_not_replaced() {
    let server = Server::start("[feed]\nmode = \"0600\"");
    let mode = std::fs::metadata(&server.feed_path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let serve = |path: &std::path::Path| {
        command().args(["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--feed"]).arg(path).output().unwrap()
    };
    let second = serve(&server.feed_path);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is in use"));
    // A crashed server's socket is replaced.
    let folder = server.crash();
    assert!(folder.path().join("feed.sock").exists());
    let server = Server::start_in(folder, "", &[]);
    server.publish("a", "x");
    let file = server.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(String::from_utf8_lossy(&serve(&file).stderr).contains("is no socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_feed_whose_file_was_taken_away_is_bound_again() {
    let server = Server::start("");
    let mut before = server.feed();
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    for round in 0..2 {
        std::fs::remove_file(&server.feed_path).unwrap();
        let mut feed = eventually("publishers can connect", || FeedClient::connect(&server.feed_path).ok());
        for feed in [&mut before, &mut feed] {
            publish(feed, "a", &round.to_string());
            assert_eq!(stream.next().unwrap().data, round.to_string());
        }
    }
    let lines = || server.log.lock().unwrap().clone();
    let said = |text: &str| lines().iter().filter(|line| line["message"].as_str().unwrap().contains(text)).count();
    eventually("it is logged", || (said("the feed's socket file was gone, and is bound again") == 2).then_some(()));
    // Something else in its place cannot be replaced.
    std::fs::remove_file(&server.feed_path).unwrap();
    std::fs::create_dir(&server.feed_path).unwrap();
    let ready = |address| super::clients::get(address, "/readyz").status;
    eventually("the server is not ready", || {
        (ready(server.admin) == 503 && ready(server.address) == 503).then_some(())
    });
    eventually("it is logged", || (said("cannot be bound again") == 1).then_some(()));
    publish(&mut before, "a", "on");
    std::fs::remove_dir(&server.feed_path).unwrap();
    eventually("the server is ready again", || (ready(server.admin) == 200).then_some(()));
    publish(&mut server.feed(), "a", "again");
    assert_eq!([stream.next().unwrap().data, stream.next().unwrap().data], ["on", "again"]);
    let path = server.feed_path.clone();
    server.stop();
    assert!(!path.exists(), "the server removes the file that it has bound last");
}

#[test]
fn of_two_servers_that_start_together_exactly_one_runs() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let feed = folder.path().join("feed.sock");
        let mut servers = [0, 1].map(|_| {
            let mut serve = command();
            serve.args(["serve", "--admin", "off", "--shards", "1", "--listen", "127.0.0.1:0", "--feed"]).arg(&feed);
            serve.stderr(std::process::Stdio::null()).spawn().unwrap()
        });
        let ended = eventually("one of them has ended", || {
            servers.iter_mut().position(|server| server.try_wait().unwrap().is_some())
        });
        let left = &mut servers[1 - ended];
        eventually("the other one has the feed", || UnixStream::connect(&feed).ok());
        assert!(left.try_wait().unwrap().is_none());
        left.kill().unwrap();
        left.wait().unwrap();
    }
}

#[test]
fn a_second_server_leaves_the_files_of_the_first_alone() {
    let keys = super::tokens::KEYS;
    let server = Server::start(keys);
    let revoke = |server: &Server, jti: &str| server.feed().call(json!({ "op": "kick", "jti": jti })).unwrap();
    revoke(&server, "one");
    let serve = |feed: &std::path::Path, listen: &str| {
        let mut serve = command();
        serve.args(["serve", "--admin", "off", "--shards", "1", "--log-format", "json", "--listen", listen]);
        serve.arg("--feed").arg(feed).env("STATE_DIRECTORY", server.folder.path());
        let ended = serve.output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(!said.contains("\"message\":\"listening\""), "clients were taken: {said}");
        said
    };
    // The second server has the same feed; then a feed elsewhere, so that only the state is shared.
    assert!(serve(&server.feed_path, "127.0.0.1:0").contains("is in use: another process"));
    let elsewhere = server.folder.path().join("elsewhere/feed.sock");
    assert!(serve(&elsewhere, "127.0.0.1:0").contains("another server uses the same state"));
    let taken = server.address.to_string();
    let other = server.folder.path().join("other.sock");
    assert!(serve(&other, &taken).contains(&format!("{taken} is in use")), "clients are not shared");
    assert!(!elsewhere.exists() && !other.exists(), "what it has made is removed");
    std::fs::remove_file(server.folder.path().join("feed.lock")).unwrap();
    assert!(
        serve(&elsewhere, "127.0.0.1:0").contains("another server uses the same state"),
        "without the lock's file too"
    );
    revoke(&server, "two");
    let server = Server::start_in(server.crash(), keys, &[]);
    for jti in ["one", "two"] {
        let token = super::tokens::token(json!({ "jti": jti, "channels": ["*"] }));
        let answer = super::clients::get(server.address, &format!("/poll?channel=a&wait=0&token={token}"));
        assert_eq!(answer.status, 401, "{jti} stays refused");
    }
}

#[test]
fn publishers_are_logged_and_can_be_restricted() {
    let server = Server::start("[feed]\nallow_users = [\"nobody\"]");
    let mut raw = Raw::connect(&server);
    assert_eq!(raw.line()["error"]["code"], "forbidden");
    let pid = eventually("it is in the log", || {
        let log = server.log.lock().unwrap();
        log.iter().find(|line| line["message"] == "publisher refused").map(|line| line["pid"].clone())
    });
    assert_eq!(pid, std::process::id());
}

#[test]
fn a_publisher_that_outruns_the_server_is_slowed_and_nothing_is_dropped() {
    let server = Server::start("[limits]\nqueue = \"64KiB\"\n[namespace.\"*\"]\nmax_lag = \"512MiB\"");
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    let feed_path = server.feed_path.clone();
    let publisher = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(feed_path).unwrap();
        let padding = "x".repeat(1000);
        let text: String = (0..50_000)
            .map(|n| format!("{{\"op\":\"publish\",\"channel\":\"a\",\"data\":\"{n} {padding}\"}}\n"))
            .collect();
        stream.write_all(text.as_bytes()).unwrap();
    });
    for expected in 0..50_000 {
        let event = stream.next().unwrap();
        assert_eq!(event.data.split(' ').next(), Some(expected.to_string().as_str()));
    }
    publisher.join().unwrap();
    assert!(server.stats()["node"]["congestions"].as_u64() > Some(0), "{}", server.stats()["node"]);
}

#[test]
fn unread_answers_hold_the_publisher_back_and_take_no_memory() {
    let server = Server::start("[namespace.\"*\"]\nhistory_events = 100\nhistory_bytes = \"1MiB\"");
    let mut feed = server.feed();
    for _ in 0..50 {
        publish(&mut feed, "a", &"x".repeat(8000));
    }
    let before = server.resident_bytes();
    let mut raw = Raw::connect(&server);
    raw.send(&"{\"op\":\"history\",\"channel\":\"a\",\"ref\":1}\n".repeat(200));
    raw.reader.fill_buf().unwrap();
    // The answers amount to 80 MB.
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 10 << 20, "{grown} bytes more");
    for _ in 0..200 {
        assert_eq!(raw.line()["events"].as_array().map(Vec::len), Some(50));
    }
}
