//! Drawing two samples of a server's figures.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};
use serde_json::Value;

use super::figures::{Figures, bytes, quantile, rate, short, time};

/// Lines above the tables.
const SUMMARY: u16 = 6;

/// The lines that a whole screen takes.
pub(super) fn height(figures: &Figures) -> u16 {
    let lists = figures.channels.len().max(1) + behind(figures).count().max(1);
    SUMMARY + 2 + figures.shards().len() as u16 + 4 + lists as u16
}

/// The clients that are behind, of those furthest behind.
fn behind(figures: &Figures) -> impl Iterator<Item = &Value> {
    let bytes = |row: &Value| row["lag_bytes"].as_u64().unwrap_or(0) + row["waiting_bytes"].as_u64().unwrap_or(0);
    figures.slowest.iter().filter(move |row| bytes(row) > 0)
}

/// Draws one screen: the summary, the shards, the busiest channels and the slowest clients.
pub(super) fn draw(frame: &mut Frame<'_>, now: &Figures, before: &Figures) {
    let shards = now.shards().len() as u16;
    let slow = behind(now).count().max(1) as u16;
    let areas = Layout::vertical([
        Constraint::Length(SUMMARY),
        Constraint::Length(shards + 2),
        Constraint::Fill(1),
        Constraint::Length(slow + 1),
    ])
    .split(frame.area());
    for (line, area) in
        summary(now, before).into_iter().zip(Layout::vertical([Constraint::Length(1); 6]).split(areas[0]).iter())
    {
        frame.render_widget(line, *area);
    }
    frame.render_widget(shard_table(now, before), areas[1]);
    frame.render_widget(channel_table(now), areas[2]);
    frame.render_widget(slow_table(now), areas[3]);
}

/// The lines above the tables.
fn summary(now: &Figures, before: &Figures) -> [Line<'static>; 5] {
    let seconds = now.since(before);
    let per_second = |name| short(rate(now.sum(name), before.sum(name), seconds));
    let state = match now.stats["node"]["ready"].as_bool() {
        Some(true) => "serving".green(),
        _ => "no new clients".red(),
    };
    let head = Line::from(vec![
        "ringcast ".bold(),
        now.stats["process"]["version"].as_str().unwrap_or_default().to_owned().into(),
        "  ".into(),
        state,
        format!(
            "  up {}  memory {}  processor {:.0} %   (q ends)",
            time(now.process("uptime_ms")),
            bytes(now.process("memory_bytes")),
            rate(now.process("cpu_ms"), before.process("cpu_ms"), seconds) / 10.0
        )
        .into(),
    ]);
    let connections = format!(
        "connections {}  sse {}  ws {}  poll {}  http {}   accepted/s {}  refused/s {}",
        short(now.node("connections") as f64),
        short(now.sum("connections_sse") as f64),
        short(now.sum("connections_ws") as f64),
        short(now.sum("connections_poll") as f64),
        short(now.sum("connections_http") as f64),
        per_second("accepted"),
        per_second("refused")
    );
    let latency = |part| match quantile(now.shards(), before.shards(), "delivery_latency_ms", part) {
        Some(ms) => format!("≤ {ms} ms"),
        None => "–".into(),
    };
    let flow = format!(
        "events/s {}  deliveries/s {}  {}/s   latency p50 {}  p99 {}  most {}",
        short(rate(now.node("events_published"), before.node("events_published"), seconds)),
        per_second("deliveries"),
        bytes(rate(now.sum("sent_bytes"), before.sum("sent_bytes"), seconds) as u64),
        latency(0.5),
        latency(0.99),
        latency(1.0)
    );
    let losses = format!(
        "channels {}  history {}   gaps {}  slow: cut {}  moved on {}  skipped {}   publishers had to wait {}",
        short(now.node("channels") as f64),
        bytes(now.node("history_bytes")),
        now.sum("gaps"),
        now.sum("slow_disconnected"),
        now.sum("slow_gaps"),
        now.sum("slow_skips"),
        now.node("congestions")
    );
    [head, connections.into(), flow.into(), losses.into(), ended(now, before).into()]
}

/// Why connections ended since the last sample, the most frequent reason first; since the start, if none did.
fn ended(now: &Figures, before: &Figures) -> String {
    let fresh = by_reason(now, Some(before));
    let (what, reasons) = if fresh.is_empty() { ("in all", by_reason(now, None)) } else { ("just now", fresh) };
    let reasons: Vec<String> = reasons.into_iter().take(8).map(|(reason, count)| format!("{reason} {count}")).collect();
    match reasons.is_empty() {
        true => "connections ended: none yet".into(),
        false => format!("connections ended {what}: {}", reasons.join("  ")),
    }
}

