//! What WebSocket clients say.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::logic::event::check_channel_name;
use crate::logic::id::Id;
use crate::logic::json;
use crate::logic::protocol::dialect::{Dialect, write_ws};
use crate::logic::protocol::ws::{self, Message, Opcode};
use crate::logic::reason::Reason;

use super::Shard;
use super::access::Denied;
use super::connection::{Flags, State};

/// A message in the JSON format. One message may hold one request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said<'a> {
    #[serde(default)]
    subscribe: Option<Vec<String>>,
    #[serde(default)]
    unsubscribe: Option<Vec<String>>,
    #[serde(default)]
    after: Option<String>,
    #[serde(borrow, rename = "ref", default)]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ping: Option<&'a RawValue>,
    #[serde(borrow, default)]
    send: Option<&'a RawValue>,
    #[serde(borrow, default)]
    publish: Option<&'a RawValue>,
    #[serde(default)]
    refresh: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

/// Why a request in a message is not carried out.
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
    /// The channels it is about.
    pub(super) channels: Vec<String>,
}

/// A refusal that is about no channel.
pub(super) fn refusal(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into(), channels: Vec::new() }
}

impl Shard {
    /// Reads frames, as long as replies find room.
    pub(super) fn websocket_input(&mut self, slot: u32, bytes: &mut [u8]) {
        let extra = self.connections[slot].extra();
        let mut held = std::mem::take(&mut extra.input);
        let mut decoder = std::mem::take(&mut extra.decoder);
        let mut rest = bytes;
        if !held.is_empty() {
            held.extend_from_slice(rest);
            rest = &mut held;
        }
        let max_message = self.settings.config.websocket.max_message;
        while self.connections[slot].state == State::WebSocket && !self.connections[slot].flags.has(Flags::PAUSED) {
            if self.connections[slot].out_waiting() > self.settings.config.limits.replies {
                self.connections[slot].flags.set(Flags::PAUSED);
                break;
            }
            let consumed = match decoder.read(rest, max_message) {
                Ok(read) => {
                    if let Some(message) = read.message {
                        self.hear(slot, message);
                    }
                    read.consumed
                }
                Err(violation) => {
                    self.close(slot, Reason::Violation, violation.close_code, violation.reason);
                    break;
                }
            };
            if consumed == 0 {
                break;
            }
            rest = &mut rest[consumed..];
        }
        let connection = &mut self.connections[slot];
        if connection.state == State::WebSocket {
            let extra = connection.extra();
            extra.input = rest.to_vec();
            extra.decoder = decoder;
            connection.tidy();
            if connection.out_waiting() > 0 {
                self.queue(slot);
            }
        }
    }

