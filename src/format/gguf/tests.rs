//! Tests of the GGUF header's parser, and of whole files.
//!
//! Owns: headers that are sound, and one that breaks each rule; the hostile and the real files of tests/data. Promises: nothing.
//! Leaves out: the other parts' own tests (beside them).

use super::build::*;
use super::*;
use crate::format::input::Counted;
use crate::format::tests::no_hang;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn read(bytes: &[u8]) -> Result<GgufHeader> {
    GgufHeader::read(bytes, bytes.len() as u64)
}

#[test]
fn every_type_of_value_is_read() {
    let numbers = [&5u32.to_le_bytes()[..], &2u64.to_le_bytes(), &(-1i32).to_le_bytes(), &7i32.to_le_bytes()].concat();
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &numbers].concat();
    let pairs = [
        pair("u8", 0, &[255]),
        pair("i8", 1, &[255]),
        pair("u16", 2, &[1, 1]),
        pair("i16", 3, &[255, 255]),
        u32("u32", 7),
        i32("i32", -7),
        f32("f32", 1.5),
        boolean("bool", true),
        text("string", "llama"),
        strings("strings", &["a", "", "ccc"]),
        pair("numbers", 9, &numbers),
        pair("nested", 9, &nested),
        pair("u64", 10, &u64::MAX.to_le_bytes()),
        pair("i64", 11, &i64::MIN.to_le_bytes()),
        pair("f64", 12, &0.25f64.to_le_bytes()),
    ];
    let header = read(&file(&pairs, &[tensor("t", &[32, 2], 2, 0), tensor("u", &[3], 0, 64)], 96)).expect("sound");
    let value = |key| header.value(key).expect("there").clone();
    assert_eq!(value("u8"), Value::Unsigned(ValueType::U8, 255));
    assert_eq!(value("i8"), Value::Signed(ValueType::I8, -1));
    assert_eq!(value("u16"), Value::Unsigned(ValueType::U16, 257));
    assert_eq!(value("i16"), Value::Signed(ValueType::I16, -1));
    assert_eq!(value("u32"), Value::Unsigned(ValueType::U32, 7));
    assert_eq!(value("i32"), Value::Signed(ValueType::I32, -7));
    assert_eq!(value("f32"), Value::Float(ValueType::F32, 1.5));
    assert_eq!(value("bool"), Value::Bool(true));
    assert_eq!(value("string"), Value::String(b"llama".to_vec()));
    assert_eq!(value("u64"), Value::Unsigned(ValueType::U64, u64::MAX));
    assert_eq!(value("i64"), Value::Signed(ValueType::I64, i64::MIN));
    assert_eq!(value("f64"), Value::Float(ValueType::F64, 0.25));
    let Value::Array(Array::Strings(words)) = value("strings") else { panic!("strings") };
    let all: Vec<_> = (0..=words.len()).map(|i| words.get(i).map(<[u8]>::to_vec)).collect();
    assert_eq!(all, [Some(b"a".to_vec()), Some(vec![]), Some(b"ccc".to_vec()), None]);
    let Value::Array(Array::Packed { of: ValueType::I32, count: 2, bytes }) = value("numbers") else {
        panic!("numbers")
    };
    assert_eq!(bytes, [255, 255, 255, 255, 7, 0, 0, 0]);
    assert!(matches!(value("nested"), Value::Array(Array::Arrays(inner)) if inner.len() == 1));
    assert_eq!(header.tensors[0].size_bytes, 36);
    assert_eq!(
        (header.tensors[1].name.as_str(), header.tensors[1].offset, header.tensors[1].size_bytes),
        ("u", 64, 12)
    );
    assert_eq!((header.alignment, header.data_offset % 32, header.version), (32, 0, 3));
}

