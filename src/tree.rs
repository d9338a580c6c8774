//! The hash tree of a blob: what makes a read verifiable without reading the rest.
//!
//! Owns: the tree's shape, its file under `trees/`, and the check of one group. Promises: the root is the file's plain
//! BLAKE3 hash (so `b3sum` is an independent oracle), a page that does not lead to the root is an error, and no unverified
//! chaining value ever leaves this module. Leaves out: reading the blob itself (`verified`, `scan`).
//!
//! BLAKE3 (the paper, section 2.1) hashes a file as a binary tree over 1 KiB chunks in which each left subtree is the
//! largest power of two of chunks that leaves something for the right. So every aligned 64 KiB (a *group*) and every
//! aligned 16 MiB (a *span*) is a subtree of its own, and their chaining values are enough to check any group:
//!
//! ```text
//! root                                   in manifest.yaml
//!  +- span 0 .. span S-1                 16 MiB each; absent when there is only one
//!      +- group 0 .. group 255           64 KiB each; absent when there is only one
//!          +- the bytes
//!
//! trees/<sha256 of the blob>, little-endian:
//!   0   8   "SRTREE1\n"
//!   8   8   length of the blob in bytes
//!   16  32  root
//!   48  32*S  chaining values of the spans      (S = 0 when the blob fits one span)
//!   ..  32*G  chaining values of the groups     (G = 0 when the blob fits one group)
//! ```

use crate::buffer;
use crate::digest::Blake3Digest;
use crate::error::{Error, ErrorKind, Result};
use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of one group: the unit of a verified read.
pub const GROUP: u64 = 64 << 10;
/// Bytes of one span: the unit of a tree page.
pub const SPAN: u64 = 16 << 20;
/// Groups of one span.
const GROUPS_PER_SPAN: u64 = SPAN / GROUP;

const MAGIC: &[u8; 8] = b"SRTREE1\n";
const HEADER: u64 = 48;

/// A chaining value.
pub(crate) type Cv = [u8; 32];

fn groups_of(len: u64) -> u64 {
    if len <= GROUP { 0 } else { len.div_ceil(GROUP) }
}

fn spans_of(len: u64) -> u64 {
    if len <= SPAN { 0 } else { len.div_ceil(SPAN) }
}

/// The chaining value of the group `index`, which is not the whole file.
pub(crate) fn group_cv(index: u64, bytes: &[u8]) -> Cv {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * GROUP);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Joins the values of consecutive subtrees of `unit` bytes that cover `len` bytes; `len` is more than `unit`.
fn merge(values: &[Cv], len: u64, unit: u64) -> (Cv, Cv) {
    let left_len = left_subtree_len(len);
    let at = usize::try_from(left_len / unit).expect("no more values than fit in memory");
    let (left, right) = values.split_at(at);
    (subtree(left, left_len, unit), subtree(right, len - left_len, unit))
}

