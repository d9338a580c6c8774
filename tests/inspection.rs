//! What promotion keeps of inspection: the sidecar's life, the tensor manifests, what gguf-guard said elsewhere.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use securereg::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

fn verify_manifest(root: &Root, model: &str) -> Result<ManifestReport> {
    root.registry.verify_manifest(&name(model), &me(), &Task::unattended())
}

fn inspection(root: &Root, model: &str) -> Option<Sha256Digest> {
    root.registry.catalog().unwrap().require(&name(model)).unwrap().inspection
}

fn sidecar(root: &Root, digest: &Sha256Digest) -> PathBuf {
    root.path().join("sidecars/sha256").join(digest.to_hex())
}

/// Changes manifest.yaml as another version would have written it, its last line too, and opens the root anew.
fn rewritten(root: &mut Root, change: impl Fn(&str) -> String) {
    let path = root.path().join("manifest.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (body, last) = text.split_at(text.rfind("# end ").unwrap());
    let changed = change(body);
    assert_ne!(body, changed);
    let seal = |body: &str| blake3::hash(body.as_bytes()).to_hex().to_string();
    let last = last.replace(&seal(body), &seal(&changed));
    std::fs::write(&path, changed + &last).unwrap();
    root.registry = root.again();
}

fn promote_with(root: &Root, model: &str, path: &Path, evidence: &[(&str, Value)]) -> Result<Promotion> {
    let mut request = PromoteRequest::new(name(model));
    request.evidence = evidence.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    root.registry.promote(request, Source::open(path)?, &me(), &Task::unattended())
}

#[test]
fn what_gguf_guard_said_is_accepted_of_its_own_file_and_refused_of_any_other() {
    let files = ["a-llama-2l", "d-single", "e-alltypes"];
    let root = Root::new();
    let tensors = root.source("t.safetensors", &safetensors(&[("t", "I8", &[2], b"ab")]));
    for (n, of) in files.iter().enumerate() {
        let read = |what: &str| std::fs::read_to_string(data(&format!("{of}.{what}.json"))).unwrap();
        let parsed = |what: &str| serde_json::from_str::<Value>(&read(what)).unwrap();
        let (fingerprint, manifest) = ("gguf_guard_fingerprint", "gguf_guard_manifest");
        let hash = parsed("fingerprint")["structure_hash"].clone();
        let upper = json!(format!(" sha256:{}\n", hash.as_str().unwrap().to_uppercase()));
        let forms = [
            (fingerprint, hash),
            (fingerprint, upper),
            (fingerprint, parsed("fingerprint")),
            (fingerprint, json!(read("fingerprint"))),
            (manifest, parsed("manifest")),
            (manifest, json!(read("manifest"))),
        ];
        for (f, form) in forms.iter().enumerate() {
            for (o, other) in files.iter().enumerate() {
                let model = format!("m{n}-{f}-{o}:1");
                let outcome = promote_with(&root, &model, &data(&format!("{other}.gguf")), std::slice::from_ref(form));
                assert_eq!(outcome.is_ok(), n == o, "{of} said of {other} by {}: {outcome:?}", form.0);
                if let Err(e) = outcome {
                    assert_eq!(e.kind(), ErrorKind::Refused);
                    assert!(e.findings().iter().all(|f| f.rule == "policy.guard-mismatch"), "{e}");
                }
            }
            let e = promote_with(&root, "tensors:1", &tensors, std::slice::from_ref(form)).unwrap_err();
            assert!(e.to_string().contains("no file here is a GGUF"), "{e}");
        }
        // What says nothing of a file is kept as it is: a path, as SecAI's own pipeline sends it, or nothing.
        let path = json!("/var/lib/secure-ai/registry/m.gguf.manifest.json");
        for (i, other) in [path, json!(null), json!(""), json!({"generated": false}), json!({})].iter().enumerate() {
            let evidence = [(fingerprint, other.clone()), (manifest, other.clone())];
            promote_with(&root, &format!("n{n}-{i}:1"), &data(&format!("{of}.gguf")), &evidence).unwrap();
        }
    }
    promote_with(&root, "tensors", &tensors, &[("gguf_guard_fingerprint", json!(""))]).unwrap();
}

#[test]
fn of_a_split_set_gguf_guard_may_have_read_any_shard_or_all() {
    let root = Root::new();
    let shards = split(1);
    for (file, bytes) in &shards {
        root.source(file, bytes);
    }
    let first = root.source(&shards[0].0, &shards[0].1);
    let promoted = root.promote_path("plain:1", &first).unwrap();
    let said = root.registry.describe(&promoted.artifact).unwrap();
    let whole = said["gguf_guard_fingerprint"].clone();
    let of = |n: usize| said["gguf_guard_manifest"]["files"][n]["manifest"].clone();
    let other = root.promote("other", &gguf(100, 9)).artifact;
    let other = root.registry.describe(&other).unwrap()["gguf_guard_manifest"].clone();
    for (model, sent, accepted) in [
        ("w", whole, true),
        ("a", of(0), true),
        ("b", of(1), true),
        ("s", of(1)["structure_hash"].clone(), true),
        ("o", other, false),
    ] {
        for key in ["gguf_guard_fingerprint", "gguf_guard_manifest"] {
            let outcome = promote_with(&root, &format!("{model}-{key}:1"), &first, &[(key, sent.clone())]);
            assert_eq!(outcome.is_ok(), accepted, "{key}: {sent}: {outcome:?}");
        }
    }
}

#[test]
fn a_model_from_before_there_were_inspections_is_served_and_gains_one_when_it_is_promoted_again() {
    let mut root = Root::new();
    let bytes = gguf(1000, 1);
    let path = root.source("m.gguf", &bytes);
    promote_with(&root, "m", &path, &[("note", json!("kept")), ("gguf_guard_fingerprint", json!("as sent"))]).unwrap();
    let digest = inspection(&root, "m").unwrap();
    rewritten(&mut root, |text| {
        text.lines().filter(|line| !line.contains("inspection")).map(|line| format!("{line}\n")).collect()
    });
    std::fs::remove_file(sidecar(&root, &digest)).unwrap();

    assert_eq!((inspection(&root, "m"), root.read("m").unwrap()), (None, bytes));
    assert_eq!(root.verify("m").status, VerifyStatus::Verified);
    let shown = |root: &Root| {
        let artifact = root.registry.catalog().unwrap().require(&name("m")).unwrap().clone();
        root.registry.describe(&artifact).unwrap()
    };
    let old = shown(&root);
    assert_eq!((&old["note"], &old["gguf_guard_fingerprint"]), (&json!("kept"), &json!("as sent")));
    assert!(old["inspection"].is_null() && old["gguf_guard_manifest"].is_null());
    let report = verify_manifest(&root, "m").unwrap();
    assert_eq!((report.whole.status, report.tensors), (VerifyStatus::Verified, 0));
    assert!(report.detail.contains("no tensor manifest is recorded") && report.detail.contains("promote it again"));

    let again = promote_with(&root, "m", &path, &[("note", json!("other"))]).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyThere);
    assert_eq!(inspection(&root, "m"), Some(digest));
    let new = shown(&root);
    assert_eq!((&new["note"], &new["promoted_at"]), (&json!("kept"), &old["promoted_at"]), "it stays what it was");
    assert_eq!(new["gguf_guard_fingerprint"], new["gguf_guard_manifest"]["structure_hash"]);
    assert_eq!(root.names("sidecars/sha256").len(), 2, "what was sent along now is not kept");
    let report = verify_manifest(&root, "m").unwrap();
    assert_eq!((report.whole.status, report.tensors), (VerifyStatus::Verified, 1));
    root.registry.delete(&name("m"), &me()).unwrap();
    assert!(root.names("sidecars/sha256").is_empty() && root.names("tmp").is_empty());
}

