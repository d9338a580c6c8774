//! Hashing stored files whole, on all cores.
//!
//! Owns: the one place that reads a stored file from end to end. Promises: it reads the disk and not the page cache where
//! the file system can (O_DIRECT, else the cached pages are dropped first); files and the spans of one file are hashed side
//! by side; a file that cannot be read is told from one whose bytes are wrong. Leaves out: what follows from the result.

use crate::buffer::{self, ReadBuf};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, blob_name};
use crate::sys::spawn_scoped_quietly;
use crate::task::{Phase, Progress, Task};
use crate::tree::{self, Cv, GROUP, SPAN, SpanValue};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::fs::File;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One read of a scan.
const PIECE: u64 = 4 << 20;

/// Threads of one scan, each with a buffer of a piece: more would wait for the same disk, and take from the host what it has
/// planned for itself.
const MAX_THREADS: usize = 16;

/// A stored blob, open for reads that bypass the page cache where that is possible.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) file: File,
    pub(crate) direct: bool,
}

impl Stored {
    /// Opens a blob. Absent is `Corrupt`: the manifest says it must be there.
    pub(crate) fn open(layout: &Layout, sha256: &Sha256Digest, direct: bool) -> Result<Stored> {
        let name = blob_name(sha256);
        let opened = match layout.read(Folder::Blobs, &name, if direct { OFlags::DIRECT } else { OFlags::empty() }) {
            Ok(file) => Ok(Stored { file, direct }),
            Err(rustix::io::Errno::INVAL) if direct => {
                layout.read(Folder::Blobs, &name, OFlags::empty()).map(|file| Stored { file, direct: false })
            }
            Err(e) => Err(e),
        };
        let stored = opened.map_err(|e| match e {
            rustix::io::Errno::NOENT => Error::new(ErrorKind::Corrupt, format!("the stored file {name} is missing")),
            rustix::io::Errno::LOOP => {
                Error::new(ErrorKind::Corrupt, format!("the stored file {name} was replaced by a link"))
            }
            e => cannot_open(&format!("the stored file {name}"), e),
        })?;
        match stored.file.metadata() {
            Ok(meta) if meta.is_file() => Ok(stored),
            Ok(_) => Err(Error::new(ErrorKind::Corrupt, format!("the stored file {name} is not a regular file"))),
            Err(e) => Err(Error::new(ErrorKind::Unreadable, format!("the stored file {name} cannot be read: {e}"))),
        }
    }

    /// Fills `buf` from `offset`; fewer bytes mean the end of the file.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.file, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    // O_DIRECT ends short only at the end of the file, and cannot go on from there.
                    if self.direct && !n.is_multiple_of(buffer::ALIGN) {
                        break;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    return Err(Error::new(
                        ErrorKind::Unreadable,
                        format!("the disk failed at byte {}: {e}", offset + done as u64),
                    ));
                }
            }
        }
        Ok(done)
    }
}

/// The disk's failure, or our own: running out of descriptors says nothing about what is stored.
pub(crate) fn cannot_open(what: &str, e: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    let kind = match e {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => ErrorKind::Io,
        _ => ErrorKind::Unreadable,
    };
    Error::new(kind, format!("{what} cannot be opened: {e}"))
}

/// One file to hash: an open blob and the length it must have.
pub(crate) struct Job {
    pub(crate) stored: Stored,
    pub(crate) len: u64,
}

/// What one file came to. `Err` is `Unreadable`, or a failure of our own (`Cancelled`, `NoMemory`).
pub(crate) type Outcome = Result<Scanned>;

/// A file read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// Its root.
    Root(Blake3Digest),
    /// It is shorter or longer than it must be.
    OtherSize(u64),
}

/// How far a scan of several batches is.
pub(crate) struct Meter<'a, 'b> {
    pub(crate) task: &'a Task<'b>,
    pub(crate) done: AtomicU64,
    pub(crate) total: u64,
}

impl Meter<'_, '_> {
    fn step(&self, n: u64) -> Result<()> {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        self.task.step(Progress { phase: Phase::Verify, done, total: self.total })
    }
}

/// Hashes all jobs on all cores, as far as the host may start threads: the caller's own does it alone if need be.
pub(crate) fn roots(jobs: &[Job], meter: &Meter<'_, '_>) -> Vec<Outcome> {
    let spans = |job: &Job| job.len.div_ceil(SPAN).max(1);
    let mut pieces: Vec<(usize, u64)> = match buffer::with_room(jobs.iter().map(spans).sum::<u64>() as usize) {
        Ok(room) => room,
        Err(e) => return jobs.iter().map(|_| Err(Error::new(e.kind(), e.message()))).collect(),
    };
    pieces.extend(jobs.iter().enumerate().flat_map(|(i, job)| (0..spans(job)).map(move |span| (i, span))));
    let found: Vec<Mutex<Parts>> = jobs.iter().map(|j| Mutex::new(Parts::new(j))).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buf = ReadBuf::new();
        while let Some(&(job, span)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if found[job].lock().failed() {
                continue;
            }
            let outcome = hash_span(&jobs[job], span, &mut buf, meter);
            found[job].lock().put(span, outcome);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads(cores, pieces.len()) {
            if let Err(e) = spawn_scoped_quietly(scope, work) {
                tracing::debug!(error = %e, "hashing goes on with fewer threads");
                break;
            }
        }
        work();
    });
    found.into_iter().zip(jobs).map(|(parts, job)| parts.into_inner().finish(job.len)).collect()
}

