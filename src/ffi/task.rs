//! Long work, watched and stopped from C.
//!
//! Owns: `securereg_task`. Promises: the callback is called by one thread at a time, and not after the call it was given to
//! has returned. Leaves out: showing progress.

use super::Result;
use super::args::{self, Sized0};
use super::error::Failure;
use super::status::securereg_status::SECUREREG_INVALID_INPUT;
use crate::task::{Phase, Task};
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicBool, Ordering};

/// The source is being read, hashed and copied, or sealed memory filled.
pub const SECUREREG_PHASE_COPY: u32 = 0;
/// Bytes are being hashed against what was promoted.
pub const SECUREREG_PHASE_VERIFY: u32 = 1;

/// Tells how far long work is: `done` of `total` bytes in `phase` (a SECUREREG_PHASE_*). Return 0 to go on, anything else
/// to stop: the call then ends with SECUREREG_CANCELLED, and nothing was changed. Called by one thread at a time, not always
/// the one that made the call; such a thread has a stack of 2 MiB. It must not throw, not jump out, not call the library
/// (SECUREREG_INVALID_INPUT), and not wait for a thread that does.
pub type securereg_progress = Option<unsafe extern "C" fn(user: *mut c_void, phase: u32, done: u64, total: u64) -> i32>;

/// Options of a call that may take long.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_task {
    /// sizeof(securereg_task).
    pub size: usize,
    /// Who is told, or NULL.
    pub progress: securereg_progress,
    /// Given to `progress` as it is.
    pub user: *mut c_void,
}

// SAFETY: repr(C), begins with its size, and zeroes are NULL pointers.
unsafe impl Sized0 for securereg_task {
    const FIRST: usize = offset_of!(securereg_task, user) + size_of::<*mut c_void>();
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// A call out of a progress callback would wait for locks that the call it reports on holds.
pub(crate) fn refuse_callbacks() -> Result<()> {
    if IN_CALLBACK.try_with(Cell::get).unwrap_or(false) {
        let why = "a progress callback may not call the library: return from it first";
        return Err(Failure::new(SECUREREG_INVALID_INPUT, why));
    }
    Ok(())
}

struct Caller {
    progress: securereg_progress,
    user: *mut c_void,
}

// SAFETY: the header says that the callback comes from any thread, one at a time; `user` is only passed on.
unsafe impl Send for Caller {}

impl Caller {
    /// Whether the caller wants it to go on.
    fn go_on(&mut self, phase: Phase, done: u64, total: u64) -> bool {
        let phase = match phase {
            Phase::Copy => SECUREREG_PHASE_COPY,
            // No function of the ABI inspects without promoting, and a promotion tells only what takes long.
            Phase::Verify | Phase::Inspect => SECUREREG_PHASE_VERIFY,
        };
        IN_CALLBACK.set(true);
        // SAFETY: the caller vouches that this may be called with its `user` until the call returns.
        let go_on = self.progress.is_none_or(|progress| unsafe { progress(self.user, phase, done, total) } == 0);
        IN_CALLBACK.set(false);
        go_on
    }
}

/// Runs `work` with the caller's task.
///
/// # Safety
/// `task` is NULL or leads to a `securereg_task` whose callback may be called until this returns.
pub(crate) unsafe fn with<T>(task: *const securereg_task, work: impl FnOnce(&Task<'_>) -> Result<T>) -> Result<T> {
    // SAFETY: the caller of this vouches for it.
    let given = unsafe { args::options(task, "task") }?;
    let stop = AtomicBool::new(false);
    let task = Task::unattended().cancelled_by(&stop);
    if given.progress.is_none() {
        return work(&task);
    }
    let mut caller = Caller { progress: given.progress, user: given.user };
    let task = task.with_progress(|p| {
        // Once stopped it is not asked again.
        if !stop.load(Ordering::Relaxed) && !caller.go_on(p.phase, p.done, p.total) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    work(&task)
}
