//! Heartbeats that scripts can see, for clients that ask for them. Browsers show scripts neither comments in event streams
//! nor pings on WebSockets.

/// The times between two heartbeats that there are, in seconds.
const SECS: [u8; 15] = [1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 40, 50, 60, 90, 120];

/// The time between two heartbeats that a client has asked for, in four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat(u8);

impl Beat {
    /// The bits that a number of [`Beat::number`] takes.
    pub const BITS: u32 = 4;

    /// The longest of the times that is not longer than `secs`, which is 1 or more.
    pub fn within(secs: u64) -> Beat {
        let longer = SECS.iter().take_while(|known| u64::from(**known) <= secs).count();
        Beat(longer.max(1) as u8)
    }

    /// The time as a number from 1 to 15.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The time of that number; `None` for 0, which stands for no heartbeats.
    pub const fn from_number(number: u8) -> Option<Beat> {
        if number == 0 || number as usize > SECS.len() { None } else { Some(Beat(number)) }
    }

    /// The time in seconds.
    pub const fn secs(self) -> u32 {
        SECS[self.0 as usize - 1] as u32
    }
}

const _: () = assert!(SECS.len() < 1 << Beat::BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_heartbeats_at_least_as_often_as_it_asks() {
        for (asked, given) in [(0, 1), (1, 1), (4, 3), (20, 20), (24, 20), (119, 90), (120, 120), (u64::MAX, 120)] {
            let beat = Beat::within(asked);
            assert_eq!(beat.secs(), given, "{asked}");
            assert_eq!(Beat::from_number(beat.number()), Some(beat));
        }
        assert_eq!((Beat::from_number(0), Beat::from_number(16)), (None, None));
    }
}
