//! Jinja's tokens.
//!
//! Owns: the way from a template's text to [`Token`]s, by the rules of Jinja2 3.1 with its default delimiters and without
//! line statements (`jinja2/lexer.py`):
//! ```text
//! root     := text ( comment | raw | "{{" [-+] tokens [-] "}}" | "{%" [-+] tokens [-+] "%}" )*
//! comment  := "{#" ... "#}"                       raw := "{%" "raw" "%}" text "{%" "endraw" "%}"
//! "}}" and "%}" end a tag only where all of its brackets are closed
//! ```
//! Promises: one pass, each byte looked at a bounded number of times; what another engine would read differently (letters
//! and spaces beyond ASCII, control characters, `\N{...}`) is an error. Leaves out: what text is kept or trimmed, which
//! changes no code.

use super::rules::{IDENTIFIER, LIMIT, SYNTAX};
use super::{Defect, MAX_TOKENS};
use std::rc::Rc;

/// One token, and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text outside of tags.
    Text,
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(Rc<str>),
    /// A string, its escapes decoded.
    Str(Rc<str>),
    /// An integer; one beyond 64 bits is the largest.
    Int(u64),
    Float,
    /// An operator or bracket, as it is written.
    Op(&'static str),
}

/// Operators, the longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// Which tag the lexer is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Variable,
    Block,
}

