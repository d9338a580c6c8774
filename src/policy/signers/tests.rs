//! Who is trusted with which names, and what a policy may say of that.

use super::*;
use crate::artifact::{FileEntry, Format, Layout};
use crate::digest::{Blake3Digest, Sha256Digest};
use crate::error::ErrorKind;
use crate::format::Kind;
use crate::policy::{Cleared, Evidence, Policy};
use crate::signing::{REQUIRED, SignatureFile, UNCHECKED};

const P256: &str = include_str!("../../../tests/data/signing/p256.pub");
const P384: &str = include_str!("../../../tests/data/signing/p384.pub");
const FOLDER: &[u8] = include_bytes!("../../../tests/data/signing/folder-p256.sig");

/// A policy beside which two keys lie.
fn policy(signers: &str) -> Result<Policy> {
    let key_file = |name: &str| match name {
        "p256.pub" => Ok(P256.into()),
        "p384.pub" => Ok(P384.into()),
        _ => Err(Error::new(ErrorKind::NotFound, format!("there is no {name}"))),
    };
    Policy::parse_with(format!("version: 1\nsigners: {signers}\n").as_bytes(), &key_file)
}

fn judge(
    policy: &Policy,
    name: &str,
    signature: Option<&[u8]>,
    change: impl FnOnce(&mut Vec<FileEntry>),
) -> Result<Cleared> {
    let entry = |path: &str, bytes: &[u8]| FileEntry {
        path: path.parse().expect("a path"),
        size_bytes: bytes.len() as u64,
        sha256: Sha256Digest::of(bytes),
        blake3: Blake3Digest::from_bytes([0; 32]),
    };
    let mut files = vec![entry("a.bin", b"weights\n"), entry("sub/config.json", b"{}\n")];
    change(&mut files);
    let kinds = files.iter().map(|f| (f.path.clone(), Kind::Model(Format::Gguf))).collect();
    let signature = signature.map(|bytes| SignatureFile::new("model.sig", bytes.into()).expect("fits"));
    let evidence = Evidence { kinds, signature, ..Evidence::default() };
    policy.judge(&name.parse().expect("a name"), Layout::Folder, files, evidence, None)
}

fn refusals(judged: Result<Cleared>) -> Vec<&'static str> {
    let e = judged.expect_err("refused");
    assert_eq!(e.kind(), ErrorKind::Refused);
    e.findings().iter().map(|f| f.rule).collect()
}

