//! Which mounts show this registry.
//!
//! Owns: the records under `run/mounts/`. Promises: a record is live exactly as long as the process that made it holds its
//! lock, so a crash leaves no lie. Leaves out: mounting (`fusefs`).

use crate::audit::now;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, read_bounded, unique_name};
use crate::sys::NoFileSizeSignal;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A live mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The process that serves it.
    pub pid: u32,
    /// Since when: RFC 3339, UTC.
    pub since: String,
}

/// Keeps a mount's record alive; dropped, the record is gone.
#[derive(Debug)]
pub struct MountGuard {
    layout: Arc<Layout>,
    name: String,
    locked: File,
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(self.layout.folder(Folder::Mounts), &self.name, AtFlags::empty());
    }
}

pub(crate) fn record(layout: &Arc<Layout>, mountpoint: &Path) -> Result<MountGuard> {
    layout.check_writable()?;
    let folder = layout.folder(Folder::Mounts);
    let io = |e| Error::io("recording the mount", e);
    let (file, name) = loop {
        let name = format!("{}.json", unique_name());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file: File = rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|e| Error::io("recording the mount", e))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|e| Error::io("locking the mount's record", e))?;
        // Until it was locked, a process that lists mounts may have taken it for a dead one's and removed it.
        if rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_nlink > 0) {
            break (file, name);
        }
    };
    let pid = std::process::id();
    let record = MountRecord { mountpoint: mountpoint.to_owned(), pid, since: now() };
    let text = serde_json::to_vec(&record).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("the mount point {} is not valid UTF-8", mountpoint.display()))
            .because(e)
    })?;
    // Dropped, it takes away a record that could not be written.
    let guard = MountGuard { layout: Arc::clone(layout), name, locked: file };
    let _quiet = NoFileSizeSignal::new();
    (&guard.locked).write_all(&text).map_err(io)?;
    Ok(guard)
}

/// The live ones; records of the dead are removed.
pub(crate) fn live(layout: &Layout) -> Result<Vec<MountRecord>> {
    let mut found = Vec::new();
    each(layout, |name, record| match record {
        // A record being written this moment is not a mount yet.
        Some(file) => found.extend(
            read_bounded(file, "a mount's record", 64 << 10).ok().and_then(|b| serde_json::from_slice(&b).ok()),
        ),
        None => drop(remove(layout, name)),
    })?;
    found.sort_by(|a: &MountRecord, b| a.since.cmp(&b.since).then_with(|| a.mountpoint.cmp(&b.mountpoint)));
    Ok(found)
}

/// The names of the records that the dead left.
pub(crate) fn dead(layout: &Layout) -> Result<Vec<String>> {
    let mut found = Vec::new();
    each(layout, |name, record| {
        if record.is_none() {
            found.push(name.to_string_lossy().into_owned());
        }
    })?;
    Ok(found)
}

/// Removes the records of the dead; how many.
pub(crate) fn sweep(layout: &Layout) -> Result<u64> {
    let mut swept = 0;
    each(layout, |name, record| {
        if record.is_none() && remove(layout, name) {
            swept += 1;
        }
    })?;
    Ok(swept)
}

fn remove(layout: &Layout, name: &CStr) -> bool {
    layout.is_writable() && rustix::fs::unlinkat(layout.folder(Folder::Mounts), name, AtFlags::empty()).is_ok()
}

/// Shows each record: open, of a mount that is alive; none, of one whose maker is gone.
fn each(layout: &Layout, mut visit: impl FnMut(&CStr, Option<&File>)) -> Result<()> {
    let folder = layout.folder(Folder::Mounts);
    for entry in rustix::fs::Dir::read_from(folder).map_err(|e| Error::io("listing the mounts", e))?.flatten() {
        let name = entry.file_name();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from) else { continue };
        if !file.metadata().is_ok_and(|m| m.is_file()) {
            continue;
        }
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            // Nobody holds it: its maker is gone. Closing would not do: a child forked meanwhile holds the same open file
            // description, and whoever is about to lock a new record waits.
            let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
            visit(name, None);
        } else {
            visit(name, Some(&file));
        }
    }
    Ok(())
}
