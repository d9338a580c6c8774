//! The last step of a promotion: from tmp/ to an entry of the catalog.
//!
//! Owns: what is staged, its publication under the commit lock, and what becomes of a source that was given away. Promises: what
//! is not published is discarded; a failure before the manifest is renamed takes everything away again that nothing else holds;
//! what stands under a name is replaced only as names and tags allow. Leaves out: what may be published (`policy`).

use super::{Method, Outcome, PromoteRequest, Transfer};
use crate::artifact::{Artifact, FileEntry};
use crate::catalog::store::Decision;
use crate::catalog::{Catalog, Edit};
use crate::digest::Sha256Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{self, Place, Staged};
use crate::layout::{Folder, blob_name};
use crate::policy::Verdict;
use crate::registry::Inner;
use crate::sidecar;
use crate::signing::Signed;
use crate::source::{Source, SourceFile, Taken};
use crate::stamp::Stamp;
use crate::sys::NoFileSizeSignal;
use crate::task::{Actor, Task};
use rustix::fs::OFlags;
use std::cell::RefCell;
use std::sync::Arc;

/// Staged files; whatever was not published is discarded when this is dropped.
pub(super) struct Staging<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) staged: Vec<Staged>,
    /// Sidecars in tmp/, each named by its digest once it is published.
    pub(super) sidecars: Vec<(Sha256Digest, String)>,
}

impl Staging<'_> {
    /// Writes a sidecar to tmp/.
    pub(super) fn add(&mut self, text: Option<Vec<u8>>) -> Result<Option<Sha256Digest>> {
        let Some(text) = text else { return Ok(None) };
        let digest = Sha256Digest::of(&text);
        self.sidecars.push((digest, self.inner.layout().write_temp(&text)?));
        Ok(Some(digest))
    }

    fn stored(&self) -> impl Iterator<Item = &FileEntry> {
        self.staged.iter().filter(|staged| matches!(staged.place, Place::Stored)).map(|staged| &staged.entry)
    }

    /// Whether what was stored before is still there, and known to be good.
    fn check_stored(&self) -> Result<()> {
        let stale = self.stored().find(|entry| !self.inner.has_good(&entry.sha256));
        stale.map_or(Ok(()), |entry| Err(gone(entry)))
    }

    /// Hashes what is stored and not known to be good: with no lock held, since it may be large. What was deleted is not damaged.
    fn look_again(&self, task: &Task<'_>) -> Result<()> {
        for entry in self.stored() {
            task.go_on()?;
            let folder = self.inner.layout().folder(Folder::Blobs);
            Stamp::at(folder, &blob_name(&entry.sha256)).map_err(|_| gone(entry))?;
            self.inner.open_entry(None, entry)?;
        }
        Ok(())
    }
}

fn gone(entry: &FileEntry) -> Error {
    let why = format!("the stored file of {} was deleted, or touched, meanwhile: promote again", entry.path);
    Error::new(ErrorKind::SourceChanged, why)
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let files = self.staged.iter().flat_map(Staged::temps);
        files
            .chain(self.sidecars.iter().map(|(_, temp)| temp.as_str()))
            .for_each(|temp| self.inner.layout().discard(temp));
    }
}

/// How often a stored file that another push of the same bytes has replaced is looked at anew.
const TRIES: usize = 4;

/// What is to be published, and for whom.
pub(super) struct Publication<'a, 't> {
    pub(super) staging: &'a Staging<'a>,
    pub(super) candidate: &'a Artifact,
    pub(super) verdict: &'a Verdict,
    pub(super) signed: Option<&'a Signed>,
    pub(super) transfer: Transfer,
    pub(super) source: &'a Source,
    pub(super) actor: &'a Actor,
    pub(super) task: &'a Task<'t>,
}

impl Publication<'_, '_> {
    /// Publishes what is staged, and writes the catalog.
    pub(super) fn publish(&self) -> Result<(Arc<Artifact>, Outcome, Method)> {
        let mut tries = 1;
        loop {
            let mut stale = false;
            match self.commit(&mut stale) {
                Err(_) if stale && tries < TRIES => self.staging.look_again(self.task)?,
                outcome => return outcome,
            }
            tries += 1;
        }
    }

