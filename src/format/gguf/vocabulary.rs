//! A GGUF's tokenizer: `tokenizer.ggml.*`.
//!
//! Owns: the arrays of the vocabulary against each other, the ids against the vocabulary, and what llama-vocab.cpp asserts when it
//! loads and tokenizes. Promises: what a loader could read past the end of, or would abort on, is refused; what it merely refuses
//! to load, or what real vocabularies hold, is a warning at most (llama.cpp's own 19 have none above). Linear in the vocabulary.
//! Leaves out: whether the words are those of the model.
//!
//! ```text
//! tokens str[n]   scores f32[n] (or i32)   token_type i32[n]: 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte
//! merges str[], "left right"   *_token_id u32 < n   precompiled_charsmap u8[] (charsmap.rs)
//! ```

use super::charsmap;
use super::known::PRE_TOKENIZERS;
use super::{Array, GgufHeader, Strings, Value, ValueType};
use crate::digest::shorten;
use crate::format::finding::{Findings, Place, Rule, rules};
use crate::name::RelPath;
use std::hash::{BuildHasher, RandomState};

rules! {
    VOCABULARY_TYPE "gguf.vocabulary-type" Critical "the tokens, their scores, types or merges are not arrays of the type they must have: a loader that trusts it reads past their end"
    VOCABULARY_COUNT "gguf.vocabulary-count" Critical "there are fewer scores or types than tokens: a loader reads past their end"
    VOCABULARY_EXCESS "gguf.vocabulary-excess" High "there are more scores or types than tokens: they do not belong to this vocabulary"
    VOCABULARY_EMPTY "gguf.vocabulary-empty" High "the vocabulary is empty: engines index it all the same"
    VOCABULARY_MISSING "gguf.vocabulary-missing" Warning "a tokenizer is named but its tokens or merges are not there, so llama.cpp does not load it"
    TOKENIZER_MODEL "gguf.tokenizer-model" Warning "the tokenizer or pre-tokenizer is none that llama.cpp knows"
    TOKENIZER_KEY "gguf.tokenizer-key" High "a key of the tokenizer has a value of the wrong type"
    TOKEN_DUPLICATE "gguf.token-duplicate" Critical "two tokens have one text as ggml reads it: llama.cpp aborts when it loads them"
    TOKEN_ID "gguf.token-id" Critical "a special token's id is outside the vocabulary: engines that trust it read past its end"
    TOKEN_ID_NONE "gguf.token-id-none" Warning "a special token's id is 4294967295, which some writers use for none"
    SUPPRESSED "gguf.suppressed-token" Warning "a token that is never to be generated is outside the vocabulary, where llama.cpp drops it"
    TOKEN_ID_ORPHAN "gguf.token-id-orphan" Warning "a special token has an id, and the file has no vocabulary"
    TOKEN_TYPE_VALUE "gguf.token-type" Warning "a token's type is none that ggml knows"
    TOKEN_TEXT "gguf.token-text" Warning "a token's text is not UTF-8 or holds a NUL, where llama.cpp cuts it"
    TOKEN_SCORE "gguf.token-score" Warning "a token's score is not a finite number"
    BYTE_ABORT "gguf.byte-token-abort" Critical "a WordPiece vocabulary has a byte token: llama.cpp aborts when it loads it"
    BYTE_HANG "gguf.byte-hang" Critical "an RWKV token begins with a byte that is no token by itself: llama.cpp never ends tokenizing, and takes memory without bound"
    BYTE_TOKEN "gguf.byte-token" Warning "byte tokens are missing or malformed: text that no token spells cannot be tokenized"
    MERGES "gguf.merges" Warning "a merge is not two parts with a space between"
    SPECIAL_ABORT "gguf.special-token-abort" High "a token that is put around every text has no id: llama.cpp aborts when it tokenizes"
}

/// What llama.cpp makes of `tokenizer.ggml.model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `none`, `no_vocab`: no vocabulary is read.
    None,
    Spm,
    Bpe,
    Wpm,
    Ugm,
    Rwkv,
    Plamo2,
    Test,
}

impl Kind {
    fn of(model: &str) -> Option<Kind> {
        Some(match model {
            "none" | "no_vocab" => Kind::None,
            "llama" => Kind::Spm,
            "gpt2" | "hybriddna" | "whitespace" | "gemma4" => Kind::Bpe,
            "bert" => Kind::Wpm,
            "t5" => Kind::Ugm,
            "rwkv" => Kind::Rwkv,
            "plamo2" => Kind::Plamo2,
            "test" => Kind::Test,
            _ => return None,
        })
    }
}

const TOKENS: &str = "tokenizer.ggml.tokens";
/// `LLAMA_TOKEN_TYPE_BYTE`.
const BYTE: i128 = 6;
/// The types of tokens are 0 (undefined) to this.
const LAST_TYPE: i128 = 6;

/// Of many tokens with one defect so many are named.
const NAMED: usize = 8;

/// Checks all of it.
pub(super) fn check(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    Check { path, header, findings }.all();
}

struct Check<'a> {
    path: &'a RelPath,
    header: &'a GgufHeader,
    findings: &'a mut Findings,
}

