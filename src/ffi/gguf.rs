//! The header of a GGUF model, without its weights.
//!
//! Owns: `securereg_gguf`. Promises: what it points to stays until it is closed. Leaves out: the parser
//! (`crate::format::gguf`).

use super::args::{self, Out, Sized0, SizedOut};
use super::error::{Failure, c_text, securereg_error};
use super::file::file_of;
use super::registry::{find, name_of, securereg_registry};
use super::status::securereg_status;
use super::status::securereg_status::{SECUREREG_INVALID_INPUT, SECUREREG_NO_MEMORY, SECUREREG_NOT_FOUND};
use super::{Result, enter, table};
use crate::format::gguf::{Array, GgufHeader, Value, ValueType};
use crate::verified::ReadMode;
use std::ffi::{CString, c_char, c_void};
use std::mem::{offset_of, size_of};
use std::ptr::null;

/// The header of a GGUF model: free it with securereg_gguf_free.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_gguf {
    /// A token; 0 is none.
    pub id: u64,
}

/// What a header says in numbers.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_gguf_info {
    /// sizeof(securereg_gguf_info), set by the caller.
    pub size: usize,
    /// How many metadata pairs there are.
    pub pair_count: u64,
    /// How many tensors there are.
    pub tensor_count: u64,
    /// Where tensor data begins, in bytes from the start of the file.
    pub data_offset: u64,
    /// The alignment of tensor data in bytes.
    pub alignment: u64,
    /// The format's version: 2 or 3.
    pub version: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: repr(C), begins with its size, integers only.
unsafe impl Sized0 for securereg_gguf_info {
    const FIRST: usize = offset_of!(securereg_gguf_info, reserved) + size_of::<u32>();
}

/// A metadata pair. Types are ggml's `gguf_type`: 0 UINT8, 1 INT8, 2 UINT16, 3 INT16, 4 UINT32, 5 INT32, 6 FLOAT32, 7 BOOL,
/// 8 STRING, 9 ARRAY, 10 UINT64, 11 INT64, 12 FLOAT64. What it points to belongs to the securereg_gguf.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_gguf_pair {
    /// sizeof(securereg_gguf_pair), set by the caller.
    pub size: usize,
    /// The key.
    pub key: *const c_char,
    /// Of a string: its bytes, with a NUL after the last. Of an array of numbers or booleans: its values, packed,
    /// little-endian, not aligned. Else NULL.
    pub data: *const c_void,
    /// The length of `data` in bytes, without the NUL.
    pub data_size: u64,
    /// Of an array: how many values it has; else 1. The strings of an array: securereg_gguf_string.
    pub count: u64,
    /// The value of an unsigned integer or a boolean.
    pub u64_value: u64,
    /// The value of a signed integer.
    pub i64_value: i64,
    /// The value of a float.
    pub f64_value: f64,
    /// The type of the value.
    pub value_type: u32,
    /// Of an array: the type of its values.
    pub array_type: u32,
    /// Its place among the pairs, from 0: what securereg_gguf_string takes.
    pub index: u64,
}

// SAFETY: repr(C), begins with its size; numbers and pointers, for which zeroes are NULL.
unsafe impl Sized0 for securereg_gguf_pair {
    const FIRST: usize = offset_of!(securereg_gguf_pair, index) + size_of::<u64>();
}

/// A tensor. Strings belong to the securereg_gguf.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_gguf_tensor {
    /// sizeof(securereg_gguf_tensor), set by the caller.
    pub size: usize,
    /// Its name.
    pub name: *const c_char,
    /// ggml's name of its type, such as "Q4_K".
    pub type_name: *const c_char,
    /// ggml's number of its type.
    pub type_id: u32,
    /// How many dimensions it has: 1 to 4.
    pub dimension_count: u32,
    /// Its dimensions, ne0 (the innermost) first; 1 where it has none.
    pub dimensions: [u64; 4],
    /// Where its data begins, in bytes from the start of the file: what securereg_read_at takes.
    pub offset: u64,
    /// Bytes of its data.
    pub size_bytes: u64,
}

