//! What a file is, by its bytes.
//!
//! Owns: the first look: magic numbers and the claims a name makes. Promises: a file is taken for a model only when its
//! bytes say so and its extension agrees; what is not recognised is refused. Leaves out: what is inside (the deep
//! inspection of each format).

pub(crate) mod description;
pub(crate) mod finding;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod ggml_type;
pub(crate) mod gguf;
pub(crate) mod input;
pub(crate) mod numpy;
pub(crate) mod onnx;
pub(crate) mod protobuf;
pub(crate) mod recognise;

use crate::artifact::Format;
use crate::error::{Error, ErrorKind, Result};
use crate::name::RelPath;

/// Bytes of a file that [`look`] wants to see; fewer only when the file is shorter.
pub(crate) const HEAD: usize = 64;

/// The smallest GGUF: magic, version, two counts (ggml, docs/gguf.md).
const GGUF_MIN: u64 = 24;
/// The longest safetensors header (safetensors' own limit).
const SAFETENSORS_HEADER_MAX: u64 = 100_000_000;

/// What the first look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A model.
    Model(Format),
    /// A file that belongs to a model's folder: configuration, vocabulary, words.
    Companion,
}

/// Files other than weights that a Hugging Face folder holds, by extension. Nothing here is executed by a loader.
const COMPANIONS: [&str; 12] =
    ["json", "jsonl", "txt", "md", "model", "jinja", "tiktoken", "vocab", "merges", "yaml", "yml", "spm"];
/// The same for names without an extension.
const PLAIN_COMPANIONS: [&str; 5] = ["LICENSE", "NOTICE", "README", "USE_POLICY", "COPYING"];

/// Whether a file's name is that of weights. [`look`] makes sure that name and content agree.
pub(crate) fn is_model_name(path: &RelPath) -> bool {
    let extension = path.file_name().rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    matches!(extension.as_deref(), Some("gguf" | "safetensors"))
}

/// Looks at a file's first bytes and its size, and holds them against its name.
pub(crate) fn look(path: &RelPath, head: &[u8], size: u64) -> Result<Kind> {
    let refuse = |why: String| Err(Error::new(ErrorKind::Refused, format!("{path} is refused: {why}")));
    let name = path.file_name();
    let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    let content = recognise(head, size);
    match (extension.as_deref(), content) {
        (Some("gguf"), Ok(Format::Gguf)) => Ok(Kind::Model(Format::Gguf)),
        (Some("safetensors"), Ok(Format::Safetensors)) => Ok(Kind::Model(Format::Safetensors)),
        (Some(e @ ("gguf" | "safetensors")), Ok(other)) => {
            refuse(format!("its extension says {e}, its content is {}", other.as_str()))
        }
        (Some("gguf" | "safetensors"), Err(why)) => refuse(why),
        (_, Ok(format)) => refuse(format!("its content is {0}, so its name must end in .{0}", format.as_str())),
        (Some(e), Err(_)) if COMPANIONS.contains(&e) => Ok(Kind::Companion),
        (None, Err(_)) if PLAIN_COMPANIONS.contains(&name) => Ok(Kind::Companion),
        (_, Err(_)) => {
            refuse("neither GGUF nor safetensors, and not a kind of file a model's folder is known to hold".into())
        }
    }
}

/// The format the bytes are in, or what is wrong with them.
fn recognise(head: &[u8], size: u64) -> Result<Format, String> {
    if head.is_empty() {
        return Err("it is empty".into());
    }
    if let Some(rest) = head.strip_prefix(b"GGUF") {
        return gguf(rest, size);
    }
    let Some((length, rest)) = head.split_first_chunk::<8>() else {
        return Err(format!("{size} bytes are too few for a model"));
    };
    let length = u64::from_le_bytes(*length);
    if rest.first() != Some(&b'{') {
        return Err("it is neither GGUF (no \"GGUF\" magic) nor safetensors (no JSON header)".into());
    }
    if !(2..=SAFETENSORS_HEADER_MAX).contains(&length) || length.checked_add(8).is_none_or(|end| end > size) {
        return Err(format!("its safetensors header claims {length} bytes, which do not fit the file's {size}"));
    }
    Ok(Format::Safetensors)
}

