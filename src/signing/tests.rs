//! What a signature must be, and each way in which it is not.

use super::bundle::{Document, pae};
use super::statement::{FileDigest, MAX_PATH, Resource, Statement};
use super::*;
use crate::artifact::{FileEntry, Layout};
use crate::digest::{Blake3Digest, hex};
use crate::format::finding::Findings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/data/signing/", $name)).as_slice()
    };
}

/// What is changed, what is said of it, and how.
type Change<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Value));

fn private(pem: &[u8]) -> PrivateKey {
    PrivateKey::from_pem(pem).expect("a private key")
}

fn public_key(pem: &[u8]) -> PublicKey {
    PublicKey::from_pem(pem).expect("a public key")
}

fn entry(path: &str, bytes: &[u8]) -> FileEntry {
    FileEntry {
        path: path.parse().expect("a path"),
        size_bytes: bytes.len() as u64,
        sha256: Sha256Digest::of(bytes),
        blake3: Blake3Digest::from_bytes(*blake3::hash(bytes).as_bytes()),
    }
}

/// The files that `model_signing` signed: tests/data/README.md.
fn folder() -> Vec<FileEntry> {
    vec![entry("a.bin", b"weights\n"), entry("sub/config.json", b"{}\n")]
}

fn circle(name: &str, pem: &[u8], required: bool) -> Circle {
    Circle { names: "m".into(), keys: vec![NamedKey { name: name.into(), key: public_key(pem) }], required }
}

/// The proof, or each rule that was broken with what was said.
fn outcome(
    circles: &[Circle],
    signature: Option<&[u8]>,
    layout: Layout,
    files: &[FileEntry],
) -> Result<Signed, Vec<(String, String)>> {
    let mut findings = Findings::new();
    let signature = signature.map(|bytes| SignatureFile::new("model.sig", bytes.to_vec()).expect("fits"));
    let over = Over { whole: &files[0].path, files: Some((layout, files)) };
    let signed = check(&Trust(circles.iter().collect()), signature.as_ref(), over, &mut findings);
    let found: Vec<(String, String)> = findings.list().iter().map(|f| (f.rule.to_owned(), f.message.clone())).collect();
    match signed {
        Some(signed) => {
            assert_eq!(found, [], "a proof beside findings");
            Ok(signed)
        }
        None => Err(found),
    }
}

fn p256() -> [Circle; 1] {
    [circle("p256.pub", data!("p256.pub"), false)]
}

/// The one rule that is broken, which must say `why`.
fn refused(signature: &[u8], layout: Layout, files: &[FileEntry], rule: &str, why: &str) {
    let found = outcome(&p256(), Some(signature), layout, files).expect_err(why);
    assert!(!found.is_empty() && found.iter().all(|(r, _)| r == rule), "{found:?} should be {rule}");
    assert!(found.iter().any(|(_, said)| said.contains(why)), "{found:?} should say {why:?}");
}

fn statement() -> Value {
    let files = folder();
    let resources: Vec<Value> =
        files.iter().map(|f| json!({"name": f.path, "algorithm": "sha256", "digest": f.sha256})).collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": root(&files)}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false}, "resources": resources},
    })
}

fn root(files: &[FileEntry]) -> Sha256Digest {
    Sha256Digest::of(&files.iter().flat_map(|f| *f.sha256.as_bytes()).collect::<Vec<u8>>())
}

/// A bundle whose signature over this payload is good.
fn signed(payload: &str) -> Value {
    let key = private(data!("p256.pem"));
    let signature = key.sign(&pae(payload.as_bytes()));
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.public().id()}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        },
    })
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A statement that was changed and then signed: the signer is at fault, or wants to mislead.
fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut statement = statement();
    change(&mut statement);
    bytes(&signed(&statement.to_string()))
}

