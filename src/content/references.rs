//! Blobs that a repository holds and no manifest of it refers to.
//!
//! Owns: which they are, and dropping their records. Promises: a manifest refers to whatever digest stands in it, anywhere and
//! however it is escaped, so that no form of manifest is misread; while one document of a repository cannot be read, or is
//! not what its name says, nothing of that repository is dropped; a push that is under way loses nothing: a record is dropped only when it has lain
//! untouched and unreferred to for as long as was asked, by two passes at least (`idle`), and who is about to refer to one
//! touches it first ([`Content::renew`](super::Content::renew)), which no drop can overtake. Leaves out: the bytes, which are orphans then (`gc`).
//!
//! ```text
//! push   record ------------------ renew, manifest          holds.lock, shared, around each look at a record
//! gc              pass ... pass: due? -- drop?              the same, alone: is it the very record that the passes saw?
//! ```

use super::folders::{self, BLOBS, MANIFESTS};
use super::holds::{self, ALIAS};
use super::name::ContentDigest;
use super::{RepositoryName, documents};
use crate::digest::Sha256Digest;
use crate::error::{Error, Result};
use crate::idle::Idle;
use crate::layout::{Layout, read_bounded};
use crate::stamp::Stamp;
use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What passes over records are called.
pub(crate) const RECORDS: &str = "records";

/// Records of one repository whose time has come.
pub(crate) struct Due {
    pub(crate) repository: RepositoryName,
    pub(crate) records: Vec<Record>,
}

/// A record of a blob, and its second one when it has one.
pub(crate) struct Record {
    names: Vec<String>,
    stamp: Stamp,
}

/// What a pass found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) due: Vec<Due>,
    /// Records that have not lain for long enough.
    pub(crate) waiting: u64,
    /// Repositories of which it cannot be told what their manifests refer to, and why.
    pub(crate) undecided: Vec<(String, String)>,
}

/// Looks for records that no manifest refers to.
pub(crate) fn unreferenced(layout: &Layout, idle: &mut Idle<'_>, for_so_long: Duration) -> Result<Found> {
    let mut found = Found::default();
    folders::each(layout, |repository, folder| {
        let Some(records) = folders::open_in(folder, BLOBS)? else { return Ok(()) };
        let candidates = match candidates(layout, &repository, folder, &records)? {
            Ok(candidates) => candidates,
            Err(why) => {
                found.undecided.push((repository.to_string(), why));
                return Ok(());
            }
        };
        let mut due = Vec::new();
        for record in candidates {
            let key = format!("{repository}/{}", record.names[0]);
            if idle.see(key, &record.stamp) >= for_so_long { due.push(record) } else { found.waiting += 1 }
        }
        if !due.is_empty() {
            found.due.push(Due { repository, records: due });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Drops those of the records that are still the ones that were seen; how many. For whoever is [`holds::alone`].
pub(crate) fn drop_due(layout: &Layout, repository: &RepositoryName, records: &[Record]) -> Result<u64> {
    let Some(folder) = folders::open(layout, repository, BLOBS)? else { return Ok(0) };
    let mut dropped = 0;
    for record in records {
        // Pushed again, mounted again, or about to be referred to.
        if !Stamp::at(&folder, &record.names[0]).is_ok_and(|now| now == record.stamp) {
            continue;
        }
        // The one that keeps the bytes goes last.
        for name in &record.names {
            documents::unlink(&folder, name)?;
        }
        dropped += 1;
    }
    documents::sync(&folder)?;
    Ok(dropped)
}

/// Begins a record's time anew. For whoever has [`holds::shared`].
pub(super) fn touch(layout: &Layout, repository: &RepositoryName, digest: &ContentDigest) -> Result<()> {
    let Some(folder) = folders::open(layout, repository, BLOBS)? else { return Ok(()) };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    match rustix::fs::utimensat(&folder, digest.file_name(), &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("renewing a record", e)),
    }
}

/// The records that no manifest refers to; or why that cannot be told.
fn candidates(
    layout: &Layout,
    repository: &RepositoryName,
    folder: &OwnedFd,
    records: &OwnedFd,
) -> Result<Result<Vec<Record>, String>> {
    // Stamps first: whoever refers to one from here on has touched it before.
    let mut stamped: Vec<(String, Stamp)> = Vec::new();
    for entry in folders::entries(records)? {
        let (name, _) = entry?;
        if let Ok(stamp) = Stamp::at(records, &name) {
            stamped.push((name, stamp));
        }
    }
    if stamped.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let mut referred = HashSet::new();
    if let Some(manifests) = folders::open_in(folder, MANIFESTS)? {
        for entry in folders::entries(&manifests)? {
            let (name, _) = entry?;
            let Some(file) = folders::open_file(layout, repository, MANIFESTS, &name, OFlags::RDONLY)? else {
                continue;
            };
            let bytes = match read_bounded(&file, &name, documents::MAX_DOCUMENT) {
                Ok(bytes) => bytes,
                Err(e) => return Ok(Err(format!("the document {name} cannot be read: {e}"))),
            };
            match references(&name, &bytes) {
                Ok(found) => referred.extend(found),
                Err(why) => return Ok(Err(format!("the document {name} {why}"))),
            }
        }
    }
    let mut unreferred = Vec::new();
    // Second records that belong to a first one.
    let mut claimed = HashSet::new();
    for (name, stamp) in &stamped {
        let Some(digest) = ContentDigest::of_file_name(name) else { continue };
        let mut names = vec![name.clone()];
        if matches!(digest, ContentDigest::Sha512(_)) {
            let file = folders::open_file(layout, repository, BLOBS, name, OFlags::RDONLY)?;
            let Some(held) = file.map(|file| holds::parse(&file, name)).transpose()?.flatten() else {
                return Ok(Err(format!("the record {name} cannot be read")));
            };
            names.extend(holds::names(&digest, &held.sha256).into_iter().filter(|second| second != name));
            claimed.extend(names[1..].iter().cloned());
        }
        if !referred.contains(&digest) {
            unreferred.push(Record { names, stamp: *stamp });
        }
    }
    // Left by a push that broke off between its two records.
    let lone = |(name, _): &&(String, Stamp)| name.ends_with(ALIAS) && !claimed.contains(name);
    unreferred
        .extend(stamped.iter().filter(lone).map(|(name, stamp)| Record { names: vec![name.clone()], stamp: *stamp }));
    Ok(Ok(unreferred))
}

/// The digests that a manifest's document names: a line of JSON, then the manifest's bytes, whose digest is the document's name.
pub(crate) fn references(name: &str, document: &[u8]) -> Result<HashSet<ContentDigest>, &'static str> {
    use sha2::Digest as _;
    let damaged = "is damaged: push the manifest again, or delete it";
    let end = document.iter().position(|b| *b == b'\n').ok_or(damaged)?;
    let (head, manifest) = (&document[..end], &document[end + 1..]);
    let actual = match ContentDigest::of_file_name(name).ok_or("has a name that is no digest: remove it")? {
        ContentDigest::Sha256(_) => ContentDigest::Sha256(Sha256Digest::of(manifest)),
        ContentDigest::Sha512(_) => ContentDigest::Sha512(sha2::Sha512::digest(manifest).into()),
    };
    if actual.file_name() != name {
        return Err(damaged);
    }
    let mut found = HashSet::new();
    for text in [head, manifest] {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|_| damaged)?;
        gather(&value, &mut found);
    }
    Ok(found)
}

/// The digests in all strings of a value, whose depth the parser has bounded.
fn gather(value: &serde_json::Value, found: &mut HashSet<ContentDigest>) {
    match value {
        serde_json::Value::String(text) => digests_in(text, found),
        serde_json::Value::Array(values) => values.iter().for_each(|value| gather(value, found)),
        serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
            digests_in(key, found);
            gather(value, found);
        }),
        _ => {}
    }
}

