//! What a handler answers: a status and a JSON body.
//!
//! Owns: [`Reply`], the shape of every error (`{"error","kind"}`, with `name`, `expected`, `actual` and `findings` where
//! they are known), and the headers each answer carries. Promises: every body is JSON and says so, is not sniffed and not cached.
//! Leaves out: which kind is which status (`status`).

use crate::status;
use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use securereg::{Error, ErrorKind};
use serde_json::{Value, json};

/// An answer, complete: it can be kept by a job and given to several clients.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: StatusCode,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the body is an error, not a verdict: a failed verification is a 409 that is no error.
    error: bool,
}

/// What handlers return; both sides are answers.
pub(crate) type Answer = Result<Reply, Reply>;

impl Reply {
    /// `body` with `status`, as the outcome of what was asked.
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Reply { status, body: Bytes::from(body.to_string()), headers: Vec::new(), error: false }
    }

    /// `body` with 200.
    pub(crate) fn ok(body: &Value) -> Self {
        Reply::json(StatusCode::OK, body)
    }

    /// A failure that the core knows nothing of.
    pub(crate) fn failure(status: StatusCode, kind: &str, message: &str) -> Self {
        Reply { error: true, ..Reply::json(status, &json!({"error": message, "kind": kind})) }
    }

    /// A request that is malformed; `message` names the field.
    pub(crate) fn invalid(message: &str) -> Self {
        Reply::failure(StatusCode::BAD_REQUEST, ErrorKind::InvalidInput.as_str(), message)
    }

    /// More work than is taken on at once.
    pub(crate) fn busy(status: StatusCode, message: &str) -> Self {
        Reply::failure(status, "busy", message).with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// A panic or a lost task; its text stays in the log.
    pub(crate) fn internal() -> Self {
        Reply::failure(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error; the service's log says more")
    }

    /// The same answer with one more header.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same answer, with `to` in place of the status `from`, unless it is an error.
    #[must_use]
    pub(crate) fn verdict_as(mut self, from: StatusCode, to: StatusCode) -> Self {
        if !self.error && self.status == from {
            self.status = to;
        }
        self
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Its body, to be shown inside another one.
    pub(crate) fn body(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl From<Error> for Reply {
    fn from(e: Error) -> Self {
        let mut body = json!({"error": e.to_string(), "kind": e.kind().as_str()});
        if let Some(name) = e.name() {
            body["name"] = name.into();
        }
        if let Some((expected, actual)) = e.digests() {
            body["expected"] = expected.into();
            body["actual"] = actual.into();
        }
        if !e.findings().is_empty() {
            body["findings"] = json!(e.findings());
        }
        Reply { error: true, ..Reply::json(status::of(e.kind()), &body) }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // A cached "promoted" or a cached path would outlive a quarantine.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}
