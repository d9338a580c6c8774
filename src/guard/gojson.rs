//! JSON and quoted text as Go prints them.
//!
//! Owns: [`to_json`], which is `json.MarshalIndent(v, "", "  ")` and a line feed, and [`quote`], which is `%q`. Promises: the
//! bytes are Go's (encoding/json: `<`, `>`, `&`, U+2028 and U+2029 as `\uXXXX`; floats by `strconv`'s shortest form, with an
//! exponent below 1e-6 and from 1e21 on). Leaves out: NaN and the infinities, which JSON has not and no report
//! holds; floats midway between two shortest forms, of which Go takes the even and Rust the upper: no score is one.

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::fmt::Write as _;
use std::io::{self, Write};

/// `value` as gguf-guard prints it, with the line feed at its end.
pub fn to_json(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Go::default());
    value.serialize(&mut serializer).expect("plain data, written to memory");
    out.push(b'\n');
    String::from_utf8(out).expect("serde_json writes UTF-8")
}

/// Two spaces a level, and Go's strings and numbers.
#[derive(Default)]
struct Go {
    pretty: PrettyFormatter<'static>,
    /// The key that was begun last, and whether it is still being written.
    key: String,
    in_key: bool,
}

impl Go {
    /// What Go writes in place of `c`. A U+FFFD that stands for a byte which is no UTF-8 is written as an escape, one that
    /// was there is not; only an architecture can hold such bytes (`fingerprint::architecture`).
    fn escape(&self, c: char) -> Option<&'static str> {
        match c {
            '<' => Some("\\u003c"),
            '>' => Some("\\u003e"),
            '&' => Some("\\u0026"),
            '\u{2028}' => Some("\\u2028"),
            '\u{2029}' => Some("\\u2029"),
            char::REPLACEMENT_CHARACTER if self.key == "architecture" => Some("\\ufffd"),
            _ => None,
        }
    }
}

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        if self.in_key {
            self.key.push_str(fragment);
        }
        let mut plain = 0;
        for (at, c) in fragment.char_indices() {
            if let Some(escape) = self.escape(c) {
                out.write_all(&fragment.as_bytes()[plain..at])?;
                out.write_all(escape.as_bytes())?;
                plain = at + c.len_utf8();
            }
        }
        out.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float(value).as_bytes())
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.key.clear();
        self.in_key = true;
        self.pretty.begin_object_key(out, first)
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.in_key = false;
        self.pretty.end_object_key(out)
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.pretty.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.end_object(out)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.pretty.end_object_value(out)
    }
}

/// A finite float as encoding/json writes it.
pub(super) fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        // Rust writes 1e21 and 1e-7; Go signs the first, and drops the nought of 1e-07.
        return if text.contains("e-") { text } else { text.replace('e', "e+") };
    }
    value.to_string()
}

/// `text` as `%q` writes it (strconv.Quote).
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' | '\u{7f}' => write!(out, "\\x{:02x}", u32::from(c)).expect("a String takes it"),
            c if is_printable(c) => out.push(c),
            '\u{80}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes it"),
            c => write!(out, "\\U{:08x}", u32::from(c)).expect("a String takes it"),
        }
    }
    out.push('"');
    out
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space. Rust asks the same before it
/// escapes a character for debugging, but for a mark at the very beginning, which is why one stands before it here.
fn is_printable(c: char) -> bool {
    let text = String::from_iter(['a', c]);
    c.is_ascii_graphic() || c == ' ' || (!c.is_ascii() && !text.escape_debug().any(|c| c == '\\'))
}
