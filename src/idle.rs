//! How long something has lain untouched, without trusting a clock that can be set.
//!
//! Owns: `run/idle-<what>.json`, in which each pass over things of a kind writes down what it saw of them. Promises: a span of time
//! counts only between two passes that both saw the thing with the very same stamp, and is measured by the clock that counts
//! since the machine's start (`CLOCK_BOOTTIME`), which nobody sets; across a restart of the machine nothing counts. So a clock
//! that jumps, or files whose times lie in any year, make nothing look older than it is. What is forgotten begins anew. Leaves
//! out: what follows (`content::upload`, `gc`).
//!
//! ```text
//! {"boot": which start of the machine, "at": seconds since then, "idle": {key: [stamp, seconds it was seen untouched]}}
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, LockFile, unique_name};
use crate::stamp::Stamp;
use rustix::fs::FlockOperation;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

/// No more things are kept in mind; what is not begins anew.
const MAX_KEPT: usize = 100_000;
const MAX_BYTES: u64 = 64 << 20;

/// One pass.
pub(crate) struct Idle<'a> {
    layout: &'a Layout,
    what: &'static str,
    before: Kept,
    now: Kept,
    /// Passes do not overlap. One that only looks has none, and writes nothing.
    _alone: Option<LockFile>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    boot: String,
    at: u64,
    idle: BTreeMap<String, (String, u64)>,
}

impl<'a> Idle<'a> {
    /// Begins a pass; waits for one that is under way.
    pub(crate) fn begin(layout: &'a Layout, what: &'static str) -> Result<Idle<'a>> {
        let alone = layout.lock(&format!("idle-{what}.lock"), FlockOperation::LockExclusive)?;
        Ok(Idle { _alone: Some(alone), ..Idle::look(layout, what) })
    }

    /// A pass that leaves no trace.
    pub(crate) fn look(layout: &'a Layout, what: &'static str) -> Idle<'a> {
        let bytes = layout.read_small(Folder::Run, &name(what), MAX_BYTES).unwrap_or_default();
        let before: Kept = serde_json::from_slice(&bytes).unwrap_or_default();
        let now = Kept { boot: boot().to_owned(), at: since_boot(), idle: BTreeMap::new() };
        Idle { layout, what, before, now, _alone: None }
    }

    /// How long the thing `key` is known to have lain untouched, as of this pass, in which it has this stamp.
    pub(crate) fn see(&mut self, key: String, stamp: &Stamp) -> Duration {
        let text = stamp.text();
        let between = if self.before.boot == self.now.boot { self.now.at.saturating_sub(self.before.at) } else { 0 };
        let idle = match self.before.idle.get(&key) {
            Some((then, idle)) if *then == text => idle.saturating_add(between),
            _ => 0,
        };
        if self.now.idle.len() < MAX_KEPT {
            self.now.idle.insert(key, (text, idle));
        }
        Duration::from_secs(idle)
    }

    /// Writes down what this pass saw.
    pub(crate) fn end(self) -> Result<()> {
        let text = serde_json::to_vec(&self.now)
            .map_err(|e| Error::new(ErrorKind::Io, "what a pass saw cannot be written").because(e))?;
        self.layout.write_atomically(Folder::Run, &name(self.what), &text)
    }
}

fn name(what: &str) -> String {
    format!("idle-{what}.json")
}

/// Which start of the machine this is. Where the kernel does not say, this process's own life is all that counts.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        _ => unique_name(),
    })
}

fn since_boot() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Access;

    const HOUR: u64 = 3600;

    fn root() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::open(&dir.path().join("r"), Access::Create).expect("a root");
        (dir, layout)
    }

    fn stamp(layout: &Layout) -> Stamp {
        Stamp::at(layout.folder(Folder::Root), "trees").expect("there")
    }

    /// One pass that sees `keys`; how long each is known to be idle, in seconds.
    fn pass(layout: &Layout, keys: &[&str]) -> Vec<u64> {
        let stamp = stamp(layout);
        let mut idle = Idle::begin(layout, "test").expect("begun");
        let seen = keys.iter().map(|key| idle.see((*key).to_owned(), &stamp).as_secs()).collect();
        idle.end().expect("written");
        seen
    }

    /// Makes the last pass lie so many seconds back, as the boot's clock has it; or another boot's.
    fn ago(layout: &Layout, seconds: u64, boot: Option<&str>) {
        let bytes = layout.read_small(Folder::Run, "idle-test.json", MAX_BYTES).expect("there");
        let mut kept: Kept = serde_json::from_slice(&bytes).expect("its form");
        kept.at = since_boot().saturating_sub(seconds);
        kept.boot = boot.map_or(kept.boot, str::to_owned);
        layout.write_cache(Folder::Run, "idle-test.json", &serde_json::to_vec(&kept).expect("text")).expect("written");
    }

    /// Threat 25: two passes that both saw it, and the machine's own time between them.
    #[test]
    fn t25_time_counts_only_between_two_passes_that_saw_the_same_thing_and_in_one_life_of_the_machine() {
        // The clock may not have come so far on a machine that was just started.
        let hour = HOUR.min(since_boot());
        let (_dir, layout) = root();
        assert_eq!(pass(&layout, &["a", "b"]), [0, 0]);
        ago(&layout, hour, None);
        assert!(pass(&layout, &["a"])[0].abs_diff(hour) <= 5);
        ago(&layout, hour, None);
        let seen = pass(&layout, &["a", "b"]);
        assert!(seen[0].abs_diff(2 * hour) <= 5, "{seen:?}");
        assert_eq!(seen[1], 0, "one pass did not see it");
        ago(&layout, hour, Some("another start"));
        assert!(pass(&layout, &["a"])[0].abs_diff(2 * hour) <= 5, "what passed while it was off is not known");
        // Touched.
        std::fs::set_permissions(layout.path().join("trees"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("a new ctime");
        ago(&layout, hour, None);
        assert_eq!(pass(&layout, &["a"]), [0]);
        // A clock that went back, and a file that is none of ours.
        ago(&layout, 0, None);
        layout.write_cache(Folder::Run, "idle-test.json", b"junk").expect("written");
        assert_eq!(pass(&layout, &["a"]), [0]);
    }

    #[test]
    fn a_pass_that_only_looks_writes_nothing() {
        let (_dir, layout) = root();
        assert_eq!(Idle::look(&layout, "test").see("a".into(), &stamp(&layout)), Duration::ZERO);
        assert!(layout.names(Folder::Run).expect("listed").iter().all(|name| !name.starts_with("idle")));
    }
}
