//! What a GGUF file is, for whoever reads it.
//!
//! Owns: the line, the metadata and the tensors of the description, and which values are chat templates. Promises: bounded: long
//! texts are cut, arrays are counted; bytes that are not UTF-8 are shown as U+FFFD. Leaves out: the templates' language
//! (`template`).

use super::{Array, GgufHeader, Value, ValueType, architecture};
use crate::digest::shorten;
use crate::format::description::Tensor;
use crate::format::finding::{Findings, Place, rules};
use crate::name::RelPath;
use serde_json::{Map, Number, Value as Json};
use std::collections::HashMap;

rules! {
    TEMPLATE_TYPE "gguf.template-type" High "a chat template is not a string: what an engine makes of it is not told"
}

/// The names of the templates beside the one without.
const NAMES: &str = "tokenizer.chat_templates";
/// Arrays of up to this many short values are shown.
const SHOWN_VALUES: u64 = 8;
/// Texts of up to this many bytes are shown whole.
const SHOWN_TEXT: usize = 256;

/// The chat templates, each with its key, and the texts of the list of their names: one of those should be plain text, which
/// is a template too. Every key that looks like one counts: engines make up keys from names.
pub(crate) fn templates(header: &GgufHeader) -> Vec<(&str, &[u8])> {
    let mut found = Vec::new();
    for (key, value) in header.pairs.iter().filter(|(key, _)| is_template(key)) {
        match value {
            Value::String(text) => found.push((key.as_str(), text.as_slice())),
            Value::Array(Array::Strings(texts)) => found.extend(texts.iter().map(|text| (key.as_str(), text))),
            _ => {}
        }
    }
    found
}

/// `tokenizer.chat_template`, `tokenizer.chat_template.NAME`, the list `tokenizer.chat_templates`, and what others make of it:
/// `chat_template` under any other prefix, or alone.
fn is_template(key: &str) -> bool {
    key.split('.').any(|word| word.starts_with("chat_template"))
}

/// What cannot be checked as a template, because it is none by its type.
pub(super) fn check_templates(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    for (key, value) in header.pairs.iter().filter(|(key, _)| is_template(key)) {
        let names = key == NAMES && matches!(value, Value::Array(Array::Strings(_)));
        if !names && !matches!(value, Value::String(_)) {
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
        Value::String(bytes) => quoted(bytes),
        Value::Array(array) => list(array),
    }
}

fn number(text: String) -> Json {
    // JSON has no infinity and no NaN.
    text.parse::<f64>().ok().and_then(Number::from_f64).map_or(Json::String(text), Json::Number)
}

fn quoted(bytes: &[u8]) -> Json {
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
        Array::Strings(strings) if strings.iter().all(|s| s.len() <= 64) => strings.iter().map(quoted).collect(),
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

#[cfg(test)]
mod tests {
    use super::super::GgufHeader;
    use super::super::build::*;
    use super::*;

    fn read(bytes: &[u8]) -> GgufHeader {
        GgufHeader::read(bytes, bytes.len() as u64).expect("a header")
    }

    #[test]
    fn every_template_is_found() {
        let header = read(&model(&[
            text("tokenizer.chat_template", "one"),
            text("tokenizer.chat_template.tool_use", "two"),
            text("tokenizer.chat_template_old", "three"),
            text("llama.chat_template", "four"),
            text("chat_template", "five"),
            text("chat_template.rag", "six"),
            text("my_chat_template", "none"),
            strings("tokenizer.chat_templates", &["tool_use", "{{ x }}"]),
            text("tokenizer.ggml.model", "llama"),
        ]));
        let texts: Vec<_> = templates(&header).into_iter().map(|(_, text)| text).collect();
        let wanted: [&[u8]; 8] = [b"one", b"two", b"three", b"four", b"five", b"six", b"tool_use", b"{{ x }}"];
        assert_eq!(texts, wanted);
        assert_eq!(templates(&header)[1].0, "tokenizer.chat_template.tool_use");
    }

    #[test]
    fn a_template_that_is_no_string_is_refused() {
        for (pair, why) in [
            (u32("tokenizer.chat_template", 1), "type u32"),
            (strings("tokenizer.chat_template", &["a"]), "array of str"),
            (u32("tokenizer.chat_template.x", 1), "type u32"),
            (u32("tokenizer.chat_templates", 1), "type u32"),
            (u32s("tokenizer.chat_templates", &[1]), "array of u32"),
        ] {
            assert_found(why, &model(&[pair]), "gguf.template-type", why);
        }
        assert_clean("names", &model(&[strings("tokenizer.chat_templates", &["a"])]), Severity::High);
    }

    #[test]
    fn what_is_shown_is_short() {
        let long = "é".repeat(1000);
        let header = read(&model(&[
            text("long", &long),
            text("short", "é"),
            pair("raw", 8, &string(b"\xff")),
            f32("nan", f32::NAN),
            f32("tiny", 1e-5),
            pair("double", 12, &0.1f64.to_le_bytes()),
            i32s("few", &[-1, 2]),
            i32s("many", &[0; 9]),
            i32s("eight", &[0; 8]),
            strings("words", &["a", "b"]),
            strings("long words", &[&long]),
            array("switches", 7, 2, &[0, 1]),
            f32s("floats", &[0.5, 1e-5]),
            array("doubles", 12, 1, &0.25f64.to_le_bytes()),
            array("wide", 10, 1, &u64::MAX.to_le_bytes()),
            text(&"k".repeat(300), "v"),
        ]));
        let shown = metadata(&header);
        assert_eq!(shown["long"], format!("{}... (2000 bytes)", "é".repeat(80)));
        assert_eq!((&shown["short"], &shown["raw"]), (&Json::from("é"), &Json::from("\u{fffd}")));
        assert_eq!(
            (&shown["nan"], &shown["tiny"], &shown["double"]),
            (&Json::from("NaN"), &Json::from(1e-5), &Json::from(0.1))
        );
        assert_eq!((&shown["few"], &shown["many"]), (&serde_json::json!([-1, 2]), &Json::from("array of 9 i32")));
        assert_eq!(
            (&shown["words"], &shown["long words"]),
            (&serde_json::json!(["a", "b"]), &Json::from("array of 1 str"))
        );
        assert_eq!(
            (&shown["switches"], &shown["floats"]),
            (&serde_json::json!([false, true]), &serde_json::json!([0.5, 1e-5]))
        );
        assert_eq!((&shown["doubles"], &shown["wide"]), (&serde_json::json!([0.25]), &serde_json::json!([u64::MAX])));
        assert_eq!(shown["eight"], serde_json::json!(vec![0; 8]));
        assert_eq!(shown.keys().map(String::len).max(), Some(83));
        let split = |count| what(&read(&model(&[u16("split.no", 0), u16("split.count", count)])), true);
        assert_eq!([0, 1, 2].map(|n| split(n).contains("shard")), [false, false, true]);
        assert!(split(2).contains("shard 1 of 2"));
    }
}
