//! The first words of a session, and the reply to a subscription. Both name the position at which the connection begins,
//! which may have to be learnt from the hub first.

use std::ops::Range;

use crate::logic::id::Id;
use crate::logic::protocol::http::{Exchange, Response, encode};
use crate::logic::reason::Reason;
use crate::logic::session::{Carrier, Notice, Outcome, Welcome};

use super::closing::finish;
use super::connection::{Connection, Flags};
use super::context::Context;
use super::lanes::Lanes;
use super::refusals::cors;
use super::slots::Slots;
use super::subscriptions::unsubscribe_all;

/// Words that name the position at which subscriptions begin.
#[derive(Debug)]
pub(super) struct Opening {
    words: Words,
    /// The response in place of the stream's, if there is nothing to tell and never will be.
    nothing: Option<Nothing>,
    /// Bytes that follow the words: replies in the connection's protocol.
    then: Vec<u8>,
}

/// The response to a stream's request that there is nothing to tell and never will be.
#[derive(Debug)]
pub(super) struct Nothing {
    /// The origin of the page that has asked, if a page has.
    pub(super) origin: Option<Box<str>>,
    /// Where the stream's own head stands in `out`. It is not sent before it is known which of the two it will be.
    pub(super) head: Range<usize>,
}

#[derive(Debug)]
enum Words {
    /// The session's welcome.
    Welcome,
    /// The reply to a request within the session, with the request's reference.
    Reply(Box<str>),
}

impl Opening {
    /// The welcome of a session.
    pub(super) fn welcome() -> Opening {
        Opening { words: Words::Welcome, nothing: None, then: Vec::new() }
    }

    /// The same words, or the response that there is nothing.
    pub(super) fn or_nothing(self, nothing: Nothing) -> Opening {
        Opening { nothing: Some(nothing), ..self }
    }

    /// The reference of the request that the words reply to, unless they are a welcome.
    pub(super) fn reference(&self) -> Option<&str> {
        match &self.words {
            Words::Welcome => None,
            Words::Reply(reference) => Some(reference),
        }
    }

    /// The response that there is nothing, if it may come in the words' place.
    pub(super) fn nothing(&self) -> Option<&Nothing> {
        self.nothing.as_ref()
    }

    /// The bytes that follow the words.
    pub(super) fn behind(&self) -> &[u8] {
        &self.then
    }

    /// Has the stream's own head sent, because the position is a long time coming.
    pub(super) fn release_head(&mut self) {
        self.nothing = None;
    }

    /// Whether the head that waits in `out` may be taken back.
    pub(super) fn holds_head(&self) -> bool {
        self.nothing.is_some()
    }

    /// Whether the words are the connection's first ones.
    pub(super) fn is_welcome(&self) -> bool {
        matches!(self.words, Words::Welcome)
    }

    /// The bytes in the connection's protocol that follow the words.
    pub(super) fn then(&mut self) -> &mut Vec<u8> {
        &mut self.then
    }

    /// The reply to a request for subscriptions.
    pub(super) fn reply(reference: &str) -> Opening {
        Opening { words: Words::Reply(reference.into()), nothing: None, then: Vec::new() }
    }

    /// Writes the words for a connection whose subscriptions begin after `position`. `is_all`: no event waits for the client.
    /// A stream whose channels have all ended is answered that there is nothing then, and its connection ends.
    pub(super) fn write(
        &self,
        slots: &mut Slots,
        lanes: &mut Lanes,
        cx: &mut Context,
        slot: u32,
        (position, is_all): (Id, bool),
    ) {
        // A message for this connection alone may have come meanwhile.
        let out_end = slots[slot].extra.as_ref().map_or(0, |extra| extra.out.len());
        if let Some(nothing) = &self.nothing
            && is_all
            && out_end == nothing.head.end
            && self.then.is_empty()
            && have_ended(slots, lanes, slot)
        {
            let response = Response::nothing().with_cors(cors(cx, nothing.origin.as_deref()));
            let date = Some(cx.date());
            let connection = &mut slots[slot];
            let is_http_1_1 = connection.flags.intersects(Flags::HTTP_1_1);
            let is_http_2 = connection.flags.intersects(Flags::CARRIED);
            let out = connection.out();
            out.truncate(nothing.head.start);
            encode(&response, &Exchange { is_http_1_1, is_http_2, date, ..Exchange::default() }, out);
            connection.extra().resumes.clear();
            connection.flags.remove(Flags::REPLAYING);
            unsubscribe_all(slots, lanes, cx, slot);
            return finish(slots, cx, slot, Reason::Ended);
        }
        self.write_words(slots, cx, slot, position);
    }

    fn write_words(&self, slots: &mut Slots, cx: &Context, slot: u32, position: Id) {
        let name = slots.name(cx.index, slot);
        let connection = &mut slots[slot];
        let key = connection.key;
        match &self.words {
            Words::Welcome => {
                let config = &cx.settings.config;
                let beat = match key.protocol().carrier() {
                    Carrier::WebSocket => config.heartbeat.ws,
                    Carrier::Stream | Carrier::Poll => config.heartbeat.sse,
                };
                let asked = connection.beat().map(|beat| u64::from(beat.secs()) * 1000);
                let welcome = Welcome {
                    position,
                    connection: &name,
                    padding_bytes: config.http.sse_padding,
                    retry_ms: cx.settings.retry_ms,
                    beat_ms: asked.unwrap_or(beat.as_millis() as u64),
                };
                key.welcome(&welcome, connection.out());
            }
            Words::Reply(reference) => {
                let reply = Notice::Reply { reference: Some(reference), outcome: Outcome::Subscribed(position) };
                key.notify(&reply, connection.out());
            }
        }
        connection.out().extend_from_slice(&self.then);
        slots.weigh(slot);
    }
}

impl Connection {
    /// The place of the next words for the client: `out`, or what follows the connection's first words while these wait for
    /// their position.
    pub(super) fn words(&mut self) -> &mut Vec<u8> {
        let extra = self.extra();
        let opening = extra.resumes.front_mut().and_then(|resume| resume.opening.as_mut());
        match opening.filter(|opening| opening.is_welcome()) {
            Some(opening) => opening.then(),
            None => &mut extra.out,
        }
    }
}

/// Whether the connection has channels, and all of them have ended.
fn have_ended(slots: &Slots, lanes: &Lanes, slot: u32) -> bool {
    let connection = &slots[slot];
    connection.subscriptions() > 0 && connection.subscriptions_from(0).all(|s| lanes.channel_of(s.lane).ended)
}
