//! The connections that speak HTTP/2, and their streams. A stream is a slot of its own, without a socket; its *carrier* is the
//! slot of the connection, through which its bytes leave. Connections of HTTP/1.1 have nothing here.

use std::num::NonZeroU32;

use crate::logic::cells::NONE;
use crate::logic::h2::{ErrorCode, Event, Head, Link, Reading, Side};
use crate::logic::sparse::Sparse;

/// What is kept of a connection beside its slot.
#[derive(Debug)]
struct Carrying {
    link: Link,
    /// The stream whose bytes come first in the next send. The streams form a ring.
    first: u32,
    /// The number of streams.
    count: u16,
    /// The client was told that the connection ends, and no stream is opened any more.
    is_leaving: bool,
}

const _: () = assert!(size_of::<Option<Carrying>>() <= 56, "each connection of HTTP/2 has one");

/// What is kept of a stream beside its slot.
#[derive(Debug)]
pub(super) struct Stream {
    /// The stream's number within its connection.
    pub(super) id: NonZeroU32,
    /// The slot of the connection.
    pub(super) carrier: u32,
    /// The next stream of the connection, in a ring.
    next: u32,
    /// The bytes of data that the client has room for.
    pub(super) window: i32,
    /// The bytes of the client's window that it was not given back.
    pub(super) unread: u32,
    /// The client has ended its side.
    pub(super) client_ended: bool,
    /// The server has ended its side, or the client has reset the stream: nothing more is sent.
    pub(super) has_ended: bool,
    /// The response's head is not sent.
    pub(super) owes_head: bool,
    /// The slot is blocked because the client has no room, and not because the stream is given up.
    pub(super) has_no_room: bool,
}

const _: () = assert!(size_of::<Option<Stream>>() == 24, "each stream has one");

/// The connections and streams of a shard, by slot; see the module's documentation.
#[derive(Debug, Default)]
pub(super) struct H2 {
    carriers: Sparse<Carrying>,
    streams: Sparse<Stream>,
    /// The head of the request that was read last. Its memory is used again.
    pub(super) head: Head,
    /// The memory of all clients' tables of fields.
    tables: usize,
}

impl H2 {
    /// Begins HTTP/2 on a connection whose client has sent its preface, and appends the server's.
    pub(super) fn begin(&mut self, slot: u32, streams: u32, out: &mut Vec<u8>) {
        let link = Link::new(streams, true, out);
        self.carriers.insert(slot, Carrying { link, first: NONE, count: 0, is_leaving: false });
    }

    /// The number of connections.
    pub(super) fn carriers(&self) -> usize {
        self.carriers.len()
    }

    /// The number of streams.
    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether the connection's client has sent its preface.
    pub(super) fn has_begun(&self, slot: u32) -> bool {
        self.carriers.get(slot).is_some()
    }

    /// The connection's state, if it has begun.
    pub(super) fn link(&mut self, slot: u32) -> Option<&mut Link> {
        self.carriers.get_mut(slot).map(|carrying| &mut carrying.link)
    }

    /// The bytes that the connection's client has room for on all streams together.
    pub(super) fn room(&self, slot: u32) -> i32 {
        self.carriers.get(slot).map_or(0, |carrying| carrying.link.window())
    }

    /// The number of the connection's streams.
    pub(super) fn count(&self, slot: u32) -> usize {
        self.carriers.get(slot).map_or(0, |carrying| carrying.count.into())
    }

    /// Has the connection take no more streams; returns whether it took some until now.
    pub(super) fn leave(&mut self, slot: u32) -> bool {
        self.carriers.get_mut(slot).is_some_and(|carrying| !std::mem::replace(&mut carrying.is_leaving, true))
    }

    /// Whether the connection takes no more streams.
    pub(super) fn is_leaving(&self, slot: u32) -> bool {
        self.carriers.get(slot).is_some_and(|carrying| carrying.is_leaving)
    }

    /// Adds a stream to a connection.
    pub(super) fn open(&mut self, slot: u32, carrier: u32, id: NonZeroU32, client_ended: bool) {
        let Some(carrying) = self.carriers.get_mut(carrier) else { return };
        let next = match self.streams.get_mut(carrying.first) {
            Some(first) => std::mem::replace(&mut first.next, slot),
            None => slot,
        };
        if next == slot {
            carrying.first = slot;
        }
        carrying.count += 1;
        let stream = Stream {
            id,
            carrier,
            next,
            window: carrying.link.initial(),
            unread: 0,
            client_ended,
            has_ended: false,
            owes_head: true,
            has_no_room: false,
        };
        self.streams.insert(slot, stream);
    }

