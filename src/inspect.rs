//! Looking at a candidate that is not promoted.
//!
//! Owns: [`Inspection`], and files on disk as something to inspect. Promises: the same parsers, checks across files and policy
//! as a promotion; nothing is copied and nothing is changed. Leaves out: the parsers (`format`), the judge (`policy`). What
//! is seen here is what the file held when it was read: a promotion inspects its own copy, whose bytes it has hashed.

use crate::artifact::{Format, Layout};
use crate::error::{Error, Result};
use crate::format::description::Description;
use crate::format::input::{Input, short};
use crate::format::{Candidate, Inspector};
use crate::name::RelPath;
use crate::policy::{Evidence, Policy, Verdict};
use crate::source::{Source, SourceFile};
use crate::task::{Phase, Progress, Task};
use serde::Serialize;
use std::fs::File;
use std::sync::Arc;

/// What inspection saw of a file, a folder or a split set, and what the policy says of it.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// One file, a folder or a split set.
    pub layout: Layout,
    /// What it would be promoted as; nothing when it holds no model.
    pub format: Option<Format>,
    /// What the policy says.
    pub verdict: Verdict,
    /// Its files, in the order of their paths.
    pub files: Vec<Inspected>,
    /// Hidden names that a promotion leaves out.
    pub skipped: Vec<String>,
    /// The signature that lies with it. It is held against the files when they are hashed: at a promotion, or by
    /// [`crate::signing::verify`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<RelPath>,
}

/// One file.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// Its path inside the candidate.
    pub path: RelPath,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What it is.
    #[serde(flatten)]
    pub description: Description,
}

/// A file of the source, as it is now.
pub(crate) struct Plain {
    file: Arc<File>,
    size: u64,
}

impl Plain {
    pub(crate) fn open(source: &SourceFile) -> Result<Plain> {
        Ok(Plain { file: source.open()?, size: source.size() })
    }
}

impl Input for Plain {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.read_exact_at(out, at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => short(),
            _ => Error::io("reading the file", e),
        })
    }
}

/// Inspects every file of a source and judges what was found.
///
/// # Errors
/// What is wrong with reading it. A verdict that refuses is no error here.
pub fn inspect(source: &Source, policy: &Policy, task: &Task<'_>) -> Result<Inspection> {
    let total = source.size_bytes();
    let mut done = 0;
    let mut inspector = Inspector::default();
    source.report(&mut inspector.findings);
    for i in Inspector::order(source.files.iter().map(|f| &f.path)) {
        let file = &source.files[i];
        task.step(Progress { phase: Phase::Inspect, done, total })?;
        inspector.file(&file.path, &Plain::open(file)?)?;
        done += file.size();
    }
    task.step(Progress { phase: Phase::Inspect, done, total })?;
    let (candidates, findings) = inspector.finish(source.shape);
    let kinds = candidates.iter().map(|c| (c.path.clone(), c.description.kind)).collect();
    let mut evidence = Evidence { kinds, findings, ..Evidence::default() };
    let paths: Vec<&RelPath> = source.files.iter().map(|f| &f.path).collect();
    let (format, verdict) = policy.look(source.shape, &paths, &mut evidence, None)?;
    let show = |c: Candidate| Inspected { path: c.path, size_bytes: c.size_bytes, description: c.description };
    let files = candidates.into_iter().map(show).collect();
    let (skipped, signature) = (source.skipped.clone(), source.signature.as_ref().map(|file| file.path.clone()));
    Ok(Inspection { layout: source.shape, format, verdict, files, skipped, signature })
}
