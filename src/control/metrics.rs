//! The figures for Prometheus, in OpenMetrics text or in Prometheus' own text format.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{self, Registry};

use crate::figures::{BUCKETS, Figure, HubFigures, Kind, Measure, ServerTable, ShardTable, Stats, Unit};
use crate::sys::process;

/// How the figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0, which Prometheus asks for.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which other collectors read.
    Text,
}

impl Format {
    /// The format that a request's `Accept` asks for.
    pub(super) fn accepted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Text }
    }

    /// The format's media type.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Every figure as text.
pub(super) fn encode(stats: &Arc<Stats>, format: Format) -> String {
    match format {
        Format::OpenMetrics => encode_open(stats),
        Format::Text => as_text(&encode_open(stats)),
    }
}

/// Turns OpenMetrics into Prometheus' text format: a counter's description has the suffix `_total` in its name, and
/// there are no lines for units and for the end.
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

fn encode_open(stats: &Arc<Stats>) -> String {
    let mut registry = Registry::with_prefix("ringcast");
    registry.register_collector(Box::new(Figures(stats.clone())));
    let mut process = Registry::default();
    process.register_collector(Box::new(Process));
    let mut text = String::new();
    // Writing to a string fails only if a collector fails, and neither of these does.
    let _ = prometheus_client::encoding::text::encode_registry(&mut text, &registry);
    let _ = prometheus_client::encoding::text::encode_registry(&mut text, &process);
    let _ = prometheus_client::encoding::text::encode_eof(&mut text);
    text
}

fn metric_unit(unit: Unit) -> Option<registry::Unit> {
    match unit {
        Unit::Things => None,
        Unit::Bytes => Some(registry::Unit::Bytes),
        Unit::Milliseconds | Unit::Microseconds => Some(registry::Unit::Seconds),
    }
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Total => MetricType::Counter,
        Kind::Now => MetricType::Gauge,
    }
}

/// A figure's description as Prometheus writes descriptions: without a full stop.
fn help(about: &str) -> &str {
    about.trim().trim_end_matches('.')
}

fn encode_value(kind: Kind, value: f64, encoder: &mut MetricEncoder<'_>) -> Result<(), Error> {
    match kind {
        Kind::Total => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        Kind::Now => encoder.encode_gauge(&value),
    }
}

/// The counters of one thread: their values in the order of their table, and the shard's number if it is a shard.
struct Counted<'a> {
    shard: Option<String>,
    values: Vec<&'a [AtomicU64]>,
}

