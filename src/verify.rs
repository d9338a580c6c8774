//! Checking models from end to end, and what follows.
//!
//! Owns: verify one, verify all, quarantine by integrity, restore, release. Promises: a model that fails is quarantined
//! before the report is given; one that passes again is restored only when integrity had quarantined it, never when an
//! incident had; a disk that does not answer is reported as such and quarantines nothing. Leaves out: hashing (`scan`).

use crate::artifact::{Artifact, Cause, FileEntry, Layout as Shape, Quarantine, list_digest};
use crate::audit::{self, Event, now};
use crate::blobs::Check;
use crate::catalog::store::Decision;
use crate::catalog::{Catalog, Edit};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Folder;
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
    /// Whether every model passed.
    pub fn all_verified(&self) -> bool {
        self.models.iter().all(|m| m.status == VerifyStatus::Verified)
    }
}

/// Where the last result of verify-all is kept.
const LAST: &str = "run/integrity.json";

/// Verifies one model.
pub(crate) fn one(inner: &Arc<Inner>, name: &ModelName, actor: &Actor, task: &Task<'_>) -> Result<VerifyReport> {
    let artifact = Arc::clone(inner.catalog()?.require(name)?);
    let mut reports = check(inner, &[artifact], task)?;
    settle(inner, &mut reports, actor)?;
    reports.pop().map(|(_, report)| report).ok_or_else(|| Error::new(ErrorKind::Io, "nothing was verified"))
}

/// Verifies all models, each blob once.
pub(crate) fn all(inner: &Arc<Inner>, actor: &Actor, task: &Task<'_>) -> Result<VerifyAll> {
    let artifacts: Vec<Arc<Artifact>> = inner.catalog()?.artifacts().cloned().collect();
    let mut reports = check(inner, &artifacts, task)?;
    settle(inner, &mut reports, actor)?;
    let models: Vec<VerifyReport> = reports.into_iter().map(|(_, report)| report).collect();
    let all = VerifyAll { checked: models.len(), models, verified_at: now() };
    let text =
        serde_json::to_vec(&all).map_err(|e| Error::new(ErrorKind::Io, "the result cannot be written").because(e))?;
    inner.layout().write_atomically(Folder::Root, LAST, &text)?;
    Ok(all)
}

/// The result of the last verify-all, by whatever process.
pub(crate) fn last(inner: &Inner) -> Result<Option<VerifyAll>> {
    match inner.layout().read_small(Folder::Root, LAST, 64 << 20) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Lifts a quarantine, whoever put it, if every byte is good.
pub(crate) fn release(
    inner: &Arc<Inner>,
    name: &ModelName,
    reason: &str,
    actor: &Actor,
    task: &Task<'_>,
) -> Result<VerifyReport> {
    let artifact = Arc::clone(inner.catalog()?.require(name)?);
    let mut reports = check(inner, std::slice::from_ref(&artifact), task)?;
    if reports.iter().any(|(_, report)| report.status != VerifyStatus::Verified) {
        settle(inner, &mut reports, actor)?;
    }
    let (_, mut report) = reports.pop().ok_or_else(|| Error::new(ErrorKind::Io, "nothing was verified"))?;
    if report.status == VerifyStatus::Verified {
        report.restored = lift(inner, &artifact, "release", reason, actor, |_| true)?;
    }
    Ok(report)
}

/// Quarantines one model for an incident, or because a person says so.
pub(crate) fn quarantine(
    inner: &Arc<Inner>,
    name: &ModelName,
    reason: &str,
    incident_id: Option<&str>,
    actor: &Actor,
) -> Result<Arc<Artifact>> {
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
        Ok(change("quarantine", name, reason, artifact))
    })?;
    catalog.require(name).cloned()
}

