//! Staged bytes that inspection may trust.
//!
//! Owns: reading a file that was taken in and is not published yet. Promises: every byte that is handed out was hashed, out of
//! a private buffer, against the tree that the pass over the source built; a group that is another than it was then is an
//! error. Leaves out: building the tree (`ingest`), what the bytes mean (`format`).

use crate::buffer;
use crate::digest::Blake3Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::input::{Input, short};
use crate::layout::Layout;
use crate::tree::{Fresh, GROUP};
use std::cell::RefCell;
use std::fs::File;

/// Groups that are kept: a walk and what it jumps to.
const KEPT: usize = 2;

/// A staged file and the tree it was taken in with.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    file: File,
    tree: Fresh<'a>,
    /// The groups last used, the latest first.
    kept: RefCell<Vec<Group>>,
}

#[derive(Debug)]
struct Group {
    index: u64,
    bytes: Vec<u8>,
}

impl<'a> Checked<'a> {
    /// Opens the file `temp` of tmp/, `size` bytes long, for reads through the page cache: the copy is written around it.
    /// `tree` is what [`tree::Builder::finish`](crate::tree::Builder::finish) gave.
    pub(crate) fn open(layout: &Layout, temp: &str, size: u64, root: Blake3Digest, tree: &'a [u8]) -> Result<Self> {
        let file = layout.read_temp(temp).map_err(|e| Error::io("opening the staged file for its inspection", e))?;
        Checked::new(file, size, root, tree)
    }

    fn new(file: File, size: u64, root: Blake3Digest, tree: &'a [u8]) -> Result<Self> {
        Ok(Checked { file, tree: Fresh::new(tree, size, root)?, kept: RefCell::default() })
    }

    /// Reads the group `index`, into the memory of one that is no longer needed, and checks it.
    fn load(&self, index: u64, mut bytes: Vec<u8>) -> Result<Group> {
        let at = index * GROUP;
        let wanted = (self.tree.size() - at).min(GROUP) as usize;
        bytes.try_reserve_exact(wanted.saturating_sub(bytes.len())).map_err(|_| buffer::no_memory(wanted))?;
        bytes.resize(wanted, 0);
        std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut bytes, at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => altered(),
            _ => Error::io("reading the staged file for its inspection", e),
        })?;
        if self.tree.group_is(index, &bytes) { Ok(Group { index, bytes }) } else { Err(altered()) }
    }
}

impl Input for Checked<'_> {
    fn size(&self) -> u64 {
        self.tree.size()
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        if at.checked_add(out.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(short());
        }
        let mut kept = self.kept.borrow_mut();
        let (mut at, mut left) = (at, out);
        while !left.is_empty() {
            let (index, from) = (at / GROUP, (at % GROUP) as usize);
            let group = match kept.iter().position(|group| group.index == index) {
                Some(place) => kept.remove(place),
                None => {
                    let oldest = if kept.len() < KEPT { None } else { kept.pop() };
                    self.load(index, oldest.map(|group| group.bytes).unwrap_or_default())?
                }
            };
            let (now, rest) = left.split_at_mut(left.len().min(group.bytes.len() - from));
            now.copy_from_slice(&group.bytes[from..from + now.len()]);
            at += now.len() as u64;
            left = rest;
            kept.insert(0, group);
        }
        Ok(())
    }
}

