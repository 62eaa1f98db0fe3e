//! `compare`: this server and others of its kind, measured in turn in one session.

use super::super::BenchError;
use super::super::args::{ClientArgs, Format, Reading, Sample, Transport};
use super::super::report::{ScenarioReport, Side};
use super::super::scenario_args::{CompareArgs, FanoutArgs, IdleArgs, Peer, SaturateArgs, StormArgs, defaults};
use super::Bench;

impl Bench<'_> {
    /// Runs the scenarios that any server of this kind can take part in, all servers in turn in each round.
    pub(super) fn compare_with(&self, args: &CompareArgs) -> Result<Vec<ScenarioReport>, BenchError> {
        let mut sides = self.sides.clone();
        sides.extend(args.peers.iter().map(|peer| match peer {
            Peer::Nchan => Side::Nchan,
            Peer::Axum => Side::Axum,
        }));
        let bench = Bench { common: self.common, sides };
        let subscribers = args.subscribers;
        let clients = ClientArgs { transport: Transport::Sse, format: Format::Json, reading: Reading::Verify };
        let fanout = FanoutArgs { subscribers, clients, ..defaults() };
        let fanout = if self.common.quick { FanoutArgs { events: 5, ..fanout } } else { fanout };
        let mut reports = vec![bench.fanout(&fanout)?];
        // From a load that every server carries to one for which events must share a send.
        for rate in [20.0, 100.0, 1_000.0] {
            let seconds = if self.common.quick { 1 } else { 5 };
            let clients = ClientArgs { reading: Reading::Count, ..clients };
            let rated = SaturateArgs { subscribers: subscribers / 2, rate, seconds, clients, ..defaults() };
            reports.push(bench.saturate(&SaturateArgs { sample: Sample::Every, ..rated })?);
        }
        let idle = IdleArgs { connections: subscribers, ..defaults() };
        reports.push(bench.idle(&idle, Transport::Sse, false)?);
        reports.push(bench.idle(&idle, Transport::Ws, false)?);
        reports.push(bench.storm(&StormArgs { connections: subscribers, transport: Transport::Sse })?);
        Ok(reports)
    }
}
