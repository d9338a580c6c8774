//! What a file is, by its content alone.
//!
//! Owns: [`Content`] and [`recognise`], which tells it; [`agree`] and [`inspect`], which hold it against the file's name.
//! Promises: no name is looked at for what a file is; a magic number of few bytes is believed only when more bears it out;
//! a few reads of the start and the end are enough, but for text, which is looked at whole. Leaves out: whether what it
//! claims to be is sound (each format's `inspect`).
//!
//! ```text
//! head, 4 KiB    magic numbers; GGUF, safetensors' length and brace, PROTO of a pickle, a tar's checksum
//! whole top      protobufs have no magic: the top level is walked to the end, and its fields tell which it is
//! tail           a zip's end record, exactly at the end: the only way to know one that begins with something else
//! 512 << n       HDF5 after a user block
//! ```
//! Sources: the formats' specifications; for magic numbers file(1)'s database.

mod names;
mod pickled;
mod proto;
#[cfg(test)]
mod tests;

pub(crate) use names::{RULES, Standing, inspect, is_code_name, is_model_name};

use super::input::{Input, read_range};
use super::protobuf::Utf8;
use super::tar::is_tar;
use crate::error::Result;

/// The longest safetensors header that its loaders read. One that claims less is safetensors, if only cut short.
const MAX_SAFETENSORS: u64 = 100_000_000;
/// Bytes of the start that are looked at.
const HEAD: u64 = 4096;
/// Text longer than this is not looked at to its end.
const MAX_TEXT: u64 = 256 << 20;
/// How far from the end a zip's end record may begin: 22 bytes and the longest comment.
const ZIP_TAIL: u64 = 22 + 65_535;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Gguf,
    BigEndianGguf,
    Safetensors,
    /// Also one that begins with something else.
    Zip,
    Keras,
    /// A pickle, or what looks like the start of one.
    Pickle,
    Tar,
    /// `torch.save` before zip: several pickles, the first of them a number.
    TorchLegacy,
    Onnx,
    Numpy,
    Hdf5,
    TfLite,
    /// TensorFlow's SavedModel or GraphDef.
    TensorFlow,
    ExecuTorch,
    /// ONNX Runtime's own format.
    Ort,
    TorchMobile,
    CoreMl,
    SentencePiece,
    Llamafile,
    Elf,
    Pe,
    MachO,
    JavaClass,
    Wasm,
    PythonBytecode,
    LuaBytecode,
    WindowsShortcut,
    Script,
    Html,
    Php,
    Xml,
    Json,
    Gzip,
    Xz,
    Bzip2,
    Zstd,
    Lz4,
    SevenZip,
    Rar,
    Cab,
    Ar,
    Iso,
    Sqlite,
    Ole,
    Pdf,
    Rtf,
    Image,
    Media,
    OldGgml,
    LfsPointer,
    Empty,
    /// UTF-8 without NUL.
    Text,
    Unknown,
}

/// What is done with a content that is no model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Models and their companions, each with an inspection of its own.
    Known,
    Executable,
    Archive,
    /// A model format that is not allowed.
    OtherModel,
    Page,
    /// Documents, pictures, sound.
    Document,
    /// Each with a rule of its own, or none.
    Else,
}

