//! Healing a damaged model, group by group, from second sources.
//!
//! Owns: `repair`: finding what is damaged (in [`look`]), writing it anew (in [`heal`]), and the report. Promises: no byte is
//! written to a stored file that did not lead to the root in manifest.yaml, out of the very buffer that was hashed; when one
//! bad group has no good second, nothing is written at all; a stop at any point, a power cut included, leaves no group worse
//! than it was; what is served again was verified from the disk by [`verify::one`], which lifts what integrity put and never
//! an incident. Leaves out: sidecars, which no source has (promote the same files again).
//!
//! ```text
//! look   blob, tree -> what is damaged -> a good second for each bad group, or nothing is done
//!        a damaged page of a tree: from the span it is of, when the bytes of either lead to the root; a tree that is lost: from
//!        a file, either, whose whole root is the one recorded
//! note   the damage (a quarantine, if nobody knew), then what will be written (the audit log)
//! heal   in place, when the stored file is ours alone: each bad group is read once, hashed, written; synced
//!        anew, when it is missing, a link, has a second link, another owner or an open writer: copied to tmp/, synced, renamed under the
//!        commit lock, while the model still holds it
//! verify the whole model, from the disk
//! ```
//! In place, because one group of a model of 100 GB is 64 KiB. It is no danger to readers: a group is bad until it is good,
//! and each read of it says which. One who read it just before and reports it just after is not believed (`verified`).

mod heal;
mod look;

use crate::artifact::{Artifact, Cause, FileEntry};
use crate::audit::Noted;
use crate::digest::Sha256Digest;
use crate::error::Result;
use crate::layout::Layout;
use crate::name::{ModelName, RelPath};
use crate::registry::{Inner, Registry};
use crate::source::{Source, SourceFile};
use crate::task::{Actor, Phase, Progress, Task};
use crate::verify::{self, VerifyReport};
use look::Plan;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// How a repair ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairStatus {
    /// Nothing was damaged.
    Whole,
    /// All that was damaged was written anew.
    Healed,
    /// Something has no good second: nothing was written.
    Refused,
}

/// What a repair found and did.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// The model.
    pub name: ModelName,
    /// How it ended.
    pub status: RepairStatus,
    /// Files of the model that were looked at; equal ones are stored once, and count once.
    pub files_checked: usize,
    /// Those that were damaged.
    pub files: Vec<RepairedFile>,
    /// Groups of 64 KiB that were not what was promoted.
    pub groups_bad: u64,
    /// Groups that were written.
    pub groups_rewritten: u64,
    /// Bytes of those groups.
    pub bytes_rewritten: u64,
    /// What has no good second, at most a hundred places.
    pub gaps: Vec<Gap>,
    /// Places that are not listed.
    pub more_gaps: u64,
    /// What the verification of the whole model found afterwards; none when nothing was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyReport>,
    /// Other models that hold the same bytes and are still quarantined for integrity: verify them too.
    pub others: Vec<ModelName>,
}

/// A damaged file.
#[derive(Debug, Clone, Serialize)]
pub struct RepairedFile {
    /// Its path in the model.
    pub path: RelPath,
    /// The name of its blob.
    pub sha256: Sha256Digest,
    /// What was wrong with it, in words.
    pub damage: Vec<String>,
    /// Its groups.
    pub groups: u64,
    /// Those that were bad.
    pub groups_bad: u64,
    /// Those that were written.
    pub groups_rewritten: u64,
    /// Whether its tree was made anew.
    pub tree_rebuilt: bool,
    /// Whether it was written in place, and not anew beside the damaged one.
    pub in_place: bool,
}

/// Bytes for which there is no good second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The file's path in the model.
    pub path: RelPath,
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// No more places are listed.
const MAX_GAPS: usize = 100;

