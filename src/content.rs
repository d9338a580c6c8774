//! The content of OCI repositories.
//!
//! Owns: what repositories hold, below `oci/`: their blobs' records, their documents, their uploads. Promises: what was
//! acknowledged survives a power cut; a repository's blobs are its own, whoever else has the same bytes, of which there is one
//! copy; that copy is dropped when neither a repository nor a model holds it; bytes are read through [`VerifiedFile`] only. Leaves
//! out: the protocol, who may do what, and what documents mean: names and bytes come from whoever speaks it.
//!
//! ```text
//! oci/<repository>/_blobs/       holds.rs: which blobs it holds
//!                  _manifests/   documents.rs: a file each
//!                  _tags/
//!                  _referrers/<subject>/
//!                  _uploads/     upload.rs: what is being pushed
//!                                references.rs: which blobs no manifest refers to
//! ```
//! No component of an OCI name begins with `_`, so repositories may lie within each other.

pub(crate) mod documents;
pub(crate) mod folders;
mod hashes;
pub(crate) mod holds;
mod name;
pub(crate) mod references;
pub(crate) mod upload;

pub use documents::{Kind, Put};
pub use holds::Held;
pub use name::{ContentDigest, RepositoryName};
pub use upload::Upload;

use crate::artifact::FileEntry;
use crate::catalog::Catalog;
use crate::catalog::store::Decision;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, blob_name};
use crate::registry::Inner;
use crate::stamp::Stamp;
use crate::task::Actor;
use crate::verified::{Origin, ReadMode, VerifiedFile};
use documents::Page;
use std::sync::Arc;

/// The content of a registry's repositories. It may be cloned and shared between threads.
#[derive(Debug, Clone)]
pub struct Content {
    pub(crate) inner: Arc<Inner>,
}

/// What this process knows of the repositories.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    made: folders::Made,
    suspended: upload::Suspended,
    open: upload::Open,
}

impl Content {
    pub(crate) fn new(inner: &Arc<Inner>) -> Content {
        Content { inner: Arc::clone(inner) }
    }