impl Content {
    /// What it is, for a sentence: "its content is ...".
    pub(crate) fn name(self) -> &'static str {
        self.about().0
    }

    pub(super) fn sort(self) -> Sort {
        self.about().1
    }

    fn about(self) -> (&'static str, Sort) {
        use Sort::*;
        match self {
            Content::Gguf => ("a GGUF", Known),
            Content::BigEndianGguf => ("a big-endian GGUF", Known),
            Content::Safetensors => ("safetensors", Known),
            Content::Zip => ("a zip archive", Known),
            Content::Keras => ("a Keras model", OtherModel),
            Content::Pickle => ("a Python pickle", Known),
            Content::Tar => ("a tar archive", Known),
            Content::TorchLegacy => ("PyTorch's format before 1.6, pickles in a row", Known),
            Content::Onnx => ("ONNX", Known),
            Content::Numpy => ("a NumPy array", Known),
            Content::Hdf5 => ("HDF5", OtherModel),
            Content::TfLite => ("a TensorFlow Lite model", OtherModel),
            Content::TensorFlow => ("a TensorFlow graph", OtherModel),
            Content::ExecuTorch => ("an ExecuTorch program", OtherModel),
            Content::Ort => ("a model in ONNX Runtime's own format", OtherModel),
            Content::TorchMobile => ("a PyTorch Mobile model", OtherModel),
            Content::CoreMl => ("a Core ML model", OtherModel),
            Content::SentencePiece => ("a SentencePiece vocabulary", Known),
            Content::Llamafile => ("a llamafile, a program for any system", Else),
            Content::Elf => ("a program or library for Linux (ELF)", Executable),
            Content::Pe => ("a program or library for Windows (PE)", Executable),
            Content::MachO => ("a program or library for macOS (Mach-O)", Executable),
            Content::JavaClass => ("a Java class", Executable),
            Content::Wasm => ("WebAssembly", Executable),
            Content::PythonBytecode => ("compiled Python", Executable),
            Content::LuaBytecode => ("compiled Lua", Executable),
            Content::WindowsShortcut => ("a Windows shortcut, which starts what it names", Executable),
            Content::Script => ("a script", Executable),
            Content::Html => ("an HTML page", Page),
            Content::Php => ("a PHP script", Page),
            Content::Xml => ("XML", Page),
            Content::Json => ("JSON", Known),
            Content::Gzip => ("a gzip archive", Archive),
            Content::Xz => ("an xz archive", Archive),
            Content::Bzip2 => ("a bzip2 archive", Archive),
            Content::Zstd => ("a Zstandard archive", Archive),
            Content::Lz4 => ("an LZ4 archive", Archive),
            Content::SevenZip => ("a 7-Zip archive", Archive),
            Content::Rar => ("a RAR archive", Archive),
            Content::Cab => ("a Windows cabinet", Archive),
            Content::Ar => ("an ar archive or Debian package", Archive),
            Content::Iso => ("a disk image (ISO 9660)", Archive),
            Content::Sqlite => ("an SQLite database", Archive),
            Content::Ole => ("an OLE container, as of Office or an installer", Archive),
            Content::Pdf => ("a PDF", Document),
            Content::Rtf => ("an RTF document", Document),
            Content::Image => ("a picture", Document),
            Content::Media => ("sound or video", Document),
            Content::OldGgml => ("an old ggml file, from before GGUF", Else),
            Content::LfsPointer => ("a Git LFS pointer, not the file", Else),
            Content::Empty => ("nothing: it is empty", Else),
            Content::Text => ("text", Known),
            Content::Unknown => ("of no format that is known here", Else),
        }
    }

    /// Whether the bytes of a file of raw weights could be this by chance, or could be taken for it: a magic number of four
    /// bytes or more says that they are not. For files that an ONNX model names as its external data.
    pub(crate) fn may_be_raw(self) -> bool {
        matches!(
            self,
            Content::Unknown | Content::Text | Content::Json | Content::Empty | Content::Pickle | Content::Gzip
        )
    }
}

/// Tells what a file is.
///
/// # Errors
/// It cannot be read.
pub(crate) fn recognise(input: &dyn Input) -> Result<Content> {
    let size = input.size();
    if size == 0 {
        return Ok(Content::Empty);
    }
    let head = read_range(input, 0, size.min(HEAD), HEAD)?;
    if let Some(content) = by_magic(&head, size) {
        return match content {
            Content::Zip if is_keras(input)? => Ok(Content::Keras),
            _ => Ok(content),
        };
    }
    if let Some(content) = by_place(input, &head)? {
        return Ok(content);
    }
    if let Some(content) = by_words(&head) {
        return Ok(content);
    }
    if pickled::looks_like(&head, head.len() as u64 == size) {
        return Ok(Content::Pickle);
    }
    if let Some(content) = proto::by_fields(input)? {
        return Ok(content);
    }
    let text = is_text(input, &head)?;
    if zip_end(input)?.is_some() {
        return Ok(Content::Zip);
    }
    Ok(match text {
        true if first_word(&head).starts_with(b"{") || first_word(&head).starts_with(b"[") => Content::Json,
        true => Content::Text,
        false => Content::Unknown,
    })
}

