//! GGUF files that are no model by themselves: LoRA adapters and control vectors.
//!
//! Owns: what they are for, and their tensors by the rules of llama-adapter.cpp and `common_control_vector_load_one`. Promises: an
//! adapter that llama.cpp would apply in part, or index out of its place, is named. Leaves out: whether the base fits.
//!
//! ```text
//! general.type "adapter"   adapter.type "lora", adapter.lora.alpha f32     NAME.lora_a, NAME.lora_b: a.ne1 == b.ne0
//! general.architecture "controlvector"                                      direction.N, N from 1, one-dimensional F32
//! ```

use super::{Array, GgufHeader, TensorInfo, Value, ValueType};
use crate::digest::shorten;
use crate::format::description::Adapter;
use crate::format::finding::{Findings, Place, rules};
use crate::name::RelPath;
use std::collections::BTreeMap;

rules! {
    ADAPTER_TYPE "gguf.adapter-type" Warning "the kind of adapter is not said, or none that llama.cpp knows"
    ADAPTER_TENSOR "gguf.adapter-tensor" Warning "a LoRA's tensor is no half of a pair, so llama.cpp does not load it"
    ADAPTER_SHAPE "gguf.adapter-shape" High "the two halves of a LoRA do not fit each other: engines multiply them"
    ADAPTER_TOKENS "gguf.adapter-tokens" High "an adapter's invocation tokens are not an array of u32"
    DIRECTION "gguf.direction" High "a control vector's direction is for no layer, or not a vector of F32: engines index by its name"
}

/// The most layers a control vector is for: `LLAMA_MAX_LAYERS`, and its directions begin at 1.
const MAX_DIRECTION: u64 = 512;

/// What kind of adapter it is by its own word.
fn kind(header: &GgufHeader) -> Option<String> {
    if header.text("general.type") == Some("adapter") || header.value("adapter.type").is_some() {
        return Some(header.text("adapter.type").map_or_else(|| "adapter".to_owned(), shorten));
    }
    (header.text("general.architecture") == Some("controlvector")).then(|| "control_vector".to_owned())
}

/// What it adapts.
pub(super) fn of(header: &GgufHeader) -> Option<Adapter> {
    let kind = kind(header)?;
    let keys = [
        "general.base_model.0.repo_url",
        "general.base_model.0.name",
        "adapter.base_model",
        "adapter.lora.base_model",
        "controlvector.model_hint",
    ];
    let base = keys.into_iter().find_map(|key| header.text(key)).map(shorten).unwrap_or_default();
    Some(Adapter { kind, base })
}

/// Checks an adapter's tensors.
pub(super) fn check(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    let Some(kind) = kind(header) else { return };
    match kind.as_str() {
        "lora" => lora(path, header, findings),
        "control_vector" => directions(path, header, findings),
        other => {
            let why = format!("the adapter is of kind {other:?}, which llama.cpp does not know");
            findings.add(path, &ADAPTER_TYPE, Place::part("adapter.type"), why);
        }
    }
}

fn lora(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    let key = "adapter.alora.invocation_tokens";
    let right = |value: &&Value| matches!(value, Value::Array(Array::Packed { of: ValueType::U32, .. }));
    if let Some(other) = header.value(key).filter(|value| !right(value)) {
        let why = format!("{key} is of type {}, not an array of u32", other.type_name());
        findings.add(path, &ADAPTER_TOKENS, Place::part(key), why);
    }
    let mut pairs: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    for tensor in &header.tensors {
        if let Some(base) = tensor.name.strip_suffix(".lora_a") {
            pairs.entry(base).or_default()[0] = Some(tensor);
        } else if let Some(base) = tensor.name.strip_suffix(".lora_b") {
            pairs.entry(base).or_default()[1] = Some(tensor);
        } else if !tensor.name.ends_with("_norm.weight") {
            let why = format!(
                "the tensor {:?} is neither .lora_a nor .lora_b: llama.cpp does not load the adapter",
                tensor.name
            );
            findings.add(path, &ADAPTER_TENSOR, Place::part(&tensor.name), why);
        }
    }
    for (base, [a, b]) in pairs {
        let (Some(a), Some(b)) = (a, b) else {
            let why =
                format!("the LoRA of {base:?} has one half and not the other: llama.cpp does not load the adapter");
            findings.add(path, &ADAPTER_TENSOR, Place::part(base), why);
            continue;
        };
        let ne = |tensor: &TensorInfo, i: usize| tensor.dimensions.get(i).copied().unwrap_or(1);
        // Of embeddings A and B are turned: b's rows are looked up, a's multiplied.
        let fits = if base.ends_with("token_embd.weight") { ne(a, 0) == ne(b, 0) } else { ne(a, 1) == ne(b, 0) };
        if !fits {
            let why =
                format!("the halves of the LoRA of {base:?} do not fit: {:?} and {:?}", a.dimensions, b.dimensions);
            findings.add(path, &ADAPTER_SHAPE, Place::part(base), why);
        }
    }
}

