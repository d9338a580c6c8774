//! What gguf-guard says of a file, through the library: the same bytes where it is right, better ones where it is not.
#![allow(clippy::unwrap_used, reason = "tests")]

use securereg::guard::{self, FileDigests, Fingerprint, Guard, TensorManifest, Wanted};
use securereg::{ErrorKind, GgufHeader, Sha256Digest, Task};
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

fn survey(bytes: &[u8]) -> securereg::Result<(GgufHeader, FileDigests)> {
    guard::survey(bytes, bytes.len() as u64, Wanted::Tensors, &Task::unattended())
}

#[test]
fn every_file_that_gguf_guard_read_comes_out_byte_for_byte() {
    for name in ["a-llama-2l", "d-single", "e-alltypes"] {
        let bytes = std::fs::read(data(&format!("{name}.gguf"))).unwrap();
        let stored = |what: &str| std::fs::read_to_string(data(&format!("{name}.{what}.json"))).unwrap();
        // Six tensors of a-llama-2l are Q4_K and six Q6_K: gguf-guard named the one in its fingerprint, by chance, and the
        // other in its manifest. Ours is the lower number always.
        let lowest = |json: String| match name {
            "a-llama-2l" => json.replacen("\"quant_type\": \"Q6_K\"", "\"quant_type\": \"Q4_K\"", 1),
            _ => json,
        };
        let (header, digests) = survey(&bytes).unwrap();
        let both = Guard::of(&header, &digests).unwrap();
        assert_eq!(guard::to_json(&both.fingerprint), stored("fingerprint"), "{name}");
        assert_eq!(guard::to_json(&both.manifest), lowest(stored("manifest")), "{name}");
        assert_eq!(guard::to_json(&guard::inspect(&header, digests.size_bytes)), stored("inspect"), "{name}");
        let read = TensorManifest::parse(stored("manifest").as_bytes()).unwrap();
        assert_eq!(TensorManifest::parse(lowest(stored("manifest")).as_bytes()).unwrap(), both.manifest);
        assert_eq!(serde_json::from_str::<Fingerprint>(&stored("fingerprint")).unwrap(), both.fingerprint);
        assert_eq!(guard::verify(&read, &both.manifest), []);
    }
}

#[test]
fn a_type_that_gguf_guard_knows_no_size_of_has_ggmls() {
    let bytes = std::fs::read(data("iq4nl.gguf")).unwrap();
    let (header, digests) = survey(&bytes).unwrap();
    let manifest = TensorManifest::of(&header, &digests).unwrap();
    let newer: Vec<_> = manifest.tensors.iter().filter(|t| t.kind == "unknown(20)").collect();
    assert!(!newer.is_empty());
    for tensor in newer {
        assert_eq!(tensor.data_size, tensor.element_count / 32 * 18, "{}", tensor.name);
        let start = (header.data_offset + tensor.offset) as usize;
        assert_eq!(tensor.hash, Sha256Digest::of(&bytes[start..start + tensor.data_size as usize]));
    }
}

#[test]
fn a_file_that_is_cut_or_grows_is_no_file_of_that_size() {
    let bytes = std::fs::read(data("d-single.gguf")).unwrap();
    let size = bytes.len() as u64;
    let task = Task::unattended();
    for (have, say) in [(bytes.len() - 1, size), (bytes.len(), size - 1)] {
        for wanted in [Wanted::File, Wanted::Tensors] {
            let e = guard::survey(&bytes[..have], say, wanted, &task).unwrap_err();
            let kinds = [ErrorKind::SourceChanged, ErrorKind::Refused];
            assert!(kinds.contains(&e.kind()), "{have} of {say}: {e}");
        }
    }
}

/// One entry of a header's table of tensors, and the bytes it names.
struct Tensor {
    name: &'static str,
    elements: u64,
    kind: u32,
    offset: u64,
}

