//! One `TensorProto`: its shape, type and bytes, here or in another file.
//!
//! Owns: what is noted of a tensor while its fields come, and the checks when all are there. Promises: a tensor without a
//! finding has exactly the bytes that its shape and type call for, in one place; a path out of it stays below the model's
//! folder. Leaves out: whether the other file is there (`super::check_external`).
//!
//! ```text
//! inline    raw_data, or one typed field: float_data, int32_data, string_data, int64_data, double_data, uint64_data
//! external  data_location = EXTERNAL, external_data: location (a path), offset, length (decimal), checksum (SHA-1)
//! ```

use super::super::description::Tensor;
use super::schema::ELEMENT_TYPES;
use super::*;

/// Dimensions of a tensor: numpy has no more than 64.
const MAX_RANK: usize = 64;
/// Pairs of external data: four are known.
const MAX_ENTRIES: usize = 16;
const STRING: i64 = 8;

/// The fields that values may stand in.
pub(super) const TYPED: [&str; 6] =
    ["float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"];

/// A tensor whose fields are coming.
#[derive(Debug, Default)]
pub(super) struct Coming {
    pub(super) name: Option<String>,
    dims: Vec<u64>,
    /// More than [`MAX_RANK`], or a negative one.
    bad_dims: Option<&'static str>,
    pub(super) data_type: i64,
    pub(super) location: i64,
    /// Where `raw_data` is and how long.
    pub(super) raw: Option<(u64, u64)>,
    /// How many values stand in each of [`TYPED`].
    pub(super) typed: [u64; 6],
    external: Vec<(String, String)>,
    too_many: bool,
    pub(super) segment: bool,
}

