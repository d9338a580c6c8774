//! Reads under corruption (after xfstests generic/574): {first byte, across a group edge, middle, last byte, past the end
//! in the last page, in the tree, sparse} x {read, O_DIRECT, ranges, mmap}, and copies of damaged files.
//!
//! Through a mount the first mismatch revokes the file. So what a reader gets is a true prefix of what it asked for, it
//! ends with an error, and it ends.

use crate::support::*;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LEN: usize = 5 * 64 * 1024 + 1000;

/// Damage, by name. The last two leave every byte inside the file as it was.
const PLACES: [&str; 6] = ["first byte", "across a group edge", "middle", "last byte", "in the tree", "sparse"];

fn damage(f: &Fixture, model: &str, place: &str) {
    let edge = GROUP;
    match place {
        "first byte" => f.damage_below(model, |file| flip(file, 0)),
        "across a group edge" => f.damage_below(model, |file| {
            flip(file, edge - 1);
            flip(file, edge);
        }),
        "middle" => f.damage_below(model, |file| flip(file, LEN as u64 / 2)),
        "last byte" => f.damage_below(model, |file| flip(file, LEN as u64 - 1)),
        "in the tree" => {
            // The last chaining value on the leaf pages, whatever the layout: flip bytes all over.
            let tree = writable(&f.tree(model));
            let len = tree.metadata().unwrap().len();
            (0..len).step_by(32).for_each(|at| flip(&tree, at));
            f.forge_stamp(model);
        }
        "sparse" => f.damage_below(model, |file| {
            let zeros = vec![0; 4096];
            file.write_all_at(&zeros, 2 * edge + 4096).unwrap();
        }),
        other => panic!("{other}"),
    }
}

/// Reads to the end or the error, and returns what came.
fn drain(file: &File, piece: usize) -> (Vec<u8>, i32) {
    let mut out = Vec::new();
    loop {
        let mut buffer = vec![0; piece];
        match file.read_at(&mut buffer, out.len() as u64) {
            Ok(0) => return (out, 0),
            Ok(n) => out.extend_from_slice(&buffer[..n]),
            Err(e) => return (out, e.raw_os_error().unwrap()),
        }
    }
}

/// Threat 12, the matrix.
#[test]
fn t12_a_damaged_file_gives_a_true_prefix_and_then_eio_in_every_way_to_read() {
    let Some(f) = mounted() else { return };
    for (i, place) in PLACES.into_iter().enumerate() {
        for (j, how) in
            ["read", "small reads", "O_DIRECT", "ranges", "mmap shared", "mmap private"].into_iter().enumerate()
        {
            let model = format!("m{i}-{j}");
            let bytes = gguf(LEN, (i * 10 + j) as u64);
            let path = f.promote(&model, &bytes);
            damage(&f, &model, place);
            if let Some(mapping) = how.strip_prefix("mmap ") {
                let original = f.dir.path().join(format!("source/{model}.gguf"));
                let mut child = probe::start("map", &[path.to_str().unwrap(), original.to_str().unwrap(), mapping]);
                let status = child.end(Duration::from_secs(30));
                // A damaged tree may be refused at open already.
                let refused = status.is_some_and(|s| s.code() == Some(101)) && place == "in the tree";
                assert!(status.is_some_and(probe::is_sigbus) || refused, "{place}, {how}: {status:?}");
            } else {
                let flags = if how == "O_DIRECT" { libc::O_DIRECT } else { 0 };
                let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
                    Ok(file) => file,
                    Err(e) => {
                        assert_eq!((e.raw_os_error(), place), (Some(libc::EIO), "in the tree"), "{how}");
                        assert_eq!(f.status(&model), "quarantined");
                        continue;
                    }
                };
                if how == "ranges" {
                    // From the back to the front, odd lengths.
                    let mut errors = 0;
                    for at in (0..LEN - 1001).rev().step_by(20_011) {
                        let mut out = vec![0; 1001];
                        match file.read_exact_at(&mut out, at as u64) {
                            Ok(()) => assert!(out == bytes[at..at + 1001], "{place} at {at}: never other bytes"),
                            Err(e) => {
                                assert_eq!(e.raw_os_error(), Some(libc::EIO), "{place} at {at}: {e}");
                                errors += 1;
                            }
                        }
                    }
                    let mut all = vec![0; LEN];
                    assert_eq!(errno(file.read_exact_at(&mut all, 0)), libc::EIO, "{place}");
                    assert!(
                        errors > 0 || place == "first byte" || place == "last byte" || place == "middle",
                        "{place}"
                    );
                } else {
                    let piece = if how == "small reads" { 4096 } else { 128 * 1024 };
                    let (got, error) = drain(&file, piece);
                    assert!(bytes.starts_with(&got), "{place}, {how}: a true prefix");
                    assert_eq!(error, libc::EIO, "{place}, {how}: it ends with an error, after {}", got.len());
                }
            }
            until("quarantined", Duration::from_secs(5), || f.status(&model) == "quarantined");
            assert_eq!(errno(File::open(&path)), libc::EACCES, "{place}, {how}: and nobody opens it again");
        }
    }
}

