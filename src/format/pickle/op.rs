//! The opcodes of a pickle: what each one takes out of the stream.
//!
//! Owns: reading one opcode with its argument. Promises: nothing is copied; an argument never reaches past the stream; text
//! lines end where Python's would. Leaves out: what an opcode does (`machine`).
//!
//! ```text
//! opcode:u8 argument          (CPython, Lib/pickletools.py: every opcode of protocols 0 to 5)
//! line       bytes up to "\n"                     counted    length:u8|u32|u64 bytes
//! uint       1, 2, 4 or 8 bytes, little-endian    float8     big-endian
//! ```

use super::{MALFORMED, TEXT, TRUNCATED};
use crate::format::finding::{Halt, Parsed, Place};
use std::borrow::Cow;

/// A piece of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(super) at: u32,
    pub(super) len: u32,
}

/// How the text in a span is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writing {
    /// As it is.
    Plain,
    /// A Python string literal without its quotes.
    Literal,
    /// Python's raw-unicode-escape.
    RawUnicode,
}

/// An opcode with its argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Op {
    Proto(u8),
    Frame(u64),
    Stop,
    Mark,
    Pop,
    PopMark,
    Dup,
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits; its bytes when it is binary.
    Big(Span),
    Float,
    /// A `str`, or Python 2's `str`, which loaders decode.
    Text(Span, Writing),
    Bytes(Span),
    Bytearray(Span),
    Buffer,
    EmptyList,
    Append,
    Appends,
    List,
    EmptyTuple,
    Tuple,
    /// A tuple of the top 1, 2 or 3.
    TupleOf(usize),
    EmptyDict,
    Dict,
    SetItem,
    SetItems,
    EmptySet,
    AddItems,
    FrozenSet,
    Get(u64),
    Put(u64),
    Memoize,
    Extension(u32),
    Global(Span, Span),
    StackGlobal,
    Inst(Span, Span),
    Obj,
    Reduce,
    NewObj,
    NewObjEx,
    Build,
    PersId(Span),
    BinPersId,
}

/// Walks the stream from opcode to opcode.
pub(super) struct Ops<'a> {
    pub(super) bytes: &'a [u8],
    /// The next byte.
    pub(super) at: usize,
    /// The archive's member, if it is in one.
    part: Option<String>,
}

