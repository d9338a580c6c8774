//! The sample model of `up --demo`.
//!
//! Owns: a tiny llama in GGUF version 3, made from nothing. Promises: the same bytes every time, about 320 KiB, complete by
//! the format's rules and with everything an engine asks of a llama (it loads, and speaks gibberish: its weights are
//! pseudo-random). Leaves out: sense.
//!
//! ```text
//! "GGUF" version tensors pairs | key-value pairs | name, dimensions, type, offset of each tensor | pad to 32 | data
//! ```
//! All numbers are little-endian; a string is its length as u64, then its bytes (ggml's docs/gguf.md).

const ALIGNMENT: usize = 32;
const EMBEDDING: u64 = 64;
const FEED_FORWARD: u64 = 128;
const HEADS: u32 = 4;

/// GGUF's numbers for the types of values used here.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// The model as a file's bytes.
pub(crate) fn gguf() -> Vec<u8> {
    let vocabulary = vocabulary();
    let tensors = tensors(vocabulary.len() as u64);
    let pairs = pairs(&vocabulary);
    let mut file = Vec::new();
    file.extend(b"GGUF");
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in &pairs {
        string(&mut file, key);
        file.extend(value);
    }
    let mut offset = 0;
    for (name, dimensions) in &tensors {
        string(&mut file, name);
        file.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|d| file.extend(d.to_le_bytes()));
        file.extend(0_u32.to_le_bytes()); // ggml's type F32
        file.extend((offset as u64).to_le_bytes());
        offset += (bytes(dimensions)).next_multiple_of(ALIGNMENT);
    }
    let mut noise = 0x5ec0_4e67_u64;
    for (name, dimensions) in &tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        let norm = name.contains("norm");
        for _ in 0..bytes(dimensions) / 4 {
            let weight = if norm { 1.0 } else { (next(&mut noise) - 0.5) * 0.2 };
            file.extend(weight.to_le_bytes());
        }
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file
}

fn bytes(dimensions: &[u64]) -> usize {
    dimensions.iter().product::<u64>() as usize * 4
}

/// A pseudo-random number in 0..1 (SplitMix64).
fn next(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
}

/// Pieces with their kinds: 1 normal, 2 unknown, 3 control, 6 byte.
fn vocabulary() -> Vec<(String, i32)> {
    let mut pieces = vec![("<unk>".to_owned(), 2), ("<s>".to_owned(), 3), ("</s>".to_owned(), 3)];
    pieces.extend((0..=255_u8).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    pieces.push(("\u{2581}".to_owned(), 1)); // sentencepiece's space
    pieces.extend(('a'..='z').map(|letter| (letter.to_string(), 1)));
    pieces
}

fn tensors(vocabulary: u64) -> Vec<(String, Vec<u64>)> {
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![EMBEDDING, vocabulary]),
        ("output_norm.weight".to_owned(), vec![EMBEDDING]),
        ("output.weight".to_owned(), vec![EMBEDDING, vocabulary]),
    ];
    let square = vec![EMBEDDING, EMBEDDING];
    for (part, dimensions) in [
        ("attn_norm", vec![EMBEDDING]),
        ("attn_q", square.clone()),
        ("attn_k", square.clone()),
        ("attn_v", square.clone()),
        ("attn_output", square),
        ("ffn_norm", vec![EMBEDDING]),
        ("ffn_gate", vec![EMBEDDING, FEED_FORWARD]),
        ("ffn_down", vec![FEED_FORWARD, EMBEDDING]),
        ("ffn_up", vec![EMBEDDING, FEED_FORWARD]),
    ] {
        tensors.push((format!("blk.0.{part}.weight"), dimensions));
    }
    tensors
}

fn pairs(vocabulary: &[(String, i32)]) -> Vec<(&'static str, Vec<u8>)> {
    let number = |n: u32| [U32.to_le_bytes(), n.to_le_bytes()].concat();
    let text = |text: &str| {
        let mut value = STRING.to_le_bytes().to_vec();
        string(&mut value, text);
        value
    };
    let array = |kind: u32, items: Vec<u8>| {
        let length = vocabulary.len() as u64;
        [&ARRAY.to_le_bytes()[..], &kind.to_le_bytes(), &length.to_le_bytes(), &items].concat()
    };
    let mut pieces = Vec::new();
    vocabulary.iter().for_each(|(piece, _)| string(&mut pieces, piece));
    let scores = (0..vocabulary.len()).flat_map(|i| (-(i as f32)).to_le_bytes()).collect();
    let kinds = vocabulary.iter().flat_map(|(_, kind)| kind.to_le_bytes()).collect();
    vec![
        ("general.architecture", text("llama")),
        ("general.name", text("securereg demo")),
        ("general.alignment", number(ALIGNMENT as u32)),
        ("general.file_type", number(0)),
        ("llama.context_length", number(128)),
        ("llama.embedding_length", number(EMBEDDING as u32)),
        ("llama.block_count", number(1)),
        ("llama.feed_forward_length", number(FEED_FORWARD as u32)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", [F32.to_le_bytes(), 1e-5_f32.to_le_bytes()].concat()),
        ("llama.rope.dimension_count", number(EMBEDDING as u32 / HEADS)),
        ("llama.vocab_size", number(vocabulary.len() as u32)),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", array(STRING, pieces)),
        ("tokenizer.ggml.scores", array(F32, scores)),
        ("tokenizer.ggml.token_type", array(I32, kinds)),
        ("tokenizer.ggml.unknown_token_id", number(0)),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
    ]
}

fn string(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_same_each_time_and_its_data_ends_where_the_table_says() {
        let file = gguf();
        assert_eq!(file, gguf());
        assert_eq!((&file[..4], file.len() % ALIGNMENT), (&b"GGUF"[..], 0));
        let vocabulary = vocabulary();
        let data: usize =
            tensors(vocabulary.len() as u64).iter().map(|t| bytes(&t.1).next_multiple_of(ALIGNMENT)).sum();
        // Were the header's length not a multiple of the alignment, the padding makes up for it: the data is the file's end.
        let header = file.len() - data;
        assert!(header.is_multiple_of(ALIGNMENT) && header < data, "{header} {data}");
        let first = f32::from_le_bytes(file[header..header + 4].try_into().expect("four bytes"));
        assert!(first.abs() <= 0.1 && first != 0.0, "the data starts with a weight, not with padding: {first}");
    }
}
