//! Long work: promotions and verifications.
//!
//! Owns: the table of jobs, queued, running and lately finished. Promises: a job runs to its end whether or not anyone
//! waits; a request that equals one still running joins it and gets its answer; the number of jobs is bounded, and so is
//! the number of requests that wait; a shutdown cancels what does not end in time, and a cancelled promotion leaves
//! nothing behind. Leaves out: what the work is (`routes`).
//!
//! ```text
//! start ──> queued ──> running ──> done (kept for a while, oldest forgotten first)
//!   └ same key as a queued or running one: join
//! ```

use crate::auth::{Caller, Scope};
use crate::blocking::Lane;
use crate::config::Limits;
use crate::reply::{Answer, Reply};
use crate::routes::App;
use crate::tokens::random_hex;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use securereg::signing::SignatureFile;
use securereg::{Format, ModelName, Phase, Progress, RelPath, Sha256Digest, Task};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;

/// What a job does, in full: two requests with equal keys ask for the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Key {
    Promote(Box<Promote>),
    Verify(ModelName),
    VerifyManifest(ModelName),
    VerifyAll,
}

/// Everything a promotion was asked with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Promote {
    pub(crate) name: ModelName,
    pub(crate) wanted: PathBuf,
    pub(crate) filename: Option<RelPath>,
    pub(crate) sha256: Sha256Digest,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) format: Option<Format>,
    pub(crate) source: String,
    pub(crate) signature: Option<Signature>,
    pub(crate) evidence: Map<String, Value>,
}

/// What [`Key::what`] may say.
const KINDS: [&str; 4] = ["promote", "verify", "verify-manifest", "verify-all"];

/// A signature that does not lie with its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    /// In a staging folder.
    Staged(PathBuf),
    /// In the request itself.
    Inline(SignatureFile),
}

impl Key {
    fn what(&self) -> &'static str {
        match self {
            Key::Promote(_) => "promote",
            Key::Verify(_) => "verify",
            Key::VerifyManifest(_) => "verify-manifest",
            Key::VerifyAll => "verify-all",
        }
    }

    fn name(&self) -> Option<&ModelName> {
        match self {
            Key::Promote(p) => Some(&p.name),
            Key::Verify(name) | Key::VerifyManifest(name) => Some(name),
            Key::VerifyAll => None,
        }
    }

    fn lane(&self) -> Lane {
        match self {
            Key::Promote(_) => Lane::Promote,
            Key::Verify(_) | Key::VerifyManifest(_) | Key::VerifyAll => Lane::Verify,
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Key::Promote(_) => Scope::Promote,
            Key::Verify(_) | Key::VerifyManifest(_) | Key::VerifyAll => Scope::Verify,
        }
    }
}

/// How the route that asked wants a verdict's status; the work is the same for all.
pub(crate) type Tune = fn(Reply) -> Reply;

/// One piece of long work.
pub(crate) struct Job {
    id: String,
    key: Key,
    tune: Tune,
    running: AtomicBool,
    cancelled: AtomicBool,
    progress: Mutex<Option<Progress>>,
    done: watch::Sender<Option<Reply>>,
}

