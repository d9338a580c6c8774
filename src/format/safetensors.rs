//! safetensors, by its specification.
//!
//! Owns: the header of a file of tensors and what it says of the bytes behind it. Promises: what passes, the safetensors
//! crate's `SafeTensors::read_metadata` takes too, and every reader sees the same tensors in it: no key twice, no byte that
//! belongs to no tensor or to two. Memory follows what the header holds, and is small until the header is known to be sound.
//! Leaves out: what the tensors are for.
//!
//! ```text
//! 8 bytes   N, length of the header, little-endian, 2..=100,000,000
//! N bytes   {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [BEGIN, END]}, ...,
//!            "__metadata__": {"KEY": "VALUE", ...}}       JSON in UTF-8, begins with '{', may be padded with spaces
//! the rest  the tensors' bytes: BEGIN and END count from here, without holes, to the end of the file
//! ```
//! Source: README.md of huggingface/safetensors, "Format"; `safetensors/src/tensor.rs` there for the rules of `validate`.
//!
//! The header is read twice: once to judge it, with 24 bytes kept of a tensor, and once to describe it. So a hostile header
//! of 100 MB costs no more memory than its judgement.

mod layout;

use super::Kind;
use super::description::{Adapter, Description, Tensor};
use super::finding::{Findings, Halt, Parsed, Place, Rule, Severity, rules};
use super::input::{Input, read_range};
use super::json::{Lexer, Token};
use super::recognise::{Content, also, recognise};
use crate::artifact::Format;
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;
use layout::{Record, check_layout};
use serde_json::Value;

/// The longest header that safetensors' own reader takes.
const HEADER_MAX: u64 = 100_000_000;
/// Tensors of one file. The largest models have some 100,000 in all their files together.
const TENSORS_MAX: u64 = 1 << 18;
/// Dimensions of one tensor; PyTorch and numpy stop at 64.
const DIMS_MAX: usize = 64;
/// Headers up to this are read once and kept while they are looked at.
const HELD_MAX: u64 = 8 << 20;
/// Of a tensor's name; longer ones are odd.
const NAME_MAX: usize = 1024;
/// Spaces behind the header that some alignment could account for.
const PADDING_MAX: u64 = 4096;
/// Of a header that is at fault, tensors that are described.
const SHOWN_OF_BAD: usize = 1000;
/// Of `__metadata__`, values that are described.
const METADATA_SHOWN: usize = 256;

rules! {
    HEADER "safetensors.header" Critical "the file does not begin with a safetensors header: it is something else, or cut short"
    LENGTH "safetensors.header-length" Critical "the header's length is not 2..=100,000,000 or goes past the end of the file"
    JSON "safetensors.json" Critical "the header is no well-formed JSON object, padded with nothing but spaces"
    DUPLICATE "safetensors.duplicate-key" Critical "a key stands twice in an object: one reader takes the first value, another the last"
    METADATA "safetensors.metadata" Critical "__metadata__ is not an object of texts"
    FIELD "safetensors.field" Critical "a tensor's entry is not exactly dtype, shape and data_offsets of the right kinds"
    DTYPE "safetensors.dtype" Critical "a tensor has a type that safetensors does not know"
    SHAPE "safetensors.shape" Critical "a tensor's shape overflows, has too many dimensions or is no whole number of bytes"
    SIZE "safetensors.size" Critical "a tensor's offsets do not span as many bytes as its type and shape need"
    OVERLAP "safetensors.overlap" Critical "two tensors share bytes"
    HOLE "safetensors.hole" Critical "bytes before or between tensors belong to none: something could be hidden in them"
    TRUNCATED "safetensors.truncated" Critical "tensors go past the end of the file"
    TRAILING "safetensors.trailing" Critical "bytes follow the last tensor: another format could begin there"
    LIMIT "safetensors.limit" Critical "the header has more tensors than any model"
    HOSTILE_NAME "safetensors.hostile-name" High "a tensor's name has control or direction characters: two readers or people see two names"
    METADATA_CODE "safetensors.metadata-code" High "a value of __metadata__ names a class or holds a pickle: some loaders build whatever it says"
    ODD_NAME "safetensors.odd-name" Warning "a tensor's name is empty, very long or looks like a path"
    PADDING "safetensors.padding" Warning "the header is padded with more spaces than any alignment needs"
    MISALIGNED "safetensors.misaligned" Warning "tensors do not begin at a multiple of their element's size: some readers copy, some fail"
    POLYGLOT "safetensors.polyglot" Warning "before the last bytes of the file stands what lenient readers take for a zip archive's end"
    EMPTY "safetensors.empty" Warning "there are no tensors"
    WRITER "safetensors.format" Info "which framework wrote the file, as it says itself"
}

