//! One test or more for each abuse case of the threat table that the core answers; the mount's and the server's are with
//! them. The number is the row.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use securereg::*;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use support::*;

const G: usize = GROUP as usize;

#[test]
fn t01_a_path_that_leaves_the_staging_folder_is_refused_by_the_kernel_too() {
    let root = Root::new();
    let staging = root.registry.staging();
    std::fs::write(staging.join("good.gguf"), gguf(100, 1)).unwrap();
    std::fs::create_dir(staging.join("sub")).unwrap();
    std::fs::write(staging.join("sub/deep.gguf"), gguf(100, 2)).unwrap();
    let outside = root.source("secret.gguf", &gguf(100, 3));
    for path in [
        "../root/quarantine/good.gguf",
        "sub/../../secret.gguf",
        "..",
        ".",
        "",
        "/etc/hostname",
        outside.to_str().unwrap(),
        "sub/..",
    ] {
        let e = Source::open_beneath(&staging, Path::new(path)).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound), "{path}: {e}");
    }
    for path in ["good.gguf", "sub/deep.gguf", staging.join("good.gguf").to_str().unwrap()] {
        assert_eq!(Source::open_beneath(&staging, Path::new(path)).unwrap().size_bytes(), 100, "{path}");
    }
}

#[test]
fn t02_links_are_refused_and_a_swap_after_the_open_changes_nothing() {
    let root = Root::new();
    let staging = root.registry.staging();
    let secret = root.source("secret.gguf", &gguf(100, 3));
    symlink(&secret, staging.join("link.gguf")).unwrap();
    symlink(secret.parent().unwrap(), staging.join("folder")).unwrap();
    for path in ["link.gguf", "folder/secret.gguf", "folder"] {
        let e = Source::open_beneath(&staging, Path::new(path)).unwrap_err();
        assert!(e.to_string().contains("link"), "{path}: {e}");
    }
    assert!(Source::open(&staging.join("link.gguf")).is_err(), "the last component is no link for a local user either");
    std::fs::create_dir(staging.join("model")).unwrap();
    std::fs::write(staging.join("model/m.gguf"), gguf(100, 4)).unwrap();
    symlink(&secret, staging.join("model/n.gguf")).unwrap();
    assert!(Source::open(&staging.join("model")).unwrap_err().to_string().contains("link"), "nor anything in a folder");

    let path = root.source("m.gguf", &gguf(100, 1));
    let source = Source::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    symlink(&secret, &path).unwrap();
    let outcome = root.registry.promote(PromoteRequest::new(name("m")), source, &me(), &Task::unattended());
    match outcome {
        Ok(_) => assert_eq!(root.read("m").unwrap(), gguf(100, 1), "what was opened is what is stored"),
        // Unlinking changes the inode's ctime, which counts as a change.
        Err(e) => assert_eq!(e.kind(), ErrorKind::SourceChanged),
    }
}

#[test]
fn t03_a_hard_link_or_an_open_writer_makes_a_move_a_copy() {
    let root = Root::new();
    let moved = |model: &str, path: &Path| {
        let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new(name(model)) };
        root.registry.promote(request, Source::open(path).unwrap(), &me(), &Task::unattended()).unwrap().method
    };
    let linked = root.source("linked.gguf", &gguf(G, 1));
    let second = linked.with_file_name("second");
    std::fs::hard_link(&linked, &second).unwrap();
    assert_ne!(moved("linked", &linked), Method::Adopted);
    assert!(!linked.exists(), "a move takes the source all the same");
    std::fs::write(&second, b"changed through the other name").unwrap();

    let written = root.source("written.gguf", &gguf(G, 2));
    let writer = OpenOptions::new().write(true).open(&written).unwrap();
    assert_ne!(moved("written", &written), Method::Adopted);
    writer.write_all_at(b"changed through the open descriptor", 0).unwrap();

    for (model, seed) in [("linked", 1), ("written", 2)] {
        assert_eq!(root.read(model).unwrap(), gguf(G, seed));
        let blob = std::fs::metadata(root.blob(model)).unwrap();
        assert_eq!((blob.nlink(), blob.mode() & 0o7777), (1, 0o444), "{model}");
    }
}