#[test]
fn what_model_signing_signed_is_good_on_every_curve() {
    for (public, signature, algorithm) in [
        (data!("p256.pub"), data!("folder-p256.sig"), "ecdsa-p256"),
        (data!("p384.pub"), data!("folder-p384.sig"), "ecdsa-p384"),
        (data!("p521.pub"), data!("folder-p521.sig"), "ecdsa-p521"),
        (data!("p256.pub"), data!("folder-blake3.sig"), "ecdsa-p256"),
    ] {
        let signed = outcome(&[circle("lab", public, true)], Some(signature), Layout::Folder, &folder()).expect("good");
        assert_eq!((signed.signer(), signed.kind(), signed.algorithm()), ("lab", Kind::Oms, algorithm));
        assert_eq!(*signed.key(), Sha256Digest::of(public), "the id is the digest of the file");
    }
    // A single file, under whatever name it has here, and as the only file of a folder of which it must have its own.
    for (layout, name, good) in
        [(Layout::File, "a.bin", true), (Layout::File, "renamed.bin", true), (Layout::Folder, "a.bin", false)]
    {
        let files = [entry(name, b"weights\n")];
        assert_eq!(outcome(&p256(), Some(data!("file-p256.sig")), layout, &files).is_ok(), good, "{layout:?} {name}");
    }
}

#[test]
fn what_is_made_here_is_read_here_with_every_key() {
    for (pem, public) in [
        (data!("p256.pem"), data!("p256.pub")),
        (data!("p384.pem"), data!("p384.pub")),
        (data!("p521.pem"), data!("p521.pub")),
        (data!("ed25519.pem"), data!("ed25519.pub")),
        (data!("sec1.pem"), data!("sec1.pub")),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model");
        std::fs::create_dir_all(path.join("sub")).expect("a folder");
        for (name, text) in
            [("a.bin", "weights\n"), ("sub/config.json", "{}\n"), (".hidden", "x"), ("model.sig", "old")]
        {
            std::fs::write(path.join(name), text).expect("written");
        }
        let (key, source) = (private(pem), crate::Source::open(&path).expect("a source"));
        assert_eq!(key.public().to_pem().as_bytes(), public);
        let task = crate::Task::unattended();
        let made = sign(&source, "model", &key, &task).expect("signed");
        let signature = SignatureFile::new("model.sig", made).expect("fits");
        let report = verify(&source, &signature, "me", key.public(), &task).expect("read");
        assert_eq!(report.signed.expect("good").key, Sha256Digest::of(public));
        assert_eq!(report.skipped, [".hidden"]);
        // What is left out is told to whoever verifies with something else.
        let Ok(Document::Oms(envelope)) = Document::parse(signature.bytes()) else { panic!("an envelope") };
        let text = String::from_utf8_lossy(&envelope.signed).into_owned();
        assert!(
            text.contains(r#""ignore_paths":[".git",".gitattributes",".github",".gitignore","model.sig",".hidden"]"#),
            "{text}"
        );
        let names: Vec<&str> = envelope.statement.resources.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["a.bin", "sub/config.json"]);

        std::fs::write(path.join("a.bin"), "Weights\n").expect("written");
        let source = crate::Source::open(&path).expect("a source");
        let report = verify(&source, &signature, "me", key.public(), &task).expect("read");
        assert!(report.signed.is_none());
        assert_eq!(report.findings.iter().map(|f| f.rule).collect::<Vec<_>>(), ["signature.files"]);
        let report = verify(&source, &signature, "me", public_key(data!("other.pub")), &task).expect("read");
        assert_eq!(report.findings.iter().map(|f| f.rule).collect::<Vec<_>>(), ["signature.untrusted"]);
    }
}

#[test]
fn a_signature_over_other_files_names_the_one_that_differs() {
    let signature = data!("folder-p256.sig");
    let [a, config] = <[FileEntry; 2]>::try_from(folder()).expect("two");
    let other = FileEntry { path: a.path.clone(), ..entry("x", b"Weights\n") };
    for (files, why) in [
        (vec![other, config.clone()], "a.bin has other bytes"),
        (vec![a.clone()], "\"sub/config.json\" is signed and not here"),
        (vec![a.clone(), config.clone(), entry("z.py", b"")], "z.py is here and not signed"),
        (vec![entry("b.bin", b"weights\n"), config.clone()], "\"a.bin\" is signed and not here"),
        (vec![entry("b.bin", b"weights\n"), config.clone()], "b.bin is here and not signed"),
        (vec![a.clone(), entry("config.json", b"{}\n")], "config.json is here and not signed"),
        // A blob's digest under another file's name.
        (vec![entry("a.bin", b"{}\n"), entry("sub/config.json", b"weights\n")], "sub/config.json has other bytes"),
    ] {
        refused(signature, Layout::Folder, &files, "signature.files", why);
    }
    refused(data!("file-p256.sig"), Layout::File, &[entry("a.bin", b"Weights\n")], "signature.files", "other bytes");
    // By BLAKE3 as well.
    let other = [entry("a.bin", b"Weights\n"), config];
    refused(data!("folder-blake3.sig"), Layout::Folder, &other, "signature.files", "signed is BLAKE3");
}

