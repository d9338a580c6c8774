//! Checking models from end to end, and what follows.
//!
//! Owns: verify one, verify all, quarantine by integrity, restore, release. Promises: a model that fails is quarantined
//! before the report is given; one that passes again is restored only when integrity had quarantined it, never when an
//! incident had; what a model deleted under an incident left blocked, only a release lifts; a disk that does not answer is
//! reported as such and quarantines nothing. Leaves out: hashing (`scan`).

use crate::artifact::{Artifact, Blocked, Cause, FileEntry, Layout as Shape, Quarantine, list_digest};
use crate::audit::{self, Event, now};
use crate::blobs::Check;
use crate::catalog::store::Decision;
use crate::catalog::{Catalog, Edit};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Folder;
use crate::monitor;
use crate::name::ModelName;
use crate::registry::Inner;
use crate::task::{Actor, Task};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// What the verification of one model found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The model.
    pub name: ModelName,
    /// Its digest, as promoted.
    pub sha256: Sha256Digest,
    /// The result.
    pub status: VerifyStatus,
    /// What is wrong, of one that did not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The digest that was promoted (bare hex), of one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The digest that was found (bare hex), of one that failed and could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Whether this verification lifted a quarantine that integrity had put.
    #[serde(default)]
    pub restored: bool,
    /// Files checked.
    pub files: usize,
    /// Bytes of those files.
    pub bytes: u64,
}

/// How a verification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyStatus {
    /// Every byte is what was promoted.
    Verified,
    /// Some byte is not; the model is quarantined.
    Failed,
    /// The disk did not answer; nothing is said about the bytes.
    Unreadable,
}

/// What a verification of all models found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAll {
    /// One report a model, sorted by name.
    pub models: Vec<VerifyReport>,
    /// How many were checked.
    pub checked: usize,
    /// When it ended: RFC 3339, UTC.
    pub verified_at: String,
}

impl VerifyAll {
    /// How long ago it ended; none when the clock says that this lies ahead.
    pub fn age(&self) -> Option<std::time::Duration> {
        monitor::age(&self.verified_at)
    }

    /// Whether every model passed.
    pub fn all_verified(&self) -> bool {
        self.models.iter().all(|m| m.status == VerifyStatus::Verified)
    }
}

/// What a release found under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// A model, which was verified; whether it is served again, the report says.
    Model(VerifyReport),
    /// No model, but what deleted ones had left blocked: it is not any more.
    Deleted(Vec<Arc<Blocked>>),
}

/// How often what failed is looked at again while the catalog goes on changing.
const LOOKS: usize = 16;

/// Where the last result of verify-all is kept.
const LAST: &str = "integrity.json";

/// Verifies one model.
pub(crate) fn one(inner: &Arc<Inner>, name: &ModelName, actor: &Actor, task: &Task<'_>) -> Result<VerifyReport> {
    let catalog = inner.catalog()?;
    let artifact = Arc::clone(catalog.require(name)?);
    let mut reports = check(inner, &[artifact], task)?;
    settle(inner, &mut reports, catalog.generation(), actor)?;
    reports.pop().map(|(_, report)| report).ok_or_else(|| replaced(name))
}

/// Verifies all models, each blob once.
pub(crate) fn all(inner: &Arc<Inner>, actor: &Actor, task: &Task<'_>) -> Result<VerifyAll> {
    // One at a time, also beside the monitor's pass.
    let _turn = monitor::turn(inner)?;
    let catalog = inner.catalog()?;
    let artifacts: Vec<Arc<Artifact>> = catalog.artifacts().cloned().collect();
    let reports = check(inner, &artifacts, task)?;
    keep(inner, reports, catalog.generation(), actor)
}