    /// A blob of this repository, if it holds one by this digest and the bytes are there. One that is known to be damaged, or whose
    /// record is, is not, so that it is pushed again, which heals it.
    pub fn blob(&self, repo: &RepositoryName, digest: &ContentDigest) -> Result<Option<Held>> {
        match holds::read(self.layout(), repo, digest) {
            Ok(held) => Ok(held.filter(|held| self.is_stored(held))),
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                tracing::warn!(repository = %repo, error = %e, "a blob is not shown: its record cannot be trusted");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The same for who is about to refer to it, or asks in order to: whatever has lain unreferred to for long, `gc` may drop, and this
    /// begins that time anew. What was renewed stays until a document that refers to it can be written.
    pub fn renew(&self, repo: &RepositoryName, digest: &ContentDigest) -> Result<Option<Held>> {
        if !self.layout().is_writable() {
            return self.blob(repo, digest);
        }
        let _kept = holds::shared(self.layout())?;
        references::touch(self.layout(), repo, digest)?;
        self.blob(repo, digest)
    }

    fn is_stored(&self, held: &Held) -> bool {
        let at = |folder| Stamp::at(self.layout().folder(folder), &blob_name(&held.sha256)).ok();
        let whole =
            at(Folder::Blobs).is_some_and(|stamp| stamp.size() == held.size_bytes) && at(Folder::Trees).is_some();
        whole && !self.inner.is_condemned(&held.sha256)
    }

    /// Opens a blob of this repository; every read is checked. Quarantine is about models: it does not end this.
    ///
    /// # Errors
    /// `NotFound` when the repository does not hold it, `Corrupt` when it is damaged, `Unreadable` when the disk fails.
    pub fn open(&self, repo: &RepositoryName, digest: &ContentDigest) -> Result<VerifiedFile> {
        let held = holds::read(self.layout(), repo, digest)?.ok_or_else(|| no_blob(repo, digest))?;
        let entry = entry(&held)?;
        let generation = self.inner.latest().generation();
        self.inner.open_verified(Origin::Repository, &entry, ReadMode::Cached, generation)
    }

    /// Lets `to` hold a blob that `from` holds; nothing is copied. False when `from` does not hold it.
    pub fn mount(&self, from: &RepositoryName, to: &RepositoryName, digest: &ContentDigest) -> Result<bool> {
        let layout = self.layout();
        layout.check_writable()?;
        let _kept = holds::shared(layout)?;
        let Some(held) = self.blob(from, digest)? else { return Ok(false) };
        self.record(to, digest, &held)?;
        Ok(true)
    }

    /// Writes the records of a blob that is stored. For whoever has [`holds::shared`].
    fn record(&self, repo: &RepositoryName, digest: &ContentDigest, held: &Held) -> Result<()> {
        let layout = self.layout();
        let folder = folders::make(layout, &self.inner.shelf().made, repo, folders::BLOBS)?;
        let _in_use = layout.use_temp()?;
        let text = holds::text(held)?;
        for name in holds::names(digest, &held.sha256) {
            let temp = layout.write_temp(&text)?;
            layout.publish_in(&temp, &folder, &name).inspect_err(|_| layout.discard(&temp))?;
        }
        documents::sync(&folder)
    }

    /// Takes a blob from a repository, and drops the bytes when no other repository and no model holds them; open files stay
    /// readable. Whether the repository had it.
    pub fn remove_blob(&self, repo: &RepositoryName, digest: &ContentDigest) -> Result<bool> {
        let layout = self.layout();
        layout.check_writable()?;
        let Some(folder) = folders::open(layout, repo, folders::BLOBS)? else { return Ok(false) };
        // An altered record says nothing of other names, but its own must go.
        let sha256 = match (holds::read(layout, repo, digest), digest) {
            (Ok(None), _) => return Ok(false),
            (Ok(Some(held)), _) => Some(held.sha256),
            (Err(e), ContentDigest::Sha256(sha256)) if e.kind() == ErrorKind::Corrupt => Some(*sha256),
            (Err(e), _) if e.kind() == ErrorKind::Corrupt => None,
            (Err(e), _) => return Err(e),
        };
        let mut removed = documents::unlink(&folder, &digest.file_name())?;
        if let (ContentDigest::Sha512(_), Some(sha256)) = (digest, &sha256) {
            for name in holds::names(digest, sha256) {
                removed |= documents::unlink(&folder, &name)?;
            }
        }
        documents::sync(&folder)?;
        // It is removed, whatever becomes of the bytes.
        if let Some(Err(e)) = sha256.map(|sha256| self.drop_unheld(sha256)) {
            tracing::warn!(repository = %repo, %digest, error = %e, "the bytes of a removed blob are left behind; gc will take them");
        }
        Ok(removed)
    }

    /// Drops a blob that neither a model nor a repository holds.
    fn drop_unheld(&self, sha256: Sha256Digest) -> Result<()> {
        let drop = |catalog: &Catalog| {
            if catalog.holders(&sha256).next().is_none() {
                self.inner.drop_blobs(&[sha256]);
            }
            Ok(Decision::Keep(()))
        };
        self.inner.commit(&Actor::this_process("library"), drop).map(|_| ())
    }

    /// The names of repositories that hold anything, sorted bytewise, those after `after`, at most `limit`.
    pub fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let mut page = Page::new(after, limit);
        folders::each(self.layout(), |repository, folder| {
            if page.wants(repository.as_str()) && holds_anything(folder)? {
                page.add(repository.as_str().to_owned());
            }
            Ok(())
        })?;
        Ok(page.names())
    }

    fn layout(&self) -> &Layout {
        self.inner.layout()
    }
}

fn holds_anything(repository: &std::os::fd::OwnedFd) -> Result<bool> {
    for below in [folders::MANIFESTS, folders::TAGS, folders::BLOBS] {
        if let Some(folder) = folders::open_in(repository, below)?
            && folders::entries(&folder)?.next().transpose()?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A held blob as an entry to open. Its path is only for messages.
fn entry(held: &Held) -> Result<FileEntry> {
    let Held { sha256, size_bytes, blake3 } = *held;
    Ok(FileEntry { path: format!("sha256-{sha256}").parse()?, size_bytes, sha256, blake3 })
}

fn no_blob(repo: &RepositoryName, digest: &ContentDigest) -> Error {
    Error::new(ErrorKind::NotFound, format!("{repo} holds no blob {digest}"))
}
