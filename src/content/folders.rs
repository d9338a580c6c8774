//! The folders of repositories.
//!
//! Owns: opening and making what lies below `oci/`, and walking it. Promises: nothing there is reached through a link, by whatever
//! name; a folder that is given out to be written to would survive a power cut, and so would those above it. Leaves out: what is
//! in them.

use super::RepositoryName;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout};
use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

pub(crate) const BLOBS: &str = "_blobs";
pub(crate) const MANIFESTS: &str = "_manifests";
pub(crate) const TAGS: &str = "_tags";
pub(crate) const REFERRERS: &str = "_referrers";
pub(crate) const HOLDERS: &str = "_holders";
pub(crate) const UPLOADS: &str = "_uploads";

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const FILE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Folders that this process has made durable, or found so. One that is forgotten is synced once more.
#[derive(Debug, Default)]
pub(super) struct Made(Mutex<HashSet<String>>);

/// Names kept: some 10 MB.
const MAX_MADE: usize = 100_000;

/// Opens `below` in a repository, or nothing where it is not there.
pub(crate) fn open(layout: &Layout, repository: &RepositoryName, below: &str) -> Result<Option<OwnedFd>> {
    let path = format!("{repository}/{below}");
    present(&path, rustix::fs::openat2(layout.folder(Folder::Oci), &path, FOLDER, Mode::empty(), BENEATH))
}

/// Opens a file in a repository's folder, or nothing where it is not there.
pub(crate) fn open_file(
    layout: &Layout,
    repository: &RepositoryName,
    below: &str,
    name: &str,
    access: OFlags,
) -> Result<Option<File>> {
    let path = format!("{repository}/{below}/{name}");
    let opened = rustix::fs::openat2(layout.folder(Folder::Oci), &path, FILE | access, Mode::empty(), BENEATH);
    present(&path, opened).map(|fd| fd.map(File::from))
}

/// Opens `below` in a repository, made with all above it where it is not there.
pub(super) fn make(layout: &Layout, made: &Made, repository: &RepositoryName, below: &str) -> Result<OwnedFd> {
    layout.check_writable()?;
    let path = format!("{repository}/{below}");
    let known = made.0.lock().contains(&path);
    if known && let Some(folder) = open(layout, repository, below)? {
        return Ok(folder);
    }
    let dup = layout.folder(Folder::Oci).try_clone();
    let mut folder = dup.map_err(|e| Error::io("duplicating a descriptor", e))?;
    for name in path.split('/') {
        match rustix::fs::mkdirat(&folder, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::io(format_args!("creating oci/{path}"), e)),
        }
        let next = rustix::fs::openat2(&folder, name, FOLDER, Mode::empty(), BENEATH).map_err(|e| failed(&path, e))?;
        // Also of one that was there: whoever made it may not have come so far.
        durable::sync_folder(&folder).map_err(|e| Error::io(format_args!("syncing a folder above oci/{path}"), e))?;
        folder = next;
    }
    let mut made = made.0.lock();
    if made.len() >= MAX_MADE {
        made.clear();
    }
    made.insert(path);
    Ok(folder)
}

fn present<T>(path: &str, opened: rustix::io::Result<T>) -> Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(failed(path, e)),
    }
}

fn failed(path: &str, e: Errno) -> Error {
    match e {
        Errno::LOOP | Errno::NOTDIR => {
            let why =
                format!("oci/{path} lies behind a symbolic link, or is none of our folders: remove what is in its way");
            Error::new(ErrorKind::Corrupt, why)
        }
        e => Error::io(format_args!("opening oci/{path}"), e),
    }
}

/// Names in a folder, without `.` and `..`, with their kinds as far as the file system tells.
pub(crate) fn entries(folder: &OwnedFd) -> Result<impl Iterator<Item = Result<(String, FileType)>>> {
    let io = |e| Error::io("listing a folder of a repository", e);
    let listing = rustix::fs::Dir::read_from(folder).map_err(io)?;
    Ok(listing.filter_map(move |entry| match entry {
        Err(e) => Some(Err(io(e))),
        // What is not UTF-8 is not ours.
        Ok(entry) => match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => None,
            Ok(name) => Some(Ok((name.to_owned(), entry.file_type()))),
        },
    }))
}

/// Opens a folder in a folder, or nothing where it is not there.
pub(crate) fn open_in(folder: impl AsFd, name: &str) -> Result<Option<OwnedFd>> {
    present(name, rustix::fs::openat2(folder, name, FOLDER, Mode::empty(), BENEATH))
}

/// Visits each folder that may be a repository, with its name, in no order.
pub(crate) fn each(layout: &Layout, mut visit: impl FnMut(RepositoryName, &OwnedFd) -> Result<()>) -> Result<()> {
    let top = layout.folder(Folder::Oci);
    let mut pending = vec![String::new()];
    while let Some(at) = pending.pop() {
        let opened = if at.is_empty() { open_in(top, ".")? } else { open_in(top, &at)? };
        let Some(folder) = opened else { continue };
        for entry in entries(&folder)? {
            let (name, kind) = entry?;
            if name.starts_with('_') || !matches!(kind, FileType::Directory | FileType::Unknown) {
                continue;
            }
            pending.push(if at.is_empty() { name } else { format!("{at}/{name}") });
        }
        // What has another name was never made by us, and is no repository.
        if let Ok(repository) = at.parse::<RepositoryName>() {
            visit(repository, &folder)?;
        }
    }
    Ok(())
}
