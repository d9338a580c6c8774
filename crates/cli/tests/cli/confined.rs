//! What a running daemon has given up, seen from outside, and that everything works all the same.

use crate::support::{Daemon, Ended, Place, can_mount, ended, gguf, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// The fields of `/proc/PID/task/*/status`, a thread each.
fn threads(pid: u32) -> Vec<Vec<(String, String)>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let status = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let fields = |text: String| {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    };
    status.map(fields).collect()
}

fn field<'a>(thread: &'a [(String, String)], key: &str) -> &'a str {
    thread.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
}

/// The processes that `pid` has started.
fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("there").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|one| {
        let status = fs::read_to_string(format!("/proc/{one}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == pid.to_string()))
    })
    .collect()
}

/// A program without capabilities, as root is not: with them it might trace anyone.
fn unprivileged(words: &[&str]) -> Command {
    let mut words = words.to_vec();
    if is_root() {
        words = [&["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"], &*words].concat();
    }
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

/// Reads a file of /proc as another process of the same user.
fn peek(pid: u32, file: &str) -> Ended {
    ended(unprivileged(&["cat", &format!("/proc/{pid}/{file}")]))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mount table");
    mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

/// Every thread, however it was started, of a daemon that may keep `capabilities`.
#[track_caller]
fn assert_confined(daemon: &Daemon, capabilities: u64) {
    let pid = daemon.child.id();
    let threads = threads(pid);
    assert!(threads.len() > 3, "{}", threads.len());
    for thread in &threads {
        let name = field(thread, "Name");
        assert_eq!((field(thread, "Seccomp"), field(thread, "NoNewPrivs")), ("2", "1"), "{name}");
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            let held = u64::from_str_radix(field(thread, set), 16).expect("a mask");
            assert_eq!(held & !capabilities, 0, "{name} {set}");
        }
    }
    let hardening = &daemon.json()["hardening"];
    assert_eq!((&hardening["dumpable"], &hardening["seccomp"]), (&json!(false), &json!(true)), "{hardening}");
    // A kernel without it is said to be one.
    let landlock = hardening["landlock"].as_u64().is_some() || hardening["missing"].to_string().contains("Landlock");
    assert!(landlock, "{hardening}");
    assert_ne!(peek(pid, "environ").code, 0, "another process of this user looks into it");
    if is_root() {
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("root looks").flatten() {
            let Ok(info) = fs::read_to_string(entry.path()) else { continue };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
            let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
            let standard = matches!(entry.file_name().to_str(), Some("0" | "1" | "2"));
            assert!(standard || flags & 0o2_000_000 != 0, "{:?} is passed on", entry.file_name());
        }
    }
}

/// What a promotion needs of root, and the lowest ports: CHOWN, DAC_OVERRIDE, FOWNER, LEASE, LINUX_IMMUTABLE.
const PROMOTING: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 28 | 1 << 9;

/// Threat 24.
#[test]
fn t24_another_process_of_the_user_looks_into_one_that_is_not_closed() {
    // Else that it cannot look into a daemon would mean nothing.
    let mut open = unprivileged(&["sleep", "60"]).spawn().expect("starts");
    let seen = until(5, || peek(open.id(), "environ").code == 0);
    open.kill().expect("ended");
    open.wait().expect("ended");
    assert!(seen);
}

/// Threat 24.
#[test]
fn t24_a_mount_is_closed_to_others_and_every_thread_of_it_is_confined() {
    if !can_mount("t24_a_mount_is_closed_to_others_and_every_thread_of_it_is_confined") {
        return;
    }
    let place = Place::new();
    let sha256 = place.promoted("m")["artifact"]["sha256"].as_str().expect("a digest").to_owned();
    place.promoted("n");
    let dir = place.path("mnt");
    // A descriptor and a variable that whoever starts it left open.
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("A_SECRET", "of the caller");
    command.args(["-c", "exec 9</dev/null; exec \"$@\"", "sh"]).arg(crate::support::binary());
    command.arg("--root").arg(place.root()).arg("mount").arg(&dir).arg("--json");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let daemon = Daemon::start(command);
    assert_confined(&daemon, 0);

    let helpers = children(daemon.child.id());
    assert_eq!(helpers.len(), 1, "one process, which unmounts");
    assert_ne!(peek(helpers[0], "environ").code, 0, "nor into that");
    if is_root() {
        let environment = fs::read_to_string(format!("/proc/{}/environ", helpers[0])).expect("root looks");
        assert!(environment.starts_with("PATH=") && !environment.contains("A_SECRET"), "{environment}");
        assert!(!Path::new(&format!("/proc/{}/fd/9", helpers[0])).exists(), "a descriptor was passed on");
        let status = &threads(helpers[0])[0];
        assert_eq!((field(status, "Seccomp"), field(status, "NoNewPrivs")), ("2", "1"));
        // SYS_ADMIN, and DAC_OVERRIDE because the folder was made for the mount.
        assert_eq!(field(status, "CapPrm"), format!("{:016x}", 1_u64 << 21 | 1 << 1));
    }
    // As `status` sees it.
    let mounts = &place.run(&["status", "--json"]).json()["mounts"];
    let seen = &mounts[0]["hardening"];
    assert_eq!(seen, &json!({"seccomp": true, "no_new_privileges": true, "capabilities": []}), "{mounts}");

    // It serves, finds damage, quarantines what is damaged, and goes on.
    assert_eq!(fs::read(dir.join("n.gguf")).expect("it reads"), gguf("n"));
    place.tamper(&sha256);
    assert!(fs::read(dir.join("m.gguf")).is_err());
    assert_eq!(place.run(&["show", "m", "--json"]).json()["status"], json!("quarantined"));
    assert_eq!(fs::read(dir.join("n.gguf")).expect("it reads"), gguf("n"));
    daemon.stop(Signal::SIGTERM).ends(0);
    assert!(!is_mounted(&dir) && !dir.exists(), "the folder was made for the mount");
    assert!(until(5, || !Path::new(&format!("/proc/{}", helpers[0])).exists()));
}

/// Threat 24.
#[test]
fn t24_a_server_is_confined_and_no_secret_is_in_its_arguments_or_its_environment() {
    let place = Place::new();
    let token = place.file("token", b"0123456789abcdef0123456789abcdef\n");
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0", "--json"]);
    command.env("REGISTRY_READ_TOKEN_PATH", &token);
    let daemon = Daemon::start(command);
    assert_confined(&daemon, PROMOTING);
    let mut shown = fs::read(format!("/proc/{}/cmdline", daemon.child.id())).expect("it runs");
    // Of root's to read only: the check above.
    shown.extend(fs::read(format!("/proc/{}/environ", daemon.child.id())).unwrap_or_default());
    assert!(String::from_utf8_lossy(&shown).contains("serve"));
    assert!(!String::from_utf8_lossy(&shown).contains("0123456789abcdef"));
    // The token was read although its folder is closed by now.
    let answer = http(&daemon.json(), "GET", "/v1/models", "0123456789abcdef0123456789abcdef", "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    daemon.stop(Signal::SIGTERM).ends(0);
}

/// Threat 24.
#[test]
fn t24_a_folder_that_was_not_there_at_the_start_is_closed_to_a_server_until_the_next() {
    let place = Place::new();
    let staging = place.path("staging");
    let option = staging.to_str().expect("text").to_owned();
    let start = || place.daemon(&["serve", "--listen", "127.0.0.1:0", "--json", "--staging", &option]);
    let daemon = start();
    let landlock = daemon.json()["hardening"]["landlock"].is_u64();
    fs::create_dir(&staging).expect("made");
    fs::write(staging.join("m.gguf"), gguf("m")).expect("written");
    let sha256 = Place::new().promoted("m")["artifact"]["sha256"].clone();
    let body = json!({"name": "m", "path": staging.join("m.gguf"), "sha256": sha256}).to_string();
    let promote = |daemon: &Daemon| {
        let ready = daemon.json();
        let token = fs::read_to_string(ready["tokens"]["promote"].as_str().expect("a file")).expect("readable");
        http(&ready, "POST", "/v1/promote", token.trim(), &body)
    };
    let refused = promote(&daemon);
    assert_eq!(refused.starts_with("HTTP/1.1 20"), !landlock, "{refused}");
    assert!(daemon.stop(Signal::SIGTERM).ends(0).stderr.contains("is not there") || !landlock);
    let daemon = start();
    let done = promote(&daemon);
    assert!(done.starts_with("HTTP/1.1 20"), "{done}");
    daemon.stop(Signal::SIGTERM).ends(0);
}

#[test]
fn everything_in_one_process_is_confined_too() {
    if !can_mount("everything_in_one_process_is_confined_too") {
        return;
    }
    let place = Place::new();
    place.promoted("m");
    let dir = place.path("mnt");
    let daemon = place.daemon(&["up", "--mount", dir.to_str().expect("text"), "--listen", "127.0.0.1:0", "--json"]);
    assert_confined(&daemon, PROMOTING);
    assert_eq!(fs::read(dir.join("m.gguf")).expect("it reads"), gguf("m"));
    daemon.stop(Signal::SIGINT).ends(0);
    assert!(!is_mounted(&dir));
}

/// Threat 15.
#[test]
fn t15_whatever_is_killed_first_the_next_start_mounts_again() {
    if !can_mount("t15_whatever_is_killed_first_the_next_start_mounts_again") {
        return;
    }
    let place = Place::new();
    place.promoted("m");
    let dir = place.path("mnt");
    let start = || place.daemon(&["mount", dir.to_str().expect("text"), "--json"]);
    let gone = |pid: u32| until(5, || !Path::new(&format!("/proc/{pid}")).exists());

    // The daemon: nothing it started outlives it, and its mount is dead, not empty.
    let mut daemon = start();
    let helper = children(daemon.child.id())[0];
    daemon.child.kill().expect("killed");
    daemon.child.wait().expect("ended");
    assert!(gone(helper));
    assert!(fs::File::open(dir.join("m.gguf")).is_err() && is_mounted(&dir));

    // The process that unmounts, by the signal that every process of a service is sent: it stays. By one that nobody can
    // block: the daemon serves on, and at its end says what it could not do.
    let daemon = start();
    assert_eq!(fs::read(dir.join("m.gguf")).expect("the dead mount was detached"), gguf("m"));
    let helper = children(daemon.child.id())[0];
    let pid = Pid::from_raw(helper.cast_signed());
    kill(pid, Signal::SIGTERM).expect("sent");
    kill(pid, Signal::SIGINT).expect("sent");
    assert_eq!(fs::read(dir.join("m.gguf")).expect("it reads"), gguf("m"));
    daemon.stop(Signal::SIGTERM).ends(0);
    assert!(!is_mounted(&dir));

    let daemon = start();
    let helper = children(daemon.child.id())[0];
    kill(Pid::from_raw(helper.cast_signed()), Signal::SIGKILL).expect("sent");
    assert!(until(5, || fs::read_to_string(format!("/proc/{helper}/status")).is_ok_and(|s| s.contains("zombie"))));
    assert_eq!(fs::read(dir.join("m.gguf")).expect("it reads"), gguf("m"));
    let ended = daemon.stop(Signal::SIGTERM);
    assert!(ended.code != 0 && ended.stderr.contains("the process that unmounts"), "{ended:?}");
    let daemon = start();
    assert_eq!(fs::read(dir.join("m.gguf")).expect("it reads"), gguf("m"));
    daemon.stop(Signal::SIGTERM).ends(0);
    assert!(!is_mounted(&dir));
}

/// One request, and its whole answer.
fn http(ready: &Value, method: &str, path: &str, token: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(ready["listen"].as_str().expect("an address")).expect("it listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}
