//! Polls: a subscription that ends with its first answer.

use crate::link::Replay;
use crate::logic::cells::NONE;
use crate::logic::id::Id;
use crate::logic::protocol::dialect::Dialect;
use crate::logic::protocol::http::{Cors, Reject, Request, ResponseHeaders, decide_cors, write_json};
use crate::logic::protocol::query::SubscribeQuery;
use crate::logic::wheel::Tick;

use super::Shard;
use super::channels::Following;
use super::connection::{Flags, State};
use super::settings::ticks;

/// Bytes of events in one answer, beyond which the rest is left for the next.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// How long the hub may take; it answers within milliseconds unless the whole host stands still.
const HUB_ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(10);

impl Shard {
    /// Answers a poll at once if there is something after its position, else holds it.
    pub(super) fn begin_poll(
        &mut self,
        slot: u32,
        request: &Request<'_>,
        query: &SubscribeQuery,
    ) -> Result<(), Reject> {
        let after =
            match request.last_event_id {
                Some(id) => Some(id.parse().map_err(|error| {
                    Reject::new(400, "bad_position", format!("Last-Event-ID is no position: {error}"))
                })?),
                None => query.after,
            };
        self.counters.handshakes += 1;
        self.counters.opened_poll += 1;
        let http = &self.settings.config.http;
        let wait = query.wait_secs.map_or(http.poll_wait, std::time::Duration::from_secs).min(http.poll_wait_max);
        let wait: Tick = ticks(wait);
        let cors = decide_cors(&http.cors_origins, request.origin);
        self.connections[slot].dialect = Dialect::Poll;
        self.enter_state(slot, State::Poll);
        if let Cors::Origin(origin) = cors {
            self.connections[slot].extra().origin = Some(origin.into());
        }
        for name in &query.channels {
            self.subscribe(slot, name);
        }
        // Behind what still waits in the queue from the hub, only the hub can say.
        let is_current = self.from_hub.is_empty();
        let position = after.or_else(|| self.follows_all(slot).then_some(self.seen)).filter(|_| is_current);
        match position {
            Some(position) if self.can_resume_here(slot, 0, position) => {
                self.start(slot, 0, Some(position), wait);
                let has_news = self.has_news(slot);
                if has_news || wait == 0 {
                    self.answer_poll_from(slot, position);
                } else {
                    self.set_deadline(slot, self.now + wait);
                }
            }
            _ => {
                self.set_deadline(slot, self.now + ticks(HUB_ANSWER_MAX));
                self.ask_hub(slot, 0, after, wait);
            }
        }
        Ok(())
    }

    fn follows_all(&self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        connection.subscriptions_from(0).all(|s| {
            let channel = self.channels.lanes[s.lane].channel;
            self.channels.channels[channel].following == Following::Yes
        })
    }

    fn has_unread(&self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        let mut all = connection.subscriptions_from(0);
        all.any(|s| s.place != NONE && s.cursor < self.channels.lanes[s.lane].log.head())
    }

    /// Whether there is anything to answer with: events, or that a channel has ended.
    fn has_news(&self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        let mut all = connection.subscriptions_from(0);
        self.has_unread(slot) || all.any(|s| self.channels.channels[self.channels.lanes[s.lane].channel].ended)
    }

    /// Answers a held poll with what has come.
    pub(super) fn answer_poll(&mut self, slot: u32) {
        if self.has_news(slot) {
            self.answer_poll_from(slot, self.seen);
        }
    }

    /// Answers with everything between the cursors and the heads; `next` is at least `position`.
    fn answer_poll_from(&mut self, slot: u32, position: Id) {
        self.write_pending(slot, position);
        self.await_request(slot);
    }

    fn write_pending(&mut self, slot: u32, position: Id) {
        let mut events = Vec::new();
        let (count, last) = self.merge_pending(slot, &mut events, ANSWER_BYTES_MAX);
        let is_whole = !self.has_unread(slot);
        // With everything told, the client need not ask again about what the shard has seen of other channels.
        let next =
            if is_whole { last.unwrap_or(position).max(self.seen).max(position) } else { last.unwrap_or(position) };
        self.counters.deliveries += count;
        self.connections[slot].events = self.connections[slot].events.saturating_add(count as u32);
        self.write_answer(slot, &events, next, false, is_whole);
    }