#[test]
fn integers_of_each_width_keep_their_sign() {
    let integers = |of, bytes: &[u8]| {
        Array::Packed { of, count: 1, bytes: bytes.to_vec() }.integers().map(|all| all.collect::<Vec<_>>())
    };
    for (of, width, first, least) in [
        (ValueType::I8, 1, -1, i128::from(i8::MIN)),
        (ValueType::I16, 2, -1, i128::from(i16::MIN)),
        (ValueType::I32, 4, -1, i128::from(i32::MIN)),
        (ValueType::I64, 8, -1, i128::from(i64::MIN)),
        (ValueType::U8, 1, 0xff, 0x80),
        (ValueType::U16, 2, 0xffff, 0x8000),
        (ValueType::U32, 4, 0xffff_ffff, 0x8000_0000),
        (ValueType::U64, 8, 0xffff_ffff_ffff_ffff, 0x8000_0000_0000_0000),
    ] {
        let mut bytes = vec![0xff; width];
        bytes.extend(vec![0; width - 1]);
        bytes.push(0x80);
        assert_eq!(integers(of, &bytes), Some(vec![first, least]), "{of:?}");
    }
    assert_eq!(integers(ValueType::I32, &0x0403_0201u32.to_le_bytes()), Some(vec![0x0403_0201]));
    for none in [ValueType::F32, ValueType::F64, ValueType::Bool] {
        assert_eq!(integers(none, &[0; 8]), None, "{none:?}");
    }
}

