//! What visitors say and ask: messages of WebSocket clients, which the demo hears as a backend does and answers within bounds.

use std::collections::HashMap;
use std::sync::mpsc::Sender;

use serde_json::json;

use crate::feed::client::{FeedClient, FeedError};
use crate::logic::rate;
use crate::sys::clock::unix_ms;

/// The longest line, in characters.
const LENGTH_MAX: usize = 200;
/// How many lines a visitor may say at once.
const BURST: u64 = 5;
/// The time after which a visitor may say one more.
const EACH_MS: u64 = 2000;
/// The same for all visitors together, who share the page's list.
const BURST_OF_ALL: u64 = 20;
const EACH_OF_ALL_MS: u64 = 100;
/// Visitors that are remembered before those who have their whole burst again are forgotten.
const VISITORS_TIDIED: usize = 1000;

/// A bound on a rate, kept as the time until which it is used up.
#[derive(Clone, Copy, Default)]
struct Rate {
    due_ms: u64,
}

impl Rate {
    /// Takes one of `burst` lines, of which another one comes back every `each_ms`, if one is left.
    fn take(&mut self, now_ms: u64, burst: u64, each_ms: u64) -> bool {
        let taken = rate::take(self.due_ms, now_ms, each_ms, burst * each_ms);
        self.due_ms = taken.unwrap_or(self.due_ms);
        taken.is_ok()
    }
}

/// What the thread that publishes is to do for a visitor.
pub(super) enum Wish {
    /// Publish a line of the chat.
    Line(String),
    /// Answer a question of this connection.
    Answer { conn: String, question: String },
    /// End the answer on this channel.
    Cancel(String),
}

/// The ear of the demo.
pub(super) struct Chat {
    /// The way to the thread that publishes.
    wishes: Sender<Wish>,
    all: Rate,
    /// The rate of refusals. Further ones are not told, so that a flood of lines cannot fill the connection to the feed with
    /// answers while this thread does not read.
    refusals: Rate,
    /// The rates of visitors, by the names of their connections.
    visitors: HashMap<String, Rate>,
}

impl Chat {
    pub(super) fn new(wishes: Sender<Wish>) -> Chat {
        Chat { wishes, all: Rate::default(), refusals: Rate::default(), visitors: HashMap::new() }
    }

    /// Listens until the connection to the feed ends.
    pub(super) fn run(&mut self, feed: &mut FeedClient) -> Result<(), FeedError> {
        feed.call(json!({ "op": "listen", "what": ["messages"] }))?;
        feed.wait_for_ever()?;
        loop {
            let line = feed.receive()?;
            let Some(conn) = line["conn"].as_str() else { continue };
            let data = &line["data"];
            if let Some(channel) = data["cancel"].as_str() {
                let _ = self.wishes.send(Wish::Cancel(channel.into()));
            }
            // Messages without a line for the chat or a question are another backend's.
            let (Some(text), is_line) = (data["chat"].as_str().or(data["ask"].as_str()), data["ask"].is_null()) else {
                continue;
            };
            let now_ms = unix_ms();
            let answer = match self.judge(conn, text, now_ms) {
                Ok(question) if !is_line => {
                    let _ = self.wishes.send(Wish::Answer { conn: conn.into(), question });
                    continue;
                }
                Ok(text) => {
                    let _ = self.wishes.send(Wish::Line(text));
                    json!({ "chat": "said" })
                }
                Err(_) if !self.refusals.take(now_ms, BURST_OF_ALL, EACH_OF_ALL_MS) => continue,
                Err(message) => json!({ "chat": "refused", "message": message }),
            };
            feed.send(json!({ "op": "send", "conn": conn, "data": answer }))?;
        }
    }

    /// The line to publish.
    ///
    /// # Errors
    /// A sentence for the visitor, if the line is empty, too long, or comes too fast.
    fn judge(&mut self, conn: &str, text: &str, now_ms: u64) -> Result<String, String> {
        let text: String = text.trim().chars().filter(|char| !char.is_control()).take(LENGTH_MAX + 1).collect();
        if text.is_empty() {
            return Err("there is nothing to say".into());
        }
        if text.chars().count() > LENGTH_MAX {
            return Err(format!("a line has at most {LENGTH_MAX} characters"));
        }
        if self.visitors.len() >= VISITORS_TIDIED {
            self.visitors.retain(|_, rate| rate.due_ms > now_ms);
        }
        let mut own = self.visitors.get(conn).copied().unwrap_or_default();
        if !own.take(now_ms, BURST, EACH_MS) || !self.all.take(now_ms, BURST_OF_ALL, EACH_OF_ALL_MS) {
            return Err("that is too fast: wait a few seconds".into());
        }
        // Only visitors whose lines are published are remembered, so that the rate of all bounds the memory.
        self.visitors.insert(conn.to_owned(), own);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Chat {
        Chat::new(std::sync::mpsc::channel().0)
    }

    #[test]
    fn lines_are_bounded_and_cleaned() {
        let mut chat = chat();
        assert_eq!(chat.judge("0.0.1", " hi\u{7}\n there ", 0).unwrap(), "hi there");
        let longest = "ü".repeat(LENGTH_MAX);
        assert_eq!(chat.judge("0.0.1", &longest, 0).unwrap(), longest);
        assert!(chat.judge("0.0.1", &(longest + "x"), 0).unwrap_err().contains("200"));
        assert!(chat.judge("0.0.1", " \n", 0).is_err());
    }

    #[test]
    fn each_visitor_and_all_together_have_a_rate() {
        let mut chat = chat();
        let said =
            |chat: &mut Chat, conn: &str, now_ms| (0..100).filter(|_| chat.judge(conn, "x", now_ms).is_ok()).count();
        for conn in ["0.0.1", "0.1.1", "0.2.1", "0.3.1"] {
            assert_eq!(said(&mut chat, conn, 1_000_000), 5);
        }
        assert_eq!((said(&mut chat, "0.4.1", 1_000_000), chat.visitors.len()), (0, 4));
        let next = |number: u64| 1_000_000 + (number + 1) * BURST_OF_ALL * EACH_OF_ALL_MS;
        assert_eq!((said(&mut chat, "0.0.1", next(0)), said(&mut chat, "0.4.1", next(0))), (1, 5));
        // Visitors who are silent are forgotten.
        for number in 0..2 * VISITORS_TIDIED as u64 {
            assert!(chat.judge(&format!("0.{number}.2"), "x", next(number)).is_ok());
        }
        assert!(chat.visitors.len() <= VISITORS_TIDIED);
    }
}
