//! A root whose records do not hold: what can be made of it.
//!
//! Owns: [`recover`]. Promises: nothing is served that was not served before and is not known to be good now; what is lost is
//! named; no quarantine is lifted; every other writer is kept out meanwhile; it can be shown before it is done. Leaves out:
//! damaged models (`repair`), and what nothing refers to (`gc`).
//!
//! ```text
//! the newest manifest that is whole: manifest.yaml or one of history/
//!   -> what the log says came after: deletes and quarantines again, what was promoted is lost or out of date
//!   -> or, when asked for, what a person wrote into manifest.yaml
//!   -> every stored file is there and good? else its models are quarantined
//!   -> a new generation, above every one that this root has seen
//! ```

use crate::artifact::{Artifact, Cause, Quarantine};
use crate::audit::{self, AuditLine};
use crate::blobs::Blobs;
use crate::catalog::memory::Memory;
use crate::catalog::store::Store;
use crate::catalog::{Catalog, Edit, history, text};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Keys, PublicKey};
use crate::layout::{Access, Layout};
use crate::registry::Registry;
use crate::task::{Actor, Phase, Progress, Task};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// What is to be recovered, and how far it goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverOptions {
    /// Takes over what a person wrote into manifest.yaml, if every byte that it names is there and good.
    pub accept_edit: bool,
    /// Does it; without this it is only said.
    pub apply: bool,
}

/// What a recovery does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// What is wrong with the root.
    pub wrong: String,
    /// What it starts from: `manifest.yaml`, or a file in `history/`.
    pub from: String,
    /// The generation of that.
    pub from_generation: u64,
    /// The generation that is written.
    pub generation: u64,
    /// Models in it.
    pub models: usize,
    /// What becomes of models, in the order in which it is done.
    pub steps: Vec<RecoveryStep>,
    /// Whether it was done.
    pub applied: bool,
}

/// What becomes of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecoveryStep {
    /// `delete`, `quarantine`, `lost`, `accept`, and `log` for the audit log.
    pub action: &'static str,
    /// The model's name.
    pub name: String,
    /// Why.
    pub why: String,
}

impl Registry {
    /// The public key that manifest.yaml and what is remembered apart from it are signed by; none where nothing is signed.
    pub fn public_key(&self) -> Result<Option<PublicKey>> {
        self.inner.store().public_key()
    }

    /// Makes a key, in the root, and signs by it from now on. Processes that are running take it up.
    ///
    /// # Errors
    /// `Conflict` when there is one.
    pub fn begin_signing(&self, actor: &Actor) -> Result<PublicKey> {
        self.inner.store().begin_signing(actor)
    }
}

/// Looks at a root that cannot be opened, or whose log does not hold, and puts it right as far as that can be done. None when
/// nothing is wrong.
///
/// # Errors
/// `NotFound` without a root, `Manifest` when no manifest is left that is whole, `Corrupt` when an edit names bytes that are not
/// there or not good.
pub fn recover(root: &Path, options: RecoverOptions, actor: &Actor, task: &Task<'_>) -> Result<Option<Recovery>> {
    let layout = Arc::new(Layout::open(root, Access::Write)?);
    let store = Store::unopened(Arc::clone(&layout));
    let (_lock, bytes, keys) = store.to_recover()?;
    let Some(wrong) = wrong(&layout) else { return Ok(None) };
    let mut work = Work { layout: &layout, blobs: Blobs::new(Arc::clone(&layout)), steps: Vec::new() };
    let base = base(&layout, bytes.clone(), &keys)?;
    let highest = highest(&layout, &keys).max(base.catalog.generation());
    let (from, from_generation) = (base.from, base.catalog.generation());
    let replayed = work.replay(base.catalog)?;
    let edited = match (&bytes, options.accept_edit) {
        (Some(bytes), true) => work.accept(replayed, bytes, task)?,
        (None, true) => {
            return Err(Error::new(ErrorKind::Manifest, "there is no manifest.yaml whose edit could be accepted"));
        }
        (_, false) => replayed,
    };
    let checked = work.check(edited, task)?;
    let generation = highest + 1;
    let new = Catalog::new(generation, checked.entries().to_vec(), checked.blocked_entries().to_vec())?;
    let models = new.len();
    if options.apply {
        if let Some(name) = audit::set_aside(&layout)? {
            work.step(
                "log",
                "",
                format!("the audit log was damaged: it is kept as {name}, and goes on from its last good line"),
            );
        }
        let why = format!("recovered from {from}, generation {from_generation}: {wrong}");
        store.replace(new, actor, &why)?;
        if let Some(still) = self::wrong(&layout) {
            work.step("log", "", format!("not put right: {still}"));
        }
    }
    let steps = work.steps;
    Ok(Some(Recovery { wrong, from, from_generation, generation, models, steps, applied: options.apply }))
}

