//! `GET /v1/jobs/{id}`: long work that was asked for with `Prefer: respond-async`.
//!
//! Owns: that route. Promises: a job shows to callers with a token of its scope, or admin; to others it does not exist.
//! Leaves out: jobs themselves (`crate::jobs`).

use super::App;
use crate::auth::Caller;
use crate::reply::{Answer, Reply};
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use std::sync::Arc;

/// 200 `{"id","kind","name","state":"queued|running|done","progress":{"phase","done_bytes","total_bytes"},
/// "result":{"status","body"}}`, the last two when there is one; 404.
pub(super) async fn job(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Answer {
    let Path(id) = id.map_err(|_| Reply::invalid("the job's id is not UTF-8"))?;
    app.jobs.describe(&id, &caller)
}
