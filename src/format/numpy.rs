//! NumPy's `.npy`: one array.
//!
//! Owns: the header and the size. Promises: the header's dict is read by a grammar of its own, never evaluated; an array
//! without a finding holds plain numbers or text, and the file ends where it does. Leaves out: `.npz` (a zip).
//!
//! ```text
//! "\x93NUMPY"  major u8  minor u8  length u16 (1.0) or u32 (2.0, 3.0), little-endian  header  data
//! header = "{'descr': " type ", 'fortran_order': " ("True" | "False") ", 'shape': (" numbers "), }" spaces "\n"
//! type   = "'" ("<" | ">" | "=" | "|") kind digits "'"   or a list of fields; kind O is a pickle instead of an array
//! ```
//! Source: numpy/lib/format.py, NEP 1.

use super::Kind;
use super::description::{Description, Tensor};
use super::finding::{Findings, Halt, Parsed, Place, rules};
use super::input::{Input, read_range};
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;

rules! {
    HEADER "npy.header" Critical "the header is cut short or no dict of a type, an order and a shape: loaders evaluate it, or make different things of it"
    VERSION "npy.version" Critical "the format's version is none that exists: a loader would guess"
    OBJECT "npy.object" Critical "an array of Python objects is a pickle: loading it runs what it says"
    STRUCTURED "npy.structured" High "an array of records, whose fields are not looked at: how many bytes it has is not known"
    TYPE "npy.type" Critical "the element type is none that NumPy has: a loader would guess its size"
    SHAPE "npy.shape" Critical "the shape has too many dimensions or overflows: a loader would take too little memory"
    SIZE "npy.size" Critical "the file does not end where the array does: a loader would read past its end, or the rest could be anything"
}

/// The longest header that NumPy reads without being told to trust the file.
const MAX_HEADER: u64 = 10_000;
/// Dimensions of an array: NumPy's own limit.
const MAX_RANK: usize = 64;

/// Looks at an array.
///
/// # Errors
/// Only what is no defect of the file: it cannot be read.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut description = Description::new(Kind::Companion, "NumPy array");
    if let Err(halt) = array(path, input, findings, &mut description) {
        findings.halt(path, halt)?;
    }
    Ok(description)
}