fn altered() -> Error {
    Error::new(
        ErrorKind::SourceChanged,
        "the bytes changed after they were hashed: stop what writes the file, or check the disk, and promote again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Builder, SPAN};
    use std::os::unix::fs::FileExt;

    const G: u64 = GROUP;

    fn data(len: u64) -> Vec<u8> {
        (0..len).map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1]).collect()
    }

    fn built(bytes: &[u8]) -> (Blake3Digest, Vec<u8>) {
        let mut builder = Builder::default();
        builder.update(bytes).expect("room");
        builder.finish().expect("room")
    }

    fn on_disk(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(bytes, 0).expect("written");
        file
    }

    /// Reads of any shape that lie in a file of `len` bytes.
    fn reads(len: u64) -> Vec<(u64, u64)> {
        let edges = [
            0,
            1,
            100,
            G - 1,
            G,
            G + 1,
            2 * G,
            3 * G + 5,
            SPAN - 1,
            SPAN,
            SPAN + 1,
            len / 2,
            len.saturating_sub(1),
            len,
        ];
        let all = edges.iter().flat_map(|at| edges.map(|length| (*at, length)));
        all.filter(|(at, length)| at + length <= len).collect()
    }

    #[test]
    fn what_is_read_is_what_was_hashed() {
        for len in [0, 1, 1024, G - 1, G, G + 1, 3 * G, 3 * G + 7, SPAN, SPAN + 1, SPAN + 2 * G + 9] {
            let bytes = data(len);
            let (root, tree) = built(&bytes);
            let checked = Checked::new(on_disk(&bytes), len, root, &tree).expect("its own tree");
            assert_eq!(checked.size(), len);
            for (at, length) in reads(len) {
                let mut out = vec![0; length as usize];
                checked.read_at(at, &mut out).expect("good");
                assert!(out == bytes[at as usize..(at + length) as usize], "{length} bytes at {at} of {len}");
            }
            for (at, length) in [(0, len + 1), (len, 1), (len + 1, 0), (u64::MAX, 1), (1, len)] {
                let outcome = checked.read_at(at, &mut vec![0; length as usize]);
                assert_eq!(
                    outcome.expect_err("past the end").kind(),
                    ErrorKind::SourceChanged,
                    "{length} at {at} of {len}"
                );
            }
        }
    }

    /// One group, several, and several spans; each group's first and last byte.
    #[test]
    fn a_byte_changed_after_the_pass_is_never_handed_out() {
        for len in [1, G, G + 1, 3 * G + 7, SPAN + G + 9] {
            let bytes = data(len);
            let (root, tree) = built(&bytes);
            for flipped in [0, len / 2, len - 1] {
                let file = on_disk(&bytes);
                file.write_all_at(&[bytes[flipped as usize] ^ 1], flipped).expect("written");
                let checked = Checked::new(file, len, root, &tree).expect("the tree is good");
                for (at, length) in reads(len).into_iter().filter(|(_, length)| *length > 0) {
                    let touched = at / G <= flipped / G && flipped / G <= (at + length - 1) / G;
                    match checked.read_at(at, &mut vec![0; length as usize]) {
                        Ok(()) => assert!(!touched, "{length} bytes at {at} of {len}, byte {flipped} flipped"),
                        Err(e) => assert!(touched && e.kind() == ErrorKind::SourceChanged, "{length} at {at}: {e}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_file_cut_short_or_another_tree_is_an_error() {
        let bytes = data(2 * G);
        let (root, tree) = built(&bytes);
        let checked = Checked::new(on_disk(&bytes[..bytes.len() - 1]), 2 * G, root, &tree).expect("the tree is good");
        checked.read_at(0, &mut [0; 10]).expect("the first group is whole");
        assert_eq!(checked.read_at(G, &mut [0; 10]).expect_err("cut").kind(), ErrorKind::SourceChanged);
        for (len, tree) in
            [(G, &tree[..]), (2 * G + 1, &tree), (2 * G, &tree[1..]), (2 * G, &tree[..40]), (SPAN + 1, &tree)]
        {
            assert_eq!(
                Checked::new(on_disk(&bytes), len, root, tree).expect_err("does not fit").kind(),
                ErrorKind::Corrupt
            );
        }
    }

    /// What was checked is kept: the file is read once for many small reads of two places.
    #[test]
    fn groups_in_use_are_read_once() {
        let bytes = data(4 * G);
        let (root, tree) = built(&bytes);
        let file = on_disk(&bytes);
        let checked =
            Checked::new(file.try_clone().expect("a second handle"), 4 * G, root, &tree).expect("its own tree");
        let mut out = [0; 3];
        for at in [0, 2 * G] {
            checked.read_at(at, &mut out).expect("good");
        }
        file.write_all_at(&[0xff; 64], 0).expect("written");
        file.write_all_at(&[0xff; 64], 2 * G).expect("written");
        for at in [0, 2 * G, 1, 2 * G + 1] {
            checked.read_at(at, &mut out).expect("kept");
            assert_eq!(out, bytes[at as usize..at as usize + 3]);
        }
        checked.read_at(3 * G, &mut out).expect("good");
        checked.read_at(2 * G, &mut out).expect("still kept");
        checked.read_at(0, &mut out).expect_err("no longer kept");
    }
}
