//! Sources that are stored already: blobs of a repository.
//!
//! Owns: [`Source::of_content`], and joining two sources to one. Promises: the same rules for names as for a folder on a disk, and
//! no path that is a file and a folder at once. Leaves out: whether the blobs are good, which the promotion finds out by reading them.

use super::{MAX_FILES, Origin, ShardName, Source, SourceFile, refuse_case_twins};
use crate::artifact::{FileEntry, Layout as Shape};
use crate::content::{Content, ContentDigest, Held, RepositoryName};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Layout;
use crate::name::{MAX_DEPTH, RelPath};
use crate::scan::Stored;
use crate::signing::{BESIDE, IN_FOLDER};
use std::collections::HashSet;
use std::fs::File;

/// A file that a repository holds as a blob.
#[derive(Debug)]
pub(crate) struct HeldFile {
    content: Content,
    held: Held,
}

impl HeldFile {
    pub(super) fn size(&self) -> u64 {
        self.held.size_bytes
    }

    pub(super) fn open(&self) -> Result<File> {
        Stored::open(self.content.inner.layout(), &self.held.sha256, false).map(|stored| stored.file)
    }

    /// What it must be, under a name of the model's.
    pub(crate) fn entry(&self, path: &RelPath) -> FileEntry {
        let Held { sha256, size_bytes, blake3 } = self.held;
        FileEntry { path: path.clone(), size_bytes, sha256, blake3 }
    }

    /// Only in the registry that stores it is there nothing to copy.
    pub(crate) fn check_is_in(&self, layout: &Layout) -> Result<()> {
        if self.content.inner.layout().path() == layout.path() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "the source is stored in another registry: promote it there"))
    }
}

impl Source {
    /// A model whose files are blobs that this repository holds: a single file, a complete split set, else a folder. Promoted,
    /// the model holds them too, without a second copy.
    ///
    /// # Errors
    /// `NotFound` when the repository does not hold one, `Conflict` when two paths are one on some file system, or one is a folder
    /// of another; `Refused` when there are no files, or too many.
    pub fn of_content(
        content: &Content,
        repo: &RepositoryName,
        files: Vec<(RelPath, ContentDigest)>,
    ) -> Result<Source> {
        if files.len() > MAX_FILES {
            return Err(too_many());
        }
        let file = |(path, digest): (RelPath, ContentDigest)| {
            let absent =
                || Error::new(ErrorKind::NotFound, format!("{repo} holds no blob {digest}, which is to be {path}"));
            let held = content.blob(repo, &digest)?.ok_or_else(absent)?;
            Ok(SourceFile { path, origin: Origin::Held(HeldFile { content: content.clone(), held }) })
        };
        Source::of_files(files.into_iter().map(file).collect::<Result<_>>()?, Vec::new(), None)
    }

    /// One model of the files of both.
    ///
    /// # Errors
    /// As [`Source::of_content`], of the names.
    pub fn join(self, other: Source) -> Result<Source> {
        let signature = match (self.signature, other.signature) {
            (Some(_), Some(_)) => return Err(Error::new(ErrorKind::Conflict, TWO_SIGNATURES)),
            (one, two) => one.or(two),
        };
        let files = self.files.into_iter().chain(other.files).collect();
        let mut skipped = [self.skipped, other.skipped].concat();
        skipped.sort();
        Source::of_files(files, skipped, signature)
    }

    /// The same source, telling of names that were left out of it because they are hidden: as of a folder, some are usual and
    /// any other is a finding.
    #[must_use]
    pub fn leaving_out(mut self, hidden: impl IntoIterator<Item = String>) -> Source {
        self.skipped.extend(hidden);
        self.skipped.sort();
        self
    }

    fn of_files(mut files: Vec<SourceFile>, skipped: Vec<String>, given: Option<SourceFile>) -> Result<Source> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Refused, why));
        let mut signature = given;
        while let Some(at) = signature_of(&files) {
            if signature.replace(files.swap_remove(at)).is_some() {
                return Err(Error::new(ErrorKind::Conflict, TWO_SIGNATURES));
            }
        }
        if files.is_empty() {
            return refuse("the source holds no files".into());
        }
        if files.len() > MAX_FILES {
            return Err(too_many());
        }
        if let Some(deep) = files.iter().find(|f| f.path.components().count() > MAX_DEPTH) {
            return refuse(format!("{} is nested deeper than {MAX_DEPTH} levels", deep.path));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        refuse_twins(&files)?;
        Ok(Source { shape: shape(&files), files, skipped, signature })
    }
}

const TWO_SIGNATURES: &str = "the source holds two signatures: one is wanted";

/// The file that is the signature of the others: `model.sig`, or `FILE.sig` beside FILE and nothing else.
fn signature_of(files: &[SourceFile]) -> Option<usize> {
    let beside = |i: usize| match files {
        [one, two] => {
            let (file, other) = if i == 0 { (one, two) } else { (two, one) };
            file.path.as_str().strip_suffix(BESIDE) == Some(other.path.as_str())
        }
        _ => false,
    };
    (0..files.len()).find(|i| files[*i].path.as_str() == IN_FOLDER || beside(*i))
}

fn too_many() -> Error {
    Error::new(ErrorKind::Refused, format!("the source holds more than {MAX_FILES} files"))
}

/// What a file system could not hold, or not every one.
fn refuse_twins(files: &[SourceFile]) -> Result<()> {
    let conflict = |why: String| Err(Error::new(ErrorKind::Conflict, why));
    if let Some(pair) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return conflict(format!("{} is named twice: rename one", pair[0].path));
    }
    refuse_case_twins(files)?;
    let folded: HashSet<String> = files.iter().map(|f| f.path.folded()).collect();
    for file in files {
        let path = file.path.folded();
        if let Some((end, _)) = path.match_indices('/').find(|(end, _)| folded.contains(&path[..*end])) {
            return conflict(format!(
                "{} is a file, and {} lies in it: rename one",
                &file.path.as_str()[..end],
                file.path
            ));
        }
    }
    Ok(())
}

fn shape(files: &[SourceFile]) -> Shape {
    let first = files[0].path.as_str();
    if let Some(split) = ShardName::of(first) {
        // Sorted, like the names of its shards.
        if split.all().eq(files.iter().map(|f| f.path.as_str())) && !first.contains('/') {
            return Shape::Split;
        }
    }
    if files.len() == 1 && !first.contains('/') { Shape::File } else { Shape::Folder }
}
