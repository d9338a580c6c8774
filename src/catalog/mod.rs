//! The catalog: manifest.yaml, parsed, as an immutable snapshot.
//!
//! Owns: [`Catalog`] and the questions asked of it. Promises: a `Catalog` is sorted by name, has no two names or mount
//! paths that collide, and is never changed, only replaced by one of a higher generation. Leaves out: its text (`text`),
//! its life on disk (`store`).

pub(crate) mod guard;
pub(crate) mod store;
pub(crate) mod text;

use crate::artifact::{Artifact, Cause};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ModelName, RelPath};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// All registered models at one generation.
#[derive(Debug, Default)]
pub struct Catalog {
    generation: u64,
    entries: Vec<Entry>,
    by_blob: HashMap<Sha256Digest, Vec<u32>>,
    taken: OnceLock<Taken>,
}

/// An artifact and its canonical text, by which the next parse knows it again.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) text: Arc<str>,
}

impl Entry {
    pub(crate) fn new(artifact: Artifact) -> Entry {
        Entry { text: text::encode(&artifact).into(), artifact: Arc::new(artifact) }
    }

    fn name(&self) -> &str {
        self.artifact.name.as_str()
    }
}

/// Names and mount paths with case folded, and who holds them.
#[derive(Debug, Default)]
struct Taken {
    names: HashMap<String, u32>,
    claims: BTreeMap<String, u32>,
}

impl Catalog {
    /// Sorts, checks and indexes entries.
    pub(crate) fn new(generation: u64, mut entries: Vec<Entry>) -> Result<Catalog> {
        if !entries.is_sorted_by(|a, b| a.name() < b.name()) {
            entries.sort_by(|a, b| a.name().cmp(b.name()));
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(Error::new(ErrorKind::Manifest, format!("the manifest names {} twice", pair[0].name())));
        }
        let mut by_blob: HashMap<Sha256Digest, Vec<u32>> = HashMap::with_capacity(entries.len());
        for (i, entry) in (0..).zip(&entries) {
            for file in &entry.artifact.files {
                let holders = by_blob.entry(file.sha256).or_default();
                if holders.last() != Some(&i) {
                    holders.push(i);
                }
            }
        }
        Ok(Catalog { generation, entries, by_blob, taken: OnceLock::new() })
    }

    /// Counts up with each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How many models are registered, quarantined ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no model is registered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All models, sorted by name.
    pub fn artifacts(&self) -> impl Iterator<Item = &Arc<Artifact>> {
        self.entries.iter().map(|e| &e.artifact)
    }

    /// The model with this very name.
    pub fn artifact(&self, name: &ModelName) -> Option<&Arc<Artifact>> {
        self.find(name).ok().map(|i| &self.entries[i].artifact)
    }

