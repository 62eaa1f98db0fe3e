//! Resuming from the hub's history: asking for pages of missed events, one at a time for each connection, and writing
//! them to the connection.

use std::collections::VecDeque;

use crate::link::{HubMessage, Replay};
use crate::logic::cells::{NONE, Slack};
use crate::logic::event::Event;
use crate::logic::id::Id;
use crate::logic::session::Notice;
use crate::logic::wheel::Tick;

use super::connection::{Flags, Resume, State};
use super::context::Context;
use super::lanes::Lanes;
use super::merge::frame_page;
use super::opening::Opening;
use super::slots::Slots;
use super::subscriptions::{add_resume, read_from_head};

/// The most pages that the hub is asked for at a time. Questions without a page may come beside them.
pub(super) const PAGES_ASKED_MAX: usize = 256;

/// Whether pages may be asked for. Pages that slow clients do not take may use half of the shard's memory for them: when all
/// clients fall behind at once, the others wait without a page and cost no memory.
fn has_room(slots: &Slots, cx: &Context) -> bool {
    slots.buffers.output as u64 <= cx.settings.lag_memory / 2
}

/// The step that must follow a page from the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// No step: the page is written, or no connection waits for it.
    Done,
    /// A held poll must be answered with the page.
    AnswerPoll,
    /// Nothing was missed, so the poll is held for this time unless events have come meanwhile.
    HoldPoll(Tick),
}

/// The pages that the hub has been asked for.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    /// The number of pages that were asked for and are not sent yet.
    asked: usize,
    /// The connections that must wait before they ask: the slot, and the number of the resume.
    waiting: VecDeque<(u32, u32)>,
}

impl Resumes {
    /// The numbers of pages that are not sent yet, and of connections that wait to ask.
    #[cfg(test)]
    pub(super) fn pending(&self) -> (usize, usize) {
        (self.asked, self.waiting.len())
    }

    /// Gives back the memory of a list that was long once.
    pub(super) fn give_back_slack(&mut self) {
        self.waiting.give_back_slack();
    }

    /// Asks the hub for the events that the subscriptions from number `first` on have missed after `after`; without a
    /// position, for the present position alone. Live events wait until the resume is over. `wait` is the time that a
    /// poll may be held if nothing was missed. `opening` is written before the first page, with the position at which it
    /// begins.
    pub(super) fn begin(
        &mut self,
        slots: &mut Slots,
        lanes: &Lanes,
        cx: &mut Context,
        (slot, first): (u32, usize),
        after: Option<Id>,
        (wait, opening): (Tick, Option<Opening>),
    ) {
        let subscriptions = slots[slot].subscriptions_from(first);
        let channels = subscriptions.map(|subscription| lanes[subscription.lane].channel).collect();
        let is_first = slots[slot].resume().is_none();
        add_resume(slots, cx, slot, Resume { channels, after, wait, opening, ..Resume::default() });
        if is_first {
            self.ask_for_page(slots, cx, slot);
        }
    }

    /// Asks for the next page of a connection's first resume, or puts that off while many other pages are not sent:
    /// when all clients come back at once, pages come about as fast as they are sent and do not pile up here.
    pub(super) fn ask_for_page(&mut self, slots: &mut Slots, cx: &mut Context, slot: u32) {
        let connection = &mut slots[slot];
        let generation = connection.generation;
        let Some(resume) = connection.resume_mut() else { return };
        resume.page_due = false;
        let number = resume.number;
        // A question for the present position alone waits for nothing: events that come before it would be missed.
        let is_page = resume.after.is_some();
        if is_page && (self.asked >= PAGES_ASKED_MAX || !has_room(slots, cx)) {
            self.waiting.push_back((slot, number));
            return;
        }
        let Some(resume) = slots[slot].resume() else { return };
        let (channels, after) = (resume.channels.clone(), resume.after);
        self.asked += 1;
        cx.tell_hub(HubMessage::Resume { shard: cx.index, slot, generation, number, channels, after });
    }

