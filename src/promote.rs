//! Promotion: the one way in.
//!
//! Owns: the straight line from a source to an entry of the catalog. Promises: a crash at any point leaves the catalog as it
//! was or with the whole model; a refusal leaves nothing behind and is in the audit log; only what policy cleared is
//! published. Leaves out: each step's how (`source`, `ingest`, `policy`, `catalog::store`).

use crate::artifact::{Artifact, FileEntry, Format, Layout as Shape, list_digest};
use crate::audit::{self, Event, now};
use crate::catalog::store::Decision;
use crate::catalog::{Catalog, Edit};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::description::Facts;
use crate::format::gguf::GgufHeader;
use crate::format::{self, Candidate, Inspector};
use crate::guard::{FileDigests, TensorManifest};
use crate::ingest::{self, Meter, Staged};
use crate::inspect::Plain;
use crate::layout::{Folder, blob_name};
use crate::name::{ModelName, RelPath};
use crate::policy::{self, Cleared, Evidence, Policy, Verdict};
use crate::registry::Inner;
use crate::sidecar::{self, FileNote, Guarded};
use crate::source::{Source, SourceFile, Taken};
use crate::task::{Actor, Task};
use std::cell::RefCell;
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
        if let Err(log) = inner.note_refusal(request.name.as_str(), &why, actor) {
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
    look_ahead(&source, &policy)?;
    let _temp = inner.layout().use_temp()?;
    let mut staging = Staging { inner, staged: Vec::new(), sidecars: Vec::new() };
    let mut meter = Meter { task, done: 0, total: size };
    let intake = if source.files.len() > MAX_ADOPTED { Transfer::Copy } else { request.transfer };
    for file in &source.files {
        staging.staged.push(ingest::take_in(inner.layout(), file, intake, &mut meter)?);
    }
    let files: Vec<FileEntry> = staging.staged.iter().map(|s| s.entry.clone()).collect();
    let sha256 = if source.shape == Shape::File { files[0].sha256 } else { list_digest(&files) };
    if let Some(claimed) = request.sha256.filter(|claimed| *claimed != sha256) {
        return Err(mismatch("SHA-256", claimed, sha256).with_digests(claimed, sha256));
    }
    let Inspected { evidence, notes, guarded } = inspect(inner, &source, &staging.staged, request, &policy)?;
    let cleared = policy.judge(source.shape, files, evidence, request.format)?;
    let verdict = cleared.verdict().clone();
    let sent = staging.add(sent_along(request)?)?;
    let found = staging.add(Some(sidecar::write(&verdict, notes, guarded)?))?;
    let candidate = artifact_of(request, source.shape, sha256, cleared, [sent, found]);
    let (artifact, outcome, method) =
        publish(inner, &candidate, &verdict, request.transfer, &staging, &source, actor, task)?;
    finish_move(inner, request, &source, &staging);
    Ok(Promotion { artifact, outcome, method, skipped: source.skipped.clone(), verdict })
}

/// Above this, a container whose members must be unpacked is looked at once only, when it has been copied.
const LOOKED_AHEAD: u64 = 64 << 20;

/// Refuses what can be refused by a look at the source, before gigabytes are copied. What it sees is not what will be
/// stored, so nothing it does not find counts for anything.
fn look_ahead(source: &Source, policy: &Policy) -> Result<()> {
    let mut inspector = Inspector::default();
    source.report(&mut inspector.findings);
    policy.admit_so_far(&inspector.findings)?;
    for i in Inspector::order(source.files.iter().map(|f| &f.path)) {
        let file = &source.files[i];
        let input = Plain::open(file)?;
        if file.size() > LOOKED_AHEAD && format::is_read_whole(&input)? {
            return Ok(());
        }
        inspector.file(&file.path, &input)?;
        policy.admit_so_far(&inspector.findings)?;
    }
    policy.admit_so_far(&inspector.finish(source.shape).1)
}

/// What inspection made of the staged files.
struct Inspected {
    evidence: Evidence,
    notes: Vec<FileNote>,
    guarded: Vec<Guarded>,
}

/// Inspects what was staged, out of bytes that are checked against the hashes just computed: what is judged is what is stored.
fn inspect(
    inner: &Inner,
    source: &Source,
    staged: &[Staged],
    request: &PromoteRequest,
    policy: &Policy,
) -> Result<Inspected> {
    let mut inspector = Inspector::default();
    source.report(&mut inspector.findings);
    let mut guarded = Vec::new();
    for i in Inspector::order(staged.iter().map(|s| &s.entry.path)) {
        inspector.file(&staged[i].entry.path, &staged[i].checked(inner.layout())?)?;
        policy.admit_so_far(&inspector.findings)?;
        if let Some(Facts::Gguf(header)) = inspector.latest().map(|description| &description.facts) {
            guarded.push(guard(header, &staged[i], &source.files[i])?);
        }
    }
    let (candidates, mut findings) = inspector.finish(source.shape);
    if let Some(first) = staged.first() {
        policy::compare_guard(&request.evidence, &first.entry.path, &guarded, &mut findings);
    }
    let kinds = candidates.iter().map(|c| (c.path.clone(), c.description.kind)).collect();
    let evidence = Evidence { kinds, findings, sent: policy::sent(&request.evidence) };
    let note = |c: Candidate| FileNote { path: c.path, what: c.description.what, adapter: c.description.adapter };
    Ok(Inspected { evidence, notes: candidates.into_iter().map(note).collect(), guarded })
}