/// The signer's program may have been told to pass over a file. Here nothing that is taken along is passed over.
#[test]
fn an_ignored_file_is_an_extra_file() {
    let ignoring = changed(|s| s["predicate"]["serialization"]["ignore_paths"] = json!(["z.py", "model.sig"]));
    let mut files = folder();
    outcome(&p256(), Some(&ignoring), Layout::Folder, &files).expect("as long as it is not there");
    files.push(entry("z.py", b""));
    refused(&ignoring, Layout::Folder, &files, "signature.files", "z.py is here and not signed");
    // What no promotion takes along is the one exception, whether it is signed (`.hidden` is, above) or not.
    let more = changed(|s| {
        let digest = hex(&[7; 32]);
        let mut all = folder();
        all.push(FileEntry { sha256: Sha256Digest::from_bytes([7; 32]), ..all[0].clone() });
        s["subject"][0]["digest"]["sha256"] = json!(root(&all));
        let resources = s["predicate"]["resources"].as_array_mut().expect("a list");
        resources.push(json!({"name": "model.sig", "algorithm": "sha256", "digest": digest}));
    });
    outcome(&p256(), Some(&more), Layout::Folder, &folder()).expect("good");
}

#[test]
fn an_untrusted_key_is_refused_and_named() {
    let trusted = [circle("lab", data!("p384.pub"), false)];
    let found = outcome(&trusted, Some(data!("folder-p256.sig")), Layout::Folder, &folder()).expect_err("untrusted");
    assert_eq!((found.len(), found[0].0.as_str()), (1, "signature.untrusted"));
    let id = Sha256Digest::of(data!("p256.pub")).to_hex();
    assert!(found[0].1.contains(&id) && found[0].1.contains("lab (8bf6b21b3301)"), "{found:?}");
    // Whoever writes the hint of a trusted key has not its signature.
    let mut forged: Value = serde_json::from_slice(data!("folder-p384.sig")).expect("JSON");
    forged["verificationMaterial"]["publicKey"]["hint"] = json!(id);
    refused(&bytes(&forged), Layout::Folder, &folder(), "signature.invalid", "does not hold under p256.pub");
    // Without a hint, or with one of another form, each trusted key is tried.
    for hint in [json!(null), json!(""), json!("aGludA==")] {
        let mut plain: Value = serde_json::from_slice(data!("folder-p256.sig")).expect("JSON");
        plain["verificationMaterial"]["publicKey"]["hint"] = hint;
        outcome(&p256(), Some(&bytes(&plain)), Layout::Folder, &folder()).expect("good");
        let found = outcome(&trusted, Some(&bytes(&plain)), Layout::Folder, &folder()).expect_err("of none");
        assert_eq!(found[0].0, "signature.invalid");
    }
}

/// No key signs with a hash that is not its own: a P-384 key's signature by SHA-256 is none over an envelope.
#[test]
fn a_key_decides_its_algorithm_and_nothing_else_does() {
    let payload = statement().to_string();
    let (p384, ed) = (private(data!("p384.pem")), private(data!("ed25519.pem")));
    // The signature of one key beside the hint, and the keyid, of another.
    for (key, hint) in [(&p384, &ed), (&ed, &p384)] {
        let mut bundle = signed(&payload);
        bundle["verificationMaterial"]["publicKey"] = json!({"hint": hint.public().id(), "keyDetails": "PKIX_ED25519"});
        let sig = STANDARD.encode(key.sign(&pae(payload.as_bytes())));
        bundle["dsseEnvelope"]["signatures"] = json!([{"sig": sig, "keyid": hint.public().id()}]);
        let circles = [circle("a", data!("p384.pub"), false), circle("b", data!("ed25519.pub"), false)];
        let found = outcome(&circles, Some(&bytes(&bundle)), Layout::Folder, &folder()).expect_err("confused");
        assert_eq!(found[0].0, "signature.invalid", "{found:?}");
    }
    // Over the payload without its type, and over its base64.
    let key = private(data!("p256.pem"));
    for message in [payload.clone(), STANDARD.encode(&payload), format!("DSSEv1 {} {payload}", payload.len())] {
        let mut bundle = signed(&payload);
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = json!(STANDARD.encode(key.sign(message.as_bytes())));
        refused(&bytes(&bundle), Layout::Folder, &folder(), "signature.invalid", "does not hold");
    }
    // A blob's signature is over a digest; P-521 and Ed25519 have none over a SHA-256.
    let digest = Sha256Digest::of(b"weights\n");
    let p521 = private(data!("p521.pem"));
    for (key, message) in [(&p521, &b"weights\n"[..]), (&ed, b"weights\n"), (&p384, b"weights\n")] {
        assert!(key.public().verify_sha256(&digest, &key.sign(message)).is_err());
    }
}

