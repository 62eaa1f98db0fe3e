//! Access: the connections' identities, and the channels that these allow.

use std::collections::HashMap;
use std::sync::Arc;

use arcstr::ArcStr;

use crate::config::ClientAuth;
use crate::logic::auth::{Grants, Identity, Keyring, Revoked, TokenError};
use crate::logic::code::Code;
use crate::logic::protocol::http::Request;
use crate::logic::protocol::query::SubscribeQuery;
use crate::logic::refusal::Refusal;
use crate::logic::sparse::Sparse;
use crate::logic::tls::CertifiedClient;
use crate::logic::wheel::Tick;
use crate::sys::clock::unix_ms;

use super::connection::Connection;
use super::context::Context;
use super::identities::{Identities, Known};
use super::lanes::Lanes;
use super::limits::{may_try_token, note_failed_token};
use super::rates::Talk;
use super::settings::TICK_MS;
use super::slots::Slots;

/// The cause for which a channel is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The channel needs a token, and the connection has none.
    NoToken,
    /// The connection's token does not name the channel.
    NotGranted,
}

impl Denied {
    /// The refusal's code for programs.
    pub(super) fn code(self) -> Code {
        match self {
            Denied::NoToken => Code::Unauthorized,
            Denied::NotGranted => Code::Forbidden,
        }
    }

    /// The refusal's sentence for people.
    pub(super) fn message(self, channel: &str) -> String {
        match self {
            Denied::NoToken => format!("the channel {channel:?} needs a token"),
            Denied::NotGranted => format!("the token does not allow the channel {channel:?}"),
        }
    }

    /// The refusal of a request for the channel.
    pub(super) fn refusal(self, channel: &str) -> Refusal {
        Refusal::new(self.code(), self.message(channel))
    }
}

/// The keys, the identities, and the rates of messages; see the module's documentation.
pub(super) struct Access {
    /// The keys by which tokens are verified; `None` if clients need no token.
    pub(super) keyring: Option<Arc<Keyring>>,
    pub(super) identities: Identities,
    /// The clients of connections that have come with a certificate, whatever they request.
    certified: Sparse<Box<CertifiedClient>>,
    /// The messages of each WebSocket client in the present second.
    pub(super) talk: Talk,
    /// The tokens within a WebSocket that have failed one after the other, by slot.
    failed: HashMap<u32, u32>,
    /// The ticks for which the shard has stood still since its start. They are no part of the shard's time, but tokens
    /// expire by the time of the day.
    paused: Tick,
}

impl Access {
    pub(super) fn new(keyring: Option<Arc<Keyring>>, revoked: Revoked) -> Access {
        let identities = Identities::new(revoked);
        Access {
            keyring,
            identities,
            certified: Sparse::default(),
            talk: Talk::default(),
            failed: HashMap::new(),
            paused: 0,
        }
    }

    /// Notes that the shard has stood still for some ticks.
    pub(super) fn note_pause(&mut self, ticks: Tick) {
        self.paused = self.paused.saturating_add(ticks);
    }

    /// Notes the certificate with which a connection has come.
    pub(super) fn certify(&mut self, slot: u32, client: CertifiedClient) {
        self.certified.insert(slot, Box::new(client));
    }

    /// The client of a connection that has come with a certificate.
    pub(super) fn certified(&self, slot: u32) -> Option<&CertifiedClient> {
        self.certified.get(slot).map(|client| &**client)
    }

    /// Gives a connection the identity of a certificate, if there is one: its own, or that of the connection which carries it. An error if the certificate was revoked
    /// meanwhile, or if the user has too many connections.
    pub(super) fn identify_by_certificate(&mut self, cx: &mut Context, slot: u32, owner: u32) -> Result<(), Refusal> {
        let Some(client) = self.certified.get(owner) else { return Ok(()) };
        let CertifiedClient { user, id, expires_s } = (**client).clone();
        let now_s = unix_ms() / 1000;
        if self.identities.revoked.contains(&id, now_s) {
            return Err(Refusal::new(Code::InvalidToken, "the certificate was revoked"));
        }
        if expires_s <= now_s {
            return Err(Refusal::new(Code::TokenExpired, "the certificate has expired"));
        }
        let grants = Grants::new(&cx.settings.config.tls.client_channels, &[]);
        self.remember(cx, slot, Identity { user: user.map(Into::into), token: Some(id.into()), expires_s, grants })
    }

