//! Answers to visitors, streamed word by word as those of a language model are. Their text is made up.

use std::collections::VecDeque;

use serde_json::json;

use crate::feed::client::{FeedClient, FeedError};

/// The most answers under way. A further question ends the oldest one.
const ANSWERS_MAX: usize = 20;
/// The time between two words, in milliseconds.
const EACH_MS: u64 = 100;

/// What follows the question in each answer.
const TEXT: &str = "That is a good question. These words are published one by one on a channel of their own, and the channel's end ends the \
    loop that reads them. Cut the network meanwhile: the stream goes on with the next word, because each word has an id.";

/// The words of an answer that are still to be published.
struct Answer {
    channel: String,
    words: VecDeque<String>,
}

/// The answers under way, the oldest first.
#[derive(Default)]
pub(super) struct Answers {
    under_way: VecDeque<Answer>,
    begun: u64,
    due_ms: u64,
}

impl Answers {
    /// Begins an answer on a channel of its own, whose name has the `run` of the publisher, and tells the visitor the channel
    /// and the position before the first word.
    ///
    /// # Errors
    /// If the connection to the feed breaks.
    pub(super) fn begin(
        &mut self,
        feed: &mut FeedClient,
        run: &str,
        conn: &str,
        question: &str,
    ) -> Result<(), FeedError> {
        if self.under_way.len() >= ANSWERS_MAX
            && let Some(oldest) = self.under_way.pop_front()
        {
            end(feed, &oldest.channel)?;
        }
        self.begun += 1;
        let channel = format!("demo:answer-{run}-{}", self.begun);
        let asked = feed.call(json!({ "op": "publish", "channel": channel, "event": "prompt", "data": question }))?;
        let told = json!({ "answer": channel, "after": asked["id"] });
        match feed.call(json!({ "op": "send", "conn": conn, "data": told })) {
            // The visitor has gone.
            Err(FeedError::Refused { .. }) => return end(feed, &channel),
            sent => sent?,
        };
        self.under_way.push_back(Answer { channel, words: words(question) });
        Ok(())
    }

    /// Ends an answer that the visitor wants no more of.
    ///
    /// # Errors
    /// If the connection to the feed breaks.
    pub(super) fn cancel(&mut self, feed: &mut FeedClient, channel: &str) -> Result<(), FeedError> {
        match self.under_way.iter().position(|answer| answer.channel == channel) {
            Some(place) => {
                self.under_way.remove(place);
                end(feed, channel)
            }
            None => Ok(()),
        }
    }

    /// Publishes the next word of each answer, if it is due.
    ///
    /// # Errors
    /// If the connection to the feed breaks.
    pub(super) fn step(&mut self, feed: &mut FeedClient, now_ms: u64) -> Result<(), FeedError> {
        if now_ms < self.due_ms {
            return Ok(());
        }
        self.due_ms = now_ms + EACH_MS;
        for answer in &mut self.under_way {
            if let Some(word) = answer.words.pop_front() {
                feed.call(json!({ "op": "publish", "channel": answer.channel, "data": word }))?;
            }
            if answer.words.is_empty() {
                end(feed, &answer.channel)?;
            }
        }
        self.under_way.retain(|answer| !answer.words.is_empty());
        Ok(())
    }
}

/// Ends a channel.
fn end(feed: &mut FeedClient, channel: &str) -> Result<(), FeedError> {
    feed.call(json!({ "op": "end", "channel": channel })).map(drop)
}

/// The words of an answer, each with the space before it.
fn words(question: &str) -> VecDeque<String> {
    let text = format!("You ask: “{question}” {TEXT}");
    text.split_whitespace()
        .enumerate()
        .map(|(place, word)| if place == 0 { word.into() } else { format!(" {word}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_make_the_text_again() {
        let all: String = words("why  so").into_iter().collect();
        assert_eq!(all, format!("You ask: “why so” {TEXT}"));
    }
}
