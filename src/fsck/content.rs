//! What repositories hold.
//!
//! Owns: the folders, records and documents below `oci/`. Promises: a link anywhere there, a record that cannot be trusted, a
//! document that is not what its name says, and a tag that leads nowhere are told. Leaves out: the bytes that records stand
//! for (`stored`), and what manifests mean.

use super::{Expected, Urgency, Walk};
use crate::content::folders::{self, BLOBS, HOLDERS, MANIFESTS, REFERRERS, TAGS, UPLOADS};
use crate::content::holds::{self, Held};
use crate::content::references::references;
use crate::content::upload::{UPLOAD_IDLE, UPLOADS as PASSES};
use crate::content::{ContentDigest, RepositoryName, documents};
use crate::error::{Error, Result};
use crate::idle::Idle;
use crate::layout::{Folder, read_bounded};
use crate::stamp::Stamp;
use crate::task::Task;
use rustix::fs::{AtFlags, FileType, OFlags};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The folders of a repository that are not repositories themselves.
const OWN: [&str; 6] = [BLOBS, MANIFESTS, TAGS, REFERRERS, HOLDERS, UPLOADS];

impl Walk {
    pub(super) fn content(&mut self, task: &Task<'_>) -> Result<()> {
        let layout = Arc::clone(&self.layout);
        let mut idle = Idle::look(&layout, PASSES);
        let mut pending = vec![String::new()];
        while let Some(at) = pending.pop() {
            task.go_on()?;
            let below = if at.is_empty() { "." } else { at.as_str() };
            let folder = match folders::open_in(layout.folder(Folder::Oci), below) {
                Ok(Some(folder)) => folder,
                Ok(None) => continue,
                Err(e) => {
                    self.unclear(&at, &e);
                    continue;
                }
            };
            let repository = at.parse::<RepositoryName>().ok();
            for entry in folders::entries(&folder)? {
                let (name, kind) = entry?;
                let path = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
                match self.kind(&folder, &name, kind) {
                    FileType::Directory if name.starts_with('_') => {
                        if repository.is_none() || !OWN.contains(&&*name) {
                            self.strange(&path, "it is none of the folders that repositories have");
                        }
                    }
                    FileType::Directory => pending.push(path),
                    FileType::Symlink => self.link(&path),
                    _ => self.strange(&path, "it is none of a repository's files"),
                }
            }
            match repository {
                Some(repository) => self.repository(&repository, &folder, &mut idle)?,
                None if at.is_empty() => {}
                None => {
                    let what = "a folder whose name no repository can have; what it holds is not served".to_owned();
                    let remedy = "remove it if nobody needs it";
                    self.problems.tell("oci.name", Urgency::Untidy, format!("oci/{at}"), what, remedy);
                }
            }
        }
        Ok(())
    }

    fn repository(&mut self, repository: &RepositoryName, folder: &OwnedFd, idle: &mut Idle<'_>) -> Result<()> {
        let before = self.report.records;
        if let Some(records) = self.open(repository, folder, BLOBS)? {
            self.records(repository, &records)?;
        }
        let mut manifests = HashSet::new();
        if let Some(found) = self.open(repository, folder, MANIFESTS)? {
            self.manifests(repository, &found, &mut manifests)?;
        }
        if let Some(tags) = self.open(repository, folder, TAGS)? {
            self.tags(repository, &tags)?;
        }
        if let Some(referrers) = self.open(repository, folder, REFERRERS)? {
            self.referrers(repository, &referrers)?;
        }
        if let Some(uploads) = self.open(repository, folder, UPLOADS)? {
            self.uploads(repository, &uploads, idle)?;
        }
        if self.report.records > before || !manifests.is_empty() {
            self.report.repositories += 1;
        }
        Ok(())
    }