    /// Asks for the next page of a resume, if that is still the connection's first one. Numbers are unique over all
    /// connections, so a later connection in the slot is not mistaken for this one.
    pub(super) fn ask_for_page_of(&mut self, slots: &mut Slots, cx: &mut Context, (slot, number): (u32, u32)) {
        let resume = slots.get(slot).and_then(|connection| connection.resume());
        if resume.is_some_and(|resume| resume.number == number) {
            self.ask_for_page(slots, cx, slot);
        }
    }

    /// Has waiting connections ask, after a page was sent or was not needed.
    pub(super) fn on_page_sent(&mut self, slots: &mut Slots, cx: &mut Context) {
        debug_assert!(self.asked > 0, "a page was asked for before it was sent");
        self.asked -= 1;
        self.ask_for_waiting(slots, cx);
    }

    /// Has waiting connections ask, as far as there is room.
    pub(super) fn ask_for_waiting(&mut self, slots: &mut Slots, cx: &mut Context) {
        while !self.waiting.is_empty()
            && self.asked < PAGES_ASKED_MAX
            && has_room(slots, cx)
            && let Some((slot, number)) = self.waiting.pop_front()
        {
            self.ask_for_page_of(slots, cx, (slot, number));
        }
    }

    /// Takes a page from the hub. The page is written for a stream or a WebSocket; for a poll the caller goes on.
    pub(super) fn take(&mut self, slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, replay: &Replay) -> Page {
        if replay.last {
            lanes.see(replay.until);
        }
        let slot = replay.slot;
        let Some(connection) = slots.get(slot) else { return Page::Done };
        let awaited = connection.resume().map(|resume| (resume.number, resume.wait));
        let Some((number, wait)) = awaited.filter(|_| connection.generation == replay.generation) else {
            return Page::Done;
        };
        if number != replay.number {
            return Page::Done;
        }
        match connection.state {
            State::Poll if !replay.events.is_empty() || replay.gap.is_some() => Page::AnswerPoll,
            State::Poll => {
                self.end(slots, lanes, cx, slot);
                Page::HoldPoll(wait)
            }
            State::Stream | State::WebSocket => {
                self.write(slots, lanes, cx, replay);
                Page::Done
            }
            _ => Page::Done,
        }
    }

    /// Notes whether the page that a connection was just given waits to be sent. A page that does not wait counts as
    /// sent, so that a connection which takes no bytes does not keep its place.
    pub(super) fn note_page(&mut self, slots: &mut Slots, cx: &mut Context, slot: u32) {
        let Some(flags) = slots.get(slot).map(|connection| connection.flags) else {
            return self.on_page_sent(slots, cx);
        };
        let is_waiting = flags.intersects(Flags::QUEUED) && !flags.intersects(Flags::BLOCKED | Flags::PAGE);
        if is_waiting && slots[slot].out_waiting() > 0 {
            slots[slot].flags.insert(Flags::PAGE);
        } else {
            self.on_page_sent(slots, cx);
        }
    }

