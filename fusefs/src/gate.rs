//! The gate every reply with model bytes passes, one for each file of the mount.
//!
//! Owns: whether a file may still be read through an inode, how many replies are on their way to the kernel, and what
//! the kernel is told of the file's size while a `MAP_POPULATE` loop is being ended. Promises: once [`Gate::shut`] has
//! returned, no new reply with bytes is started, and once [`Gate::drained`] has returned true, none is on its way, so
//! that pages dropped after that stay dropped. Leaves out: who shuts it, and telling the kernel (`revoke`).
//!
//! ```text
//! open --shut(why)--> shut --drained, pages dropped--> settled --loop seen--> shrunk --quiet--> settled
//! ```
//! A shut gate never opens again: the path gets a new inode instead, with a fresh page cache.

use parking_lot::{Condvar, Mutex};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Why a gate was shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The model is quarantined, by whomever.
    Quarantined,
    /// A read through the mount found other bytes than were promoted.
    Corrupt,
    /// The same place could not be read again and again.
    Unreadable,
    /// The disk did not answer within the request timeout.
    TimedOut,
}

/// The size that attributes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Not even attributes: the file is shut.
    Nothing,
    /// Size 0, only to the thread that ends a loop.
    Empty,
    /// The true size again, only to that thread.
    Whole,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: AtomicBool,
    why: OnceLock<Why>,
    replies: AtomicU32,
    idle_lock: Mutex<()>,
    idle: Condvar,
    settled: OnceLock<Instant>,
    shows: AtomicU8,
    ending: AtomicBool,
    refused: Mutex<Refused>,
    unreadable: Mutex<Unreadable>,
}

/// Page reads refused after the file was settled.
#[derive(Debug, Default)]
struct Refused {
    count: u32,
    last: Option<Instant>,
}

/// How often which places failed to be read, the latest last.
#[derive(Debug, Default)]
struct Unreadable {
    places: Vec<(u64, u32)>,
    last: Option<Instant>,
}

/// What to do with a page read that a shut gate refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Answer at once: nothing unusual.
    Now,
    /// Answer a little later: the reader comes back with every answer, and need not burn a core.
    Later,
    /// As `Later`, and it has gone on long enough to be a loop in the kernel: end it.
    Loop,
}

impl Gate {
    /// After this many refused page reads a reader is slowed down.
    const PATIENCE: u32 = 4;
    /// After this many, with [`Gate::SETTLING`] passed, it is a loop.
    const LOOP: u32 = 16;
    /// Refusals further apart than this are not one loop.
    const ONE_LOOP: Duration = Duration::from_secs(2);
    /// How long after the pages were dropped the size may first be shown as 0. A read(2) that had passed its own check
    /// of attributes before that must be done with it (a few nanoseconds of kernel code, unless it was preempted there).
    const SETTLING: Duration = Duration::from_millis(500);
    /// The same place failing this often, without a pause of [`Gate::PAUSE`], is a loop too.
    const UNREADABLE: u32 = 16;
    /// A disk may take long to fail: as long as a request may take.
    const PAUSE: Duration = Duration::from_secs(60);
    /// So many places are counted side by side: several loaders may hang on several bad places.
    const PLACES: usize = 16;

    /// Counts a reply in, unless the gate is shut. A true answer must be followed by one [`Gate::leave`].
    pub(crate) fn enter(&self) -> bool {
        self.replies.fetch_add(1, Ordering::SeqCst);
        if self.shut.load(Ordering::SeqCst) {
            self.leave();
            return false;
        }
        true
    }

    /// The reply has been handed to the kernel, or will never be.
    pub(crate) fn leave(&self) {
        if self.replies.fetch_sub(1, Ordering::SeqCst) == 1 && self.shut.load(Ordering::SeqCst) {
            let _guard = self.idle_lock.lock();
            self.idle.notify_all();
        }
    }

    /// Shuts the gate for good; true for the one call that did it.
    pub(crate) fn shut(&self, why: Why) -> bool {
        let first = self.why.set(why).is_ok();
        self.shut.store(true, Ordering::SeqCst);
        first
    }

    /// Whether the gate is shut.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    /// Why it is shut.
    pub(crate) fn why(&self) -> Option<Why> {
        self.why.get().copied()
    }

    /// Waits until no reply is on its way, at most `limit`; false when one still is.
    pub(crate) fn drained(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut guard = self.idle_lock.lock();
        while self.replies.load(Ordering::SeqCst) != 0 {
            if self.idle.wait_until(&mut guard, deadline).timed_out() {
                return self.replies.load(Ordering::SeqCst) == 0;
            }
        }
        true
    }

    /// The kernel has dropped its pages; from now on it asks for attributes before each read(2).
    pub(crate) fn settle(&self) {
        let _ = self.settled.set(Instant::now());
    }