/// What is wrong, if anything is.
fn wrong(layout: &Arc<Layout>) -> Option<String> {
    let opened = Store::open(Arc::clone(layout), Access::Read).and_then(|store| store.verify_log());
    opened.err().map(|e| e.to_string())
}

/// The newest manifest that is whole.
struct Base {
    from: String,
    catalog: Catalog,
}

fn base(layout: &Layout, bytes: Option<Vec<u8>>, keys: &Keys) -> Result<Base> {
    let named = bytes.map(|bytes| ("manifest.yaml".to_owned(), bytes));
    let kept = history::texts(layout, text::MAX_BYTES)?;
    let kept = kept.into_iter().map(|(generation, bytes)| (format!("history/manifest-{generation:020}"), bytes));
    // What was kept wins over a manifest of the same generation, which somebody may have made by hand.
    let whole = kept.chain(named).filter_map(|(from, bytes)| {
        let catalog = Store::read_text(bytes, keys).ok()?;
        Some(Base { from, catalog })
    });
    whole.reduce(|best, next| if next.catalog.generation() > best.catalog.generation() { next } else { best }).ok_or_else(|| {
        let why = "neither manifest.yaml nor any of history/ is whole: put one back from a backup of this root, or begin a new root and \
                   promote the models again";
        Error::new(ErrorKind::Manifest, why)
    })
}

/// The highest generation that anything here speaks of.
fn highest(layout: &Layout, keys: &Keys) -> u64 {
    let remembered = Memory::read(layout, keys).map_or(0, |memory| memory.generation);
    let logged = audit::last_change(layout).ok().flatten().map_or(0, |line| line.generation);
    let kept = history::texts(layout, text::MAX_BYTES).unwrap_or_default();
    remembered.max(logged).max(kept.first().map_or(0, |(generation, _)| *generation))
}

struct Work<'a> {
    layout: &'a Layout,
    blobs: Blobs,
    steps: Vec<RecoveryStep>,
}

