//! Sweeping what nothing refers to.
//!
//! Owns: `gc`. Promises: what a model or a repository holds stays, quarantined models' bytes too; each thing is asked about again
//! under the locks under which holders come and go, right before it is removed; the locks are held for a slice at a time and for no
//! more than half of it all, so that promotions and pushes go on; open files stay readable and verified, for they have their
//! descriptors; while it cannot be told who holds what (a manifest that cannot be served, a folder behind a link), nothing goes. What was removed
//! is in the audit log. Leaves out: sources that operators put into `quarantine/`, and names that are none of ours (`fsck` tells
//! of them).
//!
//! ```text
//! dead records of mounts -> uploads that nobody goes on with -> records that no manifest refers to, for long (content::references)
//! -> blobs, trees, stamps -> sidecars -> tmp/
//! ```
//! What models that were deleted under an incident left ([`Catalog::blocked`]) are digests and no bytes: nothing of them is kept
//! here or lost by a sweep.

use crate::audit::Noted;
use crate::catalog::Catalog;
use crate::catalog::store::Decision;
use crate::content::references::{self, Due, RECORDS};
use crate::content::upload::{UPLOAD_IDLE, UPLOADS};
use crate::content::{Content, holds};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::idle::Idle;
use crate::layout::Folder;
use crate::mounts;
use crate::registry::{Inner, Registry};
use crate::task::{Actor, Task};
use rustix::fs::AtFlags;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What a sweep removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was removed, only looked at.
    pub dry_run: bool,
    /// Blobs that neither a model nor a repository holds.
    pub blobs: Tally,
    /// Trees of no such blob.
    pub trees: Tally,
    /// Stamps of no such blob.
    pub stamps: Tally,
    /// Sidecars that no model pins.
    pub sidecars: Tally,
    /// Unfinished copies that nobody works on.
    pub temporary: Tally,
    /// Uploads that nobody went on with for a week.
    pub uploads: u64,
    /// Records of blobs that no manifest referred to for as long as was asked.
    pub records: u64,
    /// Records of blobs that no manifest refers to, but not yet for so long.
    pub waiting: u64,
    /// Records of mounts that are dead.
    pub mounts: u64,
    /// Repositories of which nothing was dropped because it cannot be told what their manifests refer to, and why; at most a hundred.
    pub undecided: Vec<String>,
    /// What could not be removed, and why; at most a hundred.
    pub left: Vec<String>,
}

impl GcReport {
    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.removed() == 0
    }

    fn removed(&self) -> u64 {
        let files = [self.blobs, self.trees, self.stamps, self.sidecars, self.temporary].map(|tally| tally.files);
        files.iter().sum::<u64>() + self.uploads + self.records + self.mounts
    }
}

/// No lists are longer.
const MAX_LISTED: usize = 100;

/// What was pushed is not dropped sooner, whatever is asked: a push may take so long from its first blob to its manifest.
pub(crate) const LEAST_UNREFERENCED: Duration = Duration::from_secs(3600);

/// What is asked about and removed at a time, under the locks.
const SLICE: usize = 1024;

/// Those who waited for a slice get no longer a turn than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

impl Registry {
    /// Removes what nothing refers to. Blobs that repositories hold and none of their manifests refers to go, too, when they have
    /// lain so for `unreferenced_after`, an hour at least, by two calls at least; with none, they stay.
    ///
    /// # Errors
    /// `InvalidInput` for less than an hour; `Manifest`, `Corrupt` while it cannot be told who holds what: nothing is removed then.
    pub fn gc(&self, unreferenced_after: Option<Duration>, actor: &Actor, task: &Task<'_>) -> Result<GcReport> {
        self.inner.layout().check_writable()?;
        check_least(unreferenced_after)?;
        let mut sweep = Sweep { inner: &self.inner, actor, task, report: GcReport::default() };
        let outcome = sweep.run(unreferenced_after);
        // Also of what was removed before it failed.
        if !sweep.report.is_empty() {
            self.inner.note(Noted::Gc, "", &words(&sweep.report), actor)?;
        }
        outcome.map(|()| sweep.report)
    }

