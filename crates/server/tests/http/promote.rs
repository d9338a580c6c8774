//! Both generations of promote: where sources may come from, what is kept, what is refused.

use crate::rig::{OK_MIN, Rig, SAFETENSORS, TINY, promote_body, sha256_of, test_data};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn the_seed_body_is_answered_200_with_the_artifact() {
    let rig = Rig::new();
    let staged = rig.stage(TINY, "tiny.gguf");
    let body =
        json!({"name": "tiny", "path": staged, "sha256": sha256_of(TINY), "format": "gguf", "source": "hf:tiny"});
    let answer = rig.call("POST", "/v1/promote", "promote", Some(&body));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let artifact = answer.body;
    assert_eq!(artifact["name"], "tiny");
    assert_eq!(artifact["sha256"], sha256_of(TINY));
    assert_eq!((&artifact["format"], &artifact["source"]), (&json!("gguf"), &json!("hf:tiny")));
    assert_eq!((&artifact["status"], &artifact["filename"]), (&json!("promoted"), &json!("tiny.gguf")));
    assert!(artifact["promoted_at"].as_str().unwrap().ends_with('Z'));
    assert!(artifact["path"].as_str().unwrap().ends_with("/tiny.gguf"));
    assert!(staged.exists(), "over HTTP the staged source stays");
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&body)).status, 200, "again is the same");
    let promotes =
        rig.audit_events().into_iter().filter(|(event, name, _)| event == "promote" && name == "tiny").count();
    assert!(promotes >= 1);
}

#[test]
fn the_pipelines_body_is_answered_exactly_201_and_its_evidence_is_kept() {
    let rig = Rig::new();
    rig.stage(SAFETENSORS, "scan-1.safetensors");
    let size = fs::metadata(test_data(SAFETENSORS)).unwrap().len();
    let body = json!({
        "name": "org/st:v1", "filename": "model.safetensors", "staged_filename": "scan-1.safetensors",
        "sha256": sha256_of(SAFETENSORS), "size_bytes": size, "source": "https://example.org/st",
        "scan_results": {"malware": "clean"}, "scanner_versions": {"clamav": "1.4"}, "policy_version": "p1",
        "policy_bundle": {"version": 1}, "source_revision": "abc", "gguf_guard_fingerprint": null,
        "directory_provenance": {"trust": "pin"}, "status": "quarantined",
    });
    for _ in 0..2 {
        let answer = rig.call("POST", "/v1/model/promote", "promote", Some(&body));
        assert_eq!(answer.status, 201, "{}", answer.body);
        for key in [
            "scan_results",
            "scanner_versions",
            "policy_version",
            "policy_bundle",
            "source_revision",
            "directory_provenance",
        ] {
            assert_eq!(answer.body[key], body[key], "{key}");
        }
        assert_eq!(answer.body["status"], "promoted", "a body cannot speak for the registry");
        assert_eq!(answer.body["filename"], "model.safetensors");
        assert!(answer.body["path"].as_str().unwrap().ends_with("/org/st/v1/model.safetensors"));
    }
    let listed = rig.call("GET", "/v1/model/org/st:v1", "read", None).body;
    assert_eq!(listed["scan_results"], body["scan_results"]);
}

