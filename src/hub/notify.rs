//! Waking tasks of the same thread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tasks that wait for something to change. They look again themselves; a wake-up promises nothing.
#[derive(Debug, Default)]
pub(super) struct Notify {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    round: u64,
    waiting: Vec<Waker>,
}

impl Notify {
    /// Wakes everyone who waits.
    pub(super) fn notify(&self) {
        let mut state = self.state.borrow_mut();
        state.round += 1;
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }

    /// Waits for the next [`Notify::notify`].
    pub(super) async fn wait(&self) {
        let round = self.state.borrow().round;
        poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            if state.round != round {
                return Poll::Ready(());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
