//! Sweeping: what goes, what stays, and that nobody who is at work meanwhile loses anything.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use securereg::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::*;

const G: usize = GROUP as usize;
const HOUR: Duration = Duration::from_secs(3600);

fn gc(registry: &Registry) -> GcReport {
    registry.gc(None, &me(), &Task::unattended()).unwrap()
}

fn repo(s: &str) -> RepositoryName {
    s.parse().unwrap()
}

fn sha256(bytes: &[u8]) -> ContentDigest {
    Sha256Digest::of(bytes).into()
}

fn push(content: &Content, to: &str, bytes: &[u8]) -> Held {
    let mut upload = content.begin(&repo(to)).unwrap();
    upload.append(bytes).unwrap();
    upload.finish(&sha256(bytes)).unwrap()
}

/// Pushes a manifest that names these blobs, as the server stores it.
fn refer(content: &Content, to: &str, blobs: &[&[u8]]) -> String {
    let digests: Vec<String> = blobs.iter().map(|bytes| sha256(bytes).to_string()).collect();
    let manifest = format!("{{\"layers\":{digests:?}}}");
    let name = format!("sha256-{}", Sha256Digest::of(manifest.as_bytes()));
    let document = format!("{{\"media_type\":\"x\"}}\n{manifest}");
    assert!(content.put(&repo(to), &Kind::Manifest, &name, document.as_bytes(), Put::Any).unwrap());
    name
}

fn stored(root: &Root, bytes: &[u8]) -> [bool; 3] {
    let name = Sha256Digest::of(bytes).to_hex();
    ["blobs/sha256", "trees", "stamps"].map(|folder| root.path().join(folder).join(&name).exists())
}

/// Copies a promoted model's blob, tree and stamp under the name of bytes that nobody holds.
fn orphan(root: &Root, bytes: &[u8]) {
    let name = Sha256Digest::of(bytes).to_hex();
    for folder in ["blobs/sha256", "trees", "stamps"] {
        std::fs::write(root.path().join(folder).join(&name), bytes).unwrap();
    }
}

#[test]
fn what_nothing_refers_to_goes_and_what_is_held_stays() {
    let root = Root::new();
    let content = root.registry.content();
    let held = [gguf(2 * G, 1), gguf(2 * G, 2), gguf(2 * G, 3), gguf(2 * G, 4)];
    root.promote("promoted", &held[0]);
    root.promote("integrity", &held[1]);
    root.promote("incident", &held[2]);
    push(&content, "r", &held[3]);
    flip(&root.blob("integrity"), 5);
    assert_eq!(root.verify("integrity").status, VerifyStatus::Failed);
    root.registry.quarantine(&name("incident"), "why", Some("INC"), &me()).unwrap();
    let sidecars = root.names("sidecars/sha256");
    orphan(&root, b"nobody's");
    let loose = root.path().join("sidecars/sha256").join(Sha256Digest::of(b"loose").to_hex());
    std::fs::write(&loose, b"loose").unwrap();
    std::fs::write(root.path().join("tmp/left"), b"a copy that broke off").unwrap();
    std::fs::write(root.path().join("run/mounts/dead.json"), b"{}").unwrap();
    std::fs::write(root.path().join("blobs/sha256/notes.txt"), b"none of ours").unwrap();
    std::fs::write(root.path().join("quarantine/staged.gguf"), b"an operator's").unwrap();

    let preview = root.registry.gc_preview(None, &Task::unattended()).unwrap();
    assert_eq!(stored(&root, b"nobody's"), [true; 3], "a preview removes nothing");
    let report = gc(&root.registry);
    let one = |bytes| Tally { files: 1, bytes };
    assert_eq!((report.blobs, report.trees, report.stamps), (one(8), one(8), one(8)));
    assert_eq!((report.sidecars, report.temporary, report.mounts), (one(5), one(21), 1));
    let expected = GcReport { dry_run: true, temporary: Tally::default(), ..report.clone() };
    assert_eq!(preview, expected);
    assert_eq!((report.left, report.undecided, report.records), (Vec::<String>::new(), Vec::new(), 0));
    assert_eq!(stored(&root, b"nobody's"), [false; 3]);
    assert!(!loose.exists() && root.names("tmp").is_empty() && root.names("run/mounts").is_empty());
    assert_eq!(root.names("sidecars/sha256"), sidecars);
    for bytes in &held {
        assert!(stored(&root, bytes)[..2] == [true; 2]);
    }
    assert!(root.path().join("blobs/sha256/notes.txt").exists() && root.path().join("quarantine/staged.gguf").exists());
    assert!(root.read("promoted").unwrap() == held[0]);
    assert!(root.has_event("gc", "noted", ""));

    let lines = root.events().len();
    assert!(gc(&root.registry).is_empty());
    assert_eq!(root.events().len(), lines, "nothing was done, and nothing is said");
}

