//! What the registry records of a model.
//!
//! Owns: [`Artifact`] and its parts, and [`Blocked`], as they stand in manifest.yaml. Promises: an `Artifact` in a
//! [`Catalog`] has at least one file, its digest and size follow from its files, and its mount paths are its alone; an
//! incident outlives the model it was put on. Leaves out: how it is written (`catalog`), where its bytes lie (`layout`).
//!
//! [`Catalog`]: crate::Catalog

use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::format::is_model_name;
use crate::name::{ModelName, RelPath};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A registered model: one name, one or more files, one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its name, with or without a tag.
    pub name: ModelName,
    /// The digest of a single file; of several, see [`list_digest`].
    pub sha256: Sha256Digest,
    /// One file, a folder or a split set.
    pub layout: Layout,
    /// What its bytes are.
    pub format: Format,
    /// Where it came from, in the promoter's words.
    pub source: String,
    /// When it was promoted: RFC 3339, UTC.
    pub promoted_at: String,
    /// The sum of its files, in bytes.
    pub size_bytes: u64,
    /// The sidecar with what the promoter sent along (scan results and so on), pinned by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Sha256Digest>,
    /// The sidecar with what inspection found, what the policy said, and the tensor manifests of GGUF files, pinned by its
    /// digest. Models that were promoted before there was one have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspection: Option<Sha256Digest>,
    /// Present while the model is quarantined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// Its files, sorted by path.
    pub files: Vec<FileEntry>,
}

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path inside the artifact; for a single file its name.
    pub path: RelPath,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its identity: the name of its blob.
    pub sha256: Sha256Digest,
    /// The root of its tree.
    pub blake3: Blake3Digest,
}

/// Why a model is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Who decides over its release.
    pub cause: Cause,
    /// In words.
    pub reason: String,
    /// The incident, when a response pipeline named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident_id: Option<String>,
    /// Since when: RFC 3339, UTC.
    pub at: String,
}

impl Quarantine {
    /// The incident in words: its id, where there is one.
    pub fn incident(&self) -> String {
        self.incident_id.as_ref().map_or_else(|| "an incident".into(), |id| format!("the incident {id}"))
    }
}

/// What a model that was deleted under an incident leaves: its weights stay blocked under every name until a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// The name it had. Another model may have that name now.
    pub name: ModelName,
    /// When it was deleted: RFC 3339, UTC.
    pub deleted_at: String,
    /// The incident, as it stood at the deletion.
    pub quarantine: Quarantine,
    /// Its weights, sorted by digest, each once; at least one.
    pub weights: Vec<Weights>,
}

/// One file of weights that may not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Its identity: the name its blob had.
    pub sha256: Sha256Digest,
}

impl Blocked {
    /// What `artifact` leaves when it is deleted at `deleted_at`; nothing unless it is under an incident. Weights only: a
    /// licence or a vocabulary is shared by models that have nothing else in common.
    pub(crate) fn left_by(artifact: &Artifact, deleted_at: &str) -> Option<Blocked> {
        let quarantine = artifact.quarantine.as_ref().filter(|q| q.cause == Cause::Incident)?;
        let weights = artifact.files.iter().filter(|f| is_model_name(&f.path)).map(|f| Weights { sha256: f.sha256 });
        let mut weights: Vec<Weights> = weights.collect();
        weights.sort_unstable();
        weights.dedup();
        (!weights.is_empty()).then(|| Blocked {
            name: artifact.name.clone(),
            deleted_at: deleted_at.to_owned(),
            quarantine: quarantine.clone(),
            weights,
        })
    }

    /// Whether a file is among its weights.
    pub(crate) fn holds(&self, sha256: &Sha256Digest) -> bool {
        self.weights.binary_search(&Weights { sha256: *sha256 }).is_ok()
    }

    /// What sorts them, and what no two have in common: several may have one name.
    pub(crate) fn key(&self) -> (&str, &[Weights]) {
        (self.name.as_str(), &self.weights)
    }
}

/// What led to a quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A verification or a read found other bytes; a verification that passes restores the model.
    Integrity,
    /// A person or an incident response; only a release restores the model.
    Incident,
}

