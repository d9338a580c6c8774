//! The local back end: the core's own store.
//!
//! Owns: the bridge from async bodies to the core's calls that block. Promises: no thread waits for a client; what a client has sent of
//! a body that breaks off is kept; a few batches of each body are in memory; a disk that hangs holds its own calls only.
//! Leaves out: hashing, durability, verified reads (`securereg::Content`).

use super::failure::{Code, Failure};
use super::storage::{Admit, Kind, Outcome, Put, Storage};
use crate::request;
use async_trait::async_trait;
use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use securereg::{Content, ContentDigest, Error, ErrorKind, Registry, RepositoryName, Upload, VerifiedFile};
use securereg_oci::Digest;
use securereg_oci::Repository;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

/// Bytes that are handed to the core at once.
const BATCH: usize = 1 << 20;
/// Batches of a body that are read before they are asked for: so many when only a few bodies come at once, else one.
const AHEAD: usize = 3;
const FEW: usize = 8;
/// A frame of a body that is smaller is copied.
const LITTLE: usize = 8 << 10;
/// Calls that block at once, of those that read and of those that write.
const CALLS: usize = 24;

/// The core's content, for requests.
pub(crate) struct Local {
    content: Content,
    /// Calls that hash, write and change: an upload may keep one for as long as it is large.
    writes: Arc<Semaphore>,
    /// Calls that read, which wait for none of those.
    reads: Arc<Semaphore>,
    /// Time for the next bytes of a body.
    patience: Duration,
    /// Each body that is coming in has one more of it.
    bodies: Arc<()>,
}

impl Local {
    pub(crate) fn new(registry: &Registry, patience: Duration) -> Local {
        let (writes, reads) = (Arc::new(Semaphore::new(CALLS)), Arc::new(Semaphore::new(CALLS)));
        Local { content: registry.content(), writes, reads, patience, bodies: Arc::default() }
    }

    /// Threads that its calls can take together.
    pub(crate) const fn threads() -> usize {
        2 * CALLS
    }

    /// Starts a call that writes on a thread that may block.
    async fn start<T, F>(&self, call: F) -> JoinHandle<Outcome<T>>
    where
        T: Send + 'static,
        F: FnOnce(&Content) -> Result<T, Error> + Send + 'static,
    {
        self.start_among(&self.writes, call).await
    }

    async fn start_among<T, F>(&self, permits: &Arc<Semaphore>, call: F) -> JoinHandle<Outcome<T>>
    where
        T: Send + 'static,
        F: FnOnce(&Content) -> Result<T, Error> + Send + 'static,
    {
        let permit = Arc::clone(permits).acquire_owned().await;
        let content = self.content.clone();
        request::blocking(move || {
            let outcome = call(&content).map_err(failure);
            drop(permit);
            outcome
        })
    }

    async fn call<T, F>(&self, call: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnOnce(&Content) -> Result<T, Error> + Send + 'static,
    {
        ended(self.start(call).await).await
    }

    /// A call that only reads.
    async fn look<T, F>(&self, call: F) -> Outcome<T>
    where
        T: Send + 'static,
        F: FnOnce(&Content) -> Result<T, Error> + Send + 'static,
    {
        ended(self.start_among(&self.reads, call).await).await
    }

    /// Takes a session, and adds `body` to it as it comes; a batch is hashed while the next one arrives.
    async fn fill(&self, repository: &Repository, id: &str, admit: Admit<'_>, body: Body) -> Outcome<Session> {
        let (name, id) = (plain(repository)?, id.to_owned());
        let mut session = self.call(move |content| content.resume(&name, &id).map(Session::new)).await?;
        if let Err(refused) = admit(session.size()) {
            self.call(move |_| session.with(Upload::suspend)).await?;
            return Err(refused);
        }
        let mut batches = Ahead::of(body, self.patience, Arc::clone(&self.bodies));
        let broken = loop {
            let batch = match batches.next().await {
                Ok(Some(batch)) => batch,
                Ok(None) => break None,
                Err(broken) => break Some(broken),
            };
            let append = move |mut upload: Upload| {
                batch.iter().try_for_each(|bytes| upload.append(bytes))?;
                Ok(Session::new(upload))
            };
            session = self.call(move |_| session.with(append)).await?;
        };
        match broken {
            None => Ok(session),
            Some(broken) => {
                self.call(move |_| session.with(Upload::suspend)).await?;
                Err(broken)
            }
        }
    }
}

/// An upload in the hands of a request, which may be dropped at any moment: it is left by a thread that may block.
struct Session(Option<Upload>);

impl Session {
    fn new(upload: Upload) -> Session {
        Session(Some(upload))
    }

