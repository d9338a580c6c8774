//! One file of the mount.
//!
//! Owns: [`FileNode`], the facts behind one inode number. Promises: they never change; other content, another status
//! or a re-admission is another node with another inode number, so that a page cache belongs to exactly one state.
//! Leaves out: where it hangs in the tree (`view`), reading it.

use crate::gate::Gate;
use securereg::{Artifact, Blake3Digest, FileEntry, ModelName, RelPath, Sha256Digest};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Whether a file is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Listed, and open(2) succeeds.
    Promoted,
    /// Not listed; a lookup by name finds it, so that open(2) can say EACCES and not ENOENT.
    Quarantined,
}

impl Status {
    /// The word of the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Status::Promoted => "promoted",
            Status::Quarantined => "quarantined",
        }
    }
}

/// How the core is asked for the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opens {
    /// A file of a model.
    File(ModelName, RelPath),
    /// A blob, by its digest.
    Blob,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) opens: Opens,
    pub(crate) sha256: Sha256Digest,
    pub(crate) blake3: Blake3Digest,
    pub(crate) size: u64,
    pub(crate) status: Status,
    pub(crate) promoted_at: String,
}

impl Facts {
    /// The facts of `file`, one of `artifact`'s.
    pub(crate) fn of(artifact: &Artifact, file: &FileEntry) -> Facts {
        Facts {
            opens: Opens::File(artifact.name.clone(), file.path.clone()),
            sha256: file.sha256,
            blake3: file.blake3,
            size: file.size_bytes,
            status: if artifact.is_promoted() { Status::Promoted } else { Status::Quarantined },
            promoted_at: artifact.promoted_at.clone(),
        }
    }
}

/// A file behind one inode number.
#[derive(Debug)]
pub(crate) struct FileNode {
    pub(crate) ino: u64,
    pub(crate) parent: u64,
    pub(crate) name: Box<str>,
    pub(crate) facts: Facts,
    pub(crate) mtime: SystemTime,
    pub(crate) gate: Gate,
    /// How many lookups the kernel holds and will give back with FORGET.
    pub(crate) lookups: AtomicU64,
    /// Whether the path still leads here.
    pub(crate) linked: AtomicBool,
}

impl FileNode {
    pub(crate) fn new(ino: u64, parent: u64, name: &str, facts: Facts) -> FileNode {
        let mtime = parse_time(&facts.promoted_at);
        FileNode {
            ino,
            parent,
            name: name.into(),
            facts,
            mtime,
            gate: Gate::default(),
            lookups: AtomicU64::new(0),
            linked: AtomicBool::new(true),
        }
    }

    /// Whether the kernel knows this inode.
    pub(crate) fn is_known(&self) -> bool {
        self.lookups.load(Ordering::SeqCst) > 0
    }

    /// Whether the path still leads here.
    pub(crate) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::SeqCst)
    }
}

/// The epoch, for a time that cannot be read: an odd date never keeps a model from being served.
fn parse_time(text: &str) -> SystemTime {
    // Whole seconds: what a client stores in a cache or an archive then compares equal.
    let seconds = text.parse::<jiff::Timestamp>().map_or(0, |time| u64::try_from(time.as_second()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
