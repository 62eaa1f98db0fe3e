//! A look at a Redis for `ringcast doctor`.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value, cmd};

use crate::config::Backplane;

use super::super::broker::BrokerError;
use super::super::probe::{Grade, Probes};
use super::address::Address;
use super::values::{id_of, integer, member, text};
use super::{ask, try_ask};

/// The difference, in milliseconds, from which on an id counts as one of the future.
const FUTURE_MS: u64 = 60_000;

/// A setting of the server, unless it hides its settings.
async fn setting(connection: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let reply = try_ask(connection, cmd("CONFIG").arg("GET").arg(name)).await.ok()?;
    member(&reply, name).and_then(text).map(str::to_owned)
}

/// The line of `INFO` with a name.
fn line<'t>(info: &'t str, name: &str) -> Option<&'t str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

/// Looks at the server that nodes would write to.
pub(in super::super) async fn probe(config: &Backplane, probes: &mut Probes) -> Result<(), BrokerError> {
    let address = Address::of(config)?;
    let (client, named) = address.find().await?;
    let mut connection = address.connect(&client).await?;
    let key = format!("ringcast:{{{}}}", config.name);
    ask(&mut connection, &cmd("PING")).await?;
    probes.fine("broker", if named.is_empty() { "answers".into() } else { format!("{named} is the primary") });
    match address.check_role(&mut connection).await {
        Ok(replicas) => {
            let (wanted, count) = (config.replicas() as usize, replicas.unwrap_or(0));
            let found = replicas.map_or("cannot tell".into(), |count| format!("primary with {count} replicas"));
            let why = "without a replica that confirms it, no event is acknowledged";
            let holds = replicas.is_none() || count >= wanted;
            probes.check(holds, "broker's role", found, (Grade::Fail, why, "start the replicas"));
        }
        Err(error) => {
            let why = "entries are refused there";
            probes.add(Grade::Fail, "broker's role", error.to_string(), why, "name the primary in [backplane] url");
        }
    }
    version(&mut connection, probes).await;
    settings(&mut connection, config, probes).await;
    rights(&mut connection, &key, probes).await;
    log(&mut connection, &key, probes).await
}

async fn version(connection: &mut MultiplexedConnection, probes: &mut Probes) {
    let reply = try_ask(connection, cmd("INFO").arg("server")).await.ok();
    let info = reply.as_ref().and_then(text).unwrap_or_default();
    let Some(version) = line(info, "valkey_version").or(line(info, "redis_version")) else {
        return probes.add(Grade::Note, "broker's version", "cannot tell", "INFO is not allowed", "allow INFO");
    };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version_parts = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let (grade, why) = match version_parts {
        (..6, _) | (6, ..2) => (Grade::Fail, "streams are trimmed by age since 6.2"),
        (6, _) => (Grade::Note, "before 7 an emptied log cannot always be told from a trimmed one"),
        _ => (Grade::Fine, ""),
    };
    let change = if grade == Grade::Fine { "" } else { "install Redis 7 or Valkey" };
    probes.add(grade, "broker's version", version, why, change);
}

async fn settings(connection: &mut MultiplexedConnection, config: &Backplane, probes: &mut Probes) {
    match setting(connection, "maxmemory-policy").await {
        Some(policy) => {
            let why = "the server may remove the log when its memory is full";
            let change = "maxmemory-policy noeviction";
            let holds = !policy.starts_with("allkeys");
            probes.check(holds, "maxmemory-policy", policy, (Grade::Fail, why, change));
        }
        None => probes.add(Grade::Note, "maxmemory-policy", "cannot tell", "CONFIG is not allowed", "look yourself"),
    }
    if let Some(most) = setting(connection, "maxmemory").await.and_then(|most| most.parse::<u64>().ok()) {
        let why = "the log may grow to [backplane] retention_bytes, and the server refuses entries before";
        let holds = most == 0 || most > config.retention_bytes as u64;
        let found = if most == 0 { "no limit".into() } else { format!("{} MiB", most >> 20) };
        probes.check(holds, "maxmemory", found, (Grade::Warn, why, "raise maxmemory, or lower retention_bytes"));
    }
    if let Some(appendonly) = setting(connection, "appendonly").await {
        let fsync = setting(connection, "appendfsync").await.unwrap_or_default();
        let holds = appendonly == "yes" || config.replicas() > 0;
        let why = "the log is gone when the server restarts, and all clients are told of a gap";
        let found = if appendonly == "yes" { format!("yes, appendfsync {fsync}") } else { appendonly };
        probes.check(holds, "appendonly", found, (Grade::Warn, why, "appendonly yes"));
    }
    if let Some(timeout) = setting(connection, "timeout").await {
        let why = "the server cuts connections that are idle";
        probes.check(timeout == "0", "timeout", timeout, (Grade::Note, why, "timeout 0"));
    }
}

