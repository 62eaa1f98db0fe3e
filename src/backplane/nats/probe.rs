//! A look at NATS servers for `ringcast doctor`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{Backplane, Storage};

use super::super::broker::BrokerError;
use super::super::probe::{Grade, Probes};
use super::address::Address;
use super::link::{Cut, Failure, ask};
use super::values::{Refusal, code, millis_of};

/// Looks at the servers that nodes would use.
pub(in super::super) async fn probe(
    config: &Backplane,
    line_max: usize,
    probes: &mut Probes,
) -> Result<(), BrokerError> {
    let address = Address::of(config)?;
    let cut = Arc::new(Cut::default());
    let client = address.connect("ringcast doctor", cut.clone()).await?;
    let server = client.server_info();
    let version = server.version;
    probes.fine("broker", format!("{} answers", server.server_name));
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let holds = (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (2, 9);
    let too_old = (Grade::Fail, "consumers in memory need NATS 2.9", "install a newer nats-server");
    probes.check(holds, "broker's version", version, too_old);
    let why = "the events of one line of the feed that is all-or-nothing must fit one message";
    let found = format!("{} bytes, [feed] max_line {line_max}", server.max_payload);
    let change = "raise max_payload of the servers";
    probes.check(server.max_payload >= line_max, "max_payload", found, (Grade::Warn, why, change));
    match ask::<Value>(&client, &cut, "INFO".into(), &json!({})).await {
        Ok(account) => probes.fine("JetStream", format!("on, {} streams", account["streams"])),
        Err(failure) => {
            let (why, change) = ("no server keeps the log", "add jetstream { } to the servers' configuration");
            probes.add(Grade::Fail, "JetStream", BrokerError::from(failure).to_string(), why, change);
            return Ok(());
        }
    }
    let name = format!("RC_{}", config.name);
    let stream: Value = match ask(&client, &cut, format!("STREAM.INFO.{name}"), &json!({})).await {
        Ok(stream) => stream,
        Err(Failure::Refused(Refusal { err_code: code::STREAM_NOT_FOUND, .. })) => {
            probes.fine("log", format!("the stream {name} is not there yet"));
            return Ok(());
        }
        Err(failure) => return Err(failure.into()),
    };
    if let Some(now_ms) = stream["ts"].as_str().and_then(millis_of) {
        probes.clock(now_ms);
    }
    log(config, &name, &stream, probes);
    Ok(())
}

/// Compares the stream with how a node would make it.
fn log(config: &Backplane, name: &str, stream: &Value, probes: &mut Probes) {
    let (made, state) = (&stream["config"], &stream["state"]);
    probes.fine("log", format!("{name} has {} messages up to {}", state["messages"], state["last_seq"]));
    let subject = format!("rc.{}.>", config.name);
    let has_subject = made["subjects"].as_array().is_some_and(|all| all.iter().any(|one| *one == json!(subject)));
    let change = format!("nats stream edit {name} --subjects '{subject}'");
    let why = "entries do not reach the stream";
    probes.check(has_subject, "stream's subjects", made["subjects"].to_string(), (Grade::Fail, why, &change));
    let limits = made["retention"] == "limits" && made["discard"] == "old";
    let why = "the stream removes messages that nodes have to read, or refuses new ones";
    let found = format!("retention {}, discard {}", made["retention"], made["discard"]);
    let change = format!("delete {name}: a node makes it anew, and clients are told of a gap");
    probes.check(limits, "stream's policies", found, (Grade::Fail, why, &change));
    let age_ns = made["max_age"].as_u64().unwrap_or(0);
    let holds = age_ns == 0 || u128::from(age_ns) >= config.retention.as_nanos();
    let why = "a node that starts reads back less than [backplane] retention";
    let found = if age_ns == 0 { "no limit".into() } else { format!("{} s", age_ns / 1_000_000_000) };
    let change = format!("nats stream edit {name} --max-age {}s", config.retention.as_secs());
    probes.check(holds, "stream's max_age", found, (Grade::Warn, why, &change));
    let replicas = made["num_replicas"].as_u64().unwrap_or(1);
    let why = "fewer servers than [backplane] replicas keep the log";
    let change = format!("nats stream edit {name} --replicas {}", config.replicas);
    let holds = replicas >= config.replicas as u64;
    probes.check(holds, "stream's replicas", replicas.to_string(), (Grade::Warn, why, &change));
    let storage = if config.storage == Storage::File { "file" } else { "memory" };
    let found = made["storage"].as_str().unwrap_or_default();
    let why = "the stream is kept elsewhere than [backplane] storage says, which cannot be changed later";
    let change = format!("delete {name}: a node makes it anew, and clients are told of a gap");
    probes.check(found == storage, "stream's storage", found, (Grade::Warn, why, &change));
    let window_ns = made["duplicate_window"].as_u64().unwrap_or(0);
    let why = "messages whose outcome is not known are sent again for half of this time only";
    let change = format!("nats stream edit {name} --dupe-window 2m");
    let found = format!("{} s", window_ns / 1_000_000_000);
    probes.check(window_ns >= 10_000_000_000, "stream's duplicate_window", found, (Grade::Warn, why, &change));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_differs_is_named() {
        let config = Backplane { replicas: 3, ..Backplane::default() };
        let good = json!({
            "config": { "subjects": ["rc.main.>"], "retention": "limits", "discard": "old", "max_age": 600_000_000_000u64,
                "num_replicas": 3, "storage": "file", "duplicate_window": 120_000_000_000u64 },
            "state": { "messages": 3, "last_seq": 9 },
        });
        let worst = |stream: &Value| {
            let mut probes = Probes::default();
            log(&config, "RC_main", stream, &mut probes);
            let bad = probes.0.into_iter().filter(|probed| probed.grade != Grade::Fine);
            bad.map(|probed| probed.about).collect::<Vec<_>>()
        };
        assert!(worst(&good).is_empty());
        for (name, value, about) in [
            ("subjects", json!(["other.>"]), "stream's subjects"),
            ("discard", json!("new"), "stream's policies"),
            ("max_age", json!(1_000_000_000), "stream's max_age"),
            ("num_replicas", json!(1), "stream's replicas"),
            ("storage", json!("memory"), "stream's storage"),
            ("duplicate_window", json!(1), "stream's duplicate_window"),
        ] {
            let mut other = good.clone();
            other["config"][name] = value;
            assert_eq!(worst(&other), [about]);
        }
    }
}
