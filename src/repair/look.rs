//! What is damaged, and whether all of it can be healed.
//!
//! Owns: looking at a stored file, its tree, and second sources, without changing anything but tmp/. Promises: a tree that is
//! used leads to the root in manifest.yaml; a group counts as good, wherever it lies, by that tree alone; what cannot be read
//! is not called corrupt. Leaves out: writing (`heal`).

use super::{Blob, Gap, MAX_GAPS, Meter, Repair};
use crate::artifact::FileEntry;
use crate::buffer::{self, ReadBuf};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::READ_ONLY;
use crate::layout::{Folder, blob_name};
use crate::scan::Stored;
use crate::source::SourceFile;
use crate::sys::ReadLease;
use crate::tree::{self, Builder, GROUP, Page, SPAN, Tree};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::sync::Arc;

/// One read of a file from front to back.
const PIECE: u64 = 1 << 20;

/// What is to be done about one stored file.
pub(super) struct Plan<'a> {
    pub(super) blob: &'a Blob<'a>,
    /// What is wrong, in words.
    pub(super) damage: Vec<String>,
    /// Whether bytes or tree are other than what was promoted, and not merely out of order or unreadable.
    pub(super) is_corrupt: bool,
    /// A bad group is true.
    pub(super) bad: Vec<bool>,
    /// The stored file itself is written; else another one in its place.
    pub(super) in_place: bool,
    /// The tree as it must be, in tmp/, when the stored one is damaged.
    pub(super) tree: Option<String>,
    pub(super) gaps: Vec<Gap>,
    pub(super) more_gaps: u64,
}

impl Plan<'_> {
    pub(super) fn groups_bad(&self) -> u64 {
        self.bad.iter().filter(|bad| **bad).count() as u64
    }

    pub(super) fn bytes_to_write(&self) -> u64 {
        if self.in_place { self.groups_bad() * GROUP } else { self.blob.entry.size_bytes }
    }

    fn gap(&mut self, offset: u64, bytes: u64, why: String) {
        let room = self.gaps.len() < MAX_GAPS;
        match self.gaps.last_mut() {
            Some(last) if last.offset + last.bytes == offset && last.why == why => last.bytes += bytes,
            _ if room => self.gaps.push(Gap { path: self.blob.entry.path.clone(), offset, bytes, why }),
            _ => self.more_gaps += 1,
        }
    }
}

/// A stored file as it was found.
struct Found {
    file: Option<Stored>,
    size: u64,
    /// Regular, with one link, our own, and nobody writes to it.
    is_ours: bool,
    damage: Vec<String>,
    is_corrupt: bool,
}

/// A file read group by group: pieces of it in private memory.
pub(super) struct Reader {
    from: Stored,
    len: u64,
    piece: u64,
    buf: ReadBuf,
    /// What lies in `buf`.
    at: u64,
    got: u64,
    /// Why the last read failed.
    pub(super) trouble: Option<String>,
}

impl Reader {
    /// Of a file that must have `len` bytes; `piece` of them are read at once.
    pub(super) fn new(from: Stored, len: u64, piece: u64) -> Reader {
        Reader { from, len, piece, buf: ReadBuf::new(), at: 0, got: 0, trouble: None }
    }

    /// The bytes of a group as they are there; none when they cannot be read, or the file ends before.
    pub(super) fn group(&mut self, group: u64) -> Result<Option<&[u8]>> {
        let start = group * GROUP;
        let wanted = self.len.saturating_sub(start).min(GROUP);
        let inside = |at: u64, got: u64| at <= start && start + wanted <= at + got;
        if !inside(self.at, self.got) {
            self.load(start, self.piece)?;
            // A disk that fails in one place of a piece says nothing of the others.
            if self.trouble.is_some() && self.piece > GROUP {
                self.load(start, GROUP)?;
            }
        }
        if !inside(self.at, self.got) {
            return Ok(None);
        }
        let from = (start - self.at) as usize;
        Ok(Some(&self.buf.bytes(self.got as usize)[from..from + wanted as usize]))
    }

