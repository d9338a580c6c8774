//! Stored blobs: opened with their trees, re-checked when their stamps are stale.
//!
//! Owns: what this process knows to be good, and the single re-check of what it does not. Promises: an opened blob either
//! has the stamp taken after our own last change to it, or was hashed from end to end just now, once however many openers
//! wait; a tree whose stamp changed is checked whole, and never rebuilt. Leaves out: who may open what (`registry`).

use crate::artifact::FileEntry;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::immutable;
use crate::layout::{Folder, Layout, blob_name};
use crate::scan::{self, Job, Meter, Scanned, Stored};
use crate::stamp::{Stamp, Stamps};
use crate::task::Task;
use crate::tree::{Page, Tree};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

/// Pages kept: 8 KiB each, so 64 MiB, enough for 128 GiB of models in use.
const PAGES: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// Trees kept: 2 KiB for each GiB of model, and a descriptor.
const TREES: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// Blobs open at once during a check, two descriptors each: well below the 1,024 that a plain user may have.
const BATCH: usize = 64;

/// A blob may be touched (not changed) while it is re-checked; this often we look again.
const TRIES: usize = 4;

type Pages = LruCache<(Sha256Digest, u64), Arc<Page>, RandomState>;

/// The blobs of one registry, as this process knows them.
#[derive(Debug)]
pub(crate) struct Blobs {
    layout: Arc<Layout>,
    known: Mutex<HashMap<Sha256Digest, Stamps>>,
    /// Trees whose spans were checked, so that no open pays for it twice. With the inode each was read from: a tree that
    /// was replaced is read again.
    trees: Mutex<LruCache<Sha256Digest, (u64, Arc<Tree>), RandomState>>,
    pages: Mutex<Pages>,
    /// One lock for each blob that is being re-checked.
    checks: Mutex<HashMap<Sha256Digest, Weak<Mutex<()>>>>,
}

/// A blob and its tree, both found good.
#[derive(Debug)]
pub(crate) struct OpenBlob {
    pub(crate) stored: Stored,
    pub(crate) tree: Arc<Tree>,
    /// As they were then.
    stamps: Stamps,
}

/// What a full check of one blob found.
#[derive(Debug, Clone)]
pub(crate) enum Check {
    /// Every byte and the tree are what was promoted.
    Good,
    /// They are not; the SHA-256 of what is there, when it could be read.
    Bad { why: String, actual: Option<Sha256Digest> },
    /// The disk did not answer.
    Unreadable(String),
}

impl Blobs {
    pub(crate) fn new(layout: Arc<Layout>) -> Blobs {
        Blobs {
            layout,
            known: Mutex::default(),
            trees: Mutex::new(LruCache::with_hasher(TREES, RandomState::new())),
            pages: Mutex::new(LruCache::with_hasher(PAGES, RandomState::new())),
            checks: Mutex::default(),
        }
    }

    /// Opens a blob: at once when its stamp is the one recorded, else after a full re-check.
    pub(crate) fn open(&self, entry: &FileEntry, direct: bool) -> Result<OpenBlob> {
        for _ in 0..TRIES {
            let stored = Stored::open(&self.layout, &entry.sha256, direct)?;
            let tree = self.tree_file(&entry.sha256)?;
            let stamps = stamps_of(&stored.file, &tree)?;
            if self.knows(&entry.sha256, &stamps) {
                return Ok(OpenBlob { stored, tree: self.tree(entry, tree)?, stamps });
            }
            let turn = self.turn(&entry.sha256);
            let _turn = turn.lock();
            // Whoever had the turn before may have answered the question.
            if self.knows(&entry.sha256, &stamps_of(&stored.file, &tree)?) || self.recheck(entry, &stored, &tree)? {
                let stamps = stamps_of(&stored.file, &tree)?;
                return Ok(OpenBlob { stored, tree: self.tree(entry, tree)?, stamps });
            }
            // Another process has published the same bytes meanwhile: its file is looked at.
        }
        let why = format!("the stored file of {} keeps being replaced: open it again", entry.path);
        Err(Error::new(ErrorKind::Unreadable, why))
    }

