//! The one pass that takes a source in.
//!
//! Owns: reading a source once while SHA-256 and the BLAKE3 tree are computed and the private copy is written. Promises:
//! what is hashed is what is stored; a source that changes meanwhile is an error; nothing is left in tmp/ on failure; the
//! copy is on the disk (fsync) when [`Staged`] is returned. Leaves out: publishing it (`promote`).
//!
//! ```text
//!           reader thread                              hashing thread
//! source -> 4 MiB buffer -+-> BLAKE3 groups -> O_DIRECT write
//!                         +------------------------------> SHA-256      (the slower of the two, so it sets the pace)
//! ```

use crate::artifact::FileEntry;
use crate::buffer::{ALIGN, ReadBuf};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format;
use crate::layout::{Folder, Layout};
use crate::registry::{Method, Transfer};
use crate::source::SourceFile;
use crate::sys::ReadLease;
use crate::task::{Phase, Progress, Task};
use crate::tree;
use rustix::fs::{Mode, OFlags};
use sha2::Digest as _;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

const PIECE: usize = 4 << 20;
const PIECES: usize = 4;

/// A file taken in, hashed, synced, and not yet served.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) entry: FileEntry,
    pub(crate) kind: format::Kind,
    pub(crate) tree: Vec<u8>,
    pub(crate) place: Place,
}

/// Where a staged file's bytes are.
#[derive(Debug)]
pub(crate) enum Place {
    /// In tmp/ under this name.
    Temp { name: String, method: Method },
    /// Still the source's own file, to be linked into place while nobody may write it.
    Source,
}

/// Progress over all files of one promotion.
pub(crate) struct Meter<'a, 'b> {
    pub(crate) task: &'a Task<'b>,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

impl Meter<'_, '_> {
    fn step(&mut self, n: usize) -> Result<()> {
        self.done += n as u64;
        self.task.step(Progress { phase: Phase::Copy, done: self.done, total: self.total })
    }
}

/// Takes `source` in. `lease`, when the source can be adopted, is what makes that safe.
pub(crate) fn take_in(
    layout: &Layout,
    source: &SourceFile,
    lease: Option<&ReadLease<'_>>,
    meter: &mut Meter<'_, '_>,
) -> Result<Staged> {
    if let Some(lease) = lease {
        let pass = read_pass(source, &source.file, None, meter)?;
        return if lease.is_unbroken() { pass.staged(source, Place::Source) } else { Err(source.changed()) };
    }
    let (temp, name, direct) = new_copy(layout)?;
    let copied = match rustix::fs::ioctl_ficlone(&temp, &source.file) {
        Ok(()) => read_pass(source, &temp, None, meter).map(|pass| (pass, Method::Reflinked)),
        Err(_) => read_pass(source, &source.file, Some((&temp, direct)), meter).map(|pass| (pass, Method::Copied)),
    };
    let finished = copied.and_then(|(pass, method)| {
        rustix::fs::fchmod(&temp, Mode::RUSR | Mode::RGRP | Mode::ROTH)
            .map_err(|e| Error::io("making the copy read-only", e))?;
        temp.sync_all().map_err(|e| Error::io(format_args!("syncing the copy of {}", source.path), e))?;
        pass.staged(source, Place::Temp { name: name.clone(), method })
    });
    finished.inspect_err(|_| layout.discard(&name))
}

/// Whether `--move` may adopt the file itself: the same file system, our own, one link, and a read lease, which the
/// kernel grants only while nobody has it open for writing.
pub(crate) fn adoptable<'a>(layout: &Layout, source: &'a SourceFile, transfer: Transfer) -> Option<ReadLease<'a>> {
    if transfer != Transfer::Move {
        return None;
    }
    let store = rustix::fs::fstat(layout.folder(Folder::Blobs)).ok()?;
    let ours = source.stat.st_uid == rustix::process::geteuid().as_raw();
    if store.st_dev != source.stat.st_dev || source.stat.st_nlink != 1 || !ours {
        return None;
    }
    // Its name must be removable afterwards, or it would stay a second link to the stored file.
    rustix::fs::accessat(&source.folder, ".", rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS).ok()?;
    ReadLease::take(&source.file).ok()
}

fn new_copy(layout: &Layout) -> Result<(File, String, bool)> {
    match layout.new_temp(OFlags::DIRECT) {
        Ok((file, name)) => Ok((file, name, true)),
        // tmpfs and a few others refuse O_DIRECT.
        Err(_) => layout.new_temp(OFlags::empty()).map(|(file, name)| (file, name, false)),
    }
}

