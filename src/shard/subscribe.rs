//! Subscribing: following a channel, taking a place among its readers, and resuming from a position.
//!
//! Nothing here waits. A follow is in the queue to the hub before the client reads that it is subscribed, and
//! the hub works that queue off before it takes further events in; so whoever publishes after a client has
//! seen its answer reaches that client.

use crate::logic::event::ChannelName;

use crate::link::{HubMessage, LocalChannel};
use crate::logic::cells::NONE;
use crate::logic::id::Id;
use crate::logic::protocol::http::Reject;
use crate::logic::reason::Reason;
use crate::logic::wheel::Tick;

use super::Shard;
use super::channels::{Following, Reader};
use super::connection::{Flags, Resume, State, Subscription};
use super::settings::ticks;

/// How long a lane without readers is kept up, for clients that come and go.
pub(super) const UNUSED_LANE_KEPT: std::time::Duration = std::time::Duration::from_secs(30);

/// Pages that the hub is asked for at a time.
pub(super) const PAGES_ASKED_MAX: usize = 256;

impl Shard {
    /// Whether channels that the shard does not know yet could be added.
    pub(super) fn has_room_for_channels(&self, names: &[String]) -> Result<(), Reject> {
        let channels_max = self.settings.config.limits.channels;
        if self.channels.channels.used() + names.len() <= channels_max {
            return Ok(());
        }
        let new = names.iter().filter(|name| self.channels.find(name).is_none()).count();
        if self.channels.channels.used() + new > channels_max {
            return Err(Reject::new(503, "channels", "this server has no room for more channels").retry_after(5));
        }
        Ok(())
    }

    /// Tells the hub something; it is woken at the end of the turn.
    pub(super) fn tell_hub(&mut self, message: HubMessage) {
        self.to_hub.send(message);
        self.hub_waits = true;
    }

    fn channel(&mut self, name: &str) -> u32 {
        let channel = match self.channels.find(name) {
            Some(channel) if self.channels.channels[channel].following != Following::GivenUp => return channel,
            Some(channel) => channel,
            None => {
                let policy = self.policies.number(self.settings.policy(name));
                self.channels.add(name.into(), policy)
            }
        };
        self.channels.channels[channel].following = Following::Asked;
        // What it had come to when it was given up may hold no more; the hub says so if it does.
        self.channels.channels[channel].ended = false;
        let name: ChannelName = self.channels.channels[channel].name.clone().unwrap_or_default();
        self.tell_hub(HubMessage::Follow { shard: self.index, local: channel, name });
        channel
    }

    /// Adds a subscription, which does not read yet; `false` if there is one already.
    pub(super) fn subscribe(&mut self, slot: u32, name: &str) -> bool {
        let channel = self.channel(name);
        let lane = self.channels.lane(channel, self.connections[slot].dialect, self.seen);
        let connection = &self.connections[slot];
        let subscriptions = connection.subscriptions();
        if (0..subscriptions).any(|index| connection.subscription(index).is_some_and(|s| s.lane == lane)) {
            return false;
        }
        self.channels.enter(lane);
        self.connections[slot].add_subscription(Subscription { lane, place: NONE, cursor: 0 });
        self.tell_presence(slot, lane, true);
        true
    }

    /// Starts the subscriptions from number `first` on: from now, or after a position. That is set here if the
    /// shard's own logs reach back so far, else the hub is asked. `wait` is for polls.
    pub(super) fn start(&mut self, slot: u32, first: usize, after: Option<Id>, wait: Tick) {
        if first == self.connections[slot].subscriptions() {
            return;
        }
        let Some(after) = after else {
            for index in first..self.connections[slot].subscriptions() {
                self.read_from_head(slot, index);
            }
            return;
        };
        if self.can_resume_here(slot, first, after) {
            self.counters.resumed_here += 1;
            for index in first..self.connections[slot].subscriptions() {
                let Some(lane) = self.connections[slot].subscription(index).map(|s| s.lane) else { continue };
                let log = &self.channels.lanes[lane].log;
                let cursor = log.position_after(after).unwrap_or(log.head());
                self.read_from(slot, index, cursor);
            }
            return;
        }
        self.ask_hub(slot, first, Some(after), wait);
    }