impl Job {
    /// Calls `work` with a task that reports to this job and is cancelled with it.
    pub(crate) fn attend<T>(&self, work: impl FnOnce(&Task<'_>) -> T) -> T {
        let task =
            Task::unattended().with_progress(|step| *self.progress.lock() = Some(step)).cancelled_by(&self.cancelled);
        work(&task)
    }

    fn describe(&self) -> Value {
        let done = self.done.borrow().clone();
        let state = match (&done, self.running.load(Ordering::Relaxed)) {
            (Some(_), _) => "done",
            (None, true) => "running",
            (None, false) => "queued",
        };
        let mut body = json!({"id": self.id, "kind": self.key.what(), "name": self.key.name(), "state": state});
        if let Some(step) = *self.progress.lock() {
            let phase = match step.phase {
                Phase::Copy => "copy",
                Phase::Verify => "verify",
                Phase::Inspect => "inspect",
            };
            body["progress"] = json!({"phase": phase, "done_bytes": step.done, "total_bytes": step.total});
        }
        if let Some(reply) = done {
            let reply = (self.tune)(reply);
            body["result"] = json!({"status": reply.status().as_u16(), "body": reply.body()});
        }
        body
    }

    async fn wait(&self) -> Reply {
        let mut done = self.done.subscribe();
        // The sender lives in `self`, so the wait cannot fail while this borrow does.
        match done.wait_for(Option::is_some).await {
            Ok(reply) => reply.clone().unwrap_or_else(Reply::internal),
            Err(_) => Reply::internal(),
        }
    }
}

/// The jobs of a server.
pub(crate) struct Jobs {
    limit: usize,
    keep: usize,
    /// Places for clients that wait, apart for promotions and verifications: neither shuts the other out.
    waiting: [Arc<Semaphore>; 2],
    /// Oldest first. Taken for a moment only; no other lock is taken under it but a job's `done` and `progress`.
    table: Mutex<Table>,
    unfinished: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    jobs: Vec<Arc<Job>>,
    closed: bool,
}

impl Jobs {
    pub(crate) fn new(limits: &Limits) -> Self {
        Jobs {
            limit: limits.jobs.max(1),
            keep: limits.finished_jobs,
            waiting: std::array::from_fn(|_| Arc::new(Semaphore::new(limits.waiting.max(1)))),
            table: Mutex::default(),
            unfinished: watch::Sender::new(0),
        }
    }

    fn places(&self, lane: Lane) -> Arc<Semaphore> {
        Arc::clone(&self.waiting[usize::from(lane == Lane::Promote)])
    }

    /// Does `work`, or joins the same work being done, and answers as the request prefers: with its result, or with 202
    /// and where to ask for it (`Prefer: respond-async`, RFC 7240, with `wait=SECONDS` before that if given).
    pub(crate) async fn answer<F>(app: &Arc<App>, headers: &HeaderMap, key: Key, tune: Tune, work: F) -> Answer
    where
        F: FnOnce(&App, &Job) -> Reply + Send + 'static,
    {
        let job = app.jobs.start_or_join(app, key, tune, work)?;
        let preference = Preference::of(headers);
        // Only now: work that was asked for asynchronously needs no place among those that wait.
        let place = match preference {
            Preference::Async { wait } if wait.is_zero() => None,
            _ => Some(app.jobs.places(job.key.lane()).try_acquire_owned().map_err(|_| app.jobs.no_place(&job))?),
        };
        let finished = match preference {
            Preference::None => Some(job.wait().await),
            // Not even a look: the same request is then always answered alike, however fast the work was.
            Preference::Async { wait } if wait.is_zero() => None,
            Preference::Async { wait } => tokio::time::timeout(wait, job.wait()).await.ok(),
        };
        drop(place);
        match finished {
            Some(reply) => Ok(tune(reply)),
            None => Ok(accepted(&job, StatusCode::ACCEPTED, None)),
        }
    }

