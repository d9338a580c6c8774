//! Strict JSON, read from front to back in bounded memory.
//!
//! Owns: [`Lexer`], which turns an [`Input`] into [`Token`]s. Promises: what it lets through is JSON by RFC 8259, with one
//! exception that is named ([`Token::NotANumber`]); every key says whether its object had it before; no recursion; a hostile
//! text costs no more memory than [`TEXT_MAX`], [`KEY_MAX`], [`KEYS_MAX`] and [`DEPTH_MAX`] let it. Leaves out: what the
//! values mean, how large a file may be (the callers).
//!
//! ```text
//! value    = object | list | text | number | true | false | null          RFC 8259, section 3
//! object   = { [ text : value { , text : value } ] }                      section 4: names SHOULD be unique; here they are
//! list     = [ [ value { , value } ] ]                                    section 5
//! number   = [ - ] ( 0 | 1-9 digits ) [ . digits ] [ e [ + | - ] digits ] section 6
//! text     = " { char | \ escape } "     UTF-8, no byte below 0x20        section 7; surrogates only in pairs
//! ```
//!
//! It is not serde_json because that recurses, holds a text of any length, says no byte offset, and takes the second of two
//! equal keys in silence; but the tests hold it against serde_json, which must accept and refuse the same.

use super::finding::{Halt, Parsed, Place, Rule};
use super::input::Input;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Lists and objects inside each other. A tokenizer.json has some ten; serde_json, which most loaders use, stops at 128.
pub(crate) const DEPTH_MAX: usize = 100;
/// Bytes of one text. The longest in use, training metadata and compiled character maps, have some hundred thousands.
pub(crate) const TEXT_MAX: usize = 8 << 20;
/// Bytes of one key.
pub(crate) const KEY_MAX: usize = 64 << 10;
/// Keys of all the objects that are open at once. The largest vocabularies have some 300,000 pieces.
pub(crate) const KEYS_MAX: usize = 1 << 20;

/// Bytes asked of the input at once.
const BUFFER: u64 = 64 << 10;

/// A piece of JSON.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'t> {
    /// `{`
    Object,
    /// `}`
    ObjectEnd,
    /// `[`
    List,
    /// `]`
    ListEnd,
    /// The name of the value that comes next, and whether the object had that name already.
    Key {
        /// The name, unescaped.
        name: &'t str,
        /// Whether it stood in this object before: one reader keeps the first value, another the last.
        again: bool,
    },
    /// A text, unescaped.
    Text(&'t str),
    /// A number written without sign, fraction and exponent, that fits.
    Integer(u64),
    /// Any other number.
    Number,
    /// `NaN`, `Infinity` or `-Infinity`: no JSON, but Python writes it and reads it.
    NotANumber,
    /// `true` or `false`.
    Bool(bool),
    /// `null`
    Null,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    CommaOrEnd,
    /// The outermost value is complete.
    Nothing,
}

/// An object or a list that is open.
#[derive(Debug)]
enum Level {
    List,
    Object(Keys),
}

/// The keys that an object had, by keyed hashes of 64 bits: bounded whatever their length, and nobody outside this process
/// can make two of them equal. That two are by chance is one in 10^7 for a million keys, and would refuse a file, not pass one.
#[derive(Debug, Default)]
struct Keys {
    /// All of them while they are few, as they nearly always are.
    few: Vec<u64>,
    many: HashSet<u64>,
}

/// More than this are looked up by hashing.
const FEW: usize = 16;

impl Keys {
    fn add(&mut self, key: u64) -> bool {
        if self.many.is_empty() {
            if self.few.contains(&key) {
                return false;
            }
            self.few.push(key);
            if self.few.len() > FEW {
                self.many = self.few.drain(..).collect();
            }
            return true;
        }
        self.many.insert(key)
    }

    fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }
}

/// Reads JSON.
pub(crate) struct Lexer<'a> {
    input: &'a dyn Input,
    /// How far from its place in the file what is read lies.
    shift: u64,
    /// What a text that is no JSON, or too much, is reported as.
    malformed: &'static Rule,
    end: u64,
    /// Where `buffer` lies in the input.
    base: u64,
    buffer: Vec<u8>,
    /// The next byte in `buffer`.
    at: usize,
    /// Where the last token began.
    token: u64,
    levels: Vec<Level>,
    next: Next,
    /// The last text or key.
    text: Vec<u8>,
    keys: usize,
    /// A closed object's keys, to be used for the next one.
    spare: Keys,
    hasher: RandomState,
}

