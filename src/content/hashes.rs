//! Hashing and writing a blob that comes in pieces of any size.
//!
//! Owns: [`Hashes`], which gathers bytes to pieces, and [`Writer`]. Promises: each byte is hashed both ways once, however the bytes are
//! cut, and out of the memory from which it is written; only the thread that writes a piece outlives a call, and none its
//! [`Writer`]. Leaves out: whose file it is (`upload`).
//!
//! ```text
//! piece n      | write, in a thread ------------ |
//!              | SHA-256, in a thread |          | piece n+1 ...
//!              | groups of the tree   | gather
//! ```

use crate::buffer::{ALIGN, ReadBuf};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::sha256::Stream;
use crate::sys::{NoFileSizeSignal, spawn_quietly, spawn_scoped_quietly};
use crate::tree;
use rustix::fs::OFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// What is hashed and written at once: whole groups of the tree, whole blocks of any disk.
pub(super) const PIECE: usize = 1 << 20;
/// What one thread hashes at once; a piece of not more is not worth another thread.
pub(super) const STEP: usize = 256 << 10;
/// From this size on, a piece is written around the page cache, which takes less of the processor and does not fill up.
pub(super) const DIRECT: usize = 256 << 10;
/// A tail that is larger has a piece's memory.
const LITTLE: usize = DIRECT;

/// Hashes in the making: of the first `hashed` bytes, which are in the file, and of `tail` they are still to be made.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    sha256: Stream,
    tree: tree::Builder,
    pub(super) hashed: u64,
    pub(super) tail: Tail,
}

impl Hashes {
    pub(super) fn size(&self) -> u64 {
        self.hashed + self.tail.len as u64
    }

    /// Bytes of memory they need.
    pub(super) fn weight(&self) -> usize {
        self.tail.room + (self.hashed / tree::GROUP) as usize * 32 + 1024
    }

    /// Hashes the next piece both ways.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> Result<()> {
        let Hashes { sha256, tree, hashed, .. } = self;
        let busy = Busy::new();
        if bytes.len() <= STEP || !busy.has_core_to_spare() {
            for step in bytes.chunks(STEP) {
                sha256.update(step);
                tree.update(step)?;
            }
        } else {
            let mut stream = sha256.clone();
            *sha256 = std::thread::scope(|scope| {
                let hashing = spawn_scoped_quietly(scope, move || {
                    stream.update(bytes);
                    stream
                });
                let grouped = bytes.chunks(STEP).try_for_each(|step| tree.update(step));
                let hashed = match hashing {
                    Ok(thread) => thread.join().map_err(|_| ended_early()),
                    // Where no thread is to be had, it takes longer.
                    Err(_) => {
                        let mut stream = sha256.clone();
                        stream.update(bytes);
                        Ok(stream)
                    }
                };
                grouped.and(hashed)
            })?;
        }
        *hashed += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(Sha256Digest, Blake3Digest, Vec<u8>)> {
        let Hashes { sha256, tree, .. } = std::mem::take(self);
        let (blake3, tree) = tree.finish()?;
        Ok((sha256.finish(), blake3, tree))
    }
}

/// A piece that is being hashed, counted.
struct Busy(usize);

/// Pieces that are being hashed in this process.
static BUSY: AtomicUsize = AtomicUsize::new(0);

impl Busy {
    fn new() -> Busy {
        Busy(BUSY.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a second thread would find a core: with many uploads at once it would only be in the others' way.
    fn has_core_to_spare(&self) -> bool {
        static CORES: OnceLock<usize> = OnceLock::new();
        let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
        2 * (self.0 + 1) <= cores
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::Relaxed);
    }
}

fn ended_early() -> Error {
    Error::new(ErrorKind::Io, "a thread of the upload ended early")
}

/// Bytes gathered to a piece, in memory that suits O_DIRECT.
#[derive(Debug, Default)]
pub(super) struct Tail {
    buf: ReadBuf,
    room: usize,
    pub(super) len: usize,
}

impl Tail {
    pub(super) fn bytes(&self) -> &[u8] {
        if self.len == 0 { &[] } else { self.buf.bytes(self.len) }
    }

