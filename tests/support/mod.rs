//! What the core's integration tests share: a root in a temporary folder, models to put in, ways to damage them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests")]

pub mod models;

pub use models::*;
use securereg::*;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Root {
    pub dir: tempfile::TempDir,
    pub registry: Registry,
}

pub fn me() -> Actor {
    Actor::new("test", "tester")
}

pub fn name(s: &str) -> ModelName {
    s.parse().unwrap()
}

pub fn rel(s: &str) -> RelPath {
    s.parse().unwrap()
}

impl Root {
    pub fn new() -> Root {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open_or_create(&dir.path().join("root")).unwrap();
        Root { dir, registry }
    }

    pub fn path(&self) -> &Path {
        self.registry.root()
    }

    /// Another handle on the same root, as another process would have.
    pub fn again(&self) -> Registry {
        Registry::open(self.path()).unwrap()
    }

    pub fn source(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("source").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn promote_path(&self, model: &str, path: &Path) -> Result<Promotion> {
        let source = Source::open(path)?;
        self.registry.promote(PromoteRequest::new(name(model)), source, &me(), &Task::unattended())
    }

    pub fn promote(&self, model: &str, bytes: &[u8]) -> Promotion {
        let file = format!("{}.gguf", model.replace(['/', ':'], "_"));
        let path = self.source(&file, bytes);
        self.promote_path(model, &path).unwrap()
    }

    pub fn open(&self, model: &str) -> Result<VerifiedFile> {
        let catalog = self.registry.catalog()?;
        let path = catalog.require(&name(model))?.files[0].path.clone();
        self.registry.open_file(&name(model), &path, ReadMode::Cached)
    }

    pub fn read(&self, model: &str) -> Result<Vec<u8>> {
        let file = self.open(model)?;
        let mut out = vec![0; file.len() as usize];
        let n = file.read_at(&mut out, 0)?;
        assert_eq!(n, out.len());
        Ok(out)
    }

    pub fn blob(&self, model: &str) -> PathBuf {
        let catalog = self.registry.catalog().unwrap();
        self.path().join("blobs/sha256").join(catalog.require(&name(model)).unwrap().files[0].sha256.to_hex())
    }

    /// Where these bytes are stored, whatever the manifest says.
    pub fn blob_of(&self, bytes: &[u8]) -> PathBuf {
        self.path().join("blobs/sha256").join(Sha256Digest::of(bytes).to_hex())
    }

    pub fn tree(&self, model: &str) -> PathBuf {
        let blob = self.blob(model);
        self.path().join("trees").join(blob.file_name().unwrap())
    }

    pub fn status(&self, model: &str) -> &'static str {
        self.registry.catalog().unwrap().require(&name(model)).unwrap().status()
    }

    pub fn verify(&self, model: &str) -> VerifyReport {
        self.registry.verify(&name(model), &me(), &Task::unattended()).unwrap()
    }

    /// Releases a registered model.
    pub fn release(&self, model: &str, reason: &str) -> VerifyReport {
        match self.registry.release(&name(model), reason, &me(), &Task::unattended()).unwrap() {
            Release::Model(report) => report,
            Release::Deleted(lifted) => panic!("no model is called {model}: {lifted:?}"),
        }
    }

    pub fn events(&self) -> Vec<(String, String, String)> {
        self.registry.audit_log().unwrap().into_iter().map(|l| (l.event, l.phase, l.name)).collect()
    }

    pub fn has_event(&self, event: &str, phase: &str, model: &str) -> bool {
        self.events().contains(&(event.into(), phase.into(), model.into()))
    }

    /// What is in a folder of the root.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path().join(folder))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Tells threads to stop when it is dropped: when a test fails, too, which would wait for them for ever.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn writable(path: &Path) -> File {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Flips one bit of a stored file.
pub fn flip(path: &Path, at: u64) {
    let file = writable(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Forges the recorded stamp of a blob after it was damaged, which is what damage below the file system looks like: the
/// bytes changed, nothing that the inode tells did.
pub fn damage_below(root: &Root, model: &str, damage: impl FnOnce()) {
    damage();
    let stamp = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        let m = std::fs::metadata(path).unwrap();
        format!("{} {} {} {} {} {}\n", m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
    };
    let blob = root.blob(model);
    let text = stamp(&blob) + &stamp(&root.tree(model));
    std::fs::write(root.path().join("stamps").join(blob.file_name().unwrap()), text).unwrap();
}