/// What begins as this does and is something else too, for one who reads from the end or from further on.
pub(crate) fn also(input: &dyn Input, content: Content) -> Result<Option<Content>> {
    if !matches!(content, Content::Zip | Content::Keras | Content::Llamafile) && zip_end(input)?.is_some() {
        return Ok(Some(Content::Zip));
    }
    if content != Content::Hdf5 && hdf5(input, HEAD)? {
        return Ok(Some(Content::Hdf5));
    }
    Ok(None)
}

/// Magic numbers at the start, longest first where one begins another: the bytes, where, what.
const MAGICS: &[(&[u8], usize, Content)] = &[
    (b"MZqFpD", 0, Content::Llamafile),
    (b"jartsr", 0, Content::Llamafile),
    (b"APEDBG", 0, Content::Llamafile),
    (b"\x93NUMPY", 0, Content::Numpy),
    (b"\x89HDF\r\n\x1a\n", 0, Content::Hdf5),
    (b"PK\x03\x04", 0, Content::Zip),
    (b"PK\x05\x06", 0, Content::Zip),
    (b"PK\x07\x08", 0, Content::Zip),
    (b"PK00PK", 0, Content::Zip),
    (b"\x7fELF", 0, Content::Elf),
    (b"\xfe\xed\xfa\xce", 0, Content::MachO),
    (b"\xfe\xed\xfa\xcf", 0, Content::MachO),
    (b"\xce\xfa\xed\xfe", 0, Content::MachO),
    (b"\xcf\xfa\xed\xfe", 0, Content::MachO),
    (b"\xca\xfe\xba\xbf", 0, Content::MachO),
    (b"\xbe\xba\xfe\xca", 0, Content::MachO),
    (b"\0asm", 0, Content::Wasm),
    (b"dex\n03", 0, Content::JavaClass),
    (b"\x1bLua", 0, Content::LuaBytecode),
    (b"\x1bLJ", 0, Content::LuaBytecode),
    (b"BC\xc0\xde", 0, Content::Elf),
    (b"L\0\0\0\x01\x14\x02\0", 0, Content::WindowsShortcut),
    (b"lmgg", 0, Content::OldGgml),
    (b"fmgg", 0, Content::OldGgml),
    (b"tjgg", 0, Content::OldGgml),
    (b"algg", 0, Content::OldGgml),
    (b"ggml", 0, Content::OldGgml),
    (b"ggmf", 0, Content::OldGgml),
    (b"ggjt", 0, Content::OldGgml),
    (b"ggla", 0, Content::OldGgml),
    (b"version https://git-lfs.", 0, Content::LfsPointer),
    (b"version https://hawser.", 0, Content::LfsPointer),
    (b"# xet version ", 0, Content::LfsPointer),
    (b"7z\xbc\xaf\x27\x1c", 0, Content::SevenZip),
    (b"Rar!\x1a\x07", 0, Content::Rar),
    (b"MSCF\0\0\0\0", 0, Content::Cab),
    (b"!<arch>\n", 0, Content::Ar),
    (b"\xfd7zXZ\0", 0, Content::Xz),
    (b"\x28\xb5\x2f\xfd", 0, Content::Zstd),
    (b"\x04\x22\x4d\x18", 0, Content::Lz4),
    (b"\x1f\x8b\x08", 0, Content::Gzip),
    (b"BZh", 0, Content::Bzip2),
    (b"SQLite format 3\0", 0, Content::Sqlite),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0, Content::Ole),
    (b"%PDF-", 0, Content::Pdf),
    (b"{\\rtf", 0, Content::Rtf),
    (b"\x89PNG\r\n\x1a\n", 0, Content::Image),
    (b"\xff\xd8\xff", 0, Content::Image),
    (b"GIF8", 0, Content::Image),
    (b"II*\0", 0, Content::Image),
    (b"MM\0*", 0, Content::Image),
    (b"WEBP", 8, Content::Image),
    (b"RIFF", 0, Content::Media),
    (b"OggS", 0, Content::Media),
    (b"fLaC", 0, Content::Media),
    (b"ID3\x03", 0, Content::Media),
    (b"ID3\x04", 0, Content::Media),
    (b"ftyp", 4, Content::Media),
    (b"TFL3", 4, Content::TfLite),
    (b"ET12", 4, Content::ExecuTorch),
    (b"ORTM", 4, Content::Ort),
    (b"PTMF", 4, Content::TorchMobile),
];

