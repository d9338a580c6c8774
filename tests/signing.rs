//! Signed models: what a promotion makes of a signature, and of the want of one.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod support;

use securereg::signing::{self, PrivateKey, SignatureFile};
use securereg::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::*;

const P256: &str = include_str!("data/signing/p256.pub");
const LAB: &[u8] = include_bytes!("data/signing/p256.pem");
const OTHER: &[u8] = include_bytes!("data/signing/p384.pem");

/// A root whose policy wants names below `signed/` signed by the lab, and trusts it with every other.
fn strict() -> Root {
    let root = Root::new();
    std::fs::write(root.path().join("lab.pub"), P256).unwrap();
    write_policy(
        &root,
        "version: 1\nsigners:\n  - {name: \"signed/**\", keys: [lab.pub], require: true}\n  - {name: \"**\", keys: [lab.pub], require: false}\n",
    );
    root
}

fn write_policy(root: &Root, text: &str) {
    std::fs::write(root.path().join("policy.yaml"), text).unwrap();
}

fn sign(path: &Path, key: &[u8]) -> Vec<u8> {
    let source = Source::open(path).unwrap();
    signing::sign(&source, "model", &PrivateKey::from_pem(key).unwrap(), &Task::unattended()).unwrap()
}

/// A folder with a model in two files, signed.
fn folder(root: &Root, name: &str, key: &[u8]) -> PathBuf {
    root.source(&format!("{name}/m.gguf"), &gguf(300_000, 1));
    let path = root.source(&format!("{name}/sub/n.gguf"), &gguf(100, 2));
    let folder = path.parent().unwrap().parent().unwrap().to_owned();
    std::fs::write(folder.join("model.sig"), sign(&folder, key)).unwrap();
    folder
}

/// The rules that a promotion breaks; nothing of it may be left.
fn broken(root: &Root, model: &str, request: PromoteRequest, path: &Path) -> Vec<&'static str> {
    let stored = (root.names("blobs/sha256"), root.names("sidecars/sha256"));
    let source = Source::open(path).unwrap();
    let e = root.registry.promote(request, source, &me(), &Task::unattended()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Refused, "{e}");
    assert_eq!((root.names("blobs/sha256"), root.names("sidecars/sha256")), stored);
    assert_eq!(root.names("tmp"), [""; 0]);
    assert!(root.registry.catalog().unwrap().artifact(&name(model)).is_none());
    let last = root.registry.audit_log().unwrap().pop().unwrap();
    assert_eq!((last.event.as_str(), last.name.as_str()), ("refuse", model));
    assert!(e.findings().iter().all(|f| last.why.contains(f.rule)), "{} lacks a rule", last.why);
    e.findings().iter().map(|f| f.rule).collect()
}

fn refused(root: &Root, model: &str, path: &Path) -> Vec<&'static str> {
    broken(root, model, PromoteRequest::new(name(model)), path)
}

fn shown(root: &Root, model: &str) -> Value {
    let catalog = root.registry.catalog().unwrap();
    root.registry.describe(catalog.require(&name(model)).unwrap()).unwrap()
}

#[test]
fn a_signed_folder_is_promoted_without_its_signature_which_is_kept_as_evidence() {
    let root = strict();
    let path = folder(&root, "f", LAB);
    let promoted = root.promote_path("signed/f", &path).unwrap();
    let files: Vec<&str> = promoted.artifact.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!((files, promoted.skipped.len()), (vec!["m.gguf", "sub/n.gguf"], 0));
    let key = Sha256Digest::of(P256.as_bytes());
    let signature = json!({"signer": "lab.pub", "key": key, "kind": "oms", "algorithm": "ecdsa-p256"});
    assert_eq!(shown(&root, "signed/f")["signature"], signature);
    let line =
        root.registry.audit_log().unwrap().into_iter().find(|l| l.event == "promote" && l.phase == "intent").unwrap();
    let said = format!("; signed by lab.pub (oms, key {})", &key.to_hex()[..12]);
    assert!(line.why.ends_with(&said), "{}", line.why);
    // The document itself, so that it can be checked again.
    let digest = promoted.artifact.inspection.unwrap();
    let kept = std::fs::read(root.path().join("sidecars/sha256").join(digest.to_hex())).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(
        kept["signature"]["document"].as_str().unwrap().as_bytes(),
        std::fs::read(path.join("model.sig")).unwrap()
    );
    assert_eq!(root.verify("signed/f").status, VerifyStatus::Verified);
}

