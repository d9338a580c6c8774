//! The root itself: its folders, its files, its records.
//!
//! Owns: what may lie in the root and with which rights, and what the manifest, the remembered generation and the audit log say of
//! themselves. Promises: who may write where others trust is told. Leaves out: what is in the folders of bytes (`stored`) and
//! of repositories (`content`).

use super::{FsckReport, Urgency, Walk};
use crate::audit;
use crate::catalog::store;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{FOLDERS, Folder};
use crate::mounts;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use std::path::Path;

/// What else may lie in the root: the keys and the kept manifests, what operators put there, what mkfs does.
const OTHERS: [&str; 6] = ["signing.key", "signing.pub", "history", "policy.yaml", "registry.yaml", "lost+found"];

const RECOVER: &str = "`securereg recover` shows what can be put back, and how";

/// The report of a root that cannot even be opened: why, and which folders are in the way.
pub(super) fn closed(root: &Path, e: &Error) -> FsckReport {
    let mut problems = super::Problems::default();
    let remedy = match e.kind() {
        ErrorKind::NotFound => "`securereg up` makes the folders that are missing",
        _ => "put that right, and look again: nothing else was looked at",
    };
    problems.tell("root", Urgency::Damage, ".".into(), e.to_string(), remedy);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if let Ok(top) = rustix::fs::open(root, flags, Mode::empty()) {
        for folder in FOLDERS {
            match rustix::fs::statat(&top, folder, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
                Ok(_) => {
                    let what = format!("{folder} is not a folder: a link or a file would lead readers astray");
                    let remedy = "move it away; `securereg up` makes a folder in its place";
                    problems.tell("folder", Urgency::Damage, folder.into(), what, remedy);
                }
                Err(_) => {
                    let what = format!("the folder {folder} is missing");
                    let remedy = "`securereg up` makes it";
                    problems.tell("folder", Urgency::Damage, folder.into(), what, remedy);
                }
            }
        }
    }
    let damage = problems.list.len() as u64;
    let problems = problems.list.into_iter().map(|found| found.problem).collect();
    FsckReport { problems, damage, ..FsckReport::default() }
}

impl Walk {
    /// The rights on the folders, and what else lies in the root.
    pub(super) fn folders(&mut self) -> Result<()> {
        let owner = self.owner()?;
        for folder in FOLDERS {
            if let Ok(stat) = rustix::fs::statat(self.layout.folder(Folder::Root), folder, AtFlags::SYMLINK_NOFOLLOW) {
                self.rights("folder", folder.to_owned(), &stat, owner, "700");
            }
        }
        for name in self.layout.names(Folder::Root)? {
            let stat = match rustix::fs::statat(self.layout.folder(Folder::Root), &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(_) => continue,
            };
            let is_ours = store::is_record(&name) || audit::is_log(&name);
            if FOLDERS.contains(&&*name) {
                continue;
            }
            if !is_ours && !OTHERS.contains(&&*name) {
                let what = "this is none of the registry's files or folders; nothing reads it".to_owned();
                self.problems.tell("root.strange", Urgency::Note, name, what, "remove it if nobody needs it");
                continue;
            }
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => self.rights("root.file", name, &stat, owner, "600"),
                FileType::Directory => self.rights("folder", name, &stat, owner, "700"),
                _ => {
                    let what = "it is not a regular file: what it leads to may be changed by others".to_owned();
                    self.problems.tell("root.file", Urgency::Damage, name, what, "put the file itself back");
                }
            }
        }
        Ok(())
    }

    /// Who owns the root owns all of it.
    pub(super) fn owner(&self) -> Result<u32> {
        let stat = rustix::fs::fstat(self.layout.folder(Folder::Root)).map_err(|e| Error::io("reading the root", e))?;
        Ok(stat.st_uid)
    }

    /// Tells of what others may write, or own.
    pub(super) fn rights(&mut self, kind: &'static str, path: String, stat: &Stat, owner: u32, mode: &str) {
        let full = self.layout.path().join(&path);
        if stat.st_mode & 0o022 != 0 {
            let what = format!("others than its owner may write it (mode {:o})", stat.st_mode & 0o7777);
            let remedy = format!("chmod {mode} {}", full.display());
            self.problems.tell(kind, Urgency::Damage, path.clone(), what, &remedy);
        }
        if stat.st_uid != owner {
            let what = format!("it belongs to uid {}, and the root to uid {owner}", stat.st_uid);
            let remedy = format!("chown {owner} {}", full.display());
            self.problems.tell(kind, Urgency::Damage, path, what, &remedy);
        }
    }

    /// The manifest, what is remembered of it, and the log.
    pub(super) fn records_of(&mut self) {
        match self.store.catalog() {
            Ok(catalog) => {
                self.report.models = Some(catalog.len() as u64);
                self.expect(&catalog);
                self.catalog = Some(catalog);
            }
            Err(e) => {
                self.is_complete = false;
                let what = format!("{e}; which stored files are left over, or missing, is not known without it");
                self.problems.tell("manifest", Urgency::Damage, store::MANIFEST.into(), what, RECOVER);
            }
        }
        if let Err(e) = self.store.verify_log() {
            let (kind, path) = match e.kind() {
                ErrorKind::Manifest => ("generation", "generation"),
                _ => ("audit", "audit.jsonl"),
            };
            let remedy = "`securereg audit --verify` names the line; ".to_owned() + RECOVER;
            self.problems.tell(kind, Urgency::Damage, path.into(), e.to_string(), &remedy);
        }
    }

    /// What the dead left in tmp/, run/ and uploads.
    pub(super) fn left_over(&mut self) -> Result<()> {
        let names = self.layout.names(Folder::Tmp)?;
        if !names.is_empty() {
            let size = |name: &String| {
                let stat = rustix::fs::statat(self.layout.folder(Folder::Tmp), &**name, AtFlags::SYMLINK_NOFOLLOW);
                stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
            };
            let bytes: u64 = names.iter().map(size).sum();
            let what = format!(
                "{} unfinished copies of {bytes} bytes: somebody is at work on them, or a crash left them",
                names.len()
            );
            let remedy = "`securereg gc` takes them when nobody is at work";
            self.problems.tell("tmp", Urgency::Note, "tmp".into(), what, remedy);
        }
        for name in mounts::dead(&self.layout)? {
            let what = "the record of a mount whose process is gone".to_owned();
            self.problems.tell("mount.dead", Urgency::Untidy, format!("run/mounts/{name}"), what, "`securereg gc`");
        }
        Ok(())
    }
}
