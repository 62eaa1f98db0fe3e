//! The figures for Prometheus, in OpenMetrics text or in the text format of old.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::link::Kind;
use crate::shard::{BUCKETS, Measure, Published};
use crate::sys::process;

use super::stats::Stats;

/// How figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0, which Prometheus asks for.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which everything else reads.
    Text,
}

impl Format {
    /// What a request's `Accept` asks for.
    pub(super) fn accepted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Text }
    }

    /// Its media type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a metric counts in.
#[derive(Clone, Copy)]
enum In {
    Things,
    Bytes,
    Seconds,
}

impl In {
    fn unit(self) -> Option<Unit> {
        match self {
            In::Things => None,
            In::Bytes => Some(Unit::Bytes),
            In::Seconds => Some(Unit::Seconds),
        }
    }
}

/// A figure that is a metric of another name or unit, or one of several that are one metric with a label.
#[derive(Clone, Copy)]
struct Rename {
    figure: &'static str,
    metric: &'static str,
    unit: In,
    /// By what the figure is divided to get the unit.
    divisor: f64,
    /// What tells it from the metric's other figures.
    transport: Option<&'static str>,
}

const fn rename(figure: &'static str, metric: &'static str) -> Rename {
    Rename { figure, metric, unit: In::Things, divisor: 1.0, transport: None }
}

const fn in_bytes(figure: &'static str, metric: &'static str) -> Rename {
    Rename { unit: In::Bytes, ..rename(figure, metric) }
}

const fn in_seconds(figure: &'static str, metric: &'static str, divisor: f64) -> Rename {
    Rename { unit: In::Seconds, divisor, ..rename(figure, metric) }
}

const fn one_of(figure: &'static str, metric: &'static str, transport: &'static str) -> Rename {
    Rename { transport: Some(transport), ..rename(figure, metric) }
}

static SHARD_METRICS: [Rename; 16] = [
    one_of("http", "connections", "http"),
    one_of("sse", "connections", "sse"),
    one_of("websocket", "connections", "websocket"),
    one_of("poll", "connections", "poll"),
    one_of("opened_sse", "opened", "sse"),
    one_of("opened_websocket", "opened", "websocket"),
    one_of("opened_poll", "opened", "poll"),
    in_seconds("busy_us", "busy", 1e6),
    in_bytes("bytes_in", "received"),
    in_bytes("bytes_out", "sent"),
    in_bytes("log_bytes", "log"),
    in_bytes("queued_bytes", "queued"),
    in_bytes("lag_bytes_max", "lag_max"),
    rename("events_in", "events_received"),
    rename("events_out", "deliveries"),
    rename("connections", "slots"),
];

static HUB_METRICS: [Rename; 5] = [
    rename("events", "events_published"),
    rename("errors", "feed_errors"),
    in_bytes("history_bytes", "history"),
    in_bytes("queued_bytes", "queued"),
    in_seconds("congested_ms", "congested", 1e3),
];

/// What a figure is called; as it is called here unless there is something else.
fn renamed(figure: &'static str, renames: &[Rename]) -> Rename {
    renames.iter().find(|rename| rename.figure == figure).copied().unwrap_or(rename(figure, figure))
}

/// All figures.
pub(super) fn encode(stats: &Stats, format: Format) -> String {
    match format {
        Format::OpenMetrics => encode_open(stats),
        Format::Text => as_text(&encode_open(stats)),
    }
}

