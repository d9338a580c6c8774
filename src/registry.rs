//! The facade: one line a verb.
//!
//! Owns: [`Registry`], what holds its parts together, and where they are by default. Promises: it may be cloned and shared
//! between threads; it starts no thread that outlives a call; each call sees what other processes changed before it. Leaves
//! out: how anything is done.

use crate::artifact::{Artifact, Blocked, FileEntry};
use crate::audit::{self, AuditLine, AuditSummary, Event, Noted};
use crate::blobs::{Blobs, OpenBlob};
use crate::buffer::Spare;
use crate::catalog::Catalog;
use crate::catalog::store::{Decision, Store};
use crate::content::{Content, Shelf, holds};
use crate::describe;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::figures::Figures;
use crate::layout::{Access, Folder, Layout};
use crate::mounts::{self, MountGuard, MountRecord};
use crate::name::{ModelName, RelPath};
use crate::policy::Policy;
use crate::promote;
use crate::sealed::{self, Sealed};
use crate::sidecar::MAX_SIDECAR;
use crate::source::Source;
use crate::stamp::Stamps;
use crate::task::{Actor, Task};
use crate::tensorcheck;
use crate::verified::{Origin, ReadMode, VerifiedFile};
use crate::verify;
use crate::watch::Watch;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::promote::{MAX_EVIDENCE, Method, Outcome, PromoteRequest, Promotion, Transfer};
pub use crate::tensorcheck::ManifestReport;
pub use crate::verify::{Release, VerifyAll, VerifyReport, VerifyStatus};

/// An open registry root.
#[derive(Debug, Clone)]
pub struct Registry {
    pub(crate) inner: Arc<Inner>,
}

impl Registry {
    /// Opens an existing root.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Manifest` when its manifest is missing, torn, edited or older than one already
    /// seen, `Permission` when other users can reach into it.
    pub fn open(root: &Path) -> Result<Registry> {
        Inner::open(root, Access::Write)
    }

    /// Opens an existing root to read only: nothing is written there, so that it may lie on a read-only file system (a
    /// container's volume), and none of its locks is taken; only to see whether a mount is alive is the lock on its record
    /// tried, and let go at once. What a read finds damaged is refused by this process from then on; a process that may write
    /// quarantines it. Everything that would change the root is `Permission`.
    pub fn open_read_only(root: &Path) -> Result<Registry> {
        Inner::open(root, Access::Read)
    }

    /// Opens a root, making it first where there is none. A root that was used before and lost its manifest is an error.
    pub fn open_or_create(root: &Path) -> Result<Registry> {
        Inner::open(root, Access::Create)
    }

    /// `/var/lib/secure-ai/registry` for root, `$XDG_DATA_HOME/securereg/registry` for anyone else.
    pub fn default_root() -> PathBuf {
        default_folder("registry")
    }

    /// `/var/lib/secure-ai/models` for root, `$XDG_DATA_HOME/securereg/models` for anyone else.
    pub fn default_mount() -> PathBuf {
        default_folder("models")
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        self.inner.layout.path()
    }

    /// The folder inside the root from which HTTP promotions may take their sources.
    pub fn staging(&self) -> PathBuf {
        self.root().join("quarantine")
    }

    /// The current snapshot.
    ///
    /// # Errors
    /// `Manifest` while manifest.yaml on disk cannot be served: fail closed.
    pub fn catalog(&self) -> Result<Arc<Catalog>> {
        self.inner.catalog()
    }

    /// The current snapshot if nothing has changed since it was loaded, else none: never reads a file.
    pub fn catalog_if_unchanged(&self) -> Option<Arc<Catalog>> {
        self.inner.store.if_unchanged()?.ok()
    }

    /// A pollable descriptor of the caller's own, readable when the manifest may have changed by whatever process.
    pub fn watch(&self) -> Result<Watch> {
        Watch::new(&self.inner.layout)
    }