/// Threat 12: bytes after the end of the file, in its last page, are not the file's.
#[test]
fn t12_bytes_past_the_end_are_never_seen() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(LEN, 1);
    let path = f.promote("m", &bytes);
    let held = File::open(&path).unwrap();
    f.damage_below("m", |file| file.write_all_at(&[0xff; 500], LEN as u64).unwrap());
    let (got, error) = drain(&held, 100_000);
    assert!(bytes.starts_with(&got), "never more, never others");
    assert!(error == libc::EIO || got.len() == LEN, "all of it or an error: {error}, {}", got.len());
    let original = f.dir.path().join("source/m.gguf");
    let mut child = probe::start("map", &[path.to_str().unwrap(), original.to_str().unwrap(), "shared"]);
    let status = child.end(Duration::from_secs(30)).expect("it ends");
    assert!(!probe::is_wrong(status), "the rest of the last page is zeros, or nothing is");
}

/// Threat 12.
#[test]
fn t12_a_tampered_file_is_refused_at_open() {
    let Some(f) = mounted() else { return };
    for (model, tamper) in [("flipped", 0), ("truncated", 1), ("replaced", 2), ("gone", 3)] {
        let bytes = gguf(LEN, model.len() as u64);
        let path = f.promote(model, &bytes);
        let blob = f.blob(model);
        match tamper {
            0 => flip(&writable(&blob), 70_000),
            1 => writable(&blob).set_len(1000).unwrap(),
            2 => {
                std::fs::write(blob.with_extension("new"), gguf(LEN, 99)).unwrap();
                std::fs::rename(blob.with_extension("new"), &blob).unwrap();
            }
            _ => std::fs::remove_file(&blob).unwrap(),
        }
        let error = errno(File::open(&path));
        assert!(error == libc::EIO || error == libc::EACCES, "{model}: {error}");
        if model != "gone" {
            until("quarantined", Duration::from_secs(5), || f.status(model) == "quarantined");
            assert_eq!(errno(File::open(&path)), libc::EACCES, "{model}");
        }
    }
}

/// Threat 12: damage under an open file, whose stamp was checked when it was opened.
#[test]
fn t12_damage_under_an_open_file_is_eio_and_cached_pages_go() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(40 * 64 * 1024, 1);
    let path = f.promote("m", &bytes);
    let file = File::open(&path).unwrap();
    let mut out = vec![0; 4096];
    file.read_exact_at(&mut out, 0).unwrap();
    f.damage_below("m", |file| flip(file, bytes.len() as u64 - 10));
    assert_eq!(errno(file.read_exact_at(&mut out, bytes.len() as u64 - 4096)), libc::EIO);
    until("the cached first page is dropped", Duration::from_secs(5), || {
        errno(file.read_exact_at(&mut out, 0)) == libc::EIO
    });
    assert!(errno(file.metadata()) != 0, "nor does it have a size any more");
    assert_eq!(f.status("m"), "quarantined");
    assert!(std::fs::read_dir(f.at("")).unwrap().all(|e| e.unwrap().file_name() != "m.gguf"), "nor is it listed");
    // Undamaged again and released, it is served again, from a new inode.
    f.damage_below("m", |file| flip(file, bytes.len() as u64 - 10));
    f.registry.release(&name("m"), "repaired", &me(), &securereg::Task::unattended()).unwrap();
    until("served again", Duration::from_secs(5), || std::fs::read(&path).is_ok_and(|got| got == bytes));
    assert_eq!(errno(file.read_exact_at(&mut out, 0)), libc::EIO, "who had it open must open it again");
}

fn cp(from: &Path, to: &Path) -> std::process::Child {
    Command::new("cp").arg(from).arg(to).stderr(Stdio::null()).spawn().unwrap()
}