    /// Whether the shard's logs hold everything after `after`, and will until it is sent: what lies before the
    /// floor may go with the end of a walk that is under way.
    pub(super) fn can_resume_here(&self, slot: u32, first: usize, after: Id) -> bool {
        let connection = &self.connections[slot];
        after <= self.seen
            && connection.subscriptions_from(first).all(|s| {
                let lane = &self.channels.lanes[s.lane];
                let floor = lane.log.floor(self.max_lag(s.lane));
                self.channels.channels[lane.channel].following == Following::Yes
                    && lane.log.position_after(after).is_some_and(|position| position >= floor)
            })
    }

    /// Asks the hub for what was missed; live events wait until that is through.
    pub(super) fn ask_hub(&mut self, slot: u32, first: usize, after: Option<Id>, wait: Tick) {
        self.counters.resumed_hub += 1;
        let number = self.counters.resumed_hub as u32;
        let connection = &mut self.connections[slot];
        let lanes = connection.subscriptions_from(first);
        let channels: Vec<LocalChannel> = lanes.map(|s| self.channels.lanes[s.lane].channel).collect();
        connection.flags.set(Flags::REPLAYING);
        let resumes = &mut connection.extra().resumes;
        resumes.push_back(Resume { number, channels, after, page_due: false, wait });
        if resumes.len() == 1 {
            self.ask_for_page(slot);
        }
    }

    /// Asks for the next page of what is being resumed first, or puts that off while many others have asked: when
    /// everybody comes back at once, the pages are sent about as fast as they come and do not pile up here.
    pub(super) fn ask_for_page(&mut self, slot: u32) {
        let shard = self.index;
        let connection = &mut self.connections[slot];
        let generation = connection.generation;
        let Some(resume) = connection.resume_mut() else { return };
        resume.page_due = false;
        if self.pages_asked >= PAGES_ASKED_MAX {
            self.pages_waiting.push_back((slot, resume.number));
            return;
        }
        let (number, channels, after) = (resume.number, resume.channels.clone(), resume.after);
        self.pages_asked += 1;
        self.tell_hub(HubMessage::Resume { shard, slot, generation, number, channels, after });
    }

    /// A page has come and is off: those who wait may ask.
    pub(super) fn page_has_gone(&mut self) {
        self.pages_asked -= 1;
        while self.pages_asked < PAGES_ASKED_MAX
            && let Some((slot, number)) = self.pages_waiting.pop_front()
        {
            let resume = self.connections.get(slot).and_then(|connection| connection.resume());
            // Its number is no other's, whoever has the slot now.
            if resume.is_some_and(|resume| resume.number == number) {
                self.ask_for_page(slot);
            }
        }
    }

    /// Puts a subscription among its lane's readers, with everything up to now behind it.
    pub(super) fn read_from_head(&mut self, slot: u32, index: usize) {
        let Some(lane) = self.connections[slot].subscription(index).map(|s| s.lane) else { return };
        let head = self.channels.lanes[lane].log.head();
        self.read_from(slot, index, head);
    }

    fn read_from(&mut self, slot: u32, index: usize, cursor: u64) {
        let Some(subscription) = self.connections[slot].subscription_mut(index) else { return };
        debug_assert_eq!(subscription.place, NONE, "a subscription reads once");
        let reader = Reader { slot, subscription: index as u32 };
        subscription.cursor = cursor;
        subscription.place = self.channels.add_reader(subscription.lane, reader, cursor);
        self.queue(slot);
    }

