//! A queue between threads that can be closed.
//!
//! Owns: [`Queue`]. Promises: what is pushed before [`Queue::close`] is popped in order; afterwards `pop` returns None,
//! and a push is dropped. Leaves out: bounds, which the pushers keep.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<(VecDeque<T>, bool)>,
    more: Condvar,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Queue { state: Mutex::new((VecDeque::new(), false)), more: Condvar::new() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().0.len()
    }

    /// Adds one; dropped when the queue is closed.
    pub(crate) fn push(&self, item: T) {
        let mut state = self.state.lock();
        if !state.1 {
            state.0.push_back(item);
            self.more.notify_one();
        }
    }

    /// Takes the oldest, waiting for one; None once closed and empty.
    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(item) = state.0.pop_front() {
                return Some(item);
            }
            if state.1 {
                return None;
            }
            self.more.wait(&mut state);
        }
    }

    /// Lets `pop` return None after what is there.
    pub(crate) fn close(&self) {
        self.state.lock().1 = true;
        self.more.notify_all();
    }
}
