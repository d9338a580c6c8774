//! `fsck`, `gc` and `repair` through the real binary.

use crate::support::{Place, gguf};
use serde_json::json;
use std::fs;

#[test]
fn fsck_says_what_is_wrong_and_what_helps_and_ends_with_2() {
    let place = Place::new();
    place.run(&["fsck"]).ends(4);
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    let clean = place.run(&["fsck", "--deep", "--json"]).json();
    assert_eq!((&clean["status"], &clean["problems"], &clean["models"]), (&json!("ok"), &json!([]), &json!(1)));
    assert_eq!((&clean["blobs"]["files"], &clean["hashed"]["files"]), (&json!(1), &json!(1)));
    assert!(place.run(&["fsck"]).ends(0).stdout.contains("nothing is wrong"));

    fs::remove_file(place.blob(&sha256)).expect("removed");
    fs::write(place.root().join("trees").join("0".repeat(64)), "x").expect("written");
    let ended = place.run(&["fsck", "--json"]).ends(2);
    let value: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&value["status"], &value["damage"], &value["untidy"]), (&json!("problems"), &json!(1), &json!(1)));
    let problem = &value["problems"][0];
    assert_eq!((&problem["kind"], &problem["urgency"]), (&json!("blob.missing"), &json!("damage")));
    assert_eq!((&problem["path"], &problem["model"]), (&json!(format!("blobs/sha256/{sha256}")), &json!("m")));
    let told = place.run(&["fsck"]).ends(2).stdout;
    assert!(
        told.contains("damage blob.missing") && told.contains("remedy: `securereg repair m --from PATH`"),
        "{told}"
    );
    assert!(told.contains("untidy tree.orphan"), "{told}");
}

#[test]
fn gc_removes_what_nothing_refers_to_and_says_what_it_was() {
    let place = Place::new();
    place.promoted("m");
    fs::write(place.root().join("trees").join("0".repeat(64)), "x").expect("written");
    let parts = place.root().join("quarantine/.unpacked-left");
    fs::create_dir(&parts).expect("made");
    let dry = place.run(&["gc", "--dry-run", "--json"]).json();
    assert_eq!((&dry["dry_run"], &dry["trees"]), (&json!(true), &json!({"files": 1, "bytes": 1})));
    assert!(place.run(&["gc", "--dry-run"]).ends(0).stdout.contains("would remove 1 hash tree (1 B)"));
    let swept = place.run(&["gc", "--unreferenced-after", "24h", "--json"]).json();
    assert_eq!((&swept["dry_run"], &swept["trees"]["files"], &swept["pulls"]), (&json!(false), &json!(1), &json!(1)));
    assert!(!parts.exists());
    assert_eq!(place.run(&["gc"]).ends(0).stdout, "nothing to remove\n");
    place.run(&["gc", "--unreferenced-after", "59m"]).ends(64);
    place.run(&["gc", "--unreferenced-after", "soon"]).ends(64);
    place.run(&["fsck"]).ends(0);
    let events = place.run(&["audit", "--json"]).json();
    assert!(events.as_array().expect("lines").iter().any(|line| line["event"] == "gc"), "{events}");
}

#[test]
fn repair_heals_from_another_copy_and_ends_with_3_when_it_cannot() {
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    place.tamper(&sha256);
    place.run(&["verify", "m"]).ends(3);
    let wrong = place.file("wrong.gguf", &gguf("n"));
    let refused = place.run(&["repair", "m", "--from", &wrong, "--json"]).ends(3);
    let value: serde_json::Value = serde_json::from_str(&refused.stdout).expect("JSON");
    assert_eq!((&value["status"], &value["groups_rewritten"]), (&json!("refused"), &json!(0)));
    assert_eq!((&value["gaps"][0]["path"], &value["gaps"][0]["offset"]), (&json!("m.gguf"), &json!(0)));
    let refused = place.run(&["repair", "m"]).ends(3);
    assert!(refused.stderr.contains("--from"), "{refused:?}");
    place.run(&["path", "m"]).ends(6);

    let copy = place.file("backup.gguf", &gguf("m"));
    let healed = place.run(&["repair", "m", "--from", &wrong, "--from", &copy]).ends(0).stdout;
    assert!(healed.contains("1 of 1 bad groups written anew") && healed.contains("it is served again"), "{healed}");
    assert_eq!(fs::read(place.blob(&sha256)).expect("the blob"), gguf("m"));
    let value = place.run(&["repair", "m", "--from", &copy, "--json"]).json();
    assert_eq!((&value["status"], &value["verify"]["status"]), (&json!("whole"), &json!("verified")));
    place.run(&["repair", "none", "--from", &copy]).ends(4);
    place.run(&["repair", "m", "--from", "/dev/null"]).ends(64);
    place.run(&["fsck", "--deep"]).ends(0);
}

#[test]
fn a_model_under_an_incident_stays_so_after_a_repair() {
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    place.run(&["quarantine", "m", "--reason", "why"]).ends(0);
    place.tamper(&sha256);
    let copy = place.file("backup.gguf", &gguf("m"));
    place.run(&["repair", "m", "--from", &copy]).ends(0);
    place.run(&["path", "m"]).ends(6);
    assert_eq!(place.run(&["show", "m", "--json"]).json()["status"], json!("quarantined"));
}
