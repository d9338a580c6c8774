//! Requests.
//!
//! Owns: sending, retrying, redirects, and connections that are kept. Promises: our secrets go to the registry's own address only; a redirect
//! is followed five times at most, for reads; what may pass by itself is asked again, a few times, with growing pauses; an answer that
//! does not come, or stops coming, is given up. Leaves out: what is asked (`fetch`, `upload`).

use crate::auth::Pass;
use crate::body::Body;
use crate::connect::Connector;
use crate::fail::{Trouble, refused, remote, shorten};
use crate::url::{Origin, Url};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use parking_lot::Mutex;
use securereg::{Error, ErrorKind, Result};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the next part of an answer may take.
const IDLE: Duration = Duration::from_secs(60);
/// How long an answer may take: a registry may hash a large blob before it gives one.
const ANSWER: Duration = Duration::from_secs(900);
const MAX_REDIRECTS: usize = 5;
const MAX_IDLE: usize = 8;
/// No message about a failure is longer.
const MAX_FAILURE: usize = 64 << 10;

/// A request but for its body.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Ask {
        Ask { method, url, headers: Vec::new() }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Ask {
        self.headers.push((name, value));
        self
    }
}

/// An answer, its body still to come.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Where it came from.
    pub(crate) url: Url,
    body: Incoming,
    sender: SendRequest<Body>,
}

impl Reply {
    /// A header that is text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next bytes, none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let frame = timeout(IDLE, self.body.frame()).await;
            let frame = frame.map_err(|_| self.broke(&format!("nothing came for {IDLE:?}")))?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(self.broke(&e.to_string())),
                // Trailers say nothing to us.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn broke(&self, why: &str) -> Trouble {
        Trouble::passing(remote(format!("{}: the connection broke: {why}", self.url.origin)))
    }

    /// All of it.
    pub(crate) async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Trouble> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len().saturating_add(bytes.len()) > limit {
                let why = format!("{} answers with more than {limit} bytes", self.url.origin);
                return Err(Error::new(ErrorKind::TooLarge, why).into());
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}

/// Asks one registry.
pub(crate) struct Client {
    connector: Connector,
    pass: Pass,
    idle: Mutex<Vec<(Origin, SendRequest<Body>)>>,
}

impl Client {
    pub(crate) fn new(connector: Connector, pass: Pass) -> Client {
        Client { connector, pass, idle: Mutex::default() }
    }

    /// The registry.
    pub(crate) fn registry(&self) -> &Origin {
        self.connector.registry()
    }

