//! `GET /health`: whether the registry serves.
//!
//! Owns: that route. Promises: no token needed, so nothing is told but counts and a kind of error; an answer within a
//! second, also when a disk hangs. Leaves out: the health of the mount.

use super::App;
use crate::blocking::Lane;
use crate::reply::Reply;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use std::sync::Arc;

/// 200 `{"status":"ok","model_count":N,"generation":G,"version":V}`; 503 `{"status":"degraded","kind","detail"}` when the
/// manifest on disk is not the one loaded and cannot be, or when the registry does not answer.
pub(super) async fn health(State(app): State<Arc<App>>) -> Reply {
    let registry = app.registry.clone();
    let call = move || match registry.catalog() {
        Ok(catalog) => Reply::ok(&json!({
            "status": "ok",
            "model_count": catalog.len(),
            "generation": catalog.generation(),
            "version": env!("CARGO_PKG_VERSION"),
        })),
        // The message may name paths; it is in the log, for those who may read that.
        Err(e) => {
            tracing::error!(error = %e, "the registry is degraded");
            degraded(e.kind().as_str(), "the manifest on disk cannot be served; the service's log says why")
        }
    };
    own_words(app.lanes.short(Lane::Health, call).await)
}

/// What the lane says of a call that did not return is put in this route's shape.
fn own_words(reply: Reply) -> Reply {
    match reply.body()["status"] {
        serde_json::Value::Null => degraded("timeout", "the registry does not answer in time"),
        _ => reply,
    }
}

fn degraded(kind: &str, detail: &str) -> Reply {
    Reply::json(
        StatusCode::SERVICE_UNAVAILABLE,
        &json!({"status": "degraded", "kind": kind, "detail": detail, "version": env!("CARGO_PKG_VERSION")}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t17_a_registry_that_does_not_answer_is_degraded() {
        let hung = own_words(Reply::failure(StatusCode::SERVICE_UNAVAILABLE, "timeout", "slow"));
        assert_eq!((hung.status(), &hung.body()["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("degraded")));
        assert_eq!(own_words(Reply::ok(&json!({"status": "ok"}))).body(), json!({"status": "ok"}));
    }
}
