//! What a promoter sends along, as far as the policy looks at it.
//!
//! Owns: which scanners a promotion's `scanner_versions` and `scan_results` say have run, and whether a gguf-guard result that
//! was sent along is of these very files. Promises: a scanner without a version has not run; a result is never believed to be
//! a good one, only a bad one is believed. Leaves out: everything else in the evidence, which is kept as it is (`promote`).

use super::GUARD;
use crate::digest::Sha256Digest;
use crate::format::finding::{Findings, Place};
use crate::guard;
use crate::name::RelPath;
use crate::sidecar::Guarded;
use serde_json::{Map, Value};
use std::borrow::Cow;
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

/// Members of a result that, when they are `false`, deny it.
const GOOD_FLAGS: [&str; 5] = ["passed", "pass", "clean", "safe", "ok"];

/// Members of a result that, when they are `true`, say that something was found.
const BAD_FLAGS: [&str; 3] = ["infected", "malicious", "unsafe"];

/// The scanners that the evidence speaks of: `{"scanner_versions":{NAME:VERSION},"scan_results":{NAME:RESULT}}`, or
/// `"scan_results":[{"scanner":NAME,"status":...}]`, or one result alone.
pub(crate) fn scanners(evidence: &Map<String, Value>) -> BTreeMap<String, Sent> {
    let mut sent: BTreeMap<String, Sent> = BTreeMap::new();
    for (name, version) in evidence.get("scanner_versions").and_then(Value::as_object).into_iter().flatten() {
        let version = version.as_str().filter(|v| !v.trim().is_empty());
        if let Some(version) = version {
            sent.entry(name.clone()).or_default().version = Some(crate::digest::shorten(version));
        }
    }
    for (name, word) in results(evidence.get("scan_results")) {
        sent.entry(name.to_owned()).or_default().bad = Some(word);
    }
    sent
}

/// The scanners whose results are bad, each with the word for it.
fn results(sent: Option<&Value>) -> Vec<(&str, String)> {
    let one = |result| Some((name_of(result), bad_word(result)?));
    match sent {
        None => Vec::new(),
        Some(Value::Array(results)) => results.iter().filter_map(one).collect(),
        Some(sent) => match (one(sent), sent) {
            (None, Value::Object(results)) => {
                results.iter().filter_map(|(name, result)| Some((name.as_str(), bad_word(result)?))).collect()
            }
            (alone, _) => alone.into_iter().collect(),
        },
    }
}

/// The scanner whose result this is, by the result's own word.
fn name_of(result: &Value) -> &str {
    ["scanner", "name", "tool"].iter().find_map(|key| result.get(*key)?.as_str()).unwrap_or("a scanner")
}

/// The bad word of a result: of a word itself, of `{"status":WORD}` and the like, of `false` as `passed`, `clean` or `safe`,
/// of `true` as `infected`. What is nested deeper may speak of anything, so it is not looked at.
fn bad_word(result: &Value) -> Option<String> {
    let bad = |word: &Value| {
        let text = word.as_str()?;
        BAD.contains(&text.trim().to_ascii_lowercase().as_str()).then(|| text.to_owned())
    };
    let Value::Object(members) = result else { return bad(result) };
    let flag = |flags: &[&str], value: bool| {
        let flag = flags.iter().find(|key| members.get(**key) == Some(&Value::Bool(value)))?;
        Some(format!("{flag}: {value}"))
    };
    let word = WORDS.iter().find_map(|key| bad(members.get(*key)?));
    word.or_else(|| flag(&GOOD_FLAGS, false)).or_else(|| flag(&BAD_FLAGS, true))
}

/// Holds gguf-guard's own results, where the promoter sent them along for the candidate `whole`, against what was hashed here.
/// gguf-guard knows single files only, so of several its result may be that of any. Its per-tensor hashes are not compared:
/// of newer types and other alignments they are wrong, and the file's hash covers every tensor.
pub(crate) fn compare_guard(
    evidence: &Map<String, Value>,
    whole: &RelPath,
    guarded: &[Guarded],
    findings: &mut Findings,
) {
    let files: Vec<Sha256Digest> = guarded.iter().map(|g| g.manifest.file_hash).collect();
    let mut structures: Vec<Sha256Digest> = guarded.iter().map(|g| g.manifest.structure_hash).collect();
    if guarded.len() > 1 {
        structures.push(guard::structure_hash_of(guarded.iter().flat_map(|g| &g.manifest.tensors)));
    }
    let mut compare = |what: &str, claimed: Option<&Value>, here: &[Sha256Digest]| {
        let Some(claimed) = claimed.and_then(Value::as_str).and_then(digest) else { return };
        let instead = match here {
            _ if here.contains(&claimed) => return,
            [] => "no file here is a GGUF".to_owned(),
            [one] => format!("it is {one} here"),
            _ => "that of no file here".to_owned(),
        };
        let why = format!("{what} sent along is {claimed}, and {instead}: another file was scanned");
        findings.add(whole, &GUARD, Place::whole(), why);
    };
    for (key, what) in
        [("gguf_guard_fingerprint", "the gguf-guard fingerprint"), ("gguf_guard_manifest", "the gguf-guard manifest")]
    {
        let Some(sent) = evidence.get(key).map(unwrapped) else { continue };
        compare(what, Some(&sent), &structures);
        compare("gguf-guard's structure hash", sent.get("structure_hash"), &structures);
        compare("gguf-guard's file hash", sent.get("file_hash"), &files);
    }
}

