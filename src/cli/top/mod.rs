//! `ringcast top`: shows on a terminal what a server is doing.

mod figures;
mod view;

use std::io::Write;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use serde_json::{Value, json};

use super::{FeedPath, Result};
use crate::feed::client::{FeedClient, FeedError};

use figures::Figures;

/// How to show it.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    feed: FeedPath,
    /// Seconds between two samples.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
    /// Print one screen as text, and end.
    #[arg(long)]
    once: bool,
}

/// Rows of each list.
const ROWS: usize = 20;
/// The shortest time between two samples, in seconds.
const EVERY_MIN: f64 = 0.1;

/// Shows the figures until the user ends it, or once.
pub(super) fn run(args: &TopArgs) -> Result {
    let mut feed = FeedClient::connect(&args.feed.resolve())?;
    let every = Duration::try_from_secs_f64(args.every.max(EVERY_MIN))?;
    let mut before = look(&mut feed)?;
    if args.once {
        std::thread::sleep(every);
        return print(&look(&mut feed)?, &before);
    }
    let mut terminal = ratatui::try_init()?;
    let result = watch(&mut terminal, &mut feed, &mut before, every);
    ratatui::restore();
    result
}

/// Asks the server for everything that is shown.
fn look(feed: &mut FeedClient) -> std::result::Result<Figures, FeedError> {
    let stats = feed.call(json!({ "op": "stats" }))?["stats"].take();
    let channels = feed.call(json!({ "op": "channels", "limit": ROWS }))?["channels"].take();
    let slowest = feed.call(json!({ "op": "connections", "order": "slowest", "limit": ROWS }))?["connections"].take();
    let list = |value: Value| value.as_array().cloned().unwrap_or_default();
    Ok(Figures { at: Instant::now(), stats, channels: list(channels), slowest: list(slowest) })
}

/// Draws one sample after the other, until the user ends it.
fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    feed: &mut FeedClient,
    before: &mut Figures,
    every: Duration,
) -> Result {
    let mut now = look(feed)?;
    loop {
        terminal.draw(|frame| view::draw(frame, &now, before))?;
        let next = Instant::now() + every;
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if !event::poll(left)? {
                break;
            }
            match event::read()? {
                Event::Key(key) => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    _ => {}
                },
                Event::Resize(..) => {
                    terminal.draw(|frame| view::draw(frame, &now, before))?;
                }
                _ => {}
            }
        }
        *before = std::mem::replace(&mut now, look(feed)?);
    }
}

/// Prints one screen as text, as wide as terminals usually are.
fn print(now: &Figures, before: &Figures) -> Result {
    let height = view::height(now);
    let mut terminal = Terminal::new(TestBackend::new(110, height))?;
    terminal.draw(|frame| view::draw(frame, now, before))?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
