//! The connections of a server, and which of them gives way.
//!
//! Owns: the table of open connections. Promises: a new connection is always let in; at the cap it takes the place of
//! the one that has been idle longest, so ten thousand idle connections neither exhaust descriptors nor keep a new
//! caller out; one that waits for an answer is never closed for another. Leaves out: sockets and timers (`accept`).
//!
//! ```text
//!          request read           answer made            answer taken
//!  idle ────────────────> handling ──────────> sending ───────────────> idle
//!  the longest idle         never gives          never gives way, but
//!  gives way                way, no timer        is closed when it stalls
//! ```

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The connections of a server.
pub(crate) struct Slots {
    cap: usize,
    started: Instant,
    /// Taken for a moment only, never while another lock is held.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: usize,
    /// Grows with every change, so its order is the order in which connections became idle.
    tickets: u64,
    idle: BTreeMap<u64, Arc<Slot>>,
}

/// One connection.
pub(crate) struct Slot {
    /// Its ticket while it is idle, else 0. Changed under the table's lock.
    ticket: AtomicU64,
    /// Answers not yet taken. Changed under the table's lock.
    busy: AtomicU64,
    /// Whether the answer is made, so that the client is the one to act.
    sending: AtomicBool,
    /// When a byte last moved, in milliseconds since the server started.
    moved: AtomicU64,
    evicted: Notify,
}

impl Slots {
    pub(crate) fn new(cap: usize) -> Arc<Self> {
        Arc::new(Slots { cap: cap.max(2), started: Instant::now(), table: Mutex::default() })
    }

    /// Lets a connection in; `None` when all are waiting for answers and none can give way.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut table = self.table.lock();
        if table.open >= self.cap {
            table.evict_oldest()?;
        }
        table.open += 1;
        let slot = Arc::new(Slot {
            ticket: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            sending: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            evicted: Notify::new(),
        });
        table.park(&slot);
        drop(table);
        let entered = Entered { slots: Arc::clone(self), slot };
        entered.touch();
        Some(entered)
    }

    /// Gives one idle connection up, when the process has run out of descriptors.
    pub(crate) fn evict_one(&self) {
        // Nothing idle to give up is no failure: the caller tries again when a connection has ended.
        let _ = self.table.lock().evict_oldest();
    }

    /// How many are open.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.table.lock().open
    }
}

/// What `busy` holds of a connection that was given up.
const GONE: u64 = u64::MAX;

impl Table {
    /// Counts as gone from here on, and is not counted down again by its `Entered`; its task closes the socket as soon
    /// as it runs.
    fn evict_oldest(&mut self) -> Option<()> {
        let (_, oldest) = self.idle.pop_first()?;
        oldest.ticket.store(0, Ordering::Relaxed);
        oldest.busy.store(GONE, Ordering::Relaxed);
        oldest.evicted.notify_one();
        self.open -= 1;
        Some(())
    }

    fn park(&mut self, slot: &Arc<Slot>) {
        self.tickets += 1;
        slot.ticket.store(self.tickets, Ordering::Relaxed);
        self.idle.insert(self.tickets, Arc::clone(slot));
    }

    fn unpark(&mut self, slot: &Slot) {
        self.idle.remove(&slot.ticket.swap(0, Ordering::Relaxed));
    }
}

/// A connection that was let in; leaves when dropped.
pub(crate) struct Entered {
    slots: Arc<Slots>,
    slot: Arc<Slot>,
}

impl Entered {
    /// Marks a request as being handled, until the guard is dropped.
    pub(crate) fn handling(self: &Arc<Self>) -> Handling {
        let mut table = self.slots.table.lock();
        if self.slot.busy.load(Ordering::Relaxed) != GONE {
            self.slot.busy.fetch_add(1, Ordering::Relaxed);
            table.unpark(&self.slot);
        }
        self.slot.sending.store(false, Ordering::Relaxed);
        Handling(Arc::clone(self))
    }

    /// Notes that a byte has moved.
    pub(crate) fn touch(&self) {
        self.slot.moved.store(self.now(), Ordering::Relaxed);
    }

    /// Milliseconds since a byte last moved, of a connection whose client is the one to act; 0 while a handler works.
    pub(crate) fn stalled_ms(&self) -> u64 {
        if self.slot.busy.load(Ordering::Relaxed) == 0 || self.slot.sending.load(Ordering::Relaxed) {
            self.now().saturating_sub(self.slot.moved.load(Ordering::Relaxed))
        } else {
            0
        }
    }

    /// Ends when this connection has to give way.
    pub(crate) async fn evicted(&self) {
        self.slot.evicted.notified().await;
    }

    fn now(&self) -> u64 {
        u64::try_from(self.slots.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut table = self.slots.table.lock();
        if self.slot.busy.load(Ordering::Relaxed) != GONE {
            table.unpark(&self.slot);
            table.open -= 1;
        }
    }
}

/// A request being handled, up to the last byte of its answer that was handed over.
pub(crate) struct Handling(Arc<Entered>);

impl Handling {
    /// The answer is made: from here on the client is the one to act, and may be given up when it does not.
    pub(crate) fn sending(&self) {
        self.0.touch();
        self.0.slot.sending.store(true, Ordering::Relaxed);
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.touch();
        let mut table = self.0.slots.table.lock();
        let slot = &self.0.slot;
        let busy = slot.busy.load(Ordering::Relaxed);
        if busy == GONE {
            return;
        }
        slot.busy.store(busy - 1, Ordering::Relaxed);
        if busy == 1 {
            table.park(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_evicted(entered: &Entered) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, entered.evicted()).await.is_ok()
    }

    #[tokio::test]
    async fn t18_the_longest_idle_gives_way_and_the_busy_never() {
        let slots = Slots::new(3);
        let [a, b, c] = [(); 3].map(|()| Arc::new(slots.enter().expect("room")));
        let busy = a.handling();
        let d = Arc::new(slots.enter().expect("b gives way"));
        assert!(!is_evicted(&a).await && is_evicted(&b).await && !is_evicted(&c).await);
        assert_eq!(slots.open(), 3);
        drop(b);
        assert_eq!(slots.open(), 3, "it was counted as gone when it was given up");
        drop(busy);
        let _e = slots.enter().expect("c gives way: a has just been idle");
        assert!(!is_evicted(&a).await && is_evicted(&c).await);
        let _busy = (a.handling(), d.handling());
        let f = Arc::new(slots.enter().expect("the idle one gives way"));
        let _busy_too = f.handling();
        assert!(slots.enter().is_none(), "all wait for answers: none is closed for another");
        drop(f);
        assert!(slots.enter().is_none(), "the handler still holds it");
    }

    #[tokio::test]
    async fn a_connection_leaves_its_slot_whatever_it_was_doing() {
        let slots = Slots::new(2);
        for _ in 0..10 {
            let a = Arc::new(slots.enter().expect("room"));
            let handling = a.handling();
            handling.sending();
            drop(a);
            drop(handling);
        }
        assert_eq!(slots.open(), 0);
        assert!(slots.table.lock().idle.is_empty());
    }
}