    fn size(&self) -> u64 {
        self.0.as_ref().map_or(0, Upload::size)
    }

    fn with<T>(mut self, act: impl FnOnce(Upload) -> Result<T, Error>) -> Result<T, Error> {
        match self.0.take() {
            Some(upload) => act(upload),
            None => Err(Error::new(ErrorKind::Io, "an upload is lost")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(upload));
        }
    }
}

/// A body that is read while what came before it is hashed.
struct Ahead {
    /// Batches, and none at the end: without that it has broken off.
    ready: mpsc::Receiver<Outcome<Option<Vec<Bytes>>>>,
    /// How it ends, once all before it is taken.
    end: Option<Outcome<()>>,
    reading: JoinHandle<()>,
}

impl Ahead {
    fn of(body: Body, patience: Duration, one_more: Arc<()>) -> Ahead {
        let few = Arc::strong_count(&one_more) <= 1 + FEW;
        let (sender, ready) = mpsc::channel(if few { AHEAD } else { 1 });
        let mut batches = Batches::new(body, patience);
        let reading = tokio::spawn(async move {
            let _counted = one_more;
            loop {
                let next = batches.next().await;
                let last = !matches!(next, Ok(Some(_)));
                if sender.send(next).await.is_err() || last {
                    return;
                }
            }
        });
        Ahead { ready, end: None, reading }
    }

