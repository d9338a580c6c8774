//! Making the kernel forget what is no longer served.
//!
//! Owns: the threads that drop the kernel's pages and names, that follow the catalog, and that end `MAP_POPULATE`
//! loops. Promises: pages are dropped only after the last reply with bytes has been handed over, so they stay dropped;
//! nothing here runs on a thread that answers requests, because the kernel may wait for such an answer before it
//! returns from a notification. Leaves out: deciding what is no longer served (`daemon`).
//!
//! # The loop
//! `mmap(MAP_POPULATE)` over a page that answers EIO never returns: `__mm_populate` never sets `FAULT_FLAG_TRIED`, so
//! each fault re-reads the page with the mmap lock dropped, ends in `VM_FAULT_RETRY`, and starts again. Only a page that
//! can be read or an index beyond the file's size ends it. So, when a file that was revoked half a second ago gets
//! one refused page read after the other, its size is shown as 0 for a moment, and then as it was.
//!
//! A size of 0 is dangerous: a read(2) that saw it would return 0, an end of file without an error. Therefore:
//! - the size is shown to the one thread that asks for it here, under a name that only it can look up; everyone else's
//!   request for attributes of a revoked file is refused;
//! - the mount asks for `FUSE_AUTO_INVAL_DATA`, with which the kernel asks for attributes before *each* read(2) once they
//!   are invalid, as they are from the moment the pages were dropped. So a read(2) gets its EIO there and never
//!   looks at the size;
//! - half a second lies between that moment and the first size of 0, for calls that had already asked;
//! - the true size is back as soon as the loop is over (some 20 ms), since splice(2) does not ask for attributes.

use crate::daemon::Daemon;
use crate::gate::{Shows, Why};
use crate::view::{FileNode, ROOT};
use fuser::{Errno, INodeNo, Notifier};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use securereg::Watch;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The name under which the loop-ending thread, and no one else, finds the inode whose number follows.
pub(crate) const LOOP_NAME: &str = ".securereg-revoked-";
/// A loop without a page read for this long is over.
const QUIET: Duration = Duration::from_millis(20);
/// The size is not shown as 0 longer than this; a loop that is still there is found again.
const LONGEST: Duration = Duration::from_millis(500);
/// How often a reply on its way is looked for again, and for how long.
const DRAIN_STEP: Duration = Duration::from_millis(5);
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Starts the threads. `stop` becomes readable when the one that follows the catalog shall end; the others end with
/// [`Daemon::close`].
pub(crate) fn start(
    daemon: &Arc<Daemon>,
    notifier: &Notifier,
    mountpoint: &Path,
    watch: Watch,
    stop: OwnedFd,
) -> io::Result<()> {
    let (d, n) = (Arc::clone(daemon), notifier.clone());
    Builder::new().name("securereg-drop".into()).spawn(move || {
        while let Some(node) = d.revocations.pop() {
            drop_pages(&d, &n, &node);
        }
    })?;
    let (d, n) = (Arc::clone(daemon), notifier.clone());
    Builder::new().name("securereg-names".into()).spawn(move || {
        while let Some((dir, name)) = d.names.pop() {
            // The kernel takes the folder's lock for this, and so may wait for a lookup: it has a thread of its own.
            log_failure("forget a name", n.inval_entry(INodeNo(dir), OsStr::new(&*name)));
        }
    })?;
    let (d, n, at) = (Arc::clone(daemon), notifier.clone(), mountpoint.to_owned());
    Builder::new().name("securereg-loop".into()).spawn(move || {
        d.loop_ender.store(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(), Ordering::SeqCst);
        while let Some(node) = d.loops.pop() {
            end_loop(&n, &at, &node);
        }
    })?;
    let d = Arc::clone(daemon);
    Builder::new().name("securereg-slow".into()).spawn(move || {
        while let Some((due, reply)) = d.slowed.pop() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            reply.error(Errno::EIO);
        }
    })?;
    let d = Arc::clone(daemon);
    Builder::new().name("securereg-close".into()).spawn(move || while d.closing.pop().is_some() {})?;
    let d = Arc::clone(daemon);
    Builder::new().name("securereg-follow".into()).spawn(move || follow(&d, watch, &stop))?;
    Ok(())
}

/// Applies every change of the catalog, whoever makes it, as soon as the kernel tells of it.
fn follow(daemon: &Daemon, mut watch: Watch, stop: &OwnedFd) {
    let mut failed = false;
    loop {
        // After a failure (a bad manifest) it looks again by itself; opens are refused meanwhile.
        let pause = failed.then_some(Timespec { tv_sec: 0, tv_nsec: 200_000_000 });
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                tracing::error!("cannot wait for changes of the catalog: {e}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        // Before looking, so that a change after the look makes the descriptor readable again.
        if !watch.drain() && !failed {
            continue;
        }
        match daemon.sync() {
            Ok(()) => failed = false,
            Err(e) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::error!("the catalog cannot be read, opens are refused: {e}");
                }
            }
        }
    }
}

/// Has the kernel drop the pages and attributes of a file whose gate is shut.
fn drop_pages(daemon: &Daemon, notifier: &Notifier, node: &FileNode) {
    let deadline = Instant::now() + DRAIN_LIMIT;
    while !node.gate.drained(DRAIN_STEP) && Instant::now() < deadline {
        // A request that was let in just before the gate was shut may have been queued just after the last steal.
        daemon.pool().steal(node.ino);
    }
    log_failure("drop pages", notifier.inval_inode(INodeNo(node.ino), 0, 0));
    node.gate.settle();
    if node.gate.why() != Some(Why::Quarantined) {
        // The catalog may still call the model promoted: the path starts anew, with an inode that can be read.
        if let Some(name) = daemon.view.renew(node) {
            daemon.names.push(name);
        }
    }
}

/// Shows the size of a revoked file as 0, to no one but this thread, until the loop is over.
fn end_loop(notifier: &Notifier, mountpoint: &Path, node: &FileNode) {
    let name = format!("{LOOP_NAME}{}", node.ino);
    let path: PathBuf = mountpoint.join(&name);
    let look = || {
        if let Err(e) = statx(CWD, &path, AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::SIZE) {
            tracing::warn!("a mapping of {} cannot be freed: {e}", node.name);
        }
    };
    tracing::warn!(name = &*node.name, "freeing a MAP_POPULATE that the kernel repeats without end");
    let start = Instant::now();
    node.gate.show(Shows::Empty);
    look();
    while start.elapsed() < LONGEST {
        match node.gate.last_refused().map(|last| last.elapsed()) {
            Some(quiet) if quiet < QUIET => std::thread::sleep(QUIET - quiet),
            Some(_) | None => break,
        }
    }
    node.gate.show(Shows::Whole);
    look();
    node.gate.show(Shows::Nothing);
    node.gate.ended();
    // The name must not hold the inode.
    log_failure("forget a name", notifier.inval_entry(INodeNo(ROOT), OsStr::new(&name)));
}

fn log_failure(what: &str, outcome: io::Result<()>) {
    match outcome {
        // The mount is gone, and with it everything cached.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
        Err(e) => tracing::error!("the kernel could not {what}: {e}"),
        Ok(()) => {}
    }
}