    /// Forgets everything about a connection that has ended.
    pub(super) fn forget_connection(&mut self, cx: &Context, slot: u32) {
        self.forget(cx, slot);
        self.certified.remove(slot);
    }

    /// Counts a token of a WebSocket that has failed; returns how many have failed one after the other.
    pub(super) fn count_failure(&mut self, slot: u32) -> u32 {
        let failed = self.failed.entry(slot).or_default();
        *failed += 1;
        *failed
    }

    /// The token that a request carries, if it carries one and tokens are verified at all.
    pub(super) fn token_of<'a>(
        &self,
        cx: &Context,
        request: &'a Request<'_>,
        query: &'a SubscribeQuery,
    ) -> Option<&'a str> {
        self.keyring.as_ref()?;
        let cookie = &cx.settings.config.auth.cookie;
        let in_cookie = || request.cookie(cookie).filter(|value| !cookie.is_empty() && !value.is_empty());
        request.bearer().or(query.token.as_deref()).or_else(in_cookie)
    }

    /// Verifies a token of a client, unless too many tokens of the client's address have failed.
    pub(super) fn verify_of(
        &self,
        cx: &mut Context,
        connection: &Connection,
        token: &str,
    ) -> Result<Identity, Refusal> {
        may_try_token(cx, connection)?;
        self.verify(cx, token).map_err(|error| {
            note_failed_token(cx, connection);
            let code = if error == TokenError::Expired { Code::TokenExpired } else { Code::InvalidToken };
            Refusal::new(code, error.to_string())
        })
    }

    /// Verifies a token.
    fn verify(&self, cx: &mut Context, token: &str) -> Result<Identity, TokenError> {
        let now_s = unix_ms() / 1000;
        let verified = match &self.keyring {
            Some(keyring) => keyring.verify(token, now_s),
            None => Err(TokenError::NoKey),
        };
        let checked = verified.and_then(|identity| match &identity.token {
            Some(id) if self.identities.revoked.contains(id, now_s) => Err(TokenError::Revoked),
            _ => Ok(identity),
        });
        cx.counters.tokens_refused += u64::from(checked.is_err());
        checked
    }

    /// Gives a connection the identity of a token. An error if the user has too many connections.
    pub(super) fn remember(&mut self, cx: &mut Context, slot: u32, identity: Identity) -> Result<(), Refusal> {
        let left_ms = (identity.expires_s * 1000).saturating_sub(unix_ms());
        let left = Tick::try_from(left_ms.div_ceil(TICK_MS)).unwrap_or(Tick::MAX / 2).min(Tick::MAX / 2);
        let Identity { user, token, grants, .. } = identity;
        let expires = cx.now.saturating_add(self.paused).saturating_add(left.max(1));
        self.failed.remove(&slot);
        self.set(cx, slot, Known { user, token, grants, expires, is_asked: false })
    }

    /// The identity of a connection after a decision of the backend: the newly allowed channels come beside those
    /// allowed before. Once a connection's user is known, it stays the same.
    pub(super) fn decided(&self, cx: &Context, slot: u32, channels: &[String], user: Option<ArcStr>) -> Known {
        let nobody = Known { user: None, token: None, grants: Grants::default(), expires: Tick::MAX, is_asked: true };
        let mut known = self.identities.get(slot).cloned().unwrap_or(nobody);
        known.user = known.user.or(user);
        known.grants.allow(channels, cx.settings.config.limits.subscriptions);
        (known.expires, known.is_asked) = (Tick::MAX, true);
        known
    }

    /// Gives a connection an identity. An error if the user has too many connections.
    pub(super) fn set(&mut self, cx: &mut Context, slot: u32, known: Known) -> Result<(), Refusal> {
        let before = self.user(slot).cloned();
        if before != known.user {
            if let Some(user) = &known.user
                && !cx.admission.enter_as(user)
            {
                cx.counters.refused += 1;
                let refusal = Refusal::new(Code::TooMany, "there are too many connections of this user");
                return Err(refusal.retry_after(cx.retry_after_secs()));
            }
            if let Some(before) = before {
                cx.admission.leave_as(&before);
            }
        }
        self.identities.insert(slot, known);
        Ok(())
    }

    /// Takes a connection's identity away.
    pub(super) fn forget(&mut self, cx: &Context, slot: u32) {
        self.talk.forget(slot);
        self.failed.remove(&slot);
        if let Some(user) = self.identities.remove(slot).and_then(|known| known.user) {
            cx.admission.leave_as(&user);
        }
    }

    /// How many tokens of a WebSocket have failed one after the other.
    pub(super) fn failures(&self, slot: u32) -> u32 {
        self.failed.get(&slot).copied().unwrap_or(0)
    }

    /// Gives a connection of a predecessor its identity, and the number of its failed tokens. No limit holds for it.
    pub(super) fn restore(&mut self, cx: &Context, slot: u32, known: Option<Known>, failures: u32) {
        if let Some(known) = known {
            if let Some(user) = &known.user {
                cx.admission.restore_as(user);
            }
            self.identities.insert(slot, known);
        }
        if failures > 0 {
            self.failed.insert(slot, failures);
        }
    }

    /// A connection's user, if it is known.
    pub(super) fn user(&self, slot: u32) -> Option<&ArcStr> {
        self.identities.get(slot)?.user.as_ref()
    }

    /// Whether a connection's identity comes from a token.
    pub(super) fn has_token(&self, slot: u32) -> bool {
        self.identities.get(slot).is_some_and(|known| !known.is_asked)
    }

    /// Whether a connection may subscribe to a channel.
    pub(super) fn may_subscribe(&self, cx: &Context, slot: u32, channel: &str) -> Result<(), Denied> {
        let auth = &cx.settings.config.auth;
        let asks_for_certificates = cx.settings.config.tls.client_auth != ClientAuth::Off;
        let is_open = self.keyring.is_none() && !auth.ask_backend && !asks_for_certificates;
        if is_open || cx.settings.config.namespace(channel).public {
            return Ok(());
        }
        match self.identities.get(slot) {
            Some(known) if known.may_subscribe(channel) => Ok(()),
            Some(_) => Err(Denied::NotGranted),
            None if auth.allow_anonymous => Ok(()),
            None => Err(Denied::NoToken),
        }
    }

    /// Whether a connection may publish to a channel.
    pub(super) fn may_publish(&self, cx: &Context, slot: u32, channel: &str) -> bool {
        cx.settings.config.namespace(channel).client_publish
            && self.identities.get(slot).is_some_and(|known| known.may_publish(channel))
    }

    /// Checks that a connection may subscribe to all channels of a request.
    pub(super) fn check_channels(&self, cx: &Context, slot: u32, channels: &[String]) -> Result<(), Refusal> {
        let check = |name: &String| self.may_subscribe(cx, slot, name).map_err(|d| d.refusal(name));
        channels.iter().try_for_each(check)
    }

    /// Whether a WebSocket that came without a token must send one first: its request names no channel, or one that
    /// needs a token.
    pub(super) fn must_send_token(&self, cx: &Context, slot: u32, channels: &[String]) -> bool {
        let auth = &cx.settings.config.auth;
        self.keyring.is_some()
            && self.identities.get(slot).is_none()
            && !auth.allow_anonymous
            && !auth.ask_backend
            && (channels.is_empty() || self.check_channels(cx, slot, channels).is_err())
    }

    /// The subscribed channels of a connection that its present identity does not allow.
    pub(super) fn no_longer_granted(&self, cx: &Context, slots: &Slots, lanes: &Lanes, slot: u32) -> Vec<ArcStr> {
        let connection = &slots[slot];
        let names = connection.subscriptions_from(0).filter_map(|s| lanes.channel_of(s.lane).name.clone());
        names.filter(|name| self.may_subscribe(cx, slot, name).is_err()).collect()
    }

    /// The time at which a connection's identity expires, if it does.
    pub(super) fn ends(&self, slot: u32) -> Option<Tick> {
        if self.identities.len() == 0 {
            return None;
        }
        let end = self.identities.get(slot).map(|known| known.expires).filter(|end| *end != Tick::MAX)?;
        Some(end.saturating_sub(self.paused).max(1))
    }

    /// Forgets revocations of tokens that have expired.
    pub(super) fn tidy(&mut self) {
        self.identities.revoked.tidy(unix_ms() / 1000);
    }
}