    /// Keeps the connection of an answer that was read to its end.
    pub(crate) fn keep(&self, reply: Reply) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push((reply.url.origin, reply.sender));
        }
    }

    fn kept(&self, origin: &Origin) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock();
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(kept, sender)| kept == origin && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    /// Sends one request as it is: no retry, no redirect, no secret.
    pub(crate) async fn once(&self, ask: &Ask, body: Body) -> Result<Reply, Trouble> {
        let origin = &ask.url.origin;
        let mut sender = match self.kept(origin) {
            Some(sender) => sender,
            None => self.connector.connect(origin).await?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = ask.method.clone();
        let bad = || refused(format!("{origin} gives an address that cannot be asked for"));
        *request.uri_mut() = ask.url.target.parse().map_err(|_| bad())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(&origin.authority()).map_err(|_| bad())?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("securereg/", env!("CARGO_PKG_VERSION"))));
        for (name, value) in &ask.headers {
            headers.append(name, value.clone());
        }
        let limit = if matches!(ask.method, Method::GET | Method::HEAD) { IDLE } else { ANSWER };
        let answer = timeout(limit, sender.send_request(request)).await;
        let answer =
            answer.map_err(|_| Trouble::passing(remote(format!("{origin} does not answer within {limit:?}"))))?;
        let answer = answer.map_err(|e| Trouble::passing(remote(format!("{origin}: the connection broke: {e}"))))?;
        let (parts, body) = answer.into_parts();
        tracing::debug!(method = %ask.method, %origin, status = parts.status.as_u16(), "asked");
        Ok(Reply { status: parts.status, headers: parts.headers, url: ask.url.clone(), body, sender })
    }

    /// Sends one request, with our secret if it is for the registry itself. A 401 is answered, and is then trouble that passes.
    pub(crate) async fn send(&self, ask: &Ask, body: Body) -> Result<Reply, Trouble> {
        if ask.url.origin != *self.registry() {
            return self.once(ask, body).await;
        }
        let (header, seen) = self.pass.header();
        let mut ask = ask.clone();
        ask.headers.extend(header.map(|header| (AUTHORIZATION, header)));
        let reply = self.once(&ask, body).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        self.pass.answer(self, &reply.headers, seen).await?;
        Err(Trouble::Passing(self.pass.wrong(&self.registry().host), Some(Duration::ZERO)))
    }

    /// The same for a read: redirects are followed.
    pub(crate) async fn read(&self, ask: &Ask) -> Result<Reply, Trouble> {
        let mut reply = self.send(ask, Body::empty()).await?;
        for _ in 0..MAX_REDIRECTS {
            if !matches!(reply.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(reply);
            }
            let to =
                reply.header(&LOCATION).ok_or_else(|| refused(format!("{} redirects to nowhere", reply.url.origin)))?;
            let next = Ask { url: reply.url.join(to)?, ..ask.clone() };
            reply = self.send(&next, Body::empty()).await?;
        }
        Err(refused(format!("{} redirects on and on", self.registry())).into())
    }

    /// What an answer that is no success means.
    pub(crate) async fn failure(&self, reply: Reply, what: &str) -> Trouble {
        let (status, origin) = (reply.status, reply.url.origin.clone());
        let after = reply.header(&RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let said = said(&reply.bytes(MAX_FAILURE).await.unwrap_or_default());
        let text = format!("{what}: {origin} answers {}{said}", status.as_u16());
        let kind = match status.as_u16() {
            401 | 403 => ErrorKind::Permission,
            404 => ErrorKind::NotFound,
            409 | 412 => ErrorKind::Conflict,
            413 => ErrorKind::TooLarge,
            507 => ErrorKind::NoSpace,
            408 | 425 | 429 | 500 | 502..=504 => return Trouble::Passing(remote(text), after),
            400..=499 => ErrorKind::Refused,
            _ => ErrorKind::Io,
        };
        Trouble::Final(Error::new(kind, text))
    }
}

/// The message of a registry's error (distribution-spec, "Error Codes"), or nothing.
fn said(bytes: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let first = &value["errors"][0];
    let text: Vec<&str> = [&first["code"], &first["message"]].into_iter().filter_map(|part| part.as_str()).collect();
    if text.is_empty() { String::new() } else { format!(" ({})", shorten(&text.join(": "))) }
}

/// How often something is tried again.
#[derive(Debug)]
pub(crate) struct Patience {
    left: u32,
}

impl Patience {
    const TRIES: u32 = 6;
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    pub(crate) fn new() -> Patience {
        Patience { left: Patience::TRIES }
    }

    /// Something was achieved: what fails from now on is new.
    pub(crate) fn renew(&mut self) {
        self.left = Patience::TRIES;
    }

    /// Waits before the next try, or gives up.
    pub(crate) async fn wait(&mut self, trouble: Trouble) -> Result<()> {
        let (error, after) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing(error, after) => (error, after),
        };
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Err(error);
        }
        let growing = Patience::FIRST * 2u32.saturating_pow(Patience::TRIES - 1 - self.left);
        let pause = after.unwrap_or(growing).min(Patience::LONGEST);
        tracing::debug!(%error, ?pause, "trying again");
        sleep(pause).await;
        Ok(())
    }
}
