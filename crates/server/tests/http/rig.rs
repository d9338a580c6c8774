//! A registry in a temporary folder, its server on a free port, and a client of a few lines.
//!
//! Owns: what all tests share. Promises: a server ends with its test. Leaves out: any check.

use rustix::fs::{FlockOperation, flock};
use securereg::{MountGuard, Registry};
use securereg_server::{Config, Limits, Server, ServerError, ShutdownHandle};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A deadline that only a hang reaches.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) registry: Registry,
    pub(crate) addr: SocketAddr,
    pub(crate) staging: PathBuf,
    pub(crate) extra: PathBuf,
    pub(crate) mount: PathBuf,
    _mounted: Option<MountGuard>,
    stop: ShutdownHandle,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
    dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Rig {
        Rig::made(|_| Config { limits, ..Config::default() })
    }

    /// With this registry.yaml.
    pub(crate) fn configured(settings: &str) -> Rig {
        Rig::made(|dir| configuration(dir, settings))
    }

    fn made(config: impl FnOnce(&Path) -> Config) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
        let extra = dir.path().join("extra");
        fs::create_dir_all(&extra).unwrap();
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), staging: vec![extra.clone()], ..config(dir.path()) };
        let server = Server::bind(registry.clone(), config).unwrap();
        let (addr, stop) = (server.local_addr(), server.shutdown_handle());
        let thread = Some(std::thread::spawn(move || server.run()));
        let staging = registry.staging();
        let mount = dir.path().join("mount");
        Rig { registry, addr, staging, extra, mount, _mounted: None, stop, thread, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Says that a mount is alive, as the daemon does.
    pub(crate) fn announce_mount(&mut self) {
        fs::create_dir_all(&self.mount).unwrap();
        self._mounted = Some(self.registry.record_mount(&self.mount).unwrap());
    }

    /// Puts test data into the staging folder under `name`.
    pub(crate) fn stage(&self, data: &str, name: &str) -> PathBuf {
        let to = self.staging.join(name);
        fs::copy(test_data(data), &to).unwrap();
        to
    }

    /// Stages and promotes a small model.
    pub(crate) fn promoted(&self, name: &str, file: &str) -> Value {
        self.stage("hostile/g00_ok_min.gguf", file);
        let answer = self.call("POST", "/v1/promote", "promote", Some(&promote_body(name, file)));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub(crate) fn token(&self, scope: &str) -> String {
        fs::read_to_string(self.registry.root().join(format!("tokens/{scope}.token"))).unwrap().trim().to_owned()
    }

    /// One request on a connection of its own; `scope` is the token's, or "" for none.
    pub(crate) fn call(&self, method: &str, target: &str, scope: &str, body: Option<&Value>) -> Answer {
        self.call_with(method, target, scope, body, "")
    }

    pub(crate) fn call_with(
        &self,
        method: &str,
        target: &str,
        scope: &str,
        body: Option<&Value>,
        headers: &str,
    ) -> Answer {
        let mut stream = self.send(method, target, scope, body, headers);
        if method == "HEAD" { read_head(&mut stream) } else { read_answer(&mut stream) }
    }

    /// Sends a request and leaves the answer in the socket.
    pub(crate) fn send(
        &self,
        method: &str,
        target: &str,
        scope: &str,
        body: Option<&Value>,
        headers: &str,
    ) -> TcpStream {
        let auth =
            if scope.is_empty() { String::new() } else { format!("authorization: Bearer {}\r\n", self.token(scope)) };
        let body = body.map(Value::to_string).unwrap_or_default();
        let text = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{auth}{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// While held, whatever would change the catalog waits: work that has begun and does not end.
    pub(crate) fn hold_commits(&self) -> File {
        let file = File::open(self.registry.root().join("run/commit.lock")).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    }

    /// Waits until a promotion has copied its source and is held up by [`Rig::hold_commits`].
    pub(crate) fn wait_for_copies(&self, count: usize) {
        let tmp = self.registry.root().join("tmp");
        let names = || -> HashSet<_> { fs::read_dir(&tmp).unwrap().flatten().map(|e| e.file_name()).collect() };
        // A copy stays while commits are held; what else is written there is renamed at once.
        wait_until("the promotion has copied its source", || {
            let before = names();
            before.len() >= count && {
                std::thread::sleep(Duration::from_millis(50));
                before.intersection(&names()).count() >= count
            }
        });
    }

    pub(crate) fn blob(&self, sha256: &str) -> PathBuf {
        self.registry.root().join("blobs/sha256").join(sha256)
    }

    /// Changes one byte of a stored file, as an intruder with root would.
    pub(crate) fn flip_byte(&self, sha256: &str) {
        self.flip_at(sha256, 3);
    }

    pub(crate) fn flip_at(&self, sha256: &str, at: u64) {
        use std::os::unix::fs::{FileExt, PermissionsExt};
        let path = self.blob(sha256);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    pub(crate) fn audit_events(&self) -> Vec<(String, String, String)> {
        let lines = self.registry.audit_log().unwrap();
        lines.into_iter().map(|l| (l.event.to_string(), l.name, l.why)).collect()
    }

    pub(crate) fn shut_down(&mut self) {
        self.stop.shutdown();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    /// Ends the server and starts another on the same root.
    pub(crate) fn restart(&mut self) {
        self.shut_down();
        self.registry = Registry::open(&self.dir.path().join("root")).unwrap();
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let server = Server::bind(self.registry.clone(), config).unwrap();
        (self.addr, self.stop) = (server.local_addr(), server.shutdown_handle());
        self.thread = Some(std::thread::spawn(move || server.run()));
    }

    pub(crate) fn shutdown_handle(&self) -> ShutdownHandle {
        self.stop.clone()
    }
}

/// What this registry.yaml says.
pub(crate) fn configuration(dir: &Path, settings: &str) -> Config {
    let file = dir.join("registry.yaml");
    fs::write(&file, settings).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    Config::load(&dir.join("root"), Some(&file)).unwrap()
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }
}

/// Reads an answer that has a head only, to the end of the connection.
fn read_head(stream: &mut TcpStream) -> Answer {
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, body: Value::Null }
}

/// Reads one answer to the end of the connection or of its declared length.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let mut answer = Answer { status, head, body: Value::Null };
            let length = answer.header("content-length").map_or(0, |v| v.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                if length > 0 {
                    let body = &bytes[end + 4..end + 4 + length];
                    // The figures are the one answer that is not JSON.
                    let json = !answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain"));
                    answer.body = match json {
                        true => serde_json::from_slice(body).unwrap(),
                        false => Value::String(String::from_utf8(body.to_vec()).unwrap()),
                    };
                }
                return answer;
            }
        }
        let n = stream.read(&mut chunk).unwrap();
        assert_ne!(n, 0, "the connection ended inside an answer: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..n]);
    }
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

pub(crate) fn test_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

pub(crate) const OK_MIN: &str = "hostile/g00_ok_min.gguf";
pub(crate) const TINY: &str = "tiny-llama.gguf";
pub(crate) const SAFETENSORS: &str = "hostile/s00_ok.safetensors";

pub(crate) fn sha256_of(data: &str) -> String {
    securereg::Sha256Digest::of(&fs::read(test_data(data)).unwrap()).to_hex()
}

/// The seed's body, for the model that [`Rig::promoted`] stages.
pub(crate) fn promote_body(name: &str, path: &str) -> Value {
    json!({"name": name, "path": path, "sha256": sha256_of(OK_MIN), "format": "gguf", "source": "test"})
}