    /// The stream in a slot.
    pub(super) fn stream(&self, slot: u32) -> Option<&Stream> {
        self.streams.get(slot)
    }

    /// The stream in a slot, to be changed.
    pub(super) fn stream_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        self.streams.get_mut(slot)
    }

    /// The slot of a stream's connection.
    pub(super) fn carrier_of(&self, slot: u32) -> Option<u32> {
        self.streams.get(slot).map(|stream| stream.carrier)
    }

    /// The slots of a connection's streams, beginning with the one whose turn it is.
    pub(super) fn slots_of(&self, carrier: u32) -> impl Iterator<Item = u32> {
        let first = self.carriers.get(carrier).map_or(NONE, |carrying| carrying.first);
        ring(&self.streams, first)
    }

    /// The stream of a connection whose turn it is.
    pub(super) fn first_in_turn(&self, carrier: u32) -> Option<u32> {
        self.carriers.get(carrier).map(|carrying| carrying.first).filter(|first| *first != NONE)
    }

    /// The stream whose turn comes after that of another one of the same connection, round and round.
    pub(super) fn next_in_turn(&self, slot: u32) -> Option<u32> {
        self.streams.get(slot).map(|stream| stream.next)
    }

    /// Has the next send of a connection begin with a stream.
    pub(super) fn give_turn(&mut self, carrier: u32, slot: u32) {
        if let Some(carrying) = self.carriers.get_mut(carrier) {
            carrying.first = slot;
        }
    }

    /// The slot of a connection's stream of that number, if it is open.
    pub(super) fn find(&self, carrier: u32, id: u32) -> Option<u32> {
        self.slots_of(carrier).find(|slot| self.streams.get(*slot).is_some_and(|stream| stream.id.get() == id))
    }

    /// Reads what stands first in a connection's input; see [`Link::read`].
    pub(super) fn read<'a>(
        &mut self,
        slot: u32,
        input: &'a [u8],
        out: &mut Vec<u8>,
        now: u32,
    ) -> Result<Option<(usize, Event<'a>)>, ErrorCode> {
        let H2 { carriers, streams, head, tables } = self;
        let Some(Carrying { link, first, .. }) = carriers.get_mut(slot) else { return Ok(None) };
        let first = *first;
        let side = |id: u32| {
            let mut open = ring(streams, first).filter_map(|slot| streams.get(slot));
            let stream = open.find(|stream| stream.id.get() == id)?;
            Some(if stream.client_ended { Side::Ended } else { Side::Open })
        };
        *tables -= link.memory_bytes();
        let read = link.read(input, side, &mut Reading { head, out, now });
        *tables += link.memory_bytes();
        read
    }

    /// The bytes of memory that all clients' tables of fields take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.tables
    }

    /// The bytes of memory that the table of fields of a connection's client takes.
    pub(super) fn held(&self, slot: u32) -> usize {
        self.carriers.get(slot).map_or(0, |carrying| carrying.link.memory_bytes())
    }

    /// Forgets a stream or a connection. Returns the connection whose last stream this was.
    pub(super) fn forget(&mut self, slot: u32) -> Option<u32> {
        self.tables -= self.held(slot);
        self.carriers.remove(slot);
        let Stream { carrier, next, .. } = self.streams.get(slot)?;
        let (carrier, next) = (*carrier, *next);
        let before = ring(&self.streams, slot).last().unwrap_or(slot);
        if let Some(before) = self.streams.get_mut(before) {
            before.next = next;
        }
        self.streams.remove(slot);
        let carrying = self.carriers.get_mut(carrier)?;
        carrying.count -= 1;
        if carrying.count == 0 {
            carrying.first = NONE;
            return Some(carrier);
        }
        if carrying.first == slot {
            carrying.first = next;
        }
        None
    }
}

/// The slots of a ring of streams, once around.
fn ring(streams: &Sparse<Stream>, first: u32) -> impl Iterator<Item = u32> {
    let begin = streams.get(first).map(|_| first);
    let next = move |slot: &u32| streams.get(*slot).map(|stream| stream.next).filter(|next| *next != first);
    std::iter::successors(begin, next)
}
