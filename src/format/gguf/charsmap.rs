//! The normalisation table of a unigram vocabulary: `tokenizer.ggml.precompiled_charsmap`.
//!
//! Owns: its shape, and every node that text can reach. Promises: a table that passes leads no tokenizer outside itself, whether or
//! not it checks its steps as llama.cpp (llama-vocab.cpp, `normalize_prefix`) by now does. Leaves out: what it maps to what.
//!
//! ```text
//! size:u32  node:u32[size/4]  replacements: strings, each with a NUL at its end        (SentencePiece, darts-clone)
//! node      base: bits 10..31, times 256 if bit 9      leaf: bit 8      label: bits 0..7 and 31; a value: bits 0..30
//! from base b, the character c leads to the node b^c, if that node's label is c; a leaf's value stands at its base
//! ```

use super::parse::rules;
use super::{Array, GgufHeader, Value, ValueType};
use crate::format::finding::{Findings, Place, Rule, Severity};
use crate::name::RelPath;

rules! {
    CHARSMAP "gguf.charsmap" Critical "the normalisation table is of the wrong type, or its sizes do not fit it: a tokenizer reads past its end"
    CHARSMAP_NODE "gguf.charsmap-node" High "text can lead a tokenizer outside the normalisation table"
}

const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
/// The largest tables of today have 60,000 nodes.
const MAX_NODES: usize = 1 << 17;

/// Checks the table, when there is one.
pub(super) fn check(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    let Some(value) = header.value(KEY) else { return };
    if let Err((rule, why)) = table(value) {
        findings.add(path, rule, Place::part(KEY), why);
    }
}

type Found = (&'static Rule, String);

fn table(value: &Value) -> Result<(), Found> {
    let Value::Array(Array::Packed { of: ValueType::U8 | ValueType::I8, bytes, .. }) = value else {
        return Err((
            &CHARSMAP,
            format!("the normalisation table is of type {}, not an array of bytes", value.type_name()),
        ));
    };
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
        return Err((&CHARSMAP, format!("the normalisation table has {} bytes, too few for its size", bytes.len())));
    };
    let size = u32::from_le_bytes(*size) as usize;
    let Some((nodes, replacements)) = rest.split_at_checked(size).filter(|(_, replacements)| !replacements.is_empty())
    else {
        let why = format!(
            "the normalisation table claims {size} bytes of nodes, and {} follow: a tokenizer reads past its end",
            rest.len()
        );
        return Err((&CHARSMAP, why));
    };
    let (nodes, odd) = nodes.as_chunks::<4>();
    if !odd.is_empty() {
        return Err((&CHARSMAP, format!("the normalisation table's nodes take {size} bytes, not a multiple of 4")));
    }
    if nodes.len() > MAX_NODES {
        let why =
            format!("the normalisation table has {} nodes, more than the {MAX_NODES} that are looked at", nodes.len());
        return Err((&CHARSMAP_NODE, why));
    }
    if nodes.is_empty() {
        return Ok(());
    }
    if replacements.last() != Some(&0) {
        return Err((
            &CHARSMAP,
            "the normalisation table's last replacement has no end: a tokenizer reads past it".into(),
        ));
    }
    walk(nodes, replacements.len())
}

/// Follows every character from every node that is reached, once.
fn walk(nodes: &[[u8; 4]], replacements: usize) -> Result<(), Found> {
    let node = |index: u32| nodes.get(index as usize).map(|bytes| u32::from_le_bytes(*bytes));
    let base = |packed: u32| (packed >> 10) << ((packed & (1 << 9)) >> 6);
    let mut reached = vec![false; nodes.len()];
    // The root's base is where the walk begins, without the XOR of the later steps.
    let mut todo = vec![node(0).map_or(0, base)];
    while let Some(from) = todo.pop() {
        for c in 1..=255u32 {
            let at = from ^ c;
            let Some(packed) = node(at) else {
                let why = format!(
                    "from {from} the byte {c} leads to node {at} of {}: a tokenizer reads outside the normalisation table",
                    nodes.len()
                );
                return Err((&CHARSMAP_NODE, why));
            };
            if packed & (1 << 31 | 0xff) != c {
                continue;
            }
            let next = at ^ base(packed);
            if packed >> 8 & 1 == 1 {
                let value = node(next).map(|packed| (packed & ((1 << 31) - 1)) as usize);
                if value.is_none_or(|value| value >= replacements) {
                    let why = format!(
                        "node {at}'s replacement lies outside the {replacements} bytes of them: a tokenizer reads past their end"
                    );
                    return Err((&CHARSMAP_NODE, why));
                }
            }
            if let Some(reached) = reached.get_mut(at as usize).filter(|reached| !**reached) {
                *reached = true;
                todo.push(next);
            }
        }
    }
    Ok(())
}
