//! The mutants that `cargo mutants --list` names.
//!
//! Owns: reading its JSON. Promises: a genre, a file or a place that is not understood is an error, so no mutant is left out.
//! Leaves out: which mutants there are (cargo-mutants, pinned in `.ci/long`).

use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Genre {
    /// A function's body becomes a value.
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

impl Genre {
    fn parse(name: &str) -> Option<Genre> {
        Some(match name {
            "FnValue" => Genre::FnValue,
            "BinaryOperator" => Genre::BinaryOperator,
            "UnaryOperator" => Genre::UnaryOperator,
            "MatchArm" => Genre::MatchArm,
            "MatchArmGuard" => Genre::MatchArmGuard,
            "StructField" => Genre::StructField,
            _ => return None,
        })
    }
}

/// One change: `replacement` stands where `span` of the file stood.
#[derive(Debug, Clone)]
pub(crate) struct Mutant {
    /// Its place in the list, from 1; 0 is no mutant.
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) genre: Genre,
    pub(crate) replacement: String,
    pub(crate) span: Range<usize>,
    /// The function that it is in; of two in one function the compiler may name only one.
    pub(crate) function: Option<Range<usize>>,
}

/// Reads the list; `sources` holds the text of each file that it names.
pub(crate) fn parse(json: &str, sources: &BTreeMap<String, String>) -> Result<Vec<Mutant>, String> {
    let list: Vec<Value> = serde_json::from_str(json).map_err(|e| format!("the list of mutants: {e}"))?;
    (1..).zip(&list).map(|(number, value)| mutant(number, value, sources)).collect()
}

fn mutant(number: u32, value: &Value, sources: &BTreeMap<String, String>) -> Result<Mutant, String> {
    let wrong = |what: &str| format!("mutant {number} of the list has no {what} that is understood: {value}");
    let text = |key: &str| value[key].as_str().map(str::to_owned).ok_or_else(|| wrong(key));
    let file = text("file")?;
    let source = sources.get(&file).ok_or_else(|| wrong("file"))?;
    let function = &value["function"];
    Ok(Mutant {
        number,
        name: text("name")?,
        genre: Genre::parse(&text("genre")?).ok_or_else(|| wrong("genre"))?,
        replacement: text("replacement")?,
        span: range(source, &value["span"]).ok_or_else(|| wrong("span"))?,
        function: if function.is_null() {
            None
        } else {
            Some(range(source, &function["span"]).ok_or_else(|| wrong("function"))?)
        },
        file,
    })
}

/// A span in bytes: the list counts lines, and characters in a line, from 1.
fn range(source: &str, span: &Value) -> Option<Range<usize>> {
    let offset = |end: &Value| {
        let line = usize::try_from(end["line"].as_u64()?).ok()?.checked_sub(1)?;
        let column = usize::try_from(end["column"].as_u64()?).ok()?.checked_sub(1)?;
        let start: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
        let rest = source.get(start..)?;
        Some(start + rest.char_indices().map(|(i, _)| i).chain([rest.len()]).nth(column)?)
    };
    let range = offset(&span["start"])?..offset(&span["end"])?;
    (range.start < range.end).then_some(range)
}
