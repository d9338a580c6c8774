//! The protobuf wire format, walked without trust and without a schema.
//!
//! Owns: [`Cursor`], bytes of an input in order with leaps, and [`Walker`], the fields of a message and of those inside it.
//! Promises: a varint has at most ten bytes and no bits beyond 64; a length ends inside its message; messages nest at most
//! [`DEPTH`] deep, on a stack of our own; nothing that is not asked for is read, kept or copied. Leaves out: what the fields
//! mean (`onnx`, `recognise`).
//!
//! ```text
//! message = field*                                  (protobuf.dev/programming-guides/encoding)
//! field   = key value                               key: varint of number << 3 | wire type
//! value   = varint          wire type 0             seven bits a byte, least first, bit 7 set in all but the last
//!         | 8 bytes         wire type 1
//!         | length bytes    wire type 2             text, bytes, a message, packed numbers
//!         | 4 bytes         wire type 5
//! ```
//! Wire types 3 and 4, groups, are out of use since proto2; nothing that is walked here has any, so they are refused.

use super::input::{Input, short};
use crate::error::{Error, Result as Outcome};

/// How deep messages nest: what protobuf's own parsers allow unless told otherwise.
pub(crate) const DEPTH: usize = 100;
/// The longest message that protobuf parses or writes.
pub(crate) const MAX_MESSAGE: u64 = i32::MAX as u64;

/// Bytes asked of an input at once.
const BUFFER: u64 = 64 << 10;

/// What is wrong with a message, and where.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes are at fault, from here on.
    Wire(u64, &'static str),
    /// They could not be read.
    Failed(Error),
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Failed(e)
    }
}

/// What walking gives.
pub(crate) type Walked<T> = Result<T, Fault>;

/// Bytes of an input in order, some of them passed over unread.
pub(crate) struct Cursor<'a> {
    input: &'a dyn Input,
    at: u64,
    /// Bytes of the input from `from` on.
    buffer: Vec<u8>,
    from: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(input: &'a dyn Input) -> Cursor<'a> {
        Cursor { input, at: 0, buffer: Vec::new(), from: 0 }
    }

    /// The next bytes, at least one of them, of those before `end`; none there.
    fn ahead(&mut self, end: u64) -> Outcome<&[u8]> {
        let end = end.min(self.input.size());
        if self.at >= end {
            return Ok(&[]);
        }
        if self.at < self.from || self.at >= self.from + self.buffer.len() as u64 {
            // From the start of a group on, so that a reader that checks group by group checks each once.
            self.from = self.at & !(BUFFER - 1);
            let more = (self.input.size() - self.from).min(BUFFER) as usize;
            self.buffer.resize(more, 0);
            if let Err(e) = self.input.read_at(self.from, &mut self.buffer) {
                self.buffer.clear();
                return Err(e);
            }
        }
        let start = (self.at - self.from) as usize;
        let length = (end - self.at).min((self.buffer.len() - start) as u64) as usize;
        self.buffer.get(start..start + length).ok_or_else(short)
    }

    /// The next byte before `end`.
    fn byte(&mut self, end: u64) -> Outcome<Option<u8>> {
        let byte = self.ahead(end)?.first().copied();
        self.at += u64::from(byte.is_some());
        Ok(byte)
    }
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64,
    /// So many bytes, from [`Field::body`] on.
    Bytes(u64),
    /// Wire type 5.
    Fixed32(u32),
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// Where its key stands.
    pub(crate) at: u64,
    /// Where its value stands, after the length if there is one.
    pub(crate) body: u64,
    pub(crate) value: Value,
}

/// A step of the walk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field of the innermost message.
    Field(Field),
    /// The innermost message has no more.
    End,
}

/// Walks messages, the innermost first.
pub(crate) struct Walker<'a> {
    cursor: Cursor<'a>,
    /// Where the messages that are open end, the outermost first.
    ends: Vec<u64>,
    /// Where the next field of the innermost begins.
    next: u64,
}