/// JSON that was sent along as text, as what it is.
fn unwrapped(sent: &Value) -> Cow<'_, Value> {
    let text = sent.as_str().filter(|text| text.trim_start().starts_with('{'));
    match text.and_then(|text| serde_json::from_str(text).ok()) {
        Some(parsed) => Cow::Owned(parsed),
        None => Cow::Borrowed(sent),
    }
}

/// A SHA-256 as gguf-guard or `sha256sum` wrote it, if it is one: what else may stand there is not compared.
fn digest(text: &str) -> Option<Sha256Digest> {
    let text = text.trim();
    text.strip_prefix("sha256:").unwrap_or(text).parse().ok()
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
            (json!(["infected"]), "a scanner", "infected"),
            (json!({"a": {"infected": true}}), "a", "infected: true"),
            // One result alone.
            (json!("infected"), "a scanner", "infected"),
            (json!({"clean": false}), "a scanner", "clean: false"),
            (json!({"tool": "t", "status": "denied", "findings": ["x"]}), "t", "denied"),
        ] {
            let sent = of(json!({"scan_results": results}));
            assert_eq!(sent[name].bad.as_deref(), Some(word), "{results}");
        }
        for good in [
            json!({"a": "clean"}),
            json!({"a": {"status": "passed", "clean": true}}),
            json!([{"status": "ok"}]),
            json!([1]),
            json!(1),
            json!(null),
            json!(true),
            json!({"passed": true, "infected": false}),
            json!({"malware": true}),
            json!({"errors": 0, "failed": 0, "infected": 0}),
            json!({"a": {"status": "error_free", "errors": [], "unsafe": false}}),
            json!({"a": {"status": "done", "history": [{"status": "failed"}], "before": {"clean": false}}}),
            json!({"modelscan": {"summary": {"total_issues": 0}, "issues": [], "errors": []}}),
        ] {
            assert!(of(json!({"scan_results": good})).is_empty(), "{good}");
        }
    }

    #[test]
    fn a_guard_result_of_another_file_is_found() {
        let bytes = crate::models::gguf(100, 1);
        let task = crate::Task::unattended();
        let (header, digests) =
            guard::survey(&bytes[..], bytes.len() as u64, guard::Wanted::Tensors, &task).expect("a sound file");
        let manifest = guard::TensorManifest::of(&header, &digests).expect("a manifest");
        let (path, own) = ("m.gguf".parse::<RelPath>().expect("a path"), manifest.clone());
        let guarded = [Guarded { path: path.clone(), manifest }];
        let found = |evidence: Value| {
            let mut findings = Findings::new();
            compare_guard(evidence.as_object().expect("an object"), &path, &guarded, &mut findings);
            findings.has(GUARD.id)
        };
        let other = Sha256Digest::of(b"other");
        assert!(!found(json!({"gguf_guard_fingerprint": own.structure_hash, "gguf_guard_manifest": own})));
        assert!(found(json!({"gguf_guard_fingerprint": other})));
        assert!(found(json!({"gguf_guard_manifest": {"file_hash": other}})));

        // Of several files it may be that of any, or of all their tensors; what else it is, is said.
        let (second, own_hash) = (guarded.clone(), guarded[0].manifest.file_hash);
        let two: Vec<Guarded> = guarded.iter().cloned().chain(second).collect();
        let all = guard::structure_hash_of(two.iter().flat_map(|g| &g.manifest.tensors));
        let said = |fingerprint: Sha256Digest, file: Sha256Digest, guarded: &[Guarded]| {
            let mut findings = Findings::new();
            let evidence = json!({"gguf_guard_fingerprint": fingerprint, "gguf_guard_manifest": {"file_hash": file}});
            compare_guard(evidence.as_object().expect("an object"), &path, guarded, &mut findings);
            findings.list().iter().map(|f| f.message.clone()).collect::<Vec<_>>().join("\n")
        };
        assert_eq!((said(all, own_hash, &two), said(own.structure_hash, own_hash, &two)), <_>::default());
        for (guarded, fingerprint, words) in [
            (&two[..], other, "that of no file here".to_owned()),
            (&two[..1], other, format!("it is {own_hash} here")),
            (&two[..1], all, format!("it is {} here", own.structure_hash)),
            (&[], all, "no file here is a GGUF".to_owned()),
        ] {
            let said = said(fingerprint, other, guarded);
            assert!(said.contains(&words), "{said:?} should say {words:?}");
        }
    }
}
