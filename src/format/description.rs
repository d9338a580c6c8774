//! What a file is, in the words of whoever reads `securereg inspect`.
//!
//! Owns: [`Description`] and its parts. Promises: plain data, bounded by its parser; one form for every format, so that one
//! table shows them all; what other files of the same set are checked against stands in [`Facts`]. Leaves out: findings.

use super::Kind;
use super::gguf::GgufHeader;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One file, described.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// A model's weights, or a file that belongs beside them.
    #[serde(skip)]
    pub(crate) kind: Kind,
    /// What it is, in a line: "GGUF version 3, llama, 2 layers".
    pub what: String,
    /// What it says of itself: short values as they are, long ones as what they are ("array of 128256 strings").
    pub metadata: Map<String, Value>,
    /// Its tensors, in the file's order.
    pub tensors: Vec<Tensor>,
    /// What it adapts, when it is an adapter (LoRA and the like).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// For checks across files.
    #[serde(skip)]
    pub(crate) facts: Facts,
}

/// A tensor, whatever the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type by the format's own name: `Q4_K`, `BF16`, `FloatStorage`.
    pub dtype: String,
    /// Its dimensions in the file's order.
    pub shape: Vec<u64>,
    /// Where its bytes begin in the file; of one inside an archive's member there is no such place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many bytes it has.
    pub size_bytes: u64,
}

/// What an adapter is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// `lora`, `dora`, `control_vector`, ...: by the file's own word.
    pub kind: String,
    /// The model that it adapts, by the file's own word; empty when it does not say.
    pub base: String,
}

/// What a file says of others, or others of it.
#[derive(Debug, Clone, Default)]
pub(crate) enum Facts {
    /// Nothing.
    #[default]
    None,
    /// The header of a GGUF.
    Gguf(Box<GgufHeader>),
    /// A `*.index.json`: the file of each tensor.
    WeightMap(BTreeMap<String, String>),
    /// An ONNX file's external data: the paths it names, relative to its folder, each with the end of what it reads there.
    External(BTreeMap<String, u64>),
    /// Chat templates: where each stands in the file (empty: it is the file), and its text.
    Templates(Vec<(String, Vec<u8>)>),
}

impl Description {
    /// A file of this kind, of which no more is known.
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Description {
        let (metadata, tensors) = (Map::new(), Vec::new());
        Description { kind, what: what.into(), metadata, tensors, adapter: None, facts: Facts::None }
    }
}
