//! `VerifiedFile`: the only door to model bytes.
//!
//! Owns: reading a promoted file with every byte checked. Promises: bytes are read into a private buffer, that buffer is
//! hashed against the tree, and a slice of that buffer is handed out: never a mapping, which could change in between. A
//! mismatch is an error for that read, and by the time the error is returned the model is quarantined. Leaves out: caching
//! of verified bytes (the kernel does that above the mount), but for the group that a small read was last served from.
//!
//! An open file goes on serving checked bytes when damage elsewhere in it is found, when its model is deleted, and when its
//! tag moves on; an incident ends it, and a delete of the model does not bring it back.

use crate::artifact::{Artifact, Cause, FileEntry};
use crate::blobs::OpenBlob;
use crate::buffer::{ALIGN, ReadBuf};
use crate::catalog::Catalog;
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::GgufHeader;
use crate::name::RelPath;
use crate::registry::Inner;
use crate::scan::Stored;
use crate::tree::{GROUP, Page, Tree};
use parking_lot::Mutex;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How the backing file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// Through the page cache: for a program that reads small pieces itself.
    Cached,
    /// Around it, where the file system can: for a mount, above which the kernel caches what was verified.
    Direct,
}

/// One file of a promoted model, open for verified reads. It may be shared between threads.
#[derive(Debug)]
pub struct VerifiedFile {
    inner: Arc<Inner>,
    origin: Origin,
    entry: FileEntry,
    blob: OpenBlob,
    /// The generation at which its status was last looked at.
    seen: AtomicU64,
    /// Whether an incident had ended it then.
    refused: AtomicBool,
    last: Mutex<Last>,
}

/// What a file was opened as, which decides whose status ends it.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A file of this model, as it was then.
    Model(Arc<Artifact>),
    /// A blob that some promoted model holds.
    Digest,
    /// A blob that a repository holds. Quarantine is about models: whoever serves repositories decides what is shown of them.
    Repository,
}

/// The group last read by a small read, checked: it is private, so it stays what was checked.
#[derive(Debug, Default)]
struct Last {
    group: Option<u64>,
    len: usize,
    buf: ReadBuf,
}

/// Bytes of a [`VerifiedFile`], checked, in memory that goes back to the registry when this is dropped.
#[derive(Debug)]
pub struct CheckedBytes {
    buf: ReadBuf,
    range: Range<usize>,
    inner: Arc<Inner>,
}

impl AsRef<[u8]> for CheckedBytes {
    fn as_ref(&self) -> &[u8] {
        if self.range.is_empty() { &[] } else { &self.buf.bytes(self.range.end)[self.range.clone()] }
    }
}

impl Drop for CheckedBytes {
    fn drop(&mut self) {
        self.inner.spare().give(std::mem::take(&mut self.buf));
    }
}

/// No single read is longer: it needs as much memory.
const MAX_READ: u64 = 64 << 20;

/// The largest piece read and hashed at once by [`VerifiedFile::read_at`].
const PIECE: usize = 1 << 20;

impl VerifiedFile {
    pub(crate) fn new(inner: Arc<Inner>, origin: Origin, entry: FileEntry, blob: OpenBlob, generation: u64) -> Self {
        let (seen, refused) = (AtomicU64::new(generation), AtomicBool::new(false));
        VerifiedFile { inner, origin, entry, blob, seen, refused, last: Mutex::default() }
    }