#[test]
fn what_was_deleted_under_an_incident_stays_blocked_after_a_sweep() {
    let root = Root::new();
    root.promote("bad", &gguf(G, 1));
    root.registry.quarantine(&name("bad"), "why", Some("INC"), &me()).unwrap();
    root.registry.delete(&name("bad"), &me()).unwrap();
    // As a crash between the two would have left it.
    orphan(&root, &gguf(G, 1));
    assert_eq!(gc(&root.registry).blobs.files, 1);
    let again = root.source("again.gguf", &gguf(G, 1));
    assert_eq!(root.promote_path("again", &again).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn while_it_cannot_be_told_who_holds_what_nothing_goes() {
    let root = Root::new();
    root.promote("m", &gguf(G, 1));
    push(&root.registry.content(), "r", b"pushed");
    orphan(&root, b"nobody's");
    // A repository behind a link.
    let r = root.path().join("oci/r");
    std::fs::rename(r.join("_blobs"), root.dir.path().join("aside")).unwrap();
    std::os::unix::fs::symlink(root.dir.path().join("aside"), r.join("_blobs")).unwrap();
    let sweep = |root: &Root| root.registry.gc(None, &me(), &Task::unattended()).map_err(|e| e.kind());
    assert_eq!(sweep(&root), Err(ErrorKind::Corrupt));
    assert!(stored(&root, b"nobody's")[0] && stored(&root, b"pushed")[0]);
    std::fs::remove_file(r.join("_blobs")).unwrap();
    std::fs::rename(root.dir.path().join("aside"), r.join("_blobs")).unwrap();
    // A manifest that cannot be served.
    let manifest = root.path().join("manifest.yaml");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, b"artifacts: []\n").unwrap();
    assert_eq!(sweep(&root), Err(ErrorKind::Manifest));
    assert!(stored(&root, b"nobody's")[0] && stored(&root, &gguf(G, 1))[0]);
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(sweep(&root).unwrap().blobs.files, 1);
}

#[test]
fn a_registry_that_is_open_to_read_only_shows_what_would_go_and_sweeps_nothing() {
    let root = Root::new();
    orphan(&root, b"nobody's");
    let reader = Registry::open_read_only(root.path()).unwrap();
    assert_eq!(reader.gc(None, &me(), &Task::unattended()).unwrap_err().kind(), ErrorKind::Permission);
    assert_eq!(reader.gc_preview(Some(HOUR), &Task::unattended()).unwrap().blobs.files, 1);
    assert_eq!(stored(&root, b"nobody's"), [true; 3]);
}

/// Makes what the passes have seen so far lie longer back, as if the machine had run on between them.
fn later(root: &Root, what: &str, seconds: u64) {
    let path = root.path().join("run").join(format!("idle-{what}.json"));
    let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (_, seen) in kept["idle"].as_object_mut().unwrap() {
        seen[1] = (seen[1].as_u64().unwrap() + seconds).into();
    }
    std::fs::write(&path, kept.to_string()).unwrap();
}

/// Sets a file's times to what a clock that jumped would have given it.
fn set_times(path: &Path, seconds: i64) {
    let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

#[test]
fn t25_what_was_pushed_stays_until_two_passes_an_hour_of_the_machine_apart_saw_it_unreferred_to() {
    let root = Root::new();
    let content = root.registry.content();
    let sweep = || root.registry.gc(Some(HOUR), &me(), &Task::unattended()).unwrap();
    for bytes in [&b"referred"[..], b"left", b"touched"] {
        push(&content, "r", bytes);
    }
    let manifest = refer(&content, "r", &[b"referred"]);
    let too_soon = root.registry.gc(Some(HOUR - Duration::from_secs(1)), &me(), &Task::unattended());
    assert_eq!(too_soon.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!((sweep().records, sweep().waiting), (0, 2), "however often it looks");
    // The clock jumps by years, forward and back: the files look old, or from the future.
    let record = |bytes: &[u8]| -> PathBuf {
        root.path().join("oci/r/_blobs").join(sha256(bytes).to_string().replace(':', "-"))
    };
    for seconds in [0, 4_000_000_000] {
        for bytes in [&b"referred"[..], b"left", b"touched"] {
            set_times(&record(bytes), seconds);
        }
        assert_eq!((sweep().records, sweep().waiting), (0, 2), "no clock makes a push old");
    }
    later(&root, "records", 3601);
    // Somebody is about to refer to it.
    assert!(content.renew(&repo("r"), &sha256(b"touched")).unwrap().is_some());
    let report = sweep();
    assert_eq!((report.records, report.waiting, report.blobs.files), (1, 1, 1));
    assert_eq!(stored(&root, b"left")[..2], [false; 2]);
    assert!(content.blob(&repo("r"), &sha256(b"left")).unwrap().is_none());
    for bytes in [&b"referred"[..], b"touched"] {
        assert!(content.blob(&repo("r"), &sha256(bytes)).unwrap().is_some());
    }
    assert!(root.has_event("gc", "noted", "r"));
    // A push of the same bytes, or a manifest, begins anew.
    push(&content, "r", b"touched");
    later(&root, "records", 3601);
    assert_eq!(sweep().records, 0);
    refer(&content, "r", &[b"touched"]);
    later(&root, "records", 3601);
    assert_eq!((sweep().records, sweep().waiting), (0, 0));
    content.remove(&repo("r"), &Kind::Manifest, &manifest).unwrap();
    assert_eq!((sweep().records, sweep().waiting), (0, 1));
    later(&root, "records", 3601);
    assert_eq!(sweep().records, 1);
}

#[test]
fn t25_without_being_asked_what_repositories_hold_stays_whatever_refers_to_it() {
    let root = Root::new();
    push(&root.registry.content(), "r", b"pushed");
    for _ in 0..3 {
        assert!(gc(&root.registry).is_empty());
    }
    assert!(root.registry.content().blob(&repo("r"), &sha256(b"pushed")).unwrap().is_some());
}

#[test]
fn of_a_repository_whose_manifests_cannot_all_be_read_nothing_is_dropped() {
    let root = Root::new();
    let content = root.registry.content();
    push(&content, "r", b"bytes");
    push(&content, "s", b"bytes");
    let manifest = refer(&content, "r", &[b"other"]);
    let document = root.path().join("oci/r/_manifests").join(&manifest);
    let mut text = std::fs::read(&document).unwrap();
    // One hex digit rotted: it would refer to something else.
    let at = text.len() - 9;
    text[at] = if text[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(&document, text).unwrap();
    let sweep = || root.registry.gc(Some(HOUR), &me(), &Task::unattended()).unwrap();
    sweep();
    later(&root, "records", 3601);
    let report = sweep();
    assert_eq!(report.records, 1, "of the other repository");
    assert!(report.undecided.len() == 1 && report.undecided[0].contains(&manifest), "{report:?}");
    assert!(content.blob(&repo("r"), &sha256(b"bytes")).unwrap().is_some());
    assert!(content.blob(&repo("s"), &sha256(b"bytes")).unwrap().is_none());
}

#[test]
fn a_blob_by_its_sha512_goes_with_both_its_records() {
    use sha2::Digest as _;
    let root = Root::new();
    let content = root.registry.content();
    let digest: ContentDigest =
        format!("sha512:{}", sha2::Sha512::digest(b"bytes").iter().map(|b| format!("{b:02x}")).collect::<String>())
            .parse()
            .unwrap();
    let mut upload = content.begin(&repo("r")).unwrap();
    upload.append(b"bytes").unwrap();
    upload.finish(&digest).unwrap();
    assert_eq!(root.names("oci/r/_blobs").len(), 2);
    let sweep = || root.registry.gc(Some(HOUR), &me(), &Task::unattended()).unwrap();
    assert_eq!((sweep().records, sweep().waiting), (0, 1), "two records, one blob");
    later(&root, "records", 3601);
    assert_eq!(sweep().records, 1);
    assert!(root.names("oci/r/_blobs").is_empty() && !stored(&root, b"bytes")[0]);
}

#[test]
fn t25_an_upload_does_not_expire_by_a_clock_that_jumps() {
    let root = Root::new();
    let content = root.registry.content();
    let mut upload = content.begin(&repo("r")).unwrap();
    upload.append(b"abc").unwrap();
    let id = upload.id().to_owned();
    upload.suspend().unwrap();
    let file = root.path().join("oci/r/_uploads").join(&id);
    for seconds in [0, 4_000_000_000] {
        set_times(&file, seconds);
        assert_eq!((content.expire_uploads(HOUR).unwrap(), gc(&root.registry).uploads), (0, 0));
    }
    later(&root, "uploads", 8 * 24 * 3600);
    // In use, it stays.
    let upload = content.resume(&repo("r"), &id).unwrap();
    assert_eq!(gc(&root.registry).uploads, 0);
    drop(upload);
    assert_eq!(gc(&root.registry).uploads, 1);
    assert!(!file.exists());
}

#[test]
fn t25_open_files_stay_readable_and_verified_when_their_bytes_are_swept() {
    let root = Root::new();
    let bytes = gguf(5 * G, 1);
    root.promote("m", &bytes);
    let file = root.open("m").unwrap();
    // As a crash of a delete leaves it: not in the catalog, still stored.
    let blob = root.blob("m");
    let aside = root.dir.path().join("aside");
    let tree = root.tree("m");
    std::fs::hard_link(&blob, &aside).unwrap();
    root.registry.delete(&name("m"), &me()).unwrap();
    std::fs::rename(&aside, &blob).unwrap();
    assert!(!tree.exists());
    assert_eq!(gc(&root.registry).blobs, Tally { files: 1, bytes: bytes.len() as u64 });
    assert!(!blob.exists());
    let mut out = vec![0; bytes.len()];
    assert_eq!(file.read_at(&mut out, 0).unwrap(), bytes.len());
    assert!(out == bytes);
}

/// Runs the test again in another process, which sweeps until it is told to stop.
fn sweeping_elsewhere(root: &Path, test: &str) -> std::process::Child {
    std::process::Command::new("/proc/self/exe")
        .args([test, "--exact", "--nocapture"])
        .env("SECUREREG_TEST_SWEEP", root)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// In the other process: sweeps until the file `stop` is there.
fn sweep_until_stopped() -> bool {
    let Some(root) = std::env::var_os("SECUREREG_TEST_SWEEP").map(PathBuf::from) else { return false };
    let mut sweeps = 0;
    while !root.with_file_name("stop").exists() {
        gc(&Registry::open(&root).unwrap());
        sweeps += 1;
    }
    std::fs::write(root.with_file_name("sweeps"), format!("{sweeps}")).unwrap();
    true
}

/// Threat 25: whatever is acknowledged is there until it is deleted, while two threads and another process sweep without pause.
#[test]
fn t25_sweeps_race_with_promotes_deletes_pushes_and_readers_and_nothing_acknowledged_is_lost() {
    const NAME: &str = "t25_sweeps_race_with_promotes_deletes_pushes_and_readers_and_nothing_acknowledged_is_lost";
    if sweep_until_stopped() {
        return;
    }
    let root = Root::new();
    let mut other = sweeping_elsewhere(root.path(), NAME);
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let kept = gguf(4 * G, 99);
    root.promote("kept", &kept);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let sweepers: Vec<_> = (0..2)
            .map(|_| {
                let (registry, done) = (root.again(), &done);
                scope.spawn(move || {
                    let mut swept = 0;
                    while !done.load(Ordering::Relaxed) {
                        swept += gc(&registry).blobs.files;
                    }
                    swept
                })
            })
            .collect();
        let (registry, reader_done, counted, whole) = (root.again(), &done, &reads, &kept);
        scope.spawn(move || {
            let held = registry.open_file(&name("kept"), &rel("kept.gguf"), ReadMode::Cached).unwrap();
            let mut out = vec![0; whole.len()];
            while !reader_done.load(Ordering::Relaxed) {
                let anew = registry.open_file(&name("kept"), &rel("kept.gguf"), ReadMode::Cached).unwrap();
                for file in [&held, &anew] {
                    assert_eq!(file.read_at(&mut out, 0).unwrap(), whole.len());
                    assert!(out == *whole);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut workers = Vec::new();
        for i in 0..2 {
            let (registry, dir) = (root.again(), root.dir.path());
            workers.push(scope.spawn(move || {
                for round in 0..25 {
                    // Two writers, one of them with bytes that the other has too.
                    let bytes = gguf(2 * G, if round % 2 == 0 { 7 } else { 100 + i });
                    let path = dir.join(format!("m{i}.gguf"));
                    std::fs::write(&path, &bytes).unwrap();
                    let model = name(&format!("m{i}"));
                    let promote = || {
                        let source = Source::open(&path).unwrap();
                        registry.promote(PromoteRequest::new(model.clone()), source, &me(), &Task::unattended())
                    };
                    promote().unwrap();
                    let file = registry.open_file(&model, &rel(&format!("m{i}.gguf")), ReadMode::Cached).unwrap();
                    let mut out = vec![0; bytes.len()];
                    assert_eq!(file.read_at(&mut out, 0).unwrap(), bytes.len());
                    assert!(out == bytes);
                    let verified = registry.verify(&model, &me(), &Task::unattended()).unwrap();
                    assert_eq!(verified.status, VerifyStatus::Verified);
                    registry.delete(&model, &me()).unwrap();
                    assert_eq!(file.read_at(&mut out, 0).unwrap(), bytes.len(), "it is open");
                }
            }));
        }
        for i in 0..2 {
            let content = root.again().content();
            workers.push(scope.spawn(move || {
                let to = format!("r{i}");
                for round in 0..25 {
                    let bytes = gguf(2 * G, if round % 2 == 0 { 7 } else { 200 + i });
                    push(&content, &to, &bytes);
                    assert!(content.renew(&repo(&to), &sha256(&bytes)).unwrap().is_some());
                    let file = content.open(&repo(&to), &sha256(&bytes)).unwrap();
                    let mut out = vec![0; bytes.len()];
                    assert_eq!(file.read_at(&mut out, 0).unwrap(), bytes.len());
                    assert!(out == bytes);
                    assert!(content.remove_blob(&repo(&to), &sha256(&bytes)).unwrap());
                }
            }));
        }
        // Orphans come and go meanwhile.
        for i in 0..200 {
            orphan(&root, format!("orphan {i}").as_bytes());
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
        let swept: u64 = sweepers.into_iter().map(|sweeper| sweeper.join().unwrap()).sum();
        assert!(swept <= 200);
    });
    std::fs::write(root.dir.path().join("stop"), b"").unwrap();
    assert!(other.wait().unwrap().success());
    let sweeps: u64 = std::fs::read_to_string(root.dir.path().join("sweeps")).unwrap().parse().unwrap();
    assert!(sweeps > 0 && reads.load(Ordering::Relaxed) > 0, "the other process swept, and somebody read");
    gc(&root.registry);
    assert_eq!(root.names("blobs/sha256"), [Sha256Digest::of(&kept).to_hex()]);
    assert_eq!(root.verify("kept").status, VerifyStatus::Verified);
    assert_eq!(root.registry.audit_verify().unwrap().lines, root.events().len() as u64);
}