/// Each with what [`GgufHeader::read`] says, and the rule that [`inspect`] finds.
#[test]
fn a_header_that_breaks_the_format_is_refused_with_what_is_wrong() {
    let list = |of: u32, count: u64| [&of.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let deep = (0..5).flat_map(|_| list(9, 1)).collect::<Vec<u8>>();
    let long = "n".repeat(64);
    let long_key = "k".repeat(65_536);
    let one = |ne: &[u64], kind: u32| file(&[], &[tensor("t", ne, kind, 0)], 64);
    for (bytes, rule, why) in [
        (b"GGML".to_vec(), "gguf.magic", "begin"),
        (b"GG".to_vec(), "gguf.magic", "begin"),
        (b"GGUF\x03\0\0".to_vec(), "gguf.truncated", "inside the version"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "gguf.truncated", "inside the key count"),
        (header(0, 0, 0), "gguf.version", "version 0"),
        (header(1, 0, 0), "gguf.version", "version 1, which ggml no longer reads"),
        (b"GGUF".to_vec(), "gguf.truncated", "inside the version"),
        (header(4, 0, 0), "gguf.version", "version 4"),
        (header(3 << 24, 0, 0), "gguf.version", "big-endian GGUF (version 3"),
        (header(3, 0, u64::MAX), "gguf.count", "keys; at most 65536"),
        (header(3, u64::MAX, 0), "gguf.count", "tensors; at most 65536"),
        (header(3, 65_537, 0), "gguf.count", "65537 tensors; at most 65536"),
        (header(3, 65_536, 0), "gguf.count", "65536 tensors, more than"),
        (header(3, 0, 65_537), "gguf.count", "65537 keys; at most 65536"),
        (header(3, 0, 65_536), "gguf.count", "65536 keys, more than"),
        ([header(3, 1, 0), vec![0; 23]].concat(), "gguf.count", "1 tensors, more than can follow in 23"),
        ([header(3, 0, 1), vec![0; 13]].concat(), "gguf.count", "1 keys, more than can follow in 13"),
        (header(3, 0, 9), "gguf.count", "keys, more"),
        (file(&[pair("k", 0, &[1]), pair("k", 0, &[1])], &[], 0), "gguf.key-duplicate", "twice"),
        ([header(3, 0, 1), pair("", 0, &[1]), vec![0; 9]].concat(), "gguf.key", "0 bytes long"),
        (file(&[pair(&long_key, 0, &[1])], &[], 0), "gguf.key", "65536 bytes long"),
        (file(&[pair("k\0", 0, &[1])], &[], 0), "gguf.key", "not text"),
        (file(&[pair(b"k\xff", 0, &[1])], &[], 0), "gguf.key", "not text"),
        (file(&[pair("k", 13, &[1])], &[], 0), "gguf.value-type", "type 13"),
        (file(&[pair("k", 9, &list(13, 0))], &[], 0), "gguf.value-type", "type 13"),
        (file(&[pair("k", 7, &[2])], &[], 0), "gguf.boolean", "boolean"),
        (file(&[pair("k", 8, &u64::MAX.to_le_bytes())], &[], 0), "gguf.count", "does not fit"),
        (
            [header(3, 0, 1), pair("k", 8, &[&4u64.to_le_bytes()[..], b"abc"].concat())].concat(),
            "gguf.count",
            "4 bytes",
        ),
        (file(&[pair("k", 9, &list(0, u64::MAX))], &[], 0), "gguf.count", "array values"),
        (file(&[pair("k", 9, &list(10, 1 << 61))], &[], 0), "gguf.count", "array values"),
        (file(&[pair("k", 9, &list(8, 1 << 40))], &[], 0), "gguf.count", "strings"),
        (file(&[pair("k", 9, &list(8, (1 << 21) + 1))], &[], 0), "gguf.count", "2097153 strings; at most 2097152"),
        (file(&[pair("k", 9, &list(8, 1 << 21))], &[], 0), "gguf.count", "2097152 strings, more than"),
        (
            file(&[strings("j", &["a"]), pair("k", 9, &list(8, 1 << 21))], &[], 0),
            "gguf.count",
            "2097152 strings; at most 2097151",
        ),
        (file(&[pair("k", 9, &[&list(7, 1)[..], &[3]].concat())], &[], 0), "gguf.boolean", "booleans"),
        (file(&[u32("general.alignment", 3)], &[], 0), "gguf.alignment", "3, not a power of two"),
        (file(&[u32("general.alignment", 0)], &[], 0), "gguf.alignment", "0, not a power of two"),
        (file(&[u32("general.alignment", 1 << 21)], &[], 0), "gguf.alignment", "2097152, not a power of two"),
        (file(&[text("general.alignment", "32")], &[], 0), "gguf.alignment", "type str"),
        (file(&[pair("general.alignment", 10, &32u64.to_le_bytes())], &[], 0), "gguf.alignment", "type u64"),
        (one(&[1, 1, 1, 1, 1], 0), "gguf.dimensions", "5 dimensions"),
        (one(&[1 << 63], 0), "gguf.dimensions", "negative dimension"),
        (one(&[32], 4), "gguf.tensor-type", "Q4_2 was removed"),
        (one(&[32], 33), "gguf.tensor-type", "Q4_0_8_8 was removed"),
        (one(&[32], 43), "gguf.tensor-type", "43, which ggml does not know"),
        (one(&[32], u32::MAX), "gguf.tensor-type", "does not know"),
        (one(&[31], 2), "gguf.blocks", "31 elements of Q4_0"),
        (one(&[33], 2), "gguf.blocks", "33 elements of Q4_0"),
        (one(&[], 2), "gguf.blocks", "1 elements of Q4_0"),
        (one(&[1 << 62, 1 << 62], 0), "gguf.size", "elements of F32"),
        (one(&[1 << 62], 0), "gguf.size", "elements of F32"),
        (one(&[1 << 61], 0), "gguf.size", "elements of F32"),
        // More elements than int64_t, in fewer bytes.
        (one(&[1 << 60, 8], 10), "gguf.size", "elements of Q2_K"),
        (file(&[], &[tensor("t", &[1], 0, 1)], 64), "gguf.unaligned", "multiple of 32"),
        (file(&[], &[tensor("t", &[17], 0, 0)], 64), "gguf.outside", "do not lie in the file"),
        (file(&[], &[tensor("t", &[1], 0, u64::MAX - 31)], 64), "gguf.outside", "do not lie in the file"),
        (file(&[], &[tensor("t", &[8], 0, 0), tensor("t", &[8], 0, 32)], 64), "gguf.tensor-duplicate", "twice"),
        (file(&[], &[tensor(&long, &[1], 0, 0)], 64), "gguf.tensor-name", "64 bytes long"),
        (file(&[], &[tensor("a\0b", &[1], 0, 0)], 64), "gguf.tensor-name", "NUL"),
    ] {
        let e = read(&bytes).expect_err(why);
        assert_eq!(e.kind(), ErrorKind::Refused, "{why}");
        assert!(e.to_string().contains(why), "{e} should say {why:?}");
        assert_found(why, &bytes, rule, why);
    }
    // The shortest of each.
    for bytes in [[header(3, 1, 0), vec![0; 24]].concat(), [header(3, 0, 1), pair("k", 0, &[1])].concat()] {
        assert!(!findings_of(&bytes).has("gguf.count"));
    }
    // A 0 further on does not undo the overflow before it.
    assert!(read(&one(&[1 << 62, 2, 0], 24)).expect_err("overflow").to_string().contains("elements of I8"));
    let many = file(&[pair("k", 9, &list(9, 65_537))], &[], 1 << 20);
    assert!(read(&many).expect_err("many").to_string().contains("arrays; at most 65536"));
    assert!(findings_of(&many).has("gguf.count"));
    // Of all values together.
    let one = pair("j", 9, &[list(9, 1), list(0, 0)].concat());
    let together = file(&[one, pair("k", 9, &list(9, 65_536))], &[], 1 << 20);
    assert!(read(&together).expect_err("many").to_string().contains("65536 arrays; at most 65535"));
    let too_deep = file(&[pair("k", 9, &deep)], &[], 64);
    assert!(read(&too_deep).expect_err("deep").to_string().contains("nest"));
    assert!(findings_of(&too_deep).has("gguf.count"));
}

#[test]
fn a_file_that_ends_early_is_cut_short_and_one_that_fails_is_not_at_fault() {
    struct Failing;
    impl std::io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::PermissionDenied.into())
        }
    }
    let e = GgufHeader::read(b"GGUF\x03\0".as_slice(), 100).expect_err("short");
    assert!(e.kind() == ErrorKind::Refused && e.to_string().contains("ends inside the version"), "{e}");
    let e = GgufHeader::read(Failing, 100).expect_err("unreadable");
    assert!(e.kind() != ErrorKind::Refused && e.to_string().contains("reading a GGUF header"), "{e}");
}