#[test]
fn t03_a_writer_that_comes_during_an_adoption_stops_it() {
    let root = Root::new();
    let bytes = gguf(10 << 20, 1);
    let path = root.source("m.gguf", &bytes);
    let intruder = path.clone();
    let task = Task::unattended().with_progress(move |_| {
        // The lease holds the writer off, so it must not wait for it.
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        let _ = rustix::fs::open(&intruder, flags, rustix::fs::Mode::empty());
    });
    let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new(name("m")) };
    let e = root.registry.promote(request, Source::open(&path).unwrap(), &me(), &task).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::SourceChanged);
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the source is still its owner's");
    assert!(root.names("blobs/sha256").is_empty());
}

#[test]
fn t04_fifos_devices_sockets_and_folders_without_files_are_refused_without_blocking() {
    let root = Root::new();
    let folder = root.registry.staging().join("model");
    std::fs::create_dir(&folder).unwrap();
    assert!(Source::open(&folder).unwrap_err().to_string().contains("holds no files"));
    let fifo = folder.join("fifo.gguf");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket.gguf")).unwrap();
    for path in [&fifo, &folder.join("socket.gguf"), Path::new("/dev/null"), Path::new("/dev/zero"), &folder] {
        let e = Source::open(path).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Refused), "{}: {e}", path.display());
    }
    assert!(Source::open_beneath(&root.registry.staging(), Path::new("model/fifo.gguf")).is_err());
}

#[test]
fn t05_a_source_that_grows_shrinks_or_changes_while_it_is_read_is_refused() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("grows", |p| OpenOptions::new().append(true).open(p).unwrap().write_all(b"more").unwrap()),
        ("grows_far", |p| OpenOptions::new().write(true).open(p).unwrap().set_len(30 << 20).unwrap()),
        ("shrinks", |p| OpenOptions::new().write(true).open(p).unwrap().set_len(9 << 20).unwrap()),
        ("changes", |p| OpenOptions::new().write(true).open(p).unwrap().write_all_at(b"other", 9 << 20).unwrap()),
    ];
    let root = Root::new();
    for (how, damage) in damages {
        let path = root.source("m.gguf", &gguf(12 << 20, 1));
        let victim = path.clone();
        let mut pending = Some(damage);
        let task = Task::unattended().with_progress(move |_| {
            if let Some(damage) = pending.take() {
                damage(&victim);
            }
        });
        let source = Source::open(&path).unwrap();
        let e = root.registry.promote(PromoteRequest::new(name("m")), source, &me(), &task).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::SourceChanged, "{how}");
        assert!(root.registry.catalog().unwrap().is_empty() && root.names("tmp").is_empty(), "{how}: no partial entry");
        assert!(root.names("blobs/sha256").is_empty(), "{how}");
    }
}

#[test]
fn t06_a_source_larger_than_the_free_space_is_refused_before_it_is_read() {
    let root = Root::new();
    let path = root.source("huge.gguf", &gguf_start(15 << 40));
    OpenOptions::new().write(true).open(&path).unwrap().set_len(15 << 40).unwrap();
    let e = root.promote_path("huge", &path).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert!(e.to_string().contains("are free"), "{e}");
    assert!(root.names("tmp").is_empty());
}

/// Needs a small file system of its own, which only root can mount.
#[test]
fn t06_a_disk_that_fills_up_at_any_step_loses_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED t06_a_disk_that_fills_up_at_any_step_loses_nothing: only root can mount a small tmpfs");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m,nr_inodes=200,mode=700", "securereg-test"])
        .arg(&disk));
    let outcome = std::panic::catch_unwind(|| fill_and_promote(&disk, dir.path()));
    run(Command::new("umount").arg("-l").arg(&disk));
    outcome.unwrap();
}

