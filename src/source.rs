//! Where a promotion's bytes come from.
//!
//! Owns: opening a source once and finding out what it is: a file, a folder, a split set, or (in [`held`]) blobs of a repository; the
//! signature that lies with it.
//! Promises: what was opened is what is hashed (one descriptor a file, never through a link below the starting point, never
//! blocking on a FIFO or a device); a source's names are on the allow-list. Leaves out: reading it (`ingest`).

mod held;

use crate::artifact::Layout as Shape;
use crate::digest::shorten;
use crate::error::{Error, ErrorKind, Result};
use crate::format::finding::Findings;
use crate::format::folder::{self, Entry};
use crate::layout::read_bounded;
use crate::name::{MAX_DEPTH, RelPath};
use crate::signing::{BESIDE, IN_FOLDER, MAX_SIGNATURE, SignatureFile};
use held::HeldFile;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;

/// No artifact has more files.
pub const MAX_FILES: usize = 10_000;

/// An opened source.
#[derive(Debug)]
pub struct Source {
    pub(crate) shape: Shape,
    pub(crate) files: Vec<SourceFile>,
    /// Names that were left out of a folder because they are hidden.
    pub(crate) skipped: Vec<String>,
    /// The signature that lies with it, and is no part of it: `model.sig` in a folder, `FILE.sig` beside a file.
    pub(crate) signature: Option<SourceFile>,
}

/// One opened file of a source.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Its path inside the artifact.
    pub(crate) path: RelPath,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Found(Found),
    Held(HeldFile),
}

/// A file that was found on a disk.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) stat: Stat,
    /// The folder it was found from, and its path there.
    folder: Arc<OwnedFd>,
    name: String,
    /// Open already, of a source of few files; the files of a folder are opened when their turn comes, and must then be
    /// the ones that were found.
    file: Option<Arc<File>>,
}

/// How a source was taken in, which decides what may have changed about it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Read only.
    Copied,
    /// Linked and made read-only by us, which changes its ctime.
    Adopted,
}

impl Source {
    /// Opens `path` as a local user names it: a file, a folder, or the first shard of a split set. The last component may
    /// not be a link; in a folder, nothing may.
    pub fn open(path: &Path) -> Result<Source> {
        let (parent, name) = split(path)?;
        let parent = rustix::fs::open(parent, FOLDER, Mode::empty())
            .map_err(|e| Error::io(format_args!("opening {}", path.display()), e))?;
        open_at(parent, &name, path)
    }

    /// Opens `path`, relative to `folder` or absolute below it, never through a link and never outside it.
    pub fn open_beneath(folder: &Path, path: &Path) -> Result<Source> {
        let rel = path.strip_prefix(folder).unwrap_or(path);
        let (parent, name) = split(rel)?;
        if rel.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(outside(path));
        }
        let top = rustix::fs::open(folder, FOLDER, Mode::empty())
            .map_err(|e| Error::io(format_args!("opening the staging folder {}", folder.display()), e))?;
        let parent = if parent == Path::new(".") {
            top
        } else {
            rustix::fs::openat2(&top, parent, FOLDER, Mode::empty(), BENEATH).map_err(|e| refusal(path, e))?
        };
        open_at(parent, &name, path)
    }

    /// Hidden names that are no part of it.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// One file, a folder or a split set.
    pub fn layout(&self) -> Shape {
        self.shape
    }

    /// What its names, links and modes give rise to: a folder's only, a single file is copied whatever its inode is.
    pub(crate) fn report(&self, findings: &mut Findings) {
        let files = self.files.iter().filter(|_| self.shape == Shape::Folder).map(|f| {
            let (nlink, mode) = f.found().map_or((1, 0), |found| (found.stat.st_nlink, found.stat.st_mode));
            Entry { path: f.path.as_str().to_owned(), hidden: false, nlink, mode }
        });
        let hidden = self.skipped.iter().map(|path| Entry { path: path.clone(), hidden: true, nlink: 1, mode: 0 });
        folder::check_source(&files.chain(hidden).collect::<Vec<_>>(), findings);
    }

    /// The signature that lies with it.
    ///
    /// # Errors
    /// `TooLarge`, or what is wrong with reading it.
    pub fn signature(&self) -> Result<Option<SignatureFile>> {
        self.signature.as_ref().map(SourceFile::read_signature).transpose()
    }

    /// The source itself, when it is a signature that was put into a staging folder.
    ///
    /// # Errors
    /// As [`Source::signature`]; `InvalidInput` when it is not a single file.
    pub fn as_signature(&self) -> Result<SignatureFile> {
        match self.files.as_slice() {
            [file] if self.shape == Shape::File => file.read_signature(),
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                "a signature is a single file, and this is a folder or a split set",
            )),
        }
    }

    /// Bytes of all its files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(SourceFile::size).fold(0, u64::saturating_add)
    }

    /// Bytes of the files that are not stored yet.
    pub(crate) fn bytes_to_copy(&self) -> u64 {
        self.files.iter().filter_map(SourceFile::found).map(Found::size).fold(0, u64::saturating_add)
    }
}

