//! Sample models: sound GGUFs of any size.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark: what fails ends it")]

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Elements of a row, and bytes of one in Q8_0 and F16.
const ROW: u64 = 4096;
const Q8_0: (u32, u64) = (8, ROW / 32 * 34);
const F16: (u32, u64) = (1, ROW * 2);
const F32: (u32, u64) = (0, ROW * 4);

struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    kind: u32,
    len: u64,
}

/// A GGUF of `len` bytes, a multiple of 32 and at least 256 KiB, that do not compress and do not repeat: matrices of 64 MiB (an
/// eighth of a smaller file), most in Q8_0, some in F16, and small norms in F32 between them.
pub(crate) fn model_file(path: &Path, len: u64, seed: u64) {
    let mut file = File::create(path).unwrap();
    let mut piece = header(len);
    let mut state = seed | 1;
    let mut left = len;
    while left > 0 {
        while piece.len() < 4 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            piece.extend_from_slice(&state.to_le_bytes());
        }
        let n = left.min(piece.len() as u64) as usize;
        file.write_all(&piece[..n]).unwrap();
        left -= n as u64;
        piece.clear();
    }
    file.sync_all().unwrap();
}

/// The header of a file of `len` bytes, padded to where its data begin.
fn header(len: u64) -> Vec<u8> {
    let matrix = (64 << 20).min(len / 8);
    let mut tensors = Vec::new();
    let mut total = 0;
    let mut add = |tensors: &mut Vec<Tensor>, name: String, (kind, row): (u32, u64), rows: u64| {
        let dimensions = if rows == 1 { vec![ROW] } else { vec![ROW, rows] };
        tensors.push(Tensor { name, dimensions, kind, len: row * rows });
        total += row * rows;
        total
    };
    add(&mut tensors, "token_embd.weight".into(), Q8_0, matrix / Q8_0.1);
    // What is left for the last tensor holds the header, too.
    let mut blocks = 0u64;
    loop {
        add(&mut tensors, format!("blk.{blocks}.ffn_norm.weight"), F32, 1);
        let mut end = 0;
        for (name, kind) in [("ffn_gate", Q8_0), ("ffn_up", Q8_0), ("ffn_down", F16)] {
            end = add(&mut tensors, format!("blk.{blocks}.{name}.weight"), kind, matrix / kind.1);
        }
        blocks += 1;
        if end + 4 * matrix > len {
            break;
        }
    }
    tensors.push(Tensor { name: "output_norm.weight".into(), dimensions: vec![0], kind: F32.0, len: 0 });
    let written = encode(&tensors, blocks).len() as u64;
    let last = tensors.last_mut().unwrap();
    last.len = len - written - total;
    last.dimensions = vec![last.len / 4];
    encode(&tensors, blocks)
}

fn encode(tensors: &[Tensor], blocks: u64) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let text = |key: &str, value: &str| [string(key), 8u32.to_le_bytes().to_vec(), string(value)].concat();
    let number =
        |key: &str, value: u64| [string(key), [4, value as u32].map(u32::to_le_bytes).as_flattened().to_vec()].concat();
    let pairs = [
        text("general.architecture", "llama"),
        text("general.name", "a model to measure with"),
        number("llama.block_count", blocks),
        number("llama.context_length", 4096),
        number("llama.embedding_length", ROW),
        number("llama.feed_forward_length", 16384),
        number("llama.attention.head_count", 32),
        text("tokenizer.ggml.model", "no_vocab"),
    ];
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend([tensors.len() as u64, pairs.len() as u64].map(u64::to_le_bytes).as_flattened());
    out.extend(pairs.concat());
    let mut at = 0u64;
    for Tensor { name, dimensions, kind, len } in tensors {
        out.extend(string(name));
        out.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(at.to_le_bytes());
        at += len.next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out
}
