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

use super::memory::{GENERATION, Memory};
use super::{Catalog, Edit, history, seal, text};
use crate::artifact::Artifact;
use crate::audit::{self, Event};
use crate::content::holds;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{self, Keys, PublicKey};
use crate::layout::{Access, Folder, Layout, LockFile, blob_name, read_bounded};
use crate::stamp::Stamp;
use crate::task::Actor;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, OFlags};
use std::collections::HashSet;
use std::sync::Arc;

/// The manifest's name in the root.
pub(crate) const MANIFEST: &str = "manifest.yaml";
/// The event of a recovery in the log.
const RECOVER: &str = "recover";
pub(crate) const COMMIT_LOCK: &str = "commit.lock";

/// Whether a file of the root is the manifest, or what is remembered of it.
pub(crate) fn is_record(name: &str) -> bool {
    name.starts_with(MANIFEST) || name.starts_with(GENERATION)
}

/// The catalog and its life on disk.
#[derive(Debug)]
pub(crate) struct Store {
    layout: Arc<Layout>,
    writer: Mutex<()>,
    loading: Mutex<()>,
    state: RwLock<State>,
    /// What everything must be signed by, once this process has seen a key: another one that is put there later is refused.
    pinned: Mutex<Option<PublicKey>>,
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

impl Store {
    /// Loads the manifest of an existing root; with [`Access::Create`], begins one in a root that has never been used.
    pub(crate) fn open(layout: Arc<Layout>, access: Access) -> Result<Store> {
        let store = Store::unopened(layout);
        if access == Access::Create {
            store.begin()?;
        }
        store.catalog()?;
        if access != Access::Read {
            store.settle()?;
        }
        Ok(store)
    }

    /// The root's manifest as it is, whatever is wrong with it: for a recovery.
    pub(crate) fn unopened(layout: Arc<Layout>) -> Store {
        let (writer, loading, state, pinned) =
            (Mutex::default(), Mutex::default(), RwLock::default(), Mutex::default());
        Store { layout, writer, loading, state, pinned }
    }

    /// Keeps every other writer out, and shows what is there: the manifest's bytes, if any, and the keys.
    pub(crate) fn to_recover(&self) -> Result<(LockFile, Option<Vec<u8>>, Keys)> {
        let lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        let bytes = match self.layout.read(Folder::Root, MANIFEST, OFlags::empty()) {
            Ok(file) => read_bounded(&file, MANIFEST, text::MAX_BYTES).ok(),
            Err(_) => None,
        };
        Ok((lock, bytes, self.keys()?))
    }

    /// A manifest's text as a catalog, if it is whole and signed as it must be.
    pub(crate) fn read_text(bytes: Vec<u8>, keys: &Keys) -> Result<Catalog> {
        text::parse(&seal::open(bytes, keys)?, None)
    }

    /// Puts a catalog in the place of a manifest that cannot be served, and remembers it and the log anew. For who has the lock
    /// of [`Store::to_recover`].
    pub(crate) fn replace(&self, new: Catalog, actor: &Actor, why: &str) -> Result<()> {
        let (names, generation) = ([String::new()], new.generation());
        let text = self.prepare(&new, actor, RECOVER, &names, why)?;
        self.layout.sync(Folder::Root)?;
        let keys = self.keys()?;
        let event = Event { event: RECOVER, phase: audit::APPLIED, name: "", why, generation };
        let mut remembered = Ok(());
        audit::append(&self.layout, actor, &[event], |last| {
            // What was remembered before is not asked: it may be what was wrong.
            remembered = Memory { generation, log: Some(last.clone()) }.write(&self.layout, &keys);
        })?;
        history::keep(&self.layout, generation, &text);
        remembered
    }