fn array(path: &RelPath, input: &dyn Input, findings: &mut Findings, description: &mut Description) -> Parsed<()> {
    let size = input.size();
    let bad = |at, why: String| Err(Halt::found(&HEADER, Place::at(at), why));
    let head = read_range(input, 0, size.min(12), 12)?;
    let (major, minor, start, length) = match *head.as_slice() {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, minor, a, b, ..] => {
            (1, minor, 10, u64::from(u16::from_le_bytes([a, b])))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', major @ (2 | 3), minor, a, b, c, d] => {
            (major, minor, 12, u64::from(u32::from_le_bytes([a, b, c, d])))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', major, minor, ..] if major == 0 || major > 3 => {
            let why = format!("it claims version {major}.{minor} of the format; 1.0, 2.0 and 3.0 are known");
            return Err(Halt::found(&VERSION, Place::at(6), why));
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => {
            return bad(6, "its header is cut short: a loader would read past its end".into());
        }
        _ => return bad(0, "it does not begin as a NumPy array does".into()),
    };
    if minor != 0 {
        let why = format!("it claims version {major}.{minor} of the format; 1.0, 2.0 and 3.0 are known");
        return Err(Halt::found(&VERSION, Place::at(7), why));
    }
    if length > MAX_HEADER {
        return bad(
            8,
            format!(
                "its header claims {length} bytes, and NumPy itself reads no more than {MAX_HEADER} of a file that it does not trust"
            ),
        );
    }
    if length > size - start {
        return bad(8, format!("its header claims {length} bytes and the file has {} more", size - start));
    }
    let header = read_range(input, start, length, MAX_HEADER)?;
    let data = start + length;
    let Some(header) = std::str::from_utf8(&header).ok().filter(|h| h.is_ascii()) else {
        return bad(start, "its header is not ASCII: loaders would read different types or names in it".into());
    };
    let Some(Header { descr, shape }) = parse(header) else {
        let why = format!(
            "its header {:?} is not the dict that NumPy writes: loaders evaluate it or make different things of it",
            shorten(header)
        );
        return bad(start, why);
    };
    description.what = format!("NumPy array of {}", shorten(descr));
    if descr.starts_with('[') || descr.starts_with('(') {
        let object = strings(descr).any(|s| item_size(s) == Some(Item::Object));
        let shown = shorten(descr);
        match object {
            true => findings.add(path, &OBJECT, Place::at(start), object_message(&shown)),
            false => findings.add(
                path,
                &STRUCTURED,
                Place::at(start),
                format!(
                    "an array of records ({shown:?}), whose fields are not looked at: save its columns as plain arrays"
                ),
            ),
        }
        return Ok(());
    }
    let descr = descr.trim_matches(['\'', '"']);
    let item = match item_size(descr) {
        Some(Item::Object) => return Err(Halt::found(&OBJECT, Place::at(start), object_message(descr))),
        Some(Item::Bytes(n)) => n,
        None => {
            let why =
                format!("the element type {:?} is none that NumPy has: a loader would guess its size", shorten(descr));
            return Err(Halt::found(&TYPE, Place::at(start), why));
        }
    };
    let Some(shape) = shape else {
        let why =
            "the shape has a dimension over 63 bits or more than 64 of them: a loader would take too little memory";
        return Err(Halt::found(&SHAPE, Place::at(start), why));
    };
    // As numpy.lib.format counts: in 63 bits, whichever dimension is zero.
    let bytes = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d).filter(|n| i64::try_from(*n).is_ok()));
    let bytes = bytes.and_then(|n| n.checked_mul(item)).filter(|n| i64::try_from(*n).is_ok());
    let Some(bytes) = bytes else {
        let why = format!(
            "the shape {shape:?} of {item} bytes each overflows 63 bits: a loader would take too little memory and write past it"
        );
        return Err(Halt::found(&SHAPE, Place::at(start), why));
    };
    if bytes != size - data {
        let why = format!(
            "the array takes {bytes} bytes and the file has {} for it: a loader would read past its end, or the rest could be anything",
            size - data
        );
        findings.add(path, &SIZE, Place::at(data), why);
    }
    let dtype = descr.to_owned();
    description.tensors.push(Tensor { name: "array".into(), dtype, shape, offset: Some(data), size_bytes: bytes });
    Ok(())
}

fn object_message(descr: &str) -> String {
    format!(
        "an array of Python objects ({descr:?}) is a pickle, and loading it runs what it says: save plain numbers, or refuse it"
    )
}

/// What an element takes.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Bytes(u64),
    Object,
}

/// The size of an element type by its name.
fn item_size(descr: &str) -> Option<Item> {
    let descr = descr.strip_prefix(['<', '>', '=', '|']).unwrap_or(descr);
    let kind = descr.chars().next()?;
    let rest = descr.get(kind.len_utf8()..)?;
    let known = |sizes: &[u64]| decimal(rest).filter(|n| sizes.contains(n)).map(Item::Bytes);
    match kind {
        'O' => Some(Item::Object),
        '?' if rest.is_empty() => Some(Item::Bytes(1)),
        'b' => known(&[1]),
        'i' | 'u' => known(&[1, 2, 4, 8]),
        'f' => known(&[2, 4, 8, 12, 16]),
        'c' => known(&[8, 16, 24, 32]),
        'S' | 'a' | 'V' => decimal(rest).map(Item::Bytes),
        'U' => decimal(rest)?.checked_mul(4).map(Item::Bytes),
        'm' | 'M' => {
            let unit = rest.strip_prefix('8')?;
            let unit = unit.is_empty() || (unit.starts_with('[') && unit.ends_with(']') && unit.len() < 16);
            unit.then_some(Item::Bytes(8))
        }
        _ => None,
    }
}

/// A number of at most 31 bits, in digits.
fn decimal(text: &str) -> Option<u64> {
    let digits = (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n <= i32::MAX as u64)
}