const fn f32s(name: &'static str, elements: u64, offset: u64) -> Tensor {
    Tensor { name, elements, kind: 0, offset }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

/// A file of these pairs and tensors, its data `data` bytes that are all different from their neighbours.
fn gguf(alignment: usize, pairs: &[Vec<u8>], tensors: &[Tensor], data: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    out.extend(pairs.concat());
    for tensor in tensors {
        out.extend(string(tensor.name));
        out.extend(1u32.to_le_bytes());
        out.extend(tensor.elements.to_le_bytes());
        out.extend(tensor.kind.to_le_bytes());
        out.extend(tensor.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(alignment), 0);
    out.extend((0..data).map(|i| (i % 251) as u8));
    out
}

fn data_of(data: std::ops::Range<usize>) -> Sha256Digest {
    Sha256Digest::of(&data.map(|i| (i % 251) as u8).collect::<Vec<_>>())
}

#[test]
fn tensors_are_where_the_files_own_alignment_puts_them() {
    for alignment in [8u32, 16, 32, 64, 4096] {
        let pairs = [pair("general.alignment", 4, &alignment.to_le_bytes())];
        let second = u64::from(alignment).next_multiple_of(8) * 2;
        let end = second as usize + 8;
        let bytes = gguf(alignment as usize, &pairs, &[f32s("a", 3, 0), f32s("b", 2, second)], end);
        let (_, digests) = survey(&bytes).unwrap();
        assert_eq!(digests.tensors, [data_of(0..12), data_of(second as usize..end)], "{alignment}");
        assert_eq!(digests.sha256, Sha256Digest::of(&bytes));
    }
}

#[test]
fn tensors_may_stand_in_any_order_with_gaps_and_the_file_may_go_on() {
    let bytes = gguf(32, &[], &[f32s("b", 4, 96), f32s("a", 5, 0), f32s("c", 8, 32)], 500_000);
    let (header, digests) = survey(&bytes).unwrap();
    assert_eq!(digests.tensors, [data_of(96..112), data_of(0..20), data_of(32..64)]);
    assert_eq!((digests.size_bytes, digests.sha256), (bytes.len() as u64, Sha256Digest::of(&bytes)));
    let alone = guard::survey(&bytes[..], bytes.len() as u64, Wanted::File, &Task::unattended()).unwrap();
    assert_eq!((alone.0, alone.1.sha256, alone.1.tensors), (header, digests.sha256, vec![]));
}

#[test]
fn a_vocabulary_of_over_100_000_words_is_read() {
    let words: Vec<u8> = (0..128_256u32).flat_map(|i| string(&i.to_string())).collect();
    let array = [&8u32.to_le_bytes()[..], &128_256u64.to_le_bytes(), &words].concat();
    let pairs = [pair("tokenizer.ggml.tokens", 9, &array)];
    let bytes = gguf(32, &pairs, &[f32s("t", 16, 0)], 64);
    let (_, digests) = survey(&bytes).unwrap();
    assert_eq!((digests.sha256, &digests.tensors[..]), (Sha256Digest::of(&bytes), &[data_of(0..64)][..]));
}

#[test]
fn tensors_that_share_bytes_are_not_hashed() {
    for (second, shares) in [(0, true), (32, true), (64, false)] {
        let bytes = gguf(32, &[], &[f32s("one", 16, 0), f32s("two", 1, second)], 96);
        match survey(&bytes) {
            Ok(_) => assert!(!shares, "{second}"),
            Err(e) => {
                assert!(shares && e.kind() == ErrorKind::Refused, "{second}: {e}");
                assert!(e.to_string().contains("\"one\" and \"two\" share bytes"), "{e}");
            }
        }
        let task = Task::unattended();
        assert!(guard::survey(&bytes[..], bytes.len() as u64, Wanted::File, &task).is_ok(), "no tensor is hashed");
    }
}

#[test]
fn a_survey_tells_how_far_it_is_and_can_be_stopped() {
    let bytes = gguf(32, &[], &[f32s("t", 500_000, 0)], 3_000_000);
    let size = bytes.len() as u64;
    let mut told = Vec::new();
    let task = Task::unattended().with_progress(|p| told.push((p.done, p.total)));
    guard::survey(&bytes[..], size, Wanted::Tensors, &task).unwrap();
    drop(task);
    assert!(told.len() > 5 && told.is_sorted() && told.last() == Some(&(size, size)), "{told:?}");
    assert!(told.iter().all(|(_, total)| *total == size));

    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopping = Task::unattended()
        .cancelled_by(&stop)
        .with_progress(|p| stop.store(p.done > 1_000_000, std::sync::atomic::Ordering::Relaxed));
    let e = guard::survey(&bytes[..], size, Wanted::Tensors, &stopping).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
}

#[test]
fn a_changed_byte_of_one_tensor_is_found_in_that_tensor() {
    let bytes = std::fs::read(data("e-alltypes.gguf")).unwrap();
    let stored = std::fs::read(data("e-alltypes.manifest.json")).unwrap();
    let stored = TensorManifest::parse(&stored).unwrap();
    let (header, _) = survey(&bytes).unwrap();
    for tensor in &header.tensors {
        for at in [tensor.offset, tensor.offset + tensor.size_bytes - 1] {
            let mut changed = bytes.clone();
            changed[(header.data_offset + at) as usize] ^= 1;
            let (header, digests) = survey(&changed).unwrap();
            let found = guard::verify(&stored, &TensorManifest::of(&header, &digests).unwrap());
            let kinds: Vec<_> = found.iter().map(|d| (d.kind, d.tensor.as_deref())).collect();
            use guard::DifferenceKind as Kind;
            let expected =
                [(Kind::FileHash, None), (Kind::MerkleRoot, None), (Kind::TensorHash, Some(tensor.name.as_str()))];
            assert_eq!(kinds, expected);
        }
    }
    // Past every tensor's bytes, where gguf-guard looks at nothing.
    let mut longer = bytes;
    longer.push(0);
    let (header, digests) = survey(&longer).unwrap();
    let found = guard::verify(&stored, &TensorManifest::of(&header, &digests).unwrap());
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|d| !d.kind.is_checked_by_gguf_guard()), "{found:?}");
}

#[test]
fn a_file_that_grew_behind_its_tensors_is_noticed() {
    let bytes = gguf(32, &[], &[f32s("t", 4, 0)], 17);
    for wanted in [Wanted::File, Wanted::Tensors] {
        let e = guard::survey(&bytes[..], bytes.len() as u64 - 1, wanted, &Task::unattended()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::SourceChanged);
        assert!(e.to_string().contains("grew"), "{e}");
    }
}
