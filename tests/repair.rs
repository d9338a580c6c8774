//! Healing damaged models from second sources: every kind of damage, hostile sources, and what a stop in between leaves.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use proptest::prelude::*;
use securereg::*;
use std::fs::Permissions;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use support::*;

const G: usize = GROUP as usize;
const S: usize = SPAN as usize;

fn repair(root: &Root, model: &str, from: &[&Path]) -> RepairReport {
    let sources: Vec<Source> = from.iter().map(|path| Source::open(path).unwrap()).collect();
    root.registry.repair(&name(model), &sources, &me(), &Task::unattended()).unwrap()
}

/// A model, and a copy of its bytes elsewhere.
fn model(bytes: &[u8]) -> (Root, PathBuf) {
    let root = Root::new();
    root.promote("m", bytes);
    let copy = root.source("copy/backup.gguf", bytes);
    (root, copy)
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

/// The stored file is what it must be in every respect, and a process that knows nothing opens it at once.
fn whole(root: &Root, bytes: &[u8]) {
    assert_eq!(root.status("m"), "promoted");
    assert!(root.read("m").unwrap() == bytes);
    let meta = std::fs::symlink_metadata(root.blob("m")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.nlink(), meta.is_file()), (0o444, 1, true));
    let sha256 = Sha256Digest::of(bytes);
    assert!(root.again().opens_at_once(&sha256), "the stamps are those of a good file");
    assert_eq!(root.verify("m").status, VerifyStatus::Verified);
    assert!(root.names("tmp").is_empty());
}

#[test]
fn t12_only_the_bad_groups_are_rewritten_and_in_place() {
    let bytes = gguf(S + 3 * G + 100, 1);
    let (root, copy) = model(&bytes);
    let before = inode(&root.blob("m"));
    // The first byte, across an edge, the last byte, one in the second span.
    for at in [0, G as u64 - 1, G as u64, (S + G) as u64, bytes.len() as u64 - 1] {
        flip(&root.blob("m"), at);
    }
    assert_eq!(root.verify("m").status, VerifyStatus::Failed);
    let report = repair(&root, "m", &[&copy]);
    assert_eq!(report.status, RepairStatus::Healed);
    assert_eq!((report.groups_bad, report.groups_rewritten), (4, 4));
    let last = bytes.len() - (bytes.len() - 1) / G * G;
    assert_eq!(report.bytes_rewritten, (3 * G + last) as u64);
    assert_eq!((report.files_checked, report.files.len(), report.files[0].in_place), (1, 1, true));
    assert!(report.verify.unwrap().restored);
    assert_eq!(inode(&root.blob("m")), before);
    whole(&root, &bytes);
    assert!(root.has_event("repair", "noted", "m") && root.has_event("restore", "applied", "m"));
}

#[test]
fn what_is_whole_is_not_touched() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    let stamp = |path: &Path| path.metadata().map(|m| (m.ino(), m.mtime_nsec(), m.ctime_nsec())).unwrap();
    let before = stamp(&root.blob("m"));
    let report = repair(&root, "m", &[&copy]);
    assert_eq!((report.status, report.groups_bad, report.files.len()), (RepairStatus::Whole, 0, 0));
    assert_eq!(stamp(&root.blob("m")), before);
    assert!(!root.has_event("repair", "noted", "m"));
    whole(&root, &bytes);
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
}

type Damage = fn(&Root);

/// Each damage of blob or tree, and whether the file is written in place.
const DAMAGES: [(&str, Damage, bool); 14] = [
    ("a byte", |r| flip(&r.blob("m"), 70_000), true),
    ("truncated", |r| writable(&r.blob("m")).set_len(G as u64 + 5).unwrap(), true),
    ("empty", |r| writable(&r.blob("m")).set_len(0).unwrap(), true),
    ("too long", |r| writable(&r.blob("m")).write_all_at(b"more", gguf(3 * G + 9, 1).len() as u64).unwrap(), true),
    ("missing", |r| std::fs::remove_file(r.blob("m")).unwrap(), false),
    (
        "a link",
        |r| {
            std::fs::rename(r.blob("m"), r.dir.path().join("aside")).unwrap();
            std::os::unix::fs::symlink(r.dir.path().join("aside"), r.blob("m")).unwrap();
        },
        false,
    ),
    (
        "a FIFO",
        |r| {
            std::fs::remove_file(r.blob("m")).unwrap();
            fifo(&r.blob("m"));
        },
        false,
    ),
    (
        "replaced",
        |r| {
            std::fs::remove_file(r.blob("m")).unwrap();
            std::fs::write(r.blob("m"), gguf(3 * G + 9, 2)).unwrap();
        },
        true,
    ),
    ("a tree's byte", |r| flip(&r.tree("m"), 60), true),
    ("a tree's header", |r| flip(&r.tree("m"), 3), true),
    ("no tree", |r| std::fs::remove_file(r.tree("m")).unwrap(), true),
    (
        "a tree that is a link",
        |r| {
            std::fs::rename(r.tree("m"), r.dir.path().join("aside")).unwrap();
            std::os::unix::fs::symlink(r.dir.path().join("aside"), r.tree("m")).unwrap();
        },
        true,
    ),
    (
        "both",
        |r| {
            flip(&r.blob("m"), 5);
            flip(&r.tree("m"), 60);
        },
        true,
    ),
    (
        "everything",
        |r| {
            std::fs::remove_file(r.blob("m")).unwrap();
            std::fs::remove_file(r.tree("m")).unwrap();
        },
        false,
    ),
];