#[test]
fn a_blob_signature_is_over_one_file() {
    let file = [entry("a.bin", b"weights\n")];
    for (public, signature) in
        [(data!("p256.pub"), data!("blob-p256.sig")), (data!("p384.pub"), data!("blob-p384.sig"))]
    {
        let trusted = [circle("lab", public, true)];
        let signed = outcome(&trusted, Some(signature), Layout::File, &file).expect("good");
        assert_eq!((signed.kind(), signed.signer()), (Kind::Cosign, "lab"));
        // As an editor leaves it.
        let line = [signature, b"\r\n"].concat();
        outcome(&trusted, Some(&line), Layout::File, &file).expect("good");
    }
    let signature = data!("blob-p256.sig");
    refused(signature, Layout::File, &[entry("a.bin", b"Weights\n")], "signature.invalid", "over other bytes");
    refused(data!("blob-p384.sig"), Layout::File, &file, "signature.invalid", "none of the keys");
    refused(signature, Layout::Folder, &file, "signature.files", "this is a folder");
    refused(signature, Layout::Folder, &folder(), "signature.files", "there are several");

    // The same in a bundle, as cosign's newer versions write it.
    let bundle = |digest: Value, algorithm: &str| {
        let text = String::from_utf8(signature.to_vec()).expect("base64");
        bytes(&json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "P2V="}, "tlogEntries": [{"logIndex": "1"}]},
            "messageSignature": {"messageDigest": {"algorithm": algorithm, "digest": digest}, "signature": text},
        }))
    };
    let digest = |bytes: &[u8]| json!(STANDARD.encode(Sha256Digest::of(bytes).as_bytes()));
    outcome(&p256(), Some(&bundle(digest(b"weights\n"), "SHA2_256")), Layout::File, &file).expect("good");
    let other = bundle(digest(b"Weights\n"), "SHA2_256");
    refused(&other, Layout::File, &file, "signature.files", "a.bin has other bytes");
    refused(&bundle(digest(b""), "SHA1"), Layout::File, &file, "signature.unsupported", "SHA1");
    refused(&bundle(json!("AAAA"), "SHA2_256"), Layout::File, &file, "signature.malformed", "no SHA-256");
}

#[test]
fn who_is_required_must_have_signed() {
    let signature = data!("folder-p256.sig");
    let (lab, release) = (circle("lab", data!("p384.pub"), true), circle("release", data!("p256.pub"), true));
    let rules = |circles: &[Circle], signature| {
        let found = outcome(circles, signature, Layout::Folder, &folder()).expect_err("refused");
        found.into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
    };
    let only = std::slice::from_ref;
    assert_eq!(rules(only(&release), None), ["signature.required"]);
    assert_eq!(rules(only(&release), Some(b"junk")), ["signature.malformed", "signature.required"]);
    assert_eq!(rules(only(&lab), Some(signature)), ["signature.untrusted", "signature.required"]);
    assert_eq!(outcome(only(&release), Some(signature), Layout::Folder, &folder()).expect("good").signer(), "release");
    // Each rule that requires is met by its own keys, whatever others trust.
    assert_eq!(rules(&[lab.clone(), release.clone()], Some(signature)), ["signature.required"]);
    let trusted = Circle { required: false, ..lab };
    outcome(&[trusted.clone(), release], Some(signature), Layout::Folder, &folder()).expect("good");
    // Not required, an absent one is nothing.
    assert_eq!(rules(std::slice::from_ref(&trusted), None), [""; 0]);
    // Nobody is trusted: it says nothing; but over other files it is wrong all the same.
    assert_eq!(rules(&[], Some(signature)), ["signature.unchecked"]);
    let found = outcome(&[], Some(signature), Layout::Folder, &folder()[..1]).expect_err("refused");
    assert_eq!(found[0].0, "signature.files");
    assert_eq!(rules(&[], Some(b"junk")), ["signature.malformed"]);
}

