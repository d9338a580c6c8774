//! A promoted file whole in sealed memory.
//!
//! Owns: [`Sealed`], a memfd that holds one file, verified, which nobody can change any more. Promises: the seals are set
//! before the bytes are hashed, so what was found good is what stays; one memfd a content in one process, however many ask
//! and however many registries hold it; it is refused when it would not fit into memory, before any is taken. Leaves out:
//! loading models from it.
//!
//! ```text
//! open the stored file (status, stamp) -> room? -> memfd_create -> fill on all cores (O_DIRECT, pwrite: no mapping exists)
//!   -> F_SEAL_WRITE|SHRINK|GROW|SEAL -> hash the sealed bytes on all cores against the promoted root -> reopen read-only
//! ```
//! Sealed bytes outlive a quarantine: whoever holds the descriptor or a mapping keeps bytes that were good when they were
//! sealed. [`Events`](crate::Events) tell of the quarantine, and whether this process holds such bytes.

use crate::artifact::Artifact;
use crate::blobs::Check;
use crate::buffer::{ALIGN, ReadBuf};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::lent::Lent;
use crate::memory;
use crate::name::{ModelName, RelPath};
use crate::registry::Registry;
use crate::scan::{self, Job, Meter, Scanned, Stored};
use crate::sys::{NoFileSizeSignal, SealedMap, spawn_scoped_quietly};
use crate::task::{Phase, Progress, Task};
use crate::verified::{ReadMode, VerifiedFile};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

/// One piece of the copy.
const PIECE: u64 = 4 << 20;
/// More threads than this only wait for memory.
const MAX_THREADS: usize = 8;
/// What filling takes beside the file: the kernel's own accounts of the pages, and whatever else the program does meanwhile.
const MARGIN: u64 = 8 << 20;
/// How often somebody who waits for another filler looks whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// A promoted file in sealed memory. Further opens share the memory, each with a descriptor of its own; it is given back when
/// the last of them, and the last mapping anyone made of it, is gone.
#[derive(Debug)]
pub struct Sealed {
    memory: Arc<Memory>,
    fd: Lent,
    sha256: Sha256Digest,
}

/// The memory itself, behind a descriptor that never leaves this module.
#[derive(Debug)]
struct Memory {
    fd: OwnedFd,
    len: u64,
    /// Which memory was hashed: descriptors can be closed, and their numbers used again, by anybody in this process.
    id: (u64, u64),
    /// The models it was opened as: root and name.
    names: Mutex<HashSet<(PathBuf, String)>>,
    map: OnceLock<SealedMap>,
}

impl Sealed {
    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.memory.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The SHA-256 of the promoted file.
    pub fn sha256(&self) -> &Sha256Digest {
        &self.sha256
    }

    /// The bytes, mapped once and kept mapped as long as anything of this memory is open.
    pub fn bytes(&self) -> Result<&[u8]> {
        if let Some(map) = self.memory.map.get() {
            return Ok(map.bytes());
        }
        let map = SealedMap::new(&self.memory.fd, self.memory.len)
            .map_err(|e| Error::io(format_args!("mapping {} bytes of sealed memory", self.memory.len), e))?;
        self.memory.check(&self.memory.fd)?;
        Ok(self.memory.map.get_or_init(|| map).bytes())
    }

    /// Its descriptor, after a look at whether it is still the one that was opened: a descriptor that somebody else in this
    /// process closed by mistake may be anything by now.
    pub fn checked_fd(&self) -> Result<BorrowedFd<'_>> {
        self.memory.check(&self.fd)?;
        Ok(self.fd.as_fd())
    }

    /// A path that opens the memory in this process, after a look at where it leads: a thread may have descriptors of its
    /// own, and /proc may be missing.
    pub fn checked_path(&self) -> Result<String> {
        let path = format!("/proc/self/fd/{}", self.checked_fd()?.as_raw_fd());
        let there = rustix::fs::stat(&*path)
            .map_err(|e| Error::io(format_args!("looking at {path} (is /proc mounted?)"), e))?;
        if (there.st_dev, there.st_ino) != self.memory.id {
            let why =
                format!("{path} does not lead to the sealed memory: this thread has a descriptor table of its own");
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        Ok(path)
    }
}

