//! A registry with its server, a proxy that breaks connections, and a fake registry.
//!
//! Owns: what all tests share. Promises: everything ends with its test. Leaves out: any check.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use securereg::{Actor, Error, ModelName, PromoteRequest, Registry, Result, Source, Task};
use securereg_remote::{ImageRef, Keychain, Options, Pulled, Pushed, Step, Types, Watch, pull, push};
use securereg_server::{Config, Server, ServerError, ShutdownHandle};
use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// A registry on a disk, without a server.
pub(crate) struct Local {
    pub(crate) registry: Registry,
    pub(crate) dir: TempDir,
}

impl Local {
    pub(crate) fn new() -> Local {
        let dir = tempfile::tempdir().unwrap();
        Local { registry: Registry::open_or_create(&dir.path().join("root")).unwrap(), dir }
    }

    /// Promotes files, one by itself or several as a folder.
    pub(crate) fn promote(&self, name: &str, files: &[(&str, &[u8])]) {
        let folder = self.dir.path().join(format!("source-{}", name.replace(['/', ':'], "-")));
        for (path, bytes) in files {
            let to = folder.join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, bytes).unwrap();
        }
        let at = if files.len() == 1 { folder.join(files[0].0) } else { folder };
        let request = PromoteRequest::new(name.parse().unwrap());
        self.registry.promote(request, Source::open(&at).unwrap(), &actor(), &Task::unattended()).unwrap();
    }

    /// Passwords for these registries: `x` and a password.
    pub(crate) fn options(&self, logins: &[(&str, &str)]) -> Options {
        let auths: HashMap<&str, serde_json::Value> = logins
            .iter()
            .map(|(host, secret)| (*host, serde_json::json!({"auth": STANDARD.encode(format!("x:{secret}"))})))
            .collect();
        let file = self.dir.path().join("config.json");
        fs::write(&file, serde_json::json!({"auths": auths}).to_string()).unwrap();
        Options { keychain: Keychain { files: vec![file], helpers: None }, ..Options::default() }
    }

    pub(crate) fn push(&self, name: &str, to: &str, types: Types, options: &Options) -> Result<Pushed> {
        push(&self.registry, &name.parse().unwrap(), &to.parse().unwrap(), types, options, &unwatched())
    }

    pub(crate) fn pull(&self, from: &str, name: Option<&str>, options: &Options) -> Result<Pulled> {
        let from: ImageRef = from.parse().unwrap();
        let name: Option<ModelName> = name.map(|name| name.parse().unwrap());
        pull(&self.registry, &from, name, options, &actor(), &unwatched())
    }

    pub(crate) fn sha256(&self, name: &str) -> String {
        let name: ModelName = name.parse().unwrap();
        self.registry.catalog().unwrap().require(&name).unwrap().sha256.to_hex()
    }

    /// What is in the staging folder but the folder of parts, and what is in that.
    pub(crate) fn left(&self) -> (Vec<String>, Vec<String>) {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let staging = self.registry.staging();
        let beside = names(&staging).into_iter().filter(|name| name != ".partial").collect();
        (beside, names(&staging.join(".partial")))
    }

    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.left(), (vec![], vec![]));
        assert_eq!(self.registry.catalog().unwrap().artifacts().count(), 0);
    }
}

pub(crate) fn actor() -> Actor {
    Actor::new("test", "test")
}

fn unwatched() -> Watch<'static> {
    static NEVER: AtomicBool = AtomicBool::new(false);
    fn nobody(_: Step) {}
    Watch { cancelled: &NEVER, tell: &nobody }
}