/// Bits of an element, by the name of its type (`enum Dtype` of the safetensors crate).
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Looks through a file that its name or its bytes say is safetensors.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut about = Description::new(Kind::Model(Format::Safetensors), "safetensors");
    if let Err(halt) = file(path, input, findings, &mut about) {
        findings.halt(path, halt)?;
    }
    Ok(about)
}

fn file(path: &RelPath, input: &dyn Input, findings: &mut Findings, about: &mut Description) -> Parsed<()> {
    let length = header_length(input)?;
    let held;
    let (header, start): (&dyn Input, u64) = if length <= HELD_MAX {
        held = read_range(input, 8, length, HELD_MAX)?;
        (&held.as_slice(), 0)
    } else {
        (input, 8)
    };
    let (at, data_size) = (8 + length, input.size() - 8 - length);

    let mut first = Judge { path, findings, at, records: Vec::new(), elements: 0, adapts: 0, bad: false };
    let judged = walk(header, start, start + length, &mut first);
    let (records, elements, adapts) = (first.records, first.elements, first.adapts);
    let count = records.len();
    let sound = judged.is_ok() && !first.bad;
    let defects = if judged.is_ok() { check_layout(records, data_size) } else { Vec::new() };

    let named: layout::Names = defects.iter().flat_map(|d| d.tensors()).map(|index| (index, String::new())).collect();
    // Of a header that is at fault no more is read again than is shown of it.
    let (limit, until) = if sound && defects.is_empty() {
        (usize::MAX, u64::MAX)
    } else {
        (SHOWN_OF_BAD, named.keys().last().map_or(0, |last| last + 1).max(SHOWN_OF_BAD as u64))
    };
    let mut second = Describe { about, at, limit, until, count: 0, named };
    // What is wrong has been said in the first pass.
    if let Err(Halt::Failed(e)) = walk(header, start, start + length, &mut second) {
        return Err(e.into());
    }
    let named = second.named;
    for defect in &defects {
        let (rule, place, message) = defect.tell(&named, at);
        findings.add(path, rule, place, message);
    }
    about.tensors.sort_by_key(|t| (t.offset, t.size_bytes));
    about.what = format!("safetensors, {count} tensors, {elements} elements");
    about.adapter = adapter(about, adapts);
    judged?;
    if count == 0 {
        findings.add(path, &EMPTY, Place::whole(), "there are no tensors in the file");
    }
    if !at.is_multiple_of(8) {
        let message = format!("the tensors begin at byte {at} of the file, which is no multiple of 8");
        findings.add(path, &MISALIGNED, Place::at(at), message);
    }
    zip_at_the_end(path, input, findings)
}

