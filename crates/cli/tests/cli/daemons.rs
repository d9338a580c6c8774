//! `up`, `mount` and the demo through the real binary and a real mount.

use crate::support::{Daemon, Place, can_mount, ended, gguf, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mount table");
    mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

#[test]
fn mount_shows_promoted_models_until_a_signal_and_refuses_quarantined_ones() {
    if !can_mount("mount_shows_promoted_models_until_a_signal_and_refuses_quarantined_ones") {
        return;
    }
    let place = Place::new();
    place.promoted("m");
    let dir = place.path("mnt");
    let daemon = place.daemon(&["mount", dir.to_str().expect("text"), "--json"]);
    let ready = daemon.json();
    assert_eq!((&ready["mount"], &ready["listen"]), (&json!(dir), &json!(null)));
    assert_eq!(fs::read(dir.join("m.gguf")).expect("it reads"), gguf("m"));
    let path = place.run(&["path", "m", "--json"]).json();
    assert_eq!(path, json!({"path": dir.join("m.gguf")}));
    assert_eq!(place.run(&["status", "--json"]).json()["mounts"][0]["mountpoint"], json!(dir));

    // Another process promotes and quarantines; the mount follows.
    place.promoted("n");
    assert!(until(5, || fs::read(dir.join("n.gguf")).is_ok_and(|bytes| bytes == gguf("n"))));
    place.run(&["quarantine", "m", "--reason", "test"]).ends(0);
    assert!(until(5, || fs::File::open(dir.join("m.gguf")).is_err()), "a quarantined model is refused");

    daemon.stop(Signal::SIGINT).ends(0);
    assert!(!is_mounted(&dir));
    place.run(&["path", "n"]).ends(4);
}

#[test]
fn up_runs_everything_and_says_where_it_is() {
    if !can_mount("up_runs_everything_and_says_where_it_is") {
        return;
    }
    let place = Place::new();
    let dir = place.path("mnt");
    let mount = dir.to_str().expect("text");
    let daemon = place.daemon(&["up", "--mount", mount, "--listen", "127.0.0.1:0", "--allow", "owner"]);
    for word in [place.root().to_str().expect("text"), mount, "http://127.0.0.1:", "tokens", "promote model.gguf"] {
        assert!(daemon.said.contains(word), "{word}: {}", daemon.said);
    }
    assert!(is_mounted(&dir));
    place.promoted("m");
    assert!(until(5, || fs::read(dir.join("m.gguf")).is_ok_and(|bytes| bytes == gguf("m"))));
    daemon.stop(Signal::SIGTERM).ends(0);
    assert!(!is_mounted(&dir));
}

#[test]
fn up_without_a_mount_is_asked_for_by_name() {
    let place = Place::new();
    let daemon = place.daemon(&["up", "--no-mount", "--listen", "127.0.0.1:0", "--json"]);
    let ready = daemon.json();
    assert_eq!((&ready["mount"], &ready["root"]), (&json!(null), &json!(place.root())));
    assert!(ready["tokens"]["read"].as_str().is_some_and(|p| Path::new(p).is_file()), "{ready}");
    daemon.stop(Signal::SIGTERM).ends(0);
    place.run(&["up", "--no-mount", "--mount", "x"]).ends(64);
}

#[test]
fn up_fails_when_the_mount_does_and_the_demo_goes_on_saying_so() {
    let place = Place::new();
    let under_a_file = format!("{}/mnt", place.file("file", b"x"));
    let failed = place.run(&["up", "--mount", &under_a_file, "--listen", "127.0.0.1:0"]);
    assert!(failed.code != 0 && failed.stderr.contains(&under_a_file), "{failed:?}");

    let mut demo = place.bare();
    demo.args(["up", "--demo", "--listen", "127.0.0.1:0", "--mount", &under_a_file]);
    let daemon = Daemon::start(demo);
    assert!(daemon.said.contains("mount:    none"), "{}", daemon.said);
    let root = line(&daemon.said, "registry:");
    let ended = daemon.stop(Signal::SIGTERM).ends(0);
    assert!(ended.stderr.contains("goes on without"), "{ended:?}");
    assert!(!Path::new(&root).exists(), "the demo removes its folder");
}

#[test]
fn an_unknown_group_is_refused_by_name() {
    let place = Place::new();
    for allow in ["group:no-such-group-here", "nobody-knows", "group:"] {
        let ended = place.run(&["mount", "mnt", "--allow", allow]).ends(64);
        assert!(ended.stderr.starts_with("securereg: "), "{ended:?}");
    }
}

/// The rest of the line of `text` that begins with `key`.
fn line(text: &str, key: &str) -> String {
    let found = text.lines().find_map(|line| line.strip_prefix(key));
    found.unwrap_or_else(|| panic!("no line {key} in {text}")).trim().to_owned()
}

/// The command lines that `text` says to try, in order.
fn tries(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix("$ ")).map(str::to_owned).collect()
}

fn shell(script: &str) -> crate::support::Ended {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    ended(command)
}

#[test]
fn the_demo_shows_a_model_and_what_it_says_to_try_is_true() {
    if !can_mount("the_demo_shows_a_model_and_what_it_says_to_try_is_true") {
        return;
    }
    let place = Place::new();
    let mut demo = place.bare();
    // A root that is set for daily use is not the demo's.
    demo.env("REGISTRY_DIR", place.root()).args(["up", "--demo", "--listen", "127.0.0.1:0"]);
    let daemon = Daemon::start(demo);
    let (root, mount) = (line(&daemon.said, "registry:"), line(&daemon.said, "mount:"));
    let (sample, sha256) = (line(&daemon.said, "sample:"), line(&daemon.said, "sha256:"));
    assert_ne!(root, place.root().to_str().expect("text"));
    assert!(is_mounted(Path::new(&mount)));

    let tries = tries(&daemon.said);
    let find = |is: fn(&str) -> bool| tries.iter().find(|t| is(t)).unwrap_or_else(|| panic!("not among {tries:?}"));
    let sum = shell(find(|t| t.starts_with("sha256sum "))).ends(0).stdout;
    assert!(sum.starts_with(&sha256), "{sum}");
    let shown = PathBuf::from(sum.split_whitespace().nth(1).expect("a path"));
    assert_eq!(fs::read(&shown).expect("it reads"), fs::read(&sample).expect("the sample"));
    shell(find(|t| t.contains("conv=notrunc"))).ends(0);
    let refused = shell(find(|t| t.starts_with("cat ")));
    assert!(refused.code != 0 && !refused.stderr.is_empty(), "{refused:?}");
    let list = shell(find(|t| t.ends_with(" list"))).ends(0).stdout;
    assert!(list.contains("quarantined"), "{list}");

    daemon.stop(Signal::SIGINT).ends(0);
    assert!(!is_mounted(Path::new(&mount)));
    assert!(!Path::new(&root).exists() && !Path::new(&sample).exists(), "the demo removes its folder");
    assert!(!place.root().exists(), "and touches no other");
}

#[test]
fn a_demo_takes_a_free_port_when_its_own_is_taken() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let mut demo = place.bare();
    demo.args(["up", "--demo", "--no-mount", "--listen", &address]);
    let daemon = Daemon::start(demo);
    let listen = line(&daemon.said, "http:");
    assert!(listen.starts_with("http://127.0.0.1:") && !listen.contains(&address), "{listen}");
    let ended = daemon.stop(Signal::SIGTERM).ends(0);
    assert!(ended.stderr.contains(&address), "it says so: {ended:?}");
}
