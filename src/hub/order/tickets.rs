//! Tickets: answers that wait until entries were read back from the log.

use std::collections::VecDeque;

use arcstr::ArcStr;

use crate::link::ConnectionId;
use crate::logic::event::ChannelName;
use crate::logic::id::Id;
use crate::logic::protocol::feed::FeedError;

/// The receiver of a ticket's outcome.
#[derive(Clone, Debug)]
pub(in crate::hub) enum Whom {
    /// The publisher of that number, whose answers have a place for it.
    Publisher(usize),
    /// A client that has published.
    Client {
        /// The client's connection.
        connection: ConnectionId,
        /// The client's reference, if it asks for an answer.
        reference: Option<Box<str>>,
        /// The bytes that the publish counts for on its shard's account.
        bytes: usize,
    },
    /// A user on a channel, whose coming or going the entry tells.
    Presence(ChannelName, ArcStr),
    /// The question of this number, which the entry puts to all nodes.
    Question(u64),
    /// The hub itself.
    Hub,
}

/// The outcome of a ticket: the ids of its entries, or the error of the first one that is not in the log.
pub(in crate::hub) type Outcome = Result<Vec<Id>, FeedError>;

/// A ticket whose entries are all settled.
#[derive(Debug)]
pub(in crate::hub) struct Settled {
    pub(in crate::hub) whom: Whom,
    pub(in crate::hub) ticket: u64,
}

#[derive(Debug)]
struct Ticket {
    whom: Whom,
    /// The ids in the order of the entries; [`Id::ZERO`] for those that are not known.
    ids: Vec<Id>,
    missing: u32,
    error: Option<FeedError>,
    /// Whether nothing asks for the outcome any more.
    is_done: bool,
}

/// An entry that is not settled yet.
#[derive(Debug)]
struct Open {
    ticket: u64,
    place: u32,
    weight: u32,
    /// The id that the entry's publish is answered with, once it was read back.
    id: Option<Id>,
    is_settled: bool,
}

/// All tickets and entries that are not settled, both by numbers without a hole.
#[derive(Debug)]
pub(in crate::hub) struct Tickets {
    tickets: VecDeque<Ticket>,
    /// The number of the first ticket in the queue.
    first_ticket: u64,
    open: VecDeque<Open>,
    /// The number of the first entry in the queue.
    first_open: u64,
    pending_bytes: usize,
    /// The number up to which replicas have confirmed entries; `u64::MAX` if none are asked for.
    confirmed: u64,
    settled: VecDeque<Settled>,
}

impl Tickets {
    pub(super) fn new(needs_confirmation: bool) -> Tickets {
        Tickets {
            tickets: VecDeque::new(),
            first_ticket: 0,
            open: VecDeque::new(),
            // Numbers begin at 1, so that 0 stands for no confirmed entry.
            first_open: 1,
            pending_bytes: 0,
            confirmed: if needs_confirmation { 0 } else { u64::MAX },
            settled: VecDeque::new(),
        }
    }

    /// The bytes of entries that are not settled.
    pub(in crate::hub) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Opens a ticket for entries of these weights. Returns its number, and that of its first entry.
    pub(super) fn open(&mut self, whom: Whom, weights: impl ExactSizeIterator<Item = u32>) -> (u64, u64) {
        let ticket = self.first_ticket + self.tickets.len() as u64;
        let first = self.first_open + self.open.len() as u64;
        let count = weights.len();
        for (place, weight) in weights.enumerate() {
            self.pending_bytes += weight as usize;
            self.open.push_back(Open { ticket, place: place as u32, weight, id: None, is_settled: false });
        }
        let ids = vec![Id::ZERO; count];
        self.tickets.push_back(Ticket { whom, ids, missing: count as u32, error: None, is_done: false });
        (ticket, first)
    }

    /// Notes that an entry was read back; its publish is answered with `id`.
    pub(in crate::hub) fn read_back(&mut self, number: u64, id: Id) {
        let Some(open) = self.entry(number) else { return };
        open.id = Some(id);
        if number <= self.confirmed {
            self.settle(number, Ok(id));
        }
    }

    /// Notes that an entry is not in the log, or may not be, or that every node refuses it.
    pub(in crate::hub) fn refuse(&mut self, number: u64, error: FeedError) {
        self.settle(number, Err(error));
    }

