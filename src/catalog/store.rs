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
//!        -> swap the snapshot -> audit outcome -> remember generation and log -> drop what nothing holds any more
//! ```
//! Until the rename, a failure undoes what `decide` published, still under the lock. From the rename on the change has
//! happened, and nothing that fails after it may be taken for a failure of the change.
//!
//! Lock order: `writer` (this process), then run/commit.lock (all processes), then run/holds.lock (content/holds), then `loading`, then audit.lock, then `state`.
//! The first three are held across I/O: that is what they are for. `state` never is.

use super::{Catalog, Edit, text};
use crate::artifact::Artifact;
use crate::audit::{self, Anchor, Event};
use crate::content::holds;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Access, Folder, Layout, blob_name, read_bounded};
use crate::stamp::Stamp;
use crate::task::Actor;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, OFlags};
use std::collections::HashSet;
use std::sync::Arc;

/// The manifest's name in the root.
pub(crate) const MANIFEST: &str = "manifest.yaml";
/// The highest generation this root has seen, and the last line of the log at that time.
const GENERATION: &str = "generation";
const COMMIT_LOCK: &str = "commit.lock";

/// The catalog and its life on disk.
#[derive(Debug)]
pub(crate) struct Store {
    layout: Arc<Layout>,
    writer: Mutex<()>,
    loading: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    catalog: Arc<Catalog>,
    /// The file last looked at, good or not.
    seen: Option<Stamp>,
    /// Why it cannot be served.
    broken: Option<(ErrorKind, String)>,
}

impl State {
    fn answer(&self) -> Result<Arc<Catalog>> {
        match &self.broken {
            Some((kind, why)) => Err(Error::new(*kind, why.clone())),
            None => Ok(Arc::clone(&self.catalog)),
        }
    }

    /// What the file that was `seen` says, or what is wrong with it.
    fn take(&mut self, loaded: Result<Catalog>, seen: Option<Stamp>) {
        self.seen = seen;
        match loaded {
            Ok(catalog) => {
                self.catalog = Arc::new(catalog);
                self.broken = None;
            }
            Err(e) => {
                tracing::error!(error = %e, "the manifest on disk cannot be served");
                // Said of this process and not of the file, which is looked at again.
                if e.kind() == ErrorKind::NoMemory {
                    self.seen = None;
                }
                self.broken = Some((e.kind(), e.to_string()));
            }
        }
    }
}

/// What a writer decided to do, under the lock.
pub(crate) enum Decision<T> {
    /// Nothing is to be changed.
    Keep(T),
    /// The catalog is to be changed; one line of the audit log for each name.
    Change { event: &'static str, names: Vec<String>, why: String, edits: Vec<Edit>, value: T },
}

/// What a root remembers apart from its manifest and its log, so that an older one of either is noticed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    generation: u64,
    log: Option<Anchor>,
}

impl Memory {
    fn render(&self) -> String {
        match &self.log {
            Some(Anchor { seq, hash }) => format!("{} {seq} {hash}\n", self.generation),
            None => format!("{}\n", self.generation),
        }
    }

    fn parse(text: &str) -> Option<Memory> {
        let mut words = text.trim_end().split(' ');
        let generation = words.next()?.parse().ok()?;
        let log = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some(seq), Some(hash), None) => Some(Anchor { seq: seq.parse().ok()?, hash: hash.to_owned() }),
            _ => return None,
        };
        Some(Memory { generation, log })
    }
}

impl Store {
    /// Loads the manifest of an existing root; with [`Access::Create`], begins one in a root that has never been used.
    pub(crate) fn open(layout: Arc<Layout>, access: Access) -> Result<Store> {
        let store = Store { layout, writer: Mutex::default(), loading: Mutex::default(), state: RwLock::default() };
        if access == Access::Create {
            store.begin()?;
        }
        store.catalog()?;
        if access != Access::Read {
            store.settle()?;
        }
        Ok(store)
    }

