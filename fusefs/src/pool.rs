//! The threads that do what may block: reads, opens, and looking at the catalog.
//!
//! Owns: the workers, the queue before them, and the watchdog. Promises: every request is answered within its timeout,
//! with EIO if need be, though the disk hangs (threat 17); a stuck worker is replaced, up to a cap; one blob's requests
//! occupy at most a part of the workers, and one thread of their own, so that a hung model does not stop the others; a panic
//! in the work is an EIO and costs no worker. Leaves out: what the work is.
//!
//! Workers are started when the oldest request that could run has waited for [`STARVED`], and end when they find
//! nothing to do for a while, so a hung blob that holds all of them delays another one by that much and no more.

use crate::ticket::{Claim, Place, Reply, Ticket};
use crate::view::FileNode;
use fuser::Errno;
use parking_lot::{Condvar, Mutex, MutexGuard};
use securereg::{ReadBuf, Sha256Digest};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A request waiting this long, with no worker idle, gets a new worker.
const STARVED: Duration = Duration::from_millis(40);
/// How often the watchdog looks, while anything is pending.
const TICK: Duration = Duration::from_millis(20);
/// A worker beyond the usual number that finds nothing to do for this long ends.
const IDLE: Duration = Duration::from_secs(10);
/// Never more threads than this, stuck ones included.
const CAP: usize = 96;
/// Never more threads of their own (re-hashing opens), one a blob, than this.
const APART: usize = 64;
/// Never more requests than this wait for the one that such a thread works on.
const WAITING: usize = 1024;

/// What a worker does; it answers by claiming the ticket.
pub(crate) type Work = Box<dyn FnOnce(&Arc<Ticket>, &mut ReadBuf) + Send>;

/// The same on a thread of its own.
type ApartWork = Box<dyn FnOnce(&Arc<Ticket>) + Send>;

/// Called, on the watchdog's thread, for a read that timed out.
pub(crate) type OnTimeout = Box<dyn Fn(&Arc<FileNode>) + Send + Sync>;

/// See the module's documentation. A cheap handle.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    watch: Condvar,
    usual: usize,
    per_blob: usize,
    timeout: Duration,
    on_timeout: OnTimeout,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<Ticket>, Work)>,
    pending: HashMap<u64, Arc<Ticket>>,
    /// Requests that occupy a worker, by blob; abandoned ones included.
    busy: HashMap<Sha256Digest, usize>,
    next_id: u64,
    /// Workers that are not stuck.
    workers: usize,
    idle: usize,
    stuck: usize,
    /// Who waits for a thread of their own, by blob. A blob stands here for as long as it has such a thread.
    apart: HashMap<Sha256Digest, VecDeque<(Arc<Ticket>, ApartWork)>>,
    /// Who wants to know whether a worker comes by.
    probes: Vec<SyncSender<()>>,
    watching: bool,
    closed: bool,
}

impl Pool {
    /// A pool of `threads` workers; requests are due after `timeout`.
    pub(crate) fn start(threads: usize, timeout: Duration, on_timeout: OnTimeout) -> std::io::Result<Pool> {
        let usual = threads.clamp(1, CAP / 4);
        let pool = Pool(Arc::new(Shared {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            watch: Condvar::new(),
            usual,
            per_blob: usual.max(8),
            timeout,
            on_timeout,
        }));
        {
            let mut state = pool.0.state.lock();
            for _ in 0..usual {
                pool.add_worker(&mut state)?;
            }
        }
        let watchdog = pool.clone();
        std::thread::Builder::new().name("securereg-watch".into()).spawn(move || watchdog.watch())?;
        Ok(pool)
    }

    /// Queues `work` for `reply`. With a `node`, its gate has been entered, and is left when the reply is sent.
    pub(crate) fn submit(&self, reply: Reply, blob: Option<Sha256Digest>, node: Option<Arc<FileNode>>, work: Work) {
        let mut state = self.0.state.lock();
        state.next_id += 1;
        let deadline = Instant::now() + self.0.timeout;
        let ticket = Arc::new(Ticket::new(state.next_id, reply, blob, node, deadline));
        if state.closed {
            drop(state);
            drop(ticket.claim());
            return;
        }
        state.pending.insert(ticket.id, Arc::clone(&ticket));
        state.queue.push_back((ticket, work));
        if !state.watching {
            state.watching = true;
            self.0.watch.notify_one();
        }
        if state.idle > 0 {
            self.0.work.notify_one();
        }
    }