    /// Under the commit lock: asks once more, publishes the files, writes the catalog. Nothing was published when it is `stale`: a stored
    /// file is not known to be good, because it was deleted, touched, or replaced by another push of the same bytes.
    fn commit(&self, stale: &mut bool) -> Result<(Arc<Artifact>, Outcome, Method)> {
        let Publication { staging, candidate, verdict, signed, transfer, source, actor, task } = *self;
        let inner = staging.inner;
        let layout = inner.layout();
        let mut method = Method::Shared;
        let fresh: RefCell<Vec<Sha256Digest>> = RefCell::default();
        let decide = |catalog: &Catalog| {
            // The lock may have been long in coming.
            task.go_on()?;
            let outcome = place(catalog, candidate)?;
            // Before anything is published, so that it can be asked again; and nobody drops one while the lock is held.
            staging.check_stored().inspect_err(|_| *stale = true)?;
            for (staged, file) in staging.staged.iter().zip(&source.files) {
                method = method.max(publish_file(inner, catalog, staged, file, transfer, &mut fresh.borrow_mut())?);
            }
            if !fresh.borrow().is_empty() {
                layout.sync(Folder::Blobs)?;
                layout.sync(Folder::Trees)?;
            }
            let entry = match catalog.artifact(&candidate.name).filter(|_| outcome == Outcome::AlreadyThere) {
                Some(there) if there.inspection.is_some() && !is_news(inner, there, signed) => {
                    return Ok(Decision::Keep(outcome));
                }
                // Promoted before there were inspections, or before it was signed: it stays what it is, and has one now.
                Some(there) => Artifact { inspection: candidate.inspection, ..Artifact::clone(there) },
                None => candidate.clone(),
            };
            for (digest, temp) in staging.sidecars.iter().filter(|(digest, _)| entry.sidecars().any(|s| s == *digest)) {
                layout.publish(temp, Folder::Sidecars, &digest.to_hex())?;
            }
            layout.sync(Folder::Sidecars)?;
            let mut why = format!("sha256 {} from {:?}; {}", candidate.sha256, candidate.source, verdict.summary());
            if let Some(signed) = signed {
                why = format!("{why}; {}", signed.summary());
            }
            let edits = vec![Edit::Put(Box::new(entry))];
            Ok(Decision::Change {
                event: "promote",
                names: vec![candidate.name.to_string()],
                why,
                edits,
                value: outcome,
            })
        };
        let undo = |stays: &Catalog| {
            let unheld = |sha256: &&Sha256Digest| stays.holders(sha256).next().is_none();
            inner.drop_blobs(&fresh.borrow().iter().filter(unheld).copied().collect::<Vec<_>>());
            for (digest, _) in &staging.sidecars {
                if !stays.artifacts().any(|a| a.sidecars().any(|s| s == *digest)) {
                    let _ = layout.remove(Folder::Sidecars, &digest.to_hex());
                }
            }
            // An adopted file goes back to its owner as it was.
            for adopted in staging.staged.iter().filter_map(|s| s.adopted.as_ref()) {
                let _ = rustix::fs::fchmod(&adopted.file, adopted.mode);
            }
        };
        let committed = inner.commit_or(actor, decide, undo);
        // Also after a failure: a damaged file of another model may have been replaced by a good one.
        let fresh = fresh.into_inner();
        for sha256 in &fresh {
            if let Err(e) = inner.blobs().learn_published(sha256) {
                tracing::debug!(%sha256, error = %e, "its stamp was not taken; the next open re-checks");
            }
        }
        let (catalog, outcome) = committed?;
        inner.absolve(&fresh);
        let artifact = Arc::clone(catalog.require(&candidate.name)?);
        Ok((artifact, outcome, method))
    }
}

/// Whether the signature is one that is not kept with the model yet.
fn is_news(inner: &Inner, there: &Artifact, signed: Option<&Signed>) -> bool {
    // What cannot be read is replaced.
    signed.is_some_and(|signed| {
        let kept = sidecar::read(inner, there).ok().flatten().and_then(|kept| kept.signature);
        !kept.is_some_and(|note| note.is_of(signed))
    })
}

/// What promoting `candidate` means for its name.
fn place(catalog: &Catalog, candidate: &Artifact) -> Result<Outcome> {
    catalog.check_room(candidate)?;
    let Some(there) = catalog.artifact(&candidate.name) else { return Ok(Outcome::Promoted) };
    let same = there.files == candidate.files && there.layout == candidate.layout;
    match (same, there.is_promoted()) {
        (true, true) => Ok(Outcome::AlreadyThere),
        // Quarantined by integrity (check_room refuses the bytes of an incident): these bytes are good.
        (true, false) => Ok(Outcome::Moved),
        (false, _) if candidate.name.tag().is_some() => {
            let incident = there.quarantine.as_ref().is_some_and(|q| q.cause == crate::artifact::Cause::Incident);
            if incident {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{} is under an incident: release it first", candidate.name),
                ));
            }
            Ok(Outcome::Moved)
        }
        (false, _) => Err(immutable(there)),
    }
}

pub(super) fn immutable(there: &Artifact) -> Error {
    let Artifact { name, sha256, .. } = there;
    let why = format!(
        "{name} already stands for other bytes or file names ({sha256}): choose another name, a tag, or delete it first"
    );
    Error::new(ErrorKind::Conflict, why)
}