    /// Notes that replicas have confirmed all entries up to a number.
    pub(in crate::hub) fn confirm(&mut self, number: u64) {
        let before = self.confirmed;
        self.confirmed = before.max(number);
        let known = self.first_open + self.open.len() as u64;
        for number in self.first_open.max(before.saturating_add(1))..=number.min(known.saturating_sub(1)) {
            if let Some(id) = self.entry(number).and_then(|open| open.id) {
                self.settle(number, Ok(id));
            }
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Open> {
        let place = number.checked_sub(self.first_open)?;
        self.open.get_mut(usize::try_from(place).ok()?).filter(|open| !open.is_settled)
    }

    fn settle(&mut self, number: u64, outcome: Result<Id, FeedError>) {
        let Some(open) = self.entry(number) else { return };
        open.is_settled = true;
        let Open { ticket, place, weight, .. } = *open;
        self.pending_bytes -= weight as usize;
        while self.open.front().is_some_and(|open| open.is_settled) {
            self.open.pop_front();
            self.first_open += 1;
        }
        let Some(state) = self.tickets.get_mut((ticket - self.first_ticket) as usize) else { return };
        match outcome {
            Ok(id) => state.ids[place as usize] = id,
            Err(error) => state.error = state.error.take().or(Some(error)),
        }
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        if state.is_done {
            self.drop_done();
        } else {
            self.settled.push_back(Settled { whom: state.whom.clone(), ticket });
        }
    }

    /// The next ticket that has become settled, in the order in which tickets did.
    pub(in crate::hub) fn next_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    /// Whether a ticket is settled.
    pub(in crate::hub) fn is_settled(&self, ticket: u64) -> bool {
        let place = ticket.checked_sub(self.first_ticket).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.tickets.get(place)).is_none_or(|ticket| ticket.missing == 0)
    }

    /// Takes the outcome of a settled ticket.
    pub(in crate::hub) fn take(&mut self, ticket: u64) -> Option<Outcome> {
        let place = usize::try_from(ticket.checked_sub(self.first_ticket)?).ok()?;
        let state = self.tickets.get_mut(place).filter(|state| state.missing == 0 && !state.is_done)?;
        state.is_done = true;
        let outcome = match state.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut state.ids)),
        };
        self.drop_done();
        Some(outcome)
    }

    /// Forgets the receiver of a ticket, because it has gone.
    pub(in crate::hub) fn forget(&mut self, ticket: u64) {
        let place = ticket.checked_sub(self.first_ticket).and_then(|place| usize::try_from(place).ok());
        if let Some(state) = place.and_then(|place| self.tickets.get_mut(place)) {
            state.is_done = true;
        }
        self.drop_done();
    }

    fn drop_done(&mut self) {
        while self.tickets.front().is_some_and(|ticket| ticket.is_done && ticket.missing == 0) {
            self.tickets.pop_front();
            self.first_ticket += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> Id {
        Id::new(ms, 0)
    }

    fn settled(tickets: &mut Tickets) -> Vec<u64> {
        std::iter::from_fn(|| tickets.next_settled()).map(|settled| settled.ticket).collect()
    }

    #[test]
    fn a_ticket_is_settled_when_all_its_entries_were_read_back() {
        let mut tickets = Tickets::new(false);
        assert_eq!(tickets.open(Whom::Hub, [10, 20].into_iter()), (0, 1));
        assert_eq!(tickets.open(Whom::Hub, [5].into_iter()), (1, 3));
        assert_eq!(tickets.pending_bytes(), 35);
        tickets.confirm(2);
        assert_eq!(settled(&mut tickets).len(), 0, "a confirmation that was not asked for means nothing");
        tickets.read_back(1, id(1));
        assert!(!tickets.is_settled(0));
        assert!(settled(&mut tickets).is_empty());
        tickets.read_back(3, id(3));
        tickets.read_back(2, id(2));
        assert_eq!((settled(&mut tickets), tickets.pending_bytes()), (vec![1, 0], 0));
        assert_eq!(tickets.take(1), Some(Ok(vec![id(3)])));
        assert_eq!(tickets.take(0), Some(Ok(vec![id(1), id(2)])));
        assert_eq!((tickets.take(0), tickets.take(7)), (None, None));
        assert_eq!(tickets.open(Whom::Hub, [1].into_iter()), (2, 4), "numbers are not used again");
    }

    #[test]
    fn a_refused_entry_fails_its_ticket_and_no_other() {
        let mut tickets = Tickets::new(false);
        tickets.open(Whom::Hub, [1, 1].into_iter());
        tickets.open(Whom::Hub, [1].into_iter());
        let error = FeedError::new("unavailable", "no");
        tickets.read_back(1, id(1));
        tickets.refuse(2, error.clone());
        tickets.refuse(2, FeedError::new("unsure", "later"));
        tickets.read_back(2, id(2));
        tickets.read_back(3, id(3));
        assert_eq!(settled(&mut tickets), [0, 1]);
        assert_eq!((tickets.take(0), tickets.take(1)), (Some(Err(error)), Some(Ok(vec![id(3)]))));
    }

    #[test]
    fn an_entry_counts_only_when_replicas_have_it_and_it_was_read() {
        let mut tickets = Tickets::new(true);
        for _ in 0..3 {
            tickets.open(Whom::Hub, [1].into_iter());
        }
        tickets.read_back(1, id(1));
        tickets.read_back(2, id(2));
        assert!(settled(&mut tickets).is_empty());
        tickets.confirm(1);
        assert_eq!(settled(&mut tickets), [0]);
        tickets.confirm(3);
        assert_eq!(settled(&mut tickets), [1]);
        tickets.read_back(3, id(3));
        assert_eq!(settled(&mut tickets), [2]);
    }

    #[test]
    fn a_forgotten_ticket_leaves_nothing_behind() {
        let mut tickets = Tickets::new(false);
        tickets.open(Whom::Publisher(1), [1].into_iter());
        tickets.forget(0);
        tickets.read_back(1, id(1));
        assert!(settled(&mut tickets).is_empty() && tickets.tickets.is_empty() && tickets.open.is_empty());
        tickets.open(Whom::Publisher(1), [1].into_iter());
        tickets.read_back(2, id(2));
        tickets.forget(1);
        assert!(tickets.tickets.is_empty());
    }
}