// SAFETY: repr(C), begins with its size; integers and pointers, for which zeroes are NULL.
unsafe impl Sized0 for securereg_gguf_tensor {
    const FIRST: usize = offset_of!(securereg_gguf_tensor, size_bytes) + size_of::<u64>();
}

struct Header {
    header: GgufHeader,
    keys: Vec<CString>,
    /// The values that are strings, out of the header, with a NUL behind.
    strings: Vec<Option<Vec<u8>>>,
    tensors: Vec<[CString; 2]>,
}

impl Header {
    fn new(mut header: GgufHeader) -> Result<Header> {
        let mut strings = Vec::new();
        for (_, value) in &mut header.pairs {
            strings.push(match value {
                // Taken, not copied: one may be most of the header.
                Value::String(bytes) => {
                    let mut text = std::mem::take(bytes);
                    text.try_reserve_exact(1)
                        .map_err(|e| Failure::new(SECUREREG_NO_MEMORY, format!("no memory for a GGUF header: {e}")))?;
                    text.push(0);
                    Some(text)
                }
                _ => None,
            });
        }
        Ok(Header {
            keys: header.pairs.iter().map(|(key, _)| c_text(key)).collect(),
            strings,
            tensors: header.tensors.iter().map(|t| [c_text(&t.name), c_text(t.kind.name)]).collect(),
            header,
        })
    }

    fn pair(&self, at: usize) -> securereg_gguf_pair {
        let (_, value) = &self.header.pairs[at];
        let mut pair = securereg_gguf_pair {
            size: 0,
            key: self.keys[at].as_ptr(),
            data: null(),
            data_size: 0,
            count: 1,
            u64_value: 0,
            i64_value: 0,
            f64_value: 0.0,
            value_type: ValueType::Bool as u32,
            array_type: 0,
            index: at as u64,
        };
        match value {
            Value::Unsigned(kind, n) => (pair.value_type, pair.u64_value) = (*kind as u32, *n),
            Value::Signed(kind, n) => (pair.value_type, pair.i64_value) = (*kind as u32, *n),
            Value::Float(kind, n) => (pair.value_type, pair.f64_value) = (*kind as u32, *n),
            Value::Bool(b) => pair.u64_value = u64::from(*b),
            Value::String(_) => {
                pair.value_type = ValueType::String as u32;
                if let Some(text) = &self.strings[at] {
                    (pair.data, pair.data_size) = (text.as_ptr().cast(), text.len() as u64 - 1);
                }
            }
            Value::Array(array) => {
                pair.value_type = ValueType::Array as u32;
                match array {
                    Array::Packed { of, count, bytes } => {
                        (pair.array_type, pair.count) = (*of as u32, *count);
                        (pair.data, pair.data_size) = (bytes.as_ptr().cast(), bytes.len() as u64);
                    }
                    Array::Strings(strings) => {
                        (pair.array_type, pair.count) = (ValueType::String as u32, strings.len() as u64)
                    }
                    Array::Arrays(arrays) => {
                        (pair.array_type, pair.count) = (ValueType::Array as u32, arrays.len() as u64)
                    }
                }
            }
        }
        pair
    }
}

fn header_of(gguf: securereg_gguf) -> Result<std::sync::Arc<Header>> {
    table::find(gguf.id, "gguf")
}

/// An index that is inside, or a failure that says what is not there.
fn inside(index: u64, count: usize, what: &str) -> Result<usize> {
    usize::try_from(index)
        .ok()
        .filter(|at| *at < count)
        .ok_or_else(|| Failure::new(SECUREREG_NOT_FOUND, format!("there are {count} {what}, no {index}")))
}

/// Reads the header of the GGUF file at `path` inside the promoted model `name` (NULL: its only file), verified, and none of
/// its weights. `*out` is the caller's, to be freed with securereg_gguf_free. Thread-safe.
///
/// Errors: SECUREREG_REFUSED when it is not a sound GGUF; else as securereg_file_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_gguf_open(
    registry: securereg_registry,
    name: *const c_char,
    path: *const c_char,
    out: *mut securereg_gguf,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for the strings and for `out`.
        let (name, path, out) = unsafe { (name_of(name)?, args::optional_text(path, "path")?, Out::new(out, "out")?) };
        let registry = find(registry)?;
        let path = file_of(&registry, &name, path)?;
        let header = registry.open_file(&name, &path, ReadMode::Cached)?.gguf_header().map_err(|e| e.on(&name))?;
        out.put(securereg_gguf { id: table::insert(Header::new(header)?)? });
        Ok(())
    })
}

