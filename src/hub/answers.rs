//! Answers to one publisher, in the order of its lines.
//!
//! An answer that waits for the shards holds back the answers after it. The lines after it are carried out meanwhile, as
//! long as few answers are held back.

use std::collections::VecDeque;

use serde_json::value::RawValue;

/// Bytes of answers beyond which no further line of the publisher is carried out.
pub(super) const ANSWERS_BYTES_MAX: usize = 256 * 1024;
/// Answers of one publisher that wait for shards at the same time, at most.
const QUESTIONS_MAX: usize = 16;
/// Answers of one publisher that wait for the log at the same time, at most.
const TICKETS_MAX: usize = 16 * 1024;

/// The event after which an answer can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The shards have answered the question of this number.
    Question(u64),
    /// The entries of the ticket of this number were read back from the log.
    Ticket(u64),
}

/// The form of the answer to a line that waited for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The id of the one event.
    Id,
    /// A list of ids.
    Ids,
    /// Only that it is done.
    Done,
}

/// An answer that can be written later.
#[derive(Debug)]
pub(super) struct Later {
    /// The event after which it can be written.
    pub(super) awaited: Awaited,
    /// The line's `ref`. A line without one is answered only if it is refused.
    pub(super) reference: Option<Box<RawValue>>,
    /// The form, for an answer that waits for the log.
    pub(super) form: Form,
}

/// The answers that are not in the publisher's outbox yet.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Answers that nothing holds back.
    ready: Vec<u8>,
    /// Answers that wait for shards, each with the bytes of the answers that it holds back.
    later: VecDeque<(Later, Vec<u8>)>,
    /// The number of answers that wait for the log.
    tickets: usize,
}

impl Answers {
    /// The buffer that the answer to the next line is to be appended to.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        match self.later.back_mut() {
            Some((_, after)) => after,
            None => &mut self.ready,
        }
    }

    /// Appends an answer that waits for the shards or the log.
    pub(super) fn push_later(&mut self, later: Later) {
        self.tickets += usize::from(matches!(later.awaited, Awaited::Ticket(_)));
        self.later.push_back((later, Vec::new()));
    }

    /// The bytes of all answers that wait.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.later.iter().map(|(_, after)| after.len()).sum::<usize>()
    }

    /// Whether so many answers wait that no further line is to be carried out.
    pub(super) fn is_full(&self) -> bool {
        let questions = self.later.len() - self.tickets;
        questions >= QUESTIONS_MAX || self.tickets >= TICKETS_MAX || self.len() >= ANSWERS_BYTES_MAX
    }

    /// Whether answers wait for the log.
    pub(super) fn await_log(&self) -> bool {
        self.tickets > 0
    }

    /// Whether no answer waits.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.later.is_empty()
    }

    /// Writes answers that have waited for shards, up to the first one for which `write` returns that it still waits.
    pub(super) fn settle(&mut self, mut write: impl FnMut(&Later, &mut Vec<u8>) -> bool) {
        while let Some((later, _)) = self.later.front() {
            if !write(later, &mut self.ready) {
                return;
            }
            if let Some((later, mut after)) = self.later.pop_front() {
                self.tickets -= usize::from(matches!(later.awaited, Awaited::Ticket(_)));
                self.ready.append(&mut after);
            }
        }
    }

    /// The answers that nothing holds back.
    pub(super) fn settled(&self) -> &[u8] {
        &self.ready
    }

    /// Answers of which nothing holds back any.
    pub(super) fn of_settled(ready: Vec<u8>) -> Answers {
        Answers { ready, ..Answers::default() }
    }

    /// The answers that can be sent.
    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    /// What answers wait for.
    pub(super) fn awaited(&self) -> impl Iterator<Item = Awaited> {
        self.later.iter().map(|(later, _)| later.awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(question: u64) -> Later {
        Later { awaited: Awaited::Question(question), reference: None, form: Form::Done }
    }

    #[test]
    fn answers_keep_the_order_of_lines_whichever_question_is_answered_first() {
        let mut answers = Answers::default();
        answers.tail().extend_from_slice(b"1 ");
        answers.push_later(later(2));
        answers.tail().extend_from_slice(b"3 ");
        answers.push_later(later(4));
        answers.tail().extend_from_slice(b"5 ");
        assert_eq!(answers.ready(), b"1 ");
        let answered = |known: &'static [u64]| {
            move |later: &Later, out: &mut Vec<u8>| {
                let Awaited::Question(number) = later.awaited else { return false };
                let is_known = known.contains(&number);
                if is_known {
                    out.extend_from_slice(format!("{number} ").as_bytes());
                }
                is_known
            }
        };
        answers.settle(answered(&[4]));
        assert_eq!(answers.ready(), b"1 ", "the second question waits for the first");
        assert_eq!(answers.awaited().collect::<Vec<_>>(), [2, 4].map(Awaited::Question));
        answers.settle(answered(&[2]));
        assert_eq!(answers.ready(), b"1 2 3 ");
        answers.settle(answered(&[4]));
        assert_eq!(answers.ready(), b"1 2 3 4 5 ");
        answers.ready().clear();
        assert!(answers.is_empty());
    }

    #[test]
    fn answers_that_wait_are_bounded_in_bytes_and_in_questions() {
        let mut answers = Answers::default();
        answers.tail().extend_from_slice(&[0; ANSWERS_BYTES_MAX / 2]);
        answers.push_later(later(1));
        answers.tail().extend_from_slice(&[0; ANSWERS_BYTES_MAX / 2 - 1]);
        assert!(!answers.is_full());
        answers.tail().push(0);
        assert!(answers.is_full(), "both sides of a question count");
        let mut answers = Answers::default();
        for question in 0..QUESTIONS_MAX as u64 {
            assert!(!answers.is_full());
            answers.push_later(later(question));
        }
        assert!(answers.is_full());
        let mut answers = Answers::default();
        for ticket in 0..TICKETS_MAX as u64 {
            assert!(!answers.is_full());
            answers.push_later(Later { awaited: Awaited::Ticket(ticket), ..later(0) });
        }
        assert!(answers.is_full() && answers.await_log(), "answers that wait for the log have a bound of their own");
        answers.settle(|_, _| true);
        assert!(!answers.is_full() && !answers.await_log() && answers.is_empty());
    }
}