    /// What [`Registry::gc`] would remove now. Changes nothing; a registry that is open to read only will do.
    pub fn gc_preview(&self, unreferenced_after: Option<Duration>, task: &Task<'_>) -> Result<GcReport> {
        check_least(unreferenced_after)?;
        let actor = Actor::this_process("library");
        let report = GcReport { dry_run: true, ..GcReport::default() };
        let mut sweep = Sweep { inner: &self.inner, actor: &actor, task, report };
        sweep.preview(unreferenced_after)?;
        Ok(sweep.report)
    }
}

fn check_least(unreferenced_after: Option<Duration>) -> Result<()> {
    if unreferenced_after.is_some_and(|after| after < LEAST_UNREFERENCED) {
        let why =
            "what was pushed is kept for an hour at least: a push may be under way that has not come to its manifest";
        return Err(Error::new(ErrorKind::InvalidInput, why));
    }
    Ok(())
}

fn words(report: &GcReport) -> String {
    let tally = |what: &str, tally: Tally| format!("{} {what} ({} bytes)", tally.files, tally.bytes);
    [
        tally("blobs", report.blobs),
        tally("trees", report.trees),
        tally("stamps", report.stamps),
        tally("sidecars", report.sidecars),
        tally("temporary files", report.temporary),
        format!("{} uploads", report.uploads),
        format!("{} records that no manifest refers to", report.records),
        format!("{} records of mounts", report.mounts),
    ]
    .join(", ")
}

/// One sweep under way.
struct Sweep<'a, 't> {
    inner: &'a Arc<Inner>,
    actor: &'a Actor,
    task: &'a Task<'t>,
    report: GcReport,
}

impl Sweep<'_, '_> {
    fn run(&mut self, unreferenced_after: Option<Duration>) -> Result<()> {
        // Before anything: while it cannot be told what models hold, nothing is touched.
        self.inner.catalog()?;
        let content = Content::new(self.inner);
        let layout = self.inner.layout();
        let orphans = self.orphans()?;
        self.report.mounts = mounts::sweep(layout)?;
        self.report.uploads = content.expire_uploads(UPLOAD_IDLE)? as u64;
        let mut dropped = false;
        if let Some(after) = unreferenced_after {
            let mut idle = Idle::begin(layout, RECORDS)?;
            let found = references::unreferenced(layout, &mut idle, after)?;
            idle.end()?;
            self.tell(&found);
            for due in &found.due {
                self.drop_records(due)?;
            }
            dropped = self.report.records > 0;
        }
        self.drop_orphans(if dropped { self.orphans()? } else { orphans })?;
        self.drop_sidecars()?;
        let (files, bytes) = layout.sweep_temp()?;
        self.report.temporary = Tally { files, bytes };
        Ok(())
    }

    fn preview(&mut self, unreferenced_after: Option<Duration>) -> Result<()> {
        let layout = self.inner.layout();
        self.report.mounts = mounts::dead(layout)?.len() as u64;
        let mut idle = Idle::look(layout, UPLOADS);
        self.report.uploads = Content::new(self.inner).idle_uploads(&mut idle, UPLOAD_IDLE)?.len() as u64;
        if let Some(after) = unreferenced_after {
            let found = references::unreferenced(layout, &mut Idle::look(layout, RECORDS), after)?;
            self.tell(&found);
            self.report.records = found.due.iter().map(|due| due.records.len() as u64).sum();
        }
        for sha256 in self.orphans()? {
            self.task.go_on()?;
            self.count(&sha256);
        }
        for name in self.loose_sidecars(&*self.inner.catalog()?)? {
            self.report.sidecars.add(self.size(Folder::Sidecars, &name).unwrap_or(0));
        }
        Ok(())
    }