/// Puts one staged file and its tree in place, unless the stored one serves. It serves when a promoted model holds it and it
/// is known to be good; never for a move, after which the source is gone and nothing else vouches for the bytes.
fn publish_file(
    inner: &Arc<Inner>,
    catalog: &Catalog,
    staged: &Staged,
    file: &SourceFile,
    transfer: Transfer,
    fresh: &mut Vec<Sha256Digest>,
) -> Result<Method> {
    let layout = inner.layout();
    let sha256 = staged.entry.sha256;
    if fresh.contains(&sha256) {
        return Ok(Method::Shared);
    }
    let (bytes, tree) = match &staged.place {
        Place::Temp { bytes, tree } => (bytes, tree),
        Place::Stored => return Ok(Method::Shared),
    };
    let mut holders = catalog.holders(&sha256).peekable();
    let held = holders.peek().is_some();
    if transfer == Transfer::Copy && held && holders.all(|a| a.is_promoted()) && inner.has_good(&sha256) {
        return Ok(Method::Shared);
    }
    if let Some(adopted) = &staged.adopted {
        rustix::fs::fchmod(&adopted.file, ingest::READ_ONLY).map_err(|e| Error::io("making the file read-only", e))?;
        file.check_unchanged(&adopted.file, Taken::Adopted)?;
        // Whoever could still open it for writing until now has broken the lease; from now on nobody can.
        if !adopted.lease.is_unbroken() {
            return Err(file.changed());
        }
        // Its bytes were synced before; its mode is to outlive a power cut too.
        durable::sync_file(&adopted.file).map_err(|e| Error::io("syncing an adopted file", e))?;
    }
    let name = blob_name(&sha256);
    fresh.push(sha256);
    layout.publish(bytes, Folder::Blobs, &name)?;
    layout.publish(tree, Folder::Trees, &name)?;
    Ok(staged.method)
}

/// After a move: the source's names go, and an adopted file that keeps a second link becomes a copy of its own.
pub(super) fn finish_move(inner: &Arc<Inner>, request: &PromoteRequest, source: &Source, staging: &Staging<'_>) {
    if request.transfer != Transfer::Move {
        return;
    }
    for (file, staged) in source.files.iter().zip(&staging.staged) {
        // What a repository holds stays with it.
        let Some(found) = file.found() else { continue };
        match found.remove(staged.taken()) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(path = %file.path, "the source was changed after it was read: it stays where it is")
            }
            Err(e) => tracing::warn!(path = %file.path, error = %e, "the promoted source could not be removed"),
        }
    }
    if let Some(found) = source.signature.as_ref().and_then(SourceFile::found)
        && let Err(e) = found.remove(Taken::Copied)
    {
        tracing::warn!(error = %e, "the signature of the promoted source could not be removed");
    }
    for staged in staging.staged.iter().filter(|s| s.adopted.is_some()) {
        let entry = &staged.entry;
        // The last link's going changes ctime: a stamp is taken of the file that was published, and of no other.
        if let Err(e) = inner.make_private(entry).and_then(|()| inner.blobs().learn_adopted(&entry.sha256)) {
            tracing::warn!(path = %entry.path, error = %e, "the stored file will be re-checked at its next open");
        }
    }
}

impl Inner {
    /// Gives a blob that still has a second link an inode of its own.
    pub(crate) fn make_private(&self, entry: &FileEntry) -> Result<()> {
        let name = blob_name(&entry.sha256);
        let io = |e: std::io::Error| Error::io("making a private copy of an adopted file", e);
        let open = |extra| self.layout().read(Folder::Blobs, &name, extra).map_err(|e| io(e.into()));
        let mut adopted = open(OFlags::empty())?;
        if std::os::unix::fs::MetadataExt::nlink(&adopted.metadata().map_err(io)?) == 1 {
            return Ok(());
        }
        let _temp = self.layout().use_temp()?;
        let (mut copy, temp) = self.layout().new_temp(OFlags::empty())?;
        let mut hasher = blake3::Hasher::new();
        let quiet = NoFileSizeSignal::new();
        let copied = std::io::copy(&mut adopted, &mut crate::ingest::Tee(&mut copy, &mut hasher));
        drop(quiet);
        let copied = copied.map_err(io).and_then(|_| {
            if hasher.finalize().as_bytes() != entry.blake3.as_bytes() {
                return Err(Error::new(ErrorKind::Corrupt, format!("the adopted file of {} was changed", entry.path)));
            }
            rustix::fs::fchmod(&copy, crate::ingest::READ_ONLY).map_err(|e| io(e.into()))?;
            durable::sync_file(&copy).map_err(io)
        });
        copied.inspect_err(|_| self.layout().discard(&temp))?;
        // Under the lock, so that a delete or a promotion meanwhile is not undone.
        let replace = |catalog: &Catalog| {
            if catalog.holders(&entry.sha256).next().is_none() {
                self.layout().discard(&temp);
                return Ok(Decision::Keep(()));
            }
            self.layout().publish(&temp, Folder::Blobs, &name)?;
            self.layout().sync(Folder::Blobs).map(Decision::Keep)
        };
        self.commit(&Actor::this_process("library"), replace).map(drop)
    }
}