#[test]
fn an_altered_bundle_is_refused() {
    let good = signed(&statement().to_string());
    outcome(&p256(), Some(&bytes(&good)), Layout::Folder, &folder()).expect("good");
    let altered = |change: &dyn Fn(&mut Value)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bytes(&bundle)
    };
    let malformed = "signature.malformed";
    let unsupported = "signature.unsupported";
    let cases: &[Change<'_>] = &[
        (malformed, "2 signatures", &|b| {
            let one = b["dsseEnvelope"]["signatures"][0].clone();
            b["dsseEnvelope"]["signatures"] = json!([one, one]);
        }),
        (malformed, "0 signatures", &|b| b["dsseEnvelope"]["signatures"] = json!([])),
        (unsupported, "text/plain", &|b| b["dsseEnvelope"]["payloadType"] = json!("text/plain")),
        (unsupported, "vnd.in-toto+JSON", &|b| {
            b["dsseEnvelope"]["payloadType"] = json!("application/vnd.in-toto+JSON")
        }),
        (malformed, "the payload is not base64", &|b| {
            let text = b["dsseEnvelope"]["payload"].as_str().expect("text").to_owned();
            b["dsseEnvelope"]["payload"] = json!(text[..text.len() - 1]);
        }),
        (malformed, "the signature is not base64", &|b| b["dsseEnvelope"]["signatures"][0]["sig"] = json!("MEUCIQ=")),
        (malformed, "the signature has 0 bytes", &|b| b["dsseEnvelope"]["signatures"][0]["sig"] = json!("")),
        (malformed, "the signature has 1500 bytes", &|b| {
            b["dsseEnvelope"]["signatures"][0]["sig"] = json!(STANDARD.encode([0; 1500]));
        }),
        ("signature.invalid", "does not hold", &|b| b["dsseEnvelope"]["signatures"][0]["sig"] = json!("AAAA")),
        (malformed, "one is wanted", &|b| b["messageSignature"] = json!({"signature": "AAAA"})),
        (malformed, "nothing is signed", &|b| drop(b.as_object_mut().expect("an object").remove("dsseEnvelope"))),
        (malformed, "no verificationMaterial", &|b| b["verificationMaterial"] = json!(null)),
        (malformed, "which key made it", &|b| b["verificationMaterial"] = json!({})),
        (unsupported, "certificate", &|b| b["verificationMaterial"]["certificate"] = json!({"rawBytes": "AA=="})),
        (unsupported, "certificate", &|b| {
            b["verificationMaterial"] = json!({"x509CertificateChain": {"certificates": []}})
        }),
        (unsupported, "bundle+json;version=0.1", &|b| {
            b["mediaType"] = json!("application/vnd.dev.sigstore.bundle+json;version=0.1");
        }),
        (malformed, "without a mediaType", &|b| b["mediaType"] = json!(null)),
        (unsupported, "--new-bundle-format", &|b| *b = json!({"base64Signature": "AAAA", "cert": ""})),
        (malformed, "no sigstore bundle", &|b| b["dsseEnvelope"] = json!([])),
    ];
    for (rule, why, change) in cases {
        refused(&altered(change), Layout::Folder, &folder(), rule, why);
    }
    let text = good.to_string();
    for (bytes, rule, why) in [
        (&b""[..], malformed, "0 bytes"),
        (b"\xff\xfe", malformed, "neither a sigstore bundle nor base64"),
        (b"-----BEGIN PGP SIGNATURE-----", unsupported, "PGP"),
        (b"not base64!", malformed, "not base64"),
        (&text.as_bytes()[..text.len() - 1], malformed, "no sigstore bundle"),
        (format!("{text}{text}").as_bytes(), malformed, "trailing"),
        // Of two, one reader takes the first and another the last.
        (text.replacen('{', r#"{"mediaType":"x","#, 1).as_bytes(), malformed, "duplicate field"),
        (format!("{{\"a\":{}", "[".repeat(100_000)).as_bytes(), malformed, "no sigstore bundle"),
    ] {
        refused(bytes, Layout::Folder, &folder(), rule, why);
    }
}

#[test]
fn a_statement_that_is_signed_and_not_sound_is_refused() {
    let malformed = "signature.malformed";
    let unsupported = "signature.unsupported";
    let resource = |name: &str| json!({"name": name, "algorithm": "sha256", "digest": hex(&[0; 32])});
    let cases: &[Change<'_>] = &[
        (unsupported, "Statement/v0.1", &|s| s["_type"] = json!("https://in-toto.io/Statement/v0.1")),
        (unsupported, "slsa.dev", &|s| s["predicateType"] = json!("https://slsa.dev/provenance/v1")),
        (unsupported, "before 1.0", &|s| s["predicateType"] = json!("https://model_signing/Digests/v0.1")),
        (malformed, "0 subjects", &|s| s["subject"] = json!([])),
        (malformed, "2 subjects", &|s| {
            let one = s["subject"][0].clone();
            s["subject"] = json!([one, one]);
        }),
        (malformed, "its subject has the digest", &|s| s["subject"][0]["digest"]["sha256"] = json!(hex(&[0; 32]))),
        (malformed, "its subject has the digest", &|s| {
            s["predicate"]["resources"].as_array_mut().expect("a list").reverse()
        }),
        (malformed, "missing field", &|s| s["subject"][0]["digest"] = json!({"sha512": hex(&[0; 64])})),
        (unsupported, "by \\\"sha1\\\"", &|s| s["predicate"]["serialization"]["hash_type"] = json!("sha1")),
        (unsupported, "hashed by \\\"sha1\\\"", &|s| s["predicate"]["resources"][0]["algorithm"] = json!("sha1")),
        (malformed, "all are said to be", &|s| s["predicate"]["resources"][0]["algorithm"] = json!("blake3")),
        (unsupported, "the method \\\"tensors\\\"", &|s| s["predicate"]["serialization"]["method"] = json!("tensors")),
        (unsupported, "shards", &|s| s["predicate"]["serialization"]["method"] = json!("shards")),
        (malformed, "64 hex digits", &|s| s["predicate"]["resources"][0]["digest"] = json!("ab")),
        (malformed, "64 hex digits", &|s| s["predicate"]["resources"][0]["digest"] = json!("a".repeat(40))),
        (malformed, "missing field", &|s| s["predicate"]["resources"] = json!([{"name": "a.bin"}])),
        (malformed, "missing field", &|s| s["predicate"] = json!({"resources": []})),
        (malformed, "0 files", &|s| s["predicate"]["resources"] = json!([])),
        (malformed, "a.bin\\\" twice", &|s| {
            let one = s["predicate"]["resources"][0].clone();
            s["predicate"]["resources"].as_array_mut().expect("a list").push(one);
        }),
        (malformed, "20001 files", &|s| {
            s["predicate"]["resources"] = (0..=MAX_RESOURCES).map(|i| resource(&i.to_string())).collect();
        }),
    ];
    for (rule, why, change) in cases {
        refused(&changed(change), Layout::Folder, &folder(), rule, &why.replace("\\\"", "\""));
    }
    let long = "a".repeat(MAX_PATH + 1);
    for path in [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "..",
        "a\\b",
        "a\nb",
        "a\0b",
        "a\u{7f}b",
        &long,
    ] {
        let tricked = changed(|s| s["predicate"]["resources"][0]["name"] = json!(path));
        refused(&tricked, Layout::Folder, &folder(), malformed, "no plain path");
    }
    // Members that v1.0 does not know are passed over; two of one that it knows are not.
    let more = changed(|s| {
        s["predicate"]["more"] = json!([1]);
        s["subject"][0]["uri"] = json!("x");
    });
    outcome(&p256(), Some(&more), Layout::Folder, &folder()).expect("good");
    let twice = statement().to_string().replacen("\"resources\":", "\"resources\":[],\"resources\":", 1);
    refused(&bytes(&signed(&twice)), Layout::Folder, &folder(), malformed, "duplicate field");
    let single = changed(|s| s["predicate"]["resources"][0]["name"] = json!("."));
    refused(&single, Layout::Folder, &folder(), "signature.files", "\".\" is signed and not here");
    // A file once as `.` and once by its name.
    let both = {
        let one = entry("a.bin", b"weights\n");
        let name = |name: &str| Resource { name: name.into(), digest: FileDigest::Sha256(one.sha256) };
        let payload = Statement::write("m", vec![name("."), name("a.bin")], &[]).expect("written");
        bytes(&signed(std::str::from_utf8(&payload).expect("text")))
    };
    refused(&both, Layout::File, &[entry("a.bin", b"weights\n")], "signature.files", "twice, under two names");
}

#[test]
fn what_model_signing_hashes_otherwise_is_named() {
    for (signature, why) in [(data!("folder-shards.sig"), "shards"), (data!("folder-blake2.sig"), "blake2b")] {
        refused(signature, Layout::Folder, &folder(), "signature.unsupported", why);
    }
}

#[test]
fn before_the_files_are_hashed_only_what_is_known_refuses() {
    let early = |circles: &[Circle], signature: Option<&[u8]>| {
        let mut findings = Findings::new();
        let signature = signature.map(|bytes| SignatureFile::new("s", bytes.to_vec()).expect("fits"));
        let whole = "a.bin".parse().expect("a path");
        let over = Over { whole: &whole, files: None };
        assert!(
            check(&Trust(circles.iter().collect()), signature.as_ref(), over, &mut findings).is_none(),
            "no proof yet"
        );
        findings.list().iter().map(|f| f.rule).collect::<Vec<_>>()
    };
    let (trusted, other) = ([circle("a", data!("p256.pub"), true)], [circle("b", data!("p384.pub"), true)]);
    for good in [data!("folder-p256.sig"), data!("file-p256.sig"), data!("blob-p256.sig"), data!("blob-p384.sig")] {
        assert_eq!(early(&trusted, Some(good)), [""; 0]);
    }
    assert_eq!(early(&trusted, None), ["signature.required"]);
    assert_eq!(early(&trusted, Some(b"junk")), ["signature.malformed", "signature.required"]);
    assert_eq!(early(&other, Some(data!("folder-p256.sig"))), ["signature.untrusted", "signature.required"]);
}

#[test]
fn a_key_is_one_block_of_a_kind_that_is_named() {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let good = text(data!("p256.pub"));
    assert_eq!(public_key(format!("\n {good}\n\n").as_bytes()), public_key(good.as_bytes()));
    assert_eq!(public_key(good.replace('\n', "\r\n").as_bytes()).to_pem(), good, "an editor's line ends");
    let cut: String = good.lines().take(2).collect::<Vec<_>>().join("\n");
    let off_the_curve =
        good.replacen("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAF", 1);
    for (pem, why) in [
        (String::new(), "not PEM"),
        ("ssh-ed25519 AAAA".into(), "not PEM"),
        (cut, "cut, or altered"),
        (format!("{good}{good}"), "not alone"),
        (off_the_curve, "not a point of its curve"),
        (text(data!("rsa.pub")), "RSA"),
        (text(data!("k256.pub")), "1.3.132.0.10"),
        (text(data!("p256.pem")), "private one"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), "certificate"),
        ("x".repeat(MAX_KEY as usize + 1), "over the limit"),
    ] {
        let e = PublicKey::from_pem(pem.as_bytes()).expect_err(why);
        assert!(e.kind() == ErrorKind::InvalidInput && e.message().contains(why), "{e} should say {why:?}");
    }
    assert!(PublicKey::from_pem(b"\xff").expect_err("bytes").message().contains("which is text"));
    // The neutral element of Ed25519: one signature is good for every message.
    let weak = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], &[1], &[0; 31]].concat();
    let weak = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(weak));
    assert!(PublicKey::from_pem(weak.as_bytes()).expect_err("weak").message().contains("weak"));

    for (pem, kind, why) in [
        (text(data!("encrypted.pem")), ErrorKind::Unsupported, "openssl pkey"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----".into(), ErrorKind::Unsupported, "cosign sign-blob"),
        ("-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----".into(), ErrorKind::Unsupported, "cosign sign-blob"),
        (good, ErrorKind::InvalidInput, "public one"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----".into(),
            ErrorKind::InvalidInput,
            "cut, or altered",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----".into(),
            ErrorKind::InvalidInput,
            "no private key",
        ),
    ] {
        let e = PrivateKey::from_pem(pem.as_bytes()).expect_err(why);
        assert!(e.kind() == kind && e.message().contains(why), "{e} should say {why:?}");
    }
    let shown = format!("{:?}", private(data!("p256.pem")));
    assert!(shown.starts_with("PrivateKey(of PublicKey(ecdsa-p256 3781a936"), "{shown}");
}