    fn load(&mut self, start: u64, piece: u64) -> Result<()> {
        let wanted = self.len.saturating_sub(start).min(piece) as usize;
        (self.at, self.got, self.trouble) = (start, 0, None);
        let space = self.buf.take(wanted.next_multiple_of(buffer::ALIGN))?;
        match self.from.read(space, start) {
            Ok(n) => self.got = n.min(wanted) as u64,
            Err(e) => self.trouble = Some(e.message().to_owned()),
        }
        Ok(())
    }

    /// The group, when it is good.
    pub(super) fn good(&mut self, tree: &Tree, page: &Page, group: u64) -> Result<Option<&[u8]>> {
        Ok(self.group(group)?.filter(|bytes| tree.group_is(page, group, bytes)))
    }
}

/// Pages of a tree, one after the other.
pub(super) struct Pages<'t> {
    tree: &'t Tree,
    last: Option<(u64, Page)>,
}

impl<'t> Pages<'t> {
    pub(super) fn new(tree: &'t Tree) -> Pages<'t> {
        Pages { tree, last: None }
    }

    pub(super) fn of(&mut self, group: u64) -> Result<&Page> {
        let index = Tree::page_of(group);
        if self.last.as_ref().is_none_or(|(at, _)| *at != index) {
            self.last = Some((index, self.tree.page(index)?));
        }
        self.last.as_ref().map(|(_, page)| page).ok_or_else(|| Error::new(ErrorKind::Corrupt, "no page was read"))
    }
}

/// Opens the second files of a blob; one that cannot be opened, or is not the one that was found, is of no use.
pub(super) fn open_seconds(seconds: &[&SourceFile]) -> Vec<Stored> {
    let open = |second: &&SourceFile| match second.open().and_then(|file| plain(&file)) {
        Ok(file) => Some(Stored { file, direct: false }),
        Err(e) => {
            tracing::warn!(path = %second.path, error = %e, "a second copy cannot be used");
            None
        }
    };
    seconds.iter().filter_map(open).collect()
}

fn plain(file: &Arc<File>) -> Result<File> {
    file.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))
}

