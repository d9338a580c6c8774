//! Which repository holds which blob.
//!
//! Owns: the records under `_blobs/`, and the lock by which blobs are dropped or kept. Promises: a record is written only when its
//! blob is stored, both durably; whoever drops a blob that no model holds asks here first, while nobody writes a record. Leaves
//! out: what the catalog holds (`catalog::store`).
//!
//! ```text
//! oci/<repository>/_blobs/sha256-<hex>          JSON: sha256, size_bytes, blake3; it pins what the blob must be
//! oci/<repository>/_blobs/sha512-<hex>          the same of a blob that was pushed by its SHA-512
//! oci/<repository>/_blobs/sha256-<hex>.sha512   and by this it is found by its SHA-256; it gives no access by that
//! ```
//! `run/holds.lock` is shared by those who write records, and taken alone by who drops blobs, with `run/commit.lock` in hand. Both
//! come through `run/holds.gate`: who waits to be alone keeps later comers out, or a busy registry would never drop anything.

use super::folders::{self, BLOBS};
use super::{ContentDigest, RepositoryName};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Layout, LockFile, read_bounded};
use rustix::fs::{AtFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;

/// A blob as a repository holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Its SHA-256.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its BLAKE3 hash.
    pub blake3: Blake3Digest,
}

pub(crate) const LOCK: &str = "holds.lock";
const GATE: &str = "holds.gate";

/// What the second record of a blob that was pushed by its SHA-512 ends with.
pub(super) const ALIAS: &str = ".sha512";

/// No record has more bytes.
const MAX_RECORD: u64 = 1024;

/// For as long as this lives, no blob is dropped.
pub(super) fn shared(layout: &Layout) -> Result<LockFile> {
    through_gate(layout, FlockOperation::LockShared)
}

/// For as long as this lives, no record is written. For whoever has the commit lock.
pub(crate) fn alone(layout: &Layout) -> Result<LockFile> {
    through_gate(layout, FlockOperation::LockExclusive)
}

fn through_gate(layout: &Layout, how: FlockOperation) -> Result<LockFile> {
    let _gate = layout.lock(GATE, FlockOperation::LockExclusive)?;
    layout.lock(LOCK, how)
}

/// Makes the files of both locks, while there is room: blobs are dropped when a disk is full, too.
pub(crate) fn prepare(layout: &Layout) {
    for name in [GATE, LOCK] {
        if let Err(e) = layout.try_lock(name, FlockOperation::NonBlockingLockShared) {
            tracing::warn!(error = %e, "without its locks no blob is dropped");
        }
    }
}

/// Those of these blobs that some repository holds. For whoever is [`alone`].
pub(crate) fn held(layout: &Layout, blobs: &[Sha256Digest]) -> Result<HashSet<Sha256Digest>> {
    let mut held = HashSet::new();
    folders::each(layout, |_, folder| {
        if held.len() == blobs.len() {
            return Ok(());
        }
        let Some(records) = folders::open_in(folder, BLOBS)? else { return Ok(()) };
        for sha256 in blobs {
            if !held.contains(sha256) && (is_there(&records, &plain(sha256))? || is_there(&records, &alias(sha256))?) {
                held.insert(*sha256);
            }
        }
        Ok(())
    })?;
    Ok(held)
}

/// Those of these blobs, or of all, that some repository holds, by one look at each record's name.
pub(crate) fn held_among(layout: &Layout, blobs: Option<&HashSet<Sha256Digest>>) -> Result<HashSet<Sha256Digest>> {
    let mut held = HashSet::new();
    folders::each(layout, |_, folder| {
        let Some(records) = folders::open_in(folder, BLOBS)? else { return Ok(()) };
        for entry in folders::entries(&records)? {
            let (name, _) = entry?;
            let known = blob_of(&name).filter(|sha256| blobs.is_none_or(|wanted| wanted.contains(sha256)));
            held.extend(known);
        }
        Ok(())
    })?;
    Ok(held)
}

/// The blob that a record of this name holds, as far as the name says so: a record by a SHA-512 has a second one that does.
pub(crate) fn blob_of(name: &str) -> Option<Sha256Digest> {
    match ContentDigest::of_file_name(name.strip_suffix(ALIAS).unwrap_or(name)) {
        Some(ContentDigest::Sha256(sha256)) => Some(sha256),
        _ => None,
    }
}

fn is_there(records: &OwnedFd, name: &str) -> Result<bool> {
    match rustix::fs::statat(records, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io(format_args!("looking for the record {name}"), e)),
    }
}

fn plain(sha256: &Sha256Digest) -> String {
    ContentDigest::Sha256(*sha256).file_name()
}

fn alias(sha256: &Sha256Digest) -> String {
    format!("{}{ALIAS}", plain(sha256))
}

/// The names of a blob's records, the one by which it is found last.
pub(crate) fn names(digest: &ContentDigest, sha256: &Sha256Digest) -> Vec<String> {
    match digest {
        ContentDigest::Sha256(_) => vec![digest.file_name()],
        ContentDigest::Sha512(_) => vec![alias(sha256), digest.file_name()],
    }
}

/// What a repository holds by a digest.
pub(super) fn read(layout: &Layout, repo: &RepositoryName, digest: &ContentDigest) -> Result<Option<Held>> {
    let name = digest.file_name();
    let Some(file) = folders::open_file(layout, repo, BLOBS, &name, OFlags::RDONLY)? else { return Ok(None) };
    let record = parse(&file, &name)?;
    let is_ours = |held: &Held| match digest {
        ContentDigest::Sha256(sha256) => held.sha256 == *sha256,
        ContentDigest::Sha512(_) => true,
    };
    match record.filter(is_ours) {
        Some(held) => Ok(Some(held)),
        None => {
            let why = format!("the record of {digest} in {repo} was altered: delete the blob there and push it again");
            Err(Error::new(ErrorKind::Corrupt, why))
        }
    }
}

/// What a record says, if it is one.
pub(crate) fn parse(file: &File, name: &str) -> Result<Option<Held>> {
    Ok(serde_json::from_slice(&read_bounded(file, name, MAX_RECORD)?).ok())
}

/// A record's text.
pub(super) fn text(held: &Held) -> Result<Vec<u8>> {
    serde_json::to_vec(held).map_err(|e| Error::new(ErrorKind::Io, "a record cannot be written").because(e))
}