fn fill_and_promote(disk: &Path, aside: &Path) {
    let registry = Registry::open_or_create(&disk.join("root")).unwrap();
    let promote = |model: &str, bytes: &[u8]| {
        let path = aside.join(format!("{model}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        registry.promote(PromoteRequest::new(name(model)), Source::open(&path).unwrap(), &me(), &Task::unattended())
    };
    promote("kept", &gguf(1000, 1)).unwrap();
    let (mut early, mut late, mut admitted) = (0, 0, 0);
    let ballast = disk.join("ballast");
    // Leaves room for exactly `spare` bytes more than the model, or for exactly `inodes` more files.
    let bytes = |size: u64, spare: u64| {
        std::fs::create_dir(&ballast).unwrap();
        let fs = rustix::fs::statvfs(disk).unwrap();
        std::fs::write(ballast.join("bytes"), vec![1; (fs.f_bavail * fs.f_frsize - size - spare) as usize]).unwrap();
        gguf(size as usize, spare + 2)
    };
    let inodes = |spare: u64| {
        std::fs::create_dir(&ballast).unwrap();
        for n in spare..rustix::fs::statvfs(disk).unwrap().f_ffree {
            std::fs::write(ballast.join(n.to_string()), b"").unwrap();
        }
        gguf(1000, spare + 2)
    };
    let fillings: Vec<Box<dyn Fn() -> Vec<u8>>> = (0..12)
        .map(|n| Box::new(move || inodes(n)) as Box<dyn Fn() -> Vec<u8>>)
        .chain((0..12).map(|n| Box::new(move || bytes(4096, n * 4096)) as _))
        .chain((0..12).map(|n| Box::new(move || bytes(200 << 10, n * 4096)) as _))
        .collect();
    for (step, fill) in fillings.iter().enumerate() {
        let model = fill();
        let outcome = promote("m", &model);
        std::fs::remove_dir_all(&ballast).unwrap();
        match outcome {
            Ok(_) => {
                admitted += 1;
                registry.delete(&name("m"), &me()).unwrap();
            }
            Err(e) => {
                let before = e.to_string().contains("are free") || e.to_string().contains("creating a temporary file");
                early += usize::from(before);
                late += usize::from(!before);
                assert_eq!(e.kind(), ErrorKind::NoSpace, "step {step}: {e}");
            }
        }
        let again = Registry::open(&disk.join("root")).unwrap();
        assert_eq!(again.catalog().unwrap().len(), 1, "step {step}");
        assert_eq!(again.verify(&name("kept"), &me(), &Task::unattended()).unwrap().status, VerifyStatus::Verified);
        again.audit_verify().unwrap();
        for folder in ["tmp", "blobs/sha256", "trees"] {
            let left = std::fs::read_dir(disk.join("root").join(folder)).unwrap().count();
            assert_eq!(left, usize::from(folder != "tmp"), "{folder} at step {step}");
        }
    }
    println!("{early} refused at once, {late} with the copy begun, {admitted} admitted");
    assert!(early > 2 && late > 0 && admitted > 2, "all sides were reached: {early}, {late}, {admitted}");
}

#[test]
fn t07_files_of_a_folder_that_differ_only_by_case_are_a_conflict() {
    let root = Root::new();
    root.source("hf/Model.gguf", &gguf(100, 1));
    root.source("hf/model.gguf", &gguf(100, 2));
    let e = root.promote_path("hf", &root.dir.path().join("source/hf")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.to_string().contains("differ only by case"), "{e}");
}

#[test]
fn t08_two_writers_lose_nothing() {
    let root = Root::new();
    let writers: Vec<_> = (0..4).map(|_| root.again()).collect();
    std::thread::scope(|scope| {
        for (w, registry) in writers.iter().enumerate() {
            let root = &root;
            scope.spawn(move || {
                for i in 0..10 {
                    let path = root.source(&format!("w{w}-{i}.gguf"), &gguf(100, (w * 100 + i) as u64));
                    let request = PromoteRequest::new(name(&format!("w{w}-{i}")));
                    registry.promote(request, Source::open(&path).unwrap(), &me(), &Task::unattended()).unwrap();
                }
            });
        }
    });
    let catalog = root.registry.catalog().unwrap();
    assert_eq!((catalog.len(), catalog.generation()), (40, 40));
    assert_eq!(root.registry.audit_verify().unwrap().lines, 80);
}

#[test]
fn t08_of_two_writers_of_one_name_one_wins_and_the_other_is_told() {
    let root = Root::new();
    let writers: Vec<_> = (0..4).map(|_| root.again()).collect();
    let outcomes: Vec<Result<Promotion>> = std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter()
            .enumerate()
            .map(|(w, registry)| {
                let path = root.source(&format!("w{w}.gguf"), &gguf(G, w as u64));
                scope.spawn(move || {
                    registry.promote(
                        PromoteRequest::new(name("same")),
                        Source::open(&path).unwrap(),
                        &me(),
                        &Task::unattended(),
                    )
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 3));
    let winner = won.into_iter().next().unwrap().unwrap().artifact;
    assert!(lost.into_iter().all(|l| l.unwrap_err().kind() == ErrorKind::Conflict));
    assert_eq!(Sha256Digest::of(&root.read("same").unwrap()), winner.sha256);
    assert_eq!(root.names("blobs/sha256").len(), 1, "the losers' bytes are gone");
}

#[test]
fn t09_an_older_manifest_put_back_is_refused_and_says_so() {
    let root = Root::new();
    root.promote("bad", &gguf(100, 1));
    let manifest = root.path().join("manifest.yaml");
    let old = std::fs::read(&manifest).unwrap();
    root.registry.quarantine(&name("bad"), "found out", None, &me()).unwrap();
    let newest = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &old).unwrap();
    for e in
        [Registry::open(root.path()).unwrap_err(), root.registry.catalog().unwrap_err(), root.open("bad").unwrap_err()]
    {
        assert_eq!(e.kind(), ErrorKind::Manifest);
        assert!(e.to_string().contains("an older manifest was put back"), "{e}");
    }
    std::fs::remove_file(root.path().join("generation")).unwrap();
    assert!(Registry::open(root.path()).is_err(), "the audit log remembers as well");
    std::fs::write(&manifest, newest).unwrap();
    assert_eq!(root.again().catalog().unwrap().generation(), 2);
    assert_eq!(root.status("bad"), "quarantined");
}

#[test]
fn t09_another_manifest_of_the_same_generation_is_refused_by_who_has_seen_the_first() {
    let (root, other) = (Root::new(), Root::new());
    root.promote("m", &gguf(100, 1));
    other.promote("m", &gguf(100, 2));
    root.registry.catalog().unwrap();
    let manifest = root.path().join("manifest.yaml");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::copy(other.path().join("manifest.yaml"), &manifest).unwrap();
    let e = root.registry.catalog().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Manifest);
    assert!(e.to_string().contains("of the same generation 1"), "{e}");
    std::fs::write(&manifest, good).unwrap();
    assert_eq!(root.read("m").unwrap(), gguf(100, 1), "put back, all is well");
}

#[test]
fn t09_a_memory_of_the_generation_that_cannot_be_read_is_not_taken_for_none() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let memory = root.path().join("generation");
    let good = std::fs::read(&memory).unwrap();
    // Not even by an older manifest whose log was taken away with it.
    let manifest = root.path().join("manifest.yaml");
    let old = std::fs::read(&manifest).unwrap();
    root.promote("n", &gguf(100, 2));
    let (newest, log) = (std::fs::read(&manifest).unwrap(), std::fs::read(root.path().join("audit.jsonl")).unwrap());
    for broken in [vec![b' '; 1000], b"x".to_vec(), b"".to_vec()] {
        std::fs::write(&memory, broken).unwrap();
        std::fs::write(&manifest, &old).unwrap();
        std::fs::write(root.path().join("audit.jsonl"), "").unwrap();
        assert!(Registry::open(root.path()).is_err());
        assert!(root.registry.catalog().is_err());
    }
    std::fs::write(root.path().join("audit.jsonl"), log).unwrap();
    std::fs::write(&manifest, newest).unwrap();
    std::fs::write(&memory, good).unwrap();
    assert_eq!(root.again().catalog().unwrap().len(), 2);
}

#[test]
fn t10_a_root_that_was_used_is_never_begun_anew() {
    for kept in ["generation", "audit.jsonl", "blobs"] {
        let root = Root::new();
        root.promote("m", &gguf(100, 1));
        for gone in ["manifest.yaml", "generation", "audit.jsonl"] {
            if gone != kept {
                std::fs::remove_file(root.path().join(gone)).unwrap();
            }
        }
        if kept != "blobs" {
            std::fs::remove_file(root.blob_of(&gguf(100, 1))).unwrap();
        }
        let e = Registry::open_or_create(root.path()).expect_err(kept);
        assert_eq!(e.kind(), ErrorKind::Manifest, "{kept}");
        assert!(e.to_string().contains("manifest.yaml is missing"), "{kept}: {e}");
    }
}

#[test]
fn t10_a_missing_torn_or_edited_manifest_fails_closed_and_is_never_an_empty_registry() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let manifest = root.path().join("manifest.yaml");
    let good = std::fs::read_to_string(&manifest).unwrap();
    let swaps: [(&str, &dyn Fn()); 5] = [
        ("manifest.yaml is missing", &|| std::fs::remove_file(&manifest).unwrap()),
        ("cut short", &|| std::fs::write(&manifest, &good[..good.len() / 2]).unwrap()),
        ("refused", &|| std::fs::write(&manifest, "").unwrap()),
        ("edited by hand", &|| std::fs::write(&manifest, good.replace("source: \"\"", "source: \"x\"")).unwrap()),
        ("symbolic link", &|| {
            let aside = root.dir.path().join("aside");
            std::fs::write(&aside, &good).unwrap();
            std::fs::remove_file(&manifest).unwrap();
            symlink(aside, &manifest).unwrap();
        }),
    ];
    for (why, swap) in swaps {
        swap();
        let opened = [Registry::open(root.path()).map(drop), Registry::open_or_create(root.path()).map(drop)];
        let live =
            [root.registry.catalog().map(drop), root.open("m").map(drop), root.registry.delete(&name("m"), &me())];
        for outcome in opened.into_iter().chain(live) {
            let e = outcome.expect_err(why);
            assert_eq!(e.kind(), ErrorKind::Manifest, "{why}: {e}");
            assert!(e.to_string().contains(why), "{e} should say {why:?}");
        }
        let _ = std::fs::remove_file(&manifest);
        std::fs::write(&manifest, &good).unwrap();
        assert_eq!(root.read("m").unwrap(), gguf(100, 1), "put back, all is well");
    }
}