impl SourceFile {
    fn new(path: RelPath, stat: Stat, folder: Arc<OwnedFd>, name: String, file: Option<File>) -> SourceFile {
        let file = file.map(Arc::new);
        SourceFile { path, origin: Origin::Found(Found { stat, folder, name, file }) }
    }

    pub(crate) fn size(&self) -> u64 {
        match &self.origin {
            Origin::Found(found) => found.size(),
            Origin::Held(held) => held.size(),
        }
    }

    /// The file on a disk, of one that is not a stored blob.
    pub(crate) fn found(&self) -> Option<&Found> {
        match &self.origin {
            Origin::Found(found) => Some(found),
            Origin::Held(_) => None,
        }
    }

    /// The stored blob, of one that is.
    pub(crate) fn held(&self) -> Option<&HeldFile> {
        match &self.origin {
            Origin::Found(_) => None,
            Origin::Held(held) => Some(held),
        }
    }

    /// The file, open for reading.
    pub(crate) fn open(&self) -> Result<Arc<File>> {
        let found = match &self.origin {
            Origin::Found(found) => found,
            Origin::Held(held) => return held.open().map(Arc::new),
        };
        if let Some(file) = &found.file {
            return Ok(Arc::clone(file));
        }
        let (file, stat) = open_one(&*found.folder, &found.name, Path::new(&found.name))?;
        if found.same(&stat, Taken::Copied) { Ok(Arc::new(file)) } else { Err(self.changed()) }
    }

    fn read_signature(&self) -> Result<SignatureFile> {
        let open = self.open()?;
        let bytes = read_bounded(&open, self.path.as_str(), MAX_SIGNATURE)?;
        self.check_unchanged(&open, Taken::Copied)?;
        SignatureFile::new(self.path.as_str(), bytes)
    }

    /// Whether the open file is still what was found. A stored blob is what its hashes say.
    pub(crate) fn check_unchanged(&self, file: &File, taken: Taken) -> Result<()> {
        let Some(found) = self.found() else { return Ok(()) };
        let now = rustix::fs::fstat(file).map_err(|e| Error::io(format_args!("reading {}", self.path), e))?;
        if found.same(&now, taken) { Ok(()) } else { Err(self.changed()) }
    }

    pub(crate) fn changed(&self) -> Error {
        Error::new(
            ErrorKind::SourceChanged,
            format!("the source {} changed while it was read: stop what writes it and promote again", self.path),
        )
    }
}

impl Found {
    fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    fn same(&self, now: &Stat, taken: Taken) -> bool {
        let content = |s: &Stat| (s.st_dev, s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec);
        let inode = |s: &Stat| (s.st_ctime, s.st_ctime_nsec);
        content(now) == content(&self.stat) && (taken == Taken::Adopted || inode(now) == inode(&self.stat))
    }