/// How many threads hash so many pieces, the caller's own among them.
fn threads(cores: usize, pieces: usize) -> usize {
    cores.min(pieces).clamp(1, MAX_THREADS)
}

/// The SHA-256 of a stored file as it is now, for a message that says what was found.
pub(crate) fn sha256(stored: &Stored) -> Result<Sha256Digest> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut buf = ReadBuf::new();
    let mut offset = 0;
    loop {
        let piece = buf.take(PIECE as usize)?;
        let n = stored.read(piece, offset)?;
        hasher.update(&piece[..n]);
        offset += n as u64;
        if n < PIECE as usize {
            return Ok(Sha256Digest::from_bytes(hasher.finalize().into()));
        }
    }
}

struct Parts {
    spans: Vec<Cv>,
    whole: Option<Blake3Digest>,
    error: Option<Error>,
    other_size: Option<u64>,
}

impl Parts {
    fn new(job: &Job) -> Parts {
        if !job.stored.direct {
            let _ = rustix::fs::fadvise(&job.stored.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        let mut parts = Parts { spans: Vec::new(), whole: None, error: None, other_size: None };
        match buffer::filled([0; 32], job.len.div_ceil(SPAN) as usize) {
            Ok(spans) => parts.spans = spans,
            Err(e) => parts.error = Some(e),
        }
        match job.stored.file.metadata() {
            Ok(meta) if meta.len() != job.len => parts.other_size = Some(meta.len()),
            Ok(_) => {}
            Err(e) => {
                parts.error = Some(Error::new(ErrorKind::Unreadable, format!("a stored file cannot be read: {e}")))
            }
        }
        parts
    }

    fn failed(&self) -> bool {
        self.error.is_some() || self.other_size.is_some()
    }

    fn put(&mut self, span: u64, outcome: Result<Option<SpanValue>>) {
        match outcome {
            Ok(Some(SpanValue::Part(cv))) => self.spans[span as usize] = cv,
            Ok(Some(SpanValue::Whole(root))) => self.whole = Some(root),
            Ok(None) => self.other_size = Some(0),
            Err(e) => self.error = Some(e),
        }
    }

    fn finish(self, len: u64) -> Outcome {
        match (self.error, self.other_size, self.whole) {
            (Some(e), _, _) => Err(e),
            (None, Some(size), _) => Ok(Scanned::OtherSize(size)),
            (None, None, Some(root)) => Ok(Scanned::Root(root)),
            (None, None, None) => Ok(Scanned::Root(tree::root_of_spans(&self.spans, len))),
        }
    }
}

/// The value of one span; `None` when the file ended inside it.
fn hash_span(job: &Job, span: u64, buf: &mut ReadBuf, meter: &Meter<'_, '_>) -> Result<Option<SpanValue>> {
    let start = span * SPAN;
    let end = (start + SPAN).min(job.len);
    let mut groups = Vec::with_capacity(((end - start) / GROUP + 1) as usize);
    let mut only = (job.len == 0).then(|| Blake3Digest::from_bytes(*blake3::hash(b"").as_bytes()));
    let mut at = start;
    while at < end {
        let wanted = (end - at).min(PIECE) as usize;
        let piece = buf.take(wanted.next_multiple_of(buffer::ALIGN))?;
        let n = job.stored.read(piece, at)?.min(wanted);
        if n < wanted {
            return Ok(None);
        }
        if job.len <= GROUP {
            only = Some(Blake3Digest::from_bytes(*blake3::hash(&piece[..n]).as_bytes()));
        } else {
            groups.extend((at / GROUP..).zip(piece[..n].chunks(GROUP as usize)).map(|(i, g)| tree::group_cv(i, g)));
        }
        at += n as u64;
        meter.step(n as u64)?;
    }
    Ok(Some(tree::span_value(span, job.len, &groups, only)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_machine_is_not_taken_whole() {
        for (cores, pieces, expected) in
            [(1, 9, 1), (2, 9, 2), (8, 3, 3), (8, 0, 1), (16, 99, 16), (17, 99, 16), (256, 9999, 16)]
        {
            assert_eq!(threads(cores, pieces), expected, "{cores} cores, {pieces} pieces");
        }
    }
}