#[test]
fn of_many_defects_of_one_rule_a_few_are_noted() {
    let keys: Vec<_> = (0..50).map(|i| boolean(&format!("K{i}"), true)).collect();
    let findings = findings_of(&file(&keys, &[], 0));
    let kept = findings.list().iter().filter(|f| f.rule == "gguf.key-grammar").count();
    assert_eq!(kept as u64 + findings.dropped(), 32, "{findings:?}");
}

/// Of these the header can be read: a policy may allow them.
#[test]
fn what_a_policy_may_allow_stays_readable() {
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &5u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
    let named = |name: &[u8]| file(&[], &[tensor(name, &[8], 0, 0)], 32);
    for (bytes, rule, why) in [
        (file(&[pair("k", 9, &nested)], &[], 0), "gguf.nested-array", "array of arrays"),
        (file(&[pair("a\nb", 0, &[1])], &[], 0), "gguf.key-control", "a\\nb"),
        (file(&[pair("a\u{202e}b", 0, &[1])], &[], 0), "gguf.key-control", "control characters"),
        (named(b"\xff\xfe.weight"), "gguf.name-utf8", "\\xff\\xfe.weight"),
        (named(b"a\x1b[2J"), "gguf.name-control", "control characters"),
        (named("a\u{200b}".as_bytes()), "gguf.name-control", "control characters"),
        (named(b""), "gguf.name-empty", "empty name"),
        (file(&[], &[tensor("t", &[1, 0], 0, 0), tensor("u", &[8], 0, 0)], 32), "gguf.no-elements", "dimension of 0"),
    ] {
        read(&bytes).expect(why);
        assert_found(why, &bytes, rule, why);
    }
    for (bytes, rule) in [
        (file(&[pair("A key", 0, &[1])], &[], 0), "gguf.key-grammar"),
        (file(&[pair("a..b", 0, &[1])], &[], 0), "gguf.key-grammar"),
        (file(&[], &[tensor("t", &[], 0, 0)], 4), "gguf.scalar"),
    ] {
        read(&bytes).expect(rule);
        assert!(findings_of(&bytes).has(rule), "{rule}");
        assert_clean(rule, &bytes, Severity::High);
    }
}

