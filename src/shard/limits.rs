//! The limits on rates as they concern a connection: as itself, as one of its address's and as one of its user's.

use std::net::IpAddr;

use crate::figures::Limit;
use crate::logic::code::Code;
use crate::logic::refusal::Refusal;

use super::admission::group;
use super::connection::{Connection, Flags};
use super::context::Context;
use super::lanes::{Following, Lanes};
use super::rates::{Rate, Subject};
use super::settings::Shares;

/// The address whose rates a connection counts for. There is none for this host's own addresses, for a proxy that has
/// not named its client, and for a peer on a Unix socket: many clients may be behind each.
fn address(cx: &Context, connection: &Connection) -> Option<IpAddr> {
    let ip = connection.peer.ip();
    let is_many = ip.is_unspecified() || ip.is_loopback() || cx.settings.trusts(ip);
    (!is_many).then(|| group(ip))
}

/// Whether a connection may carry the requests of many clients, so that it has no rates of its own.
fn is_shared(cx: &Context, connection: &Connection) -> bool {
    let is_unix = connection.peer.ip().is_unspecified();
    is_unix || connection.flags.intersects(Flags::VIA_PROXY) || cx.settings.trusts(connection.peer.ip())
}

/// Counts a refusal by a limit; returns the answer to the client.
fn refusal(cx: &mut Context, limit: Limit, retry_secs: u32) -> Refusal {
    cx.counters.limited[limit as usize] += 1;
    let (code, message) = match limit {
        Limit::RequestRate => (Code::RequestRate, "requests come too fast"),
        Limit::FailedTokens => (Code::FailedTokens, "too many tokens from your address do not verify"),
        Limit::NewNames => (Code::NewNames, "too many new channels are named at once"),
        Limit::Joins => (Code::Joins, "channels with presence are joined too fast"),
    };
    // Clients that were refused together do not come back together.
    let retry_secs = retry_secs + cx.retry_after_secs();
    Refusal::new(code, message).retry_after(retry_secs)
}

/// Takes `units` off what the connection, its address and its user may have.
fn take(
    cx: &mut Context,
    (slot, connection): (u32, &Connection),
    limit: Limit,
    shares: &Shares,
    user: Option<&str>,
    units: usize,
) -> Result<(), Refusal> {
    let nobody = (Subject::User(""), Rate::default());
    let own = Subject::Connection(slot, connection.generation);
    let subjects = [
        if is_shared(cx, connection) { nobody } else { (own, shares.connection) },
        address(cx, connection).map_or(nobody, |address| (Subject::Address(address), shares.address)),
        user.map_or(nobody, |user| (Subject::User(user), shares.user)),
    ];
    cx.rates.take(limit, &subjects, units, cx.now).map_err(|secs| refusal(cx, limit, secs))
}

/// Counts a request of a connection, before the user is known. The first one counts for the address alone: most connections
/// make no other, and need no entry in the table.
///
/// # Errors
/// If requests on the connection or from its address come too fast. The connection is closed, because what it has sent
/// ahead would be refused too.
pub(super) fn admit_request(cx: &mut Context, slot: u32, connection: &Connection) -> Result<(), Refusal> {
    let mut shares = cx.settings.rates.requests;
    if !connection.flags.intersects(Flags::ASKED) {
        shares.connection = Rate::default();
    }
    let admitted = take(cx, (slot, connection), Limit::RequestRate, &shares, None, 1);
    admitted.map_err(|refusal| Refusal { close: true, ..refusal })
}

/// Counts a request of a user.
///
/// # Errors
/// If the user's requests come too fast.
pub(super) fn admit_request_of(cx: &mut Context, user: &str) -> Result<(), Refusal> {
    let subjects = [(Subject::User(user), cx.settings.rates.requests.user)];
    let taken = cx.rates.take(Limit::RequestRate, &subjects, 1, cx.now);
    taken.map_err(|secs| refusal(cx, Limit::RequestRate, secs))
}

/// Checks that a token of the connection's address may be looked at.
///
/// # Errors
/// If too many tokens from there did not verify of late.
pub(super) fn may_try_token(cx: &mut Context, connection: &Connection) -> Result<(), Refusal> {
    let Some(address) = address(cx, connection) else { return Ok(()) };
    let rate = cx.settings.rates.failed_tokens;
    let checked = cx.rates.check(Limit::FailedTokens, Subject::Address(address), rate, cx.now);
    checked.map_err(|secs| refusal(cx, Limit::FailedTokens, secs))
}

/// Counts a token of the connection's address that did not verify.
pub(super) fn note_failed_token(cx: &mut Context, connection: &Connection) {
    let Some(address) = address(cx, connection) else { return };
    let subjects = [(Subject::Address(address), cx.settings.rates.failed_tokens)];
    // Whether the address has a token left was checked before.
    let _ = cx.rates.take(Limit::FailedTokens, &subjects, 1, cx.now);
}

/// Counts the channels among `names` that are new to the shard: each makes lanes here and a route in the hub.
///
/// # Errors
/// If the connection, its address or its user names new channels too fast. None of `names` is counted then.
pub(super) fn admit_names(
    cx: &mut Context,
    lanes: &Lanes,
    (slot, connection): (u32, &Connection),
    user: Option<&str>,
    names: &[impl AsRef<str>],
) -> Result<(), Refusal> {
    let is_followed = |channel| lanes.channels[channel].following != Following::GivenUp;
    let is_new = |name: &&_| !lanes.find(AsRef::<str>::as_ref(*name)).is_some_and(is_followed);
    let new = names.iter().filter(is_new).count();
    if new == 0 {
        return Ok(());
    }
    let shares = cx.settings.rates.new_names;
    take(cx, (slot, connection), Limit::NewNames, &shares, user, new)
}

/// Counts the channels among `names` whose users are counted: each coming and each leaving is an event for all that are
/// there.
///
/// # Errors
/// If the connection, its address or its user joins such channels too fast. None of `names` is counted then.
pub(super) fn admit_joins(
    cx: &mut Context,
    (slot, connection): (u32, &Connection),
    user: Option<&str>,
    names: &[impl AsRef<str>],
) -> Result<(), Refusal> {
    let joins = names.iter().filter(|name| cx.settings.policy(name.as_ref()).presence).count();
    if joins == 0 {
        return Ok(());
    }
    let shares = cx.settings.rates.joins;
    take(cx, (slot, connection), Limit::Joins, &shares, user, joins)
}
