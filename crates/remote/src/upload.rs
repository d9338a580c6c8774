//! Blobs to a registry.
//!
//! Owns: whether it is there already, and the upload if not: in one request when it is small, else in chunks. Promises: every byte that leaves was read
//! through `VerifiedFile`; an upload that broke goes on from where the registry says it is; memory holds a few megabytes of each upload,
//! whatever its size. Leaves out: which blobs (`push`).
//!
//! ```text
//! HEAD ── there ── done
//!   └─ POST ── PATCH a-b ── PATCH b-c ─ … ── PUT ?digest=
//!                └ broke: GET session, Range: 0-N ── PATCH N+1-…        the session is gone: POST
//! ```

use crate::body::Body;
use crate::client::{Ask, Client, Patience, Reply};
use crate::fail::{Trouble, broken, refused, remote};
use crate::url::Url;
use crate::watch::Meter;
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use parking_lot::Mutex;
use securereg::{Error, ErrorKind, Result, VerifiedFile};
use securereg_oci::{Digest, Repository};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What goes up in one request.
const CHUNK: u64 = 64 << 20;
/// What goes up in one request and is repeated as a whole when that breaks.
const SMALL: u64 = 1 << 20;
/// What is read at a time.
const READ: usize = 256 << 10;

/// Where a blob's bytes are.
#[derive(Clone)]
pub(crate) enum Content {
    /// In memory.
    Bytes(Bytes),
    /// In the store.
    File(Arc<VerifiedFile>),
}

/// Whether a blob had to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Sent,
    WasThere,
}

/// One blob on its way.
pub(crate) struct Upload {
    pub(crate) client: Arc<Client>,
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) content: Content,
    pub(crate) meter: Arc<Meter>,
}

/// An upload that the registry knows.
struct Session {
    url: Url,
    /// Bytes that the registry has.
    at: u64,
}

impl Upload {
    pub(crate) async fn run(self) -> Result<Done> {
        let mut patience = Patience::new();
        let mut session: Option<Session> = None;
        let mut before = 0;
        loop {
            let trouble = match self.step(&mut session).await {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => continue,
                Err(trouble) => trouble,
            };
            patience.wait(trouble).await?;
            if let Some(open) = session.take() {
                let counted = open.at;
                session = self.resumed(open).await?;
                let now = session.as_ref().map_or(0, |session| session.at);
                self.meter.add(now.saturating_sub(counted));
                self.meter.take_back(counted.saturating_sub(now));
                // A part of a chunk has arrived: that is progress, too.
                if now > before {
                    patience.renew();
                }
                before = now;
            }
        }
    }

    /// Goes one request further.
    async fn step(&self, session: &mut Option<Session>) -> Result<Option<Done>, Trouble> {
        let Some(open) = session else {
            if self.is_there().await? {
                self.meter.add(self.size);
                return Ok(Some(Done::WasThere));
            }
            *session = Some(self.begin().await?);
            return Ok(None);
        };
        if self.size <= SMALL && open.at == 0 {
            let body = self.whole().await?;
            self.close(open, body).await?;
            self.meter.add(self.size);
            return Ok(Some(Done::Sent));
        }
        if open.at < self.size {
            self.chunk(open).await?;
            return Ok(None);
        }
        self.close(open, Bytes::new()).await?;
        Ok(Some(Done::Sent))
    }

