//! Listeners: publishers that hear of clients' messages, connects and disconnects, or decide about clients without a token.

use crate::link::Listening;

/// Questions in a row that a listener may leave unanswered before another one is asked.
const UNANSWERED_MAX: usize = 3;

/// One publisher that listens.
#[derive(Debug)]
struct Listener {
    what: Listening,
    /// The listener's number as a publisher.
    publisher: usize,
    /// The times of the first questions since the listener's last answer.
    asked_ms: [u64; UNANSWERED_MAX],
    /// The number of these times that are set.
    asked: usize,
    /// Whether the listener was passed over since its last answer.
    is_passed_over: bool,
}

impl Listener {
    /// Whether the listener has had so many questions and their time, and has answered none.
    fn is_silent(&self, now_ms: u64, answer_max_ms: u64) -> bool {
        self.asked == UNANSWERED_MAX && now_ms.saturating_sub(self.asked_ms[UNANSWERED_MAX - 1]) >= answer_max_ms
    }

    fn note_question(&mut self, now_ms: u64) {
        if let Some(place) = self.asked_ms.get_mut(self.asked) {
            *place = now_ms;
            self.asked += 1;
        }
    }
}

/// A listener as a successor needs it.
#[derive(Debug)]
pub(super) struct Ear {
    /// The listener's number as a publisher.
    pub(super) publisher: usize,
    pub(super) what: Listening,
    /// The ages of the first questions since the listener's last answer, in milliseconds.
    pub(super) asked_ages_ms: Vec<u64>,
    /// Whether the listener was passed over since its last answer.
    pub(super) is_passed_over: bool,
}

/// The listener that a question goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authorizer {
    /// The listener's number as a publisher.
    pub(super) publisher: usize,
    /// The number of listeners that are passed over for the first time since they last answered.
    pub(super) newly_silent: usize,
}

/// The listeners of this node.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// All listeners; the newest `listen` command comes last.
    list: Vec<Listener>,
    /// The time in which a listener must answer a question, in milliseconds.
    answer_max_ms: u64,
}

impl Listeners {
    /// No listeners. Each has so many milliseconds to answer a question.
    pub(super) fn new(answer_max_ms: u64) -> Listeners {
        Listeners { list: Vec::new(), answer_max_ms }
    }

    /// The number of listeners.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds a listener, or changes what it listens to. Returns whether [`Listeners::any`] has changed.
    pub(super) fn set(&mut self, publisher: usize, what: Listening) -> bool {
        let before = self.any();
        self.list.retain(|other| other.publisher != publisher);
        let asked_ms = [0; UNANSWERED_MAX];
        self.list.push(Listener { what, publisher, asked_ms, asked: 0, is_passed_over: false });
        before != self.any()
    }

    /// All listeners in their order, as a successor needs them.
    pub(super) fn iter(&self, now_ms: u64) -> impl Iterator<Item = Ear> {
        self.list.iter().map(move |listener| Ear {
            publisher: listener.publisher,
            what: listener.what,
            asked_ages_ms: listener.asked_ms[..listener.asked].iter().map(|at| now_ms.saturating_sub(*at)).collect(),
            is_passed_over: listener.is_passed_over,
        })
    }

    /// Adds a listener of a predecessor as the newest one.
    pub(super) fn restore(
        &mut self,
        publisher: usize,
        what: Listening,
        ages_ms: &[u64],
        is_passed_over: bool,
        now_ms: u64,
    ) {
        self.set(publisher, what);
        let Some(listener) = self.list.last_mut() else { return };
        ages_ms.iter().for_each(|age| listener.note_question(now_ms.saturating_sub(*age)));
        listener.is_passed_over = is_passed_over;
    }

    /// Takes a publisher out, if it is a listener. Returns whether [`Listeners::any`] has changed.
    pub(super) fn remove(&mut self, publisher: usize) -> bool {
        let before = self.any();
        self.list.retain(|other| other.publisher != publisher);
        before != self.any()
    }

    /// Everything that at least one listener listens to.
    pub(super) fn any(&self) -> Listening {
        self.list.iter().fold(Listening::default(), |any, Listener { what, .. }| Listening {
            messages: any.messages || what.messages,
            connections: any.connections || what.connections,
            authorize: any.authorize || what.authorize,
        })
    }

    /// The listeners that hear clients' messages.
    pub(super) fn of_messages(&self) -> impl Iterator<Item = usize> {
        self.list.iter().filter(|other| other.what.messages).map(|other| other.publisher)
    }

