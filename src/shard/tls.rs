//! The connections that speak TLS: those whose handshake is under way, and the secrets of the others. Connections without
//! TLS have nothing here.
//!
//! Everything above the wire is plaintext. What is kept beside the secrets is the rest of a record that the kernel took in
//! part, which is sent before anything else, and the beginning of a record that has not come in whole.

use std::collections::VecDeque;
use std::fmt;

use crate::logic::cells::Slack;
use crate::logic::handover::clients as record;
use crate::logic::sparse::Sparse;
use crate::logic::tls::{Alert, Failed, Fatal, Handshake, Keys, Opened, PLAIN_MAX, Sealer};
use crate::logic::wheel::Tick;

use super::account::Buffers;

/// The most plaintext of one send.
const SEND_MAX: usize = 16 * 1024;
/// The sealed bytes of a batch beyond which each further send has one record.
const SEALED_MAX: usize = 1 << 20;
/// The records that a key must still be able to seal when a send begins: those of the send, an alert, and the last words of
/// a connection that ends because it cannot have another key.
const RECORDS_LEFT: u64 = 64;

/// A handshake that is under way.
#[derive(Default)]
pub(super) struct Greeting {
    /// The handshake itself, once the client has sent something.
    pub(super) handshake: Option<Box<Handshake>>,
    /// The handshake has bytes to work off and stands in the queue.
    is_queued: bool,
    counted: Buffers,
}

/// What waits on a connection at times.
#[derive(Default)]
struct Pending {
    /// The rest of a record of which some was sent, and whole records that stand before everything else.
    rest: Vec<u8>,
    /// The beginning of a record of the client.
    partial: Vec<u8>,
    /// The time at which `partial` has begun.
    since: Tick,
    counted: Buffers,
}

/// What is kept of TLS for an open connection.
struct Secured {
    keys: Keys,
    /// `close_notify` is sent, or waits in `rest`.
    has_ended: bool,
    pending: Option<Box<Pending>>,
}

const _: () = assert!(size_of::<Option<Secured>>() == 216, "each TLS connection has one");

/// The sealed bytes of one send.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sealed {
    /// The place of the bytes in the batch's memory: the rest of earlier records, and new ones.
    pub(super) start: usize,
    pub(super) end: usize,
    /// The bytes of the rest.
    rest: usize,
    /// The bytes of plaintext in the new records.
    plain: usize,
}

/// What a send has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// The bytes of plaintext that are sent, or will be before anything else.
    pub(super) plain: usize,
    /// The kernel took all that was sealed.
    pub(super) is_all: bool,
}

/// The connections that speak TLS, by slot; see the module's documentation.
#[derive(Default)]
pub(super) struct Tls {
    greetings: Sparse<Greeting>,
    secured: Sparse<Secured>,
    /// Handshakes that have bytes to work off. An entry may be stale.
    queue: VecDeque<u32>,
    /// The number of records after which a key is replaced, if that is less than the suite allows.
    pub(super) records_max: Option<u64>,
}

/// The secrets are not shown.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({} greetings, {} secured)", self.greetings.len(), self.secured.len())
    }
}

impl Secured {
    fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    fn rest(&self) -> &[u8] {
        self.pending.as_ref().map_or(&[], |pending| &pending.rest)
    }

    /// Drops the box of what waits if nothing does, after its bytes are taken off the account.
    fn weigh(&mut self, sum: &mut Buffers) {
        let Some(pending) = &mut self.pending else { return };
        let now = Buffers { output: pending.rest.capacity(), input: pending.partial.capacity() };
        sum.replace(pending.counted, now);
        pending.counted = now;
        if now == Buffers::default() {
            self.pending = None;
        }
    }

    /// Puts a record before everything that is sealed later.
    fn put(&mut self, put: impl FnOnce(&mut Keys, &mut Vec<u8>) -> Result<(), Failed>) -> Result<(), Failed> {
        #[cfg(test)]
        tests::note(self.keys.pair(0));
        let mut rest = std::mem::take(&mut self.pending().rest);
        let result = put(&mut self.keys, &mut rest);
        self.pending().rest = rest;
        result
    }
}