    fn records(&mut self, repository: &RepositoryName, records: &OwnedFd) -> Result<()> {
        let mut second = HashSet::new();
        let mut wanted = Vec::new();
        for entry in folders::entries(records)? {
            let (name, kind) = entry?;
            let path = format!("{repository}/{BLOBS}/{name}");
            if self.kind(records, &name, kind) == FileType::Symlink {
                self.link(&path);
                continue;
            }
            let digest = ContentDigest::of_file_name(&name);
            self.held.extend(holds::blob_of(&name));
            if digest.is_none() && holds::blob_of(&name).is_none() {
                self.strange(&path, "its name is no record's");
                continue;
            }
            let held = folders::open_file(&self.layout, repository, BLOBS, &name, OFlags::RDONLY);
            let held = held.and_then(|file| file.map(|file| holds::parse(&file, &name)).transpose());
            let Some(digest) = digest else {
                second.insert(name);
                continue;
            };
            let held = match held {
                Ok(None) => continue,
                Ok(Some(Some(held))) if self.is_of(&digest, &held) => held,
                _ => {
                    let what = format!("the record of {digest} was altered, or cannot be read: it is not shown");
                    let remedy = format!("push {digest} to {repository} again, or delete it there");
                    self.problems.tell("oci.record", Urgency::Damage, format!("oci/{path}"), what, &remedy);
                    continue;
                }
            };
            self.report.records += 1;
            if matches!(digest, ContentDigest::Sha512(_)) {
                wanted.extend(holds::names(&digest, &held.sha256).into_iter().filter(|other| *other != name));
            }
            self.hold(repository, &held, &path);
        }
        for name in wanted.iter().filter(|name| !second.contains(*name)) {
            let what =
                "the second record of a blob that was pushed by its SHA-512 is missing: it may be dropped".to_owned();
            let remedy = format!("push it to {repository} by its SHA-512 again");
            self.problems.tell(
                "oci.record",
                Urgency::Damage,
                format!("oci/{repository}/{BLOBS}/{name}"),
                what,
                &remedy,
            );
        }
        // Held by these alone, as far as a sweep is concerned.
        for name in &second {
            if let Some(sha256) = holds::blob_of(name).filter(|sha256| !self.expected.contains_key(sha256)) {
                let what = format!("it holds {sha256} for a record that is not there");
                let remedy = "`securereg gc --unreferenced-after 24h`";
                self.problems.tell(
                    "oci.record",
                    Urgency::Untidy,
                    format!("oci/{repository}/{BLOBS}/{name}"),
                    what,
                    remedy,
                );
            }
        }
        Ok(())
    }

    fn is_of(&self, digest: &ContentDigest, held: &Held) -> bool {
        match digest {
            ContentDigest::Sha256(sha256) => held.sha256 == *sha256,
            ContentDigest::Sha512(_) => true,
        }
    }

    fn hold(&mut self, repository: &RepositoryName, held: &Held, path: &str) {
        let Held { sha256, size_bytes, blake3 } = *held;
        let expected = self.expected.entry(sha256).or_insert_with(|| Expected {
            size_bytes,
            blake3,
            model: None,
            repository: Some(repository.to_string()),
            record: Some(path.to_owned()),
        });
        if (expected.size_bytes, expected.blake3) != (size_bytes, blake3) {
            let what =
                format!("it says another size or hash of sha256:{sha256} than others do: one of them was altered");
            let remedy = format!("push sha256:{sha256} to {repository} again, or delete it there");
            self.problems.tell("oci.record", Urgency::Damage, format!("oci/{path}"), what, &remedy);
        }
    }

    fn manifests(&mut self, repository: &RepositoryName, folder: &OwnedFd, names: &mut HashSet<String>) -> Result<()> {
        for (name, bytes) in self.documents(repository, folder, MANIFESTS)? {
            if let Some(Err(why)) = bytes.map(|bytes| references(&name, &bytes)) {
                let path = format!("oci/{repository}/{MANIFESTS}/{name}");
                let remedy =
                    format!("push it to {repository} again, or delete it there; until then gc drops nothing of it");
                self.problems.tell("oci.manifest", Urgency::Damage, path, format!("this manifest {why}"), &remedy);
            }
            names.insert(name);
        }
        Ok(())
    }

