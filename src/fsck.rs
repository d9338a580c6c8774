//! Looking over a whole root, and saying what is wrong in it.
//!
//! Owns: `fsck`: the walk through every folder, and the list of problems, each with its path, its urgency, a sentence and a remedy.
//! Promises: nothing is changed, no lock is kept, and a root on a read-only file system will do; what comes and goes while others
//! are at work is no problem: what is missing must be so while it is seen that somebody holds it, and what is left over must be the
//! very file that was so before the last change under way had ended; a manifest that cannot be served is a problem among
//! others, and what depends on it is then not guessed; lists are bounded, however much is wrong. Leaves out: putting
//! anything right (`repair`, `gc`, `recover`), and hashing what is stored unless it is asked for ([`FsckDepth::Deep`]).

mod content;
mod records;
mod stored;

use crate::artifact::FileEntry;
use crate::blobs::{Blobs, Check};
use crate::catalog::Catalog;
use crate::catalog::store::{COMMIT_LOCK, Store};
use crate::content::holds;
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{ErrorKind, Result};
use crate::gc::Tally;
use crate::layout::{Access, Layout};
use crate::name::ModelName;
use crate::registry::Registry;
use crate::task::Task;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsckDepth {
    /// Every record, tree, sidecar and inode.
    Quick,
    /// And every stored byte, those that only repositories hold as well.
    Deep,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Something is lost, wrong or open to change.
    Damage,
    /// Something is left over.
    Untidy,
    /// Something to know; nothing is wrong by it.
    Note,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A stable word for what it is: see docs/repair.md.
    pub kind: &'static str,
    /// How bad it is.
    pub urgency: Urgency,
    /// Where, relative to the root.
    pub path: String,
    /// What is wrong, in a sentence.
    pub what: String,
    /// What helps.
    pub remedy: String,
    /// A model that is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
}

/// What was found, and how much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// The problems, the worst first; at most ten thousand.
    pub problems: Vec<Problem>,
    /// Problems that are not listed.
    pub more: u64,
    /// How many are damage.
    pub damage: u64,
    /// How many are left over.
    pub untidy: u64,
    /// How many are only to know.
    pub notes: u64,
    /// Models of the manifest; none when it cannot be served.
    pub models: Option<u64>,
    /// Stored files.
    pub blobs: Tally,
    /// Hash trees.
    pub trees: Tally,
    /// Sidecars.
    pub sidecars: Tally,
    /// Repositories.
    pub repositories: u64,
    /// Blobs that they hold, each repository's counted.
    pub records: u64,
    /// Stored files that were hashed from end to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hashed: Option<Tally>,
}

impl FsckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damage == 0 && self.untidy == 0
    }
}

/// No more problems are listed.
const MAX_PROBLEMS: usize = 10_000;

/// A promotion or a push may be between two of its renames: it is waited for, but not longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_millis(5);

/// The times of files go on in steps; none is longer.
const CLOCK_TICK: Duration = Duration::from_millis(20);

impl Registry {
    /// Looks over the root at `root`, which may be damaged in any way. Changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is no root, `Unsupported` for one on a network, `Cancelled`; all else is in the report.
    pub fn fsck(root: &Path, depth: FsckDepth, task: &Task<'_>) -> Result<FsckReport> {
        let layout = match Layout::open(root, Access::Read) {
            Ok(layout) => Arc::new(layout),
            Err(e) if !root.is_dir() || e.kind() == ErrorKind::Unsupported => return Err(e),
            Err(e) => return Ok(records::closed(root, &e)),
        };
        let mut walk = Walk::new(&layout, task)?;
        if walk.problems.list.iter().any(|found| found.problem.urgency != Urgency::Note) {
            await_changes(&layout, task)?;
            let first: HashSet<(&str, String, FileId)> = walk.problems.list.iter().map(Found::key).collect();
            walk = Walk::new(&layout, task)?;
            walk.problems.list.retain(|found| first.contains(&found.key()));
        }
        if depth == FsckDepth::Deep {
            walk.hash(task)?;
        }
        Ok(walk.report())
    }
}

/// Waits until each of the two locks under which files are put in place was free once: whoever was at it when something was seen has
/// come to the end of it, and what was put in place is held by then, or gone.
fn await_changes(layout: &Layout, task: &Task<'_>) -> Result<()> {
    let begun = Instant::now();
    // What comes after this has another time than what was seen.
    std::thread::sleep(CLOCK_TICK);
    for lock in [COMMIT_LOCK, holds::LOCK] {
        while layout.is_locked(lock)? && begun.elapsed() < LONGEST_WAIT {
            task.go_on()?;
            std::thread::sleep(NAP);
        }
    }
    Ok(())
}

/// Which file it is, under whatever name: an inode's number is soon another's, but not with the time of its last change.
type FileId = (u64, i64, i64);

/// A problem, and of which file, where another of the same name would be none.
#[derive(Debug)]
struct Found {
    problem: Problem,
    file: FileId,
}

impl Found {
    fn key(&self) -> (&'static str, String, FileId) {
        (self.problem.kind, self.problem.path.clone(), self.file)
    }
}

/// The problems so far.
#[derive(Debug, Default)]
struct Problems {
    list: Vec<Found>,
    /// Of each urgency, how many are in the list, and how many are not.
    listed: [usize; 3],
    unlisted: [u64; 3],
}

impl Problems {
    fn add(&mut self, problem: Problem) {
        self.add_of(FileId::default(), problem);
    }

