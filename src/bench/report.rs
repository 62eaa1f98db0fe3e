//! A scenario's figures, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::procfs::Host;

/// The values of a figure in the rounds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Samples {
    /// One value per round, in order.
    pub(crate) rounds: Vec<f64>,
}

impl Samples {
    /// Minimum, median and maximum; `None` without values.
    pub(crate) fn spread(&self) -> Option<(f64, f64, f64)> {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some((first, median, last))
    }
}

/// One of the servers that a scenario measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// `ringcast serve`.
    Server,
    /// The bare loop.
    Limit,
    /// nginx with Nchan.
    Nchan,
    /// The example on axum and a tokio broadcast channel.
    Axum,
    /// The server of `--against`.
    Other,
}

impl Side {
    /// All sides, ringcast first.
    pub(crate) const ALL: [Side; 5] = [Self::Server, Self::Limit, Self::Nchan, Self::Axum, Self::Other];

    /// The name in tables, charts and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "ringcast",
            Self::Limit => "bare loop",
            Self::Nchan => "nchan",
            Self::Axum => "axum",
            Self::Other => "the other",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Side {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Side {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let side = Self::ALL.into_iter().find(|side| side.name() == name);
        side.ok_or_else(|| de::Error::custom(format!("{name:?} is not the name of a measured server")))
    }
}

/// A figure of all sides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// The name.
    pub(crate) name: String,
    /// The unit.
    pub(crate) unit: String,
    /// The place on the scenario's axis, if the scenario measures in steps.
    pub(crate) at: Option<f64>,
    /// The values by side.
    pub(crate) sides: BTreeMap<Side, Samples>,
}

impl Figure {
    /// The median of a side's rounds.
    pub(crate) fn median(&self, side: Side) -> Option<f64> {
        self.sides.get(&side)?.spread().map(|(_, median, _)| median)
    }
}

/// A bound of a figure.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Bound {
    /// At most so many times the bare loop's figure.
    TimesLimit(f64),
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
}

/// The target that a figure is held to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Target {
    figure: String,
    bound: Bound,
}

/// The figures of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ScenarioReport {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// The options of the run.
    pub(crate) settings: BTreeMap<String, serde_json::Value>,
    /// The unit of the axis, if the scenario measures in steps.
    pub(crate) axis: Option<String>,
    /// The figures in the order of the table.
    pub(crate) figures: Vec<Figure>,
    /// Remarks for the reader of the figures.
    pub(crate) notes: Vec<String>,
    targets: Vec<Target>,
}

impl ScenarioReport {
    /// An empty report.
    pub(crate) fn new(scenario: impl Into<String>) -> Self {
        let (settings, scenario) = (BTreeMap::new(), scenario.into());
        Self { scenario, settings, axis: None, figures: Vec::new(), notes: Vec::new(), targets: Vec::new() }
    }

