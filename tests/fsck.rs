//! Looking over a root: every problem is found, named and explained, what is well is not, and nothing is changed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use securereg::*;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use support::*;

const G: usize = GROUP as usize;

fn fsck(root: &Root) -> FsckReport {
    Registry::fsck(root.path(), FsckDepth::Quick, &Task::unattended()).unwrap()
}

fn deep(root: &Root) -> FsckReport {
    Registry::fsck(root.path(), FsckDepth::Deep, &Task::unattended()).unwrap()
}

fn repo(s: &str) -> RepositoryName {
    s.parse().unwrap()
}

fn push(content: &Content, to: &str, bytes: &[u8]) -> ContentDigest {
    let digest = Sha256Digest::of(bytes).into();
    let mut upload = content.begin(&repo(to)).unwrap();
    upload.append(bytes).unwrap();
    upload.finish(&digest).unwrap();
    digest
}

const PUSHED: &[u8] = b"pushed, and in no model";

/// A root with two models and a repository with a tagged manifest.
fn root() -> Root {
    let root = Root::new();
    root.promote("m", &gguf(3 * G, 1));
    root.promote("n", &gguf(300, 2));
    let content = root.registry.content();
    push(&content, "org/r", PUSHED);
    let manifest = format!("{{\"layers\":[\"sha256:{}\"]}}", Sha256Digest::of(PUSHED));
    let digest = Sha256Digest::of(manifest.as_bytes());
    let put = |kind: Kind<'_>, name: &str, bytes: &[u8]| {
        assert!(content.put(&repo("org/r"), &kind, name, bytes, Put::Any).unwrap());
    };
    put(Kind::Manifest, &format!("sha256-{digest}"), format!("{{\"media_type\":\"x\"}}\n{manifest}").as_bytes());
    put(Kind::Tag, "v1", format!("sha256:{digest}").as_bytes());
    put(Kind::Referrer(&format!("sha256-{digest}")), &format!("sha256-{digest}"), b"{}");
    root
}

fn manifest_of(root: &Root) -> PathBuf {
    let folder = root.path().join("oci/org/r/_manifests");
    folder.join(&root.names("oci/org/r/_manifests")[0])
}

fn record(root: &Root) -> PathBuf {
    root.path().join("oci/org/r/_blobs").join(format!("sha256-{}", Sha256Digest::of(PUSHED)))
}

/// Every inode below the root, with all that a change would change.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(at) = pending.pop() {
        let m = std::fs::symlink_metadata(&at).unwrap();
        if m.is_dir() {
            pending.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(at, (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()));
    }
    all
}

