//! Stored files: blobs, trees, stamps, sidecars.
//!
//! Owns: what is wrong with each as an inode, and with trees and sidecars as bytes. Promises: a file that somebody holds and that is
//! not there is told as well as one that is there and nobody holds. Leaves out: the blobs' bytes (`fsck`, deep).

use super::{Expected, Problem, Urgency, Walk};
use crate::catalog::Catalog;
use crate::digest::Sha256Digest;
use crate::error::Result;
use crate::layout::Folder;
use crate::name::ModelName;
use crate::sidecar::MAX_SIDECAR;
use crate::stamp::Stamp;
use crate::task::Task;
use crate::tree::Tree;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use std::collections::{HashMap, HashSet};

const GC: &str = "`securereg gc`";

/// How often a file that seems to be missing is looked for, while the manifest goes on changing.
const LOOKS: usize = 1000;

impl Walk {
    pub(super) fn blobs(&mut self, task: &Task<'_>) -> Result<()> {
        let owner = self.owner()?;
        let mut there = HashSet::new();
        for name in self.layout.names(Folder::Blobs)? {
            task.go_on()?;
            let path = format!("blobs/sha256/{name}");
            let Some(stat) = self.stat(Folder::Blobs, &name) else { continue };
            let Some(sha256) = self.named(&name, "blob.strange", &path) else { continue };
            there.insert(sha256);
            self.report.blobs.files += 1;
            self.report.blobs.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            match self.expected.get(&sha256).cloned() {
                Some(expected) => self.blob(&sha256, &expected, path, &stat, owner),
                None => self.orphan("blob.orphan", &sha256, path, &stat),
            }
        }
        for (sha256, expected) in self.missing(Folder::Blobs, &there) {
            let what = "the stored file is missing".to_owned();
            self.damage(&sha256, &expected, "blob.missing", format!("blobs/sha256/{sha256}"), what);
        }
        Ok(())
    }

