//! `GET /v1/models`, `GET /v1/model/{name}`, `GET /v1/model?name=`: what models there are.
//!
//! Owns: those routes. Promises: quarantined models are listed too, with their status; one model whose evidence cannot be
//! read does not hide the others; a pushed model that is not admitted is described with the reason. Leaves out: the shape of an Artifact (`Registry::describe`).

use super::{App, either};
use crate::blocking::Lane;
use crate::body::{name_in_path, name_in_query};
use crate::reply::{Answer, Reply};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use securereg::{Error, ErrorKind, ModelName, Registry};
use serde_json::Value;
use std::sync::Arc;

/// 200 with the array of all Artifacts, sorted by name; `[]` when there are none.
pub(super) async fn list(State(app): State<Arc<App>>) -> Reply {
    let registry = app.registry.clone();
    app.lanes.short(Lane::Quick, move || either(all(&registry))).await
}

/// 200 with the Artifact; 404.
pub(super) async fn by_path(State(app): State<Arc<App>>, name: Result<Path<String>, PathRejection>) -> Answer {
    one(&app, name_in_path(name)?).await
}

/// 200 with the Artifact; 404.
pub(super) async fn by_query(State(app): State<Arc<App>>, uri: Uri) -> Answer {
    one(&app, name_in_query(&uri)?).await
}

async fn one(app: &App, name: ModelName) -> Answer {
    let registry = app.registry.clone();
    let known = registry.catalog().is_ok_and(|catalog| catalog.artifact(&name).is_some());
    if !known && let Some(pushed) = crate::oci::describe(app, &name).await {
        return Ok(Reply::ok(&pushed));
    }
    Ok(app.lanes.short(Lane::Quick, move || either(describe(&registry, &name).map(|v| Reply::ok(&v)))).await)
}

fn describe(registry: &Registry, name: &ModelName) -> Result<Value, Reply> {
    let catalog = registry.catalog()?;
    let artifact = catalog.artifact(name).ok_or_else(|| no_such(name))?;
    Ok(registry.describe(artifact)?)
}

fn all(registry: &Registry) -> Answer {
    Ok(Reply::ok(&Value::Array(registry.describe_all()?)))
}

/// As the core says it of a name it does not hold.
pub(super) fn no_such(name: &ModelName) -> Error {
    Error::new(ErrorKind::NotFound, format!("no model is called {name}")).on(name)
}
