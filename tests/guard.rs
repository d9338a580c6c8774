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
