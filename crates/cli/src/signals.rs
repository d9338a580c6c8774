//! Ctrl-C and its kin.
//!
//! Owns: what SIGINT, SIGTERM and SIGHUP do. Promises: the first asks the work to stop and clean up, the second ends the
//! process at once; a signal that our parent ignores (nohup, a background job) stays ignored. Leaves out: how work stops
//! ([`securereg::Task::cancelled_by`]).
//!
//! The signals are blocked before any thread exists and taken by one thread with sigwait(3), so no handler runs and nothing
//! needs to be async-signal-safe. A daemon blocks them first and starts the thread once it is confined, so that the thread is too; what
//! comes in between is taken then. The standard library gives child processes (fusermount3) an empty mask again.

use crate::exit::Code;
use crate::out::{Form, remark};
use nix::sys::signal::{SigSet, Signal};
use securereg::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals that are blocked, and that nobody takes yet.
#[derive(Debug)]
pub(crate) struct Blocked {
    set: SigSet,
    form: Form,
}

/// What became of the signals.
#[derive(Debug)]
pub(crate) struct Signals {
    flag: Arc<AtomicBool>,
}

impl Signals {
    /// Starts to listen, for work that looks at the flag. Must be called before the process has other threads.
    pub(crate) fn listen(form: Form) -> Result<Signals> {
        Signals::block(form)?.listen(|| {})
    }

    /// Blocks the signals, to listen later. Must be called before the process has other threads.
    pub(crate) fn block(form: Form) -> Result<Blocked> {
        let ignored = ignored();
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            if ignored & (1 << (signal as u32 - 1)) == 0 {
                set.add(signal);
            }
        }
        set.thread_block().map_err(|e| Error::new(ErrorKind::Io, format!("cannot block signals: {e}")))?;
        Ok(Blocked { set, form })
    }
}

impl Blocked {
    /// Starts to listen, calling `first` at the first signal, on a thread of its own.
    pub(crate) fn listen(self, first: impl FnOnce() + Send + 'static) -> Result<Signals> {
        let Blocked { set, form } = self;
        let flag = Arc::new(AtomicBool::new(false));
        let mut first = Some(first);
        let stop = Arc::clone(&flag);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                while set.wait().is_ok() {
                    if stop.swap(true, Ordering::Relaxed) {
                        std::process::exit(Code::Cancelled.number().into());
                    }
                    remark(form, "stopping; once more ends at once");
                    if let Some(first) = first.take() {
                        first();
                    }
                }
            })
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot start a thread: {e}")).because(e))?;
        Ok(Signals { flag })
    }
}

impl Signals {
    /// Set once a signal came.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// The same, for another thread.
    pub(crate) fn flag_handle(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

/// The mask of signals that are ignored, from /proc (proc_pid_status(5), SigIgn). A blocked signal is kept for sigwait
/// even when it is ignored, so those must not be in the set at all.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).unwrap_or(0)
}
