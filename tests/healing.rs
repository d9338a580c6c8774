//! What must hold when things happen at the same time, or in an unlucky order: damage beside a promotion, a release beside an
//! incident, a move beside a writer.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use securereg::*;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use support::*;

const G: usize = GROUP as usize;

fn moved(root: &Root, model: &str, path: &Path) -> Result<Promotion> {
    let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new(name(model)) };
    root.registry.promote(request, Source::open(path).unwrap(), &me(), &Task::unattended())
}

#[test]
fn good_bytes_heal_what_rotted_below_its_stamp() {
    for transfer in [Transfer::Copy, Transfer::Move] {
        let root = Root::new();
        let bytes = gguf(3 * G, 1);
        root.promote("m", &bytes);
        damage_below(&root, "m", || flip(&root.blob("m"), 70_000));
        let file = root.open("m").expect("the stamp shows nothing");
        assert_eq!(file.read_at(&mut vec![0; bytes.len()], 0).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(root.status("m"), "quarantined");
        let path = root.source("m.gguf", &bytes);
        let request = PromoteRequest { transfer, ..PromoteRequest::new(name("m")) };
        root.registry.promote(request, Source::open(&path).unwrap(), &me(), &Task::unattended()).unwrap();
        assert_eq!((root.status("m"), root.read("m").unwrap()), ("promoted", bytes.clone()), "{transfer:?}");
        assert_eq!(
            root.again().open_file(&name("m"), &rel("m.gguf"), ReadMode::Direct).unwrap().len(),
            bytes.len() as u64
        );
        // The old handle is on the damaged file, and says nothing about the good one.
        assert_eq!(file.read_at(&mut vec![0; bytes.len()], 0).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(root.status("m"), "promoted", "{transfer:?}");
        assert_eq!(root.read("m").unwrap(), bytes, "nor does its tree");
    }
}

#[test]
fn a_lost_tree_or_blob_is_healed_by_promoting_the_same_bytes_under_any_name() {
    type Loss = fn(&Root) -> std::path::PathBuf;
    for (what, lost) in [("tree", (|r| r.tree("m")) as Loss), ("blob", |r| r.blob("m"))] {
        for other in ["m", "n"] {
            let root = Root::new();
            root.promote("m", &gguf(3 * G, 1));
            std::fs::remove_file(lost(&root)).unwrap();
            assert_eq!(root.open("m").unwrap_err().kind(), ErrorKind::Corrupt);
            let path = root.source(&format!("{other}.gguf"), &gguf(3 * G, 1));
            root.promote_path(other, &path).unwrap();
            assert_eq!(root.read(other).unwrap(), gguf(3 * G, 1), "{what} lost, promoted as {other}");
            assert_eq!(root.verify("m").status, VerifyStatus::Verified, "{what}, {other}");
            assert_eq!(root.status("m"), "promoted");
        }
    }
}

#[test]
fn a_move_never_trusts_a_stored_file_it_has_not_checked() {
    // Missing, then tampered with: both not noticed yet, the model is still promoted.
    let damages: [fn(&Path); 2] = [|p| std::fs::remove_file(p).unwrap(), |p| flip(p, 100)];
    for damage in damages {
        let root = Root::new();
        root.promote("m", &gguf(3 * G, 1));
        damage(&root.blob("m"));
        let path = root.source("m.gguf", &gguf(3 * G, 1));
        assert_eq!(moved(&root, "m", &path).unwrap().outcome, Outcome::AlreadyThere);
        assert!(!path.exists());
        assert_eq!(root.again().verify(&name("m"), &me(), &Task::unattended()).unwrap().status, VerifyStatus::Verified);
        assert_eq!(root.read("m").unwrap(), gguf(3 * G, 1));
    }
}

#[test]
fn a_moved_source_that_changed_after_it_was_read_stays() {
    let root = Root::new();
    let early = root.source("hf/a.json", b"{}");
    // Open for writing, so that its bytes are copied and the name goes only at the end.
    let mut writer = std::fs::OpenOptions::new().append(true).open(&early).unwrap();
    root.source("hf/b.gguf", &gguf(12 << 20, 1));
    let mut once = false;
    let task = Task::unattended().with_progress(move |p| {
        if p.done > 4 << 20 && !std::mem::replace(&mut once, true) {
            writer.write_all(b"news").unwrap();
        }
    });
    let request = PromoteRequest { transfer: Transfer::Move, ..PromoteRequest::new(name("hf")) };
    root.registry.promote(request, Source::open(&root.dir.path().join("source/hf")).unwrap(), &me(), &task).unwrap();
    assert_eq!(std::fs::read(&early).unwrap(), b"{}news", "what was written after it was read is nowhere else");
    let file = root.registry.open_file(&name("hf"), &rel("a.json"), ReadMode::Cached).unwrap();
    assert_eq!(file.len(), 2);
}

#[test]
fn a_refused_move_gives_the_source_back_as_it_was() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let path = root.source("other.gguf", &gguf(100, 2));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(moved(&root, "m", &path).unwrap_err().kind(), ErrorKind::Conflict);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.nlink(), meta.mode() & 0o777, meta.len()), (1, 0o640, 100));
    assert!(root.names("tmp").is_empty());
}

