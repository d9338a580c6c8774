//! One request, seen from outside: its id, its line in the log, its figures.
//!
//! Owns: the layer around all routes. Promises: every answer carries an `X-Request-Id`, the client's when that is harmless, and
//! every line that is logged for a request carries it too, whichever thread writes it ([`blocking`]); what is counted is told apart by
//! the pattern of a route, never by what a client wrote. Leaves out: what is counted (`metrics`).

use crate::metrics::Metrics;
use crate::oci;
use crate::routes::App;
use crate::tokens::random_hex;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one is not taken over.
const MAX_ID: usize = 128;
/// Of a path, at most so many characters are logged.
const MAX_PATH: usize = 256;

/// By what a request is found again, in the log and by the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The client's, if it is given once and holds nothing but letters, digits and `.`, `_`, `-`; else a new one.
    fn of(headers: &HeaderMap) -> RequestId {
        let mut values = headers.get_all(&HEADER).iter();
        let given = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        };
        let plain = |id: &&str| {
            (1..=MAX_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        given.filter(plain).map_or_else(RequestId::new, |id| RequestId(id.to_owned()))
    }

    fn new() -> RequestId {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        match random_hex() {
            Ok(hex) => RequestId(hex[..32].to_owned()),
            // Nothing depends on nobody guessing it.
            Err(_) => RequestId(format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Around every route, and around the answer for what is none.
pub(crate) async fn attend(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let route = route(&request);
    let quiet = matches!(&*route, "/health" | "/ready" | "/metrics");
    let path: String = request.uri().path().chars().take(MAX_PATH).collect();
    // Of the level of errors, so that no filter that shows a line hides whose it is.
    let span = tracing::error_span!("request", %id, method = word(request.method()), path);
    let mut seen = Seen::begin(Arc::clone(&app.metrics), route, word(request.method()));
    let mut response = async move {
        let response = next.run(request).await;
        let (status, seconds) = (response.status().as_u16(), seen.answered(response.status().as_u16()));
        if quiet {
            tracing::debug!(status, seconds, "answered");
        } else {
            tracing::info!(status, seconds, "answered");
        }
        response
    }
    .instrument(span)
    .await;
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// The pattern of the route that takes this request.
fn route(request: &Request) -> Cow<'static, str> {
    match request.extensions().get::<MatchedPath>() {
        None => "none".into(),
        Some(pattern) if pattern.as_str().starts_with("/v2") => oci::pattern(request.uri().path()).into(),
        Some(pattern) => pattern.as_str().to_owned().into(),
    }
}

/// The method, if it is one that some route takes.
fn word(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// A request being answered; one that is dropped before counts as such.
struct Seen {
    metrics: Arc<Metrics>,
    route: Cow<'static, str>,
    method: &'static str,
    started: Instant,
    status: Option<u16>,
}

impl Seen {
    fn begin(metrics: Arc<Metrics>, route: Cow<'static, str>, method: &'static str) -> Seen {
        metrics.in_flight.inc();
        Seen { metrics, route, method, started: Instant::now(), status: None }
    }

    /// Notes how it was answered. How long that took, in seconds.
    fn answered(&mut self, status: u16) -> f64 {
        self.status = Some(status);
        self.started.elapsed().as_secs_f64()
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics.request(&self.route, self.method, self.status, self.started.elapsed());
    }
}

/// Runs `call` on a thread that may block; what it logs is logged for the request that asked.
pub(crate) fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(values: &[&[u8]]) -> RequestId {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value).expect("a header"));
        }
        RequestId::of(&headers)
    }

    #[test]
    fn only_a_harmless_id_of_a_client_is_taken_over() {
        let long = "a".repeat(MAX_ID);
        for good in ["a", "0af7651916cd43dd8448eb211c80319c", "Req_1.2-x", &long] {
            assert_eq!(id_of(&[good.as_bytes()]).0, good);
        }
        let too_long = "a".repeat(MAX_ID + 1);
        let bad: [&[u8]; 8] = [b"", b"a b", b"a\tb", b"a\"b", b"a=b", b"\xc3\xa4", b"\xff", too_long.as_bytes()];
        let two: [&[u8]; 2] = [b"a", b"b"];
        let bad = bad.iter().map(std::slice::from_ref).chain([&two[..0], &two]);
        for bad in bad {
            let (one, other) = (id_of(bad), id_of(bad));
            assert_eq!(one.0.len(), 32, "{bad:?}: {one}");
            assert_ne!(one, other, "each is new");
        }
    }
}