/// Finds out which commands are not allowed, by forms of them that do nothing.
async fn rights(connection: &mut MultiplexedConnection, key: &str, probes: &mut Probes) {
    let command = |words: &[&str]| -> Cmd {
        let mut command = cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command
    };
    let forms: [(&str, &[&str]); 9] = [
        // An id that no entry can have.
        ("XADD", &["XADD", key, "NOMKSTREAM", "0-0", "c", "doctor"]),
        ("XREAD", &["XREAD", "COUNT", "1", "STREAMS", key, "$"]),
        ("XRANGE", &["XRANGE", key, "-", "+", "COUNT", "1"]),
        ("XINFO", &["XINFO", "STREAM", key]),
        ("XTRIM", &["XTRIM", key, "MAXLEN", "~", "1000000000000"]),
        ("WAIT", &["WAIT", "0", "1"]),
        ("TIME", &["TIME"]),
        ("ROLE", &["ROLE"]),
        ("CLIENT", &["CLIENT", "KILL", "ID", "0"]),
    ];
    let (mut missing, mut useful) = (Vec::new(), Vec::new());
    for (name, words) in forms {
        let reply = try_ask(connection, &command(words)).await;
        if reply.is_err_and(|error| error.code() == Some("NOPERM")) {
            if matches!(name, "ROLE" | "CLIENT") { useful.push(name) } else { missing.push(name) }
        }
    }
    let all: Vec<&str> = missing.iter().chain(&useful).copied().collect();
    let found = if all.is_empty() { "all that a node needs".into() } else { format!("{} not allowed", all.join(", ")) };
    let change = format!("allow them on {key}: tuning/brokers/redis.conf");
    match (missing.is_empty(), useful.is_empty()) {
        (true, true) => probes.fine("broker's rights", found),
        (true, false) => {
            let why = "after a cut, entries that were under way are answered unsure";
            probes.add(Grade::Note, "broker's rights", found, why, change);
        }
        _ => probes.add(Grade::Fail, "broker's rights", found, "nodes cannot work without them", change),
    }
}

async fn log(connection: &mut MultiplexedConnection, key: &str, probes: &mut Probes) -> Result<(), BrokerError> {
    let time = ask(connection, &cmd("TIME")).await?;
    let now_ms = match &time {
        Value::Array(parts) => parts.first().and_then(integer).unwrap_or(0) as u64 * 1000,
        _ => 0,
    };
    probes.clock(now_ms);
    let reply = try_ask(connection, cmd("XINFO").arg("STREAM").arg(key)).await;
    let info = match reply {
        Ok(info) => info,
        Err(error) if error.code() == Some("WRONGTYPE") => {
            let why = "no node can join the cluster";
            let change = format!("delete the key {key}, or choose another [backplane] name");
            probes.add(Grade::Fail, "log", format!("{key} is no stream"), why, change);
            return Ok(());
        }
        Err(_) => {
            probes.fine("log", format!("{key} is not there yet"));
            return Ok(());
        }
    };
    let last = member(&info, "last-generated-id").and_then(id_of).unwrap_or_default();
    let length = member(&info, "length").and_then(integer).unwrap_or(0);
    let ahead = Duration::from_millis(last.ms().saturating_sub(now_ms));
    let why = "an entry was written by hand with an id of the future, and all later ids follow it";
    let change = "restrict who may write the key; ids are right again when the time has come";
    let found = format!("{length} entries up to {last}");
    probes.check(ahead.as_millis() < u128::from(FUTURE_MS), "log", found, (Grade::Warn, why, change));
    Ok(())
}
