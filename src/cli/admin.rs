//! `ringcast kick` and `ringcast stats`.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

use super::{FeedPath, Result};
use crate::feed::client::FeedClient;

/// Which connections to end.
#[derive(Debug, clap::Args)]
pub(super) struct KickArgs {
    #[command(flatten)]
    feed: FeedPath,
    #[command(flatten)]
    whom: Whom,
    /// The reason that the clients are told.
    #[arg(long)]
    reason: Option<String>,
}

/// Which connections: exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// All connections on this channel.
    #[arg(long)]
    channel: Option<String>,
    /// One connection, by its name in the log (conn).
    #[arg(long)]
    conn: Option<String>,
    /// All connections of this user.
    #[arg(long)]
    user: Option<String>,
    /// All connections with the token of this id (jti); the token is refused from now on.
    #[arg(long, value_name = "ID")]
    jti: Option<String>,
}

/// How to print the figures.
#[derive(Debug, clap::Args)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    feed: FeedPath,
    /// Print JSON, as the server sends it.
    #[arg(long)]
    json: bool,
}

/// Ends connections and prints how many were ended.
pub(super) fn kick(args: &KickArgs) -> Result {
    let mut command = json!({ "op": "kick" });
    let Whom { channel, conn, user, jti } = &args.whom;
    let members = [("channel", channel), ("conn", conn), ("user", user), ("jti", jti), ("reason", &args.reason)];
    for (name, value) in members {
        if let Some(value) = value {
            command[name] = value.as_str().into();
        }
    }
    let answer = FeedClient::connect(&args.feed.resolve())?.call(command)?;
    writeln!(std::io::stdout(), "{}", answer["kicked"])?;
    Ok(())
}

/// Prints the figures.
pub(super) fn stats(args: &StatsArgs) -> Result {
    let answer = FeedClient::connect(&args.feed.resolve())?.call(json!({ "op": "stats" }))?;
    let stats = &answer["stats"];
    let text = if args.json { format!("{stats}\n") } else { table(stats) };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// The figures as text: the node's first, then a row per figure with a column per shard.
fn table(stats: &Value) -> String {
    let mut text = String::new();
    let node = flat("", &stats["node"]);
    for (name, value) in &node {
        text.push_str(&format!("{name:<26}{value:>14}\n"));
    }
    let shards: Vec<_> = stats["shards"].as_array().into_iter().flatten().map(|shard| flat("", shard)).collect();
    let nodes = stats["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !nodes.is_empty() {
        text.push_str(&format!("\n{:<26}{:>14}{:>28}{:>14}\n", "cluster", "version", "position", "silent_ms"));
    }
    for node in nodes {
        let [name, version, position] = ["name", "version", "position"].map(|of| node[of].as_str().unwrap_or_default());
        text.push_str(&format!(
            "{name:<26}{version:>14}{position:>28}{:>14}\n",
            node["silent_ms"].as_u64().unwrap_or(0)
        ));
    }
    let Some(first) = shards.first() else { return text };
    text.push_str(&format!("\n{:<26}", "shard"));
    for index in 0..shards.len() {
        text.push_str(&format!("{index:>14}"));
    }
    text.push('\n');
    for name in first.keys() {
        text.push_str(&format!("{name:<26}"));
        for shard in &shards {
            text.push_str(&format!("{:>14}", shard.get(name).map(String::as_str).unwrap_or_default()));
        }
        text.push('\n');
    }
    text
}

/// The members of an object by name; those of an inner object as `outer.inner`.
fn flat(prefix: &str, value: &Value) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = format!("{prefix}{name}");
        match value {
            Value::Object(_) => rows.extend(flat(&format!("{name}."), value)),
            value => {
                rows.insert(name, value.to_string());
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_in_columns() {
        let node = json!({ "name": "eu-1", "version": "1.2", "position": "7-0", "silent_ms": 12 });
        let stats = json!({ "node": { "publishers": 3 }, "nodes": [node], "shards": [{ "a": 1, "closed": { "slow": 2 } }, { "a": 5 }] });
        let text = table(&stats);
        assert!(text.contains("publishers") && text.contains("closed.slow"), "{text}");
        let row = text.lines().find(|line| line.starts_with("a ")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["a", "1", "5"]);
        let row = text.lines().find(|line| line.starts_with("eu-1 ")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["eu-1", "1.2", "7-0", "12"]);
    }
}