#[test]
fn paths_that_could_not_be_shown_are_refused_before_they_are_registered() {
    let root = Root::new();
    let deep = |n: usize| vec!["d"; n].join("/");
    let flat = root.source("m.gguf", &gguf(100, 1));
    for model in [format!("{}:tag", deep(32)), deep(32)] {
        let artifact = root.promote_path(&model, &flat).unwrap().artifact;
        root.registry.describe(&artifact).unwrap();
        assert_eq!(artifact.mount_path(&artifact.files[0]), artifact.entry_path());
        root.registry.delete(&name(&model), &me()).unwrap();
    }
    root.source(&format!("deep/{}/m.gguf", deep(31)), &gguf(100, 2));
    let artifact =
        root.promote_path(&format!("{}:tag", deep(32)), &root.dir.path().join("source/deep")).unwrap().artifact;
    assert_eq!(artifact.mount_path(&artifact.files[0]).components().count(), 65);
    root.source(&format!("deeper/{}/m.gguf", deep(32)), &gguf(100, 3));
    let e = root.promote_path("deeper", &root.dir.path().join("source/deeper")).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Refused | ErrorKind::InvalidInput), "{e}");
    let long = format!("{}/{}", "a".repeat(126), "b".repeat(126));
    let folder = format!("{0}/{0}/{0}/{0}", "c".repeat(200));
    root.source(&format!("long/{folder}/m.gguf"), &gguf(100, 4));
    let e = root.promote_path(&long, &root.dir.path().join("source/long")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    assert_eq!(root.again().catalog().unwrap().len(), 1);
}

#[test]
fn a_release_lifts_only_the_quarantine_it_looked_into() {
    let root = Root::new();
    root.promote("m", &gguf(40 << 20, 1));
    root.registry.quarantine(&name("m"), "first", Some("inc-1"), &me()).unwrap();
    let other = root.again();
    let mut once = false;
    let task = Task::unattended().with_progress(move |_| {
        if !std::mem::replace(&mut once, true) {
            other.quarantine(&name("m"), "backdoor found", Some("inc-2"), &me()).unwrap();
        }
    });
    let Release::Model(report) = root.registry.release(&name("m"), "inc-1 is closed", &me(), &task).unwrap() else {
        panic!("m is registered")
    };
    assert_eq!((report.status, report.restored, root.status("m")), (VerifyStatus::Verified, false, "quarantined"));
    let catalog = root.registry.catalog().unwrap();
    assert_eq!(catalog.require(&name("m")).unwrap().quarantine.as_ref().unwrap().incident_id.as_deref(), Some("inc-2"));
}

#[test]
fn a_handle_that_an_incident_ended_stays_ended_when_the_model_is_deleted() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let file = root.open("m").unwrap();
    root.registry.quarantine(&name("m"), "why", None, &me()).unwrap();
    assert_eq!(file.read_at(&mut [0; 4], 0).unwrap_err().kind(), ErrorKind::Quarantined);
    root.registry.delete(&name("m"), &me()).unwrap();
    assert_eq!(file.read_at(&mut [0; 4], 0).unwrap_err().kind(), ErrorKind::Quarantined);

    // Also when nobody looked between the two; and a delete alone still leaves open files readable.
    root.promote("n", &gguf(100, 2));
    root.promote("o", &gguf(100, 3));
    let (ended, kept) = (root.open("n").unwrap(), root.open("o").unwrap());
    root.registry.quarantine(&name("n"), "why", None, &me()).unwrap();
    root.registry.delete(&name("n"), &me()).unwrap();
    root.registry.delete(&name("o"), &me()).unwrap();
    assert_eq!(ended.read_at(&mut [0; 4], 0).unwrap_err().kind(), ErrorKind::Quarantined);
    assert_eq!(kept.read_at(&mut [0; 4], 0).unwrap(), 4);
}

