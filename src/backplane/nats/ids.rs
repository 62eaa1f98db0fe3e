//! Ids from the sequence numbers of a stream.
//!
//! A stream counts its messages, and a message holds up to 16,384 entries. So an entry's id is the stream's base, which
//! is the time of its creation as an id, and then the message's number and the entry's place in it. Ids are in the order
//! of the log, and the ids of a stream that was made anew lie beyond those of the one before.

use crate::logic::id::Id;

/// The bits of an id that count within a message.
const PLACE_BITS: u32 = 14;
/// The most entries of one message.
pub(super) const PLACES: usize = 1 << PLACE_BITS;

/// The numbering of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbering {
    /// The time of the stream's creation, in milliseconds since 1970.
    pub(super) base_ms: u64,
}

impl Numbering {
    fn base(self) -> u64 {
        Id::new(self.base_ms, 0).number()
    }

    /// The id of an entry by its message and its place in it.
    pub(super) fn id(self, sequence: u64, place: usize) -> Id {
        let number = sequence.checked_shl(PLACE_BITS).filter(|number| number >> PLACE_BITS == sequence);
        let within = number.unwrap_or(u64::MAX).saturating_add(place.min(PLACES - 1) as u64);
        Id::from_number(self.base().saturating_add(within))
    }

    /// The position before everything of a message.
    pub(super) fn before(self, sequence: u64) -> Id {
        self.id(sequence, 0).before()
    }

    /// The message that a position is in; 0 for positions before the stream.
    pub(super) fn sequence(self, position: Id) -> u64 {
        position.number().saturating_sub(self.base()) >> PLACE_BITS
    }

    /// The base of a stream that was made at a time, beyond everything that was read.
    pub(super) fn beyond(position: Id, now_ms: u64) -> Numbering {
        Numbering { base_ms: now_ms.max(position.ms() + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_are_in_the_order_of_messages_and_places(
            base_ms in 1_600_000_000_000u64..1_900_000_000_000,
            (one, other) in (1u64..1 << 40, 1u64..1 << 40),
            (place, other_place) in (0..PLACES, 0..PLACES),
        ) {
            let numbering = Numbering { base_ms };
            let id = numbering.id(one, place);
            prop_assert_eq!(id.cmp(&numbering.id(other, other_place)), (one, place).cmp(&(other, other_place)));
            prop_assert_eq!(numbering.sequence(id), one);
            prop_assert_eq!(numbering.sequence(numbering.before(one)), one - 1);
            prop_assert!(Numbering::beyond(id, base_ms).id(0, 0) > id);
        }
    }

    #[test]
    fn a_position_before_the_stream_is_in_no_message() {
        let numbering = Numbering { base_ms: 1_700_000_000_000 };
        assert_eq!(numbering.sequence(Id::new(5, 0)), 0);
        assert_eq!(numbering.sequence(numbering.before(1)), 0);
        assert_eq!(numbering.id(u64::MAX, 0), Id::MAX);
    }
}
