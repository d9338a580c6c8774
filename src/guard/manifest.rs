//! The per-tensor manifest.
//!
//! Owns: [`TensorManifest`], its JSON and [`merkle_root`]. Promises: what it reads back is bounded and typed: a digest that is
//! none, a shape with too many dimensions, a manifest over [`MAX_MANIFEST`] is an error and not a mismatch. Leaves out: what
//! follows from two that differ (`verify`).

use super::FileDigests;
use super::fingerprint::{architecture, elements, parameters, quant_type, structure_hash, type_name};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::GgufHeader;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// No manifest is longer, in bytes: one of as many tensors as a header may have takes some 100 MiB.
pub const MAX_MANIFEST: u64 = 128 << 20;
/// gguf-guard reads tensors of up to so many dimensions; ggml, of up to four.
const MAX_DIMENSIONS: usize = 8;

/// What `gguf-guard manifest` prints, field by field in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorManifest {
    /// `1.0`.
    pub manifest_version: String,
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
    pub parameters: u64,
    /// Bytes of the whole file.
    pub file_size: u64,
    /// See [`merkle_root`]; `""` in JSON when there are no tensors.
    #[serde(serialize_with = "write_root", deserialize_with = "read_root")]
    pub merkle_root: Option<Sha256Digest>,
    /// Each tensor, in file order.
    pub tensors: Vec<TensorEntry>,
}

/// A tensor in a [`TensorManifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its type by gguf-guard's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its dimensions in file order, ne0 first.
    #[serde(deserialize_with = "read_shape")]
    pub shape: Vec<u64>,
    /// Where its bytes begin, counted from where tensor data begins.
    pub offset: u64,
    /// Bytes of its data, by ggml's own table.
    pub data_size: u64,
    /// SHA-256 of those bytes.
    pub hash: Sha256Digest,
    /// How many elements it has.
    pub element_count: u64,
}

impl TensorManifest {
    /// Of a file with this header and these digests.
    ///
    /// # Errors
    /// `InvalidInput` when there is not one digest for each tensor.
    pub fn of(header: &GgufHeader, digests: &FileDigests) -> Result<TensorManifest> {
        if digests.tensors.len() != header.tensors.len() {
            let (have, want) = (digests.tensors.len(), header.tensors.len());
            return Err(Error::new(ErrorKind::InvalidInput, format!("{have} digests for {want} tensors")));
        }
        let tensors = header.tensors.iter().zip(&digests.tensors);
        let tensors = tensors.map(|(tensor, hash)| TensorEntry {
            name: tensor.name.clone(),
            kind: type_name(tensor.kind).into_owned(),
            shape: tensor.dimensions.clone(),
            offset: tensor.offset,
            data_size: tensor.size_bytes,
            hash: *hash,
            element_count: elements(tensor),
        });
        Ok(TensorManifest {
            manifest_version: "1.0".to_owned(),
            file_hash: digests.sha256,
            structure_hash: structure_hash(header),
            architecture: architecture(header),
            quant_type: quant_type(header),
            tensor_count: header.tensors.len() as u64,
            parameters: parameters(header),
            file_size: digests.size_bytes,
            merkle_root: merkle_root(&digests.tensors),
            tensors: tensors.collect(),
        })
    }

    /// Reads one that gguf-guard, or this module, wrote.
    ///
    /// # Errors
    /// `Refused` when it is not such a manifest, `TooLarge` when it is over [`MAX_MANIFEST`].
    pub fn parse(json: &[u8]) -> Result<TensorManifest> {
        if json.len() as u64 > MAX_MANIFEST {
            let why = format!("a manifest of {} bytes is too large; at most {MAX_MANIFEST} are allowed", json.len());
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        serde_json::from_slice(json).map_err(|e| {
            Error::new(ErrorKind::Refused, format!("this is not a manifest as gguf-guard writes it: {e}")).because(e)
        })
    }
}

/// The root over `leaves`: each pair of neighbours is hashed into one, an odd one with itself, until one is left.
pub fn merkle_root(leaves: &[Sha256Digest]) -> Option<Sha256Digest> {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        let node = |pair: &[Sha256Digest]| {
            let left = pair.first().expect("a chunk is not empty");
            let right = pair.get(1).unwrap_or(left);
            Sha256Digest::of(&[*left.as_bytes(), *right.as_bytes()].concat())
        };
        level = level.chunks(2).map(node).collect();
    }
    level.pop()
}

fn write_root<S: Serializer>(root: &Option<Sha256Digest>, to: S) -> Result<S::Ok, S::Error> {
    match root {
        Some(root) => root.serialize(to),
        None => to.serialize_str(""),
    }
}

fn read_root<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Sha256Digest>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(de::Error::custom) }
}

/// Bounded, so that two bytes of JSON a dimension do not become eight of memory.
fn read_shape<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    struct Shape;
    impl<'de> Visitor<'de> for Shape {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_DIMENSIONS} dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dimension) = from.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(de::Error::invalid_length(MAX_DIMENSIONS + 1, &self));
                }
                shape.push(dimension);
            }
            Ok(shape)
        }
    }
    from.deserialize_seq(Shape)
}