    /// Writes generation 0 into a root that has never been used.
    fn begin(&self) -> Result<()> {
        let _lock = self.layout.lock(COMMIT_LOCK, FlockOperation::LockExclusive)?;
        if self.layout.read(Folder::Root, MANIFEST, OFlags::empty()).is_ok() || self.was_used()? {
            return Ok(());
        }
        self.layout.write_durably(Folder::Root, MANIFEST, text::render(&Catalog::default())?.as_bytes())?;
        Memory::default().write(&self.layout, &Keys::default())?;
        self.layout.sync(Folder::Root)
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
        let keys = self.keys()?;
        // Before the manifest: a writer remembers after it renames.
        let remembered = self.remembered(&keys)?.max(previous.generation());
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
        let bytes = seal::open(bytes, &keys)?;
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

    /// The keys as they are in the root now. One that this process has seen stays.
    fn keys(&self) -> Result<Keys> {
        let keys = Keys::load(&self.layout)?;
        let mut pinned = self.pinned.lock();
        if pinned.is_some() && *pinned != keys.public {
            let why = "signing.pub in the root was removed or replaced: put it back, or start again if that was meant";
            return Err(Error::new(ErrorKind::Manifest, why));
        }
        *pinned = keys.public;
        Ok(keys)
    }

    /// What everything here must be signed by; none where nothing must.
    pub(crate) fn public_key(&self) -> Result<Option<PublicKey>> {
        Ok(self.keys()?.public)
    }

    /// Makes a key and signs by it, from this call on.
    pub(crate) fn begin_signing(&self, actor: &Actor) -> Result<PublicKey> {
        let public = key::make(&self.layout)?;
        let why = format!("from here on this root signs by {}", public.to_hex());
        // The manifest is signed before it must be: a crash between the two leaves a root that does not sign yet.
        let change = |_: &Catalog| {
            let (names, edits) = (vec![String::new()], Vec::new());
            Ok(Decision::Change { event: "key", names, why, edits, value: () })
        };
        self.commit(actor, change, |_| {})?;
        // So is what is remembered, and its name is on the disk before the key's: else a root could be left that no start takes.
        let mut keys = self.keys()?;
        keys.public = Some(public);
        Memory::read(&self.layout, &keys).map_err(|e| {
            Error::new(e.kind(), "what this root remembers could not be signed: it does not sign yet, try again")
                .because(e)
        })?;
        self.layout.sync(Folder::Root)?;
        key::publish(&self.layout, &public)?;
        Ok(public)
    }

    /// The highest generation known to have been written, from two places: that file, and the audit log.
    fn remembered(&self, keys: &Keys) -> Result<u64> {
        let from_log = audit::last_change(&self.layout)?.map_or(0, |line| match line.phase.as_str() {
            audit::INTENT => line.generation.saturating_sub(1),
            _ => line.generation,
        });
        Ok(from_log.max(Memory::read(&self.layout, keys)?.generation))
    }

    /// Checks the audit log, and that it holds the line this root remembers.
    pub(crate) fn verify_log(&self) -> Result<audit::AuditSummary> {
        let keys = self.keys()?;
        let memory = Memory::read(&self.layout, &keys)?;
        let summary = audit::verify(&self.layout, memory.log.as_ref())?;
        Ok(audit::AuditSummary { signed_by: keys.public.map(|key| key.to_hex()), ..summary })
    }

    /// Appends to the log and remembers its last line. An intent is not remembered: its outcome will be.
    pub(crate) fn log(&self, actor: &Actor, events: &[Event<'_>]) -> Result<()> {
        let is_intent = |event: &&Event<'_>| event.phase == audit::INTENT;
        let applied = events.iter().filter(|e| e.phase == audit::APPLIED).map(|e| e.generation).max().unwrap_or(0);
        audit::append(&self.layout, actor, events, |last| {
            if events.last().filter(is_intent).is_some() {
                return;
            }
            let keys = self.keys();
            let remembered = keys
                .and_then(|keys| Memory::read(&self.layout, &keys)?.advanced(applied, last).write(&self.layout, &keys));
            if let Err(e) = remembered {
                tracing::error!(error = %e, line = last.seq, "it is in the audit log, but not remembered apart from it");
            }
        })
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
        self.log(&Actor::this_process("library"), &[event])
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
                let text = self.prepare(&new, actor, event, &names, &why)?;
                Ok((Some((event, names, why, edits, new, text)), value))
            }
        });
        let (change, value) = prepared.inspect_err(|_| undo(&old))?;
        let Some((event, names, why, edits, new, text)) = change else { return Ok((old, value)) };
        // From here on the change has happened.
        let synced = self.layout.sync(Folder::Root);
        let new = self.install(new);
        if let Err(e) = self.say(actor, event, audit::APPLIED, &names, &why, new.generation()) {
            tracing::error!(error = %e, generation = new.generation(), "the change is made, but not fully recorded");
        }
        history::keep(&self.layout, new.generation(), &text);
        self.drop_unheld(&old, &new, &edits);
        // Not undone, not retried: it is in the manifest, and may not survive a power cut.
        synced?;
        Ok((new, value))
    }

    /// Announces the change and renames the manifest into place, whose text it gives. An error means that nothing was renamed.
    fn prepare(
        &self,
        new: &Catalog,
        actor: &Actor,
        event: &'static str,
        names: &[String],
        why: &str,
    ) -> Result<String> {
        let rendered = seal::seal(text::render(new)?, &self.keys()?)?;
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
        })?;
        Ok(rendered)
    }

    fn say(
        &self,
        actor: &Actor,
        event: &'static str,
        phase: &'static str,
        names: &[String],
        why: &str,
        generation: u64,
    ) -> Result<()> {
        let events: Vec<Event<'_>> = names.iter().map(|name| Event { event, phase, name, why, generation }).collect();
        self.log(actor, &events)
    }

    /// Makes the catalog just written the current one, from memory: reading it back could fail, and it has happened.
    fn install(&self, new: Catalog) -> Arc<Catalog> {
        let new = Arc::new(new);
        let _turn = self.loading.lock();
        let seen = Stamp::at(self.layout.folder(Folder::Root), MANIFEST).ok();
        *self.state.write() = State { catalog: Arc::clone(&new), seen, broken: None };
        new
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
}
