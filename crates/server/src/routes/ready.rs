//! `GET /ready`: whether the registry can do its work now.
//!
//! Owns: that route. Promises: no token needed, so nothing is told but a kind of error; 200 only while the manifest on disk is good, a
//! change could be written and the service is not shutting down; an answer within a second, also when a disk hangs; however
//! often it is asked, the disk is written to once a second at most. Leaves out: whether the process lives (`health`).

use super::App;
use crate::blocking::Lane;
use crate::reply::Reply;
use axum::extract::State;
use axum::http::StatusCode;
use parking_lot::Mutex;
use securereg::ErrorKind;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For so long a root that could be written to is taken to be one.
const FRESH: Duration = Duration::from_secs(1);

/// When the root was last written to.
#[derive(Default)]
pub(crate) struct Written(Mutex<Option<Instant>>);

impl Written {
    fn is_fresh(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < FRESH)
    }
}

/// 200 `{"status":"ready"}`; 503 `{"status":"unready","reason","detail"}`, the reason one of `shutting_down`, `manifest`, `no_space`,
/// `permission`, `timeout`, or another kind of error.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Reply {
    if *app.observed.stopping.borrow() {
        return unready("shutting_down", "the service is shutting down");
    }
    let asked = Arc::clone(&app);
    let call = move || {
        let checked = match asked.observed.written.is_fresh() {
            true => asked.registry.catalog().map(drop),
            false => asked.registry.check_ready().inspect(|()| *asked.observed.written.0.lock() = Some(Instant::now())),
        };
        match checked {
            Ok(()) => Reply::ok(&json!({"status": "ready"})),
            // The message may name paths; it is in the log, for those who may read that.
            Err(e) => {
                tracing::error!(error = %e, "the registry is not ready");
                unready(e.kind().as_str(), said(e.kind()))
            }
        }
    };
    own_words(app.lanes.short(Lane::Ready, call).await)
}

fn said(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Manifest => "the manifest on disk cannot be served; the service's log says why",
        ErrorKind::NoSpace => "there is no space to write a change",
        ErrorKind::Permission => "the registry's root cannot be written to",
        _ => "the registry cannot do its work; the service's log says why",
    }
}

/// What the lane says of a call that did not return is put in this route's shape.
fn own_words(reply: Reply) -> Reply {
    match reply.body()["status"] {
        serde_json::Value::Null => unready("timeout", "the registry does not answer in time"),
        _ => reply,
    }
}

fn unready(reason: &str, detail: &str) -> Reply {
    Reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "unready", "reason": reason, "detail": detail}))
}