#[test]
fn a_single_file_and_a_split_set_are_signed_beside() {
    let root = strict();
    let file = root.source("m.gguf", &gguf(300_000, 1));
    assert_eq!(refused(&root, "signed/m", &file), ["signature.required"]);
    std::fs::write(root.source("m.gguf.sig", b""), sign(&file, LAB)).unwrap();
    assert_eq!(root.promote_path("signed/m", &file).unwrap().signed.unwrap().signer(), "lab.pub");
    // The signature by itself is no model, and is not looked for a signature of its own.
    assert!(root.promote_path("x", &root.dir.path().join("source/m.gguf.sig")).is_err());

    let mut first = PathBuf::new();
    for (name, bytes) in split(1).into_iter().rev() {
        first = root.source(&format!("split/{name}"), &bytes);
    }
    let beside = first.with_file_name("m-00001-of-00002.gguf.sig");
    std::fs::write(&beside, sign(&first, LAB)).unwrap();
    let promoted = root.promote_path("signed/split", &first).unwrap();
    assert_eq!((promoted.artifact.layout, promoted.artifact.files.len()), (Layout::Split, 2));
    assert_eq!(promoted.signed.unwrap().signer(), "lab.pub");
}

#[test]
fn what_cosign_signed_is_promoted() {
    let root = strict();
    let file = root.source("m.gguf", &gguf(300_000, 1));
    let signed = include_bytes!("data/signing/gguf-p256.sig");
    std::fs::write(root.source("m.gguf.sig", b""), signed).unwrap();
    root.promote_path("signed/m", &file).unwrap();
    assert_eq!(shown(&root, "signed/m")["signature"]["kind"], "cosign");
    let other = root.source("n.gguf", &gguf(300_000, 2));
    std::fs::write(root.source("n.gguf.sig", b""), signed).unwrap();
    assert_eq!(refused(&root, "signed/n", &other), ["signature.invalid", "signature.required"]);
    assert_eq!(refused(&root, "n", &other), ["signature.invalid"]);
}

#[test]
fn an_untrusted_key_other_files_and_an_extra_file_are_refused_whatever_is_required() {
    let root = strict();
    type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
    let cases: [Case<'_>; 9] = [
        ("untrusted", &|f| std::fs::write(f.join("model.sig"), sign(f, OTHER)).unwrap(), "signature.untrusted"),
        ("bytes", &|f| std::fs::write(f.join("m.gguf"), gguf(300_000, 9)).unwrap(), "signature.files"),
        ("missing", &|f| std::fs::remove_file(f.join("sub/n.gguf")).unwrap(), "signature.files"),
        ("extra", &|f| std::fs::write(f.join("sub/o.gguf"), gguf(100, 3)).unwrap(), "signature.files"),
        ("renamed", &|f| std::fs::rename(f.join("m.gguf"), f.join("k.gguf")).unwrap(), "signature.files"),
        ("moved", &|f| std::fs::rename(f.join("sub/n.gguf"), f.join("n.gguf")).unwrap(), "signature.files"),
        (
            "swapped",
            &|f| {
                std::fs::write(f.join("m.gguf"), gguf(100, 2)).unwrap();
                std::fs::write(f.join("sub/n.gguf"), gguf(300_000, 1)).unwrap();
            },
            "signature.files",
        ),
        (
            "cut",
            &|f| {
                let bytes = std::fs::read(f.join("model.sig")).unwrap();
                std::fs::write(f.join("model.sig"), &bytes[..bytes.len() / 2]).unwrap();
            },
            "signature.malformed",
        ),
        (
            "altered",
            &|f| {
                let text = std::fs::read_to_string(f.join("model.sig")).unwrap();
                let mut bundle: Value = serde_json::from_str(&text).unwrap();
                let other: Value = serde_json::from_slice(&sign(&f.join("m.gguf"), LAB)).unwrap();
                bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone();
                std::fs::write(f.join("model.sig"), bundle.to_string()).unwrap();
            },
            "signature.invalid",
        ),
    ];
    for (case, change, rule) in cases {
        let path = folder(&root, case, LAB);
        root.promote_path(&format!("signed/{case}:good"), &path).unwrap();
        root.registry.delete(&name(&format!("signed/{case}:good")), &me()).unwrap();
        change(&path);
        let rules = refused(&root, "m", &path);
        assert!(!rules.is_empty() && rules.iter().all(|r| *r == rule), "{case}: {rules:?}");
        let rules = refused(&root, &format!("signed/{case}"), &path);
        assert!(rules.iter().all(|r| *r == rule || *r == "signature.required"), "{case}: {rules:?}");
        assert_eq!(rules.iter().filter(|r| **r == "signature.required").count(), 1, "{case}");
    }
}

