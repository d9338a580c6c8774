//! Long work over the network, watched and stopped from outside.
//!
//! Owns: [`Watch`], and the runtime that the work runs on. Promises: work whose flag is set ends within a tenth of a second, wherever it
//! waits; what it has begun in the background ends with it. Leaves out: how progress is shown.

use crate::fail::local;
use securereg::{Error, ErrorKind, Phase, Result, Task};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Bytes go to the registry.
    Upload,
    /// Bytes come from it.
    Download,
    /// An archive is unpacked.
    Unpack,
    /// What came is promoted.
    Promote(Phase),
}

/// One step of progress.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is being done.
    pub doing: Doing,
    /// Bytes done.
    pub done: u64,
    /// Bytes to do.
    pub total: u64,
}

/// Who watches the work, and who may stop it.
pub struct Watch<'a> {
    /// Ends the work, with [`ErrorKind::Cancelled`], once it is set.
    pub cancelled: &'a AtomicBool,
    /// Is told of each step.
    pub tell: &'a (dyn Fn(Step) + Sync),
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("cancelled", self.cancelled).finish_non_exhaustive()
    }
}

impl Watch<'_> {
    /// The same, for a call of the core's.
    pub(crate) fn task(&self) -> Task<'_> {
        Task::unattended().cancelled_by(self.cancelled).with_progress(|p| {
            (self.tell)(Step { doing: Doing::Promote(p.phase), done: p.done, total: p.total });
        })
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            false => Ok(()),
        }
    }

    /// Runs `work` to its end, or until the flag is set.
    pub(crate) fn run<T>(&self, meter: &Meter, work: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| local("starting threads", e))?;
        let result = runtime.block_on(async {
            tokio::pin!(work);
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tokio::select! {
                    biased;
                    result = &mut work => return result,
                    _ = tick.tick() => {
                        self.go_on()?;
                        (self.tell)(meter.step());
                    }
                }
            }
        });
        // A thread that waits for a disk or a credential helper is not waited for.
        runtime.shutdown_background();
        result
    }
}

/// How far the work is, counted by whoever does a part of it.
#[derive(Debug)]
pub(crate) struct Meter {
    doing: Doing,
    done: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    pub(crate) fn new(doing: Doing) -> Arc<Meter> {
        Arc::new(Meter { doing, done: AtomicU64::new(0), total: AtomicU64::new(0) })
    }

    pub(crate) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what must be done again.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn step(&self) -> Step {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        Step { doing: self.doing, done: done.min(total), total }
    }
}
