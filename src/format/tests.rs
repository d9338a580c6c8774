//! What a file is taken for, through the one door.

use super::finding::Severity;
use super::*;
use std::time::{Duration, Instant};

/// A guard against hangs, nothing more: of input that would take minutes if the work grew faster than it. It is far from
/// what such a look takes on the slowest machine, and says nothing of speed, which is what benches are for.
pub(super) fn no_hang<T>(what: &str, look: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let seen = look();
    assert!(start.elapsed() < Duration::from_secs(30), "{what} took {:?}", start.elapsed());
    seen
}

/// Sound files in turn, each with a few changes, always the same ones for a `seed`: cut, with a byte more, with a byte from
/// elsewhere, with one that parsers look for, with any.
pub(super) fn mutations(seed: u64, sound: &[&[u8]], rounds: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = seed;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    sound.iter().cycle().take(rounds).map(move |sound| {
        let mut bytes = sound.to_vec();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            match next(6) {
                0 => bytes.truncate(at + 1),
                1 => bytes.insert(at, next(256) as u8),
                2 => bytes[at] = bytes[next(bytes.len())],
                3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][next(5)],
                _ => bytes[at] = next(256) as u8,
            }
        }
        bytes
    })
}

/// What it is, and the worst that was found.
fn at(name: &str, bytes: &[u8]) -> (Kind, Findings) {
    let mut findings = Findings::new();
    let description = inspect(&name.parse().expect("a path"), &bytes, &mut findings).expect("it can be read");
    (description.kind, findings)
}

