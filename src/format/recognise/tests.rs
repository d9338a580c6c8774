//! What files are taken for: each content, and each name that lies about it.

use super::*;
use crate::format::finding::{Findings, Severity};
use crate::name::RelPath;
use std::path::Path;

fn what(bytes: &[u8]) -> Content {
    recognise(&bytes).expect("reads")
}

fn findings(name: &str, bytes: &[u8]) -> Vec<&'static str> {
    let mut findings = Findings::new();
    inspect(&name.parse().expect("a path"), &bytes, &mut findings).expect("reads");
    findings.list().iter().map(|f| f.rule).collect()
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).expect("a test file")
}

/// A tar's header with a name of `a`.
fn tar() -> Vec<u8> {
    let mut block = vec![0; 1024];
    block[0] = b'a';
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().take(512).map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn zip_end_record(length: u32, offset: u32, comment: &[u8]) -> Vec<u8> {
    let mut end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0".to_vec();
    end.extend(length.to_le_bytes());
    end.extend(offset.to_le_bytes());
    end.extend((comment.len() as u16).to_le_bytes());
    end.extend(comment);
    end
}

fn padded(magic: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.resize(magic.len() + 64, 0);
    bytes
}

#[test]
fn every_magic_number_is_known() {
    for (magic, place, content) in MAGICS {
        let mut bytes = vec![0; *place];
        bytes.extend(*magic);
        let bytes = match content {
            Content::Bzip2 => padded(b"BZh91AY&SY"),
            _ => padded(&bytes),
        };
        assert_eq!(what(&bytes), *content, "{magic:?}");
        assert!(!content.name().is_empty());
    }
    let table: Vec<(Vec<u8>, Content)> = vec![
        (b"".to_vec(), Content::Empty),
        (padded(b"GGUF\x03\0\0\0"), Content::Gguf),
        (b"GGUF".to_vec(), Content::Gguf),
        (padded(b"GGUF\0\0\0\x03"), Content::BigEndianGguf),
        (padded(b"FUGG\0\0\0\x03"), Content::BigEndianGguf),
        (padded(b"GGUF\0\0\0\0"), Content::Gguf),
        (b"\x02\0\0\0\0\0\0\0{}".to_vec(), Content::Safetensors),
        (b"\0\xe1\xf5\x05\0\0\0\0{".to_vec(), Content::Safetensors),
        (b"\x01\xe1\xf5\x05\0\0\0\0{".to_vec(), Content::Unknown),
        (b"\x02\0\0\0\0\0\0\0[]".to_vec(), Content::Unknown),
        (padded(b"\xca\xfe\xba\xbe\0\0\0\x02"), Content::MachO),
        (padded(b"\xca\xfe\xba\xbe\0\0\0\x2c"), Content::MachO),
        (padded(b"\xca\xfe\xba\xbe\0\0\0\x2d"), Content::JavaClass),
        (padded(b"\xcb\x0d\r\n\0\0\0\0"), Content::PythonBytecode),
        (b"\xcb\x0c\r\n".to_vec(), Content::PythonBytecode),
        (b"\xb8\x0b\r\n".to_vec(), Content::PythonBytecode),
        (b"\x2b\x0e\r\nxxxxxxxxxxx\0".to_vec(), Content::PythonBytecode),
        (b"\x2b\x0f\r\n\0".to_vec(), Content::PythonBytecode),
        (b"\x2b\x0e\r\nxxxxxxxxxxxx\0".to_vec(), Content::Unknown),
        (b"\n\x0c\r\nwords on a second page".to_vec(), Content::Text),
        (padded(b"\x2b\x10\r\n"), Content::Unknown),
        (padded(b"\x2b\x0a\r\n"), Content::Unknown),
        (tar(), Content::Tar),
        (padded(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."), Content::TorchLegacy),
        (
            padded(b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."),
            Content::TorchLegacy,
        ),
        (padded(b"\x80\x02}q\0."), Content::Pickle),
        (padded(b"\x80\x05"), Content::Pickle),
        (padded(b"\x80\x06"), Content::Unknown),
        (padded(b"\x80\x01"), Content::Unknown),
        (b"plain words\n".to_vec(), Content::Text),
        ("\u{feff}W\u{f6}rter".into(), Content::Text),
        (b"W\xf6rter".to_vec(), Content::Unknown),
        (b"with\0nul".to_vec(), Content::Unknown),
        (b" \n{\"a\": 1}".to_vec(), Content::Json),
        ("\u{feff}[1]".into(), Content::Json),
        (b"ggml is a library".to_vec(), Content::Text),
        (b"BZh is how bzip2 begins".to_vec(), Content::Text),
        (padded(b"BZh91AY&SX"), Content::Unknown),
    ];
    for (bytes, content) in table {
        assert_eq!(what(&bytes), content, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
}

#[test]
fn a_tar_is_known_by_its_checksum_or_its_magic() {
    for at in [0, 100, 150, 511] {
        let mut bad = tar();
        bad[at] ^= 1;
        assert_eq!(what(&bad), Content::Unknown, "{at}");
    }
    assert_ne!(what(&tar()[..511]), Content::Tar);
    // Old tars summed signed bytes.
    let mut block = tar();
    block[100] = 0xff;
    let sum: i32 = block
        .iter()
        .take(512)
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { i32::from(b.cast_signed()) })
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(what(&block), Content::Tar);
    // POSIX's magic says so too, whatever the checksum.
    let mut posix = vec![b'x'; 512];
    posix[257..262].copy_from_slice(b"ustar");
    assert_eq!(what(&posix), Content::Tar);
    posix[261] = b'x';
    assert_ne!(what(&posix), Content::Tar);
}

#[test]
fn programs_for_windows_are_known_by_both_headers() {
    let pe = |at: u32, mark: &[u8], size: usize| {
        let mut bytes = b"MZ\x90\0".to_vec();
        bytes.resize(0x3c, 0);
        bytes.extend(at.to_le_bytes());
        bytes.resize(size, 0);
        if let Some(place) = bytes.get_mut(at as usize..at as usize + mark.len()) {
            place.copy_from_slice(mark);
        }
        what(&bytes)
    };
    assert_eq!(pe(0x80, b"PE\0\0", 0x100), Content::Pe);
    assert_eq!(pe(0x80, b"NE", 0x100), Content::Pe);
    assert_eq!(pe(0x80, b"LE", 0x100), Content::Pe);
    assert_eq!(pe(0x1000, b"PE\0\0", 0x1004), Content::Pe);
    assert_eq!(pe(0x1000, b"PX\0\0", 0x1004), Content::Unknown, "two letters are not enough of a large file");
    assert_eq!(pe(0x1001, b"", 0x1004), Content::Unknown);
    assert_eq!(pe(0x1000, b"", 0x100), Content::Pe, "but of a small one");
    assert_eq!((pe(0x2000, b"", 0xfff), pe(0x2000, b"", 0x1000)), (Content::Pe, Content::Unknown));
    assert_eq!(what(b"MZ is how programs begin"), Content::Text);
}

#[test]
fn hdf5_is_known_behind_a_user_block() {
    for at in [0usize, 512, 1024, 2048, 4096, 8192, 1 << 20] {
        let mut bytes = vec![1; at];
        bytes.extend(b"\x89HDF\r\n\x1a\n");
        assert_eq!(what(&bytes), Content::Hdf5, "{at}");
        bytes.pop();
        assert_ne!(what(&bytes), Content::Hdf5, "{at}");
    }
    let mut bytes = vec![1; 513];
    bytes.extend(b"\x89HDF\r\n\x1a\n");
    assert_eq!(what(&bytes), Content::Unknown);
    let mut iso = vec![0; 0x8001];
    iso.extend(b"CD001");
    assert_eq!(what(&iso), Content::Iso);
    iso.pop();
    assert_eq!(what(&iso), Content::Unknown);
}

#[test]
fn pages_and_scripts_are_known_by_their_first_words() {
    for page in [
        "<!DOCTYPE html><html>",
        "<!doctype HTML>",
        " \r\n\t<HTML lang=\"en\">",
        "\u{feff}<html>",
        "\u{feff}  <head>",
        "<body>",
        "<script>",
        "<iframe ",
        "<!-- a --> <!-- b -->\n<html>",
        "<html",
    ] {
        assert_eq!(what(page.as_bytes()), Content::Html, "{page:?}");
    }
    for text in
        ["<p align=center>", "<htmlx>", "<!-- a comment -->\n# Model", "< html>", "<!-- open <html>", "a <html>"]
    {
        assert_eq!(what(text.as_bytes()), Content::Text, "{text:?}");
    }
    assert_eq!(what(b"<?PHP echo 1;"), Content::Php);
    assert_eq!(what(b"<? echo 1;"), Content::Php);
    assert_eq!(what(b"<?xml version=\"1.0\"?>"), Content::Xml);
    assert_eq!(what(b"<svg xmlns=\"\">"), Content::Xml);
    assert_eq!(what(b"#!/bin/sh\n"), Content::Script);
    assert_eq!(what(b"\xef\xbb\xbf#!/bin/sh\n"), Content::Script);
    assert_eq!(what(b"# !/bin/sh\n"), Content::Text);
    assert_eq!(what(b"#![no_std]\n"), Content::Text);
}

#[test]
fn pickles_without_a_magic_number_are_known() {
    for pickle in [
        &b"cos\nsystem\n(S'true'\ntR."[..],
        b"(dp0\nS'a'\np1\nI1\ns.",
        b"(lp0\n.",
        b"I1\n.",
        b"I01\n.",
        b"L1L\n.",
        b"F1.5\n.",
        b"Vtext\np0\n.",
        b"}q\0X\x01\0\0\0aK\x01s.",
        b"]q\0.",
        b"N.",
        b"cbuiltins\nprint\n",
        b"(ios\nsystem\n.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"\x82\x01.",
        b"G\0\0\0\0\0\0\0\0.",
        b"U\x01a.",
        b"M\x00\x01.",
        b"T\x01\0\0\0a.",
    ] {
        assert_eq!(what(pickle), Content::Pickle, "{pickle:?}");
    }
    for text in [
        "test.",
        "data.",
        "MIT.",
        "K5.",
        "README",
        "Some text.",
        "cos is a function\n",
        "I am\n.",
        "This is it.",
        "Kernel.",
        "MIT License",
        "(c) someone",
        "}",
        "S'open\n.",
        "c\n\n.",
        "Licensed under",
        "p.",
        "F x\n.",
        "L-\n.",
        "1",
        "0.",
        "s.",
        "R.",
        "in",
    ] {
        assert_eq!(what(text.as_bytes()), Content::Text, "{text:?}");
    }
}

#[test]
fn a_zip_is_known_from_its_end() {
    let zip = |prefix: &[u8], length: u32, offset: u32, comment: &[u8]| {
        [prefix, &zip_end_record(length, offset, comment)].concat()
    };
    assert_eq!(what(&zip(b"JUNK\0\xff", 0, 6, b"")), Content::Zip);
    assert_eq!(what(&zip(b"JUNK\0\xff", 6, 0, b"a comment")), Content::Zip);
    assert_eq!(what(&zip(b"JUNK\0\xff", 0, 6, &[1; 65_535])), Content::Zip);
    assert_eq!(what(&zip(b"JUNK\0\xff", u32::MAX, u32::MAX, b"")), Content::Zip);
    assert_eq!(what(&zip(b"JUNK\0\xff", 6, 1, b"")), Content::Unknown, "a directory past its own end");
    let mut longer = zip(b"JUNK\0\xff", 0, 6, b"ab");
    longer.pop();
    assert_eq!(what(&longer), Content::Unknown, "a comment past the end");
    longer.extend(b"bc");
    assert_eq!(what(&longer), Content::Unknown, "bytes after it");
}

/// Words, as many as it says.
struct Words(u64);

impl Input for Words {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, _: u64, out: &mut [u8]) -> Result<()> {
        out.fill(b'w');
        Ok(())
    }
}

#[test]
fn what_is_too_long_to_be_text_is_not_read_as_text() {
    assert_eq!(recognise(&Words(8 << 20)).expect("reads"), Content::Text);
    assert_eq!(recognise(&Words(MAX_TEXT + 1)).expect("reads"), Content::Unknown);
}

/// Whatever stands before the call, a program is not taken for words.
#[test]
fn a_pickle_is_known_by_each_opcode_with_its_argument() {
    for before in [
        b"J\x01\0\0\0".as_slice(),
        b"Nr\x01\0\0\0",
        b"j\x01\0\0\0",
        b"C\x01a",
        b"\x83\x01\x01",
        b"\x84\x01\x01\0\0",
        b"\x8b\x01\0\0\0\x01",
        b"\x8d\x01\0\0\0\0\0\0\0a",
        b"\x8e\x01\0\0\0\0\0\0\0a",
        b"\x96\x01\0\0\0\0\0\0\0a",
        b"\x95\x01\0\0\0\0\0\0\0N",
    ] {
        let bytes = [before, b"0c__builtin__\neval\n(tR."].concat();
        assert_eq!(what(&bytes), Content::Pickle, "{}", bytes.escape_ascii());
    }
    assert_eq!(what(b"K\x01."), Content::Pickle);
    assert_eq!(what(b"K\x01.\0\0"), Content::Pickle, "whatever follows");
    // Nothing takes from an empty stack, and names have no blanks.
    for word in ["t", "p1\n", "d", "l", "u", "e"] {
        let text = format!("{word}I1\n0.");
        assert_eq!(what(text.as_bytes()), Content::Text, "{text:?}");
    }
    assert_eq!(what(b"cat is here\nand there\n."), Content::Text);
}

#[test]
fn two_formats_in_one_file_are_named() {
    let mut gguf = padded(b"GGUF\x03\0\0\0");
    assert_eq!(findings("a.gguf", &gguf), Vec::<&str>::new());
    let zip = [gguf.as_slice(), &zip_end_record(0, 8, b"")].concat();
    assert_eq!(findings("a.gguf", &zip), ["content.polyglot"]);
    let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), &zip].concat();
    assert_eq!(findings("a.png", &picture), ["content.polyglot"]);
    gguf.resize(2048, 0);
    let hdf5 = [gguf.as_slice(), b"\x89HDF\r\n\x1a\n"].concat();
    assert_eq!(findings("a.gguf", &hdf5), ["content.polyglot"]);
    gguf.resize(4096, 0);
    assert_eq!(findings("a.txt", &zip), ["content.disagrees", "content.polyglot"]);
    let weights = [gguf.as_slice(), b"\x89HDF\r\n\x1a\n"].concat();
    assert_eq!(findings("a.gguf", &weights), [""; 0], "so far on it may be a weight's");
    let picture = [b"\x89PNG\r\n\x1a\n".as_slice(), &zip_end_record(0, 8, b"")].concat();
    assert_eq!(findings("a.png", &picture), ["content.polyglot"]);
    let pickle = [b"\x80\x02N.".as_slice(), &zip_end_record(0, 0, b"")].concat();
    assert_eq!(findings("a.pt", &pickle), ["content.polyglot"]);
    let zip = [b"PK\x03\x04".as_slice(), &zip_end_record(0, 0, b"")].concat();
    assert_eq!(findings("a.pt", &zip), Vec::<&str>::new());
}

#[test]
fn keras_is_a_zip_that_names_its_configuration_and_weights() {
    let zip = |names: &str| {
        let length = names.len() as u32;
        [b"PK\x03\x04".as_slice(), names.as_bytes(), &zip_end_record(length, 4, b"")].concat()
    };
    assert_eq!(what(&zip("metadata.json config.json model.weights.h5")), Content::Keras);
    assert_eq!(what(&zip("config.json")), Content::Zip);
    assert_eq!(what(&zip("model.weights.h5")), Content::Zip);
    assert_eq!(findings("a.keras", &zip("config.json model.weights.h5")), ["content.keras"]);
    assert_eq!(findings("a.pt", &zip("config.json model.weights.h5")), ["content.keras"]);
    assert_eq!(findings("a.keras", &zip("x")), ["content.keras"]);
    assert_eq!(findings("a.keras", b"words"), ["content.disagrees"]);
}

#[test]
fn protobufs_are_told_apart_by_their_fields() {
    let table: [(&[u8], Content); 20] = [
        (b"\x08\x08\x3a\x00", Content::Onnx),
        (b"\x3a\x00\x08\x08", Content::Onnx),
        (b"\x08\x08\x12\x01a\x3a\x03\x12\x01g\x42\x02\x10\x11", Content::Onnx),
        (b"\x3a\x03\x12\x01g\x42\x02\x10\x11", Content::Onnx),
        (b"\x08\x08\x3a\x00\xda\x01\x00", Content::Onnx),
        (b"\x08\x08\x3a\x01", Content::Text),
        (b"\x08\x08\x42\x00", Content::Unknown),
        (b"\x08\x01\x12\x02\x0a\x00", Content::TensorFlow),
        (b"\x08\x05\x12\x00\xc2\x0c\x00", Content::CoreMl),
        (b"\x0a\x07\x0a\x01x\x12\x02Op\x22\x00", Content::TensorFlow),
        (b"\x0a\x0a\x0a\x03<s>\x15\0\0\0\0", Content::SentencePiece),
        (b"\x0a\x05\x0a\x03<s>", Content::SentencePiece),
        (b"\x0a\x07\x0a\x03<s>\x18\x02", Content::SentencePiece),
        (b"\x0a\x07\x0a\x03<s>\x22\x00", Content::Unknown),
        (b"\x0a\x02\x08\x01\0", Content::Unknown),
        (b"\x08\x08\x0a\x00\x3a\x00", Content::Unknown),
        (b"\x08\x08\x3a\x00\x0b", Content::Unknown),
        // Of a later version; and numbers beside what has none.
        (b"\x08\x08\x3a\x00\x88\x02\x01", Content::Onnx),
        (b"\x08\x08\x3a\x00\x8a\x02\x00", Content::Onnx),
        (b"\x08\x08\x0a\x0a\x0a\x03<s>\x15\0\0\0\0", Content::Unknown),
    ];
    for (bytes, content) in table {
        assert_eq!(what(bytes), content, "{bytes:?}");
    }
}

/// An ONNX model by its fields: a graph of 1 GiB, and a message of what is left, all zeros.
struct Fields(u64);

impl Input for Fields {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let length =
            |n: u64| [0, 7, 14, 21, 28].map(|bits| (n >> bits) as u8 & 0x7f | if bits < 28 { 0x80 } else { 0 });
        let first = [b"\x08\x08\x3a".as_slice(), &length(1 << 30)].concat();
        let second = 8 + (1 << 30);
        let rest = [b"\x42".as_slice(), &length(self.0 - second - 6)].concat();
        for (byte, at) in out.iter_mut().zip(at..) {
            let of = |part: &[u8], from: u64| at.checked_sub(from).and_then(|i| part.get(i as usize).copied());
            *byte = of(&first, 0).or_else(|| of(&rest, second)).unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn a_protobuf_is_known_a_little_beyond_what_protobuf_takes() {
    let limit = crate::format::protobuf::MAX_MESSAGE + (1 << 20);
    for (size, content) in [(limit, Some(Content::Onnx)), (limit + 1, None)] {
        assert_eq!(proto::by_fields(&Fields(size)).expect("reads"), content, "{size}");
    }
}

#[test]
fn names_must_agree_with_contents() {
    let gguf = padded(b"GGUF\x03\0\0\0");
    let tensors = b"\x02\0\0\0\0\0\0\0{}";
    let onnx = b"\x08\x08\x3a\x00";
    let piece = b"\x0a\x0a\x0a\x03<s>\x15\0\0\0\0";
    let npy = padded(b"\x93NUMPY\x01\0");
    for (name, bytes) in [
        ("a.gguf", gguf.as_slice()),
        ("A.GGUF", &gguf),
        ("d/a.safetensors", tensors),
        ("a.onnx", onnx),
        ("a.npy", &npy),
        ("a.pt", b"\x80\x02N."),
        ("a.pth", b"\x80\x02N."),
        ("pytorch_model.bin", b"PK\x03\x04"),
        ("a.ckpt", &tar()),
        ("a.th", b"\x80\x02N."),
        ("a.pkl", b"N."),
        ("a.pickle", b"N."),
        ("tokenizer.model", piece),
        ("tokenizer.model", b"YQ== 1\n"),
        ("a.spm", piece),
        ("config.json", b"{}"),
        ("config.json", b"words"),
        ("README.md", b"<html>"),
        ("README.md", b"# a"),
        ("README", b"a"),
        ("LICENSE", b"a"),
        ("LICENSE-MODEL", b"a"),
        ("vocab.bpe", b"a b"),
        ("params", b"{}"),
        ("merges.txt", b""),
        ("merges.txt", b"a b"),
        ("chat_template.jinja", b"{{ a }}"),
        ("a.tiktoken", b"YQ== 1\n"),
        ("a.yaml", b"a: 1"),
        ("logo.PNG", b"\x89PNG\r\n\x1a\n"),
        ("a.png", b"\xff\xd8\xff\xe0"),
        ("a.jpeg", b"\xff\xd8\xff\xe0"),
        ("a.gif", b"GIF89a\0"),
        ("a.webp", b"RIFF\0\0\0\0WEBP"),
        ("vocab.bpe", b"#version: 0.2\na b"),
        ("a.csv", b"a,b"),
        ("a.rst", b"a"),
        ("CITATION.cff", b"a: 1"),
        ("AUTHORS", b"a"),
        ("Modelfile", b"FROM a"),
    ] {
        assert_eq!(findings(name, bytes), Vec::<&str>::new(), "{name}");
    }
    for (name, bytes, rule) in [
        ("a.safetensors", gguf.as_slice(), "content.disagrees"),
        ("a.bin", &gguf, "content.disagrees"),
        ("noext", &gguf, "content.disagrees"),
        ("noext", onnx, "content.disagrees"),
        ("a.dat", &npy, "content.disagrees"),
        ("a.dat", piece, "content.disagrees"),
        ("a.keras", b"\x7fELF", "content.executable"),
        ("a.keras", b"%PDF-1", "content.disagrees"),
        ("a.keras", b"\0\xff", "content.unknown"),
        ("a.keras", onnx, "content.disagrees"),
        ("a.dat", tensors, "content.disagrees"),
        ("a.txt", tensors, "content.disagrees"),
        ("config.json", &gguf, "content.disagrees"),
        ("tokenizer.model", &gguf, "content.disagrees"),
        ("a.gguf", tensors, "content.disagrees"),
        ("a.gguf", onnx, "content.disagrees"),
        ("a.gguf", b"words", "content.disagrees"),
        ("a.gguf", b"{}", "content.disagrees"),
        ("a.gguf", b"%PDF-1", "content.disagrees"),
        ("a.onnx", piece, "content.disagrees"),
        ("a.npy", b"\x80\x02N.", "content.disagrees"),
        ("a.dat", b"\x80\x02N.", "content.disagrees"),
        ("a.safetensors", b"\x80\x02N.", "content.disagrees"),
        ("a.gguf", b"PK\x03\x04", "content.disagrees"),
        ("a.zip", b"PK\x03\x04", "content.archive"),
        ("a.tar", &tar(), "content.archive"),
        ("a.tgz", b"\x1f\x8b\x08", "content.archive"),
        ("a.pt", b"\x1f\x8b\x08", "content.archive"),
        ("a.gguf", b"\x7fELF", "content.executable"),
        ("lib.so", b"\x7fELF", "content.executable"),
        ("a.gguf", b"#!/bin/sh", "content.executable"),
        ("a.txt", b"#!/bin/sh", "content.executable"),
        ("a.gguf", b"<?php", "content.executable"),
        ("a.gguf", b"MZqFpD='\n", "content.llamafile"),
        ("a.gguf", b"<html>", "content.html"),
        ("config.json", b"<!doctype html>", "content.html"),
        ("a.html", b"<!doctype html>", "content.html"),
        ("a.gguf", b"<?xml ", "content.html"),
        ("a.xml", b"<?xml ", "content.other-file"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "content.hdf5"),
        ("a.bin", b"lmgg\x01\0\0\0", "content.old-ggml"),
        ("a.gguf", b"GGUF\0\0\0\x03", "content.big-endian"),
        ("a.gguf", b"version https://git-lfs.github.com/spec/v1\n", "content.lfs-pointer"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1\n", "content.lfs-pointer"),
        ("a.tflite", b"\0\0\0\0TFL3", "content.not-allowed"),
        ("a.pb", b"\x08\x01\x12\x02\x0a\x00", "content.not-allowed"),
        ("a.mlmodel", b"\x08\x05\x12\x00\xc2\x0c\x00", "content.not-allowed"),
        ("a.gguf", b"", "content.empty"),
        ("config.json", b"", "content.empty"),
        ("noext", b"", "content.empty"),
        ("a.gguf", b"\0\xff\0\xff", "content.unknown"),
        ("a.data", b"\0\xff\0\xff", "content.unknown"),
        ("config.json", b"\0\xff\0\xff", "content.unknown"),
        ("tokenizer.model", b"\0\xff\0\xff", "content.unknown"),
        ("a.txt", b"W\xf6rter", "content.not-text"),
        ("LICENSE", b"W\xf6rter", "content.not-text"),
        ("run.py", b"print()", "content.code"),
        ("run.sh", b"#!/bin/sh", "content.code"),
        ("a.php", b"<?php", "content.code"),
        ("a.ipynb", b"{}", "content.code"),
        ("a.PY", b"x = 1", "content.code"),
        ("a.svg", b"words", "content.code"),
        ("lib.so.1", b"words", "content.code"),
        ("a.exe", b"words", "content.code"),
        ("a.html", b"words", "content.code"),
        ("a.zsh", b"words", "content.code"),
        ("a.zsh", b"#!/bin/zsh", "content.executable"),
        ("lib.so", b"", "content.empty"),
        ("a.whl", b"PK\x03\x04", "content.archive"),
        ("a.exe", &gguf, "content.disagrees"),
        ("a.dll", b"\0\xff\0\xff", "content.unknown"),
        ("a.dll", b"%PDF-1", "content.other-file"),
        ("a.svg", b"<svg>", "content.other-file"),
        ("a.tif", b"II*\0", "content.other-file"),
        ("a.png", b"words", "content.disagrees"),
        ("a.png", &gguf, "content.disagrees"),
        ("a.png", b"<html>", "content.html"),
        ("a.png", b"\x7fELF", "content.executable"),
        ("a.png", b"", "content.empty"),
        ("a.png", b"\0\xff", "content.unknown"),
        ("config.json", b"\x89PNG\r\n\x1a\n", "content.disagrees"),
        ("a.txt", b"{\\rtf1 words}", "content.disagrees"),
        ("a.rtf", b"{\\rtf1 words}", "content.other-file"),
        ("a.txt", b"SQLite format 3\0", "content.archive"),
        ("a.md", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "content.archive"),
        ("a.lnk", b"L\0\0\0\x01\x14\x02\0", "content.executable"),
        ("a.csv", b"L\0\0\0\x01\x14\x02\0", "content.executable"),
        ("a.pyc", b"\x61\x0d\r\n\0\0\0\0", "content.executable"),
        ("a.png", b"%PDF-1", "content.disagrees"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "content.disagrees"),
        ("a.wav", b"RIFF\0\0\0\0WAVE", "content.other-file"),
        ("a.pdf", b"%PDF-1", "content.other-file"),
        ("noext", b"words", "content.other-file"),
        ("a.log", b"words", "content.other-file"),
    ] {
        assert_eq!(findings(name, bytes), [rule], "{name} {}", String::from_utf8_lossy(bytes));
    }
    for rule in RULES {
        let high = ["content.not-text", "content.code", "content.other-file"].contains(&rule.id);
        assert_eq!(rule.severity, if high { Severity::High } else { Severity::Critical }, "{}", rule.id);
    }
}

#[test]
fn what_the_index_has_is_known() {
    for (name, content) in [
        ("g00_ok_min.gguf", Content::Gguf),
        ("g01_empty.gguf", Content::Empty),
        ("g05_ver4.gguf", Content::Gguf),
        ("g06_bigendian.gguf", Content::BigEndianGguf),
        ("k02_h5.h5", Content::Hdf5),
        ("o03_extdata_self.onnx", Content::Onnx),
        ("p00_raw.pkl", Content::Pickle),
        ("p04_no_stop.pkl", Content::Pickle),
        ("p05_ext1.pkl", Content::Pickle),
        ("p09_timeit.pkl", Content::Pickle),
        ("p10_torch.pt", Content::Zip),
        ("p14_prefix_junk.pt", Content::Zip),
        ("p15_7z_pt.pt", Content::SevenZip),
        ("p19_bomb.pt", Content::Zip),
        ("s00_ok.safetensors", Content::Safetensors),
        ("s10_overlap.safetensors", Content::Safetensors),
        ("s16_trunc.safetensors", Content::Safetensors),
        ("s20_deep_json.safetensors", Content::Safetensors),
        ("s21_pickle_named.safetensors", Content::Pickle),
        ("x01_llamafile.gguf", Content::Llamafile),
        ("x02_html.gguf", Content::Html),
    ] {
        assert_eq!(what(&data(&format!("hostile/{name}"))), content, "{name}");
    }
    for (name, rule) in [
        ("k02_h5.h5", "content.hdf5"),
        ("k03_zipslip.keras", "content.keras"),
        ("p15_7z_pt.pt", "content.archive"),
        ("s21_pickle_named.safetensors", "content.disagrees"),
        ("x01_llamafile.gguf", "content.llamafile"),
        ("x02_html.gguf", "content.html"),
    ] {
        assert_eq!(findings(name, &data(&format!("hostile/{name}"))), [rule]);
    }
    for name in [
        "tiny-llama.gguf",
        "gguf/d-single.gguf",
        "gguf/iq4nl.gguf",
        "hostile/s00_ok.safetensors",
        "hostile/o03_extdata_self.onnx",
    ] {
        assert_eq!(findings(name, &data(name)), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn text_is_looked_at_to_its_end() {
    let mut text = "wörter ".repeat(300_000).into_bytes();
    assert_eq!(what(&text), Content::Text);
    for bad in [0, 0xff] {
        *text.last_mut().expect("some") = bad;
        assert_eq!(what(&text), Content::Unknown);
    }
    text.pop();
    text.push(0xc3);
    assert_eq!(what(&text), Content::Unknown, "cut inside a character");
}

#[test]
fn models_and_raw_bytes_are_told_by_name_and_content() {
    let model = |name: &str| is_model_name(&name.parse::<RelPath>().expect("a path"));
    assert!(["a.gguf", "a.PT", "a.onnx", "a.bin", "a.safetensors"].iter().all(|n| model(n)));
    let code = ["a.py", "A.SH", "lib.so", "lib.so.1", "a.svg", "a.exe", "a.rs"];
    assert!(code.iter().all(|name| is_code_name(name)));
    assert!(!["a.gguf", "a.so.gguf", "so", "a.txt", "a.pickle", "py"].iter().any(|name| is_code_name(name)));
    assert!(!["a.npy", "a.json", "gguf", "a.data", "a.model"].iter().any(|n| model(n)));
    assert!(Content::Unknown.may_be_raw() && Content::Pickle.may_be_raw() && Content::Text.may_be_raw());
    assert!(![Content::Gguf, Content::Elf, Content::Zip, Content::Onnx].iter().any(|c| c.may_be_raw()));
}

#[test]
fn mutations_neither_panic_nor_read_past_the_end() {
    let samples = [
        data("hostile/p10_torch.pt"),
        data("hostile/o03_extdata_self.onnx"),
        data("hostile/p00_raw.pkl"),
        tar(),
        b"PK\x05\x06".to_vec(),
    ];
    for sound in samples {
        for at in 0..sound.len() {
            for byte in [0, 1, 8, b'<', b'c', 0x7f, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = byte;
                assert_eq!(what(&bytes), what(&bytes));
            }
            what(&sound[..at]);
            what(&sound[at..]);
        }
    }
}

#[test]
fn a_text_may_begin_with_the_name_of_a_format() {
    for words in [
        "GGUF quantizations of a model",
        "RIFF is a container",
        "OggS and fLaC",
        "GIF89a is a picture",
        "the TFL3 format",
    ] {
        let text = format!("{words}, told at some length so that nobody takes these words for the format itself.\n");
        assert_eq!(findings("README.md", text.as_bytes()), [""; 0], "{words}");
        let text = &text.as_bytes()[..text.len().min(64)];
        assert_eq!(findings("README.md", text), [""; 0], "{words}");
        assert_eq!(
            findings("README.md", &text[..63]),
            ["content.disagrees"].map(|r| if words.contains("TFL3") { "content.not-allowed" } else { r })
        );
        let model = [text, &[0]].concat();
        assert_ne!(findings("README.md", &model), [""; 0], "{words}");
    }
}
