//! Indexes of shards, held against the shards.
//!
//! Owns: the comparison of each weight map with the files beside it. Promises: each tensor of the map is in its file, each
//! tensor of a file is in the map, and no name leads elsewhere, or there is a finding. Leaves out: whether the index is an
//! index (`companion`).

use super::super::companion::{climbs, is_absolute, is_url};
use super::super::description::{Description, Facts};
use super::super::finding::{Findings, Place};
use super::super::safetensors::is_hostile;
use super::super::{Candidate, Kind};
use super::{
    INDEX_DISAGREE, INDEX_FORMAT, INDEX_MISSING, INDEX_NO_WEIGHTS, INDEX_OUTSIDE, INDEX_SHARD, INDEX_SIZE,
    INDEX_TENSOR, INDEX_TWICE, INDEX_UNLISTED, folder_of, shard,
};
use crate::artifact::Format;
use crate::digest::shorten;
use crate::name::RelPath;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

type Map = BTreeMap<String, String>;

/// Checks every index among the files.
pub(super) fn check_indexes(files: &[Candidate], findings: &mut Findings) {
    let there: HashMap<&str, &Description> = files.iter().map(|file| (file.path.as_str(), &file.description)).collect();
    let mut seen: BTreeMap<&str, (&RelPath, &Map)> = BTreeMap::new();
    for Candidate { path, description: about, .. } in files {
        let Facts::WeightMap(map) = &about.facts else { continue };
        let folder = folder_of(path.as_str());
        let index = Index { path, about, map, folder };
        index.check(&there, findings);
        index.unlisted(files, findings);
        match seen.get(folder) {
            None => drop(seen.insert(folder, (path, map))),
            Some((other, other_map)) if !map.keys().eq(other_map.keys()) => {
                let (other, path_text) = (other.as_str(), path.as_str());
                let message =
                    format!("{other:?} and {path_text:?} name different tensors: the loader decides which it follows");
                findings.add(path, &INDEX_DISAGREE, Place::whole(), message);
            }
            Some(_) => {}
        }
    }
}

struct Index<'a> {
    path: &'a RelPath,
    about: &'a Description,
    map: &'a Map,
    folder: &'a str,
}

impl Index<'_> {
    fn check(&self, there: &HashMap<&str, &Description>, findings: &mut Findings) {
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in self.map {
            shards.entry(file).or_default().push(tensor);
        }
        // The sum of the tensors, as long as every shard is known.
        let mut total = Some(0u64);
        for (file, tensors) in shards {
            let named = |what: &str| {
                format!("the index places the tensor {:?} in {:?}, {what}", shorten(tensors[0]), shorten(file))
            };
            if file.is_empty()
                || climbs(file)
                || is_absolute(file)
                || is_url(file)
                || file.contains('\\')
                || file.chars().any(is_hostile)
            {
                let message = named("which is no file of its folder: a loader would read what is there");
                findings.add(self.path, &INDEX_OUTSIDE, Place::part(tensors[0]), message);
                total = None;
                continue;
            }
            let path = if self.folder.is_empty() { file.to_owned() } else { format!("{}/{file}", self.folder) };
            let Some(shard) = there.get(path.as_str()) else {
                findings.add(self.path, &INDEX_MISSING, Place::part(tensors[0]), named("which is not there"));
                total = None;
                continue;
            };
            let Kind::Model(format) = shard.kind else {
                findings.add(self.path, &INDEX_NO_WEIGHTS, Place::part(tensors[0]), named("which is no weights"));
                total = None;
                continue;
            };
            if format != Format::Safetensors && self.path.file_name().contains("safetensors") {
                findings.add(
                    self.path,
                    &INDEX_FORMAT,
                    Place::part(tensors[0]),
                    named(&format!("which is {}", format.as_str())),
                );
            }
            let size = self.tensors(file, &tensors, shard, findings);
            total = total.zip(size).map(|(all, more)| all.saturating_add(more));
        }
        let claimed = self.about.metadata.get("total_size").and_then(Value::as_u64);
        if let Some((claimed, total)) = claimed.zip(total).filter(|(claimed, total)| claimed != total) {
            let message = format!("the index gives its tensors {claimed} bytes; they have {total}");
            findings.add(self.path, &INDEX_SIZE, Place::part("total_size"), message);
        }
    }

    /// Holds a shard's tensors against those that the map places there. How many bytes they have, when that is known.
    fn tensors(&self, file: &str, mapped: &[&str], shard: &Description, findings: &mut Findings) -> Option<u64> {
        if shard.tensors.is_empty() {
            // Nothing is known of it, or nothing is in it: the format's own module has said which.
            return None;
        }
        let held: BTreeSet<&str> = shard.tensors.iter().map(|t| t.name.as_str()).collect();
        for tensor in mapped.iter().filter(|t| !held.contains(**t)) {
            let message = format!(
                "the index places the tensor {:?} in {:?}, which does not hold it",
                shorten(tensor),
                shorten(file)
            );
            findings.add(self.path, &INDEX_TENSOR, Place::part(tensor), message);
        }
        for tensor in held {
            match self.map.get(tensor) {
                None => {
                    let message = format!(
                        "{:?} holds the tensor {:?}, which the index does not name",
                        shorten(file),
                        shorten(tensor)
                    );
                    findings.add(self.path, &INDEX_UNLISTED, Place::part(tensor), message);
                }
                Some(other) if other != file => {
                    let message = format!(
                        "{:?} holds the tensor {:?}, which the index places in {:?}: loaders differ in which they take",
                        shorten(file),
                        shorten(tensor),
                        shorten(other)
                    );
                    findings.add(self.path, &INDEX_TWICE, Place::part(tensor), message);
                }
                Some(_) => {}
            }
        }
        Some(shard.tensors.iter().map(|t| t.size_bytes).fold(0, u64::saturating_add))
    }

    /// Shards that lie beside those of the map and are not in it.
    fn unlisted(&self, files: &[Candidate], findings: &mut Findings) {
        let named: BTreeSet<&str> = self.map.values().map(String::as_str).collect();
        let stems: BTreeSet<(&str, &str)> = named.iter().filter_map(|file| shard(file)).collect();
        for path in files.iter().map(|file| &file.path).filter(|path| folder_of(path.as_str()) == self.folder) {
            let name = path.file_name();
            if !named.contains(name) && shard(name).is_some_and(|s| stems.contains(&s)) {
                let message =
                    format!("{name:?} lies beside the shards of {:?}, which does not name it", self.path.file_name());
                findings.add(path, &INDEX_SHARD, Place::whole(), message);
            }
        }
    }
}