#[test]
fn sources_come_from_any_staging_folder_and_nowhere_else() {
    let rig = Rig::new();
    fs::create_dir(rig.extra.join("sub")).unwrap();
    fs::copy(test_data(OK_MIN), rig.extra.join("sub/a.gguf")).unwrap();
    fs::copy(test_data(OK_MIN), rig.dir().join("outside.gguf")).unwrap();
    let promote = |name: &str, path: &str| rig.call("POST", "/v1/promote", "promote", Some(&promote_body(name, path)));
    assert_eq!(promote("rel:1", "sub/a.gguf").status, 200, "relative to the first folder that has it");
    assert_eq!(promote("abs:1", rig.extra.join("sub/a.gguf").to_str().unwrap()).status, 200);
    let outside = rig.dir().join("outside.gguf");
    let blob = rig.blob(&sha256_of(OK_MIN));
    for bad in [
        outside.to_str().unwrap(),
        blob.to_str().unwrap(),
        "/etc/hostname",
        "../outside.gguf",
        rig.extra.join("../outside.gguf").to_str().unwrap(),
        rig.extra.to_str().unwrap(),
        ".",
    ] {
        let answer = promote("bad", bad);
        assert_eq!((answer.status, &answer.body["kind"]), (400, &json!("refused")), "{bad}: {}", answer.body);
    }
    // Outside, a file that is there and one that is not are told apart by nothing.
    let there = promote("bad", outside.to_str().unwrap()).error().replace("outside", "");
    let absent = promote("bad", rig.dir().join("nothing.gguf").to_str().unwrap()).error().replace("nothing", "");
    assert_eq!(there, absent);
    let missing = promote("bad", "missing.gguf");
    assert_eq!(missing.status, 400);
    assert!(missing.error().contains("missing.gguf"));
    let refusals = rig.audit_events().into_iter().filter(|(event, name, _)| event == "refuse" && name == "bad").count();
    assert_eq!(refusals, 10, "each refusal at the edge is in the audit log");
    assert_eq!(rig.call("GET", "/v1/model/bad", "read", None).status, 404);
}

