//! Showing connections to those who look after the server. Many connections are looked through a part per turn, so
//! that clients notice nothing of it.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use serde::Serialize;

use crate::link::{ConnectionFilter, HubMessage, Look, Seen};
use crate::logic::cells::NONE;
use crate::logic::wheel::Tick;
use crate::sys::socket::{self, TcpState};

use super::connection::{Connection, Flags, State};
use super::settings::TICK_MS;
use super::{Shard, connection_id};

/// Slots that one turn looks at.
const SLOTS_PER_TURN: u32 = 1024;
/// Channels that one row names.
const CHANNELS_SHOWN: usize = 100;

/// A question that is being worked on.
#[derive(Debug)]
struct Survey {
    request: u64,
    look: Arc<Look>,
    position: u32,
    matched: u64,
    /// The best so far, with how far behind they are.
    found: Vec<(u64, u32)>,
}

/// All of a shard.
#[derive(Debug, Default)]
pub(super) struct Surveys(VecDeque<Survey>);

/// A connection, as it is shown.
#[derive(Serialize)]
struct Row<'a> {
    conn: String,
    transport: &'static str,
    address: String,
    user: Option<&'a str>,
    /// Since it was accepted, since bytes last came from it, since the kernel last took bytes for it.
    age_ms: u64,
    silent_ms: u64,
    unsent_ms: u64,
    events: u32,
    /// Framed bytes between its cursors and the heads, and bytes of replies and missed events that wait.
    lag_bytes: u64,
    waiting_bytes: usize,
    /// The kernel has no room for more.
    blocked: bool,
    /// Missed events are being sent.
    replaying: bool,
    channels: Vec<ChannelRow<'a>>,
    channels_total: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpState>,
}

#[derive(Serialize)]
struct ChannelRow<'a> {
    channel: &'a str,
    lag_bytes: u64,
    /// The newest event that was sent, if the log knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

fn transport(connection: &Connection) -> &'static str {
    match connection.state {
        State::Stream => "sse",
        State::WebSocket => "ws",
        State::Poll => "poll",
        State::Proxied | State::Http => "http",
        State::Closing | State::Lingering => "closing",
        State::Free | State::Dead => "closed",
    }
}

impl Shard {
    /// Hears a question; one about many connections is answered over some turns.
    pub(super) fn look(&mut self, request: u64, look: &Arc<Look>) {
        let seen = match &**look {
            Look::Connections(_) => {
                let survey = Survey { request, look: look.clone(), position: 0, matched: 0, found: Vec::new() };
                self.surveys.0.push_back(survey);
                return;
            }
            Look::Connection(id) => {
                let row = self.find(*id).map(|slot| (0, self.row(slot, true)));
                Seen::Rows { matched: u64::from(row.is_some()), rows: row.into_iter().collect() }
            }
            Look::Subscribers(names) => Seen::Counts(names.iter().map(|name| self.subscribers(name)).collect()),
        };
        self.tell_hub(HubMessage::Seen { request, seen });
    }

    fn subscribers(&self, name: &str) -> u32 {
        let lanes = self.channels.find(name).into_iter().flat_map(|channel| self.channels.lanes_of(channel));
        lanes.map(|lane| self.channels.readers(lane).len() as u32).sum()
    }