#[test]
fn t12_t13_every_damage_is_healed_from_a_whole_copy() {
    let bytes = gguf(3 * G + 9, 1);
    for (what, damage, in_place) in DAMAGES {
        let (root, copy) = model(&bytes);
        damage(&root);
        assert_eq!(root.verify("m").status, VerifyStatus::Failed, "{what}");
        let report = repair(&root, "m", &[&copy]);
        assert_eq!(report.status, RepairStatus::Healed, "{what}: {report:?}");
        assert_eq!(report.files[0].in_place, in_place, "{what}");
        assert!(report.verify.unwrap().restored, "{what}");
        whole(&root, &bytes);
    }
}

#[test]
fn damage_that_nobody_has_noticed_is_on_the_record_before_it_is_healed() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    flip(&root.blob("m"), 70_000);
    assert_eq!(repair(&root, "m", &[&copy]).status, RepairStatus::Healed);
    let events: Vec<String> = root.events().into_iter().filter(|e| e.1 != "intent").map(|e| e.0).collect();
    assert_eq!(events[1..], ["verify_failed", "quarantine", "repair", "restore"]);
    whole(&root, &bytes);
}

#[test]
fn t13_a_tree_is_rebuilt_from_the_stored_file_alone_when_that_is_whole() {
    let bytes = gguf(S + 2 * G, 1);
    for damage in [|r: &Root| flip(&r.tree("m"), 3), |r: &Root| std::fs::remove_file(r.tree("m")).unwrap()] {
        let (root, _) = model(&bytes);
        damage(&root);
        let report = repair(&root, "m", &[]);
        assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Healed, 0));
        assert!(report.files[0].tree_rebuilt);
        whole(&root, &bytes);
    }
}

#[test]
fn t13_a_tree_that_is_lost_is_not_rebuilt_from_bytes_that_are_not_whole() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    std::fs::remove_file(root.tree("m")).unwrap();
    // Each damaged in another group: with the tree it would be enough.
    flip(&root.blob("m"), 5);
    flip(&copy, 2 * G as u64);
    let report = repair(&root, "m", &[&copy]);
    assert_eq!(report.status, RepairStatus::Refused);
    assert!(report.gaps[0].why.contains("hash tree"), "{report:?}");
    assert!(!root.tree("m").exists());
    assert_eq!(root.status("m"), "quarantined");
}

#[test]
fn t13_a_damaged_page_is_rebuilt_from_whichever_span_is_whole() {
    let bytes = gguf(2 * S + G, 1);
    let (root, copy) = model(&bytes);
    let spans = 3 * 32;
    // The first page; the stored file is damaged in its span, the copy in another one; and the second page the other way round.
    flip(&root.tree("m"), 48 + spans);
    flip(&root.tree("m"), 48 + spans + 32 * 256);
    flip(&root.blob("m"), 5);
    flip(&copy, S as u64 + 5);
    let report = repair(&root, "m", &[&copy]);
    assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Healed, 1), "{report:?}");
    whole(&root, &bytes);
}

