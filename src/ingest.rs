//! The one pass that takes a source in.
//!
//! Owns: reading a source once while SHA-256, the BLAKE3 tree and the SHA-256 of every tensor are computed and the private copy is
//! written. Promises: what is hashed is what is stored; a source that changes meanwhile is an error; nothing is left in tmp/ on
//! failure; the copy is on the disk (fsync) when [`Staged`] is returned. Leaves out: publishing it (`promote`).
//!
//! ```text
//!           reader                                     three more threads
//! source -> 2 MiB buffer -+-> BLAKE3 groups
//!                         +------------------------------> SHA-256 of the file, the slowest: it sets the pace,
//!                         +-> SHA-256 of the tensors <---> and takes theirs along while the reader reads
//!                         +------------------------------> O_DIRECT write, two in turn
//! ```

use crate::artifact::FileEntry;
use crate::buffer::{ALIGN, ReadBuf};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout};
use crate::registry::{Method, Transfer};
use crate::sha256::Stream;
use crate::source::{SourceFile, Taken};
use crate::staged::Checked;
use crate::sys::{NoFileSizeSignal, ReadLease, spawn_scoped_quietly};
use crate::task::{Phase, Progress, Task};
use crate::tensors::{Backlog, Plan, Tensors};
use crate::tree;
use rustix::fs::{Mode, OFlags};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

const PIECE: usize = 2 << 20;
/// What the reader reads and hashes at once: it is still in the core's own cache when its groups are hashed.
const STEP: usize = 256 << 10;
const PIECES: usize = 8;
/// Bytes after which a thread that hashes tensors looks whether the other should.
const SLICE: usize = 128 << 10;
/// Threads that write, so that the disk has the next piece while one of them waits for a core.
const WRITERS: usize = 2;

/// A file taken in, hashed, synced, and not yet served.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) entry: FileEntry,
    pub(crate) place: Place,
    /// Of an adopted file: it is the source's own, to be published while nobody may write it.
    pub(crate) adopted: Option<Adopted>,
    pub(crate) method: Method,
    /// Of a GGUF whose header names tensors that can be hashed.
    pub(crate) tensors: Option<Tensors>,
}

/// Where a staged file's bytes and their tree are.
#[derive(Debug)]
pub(crate) enum Place {
    /// In tmp/, by these names.
    Temp { bytes: String, tree: String },
    /// In the store already.
    Stored,
}

/// The source's own file, and what keeps writers off it.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) file: Arc<File>,
    pub(crate) lease: ReadLease,
    /// Its mode as it was.
    pub(crate) mode: Mode,
}

impl Staged {
    /// Its bytes, each checked against what was hashed.
    pub(crate) fn checked(&self, layout: &Layout) -> Result<Checked> {
        match &self.place {
            Place::Temp { bytes, tree } => Checked::open(layout, &self.entry, bytes, tree),
            Place::Stored => Checked::open_stored(layout, &self.entry),
        }
    }

    /// The names of its files in tmp/: its bytes, and their tree.
    pub(crate) fn temps(&self) -> impl Iterator<Item = &str> {
        let temps = match &self.place {
            Place::Temp { bytes, tree } => [Some(bytes), Some(tree)],
            Place::Stored => [None, None],
        };
        temps.into_iter().flatten().map(String::as_str)
    }

