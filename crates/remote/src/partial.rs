//! Blobs that are not whole yet.
//!
//! Owns: a blob's data and the list of its pieces that are there, in the registry's staging folder, by digest. Promises: one process fills it at a
//! time; a piece counts only while its data has the hash that was written down for it, so that neither a power cut nor a hand in the folder can
//! make a wrong piece count; data is used only after the whole has its digest; nothing is written past the blob's size. Leaves out: where the data comes from (`fetch`).
//!
//! ```text
//! quarantine/.partial/sha256-HEX          the data, with holes
//!                     sha256-HEX.pieces   "securereg pieces 1 SIZE", then a line a piece: INDEX BLAKE3; locked by who fills it
//! ```

use crate::fail::local;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use securereg::{Error, ErrorKind, Result};
use securereg_oci::{Algorithm, Digest};
use sha2::Digest as _;
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is kept or lost as one.
pub(crate) const PIECE: u64 = 4 << 20;
/// A line of the list is no longer.
const LINE: u64 = 96;

/// How long parts wait for the pull that goes on with them.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob on its way in, held by this process.
#[derive(Debug)]
pub(crate) struct Partial {
    data: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    pieces: Mutex<Pieces>,
    changed: Condvar,
}

#[derive(Debug)]
struct Pieces {
    list: File,
    have: Vec<bool>,
    stopped: bool,
}

/// Where blobs wait to be whole.
pub(crate) fn folder(staging: &Path) -> PathBuf {
    staging.join(".partial")
}

/// Removes the parts that nobody has gone on with for a week; how many.
pub(crate) fn sweep(staging: &Path) -> usize {
    let mut swept = 0;
    let old = |metadata: fs::Metadata| metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT));
    for entry in fs::read_dir(folder(staging)).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some() || !entry.metadata().is_ok_and(old) {
            continue;
        }
        let Ok(list) = open(&list_of(&path)) else { continue };
        // One that is locked is being filled.
        if flock(&list, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&path);
            swept += 1;
        }
    }
    swept
}

fn remove(path: &Path) {
    for path in [path.to_owned(), list_of(path)] {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, path = %path.display(), "a part stays");
        }
    }
}

