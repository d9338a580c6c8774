//! The header of a GGUF file, from its bytes.
//!
//! Owns: the parser and its rules. Promises: one pass, from front to back; a count or a length is held against the bytes that can
//! still follow before anything is made of it; what breaks the format stops it, what is merely wrong with a name is noted and it
//! goes on, so that one look names more than one defect. Leaves out: what the values mean, and where the data lie (`layout`).

use super::{Array, DEFAULT_ALIGNMENT, GgmlType, GgufHeader, MAX_HEADER, Strings, TensorInfo, Value, ValueType};
use crate::digest::shorten;
use crate::error::{Error, ErrorKind};
use crate::format::finding::{Halt, Parsed, Place, Rule, rules};
use std::collections::{HashMap, HashSet};
use std::io::Read;

/// Keys are at most this long (docs/gguf.md: 2^16-1 bytes).
const MAX_KEY: u64 = 65_535;
/// Tensor names are at most this long: `GGML_MAX_NAME` is 64, with its NUL.
const MAX_TENSOR_NAME: u64 = 63;
/// `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays nest no deeper; ggml itself refuses nested ones.
const MAX_NESTING: u32 = 4;
/// The largest `general.alignment`; the largest in use is 16 KiB, a page of some machines.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Far more than any model has: what each takes in memory beside its bytes is bounded by these.
const MAX_PAIRS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_ARRAYS: u64 = 1 << 16;
/// The largest vocabularies of today have 262,144 tokens and twice as many merges.
const MAX_STRINGS: u64 = 1 << 21;
/// Defects of one rule that are noted.
const MAX_NOTES: u32 = 32;
/// Memory is taken in pieces of at most this, so that a length alone costs nothing.
const PIECE: u64 = 1 << 20;

rules! {
    MAGIC "gguf.magic" Critical "the file does not begin with GGUF: it is something else under its name"
    VERSION "gguf.version" Critical "the version is not 2 or 3, or its bytes are in the other order: fields would be misread"
    TRUNCATED "gguf.truncated" Critical "the header ends inside a value: a loader would read past its end"
    COUNT "gguf.count" Critical "a count or length is more than the file can hold or than is allowed: a loader would allocate or read without bound"
    KEY "gguf.key" Critical "a key is empty, too long, not UTF-8 or holds a NUL: loaders disagree on what it names"
    KEY_CONTROL "gguf.key-control" High "a key holds control characters: what is shown of it is not what it is"
    KEY_GRAMMAR "gguf.key-grammar" Warning "a key is not words of a-z, 0-9 and _ with dots between, as GGUF's documentation wants it"
    KEY_DUPLICATE "gguf.key-duplicate" Critical "a key stands twice: loaders disagree on which value counts"
    VALUE_TYPE "gguf.value-type" Critical "a value is of a type that GGUF does not have"
    BOOLEAN "gguf.boolean" Critical "a boolean is neither 0 nor 1"
    NESTED "gguf.nested-array" High "an array of arrays, which ggml does not load"
    ALIGNMENT "gguf.alignment" Critical "general.alignment is not a power of two as uint32: where the data begin cannot be told"
    TENSOR_NAME "gguf.tensor-name" Critical "a tensor's name is longer than 63 bytes or holds a NUL: it would be cut, and could then be another's"
    NAME_EMPTY "gguf.name-empty" High "a tensor has no name, so no check can be about it"
    NAME_CONTROL "gguf.name-control" High "a tensor's name holds control characters: what is shown of it is not what it is"
    NAME_UTF8 "gguf.name-utf8" High "a tensor's name is not UTF-8: tools that replace its bytes take it for another"
    TENSOR_DUPLICATE "gguf.tensor-duplicate" Critical "two tensors have one name, or cannot be told apart when it is shown: one may be checked and the other loaded"
    DIMENSIONS "gguf.dimensions" Critical "a tensor has more than four dimensions, or a negative one: a loader would write past its four"
    SCALAR "gguf.scalar" Info "a tensor without dimensions, which ggml takes for one element"
    NO_ELEMENTS "gguf.no-elements" High "a tensor has a dimension of 0: it has no data, and engines divide by dimensions"
    TENSOR_TYPE "gguf.tensor-type" Critical "a tensor is of a type that ggml does not have, or has no more: its block size is 0"
    BLOCKS "gguf.blocks" Critical "a tensor's rows are not whole blocks of its type: the last would be read past its end"
    SIZE "gguf.size" Critical "a tensor's elements or bytes do not fit 63 bits: the size wraps and less is allocated than used"
}

