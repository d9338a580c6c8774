//! Tests of the safetensors header: every rule at its boundary, beside a sound control.

use super::super::finding::Severity;
use super::*;
use proptest::prelude::*;

/// A file with this header and as many bytes behind it.
fn file_of(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

/// The same, with spaces up to a multiple of eight, as the crate writes it.
fn aligned(header: &str, data: usize) -> Vec<u8> {
    file_of(&format!("{header}{}", " ".repeat(header.len().wrapping_neg() % 8)), data)
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!("{name:?}:{{\"dtype\":{dtype:?},\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
}

fn look(bytes: &[u8]) -> (Description, Findings) {
    let mut findings = Findings::new();
    let about = inspect(&"model.safetensors".parse().expect("a path"), &bytes, &mut findings).expect("reads");
    (about, findings)
}

fn rules(bytes: &[u8]) -> Vec<&'static str> {
    look(bytes).1.list().iter().map(|f| f.rule).collect()
}

/// Exactly this finding, and in its message these words.
fn assert_only(bytes: &[u8], rule: &Rule, words: &str) {
    let (_, findings) = look(bytes);
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    assert_eq!(findings.list().iter().map(|f| f.rule).collect::<Vec<_>>(), [rule.id], "{shown}: {:?}", findings.list());
    let message = &findings.list()[0].message;
    assert!(message.contains(words), "{shown}: {message:?} should say {words:?}");
    assert_eq!(findings.list()[0].severity, rule.severity);
}

#[test]
fn a_sound_file_has_no_findings_and_is_described_in_the_order_of_its_bytes() {
    let header = format!(
        "{{{},{},{}}}",
        entry("b", "BF16", "[2,3]", 8, 20),
        entry("a", "F64", "[]", 0, 8),
        entry("none", "F32", "[0,7]", 20, 20)
    );
    let bytes = aligned(&header, 20);
    let (about, findings) = look(&bytes);
    assert_eq!(findings.list(), []);
    assert_eq!(about.what, "safetensors, 3 tensors, 7 elements");
    let at = (bytes.len() - 20) as u64;
    let tensor = |name: &str, dtype: &str, shape: &[u64], offset: u64, size_bytes: u64| Tensor {
        name: name.into(),
        dtype: dtype.into(),
        shape: shape.into(),
        offset: Some(at + offset),
        size_bytes,
    };
    let expected =
        [tensor("a", "F64", &[], 0, 8), tensor("b", "BF16", &[2, 3], 8, 12), tensor("none", "F32", &[0, 7], 20, 0)];
    assert_eq!(about.tensors, expected);
}

#[test]
fn every_known_type_has_its_size_and_no_other_is_known() {
    for (dtype, bytes) in [
        ("BOOL", 8),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("I16", 16),
        ("U16", 16),
        ("F16", 16),
        ("BF16", 16),
        ("I32", 32),
        ("U32", 32),
        ("F32", 32),
        ("C64", 64),
        ("F64", 64),
        ("I64", 64),
        ("U64", 64),
    ] {
        let file = |end| aligned(&format!("{{{}}}", entry("t", dtype, "[8]", 0, end)), end as usize);
        assert_eq!(rules(&file(bytes)), [""; 0], "{dtype}");
        assert_only(&file(bytes - 1), &SIZE, "a reader would go past");
        assert_only(&file(bytes + 1), &SIZE, "\"t\"");
    }
    for dtype in ["", "f32", "F33", "F32 ", "Q4_0", &"F".repeat(500)] {
        assert_only(&aligned(&format!("{{{}}}", entry("t", dtype, "[2]", 0, 8)), 8), &DTYPE, "\"t\"");
    }
}

#[test]
fn the_header_must_be_there_and_fit() {
    assert_eq!(rules(b"\x02\0\0\0\0\0\0\0{}"), ["safetensors.empty", "safetensors.misaligned"]);
    for (bytes, rule, words) in [
        (&b""[..], &HEADER, "0 bytes"),
        (b"\x01\x02\x03", &HEADER, "3 bytes"),
        (b"\x02\0\0\0\0\0\0", &HEADER, "7 bytes"),
        (b"\x02\0\0\0\0\0\0\0", &HEADER, "ends where"),
        (b"\x03\0\0\0\0\0\0\0 {}", &HEADER, "0x20"),
        (b"\x03\0\0\0\0\0\0\0[1]", &HEADER, "0x5b"),
        (b"\x80\x04cbuiltins\nprint\n(S'x'\ntR.", &HEADER, "pickle"),
        (b"<!DOCTYPE html><html>", &HEADER, "HTML"),
        (b"PK\x03\x04abcdefgh", &HEADER, "zip"),
        (b"GGUF\x03\0\0\0aaaaaaa", &HEADER, "GGUF"),
        (b"\x7fELF\x02\x01\x01\0\0\0", &HEADER, "ELF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", &HEADER, "LFS"),
        (b"\0\0\0\0\0\0\0\0{}", &LENGTH, "0 bytes long"),
        (b"\x01\0\0\0\0\0\0\0{}", &LENGTH, "1 bytes long"),
        (b"\x03\0\0\0\0\0\0\0{}", &LENGTH, "has 2 after it"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", &LENGTH, "18446744073709551615"),
        (b"\xf8\xff\xff\xff\xff\xff\xff\xff{}", &LENGTH, "18446744073709551608"),
        (b"\x07\0\0\0\0\0\0\0{\"\xff\":1}", &JSON, "UTF-8"),
    ] {
        assert_only(bytes, rule, words);
    }
    // Just as long as may be, and one more; a file that holds nothing else but zeros.
    struct Sparse(u64);
    impl Input for Sparse {
        fn size(&self) -> u64 {
            1 << 40
        }
        fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
            let head = [&self.0.to_le_bytes()[..], b"{"].concat();
            for (i, byte) in out.iter_mut().enumerate() {
                *byte = head.get(at as usize + i).copied().unwrap_or(0);
            }
            Ok(())
        }
    }
    for (length, rule) in [(HEADER_MAX, &JSON), (HEADER_MAX + 1, &LENGTH)] {
        let mut findings = Findings::new();
        inspect(&"a.safetensors".parse().expect("a path"), &Sparse(length), &mut findings).expect("reads");
        assert!(findings.has(rule.id), "{:?}", findings.list());
    }
}

#[test]
fn what_is_no_json_is_found_at_its_byte_of_the_file() {
    let bytes = file_of("{ x}", 0);
    // A header that is held, and one that is read where it stands.
    for (header, start) in [(&bytes[8..], 0), (&bytes, 8)] {
        let (path, mut findings) = ("a.safetensors".parse().expect("a path"), Findings::new());
        let mut visit = Judge {
            path: &path,
            findings: &mut findings,
            at: 12,
            records: Vec::new(),
            elements: 0,
            adapts: 0,
            bad: false,
        };
        let halt = walk(&header, start, start + 4, &mut visit).expect_err("no JSON");
        assert!(matches!(halt, Halt::Found(found) if found.1 == Place::at(10)), "{start}");
    }
}

#[test]
fn the_header_is_one_strict_object() {
    let good = entry("a", "U8", "[8]", 0, 8);
    for (header, rule, words) in [
        (format!("{{{good}}}\n"), &JSON, "0x0a"),
        (format!("{{{good}}}\0"), &JSON, "0x00"),
        (format!("{{{good}}} x"), &JSON, "1 bytes follow"),
        (format!("{{{good}"), &JSON, "ends before"),
        (format!("{{{good},}}"), &JSON, "key"),
        (format!("{{{good},{good}}}"), &DUPLICATE, "\"a\""),
        (format!("{{{good},\"\\u0061\":1}}"), &DUPLICATE, "\"a\""),
        (format!("{{\"__metadata__\":{{}},\"__metadata__\":{{}},{good}}}"), &DUPLICATE, "__metadata__"),
        (format!("{{\"__metadata__\":{{\"k\":\"1\",\"k\":\"2\"}},{good}}}"), &DUPLICATE, "\"k\""),
        (good.replace("\"shape\":[8]", "\"shape\":[8],\"shape\":[8]"), &DUPLICATE, "\"shape\""),
        (good.replace("\"dtype\"", "\"dtype\":\"U8\",\"dtype\""), &DUPLICATE, "\"dtype\""),
        (format!("{{\"__metadata__\":null,{good}}}"), &METADATA, "not an object"),
        (format!("{{\"__metadata__\":[],{good}}}"), &METADATA, "not an object"),
        (format!("{{\"__metadata__\":{{\"k\":1}},{good}}}"), &METADATA, "\"k\""),
        (format!("{{\"__metadata__\":{{\"k\":{{}}}},{good}}}"), &METADATA, "\"k\""),
        (format!("{{\"__metadata__\":{{\"k\":null}},{good}}}"), &METADATA, "\"k\""),
        ("\"a\":1".into(), &FIELD, "not an object"),
        ("\"a\":[]".into(), &FIELD, "not an object"),
        ("\"a\":{}".into(), &FIELD, "no \"dtype\""),
        (good.replace("\"dtype\":\"U8\",", ""), &FIELD, "no \"dtype\""),
        (good.replace("\"shape\":[8],", ""), &FIELD, "no \"shape\""),
        (good.replace(",\"data_offsets\":[0,8]", ""), &FIELD, "no \"data_offsets\""),
        (good.replace("\"dtype\"", "\"extra\":1,\"dtype\""), &FIELD, "\"extra\""),
        (good.replace("\"U8\"", "8"), &FIELD, "\"dtype\""),
        (good.replace("\"U8\"", "null"), &FIELD, "\"dtype\""),
        (good.replace("[8]", "8"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[8.0]"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[8e0]"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[-8]"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[-0]"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[\"8\"]"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[[8]]"), &FIELD, "\"shape\""),
        (good.replace("[8]", "[18446744073709551616]"), &FIELD, "\"shape\""),
        (good.replace("[0,8]", "[0]"), &FIELD, "\"data_offsets\""),
        (good.replace("[0,8]", "[0,8,8]"), &FIELD, "\"data_offsets\""),
        (good.replace("[0,8]", "[]"), &FIELD, "\"data_offsets\""),
        (good.replace("[0,8]", "{}"), &FIELD, "\"data_offsets\""),
        (good.replace("[0,8]", "[0,8.0]"), &FIELD, "\"data_offsets\""),
        (good.replace("[0,8]", "[0,NaN]"), &FIELD, "\"data_offsets\""),
    ] {
        let header = if header.starts_with('{') { header } else { format!("{{{header}}}") };
        assert_only(&file_of(&header, 8), rule, words);
    }
    let ok = format!("{{\"__metadata__\":{{\"k\":\"1\"}},{good}}}");
    assert_eq!(rules(&aligned(&ok, 8)), [""; 0]);
    assert_only(&file_of(&format!("{{\"a\":{}", "[".repeat(10_000)), 8), &FIELD, "not an object");
    assert_only(&file_of(&format!("{{\"__metadata__\":{}", "[".repeat(10_000)), 8), &METADATA, "not an object");
}

#[test]
fn shapes_are_multiplied_with_care() {
    let file = |dtype: &str, shape: &str, bytes: u64| {
        aligned(&format!("{{{}}}", entry("t", dtype, shape, 0, bytes)), bytes as usize)
    };
    let (fits, over) =
        (format!("[{}]", vec!["1"; DIMS_MAX].join(",")), format!("[{}]", vec!["1"; DIMS_MAX + 1].join(",")));
    assert_eq!(rules(&file("U8", &fits, 1)), [""; 0]);
    assert_only(&file("U8", &over, 1), &FIELD, "up to 64");
    assert_eq!(rules(&file("F32", "[0,4294967296]", 0)), [""; 0]);
    assert_only(&file("F32", "[4294967296,4294967296]", 0), &SHAPE, "overflows");
    assert_only(&file("F32", "[4611686018427387905]", 4), &SHAPE, "overflows");
    assert_only(&file("U8", "[9223372036854775808,2,0]", 0), &SHAPE, "overflows");
    assert_only(&file("U8", "[0,9223372036854775808,2]", 0), &SHAPE, "overflows");
    assert_only(&file("F32", "[0]", 4), &SIZE, "needs 0 bytes and has 4");
    assert_eq!(rules(&file("F4", "[2]", 1)), [""; 0]);
    assert_only(&file("F4", "[3]", 1), &SHAPE, "12 bits");
    assert_only(&file("F4", "[3]", 2), &SHAPE, "12 bits");
    assert_eq!(rules(&file("F6_E2M3", "[4]", 3)), [""; 0]);
    assert_only(&file("F6_E3M2", "[1]", 1), &SHAPE, "6 bits");
    // The largest size that can be counted is refused for the file's sake alone.
    let header = format!("{{{}}}", entry("t", "U8", "[2305843009213693951]", 0, 2_305_843_009_213_693_951));
    assert_only(&aligned(&header, 8), &TRUNCATED, "\"t\"");
}

#[test]
fn offsets_cover_the_rest_of_the_file_once() {
    let two = |a: (u64, u64), b: (u64, u64)| {
        let shape = |s: (u64, u64)| format!("[{}]", s.1.saturating_sub(s.0));
        format!("{{{},{}}}", entry("a", "U8", &shape(a), a.0, a.1), entry("b", "U8", &shape(b), b.0, b.1))
    };
    assert_eq!(rules(&aligned(&two((0, 8), (8, 16)), 16)), [""; 0]);
    assert_eq!(rules(&aligned(&two((8, 16), (0, 8)), 16)), [""; 0]);
    assert_only(&aligned(&two((0, 8), (7, 16)), 16), &OVERLAP, "\"a\" and \"b\" share bytes 7..8");
    assert_only(&aligned(&two((0, 8), (9, 16)), 16), &HOLE, "8..9 before the tensor \"b\"");
    assert_only(&aligned(&two((1, 8), (8, 16)), 16), &HOLE, "0..1 before the tensor \"a\"");
    assert_only(&aligned(&two((0, 8), (8, 16)), 17), &TRAILING, "1 bytes follow");
    assert_only(&aligned(&two((0, 8), (8, 16)), 15), &TRUNCATED, "\"b\" ends at byte 16");
    assert_only(&aligned(&two((0, 8), (9, 8)), 8), &SIZE, "\"b\" ends at 8, before it begins at 9");
    let place = look(&aligned(&two((0, 8), (9, 16)), 16)).1.list()[0].place.clone();
    assert_eq!(place, Place::part_at("b", (aligned(&two((0, 8), (9, 16)), 0).len() + 8) as u64));
}

#[test]
fn names_that_mislead_are_told() {
    let file = |name: &str| aligned(&format!("{{{}}}", entry("NAME", "U8", "[1]", 0, 1)).replace("NAME", name), 1);
    for (name, rule) in [
        ("a\\u0000b", &HOSTILE_NAME),
        ("a\\nb", &HOSTILE_NAME),
        ("\u{7f}", &HOSTILE_NAME),
        ("\u{85}", &HOSTILE_NAME),
        ("a\u{202e}b", &HOSTILE_NAME),
        ("a\u{2066}b", &HOSTILE_NAME),
        ("a\u{200b}b", &HOSTILE_NAME),
        ("\u{feff}a", &HOSTILE_NAME),
        ("", &ODD_NAME),
        (&"n".repeat(NAME_MAX + 1), &ODD_NAME),
        ("/etc/passwd", &ODD_NAME),
        ("a/../b", &ODD_NAME),
        ("..", &ODD_NAME),
        ("\\\\\\\\host", &ODD_NAME),
    ] {
        assert_only(&file(name), rule, "name");
    }
    for name in ["a", "model.layers.0.mlp/kernel:0", "é", "...", "a..b", &"n".repeat(NAME_MAX)] {
        assert_eq!(rules(&file(name)), [""; 0], "{name}");
    }
}

#[test]
fn metadata_is_shown_cut_and_what_names_code_is_told() {
    let file =
        |metadata: &str| aligned(&format!("{{\"__metadata__\":{{{metadata}}},{}}}", entry("a", "U8", "[1]", 0, 1)), 1);
    assert_only(&file("\"format\":\"pt\""), &WRITER, "\"pt\"");
    for value in [
        "\"_target_\":\"os.system\"",
        "\"c\":\"{\\\"_target_\\\": 1}\"",
        "\"c\":\"py/object\"",
        "\"c\":\"x py/reduce\"",
        "\"c\":\"__reduce__\"",
        "\"c\":\"gASVAAAA\"",
    ] {
        assert_only(&file(value), &METADATA_CODE, "runs code");
    }
    assert_eq!(rules(&file("\"c\":\"the target, xgASV\"")), [""; 0]);
    let long = "x".repeat(5000);
    let (about, _) = look(&file(&format!("\"long\":\"{long}\",\"s\":\"v\"")));
    assert_eq!(about.metadata["s"], "v");
    assert_eq!(about.metadata["long"], format!("text of 5000 bytes: {}...", "x".repeat(80)));
    let many: Vec<String> = (0..METADATA_SHOWN + 5).map(|i| format!("\"k{i}\":\"\"")).collect();
    assert_eq!(look(&file(&many.join(","))).0.metadata.len(), METADATA_SHOWN);
}

#[test]
fn adapters_are_known_by_their_tensors_and_say_their_base() {
    let file = |name: &str, metadata: &str| {
        aligned(&format!("{{\"__metadata__\":{{{metadata}}},{}}}", entry(name, "U8", "[1]", 0, 1)), 1)
    };
    for (name, kind) in [
        ("q_proj.lora_A.weight", "lora"),
        ("q_proj.lora_B.weight", "lora"),
        ("lora_unet_down.lora_up.weight", "lora"),
        ("lora_unet_down.lora_down.weight", "lora"),
        ("e.lora_embedding_A", "lora"),
        ("q.lora_magnitude_vector", "dora"),
        ("q.dora_scale", "dora"),
        ("q.hada_w1_a", "loha"),
        ("q.lokr_w1", "lokr"),
        ("q.oft_blocks", "oft"),
        ("q.ia3_l", "ia3"),
        ("prompt_embeddings", "prompt_tuning"),
    ] {
        let adapter = look(&file(name, "\"base_model\":\"org/base\"")).0.adapter;
        assert_eq!(adapter, Some(Adapter { kind: kind.into(), base: "org/base".into() }), "{name}");
    }
    assert_eq!(look(&file("q_proj.weight", "\"base_model\":\"org/base\"")).0.adapter, None);
    let kohya =
        look(&file("x", "\"ss_network_module\":\"networks.lora\",\"ss_base_model_version\":\"sdxl\"")).0.adapter;
    assert_eq!(kohya, Some(Adapter { kind: "lora".into(), base: "sdxl".into() }));
    let both = format!("{{{},{}}}", entry("q.lora_A", "U8", "[1]", 0, 1), entry("q.dora_scale", "U8", "[1]", 1, 2));
    assert_eq!(look(&aligned(&both, 2)).0.adapter, Some(Adapter { kind: "dora".into(), base: String::new() }));
}

#[test]
fn padding_and_alignment_are_told() {
    let header = format!("{{{}}}", entry("a", "F32", "[2]", 0, 8));
    let padded = |spaces: u64| file_of(&format!("{header}{}", " ".repeat(spaces as usize)), 8);
    let even = header.len().wrapping_neg() as u64 % 8;
    assert_eq!(rules(&padded(even)), [""; 0]);
    assert_only(&padded(even + 1), &MISALIGNED, "no multiple of 8");
    let most = PADDING_MAX - 8 + even;
    assert_eq!(rules(&padded(most)), [""; 0]);
    assert_only(&padded(most + 8), &PADDING, "spaces");
    let header = format!("{{{},{}}}", entry("a", "U8", "[2]", 0, 2), entry("b", "F32", "[1]", 2, 6));
    assert_only(&aligned(&header, 6), &MISALIGNED, "\"b\"");
    let exactly = format!("{{{}}}", entry("a", "U8", "[1]", 0, 1));
    let spaces = |n: u64| rules(&file_of(&format!("{exactly}{}", " ".repeat(n as usize)), 1)).contains(&PADDING.id);
    assert!(!spaces(PADDING_MAX) && spaces(PADDING_MAX + 1));
}

#[test]
fn an_archive_in_the_last_tensor_is_told() {
    let zip = |tail: &[u8]| {
        let header = format!("{{{}}}", entry("a", "U8", &format!("[{}]", tail.len()), 0, tail.len() as u64));
        [aligned(&header, 0), tail.to_vec()].concat()
    };
    let mut end = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
    // One that ends with the file, with or without a comment, is told of at the door, and once.
    let at_the_door = |bytes: &[u8]| {
        let mut findings = Findings::new();
        crate::format::inspect(&"a.safetensors".parse().expect("a path"), &bytes, &mut findings).expect("reads");
        findings.list().iter().map(|f| f.rule).collect::<Vec<_>>()
    };
    assert_eq!(at_the_door(&zip(&end)), ["content.polyglot"]);
    assert_only(&zip(&[end.as_slice(), b"abc"].concat()), &POLYGLOT, "zip");
    assert_eq!(at_the_door(&zip(&[end.as_slice(), b"abc"].concat())), [POLYGLOT.id]);
    end[20] = 3;
    assert_eq!(at_the_door(&zip(&[end.as_slice(), b"abc"].concat())), ["content.polyglot"]);
    assert_eq!(rules(&zip(&[end.as_slice(), b"ab"].concat())), [""; 0], "the comment goes past the end");
    assert_eq!(rules(&zip(&[end.as_slice(), b"abcd"].concat())), [POLYGLOT.id], "and here ends before it");
    end[20] = 0;
    assert_eq!(rules(&zip(&end[..21])), [""; 0]);
    // The directory that it names must lie before it.
    let before = (zip(&end).len() - end.len()) as u32;
    for (offset, expected) in [(before, 1), (before + 1, 0)] {
        end[16..20].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(rules(&zip(&[end.as_slice(), b"x"].concat())).len(), expected);
        end[16..20].fill(0);
        end[12..16].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(rules(&zip(&[end.as_slice(), b"x"].concat())).len(), expected);
        end[12..16].fill(0);
    }
    for (at, n) in [(12, 0x1_0000u32), (16, 0x1_0000), (12, 0x100), (16, 0x100)] {
        end[at..at + 4].copy_from_slice(&n.to_le_bytes());
        assert_eq!(rules(&zip(&[end.as_slice(), b"x"].concat())), [""; 0], "a directory of or at {n}");
        end[at..at + 4].fill(0);
    }
    // Where it is, in a file that is longer than what is looked at.
    let bytes = zip(&[&[1; 70_000], end.as_slice(), b"x"].concat());
    let at = (bytes.len() - end.len() - 1) as u64;
    assert_eq!(look(&bytes).1.list().iter().map(|f| f.place.offset).collect::<Vec<_>>(), [Some(at)]);
    assert_only(&zip(&[end.as_slice(), &vec![1; 65_535]].concat()), &POLYGLOT, "zip");
    assert_eq!(rules(&zip(&[end.as_slice(), &vec![1; 65_536]].concat())), [""; 0]);
}

#[test]
fn tensors_are_counted() {
    let many = |n: u64| {
        let all: Vec<String> =
            (0..n).map(|i| format!("\"{i:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}")).collect();
        aligned(&format!("{{{}}}", all.join(",")), 0)
    };
    let (about, findings) = look(&many(20_000));
    assert_eq!((about.tensors.len(), findings.list()), (20_000, &[][..]));
    assert_eq!(rules(&many(TENSORS_MAX)), [] as [&str; 0]);
    assert_eq!(rules(&many(TENSORS_MAX + 1)), [LIMIT.id]);
}

#[test]
fn of_a_bad_header_the_first_tensors_are_described() {
    let all: Vec<String> =
        (0..SHOWN_OF_BAD as u64 + 10).map(|i| entry(&format!("t{i}"), "U8", "[1]", i, i + 1)).collect();
    let (about, findings) = look(&aligned(&format!("{{{}}}", all.join(",")), 5));
    assert_eq!((about.tensors.len(), findings.has(TRUNCATED.id)), (SHOWN_OF_BAD, true));
    let typed = format!("{{{}}}", all.join(",").replacen("U8", "U9", 1));
    let (about, findings) = look(&aligned(&typed, all.len()));
    assert_eq!((about.tensors.len(), findings.has(DTYPE.id)), (SHOWN_OF_BAD, true));
    assert_eq!(about.what, format!("safetensors, {0} tensors, {0} elements", SHOWN_OF_BAD + 10));
    // A name that is wanted stands behind those that are shown.
    let holed = format!("{{{},{}}}", all.join(","), entry("late", "U8", "[1]", 2000, 2001));
    assert!(look(&aligned(&holed, 2001)).1.list()[0].message.contains("\"late\""));
    let (about, findings) = look(&aligned(&format!("{{{},\"x\":1}}", all[..3].join(",")), 3));
    assert_eq!((about.tensors.len(), findings.has(FIELD.id)), (3, true));
}

#[test]
fn the_given_cases_get_their_verdicts() {
    for (file, rule) in [
        ("s00_ok", None),
        ("s01_short", Some(&HEADER)),
        ("s05_not_utf8", Some(&JSON)),
        ("s06_not_brace", Some(&HEADER)),
        ("s10_overlap", Some(&OVERLAP)),
        ("s11_first_gap", Some(&HOLE)),
        ("s15_trailing", Some(&TRAILING)),
        ("s16_trunc", Some(&TRUNCATED)),
        ("s20_deep_json", Some(&FIELD)),
        ("s21_pickle_named", Some(&HEADER)),
    ] {
        let path = format!("{}/tests/data/hostile/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).expect("the case is committed");
        let (_, findings) = look(&bytes);
        match rule {
            Some(rule) => assert!(findings.has(rule.id), "{file}: {:?}", findings.list()),
            None => assert!(
                findings.list().iter().all(|f| f.severity <= Severity::Warning),
                "{file}: {:?}",
                findings.list()
            ),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    /// A changed byte or a cut is survived; what passes anyway still covers the file exactly once.
    #[test]
    fn mutations_never_panic_and_pass_only_when_sound(changes in proptest::collection::vec((0usize..220, any::<u8>()), 1..4), cut in 0usize..400) {
        let header = format!("{{\"__metadata__\":{{\"format\":\"pt\"}},{},{}}}", entry("a", "F32", "[2,2]", 0, 16), entry("b", "F4", "[4]", 16, 18));
        let mut bytes = aligned(&header, 18);
        for (at, byte) in changes {
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
        }
        bytes.truncate(if cut < 250 { cut } else { bytes.len() });
        let (about, findings) = look(&bytes);
        if findings.list().iter().all(|f| f.severity < Severity::Critical) {
            let covered: u64 = about.tensors.iter().map(|t| t.size_bytes).sum();
            let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
            prop_assert_eq!(covered + header + 8, bytes.len() as u64);
        }
    }
}
