//! Long work, watched and stopped from outside.
//!
//! Owns: [`Task`], which carries a progress callback and a cancel flag into anything that takes long. Promises: the
//! callback is called from one thread at a time, never goes back, often enough for a bar and seldom enough not to cost; a cancelled task
//! leaves nothing behind. Leaves out: how progress is shown.

use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a long call is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the source, hashing it and writing the private copy.
    Copy,
    /// Hashing stored bytes.
    Verify,
    /// Looking at what files are.
    Inspect,
}

/// One step of progress.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes done, of all files together.
    pub done: u64,
    /// Bytes to do, of all files together.
    pub total: u64,
}

type Callback<'a> = Box<dyn FnMut(Progress) + Send + 'a>;

/// The callback, and the last that it was told: threads count side by side, and who counted first may tell last.
struct Listener<'a> {
    tell: Callback<'a>,
    last: Option<Progress>,
}

impl Listener<'_> {
    fn tell(&mut self, mut progress: Progress) {
        if let Some(last) = self.last.filter(|last| last.phase == progress.phase && last.total == progress.total) {
            progress.done = progress.done.max(last.done);
        }
        self.last = Some(progress);
        (self.tell)(progress);
    }
}

/// A handle on long work: who wants to see its progress, and whether it should stop.
#[derive(Default)]
pub struct Task<'a> {
    callback: Option<Mutex<Listener<'a>>>,
    cancelled: Option<&'a AtomicBool>,
    pace: Option<Pace>,
}

/// How fast work may go on.
struct Pace {
    began: Instant,
    bytes_per_second: u64,
}

/// Who waits for its time looks this often whether it is to stop.
const NAP: Duration = Duration::from_millis(100);

impl<'a> Task<'a> {
    /// Work that nobody watches.
    pub fn unattended() -> Self {
        Task::default()
    }

    /// The same work, telling `callback` of its progress. It is called with a lock held: it must not call back into
    /// the registry. It may be called on a thread of the library's, in which all signals are blocked.
    #[must_use]
    pub fn with_progress(mut self, callback: impl FnMut(Progress) + Send + 'a) -> Self {
        self.callback = Some(Mutex::new(Listener { tell: Box::new(callback), last: None }));
        self
    }

    /// The same work, ending with [`ErrorKind::Cancelled`] soon after `flag` is set.
    #[must_use]
    pub fn cancelled_by(mut self, flag: &'a AtomicBool) -> Self {
        self.cancelled = Some(flag);
        self
    }

    /// The same work at no more than so many bytes a second, counted from this call on.
    #[must_use]
    pub(crate) fn paced(mut self, bytes_per_second: u64) -> Self {
        self.pace = Some(Pace { began: Instant::now(), bytes_per_second: bytes_per_second.max(1) });
        self
    }

    pub(crate) fn step(&self, progress: Progress) -> Result<()> {
        self.go_on()?;
        if let Some(Pace { began, bytes_per_second }) = &self.pace {
            let due = Duration::from_secs_f64(progress.done as f64 / *bytes_per_second as f64);
            while let Some(left) = due.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
                std::thread::sleep(left.min(NAP));
                self.go_on()?;
            }
        }
        if let Some(callback) = &self.callback {
            callback.lock().tell(progress);
        }
        // The callback may have been what stopped it.
        self.go_on()
    }

    /// An error once the work is to stop.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.cancelled.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled; nothing was changed"));
        }
        Ok(())
    }
}

/// Who asks for a change, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The door: `cli`, `http`, `mount`, `library`.
    pub via: &'static str,
    /// What that door knows of the caller: a scope, an address, a user.
    pub who: String,
}

impl Actor {
    /// An actor behind the door `via`.
    pub fn new(via: &'static str, who: impl Into<String>) -> Self {
        Actor { via, who: who.into() }
    }

    /// This process's own user, behind the door `via`.
    pub fn this_process(via: &'static str) -> Self {
        Actor::new(via, format!("uid {} pid {}", rustix::process::getuid().as_raw(), std::process::id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paced_work_takes_its_time_and_can_be_stopped_meanwhile() {
        let at = |done| Progress { phase: Phase::Verify, done, total: 1 << 40 };
        let began = Instant::now();
        let task = Task::unattended().paced(1000);
        task.step(at(10)).expect("goes on");
        task.step(at(100)).expect("goes on");
        assert!(began.elapsed() >= Duration::from_millis(100));
        let stop = AtomicBool::new(false);
        let task = Task::unattended().paced(1).cancelled_by(&stop);
        std::thread::scope(|scope| {
            scope.spawn(|| stop.store(true, Ordering::Relaxed));
            // An hour, if nobody stopped it.
            assert_eq!(task.step(at(3600)).expect_err("stopped").kind(), ErrorKind::Cancelled);
        });
    }

    #[test]
    fn progress_never_goes_back_within_a_phase() {
        let mut told = Vec::new();
        let task = Task::unattended().with_progress(|p| told.push((p.phase, p.done)));
        for (phase, done) in
            [(Phase::Copy, 2), (Phase::Copy, 5), (Phase::Copy, 4), (Phase::Verify, 1), (Phase::Verify, 3)]
        {
            task.step(Progress { phase, done, total: 9 }).expect("goes on");
        }
        drop(task);
        assert_eq!(told.iter().map(|(_, done)| *done).collect::<Vec<_>>(), [2, 5, 5, 1, 3]);
    }
}
