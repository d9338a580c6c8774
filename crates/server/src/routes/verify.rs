//! `POST /v1/model/verify?name=`, `POST /v1/model/verify-manifest[?name=]`.
//!
//! Owns: those routes. Promises: 200 only for a model whose every stored byte was read from the disk and matched, and
//! that may be used; `safe_to_use` is a string, as callers parse it. Leaves out: the verification (`Registry::verify`).

use super::{App, either, integrity};
use crate::auth::Caller;
use crate::body::{name_in_query, optional_name_in_query};
use crate::jobs::{Job, Jobs, Key};
use crate::reply::{Answer, Reply};
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use securereg::{Actor, ModelName, VerifyReport, VerifyStatus};
use serde_json::{Value, json};
use std::sync::Arc;

/// 200 `{"name","status":"verified","sha256","safe_to_use":"true"}`; 409
/// `{"status":"failed","name","expected","actual","error","safe_to_use":"false","kind"}`; 404.
///
/// A model that is intact but stays quarantined (an incident's) is 409 too: callers take 200 as leave to use it.
pub(super) async fn verify(
    State(app): State<Arc<App>>,
    Extension(Caller { actor, .. }): Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let name = name_in_query(&uri)?;
    let key = Key::Verify(name.clone());
    let work = move |app: &App, job: &Job| {
        either(check(app, job, &name, &actor).map(|verdict| match verdict {
            Verdict::Safe(report) => Reply::ok(&json!({
                "name": report.name, "status": "verified", "sha256": report.sha256, "safe_to_use": "true",
            })),
            Verdict::Unsafe(body) => Reply::json(StatusCode::CONFLICT, &body),
        }))
    };
    Jobs::answer(&app, &headers, key, |reply| reply, work).await
}

/// Without a name: all models, always 200, `failed` entries inside. With one: 200 `{"status":"verified","name","detail"}`;
/// 409 `{"status":"failed","name","error","tensors":[{"file","tensor","kind","expected","actual","message"}],...}`, which names
/// each tensor that differs, and what else does: see docs/http.md.
pub(super) async fn verify_manifest(
    State(app): State<Arc<App>>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let Some(name) = optional_name_in_query(&uri)? else {
        let always_ok = |reply: Reply| reply.verdict_as(StatusCode::CONFLICT, StatusCode::OK);
        return integrity::check_all(&app, caller, &headers, always_ok).await;
    };
    let key = Key::VerifyManifest(name.clone());
    let Extension(Caller { actor, .. }) = caller;
    let work = move |app: &App, job: &Job| either(check_tensors(app, job, &name, &actor));
    Jobs::answer(&app, &headers, key, |reply| reply, work).await
}

enum Verdict {
    Safe(VerifyReport),
    Unsafe(Value),
}

fn check(app: &App, job: &Job, name: &ModelName, actor: &Actor) -> Result<Verdict, Reply> {
    verdict(app, job.attend(|task| app.registry.verify(name, actor, task))?)
}

fn verdict(app: &App, report: VerifyReport) -> Result<Verdict, Reply> {
    let name = &report.name;
    if report.status != VerifyStatus::Verified {
        return Ok(Verdict::Unsafe(failed(&report)));
    }
    // Intact is not the same as safe. Asked after the verification, which may have lifted a quarantine of its own.
    let catalog = app.registry.catalog()?;
    let artifact = catalog.artifact(name).ok_or_else(|| super::models::no_such(name))?;
    Ok(match &artifact.quarantine {
        None => Verdict::Safe(report),
        Some(quarantine) => Verdict::Unsafe(json!({
            "status": "failed", "name": name, "expected": report.sha256, "actual": report.sha256,
            "error": format!("its bytes are intact, but it is quarantined: {}", quarantine.reason),
            "kind": "quarantined", "safe_to_use": "false",
        })),
    })
}

/// The check of one model's tensors, of the rest of its bytes, and of whether it may be used.
fn check_tensors(app: &App, job: &Job, name: &ModelName, actor: &Actor) -> Answer {
    let report = job.attend(|task| app.registry.verify_manifest(name, actor, task))?;
    let verdict = verdict(app, report.whole)?;
    Ok(match verdict {
        Verdict::Safe(whole) => Reply::ok(&json!({
            "status": "verified", "name": whole.name, "sha256": whole.sha256, "detail": report.detail,
            "tensors_checked": report.tensors,
        })),
        Verdict::Unsafe(mut body) => {
            body["detail"] = report.detail.into();
            body["tensors"] = json!(report.differences);
            Reply::json(StatusCode::CONFLICT, &body)
        }
    })
}

/// The body that says a verification failed, or could not be made.
pub(super) fn failed(report: &VerifyReport) -> Value {
    let kind = match report.status {
        VerifyStatus::Verified | VerifyStatus::Failed => "corrupt",
        // Never called corrupt: nothing is known of the content.
        VerifyStatus::Unreadable => "unreadable",
    };
    json!({
        "status": "failed", "name": report.name, "kind": kind, "safe_to_use": "false",
        "expected": report.expected.clone().unwrap_or_else(|| report.sha256.to_hex()),
        "actual": report.actual.clone().unwrap_or_default(),
        "error": report.error.clone().unwrap_or_else(|| "the stored bytes are not what was promoted".to_owned()),
    })
}
