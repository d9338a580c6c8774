//! Holding a file against a manifest.
//!
//! Owns: [`verify`], [`Difference`] and the lines `gguf-guard verify-manifest` prints. Promises: everything that a manifest says
//! is compared, also what gguf-guard 0.2.0 passes over: the file's hash, the Merkle root and whether it fits the manifest's own
//! leaves, tensors that are missing or stand twice, shapes, types, places and the summary. Leaves out: computing what the
//! file is (`pass`, `manifest`).

use super::manifest::{TensorEntry, TensorManifest, merkle_root};
use crate::digest::{Sha256Digest, shorten};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The file has no sound header any more, so that nothing can be said of its tensors.
    Header,
    /// The manifest is of a version that is not known.
    ManifestVersion,
    /// The whole file's SHA-256.
    FileHash,
    /// Names, shapes or types of tensors, by their hash.
    StructureHash,
    /// The architecture.
    Architecture,
    /// The type most tensors have.
    QuantType,
    /// The number of tensors, stated or listed.
    TensorCount,
    /// The number of elements of all tensors.
    Parameters,
    /// The file's size.
    FileSize,
    /// The root over the tensors' hashes.
    MerkleRoot,
    /// The manifest's root is not that of the hashes it lists.
    MerkleLeaves,
    /// A tensor's bytes.
    TensorHash,
    /// A tensor of the manifest that the file has not.
    TensorMissing,
    /// A tensor of the file that the manifest has not.
    TensorExtra,
    /// A tensor that stands in the manifest twice.
    TensorDuplicate,
    /// A tensor's type.
    TensorType,
    /// A tensor's shape.
    TensorShape,
    /// Where a tensor's bytes begin.
    TensorOffset,
    /// How many bytes a tensor has.
    TensorSize,
    /// How many elements a tensor has.
    TensorElements,
}

impl DifferenceKind {
    /// Whether `gguf-guard verify-manifest` 0.2.0 would have found it; the rest it passes over.
    pub fn is_checked_by_gguf_guard(self) -> bool {
        matches!(self, DifferenceKind::TensorHash | DifferenceKind::TensorExtra)
    }

    /// What gguf-guard calls it in its lines.
    fn words(self) -> &'static str {
        match self {
            DifferenceKind::Header => "no sound header",
            DifferenceKind::ManifestVersion => "unsupported manifest version",
            DifferenceKind::FileHash => "file hash mismatch",
            DifferenceKind::StructureHash => "structure hash mismatch",
            DifferenceKind::Architecture => "architecture mismatch",
            DifferenceKind::QuantType => "quantization type mismatch",
            DifferenceKind::TensorCount => "tensor count mismatch",
            DifferenceKind::Parameters => "parameter count mismatch",
            DifferenceKind::FileSize => "file size mismatch",
            DifferenceKind::MerkleRoot => "Merkle root mismatch",
            DifferenceKind::MerkleLeaves => "manifest Merkle root does not match tensor hashes",
            DifferenceKind::TensorHash => "hash mismatch",
            DifferenceKind::TensorMissing => "manifest tensor not present in file",
            DifferenceKind::TensorExtra => "not in manifest",
            DifferenceKind::TensorDuplicate => "duplicate manifest tensor",
            DifferenceKind::TensorType => "type mismatch",
            DifferenceKind::TensorShape => "shape mismatch",
            DifferenceKind::TensorOffset => "offset mismatch",
            DifferenceKind::TensorSize => "data size mismatch",
            DifferenceKind::TensorElements => "element count mismatch",
        }
    }
}

/// One thing in which a file is not what a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs.
    pub kind: DifferenceKind,
    /// The tensor, when it is one; as it stands, so it may be anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// What the manifest says, cut; empty when it says nothing.
    pub expected: String,
    /// What the file is, cut; empty when it has nothing of the kind.
    pub actual: String,
    /// All of it in a sentence, with names quoted.
    pub message: String,
}

impl Difference {
    /// Of a file whose header cannot be read: `why` says what is wrong with it.
    pub(crate) fn unsound(why: &str) -> Difference {
        let message = format!("its header is not the one recorded: {why}");
        let (expected, actual) = (String::new(), String::new());
        Difference { kind: DifferenceKind::Header, tensor: None, expected, actual, message }
    }

    fn of(kind: DifferenceKind, expected: &str, actual: &str) -> Difference {
        let (expected, actual) = (shorten(expected), shorten(actual));
        let message = format!("{}: expected {expected:?}, found {actual:?}", kind.words());
        Difference { kind, tensor: None, expected, actual, message }
    }

    fn of_tensor(kind: DifferenceKind, name: &str, expected: &str, actual: &str) -> Difference {
        let (tensor, expected, actual) = (Some(name.to_owned()), shorten(expected), shorten(actual));
        let name = shorten(name);
        let message = match kind {
            DifferenceKind::TensorMissing => format!("the manifest's tensor {name:?} is not in the file"),
            DifferenceKind::TensorExtra => format!("the tensor {name:?} is not in the manifest"),
            DifferenceKind::TensorDuplicate => format!("the tensor {name:?} stands in the manifest twice"),
            _ => format!("the tensor {name:?}: {}: expected {expected}, found {actual}", kind.words()),
        };
        Difference { kind, tensor, expected, actual, message }
    }