/// The tensor manifest of a staged GGUF that inspection admitted.
fn guard(header: &GgufHeader, staged: &Staged, file: &SourceFile) -> Result<Guarded> {
    // They were hashed by the header that the source had before it was copied: none, where that one was not sound.
    let Some(planned) = staged.tensors.as_ref().filter(|planned| planned.header == *header) else {
        return Err(file.changed());
    };
    let FileEntry { path, size_bytes, sha256, .. } = &staged.entry;
    let digests = FileDigests { size_bytes: *size_bytes, sha256: *sha256, tensors: planned.digests.clone() };
    Ok(Guarded { path: path.clone(), manifest: TensorManifest::of(header, &digests)? })
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
    let (size, free) = (early.size_bytes, inner.layout().free_bytes()?);
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

/// Staged files; whatever was not published is discarded when this is dropped.
struct Staging<'a> {
    inner: &'a Arc<Inner>,
    staged: Vec<Staged>,
    /// Sidecars in tmp/, each named by its digest once it is published.
    sidecars: Vec<(Sha256Digest, String)>,
}

impl Staging<'_> {
    /// Writes a sidecar to tmp/.
    fn add(&mut self, text: Option<Vec<u8>>) -> Result<Option<Sha256Digest>> {
        let Some(text) = text else { return Ok(None) };
        let digest = Sha256Digest::of(&text);
        self.sidecars.push((digest, self.inner.layout().write_temp(&text)?));
        Ok(Some(digest))
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let files = self.staged.iter().flat_map(|s| [&s.temp, &s.tree_temp]);
        files.chain(self.sidecars.iter().map(|(_, temp)| temp)).for_each(|temp| self.inner.layout().discard(temp));
    }
}

/// Under the commit lock: asks once more, publishes the files, writes the catalog.
#[expect(clippy::too_many_arguments, reason = "the last step of the line takes what all others made")]
fn publish(
    inner: &Arc<Inner>,
    candidate: &Artifact,
    verdict: &Verdict,
    transfer: Transfer,
    staging: &Staging<'_>,
    source: &Source,
    actor: &Actor,
    task: &Task<'_>,
) -> Result<(Arc<Artifact>, Outcome, Method)> {
    let layout = inner.layout();
    let mut method = Method::Shared;
    let fresh: RefCell<Vec<Sha256Digest>> = RefCell::default();
    let decide = |catalog: &Catalog| {
        // The lock may have been long in coming.
        task.go_on()?;
        let outcome = place(catalog, candidate)?;
        for (staged, file) in staging.staged.iter().zip(&source.files) {
            method = method.max(publish_file(inner, catalog, staged, file, transfer, &mut fresh.borrow_mut())?);
        }
        if !fresh.borrow().is_empty() {
            layout.sync(Folder::Blobs)?;
            layout.sync(Folder::Trees)?;
        }
        let entry = match catalog.artifact(&candidate.name).filter(|_| outcome == Outcome::AlreadyThere) {
            Some(there) if there.inspection.is_some() => return Ok(Decision::Keep(outcome)),
            // Promoted before there were inspections: it stays what it is, and has one now.
            Some(there) => Artifact { inspection: candidate.inspection, ..Artifact::clone(there) },
            None => candidate.clone(),
        };
        for (digest, temp) in staging.sidecars.iter().filter(|(digest, _)| entry.sidecars().any(|s| s == *digest)) {
            layout.publish(temp, Folder::Sidecars, &digest.to_hex())?;
        }
        layout.sync(Folder::Sidecars)?;
        let why = format!("sha256 {} from {:?}; {}", candidate.sha256, candidate.source, verdict.summary());
        let edits = vec![Edit::Put(Box::new(entry))];
        Ok(Decision::Change { event: "promote", names: vec![candidate.name.to_string()], why, edits, value: outcome })
    };
    let undo = |stays: &Catalog| {
        let unheld = |sha256: &&Sha256Digest| stays.holders(sha256).next().is_none();
        fresh.borrow().iter().filter(unheld).for_each(|sha256| inner.remove_blob(sha256));
        for (digest, _) in &staging.sidecars {
            if !stays.artifacts().any(|a| a.sidecars().any(|s| s == *digest)) {
                let _ = layout.remove(Folder::Sidecars, &digest.to_hex());
            }
        }
        // An adopted file goes back to its owner as it was.
        for adopted in staging.staged.iter().filter_map(|s| s.adopted.as_ref()) {
            let _ = rustix::fs::fchmod(&adopted.file, adopted.mode);
        }
    };
    let committed = inner.commit_or(actor, decide, undo);
    // Also after a failure: a damaged file of another model may have been replaced by a good one.
    let fresh = fresh.into_inner();
    for sha256 in &fresh {
        if let Err(e) = inner.blobs().learn_published(sha256) {
            tracing::debug!(%sha256, error = %e, "its stamp was not taken; the next open re-checks");
        }
    }
    let (catalog, outcome) = committed?;
    inner.absolve(&fresh);
    let artifact = Arc::clone(catalog.require(&candidate.name)?);
    Ok((artifact, outcome, method))
}