    /// Its size in bytes, as promoted.
    pub fn len(&self) -> u64 {
        self.entry.size_bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its SHA-256.
    pub fn sha256(&self) -> &Sha256Digest {
        &self.entry.sha256
    }

    /// Its BLAKE3 hash.
    pub fn blake3(&self) -> &Blake3Digest {
        self.blob.tree.root()
    }

    /// Its path inside the artifact.
    pub fn path(&self) -> &RelPath {
        &self.entry.path
    }

    pub(crate) fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// The stored file itself: for the one other place that checks what it reads.
    pub(crate) fn stored(&self) -> &Stored {
        &self.blob.stored
    }

    /// The header of a GGUF file: its metadata and its table of tensors. Reads no weights.
    ///
    /// # Errors
    /// `Refused` when the file is not a sound GGUF; else as [`VerifiedFile::read`].
    pub fn gguf_header(&self) -> Result<GgufHeader> {
        GgufHeader::read(BufReader::with_capacity(2 * GROUP as usize, Sequential { file: self, at: 0 }), self.len())
    }

    /// Whether opening the file again would give this very one, at once: the stored file is still there, with the stamp
    /// last found good. Says nothing of the model's status. Reads no file.
    pub fn is_fresh(&self) -> bool {
        self.inner.blobs().is_fresh(&self.entry.sha256, &self.blob)
    }

    /// The bytes from `offset` on, at most `len`, fewer only at the end of the file. They lie in `buf`, checked.
    ///
    /// # Errors
    /// `Corrupt` when a 64 KiB group the range touches is not what was promoted (the model is quarantined by then),
    /// `Unreadable` when the disk fails, `Quarantined` when the model is under an incident, `NoMemory` when `buf` cannot grow.
    pub fn read<'b>(&self, offset: u64, len: usize, buf: &'b mut ReadBuf) -> Result<&'b [u8]> {
        let range = self.read_into(buf, offset, len)?;
        Ok(&buf.bytes(range.end)[range])
    }

    /// The same in memory of their own, for who sends them on: nothing is copied.
    pub fn read_bytes(&self, offset: u64, len: usize) -> Result<CheckedBytes> {
        let mut buf = self.inner.spare().take(len);
        let range = self.read_into(&mut buf, offset, len)?;
        Ok(CheckedBytes { buf, range, inner: Arc::clone(&self.inner) })
    }

    /// Where in `buf` the bytes lie, checked.
    fn read_into(&self, buf: &mut ReadBuf, offset: u64, len: usize) -> Result<Range<usize>> {
        self.check_status()?;
        self.read_checked(buf, offset, len).inspect_err(|e| self.inner.figures.read_refused(e.kind()))
    }

    fn read_checked(&self, buf: &mut ReadBuf, offset: u64, len: usize) -> Result<Range<usize>> {
        let end = offset.saturating_add(len as u64).min(self.len());
        if offset >= end {
            return Ok(0..0);
        }
        if end - offset > MAX_READ {
            return Err(Error::new(ErrorKind::InvalidInput, format!("a read may have at most {MAX_READ} bytes")));
        }
        let first = offset / GROUP;
        let start = first * GROUP;
        let stop = end.next_multiple_of(GROUP).min(self.len());
        let wanted =
            usize::try_from(stop - start).map_err(|_| Error::new(ErrorKind::InvalidInput, "the read is too long"))?;
        let got = self.blob.stored.read(buf.take(wanted.next_multiple_of(ALIGN))?, start)?.min(wanted);
        let bytes = buf.bytes(wanted);
        let mut page = None;
        for (group, piece) in (first..).zip(bytes.chunks(GROUP as usize)) {
            let index = Tree::page_of(group);
            if page.as_ref().is_none_or(|(at, _)| *at != index) {
                let loaded =
                    self.inner.blobs().page(&self.entry.sha256, &self.blob.tree, index).map_err(|e| self.fail(e))?;
                page = Some((index, loaded));
            }
            let whole = ((group - first) * GROUP) as usize + piece.len() <= got;
            let good = whole && page.as_ref().is_some_and(|(_, page)| self.blob.tree.group_is(page, group, piece));
            if !good {
                let what = format!(
                    "the stored bytes of {} from {} to {} are not what was promoted",
                    self.entry.path,
                    group * GROUP,
                    group * GROUP + piece.len() as u64
                );
                let page = page.as_ref().map(|(_, page)| &**page);
                return Err(self.fail_unless(Error::new(ErrorKind::Corrupt, what), || self.was_mended(page, group)));
            }
        }
        Ok((offset - start) as usize..(end - start) as usize)
    }

    /// Fills `out` from `offset`; the count is less than `out.len()` only at the end of the file. Errors as
    /// [`VerifiedFile::read`]; after one, what `out` holds is unspecified but never unverified.
    ///
    /// Small reads near each other are served from the group of 64 KiB that was last read and checked.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        if out.len() < GROUP as usize / 2 && out.len() as u64 <= GROUP - offset % GROUP {
            return self.read_small(out, offset);
        }
        let mut buf = self.inner.spare().take(out.len().min(PIECE));
        let mut done = 0;
        while done < out.len() {
            let at = offset.saturating_add(done as u64);
            // Pieces end on group borders, so that no group is read twice.
            let len = (PIECE - (at % GROUP) as usize).min(out.len() - done);
            let bytes = self.read(at, len, &mut buf)?;
            if bytes.is_empty() {
                break;
            }
            out[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
        }
        self.inner.spare().give(buf);
        Ok(done)
    }

    /// A read within one group. Another thread may have the last group in hand; then this one reads for itself.
    fn read_small(&self, out: &mut [u8], offset: u64) -> Result<usize> {
        let group = offset / GROUP;
        let start = group * GROUP;
        let Some(mut last) = self.last.try_lock() else {
            let mut buf = self.inner.spare().take(GROUP as usize);
            let n = self.read(offset, out.len(), &mut buf).map(|bytes| fill(out, bytes));
            self.inner.spare().give(buf);
            return n;
        };
        if offset >= self.len() {
            return self.check_status().map(|()| 0);
        }
        if last.group == Some(group) {
            self.check_status()?;
        } else {
            last.group = None;
            last.len = self.read(start, GROUP as usize, &mut last.buf)?.len();
            last.group = Some(group);
        }
        Ok(fill(out, &last.buf.bytes(last.len)[(offset - start) as usize..]))
    }

    /// Whether a repair has written a group since it was read: who read it just before accuses nobody.
    fn was_mended(&self, page: Option<&Page>, group: u64) -> bool {
        if !self.inner.blobs().is_mended(&self.entry.sha256, &self.blob) {
            return false;
        }
        let mut buf = self.inner.spare().take(GROUP as usize);
        let wanted = self.len().saturating_sub(group * GROUP).min(GROUP) as usize;
        let read = |buf: &mut ReadBuf| self.blob.stored.read(buf.take(wanted.next_multiple_of(ALIGN))?, group * GROUP);
        let good = read(&mut buf).is_ok_and(|n| n >= wanted)
            && page.is_some_and(|page| self.blob.tree.group_is(page, group, buf.bytes(wanted)));
        self.inner.spare().give(buf);
        good
    }

    /// Quarantines what the failure shows to be damaged, and gives the error its name.
    fn fail(&self, e: Error) -> Error {
        self.fail_unless(e, || false)
    }

    fn fail_unless(&self, e: Error, mended: impl Fn() -> bool) -> Error {
        // A handle on a damaged file that has been replaced since says nothing about the good one.
        if e.kind() == ErrorKind::Corrupt && self.inner.blobs().is_current(&self.entry.sha256, &self.blob) {
            self.inner.report_corruption_unless(&self.entry.sha256, e.message(), mended);
        }
        self.named(e)
    }

    fn named(&self, e: Error) -> Error {
        match &self.origin {
            Origin::Model(model) => e.on(&model.name),
            Origin::Digest | Origin::Repository => e,
        }
    }

    fn check_status(&self) -> Result<()> {
        let catalog = self.inner.latest();
        let generation = catalog.generation();
        if self.seen.load(Ordering::Acquire) == generation {
            return Ok(());
        }
        let under_incident = |a: &Artifact| a.quarantine.as_ref().is_some_and(|q| q.cause == Cause::Incident);
        let holders = || catalog.holders(self.sha256());
        // What an incident had ended stays ended when nothing holds the bytes any more, also when both happened since the last
        // look: the catalog remembers it for as long as it lasts, and the log only as far back as it is read.
        let was_refused = self.refused.load(Ordering::Acquire);
        let refused = match &self.origin {
            Origin::Repository => false,
            Origin::Model(model) => match holders().find(|a| a.name == model.name) {
                Some(holder) => under_incident(holder),
                None => was_refused || left_blocked(model, &catalog),
            },
            Origin::Digest => {
                let deleted = holders().next().is_none();
                let ended = holders().any(|a| under_incident(a)) || catalog.blocks(self.sha256());
                holders().all(|a| !a.is_promoted()) && (ended || deleted && was_refused)
            }
        };
        self.refused.store(refused, Ordering::Release);
        if refused {
            self.inner.figures.read_refused(ErrorKind::Quarantined);
            return Err(self.named(Error::new(ErrorKind::Quarantined, format!("{} is quarantined", self.entry.path))));
        }
        self.seen.store(generation, Ordering::Release);
        Ok(())
    }
}

