//! Promotion: the one way in.
//!
//! Owns: the straight line from a source to an entry of the catalog. Promises: a crash at any point leaves the catalog as it
//! was or with the whole model; a refusal leaves nothing behind and is in the audit log; only what policy cleared is
//! published. Leaves out: each step's how (`source`, `ingest`, `policy`, `catalog::store`).

mod look;
mod publish;

use crate::artifact::{Artifact, FileEntry, Format, Layout as Shape, list_digest};
use crate::audit::{Noted, now};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{self, Meter, Staged};
use crate::name::{ModelName, RelPath};
use crate::policy::{Cleared, Verdict};
use crate::registry::Inner;
use crate::sidecar::{self, SignatureNote};
use crate::signing::{SignatureFile, Signed};
use crate::source::{Source, SourceFile};
use crate::task::{Actor, Task};
use look::{Inspected, inspect, look_ahead};
use publish::{Publication, Staging, finish_move, immutable};
use std::sync::Arc;

/// Evidence sent along may not be larger, as JSON.
pub const MAX_EVIDENCE: usize = 16 << 20;

/// What is to be promoted, and what is claimed of it.
#[derive(Debug, Clone)]
pub struct PromoteRequest {
    /// The name it gets.
    pub name: ModelName,
    /// The file's name in the mount, for a single file; the source's own name if none.
    pub filename: Option<RelPath>,
    /// The SHA-256 it must have: of a single file the file's, of several the list's.
    pub sha256: Option<Sha256Digest>,
    /// The size it must have, in bytes.
    pub size_bytes: Option<u64>,
    /// The format it must have.
    pub format: Option<Format>,
    /// Where it came from, in words.
    pub source: String,
    /// Whether the source is copied or given away.
    pub transfer: Transfer,
    /// The signature, when it does not lie with the source; it then counts instead of one that does.
    pub signature: Option<SignatureFile>,
    /// What the promoter sends along (scan results and the like), kept as it is.
    pub evidence: serde_json::Map<String, serde_json::Value>,
}

impl PromoteRequest {
    /// A request to copy a model in under `name`, claiming nothing.
    pub fn new(name: ModelName) -> Self {
        PromoteRequest {
            name,
            filename: None,
            sha256: None,
            size_bytes: None,
            format: None,
            source: String::new(),
            transfer: Transfer::Copy,
            signature: None,
            evidence: serde_json::Map::new(),
        }
    }
}

/// What becomes of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// It stays.
    Copy,
    /// It is taken: its file itself where that is provably safe, else a copy, after which the source is removed.
    Move,
}

/// A promotion that succeeded.
#[derive(Debug, Clone)]
pub struct Promotion {
    /// The artifact as it is registered now.
    pub artifact: Arc<Artifact>,
    /// What happened to the name.
    pub outcome: Outcome,
    /// How the bytes got in.
    pub method: Method,
    /// Hidden names that were left out of a folder.
    pub skipped: Vec<String>,
    /// What the policy said of what was found.
    pub verdict: Verdict,
    /// Who signed it, when somebody did whom the policy trusts with its name.
    pub signed: Option<Signed>,
}

/// What a promotion did to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name is new.
    Promoted,
    /// The name already stood for these very bytes.
    AlreadyThere,
    /// A tag points to new content now, or damaged bytes were replaced by good ones.
    Moved,
}

/// How a promotion's bytes got into the store; of several files the costliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// They were there already.
    Shared,
    /// The source's own file was adopted.
    Adopted,
    /// The file system shares the blocks until one side changes.
    Reflinked,
    /// They were copied.
    Copied,
}

/// Promotes, and writes a refusal to the audit log.
pub(crate) fn promote(
    inner: &Arc<Inner>,
    request: &PromoteRequest,
    source: Source,
    actor: &Actor,
    task: &Task<'_>,
) -> Result<Promotion> {
    let outcome = attempt(inner, request, source, actor, task);
    outcome.map_err(|e| {
        let why = format!("{}: {}", e.kind().as_str(), e.message());
        if let Err(log) = inner.note(Noted::Refuse, request.name.as_str(), &why, actor) {
            tracing::error!(error = %log, "a refusal could not be written to the audit log");
        }
        e.on(&request.name)
    })
}

/// Of more files than this none is adopted: each would keep a descriptor open until all are published.
const MAX_ADOPTED: usize = 256;