    /// What may have changed about the source by our own doing.
    pub(crate) fn taken(&self) -> Taken {
        if self.adopted.is_some() { Taken::Adopted } else { Taken::Copied }
    }
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

/// Takes `source` in: adopts it when it is given away and that is safe, else copies it.
pub(crate) fn take_in(
    layout: &Layout,
    source: &SourceFile,
    transfer: Transfer,
    meter: &mut Meter<'_, '_>,
) -> Result<Staged> {
    let file = source.open()?;
    if let Some((adopted, temp)) = adopt(layout, source, &file, transfer) {
        let staged = read_pass(source, &file, None, meter).and_then(|pass| {
            durable::sync_file(&file).map_err(|e| Error::io(format_args!("syncing {}", source.path), e))?;
            source.check_unchanged(&file, Taken::Adopted)?;
            if !adopted.lease.is_unbroken() {
                return Err(source.changed());
            }
            pass.staged(layout, source, temp.clone(), Method::Adopted, Some(adopted))
        });
        return staged.inspect_err(|_| layout.discard(&temp));
    }
    let (copy, temp, direct) = new_copy(layout)?;
    let cloned = {
        let _quiet = NoFileSizeSignal::new();
        rustix::fs::ioctl_ficlone(&copy, &file)
    };
    let copied = match cloned {
        Ok(()) => read_pass(source, &copy, None, meter).map(|pass| (pass, Method::Reflinked)),
        Err(_) => read_pass(source, &file, Some((&copy, direct)), meter).map(|pass| (pass, Method::Copied)),
    };
    let staged = copied.and_then(|(pass, method)| {
        rustix::fs::fchmod(&copy, READ_ONLY).map_err(|e| Error::io("making the copy read-only", e))?;
        durable::sync_file(&copy).map_err(|e| Error::io(format_args!("syncing the copy of {}", source.path), e))?;
        source.check_unchanged(&file, Taken::Copied)?;
        pass.staged(layout, source, temp.clone(), method, None)
    });
    staged.inspect_err(|_| layout.discard(&temp))
}

/// Reads a blob that is stored already and must be `entry`, hashing it as if it were copied.
pub(crate) fn read_stored(source: &SourceFile, entry: FileEntry, meter: &mut Meter<'_, '_>) -> Result<Staged> {
    let pass = read_pass(source, &*source.open()?, None, meter)?;
    if pass.sha256 != entry.sha256 || pass.blake3 != entry.blake3 {
        let why = format!("the stored bytes of {} are not what was pushed: push them again", entry.path);
        return Err(Error::new(ErrorKind::Corrupt, why).with_digests(entry.sha256, pass.sha256));
    }
    Ok(Staged { entry, place: Place::Stored, adopted: None, method: Method::Shared, tensors: pass.tensors })
}

/// The mode of every stored file.
pub(crate) const READ_ONLY: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// A second link to the source's own file, in tmp/, where that is safe: the same file system, our own file, one link, and a
/// read lease, which the kernel grants only while nobody has it open for writing. The first link goes only after the
/// manifest is written, so that a crash loses nothing.
fn adopt(layout: &Layout, source: &SourceFile, file: &Arc<File>, transfer: Transfer) -> Option<(Adopted, String)> {
    if transfer != Transfer::Move {
        return None;
    }
    let store = rustix::fs::fstat(layout.folder(Folder::Blobs)).ok()?;
    let found = source.found()?;
    let ours = found.stat.st_uid == rustix::process::geteuid().as_raw();
    // Its name must be removable afterwards, or it would stay a second link to the stored file.
    if store.st_dev != found.stat.st_dev || found.stat.st_nlink != 1 || !ours || !found.is_removable() {
        return None;
    }
    let lease = ReadLease::take(file).ok()?;
    // Across bind mounts, and for an immutable file, linking is refused: then it is copied.
    let temp = layout.link_temp(file).ok()?;
    let mode = Mode::from_raw_mode(found.stat.st_mode & 0o7777);
    Some((Adopted { file: Arc::clone(file), lease, mode }, temp))
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
    blake3: Blake3Digest,
    tree: Vec<u8>,
    tensors: Option<Tensors>,
}

impl Pass {
    fn staged(
        self,
        layout: &Layout,
        source: &SourceFile,
        temp: String,
        method: Method,
        adopted: Option<Adopted>,
    ) -> Result<Staged> {
        let (path, size_bytes) = (source.path.clone(), source.size());
        let entry = FileEntry { path, size_bytes, sha256: self.sha256, blake3: self.blake3 };
        let place = Place::Temp { bytes: temp, tree: layout.write_temp(&self.tree)? };
        Ok(Staged { entry, place, adopted, method, tensors: self.tensors })
    }
}

/// A buffer all threads look at: filled by the reader before it is shared, changed by nobody after.
struct Piece {
    buf: ReadBuf,
    at: u64,
    len: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        self.buf.bytes(self.len)
    }

