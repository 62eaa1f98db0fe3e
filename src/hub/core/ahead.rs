//! Histories that are sent to a successor ahead, some in each turn, while publishers and clients are served: what is left for the
//! pause of the hand-over are the events since.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::link::handover::{HandoverError, HubParting, Outgoing};
use crate::logic::event::ChannelName;
use crate::logic::handover::Packer;
use crate::logic::id::Id;

use super::Core;
use super::turn::Ports;

/// The batches of events that one turn sends.
const BATCHES_MAX: usize = 32;
/// The pause between two turns that send some.
const PAUSE: Duration = Duration::from_millis(1);
/// The time for which a successor may take nothing.
const STANDSTILL_MAX: Duration = Duration::from_secs(2);

/// What was sent ahead.
#[derive(Default)]
pub(in crate::hub) struct Sent {
    /// The packer of the records so far.
    pub(super) packer: Packer,
    /// The id up to which all events were sent that were kept.
    pub(super) until: Id,
}

/// The place from which on histories are still to be sent ahead.
#[derive(Default)]
struct Place {
    /// The number of the next channel.
    channel: u32,
    /// The channel's name, and the newest of its events that was sent, once the channel itself was.
    begun: Option<(ChannelName, Id)>,
}

/// Histories that are being sent ahead.
pub(super) struct Ahead {
    parting: HubParting,
    sent: Sent,
    place: Place,
    /// The time since which the successor takes nothing.
    stands_still: Option<Instant>,
}

impl Core {
    /// Begins a hand-over, with the histories.
    pub(super) fn begin_ahead(&mut self, parting: HubParting) {
        let sent = Sent { until: self.applied, ..Sent::default() };
        self.ahead = Some(Box::new(Ahead { parting, sent, place: Place::default(), stands_still: None }));
    }

    /// The time at which more histories are sent ahead, if some are left.
    pub(super) fn ahead_at(&self) -> Option<Instant> {
        self.ahead.as_ref().map(|_| self.now.instant + PAUSE)
    }

    /// Sends some more histories ahead. After the last one this takes part in the hand-over itself.
    pub(super) fn go_on_ahead(&mut self, ports: &Ports) {
        let Some(mut ahead) = self.ahead.take() else { return };
        if ahead.parting.part.is_called_off() {
            return;
        }
        let before = (ahead.place.channel, ahead.place.begun.clone());
        let Ahead { parting, sent, place, .. } = &mut *ahead;
        match self.send_some_ahead(parting.carrier.as_fd(), sent, place) {
            Ok(false) if before != (ahead.place.channel, ahead.place.begun.clone()) => {
                ahead.stands_still = None;
                self.ahead = Some(ahead);
            }
            Ok(true) => {
                let _ = ahead.parting.begins.send(Ok(()));
                self.part(ports, ahead.parting, ahead.sent);
            }
            Ok(false) if ahead.stands_still.is_some_and(|since| since + STANDSTILL_MAX <= self.now.instant) => {
                let reason = "the successor takes nothing".to_owned();
                let _ = ahead.parting.begins.send(Err(HandoverError::Refused(reason)));
            }
            Ok(false) => {
                ahead.stands_still.get_or_insert(self.now.instant);
                self.ahead = Some(ahead);
            }
            Err(error) => drop(ahead.parting.begins.send(Err(error))),
        }
    }

    /// Sends all histories ahead, for a hub that is driven by hand.
    pub(in crate::hub) fn send_ahead(&self, carrier: BorrowedFd<'_>) -> Result<Sent, HandoverError> {
        let (mut sent, mut place) = (Sent { until: self.applied, ..Sent::default() }, Place::default());
        while !self.send_some_ahead(carrier, &mut sent, &mut place)? {
            std::thread::sleep(PAUSE);
        }
        Ok(sent)
    }

    /// Sends some histories ahead, as far as the successor takes them without a wait; returns whether none is left.
    fn send_some_ahead(
        &self,
        carrier: BorrowedFd<'_>,
        sent: &mut Sent,
        place: &mut Place,
    ) -> Result<bool, HandoverError> {
        let mut outgoing = Outgoing::after(mem::take(&mut sent.packer), carrier, || {})?;
        let mut batches = 0;
        while place.channel < self.channels.places() && batches < BATCHES_MAX && outgoing.has_room() {
            batches += usize::from(self.send_next_ahead(&mut outgoing, place)?);
        }
        sent.packer = outgoing.pause();
        Ok(place.channel >= self.channels.places())
    }

    /// Sends the next channel or events ahead; returns whether these were events.
    fn send_next_ahead(&self, outgoing: &mut Outgoing<'_>, place: &mut Place) -> Result<bool, HandoverError> {
        let name = self.channels.known_name(place.channel);
        // The channel's number may have been given to another channel meanwhile.
        let begun = place.begun.take().filter(|(begun, _)| Some(begun) == name);
        match (name, begun) {
            (None, _) => place.channel += 1,
            (Some(name), None) => {
                self.send_channel(outgoing, place.channel)?;
                place.begun = Some((name.clone(), Id::ZERO));
            }
            (Some(_), Some((name, after))) => {
                match self.send_events(outgoing, place.channel, after, self.now.steady_ms)? {
                    Some(newest) => {
                        place.begun = Some((name, newest));
                        return Ok(true);
                    }
                    None => place.channel += 1,
                }
            }
        }
        Ok(false)
    }
}