    /// Whether its name can be taken away afterwards.
    pub(crate) fn is_removable(&self) -> bool {
        let above = Path::new(&self.name).parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        rustix::fs::accessat(&*self.folder, above, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    }

    /// Takes the source away, if its name still leads to the file that was read, unchanged since. Whether it did.
    pub(crate) fn remove(&self, taken: Taken) -> std::io::Result<bool> {
        let now = rustix::fs::statat(&*self.folder, &*self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !self.same(&now, taken) {
            return Ok(false);
        }
        rustix::fs::unlinkat(&*self.folder, &*self.name, AtFlags::empty())?;
        Ok(true)
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn split(path: &Path) -> Result<(&Path, String)> {
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidInput,
            format!("{:?} does not name a file or folder", shorten(&path.to_string_lossy())),
        )
    })?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent, name.to_owned()))
}

fn outside(path: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("{:?} is not inside a staging folder, or is reached through a link", shorten(&path.to_string_lossy())),
    )
}

fn refusal(path: &Path, e: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    let shown = shorten(&path.to_string_lossy());
    match e {
        Errno::LOOP => Error::new(
            ErrorKind::InvalidInput,
            format!("{shown:?} is a symbolic link or lies behind one: promote the file itself (cp -L makes a copy)"),
        ),
        Errno::XDEV => outside(path),
        Errno::NXIO => Error::new(ErrorKind::InvalidInput, format!("{shown:?} is a socket or device, not a file")),
        Errno::NOENT | Errno::NOTDIR => Error::new(ErrorKind::NotFound, format!("{shown:?} does not exist")),
        e => Error::io(format_args!("opening {shown:?}"), e),
    }
}

/// Opens one name in `parent`: never a link, never blocking.
fn open_one(parent: impl AsFd, name: &str, shown: &Path) -> Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::openat2(parent, name, flags, Mode::empty(), BENEATH).map_err(|e| refusal(shown, e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io(format_args!("reading {}", shown.display()), e))?;
    Ok((File::from(fd), stat))
}

fn regular(stat: &Stat, shown: &Path) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        other => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{:?} is not a regular file ({other:?})", shorten(&shown.to_string_lossy())),
        )),
    }
}

fn open_at(parent: OwnedFd, name: &str, shown: &Path) -> Result<Source> {
    let (file, stat) = open_one(&parent, name, shown)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return open_folder(OwnedFd::from(file), shown);
    }
    regular(&stat, shown)?;
    let path: RelPath = name.parse()?;
    let folder = Arc::new(parent);
    let signature = signature_beside(&folder, name, shown)?;
    let Some(split) = ShardName::of(name) else {
        let files = vec![SourceFile::new(path, stat, folder, name.to_owned(), Some(file))];
        return Ok(Source { shape: Shape::File, files, skipped: Vec::new(), signature });
    };
    let mut files = Vec::new();
    for shard in split.all() {
        let shown = shown.with_file_name(&shard);
        let (_, stat) = match open_one(&*folder, &shard, &shown) {
            Ok(opened) => opened,
            // By itself it is no model: inspection says which shards are missing.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let files = vec![SourceFile::new(path, stat, folder, name.to_owned(), Some(file))];
                return Ok(Source { shape: Shape::File, files, skipped: Vec::new(), signature });
            }
            Err(e) => return Err(e),
        };
        regular(&stat, &shown)?;
        files.push(SourceFile::new(shard.parse()?, stat, Arc::clone(&folder), shard, None));
    }
    Ok(Source { shape: Shape::Split, files, skipped: Vec::new(), signature })
}

/// `FILE.sig`, where it is a file. What else bears the name is an error: whoever put it there meant it for a signature.
fn signature_beside(folder: &Arc<OwnedFd>, file: &str, shown: &Path) -> Result<Option<SourceFile>> {
    // A signature is not signed.
    let name = format!("{file}{BESIDE}");
    let Ok(path) = name.parse::<RelPath>() else { return Ok(None) };
    if file.ends_with(BESIDE) {
        return Ok(None);
    }
    let shown = shown.with_file_name(&name);
    match open_one(&**folder, &name, &shown) {
        Ok((_, stat)) => {
            regular(&stat, &shown)?;
            Ok(Some(SourceFile::new(path, stat, Arc::clone(folder), name, None)))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// `<base>-<index>-of-<count>.gguf`, as llama.cpp's gguf-split names shards.
struct ShardName<'a> {
    base: &'a str,
    count: u32,
}

impl ShardName<'_> {
    fn of(name: &str) -> Option<ShardName<'_>> {
        let stem = name.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (base, index) = rest.rsplit_once('-')?;
        let five =
            |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok()).flatten();
        let (index, count) = (five(index)?, five(count)?);
        (!base.is_empty() && 1 <= index && index <= count && count as usize <= MAX_FILES)
            .then_some(ShardName { base, count })
    }

    fn all(&self) -> impl Iterator<Item = String> {
        let (base, count) = (self.base.to_owned(), self.count);
        (1..=count).map(move |i| format!("{base}-{i:05}-of-{count:05}.gguf"))
    }
}