/// All tokens of a template.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Defect> {
    let mut lexer = Lexer { text, at: 0, out: Vec::new() };
    while lexer.at < text.len() {
        lexer.root()?;
    }
    Ok(lexer.out)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    out: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn push(&mut self, at: usize, kind: Kind) -> Result<(), Defect> {
        if self.out.len() >= MAX_TOKENS {
            let why = format!("the template has more than {MAX_TOKENS} tokens: rendering it could exhaust an engine");
            return Err(Defect::new(&LIMIT, at, why));
        }
        self.out.push(Token { at, kind });
        Ok(())
    }

    /// Text up to the next tag, and that tag.
    fn root(&mut self) -> Result<(), Defect> {
        let rest = self.rest();
        let begin = rest.as_bytes().windows(2).position(|w| matches!(w, b"{{" | b"{%" | b"{#"));
        let length = begin.unwrap_or(rest.len());
        if length > 0 {
            self.push(self.at, Kind::Text)?;
        }
        self.at += length;
        let start = self.at;
        let rest = self.rest();
        if let Some(comment) = rest.strip_prefix("{#") {
            let end = comment.find("#}").ok_or_else(|| syntax(start, "a comment is not closed"))?;
            self.at += end + 4;
            return Ok(());
        }
        let tag = match rest.get(..2) {
            Some("{{") => Tag::Variable,
            Some("{%") => Tag::Block,
            _ => return Ok(()),
        };
        if tag == Tag::Block && self.raw()? {
            return Ok(());
        }
        self.push(start, if tag == Tag::Variable { Kind::VariableBegin } else { Kind::BlockBegin })?;
        self.at += 2;
        if self.rest().starts_with(['-', '+']) {
            self.at += 1;
        }
        self.tag(start, tag)
    }

    /// A raw block as a whole, if one begins here.
    fn raw(&mut self) -> Result<bool, Defect> {
        let Some(inside) = word_tag(self.rest(), self.at, "raw")? else { return Ok(false) };
        let (start, body) = (self.at, self.at + inside);
        let mut from = body;
        loop {
            let rest = self.text.get(from..).unwrap_or("");
            let next = rest.find("{%").ok_or_else(|| syntax(start, "a raw block is not closed"))?;
            let tag = from + next;
            if let Some(length) = word_tag(self.text.get(tag..).unwrap_or(""), tag, "endraw")? {
                self.push(body, Kind::Text)?;
                self.at = tag + length;
                return Ok(true);
            }
            from = tag + 2;
        }
    }

    /// The tokens of a tag, with its end.
    fn tag(&mut self, start: usize, tag: Tag) -> Result<(), Defect> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(syntax(start, "a tag is not closed"));
            };
            if open.is_empty()
                && let Some(length) = tag_end(rest, tag)
            {
                self.push(self.at, if tag == Tag::Variable { Kind::VariableEnd } else { Kind::BlockEnd })?;
                self.at += length;
                return Ok(());
            }
            match first {
                ' ' | '\t' | '\n' | '\r' => self.at += 1,
                '0'..='9' => self.number()?,
                'a'..='z' | 'A'..='Z' | '_' => self.name()?,
                '"' | '\'' => self.string(first)?,
                _ => self.operator(first, &mut open)?,
            }
        }
    }

    fn operator(&mut self, first: char, open: &mut Vec<&'static str>) -> Result<(), Defect> {
        let rest = self.rest();
        let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) else {
            if !first.is_ascii() {
                let why = "engines and Python disagree on which name or space it is, so a forbidden name could hide";
                return Err(Defect::new(&IDENTIFIER, self.at, format!("the template's code has {first:?}: {why}")));
            }
            return Err(syntax(self.at, &format!("{first:?} is no token")));
        };
        match op {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" if open.pop() != Some(op) => {
                return Err(syntax(self.at, &format!("{op:?} closes nothing")));
            }
            _ => {}
        }
        self.push(self.at, Kind::Op(op))?;
        self.at += op.len();
        Ok(())
    }

    fn name(&mut self) -> Result<(), Defect> {
        let rest = self.rest();
        let length = rest.bytes().position(|b| !b.is_ascii_alphanumeric() && b != b'_').unwrap_or(rest.len());
        // A letter beyond ASCII right behind is part of the name for Python, and of nothing for others.
        if let Some(odd) = rest.get(length..).and_then(|r| r.chars().next()).filter(|c| !c.is_ascii()) {
            let why = format!(
                "a name in the template's code has {odd:?}: Python would normalise it, to a forbidden one even"
            );
            return Err(Defect::new(&IDENTIFIER, self.at, why));
        }
        self.push(self.at, Kind::Name(rest.get(..length).unwrap_or("").into()))?;
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Defect> {
        let (at, rest) = (self.at, self.rest());
        let lower = rest.get(..2).map(str::to_ascii_lowercase);
        let radix = match lower.as_deref() {
            Some("0b") => 2,
            Some("0o") => 8,
            Some("0x") => 16,
            _ => 10,
        };
        let digits = |text: &str| {
            let mut length = 0;
            let mut value = 0u64;
            for (i, c) in text.char_indices() {
                match c.to_digit(radix) {
                    Some(digit) => {
                        value = value.saturating_mul(u64::from(radix)).saturating_add(u64::from(digit));
                        length = i + 1;
                    }
                    None if c == '_' && length == i => {}
                    None => break,
                }
            }
            (length, value)
        };
        let prefix = if radix == 10 { 0 } else { 2 };
        let (length, value) = digits(rest.get(prefix..).unwrap_or(""));
        if length == 0 {
            return Err(syntax(at, "a number has no digits"));
        }
        let mut end = prefix + length;
        let tail = |end: usize| rest.get(end..).unwrap_or("");
        let mut float = false;
        // `x.0.1` are two indexes, not a float: no fraction right behind a dot.
        let after_dot = matches!(self.out.last(), Some(Token { kind: Kind::Op("."), .. }));
        if radix == 10 && !after_dot {
            if let Some(fraction) = tail(end).strip_prefix('.').filter(|f| f.starts_with(|c: char| c.is_ascii_digit()))
            {
                end += 1 + digits(fraction).0;
                float = true;
            }
            if let Some(exponent) = tail(end).strip_prefix(['e', 'E']) {
                let sign = usize::from(exponent.starts_with(['+', '-']));
                let (length, _) = digits(exponent.get(sign..).filter(|e| !e.starts_with('_')).unwrap_or(""));
                if length > 0 {
                    end += 1 + sign + length;
                    float = true;
                }
            }
        }
        if tail(end).starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
            return Err(syntax(at, "a number runs into a name"));
        }
        let zeros = rest.get(..end).unwrap_or("").chars().all(|c| matches!(c, '0' | '_'));
        if radix == 10 && !float && rest.starts_with('0') && !zeros {
            return Err(syntax(at, "a number begins with 0: some engines read it as octal, some as two numbers"));
        }
        self.push(at, if float { Kind::Float } else { Kind::Int(value) })?;
        self.at += end;
        Ok(())
    }

    /// A string, decoded as Python's `unicode-escape` does.
    fn string(&mut self, quote: char) -> Result<(), Defect> {
        let start = self.at;
        let rest = self.rest();
        let mut out = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.push(start, Kind::Str(out.into()))?;
                self.at = start + i + 1;
                return Ok(());
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let at = start + i;
            let Some((j, escaped)) = chars.next() else { break };
            let wide = match escaped {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            if wide > 0 {
                let code = rest.get(j + 1..j + 1 + wide).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
                let code = code.and_then(|h| u32::from_str_radix(h, 16).ok()).filter(|code| *code <= 0x10_ffff);
                let code = code.ok_or_else(|| syntax(at, "a string has a broken escape"))?;
                // Half a surrogate pair is no character; none of the names that matter has one.
                out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                chars.nth(wide - 1);
                continue;
            }
            match escaped {
                'N' => {
                    let what = r"a string has an escape by name (\N{...}), which engines read differently";
                    return Err(syntax(at, what));
                }
                '0'..='7' => {
                    let mut code = escaped.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(8)) else { break };
                        code = code * 8 + digit;
                        chars.next();
                    }
                    out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
                // Jinja2 makes every end of a line one "\n" first.
                '\n' => {}
                '\r' => drop(chars.next_if(|(_, c)| *c == '\n')),
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                'a' => out.push('\x07'),
                'b' => out.push('\x08'),
                'f' => out.push('\x0c'),
                'v' => out.push('\x0b'),
                '\\' | '\'' | '"' => out.push(escaped),
                other => out.extend(['\\', other]),
            }
        }
        Err(syntax(start, "a string is not closed"))
    }
}

