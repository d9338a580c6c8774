//! What inspection costs: a header of 1,000 tensors, a large vocabulary, a large safetensors header.
//!
//! Owns: the section `inspect` of the figures. Each inspection is the library's, from opening the file to the verdict; the
//! baseline is reading the same bytes with read(2), which is the least that any parser does. Leaves out: promotion.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark: what fails ends it")]

use super::models::{Meta, Tensor, gguf_with, safetensors};
use super::{Figure, row, table};
use securereg::{Policy, Source, Task, inspect};
use std::path::Path;
use std::time::Instant;

const RUNS: usize = 51;

pub(crate) fn measure(dir: &Path) {
    table("Inspecting a header, page cache warm", &["", "milliseconds", "the same bytes by read(2)"]);
    let names: Vec<String> = (0..1000).map(|i| format!("blk.{}.part_{}.weight", i / 10, i % 10)).collect();
    let data = vec![0u8; 32 * 4];
    let tensors: Vec<Tensor<'_>> = names.iter().map(|n| (n.as_str(), 0, &[32][..], data.as_slice())).collect();
    let arch = [("general.architecture", Meta::Str("llama")), ("llama.block_count", Meta::U32(100))];
    one(dir, "GGUF, 1,000 tensors", "tensors.gguf", &gguf_with(&arch, &tensors));

    let pieces: Vec<String> = (0..128_256).map(|i| format!("piece{i}")).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let merges: Vec<String> = (0..128_000).map(|i| format!("pie{} ce{}", i / 7, i % 7)).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let kinds = vec![1i32; pieces.len()];
    let vocabulary = [
        ("general.architecture", Meta::Str("llama")),
        ("tokenizer.ggml.model", Meta::Str("gpt2")),
        ("tokenizer.ggml.tokens", Meta::Strs(&pieces)),
        ("tokenizer.ggml.token_type", Meta::I32s(&kinds)),
        ("tokenizer.ggml.merges", Meta::Strs(&merges)),
    ];
    one(dir, "GGUF, 128,256 tokens and 128,000 merges", "vocabulary.gguf", &gguf_with(&vocabulary, &[]));

    let names: Vec<String> = (0..1000).map(|i| format!("model.layers.{}.part_{}.weight", i / 10, i % 10)).collect();
    let parts: Vec<(&str, &str, &[u64], &[u8])> =
        names.iter().map(|n| (n.as_str(), "F32", &[32][..], data.as_slice())).collect();
    one(dir, "safetensors, 1,000 tensors", "model.safetensors", &safetensors(&parts));
}

fn one(dir: &Path, what: &str, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    let policy = Policy::built_in();
    let (mut inspected, mut read) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let started = Instant::now();
        let source = Source::open(&path).unwrap();
        let found = inspect(&source, &policy, &Task::unattended()).unwrap();
        inspected.push(started.elapsed().as_secs_f64() * 1e3);
        assert!(found.format.is_some(), "{what}: {:?}", found.verdict);
        let started = Instant::now();
        std::hint::black_box(std::fs::read(&path).unwrap());
        read.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let (inspected, read) = (Figure(inspected), Figure(read));
    row(&[what.to_owned(), inspected.show("ms"), read.show("ms")]);
}