    /// Takes a model in: copied, hashed, inspected, judged, registered.
    pub fn promote(
        &self,
        request: PromoteRequest,
        source: Source,
        actor: &Actor,
        task: &Task<'_>,
    ) -> Result<Promotion> {
        let promoted = promote::promote(&self.inner, &request, source, actor, task);
        self.inner.figures.promoted(&promoted);
        promoted
    }

    /// Hashes a model from end to end. A model that fails is an `Ok` report that says so, and is quarantined.
    pub fn verify(&self, name: &ModelName, actor: &Actor, task: &Task<'_>) -> Result<VerifyReport> {
        verify::one(&self.inner, name, actor, task)
    }

    /// Hashes every model, each blob once, and remembers the result.
    pub fn verify_all(&self, actor: &Actor, task: &Task<'_>) -> Result<VerifyAll> {
        verify::all(&self.inner, actor, task)
    }

    /// The last result of [`Registry::verify_all`], by whatever process.
    pub fn last_verify_all(&self) -> Result<Option<VerifyAll>> {
        verify::last(&self.inner)
    }

    /// Takes a model out of service for an incident, or because a person says so. Only a release brings it back.
    pub fn quarantine(
        &self,
        name: &ModelName,
        reason: &str,
        incident_id: Option<&str>,
        actor: &Actor,
    ) -> Result<Arc<Artifact>> {
        verify::quarantine(&self.inner, name, reason, incident_id, actor)
    }

    /// Verifies a model and, if every byte is good, lifts its quarantine, whoever put it. When no model has the name, the
    /// same as [`Registry::release_deleted`].
    pub fn release(&self, name: &ModelName, reason: &str, actor: &Actor, task: &Task<'_>) -> Result<Release> {
        verify::release(&self.inner, name, reason, actor, task)
    }

    /// Lets the weights of all models that were deleted under this name and an incident be promoted again. Nothing is verified:
    /// the bytes are gone. A model that has the name now is not touched.
    ///
    /// # Errors
    /// `NotFound` when nothing deleted under the name is blocked.
    pub fn release_deleted(&self, name: &ModelName, reason: &str, actor: &Actor) -> Result<Vec<Arc<Blocked>>> {
        verify::release_deleted(&self.inner, name, reason, actor)
    }

    /// Removes a model, and the bytes that no other model holds. Open files stay readable, and verified. The weights of one
    /// that is under an incident stay blocked until a release, see [`Catalog::blocked`].
    pub fn delete(&self, name: &ModelName, actor: &Actor) -> Result<()> {
        let change = |catalog: &Catalog| {
            let why = format!("sha256 {}", catalog.require(name)?.sha256);
            let edits = vec![crate::catalog::Edit::Remove { name: name.clone(), at: audit::now() }];
            Ok(Decision::Change { event: "delete", names: vec![name.to_string()], why, edits, value: () })
        };
        self.inner.commit(actor, change).map(drop)
    }

    /// Opens one file of a promoted model, by its path inside the artifact. At once when the stored file's stamp is the one
    /// recorded; else after every byte was hashed.
    pub fn open_file(&self, name: &ModelName, path: &RelPath, mode: ReadMode) -> Result<VerifiedFile> {
        let catalog = self.inner.catalog()?;
        let artifact = catalog.require(name)?;
        self.inner.require_promoted(artifact)?;
        let entry = artifact
            .files
            .iter()
            .find(|f| f.path == *path)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{name} has no file {path}")).on(name))?;
        self.inner.open_verified(Origin::Model(Arc::clone(artifact)), entry, mode, catalog.generation())
    }

    /// One file of a promoted model whole in sealed memory, verified: see [`Sealed`].
    ///
    /// # Errors
    /// As [`Registry::open_file`]; `NoMemory`, naming the need, when it would not fit.
    pub fn open_sealed(&self, name: &ModelName, path: &RelPath, task: &Task<'_>) -> Result<Sealed> {
        sealed::open(self, name, path, task)
    }

    /// A subscription to what changes, by whatever process.
    pub fn events(&self) -> Result<Events> {
        Events::new(self)
    }