fn gguf(rest: &[u8], size: u64) -> Result<Format, String> {
    let (Some((version, rest)), true) = (rest.split_first_chunk::<4>(), size >= GGUF_MIN) else {
        return Err(format!("{size} bytes are too few for a GGUF header"));
    };
    let version = u32::from_le_bytes(*version);
    if version.swap_bytes() < 16 && version != 0 {
        return Err("it is a big-endian GGUF, which is not supported".into());
    }
    if !(2..=3).contains(&version) {
        return Err(format!("it claims GGUF version {version}; 2 and 3 are known"));
    }
    // The shortest key-value pair takes 13 bytes, the shortest tensor description 24: counts that cannot fit are lies.
    let Some((counts, _)) = rest.split_first_chunk::<16>() else {
        return Err("its GGUF header is cut short".into());
    };
    let (tensors, pairs) = counts.split_at(8);
    let count = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let needed = count(tensors).checked_mul(24).zip(count(pairs).checked_mul(13)).and_then(|(t, p)| t.checked_add(p));
    if needed.is_none_or(|n| n > size - GGUF_MIN) {
        return Err("its GGUF header claims more tensors or keys than fit in the file".into());
    }
    Ok(Format::Gguf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, bytes: &[u8]) -> Result<Kind> {
        look(&name.parse().expect("a path"), &bytes[..bytes.len().min(HEAD)], bytes.len() as u64)
    }

    fn gguf_file(version: u32, tensors: u64, pairs: u64, size: usize) -> Vec<u8> {
        let mut file =
            [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
        file.resize(size, 0);
        file
    }

    #[test]
    fn models_are_known_by_their_bytes() {
        assert_eq!(at("a.gguf", &gguf_file(3, 0, 0, 24)).expect("the smallest"), Kind::Model(Format::Gguf));
        assert_eq!(at("a.gguf", &gguf_file(2, 1, 2, 74)).expect("just fits"), Kind::Model(Format::Gguf));
        assert_eq!(
            at("a.safetensors", b"\x02\0\0\0\0\0\0\0{}").expect("the smallest"),
            Kind::Model(Format::Safetensors)
        );
        assert_eq!(at("config.json", b"{}").expect("a companion"), Kind::Companion);
        assert_eq!(at("LICENSE", b"words").expect("a companion"), Kind::Companion);
    }

    #[test]
    fn junk_and_lies_are_refused() {
        let swapped = gguf_file(3u32.swap_bytes(), 0, 0, 24);
        for (name, bytes, why) in [
            ("a.gguf", b"".as_slice(), "empty"),
            ("a.gguf", b"junk junk junk 17", "neither"),
            ("a.gguf", b"<!DOCTYPE html><html>", "neither"),
            ("a.gguf", b"GGUF\x03\0\0\0", "too few"),
            ("a.gguf", &gguf_file(1, 0, 0, 24), "version 1"),
            ("a.gguf", &gguf_file(4, 0, 0, 24), "version 4"),
            ("a.gguf", &gguf_file(0, 0, 0, 24), "version 0"),
            ("a.gguf", &swapped, "big-endian"),
            ("a.gguf", &gguf_file(3, 0, 0, 23), "too few"),
            ("a.gguf", &gguf_file(3, 1, 2, 73), "more tensors"),
            ("a.gguf", &gguf_file(3, u64::MAX, 0, 96), "more tensors"),
            ("a.gguf", &gguf_file(3, 0, u64::MAX, 96), "more tensors"),
            ("a.gguf", b"\x02\0\0\0\0\0\0\0{}", "content is safetensors"),
            ("a.safetensors", &gguf_file(3, 0, 0, 24), "content is gguf"),
            ("a.bin", &gguf_file(3, 0, 0, 24), "must end in .gguf"),
            ("model.json", &gguf_file(3, 0, 0, 24), "must end in .gguf"),
            ("a.safetensors", b"\x03\0\0\0\0\0\0\0{}", "do not fit"),
            ("a.safetensors", b"\x01\0\0\0\0\0\0\0{}", "do not fit"),
            ("a.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "do not fit"),
            ("a.safetensors", b"abc", "too few"),
            ("a.safetensors", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c", "neither"),
            ("a.bin", b"\x80\x04.", "not a kind"),
            ("run.py", b"print()", "not a kind"),
            ("noext", b"words", "not a kind"),
        ] {
            let e = at(name, bytes).expect_err(name);
            assert_eq!(e.kind(), ErrorKind::Refused, "{name}");
            assert!(e.to_string().contains(why), "{name}: {e} should say {why:?}");
        }
    }
}