#[test]
fn a_root_in_which_all_is_well_is_clean_and_what_was_looked_at_is_counted() {
    let root = root();
    let report = deep(&root);
    assert!(report.is_clean() && report.problems.is_empty(), "{report:?}");
    assert_eq!((report.models, report.blobs.files, report.trees.files), (Some(2), 3, 3));
    assert_eq!((report.sidecars.files, report.repositories, report.records), (2, 1, 1));
    let bytes = (3 * G + gguf(300, 2).len() + PUSHED.len()) as u64;
    assert!(report.blobs.bytes.abs_diff(bytes) < 100);
    assert_eq!(report.hashed, Some(Tally { files: 3, bytes: report.blobs.bytes }));
    // What the registry goes through leaves nothing to tell of.
    root.registry.quarantine(&name("n"), "why", Some("INC"), &me()).unwrap();
    root.registry.delete(&name("n"), &me()).unwrap();
    drop(root.registry.content().begin(&repo("org/r")).unwrap());
    assert!(fsck(&root).problems.is_empty());
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn aside(root: &Root, path: &Path) -> PathBuf {
    let aside = root.dir.path().join("aside");
    std::fs::rename(path, &aside).unwrap();
    aside
}

fn replace_by_link(root: &Root, path: &Path) {
    symlink(aside(root, path), path).unwrap();
}

fn sidecar(root: &Root) -> PathBuf {
    let catalog = root.registry.catalog().unwrap();
    let pinned = catalog.require(&name("m")).unwrap().inspection.unwrap();
    root.path().join("sidecars/sha256").join(pinned.to_hex())
}

fn of_nobody() -> String {
    Sha256Digest::of(b"nobody's").to_hex()
}

/// What is done to a root; the kind, urgency and path of the one problem that follows, and a word of its remedy.
type Case = (fn(&Root), &'static str, Urgency, fn(&Root) -> PathBuf, &'static str);

const DAMAGE: Urgency = Urgency::Damage;
const UNTIDY: Urgency = Urgency::Untidy;

#[rustfmt::skip]
const CASES: [Case; 43] = [
    (|r| std::fs::remove_file(r.blob("m")).unwrap(), "blob.missing", DAMAGE, |r| r.blob("m"), "repair m --from"),
    (|r| writable(&r.blob("m")).set_len(9).map(|()| chmod(&r.blob("m"), 0o444)).unwrap(), "blob.size", DAMAGE, |r| r.blob("m"), "repair m --from"),
    (|r| chmod(&r.blob("m"), 0o644), "blob.mode", DAMAGE, |r| r.blob("m"), "chmod 444 /"),
    (|r| std::fs::hard_link(r.blob("m"), r.dir.path().join("l")).unwrap(), "blob.links", DAMAGE, |r| r.blob("m"), "repair m"),
    (|r| std::os::unix::fs::chown(r.blob("m"), Some(12345), None).unwrap(), "blob.owner", DAMAGE, |r| r.blob("m"), "chown 0 /"),
    (|r| replace_by_link(r, &r.blob("m")), "blob.type", DAMAGE, |r| r.blob("m"), "repair m --from"),
    (|r| { std::fs::remove_file(r.blob("m")).unwrap(); std::fs::create_dir(r.blob("m")).unwrap() }, "blob.type", DAMAGE, |r| r.blob("m"), "move it away"),
    (|r| std::fs::remove_file(r.blob_of(PUSHED)).unwrap(), "blob.missing", DAMAGE, |r| r.blob_of(PUSHED), "to org/r again"),
    (|r| write(&r.path().join("blobs/sha256").join(of_nobody()), "x"), "blob.orphan", UNTIDY, |r| r.path().join("blobs/sha256").join(of_nobody()), "gc"),
    (|r| write(&r.path().join("blobs/sha256/notes"), "x"), "blob.strange", UNTIDY, |r| r.path().join("blobs/sha256/notes"), "remove"),
    (|r| std::fs::remove_file(r.tree("m")).unwrap(), "tree.missing", DAMAGE, |r| r.tree("m"), "repair m"),
    (|r| { flip(&r.tree("m"), 60); chmod(&r.tree("m"), 0o600) }, "tree.bad", DAMAGE, |r| r.tree("m"), "repair m"),
    (|r| { flip(&r.tree("m"), 3); chmod(&r.tree("m"), 0o600) }, "tree.bad", DAMAGE, |r| r.tree("m"), "repair m"),
    (|r| writable(&r.tree("m")).set_len(50).map(|()| chmod(&r.tree("m"), 0o600)).unwrap(), "tree.bad", DAMAGE, |r| r.tree("m"), "repair m"),
    (|r| chmod(&r.tree("m"), 0o622), "tree.rights", DAMAGE, |r| r.tree("m"), "chmod 600 /"),
    (|r| write(&r.path().join("trees").join(of_nobody()), "x"), "tree.orphan", UNTIDY, |r| r.path().join("trees").join(of_nobody()), "gc"),
    (|r| write(&r.path().join("trees/notes"), "x"), "tree.strange", UNTIDY, |r| r.path().join("trees/notes"), "remove"),
    (|r| write(&r.path().join("stamps").join(of_nobody()), "x"), "stamp.orphan", UNTIDY, |r| r.path().join("stamps").join(of_nobody()), "gc"),
    (|r| write(&r.path().join("stamps/notes"), "x"), "stamp.strange", UNTIDY, |r| r.path().join("stamps/notes"), "remove"),
    (|r| std::fs::remove_file(sidecar(r)).unwrap(), "sidecar.missing", DAMAGE, sidecar, "promote the same files as m"),
    (|r| write(&sidecar(r), "{}"), "sidecar.altered", DAMAGE, sidecar, "promote the same files as m"),
    (|r| chmod(&sidecar(r), 0o606), "sidecar.rights", DAMAGE, sidecar, "chmod 600 /"),
    (|r| write(&r.path().join("sidecars/sha256").join(of_nobody()), "x"), "sidecar.orphan", UNTIDY, |r| r.path().join("sidecars/sha256").join(of_nobody()), "gc"),
    (|r| write(&r.path().join("tmp/x"), "x"), "tmp", Urgency::Note, |r| r.path().join("tmp"), "gc"),
    (|r| write(&r.path().join("notes"), "x"), "root.strange", Urgency::Note, |r| r.path().join("notes"), "remove"),
    (|r| { write(&r.path().join("policy.yaml"), "x"); chmod(&r.path().join("policy.yaml"), 0o666) }, "root.file", DAMAGE, |r| r.path().join("policy.yaml"), "chmod 600 /"),
    (|r| chmod(&r.path().join("trees"), 0o770), "folder", DAMAGE, |r| r.path().join("trees"), "chmod 700 /"),
    (|r| std::os::unix::fs::chown(r.path().join("oci"), Some(12345), None).unwrap(), "folder", DAMAGE, |r| r.path().join("oci"), "chown 0 /"),
    (|r| write(&r.path().join("run/mounts/1.json"), "{}"), "mount.dead", UNTIDY, |r| r.path().join("run/mounts/1.json"), "gc"),
    (|r| write(&record(r), "{}"), "oci.record", DAMAGE, record, "to org/r again"),
    (|r| write(&r.path().join("oci/org/r/_blobs/x"), "{}"), "oci.strange", UNTIDY, |r| r.path().join("oci/org/r/_blobs/x"), "remove"),
    (|r| write(&r.path().join("oci/org/x"), "{}"), "oci.strange", UNTIDY, |r| r.path().join("oci/org/x"), "remove"),
    (|r| std::fs::create_dir(r.path().join("oci/_odd")).unwrap(), "oci.strange", UNTIDY, |r| r.path().join("oci/_odd"), "remove"),
    (|r| std::fs::create_dir(r.path().join("oci/Odd")).unwrap(), "oci.name", UNTIDY, |r| r.path().join("oci/Odd"), "remove"),
    (|r| symlink("/", r.path().join("oci/l")).unwrap(), "oci.link", DAMAGE, |r| r.path().join("oci/l"), "remove"),
    (|r| symlink("/etc/passwd", r.path().join("oci/org/r/_blobs").join(format!("sha256-{}", of_nobody()))).unwrap(), "oci.link", DAMAGE,
        |r| r.path().join("oci/org/r/_blobs").join(format!("sha256-{}", of_nobody())), "remove"),
    (|r| flip(&manifest_of(r), 60), "oci.manifest", DAMAGE, manifest_of, "org/r again"),
    (|r| writable(&manifest_of(r)).set_len(9 << 20).unwrap(), "oci.document", DAMAGE, manifest_of, "again"),
    (|r| write(&r.path().join("oci/org/r/_tags/v2"), format!("sha256:{}", of_nobody())), "oci.tag", DAMAGE, |r| r.path().join("oci/org/r/_tags/v2"), "org/r:v2 again"),
    (|r| write(&r.path().join("oci/org/r/_tags/v1"), "x"), "oci.tag", DAMAGE, |r| r.path().join("oci/org/r/_tags/v1"), "org/r:v1 again"),
    (|r| {
        let subject = r.path().join("oci/org/r/_referrers").join(&r.names("oci/org/r/_referrers")[0]);
        write(&subject.join("sha256-x"), "{");
    }, "oci.referrer", DAMAGE, |r| r.path().join("oci/org/r/_referrers").join(&r.names("oci/org/r/_referrers")[0]).join("sha256-x"), "again"),
    (|r| flip(&r.path().join("audit.jsonl"), 40), "audit", DAMAGE, |r| r.path().join("audit.jsonl"), "recover"),
    (|r| {
        let log = std::fs::read_to_string(r.path().join("audit.jsonl")).unwrap();
        let cut = log.trim_end().rfind('\n').unwrap();
        write(&r.path().join("audit.jsonl"), &log[..=cut]);
    }, "audit", DAMAGE, |r| r.path().join("audit.jsonl"), "recover"),
];

#[test]
fn every_problem_is_found_with_its_path_and_remedy_and_nothing_is_changed() {
    for (i, (damage, kind, urgency, path, remedy)) in CASES.into_iter().enumerate() {
        let root = root();
        damage(&root);
        let before = snapshot(root.path());
        let report = fsck(&root);
        assert!(snapshot(root.path()) == before, "{i} {kind}: something was changed");
        let [problem] = &report.problems[..] else { panic!("{i} {kind}: {:#?}", report.problems) };
        assert_eq!((problem.kind, problem.urgency), (kind, urgency), "{i}: {problem:?}");
        assert_eq!(root.path().join(&problem.path), path(&root), "{i} {kind}");
        assert!(problem.remedy.contains(remedy) && !problem.what.is_empty(), "{i} {kind}: {problem:?}");
        assert_eq!(report.is_clean(), urgency == Urgency::Note, "{i} {kind}");
        let counts = [report.damage, report.untidy, report.notes];
        let expected = [Urgency::Damage, Urgency::Untidy, Urgency::Note].map(|u| u64::from(u == urgency));
        assert_eq!(counts, expected, "{i} {kind}");
    }
}

#[test]
fn what_the_remedies_name_helps() {
    // gc takes what is left over.
    for (damage, kind, urgency, _, remedy) in CASES {
        if urgency == Urgency::Untidy && remedy == "gc" {
            let root = root();
            damage(&root);
            root.registry.gc(None, &me(), &Task::unattended()).unwrap();
            assert!(fsck(&root).problems.is_empty(), "{kind}");
        }
    }
    // repair puts stored files and trees right, when a copy is at hand.
    for (damage, kind, urgency, _, remedy) in CASES {
        if urgency == Urgency::Damage && remedy.starts_with("repair m") {
            let root = root();
            damage(&root);
            let copy = root.source("copy.gguf", &gguf(3 * G, 1));
            let sources = [Source::open(&copy).unwrap()];
            root.registry.repair(&name("m"), &sources, &me(), &Task::unattended()).unwrap();
            assert!(fsck(&root).problems.is_empty(), "{kind}: {:?}", fsck(&root).problems);
        }
    }
}

#[test]
fn a_manifest_that_cannot_be_served_is_told_and_nothing_is_called_left_over() {
    let root = root();
    let manifest = root.path().join("manifest.yaml");
    let good = std::fs::read(&manifest).unwrap();
    let older = good.clone();
    root.promote("o", &gguf(200, 3));
    type Damage = fn(&Path, &[u8]);
    let damages: [(&str, Damage); 4] = [
        ("torn", |path, good| std::fs::write(path, &good[..good.len() / 2]).unwrap()),
        ("edited", |path, good| std::fs::write(path, [good, b"# more\n"].concat()).unwrap()),
        ("missing", |path, _| std::fs::remove_file(path).unwrap()),
        ("older", |path, good| std::fs::write(path, good).unwrap()),
    ];
    for (what, damage) in damages {
        damage(&manifest, &older);
        let report = fsck(&root);
        assert_eq!(report.models, None, "{what}");
        let kinds: Vec<&str> = report.problems.iter().map(|p| p.kind).collect();
        assert_eq!(kinds, ["manifest"], "{what}: {report:?}");
        assert!(report.problems[0].remedy.contains("recover"), "{what}");
        assert_eq!((report.blobs.files, report.records), (4, 1), "{what}: the rest was looked at all the same");
    }
    std::fs::write(root.path().join("generation"), "many\n").unwrap();
    let report = fsck(&root);
    assert!(report.problems.iter().any(|p| p.kind == "generation"), "{report:?}");
}

#[test]
fn a_root_that_cannot_be_opened_is_explained() {
    let root = root();
    let told = |root: &Root| {
        let report = fsck(root);
        assert!(!report.is_clean());
        report.problems.into_iter().map(|p| (p.kind, p.path, p.remedy)).collect::<Vec<_>>()
    };
    chmod(root.path(), 0o755);
    let problems = told(&root);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].0 == "root", "{problems:?}");
    chmod(root.path(), 0o700);
    let stamps = aside(&root, &root.path().join("stamps"));
    assert!(
        told(&root)
            .iter()
            .any(|(kind, path, remedy)| { *kind == "folder" && path == "stamps" && remedy.contains("securereg up") })
    );
    symlink(&stamps, root.path().join("stamps")).unwrap();
    assert!(told(&root).iter().any(|(kind, path, _)| *kind == "folder" && path == "stamps"));
    assert_eq!(
        Registry::fsck(&root.dir.path().join("none"), FsckDepth::Quick, &Task::unattended()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn t12_only_a_deep_look_sees_a_flipped_byte_also_of_what_only_a_repository_holds() {
    let root = root();
    for (path, helps) in [(root.blob("m"), "repair m --from"), (root.blob_of(PUSHED), "to org/r again")] {
        flip(&path, 5);
        chmod(&path, 0o444);
        assert!(fsck(&root).is_clean());
        let before = snapshot(root.path());
        let report = deep(&root);
        assert!(snapshot(root.path()) == before, "it changes nothing");
        let [problem] = &report.problems[..] else { panic!("{:?}", report.problems) };
        assert_eq!((problem.kind, root.path().join(&problem.path)), ("blob.bytes", path.clone()));
        assert!(problem.remedy.contains(helps), "{problem:?}");
        flip(&path, 5);
        chmod(&path, 0o444);
        assert!(deep(&root).is_clean());
    }
    assert_eq!(root.status("m"), "promoted", "who only looks quarantines nothing");
    // Told once.
    std::fs::remove_file(root.blob("m")).unwrap();
    assert_eq!(deep(&root).problems.len(), 1);
}

#[test]
fn records_of_one_blob_must_agree_and_those_of_a_sha512_stand_in_pairs() {
    use sha2::Digest as _;
    let root = root();
    let content = root.registry.content();
    push(&content, "s", PUSHED);
    assert!(fsck(&root).problems.is_empty());
    let good = std::fs::read_to_string(record(&root)).unwrap();
    std::fs::write(record(&root), good.replace("\"size_bytes\":23", "\"size_bytes\":24")).unwrap();
    let report = fsck(&root);
    assert!(report.problems.iter().any(|p| p.kind == "oci.record"), "{report:?}");
    std::fs::write(record(&root), good).unwrap();

    let hex: String = sha2::Sha512::digest(b"long").iter().map(|b| format!("{b:02x}")).collect();
    let mut upload = content.begin(&repo("t")).unwrap();
    upload.append(b"long").unwrap();
    upload.finish(&format!("sha512:{hex}").parse().unwrap()).unwrap();
    assert!(fsck(&root).problems.is_empty());
    let folder = root.path().join("oci/t/_blobs");
    let second = folder.join(format!("sha256-{}.sha512", Sha256Digest::of(b"long")));
    let gone = aside(&root, &second);
    let problems = fsck(&root).problems;
    assert!(problems.len() == 1 && problems[0].kind == "oci.record" && problems[0].urgency == Urgency::Damage);
    std::fs::rename(gone, &second).unwrap();
    std::fs::remove_file(folder.join(format!("sha512-{hex}"))).unwrap();
    let problems = fsck(&root).problems;
    assert!(problems.len() == 1 && problems[0].urgency == Urgency::Untidy, "{problems:?}");
}

#[test]
fn an_upload_that_nobody_goes_on_with_is_told_after_a_week_of_the_machine() {
    let root = root();
    let content = root.registry.content();
    let upload = content.begin(&repo("org/r")).unwrap();
    let id = upload.id().to_owned();
    upload.suspend().unwrap();
    content.expire_uploads(std::time::Duration::from_secs(3600)).unwrap();
    assert!(fsck(&root).problems.is_empty());
    let path = root.path().join("run/idle-uploads.json");
    let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    kept["idle"][format!("org/r/{id}")][1] = (8 * 24 * 3600).into();
    std::fs::write(&path, kept.to_string()).unwrap();
    let problems = fsck(&root).problems;
    assert!(problems.len() == 1 && problems[0].kind == "oci.upload", "{problems:?}");
}

#[test]
fn lists_are_bounded_however_much_is_wrong() {
    let root = root();
    for i in 0..10_050 {
        std::fs::write(root.path().join("stamps").join(format!("strange{i}")), b"").unwrap();
    }
    std::fs::write(root.path().join("trees/strange"), b"").unwrap();
    std::fs::remove_file(root.blob("m")).unwrap();
    let report = fsck(&root);
    assert_eq!((report.damage, report.untidy, report.notes), (1, 10_051, 0));
    assert_eq!((report.problems.len(), report.more), (10_000, 52));
    assert_eq!(report.problems[0].kind, "blob.missing", "the worst first, whenever it was found");
}

/// What comes and goes while others work is no problem.
#[test]
fn a_registry_at_work_is_clean() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let root = root();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (registry, content, stop) = (root.again(), root.again().content(), &done);
        let path = root.source("w.gguf", &gguf(2 * G, 9));
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let source = Source::open(&path).unwrap();
                registry.promote(PromoteRequest::new(name("w")), source, &me(), &Task::unattended()).unwrap();
                registry.delete(&name("w"), &me()).unwrap();
            }
        });
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let digest = push(&content, "busy", b"coming and going");
                content.remove_blob(&repo("busy"), &digest).unwrap();
            }
        });
        let _stop = Stop(&done);
        for _ in 0..20 {
            let report = fsck(&root);
            assert!(report.is_clean(), "{:?}", report.problems);
        }
    });
}