fn attempt(
    inner: &Arc<Inner>,
    request: &PromoteRequest,
    mut source: Source,
    actor: &Actor,
    task: &Task<'_>,
) -> Result<Promotion> {
    check_request(request, &mut source)?;
    let size = source.size_bytes();
    if request.size_bytes.is_some_and(|claimed| claimed != size) {
        return Err(mismatch("size in bytes", request.size_bytes.unwrap_or(0), size));
    }
    // What cannot succeed is refused before gigabytes are read; the commit asks again.
    refuse_early(inner, request, &source)?;
    let policy = inner.policy()?;
    let signature = match &request.signature {
        Some(given) => Some(given.clone()),
        None => source.signature()?,
    };
    policy.admit_signature(&request.name, &source.files[0].path, signature.as_ref())?;
    look_ahead(&source, &policy)?;
    let _temp = inner.layout().use_temp()?;
    let mut staging = Staging { inner, staged: Vec::new(), sidecars: Vec::new() };
    let mut meter = Meter { task, done: 0, total: size };
    let intake = if source.files.len() > MAX_ADOPTED { Transfer::Copy } else { request.transfer };
    for file in &source.files {
        staging.staged.push(take_in(inner, file, intake, &mut meter)?);
    }
    let files: Vec<FileEntry> = staging.staged.iter().map(|s| s.entry.clone()).collect();
    let sha256 = if source.shape == Shape::File { files[0].sha256 } else { list_digest(&files) };
    if let Some(claimed) = request.sha256.filter(|claimed| *claimed != sha256) {
        return Err(mismatch("SHA-256", claimed, sha256).with_digests(claimed, sha256));
    }
    let Inspected { evidence, notes, guarded } =
        inspect(inner, &source, &staging.staged, request, signature.as_ref(), &policy)?;
    let cleared = policy.judge(&request.name, source.shape, files, evidence, request.format)?;
    let verdict = cleared.verdict().clone();
    let signed = cleared.signed().cloned();
    let sent = staging.add(sent_along(request)?)?;
    let note = signed.as_ref().zip(signature.as_ref()).map(|(signed, file)| SignatureNote::of(signed, file));
    let found = staging.add(Some(sidecar::write(&verdict, notes, guarded, note.as_ref())?))?;
    let candidate = artifact_of(request, source.shape, sha256, cleared, [sent, found]);
    let (artifact, outcome, method) = {
        let (transfer, source) = (request.transfer, &source);
        let (staging, candidate, verdict, signed) = (&staging, &candidate, &verdict, signed.as_ref());
        let publication = Publication { staging, candidate, verdict, signed, transfer, source, actor, task };
        publication.publish()?
    };
    finish_move(inner, request, &source, &staging);
    Ok(Promotion { artifact, outcome, method, skipped: source.skipped.clone(), verdict, signed })
}

/// Takes a file in, or reads a blob that is stored already.
fn take_in(inner: &Arc<Inner>, file: &SourceFile, intake: Transfer, meter: &mut Meter<'_, '_>) -> Result<Staged> {
    let Some(held) = file.held() else { return ingest::take_in(inner.layout(), file, intake, meter) };
    held.check_is_in(inner.layout())?;
    let entry = held.entry(&file.path);
    // First of all: its stamps are those of a good one after this.
    inner.open_entry(None, &entry)?;
    let sha256 = entry.sha256;
    ingest::read_stored(file, entry, meter).inspect_err(|e| {
        if e.kind() == ErrorKind::Corrupt {
            inner.report_corruption(&sha256, e.message());
        }
    })
}

fn refuse_early(inner: &Arc<Inner>, request: &PromoteRequest, source: &Source) -> Result<()> {
    let early = early(request, source);
    early.check_paths()?;
    let catalog = inner.catalog()?;
    catalog.check_room(&early)?;
    let there = catalog.artifact(&request.name).filter(|a| a.name.tag().is_none());
    if let Some(there) = there.filter(|a| a.size_bytes != early.size_bytes) {
        return Err(immutable(there));
    }
    let (size, free) = (source.bytes_to_copy(), inner.layout().free_bytes()?);
    // A file that is adopted takes no space; whether it can be is known only when its turn comes.
    if request.transfer == Transfer::Copy && size > free {
        let why = format!("{size} bytes are to be copied, {free} are free (less 5 percent): free some space");
        return Err(Error::new(ErrorKind::NoSpace, why));
    }
    Ok(())
}

