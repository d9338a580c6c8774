//! `push` and `pull` through the real binary.

use crate::support::{Place, ended, until};
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::Read;
use std::net::TcpListener;

#[test]
fn push_and_pull_say_what_they_did_and_take_docker_s_passwords() {
    let (server, place) = (Place::new(), Place::new());
    let daemon = server.daemon(&["serve", "--listen", "127.0.0.1:0", "--json"]);
    let listen = daemon.json()["listen"].as_str().expect("an address").to_owned();
    let host = listen.trim_start_matches("http://").to_owned();
    let sha256 = place.promoted("m")["artifact"]["sha256"].clone();
    let to = format!("{host}/org/m:v1");
    place.run(&["push", "m", &to]).ends(1);
    let token = fs::read_to_string(server.root().join("tokens/promote.token")).expect("a token");
    let config = json!({"auths": {host.as_str(): {"username": "x", "password": token.trim()}}});
    fs::create_dir_all(place.path(".docker")).expect("a folder");
    fs::write(place.path(".docker/config.json"), config.to_string()).expect("written");
    let pushed = place.run(&["push", "m", &to, "--json"]).json();
    assert_eq!((&pushed["sha256"], &pushed["sent"], &pushed["there"]), (&sha256, &json!(1), &json!(0)));
    let said = place.run(&["push", "m", &to]).ends(0).stdout;
    assert!(said.starts_with("pushed m to ") && said.contains(pushed["digest"].as_str().expect("a digest")), "{said}");
    let pulled = place.run(&["pull", &to, "--json"]).json();
    assert_eq!((&pulled["artifact"]["name"], &pulled["artifact"]["sha256"]), (&json!("org/m:v1"), &sha256));
    assert_eq!(
        (&pulled["digest"], &pulled["types"], &pulled["outcome"]),
        (&pushed["digest"], &json!("hanzo"), &json!("promoted"))
    );
    let taken = place.run(&["pull", &to, "--name", "again"]).ends(5).stderr;
    assert!(taken.contains("is kept") && taken.contains("held by m"), "{taken}");
    let said = place.run(&["pull", &to, "--name", "again:v1"]).ends(0).stdout;
    assert!(said.contains("a hanzo model") && said.contains("promoted again:v1"), "{said}");
    place.run(&["pull", &format!("{host}/org/absent:v1")]).ends(4);
    place.run(&["push", "absent", &to]).ends(4);
    for wrong in [
        vec!["push", "m", "m:v1"],
        vec!["push", "m", "r.example/m"],
        vec!["pull", "https://r.example/m:v1"],
        vec!["pull", to.as_str(), "--name", "../m"],
        vec!["pull", to.as_str(), "--plain-http", "--ca", "x"],
    ] {
        place.run(&wrong).ends(64);
    }
    let complaint = place.run(&["pull", &format!("{host}/org/absent:v1"), "--json"]).stderr;
    let complaint: serde_json::Value = serde_json::from_str(&complaint).expect("one line of JSON");
    assert_eq!(complaint["kind"], "not_found");
    daemon.stop(Signal::SIGTERM).ends(0);
}

#[test]
fn ctrl_c_ends_a_pull_from_a_registry_that_says_nothing() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let from = format!("{}/a/m:v1", silent.local_addr().expect("an address"));
    let mut command = place.command(&["pull", &from]);
    let child = command.spawn().expect("it starts");
    let (mut stream, _) = silent.accept().expect("it connects");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("it asks");
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a process id")), Signal::SIGINT).expect("sent");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("cancelled") && !said.contains("is kept"), "{said}");
    assert!(until(1, || fs::read_dir(place.root().join("quarantine")).is_ok_and(|mut d| d.next().is_none())));
    ended(place.command(&["list"])).ends(0);
}
