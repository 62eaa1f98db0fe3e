//! Who gets a copy of which channels' events.

use std::collections::HashMap;
use std::rc::Rc;

use crate::logic::event::{ChannelName, Event};
use crate::logic::protocol::dialect::write_event_json;
use crate::logic::protocol::feed::FeedError;

use super::listeners::Outbox;

/// Channels that one connection traces at most.
const TRACES_MAX: usize = 100;

/// Who traces which channel. A publish to any other channel costs one look here, however many are traced.
#[derive(Debug, Default)]
pub(super) struct Traces {
    by_channel: HashMap<ChannelName, Vec<Rc<Outbox>>>,
}

impl Traces {
    /// Has a connection get a copy of a channel's events, once however often it asks.
    ///
    /// # Errors
    /// If it traces too many channels already.
    pub(super) fn add(&mut self, channel: ChannelName, outbox: &Rc<Outbox>) -> Result<(), FeedError> {
        let is_there = |outboxes: &Vec<Rc<Outbox>>| outboxes.iter().any(|other| Rc::ptr_eq(other, outbox));
        if self.by_channel.get(&channel).is_some_and(is_there) {
            return Ok(());
        }
        if outbox.traced.get() >= TRACES_MAX {
            let message = format!("a connection traces at most {TRACES_MAX} channels");
            return Err(FeedError::new("traces", message));
        }
        outbox.traced.set(outbox.traced.get() + 1);
        self.by_channel.entry(channel).or_default().push(outbox.clone());
        Ok(())
    }

    /// A connection has gone.
    pub(super) fn remove(&mut self, outbox: &Rc<Outbox>) {
        if outbox.traced.take() == 0 {
            return;
        }
        self.by_channel.retain(|_, outboxes| {
            outboxes.retain(|other| !Rc::ptr_eq(other, outbox));
            !outboxes.is_empty()
        });
    }

    /// Gives those who trace the event's channel a copy.
    pub(super) fn copy(&self, event: &Event) {
        if self.by_channel.is_empty() {
            return;
        }
        let Some(outboxes) = self.by_channel.get(&event.channel) else { return };
        let mut line = b"{\"op\":\"event\",\"event\":".to_vec();
        write_event_json(event, &mut line);
        line.extend_from_slice(b"}\n");
        for outbox in outboxes {
            outbox.push_or_count(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::event::{Draft, Kind};
    use crate::logic::id::Id;

    fn event(channel: &str) -> Event {
        let draft = Draft { name: None, kind: Kind::Json, payload: b"1".to_vec().into() };
        Event { id: Id::new(1, 0), channel: channel.into(), draft }
    }

    #[test]
    fn a_channel_is_traced_once_and_so_many_at_most() {
        let mut traces = Traces::default();
        let (one, two) = (Rc::new(Outbox::default()), Rc::new(Outbox::default()));
        for _ in 0..1000 {
            traces.add("a".into(), &one).unwrap();
        }
        traces.add("a".into(), &two).unwrap();
        traces.copy(&event("a"));
        traces.copy(&event("b"));
        let line = one.take().bytes;
        assert!(line.starts_with(b"{\"op\":\"event\""));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(two.take().bytes, line);
        for n in 1..TRACES_MAX {
            traces.add(format!("c{n}").as_str().into(), &one).unwrap();
        }
        assert_eq!(traces.add("more".into(), &one).unwrap_err().code, "traces");
        traces.add("a".into(), &one).unwrap();
        traces.add("more".into(), &two).unwrap();
        traces.remove(&one);
        traces.copy(&event("a"));
        assert_eq!((one.len(), two.len()), (0, line.len()));
        traces.remove(&two);
        assert!(traces.by_channel.is_empty());
    }
}
