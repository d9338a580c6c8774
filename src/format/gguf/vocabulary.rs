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
use super::parse::rules;
use super::{Array, GgufHeader, Strings, Value, ValueType};
use crate::digest::shorten;
use crate::format::finding::{Findings, Place, Rule, Severity};
use crate::name::RelPath;
use std::borrow::Cow;
use std::collections::HashMap;

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
    TOKEN_ID_ORPHAN "gguf.token-id-orphan" Warning "a special token has an id, and the file has no vocabulary"
    TOKEN_TYPE_VALUE "gguf.token-type" Warning "a token's type is none that ggml knows"
    TOKEN_TEXT "gguf.token-text" Warning "a token's text is not UTF-8 or holds a NUL, where llama.cpp cuts it"
    TOKEN_SCORE "gguf.token-score" Warning "a token's score is not a finite number"
    BYTE_ABORT "gguf.byte-token-abort" Critical "a WordPiece vocabulary has a byte token: llama.cpp aborts when it loads it"
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

/// The pre-tokenizers that llama-vocab.cpp knows.
const PRE_TOKENIZERS: &[&str] = &[
    "a.x-4.0",
    "afmoe",
    "bailingmoe",
    "bailingmoe2",
    "bloom",
    "chameleon",
    "chatglm-bpe",
    "codeshell",
    "cohere2moe",
    "command-r",
    "dbrx",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-r1-qwen",
    "deepseek-v3",
    "default",
    "exaone",
    "exaone-moe",
    "exaone4",
    "f2llmv2",
    "falcon",
    "falcon-h1",
    "falcon3",
    "gemma4",
    "gigachat",
    "glm4",
    "glm5",
    "gpt-2",
    "gpt-4o",
    "gpt3-finnish",
    "granite-docling",
    "granite-embed-multi-311m",
    "granite-embed-multi-97m",
    "grok-2",
    "hunyuan",
    "hunyuan-dense",
    "hy_v4",
    "jais",
    "jais-2",
    "jina-de",
    "jina-es",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-de",
    "jina-v2-es",
    "jina-v5-nano",
    "joyai-llm",
    "kanana2",
    "kimi-k2",
    "kormo",
    "laguna",
    "lfm2",
    "llada-moe",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "llama4",
    "megrez",
    "mellum",
    "mellum2",
    "midm-2.0",
    "minerva-7b",
    "minicpm5",
    "minimax-m2",
    "modern-bert",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "poro-chat",
    "qwen2",
    "qwen35",
    "refact",
    "roberta-bpe",
    "sarvam-moe",
    "seed-coder",
    "smaug-bpe",
    "smollm",
    "solar-open",
    "spark2_5",
    "stablelm2",
    "starcoder",
    "superbpe",
    "talkie",
    "tekken",
    "tiny_aya",
    "trillion",
    "ufakzeka",
    "viking",
    "whitespace",
    "youtu",
];

const TOKENS: &str = "tokenizer.ggml.tokens";
/// `LLAMA_TOKEN_TYPE_BYTE`.
const BYTE: i128 = 6;
/// The types of tokens are 0 (undefined) to this.
const LAST_TYPE: i128 = 6;

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

    /// The texts as llama.cpp keeps them must all differ: `GGML_ASSERT(id_to_token.size() == token_to_id.size())`.
    fn texts(&mut self, tokens: &Strings, model: Option<&str>, kind: Option<Kind>) {
        let mut seen: HashMap<Cow<'_, [u8]>, usize> = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            let cut = token.split(|b| *b == 0).next().unwrap_or_default();
            if cut.len() != token.len() {
                let why =
                    format!("the token {id} has a NUL in its text: llama.cpp cuts it there, to \"{}\"", shown(cut));
                self.add(&TOKEN_TEXT, TOKENS, why);
            } else if std::str::from_utf8(token).is_err() {
                self.add(&TOKEN_TEXT, TOKENS, format!("the token {id}, \"{}\", is not UTF-8", shown(token)));
            }
            let text =
                if cut.is_empty() { Cow::Owned(format!("[EMPTY_{id}]").into_bytes()) } else { Cow::Borrowed(cut) };
            let Some(other) = seen.insert(text, id) else { continue };
            let why =
                format!("the tokens {other} and {id} are both \"{}\": llama.cpp aborts when it loads them", shown(cut));
            // One that does not get so far in llama.cpp may be another program's, with other rules.
            let rule = if model.is_some() && kind.is_none() { &TOKEN_TEXT } else { &TOKEN_DUPLICATE };
            self.add(rule, TOKENS, why);
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
        for (id, _) in marked {
            let Some(text) = tokens.get(id) else { break };
            if kind == Kind::Wpm {
                let why = format!(
                    "the token {id}, \"{}\", is a byte token in a WordPiece vocabulary: llama.cpp aborts when it loads it",
                    shown(text)
                );
                self.add(&BYTE_ABORT, key, why);
            } else if matches!(kind, Kind::Spm | Kind::Ugm | Kind::Bpe | Kind::Plamo2) && byte_of(text).is_none() {
                let why = format!("the token {id}, \"{}\", is of type byte and not of the form <0x0A>", shown(text));
                self.add(&BYTE_TOKEN, key, why);
            }
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
                    for id in array.integers().into_iter().flatten() {
                        self.id(key, id, tokens);
                    }
                }
                Value::Unsigned(ValueType::U32, id) if !several => self.id(key, i128::from(*id), tokens),
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
        if id == -1 || id == i128::from(u32::MAX) {
            return self.add(&TOKEN_ID_NONE, key, format!("{key} is {id}, which some writers use for none"));
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

/// A token fit for a message.
fn shown(token: &[u8]) -> String {
    shorten(&token.get(..64).unwrap_or(token).escape_ascii().to_string())
}