#[test]
fn t10_a_crash_between_intent_and_manifest_is_closed_at_the_next_start() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let log = root.path().join("audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    // As if the power had gone after the intent of generation 1, then after the manifest of generation 1.
    let intent = text.lines().next().unwrap().to_owned() + "\n";
    let memory = root.path().join("generation");
    std::fs::write(&memory, "0\n").unwrap();
    std::fs::write(&log, &intent).unwrap();
    root.again();
    assert!(root.has_event("open", "applied", "m"), "the manifest shows generation 1: it was applied");
    std::fs::write(&memory, "1\n").unwrap();
    std::fs::write(&log, intent.replace("\"generation\":1", "\"generation\":2")).unwrap();
    root.again();
    assert!(root.has_event("open", "aborted", "m"), "the manifest never reached generation 2");
    assert_eq!(root.registry.audit_verify().unwrap().lines, 2);
    root.promote("n", &gguf(100, 2));
    assert_eq!(root.again().catalog().unwrap().generation(), 2);
}

#[test]
fn t11_a_manifest_of_a_gigabyte_or_full_of_aliases_is_refused_unread() {
    let root = Root::new();
    let manifest = root.path().join("manifest.yaml");
    OpenOptions::new().write(true).open(&manifest).unwrap().set_len(1 << 30).unwrap();
    let e = Registry::open(root.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Manifest);
    assert!(e.to_string().contains("over the limit"), "{e}");
    let bomb = "version: 1\ngeneration: 0\nmodels: &a [*a, *a]\n";
    let seal = format!("# end generation=0 entries=0 blake3={}\n", blake3::hash(bomb.as_bytes()).to_hex());
    std::fs::write(&manifest, format!("{bomb}{seal}")).unwrap();
    let e = Registry::open(root.path()).unwrap_err();
    assert!(e.to_string().contains("line 3 is refused"), "{e}");
}

