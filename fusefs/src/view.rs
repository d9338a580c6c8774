//! The tree that the mount shows, without any FUSE types.
//!
//! Owns: which paths exist, their inode numbers, and how often the kernel holds each. Promises: the tree follows the
//! catalog exactly as of the last [`View::apply`]; applying a new generation costs what changed, plus one pointer
//! comparison for each model that did not; a changed file has a new inode number; memory is bounded by the catalog and
//! by what the kernel holds. Leaves out: reading, opening, and telling the kernel.
//!
//! ```text
//! /                         ino 1
//!   <filename>              single untagged files
//!   <name>/...              folders and split sets
//!   <repo>/<tag>/<file>     whatever has a tag
//!   .by-digest/             ino 2
//!     sha256-<hex>          each blob that a promoted model holds
//! ```
//! A quarantined file stays in the tree, hidden: no listing shows it, nor a folder that holds nothing else, but a lookup
//! by name finds it, so that open(2) can answer EACCES.
//!
//! Lock order: `tree` is the only lock; nothing is called with it held.

mod node;

pub(crate) use node::{Facts, FileNode, Opens, Status};

use parking_lot::RwLock;
use securereg::{Artifact, Sha256Digest};
use std::cmp::Ordering as Cmp;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// The inode number of the mount's root folder.
pub(crate) const ROOT: u64 = 1;
/// The inode number of `.by-digest`.
pub(crate) const BY_DIGEST: u64 = 2;
const BY_DIGEST_NAME: &str = ".by-digest";

/// The tree; see the module's documentation.
#[derive(Debug)]
pub(crate) struct View {
    tree: RwLock<Tree>,
}

#[derive(Debug)]
struct Tree {
    artifacts: Vec<Arc<Artifact>>,
    dirs: HashMap<u64, Dir>,
    files: HashMap<u64, Arc<FileNode>>,
    holders: HashMap<Sha256Digest, Holders>,
    next_ino: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Dir {
    parent: u64,
    name: Box<str>,
    children: BTreeMap<Box<str>, u64>,
    /// How many of the children a listing shows.
    visible: usize,
    lookups: AtomicU64,
    linked: bool,
    mtime: SystemTime,
    listing: Option<Arc<Listing>>,
}

/// How many files of promoted and of all models have a blob.
#[derive(Debug, Default)]
struct Holders {
    promoted: usize,
    all: usize,
}

/// What a folder shows, as of one moment.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) parent: u64,
    pub(crate) entries: Vec<(Box<str>, u64, Sort)>,
}

/// File or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A regular file.
    File,
    /// A folder.
    Dir,
}

/// What a lookup or an attribute request finds.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// A folder.
    Dir { ino: u64, mtime: SystemTime },
    /// A file.
    File(Arc<FileNode>),
}

/// What a new generation changed, for the kernel to be told.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Files that are no longer served: shut, drain, drop their pages.
    pub(crate) revoked: Vec<Arc<FileNode>>,
    /// Names that no longer lead where they did, as (folder, name).
    pub(crate) names: Vec<(u64, Box<str>)>,
}

/// What becomes of those who have a file open that its path no longer leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// They get EIO.
    Revoked,
    /// They go on reading.
    Replaced,
}

/// Whether a file that the kernel knows may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is what its path leads to, and promoted.
    Current,
    /// Its model is quarantined.
    Quarantined,
    /// Its path leads elsewhere, or nowhere: look it up again.
    Stale,
}

impl View {
    /// An empty tree.
    pub(crate) fn new() -> View {
        let dir = |parent, name: &str| Dir {
            parent,
            name: name.into(),
            children: BTreeMap::new(),
            visible: 0,
            lookups: AtomicU64::new(0),
            linked: true,
            mtime: SystemTime::now(),
            listing: None,
        };
        let mut root = dir(ROOT, "");
        root.children.insert(BY_DIGEST_NAME.into(), BY_DIGEST);
        root.visible = 1;
        View {
            tree: RwLock::new(Tree {
                artifacts: Vec::new(),
                dirs: HashMap::from([(ROOT, root), (BY_DIGEST, dir(ROOT, BY_DIGEST_NAME))]),
                files: HashMap::new(),
                holders: HashMap::new(),
                next_ino: BY_DIGEST + 1,
                bytes: 0,
            }),
        }
    }

