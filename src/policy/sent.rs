//! What a promoter sends along, as far as the policy looks at it.
//!
//! Owns: which scanners a promotion's `scanner_versions` and `scan_results` say have run, and whether a gguf-guard result that
//! was sent along is of these very files. Promises: a scanner without a version has not run; a result is never believed to be
//! a good one, only a bad one is believed. Leaves out: everything else in the evidence, which is kept as it is (`promote`).

use super::GUARD;
use crate::digest::Sha256Digest;
use crate::format::finding::{Findings, Place};
use crate::guard;
use crate::sidecar::Guarded;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One scanner of the promoter's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Its version; none when the promoter does not say that it ran.
    pub(crate) version: Option<String>,
    /// Its result's word, when that is a bad one.
    pub(crate) bad: Option<String>,
}

/// Words by which scanners and pipelines say that something was found, in lower case.
const BAD: [&str; 15] = [
    "bad",
    "blocked",
    "danger",
    "dangerous",
    "deny",
    "denied",
    "error",
    "fail",
    "failed",
    "infected",
    "malicious",
    "malware",
    "quarantine",
    "rejected",
    "unsafe",
];

/// Members of a result that hold its word.
const WORDS: [&str; 4] = ["status", "result", "verdict", "outcome"];

/// The scanners that the evidence speaks of: `{"scanner_versions":{NAME:VERSION},"scan_results":{NAME:RESULT}}`, or
/// `"scan_results":[{"scanner":NAME,"status":...}]`.
pub(crate) fn scanners(evidence: &Map<String, Value>) -> BTreeMap<String, Sent> {
    let mut sent: BTreeMap<String, Sent> = BTreeMap::new();
    for (name, version) in evidence.get("scanner_versions").and_then(Value::as_object).into_iter().flatten() {
        let version = version.as_str().filter(|v| !v.trim().is_empty());
        if let Some(version) = version {
            sent.entry(name.clone()).or_default().version = Some(crate::digest::shorten(version));
        }
    }
    match evidence.get("scan_results") {
        Some(Value::Object(results)) => {
            for (name, result) in results {
                if let Some(word) = bad_word(result) {
                    sent.entry(name.clone()).or_default().bad = Some(word);
                }
            }
        }
        Some(Value::Array(results)) => {
            for result in results {
                let name = ["scanner", "name", "tool"].iter().find_map(|key| result.get(*key)?.as_str());
                if let Some(word) = bad_word(result) {
                    sent.entry(name.unwrap_or("a scanner").to_owned()).or_default().bad = Some(word);
                }
            }
        }
        _ => {}
    }
    sent
}

/// The bad word of a result: of a word itself, of `{"status":WORD}` and the like, of `false` as `passed`, `clean` or `safe`.
fn bad_word(result: &Value) -> Option<String> {
    let bad = |word: &Value| {
        let text = word.as_str()?;
        BAD.contains(&text.trim().to_ascii_lowercase().as_str()).then(|| text.to_owned())
    };
    let Value::Object(members) = result else { return bad(result) };
    let word = WORDS.iter().find_map(|key| bad(members.get(*key)?));
    let denied = || {
        let no = ["passed", "pass", "clean", "safe", "ok"]
            .iter()
            .find(|key| members.get(**key) == Some(&Value::Bool(false)));
        no.map(|key| format!("{key}: false"))
    };
    word.or_else(denied)
}

/// Holds gguf-guard's own results, where the promoter sent them along, against what was hashed here. Its per-tensor hashes
/// are not compared: of newer types and other alignments they are wrong, and the file's hash covers every tensor.
pub(crate) fn compare_guard(evidence: &Map<String, Value>, guarded: &[Guarded], findings: &mut Findings) {
    let Some(first) = guarded.first() else { return };
    let structure = match guarded {
        [one] => one.manifest.structure_hash,
        set => guard::structure_hash_of(set.iter().flat_map(|g| &g.manifest.tensors)),
    };
    let mut compare = |what: &str, claimed: Option<&Value>, actual: Sha256Digest| {
        let claimed = claimed.and_then(Value::as_str).filter(|text| is_hex(text));
        if let Some(claimed) = claimed.filter(|claimed| !claimed.eq_ignore_ascii_case(&actual.to_hex())) {
            let why = format!("{what} sent along is {claimed}, and it is {actual} here: another file was scanned");
            findings.add(&first.path, &GUARD, Place::whole(), why);
        }
    };
    let fingerprint = evidence.get("gguf_guard_fingerprint");
    compare("the gguf-guard fingerprint", fingerprint, structure);
    for sent in [fingerprint, evidence.get("gguf_guard_manifest")].into_iter().flatten() {
        compare("gguf-guard's structure hash", sent.get("structure_hash"), structure);
        if let [one] = guarded {
            compare("gguf-guard's file hash", sent.get("file_hash"), one.manifest.file_hash);
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(evidence: Value) -> BTreeMap<String, Sent> {
        scanners(evidence.as_object().expect("an object"))
    }

    #[test]
    fn a_scanner_has_run_when_its_version_is_told() {
        let sent = of(
            json!({"scanner_versions": {"a": "1", "b": "", "c": 3, "d": null, "e": " "}, "scan_results": {"f": "clean"}}),
        );
        assert_eq!(sent.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(sent["a"], Sent { version: Some("1".into()), bad: None });
        assert!(of(json!({"scanner_versions": "a", "scan_results": 1})).is_empty());
    }

    #[test]
    fn a_bad_result_is_believed_in_each_form() {
        for (results, name, word) in [
            (json!({"a": "Infected"}), "a", "Infected"),
            (json!({"a": {"status": " failed "}}), "a", " failed "),
            (json!({"a": {"verdict": "malicious"}}), "a", "malicious"),
            (json!({"a": {"clean": false}}), "a", "clean: false"),
            (json!({"a": {"passed": false, "status": "done"}}), "a", "passed: false"),
            (json!([{"scanner": "s", "result": "FAIL"}]), "s", "FAIL"),
            (json!([{"name": "n", "outcome": "unsafe"}]), "n", "unsafe"),
            (json!([{"status": "rejected"}]), "a scanner", "rejected"),
        ] {
            let sent = of(json!({"scan_results": results}));
            assert_eq!(sent[name].bad.as_deref(), Some(word), "{results}");
        }
        for good in [
            json!({"a": "clean"}),
            json!({"a": {"status": "passed", "clean": true}}),
            json!([{"status": "ok"}]),
            json!([1]),
        ] {
            assert!(of(json!({"scan_results": good})).is_empty(), "{good}");
        }
    }
}