/// The header's length, when the file begins with one.
fn header_length(input: &dyn Input) -> Parsed<u64> {
    let size = input.size();
    let head = read_range(input, 0, size.min(64), 64)?;
    let Some((length, rest)) = head.split_first_chunk::<8>() else {
        let message =
            format!("the file has {size} bytes: a safetensors file begins with 8 that tell its header's length");
        return Err(Halt::found(&HEADER, Place::whole(), message));
    };
    let length = u64::from_le_bytes(*length);
    if rest.first() != Some(&b'{') {
        let message = match (rest.first(), recognise(input)?) {
            (None, _) => "the file ends where its header should begin".to_owned(),
            (Some(byte), Content::Unknown | Content::Text) => {
                format!("the header begins with the byte {byte:#04x}, not with '{{'")
            }
            (_, content) => format!("the file is named safetensors and is {}", content.name()),
        };
        return Err(Halt::found(&HEADER, Place::at(8), message));
    }
    if !(2..=HEADER_MAX).contains(&length) {
        let message = format!("the header claims to be {length} bytes long; 2 to {HEADER_MAX} are allowed");
        return Err(Halt::found(&LENGTH, Place::at(0), message));
    }
    if length > size - 8 {
        let message = format!("the header claims to be {length} bytes long; the file has {} after it", size - 8);
        return Err(Halt::found(&LENGTH, Place::at(0), message));
    }
    Ok(length)
}

/// A tensor's entry, complete.
struct Entry {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
    /// Where its name stands in the file.
    at: u64,
}

/// What is done with what a header holds.
trait Visit {
    /// A tensor.
    fn tensor(&mut self, entry: Entry) -> Parsed<()>;
    /// A value of `__metadata__`.
    fn metadata(&mut self, key: &str, value: &str);
    /// How many spaces follow the JSON.
    fn padding(&mut self, spaces: u64, at: u64);
}

/// Walks over a header, which must be of the right form throughout.
fn walk(header: &dyn Input, start: u64, end: u64, visit: &mut dyn Visit) -> Parsed<()> {
    let mut lexer = Lexer::new(header, start, end, &JSON).shifted(8 - start);
    lexer.next()?;
    while let Some(token) = lexer.next()? {
        let Token::Key { name, again } = token else { continue };
        let name = name.to_owned();
        once(&name, again, lexer.token_at())?;
        if name == "__metadata__" {
            metadata(&mut lexer, visit)?;
        } else {
            visit.tensor(tensor(&mut lexer, name)?)?;
        }
    }
    let at = lexer.position();
    let spaces = lexer.finish(b" ")?;
    visit.padding(spaces, at);
    Ok(())
}

fn once(key: &str, again: bool, at: u64) -> Parsed<()> {
    if !again {
        return Ok(());
    }
    let message =
        format!("the key {:?} stands twice in its object: readers differ in which value they take", shorten(key));
    Err(Halt::found(&DUPLICATE, Place::part_at(key, at), message))
}

fn metadata(lexer: &mut Lexer<'_>, visit: &mut dyn Visit) -> Parsed<()> {
    if lexer.next()? != Some(Token::Object) {
        let message = "the value of \"__metadata__\" is not an object of texts";
        return Err(Halt::found(&METADATA, Place::part_at("__metadata__", lexer.token_at()), message));
    }
    while let Some(Token::Key { name, again }) = lexer.next()? {
        let key = name.to_owned();
        once(&key, again, lexer.token_at())?;
        let Some(Token::Text(value)) = lexer.next()? else {
            let message = format!("the value of {:?} in \"__metadata__\" is not a text", shorten(&key));
            return Err(Halt::found(&METADATA, Place::part_at(&key, lexer.token_at()), message));
        };
        visit.metadata(&key, value);
    }
    Ok(())
}

/// The fields of a tensor's entry, as bits of those that were there.
const DTYPE_FIELD: u8 = 1;
const SHAPE_FIELD: u8 = 2;
const OFFSETS_FIELD: u8 = 4;

