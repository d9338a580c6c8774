//! `recover`, `key`, and the monitor of a daemon.

use crate::support::{Place, until};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn recover_shows_what_it_would_do_and_does_it_when_told() {
    let place = Place::new();
    place.promoted("a");
    place.promoted("b");
    let said = place.run(&["recover"]).ends(0).stdout;
    assert!(said.contains("nothing to recover"), "{said}");
    let manifest = place.root().join("manifest.yaml");
    let text = fs::read_to_string(&manifest).expect("read");
    fs::write(&manifest, text.replace("size_bytes", "bytes")).expect("edited");
    place.run(&["list"]).ends(7);
    let ended = place.run(&["recover"]).ends(7);
    assert!(ended.stdout.contains("history/manifest-") && ended.stderr.contains("--yes"), "{ended:?}");
    let plan = place.run(&["recover", "--dry-run", "--json"]).ends(7);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("JSON");
    assert_eq!((&plan["applied"], &plan["generation"], &plan["models"]), (&false.into(), &3.into(), &2.into()));
    place.run(&["list"]).ends(7);
    let done = place.run(&["recover", "--yes", "--json"]).json();
    assert_eq!((&done["applied"], &done["from_generation"]), (&true.into(), &2.into()));
    assert_eq!(place.run(&["list", "--json"]).json().as_array().map(Vec::len), Some(2));
    place.run(&["audit", "--verify"]).ends(0);
    place.run(&["recover", "--yes", "--dry-run"]).ends(64);
}

#[test]
fn a_key_is_made_once_and_shown_and_what_is_not_signed_by_it_is_not_served() {
    let place = Place::new();
    place.promoted("a");
    let e = place.run(&["key", "show"]).ends(4).stderr;
    assert!(e.contains("key new"), "{e}");
    let made = place.run(&["key", "new", "--json"]).json();
    assert_eq!(place.run(&["key", "show", "--json"]).json(), made);
    assert!(place.run(&["key", "show"]).ends(0).stdout.starts_with("-----BEGIN PUBLIC KEY-----"));
    place.run(&["key", "new"]).ends(5);
    place.promoted("b");
    let log = place.run(&["audit", "--verify", "--json"]).json();
    assert_eq!(log["signed_by"], made["public_key"]);
    let manifest = place.root().join("manifest.yaml");
    let text = fs::read_to_string(&manifest).expect("read");
    let (unsigned, _) = text.split_once(" key=").expect("signed");
    fs::write(&manifest, format!("{unsigned}\n")).expect("stripped");
    let e = place.run(&["list"]).ends(7).stderr;
    assert!(e.contains("not signed") && e.contains("recover"), "{e}");
}

/// The eye of a daemon reaches every process.
#[test]
fn t12_a_daemon_takes_a_model_out_of_service_when_its_stored_file_is_written_to() {
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    place.promoted("other");
    let daemon = place.daemon(&["up", "--no-mount", "--listen", "127.0.0.1:0", "--verify-interval", "1h"]);
    let status = || place.run(&["status", "--json"]).json();
    assert!(until(30, || status()["monitor"]["alive"] == true), "{}", status());
    assert_eq!(status()["monitor"]["interval_seconds"], 3600);
    assert!(until(30, || status()["last_verify_all"]["checked"] == 2), "the first pass comes at once: {}", status());
    let shown = place.run(&["status"]).ends(0).stdout;
    assert!(shown.contains("every 3600 s, watching by "), "{shown}");
    place.tamper(&sha256);
    let of = |name: &str| place.run(&["show", name, "--json"]).json()["status"].clone();
    assert!(until(10, || of("m") == "quarantined"), "{}", of("m"));
    assert_eq!(of("other"), "promoted");
    daemon.stop(Signal::SIGTERM).ends(0);
    let status = status();
    assert_eq!(status["monitor"]["alive"], false);
    place.run(&["serve", "--verify-interval", "1s"]).ends(64);
    place.run(&["serve", "--verify-interval", "soon"]).ends(64);
}
