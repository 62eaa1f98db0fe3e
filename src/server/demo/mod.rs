//! `serve --demo`: a few live channels, and a page that shows them over all transports.

mod answers;
mod certificate;
mod chat;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::feed::client::{FeedClient, FeedError};
use crate::shard::Pages;
use crate::sys::clock::unix_ms;

pub(super) use certificate::certificate;
use chat::Wish;

/// The page at `/`, and the client library that it uses. The library is built by `npm run build` in clients/js.
pub const PAGES: Pages = Pages { page: PAGE, library: include_str!("../../../clients/js/dist/ringcast.js") };

const PAGE: &str = concat!(
    include_str!("../../control/page/head.html"),
    "<title>ringcast demo</title>\n<style>\n",
    include_str!("../../control/page/base.css"),
    include_str!("page.css"),
    "</style>\n",
    include_str!("page.html"),
    "<script>\n",
    include_str!("../../control/page/chart.js"),
    include_str!("page.js"),
    "</script>\n"
);

/// The interval at which the demo looks for events that are due.
const STEP: Duration = Duration::from_millis(100);

const CHAT: [&str; 6] = [
    "hello from the backend",
    "cut a client and resume it: nothing is lost",
    "the counters under each transport show losses and repeats",
    "an event is framed once, however many read it",
    "say something: the page sends it over a WebSocket, and a backend publishes it",
    "open this page in a second window",
];

/// The demo while it runs.
pub struct Demo {
    is_over: Arc<AtomicBool>,
}

impl Demo {
    /// Starts the threads that publish to the feed at `path` and listen to visitors there.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(path: PathBuf) -> io::Result<Demo> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (said, wishes) = channel();
        let mut publisher = Publisher::new(fastrand::u64(..), unix_ms());
        let mut chat = chat::Chat::new(said);
        on_feed("demo", path.clone(), is_over.clone(), move |feed, is_over| publisher.run(feed, &wishes, is_over))?;
        on_feed("demo-chat", path, is_over.clone(), move |feed, _| chat.run(feed))?;
        Ok(Demo { is_over })
    }

    /// Makes the threads stop.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Starts a thread that works on a connection to the feed, and on another one whenever that breaks, until the demo is over.
fn on_feed(
    name: &str,
    path: PathBuf,
    is_over: Arc<AtomicBool>,
    mut work: impl FnMut(&mut FeedClient, &AtomicBool) -> Result<(), FeedError> + Send + 'static,
) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            let worked = FeedClient::connect(&path).and_then(|mut feed| work(&mut feed, &is_over));
            if worked.is_err() {
                std::thread::sleep(STEP);
            }
        }
    })?;
    Ok(())
}

/// The channels of the demo, each at the place of its number in [`Publisher`].
const CHANNELS: [&str; 3] = ["demo:clock", "demo:ticker", "demo:chat"];
const CLOCK: usize = 0;
const TICKER: usize = 1;
const LINES: usize = 2;
/// The channel of the server's figures.
const FIGURES: &str = "demo:figures";

/// Decides which events the demo publishes at which time.
struct Publisher {
    rng: fastrand::Rng,
    /// The name of this run, in each event beside its number: numbers begin at 1 in each run.
    run: String,
    numbers: [u64; 3],
    due: [u64; 3],
    figures_due: u64,
    price: f64,
    answers: answers::Answers,
}

impl Publisher {
    fn new(seed: u64, now_ms: u64) -> Publisher {
        let mut rng = fastrand::Rng::with_seed(seed);
        let run = format!("{:06x}", rng.u32(..1 << 24));
        Publisher {
            rng,
            run,
            numbers: [0; 3],
            due: [now_ms; 3],
            figures_due: now_ms,
            price: 100.0,
            answers: answers::Answers::default(),
        }
    }

