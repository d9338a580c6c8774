//! `guard` through the real binary: gguf-guard's output, its exit codes, and the care with files.

use crate::support::{Place, ended};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/gguf").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(data(name)).expect("test data")
}

fn model(name: &str) -> String {
    data(&format!("{name}.gguf")).to_str().expect("text").to_owned()
}

#[test]
fn the_output_is_gguf_guards_byte_for_byte() {
    let place = Place::new();
    for (name, inspected) in [("a-llama-2l", 0), ("d-single", 0), ("e-alltypes", 2)] {
        let model = model(name);
        let fingerprint = place.run(&["guard", "fingerprint", &model]).ends(0);
        assert_eq!(fingerprint.stdout, text(&format!("{name}.fingerprint.json")));
        let manifest = place.run(&["guard", "manifest", &model, "--json"]).ends(0);
        let mut stored = text(&format!("{name}.manifest.json"));
        if name == "a-llama-2l" {
            // A tie, which gguf-guard broke by chance.
            stored = stored.replacen("\"quant_type\": \"Q6_K\"", "\"quant_type\": \"Q4_K\"", 1);
        }
        assert_eq!(manifest.stdout, stored);
        let inspect = place.run(&["guard", "inspect", &model]).ends(inspected);
        assert_eq!(inspect.stdout, text(&format!("{name}.inspect.json")));
        assert_eq!(fingerprint.stderr + &manifest.stderr + &inspect.stderr, "");
    }
    assert!(!std::fs::exists(place.root()).expect("stat"), "no registry was made");
}

#[test]
fn a_manifest_of_gguf_guards_is_verified_and_ends_like_it() {
    let place = Place::new();
    let (model, manifest) = (model("a-llama-2l"), data("a-llama-2l.manifest.json"));
    let manifest = manifest.to_str().expect("text");
    let passed = place.run(&["guard", "verify-manifest", &model, manifest]).ends(0);
    assert_eq!((&*passed.stdout, &*passed.stderr), ("PASS: all tensors match manifest\n", ""));
    let value = place.run(&["guard", "verify-manifest", &model, manifest, "--json"]).json();
    assert_eq!(value, json!({"status": "verified", "differences": []}));

    let mut bytes = std::fs::read(&model).expect("the model");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    let changed = place.file("changed.gguf", &bytes);
    let failed = place.run(&["guard", "verify-manifest", &changed, manifest]).ends(2);
    let lines: Vec<&str> = failed.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, "FAIL: 3 mismatches"));
    assert!(lines[1].starts_with("  file hash mismatch (expected 700878f2"), "{failed:?}");
    assert!(lines[3].starts_with("  output.weight: hash mismatch (expected 43fee2403d00b209, got "), "{failed:?}");
    assert_eq!(failed.stderr, "securereg: of these, gguf-guard 0.2.0 does not check 2\n");
    let failed = place.run(&["guard", "verify-manifest", &changed, manifest, "--json"]).ends(2);
    let value: Value = serde_json::from_str(&failed.stdout).expect("JSON");
    assert_eq!((&value["status"], &value["differences"][2]["kind"]), (&json!("failed"), &json!("tensor_hash")));
    assert_eq!(failed.stderr, "");
}

#[test]
fn names_cannot_forge_lines() {
    let place = Place::new();
    let forged = text("d-single.manifest.json").replace("token_embd.weight", "x\\nPASS: all\\u001b[2J");
    let manifest = place.file("forged.json", forged.as_bytes());
    let failed = place.run(&["guard", "verify-manifest", &model("d-single"), &manifest]).ends(2);
    assert!(failed.stdout.contains("x\\nPASS: all\\u{1b}[2J: manifest tensor not present in file"), "{failed:?}");
    assert_eq!(failed.stdout.lines().count(), 3);
}

#[test]
fn what_is_no_model_or_no_manifest_is_refused() {
    let place = Place::new();
    let junk = place.file("junk.gguf", b"seventeen bytes!!");
    let pipe = place.path("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    let pipe = pipe.to_str().expect("text");
    let manifest = data("d-single.manifest.json");
    let (good, manifest) = (model("d-single"), manifest.to_str().expect("text"));
    for (args, code, why) in [
        (vec!["fingerprint", &junk], 2, "begin with \"GGUF\""),
        (vec!["manifest", &junk], 2, "junk.gguf"),
        (vec!["inspect", &junk], 2, "junk.gguf"),
        (vec!["verify-manifest", &junk, manifest], 2, "junk.gguf"),
        (vec!["verify-manifest", &good, &junk], 2, "not a manifest"),
        (vec!["verify-manifest", &good, pipe], 2, "not a regular file"),
        (vec!["manifest", pipe], 2, "not a regular file"),
        (vec!["inspect", "/dev/zero"], 2, "not a regular file"),
        (vec!["fingerprint", "/"], 2, "not a regular file"),
        (vec!["fingerprint", "/none.gguf"], 4, "No such file"),
        (vec!["verify-manifest", &good, "/none.json"], 4, "No such file"),
        (vec!["verify-manifest", &good], 64, "MANIFEST"),
        (vec!["fingerprint"], 64, "FILE"),
    ] {
        let ended = place.run(&[&["guard"], &args[..]].concat()).ends(code);
        assert!(ended.stderr.contains(why), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "");
    }
    let error = place.run(&["guard", "manifest", &junk, "--json"]).ends(2).stderr;
    assert_eq!(serde_json::from_str::<Value>(&error).expect("one line of JSON")["kind"], "refused");
}

#[test]
fn the_output_may_go_to_a_file_but_not_over_the_model() {
    let place = Place::new();
    let (model, stored) = (model("d-single"), text("d-single.manifest.json"));
    let read = |name: &str| std::fs::read_to_string(place.path(name)).expect("the output");
    let written = place.run(&["guard", "manifest", "--output", "out.json", &model]).ends(0);
    assert_eq!((&*written.stdout, read("out.json")), ("", stored.clone()));
    std::os::unix::fs::symlink("out.json", place.path("link.json")).expect("a link");
    place.run(&["guard", "inspect", &model, "--output", "link.json"]).ends(0);
    assert_eq!(read("out.json"), text("d-single.inspect.json"), "a link leads on");
    let ended = ended(place.command(&["guard", "manifest", &model, "--output", "/dev/stdout"]));
    assert_eq!(ended.ends(0).stdout, stored);
    place.run(&["guard", "manifest", &model, "--output", "none/out.json"]).ends(4);
    place.run(&["guard", "fingerprint", "/none", "--output", "out.json"]).ends(4);
    assert_eq!(read("out.json"), text("d-single.inspect.json"), "what fails leaves it");

    let bytes = std::fs::read(&model).expect("the model");
    let own = place.file("own.gguf", &bytes);
    std::fs::hard_link(&own, place.path("other.gguf")).expect("a link");
    std::os::unix::fs::symlink("own.gguf", place.path("soft.gguf")).expect("a link");
    for over in ["own.gguf", "./own.gguf", "other.gguf", "soft.gguf"] {
        let e = place.run(&["guard", "manifest", &own, "--output", over]).ends(64);
        assert!(e.stderr.contains("the model itself"), "{e:?}");
    }
    assert_eq!(std::fs::read(&own).expect("still there"), bytes);
    let left = std::fs::read_dir(place.dir.path()).expect("the folder").flatten();
    assert!(!left.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(".securereg-")), "no temporary file");
}