#[test]
fn t12_a_flipped_truncated_grown_replaced_or_missing_file_is_refused_at_open() {
    let root = Root::new();
    let damages: [&dyn Fn(&Path); 6] = [
        &|p| flip(p, 0),
        &|p| flip(p, 3 * GROUP - 1),
        &|p| writable(p).set_len(2 * GROUP).unwrap(),
        &|p| writable(p).set_len(4 * GROUP).unwrap(),
        &|p| {
            std::fs::remove_file(p).unwrap();
            std::fs::write(p, gguf(3 * G, 99)).unwrap();
        },
        &|p| std::fs::remove_file(p).unwrap(),
    ];
    for (i, damage) in damages.into_iter().enumerate() {
        let model = format!("m{i}");
        root.promote(&model, &gguf(3 * G, i as u64));
        damage(&root.blob(&model));
        let e = root.open(&model).expect_err(&model);
        assert_eq!((e.kind(), e.name()), (ErrorKind::Corrupt, Some(model.as_str())), "{e}");
        assert_eq!(root.status(&model), "quarantined");
        assert_eq!(
            root.again().open_file(&name(&model), &rel(&format!("{model}.gguf")), ReadMode::Cached).unwrap_err().kind(),
            ErrorKind::Quarantined
        );
        for event in ["verify_failed", "quarantine"] {
            assert!(root.events().iter().any(|(e, _, n)| e == event && *n == model), "{event} of {model}");
        }
        assert!(root.registry.path(&name(&model)).is_err(), "no path is given out");
    }
}