/// Writes more refusals than the log is read back.
fn grow_the_log(root: &Root) {
    let log = root.path().join("audit.jsonl");
    let before = log.metadata().unwrap().len();
    // Each quote takes two bytes there.
    let long = "\"".repeat(2048);
    while log.metadata().unwrap().len() < before + (5 << 18) {
        root.registry.audit_note(Noted::Refuse, &long, &long, &Actor::new("test", long.as_str())).unwrap();
    }
}

#[test]
fn however_long_the_log_has_grown_since_what_an_incident_ended_stays_ended() {
    let root = Root::new();
    let (weights, words) = (gguf(100, 1), b"words");
    for (model, seed, words) in [("hf", 1, &words[..]), ("other", 9, words), ("solo", 5, b"words of its own")] {
        root.source(&format!("{model}/m.gguf"), &gguf(100, seed));
        root.source(&format!("{model}/LICENSE"), words);
        root.promote_path(model, &root.dir.path().join("source").join(model)).unwrap();
    }
    root.promote("rotten", &gguf(100, 2));
    root.promote("t:1", &gguf(100, 3));
    let open = |model: &str, path: &str| root.registry.open_file(&name(model), &rel(path), ReadMode::Cached).unwrap();
    let by_digest = |bytes: &[u8]| root.registry.open_blob(&Sha256Digest::of(bytes), ReadMode::Cached).unwrap();
    let ended = [open("hf", "m.gguf"), open("hf", "LICENSE"), by_digest(&weights), by_digest(b"words of its own")];
    // Another model's licence; a licence by itself; one that integrity took; what a tag stood for before.
    let (shared, rotten, tag) = (open("other", "LICENSE"), open("rotten", "rotten.gguf"), open("t:1", "t_1.gguf"));
    let kept = [shared, by_digest(words), rotten, tag];

    root.promote("t:1", &gguf(100, 4));
    flip(&root.blob("rotten"), 50);
    assert_eq!(root.verify("rotten").status, VerifyStatus::Failed);
    // Damaged, it would not be read for that reason.
    flip(&root.blob("rotten"), 50);
    for model in ["hf", "t:1", "solo"] {
        root.registry.quarantine(&name(model), "why", None, &me()).unwrap();
    }
    // A licence blocks nothing: of one opened by digest, only a look tells what had ended it.
    assert_eq!(ended[3].read_at(&mut [0; 4], 0).unwrap_err().kind(), ErrorKind::Quarantined);
    for model in ["hf", "t:1", "solo", "other", "rotten"] {
        root.registry.delete(&name(model), &me()).unwrap();
    }
    grow_the_log(&root);
    assert!(std::fs::metadata(root.path().join("audit.jsonl")).unwrap().len() > 1 << 20, "longer than one look at it");
    assert!(root.registry.quarantined_since(0).unwrap().contains("hf"), "which is followed by more");
    for _ in 0..2 {
        for file in &ended {
            let e = file.read_at(&mut [0; 4], 0).expect_err("an incident ended it");
            assert_eq!(e.kind(), ErrorKind::Quarantined, "{e}");
        }
        for file in &kept {
            assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 4, "{}", file.path());
        }
    }
    // A release lets the bytes come back; it does not bring back what was ended.
    root.registry.release_deleted(&name("hf"), "looked into", &me()).unwrap();
    for file in &ended {
        assert_eq!(file.read_at(&mut [0; 4], 0).unwrap_err().kind(), ErrorKind::Quarantined);
    }
}