fn digests_in(text: &str, found: &mut HashSet<ContentDigest>) {
    for (algorithm, digits) in [("sha256:", 64), ("sha512:", 128)] {
        let starts = text.match_indices(algorithm).map(|(at, _)| at);
        found
            .extend(starts.filter_map(|at| text.get(at..at + algorithm.len() + digits)?.parse::<ContentDigest>().ok()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(manifest: &str) -> (String, Vec<u8>) {
        let name = format!("sha256-{}", Sha256Digest::of(manifest.as_bytes()));
        (name, format!("{{\"media_type\":\"x\"}}\n{manifest}").into_bytes())
    }

    #[test]
    fn whatever_digest_stands_in_a_manifest_is_referred_to_and_what_is_damaged_is_not_read_as_empty() {
        let (a, b) = ("a".repeat(64), "b".repeat(128));
        let (short, escaped) = (format!("sha256:{}", &a[1..]), format!("sha256\\u003a{a}"));
        let cases = [
            (format!(r#"{{"layers":[{{"digest":"sha256:{a}"}}]}}"#), 1),
            (format!(r#"{{"x":{{"sha512:{b}":[["and sha256:{a}, too"]]}}}}"#), 2),
            (format!(r#"["{escaped}"]"#), 1),
            (format!(r#"["{short}"]"#), 0),
            ("{}".into(), 0),
        ];
        for (manifest, count) in &cases {
            let (name, bytes) = document(manifest);
            assert_eq!(references(&name, &bytes).expect("whole").len(), *count, "{manifest}");
        }
        let (name, bytes) = document(&cases[0].0);
        let mut altered = bytes.clone();
        let at = altered.len() - 9;
        altered[at] ^= 1;
        let (junk, junk_bytes) = document("not JSON");
        for (name, bytes) in
            [(&name[..], &altered[..]), (&name, b"{}"), ("tag", &bytes), (&junk, &junk_bytes), (&name, &bytes[..30])]
        {
            assert!(references(name, bytes).is_err(), "{name}");
        }
    }
}
