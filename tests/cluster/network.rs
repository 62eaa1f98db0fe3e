//! Between a node and its broker: networks that fail, TLS, logins, replicas, and a Redis Cluster.

use std::path::Path;

use serde_json::json;

use crate::broker::{Broker, KEY, Redis, figure, node, on_each_broker};
use crate::clients::Stream;
use crate::failures::{gaps, publish_at_last, read_up_to};
use crate::proxy::{Network, Proxy};
use crate::server::{Server, eventually};

fn node_at(url: &str, name: &str, config: &str) -> Server {
    Server::start_in(tempfile::tempdir().unwrap(), config, &["--backplane", url, "--node", name])
}

/// A node whose network fails while it publishes: everything comes once and in order, on a node beside it.
fn a_network_that_fails_loses_and_doubles_nothing<B: Broker>() {
    let broker = B::start();
    let url = broker.url();
    let (scheme, port) = url.rsplit_once(':').unwrap();
    let proxy = Proxy::start(port.parse().unwrap());
    let config = "[backplane]\npublish_timeout = \"1m\"";
    let a = node_at(&format!("{scheme}:{}", proxy.port), "a", config);
    let b = node(&broker, "b", "");
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let mut feed = a.feed();
    let mut number = 0;
    let mut send = |count: u32| {
        for _ in 0..count {
            feed.send(json!({ "op": "publish", "channel": "x", "data": format!("n{number}") })).unwrap();
            number += 1;
        }
    };
    send(20);
    for network in [Network::Slow, Network::OneWay, Network::Lost] {
        proxy.set(network);
        send(20);
        if network != Network::Slow {
            eventually("the broker is away", || (figure(&a, "backplane_up") == 0).then_some(()));
        }
        send(20);
        proxy.set(Network::Whole);
        eventually("the broker is back", || (figure(&a, "backplane_up") == 1).then_some(()));
        send(20);
        proxy.cut();
        send(20);
    }
    let answers: Vec<_> = (0..number).map(|_| feed.receive().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer["ok"] == true), "{answers:?}");
    let last = publish_at_last(&a, "last");
    let seen = read_up_to(&mut stream, &last);
    let expected: Vec<_> = (0..number).map(|number| (String::new(), format!("n{number}"))).collect();
    assert_eq!(seen, expected);
    assert_eq!((figure(&a, "log_gaps"), figure(&b, "log_gaps")), (0, 0));
}

/// A certificate for 127.0.0.1, with its key, in files.
fn certificate(folder: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| folder.join(name));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (chain.display().to_string(), key.display().to_string())
}

#[test]
fn a_redis_is_reached_over_tls_with_a_password_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(folder.path());
    let port = crate::broker::free_port().to_string();
    let tls = ["--tls-port", &port, "--tls-cert-file", &chain, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let redis = Redis::start_with(&[&tls[..], &["--requirepass", "secret"]].concat());
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let config = format!("[backplane]\nca_file = {chain:?}\npassword_file = {password:?}\n");
    let url = format!("rediss://127.0.0.1:{port}");
    let (a, b) = (node_at(&url, "a", &config), node_at(&url, "b", &config));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let id = a.publish("x", "1");
    assert_eq!(stream.next().unwrap().id, id);
    drop(redis);
}

#[test]
fn nats_servers_are_reached_over_tls_with_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(folder.path());
    let text = std::fs::read_to_string("tuning/brokers/nats.conf").unwrap();
    // The accounts as the example has them.
    let accounts = &text[text.find("accounts {").unwrap()..];
    let lines = format!("tls {{ cert_file: {chain:?}, key_file: {key:?} }}\n{accounts}");
    let nats = crate::nats_server::Nats::start_locked(&lines);
    let config = format!("[backplane]\nca_file = {chain:?}\n");
    let url = format!("tls://ringcast:CHANGE-ME@127.0.0.1:{}", nats.port);
    let (a, b) = (node_at(&url, "a", &config), node_at(&url, "b", &config));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let id = a.publish("x", "1");
    assert_eq!(stream.next().unwrap().id, id);
}