fn tensor(lexer: &mut Lexer<'_>, name: String) -> Parsed<Entry> {
    let at = lexer.token_at();
    let wrong = |at: u64, what: &str| {
        let message = format!("the entry of the tensor {:?} {what}", shorten(&name));
        Halt::found(&FIELD, Place::part_at(&name, at), message)
    };
    if lexer.next()? != Some(Token::Object) {
        return Err(wrong(lexer.token_at(), "is not an object"));
    }
    let (mut dtype, mut shape, mut offsets, mut fields) = (String::new(), Vec::new(), Vec::new(), 0);
    while let Some(Token::Key { name: field, again }) = lexer.next()? {
        let field = field.to_owned();
        once(&field, again, lexer.token_at())?;
        match field.as_str() {
            "dtype" => {
                let Some(Token::Text(text)) = lexer.next()? else {
                    return Err(wrong(lexer.token_at(), "has a \"dtype\" that is not a text"));
                };
                // Cut: no type that is known is long.
                dtype = shorten(text);
                fields |= DTYPE_FIELD;
            }
            "shape" => {
                let all = integers(lexer, DIMS_MAX)?;
                shape = all.ok_or_else(|| {
                    wrong(lexer.token_at(), "has a \"shape\" that is not a list of up to 64 whole numbers")
                })?;
                fields |= SHAPE_FIELD;
            }
            "data_offsets" => {
                offsets = integers(lexer, 2)?.unwrap_or_default();
                if offsets.len() != 2 {
                    return Err(wrong(
                        lexer.token_at(),
                        "has \"data_offsets\" that are not a list of two whole numbers",
                    ));
                }
                fields |= OFFSETS_FIELD;
            }
            other => {
                return Err(wrong(lexer.token_at(), &format!("has a field {:?}, which is unknown", shorten(other))));
            }
        }
    }
    for (field, word) in [(DTYPE_FIELD, "dtype"), (SHAPE_FIELD, "shape"), (OFFSETS_FIELD, "data_offsets")] {
        if fields & field == 0 {
            return Err(wrong(at, &format!("has no {word:?}")));
        }
    }
    let [begin, end] = offsets[..] else { return Err(wrong(at, "has no two offsets")) };
    Ok(Entry { name, dtype, shape, begin, end, at })
}

/// A list of at most `limit` whole numbers; none when it is something else.
fn integers(lexer: &mut Lexer<'_>, limit: usize) -> Parsed<Option<Vec<u64>>> {
    if lexer.next()? != Some(Token::List) {
        return Ok(None);
    }
    let mut all = Vec::new();
    loop {
        match lexer.next()? {
            Some(Token::ListEnd) => return Ok(Some(all)),
            Some(Token::Integer(n)) if all.len() < limit => all.push(n),
            _ => return Ok(None),
        }
    }
}

/// The first pass: is it sound?
struct Judge<'a> {
    path: &'a RelPath,
    findings: &'a mut Findings,
    /// Where the tensors' bytes begin in the file.
    at: u64,
    records: Vec<Record>,
    elements: u64,
    /// Which of [`ADAPTER_NAMES`] were seen, as bits.
    adapts: u32,
    /// Whether a tensor is at fault.
    bad: bool,
}