impl Tls {
    /// Begins a handshake for a new connection.
    pub(super) fn greet(&mut self, slot: u32) {
        self.greetings.insert(slot, Greeting::default());
    }

    /// The number of handshakes that are under way.
    pub(super) fn greetings(&self) -> usize {
        self.greetings.len()
    }

    /// The number of connections whose handshake is over.
    pub(super) fn secured(&self) -> usize {
        self.secured.len()
    }

    /// The connection's handshake, if it is under way.
    pub(super) fn greeting(&mut self, slot: u32) -> Option<&mut Greeting> {
        self.greetings.get_mut(slot)
    }

    /// Whether the connection's handshake waits for its turn.
    pub(super) fn is_queued(&self, slot: u32) -> bool {
        self.greetings.get(slot).is_some_and(|greeting| greeting.is_queued)
    }

    /// Has the connection's handshake gone on with.
    pub(super) fn queue(&mut self, slot: u32) {
        if let Some(greeting) = self.greetings.get_mut(slot).filter(|greeting| !greeting.is_queued) {
            greeting.is_queued = true;
            self.queue.push_back(slot);
        }
    }

    /// The next connection whose handshake has bytes to work off.
    pub(super) fn next(&mut self) -> Option<u32> {
        while let Some(slot) = self.queue.pop_front() {
            if let Some(greeting) = self.greetings.get_mut(slot).filter(|greeting| greeting.is_queued) {
                greeting.is_queued = false;
                return Some(slot);
            }
        }
        None
    }

    /// Whether handshakes have bytes to work off.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Ends a handshake; returns it.
    pub(super) fn take_greeting(&mut self, slot: u32, sum: &mut Buffers) -> Option<Greeting> {
        let greeting = self.greetings.remove(slot)?;
        sum.replace(greeting.counted, Buffers::default());
        Some(greeting)
    }

    /// Gives a connection its secrets, with the bytes of the handshake that are not sent yet and those that have come
    /// already.
    pub(super) fn secure(&mut self, slot: u32, keys: Keys, rest: Vec<u8>, partial: Vec<u8>, now: Tick) {
        let pending = Pending { rest, partial, since: now, counted: Buffers::default() };
        self.secured.insert(slot, Secured { keys, has_ended: false, pending: Some(Box::new(pending)) });
    }

    /// Whether a handshake is to come, and no byte of it has come.
    pub(super) fn is_greeting(&self, slot: u32) -> bool {
        self.greetings.get(slot).is_some_and(|greeting| greeting.handshake.is_none())
    }

    /// Whether a handshake is under way.
    pub(super) fn is_shaking_hands(&self, slot: u32) -> bool {
        self.greetings.get(slot).is_some_and(|greeting| greeting.handshake.is_some())
    }

    /// The secrets of a connection, and what waits on it, as a record for a successor.
    pub(super) fn record(&self, slot: u32) -> Option<record::Tls> {
        let secured = self.secured.get(slot)?;
        let (rest, partial, since) = secured.pending.as_ref().map_or((Vec::new(), Vec::new(), 0), |pending| {
            (pending.rest.clone(), pending.partial.clone(), pending.since)
        });
        Some(record::Tls { has_ended: secured.has_ended, rest, partial, since, ..secured.keys.record() })
    }

    /// Gives a connection the secrets that a predecessor has handed over; returns whether they make sense.
    pub(super) fn restore(&mut self, slot: u32, record: &record::Tls) -> bool {
        let Some(keys) = Keys::of_record(record) else { return false };
        self.secure(slot, keys, record.rest.clone(), record.partial.clone(), record.since);
        if let Some(secured) = self.secured.get_mut(slot) {
            secured.has_ended = record.has_ended;
        }
        true
    }