#[test]
fn a_file_opened_by_digest_lives_while_any_model_holding_it_is_promoted() {
    let root = Root::new();
    root.promote("a", &gguf(100, 1));
    let second = root.promote("b", &gguf(100, 1));
    let file = root.registry.open_blob(&second.artifact.files[0].sha256, ReadMode::Cached).unwrap();
    root.registry.quarantine(&name("b"), "why", None, &me()).unwrap();
    root.promote("c", &gguf(100, 2));
    assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 4);
    root.registry.quarantine(&name("a"), "why", None, &me()).unwrap();
    assert_eq!(file.read_at(&mut [0; 4], 0).unwrap_err().kind(), ErrorKind::Quarantined);

    // Released, and then taken by integrity, which ends no open file: its bytes are checked in any case.
    for model in ["a", "b"] {
        assert!(root.release(model, "looked into").restored);
    }
    flip(&root.blob("a"), 50);
    assert!(!root.registry.verify_all(&me(), &Task::unattended()).unwrap().all_verified());
    flip(&root.blob("a"), 50);
    assert_eq!((root.status("a"), root.status("b")), ("quarantined", "quarantined"));
    assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 4);
}

#[test]
fn an_incident_does_not_reach_models_that_share_only_a_licence() {
    let root = Root::new();
    for i in 0..2 {
        root.source(&format!("hf{i}/LICENSE"), b"the same words");
        root.source(&format!("hf{i}/m.gguf"), &gguf(100, i));
    }
    root.promote_path("hf0", &root.dir.path().join("source/hf0")).unwrap();
    root.registry.quarantine(&name("hf0"), "why", None, &me()).unwrap();
    root.promote_path("hf1", &root.dir.path().join("source/hf1")).unwrap();
    assert_eq!(root.status("hf1"), "promoted");
}