/// What promoting `candidate` means for its name.
fn place(catalog: &Catalog, candidate: &Artifact) -> Result<Outcome> {
    catalog.check_room(candidate)?;
    let Some(there) = catalog.artifact(&candidate.name) else { return Ok(Outcome::Promoted) };
    let same = there.files == candidate.files && there.layout == candidate.layout;
    match (same, there.is_promoted()) {
        (true, true) => Ok(Outcome::AlreadyThere),
        // Quarantined by integrity (check_room refuses the bytes of an incident): these bytes are good.
        (true, false) => Ok(Outcome::Moved),
        (false, _) if candidate.name.tag().is_some() => {
            let incident = there.quarantine.as_ref().is_some_and(|q| q.cause == crate::artifact::Cause::Incident);
            if incident {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{} is under an incident: release it first", candidate.name),
                ));
            }
            Ok(Outcome::Moved)
        }
        (false, _) => Err(immutable(there)),
    }
}

fn immutable(there: &Artifact) -> Error {
    let Artifact { name, sha256, .. } = there;
    let why = format!(
        "{name} already stands for other bytes or file names ({sha256}): choose another name, a tag, or delete it first"
    );
    Error::new(ErrorKind::Conflict, why)
}

/// Puts one staged file and its tree in place, unless the stored one serves. It serves when a promoted model holds it and it
/// is known to be good; never for a move, after which the source is gone and nothing else vouches for the bytes.
fn publish_file(
    inner: &Arc<Inner>,
    catalog: &Catalog,
    staged: &Staged,
    file: &SourceFile,
    transfer: Transfer,
    fresh: &mut Vec<Sha256Digest>,
) -> Result<Method> {
    let layout = inner.layout();
    let sha256 = staged.entry.sha256;
    if fresh.contains(&sha256) {
        return Ok(Method::Shared);
    }
    let mut holders = catalog.holders(&sha256).peekable();
    let held = holders.peek().is_some();
    if transfer == Transfer::Copy && held && holders.all(|a| a.is_promoted()) && inner.has_good(&sha256) {
        return Ok(Method::Shared);
    }
    if let Some(adopted) = &staged.adopted {
        rustix::fs::fchmod(&adopted.file, ingest::READ_ONLY).map_err(|e| Error::io("making the file read-only", e))?;
        file.check_unchanged(&adopted.file, Taken::Adopted)?;
        // Whoever could still open it for writing until now has broken the lease; from now on nobody can.
        if !adopted.lease.is_unbroken() {
            return Err(file.changed());
        }
    }
    let name = blob_name(&sha256);
    fresh.push(sha256);
    layout.publish(&staged.temp, Folder::Blobs, &name)?;
    layout.publish(&staged.tree_temp, Folder::Trees, &name)?;
    Ok(staged.method)
}

/// After a move: the source's names go, and an adopted file that keeps a second link becomes a copy of its own.
fn finish_move(inner: &Arc<Inner>, request: &PromoteRequest, source: &Source, staging: &Staging<'_>) {
    if request.transfer != Transfer::Move {
        return;
    }
    for (file, staged) in source.files.iter().zip(&staging.staged) {
        match file.remove(staged.taken()) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(path = %file.path, "the source was changed after it was read: it stays where it is")
            }
            Err(e) => tracing::warn!(path = %file.path, error = %e, "the promoted source could not be removed"),
        }
    }
    for staged in staging.staged.iter().filter(|s| s.adopted.is_some()) {
        let entry = &staged.entry;
        // The last link's going changes ctime: a stamp is taken of the file that was published, and of no other.
        if let Err(e) = inner.make_private(entry).and_then(|()| inner.blobs().learn_adopted(&entry.sha256)) {
            tracing::warn!(path = %entry.path, error = %e, "the stored file will be re-checked at its next open");
        }
    }
}

/// A refusal's line in the audit log.
pub(crate) fn note_refusal(inner: &Inner, name: &str, why: &str, actor: &Actor) -> Result<()> {
    let generation = inner.latest().generation();
    audit::append(inner.layout(), actor, &[Event { event: "refuse", phase: audit::NOTED, name, why, generation }])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
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
                inspect(&registry.inner, &source, std::slice::from_ref(staged), &request, &Policy::built_in());
            inspected.map(|inspected| inspected.guarded.len()).map_err(|e| e.kind())
        };
        assert_eq!(guarded(&staged), Ok(1));
        staged.tensors.as_mut().expect("planned").header.alignment = 64;
        assert_eq!(guarded(&staged), Err(ErrorKind::SourceChanged));
        staged.tensors = None;
        assert_eq!(guarded(&staged), Err(ErrorKind::SourceChanged), "the header was not sound then");
    }
}