fn mismatch(what: &str, claimed: impl std::fmt::Display, actual: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::DigestMismatch,
        format!("its {what} is {actual}, not {claimed} as claimed; nothing was promoted"),
    )
}

fn check_request(request: &PromoteRequest, source: &mut Source) -> Result<()> {
    if request.source.len() > 4096 {
        return Err(Error::new(ErrorKind::TooLarge, "the source's description is over 4096 bytes"));
    }
    match (&request.filename, source.shape) {
        (None, _) => {}
        (Some(name), Shape::File) if name.components().count() == 1 => source.files[0].path = name.clone(),
        (Some(_), Shape::File) => return Err(Error::new(ErrorKind::InvalidInput, "a file name may not contain '/'")),
        (Some(_), Shape::Folder | Shape::Split) => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a file name can be given to a single file only; this source has several",
            ));
        }
    }
    Ok(())
}

/// The artifact as far as it is known before its bytes are: enough to see whether its name and path are free.
fn early(request: &PromoteRequest, source: &Source) -> Artifact {
    let files = source.files.iter().map(|f| FileEntry {
        path: f.path.clone(),
        size_bytes: f.size(),
        sha256: Sha256Digest::from_bytes([0; 32]),
        blake3: crate::digest::Blake3Digest::from_bytes([0; 32]),
    });
    Artifact {
        name: request.name.clone(),
        sha256: Sha256Digest::from_bytes([0; 32]),
        layout: source.shape,
        format: request.format.unwrap_or(Format::Gguf),
        source: String::new(),
        promoted_at: String::new(),
        size_bytes: source.size_bytes(),
        evidence: None,
        inspection: None,
        quarantine: None,
        files: files.collect(),
    }
}

fn artifact_of(
    request: &PromoteRequest,
    shape: Shape,
    sha256: Sha256Digest,
    cleared: Cleared,
    [evidence, inspection]: [Option<Sha256Digest>; 2],
) -> Artifact {
    let (files, format) = cleared.into_parts();
    Artifact {
        name: request.name.clone(),
        sha256,
        layout: shape,
        format,
        source: request.source.clone(),
        promoted_at: now(),
        size_bytes: files.iter().map(|f| f.size_bytes).sum(),
        evidence,
        inspection,
        quarantine: None,
        files,
    }
}

/// What was sent along, as a sidecar.
fn sent_along(request: &PromoteRequest) -> Result<Option<Vec<u8>>> {
    if request.evidence.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_vec(&request.evidence)
        .map_err(|e| Error::new(ErrorKind::InvalidInput, "the evidence sent along cannot be kept").because(e))?;
    if text.len() > MAX_EVIDENCE {
        let why = format!("the evidence sent along has {} bytes, over {MAX_EVIDENCE}", text.len());
        return Err(Error::new(ErrorKind::TooLarge, why));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::registry::Registry;

    /// The header by which tensors are hashed is read before the bytes are, and a mapping changes a file without a trace.
    #[test]
    fn tensors_that_were_not_hashed_by_the_stored_header_are_those_of_a_changed_source() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, crate::models::gguf(100, 1)).expect("written");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let source = Source::open(&path).expect("a source");
        let request = PromoteRequest::new("m".parse().expect("a name"));
        let mut meter = Meter { task: &Task::unattended(), done: 0, total: source.size_bytes() };
        let layout = registry.inner.layout();
        let mut staged = ingest::take_in(layout, &source.files[0], Transfer::Copy, &mut meter).expect("taken in");
        let guarded = |staged: &Staged| {
            let inspected =
                inspect(&registry.inner, &source, std::slice::from_ref(staged), &request, None, &Policy::built_in());
            inspected.map(|inspected| inspected.guarded.len()).map_err(|e| e.kind())
        };
        assert_eq!(guarded(&staged), Ok(1));
        staged.tensors.as_mut().expect("planned").header.alignment = 64;
        assert_eq!(guarded(&staged), Err(ErrorKind::SourceChanged));
        staged.tensors = None;
        assert_eq!(guarded(&staged), Err(ErrorKind::SourceChanged), "the header was not sound then");
    }
}