    fn tell(&mut self, found: &references::Found) {
        self.report.waiting = found.waiting;
        let undecided = found.undecided.iter().map(|(repository, why)| format!("{repository}: {why}"));
        self.report.undecided = undecided.take(MAX_LISTED).collect();
    }

    /// Blobs that neither a model nor a repository holds, by their names in any of the three folders.
    fn orphans(&self) -> Result<Vec<Sha256Digest>> {
        let catalog = self.inner.catalog()?;
        let layout = self.inner.layout();
        let mut found = HashSet::new();
        for folder in [Folder::Blobs, Folder::Trees, Folder::Stamps] {
            let names = layout.names(folder)?;
            let digests = names.iter().filter_map(|name| name.parse::<Sha256Digest>().ok());
            found.extend(digests.filter(|sha256| catalog.holders(sha256).next().is_none()));
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let held = holds::held_among(layout, Some(&found))?;
        Ok(found.into_iter().filter(|sha256| !held.contains(sha256)).collect())
    }

    /// Does something to a slice at a time under the commit lock, and lets those who wait have as much time as it took.
    fn in_slices<T>(&mut self, all: &[T], mut act: impl FnMut(&mut Self, &Catalog, &[T]) -> Result<()>) -> Result<()> {
        for slice in all.chunks(SLICE) {
            self.task.go_on()?;
            let inner = self.inner;
            let mut took = Duration::ZERO;
            inner.commit(self.actor, |catalog| {
                let begun = Instant::now();
                let done = act(self, catalog, slice);
                took = begun.elapsed();
                done.map(Decision::Keep)
            })?;
            std::thread::sleep(took.min(LONGEST_PAUSE));
        }
        Ok(())
    }

    fn drop_records(&mut self, due: &Due) -> Result<()> {
        let why = format!("{} blobs that no manifest has referred to for long enough", due.records.len());
        self.inner.note(Noted::Gc, due.repository.as_str(), &why, self.actor)?;
        self.in_slices(&due.records, |sweep, _, slice| {
            let layout = sweep.inner.layout();
            let _alone = holds::alone(layout)?;
            sweep.report.records += references::drop_due(layout, &due.repository, slice)?;
            Ok(())
        })
    }

    fn drop_orphans(&mut self, orphans: Vec<Sha256Digest>) -> Result<()> {
        self.in_slices(&orphans, |sweep, catalog, slice| {
            let layout = sweep.inner.layout();
            let _alone = holds::alone(layout)?;
            let slice: HashSet<Sha256Digest> = slice.iter().copied().collect();
            let held = holds::held_among(layout, Some(&slice))?;
            for sha256 in &slice {
                if !held.contains(sha256) && catalog.holders(sha256).next().is_none() {
                    sweep.drop_blob(sha256);
                }
            }
            Ok(())
        })
    }

    /// Removes a blob with its tree and its stamp. For whoever has both locks, and has asked.
    fn drop_blob(&mut self, sha256: &Sha256Digest) {
        self.count(sha256);
        let name = sha256.to_hex();
        for folder in [Folder::Stamps, Folder::Blobs, Folder::Trees] {
            self.remove(folder, &name);
        }
    }

    fn count(&mut self, sha256: &Sha256Digest) {
        let name = sha256.to_hex();
        let [blob, tree, stamp] = [Folder::Blobs, Folder::Trees, Folder::Stamps].map(|folder| self.size(folder, &name));
        blob.into_iter().for_each(|bytes| self.report.blobs.add(bytes));
        tree.into_iter().for_each(|bytes| self.report.trees.add(bytes));
        stamp.into_iter().for_each(|bytes| self.report.stamps.add(bytes));
    }

    fn loose_sidecars(&self, catalog: &Catalog) -> Result<Vec<String>> {
        let names = self.inner.layout().names(Folder::Sidecars)?;
        let pinned: HashSet<Sha256Digest> = catalog.artifacts().flat_map(|a| a.sidecars()).collect();
        let is_loose = |name: &String| name.parse::<Sha256Digest>().is_ok_and(|digest| !pinned.contains(&digest));
        Ok(names.into_iter().filter(is_loose).collect())
    }

    fn drop_sidecars(&mut self) -> Result<()> {
        let loose = self.loose_sidecars(&*self.inner.catalog()?)?;
        self.drop_loose(&loose)
    }

    fn drop_loose(&mut self, loose: &[String]) -> Result<()> {
        self.in_slices(loose, |sweep, catalog, slice| {
            let pinned: HashSet<String> =
                catalog.artifacts().flat_map(|a| a.sidecars()).map(|digest| digest.to_hex()).collect();
            for name in slice.iter().filter(|name| !pinned.contains(*name)) {
                let bytes = sweep.size(Folder::Sidecars, name);
                bytes.into_iter().for_each(|bytes| sweep.report.sidecars.add(bytes));
                sweep.remove(Folder::Sidecars, name);
            }
            Ok(())
        })
    }

    fn size(&self, folder: Folder, name: &str) -> Option<u64> {
        let stat = rustix::fs::statat(self.inner.layout().folder(folder), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn remove(&mut self, folder: Folder, name: &str) {
        if let Err(e) = self.inner.layout().remove(folder, name) {
            tracing::warn!(error = %e, name, "could not be swept");
            if self.report.left.len() < MAX_LISTED {
                self.report.left.push(e.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ContentDigest, Kind, Put, RepositoryName};
    use crate::{PromoteRequest, Source};
    use std::path::PathBuf;

    struct Rig {
        dir: tempfile::TempDir,
        registry: Registry,
        actor: Actor,
    }

    const BYTES: &[u8] = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    impl Rig {
        fn new() -> Rig {
            let dir = tempfile::tempdir().expect("a folder");
            let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
            Rig { dir, registry, actor: Actor::new("test", "tester") }
        }

        fn promote(&self) {
            let path = self.dir.path().join("m.gguf");
            std::fs::write(&path, BYTES).expect("written");
            let source = Source::open(&path).expect("a source");
            let request = PromoteRequest::new("m".parse().expect("a name"));
            self.registry.promote(request, source, &self.actor, &Task::unattended()).expect("promoted");
        }

        fn push(&self) {
            let mut upload = self.registry.content().begin(&repo()).expect("begun");
            upload.append(BYTES).expect("written");
            upload.finish(&digest()).expect("finished");
        }

        fn stored(&self, folder: &str) -> PathBuf {
            self.registry.root().join(folder).join(Sha256Digest::of(BYTES).to_hex())
        }

        /// One sweep, whose steps can be taken one by one.
        fn sweep<T>(&self, act: impl FnOnce(&mut Sweep<'_, '_>) -> T) -> T {
            let task = Task::unattended();
            let report = GcReport::default();
            act(&mut Sweep { inner: &self.registry.inner, actor: &self.actor, task: &task, report })
        }
    }

    fn repo() -> RepositoryName {
        "r".parse().expect("a repository")
    }

    fn digest() -> ContentDigest {
        Sha256Digest::of(BYTES).into()
    }

    /// Threat 25: the list of orphans was made with no lock held.
    #[test]
    fn t25_an_orphan_that_somebody_holds_by_the_time_of_its_turn_stays() {
        let holds: [fn(&Rig); 2] = [Rig::promote, Rig::push];
        for hold in holds {
            let rig = Rig::new();
            for folder in ["blobs/sha256", "trees"] {
                std::fs::write(rig.stored(folder), "left by a crash").expect("written");
            }
            rig.sweep(|sweep| {
                let orphans = sweep.orphans().expect("looked");
                assert_eq!(orphans, [Sha256Digest::of(BYTES)]);
                hold(&rig);
                sweep.drop_orphans(orphans).expect("swept");
                assert_eq!(sweep.report, GcReport::default());
            });
            assert_eq!(std::fs::read(rig.stored("blobs/sha256")).expect("there"), BYTES);
            assert!(rig.stored("trees").exists());
        }
    }

    #[test]
    fn t25_a_sidecar_that_is_pinned_by_the_time_of_its_turn_stays() {
        let rig = Rig::new();
        rig.promote();
        let name = rig.registry.inner.layout().names(Folder::Sidecars).expect("listed");
        assert_eq!(name.len(), 1);
        rig.sweep(|sweep| {
            sweep.drop_loose(&name).expect("swept");
            assert_eq!(sweep.report.sidecars.files, 0);
        });
        assert_eq!(rig.registry.inner.layout().names(Folder::Sidecars).expect("listed"), name);
    }

    /// Threat 25: whoever is about to refer to a blob has touched its record.
    #[test]
    fn t25_a_record_that_was_touched_since_the_passes_saw_it_stays() {
        let touches: [fn(&Rig); 2] =
            [|rig| assert!(rig.registry.content().renew(&repo(), &digest()).expect("renewed").is_some()), Rig::push];
        for touch in touches {
            let rig = Rig::new();
            rig.push();
            let layout = rig.registry.inner.layout();
            let due = || {
                let mut idle = Idle::look(layout, RECORDS);
                references::unreferenced(layout, &mut idle, Duration::ZERO).expect("looked").due
            };
            let seen = due();
            touch(&rig);
            rig.sweep(|sweep| {
                sweep.drop_records(&seen[0]).expect("swept");
                assert_eq!(sweep.report.records, 0);
            });
            assert!(rig.registry.content().blob(&repo(), &digest()).expect("looked").is_some());
            rig.sweep(|sweep| {
                sweep.drop_records(&due()[0]).expect("swept");
                assert_eq!(sweep.report.records, 1);
            });
            assert!(rig.registry.content().blob(&repo(), &digest()).expect("looked").is_none());
        }
    }

    /// While somebody writes a record nothing is dropped.
    #[test]
    fn t25_a_sweep_waits_for_who_writes_a_record() {
        use rustix::fs::FlockOperation;
        let rig = Rig::new();
        std::fs::write(rig.stored("trees"), "left by a crash").expect("written");
        let layout = rig.registry.inner.layout();
        let writing = layout.lock("holds.lock", FlockOperation::LockShared).expect("locked");
        std::thread::scope(|scope| {
            let sweep = scope.spawn(|| rig.registry.gc(None, &rig.actor, &Task::unattended()).expect("swept"));
            // It stands in the gate, and waits.
            while !layout.is_locked("holds.gate").expect("looked") {
                assert!(!sweep.is_finished(), "it did not wait");
                std::thread::yield_now();
            }
            assert!(rig.stored("trees").exists());
            drop(writing);
            assert_eq!(sweep.join().expect("ended").trees.files, 1);
        });
    }

    /// Documents of repositories, as the server writes them.
    #[test]
    fn t25_a_manifest_that_came_after_the_look_keeps_what_it_refers_to() {
        let rig = Rig::new();
        rig.push();
        let layout = rig.registry.inner.layout();
        let found = references::unreferenced(layout, &mut Idle::look(layout, RECORDS), Duration::ZERO).expect("looked");
        // As the server does: renewed, then written.
        let content = rig.registry.content();
        content.renew(&repo(), &digest()).expect("renewed");
        let manifest = format!("[\"{}\"]", digest());
        let name = format!("sha256-{}", Sha256Digest::of(manifest.as_bytes()));
        let document = format!("{{}}\n{manifest}");
        content.put(&repo(), &Kind::Manifest, &name, document.as_bytes(), Put::New).expect("put");
        rig.sweep(|sweep| sweep.drop_records(&found.due[0]).expect("swept"));
        assert!(content.blob(&repo(), &digest()).expect("looked").is_some());
    }
}