    fn add_of(&mut self, file: FileId, problem: Problem) {
        // Each urgency by itself: what is merely left over must not hide what is lost.
        let at = problem.urgency as usize;
        if self.listed[at] < MAX_PROBLEMS {
            self.listed[at] += 1;
            self.list.push(Found { problem, file });
        } else {
            self.unlisted[at] += 1;
        }
    }

    fn tell(&mut self, kind: &'static str, urgency: Urgency, path: String, what: String, remedy: &str) {
        self.add(Problem { kind, urgency, path, what, remedy: remedy.to_owned(), model: None });
    }
}

/// What a stored file must be, and who says so.
#[derive(Debug, Clone)]
struct Expected {
    size_bytes: u64,
    blake3: Blake3Digest,
    model: Option<ModelName>,
    repository: Option<String>,
    /// Its record, below oci/.
    record: Option<String>,
}

impl Expected {
    fn remedy(&self, sha256: &Sha256Digest) -> String {
        match (&self.model, &self.repository) {
            (Some(model), _) => format!("`securereg repair {model} --from PATH`, where PATH is another copy"),
            (None, Some(repository)) => format!("push sha256:{sha256} to {repository} again"),
            (None, None) => "promote it again".to_owned(),
        }
    }
}

/// One walk.
struct Walk {
    layout: Arc<Layout>,
    store: Store,
    catalog: Option<Arc<Catalog>>,
    expected: HashMap<Sha256Digest, Expected>,
    /// What repositories hold by the names of their records, whatever these say: as a sweep sees it.
    held: HashSet<Sha256Digest>,
    /// Whether all that models and repositories hold is known: else nothing is called left over.
    is_complete: bool,
    problems: Problems,
    report: FsckReport,
}

impl Walk {
    /// Walks through everything once.
    fn new(layout: &Arc<Layout>, task: &Task<'_>) -> Result<Walk> {
        let mut walk = Walk {
            layout: Arc::clone(layout),
            store: Store::unopened(Arc::clone(layout)),
            catalog: None,
            expected: HashMap::new(),
            held: HashSet::new(),
            is_complete: true,
            problems: Problems::default(),
            report: FsckReport::default(),
        };
        walk.folders()?;
        walk.records_of();
        task.go_on()?;
        walk.content(task)?;
        walk.blobs(task)?;
        walk.trees(task)?;
        walk.stamps()?;
        walk.sidecars(task)?;
        walk.left_over()?;
        Ok(walk)
    }

    fn expect(&mut self, catalog: &Catalog) {
        for artifact in catalog.artifacts() {
            for FileEntry { size_bytes, sha256, blake3, .. } in &artifact.files {
                self.expected.entry(*sha256).or_insert_with(|| Expected {
                    size_bytes: *size_bytes,
                    blake3: *blake3,
                    model: Some(artifact.name.clone()),
                    repository: None,
                    record: None,
                });
            }
        }
    }

    /// Hashes every stored byte that somebody holds, but of files of which it is known already that they are damaged.
    fn hash(&mut self, task: &Task<'_>) -> Result<()> {
        let blobs = Blobs::new(Arc::clone(&self.layout));
        let known: HashSet<String> = self.problems.list.iter().map(|found| found.problem.path.clone()).collect();
        let is_known = |sha256: &Sha256Digest| {
            known.contains(&format!("blobs/sha256/{sha256}")) || known.contains(&format!("trees/{sha256}"))
        };
        let mut entries = Vec::new();
        for (sha256, expected) in self.expected.iter().filter(|(sha256, _)| !is_known(sha256)) {
            let path = format!("sha256-{sha256}").parse()?;
            let Expected { size_bytes, blake3, .. } = *expected;
            entries.push(FileEntry { path, size_bytes, sha256: *sha256, blake3 });
        }
        let checks = blobs.check(&entries.iter().collect::<Vec<_>>(), task)?;
        let mut hashed = Tally::default();
        for (entry, check) in entries.iter().zip(checks) {
            hashed.files += 1;
            hashed.bytes += entry.size_bytes;
            let expected = &self.expected[&entry.sha256];
            let (kind, what, remedy) = match check {
                Check::Good => continue,
                Check::Bad { why, .. } => ("blob.bytes", why, expected.remedy(&entry.sha256)),
                Check::Unreadable(why) => {
                    let remedy = format!("look at the disk (dmesg, SMART), then {}", expected.remedy(&entry.sha256));
                    ("blob.unreadable", why, remedy)
                }
            };
            let (path, model) = (format!("blobs/sha256/{}", entry.sha256), expected.model.clone());
            self.problems.add(Problem { kind, urgency: Urgency::Damage, path, what, remedy, model });
        }
        self.report.hashed = Some(hashed);
        Ok(())
    }

    fn report(self) -> FsckReport {
        let Walk { mut report, problems: Problems { list, unlisted, .. }, .. } = self;
        let mut list: Vec<Problem> = list.into_iter().map(|found| found.problem).collect();
        list.sort_by(|a, b| (a.urgency, &a.path, a.kind).cmp(&(b.urgency, &b.path, b.kind)));
        let count = |urgency: Urgency| {
            list.iter().filter(|problem| problem.urgency == urgency).count() as u64 + unlisted[urgency as usize]
        };
        (report.damage, report.untidy, report.notes) =
            (count(Urgency::Damage), count(Urgency::Untidy), count(Urgency::Note));
        list.truncate(MAX_PROBLEMS);
        let more = report.damage + report.untidy + report.notes - list.len() as u64;
        (report.problems, report.more) = (list, more);
        report
    }
}