#[test]
fn a_copy_that_is_damaged_elsewhere_heals_all_and_one_that_is_damaged_there_changes_nothing() {
    let bytes = gguf(5 * G, 1);
    let (root, copy) = model(&bytes);
    for group in [1, 3] {
        flip(&root.blob("m"), group * G as u64);
    }
    for group in [0, 3, 4] {
        flip(&copy, group * G as u64 + 7);
    }
    let damaged = std::fs::read(root.blob("m")).unwrap();
    let report = repair(&root, "m", &[&copy]);
    assert_eq!((report.status, report.groups_bad, report.groups_rewritten), (RepairStatus::Refused, 2, 0));
    assert_eq!(report.gaps.len(), 1);
    let gap = &report.gaps[0];
    assert_eq!((gap.path.as_str(), gap.offset, gap.bytes), ("m.gguf", 3 * GROUP, GROUP));
    assert!(gap.why.contains("not what was promoted"), "{gap:?}");
    assert!(report.verify.is_none());
    assert!(std::fs::read(root.blob("m")).unwrap() == damaged, "nothing was written");
    assert_eq!(root.status("m"), "quarantined");
    assert!(root.has_event("repair", "noted", "m"));

    // A second copy has that group.
    let other = root.source("other/m.gguf", &bytes);
    flip(&other, G as u64);
    let report = repair(&root, "m", &[&copy, &other]);
    assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Healed, 2));
    whole(&root, &bytes);
}

#[test]
fn an_incident_is_not_lifted_by_a_repair() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    root.registry.quarantine(&name("m"), "backdoor", Some("INC-1"), &me()).unwrap();
    flip(&root.blob("m"), 5);
    let report = repair(&root, "m", &[&copy]);
    assert_eq!(report.status, RepairStatus::Healed);
    let verified = report.verify.unwrap();
    assert_eq!((verified.status, verified.restored), (VerifyStatus::Verified, false));
    let catalog = root.registry.catalog().unwrap();
    let quarantine = catalog.require(&name("m")).unwrap().quarantine.as_ref().unwrap();
    assert_eq!((quarantine.cause, quarantine.incident_id.as_deref()), (Cause::Incident, Some("INC-1")));
}

#[test]
fn a_file_with_a_second_link_is_replaced_and_the_link_left_as_it_is() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    let link = root.dir.path().join("link");
    std::fs::hard_link(root.blob("m"), &link).unwrap();
    flip(&root.blob("m"), 70_000);
    let damaged = std::fs::read(&link).unwrap();
    let report = repair(&root, "m", &[&copy]);
    assert_eq!((report.status, report.files[0].in_place, report.groups_rewritten), (RepairStatus::Healed, false, 1));
    assert!(std::fs::read(&link).unwrap() == damaged, "a file outside the registry is nobody's to write");
    whole(&root, &bytes);
}

#[test]
fn t03_whoever_has_the_damaged_file_open_for_writing_does_not_reach_the_healed_one() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    let writer = writable(&root.blob("m"));
    writer.write_all_at(b"x", 70_000).unwrap();
    let report = repair(&root, "m", &[&copy]);
    assert_eq!((report.status, report.files[0].in_place, report.groups_rewritten), (RepairStatus::Healed, false, 1));
    writer.write_all_at(b"x", 5).unwrap();
    whole(&root, &bytes);
}

#[test]
fn modes_and_second_links_are_put_right_without_a_copy() {
    let bytes = gguf(3 * G, 1);
    let (root, _) = model(&bytes);
    std::fs::set_permissions(root.blob("m"), Permissions::from_mode(0o666)).unwrap();
    assert_eq!(repair(&root, "m", &[]).status, RepairStatus::Healed);
    whole(&root, &bytes);
    std::fs::hard_link(root.blob("m"), root.dir.path().join("link")).unwrap();
    assert_eq!(repair(&root, "m", &[]).status, RepairStatus::Healed);
    whole(&root, &bytes);
    flip(&root.blob("m"), 5);
    let report = repair(&root, "m", &[]);
    assert_eq!(report.status, RepairStatus::Refused);
    assert!(report.gaps[0].why.contains("--from"), "{report:?}");
}

#[test]
fn the_files_of_a_folder_are_matched_by_their_paths() {
    let root = Root::new();
    let files = [("a.gguf", gguf(2 * G, 1)), ("sub/b.gguf", gguf(2 * G, 2)), ("LICENSE", b"words".to_vec())];
    for (path, bytes) in &files {
        root.source(&format!("hf/{path}"), bytes);
        root.source(&format!("copy/{path}"), bytes);
    }
    let folder = |name: &str| root.dir.path().join("source").join(name);
    root.promote_path("m", &folder("hf")).unwrap();
    for (_, bytes) in &files {
        flip(&root.blob_of(bytes), 2);
    }
    assert_eq!(root.verify("m").status, VerifyStatus::Failed);
    // A folder that lacks one of them heals none of them.
    std::fs::rename(folder("copy/LICENSE"), folder("LICENSE")).unwrap();
    let report = repair(&root, "m", &[&folder("copy")]);
    assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Refused, 0));
    assert_eq!(report.gaps.iter().map(|g| g.path.as_str()).collect::<Vec<_>>(), ["LICENSE"]);
    assert_eq!(root.verify("m").status, VerifyStatus::Failed);
    let report = repair(&root, "m", &[&folder("copy"), &folder("LICENSE")]);
    assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Healed, 3));
    assert_eq!((root.status("m"), root.verify("m").status), ("promoted", VerifyStatus::Verified));
}