    /// Like [`Catalog::artifact`], or an error that says so.
    pub fn require(&self, name: &ModelName) -> Result<&Arc<Artifact>> {
        self.artifact(name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no model {name} is registered")).on(name))
    }

    /// The models that hold a blob.
    pub fn holders(&self, sha256: &Sha256Digest) -> impl Iterator<Item = &Arc<Artifact>> {
        self.by_blob.get(sha256).into_iter().flatten().map(|i| &self.entries[*i as usize].artifact)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn find(&self, name: &ModelName) -> Result<usize, usize> {
        self.entries.binary_search_by(|e| e.name().cmp(name.as_str()))
    }

    /// Whether `candidate` may take its name, its mount path and its bytes. An entry of the same name does not stand in
    /// its way here.
    pub(crate) fn check_room(&self, candidate: &Artifact) -> Result<()> {
        let taken = self.taken.get_or_init(|| self.index_taken());
        let other = |i: &u32| {
            let holder = &self.entries[*i as usize].artifact;
            (holder.name != candidate.name).then_some(holder)
        };
        let conflict = |why: String| Err(Error::new(ErrorKind::Conflict, why).on(&candidate.name));
        if let Some(holder) = taken.names.get(&candidate.name.folded()).and_then(other) {
            return conflict(format!("the name {} differs only by case from {}", candidate.name, holder.name));
        }
        let claim = candidate.mount_claim();
        let folded = claim.folded();
        let above = prefixes(&folded).filter_map(|p| taken.claims.get(p));
        let below = taken.claims.range(format!("{folded}/")..format!("{folded}0")).map(|(_, i)| i);
        if let Some(holder) = above.chain(below).find_map(other) {
            return conflict(format!(
                "its path in the mount, {claim}, collides with {}, held by {}",
                holder.mount_claim(),
                holder.name
            ));
        }
        // Weights, that is: a licence or a vocabulary is shared by models that have nothing else in common.
        for file in candidate.files.iter().filter(|f| crate::format::is_model_name(&f.path)) {
            let incident = |a: &&Arc<Artifact>| a.quarantine.as_ref().is_some_and(|q| q.cause == Cause::Incident);
            if let Some(holder) = self.holders(&file.sha256).find(incident) {
                return conflict(format!(
                    "the bytes of {} are under an incident as {}: release that first",
                    file.path, holder.name
                ));
            }
        }
        Ok(())
    }

    fn index_taken(&self) -> Taken {
        let mut taken = Taken::default();
        for (i, entry) in (0..).zip(&self.entries) {
            taken.names.insert(entry.artifact.name.folded(), i);
            taken.claims.insert(entry.artifact.mount_claim().folded(), i);
        }
        taken
    }

    /// The next generation with `edits` applied.
    pub(crate) fn with(&self, edits: &[Edit]) -> Result<Catalog> {
        let mut entries = self.entries.clone();
        for edit in edits {
            let at = entries.binary_search_by(|e| e.name().cmp(edit.name().as_str()));
            match (edit, at) {
                (Edit::Put(artifact), Ok(at)) => entries[at] = Entry::new(Artifact::clone(artifact)),
                (Edit::Put(artifact), Err(at)) => entries.insert(at, Entry::new(Artifact::clone(artifact))),
                (Edit::Remove(_), Ok(at)) => drop(entries.remove(at)),
                (Edit::Remove(name), Err(_)) => {
                    return Err(Error::new(ErrorKind::NotFound, format!("no model {name} is registered")).on(name));
                }
            }
        }
        Catalog::new(self.generation + 1, entries)
    }
}

/// One change of the catalog.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// Adds an entry or replaces the one of the same name.
    Put(Box<Artifact>),
    /// Takes an entry away.
    Remove(ModelName),
}

impl Edit {
    fn name(&self) -> &ModelName {
        match self {
            Edit::Put(artifact) => &artifact.name,
            Edit::Remove(name) => name,
        }
    }
}

/// `a/b/c`, `a`, `a/b` of `a/b/c`: what a claim must not equal.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::once(path).chain(path.match_indices('/').map(|(at, _)| &path[..at]))
}