    /// Takes what fits into a piece, and gives back the rest; more than a little is put into what `spare` gives.
    pub(super) fn gather<'a>(&mut self, bytes: &'a [u8], spare: impl FnOnce() -> ReadBuf) -> Result<&'a [u8]> {
        let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.len));
        let len = self.len + now.len();
        if len > LITTLE && self.room < PIECE {
            self.resize(spare(), PIECE)?;
        } else if len > self.room {
            self.resize(ReadBuf::new(), len.next_power_of_two().clamp(4096, LITTLE))?;
        }
        self.buf.take(self.room)?[self.len..len].copy_from_slice(now);
        self.len = len;
        Ok(rest)
    }

    /// Keeps no more memory than the bytes need, if that can be had now; gives a piece's memory, if it had it.
    pub(super) fn shrink(&mut self) -> Option<ReadBuf> {
        let had_piece = self.room == PIECE;
        self.resize(ReadBuf::new(), self.len).ok().filter(|_| had_piece)
    }

    /// Gives the memory it had.
    fn resize(&mut self, mut buf: ReadBuf, room: usize) -> Result<ReadBuf> {
        buf.take(room)?[..self.len].copy_from_slice(self.bytes());
        self.room = room;
        Ok(std::mem::replace(&mut self.buf, buf))
    }

    /// Nothing, in the same memory.
    pub(super) fn emptied(self) -> Tail {
        Tail { len: 0, ..self }
    }

    /// A piece's memory, if it has it.
    pub(super) fn into_piece(self) -> Option<ReadBuf> {
        (self.room == PIECE).then_some(self.buf)
    }
}

/// A file, and the piece that is being written to it while the next one is gathered.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) file: Arc<File>,
    writing: Option<(Arc<Tail>, JoinHandle<Result<()>>)>,
}

impl Writer {
    pub(super) fn new(file: File) -> Writer {
        Writer { file: Arc::new(file), writing: None }
    }

    /// Begins to write a piece, once the one before is written. Where no thread is to be had, it is written at once.
    pub(super) fn begin(&mut self, piece: &Arc<Tail>, at: u64) -> Result<Tail> {
        let spare = self.settle()?;
        let (file, own) = (Arc::clone(&self.file), Arc::clone(piece));
        match spawn_quietly(move || write_at(&file, own.bytes(), at)) {
            Ok(thread) => self.writing = Some((Arc::clone(piece), thread)),
            Err(_) => write_at(&self.file, piece.bytes(), at)?,
        }
        Ok(spare)
    }

    /// All is written. Gives the memory of the last piece.
    pub(super) fn settle(&mut self) -> Result<Tail> {
        let Some((piece, thread)) = self.writing.take() else { return Ok(Tail::default()) };
        thread.join().unwrap_or_else(|_| Err(ended_early()))?;
        Ok(Arc::into_inner(piece).unwrap_or_default().emptied())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody is to find the file being written.
        let _ = self.settle();
    }
}

/// Writes to a file that nobody else writes to; whole blocks of much around the page cache.
pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    let io = |e: std::io::Error| Error::io("writing an upload", e);
    let _quiet = NoFileSizeSignal::new();
    let aligned = at.is_multiple_of(ALIGN as u64) && bytes.as_ptr().align_offset(ALIGN) == 0;
    let (blocks, rest) = bytes.split_at(if bytes.len() >= DIRECT && aligned { bytes.len() & !(ALIGN - 1) } else { 0 });
    // tmpfs and a few others refuse O_DIRECT, some of them only when it is used.
    let direct = !blocks.is_empty() && rustix::fs::fcntl_setfl(file, OFlags::DIRECT).is_ok();
    let mut written = file.write_all_at(blocks, at);
    if direct {
        rustix::fs::fcntl_setfl(file, OFlags::empty()).map_err(|e| io(e.into()))?;
        if written.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
            written = file.write_all_at(blocks, at);
        }
    }
    written.and_then(|()| file.write_all_at(rest, at + blocks.len() as u64)).map_err(io)
}