impl<'a> Check<'a> {
    fn all(&mut self) {
        let model = self.model();
        let kind = model.and_then(Kind::of);
        self.switches();
        let tokens = self.tokens();
        if kind == Some(Kind::None) {
            // Its ids are not read, and there may well be no tokens.
            return;
        }
        let pre = self.header.text("tokenizer.ggml.pre").unwrap_or("default");
        if kind == Some(Kind::Bpe) && model != Some("gemma4") && !pre.is_empty() && !PRE_TOKENIZERS.contains(&pre) {
            let why =
                format!("the pre-tokenizer {:?} is none that llama.cpp knows, so it does not load it", shorten(pre));
            self.add(&TOKENIZER_MODEL, "tokenizer.ggml.pre", why);
        }
        let types = match tokens {
            Some(tokens) => {
                if tokens.is_empty() {
                    self.add(&VOCABULARY_EMPTY, TOKENS, "the vocabulary is empty: engines index it all the same");
                }
                self.texts(tokens, model, kind);
                self.scores(tokens);
                self.types(tokens)
            }
            None => {
                if kind.is_some() && self.header.value(TOKENS).is_none() {
                    let why = format!(
                        "the tokenizer is {:?}, and there are no tokens: llama.cpp does not load it",
                        model.unwrap_or("")
                    );
                    self.add(&VOCABULARY_MISSING, TOKENS, why);
                }
                None
            }
        };
        if let (Some(tokens), Some(kind)) = (tokens, kind) {
            self.bytes(tokens, types, kind);
            self.around(tokens.len(), kind, model == Some("gemma4"));
        }
        self.ids(tokens);
        self.merges(kind, pre);
        charsmap::check(self.path, self.header, self.findings);
    }

    fn add(&mut self, rule: &'static Rule, key: &str, why: impl Into<String>) {
        self.findings.add(self.path, rule, Place::part(key), why);
    }

