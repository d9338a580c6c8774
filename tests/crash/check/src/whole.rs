//! Whether a registry is whole.
//!
//! Owns: every check after a crash. Promises: opens the root as the next start does, with nobody's help; looks at every model's
//! every byte through the one door that readers have; names each thing that is wrong. Leaves out: what should be there.

use crate::oci;
use securereg::{
    Actor, Artifact, ErrorKind, PromoteRequest, ReadMode, Registry, Result, Sha256Digest, Sha256Stream, Source, Task,
    VerifyStatus,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The state of the root at `root`, and what is wrong with it.
pub(crate) fn look(root: &Path, probe: &Path) -> Value {
    let mut problems = Vec::new();
    let registry = match Registry::open_or_create(root) {
        Ok(registry) => registry,
        Err(e) => return json!({"state": null, "problems": [format!("the next start fails: {e}")], "garbage": 0}),
    };
    let state = state(&registry).unwrap_or_else(|e| {
        problems.push(format!("its state cannot be read: {e}"));
        Value::Null
    });
    let looks: [(&str, Look); 6] = [
        ("tmp/", nothing_in_tmp),
        ("the log", log_is_whole),
        ("the stored files", stored_files_are_private),
        ("the bytes", every_byte_is_served),
        ("a verification", all_verified),
        ("the repositories", oci::every_blob_is_whole),
    ];
    for (what, check) in looks {
        if let Err(e) = check(&registry, &mut problems) {
            problems.push(format!("{what}: {e}"));
        }
    }
    let garbage = garbage(&registry).unwrap_or_else(|e| {
        problems.push(format!("what is left over: {e}"));
        0
    });
    if let Err(e) = goes_on(&registry, probe) {
        problems.push(format!("a promotion and a delete after it: {e}"));
    }
    for check in [nothing_in_tmp, log_is_whole] {
        if let Err(e) = check(&registry, &mut problems) {
            problems.push(format!("after a promotion: {e}"));
        }
    }
    json!({"state": state, "problems": problems, "garbage": garbage})
}

/// Adds what is wrong to the problems; an error when it cannot be told.
type Look = fn(&Registry, &mut Vec<String>) -> Result<()>;

fn me() -> Actor {
    Actor::new("test", "crash-check")
}

/// What the registry holds, without times and places.
fn state(registry: &Registry) -> Result<Value> {
    let catalog = registry.catalog()?;
    let models: Map<String, Value> = catalog.artifacts().map(|a| (a.name.to_string(), model(a))).collect();
    let blocked: Vec<Value> = catalog
        .blocked()
        .map(|b| json!({"name": b.name.to_string(), "weights": b.weights.iter().map(|w| w.sha256.to_hex()).collect::<Vec<_>>()}))
        .collect();
    let signed = registry.audit_verify()?.signed_by.is_some();
    Ok(
        json!({"models": models, "blocked": blocked, "oci": oci::state(registry)?, "log": log(registry)?, "signed": signed}),
    )
}

fn model(artifact: &Artifact) -> Value {
    let quarantine = artifact.quarantine.as_ref().map(|q| json!([q.cause.as_str(), q.reason, q.incident_id]));
    let files: Map<String, Value> =
        artifact.files.iter().map(|f| (f.path.to_string(), json!([f.size_bytes, f.sha256.to_hex()]))).collect();
    json!({
        "sha256": artifact.sha256.to_hex(),
        "layout": artifact.layout.as_str(),
        "quarantine": quarantine,
        "files": files,
        "evidence": artifact.evidence.map(|d| d.to_hex()),
        "inspected": artifact.inspection.is_some(),
    })
}

/// The changes that the log says have happened, by generation: what every acknowledged one must be among.
fn log(registry: &Registry) -> Result<Value> {
    let mut open: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut applied = BTreeMap::new();
    for line in registry.audit_log()? {
        match line.phase.as_str() {
            "intent" => {
                open.entry(line.generation).or_default().insert(format!("{} {}", line.event, line.name));
            }
            "aborted" => {
                open.remove(&(line.generation + 1));
            }
            "applied" => {
                applied.extend(open.remove(&line.generation).map(|changes| (line.generation, changes)));
            }
            _ => {}
        }
    }
    Ok(json!(applied.into_values().flatten().collect::<Vec<_>>()))
}

fn nothing_in_tmp(registry: &Registry, problems: &mut Vec<String>) -> Result<()> {
    let left = names(&registry.root().join("tmp"))?;
    if !left.is_empty() {
        problems.push(format!("left in tmp/ after a start: {left:?}"));
    }
    Ok(())
}

/// The chain holds, and each change that was announced has an outcome.
fn log_is_whole(registry: &Registry, problems: &mut Vec<String>) -> Result<()> {
    registry.audit_verify()?;
    let (mut announced, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for line in registry.audit_log()? {
        match line.phase.as_str() {
            // It says itself what it starts from: whatever was open before is settled by it.
            "applied" if line.event == "recover" => {
                announced.clear();
                true
            }
            "intent" => announced.insert(line.generation),
            "applied" => closed.insert(line.generation),
            "aborted" => closed.insert(line.generation + 1),
            _ => false,
        };
    }
    let dangling: Vec<&u64> = announced.difference(&closed).collect();
    if !dangling.is_empty() {
        problems.push(format!("announced, and nothing says what came of it: generations {dangling:?}"));
    }
    Ok(())
}

/// What `up` does at its start, and then: one link, read-only.
fn stored_files_are_private(registry: &Registry, problems: &mut Vec<String>) -> Result<()> {
    registry.recheck_stale(&Task::unattended())?;
    let catalog = registry.catalog()?;
    for file in catalog.artifacts().filter(|a| a.is_promoted()).flat_map(|a| &a.files) {
        let path = registry.root().join("blobs/sha256").join(file.sha256.to_hex());
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.nlink() == 1 && meta.mode() == 0o100_444 && meta.len() == file.size_bytes => {}
            Ok(meta) => problems.push(format!(
                "the stored file of {} has mode {:o}, {} links, {} bytes",
                file.path,
                meta.mode(),
                meta.nlink(),
                meta.len()
            )),
            Err(e) => problems.push(format!("the stored file of {}: {e}", file.path)),
        }
    }
    Ok(())
}

/// Read as a reader reads: what is promoted comes whole, what is quarantined does not come.
fn every_byte_is_served(registry: &Registry, problems: &mut Vec<String>) -> Result<()> {
    let catalog = registry.catalog()?;
    for (artifact, file) in catalog.artifacts().flat_map(|a| a.files.iter().map(move |f| (a, f))) {
        let opened = registry.open_file(&artifact.name, &file.path, ReadMode::Cached);
        match (artifact.is_promoted(), opened) {
            (true, Ok(open)) => match digest(|out, at| open.read_at(out, at)) {
                Ok((size, sha256)) if size == file.size_bytes && sha256 == file.sha256 => {}
                Ok((size, _)) => problems.push(format!("{}: {size} wrong bytes were served", artifact.name)),
                Err(e) => problems.push(format!("{} cannot be read: {e}", artifact.name)),
            },
            (true, Err(e)) => problems.push(format!("{} cannot be opened: {e}", artifact.name)),
            (false, Ok(_)) => problems.push(format!("{} is quarantined and is served", artifact.name)),
            (false, Err(e)) if e.kind() == ErrorKind::Quarantined => {}
            (false, Err(e)) => problems.push(format!("{} is quarantined, but: {e}", artifact.name)),
        }
    }
    Ok(())
}

/// Reads to the end in pieces.
pub(crate) fn digest(read_at: impl Fn(&mut [u8], u64) -> Result<usize>) -> Result<(u64, Sha256Digest)> {
    let (mut sha256, mut at, mut piece) = (Sha256Stream::new(), 0, vec![0; 100_000]);
    loop {
        match read_at(&mut piece, at)? {
            0 => return Ok((at, sha256.finish())),
            n => {
                sha256.update(&piece[..n]);
                at += n as u64;
            }
        }
    }
}

/// `securereg verify --all`. What is quarantined for integrity is as it should be when it fails.
fn all_verified(registry: &Registry, problems: &mut Vec<String>) -> Result<()> {
    let before = registry.catalog()?;
    let all = registry.verify_all(&me(), &Task::unattended())?;
    if all.checked != before.len() {
        problems.push(format!("{} of {} models were verified", all.checked, before.len()));
    }
    for report in all.models.iter().filter(|report| report.status != VerifyStatus::Verified) {
        if before.artifact(&report.name).is_none_or(|a| a.is_promoted()) {
            problems.push(format!("{} fails its verification: {}", report.name, report.error.as_deref().unwrap_or("")));
        }
    }
    Ok(())
}

/// Files that nothing refers to: allowed after a crash, swept by `gc`.
fn garbage(registry: &Registry) -> Result<usize> {
    let catalog = registry.catalog()?;
    let mut blobs: BTreeSet<String> =
        catalog.artifacts().flat_map(|a| &a.files).map(|file| file.sha256.to_hex()).collect();
    blobs.extend(oci::blobs(registry)?);
    let sidecars = catalog.artifacts().flat_map(|a| [a.evidence, a.inspection]).flatten().map(|d| d.to_hex()).collect();
    let unheld = |folder: &str, held: &BTreeSet<String>| {
        names(&registry.root().join(folder)).map(|there| there.iter().filter(|name| !held.contains(*name)).count())
    };
    Ok(unheld("blobs/sha256", &blobs)? + unheld("trees", &blobs)? + unheld("sidecars/sha256", &sidecars)?)
}

/// The registry can still be changed.
fn goes_on(registry: &Registry, probe: &Path) -> Result<()> {
    let name: securereg::ModelName = "crash-check-probe".parse()?;
    let request =
        PromoteRequest { filename: Some("crash-check-probe.gguf".parse()?), ..PromoteRequest::new(name.clone()) };
    registry.promote(request, Source::open(probe)?, &me(), &Task::unattended())?;
    registry.verify(&name, &me(), &Task::unattended())?;
    registry.delete(&name, &me())
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let io = |e: std::io::Error| securereg::Error::new(ErrorKind::Io, format!("listing {}: {e}", folder.display()));
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(io)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