    /// Writes generation 0 into a root that has never been used.
    fn begin(&self) -> Result<()> {
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        if self.layout.read(Folder::Root, MANIFEST, OFlags::empty()).is_ok() || self.was_used()? {
            return Ok(());
        }
        self.layout.write_durably(Folder::Root, MANIFEST, text::render(&Catalog::default())?.as_bytes())?;
        self.layout.write_durably(Folder::Root, GENERATION, Memory::default().render().as_bytes())
    }

    /// Whether anything shows that this root once had a manifest.
    fn was_used(&self) -> Result<bool> {
        let remembered = self.layout.read(Folder::Root, GENERATION, OFlags::empty()).is_ok();
        let blobs =
            rustix::fs::Dir::read_from(self.layout.folder(Folder::Blobs)).map_err(|e| Error::io("listing blobs", e))?;
        let holds_blobs = blobs.flatten().any(|e| !matches!(e.file_name().to_bytes(), b"." | b".."));
        Ok(remembered || holds_blobs || audit::exists(&self.layout))
    }

    /// The current snapshot. Whether another process changed it is asked of the file itself, one stat a call: a queue of
    /// events could be drained by another thread, or by a forked child.
    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>> {
        if let Some(answer) = self.if_unchanged() {
            return answer;
        }
        let _turn = self.loading.lock();
        // Whoever had the turn before may have loaded it.
        if let Some(answer) = self.if_unchanged() {
            return answer;
        }
        self.load_now();
        self.state.read().answer()
    }

    /// The current snapshot if the file is the one it was read from: one stat, and never a read.
    pub(crate) fn if_unchanged(&self) -> Option<Result<Arc<Catalog>>> {
        let now = Stamp::at(self.layout.folder(Folder::Root), MANIFEST).ok()?;
        let state = self.state.read();
        (state.seen == Some(now)).then(|| state.answer())
    }

    /// The last good snapshot, without looking.
    pub(crate) fn last_good(&self) -> Arc<Catalog> {
        Arc::clone(&self.state.read().catalog)
    }

    /// Reads the manifest and puts what it says, or what is wrong with it, in the state.
    fn load_now(&self) {
        let previous = self.last_good();
        let first = self.state.read().seen.is_none();
        let mut seen = None;
        let loaded = self.load(&previous, first, &mut seen);
        self.state.write().take(loaded, seen);
    }

    fn load(&self, previous: &Catalog, first: bool, seen: &mut Option<Stamp>) -> Result<Catalog> {
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
        let as_manifest = |e: Error| match e.kind() {
            ErrorKind::TooLarge | ErrorKind::InvalidInput => Error::new(ErrorKind::Manifest, e.message().to_owned()),
            _ => e,
        };
        let bytes = read_bounded(&file, MANIFEST, text::MAX_BYTES).map_err(as_manifest)?;
        // What could be read is judged once; what could not is tried again at the next call.
        *seen = Some(stamp);
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
        if !first && generation == previous.generation() && text::render(previous)?.as_bytes() != bytes {
            let why = format!("manifest.yaml was replaced by another one of the same generation {generation}");
            return Err(Error::new(ErrorKind::Manifest, why));
        }
        Ok(catalog)
    }