/// The same of what a pass has found about the blobs of `catalog`, which it took before it read the first. What was quarantined
/// since stays so: the pass may have read it before that. `earlier` are blobs that were read before the catalog was taken, by a pass
/// that a restart broke off: they speak for no model that is quarantined.
pub(crate) fn conclude(
    inner: &Arc<Inner>,
    catalog: &Catalog,
    found: &HashMap<Sha256Digest, Check>,
    earlier: impl Fn(&Sha256Digest) -> bool,
    actor: &Actor,
) -> Result<VerifyAll> {
    let told = |a: &&Arc<Artifact>| a.is_promoted() || !a.files.iter().any(|f| earlier(&f.sha256));
    let reports = catalog.artifacts().filter(told).map(|a| (Arc::clone(a), report(inner, a, found))).collect();
    keep(inner, reports, catalog.generation(), actor)
}

/// Draws the consequences, and keeps the result.
fn keep(
    inner: &Arc<Inner>,
    mut reports: Vec<(Arc<Artifact>, VerifyReport)>,
    looked: u64,
    actor: &Actor,
) -> Result<VerifyAll> {
    settle(inner, &mut reports, looked, actor)?;
    let models: Vec<VerifyReport> = reports.into_iter().map(|(_, report)| report).collect();
    let all = VerifyAll { checked: models.len(), models, verified_at: now() };
    let text =
        serde_json::to_vec(&all).map_err(|e| Error::new(ErrorKind::Io, "the result cannot be written").because(e))?;
    if inner.layout().is_writable() {
        inner.layout().write_atomically(Folder::Run, LAST, &text)?;
    }
    Ok(all)
}

fn replaced(name: &ModelName) -> Error {
    Error::new(ErrorKind::Conflict, format!("{name} was deleted or replaced while it was verified: verify it again"))
        .on(name)
}

/// The result of the last verify-all, by whatever process.
pub(crate) fn last(inner: &Inner) -> Result<Option<VerifyAll>> {
    match inner.layout().read_small(Folder::Run, LAST, 64 << 20) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Lifts a quarantine, whoever put it, if every byte is good; or, when no model has the name, what deleted ones left.
pub(crate) fn release(
    inner: &Arc<Inner>,
    name: &ModelName,
    reason: &str,
    actor: &Actor,
    task: &Task<'_>,
) -> Result<Release> {
    // Before anything is hashed: it could not be lifted.
    inner.layout().check_writable()?;
    let catalog = inner.catalog()?;
    if catalog.artifact(name).is_none() && catalog.blocked_as(name).next().is_some() {
        return release_deleted(inner, name, reason, actor).map(Release::Deleted);
    }
    let artifact = Arc::clone(catalog.require(name)?);
    let mut reports = check(inner, std::slice::from_ref(&artifact), task)?;
    if reports.iter().any(|(_, report)| report.status != VerifyStatus::Verified) {
        settle(inner, &mut reports, catalog.generation(), actor)?;
    }
    let (_, mut report) = reports.pop().ok_or_else(|| replaced(name))?;
    if report.status == VerifyStatus::Verified {
        report.restored = lift(inner, &artifact, "release", reason, actor)?;
    }
    Ok(Release::Model(report))
}

/// Lifts what models deleted under this name left blocked. There are no bytes left that could be verified, and the log says so.
pub(crate) fn release_deleted(
    inner: &Arc<Inner>,
    name: &ModelName,
    reason: &str,
    actor: &Actor,
) -> Result<Vec<Arc<Blocked>>> {
    let (_, lifted) = inner.commit(actor, |catalog| {
        let lifted: Vec<Arc<Blocked>> = catalog.blocked_as(name).cloned().collect();
        if lifted.is_empty() {
            let why =
                format!("nothing that was deleted as {name} is blocked: `securereg list --blocked` names what is");
            return Err(Error::new(ErrorKind::NotFound, why).on(name));
        }
        let incidents: Vec<String> = lifted.iter().map(|b| b.quarantine.incident()).collect();
        // What matters most first: the log cuts what is too long.
        let why = format!("no bytes are left to verify; deleted under {}: {reason}", incidents.join(", "));
        let edits = vec![Edit::Unblock(name.clone())];
        Ok(Decision::Change { event: "release", names: vec![name.to_string()], why, edits, value: lifted })
    })?;
    Ok(lifted)
}

/// Quarantines one model for an incident, or because a person says so.
pub(crate) fn quarantine(
    inner: &Arc<Inner>,
    name: &ModelName,
    reason: &str,
    incident_id: Option<&str>,
    actor: &Actor,
) -> Result<Arc<Artifact>> {
    inner.layout().check_writable()?;
    if reason.trim().is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "a quarantine needs a reason").on(name));
    }
    if reason.len() > 4096 || incident_id.is_some_and(|id| id.len() > 256) {
        return Err(Error::new(ErrorKind::TooLarge, "a reason may have 4096 bytes, an incident id 256").on(name));
    }
    let (catalog, ()) = inner.commit(actor, |catalog| {
        let mut artifact = Artifact::clone(catalog.require(name)?);
        artifact.quarantine = Some(Quarantine {
            cause: Cause::Incident,
            reason: reason.to_owned(),
            incident_id: incident_id.map(str::to_owned),
            at: now(),
        });
        let edits = vec![Edit::Put(Box::new(artifact))];
        Ok(Decision::Change {
            event: "quarantine",
            names: vec![name.to_string()],
            why: reason.to_owned(),
            edits,
            value: (),
        })
    })?;
    catalog.require(name).cloned()
}

