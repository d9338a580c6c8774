//! What a promotion looks at.
//!
//! Owns: the look ahead at the source, and the inspection of what was staged. Promises: only the second counts, and it sees the
//! bytes that were hashed; the tensor manifest is of the header that was inspected. Leaves out: the parsers (`format`), the
//! judge (`policy`).

use super::PromoteRequest;
use crate::artifact::FileEntry;
use crate::error::Result;
use crate::format::description::Facts;
use crate::format::gguf::GgufHeader;
use crate::format::{self, Candidate, Inspector};
use crate::guard::{FileDigests, TensorManifest};
use crate::ingest::Staged;
use crate::inspect::Plain;
use crate::policy::{self, Evidence, Policy};
use crate::registry::Inner;
use crate::sidecar::{FileNote, Guarded};
use crate::signing::SignatureFile;
use crate::source::{Source, SourceFile};

/// Above this, a container whose members must be unpacked is looked at once only, when it has been copied.
const LOOKED_AHEAD: u64 = 64 << 20;

/// Refuses what can be refused by a look at the source, before gigabytes are copied. What it sees is not what will be
/// stored, so nothing it does not find counts for anything.
pub(super) fn look_ahead(source: &Source, policy: &Policy) -> Result<()> {
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
pub(super) struct Inspected {
    pub(super) evidence: Evidence,
    pub(super) notes: Vec<FileNote>,
    pub(super) guarded: Vec<Guarded>,
}

/// Inspects what was staged, out of bytes that are checked against the hashes just computed: what is judged is what is stored.
pub(super) fn inspect(
    inner: &Inner,
    source: &Source,
    staged: &[Staged],
    request: &PromoteRequest,
    signature: Option<&SignatureFile>,
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
    let sent = policy::sent(&request.evidence);
    let evidence = Evidence { kinds, findings, sent, signature: signature.cloned() };
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
