//! What the tests of the mount share: a registry with a real mount, models to put in, ways to damage them, and child
//! processes that read.
//!
//! A machine that cannot mount skips, visibly and by name; with `SECUREREG_REQUIRE_FUSE=1` a skip is a failure.

#[path = "../../../tests/support/models.rs"]
pub mod models;
pub mod probe;

pub use models::gguf;
use securereg::{Actor, ModelName, PromoteRequest, Promotion, Registry, Sha256Digest, Source, Task};
use securereg_fusefs::{Allow, Mount, MountOptions, can_mount};
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A group of the tree.
pub const GROUP: u64 = 64 * 1024;

pub struct Fixture {
    pub registry: Registry,
    pub mount: Option<Mount>,
    pub dir: TempDir,
}

/// A registry with a mount, or nothing where this machine cannot mount.
pub fn mounted() -> Option<Fixture> {
    mounted_with(MountOptions::default())
}

pub fn mounted_with(options: MountOptions) -> Option<Fixture> {
    if !may_mount() {
        return None;
    }
    let mut fixture = Fixture::unmounted();
    fixture.mount = Some(Mount::new(fixture.registry.clone(), &fixture.at(""), options).expect("mounts"));
    Some(fixture)
}

/// Whether this machine can mount; says so if not.
pub fn may_mount() -> bool {
    let Err(why) = can_mount() else { return true };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("SECUREREG_REQUIRE_FUSE").is_none_or(|v| v != "1"), "{test} may not be skipped: {why}");
    skip(&why.to_string());
    false
}

/// Says that the running test is skipped, past the harness, which keeps what a passing test prints.
pub fn skip(why: &str) {
    let line = format!("SKIPPED {}: {why}\n", std::thread::current().name().unwrap_or("a test"));
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

pub fn me() -> Actor {
    Actor::new("test", "tester")
}

pub fn name(s: &str) -> ModelName {
    s.parse().expect("a name")
}

impl Fixture {
    pub fn unmounted() -> Fixture {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a registry");
        Fixture { registry, mount: None, dir }
    }

    /// A path in the mount.
    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("mnt").join(path)
    }

    pub fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("mounted")
    }

    pub fn source(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("source").join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// Promotes `bytes` as the single file `<model>.gguf`, whose path in the mount is returned.
    pub fn promote(&self, model: &str, bytes: &[u8]) -> PathBuf {
        let file = format!("{}.gguf", model.replace(['/', ':'], "_"));
        let promotion = self.promote_path(model, &self.source(&file, bytes));
        self.at(promotion.artifact.entry_path().as_str())
    }

    pub fn promote_path(&self, model: &str, path: &Path) -> Promotion {
        let source = Source::open(path).expect("a source");
        self.registry.promote(PromoteRequest::new(name(model)), source, &me(), &Task::unattended()).expect("promoted")
    }

    pub fn sha256(&self, model: &str) -> Sha256Digest {
        let catalog = self.registry.catalog().expect("a catalog");
        catalog.artifact(&name(model)).expect("there").files[0].sha256
    }

    /// The stored file behind a model's first file.
    pub fn blob(&self, model: &str) -> PathBuf {
        self.registry.root().join("blobs/sha256").join(self.sha256(model).to_hex())
    }

    pub fn tree(&self, model: &str) -> PathBuf {
        self.registry.root().join("trees").join(self.sha256(model).to_hex())
    }

    pub fn status(&self, model: &str) -> &'static str {
        self.registry.catalog().expect("a catalog").artifact(&name(model)).expect("there").status()
    }

    pub fn quarantine(&self, model: &str) {
        self.registry.quarantine(&name(model), "a test", None, &me()).expect("quarantined");
    }

    /// Damages the stored file in a way that its inode does not show, as bit rot and a write to the raw device do: the
    /// stamp on record is made to agree with what is there now.
    pub fn damage_below(&self, model: &str, damage: impl FnOnce(&File)) {
        let blob = self.blob(model);
        damage(&writable(&blob));
        self.forge_stamp(model);
    }

    pub fn forge_stamp(&self, model: &str) {
        let stamp = |path: &Path| {
            let m = std::fs::metadata(path).expect("stat");
            format!("{} {} {} {} {} {}\n", m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
        };
        let text = stamp(&self.blob(model)) + &stamp(&self.tree(model));
        std::fs::write(self.registry.root().join("stamps").join(self.sha256(model).to_hex()), text).expect("forged");
    }
}

/// What a killed daemon left mounted must not outlive the test.
impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.mount.take());
        let at = self.dir.path().join("mnt");
        let left = || {
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            table.contains(&format!(" {} ", at.display()))
        };
        if left() && is_root() {
            let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
        } else if left() {
            let _ = std::process::Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(&at).status();
        }
    }
}

/// A stored file, opened for writing as its owner can.
pub fn writable(path: &Path) -> File {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).expect("chmod");
    OpenOptions::new().read(true).write(true).open(path).expect("opens")
}

/// Flips one bit.
pub fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
}

/// Waits until `done` says so.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// The error number of a failed call.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Options with which only `allow` differs from the default.
pub fn allowing(allow: Allow) -> MountOptions {
    MountOptions { allow, ..MountOptions::default() }
}
