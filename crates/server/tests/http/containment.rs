//! Quarantine, as incident responders ask for it.

use crate::rig::{OK_MIN, Rig, TINY, promote_body, sha256_of};
use serde_json::{Value, json};

fn quarantine(rig: &Rig, selector: Value) -> crate::rig::Answer {
    let mut body = json!({"action": "quarantine", "incident_id": "INC-7", "reason": "runtime anomaly"});
    for (key, value) in selector.as_object().unwrap() {
        body[key] = value.clone();
    }
    rig.call("POST", "/api/v1/quarantine", "containment", Some(&body))
}

fn status(rig: &Rig, name: &str) -> Value {
    rig.call("GET", &format!("/v1/model/{name}"), "read", None).body["status"].clone()
}

#[test]
fn a_model_is_quarantined_by_name_and_its_bytes_cannot_come_back() {
    let mut rig = Rig::new();
    rig.announce_mount();
    rig.promoted("m", "m.gguf");
    let answer = quarantine(&rig, json!({"model_name": "m"}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["status"], "quarantined");
    assert_eq!((&answer.body["incident_id"], &answer.body["model_name"]), (&json!("INC-7"), &json!("m")));
    assert_eq!(status(&rig, "m"), "quarantined");
    let path = rig.call("GET", "/v1/model/path?name=m", "read", None);
    assert_eq!((path.status, &path.body["kind"]), (409, &json!("quarantined")));
    rig.stage(OK_MIN, "other.gguf");
    let again = rig.call("POST", "/v1/promote", "promote", Some(&promote_body("other-name", "other.gguf")));
    assert_eq!((again.status, &again.body["kind"]), (409, &json!("conflict")), "{}", again.body);
    let log = rig.audit_events();
    assert!(
        log.iter().any(|(event, name, why)| event == "quarantine" && name == "m" && why.contains("runtime anomaly"))
    );
    assert_eq!(quarantine(&rig, json!({"model_name": "m"})).status, 200, "again is no error");
}

#[test]
fn what_was_deleted_under_an_incident_is_gone_from_every_answer_and_stays_blocked() {
    let rig = Rig::new();
    rig.promoted("m", "m.gguf");
    assert_eq!(quarantine(&rig, json!({"model_name": "m"})).status, 200);
    let deleted = rig.call("DELETE", "/v1/model/m", "admin", None);
    assert_eq!((deleted.status, &deleted.body), (200, &json!({"status": "deleted", "name": "m"})));
    assert_eq!(rig.call("GET", "/v1/models", "read", None).body, json!([]));
    assert_eq!(rig.call("GET", "/v1/model/m", "read", None).status, 404);
    assert_eq!(rig.call("GET", "/health", "", None).body["model_count"], json!(0));
    assert_eq!(rig.call("DELETE", "/v1/model/m", "admin", None).status, 404, "there is nothing left to delete");
    assert_eq!(quarantine(&rig, json!({"model_name": "m"})).status, 404);
    for (route, name) in [("/v1/promote", "m"), ("/v1/model/promote", "other")] {
        rig.stage(OK_MIN, "again.gguf");
        let again = rig.call("POST", route, "promote", Some(&promote_body(name, "again.gguf")));
        assert_eq!((again.status, &again.body["kind"]), (409, &json!("conflict")), "{}", again.body);
        for word in ["the incident INC-7", "as m, which was deleted", "securereg release m --deleted"] {
            assert!(again.error().contains(word), "{}", again.body);
        }
    }
    let actor = securereg::Actor::new("test", "tester");
    assert_eq!(rig.registry.release_deleted(&"m".parse().unwrap(), "closed", &actor).unwrap().len(), 1);
    rig.promoted("m", "again.gguf");
}

#[test]
fn a_model_is_quarantined_by_its_path_in_the_mount() {
    let mut rig = Rig::new();
    rig.announce_mount();
    rig.promoted("m", "m.gguf");
    rig.promoted("org/t:v1", "t.gguf");
    rig.promoted("org/t:v2", "t.gguf");
    let mount = rig.mount.canonicalize().unwrap();
    assert_eq!(
        quarantine(&rig, json!({"model_path": mount.join("t.gguf")})).status,
        404,
        "tagged models lie in folders"
    );
    let both = quarantine(&rig, json!({"model_path": mount.join("org/t")}));
    assert_eq!((both.status, &both.body["matches"]), (409, &json!(["org/t:v1", "org/t:v2"])), "{}", both.body);
    let shared = format!(".by-digest/sha256-{}", sha256_of(OK_MIN));
    let three = quarantine(&rig, json!({"model_path": mount.join(&shared)}));
    assert_eq!((three.status, three.body["matches"].as_array().unwrap().len()), (409, 3), "a blob that three share");
    for name in ["m", "org/t:v1", "org/t:v2"] {
        assert_eq!(status(&rig, name), "promoted", "an ambiguous path quarantines none");
    }
    let answer = quarantine(&rig, json!({"model_path": mount.join(&shared), "model_name": "org/t:v2"}));
    assert_eq!((answer.status, &answer.body["model_name"]), (200, &json!("org/t:v2")), "{}", answer.body);
    assert_eq!(quarantine(&rig, json!({"model_path": mount.join("org/t/v1/t.gguf")})).body["model_name"], "org/t:v1");
    assert_eq!(quarantine(&rig, json!({"model_path": "m.gguf"})).body["model_name"], "m");
}

#[test]
fn what_fits_no_model_is_404_and_what_is_malformed_400() {
    let mut rig = Rig::new();
    rig.announce_mount();
    rig.promoted("m", "m.gguf");
    rig.stage(TINY, "n.gguf");
    let mut n = promote_body("n", "n.gguf");
    n["sha256"] = json!(sha256_of(TINY));
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&n)).status, 200);
    let mount = rig.mount.canonicalize().unwrap();
    for none in [
        json!({"model_name": "none"}),
        json!({"model_path": "/etc/passwd"}),
        json!({"model_path": mount.join("../mount/m.gguf")}),
        json!({"model_path": mount}),
        json!({"model_path": mount.join("m.gguf/../n.gguf")}),
        json!({"model_path": "sub/../m.gguf"}),
        json!({"model_path": rig.blob(&sha256_of(OK_MIN))}),
        json!({"model_path": mount.join("m.gguf"), "model_name": "n"}),
    ] {
        assert_eq!(quarantine(&rig, none.clone()).status, 404, "{none}");
    }
    for bad in [
        json!({}),
        json!({"model_name": ""}),
        json!({"model_name": "../m"}),
        json!({"model_name": 1}),
        json!({"model_name": "m", "action": "delete"}),
        json!({"model_name": "m", "action": null}),
        json!({"model_name": "m", "incident_id": ""}),
        json!({"model_name": "m", "incident_id": 7}),
        json!({"model_name": "m", "reason": "line\nbreak"}),
    ] {
        assert_eq!(quarantine(&rig, bad.clone()).status, 400, "{bad}");
    }
    assert_eq!((status(&rig, "m"), status(&rig, "n")), (json!("promoted"), json!("promoted")));
}
