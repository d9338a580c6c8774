//! What programs that link the library build on: a registry opened to read only, small reads, sealed memory, events, the
//! header of a GGUF.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use securereg::*;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use support::*;

const G: usize = GROUP as usize;

fn seal(root: &Root, model: &str) -> Result<Sealed> {
    seal_in(&root.registry, model)
}

fn seal_in(registry: &Registry, model: &str) -> Result<Sealed> {
    let path = registry.catalog()?.require(&name(model))?.files[0].path.clone();
    registry.open_sealed(&name(model), &path, &Task::unattended())
}

/// All names below the root, with what would show a write.
fn everything(root: &Root) -> Vec<(std::path::PathBuf, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let (mut found, mut folders) = (Vec::new(), vec![root.path().to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            found.push((entry.path(), meta.ino(), meta.mtime_nsec(), meta.ctime_nsec()));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_registry_opened_to_read_only_serves_and_writes_nothing() {
    let root = Root::new();
    let bytes = gguf(3 * G, 1);
    root.promote("m", &bytes);
    root.promote("other", &gguf(2 * G, 2));
    let stamp =
        root.path().join("stamps").join(root.registry.catalog().unwrap().require(&name("m")).unwrap().sha256.to_hex());
    std::fs::remove_file(&stamp).unwrap();
    let before = everything(&root);
    let reader = Registry::open_read_only(root.path()).unwrap();
    let file = reader.open_file(&name("m"), &rel("m.gguf"), ReadMode::Cached).unwrap();
    let mut out = vec![0; bytes.len()];
    assert_eq!(file.read_at(&mut out, 0).unwrap(), bytes.len());
    assert_eq!(out, bytes);
    assert!(reader.verify(&name("m"), &me(), &Task::unattended()).unwrap().status == VerifyStatus::Verified);
    assert!(reader.verify_all(&me(), &Task::unattended()).unwrap().all_verified());
    assert!(reader.mounts().unwrap().is_empty());
    let watched = Task::unattended().with_progress(|_| panic!("nothing is hashed for what cannot be done"));
    for e in [
        reader.delete(&name("m"), &me()).expect_err("a change"),
        reader.quarantine(&name("m"), "why", None, &me()).expect_err("a change"),
        reader.quarantine(&name("m"), "", None, &me()).expect_err("a change, whatever else is wrong with it"),
        reader.release(&name("m"), "why", &me(), &watched).expect_err("a change"),
        reader.release(&name("none"), "why", &me(), &watched).expect_err("a change"),
        reader.release_deleted(&name("m"), "why", &me()).expect_err("a change"),
        reader.make_immutable().expect_err("a change"),
        reader.audit_note(Noted::Refuse, "m", "why", &me()).expect_err("a line"),
        reader.record_mount(std::path::Path::new("/m")).expect_err("a record"),
        {
            let source = Source::open(&root.source("n.gguf", &gguf(99, 3))).unwrap();
            reader.promote(PromoteRequest::new(name("n")), source, &me(), &Task::unattended()).expect_err("a change")
        },
    ] {
        assert_eq!(e.kind(), ErrorKind::Permission);
        assert!(e.to_string().contains("read-only"), "{e}");
    }
    assert_eq!(everything(&root), before, "not a lock, not a stamp");

    // Damage is refused here, and nobody is told; a writer puts good bytes in their place.
    flip(&root.blob("m"), G as u64 + 5);
    assert_eq!(file.read_at(&mut out, 0).expect_err("damaged").kind(), ErrorKind::Corrupt);
    let again = || reader.open_file(&name("m"), &rel("m.gguf"), ReadMode::Cached);
    assert_eq!(again().expect_err("condemned").kind(), ErrorKind::Corrupt);
    assert_eq!(reader.verify(&name("m"), &me(), &Task::unattended()).unwrap().status, VerifyStatus::Failed);
    assert_eq!(again().expect_err("still").kind(), ErrorKind::Corrupt);
    assert!(root.registry.catalog().unwrap().require(&name("m")).unwrap().is_promoted());
    assert!(reader.open_file(&name("other"), &rel("other.gguf"), ReadMode::Cached).is_ok());
    assert_eq!(root.registry.verify(&name("m"), &me(), &Task::unattended()).unwrap().status, VerifyStatus::Failed);
    assert_eq!(again().expect_err("quarantined").kind(), ErrorKind::Quarantined);
    root.promote("m", &bytes);
    again().expect("another file stands there");
}

#[test]
fn a_read_only_registry_serves_again_what_was_put_right_whichever_of_the_two_files_was_damaged() {
    let root = Root::new();
    let bytes = gguf(3 * G, 1);
    root.promote("m", &bytes);
    let task = Task::unattended;
    for path in [root.tree("m"), root.blob("m")] {
        let good = std::fs::read(&path).unwrap();
        let reader = Registry::open_read_only(root.path()).unwrap();
        let open = || reader.open_file(&name("m"), &rel("m.gguf"), ReadMode::Cached);
        let file = open().unwrap();
        let restore = || std::os::unix::fs::FileExt::write_all_at(&writable(&path), &good, 0).unwrap();

        // Found by an open: another look is enough, for an open of what was written checks every byte.
        flip(&path, 100);
        for _ in 0..2 {
            assert_eq!(open().expect_err("damaged").kind(), ErrorKind::Corrupt);
        }
        restore();
        open().expect("put right, in the very same file");

        // Found by a verification, and let go by one.
        flip(&path, 100);
        assert_eq!(reader.verify(&name("m"), &me(), &task()).unwrap().status, VerifyStatus::Failed);
        assert_eq!(open().expect_err("damaged").kind(), ErrorKind::Corrupt);
        restore();
        assert_eq!(reader.verify(&name("m"), &me(), &task()).unwrap().status, VerifyStatus::Verified);
        open().expect("put right");

        // Missing is damaged, and stays so until something stands there.
        let aside = root.dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        for _ in 0..2 {
            assert_eq!(open().expect_err("missing").kind(), ErrorKind::Corrupt);
        }
        std::fs::rename(&aside, &path).unwrap();
        open().expect("put back");
        let mut out = vec![0; bytes.len()];
        assert_eq!(file.read_at(&mut out, 0).unwrap(), bytes.len());
        assert_eq!(out, bytes);
    }
}

#[test]
fn small_reads_agree_with_large_ones_on_every_border() {
    let root = Root::new();
    let bytes = gguf(2 * G + 100, 7);
    root.promote("m", &bytes);
    let file = root.open("m").unwrap();
    for offset in [0, 1, G - 10, G - 1, G, G + 1, 2 * G - 4096, 2 * G + 99, 2 * G + 100, 2 * G + 5000, 3, G + 7] {
        for want in [0, 1, 9, 10, 11, 4096, G / 2 - 1, G / 2, G] {
            let mut out = vec![0xaa; want];
            let n = file.read_at(&mut out, offset as u64).unwrap();
            let expected = &bytes[offset.min(bytes.len())..(offset + want).min(bytes.len())];
            assert_eq!(&out[..n], expected, "{want} at {offset}");
        }
    }
    // What was checked stays readable; what was not is not served from anywhere.
    let mut out = [0; 16];
    file.read_at(&mut out, 0).unwrap();
    flip(&root.blob("m"), 5);
    flip(&root.blob("m"), G as u64 + 5);
    assert_eq!(file.read_at(&mut out, 0).unwrap(), 16);
    assert_eq!(out, bytes[..16]);
    assert_eq!(file.read_at(&mut out, G as u64).expect_err("damaged").kind(), ErrorKind::Corrupt);
    assert_eq!(file.read_at(&mut out, 0).expect_err("the group in hand was given up").kind(), ErrorKind::Corrupt);
    root.registry.quarantine(&name("m"), "an incident", None, &me()).unwrap();
    assert_eq!(file.read_at(&mut out, 2 * G as u64).expect_err("ended").kind(), ErrorKind::Quarantined);
}

#[test]
fn many_threads_read_small_pieces_of_one_file() {
    let root = Root::new();
    let bytes = gguf(4 * G, 8);
    root.promote("m", &bytes);
    let file = root.open("m").unwrap();
    std::thread::scope(|scope| {
        for t in 0..16usize {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || {
                let mut out = [0; 100];
                for i in 0..200 {
                    let at = (t * 7919 + i * 104_729) % (bytes.len() - 100);
                    assert_eq!(file.read_at(&mut out, at as u64).unwrap(), 100);
                    assert_eq!(out, bytes[at..at + 100]);
                }
            });
        }
    });
}

#[test]
fn sealed_memory_holds_the_promoted_bytes_and_nobody_can_change_them() {
    let root = Root::new();
    for len in [24, G, G + 1, 9 << 20] {
        let bytes = gguf(len, 3);
        let model = format!("m{len}");
        root.promote(&model, &bytes);
        let sealed = seal(&root, &model).unwrap();
        assert_eq!((sealed.len(), sealed.is_empty()), (len as u64, false));
        assert_eq!(*sealed.sha256(), Sha256Digest::of(&bytes));
        assert_eq!(sealed.bytes().unwrap(), bytes);
        let path = sealed.checked_path().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let seals = rustix::fs::fcntl_get_seals(sealed.checked_fd().unwrap()).unwrap();
        for seal in ["WRITE", "SHRINK", "GROW", "SEAL"].map(|n| rustix::fs::SealFlags::from_name(n).unwrap()) {
            assert!(seals.contains(seal), "{seals:?}");
        }
        assert_eq!(
            rustix::io::write(sealed.checked_fd().unwrap(), b"x").expect_err("read-only"),
            rustix::io::Errno::BADF
        );
        // Whoever opens it for writing may, and cannot write.
        let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
        assert_eq!(writer.write(b"x").expect_err("sealed").raw_os_error(), Some(libc::EPERM));
        assert!(writer.set_len(0).is_err() && writer.set_len(1 << 30).is_err(), "neither shrinks nor grows");
    }
}

#[test]
fn one_content_is_one_memfd_however_many_ask() {
    let root = Root::new();
    let bytes = gguf(5 << 20, 4);
    root.promote("a", &bytes);
    root.promote("b", &bytes);
    let other = root.again();
    let inode = |sealed: &Sealed| rustix::fs::fstat(sealed.checked_fd().unwrap()).unwrap().st_ino;
    let all: Vec<Sealed> = std::thread::scope(|scope| {
        let ask = |i: usize| {
            let registry = if i.is_multiple_of(2) { &root.registry } else { &other };
            scope.spawn(move || seal_in(registry, if i.is_multiple_of(3) { "a" } else { "b" }).unwrap())
        };
        let threads: Vec<_> = (0..12).map(ask).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let first = inode(&all[0]);
    assert!(all.iter().all(|sealed| inode(sealed) == first));
    drop(all);
    let later = seal(&root, "a").unwrap();
    assert_eq!(later.bytes().unwrap(), bytes, "given back, and filled again");
}

#[test]
fn sealing_refuses_what_is_quarantined_damaged_or_cancelled() {
    let root = Root::new();
    root.promote("m", &gguf(9 << 20, 5));
    let path = rel("m.gguf");
    let stop = AtomicBool::new(false);
    let task = Task::unattended().with_progress(|_| stop.store(true, Ordering::Relaxed)).cancelled_by(&stop);
    let e = root.registry.open_sealed(&name("m"), &path, &task).expect_err("cancelled");
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    assert!(seal(&root, "m").is_ok());

    // Below the stamp: what a device does, and no stat shows.
    let blob = root.blob("m");
    damage_below(&root, "m", || flip(&blob, 5 << 20));
    let e = seal(&root, "m").expect_err("damaged");
    assert_eq!((e.kind(), e.name()), (ErrorKind::Corrupt, Some("m")), "{e}");
    let e = seal(&root, "m").expect_err("quarantined by that");
    assert_eq!(e.kind(), ErrorKind::Quarantined);
}

#[test]
fn what_does_not_fit_into_memory_is_refused_naming_the_need() {
    // A limit of this process's own, so in a process of its own.
    if std::env::var_os("SECUREREG_TEST_CHILD").is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "what_does_not_fit_into_memory_is_refused_naming_the_need";
        let child = std::process::Command::new(me).args([name, "--exact"]).env("SECUREREG_TEST_CHILD", "1").output();
        let child = child.unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
        return;
    }
    let root = Root::new();
    root.promote("m", &gguf(2 << 20, 6));
    let limit = rustix::process::Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    let e = seal(&root, "m").expect_err("over the limit");
    assert_eq!((e.kind(), e.name()), (ErrorKind::NoMemory, Some("m")));
    let text = e.to_string();
    assert!(text.contains("needs 2097152 bytes") && text.contains("leaves 1048576"), "{text}");
}

fn poll(events: &Events) -> bool {
    let mut fds = [rustix::event::PollFd::new(events, rustix::event::PollFlags::IN)];
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1
}

fn drain(events: &mut Events) -> Vec<(EventKind, String, usize)> {
    let mut all = Vec::new();
    while let Some(event) = events.poll().unwrap() {
        all.push((event.kind, event.name, event.sealed));
    }
    all
}

#[test]
fn events_tell_what_another_process_changed_and_a_quarantine_always() {
    use EventKind::*;
    let root = Root::new();
    let writer = root.again();
    root.promote("a", &gguf(100, 1));
    let mut events = root.registry.events().unwrap();
    assert!(!poll(&events));
    assert_eq!(drain(&mut events), []);
    let one = |kind, name: &str, sealed| (kind, name.to_owned(), sealed);

    root.promote("b", &gguf(100, 2));
    assert!(poll(&events));
    assert_eq!(drain(&mut events), [one(Promoted, "b", 0)]);
    assert!(!poll(&events));

    let held = seal(&root, "a").unwrap();
    writer.quarantine(&name("a"), "why", None, &me()).unwrap();
    assert!(poll(&events));
    assert_eq!(drain(&mut events), [one(Quarantined, "a", 1)], "and this process holds its bytes");
    assert_eq!(held.bytes().unwrap(), gguf(100, 1), "which outlive it");
    writer.release(&name("a"), "good", &me(), &Task::unattended()).unwrap();
    assert_eq!(drain(&mut events), [one(Released, "a", 1)]);
    drop(held);

    // Readable until everything is told.
    root.promote("c", &gguf(100, 9));
    root.promote("d", &gguf(100, 10));
    assert!(poll(&events));
    assert_eq!(events.poll().unwrap().map(|e| e.name).as_deref(), Some("c"));
    assert!(poll(&events), "one more is queued");
    assert_eq!(events.poll().unwrap().map(|e| e.name).as_deref(), Some("d"));
    assert!(!poll(&events));

    // Between two looks: in and out of quarantine, and quarantined and deleted.
    writer.quarantine(&name("a"), "why", None, &me()).unwrap();
    writer.release(&name("a"), "good", &me(), &Task::unattended()).unwrap();
    writer.quarantine(&name("b"), "why", None, &me()).unwrap();
    writer.delete(&name("b"), &me()).unwrap();
    let told = drain(&mut events);
    let expected = [one(Quarantined, "a", 0), one(Released, "a", 0), one(Quarantined, "b", 0), one(Deleted, "b", 0)];
    assert_eq!(told, expected);

    root.promote("t:1", &gguf(100, 3));
    assert_eq!(drain(&mut events), [one(Promoted, "t:1", 0)]);
    root.promote("t:1", &gguf(100, 4));
    assert_eq!(drain(&mut events), [one(Replaced, "t:1", 0)]);
    writer.delete(&name("t:1"), &me()).unwrap();
    assert_eq!(drain(&mut events), [one(Deleted, "t:1", 0)]);
}

#[test]
fn no_quarantine_between_two_looks_goes_untold() {
    use EventKind::*;
    let root = Root::new();
    let one = |kind, name: &str, sealed| (kind, name.to_owned(), sealed);
    let quarantine = |model: &str| drop(root.registry.quarantine(&name(model), "why", None, &me()).unwrap());
    let release = |model: &str| drop(root.registry.release(&name(model), "good", &me(), &Task::unattended()).unwrap());
    let mut events = root.registry.events().unwrap();

    // New, sealed by this process, quarantined, and gone.
    root.promote("a", &gguf(100, 41));
    let held = seal(&root, "a").unwrap();
    quarantine("a");
    root.registry.delete(&name("a"), &me()).unwrap();
    assert_eq!(drain(&mut events), [one(Promoted, "a", 1), one(Quarantined, "a", 1), one(Deleted, "a", 1)]);
    drop(held);

    // New, quarantined, released.
    root.promote("b", &gguf(100, 42));
    let held = seal(&root, "b").unwrap();
    quarantine("b");
    release("b");
    assert_eq!(drain(&mut events), [one(Promoted, "b", 1), one(Quarantined, "b", 1), one(Released, "b", 1)]);
    drop(held);

    // Quarantined at both looks, and served in between.
    quarantine("b");
    assert_eq!(drain(&mut events), [one(Quarantined, "b", 0)]);
    release("b");
    let held = seal(&root, "b").unwrap();
    quarantine("b");
    assert_eq!(drain(&mut events), [one(Quarantined, "b", 1)]);
    drop(held);

    // A tag that moved while its old content was held.
    root.promote("t:1", &gguf(100, 43));
    let held = seal(&root, "t:1").unwrap();
    drain(&mut events);
    flip(&root.blob("t:1"), 30);
    assert_eq!(root.verify("t:1").status, VerifyStatus::Failed);
    root.promote("t:1", &gguf(100, 44));
    let told = drain(&mut events);
    assert_eq!(told, [one(Quarantined, "t:1", 1), one(Replaced, "t:1", 1), one(Released, "t:1", 1)]);
    drop(held);

    // Behind more refusals than are looked at at once.
    root.promote("e", &gguf(100, 45));
    drain(&mut events);
    quarantine("e");
    root.registry.delete(&name("e"), &me()).unwrap();
    let why = "y".repeat(2000);
    (0..700).for_each(|_| root.registry.audit_note(Noted::Refuse, "x", &why, &me()).unwrap());
    assert_eq!(drain(&mut events), [one(Quarantined, "e", 0), one(Deleted, "e", 0)]);
}

#[test]
fn the_header_of_a_real_model_is_read_without_its_weights() {
    let root = Root::new();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-llama.gguf");
    root.promote_path("tiny", &file).unwrap();
    let open = || root.registry.open_file(&name("tiny"), &rel("tiny-llama.gguf"), ReadMode::Cached).unwrap();
    let header = open().gguf_header().unwrap();
    assert_eq!(header.value("general.architecture"), Some(&Value::String(b"llama".to_vec())));
    let Some(Value::Array(Array::Strings(tokens))) = header.value("tokenizer.ggml.tokens") else { panic!("tokens") };
    assert!(tokens.len() > 100 && tokens.get(0).is_some());
    let names: Vec<&str> = header.tensors.iter().map(|t| t.name.as_str()).collect();
    assert!(names.contains(&"token_embd.weight") && names.contains(&"output_norm.weight"), "{names:?}");
    let last = header.tensors.iter().map(|t| t.offset + t.size_bytes).max().unwrap();
    assert!(header.data_offset + last <= open().len());
    flip(&root.blob("tiny"), 100);
    let e = open_error(&root);
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
}

#[test]
fn a_header_longer_than_one_read_is_read_whole() {
    let root = Root::new();
    let words: Vec<String> = (0..40_000).map(|i| format!("word{i}")).collect();
    let list: Vec<&str> = words.iter().map(String::as_str).collect();
    root.promote("m", &gguf_with(&[("list", Meta::Strs(&list))], &[("t", I8, &[1], &[7])]));
    let header = root.open("m").unwrap().gguf_header().unwrap();
    let Some(Value::Array(Array::Strings(strings))) = header.value("list") else { panic!("strings") };
    assert_eq!(strings.len(), words.len());
    assert!(words.iter().enumerate().all(|(i, w)| strings.get(i) == Some(w.as_bytes())));
}

#[test]
fn what_the_tests_promote_ends_where_its_last_tensor_does() {
    let root = Root::new();
    let two = gguf_with(
        &[("a.name", Meta::Str("x")), ("a.ids", Meta::I32s(&[1, -1]))],
        &[("a", F32, &[3], &[1; 12]), ("b", F16, &[2, 2], &[2; 8])],
    );
    for (model, bytes) in [("least", gguf(65, 1)), ("large", gguf(3 * G + 7, 1)), ("two", two), ("none", gguf(24, 1))] {
        root.promote(model, &bytes);
        let header = root.open(model).unwrap().gguf_header().unwrap();
        let ends: Vec<u64> = header.tensors.iter().map(|t| header.data_offset + t.offset + t.size_bytes).collect();
        assert_eq!(*ends.last().unwrap_or(&24), bytes.len() as u64, "{model}");
        for (tensor, end) in header.tensors.iter().skip(1).zip(ends) {
            assert_eq!(header.data_offset + tensor.offset, end.next_multiple_of(32), "{model}: no gap, no overlap");
        }
    }
    assert_eq!((gguf(65, 1).len(), gguf(100, 1) == gguf(100, 2)), (65, false));

    let shards = split_of("set", 3, 7);
    shards.iter().for_each(|(file, bytes)| drop(root.source(file, bytes)));
    root.promote_path("set", &root.dir.path().join("source").join(&shards[0].0)).unwrap();
    for (no, (file, bytes)) in (0..).zip(&shards) {
        assert_eq!(*file, format!("set-0000{}-of-00003.gguf", no + 1));
        let open = root.registry.open_file(&name("set"), &rel(file), ReadMode::Cached).unwrap();
        let header = open.gguf_header().unwrap();
        assert_eq!(header.value("split.no"), Some(&Value::Unsigned(ValueType::U16, no)));
        assert_eq!(header.value("split.count"), Some(&Value::Unsigned(ValueType::U16, 3)));
        assert_eq!(header.value("split.tensors.count"), Some(&Value::Signed(ValueType::I32, 3)));
        assert_eq!((header.tensors.len(), header.data_offset + 64), (1, bytes.len() as u64));
    }

    assert_eq!(safetensors(&[]), b"\x02\0\0\0\0\0\0\0{}");
    let bytes = safetensors(&[("a", "U8", &[3], b"abc"), ("b.c", "I16", &[1, 2], b"defg"), ("none", "F32", &[0], b"")]);
    root.promote_path("st", &root.source("st.safetensors", &bytes)).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    assert_eq!(header["b.c"], serde_json::json!({"dtype": "I16", "shape": [1, 2], "data_offsets": [3, 7]}));
    assert_eq!((header.as_object().unwrap().len(), data), (3, b"abcdefg".as_slice()));
}

#[test]
fn a_verification_in_a_read_only_registry_takes_what_failed_out_of_service_here() {
    let root = Root::new();
    root.promote("m", &gguf(200_000, 61));
    root.promote("n", &gguf(200_000, 62));
    let reader = Registry::open_read_only(root.path()).unwrap();
    let blob = root.blob("m");
    // Below the stamp, so that no open would notice.
    damage_below(&root, "m", || flip(&blob, 150_000));
    let open = |model: &str| reader.open_file(&name(model), &rel(&format!("{model}.gguf")), ReadMode::Cached);
    assert!(open("m").is_ok());
    assert!(!reader.verify_all(&me(), &Task::unattended()).unwrap().all_verified());
    assert_eq!(open("m").expect_err("condemned").kind(), ErrorKind::Corrupt);
    assert!(open("n").is_ok());
}

fn open_error(root: &Root) -> Error {
    let file = root.registry.open_file(&name("tiny"), &rel("tiny-llama.gguf"), ReadMode::Cached);
    file.and_then(|file| file.gguf_header()).expect_err("damaged")
}