fn by_magic(head: &[u8], size: u64) -> Option<Content> {
    let at = |place: usize, magic: &[u8]| head.get(place..).is_some_and(|rest| rest.starts_with(magic));
    let word = |place: usize| head.get(place..)?.first_chunk::<4>().map(|w| u32::from_le_bytes(*w));
    if at(0, b"GGUF") && !is_words(head) {
        // A version read in the wrong order has its small number in the high byte.
        let swapped = word(4).is_some_and(|v| v != 0 && v & 0xffff == 0);
        return Some(if swapped { Content::BigEndianGguf } else { Content::Gguf });
    }
    if at(0, b"FUGG") {
        return Some(Content::BigEndianGguf);
    }
    if let Some(length) = head.first_chunk::<8>()
        && u64::from_le_bytes(*length) <= size.max(MAX_SAFETENSORS)
        && at(8, b"{")
    {
        return Some(Content::Safetensors);
    }
    if let Some((.., content)) =
        MAGICS.iter().find(|(magic, place, content)| at(*place, magic) && borne_out(head, *content))
    {
        return Some(*content);
    }
    if at(0, b"\xca\xfe\xba\xbe") {
        // A Mach-O for several machines counts them here; a class has its version, 45 or later.
        let count = head.get(4..8).and_then(|w| w.first_chunk::<4>()).map(|w| u32::from_be_bytes(*w));
        return Some(if count.is_some_and(|n| n < 45) { Content::MachO } else { Content::JavaClass });
    }
    // CPython 3's number of the version, from 3000 up, and "\r\n"; then flags and sizes or the like, never without a zero.
    if let [first, 0x0b..=0x0f, b'\r', b'\n', rest @ ..] = head
        && (first & 0x80 != 0 || rest.iter().take(12).any(|b| *b == 0))
    {
        return Some(Content::PythonBytecode);
    }
    if pickled::is_torch_magic(head) {
        return Some(Content::TorchLegacy);
    }
    // PROTO and a protocol that exists.
    if let [0x80, 2..=5, ..] = head {
        return Some(Content::Pickle);
    }
    is_tar(head).then_some(Content::Tar)
}

/// Words for people, long enough to tell: a text may begin with the name of a format.
fn is_words(head: &[u8]) -> bool {
    head.len() >= 64 && head.is_ascii() && pickled::printable(head)
}

/// For magic numbers that chance or ordinary text could give: whether what follows agrees.
fn borne_out(head: &[u8], content: Content) -> bool {
    match content {
        Content::Bzip2 => matches!(
            head.get(3..10),
            Some([b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] | [b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90])
        ),
        Content::OldGgml => !pickled::printable(head),
        Content::Image | Content::Media | Content::TfLite | Content::ExecuTorch => !is_words(head),
        _ => true,
    }
}

/// Signatures further on.
fn by_place(input: &dyn Input, head: &[u8]) -> Result<Option<Content>> {
    if head.starts_with(b"MZ") && is_pe(input, head)? {
        return Ok(Some(Content::Pe));
    }
    if hdf5(input, u64::MAX)? {
        return Ok(Some(Content::Hdf5));
    }
    let mut mark = [0; 5];
    if input.size() >= 0x8001 + 5 {
        input.read_at(0x8001, &mut mark)?;
    }
    Ok((mark == *b"CD001").then_some(Content::Iso))
}

/// The old header's last word says where the new one is. Two letters alone are no magic number for a large file of weights.
fn is_pe(input: &dyn Input, head: &[u8]) -> Result<bool> {
    let new = head.get(0x3c..).and_then(|w| w.first_chunk::<4>()).map(|w| u64::from(u32::from_le_bytes(*w)));
    let mut mark = [0; 4];
    match new.filter(|new| new + 4 <= input.size()) {
        Some(new) => input.read_at(new, &mut mark)?,
        None => return Ok(input.size() < HEAD && !pickled::printable(head)),
    }
    Ok(mark == *b"PE\0\0" || mark.starts_with(b"NE") || mark.starts_with(b"LE"))
}