struct Header<'a> {
    /// The type, as it is written.
    descr: &'a str,
    /// None when it is longer or larger than any array's.
    shape: Option<Vec<u64>>,
}

/// The dict: three keys, each once, in any order, and nothing else.
fn parse(header: &str) -> Option<Header<'_>> {
    let mut rest = header.strip_suffix('\n')?.trim_end_matches(' ').strip_prefix('{')?;
    let (mut descr, mut order, mut shape) = (None, None, None);
    loop {
        rest = rest.trim_start_matches(' ');
        if rest == "}" {
            break;
        }
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (key, after) = rest.get(1..)?.split_once(quote)?;
        rest = after.trim_start_matches(' ').strip_prefix(':')?.trim_start_matches(' ');
        match key {
            "descr" if descr.is_none() => {
                let (value, after) = type_text(rest)?;
                (descr, rest) = (Some(value), after);
            }
            "fortran_order" if order.is_none() => {
                let after = rest.strip_prefix("True").or_else(|| rest.strip_prefix("False"))?;
                (order, rest) = (Some(()), after);
            }
            "shape" if shape.is_none() => {
                let (value, after) = rest.strip_prefix('(')?.split_once(')')?;
                (shape, rest) = (Some(numbers(value)?), after);
            }
            _ => return None,
        }
        rest = rest.trim_start_matches(' ');
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest == "}" => break,
            None => return None,
        }
    }
    order?;
    Some(Header { descr: descr?, shape: shape? })
}

