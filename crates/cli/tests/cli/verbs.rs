//! Each verb through the real binary: what it does, what it prints, what it ends with.

use crate::support::{Daemon, Place, binary, ended, files_below, gguf, models, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::{Command, Stdio};

#[test]
fn promote_copies_and_says_what_it_did() {
    let place = Place::new();
    let file = place.file("m.gguf", &gguf("m"));
    let value = place.run(&["promote", &file, "--name", "org/m", "--source", "a test", "--json"]).json();
    assert_eq!((&value["outcome"], &value["skipped"]), (&json!("promoted"), &json!([])));
    let artifact = &value["artifact"];
    assert_eq!(
        (&artifact["name"], &artifact["status"], &artifact["format"]),
        (&json!("org/m"), &json!("promoted"), &json!("gguf"))
    );
    let sha256 = artifact["sha256"].as_str().expect("a digest");
    assert_eq!(std::fs::read(place.blob(sha256)).expect("the blob"), gguf("m"));

    let again = place.run(&["promote", &file, "--name", "org/m", "--source", "a test"]).ends(0);
    assert!(again.stdout.starts_with("already there: org/m") && again.stdout.contains(sha256), "{again:?}");
    assert_eq!(again.stderr, "", "no bar and no remark without a terminal");
    assert!(std::fs::exists(&file).expect("stat"), "without --move the source stays");
}

/// Standard error may lie on the very disk that is full.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    // A tree that cannot be removed is left behind, and the log says so.
    let tree = place.root().join("trees").join(sha256);
    std::fs::remove_file(&tree).expect("removed");
    std::fs::create_dir(&tree).expect("made");
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").expect("opens"));
    let mut command = place.command(&["delete", "m"]);
    command.stderr(full());
    assert_eq!(ended(command).ends(0).stdout, "m deleted\n");
    let told = place.run(&["list", "--json"]).json();
    assert_eq!(told, json!([]));
}

#[test]
fn promote_checks_the_claims_it_is_given() {
    let place = Place::new();
    let file = place.file("m.gguf", &gguf("m"));
    let wrong = "0".repeat(64);
    let ended = place.run(&["promote", &file, "--name", "m", "--sha256", &wrong, "--json"]).ends(3);
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
    assert_eq!((&error["kind"], &error["expected"]), (&json!("digest_mismatch"), &json!(wrong)));
    assert_eq!(ended.stdout, "");
    place.run(&["promote", &file, "--name", "m", "--format", "safetensors"]).ends(2);
    place.run(&["promote", &file, "--name", "m", "--format", "pickle"]).ends(2);
    place.run(&["promote", &file, "--name", "m", "--sha256", "xyz"]).ends(64);
    let junk = place.file("junk.gguf", b"seventeen bytes!!");
    let refused = place.run(&["promote", &junk, "--name", "junk"]).ends(2);
    assert!(refused.stderr.starts_with("securereg: "), "{refused:?}");
    assert_eq!(place.run(&["list", "--json"]).json(), json!([]), "nothing was admitted");
}

#[test]
fn promote_takes_a_file_name_and_moves_on_request() {
    let place = Place::new();
    let file = place.file("m.gguf", &gguf("m"));
    let value = place.run(&["promote", &file, "--name", "m", "--filename", "shown.gguf", "--move", "--json"]).json();
    assert_eq!(
        value["artifact"]["files"][0]["path"].as_str().or(value["artifact"]["filename"].as_str()),
        Some("shown.gguf")
    );
    if value["method"] == "adopted" {
        assert!(!std::fs::exists(&file).expect("stat"), "an adopted source is gone from its place");
    }
    place.run(&["promote", &file, "--name", "n", "--filename", "../out.gguf"]).ends(64);
}

#[test]
fn list_shows_a_table_with_units_and_json_like_the_api() {
    let place = Place::new();
    place.promoted("b");
    place.promoted("a:v1");
    let table = place.run(&["list"]).ends(0).stdout;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATUS", "SIZE", "FILES", "FORMAT", "SHA256", "PROMOTED"]);
    assert_eq!((lines[1][..2].to_vec(), lines[2][..2].to_vec()), (vec!["a:v1", "promoted"], vec!["b", "promoted"]));
    assert_eq!(lines[1][3], "B", "sizes have units: {table}");
    assert!(!table.contains('\u{1b}'), "no colour without a terminal: {table:?}");
    let json = place.run(&["list", "--json"]).json();
    let names: Vec<_> = json.as_array().expect("an array").iter().map(|m| m["name"].clone()).collect();
    assert_eq!(names, ["a:v1", "b"]);
    for key in ["path", "sha256", "format", "source", "status", "promoted_at", "size_bytes"] {
        assert!(!json[0][key].is_null(), "{key}: {json}");
    }
}