impl Work<'_> {
    fn step(&mut self, action: &'static str, name: &str, why: String) {
        self.steps.push(RecoveryStep { action, name: name.to_owned(), why });
    }

    /// Does again what the log says came after, as far as a line of it says enough.
    fn replay(&mut self, mut catalog: Catalog) -> Result<Catalog> {
        // A log that does not hold is believed as far as it can be read: it can only take models out of service.
        let changes = audit::changes_after(self.layout, catalog.generation()).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "the audit log cannot be read to its end");
            Vec::new()
        });
        for line in changes {
            if let Some(edit) = self.again(&catalog, &line) {
                catalog = catalog.with(&[edit])?;
            }
        }
        Ok(catalog)
    }

    fn again(&mut self, catalog: &Catalog, line: &AuditLine) -> Option<Edit> {
        let name = line.name.parse().ok()?;
        let there = catalog.artifact(&name);
        let known = line.phase == audit::APPLIED;
        match (line.event.as_str(), there) {
            // Whether it came about is not known: a model is not given up for that.
            ("delete", Some(_)) if known => {
                self.step("delete", &line.name, format!("it was deleted in generation {}", line.generation));
                Some(Edit::Remove { name, at: line.time.clone() })
            }
            ("quarantine", Some(artifact)) if artifact.is_promoted() => {
                self.step("quarantine", &line.name, format!("as in generation {}: {}", line.generation, line.why));
                Some(quarantined(artifact, Cause::Incident, &line.why))
            }
            // A tag that has moved: what it was is not to be served again, and what it became is not known.
            ("promote", Some(_)) if known => {
                let why = format!(
                    "other bytes were promoted as this in generation {}, and their record is lost: promote them again",
                    line.generation
                );
                self.step("lost", &line.name, why);
                Some(Edit::Remove { name, at: line.time.clone() })
            }
            ("promote", None) if known => {
                let why = format!(
                    "it was promoted in generation {}, and its record is lost: promote it again",
                    line.generation
                );
                self.step("lost", &line.name, why);
                None
            }
            _ => None,
        }
    }

    /// Takes over what a person wrote. No edit lifts a quarantine.
    fn accept(&mut self, mut catalog: Catalog, bytes: &[u8], task: &Task<'_>) -> Result<Catalog> {
        let edited = text::parse_edited(bytes, &catalog)?;
        let gone: Vec<_> = catalog
            .artifacts()
            .filter(|there| !edited.iter().any(|e| e.name == there.name))
            .map(|there| there.name.clone())
            .collect();
        for name in gone {
            self.step("delete", name.as_str(), "the edit leaves it out".to_owned());
            catalog = catalog.with(&[Edit::Remove { name, at: audit::now() }])?;
        }
        for artifact in edited {
            let before = catalog.artifact(&artifact.name);
            if before.is_some_and(|before| **before == artifact) {
                continue;
            }
            if before.is_some_and(|before| before.quarantine.is_some() && before.quarantine != artifact.quarantine) {
                let why = format!(
                    "the edit lifts or changes the quarantine of {}: only `securereg release` does that",
                    artifact.name
                );
                return Err(Error::new(ErrorKind::Manifest, why).on(&artifact.name));
            }
            // Not by its stamp: every byte.
            let entries: Vec<_> = artifact.files.iter().collect();
            for (file, check) in entries.iter().zip(self.blobs.check(&entries, task)?) {
                if !matches!(check, crate::blobs::Check::Good) {
                    let why = format!(
                        "the edit names {} of {}, which is not stored here as it says",
                        file.path, artifact.name
                    );
                    return Err(Error::new(ErrorKind::Corrupt, why).on(&artifact.name));
                }
            }
            self.step("accept", artifact.name.as_str(), "as it was edited; every byte of it is good".to_owned());
            catalog.check_room(&artifact)?;
            catalog = catalog.with(&[Edit::Put(Box::new(artifact))])?;
        }
        Ok(catalog)
    }

    /// Quarantines what is not there, or not good.
    fn check(&mut self, mut catalog: Catalog, task: &Task<'_>) -> Result<Catalog> {
        let models: Vec<Arc<Artifact>> = catalog.artifacts().filter(|a| a.is_promoted()).cloned().collect();
        let total = models.iter().map(|a| a.size_bytes).sum();
        let mut done = 0;
        for artifact in models {
            let failed = artifact.files.iter().find_map(|file| {
                let e = self.blobs.open(file, false).err()?;
                Some(format!("{}: {}", file.path, e.message()))
            });
            if let Some(why) = failed {
                self.step("quarantine", artifact.name.as_str(), why.clone());
                catalog = catalog.with(&[quarantined(&artifact, Cause::Integrity, &why)])?;
            }
            done += artifact.size_bytes;
            task.step(Progress { phase: Phase::Verify, done, total })?;
        }
        Ok(catalog)
    }
}

fn quarantined(artifact: &Artifact, cause: Cause, reason: &str) -> Edit {
    let quarantine = Quarantine { cause, reason: format!("recovered: {reason}"), incident_id: None, at: audit::now() };
    Edit::Put(Box::new(Artifact { quarantine: Some(quarantine), ..Artifact::clone(artifact) }))
}
