//! Tokens, revocations, keys, and limits on users and addresses.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tungstenite::Message;

use super::clients::{Http, Socket, Stream, UPGRADE, get};
use super::server::{Server, eventually};

pub const KEYS: &str =
    "[auth]\ncookie = \"session\"\nkeys = [{ alg = \"HS256\", secret = \"a secret of at least 32 bytes, yes\" }]\n";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sign(key: &str, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(key.as_bytes())).unwrap()
}

/// A token for the server's key that expires in a minute unless its claims say otherwise.
pub fn token(mut claims: Value) -> String {
    let exp = claims.get("exp").cloned().unwrap_or_else(|| (now() + 60).into());
    claims["exp"] = exp;
    sign("a secret of at least 32 bytes, yes", None, &claims)
}

fn kick(server: &Server, line: Value, counted: &str) -> u64 {
    server.feed().call(line).unwrap()[counted].as_u64().unwrap()
}

#[test]
fn a_subscription_needs_a_token_that_names_its_channel() {
    let server = Server::start(&format!("{KEYS}[namespace.news]\npublic = true"));
    let token = token(json!({ "sub": "u1", "channels": ["orders:*", "user:{sub}"] }));
    for target in ["/sse?channel=orders:1", "/poll?channel=orders:1&wait=0"] {
        let answer = get(server.address, target);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{target}");
        let answer = get(server.address, &format!("{target}&token={}x", token));
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        let answer = get(server.address, &format!("{target}&channel=user:u2&token={token}"));
        assert_eq!(answer.status, 403);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("user:u2"), "refused by name");
    }
    assert_eq!(get(server.address, &format!("/poll?channel=user:u1&wait=0&token={token}")).status, 200);
    let expired = self::token(json!({ "exp": now() - 1, "channels": "*" }));
    let answer = get(server.address, &format!("/poll?channel=a&wait=0&token={expired}"));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str().unwrap()), (401, "token_expired"));
    // The token is accepted in each of its places.
    for fields in [format!("Authorization: Bearer {token}\r\n"), format!("Cookie: a=b; session={token}\r\n")] {
        let mut stream = Stream::open_with(server.address, "/sse?channel=orders:1", &fields);
        server.publish("orders:1", "x");
        assert_eq!(stream.next().unwrap().data, "x");
    }
    let mut public = Stream::open(server.address, "/sse?channel=news:today");
    server.publish("news:today", "y");
    assert_eq!(public.next().unwrap().data, "y");
    server.await_figure("tokens_refused", 3);
}