#[test]
fn show_gives_one_model_and_names_the_remedy_when_there_is_none() {
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    let sheet = place.run(&["show", "m"]).ends(0).stdout;
    assert!(
        sheet.contains(&sha256) && sheet.contains("m.gguf") && sheet.contains("status:            promoted"),
        "{sheet}"
    );
    assert_eq!(place.run(&["show", "m", "--json"]).json()["sha256"], json!(sha256));
    let none = place.run(&["show", "other"]).ends(4);
    assert!(none.stderr.contains("other") && none.stderr.contains("securereg list"), "{none:?}");
}

#[test]
fn path_is_absent_without_a_mount_and_refused_in_quarantine() {
    let place = Place::new();
    place.promoted("m");
    place.run(&["path", "m"]).ends(4);
    place.run(&["quarantine", "m", "--reason", "test"]).ends(0);
    let ended = place.run(&["path", "m"]).ends(6);
    assert_eq!(ended.stdout, "", "no path of a quarantined model is told");
}

#[test]
fn verify_tells_good_from_bad_and_quarantines() {
    let place = Place::new();
    let good = place.promoted("good");
    let bad = place.promoted("bad")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    let report = place.run(&["verify", "good", "--json"]).json();
    assert_eq!((&report["status"], &report["sha256"]), (&json!("verified"), &good["artifact"]["sha256"]));
    assert!(place.run(&["verify", "--all"]).ends(0).stdout.contains("verified"));

    place.tamper(&bad);
    let ended = place.run(&["verify", "bad"]).ends(3);
    assert!(ended.stdout.starts_with("bad failed") && ended.stderr.starts_with("securereg: "), "{ended:?}");
    let all = place.run(&["verify", "--all", "--json"]).ends(3);
    let all: serde_json::Value = serde_json::from_str(&all.stdout).expect("JSON");
    assert_eq!((&all["status"], &all["checked"]), (&json!("failed"), &json!(2)));
    assert_eq!((&all["models"][0]["status"], &all["models"][1]["status"]), (&json!("failed"), &json!("verified")));
    assert_eq!(place.run(&["show", "bad", "--json"]).json()["status"], "quarantined");
    let status = place.run(&["status", "--json"]).json();
    assert_eq!((&status["promoted"], &status["quarantined"]), (&json!(1), &json!(1)));
    assert_eq!(status["last_verify_all"]["checked"], 2);
}

