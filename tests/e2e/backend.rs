//! Messages between clients and the backend, connects and disconnects, presence, and the backend's decisions.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::clients::{Http, Socket, Stream, get};
use super::server::{PATIENCE, Server, eventually};
use super::tokens::{KEYS, token};

/// A backend that listens on the feed.
struct Listener {
    reader: BufReader<UnixStream>,
}

impl Listener {
    fn open(server: &Server, what: &[&str]) -> Listener {
        let stream = UnixStream::connect(&server.feed_path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut listener = Listener { reader: BufReader::new(stream) };
        listener.say(json!({ "op": "listen", "what": what, "ref": 1 }));
        assert_eq!(listener.next(), json!({ "ref": 1, "ok": true }));
        listener
    }

    fn say(&mut self, line: Value) {
        writeln!(self.reader.get_mut(), "{line}").unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

#[test]
fn a_backend_that_hangs_is_passed_over_until_it_answers() {
    let server = Server::start("[auth]\nask_backend = true\nask_timeout = \"200ms\"");
    let working = Listener::open(&server, &["authorize"]);
    let mut hanging = Listener::open(&server, &["authorize"]);
    let answer = |question: &Value| json!({ "op": "authorized", "conn": question["conn"], "ask": question["ask"], "allow": true, "ref": 9 });
    std::thread::spawn(move || {
        let mut writer = working.reader.get_ref().try_clone().unwrap();
        for line in working.reader.lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["op"] == "authorize" && writeln!(writer, "{}", answer(&line)).is_err() {
                return;
            }
        }
    });
    let address = server.address;
    let poll = move || std::thread::spawn(move || get(address, "/poll?channel=a&wait=0").status);
    // The newest listener is asked first. It is given up after three questions without an answer.
    let mut refused = 0;
    while poll().join().unwrap() == 403 {
        refused += 1;
        assert!(refused < 10, "the other one is asked");
    }
    assert!(refused >= 3, "{refused}");
    assert_eq!(server.stats()["node"]["authorizers_passed_over"], 1);
    // A late answer shows that the newest one works again.
    let questions: Vec<Value> = (0..refused).map(|_| hanging.next()).collect();
    hanging.say(answer(&questions[0]));
    assert_eq!(hanging.next()["ref"], 9);
    let asked = poll();
    let question = hanging.next();
    hanging.say(answer(&question));
    assert_eq!(asked.join().unwrap(), 200);
}

#[test]
fn clients_speak_with_the_backend() {
    let server = Server::start_with(KEYS, &["--shards", "2"]);
    let open = |sub: &str| {
        let token = token(json!({ "sub": sub, "channels": ["*"] }));
        Socket::open(server.address, &format!("/ws?channel=a&token={token}"))
    };
    let mut early = open("early");
    early.say(r#"{"send":1,"ref":1}"#);
    assert_eq!(early.json()["error"]["code"], "no_backend");
    let mut backend = Listener::open(&server, &["messages"]);
    let mut sockets: HashMap<String, Socket> =
        ["u", "v"].into_iter().map(|user| (user.to_owned(), open(user))).collect();
    for n in 0..50 {
        for (user, socket) in &mut sockets {
            socket.say(&format!(r#"{{"send":{{"from": "{user}",  "n":{n}}}}}"#));
        }
    }
    let mut next: HashMap<String, u64> = HashMap::new();
    let mut connections: HashMap<String, String> = HashMap::new();
    for _ in 0..100 {
        let line = backend.next();
        assert_eq!(line["op"], "message");
        assert_eq!(line["data"]["from"], line["user"]);
        let user = line["user"].as_str().unwrap().to_owned();
        let expected = next.entry(user.clone()).or_default();
        assert_eq!(line["data"]["n"], *expected, "a client's messages stay in order");
        *expected += 1;
        connections.insert(user, line["conn"].as_str().unwrap().to_owned());
    }
    // The backend sends to one connection, and to all connections of a user.
    backend.say(json!({ "op": "send", "conn": connections["u"], "data": "for the connection", "ref": 2 }));
    backend.say(json!({ "op": "send", "user": "v", "data": { "for": "the user" } }));
    assert_eq!(backend.next()["ref"], 2);
    assert_eq!(sockets.get_mut("u").unwrap().json(), json!({ "data": "for the connection" }));
    assert_eq!(sockets.get_mut("v").unwrap().json(), json!({ "data": { "for": "the user" } }));
    // A listener may publish as well. After it has left, clients are told that no backend listens.
    backend.say(json!({ "op": "publish", "channel": "a", "data": "x" }));
    assert_eq!(early.json()["data"], "x");
    drop(backend);
    eventually("no backend listens", || {
        early.say(r#"{"send":2,"ref":9}"#);
        (early.json()["error"]["code"] == "no_backend").then_some(())
    });
}

#[test]
fn a_slow_backend_slows_its_clients_and_costs_no_memory() {
    let server = Server::start("[limits]\nupstream = \"64KiB\"\n[heartbeat]\nws = \"200ms\"\nreap = \"300ms\"");
    let mut backend = Listener::open(&server, &["messages"]);
    let text = "x".repeat(8000);
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let mut socket = Socket::open(server.address, "/ws?channel=a");
            let text = text.clone();
            std::thread::spawn(move || {
                for n in 0..500 {
                    socket.say(&json!({ "send": { "client": client, "n": n, "text": text } }).to_string());
                }
                socket
            })
        })
        .collect();
    eventually("the clients are held up", || (server.figure("messages_held") > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(server.resident_bytes() < 200 << 20, "{}", server.resident_bytes());
    // Other clients are served as before.
    let mut stream = Stream::open(server.address, "/sse?channel=a");
    server.publish("a", "y");
    assert_eq!(stream.next().unwrap().data, "y");
    let mut next = [0; 4];
    for _ in 0..2000 {
        let line = backend.next();
        let client = line["data"]["client"].as_u64().unwrap() as usize;
        assert_eq!(line["data"]["n"], next[client], "every message once and in order");
        next[client] += 1;
    }
    for client in clients {
        let mut socket = client.join().unwrap();
        assert_eq!(socket.json()["data"], "y", "a client that was held up is still connected");
    }
}

#[test]
fn the_backend_is_told_of_connects_and_disconnects() {
    let server = Server::start(KEYS);
    let mut backend = Listener::open(&server, &["connections"]);
    let token = token(json!({ "sub": "u", "channels": ["*"] }));
    let stream = Stream::open(server.address, &format!("/sse?channel=a&token={token}"));
    let came = backend.next();
    assert_eq!(
        (came["op"].as_str(), came["user"].as_str(), came["transport"].as_str()),
        (Some("connect"), Some("u"), Some("sse"))
    );
    assert!(came["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    get(server.address, &format!("/poll?channel=a&wait=0&token={token}"));
    drop(stream);
    let gone = backend.next();
    assert_eq!((gone["op"].as_str(), &gone["conn"]), (Some("disconnect"), &came["conn"]), "no line is about the polls");
    assert_eq!(gone["reason"], "client");
    let mut socket = Socket::open(server.address, &format!("/ws?channel=a&token={token}"));
    let came = backend.next();
    backend.say(json!({ "op": "kick", "conn": came["conn"], "reason": "no", "ref": 5 }));
    let said = [backend.next(), backend.next()];
    assert!(
        said.iter().any(|line| line["kicked"] == 1) && said.iter().any(|line| line["reason"] == "kicked"),
        "{said:?}"
    );
    assert_eq!(socket.json()["bye"]["reason"], "no");
}

#[test]
fn clients_publish_where_their_tokens_say_so() {
    let server = Server::start(&format!("{KEYS}[namespace.chat]\nclient_publish = true"));
    let token = token(json!({ "sub": "u", "channels": ["*"], "publish": ["chat:*", "other:*"] }));
    let mut reader = Stream::open(server.address, &format!("/sse?channel=chat:1&token={token}"));
    let mut socket = Socket::open(server.address, &format!("/ws?channel=chat:1&token={token}"));
    socket.say(r#"{"publish":{"channel":"chat:1","data":{"text":"hello"},"event":"said"},"ref":1}"#);
    let answers = [socket.json(), socket.json()];
    let answer = answers.iter().find(|line| line["ref"] == 1).unwrap();
    let event = answers.iter().find(|line| line["channel"] == "chat:1").unwrap();
    assert_eq!((&answer["ok"], &answer["id"]), (&json!(true), &event["id"]));
    let read = reader.next().unwrap();
    assert_eq!(
        (read.name.as_str(), read.data.as_str(), &json!(read.id)),
        ("said", r#"{"text":"hello"}"#, &event["id"])
    );
    for (publish, code) in [
        (r#"{"channel":"other:1","data":1}"#, "forbidden"),
        (r#"{"channel":"chat","data":1}"#, "forbidden"),
        (r#"{"channel":"$x","data":1}"#, "bad_channel"),
        (r#"{"channel":"chat:1"}"#, "bad_message"),
        (r#"{"channel":"chat:1","data":1,"event":"ringcast.bye"}"#, "bad_field"),
    ] {
        socket.say(&format!(r#"{{"publish":{publish},"ref":2}}"#));
        assert_eq!(socket.json()["error"]["code"], code, "{publish}");
    }
    let other = super::tokens::token(json!({ "sub": "v", "channels": ["*"] }));
    let mut other = Socket::open(server.address, &format!("/ws?token={other}&channel=x"));
    other.say(r#"{"publish":{"channel":"chat:1","data":1}}"#);
    assert_eq!(other.json()["error"]["code"], "forbidden");
}

#[test]
fn presence_is_exact_over_all_shards() {
    let server = Server::start_with(&format!("{KEYS}[namespace.room]\npresence = true"), &["--shards", "3"]);
    let of = |sub: &str| token(json!({ "sub": sub, "channels": ["*"] }));
    let present = || {
        let mut answer = server.feed().call(json!({ "op": "presence", "channel": "room:1" })).unwrap();
        let users = answer["users"].as_array_mut().unwrap();
        users.sort_by_key(|user| user["user"].as_str().unwrap().to_owned());
        let users: Vec<(String, u64)> = users
            .iter()
            .map(|u| (u["user"].as_str().unwrap().to_owned(), u["connections"].as_u64().unwrap()))
            .collect();
        assert_eq!(answer["connections"], users.iter().map(|(_, count)| count).sum::<u64>());
        users
    };
    let expect = |users: &[(&str, u64)]| {
        let users: Vec<_> = users.iter().map(|(user, count)| ((*user).to_owned(), *count)).collect();
        eventually(&format!("{users:?} are there, not {:?}", present()), || (present() == users).then_some(()));
    };
    let mut watcher = Socket::open(server.address, &format!("/ws?channel=room:1&token={}", of("watcher")));
    let joined = watcher.json();
    assert_eq!((joined["event"].as_str(), &joined["data"]["user"]), (Some("ringcast.join"), &json!("watcher")));
    let open = |user: &str| Socket::open(server.address, &format!("/ws?channel=room:1,b&token={}", of(user)));
    let mut sockets: Vec<Socket> = (0..9).map(|n| open(["u", "v", "w"][n % 3])).collect();
    expect(&[("u", 3), ("v", 3), ("w", 3), ("watcher", 1)]);
    let mut joins: Vec<Value> = (0..3).map(|_| watcher.json()["data"]["user"].clone()).collect();
    joins.sort_by_key(Value::to_string);
    assert_eq!(joins, ["u", "v", "w"], "once for each user");
    get(server.address, &format!("/poll?channel=room:1&wait=0&token={}", of("poller")));
    sockets[0].say(r#"{"unsubscribe":["room:1"]}"#);
    drop(sockets.remove(4));
    expect(&[("u", 2), ("v", 2), ("w", 3), ("watcher", 1)]);
    server.feed().call(json!({ "op": "kick", "user": "w" })).unwrap();
    expect(&[("u", 2), ("v", 2), ("watcher", 1)]);
    let left = watcher.json();
    assert_eq!((left["event"].as_str(), &left["data"]["user"]), (Some("ringcast.leave"), &json!("w")));
    drop(sockets);
    expect(&[("watcher", 1)]);
    drop(watcher);
    expect(&[]);
}

#[test]
fn an_ended_channel_stays_ended_when_its_users_leave() {
    let server = Server::start_with(&format!("{KEYS}[namespace.room]\npresence = true"), &["--shards", "2"]);
    let token = token(json!({ "sub": "u", "channels": ["*"] }));
    let open = || Stream::open(server.address, &format!("/sse?channel=room:1&token={token}"));
    let mut streams = [open(), open(), open()];
    let present = || server.feed().call(json!({ "op": "presence", "channel": "room:1" })).unwrap();
    eventually("all connections are counted", || (present()["connections"] == 3).then_some(()));
    server.publish("room:1", "last");
    server.feed().call(json!({ "op": "end", "channel": "room:1" })).unwrap();
    for stream in &mut streams {
        let names: Vec<String> = std::iter::from_fn(|| stream.next()).map(|event| event.name).collect();
        assert_eq!(names.last().unwrap(), "ringcast.end", "{names:?}");
    }
    eventually("all connections have ended", || (present()["connections"] == 0).then_some(()));
    for _ in 0..4 {
        let target = format!("/sse?channel=room:1&token={token}");
        assert_eq!(get(server.address, &target).status, 204, "a later client is told that there is nothing");
    }
}

#[test]
fn presence_follows_a_user_that_the_backend_names_later() {
    let config = "[auth]\nask_backend = true\n[namespace.room]\npublic = true\npresence = true";
    let server = Server::start(config);
    let mut backend = Listener::open(&server, &["authorize"]);
    let present = || {
        let answer = server.feed().call(json!({ "op": "presence", "channel": "room:1" })).unwrap();
        (answer["connections"].as_u64().unwrap(), answer["count"].as_u64().unwrap())
    };
    let mut socket = Socket::open(server.address, "/ws?channel=room:1");
    eventually("the connection is counted", || (present() == (1, 0)).then_some(()));
    socket.say(r#"{"subscribe":["private:1"],"ref":1}"#);
    let question = backend.next();
    backend.say(
        json!({ "op": "authorized", "conn": question["conn"], "ask": question["ask"], "allow": true, "user": "u" }),
    );
    eventually("the connection has its user", || (present() == (1, 1)).then_some(()));
    drop(socket);
    eventually("the connection is no longer counted", || (present() == (0, 0)).then_some(()));
}

#[test]
fn readers_of_the_feed_may_change_nothing() {
    // SAFETY: takes no pointers and always succeeds.
    let own = unsafe { libc::getuid() };
    let server = Server::start(&format!("[feed]\nreaders = [\"{own}\"]"));
    let mut feed = server.feed();
    assert!(feed.call(json!({ "op": "stats" })).is_ok());
    assert_eq!(feed.call(json!({ "op": "presence", "channel": "a" })).unwrap()["count"], 0);
    for line in [
        json!({ "op": "publish", "channel": "a", "data": 1 }),
        json!({ "op": "kick", "channel": "a" }),
        json!({ "op": "listen", "what": ["messages"] }),
    ] {
        let error = feed.call(line.clone()).unwrap_err().to_string();
        assert!(error.contains("forbidden"), "{line}: {error}");
    }
}

/// A backend that allows `user:NAME` to a client with the cookie `who=NAME`, and leaves other questions unanswered.
fn decide(server: &Server) -> std::thread::JoinHandle<u32> {
    let mut backend = Listener::open(server, &["authorize"]);
    std::thread::spawn(move || {
        let mut questions = 0;
        loop {
            let mut line = String::new();
            if backend.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return questions;
            }
            let question: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(question["op"], "authorize");
            questions += 1;
            let channels = question["channels"].as_array().unwrap();
            let answer = |allow: Value, user: &str| json!({ "op": "authorized", "conn": question["conn"], "ask": question["ask"], "allow": allow, "user": user });
            if channels.contains(&json!("silence")) {
                continue;
            }
            let cookie = question["cookie"].as_str().unwrap_or_default();
            let answer = match cookie.strip_prefix("who=") {
                Some(who) => answer(json!([format!("user:{who}")]), who),
                None => answer(json!(channels.contains(&json!("open"))), ""),
            };
            backend.say(answer);
        }
    })
}

#[test]
fn the_backend_decides_about_clients_without_a_token() {
    let server = Server::start("[auth]\nask_backend = true\nask_timeout = \"300ms\"\n[namespace.news]\npublic = true");
    assert_eq!(get(server.address, "/poll?channel=open&wait=0").status, 403, "no backend listens yet");
    let backend = decide(&server);
    let fields = "Cookie: who=u1\r\n";
    let mut stream = Stream::open_with(server.address, "/sse?channel=user:u1", fields);
    server.publish("user:u1", "x");
    assert_eq!(stream.next().unwrap().data, "x");
    let mut http = Http::connect(server.address);
    // Pipelined requests are answered in order.
    http.send(&format!("GET /poll?channel=user:u2&wait=0 HTTP/1.1\r\nHost: x\r\n{fields}\r\nGET /poll?channel=open&wait=0 HTTP/1.1\r\nHost: x\r\n\r\nGET /poll?channel=news:a&wait=0 HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!([http.answer(false).status, http.answer(false).status, http.answer(false).status], [403, 200, 200]);
    assert_eq!(get(server.address, "/poll?channel=silence&wait=0").status, 403, "no answer means no");
    server.await_figure("questions_unanswered", 1);
    // Further channels of a WebSocket are a further question to the backend.
    let mut socket = Socket::open(server.address, "/ws?channel=open");
    socket.say(r#"{"subscribe":["closed"],"ref":1}"#);
    socket.say(r#"{"subscribe":["open"],"ref":2}"#);
    let refused = socket.json();
    assert_eq!((&refused["ref"], &refused["error"]["channels"]), (&json!(1), &json!(["closed"])));
    let subscribed = socket.json();
    assert_eq!((&subscribed["ref"], &subscribed["ok"]), (&json!(2), &json!(true)));
    server.publish("open", "y");
    assert_eq!(socket.json()["data"], "y");
    assert_eq!(server.feed().call(json!({ "op": "kick", "user": "u1" })).unwrap()["kicked"], 1);
    drop(server);
    assert_eq!(backend.join().unwrap(), 6);
}

#[test]
fn a_listener_that_has_stopped_reading_holds_up_no_client() {
    let server = Server::start("[limits]\nupstream = \"1KiB\"");
    let backend = Listener::open(&server, &["messages"]);
    backend.reader.get_ref().shutdown(std::net::Shutdown::Read).unwrap();
    let mut socket = Socket::open(server.address, "/ws");
    eventually("no backend listens", || {
        socket.say(&json!({ "send": "x".repeat(500), "ref": 1 }).to_string());
        (socket.json()["error"]["code"] == "no_backend").then_some(())
    });
    drop(backend);
}

#[test]
fn the_limit_per_user_holds_for_users_that_the_backend_names() {
    let server = Server::start("[auth]\nask_backend = true\n[server]\nper_user = 1");
    let backend = decide(&server);
    let fields = "Cookie: who=u1\r\n";
    let _first = Stream::open_with(server.address, "/sse?channel=user:u1", fields);
    let answer = Http::connect(server.address).request("GET", "/sse?channel=user:u1", fields);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("too_many")));
    assert!(answer.header("retry-after").is_some());
    let error =
        server.feed().call(json!({ "op": "authorized", "conn": "9.0.0", "ask": 1, "allow": true })).unwrap_err();
    assert_eq!(super::server::code(error), "no_connection");
    drop(server);
    backend.join().unwrap();
}
