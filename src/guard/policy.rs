//! `gguf-guard inspect`: its structural policy.
//!
//! Owns: [`inspect`], [`PolicyReport`] and the rules behind it. Promises: the same violations in the same order as gguf-guard
//! 0.2.0 finds, where it does not leave the order to chance; of types that it knows no size of, ggml's sizes hold, so that
//! sound files of newer types pass; work is bounded, whatever overlaps. Leaves out: what decides a promotion (`format` and the
//! registry's policy): these are gguf-guard's opinions, kept for those who read them.

use super::families::{FamilyMatch, match_families};
use super::fingerprint::{architecture, elements};
use super::gojson::quote;
use crate::format::gguf::{GgufHeader, TensorInfo, Value};
use serde::Serialize;
use std::collections::HashMap;

/// More pairs of overlapping tensors are not listed; gguf-guard lists them all, which is quadratic.
const MAX_OVERLAPS: usize = 10_000;
/// A dimension above is remarked on.
const LARGE_DIMENSION: u64 = 1 << 30;
/// A string of metadata with more bytes is remarked on.
const LARGE_STRING: usize = 1 << 20;

/// Names that tensors of the llama family end with.
const COMMON: [&str; 19] = [
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "attn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
    "ffn_norm.weight",
    "attn_q.bias",
    "attn_k.bias",
    "attn_v.bias",
    "attn_output.bias",
    "ffn_gate.bias",
    "ffn_up.bias",
    "ffn_down.bias",
];
/// Those of a mixture of experts besides.
const EXPERTS: [&str; 4] =
    ["ffn_gate_inp.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"];

/// What `gguf-guard inspect` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The structural policy.
    pub policy: PolicyReport,
    /// How well the tensors fit each family that gguf-guard knows.
    pub family_matches: Vec<FamilyMatch>,
}

/// The result of the structural policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// Whether there is no violation, not even of severity `info`.
    pub pass: bool,
    /// The violations, in the order of the rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<PolicyViolation>,
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyViolation {
    /// The rule, such as `tensor_overlap`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// A sentence; names are quoted as Go's `%q` does.
    pub description: String,
}

/// Inspects a file of `size` bytes with this header.
pub fn inspect(header: &GgufHeader, size: u64) -> Inspection {
    let architecture = architecture(header);
    let mut report = Report(Vec::new());
    report.places(header, size);
    report.architecture(header, &architecture);
    report.metadata(header);
    report.shapes(header);
    report.names(header, &architecture);
    let policy = PolicyReport { pass: report.0.is_empty(), violations: report.0 };
    Inspection { policy, family_matches: match_families(header, &architecture) }
}

struct Report(Vec<PolicyViolation>);

impl Report {
    fn add(&mut self, kind: &'static str, severity: &'static str, description: String) {
        self.0.push(PolicyViolation { kind, severity, description });
    }

    /// Tensors that lie outside the file, or over each other.
    fn places(&mut self, header: &GgufHeader, size: u64) {
        let mut regions = Vec::new();
        for tensor in &header.tensors {
            if tensor.size_bytes == 0 {
                let description = format!("tensor {} has zero computed size", quote(&tensor.name));
                self.add("zero_size_tensor", "warning", description);
                continue;
            }
            let start = header.data_offset.saturating_add(tensor.offset);
            let end = start.saturating_add(tensor.size_bytes);
            if end > size {
                let description = format!(
                    "tensor {} extends beyond file (offset {start} + size {} > file size {size})",
                    quote(&tensor.name),
                    tensor.size_bytes
                );
                self.add("tensor_out_of_bounds", "critical", description);
                continue;
            }
            regions.push(Region { tensor, start, end });
        }
        for (a, b) in overlaps(&regions) {
            let description = format!("tensors {} and {} overlap in file", quote(&a.name), quote(&b.name));
            self.add("tensor_overlap", "critical", description);
        }
    }

