//! What gguf-guard (SecAI-Hub, 0.2.0) says of a GGUF file, said the same way.
//!
//! Owns: [`Guard`], a file's [`Fingerprint`] and [`TensorManifest`] together, and what both are made from ([`FileDigests`]).
//! Promises: pure functions over a header that was read and digests that were computed; for every file that gguf-guard can
//! read, the JSON ([`to_json`]) is its own, byte for byte; where it fails on sound files (docs/model-api.md, "Its defects")
//! the answer is what it should have been. Leaves out: our own digest over the whole sidecar, which binds names and shapes
//! as gguf-guard's tree does not; opening files.
//!
//! ```text
//! structure_hash = SHA-256( sorted "name:[d0,d1,...]:TYPE\n" )          dimensions in file order, ne0 first
//! leaf           = SHA-256( a tensor's bytes, no padding )               in file order
//! node           = SHA-256( left ‖ right ), an odd one with itself       one leaf is its own root; none gives ""
//! ```

mod families;
mod fingerprint;
mod gojson;
mod manifest;
mod pass;
mod policy;
mod verify;

pub use families::FamilyMatch;
pub use fingerprint::{Fingerprint, TensorBrief, structure_hash, structure_hash_of};
pub use gojson::to_json;
pub use manifest::{MAX_MANIFEST, TensorEntry, TensorManifest, merkle_root};
pub use pass::{Wanted, survey};
pub use policy::{Inspection, PolicyReport, PolicyViolation, inspect};
pub use verify::{Difference, DifferenceKind, verify, verify_lines};

use crate::digest::Sha256Digest;
use crate::error::Result;
use crate::format::gguf::GgufHeader;
use serde_json::{Map, Value, json};

/// What was computed of a file's bytes, whoever computed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigests {
    /// Bytes of the whole file.
    pub size_bytes: u64,
    /// SHA-256 of the whole file.
    pub sha256: Sha256Digest,
    /// SHA-256 of each tensor's bytes without padding, in the order of the header's table.
    pub tensors: Vec<Sha256Digest>,
}

/// What the registry keeps of a GGUF file: gguf-guard's fingerprint and manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The structural fingerprint.
    pub fingerprint: Fingerprint,
    /// The per-tensor manifest.
    pub manifest: TensorManifest,
}

impl Guard {
    /// Both, of a file with this header and these digests.
    ///
    /// # Errors
    /// `InvalidInput` when there is not one digest for each tensor.
    pub fn of(header: &GgufHeader, digests: &FileDigests) -> Result<Guard> {
        Ok(Guard {
            fingerprint: Fingerprint::of(header, digests.size_bytes, digests.sha256),
            manifest: TensorManifest::of(header, digests)?,
        })
    }

    /// The two fields of the Artifact JSON: `gguf_guard_fingerprint`, the structure hash, and `gguf_guard_manifest`.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("gguf_guard_fingerprint".to_owned(), json!(self.fingerprint.structure_hash));
        fields.insert("gguf_guard_manifest".to_owned(), json!(self.manifest));
        fields
    }
}

#[cfg(test)]
mod tests;
