//! Every hostile case over HTTP: its verdict, and an answer that carries the findings.

use crate::rig::Rig;
use serde_json::json;
use std::path::{Path, PathBuf};

#[path = "../../../../tests/support/hostile.rs"]
mod cases;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

#[test]
fn every_hostile_case_gets_its_verdict_over_http() {
    let rig = Rig::new();
    let mut accepted = 0;
    for (n, case) in cases::cases(&data()).iter().enumerate() {
        let path = cases::lay_out(&data(), &case.file, &rig.staging);
        let sha256 = securereg::Source::open(&path).ok().map_or_else(|| "0".repeat(64), |_| digest(&path));
        let body = json!({"name": format!("case-{n}"), "path": path, "sha256": sha256});
        let answer = rig.call("POST", "/v1/model/promote", "promote", Some(&body));
        if case.expected == "accept" {
            accepted += 1;
            assert_eq!(answer.status, 201, "{}: {}", case.file, answer.body);
            assert_ne!(answer.body["inspection"]["action"], "refuse", "{}: {}", case.file, answer.body);
            continue;
        }
        assert!([400, 409].contains(&answer.status), "{}: {} {}", case.file, answer.status, answer.body);
        let wanted = cases::rule(&case.file);
        let found: Vec<&str> =
            answer.body["findings"].as_array().into_iter().flatten().filter_map(|f| f["rule"].as_str()).collect();
        assert!(wanted.is_none_or(|rule| found.contains(&rule)), "{} wants {wanted:?}: {}", case.file, answer.body);
    }
    assert_eq!(rig.registry.catalog().unwrap().len(), accepted);
    let refused = rig.audit_events().into_iter().filter(|(event, ..)| event == "refuse").count();
    assert_eq!(refused, cases::cases(&data()).len() - accepted, "each refusal is in the log");
}

/// What a pipeline would claim: the file's digest, or that of a folder's list.
fn digest(path: &Path) -> String {
    if path.is_file() {
        return securereg::Sha256Digest::of(&std::fs::read(path).unwrap()).to_hex();
    }
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let shown = entry.path().strip_prefix(path).unwrap().to_str().unwrap().to_owned();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                lines.push((shown, securereg::Sha256Digest::of(&std::fs::read(entry.path()).unwrap()).to_hex()));
            }
        }
    }
    lines.sort();
    let list: String = lines.iter().map(|(path, hex)| format!("{hex}  {path}\n")).collect();
    securereg::Sha256Digest::of(list.as_bytes()).to_hex()
}