    /// What the caller may know of the job `id`.
    pub(crate) fn describe(&self, id: &str, caller: &Caller) -> Answer {
        let job = self.table.lock().jobs.iter().find(|job| job.id == id).cloned();
        match job {
            Some(job) if caller.may_follow(job.key.scope()) => {
                let reply = Reply::ok(&job.describe());
                let running = job.done.borrow().is_none();
                Ok(if running { reply.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")) } else { reply })
            }
            // The same for a job of another scope: its existence is not told either.
            _ => Err(Reply::failure(
                StatusCode::NOT_FOUND,
                "not_found",
                "no such job; finished jobs are kept for a while",
            )),
        }
    }

    /// How many are queued and running, by kind.
    pub(crate) fn counts(&self) -> Vec<(&'static str, &'static str, i64)> {
        let table = self.table.lock();
        let count = |kind: &str, running: bool| {
            let unfinished = table.jobs.iter().filter(|job| job.done.borrow().is_none());
            let counted =
                unfinished.filter(|job| job.key.what() == kind && job.running.load(Ordering::Relaxed) == running);
            i64::try_from(counted.count()).unwrap_or(i64::MAX)
        };
        let states = [("queued", false), ("running", true)];
        let pairs = KINDS.iter().flat_map(|kind| states.map(|(state, running)| (*kind, state, count(kind, running))));
        pairs.collect()
    }

    /// Takes no more work, and ends when none is left.
    pub(crate) async fn drain(&self) {
        self.table.lock().closed = true;
        // The sender is `self`'s, so this cannot fail.
        let _ = self.unfinished.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Cancels all that is queued or running.
    pub(crate) fn cancel_all(&self) {
        for job in &self.table.lock().jobs {
            job.cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn start_or_join<F>(&self, app: &Arc<App>, key: Key, tune: Tune, work: F) -> Result<Arc<Job>, Reply>
    where
        F: FnOnce(&App, &Job) -> Reply + Send + 'static,
    {
        let id = random_hex().map_err(|e| {
            tracing::error!(error = %e, "no random bytes");
            Reply::internal()
        })?;
        let mut table = self.table.lock();
        let unfinished = |job: &&Arc<Job>| job.done.borrow().is_none();
        if let Some(same) = table.jobs.iter().filter(unfinished).find(|job| job.key == key) {
            tracing::debug!(job = same.id, "joins work under way");
            return Ok(Arc::clone(same));
        }
        if table.closed {
            return Err(Reply::busy(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down"));
        }
        let running = table.jobs.iter().filter(unfinished).count();
        // Of its own kind: a queue of verifications must not keep promotions out.
        let lane = key.lane();
        if table.jobs.iter().filter(unfinished).filter(|job| job.key.lane() == lane).count() >= self.limit {
            return Err(Reply::busy(
                StatusCode::TOO_MANY_REQUESTS,
                "too many promotions and verifications are under way",
            ));
        }
        // The oldest finished ones are forgotten first.
        let mut excess = (table.jobs.len() - running).saturating_sub(self.keep);
        table.jobs.retain(|job| {
            let forget = excess > 0 && job.done.borrow().is_some();
            excess -= usize::from(forget);
            !forget
        });
        let job = Arc::new(Job {
            id: id[..32].to_owned(),
            key,
            tune,
            running: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            progress: Mutex::new(None),
            done: watch::Sender::new(None),
        });
        table.jobs.push(Arc::clone(&job));
        self.unfinished.send_modify(|n| *n += 1);
        drop(table);
        // A task of its own: it goes on when the connection that asked has gone.
        // In the log it is the work of whoever asked first.
        tokio::spawn(run(Arc::clone(app), Arc::clone(&job), work).in_current_span());
        Ok(job)
    }

    fn no_place(&self, job: &Job) -> Reply {
        let why = "too many requests wait for results; the work goes on: ask for its result as a job";
        accepted(job, StatusCode::TOO_MANY_REQUESTS, Some(why))
    }
}

async fn run<F>(app: Arc<App>, job: Arc<Job>, work: F)
where
    F: FnOnce(&App, &Job) -> Reply + Send + 'static,
{
    let call = {
        let (app, job) = (Arc::clone(&app), Arc::clone(&job));
        move || {
            job.running.store(true, Ordering::Relaxed);
            work(&app, &job)
        }
    };
    let reply = app.lanes.long(job.key.lane(), call).await;
    job.done.send_replace(Some(reply));
    app.jobs.unfinished.send_modify(|n| *n -= 1);
}

/// An answer that says where the result will be.
fn accepted(job: &Job, status: StatusCode, why: Option<&str>) -> Reply {
    let location = format!("/v1/jobs/{}", job.id);
    let mut body = json!({"status": "accepted", "job": job.id, "location": location});
    if let Some(why) = why {
        body = json!({"error": why, "kind": "busy", "job": job.id, "location": location});
    }
    let reply = Reply::json(status, &body).with_header(header::RETRY_AFTER, HeaderValue::from_static("1"));
    let reply = match HeaderValue::from_str(&location) {
        Ok(location) => reply.with_header(header::LOCATION, location),
        // An id is hex, so this cannot be; the body says it too.
        Err(_) => reply,
    };
    match why {
        None => {
            reply.with_header(HeaderName::from_static("preference-applied"), HeaderValue::from_static("respond-async"))
        }
        Some(_) => reply,
    }
}

/// What a request says in `Prefer` (RFC 7240).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preference {
    None,
    Async { wait: Duration },
}

impl Preference {
    fn of(headers: &HeaderMap) -> Self {
        let mut wants_async = false;
        let mut wait = Duration::ZERO;
        for value in headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok()) {
            for one in value.split(',') {
                let one = one.split(';').next().unwrap_or(one).trim();
                if one.eq_ignore_ascii_case("respond-async") {
                    wants_async = true;
                } else if let Some(("wait", seconds)) = one.split_once('=').map(|(k, v)| (k.trim(), v.trim())) {
                    wait = Duration::from_secs(seconds.parse::<u32>().unwrap_or(0).into());
                }
            }
        }
        if wants_async { Preference::Async { wait } } else { Preference::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Tokens;
    use crate::blocking::Lanes;
    use crate::staging::Staging;
    use securereg::{Actor, PromoteRequest, Registry};
    use std::path::Path;

    #[test]
    fn a_preference_is_read_as_rfc_7240_writes_it() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("prefer", HeaderValue::from_static(value));
            }
            Preference::of(&headers)
        };
        let after = |s| Preference::Async { wait: Duration::from_secs(s) };
        assert_eq!(of(&[]), Preference::None);
        assert_eq!(of(&["wait=5", "return=minimal"]), Preference::None);
        assert_eq!(of(&["respond-async"]), after(0));
        assert_eq!(of(&["return=minimal, Respond-Async; x=1"]), after(0));
        assert_eq!(of(&["respond-async, wait = 10"]), after(10));
        assert_eq!(of(&["respond-async", "wait=99999999999999"]), after(0));
    }

    /// At a shutdown: work that is cancelled says so, and nothing of it stays.
    #[tokio::test]
    async fn a_cancelled_promotion_is_503_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a registry");
        let limits = Limits::default();
        let app = Arc::new(App {
            registry: registry.clone(),
            tokens: Tokens::new(Vec::new()),
            lanes: Lanes::new(&limits),
            jobs: Jobs::new(&limits),
            staging: Staging::new(Vec::new()),
            limits,
            oci: crate::oci::Oci::new(&registry, &crate::Config::default()).expect("the defaults"),
            metrics: Arc::new(crate::metrics::Metrics::new()),
            observed: crate::routes::Observed::new(watch::channel(false).1, true),
        });
        let (release, held) = std::sync::mpsc::channel::<()>();
        let work = move |app: &App, job: &Job| {
            held.recv().expect("the test releases");
            let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-llama.gguf");
            let source = securereg::Source::open(&model).expect("test data");
            let request = PromoteRequest::new("m".parse().expect("a name"));
            match job.attend(|task| app.registry.promote(request, source, &Actor::new("http", "test"), task)) {
                Ok(_) => Reply::ok(&json!("promoted")),
                Err(e) => e.into(),
            }
        };
        let job = app.jobs.start_or_join(&app, Key::VerifyAll, |reply| reply, work).expect("room");
        app.jobs.cancel_all();
        release.send(()).expect("the job waits");
        let reply = job.wait().await;
        assert_eq!((reply.status(), &reply.body()["kind"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("cancelled")));
        assert!(registry.catalog().expect("good").is_empty());
        assert_eq!(std::fs::read_dir(registry.root().join("tmp")).expect("a folder").count(), 0);
        app.jobs.drain().await;
        let refused = app.jobs.start_or_join(&app, Key::VerifyAll, |reply| reply, |_, _| Reply::internal());
        assert_eq!(refused.map(drop).expect_err("closed").status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