impl<'a> Walker<'a> {
    /// Over the input as one message.
    pub(crate) fn new(input: &'a dyn Input) -> Walker<'a> {
        Walker { cursor: Cursor::new(input), ends: vec![input.size()], next: 0 }
    }

    /// How many messages are open.
    #[cfg(test)]
    pub(crate) fn depth(&self) -> usize {
        self.ends.len()
    }

    /// The next field, or the end of the innermost message, which closes it. What was not taken of the last field is passed
    /// over. After the outermost's end there is nothing but ends.
    pub(crate) fn step(&mut self) -> Walked<Step> {
        let Some(&end) = self.ends.last() else { return Ok(Step::End) };
        self.cursor.at = self.next;
        if self.next >= end {
            self.ends.pop();
            return Ok(Step::End);
        }
        let at = self.next;
        let key = self.varint(end)?;
        let wrong = |why| Err(Fault::Wire(at, why));
        let number = match u32::try_from(key >> 3) {
            Ok(number @ 1..=0x1fff_ffff) => number,
            _ => return wrong("its number is not between 1 and 536870911"),
        };
        let (value, length) = match key & 7 {
            0 => (Value::Varint(self.varint(end)?), 0),
            1 => (Value::Fixed64, 8),
            2 => {
                let length = self.varint(end)?;
                (Value::Bytes(length), length)
            }
            5 => (Value::Fixed32(0), 4),
            3 | 4 => return wrong("it is a group, which no model has"),
            _ => return wrong("its wire type is 6 or 7, which do not exist"),
        };
        let body = self.cursor.at;
        if length > end - body {
            return wrong("it reaches past the end of its message");
        }
        let value = match value {
            Value::Fixed32(_) => {
                let mut word = [0; 4];
                for byte in &mut word {
                    *byte = self.cursor.byte(end)?.ok_or_else(short)?;
                }
                Value::Fixed32(u32::from_le_bytes(word))
            }
            other => other,
        };
        self.next = body + length;
        Ok(Step::Field(Field { number, at, body, value }))
    }

    /// Opens the message that a field of bytes holds: the steps to come are its own, up to its end.
    pub(crate) fn enter(&mut self, field: &Field) -> Walked<()> {
        if self.ends.len() >= DEPTH {
            return Err(Fault::Wire(field.at, "messages nest over 100 deep, where protobuf's own parsers stop"));
        }
        let Value::Bytes(length) = field.value else {
            return Err(Fault::Wire(field.at, "it should be a message and is a number"));
        };
        self.ends.push(field.body + length);
        self.next = field.body;
        Ok(())
    }

    /// How many varints a field of bytes holds.
    pub(crate) fn count_varints(&mut self, field: &Field) -> Walked<u64> {
        let (mut count, mut run) = (0, 0);
        let mut long = false;
        self.pieces(field, |piece| {
            for byte in piece {
                run += 1;
                long |= run > 10;
                if byte & 0x80 == 0 {
                    (count, run) = (count + 1, 0);
                }
            }
        })?;
        match long || run > 0 {
            true => Err(Fault::Wire(field.at, "a packed number is over ten bytes long or cut short")),
            false => Ok(count),
        }
    }

    /// The single varint of a field that may be packed: each value in turn goes to `each`.
    pub(crate) fn varints(&mut self, field: &Field, mut each: impl FnMut(u64)) -> Walked<()> {
        let Value::Bytes(length) = field.value else {
            if let Value::Varint(n) = field.value {
                each(n);
            }
            return Ok(());
        };
        let end = field.body + length;
        self.cursor.at = field.body;
        while self.cursor.at < end {
            each(self.varint(end)?);
        }
        Ok(())
    }

    /// The first `keep` bytes of a text, cut where a character ends, all of which is looked at; `None` when it is not UTF-8.
    pub(crate) fn text(&mut self, field: &Field, keep: usize) -> Walked<Option<String>> {
        let mut kept = Vec::new();
        let mut utf8 = Utf8::default();
        self.pieces(field, |piece| {
            utf8.push(piece);
            let room = (keep - kept.len()).min(piece.len());
            kept.extend_from_slice(&piece[..room]);
        })?;
        if !utf8.is_whole() {
            return Ok(None);
        }
        let valid = match std::str::from_utf8(&kept) {
            Ok(_) => kept.len(),
            Err(e) => e.valid_up_to(),
        };
        kept.truncate(valid);
        Ok(String::from_utf8(kept).ok())
    }

    /// Gives a field's bytes to `each`, in pieces.
    fn pieces(&mut self, field: &Field, mut each: impl FnMut(&[u8])) -> Walked<()> {
        let Value::Bytes(length) = field.value else { return Ok(()) };
        let end = field.body + length;
        self.cursor.at = field.body;
        while self.cursor.at < end {
            let piece = self.cursor.ahead(end)?;
            if piece.is_empty() {
                return Err(short().into());
            }
            let length = piece.len() as u64;
            each(piece);
            self.cursor.at += length;
        }
        Ok(())
    }

    fn varint(&mut self, end: u64) -> Walked<u64> {
        let at = self.cursor.at;
        let mut n = 0u64;
        for i in 0..10 {
            let Some(byte) = self.cursor.byte(end)? else {
                return Err(Fault::Wire(at, "a number is cut short by the end of its message"));
            };
            // The tenth byte has room for bit 63 and nothing else.
            if i == 9 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(Fault::Wire(at, "a number is over 64 bits long"))
    }
}

/// Whether bytes that come in pieces are UTF-8.
#[derive(Debug, Default)]
pub(crate) struct Utf8 {
    /// The character that the last piece ended in.
    begun: Vec<u8>,
    bad: bool,
}

impl Utf8 {
    /// The next bytes.
    pub(crate) fn push(&mut self, mut piece: &[u8]) {
        while !self.bad && !self.begun.is_empty() {
            let Some((first, rest)) = piece.split_first() else { return };
            self.begun.push(*first);
            piece = rest;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(e) => self.bad = e.error_len().is_some(),
            }
        }
        if let Err(e) = std::str::from_utf8(piece) {
            self.bad |= e.error_len().is_some();
            self.begun = piece.get(e.valid_up_to()..).unwrap_or_default().to_vec();
            if self.bad {
                self.begun.clear();
            }
        }
    }

    /// So far it is, and no character is cut short.
    pub(crate) fn is_whole(&self) -> bool {
        !self.bad && self.begun.is_empty()
    }

    /// So far nothing but the last character's end is missing.
    pub(crate) fn is_good(&self) -> bool {
        !self.bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Vec<(u32, u64, usize)>;

    fn walk(bytes: &[u8], inside: &[u32]) -> Result<Seen, (u64, &'static str)> {
        let mut walker = Walker::new(&bytes);
        let mut seen = Vec::new();
        while walker.depth() > 0 {
            match walker.step() {
                Ok(Step::Field(field)) => {
                    let n = match field.value {
                        Value::Varint(n) | Value::Bytes(n) => n,
                        Value::Fixed32(n) => n.into(),
                        Value::Fixed64 => 8,
                    };
                    seen.push((field.number, n, walker.depth()));
                    if inside.contains(&field.number)
                        && let Err(Fault::Wire(at, why)) = walker.enter(&field)
                    {
                        return Err((at, why));
                    }
                }
                Ok(Step::End) => {}
                Err(Fault::Wire(at, why)) => return Err((at, why)),
                Err(Fault::Failed(e)) => panic!("{e}"),
            }
        }
        Ok(seen)
    }

    #[test]
    fn fields_come_in_order_and_messages_end_where_they_say() {
        let bytes = b"\x08\x96\x01\x12\x04\x08\x01\x12\x00\x1d\x01\x02\0\0\x21\0\0\0\0\0\0\0\0\x38\x07";
        let seen = walk(bytes, &[2]).expect("sound");
        assert_eq!(seen, [(1, 150, 1), (2, 4, 1), (1, 1, 2), (2, 0, 2), (3, 0x201, 1), (4, 8, 1), (7, 7, 1)]);
        let unopened: Vec<_> = walk(bytes, &[]).expect("sound").iter().map(|f| f.0).collect();
        assert_eq!(unopened, [1, 2, 3, 4, 7], "what is not entered is passed over");
        assert_eq!(walk(b"", &[]).expect("an empty message is one"), []);
    }

    #[test]
    fn wire_lies_are_refused_where_they_stand() {
        let table: [(&[u8], u64, &str); 16] = [
            (b"\x08", 1, "cut short"),
            (b"\x08\x80", 1, "cut short"),
            (b"\x80", 0, "cut short"),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 1, "over 64 bits"),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\0", 1, "over 64 bits"),
            (b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 1, "over 64 bits"),
            (b"\x00\x01", 0, "number"),
            (b"\x80\x80\x80\x80\x10\x01", 0, "number"),
            (b"\x08\x01\x0b", 2, "group"),
            (b"\x0c", 0, "group"),
            (b"\x0e\x01", 0, "wire type"),
            (b"\x0f\x01", 0, "wire type"),
            (b"\x0a\x01", 0, "past the end"),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, "past the end"),
            (b"\x0d\0\0\0", 0, "past the end"),
            (b"\x09\0\0\0\0\0\0\0", 0, "past the end"),
        ];
        for (bytes, at, why) in table {
            let (place, said) = walk(bytes, &[]).expect_err("refused");
            assert!(said.contains(why) && place == at, "{bytes:?}: {said} at {place}");
        }
        let most = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(walk(most, &[]).expect("64 bits"), [(1, u64::MAX, 1)]);
        assert_eq!(walk(b"\xf8\xff\xff\xff\x0f\x01", &[]).expect("the largest number"), [(0x1fff_ffff, 1, 1)]);
        // A field inside a message is bounded by the message, not by the file.
        assert!(walk(b"\x12\x02\x0a\x01AAAA", &[2]).expect_err("refused").1.contains("past the end"));
        assert!(walk(b"\x12\x01\x08\x01", &[2]).expect_err("refused").1.contains("cut short"));
    }