/// Our own registry, serving.
pub(crate) struct Serving {
    pub(crate) local: Local,
    pub(crate) addr: SocketAddr,
    stop: ShutdownHandle,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Serving {
    pub(crate) fn new() -> Serving {
        let local = Local::new();
        let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
        let server = Server::bind(local.registry.clone(), config).unwrap();
        let (addr, stop) = (server.local_addr(), server.shutdown_handle());
        let thread = Some(std::thread::spawn(move || server.run()));
        Serving { local, addr, stop, thread }
    }

    pub(crate) fn token(&self, scope: &str) -> String {
        let path = self.local.registry.root().join(format!("tokens/{scope}.token"));
        fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which way a proxy counts, and breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// Passes bytes on, and ends a connection after so many of them, so often.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    state: Arc<ProxyState>,
}

struct ProxyState {
    way: Way,
    passed: AtomicU64,
    break_after: u64,
    breaks: AtomicU64,
}

impl Proxy {
    pub(crate) fn new(to: SocketAddr, way: Way, break_after: u64, breaks: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state =
            Arc::new(ProxyState { way, passed: AtomicU64::new(0), break_after, breaks: AtomicU64::new(breaks) });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(to)) else { return };
                for (way, from, into) in [(Way::Up, &client, &server), (Way::Down, &server, &client)] {
                    let (from, into, state) =
                        (from.try_clone().unwrap(), into.try_clone().unwrap(), Arc::clone(&shared));
                    std::thread::spawn(move || state.pass(way, from, into));
                }
            }
        });
        Proxy { addr, state }
    }

    /// Bytes that went the way that is counted.
    pub(crate) fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    pub(crate) fn breaks_left(&self) -> u64 {
        self.state.breaks.load(Ordering::SeqCst)
    }
}

impl ProxyState {
    fn pass(&self, way: Way, mut from: TcpStream, mut into: TcpStream) {
        let mut buffer = [0; 16 << 10];
        let mut here = 0;
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if way == self.way {
                self.passed.fetch_add(n as u64, Ordering::SeqCst);
                here += n as u64;
                let take = |left: u64| left.checked_sub(1);
                if here > self.break_after && self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
                {
                    break;
                }
            }
            if into.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        for stream in [from, into] {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A request as a fake registry sees it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

/// What it answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    Answer { status, headers: headers.to_owned(), body: body.as_ref().to_vec() }
}

/// A registry that says what a test wants it to; a connection a request.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Headers that an answer gives come first, so that a lie about the length is believed: then none is added.
    pub(crate) fn new(say: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (say, log) = (Arc::new(say), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), say, log) = (stream, Arc::clone(&say), Arc::clone(&log)) else { return };
                std::thread::spawn(move || {
                    let Some(request) = read_request(&mut stream) else { return };
                    log.lock().unwrap().push(request.clone());
                    let answer = say(&request);
                    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n{}", answer.status, answer.headers);
                    if !answer.headers.contains("content-length") && !answer.headers.contains("transfer-encoding") {
                        head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
                    }
                    head.push_str("\r\n");
                    let _ = stream.write_all(head.as_bytes());
                    if request.method != "HEAD" {
                        let _ = stream.write_all(&answer.body);
                    }
                });
            }
        });
        Fake { addr, seen }
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|request| request.path().contains(path)).count()
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
            let mut words = head.split(' ');
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut request = Request { method, target, head: head.clone(), body: String::new() };
            let length: usize = request.header("content-length").map_or(0, |v| v.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                request.body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
                return Some(request);
            }
        }
        match stream.read(&mut chunk) {
            Ok(n @ 1..) => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}

/// A registry that serves one manifest and these blobs, with ranges.
pub(crate) fn honest(manifest: String, blobs: Vec<Vec<u8>>) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| {
        if request.path().contains("/manifests/") {
            let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
            return answer(200, kind, manifest.as_bytes());
        }
        let wanted = request.path().rsplit('/').next().unwrap_or_default();
        let blob = blobs.iter().find(|blob| digest(blob) == wanted);
        match blob {
            Some(blob) => ranged(request, blob),
            None => answer(404, "", b""),
        }
    }
}

pub(crate) fn ranged(request: &Request, blob: &[u8]) -> Answer {
    let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    match range {
        Some((from, to)) => {
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            answer(206, &format!("content-range: bytes {from}-{to}/{}\r\n", blob.len()), &blob[from..=to])
        }
        None => answer(200, "", blob),
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", securereg::Sha256Digest::of(bytes))
}

/// An image manifest with this config type and these layers: media type, bytes, title.
pub(crate) fn image(config: &str, layers: &[(&str, &[u8], &str)]) -> String {
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|(kind, bytes, title)| {
            let mut layer = serde_json::json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
            if !title.is_empty() {
                layer["annotations"] = serde_json::json!({"org.opencontainers.image.title": title});
            }
            layer
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": config, "digest": digest(b"{}"), "size": 2}, "layers": layers,
    })
    .to_string()
}

pub(crate) fn kind_of(result: Result<impl Sized>) -> (securereg::ErrorKind, String) {
    let error: Error = result.map(drop).unwrap_err();
    (error.kind(), error.to_string())
}