impl Partial {
    /// Opens what is there of a blob, or begins it.
    ///
    /// # Errors
    /// `Conflict` while another process fetches it; `NoSpace`.
    pub(crate) fn open(staging: &Path, digest: &Digest, size: u64) -> Result<Partial> {
        let folder = folder(staging);
        let what = || format!("keeping a part of {digest}");
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(local(what(), e)),
            _ => {}
        }
        let path = folder.join(digest.as_str().replace(':', "-"));
        let list = lock(&list_of(&path)).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => {
                Error::new(ErrorKind::Conflict, format!("another pull is fetching {digest}: wait for it"))
            }
            _ => local(what(), e),
        })?;
        let data = open(&path).map_err(|e| local(what(), e))?;
        let count = usize::try_from(size.div_ceil(PIECE)).map_err(|_| too_large(digest))?;
        let mut have = Vec::new();
        have.try_reserve_exact(count).map_err(|_| too_large(digest))?;
        have.resize(count, false);
        let partial = Partial {
            data,
            path,
            digest: digest.clone(),
            size,
            pieces: Mutex::new(Pieces { list, have, stopped: false }),
            changed: Condvar::new(),
        };
        partial.recover().map_err(|e| local(what(), e))?;
        Ok(partial)
    }

    /// Takes over the pieces that are what the list says; of a list that is of another size or form, nothing.
    fn recover(&self) -> std::io::Result<()> {
        let mut pieces = self.pieces.lock();
        let mut text = String::new();
        let limit = LINE.saturating_mul(pieces.have.len() as u64 + 1);
        let readable = Read::by_ref(&mut pieces.list).take(limit).read_to_string(&mut text).is_ok();
        let first = format!("securereg pieces 1 {}\n", self.size);
        let mut good = String::new();
        if let Some(lines) =
            text.strip_prefix(&first).filter(|_| readable && self.data.metadata().is_ok_and(|m| m.len() == self.size))
        {
            let mut buffer = vec![0; usize::try_from(PIECE.min(self.size)).unwrap_or(0)];
            for line in lines.split_inclusive('\n') {
                let Some((index, hash)) = line.strip_suffix('\n').and_then(|line| line.split_once(' ')) else {
                    continue;
                };
                let Some(index) = index.parse().ok().filter(|i| pieces.have.get(*i) == Some(&false)) else { continue };
                let (start, end) = self.span(index);
                let piece = &mut buffer[..usize::try_from(end - start).unwrap_or(0)];
                if self.data.read_exact_at(piece, start).is_ok() && blake3::hash(piece).to_hex().as_str() == hash {
                    pieces.have[index] = true;
                    good.push_str(line);
                }
            }
        } else {
            self.data.set_len(0)?;
            self.data.set_len(self.size)?;
        }
        pieces.list.set_len(0)?;
        std::io::Seek::rewind(&mut pieces.list)?;
        pieces.list.write_all((first + &good).as_bytes())
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where a piece begins and ends.
    fn span(&self, index: usize) -> (u64, u64) {
        let start = (index as u64).saturating_mul(PIECE);
        (start.min(self.size), start.saturating_add(PIECE).min(self.size))
    }

    /// Bytes that are there.
    pub(crate) fn present(&self) -> u64 {
        let pieces = self.pieces.lock();
        let length = |(index, _)| {
            let (start, end) = self.span(index);
            end - start
        };
        pieces.have.iter().enumerate().filter(|(_, have)| **have).map(length).sum()
    }

    /// What is missing, in stretches of at most `longest` pieces.
    pub(crate) fn missing(&self, longest: usize) -> Vec<(u64, u64)> {
        let pieces = self.pieces.lock();
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for (index, _) in pieces.have.iter().enumerate().filter(|(_, have)| !**have) {
            let (start, end) = self.span(index);
            match stretches.last_mut() {
                Some(last) if last.1 == start && last.1 - last.0 < PIECE.saturating_mul(longest as u64) => last.1 = end,
                _ => stretches.push((start, end)),
            }
        }
        stretches
    }

    /// Writes data where it belongs, inside one piece; of a piece that is there, nothing.
    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let inside = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.size);
        if !inside {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} is longer than its {} bytes", self.digest, self.size),
            ));
        }
        let index = usize::try_from(at / PIECE).ok();
        // What was hashed is what stays, whatever comes after it.
        if index.is_some_and(|index| self.pieces.lock().have.get(index) == Some(&true)) {
            return Ok(());
        }
        self.data.write_all_at(bytes, at).map_err(|e| local(format_args!("writing {}", self.path.display()), e))
    }

    /// Whether a piece ends at `at`, and which.
    pub(crate) fn ends_at(&self, at: u64) -> Option<usize> {
        let whole = at > 0 && (at.is_multiple_of(PIECE) || at == self.size);
        whole.then(|| usize::try_from((at - 1) / PIECE).ok()).flatten()
    }

    /// Notes that a piece is there. A list that cannot be written costs the next process a piece, and no more.
    pub(crate) fn note(&self, index: usize, hash: &blake3::Hash) {
        let mut pieces = self.pieces.lock();
        if pieces.have.get(index) != Some(&false) {
            return;
        }
        if let Err(error) = pieces.list.write_all(format!("{index} {}\n", hash.to_hex()).as_bytes()) {
            tracing::debug!(%error, "a piece could not be noted");
        }
        if let Some(have) = pieces.have.get_mut(index) {
            *have = true;
        }
        self.changed.notify_all();
    }

    /// Ends [`Partial::hash`] early.
    pub(crate) fn stop(&self) {
        self.pieces.lock().stopped = true;
        self.changed.notify_all();
    }

    /// The digest of the whole, hashed as it comes in; none when it was stopped before.
    pub(crate) fn hash(&self) -> Result<Option<Digest>> {
        let mut hasher = Hasher::new(self.digest.algorithm());
        let mut buffer = vec![0; usize::try_from(PIECE.min(self.size)).unwrap_or(0)];
        let count = self.pieces.lock().have.len();
        for index in 0..count {
            let mut pieces = self.pieces.lock();
            while !pieces.have[index] && !pieces.stopped {
                self.changed.wait(&mut pieces);
            }
            if pieces.stopped {
                return Ok(None);
            }
            drop(pieces);
            let (start, end) = self.span(index);
            let piece = &mut buffer[..usize::try_from(end - start).unwrap_or(0)];
            let what = || format!("reading {}", self.path.display());
            self.data.read_exact_at(piece, start).map_err(|e| local(what(), e))?;
            hasher.update(piece);
        }
        Ok(Some(hasher.finish()))
    }

    /// Forgets it all.
    pub(crate) fn discard(&self) {
        remove(&self.path);
    }

    /// What is left to do with it once it has its digest. Nobody has its data open any more, so that the core can take the file over.
    pub(crate) fn whole(&self) -> Result<Whole> {
        let lock = self.pieces.lock().list.try_clone();
        let lock = lock.map_err(|e| local(format_args!("keeping {}", self.path.display()), e))?;
        Ok(Whole { _lock: lock, path: self.path.clone() })
    }
}

