//! Resuming from the hub's history: asking for pages of missed events, one at a time for each connection, and writing
//! them to the connection.

use std::collections::VecDeque;

use crate::link::{HubMessage, LocalChannel, Replay};
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
use super::subscriptions::read_from_head;

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
        cx.counters.resumed_hub += 1;
        let number = cx.counters.resumed_hub as u32;
        let connection = &mut slots[slot];
        let channels: Vec<LocalChannel> =
            connection.subscriptions_from(first).map(|subscription| lanes[subscription.lane].channel).collect();
        connection.flags.insert(Flags::REPLAYING);
        let resumes = &mut connection.extra().resumes;
        resumes.push_back(Resume { number, channels, sent: Vec::new(), after, page_due: false, wait, opening });
        if resumes.len() == 1 {
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
        // A question for the present position alone waits for nothing: events that come before it would be missed.
        let is_page = resume.after.is_some();
        if is_page && (self.asked >= PAGES_ASKED_MAX || !has_room(slots, cx)) {
            let Some(resume) = slots[slot].resume() else { return };
            self.waiting.push_back((slot, resume.number));
            return;
        }
        let Some(resume) = slots[slot].resume() else { return };
        let (number, channels, after) = (resume.number, resume.channels.clone(), resume.after);
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
