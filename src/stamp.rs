//! Inode stamps: how an open is O(1) in the file's size.
//!
//! Owns: what identifies an unchanged file, and its cache under `stamps/`. Promises: a stamp is only ever compared, never
//! trusted for content: a missing or different one costs a full re-check, an equal one skips it, and every read is checked
//! either way. Leaves out: the re-check (`scan`).

use crate::digest::Sha256Digest;
use crate::layout::{Folder, Layout, blob_name};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// What changes whenever a file is written, replaced, linked, renamed or chmodded. The device number is left out: it
/// may differ after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    /// Of what a name in a folder leads to now, without opening it.
    pub(crate) fn at(folder: &std::os::fd::OwnedFd, name: &str) -> rustix::io::Result<Stamp> {
        let s = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Stamp {
            ino: s.st_ino,
            size: u64::try_from(s.st_size).unwrap_or(0),
            mtime: (s.st_mtime, s.st_mtime_nsec as i64),
            ctime: (s.st_ctime, s.st_ctime_nsec as i64),
        })
    }

    /// The inode's number: which file it is, whatever was done to it.
    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    /// All of it, to compare with what was written down.
    pub(crate) fn text(&self) -> String {
        line(self).trim_end().to_owned()
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn of(file: &File) -> std::io::Result<Stamp> {
        let m = file.metadata()?;
        Ok(Stamp {
            ino: m.ino(),
            size: m.size(),
            mtime: (m.mtime(), m.mtime_nsec()),
            ctime: (m.ctime(), m.ctime_nsec()),
        })
    }
}

/// The stamps of a blob and of its tree, taken after our own last change to either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps {
    pub(crate) blob: Stamp,
    pub(crate) tree: Stamp,
}

impl Stamps {
    /// Of what is stored for a blob now, without opening it; none while either is missing.
    pub(crate) fn at(layout: &Layout, sha256: &Sha256Digest) -> Option<Stamps> {
        let at = |folder| Stamp::at(layout.folder(folder), &blob_name(sha256)).ok();
        Some(Stamps { blob: at(Folder::Blobs)?, tree: at(Folder::Trees)? })
    }

    pub(crate) fn of(blob: &File, tree: &File) -> std::io::Result<Stamps> {
        Ok(Stamps { blob: Stamp::of(blob)?, tree: Stamp::of(tree)? })
    }

    /// Whether these are the same files, whatever was done to them.
    pub(crate) fn same_files(&self, other: &Stamps) -> bool {
        (self.blob.ino, self.tree.ino) == (other.blob.ino, other.tree.ino)
    }

    /// Whether nothing but the inode's own change time differs.
    pub(crate) fn same_but_ctime(&self, other: &Stamps) -> bool {
        let content = |s: &Stamp| (s.ino, s.size, s.mtime);
        content(&self.blob) == content(&other.blob) && content(&self.tree) == content(&other.tree)
    }

    /// The stamps recorded for a blob, or none.
    pub(crate) fn recorded(layout: &Layout, sha256: &Sha256Digest) -> Option<Stamps> {
        let bytes = layout.read_small(Folder::Stamps, &blob_name(sha256), 1024).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let mut lines = text.lines().map(parse);
        match (lines.next()??, lines.next()??, lines.next()) {
            (blob, tree, None) => Some(Stamps { blob, tree }),
            _ => None,
        }
    }

    /// Records the stamps. A failure costs a re-check later and nothing else.
    pub(crate) fn record(&self, layout: &Layout, sha256: &Sha256Digest) {
        if !layout.is_writable() {
            return;
        }
        let text = format!("{}{}", line(&self.blob), line(&self.tree));
        if let Err(e) = layout.write_cache(Folder::Stamps, &blob_name(sha256), text.as_bytes()) {
            tracing::debug!(%sha256, error = %e, "stamp not recorded; the next open re-checks");
        }
    }
}

fn line(s: &Stamp) -> String {
    format!("{} {} {} {} {} {}\n", s.ino, s.size, s.mtime.0, s.mtime.1, s.ctime.0, s.ctime.1)
}

fn parse(line: &str) -> Option<Stamp> {
    let mut numbers = line.split(' ');
    let stamp = Stamp {
        ino: numbers.next()?.parse().ok()?,
        size: numbers.next()?.parse().ok()?,
        mtime: (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?),
        ctime: (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?),
    };
    numbers.next().is_none().then_some(stamp)
}