    /// Whether a worker is free, or becomes free, within `limit`: one that is not stuck, or a new one in its place.
    pub(crate) fn answers_within(&self, limit: Duration) -> bool {
        let (probe, seen) = sync_channel(1);
        {
            let mut state = self.0.state.lock();
            state.probes.push(probe);
            if state.idle > 0 {
                self.0.work.notify_one();
            }
        }
        let answered = seen.recv_timeout(limit).is_ok();
        drop(seen);
        answered
    }

    /// Goes on with `work` on a thread of its own, `longer` than the usual timeout: for a worker that finds that its request
    /// needs a long time. Requests of one blob share one thread, in turn: what the first of them waits for, the others find done.
    pub(crate) fn apart(
        &self,
        ticket: &Arc<Ticket>,
        longer: Duration,
        work: impl FnOnce(&Arc<Ticket>) + Send + 'static,
    ) {
        let mut state = self.0.state.lock();
        let Some(blob) = ticket.blob.filter(|blob| ticket.place() == Place::Worker && state.has_room_apart(blob))
        else {
            drop(state);
            if let Some(claim) = ticket.claim() {
                claim.fail(Errno::EAGAIN);
            }
            return;
        };
        ticket.extend(Instant::now() + self.0.timeout + longer);
        ticket.put(Place::Apart);
        let running = state.apart.contains_key(&blob);
        state.apart.entry(blob).or_default().push_back((Arc::clone(ticket), Box::new(work)));
        if running {
            return;
        }
        let pool = self.clone();
        let thread = std::thread::Builder::new().name("securereg-open".into());
        if let Err(e) = thread.spawn(move || pool.run_apart(&blob)) {
            state.apart.remove(&blob);
            state.pending.remove(&ticket.id);
            drop(state);
            tracing::error!("no thread for an open that takes long: {e}");
            drop(ticket.claim());
        }
    }