impl Memory {
    /// Whether `fd` is this memory, and sealed.
    fn check(&self, fd: impl AsFd) -> Result<()> {
        let fd = fd.as_fd();
        let same = rustix::fs::fstat(fd)
            .is_ok_and(|s| (s.st_dev, s.st_ino) == self.id && u64::try_from(s.st_size) == Ok(self.len));
        if same && rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SEALS)) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            "the descriptor of sealed memory was closed, or replaced, by another part of this program",
        ))
    }

    /// A descriptor of its own on the same memory, which may not even ask to write. Without /proc, or where it shows the
    /// descriptors of another thread, a duplicate of the sealed one serves as well.
    fn reopen(&self) -> Result<OwnedFd> {
        let path = format!("/proc/thread-self/fd/{}", self.fd.as_raw_fd());
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        if let Some(fd) = opened.ok().filter(|fd| self.check(fd).is_ok()) {
            return Ok(fd);
        }
        let fd = self.fd.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))?;
        self.check(&fd).map(|()| fd)
    }
}

/// One content of this process. `filling` is held while it is filled, so that a second opener of the same bytes waits for
/// the first and shares its memory; `memory` never for long.
#[derive(Debug, Default)]
struct Slot {
    filling: Mutex<()>,
    memory: Mutex<Weak<Memory>>,
}

impl Slot {
    fn alive(&self) -> Option<Arc<Memory>> {
        self.memory.lock().upgrade().filter(|memory| memory.check(&memory.fd).is_ok())
    }
}

/// All sealed memory of this process, by content.
static HELD: LazyLock<Mutex<HashMap<Blake3Digest, Arc<Slot>>>> = LazyLock::new(Mutex::default);

/// Memory that fillers were told they may take and have not taken yet.
static PROMISED: Mutex<u64> = Mutex::new(0);

fn slot(blake3: &Blake3Digest) -> Arc<Slot> {
    let mut held = HELD.lock();
    // One that somebody waits for, or fills, has a second owner.
    held.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.memory.lock().strong_count() > 0);
    Arc::clone(held.entry(*blake3).or_default())
}

/// How many files this process holds in sealed memory that were opened as this model, or are files of `artifact`.
pub(crate) fn held(root: &Path, name: &str, artifact: Option<&Artifact>) -> usize {
    let slots: Vec<(Blake3Digest, Arc<Slot>)> =
        HELD.lock().iter().map(|(blake3, slot)| (*blake3, Arc::clone(slot))).collect();
    let counts = |blake3: &Blake3Digest, slot: &Slot| {
        let memory = slot.memory.lock().upgrade();
        memory.is_some_and(|memory| {
            artifact.is_some_and(|a| a.files.iter().any(|f| f.blake3 == *blake3))
                || memory.names.lock().iter().any(|(at, known)| at == root && known == name)
        })
    };
    slots.iter().filter(|(blake3, slot)| counts(blake3, slot)).count()
}

