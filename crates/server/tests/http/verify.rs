//! Verification: the shapes that callers parse, before and after a byte was changed.

use crate::rig::{OK_MIN, Rig, SAFETENSORS, sha256_of};
use serde_json::{Value, json};

fn with_two() -> Rig {
    let rig = Rig::new();
    rig.promoted("m", "m.gguf");
    rig.stage(SAFETENSORS, "s.safetensors");
    let body = json!({"name": "s", "filename": "s.safetensors", "sha256": sha256_of(SAFETENSORS)});
    assert_eq!(rig.call("POST", "/v1/model/promote", "promote", Some(&body)).status, 201);
    rig
}

fn entry<'v>(all: &'v Value, name: &str) -> &'v Value {
    all["models"].as_array().unwrap().iter().find(|m| m["name"] == name).unwrap()
}

#[test]
fn a_good_model_is_verified_and_safe_to_use_as_a_string() {
    let rig = with_two();
    let answer = rig.call("POST", "/v1/model/verify?name=m", "verify", None);
    let wanted = json!({"name": "m", "status": "verified", "sha256": sha256_of(OK_MIN), "safe_to_use": "true"});
    assert_eq!((answer.status, answer.body), (200, wanted));
    let answer = rig.call("POST", "/v1/model/verify-manifest?name=m", "verify", None);
    assert_eq!((answer.status, &answer.body["status"], &answer.body["name"]), (200, &json!("verified"), &json!("m")));
    assert!(answer.body["detail"].as_str().unwrap().starts_with("all 1 tensors of 1 GGUF file"), "{}", answer.body);
    assert_eq!(answer.body["tensors_checked"], 1);
    for target in ["/v1/models/verify-all", "/v1/model/verify-manifest"] {
        let answer = rig.call("POST", target, "verify", None);
        assert_eq!((answer.status, &answer.body["status"], &answer.body["checked"]), (200, &json!("ok"), &json!(2)));
        let wanted = json!({"name": "m", "status": "verified", "sha256": sha256_of(OK_MIN)});
        assert_eq!(entry(&answer.body, "m"), &wanted);
        assert!(answer.body["verified_at"].is_string());
    }
    for target in ["/v1/model/verify?name=none", "/v1/model/verify-manifest?name=none"] {
        assert_eq!(rig.call("POST", target, "verify", None).status, 404);
    }
    assert_eq!(rig.call("POST", "/v1/model/verify", "verify", None).status, 400);
}

#[test]
fn after_a_flipped_byte_verify_is_409_and_says_expected_and_actual() {
    let rig = with_two();
    let sha256 = sha256_of(OK_MIN);
    rig.flip_byte(&sha256);
    let answer = rig.call("POST", "/v1/model/verify?name=m", "verify", None);
    assert_eq!(answer.status, 409);
    let body = &answer.body;
    assert_eq!(
        (&body["status"], &body["name"], &body["safe_to_use"]),
        (&json!("failed"), &json!("m"), &json!("false"))
    );
    assert_eq!(body["expected"], sha256);
    let flipped = securereg::Sha256Digest::of(&std::fs::read(rig.blob(&sha256)).unwrap());
    assert_eq!(body["actual"], flipped.to_hex());
    assert!(!answer.error().is_empty());
    assert_eq!(rig.call("GET", "/v1/model/m", "read", None).body["status"], "quarantined");

    let manifest = rig.call("POST", "/v1/model/verify-manifest?name=m", "verify", None);
    assert_eq!((manifest.status, &manifest.body["status"]), (409, &json!("failed")));
    assert_eq!(manifest.body["tensors"][0]["kind"], "header", "its magic is gone: {}", manifest.body);
    let all = rig.call("POST", "/v1/models/verify-all", "verify", None);
    assert_eq!((all.status, &all.body["status"], &all.body["checked"]), (409, &json!("failed"), &json!(2)));
    assert_eq!(
        (&entry(&all.body, "m")["status"], &entry(&all.body, "s")["status"]),
        (&json!("failed"), &json!("verified"))
    );
    assert_eq!(entry(&all.body, "m")["expected"], sha256);
    let seed = rig.call("POST", "/v1/model/verify-manifest", "verify", None);
    assert_eq!((seed.status, &seed.body["status"]), (200, &json!("failed")), "always 200, failed entries inside");
    assert_eq!(entry(&seed.body, "m")["status"], "failed");

    // The byte put back, it passes and is restored: integrity had quarantined it.
    rig.flip_byte(&sha256);
    let again = rig.call("POST", "/v1/model/verify?name=m", "verify", None);
    assert_eq!((again.status, &again.body["safe_to_use"]), (200, &json!("true")), "{}", again.body);
    assert_eq!(rig.call("GET", "/v1/model/m", "read", None).body["status"], "promoted");
}

#[test]
fn integrity_status_is_unknown_before_the_first_check_and_the_last_one_after() {
    let rig = with_two();
    let status = || rig.call("GET", "/v1/integrity/status", "verify", None);
    let unknown = json!({"status": "unknown", "detail": "no integrity check has run yet"});
    assert_eq!((status().status, status().body), (200, unknown));
    let all = rig.call("POST", "/v1/models/verify-all", "verify", None).body;
    assert_eq!((status().status, status().body), (200, all));
    rig.flip_byte(&sha256_of(OK_MIN));
    let failed = rig.call("POST", "/v1/models/verify-all", "verify", None).body;
    assert_eq!((status().status, status().body), (200, failed));
}

#[test]
fn intact_bytes_under_an_incident_are_not_safe_to_use() {
    let rig = with_two();
    let body = json!({"action": "quarantine", "incident_id": "INC-1", "model_name": "m", "reason": "odd output"});
    assert_eq!(rig.call("POST", "/api/v1/quarantine", "containment", Some(&body)).status, 200);
    let answer = rig.call("POST", "/v1/model/verify?name=m", "verify", None);
    assert_eq!((answer.status, &answer.body["safe_to_use"]), (409, &json!("false")), "{}", answer.body);
    assert_eq!(answer.body["kind"], "quarantined");
    assert!(answer.error().contains("odd output"));
    let all = rig.call("POST", "/v1/models/verify-all", "verify", None);
    assert_eq!(all.status, 200, "an incident is no integrity failure");
    assert_eq!(entry(&all.body, "m")["quarantined"], true);
    assert_eq!(
        rig.call("GET", "/v1/model/m", "read", None).body["status"],
        "quarantined",
        "a verification lifts no incident"
    );
}

#[test]
fn a_damaged_tensor_is_named() {
    let rig = Rig::new();
    let sha256 = rig.promoted("m", "m.gguf")["sha256"].as_str().unwrap().to_owned();
    let artifact = rig.call("GET", "/v1/model/m", "read", None).body;
    let manifest = &artifact["gguf_guard_manifest"];
    assert_eq!((&manifest["file_hash"], &manifest["tensor_count"]), (&json!(sha256), &json!(1)), "{artifact}");
    assert_eq!(artifact["gguf_guard_fingerprint"], manifest["structure_hash"]);
    rig.flip_at(&sha256, 159);
    let answer = rig.call("POST", "/v1/model/verify-manifest?name=m", "verify", None);
    assert_eq!((answer.status, &answer.body["safe_to_use"]), (409, &json!("false")), "{}", answer.body);
    let found: Vec<(&str, &str)> = answer.body["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["kind"].as_str().unwrap(), d["tensor"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(found, [("file_hash", ""), ("merkle_root", ""), ("tensor_hash", "token_embd.weight")]);
    assert_eq!(rig.call("GET", "/v1/model/m", "read", None).body["status"], "quarantined");
}