    fn hear(&mut self, slot: u32, message: Message<'_>) {
        let bytes = match &message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) | Message::Ping(bytes) => bytes.len(),
            Message::Pong | Message::Close(_) => 0,
        };
        if !self.talk.allows(slot, bytes, &self.settings.talk, self.now) {
            self.close(slot, Reason::Flooding, ws::CLOSE_POLICY, "too many messages in a second");
            return;
        }
        let is_echo = self.connections[slot].flags.has(Flags::ECHO);
        match message {
            Message::Pong => {}
            Message::Ping(payload) => ws::write_frame(self.connections[slot].out(), Opcode::Pong, payload),
            Message::Close(code) => {
                // The answer carries the client's own code (RFC 6455 §5.5.1).
                self.close(slot, Reason::Client, code.unwrap_or(ws::CLOSE_NORMAL), "");
            }
            Message::Text(text) if is_echo => {
                ws::write_frame(self.connections[slot].out(), Opcode::Text, text.as_bytes());
            }
            Message::Binary(bytes) if is_echo => {
                ws::write_frame(self.connections[slot].out(), Opcode::Binary, bytes);
            }
            Message::Text(text) => {
                self.counters.messages_in += 1;
                // In the raw format there is no frame to answer in, and nothing that could be asked for.
                if self.connections[slot].dialect == Dialect::WsJson {
                    self.hear_json(slot, text);
                }
            }
            Message::Binary(_) => {
                self.counters.messages_in += 1;
                if self.connections[slot].dialect == Dialect::WsJson {
                    let refused = refusal("bad_message", "messages in the JSON format are text");
                    self.reply(slot, None, Err(refused));
                }
            }
        }
    }

    /// Does what a message in the JSON format asks for.
    pub(super) fn hear_json(&mut self, slot: u32, text: &str) {
        let said: Said<'_> = match serde_json::from_str(text) {
            Ok(said) => said,
            Err(error) => {
                self.reply(slot, None, Err(refusal("bad_message", error.to_string())));
                return;
            }
        };
        let reference = said.reference.map(RawValue::get);
        if let Some(payload) = said.ping {
            let connection = &mut self.connections[slot];
            write_ws(Opcode::Text, connection.out(), |out| {
                out.extend_from_slice(b"{\"pong\":");
                out.extend_from_slice(payload.get().as_bytes());
                out.push(b'}');
            });
            return;
        }
        if self.connections[slot].awaits_token() && said.refresh.is_none() && said.token.is_none() {
            let refused = refusal("unauthorized", "the first message must be {\"token\":\"…\"}");
            self.reply(slot, reference, Err(refused));
            return;
        }
        if (said.send.is_some() || said.publish.is_some()) && !self.has_room_upstream(slot, text) {
            return;
        }
        if let Some(names) = &said.subscribe {
            // The backend is asked about nothing that would be refused anyway.
            if let Err(refused) = self.check_wanted(slot, names) {
                return self.reply(slot, reference, Err(refused));
            }
            match self.must_wait_for_backend(slot, names, None) {
                Ok(false) => {}
                Ok(true) => {
                    self.connections[slot].extra().unsaid = Some(text.into());
                    return;
                }
                Err(reject) => return self.reply(slot, reference, Err(refusal(reject.code, reject.message))),
            }
        }
        let result = match &said {
            Said { refresh: Some(token), .. } | Said { token: Some(token), .. } => {
                self.take_token(slot, token, reference)
            }
            Said { subscribe: Some(names), .. } => self.subscribe_more(slot, names, said.after.as_deref(), reference),
            Said { unsubscribe: Some(names), .. } => {
                self.unsubscribe_some(slot, names).map(|()| self.reply(slot, reference, Ok(())))
            }
            Said { send: Some(data), .. } => self.say(slot, data).map(|()| self.reply(slot, reference, Ok(()))),
            Said { publish: Some(wanted), .. } => self.publish_for(slot, wanted, reference),
            _ => Err(refusal(
                "bad_message",
                "the message asks for nothing; there are subscribe, unsubscribe, send, publish, refresh and ping",
            )),
        };
        if let Err(refused) = result {
            self.reply(slot, reference, Err(refused));
        }
    }

    /// Whether channels could be subscribed to by their names and their number.
    fn check_wanted(&self, slot: u32, names: &[String]) -> Result<(), Refusal> {
        for name in names {
            check_channel_name(name).map_err(|error| refusal("bad_channel", error.to_string()))?;
        }
        let subscriptions_max = self.settings.config.limits.subscriptions;
        if self.connections[slot].subscriptions() + names.len() > subscriptions_max {
            let message = format!("a connection may have at most {subscriptions_max} channels");
            return Err(refusal("too_many", message));
        }
        Ok(())
    }

    /// Subscribes at run time. The reply comes before the first event of the new channels.
    fn subscribe_more(
        &mut self,
        slot: u32,
        names: &[String],
        after: Option<&str>,
        reference: Option<&str>,
    ) -> Result<(), Refusal> {
        let after: Option<Id> = match after {
            Some(text) => Some(text.parse().map_err(|error| refusal("bad_position", format!("after: {error}")))?),
            None => None,
        };
        let first = self.connections[slot].subscriptions();
        self.has_room_for_channels(names).map_err(|reject| refusal("channels", reject.message))?;
        let mut refused = None;
        for name in names {
            match self.may_subscribe(slot, name) {
                Ok(()) => {
                    self.subscribe(slot, name);
                }
                Err(denied) => {
                    let refusal = refused.get_or_insert_with(|| refusal(denied.code(), denied.message(name)));
                    refusal.channels.push(name.clone());
                }
            }
        }
        // The allowed ones stand.
        self.reply(slot, reference, refused.map_or(Ok(()), Err));
        self.start(slot, first, after, 0);
        Ok(())
    }

    /// A token within the connection: the one it waits for, or the present one's successor.
    fn take_token(&mut self, slot: u32, token: &str, reference: Option<&str>) -> Result<(), Refusal> {
        let awaited = self.hear_token(slot, token).map_err(|(code, message)| refusal(code, message))?;
        self.reply(slot, reference, Ok(()));
        if let Some(awaited) = awaited {
            // There was when it came; others may have taken it since.
            match self.has_room_for_channels(&awaited.channels) {
                Ok(()) => self.begin_subscriptions(slot, &awaited.channels, awaited.after),
                Err(reject) => {
                    let refused = Refusal { channels: awaited.channels, ..refusal(reject.code, reject.message) };
                    self.reply(slot, None, Err(refused));
                }
            }
        }
        for name in self.no_longer_granted(slot) {
            let _ = self.unsubscribe_some(slot, &[name.to_string()]);
            let connection = &mut self.connections[slot];
            connection.dialect.write_unsubscribed(&name, "the new token does not allow it", connection.out());
        }
        Ok(())
    }

    /// Says that a channel which was asked for with the connection is refused.
    pub(super) fn refuse_channel(&mut self, slot: u32, denied: Denied, channel: &str) {
        let refused = Refusal { channels: vec![channel.to_owned()], ..refusal(denied.code(), denied.message(channel)) };
        self.reply(slot, None, Err(refused));
    }

    fn unsubscribe_some(&mut self, slot: u32, names: &[String]) -> Result<(), Refusal> {
        for name in names {
            let dialect = self.connections[slot].dialect;
            let lane = self.channels.find(name).and_then(|channel| self.channels.find_lane(channel, dialect));
            let connection = &self.connections[slot];
            let mut all = 0..connection.subscriptions();
            let index = all.find(|index| connection.subscription(*index).is_some_and(|s| Some(s.lane) == lane));
            let Some(index) = index.filter(|_| lane.is_some()) else {
                return Err(refusal("not_subscribed", format!("there is no subscription to {name:?}")));
            };
            self.unsubscribe(slot, index);
        }
        Ok(())
    }

    /// Answers a request with what became of it, if that is asked for or it was refused.
    pub(super) fn reply(&mut self, slot: u32, reference: Option<&str>, result: Result<(), Refusal>) {
        if reference.is_none() && result.is_ok() {
            return;
        }
        if result.is_err() {
            self.counters.errors += 1;
        }
        self.write_reply(slot, reference, |out| match result {
            Ok(()) => out.extend_from_slice(b"\"ok\":true"),
            Err(Refusal { code, message, channels }) => {
                out.extend_from_slice(b"\"error\":{\"code\":");
                json::write_string(code, out);
                out.extend_from_slice(b",\"message\":");
                json::write_string(&message, out);
                if !channels.is_empty() {
                    out.extend_from_slice(b",\"channels\":");
                    json::write_strings(channels.iter().map(String::as_str), out);
                }
                out.push(b'}');
            }
        });
    }

    /// Answers a client's publish with the event's id, if that is asked for.
    pub(super) fn reply_with_id(&mut self, slot: u32, reference: Option<&str>, id: Id) {
        if reference.is_none() {
            return;
        }
        self.write_reply(slot, reference, |out| {
            out.extend_from_slice(b"\"ok\":true,\"id\":\"");
            id.write(out);
            out.push(b'"');
        });
    }

    fn write_reply(&mut self, slot: u32, reference: Option<&str>, members: impl FnOnce(&mut Vec<u8>)) {
        write_ws(Opcode::Text, self.connections[slot].out(), |out| {
            out.push(b'{');
            if let Some(reference) = reference {
                out.extend_from_slice(b"\"ref\":");
                out.extend_from_slice(reference.as_bytes());
                out.push(b',');
            }
            members(out);
            out.push(b'}');
        });
    }
}
