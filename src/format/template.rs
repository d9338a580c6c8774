//! Chat templates: Jinja programs that travel in a model's metadata, and that engines run.
//!
//! Owns: [`check`]. A template can reach the interpreter of an engine written in Python (CVE-2024-34359, CVE-2024-56326,
//! CVE-2025-27516, CVE-2026-5760), so it is parsed as a whole and held against what known templates use:
//! ```text
//! bytes -> lexer -> tokens -> parser, expression -> flat statements and nodes -> judge (value, rules, names, cost) -> findings
//! ```
//! Promises: fields of data, and calls, filters, tests and statements on the lists of `rules` pass; all else is refused, as
//! is a name that the template puts together itself to look it up (`'__cl' ~ 'ass__'`). What engines would fail on or read
//! differently is refused too. No recursion; time and memory in proportion to the template. Leaves out: what a template
//! writes; whether it suits the model.

mod cost;
mod expression;
mod judge;
mod lexer;
mod node;
mod parser;
mod places;
mod rules;
mod stack;
#[cfg(test)]
mod tests;
mod value;

use super::finding::{Findings, Place, Rule};
use crate::name::RelPath;

pub(crate) use rules::RULES;

/// The longest template that is looked at; the longest known one has about 30 KB.
const MAX_BYTES: usize = 1 << 20;
/// Tokens of a template; the most of a known one are about 6,000.
const MAX_TOKENS: usize = 1 << 16;
/// Nesting of brackets, and of blocks. Python gives up at about a hundred.
const MAX_NESTING: usize = 64;
/// Operators on top of each other in an expression. Jinja2 gives up at about 300.
const MAX_DEPTH: usize = 200;
/// Rounds of a loop, elements of a list or bytes of a text that a template may make by itself.
const MAX_MADE: u64 = 1_000_000;

/// What is wrong with a template, and where in it.
#[derive(Debug)]
struct Defect {
    rule: &'static Rule,
    at: usize,
    message: String,
}

impl Defect {
    fn new(rule: &'static Rule, at: usize, message: impl Into<String>) -> Defect {
        Defect { rule, at, message: message.into() }
    }
}

/// Judges the template `text` that stands in `part` (a metadata key, a JSON member) of a file.
pub(crate) fn check(path: &RelPath, part: &str, text: &[u8], findings: &mut Findings) {
    for Defect { rule, at, message } in defects(text) {
        findings.add(path, rule, Place::part_at(part, at as u64), message);
    }
}

/// What is wrong with a template, in the order of the text as far as it goes.
fn defects(text: &[u8]) -> Vec<Defect> {
    if text.len() > MAX_BYTES {
        let why = format!("the template has {} bytes; more than {MAX_BYTES} are refused unread", text.len());
        return vec![Defect::new(&rules::SIZE, MAX_BYTES, why)];
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(e) => {
            let why = "the template is not UTF-8: engines would fail on it or read different templates";
            return vec![Defect::new(&rules::UTF8, e.valid_up_to(), why)];
        }
    };
    let program = lexer::tokens(text).and_then(|tokens| parser::parse(&tokens, text.len()));
    let mut found = match program {
        Ok(program) => judge::judge(&program),
        Err(defect) => vec![defect],
    };
    // Others see all of it: where a policy allows the byte, what follows is still judged.
    if let Some(at) = text.bytes().position(|b| b == 0) {
        let why = "the template has a NUL byte: some engines would see only what stands before it";
        found.push(Defect::new(&rules::NUL, at, why));
        found.sort_by_key(|defect| defect.at);
    }
    found
}
