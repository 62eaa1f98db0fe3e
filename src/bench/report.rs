//! What a scenario found out, as a table for people and as JSON for comparing.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::procfs::Host;

/// Values of one figure over the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Samples {
    /// One per round, in their order.
    pub(crate) rounds: Vec<f64>,
}

impl Samples {
    /// Minimum, median and maximum, where there is any value.
    pub(crate) fn spread(&self) -> Option<(f64, f64, f64)> {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some((first, median, last))
    }
}

/// One thing measured: on the server, and with the yardstick where there is one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What it is.
    pub(crate) name: String,
    /// In what.
    pub(crate) unit: &'static str,
    /// The server's values.
    pub(crate) server: Samples,
    /// The bare loop's.
    pub(crate) limit: Samples,
}

/// Which of the two was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `ringcast serve`.
    Server,
    /// The bare loop.
    Limit,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "ringcast",
            Self::Limit => "bare loop",
        })
    }
}

/// All figures of one scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ScenarioReport {
    /// The scenario.
    pub(crate) scenario: String,
    /// What it was run with.
    pub(crate) settings: BTreeMap<&'static str, serde_json::Value>,
    /// What it measured.
    pub(crate) figures: Vec<Figure>,
    /// What a reader must know to read the figures right.
    pub(crate) notes: Vec<String>,
}

impl ScenarioReport {
    /// An empty report.
    pub(crate) fn new(scenario: impl Into<String>) -> Self {
        Self { scenario: scenario.into(), settings: BTreeMap::new(), figures: Vec::new(), notes: Vec::new() }
    }

    /// Says what it was run with.
    pub(crate) fn set(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.settings.insert(name, value.into());
        self
    }

    /// Adds one round's value of a figure.
    pub(crate) fn add(&mut self, side: Side, name: &str, unit: &'static str, value: f64) {
        let index = self.figures.iter().position(|figure| figure.name == name).unwrap_or_else(|| {
            let (server, limit) = (Samples::default(), Samples::default());
            self.figures.push(Figure { name: name.to_owned(), unit, server, limit });
            self.figures.len() - 1
        });
        let figure = &mut self.figures[index];
        match side {
            Side::Server => figure.server.rounds.push(value),
            Side::Limit => figure.limit.rounds.push(value),
        }
    }

    /// Adds the figures of a latency distribution that matter to a waiting person.
    pub(crate) fn add_latency(&mut self, side: Side, latency: &Histogram<u64>) {
        for (name, value) in [
            ("latency p50", latency.value_at_quantile(0.5)),
            ("latency p99", latency.value_at_quantile(0.99)),
            ("latency max", latency.max()),
        ] {
            self.add(side, name, "ms", value as f64 / 1000.0);
        }
    }

    /// Adds a remark, once.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Where it ran.
    pub(crate) host: Host,
    /// What it ran.
    pub(crate) scenarios: Vec<ScenarioReport>,
}

const HEADINGS: [&str; 5] = ["figure", "ringcast", "min … max", "bare loop", "ratio"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { kernel, cpu, cores, date, version, .. } = &self.host;
        writeln!(f, "ringcast {version} on Linux {kernel}, {cores} cores of {cpu}, {date}")?;
        let rows: Vec<_> = self.scenarios.iter().map(|scenario| (scenario, rows(scenario))).collect();
        let mut widths = HEADINGS.map(|heading| heading.chars().count());
        for row in rows.iter().flat_map(|(_, rows)| rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (scenario, rows) in rows {
            let settings: Vec<_> = scenario.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
            writeln!(f, "\n{} ({})", scenario.scenario, settings.join(", ").replace('"', ""))?;
            line(f, &widths, &HEADINGS.map(str::to_owned))?;
            for row in rows {
                line(f, &widths, &row)?;
            }
            for note in &scenario.notes {
                writeln!(f, "  note: {note}")?;
            }
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, widths: &[usize; 5], cells: &[String; 5]) -> fmt::Result {
    let mut text = String::new();
    for (index, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        match index {
            0 => write!(text, "  {cell:<width$}")?,
            _ => write!(text, "  {cell:>width$}")?,
        }
    }
    writeln!(f, "{}", text.trim_end())
}

/// Name, the server's median and spread, the yardstick's median, and the ratio of the medians.
fn rows(scenario: &ScenarioReport) -> Vec<[String; 5]> {
    let none = || "–".to_owned();
    let row = |figure: &Figure| {
        let (server, limit) = (figure.server.spread(), figure.limit.spread());
        let spread = server.or(limit).filter(|_| figure.server.rounds.len().max(figure.limit.rounds.len()) > 1);
        let with_unit = |value| format!("{} {}", number(value), figure.unit);
        let ratio = server.zip(limit).filter(|(_, (_, limit, _))| *limit != 0.0);
        [
            figure.name.clone(),
            server.map_or_else(none, |(_, median, _)| with_unit(median)),
            spread.map_or_else(none, |(min, _, max)| format!("{} … {}", number(min), number(max))),
            limit.map_or_else(none, |(_, median, _)| with_unit(median)),
            ratio.map_or_else(none, |((_, server, _), (_, limit, _))| format!("{:.2}", server / limit)),
        ]
    };
    scenario.figures.iter().map(row).collect()
}

/// Three significant digits, or all before the point, in groups of three.
pub(crate) fn number(value: f64) -> String {
    let plain = match value.abs() {
        size if size == 0.0 || size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), None), |(w, f)| (w, Some(f)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        let spread = |rounds: &[f64]| Samples { rounds: rounds.to_vec() }.spread();
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
    }

    #[test]
    fn numbers_are_short() {
        let texts: Vec<_> = [0.0, 6.789, 12.34, 999.6, 4_912_345.0, -1_234.0].map(number).into();
        assert_eq!(texts, ["0", "6.79", "12.3", "1,000", "4,912,345", "-1,234"]);
    }

    #[test]
    fn the_table_has_ratios_where_there_is_a_yardstick() {
        let mut scenario = ScenarioReport::new("fanout").set("subscribers", 15_000);
        for (side, value) in [(Side::Limit, 6.0), (Side::Server, 7.5), (Side::Limit, 6.0), (Side::Server, 7.5)] {
            scenario.add(side, "processor per delivery", "µs", value);
        }
        scenario.add(Side::Server, "memory", "B", 90.0);
        scenario.note("said once");
        scenario.note("said once");
        let text = Report { host: Host::look(), scenarios: vec![scenario] }.to_string();
        assert!(text.contains("fanout (subscribers 15000)"), "{text}");
        assert!(text.contains("7.50 µs  7.50 … 7.50    6.00 µs   1.25"), "{text}");
        assert!(text.contains("90.0 B            –          –      –"), "{text}");
        assert_eq!(text.matches("said once").count(), 1);
    }
}
