//! Reports as SVG: lines for scenarios that measure in steps, else bars, with a panel per figure.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::BenchError;
use super::report::{Figure, ScenarioReport, Side, number};

type Panel<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The most panels of a chart.
const PANELS_MAX: usize = 6;
const PANEL_SIZE: (u32, u32) = (420, 300);

/// Colours of the palette of Okabe and Ito, which colour-blind people can distinguish.
fn colour(side: Side) -> RGBColor {
    match side {
        Side::Server => RGBColor(0, 114, 178),
        Side::Limit => RGBColor(120, 120, 120),
        Side::Nchan => RGBColor(213, 94, 0),
        Side::Axum => RGBColor(0, 158, 115),
        Side::Other => RGBColor(204, 121, 167),
    }
}

/// Draws the report.
pub(super) fn draw(report: &ScenarioReport) -> Result<String, BenchError> {
    let mut groups: Vec<(&str, Vec<&Figure>)> = Vec::new();
    // A figure without a step has no place on the axis.
    for figure in report.figures.iter().filter(|figure| report.axis.is_none() || figure.at.is_some()) {
        // Figures whose names differ behind the comma alone share a panel.
        let title = figure.name.split(',').next().unwrap_or_default();
        match groups.iter_mut().find(|(other, _)| *other == title) {
            Some((_, group)) => group.push(figure),
            None => groups.push((title, vec![figure])),
        }
    }
    groups.truncate(PANELS_MAX);
    let columns = groups.len().clamp(1, 3);
    let rows = groups.len().div_ceil(columns).max(1);
    let size = (PANEL_SIZE.0 * columns as u32, PANEL_SIZE.1 * rows as u32 + 30);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let root = root.titled(&report.scenario, ("sans-serif", 20)).map_err(failed)?;
        for ((title, figures), panel) in groups.iter().zip(root.split_evenly((rows, columns))) {
            match &report.axis {
                Some(axis) => lines(&panel, title, axis, figures)?,
                None => bars(&panel, title, figures)?,
            }
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Harness(format!("drawing a chart: {error}"))
}

/// A linear scale, or a logarithmic one for values of very different sizes.
struct Scale {
    is_log: bool,
    range: std::ops::Range<f64>,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Scale {
        let most = values.clone().fold(0.0, f64::max);
        let least = values.fold(f64::MAX, f64::min);
        let is_log = least > 0.0 && most / least > 50.0;
        let range = match is_log {
            true => least.log10().floor()..most.log10().ceil(),
            false => 0.0..if most > 0.0 { most * 1.15 } else { 1.0 },
        };
        Scale { is_log, range }
    }

    fn place(&self, value: f64) -> f64 {
        if self.is_log { value.max(f64::MIN_POSITIVE).log10() } else { value }
    }

    /// The number of labels: one for each power of ten, or ten.
    fn labels(&self) -> usize {
        if self.is_log { (self.range.end - self.range.start) as usize + 1 } else { 10 }
    }

    fn label(&self, place: f64) -> String {
        number(if self.is_log { 10f64.powf(place) } else { place })
    }
}

fn lines(panel: &Panel<'_>, title: &str, axis: &str, figures: &[&Figure]) -> Result<(), BenchError> {
    let unit = figures.first().map_or("", |figure| &figure.unit);
    let medians = figures.iter().flat_map(|figure| figure.sides.keys().filter_map(|side| figure.median(*side)));
    let scale = Scale::of(medians);
    let ends = figures
        .iter()
        .filter_map(|figure| figure.at)
        .fold((f64::MAX, 0.0), |(least, most): (f64, f64), at| (least.min(at), most.max(at)));
    let mut chart = ChartBuilder::on(panel)
        .caption(heading(title, unit), ("sans-serif", 14))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(76)
        .build_cartesian_2d(ends.0..ends.1, scale.range.clone())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_labels(scale.labels())
        .x_label_formatter(&|at| number(*at))
        .y_label_formatter(&|place| scale.label(*place))
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(failed)?;
    let mut names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
    names.dedup();
    for (nth, name) in names.iter().enumerate() {
        for side in Side::ALL {
            let of_name = figures.iter().filter(|figure| figure.name == *name);
            let points: Vec<(f64, f64)> =
                of_name.filter_map(|figure| Some((figure.at?, scale.place(figure.median(side)?)))).collect();
            if points.is_empty() {
                continue;
            }
            let style = colour(side).mix(1.0 - 0.25 * nth as f64).stroke_width(2);
            let dots = points.iter().map(|point| Circle::new(*point, 3, style.filled())).collect::<Vec<_>>();
            let suffix = name.split_once(',').map_or("", |(_, suffix)| suffix);
            chart
                .draw_series(LineSeries::new(points, style))
                .map_err(failed)?
                .label(format!("{side}{suffix}"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
            chart.draw_series(dots).map_err(failed)?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperMiddle)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(failed)
}

fn bars(panel: &Panel<'_>, title: &str, figures: &[&Figure]) -> Result<(), BenchError> {
    let unit = figures.first().map_or("", |figure| &figure.unit);
    let bars: Vec<(String, Side, (f64, f64, f64))> = figures
        .iter()
        .flat_map(|figure| {
            let suffix = figure.name.split_once(',').map_or("", |(_, suffix)| suffix);
            figure
                .sides
                .iter()
                .filter_map(move |(side, samples)| Some((format!("{side}{suffix}"), *side, samples.spread()?)))
        })
        .collect();
    let scale = Scale { is_log: false, range: Scale::of(bars.iter().map(|bar| bar.2.2)).range };
    let most = bars.iter().map(|bar| bar.2.2).fold(0.0, f64::max);
    let range = if scale.range.start == 0.0 { scale.range } else { 0.0..most * 1.15 };
    let mut chart: ChartContext<'_, _, Cartesian2d<RangedCoordf64, RangedCoordf64>> = ChartBuilder::on(panel)
        .caption(heading(title, unit), ("sans-serif", 14))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..bars.len() as f64, range.clone())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_label_formatter(&|value| number(*value))
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(failed)?;
    for (index, (name, side, (least, median, most))) in bars.iter().enumerate() {
        let (left, middle, right) = (index as f64 + 0.2, index as f64 + 0.5, index as f64 + 0.8);
        let style = colour(*side).mix(0.85).filled();
        chart.draw_series([Rectangle::new([(left, 0.0), (right, *median)], style)]).map_err(failed)?;
        chart.draw_series([PathElement::new([(middle, *least), (middle, *most)], BLACK)]).map_err(failed)?;
        let (x, y) = chart.backend_coord(&(left, 0.0));
        let (x, y) = (x - panel.get_pixel_range().0.start, y - panel.get_pixel_range().1.start);
        let label = Text::new(format!("{name} {}", number(*median)), (x, y + 6), ("sans-serif", 11));
        panel.draw(&label).map_err(failed)?;
    }
    Ok(())
}

fn heading(title: &str, unit: &str) -> String {
    if unit.is_empty() { title.to_owned() } else { format!("{title}, {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_lines_and_figures_are_bars() {
        let mut steps = ScenarioReport::new("saturate, sweep").along("events per second");
        for (at, value) in [(100.0, 1.0), (1000.0, 20.0), (2000.0, 900.0)] {
            for side in [Side::Limit, Side::Server] {
                steps.add_at(side, at, "latency p99", "ms", value);
            }
        }
        let svg = draw(&steps).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("polyline"), "{svg}");
        assert!(svg.contains("bare loop") && svg.contains("events per second"));
        let mut bars = ScenarioReport::new("idle");
        bars.add(Side::Server, "memory per connection", "B", 116.0);
        assert!(draw(&bars).unwrap().contains("memory per connection, B"));
        assert!(draw(&ScenarioReport::new("nothing")).is_ok());
    }
}
