//! Presence, kicks, revocations and messages over all nodes.

use serde_json::{Value, json};

use crate::broker::{Broker, figure, node, node_in, on_each_broker};
use crate::clients::{Socket, Stream, get};
use crate::server::{Server, eventually};

const KEYS: &str = "[auth]\nkeys = [{ alg = \"HS256\", secret = \"a secret of at least 32 bytes, yes\" }]\n";

fn token(claims: Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of at least 32 bytes, yes");
    let mut claims = claims;
    claims["exp"] = 4_000_000_000u64.into();
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key).unwrap()
}

fn socket(node: &Server, channel: &str, user: &str, id: &str) -> Socket {
    let token = token(json!({ "sub": user, "channels": "*", "jti": id }));
    let mut socket = Socket::open(node.address, &format!("/ws?channel={channel}&token={token}"));
    socket.hello();
    socket
}

fn users(node: &Server, channel: &str) -> Vec<String> {
    let answer = node.feed().call(json!({ "op": "presence", "channel": channel })).unwrap();
    let users = answer["users"].as_array().unwrap();
    users.iter().map(|user| user["user"].as_str().unwrap().to_owned()).collect()
}

fn await_users(node: &Server, channel: &str, expected: &[&str]) {
    eventually(&format!("the users are {expected:?}"), || (users(node, channel) == expected).then_some(()));
}

fn presence_is_that_of_all_nodes_and_each_user_comes_and_goes_once<B: Broker>() {
    let broker = B::start();
    let config = format!("{KEYS}[namespace.room]\npresence = true\n");
    let (a, b) = (node(&broker, "a", &config), node(&broker, "b", &config));
    let watch = token(json!({ "channels": "*" }));
    let mut stream = Stream::open(b.address, &format!("/sse?channel=room:1&token={watch}"));
    let ann_a = socket(&a, "room:1", "ann", "1");
    await_users(&b, "room:1", &["ann"]);
    let ann_b = socket(&b, "room:1", "ann", "2");
    let bob = socket(&a, "room:1", "bob", "3");
    await_users(&b, "room:1", &["ann", "bob"]);
    await_users(&a, "room:1", &["ann", "bob"]);
    // A node that starts later knows them too.
    let c = node(&broker, "c", &config);
    assert_eq!(users(&c, "room:1"), ["ann", "bob"]);
    drop(ann_a);
    drop(bob);
    await_users(&b, "room:1", &["ann"]);
    drop(ann_b);
    await_users(&c, "room:1", &[]);
    let told: Vec<(String, String)> =
        (0..4).map(|_| stream.next().unwrap()).map(|event| (event.name, event.data)).collect();
    let event = |name: &str, user: &str| (name.to_owned(), format!("{{\"user\":\"{user}\"}}"));
    let join = "ringcast.join";
    let leave = "ringcast.leave";
    assert_eq!(told, [event(join, "ann"), event(join, "bob"), event(leave, "bob"), event(leave, "ann")]);
}

fn a_node_that_dies_takes_its_users_with_it<B: Broker>() {
    let broker = B::start();
    let config = format!("{KEYS}[namespace.room]\npresence = true\n");
    let (a, b) = (node(&broker, "a", &config), node(&broker, "b", &config));
    let _ann = socket(&a, "room:1", "ann", "1");
    let _bob = socket(&b, "room:1", "bob", "2");
    await_users(&b, "room:1", &["ann", "bob"]);
    eventually("both are alive", || (figure(&b, "backplane_nodes") == 2).then_some(()));
    let watch = token(json!({ "channels": "*" }));
    let mut stream = Stream::open(b.address, &format!("/sse?channel=room:1&token={watch}"));
    a.crash();
    let event = stream.next().unwrap();
    assert_eq!((event.name.as_str(), event.data.as_str()), ("ringcast.leave", "{\"user\":\"ann\"}"));
    assert_eq!(users(&b, "room:1"), ["bob"]);
    eventually("one is alive", || (figure(&b, "backplane_nodes") == 1).then_some(()));
}