#[test]
fn a_websocket_keeps_the_channels_that_its_token_names() {
    let server = Server::start(KEYS);
    let token = token(json!({ "channels": ["a", "c"] }));
    let mut socket = Socket::open(server.address, &format!("/ws?channel=a,b&token={token}"));
    let refused = socket.json();
    assert_eq!(
        (refused["error"]["code"].as_str(), refused["error"]["channels"].clone()),
        (Some("forbidden"), json!(["b"]))
    );
    socket.say(r#"{"subscribe":["b","c","d"],"ref":1}"#);
    let refused = socket.json();
    assert_eq!((refused["ref"].clone(), refused["error"]["channels"].clone()), (json!(1), json!(["b", "d"])));
    for channel in ["a", "b", "c"] {
        server.publish(channel, channel);
    }
    assert_eq!([socket.json()["data"].clone(), socket.json()["data"].clone()], ["a", "c"]);
    // The raw format has no error replies, so the request itself is refused.
    let mut http = Http::connect(server.address);
    assert_eq!(http.request("GET", &format!("/ws?channel=a,b&format=raw&token={token}"), UPGRADE).status, 403);
}

#[test]
fn a_websocket_may_send_its_token_first() {
    let server = Server::start(&format!("{KEYS}token_timeout = \"300ms\""));
    let mut socket = Socket::open(server.address, "/ws?channel=a,b");
    socket.say(r#"{"subscribe":["c"],"ref":1}"#);
    assert_eq!(socket.json()["error"]["code"], "unauthorized");
    socket.say(r#"{"token":"x","ref":2}"#);
    assert_eq!(socket.json()["error"]["code"], "invalid_token");
    socket.say(&format!(r#"{{"token":"{}","ref":3}}"#, token(json!({ "channels": ["a", "c"] }))));
    assert_eq!(socket.json(), json!({ "ref": 3, "ok": true }));
    assert_eq!(socket.json()["error"]["channels"], json!(["b"]));
    server.publish("a", "x");
    assert_eq!(socket.json()["data"], "x");
    // A client that sends no token in time is disconnected, with and without channels in its request.
    for target in ["/ws", "/ws?channel=a"] {
        let mut silent = Socket::open(server.address, target);
        assert_eq!(silent.close_code(), 1008);
    }
    server.publish("a", "still here");
    assert_eq!(socket.json()["data"], "still here");
}

#[test]
fn a_token_that_comes_late_does_not_exceed_the_limit_on_channels() {
    let config = format!("{KEYS}[namespace.news]\npublic = true\n[limits]\nchannels = 2");
    let server = Server::start_with(&config, &["--shards", "1"]);
    let mut socket = Socket::open(server.address, "/ws?channel=a,b");
    // The limit was not reached when the connection was opened.
    let _stream = Stream::open(server.address, "/sse?channel=news:1");
    socket.say(&format!(r#"{{"token":"{}","ref":1}}"#, token(json!({ "channels": "*" }))));
    assert_eq!(socket.json(), json!({ "ref": 1, "ok": true }));
    let refused = socket.json();
    assert_eq!((&refused["error"]["code"], &refused["error"]["channels"]), (&json!("channels"), &json!(["a", "b"])));
    socket.say(r#"{"subscribe":["a"],"ref":2}"#);
    assert_eq!(socket.json()["ok"], true, "a smaller request is granted");
}

#[test]
fn a_connection_ends_with_its_token_unless_it_gets_another() {
    let server = Server::start(KEYS);
    let short = |sub: &str| token(json!({ "sub": sub, "exp": now() + 2, "channels": ["*"] }));
    let mut stream = Stream::open(server.address, &format!("/sse?channel=a&token={}", short("u")));
    let mut socket = Socket::open(server.address, &format!("/ws?channel=a&token={}", short("u")));
    let mut refreshed = Socket::open(server.address, &format!("/ws?channel=a,b&token={}", short("u")));
    let held = std::thread::spawn({
        let (address, token) = (server.address, short("u"));
        move || get(address, &format!("/poll?channel=a&wait=20&token={token}"))
    });
    refreshed.say(&format!(r#"{{"refresh":"{}","ref":1}}"#, short("other")));
    assert_eq!(refreshed.json()["error"]["code"], "forbidden", "a connection keeps its user");
    let longer = token(json!({ "sub": "u", "channels": ["a"] }));
    refreshed.say(&format!(r#"{{"refresh":"{longer}","ref":2}}"#));
    assert_eq!(refreshed.json(), json!({ "ref": 2, "ok": true }));
    assert_eq!(
        refreshed.json()["unsubscribed"]["channel"],
        "b",
        "a channel that the new token does not name is unsubscribed"
    );
    let bye = stream.next().unwrap();
    assert_eq!(bye.name, "ringcast.bye");
    assert!(bye.data.contains("the token has expired"), "{}", bye.data);
    assert_eq!(stream.next(), None);
    assert!(stream.is_over);
    assert_eq!(socket.json()["bye"]["reason"], "the token has expired");
    assert_eq!(socket.close_code(), 4001);
    assert_eq!(held.join().unwrap().status, 200);
    server.publish("a", "still here");
    assert_eq!(refreshed.json()["data"], "still here");
    server.await_figure("closed.expired", 3);
    drop((stream, socket));
    server.await_figure("identified", 1);
}

#[test]
fn users_and_tokens_are_kicked_on_every_shard() {
    let server = Server::start_with(KEYS, &["--shards", "3"]);
    let of = |sub: &str, jti: &str| token(json!({ "sub": sub, "jti": jti, "channels": ["*"] }));
    let open = |token: &str| Socket::open(server.address, &format!("/ws?channel=a&token={token}"));
    let (first, second) = (of("u", "one"), of("u", "two"));
    let mut sockets: Vec<Socket> = (0..6).map(|n| open(if n < 4 { &first } else { &second })).collect();
    let mut other = open(&of("v", "three"));
    eventually("all tokens are verified", || (server.figure("identified") == 7).then_some(()));
    assert_eq!(kick(&server, json!({ "op": "kick", "jti": "one", "reason": "signed out" }), "kicked"), 4);
    for socket in &mut sockets[..4] {
        assert_eq!(socket.json()["bye"]["reason"], "signed out");
        assert_eq!(socket.close_code(), 4003);
    }
    for _ in 0..6 {
        let answer = get(server.address, &format!("/poll?channel=a&wait=0&token={first}"));
        assert_eq!(answer.status, 401, "the token stays refused, by every shard");
    }
    assert_eq!(kick(&server, json!({ "op": "kick", "user": "u" }), "kicked"), 2);
    assert_eq!(kick(&server, json!({ "op": "kick", "user": "nobody" }), "kicked"), 0);
    assert_eq!(get(server.address, &format!("/poll?channel=a&wait=0&token={second}")).status, 200);
    server.publish("a", "x");
    assert_eq!(other.json()["data"], "x");
}

#[test]
fn a_revoked_token_stays_refused_after_a_crash() {
    let server = Server::start_with(KEYS, &["--shards", "2"]);
    let of = |jti: &str| token(json!({ "sub": "u", "jti": jti, "channels": ["*"] }));
    let target = |jti: &str| format!("/poll?channel=a&wait=0&token={}", of(jti));
    assert_eq!(kick(&server, json!({ "op": "kick", "jti": "lost", "expires": now() + 60 }), "kicked"), 0);
    let server = Server::start_in(server.crash(), KEYS, &["--shards", "2"]);
    for _ in 0..6 {
        let answer = get(server.address, &target("lost"));
        assert_eq!(
            (answer.status, answer.json()["error"]["message"].as_str().unwrap()),
            (401, "the token has been revoked")
        );
    }
    assert_eq!(get(server.address, &target("other")).status, 200);
}

#[test]
fn a_revoked_token_is_refused_within_the_leeway_after_its_expiry() {
    let exp = now() - 5;
    let server = Server::start(KEYS);
    kick(&server, json!({ "op": "kick", "jti": "lost before", "expires": exp }), "kicked");
    let config = format!("{KEYS}leeway = \"60s\"");
    let server = Server::start_in(server.stop(), &config, &[]);
    let target = |jti: &str| {
        let token = token(json!({ "sub": "u", "jti": jti, "exp": exp, "channels": ["*"] }));
        format!("/poll?channel=a&wait=0&token={token}")
    };
    assert_eq!(get(server.address, &target("lost before")).status, 401, "the leeway was shorter then");
    assert_eq!(get(server.address, &target("lost")).status, 200, "the token is still valid within the leeway");
    kick(&server, json!({ "op": "kick", "jti": "lost", "expires": exp }), "kicked");
    assert_eq!(get(server.address, &target("lost")).status, 401);
    let server = Server::start_in(server.crash(), &config, &[]);
    assert_eq!(get(server.address, &target("lost")).status, 401, "after a crash, too");
    assert_eq!(get(server.address, &target("other")).status, 200);
}

#[test]
fn a_revocation_that_cannot_be_written_down_holds_and_says_so() {
    let server = Server::start(KEYS);
    // This folder has the name of the file that the server would write.
    std::fs::remove_file(server.feed_path.with_extension("revoked")).unwrap();
    std::fs::create_dir(server.feed_path.with_extension("revoked")).unwrap();
    let error = server.feed().call(json!({ "op": "kick", "jti": "lost" })).unwrap_err().to_string();
    assert!(error.contains("revoked only until the server ends: cannot write "), "{error}");
    let token = token(json!({ "sub": "u", "jti": "lost", "channels": ["*"] }));
    eventually("the token is refused", || {
        (get(server.address, &format!("/poll?channel=a&wait=0&token={token}")).status == 401).then_some(())
    });
}

#[test]
fn a_user_is_taken_off_a_channel() {
    let server = Server::start(KEYS);
    let token = token(json!({ "sub": "u", "channels": ["*"] }));
    let mut socket = Socket::open(server.address, &format!("/ws?channel=a,b&token={token}"));
    let mut stream = Stream::open(server.address, &format!("/sse?channel=a&token={token}"));
    let line = json!({ "op": "unsubscribe", "user": "u", "channel": "a", "reason": "left the room" });
    assert_eq!(kick(&server, line, "unsubscribed"), 2);
    assert_eq!(socket.json(), json!({ "unsubscribed": { "channel": "a", "reason": "left the room" } }));
    assert_eq!(stream.next().unwrap().name, "ringcast.unsubscribed");
    assert_eq!(stream.next().unwrap().name, "ringcast.bye", "the stream has no channel left");
    server.publish("a", "x");
    server.publish("b", "y");
    assert_eq!(socket.json()["data"], "y");
}

#[test]
fn keys_change_without_dropping_anyone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let write = |kids: &[&str]| {
        let key = |kid: &&str| json!({ "kty": "oct", "alg": "HS256", "kid": kid, "k": URL_SAFE_NO_PAD.encode(kid) });
        let set = json!({ "keys": kids.iter().map(key).collect::<Vec<_>>() });
        let new = folder.path().join("new");
        std::fs::write(&new, set.to_string()).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    write(&["old"]);
    let server = Server::start(&format!("[auth]\njwks_file = {file:?}"));
    let claims = json!({ "exp": now() + 60, "channels": "*" });
    let status = |kid: &str| {
        get(server.address, &format!("/poll?channel=a&wait=0&token={}", sign(kid, Some(kid), &claims))).status
    };
    let mut stream =
        Stream::open(server.address, &format!("/sse?channel=a&token={}", sign("old", Some("old"), &claims)));
    assert_eq!((status("old"), status("new")), (200, 401));
    write(&["new"]);
    eventually("the new key counts", || (status("new") == 200).then_some(()));
    assert_eq!(status("old"), 401);
    // A file that cannot be read changes nothing, and the log does not say that keys were read.
    let counted = |message: &str| {
        let log = server.log.lock().unwrap();
        log.iter().filter(|line| line["message"].as_str().is_some_and(|said| said.contains(message))).count()
    };
    std::fs::write(&file, "{").unwrap();
    server.signal(libc::SIGHUP);
    // One line for the signal, one for the changed file.
    eventually("the failure is logged", || (counted("stay in use") >= 2).then_some(()));
    assert_eq!(status("new"), 200);
    assert_eq!(counted("keys are read again"), 0);
    // A key that is not understood is left out, and the others count.
    let known = json!({ "kty": "oct", "alg": "HS256", "kid": "new", "k": URL_SAFE_NO_PAD.encode("new") });
    std::fs::write(&file, json!({ "keys": [{ "kty": "later" }, known] }).to_string()).unwrap();
    server.signal(libc::SIGHUP);
    eventually("the keys are read", || (counted("keys are read again") == 1).then_some(()));
    assert!(counted("a key cannot be used and is left out") >= 1);
    assert_eq!(status("new"), 200);
    server.publish("a", "x");
    assert_eq!(stream.next().unwrap().data, "x");
}

#[test]
fn tokens_never_reach_the_log() {
    let server = Server::start_with(KEYS, &["--log-level", "trace"]);
    let good = token(json!({ "sub": "user-one", "channels": ["*"] }));
    let bad = token(json!({ "sub": "user-two", "exp": 1 }));
    let mut stream = Stream::open(server.address, &format!("/sse?channel=a&token={good}"));
    get(server.address, &format!("/poll?channel=a&token={bad}"));
    Http::connect(server.address).request("GET", "/sse?channel=a", &format!("Authorization: Bearer {bad}\r\n"));
    Http::connect(server.address).request("GET", "/sse?channel=a", &format!("Cookie: session={bad}\r\n"));
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    socket.say(&format!(r#"{{"token":"{bad}"}}"#));
    assert_eq!(socket.json()["error"]["code"], "token_expired");
    kick(&server, json!({ "op": "kick", "user": "user-one" }), "kicked");
    assert_eq!(stream.next().unwrap().name, "ringcast.bye");
    let log = eventually("the end is logged", || {
        let log = Value::from(server.log.lock().unwrap().clone()).to_string();
        (log.contains("disconnected") && log.contains("user-one")).then_some(log)
    });
    for token in [&good, &bad] {
        for part in token.split('.').skip(1) {
            assert!(!log.contains(part), "a part of a token is in the log");
        }
    }
}

#[test]
fn the_connections_of_a_user_are_limited() {
    let server = Server::start(&format!("{KEYS}[server]\nper_user = 2"));
    let token = token(json!({ "sub": "u", "channels": ["*"] }));
    let target = format!("/sse?channel=a&token={token}");
    let first = Stream::open(server.address, &target);
    let _second = Stream::open(server.address, &target);
    let answer = get(server.address, &target);
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (429, true));
    drop(first);
    eventually("there is room again", || {
        (get(server.address, &format!("/poll?channel=a&wait=0&token={token}")).status == 200).then_some(())
    });
}

#[test]
fn clients_that_flood_are_disconnected() {
    let server = Server::start("[websocket]\nmessage_rate = 5");
    let mut socket = Socket::open(server.address, "/ws");
    for n in 0..20 {
        if socket.socket.send(Message::Text(format!("{{\"ping\":{n}}}").into())).is_err() {
            break;
        }
    }
    let code = loop {
        match socket.next() {
            Message::Close(Some(frame)) => break u16::from(frame.code),
            Message::Text(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 1008);
    server.await_figure("closed.flooding", 1);
}

#[test]
fn the_new_connections_of_an_address_are_limited_per_second() {
    let server = Server::start("[server]\nconnect_rate = 3");
    let statuses: Vec<u16> = (0..12).map(|_| get(server.address, "/healthz").status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(statuses[..3], [200; 3]);
    eventually("the address may connect again", || (get(server.address, "/healthz").status == 200).then_some(()));
}

#[test]
fn a_trusted_proxy_names_the_clients_address() {
    let config = "[server]\nper_address = 1\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1/32\"]";
    let server = Server::start(config);
    let open = |header: &str| {
        let mut http = Http::connect(server.address);
        http.send(&format!("{header}GET /sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n"));
        http
    };
    let mut first = open("PROXY TCP4 192.0.2.1 127.0.0.1 1000 80\r\n");
    assert!(first.head().starts_with("HTTP/1.1 200"));
    let mut again = open("PROXY TCP4 192.0.2.1 127.0.0.1 1001 80\r\n");
    assert!(again.head().starts_with("HTTP/1.1 429"));
    let mut other = open("PROXY TCP4 192.0.2.2 127.0.0.1 1002 80\r\n");
    assert!(other.head().starts_with("HTTP/1.1 200"));
    let mut without = open("");
    assert!(without.is_closed(), "a connection without the proxy's header is refused");
    eventually("the client's address is logged", || {
        let log = Value::from(server.log.lock().unwrap().clone()).to_string();
        log.contains("192.0.2.1:1000").then_some(())
    });
    drop(first);
    eventually("the place is free again", || {
        let mut next = open("PROXY TCP4 192.0.2.1 127.0.0.1 1003 80\r\n");
        next.head().starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn a_websocket_whose_tokens_fail_one_after_the_other_is_closed() {
    let server = Server::start(KEYS);
    let good = format!(r#"{{"token":"{}","ref":1}}"#, token(json!({ "sub": "u", "channels": "*" })));
    let mut socket = Socket::open(server.address, "/ws?channel=a");
    let fail = |socket: &mut Socket| {
        socket.say(r#"{"token":"bad"}"#);
        assert_eq!(socket.json()["error"]["code"], "invalid_token");
    };
    // A token that verifies ends the row of failures.
    (0..2).for_each(|_| fail(&mut socket));
    socket.say(&good);
    assert_eq!(socket.json(), json!({ "ref": 1, "ok": true }));
    (0..3).for_each(|_| fail(&mut socket));
    assert_eq!(socket.close_code(), 1008);
    server.await_figure("closed.bad_tokens", 1);
    server.await_figure("tokens_refused", 5);
}

/// A target of a WebSocket's request that the proxy at 127.0.0.1 brings from a client.
fn socket_from(server: &Server, client: &str) -> Socket {
    let stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(super::server::PATIENCE)).unwrap();
    let mut request =
        tungstenite::client::IntoClientRequest::into_client_request(format!("ws://{}/ws", server.address));
    request.as_mut().unwrap().headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    let (socket, _) = tungstenite::client(request.unwrap(), stream).unwrap();
    Socket { socket, hello: Value::Null }
}

#[test]
fn an_address_whose_tokens_fail_is_not_listened_to_for_a_while() {
    let config = format!("{KEYS}[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n[limits]\nfailed_tokens = 1");
    let server = Server::start(&config);
    let ask = |client: &str, token: &str| {
        let fields = format!("X-Forwarded-For: {client}\r\nAuthorization: Bearer {token}\r\n");
        Http::connect(server.address).request("GET", "/poll?channel=a&wait=0", &fields)
    };
    let good = token(json!({ "channels": "*" }));
    assert_eq!(ask("192.0.2.1", &good).status, 200);
    let statuses: Vec<u16> = (0..30).map(|_| ask("192.0.2.1", "bad").status).collect();
    assert_eq!(statuses[..10], [401; 10], "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
    // The same holds for tokens that would verify, also within a WebSocket, and for no other address.
    let answer = ask("192.0.2.1", &good);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("failed_tokens")));
    assert!(answer.header("retry-after").is_some());
    let mut socket = socket_from(&server, "192.0.2.1");
    socket.say(r#"{"token":"bad","ref":1}"#);
    assert_eq!(socket.json()["error"]["code"], "failed_tokens");
    assert_eq!(ask("192.0.2.2", &good).status, 200);
    let looked_at = server.figure("tokens_refused");
    assert!(server.figure("limited.failed_tokens") >= 2 && looked_at < 30, "{looked_at}");
    eventually("the address is listened to again", || (ask("192.0.2.1", &good).status == 200).then_some(()));
}