    fn model(&mut self) -> Option<&'a str> {
        let key = "tokenizer.ggml.model";
        let model = self.header.text(key);
        match (self.header.value(key), model) {
            (None, _) => {}
            (Some(_), Some(model)) if Kind::of(model).is_some() => {}
            (Some(Value::String(_)), _) => {
                let why = format!(
                    "the tokenizer {:?} is none that llama.cpp knows, so it does not load it",
                    shorten(model.unwrap_or("?"))
                );
                self.add(&TOKENIZER_MODEL, key, why);
            }
            (Some(other), _) => {
                let why = format!("{key} is of type {}, not a string", other.type_name());
                self.add(&TOKENIZER_KEY, key, why);
            }
        }
        model
    }

    /// Keys that must be booleans.
    fn switches(&mut self) {
        for key in ["add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"] {
            let key = format!("tokenizer.ggml.{key}");
            if let Some(other) = self.header.value(&key).filter(|v| !matches!(v, Value::Bool(_))) {
                self.add(&TOKENIZER_KEY, &key, format!("{key} is of type {}, not a boolean", other.type_name()));
            }
        }
        let key = "tokenizer.ggml.pre";
        if let Some(other) = self.header.value(key).filter(|v| !matches!(v, Value::String(_))) {
            self.add(&TOKENIZER_KEY, key, format!("{key} is of type {}, not a string", other.type_name()));
        }
    }

    fn tokens(&mut self) -> Option<&'a Strings> {
        match self.header.value(TOKENS)? {
            Value::Array(Array::Strings(tokens)) => Some(tokens),
            other => {
                let why = format!("the tokens are of type {}, not an array of strings", other.type_name());
                self.add(&VOCABULARY_TYPE, TOKENS, why);
                None
            }
        }
    }

    /// The texts as llama.cpp keeps them must all differ: `GGML_ASSERT(id_to_token.size() == token_to_id.size())`. It cuts a
    /// text at a NUL, and takes `[EMPTY_5]` for the 5th when that leaves nothing.
    fn texts(&mut self, tokens: &Strings, model: Option<&str>, kind: Option<Kind>) {
        let empty = |id: usize| tokens.get(id).is_some_and(|token| cut(token).is_empty());
        let hasher = RandomState::new();
        // 16 bytes a token, where a map of texts would take many times as much.
        let mut hashes = Vec::with_capacity(tokens.len());
        let mut odd = 0;
        let mut same = Vec::new();
        for (id, token) in tokens.iter().enumerate() {
            let text = cut(token);
            let nul = text.len() != token.len();
            if nul || std::str::from_utf8(token).is_err() {
                odd += 1;
                if odd <= NAMED {
                    let what = if nul { "has a NUL, where llama.cpp cuts it" } else { "is not UTF-8" };
                    self.add(&TOKEN_TEXT, TOKENS, format!("the token {id}, \"{}\", {what}", shown(token)));
                }
            }
            if text.is_empty() {
                continue;
            }
            if let Some(other) = empty_of(text).filter(|other| empty(*other)) {
                same.push((other as u32, id as u32));
            }
            hashes.push((hasher.hash_one(text), id as u32));
        }
        hashes.sort_unstable();
        let text = |id: u32| tokens.get(id as usize).map(cut);
        for pair in hashes.windows(2) {
            if let [(a, one), (b, other)] = pair
                && a == b
                && text(*one) == text(*other)
            {
                same.push((*one, *other));
            }
        }
        same.sort_unstable();
        // One that does not get so far in llama.cpp may be another program's, with other rules.
        let rule = if model.is_some() && kind.is_none() { &TOKEN_TEXT } else { &TOKEN_DUPLICATE };
        for (one, other) in same.iter().take(NAMED) {
            let text = shown(text(*other).unwrap_or_default());
            let why = format!("the tokens {one} and {other} are both \"{text}\": llama.cpp aborts when it loads them");
            self.add(rule, TOKENS, why);
        }
        if same.len() > NAMED {
            self.add(
                rule,
                TOKENS,
                format!("{} tokens have the text of another: llama.cpp aborts when it loads them", same.len()),
            );
        }
    }

    fn scores(&mut self, tokens: &Strings) {
        let key = "tokenizer.ggml.scores";
        let Some(value) = self.header.value(key) else { return };
        let Value::Array(Array::Packed { of: of @ (ValueType::F32 | ValueType::I32), count, bytes }) = value else {
            let why = format!(
                "the scores are of type {}, not an array of f32: a loader reads 4 bytes for each, past their end",
                value.type_name()
            );
            return self.add(&VOCABULARY_TYPE, key, why);
        };
        self.count(key, "scores", *count, tokens);
        if *of == ValueType::F32 {
            let odd = bytes.as_chunks::<4>().0.iter().position(|b| !f32::from_le_bytes(*b).is_finite());
            if let Some(id) = odd {
                self.add(&TOKEN_SCORE, key, format!("the score of token {id} is not a finite number"));
            }
        }
    }

    fn count(&mut self, key: &str, what: &str, count: u64, tokens: &Strings) {
        let n = tokens.len() as u64;
        if count < n {
            let why = format!("there are {count} {what} for {n} tokens: a loader reads past their end");
            self.add(&VOCABULARY_COUNT, key, why);
        } else if count > n {
            let why = format!("there are {count} {what} for {n} tokens: they do not belong to this vocabulary");
            self.add(&VOCABULARY_EXCESS, key, why);
        }
    }

    fn types(&mut self, tokens: &Strings) -> Option<&'a Array> {
        let key = "tokenizer.ggml.token_type";
        let value = self.header.value(key)?;
        let Value::Array(array @ Array::Packed { of: ValueType::I32, count, .. }) = value else {
            let why = format!(
                "the tokens' types are of type {}, not an array of i32: a loader reads 4 bytes for each, past their end",
                value.type_name()
            );
            self.add(&VOCABULARY_TYPE, key, why);
            return None;
        };
        self.count(key, "types", *count, tokens);
        let odd = array.integers()?.enumerate().find(|(_, kind)| !(0..=LAST_TYPE).contains(kind));
        if let Some((id, kind)) = odd {
            self.add(&TOKEN_TYPE_VALUE, key, format!("the type of token {id} is {kind}, which ggml does not know"));
        }
        Some(array)
    }

    /// Byte tokens: SentencePiece's fall back to them, and a token of that type must be one.
    fn bytes(&mut self, tokens: &Strings, types: Option<&Array>, kind: Kind) {
        let key = "tokenizer.ggml.token_type";
        let marked =
            types.and_then(Array::integers).into_iter().flatten().enumerate().filter(|(_, kind)| *kind == BYTE);
        let may = matches!(kind, Kind::Spm | Kind::Ugm | Kind::Bpe | Kind::Plamo2);
        let wrong = |text: &[u8]| kind == Kind::Wpm || may && byte_of(text).is_none();
        let marked =
            marked.filter_map(|(id, _)| Some((id, tokens.get(id)?))).filter(|(_, text)| wrong(text)).take(NAMED);
        for (id, text) in marked {
            if kind == Kind::Wpm {
                let why = format!(
                    "the token {id}, \"{}\", is a byte token in a WordPiece vocabulary: llama.cpp aborts when it loads it",
                    shown(text)
                );
                self.add(&BYTE_ABORT, key, why);
            } else {
                let why = format!("the token {id}, \"{}\", is of type byte and not of the form <0x0A>", shown(text));
                self.add(&BYTE_TOKEN, key, why);
            }
        }
        if kind == Kind::Rwkv {
            return self.first_bytes(tokens);
        }
        if !matches!(kind, Kind::Spm | Kind::Plamo2) {
            return;
        }
        let mut there = [false; 256];
        for token in tokens.iter() {
            // llama.cpp falls back to the byte itself as a token.
            let byte = byte_of(token).or(if kind == Kind::Spm {
                token.first().copied().filter(|_| token.len() == 1)
            } else {
                None
            });
            if let Some(slot) = byte.and_then(|b| there.get_mut(usize::from(b))) {
                *slot = true;
            }
        }
        let missing = there.iter().filter(|there| !**there).count();
        if missing > 0 {
            let why = format!(
                "{missing} of 256 byte tokens (<0x00> to <0xFF>) are missing: text that no token spells makes llama.cpp fail"
            );
            self.add(&BYTE_TOKEN, TOKENS, why);
        }
    }

    /// `llm_tokenizer_rwkv_session::tokenize` goes back to the text's start when it has taken a step and met no whole token.
    fn first_bytes(&mut self, tokens: &Strings) {
        let mut alone = [false; 256];
        let mut first = [None; 256];
        for (id, token) in tokens.iter().enumerate() {
            let (byte, more) = match unescaped(cut(token)) {
                // Of an empty one llama.cpp makes `[EMPTY_5]`.
                (None, _) => (b'[', true),
                (Some(byte), more) => (byte, more),
            };
            if !more {
                alone.iter_mut().skip(usize::from(byte)).take(1).for_each(|alone| *alone = true);
            } else if let Some(first) = first.get_mut(usize::from(byte)) {
                first.get_or_insert(id);
            }
        }
        let stuck = alone.iter().zip(first).filter_map(|(alone, id)| id.filter(|_| !alone));
        for id in stuck.take(NAMED) {
            let text = shown(tokens.get(id).unwrap_or_default());
            let why = format!(
                "the token {id}, \"{text}\", begins with a byte that is no token by itself: llama.cpp never ends tokenizing it"
            );
            self.add(&BYTE_HANG, TOKENS, why);
        }
    }

    /// Tokens put around every text: `GGML_ASSERT(special_bos_id != LLAMA_TOKEN_NULL)` and the like in llama-vocab.cpp.
    fn around(&mut self, count: usize, kind: Kind, gemma4: bool) {
        // What llama.cpp takes when the file does not say: the ids of BOS, EOS, SEP, and whether they are added.
        let (bos, eos, sep) = match kind {
            Kind::Spm | Kind::Plamo2 => (Some(1), Some(2), None),
            Kind::Wpm => (Some(101), None, Some(102)),
            Kind::Bpe if gemma4 => (None, None, None),
            Kind::Bpe => (Some(11), Some(11), None),
            Kind::Ugm => (None, Some(1), None),
            Kind::None | Kind::Rwkv | Kind::Test => return,
        };
        let switch = |key: &str| match self.header.value(key) {
            Some(Value::Bool(on)) => Some(*on),
            _ => None,
        };
        let add_bos = match kind {
            // Both are put there whatever the file says.
            Kind::Wpm => true,
            Kind::Bpe if gemma4 => true,
            _ => switch("tokenizer.ggml.add_bos_token").unwrap_or(kind == Kind::Spm),
        };
        let add_eos = kind != Kind::Wpm && switch("tokenizer.ggml.add_eos_token").unwrap_or(kind == Kind::Ugm);
        let add_sep = kind == Kind::Wpm;
        let within = |id: &u64| *id < count as u64;
        for (name, default, added) in [("bos", bos, add_bos), ("eos", eos, add_eos), ("seperator", sep, add_sep)] {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let stated = self.header.number(&key).filter(within);
            if added && stated.or(default.filter(within)).is_none() {
                let why = format!(
                    "a {name} token is put around every text, and it has no id in the vocabulary: llama.cpp aborts when it tokenizes"
                );
                self.add(&SPECIAL_ABORT, &key, why);
            }
        }
    }

    /// Every `*_token_id` and `*_token_ids`, whoever reads it.
    fn ids(&mut self, tokens: Option<&Strings>) {
        let header = self.header;
        for (key, value) in &header.pairs {
            let tail = key.strip_prefix("tokenizer.ggml.").unwrap_or("");
            let several = tail.ends_with("_token_ids") || tail == "suppress_tokens";
            let decoder = key.ends_with(".decoder_start_token_id");
            match value {
                _ if !several && !decoder && !tail.ends_with("_token_id") => {}
                Value::Array(array) if several && array.integers().is_some() => {
                    // One of each kind stands for the others: there may be millions.
                    let count = tokens.map_or(0, Strings::len) as i128;
                    let wrong = |id: &i128| !(0..count).contains(id);
                    let (mut none, mut beyond) = (None, None);
                    for id in array.integers().into_iter().flatten().filter(wrong) {
                        let slot = if is_none(id) { &mut none } else { &mut beyond };
                        slot.get_or_insert(id);
                    }
                    for id in [none, beyond].into_iter().flatten() {
                        self.id(key, id, tokens);
                    }
                }
                Value::Unsigned(ValueType::U32, id) if !several => self.id(key, i128::from(*id), tokens),
                // llama.cpp's own writer says -1 so, of models that have no decoder to start.
                Value::Signed(ValueType::I32, -1) if decoder => self.id(key, -1, tokens),
                Value::Unsigned(..) | Value::Signed(..) if !several => {
                    let id = match value {
                        Value::Signed(_, n) => i128::from(*n),
                        _ => i128::from(value.number().unwrap_or(0)),
                    };
                    let why = format!("{key} is of type {}, not u32: llama.cpp does not load it", value.type_name());
                    self.add(&TOKENIZER_KEY, key, why);
                    self.id(key, id, tokens);
                }
                _ => {
                    let want = if several { "an array of integers" } else { "u32" };
                    self.add(&TOKENIZER_KEY, key, format!("{key} is of type {}, not {want}", value.type_name()));
                }
            }
        }
    }

    fn id(&mut self, key: &str, id: i128, tokens: Option<&Strings>) {
        let Some(count) = tokens.map(Strings::len) else {
            return self.add(&TOKEN_ID_ORPHAN, key, format!("{key} is {id}, and the file has no vocabulary"));
        };
        if (0..count as i128).contains(&id) {
            return;
        }
        // Real models have it, for none; llama.cpp and others take it for none too.
        if is_none(id) {
            return self.add(&TOKEN_ID_NONE, key, format!("{key} is {id}, which some writers use for none"));
        }
        if key.ends_with(".suppress_tokens") {
            let why = format!("{key} has {id}, outside the vocabulary of {count}: llama.cpp drops it");
            return self.add(&SUPPRESSED, key, why);
        }
        let why = format!("{key} is {id}, outside the vocabulary of {count}: engines that trust it read past its end");
        self.add(&TOKEN_ID, key, why);
    }

    /// `find(' ', 1)` parts each: the first part may begin with a space, and the second be anything.
    fn merges(&mut self, kind: Option<Kind>, pre: &str) {
        let key = "tokenizer.ggml.merges";
        let merges = match self.header.value(key) {
            Some(Value::Array(Array::Strings(merges))) => merges,
            Some(other) => {
                let why = format!("the merges are of type {}, not an array of strings", other.type_name());
                return self.add(&VOCABULARY_TYPE, key, why);
            }
            None => {
                if kind == Some(Kind::Bpe) && pre != "kimi-k2" {
                    self.add(&VOCABULARY_MISSING, key, "a BPE tokenizer has no merges: llama.cpp does not load it");
                }
                return;
            }
        };
        let parted = |merge: &[u8]| {
            let at = merge.iter().skip(1).position(|b| *b == b' ');
            at.is_some_and(|at| at + 2 < merge.len())
        };
        if let Some((at, merge)) = merges.iter().enumerate().find(|(_, merge)| !parted(merge)) {
            let why = format!("the merge {at}, \"{}\", is not two parts with a space between", shown(merge));
            self.add(&MERGES, key, why);
        }
    }
}