    /// Adds an option of the run.
    pub(crate) fn set(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the unit of the steps of [`ScenarioReport::add_at`].
    pub(crate) fn along(mut self, axis: &str) -> Self {
        self.axis = Some(axis.to_owned());
        self
    }

    /// Adds one round's value of a figure.
    pub(crate) fn add(&mut self, side: Side, name: &str, unit: &str, value: f64) {
        self.put(side, name, unit, None, value);
    }

    /// Adds one round's value of a figure at a step.
    pub(crate) fn add_at(&mut self, side: Side, at: f64, name: &str, unit: &str, value: f64) {
        self.put(side, name, unit, Some(at), value);
    }

    fn put(&mut self, side: Side, name: &str, unit: &str, at: Option<f64>, value: f64) {
        let found = self.figures.iter().position(|figure| figure.name == name && figure.at == at);
        let index = found.unwrap_or_else(|| {
            let (name, unit) = (name.to_owned(), unit.to_owned());
            self.figures.push(Figure { name, unit, at, sides: BTreeMap::new() });
            self.figures.len() - 1
        });
        self.figures[index].sides.entry(side).or_default().rounds.push(value);
    }

    /// Adds a latency distribution's median, 99th percentile and maximum.
    pub(crate) fn add_latency(&mut self, side: Side, latency: &Histogram<u64>) {
        for (name, value) in [
            ("latency p50", latency.value_at_quantile(0.5)),
            ("latency p99", latency.value_at_quantile(0.99)),
            ("latency max", latency.max()),
        ] {
            self.add(side, name, "ms", value as f64 / 1000.0);
        }
    }

    /// Adds a remark, unless the report has it already.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Sets the target of a figure.
    pub(crate) fn target(&mut self, figure: &str, bound: Bound) {
        self.targets.push(Target { figure: figure.to_owned(), bound });
    }

    /// The measured sides, ringcast first.
    pub(crate) fn sides(&self) -> Vec<Side> {
        let mut sides: Vec<_> = self.figures.iter().flat_map(|figure| figure.sides.keys().copied()).collect();
        sides.sort_unstable();
        sides.dedup();
        sides
    }

    /// The name of the scenario in file names.
    pub(crate) fn slug(&self) -> String {
        let plain = self.scenario.replace('×', "x").replace([' ', ','], "-");
        plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    }
}

impl Target {
    /// The verdict in words; `None` if the figure was not measured.
    fn judge(&self, report: &ScenarioReport) -> Option<String> {
        let figure = report.figures.iter().find(|figure| figure.name == self.figure)?;
        let value = figure.median(Side::Server)?;
        let unit = &figure.unit;
        let (holds, wanted, got) = match self.bound {
            Bound::TimesLimit(times) => {
                let ratio = value / figure.median(Side::Limit)?;
                (ratio <= times, format!("at most {times:.2} times the bare loop's"), format!("{ratio:.2}"))
            }
            Bound::AtMost(most) => (value <= most, format!("at most {} {unit}", number(most)), number(value)),
            Bound::AtLeast(least) => (value >= least, format!("at least {} {unit}", number(least)), number(value)),
        };
        let verdict = if holds { "met" } else { "MISSED" };
        Some(format!("{}: {}: {got}, {verdict}", self.figure, wanted.trim_end()))
    }
}

/// The results of a whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The host.
    pub(crate) host: Host,
    /// Whether the run was one of `--quick`, whose figures are not judged.
    pub(crate) quick: bool,
    /// The scenarios in the order of the run.
    pub(crate) scenarios: Vec<ScenarioReport>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { kernel, cpu, cores, date, version, .. } = &self.host;
        writeln!(f, "ringcast {version} on Linux {kernel}, {cores} cores of {cpu}, {date}")?;
        for scenario in &self.scenarios {
            let settings: Vec<_> = scenario.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
            writeln!(f, "\n{} ({})", scenario.scenario, settings.join(", ").replace('"', ""))?;
            table(f, &rows(scenario))?;
            for note in &scenario.notes {
                writeln!(f, "  note: {note}")?;
            }
            for verdict in scenario.targets.iter().filter_map(|target| target.judge(scenario)) {
                if !self.quick {
                    writeln!(f, "  target: {verdict}")?;
                }
            }
        }
        Ok(())
    }
}

fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut text = String::new();
        for (index, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match index {
                0 => write!(text, "  {cell:<width$}")?,
                _ => write!(text, "  {cell:>width$}")?,
            }
        }
        writeln!(f, "{}", text.trim_end())?;
    }
    Ok(())
}