    /// Opens a blob by its digest, while a promoted model holds it.
    pub fn open_blob(&self, sha256: &Sha256Digest, mode: ReadMode) -> Result<VerifiedFile> {
        let catalog = self.inner.catalog()?;
        let Some(holder) = catalog.holders(sha256).find(|a| a.is_promoted()) else {
            return Err(match catalog.holders(sha256).next() {
                Some(held) => {
                    self.count_refused_read(ErrorKind::Quarantined);
                    Error::new(ErrorKind::Quarantined, format!("{} is quarantined", held.name)).on(&held.name)
                }
                None => Error::new(ErrorKind::NotFound, format!("no model holds {sha256}")),
            });
        };
        let entry = holder.files.iter().find(|f| f.sha256 == *sha256);
        let entry = entry.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no model holds {sha256}")))?;
        self.inner.open_verified(Origin::Digest, entry, mode, catalog.generation())
    }

    /// Whether opening this blob takes no re-check.
    pub fn opens_at_once(&self, sha256: &Sha256Digest) -> bool {
        self.inner.blobs.opens_at_once(sha256)
    }

    /// Re-checks every blob whose stamp is stale, as after a restore or a move of the root, and quarantines what is not
    /// what was promoted.
    pub fn recheck_stale(&self, task: &Task<'_>) -> Result<()> {
        let catalog = self.inner.catalog()?;
        let mut seen = HashSet::new();
        for file in catalog.artifacts().filter(|a| a.is_promoted()).flat_map(|a| &a.files) {
            task.go_on()?;
            if !seen.insert(file.sha256) {
                continue;
            }
            // A crash between the commit of a move and the removal of its source leaves a second link.
            if let Err(e) = self.inner.make_private(file) {
                tracing::warn!(path = %file.path, error = %e, "a stored file keeps a second link");
            }
            if !self.opens_at_once(&file.sha256) {
                // What it finds is acted on and logged; the next one is checked all the same.
                let _ = self.inner.open_entry(None, file);
            }
        }
        Ok(())
    }

