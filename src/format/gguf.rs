//! The header of a GGUF file: its metadata and its table of tensors.
//!
//! Owns: the parser. Promises: it reads the header once, from front to back, and no weights; every length is bounded by
//! the file and by [`MAX_HEADER`] before memory is taken for it, and memory is taken only as bytes arrive; a file that
//! breaks the format is refused with what is wrong and where. Leaves out: judging what the metadata say (`policy`).
//!
//! ```text
//! "GGUF" version:u32 tensors:u64 pairs:u64          (ggml, docs/gguf.md; all little-endian)
//! pair*    key:string type:u32 value
//! tensor*  name:string dimensions:u32 ne:u64[dimensions] type:u32 offset:u64
//! padding to general.alignment, then the data; offsets count from there
//! string   length:u64 bytes      array   type:u32 count:u64 values
//! ```

use super::ggml_type::GgmlType;
use crate::error::{Error, ErrorKind, Result};
use std::io::Read;

/// No header is longer, in bytes: the largest vocabularies of today take some 20 MiB.
pub const MAX_HEADER: u64 = 256 << 20;
/// Keys are at most this long (docs/gguf.md: 2^16-1 bytes).
const MAX_KEY: u64 = 65_535;
/// Tensor names are at most this long: `GGML_MAX_NAME` is 64, with its NUL.
const MAX_TENSOR_NAME: u64 = 63;
/// `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays nest no deeper; ggml itself refuses nested ones.
const MAX_NESTING: u32 = 4;
/// Where data starts when the file does not say (docs/gguf.md, `general.alignment`).
const DEFAULT_ALIGNMENT: u64 = 32;
/// Far more than any model has: what each takes in memory beside its bytes is bounded by these.
const MAX_PAIRS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 18;
const MAX_ARRAYS: u64 = 1 << 16;
/// Memory is taken in pieces of at most this, so that a length alone costs nothing.
const PIECE: u64 = 1 << 20;

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
    fn of(id: u32) -> Option<ValueType> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].into_iter().find(|t| *t as u32 == id)
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
    /// Its name.
    pub name: String,
    /// Its dimensions, ne0 first: 1 to 4 of them, none 0.
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
        Parser { input, at: 0, size, limit: size.min(MAX_HEADER), arrays: 0 }.header()
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }
}

struct Parser<R> {
    input: R,
    at: u64,
    size: u64,
    limit: u64,
    /// Arrays inside arrays so far.
    arrays: u64,
}