/// What is wrong with a tensor.
pub(super) type Wrong = (&'static Rule, String);

impl Coming {
    /// The next dimension.
    pub(super) fn dim(&mut self, dim: u64) {
        if i64::try_from(dim).is_err() {
            self.bad_dims = Some("has a negative dimension");
        } else if self.dims.len() >= MAX_RANK {
            self.bad_dims = Some("has over 64 dimensions");
        } else {
            self.dims.push(dim);
        }
    }

    /// The next pair of external data.
    pub(super) fn entry(&mut self, key: String, value: String) {
        match self.external.len() < MAX_ENTRIES {
            true => self.external.push((key, value)),
            false => self.too_many = true,
        }
    }

    /// The tensor, what is wrong with it, and what it reads of another file: the path and the end there.
    pub(super) fn finish(mut self, path: &RelPath, wrong: &mut Vec<Wrong>) -> (Tensor, Option<(String, u64)>) {
        let name = self.name.take().unwrap_or_default();
        let shown = format!("the tensor {:?}", shorten(&name));
        let mut say = |rule, what: String| wrong.push((rule, format!("{shown} {what}")));

        let element = ELEMENT_TYPES.iter().find(|t| t.0 == self.data_type);
        let outside = self.location == 1;
        if element.is_none() {
            match (self.data_type, outside) {
                (0, true) => {
                    say(&UNTYPED, "has no element type, so its size in the other file is anyone's guess".into())
                }
                (t, _) => {
                    say(&TYPE, format!("has the element type {t}, which does not exist: a loader would guess its size"))
                }
            }
        }
        if let Some(why) = self.bad_dims {
            say(&SHAPE, format!("{why}: a loader would take memory by it"));
        }
        let count = self.dims.iter().try_fold(1i64, |n, d| n.checked_mul(i64::try_from(*d).ok()?));
        let bits = element.map_or(0, |t| t.2);
        let bytes = count.and_then(|n| Some((u64::try_from(n).ok()?).checked_mul(bits)?.div_ceil(8)));
        if self.bad_dims.is_none() && bytes.is_none() {
            say(
                &SHAPE,
                "has more elements or bytes than can be counted: a loader would take too little memory and write past it"
                    .into(),
            );
        }
        if self.segment {
            say(&SEGMENT, "comes in segments, which no loader puts together".into());
        }
        let known = element.is_some() && self.bad_dims.is_none() && bytes.is_some();
        let (count, bytes) = (count.map_or(0, i64::unsigned_abs), bytes.unwrap_or(0));

        let mut reads = None;
        match self.location {
            0 | 1 => {}
            n => say(&LOCATION, format!("has data_location {n}, which does not exist")),
        }
        let inline = usize::from(self.raw.is_some()) + self.typed.iter().filter(|n| **n > 0).count();
        if outside {
            if inline > 0 {
                say(
                    &TWO_DATA,
                    "has its values here and in another file: one loader would take these, another those".into(),
                );
            }
            if self.data_type == STRING {
                say(&TYPE, "is of text, which cannot stand in another file".into());
            }
            reads = self.outside(path, known.then_some(bytes), &mut say);
        } else {
            if !self.external.is_empty() {
                say(&EXTERNAL_UNUSED, "names another file and does not say that its values are there: a loader may read them all the same".into());
            }
            if inline > 1 {
                say(
                    &TWO_DATA,
                    "has its values twice, in different fields: one loader would take these, another those".into(),
                );
            } else if known {
                self.inline(count, bytes, &mut say);
            }
        }
        let dtype = element.map_or_else(|| self.data_type.to_string(), |t| t.1.to_owned());
        let offset = self.raw.map(|(at, _)| at);
        (Tensor { name, dtype, shape: self.dims, offset, size_bytes: bytes }, reads)
    }

    /// Values that stand in the file itself.
    fn inline(&self, count: u64, bytes: u64, say: &mut impl FnMut(&'static Rule, String)) {
        if let Some((_, length)) = self.raw {
            if self.data_type == STRING {
                say(&TYPE, "is of text and has raw bytes, which a loader would take for pointers".into());
            } else if length != bytes {
                say(
                    &SIZE,
                    format!(
                        "has {length} bytes where its shape and type call for {bytes}: a loader would read past their end or leave some out"
                    ),
                );
            }
            return;
        }
        let (field, wanted) = match self.data_type {
            1 => (0, Some(count)),
            14 => (0, count.checked_mul(2)),
            STRING => (2, Some(count)),
            7 => (3, Some(count)),
            11 => (4, Some(count)),
            15 => (4, count.checked_mul(2)),
            12 | 13 => (5, Some(count)),
            // Two or four of the smallest share an int32.
            21..=23 => (1, Some(count.div_ceil(2))),
            25 | 26 => (1, Some(count.div_ceil(4))),
            _ => (1, Some(count)),
        };
        let field_name = TYPED.get(field).copied().unwrap_or_default();
        if let Some((other, _)) = TYPED.iter().zip(self.typed).find(|(name, n)| *n > 0 && **name != field_name) {
            say(&TYPE, format!("has its values in {other}, where its type has them in {field_name}"));
            return;
        }
        let found = self.typed.get(field).copied().unwrap_or(0);
        if Some(found) != wanted {
            let wanted = wanted.map_or_else(|| "more than can be".into(), |n| n.to_string());
            say(
                &SIZE,
                format!(
                    "has {found} values in {field_name} where its shape and type call for {wanted}: a loader would read past their end"
                ),
            );
        }
    }

    /// Values that stand in another file.
    fn outside(
        &self,
        path: &RelPath,
        bytes: Option<u64>,
        say: &mut impl FnMut(&'static Rule, String),
    ) -> Option<(String, u64)> {
        if self.too_many {
            say(
                &EXTERNAL_KEY,
                format!(
                    "has over {MAX_ENTRIES} pairs of external data; location, offset, length and checksum are known"
                ),
            );
        }
        let (mut offset, mut length, mut location) = (0, None, None);
        for (i, (key, value)) in self.external.iter().enumerate() {
            if self.external.iter().take(i).any(|(k, _)| k == key) {
                say(
                    &EXTERNAL_TWICE,
                    format!("gives {:?} twice: one loader would take the first, another the last", shorten(key)),
                );
            }
            match key.as_str() {
                "location" => location = Some(value),
                "offset" | "length" => match decimal(value) {
                    Some(n) if key == "offset" => offset = n,
                    Some(n) => length = Some(n),
                    None => say(
                        &EXTERNAL_RANGE,
                        format!(
                            "has the {key} {:?}, which is no plain number of 63 bits: a loader would read where it likes",
                            shorten(value)
                        ),
                    ),
                },
                "checksum" => {}
                // onnx set any attribute by this name on an object of its own: CVE-2026-34445.
                _ => say(
                    &EXTERNAL_KEY,
                    format!(
                        "has the key {:?} in its external data, which no specification knows: onnx before 1.21 would set it on an object of its own",
                        shorten(key)
                    ),
                ),
            }
        }
        let Some(location) = location else {
            say(&EXTERNAL_PATH, "has its values in another file and does not say in which".into());
            return None;
        };
        if location.contains("_ORT_MEM_ADDR_") {
            say(
                &EXTERNAL_MEMORY,
                format!(
                    "says that its values are at an address in memory ({:?}): ONNX Runtime would read any memory of its process",
                    shorten(location)
                ),
            );
            return None;
        }
        if let Err(why) = below(location) {
            say(
                &EXTERNAL_PATH,
                format!(
                    "has its values in {:?}, {why}: a loader would read a file outside of the model's folder into it",
                    shorten(location)
                ),
            );
            return None;
        }
        if let (Some(length), Some(bytes)) = (length, bytes)
            && length != bytes
        {
            say(
                &SIZE,
                format!(
                    "has {length} bytes in {:?} where its shape and type call for {bytes}: a loader would read past their end or leave some out",
                    shorten(location)
                ),
            );
        }
        let Some(end) = length.or(bytes).unwrap_or(0).checked_add(offset).filter(|end| i64::try_from(*end).is_ok())
        else {
            say(&EXTERNAL_RANGE, format!("ends in {:?} where 63 bits do not reach", shorten(location)));
            return None;
        };
        if location.eq_ignore_ascii_case(path.file_name()) {
            say(
                &EXTERNAL_SELF,
                format!(
                    "has its values in {:?}, the model itself: its metadata would be taken for weights",
                    shorten(location)
                ),
            );
            return None;
        }
        Some((location.clone(), end))
    }
}

/// A number of at most 63 bits, written as digits and nothing else.
fn decimal(text: &str) -> Option<u64> {
    let digits = (1..=19).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && i64::try_from(*n).is_ok())
}

/// Whether a path stays below the folder it starts in, on any system.
fn below(location: &str) -> Result<(), &'static str> {
    let drive = location.as_bytes().get(1) == Some(&b':');
    match location {
        "" => Err("an empty path"),
        l if l.contains('\0') => Err("a path with a NUL in it"),
        l if l.contains('\\') => Err("a path with a backslash in it"),
        l if l.starts_with('/') => Err("an absolute path"),
        l if l.contains("://") || l.starts_with("file:") => Err("a URL"),
        _ if drive => Err("a path with a drive"),
        l if l.starts_with('~') => Err("a path from someone's home"),
        l if l.split('/').any(|c| c == "..") => Err("a path with .. in it"),
        l if l.split('/').any(|c| matches!(c, "" | ".")) => Err("a path that is not in its plain form"),
        l if l.len() > 4 * crate::name::MAX_NAME => Err("a path of over 1020 bytes"),
        _ => Ok(()),
    }
}
