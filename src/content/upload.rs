//! Uploads: blobs on their way in.
//!
//! Owns: sessions under `_uploads/`, their hashes in the making, and the publication of what they came to. Promises: bytes are
//! hashed both ways while they are written and not read back, but by a session that another process goes on with, and for a
//! SHA-512; one handle at a time has a session; what [`Upload::finish`] returns is durable; a session that failed is gone, and so is
//! all it took. Leaves out: hashing and writing (`hashes`); offsets and ranges, which those who speak the protocol compare with
//! [`Upload::size`].
//!
//! ```text
//! begin -> append* -> finish      blob, tree and record synced, side by side -> all three renamed into place -> their folders
//!             |  ^                synced, side by side. A power cut in between may leave a record without its blob, or the reverse:
//!      suspend|  |resume          the blob is not shown then, and nobody was told that it is there
//! ```

use super::hashes::{DIRECT, Hashes, PIECE, STEP, Writer, write_at};
use super::{Content, ContentDigest, Held, RepositoryName, documents, folders, holds};
use crate::buffer;
use crate::digest::hex;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::idle::Idle;
use crate::ingest::READ_ONLY;
use crate::layout::{Folder, Layout, blob_name};
use crate::stamp::Stamp;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An upload that has lain for so long is given up, as by the server.
pub(crate) const UPLOAD_IDLE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What passes over uploads are called.
pub(crate) const UPLOADS: &str = "uploads";

/// A repository has no more sessions at once.
const MAX_SESSIONS: usize = 1000;
/// All repositories together have no more: their number is whoever pushes' to choose.
const MAX_ALL: u64 = 20_000;
/// How often it is counted anew whether there still are as many: each count walks all repositories.
const RECOUNT: Duration = Duration::from_secs(60);

/// Memory for the hashes of sessions that nobody has at the moment. What is forgotten is hashed again.
const MAX_SUSPENDED: usize = 32 << 20;

/// A blob on its way in. Dropped, it is suspended.
#[derive(Debug)]
pub struct Upload {
    content: Content,
    repo: RepositoryName,
    id: String,
    folder: OwnedFd,
    writer: Writer,
    hashes: Hashes,
    /// Bytes in the file that another process wrote, or whose hashes were forgotten: hashed when there is something to add to them.
    unhashed: u64,
    /// Whether the session is over, or another's.
    over: bool,
}

/// How many sessions there are in all, as far as this process knows: it counts those of others when it first asks, and when it would
/// refuse one.
#[derive(Debug, Default)]
pub(super) struct Open(Mutex<Option<(u64, Instant)>>);

impl Open {
    /// Takes a place for one more; `count` tells how many there are.
    fn take_place(&self, count: impl Fn() -> Result<u64>) -> Result<()> {
        let known = *self.0.lock();
        let counted = known.filter(|(open, at)| *open < MAX_ALL || at.elapsed() < RECOUNT);
        if counted.is_none() {
            // Without the lock: it reads folders. Who counts at once counts the same.
            *self.0.lock() = Some((count()?, Instant::now()));
        }
        let mut known = self.0.lock();
        let (open, _) = known.get_or_insert((0, Instant::now()));
        if *open >= MAX_ALL {
            let why = format!(
                "the registry has {MAX_ALL} unfinished uploads: finish or cancel some, or wait until they expire"
            );
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        *open += 1;
        Ok(())
    }

    fn give_back(&self) {
        if let Some((open, _)) = &mut *self.0.lock() {
            *open = open.saturating_sub(1);
        }
    }
}

/// Hashes of sessions that nobody has at the moment, the latest last. They hold while the file has the stamp it had then.
#[derive(Debug, Default)]
pub(super) struct Suspended(Mutex<VecDeque<(String, Stamp, Hashes)>>);

impl Suspended {
    fn put(&self, id: &str, stamp: Stamp, hashes: Hashes) {
        let mut all = self.0.lock();
        all.push_back((id.to_owned(), stamp, hashes));
        let mut weight: usize = all.iter().map(|(_, _, hashes)| hashes.weight()).sum();
        while weight > MAX_SUSPENDED && all.len() > 1 {
            weight -= all.pop_front().map_or(0, |(_, _, hashes)| hashes.weight());
        }
    }

