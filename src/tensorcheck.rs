//! Holding stored GGUF files against the tensor manifests recorded at their promotion.
//!
//! Owns: `verify-manifest` of one model. Promises: each tensor is hashed anew from what the disk holds, and each that differs is
//! named, as is everything else the manifest says (file hash, root, missing and extra tensors, metadata); the whole file is
//! verified besides, so that padding and header count too; a model that fails is quarantined before the report is given.
//! Leaves out: the comparison (`guard`), the quarantine (`verify`).

use crate::artifact::Artifact;
use crate::buffer::ReadBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{self, Difference, TensorManifest, Wanted};
use crate::name::{ModelName, RelPath};
use crate::registry::Inner;
use crate::scan::Stored;
use crate::sidecar::{self, Guarded};
use crate::task::{Actor, Task};
use crate::verify::{self, VerifyReport, VerifyStatus};
use serde::Serialize;
use std::io::Read;
use std::sync::Arc;

/// What the check of one model's tensors found.
#[derive(Debug, Clone, Serialize)]
pub struct ManifestReport {
    /// The verification of every stored byte, which counts as well: its status is that of the whole.
    #[serde(flatten)]
    pub whole: VerifyReport,
    /// What was checked, in a sentence.
    pub detail: String,
    /// Tensors whose hashes were compared.
    pub tensors: u64,
    /// In what the stored files differ from their manifests.
    pub differences: Vec<FileDifference>,
}

/// One difference, and in which file.
#[derive(Debug, Clone, Serialize)]
pub struct FileDifference {
    /// The file.
    pub file: RelPath,
    /// What differs.
    #[serde(flatten)]
    pub difference: Difference,
}

/// Checks the tensors of one model, and then the model as a whole.
pub(crate) fn verify(inner: &Arc<Inner>, name: &ModelName, actor: &Actor, task: &Task<'_>) -> Result<ManifestReport> {
    let catalog = inner.catalog()?;
    let artifact = Arc::clone(catalog.require(name)?);
    let (mut tensors, mut differences, mut unread) = (0, Vec::new(), None);
    // An inspection that was altered fails the verification below, which says so; one that cannot be read says nothing.
    let kept = sidecar::read(inner, &artifact).unwrap_or_else(|e| {
        unread = Some(e.message().to_owned());
        None
    });
    let guarded = kept.map(|k| k.gguf).unwrap_or_default();
    for Guarded { path, manifest } in &guarded {
        match compare(inner, &artifact, path, manifest, task) {
            Ok(found) => {
                tensors += manifest.tensors.len() as u64;
                differences
                    .extend(found.into_iter().map(|difference| FileDifference { file: path.clone(), difference }));
            }
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => unread = Some(format!("{path}: {}", e.message())),
        }
    }
    let mut whole = verify::one(inner, name, actor, task)?;
    if let (VerifyStatus::Verified, Some(first)) = (whole.status, differences.first()) {
        // The stored bytes are what was promoted, and the manifest says otherwise: the record cannot be right.
        whole.status = VerifyStatus::Failed;
        whole.restored = false;
        whole.error = Some(format!("{}: {}", first.file, first.difference.message));
        verify::fail_record(inner, &artifact, whole.error.as_deref().unwrap_or_default(), actor)?;
    } else if let (VerifyStatus::Verified, Some(why)) = (whole.status, unread) {
        whole.status = VerifyStatus::Unreadable;
        whole.error = Some(why);
    }
    let detail = match (artifact.inspection, guarded.len()) {
        _ if whole.status != VerifyStatus::Verified => {
            format!("{} of {tensors} tensors and records differ", differences.len())
        }
        (None, _) => format!(
            "all {} bytes match the promoted digests; no tensor manifest is recorded, because it was promoted before there \
             were any: promote it again to have one",
            whole.bytes
        ),
        (Some(_), 0) => format!("all {} bytes match the promoted digests; it holds no GGUF file", whole.bytes),
        (Some(_), files) => format!(
            "all {tensors} tensors of {files} GGUF file(s) match their manifests, and all {} bytes the promoted digests",
            whole.bytes
        ),
    };
    Ok(ManifestReport { whole, detail, tensors, differences })
}

/// One stored file against its manifest.
fn compare(
    inner: &Inner,
    artifact: &Artifact,
    path: &RelPath,
    manifest: &TensorManifest,
    task: &Task<'_>,
) -> Result<Vec<Difference>> {
    let entry = artifact.files.iter().find(|f| f.path == *path);
    let entry =
        entry.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("a manifest names {path}, which it has not")))?;
    let stored = Stored::open(inner.layout(), &entry.sha256, true)?;
    let size = stored.file.metadata().map_err(|e| Error::io(format_args!("reading {path}"), e))?.len();
    match guard::survey(FromDisk { stored, at: 0, buf: ReadBuf::new(), range: 0..0 }, size, Wanted::Tensors, task) {
        Ok((header, digests)) => Ok(guard::verify(manifest, &TensorManifest::of(&header, &digests)?)),
        // A header that is not sound any more says nothing about tensors.
        Err(e) if matches!(e.kind(), ErrorKind::Refused | ErrorKind::SourceChanged) => {
            Ok(vec![Difference::unsound(e.message())])
        }
        Err(e) => Err(e),
    }
}

/// A stored file from front to back, around the page cache where that is possible.
struct FromDisk {
    stored: Stored,
    /// The offset of what is read next.
    at: u64,
    buf: ReadBuf,
    /// What of the buffer has not been given out.
    range: std::ops::Range<usize>,
}

/// One read: whole blocks, as O_DIRECT wants them.
const PIECE: usize = 4 << 20;

impl Read for FromDisk {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.range.is_empty() {
            let n = self
                .buf
                .take(PIECE)
                .and_then(|piece| self.stored.read(piece, self.at))
                .map_err(std::io::Error::other)?;
            self.at += n as u64;
            self.range = 0..n;
        }
        let n = out.len().min(self.range.len());
        let from = self.range.start;
        out[..n].copy_from_slice(&self.buf.bytes(self.range.end)[from..from + n]);
        self.range.start += n;
        Ok(n)
    }
}
