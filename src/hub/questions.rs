//! Questions of the hub to all shards: to end connections and count them, or to show channels and connections. The
//! shards' answers are put together to one.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use crate::link::Seen;
use crate::logic::protocol::feed::{Ended, FeedError, write_error, write_members};

use super::looks::View;

/// How long shards may take to answer. After that the answer is put together without the missing ones.
const SHARDS_ANSWER_MAX: Duration = Duration::from_secs(5);

/// The sum of the shards' answers to a question.
#[derive(Debug)]
pub(super) enum Gathered {
    /// The kind of the answer, and how many connections or subscriptions were ended.
    Ended(fn(u64) -> Ended, u64),
    /// A view of channels or connections.
    Seen(View),
    /// The question could not be put to the other nodes.
    Failed(FeedError),
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Question {
    /// The number of the publisher whose command asks the question.
    asker: usize,
    /// The number of shards that have not answered.
    missing: usize,
    /// Whether the shards' time is up.
    is_overdue: bool,
    gathered: Gathered,
}

impl Question {
    fn is_answered(&self) -> bool {
        self.missing == 0 || self.is_overdue
    }
}

/// All questions that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// The number of the newest question. No number is used again, because an answer may come after its question's time.
    newest: u64,
    open: HashMap<u64, Question>,
    /// When each question's time is up, in the order of the questions.
    deadlines: VecDeque<(Instant, u64)>,
}

impl Questions {
    /// The number for a new question.
    pub(super) fn number(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// The number of the newest question.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Goes on after a predecessor's newest question.
    pub(super) fn restore(&mut self, newest: u64) {
        self.newest = newest;
    }

    /// Begins to wait for the answers of `shards` shards to a question of the publisher `asker`.
    pub(super) fn wait(&mut self, number: u64, asker: usize, shards: usize, gathered: Gathered, now: Instant) {
        self.open.insert(number, Question { asker, missing: shards, is_overdue: false, gathered });
        self.deadlines.push_back((now + SHARDS_ANSWER_MAX, number));
    }

    /// Takes a shard's answer: so many connections or subscriptions were ended. Returns the asker if no answer is missing
    /// any more.
    pub(super) fn ended(&mut self, number: u64, count: u64) -> Option<usize> {
        self.answered(number, |gathered| {
            if let Gathered::Ended(_, sum) = gathered {
                *sum += count;
            }
        })
    }

    /// Takes a shard's answer: what it shows. Returns the asker if no answer is missing any more.
    pub(super) fn seen(&mut self, number: u64, seen: Seen) -> Option<usize> {
        self.answered(number, |gathered| {
            if let Gathered::Seen(view) = gathered {
                view.add(seen);
            }
        })
    }

    /// Ends a question that could not be put to the other nodes. Returns the asker.
    pub(super) fn fail(&mut self, number: u64, error: FeedError) -> Option<usize> {
        let question = self.open.get_mut(&number)?;
        question.gathered = Gathered::Failed(error);
        question.is_overdue = true;
        Some(question.asker)
    }

    fn answered(&mut self, number: u64, add: impl FnOnce(&mut Gathered)) -> Option<usize> {
        let question = self.open.get_mut(&number)?;
        add(&mut question.gathered);
        question.missing = question.missing.saturating_sub(1);
        question.is_answered().then_some(question.asker)
    }

    /// Ends the wait of one question whose time is up, and returns its asker.
    pub(super) fn expire(&mut self, now: Instant) -> Option<usize> {
        while let Some((deadline, number)) = self.deadlines.front() {
            let question = self.open.get_mut(number).filter(|question| !question.is_answered());
            if question.is_some() && *deadline > now {
                return None;
            }
            let asker = question.map(|question| {
                question.is_overdue = true;
                question.asker
            });
            self.deadlines.pop_front();
            if asker.is_some() {
                return asker;
            }
        }
        None
    }

    /// When [`Questions::expire`] must be called next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Appends the answer to a question whose wait is over. Returns whether it is.
    pub(super) fn write(&mut self, number: u64, reference: &RawValue, out: &mut Vec<u8>) -> bool {
        if self.open.get(&number).is_some_and(|question| !question.is_answered()) {
            return false;
        }
        match self.open.remove(&number).map(|question| question.gathered) {
            Some(Gathered::Ended(what, count)) => write_members(out, reference, &what(count)),
            Some(Gathered::Seen(view)) => view.write(reference, out),
            Some(Gathered::Failed(error)) => write_error(out, Some(reference), &error),
            None => {}
        }
        true
    }

    /// Drops a question whose asker has gone.
    pub(super) fn forget(&mut self, number: u64) {
        self.open.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(questions: &mut Questions, asker: usize, now: Instant) -> u64 {
        let number = questions.number();
        questions.wait(number, asker, 2, Gathered::Ended(Ended::Kicked, 0), now);
        number
    }

    fn written(questions: &mut Questions, number: u64) -> Option<String> {
        let mut out = Vec::new();
        questions.write(number, RawValue::NULL, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn answers_are_added_up_until_all_shards_have_answered() {
        let mut questions = Questions::default();
        let now = Instant::now();
        let (one, two) = (ask(&mut questions, 7, now), ask(&mut questions, 8, now));
        assert_eq!(questions.ended(one, 2), None);
        assert_eq!(written(&mut questions, one), None);
        assert_eq!(questions.ended(two, 1), None);
        assert_eq!(questions.ended(one, 3), Some(7));
        assert_eq!(written(&mut questions, one).unwrap(), "{\"ref\":null,\"ok\":true,\"kicked\":5}\n");
        questions.forget(two);
        assert_eq!(questions.ended(two, 3), None, "nobody waits for it");
    }

    #[test]
    fn after_five_seconds_the_answer_is_made_of_what_there_is() {
        let mut questions = Questions::default();
        let now = Instant::now();
        let in_time = ask(&mut questions, 1, now);
        let late = ask(&mut questions, 2, now + Duration::from_secs(1));
        questions.ended(in_time, 1);
        questions.ended(in_time, 1);
        questions.ended(late, 1);
        assert_eq!(questions.expire(now + Duration::from_millis(5_999)), None);
        assert_eq!(questions.deadline(), Some(now + Duration::from_secs(6)), "the answered one is not waited for");
        assert_eq!(written(&mut questions, late), None);
        assert_eq!(questions.expire(now + Duration::from_secs(6)), Some(2));
        assert_eq!((questions.expire(now + Duration::from_secs(9)), questions.deadline()), (None, None));
        assert!(written(&mut questions, late).unwrap().contains("\"kicked\":1"));
        assert!(written(&mut questions, in_time).unwrap().contains("\"kicked\":2"));
        assert!(questions.open.is_empty());
    }
}