impl Counted<'_> {
    /// Writes the values of one of the thread's counters.
    fn encode(&self, figure: &Figure, index: usize, metric: &mut MetricEncoder<'_>) -> Result<(), Error> {
        let divisor = Unit::split(figure.metric().0).1.divisor();
        for (place, value) in self.values[index].iter().enumerate() {
            let value = value.load(Ordering::Relaxed) as f64 / divisor;
            let shard = self.shard.as_deref().map(|shard| ("shard", shard));
            let labels: Vec<_> = shard.into_iter().chain(figure.label().zip(figure.label_value(place))).collect();
            match labels.is_empty() {
                true => encode_value(figure.kind, value, metric)?,
                false => encode_value(figure.kind, value, &mut metric.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }
}

/// Writes a table of counters, for one or several threads that count by it; all counters of a family are one metric.
fn encode_table(
    encoder: &mut DescriptorEncoder<'_>,
    prefix: &str,
    figures: &[Figure],
    threads: &[Counted<'_>],
) -> Result<(), Error> {
    let mut first = 0;
    for family in figures.chunk_by(|one, next| one.metric().0 == next.metric().0) {
        let (name, about) = family[0].metric();
        let (name, unit) = Unit::split(name);
        let (name, unit) = (format!("{prefix}{name}"), metric_unit(unit));
        let mut metric = encoder.encode_descriptor(&name, help(about), unit.as_ref(), metric_type(family[0].kind))?;
        for thread in threads {
            for (index, figure) in family.iter().enumerate() {
                thread.encode(figure, first + index, &mut metric)?;
            }
        }
        first += family.len();
    }
    Ok(())
}

#[derive(Debug)]
struct Figures(Arc<Stats>);

impl Figures {
    fn encode_hub(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let hub = Counted { shard: None, values: self.0.hub.values().collect() };
        encode_table(encoder, "hub_", HubFigures::FIGURES, &[hub])
    }

    fn encode_server(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let server = Counted { shard: None, values: self.0.server.values().collect() };
        encode_table(encoder, "", ServerTable::<AtomicU64>::FIGURES, &[server])
    }

    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let shards = self.0.shards.iter().enumerate();
        let counted = shards.map(|(number, shard)| Counted {
            shard: Some(number.to_string()),
            values: shard.counters.values().collect(),
        });
        encode_table(encoder, "", ShardTable::<AtomicU64>::FIGURES, &counted.collect::<Vec<_>>())
    }

    fn encode_measures(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        for measure in Measure::ALL {
            let (name, unit) = Unit::split(measure.name());
            let (metric_unit, divisor) = (metric_unit(unit), unit.divisor());
            let about = help(measure.about());
            let mut metric = encoder.encode_descriptor(name, about, metric_unit.as_ref(), MetricType::Histogram)?;
            for (number, shard) in self.0.shards.iter().enumerate() {
                let (counts, sum) = shard.measures.get(measure);
                let bound = |bucket| measure.bound(bucket).map_or(f64::INFINITY, |bound| bound as f64 / divisor);
                let buckets: Vec<(f64, u64)> = (0..BUCKETS).map(bound).zip(counts).collect();
                metric.encode_family(&[("shard", number.to_string())])?.encode_histogram::<NoLabelSet>(
                    sum as f64 / divisor,
                    counts.iter().sum(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.encode_hub(&mut encoder)?;
        self.encode_shards(&mut encoder)?;
        self.encode_measures(&mut encoder)?;
        self.encode_server(&mut encoder)?;
        let ready = ConstGauge::new(u64::from(self.0.state.is_ready()));
        let about = "Whether new clients are welcome: 1, or 0 while the server is starting, paused or going away";
        ready.encode(encoder.encode_descriptor("ready", about, None, MetricType::Gauge)?)?;
        // A gauge by convention, because Prometheus' own text format has no type for it.
        let about = "The version that is running";
        let mut info = encoder.encode_descriptor("build_info", about, None, MetricType::Gauge)?;
        ConstGauge::new(1u64).encode(info.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

/// What the kernel says of the process, by the names that all Prometheus clients use.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let usage = process::usage();
        let mut gauge = |name, about, unit: Option<registry::Unit>, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, about, unit.as_ref(), MetricType::Gauge)?)
        };
        let about = "Anonymous memory in RAM";
        gauge("process_resident_memory", about, Some(registry::Unit::Bytes), usage.memory_bytes as f64)?;
        let about = "Descriptors of the hub; the control thread and each shard have tables of their own";
        gauge("process_open_fds", about, None, process::descriptors() as f64)?;
        let about = "Time since the start";
        gauge("process_uptime", about, Some(registry::Unit::Seconds), usage.uptime.as_secs_f64())?;
        let about = "Processor time of all threads";
        let unit = Some(&registry::Unit::Seconds);
        let seconds = ConstCounter::new(usage.cpu.as_secs_f64());
        seconds.encode(encoder.encode_descriptor("process_cpu", about, unit, MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Arc<Stats> {
        Arc::new(Stats { shards: vec![Arc::default(), Arc::default()], ..Stats::default() })
    }

    #[test]
    fn the_text_format_names_counters_as_they_are() {
        let open = "# HELP a_x About x.\n# TYPE a_x counter\n# UNIT a_x seconds\na_x_total{s=\"0\"} 1\n# TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_x_total About x.\n# TYPE a_x_total counter\na_x_total{s=\"0\"} 1\n# TYPE b gauge\nb 2\n";
        assert_eq!(as_text(open), text);
    }

    #[test]
    fn a_metric_has_its_counters_name_unit_and_labels() {
        let stats = stats();
        let shard = &stats.shards[1].counters;
        for (counter, value) in [(&shard.connections_ws, 3), (&shard.busy_us, 1_500_000), (&shard.sent_bytes, 9)] {
            counter.store(value, Ordering::Relaxed);
        }
        stats.hub.congested_ms.store(2500, Ordering::Relaxed);
        shard.rejected[2].store(4, Ordering::Relaxed);
        let text = encode(&stats, Format::Text);
        for line in [
            "ringcast_connections{shard=\"1\",transport=\"ws\"} 3.0",
            "ringcast_connections{shard=\"1\",transport=\"sse\"} 0.0",
            "ringcast_busy_seconds_total{shard=\"1\"} 1.5",
            "ringcast_sent_bytes_total{shard=\"1\"} 9.0",
            "ringcast_rejected_total{shard=\"1\",status=\"403\"} 4.0",
            "ringcast_hub_congested_seconds_total 2.5",
            "ringcast_delivery_latency_seconds_bucket{le=\"0.001\",shard=\"0\"} 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing");
        }
    }

    /// The rows of the table of metrics in docs/operations.md: name, type, labels, description.
    fn rows(text: &str) -> Vec<String> {
        let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
        helps
            .map(|(name, help)| {
                let kind =
                    text.lines().find_map(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '));
                let sample = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
                let sample = sample.or_else(|| text.lines().find(|line| line.starts_with(&format!("{name}_count{{"))));
                let labels =
                    sample.and_then(|line| line.split_once('{')?.1.split_once('}')).map_or("", |(labels, _)| labels);
                let labels: Vec<&str> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
                let labels = if labels.is_empty() { " ".to_owned() } else { format!(" {} ", labels.join(", ")) };
                format!("| `{name}` | {} |{labels}| {help} |", kind.unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn every_metric_is_documented() {
        let document = include_str!("../../docs/operations.md");
        let rows = rows(&encode(&stats(), Format::Text));
        let described: Vec<&str> = document
            .lines()
            .filter(|line| line.starts_with("| `ringcast_") || line.starts_with("| `process_"))
            .collect();
        assert!(described == rows, "the table of metrics in docs/operations.md must be:\n{}", rows.join("\n"));
    }
}