impl<'a> Ops<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize, part: Option<&str>) -> Ops<'a> {
        Ops { bytes, at, part: part.map(str::to_owned) }
    }

    /// A place in the file, or in the archive's member.
    pub(super) fn place(&self, at: usize) -> Place {
        self.part.as_deref().map_or_else(|| Place::at(at as u64), |part| Place::part_at(part, at as u64))
    }

    fn cut(&self) -> Halt {
        let why =
            "the pickle ends within an opcode or without STOP: a loader runs what stands before the end, then fails";
        Halt::found(&TRUNCATED, self.place(self.bytes.len()), why)
    }

    fn bad(&self, at: usize, why: impl Into<String>) -> Halt {
        Halt::found(&MALFORMED, self.place(at), why)
    }

    fn take(&mut self, length: u64) -> Parsed<&'a [u8]> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.cut())?;
        self.at += taken.len();
        Ok(taken)
    }

    fn span(&mut self, length: u64) -> Parsed<Span> {
        let at = self.at as u32;
        let len = self.take(length)?.len() as u32;
        Ok(Span { at, len })
    }

    /// A little-endian number of `width` bytes.
    fn uint(&mut self, width: u64) -> Parsed<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn line(&mut self) -> Parsed<Span> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|b| *b == b'\n').ok_or_else(|| self.cut())?;
        let span = self.span(length as u64)?;
        self.at += 1;
        Ok(span)
    }

    fn of(&self, span: Span) -> &'a [u8] {
        bytes_of(self.bytes, span)
    }

    fn counted(&mut self, width: u64) -> Parsed<Span> {
        let length = self.uint(width)?;
        self.span(length)
    }

    /// Counted UTF-8.
    fn utf8(&mut self, width: u64) -> Parsed<Op> {
        let span = self.counted(width)?;
        if std::str::from_utf8(self.of(span)).is_err() {
            let why = "a string is not UTF-8: readers disagree on what it says";
            return Err(Halt::found(&TEXT, self.place(span.at as usize), why));
        }
        Ok(Op::Text(span, Writing::Plain))
    }

    fn long(&mut self, length: u64) -> Parsed<Op> {
        let span = self.span(length)?;
        let bytes = self.of(span);
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let fill: i64 = if negative { -1 } else { 0 };
        match bytes.len() {
            0..=8 => Ok(Op::Int(bytes.iter().rev().fold(fill, |n, b| n << 8 | i64::from(*b)))),
            _ => Ok(Op::Big(span)),
        }
    }

    /// A decimal line: INT, LONG, GET and PUT. Python also takes `0x10` and `1_0`, which no pickler writes.
    fn decimal(&mut self) -> Parsed<(Span, &'a str)> {
        let span = self.line()?;
        let line = std::str::from_utf8(self.of(span)).unwrap_or("?");
        let digits = line.strip_prefix('-').unwrap_or(line);
        let digits = digits.strip_suffix('L').unwrap_or(digits);
        if digits.is_empty() || digits.len() > 4300 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.bad(span.at as usize, "a number in text is none: readers disagree on what follows"));
        }
        Ok((span, line))
    }

    fn index(&mut self) -> Parsed<u64> {
        let (span, line) = self.decimal()?;
        line.parse().map_err(|_| self.bad(span.at as usize, "a memo index is no number"))
    }

    fn quoted(&mut self) -> Parsed<Op> {
        let span = self.line()?;
        let (first, last) = (self.of(span).first(), self.of(span).last());
        match (first, last) {
            (Some(a @ (b'\'' | b'"')), Some(b)) if a == b && span.len >= 2 => {
                Ok(Op::Text(Span { at: span.at + 1, len: span.len - 2 }, Writing::Literal))
            }
            _ => Err(self.bad(span.at as usize, "a string in text is not quoted")),
        }
    }

    fn float(&mut self) -> Parsed<Op> {
        let span = self.line()?;
        let text = std::str::from_utf8(self.of(span)).ok().and_then(|s| s.parse::<f64>().ok());
        text.map(|_| Op::Float).ok_or_else(|| self.bad(span.at as usize, "a float in text is none"))
    }

    /// INT, which also writes booleans, and LONG. C's readers take a leading 0 for octal, Python's fail on it.
    fn integer(&mut self, long: bool) -> Parsed<Op> {
        let (span, line) = self.decimal()?;
        let digits = line.strip_prefix('-').unwrap_or(line);
        let zeros = digits.starts_with('0') && !matches!(line, "0" | "0L") && (long || !matches!(line, "00" | "01"));
        if zeros || (!long && line.ends_with('L')) {
            return Err(
                self.bad(span.at as usize, "a number begins with 0 or ends in L: readers disagree on which it is")
            );
        }
        Ok(match line {
            "00" => Op::Bool(false),
            "01" => Op::Bool(true),
            _ => line.trim_end_matches('L').parse().map_or(Op::Big(span), Op::Int),
        })
    }

    /// A four-byte length that Python reads with a sign.
    fn signed_length(&mut self) -> Parsed<u64> {
        let length = self.uint(4)? as u32 as i32;
        u64::try_from(length).map_err(|_| self.bad(self.at - 4, format!("a length is negative ({length})")))
    }

    /// The next opcode.
    pub(super) fn next(&mut self) -> Parsed<Op> {
        let start = self.at;
        let code = self.uint(1)? as u8;
        Ok(match code {
            0x80 => Op::Proto(self.uint(1)? as u8),
            0x95 => Op::Frame(self.uint(8)?),
            b'.' => Op::Stop,
            b'(' => Op::Mark,
            b'0' => Op::Pop,
            b'1' => Op::PopMark,
            b'2' => Op::Dup,
            b'N' => Op::None,
            0x88 => Op::Bool(true),
            0x89 => Op::Bool(false),
            b'I' | b'L' => self.integer(code == b'L')?,
            b'J' => Op::Int(i64::from(self.uint(4)? as u32 as i32)),
            b'K' => Op::Int(self.uint(1)? as i64),
            b'M' => Op::Int(self.uint(2)? as i64),
            0x8a => {
                let length = self.uint(1)?;
                self.long(length)?
            }
            0x8b => {
                let length = self.signed_length()?;
                self.long(length)?
            }
            b'F' => self.float()?,
            b'G' => self.take(8).map(|_| Op::Float)?,
            b'S' => self.quoted()?,
            b'T' => {
                let length = self.signed_length()?;
                Op::Text(self.span(length)?, Writing::Plain)
            }
            b'U' => Op::Text(self.counted(1)?, Writing::Plain),
            b'V' => Op::Text(self.line()?, Writing::RawUnicode),
            0x8c => self.utf8(1)?,
            b'X' => self.utf8(4)?,
            0x8d => self.utf8(8)?,
            b'C' => Op::Bytes(self.counted(1)?),
            b'B' => Op::Bytes(self.counted(4)?),
            0x8e => Op::Bytes(self.counted(8)?),
            0x96 => Op::Bytearray(self.counted(8)?),
            0x97 | 0x98 => Op::Buffer,
            b']' => Op::EmptyList,
            b'a' => Op::Append,
            b'e' => Op::Appends,
            b'l' => Op::List,
            b')' => Op::EmptyTuple,
            b't' => Op::Tuple,
            0x85..=0x87 => Op::TupleOf(usize::from(code - 0x84)),
            b'}' => Op::EmptyDict,
            b'd' => Op::Dict,
            b's' => Op::SetItem,
            b'u' => Op::SetItems,
            0x8f => Op::EmptySet,
            0x90 => Op::AddItems,
            0x91 => Op::FrozenSet,
            b'g' => Op::Get(self.index()?),
            b'h' => Op::Get(self.uint(1)?),
            b'j' => Op::Get(self.uint(4)?),
            b'p' => Op::Put(self.index()?),
            b'q' => Op::Put(self.uint(1)?),
            b'r' => Op::Put(self.uint(4)?),
            0x94 => Op::Memoize,
            0x82 => Op::Extension(self.uint(1)? as u32),
            0x83 => Op::Extension(self.uint(2)? as u32),
            0x84 => Op::Extension(self.uint(4)? as u32),
            b'c' => Op::Global(self.line()?, self.line()?),
            b'i' => Op::Inst(self.line()?, self.line()?),
            0x93 => Op::StackGlobal,
            b'o' => Op::Obj,
            b'R' => Op::Reduce,
            0x81 => Op::NewObj,
            0x92 => Op::NewObjEx,
            b'b' => Op::Build,
            b'P' => Op::PersId(self.line()?),
            b'Q' => Op::BinPersId,
            _ => return Err(self.bad(start, format!("0x{code:02x} is no opcode: a loader runs what stands before it"))),
        })
    }
}