    /// Forgets a connection.
    pub(super) fn forget(&mut self, slot: u32, sum: &mut Buffers) {
        self.take_greeting(slot, sum);
        if let Some(secured) = self.secured.get_mut(slot) {
            // Taking a value out of the table leaves its bytes there.
            secured.keys.wipe();
        }
        if let Some(pending) = self.secured.remove(slot).and_then(|secured| secured.pending) {
            sum.replace(pending.counted, Buffers::default());
        }
    }

    /// Brings the account up to date with what waits on a connection.
    pub(super) fn weigh(&mut self, slot: u32, sum: &mut Buffers) {
        if let Some(greeting) = self.greetings.get_mut(slot) {
            let input = greeting.handshake.as_ref().map_or(0, |handshake| handshake.memory_bytes());
            let now = Buffers { output: 0, input };
            sum.replace(greeting.counted, now);
            greeting.counted = now;
        } else if let Some(secured) = self.secured.get_mut(slot) {
            secured.weigh(sum);
        }
    }

    /// What waits on a connection, as far as it is weighed.
    pub(super) fn held(&self, slot: u32) -> Buffers {
        let greeting = || self.greetings.get(slot).map(|greeting| greeting.counted);
        let pending = self.secured.get(slot).and_then(|secured| secured.pending.as_ref());
        pending.map(|pending| pending.counted).or_else(greeting).unwrap_or_default()
    }

    /// Whether bytes of earlier records, or an answer that is owed, must be sent.
    pub(super) fn has_rest(&self, slot: u32) -> bool {
        self.secured
            .get(slot)
            .is_some_and(|secured| !secured.rest().is_empty() || secured.keys.owes_update() && !secured.has_ended)
    }

    /// Whether the connection's key is used up and there can be no other.
    pub(super) fn is_worn_out(&self, slot: u32) -> bool {
        let records_max = self.records_max.unwrap_or(u64::MAX);
        self.secured
            .get(slot)
            .is_some_and(|secured| !secured.keys.suite().is_13() && secured.keys.is_worn(RECORDS_LEFT, records_max))
    }

    /// Has the client told that nothing more follows; returns whether it was not told before.
    pub(super) fn end(&mut self, slot: u32) -> bool {
        let Some(secured) = self.secured.get_mut(slot).filter(|secured| !secured.has_ended) else { return false };
        secured.has_ended = true;
        secured.put(|keys, rest| keys.seal_alert(Alert::CloseNotify, rest)).is_ok()
    }

    /// A record with an alert that is sent at once, because the connection ends; empty if bytes of another record must be
    /// sent before it.
    pub(super) fn last_alert(&mut self, slot: u32, alert: Alert) -> Vec<u8> {
        let mut record = Vec::new();
        if let Some(secured) = self.secured.get_mut(slot).filter(|secured| !secured.has_ended)
            && secured.rest().is_empty()
        {
            secured.has_ended = true;
            let _ = secured.keys.seal_alert(alert, &mut record);
        }
        record
    }

    /// Seals plaintext behind what must be sent before it, and appends both to `out`.
    ///
    /// # Errors
    /// If the cryptography fails; then the connection cannot go on.
    pub(super) fn seal(&mut self, slot: u32, plain: &[u8], out: &mut Vec<u8>) -> Result<Sealed, Failed> {
        let start = out.len();
        let nothing = Sealed { start, end: start, ..Sealed::default() };
        let Some(secured) = self.secured.get_mut(slot) else { return Ok(nothing) };
        let records_max = self.records_max.unwrap_or(u64::MAX);
        let needs_key = secured.keys.owes_update() || secured.keys.is_worn(RECORDS_LEFT, records_max);
        if needs_key && secured.keys.suite().is_13() && !secured.has_ended {
            secured.put(Keys::update)?;
        }
        let rest = secured.rest().len();
        out.extend_from_slice(secured.rest());
        let most = if out.len() < SEALED_MAX { SEND_MAX } else { PLAIN_MAX };
        let plain = if secured.has_ended { &[] } else { &plain[..plain.len().min(most)] };
        if !plain.is_empty() {
            Sealer::new(&mut secured.keys)?.seal(plain, out)?;
        }
        Ok(Sealed { start, end: out.len(), rest, plain: plain.len() })
    }

