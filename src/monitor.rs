//! Noticing tampering by itself: a pass over every stored byte again and again, and an eye on the stored files between.
//!
//! Owns: [`Registry::monitor`], the pass and where it stands. Promises: one monitor a root, whoever runs one; no pass while
//! another verification of all models runs; what is found damaged is out of service before the next file is read; after a
//! restart it goes on with the file after the last. Leaves out: the eye (`watcher`), and hashing (`scan`).
//!
//! ```text
//! who has run/monitor.lock -> watcher: an event on a stored file -> stamps not known -> quarantine, or hash it
//!                          `-> pass: each stored file once, slowly -> bad: quarantine; all good: restore -> wait -> again
//! ```

mod watcher;

use crate::artifact::FileEntry;
use crate::audit::now;
use crate::blobs::Check;
use crate::catalog::Catalog;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Folder;
use crate::registry::{Inner, Registry};
use crate::sys::{IdleIo, spawn_scoped_quietly};
use crate::task::{Actor, Task};
use crate::verify::{self, VerifyAll};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
pub use watcher::StoredWatch;

/// How a root is monitored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorOptions {
    /// From the begin of one pass to the begin of the next; a pass is spread over most of it.
    pub interval: Duration,
    /// Bytes a second that a pass may read at most; none but what the interval asks for when it is `None`.
    pub rate: Option<u64>,
}

impl Default for MonitorOptions {
    fn default() -> Self {
        MonitorOptions { interval: Duration::from_secs(15 * 60), rate: None }
    }
}

/// How the monitoring of a root stands, as whoever does it wrote down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorState {
    /// The process that monitors.
    pub pid: u32,
    /// Seconds from pass to pass.
    pub interval_seconds: u64,
    /// How stored files are watched between: `fanotify`, which also tells who wrote, or `inotify`.
    pub watching: String,
    /// When the pass that is under way began: RFC 3339, UTC; none between passes.
    pub pass_began: Option<String>,
    /// Bytes that it has read, and will have read at its end.
    pub pass_done_bytes: u64,
    /// The same at its end.
    pub pass_total_bytes: u64,
    /// Whether that process is alive.
    #[serde(default)]
    pub alive: bool,
}

const STATE: &str = "monitor.json";
const PASS: &str = "pass.json";
const LOCK: &str = "monitor.lock";
/// Who verifies everything has this one.
const VERIFY_LOCK: &str = "verify.lock";
/// Who waits for it has this one, shared: a pass gives way to a person.
const VERIFY_GATE: &str = "verify.gate";

/// A pass reads at least this fast, so that a small registry is done early.
const SLOWEST: u64 = 16 << 20;
/// Nobody waits longer than this to be told to stop, or for a pass to give way.
const NAP: Duration = Duration::from_millis(200);
/// How often it is written down where a pass stands.
const NOTED: Duration = Duration::from_secs(1);

impl Registry {
    /// An eye on the stored files, for [`Registry::monitor`]. Apart from it because it takes a capability (CAP_SYS_ADMIN) to be told
    /// who writes, which a daemon gives up before it begins its work.
    pub fn watch_stored(&self) -> Result<StoredWatch> {
        self.inner.layout().check_writable()?;
        StoredWatch::new(&self.inner)
    }

    /// Monitors the root until `stop` is set. One process a root does; another waits until that one is gone.
    ///
    /// # Errors
    /// Of setting it up only: what goes wrong later is logged, and tried again.
    pub fn monitor(&self, mut watcher: StoredWatch, options: &MonitorOptions, stop: &AtomicBool) -> Result<()> {
        let layout = self.inner.layout();
        let _alone = loop {
            if let Some(lock) = layout.try_lock(LOCK, FlockOperation::NonBlockingLockExclusive)? {
                break lock;
            }
            if nap(Duration::from_secs(2), stop) {
                return Ok(());
            }
        };
        let monitor =
            Monitor { inner: &self.inner, options, watching: watcher.kind(), give_way: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            let passes = spawn_scoped_quietly(scope, || monitor.passes(stop));
            let passes =
                passes.map_err(|e| Error::new(ErrorKind::Io, format!("cannot start a thread: {e}")).because(e))?;
            while !stop.load(Ordering::Relaxed) {
                watcher.wait(NAP);
                let asked = matches!(layout.try_lock(VERIFY_GATE, FlockOperation::NonBlockingLockExclusive), Ok(None));
                monitor.give_way.store(asked || stop.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            monitor.give_way.store(true, Ordering::Relaxed);
            passes.join().map_err(|_| Error::new(ErrorKind::Io, "the pass of the monitor ended early"))
        })
    }

    /// How the root is monitored, as far as anybody ever did.
    pub fn monitor_state(&self) -> Result<Option<MonitorState>> {
        let layout = self.inner.layout();
        let bytes = match layout.read_small(Folder::Run, STATE, 4096) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let Ok(state) = serde_json::from_slice::<MonitorState>(&bytes) else { return Ok(None) };
        let alive = layout.is_locked(LOCK)?;
        Ok(Some(MonitorState { alive, ..state }))
    }
}

/// The right to verify everything: nobody else does meanwhile, and the monitor's pass gives way.
pub(crate) struct Turn {
    _gate: crate::layout::LockFile,
    _lock: crate::layout::LockFile,
}

/// Waits for it. A registry that is open read-only writes no lock, and disturbs nobody's records.
pub(crate) fn turn(inner: &Inner) -> Result<Option<Turn>> {
    let layout = inner.layout();
    if !layout.is_writable() {
        return Ok(None);
    }
    let gate = layout.lock(VERIFY_GATE, FlockOperation::LockShared)?;
    let lock = layout.lock(VERIFY_LOCK, FlockOperation::LockExclusive)?;
    Ok(Some(Turn { _gate: gate, _lock: lock }))
}

/// Sleeps; whether it is to stop.
fn nap(how_long: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + how_long;
    while !stop.load(Ordering::Relaxed) {
        match until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(NAP)),
            _ => return false,
        }
    }
    true
}