/// Quarantines every promoted model that holds a blob found damaged, all in one change; unless it was `mended` since.
pub(crate) fn quarantine_holders(
    inner: &Arc<Inner>,
    sha256: &Sha256Digest,
    why: &str,
    actor: &Actor,
    mended: impl Fn() -> bool,
) -> Result<()> {
    let fail = |catalog: &Catalog| {
        if mended() {
            return Ok(Decision::Keep(()));
        }
        inner.blobs().forget(sha256);
        let holders = catalog.holders(sha256).filter(|a| a.is_promoted());
        fail_all(inner, catalog, holders.map(|a| (a, why)), actor)
    };
    inner.commit(actor, fail).map(drop)
}

/// Quarantines one model whose records are wrong, though its bytes may not be.
pub(crate) fn fail_record(inner: &Arc<Inner>, checked: &Artifact, why: &str, actor: &Actor) -> Result<()> {
    if !inner.layout().is_writable() {
        // Nobody can be told, but this process does not serve it.
        checked.files.iter().for_each(|f| inner.condemn(&f.sha256));
        return Ok(());
    }
    let fail = |catalog: &Catalog| {
        let still = catalog.artifact(&checked.name).filter(|now| now.inspection == checked.inspection);
        fail_all(inner, catalog, still.map(|a| (a, why)).into_iter(), actor)
    };
    inner.commit(actor, fail).map(drop)
}

/// Hashes the files of all artifacts, each blob once, and reports without changing anything.
fn check(
    inner: &Arc<Inner>,
    artifacts: &[Arc<Artifact>],
    task: &Task<'_>,
) -> Result<Vec<(Arc<Artifact>, VerifyReport)>> {
    let mut unique: HashMap<Sha256Digest, &FileEntry> = HashMap::new();
    for file in artifacts.iter().flat_map(|a| &a.files) {
        unique.entry(file.sha256).or_insert(file);
    }
    let entries: Vec<&FileEntry> = unique.into_values().collect();
    let checks = inner.blobs().check(&entries, task)?;
    if !inner.layout().is_writable() {
        // Nobody can be told, but this process does not serve it.
        let bad = entries.iter().zip(&checks).filter(|(_, check)| matches!(check, Check::Bad { .. }));
        bad.for_each(|(entry, _)| inner.condemn(&entry.sha256));
    }
    let found: HashMap<Sha256Digest, Check> = entries.iter().map(|e| e.sha256).zip(checks).collect();
    Ok(artifacts.iter().map(|a| (Arc::clone(a), report(inner, a, &found))).collect())
}