/// In the format of old a counter's description names it with its suffix, and there are no units and no end.
fn as_text(open: &str) -> String {
    let counters: Vec<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        let name = words.nth(2).filter(|name| line.starts_with('#') && counters.contains(name));
        match name {
            Some(name) => text.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn encode_open(stats: &Stats) -> String {
    let mut registry = Registry::with_prefix("ringcast");
    registry.register_collector(Box::new(Figures(stats.clone())));
    let mut process = Registry::default();
    process.register_collector(Box::new(Process));
    let mut text = String::new();
    // Writing to a string fails only if a collector does, and these have nothing to fail at.
    let _ = prometheus_client::encoding::text::encode_registry(&mut text, &registry);
    let _ = prometheus_client::encoding::text::encode_registry(&mut text, &process);
    let _ = prometheus_client::encoding::text::encode_eof(&mut text);
    text
}

#[derive(Debug)]
struct Figures(Stats);

/// One value of a metric: a total or a state.
fn encode_value(kind: Kind, value: f64, encoder: MetricEncoder<'_>) -> Result<(), Error> {
    match kind {
        Kind::Total => ConstCounter::new(value).encode(encoder),
        Kind::Now => ConstGauge::new(value).encode(encoder),
    }
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Total => MetricType::Counter,
        Kind::Now => MetricType::Gauge,
    }
}

/// A figure's explanation without the full stop, which the encoder adds.
fn help(text: &str) -> &str {
    text.trim().trim_end_matches('.')
}

/// A metric, of one figure or of several.
struct Metric {
    kind: Kind,
    help: String,
    figures: Vec<Rename>,
}

/// Puts the figures of a shard that belong to one metric together.
fn shard_metrics(shard: &Published) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    shard.each(|figure, about, kind, _| {
        let figure = renamed(figure, &SHARD_METRICS);
        if let Some(metric) = metrics.iter_mut().find(|metric| metric.figures[0].metric == figure.metric) {
            metric.figures.push(figure);
            return;
        }
        let help = match (figure.metric, figure.transport) {
            ("connections", _) => "Connections now, by what they are",
            ("opened", _) => "Streams and WebSockets opened and polls begun",
            _ => help(about),
        };
        metrics.push(Metric { kind, help: help.into(), figures: vec![figure] });
    });
    metrics
}

fn encode_figure(
    family: &mut MetricEncoder<'_>,
    shard: &str,
    figure: &Rename,
    kind: Kind,
    value: u64,
) -> Result<(), Error> {
    let value = value as f64 / figure.divisor;
    match figure.transport {
        Some(transport) => {
            encode_value(kind, value, family.encode_family(&[("shard", shard), ("transport", transport)])?)
        }
        None => encode_value(kind, value, family.encode_family(&[("shard", shard)])?),
    }
}