    fn take(&self, id: &str) -> Option<(Stamp, Hashes)> {
        let mut all = self.0.lock();
        let at = all.iter().position(|(other, _, _)| other == id)?;
        all.remove(at).map(|(_, stamp, hashes)| (stamp, hashes))
    }
}

impl Content {
    /// Begins an upload to a repository.
    ///
    /// # Errors
    /// `Conflict` when the repository has 1,000 of them already, or all together have 20,000.
    pub fn begin(&self, repo: &RepositoryName) -> Result<Upload> {
        let folder = folders::make(self.layout(), &self.inner.shelf().made, repo, folders::UPLOADS)?;
        let mut sessions = 0;
        for entry in folders::entries(&folder)? {
            entry?;
            sessions += 1;
            if sessions >= MAX_SESSIONS {
                let why = format!(
                    "{repo} has {MAX_SESSIONS} unfinished uploads: finish or cancel some, or wait until they expire"
                );
                return Err(Error::new(ErrorKind::Conflict, why));
            }
        }
        let id = new_id()?;
        let open = &self.inner.shelf().open;
        open.take_place(|| Ok(self.uploads()?.0))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&folder, &*id, flags, Mode::RUSR | Mode::WUSR)
            .inspect_err(|_| open.give_back())
            .map_err(|e| Error::io("beginning an upload", e))?;
        let upload = Upload {
            content: self.clone(),
            repo: repo.clone(),
            id,
            folder,
            writer: Writer::new(File::from(file)),
            hashes: Hashes::default(),
            unhashed: 0,
            over: false,
        };
        upload.lock()?;
        Ok(upload)
    }

    /// Goes on with an upload. When this process did not have it last, what is there is hashed before more is taken.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Conflict` while another has it.
    pub fn resume(&self, repo: &RepositoryName, id: &str) -> Result<Upload> {
        let mut upload = self.take(repo, id)?;
        let stamp = Stamp::of(&upload.writer.file).map_err(|e| Error::io("reading an upload", e))?;
        match self.inner.shelf().suspended.take(id) {
            Some((then, hashes)) if then == stamp => upload.hashes = hashes,
            _ => upload.unhashed = stamp.size(),
        }
        upload.over = false;
        Ok(upload)
    }

    /// The upload, taken but not yet hashed: dropped, it stays as it is.
    fn take(&self, repo: &RepositoryName, id: &str) -> Result<Upload> {
        let layout = self.layout();
        layout.check_writable()?;
        let opened = match folders::open(layout, repo, folders::UPLOADS)? {
            Some(folder) if is_id(id) => {
                folders::open_file(layout, repo, folders::UPLOADS, id, OFlags::RDWR)?.map(|file| (folder, file))
            }
            _ => None,
        };
        let Some((folder, file)) = opened else { return Err(no_upload(repo)) };
        let upload = Upload {
            content: self.clone(),
            repo: repo.clone(),
            id: id.to_owned(),
            folder,
            writer: Writer::new(file),
            hashes: Hashes::default(),
            unhashed: 0,
            over: true,
        };
        upload.lock()?;
        Ok(upload)
    }

    /// The size of an upload so far, in bytes. Of one that another has at the moment: what is written of it yet.
    pub fn upload_size(&self, repo: &RepositoryName, id: &str) -> Result<u64> {
        let file = match is_id(id) {
            true => folders::open_file(self.layout(), repo, folders::UPLOADS, id, OFlags::RDONLY)?,
            false => None,
        };
        let file = file.ok_or_else(|| no_upload(repo))?;
        file.metadata().map(|meta| meta.len()).map_err(|e| Error::io("reading an upload", e))
    }