/// Where in the mount a path belongs, among all artifacts: used by callers that only know a path.
pub fn holder_of_path<'c>(catalog: &'c Catalog, path: &RelPath) -> Vec<&'c Arc<Artifact>> {
    let wanted = path.as_str();
    catalog
        .artifacts()
        .filter(|a| {
            let claim = a.mount_claim();
            wanted == claim.as_str() || wanted.strip_prefix(claim.as_str()).is_some_and(|rest| rest.starts_with('/'))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::artifact::{FileEntry, Format, Layout, Quarantine, list_digest};
    use crate::digest::Blake3Digest;

    pub(crate) fn artifact(name: &str, layout: Layout, files: &[&str]) -> Artifact {
        let files: Vec<FileEntry> = files
            .iter()
            .map(|path| FileEntry {
                path: path.parse().expect("a path"),
                size_bytes: 7,
                sha256: Sha256Digest::of(format!("{name} {path}").as_bytes()),
                blake3: Blake3Digest::from_bytes([7; 32]),
            })
            .collect();
        Artifact {
            name: name.parse().expect("a name"),
            sha256: if layout == Layout::File { files[0].sha256 } else { list_digest(&files) },
            layout,
            format: Format::Gguf,
            source: "test".into(),
            promoted_at: "2026-01-01T00:00:00Z".into(),
            size_bytes: 7 * files.len() as u64,
            evidence: None,
            quarantine: None,
            files,
        }
    }

    fn catalog(artifacts: &[Artifact]) -> Catalog {
        Catalog::new(1, artifacts.iter().cloned().map(Entry::new).collect()).expect("a catalog")
    }

    /// Threat 7.
    #[test]
    fn t07_names_and_mount_paths_that_collide_are_a_conflict_naming_the_holder() {
        let c = catalog(&[
            artifact("org/llama", Layout::Folder, &["a.gguf", "config.json"]),
            artifact("single", Layout::File, &["Model.gguf"]),
            artifact("tagged:v1", Layout::File, &["m.gguf"]),
        ]);
        for (name, layout, file, holder) in [
            ("Single", Layout::File, "other.gguf", "single"),
            ("other", Layout::File, "model.gguf", "single"),
            ("other", Layout::File, "Model.gguf", "single"),
            ("ORG/LLAMA", Layout::Folder, "x.gguf", "org/llama"),
            ("org", Layout::Folder, "x.gguf", "org/llama"),
            ("org/llama/deeper", Layout::Folder, "x.gguf", "org/llama"),
            ("org/llama:v1", Layout::File, "x.gguf", "org/llama"),
            ("tagged", Layout::Folder, "x.gguf", "tagged:v1"),
            ("tagged:V1", Layout::File, "x.gguf", "tagged:v1"),
            ("model.gguf", Layout::Folder, "x.gguf", "single"),
            ("TAGGED/v1", Layout::Folder, "x.gguf", "tagged:v1"),
        ] {
            let e = c.check_room(&artifact(name, layout, &[file])).expect_err(name);
            assert_eq!(e.kind(), ErrorKind::Conflict, "{name}");
            assert!(e.to_string().contains(holder), "{name}: {e} should name {holder}");
        }
        for (name, layout, file) in [
            ("org/llama2", Layout::Folder, "x.gguf"),
            ("org/other", Layout::Folder, "x.gguf"),
            ("tagged:v2", Layout::File, "m.gguf"),
            ("single2", Layout::File, "Model2.gguf"),
            ("single", Layout::File, "Model.gguf"),
        ] {
            c.check_room(&artifact(name, layout, &[file])).expect(name);
        }
    }

    #[test]
    fn bytes_under_an_incident_cannot_come_back_under_another_name() {
        let mut bad = artifact("bad", Layout::File, &["b.gguf"]);
        let mut again = artifact("again", Layout::File, &["c.gguf"]);
        again.files[0].sha256 = bad.files[0].sha256;
        catalog(std::slice::from_ref(&bad)).check_room(&again).expect("sharing is fine while nothing is wrong");
        let quarantine = |cause| Some(Quarantine { cause, reason: "r".into(), incident_id: None, at: "t".into() });
        bad.quarantine = quarantine(Cause::Integrity);
        catalog(std::slice::from_ref(&bad)).check_room(&again).expect("good bytes may replace damaged ones");
        bad.quarantine = quarantine(Cause::Incident);
        let e = catalog(&[bad]).check_room(&again).expect_err("an incident");
        assert_eq!(e.kind(), ErrorKind::Conflict);
        assert!(e.to_string().contains("bad"));
    }

    #[test]
    fn an_edit_makes_the_next_generation_and_keeps_the_order() {
        let c = catalog(&[artifact("b", Layout::File, &["b.gguf"])]);
        let c = c.with(&[
            Edit::Put(artifact("c", Layout::File, &["c.gguf"]).into()),
            Edit::Put(artifact("a", Layout::File, &["a.gguf"]).into()),
        ]);
        let c = c.expect("put");
        assert_eq!((c.generation(), c.len()), (2, 3));
        assert_eq!(c.artifacts().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        let c = c.with(&[Edit::Remove("b".parse().expect("a name"))]).expect("removed");
        assert!(c.artifact(&"b".parse().expect("a name")).is_none());
        assert_eq!(c.require(&"b".parse().expect("a name")).expect_err("gone").kind(), ErrorKind::NotFound);
        assert_eq!(
            c.with(&[Edit::Remove("b".parse().expect("a name"))]).expect_err("gone").kind(),
            ErrorKind::NotFound
        );
        assert!(
            Catalog::new(
                1,
                [artifact("a", Layout::File, &["a.gguf"]), artifact("a", Layout::File, &["b.gguf"])]
                    .into_iter()
                    .map(Entry::new)
                    .collect()
            )
            .is_err(),
            "a name stands once"
        );
        let holders: Vec<_> =
            c.holders(&artifact("c", Layout::File, &["c.gguf"]).files[0].sha256).map(|a| a.name.to_string()).collect();
        assert_eq!(holders, ["c"]);
    }

    #[test]
    fn a_mount_path_leads_to_its_holder() {
        let c =
            catalog(&[artifact("org/llama", Layout::Folder, &["a.gguf"]), artifact("s", Layout::File, &["m.gguf"])]);
        let at = |p: &str| {
            holder_of_path(&c, &p.parse().expect("a path")).iter().map(|a| a.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(at("org/llama/a.gguf"), ["org/llama"]);
        assert_eq!(at("org/llama"), ["org/llama"]);
        assert_eq!(at("m.gguf"), ["s"]);
        assert!(at("org/llama2").is_empty() && at("org").is_empty());
    }
}