    /// Ends one subscription. The last one takes its number.
    pub(super) fn unsubscribe(&mut self, slot: u32, index: usize) {
        if self.connections[slot].state != State::Dead {
            self.finish_frame(slot, index);
        }
        let Some(&Subscription { lane, place, cursor }) = self.connections[slot].subscription(index) else { return };
        self.tell_presence(slot, lane, false);
        if place == NONE {
            self.forget_missed(slot, lane);
        } else {
            if let Some(moved) = self.channels.remove_reader(lane, place, cursor)
                && let Some(subscription) = self.connections[moved.slot].subscription_mut(moved.subscription as usize)
            {
                subscription.place = place;
            }
            self.settle(lane);
        }
        if self.channels.leave(lane, self.now) {
            self.unused_lanes.push_back((self.now + ticks(UNUSED_LANE_KEPT), lane));
        }
        let connection = &mut self.connections[slot];
        let last = connection.subscriptions() - 1;
        let mid = connection.mid_frame();
        connection.remove_subscription(index);
        if index == last {
            return;
        }
        if mid == Some(last) {
            connection.set_mid_frame(Some(index));
        }
        if let Some(moved) = connection.subscription(index)
            && moved.place != NONE
        {
            self.channels.rename_reader(moved.lane, moved.place, index as u32);
        }
    }

    /// Nothing that was missed on a lane's channel is wanted any more. Its number may be another channel's soon.
    fn forget_missed(&mut self, slot: u32, lane: u32) {
        let channel = self.channels.lanes[lane].channel;
        let Some(extra) = &mut self.connections[slot].extra else { return };
        extra.resumes.iter_mut().for_each(|resume| resume.channels.retain(|number| *number != channel));
        // The first one's answer is on its way.
        let mut is_first = true;
        extra.resumes.retain(|resume| std::mem::take(&mut is_first) || !resume.channels.is_empty());
    }

    /// Ends all subscriptions.
    pub(super) fn unsubscribe_all(&mut self, slot: u32) {
        while let Some(last) = self.connections[slot].subscriptions().checked_sub(1) {
            self.unsubscribe(slot, last);
        }
    }

    /// Everything that was planned for the connection is sent: does what waited for that.
    pub(super) fn all_sent(&mut self, slot: u32) {
        self.connections[slot].tidy();
        let connection = &self.connections[slot];
        let is_paused = connection.flags.has(Flags::PAUSED);
        let has_input = connection.extra.as_ref().is_some_and(|extra| !extra.input.is_empty());
        match connection.state {
            State::Closing => self.linger(slot),
            // A partial head waits for the client, not for us; but whether it is one shows only by reading it.
            State::Http if is_paused => self.read_later(slot),
            State::Http if has_input && connection.sent == self.now => self.read_later(slot),
            State::Stream | State::WebSocket => {
                if connection.resume().is_some_and(|resume| resume.page_due) {
                    self.ask_for_page(slot);
                }
                // Between two pages as well: it may want no more of them.
                if is_paused {
                    self.read_later(slot);
                }
                self.leave_ended(slot);
            }
            _ => {}
        }
    }

    /// Takes the connection off channels that have ended, once it has had everything.
    fn leave_ended(&mut self, slot: u32) {
        let mut index = 0;
        while let Some(subscription) = self.connections[slot].subscription(index) {
            let lane = &self.channels.lanes[subscription.lane];
            let is_read = subscription.place != NONE && subscription.cursor == lane.log.head();
            if !is_read || !self.channels.channels[lane.channel].ended {
                index += 1;
                continue;
            }
            let name = self.channels.channels[lane.channel].name.clone().unwrap_or_default();
            self.unsubscribe(slot, index);
            let connection = &mut self.connections[slot];
            let dialect = connection.dialect;
            dialect.write_end(&name, connection.out());
            if connection.subscriptions() == 0 {
                self.close(slot, Reason::Ended, crate::logic::protocol::ws::CLOSE_NORMAL, "the channel has ended");
                return;
            }
            self.queue(slot);
        }
    }
}
