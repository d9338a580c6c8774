//! What a confined process can no longer do, tried in child processes that confine themselves.
//!
//! The child is this test program, running only `child`, which does what the environment says and prints a line a try.

use securereg_sandbox::{Capability, Confined, Needs, Network, confine};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::channel;

const OP: &str = "SECUREREG_SANDBOX_TRY";
const AT: &str = "SECUREREG_SANDBOX_AT";
const PORT: &str = "SECUREREG_SANDBOX_PORT";
const OTHER: &str = "SECUREREG_SANDBOX_OTHER";
const MARK: &str = "tried: ";

/// What a child said, and how it ended.
struct Tried {
    lines: Vec<String>,
    output: Output,
}

impl Tried {
    /// What came of the try of this name: `ok`, or the error's number.
    #[track_caller]
    fn outcome(&self, name: &str) -> &str {
        let found = self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name} was not tried: {:?} {:?}", self.lines, self.output))
    }

    /// The version of Landlock in force. 0 only where the kernel says that it has none, and then that was said.
    fn landlock(&self) -> u8 {
        if let Ok(version) = self.outcome("landlock").parse() {
            return version;
        }
        let why = self.outcome("missing");
        assert!(why.contains("this kernel has none") || why.contains("security modules"), "{why}");
        let line = "SKIPPED in part: this kernel has no Landlock\n";
        std::io::stderr().write_all(line.as_bytes()).expect("standard error");
        0
    }
}

fn run(op: &str, at: &Path, ports: [u16; 2]) -> Tried {
    let output = Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(OP, op)
        .env(AT, at)
        .env(PORT, ports[0].to_string())
        .env(OTHER, ports[1].to_string())
        .output()
        .expect("the test program starts again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| Some(line.split_once(MARK)?.1.to_owned())).collect();
    Tried { lines, output }
}

fn say<T>(name: &str, outcome: std::io::Result<T>) {
    match outcome {
        Ok(_) => println!("{MARK}{name} ok"),
        Err(e) => println!("{MARK}{name} {}", e.raw_os_error().unwrap_or(-1)),
    }
}

fn confined(needs: &Needs) -> Confined {
    securereg_sandbox::begin().expect("closed to others");
    let confined = confine(needs);
    println!("{MARK}landlock {}", confined.landlock.map_or("none".into(), |v| v.to_string()));
    println!("{MARK}missing {:?}", confined.missing);
    println!("{MARK}confined {confined:?}");
    confined
}

/// What each of the children does.
#[test]
fn child() {
    let Ok(op) = std::env::var(OP) else { return };
    let at = PathBuf::from(std::env::var_os(AT).expect("a folder"));
    let port = |name: &str| std::env::var(name).expect("a port").parse::<u16>().expect("a number");
    let (port, other) = (port(PORT), port(OTHER));
    let tcp = |name: &str, network: Network| {
        confined(&Needs { network, ..Needs::default() });
        let to = |port| (Ipv4Addr::LOCALHOST, port);
        say(&format!("{name}-bind-granted"), TcpListener::bind(to(other)));
        say(&format!("{name}-bind-other"), TcpListener::bind(to(other + 1)));
        say(&format!("{name}-connect"), TcpStream::connect(to(port)));
        say(&format!("{name}-udp"), UdpSocket::bind(to(0)));
        say(&format!("{name}-unix"), UnixDatagram::unbound());
    };
    match op.as_str() {
        "files" => {
            let needs = Needs {
                writable: vec![at.join("write"), at.join("not-there")],
                readable: vec![at.join("read"), at.join("file")],
                removable: vec![at.join("remove")],
                ..Needs::default()
            };
            let before = File::open(at.join("secret")).expect("opens before");
            confined(&needs);
            say("make", fs::write(at.join("write/new"), "x"));
            say("folder", fs::create_dir(at.join("write/folder")));
            say("rename", fs::rename(at.join("write/new"), at.join("write/folder/new")));
            say("cut", OpenOptions::new().write(true).truncate(true).open(at.join("write/folder/new")));
            say("unlink", fs::remove_file(at.join("write/folder/new")));
            say("read", fs::read(at.join("read/x")));
            say("read-file", fs::read(at.join("file")));
            say("write-read", fs::write(at.join("read/x"), "y"));
            say("make-read", fs::write(at.join("read/y"), "y"));
            say("secret", fs::read(at.join("secret")));
            say("list", fs::read_dir(&at));
            say("out", fs::rename(at.join("write/stays"), at.join("stays")));
            say("link", fs::hard_link(at.join("secret"), at.join("write/secret")));
            say("symlink", std::os::unix::fs::symlink("/etc", at.join("write/etc")));
            say("remove", fs::remove_dir(at.join("remove/empty")));
            say("remove-file", fs::remove_file(at.join("remove/x")));
            fs::create_dir(at.join("not-there")).expect_err("closed");
            say("passwd", fs::read("/etc/passwd"));
            // What was open before stays open.
            say("before", std::io::read_to_string(before));
        }
        "calls" => {
            let (ask, asked) = channel();
            let (answer, answered) = channel();
            // A thread from before: seccomp binds it too.
            let earlier = std::thread::spawn(move || {
                asked.recv().expect("asked");
                answer.send(Command::new("true").status()).expect("heard");
            });
            confined(&Needs::default());
            ask.send(()).expect("there");
            say("earlier", answered.recv().expect("answered"));
            earlier.join().expect("ended");
            say("start", Command::new("true").status());
            say("thread", std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join));
            let map = memmap2::MmapMut::map_anon(4096).expect("memory");
            say("executable", map.make_exec());
            say("status", fs::read_to_string("/proc/self/status"));
            let terminal = rustix::termios::tcgetpgrp(std::io::stdin()).map_err(std::io::Error::from);
            say("ioctl", terminal);
            // None of it comes after this.
            let ended = rustix::process::chroot("/").map_err(std::io::Error::from);
            say("chroot", ended);
        }
        "none" => tcp("none", Network::None),
        "listens" => tcp("listens", Network::Listens(other)),
        "connects" => tcp("connects", Network::Connects { listens: other, ports: Some(vec![port]) }),
        "elsewhere" => tcp("elsewhere", Network::Connects { listens: other, ports: Some(vec![1]) }),
        "anywhere" => tcp("anywhere", Network::Connects { listens: other, ports: None }),
        "rights" => {
            let needs = Needs { capabilities: vec![Capability::Chown, Capability::Lease], ..Needs::default() };
            confined(&needs);
            let status = fs::read_to_string("/proc/thread-self/status").expect("there");
            for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"] {
                let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
                println!("{MARK}{key} {}", value.unwrap_or_default().trim());
            }
            let limits = fs::read_to_string("/proc/self/limits").expect("there");
            let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
            println!("{MARK}core {:?}", core.map(|line| line.split_whitespace().collect::<Vec<_>>()));
        }
        other => panic!("no such try: {other}"),
    }
}