#[test]
fn t12_a_blob_replaced_by_a_link_to_equal_bytes_is_refused() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let (blob, aside) = (root.blob("m"), root.dir.path().join("aside"));
    std::fs::rename(&blob, &aside).unwrap();
    symlink(&aside, &blob).unwrap();
    assert_eq!(root.open("m").unwrap_err().kind(), ErrorKind::Corrupt);
}

/// The core's half of "reads under corruption": errors exactly where damaged, right bytes everywhere else.
#[test]
fn t12_reads_under_corruption_fail_exactly_where_damaged() {
    let len = 20 * G + 1000;
    for (place, at) in [
        ("first byte", 0),
        ("before an edge", G - 1),
        ("after an edge", G),
        ("middle", 10 * G + 5),
        ("last byte", len - 1),
    ] {
        for mode in [ReadMode::Cached, ReadMode::Direct] {
            let root = Root::new();
            let bytes = gguf(len, 7);
            root.promote("m", &bytes);
            damage_below(&root, "m", || flip(&root.blob("m"), at as u64));
            let file = root.registry.open_file(&name("m"), &rel("m.gguf"), mode).expect("the stamp shows nothing");
            let bad = at / G;
            for group in (0..=len / G).chain([bad, 0]) {
                let range = group * G..((group + 1) * G).min(len);
                for (start, end) in
                    [(range.start, range.end), (range.start + 1, range.start + 2), (range.end - 1, range.end)]
                {
                    let mut out = vec![0; end - start];
                    match file.read_at(&mut out, start as u64) {
                        Ok(n) => {
                            assert_ne!(group, bad, "{place} {mode:?}: damaged bytes were given out");
                            assert_eq!(
                                (n, out.as_slice()),
                                (end - start, &bytes[start..end]),
                                "{place} {mode:?} group {group}"
                            );
                        }
                        Err(e) => assert_eq!((e.kind(), group), (ErrorKind::Corrupt, bad), "{place} {mode:?}: {e}"),
                    }
                }
            }
            let across = file.read_at(&mut vec![0; len], 0);
            assert_eq!(across.unwrap_err().kind(), ErrorKind::Corrupt, "{place}: never a short success");
            assert_eq!(root.status("m"), "quarantined");
            assert_eq!(root.open("m").unwrap_err().kind(), ErrorKind::Quarantined);
        }
    }
}