impl Cause {
    /// The cause's name in the manifest and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Integrity => "integrity",
            Cause::Incident => "incident",
        }
    }
}

/// The shape of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One file.
    File,
    /// A folder, as Hugging Face lays a model out.
    Folder,
    /// A GGUF set split into `-00001-of-0000N` shards.
    Split,
}

impl Layout {
    /// The shape's name in the manifest and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::File => "file",
            Layout::Folder => "folder",
            Layout::Split => "split",
        }
    }
}

/// What an artifact's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ggml's GGUF, version 2 or 3.
    Gguf,
    /// Hugging Face's safetensors.
    Safetensors,
    /// PyTorch's `torch.save`: a zip or a tar around a pickle that holds nothing but tensors.
    Pytorch,
    /// ONNX, a protobuf.
    Onnx,
}

impl Format {
    /// The format's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Gguf => "gguf",
            Format::Safetensors => "safetensors",
            Format::Pytorch => "pytorch",
            Format::Onnx => "onnx",
        }
    }
}

impl FromStr for Format {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.to_ascii_lowercase().as_str() {
            "gguf" => Ok(Format::Gguf),
            "safetensors" => Ok(Format::Safetensors),
            "pytorch" => Ok(Format::Pytorch),
            "onnx" => Ok(Format::Onnx),
            _ => Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "format {:?} is not allowed: gguf, safetensors, pytorch and onnx are",
                    crate::digest::shorten(s)
                ),
            )),
        }
    }
}

impl Artifact {
    /// Whether it may be served.
    pub fn is_promoted(&self) -> bool {
        self.quarantine.is_none()
    }

    /// The sidecars that its entry pins.
    pub(crate) fn sidecars(&self) -> impl Iterator<Item = Sha256Digest> {
        self.evidence.into_iter().chain(self.inspection)
    }

    /// `promoted` or `quarantined`, as the API says it.
    pub fn status(&self) -> &'static str {
        if self.is_promoted() { "promoted" } else { "quarantined" }
    }

    /// Whether every path it would have in the mount is one: names and files are each bounded, and so is what they make
    /// together. Asked before an artifact is registered and when one is loaded, so that the paths below can be relied on.
    pub(crate) fn check_paths(&self) -> Result<()> {
        let claim = self.claim_text().parse::<RelPath>()?;
        for file in &self.files {
            if file.path.components().count() > crate::name::MAX_DEPTH || claim.join(&file.path).is_err() {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{} is too long or too deep a path for {} in the mount", file.path, self.name),
                ));
            }
        }
        Ok(())
    }

    /// The one path in the mount that this artifact holds: a file, or a folder with everything below it.
    pub fn mount_claim(&self) -> RelPath {
        self.claim_text().parse().expect("check_paths holds for every artifact")
    }

    fn claim_text(&self) -> String {
        match (self.name.tag(), self.layout) {
            (Some(tag), _) => format!("{}/{tag}", self.name.repo()),
            (None, Layout::File) => self.files[0].path.to_string(),
            (None, Layout::Folder | Layout::Split) => self.name.repo().to_owned(),
        }
    }

    /// Where `file`, one of its own, appears in the mount.
    pub fn mount_path(&self, file: &FileEntry) -> RelPath {
        if self.name.tag().is_none() && self.layout == Layout::File {
            return file.path.clone();
        }
        self.mount_claim().join(&file.path).expect("check_paths holds for every artifact")
    }

    /// What an engine is pointed at: the file, the folder, or the first shard.
    pub fn entry_path(&self) -> RelPath {
        match self.layout {
            Layout::Folder => self.mount_claim(),
            Layout::File | Layout::Split => self.mount_path(&self.files[0]),
        }
    }
}

/// The digest of an artifact of several files: SHA-256 over the lines `<hex>  <path>\n`, sorted bytewise by path, so
/// that `sha256sum` over `sha256sum`'s output is the oracle.
pub fn list_digest(files: &[FileEntry]) -> Sha256Digest {
    let mut sorted: Vec<&FileEntry> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.as_str().as_bytes().cmp(b.path.as_str().as_bytes()));
    let list: String = sorted.iter().map(|f| format!("{}  {}\n", f.sha256, f.path)).collect();
    Sha256Digest::of(list.as_bytes())
}