/// Whether the catalog remembers an incident under which the model, as it was opened, was deleted. Asked by its weights,
/// also of a file that is none: a name alone may have been another model's.
fn left_blocked(model: &Artifact, catalog: &Catalog) -> bool {
    catalog.blocked_as(&model.name).any(|blocked| model.files.iter().any(|file| blocked.holds(&file.sha256)))
}

/// As much of `bytes` as fits in `out`.
fn fill(out: &mut [u8], bytes: &[u8]) -> usize {
    let n = out.len().min(bytes.len());
    out[..n].copy_from_slice(&bytes[..n]);
    n
}

/// A verified file read from front to back.
struct Sequential<'f> {
    file: &'f VerifiedFile,
    at: u64,
}

impl Read for Sequential<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(out, self.at).map_err(std::io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Actor, Task};
    use crate::{PromoteRequest, Registry, Source};
    use std::os::unix::fs::{FileExt, PermissionsExt};

    /// Threat 12: who read a bad group just before it was repaired reports it just after.
    #[test]
    fn t12_only_what_was_written_since_and_is_good_now_is_mended() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, bytes) = (dir.path().join("m.gguf"), crate::models::gguf(3 * GROUP as usize, 1));
        std::fs::write(&path, &bytes).expect("written");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let (me, name) = (Actor::new("test", "tester"), "m".parse().expect("a name"));
        let source = Source::open(&path).expect("a source");
        registry.promote(PromoteRequest::new(name), source, &me, &Task::unattended()).expect("promoted");
        let name = "m".parse().expect("a name");
        let file = registry.open_file(&name, &"m.gguf".parse().expect("a path"), ReadMode::Cached).expect("opens");
        let page = registry.inner.blobs().page(file.sha256(), &file.blob.tree, 0).expect("a page");
        let mended = || file.was_mended(Some(&page), 1);
        assert!(!mended(), "nobody has written it");
        let blob = registry.root().join("blobs/sha256").join(file.sha256().to_hex());
        std::fs::set_permissions(&blob, std::fs::Permissions::from_mode(0o644)).expect("writable");
        let write = |bytes: &[u8]| {
            let stored = std::fs::OpenOptions::new().write(true).open(&blob).expect("opens");
            stored.write_all_at(bytes, GROUP).expect("written");
        };
        write(b"x");
        assert!(!mended(), "it is bad");
        write(&bytes[GROUP as usize..][..1]);
        assert!(!mended(), "nobody has seen that it is good");
        registry.verify(&name, &me, &Task::unattended()).expect("verified");
        assert!(mended());
        let promoted = || registry.catalog().expect("a catalog").require(&name).expect("there").is_promoted();
        let e = || Error::new(ErrorKind::Corrupt, "it was bad");
        file.fail_unless(e(), mended);
        assert!(promoted() && registry.opens_at_once(file.sha256()), "nobody is accused, and nothing forgotten");
        write(b"x");
        registry.inner.blobs().learn_published(file.sha256()).expect("as if it had rotted below its stamp");
        assert!(!mended());
        file.fail_unless(e(), mended);
        assert!(!promoted());
    }
}