impl<R: Read> Parser<R> {
    fn header(mut self) -> Result<GgufHeader> {
        if self.array::<4>("magic")? != *b"GGUF" {
            return Err(self.refuse("it does not begin with \"GGUF\""));
        }
        let version = self.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(self.refuse(format!("it claims version {version}; 2 and 3 are known")));
        }
        let tensor_count = self.u64("tensor count")?;
        let pair_count = self.u64("key count")?;
        // The shortest of each: a key of 1 byte and a value of 1; a name of 1 byte and one dimension.
        self.check_count("keys", pair_count, 8 + 1 + 4 + 1, MAX_PAIRS)?;
        self.check_count("tensors", tensor_count, 8 + 1 + 4 + 8 + 4 + 8, MAX_TENSORS)?;
        let mut seen = std::collections::HashSet::new();
        let mut pairs = Vec::new();
        for _ in 0..pair_count {
            let key = self.text("a key", MAX_KEY)?;
            if !seen.insert(key.clone()) {
                return Err(self.refuse(format!("the key {key:?} stands twice")));
            }
            let kind = self.value_type(&key)?;
            let value = self.value(kind, &key)?;
            pairs.push((key, value));
        }
        let alignment = self.alignment(&pairs)?;
        let mut tensors = Vec::new();
        seen.clear();
        for _ in 0..tensor_count {
            let tensor = self.tensor(alignment)?;
            if !seen.insert(tensor.name.clone()) {
                return Err(self.refuse(format!("the tensor {:?} stands twice", tensor.name)));
            }
            tensors.push(tensor);
        }
        let data_offset = self.at.next_multiple_of(alignment);
        let room = self.size.saturating_sub(data_offset);
        for tensor in &tensors {
            if tensor.offset.checked_add(tensor.size_bytes).is_none_or(|end| end > room) {
                return Err(self.refuse(format!("the data of tensor {:?} do not lie in the file", tensor.name)));
            }
        }
        Ok(GgufHeader { version, pairs, tensors, alignment, data_offset })
    }

    fn alignment(&self, pairs: &[(String, Value)]) -> Result<u64> {
        let stated = pairs.iter().find(|(key, _)| key == "general.alignment");
        match stated.map(|(_, value)| value) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Value::Unsigned(ValueType::U32, n)) if n.is_power_of_two() && *n <= PIECE => Ok(*n),
            // Not shown: it may be anything, of any length.
            Some(_) => Err(self.refuse("general.alignment is not a power of two as uint32")),
        }
    }

    fn tensor(&mut self, alignment: u64) -> Result<TensorInfo> {
        let name = self.text("a tensor's name", MAX_TENSOR_NAME)?;
        let count = self.u32("a tensor's dimensions")?;
        if !(1..=MAX_DIMENSIONS).contains(&count) {
            return Err(self.refuse(format!("the tensor {name:?} has {count} dimensions; 1 to 4 are known")));
        }
        let mut dimensions = Vec::new();
        for _ in 0..count {
            match self.u64("a dimension")? {
                0 => return Err(self.refuse(format!("the tensor {name:?} has a dimension of 0"))),
                n => dimensions.push(n),
            }
        }
        let id = self.u32("a tensor's type")?;
        let Some(kind) = GgmlType::of(id) else {
            return Err(self.refuse(format!("the tensor {name:?} is of type {id}, which ggml does not know")));
        };
        let offset = self.u64("a tensor's offset")?;
        if offset % alignment != 0 {
            return Err(self.refuse(format!("the tensor {name:?} begins at {offset}, not a multiple of {alignment}")));
        }
        let Some(size_bytes) = kind.size_of(&dimensions) else {
            return Err(
                self.refuse(format!("the tensor {name:?} cannot have {dimensions:?} elements of {}", kind.name))
            );
        };
        Ok(TensorInfo { name, dimensions, kind, offset, size_bytes })
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType> {
        let id = self.u32("a value's type")?;
        ValueType::of(id)
            .ok_or_else(|| self.refuse(format!("the value of {key:?} is of type {id}, which is not known")))
    }

    fn value(&mut self, kind: ValueType, key: &str) -> Result<Value> {
        use ValueType as T;
        Ok(match kind {
            T::U8 => Value::Unsigned(kind, u64::from(self.array::<1>("a value")?[0])),
            T::U16 => Value::Unsigned(kind, u64::from(u16::from_le_bytes(self.array("a value")?))),
            T::U32 => Value::Unsigned(kind, u64::from(self.u32("a value")?)),
            T::U64 => Value::Unsigned(kind, self.u64("a value")?),
            T::I8 => Value::Signed(kind, i64::from(i8::from_le_bytes(self.array("a value")?))),
            T::I16 => Value::Signed(kind, i64::from(i16::from_le_bytes(self.array("a value")?))),
            T::I32 => Value::Signed(kind, i64::from(i32::from_le_bytes(self.array("a value")?))),
            T::I64 => Value::Signed(kind, i64::from_le_bytes(self.array("a value")?)),
            T::F32 => Value::Float(kind, f64::from(f32::from_le_bytes(self.array("a value")?))),
            T::F64 => Value::Float(kind, f64::from_le_bytes(self.array("a value")?)),
            T::Bool => match self.array::<1>("a value")?[0] {
                n @ 0..=1 => Value::Bool(n == 1),
                n => return Err(self.refuse(format!("the boolean {key:?} is {n}"))),
            },
            T::String => {
                let length = self.u64("a string's length")?;
                Value::String(self.bytes("a string", length)?)
            }
            T::Array => Value::Array(self.values(key, 1)?),
        })
    }

    fn values(&mut self, key: &str, depth: u32) -> Result<Array> {
        if depth > MAX_NESTING {
            return Err(self.refuse(format!("the arrays of {key:?} nest over {MAX_NESTING} deep")));
        }
        let of = self.value_type(key)?;
        let count = self.u64("an array's count")?;
        if let Some(width) = of.width() {
            self.check_count("array values", count, width, MAX_HEADER)?;
            let bytes = self.bytes("an array", count * width)?;
            if of == ValueType::Bool && bytes.iter().any(|b| *b > 1) {
                return Err(self.refuse(format!("the booleans of {key:?} are not 0 or 1")));
            }
            return Ok(Array::Packed { of, count, bytes });
        }
        if of == ValueType::String {
            self.check_count("strings", count, 8, MAX_HEADER)?;
            let mut strings = Strings::default();
            for _ in 0..count {
                let length = self.u64("a string's length")?;
                self.append("a string", length, &mut strings.bytes)?;
                // The header's limit is far below 4 GiB.
                strings
                    .ends
                    .push(u32::try_from(strings.bytes.len()).map_err(|_| self.refuse("it has too many strings"))?);
            }
            return Ok(Array::Strings(strings));
        }
        self.check_count("arrays", count, 12, MAX_ARRAYS - self.arrays)?;
        self.arrays += count;
        let mut arrays = Vec::new();
        for _ in 0..count {
            arrays.push(self.values(key, depth + 1)?);
        }
        Ok(Array::Arrays(arrays))
    }

    /// Whether `count` things of at least `least` bytes can still come: a count that cannot is a lie.
    fn check_count(&self, what: &str, count: u64, least: u64, most: u64) -> Result<()> {
        if count > most {
            return Err(self.refuse(format!("it claims {count} {what}; at most {most} are allowed")));
        }
        if count.checked_mul(least).is_none_or(|n| n > self.limit - self.at) {
            return Err(self.refuse(format!("it claims {count} {what}, more than can follow")));
        }
        Ok(())
    }

    fn text(&mut self, what: &str, limit: u64) -> Result<String> {
        let length = self.u64(what)?;
        if length == 0 || length > limit {
            return Err(self.refuse(format!("{what} is {length} bytes long; 1 to {limit} are allowed")));
        }
        let bytes = self.bytes(what, length)?;
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(self.refuse(format!("{what} is not text"))),
        }
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, what: &str, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.append(what, length, &mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, what: &str, length: u64, to: &mut Vec<u8>) -> Result<()> {
        if length > self.limit - self.at {
            return Err(self.refuse(format!("{what} of {length} bytes does not fit")));
        }
        let mut left = length;
        while left > 0 {
            let piece = left.min(PIECE) as usize;
            let start = to.len();
            to.try_reserve(piece).map_err(no_memory)?;
            to.resize(start + piece, 0);
            self.fill(what, &mut to[start..])?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn fill(&mut self, what: &str, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 > self.limit - self.at {
            return Err(self.refuse(format!("its header ends inside {what}")));
        }
        self.input.read_exact(out).map_err(|e| match e.downcast::<Error>() {
            Ok(ours) => ours,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => self.refuse(format!("it ends inside {what}")),
            Err(e) => Error::io("reading a GGUF header", e),
        })?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Refused, format!("not a sound GGUF header (byte {}): {why}", self.at))
    }
}

fn no_memory(e: std::collections::TryReserveError) -> Error {
    Error::new(ErrorKind::NoMemory, "no memory for a GGUF header").because(e)
}

#[cfg(test)]
mod tests;
