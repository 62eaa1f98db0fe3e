//! Backends that listen on the feed: what clients say, who comes and who goes.
//!
//! Lines for a listener wait in its outbox until its socket takes them. What a client has said is owed to the shard
//! until every listener's socket has it; a shard that is owed too much reads no more of it, so a backend that is slow
//! slows its clients and costs no memory. Comings and goings cannot be held up: beyond a bound they are counted instead.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::link::{Listening, Question, Speaker, upstream_weight};
use crate::logic::protocol::feed::{write_came, write_gone, write_lost, write_question, write_said};

use super::notify::Notify;

/// Bytes that wait for a listener beyond which comings and goings are counted instead of told, and nothing is asked.
const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// What is owed to shards no more.
pub(super) type Repaid = Rc<RefCell<Vec<(u16, usize)>>>;

/// Bytes of a client's message that its shard waits for.
#[derive(Debug)]
pub(super) struct Owed {
    shard: u16,
    bytes: usize,
    repaid: Repaid,
}

impl Owed {
    pub(super) fn new(shard: u16, bytes: usize, repaid: Repaid) -> Rc<Owed> {
        Rc::new(Owed { shard, bytes, repaid })
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.repaid.borrow_mut().push((self.shard, self.bytes));
    }
}

/// What waits to be written to a listener.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: RefCell<Waiting>,
    is_closed: Cell<bool>,
    /// How many channels it gets the events of.
    pub(super) traced: Cell<usize>,
    /// Something was added, or it was closed.
    pub(super) added: Notify,
    /// Something was written, or cannot be any more.
    pub(super) written: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) bytes: Vec<u8>,
    owed: Vec<Rc<Owed>>,
    lost: u64,
}

impl Outbox {
    /// Adds lines that are not to be lost.
    pub(super) fn push(&self, bytes: &[u8]) {
        self.waiting.borrow_mut().bytes.extend_from_slice(bytes);
        self.added.notify();
    }

    fn push_owed(&self, bytes: &[u8], owed: &Rc<Owed>) {
        self.waiting.borrow_mut().owed.push(owed.clone());
        self.push(bytes);
    }

    /// Adds a line about a connection, or counts it if too much waits already.
    pub(super) fn push_or_count(&self, bytes: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.bytes.len() + bytes.len() > OUTBOX_BYTES_MAX {
            waiting.lost += 1;
            return;
        }
        waiting.bytes.extend_from_slice(bytes);
        drop(waiting);
        self.added.notify();
    }

    /// What is to be written next; it counts as waiting no more.
    pub(super) fn take(&self) -> Waiting {
        let mut waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        if waiting.lost > 0 {
            write_lost(&mut waiting.bytes, waiting.lost);
        }
        waiting
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().bytes.len()
    }

    /// Ends it; what waits is let go.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        *self.waiting.borrow_mut() = Waiting::default();
        self.added.notify();
        self.written.notify();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }
}

/// All listeners.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    list: Vec<(Listening, Rc<Outbox>)>,
    pub(super) repaid: Repaid,
    line: Vec<u8>,
}

impl Listeners {
    /// Adds a listener, or changes what it listens to; returns whether shards must know.
    pub(super) fn set(&mut self, outbox: &Rc<Outbox>, what: Listening) -> bool {
        let before = self.any();
        self.list.retain(|(_, other)| !Rc::ptr_eq(other, outbox));
        self.list.push((what, outbox.clone()));
        before != self.any()
    }

    /// Takes a listener out; returns whether shards must know.
    pub(super) fn remove(&mut self, outbox: &Rc<Outbox>) -> bool {
        let before = self.any();
        self.list.retain(|(_, other)| !Rc::ptr_eq(other, outbox));
        before != self.any()
    }

    /// What anyone listens to.
    pub(super) fn any(&self) -> Listening {
        self.list.iter().fold(Listening::default(), |any, (what, _)| Listening {
            messages: any.messages || what.messages,
            connections: any.connections || what.connections,
            authorize: any.authorize || what.authorize,
        })
    }