#[test]
fn the_rights_of_the_example_are_enough_and_a_backend_can_append_only() {
    let redis = Redis::start();
    let text = std::fs::read_to_string("tuning/brokers/redis.conf").unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("user ")).filter(|line| !line.starts_with("default")) {
        let mut command = vec!["ACL", "SETUSER"];
        command.extend(line.split(' '));
        assert_eq!(redis.ask(&command), "+OK", "{line}");
    }
    let url = |login: &str| format!("redis://{login}@127.0.0.1:{}", redis.port);
    let (a, b) = (node_at(&url("ringcast:CHANGE-ME"), "a", ""), node_at(&url("ringcast:CHANGE-ME"), "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let id = a.publish("x", "1");
    assert_eq!(stream.next().unwrap().id, id);
    redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let id = publish_at_last(&a, "2");
    assert_eq!(gaps(&read_up_to(&mut stream, &id)), 0);
    let dry_run = |words: &[&str]| redis.ask(&[&["ACL", "DRYRUN", "backend"], words].concat());
    assert_eq!(dry_run(&["XADD", KEY, "*", "c", "x"]), "+OK");
    for words in [&["XADD", "other", "*", "c", "x"][..], &["XTRIM", KEY, "MAXLEN", "0"], &["DEL", KEY]] {
        assert_ne!(dry_run(words), "+OK", "{words:?}");
    }
}

#[test]
fn entries_are_read_from_a_replica() {
    let primary = Redis::start();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    eventually("the replica follows", || {
        replica.try_ask(&["INFO", "replication"])?.contains("master_link_status:up").then_some(())
    });
    let config = "[backplane]\nread_from = \"replica\"\npublish_timeout = \"30s\"";
    let (a, b) = (node(&primary, "a", config), node(&primary, "b", ""));
    let mut streams = [&a, &b].map(|node| Stream::open(node.address, "/sse?channel=x"));
    let id = a.publish("x", "0");
    streams.iter_mut().for_each(|stream| assert_eq!(stream.next().unwrap().id, id));
    let readers = replica.ask(&["INFO", "clients"]);
    assert!(readers.contains("blocked_clients:1"), "{readers}");
    // A replica that stands still holds the acknowledgement up, and the node leaves it; what comes then comes once.
    replica.signal(libc::SIGSTOP);
    let mut feed = a.feed();
    for number in 1..20 {
        feed.send(json!({ "op": "publish", "channel": "x", "data": number })).unwrap();
    }
    eventually("the node has left the replica", || (figure(&a, "backplane_reconnects") >= 1).then_some(()));
    replica.signal(libc::SIGCONT);
    for _ in 1..20 {
        let answer = feed.receive().unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
    }
    let last = publish_at_last(&a, "last");
    for stream in &mut streams {
        let seen: Vec<String> = read_up_to(stream, &last).into_iter().map(|(_, data)| data).collect();
        assert_eq!(seen, (1..20).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn the_server_of_a_redis_cluster_that_has_the_log_is_followed() {
    let flags = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let (has_log, other) = (Redis::start_with(&flags), Redis::start_with(&flags));
    assert_eq!(has_log.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
    other.ask(&["CLUSTER", "MEET", "127.0.0.1", &has_log.port.to_string()]);
    eventually("the servers know each other", || other.try_ask(&["GET", KEY])?.starts_with("-MOVED").then_some(()));
    let (a, b) = (node(&other, "a", ""), node(&has_log, "b", ""));
    let mut stream = Stream::open(b.address, "/sse?channel=x");
    let id = a.publish("x", "1");
    assert_eq!(stream.next().unwrap().id, id);
}

on_each_broker!(a_network_that_fails_loses_and_doubles_nothing);
