//! Surveys: showing connections to operators. A survey of many connections is spread over turns, so that it does not
//! delay deliveries.

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
use super::context::{Budget, Context};
use super::lanes::Lanes;
use super::settings::TICK_MS;
use super::slots::Slots;

/// The pieces of a turn's budget that making a row costs, beside one for each channel that it names.
const ROW_PIECES: usize = 8;
/// The most channels that one row names.
const CHANNELS_SHOWN: usize = 100;

/// A question about many connections that is being worked on.
#[derive(Debug)]
struct Survey {
    request: u64,
    look: Arc<Look>,
    position: u32,
    matched: u64,
    /// The slots to show so far, each with its connection's backlog in bytes.
    found: Vec<(u64, u32)>,
    /// The rows of those of them that are made already, once every slot was looked at.
    rows: Vec<(u64, Box<str>)>,
}

/// The questions about many connections, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Surveys(VecDeque<Survey>);

/// A connection's identity as a survey shows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Identified<'a> {
    /// The user's name, if it is known.
    pub(super) user: Option<&'a str>,
    /// The time at which the identity expires, if it does.
    pub(super) expires: Option<Tick>,
}

/// The state that a survey looks at: the connections, the lanes, and the identities by slot.
pub(super) struct View<'a> {
    pub(super) slots: &'a Slots,
    pub(super) lanes: &'a Lanes,
    pub(super) identity: &'a dyn Fn(u32) -> Identified<'a>,
}

/// A connection as a survey shows it.
#[derive(Serialize)]
struct Row<'a> {
    conn: String,
    transport: &'static str,
    address: String,
    user: Option<&'a str>,
    /// The times since the connection was accepted, since bytes last came from the client, and since the kernel last
    /// took bytes for the client.
    age_ms: u64,
    silent_ms: u64,
    unsent_ms: u64,
    events: u32,
    /// The backlog: framed bytes between the cursors and the heads, and bytes of replies and missed events that wait.
    lag_bytes: u64,
    waiting_bytes: usize,
    /// Whether the kernel has no room for more bytes.
    blocked: bool,
    /// Whether missed events are being sent.
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
    /// The id of the newest event that was sent, if the log knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

fn transport(connection: &Connection) -> &'static str {
    match connection.state {
        State::Stream | State::WebSocket | State::Poll => connection.key.protocol().carrier().name(),
        State::Proxied | State::Greeting | State::Http => "http",
        State::Carrying => "http2",
        State::Closing | State::Lingering => "closing",
        State::Free | State::Dead => "closed",
    }
}

impl Surveys {
    /// Takes a question. A question about many connections is answered over several turns.
    pub(super) fn look(&mut self, view: &View<'_>, cx: &mut Context, request: u64, look: &Arc<Look>) {
        let seen = match &**look {
            Look::Connections(_) => {
                let survey = Survey {
                    request,
                    look: look.clone(),
                    position: 0,
                    matched: 0,
                    found: Vec::new(),
                    rows: Vec::new(),
                };
                self.0.push_back(survey);
                return;
            }
            Look::Connection(id) => {
                let row = view.slots.find(cx.index, *id).map(|slot| (0, view.row(cx, slot, true)));
                Seen::Rows { matched: u64::from(row.is_some()), rows: row.into_iter().collect() }
            }
            Look::Subscribers(names) => Seen::Counts(names.iter().map(|name| view.subscribers(name)).collect()),
        };
        cx.tell_hub(HubMessage::Seen { request, seen });
    }

    /// Goes on with the first survey, as far as the budget reaches; returns whether there is more to do.
    pub(super) fn go_on(&mut self, view: &View<'_>, cx: &mut Context, budget: &mut Budget) -> bool {
        let Some(mut survey) = self.0.pop_front() else { return false };
        let look = survey.look.clone();
        if let Look::Connections(filter) = &*look {
            survey.search(view, filter, budget);
            survey.show(view, cx, budget);
            if !survey.is_over(view) {
                self.0.push_back(survey);
                return true;
            }
            let seen = Seen::Rows { rows: survey.rows, matched: survey.matched };
            cx.tell_hub(HubMessage::Seen { request: survey.request, seen });
        }
        !self.0.is_empty()
    }
}

