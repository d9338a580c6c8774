//! `sign`, `verify-signature`, and what the other verbs say of signatures.

use crate::support::{Place, files_below, gguf};
use serde_json::{Value, json};
use std::fs;

const KEY: &[u8] = include_bytes!("../../../../tests/data/signing/p256.pem");
const PUBLIC: &[u8] = include_bytes!("../../../../tests/data/signing/p256.pub");
const OTHER: &[u8] = include_bytes!("../../../../tests/data/signing/p384.pub");
/// The SHA-256 of the public key's file.
const ID: &str = "3781a936b0053137383f033d8ed81ed98510b270d7ba7b89edaffcad9edd6000";

/// A place with keys, a file and a folder.
fn place() -> Place {
    let place = Place::new();
    place.file("key.pem", KEY);
    place.file("key.pub", PUBLIC);
    place.file("other.pub", OTHER);
    place.file("m.gguf", &gguf("m"));
    fs::create_dir_all(place.path("folder/sub")).expect("a folder");
    place.file("folder/m.gguf", &gguf("m"));
    place.file("folder/sub/config.json", b"{}");
    place.file("folder/.hidden", b"x");
    place
}

#[test]
fn what_is_signed_is_verified_and_promoted_and_shown() {
    let place = place();
    for (path, out, name) in [("m.gguf", "m.gguf.sig", "m"), ("folder", "folder/model.sig", "f")] {
        let signed = place.run(&["sign", path, "--key", "key.pem", "--json"]).json();
        assert_eq!(
            (&signed["signature"], &signed["key"], &signed["algorithm"]),
            (&json!(out), &json!(ID), &json!("ecdsa-p256"))
        );
        assert!(place.path(out).is_file());
        let verified = place.run(&["verify-signature", path, "--key", "key.pub", "--json"]).json();
        let signature = json!({"signer": "key.pub", "key": ID, "kind": "oms", "algorithm": "ecdsa-p256"});
        assert_eq!((&verified["status"], &verified["signature"]), (&json!("verified"), &signature));
        let text = place.run(&["verify-signature", path, "--key", "key.pub"]).ends(0).stdout;
        assert!(text.starts_with("verified: signed by key.pub (oms, key 3781a936b005)"), "{text}");

        let inspected = place.run(&["inspect", path]).stdout;
        assert!(inspected.contains("not checked here"), "{inspected}");

        // The registry trusts the key, and wants it.
        if name == "m" {
            place.run(&["promote", "m.gguf", "--name", "before:v1"]).ends(0);
        }
        fs::write(place.root().join("key.pub"), PUBLIC).expect("written");
        let policy =
            "version: 1\nrules: {folder.hidden: warn}\nsigners: [{name: \"**\", keys: [key.pub], require: true}]\n";
        fs::write(place.root().join("policy.yaml"), policy).expect("written");
        let promoted = place.run(&["promote", path, "--name", name]).ends(0).stdout;
        assert!(promoted.contains("signed by key.pub (oms, key 3781a936b005)"), "{promoted}");
        assert_eq!(place.run(&["show", name, "--json"]).json()["signature"], signature);
        assert!(place.run(&["show", name]).ends(0).stdout.contains("key.pub"));
    }
    let policy = place.run(&["policy", "--json"]).json();
    let keys = json!([{"name": "key.pub", "key": ID, "algorithm": "ecdsa-p256"}]);
    assert_eq!(policy["signers"], json!([{"name": "**", "keys": keys, "require": true}]));
    assert!(place.run(&["policy"]).ends(0).stdout.contains("** must be signed by key.pub (3781a936b005)"));
}

#[test]
fn a_signature_that_does_not_hold_ends_with_3_and_says_why() {
    let place = place();
    place.run(&["sign", "folder", "--key", "key.pem"]).ends(0);
    let failed = |key: &str, rule: &str, why: &str| {
        let ended = place.run(&["verify-signature", "folder", "--key", key, "--json"]).ends(3);
        let value: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!((&value["status"], &value["signature"]), (&json!("failed"), &Value::Null));
        assert_eq!(value["findings"][0]["rule"], rule);
        assert!(value["findings"][0]["message"].as_str().expect("text").contains(why), "{value}");
        let text = place.run(&["verify-signature", "folder", "--key", key]).ends(3).stdout;
        assert!(text.starts_with("not verified\n") && text.contains(rule) && text.contains(".hidden"), "{text}");
    };
    failed("other.pub", "signature.untrusted", ID);
    place.file("folder/sub/config.json", b"{ }");
    failed("key.pub", "signature.files", "sub/config.json has other bytes");
    place.file("folder/sub/config.json", b"{}");
    place.file("folder/more.json", b"{}");
    failed("key.pub", "signature.files", "more.json is here and not signed");
    fs::remove_file(place.path("folder/more.json")).expect("removed");
    place.run(&["verify-signature", "folder", "--key", "key.pub"]).ends(0);
    place.file("folder/model.sig", b"\x1b[2J");
    failed("key.pub", "signature.malformed", "base64");
}

#[test]
fn nothing_is_written_over_and_nothing_is_left_behind() {
    let place = place();
    let before = files_below(place.dir.path()).len();
    let refused = |args: &[&str], code: i32, why: &str| {
        let ended = place.run(&[&["sign"][..], args].concat()).ends(code);
        assert!(ended.stderr.contains(why), "{ended:?} should say {why:?}");
        assert_eq!(files_below(place.dir.path()).len(), before);
    };
    refused(&["folder", "--key", "key.pub"], 64, "public one");
    refused(&["folder", "--key", "none.pem"], 4, "none.pem does not exist");
    refused(&["none", "--key", "key.pem"], 4, "does not exist");
    refused(&["folder", "--key", "key.pem", "--out", "folder/other.sig"], 64, "lies in the folder that is signed");
    refused(&["folder", "--key", "key.pem", "--out", "folder/sub/model.sig"], 64, "lies in the folder that is signed");
    refused(&["folder", "--key", "key.pem", "--out", "nowhere/x.sig"], 4, "nowhere");
    refused(&["folder", "--key", "key.pem", "--out", "m.gguf"], 5, "--force");
    let encrypted = include_bytes!("../../../../tests/data/signing/encrypted.pem");
    place.file("key.pem", encrypted);
    refused(&["folder", "--key", "key.pem"], 1, "openssl pkey");
    place.file("key.pem", KEY);

    assert!(place.run(&["verify-signature", "folder", "--key", "key.pub"]).ends(4).stderr.contains("--signature"));
    place.run(&["sign", "folder", "--key", "key.pem", "--out", "out.sig"]).ends(0);
    place.run(&["sign", "folder", "--key", "key.pem", "--out", "out.sig"]).ends(5);
    fs::write(place.path("out.sig"), "old").expect("written");
    place.run(&["sign", "folder", "--key", "key.pem", "--out", "out.sig", "--force"]).ends(0);
    place.run(&["verify-signature", "folder", "--key", "key.pub", "--signature", "out.sig"]).ends(0);
    assert_eq!(files_below(place.dir.path()).len(), before + 1);
    // Given to a promotion it counts, and refuses as one that lies there.
    let promote =
        |name: &str| place.run(&["promote", "folder/m.gguf", "--name", name, "--signature", "out.sig", "--json"]);
    let ended = promote("m").ends(2);
    assert!(ended.stderr.contains("signature.files"), "{ended:?}");
    place.run(&["sign", "m.gguf", "--key", "key.pem", "--out", "out.sig", "--force"]).ends(0);
    promote("m").ends(0);
}