    /// All that is there, or the next batch; none at the end.
    async fn next(&mut self) -> Outcome<Option<Vec<Bytes>>> {
        let mut all = Vec::new();
        if self.end.is_none() {
            let mut batches = Vec::new();
            if self.ready.recv_many(&mut batches, AHEAD).await == 0 {
                self.end = Some(Err(early()));
            }
            for batch in batches {
                match batch {
                    Ok(Some(mut batch)) => all.append(&mut batch),
                    Ok(None) => self.end = Some(Ok(())),
                    Err(broken) => self.end = Some(Err(broken)),
                }
            }
        }
        match &self.end {
            Some(end) if all.is_empty() => end.clone().map(|()| None),
            _ => Ok(Some(all)),
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A body, in pieces of about [`BATCH`].
pub(super) struct Batches {
    body: Body,
    patience: Duration,
    /// What was read ahead.
    left: Option<Outcome<Option<Vec<Bytes>>>>,
}

impl Batches {
    pub(super) fn new(body: Body, patience: Duration) -> Batches {
        Batches { body, patience, left: None }
    }

    pub(super) async fn next(&mut self) -> Outcome<Option<Vec<Bytes>>> {
        if let Some(left) = self.left.take() {
            return left;
        }
        let (mut batch, mut size, mut little) = (Vec::new(), 0, BytesMut::new());
        while size < BATCH {
            let frame = match tokio::time::timeout(self.patience, self.body.frame()).await {
                Ok(None) => {
                    // A stream may not be asked again.
                    self.left = Some(Ok(None));
                    break;
                }
                Ok(Some(Ok(frame))) => frame,
                // What came before it is kept first.
                Ok(Some(Err(_))) if size > 0 => {
                    self.left = Some(Err(early()));
                    break;
                }
                Err(_) if size > 0 => {
                    self.left = Some(Err(late()));
                    break;
                }
                Ok(Some(Err(_))) => return Err(early()),
                Err(_) => return Err(late()),
            };
            if let Ok(bytes) = frame.into_data() {
                size += bytes.len();
                // A body may come byte by byte, and each keeps the memory that it was read into.
                if bytes.len() < LITTLE {
                    little.extend_from_slice(&bytes);
                    continue;
                }
                if !little.is_empty() {
                    batch.push(little.split().freeze());
                }
                batch.push(bytes);
            }
        }
        if !little.is_empty() {
            batch.push(little.freeze());
        }
        Ok((size > 0).then_some(batch))
    }
}

fn early() -> Failure {
    Failure::new(Code::BlobUploadInvalid, "the body ended early; what arrived is kept")
}

fn late() -> Failure {
    Failure::new(Code::BlobUploadInvalid, "the body did not arrive in time; what arrived is kept").with_status(408)
}

async fn ended<T>(handle: JoinHandle<Outcome<T>>) -> Outcome<T> {
    handle.await.unwrap_or_else(|e| {
        tracing::error!(error = %e, "a call into the store did not return");
        Err(internal())
    })
}

fn internal() -> Failure {
    Failure::new(Code::Unsupported, "internal error; the service's log says more").with_status(500)
}

/// What went wrong, as the protocol says it.
pub(super) fn failure(e: Error) -> Failure {
    let (code, status) = match e.kind() {
        ErrorKind::NotFound => (Code::BlobUploadUnknown, 404),
        ErrorKind::DigestMismatch => (Code::DigestInvalid, 400),
        ErrorKind::InvalidInput => (Code::NameInvalid, 400),
        ErrorKind::Conflict => (Code::BlobUploadInvalid, 409),
        ErrorKind::TooLarge => (Code::TooManyRequests, 429),
        ErrorKind::NoSpace => (Code::Denied, 507),
        ErrorKind::Corrupt | ErrorKind::Unreadable => {
            tracing::error!(error = %e, "stored content is damaged");
            (Code::BlobUnknown, 500)
        }
        _ => {
            tracing::error!(error = %e, "the store failed");
            return internal();
        }
    };
    Failure::new(code, e.message()).with_status(status)
}

fn plain(repository: &Repository) -> Outcome<RepositoryName> {
    repository.as_str().parse().map_err(failure)
}

fn digest_of(digest: &Digest) -> Outcome<ContentDigest> {
    digest.to_string().parse().map_err(failure)
}

/// The core's word for it, with the text that its borrowed kinds need.
enum OwnKind {
    Manifest,
    Tag,
    Referrer(String),
    Holder(String),
}

impl OwnKind {
    fn of(kind: Kind<'_>) -> OwnKind {
        let text = |digest: &Digest| digest.to_string().replacen(':', "-", 1);
        match kind {
            Kind::Manifest => OwnKind::Manifest,
            Kind::Tag => OwnKind::Tag,
            Kind::Referrer(digest) => OwnKind::Referrer(text(digest)),
            Kind::Holder(digest) => OwnKind::Holder(text(digest)),
        }
    }

    fn core(&self) -> securereg::Kind<'_> {
        match self {
            OwnKind::Manifest => securereg::Kind::Manifest,
            OwnKind::Tag => securereg::Kind::Tag,
            OwnKind::Referrer(text) => securereg::Kind::Referrer(text),
            OwnKind::Holder(text) => securereg::Kind::Holder(text),
        }
    }
}

#[async_trait]
impl Storage for Local {
    async fn begin(&self, repository: &Repository) -> Outcome<String> {
        let name = plain(repository)?;
        let begin = move |content: &Content| {
            let upload = content.begin(&name)?;
            let id = upload.id().to_owned();
            upload.suspend()?;
            Ok(id)
        };
        self.call(begin).await.map_err(|e| match e.status {
            // Of a beginning: there are as many as there may be.
            409 => Failure::new(Code::TooManyRequests, e.message.clone()),
            _ => e,
        })
    }

    async fn upload_size(&self, repository: &Repository, id: &str) -> Outcome<u64> {
        let (name, id) = (plain(repository)?, id.to_owned());
        self.look(move |content| content.upload_size(&name, &id)).await
    }

    async fn append(&self, repository: &Repository, id: &str, admit: Admit<'_>, body: Body) -> Outcome<u64> {
        let session = self.fill(repository, id, admit, body).await?;
        let size = session.size();
        self.call(move |_| session.with(Upload::suspend)).await?;
        Ok(size)
    }

    async fn finish(
        &self,
        repository: &Repository,
        id: &str,
        admit: Admit<'_>,
        body: Body,
        digest: &Digest,
    ) -> Outcome<()> {
        let digest = digest_of(digest)?;
        let session = self.fill(repository, id, admit, body).await?;
        self.call(move |_| session.with(|upload| upload.finish(&digest)).map(drop)).await
    }

    async fn abandon(&self, repository: &Repository, id: &str) -> Outcome<()> {
        let (name, id) = (plain(repository)?, id.to_owned());
        self.call(move |content| content.abandon(&name, &id)).await
    }

    async fn expire(&self, older_than: Duration) -> Outcome<usize> {
        self.call(move |content| content.expire_uploads(older_than)).await
    }

    async fn blob(&self, repository: &Repository, digest: &Digest) -> Outcome<Option<u64>> {
        let (name, digest) = (plain(repository)?, digest_of(digest)?);
        self.look(move |content| Ok(content.blob(&name, &digest)?.map(|held| held.size_bytes))).await
    }

    async fn renew(&self, repository: &Repository, digest: &Digest) -> Outcome<Option<u64>> {
        let (name, digest) = (plain(repository)?, digest_of(digest)?);
        self.look(move |content| Ok(content.renew(&name, &digest)?.map(|held| held.size_bytes))).await
    }

    async fn read(&self, repository: &Repository, digest: &Digest, from: u64, to: u64) -> Outcome<Body> {
        let (name, digest) = (plain(repository)?, digest_of(digest)?);
        let first = move |content: &Content| {
            let file = content.open(&name, &digest)?;
            let bytes = piece(&file, from, to)?;
            Ok((Arc::new(file), bytes))
        };
        let (file, bytes) = self.look(first).await?;
        let at = from + bytes.len() as u64;
        if at == to {
            return Ok(Body::from(bytes));
        }
        Ok(Body::new(StreamBody::new(Reading::new(file, Arc::clone(&self.reads), bytes, at, to))))
    }

    async fn mount(&self, from: &Repository, to: &Repository, digest: &Digest) -> Outcome<bool> {
        let (from, to, digest) = (plain(from)?, plain(to)?, digest_of(digest)?);
        self.call(move |content| content.mount(&from, &to, &digest)).await
    }

    async fn remove_blob(&self, repository: &Repository, digest: &Digest) -> Outcome<bool> {
        let (name, digest) = (plain(repository)?, digest_of(digest)?);
        self.call(move |content| content.remove_blob(&name, &digest)).await
    }

    async fn put(
        &self,
        repository: &Repository,
        kind: Kind<'_>,
        name: &str,
        bytes: Bytes,
        put: Put<'_>,
    ) -> Outcome<bool> {
        let (repository, kind, name) = (plain(repository)?, OwnKind::of(kind), name.to_owned());
        let (before, new) = match put {
            Put::Always => (None, false),
            Put::New => (None, true),
            Put::Instead(before) => (Some(before.to_vec()), false),
        };
        let put = move |content: &Content| {
            let how = match (&before, new) {
                (Some(before), _) => securereg::Put::IfIs(before),
                (None, true) => securereg::Put::New,
                (None, false) => securereg::Put::Any,
            };
            content.put(&repository, &kind.core(), &name, &bytes, how)
        };
        self.call(put).await
    }

    async fn get(&self, repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<Option<Bytes>> {
        let (repository, kind, name) = (plain(repository)?, OwnKind::of(kind), name.to_owned());
        self.look(move |content| Ok(content.get(&repository, &kind.core(), &name)?.map(Bytes::from))).await
    }

    async fn remove(&self, repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<bool> {
        let (repository, kind, name) = (plain(repository)?, OwnKind::of(kind), name.to_owned());
        self.call(move |content| content.remove(&repository, &kind.core(), &name)).await
    }

    async fn list(
        &self,
        repository: &Repository,
        kind: Kind<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Outcome<Vec<String>> {
        let (repository, kind, after) = (plain(repository)?, OwnKind::of(kind), after.map(str::to_owned));
        self.look(move |content| content.list(&repository, &kind.core(), after.as_deref(), limit)).await
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Outcome<Vec<Repository>> {
        let after = after.map(str::to_owned);
        let names = self.look(move |content| content.repositories(after.as_deref(), limit)).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

/// The next bytes of a blob, checked.
fn piece(file: &VerifiedFile, from: u64, to: u64) -> Result<Bytes, Error> {
    let length = usize::try_from(to - from).unwrap_or(usize::MAX).min(BATCH);
    let bytes = file.read_bytes(from, length)?;
    if bytes.as_ref().len() < length {
        return Err(Error::new(ErrorKind::Corrupt, "a stored blob ended early"));
    }
    Ok(Bytes::from_owner(bytes))
}

/// A blob being sent: a piece goes out while the next one is read.
struct Reading {
    file: Arc<VerifiedFile>,
    permits: Arc<Semaphore>,
    ready: Option<Bytes>,
    at: u64,
    to: u64,
    /// Of the request, which is answered before its body is.
    span: Span,
    next: Option<JoinHandle<Result<Bytes, Error>>>,
}

impl Reading {
    fn new(file: Arc<VerifiedFile>, permits: Arc<Semaphore>, ready: Bytes, at: u64, to: u64) -> Reading {
        let mut reading = Reading { file, permits, ready: Some(ready), at, to, span: Span::current(), next: None };
        reading.go_on();
        reading
    }

    fn go_on(&mut self) {
        if self.at >= self.to {
            return;
        }
        let (file, permits, at, to) = (Arc::clone(&self.file), Arc::clone(&self.permits), self.at, self.to);
        let read = async move {
            let permit = permits.acquire_owned().await;
            let read = request::blocking(move || {
                let bytes = piece(&file, at, to);
                drop(permit);
                bytes
            });
            read.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Io, "a read did not return")))
        };
        self.next = Some(tokio::spawn(read.instrument(self.span.clone())));
    }
}

impl futures_core::Stream for Reading {
    type Item = Result<Frame<Bytes>, Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::{Poll, ready};
        if let Some(bytes) = self.ready.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let read = ready!(std::pin::Pin::new(next).poll(context));
        self.next = None;
        match read {
            Ok(Ok(bytes)) => {
                self.at += bytes.len() as u64;
                self.go_on();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Ok(Err(e)) => {
                tracing::error!(error = %e, "a blob could not be read to its end");
                Poll::Ready(Some(Err(e)))
            }
            Err(_) => Poll::Ready(Some(Err(Error::new(ErrorKind::Io, "a read did not return")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use securereg_oci::Algorithm;

    #[tokio::test]
    async fn reads_do_not_wait_for_writes() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let local = Local::new(&registry, Duration::from_secs(5));
        let repository: Repository = "a".parse().expect("a name");
        let bytes = vec![7; 3 * BATCH];
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let id = local.begin(&repository).await.expect("begun");
        local.finish(&repository, &id, &|_| Ok(()), Body::from(bytes.clone()), &digest).await.expect("stored");
        let _all = local.writes.acquire_many(CALLS as u32).await.expect("free");
        let reading = async {
            assert_eq!(local.blob(&repository, &digest).await.expect("there"), Some(bytes.len() as u64));
            let body = local.read(&repository, &digest, 0, bytes.len() as u64).await.expect("there");
            assert_eq!(local.list(&repository, Kind::Tag, None, 9).await.expect("read"), [] as [&str; 0]);
            axum::body::to_bytes(body, usize::MAX).await.expect("whole")
        };
        let read = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("it waits for nobody");
        assert!(read == bytes);
    }

    fn frames(sizes: &[usize]) -> Body {
        let frames: Vec<_> = sizes.iter().map(|n| Ok::<_, Error>(Frame::data(Bytes::from(vec![1; *n])))).collect();
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    /// Each small frame would keep the memory that it was read into.
    #[tokio::test]
    async fn a_body_that_comes_byte_by_byte_is_one_piece() {
        let sizes = [vec![1; 10_000], vec![LITTLE], vec![1; 10_000]].concat();
        let batch = Batches::new(frames(&sizes), Duration::from_secs(5)).next().await.expect("whole").expect("some");
        assert_eq!(batch.iter().map(Bytes::len).collect::<Vec<_>>(), [10_000, LITTLE, 10_000]);
    }

    #[tokio::test]
    async fn only_an_end_that_is_told_ends_a_body() {
        let (sender, ready) = mpsc::channel(2);
        let mut ahead = Ahead { ready, end: None, reading: tokio::spawn(async {}) };
        sender.send(Ok(Some(vec![Bytes::from_static(b"a")]))).await.expect("room");
        drop(sender);
        assert!(matches!(ahead.next().await, Ok(Some(_))));
        assert!(ahead.next().await.is_err(), "who reads has ended without a word");
        let mut whole = Ahead::of(frames(&[1, BATCH, 1]), Duration::from_secs(5), Arc::default());
        let mut size = 0;
        while let Some(batch) = whole.next().await.expect("whole") {
            size += batch.iter().map(Bytes::len).sum::<usize>();
        }
        assert_eq!(size, BATCH + 2);
    }

    /// What a dropped request does to the disk must not hold the thread that serves others.
    #[test]
    fn a_dropped_request_leaves_its_upload_to_a_thread_that_may_block() {
        let dir = tempfile::tempdir().expect("a folder");
        let content = Registry::open_or_create(&dir.path().join("root")).expect("a root").content();
        let repo: RepositoryName = "a".parse().expect("a name");
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
        let (go, wait) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            let upload = content.begin(&repo).expect("begun");
            let id = upload.id().to_owned();
            drop(Session::new(upload));
            assert_eq!(
                content.resume(&repo, &id).expect_err("had").kind(),
                ErrorKind::Conflict,
                "it waits for a thread"
            );
            go.send(()).expect("waited for");
            let _ = busy.await;
            tokio::task::spawn_blocking(|| ()).await.expect("after it");
            content.resume(&repo, &id).expect("left");
        });
    }
}