/// A pass under way, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    began: String,
    /// Files are read in the order of their digests: up to this one it is done.
    after: Option<Sha256Digest>,
    /// What was not found good.
    bad: BTreeMap<Sha256Digest, Found>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Found {
    Bad(String),
    Unreadable(String),
}

impl Pass {
    fn begin() -> Pass {
        Pass { began: now(), after: None, bad: BTreeMap::new() }
    }
}

struct Monitor<'a> {
    inner: &'a Arc<Inner>,
    options: &'a MonitorOptions,
    watching: &'static str,
    /// Somebody wants to verify now, or it is to stop.
    give_way: AtomicBool,
}

impl Monitor<'_> {
    fn passes(&self, stop: &AtomicBool) {
        self.tell(None, 0, 0);
        // What a restart left is gone on with at once; else the last result says when the next is due.
        let mut wait = if self.saved().is_some() { Duration::ZERO } else { self.until_due() };
        while !nap(wait, stop) {
            let began = Instant::now();
            match self.pass(stop) {
                Ok(()) => wait = self.options.interval.saturating_sub(began.elapsed()),
                Err(e) if e.kind() == ErrorKind::Cancelled => wait = Duration::ZERO,
                Err(e) => {
                    tracing::error!(error = %e, "a pass over the stored files did not finish; it is tried again");
                    wait = self.options.interval.min(Duration::from_secs(60));
                }
            }
            self.tell(None, 0, 0);
            self.alarm();
        }
    }

    /// From now to the next pass, by the last that anybody finished.
    fn until_due(&self) -> Duration {
        let age = verify::last(self.inner).ok().flatten().and_then(|last| last.age());
        // A clock that was turned back says nothing: it is due.
        age.map_or(Duration::ZERO, |age| self.options.interval.saturating_sub(age))
    }

    fn alarm(&self) {
        let age = verify::last(self.inner).ok().flatten().and_then(|last| last.age());
        if age.is_none_or(|age| age > 2 * self.options.interval) {
            tracing::warn!(
                age_seconds = age.map(|age| age.as_secs()),
                interval_seconds = self.options.interval.as_secs(),
                "the last full verification is older than it should be"
            );
        }
    }

    fn pass(&self, stop: &AtomicBool) -> Result<()> {
        let began = Instant::now();
        let mut pass = self.saved().unwrap_or_else(Pass::begin);
        // Before anything is read: see `conclude`.
        let catalog = self.inner.catalog()?;
        let resumed_after = pass.after;
        let unique: BTreeMap<Sha256Digest, &FileEntry> =
            catalog.artifacts().flat_map(|a| &a.files).map(|file| (file.sha256, file)).collect();
        let total: u64 = unique.values().map(|f| f.size_bytes).sum();
        let rate = self.rate(total);
        let mut done: u64 = unique
            .iter()
            .filter(|(sha256, _)| pass.after.is_some_and(|after| **sha256 <= after))
            .map(|(_, f)| f.size_bytes)
            .sum();
        let mut noted = Instant::now();
        self.tell(Some(&pass.began), done, total);
        for (sha256, file) in &unique {
            if pass.after.is_some_and(|after| *sha256 <= after) {
                continue;
            }
            let turn = self.my_turn(stop)?;
            if self.overtaken(&pass) {
                // Somebody verified everything meanwhile: that was this pass.
                self.forget();
                return Ok(());
            }
            let task = Task::unattended().cancelled_by(&self.give_way).paced(rate);
            let checked = {
                let _idle = IdleIo::new();
                self.inner.blobs().check(&[*file], &task)
            };
            drop(turn);
            match checked {
                Ok(found) => self.take(&mut pass, sha256, found.into_iter().next()),
                // Begun anew when whoever wanted to go first has.
                Err(e) if e.kind() == ErrorKind::Cancelled => {
                    self.save(&pass);
                    return Err(e);
                }
                Err(e) => return Err(e),
            }
            done += file.size_bytes;
            if noted.elapsed() >= NOTED {
                self.save(&pass);
                self.tell(Some(&pass.began), done, total);
                noted = Instant::now();
            }
        }
        let _turn = self.my_turn(stop)?;
        self.finish(&pass, &catalog, &unique, resumed_after)?;
        tracing::info!(
            files = unique.len(),
            bytes = total,
            seconds = began.elapsed().as_secs(),
            "every stored file was read"
        );
        Ok(())
    }

    /// Bytes a second.
    fn rate(&self, total: u64) -> u64 {
        // A tenth of the interval is left for what a pass waits for.
        let spread = total as f64 / self.options.interval.as_secs_f64().max(1.0) / 0.9;
        let wanted = (spread as u64).max(SLOWEST);
        self.options.rate.map_or(wanted, |rate| wanted.min(rate))
    }

    /// What follows from one file, at once.
    fn take(&self, pass: &mut Pass, sha256: &Sha256Digest, found: Option<Check>) {
        pass.after = Some(*sha256);
        match found {
            Some(Check::Good) => {}
            Some(Check::Bad { why, .. }) => {
                // Known to be good again: a repair has written it since.
                let mended = || self.inner.blobs().is_known_good(sha256);
                self.inner.report_corruption_unless(sha256, &why, mended);
                pass.bad.insert(*sha256, Found::Bad(why));
                self.save(pass);
            }
            unread => {
                let why = match unread {
                    Some(Check::Unreadable(why)) => why,
                    _ => "it was not checked".to_owned(),
                };
                pass.bad.insert(*sha256, Found::Unreadable(why));
            }
        }
    }

    /// Quarantines what failed, restores what is good again, and writes the result down.
    fn finish(
        &self,
        pass: &Pass,
        catalog: &Catalog,
        unique: &BTreeMap<Sha256Digest, &FileEntry>,
        resumed_after: Option<Sha256Digest>,
    ) -> Result<()> {
        let found: HashMap<Sha256Digest, Check> = unique
            .keys()
            .map(|sha256| {
                let check = match pass.bad.get(sha256) {
                    None => Check::Good,
                    Some(Found::Bad(why)) => Check::Bad { why: why.clone(), actual: None },
                    Some(Found::Unreadable(why)) => Check::Unreadable(why.clone()),
                };
                (*sha256, check)
            })
            .collect();
        let earlier = |sha256: &Sha256Digest| resumed_after.is_some_and(|after| *sha256 <= after);
        verify::conclude(self.inner, catalog, &found, earlier, &Actor::this_process("monitor"))?;
        self.forget();
        Ok(())
    }

    /// The turn to read a file; waits while somebody verifies.
    fn my_turn(&self, stop: &AtomicBool) -> Result<crate::layout::LockFile> {
        let layout = self.inner.layout();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Cancelled, "the monitor is to stop"));
            }
            // Both free: nobody verifies, and nobody waits to.
            let gate = layout.try_lock(VERIFY_GATE, FlockOperation::NonBlockingLockExclusive)?;
            let turn =
                gate.map(|_| layout.try_lock(VERIFY_LOCK, FlockOperation::NonBlockingLockExclusive)).transpose()?;
            if let Some(turn) = turn.flatten() {
                return Ok(turn);
            }
            nap(NAP, stop);
        }
    }

    fn overtaken(&self, pass: &Pass) -> bool {
        verify::last(self.inner).ok().flatten().is_some_and(|last: VerifyAll| last.verified_at > pass.began)
    }

    fn saved(&self) -> Option<Pass> {
        let bytes = self.inner.layout().read_small(Folder::Run, PASS, 16 << 20).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn save(&self, pass: &Pass) {
        self.note(PASS, pass);
    }

    fn forget(&self) {
        if let Err(e) = self.inner.layout().remove(Folder::Run, PASS) {
            tracing::warn!(error = %e, "a pass that has ended will be gone on with");
        }
    }

    fn tell(&self, began: Option<&str>, done: u64, total: u64) {
        self.note(
            STATE,
            &MonitorState {
                pid: std::process::id(),
                interval_seconds: self.options.interval.as_secs(),
                watching: self.watching.to_owned(),
                pass_began: began.map(str::to_owned),
                pass_done_bytes: done,
                pass_total_bytes: total,
                alive: true,
            },
        );
    }

    /// What is lost by a crash costs reading some files twice.
    fn note(&self, name: &str, what: &impl Serialize) {
        let written = serde_json::to_vec(what)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot be written").because(e))
            .and_then(|text| self.inner.layout().write_cache(Folder::Run, name, &text));
        if let Err(e) = written {
            tracing::warn!(error = %e, name, "how the monitor stands is not written down");
        }
    }
}

/// How long ago a time of ours was; none when it lies in the future, or is no time.
pub(crate) fn age(time: &str) -> Option<Duration> {
    let then: jiff::Timestamp = time.parse().ok()?;
    Duration::try_from(jiff::Timestamp::now().duration_since(then)).ok()
}

#[cfg(test)]
mod tests;