    fn write(&mut self, slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, replay: &Replay) {
        let slot = replay.slot;
        if let Some(opening) = slots[slot].resume_mut().and_then(|resume| resume.opening.take()) {
            // A position after every event is of another server: the connection begins with the newest event.
            let position = replay.after.map_or(replay.until, |after| after.min(replay.until));
            let is_all = replay.last && replay.events.is_empty() && replay.gap.is_none();
            opening.write(slots, lanes, cx, slot, (position, is_all));
            if slots[slot].resume().is_none() {
                return;
            }
        }
        let connection = &mut slots[slot];
        let key = connection.key;
        let is_single = connection.subscriptions() == 1;
        let (wanted, sent) =
            connection.resume().map(|resume| (resume.channels.clone(), resume.sent.clone())).unwrap_or_default();
        if wanted.is_empty() {
            self.end(slots, lanes, cx, slot);
            // Live events have waited for the end of the resume, and the client's messages may have.
            slots.queue(slot);
            return;
        }
        if let (Some(after), Some(resumed)) = (replay.after, replay.gap) {
            cx.counters.gaps += 1;
            let position = is_single.then_some(resumed);
            key.notify(&Notice::Gap { after, resumed, position }, connection.out());
        }
        // Events of a channel that was unsubscribed meanwhile are left out.
        let is_sent = |channel, id| sent.binary_search_by_key(&channel, |one| one.0).is_ok_and(|at| id <= sent[at].1);
        let is_wanted = |event: &Event| {
            let channel = lanes.find(&event.channel);
            channel.is_some_and(|channel| wanted.contains(&channel) && !is_sent(channel, event.id))
        };
        let (count, until) = frame_page(key, &replay.events, is_wanted, connection.out());
        // A slow client keeps the page's memory for a while, so there is no room in it that is not needed.
        connection.out().shrink_to_fit();
        cx.counters.deliveries += count;
        connection.events = connection.events.saturating_add(count as u32);
        if replay.last && until.is_none() {
            self.end(slots, lanes, cx, slot);
        } else if let Some(resume) = connection.resume_mut() {
            resume.after = Some(until.unwrap_or(replay.until));
            resume.page_due = true;
        }
        slots.weigh(slot);
        slots.queue(slot);
    }