#[test]
fn quarantine_release_and_delete_do_what_they_say() {
    let place = Place::new();
    place.promoted("m");
    let value = place.run(&["quarantine", "m", "--reason", "a key leaked", "--incident", "INC-1", "--json"]).json();
    assert_eq!(value["status"], "quarantined");
    let sheet = place.run(&["show", "m"]).ends(0).stdout;
    assert!(sheet.contains("a key leaked") && sheet.contains("INC-1") && sheet.contains("(incident)"), "{sheet}");
    // What an incident stopped, a good verification does not bring back.
    place.run(&["verify", "m"]).ends(0);
    assert_eq!(place.run(&["show", "m", "--json"]).json()["status"], "quarantined");
    place.run(&["quarantine", "m"]).ends(64);
    place.run(&["release", "m"]).ends(64);
    let released = place.run(&["release", "m", "--reason", "closed", "--json"]).json();
    assert_eq!(released["status"], "verified");
    assert_eq!(place.run(&["show", "m", "--json"]).json()["status"], "promoted");
    assert_eq!(place.run(&["delete", "m", "--json"]).json(), json!({"status": "deleted", "name": "m"}));
    place.run(&["delete", "m"]).ends(4);
    assert_eq!(files_below(&place.root().join("blobs")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_was_deleted_under_an_incident_stays_blocked_until_a_release_that_says_so() {
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    place.run(&["quarantine", "m", "--reason", "a \u{1b}[31mkey", "--incident", "INC-1"]).ends(0);
    let deleted = place.run(&["delete", "m"]).ends(0);
    assert!(deleted.stdout == "m deleted\n" && deleted.stderr.contains("until `securereg release m`"), "{deleted:?}");
    assert_eq!(place.run(&["list", "--json"]).json(), json!([]), "the shape that API callers know");
    let status = place.run(&["status", "--json"]).json();
    assert_eq!((&status["models"], &status["quarantined"], &status["blocked"]), (&json!(0), &json!(0), &json!(1)));
    assert!(place.run(&["status"]).ends(0).stdout.contains("blocked:           1 deleted under an incident"));
    let list = place.run(&["list", "--blocked", "--json"]).json();
    assert_eq!((&list[0]["name"], &list[0]["quarantine"]["incident_id"]), (&json!("m"), &json!("INC-1")));
    assert_eq!(list[0]["weights"], json!([{"sha256": sha256}]));
    let table = place.run(&["list", "--blocked"]).ends(0).stdout;
    assert!(table.contains("INC-1") && table.contains("[31mkey") && !table.contains('\u{1b}'), "{table:?}");
    assert!(place.run(&["show", "m"]).ends(4).stderr.contains("securereg list --blocked"));

    let file = place.file("again.gguf", &gguf("m"));
    let refused = place.run(&["promote", &file, "--name", "other"]).ends(5);
    for word in ["INC-1", "as m, which was deleted", "securereg release m --deleted"] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    // The name may stand for other bytes: a release of those lifts nothing else, and says so.
    let other = place.file("other.gguf", &gguf("other"));
    place.run(&["promote", &other, "--name", "m"]).ends(0);
    let released = place.run(&["release", "m", "--reason", "closed"]).ends(0);
    assert!(released.stderr.contains("securereg release m --deleted"), "{released:?}");
    let released = place.run(&["release", "m", "--reason", "closed", "--json"]).json();
    assert_eq!((&released["status"], &released["blocked"]), (&json!("verified"), &json!(1)));
    place.run(&["promote", &file, "--name", "other"]).ends(5);
    let lifted = place.run(&["release", "m", "--reason", "closed", "--deleted", "--json"]).json();
    assert_eq!((&lifted["status"], &lifted["name"], &lifted["lifted"]), (&json!("lifted"), &json!("m"), &list));
    place.run(&["release", "m", "--reason", "closed", "--deleted"]).ends(4);
    place.run(&["promote", &file, "--name", "other"]).ends(0);

    // Without a model of the name, the release needs no option.
    place.run(&["quarantine", "other", "--reason", "r"]).ends(0);
    place.run(&["delete", "other"]).ends(0);
    let lifted = place.run(&["release", "other", "--reason", "closed"]).ends(0);
    assert!(lifted.stdout.contains("under an incident: its bytes may be promoted again"), "{lifted:?}");
    assert_eq!(place.run(&["list", "--blocked", "--json"]).json(), json!([]));
    assert!(!place.run(&["status"]).ends(0).stdout.contains("blocked"), "said only when there is something to say");
}

#[test]
fn audit_has_a_line_for_each_decision_and_notices_an_altered_one() {
    let place = Place::new();
    place.promoted("m");
    place.run(&["quarantine", "m", "--reason", "why \u{1b}[31mred"]).ends(0);
    let lines = place.run(&["audit", "--json"]).json();
    let lines = lines.as_array().expect("an array");
    assert!(
        lines.iter().any(|l| l["event"].as_str().is_some_and(|e| e.contains("promote")) && l["name"] == "m"),
        "{lines:?}"
    );
    let last = lines.last().expect("a line");
    assert!(last["via"] == "cli" && last["who"].as_str().is_some_and(|who| who.starts_with("uid ")), "{last}");
    let text = place.run(&["audit"]).ends(0).stdout;
    assert!(text.contains("[31mred") && !text.contains('\u{1b}'), "{text:?}");
    assert_eq!(place.run(&["audit", "--last", "1", "--json"]).json().as_array().map(Vec::len), Some(1));
    let summary = place.run(&["audit", "--verify", "--json"]).json();
    assert_eq!(summary["lines"].as_u64(), Some(lines.len() as u64));

    let log = place.root().join("audit.jsonl");
    let text = std::fs::read_to_string(&log).expect("the log");
    std::fs::write(&log, text.replacen("31mred", "32mred", 1)).expect("the log is altered");
    let ended = place.run(&["audit", "--verify"]).ends(7);
    assert!(ended.stderr.starts_with("securereg: "), "{ended:?}");
}

#[test]
fn status_of_a_sound_registry_is_ok_and_of_an_edited_one_fails_closed() {
    let place = Place::new();
    place.promoted("m");
    let status = place.run(&["status", "--json"]).json();
    assert_eq!((&status["status"], &status["models"], &status["mounts"]), (&json!("ok"), &json!(1), &json!([])));
    assert!(place.run(&["status"]).ends(0).stdout.contains("models:            1, "));
    let manifest = place.root().join("manifest.yaml");
    let text = std::fs::read_to_string(&manifest).expect("the manifest");
    std::fs::write(&manifest, text.replace("\"m\"", "\"n\"")).expect("the manifest is edited");
    for verb in [&["status"][..], &["list"], &["show", "m"], &["verify", "--all"]] {
        place.run(verb).ends(7);
    }
}

#[test]
fn the_root_is_taken_before_and_after_the_verb_and_from_the_environment() {
    let place = Place::new();
    place.promoted("m");
    let root = place.root();
    let mut before = place.bare();
    before.arg("--root").arg(&root).args(["list", "--json"]);
    let mut after = place.bare();
    after.args(["list", "--json", "--root"]).arg(&root);
    let mut environment = place.bare();
    environment.env("REGISTRY_DIR", &root).args(["--json", "list"]);
    let mut option_wins = place.bare();
    option_wins.env("REGISTRY_DIR", place.path("none")).args(["list", "--json", "--root"]).arg(&root);
    for command in [before, after, environment, option_wins] {
        assert_eq!(ended(command).json()[0]["name"], "m");
    }
    let mut none = place.bare();
    none.args(["list", "--root"]).arg(place.path("none"));
    let none = ended(none).ends(4);
    assert!(none.stderr.contains("none"), "it names the root: {none:?}");
    assert!(!place.path("none").exists(), "looking makes no registry");
}

/// Threat 1, at this door.
#[test]
fn t01_hostile_names_are_refused_and_never_reach_the_terminal_raw() {
    let place = Place::new();
    place.promoted("m");
    let file = place.file("x.gguf", &gguf("x"));
    let before = files_below(place.dir.path());
    for name in ["../x", "/x", ".", "", "a\nb", "\u{1b}[2J", "a\u{202e}b", "a//b", "-x", "verify", &"a".repeat(256)] {
        for args in [
            vec!["show", "--", name],
            vec!["path", "--", name],
            vec!["verify", "--", name],
            vec!["delete", "--", name],
            vec!["quarantine", "--reason", "r", "--", name],
            vec!["release", "--reason", "r", "--", name],
            vec!["release", "--deleted", "--reason", "r", "--", name],
        ] {
            let ended = place.run(&args).ends(64);
            assert!(ended.stderr.starts_with("securereg: ") && ended.stderr.lines().count() == 1, "{ended:?}");
            assert!(!ended.stderr.contains(['\u{1b}', '\u{202e}']), "{ended:?}");
        }
        place.run(&["promote", &file, &format!("--name={name}")]).ends(64);
        // Reserved is a word for models only: files have no routes.
        if name != "verify" {
            place.run(&["promote", &file, "--name", "x", &format!("--filename={name}")]).ends(64);
        }
    }
    let outside = |files: Vec<std::path::PathBuf>| -> Vec<_> {
        files.into_iter().filter(|f| !f.starts_with(place.root())).collect()
    };
    assert_eq!(outside(files_below(place.dir.path())), outside(before), "nothing was written outside the root");
}

#[test]
fn a_wrong_command_line_ends_with_64_and_quotes_nothing_raw() {
    let place = Place::new();
    for args in [
        &["\u{1b}[31mx"][..],
        &["list", "--no\u{9b}such"],
        &["verify"],
        &["verify", "m", "--all"],
        &["list", "--log", "=["],
        &[],
    ] {
        let ended = place.run(args).ends(64);
        assert!(!ended.stderr.is_empty() && !ended.stderr.contains(['\u{1b}', '\u{9b}']), "{ended:?}");
    }
    let ended = place.run(&["verify", "--json"]).ends(64);
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
    assert_eq!(error["kind"], "invalid_input");
}

#[test]
fn help_documents_the_exit_codes_and_names_every_verb() {
    let place = Place::new();
    let help = place.run(&["--help"]).ends(0).stdout;
    for word in [
        "up",
        "mount",
        "serve",
        "promote",
        "list",
        "show",
        "path",
        "verify",
        "quarantine",
        "release",
        "delete",
        "audit",
        "status",
        "completions",
        "Exit codes:",
        " 64  ",
        "130  cancelled",
        "--root",
        "--json",
        "REGISTRY_DIR",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(place.run(&["--version"]).ends(0).stdout.starts_with("securereg 0."));
}

#[test]
fn completions_and_man_pages_are_generated_for_every_verb() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).ends(0).stdout;
        assert!(script.contains("quarantine") && script.len() > 1000, "{shell}");
    }
    let page = place.run(&["man"]).ends(0).stdout;
    assert!(page.contains(".TH securereg 1") && page.contains("Exit codes"), "{page}");
    place.run(&["man", "--out", "pages"]).ends(0);
    for page in ["securereg.1", "securereg-promote.1", "securereg-up.1", "securereg-verify.1"] {
        let text = std::fs::read_to_string(place.path("pages").join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.contains("\\-\\-root"), "{page} tells of the global options");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    place.promoted("m");
    for args in [&["list"][..], &["list", "--json"], &["audit"], &["completions", "bash"], &["--help"]] {
        let mut child = place.command(args).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    // A full disk is one.
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut command = place.command(&["list"]);
        command.stdout(full);
        let ended = ended(command).ends(1);
        assert!(ended.stderr.contains("cannot write to standard output"), "{ended:?}");
    }
}

#[test]
fn ctrl_c_during_a_promote_leaves_nothing() {
    let place = Place::new();
    place.promoted("m");
    let manifest = std::fs::read(place.root().join("manifest.yaml")).expect("the manifest");
    let stored = files_below(&place.root().join("blobs"));
    // Sparse, so that it costs no space, and long enough to hash for the signal to come in the middle.
    let len = (4 << 30) + models::GGUF_START as u64;
    let big = place.file("big.gguf", &models::gguf_start(len));
    let file = std::fs::OpenOptions::new().write(true).open(&big).expect("it is there");
    file.set_len(len).expect("it grows");

    let mut child = place.command(&["promote", &big, "--name", "big"]).spawn().expect("it starts");
    let tmp = place.root().join("tmp");
    let started = until(30, || {
        files_below(&tmp).iter().any(|f| f.metadata().is_ok_and(|m| m.len() > 0)) || ended_early(&mut child)
    });
    assert!(started, "the copy starts");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("the signal is sent");
    let code = crate::support::wait(&mut child);
    let output = child.wait_with_output().expect("it ended");
    assert_eq!(code, 130, "{output:?}");
    assert_eq!(files_below(&tmp), Vec::<std::path::PathBuf>::new(), "no partial copy");
    assert_eq!(files_below(&place.root().join("blobs")), stored);
    assert_eq!(std::fs::read(place.root().join("manifest.yaml")).expect("the manifest"), manifest);
    assert_eq!(place.run(&["list", "--json"]).json().as_array().map(Vec::len), Some(1));
    place.run(&["audit", "--verify"]).ends(0);
}

fn ended_early(child: &mut std::process::Child) -> bool {
    child.try_wait().expect("a child of ours").is_some()
}

#[test]
fn serve_answers_on_the_address_it_names_and_stops_at_a_signal() {
    let place = Place::new();
    place.promoted("m");
    let daemon = place.daemon(&["serve", "--listen", "127.0.0.1:0", "--json"]);
    let ready = daemon.json();
    assert_eq!((&ready["status"], &ready["mount"]), (&json!("ready"), &json!(null)));
    let address = ready["listen"].as_str().expect("an address").to_owned();
    assert!(get(&address, "/health").contains("\"model_count\":1"), "{}", get(&address, "/health"));

    let mut taken = place.command(&["serve", "--listen", &address]);
    taken.stdout(Stdio::piped());
    let taken = ended(taken).ends(1);
    assert!(taken.stderr.contains(&address), "it names the address: {taken:?}");

    let ended = daemon.stop(Signal::SIGTERM).ends(0);
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
}

#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    let place = Place::new();
    let mut command = Command::new("sh");
    let binary = binary().display().to_string();
    let script =
        format!("trap '' HUP; exec {binary} --root {} serve --listen 127.0.0.1:0 --json", place.root().display());
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let daemon = Daemon::start(command);
    daemon.signal(Signal::SIGHUP);
    let address = daemon.json()["listen"].as_str().expect("an address").to_owned();
    assert!(get(&address, "/health").contains("200"), "it goes on");
    daemon.stop(Signal::SIGTERM).ends(0);
}

/// One HTTP exchange, as text.
fn get(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