    fn write(&self, to: &File, direct: bool) -> Result<()> {
        // O_DIRECT writes whole blocks; the last one is trimmed afterwards.
        let len = if direct { self.len.next_multiple_of(ALIGN) } else { self.len };
        std::os::unix::fs::FileExt::write_all_at(to, self.buf.bytes(len), self.at)
            .map_err(|e| Error::io("writing the copy", e))
    }
}

/// Reads `from` once to its end; hashes it both ways, and the tensors in it; writes it to `to` if given.
fn read_pass(source: &SourceFile, from: &File, to: Option<(&File, bool)>, meter: &mut Meter<'_, '_>) -> Result<Pass> {
    let size = source.size();
    let (header, hasher) = Plan::of(from, size)?.map(|plan| (plan.header, plan.hasher)).unzip();
    if let Some((temp, direct)) = to {
        reserve(temp, if direct { size.next_multiple_of(ALIGN as u64) } else { size })?;
    }
    let backlog: Option<Backlog<Piece>> = hasher.map(|hasher| Backlog::new(hasher, SLICE));
    let (tree, sha256) = std::thread::scope(|scope| {
        let backlog = backlog.as_ref();
        let (to_hash, inbox) = sync_channel::<Arc<Piece>>(PIECES);
        let (hashed, hash_done) = sync_channel::<()>(PIECES);
        let hashing = spawn_scoped_quietly(scope, move || {
            let mut whole = Stream::new();
            let idle = || backlog.is_some_and(Backlog::idle);
            each(&inbox, &hashed, idle, |piece| {
                match backlog {
                    Some(backlog) => backlog.beside(&mut whole, piece.bytes()),
                    None => whole.update(piece.bytes()),
                }
                Ok(())
            })?;
            Ok(whole.finish())
        })
        .map_err(no_thread)?;
        let mut others = vec![vec![(to_hash, hash_done)]];
        let mut writing = Vec::new();
        if let Some((temp, direct)) = to {
            let mut writers = Vec::new();
            for _ in 0..WRITERS {
                let (to_write, inbox) = sync_channel::<Arc<Piece>>(PIECES);
                let (written, write_done) = sync_channel::<()>(PIECES);
                writers.push((to_write, write_done));
                // A write over the limit on file sizes is an error here: SIGXFSZ, too, is blocked in such a thread.
                let write = move || each(&inbox, &written, || false, |piece| piece.write(temp, direct));
                writing.push(spawn_scoped_quietly(scope, write).map_err(no_thread)?);
            }
            others.push(writers);
        }
        let read = read_pieces(source, from, &others, backlog, meter);
        // Their inboxes end, and so do they.
        drop(others);
        let sha256: Result<Sha256Digest> = hashing.join().unwrap_or_else(|_| Err(ended_early()));
        let written: Result<()> =
            writing.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(ended_early()))).fold(Ok(()), Result::and);
        // The writer's own failure says more than the reader's, which only saw it end.
        written?;
        let tree = read?;
        Ok::<_, Error>((tree, sha256?))
    })?;
    if let Some((temp, true)) = to {
        // The last O_DIRECT write was padded to whole blocks. Making a file shorter is never over a limit.
        temp.set_len(size).map_err(|e| Error::io("trimming the copy", e))?;
    }
    let (blake3, tree) = tree.finish()?;
    let digests = backlog.map(Backlog::finish).transpose()?;
    let tensors = header.zip(digests).map(|(header, digests)| Tensors { header, digests });
    Ok(Pass { sha256, blake3, tree, tensors })
}