#[test]
fn models_that_hold_the_same_bytes_are_named() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    root.promote_path("n", &copy).unwrap();
    flip(&root.blob("m"), 5);
    assert_eq!(root.verify("m").status, VerifyStatus::Failed);
    let report = repair(&root, "m", &[&copy]);
    // The failed verification of one quarantines it; the repair has told the other.
    assert_eq!((report.status, report.others), (RepairStatus::Healed, vec![name("n")]));
    assert_eq!(root.verify("n").status, VerifyStatus::Verified);
    assert_eq!(root.status("n"), "promoted");
}

#[test]
fn hostile_sources_are_refused_or_of_no_use_and_never_block() {
    let bytes = gguf(3 * G, 1);
    let (root, _) = model(&bytes);
    flip(&root.blob("m"), 70_000);
    let at = |name: &str| root.dir.path().join("source").join(name);
    fifo(&at("fifo"));
    std::os::unix::fs::symlink(at("copy/backup.gguf"), at("link")).unwrap();
    assert_eq!(Source::open(&at("fifo")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(Source::open(&at("link")).unwrap_err().kind(), ErrorKind::InvalidInput);
    // 16 TiB of nothing; too short; of other bytes.
    let huge = at("huge.gguf");
    std::fs::File::create(&huge).unwrap().set_len(8 << 40).unwrap();
    let short = root.source("short.gguf", &bytes[..G]);
    let other = root.source("other.gguf", &gguf(3 * G, 2));
    for source in [&huge, &short, &other] {
        let report = repair(&root, "m", &[source]);
        assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Refused, 0), "{source:?}");
    }
    assert_eq!(root.status("m"), "quarantined");
    // One that grows, but has the bytes: each group is judged by itself.
    let grown = root.source("grown.gguf", &[&bytes[..], b"more"].concat());
    assert_eq!(repair(&root, "m", &[&grown]).status, RepairStatus::Healed);
    whole(&root, &bytes);
}

#[test]
fn a_source_that_turns_bad_between_the_look_and_the_write_is_not_written() {
    let bytes = gguf(40 * G, 1);
    let (root, copy) = model(&bytes);
    for group in 0..40 {
        flip(&root.blob("m"), group * G as u64);
    }
    let source = Source::open(&copy).unwrap();
    let (mut once, path) = (false, copy.clone());
    let task = Task::unattended().with_progress(move |p| {
        if p.phase == Phase::Copy && !std::mem::replace(&mut once, true) {
            (20..40).for_each(|group| flip(&path, group * G as u64));
        }
    });
    let e = root.registry.repair(&name("m"), &[source], &me(), &task).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::SourceChanged, "{e}");
    let stored = std::fs::read(root.blob("m")).unwrap();
    for (i, (now, good)) in stored.chunks(G).zip(bytes.chunks(G)).enumerate() {
        assert_eq!(now == good, i < 20, "group {i}: good ones were written, and no other");
    }
    assert_eq!((root.status("m"), root.blob("m").metadata().unwrap().mode() & 0o777), ("quarantined", 0o444));
    std::fs::write(&copy, &bytes).unwrap();
    assert_eq!(repair(&root, "m", &[&copy]).groups_rewritten, 20, "what was healed stays healed");
    whole(&root, &bytes);
}