    #[test]
    fn messages_nest_as_deep_as_protobuf_allows_and_no_deeper() {
        let nested = |depth: usize| {
            (1..depth).fold(Vec::new(), |inner: Vec<u8>, _| {
                let length = inner.len();
                [&[0x12, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8][..], &inner].concat()
            })
        };
        assert_eq!(walk(&nested(DEPTH), &[2]).expect("just allowed").len(), DEPTH - 1);
        let (at, why) = walk(&nested(DEPTH + 1), &[2]).expect_err("too deep");
        assert!(why.contains("100 deep") && at == 3 * (DEPTH as u64 - 1), "{why} at {at}");
    }

    fn first<'a>(walker: &mut Walker<'a>) -> Field {
        match walker.step() {
            Ok(Step::Field(field)) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn packed_numbers_are_counted_across_pieces() {
        for (numbers, count) in [(vec![1u8; 70_000], 70_000), ([0xff, 1].repeat(70_000), 70_000), (vec![], 0)] {
            let length = numbers.len();
            let head = [0x0a, (length & 0x7f) as u8 | 0x80, (length >> 7 & 0x7f) as u8 | 0x80, (length >> 14) as u8];
            let bytes = [&head[..], &numbers].concat();
            let slice = bytes.as_slice();
            let mut walker = Walker::new(&slice);
            let field = first(&mut walker);
            assert_eq!(walker.count_varints(&field).expect("sound"), count);
            let mut seen = 0;
            walker.varints(&field, |_| seen += 1).expect("sound");
            assert_eq!(seen, count);
        }
        for bad in [&b"\x0a\x01\x80"[..], b"\x0a\x0b\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"] {
            let mut walker = Walker::new(&bad);
            let field = first(&mut walker);
            assert!(matches!(walker.count_varints(&field), Err(Fault::Wire(0, _))), "{bad:?}");
            assert!(matches!(walker.varints(&field, |_| ()), Err(Fault::Wire(2, _))), "{bad:?}");
        }
        let ten: &[u8] = b"\x0a\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00";
        let mut walker = Walker::new(&ten);
        let field = first(&mut walker);
        assert_eq!(walker.count_varints(&field).expect("ten bytes are allowed"), 1);
    }

    #[test]
    fn text_is_cut_at_a_character_and_looked_at_to_its_end() {
        let table: [(&[u8], usize, Option<&str>); 6] = [
            (b"\x0a\x03abc", 2, Some("ab")),
            ("\x0a\x04aéb".as_bytes(), 2, Some("a")),
            ("\x0a\x04aéb".as_bytes(), 3, Some("aé")),
            (b"\x0a\x03ab\xff", 2, None),
            (b"\x0a\x03ab\xc3", 9, None),
            (b"\x0a\x00", 9, Some("")),
        ];
        for (bytes, keep, text) in table {
            let mut walker = Walker::new(&bytes);
            let field = first(&mut walker);
            assert_eq!(walker.text(&field, keep).expect("reads").as_deref(), text, "{bytes:?}");
        }
        // 200,000 bytes come in several pieces.
        let long: &[u8] = &[b"\x0a\xc0\x9a\x0c".as_slice(), &[b'a'; 200_000]].concat();
        let mut walker = Walker::new(&long);
        let field = first(&mut walker);
        assert_eq!(walker.text(&field, 150_000).expect("reads").map(|t| t.len()), Some(150_000));
    }

    #[test]
    fn utf8_in_pieces_is_what_it_is_in_one() {
        let samples: [&[u8]; 9] = [
            "grüße 模型 🦙!".as_bytes(),
            b"",
            b"abc",
            b"\xff",
            b"ab\xc3",
            b"\xe6\xa8",
            b"\xed\xa0\x80",
            b"\xf0\x9f\xa6\x99\x80",
            b"\xc3\xc3\xa9",
        ];
        for bytes in samples {
            for size in 1..=bytes.len().max(1) {
                let mut utf8 = Utf8::default();
                bytes.chunks(size).for_each(|piece| utf8.push(piece));
                assert_eq!(utf8.is_whole(), std::str::from_utf8(bytes).is_ok(), "{bytes:?} by {size}");
                let cut_only = std::str::from_utf8(bytes).map_or_else(|e| e.error_len().is_none(), |_| true);
                assert_eq!(utf8.is_good(), cut_only, "{bytes:?} by {size}");
            }
        }
    }
}
