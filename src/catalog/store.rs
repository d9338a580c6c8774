//! manifest.yaml on disk: loading it, changing it, never losing it.
//!
//! Owns: the only code that reads or writes manifest.yaml and `generation`. Promises: a missing, torn, edited or older
//! manifest is an error, never an empty catalog; a change is acknowledged only when it would survive a power cut; two
//! writers, in one process or two, lose nothing. Leaves out: what a change means (`promote`, `verify`, `registry`).
//!
//! A change, under `run/commit.lock`:
//!
//! ```text
//! reload -> decide (publishes blobs) -> audit intent, fsync -> manifest temp, fsync, rename, fsync root
//!        -> remember the generation -> swap the snapshot -> audit outcome -> drop what nothing holds any more
//! ```
//!
//! Lock order: `writer` (this process), then run/commit.lock (all processes), then audit.lock, then `state`. The commit
//! lock is held across I/O: that is what it is for. `state` never is.

use super::{Catalog, Edit, text};
use crate::artifact::Artifact;
use crate::audit::{self, Event};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, blob_name, read_bounded};
use crate::stamp::Stamp;
use crate::task::Actor;
use crate::watch::Watch;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, OFlags};
use std::collections::HashSet;
use std::sync::Arc;

/// The manifest's name in the root.
pub(crate) const MANIFEST: &str = "manifest.yaml";
/// The highest generation this root has seen.
const GENERATION: &str = "generation";
const COMMIT_LOCK: &str = "commit.lock";

/// The catalog and its life on disk.
#[derive(Debug)]
pub(crate) struct Store {
    layout: Arc<Layout>,
    watch: Mutex<Watch>,
    writer: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    catalog: Arc<Catalog>,
    /// The file the catalog was read from.
    stamp: Option<Stamp>,
    /// Why the manifest on disk cannot be served.
    broken: Option<String>,
}

/// What a writer decided to do, under the lock.
pub(crate) enum Decision<T> {
    /// Nothing is to be changed.
    Keep(T),
    /// The catalog is to be changed.
    Change { event: &'static str, name: String, why: String, edits: Vec<Edit>, value: T },
}

impl Store {
    /// Loads the manifest of an existing root; with `create`, begins one in a root that has never been used.
    pub(crate) fn open(layout: Arc<Layout>, create: crate::layout::Create) -> Result<Store> {
        let watch = Mutex::new(Watch::new(&layout)?);
        let empty = State { catalog: Arc::default(), stamp: None, broken: None };
        let store = Store { layout, watch, writer: Mutex::new(()), state: RwLock::new(empty) };
        if create == crate::layout::Create::Missing {
            store.begin()?;
        }
        store.reload()?;
        store.settle()?;
        Ok(store)
    }

    /// Writes generation 0 into a root that has never been used.
    fn begin(&self) -> Result<()> {
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        if self.layout.read(Folder::Root, MANIFEST, OFlags::empty()).is_ok() || self.was_used()? {
            return Ok(());
        }
        self.layout.write_durably(Folder::Root, MANIFEST, text::render(&Catalog::default()).as_bytes())?;
        self.layout.write_durably(Folder::Root, GENERATION, b"0\n")
    }

    /// Whether anything shows that this root once had a manifest.
    fn was_used(&self) -> Result<bool> {
        let remembered = self.layout.read(Folder::Root, GENERATION, OFlags::empty()).is_ok();
        let blobs =
            rustix::fs::Dir::read_from(self.layout.folder(Folder::Blobs)).map_err(|e| Error::io("listing blobs", e))?;
        let holds_blobs = blobs.flatten().any(|e| !matches!(e.file_name().to_bytes(), b"." | b".."));
        Ok(remembered || holds_blobs || audit::exists(&self.layout))
    }

    /// The current snapshot, after looking whether another process changed it.
    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>> {
        // Another thread that holds the watch is looking right now.
        let changed = self.watch.try_lock().is_some_and(|mut watch| watch.drain());
        if changed || self.state.read().broken.is_some() {
            // What went wrong is kept in the state, and told below.
            let _ = self.reload();
        }
        let state = self.state.read();
        match &state.broken {
            Some(why) => Err(Error::new(ErrorKind::Manifest, why.clone())),
            None => Ok(Arc::clone(&state.catalog)),
        }
    }