    /// Answers a held poll whose time is over: with nothing, if nothing has come.
    pub(super) fn answer_empty(&mut self, slot: u32) {
        self.write_rest(slot);
        self.await_request(slot);
    }

    /// Writes the answer of a held poll that is over: with nothing, if nothing has come.
    pub(super) fn write_rest(&mut self, slot: u32) {
        // Its readers may be being walked at the moment, and it was not reached yet.
        if self.has_unread(slot) {
            self.write_pending(slot, self.seen);
            return;
        }
        // What the hub has not told yet must not be passed over.
        let asked = self.connections[slot].resume().map(|resume| resume.after);
        let next = asked.map_or(self.seen, |after| after.unwrap_or(self.seen));
        self.write_answer(slot, &[], next, false, asked.is_none());
    }

    /// Answers with a page of missed events; `false` if there is nothing to say yet and the poll is held.
    pub(super) fn answer_replay(&mut self, slot: u32, replay: &Replay) {
        let mut events = Vec::new();
        for event in &replay.events {
            Dialect::Poll.write_event(event, &mut events);
        }
        let count = replay.events.len() as u64;
        self.counters.deliveries += count;
        self.connections[slot].events = self.connections[slot].events.saturating_add(count as u32);
        if replay.gap.is_some() {
            self.counters.gaps += 1;
        }
        self.write_answer(slot, &events, replay.until, replay.gap.is_some(), replay.last);
        self.await_request(slot);
    }

    /// Writes the answer and ends the subscriptions. `is_whole`: nothing is left for the next one.
    fn write_answer(&mut self, slot: u32, events: &[u8], next: Id, gap: bool, is_whole: bool) {
        let mut body = b"{\"events\":[".to_vec();
        body.extend_from_slice(events.strip_suffix(b",").unwrap_or(events));
        body.extend_from_slice(b"],\"next\":\"");
        next.write(&mut body);
        body.extend_from_slice(if gap { b"\",\"gap\":true" } else { b"\",\"gap\":false" });
        if is_whole {
            self.write_ended(slot, &mut body);
        }
        body.extend_from_slice(b"}\n");
        self.unsubscribe_all(slot);
        let connection = &mut self.connections[slot];
        connection.flags.clear(Flags::REPLAYING);
        let origin = connection.extra.as_mut().and_then(|extra| extra.origin.take());
        let cors = match &origin {
            Some(origin) => Cors::Origin(origin),
            // Harmless where no page has asked, and a held poll need not remember who did.
            None if self.settings.config.http.cors_origins.iter().any(|origin| origin == "*") => Cors::Any,
            None => decide_cors(&self.settings.config.http.cors_origins, None),
        };
        let headers = ResponseHeaders {
            keep_alive: connection.flags.has(Flags::KEEP_ALIVE) && self.drain.is_none(),
            is_http_1_1: connection.flags.has(Flags::HTTP_1_1),
            cors,
            head_only: false,
        };
        if !headers.keep_alive {
            connection.flags.clear(Flags::KEEP_ALIVE);
        }
        if let Some(extra) = &mut connection.extra {
            extra.resumes.clear();
        }
        write_json(connection.out(), &body, &headers);
        if connection.flags.has(Flags::VIA_PROXY) {
            // The proxy keeps the connection, for whoever comes next.
            self.give_back_address(slot);
        }
        self.forget(slot);
        self.enter_state(slot, State::Http);
    }

    /// Lets the connection go on with its next request.
    fn await_request(&mut self, slot: u32) {
        self.after_answer(slot);
        if self.connections[slot].extra.as_ref().is_some_and(|extra| !extra.input.is_empty()) {
            self.read_later(slot);
        }
    }

    /// Names the channels that have ended, so that the client need not ask for them again.
    fn write_ended(&self, slot: u32, body: &mut Vec<u8>) {
        let connection = &self.connections[slot];
        let channels =
            connection.subscriptions_from(0).map(|s| &self.channels.channels[self.channels.lanes[s.lane].channel]);
        let mut names =
            channels.filter(|channel| channel.ended).filter_map(|channel| channel.name.as_deref()).peekable();
        if names.peek().is_none() {
            return;
        }
        body.extend_from_slice(b",\"ended\":");
        crate::logic::json::write_strings(names, body);
    }
}