/// A blob that is whole and has its digest; still this process's.
#[derive(Debug)]
pub(crate) struct Whole {
    _lock: File,
    path: PathBuf,
}

impl Whole {
    /// Gives the data another name. It may come back by [`Whole::take_back`].
    pub(crate) fn place(&self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).map_err(|e| local(format_args!("placing {}", to.display()), e))
    }

    /// The data, to read.
    pub(crate) fn data(&self) -> Result<File> {
        File::open(&self.path).map_err(|e| local(format_args!("reading {}", self.path.display()), e))
    }

    /// Puts back what was placed, when it is still there: the next pull goes on from it.
    pub(crate) fn take_back(&self, from: &Path) {
        // A core that has read it may have made it read only.
        drop(fs::set_permissions(from, std::os::unix::fs::PermissionsExt::from_mode(0o600)));
        if let Err(error) = fs::rename(from, &self.path) {
            tracing::debug!(%error, "a fetched blob is not kept");
        }
    }

    /// Forgets it.
    pub(crate) fn discard(&self) {
        remove(&self.path);
    }
}

fn too_large(digest: &Digest) -> Error {
    Error::new(ErrorKind::TooLarge, format!("{digest} is larger than this machine can hold"))
}

fn list_of(path: &Path) -> PathBuf {
    path.with_extension("pieces")
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Opens a file and locks it; what was unlinked meanwhile by who had the lock does not count.
fn lock(path: &Path) -> std::io::Result<File> {
    let mut tries = 20;
    loop {
        let file = open(path)?;
        if let Err(busy) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A pull that was cancelled lets go a moment later.
            tries -= 1;
            if tries == 0 {
                return Err(busy.into());
            }
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let same =
            |there: fs::Metadata| file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()));
        if fs::symlink_metadata(path).is_ok_and(same) {
            return Ok(file);
        }
    }
}