    /// Looks at some more slots; returns whether there are others.
    pub(super) fn go_on_looking(&mut self) -> bool {
        let Some(mut survey) = self.surveys.0.pop_front() else { return false };
        let look = survey.look.clone();
        let Look::Connections(filter) = &*look else { return !self.surveys.0.is_empty() };
        let end = survey.position.saturating_add(SLOTS_PER_TURN).min(self.connections.capacity());
        // The channel may have come or gone since the turn before, and its number with it.
        let channel = filter.channel.as_ref().map(|name| self.channels.find(name).unwrap_or(NONE));
        while survey.position < end {
            let slot = survey.position;
            survey.position += 1;
            if self.is_wanted(slot, filter, channel) {
                survey.matched += 1;
                survey.add(slot, self.lag(slot), filter);
            }
        }
        if survey.position < self.connections.capacity() {
            self.surveys.0.push_back(survey);
            return true;
        }
        let is_there = |slot: u32| !matches!(self.connections[slot].state, State::Free | State::Dead);
        let found = survey.found.iter().filter(|(_, slot)| is_there(*slot));
        let rows = found.map(|(lag, slot)| (*lag, self.row(*slot, false))).collect();
        let seen = Seen::Rows { rows, matched: survey.matched };
        self.tell_hub(HubMessage::Seen { request: survey.request, seen });
        !self.surveys.0.is_empty()
    }

    fn is_wanted(&self, slot: u32, filter: &ConnectionFilter, channel: Option<u32>) -> bool {
        let connection = &self.connections[slot];
        !matches!(connection.state, State::Free | State::Dead)
            && filter.address.is_none_or(|address| connection.peer.ip() == address)
            && channel.is_none_or(|channel| {
                connection.subscriptions_from(0).any(|s| self.channels.lanes[s.lane].channel == channel)
            })
            && filter.user.as_ref().is_none_or(|user| self.user(slot) == Some(user))
    }

    /// How many framed bytes a connection is behind.
    fn lag(&self, slot: u32) -> u64 {
        let all = self.connections[slot].subscriptions_from(0).filter(|s| s.place != NONE);
        all.map(|s| self.channels.lanes[s.lane].log.head() - s.cursor).sum()
    }

    fn row(&self, slot: u32, in_detail: bool) -> Box<str> {
        let connection = &self.connections[slot];
        let since = |then: Tick| u64::from(self.now.saturating_sub(then)) * TICK_MS;
        let channels = connection.subscriptions_from(0).map(|s| {
            let lane = &self.channels.lanes[s.lane];
            let reads = s.place != NONE;
            let cursor = lane.log.id_until(s.cursor).filter(|_| reads && in_detail);
            ChannelRow {
                channel: self.channels.name(lane.channel),
                lag_bytes: if reads { lane.log.head() - s.cursor } else { 0 },
                cursor: cursor.map(|id| id.to_string()),
            }
        });
        let known = self.identities.get(slot);
        let expires = known.map(|known| known.expires).filter(|end| *end != Tick::MAX);
        let row = Row {
            conn: connection_id(self.index, slot, connection.generation).to_string(),
            transport: transport(connection),
            address: connection.peer.to_string(),
            user: self.user(slot).map(|user| user.as_str()),
            age_ms: since(connection.opened),
            silent_ms: since(connection.received),
            unsent_ms: since(connection.sent),
            events: connection.events,
            lag_bytes: self.lag(slot),
            waiting_bytes: connection.out_waiting(),
            blocked: connection.flags.has(Flags::BLOCKED),
            replaying: connection.flags.has(Flags::REPLAYING),
            channels: channels.take(CHANNELS_SHOWN).collect(),
            channels_total: connection.subscriptions(),
            token_expires_ms: expires.map(|end| u64::from(end.saturating_sub(self.now)) * TICK_MS),
            tcp: connection.fd.as_ref().filter(|_| in_detail).and_then(|fd| socket::tcp_state(fd.as_fd()).ok()),
        };
        serde_json::to_string(&row).unwrap_or_default().into()
    }
}

impl Survey {
    fn add(&mut self, slot: u32, lag: u64, filter: &ConnectionFilter) {
        if !filter.slowest_first {
            if self.found.len() < filter.limit {
                self.found.push((lag, slot));
            }
            return;
        }
        self.found.push((lag, slot));
        // Sorted rarely: only when twice as many as wanted have come together.
        if self.found.len() >= filter.limit.saturating_mul(2).max(64) {
            self.found.sort_unstable_by_key(|(lag, _)| Reverse(*lag));
            self.found.truncate(filter.limit);
        }
    }
}
