//! GGUF: its header, as a type that is public, and what there is to say against a file of it.
//!
//! Owns: the types, [`GgufHeader::read`], [`inspect`] and the order in which its parts look. Promises: the header is read once,
//! from front to back, and of the weights nothing but the padding between them; every length is bounded by the file and by
//! [`MAX_HEADER`] before memory is taken for it, and memory is taken only as bytes arrive. What stands here follows ggml
//! (gguf.cpp) and llama.cpp (llama-vocab.cpp, llama-model.cpp, llama-model-loader.cpp): what they refuse is refused, and so
//! is what they would abort on. Leaves out: the bytes of the weights (`guard`), chat templates' language (`template`),
//! what follows from a finding (`policy`).
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 pairs:u64          (ggml, docs/gguf.md; all little-endian)
//! pair*    key:string type:u32 value
//! tensor*  name:string dimensions:u32 ne:u64[dimensions] type:u32 offset:u64
//! padding to general.alignment, then the data; offsets count from there, each at the padded end of the one before
//! string   length:u64 bytes      array   type:u32 count:u64 values
//!
//! parse      bytes -> GgufHeader        architecture  hyperparameters llama.cpp asserts, divides by or indexes with
//! layout     tensors against the file   adapter       LoRA pairs, control vectors, mmproj and imatrix files
//! vocabulary tokenizer.ggml.*           split         split.* against the name, and a set of shards
//! describe   what is shown              charsmap      tokenizer.ggml.precompiled_charsmap
//! demands    what single architectures and ggml's kernels demand
//! ```

mod adapter;
mod architecture;
mod charsmap;
mod demands;
mod describe;
mod known;
mod layout;
mod parse;
mod split;
mod vocabulary;

pub(crate) use describe::templates;
pub(crate) use split::check_split;

use super::Kind;
use super::description::{Description, Facts};
use super::finding::{Findings, Halt, Parsed, Place, Rule, Severity, rules};
use super::ggml_type::GgmlType;
use super::input::{Input, Reader};
use crate::artifact::Format;
use crate::error::{Error, ErrorKind, Result};
use crate::name::RelPath;
use std::io::Read;

/// No header is longer, in bytes: the largest vocabularies of today take some 20 MiB.
pub const MAX_HEADER: u64 = 256 << 20;
/// Where data starts when the file does not say (docs/gguf.md, `general.alignment`).
const DEFAULT_ALIGNMENT: u64 = 32;

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// The metadata, in file order; no key stands twice.
    pub pairs: Vec<(String, Value)>,
    /// The tensors, in file order; no name stands twice.
    pub tensors: Vec<TensorInfo>,
    /// The alignment of tensor data, in bytes: a power of two.
    pub alignment: u64,
    /// Where the table of tensors ends, in bytes from the start of the file.
    pub table_end: u64,
    /// Where tensor data begins, in bytes from the start of the file.
    pub data_offset: u64,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of 1, 2, 4 or 8 bytes.
    Unsigned(ValueType, u64),
    /// A signed integer of 1, 2, 4 or 8 bytes.
    Signed(ValueType, i64),
    /// A float of 4 or 8 bytes.
    Float(ValueType, f64),
    /// A boolean.
    Bool(bool),
    /// A string: bytes that should be UTF-8.
    String(Vec<u8>),
    /// Several values of one type.
    Array(Array),
}

/// An array of metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Numbers or booleans, as they stand in the file: little-endian, packed.
    Packed {
        /// The type of each.
        of: ValueType,
        /// How many.
        count: u64,
        /// `count` times the type's width.
        bytes: Vec<u8>,
    },
    /// Strings.
    Strings(Strings),
    /// Arrays.
    Arrays(Vec<Array>),
}

/// Many strings, in one piece of memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Strings {
    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The one at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.bytes[start..end])
    }
}

/// The types of metadata, by their numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// `uint8_t`
    U8 = 0,
    /// `int8_t`
    I8 = 1,
    /// `uint16_t`
    U16 = 2,
    /// `int16_t`
    I16 = 3,
    /// `uint32_t`
    U32 = 4,
    /// `int32_t`
    I32 = 5,
    /// `float`
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// A length and bytes.
    String = 8,
    /// A type, a count and values.
    Array = 9,
    /// `uint64_t`
    U64 = 10,
    /// `int64_t`
    I64 = 11,
    /// `double`
    F64 = 12,
}

impl ValueType {
    /// The type of this number, when there is one.
    fn of(id: u32) -> Option<ValueType> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].into_iter().find(|t| *t as u32 == id)
    }

    /// ggml's name of the type.
    fn as_str(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "str",
            ValueType::Array => "arr",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Bytes of one value; none for those that say their length themselves.
    pub fn width(self) -> Option<u64> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }
}

/// One tensor, as the table describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Its name. Bytes that are not UTF-8 stand as U+FFFD: such a file is refused unless a policy allows it.
    pub name: String,
    /// Its dimensions, ne0 first: up to 4 of them. A scalar may have none; one of 0 makes a tensor without bytes.
    pub dimensions: Vec<u64>,
    /// Its type.
    pub kind: &'static GgmlType,
    /// Where its data begins, in bytes from [`GgufHeader::data_offset`].
    pub offset: u64,
    /// Bytes of its data.
    pub size_bytes: u64,
}

