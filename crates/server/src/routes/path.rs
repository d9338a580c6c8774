//! `GET /v1/model/path?name=`: where an engine finds a model.
//!
//! Owns: that route. Promises: only a path in a live mount, and never of a quarantined or tampered model. Leaves out: how
//! that is made sure (`Registry::path`).

use super::{App, either};
use crate::blocking::Lane;
use crate::body::name_in_query;
use crate::reply::{Answer, Reply};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use securereg::{ModelName, Registry};
use serde_json::json;
use std::sync::Arc;

/// 200 `{"path":"/mountpoint/..."}`; 404; 409 when no mount is live, or the model is quarantined or fails its check.
pub(super) async fn path(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    let name = name_in_query(&uri)?;
    let (registry, wanted) = (app.registry.clone(), name.clone());
    // Most answers take no time. One that needs a file hashed again first must not hold a thread that lists need.
    let lane = match app.lanes.short(Lane::Quick, move || either(opens_at_once(&registry, &wanted))).await {
        reply if reply.status() == StatusCode::OK && reply.body() == json!(false) => Lane::Open,
        reply if reply.status() == StatusCode::OK => Lane::Quick,
        reply => return Ok(reply),
    };
    let registry = app.registry.clone();
    let call = move || either(find(&registry, &name));
    Ok(match lane {
        Lane::Open => app.lanes.long(lane, call).await,
        _ => app.lanes.short(lane, call).await,
    })
}

fn opens_at_once(registry: &Registry, name: &ModelName) -> Answer {
    let catalog = registry.catalog()?;
    // What is not there, or may not be served, is refused without a look at its files.
    let at_once = catalog
        .artifact(name)
        .is_none_or(|a| !a.is_promoted() || a.files.iter().all(|file| registry.opens_at_once(&file.sha256)));
    Ok(Reply::ok(&json!(at_once)))
}

fn find(registry: &Registry, name: &ModelName) -> Answer {
    let path = registry.path(name)?;
    // A mountpoint that is not UTF-8 cannot be said in JSON; a path that names something else must not be.
    let path = path.to_str().ok_or_else(|| {
        Reply::failure(StatusCode::NOT_IMPLEMENTED, "unsupported", "the mountpoint's path is not UTF-8")
    })?;
    Ok(Reply::ok(&json!({"path": path})))
}
