//! Tests of the GGUF header's parser.
//!
//! Owns: headers that are sound, and one that breaks each rule. Promises: nothing. Leaves out: real models (tests/library.rs).

use super::*;
use proptest::prelude::*;

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, ne: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let ne_bytes: Vec<u8> = ne.iter().flat_map(|n| n.to_le_bytes()).collect();
    [&string(name)[..], &(ne.len() as u32).to_le_bytes(), &ne_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()]
        .concat()
}

fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut out = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    out.extend(pairs.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn read(bytes: &[u8]) -> Result<GgufHeader> {
    GgufHeader::read(bytes, bytes.len() as u64)
}

#[test]
fn every_type_of_value_is_read() {
    let strings = [&8u32.to_le_bytes()[..], &3u64.to_le_bytes(), &string("a"), &string(""), &string("ccc")].concat();
    let numbers = [&5u32.to_le_bytes()[..], &2u64.to_le_bytes(), &(-1i32).to_le_bytes(), &7i32.to_le_bytes()].concat();
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &numbers].concat();
    let pairs = [
        pair("u8", 0, &[255]),
        pair("i8", 1, &[255]),
        pair("u16", 2, &[1, 1]),
        pair("i16", 3, &[255, 255]),
        pair("u32", 4, &7u32.to_le_bytes()),
        pair("i32", 5, &(-7i32).to_le_bytes()),
        pair("f32", 6, &1.5f32.to_le_bytes()),
        pair("bool", 7, &[1]),
        pair("string", 8, &string("llama")),
        pair("strings", 9, &strings),
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
fn a_header_that_breaks_the_format_is_refused_with_what_is_wrong() {
    let array = |of: u32, count: u64| [&of.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let deep = (0..5).flat_map(|_| array(9, 1)).collect::<Vec<u8>>();
    let long = "n".repeat(64);
    for (bytes, why) in [
        (b"GGML".to_vec(), "begin"),
        (b"GG".to_vec(), "magic"),
        ([b"GGUF".as_slice(), &9u32.to_le_bytes()].concat(), "version 9"),
        (
            [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &u64::MAX.to_le_bytes()].concat(),
            "keys; at most 65536",
        ),
        ([b"GGUF".as_slice(), &3u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &0u64.to_le_bytes()].concat(), "tensors"),
        (file(&[pair("k", 0, &[1]), pair("k", 0, &[1])], &[], 0), "twice"),
        ([b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &9u64.to_le_bytes()].concat(), "keys, more"),
        (file(&[pair("k", 9, &array(9, 1 << 20))], &[], 64 << 20), "arrays; at most 65536"),
        (file(&[pair("", 0, &[1])], &[], 64), "0 bytes long"),
        (file(&[pair("k\0", 0, &[1])], &[], 0), "not text"),
        (file(&[pair("k", 13, &[1])], &[], 0), "type 13"),
        (file(&[pair("k", 7, &[2])], &[], 0), "boolean"),
        (file(&[pair("k", 8, &u64::MAX.to_le_bytes())], &[], 0), "does not fit"),
        (file(&[pair("k", 9, &array(0, u64::MAX))], &[], 0), "array values"),
        (file(&[pair("k", 9, &array(10, 1 << 61))], &[], 0), "array values"),
        (file(&[pair("k", 9, &array(8, 1 << 40))], &[], 0), "strings"),
        (file(&[pair("k", 9, &[&array(7, 1)[..], &[3]].concat())], &[], 0), "booleans"),
        (file(&[pair("k", 9, &deep)], &[], 64), "nest"),
        (file(&[pair("general.alignment", 4, &3u32.to_le_bytes())], &[], 0), "power of two"),
        (file(&[pair("general.alignment", 4, &0u32.to_le_bytes())], &[], 0), "power of two"),
        (file(&[pair("general.alignment", 8, &string("32"))], &[], 0), "power of two"),
        (file(&[], &[tensor("t", &[], 0, 0)], 0), "0 dimensions"),
        (file(&[], &[tensor("t", &[1, 1, 1, 1, 1], 0, 0)], 64), "5 dimensions"),
        (file(&[], &[tensor("t", &[1, 0], 0, 0)], 64), "dimension of 0"),
        (file(&[], &[tensor("t", &[32], 4, 0)], 64), "type 4"),
        (file(&[], &[tensor("t", &[31], 2, 0)], 64), "elements of Q4_0"),
        (file(&[], &[tensor("t", &[1 << 62, 1 << 62], 0, 0)], 64), "elements of F32"),
        (file(&[], &[tensor("t", &[1], 0, 1)], 64), "multiple of 32"),
        (file(&[], &[tensor("t", &[17], 0, 0)], 64), "do not lie in the file"),
        (file(&[], &[tensor("t", &[1], 0, u64::MAX - 31)], 64), "do not lie in the file"),
        (file(&[], &[tensor("t", &[1], 0, 0), tensor("t", &[1], 0, 0)], 64), "twice"),
        (file(&[], &[tensor(&long, &[1], 0, 0)], 64), "64 bytes long"),
    ] {
        let e = read(&bytes).expect_err(why);
        assert_eq!(e.kind(), ErrorKind::Refused, "{why}");
        assert!(e.to_string().contains(why), "{e} should say {why:?}");
    }
}

#[test]
fn alignment_moves_the_data_and_the_last_byte_still_fits() {
    let aligned = pair("general.alignment", 4, &64u32.to_le_bytes());
    let mut bytes = file(&[aligned], &[tensor("t", &[4], 0, 64)], 0);
    bytes.resize(bytes.len().next_multiple_of(64) + 64 + 16, 0);
    let header = read(&bytes).expect("just fits");
    assert_eq!((header.alignment, header.data_offset % 64), (64, 0));
    bytes.pop();
    assert!(read(&bytes).is_err(), "one byte short");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>()) {
        let _ = read(&[b"GGUF\x03\0\0\0".as_slice(), &tail].concat());
        let mut sound = file(&[pair("a", 9, &[&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &string("x")].concat())],
            &[tensor("t", &[32, 2], 2, 0)], 64);
        let at = flip.0 % sound.len();
        sound[at] ^= flip.1;
        let _ = read(&sound);
    }
}