    /// Whether [`Blobs::open`] would answer without a re-check.
    pub(crate) fn opens_at_once(&self, sha256: &Sha256Digest) -> bool {
        let opened = Stored::open(&self.layout, sha256, false).and_then(|s| Ok((s, self.tree_file(sha256)?)));
        match opened.and_then(|(stored, tree)| stamps_of(&stored.file, &tree)) {
            Ok(stamps) => self.knows(sha256, &stamps),
            // The open will fail, at once.
            Err(_) => true,
        }
    }

    /// Whether a blob is there and known to be good: not merely quick to open.
    pub(crate) fn is_known_good(&self, sha256: &Sha256Digest) -> bool {
        let opened = Stored::open(&self.layout, sha256, false).and_then(|s| Ok((s, self.tree_file(sha256)?)));
        opened.and_then(|(s, tree)| stamps_of(&s.file, &tree)).is_ok_and(|stamps| self.knows(sha256, &stamps))
    }

    /// Whether an open blob is still the one that is stored.
    pub(crate) fn is_current(&self, sha256: &Sha256Digest, open: &OpenBlob) -> bool {
        let of = |file: &File| Stamp::of(file).map(|s| s.ino()).ok();
        let at = |folder| Stamp::at(self.layout.folder(folder), &blob_name(sha256)).map(|s| s.ino()).ok();
        at(Folder::Blobs).is_none_or(|ino| Some(ino) == of(&open.stored.file))
            && at(Folder::Trees).is_none_or(|ino| Some(ino) == of(open.tree.file()))
    }

    /// Whether an open blob was written since it was opened, and is known to be good as it is now: a repair writes in place.
    pub(crate) fn is_mended(&self, sha256: &Sha256Digest, open: &OpenBlob) -> bool {
        stamps_of(&open.stored.file, open.tree.file()).is_ok_and(|now| now != open.stamps && self.knows(sha256, &now))
    }

    /// Whether an open blob is what an open would give now, at once: the stored file, with the stamps last found good.
    pub(crate) fn is_fresh(&self, sha256: &Sha256Digest, open: &OpenBlob) -> bool {
        self.is_current(sha256, open)
            && stamps_of(&open.stored.file, open.tree.file())
                .is_ok_and(|now| self.known.lock().get(sha256) == Some(&now))
    }

    /// Takes back what is known of a blob: it was found damaged, whatever its stamp says.
    pub(crate) fn forget(&self, sha256: &Sha256Digest) {
        // Held meanwhile: who finds the stamp on the disk before it is gone must not put it back.
        let mut known = self.known.lock();
        known.remove(sha256);
        if !self.layout.is_writable() {
            return;
        }
        if let Err(e) = self.layout.remove(Folder::Stamps, &blob_name(sha256)) {
            tracing::warn!(%sha256, error = %e, "the stamp of a damaged file could not be removed");
        }
    }

    /// The page of a tree, checked, from memory or from the disk.
    pub(crate) fn page(&self, sha256: &Sha256Digest, tree: &Tree, index: u64) -> Result<Arc<Page>> {
        if let Some(page) = self.pages.lock().get(&(*sha256, index)) {
            return Ok(Arc::clone(page));
        }
        let page = Arc::new(tree.page(index)?);
        self.pages.lock().put((*sha256, index), Arc::clone(&page));
        Ok(page)
    }

    /// Reads blobs from the disk to their end, and their trees, on all cores.
    pub(crate) fn check(&self, entries: &[&FileEntry], task: &Task<'_>) -> Result<Vec<Check>> {
        let meter = Meter { task, done: AtomicU64::new(0), total: entries.iter().map(|e| e.size_bytes).sum() };
        let mut verdicts = Vec::with_capacity(entries.len());
        for batch in entries.chunks(BATCH) {
            verdicts.extend(self.check_batch(batch, &meter)?);
        }
        Ok(verdicts)
    }

