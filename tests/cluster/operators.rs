//! What operators see: readiness, the list of nodes, and doctor's look at the broker.

use serde_json::{Value, json};

use crate::broker::{Broker, Redis, figure, node, on_each_broker};
use crate::clients::get;
use crate::nats_server::Nats;
use crate::server::{Server, command, eventually};

fn await_status(node: &Server, status: u16) {
    eventually(&format!("/readyz answers {status}"), || (get(node.admin, "/readyz").status == status).then_some(()));
}

#[test]
fn a_node_is_not_ready_while_the_broker_is_away_for_long_and_still_serves() {
    let redis = Redis::start();
    let a = node(&redis, "a", "[backplane]\nunready_after = \"1s\"");
    let never = node(&redis, "b", "[backplane]\nunready_after = \"0s\"");
    let id = a.publish("x", "1");
    await_status(&a, 200);
    redis.signal(libc::SIGSTOP);
    await_status(&a, 503);
    assert!(get(a.admin, "/readyz").body.contains("broker"));
    let answer = get(a.address, &format!("/poll?channel=x&wait=0&after={id}"));
    assert_eq!(answer.status, 200, "clients are served");
    eventually("the other one has noticed", || (figure(&never, "backplane_up") == 0).then_some(()));
    assert_eq!(get(never.admin, "/readyz").status, 200);
    redis.signal(libc::SIGCONT);
    await_status(&a, 200);
}

fn nodes_are_listed_with_versions_and_positions<B: Broker>() {
    let broker = B::start();
    let (a, b) = (node(&broker, "a", ""), node(&broker, "b", ""));
    let id = a.publish("x", "1");
    for server in [&a, &b] {
        let nodes = eventually("both have said who they are", || {
            let stats = server.stats();
            let nodes = stats["nodes"].as_array().unwrap();
            let names: Vec<&str> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
            (names == ["a", "b"]).then(|| nodes.clone())
        });
        for node in nodes {
            assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
            assert!(node["silent_ms"].as_u64().unwrap() < 15_000);
            assert!(node["position"].as_str().unwrap().contains('-'));
        }
    }
    assert!(figure(&a, "backplane_acks") >= 1 && figure(&a, "backplane_ack_us") > 0, "{id}");
    let output = command().args(["stats", "--feed"]).arg(&b.feed_path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.lines().any(|line| line.starts_with("cluster ")) && text.lines().any(|line| line.starts_with("a  ")),
        "{text}"
    );
}

/// What doctor finds about the broker, by the name of what was looked at.
fn doctor(url: &str) -> Value {
    let mut doctor = command();
    let output = doctor.args(["doctor", "--json", "--connections", "10", "--backplane", url]).output().unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let entry = |finding: &Value| (finding["about"].as_str().unwrap().to_owned(), finding.clone());
    Value::Object(findings.iter().map(entry).collect())
}

#[test]
fn doctor_looks_at_a_redis() {
    let redis = Redis::start();
    let found = doctor(&redis.url());
    for about in
        ["broker", "broker's role", "broker's version", "maxmemory-policy", "broker's rights", "broker's clock", "log"]
    {
        assert_eq!(found[about]["severity"], "ok", "{about} {found}");
    }
    assert_eq!(found["appendonly"]["severity"], "warn");
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    redis.ask(&["CONFIG", "SET", "maxmemory", "200mb"]);
    redis.ask(&["ACL", "SETUSER", "poor", "on", ">secret", "~*", "+@all", "-xadd", "-client|kill"]);
    redis.ask(&["SET", crate::broker::KEY, "text"]);
    let found = doctor(&format!("redis://poor:secret@127.0.0.1:{}", redis.port));
    for (about, severity) in
        [("maxmemory-policy", "fail"), ("maxmemory", "warn"), ("broker's rights", "fail"), ("log", "fail")]
    {
        assert_eq!(found[about]["severity"], severity, "{about} {found}");
    }
    let rights = found["broker's rights"]["found"].as_str().unwrap();
    assert!(rights.contains("XADD") && rights.contains("CLIENT"), "{rights}");
    assert_eq!(doctor("redis://127.0.0.1:1")["broker"]["severity"], "fail");
}

#[test]
fn doctor_looks_at_nats_servers() {
    let nats = Nats::start();
    let found = doctor(&nats.url());
    for about in ["broker", "broker's version", "max_payload", "JetStream", "log"] {
        assert_eq!(found[about]["severity"], "ok", "{about} {found}");
    }
    let stream = json!({ "name": "RC_main", "subjects": ["rc.main.>"], "retention": "limits", "discard": "old", "storage": "memory",
        "max_age": 60_000_000_000u64, "num_replicas": 1, "duplicate_window": 60_000_000_000u64 });
    nats.ask("STREAM.CREATE.RC_main", &stream);
    let found = doctor(&nats.url());
    assert_eq!(found["stream's subjects"]["severity"], "ok");
    for about in ["stream's storage", "stream's max_age"] {
        assert_eq!(found[about]["severity"], "warn", "{about} {found}");
    }
    let without = Nats::start_locked("accounts: { A: { users: [{ user: node, password: secret }] } }");
    let found = doctor(&format!("nats://node:secret@127.0.0.1:{}", without.port));
    assert_eq!(found["JetStream"]["severity"], "fail", "{found}");
}

on_each_broker!(nodes_are_listed_with_versions_and_positions);