fn no_thread(e: std::io::Error) -> Error {
    Error::io("starting a thread (ulimit -u and pids.max limit them)", e)
}

fn ended_early() -> Error {
    Error::new(ErrorKind::Io, "a thread of the promotion ended early")
}

/// Does something to each piece that comes in, and says so after each; `idle` while none comes, as long as that has something
/// to do.
fn each(
    inbox: &Receiver<Arc<Piece>>,
    done: &SyncSender<()>,
    idle: impl Fn() -> bool,
    mut act: impl FnMut(&Piece) -> Result<()>,
) -> Result<()> {
    while let Some(piece) = next(inbox, &idle) {
        act(&piece)?;
        drop(piece);
        // The reader stops listening when it has read everything; what it has handed over is still to be done.
        let _ = done.send(());
    }
    Ok(())
}

/// What another thread sends next, and `idle` until then; nothing when it has ended.
fn next<T>(from: &Receiver<T>, idle: impl Fn() -> bool) -> Option<T> {
    loop {
        match from.try_recv() {
            Ok(sent) => return Some(sent),
            Err(TryRecvError::Empty) if idle() => {}
            Err(TryRecvError::Empty) => return from.recv().ok(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
}

/// Another thread: where its pieces go, and what it says after each. Several in one list take turns.
type Worker = (SyncSender<Arc<Piece>>, Receiver<()>);

fn in_turn(workers: &[Worker], piece: u64) -> &Worker {
    &workers[(piece / PIECE as u64 % workers.len() as u64) as usize]
}

/// The reader: fills buffers, hands each to the other threads, and hashes its groups meanwhile.
fn read_pieces(
    source: &SourceFile,
    from: &File,
    others: &[Vec<Worker>],
    backlog: Option<&Backlog<Piece>>,
    meter: &mut Meter<'_, '_>,
) -> Result<tree::Builder> {
    let size = source.size();
    let mut tree = tree::Builder::default();
    let mut in_flight: VecDeque<Arc<Piece>> = VecDeque::new();
    let mut at = 0u64;
    loop {
        let mut buf = if in_flight.len() < PIECES {
            ReadBuf::new()
        } else {
            let oldest = in_flight.front().map_or(0, |piece| piece.at);
            for workers in others {
                // It hashes tensors meanwhile, if any wait.
                let help = || backlog.is_some_and(Backlog::help);
                next(&in_turn(workers, oldest).1, help).ok_or_else(ended_early)?;
            }
            if let Some(backlog) = backlog {
                backlog.settle(oldest / PIECE as u64 + 1);
            }
            in_flight.pop_front().and_then(Arc::into_inner).map(|piece| piece.buf).unwrap_or_default()
        };
        let mut len = 0;
        for step in buf.take(PIECE)?.chunks_mut(STEP) {
            let n =
                fill(from, step, at + len as u64).map_err(|e| Error::io(format_args!("reading {}", source.path), e))?;
            tree.update(&step[..n])?;
            len += n;
            if n < step.len() {
                break;
            }
        }
        let piece = Arc::new(Piece { buf, at, len });
        if at + len as u64 > size {
            return Err(source.changed());
        }
        if let Some(backlog) = backlog {
            backlog.push(Arc::clone(&piece));
        }
        for workers in others {
            in_turn(workers, at).0.send(Arc::clone(&piece)).map_err(|_| ended_early())?;
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
    if let Some(backlog) = backlog {
        while backlog.help() {}
    }
    Ok(tree)
}

/// Takes the space before the copy begins, so that a full disk shows at once and not at the end.
fn reserve(temp: &File, size: u64) -> Result<()> {
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
    let _quiet = NoFileSizeSignal::new();
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

#[cfg(test)]
mod tests;
