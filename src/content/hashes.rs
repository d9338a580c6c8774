//! Hashing and writing a blob that comes in pieces of any size.
//!
//! Owns: [`Hashes`], which gathers bytes to pieces of 4 MiB. Promises: each byte is hashed both ways once, however the bytes are cut, and
//! out of the memory from which it is written; no thread outlives a call. Leaves out: whose file it is (`upload`).
//!
//! Of a piece, SHA-256 (the slowest) and the write have a thread each, while the caller's own hashes the groups of the tree.

use crate::buffer::{ALIGN, ReadBuf};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::sha256::Stream;
use crate::sys::{NoFileSizeSignal, spawn_scoped_quietly};
use crate::tree;
use rustix::fs::OFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What is hashed and written at once: whole groups of the tree, whole blocks of any disk.
pub(super) const PIECE: usize = 4 << 20;
/// What one thread hashes at once; a piece of not more is not worth another thread.
pub(super) const STEP: usize = 256 << 10;
/// From this size on, a piece is written around the page cache, which takes less of the processor and does not fill up.
const DIRECT: usize = 1 << 20;

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

    /// Hashes the next piece both ways, and writes it to the file it does not come from.
    pub(super) fn piece(&mut self, bytes: &[u8], to: Option<&File>) -> Result<()> {
        let Hashes { sha256, tree, hashed, .. } = self;
        let at = *hashed;
        let write = move || to.map_or(Ok(()), |file| write_at(file, bytes, at));
        if bytes.len() <= STEP {
            write()?;
            sha256.update(bytes);
            tree.update(bytes)?;
        } else {
            let mut stream = sha256.clone();
            *sha256 = std::thread::scope(|scope| {
                let hashing = spawn_scoped_quietly(scope, move || {
                    stream.update(bytes);
                    stream
                });
                let writing = (bytes.len() >= DIRECT && to.is_some()).then(|| spawn_scoped_quietly(scope, write));
                let grouped = bytes.chunks(STEP).try_for_each(|step| tree.update(step));
                // Where no thread is to be had, it takes longer.
                let written = match writing {
                    Some(Ok(thread)) => thread.join().unwrap_or_else(|_| Err(ended_early())),
                    Some(Err(_)) | None => write(),
                };
                let hashed = match hashing {
                    Ok(thread) => thread.join().map_err(|_| ended_early()),
                    Err(_) => {
                        let mut stream = sha256.clone();
                        stream.update(bytes);
                        Ok(stream)
                    }
                };
                written.and(grouped).and(hashed)
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

    /// Takes what fits into a piece, and gives back the rest.
    pub(super) fn gather<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.len));
        let len = self.len + now.len();
        if len > self.room {
            self.resize(len.next_power_of_two().clamp(tree::GROUP as usize, PIECE))?;
        }
        self.buf.take(self.room)?[self.len..len].copy_from_slice(now);
        self.len = len;
        Ok(rest)
    }

    /// Keeps no more memory than the bytes need, if that can be had now.
    pub(super) fn shrink(&mut self) {
        let _ = self.resize(self.len);
    }

    fn resize(&mut self, room: usize) -> Result<()> {
        let mut buf = ReadBuf::new();
        buf.take(room)?[..self.len].copy_from_slice(self.bytes());
        (self.buf, self.room) = (buf, room);
        Ok(())
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
