//! The outbox: bytes for one publisher that its socket has not taken yet.
//!
//! The bytes are answers and the lines of listeners and traces. A client's message is on its shard's account until every
//! listener's socket has taken it, so the outbox remembers behind which byte each message ends.

use std::collections::VecDeque;

use crate::logic::protocol::feed::Notice;

use super::answers::ANSWERS_BYTES_MAX;

/// Waiting bytes beyond which connects, disconnects and traced events are counted instead of added.
pub(super) const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// The bytes that wait for one publisher.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// The place in `bytes` of the first byte that was not sent.
    start: usize,
    /// Bytes sent since the connection began.
    sent: u64,
    /// Messages on shards' accounts: the value of `sent` at which the socket has taken each, and its number there.
    owed: VecDeque<(u64, usize)>,
    /// Lines that were left out after the last byte of `bytes`.
    lost: u64,
}

impl Outbox {
    /// The bytes that wait, the places where clients' messages end in them with the messages' numbers, and the number of lines
    /// that were left out after them.
    pub(super) fn parts(&self) -> (&[u8], impl Iterator<Item = (u64, usize)>, u64) {
        let owed = self.owed.iter().map(|(end, owed)| (end.saturating_sub(self.sent), *owed));
        (&self.bytes[self.start..], owed, self.lost)
    }

    /// An outbox of such parts.
    pub(super) fn of_parts(bytes: Vec<u8>, owed: Vec<(u64, usize)>, lost: u64) -> Outbox {
        Outbox { bytes, owed: owed.into(), lost, ..Outbox::default() }
    }