/// Threats 2 and 4.
#[test]
fn t02_t04_a_symlink_or_fifo_in_quarantine_is_refused() {
    let rig = Rig::new();
    let outside = rig.dir().join("outside.gguf");
    fs::copy(test_data(OK_MIN), &outside).unwrap();
    fs::create_dir(rig.dir().join("outside-dir")).unwrap();
    fs::copy(test_data(OK_MIN), rig.dir().join("outside-dir/m.gguf")).unwrap();
    symlink(&outside, rig.staging.join("link.gguf")).unwrap();
    symlink(rig.dir().join("outside-dir"), rig.staging.join("linkdir")).unwrap();
    rig.stage(OK_MIN, "real.gguf");
    symlink("real.gguf", rig.staging.join("inside.gguf")).unwrap();
    // The next folder has a real file of that name: a link must not fall through to it.
    fs::copy(test_data(OK_MIN), rig.extra.join("link.gguf")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        rig.staging.join("fifo.gguf"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for bad in ["link.gguf", "linkdir/m.gguf", "inside.gguf", "fifo.gguf"] {
        let body = json!({"name": "bad", "filename": "m.gguf", "staged_filename": bad, "sha256": sha256_of(OK_MIN)});
        let answer = rig.call("POST", "/v1/model/promote", "promote", Some(&body));
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
        assert!(
            rig.audit_events().iter().any(|(event, _, why)| event == "refuse" && why.contains(bad)),
            "{bad} is in the log"
        );
    }
    assert!(rig.registry.catalog().unwrap().is_empty());
}

#[test]
fn junk_wrong_digests_and_wrong_sizes_are_400_and_leave_nothing() {
    let rig = Rig::new();
    fs::write(rig.staging.join("junk.gguf"), b"seventeen bytes!!").unwrap();
    rig.stage(OK_MIN, "ok.gguf");
    let mut junk = promote_body("junk", "junk.gguf");
    junk["sha256"] = json!(securereg::Sha256Digest::of(b"seventeen bytes!!"));
    let answer = rig.call("POST", "/v1/promote", "promote", Some(&junk));
    assert_eq!((answer.status, &answer.body["kind"]), (400, &json!("refused")), "{}", answer.body);
    let mut wrong = promote_body("wrong", "ok.gguf");
    wrong["sha256"] = json!("0".repeat(64));
    let answer = rig.call("POST", "/v1/model/promote", "promote", Some(&wrong));
    assert_eq!((answer.status, &answer.body["kind"]), (400, &json!("digest_mismatch")), "{}", answer.body);
    assert_eq!((&answer.body["expected"], &answer.body["actual"]), (&wrong["sha256"], &json!(sha256_of(OK_MIN))));
    let mut size = promote_body("size", "ok.gguf");
    size["size_bytes"] = json!(1);
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&size)).status, 400);
    let mut format = promote_body("format", "ok.gguf");
    format["format"] = json!("safetensors");
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&format)).status, 400);
    format["format"] = json!("pickle");
    let answer = rig.call("POST", "/v1/promote", "promote", Some(&format));
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("not allowed"), "{}", answer.body);
    for name in ["junk", "wrong", "size", "format"] {
        assert!(
            rig.audit_events().iter().any(|(event, of, _)| event == "refuse" && of == name),
            "{name} is in the log"
        );
    }
    let not_allowed = |(event, _, why): &(String, String, String)| event == "refuse" && why.contains("not allowed");
    assert!(rig.audit_events().iter().any(not_allowed), "also what never reached the core");
    assert!(rig.registry.catalog().unwrap().is_empty());
    assert_eq!(fs::read_dir(rig.registry.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn malformed_bodies_are_400_naming_the_field() {
    let rig = Rig::new();
    let status_of = |body: Value| {
        let answer = rig.call("POST", "/v1/promote", "promote", Some(&body));
        (answer.status, answer.error().to_owned())
    };
    for (key, value) in [
        ("name", json!("../out.gguf")),
        ("name", json!(7)),
        ("name", json!("path/x")),
        ("sha256", json!("xyz")),
        ("sha256", json!(null)),
        ("path", json!({})),
        ("size_bytes", json!("1")),
        ("source", json!(["x"])),
    ] {
        let mut body = promote_body("m", "m.gguf");
        body[key] = value.clone();
        let (status, error) = status_of(body);
        assert_eq!(status, 400, "{key}={value}");
        let said = if key == "sha256" && value == json!("xyz") { "SHA-256" } else { key };
        assert!(error.contains(said), "{key}={value}: {error}");
    }
    assert_eq!(status_of(json!({})).0, 400);
    assert_eq!(status_of(json!([])).0, 400);
}

/// Threat 8: the loser of two writers is told.
#[test]
fn t08_two_writers_of_one_name_one_gets_409() {
    let rig = Rig::new();
    rig.stage(OK_MIN, "a.gguf");
    rig.stage(TINY, "b.gguf");
    let mut b = promote_body("same", "b.gguf");
    b["sha256"] = json!(sha256_of(TINY));
    let hold = rig.hold_commits();
    let mut first = rig.send("POST", "/v1/promote", "promote", Some(&promote_body("same", "a.gguf")), "");
    let mut second = rig.send("POST", "/v1/promote", "promote", Some(&b), "");
    rig.wait_for_copies(2);
    drop(hold);
    let answers = [crate::rig::read_answer(&mut first), crate::rig::read_answer(&mut second)];
    let mut statuses = answers.each_ref().map(|a| a.status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let won = answers.iter().find(|a| a.status == 200).unwrap();
    let lost = answers.iter().find(|a| a.status == 409).unwrap();
    assert_eq!(lost.body["kind"], "conflict");
    assert_eq!(rig.call("GET", "/v1/model/same", "read", None).body["sha256"], won.body["sha256"], "nothing is lost");
}

/// Threat 7, over HTTP: what collides names its holder.
#[test]
fn t07_a_name_that_differs_by_case_is_409_naming_the_holder() {
    let rig = Rig::new();
    rig.promoted("Model", "m.gguf");
    rig.stage(OK_MIN, "n.gguf");
    let answer = rig.call("POST", "/v1/promote", "promote", Some(&promote_body("model", "n.gguf")));
    assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("conflict")));
    assert!(answer.error().contains("Model"), "{}", answer.body);
}

/// Threat 19.
#[test]
fn t19_oversize_bodies_are_413_and_the_answer_arrives() {
    let rig = Rig::new();
    let mut body = promote_body("m", "m.gguf");
    body["scan_results"] = json!(["x".repeat(5 << 20)]);
    let answer = rig.call("POST", "/v1/promote", "promote", Some(&body));
    assert_eq!((answer.status, &answer.body["kind"]), (413, &json!("too_large")));
    let answer = rig.call("POST", "/api/v1/quarantine", "containment", Some(&json!({"reason": "x".repeat(100_000)})));
    assert_eq!(answer.status, 413);
}

#[test]
fn a_split_set_is_promoted_by_its_list_digest() {
    let rig = Rig::new();
    let shards = ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"];
    let mut list = String::new();
    for shard in shards {
        rig.stage(&format!("split/{shard}"), shard);
        list.push_str(&format!("{}  {shard}\n", sha256_of(&format!("split/{shard}"))));
    }
    let sha256 = securereg::Sha256Digest::of(list.as_bytes()).to_hex();
    let body = json!({"name": "tiny-split", "filename": shards[0], "sha256": sha256});
    let answer = rig.call("POST", "/v1/model/promote", "promote", Some(&body));
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.body["files"].as_array().unwrap().len(), 2);
    assert!(answer.body["path"].as_str().unwrap().ends_with("/tiny-split/tiny-00001-of-00002.gguf"));
}