    fn check_batch(&self, entries: &[&FileEntry], meter: &Meter<'_, '_>) -> Result<Vec<Check>> {
        let opened: Vec<Result<(Job, File, Stamps)>> = entries.iter().map(|entry| self.open_to_check(entry)).collect();
        let mut verdicts: Vec<Option<Check>> = Vec::with_capacity(entries.len());
        for outcome in &opened {
            verdicts.push(outcome.as_ref().err().map(verdict_of).transpose()?);
        }
        let (places, parts): (Vec<usize>, Vec<(Job, File, Stamps)>) =
            opened.into_iter().enumerate().filter_map(|(i, o)| Some((i, o.ok()?))).unzip();
        let (jobs, rest): (Vec<Job>, Vec<(File, Stamps)>) = parts.into_iter().map(|(j, t, s)| (j, (t, s))).unzip();
        for (((i, job), (tree, before)), found) in
            places.into_iter().zip(&jobs).zip(rest).zip(scan::roots(&jobs, meter))
        {
            let entry = entries[i];
            let verdict = match found {
                Err(e) => verdict_of(&e)?,
                Ok(Scanned::Root(root)) if root == entry.blake3 => Check::Good,
                Ok(found) => Check::Bad { why: mismatch(entry, &found), actual: scan::sha256(&job.stored).ok() },
            };
            if matches!(verdict, Check::Good) && stamps_of(&job.stored.file, &tree).is_ok_and(|now| now == before) {
                self.learn(&entry.sha256, before);
            }
            verdicts[i] = Some(verdict);
        }
        for (entry, verdict) in entries.iter().zip(&verdicts) {
            if matches!(verdict, Some(Check::Bad { .. })) {
                self.forget(&entry.sha256);
            }
        }
        Ok(verdicts.into_iter().map(|v| v.unwrap_or(Check::Unreadable("it was not checked".into()))).collect())
    }

    fn open_to_check(&self, entry: &FileEntry) -> Result<(Job, File, Stamps)> {
        let stored = Stored::open(&self.layout, &entry.sha256, true)?;
        let tree = self.tree_file(&entry.sha256)?;
        let stamps = stamps_of(&stored.file, &tree)?;
        Tree::open(duplicate(&tree)?, entry.size_bytes, entry.blake3)?.check_all()?;
        Ok((Job { stored, len: entry.size_bytes }, tree, stamps))
    }

    /// Records that a blob with these stamps is good.
    pub(crate) fn learn(&self, sha256: &Sha256Digest, stamps: Stamps) {
        if self.known.lock().insert(*sha256, stamps) != Some(stamps) {
            stamps.record(&self.layout, sha256);
        }
    }

    /// Takes the stamps of a blob that was just published and records them.
    pub(crate) fn learn_published(&self, sha256: &Sha256Digest) -> Result<()> {
        let stored = Stored::open(&self.layout, sha256, false)?;
        let tree = self.tree_file(sha256)?;
        self.learn(sha256, stamps_of(&stored.file, &tree)?);
        Ok(())
    }

    /// Sets the immutable flag on a blob that is known to be good, and takes the stamps it has then.
    pub(crate) fn make_immutable(&self, entry: &FileEntry) -> Result<()> {
        let open = self.open(entry, false)?;
        if immutable::protect(&self.layout, &entry.sha256)? {
            let tree = self.tree_file(&entry.sha256)?;
            let now = stamps_of(&open.stored.file, &tree)?;
            let before = self.known.lock().get(&entry.sha256).copied();
            // Only ctime may have moved; anything else is somebody's write, and the next open re-checks.
            if before.is_some_and(|before| before.same_but_ctime(&now)) {
                self.learn(&entry.sha256, now);
            }
        }
        Ok(())
    }

    /// The same for an adopted file whose other link has gone since it was published: only ctime may have moved.
    pub(crate) fn learn_adopted(&self, sha256: &Sha256Digest) -> Result<()> {
        let published = self.known.lock().get(sha256).copied();
        let stored = Stored::open(&self.layout, sha256, false)?;
        let now = stamps_of(&stored.file, &self.tree_file(sha256)?)?;
        if published.is_some_and(|published| published.same_but_ctime(&now)) {
            self.learn(sha256, now);
        }
        Ok(())
    }

    fn knows(&self, sha256: &Sha256Digest, now: &Stamps) -> bool {
        let mut known = self.known.lock();
        if known.get(sha256) == Some(now) {
            return true;
        }
        // Another process may have learned it.
        let recorded = Stamps::recorded(&self.layout, sha256).as_ref() == Some(now);
        if recorded {
            known.insert(*sha256, *now);
        }
        recorded
    }