impl<'a> Lexer<'a> {
    /// Over the bytes `start..end` of `input`; defects are reported as `malformed`.
    pub(crate) fn new(input: &'a dyn Input, start: u64, end: u64, malformed: &'static Rule) -> Lexer<'a> {
        let end = end.min(input.size());
        Lexer {
            input,
            shift: 0,
            malformed,
            end,
            base: start.min(end),
            buffer: Vec::new(),
            at: 0,
            token: start,
            levels: Vec::new(),
            next: Next::Value,
            text: Vec::new(),
            keys: 0,
            spare: Keys::default(),
            hasher: RandomState::new(),
        }
    }

    /// The same, where the input is a copy of a part of the file that begins there by `shift` bytes further on.
    pub(crate) fn shifted(mut self, shift: u64) -> Lexer<'a> {
        self.shift = shift;
        self
    }

    /// Where the last token began in the file.
    pub(crate) fn token_at(&self) -> u64 {
        self.token + self.shift
    }

    /// Where the next byte lies in the file.
    pub(crate) fn position(&self) -> u64 {
        self.here() + self.shift
    }

    fn here(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The next token; none when the outermost value is complete.
    pub(crate) fn next(&mut self) -> Parsed<Option<Token<'_>>> {
        if self.next == Next::Nothing {
            return Ok(None);
        }
        let mut byte = self.token_byte()?;
        if self.next == Next::CommaOrEnd && byte == b',' {
            self.at += 1;
            self.next = if matches!(self.levels.last(), Some(Level::Object(_))) { Next::Key } else { Next::Value };
            byte = self.token_byte()?;
        }
        match (byte, self.next, self.levels.last()) {
            (b'}', Next::KeyOrEnd | Next::CommaOrEnd, Some(Level::Object(_))) => {
                self.close();
                Ok(Some(Token::ObjectEnd))
            }
            (b']', Next::ValueOrEnd | Next::CommaOrEnd, Some(Level::List)) => {
                self.close();
                Ok(Some(Token::ListEnd))
            }
            (b'"', Next::Key | Next::KeyOrEnd, _) => self.key().map(Some),
            (_, Next::Value | Next::ValueOrEnd, _) => self.value(byte).map(Some),
            (_, Next::Key | Next::KeyOrEnd, _) => self.unexpected("a key in double quotes"),
            _ => self.unexpected("a comma or the end of what is open"),
        }
    }

    /// After the outermost value: nothing but `padding` may follow. How many bytes of it there were.
    pub(crate) fn finish(&mut self, padding: &[u8]) -> Parsed<u64> {
        let start = self.here();
        while let Some(byte) = self.peek()? {
            if !padding.contains(&byte) {
                let left = self.end - self.here();
                let message =
                    format!("after the end of the JSON, {left} bytes follow, of which the first is {byte:#04x}");
                return Err(self.halt(self.here(), message));
            }
            self.at += 1;
        }
        Ok(self.here() - start)
    }

    fn value(&mut self, byte: u8) -> Parsed<Token<'_>> {
        match byte {
            b'{' => self.open(Next::KeyOrEnd, Token::Object),
            b'[' => self.open(Next::ValueOrEnd, Token::List),
            b'"' => {
                self.text(TEXT_MAX, "text")?;
                self.after_value();
                Ok(Token::Text(self.checked_text()?))
            }
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word(b"true", Token::Bool(true)),
            b'f' => self.word(b"false", Token::Bool(false)),
            b'n' => self.word(b"null", Token::Null),
            b'N' => self.word(b"NaN", Token::NotANumber),
            b'I' => self.word(b"Infinity", Token::NotANumber),
            _ => self.unexpected("a value"),
        }
    }

    fn open(&mut self, next: Next, token: Token<'static>) -> Parsed<Token<'_>> {
        if self.levels.len() >= DEPTH_MAX {
            let message = format!("the JSON is nested over {DEPTH_MAX} deep: a reader that recurses runs out of stack");
            return Err(self.halt(self.token, message));
        }
        self.at += 1;
        let level = if token == Token::List { Level::List } else { Level::Object(std::mem::take(&mut self.spare)) };
        self.levels.push(level);
        self.next = next;
        Ok(token)
    }

    fn close(&mut self) {
        self.at += 1;
        if let Some(Level::Object(mut keys)) = self.levels.pop() {
            self.keys -= keys.len();
            keys.few.clear();
            // Of a large object the memory goes back at once.
            keys.many = HashSet::new();
            self.spare = keys;
        }
        self.after_value();
    }

    fn after_value(&mut self) {
        self.next = if self.levels.is_empty() { Next::Nothing } else { Next::CommaOrEnd };
    }

    fn key(&mut self) -> Parsed<Token<'_>> {
        self.text(KEY_MAX, "key")?;
        let token = self.token;
        if self.token_byte()? != b':' {
            return self.unexpected("a colon after a key");
        }
        self.at += 1;
        self.token = token;
        self.next = Next::Value;
        let hash = self.hasher.hash_one(&*self.text);
        let mut again = false;
        if let Some(Level::Object(keys)) = self.levels.last_mut() {
            again = !keys.add(hash);
            self.keys += usize::from(!again);
        }
        if self.keys > KEYS_MAX {
            return Err(self.halt(token, format!("the JSON has objects of over {KEYS_MAX} keys")));
        }
        Ok(Token::Key { name: self.checked_text()?, again })
    }

    fn checked_text(&self) -> Parsed<&str> {
        std::str::from_utf8(&self.text).map_err(|e| {
            let message = format!("a text is not UTF-8, from its byte {} on", e.valid_up_to());
            self.halt(self.token, message)
        })
    }

    /// Reads a text into `self.text`.
    fn text(&mut self, limit: usize, what: &str) -> Parsed<()> {
        self.text.clear();
        self.at += 1;
        loop {
            if self.peek()?.is_none() {
                return self.unexpected("the end of a text");
            }
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
            if self.text.len() + plain > limit {
                return Err(self.halt(self.token, format!("a {what} of the JSON has over {limit} bytes")));
            }
            self.text.extend_from_slice(&rest[..plain]);
            let stop = rest.get(plain).copied();
            self.at += plain;
            match stop {
                None => {}
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(_) => return self.unexpected("a text without control characters"),
            }
        }
    }

    fn escape(&mut self) -> Parsed<()> {
        let Some(byte) = self.peek()? else { return self.unexpected("an escape") };
        self.at += 1;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.code_point(),
            _ => {
                self.at -= 1;
                return self.unexpected("an escape");
            }
        };
        self.text.push(plain);
        Ok(())
    }

    /// `\uXXXX`, or two of them that make a surrogate pair.
    fn code_point(&mut self) -> Parsed<()> {
        let mut code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) {
            for expected in *b"\\u" {
                if self.peek()? != Some(expected) {
                    return self.unexpected("the second half of a surrogate pair");
                }
                self.at += 1;
            }
            let low = self.hex4()?;
            if !(0xdc00..0xe000).contains(&low) {
                return self.unexpected("the second half of a surrogate pair");
            }
            code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
        }
        let Some(c) = char::from_u32(code) else { return self.unexpected("a surrogate pair in its order") };
        self.text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek()?.and_then(|b| char::from(b).to_digit(16)) else {
                return self.unexpected("four hex digits");
            };
            self.at += 1;
            code = code << 4 | digit;
        }
        Ok(code)
    }

    fn number(&mut self) -> Parsed<Token<'_>> {
        let mut whole = Some(0u64);
        let mut take = |digit: u8| {
            whole = whole.and_then(|n| n.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
        };
        let mut integer = true;
        if self.take_byte(b"-")?.is_some() {
            integer = false;
            if self.peek()? == Some(b'I') {
                return self.word(b"Infinity", Token::NotANumber);
            }
        }
        match self.take_byte(b"0123456789")? {
            None => return self.unexpected("a digit"),
            Some(b'0') => {}
            Some(first) => {
                take(first);
                while let Some(digit) = self.take_byte(b"0123456789")? {
                    take(digit);
                }
            }
        }
        if self.take_byte(b".")?.is_some() {
            integer = false;
            self.digits()?;
        }
        if self.take_byte(b"eE")?.is_some() {
            integer = false;
            self.take_byte(b"+-")?;
            self.digits()?;
        }
        self.after_value();
        Ok(whole.filter(|_| integer).map_or(Token::Number, Token::Integer))
    }

    fn digits(&mut self) -> Parsed<()> {
        let mut any = false;
        while self.take_byte(b"0123456789")?.is_some() {
            any = true;
        }
        if any { Ok(()) } else { self.unexpected("a digit") }
    }

    fn take_byte(&mut self, wanted: &[u8]) -> Parsed<Option<u8>> {
        let byte = self.peek()?.filter(|b| wanted.contains(b));
        self.at += usize::from(byte.is_some());
        Ok(byte)
    }

    fn word(&mut self, word: &[u8], token: Token<'static>) -> Parsed<Token<'_>> {
        for expected in word {
            if self.peek()? != Some(*expected) {
                return self.unexpected("a value");
            }
            self.at += 1;
        }
        self.after_value();
        Ok(token)
    }

    /// The first byte of the next token, which is left where it is.
    fn token_byte(&mut self) -> Parsed<u8> {
        while self.peek()?.is_some() {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let blank = rest.iter().position(|b| !matches!(b, b' ' | b'\n' | b'\r' | b'\t'));
            self.at += blank.unwrap_or(rest.len());
            if let Some(byte) = self.buffer.get(self.at) {
                self.token = self.base + self.at as u64;
                return Ok(*byte);
            }
        }
        self.token = self.here();
        Err(self.halt(self.token, "the JSON ends before it is complete"))
    }

    fn peek(&mut self) -> Parsed<Option<u8>> {
        if let Some(byte) = self.buffer.get(self.at) {
            return Ok(Some(*byte));
        }
        self.base += self.buffer.len() as u64;
        self.at = 0;
        let more = (self.end - self.base).min(BUFFER) as usize;
        self.buffer.resize(more, 0);
        self.input.read_at(self.base, &mut self.buffer)?;
        Ok(self.buffer.first().copied())
    }

    fn unexpected<T>(&mut self, wanted: &str) -> Parsed<T> {
        let there = match self.peek()? {
            None => "its end".to_owned(),
            Some(byte @ b' '..=b'~') => format!("{:?}", char::from(byte)),
            Some(byte) => format!("the byte {byte:#04x}"),
        };
        Err(self.halt(self.here(), format!("the JSON has {there} where {wanted} should be")))
    }

    fn halt(&self, at: u64, message: impl Into<String>) -> Halt {
        Halt::found(self.malformed, Place::at(at + self.shift), message)
    }
}

#[cfg(test)]
mod tests;
