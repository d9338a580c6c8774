//! The OCI registry: `/v2/` of the distribution-spec 1.1.1, on the same listener as the model API.
//!
//! Owns: the dispatch of a request by method and target, and what all handlers share ([`Oci`]). Promises: who asks, and whether that
//! one may, is settled before anything is looked at; every answer is the spec's (codes, headers, JSON errors). Leaves out: the
//! protocol's words (`securereg_oci`), bytes (`storage`), what becomes of a model (`admission`).
//!
//! ```text
//! request ── access ── path ── blobs, uploads, manifests, listings ── storage (local | s3)
//!                                         └─ admission ── securereg::Registry::promote
//! ```

mod access;
mod admission;
mod blobs;
#[cfg(test)]
mod conformance;
mod document;
mod failure;
mod listings;
mod local;
mod manifests;
mod path;
mod reply;
mod s3;
mod storage;
mod uploads;

use crate::blocking::Lane;
use crate::config::Config;
use crate::routes::App;
use crate::server::ServerError;
use access::{Access, Caller, Right};
use admission::Admission;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use failure::{Code, Failure};
use path::Target;
use s3::S3;
use securereg::{Actor, Noted, Registry};
use securereg_oci::tags::TagRules;
use securereg_oci::{Digest, Repository};
use std::sync::Arc;
use std::time::Duration;
use storage::{Outcome, Storage};

pub(crate) use access::{Right as AccessRight, User};
pub(crate) use admission::{describe, promote_pushed};
pub(crate) use local::Local;
pub(crate) use securereg::Glob;

/// How long an upload that nobody goes on with is kept.
const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often such are looked for.
const LOOK: Duration = Duration::from_secs(3600);

/// What the handlers share.
pub(crate) struct Oci {
    storage: Arc<dyn Storage>,
    access: Access,
    rules: TagRules,
    admission: Admission,
    /// As clients see it, when a proxy does not say.
    external_url: Option<String>,
}

impl Oci {
    /// As the settings have it.
    pub(crate) fn new(registry: &Registry, config: &Config) -> Result<Oci, ServerError> {
        let (users, rules, manual) = config.oci()?;
        let patience = config.limits.body_timeout;
        let storage: Arc<dyn Storage> = match &config.oci.s3 {
            None => Arc::new(Local::new(registry, patience)),
            Some(settings) => Arc::new(S3::new(settings, registry, patience)?),
        };
        let external_url = config.oci.external_url.clone();
        Ok(Oci { storage, access: Access::new(users), rules, admission: Admission::new(manual), external_url })
    }