impl Judge<'_> {
    fn add(&mut self, rule: &'static Rule, entry: &Entry, message: &str) {
        self.bad |= rule.severity == Severity::Critical;
        let message = format!("the tensor {:?} {message}", shorten(&entry.name));
        self.findings.add(self.path, rule, Place::part_at(&entry.name, entry.at), message);
    }

    fn name(&mut self, entry: &Entry) {
        let name = entry.name.as_str();
        if name.chars().any(is_hostile) {
            self.add(
                &HOSTILE_NAME,
                entry,
                "has a control or direction character in its name: readers that stop there see another name",
            );
        }
        let path = name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|c| c == "..");
        if name.is_empty() || name.len() > NAME_MAX || path {
            self.add(&ODD_NAME, entry, &format!("has an odd name of {} bytes", name.len()));
        }
    }

    /// Whether type and shape are sound and need the bytes that the offsets span.
    fn size(&mut self, entry: &Entry) {
        let Some(bits) = bits(&entry.dtype) else {
            return self.add(
                &DTYPE,
                entry,
                &format!("has the type {:?}, which safetensors does not know", entry.dtype),
            );
        };
        let shape = &entry.shape;
        // A zero makes no room for other dimensions that overflow: readers multiply in either order.
        let whole = shape.iter().filter(|n| **n != 0).try_fold(1u64, |all, n| all.checked_mul(*n));
        let total = whole.and_then(|n| n.checked_mul(bits));
        let total = total.map(|bits| if shape.contains(&0) { 0 } else { bits });
        let Some(total) = total else {
            return self.add(
                &SHAPE,
                entry,
                &format!("has the shape {shape:?}, whose size overflows: a reader would take too little memory"),
            );
        };
        if !total.is_multiple_of(8) {
            return self.add(&SHAPE, entry, &format!("has {total} bits, which is no whole number of bytes"));
        }
        let span = entry.end - entry.begin;
        if total / 8 != span {
            return self.add(
                &SIZE,
                entry,
                &format!("needs {} bytes and has {span}: a reader would go past them", total / 8),
            );
        }
        let place = self.at.saturating_add(entry.begin);
        if !place.is_multiple_of((bits / 8).max(1)) && self.at.is_multiple_of(8) {
            self.add(
                &MISALIGNED,
                entry,
                &format!("begins at byte {place}, which is no multiple of its element's size"),
            );
        }
    }
}

/// Characters that end, hide or turn around a name: C0, C1, and those of bidirectional text or without width.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl Visit for Judge<'_> {
    fn tensor(&mut self, entry: Entry) -> Parsed<()> {
        let index = self.records.len() as u64;
        if index >= TENSORS_MAX {
            let message = format!("the header has over {TENSORS_MAX} tensors");
            return Err(Halt::found(&LIMIT, Place::at(entry.at), message));
        }
        self.name(&entry);
        for (bit, (part, _)) in ADAPTER_NAMES.iter().enumerate() {
            self.adapts |= u32::from(entry.name.contains(part)) << bit;
        }
        if entry.begin > entry.end {
            let (begin, end) = (entry.begin, entry.end);
            let message = format!("the tensor {:?} ends at {end}, before it begins at {begin}", shorten(&entry.name));
            return Err(Halt::found(&SIZE, Place::part_at(&entry.name, entry.at), message));
        }
        self.size(&entry);
        self.elements = self.elements.saturating_add(entry.shape.iter().fold(1, |all, n| n.saturating_mul(all)));
        self.records.push(Record { begin: entry.begin, end: entry.end, index });
        Ok(())
    }

    fn metadata(&mut self, key: &str, value: &str) {
        if key == "format" {
            let message = format!("the file says that it was written for {:?}", shorten(value));
            self.findings.add(self.path, &WRITER, Place::part("__metadata__"), message);
        }
        // Hydra and jsonpickle build what these name; a pickle of protocol 4 in base64 begins so.
        let named = ["_target_", "py/object", "py/reduce", "__reduce__"]
            .iter()
            .find(|w| key.contains(**w) || value.contains(**w));
        if let Some(what) = named.or_else(|| value.starts_with("gASV").then_some(&"a pickle")) {
            let message = format!(
                "the value of {:?} in \"__metadata__\" holds {what:?}: a loader that builds from it runs code",
                shorten(key)
            );
            self.findings.add(self.path, &METADATA_CODE, Place::part(key), message);
        }
    }

    fn padding(&mut self, spaces: u64, at: u64) {
        if spaces > PADDING_MAX {
            let message = format!("{spaces} spaces follow the header");
            self.findings.add(self.path, &PADDING, Place::at(at), message);
        }
    }
}

/// The second pass: what is in it?
struct Describe<'a> {
    about: &'a mut Description,
    at: u64,
    /// How many are described, and how many looked at.
    limit: usize,
    until: u64,
    count: u64,
    /// Tensors whose names are wanted.
    named: layout::Names,
}