impl Figures {
    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(first) = self.0.shards.first() else { return Ok(()) };
        for Metric { kind, help, figures } in shard_metrics(first) {
            let (name, unit) = (figures[0].metric, figures[0].unit.unit());
            let mut family = encoder.encode_descriptor(name, &help, unit.as_ref(), metric_type(kind))?;
            for (index, shard) in self.0.shards.iter().enumerate() {
                let mut result = Ok(());
                shard.each(|name, _, kind, value| {
                    if let Some(figure) = figures.iter().find(|figure| figure.figure == name) {
                        let encoded = encode_figure(&mut family, &index.to_string(), figure, kind, value);
                        result = std::mem::replace(&mut result, Ok(())).and(encoded);
                    }
                });
                result?;
            }
        }
        Ok(())
    }

    /// Counts by a label of their own.
    fn encode_lists(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let about = "Connections that ended, by reason";
        let mut family = encoder.encode_descriptor("closed", about, None, MetricType::Counter)?;
        for (index, shard) in self.0.shards.iter().enumerate() {
            for (reason, count) in shard.closed() {
                let labels = [("shard", &*index.to_string()), ("reason", reason)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let about = "Requests answered with an error, by status";
        let mut family = encoder.encode_descriptor("rejected", about, None, MetricType::Counter)?;
        for (index, shard) in self.0.shards.iter().enumerate() {
            for (status, count) in shard.rejected() {
                let labels = [("shard", index.to_string()), ("status", status.to_string())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_measures(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let metrics = [
            (
                Measure::Delivery,
                "delivery_latency",
                Some(Unit::Seconds),
                1e3,
                "From an event's id to the send that brought it to a client, of each send the oldest event",
            ),
            (
                Measure::Lag,
                "lag",
                Some(Unit::Bytes),
                1.0,
                "By how much a client that the kernel had no room for was behind when its channel was walked",
            ),
            (Measure::Turn, "turn", Some(Unit::Seconds), 1e6, "How long one round of a shard's engine took"),
            (Measure::Pass, "pass_sends", None, 1.0, "Sends in one pass over a channel's readers"),
        ];
        for (measure, name, unit, divisor, about) in metrics {
            let mut family = encoder.encode_descriptor(name, about, unit.as_ref(), MetricType::Histogram)?;
            for (index, shard) in self.0.shards.iter().enumerate() {
                let (counts, sum) = shard.measures.get(measure);
                let bounds = (0..BUCKETS)
                    .map(|bucket| measure.bound(bucket).map_or(f64::INFINITY, |bound| bound as f64 / divisor));
                let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                let count = counts.iter().sum();
                family.encode_family(&[("shard", index.to_string())])?.encode_histogram::<NoLabelSet>(
                    sum as f64 / divisor,
                    count,
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn encode_hub(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut result = Ok(());
        self.0.hub.each(|figure, about, kind, value| {
            let renamed = renamed(figure, &HUB_METRICS);
            let name = format!("hub_{}", renamed.metric);
            let encoded = encoder
                .encode_descriptor(&name, help(about), renamed.unit.unit().as_ref(), metric_type(kind))
                .and_then(|encoder| encode_value(kind, value as f64 / renamed.divisor, encoder));
            result = std::mem::replace(&mut result, Ok(())).and(encoded);
        });
        result
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.encode_hub(&mut encoder)?;
        self.encode_shards(&mut encoder)?;
        self.encode_lists(&mut encoder)?;
        self.encode_measures(&mut encoder)?;
        let ready = ConstGauge::new(u64::from(self.0.room.is_ready()));
        let about = "Whether new clients are welcome: 1, or 0 while starting, paused or going away";
        ready.encode(encoder.encode_descriptor("ready", about, None, MetricType::Gauge)?)?;
        // A gauge by convention: the text format of old knows no type for it.
        let mut info = encoder.encode_descriptor("build_info", "What is running", None, MetricType::Gauge)?;
        ConstGauge::new(1u64).encode(info.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

/// What the kernel says of the process, by the names that all Prometheus clients use.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let usage = process::usage();
        let mut gauge = |name, about, unit: Option<Unit>, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, about, unit.as_ref(), MetricType::Gauge)?)
        };
        let about = "Anonymous memory in RAM";
        gauge("process_resident_memory", about, Some(Unit::Bytes), usage.memory_bytes as f64)?;
        let about = "Descriptors of the hub and the control thread; connections are in the shards' own tables";
        gauge("process_open_fds", about, None, process::descriptors() as f64)?;
        gauge("process_uptime", "Since the start", Some(Unit::Seconds), usage.uptime.as_secs_f64())?;
        let about = "Processor time of all threads";
        let seconds = ConstCounter::new(usage.cpu.as_secs_f64());
        seconds.encode(encoder.encode_descriptor("process_cpu", about, Some(&Unit::Seconds), MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_old_names_counters_as_they_are() {
        let open = "# HELP a_x About x.\n# TYPE a_x counter\n# UNIT a_x seconds\na_x_total{s=\"0\"} 1\n# TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_x_total About x.\n# TYPE a_x_total counter\na_x_total{s=\"0\"} 1\n# TYPE b gauge\nb 2\n";
        assert_eq!(as_text(open), text);
    }

    #[test]
    fn every_name_that_is_mapped_is_a_figure() {
        let mut figures = Vec::new();
        Published::default().each(|name, _, _, _| figures.push(name));
        assert!(SHARD_METRICS.iter().all(|rename| figures.contains(&rename.figure)));
        figures.clear();
        crate::hub::HubFigures::default().each(|name, _, _, _| figures.push(name));
        assert!(HUB_METRICS.iter().all(|rename| figures.contains(&rename.figure)));
    }
}