const EACCES: &str = "13";
const EPERM: &str = "1";
const EXDEV: &str = "18";

#[test]
fn only_what_is_granted_is_read_and_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().canonicalize().expect("there");
    for folder in ["write", "read", "remove/empty"] {
        fs::create_dir_all(at.join(folder)).expect("made");
    }
    for file in ["read/x", "file", "secret", "write/stays", "remove/x"] {
        fs::write(at.join(file), "x").expect("written");
    }
    let tried = run("files", &at, [0, 0]);
    assert!(tried.output.status.success(), "{:?}", tried.output);
    if tried.landlock() == 0 {
        return;
    }
    for name in ["make", "folder", "rename", "cut", "unlink", "read", "read-file", "remove", "before"] {
        assert_eq!(tried.outcome(name), "ok", "{name}");
    }
    for name in ["write-read", "make-read", "secret", "list", "remove-file", "passwd"] {
        assert_eq!(tried.outcome(name), EACCES, "{name}");
    }
    assert_eq!(tried.outcome("symlink"), EPERM, "no call of a daemon's makes one");
    // Out of what is granted, and into it: where rights would be lost or won.
    for name in ["out", "link"] {
        assert!([EACCES, EXDEV].contains(&tried.outcome(name)), "{name} {}", tried.outcome(name));
    }
    assert!(at.join("write/stays").exists() && !at.join("write/secret").exists() && at.join("secret").exists());
}

#[test]
fn no_program_is_started_no_memory_made_executable_and_who_tries_worse_is_ended() {
    let dir = tempfile::tempdir().expect("a folder");
    let tried = run("calls", dir.path(), [0, 0]);
    for name in ["earlier", "start", "executable", "ioctl"] {
        assert_eq!(tried.outcome(name), EPERM, "{name}");
    }
    for name in ["thread", "status"] {
        assert_eq!(tried.outcome(name), "ok", "{name}");
    }
    assert!(!tried.lines.iter().any(|line| line.starts_with("chroot")), "{:?}", tried.lines);
    assert_eq!(tried.output.status.signal(), Some(libc::SIGSYS), "{:?}", tried.output);
}

#[test]
fn a_daemon_reaches_no_further_than_it_needs() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = here.local_addr().expect("an address").port();
    // Free a moment ago; the next one is not asked for, only refused.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address").port();
    let expected = [
        ("none", [EPERM, EPERM, EPERM, EPERM, "ok"]),
        ("listens", ["ok", EACCES, EACCES, EPERM, "ok"]),
        ("connects", ["ok", EACCES, "ok", "ok", "ok"]),
        ("elsewhere", ["ok", EACCES, EACCES, "ok", "ok"]),
        ("anywhere", ["ok", EACCES, "ok", "ok", "ok"]),
    ];
    for (op, outcomes) in expected {
        let tried = run(op, dir.path(), [port, free]);
        let version = tried.landlock();
        for (what, outcome) in ["bind-granted", "bind-other", "connect", "udp", "unix"].into_iter().zip(outcomes) {
            // Ports came with version 4.
            if outcome == EACCES && version < 4 {
                continue;
            }
            assert_eq!(tried.outcome(&format!("{op}-{what}")), outcome, "{op} {what}");
        }
    }
}

/// Threat 24.
#[test]
fn t24_no_core_no_new_privileges_and_of_the_capabilities_only_those_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let tried = run("rights", dir.path(), [0, 0]);
    assert!(tried.outcome("confined").contains("dumpable: false"), "{:?}", tried.lines);
    assert_eq!((tried.outcome("NoNewPrivs"), tried.outcome("Seccomp")), ("1", "2"));
    assert!(tried.outcome("core").contains("\"0\", \"0\""), "{:?}", tried.lines);
    // CAP_CHOWN is 0, CAP_LEASE 28.
    let kept = format!("{:016x}", if rustix::process::geteuid().is_root() { 1_u64 | 1 << 28 } else { 0 });
    let none = format!("{:016x}", 0);
    assert_eq!([tried.outcome("CapPrm"), tried.outcome("CapEff")], [&kept, &kept]);
    assert_eq!([tried.outcome("CapInh"), tried.outcome("CapAmb")], [&none, &none]);
    if rustix::process::geteuid().is_root() {
        assert_eq!(tried.outcome("CapBnd"), kept);
    }
}