    /// The line gguf-guard prints: of what it checks in the words of 0.2.0, of the rest in the same manner.
    fn line(&self) -> String {
        let words = self.kind.words();
        let head = |digest: &str| digest.get(..16).unwrap_or(digest).to_owned();
        match (&self.tensor, self.kind) {
            (Some(name), DifferenceKind::TensorHash) => {
                format!("{name}: {words} (expected {}, got {})", head(&self.expected), head(&self.actual))
            }
            (
                Some(name),
                DifferenceKind::TensorMissing | DifferenceKind::TensorExtra | DifferenceKind::TensorDuplicate,
            ) => {
                format!("{name}: {words}")
            }
            (Some(name), _) => format!("{name}: {words} (expected {}, got {})", self.expected, self.actual),
            (None, _) => format!("{words} (expected {}, got {})", self.expected, self.actual),
        }
    }
}

/// Everything in which the file that `actual` was made of differs from `manifest`. The summary comes first, then the tensors
/// in the file's order, then those it lacks.
pub fn verify(manifest: &TensorManifest, actual: &TensorManifest) -> Vec<Difference> {
    let mut found = Vec::new();
    summary(manifest, actual, &mut found);
    let mut entries: HashMap<&str, &TensorEntry> = HashMap::new();
    for entry in &manifest.tensors {
        if entries.insert(&entry.name, entry).is_some() {
            found.push(Difference::of_tensor(DifferenceKind::TensorDuplicate, &entry.name, "", ""));
        }
    }
    for tensor in &actual.tensors {
        match entries.get(tensor.name.as_str()) {
            Some(entry) => compare(entry, tensor, &mut found),
            None => {
                let hash = tensor.hash.to_hex();
                found.push(Difference::of_tensor(DifferenceKind::TensorExtra, &tensor.name, "", &hash));
            }
        }
    }
    let present: HashSet<&str> = actual.tensors.iter().map(|t| t.name.as_str()).collect();
    for entry in manifest.tensors.iter().filter(|entry| !present.contains(entry.name.as_str())) {
        found.push(Difference::of_tensor(DifferenceKind::TensorMissing, &entry.name, &entry.hash.to_hex(), ""));
    }
    found
}

fn summary(manifest: &TensorManifest, actual: &TensorManifest, found: &mut Vec<Difference>) {
    use DifferenceKind as Kind;
    let root = |root: Option<Sha256Digest>| root.map(|root| root.to_hex()).unwrap_or_default();
    let listed = manifest.tensors.len() as u64;
    for (kind, expected, actual) in [
        (Kind::ManifestVersion, manifest.manifest_version.clone(), actual.manifest_version.clone()),
        (Kind::FileHash, manifest.file_hash.to_hex(), actual.file_hash.to_hex()),
        (Kind::StructureHash, manifest.structure_hash.to_hex(), actual.structure_hash.to_hex()),
        (Kind::Architecture, manifest.architecture.clone(), actual.architecture.clone()),
        (Kind::QuantType, manifest.quant_type.clone(), quant_type(&manifest.quant_type, actual)),
        (Kind::TensorCount, manifest.tensor_count.to_string(), actual.tensor_count.to_string()),
        (Kind::TensorCount, manifest.tensor_count.to_string(), format!("{listed}")),
        (Kind::Parameters, manifest.parameters.to_string(), actual.parameters.to_string()),
        (Kind::FileSize, manifest.file_size.to_string(), actual.file_size.to_string()),
        (Kind::MerkleRoot, root(manifest.merkle_root), root(actual.merkle_root)),
    ] {
        if expected != actual {
            found.push(Difference::of(kind, &expected, &actual));
        }
    }
    let leaves: Vec<Sha256Digest> = manifest.tensors.iter().map(|entry| entry.hash).collect();
    let of_leaves = merkle_root(&leaves);
    if manifest.merkle_root != of_leaves {
        found.push(Difference::of(Kind::MerkleLeaves, &root(manifest.merkle_root), &root(of_leaves)));
    }
}

/// The type that most of the file's tensors have. Of several, gguf-guard names one by chance: any of them is right, so `stated`
/// is when it is one.
fn quant_type(stated: &str, actual: &TensorManifest) -> String {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for tensor in &actual.tensors {
        *counts.entry(&tensor.kind).or_default() += 1;
    }
    let most = counts.values().max();
    let is_one = counts.get(stated).is_some_and(|count| Some(count) == most);
    if is_one { stated.to_owned() } else { actual.quant_type.clone() }
}

fn compare(entry: &TensorEntry, tensor: &TensorEntry, found: &mut Vec<Difference>) {
    use DifferenceKind as Kind;
    let mut note = |kind, expected: &str, actual: &str| {
        if expected != actual {
            found.push(Difference::of_tensor(kind, &tensor.name, expected, actual));
        }
    };
    note(Kind::TensorType, &entry.kind, &tensor.kind);
    note(Kind::TensorShape, &format!("{:?}", entry.shape), &format!("{:?}", tensor.shape));
    note(Kind::TensorOffset, &entry.offset.to_string(), &tensor.offset.to_string());
    note(Kind::TensorSize, &entry.data_size.to_string(), &tensor.data_size.to_string());
    note(Kind::TensorElements, &entry.element_count.to_string(), &tensor.element_count.to_string());
    note(Kind::TensorHash, &entry.hash.to_hex(), &tensor.hash.to_hex());
}

/// What `gguf-guard verify-manifest` prints, line by line and without line feeds; names stand in them as they are.
pub fn verify_lines(differences: &[Difference]) -> Vec<String> {
    if differences.is_empty() {
        return vec!["PASS: all tensors match manifest".to_owned()];
    }
    let mut lines = vec![format!("FAIL: {} mismatches", differences.len())];
    lines.extend(differences.iter().map(|difference| format!("  {}", difference.line())));
    lines
}