/// Threat 12: the one thing that must never happen is a copy that ends short with success.
#[test]
fn t12_cp_of_a_damaged_file_fails_whatever_else_maps_it() {
    let Some(f) = mounted() else { return };
    let rounds: usize = std::env::var("SECUREREG_CP_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let len = 2 * 1024 * 1024 + 123;
    for round in 0..rounds {
        let model = format!("m{round}");
        let bytes = gguf(len, round as u64);
        let path = f.promote(&model, &bytes);
        let at = (round as u64 * 7_919_993) % len as u64;
        // Loaders have it open before the damage, and load while cp runs.
        let mut loaders: Vec<_> = (0..3).map(|_| probe::start("populate", &[path.to_str().unwrap(), "3"])).collect();
        loaders.iter().for_each(|l| assert_eq!(l.line(), "open"));
        f.damage_below(&model, |file| flip(file, at));
        loaders.iter_mut().for_each(probe::Probe::go);
        let copies: Vec<_> = (0..3).map(|i| f.dir.path().join(format!("copy{i}"))).collect();
        let children: Vec<_> = copies.iter().map(|to| cp(&path, to)).collect();
        for (mut child, copy) in children.into_iter().zip(&copies) {
            let status = child.wait().unwrap();
            assert!(!status.success(), "round {round}, damage at {at}: cp succeeded");
            let got = std::fs::read(copy).unwrap_or_default();
            assert!(bytes.starts_with(&got), "round {round}: what was copied is a true prefix");
            let _ = std::fs::remove_file(copy);
        }
        for loader in &mut loaders {
            assert!(loader.end(Duration::from_secs(20)).is_some(), "round {round}: a loader hangs");
        }
        f.registry.delete(&name(&model), &me()).unwrap();
    }
}

/// Threat 12: llama.cpp maps with MAP_POPULATE, which the kernel repeats for ever over a page that cannot be read.
#[test]
fn t12_map_populate_over_damage_returns_and_the_next_touch_is_sigbus() {
    let Some(f) = mounted() else { return };
    for (i, at) in [0, 3 * GROUP + 5, LEN as u64 - 1].into_iter().enumerate() {
        for flags in ["shared-populate", "private-populate"] {
            let model = format!("m{i}-{flags}");
            let bytes = gguf(LEN, i as u64 + if flags.starts_with('s') { 0 } else { 10 });
            let path = f.promote(&model, &bytes);
            f.damage_below(&model, |file| flip(file, at));
            let original = f.dir.path().join(format!("source/{model}.gguf"));
            let start = Instant::now();
            let mut child = probe::start("map", &[path.to_str().unwrap(), original.to_str().unwrap(), flags]);
            let status = child.end(Duration::from_secs(10));
            assert!(
                status.is_some_and(probe::is_sigbus),
                "damage at {at}, {flags}: {status:?} in {:?}",
                start.elapsed()
            );
        }
    }
}

/// Many loaders at once, and copies that run while their loops are being ended.
#[test]
fn t12_copies_during_the_end_of_a_loop_fail_too() {
    let Some(f) = mounted() else { return };
    let rounds: usize = std::env::var("SECUREREG_CP_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for round in 0..rounds {
        let model = format!("m{round}");
        let bytes = gguf(LEN, round as u64);
        let path = f.promote(&model, &bytes);
        let mut loaders: Vec<_> = (0..4).map(|_| probe::start("populate", &[path.to_str().unwrap(), "3"])).collect();
        loaders.iter().for_each(|l| assert_eq!(l.line(), "open"));
        // Opened before the damage shows: these go on asking all through the end of the loops.
        let held: Vec<File> = (0..2).map(|_| File::open(&path).unwrap()).collect();
        f.damage_below(&model, |file| flip(file, (round as u64 * 104_729) % LEN as u64));
        loaders.iter_mut().for_each(probe::Probe::go);
        let readers: Vec<_> = held
            .into_iter()
            .map(|file| {
                let bytes = bytes.clone();
                std::thread::spawn(move || {
                    let end = Instant::now() + Duration::from_millis(1500);
                    let (mut eofs, mut errors) = (0, 0);
                    while Instant::now() < end {
                        let (got, error) = drain(&file, 128 * 1024);
                        assert!(bytes.starts_with(&got));
                        // All of it, from the cache before the damage was met, is right; anything less needs an error.
                        if error == 0 && got.len() < bytes.len() {
                            eofs += 1;
                        }
                        errors += usize::from(error != 0);
                    }
                    (eofs, errors)
                })
            })
            .collect();
        for loader in &mut loaders {
            assert!(loader.end(Duration::from_secs(20)).is_some(), "round {round}: a loader hangs");
        }
        for reader in readers {
            let (eofs, errors) = reader.join().unwrap();
            assert_eq!(eofs, 0, "round {round}: an early end of file without an error, beside {errors} errors");
            assert!(errors > 0);
        }
    }
}