struct Pass {
    sha256: Sha256Digest,
    blake3: crate::digest::Blake3Digest,
    tree: Vec<u8>,
    kind: format::Kind,
}

impl Pass {
    fn staged(self, source: &SourceFile, place: Place) -> Result<Staged> {
        source.check_unchanged()?;
        let entry = FileEntry {
            path: source.path.clone(),
            size_bytes: source.size(),
            sha256: self.sha256,
            blake3: self.blake3,
        };
        Ok(Staged { entry, kind: self.kind, tree: self.tree, place })
    }
}

/// A buffer both threads look at: filled by the reader before it is shared, changed by nobody after.
struct Piece {
    buf: ReadBuf,
    len: usize,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        self.buf.bytes(self.len)
    }
}

/// Reads `from` once to its end; hashes it both ways; writes it to `to` if given.
fn read_pass(source: &SourceFile, from: &File, to: Option<(&File, bool)>, meter: &mut Meter<'_, '_>) -> Result<Pass> {
    let size = source.size();
    if let Some((temp, _)) = to {
        reserve(temp, size)?;
    }
    let (to_hash, inbox) = sync_channel::<Arc<Piece>>(PIECES);
    let (hashed, done) = sync_channel::<()>(PIECES);
    let ended_early = || Error::new(ErrorKind::Io, "the hashing thread ended early");
    std::thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut hasher = sha2::Sha256::new();
            for piece in inbox {
                hasher.update(piece.bytes());
                drop(piece);
                if hashed.send(()).is_err() {
                    break;
                }
            }
            Sha256Digest::from_bytes(hasher.finalize().into())
        });
        let mut tree = tree::Builder::default();
        let mut kind = None;
        let mut in_flight: VecDeque<Arc<Piece>> = VecDeque::new();
        let mut at = 0u64;
        loop {
            let mut buf = if in_flight.len() < PIECES {
                ReadBuf::new()
            } else {
                done.recv().map_err(|_| ended_early())?;
                in_flight.pop_front().and_then(Arc::into_inner).map(|piece| piece.buf).unwrap_or_default()
            };
            let len =
                fill(from, buf.take(PIECE), at).map_err(|e| Error::io(format_args!("reading {}", source.path), e))?;
            let piece = Arc::new(Piece { buf, len });
            if kind.is_none() {
                // Junk is refused before it is copied.
                kind = Some(format::look(&source.path, &piece.bytes()[..len.min(format::HEAD)], size)?);
            }
            if at + len as u64 > size {
                return Err(source.changed());
            }
            to_hash.send(Arc::clone(&piece)).map_err(|_| ended_early())?;
            tree.update(piece.bytes());
            match to {
                // O_DIRECT writes whole blocks; the last one is trimmed below.
                Some((temp, true)) => write(temp, piece.buf.bytes(len.next_multiple_of(ALIGN)), at)?,
                Some((temp, false)) => write(temp, piece.bytes(), at)?,
                None => {}
            }
            in_flight.push_back(piece);
            at += len as u64;
            meter.step(len)?;
            if len < PIECE {
                break;
            }
        }
        if at != size {
            return Err(source.changed());
        }
        if let Some((temp, true)) = to {
            temp.set_len(size).map_err(|e| Error::io("trimming the copy", e))?;
        }
        drop(to_hash);
        let sha256 = hashing.join().map_err(|_| ended_early())?;
        let (blake3, tree) = tree.finish();
        let kind = kind.ok_or_else(|| Error::new(ErrorKind::Refused, format!("{} was not inspected", source.path)))?;
        Ok(Pass { sha256, blake3, tree, kind })
    })
}

/// Takes the space before the copy begins, so that a full disk shows at once and not at the end.
fn reserve(temp: &File, size: u64) -> Result<()> {
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(temp, rustix::fs::FallocateFlags::empty(), 0, size) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(Error::io("reserving space for the copy", e)),
    }
}

fn fill(from: &File, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match rustix::io::pread(from, &mut buf[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

fn write(to: &File, bytes: &[u8], at: u64) -> Result<()> {
    std::os::unix::fs::FileExt::write_all_at(to, bytes, at).map_err(|e| Error::io("writing the copy", e))
}

/// Writes to both; for the rare copy that is not on the hot path.
pub(crate) struct Tee<'a, A: std::io::Write, B: std::io::Write>(pub(crate) &'a mut A, pub(crate) &'a mut B);

impl<A: std::io::Write, B: std::io::Write> std::io::Write for Tee<'_, A, B> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