/// What some writers write for no token.
fn is_none(id: i128) -> bool {
    id == -1 || id == i128::from(u32::MAX)
}

/// A token as C reads it.
fn cut(token: &[u8]) -> &[u8] {
    std::ffi::CStr::from_bytes_until_nul(token).map_or(token, std::ffi::CStr::to_bytes)
}

/// The number in `[EMPTY_5]`, as llama.cpp writes it.
fn empty_of(text: &[u8]) -> Option<usize> {
    let digits = text.strip_prefix(b"[EMPTY_")?.strip_suffix(b"]")?;
    let number: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == digits).then_some(number)
}

/// The byte that `<0x0A>` stands for.
fn byte_of(token: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', hex @ .., b'>'] = token else { return None };
    match hex {
        [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
            u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
        }
        _ => None,
    }
}

/// The first byte of an RWKV token, and whether there are more, as `llama_unescape_rwkv_token` reads it.
fn unescaped(token: &[u8]) -> (Option<u8>, bool) {
    let mut first = None;
    let mut bytes = token.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'\\' => match bytes.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'x') => {
                    let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else { break };
                    let digit = |c: u8| if c >= b'a' { c.wrapping_sub(b'a' - 10) } else { c.wrapping_sub(b'0') };
                    (digit(high) << 4).wrapping_add(digit(low))
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        if first.is_some() {
            return (first, true);
        }
        first = Some(byte);
    }
    (first, false)
}