/// Opens a promoted file in sealed memory.
pub(crate) fn open(registry: &Registry, name: &ModelName, path: &RelPath, task: &Task<'_>) -> Result<Sealed> {
    let file = registry.open_file(name, path, ReadMode::Direct)?;
    let slot = slot(file.blake3());
    // Whoever fills it may take minutes.
    let _turn = loop {
        match slot.filling.try_lock_for(PATIENCE) {
            Some(turn) => break turn,
            None => task.step(Progress { phase: Phase::Copy, done: 0, total: file.len() })?,
        }
    };
    let memory = match slot.alive() {
        Some(memory) => memory,
        None => {
            let memory = Arc::new(seal(registry, &file, task).map_err(|e| e.on(name))?);
            *slot.memory.lock() = Arc::downgrade(&memory);
            memory
        }
    };
    memory.names.lock().insert((registry.root().to_owned(), name.to_string()));
    // Asked last: a quarantine that came meanwhile is refused here, and one that comes later is told by an event.
    let catalog = registry.catalog()?;
    let artifact = catalog.require(name)?;
    registry.inner.require_promoted(artifact)?;
    if !artifact.files.iter().any(|f| f.blake3 == *file.blake3()) {
        return Err(
            Error::new(ErrorKind::Conflict, format!("{name} was replaced while it was opened: open it again")).on(name)
        );
    }
    let fd = memory.reopen()?;
    let fd = Lent::new(fd).map_err(|e| Error::io("looking at sealed memory", e))?;
    Ok(Sealed { memory, fd, sha256: *file.sha256() })
}

fn seal(registry: &Registry, file: &VerifiedFile, task: &Task<'_>) -> Result<Memory> {
    let len = file.len();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let threads = threads.min(len.div_ceil(PIECE).max(1) as usize);
    let promise = promise(file, threads)?;
    let fd = create(file)?;
    // The limit on file sizes may have been lowered since it was asked.
    let sized = {
        let _quiet = NoFileSizeSignal::new();
        rustix::fs::ftruncate(&fd, len)
    };
    sized.map_err(|e| Error::io(format_args!("sizing sealed memory to {len} bytes"), e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("looking at sealed memory", e))?;
    fill(file, &fd, threads, &promise, task)?;
    add_seals(&fd)?;
    let memory = Memory { fd, len, id: (stat.st_dev, stat.st_ino), names: Mutex::default(), map: OnceLock::new() };
    memory.check(&memory.fd)?;
    let copy = memory.fd.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))?;
    let job = Job { stored: Stored { file: File::from(copy), direct: false }, len };
    let meter = Meter { task, done: AtomicU64::new(0), total: len };
    match scan::roots(&[job], &meter).pop() {
        Some(Ok(Scanned::Root(root))) if root == *file.blake3() => Ok(memory),
        Some(Err(e)) => Err(e),
        _ => Err(blame(registry, file, task)),
    }
}

/// Why what was sealed is not what was promoted: the stored file, or the memory on the way. The disk is asked again, and
/// quarantined if it is to blame.
fn blame(registry: &Registry, file: &VerifiedFile, task: &Task<'_>) -> Error {
    let entry = file.entry();
    match registry.inner.blobs().check(&[entry], task).map(|mut checks| checks.pop()) {
        Ok(Some(Check::Bad { why, .. })) => {
            registry.inner.report_corruption(&entry.sha256, &why);
            Error::new(ErrorKind::Corrupt, why)
        }
        Ok(Some(Check::Good)) => {
            let why = format!("the copy of {} in memory was changed before it was sealed: open it again", entry.path);
            Error::new(ErrorKind::Unreadable, why)
        }
        Ok(Some(Check::Unreadable(why))) => Error::new(ErrorKind::Unreadable, why),
        Ok(None) => Error::new(ErrorKind::Unreadable, "nothing was read"),
        Err(e) => e,
    }
}

/// A pinned page (somebody reads the memory by O_DIRECT through /proc) makes this fail for a moment.
fn add_seals(fd: &OwnedFd) -> Result<()> {
    for _ in 0..50 {
        match rustix::fs::fcntl_add_seals(fd, SEALS) {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(Duration::from_millis(2)),
            other => return other.map_err(|e| Error::io("sealing memory", e)),
        }
    }
    Err(Error::new(ErrorKind::Io, "sealing memory: another process keeps it busy"))
}

/// Memory that this filler was told it may take: what it has not taken yet is counted, so that two fillers are not told the
/// same room is theirs.
#[derive(Debug)]
struct Promise(AtomicU64);