    /// The listeners that hear of connects and disconnects.
    pub(super) fn of_connections(&self) -> impl Iterator<Item = usize> {
        self.list.iter().filter(|other| other.what.connections).map(|other| other.publisher)
    }

    /// Chooses the listener that is asked about a client without a token: the one whose offer to decide is the newest,
    /// among those that have not left three questions in a row unanswered. If all have, the newest is asked.
    pub(super) fn choose_authorizer(&mut self, now_ms: u64) -> Option<Authorizer> {
        let answer_max_ms = self.answer_max_ms;
        let mut newly_silent = 0;
        let offers = self.list.iter_mut().rev().filter(|other| other.what.authorize);
        for listener in offers {
            if !listener.is_silent(now_ms, answer_max_ms) {
                listener.note_question(now_ms);
                return Some(Authorizer { publisher: listener.publisher, newly_silent });
            }
            newly_silent += usize::from(!std::mem::replace(&mut listener.is_passed_over, true));
        }
        let newest = self.list.iter().rev().find(|other| other.what.authorize)?;
        Some(Authorizer { publisher: newest.publisher, newly_silent })
    }

    /// Notes that a listener has answered a question. Returns whether it had been passed over.
    pub(super) fn note_answer(&mut self, publisher: usize) -> bool {
        let Some(listener) = self.list.iter_mut().find(|other| other.publisher == publisher) else { return false };
        listener.asked = 0;
        std::mem::take(&mut listener.is_passed_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(messages: bool, connections: bool, authorize: bool) -> Listening {
        Listening { messages, connections, authorize }
    }

    #[test]
    fn a_change_of_what_all_listen_to_is_reported() {
        let mut listeners = Listeners::default();
        assert!(listeners.set(1, listening(true, false, false)));
        assert!(!listeners.set(2, listening(true, false, false)));
        assert!(listeners.set(2, listening(true, true, false)));
        assert_eq!(listeners.of_messages().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(listeners.of_connections().collect::<Vec<_>>(), [2]);
        assert!(listeners.remove(2));
        assert!(!listeners.remove(2));
        assert!(listeners.remove(1));
        assert_eq!(listeners.any(), Listening::default());
    }

    fn chosen(listeners: &mut Listeners, now_ms: u64) -> Option<usize> {
        listeners.choose_authorizer(now_ms).map(|chosen| chosen.publisher)
    }

    #[test]
    fn the_listener_with_the_newest_offer_to_decide_is_asked() {
        let mut listeners = Listeners::new(1000);
        assert_eq!(chosen(&mut listeners, 0), None);
        listeners.set(1, listening(false, false, true));
        listeners.set(2, listening(false, false, true));
        listeners.set(3, listening(true, true, false));
        assert_eq!(chosen(&mut listeners, 0), Some(2));
        listeners.set(1, listening(false, false, true));
        assert_eq!(chosen(&mut listeners, 0), Some(1));
        listeners.remove(1);
        assert_eq!(chosen(&mut listeners, 0), Some(2));
    }

    #[test]
    fn after_three_unanswered_questions_another_listener_is_asked_until_the_silent_one_answers() {
        let mut listeners = Listeners::new(1000);
        for publisher in [1, 2] {
            listeners.set(publisher, listening(false, false, true));
        }
        for now_ms in [0, 1, 2, 500, 1001] {
            assert_eq!(chosen(&mut listeners, now_ms), Some(2), "the third question still has its time");
        }
        assert_eq!(listeners.choose_authorizer(1002), Some(Authorizer { publisher: 1, newly_silent: 1 }));
        assert_eq!(listeners.choose_authorizer(1003), Some(Authorizer { publisher: 1, newly_silent: 0 }));
        assert!(!listeners.note_answer(1), "it was not passed over");
        assert!(listeners.note_answer(2));
        assert_eq!(chosen(&mut listeners, 1004), Some(2));
        // An answer in between makes the row begin anew.
        for now_ms in [1005, 1006] {
            chosen(&mut listeners, now_ms);
        }
        listeners.note_answer(2);
        assert_eq!(chosen(&mut listeners, 9000), Some(2));
    }

    #[test]
    fn where_no_listener_answers_the_newest_is_asked() {
        let mut listeners = Listeners::new(1000);
        for publisher in [1, 2] {
            listeners.set(publisher, listening(false, false, true));
        }
        for now_ms in 0..6 {
            chosen(&mut listeners, now_ms * 1000);
        }
        chosen(&mut listeners, 20_000);
        assert_eq!(listeners.choose_authorizer(30_000), Some(Authorizer { publisher: 2, newly_silent: 0 }));
    }
}
