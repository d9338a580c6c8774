//! Noticing that another process changed the manifest.
//!
//! Owns: an inotify descriptor on the root. Promises: after a change of manifest.yaml the descriptor is readable, and an
//! overflow of the queue counts as a change. The folder is watched and not the file, because each write replaces the file.
//! Leaves out: reading the manifest again (`catalog::store`).

use crate::error::{Error, Result};
use crate::layout::{Folder, Layout};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A watch of one registry, for one watcher: its descriptor is pollable, and draining it is the watcher's own business.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    pub(crate) fn new(layout: &Layout) -> Result<Watch> {
        let io = |e| Error::io("watching the root", e);
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(io)?;
        let events = WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // By descriptor: the root may have been moved since it was opened by name. Without /proc, by name all the same.
        let root = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(layout.folder(Folder::Root)));
        match inotify::add_watch(&fd, root.as_str(), events) {
            Err(rustix::io::Errno::NOENT) => inotify::add_watch(&fd, layout.path(), events).map_err(io)?,
            added => added.map_err(io)?,
        };
        Ok(Watch { fd })
    }

    /// Reads all pending events; whether the manifest may have changed. Never blocks.
    pub fn drain(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.fd, &mut space);
        let mut changed = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let ours =
                        event.file_name().is_none_or(|n| n.to_bytes() == crate::catalog::store::MANIFEST.as_bytes());
                    changed |= ours || event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return changed,
                // A watch that cannot be read must not hide a quarantine.
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
