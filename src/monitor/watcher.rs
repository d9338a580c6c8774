//! The eye on stored files.
//!
//! Owns: inotify on `blobs/` and `trees/`, and fanotify beside it, which tells who wrote. Promises: an ordinary write to a stored
//! file of a model in service takes the model out of service at once; our own changes do not; a queue that ran over
//! means that every file's stamp is looked at. Leaves out: stores through a mapping, of which the kernel tells nobody: the next
//! read or pass finds them.

use crate::artifact::FileEntry;
use crate::digest::Sha256Digest;
use crate::error::{Error, Result};
use crate::layout::Folder;
use crate::registry::{Inner, Registry};
use crate::stamp::Stamps;
use crate::task::Task;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::{BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// An open eye; what happened before it was opened it has not seen.
pub struct StoredWatch {
    inner: Arc<Inner>,
    inotify: OwnedFd,
    /// Only for who may: it takes CAP_SYS_ADMIN.
    fanotify: Option<Fanotify>,
}

/// Our own changes are renamed into place first and known a moment later.
const SETTLES: Duration = Duration::from_millis(100);

impl StoredWatch {
    pub(super) fn new(inner: &Arc<Inner>) -> Result<StoredWatch> {
        let io = |e| Error::io("watching the stored files", e);
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(io)?;
        let events = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        for folder in [Folder::Blobs, Folder::Trees] {
            let path = format!("/proc/thread-self/fd/{}", inner.layout().folder(folder).as_raw_fd());
            inotify::add_watch(&inotify, path.as_str(), events).map_err(io)?;
        }
        Ok(StoredWatch { inner: Arc::clone(inner), inotify, fanotify: fanotify(inner) })
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.fanotify.is_some() { "fanotify" } else { "inotify" }
    }

    /// Waits for events, and acts on them.
    pub(super) fn wait(&mut self, at_most: Duration) {
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: at_most.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        // An error is the timeout of a moment ago, or a signal: what there is to read is read all the same.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        let (touched, overflow) = self.touched();
        if overflow {
            tracing::warn!("more happened to the stored files than can be followed: each one's stamp is looked at");
            let registry = Registry { inner: Arc::clone(&self.inner) };
            if let Err(e) = registry.recheck_stale(&Task::unattended()) {
                tracing::error!(error = %e, "stored files could not be looked at");
            }
        }
        if touched.is_empty() {
            // What is told of who wrote, and nothing asks for.
            let _ = self.who();
            return;
        }
        let who = self.who();
        let by = |sha256: &Sha256Digest| who.get(sha256).map(String::as_str);
        // What was written to is out of service before anything is hashed: many files that were only touched must not hide it.
        let unclear: Vec<Sha256Digest> =
            touched.into_iter().filter(|sha256| !self.is_settled(sha256, by(sha256))).collect();
        if !unclear.is_empty() {
            std::thread::sleep(SETTLES);
            unclear.iter().for_each(|sha256| self.hash(sha256, by(sha256)));
        }
    }

    /// The stored files of which there are events, and whether some were lost.
    fn touched(&mut self) -> (BTreeSet<Sha256Digest>, bool) {
        let mut space = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        let (mut touched, mut overflow) = (BTreeSet::new(), false);
        loop {
            match reader.next() {
                Ok(event) => {
                    overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    touched.extend(event.file_name().and_then(|name| name.to_str().ok()?.parse::<Sha256Digest>().ok()));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return (touched, overflow),
            }
        }
    }

    /// Who wrote to which stored file.
    fn who(&self) -> HashMap<Sha256Digest, String> {
        let mut who = HashMap::new();
        let Some(fanotify) = &self.fanotify else { return who };
        while let Ok(events) = fanotify.read_events() {
            if events.is_empty() {
                break;
            }
            for event in events {
                let Some(fd) = event.fd() else { continue };
                let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) else { continue };
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(sha256) = name.and_then(|name| name.parse().ok()) else { continue };
                who.insert(sha256, process(event.pid()));
            }
        }
        who
    }

    /// The file of a model in service that has these bytes, unless it is known to be good as it is.
    fn in_doubt(&self, sha256: &Sha256Digest) -> Option<FileEntry> {
        let catalog = self.inner.latest();
        let holder = catalog.holders(sha256).find(|a| a.is_promoted())?;
        let file = holder.files.iter().find(|f| f.sha256 == *sha256)?;
        (!self.inner.blobs().is_known_good(sha256)).then(|| file.clone())
    }

    /// Looks at one stored file that something happened to; whether that was enough.
    fn is_settled(&self, sha256: &Sha256Digest, who: Option<&str>) -> bool {
        let inner = &self.inner;
        let Some(file) = self.in_doubt(sha256) else { return true };
        // Written in place, by whoever: nobody has a reason to. Anything else may be our own doing, not yet written down.
        let (recorded, now) = (Stamps::recorded(inner.layout(), sha256), Stamps::at(inner.layout(), sha256));
        let written = |(then, now): (Stamps, Stamps)| then.same_files(&now) && !then.same_but_ctime(&now);
        if !recorded.zip(now).is_some_and(written) {
            return false;
        }
        let by = who.map_or_else(String::new, |who| format!(" by {who}"));
        let why = format!("the stored file of {} was written to{by}", file.path);
        // Put right and verified by somebody in the meantime, it is accused no more.
        inner.report_corruption_unless(sha256, &why, || inner.blobs().is_known_good(sha256));
        true
    }

    /// Hashes every byte of a file that is still in doubt; what is wrong is quarantined by that.
    fn hash(&self, sha256: &Sha256Digest, who: Option<&str>) {
        let Some(file) = self.in_doubt(sha256) else { return };
        if let Err(e) = self.inner.open_entry(None, &file) {
            tracing::warn!(error = %e, %sha256, who, "a stored file was touched and is not good");
        }
    }
}

impl std::fmt::Debug for StoredWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredWatch").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

fn fanotify(inner: &Inner) -> Option<Fanotify> {
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    let fanotify = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE);
    let marked = fanotify.and_then(|fanotify| {
        let mask = MaskFlags::FAN_MODIFY | MaskFlags::FAN_CLOSE_WRITE | MaskFlags::FAN_EVENT_ON_CHILD;
        for folder in [Folder::Blobs, Folder::Trees] {
            fanotify.mark(MarkFlags::FAN_MARK_ADD, mask, inner.layout().folder(folder), None::<&str>)?;
        }
        Ok(fanotify)
    });
    marked.inspect_err(|e| tracing::debug!(error = %e, "who writes to stored files will not be known")).ok()
}

/// A process in words.
fn process(pid: i32) -> String {
    // Of another user's process only its short name can be had, without the right to trace it; of one that has ended, nothing.
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).map(|exe| exe.display().to_string());
    let name = exe.or_else(|_| std::fs::read_to_string(format!("/proc/{pid}/comm")));
    match name {
        Ok(name) => format!("pid {pid} ({})", name.trim_end()),
        Err(_) => format!("pid {pid}"),
    }
}