#[test]
fn a_sidecar_lives_while_any_model_pins_it_whatever_fails() {
    let root = Root::new();
    let path = root.source("m.gguf", &gguf(1000, 1));
    let evidence = [("note", json!("shared"))];
    promote_with(&root, "a:1", &path, &evidence).unwrap();
    let held = root.names("sidecars/sha256");
    // The log cannot be written, so the change is undone after its files were published.
    let lock = root.path().join("run/audit.lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    assert!(promote_with(&root, "b:1", &path, &evidence).is_err());
    let other = root.source("other.gguf", &gguf(1000, 2));
    assert!(promote_with(&root, "c:1", &other, &[("note", json!("own"))]).is_err());
    std::fs::remove_dir(&lock).unwrap();
    assert_eq!((root.names("sidecars/sha256"), root.names("blobs/sha256").len()), (held.clone(), 1));
    assert!(root.names("tmp").is_empty());
    assert_eq!(root.verify("a:1").status, VerifyStatus::Verified);

    promote_with(&root, "b:1", &path, &evidence).unwrap();
    assert_eq!(root.names("sidecars/sha256"), held);
    root.registry.delete(&name("a:1"), &me()).unwrap();
    assert_eq!(root.names("sidecars/sha256"), held, "b pins them");
    assert_eq!(verify_manifest(&root, "b:1").unwrap().whole.status, VerifyStatus::Verified);
    // A tag that moves lets go of what it pinned.
    promote_with(&root, "t:1", &path, &evidence).unwrap();
    root.registry.delete(&name("b:1"), &me()).unwrap();
    promote_with(&root, "t:1", &other, &[]).unwrap();
    assert_eq!(root.names("sidecars/sha256"), [inspection(&root, "t:1").unwrap().to_hex()]);
}

#[test]
fn an_altered_or_lost_inspection_is_found_and_healed() {
    for alter in [
        (|path: &Path| flip(path, 40)) as fn(&Path),
        |path| std::fs::remove_file(path).unwrap(),
        |path| writable(path).set_len(3).unwrap(),
    ] {
        for check in ["verify", "verify-manifest", "verify-all"] {
            let root = Root::new();
            let path = root.source("m.gguf", &gguf(1000, 1));
            let artifact = root.promote_path("m", &path).unwrap().artifact;
            alter(&sidecar(&root, &inspection(&root, "m").unwrap()));
            assert_eq!(root.registry.describe(&artifact).unwrap_err().kind(), ErrorKind::Corrupt);
            let all = root.registry.describe_all().unwrap();
            assert_eq!((&all[0]["kind"], &all[0]["name"]), (&json!("corrupt"), &json!("m")));
            let status = match check {
                "verify" => root.verify("m").status,
                "verify-manifest" => verify_manifest(&root, "m").unwrap().whole.status,
                _ => root.registry.verify_all(&me(), &Task::unattended()).unwrap().models[0].status,
            };
            assert_eq!((status, root.status("m")), (VerifyStatus::Failed, "quarantined"), "{check}");
            assert_eq!(root.promote_path("m", &path).unwrap().outcome, Outcome::Moved);
            assert_eq!(verify_manifest(&root, "m").unwrap().whole.status, VerifyStatus::Verified);
        }
    }
}

/// The manifest vouches for it, but this program cannot read it: then nothing was compared, and nothing may be said.
#[test]
fn an_inspection_of_another_version_is_not_taken_for_one_without_tensors() {
    let mut root = Root::new();
    root.promote("m", &gguf(1000, 1));
    let old = inspection(&root, "m").unwrap().to_hex();
    let text = br#"{"sidecar":"inspection","version":2}"#;
    let new = Sha256Digest::of(text);
    std::fs::write(sidecar(&root, &new), text).unwrap();
    rewritten(&mut root, |manifest| manifest.replace(&old, &new.to_hex()));
    let report = verify_manifest(&root, "m").unwrap();
    assert_eq!((report.whole.status, report.tensors), (VerifyStatus::Unreadable, 0));
    assert!(report.whole.error.as_deref().unwrap().contains("another kind or version"), "{report:?}");
    assert!(!report.detail.contains("no GGUF"), "{report:?}");
    assert_eq!(root.status("m"), "promoted", "nothing is known against it");
}

#[test]
fn a_manifest_that_says_otherwise_than_the_stored_bytes_quarantines_the_model() {
    let mut root = Root::new();
    root.promote("m", &gguf(1000, 1));
    let old = inspection(&root, "m").unwrap();
    let mut kept: Value = serde_json::from_slice(&std::fs::read(sidecar(&root, &old)).unwrap()).unwrap();
    kept["gguf"][0]["manifest"]["tensors"][0]["hash"] = json!("00".repeat(32));
    let text = serde_json::to_vec(&kept).unwrap();
    let new = Sha256Digest::of(&text);
    std::fs::write(sidecar(&root, &new), &text).unwrap();
    rewritten(&mut root, |manifest| manifest.replace(&old.to_hex(), &new.to_hex()));
    for _ in 0..2 {
        let report = verify_manifest(&root, "m").unwrap();
        assert_eq!((report.whole.status, report.whole.restored), (VerifyStatus::Failed, false));
        assert!(report.whole.error.unwrap().starts_with("m.gguf: "));
        let tensors: Vec<_> = report.differences.iter().filter_map(|d| d.difference.tensor.as_deref()).collect();
        assert_eq!((tensors, root.status("m")), (vec!["t"], "quarantined"));
    }
    // Who may not write cannot quarantine it, and does not serve it.
    assert!(root.release("m", "to look at it").restored);
    let reader = Registry::open_read_only(root.path()).unwrap();
    let open = || reader.open_file(&name("m"), &rel("m.gguf"), ReadMode::Cached).map(drop).map_err(|e| e.kind());
    assert_eq!(open(), Ok(()));
    let report = reader.verify_manifest(&name("m"), &me(), &Task::unattended()).unwrap();
    assert_eq!((report.whole.status, open()), (VerifyStatus::Failed, Err(ErrorKind::Corrupt)));
}

#[test]
fn verify_manifest_finds_damage_wherever_it_is_and_leaves_an_incident_alone() {
    let tensors: [models::Tensor<'_>; 2] = [("a", I8, &[40], &[1; 40]), ("b", I8, &[64], &[2; 64])];
    let bytes = gguf_with(&[("general.name", Meta::Str("x"))], &tensors);
    let data = bytes.len() as u64 - 64 - 64;
    for (at, named) in [(data, Some("a")), (data + 63, None), (data + 64, Some("b")), (4, None), (60, None)] {
        let root = Root::new();
        root.promote("m", &bytes);
        root.registry.quarantine(&name("m"), "why", Some("I-1"), &me()).unwrap();
        flip(&root.blob("m"), at);
        let report = verify_manifest(&root, "m").unwrap();
        assert_eq!(report.whole.status, VerifyStatus::Failed, "byte {at}");
        let found: Vec<&str> = report.differences.iter().filter_map(|d| d.difference.tensor.as_deref()).collect();
        if let Some(named) = named {
            assert_eq!(found, [named], "byte {at}: {report:?}");
        }
        assert!(!report.differences.is_empty(), "byte {at}: the file's own hash differs in any case");
        let catalog = root.registry.catalog().unwrap();
        let quarantine = catalog.require(&name("m")).unwrap().quarantine.clone().unwrap();
        assert_eq!(quarantine.incident_id.as_deref(), Some("I-1"), "byte {at}");
    }
    // Damage to the tree is none of the tensors'.
    let root = Root::new();
    root.promote("m", &bytes);
    flip(&root.tree("m"), 3);
    let report = verify_manifest(&root, "m").unwrap();
    assert_eq!((report.whole.status, report.differences.len()), (VerifyStatus::Failed, 0));
    assert_eq!(root.status("m"), "quarantined");
    // One whose bytes are gone.
    let root = Root::new();
    root.promote("m", &bytes);
    std::fs::remove_file(root.blob("m")).unwrap();
    assert_eq!(verify_manifest(&root, "m").unwrap().whole.status, VerifyStatus::Failed);
}

#[test]
fn verify_manifest_can_be_stopped_and_writes_nothing_where_it_may_not() {
    let root = Root::new();
    root.promote("m", &gguf(3 << 20, 1));
    let stop = std::sync::atomic::AtomicBool::new(true);
    let task = Task::unattended().cancelled_by(&stop);
    let e = root.registry.verify_manifest(&name("m"), &me(), &task).unwrap_err();
    assert_eq!((e.kind(), root.status("m")), (ErrorKind::Cancelled, "promoted"));
    assert_eq!(verify_manifest(&root, "gone").unwrap_err().kind(), ErrorKind::NotFound);
    let reader = Registry::open_read_only(root.path()).unwrap();
    let before = root.events();
    let check = || reader.verify_manifest(&name("m"), &me(), &Task::unattended()).unwrap().whole.status;
    assert_eq!(check(), VerifyStatus::Verified);
    flip(&root.blob("m"), 100);
    assert_eq!((check(), root.status("m")), (VerifyStatus::Failed, "promoted"));
    assert_eq!(root.events(), before);
    assert_eq!(reader.open_file(&name("m"), &rel("m.gguf"), ReadMode::Cached).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_policy_that_cannot_be_trusted_admits_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let root = Root::new();
    let policy = root.path().join("policy.yaml");
    let elsewhere = root.source("policy.yaml", b"version: 1\n");
    let path = root.source("m.gguf", &gguf(100, 1));
    let refused = |what: &str| {
        let e = root.promote_path("m", &path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Manifest, "{what}: {e}");
        assert!(e.to_string().contains("policy.yaml"), "{what}: {e}");
        std::fs::remove_file(&policy).or_else(|_| std::fs::remove_dir(&policy)).unwrap();
    };
    std::os::unix::fs::symlink(&elsewhere, &policy).unwrap();
    refused("a link");
    std::os::unix::fs::symlink("/nowhere", &policy).unwrap();
    refused("a link to nothing");
    rustix::fs::mknodat(rustix::fs::CWD, &policy, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    refused("a FIFO");
    std::fs::create_dir(&policy).unwrap();
    std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o700)).unwrap();
    refused("a folder");
    for mode in [0o620, 0o602, 0o666] {
        std::fs::write(&policy, "version: 1\n").unwrap();
        std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(mode)).unwrap();
        refused("others may write it");
    }
    for text in
        ["", "version: 2\n", "version: 1\nrules: {gguf.overlap: warn}\n", "version: 1\nrules: {gguf.nix: warn}\n"]
    {
        std::fs::write(&policy, text).unwrap();
        refused(text);
    }
    for len in [64 << 10, (64 << 10) + 1, (1 << 20) + 1] {
        let mut text = "version: 1\n#".to_owned();
        text.extend(std::iter::repeat_n('x', len - text.len()));
        std::fs::write(&policy, text).unwrap();
        if len > 64 << 10 { refused("too long") } else { drop(root.registry.policy().unwrap()) }
    }
    assert!(!policy.exists());
    root.promote_path("m", &path).unwrap();
}