impl Registry {
    /// Writes the damaged groups of a model anew from other copies of it: files or folders, whose files are matched by their path in
    /// the model (a single file by being the only one). Of several, each group comes from the first that has it good. Without any,
    /// only what the stored bytes themselves allow is put right: trees, modes, second links. Then the whole model is verified.
    ///
    /// # Errors
    /// `NotFound` without such a model, `NoSpace`, `Cancelled`, or what the system refused. Sources that do not match are no error
    /// but a report that says so.
    pub fn repair(&self, name: &ModelName, sources: &[Source], actor: &Actor, task: &Task<'_>) -> Result<RepairReport> {
        let inner = &self.inner;
        inner.layout().check_writable()?;
        let artifact = Arc::clone(inner.catalog()?.require(name)?);
        let _in_use = inner.layout().use_temp()?;
        let repair = Repair { inner, actor, task, temps: Temps { layout: inner.layout(), names: Mutex::default() } };
        repair.run(&artifact, sources).map_err(|e| e.on(name))
    }
}

/// One repair under way.
struct Repair<'a, 't> {
    inner: &'a Arc<Inner>,
    actor: &'a Actor,
    task: &'a Task<'t>,
    temps: Temps<'a>,
}

/// Names in tmp/; whatever was not renamed goes when this is dropped.
struct Temps<'a> {
    layout: &'a Layout,
    names: Mutex<Vec<String>>,
}

impl Temps<'_> {
    fn keep(&self, name: &str) {
        self.names.lock().push(name.to_owned());
    }
}

impl Drop for Temps<'_> {
    fn drop(&mut self) {
        self.names.lock().iter().for_each(|name| self.layout.discard(name));
    }
}

/// A stored file of the model, and where second ones may be.
struct Blob<'a> {
    entry: &'a FileEntry,
    seconds: Vec<&'a SourceFile>,
}

/// How far a phase is.
struct Meter<'a, 't> {
    task: &'a Task<'t>,
    phase: Phase,
    done: u64,
    total: u64,
}

impl Meter<'_, '_> {
    fn step(&mut self, n: u64) -> Result<()> {
        self.done += n;
        self.task.step(Progress { phase: self.phase, done: self.done, total: self.total })
    }
}

impl Repair<'_, '_> {
    fn run(&self, artifact: &Arc<Artifact>, sources: &[Source]) -> Result<RepairReport> {
        let blobs = blobs_of(artifact, sources);
        let total = blobs.iter().map(|blob| blob.entry.size_bytes).sum();
        let mut meter = Meter { task: self.task, phase: Phase::Verify, done: 0, total };
        let mut plans = Vec::new();
        for blob in &blobs {
            plans.extend(self.look(blob, &mut meter)?);
        }
        let mut report = report_of(artifact, blobs.len(), &plans);
        self.tell_damage(&plans)?;
        if report.status == RepairStatus::Healed {
            self.inner.note(Noted::Repair, artifact.name.as_str(), &intent(&report), self.actor)?;
            let total = plans.iter().map(Plan::bytes_to_write).sum();
            let mut meter = Meter { task: self.task, phase: Phase::Copy, done: 0, total };
            for (plan, file) in plans.iter().zip(&mut report.files) {
                let written = self.heal(plan, &mut meter)?;
                file.groups_rewritten = written.groups;
                report.groups_rewritten += written.groups;
                report.bytes_rewritten += written.bytes;
            }
        } else if report.status == RepairStatus::Refused {
            self.inner.note(Noted::Repair, artifact.name.as_str(), &refusal(&report), self.actor)?;
            return Ok(report);
        }
        report.verify = Some(verify::one(self.inner, &artifact.name, self.actor, self.task)?);
        report.others = self.others(artifact, &plans)?;
        Ok(report)
    }