    /// Makes the tree show `artifacts`, which are sorted by name.
    ///
    /// `quarantined` names models that were quarantined since the last generation shown, even if they are gone by now.
    pub(crate) fn apply<'a>(
        &self,
        artifacts: impl Iterator<Item = &'a Arc<Artifact>>,
        quarantined: &HashSet<String>,
    ) -> Changes {
        let new: Vec<Arc<Artifact>> = artifacts.cloned().collect();
        let mut tree = self.tree.write();
        let old = std::mem::take(&mut tree.artifacts);
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let (mut o, mut n) = (old.iter().peekable(), new.iter().peekable());
        loop {
            match (o.peek(), n.peek()) {
                (None, None) => break,
                (Some(_), None) => gone.extend(o.next()),
                (None, Some(_)) => come.extend(n.next()),
                (Some(a), Some(b)) => match a.name.cmp(&b.name) {
                    Cmp::Less => gone.extend(o.next()),
                    Cmp::Greater => come.extend(n.next()),
                    Cmp::Equal => {
                        if !Arc::ptr_eq(a, b) && a != b {
                            gone.push(a);
                            come.push(b);
                        }
                        o.next();
                        n.next();
                    }
                },
            }
        }
        let mut changes = Changes::default();
        tree.change(&gone, &come, quarantined, &mut changes);
        tree.artifacts = new;
        changes
    }

    /// What `name` in the folder `parent` leads to; the kernel now holds it once more.
    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Option<Found> {
        let tree = self.tree.read();
        let ino = *tree.dirs.get(&parent)?.children.get(name)?;
        tree.hold(ino)
    }

    /// What `ino` is; the kernel now holds it once more.
    pub(crate) fn hold(&self, ino: u64) -> Option<Found> {
        self.tree.read().hold(ino)
    }

    /// What `ino` is.
    pub(crate) fn find(&self, ino: u64) -> Option<Found> {
        let tree = self.tree.read();
        if let Some(file) = tree.files.get(&ino) {
            return Some(Found::File(Arc::clone(file)));
        }
        tree.dirs.get(&ino).map(|dir| Found::Dir { ino, mtime: dir.mtime })
    }

    /// The kernel gives back `count` of its holds on `ino`.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        {
            let tree = self.tree.read();
            if let Some(file) = tree.files.get(&ino) {
                let before = file.lookups.fetch_sub(count, Ordering::SeqCst);
                debug_assert!(before >= count, "the kernel gives back what it took");
                if before > count || file.is_linked() {
                    return;
                }
            }
        }
        let mut tree = self.tree.write();
        if tree.files.get(&ino).is_some_and(|f| !f.is_linked() && !f.is_known()) {
            tree.files.remove(&ino);
        }
        if let Some(dir) = tree.dirs.get(&ino) {
            let before = dir.lookups.fetch_sub(count, Ordering::SeqCst);
            if before <= count && !dir.linked {
                tree.dirs.remove(&ino);
            }
        }
    }

    /// What the folder `ino` shows now.
    pub(crate) fn list(&self, ino: u64) -> Option<Arc<Listing>> {
        if let Some(listing) = self.tree.read().dirs.get(&ino)?.listing.as_ref() {
            return Some(Arc::clone(listing));
        }
        let mut tree = self.tree.write();
        let dir = tree.dirs.get(&ino)?;
        let entries = dir
            .children
            .iter()
            .filter_map(|(name, child)| tree.visible(*child).map(|sort| (name.clone(), *child, sort)))
            .collect();
        let listing = Arc::new(Listing { parent: dir.parent, entries });
        tree.dirs.get_mut(&ino)?.listing = Some(Arc::clone(&listing));
        Some(listing)
    }

    /// Whether `node` may be opened.
    pub(crate) fn admission(&self, node: &FileNode) -> Admission {
        let tree = self.tree.read();
        let current = tree.dirs.get(&node.parent).and_then(|dir| dir.children.get(&node.name));
        match current.and_then(|ino| tree.files.get(ino)) {
            Some(file) if file.facts.status == Status::Quarantined => Admission::Quarantined,
            Some(file) if file.ino == node.ino && !file.gate.is_shut() => Admission::Current,
            Some(_) | None => Admission::Stale,
        }
    }

    /// Gives the path of `node`, which was revoked though its model is promoted, a new inode number; what to tell the
    /// kernel, if the path still led to it.
    pub(crate) fn renew(&self, node: &FileNode) -> Option<(u64, Box<str>)> {
        let mut tree = self.tree.write();
        if !node.is_linked() {
            return None;
        }
        tree.remove_file(node.parent, &node.name);
        tree.insert_file(node.parent, &node.name, node.facts.clone());
        Some((node.parent, node.name.clone()))
    }

    /// Bytes and files shown, for statfs(2).
    pub(crate) fn totals(&self) -> (u64, u64) {
        let tree = self.tree.read();
        (tree.bytes, tree.holders.values().map(|h| h.promoted as u64).sum())
    }
}

impl Tree {
    fn hold(&self, ino: u64) -> Option<Found> {
        if let Some(file) = self.files.get(&ino) {
            file.lookups.fetch_add(1, Ordering::SeqCst);
            return Some(Found::File(Arc::clone(file)));
        }
        let dir = self.dirs.get(&ino)?;
        dir.lookups.fetch_add(1, Ordering::SeqCst);
        Some(Found::Dir { ino, mtime: dir.mtime })
    }

