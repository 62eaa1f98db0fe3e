//! The model with hand-overs at any point: hub and shard are encoded, and rebuilt from that over the same sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::Listener;
use super::super::turn::{adopting, parting};
use super::*;
use crate::hub::SentAhead;
use crate::link::handover::{HandoverError, Incoming, Moved};
use crate::logic::handover::{FormatError, Kind, MESSAGE_MAX, Packer, Unpacker};
use crate::sys::rights;

/// Messages with their descriptors.
type Messages = Vec<(Vec<u8>, Vec<OwnedFd>)>;

/// The messages of what `send` sends, with their descriptors.
fn sent(send: impl FnOnce(BorrowedFd<'_>) -> Result<Moved, HandoverError>) -> (Moved, Messages) {
    let (from, to) = rights::pair().unwrap();
    // The socket's queue is too short for everything.
    let reader = std::thread::spawn(move || {
        let mut messages = Vec::new();
        loop {
            let (mut buffer, mut fds) = (vec![0; MESSAGE_MAX], Vec::new());
            let length = rights::receive(to.as_fd(), &mut buffer, &mut fds).unwrap();
            if length == 0 {
                return messages;
            }
            buffer.truncate(length);
            messages.push((buffer, fds));
        }
    });
    let moved = send(from.as_fd()).unwrap();
    drop(from);
    (moved, reader.join().unwrap())
}

/// Has `take` take messages.
fn taken<T>(messages: Messages, take: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    let (from, to) = rights::pair().unwrap();
    let writer = std::thread::spawn(move || {
        for (bytes, fds) in messages {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if rights::send(from.as_fd(), &bytes, &borrowed).is_err() {
                return;
            }
        }
    });
    let taken = take(to.as_fd());
    drop(to);
    writer.join().unwrap();
    taken
}

impl Model {
    /// Works off the messages that the hub has staged and sent.
    fn work_off(&mut self) {
        loop {
            self.hub.hear_all([], self.now_ms);
            let Some(message) = self.shard.upstream.next() else { return };
            assert!(parting::hear(&mut self.shard, message, || false));
        }
    }

    /// A hub and a shard that have not taken anything over yet.
    fn successors(&self) -> (BareHub, Shard, HubInbox) {
        let (to_hub, inbox) = to_hub().unwrap();
        let (to_shard, from_hub) = to_shard_with(1 << 20, self.batches_max, inbox.wake.clone()).unwrap();
        let limits = HistoryLimits { events_max: HISTORY_EVENTS, bytes_max: 1 << 20, age_max_ms: 1 << 40 };
        let ids = IdSource::of_predecessor(&self.folder.path().join("x.ids")).unwrap();
        let hub = BareHub::new(ids, vec![to_shard], Box::new(move |_| limits));
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
        (hub, Shard::new(parts, 10_000).unwrap(), inbox)
    }

    /// Has hub and shard come to rest, with the two barriers of the real thing.
    fn come_to_rest(&mut self) {
        // The first barrier is reached in ordinary turns.
        for _ in 0..1000 {
            self.hub.hear_all([], self.now_ms);
            if !self.shard.upstream.is_behind() && self.shard.order.is_none() {
                break;
            }
            self.turn();
        }
        parting::settle(&mut self.shard);
        self.work_off();
        self.hear_shard();
        self.work_off();
    }

    /// Hands hub and shard over to new ones.
    pub(super) fn hand_over(&mut self) {
        // Events come after the histories were sent ahead, too.
        let (_, of_hub) = self::sent(|carrier| {
            let ahead = self.hub.send_ahead(carrier)?;
            for _ in 0..self.rng.usize(..4) {
                self.publish();
                self.turn();
            }
            self.come_to_rest();
            self.hub.send_all(carrier, ahead)
        });
        // Questions that the shard has asked since are asked of the new hub.
        let (mut hub, mut shard, inbox) = self.successors();
        let (sent, messages) = self::sent(|carrier| parting::send_all(&self.shard, carrier, || {}));
        let moved = taken(messages, |carrier| adopting::take_all(&mut shard, Incoming::new(carrier))).unwrap();
        assert_eq!(moved.connections, sent.connections);
        taken(of_hub, |carrier| hub.take_all(carrier)).unwrap();
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

#[test]
fn the_model_of_delivery_holds_over_tls_and_hand_overs() {
    let new = |seed| handing_over(secured::over_tls(Model::with_faults(seed), seed % 4 != 0));
    assert_eq!(run_all(100, false, new).len(), 18);
}

/// Records with a change in one of their bodies: a byte is another one, is missing, or comes twice.
fn damaged(rng: &mut fastrand::Rng, messages: &Messages) -> Messages {
    let mut records: Vec<(Kind, Vec<u8>, Option<OwnedFd>)> = Vec::new();
    let mut unpacker = Unpacker::default();
    for (bytes, fds) in messages {
        let mut fds = fds.iter();
        let taken = unpacker.take(bytes, |record, has_socket| {
            let fd = has_socket.then(|| fds.next().unwrap().try_clone().unwrap());
            let record = record.unwrap();
            records.push((record.kind, record.body.to_vec(), fd));
            Ok::<(), FormatError>(())
        });
        taken.unwrap();
    }
    let chosen = rng.usize(..records.len());
    let (_, body, _) = &mut records[chosen];
    match (body.len(), rng.u8(..8)) {
        (0, _) => body.push(rng.u8(..)),
        (length, 0) => drop(body.remove(rng.usize(..length))),
        (length, 1) => body.insert(rng.usize(..length), rng.u8(..)),
        (length, _) => body[rng.usize(..length)] = rng.u8(..),
    }
    match rng.u8(..10) {
        0 => drop(records.remove(chosen)),
        1 => {
            let (kind, body, fd) = &records[chosen];
            let again = (*kind, body.clone(), fd.as_ref().map(|fd| fd.try_clone().unwrap()));
            records.insert(chosen, again);
        }
        _ => {}
    }
    let mut packer = Packer::default();
    let (mut packed, mut waiting) = (Vec::new(), Vec::new());
    for (kind, body, fd) in records {
        packer.add(kind, &body, fd.is_some(), |message| pack(&mut packed, message, &mut waiting)).unwrap();
        waiting.extend(fd);
    }
    packer.end(|message| pack(&mut packed, message, &mut waiting)).unwrap();
    packed
}

fn pack(packed: &mut Messages, message: &[u8], waiting: &mut Vec<OwnedFd>) -> Result<(), FormatError> {
    packed.push((message.to_vec(), std::mem::take(waiting)));
    Ok(())
}

#[test]
fn records_that_make_no_sense_are_refused_or_harmless() {
    let (mut refused, mut taken_over) = (0, 0);
    for seed in 0..12 {
        let mut model = Model::new(seed);
        for _ in 0..60 {
            model.step();
        }
        parting::settle(&mut model.shard);
        let (_, messages) = sent(|carrier| parting::send_all(&model.shard, carrier, || {}));
        let (_, of_hub) = sent(|carrier| model.hub.send_all(carrier, SentAhead::default()));
        for round in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed * 1000 + round);
            let (mut hub, mut shard, inbox) = model.successors();
            let result = taken(damaged(&mut rng, &messages), |carrier| {
                adopting::take_all(&mut shard, Incoming::new(carrier)).map(|_| ())
            });
            match result {
                Ok(()) => {
                    shard.slots.check_invariants();
                    shard.lanes.check_invariants();
                    taken_over += 1;
                }
                Err(_) => refused += 1,
            }
            match taken(damaged(&mut rng, &of_hub), |carrier| hub.take_all(carrier)) {
                Ok(_) => hub.hear_adopted(&inbox),
                Err(_) => refused += 1,
            }
        }
    }
    println!("{refused} refused, {taken_over} taken over");
    assert!(refused > 100 && taken_over > 100, "{refused} {taken_over}");
}
