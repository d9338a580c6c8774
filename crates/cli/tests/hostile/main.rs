//! Every hostile case through the real command: its verdict, a message that names the defect, and what it may cost.
//!
//! A program of its own: the kernel counts the memory of all children of a program together, and these are measured.

use crate::support::{Place, gguf};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../../../../tests/support/hostile.rs"]
mod cases;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod support;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

/// What a hostile file may cost whoever promotes it.
const MOST_TIME: Duration = Duration::from_secs(1);
const MOST_KIB: i64 = 64 << 10;

#[test]
fn every_hostile_case_gets_its_verdict_through_promote_and_inspect() {
    let place = Place::new();
    let mut promoted = Vec::new();
    for (n, case) in cases::cases(&data()).iter().enumerate() {
        let path = cases::lay_out(&data(), &case.file, &place.path("source"));
        let path = path.to_str().expect("text");
        let name = format!("case-{n}");
        let started = Instant::now();
        let ended = place.run(&["promote", path, "--name", &name, "--json"]);
        let took = started.elapsed();
        assert!(took < MOST_TIME, "{} took {took:?}", case.file);
        assert!(!ended.stderr.contains("panicked"), "{}: {ended:?}", case.file);
        let inspected = place.run(&["inspect", path, "--json"]);
        if case.expected == "accept" {
            assert_eq!((ended.code, inspected.code), (0, 0), "{}: {ended:?} {inspected:?}", case.file);
            promoted.push(name);
            continue;
        }
        let error: Value =
            serde_json::from_str(&ended.stderr).unwrap_or_else(|e| panic!("{}: {e}: {ended:?}", case.file));
        let Some(wanted) = cases::rule(&case.file) else {
            assert!([2, 5, 64].contains(&ended.code), "{}: {ended:?}", case.file);
            assert_eq!(inspected.code, ended.code, "{}: {inspected:?}", case.file);
            continue;
        };
        assert_eq!((ended.code, &error["kind"]), (2, &json!("refused")), "{}: {ended:?}", case.file);
        let found: Vec<&str> =
            error["findings"].as_array().expect("findings").iter().filter_map(|f| f["rule"].as_str()).collect();
        assert!(found.contains(&wanted), "{} wants {wanted:?}, has {found:?}", case.file);
        let message = error["error"].as_str().expect("a message");
        assert!(found.iter().any(|rule| message.contains(rule)), "{}: {message}", case.file);
        assert_eq!(inspected.code, 2, "{}: {inspected:?}", case.file);
        let seen: Value = serde_json::from_str(&inspected.stdout).expect("JSON");
        assert_eq!(seen["verdict"]["action"], "refuse", "{}", case.file);
    }
    let names: Vec<Value> =
        place.run(&["list", "--json"]).json().as_array().expect("models").iter().map(|m| m["name"].clone()).collect();
    assert_eq!(names.len(), promoted.len(), "{names:?}");
    assert_eq!(std::fs::read_dir(place.root().join("tmp")).expect("tmp").count(), 0, "nothing is left behind");
    let most = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).expect("usage").max_rss();
    assert!(most < MOST_KIB, "{most} KiB were used by one of them");
}

#[test]
fn inspect_shows_what_a_file_is_and_needs_no_registry() {
    let place = Place::new();
    let file = place.file("m.gguf", &gguf("m"));
    let seen = place.run(&["inspect", &file, "--json"]).json();
    assert_eq!((&seen["format"], &seen["layout"]), (&json!("gguf"), &json!("file")));
    let described = &seen["files"][0];
    assert_eq!(described["tensors"][0]["name"], "t");
    assert_eq!(described["tensors"][0]["dtype"], "F32");
    assert_eq!(described["tensors"][0]["shape"], json!([16]));
    assert_eq!(described["metadata"]["general.name"], "m");
    assert!(!place.root().exists(), "nothing is made");
    let text = place.run(&["inspect", &file]).ends(0).stdout;
    for wanted in ["verdict:", "TENSOR", "general.name = \"m\"", "F32"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn the_policy_in_force_is_shown_and_obeyed() {
    let place = Place::new();
    let path = cases::lay_out(&data(), "dirs/d06_hidden", &place.path("source"));
    let path = path.to_str().expect("text");
    place.run(&["promote", path, "--name", "m"]).ends(2);
    place.promoted("other");
    let shown = place.run(&["policy", "--json"]).json();
    let of = |shown: &Value, id: &str| {
        let rules = shown["rules"].as_array().expect("rules").clone();
        rules.into_iter().find(|r| r["rule"] == id).unwrap_or_else(|| panic!("no {id}"))
    };
    assert_eq!((&of(&shown, "folder.hidden")["action"], &shown["policy_sha256"]), (&json!("refuse"), &Value::Null));
    let policy = "version: 1\nrules: {\"folder.hidden\": warn}\n";
    std::fs::write(place.root().join("policy.yaml"), policy).expect("written");
    let shown = place.run(&["policy", "--json"]).json();
    assert_eq!(of(&shown, "folder.hidden")["action"], "warn");
    let done = place.run(&["promote", path, "--name", "m"]).ends(0);
    assert!(done.stdout.contains("warning: ") && done.stdout.contains("folder.hidden"), "{done:?}");
    // What is not understood is no policy, and without one nothing is promoted.
    std::fs::write(place.root().join("policy.yaml"), "version: 1\nrules: {\"folder.hiden\": warn}\n").expect("written");
    let failed = place.run(&["promote", path, "--name", "m2"]).ends(7);
    assert!(failed.stderr.contains("policy.yaml") && failed.stderr.contains("folder.hidden"), "{failed:?}");
    place.run(&["list"]).ends(0);
    let elsewhere = place.file("mine.yaml", policy.as_bytes());
    assert_eq!(of(&place.run(&["policy", &elsewhere, "--json"]).json(), "folder.hidden")["action"], "warn");
    assert_eq!(
        place.run(&["inspect", path, "--policy", &elsewhere, "--json"]).ends(0).json()["verdict"]["action"],
        "warn"
    );
}

/// While a policy is waited for nothing else is running that a signal would have to wait for.
#[test]
fn a_policy_that_never_comes_can_be_given_up() {
    let place = Place::new();
    let file = place.file("m.gguf", &gguf("m"));
    let pipe = place.path("pipe");
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    let mut child = place.command(&["inspect", &file, "--policy", pipe.to_str().expect("text")]).spawn().expect("runs");
    std::thread::sleep(Duration::from_millis(300));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("sent");
    assert!(crate::support::until(5, || child.try_wait().expect("waited").is_some()), "it hangs");
}

#[test]
fn the_document_lists_every_rule_and_no_other() {
    let place = Place::new();
    let shown = place.run(&["policy", "--json"]).json();
    let rules: Vec<String> = shown["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|r| format!("| `{}` | {} | ", r["rule"].as_str().expect("id"), r["severity"].as_str().expect("severity")))
        .collect();
    assert!(rules.len() > 200, "{}", rules.len());
    let document = include_str!("../../../../docs/formats.md");
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), rules.len(), "docs/formats.md has another number of rules");
    for (row, rule) in rows.iter().zip(&rules) {
        assert!(row.starts_with(rule.as_str()), "docs/formats.md has {row:?} where {rule:?} belongs");
    }
}