    /// What this root remembers, in the file of its own.
    fn memory(&self) -> Result<Memory> {
        match self.layout.read_small(Folder::Root, GENERATION, 256) {
            Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(Memory::parse).ok_or_else(|| {
                let why = "the file `generation` in the root does not hold a number: it was changed by another hand";
                Error::new(ErrorKind::Manifest, why)
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Memory::default()),
            Err(e) => Err(e),
        }
    }

    /// The highest generation known to have been written, from two places: that file, and the audit log.
    fn remembered(&self) -> Result<u64> {
        let from_log = audit::last_change(&self.layout)?.map_or(0, |line| match line.phase.as_str() {
            audit::INTENT => line.generation.saturating_sub(1),
            _ => line.generation,
        });
        Ok(from_log.max(self.memory()?.generation))
    }

    /// Checks the audit log, and that it holds the line this root remembers.
    pub(crate) fn verify_log(&self) -> Result<audit::AuditSummary> {
        let memory = self.memory()?;
        audit::verify(&self.layout, memory.log.as_ref())
    }

    /// Closes an intent that a crash left open.
    fn settle(&self) -> Result<()> {
        let dangling = |line: &audit::AuditLine| line.phase == audit::INTENT;
        if !audit::last_change(&self.layout)?.is_some_and(|line| dangling(&line)) {
            return Ok(());
        }
        let _writer = self.writer.lock();
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        let generation = self.catalog()?.generation();
        let Some(line) = audit::last_change(&self.layout)?.filter(dangling) else {
            return Ok(());
        };
        let phase = if generation >= line.generation { audit::APPLIED } else { audit::ABORTED };
        let event = Event { event: "open", phase, name: &line.name, why: "closed at start, after a crash", generation };
        audit::append(&self.layout, &Actor::this_process("library"), &[event]).map(drop)
    }

    /// Decides and writes one change. Returns the catalog that holds after it.
    ///
    /// `decide` may publish files; `undo` takes them away again, under the same lock, when the change did not happen. It is
    /// given the catalog that stays.
    pub(crate) fn commit<T>(
        &self,
        actor: &Actor,
        decide: impl FnOnce(&Catalog) -> Result<Decision<T>>,
        undo: impl FnOnce(&Catalog),
    ) -> Result<(Arc<Catalog>, T)> {
        let _writer = self.writer.lock();
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        let old = self.catalog()?;
        let prepared = decide(&old).and_then(|decision| match decision {
            Decision::Keep(value) => Ok((None, value)),
            Decision::Change { event, names, why, edits, value } => {
                let new = old.with(&edits)?;
                self.prepare(&new, actor, event, &names, &why).map(|()| (Some((event, names, why, edits, new)), value))
            }
        });
        let (change, value) = prepared.inspect_err(|_| undo(&old))?;
        let Some((event, names, why, edits, new)) = change else { return Ok((old, value)) };
        // From here on the change has happened.
        let synced = self.layout.sync(Folder::Root);
        let new = self.install(new);
        self.remember(actor, event, &names, &why, new.generation());
        self.drop_unheld(&old, &new, &edits);
        // Not undone, not retried: it is in the manifest, and may not survive a power cut.
        synced?;
        Ok((new, value))
    }

    /// Announces the change and renames the manifest into place. An error means that nothing was renamed.
    fn prepare(&self, new: &Catalog, actor: &Actor, event: &'static str, names: &[String], why: &str) -> Result<()> {
        let rendered = text::render(new)?;
        if !text::fits(rendered.len() as u64, event) {
            let why = "the manifest would grow over its limit: delete models, or release deleted ones, first";
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        let _in_use = self.layout.use_temp()?;
        let temp = self.layout.write_temp(rendered.as_bytes())?;
        let renamed = self
            .say(actor, event, audit::INTENT, names, why, new.generation())
            .inspect_err(|_| self.layout.discard(&temp))
            .and_then(|_| self.layout.publish(&temp, Folder::Root, MANIFEST));
        renamed.inspect_err(|_| {
            let _ = self.say(actor, event, audit::ABORTED, names, why, new.generation() - 1);
        })
    }

    fn say(
        &self,
        actor: &Actor,
        event: &'static str,
        phase: &'static str,
        names: &[String],
        why: &str,
        generation: u64,
    ) -> Result<Anchor> {
        let events: Vec<Event<'_>> = names.iter().map(|name| Event { event, phase, name, why, generation }).collect();
        audit::append(&self.layout, actor, &events)
    }

    /// Makes the catalog just written the current one, from memory: reading it back could fail, and it has happened.
    fn install(&self, new: Catalog) -> Arc<Catalog> {
        let new = Arc::new(new);
        let _turn = self.loading.lock();
        let seen = Stamp::at(self.layout.folder(Folder::Root), MANIFEST).ok();
        *self.state.write() = State { catalog: Arc::clone(&new), seen, broken: None };
        new
    }

    /// The outcome's line, and the memory of both.
    fn remember(&self, actor: &Actor, event: &'static str, names: &[String], why: &str, generation: u64) {
        let remembered = self.say(actor, event, audit::APPLIED, names, why, generation).and_then(|anchor| {
            let memory = Memory { generation, log: Some(anchor) };
            self.layout.write_atomically(Folder::Root, GENERATION, memory.render().as_bytes())
        });
        if let Err(e) = remembered {
            tracing::error!(error = %e, generation, "the change is made, but not fully recorded");
        }
    }

    /// Removes the blobs, trees, stamps and sidecars that only replaced or removed entries held. Open descriptors stay
    /// readable. What cannot be removed now is garbage, not a failure.
    fn drop_unheld(&self, old: &Catalog, new: &Catalog, edits: &[Edit]) {
        let gone: Vec<&Arc<Artifact>> = edits.iter().filter_map(|edit| old.artifact(edit.replaces()?)).collect();
        let pinned: HashSet<_> = if gone.iter().any(|a| a.sidecars().next().is_some()) {
            new.artifacts().flat_map(|a| a.sidecars()).collect()
        } else {
            HashSet::new()
        };
        let files = gone.iter().flat_map(|a| &a.files).map(|file| file.sha256);
        self.drop_blobs(&files.filter(|sha256| new.holders(sha256).next().is_none()).collect::<Vec<_>>());
        for artifact in gone {
            for sidecar in artifact.sidecars().filter(|digest| !pinned.contains(digest)) {
                self.remove(Folder::Sidecars, &sidecar.to_hex());
            }
        }
    }

    /// Removes, with their trees and stamps, those of these blobs that no repository holds. For whoever holds the commit lock
    /// and has seen that no model does. While it cannot be told who holds them, they stay.
    pub(crate) fn drop_blobs(&self, blobs: &[Sha256Digest]) {
        if blobs.is_empty() {
            return;
        }
        let dropped = holds::alone(&self.layout).and_then(|_alone| {
            let held = holds::held(&self.layout, blobs)?;
            for name in blobs.iter().filter(|sha256| !held.contains(sha256)).map(blob_name) {
                [Folder::Stamps, Folder::Blobs, Folder::Trees]
                    .into_iter()
                    .for_each(|folder| self.remove(folder, &name));
            }
            Ok(())
        });
        if let Err(e) = dropped {
            tracing::warn!(error = %e, "blobs are left behind: it cannot be told whether a repository holds them");
        }
    }

    fn remove(&self, folder: Folder, name: &str) {
        if let Err(e) = self.layout.remove(folder, name) {
            tracing::warn!(error = %e, name, "left behind; gc will take it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_manifest_is_judged_once_and_a_lack_of_memory_is_not_held_against_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let stamp = Stamp::of(&std::fs::File::open(dir.path()).expect("opens")).expect("a stamp");
        for (kind, seen) in [(ErrorKind::Manifest, Some(stamp)), (ErrorKind::NoMemory, None)] {
            let mut state = State::default();
            state.take(Err(Error::new(kind, "why")), Some(stamp));
            assert_eq!((state.seen, state.answer().expect_err("not served").kind()), (seen, kind));
            state.take(Ok(Catalog::default()), Some(stamp));
            assert_eq!((state.seen, state.answer().is_ok()), (Some(stamp), true));
        }
    }

    #[test]
    fn a_memory_is_read_back_and_nothing_else_is() {
        let log = Some(Anchor { seq: 7, hash: "ab".into() });
        for memory in [Memory::default(), Memory { generation: 3, log: None }, Memory { generation: 3, log }] {
            assert_eq!(Memory::parse(&memory.render()), Some(memory));
        }
        for bad in ["", "x", "1 2", "1 2 ab cd", "1 x ab", "-1"] {
            assert_eq!(Memory::parse(bad), None, "{bad:?}");
        }
    }
}
