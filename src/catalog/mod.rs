//! The catalog: manifest.yaml, parsed, as an immutable snapshot.
//!
//! Owns: [`Catalog`] and the questions asked of it. Promises: a `Catalog` is sorted by name, has no two names or mount
//! paths that collide, and is never changed, only replaced by one of a higher generation; no change of it forgets an
//! incident but the one that lifts it. Leaves out: its text (`text`), its life on disk (`store`).

pub(crate) mod guard;
pub(crate) mod history;
pub(crate) mod memory;
mod seal;
pub(crate) mod store;
pub(crate) mod text;

use crate::artifact::{Artifact, Blocked, Cause};
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ModelName, RelPath};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// All registered models at one generation.
#[derive(Debug, Default)]
pub struct Catalog {
    generation: u64,
    entries: Vec<Entry<Artifact>>,
    by_blob: HashMap<Sha256Digest, Vec<u32>>,
    blocked: Vec<Entry<Blocked>>,
    /// Of several that block a blob, one.
    blocked_blobs: HashMap<Sha256Digest, u32>,
    taken: OnceLock<Taken>,
}

/// An item and its canonical text, by which the next parse knows it again.
#[derive(Debug, Clone)]
pub(crate) struct Entry<T> {
    pub(crate) item: Arc<T>,
    pub(crate) text: Arc<str>,
}

impl From<Artifact> for Entry<Artifact> {
    fn from(artifact: Artifact) -> Self {
        Entry { text: text::encode(&artifact).into(), item: Arc::new(artifact) }
    }
}

impl From<Blocked> for Entry<Blocked> {
    fn from(blocked: Blocked) -> Self {
        Entry { text: text::encode_blocked(&blocked).into(), item: Arc::new(blocked) }
    }
}

