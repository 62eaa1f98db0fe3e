//! `serve --demo`: a few live channels, and a page that shows them over all transports.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::feed::client::FeedClient;
use crate::sys::clock::unix_ms;

/// The page at `/`.
pub const PAGE: &str = include_str!("page.html");

/// The interval at which the demo looks for events that are due.
const STEP: Duration = Duration::from_millis(100);

const CHAT: [&str; 6] = [
    "hello from the backend",
    "cut a client and resume it: nothing is lost",
    "the counters under each transport show gaps and repeats",
    "an event is framed once, however many read it",
    "publish your own: ringcast publish demo:chat hi",
    "open this page in a second window",
];

/// The demo while it runs.
pub struct Demo {
    is_over: Arc<AtomicBool>,
}

impl Demo {
    /// Starts the thread that publishes to the feed at `path`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(path: PathBuf) -> io::Result<Demo> {
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = is_over.clone();
        std::thread::Builder::new().name("demo".into()).spawn(move || {
            let mut publisher = Publisher::new(fastrand::u64(..), unix_ms());
            while !flag.load(Ordering::Relaxed) {
                let Ok(mut feed) = FeedClient::connect(&path) else {
                    std::thread::sleep(STEP);
                    continue;
                };
                while !flag.load(Ordering::Relaxed) && publisher.publish(&mut feed).is_ok() {
                    std::thread::sleep(STEP);
                }
            }
        })?;
        Ok(Demo { is_over })
    }

    /// Makes the thread stop publishing.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Decides which events the demo publishes at which time.
struct Publisher {
    rng: fastrand::Rng,
    numbers: [u64; 3],
    due: [u64; 3],
    price: f64,
}

impl Publisher {
    fn new(seed: u64, now_ms: u64) -> Publisher {
        Publisher { rng: fastrand::Rng::with_seed(seed), numbers: [0; 3], due: [now_ms; 3], price: 100.0 }
    }

    fn publish(&mut self, feed: &mut FeedClient) -> Result<(), crate::feed::client::FeedError> {
        for (channel, event, data) in self.due(unix_ms()) {
            let mut line = json!({ "op": "publish", "channel": channel, "data": data });
            if let Some(event) = event {
                line["event"] = event.into();
            }
            feed.call(line)?;
        }
        Ok(())
    }

    /// The events that are due: channel, event name, data.
    fn due(&mut self, now_ms: u64) -> Vec<(&'static str, Option<&'static str>, Value)> {
        let mut due = Vec::new();
        if self.is_due(0, now_ms, 1000) {
            let second = now_ms / 1000;
            let time = format!("{:02}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
            due.push(("demo:clock", None, json!({ "n": self.numbers[0], "t": now_ms, "time": time })));
        }
        if self.is_due(1, now_ms, 200) {
            self.price = (self.price + self.rng.f64() - 0.5).clamp(50.0, 150.0);
            let price = (self.price * 100.0).round() / 100.0;
            due.push(("demo:ticker", None, json!({ "n": self.numbers[1], "t": now_ms, "price": price })));
        }
        if self.is_due(2, now_ms, 5000) {
            let text = CHAT[self.rng.usize(..CHAT.len())];
            due.push(("demo:chat", Some("message"), json!({ "n": self.numbers[2], "t": now_ms, "text": text })));
        }
        due
    }

    fn is_due(&mut self, index: usize, now_ms: u64, every_ms: u64) -> bool {
        if now_ms < self.due[index] {
            return false;
        }
        self.due[index] = now_ms + every_ms;
        self.numbers[index] += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_counts_without_holes() {
        let mut publisher = Publisher::new(1, 0);
        let mut clock = Vec::new();
        for now in (0..10_000).step_by(100) {
            for (channel, _, data) in publisher.due(now) {
                if channel == "demo:clock" {
                    clock.push(data["n"].as_u64().unwrap());
                }
            }
        }
        assert_eq!(clock, (1..=10).collect::<Vec<_>>());
    }
}
