//! Reading a staged file back, checked.
//!
//! Owns: [`Checked`], a file in tmp/ or a stored blob as something to inspect. Promises: every byte it gives was hashed in the pass that staged the
//! file: what is judged is what will be stored, whatever happens to the file in between. Leaves out: staging (`ingest`).

use crate::artifact::FileEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::format::input::{Input, short};
use crate::layout::{Folder, Layout, blob_name};
use crate::tree::{GROUP, Page, Tree};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A staged file and the tree that was made of it.
pub(crate) struct Checked {
    file: File,
    tree: Tree,
    size: u64,
    last: Mutex<Last>,
}

/// What was read last: inspections read in order, a little at a time, and jump between two places (an archive's directory
/// and its members).
#[derive(Default)]
struct Last {
    page: Option<(u64, Page)>,
    /// The latest first.
    groups: [Group; 2],
}

/// A group that was checked.
#[derive(Default)]
struct Group {
    number: Option<u64>,
    bytes: Vec<u8>,
}

impl Checked {
    /// The file `temp` and its tree `tree_temp`, both in tmp/.
    pub(crate) fn open(layout: &Layout, entry: &FileEntry, temp: &str, tree_temp: &str) -> Result<Checked> {
        let tree = Tree::open(layout.read_temp(tree_temp)?, entry.size_bytes, entry.blake3)?;
        Ok(Checked { file: layout.read_temp(temp)?, tree, size: entry.size_bytes, last: Mutex::default() })
    }

    /// The same of a blob that is stored already.
    pub(crate) fn open_stored(layout: &Layout, entry: &FileEntry) -> Result<Checked> {
        let name = blob_name(&entry.sha256);
        let open = |folder| {
            let opened = layout.read(folder, &name, OFlags::empty());
            opened.map_err(|e| Error::io(format_args!("opening the stored file of {}", entry.path), e))
        };
        let tree = Tree::open(open(Folder::Trees)?, entry.size_bytes, entry.blake3)?;
        Ok(Checked { file: open(Folder::Blobs)?, tree, size: entry.size_bytes, last: Mutex::default() })
    }

    /// Makes the first of `last`'s groups this one, checked.
    fn load(&self, group: u64, last: &mut Last) -> Result<()> {
        if last.groups[0].number == Some(group) {
            return Ok(());
        }
        last.groups.swap(0, 1);
        if last.groups[0].number == Some(group) {
            return Ok(());
        }
        let Group { number, bytes } = &mut last.groups[0];
        *number = None;
        let at = group * GROUP;
        bytes.resize(self.size.saturating_sub(at).min(GROUP) as usize, 0);
        self.file.read_exact_at(bytes, at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => short(),
            _ => Error::io("reading the copy back", e),
        })?;
        let page_number = Tree::page_of(group);
        let page = match last.page.take().filter(|(n, _)| *n == page_number) {
            Some((_, page)) => page,
            None => self.tree.page(page_number)?,
        };
        if !self.tree.group_is(&page, group, bytes) {
            let why = format!("the copy was changed at byte {at} before it was inspected: promote again");
            return Err(Error::new(ErrorKind::SourceChanged, why));
        }
        *number = Some(group);
        last.page = Some((page_number, page));
        Ok(())
    }
}

impl Input for Checked {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        if at.checked_add(out.len() as u64).is_none_or(|end| end > self.size) {
            return Err(short());
        }
        let mut last = self.last.lock();
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            self.load(at / GROUP, &mut last)?;
            let from = (at % GROUP) as usize;
            let bytes = &last.groups[0].bytes;
            let n = out.len().min(bytes.len() - from);
            out[..n].copy_from_slice(&bytes[from..from + n]);
            (at, out) = (at + n as u64, &mut out[n..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;
    use crate::layout::Access;
    use crate::tree::Builder;

    #[test]
    fn what_was_changed_after_it_was_hashed_is_not_inspected() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("root");
        let layout = Layout::open(&root, Access::Create).expect("a root");
        let group = GROUP as usize;
        for len in [0, 1, group, group + 1, 3 * group + 7, 300 * group] {
            let bytes: Vec<u8> = (0..len).map(|i| (i / 3 % 251) as u8).collect();
            let mut builder = Builder::default();
            builder.update(&bytes).expect("memory");
            let (blake3, tree) = builder.finish().expect("memory");
            let (temp, tree_temp) = (layout.write_temp(&bytes).expect("room"), layout.write_temp(&tree).expect("room"));
            let path = "m".parse().expect("a path");
            let entry = FileEntry { path, size_bytes: len as u64, sha256: Sha256Digest::of(&bytes), blake3 };
            let open = || Checked::open(&layout, &entry, &temp, &tree_temp);
            let mut out = vec![0; len];
            open().expect("opens").read_at(0, &mut out).expect("reads");
            assert!(out == bytes, "{len}");
            let mut piece = vec![0; len.min(100)];
            open().expect("opens").read_at((len - piece.len()) as u64, &mut piece).expect("reads");
            assert!(piece == bytes[len - piece.len()..]);
            for past in [(len as u64, 1), (0, len + 1), (u64::MAX, 1)] {
                let e = open().expect("opens").read_at(past.0, &mut vec![0; past.1]).expect_err("past the end");
                assert_eq!(e.kind(), ErrorKind::SourceChanged);
            }
            if len == 0 {
                continue;
            }
            let stored = std::fs::OpenOptions::new().write(true).open(root.join("tmp").join(&temp)).expect("there");
            stored.write_all_at(&[bytes[len - 1] ^ 1], len as u64 - 1).expect("written");
            let checked = open().expect("opens");
            let e = checked.read_at(len as u64 - 1, &mut [0]).expect_err("changed");
            assert_eq!(e.kind(), ErrorKind::SourceChanged, "{len}");
            if len > group {
                checked.read_at(0, &mut [0]).expect("the first group is as it was");
            }
            stored.set_len(len as u64 - 1).expect("cut");
            assert!(open().expect("opens").read_at(len as u64 - 1, &mut [0]).is_err());
        }
    }
}