    /// Ends a resume after its last page: the subscriptions read on from here, and the next resume begins.
    fn end(&mut self, slots: &mut Slots, lanes: &mut Lanes, cx: &mut Context, slot: u32) {
        let Some(resume) = slots[slot].extra().resumes.pop_front() else { return };
        for index in 0..slots[slot].subscriptions() {
            let Some(subscription) = slots[slot].subscription(index) else { continue };
            if subscription.place == NONE && resume.channels.contains(&lanes[subscription.lane].channel) {
                read_from_head(slots, lanes, slot, index);
            }
        }
        let is_sent = slots[slot].out_waiting() == 0;
        match slots[slot].resume_mut() {
            None => slots[slot].flags.remove(Flags::REPLAYING),
            Some(_) if is_sent => self.ask_for_page(slots, cx, slot),
            // A connection with several resumes still asks for one page at a time.
            Some(next) => next.page_due = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::connection::Subscription;
    use super::super::context::Effect;
    use super::super::tests::tables::{Tables, id};
    use super::*;
    use crate::config::SlowPolicy;
    use crate::link::LocalChannel;
    use crate::logic::event::{Draft, Kind};

    /// A stream whose subscriptions to so many new channels do not read yet. The channels are numbered from 0 on.
    fn waiting(tables: &mut Tables, channels: usize) -> u32 {
        let slot = tables.stream(&[]);
        for _ in 0..channels {
            let lane = tables.lane(SlowPolicy::Gap);
            tables.lanes.enter(lane);
            tables.slots[slot].add_subscription(Subscription { lane, place: NONE, cursor: 0 });
        }
        slot
    }

    fn begin(tables: &mut Tables, resumes: &mut Resumes, slot: u32, first: usize) {
        let Tables { slots, lanes, cx, .. } = tables;
        resumes.begin(slots, lanes, cx, (slot, first), Some(id(1)), (5, None));
    }

    /// The pages that were asked for since the last call: the resume's number, the channels, and the position.
    fn asked(tables: &mut Tables) -> Vec<(u32, Vec<LocalChannel>, Option<Id>)> {
        let of_page = |effect| match effect {
            Effect::ToHub(HubMessage::Resume { number, channels, after, .. }) => (number, channels, after),
            other => panic!("{other:?}"),
        };
        tables.cx.effects.drain(..).map(of_page).collect()
    }

    fn event(number: u64, channel: &str) -> Arc<Event> {
        let draft = Draft { name: None, kind: Kind::Text, payload: format!("e{number}").into() };
        Arc::new(Event { id: id(number), channel: channel.into(), draft })
    }

    fn page(slot: u32, number: u32, events: &[(u64, &str)], until: u64, last: bool) -> Replay {
        let events = events.iter().map(|(number, channel)| event(*number, channel)).collect();
        Replay { slot, number, events, until: id(until), last, after: Some(id(1)), ..Replay::default() }
    }

    fn take(tables: &mut Tables, resumes: &mut Resumes, replay: &Replay) -> Page {
        let Tables { slots, lanes, cx, .. } = tables;
        let page = resumes.take(slots, lanes, cx, replay);
        tables.slots.check_invariants();
        tables.lanes.check_invariants();
        page
    }

    fn reading(tables: &Tables, slot: u32) -> usize {
        tables.slots[slot].subscriptions_from(0).filter(|subscription| subscription.place != NONE).count()
    }

    #[test]
    fn a_connection_asks_for_one_page_at_a_time() {
        let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
        let slot = waiting(&mut tables, 2);
        begin(&mut tables, &mut resumes, slot, 0);
        begin(&mut tables, &mut resumes, slot, 1);
        assert_eq!((asked(&mut tables), tables.cx.counters.resumed_hub), (vec![(1, vec![0, 1], Some(id(1)))], 2));
        assert_eq!(resumes.pending(), (1, 0));
        // The second event is of a channel that is not resumed.
        let first = page(slot, 1, &[(2, "c0"), (3, "x"), (4, "c1")], 6, false);
        assert_eq!(take(&mut tables, &mut resumes, &first), Page::Done);
        assert_eq!((tables.out(slot).matches("data: ").count(), tables.out(slot).matches("e3").count()), (2, 0));
        assert_eq!((tables.cx.counters.deliveries, tables.slots[slot].events, tables.lanes.seen), (2, 2, Id::ZERO));
        let resume = tables.slots[slot].resume().unwrap();
        assert_eq!((resume.after, resume.page_due, reading(&tables, slot)), (Some(id(6)), true, 0));
        resumes.ask_for_page(&mut tables.slots, &mut tables.cx, slot);
        assert_eq!(asked(&mut tables), [(1, vec![0, 1], Some(id(6)))]);
        assert!(!tables.slots[slot].resume().unwrap().page_due);
        // The next resume waits until what is written is sent.
        take(&mut tables, &mut resumes, &page(slot, 1, &[], 9, true));
        assert_eq!((asked(&mut tables), tables.lanes.seen, reading(&tables, slot)), (vec![], id(9), 2));
        let resume = tables.slots[slot].resume().unwrap();
        assert_eq!((resume.number, resume.page_due), (2, true));
        assert!(tables.slots[slot].flags.intersects(Flags::REPLAYING));
        take(&mut tables, &mut resumes, &page(slot, 2, &[], 9, true));
        assert!(tables.slots[slot].resume().is_none() && !tables.slots[slot].flags.intersects(Flags::REPLAYING));
    }

    #[test]
    fn the_next_resume_begins_at_once_if_nothing_waits_to_be_sent() {
        let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
        let slot = waiting(&mut tables, 3);
        [0, 1].into_iter().for_each(|first| begin(&mut tables, &mut resumes, slot, first));
        // Two of the channels were left, and of the last one there is nothing.
        tables.slots[slot].resume_mut().unwrap().channels = vec![2];
        asked(&mut tables);
        take(&mut tables, &mut resumes, &page(slot, 1, &[], 3, true));
        assert_eq!((asked(&mut tables), reading(&tables, slot)), (vec![(2, vec![1, 2], Some(id(1)))], 1));
        tables.slots[slot].resume_mut().unwrap().channels.clear();
        take(&mut tables, &mut resumes, &page(slot, 2, &[(2, "c1")], 3, true));
        assert_eq!((tables.out(slot), tables.slots[slot].resume().is_none()), ("", true));
        assert!(tables.slots[slot].flags.intersects(Flags::QUEUED), "what has waited for the resume goes on");
    }

    #[test]
    fn a_page_that_is_too_large_when_it_is_framed_goes_on_after_its_last_frame() {
        let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
        let slot = waiting(&mut tables, 1);
        begin(&mut tables, &mut resumes, slot, 0);
        let mut replay = page(slot, 1, &[(2, "c0"), (3, "c0")], 9, true);
        let draft = Draft { name: None, kind: Kind::Text, payload: vec![b'x'; 100_000].into() };
        replay.events.iter_mut().for_each(|event| Arc::make_mut(event).draft = draft.clone());
        take(&mut tables, &mut resumes, &replay);
        let resume = tables.slots[slot].resume().unwrap();
        assert_eq!((resume.after, resume.page_due), (Some(id(2)), true));
        assert!(tables.slots[slot].out_waiting() < 101_000);
    }

    #[test]
    fn few_pages_are_under_way_and_connections_that_wait_come_in_their_order() {
        let (mut tables, mut resumes) = (Tables::new(), Resumes { asked: PAGES_ASKED_MAX - 1, ..Resumes::default() });
        let slots = [(); 4].map(|()| waiting(&mut tables, 1));
        slots.into_iter().for_each(|slot| begin(&mut tables, &mut resumes, slot, 0));
        assert_eq!((asked(&mut tables), resumes.pending()), (vec![(1, vec![0], Some(id(1)))], (256, 3)));
        resumes.on_page_sent(&mut tables.slots, &mut tables.cx);
        assert_eq!((asked(&mut tables), resumes.pending()), (vec![(2, vec![1], Some(id(1)))], (256, 2)));
        // The third connection has gone on to another resume in the meantime.
        tables.slots[slots[2]].resume_mut().unwrap().number = 9;
        resumes.on_page_sent(&mut tables.slots, &mut tables.cx);
        assert_eq!((asked(&mut tables), resumes.pending()), (vec![(4, vec![3], Some(id(1)))], (256, 0)));
        resumes.on_page_sent(&mut tables.slots, &mut tables.cx);
        assert_eq!(resumes.pending(), (255, 0));
        resumes.waiting = (0..5000).map(|number| (0, number)).collect();
        resumes.waiting.truncate(1);
        resumes.give_back_slack();
        assert_eq!(resumes.waiting.capacity(), 1024);
    }

    #[test]
    fn pages_wait_while_others_take_more_than_half_of_the_memory() {
        let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
        let [slot, other] = [(); 2].map(|()| waiting(&mut tables, 1));
        tables.cx.settings.lag_memory = 201;
        tables.slots.buffers.output = 101;
        begin(&mut tables, &mut resumes, slot, 0);
        resumes.ask_for_waiting(&mut tables.slots, &mut tables.cx);
        assert_eq!((asked(&mut tables), resumes.pending()), (vec![], (0, 1)));
        // The question for the present position has no page.
        let Tables { slots, lanes, cx, .. } = &mut tables;
        resumes.begin(slots, lanes, cx, (other, 0), None, (0, None));
        assert_eq!((asked(&mut tables), resumes.pending()), (vec![(2, vec![1], None)], (1, 1)));
        tables.slots.buffers.output = 100;
        resumes.ask_for_waiting(&mut tables.slots, &mut tables.cx);
        assert_eq!((asked(&mut tables), resumes.pending()), (vec![(1, vec![0], Some(id(1)))], (2, 0)));
    }

    #[test]
    fn a_page_for_an_earlier_connection_or_resume_is_of_no_use() {
        let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
        let slot = waiting(&mut tables, 1);
        begin(&mut tables, &mut resumes, slot, 0);
        let good = page(slot, 1, &[(2, "c0")], 3, true);
        for stale in [
            Replay { generation: 1, ..good.clone() },
            Replay { number: 2, ..good.clone() },
            Replay { slot: 1_000_000, ..good.clone() },
        ] {
            assert_eq!(take(&mut tables, &mut resumes, &stale), Page::Done);
            assert_eq!((tables.out(slot), tables.slots[slot].resume().is_some()), ("", true));
        }
        take(&mut tables, &mut resumes, &good);
        assert!(tables.out(slot).contains("e2") && tables.slots[slot].resume().is_none());
    }

    #[test]
    fn a_poll_is_held_only_if_nothing_was_missed_and_it_may_wait() {
        for (events, gap, wait, expected) in [
            (&[(2, "c0")][..], None, 5, Page::AnswerPoll),
            (&[], Some(id(2)), 5, Page::AnswerPoll),
            (&[], None, 0, Page::HoldPoll(0)),
            (&[], None, 5, Page::HoldPoll(5)),
        ] {
            let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
            let slot = waiting(&mut tables, 1);
            tables.slots.enter_state(slot, State::Poll);
            begin(&mut tables, &mut resumes, slot, 0);
            tables.slots[slot].resume_mut().unwrap().wait = wait;
            let replay = Replay { gap, ..page(slot, 1, events, 3, true) };
            assert_eq!(take(&mut tables, &mut resumes, &replay), expected);
            let is_held = matches!(expected, Page::HoldPoll(_));
            assert_eq!((tables.out(slot), reading(&tables, slot)), ("", usize::from(is_held)));
            assert_eq!(tables.slots[slot].deadline, 0, "the caller sets it");
        }
    }

    #[test]
    fn a_page_counts_until_it_is_sent_if_it_waits_to_be_sent() {
        for (flags, out, is_counted) in [
            (Flags::QUEUED, "page", true),
            (Flags::empty(), "page", false),
            (Flags::QUEUED, "", false),
            (Flags::QUEUED | Flags::BLOCKED, "page", false),
            (Flags::QUEUED | Flags::PAGE, "page", false),
        ] {
            let (mut tables, mut resumes) = (Tables::new(), Resumes { asked: 2, ..Resumes::default() });
            let slot = tables.stream(&[]);
            tables.slots[slot].out().extend_from_slice(out.as_bytes());
            tables.slots[slot].flags.insert(flags);
            resumes.note_page(&mut tables.slots, &mut tables.cx, slot);
            assert_eq!(resumes.pending().0, if is_counted { 2 } else { 1 }, "{flags:?} {out}");
            let is_marked = tables.slots[slot].flags.intersects(Flags::PAGE);
            assert_eq!(is_marked, is_counted || flags.intersects(Flags::PAGE));
            resumes.note_page(&mut tables.slots, &mut tables.cx, 1_000_000);
            assert_eq!(resumes.pending().0, if is_counted { 1 } else { 0 });
        }
    }

    #[test]
    fn the_words_of_the_beginning_come_first_then_a_gap_and_then_the_events() {
        for channels in [1, 2] {
            let (mut tables, mut resumes) = (Tables::new(), Resumes::default());
            let slot = waiting(&mut tables, channels);
            let Tables { slots, lanes, cx, .. } = &mut tables;
            let mut opening = Opening::welcome();
            opening.then().extend_from_slice(b"then");
            resumes.begin(slots, lanes, cx, (slot, 0), Some(Id::MAX), (0, Some(opening)));
            let replay = Replay { after: Some(Id::MAX), gap: Some(id(7)), ..page(slot, 1, &[(8, "c0")], 9, false) };
            take(&mut tables, &mut resumes, &replay);
            take(&mut tables, &mut resumes, &Replay { gap: None, ..replay });
            let out = tables.out(slot);
            let words = ["id: 9-0", "ringcast.hello", "then", "ringcast.gap", "e8", "e8"];
            let places = words.map(|word| if word == "e8" { out.rfind(word) } else { out.find(word) }.unwrap());
            assert!(places.is_sorted(), "{out}");
            assert_eq!((out.matches("hello").count(), tables.cx.counters.gaps), (1, 1));
            // Events of another channel from before the gap's end may still be to come.
            assert_eq!(out.contains("id: 7-0"), channels == 1);
        }
    }
}