    /// Goes on with what was pushed and not judged when the last process ended; from time to time, ends uploads that nobody goes on with.
    pub(crate) async fn resume(app: &Arc<App>) {
        let mut start = true;
        loop {
            admission::resume(app, std::mem::take(&mut start)).await;
            let staging = app.registry.staging();
            match tokio::task::spawn_blocking(move || securereg_layers::sweep(&staging)).await {
                Ok(Ok(0)) => {}
                Ok(Ok(swept)) => tracing::info!(swept, "folders that a killed process had unpacked were removed"),
                failed => tracing::error!(?failed, "unpacked folders were not looked for"),
            }
            match app.oci.storage.expire(EXPIRY).await {
                Ok(0) => {}
                Ok(ended) => tracing::info!(ended, "uploads that nobody went on with have expired"),
                Err(e) => tracing::error!(error = %e.message, "expired uploads were not looked for"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A request that may be answered.
struct Asked {
    parts: Parts,
    caller: Caller,
    app: Arc<App>,
}

impl Asked {
    fn oci(&self) -> &Oci {
        &self.app.oci
    }

    fn storage(&self) -> &dyn Storage {
        &*self.app.oci.storage
    }

    /// Whether content of a model that was not admitted is kept from this caller. Who may push is told that it is there, as clients ask
    /// before they push it again, put right.
    fn judged_only(&self, repository: &Repository) -> bool {
        let pushes = self.parts.method == Method::HEAD && self.caller.may(Right::Push, repository);
        !pushes && !self.caller.may(Right::Quarantined, repository)
    }

    /// Writes a line to the audit log, before what it announces is done; without the line it is not done.
    async fn note(&self, noted: Noted, name: &str, why: String) -> Outcome<()> {
        let (registry, name, actor) = (self.app.registry.clone(), name.to_owned(), self.actor());
        let write = move || registry.audit_note(noted, &name, &why, &actor);
        self.app.lanes.run(Lane::Change, write).await.map_err(|e| {
            tracing::error!(error = %e, "a line could not be written to the audit log");
            Failure::new(Code::Unavailable, "the audit log cannot be written, so this was not done")
        })
    }

    /// Writes down that a model that was not admitted is given to who may see such: once an hour for each, for a client reads in ranges.
    async fn note_refused(&self, repository: &Repository, digest: &Digest, why: &str) -> Outcome<()> {
        let name = format!("{repository}@{digest}");
        if self.oci().admission.is_told(&self.caller.who, &name) {
            return Ok(());
        }
        self.note(Noted::ReadRefused, &name, why.to_owned()).await?;
        self.oci().admission.told(&self.caller.who, &name);
        Ok(())
    }

    fn actor(&self) -> Actor {
        Actor::new("oci", self.caller.who.clone())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A parameter of the query; the first of its name.
    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn parameters(&self) -> Vec<(String, String)> {
        axum::extract::Query::try_from_uri(&self.parts.uri).map(|query| query.0).unwrap_or_default()
    }

    /// Where `path` is for this client: absolute, by what a proxy says it was asked, by the configuration, or by Host.
    fn location(&self, path: &str) -> String {
        let first = |name| self.header(name).and_then(|value| value.split(',').next()).map(str::trim);
        let plain =
            |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\/".contains(&b));
        if let Some(url) = &self.oci().external_url {
            return format!("{}{path}", url.trim_end_matches('/'));
        }
        let host = first("x-forwarded-host").filter(plain).or_else(|| first("host").filter(plain));
        let scheme = first("x-forwarded-proto").filter(|s| matches!(*s, "http" | "https")).unwrap_or("http");
        match host {
            Some(host) => format!("{scheme}://{host}{path}"),
            None => path.to_owned(),
        }
    }
}

/// The pattern of the route that takes this path, for figures: one of a few words, whatever the path.
pub(crate) fn pattern(path: &str) -> &'static str {
    Target::of(path.strip_prefix("/v2").unwrap_or_default()).map_or("/v2/{*rest}", |target| target.pattern())
}

/// Any request below `/v2`.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    match answer(app, request).await {
        Ok(response) => reply::dressed(response),
        Err(failure) => reply::dressed(reply::failed(&failure, head)),
    }
}

async fn answer(app: Arc<App>, request: Request) -> Outcome<Response> {
    let (parts, body) = request.into_parts();
    let Some(caller) = app.oci.access.caller(&app.tokens, &parts.headers) else {
        return Ok(reply::challenge());
    };
    let target = Target::of(parts.uri.path().strip_prefix("/v2").unwrap_or_default())?;
    let right = needed(&parts.method, &target)?;
    if let Some(repository) = target.repository().filter(|repository| !caller.may(right, repository)) {
        let why = format!("{} may not {} {repository}", caller.who, right.as_str());
        return Err(Failure::new(Code::Denied, why));
    }
    let asked = Asked { parts, caller, app };
    dispatch(asked, target, body).await
}

/// The right that this asks for.
fn needed(method: &Method, target: &Target) -> Outcome<Right> {
    let right = match (method.as_str(), target) {
        ("GET" | "HEAD", Target::Upload(..)) => Right::Push,
        ("GET" | "HEAD", _) => Right::Pull,
        ("POST", Target::Uploads(_)) => Right::Push,
        ("PATCH" | "PUT" | "DELETE", Target::Upload(..)) => Right::Push,
        ("PUT", Target::Manifest(..)) => Right::Push,
        ("DELETE", Target::Manifest(..) | Target::Blob(..)) => Right::Delete,
        _ => {
            let failure = Failure::new(Code::Unsupported, "this route does not take that method");
            return Err(failure.with_status(StatusCode::METHOD_NOT_ALLOWED.as_u16()));
        }
    };
    Ok(right)
}

async fn dispatch(asked: Asked, target: Target, body: Body) -> Outcome<Response> {
    match (asked.parts.method.as_str(), target) {
        ("GET" | "HEAD", Target::Base) => Ok(reply::base()),
        ("GET" | "HEAD", Target::Catalog) => listings::catalog(&asked).await,
        ("GET" | "HEAD", Target::Tags(repository)) => listings::tags(&asked, &repository).await,
        ("GET" | "HEAD", Target::Referrers(repository, digest)) => {
            listings::referrers(&asked, &repository, &digest).await
        }
        ("GET" | "HEAD", Target::Blob(repository, digest)) => blobs::get(&asked, &repository, &digest).await,
        ("DELETE", Target::Blob(repository, digest)) => blobs::delete(&asked, &repository, &digest).await,
        ("POST", Target::Uploads(repository)) => uploads::begin(&asked, &repository, body).await,
        ("GET" | "HEAD", Target::Upload(repository, id)) => uploads::status(&asked, &repository, &id).await,
        ("PATCH", Target::Upload(repository, id)) => uploads::append(&asked, &repository, &id, body).await,
        ("PUT", Target::Upload(repository, id)) => uploads::finish(&asked, &repository, &id, body).await,
        ("DELETE", Target::Upload(repository, id)) => uploads::abandon(&asked, &repository, &id).await,
        ("GET" | "HEAD", Target::Manifest(repository, reference)) => {
            manifests::get(&asked, &repository, &reference).await
        }
        ("PUT", Target::Manifest(repository, reference)) => manifests::put(&asked, &repository, &reference, body).await,
        ("DELETE", Target::Manifest(repository, reference)) => manifests::delete(&asked, &repository, &reference).await,
        // `needed` has refused the rest.
        _ => Err(Failure::new(Code::Unsupported, "this route does not take that method")),
    }
}