    fn tags(&mut self, repository: &RepositoryName, folder: &OwnedFd) -> Result<()> {
        for (name, bytes) in self.documents(repository, folder, TAGS)? {
            let Some(bytes) = bytes else { continue };
            let digest = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<ContentDigest>().ok());
            let what = match digest {
                Some(digest) if self.leads_somewhere(repository, &name, &bytes, &digest)? => continue,
                Some(digest) => format!("the tag points to {digest}, which is not there"),
                None => "the tag does not name a digest: it was altered".to_owned(),
            };
            let remedy = format!("push {repository}:{name} again, or delete the tag");
            self.problems.tell("oci.tag", Urgency::Damage, format!("oci/{repository}/{TAGS}/{name}"), what, &remedy);
        }
        Ok(())
    }

    /// Whether the manifest of a tag is there, or the tag is not what it was: whoever deletes a manifest deletes its tags first.
    fn leads_somewhere(
        &self,
        repository: &RepositoryName,
        tag: &str,
        bytes: &[u8],
        digest: &ContentDigest,
    ) -> Result<bool> {
        let open = |below, name: &str| folders::open_file(&self.layout, repository, below, name, OFlags::RDONLY);
        if open(MANIFESTS, &digest.file_name()).is_ok_and(|file| file.is_some()) {
            return Ok(true);
        }
        let now = open(TAGS, tag)?.map(|file| read_bounded(&file, tag, documents::MAX_DOCUMENT)).transpose()?;
        Ok(now.as_deref() != Some(bytes))
    }

    fn referrers(&mut self, repository: &RepositoryName, folder: &OwnedFd) -> Result<()> {
        for entry in folders::entries(folder)? {
            let (subject, kind) = entry?;
            let below = format!("{REFERRERS}/{subject}");
            if self.kind(folder, &subject, kind) == FileType::Symlink {
                self.link(&format!("{repository}/{below}"));
                continue;
            }
            let Some(of_one) = self.open(repository, folder, &subject)? else { continue };
            for (name, bytes) in self.documents(repository, &of_one, &below)? {
                let is_json = |bytes: Vec<u8>| serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
                if bytes.is_some_and(|bytes| !is_json(bytes)) {
                    let path = format!("oci/{repository}/{below}/{name}");
                    let what = "this referrer cannot be parsed".to_owned();
                    let remedy = "push the manifest that refers again, or remove the file";
                    self.problems.tell("oci.referrer", Urgency::Damage, path, what, remedy);
                }
            }
        }
        Ok(())
    }

    fn uploads(&mut self, repository: &RepositoryName, folder: &OwnedFd, idle: &mut Idle<'_>) -> Result<()> {
        for entry in folders::entries(folder)? {
            let (id, kind) = entry?;
            let path = format!("{repository}/{UPLOADS}/{id}");
            if self.kind(folder, &id, kind) == FileType::Symlink {
                self.link(&path);
                continue;
            }
            let Ok(stamp) = Stamp::at(folder, &id) else { continue };
            if idle.see(format!("{repository}/{id}"), &stamp) >= UPLOAD_IDLE {
                let what = format!("an upload of {} bytes that nobody has gone on with for a week", stamp.size());
                self.problems.tell("oci.upload", Urgency::Untidy, format!("oci/{path}"), what, "`securereg gc`");
            }
        }
        Ok(())
    }

    /// The documents of a folder; none in place of bytes that cannot be read, of which it tells.
    fn documents(
        &mut self,
        repository: &RepositoryName,
        folder: &OwnedFd,
        below: &str,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>> {
        let mut found = Vec::new();
        for entry in folders::entries(folder)? {
            let (name, kind) = entry?;
            let path = format!("{repository}/{below}/{name}");
            if self.kind(folder, &name, kind) == FileType::Symlink {
                self.link(&path);
                continue;
            }
            let file = folders::open_file(&self.layout, repository, below, &name, OFlags::RDONLY);
            let bytes =
                file.and_then(|file| file.map(|file| read_bounded(&file, &name, documents::MAX_DOCUMENT)).transpose());
            match bytes {
                // Gone since it was listed.
                Ok(None) => {}
                Ok(Some(bytes)) => found.push((name, Some(bytes))),
                Err(e) => {
                    let what = format!("this document cannot be read: {e}");
                    self.problems.tell("oci.document", Urgency::Damage, format!("oci/{path}"), what, "push it again");
                    found.push((name, None));
                }
            }
        }
        Ok(found)
    }

    fn open(&mut self, repository: &RepositoryName, folder: &OwnedFd, below: &str) -> Result<Option<OwnedFd>> {
        match folders::open_in(folder, below) {
            Ok(opened) => Ok(opened),
            Err(e) => {
                self.unclear(&format!("{repository}/{below}"), &e);
                Ok(None)
            }
        }
    }

    /// A folder that cannot be looked into may hold anything.
    fn unclear(&mut self, path: &str, e: &Error) {
        self.is_complete = false;
        let what = format!("{e}; what it holds is not known, so nothing is called left over");
        self.problems.tell("oci.folder", Urgency::Damage, format!("oci/{path}"), what, "remove what is in its way");
    }

    fn link(&mut self, path: &str) {
        let what = "a symbolic link, which nothing below oci/ is reached through".to_owned();
        self.problems.tell("oci.link", Urgency::Damage, format!("oci/{path}"), what, "remove it");
    }

    fn strange(&mut self, path: &str, what: &str) {
        let remedy = "remove it if nobody needs it";
        self.problems.tell("oci.strange", Urgency::Untidy, format!("oci/{path}"), what.to_owned(), remedy);
    }

    /// What a name is, asked of the file system where the listing does not say.
    fn kind(&self, folder: &OwnedFd, name: &str, listed: FileType) -> FileType {
        if listed != FileType::Unknown {
            return listed;
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
    }
}