#[test]
fn a_damaged_file_of_many_models_is_one_change_with_a_line_for_each() {
    let root = Root::new();
    for i in 0..20 {
        root.promote(&format!("m{i}"), &gguf(100, 1));
    }
    let before = root.registry.catalog().unwrap().generation();
    flip(&root.blob("m0"), 50);
    assert_eq!(root.open("m7").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(root.registry.catalog().unwrap().generation(), before + 1);
    for i in 0..20 {
        assert!(
            root.has_event("verify_failed", "noted", &format!("m{i}"))
                && root.has_event("quarantine", "applied", &format!("m{i}"))
        );
    }
    assert_eq!(root.registry.audit_verify().unwrap().lines, 20 * 2 + 20 * 3);
}

#[test]
fn a_verification_says_nothing_of_what_was_deleted_or_replaced_meanwhile() {
    let root = Root::new();
    root.promote("gone", &gguf(40 << 20, 1));
    root.promote("kept", &gguf(100, 2));
    let other = root.again();
    let mut once = false;
    let task = Task::unattended().with_progress(move |_| {
        if !std::mem::replace(&mut once, true) {
            other.delete(&name("gone"), &me()).unwrap();
        }
    });
    let all = root.registry.verify_all(&me(), &task).unwrap();
    assert!(all.all_verified() && all.models.iter().all(|m| m.name.as_str() == "kept"), "{all:?}");
    assert!(!root.events().iter().any(|(event, ..)| event == "verify_failed"));
}

#[test]
fn no_call_misses_a_change_that_another_thread_is_still_loading() {
    let root = Root::new();
    for i in 0..30 {
        root.promote(&format!("m{i}"), &gguf(100, i));
    }
    let reader = root.again();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                reader.catalog().unwrap();
            }
        });
        for _ in 0..30 {
            let wanted = root
                .registry
                .quarantine(&name("m0"), "why", None, &me())
                .map(|_| root.registry.catalog().unwrap().generation());
            assert!(reader.catalog().unwrap().generation() >= wanted.unwrap());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn evidence_is_kept_with_its_model_or_not_at_all_and_cannot_pass_for_the_registrys_word() {
    let root = Root::new();
    let attempt = |model: &str, seed: u64| {
        let mut request = PromoteRequest::new(name(model));
        for key in [
            "quarantine",
            "files",
            "status",
            "blake3",
            "filename",
            "mounted",
            "inspection",
            "adapter",
            "gguf_guard_manifest",
        ] {
            request.evidence.insert(key.into(), serde_json::json!("forged"));
        }
        request.evidence.insert("scan_results".into(), serde_json::json!("clean"));
        let path = root.source("m.gguf", &gguf(100, seed));
        root.registry.promote(request, Source::open(&path).unwrap(), &me(), &Task::unattended())
    };
    let artifact = attempt("m", 1).unwrap().artifact;
    let json = root.registry.describe(&artifact).unwrap();
    assert_eq!((json["scan_results"].as_str(), json["status"].as_str()), (Some("clean"), Some("promoted")));
    assert!(json["quarantine"].is_null() && json["files"].is_null());
    assert!(!json.to_string().contains("forged"), "{json}");
    attempt("m", 1).unwrap();
    assert_eq!(attempt("m", 2).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(root.names("sidecars/sha256").len(), 2, "what was sent along, and what inspection found");
    root.registry.delete(&name("m"), &me()).unwrap();
    assert_eq!(attempt("M", 1).and_then(|_| attempt("m", 3)).unwrap_err().kind(), ErrorKind::Conflict);
    root.registry.delete(&name("M"), &me()).unwrap();
    assert!(root.names("sidecars/sha256").is_empty() && root.names("tmp").is_empty());
}

#[test]
fn a_tree_cut_short_under_an_open_reader_is_damage_not_a_disk_error() {
    let root = Root::new();
    root.promote("m", &gguf(SPAN as usize + 3 * G, 1));
    let file = root.open("m").unwrap();
    writable(&root.tree("m")).set_len(48 + 64).unwrap();
    assert_eq!(file.read_at(&mut vec![0; G], SPAN).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(root.status("m"), "quarantined");
}

#[test]
fn a_log_that_lost_its_end_is_noticed() {
    let root = Root::new();
    for i in 0..4 {
        root.promote(&format!("m{i}"), &gguf(100, i));
    }
    let log = root.path().join("audit.jsonl");
    let good = std::fs::read_to_string(&log).unwrap();
    let cut: String = good.lines().take(3).map(|l| format!("{l}\n")).collect();
    std::fs::write(&log, cut).unwrap();
    assert_eq!(root.registry.audit_verify().unwrap_err().kind(), ErrorKind::Audit);
    std::fs::remove_file(&log).unwrap();
    assert_eq!(root.registry.audit_verify().unwrap_err().kind(), ErrorKind::Audit);
}

#[test]
fn a_link_below_the_root_leads_nowhere() {
    let root = Root::new();
    let aside = root.dir.path().join("aside");
    for folder in ["run", "blobs", "tmp"] {
        std::fs::rename(root.path().join(folder), &aside).unwrap();
        std::os::unix::fs::symlink(&aside, root.path().join(folder)).unwrap();
        assert!(Registry::open(root.path()).is_err(), "{folder}");
        assert!(Registry::open_or_create(root.path()).is_err(), "{folder}");
        std::fs::remove_file(root.path().join(folder)).unwrap();
        std::fs::rename(&aside, root.path().join(folder)).unwrap();
    }
    root.again();
}

#[test]
fn bounds_from_outside_are_kept() {
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let kind = |r: Result<std::sync::Arc<Artifact>>| r.unwrap_err().kind();
    assert_eq!(kind(root.registry.quarantine(&name("m"), &"r".repeat(4097), None, &me())), ErrorKind::TooLarge);
    assert_eq!(kind(root.registry.quarantine(&name("m"), "r", Some(&"i".repeat(257)), &me())), ErrorKind::TooLarge);
    root.registry.quarantine(&name("m"), &"r".repeat(4096), Some(&"i".repeat(256)), &me()).unwrap();
    let mut request = PromoteRequest::new(name("n"));
    request.evidence.insert("x".into(), "y".repeat(MAX_EVIDENCE).into());
    let source = Source::open(&root.source("n.gguf", &gguf(100, 2))).unwrap();
    let e = root.registry.promote(request, source, &me(), &Task::unattended()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
    let many = root.source("many/m.gguf", &gguf(100, 3));
    for i in 0..MAX_FILES {
        std::fs::File::create(many.with_file_name(format!("{i}.txt"))).unwrap();
    }
    let e = Source::open(many.parent().unwrap()).unwrap_err();
    assert!(e.to_string().contains("holds more than"), "{e}");
}

#[test]
fn a_tag_under_an_incident_does_not_move_and_one_that_integrity_took_does() {
    let root = Root::new();
    root.promote("t:1", &gguf(100, 1));
    let other = root.source("other.gguf", &gguf(100, 2));
    root.registry.quarantine(&name("t:1"), "an incident", None, &me()).unwrap();
    let e = root.promote_path("t:1", &other).expect_err("under an incident");
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.to_string().contains("release it first"), "{e}");
    assert_eq!(root.status("t:1"), "quarantined");
    root.registry.release(&name("t:1"), "good", &me(), &Task::unattended()).unwrap();

    flip(&root.blob("t:1"), 30);
    assert_eq!(root.verify("t:1").status, VerifyStatus::Failed);
    assert_eq!(root.promote_path("t:1", &other).unwrap().outcome, Outcome::Moved);
    assert_eq!(root.read("t:1").unwrap(), gguf(100, 2));
}

#[test]
fn what_is_stored_serves_a_new_name_only_while_it_is_known_to_be_good_and_never_a_move() {
    let root = Root::new();
    let bytes = gguf(200_000, 1);
    root.promote("a", &bytes);
    assert_eq!(root.promote("b", &bytes).method, Method::Shared);
    // Nobody has noticed yet.
    flip(&root.blob("a"), 70_000);
    let fresh = root.promote("c", &bytes);
    assert_ne!(fresh.method, Method::Shared);
    for model in ["a", "b", "c"] {
        assert_eq!(root.read(model).unwrap(), bytes, "{model}: the good bytes replaced the damaged ones");
    }
    let path = root.source("d.gguf", &bytes);
    let mut request = PromoteRequest::new(name("d"));
    request.transfer = Transfer::Move;
    let moved = root.registry.promote(request, Source::open(&path).unwrap(), &me(), &Task::unattended()).unwrap();
    assert_ne!(moved.method, Method::Shared, "after a move nothing else vouches for the bytes");
    assert!(!path.exists());
    assert_eq!(root.read("d").unwrap(), bytes);
}

#[test]
fn a_model_deleted_and_promoted_anew_while_all_are_verified_is_not_taken_for_damaged() {
    let root = Root::new();
    let victims: Vec<(String, Vec<u8>)> = (0..30).map(|i| (format!("v{i}"), gguf(100, 1000 + i))).collect();
    for (model, bytes) in &victims {
        root.promote(model, bytes);
    }
    for i in 0..120 {
        root.promote(&format!("s{i}"), &gguf(100, i));
    }
    // Files are opened some at a time: what is deleted now is missing when its turn comes, and there again afterwards.
    let other = root.again();
    let mut calls = 0;
    let task = Task::unattended().with_progress(|_| {
        calls += 1;
        for (model, bytes) in &victims {
            match calls {
                1 => other.delete(&name(model), &me()).unwrap(),
                100 => {
                    let source = Source::open(&root.source(&format!("{model}.gguf"), bytes)).unwrap();
                    let request = PromoteRequest::new(name(model));
                    drop(other.promote(request, source, &me(), &Task::unattended()).unwrap());
                }
                _ => {}
            }
        }
    });
    let all = root.registry.verify_all(&me(), &task).unwrap();
    drop(task);
    assert!(calls >= 100, "{calls}");
    assert!(all.all_verified(), "{:?}", all.models.iter().find(|m| m.status != VerifyStatus::Verified));
    for (model, bytes) in &victims {
        assert_eq!((root.status(model), root.read(model).unwrap()), ("promoted", bytes.clone()), "{model}");
    }
}

/// What was sent along is another then, and what had been sent along with the entry that was checked is gone.
#[test]
fn a_model_promoted_anew_with_other_evidence_while_it_is_verified_is_not_taken_for_damaged() {
    let root = Root::new();
    let bytes = gguf(40 << 20, 1);
    let path = root.source("m.gguf", &bytes);
    let promote = |registry: &Registry, model: &str, word: &str| {
        let mut request = PromoteRequest::new(name(model));
        request.evidence.insert("note".into(), word.into());
        registry.promote(request, Source::open(&path).unwrap(), &me(), &Task::unattended()).unwrap()
    };
    // Another model keeps the bytes where they are, so that only the evidence goes.
    promote(&root.registry, "keeper:1", "keeper");
    promote(&root.registry, "m", "before");
    let other = root.again();
    let mut once = false;
    let task = Task::unattended().with_progress(|_| {
        if !std::mem::replace(&mut once, true) {
            other.delete(&name("m"), &me()).unwrap();
            promote(&other, "m", "after");
        }
    });
    let report = root.registry.verify(&name("m"), &me(), &task).unwrap();
    drop(task);
    assert_eq!((report.status, report.error), (VerifyStatus::Verified, None));
    assert_eq!(root.status("m"), "promoted");
    assert!(!root.events().iter().any(|(event, ..)| event == "verify_failed" || event == "quarantine"));
}