impl Promise {
    /// `bytes` of it were taken: the kernel's accounts show them now.
    fn taken(&self, bytes: u64) {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
        let counted = left.unwrap_or(0).min(bytes);
        let mut promised = PROMISED.lock();
        *promised = promised.saturating_sub(counted);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.taken(self.0.load(Ordering::Relaxed));
    }
}

/// Refuses what would not fit, before any memory is taken: the kernel's way of refusing is to kill.
fn promise(file: &VerifiedFile, threads: usize) -> Result<Promise> {
    let len = file.len();
    // A 4 KiB page is accounted for in 32 bytes or less; each thread reads into a buffer.
    let need = len.saturating_add(len / 128).saturating_add(threads as u64 * PIECE).saturating_add(MARGIN);
    let refuse = |need: u64, room: u64, by: &str| {
        let what = format!(
            "{} needs {need} bytes of memory to be sealed ({len} for the file), and {by} leaves {room}: free {} bytes, raise \
             the limit, or read it through a mount or read_at",
            file.path(),
            need - room
        );
        Err(Error::new(ErrorKind::NoMemory, what))
    };
    // A write beyond this limit would not fail but end the process by SIGXFSZ.
    let fsize = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX);
    if len > fsize {
        return refuse(len, fsize, "the limit on file sizes (ulimit -f)");
    }
    let mut promised = PROMISED.lock();
    if let Some(room) = memory::room() {
        let left = room.bytes.saturating_sub(*promised);
        if need > left {
            return refuse(need, left, &room.by);
        }
    }
    *promised = promised.saturating_add(need);
    Ok(Promise(AtomicU64::new(need)))
}

fn create(file: &VerifiedFile) -> Result<OwnedFd> {
    let name = format!("securereg:{}", &file.sha256().to_hex()[..16]);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(&*name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(&*name, flags),
        made => made,
    }
    .map_err(|e| Error::io("creating sealed memory (memfd_create)", e))
}

