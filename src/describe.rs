//! An artifact as the API and the command line show it.
//!
//! Owns: the Artifact JSON and paths in the mount. Promises: what a promoter sent along is inlined from its sidecar, checked
//! against the digest that the manifest pins; a path is given only for what is served, through a mount that is alive. Leaves
//! out: HTTP and terminals.

use crate::artifact::{Artifact, Layout as Shape};
use crate::error::{Error, ErrorKind, Result};
use crate::mounts::{self, MountRecord};
use crate::name::ModelName;
use crate::registry::{Inner, Registry};
use crate::sidecar;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the registry says itself: nothing sent along may pass for it.
const RESERVED: [&str; 20] = [
    "adapter",
    "findings",
    "inspection",
    "name",
    "path",
    "mounted",
    "sha256",
    "format",
    "layout",
    "source",
    "status",
    "promoted_at",
    "size_bytes",
    "filename",
    "blake3",
    "files",
    "quarantine",
    "error",
    "kind",
    "signature",
];

/// What gguf-guard says; of a model that was promoted before there were inspections, as the promoter sent it.
const GUARD: [&str; 2] = ["gguf_guard_fingerprint", "gguf_guard_manifest"];

/// The Artifact JSON of one model.
pub(crate) fn describe(inner: &Inner, artifact: &Artifact, default_mount: &Path) -> Result<Value> {
    show(inner, artifact, &mounts::live(inner.layout())?, default_mount)
}

/// The same of all. One whose evidence cannot be read is shown with the error in its place, and hides no other.
pub(crate) fn describe_all(inner: &Inner, default_mount: &Path) -> Result<Vec<Value>> {
    let live = mounts::live(inner.layout())?;
    let one = |artifact: &Arc<Artifact>| {
        show(inner, artifact, &live, default_mount).unwrap_or_else(|e| with_error(artifact, &e))
    };
    Ok(inner.catalog()?.artifacts().map(one).collect())
}

fn with_error(artifact: &Artifact, e: &Error) -> Value {
    let (name, sha256, status) = (&artifact.name, &artifact.sha256, artifact.status());
    json!({"name": name, "sha256": sha256, "status": status, "error": e.to_string(), "kind": e.kind().as_str()})
}

impl Registry {
    /// The Artifact JSON of a model that was changed a moment ago. The change has happened: when the model cannot be described, the
    /// error stands in its place, and is not taken for a failure of the change.
    pub fn describe_changed(&self, artifact: &Artifact) -> Value {
        self.describe(artifact).unwrap_or_else(|e| with_error(artifact, &e))
    }
}

/// The registry's own fields over whatever the promoter sent along.
fn show(inner: &Inner, artifact: &Artifact, live: &[MountRecord], default_mount: &Path) -> Result<Value> {
    let mut out: Map<String, Value> = match &artifact.evidence {
        Some(digest) => inner.sidecar(digest).map_err(|e| e.on(&artifact.name))?,
        None => Map::new(),
    };
    RESERVED.iter().for_each(|key| drop(out.remove(*key)));
    if let Some(kept) = sidecar::read(inner, artifact)? {
        // Of what was inspected here, these are said by the registry, or by nobody.
        GUARD.iter().for_each(|key| drop(out.remove(*key)));
        sidecar::describe(kept, &mut out);
    }
    let mount = live.first().map_or(default_mount, |m| &m.mountpoint);
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    put("name", json!(artifact.name));
    put("path", json!(mount.join(artifact.entry_path())));
    put("mounted", json!(!live.is_empty()));
    put("sha256", json!(artifact.sha256));
    put("format", json!(artifact.format));
    put("layout", json!(artifact.layout));
    put("source", json!(artifact.source));
    put("status", json!(artifact.status()));
    put("promoted_at", json!(artifact.promoted_at));
    put("size_bytes", json!(artifact.size_bytes));
    match artifact.layout {
        Shape::File => {
            put("filename", json!(artifact.files[0].path));
            put("blake3", json!(artifact.files[0].blake3));
        }
        Shape::Folder | Shape::Split => put("files", json!(artifact.files)),
    }
    if let Some(q) = &artifact.quarantine {
        put("quarantine", json!(q));
    }
    Ok(Value::Object(out))
}

/// Where a live mount shows the model: only of one that is promoted and whose files are good now.
pub(crate) fn path(inner: &Arc<Inner>, name: &ModelName) -> Result<PathBuf> {
    let catalog = inner.catalog()?;
    let artifact = catalog.require(name)?;
    inner.require_promoted(artifact)?;
    let live = mounts::live(inner.layout())?;
    let mount = live.first().ok_or_else(|| {
        Error::new(ErrorKind::NotMounted, format!("no mount shows {name}: start one with `securereg mount DIR`"))
            .on(name)
    })?;
    for file in &artifact.files {
        inner.open_entry(Some(name), file)?;
    }
    Ok(mount.mountpoint.join(artifact.entry_path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Actor, PromoteRequest, Source, Task};

    #[test]
    fn a_change_that_has_happened_is_told_though_the_model_cannot_be_described() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = dir.path().join("m.gguf");
        std::fs::write(&source, crate::models::gguf(100, 1)).expect("written");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let request = PromoteRequest::new("m".parse().expect("a name"));
        let source = Source::open(&source).expect("a source");
        let promoted = registry.promote(request, source, &Actor::new("test", "tester"), &Task::unattended());
        let artifact = promoted.expect("promoted").artifact;
        assert_eq!(registry.describe_changed(&artifact), registry.describe(&artifact).expect("described"));

        let sidecar = artifact.inspection.expect("inspected").to_hex();
        std::fs::remove_file(registry.root().join("sidecars/sha256").join(sidecar)).expect("removed");
        assert!(registry.describe(&artifact).is_err());
        let told = registry.describe_changed(&artifact);
        assert_eq!((told["name"].as_str(), told["status"].as_str()), (Some("m"), Some("promoted")));
        assert_eq!(told["kind"].as_str(), Some("corrupt"));
    }
}