    fn change(
        &mut self,
        gone: &[&Arc<Artifact>],
        come: &[&Arc<Artifact>],
        quarantined: &HashSet<String>,
        changes: &mut Changes,
    ) {
        // Which of the files that go come again just as they were: those keep their inode and their pages.
        let mut again: HashMap<String, Facts> = HashMap::new();
        let mut blobs: HashMap<Sha256Digest, Option<Facts>> = HashMap::new();
        for artifact in come {
            for file in &artifact.files {
                let facts = Facts::of(artifact, file);
                blobs.insert(facts.sha256, Some(facts.clone()));
                again.insert(artifact.mount_path(file).as_str().to_owned(), facts);
            }
        }
        let refused: HashSet<&str> = come.iter().filter(|a| !a.is_promoted()).map(|a| a.name.as_str()).collect();
        for artifact in gone {
            // A deleted or moved name leaves those who have it open alone; a quarantined one does not.
            let name = artifact.name.as_str();
            let ending =
                if refused.contains(name) || quarantined.contains(name) { Ending::Revoked } else { Ending::Replaced };
            for file in &artifact.files {
                let facts = Facts::of(artifact, file);
                let path = artifact.mount_path(file);
                self.count(&facts, usize::wrapping_sub, u64::wrapping_sub);
                blobs.entry(facts.sha256).or_default();
                if again.get(path.as_str()) == Some(&facts) {
                    continue;
                }
                let Some((dir, name)) = self.walk(path.as_str()) else { continue };
                self.drop_file(dir, name, ending, changes);
            }
        }
        for artifact in come {
            for file in &artifact.files {
                let facts = Facts::of(artifact, file);
                let path = artifact.mount_path(file);
                self.count(&facts, usize::wrapping_add, u64::wrapping_add);
                let (dir, name) = self.make_dirs(path.as_str());
                if !self.dirs[&dir].children.contains_key(name) {
                    self.insert_file(dir, name, facts);
                }
            }
        }
        for (sha256, facts) in blobs {
            self.refresh_blob(sha256, facts, changes);
        }
        self.prune(gone, changes);
    }

    fn count(&mut self, facts: &Facts, n: fn(usize, usize) -> usize, b: fn(u64, u64) -> u64) {
        let holders = self.holders.entry(facts.sha256).or_default();
        holders.all = n(holders.all, 1);
        if facts.status == Status::Promoted {
            holders.promoted = n(holders.promoted, 1);
            self.bytes = b(self.bytes, facts.size);
        }
    }

    /// Makes `.by-digest` agree with who holds `sha256` now.
    fn refresh_blob(&mut self, sha256: Sha256Digest, come: Option<Facts>, changes: &mut Changes) {
        let name = format!("sha256-{sha256}");
        let (all, promoted) = self.holders.get(&sha256).map_or((0, 0), |h| (h.all, h.promoted));
        let wanted = match (all, promoted) {
            (0, _) => None,
            (_, 0) => Some(Status::Quarantined),
            _ => Some(Status::Promoted),
        };
        let ino = self.dirs[&BY_DIGEST].children.get(name.as_str()).copied();
        let present = ino.and_then(|ino| self.files.get(&ino)).cloned();
        if present.as_ref().map(|f| f.facts.status) == wanted {
            return;
        }
        if present.is_some() {
            let ending = if wanted == Some(Status::Quarantined) { Ending::Revoked } else { Ending::Replaced };
            self.drop_file(BY_DIGEST, &name, ending, changes);
        }
        let Some(status) = wanted else {
            self.holders.remove(&sha256);
            return;
        };
        let facts = present.map(|f| f.facts.clone()).or(come).expect("a blob is new only with a file that came");
        self.insert_file(BY_DIGEST, &name, Facts { opens: Opens::Blob, status, ..facts });
    }

    /// Takes a file out of the tree for good, and notes what the kernel must be told.
    fn drop_file(&mut self, dir: u64, name: &str, ending: Ending, changes: &mut Changes) {
        let Some(file) = self.remove_file(dir, name) else { return };
        // Only what the kernel holds can be cached there: not the ten thousand that nobody asked for.
        if file.is_known() {
            changes.names.push((dir, name.into()));
            if ending == Ending::Revoked {
                changes.revoked.push(file);
            }
        }
    }

    fn insert_file(&mut self, dir: u64, name: &str, facts: Facts) {
        let ino = self.next_ino;
        self.next_ino += 1;
        let visible = facts.status == Status::Promoted;
        self.files.insert(ino, Arc::new(FileNode::new(ino, dir, name, facts)));
        self.link(dir, name, ino, visible);
    }

