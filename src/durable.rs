//! The calls that make a change survive a power cut.
//!
//! Owns: every fsync and every rename into place. Promises: none that is made here is missing from the record that unit tests
//! read, for only a power cut would show that one is missing or comes too late. Leaves out: the order (`layout`, `promote`,
//! `catalog::store`), which the tests below spell out.

use crate::sys::spawn_scoped_quietly;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Syncs a file: its bytes, its size and its mode.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all().inspect(|()| noted(file))
}

/// Syncs a file's bytes and its size.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data().inspect(|()| noted(file))
}

/// Syncs the names in a folder.
pub(crate) fn sync_folder(folder: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsync(folder).inspect(|()| noted(folder))
}

/// Syncs several files or folders side by side: the disk then writes what is common to them once. An error when one fails.
pub(crate) fn sync_together(all: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some((first, others)) = all.split_first() else { return Ok(()) };
    let sync = |fd: &BorrowedFd<'_>| rustix::fs::fsync(fd).map_err(io::Error::from);
    std::thread::scope(|scope| {
        let started: Vec<_> = others.iter().map(|fd| spawn_scoped_quietly(scope, move || sync(fd))).collect();
        let mut outcome = sync(first);
        for (fd, thread) in others.iter().zip(started) {
            let synced = match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended early"))),
                // No thread is to be had: one after the other.
                Err(_) => sync(fd),
            };
            outcome = outcome.and(synced);
        }
        outcome
    })?;
    all.iter().for_each(noted);
    Ok(())
}

/// Renames `from/temp` to `to/name`, in place of what is there.
pub(crate) fn rename(from: &OwnedFd, temp: &str, to: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    rustix::fs::renameat(from, temp, to, name)?;
    #[cfg(test)]
    tests::renamed(to, name);
    Ok(())
}

fn noted(synced: impl AsFd) {
    #[cfg(test)]
    tests::synced(&synced);
    let _ = synced;
}

