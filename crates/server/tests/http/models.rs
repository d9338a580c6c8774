//! Reading: list, describe, path, delete, health.

use crate::rig::{OK_MIN, Rig, promote_body, sha256_of, wait_until};
use serde_json::json;
use std::fs;

#[test]
fn an_empty_registry_lists_an_empty_array_and_is_healthy() {
    let rig = Rig::new();
    let answer = rig.call("GET", "/v1/models", "read", None);
    assert_eq!((answer.status, answer.body), (200, json!([])));
    let health = rig.call("GET", "/health", "", None);
    assert_eq!(health.status, 200);
    assert_eq!((&health.body["status"], &health.body["model_count"]), (&json!("ok"), &json!(0)));
    rig.promoted("m", "m.gguf");
    let later = rig.call("GET", "/health", "", None).body;
    assert_eq!(later["model_count"], 1);
    assert!(later["generation"].as_u64().unwrap() > health.body["generation"].as_u64().unwrap());
}

#[test]
fn a_name_takes_slashes_raw_and_escaped_and_a_tag() {
    let rig = Rig::new();
    rig.promoted("org/sub/model:v1.0", "m.gguf");
    for target in [
        "/v1/model/org/sub/model:v1.0",
        "/v1/model/org%2Fsub%2Fmodel:v1.0",
        "/v1/model/org%2fsub/model%3Av1.0",
        "/v1/model?name=org/sub/model:v1.0",
        "/v1/model?name=org%2Fsub%2Fmodel%3Av1.0",
    ] {
        let answer = rig.call("GET", target, "read", None);
        assert_eq!((answer.status, &answer.body["name"]), (200, &json!("org/sub/model:v1.0")), "{target}");
    }
    for target in ["/v1/model/org/sub/model", "/v1/model/org/sub", "/v1/model/org%252Fsub%252Fmodel:v1.0"] {
        let status = rig.call("GET", target, "read", None).status;
        assert!(status == 404 || (target.contains("%25") && status == 400), "{target}: {status}");
    }
    let listed = rig.call("GET", "/v1/models", "read", None).body;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(rig.call("DELETE", "/v1/model/org%2Fsub/model:v1.0", "admin", None).status, 200);
    assert_eq!(rig.call("GET", "/v1/model/org/sub/model:v1.0", "read", None).status, 404);
}

/// Threat 1, over HTTP: hostile names never reach the file system, and never name a route.
#[test]
fn t01_hostile_names_are_400_on_every_route() {
    let rig = Rig::new();
    fs::write(rig.dir().join("out.gguf"), b"precious").unwrap();
    let long = "a".repeat(256);
    for name in [
        "..%2Fout.gguf",
        "..%2F..%2Fout.gguf",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "a%0Ab",
        "%E2%80%AE",
        "-x",
        ".x",
        "path%2Fx",
        "a%20b",
        "%FF",
        &long,
    ] {
        assert_eq!(rig.call("GET", &format!("/v1/model/{name}"), "read", None).status, 400, "{name}");
        assert_eq!(rig.call("DELETE", &format!("/v1/model/{name}"), "admin", None).status, 400, "{name}");
        assert_eq!(rig.call("DELETE", &format!("/v1/model/delete?name={name}"), "admin", None).status, 400, "{name}");
        assert_eq!(rig.call("GET", &format!("/v1/model/path?name={name}"), "read", None).status, 400, "{name}");
        assert_eq!(rig.call("POST", &format!("/v1/model/verify?name={name}"), "verify", None).status, 400, "{name}");
    }
    assert!(rig.dir().join("out.gguf").exists());
}

#[test]
fn a_path_is_given_only_through_a_live_mount_and_only_of_what_is_served() {
    let mut rig = Rig::new();
    rig.promoted("m", "m.gguf");
    let path = |rig: &Rig| rig.call("GET", "/v1/model/path?name=m", "read", None);
    assert_eq!(rig.call("GET", "/v1/model/path?name=none", "read", None).status, 404);
    assert_eq!(rig.call("GET", "/v1/model/path", "read", None).status, 400);
    let unmounted = path(&rig);
    assert_eq!((unmounted.status, &unmounted.body["kind"]), (409, &json!("not_mounted")));
    assert!(!unmounted.body.to_string().contains("blobs"), "never a blob's path: {}", unmounted.body);
    rig.announce_mount();
    let answer = path(&rig);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body, json!({"path": rig.mount.canonicalize().unwrap().join("m.gguf")}));
    rig.flip_byte(&sha256_of(OK_MIN));
    let tampered = path(&rig);
    assert_eq!(tampered.status, 409, "{}", tampered.body);
    assert!(["corrupt", "quarantined"].contains(&tampered.body["kind"].as_str().unwrap()));
    assert!(tampered.body.get("path").is_none());
    assert_eq!(rig.call("GET", "/v1/model/m", "read", None).body["status"], "quarantined");
    assert_eq!(path(&rig).body["kind"], "quarantined");
}

#[test]
fn delete_removes_the_entry_and_the_bytes_and_says_404_after() {
    let rig = Rig::new();
    let sha256 = sha256_of(OK_MIN);
    rig.promoted("m", "m.gguf");
    assert!(rig.blob(&sha256).exists());
    let answer = rig.call("DELETE", "/v1/model/delete?name=m", "admin", None);
    assert_eq!((answer.status, answer.body), (200, json!({"status": "deleted", "name": "m"})));
    assert!(!rig.blob(&sha256).exists());
    for target in ["/v1/model/delete?name=m", "/v1/model/m"] {
        assert_eq!(rig.call("DELETE", target, "admin", None).status, 404);
    }
    assert_eq!(rig.call("DELETE", "/v1/model/delete", "admin", None).status, 400);
}

/// Threat 10: a hand edit fails closed, and says so without a token.
#[test]
fn t10_health_is_degraded_while_the_manifest_on_disk_cannot_be_served() {
    let rig = Rig::new();
    rig.promoted("m", "m.gguf");
    let manifest = rig.registry.root().join("manifest.yaml");
    let good = fs::read(&manifest).unwrap();
    let mut edited = good.clone();
    edited.extend_from_slice(b"# edited\n");
    fs::write(&manifest, &edited).unwrap();
    wait_until("the edit is noticed", || rig.call("GET", "/health", "", None).status == 503);
    let health = rig.call("GET", "/health", "", None);
    assert_eq!(health.body["status"], "degraded");
    assert!(
        !health.body.to_string().contains(rig.dir().to_str().unwrap()),
        "no paths without a token: {}",
        health.body
    );
    let models = rig.call("GET", "/v1/models", "read", None);
    assert_eq!((models.status, &models.body["kind"]), (503, &json!("manifest")), "never an empty registry");
    rig.stage(OK_MIN, "n.gguf");
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&promote_body("n", "n.gguf"))).status, 503);
}
