//! The structural fingerprint.
//!
//! Owns: [`Fingerprint`], [`structure_hash`], and gguf-guard's names and sums. Promises: two files of the same structure hash
//! have tensors of the same names, shapes and types, whatever their weights; the same file gives the same words every time
//! (gguf-guard breaks ties of `quant_type` by chance). Leaves out: the weights' own digests (`manifest`).

use super::manifest::TensorEntry;
use crate::digest::Sha256Digest;
use crate::format::ggml_type::GgmlType;
use crate::format::gguf::{GgufHeader, TensorInfo, Value};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

/// What `gguf-guard fingerprint` prints, field by field in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// SHA-256 of the whole file.
    pub file_hash: Sha256Digest,
    /// See [`structure_hash`].
    pub structure_hash: Sha256Digest,
    /// `general.architecture`; `unknown` when it is absent or no string.
    pub architecture: String,
    /// The type that most tensors have; of several, that of the lowest number.
    pub quant_type: String,
    /// How many tensors there are.
    pub tensor_count: u64,
    /// How many elements all tensors have together.
    pub parameter_count: u64,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// The GGUF version.
    pub version: u32,
    /// How many different `blk.N` and `layers.N` the tensors' names begin with.
    pub layer_count: u64,
    /// Each tensor, in file order.
    pub tensor_summary: Vec<TensorBrief>,
}

/// A tensor in a [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorBrief {
    /// Its name.
    pub name: String,
    /// Its dimensions in file order, ne0 first.
    pub shape: Vec<u64>,
    /// Its type by gguf-guard's name.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Fingerprint {
    /// Of a file of `size` bytes with this header and this SHA-256.
    pub fn of(header: &GgufHeader, size: u64, sha256: Sha256Digest) -> Fingerprint {
        let brief = |t: &TensorInfo| TensorBrief {
            name: t.name.clone(),
            shape: t.dimensions.clone(),
            kind: type_name(t.kind).into_owned(),
        };
        Fingerprint {
            file_hash: sha256,
            structure_hash: structure_hash(header),
            architecture: architecture(header),
            quant_type: quant_type(header),
            tensor_count: header.tensors.len() as u64,
            parameter_count: parameters(header),
            file_size: size,
            version: header.version,
            layer_count: layer_count(header),
            tensor_summary: header.tensors.iter().map(brief).collect(),
        }
    }
}

/// SHA-256 over the lines `name:[d0,d1,...]:TYPE`, sorted by bytes, each ended by a line feed.
pub fn structure_hash(header: &GgufHeader) -> Sha256Digest {
    hash_lines(header.tensors.iter().map(|t| line(&t.name, &t.dimensions, &type_name(t.kind))).collect())
}

/// The same over the tensors of several manifests: of a set of shards it is what one file of them all would have.
pub fn structure_hash_of<'a>(tensors: impl Iterator<Item = &'a TensorEntry>) -> Sha256Digest {
    hash_lines(tensors.map(|t| line(&t.name, &t.shape, &t.kind)).collect())
}

fn line(name: &str, shape: &[u64], kind: &str) -> String {
    let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("{name}:[{}]:{kind}\n", shape.join(","))
}

fn hash_lines(mut lines: Vec<String>) -> Sha256Digest {
    // Without its line feed a line may be the beginning of another; a name may itself hold one.
    lines.sort_unstable_by(|a, b| without_end(a).cmp(without_end(b)));
    let mut hasher = sha2::Sha256::new();
    lines.iter().for_each(|line| hasher.update(line));
    Sha256Digest::from_bytes(hasher.finalize().into())
}

fn without_end(line: &str) -> &[u8] {
    line.as_bytes().strip_suffix(b"\n").unwrap_or(line.as_bytes())
}

/// gguf-guard's name of a type. It took the numbers 16 to 18 for others than ggml did, and knows none but these.
pub(super) fn type_name(kind: &GgmlType) -> Cow<'static, str> {
    match kind.id {
        16 => "IQ2".into(),
        17 => "IQ3".into(),
        18 => "IQ1".into(),
        0..=3 | 6..=15 | 30 => kind.name.into(),
        id => format!("unknown({id})").into(),
    }
}

/// The model's architecture. A byte that is not UTF-8 becomes U+FFFD by itself, as Go's JSON has it.
pub(super) fn architecture(header: &GgufHeader) -> String {
    let Some(Value::String(bytes)) = header.value("general.architecture") else { return "unknown".to_owned() };
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// The type most tensors have, and of several the one of the lowest number. Without tensors all are at nought, so it is F32.
pub(super) fn quant_type(header: &GgufHeader) -> String {
    let mut counts: BTreeMap<u32, (u64, &GgmlType)> = BTreeMap::new();
    for tensor in &header.tensors {
        counts.entry(tensor.kind.id).or_insert((0, tensor.kind)).0 += 1;
    }
    // In rising order, so that the last of the equals is the highest: only more than before counts.
    let mut most: Option<(u64, &GgmlType)> = None;
    for (count, kind) in counts.into_values() {
        if most.is_none_or(|(before, _)| count > before) {
            most = Some((count, kind));
        }
    }
    most.map_or("F32".into(), |(_, kind)| type_name(kind)).into_owned()
}

/// Elements of a tensor. Saturates: what fits a file of today is far below the limit.
pub(super) fn elements(tensor: &TensorInfo) -> u64 {
    tensor.dimensions.iter().fold(1, |n, d| n.saturating_mul(*d))
}

/// Elements of all tensors together. Saturates.
pub(super) fn parameters(header: &GgufHeader) -> u64 {
    header.tensors.iter().map(elements).fold(0, u64::saturating_add)
}

fn layer_count(header: &GgufHeader) -> u64 {
    let mut layers = HashSet::new();
    for tensor in &header.tensors {
        let mut parts = tensor.name.split('.');
        if let (Some(prefix @ ("blk" | "layers")), Some(number)) = (parts.next(), parts.next()) {
            layers.insert((prefix, number));
        }
    }
    layers.len() as u64
}