impl Visit for Describe<'_> {
    fn tensor(&mut self, entry: Entry) -> Parsed<()> {
        if let Some(name) = self.named.get_mut(&self.count) {
            *name = shorten(&entry.name);
        }
        self.count += 1;
        if self.about.tensors.len() < self.limit {
            let Entry { name, dtype, shape, begin, end, .. } = entry;
            let (offset, size_bytes) = (Some(self.at.saturating_add(begin)), end.saturating_sub(begin));
            self.about.tensors.push(Tensor { name, dtype, shape, offset, size_bytes });
        }
        if self.count >= self.until {
            return Err(Halt::found(&LIMIT, Place::whole(), "enough was seen of a header that is at fault"));
        }
        Ok(())
    }

    fn metadata(&mut self, key: &str, value: &str) {
        if self.about.metadata.len() < METADATA_SHOWN {
            let cut = shorten(value);
            let shown = if cut.len() < value.len() { format!("text of {} bytes: {cut}", value.len()) } else { cut };
            self.about.metadata.insert(shorten(key), Value::String(shown));
        }
    }

    fn padding(&mut self, _: u64, _: u64) {}
}

/// What the names of an adapter's tensors hold, and what it is then; the first that was seen counts.
const ADAPTER_NAMES: [(&str, &str); 12] = [
    ("lora_magnitude_vector", "dora"),
    ("dora_scale", "dora"),
    ("hada_w1", "loha"),
    ("lokr_w", "lokr"),
    ("oft_", "oft"),
    ("ia3_l", "ia3"),
    ("lora_A", "lora"),
    ("lora_B", "lora"),
    ("lora_up", "lora"),
    ("lora_down", "lora"),
    ("lora_embedding_", "lora"),
    ("prompt_embeddings", "prompt_tuning"),
];

/// Where the metadata names the base, the surest first.
const BASES: [&str; 5] =
    ["base_model_name_or_path", "base_model", "ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"];

fn adapter(about: &Description, seen: u32) -> Option<Adapter> {
    let text = |key: &str| about.metadata.get(key).and_then(Value::as_str).map(str::to_owned);
    let by_name = ADAPTER_NAMES.iter().enumerate().find(|(bit, _)| seen >> bit & 1 == 1).map(|(_, (_, kind))| *kind);
    let kind = by_name.or_else(|| text("ss_network_module").map(|_| "lora"))?;
    let base = BASES.iter().find_map(|key| text(key)).unwrap_or_default();
    Some(Adapter { kind: kind.to_owned(), base })
}

/// The end of a zip archive (APPNOTE 4.3.16): 22 bytes and a comment of up to 65,535.
const ZIP_END: u64 = 22 + 65_535;

/// A tensor's bytes may be anything, also an archive: then two programs see two things in the file.
fn zip_at_the_end(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Parsed<()> {
    // One that ends where the file does was told of when the file was recognised.
    if also(input, Content::Safetensors)? == Some(Content::Zip) {
        return Ok(());
    }
    let size = input.size();
    let from = size.saturating_sub(ZIP_END);
    let tail = read_range(input, from, size - from, ZIP_END)?;
    let number = |at: usize, n: usize| {
        tail.get(at..at + n).map(|b| b.iter().rev().fold(0u64, |all, b| all << 8 | u64::from(*b)))
    };
    let end = tail.windows(4).enumerate().filter(|(_, w)| *w == b"PK\x05\x06").find(|(at, _)| {
        // The directory lies before its end, and the comment within the file.
        let (directory, comment) = (number(at + 12, 4).zip(number(at + 16, 4)), number(at + 20, 2));
        directory.is_some_and(|(n, offset)| n + offset <= from + *at as u64)
            && comment.is_some_and(|n| *at as u64 + 22 + n <= tail.len() as u64)
    });
    if let Some((at, _)) = end {
        let message =
            "the end of the file reads as a zip archive's directory: what opens it as an archive sees other content";
        findings.add(path, &POLYGLOT, Place::at(from + at as u64), message);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
