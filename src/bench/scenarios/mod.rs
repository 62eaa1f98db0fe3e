//! The scenarios and their targets.

mod catching_up;
mod cluster;
mod cluster_failover;
mod connecting;
mod delivery;
mod handover;
mod latency;
mod memory;
mod mixed;
mod peers;
mod soak;
mod world;

use super::BenchError;
use super::args::{Common, Sides, Transport};
use super::report::{ScenarioReport, Side};
use super::scenario_args::{
    ChannelsArgs, CompareArgs, FanoutArgs, HandoverArgs, IdleArgs, IngestArgs, LatencyArgs, LimitForm, ManyArgs,
    MixedArgs, SaturateArgs, Scenario, ShardsArgs, SlowArgs, SoakArgs, StormArgs, defaults,
};

/// The options of every scenario, and the sides to measure.
pub(super) struct Bench<'a> {
    common: &'a Common,
    /// The measured sides in the order of a round, the bare loop first.
    sides: Vec<Side>,
}

/// Runs one scenario, or all of them.
pub(super) fn run(common: &Common, scenario: &Scenario) -> Result<Vec<ScenarioReport>, BenchError> {
    let mut sides = match common.sides {
        Sides::Both => vec![Side::Limit, Side::Server],
        Sides::Server => vec![Side::Server],
        Sides::Limit => vec![Side::Limit],
    };
    if common.against.is_some() {
        sides.push(Side::Other);
    }
    let bench = Bench { common, sides };
    Ok(match scenario {
        Scenario::Limit(args) => {
            let bench = Bench { common, sides: vec![Side::Limit] };
            let wants = |form| args.form.is_none_or(|only| only == form);
            let mut reports = Vec::new();
            if wants(LimitForm::Fanout) {
                reports.push(bench.fanout(&bench.fanout_args())?);
            }
            if wants(LimitForm::Saturate) {
                reports.push(bench.saturate(&bench.saturate_args())?);
            }
            if wants(LimitForm::Storm) {
                reports.push(bench.storm(&bench.storm_args())?);
            }
            reports
        }
        Scenario::Fanout(args) if args.sweep => vec![bench.fanout_sweep(args)?],
        Scenario::Fanout(args) => vec![bench.fanout(args)?],
        Scenario::Saturate(args) if args.sweep => vec![bench.saturate_sweep(args)?],
        Scenario::Saturate(args) => vec![bench.saturate(args)?],
        Scenario::Latency(args) => vec![bench.latency(args)?],
        Scenario::Idle(args) => match args.transport {
            Some(transport) => vec![bench.idle(args, transport, args.own_channels)?],
            None => vec![
                bench.idle(args, Transport::Sse, args.own_channels)?,
                bench.idle(args, Transport::Ws, args.own_channels)?,
            ],
        },
        Scenario::Storm(args) => vec![bench.storm(args)?],
        Scenario::Mixed(args) => vec![bench.mixed(args)?],
        Scenario::Channels(args) => vec![bench.channels(args)?],
        Scenario::Slow(args) => vec![bench.slow(args)?],
        Scenario::Soak(args) => vec![bench.soak(args)?],
        Scenario::Shards(args) => vec![bench.shards(args)?],
        Scenario::Compare(args) => bench.compare(args)?,
        Scenario::Many(args) => vec![bench.many(args)?],
        Scenario::Ingest(args) => vec![bench.ingest(args)?],
        Scenario::Handover(args) => vec![bench.handover(args)?],
        Scenario::Cluster(args) => bench.cluster(args)?,
        Scenario::All => bench.all()?,
        // Neither of them measures anything.
        Scenario::Show(_) | Scenario::LimitServer(_) => Vec::new(),
    })
}

/// The sizes of each scenario: whole, or small for `--quick`.
impl Bench<'_> {
    fn all(&self) -> Result<Vec<ScenarioReport>, BenchError> {
        let quick = self.common.quick;
        let fanout = self.fanout_args();
        let websocket = |mut args: FanoutArgs| {
            args.clients.transport = Transport::Ws;
            args
        };
        let mut reports = vec![self.fanout(&fanout)?, self.fanout(&websocket(fanout))?];
        let whole: LatencyArgs = defaults();
        reports.push(self.latency(&if quick { LatencyArgs { seconds: 1, ..whole } } else { whole })?);
        reports.push(self.saturate(&self.saturate_args())?);
        if !quick {
            let wide = SaturateArgs { subscribers: 15_000, rate: 500.0, ..self.saturate_args() };
            reports.push(self.saturate(&wide)?);
        }
        reports.push(self.saturate_sweep(&self.saturate_args())?);
        let idle = IdleArgs { connections: if quick { 3_000 } else { 18_000 }, ..defaults() };
        for own_channels in [false, true] {
            for transport in [Transport::Sse, Transport::Ws] {
                reports.push(self.idle(&idle, transport, own_channels)?);
            }
        }
        let whole: ChannelsArgs = defaults();
        reports.push(self.channels(&if quick { ChannelsArgs { channels: 20_000, ..whole } } else { whole })?);
        reports.push(self.storm(&self.storm_args())?);
        let whole: IngestArgs = defaults();
        reports.push(self.ingest(&if quick { IngestArgs { events: 100_000, ..whole } } else { whole })?);
        let whole: MixedArgs = defaults();
        reports.push(self.mixed(&if quick {
            MixedArgs { giant: 1_000, small: 1_000, seconds: 2, ..whole }
        } else {
            whole
        })?);
        let whole: SlowArgs = defaults();
        reports.push(self.slow(&if quick { SlowArgs { subscribers: 500, seconds: 3, ..whole } } else { whole })?);
        let whole: ShardsArgs = defaults();
        reports.push(self.shards(&if quick {
            ShardsArgs { subscribers: 1_000, events: 5, ..whole }
        } else {
            whole
        })?);
        let whole: ManyArgs = defaults();
        reports.push(self.many(&if quick { ManyArgs { connections: 20_000, ..whole } } else { whole })?);
        let whole: HandoverArgs = defaults();
        reports.push(self.handover(&if quick { HandoverArgs { connections: 3_000, ..whole } } else { whole })?);
        if quick {
            let soak = SoakArgs { connections: 3_000, minutes: 0.1, every: 1.0, transport: Transport::Sse };
            reports.push(self.soak(&soak)?);
            reports.push(self.fanout_sweep(&FanoutArgs { events: 3, ..fanout })?);
        }
        Ok(reports)
    }

    fn fanout_args(&self) -> FanoutArgs {
        let args = defaults();
        if self.common.quick { FanoutArgs { subscribers: 2_000, events: 10, ..args } } else { args }
    }

    fn saturate_args(&self) -> SaturateArgs {
        let args = defaults();
        if self.common.quick { SaturateArgs { subscribers: 1_000, seconds: 2, ..args } } else { args }
    }

    fn storm_args(&self) -> StormArgs {
        let args = defaults();
        if self.common.quick { StormArgs { connections: 3_000, ..args } } else { args }
    }

    /// The comparison with other servers; no part of `all`, because it needs other programs.
    fn compare(&self, args: &CompareArgs) -> Result<Vec<ScenarioReport>, BenchError> {
        let subscribers = if self.common.quick { 1_000 } else { args.subscribers };
        self.compare_with(&CompareArgs { subscribers, ..args.clone() })
    }
}
