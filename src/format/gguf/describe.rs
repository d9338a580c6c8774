//! What a GGUF file is, for whoever reads it.
//!
//! Owns: the line, the metadata and the tensors of the description, and which values are chat templates. Promises: bounded: long
//! texts are cut, arrays are counted; bytes that are not UTF-8 are shown as U+FFFD. Leaves out: the templates' language
//! (`template`).

use super::parse::rules;
use super::{Array, GgufHeader, Value, ValueType, architecture};
use crate::digest::shorten;
use crate::format::description::Tensor;
use crate::format::finding::{Findings, Place, Rule, Severity};
use crate::name::RelPath;
use serde_json::{Map, Number, Value as Json};
use std::collections::HashMap;

rules! {
    TEMPLATE_TYPE "gguf.template-type" High "a chat template is not a string: what an engine makes of it is not told"
}

const TEMPLATE: &str = "tokenizer.chat_template";
/// Arrays of up to this many short values are shown.
const SHOWN_VALUES: u64 = 8;
/// Texts of up to this many bytes are shown whole.
const SHOWN_TEXT: usize = 256;

/// The chat templates, each with its key. Everything that begins as one does counts: engines make up keys from names.
pub(crate) fn templates(header: &GgufHeader) -> Vec<(&str, &[u8])> {
    let strings = header.pairs.iter().filter(|(key, _)| is_template(key)).filter_map(|(key, value)| match value {
        Value::String(text) => Some((key.as_str(), text.as_slice())),
        _ => None,
    });
    strings.collect()
}

/// `tokenizer.chat_template`, `tokenizer.chat_template.NAME`, and what others make of it (`.chat_template` under an
/// architecture, `chat_template` alone). `tokenizer.chat_templates` is the list of the names.
fn is_template(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    key.starts_with(TEMPLATE) && key != "tokenizer.chat_templates" || last.starts_with("chat_template")
}

/// What cannot be checked as a template, because it is none by its type.
pub(super) fn check_templates(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    for (key, value) in &header.pairs {
        let names = matches!(value, Value::Array(Array::Strings(_)));
        if key == "tokenizer.chat_templates" && names || !is_template(key) && key != "tokenizer.chat_templates" {
            continue;
        }
        if !matches!(value, Value::String(_)) {
            let why = format!("the chat template {:?} is of type {}, not a string", shorten(key), value.type_name());
            findings.add(path, &TEMPLATE_TYPE, Place::part(key), why);
        }
    }
}

/// "GGUF version 3, llama, 2 layers, 21 tensors, Q4_K".
pub(super) fn what(header: &GgufHeader, whole: bool) -> String {
    if !whole {
        return match header.version {
            0 => "not a readable GGUF file".into(),
            version => format!("GGUF version {version}, not readable to its end"),
        };
    }
    let mut words = vec![format!("GGUF version {}", header.version)];
    if let Some(kind) = header.text("general.type").filter(|kind| *kind != "model") {
        words.push(plain(kind));
    }
    if let Some(name) = architecture::name(header) {
        words.push(plain(name));
        if let Some(layers) = header.number(&format!("{name}.block_count")) {
            words.push(counted(layers, "layer"));
        }
    }
    if let (Some(no), Some(count)) = (header.number("split.no"), header.number("split.count").filter(|n| *n > 1)) {
        words.push(format!("shard {} of {count}", no.saturating_add(1)));
    }
    words.push(counted(header.tensors.len() as u64, "tensor"));
    // The type most bytes are of is what a person calls the quantization.
    let mut bytes: HashMap<&str, u64> = HashMap::new();
    for tensor in &header.tensors {
        let sum = bytes.entry(tensor.kind.name).or_default();
        *sum = sum.saturating_add(tensor.size_bytes);
    }
    if let Some((name, _)) = bytes.into_iter().max_by_key(|(name, bytes)| (*bytes, *name)) {
        words.push(name.to_owned());
    }
    words.join(", ")
}

fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn plain(text: &str) -> String {
    shorten(text).escape_debug().to_string()
}

/// The tensors, in the file's order.
pub(super) fn tensors(header: &GgufHeader) -> Vec<Tensor> {
    let tensors = header.tensors.iter().map(|t| Tensor {
        name: t.name.clone(),
        dtype: t.kind.name.to_owned(),
        shape: t.dimensions.clone(),
        offset: Some(header.data_offset.saturating_add(t.offset)),
        size_bytes: t.size_bytes,
    });
    tensors.collect()
}

/// The metadata: short values as they are, long ones as what they are.
pub(super) fn metadata(header: &GgufHeader) -> Map<String, Json> {
    header.pairs.iter().map(|(key, value)| (shown(key), json(value))).collect()
}

/// Keys and texts may be as long as the header.
fn shown(text: &str) -> String {
    if text.len() <= SHOWN_TEXT { text.to_owned() } else { shorten(text) }
}

fn json(value: &Value) -> Json {
    match value {
        Value::Unsigned(_, n) => Json::from(*n),
        Value::Signed(_, n) => Json::from(*n),
        // As f32 prints: 1e-5, not 9.99999974e-6.
        Value::Float(ValueType::F32, n) => number((*n as f32).to_string()),
        Value::Float(_, n) => number(n.to_string()),
        Value::Bool(b) => Json::from(*b),
        Value::String(bytes) => text(bytes),
        Value::Array(array) => list(array),
    }
}

fn number(text: String) -> Json {
    // JSON has no infinity and no NaN.
    text.parse::<f64>().ok().and_then(Number::from_f64).map_or(Json::String(text), Json::Number)
}

fn text(bytes: &[u8]) -> Json {
    if bytes.len() <= SHOWN_TEXT {
        return Json::String(String::from_utf8_lossy(bytes).into_owned());
    }
    let head = bytes.get(..SHOWN_TEXT).unwrap_or(bytes);
    Json::String(format!("{} ({} bytes)", shorten(&String::from_utf8_lossy(head)), bytes.len()))
}

fn list(array: &Array) -> Json {
    let summary = || Json::String(format!("array of {} {}", array.count(), array.element().as_str()));
    if array.count() > SHOWN_VALUES {
        return summary();
    }
    match array {
        Array::Strings(strings) if strings.iter().all(|s| s.len() <= 64) => strings.iter().map(text).collect(),
        Array::Packed { of: ValueType::Bool, bytes, .. } => bytes.iter().map(|b| Json::from(*b != 0)).collect(),
        Array::Packed { of: ValueType::F32, bytes, .. } => {
            bytes.as_chunks::<4>().0.iter().map(|b| number(f32::from_le_bytes(*b).to_string())).collect()
        }
        Array::Packed { of: ValueType::F64, bytes, .. } => {
            bytes.as_chunks::<8>().0.iter().map(|b| number(f64::from_le_bytes(*b).to_string())).collect()
        }
        Array::Packed { .. } => match array.integers() {
            Some(integers) => {
                integers.map(|n| i64::try_from(n).map_or_else(|_| Json::from(n as u64), Json::from)).collect()
            }
            None => summary(),
        },
        _ => summary(),
    }
}