    /// Hashes every byte. False when the file was replaced meanwhile, and says nothing of the one that is there now.
    fn recheck(&self, entry: &FileEntry, stored: &Stored, tree: &File) -> Result<bool> {
        tracing::info!(sha256 = %entry.sha256, "the stored file's stamp is not the one recorded: re-checking every byte");
        for _ in 0..TRIES {
            let before = stamps_of(&stored.file, tree)?;
            Tree::open(duplicate(tree)?, entry.size_bytes, entry.blake3)?.check_all()?;
            let fresh = Stored::open(&self.layout, &entry.sha256, true)?;
            if stamp_of(&fresh.file)?.ino() != stamp_of(&stored.file)?.ino() {
                return Ok(false);
            }
            let job = Job { stored: fresh, len: entry.size_bytes };
            let meter = Meter { task: &Task::unattended(), done: AtomicU64::new(0), total: entry.size_bytes };
            let found = scan::roots(&[job], &meter).pop();
            match found.unwrap_or_else(|| Err(Error::new(ErrorKind::Unreadable, "nothing was read")))? {
                Scanned::Root(root) if root == entry.blake3 => {}
                other => {
                    let e = Error::new(ErrorKind::Corrupt, mismatch(entry, &other));
                    // Only for the message: that it cannot be had must not hide the damage.
                    let actual = Stored::open(&self.layout, &entry.sha256, true).and_then(|now| scan::sha256(&now));
                    return Err(match actual {
                        Ok(actual) => e.with_digests(entry.sha256, actual),
                        Err(_) => e,
                    });
                }
            }
            if stamps_of(&stored.file, tree)? == before {
                self.learn(&entry.sha256, before);
                return Ok(true);
            }
        }
        Err(Error::new(
            ErrorKind::Unreadable,
            format!("the stored file of {} keeps changing while it is re-checked", entry.path),
        ))
    }

    fn turn(&self, sha256: &Sha256Digest) -> Arc<Mutex<()>> {
        let mut checks = self.checks.lock();
        checks.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = checks.get(sha256).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        checks.insert(*sha256, Arc::downgrade(&turn));
        turn
    }

    fn tree(&self, entry: &FileEntry, file: File) -> Result<Arc<Tree>> {
        let ino = stamp_of(&file)?.ino();
        if let Some((_, tree)) = self.trees.lock().get(&entry.sha256).filter(|(at, _)| *at == ino) {
            return Ok(Arc::clone(tree));
        }
        let tree = Arc::new(Tree::open(file, entry.size_bytes, entry.blake3)?);
        self.trees.lock().put(entry.sha256, (ino, Arc::clone(&tree)));
        Ok(tree)
    }

    fn tree_file(&self, sha256: &Sha256Digest) -> Result<File> {
        self.layout.read(Folder::Trees, &blob_name(sha256), OFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT => Error::new(ErrorKind::Corrupt, format!("the hash tree of {sha256} is missing")),
            rustix::io::Errno::LOOP => {
                Error::new(ErrorKind::Corrupt, format!("the hash tree of {sha256} was replaced by a link"))
            }
            e => scan::cannot_open(&format!("the hash tree of {sha256}"), e),
        })
    }
}

fn duplicate(file: &File) -> Result<File> {
    file.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))
}

fn stamp_of(file: &File) -> Result<Stamp> {
    Stamp::of(file).map_err(|e| Error::new(ErrorKind::Unreadable, format!("a stored file cannot be read: {e}")))
}

fn stamps_of(blob: &File, tree: &File) -> Result<Stamps> {
    Stamps::of(blob, tree).map_err(|e| Error::new(ErrorKind::Unreadable, format!("a stored file cannot be read: {e}")))
}

fn mismatch(entry: &FileEntry, found: &Scanned) -> String {
    match found {
        Scanned::Root(_) => format!("the stored bytes of {} are not what was promoted", entry.path),
        Scanned::OtherSize(_) => {
            format!("the stored file of {} does not have the {} bytes that were promoted", entry.path, entry.size_bytes)
        }
    }
}

/// What a failure says about a blob. A failure of our own (cancelled, out of descriptors) says nothing.
fn verdict_of(e: &Error) -> Result<Check> {
    match e.kind() {
        ErrorKind::Corrupt => Ok(Check::Bad { why: e.message().to_owned(), actual: None }),
        ErrorKind::Unreadable => Ok(Check::Unreadable(e.message().to_owned())),
        kind => Err(Error::new(kind, e.message().to_owned())),
    }
}