/// A token fit for a message.
fn shown(token: &[u8]) -> String {
    shorten(&token.get(..64).unwrap_or(token).escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use super::super::build::*;
    use crate::format::finding::Severity;

    const MODEL: &str = "tokenizer.ggml.model";
    const LIST: &str = "tokenizer.ggml.tokens";
    const SCORES: &str = "tokenizer.ggml.scores";
    const TYPES: &str = "tokenizer.ggml.token_type";
    const BOS: &str = "tokenizer.ggml.bos_token_id";

    /// A SentencePiece vocabulary of these tokens beside 256 bytes, and more pairs; the tokens come first.
    fn spm(tokens: &[&str], more: &[Vec<u8>]) -> Vec<u8> {
        let all: Vec<String> =
            tokens.iter().map(|t| (*t).to_owned()).chain((0..256).map(|b| format!("<0x{b:02X}>"))).collect();
        model(&[&[text("general.architecture", "llama"), text(MODEL, "llama"), strings(LIST, &all)], more].concat())
    }

    fn of(kind: &str, tokens: &[&[u8]], more: &[Vec<u8>]) -> Vec<u8> {
        model(&[&[text("general.architecture", "llama"), text(MODEL, kind), strings(LIST, tokens)], more].concat())
    }

    /// 257 scores or types for `spm(&["a"], ..)`.
    fn n<T: Clone>(value: T, count: usize) -> Vec<T> {
        vec![value; count]
    }

    #[test]
    fn the_arrays_of_a_vocabulary_belong_together() {
        let good = [
            f32s(SCORES, &n(0.5, 257)),
            i32s(TYPES, &n(1, 257)),
            u32(BOS, 256),
            boolean("tokenizer.ggml.add_bos_token", true),
        ];
        assert_clean("sound", &spm(&["a"], &good), Severity::High);
        assert!(!findings_of(&spm(&["a"], &good)).has("gguf.byte-token"));
        assert_clean("i32 scores", &spm(&["a"], &[i32s(SCORES, &n(1, 257))]), Severity::High);
        let bytes = |key, of, count: usize| array(key, of, count as u64, &n(0, count));
        for (bytes, rule, why) in [
            (spm(&["a"], &[bytes(SCORES, 1, 257)]), "gguf.vocabulary-type", "array of i8, not an array of f32"),
            (spm(&["a"], &[text(SCORES, "x")]), "gguf.vocabulary-type", "type str"),
            (spm(&["a"], &[f32s(SCORES, &n(0.0, 256))]), "gguf.vocabulary-count", "256 scores for 257 tokens"),
            (spm(&["a"], &[f32s(SCORES, &n(0.0, 258))]), "gguf.vocabulary-excess", "258 scores for 257 tokens"),
            (spm(&["a"], &[u32s(TYPES, &n(1, 257))]), "gguf.vocabulary-type", "array of u32, not an array of i32"),
            (spm(&["a"], &[i32s(TYPES, &n(1, 256))]), "gguf.vocabulary-count", "256 types for 257 tokens"),
            (spm(&["a"], &[i32s(TYPES, &n(1, 258))]), "gguf.vocabulary-excess", "258 types for 257 tokens"),
            (
                model(&[text(MODEL, "llama"), i32s(LIST, &[1])]),
                "gguf.vocabulary-type",
                "the tokens are of type array of i32",
            ),
            (model(&[text(MODEL, "llama"), text(LIST, "a")]), "gguf.vocabulary-type", "the tokens are of type str"),
            (of("gpt2", &[b"a"], &[i32s("tokenizer.ggml.merges", &[1])]), "gguf.vocabulary-type", "merges"),
            (of("rwkv", &[], &[]), "gguf.vocabulary-empty", "empty"),
        ] {
            assert_found(why, &bytes, rule, why);
        }
        for (bytes, rule) in [
            (spm(&["a"], &[f32s(SCORES, &n(f32::NAN, 257))]), "gguf.token-score"),
            (spm(&["a"], &[i32s(TYPES, &n(7, 257))]), "gguf.token-type"),
            (spm(&["a"], &[i32s(TYPES, &n(-1, 257))]), "gguf.token-type"),
            (model(&[text(MODEL, "llama")]), "gguf.vocabulary-missing"),
            (model(&[text(MODEL, "moon")]), "gguf.tokenizer-model"),
            (of("gpt2", &[b"a"], &[]), "gguf.vocabulary-missing"),
            (of("gpt2", &[b"a"], &[text("tokenizer.ggml.pre", "moon")]), "gguf.tokenizer-model"),
            (spm(&["a\0"], &[]), "gguf.token-text"),
            (of("gpt2", &[b"\xff"], &[]), "gguf.token-text"),
            (of("gpt2", &[b"a"], &[strings("tokenizer.ggml.merges", &["ab"])]), "gguf.merges"),
            (of("gpt2", &[b"a"], &[strings("tokenizer.ggml.merges", &["a "])]), "gguf.merges"),
            (of("gpt2", &[b"a"], &[strings("tokenizer.ggml.merges", &[" a"])]), "gguf.merges"),
            (of("llama", &[b"a", b"b", b"c"], &[]), "gguf.byte-token"),
            (spm(&["<0x0G>"], &[i32s(TYPES, &n(6, 257))]), "gguf.byte-token"),
        ] {
            assert!(findings_of(&bytes).has(rule), "{rule}: {:?}", findings_of(&bytes).list());
            assert_clean(rule, &bytes, Severity::High);
        }
        for sound in [
            of(
                "gpt2",
                &[b"a"],
                &[strings("tokenizer.ggml.merges", &["a b", "  b", "a b c"]), text("tokenizer.ggml.pre", "qwen2")],
            ),
            of("gpt2", &[b"a"], &[text("tokenizer.ggml.pre", "kimi-k2")]),
            of("none", &[], &[u32(BOS, 7)]),
            spm(&["a"], &[i32s(TYPES, &n(0, 257))]),
        ] {
            let findings = findings_of(&sound);
            assert!(found(&findings, Severity::Warning).is_empty(), "{:?}", findings.list());
        }
    }

    #[test]
    fn tokens_that_llama_cpp_takes_for_one_are_refused() {
        for (tokens, why) in [
            (["a", "b", "a"].as_slice(), "the tokens 0 and 2 are both \"a\""),
            (&["a", "a\0b"], "the tokens 0 and 1 are both \"a\""),
            (&["a\0c", "a\0b"], "the tokens 0 and 1 are both \"a\""),
            (&["", "b", "[EMPTY_0]"], "the tokens 0 and 2 are both \"[EMPTY_0]\""),
            (&["[EMPTY_1]", "\0"], "the tokens 1 and 0 are both \"[EMPTY_1]\""),
            (&["<0x41>"], "both \"<0x41>\""),
        ] {
            assert_found(why, &spm(tokens, &[]), "gguf.token-duplicate", why);
        }
        for tokens in
            [["", "", "\0"].as_slice(), &["", "[EMPTY_00]"], &["", "[EMPTY_1]x"], &["[EMPTY_9]"], &["a", "A", "a "]]
        {
            assert_clean("different", &spm(tokens, &[]), Severity::High);
        }
        let many: Vec<&str> = vec!["same"; 1000];
        let findings = findings_of(&spm(&many, &[]));
        assert!(
            findings.list().iter().any(|f| f.message.starts_with("999 tokens have the text of another")),
            "{findings:?}"
        );
        assert!(findings.list().len() < 12);
        let others = of("moon", &[b"a", b"a"], &[]);
        assert_clean("another program's", &others, Severity::High);
        assert!(findings_of(&others).has("gguf.token-text"));
    }

    #[test]
    fn special_tokens_are_in_the_vocabulary() {
        // 3 tokens and 256 bytes.
        let with = |pair: Vec<u8>| spm(&["<unk>", "<s>", "</s>"], &[pair]);
        let names = [
            "bos",
            "eos",
            "eot",
            "eom",
            "unknown",
            "seperator",
            "padding",
            "cls",
            "mask",
            "prefix",
            "suffix",
            "middle",
            "fim_pre",
            "fim_suf",
            "fim_mid",
            "fim_pad",
            "fim_rep",
            "fim_sep",
            "whatever",
        ];
        for name in names {
            let key = format!("tokenizer.ggml.{name}_token_id");
            assert_clean(&key, &with(u32(&key, 258)), Severity::Warning);
            for id in [259, 999_999, u32::MAX - 1] {
                assert_found(
                    &key,
                    &with(u32(&key, id)),
                    "gguf.token-id",
                    &format!("{key} is {id}, outside the vocabulary of 259"),
                );
            }
        }
        let none = with(u32("tokenizer.ggml.padding_token_id", u32::MAX));
        assert_clean("none", &none, Severity::High);
        assert!(findings_of(&none).has("gguf.token-id-none"));
        for (pair, rule, why) in [
            (text(BOS, "1"), "gguf.tokenizer-key", "type str, not u32"),
            (i32(BOS, 1), "gguf.tokenizer-key", "type i32, not u32"),
            (u16(BOS, 1), "gguf.tokenizer-key", "type u16, not u32"),
            (boolean(BOS, true), "gguf.tokenizer-key", "type bool, not u32"),
            (u32s(BOS, &[1]), "gguf.tokenizer-key", "array of u32, not u32"),
            (u32("tokenizer.ggml.eos_token_ids", 1), "gguf.tokenizer-key", "not an array of integers"),
            (u32s("tokenizer.ggml.eos_token_ids", &[1, 259]), "gguf.token-id", "259, outside"),
            (u32("t5.decoder_start_token_id", 259), "gguf.token-id", "259, outside"),
            (text(MODEL, "llama"), "gguf.key-duplicate", "twice"),
            (u32("tokenizer.ggml.add_bos_token", 1), "gguf.tokenizer-key", "not a boolean"),
            (u32("tokenizer.ggml.add_eos_token", 1), "gguf.tokenizer-key", "not a boolean"),
            (u32("tokenizer.ggml.pre", 1), "gguf.tokenizer-key", "not a string"),
        ] {
            assert_found(why, &with(pair), rule, why);
        }
        assert_found("model", &model(&[u32(MODEL, 1)]), "gguf.tokenizer-key", "not a string");
        let dropped = with(i32s("tokenizer.ggml.suppress_tokens", &[1, -2]));
        assert_clean("suppressed", &dropped, Severity::High);
        assert!(findings_of(&dropped).has("gguf.suppressed-token"));
        let both = findings_of(&with(i32(BOS, 259)));
        assert!(both.has("gguf.tokenizer-key") && both.has("gguf.token-id"));
        assert_clean("ids", &with(u32s("tokenizer.ggml.eos_token_ids", &[0, 258])), Severity::Warning);
        let no_start = with(i32("llama.decoder_start_token_id", -1));
        assert!(findings_of(&no_start).has("gguf.token-id-none"));
        assert_clean("no decoder", &no_start, Severity::High);
        assert!(findings_of(&with(i32("t5.decoder_start_token_id", -2))).has("gguf.token-id"));
        assert_found("-1", &with(i32(BOS, -1)), "gguf.tokenizer-key", "not u32");
        let orphan = model(&[u32(BOS, 1)]);
        assert!(findings_of(&orphan).has("gguf.token-id-orphan"));
        assert_clean("orphan", &orphan, Severity::High);
    }

    #[test]
    fn an_rwkv_token_begins_with_a_token() {
        for (tokens, why) in [
            (&[&b"a"[..], b"ba"][..], Some("the token 1, \"ba\"")),
            (&[b"ba", b"b", b"ca"], Some("the token 2")),
            (&[b"\\x61b"], Some("the token 0")),
            (&[b"b", b"\\nb"], Some("the token 1")),
            (&[b"n", b"\\\\n"], Some("the token 1")),
            (&[b"a", b""], Some("the token 1, \"\"")),
            (&[b"a", b"\0a"], Some("the token 1")),
            (&[b"\\xffa", b"\xff"], None),
            (&[b"b", b"ba", b"bb"], None),
            (&[b"\\x62", b"ba"], None),
            (&[b"\\n", b"\nb"], None),
            (&[b"\\t\\r", b"\t"], None),
            (&[b"\\ra", b"\r"], None),
            (&[b"\\'", b"'a"], None),
            (&[b"a\\", b"ab"], None),
            (&[b"a\\x6", b"ab"], None),
            (&[b"[", b""], None),
        ] {
            let bytes = of("rwkv", tokens, &[]);
            match why {
                Some(why) => assert_found(why, &bytes, "gguf.byte-hang", why),
                None => assert!(!findings_of(&bytes).has("gguf.byte-hang"), "{tokens:?}: {:?}", findings_of(&bytes)),
            }
            assert!(!findings_of(&of("gpt2", tokens, &[])).has("gguf.byte-hang"));
        }
    }

    #[test]
    fn what_llama_cpp_asserts_when_it_tokenizes() {
        let bos = |on| boolean("tokenizer.ggml.add_bos_token", on);
        let eos = |on| boolean("tokenizer.ggml.add_eos_token", on);
        let eleven: Vec<Vec<u8>> = (0..11).map(|i| vec![b'a' + i]).collect();
        let eleven: Vec<&[u8]> = eleven.iter().map(Vec::as_slice).collect();
        let twelve = [&eleven[..], &[b"z"]].concat();
        let wpm: Vec<String> = (0..103).map(|i| format!("w{i}")).collect();
        let wpm: Vec<&[u8]> = wpm.iter().map(String::as_bytes).collect();
        for (what, bytes, aborts) in [
            ("llama, no BOS", of("llama", &[b"a"], &[]), true),
            ("llama, default BOS", of("llama", &[b"a", b"b"], &[]), false),
            ("llama, BOS off", of("llama", &[b"a"], &[bos(false)]), false),
            ("llama, BOS stated", of("llama", &[b"a"], &[u32(BOS, 0)]), false),
            ("llama, EOS on", of("llama", &[b"a", b"b"], &[eos(true)]), true),
            ("llama, default EOS", of("llama", &[b"a", b"b", b"c"], &[eos(true)]), false),
            ("gpt2, no BOS", of("gpt2", &eleven, &[bos(true)]), true),
            ("gpt2, BOS off", of("gpt2", &eleven, &[]), false),
            ("gpt2, default BOS", of("gpt2", &twelve, &[bos(true), eos(true)]), false),
            ("gemma4, no BOS", of("gemma4", &twelve, &[]), true),
            ("gemma4, BOS", of("gemma4", &twelve, &[u32(BOS, 2)]), false),
            ("t5, no EOS", of("t5", &[b"a"], &[]), true),
            ("t5, default EOS", of("t5", &[b"a", b"b"], &[]), false),
            ("t5, BOS on", of("t5", &[b"a", b"b"], &[bos(true)]), true),
            ("bert, no BOS", of("bert", &wpm[..101], &[]), true),
            ("bert, no SEP", of("bert", &wpm[..102], &[]), true),
            ("bert", of("bert", &wpm, &[]), false),
            ("rwkv", of("rwkv", &[b"a"], &[bos(true)]), false),
        ] {
            assert_eq!(
                findings_of(&bytes).has("gguf.special-token-abort"),
                aborts,
                "{what}: {:?}",
                findings_of(&bytes).list()
            );
        }
        let types: Vec<i32> = (0..103).map(|i| if i == 5 { 6 } else { 1 }).collect();
        assert_found(
            "a byte",
            &of("bert", &wpm, &[i32s(TYPES, &types)]),
            "gguf.byte-token-abort",
            "the token 5, \"w5\"",
        );
    }

    #[test]
    fn each_tokenizer_is_known_and_has_its_own_needs() {
        for name in ["llama", "gpt2", "hybriddna", "whitespace", "gemma4", "bert", "t5", "rwkv", "plamo2", "test"] {
            assert!(!findings_of(&of(name, &[b"a"], &[])).has("gguf.tokenizer-model"), "{name}");
        }
        // WordPiece puts its first token there whatever the file says.
        let bert = of("bert", &[b"a", b"b"], &[u32("tokenizer.ggml.seperator_token_id", 1)]);
        assert_found("bert", &bert, "gguf.special-token-abort", "a bos token");
        // A byte itself stands for `<0x0A>` in SentencePiece and not in PLaMo; `<0x+1>` is no byte in either.
        let bytes = |first: &[u8]| {
            let all: Vec<Vec<u8>> = (0..=255u8).map(|b| if b == 1 { first.to_vec() } else { vec![b] }).collect();
            all
        };
        for (kind, first, missing) in [
            ("llama", &b"\x01"[..], false),
            ("llama", b"<0x01>", false),
            ("llama", b"<0x+1>", true),
            ("plamo2", b"\x01", true),
        ] {
            let all = bytes(first);
            let tokens: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
            assert_eq!(findings_of(&of(kind, &tokens, &[])).has("gguf.byte-token"), missing, "{kind} {first:?}");
        }
    }
}
