//! `GET /metrics`: the figures, in Prometheus' text format 0.0.4.
//!
//! Owns: that route, who may read it, and the look at the registry that it takes. Promises: without a token only to who
//! asks from this machine, of a server that nobody else can reach, and not through a proxy; an answer within two seconds, also when
//! a disk hangs: then with what is known without it, and `securereg_scrape_complete` 0. Leaves out: what is counted where it
//! happens (`metrics`).

use super::App;
use crate::auth::{Peer, Scope};
use crate::blocking::Lane;
use crate::metrics::{FORMAT, Looked, bytes, follow};
use crate::reply::Reply;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use securereg::Cause;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a proxy on this machine says of who really asks.
const FORWARDED: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// Uploads are looked for in all repositories, and the last verification is a file of all models: no more often than this.
const SELDOM: Duration = Duration::from_secs(15);

/// When what takes long was last looked at.
#[derive(Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

/// 200 with the figures; 403 as any route of the read scope.
pub(super) async fn metrics(State(app): State<Arc<App>>, request: Request) -> Response {
    if !is_open(&app, &request) && !app.tokens.admits(Scope::Read, request.headers()) {
        let message = "a bearer token for the read scope is required";
        return Reply::failure(StatusCode::FORBIDDEN, "forbidden", message).into_response();
    }
    let looked = Arc::new(AtomicBool::new(false));
    let (asked, whole) = (Arc::clone(&app), Arc::clone(&looked));
    let look = move || {
        whole.store(look(&asked).is_ok(), Ordering::Relaxed);
        Reply::ok(&serde_json::Value::Null)
    };
    // Only whether it came back matters.
    let _ = app.lanes.short(Lane::Metrics, look).await;
    memory(&app);
    seldom(&app).await;
    app.metrics.looked.complete.set(i64::from(looked.load(Ordering::Relaxed)));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(FORMAT)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, app.metrics.text()).into_response()
}

/// Whether this request is answered without a token.
fn is_open(app: &App, request: &Request) -> bool {
    let here = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    here && app.observed.loopback_only && !FORWARDED.iter().any(|name| request.headers().contains_key(*name))
}

/// What is known without the disk.
fn memory(app: &App) {
    let Looked { calls_running, calls_limit, jobs, promotions, reads_refused, integrity_failures, .. } =
        &app.metrics.looked;
    for (lane, running, limit) in app.lanes.usage() {
        calls_running.with_label_values(&[lane]).set(running);
        calls_limit.with_label_values(&[lane]).set(limit);
    }
    for (kind, state, count) in app.jobs.counts() {
        jobs.with_label_values(&[kind, state]).set(count);
    }
    let counts = app.registry.counts();
    let _one = app.observed.looking.lock();
    for (counters, counts) in [
        (promotions, &counts.promotions),
        (reads_refused, &counts.reads_refused),
        (integrity_failures, &counts.integrity_failures),
    ] {
        for (word, count) in counts {
            follow(&counters.with_label_values(&[word]), *count);
        }
    }
}

/// What the registry's files say. Whatever fails, the rest is looked at all the same.
fn look(app: &App) -> securereg::Result<()> {
    let looked = &app.metrics.looked;
    process(looked);
    let disk = app.registry.disk().map(|disk| {
        looked.disk_free.set(bytes(disk.free_bytes));
        looked.disk_size.set(bytes(disk.size_bytes));
        looked.temp_bytes.set(bytes(disk.temp_bytes));
    });
    let lines = app.registry.audit_lines().map(|lines| follow(&looked.audit_lines, lines));
    let monitor = app.registry.monitor_state().map(|state| {
        looked.monitor_alive.set(i64::from(state.as_ref().is_some_and(|state| state.alive)));
        if let Some(state) = state {
            looked.monitor_interval.set(bytes(state.interval_seconds));
            looked.pass_done.set(bytes(state.pass_done_bytes));
            looked.pass_total.set(bytes(state.pass_total_bytes));
        }
    });
    let mounts = app.registry.mounts().map(|mounts| looked.mounts.set(mounts.len() as i64));
    let catalog = app.registry.catalog();
    looked.catalog_good.set(i64::from(catalog.is_ok()));
    let catalog = catalog.map(|catalog| {
        looked.generation.set(bytes(catalog.generation()));
        let quarantined = |cause| {
            let by = |q: &securereg::Quarantine| q.cause == cause;
            catalog.artifacts().filter(|a| a.quarantine.as_ref().is_some_and(by)).count() as i64
        };
        for cause in [Cause::Integrity, Cause::Incident] {
            looked.models_quarantined.with_label_values(&[cause.as_str()]).set(quarantined(cause));
        }
        looked.models_promoted.set(catalog.artifacts().filter(|a| a.is_promoted()).count() as i64);
        looked.models_blocked.set(catalog.blocked().count() as i64);
    });
    // A bad manifest is a figure of its own, not a look that failed.
    drop(catalog);
    disk.and(lines).and(monitor).and(mounts)
}

/// What takes long enough to be looked at seldom.
async fn seldom(app: &Arc<App>) {
    {
        let mut at = app.observed.seldom.0.lock();
        if at.is_some_and(|at| at.elapsed() < SELDOM) {
            return age(app);
        }
        // Before it is done, so that those who ask meanwhile do not do it too.
        *at = Some(Instant::now());
    }
    let asked = Arc::clone(app);
    let look = move || {
        match asked.registry.last_verify_all_at() {
            Ok(at) => asked.metrics.looked.verified_at.set(at.unwrap_or_default().as_secs_f64()),
            Err(e) => tracing::warn!(error = %e, "the last verification cannot be looked at"),
        }
        match asked.registry.content().uploads() {
            Ok((uploads, size)) => {
                asked.metrics.looked.uploads.set(bytes(uploads));
                asked.metrics.looked.upload_bytes.set(bytes(size));
            }
            Err(e) => tracing::warn!(error = %e, "uploads cannot be looked for"),
        }
        Reply::ok(&serde_json::Value::Null)
    };
    let _ = app.lanes.short(Lane::Survey, look).await;
    age(app);
}

/// How long ago the last check of all models was.
fn age(app: &App) {
    let Looked { verified_at, verified_age, .. } = &app.metrics.looked;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    // A clock that was set back does not make it younger than new.
    verified_age.set(if verified_at.get() == 0.0 { f64::INFINITY } else { (now - verified_at.get()).max(0.0) });
}

/// What /proc says of this process; what it does not say stays as it was.
fn process(looked: &Looked) {
    let page = rustix::param::page_size() as i64;
    if let Some(pages) = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| field(&text, 1)) {
        looked.resident.set(pages as i64 * page);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // The one that lists them is not counted.
        looked.descriptors.set(descriptors.count() as i64 - 1);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        looked.descriptors_limit.set(bytes(limit));
    }
    // After the name, which may hold blanks and brackets: proc_pid_stat(5), fields 14 and 15.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    if let (Some(user), Some(system)) = (field(after, 11), field(after, 12)) {
        let seconds = (user + system) as f64 / rustix::param::clock_ticks_per_second() as f64;
        looked.cpu.inc_by((seconds - looked.cpu.get()).max(0.0));
    }
}

fn field(text: &str, index: usize) -> Option<u64> {
    text.split_whitespace().nth(index)?.parse().ok()
}