impl GgufHeader {
    /// Reads the header of a file of `size` bytes.
    ///
    /// # Errors
    /// `Refused` when the bytes are not a GGUF header that fits the file; whatever kind `input`'s own error carries.
    pub fn read(input: impl Read, size: u64) -> Result<GgufHeader> {
        // Only what breaks the format: what a policy may have allowed must stay readable.
        let mut broken = None;
        let note = |rule: &'static Rule, place: Place, why: String| {
            if rule.severity == Severity::Critical && broken.is_none() {
                broken = Some((place, why));
            }
        };
        let mut header = GgufHeader::empty();
        let refuse = |place: Place, why: String| {
            let at = place.offset.unwrap_or(0);
            Err(Error::new(ErrorKind::Refused, format!("not a sound GGUF header (byte {at}): {why}")))
        };
        match (parse::header(input, size, &mut header, note), broken) {
            (Err(Halt::Failed(e)), _) => Err(e),
            (_, Some((place, why))) => refuse(place, why),
            (Err(Halt::Found(found)), None) => refuse(found.1, found.2),
            (Ok(()), None) => match layout::outside(&header, size) {
                Some((tensor, why)) => refuse(Place::part(&tensor.name), why),
                None => Ok(header),
            },
        }
    }

    fn empty() -> GgufHeader {
        let (pairs, tensors) = (Vec::new(), Vec::new());
        GgufHeader { version: 0, pairs, tensors, alignment: DEFAULT_ALIGNMENT, table_end: 0, data_offset: 0 }
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }
}

impl GgufHeader {
    /// The value of a key, when it is a string of UTF-8.
    fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::String(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value of a key, when it is an integer of any width that is not negative.
    fn number(&self, key: &str) -> Option<u64> {
        self.value(key).and_then(Value::number)
    }
}

impl Value {
    /// An integer of any width that is not negative.
    fn number(&self) -> Option<u64> {
        match self {
            Value::Unsigned(_, n) => Some(*n),
            Value::Signed(_, n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// Its type's name, as ggml prints it.
    fn type_name(&self) -> String {
        match self {
            Value::Unsigned(kind, _) | Value::Signed(kind, _) | Value::Float(kind, _) => kind.as_str().to_owned(),
            Value::Bool(_) => "bool".into(),
            Value::String(_) => "str".into(),
            Value::Array(array) => format!("array of {}", array.element().as_str()),
        }
    }
}

impl Array {
    fn element(&self) -> ValueType {
        match self {
            Array::Packed { of, .. } => *of,
            Array::Strings(_) => ValueType::String,
            Array::Arrays(_) => ValueType::Array,
        }
    }

    fn count(&self) -> u64 {
        match self {
            Array::Packed { count, .. } => *count,
            Array::Strings(strings) => strings.len() as u64,
            Array::Arrays(arrays) => arrays.len() as u64,
        }
    }

    /// The integers of an array of them.
    fn integers(&self) -> Option<impl Iterator<Item = i128> + '_> {
        use ValueType as T;
        let Array::Packed { of, bytes, .. } = self else { return None };
        let signed = match of {
            T::I8 | T::I16 | T::I32 | T::I64 => true,
            T::U8 | T::U16 | T::U32 | T::U64 => false,
            T::F32 | T::F64 | T::Bool | T::String | T::Array => return None,
        };
        let width = of.width()? as usize;
        Some(bytes.chunks_exact(width).map(move |chunk| {
            let n = chunk.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
            let unused = 64 - 8 * width as u32;
            if signed { i128::from((n << unused) as i64 >> unused) } else { i128::from(n) }
        }))
    }
}

impl Strings {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

/// Looks at a whole file.
///
/// # Errors
/// Only what is no defect of the file: its disk, the memory, the caller's wish to stop.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut header = GgufHeader::empty();
    let size = input.size();
    let read = parse::header(Reader::new(input, 0, size), size, &mut header, |rule, place, message| {
        findings.add(path, rule, place, message);
    });
    let whole = read.is_ok();
    let looked = read.and_then(|()| look(path, input, &header, findings));
    if let Err(halt) = looked {
        findings.halt(path, halt)?;
    }
    let mut description = Description::new(Kind::Model(Format::Gguf), describe::what(&header, whole));
    description.metadata = describe::metadata(&header);
    description.tensors = describe::tensors(&header);
    description.adapter = adapter::of(&header);
    if whole {
        description.facts = Facts::Gguf(Box::new(header));
    }
    Ok(description)
}

fn look(path: &RelPath, input: &dyn Input, header: &GgufHeader, findings: &mut Findings) -> Parsed<()> {
    layout::check(path, input, header, findings)?;
    vocabulary::check(path, header, findings);
    architecture::check(path, header, findings);
    adapter::check(path, header, findings);
    split::check_file(path, header, findings);
    describe::check_templates(path, header, findings);
    Ok(())
}

rules! { of parse, layout, vocabulary, charsmap, architecture, demands, adapter, split, describe }

#[cfg(test)]
mod build;
#[cfg(test)]
mod tests;