fn directions(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    for tensor in &header.tensors {
        let layer = tensor.name.strip_prefix("direction.").and_then(|n| n.parse::<u64>().ok());
        let vector = tensor.kind.name == "F32" && tensor.dimensions.iter().skip(1).all(|n| *n == 1);
        let width = header.tensors.first().and_then(|t| t.dimensions.first());
        let why = if layer.is_none_or(|n| !(1..=MAX_DIRECTION).contains(&n)) {
            format!(
                "the tensor {:?} is for no layer: a direction's number is 1 to {MAX_DIRECTION}, and room is made for all below it",
                tensor.name
            )
        } else if !vector {
            format!("the tensor {:?} is not a vector of F32", tensor.name)
        } else if tensor.dimensions.first() != width {
            format!("the tensor {:?} is not as long as the others", tensor.name)
        } else {
            continue;
        };
        findings.add(path, &DIRECTION, Place::part(&tensor.name), why);
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::*;
    use super::*;

    fn adapter(kind: &str, more: &[Vec<u8>], tensors: &[(&str, &[u64])]) -> Vec<u8> {
        let pairs = [
            text("general.architecture", "llama"),
            text("general.type", "adapter"),
            text("adapter.type", kind),
            text("general.base_model.0.name", "Llama 3"),
        ];
        laid_out(&[&pairs[..], more].concat(), tensors, 0)
    }

    fn laid_out(pairs: &[Vec<u8>], tensors: &[(&str, &[u64])], kind: u32) -> Vec<u8> {
        let mut end = 0u64;
        let mut table = Vec::new();
        for (name, ne) in tensors {
            table.push(tensor(name, ne, kind, end));
            end += ne.iter().product::<u64>() * if kind == 0 { 4 } else { 2 };
        }
        file(pairs, &table, end as usize)
    }

    #[test]
    fn a_lora_is_in_pairs_that_fit() {
        let sound = adapter(
            "lora",
            &[f32("adapter.lora.alpha", 1.0)],
            &[
                ("blk.0.attn_q.weight.lora_a", &[16, 8]),
                ("blk.0.attn_q.weight.lora_b", &[8, 16]),
                ("token_embd.weight.lora_a", &[8, 16]),
                ("token_embd.weight.lora_b", &[8, 32]),
                ("blk.0.attn_norm.weight", &[8]),
            ],
        );
        let (description, findings) = inspect_as("a.gguf", &sound);
        assert!(found(&findings, Severity::Warning).is_empty(), "{:?}", findings.list());
        assert_eq!(description.adapter, Some(Adapter { kind: "lora".into(), base: "Llama 3".into() }));
        assert!(description.what.contains("adapter, llama"), "{}", description.what);
        for (tensors, rule, why) in [
            (
                [("x.lora_a", [16, 8].as_slice()), ("x.lora_b", &[16, 16])].as_slice(),
                "gguf.adapter-shape",
                "[16, 8] and [16, 16]",
            ),
            (
                &[("token_embd.weight.lora_a", &[8, 16]), ("token_embd.weight.lora_b", &[16, 32])],
                "gguf.adapter-shape",
                "token_embd",
            ),
            (&[("x.lora_a", &[8, 8])], "gguf.adapter-tensor", "one half"),
            (&[("x.lora_b", &[8, 8])], "gguf.adapter-tensor", "one half"),
            (&[("x.weight", &[8, 8])], "gguf.adapter-tensor", "neither"),
        ] {
            let findings = findings_of(&adapter("lora", &[], tensors));
            assert!(
                findings.list().iter().any(|f| f.rule == rule && f.message.contains(why)),
                "{why}: {:?}",
                findings.list()
            );
        }
        let tokens = adapter("lora", &[i32s("adapter.alora.invocation_tokens", &[1])], &[]);
        assert_found("tokens", &tokens, "gguf.adapter-tokens", "array of i32");
        assert_clean("tokens", &adapter("lora", &[u32s("adapter.alora.invocation_tokens", &[1])], &[]), Severity::High);
        assert!(findings_of(&adapter("moon", &[], &[])).has("gguf.adapter-type"));
        assert_eq!(of(&super::super::GgufHeader::empty()), None);
    }

    #[test]
    fn an_adapter_is_known_by_either_key() {
        for (pair, kind) in [(text("general.type", "adapter"), "\"adapter\""), (text("adapter.type", "odd"), "\"odd\"")]
        {
            assert_found(kind, &model(&[pair]), "gguf.adapter-type", kind);
        }
    }

    #[test]
    fn a_control_vector_has_a_direction_for_a_layer() {
        let vector = |tensors: &[(&str, &[u64])], kind| {
            laid_out(
                &[text("general.architecture", "controlvector"), text("controlvector.model_hint", "qwen2")],
                tensors,
                kind,
            )
        };
        let sound = vector(&[("direction.1", &[16]), ("direction.512", &[16])], 0);
        assert_clean("sound", &sound, Severity::Warning);
        let adapter = inspect_as("a.gguf", &sound).0.adapter;
        assert_eq!(adapter, Some(Adapter { kind: "control_vector".into(), base: "qwen2".into() }));
        for (tensors, kind, why) in [
            ([("direction.0", [16].as_slice())].as_slice(), 0, "for no layer"),
            (&[("direction.513", &[16])], 0, "for no layer"),
            (&[("direction.-1", &[16])], 0, "for no layer"),
            (&[("other.1", &[16])], 0, "for no layer"),
            (&[("direction.1", &[16])], 1, "not a vector"),
            (&[("direction.1", &[8, 2])], 0, "not a vector"),
            (&[("direction.1", &[16]), ("direction.2", &[24])], 0, "as long as the others"),
        ] {
            assert_found(why, &vector(tensors, kind), "gguf.direction", why);
        }
    }
}