#[test]
fn a_name_is_signed_by_whom_its_rule_trusts_or_not_promoted() {
    let policy = policy(r#"[{name: "org/**", keys: [p256.pub], require: true}]"#).expect("a policy");
    let cleared = judge(&policy, "org/m", Some(FOLDER), |_| {}).expect("cleared");
    let signed = cleared.signed().expect("signed");
    assert_eq!((signed.signer(), *signed.key()), ("p256.pub", Sha256Digest::of(P256.as_bytes())));
    let e = judge(&policy, "org/m", None, |_| {}).expect_err("unsigned");
    assert!(e.message().contains("names like \"org/**\" must be signed by p256.pub, and there is no signature"), "{e}");
    assert_eq!(refusals(judge(&policy, "org/m", None, |_| {})), ["signature.required"]);
    let other = |files: &mut Vec<FileEntry>| files[0].sha256 = Sha256Digest::of(b"other");
    assert_eq!(refusals(judge(&policy, "org/m", Some(FOLDER), other)), ["signature.files", "signature.required"]);
    // Another name needs none, and nothing is known of one that is there; but it must not be over other files.
    let cleared = judge(&policy, "m", Some(FOLDER), |_| {}).expect("cleared");
    assert!(cleared.signed().is_none());
    assert_eq!(cleared.verdict().findings[0].finding.rule, UNCHECKED.id);
    assert_eq!(refusals(judge(&policy, "m", Some(FOLDER), other)), ["signature.files"]);
    assert!(judge(&policy, "m", None, |_| {}).expect("cleared").signed().is_none());
}

/// One test for every rule, so that each fails when its rule is deleted: `.ci/long rules`.
#[test]
fn what_is_there_must_hold_whatever_is_required() {
    let trusting = |key: &str| policy(&format!("[{{name: \"**\", keys: [{key}], require: false}}]")).expect("a policy");
    let (right, wrong) = (trusting("p256.pub"), trusting("p384.pub"));
    let same = |_: &mut Vec<FileEntry>| {};
    judge(&right, "m", None, same).expect("unsigned");
    judge(&right, "m", Some(FOLDER), same).expect("signed");
    assert_eq!(refusals(judge(&wrong, "m", Some(FOLDER), same)), ["signature.untrusted"]);
    let cut = &FOLDER[..FOLDER.len() - 1];
    assert_eq!(refusals(judge(&right, "m", Some(cut), same)), ["signature.malformed"]);
    let shards = include_bytes!("../../../tests/data/signing/folder-shards.sig");
    assert_eq!(refusals(judge(&right, "m", Some(shards), same)), ["signature.unsupported"]);
    let forged = String::from_utf8(FOLDER.to_vec())
        .expect("text")
        .replace("\"sig\":\"MEU", "\"sig\":\"MEY")
        .replace("\"sig\":\"MEQ", "\"sig\":\"MEU");
    assert_ne!(forged.as_bytes(), FOLDER);
    assert_eq!(refusals(judge(&right, "m", Some(forged.as_bytes()), same)), ["signature.invalid"]);
    assert_eq!(refusals(judge(&right, "m", Some(FOLDER), |files| files.truncate(1))), ["signature.files"]);
}

/// What could be forged is critical; what cannot be read may be allowed, and then counts for nothing.
#[test]
fn no_policy_admits_a_name_unsigned_that_must_be_signed() {
    let text = |require: bool| {
        let signers = format!("[{{name: \"**\", keys: [p256.pub], require: {require}}}]");
        policy(&format!("{signers}\nrules: {{\"signature.*\": allow, \"*\": allow}}")).expect("a policy")
    };
    assert_eq!(refusals(judge(&text(true), "m", Some(b"junk"), |_| {})), [REQUIRED.id]);
    assert!(judge(&text(false), "m", Some(b"junk"), |_| {}).expect("allowed").signed().is_none());
    assert_eq!(refusals(judge(&text(false), "m", Some(FOLDER), |files| files.truncate(1))), ["signature.files"]);
}

#[test]
fn a_pattern_is_of_names_and_of_tags_however_they_are_written() {
    for (pattern, yes, no) in [
        ("org/**", &["org/m", "Org/M:v1", "org/a/b:x", "org"][..], &["orgs/m", "m"][..]),
        ("org/*", &["org/m:v1"], &["org/a/b"]),
        ("ORG/m", &["org/m", "org/M:v1"], &["org/n"]),
        ("**", &["m", "a/b:c"], &[]),
        ("m:v*", &["m:v1", "M:V2"], &["m", "m:x", "a/m:v1"]),
        ("**:prod", &["m:prod", "a/b:Prod"], &["m", "m:prod2"]),
    ] {
        let signers =
            policy(&format!("[{{name: \"{pattern}\", keys: [p256.pub], require: true}}]")).expect("a policy").signers;
        let matches = |name: &str| signers[0].matches(&name.parse().expect("a name"));
        yes.iter().for_each(|name| assert!(matches(name), "{pattern} {name}"));
        no.iter().for_each(|name| assert!(!matches(name), "{pattern} {name}"));
    }
}

#[test]
fn signers_say_what_they_mean_or_the_policy_is_refused() {
    let inline = P256.replace('\n', "\\n");
    let good = policy(&format!("[{{name: \"a\", keys: [\"{inline}\", p384.pub], require: false}}]")).expect("a policy");
    let shown = serde_json::to_value(good.signers()).expect("JSON");
    assert_eq!(shown[0]["keys"][0]["name"], "key 1 of a");
    assert_eq!(shown[0]["keys"][0]["key"], json!(Sha256Digest::of(P256.as_bytes())));
    assert_eq!((&shown[0]["keys"][1]["algorithm"], &shown[0]["require"]), (&json!("ecdsa-p384"), &json!(false)));
    // Alone, a policy has no files beside it.
    let alone = b"version: 1\nsigners: [{name: a, keys: [p256.pub], require: true}]";
    assert!(Policy::parse(alone).expect_err("alone").message().contains("stands alone"));

    let many = |n: usize, one: &str| format!("[{}]", vec![one; n].join(","));
    let rule = "{name: a, keys: [p256.pub], require: true}";
    assert!(policy(&many(MAX_SIGNERS, rule)).is_ok());
    for (signers, why) in [
        ("[{name: a, keys: [p256.pub]}]".to_owned(), "missing field `require`"),
        ("[{name: a, require: true}]".into(), "missing field `keys`"),
        ("[{keys: [p256.pub], require: true}]".into(), "missing field `name`"),
        ("[{name: a, keys: [p256.pub], require: true, when: now}]".into(), "unknown field `when`"),
        ("[{name: a, keys: [p256.pub], require: maybe}]".into(), "boolean"),
        ("[{name: a, keys: [], require: true}]".into(), "1 to 16"),
        (format!("[{{name: a, keys: {}, require: true}}]", many(17, "x")), "1 to 16"),
        ("[{name: a, keys: [p256.pub, p256.pub], require: true}]".into(), "one key twice"),
        ("[{name: a, keys: [none.pub], require: true}]".into(), "the key none.pub: there is no none.pub"),
        ("[{name: a, keys: [../p256.pub], require: true}]".into(), "is no key"),
        ("[{name: a, keys: [/etc/passwd], require: true}]".into(), "is no key"),
        ("[{name: a, keys: [a/p256.pub], require: true}]".into(), "is no key"),
        ("[{name: a, keys: [\"-----BEGIN PUBLIC KEY-----\"], require: true}]".into(), "key 1 of a"),
        ("[{name: \"a b\", keys: [p256.pub], require: true}]".into(), "no pattern"),
        ("[{name: \"\", keys: [p256.pub], require: true}]".into(), "no pattern"),
        ("[{name: \"a:b/c\", keys: [p256.pub], require: true}]".into(), "no pattern"),
        ("[{name: \"a:\", keys: [p256.pub], require: true}]".into(), "no pattern"),
        (many(MAX_SIGNERS + 1, rule), "over the limit of 64"),
    ] {
        let e = policy(&signers).expect_err(&signers);
        assert_eq!(e.kind(), ErrorKind::Manifest, "{signers}");
        assert!(e.message().contains(why) && e.message().starts_with("policy.yaml: "), "{signers}: {e}");
    }
}

#[test]
fn a_key_beside_a_policy_is_a_small_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path();
    std::fs::write(path.join("k.pub"), P256).expect("written");
    std::fs::write(path.join("large.pub"), vec![b'x'; MAX_KEY as usize + 1]).expect("written");
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("fifo.pub"), 0o600.into()).expect("made");
    let with = |key: &str| {
        Policy::parse_in(path, format!("version: 1\nsigners: [{{name: a, keys: [{key}], require: true}}]").as_bytes())
    };
    assert_eq!(with("k.pub").expect("a policy").signers().len(), 1);
    for (key, why) in
        [("none.pub", "does not exist"), ("large.pub", "over the limit"), ("fifo.pub", "not a regular file")]
    {
        let e = with(key).expect_err(key);
        assert!(e.message().contains(why), "{e} should say {why:?}");
    }
}