/// The rows of a table: headings, then for each figure its name, the first side's median and spread, and for each other
/// side the median and the ratio of the medians.
fn rows(scenario: &ScenarioReport) -> Vec<Vec<String>> {
    let sides = scenario.sides();
    let Some((&first, others)) = sides.split_first() else { return Vec::new() };
    let mut headings = vec!["figure".to_owned(), first.name().to_owned(), "min … max".to_owned()];
    for other in others {
        headings.extend([other.name().to_owned(), "ratio".to_owned()]);
    }
    let none = || "–".to_owned();
    let row = |figure: &Figure| {
        let spread = figure.sides.get(&first).and_then(Samples::spread);
        let has_spread = figure.sides.get(&first).is_some_and(|samples| samples.rounds.len() > 1);
        let with_unit = |value| format!("{} {}", number(value), figure.unit);
        let name = match figure.at {
            Some(at) => format!("{} {}: {}", number(at), scenario.axis.as_deref().unwrap_or_default(), figure.name),
            None => figure.name.clone(),
        };
        let mut cells = vec![
            name,
            spread.map_or_else(none, |(_, median, _)| with_unit(median)),
            spread
                .filter(|_| has_spread)
                .map_or_else(none, |(min, _, max)| format!("{} … {}", number(min), number(max))),
        ];
        for other in others {
            let median = figure.median(*other);
            let ratio = spread.zip(median).filter(|(_, other)| *other != 0.0);
            cells.push(median.map_or_else(none, with_unit));
            cells.push(ratio.map_or_else(none, |((_, own, _), other)| format!("{:.2}", own / other)));
        }
        cells
    };
    std::iter::once(headings).chain(scenario.figures.iter().map(row)).collect()
}

/// A number with three significant digits, or with all digits before the point, in groups of three.
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
    fn a_median_is_the_middle_value() {
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

    fn scenario() -> ScenarioReport {
        let mut scenario = ScenarioReport::new("fanout").set("subscribers", 15_000);
        for (side, value) in [(Side::Limit, 6.0), (Side::Server, 7.5), (Side::Limit, 6.0), (Side::Server, 7.5)] {
            scenario.add(side, "processor per delivery", "µs", value);
        }
        scenario.add(Side::Server, "memory", "B", 90.0);
        scenario
    }

    fn text(scenario: ScenarioReport, quick: bool) -> String {
        Report { host: Host::look(), quick, scenarios: vec![scenario] }.to_string()
    }

    #[test]
    fn the_table_has_ratios_for_figures_of_several_sides() {
        let mut scenario = scenario();
        scenario.note("said once");
        scenario.note("said once");
        let text = text(scenario, false);
        assert!(text.contains("fanout (subscribers 15000)"), "{text}");
        assert!(text.contains("7.50 µs  7.50 … 7.50    6.00 µs   1.25"), "{text}");
        assert!(text.contains("90.0 B            –          –      –"), "{text}");
        assert_eq!(text.matches("said once").count(), 1);
    }

    #[test]
    fn targets_are_judged_by_what_was_measured() {
        let mut scenario = scenario();
        scenario.target("processor per delivery", Bound::TimesLimit(1.2));
        scenario.target("memory", Bound::AtMost(90.0));
        scenario.target("memory", Bound::AtLeast(100.0));
        scenario.target("not measured", Bound::AtMost(1.0));
        let whole = text(scenario.clone(), false);
        assert!(whole.contains("target: processor per delivery: at most 1.20 times the bare loop's: 1.25, MISSED"));
        assert!(whole.contains("target: memory: at most 90.0 B: 90.0, met"), "{whole}");
        assert!(whole.contains("at least 100 B: 90.0, MISSED"), "{whole}");
        assert!(!whole.contains("not measured"));
        assert!(!text(scenario, true).contains("target"), "a quick run is not judged");
    }

    #[test]
    fn a_saved_report_is_the_same_when_it_is_read() {
        let mut whole = scenario();
        whole.target("memory", Bound::AtMost(90.0));
        let report = Report { host: Host::look(), quick: false, scenarios: vec![whole] };
        let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(read.to_string(), report.to_string());
    }

    #[test]
    fn steps_keep_their_place() {
        let mut scenario = ScenarioReport::new("saturate, sweep").along("events/s");
        scenario.add_at(Side::Server, 500.0, "latency p99", "ms", 1.0);
        scenario.add_at(Side::Server, 1000.0, "latency p99", "ms", 2.0);
        assert_eq!(scenario.figures.len(), 2);
        assert_eq!(scenario.slug(), "saturate-sweep");
        assert!(text(scenario, false).contains("1,000 events/s: latency p99"));
    }
}