fn report(inner: &Inner, artifact: &Artifact, found: &HashMap<Sha256Digest, Check>) -> VerifyReport {
    let mut report = VerifyReport {
        name: artifact.name.clone(),
        sha256: artifact.sha256,
        status: VerifyStatus::Verified,
        error: None,
        expected: None,
        actual: None,
        restored: false,
        files: artifact.files.len(),
        bytes: artifact.size_bytes,
    };
    let mut files = artifact.files.clone();
    let mut all_known = true;
    for file in &mut files {
        match found.get(&file.sha256) {
            Some(Check::Good) => {}
            Some(Check::Bad { why, actual }) => {
                report.status = VerifyStatus::Failed;
                report.error.get_or_insert_with(|| why.clone());
                match actual {
                    Some(actual) => file.sha256 = *actual,
                    None => all_known = false,
                }
            }
            unread => {
                let why = match unread {
                    Some(Check::Unreadable(why)) => why.as_str(),
                    _ => "it was not checked",
                };
                all_known = false;
                if report.status == VerifyStatus::Verified {
                    report.status = VerifyStatus::Unreadable;
                    report.error = Some(format!("{} is unreadable: {why}", file.path));
                }
            }
        }
    }
    if let Some(e) = artifact.sidecars().find_map(|digest| inner.sidecar(&digest).err()) {
        all_known = false;
        match (e.kind(), report.status) {
            (ErrorKind::Corrupt, _) => report.status = VerifyStatus::Failed,
            (_, VerifyStatus::Verified) => report.status = VerifyStatus::Unreadable,
            _ => {}
        }
        report.error.get_or_insert_with(|| e.to_string());
    }
    if report.status == VerifyStatus::Failed {
        report.expected = Some(artifact.sha256.to_hex());
        let actual = if artifact.layout == Shape::File { files[0].sha256 } else { list_digest(&files) };
        // A damaged tree leaves the bytes' digest as it was: saying so as "actual" would confuse.
        report.actual = (all_known && actual != artifact.sha256).then(|| actual.to_hex());
    }
    report
}

/// Quarantines what failed, in one change, and restores what integrity had quarantined and is good again. Reports of models
/// that were deleted or replaced meanwhile are dropped: nothing is known of what stands there now. `looked` is the generation
/// at which it was checked: what failed is looked at again when another has come since, because a model that was deleted and
/// promoted anew meanwhile reads as before.
fn settle(
    inner: &Arc<Inner>,
    reports: &mut Vec<(Arc<Artifact>, VerifyReport)>,
    mut looked: u64,
    actor: &Actor,
) -> Result<()> {
    let mut catalog = inner.catalog()?;
    for _ in 0..LOOKS {
        reports.retain(|(checked, _)| catalog.artifact(&checked.name).is_some_and(|now| now.files == checked.files));
        if catalog.generation() == looked || reports.iter().all(|(_, r)| r.status == VerifyStatus::Verified) {
            break;
        }
        looked = catalog.generation();
        for (artifact, report) in reports.iter_mut().filter(|(_, r)| r.status != VerifyStatus::Verified) {
            // As it stands now: its sidecars may be others than those of the entry that was checked.
            let now = catalog.artifact(&artifact.name).unwrap_or(artifact);
            if let Some(again) = check(inner, std::slice::from_ref(now), &Task::unattended())?.pop() {
                (*artifact, *report) = again;
            }
        }
        catalog = inner.catalog()?;
    }
    if !inner.layout().is_writable() {
        // There is nobody to tell and nothing to lift but what this process itself holds against them.
        let passed = reports.iter().filter(|(_, report)| report.status == VerifyStatus::Verified);
        passed.for_each(|(artifact, _)| inner.absolve(artifact.files.iter().map(|f| &f.sha256)));
        return Ok(());
    }
    let events: Vec<Event<'_>> = reports
        .iter()
        .filter(|(_, report)| report.status == VerifyStatus::Unreadable)
        .map(|(_, report)| noted(&report.name, report.error.as_deref().unwrap_or(""), &catalog))
        .collect();
    inner.figures.failed(ErrorKind::Unreadable, events.len());
    if !events.is_empty() {
        inner.log(actor, &events)?;
    }
    if reports.iter().any(|(_, report)| report.status == VerifyStatus::Failed) {
        let failed = reports.iter().filter(|(_, report)| report.status == VerifyStatus::Failed);
        inner.commit(actor, |catalog| {
            let still = failed.filter_map(|(checked, report)| {
                let now = catalog.artifact(&checked.name).filter(|now| now.files == checked.files)?;
                // Replaced by good bytes since it was read.
                let healed = now.files.iter().all(|f| inner.has_good(&f.sha256))
                    && now.sidecars().all(|digest| inner.sidecar(&digest).is_ok());
                (!healed).then_some((now, report.error.as_deref().unwrap_or("")))
            });
            fail_all(inner, catalog, still, actor)
        })?;
    }
    for (artifact, report) in reports.iter_mut().filter(|(_, report)| report.status == VerifyStatus::Verified) {
        inner.absolve(artifact.files.iter().map(|f| &f.sha256));
        if artifact.quarantine.as_ref().is_some_and(|q| q.cause == Cause::Integrity) {
            report.restored = lift(inner, artifact, "restore", "a verification passed", actor)?;
        }
    }
    Ok(())
}

