//! What the policy admits, and what it cannot be made to admit.

use super::*;
use crate::digest::Blake3Digest;

fn entry(path: &str) -> FileEntry {
    FileEntry {
        path: path.parse().expect("a path"),
        size_bytes: 1,
        sha256: Sha256Digest::of(path.as_bytes()),
        blake3: Blake3Digest::from_bytes([0; 32]),
    }
}

fn name(name: &str) -> ModelName {
    name.parse().expect("a name")
}

fn evidence(kinds: &[(&str, Kind)]) -> Evidence {
    Evidence { kinds: kinds.iter().map(|(p, k)| (p.parse().expect("a path"), *k)).collect(), ..Evidence::default() }
}

fn judge(files: &[&str], evidence: Evidence, claimed: Option<Format>, layout: Layout) -> Result<Cleared> {
    Policy::built_in().judge(&name("m"), layout, files.iter().map(|p| entry(p)).collect(), evidence, claimed)
}

const G: Kind = Kind::Model(Format::Gguf);
const S: Kind = Kind::Model(Format::Safetensors);

#[test]
fn a_whole_and_uniform_candidate_is_cleared() {
    let kinds = [("c.json", Kind::Companion), ("m.gguf", G)];
    let cleared = judge(&["c.json", "m.gguf"], evidence(&kinds), Some(Format::Gguf), Layout::Folder);
    let cleared = cleared.expect("cleared");
    let verdict = cleared.verdict().clone();
    let (files, format) = cleared.into_parts();
    assert_eq!((files.len(), format, verdict.action), (2, Format::Gguf, Action::Allow));
    assert_eq!(verdict.scanners, BTreeMap::from([("format".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]));
    assert_eq!(verdict.summary(), "policy built-in: nothing to object");
}

#[test]
fn nothing_inspected_is_a_refusal() {
    for (files, kinds, claimed, layout, why, rule) in [
        (&["m.gguf"][..], &[][..], None, Layout::File, "not inspected", "policy.not-inspected"),
        (
            &["m.gguf", "x.json"],
            &[("m.gguf", G)],
            None,
            Layout::Folder,
            "x.json was not inspected",
            "policy.not-inspected",
        ),
        (&["c.json"], &[("c.json", Kind::Companion)], None, Layout::Folder, "no model", "policy.no-model"),
        (&["c.json"], &[("c.json", Kind::Other)], None, Layout::Folder, "no model", "policy.no-model"),
        (
            &["a.gguf", "b.safetensors"],
            &[("a.gguf", G), ("b.safetensors", S)],
            None,
            Layout::Folder,
            "mixes formats: a.gguf is gguf, b.safetensors is safetensors",
            "policy.mixed-formats",
        ),
        (
            &["a.gguf"],
            &[("a.gguf", G)],
            Some(Format::Safetensors),
            Layout::File,
            "claimed to be safetensors",
            "policy.format",
        ),
        (&["a.safetensors"], &[("a.safetensors", S)], None, Layout::Split, "must be GGUF", "policy.format"),
    ] {
        let e = judge(files, evidence(kinds), claimed, layout).expect_err(why);
        assert_eq!(e.kind(), ErrorKind::Refused);
        assert!(e.to_string().contains(why) && e.to_string().contains(rule), "{e} should say {why:?}");
        assert!(e.findings().iter().any(|f| f.rule == rule));
    }
    assert!(judge(&[], Evidence::default(), None, Layout::Folder).expect_err("empty").to_string().contains("no files"));
}

static HIGH: Rule = Rule { id: "test.high", severity: Severity::High, summary: "" };
static WARNING: Rule = Rule { id: "test.warning", severity: Severity::Warning, summary: "" };
static INFO: Rule = Rule { id: "test.info", severity: Severity::Info, summary: "" };
static CRITICAL: Rule = Rule { id: "test.critical", severity: Severity::Critical, summary: "" };

#[test]
fn findings_are_judged_by_rule_then_group_then_severity_and_critical_ones_always_refuse() {
    let mut policy = Policy::built_in();
    let of = |policy: &Policy| [&INFO, &WARNING, &HIGH, &CRITICAL].map(|r| policy.action(r.id, r.severity));
    assert_eq!(of(&policy), [Action::Allow, Action::Warn, Action::Refuse, Action::Refuse]);
    policy.severities = Severities { high: Action::Allow, warning: Action::Refuse, info: Action::Warn };
    assert_eq!(of(&policy), [Action::Warn, Action::Refuse, Action::Allow, Action::Refuse]);
    policy.rules = [("*", Action::Allow), ("test.*", Action::Warn)].map(|(k, a)| (k.to_owned(), a)).into();
    assert_eq!(of(&policy), [Action::Warn, Action::Warn, Action::Warn, Action::Refuse]);
    assert_eq!(policy.action("other.info", Severity::Info), Action::Allow);
    policy.rules.insert("test.high".into(), Action::Refuse);
    policy.rules.insert("test.critical".into(), Action::Allow);
    assert_eq!(of(&policy), [Action::Warn, Action::Warn, Action::Refuse, Action::Refuse]);
}

#[test]
fn a_refusal_names_the_first_and_carries_all() {
    let mut found = evidence(&[("m.gguf", G)]);
    let file = "m.gguf".parse().expect("a path");
    for i in 0..5 {
        found.findings.add(&file, &HIGH, Place::at(i), format!("defect {i}"));
    }
    found.findings.add(&file, &WARNING, Place::whole(), "odd");
    found.findings.add(&file, &CRITICAL, Place::whole(), "broken");
    let e = judge(&["m.gguf"], found, None, Layout::File).expect_err("refused");
    assert_eq!(
        e.message(),
        "m.gguf: broken [test.critical]; m.gguf: defect 0 [test.high]; m.gguf: defect 1 [test.high]; and 3 more: \
         `securereg inspect` lists them"
    );
    assert_eq!(e.findings().len(), 6, "those that refuse, and no other");
}

fn found(rules: &[&'static Rule]) -> Findings {
    let mut findings = Findings::new();
    let file = "m.gguf".parse().expect("a path");
    rules.iter().for_each(|rule| findings.add(&file, rule, Place::whole(), "it"));
    findings
}

#[test]
fn what_is_said_of_a_verdict_counts_and_names_right() {
    let verdict = |rules: &[&'static Rule]| Policy::built_in().verdict(&found(rules), BTreeMap::new());
    let said = |rules: &[&'static Rule]| verdict(rules).admit().expect_err("refused").message().to_owned();
    assert_eq!(verdict(&[&INFO]).summary(), "policy built-in: nothing to object");
    let summary = verdict(&[&INFO, &WARNING, &WARNING, &HIGH]).summary();
    assert_eq!(summary, "policy built-in: refuse of test.high, test.warning");
    assert_eq!(said(&[&HIGH; 3]), "m.gguf: it [test.high]; ".repeat(3).trim_end_matches("; "));
    // Of one rule in one file 16 are kept.
    let many = verdict(&[&HIGH; 20]);
    assert_eq!((many.findings.len(), many.more), (16, 4));
    assert!(said(&[&HIGH; 20]).ends_with("; and 17 more: `securereg inspect` lists them"));
    for (verdict, more) in [(many, Some(4)), (verdict(&[&HIGH]), None)] {
        assert_eq!(serde_json::to_value(&verdict).expect("JSON").get("more").and_then(|n| n.as_u64()), more);
    }
}

#[test]
fn only_what_refuses_stops_a_look_ahead() {
    let policy = Policy::built_in();
    policy.admit_so_far(&found(&[&INFO, &WARNING])).expect("nothing that refuses");
    assert_eq!(policy.admit_so_far(&found(&[&HIGH])).expect_err("refused").kind(), ErrorKind::Refused);
}

/// What is refused for what it is needs no second finding; but nothing without a model passes.
#[test]
fn no_model_is_said_unless_a_file_was_refused_for_what_it_is() {
    for (kind, rule, rules) in [
        (Kind::Other, &HIGH, &["test.high"][..]),
        (Kind::Other, &WARNING, &["policy.no-model", "test.warning"]),
        (Kind::Companion, &HIGH, &["policy.no-model", "test.high"]),
    ] {
        let evidence = Evidence { findings: found(&[rule]), ..evidence(&[("m.gguf", kind)]) };
        let e = Policy::built_in().look(Layout::File, &[&"m.gguf".parse().expect("a path")], &mut { evidence }, None);
        let found: Vec<&str> = e.expect("a verdict").1.findings.iter().map(|j| j.finding.rule).collect();
        assert_eq!(found, rules, "{kind:?} {rule:?}");
    }
}

#[test]
fn a_split_set_of_ggufs_and_a_folder_of_others_are_cleared() {
    judge(&["a.gguf"], evidence(&[("a.gguf", G)]), None, Layout::Split).expect("a split set");
    judge(&["a.safetensors"], evidence(&[("a.safetensors", S)]), None, Layout::Folder).expect("a folder");
}

#[test]
fn scanners_that_the_policy_names_must_have_run_and_found_nothing() {
    let policy = Policy::parse(b"version: 1\nscanners: [format, clamav]\n").expect("a policy");
    let with = |sent: &[(&str, Option<&str>, Option<&str>)]| {
        let mut found = evidence(&[("m.gguf", G)]);
        let sent = sent.iter().map(|(name, version, bad)| {
            let own = |s: &Option<&str>| s.map(str::to_owned);
            ((*name).to_owned(), Sent { version: own(version), bad: own(bad) })
        });
        found.sent = sent.collect();
        policy.judge(&name("m"), Layout::File, vec![entry("m.gguf")], found, None)
    };
    let cleared = with(&[("clamav", Some("1.2"), None), ("other", Some("3"), None)]).expect("ran");
    assert_eq!(cleared.verdict().scanners["clamav"], "1.2");
    for (sent, why) in [
        (&[][..], "wants the scanner \"clamav\" to have run"),
        (&[("other", Some("1"), None)], "wants the scanner \"clamav\" to have run"),
        (&[("clamav", None, None)], "wants the scanner \"clamav\" to have run"),
        (&[("clamav", Some("1"), Some("infected"))], "scanner \"clamav\" is \"infected\""),
        (&[("clamav", Some("1"), None), ("other", None, Some("failed"))], "scanner \"other\" is \"failed\""),
    ] {
        let e = with(sent).expect_err(why);
        assert!(e.message().contains(why), "{e}");
    }
}

#[test]
fn a_policy_says_what_it_means_or_is_refused() {
    let policy = Policy::parse(
        b"version: 1\nscanners: [format]\nformats: [gguf]\nseverities: {warning: refuse}\nrules:\n  \"policy.mixed-formats\": allow\n  \"policy.*\": warn\n",
    );
    let policy = policy.expect("a policy");
    assert_eq!((policy.formats(), policy.scanners()), (&[Format::Gguf][..], &["format".to_owned()][..]));
    assert_eq!(policy.action("policy.mixed-formats", Severity::High), Action::Allow);
    assert_eq!(policy.action("policy.scan-failed", Severity::High), Action::Warn);
    assert_eq!(policy.action("x.y", Severity::Warning), Action::Refuse);
    assert_eq!(policy.action("x.y", Severity::High), Action::Refuse);
    assert!(policy.sha256().is_some() && Policy::built_in().sha256().is_none());
    let e =
        policy.judge(&name("m"), Layout::File, vec![entry("a.safetensors")], evidence(&[("a.safetensors", S)]), None);
    assert!(e.expect_err("not allowed").message().contains("the policy allows gguf"));

    for (text, why) in [
        ("", "version"),
        ("version: 2", "version 2"),
        ("version: 1\nscaners: [format]", "scaners"),
        ("version: 1\nscanners: []", "lacks \"format\""),
        ("version: 1\nscanners: [clamav]", "lacks \"format\""),
        ("version: 1\nscanners: [format, \"\"]", "no name of a scanner"),
        ("version: 1\nformats: []", "nothing could be promoted"),
        ("version: 1\nformats: [keras]", "\"keras\" is not allowed"),
        ("version: 1\nseverities: {critical: allow}", "critical"),
        ("version: 1\nseverities: {high: ignore}", "ignore"),
        ("version: 1\nrules: {\"policy.format\": allow}", "cannot be set to allow"),
        ("version: 1\nrules: {\"policy.format\": warn}", "cannot be set to warn"),
        ("version: 1\nrules: {\"policy.mixed-format\": warn}", "nearest is \"policy.mixed-formats\""),
        ("version: 1\nrules: {\"polic*\": warn}", "no group of rules"),
        ("version: 1\nrules: {\"nothing.*\": warn}", "no group of rules"),
        (
            "version: 1\nrules: {\"policy.mixed-formats\": warn, \"policy.mixed-formats\": allow}",
            "policy.mixed-formats",
        ),
        ("version: 1\nversion: 1", "version"),
        ("version: 1\nrules: &a [*a]", ""),
        ("[", ""),
    ] {
        let e = Policy::parse(text.as_bytes()).expect_err(text);
        assert_eq!(e.kind(), ErrorKind::Manifest, "{text}");
        assert!(e.message().contains(why) && e.message().starts_with("policy.yaml: "), "{text}: {e}");
    }
    assert!(Policy::parse(b"version: 1\nrules: {\"policy.format\": refuse}").is_ok());
    // 64 names of 64 bytes.
    let named = |count: usize, length: usize| {
        let names: Vec<String> = (1..count).map(|i| format!("{i:0length$}")).collect();
        Policy::parse(format!("version: 1\nscanners: [format, {}]", names.join(", ").replace("00", "aa")).as_bytes())
    };
    assert_eq!(named(64, 64).expect("a policy").scanners().len(), 64);
    assert!(named(65, 64).expect_err("too many").message().contains("over 64 scanners"));
    assert!(named(2, 65).expect_err("too long").message().contains("no name of a scanner"));
    let control = b"version: 1\nscanners: [format, \"a\\nb\"]";
    assert!(Policy::parse(control).expect_err("a line break").message().contains("no name of a scanner"));
    assert!(Policy::parse(b"version: 1 # \xff").expect_err("bytes").message().contains("UTF-8"));
    let long = |extra: usize| format!("version: 1\n{}", "#".repeat(text::MAX_BYTES as usize - 11 + extra));
    assert!(Policy::parse(long(0).as_bytes()).is_ok());
    assert!(Policy::parse(long(1).as_bytes()).expect_err("too long").message().contains("over the limit"));
}

#[test]
fn every_rule_has_a_name_of_its_own_and_a_summary() {
    let table = Policy::built_in().table();
    assert!(table.len() >= RULES.len());
    for pair in table.windows(2) {
        assert!(pair[0].0.id < pair[1].0.id, "{} stands twice", pair[0].0.id);
    }
    for (rule, _) in table {
        assert!(rule.id.split('.').count() == 2 && !rule.summary.is_empty(), "{}", rule.id);
        assert!(
            rule.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b)),
            "{}",
            rule.id
        );
    }
}