    /// The last good snapshot, without looking.
    pub(crate) fn last_good(&self) -> Arc<Catalog> {
        Arc::clone(&self.state.read().catalog)
    }

    fn reload(&self) -> Result<()> {
        let (previous, stamp) = {
            let state = self.state.read();
            (Arc::clone(&state.catalog), state.stamp)
        };
        let loaded = self.load(&previous, stamp);
        let mut state = self.state.write();
        match loaded {
            Ok(None) => state.broken = None,
            Ok(Some((catalog, stamp))) if catalog.generation() >= state.catalog.generation() => {
                *state = State { catalog: Arc::new(catalog), stamp: Some(stamp), broken: None };
            }
            // Another thread has loaded a newer one meanwhile.
            Ok(Some(_)) => {}
            Err(e) => {
                tracing::error!(error = %e, "the manifest on disk cannot be served");
                state.broken = Some(e.to_string());
                return Err(e);
            }
        }
        Ok(())
    }

    /// Reads the manifest unless it is the file already loaded.
    fn load(&self, previous: &Catalog, seen: Option<Stamp>) -> Result<Option<(Catalog, Stamp)>> {
        // Before the manifest: a writer remembers after it renames.
        let remembered = self.remembered()?.max(previous.generation());
        let file = self.layout.read(Folder::Root, MANIFEST, OFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT => Error::new(
                ErrorKind::Manifest,
                format!(
                    "manifest.yaml is missing in {}, which is not a new root: put it back; nothing is served until then",
                    self.layout.path().display()
                ),
            ),
            rustix::io::Errno::LOOP => Error::new(ErrorKind::Manifest, "manifest.yaml is a symbolic link"),
            e => Error::io("opening manifest.yaml", e),
        })?;
        let stamp = Stamp::of(&file).map_err(|e| Error::io("reading manifest.yaml", e))?;
        if seen == Some(stamp) {
            return Ok(None);
        }
        let as_manifest = |e: Error| match e.kind() {
            ErrorKind::TooLarge | ErrorKind::InvalidInput => Error::new(ErrorKind::Manifest, e.message().to_owned()),
            _ => e,
        };
        let bytes = read_bounded(&file, MANIFEST, text::MAX_BYTES).map_err(as_manifest)?;
        let catalog = text::parse(&bytes, Some(previous))?;
        let generation = catalog.generation();
        if generation < remembered {
            return Err(Error::new(
                ErrorKind::Manifest,
                format!(
                    "manifest.yaml is of generation {generation}, but this root has seen {remembered}: an older manifest was put \
                     back; put the newest one back, nothing is served until then"
                ),
            ));
        }
        if seen.is_some() && generation == previous.generation() && text::render(previous).as_bytes() != bytes {
            return Err(Error::new(
                ErrorKind::Manifest,
                format!("manifest.yaml was replaced by another one of the same generation {generation}"),
            ));
        }
        Ok(Some((catalog, stamp)))
    }

