//! Publishers as records of a hand-over, and back.

use std::os::fd::OwnedFd;

use crate::logic::handover::feeds as record;
use crate::logic::protocol::feed::LineSplitter;

use super::super::answers::{Answers, Later};
use super::super::outbox::Outbox;
use super::super::roles::Role;
use super::super::watch::Want;
use super::{Input, Output, Publishers};

impl Publishers {
    /// The numbers of all publishers but the server's own connections.
    pub(in crate::hub) fn numbers(&self) -> Vec<usize> {
        self.list.iter().filter(|(_, publisher)| publisher.role != Role::Own).map(|(number, _)| number).collect()
    }

    /// Writes a publisher's answers that have waited for shards, as [`Publishers::send`] does.
    pub(in crate::hub) fn settle(&mut self, number: usize, write: impl FnMut(&Later, &mut Vec<u8>) -> bool) {
        if let Some(publisher) = self.list.get_mut(number) {
            publisher.answers.settle(write);
            self.recount(number);
            self.mark_unsent(number);
        }
    }

    /// A publisher as a record for a successor.
    pub(in crate::hub) fn record(&self, number: usize) -> Option<record::Publisher> {
        let publisher = self.list.get(number)?;
        let (input, is_skipping) = publisher.lines.rest();
        let (outbox, owed, lost) = publisher.outbox.parts();
        let owed = owed.map(|(end, number)| record::Owed { end, number: number as u64 });
        Some(record::Publisher {
            is_reader: publisher.role == Role::Reader,
            has_ended: publisher.input == Input::Ended,
            is_deaf: publisher.output == Output::Refused,
            input: input.to_vec(),
            is_skipping,
            outbox: outbox.to_vec(),
            owed: owed.collect(),
            lost,
            answers: publisher.answers.settled().to_vec(),
            is_told: publisher.is_told,
            traces: Vec::new(),
        })
    }

    /// Adds a publisher of a predecessor, with the clients' messages in its outbox; returns its number.
    pub(in crate::hub) fn restore(
        &mut self,
        socket: OwnedFd,
        role: Role,
        record: record::Publisher,
        owed: Vec<(u64, usize)>,
        wants: &mut Vec<Want>,
    ) -> usize {
        let number = self.open(socket, role, wants);
        let lines = LineSplitter::with_rest(self.line_bytes_max, record.input, record.is_skipping);
        if let Some(publisher) = self.list.get_mut(number) {
            publisher.lines = lines;
            publisher.is_told = record.is_told;
            publisher.outbox = Outbox::of_parts(record.outbox, owed, record.lost);
            publisher.answers = Answers::of_settled(record.answers);
            publisher.input = if record.has_ended { Input::Ended } else { Input::Lines { more: true } };
            if record.is_deaf {
                publisher.output = Output::Refused;
            }
        }
        self.runnable.push_back(number);
        self.recount(number);
        self.mark_unsent(number);
        number
    }
}