fn gguf_file(version: u32, tensors: u64, pairs: u64, size: usize) -> Vec<u8> {
    let mut file = [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
    file.resize(size, 0);
    file
}

#[test]
fn models_are_known_by_their_bytes() {
    for (name, bytes, kind) in [
        ("a.gguf", gguf_file(3, 0, 0, 24), Kind::Model(Format::Gguf)),
        ("a.safetensors", b"\x02\0\0\0\0\0\0\0{}".to_vec(), Kind::Model(Format::Safetensors)),
        ("config.json", b"{}".to_vec(), Kind::Companion),
        ("LICENSE", b"words".to_vec(), Kind::Companion),
        ("merges.txt", Vec::new(), Kind::Companion),
    ] {
        let (found, findings) = at(name, &bytes);
        assert_eq!(found, kind, "{name}");
        assert!(findings.list().iter().all(|f| f.severity < Severity::High), "{name}: {findings:?}");
    }
}

#[test]
fn junk_and_lies_are_refused() {
    let swapped = gguf_file(3u32.swap_bytes(), 0, 0, 24);
    for (name, bytes, rule) in [
        ("a.gguf", b"".as_slice(), "content.empty"),
        ("a.gguf", b"junk junk junk 17", "content.disagrees"),
        ("a.gguf", b"<!DOCTYPE html><html>", "content.html"),
        ("a.gguf", b"GGUF\x03\0\0\0", "gguf."),
        ("a.gguf", &gguf_file(1, 0, 0, 24), "gguf."),
        ("a.gguf", &gguf_file(4, 0, 0, 24), "gguf."),
        ("a.gguf", &gguf_file(0, 0, 0, 24), "gguf."),
        ("a.gguf", &swapped, "content.big-endian"),
        ("a.gguf", &gguf_file(3, 0, 0, 23), "gguf."),
        ("a.gguf", &gguf_file(3, 1, 2, 73), "gguf."),
        ("a.gguf", &gguf_file(3, u64::MAX, 0, 96), "gguf."),
        ("a.gguf", &gguf_file(3, 0, u64::MAX, 96), "gguf."),
        ("a.gguf", b"\x02\0\0\0\0\0\0\0{}", "content.disagrees"),
        ("a.safetensors", &gguf_file(3, 0, 0, 24), "content.disagrees"),
        ("a.bin", &gguf_file(3, 0, 0, 24), "content.disagrees"),
        ("model.json", &gguf_file(3, 0, 0, 24), "content.disagrees"),
        ("a.safetensors", b"\x03\0\0\0\0\0\0\0{}", "safetensors."),
        ("a.safetensors", b"\x01\0\0\0\0\0\0\0{}", "safetensors."),
        ("a.safetensors", b"abc", "content.disagrees"),
        ("a.safetensors", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c", "content.disagrees"),
        ("a.bin", b"\x80\x04.", "pickle."),
        ("run.py", b"print()", "content.code"),
        ("noext", b"words", "content.other-file"),
    ] {
        let (_, findings) = at(name, bytes);
        let refused = findings.list().iter().any(|f| f.severity >= Severity::High && f.rule.starts_with(rule));
        assert!(refused, "{name} wants {rule}: {findings:?}");
    }
}

#[test]
fn one_defect_has_one_finding() {
    for (name, bytes, rule) in [
        ("x.gguf", b"junk junk junk 17".as_slice(), "content.disagrees"),
        ("x.npy", b"junk", "content.disagrees"),
        ("run.py", b"print()", "content.code"),
        ("a.html", b"words", "content.code"),
        ("a.png", b"words", "content.disagrees"),
        ("noext", b"words", "content.other-file"),
        ("noext", b"{}", "content.other-file"),
        ("config.json", b"", "content.empty"),
        ("config.json", b"words", "json.malformed"),
        ("config.json", b"\xff\xfe{\0}\0", "content.unknown"),
        ("merges.txt", b"a\0b", "content.not-text"),
        ("merges.txt", b"\x0a\x0a\x0a\x03<s>\x15\0\0\0\0", "content.disagrees"),
        ("vocab.txt", b"version https://git-lfs.github.com/spec/v1\n", "content.lfs-pointer"),
        ("tokenizer.model", b"ab\x01", "companion.not-vocabulary"),
        ("LICENSE", b"<html>", "content.html"),
        ("lib.so", b"\x7fELF", "content.executable"),
    ] {
        let (kind, findings) = at(name, bytes);
        assert_eq!(findings.list().iter().map(|f| f.rule).collect::<Vec<_>>(), [rule], "{name}");
        let named = rule.starts_with("content.");
        assert_eq!(kind, if named { Kind::Other } else { Kind::Companion }, "{name}");
    }
    let (kind, findings) = at("README.md", b"<html>a page</html>");
    assert_eq!((kind, findings.list()), (Kind::Companion, &[][..]));
}

#[test]
fn a_hostile_template_is_found_wherever_it_stands() {
    let hostile = "{{ ''.__class__ }}";
    let config = format!("{{\"chat_template\": {hostile:?}}}");
    for (name, bytes) in [("tokenizer_config.json", config.as_str()), ("chat_template.jinja", hostile)] {
        let (_, findings) = at(name, bytes.as_bytes());
        assert!(findings.list().iter().any(|f| f.rule.starts_with("template.")), "{name}: {findings:?}");
    }
}

/// What has to be read to its end is not looked at ahead of the copy.
#[test]
fn archives_pickles_and_onnx_are_read_whole() {
    let zip = super::zip::tests::build(&[super::zip::tests::entry("a", b"b")], false).bytes;
    for (bytes, whole) in [
        (zip.as_slice(), true),
        (b"\x80\x02}q\x00.", true),
        (b"{}", false),
        (&gguf_file(3, 0, 0, 24), false),
        (b"\x02\0\0\0\0\0\0\0{}", false),
    ] {
        assert_eq!(is_read_whole(&bytes).expect("reads"), whole, "{bytes:?}");
    }
}

#[test]
fn an_inspector_looks_at_onnx_first_and_at_all_files_together() {
    let paths = ["a.data", "b.onnx", "c.json"].map(|p| p.parse::<RelPath>().expect("a path"));
    assert_eq!(Inspector::order(paths.iter()), [1, 0, 2]);

    // Raw bytes stand for weights only where an ONNX file says so, and never bytes that are a program.
    for (external, bytes, kind) in [
        (true, &b"\x01\x02\x03"[..], Kind::Companion),
        (true, b"\x7fELF", Kind::Other),
        (false, b"\x01\x02\x03", Kind::Other),
    ] {
        let mut inspector = Inspector::default();
        if external {
            inspector.external.insert(paths[0].clone());
        }
        inspector.file(&paths[0], &bytes).expect("reads");
        assert_eq!(inspector.latest().map(|d| d.kind), Some(kind), "{external} {bytes:?}");
        assert_eq!(inspector.findings.list().is_empty(), kind == Kind::Companion);
    }

    let mut inspector = Inspector::default();
    assert!(inspector.latest().is_none());
    let number = |key: &str, n: u16| {
        [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &2u32.to_le_bytes(), &n.to_le_bytes()].concat()
    };
    let part = [gguf_file(3, 0, 2, 24), number("split.no", 0), number("split.count", 2)].concat();
    for (path, bytes) in [("z-00001-of-00002.gguf", part.as_slice()), ("a.json", b"{}")] {
        inspector.file(&path.parse().expect("a path"), &bytes).expect("reads");
    }
    let (candidates, findings) = inspector.finish(Layout::Folder);
    assert_eq!(candidates.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), ["a.json", "z-00001-of-00002.gguf"]);
    assert!(findings.list().iter().any(|f| f.rule == "gguf.split-missing"), "{findings:?}");
}