    fn architecture(&mut self, header: &GgufHeader, architecture: &str) {
        if architecture == "unknown" {
            let description = "no general.architecture metadata key found".to_owned();
            return self.add("missing_architecture", "warning", description);
        }
        let any = |prefix: &str| header.tensors.iter().any(|t| t.name.starts_with(prefix));
        if any("layers.") && !any("blk.") {
            let description = "tensors use 'layers.' prefix instead of 'blk.' (uncommon for llama.cpp)";
            self.add("unusual_tensor_naming", "info", description.to_owned());
        }
    }

    /// In file order; gguf-guard goes through them in any.
    fn metadata(&mut self, header: &GgufHeader) {
        let mut lower: HashMap<String, &str> = HashMap::new();
        for (key, _) in &header.pairs {
            // Go lowers each character by itself, to one character.
            let lowered = key.chars().filter_map(|c| c.to_lowercase().next()).collect();
            if let Some(before) = lower.insert(lowered, key) {
                let description = format!("metadata keys {} and {} differ only by case", quote(before), quote(key));
                self.add("suspicious_metadata_duplication", "warning", description);
            }
        }
        for (key, value) in &header.pairs {
            if let Value::String(bytes) = value
                && bytes.len() > LARGE_STRING
            {
                let description = format!("metadata key {} has value >1MB ({} bytes)", quote(key), bytes.len());
                self.add("oversized_metadata", "warning", description);
            }
        }
    }

    fn shapes(&mut self, header: &GgufHeader) {
        for tensor in &header.tensors {
            let name = || quote(&tensor.name);
            if elements(tensor) == 0 {
                self.add("zero_element_tensor", "warning", format!("tensor {} has zero elements", name()));
                continue;
            }
            for dimension in tensor.dimensions.iter().filter(|d| **d > LARGE_DIMENSION) {
                let description = format!("tensor {} has dimension {dimension} (>1B)", name());
                self.add("extreme_dimension", "warning", description);
            }
            if matches!(*tensor.dimensions, [] | [1]) && tensor.name.contains("weight") {
                self.add("scalar_weight", "info", format!("tensor {} is scalar but named as weight", name()));
            }
        }
    }

    fn names(&mut self, header: &GgufHeader, architecture: &str) {
        let experts = match architecture {
            "llama" | "mistral" | "qwen2" | "gemma" | "phi3" | "phi" => &[],
            "mixtral" => EXPERTS.as_slice(),
            // gguf-guard knows no names of others.
            _ => return,
        };
        for tensor in &header.tensors {
            if !COMMON.iter().chain(experts).any(|known| tensor.name.ends_with(known)) {
                let description =
                    format!("tensor {} does not match known patterns for {architecture}", quote(&tensor.name));
                self.add("unknown_tensor_name", "info", description);
            }
        }
    }
}

/// Where a tensor's bytes lie in the file.
struct Region<'a> {
    tensor: &'a TensorInfo,
    start: u64,
    end: u64,
}

/// The pairs that share bytes, in file order like gguf-guard's. The work is that of sorting, and one step for each pair.
fn overlaps<'a>(regions: &[Region<'a>]) -> Vec<(&'a TensorInfo, &'a TensorInfo)> {
    let mut sorted: Vec<(usize, &Region<'a>)> = regions.iter().enumerate().collect();
    sorted.sort_by_key(|(_, region)| region.start);
    let mut pairs = Vec::new();
    let mut rest = sorted.as_slice();
    while let Some(((i, region), after)) = rest.split_first() {
        let beneath = after.iter().take_while(|(_, other)| other.start < region.end);
        let room = MAX_OVERLAPS - pairs.len();
        pairs.extend(beneath.take(room).map(|(j, _)| (*i.min(j), *i.max(j))));
        rest = after;
    }
    pairs.sort_unstable();
    let tensor = |i: usize| regions.get(i).map(|region| region.tensor);
    pairs.into_iter().filter_map(|(i, j)| tensor(i).zip(tensor(j))).collect()
}