    /// Sets the immutable flag (`chattr +i`) on every promoted model's stored files, so that not even root writes, removes or
    /// renames one without taking it off first. Deleting a model takes it off.
    ///
    /// # Errors
    /// `Permission` without CAP_LINUX_IMMUTABLE, `Unsupported` where the file system has no such flag.
    pub fn make_immutable(&self) -> Result<()> {
        self.inner.layout.check_writable()?;
        let catalog = self.inner.catalog()?;
        for file in catalog.artifacts().filter(|a| a.is_promoted()).flat_map(|a| &a.files) {
            // One that is damaged is quarantined by this, and stops no other.
            if self.inner.open_entry(None, file).is_ok() {
                match self.inner.blobs.make_immutable(file) {
                    Err(e) if matches!(e.kind(), ErrorKind::Permission | ErrorKind::Unsupported) => return Err(e),
                    Err(e) => tracing::warn!(path = %file.path, error = %e, "a stored file is not immutable"),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// The content of OCI repositories.
    pub fn content(&self) -> Content {
        Content::new(&self.inner)
    }

    /// The Artifact JSON of the API.
    pub fn describe(&self, artifact: &Artifact) -> Result<serde_json::Value> {
        describe::describe(&self.inner, artifact, &self.inner.default_mount)
    }

    /// The Artifact JSON of every model, sorted by name.
    pub fn describe_all(&self) -> Result<Vec<serde_json::Value>> {
        describe::describe_all(&self.inner, &self.inner.default_mount)
    }

    /// Where a live mount shows the model.
    ///
    /// # Errors
    /// `Quarantined`, `Corrupt` when a stored file was tampered with, `NotMounted` without a live mount.
    pub fn path(&self, name: &ModelName) -> Result<PathBuf> {
        describe::path(&self.inner, name)
    }

    /// The policy that judges promotions: that of policy.yaml in the root, or the built-in one where there is none.
    ///
    /// # Errors
    /// `Manifest` when policy.yaml cannot be read or understood: nothing is promoted until it can.
    pub fn policy(&self) -> Result<Policy> {
        self.inner.policy()
    }

    /// Checks each tensor of a model's GGUF files against the manifest recorded at promotion, and the rest of the file too.
    /// A model that fails is an `Ok` report that names what differs, and is quarantined.
    pub fn verify_manifest(&self, name: &ModelName, actor: &Actor, task: &Task<'_>) -> Result<ManifestReport> {
        tensorcheck::verify(&self.inner, name, actor, task)
    }

    /// Announces a mount for as long as the guard lives.
    pub fn record_mount(&self, mountpoint: &Path) -> Result<MountGuard> {
        mounts::record(&self.inner.layout, mountpoint)
    }

    /// The mounts that are alive, oldest first.
    pub fn mounts(&self) -> Result<Vec<MountRecord>> {
        mounts::live(&self.inner.layout)
    }

    /// Every line of the audit log.
    pub fn audit_log(&self) -> Result<Vec<AuditLine>> {
        audit::lines(&self.inner.layout)
    }

    /// The names of the models that were quarantined after `generation`, deleted ones too: who looks at the catalog only now
    /// and then would take a quarantine followed by a delete for a delete.
    pub fn quarantined_since(&self, generation: u64) -> Result<HashSet<String>> {
        audit::quarantined_since(&self.inner.layout, generation)
    }

    /// The same up to the generation `until`.
    pub(crate) fn quarantined_between(&self, after: u64, until: u64) -> Result<HashSet<String>> {
        audit::quarantined_between(&self.inner.layout, after, until)
    }

    /// Checks the audit log's chain from its first line.
    pub fn audit_verify(&self) -> Result<AuditSummary> {
        self.inner.store.verify_log()
    }

    /// Writes down what was decided outside the core.
    pub fn audit_note(&self, noted: Noted, name: &str, why: &str, actor: &Actor) -> Result<()> {
        self.inner.note(noted, name, why, actor)
    }
}

fn default_folder(what: &str) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return Path::new("/var/lib/secure-ai").join(what);
    }
    let set = |key| std::env::var_os(key).map(PathBuf::from).filter(|p| p.is_absolute());
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    // Without a home there is no place of one's own that would be found again; the command line asks for --root.
    data.unwrap_or_else(std::env::temp_dir).join("securereg").join(what)
}

/// What all clones of a registry share.
#[derive(Debug)]
pub(crate) struct Inner {
    layout: Arc<Layout>,
    store: Store,
    blobs: Blobs,
    /// Blobs this process found damaged, with the stamps they and their trees had, for either may be what is damaged: refused
    /// here even if the quarantine could not be written, until one of the two is written or replaced, or a check passes.
    condemned: Mutex<HashMap<Sha256Digest, Option<Stamps>>>,
    spare: Spare,
    /// As it was at open: it depends on the environment, and a host that changes that while another thread asks is led astray.
    default_mount: PathBuf,
    shelf: Shelf,
    pub(crate) figures: Figures,
}

impl Inner {
    fn open(root: &Path, access: Access) -> Result<Registry> {
        let layout = Arc::new(Layout::open(root, access)?);
        let store = Store::open(Arc::clone(&layout), access)?;
        if access != Access::Read {
            layout.sweep_temp()?;
            holds::prepare(&layout);
        }
        let blobs = Blobs::new(Arc::clone(&layout));
        let (condemned, spare, default_mount) = (Mutex::default(), Spare::default(), Registry::default_mount());
        let (shelf, figures) = (Shelf::default(), Figures::default());
        let inner = Inner { layout, store, blobs, condemned, spare, default_mount, shelf, figures };
        Ok(Registry { inner: Arc::new(inner) })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>> {
        self.store.catalog()
    }

    /// The newest catalog that could be read: for what is already open.
    pub(crate) fn latest(&self) -> Arc<Catalog> {
        self.store.catalog().unwrap_or_else(|_| self.store.last_good())
    }

    pub(crate) fn commit<T>(
        &self,
        actor: &Actor,
        decide: impl FnOnce(&Catalog) -> Result<Decision<T>>,
    ) -> Result<(Arc<Catalog>, T)> {
        self.store.commit(actor, decide, |_| {})
    }

    /// The same for a change that publishes files, which `undo` takes away if it does not happen.
    pub(crate) fn commit_or<T>(
        &self,
        actor: &Actor,
        decide: impl FnOnce(&Catalog) -> Result<Decision<T>>,
        undo: impl FnOnce(&Catalog),
    ) -> Result<(Arc<Catalog>, T)> {
        self.store.commit(actor, decide, undo)
    }

    /// Removes those of these blobs that no repository holds; the catalog was asked, under the commit lock.
    pub(crate) fn drop_blobs(&self, blobs: &[Sha256Digest]) {
        self.store.drop_blobs(blobs);
    }

    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    pub(crate) fn note(&self, noted: Noted, name: &str, why: &str, actor: &Actor) -> Result<()> {
        let generation = self.latest().generation();
        let event = Event { event: noted.as_str(), phase: audit::NOTED, name, why, generation };
        self.log(actor, &[event])
    }

    /// Appends to the audit log.
    pub(crate) fn log(&self, actor: &Actor, events: &[Event<'_>]) -> Result<()> {
        self.store.log(actor, events)
    }

    pub(crate) fn require_promoted(&self, artifact: &Artifact) -> Result<()> {
        match &artifact.quarantine {
            None => Ok(()),
            Some(q) => {
                self.figures.read_refused(ErrorKind::Quarantined);
                let why = format!("{} is quarantined ({}): {}", artifact.name, q.cause.as_str(), q.reason);
                Err(Error::new(ErrorKind::Quarantined, why).on(&artifact.name))
            }
        }
    }

    pub(crate) fn open_verified(
        self: &Arc<Self>,
        origin: Origin,
        entry: &FileEntry,
        mode: ReadMode,
        generation: u64,
    ) -> Result<VerifiedFile> {
        let name = match &origin {
            Origin::Model(model) => Some(&model.name),
            Origin::Digest | Origin::Repository => None,
        };
        let blob = self.open_blob(name, entry, mode == ReadMode::Direct)?;
        Ok(VerifiedFile::new(Arc::clone(self), origin, entry.clone(), blob, generation))
    }

    /// Opens a stored file only to see that it is good.
    pub(crate) fn open_entry(self: &Arc<Self>, name: Option<&ModelName>, entry: &FileEntry) -> Result<()> {
        self.open_blob(name, entry, false).map(drop)
    }

    fn open_blob(self: &Arc<Self>, name: Option<&ModelName>, entry: &FileEntry, direct: bool) -> Result<OpenBlob> {
        let before = Stamps::at(&self.layout, &entry.sha256);
        let opened = if self.is_condemned(&entry.sha256) {
            Err(Error::new(ErrorKind::Corrupt, format!("{} was found damaged", entry.path)))
        } else {
            self.blobs.open(entry, direct)
        };
        opened.map_err(|e| {
            self.figures.read_refused(e.kind());
            if e.kind() == ErrorKind::Corrupt {
                // Who hashed it while it was repaired accuses nobody.
                let mended =
                    || Stamps::at(&self.layout, &entry.sha256) != before && self.blobs.is_known_good(&entry.sha256);
                self.report_corruption_unless(&entry.sha256, e.message(), mended);
            }
            match name {
                Some(name) => e.on(name),
                None => e,
            }
        })
    }

    /// Refuses a damaged blob from now on, here at once and everywhere as soon as the quarantine is written.
    pub(crate) fn report_corruption(self: &Arc<Self>, sha256: &Sha256Digest, why: &str) {
        self.report_corruption_unless(sha256, why, || false);
    }

    /// The same unless it was `mended` since: asked under the lock under which a quarantine is lifted.
    pub(crate) fn report_corruption_unless(
        self: &Arc<Self>,
        sha256: &Sha256Digest,
        why: &str,
        mended: impl Fn() -> bool,
    ) {
        self.condemn(sha256);
        if !self.layout.is_writable() {
            self.blobs.forget(sha256);
            tracing::error!(%sha256, why, "a model is damaged; this registry is open read-only: only this process refuses it");
            return;
        }
        match verify::quarantine_holders(self, sha256, why, &Actor::this_process("read"), &mended) {
            // The catalog says it now, and says it when a verification passes again. It says nothing of what no model holds.
            Ok(()) => {
                if self.latest().holders(sha256).next().is_some() || mended() {
                    self.condemned.lock().remove(sha256);
                }
            }
            Err(e) => {
                self.blobs.forget(sha256);
                tracing::error!(%sha256, error = %e, why, "a damaged model could not be quarantined; this process refuses it")
            }
        }
    }

    pub(crate) fn condemn(&self, sha256: &Sha256Digest) {
        let stamps = Stamps::at(&self.layout, sha256);
        self.condemned.lock().insert(*sha256, stamps);
    }

    /// Whether what is stored is the very thing that was found damaged. If not, an open checks every byte of it: its stamps are
    /// not known to be good.
    pub(crate) fn is_condemned(&self, sha256: &Sha256Digest) -> bool {
        let mut condemned = self.condemned.lock();
        let Some(then) = condemned.get(sha256) else { return false };
        let now = Stamps::at(&self.layout, sha256);
        let same = now.is_none() || *then == now;
        if !same {
            condemned.remove(sha256);
        }
        same
    }

    /// Takes back what this process held against blobs: they were checked, or replaced.
    pub(crate) fn absolve<'a>(&self, blobs: impl IntoIterator<Item = &'a Sha256Digest>) {
        let mut condemned = self.condemned.lock();
        for sha256 in blobs {
            condemned.remove(sha256);
        }
    }

    /// Whether a stored blob is there and known to be good, so that a second copy is not needed.
    pub(crate) fn has_good(&self, sha256: &Sha256Digest) -> bool {
        !self.is_condemned(sha256) && self.blobs.is_known_good(sha256)
    }

    /// A sidecar, checked against its digest.
    pub(crate) fn sidecar(&self, digest: &Sha256Digest) -> Result<serde_json::Map<String, serde_json::Value>> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, format!("the evidence kept with the model {why}"));
        let bytes =
            self.layout.read_small(Folder::Sidecars, &digest.to_hex(), MAX_SIDECAR).map_err(|e| match e.kind() {
                ErrorKind::NotFound => corrupt("is missing"),
                ErrorKind::TooLarge => corrupt("was altered"),
                _ => e,
            })?;
        if Sha256Digest::of(&bytes) != *digest {
            return Err(corrupt("was altered"));
        }
        serde_json::from_slice(&bytes).map_err(|e| corrupt("is not JSON").because(e))
    }

    /// Buffers for reads and uploads.
    pub(crate) fn spare(&self) -> &Spare {
        &self.spare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The environment itself cannot be changed here: that is what makes it unsafe.
    #[test]
    fn a_description_names_the_default_mount_of_the_open_and_does_not_ask_the_environment_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = dir.path().join("m.gguf");
        std::fs::write(&source, crate::models::gguf(100, 1)).expect("written");
        let mut registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        assert_eq!(registry.inner.default_mount, Registry::default_mount());
        Arc::get_mut(&mut registry.inner).expect("the only one").default_mount = PathBuf::from("/then");
        let request = PromoteRequest::new("m".parse().expect("a name"));
        let source = Source::open(&source).expect("a source");
        let promoted = registry.promote(request, source, &Actor::new("test", "tester"), &Task::unattended());
        let one = registry.describe(&promoted.expect("promoted").artifact).expect("described");
        let all = registry.describe_all().expect("described");
        assert_eq!((one["path"].as_str(), all[0]["path"].as_str()), (Some("/then/m.gguf"), Some("/then/m.gguf")));
    }
}