#[cfg(test)]
mod tests {
    use crate::digest::Sha256Digest;
    use crate::{Actor, Method, Outcome, PromoteRequest, Registry, Source, Task, Transfer};
    use rustix::fs::AtFlags;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    /// What was made durable, by inode, with the length it had then.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Synced { ino: u64, len: i64 },
        Renamed { ino: u64, len: i64, folder: u64 },
    }

    thread_local! {
        static STEPS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn synced(file: &impl AsFd) {
        let stat = rustix::fs::fstat(file).expect("an open file");
        STEPS.with_borrow_mut(|steps| steps.push(Step::Synced { ino: stat.st_ino, len: stat.st_size }));
    }

    pub(super) fn renamed(folder: &OwnedFd, name: &str) {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).expect("it was just renamed");
        let folder = rustix::fs::fstat(folder).expect("an open folder").st_ino;
        STEPS.with_borrow_mut(|steps| steps.push(Step::Renamed { ino: stat.st_ino, len: stat.st_size, folder }));
    }

    struct Rig {
        dir: tempfile::TempDir,
        registry: Registry,
    }

    const BYTES: &[u8] = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    impl Rig {
        fn new() -> Rig {
            let dir = tempfile::tempdir().expect("a folder");
            let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
            Rig { dir, registry }
        }

        fn source(&self) -> PathBuf {
            let path = self.dir.path().join("m.gguf");
            std::fs::write(&path, BYTES).expect("written");
            path
        }

        fn promote(&self, request: PromoteRequest) -> crate::Promotion {
            let source = Source::open(&self.source()).expect("a source");
            self.registry.promote(request, source, &me(), &Task::unattended()).expect("promoted")
        }

        /// What was made durable since the last time, in words. A file that was renamed had been synced whole.
        fn steps(&self) -> Vec<String> {
            let root = self.registry.root();
            let ino = |path: &Path| std::fs::metadata(path).ok().map(|m| m.ino());
            let blob = Sha256Digest::of(BYTES).to_hex();
            // Whatever was sent along, and what inspection found: one is like the other.
            let sidecars = std::fs::read_dir(root.join("sidecars/sha256")).expect("there").flatten();
            let sidecars = sidecars.map(|s| (ino(&s.path()), "sidecar"));
            let named = [
                (ino(root), "root"),
                // Kept for a recovery, unsynced: what a power cut tears is known by its last line.
                (ino(&root.join("history")), "history"),
                (ino(self.dir.path()), "above the root"),
                (ino(&root.join("blobs/sha256")), "blobs"),
                (ino(&root.join("blobs")), "blobs/"),
                (ino(&root.join("sidecars")), "sidecars/"),
                (ino(&root.join("run")), "run/"),
                (ino(&root.join("trees")), "trees"),
                (ino(&root.join("sidecars/sha256")), "sidecars"),
                (ino(&root.join("stamps")), "stamps"),
                (ino(&root.join("blobs/sha256").join(&blob)), "blob"),
                (ino(&root.join("trees").join(&blob)), "tree"),
                (ino(&root.join("manifest.yaml")), "manifest"),
                (ino(&root.join("generation")), "generation"),
                (ino(&root.join("audit.jsonl")), "log"),
                (ino(&root.join("signing.key")), "private key"),
                (ino(&root.join("signing.pub")), "public key"),
            ];
            let record = root.join("oci/r/_blobs").join(format!("sha256-{blob}"));
            let oci = [
                (ino(&root.join("oci")), "oci"),
                (ino(&root.join("oci/r")), "r"),
                (ino(&root.join("oci/r/_blobs")), "records"),
                (ino(&root.join("oci/r/_tags")), "tags"),
                (ino(&root.join("oci/r/_tags/t")), "tag"),
                (ino(&record), "record"),
            ];
            let named = named.into_iter().chain(oci).chain(sidecars).filter_map(|(ino, name)| Some((ino?, name)));
            let names: HashMap<u64, &str> = named.collect();
            let name = |ino: u64| names.get(&ino).copied().unwrap_or("?");
            let mut whole: HashMap<u64, i64> = HashMap::new();
            let told = STEPS.take().into_iter().map(|step| match step {
                Step::Synced { ino, len } => {
                    whole.insert(ino, len);
                    format!("sync {}", name(ino))
                }
                // A cache, whose loss costs a re-check.
                Step::Renamed { folder, .. } if name(folder) == "stamps" => "rename stamp".to_owned(),
                Step::Renamed { folder, .. } if name(folder) == "history" => "keep manifest".to_owned(),
                Step::Renamed { ino, len, .. } => {
                    assert_eq!(whole.get(&ino), Some(&len), "{} was not synced whole", name(ino));
                    format!("rename {}", name(ino))
                }
            });
            told.collect()
        }
    }

    fn me() -> Actor {
        Actor::new("test", "tester")
    }

    fn request(name: &str) -> PromoteRequest {
        let filename = Some(format!("{name}.gguf").parse().expect("a file name"));
        PromoteRequest { filename, ..PromoteRequest::new(name.parse().expect("a name")) }
    }

    /// A change of the manifest, from the intent to what is remembered of it.
    const CHANGE: [&str; 8] = [
        "sync manifest",
        "sync log",
        "rename manifest",
        "sync root",
        "sync log",
        "sync generation",
        "rename generation",
        "keep manifest",
    ];

    /// Threat 6: before the manifest names a model, whatever it names would survive a power cut, names included.
    #[test]
    fn t06_blob_tree_and_evidence_are_synced_then_named_then_their_folders_synced_and_only_then_the_manifest_renamed() {
        let rig = Rig::new();
        rig.promote(request("first"));
        rig.registry.delete(&"first".parse().expect("a name"), &me()).expect("deleted");
        STEPS.take();
        let mut with_evidence = request("m");
        with_evidence.evidence.insert("scan_results".into(), "clean".into());
        rig.promote(with_evidence);
        let mut expected = vec![
            "sync blob",
            "sync tree",
            "sync sidecar",
            "sync sidecar",
            "rename blob",
            "rename tree",
            "sync blobs",
            "sync trees",
            "rename sidecar",
            "rename sidecar",
            "sync sidecars",
        ];
        expected.extend(CHANGE);
        expected.push("rename stamp");
        assert_eq!(rig.steps(), expected);
    }

    #[test]
    fn t06_every_folder_of_a_new_root_is_synced_into_the_one_above_it_before_there_is_a_manifest() {
        STEPS.take();
        let rig = Rig::new();
        let expected = [
            "sync above the root",
            "sync blobs/",
            "sync sidecars/",
            "sync run/",
            "sync root",
            "sync manifest",
            "rename manifest",
            "sync root",
            "sync generation",
            "rename generation",
            "sync root",
        ];
        assert_eq!(rig.steps(), expected);
    }

    /// From the public key's name on, everything must be signed.
    #[test]
    fn t06_a_root_that_begins_to_sign_has_synced_what_it_signed_before_it_must() {
        let rig = Rig::new();
        rig.promote(request("m"));
        STEPS.take();
        rig.registry.begin_signing(&me()).expect("it signs");
        let steps = rig.steps();
        let key = ["sync private key", "rename private key", "sync root"];
        let must = ["sync root", "sync public key", "rename public key", "sync root"];
        assert_eq!(steps, [&key[..], &CHANGE[..], &must[..]].concat());
    }

    #[test]
    fn t06_the_first_change_of_a_root_syncs_the_name_of_its_log() {
        let rig = Rig::new();
        STEPS.take();
        rig.promote(request("m"));
        let steps = rig.steps();
        let log = steps.iter().position(|s| s == "sync log").expect("an intent");
        assert_eq!(steps[log..log + 3], ["sync log", "sync root", "rename manifest"]);
    }

    #[test]
    fn t06_what_is_stored_already_is_not_synced_again_and_what_replaces_it_is() {
        let rig = Rig::new();
        rig.promote(request("m"));
        STEPS.take();
        assert_eq!(rig.promote(request("n")).method, Method::Shared);
        let steps = rig.steps();
        // The copy was made before it was known that it is not needed.
        assert_eq!(steps[..5], ["sync ?", "sync ?", "sync sidecar", "rename sidecar", "sync sidecars"]);
        assert_eq!(steps[5..], CHANGE);

        let moved = rig.promote(PromoteRequest { transfer: Transfer::Move, ..request("n") });
        assert_eq!((moved.outcome, moved.method), (Outcome::AlreadyThere, Method::Adopted));
        let steps = rig.steps();
        // What inspection found stands there already: that temporary file goes again.
        // Of an adopted file first the bytes, and its mode when it is known that nobody writes it.
        let synced = ["sync blob", "sync tree", "sync ?", "sync blob"];
        assert_eq!(steps[..4], synced, "an adopted file as well");
        assert_eq!(steps[4..8], ["rename blob", "rename tree", "sync blobs", "sync trees"]);
        assert!(steps[8..].iter().all(|step| step == "rename stamp"), "{steps:?}");
    }

    #[test]
    fn t06_an_adopted_file_that_keeps_a_link_is_replaced_by_a_copy_that_is_synced() {
        let rig = Rig::new();
        rig.promote(request("m"));
        let blob = rig.registry.root().join("blobs/sha256").join(Sha256Digest::of(BYTES).to_hex());
        std::fs::hard_link(&blob, rig.dir.path().join("second")).expect("linked");
        STEPS.take();
        rig.registry.recheck_stale(&Task::unattended()).expect("checked");
        let steps = rig.steps();
        assert_eq!(steps[..3], ["sync blob", "rename blob", "sync blobs"]);
        assert!(steps[3..].iter().all(|step| step == "rename stamp"), "{steps:?}");
    }

    /// A push is acknowledged when blob, tree and record, their names, and the folders above them would survive a power cut.
    #[test]
    fn t06_a_pushed_blob_its_tree_and_its_record_are_synced_then_named_then_their_folders_synced() {
        let rig = Rig::new();
        let (content, repo) = (rig.registry.content(), "r".parse().expect("a repository"));
        let digest = Sha256Digest::of(BYTES).into();
        let push = || {
            let mut upload = content.begin(&repo).expect("begun");
            upload.append(BYTES).expect("written");
            upload.finish(&digest).expect("finished");
        };
        let (made, files) = (["sync oci", "sync r"], ["sync blob", "sync record", "sync tree"]);
        let named = ["rename blob", "rename tree", "rename record"];
        let folders = ["sync records", "sync blobs", "sync trees", "rename stamp"];
        STEPS.take();
        push();
        let first = [&made[..], &made[..], &files[..], &named[..], &folders[..]].concat();
        assert_eq!(rig.steps(), first);

        push();
        assert_eq!(
            rig.steps(),
            ["sync record", "rename record", "sync records", "sync blobs", "sync trees"],
            "the bytes are stored already, by whom may not have come to the syncs of their folders"
        );

        assert!(content.remove_blob(&repo, &digest).expect("removed"));
        assert_eq!(rig.steps(), ["sync records"]);
        push();
        assert_eq!(rig.steps(), [&files[..], &named[..], &folders[..]].concat());

        content.put(&repo, &crate::Kind::Tag, "t", b"1", crate::Put::Any).expect("put");
        assert_eq!(rig.steps(), [&made[..], &["sync tag", "rename tag", "sync tags"][..]].concat());
        assert!(content.mount(&repo, &"s".parse().expect("a repository"), &digest).expect("mounted"));
        let mounted = rig.steps();
        assert_eq!(mounted[..2], ["sync oci", "sync ?"], "its folders");
        assert_eq!(mounted[2..], ["sync ?", "rename ?", "sync ?"], "its record");
    }
}
