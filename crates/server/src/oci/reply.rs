//! Answers in the spec's form.
//!
//! Owns: the headers that all have, errors, the challenge. Promises: what a back end says of itself never comes out. Leaves out: codes
//! and their status (`securereg_oci::error`).

use super::failure::{Code, Failure};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

/// Of distribution's first version of the API; docker looks for it.
const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

/// Asks for a password. Without it podman takes any password, and docker sends none.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"securereg\", charset=\"UTF-8\"");

/// An answer being made.
pub(super) struct Answer(Response);

impl Answer {
    pub(super) fn new(status: StatusCode) -> Answer {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        Answer(response)
    }

    /// With a header; a value that cannot be one is left out.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Answer {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.0.headers_mut().insert(HeaderName::from_static(name), value);
        }
        self
    }

    #[must_use]
    pub(super) fn with_some(self, name: &'static str, value: Option<impl AsRef<str>>) -> Answer {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(super) fn body(mut self, body: impl Into<Body>) -> Response {
        *self.0.body_mut() = body.into();
        self.0
    }

    pub(super) fn empty(self) -> Response {
        self.with("content-length", "0").0
    }

    /// Of HEAD, or of an answer that has no body at all (204).
    pub(super) fn bare(self) -> Response {
        self.0
    }
}

pub(super) fn base() -> Response {
    Answer::new(StatusCode::OK).with("content-type", "application/json").body("{}")
}

pub(super) fn challenge() -> Response {
    let failure = Failure::new(Code::Unauthorized, "a password is required: a token of the registry (docker login)");
    let mut response = failed(&failure, false);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, CHALLENGE);
    response
}

pub(super) fn failed(failure: &Failure, head: bool) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let answer = Answer::new(status).with("content-type", "application/json");
    let answer = failure.headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value));
    if head { answer.bare() } else { answer.body(failure.body()) }
}

/// With the headers that every answer has.
pub(super) fn dressed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(VERSION.0, VERSION.1);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