/// Either hash function.
enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::from_sha256(&hasher.finalize().into()),
            Hasher::Sha512(hasher) => Digest::from_sha512(&hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 2 * PIECE + 5;

    fn bytes() -> Vec<u8> {
        (0..SIZE).map(|i| (i % 251) as u8).collect()
    }

    fn put(partial: &Partial, index: usize) {
        let (start, end) = partial.span(index);
        let piece = &bytes()[start as usize..end as usize];
        partial.write(piece, start).unwrap();
        assert_eq!(partial.ends_at(end), Some(index));
        partial.note(index, &blake3::hash(piece));
    }

    #[test]
    fn pieces_count_again_only_while_they_are_what_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::sha256_of(&bytes());
        let open = || Partial::open(dir.path(), &digest, SIZE).unwrap();
        let first = open();
        assert_eq!(first.missing(1), [(0, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, SIZE)]);
        assert_eq!(first.missing(2), [(0, 2 * PIECE), (2 * PIECE, SIZE)]);
        put(&first, 0);
        put(&first, 2);
        let busy = Partial::open(dir.path(), &digest, SIZE).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Conflict);
        let data = first.path.clone();
        drop(first);
        // A line that the power cut, one of a piece that is not there, one that is noise.
        let list = list_of(&data);
        let mut text = fs::read_to_string(&list).unwrap();
        text.push_str(&format!("7 {0}\nx\n1 {0}\n1 abc", blake3::hash(b"").to_hex()));
        fs::write(&list, text).unwrap();
        let second = open();
        assert_eq!((second.missing(9), second.present()), (vec![(PIECE, 2 * PIECE)], PIECE + 5));
        drop(second);
        // A byte that changed.
        File::options().write(true).open(&data).unwrap().write_all_at(b"!", 3).unwrap();
        let third = open();
        assert_eq!(third.missing(9), [(0, 2 * PIECE)]);
        drop(third);
        // Another size under the same digest: a lie somewhere, so nothing counts.
        let other = Partial::open(dir.path(), &digest, SIZE + 1).unwrap();
        assert_eq!(other.present(), 0);
        drop(other);
        let last = open();
        (0..3).for_each(|i| put(&last, i));
        // What is there stays as it was hashed, whatever a server sends for it.
        last.write(b"!!!", PIECE + 7).unwrap();
        last.note(1, &blake3::hash(b"!!!"));
        assert_eq!(last.hash().unwrap(), Some(digest.clone()));
        last.discard();
        assert_eq!(fs::read_dir(folder(dir.path())).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_written_past_the_end_and_nothing_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::sha256_of(b"abc");
        let partial = Partial::open(dir.path(), &digest, 3).unwrap();
        assert_eq!(partial.write(b"abcd", 0).unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(partial.write(b"a", u64::MAX).unwrap_err().kind(), ErrorKind::TooLarge);
        let path = partial.path.clone();
        partial.discard();
        drop(partial);
        fs::write(dir.path().join("victim"), "v").unwrap();
        std::os::unix::fs::symlink(dir.path().join("victim"), &path).unwrap();
        assert!(Partial::open(dir.path(), &digest, 3).is_err());
        assert_eq!(fs::read_to_string(dir.path().join("victim")).unwrap(), "v");
    }

    #[test]
    fn what_nobody_goes_on_with_is_swept_after_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - KEPT - Duration::from_secs(60);
        let held = Partial::open(dir.path(), &Digest::sha256_of(b"held"), 4).unwrap();
        held.data.set_modified(old).unwrap();
        for (text, age) in [(b"old".as_slice(), Some(old)), (b"new", None)] {
            let partial = Partial::open(dir.path(), &Digest::sha256_of(text), 3).unwrap();
            age.map_or(Ok(()), |age| partial.data.set_modified(age)).unwrap();
        }
        sweep(dir.path());
        let exists = |text| folder(dir.path()).join(Digest::sha256_of(text).as_str().replace(':', "-")).exists();
        assert_eq!([b"held".as_slice(), b"old", b"new"].map(exists), [true, false, true]);
        assert_eq!(fs::read_dir(folder(dir.path())).unwrap().count(), 4);
    }

    #[test]
    fn an_empty_blob_is_whole_at_once_and_a_stopped_hash_ends() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Partial::open(dir.path(), &Digest::of(Algorithm::Sha512, b""), 0).unwrap();
        assert_eq!(empty.missing(1), []);
        assert_eq!(empty.hash().unwrap(), Some(Digest::of(Algorithm::Sha512, b"")));
        let partial = Partial::open(dir.path(), &Digest::sha256_of(b"abc"), 3).unwrap();
        std::thread::scope(|scope| {
            let hash = scope.spawn(|| partial.hash());
            partial.stop();
            assert_eq!(hash.join().unwrap().unwrap(), None);
        });
    }
}