/// What the header says in numbers. Set `info->size` first. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_gguf_get(
    gguf: securereg_gguf,
    info: *mut securereg_gguf_info,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `info`.
        let out = unsafe { SizedOut::new(info, "info") }?;
        let header = &header_of(gguf)?.header;
        out.put(securereg_gguf_info {
            size: 0,
            pair_count: header.pairs.len() as u64,
            tensor_count: header.tensors.len() as u64,
            data_offset: header.data_offset,
            alignment: header.alignment,
            version: header.version,
            reserved: 0,
        });
        Ok(())
    })
}

/// The metadata pair at `index`, from 0, in file order. Set `pair->size` first. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND from pair_count on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_gguf_pair_at(
    gguf: securereg_gguf,
    index: u64,
    pair: *mut securereg_gguf_pair,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `pair`.
        let out = unsafe { SizedOut::new(pair, "pair") }?;
        let header = header_of(gguf)?;
        out.put(header.pair(inside(index, header.keys.len(), "pairs")?));
        Ok(())
    })
}

/// The metadata pair with this key, such as "general.architecture". Set `pair->size` first. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_gguf_find(
    gguf: securereg_gguf,
    key: *const c_char,
    pair: *mut securereg_gguf_pair,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `key` and `pair`.
        let (key, out) = unsafe { (args::text(key, "key")?, SizedOut::new(pair, "pair")?) };
        let header = header_of(gguf)?;
        let at = header.header.pairs.iter().position(|(known, _)| known == key);
        let none = || Failure::new(SECUREREG_NOT_FOUND, format!("the model has no metadata {key:?}"));
        out.put(header.pair(at.ok_or_else(none)?));
        Ok(())
    })
}

/// The string at `index` of the array that is the metadata pair at `pair`: `*len` bytes at `*data`, which end in no NUL and
/// may not be UTF-8. They belong to the securereg_gguf. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND, SECUREREG_INVALID_INPUT when the pair is no array of strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_gguf_string(
    gguf: securereg_gguf,
    pair: u64,
    index: u64,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `data` and `len`.
        let (data, len) = unsafe { (Out::new(data, "data")?, Out::new(len, "len")?) };
        let header = header_of(gguf)?;
        let (key, value) = &header.header.pairs[inside(pair, header.keys.len(), "pairs")?];
        let Value::Array(Array::Strings(strings)) = value else {
            return Err(Failure::new(SECUREREG_INVALID_INPUT, format!("{key:?} is no array of strings")));
        };
        let text = strings.get(inside(index, strings.len(), "strings")?).unwrap_or_default();
        data.put(text.as_ptr().cast());
        len.put(text.len());
        Ok(())
    })
}

/// The tensor at `index`, from 0, in file order. Set `tensor->size` first. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND from tensor_count on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_gguf_tensor_at(
    gguf: securereg_gguf,
    index: u64,
    tensor: *mut securereg_gguf_tensor,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `tensor`.
        let out = unsafe { SizedOut::new(tensor, "tensor") }?;
        let header = header_of(gguf)?;
        let at = inside(index, header.tensors.len(), "tensors")?;
        let (info, [name, type_name]) = (&header.header.tensors[at], &header.tensors[at]);
        let mut dimensions = [1; 4];
        dimensions.iter_mut().zip(&info.dimensions).for_each(|(to, from)| *to = *from);
        out.put(securereg_gguf_tensor {
            size: 0,
            name: name.as_ptr(),
            type_name: type_name.as_ptr(),
            type_id: info.kind.id,
            dimension_count: info.dimensions.len() as u32,
            dimensions,
            // Both lie inside the file: their sum does.
            offset: header.header.data_offset + info.offset,
            size_bytes: info.size_bytes,
        });
        Ok(())
    })
}

/// Frees a header and what it pointed to. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_gguf_free(gguf: securereg_gguf) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<Header>(gguf.id, "gguf"))
}
