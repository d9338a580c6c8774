//! `--log-format`, and whose a line is.

use crate::support::{Daemon, Place, ended};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Asks a daemon, with these headers; the head of its answer.
fn ask(daemon: &Daemon, target: &str, headers: &str) -> String {
    let address = daemon.json()["listen"].as_str().expect("an address").to_owned();
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn each_line_is_an_object_that_says_for_which_request_it_is_on_every_thread() {
    let place = Place::new();
    let daemon = place.daemon(&["serve", "--listen", "127.0.0.1:0", "--json", "--log", "info", "--log-format", "json"]);
    ask(&daemon, "/v1/models?name=secret", "x-request-id: mine-1\r\n");
    std::fs::write(place.root().join("manifest.yaml"), "torn\u{1b}[2J\n").expect("written");
    // Said by a thread that may block.
    assert!(ask(&daemon, "/health", "x-request-id: mine-2\r\n").starts_with("HTTP/1.1 503"));
    let made = ask(&daemon, "/ready", "");
    let made = made.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").trim().to_owned();
    let ended = daemon.stop(Signal::SIGTERM).ends(0);
    let lines: Vec<Value> = ended
        .stderr
        .lines()
        // The one remark that is no log line is for a person, and with --json there is none.
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of = |id: &str| lines.iter().filter(|line| line["span"]["id"] == id).collect::<Vec<_>>();
    let refused = of("mine-1");
    assert!(refused.iter().any(|line| line["message"] == "refused: no token for it" && line["level"] == "WARN"));
    let answered = refused.iter().find(|line| line["message"] == "answered").expect("a line for each request");
    assert_eq!((&answered["status"], &answered["span"]["method"]), (&json!(403), &json!("GET")));
    assert_eq!(answered["span"]["path"], "/v1/models", "the query is not logged");
    assert!(of("mine-2").iter().any(|line| line["message"] == "the registry is degraded"), "{lines:#?}");
    assert!(of(&made).iter().any(|line| line["message"] == "the registry is not ready"), "{lines:#?}");
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["target"].is_string(), "{line}");
    }
}

/// What comes from outside reaches the log here by a variable, there by a name or a request.
#[test]
fn a_value_begins_no_line_of_its_own_and_moves_no_cursor() {
    let place = Place::new();
    let run = |format: &str| {
        let mut command = place.command(&["serve", "--listen", "256.0.0.1:0", "--log-format", format]);
        command.env("NOTIFY_SOCKET", "x\nERROR forged: line\u{1b}[2J\u{202e}");
        let said = ended(command).ends(64).stderr;
        assert!(!said.lines().any(|line| line.starts_with("ERROR")), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said}");
        said.lines().next().expect("a line").to_owned()
    };
    let line = run("text");
    // Escape sequences are escaped by the formatter already, in its own way.
    assert!(line.contains(r"NOTIFY_SOCKET is x\nERROR forged: line\x1b[2J\u{202e}: "), "{line}");
    let line: Value = serde_json::from_str(&run("json")).expect("an object");
    assert!(line["message"].as_str().is_some_and(|m| m.contains("NOTIFY_SOCKET is x\nERROR forged: line")), "{line}");
}

#[test]
fn the_form_comes_from_the_option_or_the_environment_and_a_wrong_one_is_refused() {
    let place = Place::new();
    let run = |args: &[&str], variable: Option<&str>| {
        let mut command = place.command(args);
        if let Some(value) = variable {
            command.env("SECUREREG_LOG_FORMAT", value);
        }
        command.env("NOTIFY_SOCKET", "nonsense").args(["serve", "--listen", "256.0.0.1:0"]);
        ended(command)
    };
    // What it warns of, before it fails on the address.
    let first =
        |args: &[&str], variable| run(args, variable).ends(64).stderr.lines().next().expect("a line").to_owned();
    let json = first(&["--log-format", "json"], None);
    let parsed: Value = serde_json::from_str(&json).expect("an object");
    assert!(parsed["message"].as_str().is_some_and(|m| m.contains("NOTIFY_SOCKET")), "{json}");
    assert!(first(&[], Some("json")).starts_with("{\"timestamp\""));
    for text in [first(&[], None), first(&[], Some("")), first(&["--log-format", "text"], Some("json"))] {
        assert!(text.contains(" WARN ") && text.contains("NOTIFY_SOCKET"), "{text}");
    }
    let wrong = run(&[], Some("xml")).ends(64);
    assert!(wrong.stderr.contains("SECUREREG_LOG_FORMAT") && wrong.stderr.contains("text or json"), "{wrong:?}");
    run(&["--log-format", "xml"], None).ends(64);
}