impl<'t> Repair<'_, 't> {
    /// What is wrong with one stored file, if anything is.
    pub(super) fn look<'b>(&self, blob: &'b Blob<'b>, meter: &mut Meter<'_, 't>) -> Result<Option<Plan<'b>>> {
        let entry = blob.entry;
        let found = self.find(entry)?;
        let (stored_tree, tree_damage) = self.stored_tree(entry);
        let fine = found.damage.is_empty() && tree_damage.is_none();
        let mut plan = Plan {
            blob,
            is_corrupt: found.is_corrupt || tree_damage.is_some(),
            damage: found.damage,
            bad: Vec::new(),
            in_place: found.is_ours,
            tree: None,
            gaps: Vec::new(),
            more_gaps: 0,
        };
        let tree = match (stored_tree, tree_damage) {
            (Some(tree), None) => tree,
            (damaged, why) => {
                plan.damage.extend(why);
                let Some(text) = self.rebuild(blob, damaged, found.file.as_ref(), found.size)? else {
                    let why = "its hash tree is damaged, and neither the stored file nor another copy is whole";
                    plan.gap(0, entry.size_bytes, why.into());
                    return Ok(Some(plan));
                };
                let temp = self.inner.layout().write_temp(&text)?;
                self.temps.keep(&temp);
                let tree = Tree::open(self.inner.layout().read_temp(&temp)?, entry.size_bytes, entry.blake3)?;
                plan.tree = Some(temp);
                tree
            }
        };
        let count = usize::try_from(entry.size_bytes.div_ceil(GROUP)).map_err(|_| buffer::no_memory(usize::MAX))?;
        plan.bad = buffer::filled(true, count)?;
        if let Some(file) = found.file {
            self.mark_bad(entry, &tree, file, &mut plan, meter)?;
        }
        if plan.groups_bad() == 0 && fine {
            return Ok(None);
        }
        self.seek_seconds(&tree, &mut plan)?;
        Ok(Some(plan))
    }

    /// Opens the stored file, whatever it has become.
    fn find(&self, entry: &FileEntry) -> Result<Found> {
        let none =
            |what: String| Ok(Found { file: None, size: 0, is_ours: false, damage: vec![what], is_corrupt: true });
        let layout = self.inner.layout();
        let stat = match rustix::fs::statat(
            layout.folder(Folder::Blobs),
            blob_name(&entry.sha256),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return none("it is missing".into()),
            Err(e) => return Err(Error::io("looking for a stored file", e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return none("it was replaced by a link".into()),
            other => return none(format!("it was replaced by what is no file ({other:?})")),
        }
        let stored = Stored::open(layout, &entry.sha256, true)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let (mut damage, mut is_corrupt, mut is_ours) = (Vec::new(), false, true);
        if size != entry.size_bytes {
            damage.push(format!("it has {size} bytes, not {}", entry.size_bytes));
            is_corrupt = true;
        }
        if stat.st_nlink != 1 {
            damage.push("it has a second link".into());
            is_ours = false;
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            damage.push(format!("it belongs to uid {}", stat.st_uid));
            is_ours = false;
        }
        if has_writer(&stored) {
            damage.push("somebody has it open for writing".into());
            is_ours = false;
        }
        if Mode::from_raw_mode(stat.st_mode & 0o7777) != READ_ONLY {
            damage.push(format!("its mode is {:o}, not 444", stat.st_mode & 0o7777));
        }
        Ok(Found { file: Some(stored), size, is_ours, damage, is_corrupt })
    }

    /// The stored tree as far as its spans lead to the root, and what is wrong with it.
    fn stored_tree(&self, entry: &FileEntry) -> (Option<Tree>, Option<String>) {
        let file = match self.inner.layout().read(Folder::Trees, &blob_name(&entry.sha256), OFlags::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return (None, Some("its hash tree is missing".into())),
            Err(e) => return (None, Some(format!("its hash tree cannot be opened: {e}"))),
        };
        match Tree::open(file, entry.size_bytes, entry.blake3) {
            Err(e) => (None, Some(e.message().to_owned())),
            Ok(tree) => {
                let damage = tree.check_all().err().map(|e| e.message().to_owned());
                (Some(tree), damage)
            }
        }
    }

    /// The tree as it must be: its damaged pages from spans that lead to the root, or all of it from a file that does.
    fn rebuild(
        &self,
        blob: &Blob<'_>,
        damaged: Option<Tree>,
        stored: Option<&Stored>,
        size: u64,
    ) -> Result<Option<Vec<u8>>> {
        let entry = blob.entry;
        let mut readers = Vec::new();
        if let Some(stored) = stored.filter(|_| size >= entry.size_bytes) {
            let file = stored.file.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))?;
            readers.push(Reader::new(Stored { file, direct: stored.direct }, entry.size_bytes, PIECE));
        }
        let seconds = open_seconds(&blob.seconds).into_iter();
        readers.extend(seconds.map(|second| Reader::new(second, entry.size_bytes, PIECE)));
        if let Some(tree) = damaged
            && let Some(text) = self.rebuild_pages(&tree, &mut readers, entry.size_bytes)?
        {
            return Ok(Some(text));
        }
        for reader in &mut readers {
            let mut builder = Builder::default();
            let mut whole = true;
            for group in 0..entry.size_bytes.div_ceil(GROUP) {
                self.task.go_on()?;
                let Some(bytes) = reader.group(group)? else {
                    whole = false;
                    break;
                };
                builder.update(bytes)?;
            }
            let (root, text) = builder.finish()?;
            if whole && root == entry.blake3 {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn rebuild_pages(&self, tree: &Tree, readers: &mut [Reader], len: u64) -> Result<Option<Vec<u8>>> {
        let mut pages = Vec::new();
        for index in 0..len.div_ceil(SPAN) {
            self.task.go_on()?;
            let mut page = tree.page(index).ok();
            for reader in readers.iter_mut() {
                if page.is_none() {
                    page = page_from(tree, index, reader, len)?;
                }
            }
            match page {
                Some(page) => pages.push(page),
                None => return Ok(None),
            }
        }
        tree.rewritten(pages.into_iter()).map(Some)
    }

    /// Finds the bad groups of a stored file.
    fn mark_bad(
        &self,
        entry: &FileEntry,
        tree: &Tree,
        file: Stored,
        plan: &mut Plan<'_>,
        meter: &mut Meter<'_, '_>,
    ) -> Result<()> {
        let mut reader = Reader::new(file, entry.size_bytes, PIECE);
        let mut pages = Pages::new(tree);
        let mut unreadable = 0;
        for group in 0..plan.bad.len() as u64 {
            let good = reader.good(tree, pages.of(group)?, group)?.is_some();
            plan.bad[group as usize] = !good;
            if !good && reader.trouble.is_some() {
                unreadable += 1;
            }
            meter.step(GROUP.min(entry.size_bytes - group * GROUP))?;
        }
        let bad = plan.groups_bad() - unreadable;
        if bad > 0 {
            plan.damage.push(format!("{bad} of {} groups are not what was promoted", plan.bad.len()));
            plan.is_corrupt = true;
        }
        if unreadable > 0 {
            plan.damage.push(format!("{unreadable} of {} groups cannot be read", plan.bad.len()));
        }
        Ok(())
    }

    /// Sees whether each bad group has a good second.
    fn seek_seconds(&self, tree: &Tree, plan: &mut Plan<'_>) -> Result<()> {
        let size = plan.blob.entry.size_bytes;
        let open = open_seconds(&plan.blob.seconds);
        let mut readers: Vec<Reader> = open.into_iter().map(|second| Reader::new(second, size, PIECE)).collect();
        let mut pages = Pages::new(tree);
        for group in 0..plan.bad.len() as u64 {
            if !plan.bad[group as usize] {
                continue;
            }
            self.task.go_on()?;
            let page = pages.of(group)?;
            let mut why = None;
            for reader in &mut readers {
                if reader.good(tree, page, group)?.is_some() {
                    why = None;
                    break;
                }
                why = Some(match &reader.trouble {
                    Some(trouble) => format!("the other copy cannot be read there: {trouble}"),
                    None => "the other copy is not what was promoted there either".to_owned(),
                });
            }
            if readers.is_empty() {
                why = Some("there is no other copy of this file: name one with --from".to_owned());
            }
            if let Some(why) = why {
                plan.gap(group * GROUP, GROUP.min(size - group * GROUP), why);
            }
        }
        Ok(())
    }
}

/// Whether somebody has it open for writing, and would go on to write what was healed. A lease is granted only while nobody does;
/// a file system that knows none tells nothing.
fn has_writer(stored: &Stored) -> bool {
    let lease = stored.file.try_clone().and_then(|file| ReadLease::take(&Arc::new(file)));
    lease.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

/// A page out of the bytes of its span, when they lead to the root.
fn page_from(tree: &Tree, index: u64, reader: &mut Reader, len: u64) -> Result<Option<Page>> {
    let first = index * (SPAN / GROUP);
    let last = len.min((index + 1) * SPAN).div_ceil(GROUP);
    let mut values = Vec::new();
    if len > GROUP {
        for group in first..last {
            let Some(bytes) = reader.group(group)? else { return Ok(None) };
            values.push(tree::group_cv(group, bytes));
        }
    }
    Ok(tree.page_of_values(index, values))
}