    /// Ends an upload and takes away what it brought.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Conflict` while another has it.
    pub fn abandon(&self, repo: &RepositoryName, id: &str) -> Result<()> {
        let mut upload = self.take(repo, id)?;
        upload.discard();
        Ok(())
    }

    /// How many uploads there are, and the bytes they hold on the disk.
    pub fn uploads(&self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0u64, 0u64);
        folders::each(self.layout(), |_, folder| {
            let Some(uploads) = folders::open_in(folder, folders::UPLOADS)? else { return Ok(()) };
            for entry in folders::entries(&uploads)? {
                let (id, _) = entry?;
                // One that is gone by now is none.
                if let Ok(stat) = rustix::fs::statat(&uploads, &*id, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                    count += 1;
                    bytes = bytes.saturating_add(stat.st_size as u64);
                }
            }
            Ok(())
        })?;
        Ok((count, bytes))
    }

    /// Ends the uploads that nobody has had for this long; how many. Time counts between two calls, by whatever process, that both saw an
    /// upload untouched (`idle`): no clock that is set makes one look old.
    pub fn expire_uploads(&self, older_than: Duration) -> Result<usize> {
        self.layout().check_writable()?;
        let mut idle = Idle::begin(self.layout(), UPLOADS)?;
        let found = self.idle_uploads(&mut idle, older_than)?;
        idle.end()?;
        Ok(self.end_uploads(found))
    }

    /// Ends those that are still as they were seen; how many.
    fn end_uploads(&self, found: Vec<(RepositoryName, String, Stamp)>) -> usize {
        let mut ended = 0;
        for (repo, id, stamp) in found {
            // One that is in use, or has ended by itself, is none of ours.
            let Ok(mut upload) = self.take(&repo, &id) else { continue };
            if Stamp::of(&upload.writer.file).is_ok_and(|now| now == stamp) {
                upload.discard();
                ended += 1;
            }
        }
        ended
    }

    /// The uploads that have lain untouched for so long.
    pub(crate) fn idle_uploads(
        &self,
        idle: &mut Idle<'_>,
        for_so_long: Duration,
    ) -> Result<Vec<(RepositoryName, String, Stamp)>> {
        let mut found = Vec::new();
        folders::each(self.layout(), |repo, folder| {
            let Some(uploads) = folders::open_in(folder, folders::UPLOADS)? else { return Ok(()) };
            for entry in folders::entries(&uploads)? {
                let (id, _) = entry?;
                // Looked at before it is taken, so that nobody who goes on with it is in the way of this.
                let Ok(stamp) = Stamp::at(&uploads, &id) else { continue };
                if idle.see(format!("{repo}/{id}"), &stamp) >= for_so_long {
                    found.push((repo.clone(), id, stamp));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl Upload {
    /// By this it is resumed: 32 hex digits that nobody can guess.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its size so far, in bytes.
    pub fn size(&self) -> u64 {
        self.unhashed + self.hashes.size()
    }

    /// Takes the next bytes, however many.
    ///
    /// # Errors
    /// `NoSpace` when the disk, or this process's limit on file sizes, does not allow them. After an error the upload is gone.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check_here()?;
        let mut taken = || {
            self.catch_up()?;
            while !bytes.is_empty() {
                bytes = self.hashes.tail.gather(bytes, || self.content.inner.spare().take(PIECE))?;
                if self.hashes.tail.len == PIECE {
                    self.write_tail()?;
                }
            }
            Ok(())
        };
        taken().inspect_err(|_| self.discard())
    }

    /// Leaves it to whoever resumes it. In this process that reads nothing back.
    pub fn suspend(mut self) -> Result<()> {
        self.check_here()?;
        self.leave().inspect_err(|_| self.discard())
    }

    /// Ends it: it must have this digest. The repository holds the blob then, durably.
    ///
    /// # Errors
    /// `DigestMismatch`, naming both digests. After any error the upload is gone, and all it brought.
    pub fn finish(mut self, claimed: &ContentDigest) -> Result<Held> {
        self.check_here()?;
        let finished = self.complete(claimed);
        self.discard();
        finished
    }

    fn complete(&mut self, claimed: &ContentDigest) -> Result<Held> {
        self.catch_up()?;
        self.write_tail()?;
        self.settle()?;
        let size_bytes = self.size();
        let (sha256, blake3, tree) = self.hashes.finish()?;
        let held = Held { sha256, size_bytes, blake3 };
        self.compare(claimed, &held)?;
        let content = self.content.clone();
        let (inner, layout) = (&content.inner, content.layout());
        let records = folders::make(layout, &inner.shelf().made, &self.repo, folders::BLOBS)?;
        let _in_use = layout.use_temp()?;
        let mut ready = Ready { layout, tree: None, records: Vec::new(), written: Vec::new() };
        ready.write_records(claimed, &held)?;
        // Synced before the lock is taken, unless it turns out there that the bytes are needed after all.
        let is_stored = inner.has_good(&sha256);
        ready.sync(&self.writer.file, (!is_stored).then_some(&tree))?;
        let mut published = false;
        let outcome = holds::shared(layout).and_then(|_kept| {
            // Also when the bytes are there: who has published them may not have synced the folders yet.
            let stored = [Folder::Blobs, Folder::Trees].map(|folder| layout.folder(folder).as_fd());
            let folders = [records.as_fd(), stored[0], stored[1]];
            if !inner.has_good(&sha256) {
                if is_stored {
                    ready.sync(&self.writer.file, Some(&tree))?;
                }
                published = true;
                let name = blob_name(&sha256);
                layout.publish_from(&self.folder, &self.id, Folder::Blobs, &name)?;
                ready.tree.iter().try_for_each(|temp| layout.publish(temp, Folder::Trees, &name))?;
            }
            for (name, temp) in &ready.records {
                layout.publish_in(temp, &records, name)?;
            }
            durable::sync_together(&folders).map_err(|e| Error::io("syncing the folders of a blob", e))
        });
        if published && outcome.is_ok() {
            if let Err(e) = inner.blobs().learn_published(&sha256) {
                tracing::debug!(%sha256, error = %e, "its stamp was not taken; the next open re-checks");
            }
            inner.absolve([&sha256]);
        }
        if let Err(e) = outcome {
            // Without a record nobody holds it, or others do.
            if published && let Err(e) = content.drop_unheld(sha256) {
                tracing::warn!(%sha256, error = %e, "a blob that nobody holds is left behind");
            }
            return Err(e);
        }
        Ok(held)
    }

    fn compare(&self, claimed: &ContentDigest, held: &Held) -> Result<()> {
        let actual = match claimed {
            ContentDigest::Sha256(_) => ContentDigest::Sha256(held.sha256),
            ContentDigest::Sha512(_) => self.sha512(held)?,
        };
        if actual == *claimed {
            return Ok(());
        }
        let why = format!("the upload is {actual}, not {claimed} as claimed: it was dropped, push it again");
        Err(Error::new(ErrorKind::DigestMismatch, why).with_digests(claimed, actual))
    }

    /// The one digest for which the file is read back, while it is seen that it is what was hashed.
    fn sha512(&self, held: &Held) -> Result<ContentDigest> {
        use sha2::Digest as _;
        let (mut sha512, mut blake3) = (sha2::Sha512::new(), blake3::Hasher::new());
        let mut buf = buffer::filled(0, STEP)?;
        let mut at = 0;
        while at < held.size_bytes {
            let step = &mut buf[..(held.size_bytes - at).min(STEP as u64) as usize];
            self.writer.file.read_exact_at(step, at).map_err(|e| Error::io("reading an upload back", e))?;
            sha512.update(&*step);
            blake3.update(step);
            at += step.len() as u64;
        }
        if blake3.finalize().as_bytes() != held.blake3.as_bytes() {
            let why = "the upload was changed on the disk before it was finished: push it again";
            return Err(Error::new(ErrorKind::SourceChanged, why));
        }
        Ok(ContentDigest::Sha512(sha512.finalize().into()))
    }

    /// Hashes what is gathered; much of it goes on being written meanwhile.
    fn write_tail(&mut self) -> Result<()> {
        let tail = std::mem::take(&mut self.hashes.tail);
        self.check_space(tail.len)?;
        let at = self.hashes.hashed;
        if tail.len < DIRECT {
            self.content.inner.spare().give(self.writer.settle()?.into_piece());
            write_at(&self.writer.file, tail.bytes(), at)?;
            self.hashes.piece(tail.bytes())?;
            self.hashes.tail = tail.emptied();
        } else {
            let piece = Arc::new(tail);
            self.hashes.tail = self.writer.begin(&piece, at)?;
            self.hashes.piece(piece.bytes())?;
        }
        Ok(())
    }

    /// All that was gathered is written, and its memory given back.
    fn settle(&mut self) -> Result<()> {
        for tail in [self.writer.settle()?, std::mem::take(&mut self.hashes.tail)] {
            self.content.inner.spare().give(tail.into_piece());
        }
        Ok(())
    }

    fn check_space(&self, len: usize) -> Result<()> {
        let free = self.content.layout().free_bytes()?;
        if len as u64 <= free {
            return Ok(());
        }
        let why =
            format!("{free} bytes are free (less 5 percent): the upload was dropped, free some space and push again");
        Err(Error::new(ErrorKind::NoSpace, why))
    }

    /// Writes what is gathered, unhashed, and keeps the hashes for who resumes it here.
    fn leave(&mut self) -> Result<()> {
        self.content.inner.spare().give(self.writer.settle()?.into_piece());
        if self.unhashed == 0 {
            self.check_space(self.hashes.tail.len)?;
            write_at(&self.writer.file, self.hashes.tail.bytes(), self.hashes.hashed)?;
            let stamp = Stamp::of(&self.writer.file).map_err(|e| Error::io("reading an upload", e))?;
            let mut hashes = std::mem::take(&mut self.hashes);
            self.content.inner.spare().give(hashes.tail.shrink());
            // Before anyone else can have it.
            self.content.inner.shelf().suspended.put(&self.id, stamp, hashes);
        }
        self.over = true;
        self.unlock();
        Ok(())
    }

    /// Hashes what another process has written.
    fn catch_up(&mut self) -> Result<()> {
        let size = std::mem::take(&mut self.unhashed);
        if size == 0 {
            return Ok(());
        }
        let mut hashes = Hashes::default();
        let mut buf = buffer::filled(0, usize::try_from(size).unwrap_or(PIECE).min(PIECE))?;
        while hashes.size() < size {
            let piece = &mut buf[..(size - hashes.hashed).min(PIECE as u64) as usize];
            self.writer.file.read_exact_at(piece, hashes.hashed).map_err(|e| Error::io("reading an upload back", e))?;
            if piece.len() == PIECE {
                hashes.piece(piece)?;
            } else {
                hashes.tail.gather(piece, || self.content.inner.spare().take(PIECE))?;
            }
        }
        self.hashes = hashes;
        Ok(())
    }

    /// Takes the session, if its file is still there.
    fn lock(&self) -> Result<()> {
        match rustix::fs::flock(&self.writer.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let why =
                    format!("another request is writing this upload to {}: wait for it, or begin a new one", self.repo);
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            Err(e) => return Err(Error::io("locking an upload", e)),
        }
        // Whoever had it may have published the file, or removed it.
        let named = Stamp::at(&self.folder, &self.id).map(|stamp| stamp.ino()).ok();
        let ours = Stamp::of(&self.writer.file).map(|stamp| stamp.ino()).ok();
        if named.is_some() && named == ours { Ok(()) } else { Err(no_upload(&self.repo)) }
    }

    fn unlock(&self) {
        // Closing would not do: a child forked meanwhile holds the same open file description.
        let _ = rustix::fs::flock(&self.writer.file, FlockOperation::Unlock);
    }

    /// Ends the session; its file goes, unless it was published.
    fn discard(&mut self) {
        self.over = true;
        self.content.inner.shelf().open.give_back();
        let _ = self.writer.settle();
        self.content.inner.shelf().suspended.take(&self.id);
        if let Err(e) = documents::unlink(&self.folder, &self.id) {
            tracing::warn!(repository = %self.repo, error = %e, "an upload is left behind until it expires");
        }
    }

    fn check_here(&self) -> Result<()> {
        if self.over { Err(no_upload(&self.repo)) } else { Ok(()) }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.over && self.leave().is_err() {
            self.discard();
        }
        self.unlock();
    }
}

/// What is ready to be renamed into place, in tmp/; dropped, what was not goes.
struct Ready<'a> {
    layout: &'a Layout,
    tree: Option<String>,
    /// By the names they get.
    records: Vec<(String, String)>,
    /// Written, and still to be synced.
    written: Vec<File>,
}

impl Ready<'_> {
    fn write_records(&mut self, claimed: &ContentDigest, held: &Held) -> Result<()> {
        let text = holds::text(held)?;
        for name in holds::names(claimed, &held.sha256) {
            let (file, temp) = self.layout.write_temp_unsynced(&text)?;
            self.records.push((name, temp));
            self.written.push(file);
        }
        Ok(())
    }

    /// Syncs what was written, and with it, if its tree is given, the blob, which is made read-only.
    fn sync(&mut self, blob: &File, tree: Option<&Vec<u8>>) -> Result<()> {
        if let Some(tree) = tree {
            rustix::fs::fchmod(blob, READ_ONLY).map_err(|e| Error::io("making a blob read-only", e))?;
            let (file, temp) = self.layout.write_temp_unsynced(tree)?;
            self.tree = Some(temp);
            self.written.push(file);
        }
        let blob = tree.map(|_| blob);
        let files: Vec<_> = blob.into_iter().chain(&self.written).map(|file| file.as_fd()).collect();
        durable::sync_together(&files).map_err(|e| Error::io("syncing an upload", e))?;
        self.written.clear();
        Ok(())
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        let records = self.records.iter().map(|(_, temp)| temp);
        self.tree.iter().chain(records).for_each(|temp| self.layout.discard(temp));
    }
}

/// 128 bits from the system's generator.
fn new_id() -> Result<String> {
    let mut bytes = [0; 16];
    let mut done = 0;
    while done < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        done += rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes[done..], flags))
            .map_err(|e| Error::io("asking for randomness", e))?;
    }
    Ok(hex(&bytes))
}

fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn no_upload(repo: &RepositoryName) -> Error {
    Error::new(ErrorKind::NotFound, format!("{repo} has no such upload: it was finished, cancelled, or has expired"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    /// Threat 25: what was gone on with between the look and the end.
    #[test]
    fn t25_an_upload_that_went_on_since_it_was_seen_idle_is_not_ended() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let (content, repo) = (registry.content(), "r".parse().expect("a repository"));
        let upload = content.begin(&repo).expect("begun");
        let id = upload.id().to_owned();
        upload.suspend().expect("left");
        let seen = |content: &Content| {
            content.idle_uploads(&mut Idle::look(content.layout(), UPLOADS), Duration::ZERO).expect("looked")
        };
        let found = seen(&content);
        assert_eq!(found.len(), 1);
        let mut upload = content.resume(&repo, &id).expect("gone on with");
        upload.append(b"more").expect("written");
        upload.suspend().expect("left");
        assert_eq!((content.end_uploads(found), content.upload_size(&repo, &id).expect("there")), (0, 4));
        assert_eq!(content.end_uploads(seen(&content)), 1);
    }
}