#[test]
fn names_that_are_shown_alike_are_one_name() {
    let two = |a: &[u8], b: &[u8]| findings_of(&file(&[], &[tensor(a, &[8], 0, 0), tensor(b, &[8], 0, 32)], 64));
    for (a, b, alike) in [
        (b"\xff".as_slice(), b"\xfe".as_slice(), true),
        (b"\xff", "\u{fffd}".as_bytes(), true),
        ("\u{fffd}".as_bytes(), b"\xff", true),
        (b"\xff", b"\xff", true),
        (b"a\xff", b"b\xff", false),
    ] {
        assert_eq!(two(a, b).has("gguf.tensor-duplicate"), alike, "{a:?} {b:?}");
    }
    assert!(two(b"\xff", b"\xff").list().iter().any(|f| f.message.contains("twice")));
    assert!(two(b"\xff", b"\xfe").list().iter().any(|f| f.message.contains("told apart")));
    for (a, b) in [("\u{fffd}".as_bytes(), b"\xff".as_slice()), (b"\xff", "\u{fffd}".as_bytes())] {
        assert!(two(a, b).list().iter().any(|f| f.message.contains("told apart")), "{a:?} {b:?}");
    }
}

#[test]
fn what_is_just_within_the_limits_is_sound() {
    let name = "n".repeat(63);
    let key = "k".repeat(65_535);
    let alignment = u32("general.alignment", 1 << 20);
    let deep: Vec<u8> = (0..3).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()).collect();
    let deep = [deep, 5u32.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec()].concat();
    read(&file(&[pair("k", 9, &deep)], &[], 0)).expect("four deep");
    assert_clean("name", &file(&[], &[tensor(&name, &[8], 0, 0)], 32), Severity::Info.max(Severity::High));
    assert_clean("key", &file(&[pair(&key, 0, &[1])], &[], 0), Severity::High);
    let mut wide = header(3, 0, 1);
    wide.extend(&alignment);
    assert_clean("alignment", &wide, Severity::High);
    for version in [2, 3] {
        assert_clean("version", &header(version, 0, 0), Severity::High);
    }
    let four = file(&[], &[tensor("t", &[2, 2, 2, 1], 0, 0)], 32);
    assert_clean("four dimensions", &four, Severity::High);
    // The largest size that ggml can count is outside any file, but no overflow.
    let largest = file(&[], &[tensor("t", &[(1 << 61) - 1], 0, 0)], 32);
    assert_eq!(found(&findings_of(&largest), Severity::High), ["gguf.outside"]);
}

#[test]
fn alignment_moves_the_data_and_the_last_byte_still_fits() {
    let aligned = u32("general.alignment", 64);
    let mut bytes = file(&[aligned], &[tensor("t", &[4], 0, 64)], 0);
    bytes.resize(bytes.len().next_multiple_of(64) + 64 + 16, 0);
    let header = read(&bytes).expect("just fits");
    assert_eq!((header.alignment, header.data_offset % 64), (64, 0));
    bytes.pop();
    assert!(read(&bytes).is_err(), "one byte short");
}

/// tests/data of the repository.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn gguf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    files
}

fn inspect_file(file: &Path) -> (Description, Findings) {
    let bytes = std::fs::read(file).expect("readable");
    let input = Counted::new(&bytes);
    let mut findings = Findings::new();
    let name = file.file_name().expect("a name").to_str().expect("text");
    let description = inspect(&name.parse().expect("a path"), &input, &mut findings).expect("no failure");
    assert!(input.read.get() <= 2 * input.size(), "{name}: {} bytes read", input.read.get());
    (description, findings)
}