    /// A client has said something; returns whether anyone hears it.
    pub(super) fn said(&mut self, from: &Speaker, data: &str) -> bool {
        let owed = Owed::new(from.connection.shard, upstream_weight(data.len()), self.repaid.clone());
        self.line.clear();
        write_said(&mut self.line, &from.connection.to_string(), from.user.as_deref(), data);
        let mut is_heard = false;
        for (what, outbox) in &self.list {
            if what.messages {
                outbox.push_owed(&self.line, &owed);
                is_heard = true;
            }
        }
        is_heard
    }

    /// A client waits for the backend's word. One listener is asked, the one that said last that it answers.
    pub(super) fn ask(&mut self, who: &Speaker, question: &Question) {
        let Some((_, outbox)) = self.list.iter().rev().find(|(what, _)| what.authorize) else { return };
        if outbox.len() > OUTBOX_BYTES_MAX {
            // A backend that is so far behind answers too late anyway: what holds then is configured.
            return;
        }
        self.line.clear();
        let Question { number, channels, address, authorization, cookie, origin } = question;
        let fields = [
            ("address", Some(&**address)),
            ("authorization", authorization.as_deref()),
            ("cookie", cookie.as_deref()),
            ("origin", origin.as_deref()),
        ];
        write_question(&mut self.line, &who.connection.to_string(), *number, channels, &fields);
        outbox.push(&self.line);
    }

    /// A client has come.
    pub(super) fn came(&mut self, who: &Speaker, address: &str, transport: &str) {
        self.line.clear();
        write_came(&mut self.line, &who.connection.to_string(), who.user.as_deref(), address, transport);
        self.tell_of_connections();
    }

    /// A client has gone.
    pub(super) fn gone(&mut self, who: &Speaker, reason: &str) {
        self.line.clear();
        write_gone(&mut self.line, &who.connection.to_string(), who.user.as_deref(), reason);
        self.tell_of_connections();
    }

    fn tell_of_connections(&self) {
        for (what, outbox) in &self.list {
            if what.connections {
                outbox.push_or_count(&self.line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::ConnectionId;

    fn speaker() -> Speaker {
        Speaker { connection: ConnectionId { shard: 3, slot: 1, generation: 2 }, user: None }
    }

    fn listening(messages: bool, connections: bool) -> Listening {
        Listening { messages, connections, authorize: false }
    }

    #[test]
    fn what_was_said_is_owed_until_every_listener_has_it() {
        let mut listeners = Listeners::default();
        assert!(!listeners.said(&speaker(), "\"x\""));
        assert_eq!(listeners.repaid.take(), [(3, upstream_weight(3))], "with nobody there it is owed no longer");
        let (a, b) = (Rc::new(Outbox::default()), Rc::new(Outbox::default()));
        assert!(listeners.set(&a, listening(true, false)));
        assert!(!listeners.set(&b, listening(true, false)));
        assert!(listeners.said(&speaker(), "\"x\""));
        let written = a.take();
        assert_eq!(written.bytes, b"{\"op\":\"message\",\"conn\":\"3.1.2\",\"data\":\"x\"}\n");
        drop(written);
        assert!(listeners.repaid.borrow().is_empty());
        b.close();
        assert_eq!(listeners.repaid.take(), [(3, upstream_weight(3))]);
        assert!(!listeners.remove(&b) && listeners.remove(&a));
    }

    #[test]
    fn comings_and_goings_are_bounded_and_what_is_lost_is_counted() {
        let mut listeners = Listeners::default();
        let outbox = Rc::new(Outbox::default());
        listeners.set(&outbox, listening(false, true));
        outbox.push(&vec![b'\n'; OUTBOX_BYTES_MAX]);
        listeners.came(&speaker(), "unix", "sse");
        listeners.gone(&speaker(), "client");
        assert_eq!(&outbox.take().bytes[OUTBOX_BYTES_MAX..], b"{\"op\":\"lost\",\"count\":2}\n");
        listeners.gone(&speaker(), "client");
        assert_eq!(outbox.take().bytes, b"{\"op\":\"disconnect\",\"conn\":\"3.1.2\",\"reason\":\"client\"}\n");
    }
}
