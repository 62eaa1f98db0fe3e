//! The first words of a session, and the reply to a subscription. Both name the position at which the connection begins,
//! which may have to be learnt from the hub first.

use crate::logic::id::Id;
use crate::logic::session::{Carrier, Notice, Outcome, Welcome};

use super::context::Context;
use super::slots::Slots;

/// Words that name the position at which subscriptions begin.
#[derive(Debug)]
pub(super) struct Opening {
    words: Words,
    /// Bytes that follow the words: replies in the connection's protocol.
    then: Vec<u8>,
}

#[derive(Debug)]
enum Words {
    /// The session's welcome.
    Welcome,
    /// The reply to a request within the session, with the request's reference.
    Reply(Box<str>),
}

impl Opening {
    /// The welcome of a session. The bytes of `then`, in the connection's protocol, follow it.
    pub(super) fn welcome(then: Vec<u8>) -> Opening {
        Opening { words: Words::Welcome, then }
    }

    /// The reply to a request for subscriptions.
    pub(super) fn reply(reference: &str) -> Opening {
        Opening { words: Words::Reply(reference.into()), then: Vec::new() }
    }

    /// Writes the words for a connection whose subscriptions begin after `position`.
    pub(super) fn write(&self, slots: &mut Slots, cx: &Context, slot: u32, position: Id) {
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
                let welcome = Welcome {
                    position,
                    connection: &name,
                    padding_bytes: config.http.sse_padding,
                    retry_ms: cx.settings.retry_ms,
                    beat_ms: beat.as_millis() as u64,
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