/// The length of a tag's end, if it stands here.
fn tag_end(rest: &str, tag: Tag) -> Option<usize> {
    let ends: &[&str] = match tag {
        Tag::Variable => &["-}}", "}}"],
        Tag::Block => &["-%}", "+%}", "%}"],
    };
    ends.iter().find(|end| rest.starts_with(**end)).map(|end| end.len())
}

/// The length of `{% word %}`, if it stands here.
fn word_tag(rest: &str, at: usize, word: &str) -> Result<Option<usize>, Defect> {
    let Some(inside) = rest.strip_prefix("{%") else { return Ok(None) };
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    // What Python's `\s` takes; `str::is_whitespace` lacks the separators of files, groups, records and units.
    let blank = |c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f');
    let Some(after) = inside.trim_start_matches(blank).strip_prefix(word) else { return Ok(None) };
    let tail = after.trim_start_matches(blank);
    // Jinja2 has no `+` at the end of this one.
    let end = tag_end(tail, Tag::Block).filter(|_| word != "raw" || !tail.starts_with('+'));
    let Some(length) = end else { return Ok(None) };
    let length = rest.len() - tail.len() + length;
    let odd = |c: char| blank(c) && !matches!(c, ' ' | '\t' | '\n' | '\r');
    if rest.get(..length).is_some_and(|tag| tag.contains(odd)) {
        return Err(syntax(at, &format!("a space of {word:?} is one to Python, and to others not")));
    }
    Ok(Some(length))
}

/// What engines would fail on, or read each in its own way.
pub(super) fn syntax(at: usize, what: &str) -> Defect {
    Defect::new(&SYNTAX, at, format!("the template is no valid Jinja: {what}; engines fail or differ on it"))
}