    /// Publishes what is due, what visitors say and what they ask for, until the demo is over.
    fn run(&mut self, feed: &mut FeedClient, wishes: &Receiver<Wish>, is_over: &AtomicBool) -> Result<(), FeedError> {
        while !is_over.load(Ordering::Relaxed) {
            let mut events: Vec<(usize, Value)> = Vec::new();
            match wishes.recv_timeout(STEP) {
                Ok(Wish::Line(text)) => {
                    events.push(self.numbered(LINES, unix_ms(), json!({ "text": text, "visitor": true })))
                }
                Ok(Wish::Answer { conn, question }) => self.answers.begin(feed, &self.run, &conn, &question)?,
                Ok(Wish::Cancel(channel)) => self.answers.cancel(feed, &channel)?,
                Err(_) => {}
            }
            self.answers.step(feed, unix_ms())?;
            events.extend(self.due(unix_ms()));
            for (channel, data) in events {
                let mut line = json!({ "op": "publish", "channel": CHANNELS[channel], "data": data });
                if channel == LINES {
                    line["event"] = "message".into();
                }
                feed.call(line)?;
            }
            if self.figures_due <= unix_ms() {
                self.figures_due = unix_ms() + 1000;
                let stats = feed.call(json!({ "op": "stats" }))?;
                feed.call(json!({ "op": "publish", "channel": FIGURES, "data": figures(&stats["stats"]) }))?;
            }
        }
        Ok(())
    }

    /// The events that are due: the number of the channel, and the data.
    fn due(&mut self, now_ms: u64) -> Vec<(usize, Value)> {
        let mut due = Vec::new();
        if self.is_due(CLOCK, now_ms, 1000) {
            let second = now_ms / 1000;
            let time = format!("{:02}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
            due.push(self.numbered(CLOCK, now_ms, json!({ "time": time })));
        }
        if self.is_due(TICKER, now_ms, 200) {
            self.price = (self.price + self.rng.f64() - 0.5).clamp(50.0, 150.0);
            let price = (self.price * 100.0).round() / 100.0;
            due.push(self.numbered(TICKER, now_ms, json!({ "price": price })));
        }
        if self.is_due(LINES, now_ms, 5000) {
            let text = CHAT[self.rng.usize(..CHAT.len())];
            due.push(self.numbered(LINES, now_ms, json!({ "text": text })));
        }
        due
    }

    /// Adds to an event's data its number on the channel, the run that counts, and the time.
    fn numbered(&mut self, channel: usize, now_ms: u64, mut data: Value) -> (usize, Value) {
        self.numbers[channel] += 1;
        data["n"] = self.numbers[channel].into();
        data["run"] = self.run.as_str().into();
        data["t"] = now_ms.into();
        (channel, data)
    }

    fn is_due(&mut self, channel: usize, now_ms: u64, every_ms: u64) -> bool {
        if now_ms < self.due[channel] {
            return false;
        }
        self.due[channel] = now_ms + every_ms;
        true
    }
}

/// The figures that the page shows, out of all of the server's.
fn figures(stats: &Value) -> Value {
    let shards = stats["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
    let deliveries: u64 = shards.iter().filter_map(|shard| shard["deliveries"].as_u64()).sum();
    json!({
        "connections": stats["node"]["connections"],
        "events": stats["node"]["events_published"],
        "deliveries": deliveries,
        "t": unix_ms(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_counts_without_holes() {
        let mut publisher = Publisher::new(1, 0);
        let mut clock = Vec::new();
        for now in (0..10_000).step_by(100) {
            for (channel, data) in publisher.due(now) {
                if channel == CLOCK {
                    clock.push((data["n"].as_u64().unwrap(), data["run"].clone()));
                }
            }
        }
        let run = Value::from(publisher.run);
        assert_eq!(clock, (1..=10).map(|number| (number, run.clone())).collect::<Vec<_>>());
        assert_ne!(run, Publisher::new(2, 0).run, "another run has another name");
    }

    #[test]
    fn figures_are_sums_over_the_shards() {
        let node = json!({ "connections": 5, "events_published": 7 });
        let shown = figures(&json!({ "node": node, "shards": [{ "deliveries": 1 }, { "deliveries": 2 }] }));
        assert_eq!((&shown["connections"], &shown["events"], &shown["deliveries"]), (&5.into(), &7.into(), &3.into()));
    }
}