/// HDF5's signature stands at 0, 512, 1024, 2048, ... (HDF5 file format specification, II.A).
fn hdf5(input: &dyn Input, limit: u64) -> Result<bool> {
    let mut at = 512u64;
    while at < limit && at.checked_add(8).is_some_and(|end| end <= input.size()) {
        let mut mark = [0; 8];
        input.read_at(at, &mut mark)?;
        if mark == *b"\x89HDF\r\n\x1a\n" {
            return Ok(true);
        }
        at = at.saturating_mul(2);
    }
    Ok(false)
}

/// The text without a byte order mark and blanks.
fn first_word(head: &[u8]) -> &[u8] {
    head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start()
}

/// Scripts and pages, by their first words.
fn by_words(head: &[u8]) -> Option<Content> {
    let whole = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    // `#![` begins a file of Rust.
    if whole.starts_with(b"#!") && !whole.starts_with(b"#![") {
        return Some(Content::Script);
    }
    let mut text = first_word(head);
    // A page may begin with comments.
    let mut comment = false;
    for _ in 0..64 {
        let Some(rest) = text.strip_prefix(b"<!--") else { break };
        let Some(end) = rest.windows(3).position(|w| w == b"-->") else { break };
        text = rest.get(end + 3..).unwrap_or_default().trim_ascii_start();
        comment = true;
    }
    let starts = |word: &str| {
        text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word.as_bytes()))
            && text.get(word.len()).is_none_or(|next| !next.is_ascii_alphanumeric())
    };
    if starts("<!doctype") || ["<html", "<head", "<body", "<script", "<iframe"].iter().any(|w| starts(w)) {
        return Some(Content::Html);
    }
    if comment {
        return None;
    }
    if starts("<?php") || starts("<?") && !starts("<?xml") {
        return Some(Content::Php);
    }
    (starts("<?xml") || starts("<svg")).then_some(Content::Xml)
}

/// Whether all of it is UTF-8 without NUL.
fn is_text(input: &dyn Input, head: &[u8]) -> Result<bool> {
    let mut utf8 = Utf8::default();
    utf8.push(head);
    if !utf8.is_good() || head.contains(&0) || input.size() > MAX_TEXT {
        return Ok(false);
    }
    let mut at = head.len() as u64;
    while at < input.size() {
        let length = (input.size() - at).min(super::input::PIECE as u64);
        let piece = read_range(input, at, length, length)?;
        utf8.push(&piece);
        if !utf8.is_good() || piece.contains(&0) {
            return Ok(false);
        }
        at += length;
    }
    Ok(utf8.is_whole())
}

/// A zip's end record whose comment ends with the file: where its directory begins and how long it is, both as far as the
/// record tells and both within the file.
fn zip_end(input: &dyn Input) -> Result<Option<(u64, u64)>> {
    let size = input.size();
    let tail = read_range(input, size - size.min(ZIP_TAIL), size.min(ZIP_TAIL), ZIP_TAIL)?;
    let start = size - tail.len() as u64;
    let word = |bytes: &[u8], at: usize| -> Option<u64> {
        bytes.get(at..)?.first_chunk::<4>().map(|w| u64::from(u32::from_le_bytes(*w)))
    };
    for (at, record) in tail.windows(22).enumerate().rev() {
        if !record.starts_with(b"PK\x05\x06") {
            continue;
        }
        let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
        let (Some(length), Some(offset)) = (word(record, 12), word(record, 16)) else { continue };
        let place = start + at as u64;
        // A zip64's record says 0xffffffff; one with bytes before it has its offset too low.
        let plausible = length == 0xffff_ffff || length.saturating_add(offset) <= place || offset == 0xffff_ffff;
        if at + 22 + comment == tail.len() && plausible {
            return Ok(Some((place.saturating_sub(length), length.min(place))));
        }
    }
    Ok(None)
}

/// Whether a zip is a Keras model: its directory names a configuration and weights in HDF5.
fn is_keras(input: &dyn Input) -> Result<bool> {
    let Some((at, length)) = zip_end(input)? else { return Ok(false) };
    let length = length.min(64 << 10);
    let directory = read_range(input, at, length, 64 << 10)?;
    let names = |word: &[u8]| directory.windows(word.len()).any(|w| w == word);
    Ok(names(b"config.json") && names(b".weights.h5"))
}
