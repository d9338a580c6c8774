//! What inspection finds: rules, findings, and where they were found.
//!
//! Owns: [`Rule`] and `rules!`, which declares a module's, [`Severity`], [`Finding`] and the bounded list [`Findings`].
//! Promises: every finding names its rule, its place and, in a sentence, what could happen; text out of a file is cut and
//! quoted before it gets into a message; a file with a million defects costs no more memory than one with a few, and none
//! of the million is forgotten by the count. Leaves out: what follows from a finding (`policy`).

use crate::digest::shorten;
use crate::error::Error;
use crate::name::RelPath;
use serde::Serialize;

/// How bad it is, if it is what it looks like. Policy turns it into a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing, nothing more.
    Info,
    /// Odd, and could mislead a person or a program.
    Warning,
    /// Could harm whoever loads the model; a policy may still allow it.
    High,
    /// Malformed, or runs code when it is loaded: no policy can allow it.
    Critical,
}

impl Severity {
    /// The severity's name in the policy, the API and the sidecar.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// One rule of inspection. Every module of `format` lists its own in a `RULES`.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// A stable name, `<format>.<defect>`, such as `gguf.overlap`.
    pub id: &'static str,
    /// How bad a finding of it is.
    pub severity: Severity,
    /// What it is about and what could happen, in a sentence.
    pub summary: &'static str,
}

/// Declares a module's rules and lists them: `NAME "id" Severity "summary"`, one a line; or `of part, part` lists those of
/// a module's parts, in their order.
macro_rules! rules {
    (of $($part:ident),+) => {
        /// Every rule of the parts.
        pub(crate) static RULES: &[&$crate::format::finding::Rule] = &{
            const PARTS: &[&[&$crate::format::finding::Rule]] = &[$($part::RULES),+];
            $crate::format::finding::joined::<{ $crate::format::finding::count(PARTS) }>(PARTS)
        };
    };
    ($($name:ident $id:literal $severity:ident $summary:literal)*) => {
        $(pub(crate) static $name: $crate::format::finding::Rule = $crate::format::finding::Rule {
            id: $id,
            severity: $crate::format::finding::Severity::$severity,
            summary: $summary,
        };)*
        /// Every rule of this module.
        pub(crate) static RULES: &[&$crate::format::finding::Rule] = &[$(&$name),*];
    };
}
pub(crate) use rules;

/// How many rules the parts of a module have, for [`rules`].
pub(crate) const fn count(parts: &[&[&Rule]]) -> usize {
    let (mut part, mut count) = (0, 0);
    while part < parts.len() {
        count += parts[part].len();
        part += 1;
    }
    count
}

/// The rules of the parts in one list, for [`rules`]; there are `N`, and at least one.
pub(crate) const fn joined<const N: usize>(parts: &[&[&'static Rule]]) -> [&'static Rule; N] {
    let mut all = [parts[0][0]; N];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut i = 0;
        while i < parts[part].len() {
            all[at] = parts[part][i];
            (i, at) = (i + 1, at + 1);
        }
        part += 1;
    }
    all
}

/// Where in a file something was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Bytes from the start of the file, or of the `part`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The tensor, the archive's member or the metadata key, quoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

impl Place {
    /// The file as a whole.
    pub(crate) fn whole() -> Place {
        Place::default()
    }

    /// At a byte of the file.
    pub(crate) fn at(offset: u64) -> Place {
        Place { offset: Some(offset), part: None }
    }

    /// In a tensor, a member or a key; its name may be anything.
    pub(crate) fn part(name: &str) -> Place {
        Place { offset: None, part: Some(quoted(name)) }
    }

    /// At a byte inside a part.
    pub(crate) fn part_at(name: &str, offset: u64) -> Place {
        Place { offset: Some(offset), part: Some(quoted(name)) }
    }
}

/// Text out of a file, fit for a message: cut, without control or bidi characters. Quote it with `{:?}` by yourself if it
/// stands in a sentence; this is for places, which are shown on their own.
pub(crate) fn quoted(text: &str) -> String {
    shorten(text).escape_debug().to_string()
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// The rule's severity.
    pub severity: Severity,
    /// The file, by its path inside the artifact.
    pub file: String,
    /// Where in the file.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong and what could happen, in a sentence: lower case, names the thing.
    pub message: String,
}

/// Findings of one rule in one file that are kept; of more only the number is.
const KEPT_PER_RULE: usize = 16;
/// Findings that are kept of one candidate; of more only the number is, but for one that is worse than any before.
const KEPT: usize = 1000;

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    /// How many more there were.
    dropped: u64,
}

impl Findings {
    /// None yet.
    pub(crate) fn new() -> Findings {
        Findings::default()
    }

    /// Notes one, in `file`. The first of a rule in a file is always kept, so that no rule is lost to the verdict.
    pub(crate) fn add(&mut self, file: &RelPath, rule: &'static Rule, place: Place, message: impl Into<String>) {
        #[cfg(test)]
        if tests::is_deleted(rule.id) {
            return;
        }
        let same = self.list.iter().rev().filter(|f| f.rule == rule.id && f.file == file.as_str()).take(KEPT_PER_RULE);
        let same = same.count();
        let known = same > 0 || (self.list.len() >= KEPT && self.list.iter().any(|f| f.rule == rule.id));
        if same >= KEPT_PER_RULE || (self.list.len() >= KEPT && known) {
            self.dropped += 1;
            return;
        }
        let Rule { id, severity, .. } = *rule;
        let message = message.into();
        self.list.push(Finding { rule: id, severity, file: file.as_str().to_owned(), place, message });
    }

