//! What the tests of the command share.
//!
//! Owns: running the real binary in a folder of its own. Promises: no test sees this machine's registry, environment or
//! terminal; a daemon that a test started ends with it. Leaves out: what is tested.

#[path = "../../../../tests/support/models.rs"]
pub(crate) mod models;

use models::Meta;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program under test: cargo's, or where CI copied it for a user who cannot read cargo's folder.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("SECUREREG_BIN").map_or_else(|| env!("CARGO_BIN_EXE_securereg").into(), PathBuf::from)
}

/// A folder with a registry in it.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Standard output as JSON; the command must have succeeded.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The command with nothing of this process's environment but the search path.
    pub(crate) fn bare(&self) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path()).env("TMPDIR", self.dir.path()).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The command on this place's registry.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = self.bare();
        command.arg("--root").arg(self.root()).args(args);
        command
    }

    /// Runs the command on this place's registry.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        ended(self.command(args))
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file is written");
        path.to_str().expect("temporary paths are text").to_owned()
    }

    /// Promotes a small model under `name`.
    #[track_caller]
    pub(crate) fn promoted(&self, name: &str) -> Value {
        let file = self.file(&format!("{}.gguf", name.replace(['/', ':'], "-")), &gguf(name));
        self.run(&["promote", &file, "--name", name, "--json"]).ends(0).json()
    }

    /// The one file that holds the bytes with this digest.
    pub(crate) fn blob(&self, sha256: &str) -> PathBuf {
        self.root().join("blobs/sha256").join(sha256)
    }

    /// Flips one stored byte.
    pub(crate) fn tamper(&self, sha256: &str) {
        let path = self.blob(sha256);
        let mut bytes = fs::read(&path).expect("the blob is read");
        let last = bytes.len() - 1;
        bytes[last] ^= 0xff;
        let mut rights = fs::metadata(&path).expect("the blob's rights").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o600);
        fs::set_permissions(&path, rights).expect("the blob is made writable");
        fs::write(&path, bytes).expect("the blob is changed");
    }

    /// Starts a daemon and waits for the line that says it is ready.
    pub(crate) fn daemon<S: AsRef<OsStr>>(&self, args: &[S]) -> Daemon {
        Daemon::start(self.command(args))
    }
}

/// Runs `command` to its end.
pub(crate) fn ended(mut command: Command) -> Ended {
    let output = command.output().expect("the command starts");
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("standard output is text"),
        stderr: String::from_utf8(output.stderr).expect("standard error is text"),
    }
}

/// A daemon, killed when the test forgets it.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    /// What it printed up to the line that says it is ready.
    pub(crate) said: String,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Daemon {
        let mut child = command.spawn().expect("the daemon starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut said = String::new();
        while !said.lines().any(|line| line.starts_with("ready") || line.starts_with("{\"")) {
            if stdout.read_line(&mut said).expect("its output is text") == 0 {
                let mut complaint = String::new();
                child.stderr.take().expect("piped").read_to_string(&mut complaint).expect("text");
                panic!("the daemon ended with {:?}: {said}{complaint}", child.wait());
            }
        }
        Daemon { child, said, stdout }
    }

    /// Its line of JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.said).expect("one line of JSON")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")), signal).expect("the signal is sent");
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        self.signal(signal);
        let code = wait(&mut self.child);
        let mut ended = Ended { code, stdout: std::mem::take(&mut self.said), stderr: String::new() };
        self.stdout.read_to_string(&mut ended.stdout).expect("text");
        self.child.stderr.take().expect("piped").read_to_string(&mut ended.stderr).expect("text");
        ended
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal(Signal::SIGTERM);
            wait(&mut self.child);
        }
    }
}

/// Waits half a minute for the end, then kills.
pub(crate) fn wait(child: &mut Child) -> i32 {
    let mut code = None;
    let ended = until(30, || {
        code = child.try_wait().expect("a child of ours");
        code.is_some()
    });
    if !ended {
        drop(child.kill());
    }
    code.and_then(|status| status.code()).unwrap_or(-1)
}

/// Asks again and again, for so many seconds at most.
pub(crate) fn until(seconds: u64, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        if is_so() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    is_so()
}

/// Whether the test can mount. If not it says so past the test runner's capture, or fails where mounts are required.
#[track_caller]
pub(crate) fn can_mount(test: &str) -> bool {
    let Err(why) = securereg_fusefs::can_mount() else { return true };
    assert!(std::env::var_os("SECUREREG_REQUIRE_FUSE").is_none_or(|v| v != "1"), "{test} cannot mount: {why}");
    writeln!(std::io::stderr(), "SKIPPED {test}: this machine cannot mount: {why}").expect("standard error");
    false
}

/// A complete GGUF file of one small tensor, different for each `seed`.
pub(crate) fn gguf(seed: &str) -> Vec<u8> {
    let data: Vec<u8> = (0..16_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    models::gguf_with(&[("general.name", Meta::Str(seed))], &[("t", models::F32, &[16], &data)])
}

/// What lies below `folder`, folders apart.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files
}