    /// Works for whoever waits for `blob`, until nobody does.
    fn run_apart(&self, blob: &Sha256Digest) {
        loop {
            let next = {
                let mut state = self.0.state.lock();
                let next = state.apart.get_mut(blob).and_then(VecDeque::pop_front);
                if next.is_none() {
                    state.apart.remove(blob);
                }
                next
            };
            let Some((ticket, work)) = next else { return };
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&ticket)));
            self.answer_if_open(&ticket, outcome.is_err());
            self.0.state.lock().pending.remove(&ticket.id);
        }
    }

    /// Answers EIO to every pending read of the file `ino`.
    pub(crate) fn steal(&self, ino: u64) {
        let stolen: Vec<Claim> = {
            let state = self.0.state.lock();
            state
                .pending
                .values()
                .filter(|t| t.node.as_ref().is_some_and(|n| n.ino == ino))
                .filter_map(|t| t.claim())
                .collect()
        };
        drop(stolen);
    }

    /// Ends the workers as they finish, and answers what is pending with EIO.
    pub(crate) fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        let waiting: Vec<VecDeque<(Arc<Ticket>, ApartWork)>> = state.apart.values_mut().map(std::mem::take).collect();
        let claims: Vec<Claim> = state.pending.values().filter_map(|t| t.claim()).collect();
        self.0.work.notify_all();
        self.0.watch.notify_all();
        drop(state);
        drop((claims, queue, waiting));
    }

    fn add_worker(&self, state: &mut State) -> std::io::Result<()> {
        let pool = self.clone();
        std::thread::Builder::new().name("securereg-read".into()).spawn(move || pool.run_worker())?;
        state.workers += 1;
        Ok(())
    }

    fn run_worker(&self) {
        let mut buffer = ReadBuf::new();
        let mut state = self.0.state.lock();
        loop {
            let Some((ticket, work)) = self.next(&mut state) else {
                state.workers -= 1;
                return;
            };
            drop(state);
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&ticket, &mut buffer)));
            if ticket.place() != Place::Apart {
                self.answer_if_open(&ticket, outcome.is_err());
            }
            state = self.0.state.lock();
            if let Some(blob) = &ticket.blob {
                state.release(blob);
            }
            if ticket.place() != Place::Apart {
                state.pending.remove(&ticket.id);
            }
            if ticket.place() == Place::Abandoned {
                // The watchdog took this thread out of the count, and may have put another in its place.
                state.stuck -= 1;
                if state.workers >= self.0.usual || state.closed {
                    return;
                }
                state.workers += 1;
            }
        }
    }

    /// The next request that may run; None when this worker should end.
    fn next(&self, state: &mut MutexGuard<'_, State>) -> Option<(Arc<Ticket>, Work)> {
        loop {
            if state.closed {
                return None;
            }
            // One that nobody waits for any more is dropped with the rest.
            for probe in state.probes.drain(..) {
                let _ = probe.try_send(());
            }
            if let Some(index) = state.runnable(self.0.per_blob) {
                let (ticket, work) = state.queue.remove(index).expect("the index was just found");
                if !ticket.is_open() {
                    // Answered while it waited, by the watchdog or a revocation.
                    state.pending.remove(&ticket.id);
                    continue;
                }
                ticket.put(Place::Worker);
                if let Some(blob) = ticket.blob {
                    *state.busy.entry(blob).or_default() += 1;
                }
                return Some((ticket, work));
            }
            state.idle += 1;
            let timed_out = self.0.work.wait_for(state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.workers > self.0.usual && state.queue.is_empty() {
                return None;
            }
        }
    }

    /// A request must not stay unanswered because its work forgot it or panicked.
    fn answer_if_open(&self, ticket: &Ticket, panicked: bool) {
        if let Some(claim) = ticket.claim() {
            tracing::error!(panicked, "a request was left unanswered; answered with EIO");
            claim.fail(Errno::EIO);
        }
    }

    fn watch(&self) {
        let mut state = self.0.state.lock();
        loop {
            if state.closed {
                return;
            }
            if state.pending.is_empty() {
                state.watching = false;
                self.0.watch.wait(&mut state);
                continue;
            }
            self.0.watch.wait_for(&mut state, TICK.min(self.0.timeout / 2));
            let now = Instant::now();
            let late: Vec<Arc<Ticket>> =
                state.pending.values().filter(|t| t.deadline() <= now && t.is_open()).cloned().collect();
            let mut claims = Vec::new();
            for ticket in late {
                let Some(claim) = ticket.claim() else { continue };
                let mut stuck = None;
                match ticket.place() {
                    Place::Worker => {
                        ticket.put(Place::Abandoned);
                        state.workers -= 1;
                        state.stuck += 1;
                        stuck = ticket.node.clone();
                    }
                    // It never reached the disk: that says nothing about the file.
                    Place::Queued => {
                        state.queue.retain(|(t, _)| t.id != ticket.id);
                        state.pending.remove(&ticket.id);
                    }
                    // Who only waited for another's work is let go; that work itself cannot be stopped.
                    Place::Apart => state.stop_waiting(&ticket),
                    Place::Abandoned => {}
                }
                claims.push((claim, stuck));
            }
            let starved = state
                .runnable(self.0.per_blob)
                .is_some_and(|i| state.queue[i].0.queued.elapsed() >= STARVED && state.idle == 0)
                || (!state.probes.is_empty() && state.idle == 0);
            let wanted = if starved { state.workers + self.0.usual } else { self.0.usual };
            while state.workers < wanted && state.workers + state.stuck < CAP {
                if let Err(e) = self.add_worker(&mut state) {
                    tracing::error!("no thread for another worker: {e}");
                    break;
                }
            }
            if claims.is_empty() {
                continue;
            }
            // The reply and what follows from it go without the lock.
            MutexGuard::unlocked(&mut state, || {
                for (claim, stuck) in claims {
                    claim.fail(Errno::EIO);
                    tracing::error!(timeout = ?self.0.timeout, "a request timed out; answered with EIO");
                    if let Some(node) = stuck {
                        (self.0.on_timeout)(&node);
                    }
                }
            });
        }
    }
}

impl State {
    /// The oldest request whose blob does not occupy its share of workers yet.
    fn runnable(&self, per_blob: usize) -> Option<usize> {
        self.queue
            .iter()
            .position(|(t, _)| t.blob.is_none_or(|blob| self.busy.get(&blob).is_none_or(|busy| *busy < per_blob)))
    }

    /// Whether one more request of `blob` may wait for a thread of its own.
    fn has_room_apart(&self, blob: &Sha256Digest) -> bool {
        match self.apart.get(blob) {
            Some(waiting) => waiting.len() < WAITING,
            None => self.apart.len() < APART,
        }
    }

    /// Takes a request out of the line before the thread of its blob, if it stands there.
    fn stop_waiting(&mut self, ticket: &Ticket) {
        let Some(waiting) = ticket.blob.and_then(|blob| self.apart.get_mut(&blob)) else { return };
        let before = waiting.len();
        waiting.retain(|(t, _)| t.id != ticket.id);
        if waiting.len() < before {
            self.pending.remove(&ticket.id);
        }
    }

    fn release(&mut self, blob: &Sha256Digest) {
        if let Some(busy) = self.busy.get_mut(blob) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(blob);
            }
        }
    }
}

#[cfg(test)]
mod tests;