/// Walks a folder. Hidden names are left out and told; anything else that is not a plainly named file or folder is
/// refused. One descriptor is kept, the folder's own: everything below is opened from there, never through a link.
fn open_folder(top: OwnedFd, shown: &Path) -> Result<Source> {
    let top = Arc::new(top);
    let refuse = |why: String| Err(Error::new(ErrorKind::Refused, format!("{} {why}", shown.display())));
    let mut files: Vec<SourceFile> = Vec::new();
    let mut skipped = Vec::new();
    let mut signature = None;
    let mut entries = 0;
    let mut pending: Vec<String> = vec![String::new()];
    while let Some(at) = pending.pop() {
        let folder = if at.is_empty() {
            top.try_clone().map_err(|e| Error::io("duplicating a descriptor", e))?
        } else {
            rustix::fs::openat2(&*top, &*at, FOLDER, Mode::empty(), BENEATH)
                .map_err(|e| refusal(&shown.join(&at), e))?
        };
        let listing = rustix::fs::Dir::read_from(&folder)
            .map_err(|e| Error::io(format_args!("listing {}", shown.display()), e))?;
        for entry in listing {
            let entry = entry.map_err(|e| Error::io(format_args!("listing {}", shown.display()), e))?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            entries += 1;
            if entries > 2 * MAX_FILES || files.len() == MAX_FILES {
                return refuse(format!("holds more than {MAX_FILES} files"));
            }
            let below = if at.is_empty() { name.clone().into_owned() } else { format!("{at}/{name}") };
            if name.starts_with('.') {
                skipped.push(below);
                continue;
            }
            let path: RelPath = below.parse()?;
            if path.components().count() > MAX_DEPTH {
                return refuse(format!("is nested deeper than {MAX_DEPTH} levels"));
            }
            let place = shown.join(&path);
            let (_, stat) = open_one(&folder, &name, &place)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                pending.push(below);
                continue;
            }
            regular(&stat, &place)?;
            let file = SourceFile::new(path, stat, Arc::clone(&top), below, None);
            if file.path.as_str() == IN_FOLDER {
                signature = Some(file);
            } else {
                files.push(file);
            }
        }
    }
    if files.is_empty() {
        return refuse("holds no files".into());
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    refuse_case_twins(&files)?;
    skipped.sort();
    Ok(Source { shape: Shape::Folder, files, skipped, signature })
}

fn refuse_case_twins(files: &[SourceFile]) -> Result<()> {
    let mut folded: Vec<(String, &RelPath)> = files.iter().map(|f| (f.path.folded(), &f.path)).collect();
    folded.sort();
    match folded.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Error::new(
            ErrorKind::Conflict,
            format!("{} and {} differ only by case: rename one", pair[0].1, pair[1].1),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_llama_cpps() {
        let split = ShardName::of("tiny-00001-of-00003.gguf").expect("a shard");
        assert_eq!((split.base, split.count), ("tiny", 3));
        assert_eq!(split.all().last().as_deref(), Some("tiny-00003-of-00003.gguf"));
        for plain in [
            "tiny.gguf",
            "a-1-of-3.gguf",
            "a-00000-of-00003.gguf",
            "a-00004-of-00003.gguf",
            "-00001-of-00001.gguf",
            "a-00001-of-00003.bin",
            "a-0000x-of-00003.gguf",
            "a-00001-of-99999.gguf",
        ] {
            assert!(ShardName::of(plain).is_none(), "{plain}");
        }
    }
}