#[test]
fn a_signature_file_is_bounded_and_its_name_can_be_printed() {
    let over = SignatureFile::new("s", vec![b' '; MAX_SIGNATURE as usize + 1]).expect_err("too large");
    assert_eq!(over.kind(), ErrorKind::TooLarge);
    let file = SignatureFile::new("a\u{202e}\n", vec![b' '; MAX_SIGNATURE as usize]).expect("fits");
    assert_eq!((file.name(), file.bytes().len()), ("a\\u{202e}\\n", MAX_SIGNATURE as usize));
}

/// Names are sorted by components, not by bytes: `a-b` comes behind `a/b`, as pathlib has it.
#[test]
fn resources_are_in_the_order_of_model_signing() {
    let resource =
        |name: &str| Resource { name: name.into(), digest: FileDigest::Sha256(Sha256Digest::of(name.as_bytes())) };
    let names = ["b", "a-b", "a/b", "a.b/c", "B", "a/a/x"];
    let payload = Statement::write("m", names.map(resource).into(), &[]).expect("written");
    let statement = Statement::parse(&payload).expect("read");
    let order: Vec<&str> = statement.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(order, ["B", "a/a/x", "a/b", "a-b", "a.b/c", "b"]);
    assert_eq!(statement.model, "m");
    let blake3 = vec![Resource { name: "a".into(), digest: FileDigest::Blake3(Blake3Digest::from_bytes([7; 32])) }];
    let payload = Statement::write("m", blake3.clone(), &[]).expect("written");
    assert_eq!(Statement::parse(&payload).expect("read").resources, blake3);
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[a-c][a-c.-]{0,2}(/[a-c]{1,2}){0,2}", 1..8)
        .prop_map(|names| names.into_iter().collect())
}