    async fn is_there(&self) -> Result<bool, Trouble> {
        let target = format!("/v2/{}/blobs/{}", self.repository, self.digest);
        let ask = Ask::new(Method::HEAD, self.client.registry().at(target));
        let reply = self.client.send(&ask, Body::empty()).await?;
        match reply.status {
            // Elsewhere, but there; where it leads may answer to a GET only.
            status if status.is_redirection() => Ok(true),
            StatusCode::OK => {
                let length = reply.header(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
                // One of another length is not what we mean, whatever the registry calls it.
                Ok(length.is_none_or(|length: u64| length == self.size))
            }
            StatusCode::NOT_FOUND => {
                self.client.keep(reply);
                Ok(false)
            }
            _ => Err(self.client.failure(reply, &format!("asking for {}", self.digest)).await),
        }
    }

    async fn begin(&self) -> Result<Session, Trouble> {
        let target = format!("/v2/{}/blobs/uploads/", self.repository);
        let ask = Ask::new(Method::POST, self.client.registry().at(target));
        let reply = self.client.send(&ask, Body::empty()).await?;
        if reply.status != StatusCode::ACCEPTED {
            return Err(self.client.failure(reply, "beginning an upload").await);
        }
        let session = Session { url: location(&reply)?, at: 0 };
        self.client.keep(reply);
        Ok(session)
    }

    /// Where a broken upload stands; none when the registry has forgotten it.
    async fn resumed(&self, session: Session) -> Result<Option<Session>> {
        let mut patience = Patience::new();
        loop {
            let ask = Ask::new(Method::GET, session.url.clone());
            let trouble = match self.client.send(&ask, Body::empty()).await {
                Ok(reply) if reply.status == StatusCode::NO_CONTENT => {
                    let url = location(&reply).unwrap_or_else(|_| session.url.clone());
                    return Ok(reply
                        .header(&RANGE)
                        .and_then(received)
                        .filter(|at| *at <= self.size)
                        .map(|at| Session { url, at }));
                }
                Ok(reply) if reply.status.is_client_error() && reply.status.as_u16() != 429 => return Ok(None),
                Ok(reply) => self.client.failure(reply, "asking how far an upload is").await,
                Err(trouble) => trouble,
            };
            patience.wait(trouble).await?;
        }
    }

    /// Sends the next chunk.
    async fn chunk(&self, session: &mut Session) -> Result<(), Trouble> {
        let (start, end) = (session.at, session.at.saturating_add(CHUNK).min(self.size));
        let failed = Arc::new(Mutex::new(None));
        let (to, from) = tokio::sync::mpsc::channel(4);
        let counted = Counted(Arc::clone(&self.meter), AtomicU64::new(0).into());
        let (content, size, failure, count) = (self.content.clone(), self.size, Arc::clone(&failed), counted.clone());
        // Ends with the request that takes from it.
        tokio::task::spawn_blocking(move || {
            let mut at = start;
            while at < end {
                let length = READ.min(usize::try_from(end - at).unwrap_or(READ));
                match read(&content, at, length, size) {
                    Ok(bytes) => {
                        at += bytes.len() as u64;
                        count.add(bytes.len() as u64);
                        if to.blocking_send(bytes).is_err() {
                            return;
                        }
                    }
                    Err(e) => {
                        *failure.lock() = Some(e);
                        return;
                    }
                }
            }
        });
        let range =
            HeaderValue::from_str(&format!("{start}-{}", end - 1)).map_err(|_| refused("a range is no header"))?;
        let ask = Ask::new(Method::PATCH, session.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(CONTENT_RANGE, range);
        let answer = self.client.send(&ask, Body::Stream(from, end - start)).await;
        let sent = counted.take();
        self.meter.take_back(sent);
        if let Some(error) = failed.lock().take() {
            return Err(error.into());
        }
        let reply = answer?;
        match reply.status {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {}
            // It has more or less than we think: it will be asked.
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_FOUND => {
                let why = format!("{} has lost count of an upload", self.client.registry());
                return Err(Trouble::passing(remote(why)));
            }
            _ => return Err(self.client.failure(reply, &format!("sending {}", self.digest)).await),
        }
        if let Some(at) = reply.header(&RANGE).and_then(received)
            && at != end
        {
            let why = format!("{} says that it has {at} bytes of {end}", self.client.registry());
            return Err(Trouble::passing(remote(why)));
        }
        session.url = location(&reply)?;
        session.at = end;
        self.meter.add(end - start);
        self.client.keep(reply);
        Ok(())
    }

    async fn close(&self, session: &Session, body: Bytes) -> Result<(), Trouble> {
        let ask = Ask::new(Method::PUT, session.url.clone().with("digest", self.digest.as_str()))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let reply = self.client.send(&ask, Body::Whole(body)).await?;
        match reply.status {
            StatusCode::CREATED => {
                self.client.keep(reply);
                Ok(())
            }
            // An answer may have been lost: then the blob is there, and the session is not.
            StatusCode::NOT_FOUND if self.is_there().await? => Ok(()),
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                let why = format!("{} has forgotten an upload", self.client.registry());
                Err(Trouble::passing(remote(why)))
            }
            _ => Err(self.client.failure(reply, &format!("ending the upload of {}", self.digest)).await),
        }
    }

    async fn whole(&self) -> Result<Bytes> {
        let (content, size) = (self.content.clone(), self.size);
        let read_all = move || {
            let mut all = Vec::new();
            while (all.len() as u64) < size {
                let at = all.len() as u64;
                let length = usize::try_from(size - at).unwrap_or(READ).min(READ);
                all.extend_from_slice(&read(&content, at, length, size)?);
            }
            Ok(Bytes::from(all))
        };
        tokio::task::spawn_blocking(read_all).await.map_err(broken)?
    }
}

/// What a chunk has added to the meter while it was under way: taken back when it ends, however it ends.
#[derive(Clone)]
struct Counted(Arc<Meter>, Arc<AtomicU64>);

impl Counted {
    fn add(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::Relaxed);
        self.0.add(bytes);
    }

    fn take(&self) -> u64 {
        self.1.swap(0, Ordering::Relaxed)
    }
}

fn read(content: &Content, at: u64, length: usize, size: u64) -> Result<Bytes> {
    let file = match content {
        Content::Bytes(bytes) => {
            let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(bytes.slice(start..start.saturating_add(length).min(bytes.len())));
        }
        Content::File(file) => file,
    };
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, at)?;
    if read == 0 {
        return Err(Error::new(ErrorKind::Corrupt, format!("{} ends before its {size} bytes", file.path())));
    }
    bytes.truncate(read);
    Ok(bytes.into())
}

/// `0-N` as how many bytes; `0-0` is what registries write of none.
fn received(text: &str) -> Option<u64> {
    let (start, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (start == "0").then(|| if last == 0 { 0 } else { last.saturating_add(1) })
}

fn location(reply: &Reply) -> Result<Url> {
    let name: HeaderName = LOCATION;
    let to = reply
        .header(&name)
        .ok_or_else(|| refused(format!("{} does not say where an upload goes on", reply.url.origin)))?;
    reply.url.join(to)
}