    fn remove_file(&mut self, dir: u64, name: &str) -> Option<Arc<FileNode>> {
        let ino = *self.dirs.get(&dir)?.children.get(name)?;
        let file = Arc::clone(self.files.get(&ino)?);
        file.linked.store(false, Ordering::SeqCst);
        self.unlink(dir, name, file.facts.status == Status::Promoted);
        if !file.is_known() {
            self.files.remove(&ino);
        }
        Some(file)
    }

    fn link(&mut self, dir: u64, name: &str, ino: u64, visible: bool) {
        let folder = self.dirs.get_mut(&dir).expect("a folder that was just found or made");
        folder.children.insert(name.into(), ino);
        folder.changed();
        if visible {
            self.show(dir);
        }
    }

    fn unlink(&mut self, dir: u64, name: &str, visible: bool) {
        let folder = self.dirs.get_mut(&dir).expect("a folder that was just found");
        folder.children.remove(name);
        folder.changed();
        if visible {
            self.hide(dir);
        }
    }

    /// One more child of `dir` is visible; the first makes `dir` itself visible.
    fn show(&mut self, mut dir: u64) {
        loop {
            let folder = self.dirs.get_mut(&dir).expect("linked folders have linked parents");
            folder.visible += 1;
            folder.changed();
            if folder.visible > 1 || dir == ROOT || dir == BY_DIGEST {
                return;
            }
            dir = folder.parent;
        }
    }

    /// One child less of `dir` is visible; the last hides `dir` itself.
    fn hide(&mut self, mut dir: u64) {
        loop {
            let folder = self.dirs.get_mut(&dir).expect("linked folders have linked parents");
            folder.visible -= 1;
            folder.changed();
            if folder.visible > 0 || dir == ROOT || dir == BY_DIGEST {
                return;
            }
            dir = folder.parent;
        }
    }

    fn visible(&self, ino: u64) -> Option<Sort> {
        if let Some(file) = self.files.get(&ino) {
            return (file.facts.status == Status::Promoted).then_some(Sort::File);
        }
        let dir = self.dirs.get(&ino)?;
        (ino == BY_DIGEST || dir.visible > 0).then_some(Sort::Dir)
    }

    /// The folder and the last component of `path`.
    fn walk<'p>(&self, path: &'p str) -> Option<(u64, &'p str)> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            dir = *self.dirs.get(&dir)?.children.get(part)?;
        }
        self.dirs.contains_key(&dir).then_some((dir, name))
    }

    /// Like [`Tree::walk`], making the folders that are missing.
    fn make_dirs<'p>(&mut self, path: &'p str) -> (u64, &'p str) {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            let child = self.dirs.get(&dir).and_then(|d| d.children.get(part)).copied();
            dir = match child {
                Some(child) if self.dirs.contains_key(&child) => child,
                _ => {
                    let ino = self.next_ino;
                    self.next_ino += 1;
                    let folder = Dir {
                        parent: dir,
                        name: part.into(),
                        children: BTreeMap::new(),
                        visible: 0,
                        lookups: AtomicU64::new(0),
                        linked: true,
                        mtime: SystemTime::now(),
                        listing: None,
                    };
                    self.dirs.insert(ino, folder);
                    self.link(dir, part, ino, false);
                    ino
                }
            };
        }
        (dir, name)
    }

    /// Removes the folders of `gone` that hold nothing any more.
    fn prune(&mut self, gone: &[&Arc<Artifact>], changes: &mut Changes) {
        for file in gone.iter().flat_map(|a| a.files.iter().map(|f| a.mount_path(f))) {
            let mut dir = self.deepest(file.as_str());
            while dir != ROOT && dir != BY_DIGEST && self.dirs[&dir].children.is_empty() {
                let (parent, name) = (self.dirs[&dir].parent, self.dirs[&dir].name.clone());
                self.unlink(parent, &name, false);
                let folder = self.dirs.get_mut(&dir).expect("it was just read");
                folder.linked = false;
                if folder.lookups.load(Ordering::SeqCst) == 0 {
                    self.dirs.remove(&dir);
                } else {
                    changes.names.push((parent, name));
                }
                dir = parent;
            }
        }
    }

    /// The deepest folder on the way to `path` that exists.
    fn deepest(&self, path: &str) -> u64 {
        let mut dir = ROOT;
        for part in path.split('/') {
            match self.dirs.get(&dir).and_then(|d| d.children.get(part)) {
                Some(child) if self.dirs.contains_key(child) => dir = *child,
                _ => break,
            }
        }
        dir
    }
}

impl Dir {
    fn changed(&mut self) {
        self.listing = None;
        self.mtime = SystemTime::now();
    }
}

#[cfg(test)]
mod tests;