#[test]
fn a_cancelled_repair_leaves_no_garbage_and_the_next_one_goes_on() {
    let bytes = gguf(40 * G, 1);
    for lost in [false, true] {
        let (root, copy) = model(&bytes);
        if lost {
            std::fs::remove_file(root.blob("m")).unwrap();
        } else {
            (0..40).for_each(|group| flip(&root.blob("m"), group * G as u64));
        }
        let (stop, source) = (std::sync::atomic::AtomicBool::new(false), Source::open(&copy).unwrap());
        let task = Task::unattended().cancelled_by(&stop).with_progress(|p| {
            if p.phase == Phase::Copy && p.done > 10 * GROUP {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let e = root.registry.repair(&name("m"), &[source], &me(), &task).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Cancelled);
        assert!(root.names("tmp").is_empty());
        assert_eq!((root.status("m"), root.blob("m").exists()), ("quarantined", !lost));
        assert_eq!(repair(&root, "m", &[&copy]).status, RepairStatus::Healed);
        whole(&root, &bytes);
    }
}

#[test]
fn a_model_that_is_deleted_meanwhile_is_not_brought_back() {
    let bytes = gguf(3 * G, 1);
    let (root, copy) = model(&bytes);
    let blob = root.blob("m");
    std::fs::remove_file(&blob).unwrap();
    let (other, source) = (root.again(), Source::open(&copy).unwrap());
    let mut once = false;
    let task = Task::unattended().with_progress(move |p| {
        if p.phase == Phase::Copy && !std::mem::replace(&mut once, true) {
            other.delete(&name("m"), &me()).unwrap();
        }
    });
    let e = root.registry.repair(&name("m"), &[source], &me(), &task).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
    assert!(!blob.exists() && root.names("tmp").is_empty() && root.names("trees").is_empty());
}

#[test]
fn a_registry_that_is_open_to_read_only_repairs_nothing() {
    let (root, copy) = model(&gguf(3 * G, 1));
    flip(&root.blob("m"), 5);
    let reader = Registry::open_read_only(root.path()).unwrap();
    let e = reader.repair(&name("m"), &[Source::open(&copy).unwrap()], &me(), &Task::unattended()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Permission);
}

/// Threat 12: handles that were open all the while get the right bytes or an error, and the model is served in the end.
#[test]
fn t12_readers_during_a_repair_get_the_right_bytes_or_an_error() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let bytes = gguf(20 * G, 1);
    let (root, copy) = model(&bytes);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        for i in 0..3 {
            let (file, bytes, done) = (root.open("m").unwrap(), &bytes, &done);
            scope.spawn(move || {
                let mut out = vec![0; 2 * G];
                let mut at = i * 3 * G;
                while !done.load(Ordering::Relaxed) {
                    at = (at + 2 * G + 17) % (bytes.len() - out.len());
                    match file.read_at(&mut out, at as u64) {
                        Ok(n) => assert!(out[..n] == bytes[at..at + n], "wrong bytes at {at}"),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}"),
                    }
                }
            });
        }
        for round in 0..30 {
            for group in 0..5 {
                flip(&root.blob("m"), ((round + 4 * group) % 20 * G + 3) as u64);
            }
            let report = repair(&root, "m", &[&copy]);
            assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Healed, 5), "round {round}");
            assert_eq!(report.verify.unwrap().status, VerifyStatus::Verified);
        }
    });
    assert_eq!(root.status("m"), "promoted", "nobody who read before accuses what is good now");
    whole(&root, &bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any groups may be bad on either side: what both have bad is refused and changes nothing, anything else is healed whole.
    #[test]
    fn random_damage_is_healed_whole_or_refused_whole(
        len in prop_oneof![Just(100), Just(G - 40), G..6 * G, S - G..S + 2 * G],
        stored in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        second in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        lose_tree in prop::bool::weighted(0.2),
    ) {
        let bytes = gguf(len, 3);
        let (root, copy) = model(&bytes);
        let size = bytes.len();
        let hit = |path: &Path, at: &[prop::sample::Index]| -> Vec<usize> {
            let places: std::collections::BTreeSet<usize> = at.iter().map(|i| i.index(size)).collect();
            places.iter().for_each(|at| flip(path, *at as u64));
            places.iter().map(|at| at / G).collect()
        };
        let mut bad = hit(&root.blob("m"), &stored);
        let bad_second = hit(&copy, &second);
        if let Some(cut) = cut.map(|cut| cut.index(size)) {
            writable(&root.blob("m")).set_len(cut as u64).unwrap();
            bad.extend(cut / G..size.div_ceil(G));
        }
        if lose_tree {
            std::fs::remove_file(root.tree("m")).unwrap();
        }
        bad.sort_unstable();
        bad.dedup();
        let before = std::fs::read(root.blob("m")).unwrap();
        let report = repair(&root, "m", &[&copy]);
        // Without a tree one of the two must be whole to tell good from bad.
        let blind = lose_tree && !bad.is_empty() && !bad_second.is_empty();
        if blind || bad.iter().any(|group| bad_second.contains(group)) {
            prop_assert_eq!(report.status, RepairStatus::Refused);
            prop_assert!(std::fs::read(root.blob("m")).unwrap() == before);
            prop_assert_eq!(root.status("m"), "quarantined");
        } else {
            let expected = if bad.is_empty() && !lose_tree && stored.is_empty() && cut.is_none() { report.status } else { RepairStatus::Healed };
            prop_assert_eq!(report.status, expected);
            prop_assert_eq!(report.groups_rewritten, bad.len() as u64);
            whole(&root, &bytes);
        }
    }
}
