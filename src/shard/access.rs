//! Who may do what: tokens when a connection comes, what they grant, and when they end.

use arcstr::ArcStr;

use crate::logic::auth::{Identity, TokenError};
use crate::logic::protocol::dialect::Dialect;
use crate::logic::protocol::http::{Reject, Request};
use crate::logic::protocol::query::SubscribeQuery;
use crate::logic::protocol::ws;
use crate::logic::reason::Reason;
use crate::logic::wheel::Tick;
use crate::sys::clock::unix_ms;

use super::Shard;
use super::connection::{Awaited, State};
use super::identities::Known;
use super::settings::TICK_MS;

/// Why a channel is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It needs a token, and there is none.
    NoToken,
    /// The token does not name it.
    NotGranted,
}

impl Denied {
    /// A word for programs.
    pub(super) fn code(self) -> &'static str {
        match self {
            Denied::NoToken => "unauthorized",
            Denied::NotGranted => "forbidden",
        }
    }

    /// A sentence for people.
    pub(super) fn message(self, channel: &str) -> String {
        match self {
            Denied::NoToken => format!("the channel {channel:?} needs a token"),
            Denied::NotGranted => format!("the token does not allow the channel {channel:?}"),
        }
    }

    fn reject(self, channel: &str) -> Reject {
        let status = if self == Denied::NoToken { 401 } else { 403 };
        Reject::new(status, self.code(), self.message(channel))
    }
}

fn refuse_token(error: TokenError) -> Reject {
    let code = if error == TokenError::Expired { "token_expired" } else { "invalid_token" };
    Reject::new(401, code, error.to_string())
}

impl Shard {
    /// Verifies the token that a request carries, if it carries one, and remembers whom the connection belongs to.
    pub(super) fn identify(&mut self, slot: u32, request: &Request<'_>, query: &SubscribeQuery) -> Result<(), Reject> {
        let is_asked = self.connections[slot].asking().is_some();
        if !is_asked {
            self.forget(slot);
        }
        if self.keyring.is_none() {
            return Ok(());
        }
        let cookie = &self.settings.config.auth.cookie;
        let in_cookie = || request.cookie(cookie).filter(|value| !cookie.is_empty() && !value.is_empty());
        let Some(token) = request.bearer().or(query.token.as_deref()).or_else(in_cookie) else { return Ok(()) };
        let identity = self.verify(token).map_err(|error| {
            self.counters.tokens_refused += 1;
            refuse_token(error)
        })?;
        self.remember(slot, identity)
    }

    fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let now_s = unix_ms() / 1000;
        let identity = self.keyring.as_ref().ok_or(TokenError::NoKey)?.verify(token, now_s)?;
        match &identity.token {
            Some(id) if self.identities.revoked.contains(id, now_s) => Err(TokenError::Revoked),
            _ => Ok(identity),
        }
    }

    fn remember(&mut self, slot: u32, identity: Identity) -> Result<(), Reject> {
        if !self.enter_user(slot, identity.user.as_ref()) {
            return Err(self.too_many_of_user());
        }
        let left_ms = (identity.expires_s * 1000).saturating_sub(unix_ms());
        let left = Tick::try_from(left_ms.div_ceil(TICK_MS)).unwrap_or(Tick::MAX / 2).min(Tick::MAX / 2);
        let Identity { user, token, grants, .. } = identity;
        let expires = self.now + left.max(1);
        self.identities.insert(slot, Known { user, token, grants, expires, is_asked: false });
        Ok(())
    }

    /// What a user is told who has too many connections.
    pub(super) fn too_many_of_user(&mut self) -> Reject {
        let reject = Reject::new(429, "too_many", "there are too many connections of this user");
        reject.retry_after(self.rng.u32(1..=5))
    }

    /// Takes one of a user's places for a connection, in place of that of whom it belongs to now.
    pub(super) fn enter_user(&mut self, slot: u32, user: Option<&ArcStr>) -> bool {
        let before = self.user(slot).cloned();
        if before.as_ref() == user {
            return true;
        }
        if let Some(user) = user
            && !self.room.enter_as(user)
        {
            self.counters.refused += 1;
            return false;
        }
        if let Some(before) = before {
            self.room.leave_as(&before);
        }
        true
    }

    /// Forgets whom a connection belonged to.
    pub(super) fn forget(&mut self, slot: u32) {
        self.talk.forget(slot);
        if let Some(user) = self.identities.remove(slot).and_then(|known| known.user) {
            self.room.leave_as(&user);
        }
    }

    /// Whom a connection belongs to.
    pub(super) fn user(&self, slot: u32) -> Option<&ArcStr> {
        self.identities.get(slot)?.user.as_ref()
    }

    /// Whether a connection may subscribe to a channel.
    pub(super) fn may_subscribe(&self, slot: u32, channel: &str) -> Result<(), Denied> {
        let is_open = self.keyring.is_none() && !self.asks_backend();
        if is_open || self.connections[slot].is_own() || self.settings.config.namespace(channel).public {
            return Ok(());
        }
        match self.identities.get(slot) {
            Some(known) if known.may_subscribe(channel) => Ok(()),
            Some(_) => Err(Denied::NotGranted),
            None if self.settings.config.auth.allow_anonymous => Ok(()),
            None => Err(Denied::NoToken),
        }
    }

    /// Refuses a request that asks for a channel it may not have.
    pub(super) fn check_channels(&self, slot: u32, query: &SubscribeQuery) -> Result<(), Reject> {
        query.channels.iter().try_for_each(|name| self.may_subscribe(slot, name).map_err(|denied| denied.reject(name)))
    }

    /// Whether a WebSocket that came without a token must send one before it gets anything: it asks for nothing
    /// yet, or for what needs one.
    pub(super) fn must_send_token(&self, slot: u32, query: &SubscribeQuery) -> bool {
        self.keyring.is_some()
            && self.identities.get(slot).is_none()
            && !self.settings.config.auth.allow_anonymous
            && !self.asks_backend()
            && (query.channels.is_empty() || self.check_channels(slot, query).is_err())
    }

    /// Has a WebSocket wait for its token.
    pub(super) fn await_token(&mut self, slot: u32, query: &SubscribeQuery) {
        let awaited = Awaited { channels: query.channels.clone(), after: query.after };
        self.connections[slot].extra().awaited = Some(Box::new(awaited));
        let deadline = self.now + self.settings.token_timeout;
        self.set_deadline(slot, deadline);
    }

    /// Hears a token within a WebSocket: the first one, or one that takes the present one's place. Returns what
    /// the connection was waiting for.
    pub(super) fn hear_token(
        &mut self,
        slot: u32,
        token: &str,
    ) -> Result<Option<Box<Awaited>>, (&'static str, String)> {
        if self.keyring.is_none() {
            return Err(("unavailable", "this server verifies no tokens".into()));
        }
        let identity = self.verify(token).map_err(|error| {
            self.counters.tokens_refused += 1;
            ("invalid_token", error.to_string())
        })?;
        if let Some(known) = self.identities.get(slot)
            && known.user != identity.user
        {
            return Err(("forbidden", "the token is of another user; connect again with it".into()));
        }
        let has_user = self.user(slot).is_some();
        let remembered = match has_user || identity.user.is_none() {
            true => self.remember(slot, identity),
            // Who was nobody is somebody now.
            false => self.change_user(slot, |shard| shard.remember(slot, identity)),
        };
        remembered.map_err(|reject| (reject.code, reject.message.into_owned()))?;
        let connection = &mut self.connections[slot];
        let awaited = connection.extra.as_mut().and_then(|extra| extra.awaited.take());
        if awaited.is_some() {
            connection.deadline = 0;
        }
        self.schedule(slot);
        Ok(awaited)
    }

    /// The channels a connection is subscribed to and may not be any more.
    pub(super) fn no_longer_granted(&self, slot: u32) -> Vec<ArcStr> {
        let connection = &self.connections[slot];
        let lanes = connection.subscriptions_from(0);
        let names = lanes.filter_map(|s| self.channels.channels[self.channels.lanes[s.lane].channel].name.clone());
        names.filter(|name| self.may_subscribe(slot, name).is_err()).collect()
    }

    /// When a connection's token ends.
    pub(super) fn token_ends(&self, slot: u32) -> Option<Tick> {
        if self.identities.len() == 0 {
            return None;
        }
        self.identities.get(slot).map(|known| known.expires).filter(|end| *end != Tick::MAX)
    }

    /// Ends a connection whose token has ended; returns whether it has.
    pub(super) fn end_expired(&mut self, slot: u32) -> bool {
        if self.token_ends(slot).is_none_or(|end| end > self.now) {
            return false;
        }
        if self.connections[slot].state == State::Http {
            // Nothing is open; the next request brings its own token.
            self.forget(slot);
            return false;
        }
        self.close(slot, Reason::Expired, ws::CLOSE_EXPIRED, "the token has expired");
        true
    }

    /// Lets go of what has no effect any more.
    pub(super) fn tidy_access(&mut self) {
        self.identities.revoked.tidy(unix_ms() / 1000);
    }

    /// Takes a user's connections off a channel; returns how many subscriptions that were.
    pub(super) fn unsubscribe_user(&mut self, user: &str, channel: &str, reason: &str) -> u64 {
        let Some(number) = self.channels.find(channel) else { return 0 };
        let mut count = 0;
        for slot in self.identities.of_user(user) {
            let connection = &self.connections[slot];
            let mut all = 0..connection.subscriptions();
            let lane_of = |index: usize| connection.subscription(index).map(|s| self.channels.lanes[s.lane].channel);
            let Some(index) = all.find(|index| lane_of(*index) == Some(number)) else { continue };
            count += 1;
            if connection.state == State::Poll {
                self.close(slot, Reason::Kicked, ws::CLOSE_KICKED, reason);
                continue;
            }
            self.unsubscribe(slot, index);
            let connection = &mut self.connections[slot];
            connection.dialect.write_unsubscribed(channel, reason, connection.out());
            if connection.subscriptions() == 0 && connection.dialect != Dialect::WsJson {
                self.close(slot, Reason::Kicked, ws::CLOSE_KICKED, reason);
            }
            self.queue(slot);
        }
        count
    }
}
