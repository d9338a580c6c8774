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
use crate::buffer::{ALIGN, ReadBuf};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::name::{ModelName, RelPath};
use crate::registry::Registry;
use crate::scan::{self, Job, Meter, Scanned, Stored};
use crate::sys::SealedMap;
use crate::task::{Actor, Phase, Progress, Task};
use crate::verified::{ReadMode, VerifiedFile};
use crate::verify;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

/// One piece of the copy.
const PIECE: u64 = 4 << 20;

/// A promoted file in sealed memory. Clones and further opens share the memory; it is given back when the last of them, and
/// the last mapping anyone made of it, is gone.
#[derive(Debug, Clone)]
pub struct Sealed {
    memory: Arc<Memory>,
    sha256: Sha256Digest,
}

#[derive(Debug)]
struct Memory {
    fd: OwnedFd,
    len: u64,
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

    /// The bytes, mapped once and kept mapped as long as any clone of this lives.
    pub fn bytes(&self) -> Result<&[u8]> {
        if let Some(map) = self.memory.map.get() {
            return Ok(map.bytes());
        }
        let map = SealedMap::new(&self.memory.fd, self.memory.len)
            .map_err(|e| Error::io(format_args!("mapping {} bytes of sealed memory", self.memory.len), e))?;
        Ok(self.memory.map.get_or_init(|| map).bytes())
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.fd.as_fd()
    }
}

type Slot = Arc<Mutex<Weak<Memory>>>;

/// All sealed memory of this process, by content. Each slot's lock is held while it is filled, so that a second opener of
/// the same bytes waits for the first and shares its memory.
static HELD: LazyLock<Mutex<HashMap<Blake3Digest, Slot>>> = LazyLock::new(Mutex::default);

fn slot(blake3: &Blake3Digest) -> Slot {
    let mut held = HELD.lock();
    held.retain(|_, slot| {
        // One that somebody waits for, or fills, has a second owner.
        Arc::strong_count(slot) > 1 || slot.try_lock().is_some_and(|weak| weak.strong_count() > 0)
    });
    Arc::clone(held.entry(*blake3).or_default())
}

/// How many of a model's files this process holds in sealed memory.
pub(crate) fn held(artifact: &Artifact) -> usize {
    let slots = HELD.lock();
    let alive = |blake3| slots.get(blake3).and_then(|slot| slot.try_lock().map(|weak| weak.strong_count() > 0));
    artifact.files.iter().filter(|file| alive(&file.blake3) == Some(true)).count()
}

/// Opens a promoted file in sealed memory.
pub(crate) fn open(registry: &Registry, name: &ModelName, path: &RelPath, task: &Task<'_>) -> Result<Sealed> {
    let file = registry.open_file(name, path, ReadMode::Direct)?;
    let slot = slot(file.blake3());
    let mut weak = slot.lock();
    let memory = match weak.upgrade() {
        Some(memory) => memory,
        None => {
            let memory = Arc::new(seal(registry, &file, name, task).map_err(|e| e.on(name))?);
            *weak = Arc::downgrade(&memory);
            memory
        }
    };
    // Filling may have taken minutes, in which an incident may have come.
    file.check_status()?;
    Ok(Sealed { memory, sha256: *file.sha256() })
}

fn seal(registry: &Registry, file: &VerifiedFile, name: &ModelName, task: &Task<'_>) -> Result<Memory> {
    let len = file.len();
    check_room(file)?;
    let fd = create(file)?;
    rustix::fs::ftruncate(&fd, len).map_err(|e| Error::io(format_args!("sizing sealed memory to {len} bytes"), e))?;
    fill(file, &fd, task)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(|e| Error::io("sealing memory", e))?;
    let sealed = File::from(fd);
    let copy = sealed.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))?;
    let job = Job { stored: Stored { file: copy, direct: false }, len };
    let meter = Meter { task, done: AtomicU64::new(0), total: len };
    match scan::roots(&[job], &meter).pop() {
        Some(Ok(Scanned::Root(root))) if root == *file.blake3() => {}
        Some(Err(e)) => return Err(e),
        _ => {
            // The stored file, or the memory on the way: the disk is asked again, and quarantined if it is to blame.
            let blamed = verify::one(&registry.inner, name, &Actor::this_process("read"), &Task::unattended());
            let why = match blamed {
                Ok(report) => {
                    report.error.unwrap_or_else(|| "the copy in memory was changed before it was sealed".into())
                }
                Err(e) => e.to_string(),
            };
            return Err(Error::new(ErrorKind::Corrupt, format!("{} is not what was promoted: {why}", file.path())));
        }
    }
    Ok(Memory { fd: read_only(sealed), len, map: OnceLock::new() })
}

/// Refuses what would not fit, before any memory is taken: the kernel's way of refusing is to kill.
fn check_room(file: &VerifiedFile) -> Result<()> {
    let len = file.len();
    let refuse = |room: u64, by: &str| {
        let what = format!(
            "{} needs {len} bytes of memory to be sealed, and {by} leaves {room}: free {} bytes, raise the limit, or read it \
             through a mount or read_at",
            file.path(),
            len - room
        );
        Err(Error::new(ErrorKind::NoMemory, what))
    };
    // A write beyond this limit would not fail but end the process by SIGXFSZ.
    let fsize = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX);
    if len > fsize {
        return refuse(fsize, "the limit on file sizes (ulimit -f)");
    }
    match memory::room() {
        Some(room) if len > room.bytes => refuse(room.bytes, &room.by),
        _ => Ok(()),
    }
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
fn fill(file: &VerifiedFile, memory: &OwnedFd, task: &Task<'_>) -> Result<()> {
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
                let done = done.fetch_add(wanted as u64, Ordering::Relaxed) + wanted as u64;
                task.step(Progress { phase: Phase::Copy, done, total: len })
            });
            if let Err(e) = copied {
                failed.lock().get_or_insert(e);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(len.div_ceil(PIECE).max(1) as usize);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
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

/// The same memory behind a descriptor that may not even ask to write. Without /proc the sealed one serves as well.
fn read_only(sealed: File) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .unwrap_or_else(|_| sealed.into())
}
