//! The small documents of a repository: manifests, tags, referrers.
//!
//! Owns: their files, one each, replaced whole. Promises: what was put is there after a power cut, and never in part; a condition
//! is checked and the document replaced with nobody between, in any process; readers wait for nobody. Leaves out: what documents
//! say, and which of them belong together.

use super::folders::{self, HOLDERS, MANIFESTS, REFERRERS, TAGS};
use super::name::{is_document, is_subject};
use super::{Content, RepositoryName};
use crate::digest::shorten;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::read_bounded;
use rustix::fs::{AtFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// No document has more bytes: twice what a manifest may have.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

/// Which documents of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// By digest, `sha256-<hex>` or `sha512-<hex>`.
    Manifest,
    /// By tag.
    Tag,
    /// What refers to the manifest of this digest, `sha256-<hex>` or `sha512-<hex>`.
    Referrer(&'a str),
    /// The manifests of models that hold the blob of this digest.
    Holder(&'a str),
}

/// When a document may be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put<'a> {
    /// In place of whatever is there.
    Any,
    /// While there is none of the name.
    New,
    /// While it has these bytes.
    IfIs(&'a [u8]),
}

impl<'a> Kind<'a> {
    fn folder(&self) -> Result<Cow<'a, str>> {
        match self {
            Kind::Manifest => Ok(MANIFESTS.into()),
            Kind::Tag => Ok(TAGS.into()),
            Kind::Referrer(subject) if is_subject(subject) => Ok(format!("{REFERRERS}/{subject}").into()),
            Kind::Holder(blob) if is_subject(blob) => Ok(format!("{HOLDERS}/{blob}").into()),
            Kind::Referrer(subject) | Kind::Holder(subject) => {
                let why = format!("{:?} is not a digest as a name (sha256-<hex>)", shorten(subject));
                Err(Error::new(ErrorKind::InvalidInput, why))
            }
        }
    }
}

impl Content {
    /// Writes a document: it is there after a power cut. False when `how` did not allow it; nothing was changed then.
    pub fn put(&self, repo: &RepositoryName, kind: &Kind<'_>, name: &str, bytes: &[u8], how: Put<'_>) -> Result<bool> {
        check_name(name)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let why = format!("{name} has {} bytes, over the limit of {MAX_DOCUMENT}", bytes.len());
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        let (layout, folder) = (self.inner.layout(), kind.folder()?);
        // Known before anything is written, in the common case; asked again under the lock.
        let met = |now: Option<&[u8]>| match how {
            Put::Any => true,
            Put::New => now.is_none(),
            Put::IfIs(then) => now == Some(then),
        };
        if how != Put::Any && !met(self.get(repo, kind, name)?.as_deref()) {
            return Ok(false);
        }
        let folder = folders::make(layout, &self.inner.shelf().made, repo, &folder)?;
        let _in_use = layout.use_temp()?;
        let temp = layout.write_temp(bytes)?;
        let renamed = alone(&folder, || {
            if how != Put::Any && !met(self.get(repo, kind, name)?.as_deref()) {
                return Ok(false);
            }
            layout.publish_in(&temp, &folder, name).map(|()| true)
        });
        if !matches!(renamed, Ok(true)) {
            layout.discard(&temp);
            return renamed;
        }
        sync(&folder)?;
        Ok(true)
    }

    /// A document's bytes.
    pub fn get(&self, repo: &RepositoryName, kind: &Kind<'_>, name: &str) -> Result<Option<Vec<u8>>> {
        check_name(name)?;
        match folders::open_file(self.inner.layout(), repo, &kind.folder()?, name, OFlags::RDONLY)? {
            Some(file) => read_bounded(&file, name, MAX_DOCUMENT).map(Some),
            None => Ok(None),
        }
    }

    /// Removes a document; whether it was there.
    pub fn remove(&self, repo: &RepositoryName, kind: &Kind<'_>, name: &str) -> Result<bool> {
        check_name(name)?;
        let layout = self.inner.layout();
        layout.check_writable()?;
        let Some(folder) = folders::open(layout, repo, &kind.folder()?)? else { return Ok(false) };
        let removed = alone(&folder, || unlink(&folder, name))?;
        // Also when it was gone: whoever removed it may not have come so far.
        sync(&folder)?;
        Ok(removed)
    }

    /// The names of documents, sorted bytewise, those after `after`, at most `limit`.
    pub fn list(
        &self,
        repo: &RepositoryName,
        kind: &Kind<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>> {
        let Some(folder) = folders::open(self.inner.layout(), repo, &kind.folder()?)? else { return Ok(Vec::new()) };
        let mut page = Page::new(after, limit);
        for entry in folders::entries(&folder)? {
            let (name, _) = entry?;
            if is_document(&name) {
                page.add(name);
            }
        }
        Ok(page.names())
    }
}

/// The first names after one, of many that come in no order.
pub(super) struct Page<'a> {
    after: Option<&'a str>,
    limit: usize,
    names: BTreeSet<String>,
}

impl<'a> Page<'a> {
    pub(super) fn new(after: Option<&'a str>, limit: usize) -> Page<'a> {
        Page { after, limit, names: BTreeSet::new() }
    }

    /// Whether the page would show it, as far as it is known yet.
    pub(super) fn wants(&self, name: &str) -> bool {
        let room = || self.names.len() < self.limit || self.names.last().is_some_and(|last| name < last.as_str());
        self.limit > 0 && self.after.is_none_or(|after| name > after) && room()
    }

    pub(super) fn add(&mut self, name: String) {
        if self.wants(&name) {
            self.names.insert(name);
            if self.names.len() > self.limit {
                self.names.pop_last();
            }
        }
    }

    pub(super) fn names(self) -> Vec<String> {
        self.names.into_iter().collect()
    }
}

fn check_name(name: &str) -> Result<()> {
    if is_document(name) {
        return Ok(());
    }
    let why = format!("{:?} is neither a tag nor a digest as a name (sha256-<hex>)", shorten(name));
    Err(Error::new(ErrorKind::InvalidInput, why))
}

/// Does something to a folder while no other process or thread does, by a lock on the folder itself.
fn alone<T>(folder: &OwnedFd, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let lock = |how| rustix::io::retry_on_intr(|| rustix::fs::flock(folder, how));
    lock(FlockOperation::LockExclusive).map_err(|e| Error::io("locking a folder of a repository", e))?;
    let outcome = act();
    // Closing would not do: a child forked meanwhile holds the same open file description.
    let _ = lock(FlockOperation::Unlock);
    outcome
}

pub(super) fn unlink(folder: &OwnedFd, name: &str) -> Result<bool> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io(format_args!("removing {name}"), e)),
    }
}

pub(super) fn sync(folder: &OwnedFd) -> Result<()> {
    durable::sync_folder(folder).map_err(|e| Error::io("syncing a folder of a repository", e))
}
