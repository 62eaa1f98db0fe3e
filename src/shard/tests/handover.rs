//! The model with hand-overs at any point: hub and shard are encoded, and rebuilt from that over the same sockets.

use std::os::fd::{AsFd, BorrowedFd};

use super::super::Listener;
use super::super::turn::{adopting, parting};
use super::*;
use crate::link::handover::{HandoverError, Incoming, Moved};
use crate::logic::handover::MESSAGE_MAX;
use crate::sys::rights;

/// Has `send` send over a socket whose queue is too short for it, and `take` take all of it.
fn through<T>(
    send: impl FnOnce(BorrowedFd<'_>) -> Result<Moved, HandoverError>,
    take: impl FnOnce(BorrowedFd<'_>) -> T,
) -> (Moved, T) {
    let (from, first) = rights::pair().unwrap();
    let (second, to) = rights::pair().unwrap();
    let pump = std::thread::spawn(move || {
        let mut messages = Vec::new();
        loop {
            let (mut buffer, mut fds) = (vec![0; MESSAGE_MAX], Vec::new());
            let length = rights::receive(first.as_fd(), &mut buffer, &mut fds).unwrap();
            if length == 0 {
                break;
            }
            buffer.truncate(length);
            messages.push((buffer, fds));
        }
        for (bytes, fds) in messages {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if rights::send(second.as_fd(), &bytes, &borrowed).is_err() {
                return;
            }
        }
    });
    let sent = send(from.as_fd()).unwrap();
    drop(from);
    let taken = take(to.as_fd());
    drop(to);
    pump.join().unwrap();
    (sent, taken)
}

impl Model {
    /// Works off the messages that the hub has staged and sent.
    fn work_off(&mut self) {
        loop {
            self.hub.hear_all([], self.now_ms);
            let Some(message) = self.shard.upstream.next() else { return };
            parting::hear(&mut self.shard, message);
        }
    }

    /// Hands hub and shard over to new ones, with the two barriers of the real thing.
    pub(super) fn hand_over(&mut self) {
        parting::settle(&mut self.shard);
        self.work_off();
        self.hear_shard();
        self.work_off();
        // Questions that the shard has asked since are asked of the new hub.
        let (to_hub, inbox) = to_hub().unwrap();
        let (to_shard, from_hub) = to_shard_with(1 << 20, self.batches_max, inbox.wake.clone()).unwrap();
        let limits = HistoryLimits { events_max: HISTORY_EVENTS, bytes_max: 1 << 20, age_max_ms: 1 << 40 };
        let ids = IdSource::of_predecessor(&self.folder.path().join("x.ids")).unwrap();
        let mut hub = BareHub::new(ids, vec![to_shard], Box::new(move |_| limits));
        let (started, _) = crossbeam_channel::bounded(1);
        let config = self.shard.cx.settings.config.clone();
        let parts = ShardParts {
            index: 0,
            core: None,
            admission: Arc::new(Admission::new(&config.server)),
            config,
            lag_memory: self.shard.cx.settings.lag_memory,
            listeners: Vec::<Listener>::new(),
            from_hub,
            to_hub,
            figures: Arc::default(),
            keyring: self.shard.access.keyring.clone(),
            revoked: Revoked::default(),
            pages: None,
            tls: self.shard.tls.clone(),
            mailbox: None,
            adopting: None,
            started,
        };
        let mut shard = Shard::new(parts, 10_000).unwrap();
        let (sent, taken) = through(
            |carrier| parting::send_all(&self.shard, carrier, || {}),
            |carrier| adopting::take_all(&mut shard, Incoming::new(carrier)),
        );
        assert_eq!(taken.unwrap().connections, sent.connections);
        through(|carrier| self.hub.send_all(carrier), |carrier| hub.take_all(carrier)).1.unwrap();
        hub.hear_adopted(&inbox);
        assert_eq!(sent.left, 0, "no handshake is under way");
        shard.slots.check_invariants();
        shard.lanes.check_invariants();
        shard.cx.counters = self.shard.cx.counters.clone();
        shard.wire.io.faults = self.shard.wire.io.faults.take();
        if let Some(faults) = &mut shard.wire.io.faults {
            faults.forget_reports();
        }
        shard.slots.tls.records_max = self.shard.slots.tls.records_max;
        (self.hub, self.shard, self.inbox) = (hub, shard, inbox);
        *self.figures.entry("hand-overs").or_default() += 1;
        *self.figures.entry("connections handed over").or_default() += sent.connections;
    }
}

fn handing_over(model: Model) -> Model {
    Model { hands_over: true, ..model }
}

#[test]
fn the_model_of_delivery_holds_over_hand_overs() {
    assert_eq!(run_all(150, false, |seed| handing_over(Model::new(seed))).len(), 11);
}

#[test]
fn the_model_of_delivery_holds_over_hand_overs_with_a_kernel_that_has_faults() {
    assert_eq!(run_all(150, false, |seed| handing_over(Model::with_faults(seed))).len(), 18);
}

#[test]
fn the_model_of_delivery_holds_over_hand_overs_with_little_memory() {
    assert_eq!(run_all(150, true, |seed| handing_over(Model::with_little_memory(seed))).len(), 19);
}