fn a_user_is_kicked_on_all_nodes_and_counted_once<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", KEYS), node(&broker, "b", KEYS));
    let mut sockets = [socket(&a, "x", "ann", "1"), socket(&b, "x", "ann", "2"), socket(&b, "x", "ann", "3")];
    let mut bob = socket(&b, "x", "bob", "4");
    eventually("both are alive", || (figure(&a, "backplane_nodes") == 2).then_some(()));
    let answer = a.feed().call(json!({ "op": "kick", "user": "ann", "reason": "out" })).unwrap();
    assert_eq!(answer["kicked"], 3);
    for socket in &mut sockets {
        assert!(socket.json()["bye"].is_object());
        assert_eq!(socket.close_code(), 4003);
    }
    let hello = bob.hello();
    let name = hello["conn"].as_str().unwrap();
    let answer = a.feed().call(json!({ "op": "kick", "conn": name })).unwrap();
    assert_eq!((answer["kicked"].as_u64(), name.starts_with("b.")), (Some(1), true));
    bob.json();
    assert_eq!(bob.close_code(), 4003);
}

fn a_revoked_token_is_refused_on_all_nodes_and_on_those_that_start_later<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", KEYS), node(&broker, "b", KEYS));
    let mut ann = socket(&b, "x", "ann", "t1");
    eventually("both are alive", || (figure(&a, "backplane_nodes") == 2).then_some(()));
    a.feed().call(json!({ "op": "kick", "jti": "t1" })).unwrap();
    ann.json();
    assert_eq!(ann.close_code(), 4003);
    let c = node(&broker, "c", KEYS);
    let token = token(json!({ "sub": "ann", "channels": "*", "jti": "t1" }));
    for node in [&a, &b, &c] {
        assert_eq!(get(node.address, &format!("/poll?channel=x&wait=0&token={token}")).status, 401);
    }
    // The log may be gone when a node starts, and the others tell it.
    broker.trim();
    let d = node_in(tempfile::tempdir().unwrap(), &broker, "d", KEYS);
    eventually("the new node refuses it too", || {
        (get(d.address, &format!("/poll?channel=x&wait=0&token={token}")).status == 401).then_some(())
    });
}

fn a_message_reaches_a_user_and_a_connection_of_another_node<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", KEYS), node(&broker, "b", KEYS));
    let mut ann = socket(&b, "x", "ann", "1");
    let name = ann.hello()["conn"].as_str().unwrap().to_owned();
    a.feed().call(json!({ "op": "send", "user": "ann", "data": { "n": 1 } })).unwrap();
    assert_eq!(ann.json()["data"], json!({ "n": 1 }));
    a.feed().call(json!({ "op": "send", "conn": name, "data": "two" })).unwrap();
    assert_eq!(ann.json()["data"], "two");
    b.feed().call(json!({ "op": "unsubscribe", "user": "ann", "channel": "x" })).unwrap();
    assert!(ann.json()["unsubscribed"].is_object());
}

fn a_client_publishes_through_the_log<B: Broker>() {
    let broker = B::start();
    let config = format!("{KEYS}[namespace.chat]\nclient_publish = true\n");
    let (a, b) = (node(&broker, "a", &config), node(&broker, "b", &config));
    let token = token(json!({ "sub": "ann", "channels": "*", "publish": "*" }));
    let mut ann = Socket::open(a.address, &format!("/ws?channel=chat:1&token={token}"));
    let mut bob = Socket::open(b.address, &format!("/ws?channel=chat:1&token={token}"));
    ann.hello();
    bob.hello();
    ann.say("{\"publish\":{\"channel\":\"chat:1\",\"data\":\"hi\"},\"ref\":1}");
    let heard = bob.json();
    assert_eq!(heard["data"], "hi");
    let (first, second) = (ann.json(), ann.json());
    let answer = if first["ref"] == 1 { &first } else { &second };
    assert_eq!((&answer["ok"], &answer["id"]), (&json!(true), &heard["id"]));
}

on_each_broker!(
    presence_is_that_of_all_nodes_and_each_user_comes_and_goes_once,
    a_node_that_dies_takes_its_users_with_it,
    a_user_is_kicked_on_all_nodes_and_counted_once,
    a_revoked_token_is_refused_on_all_nodes_and_on_those_that_start_later,
    a_message_reaches_a_user_and_a_connection_of_another_node,
    a_client_publishes_through_the_log,
);
