//! `DELETE /v1/model/{name}`, `DELETE /v1/model/delete?name=`.
//!
//! Owns: those routes. Promises: only a name that passes the allow-list reaches the core. Leaves out: which blobs go with
//! an entry (`Registry::delete`).

use super::{App, either};
use crate::auth::Caller;
use crate::blocking::Lane;
use crate::body::{name_in_path, name_in_query};
use crate::reply::{Answer, Reply};
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use securereg::ModelName;
use serde_json::json;
use std::sync::Arc;

/// 200 `{"status":"deleted","name"}`; 404.
pub(super) async fn by_path(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
) -> Answer {
    delete(&app, caller, name_in_path(name)?).await
}

/// 200 `{"status":"deleted","name"}`; 404.
pub(super) async fn by_query(State(app): State<Arc<App>>, Extension(caller): Extension<Caller>, uri: Uri) -> Answer {
    delete(&app, caller, name_in_query(&uri)?).await
}

async fn delete(app: &App, caller: Caller, name: ModelName) -> Answer {
    let registry = app.registry.clone();
    let call = move || {
        registry.delete(&name, &caller.actor)?;
        Ok(Reply::ok(&json!({"status": "deleted", "name": name})))
    };
    Ok(app.lanes.short(Lane::Change, move || either(call())).await)
}