proptest! {
    /// What is written is read, over these files and no others: take one away, add one, change or rename one, and it is refused.
    #[test]
    fn a_signature_is_over_its_files_and_no_others(names in names(), at in any::<prop::sample::Index>(), change in 0..4) {
        let mut files: Vec<FileEntry> = names.iter().map(|name| entry(name, name.as_bytes())).collect();
        let resources = files.iter().map(|f| Resource { name: f.path.to_string(), digest: FileDigest::Sha256(f.sha256) });
        let payload = Statement::write("m", resources.collect(), &[]).expect("written");
        let key = private(data!("p256.pem"));
        let bundle = bundle::write(&key.public().id(), &payload, &key.sign(&pae(&payload)));
        prop_assert!(outcome(&p256(), Some(&bundle), Layout::Folder, &files).is_ok());
        let i = at.index(files.len());
        match change {
            0 => files.push(entry("zz", b"")),
            1 => files[i].sha256 = Sha256Digest::of(b"other"),
            2 => files[i].path = "zz".parse().expect("a path"),
            _ => {
                files.push(entry("zz", b""));
                files.remove(i);
            }
        }
        let found = outcome(&p256(), Some(&bundle), Layout::Folder, &files).expect_err("refused");
        prop_assert!(found.iter().all(|(rule, _)| rule == "signature.files"));
    }

    /// Not a byte of what is signed, nor of the signature, can be another.
    #[test]
    fn a_flipped_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut bundle: Value = serde_json::from_slice(data!("folder-p256.sig")).expect("JSON");
        let field = |b: &Value, path: &str| STANDARD.decode(b.pointer(path).and_then(Value::as_str).expect("text")).expect("base64");
        let (payload, sig) = ("/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig");
        let (signed, signature) = (field(&bundle, payload), field(&bundle, sig));
        let i = at.index(signed.len() + signature.len());
        let (path, mut bytes, i) = if i < signed.len() { (payload, signed, i) } else { (sig, signature, i - payload_len(&bundle)) };
        bytes[i] ^= 1 << bit;
        *bundle.pointer_mut(path).expect("there") = json!(STANDARD.encode(bytes));
        prop_assert!(outcome(&p256(), Some(&self::bytes(&bundle)), Layout::Folder, &folder()).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\{[\"a-z:,{}\\[\\]0-9]{0,200}") {
        let _ = Document::parse(&bytes);
        let _ = Document::parse(text.as_bytes());
        let _ = Statement::parse(&bytes);
        let _ = PublicKey::from_pem(&bytes);
    }
}

fn payload_len(bundle: &Value) -> usize {
    let text = bundle.pointer("/dsseEnvelope/payload").and_then(Value::as_str).expect("text");
    STANDARD.decode(text).expect("base64").len()
}