#[test]
fn an_unsigned_model_is_refused_where_a_signer_is_required_before_it_is_read() {
    let root = strict();
    // Longer than all free space: were it to be copied, that would be said.
    let path = root.source("m.gguf", b"");
    std::fs::File::create(&path).unwrap().set_len(8 << 40).unwrap();
    let e = root.promote_path("Signed/m:v1", &path).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Refused | ErrorKind::NoSpace));
    let path = root.source("n.gguf", &gguf(100, 1));
    assert_eq!(refused(&root, "Signed/m:v1", &path), ["signature.required"]);
    root.promote_path("m", &path).unwrap();
    assert_eq!(shown(&root, "m")["signature"], Value::Null);
}

#[test]
fn a_signature_that_is_given_counts_instead_of_one_that_is_there() {
    let root = strict();
    let path = folder(&root, "f", OTHER);
    let given = |key: &[u8]| SignatureFile::new("given", sign(&path, key)).unwrap();
    let request = |key| PromoteRequest { signature: Some(given(key)), ..PromoteRequest::new(name("signed/f")) };
    let source = Source::open(&path).unwrap();
    let promoted = root.registry.promote(request(LAB), source, &me(), &Task::unattended()).unwrap();
    assert_eq!((promoted.signed.unwrap().signer(), promoted.artifact.files.len()), ("lab.pub", 2));
    root.registry.delete(&name("signed/f"), &me()).unwrap();
    std::fs::write(path.join("model.sig"), sign(&path, LAB)).unwrap();
    assert_eq!(broken(&root, "signed/f", request(OTHER), &path), ["signature.untrusted", "signature.required"]);
}

#[test]
fn a_model_that_is_promoted_again_with_a_signature_is_signed_from_then_on() {
    let root = strict();
    let path = folder(&root, "f", LAB);
    let signature = std::fs::read(path.join("model.sig")).unwrap();
    std::fs::remove_file(path.join("model.sig")).unwrap();
    root.promote_path("f", &path).unwrap();
    assert_eq!(shown(&root, "f")["signature"], Value::Null);
    std::fs::write(path.join("model.sig"), signature).unwrap();
    let changes = || root.registry.catalog().unwrap().generation();
    let (before, at) = (changes(), shown(&root, "f")["promoted_at"].clone());
    assert_eq!(root.promote_path("f", &path).unwrap().outcome, Outcome::AlreadyThere);
    assert_eq!(shown(&root, "f")["signature"]["signer"], "lab.pub");
    assert_eq!((changes(), &shown(&root, "f")["promoted_at"]), (before + 1, &at));
    assert_eq!(root.names("sidecars/sha256").len(), 1, "the one before is gone");
    // Once more it is no news; unsigned, nothing is taken from it.
    root.promote_path("f", &path).unwrap();
    std::fs::remove_file(path.join("model.sig")).unwrap();
    root.promote_path("f", &path).unwrap();
    assert_eq!((changes(), shown(&root, "f")["signature"]["signer"].as_str()), (before + 1, Some("lab.pub")));
}

#[test]
fn a_move_takes_the_signature_along() {
    let root = strict();
    let path = folder(&root, "f", LAB);
    let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new(name("signed/f")) };
    root.registry.promote(request, Source::open(&path).unwrap(), &me(), &Task::unattended()).unwrap();
    assert!(!path.join("m.gguf").exists() && !path.join("model.sig").exists());
}

#[test]
fn a_signature_that_is_no_plain_small_file_is_refused() {
    let root = strict();
    let file = root.source("m.gguf", &gguf(100, 1));
    let beside = root.dir.path().join("source/m.gguf.sig");
    let elsewhere = root.source("elsewhere", &sign(&file, LAB));
    std::os::unix::fs::symlink(&elsewhere, &beside).unwrap();
    assert_eq!(Source::open(&file).unwrap_err().kind(), ErrorKind::InvalidInput);
    std::fs::remove_file(&beside).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &beside, 0o600.into()).unwrap();
    assert_eq!(Source::open(&file).unwrap_err().kind(), ErrorKind::InvalidInput);
    std::fs::remove_file(&beside).unwrap();
    std::fs::create_dir(&beside).unwrap();
    assert_eq!(Source::open(&file).unwrap_err().kind(), ErrorKind::InvalidInput);
    std::fs::remove_dir(&beside).unwrap();
    std::fs::File::create(&beside).unwrap().set_len(signing::MAX_SIGNATURE + 1).unwrap();
    assert_eq!(root.promote_path("m", &file).unwrap_err().kind(), ErrorKind::TooLarge);
    // A folder called model.sig holds files like any other, and they are not signed.
    let path = folder(&root, "f", LAB);
    std::fs::remove_file(path.join("model.sig")).unwrap();
    root.source("f/model.sig/o.gguf", &gguf(100, 3));
    assert_eq!(root.promote_path("f", &path).unwrap().artifact.files.len(), 3);
}

