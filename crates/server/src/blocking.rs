//! The one bridge from async to the core.
//!
//! Owns: the lanes, each a bound on how many calls of one sort block a thread at a time. Promises: calls of one lane
//! never take the threads of another, so that hours of verification delay neither a promotion nor a quarantine nor a
//! list; a permit is held until the call has returned, even when its client has gone. Leaves out: cancelling (`jobs`).

use crate::config::Limits;
use crate::reply::Reply;
use crate::request;
use axum::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a short call waits for a thread before it is told to come back.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// How long a short call may take: beyond, a disk hangs. The call itself goes on; its client is told.
const SHORT_CALL: Duration = Duration::from_secs(30);
/// The same for `/health` and its kin, which must answer within a second whatever happens.
const HEALTH_CALL: Duration = Duration::from_millis(400);

/// A sort of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// `/health`.
    Health,
    /// `/ready`, which also asks whether the disk can be written to.
    Ready,
    /// `/metrics`: one look at a time.
    Metrics,
    /// What `/metrics` tells of and takes longer to find out.
    Survey,
    /// Reads of the catalog: memory and a small file at most.
    Quick,
    /// Small changes: delete, a refusal's line in the log.
    Change,
    /// Quarantine, which waits for no other kind of call.
    Contain,
    /// A path whose file has to be hashed again before it is given out: as long as the file is large.
    Open,
    /// Promotions.
    Promote,
    /// Verifications.
    Verify,
}

const LANES: usize = 10;
/// In the order of [`Lane`], as they are called in figures.
const NAMES: [&str; LANES] =
    ["health", "ready", "metrics", "survey", "quick", "change", "contain", "open", "promote", "verify"];

/// The lanes of one server.
pub(crate) struct Lanes {
    permits: [Arc<Semaphore>; LANES],
    widths: [usize; LANES],
}

impl Lanes {
    pub(crate) fn new(limits: &Limits) -> Self {
        let widths = Self::widths(limits);
        Lanes { permits: widths.map(|width| Arc::new(Semaphore::new(width))), widths }
    }

    /// How many threads the lanes of a server with these limits can hold together.
    pub(crate) fn threads(limits: &Limits) -> usize {
        Self::widths(limits).iter().sum()
    }

    /// The lanes, each with the calls that are under way and how many may be.
    pub(crate) fn usage(&self) -> impl Iterator<Item = (&'static str, i64, i64)> {
        let numbers = self.permits.iter().zip(self.widths).map(|(permits, width)| {
            let busy = width.saturating_sub(permits.available_permits());
            (i64::try_from(busy).unwrap_or(i64::MAX), i64::try_from(width).unwrap_or(i64::MAX))
        });
        NAMES.into_iter().zip(numbers).map(|(name, (busy, width))| (name, busy, width))
    }

    /// In the order of [`Lane`].
    fn widths(limits: &Limits) -> [usize; LANES] {
        [2, 2, 1, 1, limits.quick_calls, 8, 8, 4, limits.promotes, limits.verifies].map(|width| width.max(1))
    }

    /// Runs a short call and waits for it, both bounded in time.
    pub(crate) async fn short<F>(&self, lane: Lane, call: F) -> Reply
    where
        F: FnOnce() -> Reply + Send + 'static,
    {
        let (wait, limit) = match lane {
            Lane::Health | Lane::Ready | Lane::Metrics | Lane::Survey => (HEALTH_CALL, HEALTH_CALL),
            _ => (QUEUE_WAIT, SHORT_CALL),
        };
        let running = self.blocking(lane, wait, call);
        match tokio::time::timeout(wait + limit, running).await {
            Ok(reply) => reply,
            Err(_) => Reply::failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "timeout",
                "the registry did not answer in time; a change may still be applied: ask again",
            ),
        }
    }

    /// Runs a call that may take as long as a file is large.
    pub(crate) async fn long<F>(&self, lane: Lane, call: F) -> Reply
    where
        F: FnOnce() -> Reply + Send + 'static,
    {
        self.blocking(lane, Duration::MAX, call).await
    }

    /// Runs a call that may take as long as a file is large, whose outcome is not an answer.
    pub(crate) async fn run<T, F>(&self, lane: Lane, call: F) -> securereg::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> securereg::Result<T> + Send + 'static,
    {
        let lost = || securereg::Error::new(securereg::ErrorKind::Io, "a call into the registry did not return");
        let permit = Arc::clone(&self.permits[lane as usize]).acquire_owned().await.map_err(|_| lost())?;
        let joined = request::blocking(move || {
            let outcome = call();
            drop(permit);
            outcome
        });
        joined.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn blocking<F>(&self, lane: Lane, wait: Duration, call: F) -> Reply
    where
        F: FnOnce() -> Reply + Send + 'static,
    {
        let permits = Arc::clone(&self.permits[lane as usize]);
        let permit = match tokio::time::timeout(wait, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Reply::busy(StatusCode::SERVICE_UNAVAILABLE, "too much is asked at once"),
        };
        let joined = request::blocking(move || {
            let reply = call();
            // Only now: a call whose client went away still holds a thread.
            drop(permit);
            reply
        });
        joined.await.unwrap_or_else(|e| {
            tracing::error!(error = %e, "a call into the registry did not return");
            Reply::internal()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::mpsc;

    /// Threat 17: calls that hang fill their own lane only.
    #[tokio::test]
    async fn t17_a_full_lane_leaves_the_others_free() {
        let lanes = Arc::new(Lanes::new(&Limits { verifies: 1, ..Limits::default() }));
        let (release, held) = mpsc::channel::<()>();
        let (started, running) = tokio::sync::oneshot::channel();
        let slow = {
            let lanes = Arc::clone(&lanes);
            tokio::spawn(async move {
                let call = move || {
                    started.send(()).expect("the test waits");
                    held.recv().expect("the test releases");
                    Reply::ok(&json!("slow"))
                };
                lanes.long(Lane::Verify, call).await
            })
        };
        running.await.expect("the slow call starts");
        for lane in [
            Lane::Health,
            Lane::Ready,
            Lane::Metrics,
            Lane::Survey,
            Lane::Quick,
            Lane::Change,
            Lane::Open,
            Lane::Promote,
        ] {
            assert_eq!(lanes.short(lane, || Reply::ok(&json!("free"))).await.status(), 200, "{lane:?}");
        }
        release.send(()).expect("the slow call waits");
        assert_eq!(slow.await.expect("it returns").body(), json!("slow"));
    }

    #[tokio::test]
    async fn a_panic_in_a_call_is_a_500_and_frees_its_lane() {
        let lanes = Lanes::new(&Limits { promotes: 1, ..Limits::default() });
        for _ in 0..2 {
            let reply = lanes.long(Lane::Promote, || panic!("secret detail")).await;
            assert_eq!(reply.status(), 500);
            assert!(!reply.body().to_string().contains("secret"), "the text of a panic stays inside");
        }
    }
}
