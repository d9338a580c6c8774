//! `POST /v1/models/verify-all`, `GET /v1/integrity/status`.
//!
//! Owns: those routes. Promises: an entry for every model, whatever became of the others; the status is that of the last
//! check by whatever process. Leaves out: the check and its record (`Registry::verify_all`).

use super::verify::failed;
use super::{App, either};
use crate::auth::Caller;
use crate::blocking::Lane;
use crate::jobs::{Job, Jobs, Key, Tune};
use crate::reply::{Answer, Reply};
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use securereg::{Catalog, VerifyAll, VerifyStatus};
use serde_json::{Value, json};
use std::sync::Arc;

/// 200 `{"status":"ok","models":[{"name","status","sha256"}],"checked":N,"verified_at"}`; 409 with the same shape and
/// `"status":"failed"`, the failed entries as `POST /v1/model/verify` gives them.
pub(super) async fn verify_all(State(app): State<Arc<App>>, caller: Extension<Caller>, headers: HeaderMap) -> Answer {
    check_all(&app, caller, &headers, |reply| reply).await
}

/// The last check of all models, as [`verify_all`] gave it, with 200; `{"status":"unknown","detail"}` before the first.
pub(super) async fn status(State(app): State<Arc<App>>) -> Reply {
    let registry = app.registry.clone();
    let call = move || {
        Ok(Reply::ok(&match registry.last_verify_all()? {
            Some(all) => render(&all, &*registry.catalog()?),
            None => json!({"status": "unknown", "detail": "no integrity check has run yet"}),
        }))
    };
    app.lanes.short(Lane::Quick, move || either(call())).await
}

/// Both generations of "verify all": the same work, so one joins the other.
pub(super) async fn check_all(
    app: &Arc<App>,
    Extension(Caller { actor, .. }): Extension<Caller>,
    headers: &HeaderMap,
    tune: Tune,
) -> Answer {
    let work = move |app: &App, job: &Job| {
        let check = || {
            let all = job.attend(|task| app.registry.verify_all(&actor, task))?;
            let status = if all_verified(&all) { StatusCode::OK } else { StatusCode::CONFLICT };
            Ok(Reply::json(status, &render(&all, &*app.registry.catalog()?)))
        };
        either(check())
    };
    Jobs::answer(app, headers, Key::VerifyAll, tune, work).await
}

fn all_verified(all: &VerifyAll) -> bool {
    all.models.iter().all(|report| report.status == VerifyStatus::Verified)
}

/// An entry that is intact and yet not served says so with `"quarantined":true`.
fn render(all: &VerifyAll, catalog: &Catalog) -> Value {
    let models: Vec<Value> = all
        .models
        .iter()
        .map(|report| match report.status {
            VerifyStatus::Verified => {
                let mut entry = json!({"name": report.name, "status": "verified", "sha256": report.sha256});
                if catalog.artifact(&report.name).is_some_and(|artifact| !artifact.is_promoted()) {
                    entry["quarantined"] = json!(true);
                }
                entry
            }
            VerifyStatus::Failed | VerifyStatus::Unreadable => {
                let mut entry = failed(report);
                entry["sha256"] = json!(report.sha256);
                entry
            }
        })
        .collect();
    let status = if all_verified(all) { "ok" } else { "failed" };
    json!({"status": status, "models": models, "checked": all.checked, "verified_at": all.verified_at})
}