impl Entry<Artifact> {
    fn name(&self) -> &str {
        self.item.name.as_str()
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
    pub(crate) fn new(
        generation: u64,
        mut entries: Vec<Entry<Artifact>>,
        mut blocked: Vec<Entry<Blocked>>,
    ) -> Result<Catalog> {
        if !entries.is_sorted_by(|a, b| a.name() < b.name()) {
            entries.sort_by(|a, b| a.name().cmp(b.name()));
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(Error::new(ErrorKind::Manifest, format!("the manifest names {} twice", pair[0].name())));
        }
        if !blocked.is_sorted_by(|a, b| a.item.key() < b.item.key()) {
            blocked.sort_by(|a, b| a.item.key().cmp(&b.item.key()));
        }
        if let Some(pair) = blocked.windows(2).find(|pair| pair[0].item.key() == pair[1].item.key()) {
            let why = format!("the manifest blocks the weights of {} twice", pair[0].item.name);
            return Err(Error::new(ErrorKind::Manifest, why));
        }
        let mut by_blob: HashMap<Sha256Digest, Vec<u32>> = HashMap::with_capacity(entries.len());
        for (i, entry) in (0..).zip(&entries) {
            for file in &entry.item.files {
                let holders = by_blob.entry(file.sha256).or_default();
                if holders.last() != Some(&i) {
                    holders.push(i);
                }
            }
        }
        let mut blocked_blobs = HashMap::new();
        for (i, entry) in (0..).zip(&blocked) {
            blocked_blobs.extend(entry.item.weights.iter().map(|weights| (weights.sha256, i)));
        }
        Ok(Catalog { generation, entries, by_blob, blocked, blocked_blobs, taken: OnceLock::new() })
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
        self.entries.iter().map(|e| &e.item)
    }

    /// The model with this very name.
    pub fn artifact(&self, name: &ModelName) -> Option<&Arc<Artifact>> {
        find(&self.entries, name).ok().map(|i| &self.entries[i].item)
    }

    /// Like [`Catalog::artifact`], or an error that says so.
    pub fn require(&self, name: &ModelName) -> Result<&Arc<Artifact>> {
        self.artifact(name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no model {name} is registered")).on(name))
    }

    /// The models that hold a blob.
    pub fn holders(&self, sha256: &Sha256Digest) -> impl Iterator<Item = &Arc<Artifact>> {
        self.by_blob.get(sha256).into_iter().flatten().map(|i| &self.entries[*i as usize].item)
    }

    /// What models that were deleted under an incident left, sorted by name; several may have one name.
    pub fn blocked(&self) -> impl Iterator<Item = &Arc<Blocked>> {
        self.blocked.iter().map(|e| &e.item)
    }

    /// The same of one name.
    pub fn blocked_as(&self, name: &ModelName) -> impl Iterator<Item = &Arc<Blocked>> {
        let from = self.blocked.partition_point(|e| e.item.name.as_str() < name.as_str());
        self.blocked[from..].iter().map(|e| &e.item).take_while(move |b| b.name == *name)
    }

    /// Whether a model that was deleted under an incident, of whatever name, left these bytes blocked.
    pub(crate) fn blocks(&self, sha256: &Sha256Digest) -> bool {
        self.blocked_blobs.contains_key(sha256)
    }

    pub(crate) fn entries(&self) -> &[Entry<Artifact>] {
        &self.entries
    }

    pub(crate) fn blocked_entries(&self) -> &[Entry<Blocked>] {
        &self.blocked
    }

    /// Whether `candidate` may take its name, its mount path and its bytes. An entry of the same name does not stand in
    /// its way here.
    pub(crate) fn check_room(&self, candidate: &Artifact) -> Result<()> {
        let taken = self.taken.get_or_init(|| self.index_taken());
        let other = |i: &u32| {
            let holder = &self.entries[*i as usize].item;
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
            if let Some(i) = self.blocked_blobs.get(&file.sha256) {
                let Blocked { name, quarantine, .. } = &*self.blocked[*i as usize].item;
                return conflict(format!(
                    "the bytes of {} are under {} as {name}, which was deleted: `securereg release {name} --deleted` lifts that",
                    file.path,
                    quarantine.incident()
                ));
            }
        }
        Ok(())
    }

    fn index_taken(&self) -> Taken {
        let mut taken = Taken::default();
        for (i, entry) in (0..).zip(&self.entries) {
            taken.names.insert(entry.item.name.folded(), i);
            taken.claims.insert(entry.item.mount_claim().folded(), i);
        }
        taken
    }

    /// The next generation with `edits` applied.
    pub(crate) fn with(&self, edits: &[Edit]) -> Result<Catalog> {
        let mut entries = self.entries.clone();
        let mut blocked = self.blocked.clone();
        for edit in edits {
            match edit {
                Edit::Put(artifact) => {
                    let entry = Entry::from(Artifact::clone(artifact));
                    match find(&entries, &artifact.name) {
                        Ok(at) => entries[at] = entry,
                        Err(at) => entries.insert(at, entry),
                    }
                }
                Edit::Remove { name, at: when } => {
                    let absent = |_| Error::new(ErrorKind::NotFound, format!("no model {name} is registered")).on(name);
                    let gone = entries.remove(find(&entries, name).map_err(absent)?);
                    // Here and not at the callers', so that none can forget it.
                    if let Some(left) = Blocked::left_by(&gone.item, when) {
                        match blocked.binary_search_by(|e| e.item.key().cmp(&left.key())) {
                            Ok(at) => blocked[at] = left.into(),
                            Err(at) => blocked.insert(at, left.into()),
                        }
                    }
                }
                Edit::Unblock(name) => blocked.retain(|e| e.item.name != *name),
            }
        }
        Catalog::new(self.generation + 1, entries, blocked)
    }
}

/// One change of the catalog.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// Adds an entry or replaces the one of the same name.
    Put(Box<Artifact>),
    /// Takes an entry away. One that is under an incident leaves its weights blocked.
    Remove { name: ModelName, at: String },
    /// Lifts what deleted models of this name left.
    Unblock(ModelName),
}

impl Edit {
    /// The entry that is not there any more as it was.
    fn replaces(&self) -> Option<&ModelName> {
        match self {
            Edit::Put(artifact) => Some(&artifact.name),
            Edit::Remove { name, .. } => Some(name),
            Edit::Unblock(_) => None,
        }
    }
}

fn find(entries: &[Entry<Artifact>], name: &ModelName) -> Result<usize, usize> {
    entries.binary_search_by(|e| e.name().cmp(name.as_str()))
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
    use crate::artifact::{FileEntry, Format, Layout, Quarantine, Weights, list_digest};
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
            inspection: None,
            quarantine: None,
            files,
        }
    }

    fn catalog(artifacts: &[Artifact]) -> Catalog {
        Catalog::new(1, artifacts.iter().cloned().map(Entry::from).collect(), Vec::new()).expect("a catalog")
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

    fn remove(name: &str) -> Edit {
        Edit::Remove { name: name.parse().expect("a name"), at: "then".into() }
    }

    fn with_incident(mut a: Artifact, id: &str) -> Edit {
        let (reason, incident_id) = ("r".into(), Some(id.to_owned()));
        a.quarantine = Some(Quarantine { cause: Cause::Incident, reason, incident_id, at: "t".into() });
        Edit::Put(a.into())
    }

    #[test]
    fn an_incident_survives_its_model_and_blocks_its_weights_alone() {
        let bad = artifact("bad", Layout::Folder, &["1.gguf", "2.safetensors", "LICENSE"]);
        let c = catalog(&[]).with(&[with_incident(bad.clone(), "INC-1")]).expect("put");
        let c = c.with(&[remove("bad")]).expect("removed");
        assert_eq!((c.len(), c.blocked().count(), c.generation()), (0, 1, 3));
        let left = c.blocked_as(&bad.name).next().expect("what it left");
        assert_eq!((left.deleted_at.as_str(), left.quarantine.incident_id.as_deref()), ("then", Some("INC-1")));
        let mut sorted = vec![Weights { sha256: bad.files[0].sha256 }, Weights { sha256: bad.files[1].sha256 }];
        sorted.sort();
        assert_eq!(left.weights, sorted);
        for (name, file, digest, blocked) in [
            ("again", "x.gguf", bad.files[0].sha256, true),
            ("again", "x.gguf", bad.files[1].sha256, true),
            ("bad", "x.gguf", bad.files[0].sha256, true),
            ("again", "x.gguf", bad.files[2].sha256, false),
            ("again", "LICENSE", bad.files[0].sha256, false),
            ("bad", "x.gguf", Sha256Digest::of(b"other"), false),
        ] {
            let mut candidate = artifact(name, Layout::Folder, &[file]);
            candidate.files[0].sha256 = digest;
            match c.check_room(&candidate) {
                Ok(()) => assert!(!blocked, "{name} {file}"),
                Err(e) => {
                    assert!(blocked && e.kind() == ErrorKind::Conflict, "{name} {file}: {e}");
                    for word in ["INC-1", "as bad, which was deleted", "securereg release bad --deleted"] {
                        assert!(e.to_string().contains(word), "{e}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_blocked_is_told_apart_by_name_and_weights_and_lifted_by_name() {
        let named = |name: &str, files: &[&str]| artifact(name, Layout::Folder, files);
        let mut shared = named("other", &["1.gguf"]);
        shared.files[0].sha256 = named("m", &["1.gguf"]).files[0].sha256;
        let mut c = catalog(&[]);
        let models = [
            (named("m", &["1.gguf"]), "a"),
            (named("m", &["2.gguf"]), "b"),
            (shared, "c"),
            (named("m", &["1.gguf"]), "d"),
        ];
        for (model, id) in models {
            let name = model.name.to_string();
            c = c.with(&[with_incident(model, id)]).expect("put").with(&[remove(&name)]).expect("removed");
        }
        let m = named("m", &["1.gguf"]);
        let ids = |c: &Catalog, name: &ModelName| {
            let mut ids: Vec<_> = c.blocked_as(name).filter_map(|b| b.quarantine.incident_id.clone()).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(&c, &m.name), ["b", "d"], "of the same weights the last stands");
        assert!(c.blocked().is_sorted_by(|a, b| a.key() < b.key()));
        let lifted = c.with(&[Edit::Unblock(m.name.clone())]).expect("lifted");
        assert!(ids(&lifted, &m.name).is_empty());
        let e = lifted.check_room(&m).expect_err("another one still blocks them");
        assert!(e.to_string().contains("the incident c as other"), "{e}");
        let twice: Vec<Entry<Blocked>> = [0, 0].map(|_| Blocked::clone(c.blocked().next().expect("one")).into()).into();
        assert!(Catalog::new(1, Vec::new(), twice).is_err(), "each stands once");
    }

    #[test]
    fn equal_weights_of_one_model_are_blocked_once_and_read_back() {
        let mut twin = artifact("twin", Layout::Folder, &["1.gguf", "2.gguf"]);
        twin.files[1].sha256 = twin.files[0].sha256;
        let c = catalog(&[]).with(&[with_incident(twin, "i")]).expect("put").with(&[remove("twin")]).expect("removed");
        assert_eq!(c.blocked().next().expect("one").weights.len(), 1);
        let read = text::parse(text::render(&c).expect("room").as_bytes(), None).expect("our own text");
        assert_eq!(read.blocked().next(), c.blocked().next());
    }

    #[test]
    fn a_model_that_is_not_under_an_incident_leaves_nothing() {
        let mut a = artifact("a", Layout::File, &["a.gguf"]);
        assert_eq!(catalog(std::slice::from_ref(&a)).with(&[remove("a")]).expect("removed").blocked().count(), 0);
        a.quarantine =
            Some(Quarantine { cause: Cause::Integrity, reason: "r".into(), incident_id: None, at: "t".into() });
        assert_eq!(catalog(&[a]).with(&[remove("a")]).expect("removed").blocked().count(), 0);
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
        let c = c.with(&[remove("b")]).expect("removed");
        assert!(c.artifact(&"b".parse().expect("a name")).is_none());
        assert_eq!(c.require(&"b".parse().expect("a name")).expect_err("gone").kind(), ErrorKind::NotFound);
        assert_eq!(c.with(&[remove("b")]).expect_err("gone").kind(), ErrorKind::NotFound);
        assert!(
            Catalog::new(
                1,
                [artifact("a", Layout::File, &["a.gguf"]), artifact("a", Layout::File, &["b.gguf"])]
                    .into_iter()
                    .map(Entry::from)
                    .collect(),
                Vec::new()
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