/// Copies the stored file into memory, on all cores. Nothing is checked here: what comes out is hashed when it is sealed.
/// Written by pwrite and not through a mapping, so that a lack of memory is an error and not a signal.
fn fill(file: &VerifiedFile, memory: &OwnedFd, threads: usize, promise: &Promise, task: &Task<'_>) -> Result<()> {
    let (len, next, done) = (file.len(), AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let mut buf = ReadBuf::new();
        loop {
            let at = next.fetch_add(PIECE, Ordering::Relaxed);
            if at >= len || failed.lock().is_some() {
                return;
            }
            let wanted = (len - at).min(PIECE) as usize;
            let copied = copy(file.stored(), memory, at, wanted, &mut buf).and_then(|()| {
                promise.taken(wanted as u64);
                let done = done.fetch_add(wanted as u64, Ordering::Relaxed) + wanted as u64;
                task.step(Progress { phase: Phase::Copy, done, total: len })
            });
            if let Err(e) = copied {
                failed.lock().get_or_insert(e);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // One that cannot be started is done without: this thread does what is left.
            if spawn_scoped_quietly(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    failed.into_inner().map_or(Ok(()), Err)
}

fn copy(stored: &Stored, memory: &OwnedFd, at: u64, wanted: usize, buf: &mut ReadBuf) -> Result<()> {
    let piece = buf.take(wanted.next_multiple_of(ALIGN))?;
    // A file cut short leaves zeros, which are not what was promoted.
    let got = stored.read(piece, at)?.min(wanted);
    let mut done = 0;
    let _quiet = NoFileSizeSignal::new();
    while done < got {
        match rustix::io::pwrite(memory, &piece[done..got], at + done as u64) {
            Ok(0) => return Err(Error::new(ErrorKind::NoMemory, "sealed memory could not be filled")),
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::new(ErrorKind::NoMemory, format!("sealed memory could not be filled: {e}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::PromoteRequest;
    use crate::source::Source;
    use crate::task::Actor;

    fn promoted(bytes: &[u8]) -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let source = dir.path().join("m.gguf");
        std::fs::write(&source, bytes).expect("written");
        let request = PromoteRequest::new("m".parse().expect("a name"));
        let source = Source::open(&source).expect("opens");
        registry.promote(request, source, &Actor::new("test", "x"), &Task::unattended()).expect("promoted");
        (dir, registry)
    }

    fn model(seed: u64) -> Vec<u8> {
        crate::models::gguf(5024, seed)
    }

    fn open_m(registry: &Registry) -> Result<Sealed> {
        open(registry, &"m".parse()?, &"m.gguf".parse()?, &Task::unattended())
    }

    /// What was promised is one account of the whole process.
    static ALONE: Mutex<()> = Mutex::new(());

    /// What a program does by mistake: it closes a descriptor that is not its own, and opens another file, which gets the
    /// number. Another sealed memory of the same length is the closest that can stand there.
    #[test]
    fn a_descriptor_that_is_another_file_by_now_is_never_given_out() {
        let _alone = ALONE.lock();
        let bytes = model(1);
        let (dir, registry) = promoted(&bytes);
        let other = || {
            let fd = rustix::fs::memfd_create("evil", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
            rustix::io::pwrite(&fd, &model(66), 0).expect("written");
            rustix::fs::fcntl_add_seals(&fd, SEALS).expect("sealed");
            fd
        };
        let plain = || OwnedFd::from(File::open(dir.path().join("m.gguf")).expect("opens"));
        let lent = |fd| Lent::new(fd).expect("open");
        for evil in [&other as &dyn Fn() -> OwnedFd, &plain] {
            let mut sealed = open_m(&registry).expect("sealed");
            // What was opened is forgotten, as a descriptor closed by somebody else is.
            sealed.fd = lent(evil());
            for e in [sealed.checked_fd().map(drop), sealed.checked_path().map(drop)] {
                let e = e.expect_err("it is not what was hashed");
                assert!(e.to_string().contains("closed, or replaced"), "{e}");
            }
            assert_eq!(sealed.bytes().expect("the memory is behind another descriptor"), bytes);
            drop(sealed);

            let first = open_m(&registry).expect("sealed");
            let (len, id) = (first.len(), first.memory.id);
            let fake = Memory { fd: evil(), len, id, names: Mutex::default(), map: OnceLock::new() };
            let fake = Arc::new(fake);
            let slot = slot(&Blake3Digest::from_bytes(*blake3::hash(&bytes).as_bytes()));
            *slot.memory.lock() = Arc::downgrade(&fake);
            assert!(fake.reopen().is_err());
            let sealed = Sealed { memory: Arc::clone(&fake), fd: lent(evil()), sha256: *first.sha256() };
            assert!(sealed.bytes().is_err(), "not mapped yet, and never will be");
            let again = open_m(&registry).expect("filled anew");
            assert_eq!(again.bytes().expect("mapped"), bytes);
        }
    }

    #[test]
    fn what_one_filler_was_promised_is_not_promised_to_another() {
        let _alone = ALONE.lock();
        let (_dir, registry) = promoted(&model(2));
        let file =
            registry.open_file(&"m".parse().expect("a name"), &"m.gguf".parse().expect("a path"), ReadMode::Direct);
        let file = file.expect("opens");
        let before = *PROMISED.lock();
        let first = promise(&file, 1).expect("room");
        let need = *PROMISED.lock() - before;
        assert!(need > file.len() + MARGIN, "{need}");
        first.taken(1000);
        assert_eq!(*PROMISED.lock() - before, need - 1000);
        first.taken(u64::MAX);
        assert_eq!(*PROMISED.lock(), before, "never more than was promised");
        drop(first);
        drop(promise(&file, 1).expect("room"));
        assert_eq!(*PROMISED.lock(), before);
        // Nothing is left when another was promised all there is.
        *PROMISED.lock() += u64::MAX / 2;
        let refused = promise(&file, 1);
        *PROMISED.lock() -= u64::MAX / 2;
        assert_eq!(refused.expect_err("no room").kind(), ErrorKind::NoMemory);
    }
}