/// The change that quarantines models for integrity, after a line for each failed check. One that is quarantined already
/// keeps its quarantine.
fn fail_all<'a>(
    inner: &Inner,
    catalog: &Catalog,
    failed: impl Iterator<Item = (&'a Arc<Artifact>, &'a str)>,
    actor: &Actor,
) -> Result<Decision<()>> {
    let failed: Vec<(&Arc<Artifact>, &str)> = failed.collect();
    inner.figures.failed(ErrorKind::Corrupt, failed.len());
    let events: Vec<Event<'_>> = failed.iter().map(|(artifact, why)| noted(&artifact.name, why, catalog)).collect();
    if !events.is_empty() {
        inner.log(actor, &events)?;
    }
    let edits: Vec<Edit> = failed
        .iter()
        .filter(|(artifact, _)| artifact.is_promoted())
        .map(|(artifact, why)| {
            let mut artifact = Artifact::clone(artifact);
            let reason = (*why).to_owned();
            artifact.quarantine = Some(Quarantine { cause: Cause::Integrity, reason, incident_id: None, at: now() });
            Edit::Put(Box::new(artifact))
        })
        .collect();
    if edits.is_empty() {
        return Ok(Decision::Keep(()));
    }
    let names = failed.iter().filter(|(a, _)| a.is_promoted()).map(|(a, _)| a.name.to_string()).collect();
    let why = failed.first().map_or_else(String::new, |(_, why)| (*why).to_owned());
    Ok(Decision::Change { event: "quarantine", names, why, edits, value: () })
}

/// Takes off the quarantine that the checked artifact had, and no other: one that was put since was not looked into.
/// Whether it did.
fn lift(inner: &Arc<Inner>, checked: &Artifact, event: &'static str, why: &str, actor: &Actor) -> Result<bool> {
    let (_, lifted) = inner.commit(actor, |catalog| {
        let unchanged = |a: &&Arc<Artifact>| a.files == checked.files && a.quarantine == checked.quarantine;
        let Some(artifact) = catalog.artifact(&checked.name).filter(unchanged).filter(|a| !a.is_promoted()) else {
            return Ok(Decision::Keep(false));
        };
        let mut artifact = Artifact::clone(artifact);
        artifact.quarantine = None;
        let names = vec![artifact.name.to_string()];
        Ok(Decision::Change {
            event,
            names,
            why: why.to_owned(),
            edits: vec![Edit::Put(Box::new(artifact))],
            value: true,
        })
    })?;
    if lifted {
        inner.absolve(checked.files.iter().map(|f| &f.sha256));
    }
    Ok(lifted)
}

