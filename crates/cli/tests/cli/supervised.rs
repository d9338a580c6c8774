//! What a service manager is told, over a socket of the test's own: sd_notify(3).

use crate::support::{Daemon, Place, can_mount, until};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// A deadline that only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service manager, as far as it listens.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn at(place: &Place) -> Manager {
        let path = place.path("notify");
        Manager::bound(UnixDatagram::bind(&path).expect("bound"), path.to_str().expect("text").to_owned())
    }

    fn abstractly() -> Manager {
        let name = format!("securereg-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Manager::bound(UnixDatagram::bind_addr(&address).expect("bound"), format!("@{name}"))
    }

    fn bound(socket: UnixDatagram, name: String) -> Manager {
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        Manager { socket, name }
    }

    /// Starts a daemon that reports here, and is watched when `watchdog` says how often.
    fn start(&self, place: &Place, args: &[&str], watchdog: Option<Duration>) -> Daemon {
        let mut command = place.command(args);
        command.env("NOTIFY_SOCKET", &self.name);
        if let Some(interval) = watchdog {
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        Daemon::start(command)
    }

    /// The next message, if one comes soon.
    fn message(&self) -> Option<String> {
        let mut buf = [0; 4096];
        let n = self.socket.recv(&mut buf).ok()?;
        Some(String::from_utf8(buf[..n].to_vec()).expect("text"))
    }

    /// Waits for a message that begins so.
    #[track_caller]
    fn wait_for(&self, start: &str) -> String {
        let (mut seen, end) = (Vec::new(), Instant::now() + PATIENCE);
        while Instant::now() < end {
            match self.message() {
                Some(message) if message.starts_with(start) => return message,
                other => seen.extend(other),
            }
        }
        panic!("no {start:?} came, but {seen:?}")
    }

    /// What comes until nothing has for a while that is long beside `interval`.
    fn silence(&self, interval: Duration) -> Vec<String> {
        let mut seen = Vec::new();
        let mut last = Instant::now();
        while last.elapsed() < interval * 4 {
            if let Some(message) = self.message() {
                // What does not answer is said again and again; that is no sign of life.
                if message.starts_with("WATCHDOG=1") {
                    last = Instant::now();
                }
                seen.push(message);
            }
            assert!(seen.len() < 10_000, "it does not fall silent: {:?}", seen.last());
        }
        seen
    }
}

/// Threads of a daemon that a debugger holds, as if they hung. Dropped, they go on.
struct Held(Vec<Pid>);

impl Held {
    #[track_caller]
    fn threads(daemon: &Daemon, name: &str) -> Held {
        let tasks = format!("/proc/{}/task", daemon.child.id());
        let mut held = Held(Vec::new());
        for task in std::fs::read_dir(tasks).expect("its threads").flatten() {
            let called = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if called.trim() != name {
                continue;
            }
            let thread = Pid::from_raw(task.file_name().to_str().and_then(|t| t.parse().ok()).expect("a number"));
            ptrace::seize(thread, ptrace::Options::empty()).expect("this test may debug its own child");
            held.0.push(thread);
            ptrace::interrupt(thread).expect("it stops");
            waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it has stopped");
        }
        assert!(!held.0.is_empty(), "no thread is called {name}");
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.0 {
            let _ = ptrace::detach(*thread, None);
        }
    }
}

#[test]
fn the_manager_is_told_when_http_is_answered_and_when_the_end_begins() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let daemon = manager.start(&place, &["serve", "--listen", "127.0.0.1:0", "--json"], None);
    let ready = manager.wait_for("READY=1");
    let address = daemon.json()["listen"].as_str().expect("an address").to_owned();
    assert_eq!(ready, format!("READY=1\nSTATUS=answering on http://{address}"));
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert_eq!(manager.message(), None, "nobody watches, so nothing is said");
    let ended = daemon.stop(Signal::SIGTERM).ends(0);
    assert_eq!(manager.message().as_deref(), Some("STOPPING=1\nSTATUS=stopping"), "{ended:?}");
}

/// A name with a line break could otherwise say something for us.
#[test]
fn a_folders_name_says_nothing_to_the_manager() {
    if !can_mount("a_folders_name_says_nothing_to_the_manager") {
        return;
    }
    let place = Place::new();
    let manager = Manager::abstractly();
    let dir = place.path("mnt\nMAINPID=1");
    place.run(&["promote", &place.file("m.gguf", &crate::support::gguf("m")), "--name", "m"]).ends(0);
    let daemon = manager.start(&place, &["mount", dir.to_str().expect("text")], None);
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("mounted at") && ready.contains("mnt\\nMAINPID=1"), "{ready}");
    assert_eq!(ready.lines().count(), 2, "{ready}");
    daemon.stop(Signal::SIGTERM).ends(0);
}

#[test]
fn a_process_that_is_not_watched_itself_reports_no_life() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    let daemon = Daemon::start(command);
    manager.wait_for("READY=1");
    assert_eq!(manager.silence(Duration::from_millis(100)), Vec::<String>::new());
    daemon.stop(Signal::SIGTERM).ends(0);
}

/// Each part in turn: the loop that takes connections, the threads that answer, those of the mount.
#[test]
fn a_part_that_hangs_ends_the_signs_of_life_and_nothing_else_does() {
    let interval = Duration::from_millis(600);
    let place = Place::new();
    let manager = Manager::at(&place);
    let mount = place.path("mnt");
    let mut args = vec!["up", "--listen", "127.0.0.1:0", "--json"];
    let mounts = can_mount("a_part_that_hangs_ends_the_signs_of_life_and_nothing_else_does (its mount)");
    if mounts {
        args.extend(["--mount", mount.to_str().expect("text")]);
    } else {
        args.push("--no-mount");
    }
    let daemon = manager.start(&place, &args, Some(interval));
    manager.wait_for("READY=1");
    (0..3).for_each(|_| drop(manager.wait_for("WATCHDOG=1")));
    let mut parts = vec![("http", "the HTTP server"), ("securereg-http", "the HTTP server")];
    if !nix::unistd::geteuid().is_root() {
        // A daemon is closed to its own user, this test too: nobody but root can hold a thread of it.
        let daemon = Pid::from_raw(i32::try_from(daemon.child.id()).expect("a process id"));
        assert_eq!(ptrace::seize(daemon, ptrace::Options::empty()), Err(nix::errno::Errno::EPERM));
        parts.clear();
    } else if mounts {
        parts.push(("securereg-read", "the mount"));
    }
    for (thread, part) in parts {
        let held = Held::threads(&daemon, thread);
        let said = manager.silence(interval);
        assert!(said.iter().any(|m| *m == format!("STATUS={part} does not answer")), "{thread}: {said:?}");
        drop(held);
        let back = manager.wait_for("WATCHDOG=1");
        assert!(back.contains("STATUS=answering on"), "{thread}: {back}");
        manager.wait_for("WATCHDOG=1");
    }
    // A manifest that cannot be served is no hang: a restart would not mend it.
    let manifest = place.root().join("manifest.yaml");
    let good = std::fs::read(&manifest).expect("read");
    std::fs::write(&manifest, "torn").expect("written");
    assert!(until(10, || place.run(&["list"]).code == 7));
    (0..3).for_each(|_| assert_eq!(manager.wait_for("WATCHDOG=1"), "WATCHDOG=1"));
    std::fs::write(&manifest, good).expect("written");
    daemon.stop(Signal::SIGTERM).ends(0);
    manager.wait_for("STOPPING=1");
}