    /// The highest generation known to have been written, from two places: the file, and the audit log.
    fn remembered(&self) -> Result<u64> {
        let from_log = audit::last_change(&self.layout)?.map_or(0, |line| match line.phase.as_str() {
            audit::INTENT => line.generation.saturating_sub(1),
            _ => line.generation,
        });
        let from_file = match self.layout.read_small(Folder::Root, GENERATION, 64) {
            Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(|t| t.trim().parse().ok()).ok_or_else(|| {
                Error::new(
                    ErrorKind::Manifest,
                    "the file `generation` in the root does not hold a number: it was changed by another hand",
                )
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        Ok(from_log.max(from_file))
    }

    /// Closes an intent that a crash left open.
    fn settle(&self) -> Result<()> {
        let dangling = |line: &audit::AuditLine| line.phase == audit::INTENT;
        if !audit::last_change(&self.layout)?.is_some_and(|line| dangling(&line)) {
            return Ok(());
        }
        let _writer = self.writer.lock();
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        self.reload()?;
        let Some(line) = audit::last_change(&self.layout)?.filter(dangling) else {
            return Ok(());
        };
        let generation = self.last_good().generation();
        let phase = if generation >= line.generation { audit::APPLIED } else { audit::ABORTED };
        let event = Event { event: "open", phase, name: &line.name, why: "closed at start, after a crash", generation };
        audit::append(&self.layout, &Actor::this_process("library"), &event).map(drop)
    }

    /// Decides and writes one change. Returns the catalog that holds after it.
    pub(crate) fn commit<T>(
        &self,
        actor: &Actor,
        decide: impl FnOnce(&Catalog) -> Result<Decision<T>>,
    ) -> Result<(Arc<Catalog>, T)> {
        let _writer = self.writer.lock();
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        self.reload()?;
        let old = self.last_good();
        let (event, name, why, edits, value) = match decide(&old)? {
            Decision::Keep(value) => return Ok((old, value)),
            Decision::Change { event, name, why, edits, value } => (event, name, why, edits, value),
        };
        let new = old.with(&edits)?;
        let rendered = text::render(&new);
        if rendered.len() as u64 > text::MAX_BYTES {
            return Err(Error::new(ErrorKind::TooLarge, "the manifest would grow over its limit: delete models first"));
        }
        let say = |phase, generation| {
            audit::append(&self.layout, actor, &Event { event, phase, name: &name, why: &why, generation })
        };
        say(audit::INTENT, new.generation())?;
        if let Err(e) = self.layout.write_durably(Folder::Root, MANIFEST, rendered.as_bytes()) {
            // The rename may have happened: what the disk shows decides.
            let now = self.reload().map(|()| self.last_good().generation());
            if now.as_ref().is_ok_and(|g| *g < new.generation()) {
                let _ = say(audit::ABORTED, old.generation());
            }
            return Err(e);
        }
        // From here on the change has happened; what follows may fail without undoing it.
        let remembered =
            self.layout.write_atomically(Folder::Root, GENERATION, format!("{}\n", new.generation()).as_bytes());
        self.reload()?;
        let new = self.last_good();
        if let Err(e) = remembered.and_then(|()| say(audit::APPLIED, new.generation()).map(drop)) {
            tracing::error!(error = %e, generation = new.generation(), "the change is made, but not fully recorded");
        }
        self.drop_unheld(&old, &new, &edits);
        Ok((new, value))
    }

    /// Removes the blobs, trees, stamps and sidecars that only replaced or removed entries held. Open descriptors stay
    /// readable. What cannot be removed now is garbage, not a failure.
    fn drop_unheld(&self, old: &Catalog, new: &Catalog, edits: &[Edit]) {
        let gone: Vec<&Arc<Artifact>> = edits.iter().filter_map(|edit| old.artifact(edit.name())).collect();
        let evidence: HashSet<_> = if gone.iter().any(|a| a.evidence.is_some()) {
            new.artifacts().filter_map(|a| a.evidence).collect()
        } else {
            HashSet::new()
        };
        for artifact in gone {
            for file in &artifact.files {
                if new.holders(&file.sha256).next().is_none() {
                    self.remove_blob(&file.sha256);
                }
            }
            if let Some(sidecar) = artifact.evidence.filter(|digest| !evidence.contains(digest)) {
                self.remove(Folder::Sidecars, &sidecar.to_hex());
            }
        }
    }

    /// Removes a blob with its tree and stamp.
    pub(crate) fn remove_blob(&self, sha256: &crate::digest::Sha256Digest) {
        for folder in [Folder::Stamps, Folder::Blobs, Folder::Trees] {
            self.remove(folder, &blob_name(sha256));
        }
    }

    fn remove(&self, folder: Folder, name: &str) {
        if let Err(e) = self.layout.remove(folder, name) {
            tracing::warn!(error = %e, name, "left behind; gc will take it");
        }
    }
}