#[test]
fn every_hostile_file_gets_its_verdict() {
    let index = std::fs::read(data("hostile/INDEX.json")).expect("the index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let mut seen = 0;
    for case in index.as_array().expect("a list") {
        let name = case["file"].as_str().expect("a name");
        if !name.starts_with('g') {
            continue;
        }
        seen += 1;
        let (description, mut findings) = inspect_file(&data("hostile").join(name));
        let path = name.parse().expect("a path");
        if let Facts::Gguf(header) = &description.facts {
            check_split(&[(&path, header)], &mut findings);
            if name.contains("_tpl_") {
                // The templates' own rules judge these (`template`).
                let named = templates(header);
                assert!(
                    named.iter().any(|(_, text)| text.windows(7).any(|w| w == b".__clas" || w == b".__init")),
                    "{name}"
                );
                continue;
            }
        }
        let worst = findings.list().iter().map(|f| f.severity).max();
        let verdict = match case["expected"].as_str().expect("a verdict") {
            "accept" => worst < Some(Severity::High),
            "policy" => worst == Some(Severity::High),
            _ => worst == Some(Severity::Critical),
        };
        assert!(verdict, "{name}: {} but {:#?}", case["why"], findings.list());
    }
    assert!(seen >= 26, "{seen}");
}

#[test]
fn real_files_have_no_finding_that_refuses() {
    let mut files = [gguf_files(&data("gguf")), gguf_files(&data("split")), vec![data("tiny-llama.gguf")]].concat();
    if let Some(folder) = std::env::var_os("SECUREREG_VOCABS") {
        let vocabularies = gguf_files(Path::new(&folder));
        assert!(vocabularies.len() >= 19, "{}", vocabularies.len());
        files.extend(vocabularies);
    }
    let mut headers = Vec::new();
    for file in &files {
        let (description, findings) = inspect_file(file);
        let shown = file.display();
        assert!(found(&findings, Severity::High).is_empty(), "{shown}: {:#?}", findings.list());
        println!("{shown}: {}", description.what);
        findings.list().iter().for_each(|f| println!("    {} {}", f.rule, f.message));
        let Facts::Gguf(header) = description.facts else { panic!("{shown} has no header") };
        let path: RelPath = file.file_name().expect("a name").to_str().expect("text").parse().expect("a path");
        headers.push((path, header));
    }
    let mut findings = Findings::new();
    let refs: Vec<_> = headers.iter().map(|(path, header)| (path, &**header)).collect();
    check_split(&refs, &mut findings);
    assert!(findings.list().is_empty(), "{:#?}", findings.list());
}

#[test]
fn a_file_is_described() {
    let (description, findings) = inspect_file(&data("tiny-llama.gguf"));
    assert!(findings.list().is_empty(), "{:?}", findings.list());
    assert_eq!(description.what, "GGUF version 3, llama, 2 layers, 21 tensors, Q8_0");
    assert_eq!(description.metadata["llama.block_count"], 2);
    assert_eq!(description.metadata["tokenizer.ggml.add_bos_token"], true);
    assert_eq!(description.metadata["llama.attention.layer_norm_rms_epsilon"], 1e-5);
    assert_eq!(description.metadata["tokenizer.ggml.tokens"], "array of 338 str");
    let last = description.tensors.last().expect("tensors");
    assert_eq!(
        (last.name.as_str(), last.dtype.as_str(), last.shape.as_slice()),
        ("output.weight", "Q8_0", [256, 338].as_slice())
    );
    assert_eq!(last.offset.map(|at| at + last.size_bytes), Some(1_451_776), "absolute");
    assert!(description.adapter.is_none());
    let (broken, _) = inspect_as("a.gguf", b"GGUF\x03\0\0\0");
    assert_eq!(broken.what, "GGUF version 3, not readable to its end");
    assert!(matches!(broken.facts, Facts::None));
    let (nothing, _) = inspect_as("a.gguf", b"<html>");
    assert_eq!(nothing.what, "not a readable GGUF file");
}

#[test]
fn rules_have_one_name_each() {
    let mut ids: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
    assert!(ids.iter().all(|id| id.starts_with("gguf.")));
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(RULES.iter().any(|r| std::ptr::eq(*r, describe::RULES[0])), "the last part is there");
}

/// Nothing is read twice, however much of it there is, and no work grows faster than the file.
#[test]
fn much_costs_little() {
    let tensors: Vec<_> = (0..1000).map(|i| tensor(format!("blk.{i}.attn_q.weight"), &[256, 4], 12, i * 576)).collect();
    let thousand = file(&[text("general.architecture", "llama")], &tensors, 576_000);
    let words: Vec<String> = (0..128_000).map(|i| format!("word {i}")).collect();
    let vocabulary = model(&[
        text("tokenizer.ggml.model", "gpt2"),
        strings("tokenizer.ggml.tokens", &words),
        i32s("tokenizer.ggml.token_type", &vec![1; 128_000]),
        strings("tokenizer.ggml.merges", &words),
    ]);
    let same = model(&[text("tokenizer.ggml.model", "gpt2"), strings("tokenizer.ggml.tokens", &vec!["a"; 1_000_000])]);
    let empty = model(&[text("tokenizer.ggml.model", "gpt2"), strings("tokenizer.ggml.tokens", &vec![""; 1_000_000])]);
    let raw =
        model(&[text("tokenizer.ggml.model", "gpt2"), strings("tokenizer.ggml.tokens", &vec![b"\xff\0"; 500_000])]);
    let ids =
        model(&[strings("tokenizer.ggml.tokens", &["a"]), u32s("tokenizer.ggml.eos_token_ids", &vec![7; 1_000_000])]);
    let keys: Vec<_> = (0..60_000).map(|i| boolean(&format!("K{i}"), true)).collect();
    let names: Vec<_> =
        (0..65_536u32).map(|i| tensor([&[0xff][..], &i.to_le_bytes().map(|b| b | 1)].concat(), &[0], 0, 0)).collect();
    for (what, bytes) in [
        ("1,000 tensors", thousand),
        ("128,000 tokens", vocabulary),
        ("one text a million times", same),
        ("a million empty texts", empty),
        ("raw texts", raw),
        ("a million ids", ids),
        ("60,000 odd keys", file(&keys, &[], 0)),
        ("65,536 odd tensors", file(&[], &names, 0)),
    ] {
        let input = Counted::new(&bytes);
        let mut findings = Findings::new();
        let path = "m.gguf".parse().expect("a path");
        no_hang(what, || inspect(&path, &input, &mut findings)).expect("no failure");
        assert!(input.read.get() <= 2 * input.size(), "{what}: {} bytes read", input.read.get());
        assert!(findings.list().len() < 100, "{what}");
    }
}

/// Each byte of a real header in turn, and several at once, by a generator that always gives the same.
#[test]
fn real_headers_with_flipped_bytes_do_not_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for file in gguf_files(&data("gguf")) {
        let sound = std::fs::read(&file).expect("readable");
        let header = read(&sound).expect("sound");
        let end = header.table_end as usize;
        for i in 0..600 {
            let mut bytes = sound.clone();
            for _ in 0..=next() % 4 {
                let at = if i % 4 == 0 { next() % bytes.len() } else { next() % end };
                bytes[at] = if i % 2 == 0 { next() as u8 } else { bytes[at] ^ 1 << (next() % 8) };
            }
            if i % 5 == 0 {
                bytes.truncate(next() % bytes.len());
            }
            let _ = (read(&bytes), findings_of(&bytes));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), flips in proptest::collection::vec(any::<(usize, u8)>(), 1..4)) {
        let tailed = [b"GGUF\x03\0\0\0".as_slice(), &tail].concat();
        let _ = read(&tailed);
        let _ = findings_of(&tailed);
        let mut sound = file(&[
            text("general.architecture", "llama"),
            text("general.type", "adapter"),
            text("tokenizer.ggml.model", "t5"),
            strings("tokenizer.ggml.tokens", &["x", "y", "<0x0A>"]),
            i32s("tokenizer.ggml.token_type", &[1, 1, 6]),
            f32s("tokenizer.ggml.scores", &[0.0; 3]),
            array("tokenizer.ggml.precompiled_charsmap", 0, 10, &[4, 0, 0, 0, 1, 0, 0, 0, 65, 0]),
            u32("llama.block_count", 1),
            u32s("llama.attention.head_count", &[4]),
            u16("split.no", 0),
            u16("split.count", 2),
        ], &[tensor("t.lora_a", &[32, 2], 2, 0), tensor("t.lora_b", &[2], 0, 64)], 96);
        for (at, bits) in flips {
            let at = at % sound.len();
            sound[at] ^= bits;
        }
        let _ = read(&sound);
        let _ = findings_of(&sound);
    }
}