/// A signature is a staged file, lies with the model, or comes in the request; whichever counts must hold.
#[test]
fn a_signed_model_is_promoted_by_whom_the_policy_trusts() {
    use securereg::signing::{PrivateKey, sign};
    let rig = Rig::new();
    let staged = rig.stage(TINY, "tiny.gguf");
    let root = rig.dir().join("root");
    let bundle = |key: &[u8]| {
        let source = securereg::Source::open(&staged).unwrap();
        let key = PrivateKey::from_pem(key).unwrap();
        sign(&source, "tiny", &key, &securereg::Task::unattended()).unwrap()
    };
    let lab = fs::read(test_data("signing/p256.pem")).unwrap();
    fs::copy(test_data("signing/p256.pub"), root.join("lab.pub")).unwrap();
    fs::write(root.join("policy.yaml"), "version: 1\nsigners: [{name: \"s/**\", keys: [lab.pub], require: true}]\n")
        .unwrap();
    let post = |name: &str, signature: Value| {
        let mut body = json!({"name": name, "path": staged, "sha256": sha256_of(TINY)});
        body["signature"] = signature;
        rig.call("POST", "/v1/promote", "promote", Some(&body))
    };
    let answer = post("s/none:v1", Value::Null);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body["findings"][0]["rule"], "signature.required");
    let (good, other) = (bundle(&lab), bundle(&fs::read(test_data("signing/p384.pem")).unwrap()));
    let inline = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let answer = post("s/inline:v1", inline(&other));
    assert_eq!((answer.status, &answer.body["findings"][0]["rule"]), (400, &json!("signature.untrusted")));
    let answer = post("s/inline:v1", inline(&good));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        (&answer.body["signature"]["signer"], &answer.body["signature"]["kind"]),
        (&json!("lab.pub"), &json!("oms"))
    );
    // What it says of itself is not taken for one.
    assert_eq!(post("s/again:v1", answer.body["signature"].clone()).status, 400);

    fs::write(staged.with_file_name("apart.sig"), &good).unwrap();
    assert_eq!(post("s/staged:v1", json!("apart.sig")).status, 200);
    for outside in ["../apart.sig", "/etc/passwd", "none.sig"] {
        assert_eq!(post("s/out:v1", json!(outside)).status, 400, "{outside}");
    }
    fs::write(staged.with_file_name("tiny.gguf.sig"), &good).unwrap();
    assert_eq!(post("s/beside:v1", Value::Null).status, 200);
    let refusals = rig.audit_events().into_iter().filter(|(event, name, _)| event == "refuse" && name == "s/out:v1");
    assert_eq!(refusals.count(), 3);
}
