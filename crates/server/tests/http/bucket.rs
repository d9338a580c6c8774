//! A server of S3 over a temporary folder, in this process, with faults to order.
//!
//! Owns: what tests of the S3 back end talk to: s3s-fs, or the server that `SECUREREG_S3_ENDPOINT` names. Promises: it ends with its
//! test. Leaves out: any check.
//!
//! s3s-fs checks a condition and writes afterwards, and writes an ETag after the bytes; S3 does each in one step. So writes are let in
//! one at a time here, and reads not while one is under way.

use hyper::body::Incoming;
use hyper::header::IF_NONE_MATCH;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::sync::{RwLock, oneshot};

/// Short: s3s-fs makes one file name of bucket and key, which ends at some 160 characters.
const BUCKET: &str = "tst";
const KEY: &str = "access-key-of-tests";
const SECRET: &str = "secret-key-of-tests";

/// What goes wrong.
#[derive(Default)]
pub(crate) struct Faults {
    /// Requests that are answered with SlowDown.
    pub(crate) busy: AtomicUsize,
    /// Whether If-None-Match is ignored.
    pub(crate) forgets_conditions: AtomicBool,
    /// Requests so far.
    pub(crate) requests: AtomicUsize,
}

pub(crate) struct S3Server {
    pub(crate) faults: Arc<Faults>,
    endpoint: String,
    prefix: String,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
}

impl S3Server {
    /// s3s-fs.
    pub(crate) fn start() -> S3Server {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join(BUCKET)).unwrap();
        let faults = Arc::new(Faults::default());
        let (stop, stopped) = oneshot::channel();
        let (told, tell) = std::sync::mpsc::channel();
        let shared = Arc::clone(&faults);
        std::thread::spawn(move || serve(&data, &shared, &told, stopped));
        let addr = tell.recv().unwrap();
        S3Server { faults, endpoint: format!("http://{addr}"), prefix: String::new(), dir, stop: Some(stop) }
    }

    /// The one of the environment, if there is one; each test has a prefix of its own.
    pub(crate) fn external() -> Option<S3Server> {
        let endpoint = std::env::var("SECUREREG_S3_ENDPOINT").ok()?;
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        Some(S3Server { faults: Arc::default(), endpoint, prefix, dir, stop: None })
    }

    /// `storage.s3` for registry.yaml, as one line.
    pub(crate) fn settings(&self, more: &str) -> String {
        let file = |name: &str, text: &str| {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let (id, secret) = (file("id", KEY), file("secret", SECRET));
        let bucket = std::env::var("SECUREREG_S3_BUCKET").ok().filter(|_| self.stop.is_none());
        let bucket = bucket.unwrap_or_else(|| BUCKET.to_owned());
        format!(
            "{{bucket: {bucket}, prefix: \"{}\", endpoint: \"{}\", region: us-east-1, allow_http: true, access_key_file: {}, secret_key_file: {}{more}}}",
            self.prefix,
            self.endpoint,
            id.display(),
            secret.display(),
        )
    }

    /// Whether keys may have the lengths that S3 allows.
    pub(crate) fn takes_long_keys(&self) -> bool {
        self.stop.is_none()
    }

    /// Where an object of s3s-fs lies.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("data").join(BUCKET).join(key)
    }

    /// All keys of s3s-fs, and what it holds of unfinished parts.
    pub(crate) fn keys(&self) -> Vec<String> {
        let root = self.dir.path().join("data");
        let (mut keys, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                match name.strip_prefix(BUCKET) {
                    Some(key) => keys.push(key.trim_start_matches('/').to_owned()),
                    // Beside the bucket it keeps ETags, which stay, and parts.
                    None if name.contains("part") => keys.push(name),
                    None => {}
                }
            }
        }
        keys.sort();
        keys
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

fn serve(
    data: &Path,
    faults: &Arc<Faults>,
    told: &std::sync::mpsc::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(data).unwrap());
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let (service, one_writer) = (builder.build(), Arc::new(RwLock::new(())));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        told.send(listener.local_addr().unwrap()).unwrap();
        let accept = async {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (service, faults, one_writer) = (service.clone(), Arc::clone(faults), Arc::clone(&one_writer));
                let data = data.to_owned();
                let answer = service_fn(move |request| {
                    let (service, faults, one_writer) = (service.clone(), Arc::clone(&faults), Arc::clone(&one_writer));
                    let data = data.clone();
                    async move { answer(&service, &faults, &one_writer, &data, request).await }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        };
        tokio::select! { () = accept => {}, _ = stopped => {} }
    });
    runtime.shutdown_background();
}

async fn answer(
    service: &S3Service,
    faults: &Faults,
    one_writer: &RwLock<()>,
    data: &Path,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, s3s::HttpError> {
    faults.requests.fetch_add(1, Ordering::Relaxed);
    if faults.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| busy.checked_sub(1)).is_ok() {
        let text = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        let busy = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(s3s::Body::from(text.to_owned()));
        return Ok(busy.unwrap());
    }
    if faults.forgets_conditions.load(Ordering::Relaxed) && request.headers().contains_key(IF_NONE_MATCH) {
        let _ = std::fs::remove_file(data.join(request.uri().path().trim_start_matches('/')));
    }
    let part = request.uri().query().is_some_and(|query| query.contains("partNumber"));
    if request.method() == Method::PUT && !part {
        let _one = one_writer.write().await;
        hyper::service::Service::call(service, request).await
    } else {
        let _reading = one_writer.read().await;
        hyper::service::Service::call(service, request).await
    }
}
