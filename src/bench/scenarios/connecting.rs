//! `storm`: all clients connect at once, are cut, and come back.

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading};
use super::super::clients::Subscription;
use super::super::progress::Progress;
use super::super::report::{Bound, ScenarioReport, Side, number};
use super::super::scenario_args::StormArgs;
use super::Bench;
use super::world::{CLOSE_MAX, CONNECT_MAX, subscription};
use crate::feed::client::FeedClient;

impl Bench<'_> {
    pub(super) fn storm(&self, args: &StormArgs) -> Result<ScenarioReport, BenchError> {
        let mut report =
            ScenarioReport::new("storm").set("connections", args.connections).set("transport", args.transport.name());
        let clients = ClientArgs { transport: args.transport, format: Format::Json, reading: Reading::Verify };
        let progress = Progress::begin("storm", u64::from(self.rounds()) * self.sides.len() as u64);
        for _ in 0..self.rounds() {
            for side in &self.sides {
                let (target, load) = self.start(&self.kind(*side, clients), args.connections)?;
                let mut asked = subscription(&target, clients);
                let mut costs = Vec::new();
                for name in ["first", "again"] {
                    let before = target.cpu_ns()?;
                    let elapsed = load.connect(asked.clone(), args.connections as usize, CONNECT_MAX)?;
                    let cpu = (target.cpu_ns()? - before) as f64 / 1000.0 / f64::from(args.connections);
                    report.add(*side, &format!("processor per connection, {name}"), "µs", cpu);
                    let rate = f64::from(args.connections) / elapsed.as_secs_f64();
                    report.add(*side, &format!("connections per second, {name}"), "", rate);
                    costs.push(format!("{} µs", number(cpu)));
                    let last_event_id = if *side == Side::Server { Some(publish_one(&target)?) } else { None };
                    // All clients are cut at once and come back at once, each with its last id.
                    load.close(true, CLOSE_MAX)?;
                    asked = Subscription { last_event_id, generation: 2, ..asked };
                }
                if *side == Side::Server {
                    report.add(*side, "refused", "", target.shards_sum("refused")? as f64);
                    let resumed = target.shards_sum("resumed_here")? + target.shards_sum("resumed_hub")?;
                    report.add(*side, "resumed", "", resumed as f64);
                }
                progress.step(&format!("storm {side}: {} per connection", costs.join(", then ")));
            }
        }
        report.note("from the first SYN to the last answer's head; again: right after all were cut, resuming");
        report.target("processor per connection, first", Bound::AtMost(20.0));
        report.target("refused", Bound::AtMost(0.0));
        Ok(report)
    }
}

/// Publishes an event and returns its id, which the clients resume at.
fn publish_one(target: &super::super::target::Target) -> Result<String, BenchError> {
    let line = serde_json::json!({ "op": "publish", "channel": super::super::clients::CHANNEL, "data": "x" });
    let answer = FeedClient::connect(target.feed_path()).and_then(|mut feed| feed.call(line));
    let answer = answer.map_err(|error| BenchError::Harness(error.to_string()))?;
    Ok(answer["id"].as_str().unwrap_or_default().to_owned())
}