/// A text, or a list or tuple with all that is in it; what comes after.
fn type_text(text: &str) -> Option<(&str, &str)> {
    let (mut open, mut quote) = (0u32, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            // Nothing that NumPy has needs an escape, which could hide the quote's end.
            (_, '\\') => return None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[' | '(') => open += 1,
            (None, ']' | ')') => open = open.checked_sub(1)?,
            (None, ',' | ' ' | '0'..='9') if open > 0 => {}
            _ => return None,
        }
        if quote.is_none() && open == 0 {
            return Some(text.split_at(i + 1));
        }
    }
    None
}

/// The texts in a list of fields.
fn strings(list: &str) -> impl Iterator<Item = &str> {
    // Without escapes, each text ends at the quote that it began with.
    let mut rest = list;
    std::iter::from_fn(move || {
        let start = rest.find(['\'', '"'])?;
        let quote = rest.get(start..)?.chars().next()?;
        let (text, after) = rest.get(start + 1..)?.split_once(quote)?;
        rest = after;
        Some(text)
    })
}

/// A tuple of numbers, as Python writes it. None when it is none; none inside when it is beyond any array.
fn numbers(text: &str) -> Option<Option<Vec<u64>>> {
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return Some(Some(Vec::new()));
    }
    // `(3)` is a number, not a tuple.
    let list = text.strip_suffix(',').unwrap_or(text);
    if !text.contains(',') {
        return None;
    }
    let mut shape = Vec::new();
    let mut beyond = false;
    for item in list.split(',') {
        let digits = item.trim_matches(' ').trim_end_matches('L');
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        match digits.parse::<u64>().ok().filter(|n| i64::try_from(*n).is_ok()) {
            Some(n) if shape.len() < MAX_RANK => shape.push(n),
            _ => beyond = true,
        }
    }
    Some((!beyond).then_some(shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: usize) -> Vec<u8> {
        let length = header.len();
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
        match version {
            1 => bytes.extend((length as u16).to_le_bytes()),
            _ => bytes.extend((length as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn look(bytes: &[u8]) -> (Description, Findings) {
        let mut findings = Findings::new();
        let d = inspect(&"a.npy".parse().expect("a path"), &bytes, &mut findings).expect("reads");
        (d, findings)
    }

    fn dict(descr: &str, shape: &str) -> String {
        format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}   \n")
    }

    #[test]
    fn arrays_as_numpy_writes_them_are_sound() {
        for (descr, shape, bytes, dims) in [
            ("'<f4'", "(3, 4)", 48, vec![3, 4]),
            ("'|b1'", "()", 1, vec![]),
            ("'|u1'", "(0,)", 0, vec![0]),
            ("'>i8'", "(2,)", 16, vec![2]),
            ("'<f2'", "(1, 1, 5)", 10, vec![1, 1, 5]),
            ("'<c16'", "(1,)", 16, vec![1]),
            ("'<U3'", "(2,)", 24, vec![2]),
            ("'|S5'", "(2L,)", 10, vec![2]),
            ("'|V2'", "(2,)", 4, vec![2]),
            ("'<M8[ns]'", "(2,)", 16, vec![2]),
            ("'<m8'", "(1,)", 8, vec![1]),
            ("'<M8[aaaaaaaaaaaaa]'", "(1,)", 8, vec![1]),
            ("'?'", "(2,)", 2, vec![2]),
        ] {
            for version in 1..=3 {
                let (d, findings) = look(&file(version, &dict(descr, shape), bytes));
                assert_eq!(findings.list(), [], "{descr} {shape}");
                assert_eq!((d.tensors[0].size_bytes, &d.tensors[0].shape), (bytes as u64, &dims));
                let end = d.tensors[0].offset.expect("an offset") + d.tensors[0].size_bytes;
                assert_eq!(end, file(version, &dict(descr, shape), bytes).len() as u64);
                assert_eq!(d.kind, Kind::Companion);
            }
        }
        let other = "{\"shape\": (1,), \"fortran_order\": True, \"descr\": \"<f4\"}\n";
        assert_eq!(look(&file(1, other, 4)).1.list(), [], "any order, either quote, no last comma");
    }

    #[test]
    fn each_defect_is_named() {
        let good = dict("'<f4'", "(3,)");
        let long = |n: usize| format!("{}{}\n", good.trim_end(), " ".repeat(n - good.trim_end().len() - 1));
        assert_eq!(look(&file(1, &long(10_000), 12)).1.list(), [], "the longest header");
        let table: Vec<(Vec<u8>, &str, &str)> = vec![
            (b"".to_vec(), "npy.header", "does not begin"),
            (b"\x93NUMPX\x01\0\0\0".to_vec(), "npy.header", "does not begin"),
            (b"\x93NUMPY\x01\0\0".to_vec(), "npy.header", "cut short"),
            (b"\x93NUMPY\x02\0\0\0\0".to_vec(), "npy.header", "cut short"),
            (b"\x93NUMPY\x03\0\0\0\0".to_vec(), "npy.header", "cut short"),
            (b"\x93NUMPY\0\0\0\0\0\0".to_vec(), "npy.version", "version 0.0"),
            (b"\x93NUMPY\x04\0\0\0\0\0".to_vec(), "npy.version", "version 4.0"),
            (b"\x93NUMPY\x01\x01\0\0\0\0".to_vec(), "npy.version", "version 1.1"),
            (file(1, &long(10_001), 12), "npy.header", "10001"),
            (file(2, &long(10_001), 12), "npy.header", "10001"),
            (b"\x93NUMPY\x01\0\x03\0{}".to_vec(), "npy.header", "3 bytes and the file has 2"),
            (file(1, "{'descr': '\u{e9}', 'fortran_order': False, 'shape': (1,)}\n", 4), "npy.header", "not ASCII"),
            (file(1, &dict("'|O'", "(1,)"), 8), "npy.object", "\"|O\""),
            (file(1, &dict("'O'", "(1,)"), 8), "npy.object", "pickle"),
            (file(1, &dict("'|O8'", "(1,)"), 8), "npy.object", "pickle"),
            (file(1, &dict("[('a', '<f4'), ('b', '|O')]", "(1,)"), 12), "npy.object", "pickle"),
            (file(1, &dict("[('a', [('c', \"O\")])]", "(1,)"), 12), "npy.object", "pickle"),
            (file(1, &dict("[('a', '|O8')]", "(1,)"), 12), "npy.object", "pickle"),
            (file(1, &dict("[('a', '<f4'), ('b', '<i2', (2,))]", "(1,)"), 8), "npy.structured", "<i2"),
            (file(1, &dict("'<f3'", "(1,)"), 3), "npy.type", "<f3"),
            (file(1, &dict("'<i16'", "(1,)"), 16), "npy.type", "<i16"),
            (file(1, &dict("'<q4'", "(1,)"), 4), "npy.type", "<q4"),
            (file(1, &dict("''", "(1,)"), 4), "npy.type", "\"\""),
            (file(1, &dict("'<M4'", "(1,)"), 4), "npy.type", "M4"),
            (file(1, &dict("'<M8[ns'", "(1,)"), 8), "npy.type", "M8"),
            (file(1, &dict("'<M8ns]'", "(1,)"), 8), "npy.type", "M8"),
            (file(1, &dict("'<M8[aaaaaaaaaaaaaa]'", "(1,)"), 8), "npy.type", "M8"),
            (file(1, &dict("'?x'", "(1,)"), 1), "npy.type", "?x"),
            (file(1, &dict("'|S99999999999'", "(1,)"), 4), "npy.type", "S9"),
            (file(1, &dict("'|S2147483648'", "(0,)"), 0), "npy.type", "S2"),
            (file(1, &dict("'|S00000000004'", "(1,)"), 4), "npy.type", "S0"),
            (file(1, &dict("'|S+4'", "(1,)"), 4), "npy.type", "S+4"),
            (file(1, &dict("'<f4'", "(3,)"), 11), "npy.size", "12 bytes and the file has 11"),
            (file(1, &dict("'<f4'", "(3,)"), 13), "npy.size", "12 bytes and the file has 13"),
            (file(1, &dict("'<f4'", "(2305843009213693952,)"), 0), "npy.shape", "overflows"),
            (file(1, &dict("'<f4'", "(4294967296, 4294967296)"), 0), "npy.shape", "overflows"),
            (file(1, &dict("'<f4'", "(9223372036854775808,)"), 0), "npy.shape", "63 bits"),
            (file(1, &dict("'<f4'", &format!("({})", "1,".repeat(65))), 4), "npy.shape", "64"),
        ];
        for (bytes, rule, word) in table {
            let (_, findings) = look(&bytes);
            let [one] = findings.list() else { panic!("{rule} {word}: {findings:?}") };
            assert!(one.rule == rule && one.message.contains(word), "{rule} {word}: {one:?}");
        }
        assert_eq!(look(&file(1, &dict("'|u1'", &format!("({})", "1,".repeat(64))), 1)).1.list(), [], "64 dimensions");
        let (d, findings) = look(&file(1, &dict("'|u1'", "(9223372036854775807,)"), 0));
        assert!(findings.has("npy.size") && d.tensors[0].size_bytes == i64::MAX as u64, "the most that 63 bits hold");
    }

    #[test]
    fn the_header_is_a_dict_of_three_and_nothing_that_is_evaluated() {
        for header in [
            "",
            "\n",
            "{}\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': False, }\n",
            "{'descr': '<f4', 'shape': (1,), }\n",
            "{'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1, }\n",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': [1,], }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (0x1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os'),), }\n",
            "{'descr': '<f\\x34', 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': f('<f4'), 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': ['<f4', 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '<f4' 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } or 1\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,) or 1}\n",
            "{'descr': 3, 'fortran_order': False, 'shape': (1,), }\n",
            "dict(descr='<f4', fortran_order=False, shape=(1,))\n",
            "{descr: '<f4', 'fortran_order': False, 'shape': (1,), }\n",
        ] {
            let (_, findings) = look(&file(1, header, 4));
            let [one] = findings.list() else { panic!("{header:?}: {findings:?}") };
            assert_eq!(one.rule, "npy.header", "{header:?}");
        }
    }

    #[test]
    fn mutations_neither_panic_nor_grow() {
        let sound = file(1, &dict("'<f4'", "(3,)"), 12);
        for at in 0..sound.len() {
            for byte in [0, 1, 9, b'\'', b'(', b'O', b'9', 0x7f, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = byte;
                look(&bytes);
            }
            look(&sound[..at]);
        }
    }
}
