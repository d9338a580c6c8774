//! Every route, in one place.
//!
//! Owns: the table of routes with the scope of each, and what all handlers share ([`App`]). Promises: a route that is
//! not in the table does not exist; both generations of the model API run the same handlers. Leaves out: what a handler
//! does (one file each).
//!
//! | route | scope | handler |
//! |---|---|---|
//! | `GET /health` | none | [`health`] |
//! | `GET /ready` | none | [`ready`] |
//! | `GET /metrics` | none from this machine, else read | [`metrics`] |
//! | `GET /v1/models` | read | [`models`] |
//! | `GET /v1/model/{name}`, `GET /v1/model?name=` | read | [`models`] |
//! | `GET /v1/model/path?name=` | read | [`path`] |
//! | `POST /v1/promote`, `POST /v1/model/promote` | promote | [`promote`] |
//! | `DELETE /v1/model/{name}`, `DELETE /v1/model/delete?name=` | admin | [`mod@delete`] |
//! | `POST /v1/model/verify?name=` | verify | [`verify`] |
//! | `POST /v1/model/verify-manifest[?name=]` | verify | [`verify`] |
//! | `POST /v1/models/verify-all`, `GET /v1/integrity/status` | verify | [`integrity`] |
//! | `POST /api/v1/quarantine` | containment | [`quarantine`] |
//! | `/v2/...` | rights of its own | [`mod@oci`] |
//! | `GET /v1/jobs/{id}` | any token; the job's scope or admin to see it | [`jobs`] |
//!
//! `{name}` is all that follows, with slashes raw or as `%2F`, and a tag after `:`. The words that follow `/v1/model/` as
//! routes are reserved, so no model can be called like one.

mod delete;
mod health;
mod integrity;
mod jobs;
mod metrics;
mod models;
mod path;
mod promote;
mod quarantine;
mod ready;
mod verify;

use crate::auth::{Scope, Tokens, guard, guard_any};
use crate::blocking::Lanes;
use crate::config::Limits;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::oci::{self, Oci};
use crate::reply::Reply;
use crate::request;
use crate::staging::Staging;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, delete, get, post};
use parking_lot::Mutex;
use securereg::Registry;
use std::sync::Arc;
use tokio::sync::watch;

/// What all handlers share.
pub(crate) struct App {
    pub(crate) registry: Registry,
    pub(crate) tokens: Tokens,
    pub(crate) lanes: Lanes,
    pub(crate) jobs: Jobs,
    pub(crate) staging: Staging,
    pub(crate) limits: Limits,
    pub(crate) oci: Oci,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) observed: Observed,
}

/// What those who watch the service are told by.
pub(crate) struct Observed {
    /// True once a shutdown has begun.
    stopping: watch::Receiver<bool>,
    /// Whether nobody but this machine can connect.
    loopback_only: bool,
    written: ready::Written,
    seldom: metrics::Seldom,
    /// Taken for a moment, by whoever brings counters up to date.
    looking: Mutex<()>,
}

impl Observed {
    pub(crate) fn new(stopping: watch::Receiver<bool>, loopback_only: bool) -> Observed {
        let (written, seldom) = (ready::Written::default(), metrics::Seldom::default());
        Observed { stopping, loopback_only, written, seldom, looking: Mutex::default() }
    }
}

pub(crate) fn router(app: &Arc<App>) -> Router {
    let read = |routes| guard(app, Scope::Read, routes);
    let verify = |routes| guard(app, Scope::Verify, routes);
    let promote = |routes| guard(app, Scope::Promote, routes);
    let admin = |routes| guard(app, Scope::Admin, routes);
    let containment = |routes| guard(app, Scope::Containment, routes);
    Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(ready::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/models", read(get(models::list)))
        .route("/v1/models/verify-all", verify(post(integrity::verify_all)))
        .route("/v1/model", read(get(models::by_query)))
        .route("/v1/model/{*name}", read(get(models::by_path)).merge(admin(delete(delete::by_path))))
        .route("/v1/model/path", read(get(path::path)))
        .route("/v1/model/delete", admin(delete(delete::by_query)))
        .route("/v1/model/verify", verify(post(verify::verify)))
        .route("/v1/model/verify-manifest", verify(post(verify::verify_manifest)))
        .route("/v1/promote", promote(post(promote::promote)))
        .route("/v1/model/promote", promote(post(promote::promote_created)))
        .route("/v1/integrity/status", verify(get(integrity::status)))
        .route("/v1/jobs/{id}", guard_any(app, get(jobs::job)))
        .route("/api/v1/quarantine", containment(post(quarantine::quarantine)))
        .route("/v2", any(oci::handle))
        .route("/v2/", any(oci::handle))
        .route("/v2/{*rest}", any(oci::handle))
        .fallback(async || Reply::failure(StatusCode::NOT_FOUND, "not_found", "no such route"))
        .method_not_allowed_fallback(async || {
            Reply::failure(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route does not take that method")
        })
        .layer(from_fn_with_state(Arc::clone(app), request::attend))
        .with_state(Arc::clone(app))
}

/// `result` as an answer, whichever side it is.
fn either(result: Result<Reply, Reply>) -> Reply {
    result.unwrap_or_else(|error| error)
}