/// The bytes of a span that was made of the same stream.
pub(super) fn bytes_of(bytes: &[u8], span: Span) -> &[u8] {
    bytes.get(span.at as usize..span.at as usize + span.len as usize).unwrap_or_default()
}

/// What a span says, escapes resolved. Text that is no UTF-8 comes out with replacement characters: fit to be named, and
/// equal to nothing that is allowed.
pub(super) fn text_of(bytes: &[u8], span: Span, writing: Writing) -> String {
    let raw = bytes_of(bytes, span);
    match writing {
        Writing::Plain => String::from_utf8_lossy(raw).into_owned(),
        Writing::Literal => literal(raw),
        Writing::RawUnicode => raw_unicode(raw),
    }
}

/// Python's raw-unicode-escape: Latin-1, in which only `\uXXXX` and `\UXXXXXXXX` mean something.
fn raw_unicode(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw.iter().map(|b| char::from(*b));
    while let Some(c) = rest.next() {
        let next = if c == '\\' { rest.next() } else { None };
        match next {
            Some('u') => out.push(hexadecimal(&mut rest, 4)),
            Some('U') => out.push(hexadecimal(&mut rest, 8)),
            _ => out.extend([Some(c), next].into_iter().flatten()),
        }
    }
    out
}

/// A Python 2 string literal without its quotes: escapes are bytes, which loaders decode when all are there.
fn literal(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let next = if byte == b'\\' { rest.next() } else { None };
        match next {
            None => out.push(byte),
            Some(b'x') => {
                let code = hexadecimal(&mut rest.by_ref().map(char::from), 2);
                out.push(u8::try_from(code).unwrap_or(0xff));
            }
            Some(octal @ b'0'..=b'7') => {
                let mut value = u32::from(octal - b'0');
                for _ in 0..2 {
                    let Some(digit) = rest.next_if(|b| matches!(b, b'0'..=b'7')) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                }
                // CPython cuts it to a byte.
                out.push((value & 0xff) as u8);
            }
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'r') => out.push(b'\r'),
            Some(b'a') => out.push(7),
            Some(b'b') => out.push(8),
            Some(b'v') => out.push(11),
            Some(b'f') => out.push(12),
            Some(other @ (b'\\' | b'\'' | b'"')) => out.push(other),
            Some(other) => out.extend([b'\\', other]),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hexadecimal(rest: &mut impl Iterator<Item = char>, digits: usize) -> char {
    let value = rest.take(digits).try_fold(0u32, |n, c| Some(n * 16 + c.to_digit(16)?));
    value.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

impl Span {
    /// What the span says, as bytes: copied only where there are escapes to resolve.
    pub(crate) fn bytes(self, stream: &[u8], writing: Writing) -> Cow<'_, [u8]> {
        match writing {
            Writing::Plain => Cow::Borrowed(bytes_of(stream, self)),
            _ => Cow::Owned(text_of(stream, self, writing).into_bytes()),
        }
    }
}