    /// Notes that the kernel took `taken` bytes of a send: a record of which it took some is kept for the next send, and
    /// records that it did not touch are taken back.
    pub(super) fn account(&mut self, slot: u32, sealed: Sealed, bytes: &[u8], taken: usize) -> Taken {
        let Some(secured) = self.secured.get_mut(slot) else { return Taken { plain: 0, is_all: true } };
        let (plain, end, untouched) = secured.keys.divide(sealed.plain, taken.saturating_sub(sealed.rest));
        secured.keys.rewind(untouched);
        #[cfg(test)]
        (1..=plain.div_ceil(PLAIN_MAX) as u64).for_each(|back| tests::note(secured.keys.pair(back)));
        let left = &bytes[sealed.start + taken..sealed.start + (sealed.rest + end).max(taken)];
        if !left.is_empty() || sealed.rest > 0 {
            secured.pending().rest = left.to_vec();
        }
        Taken { plain, is_all: taken == sealed.end - sealed.start }
    }

    /// The bytes of the client's unfinished record.
    pub(super) fn partial(&self, slot: u32) -> &[u8] {
        let pending = self.secured.get(slot).and_then(|secured| secured.pending.as_ref());
        pending.map_or(&[], |pending| &pending.partial)
    }

    /// Opens the records in `bytes`, which begin with those of [`Tls::partial`], and keeps the beginning of the next one.
    ///
    /// # Errors
    /// If the connection cannot go on.
    pub(super) fn open(&mut self, slot: u32, bytes: &mut [u8], now: Tick) -> Result<Opened, Fatal> {
        let Some(secured) = self.secured.get_mut(slot) else { return Ok(Opened { plain: 0, consumed: bytes.len() }) };
        let opened = secured.keys.open(bytes)?;
        let partial = &bytes[opened.consumed..];
        if !partial.is_empty() || secured.pending.is_some() {
            let pending = secured.pending();
            if opened.consumed > 0 || pending.partial.is_empty() {
                pending.since = now;
            }
            pending.partial = partial.to_vec();
        }
        Ok(opened)
    }

    /// Whether the client has said that it will send nothing more.
    pub(super) fn is_closed(&self, slot: u32) -> bool {
        self.secured.get(slot).is_some_and(|secured| secured.keys.is_closed())
    }

    /// The time since which a record of the client is unfinished, if one is.
    pub(super) fn unfinished_since(&self, slot: u32) -> Option<Tick> {
        let pending = self.secured.get(slot)?.pending.as_ref()?;
        (!pending.partial.is_empty()).then_some(pending.since)
    }

    /// Counts the time of an unfinished record from now on, because the shard has not read the connection.
    pub(super) fn wait_longer(&mut self, slot: u32, now: Tick) {
        if let Some(pending) = self.secured.get_mut(slot).and_then(|secured| secured.pending.as_mut()) {
            pending.since = now;
        }
    }

    /// Gives back the memory of a list that was long once.
    pub(super) fn give_back_slack(&mut self) {
        self.queue.give_back_slack();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    /// A key and a nonce.
    type Pair = ([u8; 32], [u8; 12]);

    thread_local! {
        /// The pairs of all records that have left this thread's shards.
        static USED: RefCell<HashSet<Pair>> = RefCell::default();
    }

    /// Notes that a record with this pair leaves the shard.
    ///
    /// # Panics
    /// If another one has left it before.
    pub(super) fn note(pair: Pair) {
        assert!(USED.with_borrow_mut(|used| used.insert(pair)), "a nonce is used twice");
    }

    /// The number of records that have left this thread's shards.
    pub(in crate::shard) fn records() -> usize {
        USED.with_borrow(HashSet::len)
    }
}