/// Quarantines every promoted model that holds a blob found damaged.
pub(crate) fn quarantine_holders(inner: &Arc<Inner>, sha256: &Sha256Digest, why: &str, actor: &Actor) -> Result<()> {
    let holders: Vec<ModelName> =
        inner.latest().holders(sha256).filter(|a| a.is_promoted()).map(|a| a.name.clone()).collect();
    for name in holders {
        inner.commit(actor, |catalog| {
            let Some(artifact) = catalog.artifact(&name) else { return Ok(Decision::Keep(())) };
            if !artifact.is_promoted() || !artifact.files.iter().any(|f| f.sha256 == *sha256) {
                return Ok(Decision::Keep(()));
            }
            audit::append(inner.layout(), actor, &noted("verify_failed", &name, why, catalog))?;
            let mut artifact = Artifact::clone(artifact);
            artifact.quarantine =
                Some(Quarantine { cause: Cause::Integrity, reason: why.to_owned(), incident_id: None, at: now() });
            Ok(change("quarantine", &name, why, artifact))
        })?;
    }
    Ok(())
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
    if let Some(why) = artifact.evidence.and_then(|digest| inner.sidecar(&digest).err()) {
        report.status = VerifyStatus::Failed;
        report.error.get_or_insert_with(|| why.to_string());
        all_known = false;
    }
    if report.status == VerifyStatus::Failed {
        report.expected = Some(artifact.sha256.to_hex());
        let actual = if artifact.layout == Shape::File { files[0].sha256 } else { list_digest(&files) };
        // A damaged tree leaves the bytes' digest as it was: saying so as "actual" would confuse.
        report.actual = (all_known && actual != artifact.sha256).then(|| actual.to_hex());
    }
    report
}

/// Quarantines what failed and restores what integrity had quarantined and is good again.
fn settle(inner: &Arc<Inner>, reports: &mut [(Arc<Artifact>, VerifyReport)], actor: &Actor) -> Result<()> {
    for (artifact, report) in reports {
        let why = report.error.as_deref().unwrap_or("");
        match report.status {
            VerifyStatus::Verified => {
                let by_integrity = |q: &Quarantine| q.cause == Cause::Integrity;
                if artifact.quarantine.as_ref().is_some_and(by_integrity) {
                    report.restored = lift(inner, artifact, "restore", "a verification passed", actor, by_integrity)?;
                }
            }
            VerifyStatus::Unreadable => {
                audit::append(inner.layout(), actor, &noted("verify_failed", &report.name, why, &inner.latest()))?;
            }
            VerifyStatus::Failed => fail(inner, artifact, why, actor)?,
        }
    }
    Ok(())
}

fn fail(inner: &Arc<Inner>, artifact: &Artifact, why: &str, actor: &Actor) -> Result<()> {
    audit::append(inner.layout(), actor, &noted("verify_failed", &artifact.name, why, &inner.latest()))?;
    inner.commit(actor, |catalog| {
        let Some(now_there) = catalog.artifact(&artifact.name) else { return Ok(Decision::Keep(())) };
        if !now_there.is_promoted() || now_there.files != artifact.files {
            return Ok(Decision::Keep(()));
        }
        let mut failed = artifact.clone();
        failed.quarantine =
            Some(Quarantine { cause: Cause::Integrity, reason: why.to_owned(), incident_id: None, at: now() });
        Ok(change("quarantine", &artifact.name, why, failed))
    })?;
    Ok(())
}

/// Takes the quarantine off, if `may` allows it for the one that is there now. Whether it did.
fn lift(
    inner: &Arc<Inner>,
    checked: &Artifact,
    event: &'static str,
    why: &str,
    actor: &Actor,
    may: impl Fn(&Quarantine) -> bool,
) -> Result<bool> {
    let (_, lifted) = inner.commit(actor, |catalog| {
        let Some(artifact) = catalog.artifact(&checked.name) else { return Ok(Decision::Keep(false)) };
        if artifact.files != checked.files || !artifact.quarantine.as_ref().is_some_and(&may) {
            return Ok(Decision::Keep(false));
        }
        let mut artifact = Artifact::clone(artifact);
        artifact.quarantine = None;
        let name = artifact.name.to_string();
        Ok(Decision::Change {
            event,
            name,
            why: why.to_owned(),
            edits: vec![Edit::Put(Box::new(artifact))],
            value: true,
        })
    })?;
    if lifted {
        inner.absolve(checked);
    }
    Ok(lifted)
}

fn change(event: &'static str, name: &ModelName, why: &str, artifact: Artifact) -> Decision<()> {
    Decision::Change {
        event,
        name: name.to_string(),
        why: why.to_owned(),
        edits: vec![Edit::Put(Box::new(artifact))],
        value: (),
    }
}

fn noted<'a>(event: &'static str, name: &'a ModelName, why: &'a str, catalog: &Catalog) -> Event<'a> {
    Event { event, phase: audit::NOTED, name: name.as_str(), why, generation: catalog.generation() }
}