fn subtree(values: &[Cv], len: u64, unit: u64) -> Cv {
    match values {
        [one] => *one,
        many => {
            let (left, right) = merge(many, len, unit);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

fn root(values: &[Cv], len: u64, unit: u64) -> Blake3Digest {
    let (left, right) = merge(values, len, unit);
    Blake3Digest::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

/// What the groups of one span come to.
pub(crate) enum SpanValue {
    /// A part of a longer file.
    Part(Cv),
    /// The whole file: its root.
    Whole(Blake3Digest),
}

/// The value of the span `index` of a file of `len` bytes from its group values. `only` is the plain hash of a file of
/// one group.
pub(crate) fn span_value(index: u64, len: u64, groups: &[Cv], only: Option<Blake3Digest>) -> SpanValue {
    match only {
        Some(hash) if len <= GROUP => SpanValue::Whole(hash),
        _ if len <= SPAN => SpanValue::Whole(root(groups, len, GROUP)),
        _ => SpanValue::Part(subtree(groups, (len - index * SPAN).min(SPAN), GROUP)),
    }
}

/// The root of a file of `len` bytes from the values of its spans, more than one.
pub(crate) fn root_of_spans(spans: &[Cv], len: u64) -> Blake3Digest {
    root(spans, len, SPAN)
}

/// Builds a tree from the bytes of a file, group by group, in one pass.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    groups: Vec<Cv>,
    only: Option<Blake3Digest>,
    len: u64,
}

impl Builder {
    /// Takes the next bytes: whole groups, but for the last call.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<()> {
        debug_assert_eq!(self.len % GROUP, 0, "only the last piece may end inside a group");
        let more = bytes.len().div_ceil(GROUP as usize);
        self.groups.try_reserve(more).map_err(|_| buffer::no_memory(self.groups.len() * size_of::<Cv>()))?;
        for group in bytes.chunks(GROUP as usize) {
            if self.groups.is_empty() {
                self.only = Some(Blake3Digest::from_bytes(*blake3::hash(group).as_bytes()));
            }
            self.groups.push(group_cv(self.len / GROUP, group));
            self.len += group.len() as u64;
        }
        Ok(())
    }

    /// The finished tree: its root and its file.
    pub(crate) fn finish(self) -> Result<(Blake3Digest, Vec<u8>)> {
        let Builder { groups, only, len } = self;
        let spans: Vec<Cv> = if spans_of(len) == 0 {
            Vec::new()
        } else {
            let pages = groups.chunks(GROUPS_PER_SPAN as usize);
            (0..)
                .zip(pages)
                .map(|(i, page)| match span_value(i, len, page, None) {
                    SpanValue::Part(cv) => cv,
                    SpanValue::Whole(_) => unreachable!("a file of several spans has no span that is the whole"),
                })
                .collect()
        };
        let root = match only {
            _ if !spans.is_empty() => root_of_spans(&spans, len),
            _ if len > GROUP => root(&groups, len, GROUP),
            Some(hash) => hash,
            None => Blake3Digest::from_bytes(*blake3::hash(b"").as_bytes()),
        };
        let mut file: Vec<u8> = buffer::with_room(HEADER as usize + 32 * (spans.len() + groups.len()))?;
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&len.to_le_bytes());
        file.extend_from_slice(root.as_bytes());
        file.extend(spans.iter().flatten());
        if len > GROUP {
            file.extend(groups.iter().flatten());
        }
        Ok((root, file))
    }
}

/// The group values of one span, checked.
#[derive(Debug)]
pub(crate) struct Page(Vec<Cv>);

/// A tree on disk whose spans were checked against the root of the manifest.
#[derive(Debug)]
pub(crate) struct Tree {
    file: File,
    len: u64,
    root: Blake3Digest,
    spans: Vec<Cv>,
}

fn altered(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the hash tree was altered: {what}"))
}

impl Tree {
    /// Reads the header and the spans, and checks them against `root`, the manifest's.
    pub(crate) fn open(file: File, len: u64, root: Blake3Digest) -> Result<Tree> {
        let size = file.metadata().map_err(|e| unreadable(&e))?.len();
        if size != HEADER + 32 * (spans_of(len) + groups_of(len)) {
            return Err(altered("its size does not fit the blob's"));
        }
        let mut header = [0; HEADER as usize];
        file.read_exact_at(&mut header, 0).map_err(|e| unreadable(&e))?;
        if header[..8] != *MAGIC || header[8..16] != len.to_le_bytes() || header[16..] != *root.as_bytes() {
            return Err(altered("its header is not the one recorded"));
        }
        let spans = read_values(&file, HEADER, spans_of(len))?;
        if !spans.is_empty() && root_of_spans(&spans, len) != root {
            return Err(altered("its spans do not lead to the root"));
        }
        Ok(Tree { file, len, root, spans })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn root(&self) -> &Blake3Digest {
        &self.root
    }

    /// The span that holds `group`.
    pub(crate) fn page_of(group: u64) -> u64 {
        group / GROUPS_PER_SPAN
    }

    /// Loads the page `index` and checks it against its span.
    pub(crate) fn page(&self, index: u64) -> Result<Page> {
        let first = index * GROUPS_PER_SPAN;
        let groups = read_values(&self.file, HEADER + 32 * (self.spans.len() as u64 + first), self.values_of(index))?;
        self.page_of_values(index, groups).ok_or_else(|| altered(&format!("page {index} does not lead to the root")))
    }

    /// The page of a span from the values of its groups, wherever they come from; none when they do not lead to the root.
    pub(crate) fn page_of_values(&self, index: u64, groups: Vec<Cv>) -> Option<Page> {
        let good = groups.len() as u64 == self.values_of(index)
            && match span_value(index, self.len, &groups, (self.len <= GROUP).then_some(self.root)) {
                SpanValue::Whole(root) => root == self.root,
                SpanValue::Part(cv) => self.spans.get(index as usize) == Some(&cv),
            };
        good.then_some(Page(groups))
    }

    /// How many values the page `index` has.
    fn values_of(&self, index: u64) -> u64 {
        groups_of(self.len).saturating_sub(index * GROUPS_PER_SPAN).min(GROUPS_PER_SPAN)
    }

    /// The tree's file as it must be, from pages in the order of their spans.
    pub(crate) fn rewritten(&self, pages: impl Iterator<Item = Page>) -> Result<Vec<u8>> {
        let size = HEADER + 32 * (spans_of(self.len) + groups_of(self.len));
        let mut file: Vec<u8> = buffer::with_room(usize::try_from(size).map_err(|_| buffer::no_memory(usize::MAX))?)?;
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&self.len.to_le_bytes());
        file.extend_from_slice(self.root.as_bytes());
        file.extend(self.spans.iter().flatten());
        pages.for_each(|page| file.extend(page.0.iter().flatten()));
        Ok(file)
    }

    /// Checks every page.
    pub(crate) fn check_all(&self) -> Result<()> {
        (0..self.len.div_ceil(SPAN)).try_for_each(|index| self.page(index).map(drop))
    }

    /// Whether `bytes` are the whole group `group`, whose page is `page`.
    pub(crate) fn group_is(&self, page: &Page, group: u64, bytes: &[u8]) -> bool {
        let wanted = self.len.saturating_sub(group * GROUP).min(GROUP);
        if bytes.len() as u64 != wanted {
            return false;
        }
        if self.len <= GROUP {
            return blake3::hash(bytes).as_bytes() == self.root.as_bytes();
        }
        page.0.get((group % GROUPS_PER_SPAN) as usize) == Some(&group_cv(group, bytes))
    }
}

fn unreadable(e: &std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::UnexpectedEof {
        return altered("it was cut short");
    }
    Error::new(ErrorKind::Unreadable, format!("the hash tree cannot be read: {e}"))
}

fn read_values(file: &File, at: u64, count: u64) -> Result<Vec<Cv>> {
    let mut values = buffer::filled([0; 32], usize::try_from(count).expect("bounded by the tree's checked size"))?;
    file.read_exact_at(values.as_flattened_mut(), at).map_err(|e| unreadable(&e))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[3]).collect()
    }

    fn built(bytes: &[u8]) -> (Blake3Digest, Vec<u8>) {
        let mut builder = Builder::default();
        bytes.chunks(4 * GROUP as usize).for_each(|piece| builder.update(piece).expect("room"));
        builder.finish().expect("room")
    }

    fn on_disk(tree: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(tree).expect("written");
        file
    }

    const G: usize = GROUP as usize;
    const S: usize = SPAN as usize;
    const SIZES: [usize; 14] =
        [0, 1, 1023, 1024, 1025, G - 1, G, G + 1, 3 * G, S - 1, S, S + 1, S + G + 7, 2 * S + 3 * G + 5];

    #[test]
    fn the_root_is_the_plain_blake3_hash_and_every_group_checks() {
        for len in SIZES {
            let bytes = data(len);
            let (root, file) = built(&bytes);
            assert_eq!(root.as_bytes(), blake3::hash(&bytes).as_bytes(), "length {len}");
            let tree = Tree::open(on_disk(&file), len as u64, root).expect("its own tree opens");
            tree.check_all().expect("its own pages check");
            for (i, group) in (0..).zip(bytes.chunks(G)) {
                let page = tree.page(Tree::page_of(i)).expect("a page");
                assert!(tree.group_is(&page, i, group), "length {len}, group {i}");
                let mut other = group.to_vec();
                other[group.len() / 2] ^= 1;
                assert!(!tree.group_is(&page, i, &other), "length {len}, group {i}, one bit flipped");
                assert!(!tree.group_is(&page, i, &group[1..]), "a short group is not the group");
            }
        }
    }

    /// Threat 13, in the tree itself; the registry's answer is tested in tests/threats.rs.
    #[test]
    fn t13_a_tree_with_any_byte_changed_is_refused() {
        for len in [G + 1, 3 * G, S + G + 7] {
            let (root, file) = built(&data(len));
            for at in [0, 8, 16, 47, 48, file.len() / 2, file.len() - 1] {
                let mut bad = file.clone();
                bad[at] ^= 0x40;
                let outcome = Tree::open(on_disk(&bad), len as u64, root).and_then(|t| t.check_all());
                assert_eq!(outcome.expect_err("altered").kind(), ErrorKind::Corrupt, "length {len}, byte {at}");
            }
            for bad in [&file[..file.len() - 32], &[&file[..], &[0; 32]].concat()] {
                let outcome = Tree::open(on_disk(bad), len as u64, root);
                assert_eq!(outcome.expect_err("another size").kind(), ErrorKind::Corrupt);
            }
            let (other_root, _) = built(&data(len + 1));
            assert!(Tree::open(on_disk(&file), len as u64, other_root).is_err(), "the manifest decides");
        }
    }
}
