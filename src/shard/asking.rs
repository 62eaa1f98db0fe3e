//! Asking the backend about clients without a token: the request or message waits, and is looked at again with the
//! answer.

use crate::config::Verdict;
use crate::link::{Answer, ConnectionId, HubMessage, Question};
use crate::logic::auth::Grants;
use crate::logic::protocol::http::{Reject, Request};
use crate::logic::wheel::Tick;

use super::Shard;
use super::connection::{Asking, Flags, State};
use super::identities::Known;

/// What a connection is allowed that was asked about some channels: those themselves, or what the answer names. Of a long
/// list only the last names are kept, and what was asked about must be among them.
fn to_allow(asked: Vec<String>, named: Option<Vec<String>>) -> Vec<String> {
    let Some(mut named) = named else { return asked };
    named.sort_by_cached_key(|name| asked.contains(name));
    named
}

impl Shard {
    /// Whether who has no token may be allowed by the backend.
    pub(super) fn asks_backend(&self) -> bool {
        self.settings.config.auth.ask_backend
    }

    /// Whether a connection must wait for the backend's word on channels: it has no token, and they are neither public
    /// nor allowed already. With the answer there it goes on, whatever that was. `request` is what the backend may decide
    /// by, if there is one. Refused if the backend says who it is and that user has too many connections.
    pub(super) fn must_wait_for_backend(
        &mut self,
        slot: u32,
        channels: &[String],
        request: Option<&Request<'_>>,
    ) -> Result<bool, Reject> {
        if !self.asks_backend() || self.settings.config.auth.allow_anonymous || self.came_with_token(slot) {
            return Ok(false);
        }
        let asking = self.connections[slot].extra.as_mut().and_then(|extra| extra.asking.take());
        if let Some(outcome) = asking.and_then(|asking| asking.outcome) {
            return outcome.map(|()| false);
        }
        let unknown: Vec<String> =
            channels.iter().filter(|name| self.may_subscribe(slot, name).is_err()).cloned().collect();
        if unknown.is_empty() {
            return Ok(false);
        }
        if !self.upstream.listening.authorize {
            let allowed = if self.settings.config.auth.ask_default == Verdict::Allow { unknown } else { Vec::new() };
            self.allow(slot, allowed, None)?;
            return Ok(false);
        }
        self.ask(slot, unknown, request);
        Ok(true)
    }

    fn came_with_token(&self, slot: u32) -> bool {
        self.identities.get(slot).is_some_and(|known| !known.is_asked)
    }

    fn ask(&mut self, slot: u32, channels: Vec<String>, request: Option<&Request<'_>>) {
        self.counters.questions += 1;
        let number = self.counters.questions as u32;
        let connection = &mut self.connections[slot];
        connection.flags.set(Flags::PAUSED);
        connection.extra().asking = Some(Box::new(Asking { number, channels: channels.clone(), outcome: None }));
        let cookies = request.map(|request| request.cookies.join("; ")).filter(|cookies| !cookies.is_empty());
        let question = Question {
            number,
            channels,
            address: connection.peer.to_string().into(),
            authorization: request.and_then(|request| request.authorization).map(Into::into),
            cookie: cookies.map(Into::into),
            origin: request.and_then(|request| request.origin).map(Into::into),
        };
        let who = self.speaker(slot);
        self.tell_hub(HubMessage::Ask { who, question: Box::new(question) });
        let deadline = self.now + self.settings.ask_timeout;
        self.set_deadline(slot, deadline);
    }

    /// The backend, or its silence, has decided.
    pub(super) fn on_answer(&mut self, id: ConnectionId, number: u32, answer: Answer) {
        let Some(slot) = self.find(id) else { return };
        let asking = self.connections[slot].asking_mut();
        let Some(asking) = asking.filter(|asking| asking.number == number && asking.outcome.is_none()) else { return };
        let asked = std::mem::take(&mut asking.channels);
        // Not only when the request is looked at again: until then its user may be kicked.
        let outcome = self.allow(slot, to_allow(asked, answer.allowed), answer.user);
        if let Some(asking) = self.connections[slot].asking_mut() {
            asking.outcome = Some(outcome);
        }
        let connection = &mut self.connections[slot];
        connection.flags.clear(Flags::PAUSED);
        connection.deadline = 0;
        if connection.state == State::WebSocket {
            self.say_again(slot);
        } else {
            self.read_later(slot);
        }
    }

    /// The time for an answer is over; returns whether one was waited for.
    pub(super) fn answer_by_default(&mut self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        let Some(number) = connection.asking().filter(|asking| asking.outcome.is_none()).map(|asking| asking.number)
        else {
            return false;
        };
        let allowed = if self.settings.config.auth.ask_default == Verdict::Allow { None } else { Some(Vec::new()) };
        let id = super::connection_id(self.index, slot, connection.generation);
        self.counters.questions_unanswered += 1;
        self.on_answer(id, number, Answer { allowed, user: None });
        true
    }

    /// Remembers what the backend has allowed a connection, beside what it did before.
    fn allow(&mut self, slot: u32, channels: Vec<String>, user: Option<arcstr::ArcStr>) -> Result<(), Reject> {
        let before = self.identities.get(slot).cloned();
        let nobody = Known { user: None, token: None, grants: Grants::default(), expires: Tick::MAX, is_asked: true };
        let mut known = before.unwrap_or(nobody);
        // A connection stays whose it is.
        known.user = known.user.or(user);
        known.grants.allow(&channels, self.settings.config.limits.subscriptions);
        (known.expires, known.is_asked) = (Tick::MAX, true);
        if known.user.as_ref() == self.user(slot) {
            self.identities.insert(slot, known);
            return Ok(());
        }
        // Who was nobody is somebody now.
        self.change_user(slot, |shard| {
            if !shard.enter_user(slot, known.user.as_ref()) {
                return Err(shard.too_many_of_user());
            }
            shard.identities.insert(slot, known);
            Ok(())
        })
    }
}