    /// Notes what stopped a parser; passes on what is no defect of the file.
    pub(crate) fn halt(&mut self, file: &RelPath, halt: Halt) -> Result<(), Error> {
        match halt {
            Halt::Failed(e) => Err(e),
            Halt::Found(found) => {
                let (rule, place, message) = *found;
                self.add(file, rule, place, message);
                Ok(())
            }
        }
    }

    /// All that were kept, in the order in which they were found.
    pub(crate) fn list(&self) -> &[Finding] {
        &self.list
    }

    /// How many were found beyond those that were kept, each of a rule that stands in the list.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a finding of this rule was made.
    pub(crate) fn has(&self, rule: &str) -> bool {
        self.list.iter().any(|f| f.rule == rule)
    }
}

/// What stops a parser: a defect after which nothing more can be said of the file, or a failure to read it.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The file is at fault.
    Found(Box<(&'static Rule, Place, String)>),
    /// The disk, the memory, the caller.
    Failed(Error),
}

impl Halt {
    pub(crate) fn found(rule: &'static Rule, place: Place, message: impl Into<String>) -> Halt {
        Halt::Found(Box::new((rule, place, message.into())))
    }
}

impl From<Error> for Halt {
    fn from(e: Error) -> Halt {
        Halt::Failed(e)
    }
}

/// What a parser gives.
pub(crate) type Parsed<T> = Result<T, Halt>;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this run of the tests goes without a rule: `.ci/long rules` deletes each in turn, and a test must fail.
    pub(super) fn is_deleted(id: &str) -> bool {
        static DELETED: std::sync::LazyLock<Option<String>> =
            std::sync::LazyLock::new(|| std::env::var("SECUREREG_TEST_RULE").ok());
        DELETED.as_deref() == Some(id)
    }

    rules! {
        ODD "test.odd" Warning "odd"
        BAD "test.bad" Critical "bad"
    }

    mod late {
        super::rules! { LATE "test.late" Info "of another part" }
    }
    mod early {
        pub(super) use super::RULES;
    }
    mod both {
        use super::{early, late};
        super::rules! { of early, late }
    }

    #[test]
    fn rules_are_listed_in_their_order_and_so_are_those_of_parts() {
        let all: Vec<_> = both::RULES.iter().map(|rule| (rule.id, rule.severity, rule.summary)).collect();
        let late = ("test.late", Severity::Info, "of another part");
        assert_eq!(all, [("test.odd", Severity::Warning, "odd"), ("test.bad", Severity::Critical, "bad"), late]);
    }

    #[test]
    fn a_million_findings_cost_little_and_hide_no_other_rule() {
        let mut findings = Findings::new();
        for i in 0..100_000u64 {
            let file = format!("f{}", i % 500).parse().expect("a path");
            findings.add(&file, &ODD, Place::at(i), "odd");
        }
        assert_eq!(findings.list().len(), KEPT);
        findings.add(&"late".parse().expect("a path"), &BAD, Place::whole(), "bad");
        assert_eq!((findings.list().len(), findings.dropped()), (KEPT + 1, 100_000 - KEPT as u64));
        assert!(findings.has("test.bad") && findings.has("test.odd"));
    }

    #[test]
    fn of_too_many_the_first_are_kept_and_one_of_each_rule() {
        let mut findings = Findings::new();
        let mut kept = |file: &str, rule| {
            let before = (findings.list().len(), findings.dropped());
            findings.add(&file.parse().expect("a path"), rule, Place::whole(), "");
            let after = (findings.list().len(), findings.dropped());
            assert!(after == (before.0 + 1, before.1) || after == (before.0, before.1 + 1));
            after.0 > before.0
        };
        assert!((0..KEPT_PER_RULE).all(|_| kept("a", &ODD)) && !kept("a", &ODD));
        assert!(kept("b", &ODD) && kept("a", &late::LATE), "another file, another rule");
        let filled = (0..KEPT).filter(|i| kept(&format!("f{}", i / KEPT_PER_RULE), &ODD)).count();
        assert_eq!(filled, KEPT - KEPT_PER_RULE - 2);
        assert!(!kept("new", &ODD) && !kept("b", &ODD) && !kept("new", &late::LATE), "the rule is in the list");
        assert!(kept("new", &BAD) && !kept("new", &BAD) && !kept("newer", &BAD));
    }

    #[test]
    fn a_severity_has_one_name_in_the_policy_and_in_json() {
        for (severity, name) in [
            (Severity::Info, "info"),
            (Severity::Warning, "warning"),
            (Severity::High, "high"),
            (Severity::Critical, "critical"),
        ] {
            assert_eq!((severity.as_str(), serde_json::json!(severity)), (name, name.into()));
        }
    }

    #[test]
    fn what_stands_in_a_place_can_be_printed() {
        let place = Place::part("a\u{202e}b\n\0").part.expect("a part");
        assert_eq!(place, "a\\u{202e}b\\n\\0");
    }
}
