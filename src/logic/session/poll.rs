//! Long polls: events in one JSON answer, after which the client asks again.

use crate::logic::event::Event;
use crate::logic::json;

use super::coding::Coding;
use super::notice::{Farewell, Notice};
use super::protocol::{Carrier, Protocol};

/// Polls. A frame is an element of the answer's list, with a comma after it.
pub(super) struct Poll;

impl Protocol for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn carrier(&self) -> Carrier {
        Carrier::Poll
    }

    fn frame(&self, event: &Event, out: &mut Vec<u8>) {
        event.write_json(out);
        out.push(b',');
    }

    fn notify(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        // An answer says by its own members what other protocols have notices for.
        let Notice::PollAnswer { events, next, gap, ended } = notice else { return };
        out.extend_from_slice(b"{\"events\":[");
        out.extend_from_slice(events.strip_suffix(b",").unwrap_or(events));
        out.extend_from_slice(b"],\"next\":\"");
        next.write(out);
        match gap {
            Some(resumed) => {
                out.extend_from_slice(b"\",\"gap\":true,\"resumed\":\"");
                resumed.write(out);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"\",\"gap\":false"),
        }
        if !ended.is_empty() {
            out.extend_from_slice(b",\"ended\":");
            json::write(ended, out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn heartbeat(&self, _coding: Coding) -> Option<&'static [u8]> {
        None
    }

    fn close(&self, _farewell: &Farewell<'_>, _out: &mut Vec<u8>) {}
}