fn noted<'a>(name: &'a ModelName, why: &'a str, catalog: &Catalog) -> Event<'a> {
    Event { event: "verify_failed", phase: audit::NOTED, name: name.as_str(), why, generation: catalog.generation() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::artifact;
    use crate::registry::Registry;

    /// A disk that fails cannot be had everywhere; what a failed read means is decided here.
    #[test]
    fn t17_what_cannot_be_read_is_unreadable_and_never_called_corrupt() {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let artifact = artifact("m", Shape::Folder, &["a.gguf", "b.gguf", "c.gguf"]);
        let found = |checks: [Check; 3]| -> HashMap<Sha256Digest, Check> {
            artifact.files.iter().map(|f| f.sha256).zip(checks).collect()
        };
        let bad = |actual| Check::Bad { why: "damaged".into(), actual };
        let unread = || Check::Unreadable("the disk failed".into());
        let of = |checks| report(&registry.inner, &artifact, &found(checks));

        let r = of([Check::Good, Check::Good, Check::Good]);
        assert_eq!((r.status, r.error, r.expected, r.actual), (VerifyStatus::Verified, None, None, None));
        let r = of([Check::Good, unread(), Check::Good]);
        assert_eq!((r.status, r.expected, r.actual), (VerifyStatus::Unreadable, None, None));
        assert_eq!(r.error.as_deref(), Some("b.gguf is unreadable: the disk failed"));
        let other = Sha256Digest::of(b"other");
        for checks in [[bad(Some(other)), unread(), Check::Good], [unread(), bad(Some(other)), Check::Good]] {
            let r = of(checks);
            assert_eq!((r.status, r.actual), (VerifyStatus::Failed, None), "not every file is known");
            assert!(r.expected.is_some());
        }
        let r = of([bad(Some(other)), Check::Good, Check::Good]);
        let mut files = artifact.files.clone();
        files[0].sha256 = other;
        assert_eq!(r.actual, Some(list_digest(&files).to_hex()));
        assert_eq!(
            of([bad(None), Check::Good, Check::Good]).actual,
            None,
            "a damaged tree leaves the bytes' digest as it was"
        );
        let nothing = report(&registry.inner, &artifact, &HashMap::new());
        assert_eq!(nothing.status, VerifyStatus::Unreadable, "nothing ran is not a pass");
    }

    /// What a read-only process refuses by itself nobody else can lift.
    #[test]
    fn a_verification_that_passes_ends_what_a_read_only_process_held_against_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = dir.path().join("m.gguf");
        std::fs::write(&source, crate::models::gguf(100, 1)).expect("written");
        let (me, name) = (Actor::new("test", "tester"), "m".parse::<ModelName>().expect("a name"));
        let root = dir.path().join("root");
        let writer = Registry::open_or_create(&root).expect("a root");
        let request = crate::PromoteRequest::new(name.clone());
        let source = crate::Source::open(&source).expect("a source");
        let file =
            writer.promote(request, source, &me, &Task::unattended()).expect("promoted").artifact.files[0].clone();

        let reader = Registry::open_read_only(&root).expect("opens");
        let open = || reader.open_file(&name, &file.path, crate::ReadMode::Cached).map(drop).map_err(|e| e.kind());
        let (one, all) = (
            || reader.verify(&name, &me, &Task::unattended()).map(|r| r.status),
            || reader.verify_all(&me, &Task::unattended()).map(|all| all.models[0].status),
        );
        for verify in [&one as &dyn Fn() -> Result<VerifyStatus>, &all] {
            reader.inner.condemn(&file.sha256);
            assert_eq!(open(), Err(ErrorKind::Corrupt), "condemned");
            assert_eq!(verify().expect("it ran"), VerifyStatus::Verified);
            assert_eq!(open(), Ok(()));
        }
    }
}
