//! The time in a response's head (RFC 9110 §6.6.1).

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;

/// The length of every date in this form (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;
/// The last second that the form's four digits of a year can say, in seconds since 1970.
const UNIX_S_MAX: u64 = 253_402_300_799;

/// A time as the field `Date` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date([u8; LENGTH]);

impl Date {
    /// The date of a time in seconds since 1970.
    pub fn of(unix_s: u64) -> Date {
        let time = UNIX_EPOCH + Duration::from_secs(unix_s.min(UNIX_S_MAX));
        let mut text = [b' '; LENGTH];
        let written = write!(&mut text[..], "{}", HttpDate::from(time));
        debug_assert!(written.is_ok(), "every date has the same length");
        Date(text)
    }

    /// The date as text.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_form_of_the_rfc() {
        let text = |unix_s| String::from_utf8(Date::of(unix_s).bytes().to_vec()).unwrap();
        assert_eq!(text(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(text(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(text(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
