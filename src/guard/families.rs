//! `gguf-guard inspect`: which family of models the tensors look like.
//!
//! Owns: [`FamilyMatch`] and gguf-guard's table of families. Promises: scores are computed in the same order of the same
//! operations as gguf-guard's on amd64, so that they print alike. Leaves out: deciding anything by them.

use crate::format::gguf::GgufHeader;
use serde::Serialize;
use std::collections::HashSet;

/// How well a file fits a family.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FamilyMatch {
    /// The family's name.
    pub family: &'static str,
    /// 0 to 1; 0 when the architecture is another.
    pub match_score: f64,
    /// Roles of the family's that a tensor has.
    pub matched_roles: u64,
    /// Roles of the family's that no tensor has.
    pub missing_roles: u64,
    /// Roles that tensors have and the family has not.
    pub extra_roles: u64,
    /// Tensors of another number of dimensions than the family's.
    pub shape_violations: u64,
    /// Each missing role and each violation, in a sentence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// A family: what its architecture is called, what its layers' tensors are called, and how many dimensions some have.
struct Family {
    name: &'static str,
    architectures: &'static [&'static str],
    roles: &'static [&'static str],
    shapes: &'static [(&'static str, usize)],
}

const DENSE: [&str; 9] = [
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "attn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
    "ffn_norm.weight",
];
const EXPERTS: [&str; 10] = [
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "attn_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_exps.weight",
    "ffn_up_exps.weight",
    "ffn_down_exps.weight",
    "ffn_norm.weight",
];
const UNGATED: [&str; 8] = [
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "attn_norm.weight",
    "ffn_up.weight",
    "ffn_down.weight",
    "ffn_norm.weight",
];
const LLAMA_SHAPES: [(&str, usize); 5] =
    [("attn_q.weight", 2), ("attn_k.weight", 2), ("attn_v.weight", 2), ("ffn_gate.weight", 2), ("ffn_norm.weight", 1)];
const MISTRAL_SHAPES: [(&str, usize); 2] = [("attn_q.weight", 2), ("ffn_norm.weight", 1)];

const FAMILIES: [Family; 6] = [
    Family { name: "llama", architectures: &["llama"], roles: &DENSE, shapes: &LLAMA_SHAPES },
    Family { name: "mistral", architectures: &["mistral"], roles: &DENSE, shapes: &MISTRAL_SHAPES },
    Family { name: "mixtral", architectures: &["mixtral"], roles: &EXPERTS, shapes: &[] },
    Family { name: "qwen2", architectures: &["qwen2"], roles: &DENSE, shapes: &[] },
    Family { name: "gemma", architectures: &["gemma"], roles: &DENSE, shapes: &[] },
    Family { name: "phi", architectures: &["phi3", "phi"], roles: &UNGATED, shapes: &[] },
];

/// Roles of tensors that belong to no layer; a layer may have one without remark.
const GLOBAL: [&str; 4] = ["token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"];

/// How well a file of this architecture fits each family.
pub(super) fn match_families(header: &GgufHeader, architecture: &str) -> Vec<FamilyMatch> {
    let roles: HashSet<&str> = header.tensors.iter().filter_map(|t| role(&t.name)).collect();
    // Go folds the long s with the others.
    let architecture = architecture.replace('\u{17f}', "s");
    FAMILIES.iter().map(|family| family.fit(header, &roles, &architecture)).collect()
}

impl Family {
    fn fit(&self, header: &GgufHeader, roles: &HashSet<&str>, architecture: &str) -> FamilyMatch {
        let mut fit = FamilyMatch {
            family: self.name,
            match_score: 0.0,
            matched_roles: 0,
            missing_roles: 0,
            extra_roles: 0,
            shape_violations: 0,
            details: Vec::new(),
        };
        let same = self.architectures.iter().any(|a| a.eq_ignore_ascii_case(architecture));
        if !same && architecture != "unknown" {
            return fit;
        }
        for role in self.roles {
            if roles.contains(role) {
                fit.matched_roles += 1;
            } else {
                fit.missing_roles += 1;
                fit.details.push(format!("missing expected role: {role}"));
            }
        }
        fit.extra_roles = roles.iter().filter(|r| !self.roles.contains(r) && !GLOBAL.contains(r)).count() as u64;
        for (suffix, dimensions) in self.shapes {
            // Only the first such tensor is looked at.
            let Some(tensor) = header.tensors.iter().find(|t| t.name.ends_with(suffix)) else { continue };
            let has = tensor.dimensions.len();
            if has != *dimensions {
                fit.shape_violations += 1;
                fit.details.push(format!("shape violation: {} has {has}D, expected {dimensions}D", tensor.name));
            }
        }
        let mut score = fit.matched_roles as f64 / self.roles.len() as f64;
        if same {
            score = score * 0.7 + 0.3;
        }
        let penalty = fit.shape_violations as f64 * 0.05 + fit.extra_roles as f64 * 0.01;
        fit.match_score = (score - penalty).clamp(0.0, 1.0);
        fit
    }
}

/// What a layer's tensor is called without its layer: of `blk.15.attn_q.weight`, `attn_q.weight`.
fn role(name: &str) -> Option<&str> {
    let (_, role) = name.strip_prefix("blk.")?.split_once('.')?;
    (!role.is_empty()).then_some(role)
}
