//! External data held against the files of the set.
//!
//! Owns: which files a model reads its weights from, and whether they are there. Promises: a path leads from the model's own
//! folder to a file of the set, by the exact name, and is never looked up on a disk, so that no link is followed (CVE-2026-27489,
//! CVE-2026-34446). Leaves out: links in what is promoted, which the reader of the folder refuses.

use super::*;
use crate::format::Candidate;
use std::collections::BTreeSet;

/// The file that a model at `path` means by `location`; none when no file of a set could have that name.
fn resolve(path: &RelPath, location: &str) -> Option<RelPath> {
    match path.as_str().rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{location}").parse().ok(),
        None => location.parse().ok(),
    }
}

/// The files that a model has its external data in: these, whatever their names, may be raw bytes.
pub(crate) fn external_names(path: &RelPath, description: &Description) -> BTreeSet<RelPath> {
    match &description.facts {
        Facts::External(reads) => reads.keys().filter_map(|location| resolve(path, location)).collect(),
        _ => BTreeSet::new(),
    }
}

/// Holds what the ONNX files of a set read from others against what is there.
pub(crate) fn check_external(files: &[Candidate], findings: &mut Findings) {
    let known: BTreeMap<&RelPath, &Candidate> = files.iter().map(|file| (&file.path, file)).collect();
    let mut read: BTreeMap<RelPath, u64> = BTreeMap::new();
    for Candidate { path, description, .. } in files {
        let Facts::External(reads) = &description.facts else { continue };
        for (location, &end) in reads {
            let (place, shown) = (Place::part(location), shorten(location));
            let Some(other) = resolve(path, location).and_then(|target| known.get(&target).copied()) else {
                let why = format!(
                    "weights stand in {shown:?}, which is not in the set: a loader would fail, or read what happens to lie there; promote them together"
                );
                findings.add(path, &EXTERNAL_MISSING, place, why);
                continue;
            };
            let size = other.size_bytes;
            if size < end {
                let why = format!(
                    "weights stand in {shown:?} up to byte {end}, and it has {size}: a loader would read past its end"
                );
                findings.add(path, &EXTERNAL_SHORT, place.clone(), why);
            }
            if matches!(other.description.kind, FileKind::Model(_)) {
                let why = format!(
                    "weights stand in {shown:?}, which is a model itself: its metadata would be taken for weights"
                );
                findings.add(path, &EXTERNAL_MODEL, place, why);
            }
            let furthest = read.entry(other.path.clone()).or_default();
            *furthest = end.max(*furthest);
        }
    }
    for (path, end) in read {
        let size = known.get(&path).map_or(0, |file| file.size_bytes);
        if size > end {
            let why = format!("{} bytes after byte {end} are read by no model: they could be anything", size - end);
            findings.add(&path, &EXTERNAL_REST, Place::at(end), why);
        }
    }
}