    /// Whoever finds damage quarantines what holds it, also when it is about to be healed: readers must know.
    fn tell_damage(&self, plans: &[Plan<'_>]) -> Result<()> {
        for plan in plans.iter().filter(|plan| plan.is_corrupt) {
            let why = format!("{}: {}", plan.blob.entry.path, plan.damage.join("; "));
            verify::quarantine_holders(self.inner, &plan.blob.entry.sha256, &why, self.actor, || false)?;
        }
        Ok(())
    }

    fn others(&self, artifact: &Artifact, plans: &[Plan<'_>]) -> Result<Vec<ModelName>> {
        let catalog = self.inner.catalog()?;
        let quarantined = |a: &&Arc<Artifact>| a.quarantine.as_ref().is_some_and(|q| q.cause == Cause::Integrity);
        let holders = plans.iter().flat_map(|plan| catalog.holders(&plan.blob.entry.sha256)).filter(quarantined);
        let mut names: Vec<ModelName> = holders.map(|a| a.name.clone()).filter(|name| *name != artifact.name).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// The stored files of a model, each once, with the files of the sources that may be the same.
fn blobs_of<'a>(artifact: &'a Artifact, sources: &'a [Source]) -> Vec<Blob<'a>> {
    let by_path: Vec<HashMap<&str, &SourceFile>> =
        sources.iter().map(|source| source.files.iter().map(|file| (file.path.as_str(), file)).collect()).collect();
    let mut at: HashMap<Sha256Digest, usize> = HashMap::new();
    let mut blobs: Vec<Blob<'a>> = Vec::new();
    for entry in &artifact.files {
        let i = *at.entry(entry.sha256).or_insert_with(|| {
            blobs.push(Blob { entry, seconds: Vec::new() });
            blobs.len() - 1
        });
        for (source, by_path) in sources.iter().zip(&by_path) {
            let alone = artifact.files.len() == 1 && source.files.len() == 1;
            let second = if alone { source.files.first() } else { by_path.get(entry.path.as_str()).copied() };
            blobs[i].seconds.extend(second);
        }
    }
    blobs
}

fn report_of(artifact: &Artifact, checked: usize, plans: &[Plan<'_>]) -> RepairReport {
    let file = |plan: &Plan<'_>| RepairedFile {
        path: plan.blob.entry.path.clone(),
        sha256: plan.blob.entry.sha256,
        damage: plan.damage.clone(),
        groups: plan.bad.len() as u64,
        groups_bad: plan.groups_bad(),
        groups_rewritten: 0,
        tree_rebuilt: plan.tree.is_some(),
        in_place: plan.in_place,
    };
    let all: Vec<&Gap> = plans.iter().flat_map(|plan| &plan.gaps).collect();
    let unlisted: u64 = plans.iter().map(|plan| plan.more_gaps).sum();
    let status = match (plans.is_empty(), all.is_empty()) {
        (true, _) => RepairStatus::Whole,
        (false, true) => RepairStatus::Healed,
        (false, false) => RepairStatus::Refused,
    };
    RepairReport {
        name: artifact.name.clone(),
        status,
        files_checked: checked,
        files: plans.iter().map(file).collect(),
        groups_bad: plans.iter().map(Plan::groups_bad).sum(),
        groups_rewritten: 0,
        bytes_rewritten: 0,
        gaps: all.iter().take(MAX_GAPS).map(|gap| Gap::clone(gap)).collect(),
        more_gaps: all.len().saturating_sub(MAX_GAPS) as u64 + unlisted,
        verify: None,
        others: Vec::new(),
    }
}

fn intent(report: &RepairReport) -> String {
    let files: Vec<String> = report.files.iter().map(|f| format!("{} ({})", f.path, f.damage.join("; "))).collect();
    format!("writes {} bad groups anew from another copy: {}", report.groups_bad, files.join(", "))
}

fn refusal(report: &RepairReport) -> String {
    let gap = report.gaps.first().map_or_else(String::new, |gap| {
        format!("{} from {} on ({} bytes): {}", gap.path, gap.offset, gap.bytes, gap.why)
    });
    format!("nothing was written: {} bad groups, and {gap}", report.groups_bad)
}