    fn blob(&mut self, sha256: &Sha256Digest, expected: &Expected, path: String, stat: &Stat, owner: u32) {
        let full = self.layout.path().join(&path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => {
                let what = "it was replaced by a link, which leads where anybody may write".to_owned();
                return self.damage(sha256, expected, "blob.type", path, what);
            }
            other => {
                let what = format!("it is no regular file but {other:?}");
                let remedy = format!("move it away; then {}", expected.remedy(sha256));
                return self.say(expected, "blob.type", path, what, remedy);
            }
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size != expected.size_bytes {
            let what = format!("it has {size} bytes, and {} were promoted", expected.size_bytes);
            self.damage(sha256, expected, "blob.size", path.clone(), what);
        }
        if stat.st_mode & 0o7777 != 0o444 {
            let what =
                format!("its mode is {:o}, and stored files have 444: nobody may write them", stat.st_mode & 0o7777);
            let remedy =
                format!("chmod 444 {}; then `securereg verify` it, for it may have been written", full.display());
            self.say(expected, "blob.mode", path.clone(), what, remedy);
        }
        if stat.st_nlink != 1 {
            let what =
                format!("it has {} links: by another name it may be written without anybody's notice", stat.st_nlink);
            let remedy = match &expected.model {
                Some(model) => format!("`securereg repair {model}` makes it a file of its own"),
                None => format!("find its other name (find / -samefile {}) and remove that", full.display()),
            };
            self.say(expected, "blob.links", path.clone(), what, remedy);
        }
        if stat.st_uid != owner {
            let what = format!("it belongs to uid {}, and the root to uid {owner}", stat.st_uid);
            let remedy = format!("chown {owner} {}; then `securereg verify` it", full.display());
            self.say(expected, "blob.owner", path, what, remedy);
        }
    }

    pub(super) fn trees(&mut self, task: &Task<'_>) -> Result<()> {
        let owner = self.owner()?;
        let mut there = HashSet::new();
        for name in self.layout.names(Folder::Trees)? {
            task.go_on()?;
            let path = format!("trees/{name}");
            let Some(stat) = self.stat(Folder::Trees, &name) else { continue };
            let Some(sha256) = self.named(&name, "tree.strange", &path) else { continue };
            there.insert(sha256);
            self.report.trees.files += 1;
            self.report.trees.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            let Some(expected) = self.expected.get(&sha256).cloned() else {
                self.orphan("tree.orphan", &sha256, path, &stat);
                continue;
            };
            if let Err(e) = self.tree(&name, &expected) {
                self.damage(&sha256, &expected, "tree.bad", path.clone(), e);
            }
            self.rights("tree.rights", path, &stat, owner, "600");
        }
        for (sha256, expected) in self.missing(Folder::Trees, &there) {
            let what = "the hash tree is missing: without it nothing of the file can be read".to_owned();
            self.damage(&sha256, &expected, "tree.missing", format!("trees/{sha256}"), what);
        }
        Ok(())
    }

    fn tree(&self, name: &str, expected: &Expected) -> Result<(), String> {
        let file = self.layout.read(Folder::Trees, name, OFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::LOOP => "it was replaced by a link".to_owned(),
            e => format!("it cannot be opened: {e}"),
        })?;
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err("it is no regular file".to_owned());
        }
        Tree::open(file, expected.size_bytes, expected.blake3)
            .and_then(|tree| tree.check_all())
            .map_err(|e| e.message().to_owned())
    }

    pub(super) fn stamps(&mut self) -> Result<()> {
        for name in self.layout.names(Folder::Stamps)? {
            let path = format!("stamps/{name}");
            let Some(stat) = self.stat(Folder::Stamps, &name) else { continue };
            let Some(sha256) = self.named(&name, "stamp.strange", &path) else { continue };
            if !self.expected.contains_key(&sha256) {
                self.orphan("stamp.orphan", &sha256, path, &stat);
            }
        }
        Ok(())
    }

    pub(super) fn sidecars(&mut self, task: &Task<'_>) -> Result<()> {
        let owner = self.owner()?;
        let mut pinned: HashMap<Sha256Digest, ModelName> = HashMap::new();
        if let Some(catalog) = &self.catalog {
            for artifact in catalog.artifacts() {
                pinned.extend(artifact.sidecars().map(|digest| (digest, artifact.name.clone())));
            }
        }
        for name in self.layout.names(Folder::Sidecars)? {
            task.go_on()?;
            let path = format!("sidecars/sha256/{name}");
            let Some(stat) = self.stat(Folder::Sidecars, &name) else { continue };
            let Some(digest) = self.named(&name, "sidecar.strange", &path) else { continue };
            self.report.sidecars.files += 1;
            self.report.sidecars.bytes += u64::try_from(stat.st_size).unwrap_or(0);
            let Some(model) = pinned.remove(&digest) else {
                if self.catalog.is_some() {
                    let what = format!("no model pins this evidence ({} bytes)", stat.st_size);
                    self.left_over_file("sidecar.orphan", path, what, &stat);
                }
                continue;
            };
            self.rights("sidecar.rights", path.clone(), &stat, owner, "600");
            let what = match self.layout.read_small(Folder::Sidecars, &name, MAX_SIDECAR) {
                Ok(bytes) if Sha256Digest::of(&bytes) == digest => continue,
                Ok(_) => "the evidence kept with the model was altered".to_owned(),
                Err(e) => format!("the evidence kept with the model cannot be read: {e}"),
            };
            self.lost_sidecar("sidecar.altered", path, what, model);
        }
        for (digest, model) in pinned {
            let pins = |catalog: &Catalog| catalog.artifacts().any(|a| a.sidecars().any(|pinned| pinned == digest));
            if !self.is_missing(Folder::Sidecars, &digest.to_hex(), pins, None) {
                continue;
            }
            let what = "the evidence kept with the model is missing".to_owned();
            self.lost_sidecar("sidecar.missing", format!("sidecars/sha256/{digest}"), what, model);
        }
        Ok(())
    }

    fn lost_sidecar(&mut self, kind: &'static str, path: String, what: String, model: ModelName) {
        let remedy =
            format!("`securereg verify {model}`, which quarantines it; then promote the same files as {model} again");
        self.problems.add(Problem { kind, urgency: Urgency::Damage, path, what, remedy, model: Some(model) });
    }

    /// Those that somebody holds and that are not there.
    fn missing(&self, folder: Folder, there: &HashSet<Sha256Digest>) -> Vec<(Sha256Digest, Expected)> {
        let missing = self.expected.iter().filter(|(sha256, expected)| {
            !there.contains(*sha256)
                && self.is_missing(
                    folder,
                    &sha256.to_hex(),
                    |catalog| match &expected.record {
                        None => catalog.holders(sha256).next().is_some(),
                        Some(_) => true,
                    },
                    expected.record.as_deref(),
                )
        });
        missing.map(|(sha256, expected)| (*sha256, expected.clone())).collect()
    }

    /// Whether a file is not there while it is seen that somebody holds it: the manifest, or the record, is the same before
    /// and after the look, and files are put in place before either and removed after.
    fn is_missing(&self, folder: Folder, name: &str, is_held: impl Fn(&Catalog) -> bool, record: Option<&str>) -> bool {
        for _ in 0..LOOKS {
            let record_now = || record.map(|path| Stamp::at(self.layout.folder(Folder::Oci), path).ok());
            let (Ok(before), record_before) = (self.store.catalog(), record_now()) else { return true };
            if record_before == Some(None) || !is_held(&before) || self.stat(folder, name).is_some() {
                return false;
            }
            let same = self.store.catalog().is_ok_and(|after| after.generation() == before.generation());
            if same && record_now() == record_before {
                return true;
            }
        }
        true
    }

    fn stat(&self, folder: Folder, name: &str) -> Option<Stat> {
        rustix::fs::statat(self.layout.folder(folder), name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// The digest that is a file's name; one that has another was not made here.
    fn named(&mut self, name: &str, kind: &'static str, path: &str) -> Option<Sha256Digest> {
        let digest = name.parse().ok();
        if digest.is_none() {
            let what = "its name is no digest: it was not made by the registry, and nothing reads it".to_owned();
            self.problems.tell(kind, Urgency::Untidy, path.to_owned(), what, "remove it if nobody needs it");
        }
        digest
    }

    fn orphan(&mut self, kind: &'static str, sha256: &Sha256Digest, path: String, stat: &Stat) {
        if !self.is_complete || self.held.contains(sha256) {
            return;
        }
        let what = format!("neither a model nor a repository holds it ({} bytes)", stat.st_size);
        self.left_over_file(kind, path, what, stat);
    }

    fn left_over_file(&mut self, kind: &'static str, path: String, what: String, stat: &Stat) {
        let problem = Problem { kind, urgency: Urgency::Untidy, path, what, remedy: GC.to_owned(), model: None };
        self.problems.add_of((stat.st_ino, stat.st_ctime, stat.st_ctime_nsec as i64), problem);
    }

    fn damage(&mut self, sha256: &Sha256Digest, expected: &Expected, kind: &'static str, path: String, what: String) {
        self.say(expected, kind, path, what, expected.remedy(sha256));
    }

    fn say(&mut self, expected: &Expected, kind: &'static str, path: String, what: String, remedy: String) {
        let what = match (&expected.model, &expected.repository) {
            (Some(model), _) => format!("{what} (of the model {model})"),
            (None, Some(repository)) => format!("{what} (of the repository {repository})"),
            (None, None) => what,
        };
        let model = expected.model.clone();
        self.problems.add(Problem { kind, urgency: Urgency::Damage, path, what, remedy, model });
    }
}