    /// Counts a page read that is refused because the gate is shut.
    pub(crate) fn refuse(&self, now: Instant) -> Refusal {
        let Some(settled) = self.settled.get() else { return Refusal::Now };
        let mut refused = self.refused.lock();
        if refused.last.is_none_or(|last| now.duration_since(last) > Self::ONE_LOOP) {
            *refused = Refused::default();
        }
        refused.count = refused.count.saturating_add(1);
        refused.last = Some(now);
        match refused.count {
            n if n <= Self::PATIENCE => Refusal::Now,
            n if n >= Self::LOOP && now.duration_since(*settled) >= Self::SETTLING => Refusal::Loop,
            _ => Refusal::Later,
        }
    }

    /// When the last page read was refused.
    pub(crate) fn last_refused(&self) -> Option<Instant> {
        self.refused.lock().last
    }

    /// Takes the duty to end the loop; false when another has it.
    pub(crate) fn start_ending(&self) -> bool {
        !self.ending.swap(true, Ordering::SeqCst)
    }

    /// The loop is ended: forgets the refusals counted so far, and takes notice of a next loop.
    pub(crate) fn ended(&self) {
        *self.refused.lock() = Refused::default();
        self.ending.store(false, Ordering::SeqCst);
    }

    /// Counts a failure to read at `offset`; true when the same place has failed so often that the reader is a loop.
    pub(crate) fn unreadable(&self, offset: u64, now: Instant) -> bool {
        let mut unreadable = self.unreadable.lock();
        if unreadable.last.is_none_or(|last| now.duration_since(last) > Self::PAUSE) {
            unreadable.places.clear();
        }
        unreadable.last = Some(now);
        let known = unreadable.places.iter().position(|(at, _)| *at == offset);
        let count = 1 + known.map_or(0, |i| unreadable.places.remove(i).1);
        if unreadable.places.len() == Self::PLACES {
            unreadable.places.remove(0);
        }
        unreadable.places.push((offset, count));
        count >= Self::UNREADABLE
    }

    /// What the loop-ending thread is shown as the size.
    pub(crate) fn shows(&self) -> Shows {
        match self.shows.load(Ordering::SeqCst) {
            1 => Shows::Empty,
            2 => Shows::Whole,
            _ => Shows::Nothing,
        }
    }

    /// Changes what the loop-ending thread is shown.
    pub(crate) fn show(&self, shows: Shows) {
        let code = match shows {
            Shows::Nothing => 0,
            Shows::Empty => 1,
            Shows::Whole => 2,
        };
        self.shows.store(code, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_shut_gate_lets_nothing_in_and_drains_what_was_in() {
        let gate = Arc::new(Gate::default());
        assert!(gate.enter());
        assert!(gate.shut(Why::Corrupt), "the first call shuts it");
        assert!(!gate.shut(Why::Quarantined), "the second finds it shut");
        assert_eq!(gate.why(), Some(Why::Corrupt), "the first reason stands");
        assert!(!gate.enter());
        assert!(!gate.drained(Duration::from_millis(1)), "one reply is still on its way");
        let leaver = Arc::clone(&gate);
        let thread = std::thread::spawn(move || leaver.leave());
        assert!(gate.drained(Duration::from_secs(10)));
        thread.join().expect("leaves");
    }

    #[test]
    fn only_a_long_series_of_refusals_after_settling_is_a_loop() {
        let gate = Gate::default();
        gate.shut(Why::Corrupt);
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(gate.refuse(start), Refusal::Now, "nothing counts before the pages are dropped");
        }
        gate.settle();
        let early = Instant::now();
        let early: Vec<Refusal> = (0..100).map(|_| gate.refuse(early)).collect();
        assert_eq!(early[..4], [Refusal::Now; 4]);
        assert!(early[4..].iter().all(|r| *r == Refusal::Later), "never a loop while read(2)s may be under way");
        let later = Instant::now() + Gate::SETTLING;
        assert_eq!(gate.refuse(later), Refusal::Loop);
        assert!(gate.start_ending() && !gate.start_ending(), "one thread ends it");
        gate.ended();
        assert!(gate.start_ending(), "the next loop is noticed");
        assert_eq!(gate.refuse(later), Refusal::Now);
        for _ in 0..40 {
            gate.refuse(later);
        }
        assert_eq!(gate.refuse(later + Gate::ONE_LOOP * 2), Refusal::Now, "a pause starts a new count");
    }

    #[test]
    fn the_same_unreadable_place_again_and_again_is_a_loop_and_many_places_are_not() {
        let gate = Gate::default();
        let now = Instant::now();
        for offset in 0..1000 {
            assert!(!gate.unreadable(offset * 4096, now), "a reader that goes on over bad places is left alone");
        }
        let hits: Vec<bool> = (0..16).map(|_| gate.unreadable(0, now)).collect();
        assert_eq!(hits.iter().position(|h| *h), Some(15));
        let slow = Gate::default();
        let hits: Vec<bool> =
            (0..32).map(|n| slow.unreadable(n % 2 * 4096, now + Duration::from_secs(n * 5))).collect();
        assert_eq!(
            hits.iter().position(|h| *h),
            Some(30),
            "two loaders at two places, on a disk that takes five seconds to fail"
        );
        let rare = Gate::default();
        assert!(
            (0..100).all(|n| !rare.unreadable(0, now + Gate::PAUSE * 2 * n)),
            "a place that fails now and then is no loop"
        );
    }
}