/// How many connections ended for each reason, since an earlier sample or since the start.
fn by_reason(now: &Figures, before: Option<&Figures>) -> Vec<(String, u64)> {
    let Some(reasons) = now.shards().first().and_then(|shard| shard["closed"].as_object()) else { return Vec::new() };
    let sum = |figures: &Figures, reason: &str| -> u64 {
        figures.shards().iter().filter_map(|shard| shard["closed"][reason].as_u64()).sum()
    };
    let fresh = |reason: &String| sum(now, reason).saturating_sub(before.map_or(0, |before| sum(before, reason)));
    let mut counts: Vec<(String, u64)> = reasons.keys().map(|reason| (reason.clone(), fresh(reason))).collect();
    counts.retain(|(_, count)| *count > 0);
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

/// A table with a head, whose first column takes the width that is left; `none` stands in a table without rows.
fn table<'a>(head: &[&'a str], rows: Vec<Vec<String>>, widths: &[u16], none: &'a str) -> Table<'a> {
    let align = |column: usize, text: String| {
        let line = Line::from(text);
        if column == 0 { line } else { line.right_aligned() }
    };
    let is_empty = rows.is_empty();
    let mut all: Vec<Row<'a>> = rows
        .into_iter()
        .map(|row| Row::new(row.into_iter().enumerate().map(|(column, text)| align(column, text)).collect::<Vec<_>>()))
        .collect();
    if is_empty {
        all.push(Row::new([none]));
    }
    let head = head.iter().enumerate().map(|(column, text)| align(column, (*text).to_owned())).collect::<Vec<_>>();
    let widths = widths.iter().enumerate().map(|(column, width)| match column {
        0 => Constraint::Fill(1),
        _ => Constraint::Length(*width),
    });
    Table::new(all, widths.collect::<Vec<_>>()).header(Row::new(head).style(Style::new().reversed()))
}

fn shard_table(now: &Figures, before: &Figures) -> Table<'static> {
    let seconds = now.since(before);
    let rows = now.shards().iter().zip(before.shards()).enumerate().map(|(index, (shard, old))| {
        let value = |name: &str| shard[name].as_u64().unwrap_or(0);
        let per_second = |name: &str| rate(value(name), old[name].as_u64().unwrap_or(0), seconds);
        let turn = quantile(std::slice::from_ref(shard), std::slice::from_ref(old), "turn_us", 0.99);
        vec![
            format!("shard {index}"),
            short(value("slots") as f64),
            short(value("descriptors_max") as f64),
            format!("{:.0} %", (per_second("busy_us") / 1e4).min(100.0)),
            short(per_second("events_received")),
            short(per_second("deliveries")),
            short(per_second("sends")),
            turn.map_or("–".into(), |us| format!("≤ {us} µs")),
        ]
    });
    let head = ["", "connections", "limit", "at work", "events/s", "deliveries/s", "sends/s", "turn p99"];
    table(&head, rows.collect(), &[0, 11, 8, 8, 10, 12, 10, 12], "")
}

fn channel_table(now: &Figures) -> Table<'static> {
    let rows = now.channels.iter().map(|row| {
        vec![
            row["channel"].as_str().unwrap_or_default().to_owned(),
            short(row["events_per_second"].as_f64().unwrap_or(0.0)),
            short(row["subscribers"].as_u64().unwrap_or(0) as f64),
            bytes(row["history_bytes"].as_u64().unwrap_or(0)),
        ]
    });
    table(
        &["busiest channels", "events/s", "subscribers", "history"],
        rows.collect(),
        &[0, 10, 12, 12],
        "no events just now",
    )
}

fn slow_table(now: &Figures) -> Table<'static> {
    let rows = behind(now).map(|row| {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let number = |name: &str| row[name].as_u64().unwrap_or(0);
        vec![
            format!("{} {} {}", text("conn"), text("transport"), text("user")),
            text("address").to_owned(),
            bytes(number("lag_bytes")),
            bytes(number("waiting_bytes")),
            time(number("age_ms")),
        ]
    });
    let head = ["furthest behind", "address", "behind", "waiting", "open for"];
    table(&head, rows.collect(), &[0, 24, 12, 12, 10], "every client is up to date")
}
