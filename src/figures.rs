//! What this process has counted, and how its root stands: for whoever watches it from outside.
//!
//! Owns: the counters that all clones of a registry share ([`Counts`]), how full its disk is ([`Disk`]), and whether it can serve
//! ([`Registry::check_ready`]). Promises: a counter only grows; no figure names a model; nothing here changes the root. Leaves
//! out: how figures are shown, and to whom.

use crate::audit;
use crate::error::{ErrorKind, Result};
use crate::layout::Layout;
use crate::promote::{Outcome, Promotion};
use crate::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const KINDS: usize = ErrorKind::ALL.len();
const OUTCOMES: [Outcome; 3] = [Outcome::Promoted, Outcome::AlreadyThere, Outcome::Moved];

/// The counters of one registry, shared by its clones.
#[derive(Debug)]
pub(crate) struct Figures {
    promotions: [AtomicU64; OUTCOMES.len()],
    promotions_failed: [AtomicU64; KINDS],
    reads_refused: [AtomicU64; KINDS],
    failures: [AtomicU64; KINDS],
}

impl Default for Figures {
    fn default() -> Self {
        Figures {
            promotions: std::array::from_fn(|_| AtomicU64::new(0)),
            promotions_failed: std::array::from_fn(|_| AtomicU64::new(0)),
            reads_refused: std::array::from_fn(|_| AtomicU64::new(0)),
            failures: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Figures {
    pub(crate) fn promoted(&self, promoted: &Result<Promotion>) {
        match promoted {
            Ok(promotion) => bump(&self.promotions[promotion.outcome as usize], 1),
            Err(e) => bump(&self.promotions_failed[e.kind() as usize], 1),
        }
    }

    /// Notes that bytes were asked for and not given; kinds that say nothing of the bytes are not counted.
    pub(crate) fn read_refused(&self, kind: ErrorKind) {
        if matches!(kind, ErrorKind::Quarantined | ErrorKind::Corrupt | ErrorKind::Unreadable) {
            bump(&self.reads_refused[kind as usize], 1);
        }
    }

    /// Notes that so many models did not pass a check, of whatever sort.
    pub(crate) fn failed(&self, kind: ErrorKind, models: usize) {
        bump(&self.failures[kind as usize], models as u64);
    }
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// What this process has counted since it opened the registry. Each list has a stable word and how often; what cannot happen
/// often enough to matter stands there with 0 all the same, so that a graph begins at the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Promotions by outcome: `promoted`, `already_there`, `moved`, or the kind of the error that ended one.
    pub promotions: Vec<(&'static str, u64)>,
    /// Opens and reads of model bytes that were refused, by kind: `quarantined`, `corrupt`, `unreadable`.
    pub reads_refused: Vec<(&'static str, u64)>,
    /// Models that did not pass a check, by a verification or a read, by kind: `corrupt`, `unreadable`. One that fails twice
    /// counts twice.
    pub integrity_failures: Vec<(&'static str, u64)>,
}

/// How full the file system of the root is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// What this process may still take.
    pub free_bytes: u64,
    /// All of it.
    pub size_bytes: u64,
    /// What unfinished copies hold in the root's `tmp/`.
    pub temp_bytes: u64,
}

impl Registry {
    /// What this process has counted.
    pub fn counts(&self) -> Counts {
        let figures = &self.inner.figures;
        let of = |counters: &[AtomicU64; KINDS], kinds: &[ErrorKind]| {
            let count = |kind: &ErrorKind| (kind.as_str(), counters[*kind as usize].load(Ordering::Relaxed));
            kinds.iter().map(count).collect::<Vec<_>>()
        };
        let outcomes = OUTCOMES.iter().zip(&figures.promotions);
        let mut promotions: Vec<_> = outcomes.map(|(o, n)| (outcome(*o), n.load(Ordering::Relaxed))).collect();
        promotions.extend(of(&figures.promotions_failed, &ErrorKind::ALL));
        Counts {
            promotions,
            reads_refused: of(
                &figures.reads_refused,
                &[ErrorKind::Quarantined, ErrorKind::Corrupt, ErrorKind::Unreadable],
            ),
            integrity_failures: of(&figures.failures, &[ErrorKind::Corrupt, ErrorKind::Unreadable]),
        }
    }

    /// Counts a refusal of model bytes that was decided outside the core: by the mount, which asks it only when it must.
    pub fn count_refused_read(&self, kind: ErrorKind) {
        self.inner.figures.read_refused(kind);
    }

    /// How full the disk is.
    pub fn disk(&self) -> Result<Disk> {
        self.inner.layout().disk()
    }

    /// How many lines the audit log has.
    pub fn audit_lines(&self) -> Result<u64> {
        audit::last_seq(self.inner.layout())
    }

    /// When the last check of all models ended, by whatever process: the time since 1970.
    pub fn last_verify_all_at(&self) -> Result<Option<Duration>> {
        let Some(last) = self.last_verify_all()? else { return Ok(None) };
        let at: Option<jiff::Timestamp> = last.verified_at.parse().ok();
        Ok(at.map(|at| Duration::from_millis(u64::try_from(at.as_millisecond()).unwrap_or(0))))
    }

    /// Whether the registry can do its work: the manifest on disk is good, and a change could be written. Asks the disk for a
    /// nameless file of a few bytes, which nobody sees and which is gone at once.
    ///
    /// # Errors
    /// As [`Registry::catalog`]; `NoSpace`, `Permission` or `Io` when the root cannot be written to.
    pub fn check_ready(&self) -> Result<()> {
        self.catalog()?;
        let layout: &Layout = self.inner.layout();
        layout.check_writable()?;
        layout.try_write()
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Promoted => "promoted",
        Outcome::AlreadyThere => "already_there",
        Outcome::Moved => "moved",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Actor, ModelName, PromoteRequest, ReadMode, Source, Task};

    fn of(list: &[(&'static str, u64)], word: &str) -> u64 {
        list.iter().find(|(known, _)| *known == word).map(|(_, n)| *n).expect("the word is always there")
    }

    #[test]
    fn promotions_refused_reads_and_damage_are_counted_by_every_clone() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let (actor, name): (_, ModelName) = (Actor::new("test", "x"), "m".parse().expect("a name"));
        let promote = |name: &ModelName, bytes: &[u8]| {
            let path = dir.path().join(format!("{name}.gguf"));
            std::fs::write(&path, bytes).expect("written");
            let source = Source::open(&path).expect("a source");
            registry.clone().promote(PromoteRequest::new(name.clone()), source, &actor, &Task::unattended())
        };
        let model = crate::models::gguf(100, 1);
        let other = "other".parse().expect("a name");
        promote(&name, &model).expect("promoted");
        promote(&name, &model).expect("there already");
        assert_eq!(promote(&other, b"junk").expect_err("junk").kind(), ErrorKind::Refused);
        let counts = registry.counts();
        let words = ["promoted", "already_there", "moved", "refused"];
        assert_eq!(words.map(|word| of(&counts.promotions, word)), [1, 1, 0, 1]);
        assert_eq!(counts.promotions.iter().map(|(_, n)| n).sum::<u64>(), 3);

        let path = "m.gguf".parse().expect("a path");
        assert!(registry.open_file(&other, &path, ReadMode::Cached).is_err());
        assert_eq!(of(&registry.counts().reads_refused, "quarantined"), 0, "what is not there is not refused");
        let open = registry.open_file(&name, &path, ReadMode::Cached).expect("open");
        registry.quarantine(&name, "odd", Some("INC-1"), &actor).expect("quarantined");
        assert!(registry.open_file(&name, &path, ReadMode::Cached).is_err());
        assert!(open.read_at(&mut [0; 4], 0).is_err());
        assert_eq!(of(&registry.counts().reads_refused, "quarantined"), 2);

        let blob = registry.catalog().expect("good").artifact(&name).expect("there").files[0].sha256.to_hex();
        let blob = registry.root().join("blobs/sha256").join(blob);
        std::fs::remove_file(&blob).expect("removed");
        std::fs::write(&blob, b"other bytes").expect("written");
        registry.verify(&name, &actor, &Task::unattended()).expect("a report");
        assert_eq!(of(&registry.counts().integrity_failures, "corrupt"), 1);
        assert_eq!(registry.audit_lines().expect("read"), registry.audit_verify().expect("whole").lines);
    }

    #[test]
    fn a_root_is_ready_while_its_manifest_is_good_and_it_can_be_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        registry.check_ready().expect("ready");
        assert_eq!(std::fs::read_dir(registry.root().join("tmp")).expect("a folder").count(), 0, "nothing stays");
        assert_eq!(registry.last_verify_all_at().expect("none yet"), None);
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        registry.verify_all(&Actor::new("test", "x"), &Task::unattended()).expect("verified");
        let at = registry.last_verify_all_at().expect("read").expect("one");
        assert!(at + Duration::from_secs(2) > before && at < before + Duration::from_secs(60), "{at:?} {before:?}");

        std::fs::write(registry.root().join("tmp/part"), [0; 1000]).expect("written");
        let disk = registry.disk().expect("asked");
        assert!(disk.temp_bytes == 1000 && disk.free_bytes <= disk.size_bytes && disk.size_bytes > 0, "{disk:?}");

        let read_only = Registry::open_read_only(registry.root()).expect("open");
        assert_eq!(read_only.check_ready().expect_err("not to be written").kind(), ErrorKind::Permission);
        std::fs::write(registry.root().join("manifest.yaml"), "torn").expect("written");
        assert_eq!(registry.check_ready().expect_err("not good").kind(), ErrorKind::Manifest);
    }
}