#[test]
fn a_policy_whose_keys_cannot_be_trusted_admits_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let root = strict();
    let file = root.source("m.gguf", &gguf(100, 1));
    let key = root.path().join("lab.pub");
    let kind = || root.promote_path("m", &file).unwrap_err().kind();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(kind(), ErrorKind::Manifest);
    std::fs::remove_file(&key).unwrap();
    assert_eq!(kind(), ErrorKind::Manifest);
    std::os::unix::fs::symlink(root.source("lab.pub", P256.as_bytes()), &key).unwrap();
    assert_eq!(kind(), ErrorKind::Manifest);
    std::fs::remove_file(&key).unwrap();
    std::fs::write(&key, LAB).unwrap();
    let e = root.promote_path("m", &file).unwrap_err();
    assert!(e.message().contains("private one") && !e.message().contains("MIG"), "{e}");
    std::fs::write(&key, P256).unwrap();
    root.promote_path("m", &file).unwrap();
}

/// What a promoter sends along cannot pass for a signature that was checked.
#[test]
fn evidence_says_nothing_of_a_signature() {
    let root = strict();
    let mut request = PromoteRequest::new(name("m"));
    request.evidence.insert("signature".into(), json!({"signer": "lab.pub", "kind": "oms"}));
    let source = Source::open(&root.source("m.gguf", &gguf(100, 1))).unwrap();
    root.registry.promote(request, source, &me(), &Task::unattended()).unwrap();
    assert_eq!(shown(&root, "m")["signature"], Value::Null);
}

#[test]
fn what_a_repository_holds_is_signed_by_a_file_of_it() {
    let root = strict();
    let content = root.registry.content();
    let repo: RepositoryName = "r".parse().unwrap();
    let path = folder(&root, "f", LAB);
    let held = |names: &[(&str, &Path)]| {
        let one = |(name, path): &(&str, &Path)| {
            let bytes = std::fs::read(path).unwrap();
            let mut upload = content.begin(&repo).unwrap();
            upload.append(&bytes).unwrap();
            let digest = ContentDigest::from(Sha256Digest::of(&bytes));
            upload.finish(&digest).unwrap();
            (rel(name), digest)
        };
        Source::of_content(&content, &repo, names.iter().map(one).collect())
    };
    let promote = |model: &str, source| {
        root.registry.promote(PromoteRequest::new(name(model)), source, &me(), &Task::unattended())
    };
    let (m, n, sig) = (path.join("m.gguf"), path.join("sub/n.gguf"), path.join("model.sig"));
    let all: [(&str, &Path); 3] = [("m.gguf", &m), ("model.sig", &sig), ("sub/n.gguf", &n)];
    let promoted = promote("signed/f:v1", held(&all).unwrap()).unwrap();
    assert_eq!((promoted.artifact.files.len(), promoted.signed.unwrap().signer()), (2, "lab.pub"));
    assert_eq!(promote("signed/f:v2", held(&all[..2]).unwrap()).unwrap_err().kind(), ErrorKind::Refused);
    // A file with its signature is a file, and not a folder of two.
    let beside = root.source("m.sig", &sign(&m, LAB));
    let single = held(&[("m.gguf", &m), ("m.gguf.sig", &beside)]).unwrap();
    let promoted = promote("signed/m:v1", single).unwrap();
    assert_eq!((promoted.artifact.layout, promoted.artifact.files.len()), (Layout::File, 1));
    let two = held(&[("m.gguf", &m), ("model.sig", &sig)])
        .unwrap()
        .join(held(&[("n.gguf", &n), ("model.sig", &sig)]).unwrap());
    assert_eq!(two.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(held(&[("model.sig", &sig)]).unwrap_err().kind(), ErrorKind::Refused);
}