    /// The number of bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing waits to be sent: no byte, and no number of lines that were left out.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.lost == 0
    }

    /// Adds a line that must not be left out.
    pub(super) fn push(&mut self, line: &[u8]) {
        self.tell_lost();
        self.bytes.extend_from_slice(line);
    }

    /// Adds a client's message, whose number among the accounts is `owed`.
    pub(super) fn push_owed(&mut self, line: &[u8], owed: usize) {
        self.push(line);
        self.owed.push_back((self.sent + self.len() as u64, owed));
    }

    /// Adds a line, or counts it as left out where too many bytes wait: here, or for `all_are_full` in all outboxes together.
    pub(super) fn push_or_count(&mut self, line: &[u8], all_are_full: bool) {
        if self.len() + line.len() > OUTBOX_BYTES_MAX || all_are_full && !self.is_empty() {
            self.lost += 1;
        } else {
            self.push(line);
        }
    }

    /// Moves answers into the outbox, unless many bytes wait there.
    pub(super) fn take_answers(&mut self, answers: &mut Vec<u8>) {
        if self.len() > ANSWERS_BYTES_MAX {
            return;
        }
        self.tell_lost();
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, answers);
        } else {
            self.bytes.append(answers);
        }
    }

    /// Adds the line that says how many lines were left out, in their place.
    fn tell_lost(&mut self) {
        if self.lost > 0 {
            Notice::Lost { count: std::mem::take(&mut self.lost) }.write(&mut self.bytes);
        }
    }

    /// The bytes to send next.
    pub(super) fn unsent(&mut self) -> &[u8] {
        if self.len() < OUTBOX_BYTES_MAX {
            self.tell_lost();
        }
        &self.bytes[self.start..]
    }

    /// Notes that the socket has taken `count` bytes. `release` is called with the number of each message that is sent now.
    pub(super) fn advance(&mut self, count: usize, mut release: impl FnMut(usize)) {
        self.start += count;
        self.sent += count as u64;
        while let Some((_, owed)) = self.owed.pop_front_if(|(end, _)| *end <= self.sent) {
            release(owed);
        }
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(ANSWERS_BYTES_MAX);
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Drops everything that waits. `release` is called with the number of each message among it.
    pub(super) fn clear(&mut self, release: impl FnMut(usize)) {
        self.release_owed(release);
        *self = Outbox { sent: self.sent, ..Outbox::default() };
    }

    /// Takes all messages that wait off their shards' accounts; they are sent all the same.
    pub(super) fn release_owed(&mut self, release: impl FnMut(usize)) {
        self.owed.drain(..).map(|(_, owed)| owed).for_each(release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(outbox: &mut Outbox, count: usize) -> (Vec<u8>, Vec<usize>) {
        let sent = outbox.unsent()[..count].to_vec();
        let mut released = Vec::new();
        outbox.advance(count, |owed| released.push(owed));
        (sent, released)
    }

    #[test]
    fn a_message_is_on_account_until_its_last_byte_is_sent() {
        let mut outbox = Outbox::default();
        outbox.push(b"answer\n");
        outbox.push_owed(b"one\n", 1);
        outbox.push_owed(b"two\n", 2);
        assert_eq!(send(&mut outbox, 10), (b"answer\none".to_vec(), vec![]));
        outbox.push_owed(b"three\n", 3);
        assert_eq!(send(&mut outbox, 6), (b"\ntwo\nt".to_vec(), vec![1, 2]));
        let mut released = Vec::new();
        outbox.clear(|owed| released.push(owed));
        assert_eq!((released, outbox.is_empty()), (vec![3], true));
        outbox.push_owed(b"four\n", 4);
        assert_eq!(send(&mut outbox, 5), (b"four\n".to_vec(), vec![4]));
    }

    #[test]
    fn lines_that_may_be_left_out_are_bounded_and_counted_where_they_would_have_stood() {
        let mut outbox = Outbox::default();
        outbox.push(&vec![b'x'; OUTBOX_BYTES_MAX]);
        outbox.push_or_count(b"lost\n", false);
        outbox.push_or_count(b"lost\n", false);
        assert_eq!(outbox.len(), OUTBOX_BYTES_MAX);
        outbox.push(b"an answer\n");
        send(&mut outbox, OUTBOX_BYTES_MAX);
        outbox.push_or_count(b"told\n", false);
        let expected = b"{\"op\":\"lost\",\"count\":2}\nan answer\ntold\n";
        assert_eq!(outbox.unsent(), expected);
        send(&mut outbox, expected.len());
        assert!(outbox.is_empty());
    }

    #[test]
    fn lines_left_out_are_told_of_even_if_nothing_comes_after_them() {
        let mut outbox = Outbox::default();
        outbox.push(&vec![b'x'; OUTBOX_BYTES_MAX]);
        outbox.push_or_count(b"lost\n", false);
        assert_eq!(outbox.unsent().len(), OUTBOX_BYTES_MAX, "a full outbox is not made longer");
        send(&mut outbox, OUTBOX_BYTES_MAX);
        assert!(!outbox.is_empty());
        assert_eq!(outbox.unsent(), b"{\"op\":\"lost\",\"count\":1}\n");
    }

    #[test]
    fn while_all_outboxes_together_are_full_a_line_is_added_only_where_none_waits() {
        let mut outbox = Outbox::default();
        outbox.push_or_count(b"one\n", true);
        outbox.push_or_count(b"two\n", true);
        assert_eq!(send(&mut outbox, 4).0, b"one\n");
        assert_eq!(outbox.unsent(), b"{\"op\":\"lost\",\"count\":1}\n");
    }

    #[test]
    fn answers_wait_while_many_bytes_do() {
        let mut outbox = Outbox::default();
        let mut answers = vec![b'a'; ANSWERS_BYTES_MAX + 1];
        outbox.take_answers(&mut answers);
        assert!(answers.is_empty());
        answers.push(b'b');
        outbox.take_answers(&mut answers);
        assert_eq!(answers, b"b");
        send(&mut outbox, 1);
        outbox.take_answers(&mut answers);
        assert!(answers.is_empty());
        assert_eq!(outbox.len(), ANSWERS_BYTES_MAX + 1);
        assert_eq!(outbox.unsent().last(), Some(&b'b'));
    }
}
