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

use super::{Array, GgufHeader, Value, ValueType};
use crate::format::finding::{Findings, Place, Rule, rules};
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

#[cfg(test)]
mod tests {
    use super::super::build::*;
    use super::{KEY, MAX_NODES};
    use crate::format::finding::Severity;

    const LEAF: u32 = 1 << 8;

    /// A table of these nodes and replacements; `size` is what it says its nodes take.
    fn table(size: u32, nodes: &[u32], replacements: &[u8]) -> Vec<u8> {
        [&size.to_le_bytes()[..], &nodes.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>(), replacements]
            .concat()
    }

    /// 512 nodes: the root's base is 256, and 'a' leads from there to a leaf at `256 ^ 'a'` with its value at node 1.
    fn nodes(value: u32) -> Vec<u32> {
        let mut nodes = vec![0u32; 512];
        nodes[0] = 1 << 10 | 1 << 9;
        let at = 256 ^ u32::from(b'a');
        // Its base leads to node 1, and from there no byte to a child.
        nodes[at as usize] = (at ^ 1) << 10 | LEAF | u32::from(b'a');
        nodes[1] = 1 << 31 | value;
        nodes
    }

    fn file_of(bytes: &[u8]) -> Vec<u8> {
        model(&[array(KEY, 0, bytes.len() as u64, bytes)])
    }

    #[test]
    fn a_table_that_leads_outside_itself_is_refused() {
        let good = |replacements| table(2048, &nodes(2), replacements);
        assert_clean("sound", &file_of(&good(b"a\0b\0")), Severity::High);
        assert_clean("signed", &model(&[array(KEY, 1, 2056, &good(b"a\0b\0"))]), Severity::High);
        assert_clean("no nodes", &file_of(&table(0, &[], b"\0")), Severity::High);
        let mut short = nodes(2);
        short.truncate(511);
        let mut far = nodes(2);
        let at = 256 ^ u32::from(b'a');
        // The leaf's base: node 511, from which the bytes lead to nodes that are there; its own value is too large.
        far[at as usize] = (at ^ 511) << 10 | LEAF | u32::from(b'a');
        far[511] = 1 << 31 | 9;
        let mut deep = nodes(2);
        deep[at as usize] = 2 << 10 | 1 << 9 | u32::from(b'a');
        for (bytes, rule, why) in [
            (table(2048, &nodes(4), b"a\0b\0"), "gguf.charsmap-node", "replacement lies outside the 4 bytes"),
            (table(2048, &nodes(2), b"a\0b"), "gguf.charsmap", "no end"),
            (table(2048, &nodes(2), b""), "gguf.charsmap", "claims 2048 bytes of nodes, and 2048 follow"),
            (table(2052, &nodes(2), b"a\0"), "gguf.charsmap", "claims 2052 bytes of nodes, and 2050 follow"),
            (table(u32::MAX, &nodes(2), b"a\0"), "gguf.charsmap", "claims 4294967295"),
            (table(2047, &nodes(2), b"a\0"), "gguf.charsmap", "not a multiple of 4"),
            (table(2044, &short, b"a\0b\0"), "gguf.charsmap-node", "leads to node 511 of 511"),
            (table(2048, &far, b"a\0b\0"), "gguf.charsmap-node", "replacement lies outside"),
            (table(2048, &deep, b"a\0b\0"), "gguf.charsmap-node", "outside the normalisation table"),
            (vec![1, 2, 3], "gguf.charsmap", "3 bytes, too few"),
            (table(4 * (MAX_NODES as u32 + 1), &vec![0; MAX_NODES + 1], b"\0"), "gguf.charsmap-node", "more than"),
        ] {
            assert_found(why, &file_of(&bytes), rule, why);
        }
        assert_found("type", &model(&[i32s(KEY, &[1])]), "gguf.charsmap", "not an array of bytes");
        assert_found("type", &model(&[text(KEY, "abcd")]), "gguf.charsmap", "not an array of bytes");
        assert_clean("the most", &file_of(&table(4 * MAX_NODES as u32, &vec![0; MAX_NODES], b"\0")), Severity::High);
    }

    /// A byte leads to the node at base XOR byte, whose low bits and sign must be the byte and clear.
    #[test]
    fn a_step_is_an_xor_and_only_to_a_node_of_that_byte() {
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        let with = |edit: &dyn Fn(&mut Vec<u32>)| {
            let mut nodes = nodes(2);
            edit(&mut nodes);
            file_of(&table(2048, &nodes, b"a\0b\0"))
        };
        // From 'a' on to node 256 + 'b', and from there to 'a' again, at ('b' ^ 'a'), with a value past the end.
        let (first, second) = (256 ^ a, 256 ^ b ^ a);
        let led = with(&|nodes| {
            nodes[first as usize] = (first ^ 256 ^ b) << 10 | a;
            nodes[second as usize] = (second ^ 511) << 10 | LEAF | a;
            nodes[511] = 9;
        });
        assert_found("led", &led, "gguf.charsmap-node", "replacement lies outside");
        let value = with(&|nodes| nodes[(256 ^ b) as usize] = 1 << 31 | 511 << 10 | LEAF | b);
        assert_clean("a value is no step", &value, Severity::High);
    }

    #[test]
    fn a_table_that_leads_round_ends() {
        // Every byte leads to a node whose base is that of all others.
        let mut all = vec![1 << 10 | 1 << 9; 512];
        for c in 1..256u32 {
            let at = 256 ^ c;
            all[at as usize] = (at ^ 256) << 10 | c;
        }
        assert_clean("round", &file_of(&table(2048, &all, b"\0")), Severity::High);
    }
}