impl View<'_> {
    fn subscribers(&self, name: &str) -> u32 {
        let lanes = self.lanes.find(name).into_iter().flat_map(|channel| self.lanes.lanes_of(channel));
        lanes.map(|lane| self.lanes.readers(lane).len() as u32).sum()
    }

    fn is_wanted(&self, slot: u32, filter: &ConnectionFilter, channel: Option<u32>) -> bool {
        let connection = &self.slots[slot];
        !matches!(connection.state, State::Free | State::Dead)
            && filter.address.is_none_or(|address| connection.peer.ip() == address)
            && channel
                .is_none_or(|channel| connection.subscriptions_from(0).any(|s| self.lanes[s.lane].channel == channel))
            && filter.user.as_ref().is_none_or(|user| (self.identity)(slot).user == Some(user.as_str()))
    }

    /// A connection's backlog in framed bytes.
    fn lag(&self, slot: u32) -> u64 {
        let all = self.slots[slot].subscriptions_from(0).filter(|s| s.place != NONE);
        all.map(|s| self.lanes[s.lane].log.head() - s.cursor).sum()
    }

    fn row(&self, cx: &Context, slot: u32, in_detail: bool) -> Box<str> {
        let connection = &self.slots[slot];
        let since = |then: Tick| u64::from(cx.now.saturating_sub(then)) * TICK_MS;
        let channels = connection.subscriptions_from(0).map(|s| {
            let lane = &self.lanes[s.lane];
            let reads = s.place != NONE;
            let cursor = lane.log.id_until(s.cursor).filter(|_| reads && in_detail);
            ChannelRow {
                channel: self.lanes.name(lane.channel),
                lag_bytes: if reads { lane.log.head() - s.cursor } else { 0 },
                cursor: cursor.map(|id| id.to_string()),
            }
        });
        let identity = (self.identity)(slot);
        let row = Row {
            conn: self.slots.name(cx.index, slot).to_string(),
            transport: transport(connection),
            address: connection.peer.to_string(),
            user: identity.user,
            age_ms: since(connection.opened),
            silent_ms: since(connection.received),
            unsent_ms: since(connection.sent),
            events: connection.events,
            lag_bytes: self.lag(slot),
            waiting_bytes: connection.out_waiting(),
            blocked: connection.flags.intersects(Flags::BLOCKED),
            replaying: connection.flags.intersects(Flags::REPLAYING),
            channels: channels.take(CHANNELS_SHOWN).collect(),
            channels_total: connection.subscriptions(),
            token_expires_ms: identity.expires.map(|end| u64::from(end.saturating_sub(cx.now)) * TICK_MS),
            tcp: connection.fd.as_ref().filter(|_| in_detail).and_then(|fd| socket::tcp_state(fd.as_fd()).ok()),
        };
        serde_json::to_string(&row).unwrap_or_default().into()
    }
}

impl Survey {
    /// Whether every slot was looked at, and every row is made.
    fn is_over(&self, view: &View<'_>) -> bool {
        self.position >= view.slots.capacity() && self.found.is_empty()
    }

    /// Looks at more slots.
    fn search(&mut self, view: &View<'_>, filter: &ConnectionFilter, budget: &mut Budget) {
        if self.position >= view.slots.capacity() {
            return;
        }
        // The channel's number is looked up in each turn, because it may have changed since the turn before.
        let channel = filter.channel.as_ref().map(|name| view.lanes.find(name).unwrap_or(NONE));
        while self.position < view.slots.capacity() && budget.take() {
            let slot = self.position;
            self.position += 1;
            budget.spend(view.slots[slot].subscriptions() / 8);
            if view.is_wanted(slot, filter, channel) {
                self.matched += 1;
                self.add(slot, view.lag(slot), filter);
            }
        }
        if self.position >= view.slots.capacity() {
            // The rows are made from the end of the list.
            self.found.reverse();
        }
    }

    /// Makes more rows, once every slot was looked at.
    fn show(&mut self, view: &View<'_>, cx: &Context, budget: &mut Budget) {
        if self.position < view.slots.capacity() {
            return;
        }
        while budget.take()
            && let Some((lag, slot)) = self.found.pop()
        {
            if !matches!(view.slots[slot].state, State::Free | State::Dead) {
                budget.spend(ROW_PIECES + view.slots[slot].subscriptions().min(CHANNELS_SHOWN));
                self.rows.push((lag, view.row(cx, slot, false)));
            }
        }
    }

    fn add(&mut self, slot: u32, lag: u64, filter: &ConnectionFilter) {
        if !filter.slowest_first {
            if self.found.len() < filter.limit {
                self.found.push((lag, slot));
            }
            return;
        }
        self.found.push((lag, slot));
        // The list is sorted rarely: when it holds twice as many connections as are wanted.
        if self.found.len() >= filter.limit.saturating_mul(2).max(64) {
            self.found.sort_unstable_by_key(|(lag, _)| Reverse(*lag));
            self.found.truncate(filter.limit);
        }
    }
}