#[test]
fn t12_a_file_cut_short_or_holed_under_an_open_reader_is_an_error_and_one_that_grew_is_not() {
    let len = 4 * G + 100;
    let bytes = gguf(len, 7);
    let check = |damage: &dyn Fn(&Path), bad_from: usize| {
        let root = Root::new();
        root.promote("m", &bytes);
        let file = root.open("m").unwrap();
        damage(&root.blob("m"));
        for group in 0..5 {
            let range = group * G..((group + 1) * G).min(len);
            let mut out = vec![0; range.len()];
            match file.read_at(&mut out, range.start as u64) {
                Ok(_) => assert!(group < bad_from && out == bytes[range], "group {group}"),
                Err(e) => assert!(group >= bad_from && e.kind() == ErrorKind::Corrupt, "group {group}: {e}"),
            }
        }
    };
    check(&|p| writable(p).set_len(3 * GROUP).unwrap(), 3);
    check(&|p| writable(p).set_len(0).unwrap(), 0);
    // Sparse: a hole reads as zeros.
    check(
        &|p| {
            let f = writable(p);
            f.set_len(3 * GROUP).unwrap();
            f.set_len(len as u64).unwrap();
        },
        3,
    );
    // Past the end, in the last page: not part of the model.
    check(&|p| writable(p).write_all_at(&[1; 500], len as u64).unwrap(), 5);
}

#[test]
fn t13_an_altered_tree_is_refused_at_open_or_at_the_read_that_uses_it_and_never_rebuilt() {
    let bytes = gguf(SPAN as usize + 3 * G, 3);
    let page_of_span_1 = 48 + 32 * 2 + 32 * 256;
    for at in [0, 20, 50, 48 + 64 + 5, page_of_span_1 + 5] {
        let root = Root::new();
        root.promote("m", &bytes);
        let altered = || {
            flip(&root.tree("m"), at);
            std::fs::read(root.tree("m")).unwrap()
        };
        let tree = altered();
        assert_eq!(root.open("m").unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}: its stamp changed");
        assert_eq!(root.status("m"), "quarantined");
        assert_eq!(std::fs::read(root.tree("m")).unwrap(), tree, "never rebuilt silently");
        assert_eq!(root.verify("m").status, VerifyStatus::Failed);
    }
    // Below the stamp: the page is refused when it is used.
    let root = Root::new();
    root.promote("m", &bytes);
    damage_below(&root, "m", || flip(&root.tree("m"), page_of_span_1 + 5));
    let file = root.open("m").expect("neither stamp nor spans show it");
    let mut out = vec![0; G];
    assert_eq!(file.read_at(&mut out, 0).unwrap(), G);
    assert_eq!(out, bytes[..G], "span 0 has its own page");
    assert_eq!(file.read_at(&mut out, SPAN).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(root.status("m"), "quarantined");
    // And a verification quarantines for it, whatever the stamp says.
    let root = Root::new();
    root.promote("m", &bytes);
    damage_below(&root, "m", || flip(&root.tree("m"), page_of_span_1 + 5));
    assert_eq!((root.verify("m").status, root.status("m")), (VerifyStatus::Failed, "quarantined"));
    let missing = Root::new();
    missing.promote("m", &bytes);
    std::fs::remove_file(missing.tree("m")).unwrap();
    assert_eq!(missing.open("m").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn t16_a_root_that_others_can_enter_is_refused_with_the_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let root = Root::new();
    assert_eq!(std::fs::metadata(root.path()).unwrap().mode() & 0o777, 0o700);
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let e = Registry::open(root.path()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Permission);
    assert!(e.to_string().contains("chmod 700"), "{e}");
}