/// Reads the header of a file of `size` bytes into `header`, as far as it can be read; `note` gets what does not stop it.
pub(super) fn header(
    input: impl Read,
    size: u64,
    header: &mut GgufHeader,
    note: impl FnMut(&'static Rule, Place, String),
) -> Parsed<()> {
    Parser { input, note, at: 0, limit: size.min(MAX_HEADER), arrays: 0, strings: 0, noted: Vec::new() }.header(header)
}

struct Parser<R, F> {
    input: R,
    note: F,
    at: u64,
    limit: u64,
    /// Arrays inside arrays so far.
    arrays: u64,
    /// Strings in arrays so far.
    strings: u64,
    /// How often each rule was noted.
    noted: Vec<(&'static Rule, u32)>,
}

impl<R: Read, F: FnMut(&'static Rule, Place, String)> Parser<R, F> {
    fn header(mut self, header: &mut GgufHeader) -> Parsed<()> {
        if self.limit < 4 || self.array::<4>("the magic")? != *b"GGUF" {
            return Err(Halt::found(&MAGIC, Place::at(0), "it does not begin with \"GGUF\": it is no GGUF file"));
        }
        header.version = self.version()?;
        let tensor_count = self.u64("the tensor count")?;
        let pair_count = self.u64("the key count")?;
        // The shortest of each: a key of 1 byte and a value of 1; a name of 0 bytes and no dimension.
        self.check_count("keys", pair_count, 8 + 1 + 4 + 1, MAX_PAIRS)?;
        self.check_count("tensors", tensor_count, 8 + 4 + 4 + 8, MAX_TENSORS)?;
        let mut places = Vec::new();
        for _ in 0..pair_count {
            places.push(self.at);
            let key = self.key()?;
            let kind = self.value_type(&key)?;
            let value = self.value(kind, &key)?;
            header.pairs.push((key, value));
        }
        self.duplicate_keys(&header.pairs, &places);
        header.alignment = self.alignment(&header.pairs)?;
        // Whether the name was not UTF-8, by how it is shown.
        let mut names = HashMap::new();
        // Of those that were not, their bytes.
        let mut odd = HashSet::new();
        for _ in 0..tensor_count {
            let at = self.at;
            let (name, raw) = self.tensor_name()?;
            let lossy = raw.is_some();
            let other = names.insert(name.clone(), lossy);
            let same_bytes = raw.is_some_and(|raw| !odd.insert(raw));
            match other {
                None => {}
                Some(was_lossy) if same_bytes || !(lossy || was_lossy) => {
                    self.note(&TENSOR_DUPLICATE, &name, at, || {
                        format!(
                            "the tensor {:?} stands twice: one of them may be checked and the other loaded",
                            shorten(&name)
                        )
                    });
                }
                Some(_) => {
                    let message = || {
                        format!(
                            "two tensors cannot be told apart once their names are shown as {name:?}: a check of one would pass for the other"
                        )
                    };
                    self.note(&TENSOR_DUPLICATE, &name, at, message);
                }
            }
            let tensor = self.tensor(name)?;
            header.tensors.push(tensor);
        }
        header.table_end = self.at;
        header.data_offset = self.at.next_multiple_of(header.alignment);
        Ok(())
    }

    fn duplicate_keys(&mut self, pairs: &[(String, Value)], places: &[u64]) {
        let mut seen = HashSet::new();
        for ((key, _), at) in pairs.iter().zip(places) {
            if !seen.insert(key.as_str()) {
                let why = || format!("the key {:?} stands twice: loaders disagree on which value counts", shorten(key));
                self.note(&KEY_DUPLICATE, key, *at, why);
            }
        }
    }

    fn version(&mut self) -> Parsed<u32> {
        let at = self.at;
        let version = self.u32("the version")?;
        let why = match version {
            2 | 3 => return Ok(version),
            1 => "it is GGUF version 1, which ggml no longer reads: convert it again".to_owned(),
            _ if version & 0xffff == 0 && version != 0 => {
                format!(
                    "it is a big-endian GGUF (version {} byte-swapped), which is not supported",
                    version.swap_bytes()
                )
            }
            _ => format!("it claims GGUF version {version}; 2 and 3 are known"),
        };
        Err(Halt::found(&VERSION, Place::at(at), why))
    }

    fn key(&mut self) -> Parsed<String> {
        let at = self.at;
        let length = self.u64("a key's length")?;
        if length == 0 || length > MAX_KEY {
            let why = format!("a key is {length} bytes long; 1 to {MAX_KEY} are allowed");
            return Err(Halt::found(&KEY, Place::at(at), why));
        }
        let key = match String::from_utf8(self.bytes("a key", length)?) {
            Ok(key) if !key.contains('\0') => key,
            Ok(key) => {
                let why =
                    format!("the key {:?} holds a NUL: it is not text, and ggml would cut it there", shorten(&key));
                return Err(Halt::found(&KEY, Place::part_at(&key, at), why));
            }
            Err(e) => {
                let shown = String::from_utf8_lossy(e.as_bytes()).into_owned();
                let why = format!("the key {:?} is not text: it is not UTF-8", shorten(&shown));
                return Err(Halt::found(&KEY, Place::part_at(&shown, at), why));
            }
        };
        if key.chars().any(hidden) {
            let why = || format!("the key {:?} holds control characters: it is not what it is shown as", shorten(&key));
            self.note(&KEY_CONTROL, &key, at, why);
        } else if !is_key(&key) {
            let why =
                || format!("the key {:?} is not lower-case words with dots between, as GGUF wants it", shorten(&key));
            self.note(&KEY_GRAMMAR, &key, at, why);
        }
        Ok(key)
    }

    fn alignment(&self, pairs: &[(String, Value)]) -> Parsed<u64> {
        let stated = pairs.iter().find(|(key, _)| key == "general.alignment");
        let why = match stated.map(|(_, value)| value) {
            None => return Ok(DEFAULT_ALIGNMENT),
            Some(Value::Unsigned(ValueType::U32, n)) if n.is_power_of_two() && *n <= MAX_ALIGNMENT => return Ok(*n),
            Some(Value::Unsigned(ValueType::U32, n)) => {
                format!(
                    "general.alignment is {n}, not a power of two up to {MAX_ALIGNMENT}: where data begin cannot be told"
                )
            }
            Some(other) => {
                format!("general.alignment is not a power of two as uint32 but of type {}", other.type_name())
            }
        };
        Err(Halt::found(&ALIGNMENT, Place::part_at("general.alignment", self.at), why))
    }

    /// A tensor's name and, when it is not UTF-8, its bytes.
    fn tensor_name(&mut self) -> Parsed<(String, Option<Vec<u8>>)> {
        let at = self.at;
        let length = self.u64("a tensor's name")?;
        if length > MAX_TENSOR_NAME {
            let why = format!("a tensor's name is {length} bytes long; ggml allows {MAX_TENSOR_NAME}");
            return Err(Halt::found(&TENSOR_NAME, Place::at(at), why));
        }
        let bytes = self.bytes("a tensor's name", length)?;
        let (name, raw) = match String::from_utf8(bytes) {
            Ok(name) => (name, None),
            Err(e) => (String::from_utf8_lossy(e.as_bytes()).into_owned(), Some(e.into_bytes())),
        };
        if name.contains('\0') {
            let why = format!(
                "the tensor {name:?} has a NUL in its name: ggml would cut it there, and it could be another's"
            );
            return Err(Halt::found(&TENSOR_NAME, Place::part_at(&name, at), why));
        }
        if let Some(raw) = &raw {
            let why = || {
                format!(
                    "the tensor's name \"{}\" is not UTF-8: tools that replace its bytes take it for another",
                    raw.escape_ascii()
                )
            };
            self.note(&NAME_UTF8, &name, at, why);
        }
        if name.chars().any(hidden) {
            self.note(&NAME_CONTROL, &name, at, || {
                format!("the tensor {name:?} has control characters in its name: it is not what it is shown as")
            });
        }
        if name.is_empty() {
            self.note(&NAME_EMPTY, &name, at, || "a tensor has an empty name: no check can be about it".into());
        }
        Ok((name, raw))
    }

    fn tensor(&mut self, name: String) -> Parsed<TensorInfo> {
        let at = self.at;
        let found = |rule: &'static Rule, why: String| Halt::found(rule, Place::part_at(&name, at), why);
        let count = self.u32("a tensor's dimensions")?;
        if count > MAX_DIMENSIONS {
            let why = format!("the tensor {name:?} has {count} dimensions; ggml has room for {MAX_DIMENSIONS}");
            return Err(found(&DIMENSIONS, why));
        }
        let mut dimensions = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let n = self.u64("a dimension")?;
            if i64::try_from(n).is_err() {
                return Err(found(&DIMENSIONS, format!("the tensor {name:?} has a negative dimension, {}", n as i64)));
            }
            dimensions.push(n);
        }
        if dimensions.is_empty() {
            self.note(&SCALAR, &name, at, || {
                format!("the tensor {name:?} has 0 dimensions: ggml takes it for one element")
            });
        }
        if dimensions.contains(&0) {
            let why = || {
                format!("the tensor {name:?} has a dimension of 0: it has no data, and engines divide by dimensions")
            };
            self.note(&NO_ELEMENTS, &name, at, why);
        }
        let id = self.u32("a tensor's type")?;
        let Some(kind) = GgmlType::of(id) else {
            let why = match GgmlType::removed(id) {
                Some(gone) => {
                    format!("the tensor {name:?} is of type {id}: {gone} was removed from ggml, its block size is 0")
                }
                None => format!("the tensor {name:?} is of type {id}, which ggml does not know"),
            };
            return Err(found(&TENSOR_TYPE, why));
        };
        let offset = self.u64("a tensor's offset")?;
        let row = dimensions.first().copied().unwrap_or(1);
        if row % kind.block != 0 {
            let why = format!(
                "the tensor {name:?} cannot have rows of {row} elements of {}: they come in blocks of {}",
                kind.name, kind.block
            );
            return Err(found(&BLOCKS, why));
        }
        // ggml counts in int64_t, and multiplies in this order: a 0 further on does not undo an overflow before it.
        let elements = dimensions.iter().try_fold(1u64, |n, d| n.checked_mul(*d).filter(|n| *n <= i64::MAX as u64));
        let size_bytes = elements.and(kind.size_of(&dimensions)).filter(|n| *n <= i64::MAX as u64);
        let Some(size_bytes) = size_bytes else {
            let why =
                format!("the tensor {name:?} cannot have {dimensions:?} elements of {}: its size overflows", kind.name);
            return Err(found(&SIZE, why));
        };
        Ok(TensorInfo { name, dimensions, kind, offset, size_bytes })
    }

    fn value_type(&mut self, key: &str) -> Parsed<ValueType> {
        let at = self.at;
        let id = self.u32("a value's type")?;
        ValueType::of(id).ok_or_else(|| {
            let why = format!("the value of {:?} is of type {id}, which GGUF does not have", shorten(key));
            Halt::found(&VALUE_TYPE, Place::part_at(key, at), why)
        })
    }

    fn value(&mut self, kind: ValueType, key: &str) -> Parsed<Value> {
        use ValueType as T;
        let at = self.at;
        Ok(match kind {
            T::U8 => Value::Unsigned(kind, u64::from(u8::from_le_bytes(self.array("a value")?))),
            T::U16 => Value::Unsigned(kind, u64::from(u16::from_le_bytes(self.array("a value")?))),
            T::U32 => Value::Unsigned(kind, u64::from(self.u32("a value")?)),
            T::U64 => Value::Unsigned(kind, self.u64("a value")?),
            T::I8 => Value::Signed(kind, i64::from(i8::from_le_bytes(self.array("a value")?))),
            T::I16 => Value::Signed(kind, i64::from(i16::from_le_bytes(self.array("a value")?))),
            T::I32 => Value::Signed(kind, i64::from(i32::from_le_bytes(self.array("a value")?))),
            T::I64 => Value::Signed(kind, i64::from_le_bytes(self.array("a value")?)),
            T::F32 => Value::Float(kind, f64::from(f32::from_le_bytes(self.array("a value")?))),
            T::F64 => Value::Float(kind, f64::from_le_bytes(self.array("a value")?)),
            T::Bool => {
                let n = u8::from_le_bytes(self.array("a value")?);
                if n > 1 {
                    self.note(&BOOLEAN, key, at, || format!("the boolean {:?} is {n}, neither 0 nor 1", shorten(key)));
                }
                Value::Bool(n != 0)
            }
            T::String => {
                let length = self.u64("a string's length")?;
                Value::String(self.bytes("a string", length)?)
            }
            T::Array => Value::Array(self.values(key, 1)?),
        })
    }

    fn values(&mut self, key: &str, depth: u32) -> Parsed<Array> {
        let at = self.at;
        if depth > MAX_NESTING {
            let why = format!("the arrays of {:?} nest over {MAX_NESTING} deep", shorten(key));
            return Err(Halt::found(&COUNT, Place::part_at(key, at), why));
        }
        let of = self.value_type(key)?;
        let count = self.u64("an array's count")?;
        if let Some(width) = of.width() {
            self.check_count("array values", count, width, MAX_HEADER)?;
            let bytes = self.bytes("an array", count.saturating_mul(width))?;
            if of == ValueType::Bool && bytes.iter().any(|b| *b > 1) {
                self.note(&BOOLEAN, key, at, || format!("the booleans of {:?} are not 0 or 1", shorten(key)));
            }
            return Ok(Array::Packed { of, count, bytes });
        }
        if of == ValueType::String {
            self.check_count("strings", count, 8, MAX_STRINGS.saturating_sub(self.strings))?;
            self.strings += count;
            return Ok(Array::Strings(self.strings(count)?));
        }
        if depth == 1 {
            let why = || format!("the value of {:?} is an array of arrays, which ggml does not load", shorten(key));
            self.note(&NESTED, key, at, why);
        }
        self.check_count("arrays", count, 12, MAX_ARRAYS.saturating_sub(self.arrays))?;
        self.arrays += count;
        let mut arrays = Vec::new();
        for _ in 0..count {
            arrays.push(self.values(key, depth + 1)?);
        }
        Ok(Array::Arrays(arrays))
    }

    fn strings(&mut self, count: u64) -> Parsed<Strings> {
        let mut strings = Strings::default();
        for _ in 0..count {
            let length = self.u64("a string's length")?;
            self.append("a string", length, &mut strings.bytes)?;
            // The header's limit is far below 4 GiB.
            let end = u32::try_from(strings.bytes.len()).unwrap_or(u32::MAX);
            if strings.ends.len() == strings.ends.capacity() {
                strings.ends.try_reserve(strings.ends.len().max(64)).map_err(no_memory)?;
            }
            strings.ends.push(end);
        }
        Ok(strings)
    }

    /// Whether `count` things of at least `least` bytes can still come: a count that cannot is a lie.
    fn check_count(&self, what: &str, count: u64, least: u64, most: u64) -> Parsed<()> {
        if count > most {
            let why = format!("it claims {count} {what}; at most {most} are allowed");
            return Err(Halt::found(&COUNT, Place::at(self.at), why));
        }
        if count.checked_mul(least).is_none_or(|n| n > self.left()) {
            let why = format!("it claims {count} {what}, more than can follow in {} bytes", self.left());
            return Err(Halt::found(&COUNT, Place::at(self.at), why));
        }
        Ok(())
    }

    /// Bytes of header that can still come.
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.at)
    }

    fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, what: &str, length: u64) -> Parsed<Vec<u8>> {
        let mut bytes = Vec::new();
        self.append(what, length, &mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, what: &str, length: u64, to: &mut Vec<u8>) -> Parsed<()> {
        if length > self.left() {
            let why = format!("{what} of {length} bytes does not fit the {} that can follow", self.left());
            return Err(Halt::found(&COUNT, Place::at(self.at), why));
        }
        let mut left = length;
        while left > 0 {
            let piece = left.min(PIECE) as usize;
            let start = to.len();
            to.try_reserve(piece).map_err(no_memory)?;
            to.resize(start + piece, 0);
            self.fill(what, to.get_mut(start..).unwrap_or_default())?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn fill(&mut self, what: &str, out: &mut [u8]) -> Parsed<()> {
        let truncated = |at| Halt::found(&TRUNCATED, Place::at(at), format!("its header ends inside {what}"));
        if out.len() as u64 > self.left() {
            return Err(truncated(self.at));
        }
        self.input.read_exact(out).map_err(|e| match e.downcast::<Error>() {
            Ok(ours) => Halt::Failed(ours),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => truncated(self.at),
            Err(e) => Halt::Failed(Error::io("reading a GGUF header", e)),
        })?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn note(&mut self, rule: &'static Rule, part: &str, at: u64, message: impl FnOnce() -> String) {
        // A hundred thousand tensors may have a hundred thousand defects, and each costs a look at all that were found.
        match self.noted.iter_mut().find(|(noted, _)| std::ptr::eq(*noted, rule)) {
            Some((_, MAX_NOTES)) => return,
            Some((_, count)) => *count += 1,
            None => self.noted.push((rule, 1)),
        }
        (self.note)(rule, Place::part_at(part, at), message());
    }
}

/// Characters that are not seen, or that move what is.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// docs/gguf.md: `lower_snake_case` words separated by dots. Architectures have hyphens, and templates' names anything such.
fn is_key(key: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    key.split('.').all(word)
}

fn no_memory(e: std::collections::TryReserveError) -> Halt {
    Halt::Failed(Error::new(ErrorKind::NoMemory, "no memory for a GGUF header").because(e))
}
