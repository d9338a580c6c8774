//! The view: paths, inode numbers, what a new generation changes.

use super::*;
use securereg::{Blake3Digest, Cause, FileEntry, Format, Layout, Quarantine};
use std::collections::HashSet;

fn artifact(name: &str, layout: Layout, files: &[(&str, u8)]) -> Artifact {
    let files: Vec<FileEntry> = files
        .iter()
        .map(|(path, byte)| FileEntry {
            path: path.parse().expect("a path"),
            size_bytes: u64::from(*byte),
            sha256: Sha256Digest::from_bytes([*byte; 32]),
            blake3: Blake3Digest::from_bytes([*byte; 32]),
        })
        .collect();
    Artifact {
        name: name.parse().expect("a name"),
        sha256: files[0].sha256,
        layout,
        format: Format::Gguf,
        source: String::new(),
        promoted_at: "2026-01-02T03:04:05Z".into(),
        size_bytes: files.iter().map(|f| f.size_bytes).sum(),
        evidence: None,
        inspection: None,
        quarantine: None,
        files,
    }
}

fn file(name: &str, path: &str, byte: u8) -> Artifact {
    artifact(name, Layout::File, &[(path, byte)])
}

fn quarantined(mut artifact: Artifact) -> Artifact {
    artifact.quarantine =
        Some(Quarantine { cause: Cause::Incident, reason: "test".into(), incident_id: None, at: String::new() });
    artifact
}

fn apply(view: &View, artifacts: &[Artifact]) -> Changes {
    let mut sorted: Vec<Arc<Artifact>> = artifacts.iter().cloned().map(Arc::new).collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    view.apply(sorted.iter(), &HashSet::new())
}

/// All that listings show, folders with a slash, without `.by-digest`.
fn shown(view: &View) -> Vec<String> {
    fn walk(view: &View, dir: u64, path: &str, out: &mut Vec<String>) {
        for (name, ino, sort) in &view.list(dir).expect("a folder").entries {
            match sort {
                Sort::File => out.push(format!("{path}{name}")),
                Sort::Dir if *ino == BY_DIGEST => {}
                Sort::Dir => {
                    out.push(format!("{path}{name}/"));
                    walk(view, *ino, &format!("{path}{name}/"), out);
                }
            }
        }
    }
    let mut out = Vec::new();
    walk(view, ROOT, "", &mut out);
    out
}

fn blobs(view: &View) -> Vec<u8> {
    let listing = view.list(BY_DIGEST).expect("it is always there");
    listing.entries.iter().map(|(n, _, _)| u8::from_str_radix(&n[7..9], 16).expect("hex")).collect()
}

fn look(view: &View, path: &str) -> Option<Arc<FileNode>> {
    let mut dir = ROOT;
    for part in path.split('/') {
        match view.lookup(dir, part)? {
            Found::Dir { ino, .. } => dir = ino,
            Found::File(file) => return Some(file),
        }
    }
    None
}

#[test]
fn each_layout_appears_where_the_design_says() {
    let view = View::new();
    apply(
        &view,
        &[
            file("one", "one.gguf", 1),
            artifact("org/hf", Layout::Folder, &[("config.json", 2), ("sub/w.safetensors", 3)]),
            artifact("set", Layout::Split, &[("s-00001-of-00002.gguf", 4), ("s-00002-of-00002.gguf", 5)]),
            file("repo:v1", "m.gguf", 1),
        ],
    );
    assert_eq!(
        shown(&view),
        [
            "one.gguf",
            "org/",
            "org/hf/",
            "org/hf/config.json",
            "org/hf/sub/",
            "org/hf/sub/w.safetensors",
            "repo/",
            "repo/v1/",
            "repo/v1/m.gguf",
            "set/",
            "set/s-00001-of-00002.gguf",
            "set/s-00002-of-00002.gguf",
        ]
    );
    assert_eq!(blobs(&view), [1, 2, 3, 4, 5]);
    assert_eq!(view.totals(), (16, 6), "the shared blob is shown twice and counted twice");
}

#[test]
fn quarantined_is_not_listed_but_is_found_and_refused() {
    let view = View::new();
    let folder = artifact("hf", Layout::Folder, &[("a", 1), ("d/b", 2)]);
    apply(&view, &[folder.clone(), file("x", "x", 9)]);
    let before = look(&view, "hf/d/b").expect("served");
    let changes = apply(&view, &[quarantined(folder.clone()), file("x", "x", 9)]);
    assert_eq!(shown(&view), ["x"], "nor are the folders that hold nothing else");
    assert_eq!(blobs(&view), [9]);
    assert_eq!(changes.revoked.iter().map(|f| f.ino).collect::<Vec<_>>(), [before.ino], "only what the kernel knew");
    assert_eq!(changes.names, [(before.parent, "b".into())]);
    assert_eq!(view.admission(&before), Admission::Quarantined);
    let after = look(&view, "hf/d/b").expect("found, so that open is EACCES and not ENOENT");
    assert_ne!(after.ino, before.ino);
    assert_eq!(view.admission(&after), Admission::Quarantined);

    apply(&view, &[folder, file("x", "x", 9)]);
    assert_eq!(shown(&view), ["hf/", "hf/a", "hf/d/", "hf/d/b", "x"]);
    let again = look(&view, "hf/d/b").expect("served again");
    assert!(again.ino != after.ino && again.ino != before.ino, "a re-admitted model starts with an empty page cache");
    assert_eq!(view.admission(&before), Admission::Stale, "whoever knows the old inode must look the name up again");
    assert_eq!(view.admission(&again), Admission::Current);
}

#[test]
fn a_deleted_model_is_gone_and_those_who_have_it_open_read_on() {
    let view = View::new();
    apply(&view, &[artifact("a/b", Layout::Folder, &[("f", 1)])]);
    let node = look(&view, "a/b/f").expect("served");
    let changes = apply(&view, &[]);
    assert!(changes.revoked.is_empty());
    assert_eq!(changes.names.len(), 3, "the file and its two folders are forgotten by name: {:?}", changes.names);
    assert!(look(&view, "a/b/f").is_none() && view.lookup(ROOT, "a").is_none());
    assert_eq!((shown(&view).len(), blobs(&view).len(), view.totals()), (0, 0, (0, 0)));
    assert!(matches!(view.find(node.ino), Some(Found::File(_))), "the kernel still holds the inode");
    view.forget(node.ino, 1);
    assert!(view.find(node.ino).is_none(), "and now it does not");
}

#[test]
fn memory_is_bounded_by_the_catalog_and_what_the_kernel_holds() {
    let view = View::new();
    for round in 0..50 {
        let model = file("m:tag", "m.gguf", round);
        apply(&view, std::slice::from_ref(&model));
        let node = look(&view, "m/tag/m.gguf").expect("served");
        apply(&view, &[quarantined(model)]);
        view.forget(node.ino, 1);
        assert_eq!(view.tree.read().files.len(), 2, "the file and its blob, whatever came before");
    }
    apply(&view, &[]);
    let held: Vec<(u64, u64)> =
        view.tree.read().dirs.iter().map(|(ino, dir)| (*ino, dir.lookups.load(Ordering::SeqCst))).collect();
    for (ino, lookups) in held {
        view.forget(ino, lookups);
    }
    let tree = view.tree.read();
    assert_eq!((tree.files.len(), tree.holders.len()), (0, 0));
    assert_eq!(tree.dirs.len(), 2, "the root and .by-digest stay");
}

#[test]
fn changed_content_has_a_new_inode_and_unchanged_content_keeps_its_own() {
    let view = View::new();
    apply(&view, &[file("m:t", "f", 1), file("other", "other", 3)]);
    let (old, other) = (look(&view, "m/t/f").expect("served"), look(&view, "other").expect("served"));
    let mut changed = file("other", "other", 3);
    changed.source = "elsewhere".into();
    let changes = apply(&view, &[file("m:t", "f", 2), changed]);
    let new = look(&view, "m/t/f").expect("served");
    assert_ne!(old.ino, new.ino);
    assert_eq!(look(&view, "other").expect("served").ino, other.ino, "facts of the file did not change");
    assert!(changes.revoked.is_empty(), "a tag that moved leaves its readers alone");
    assert_eq!(changes.names.len(), 1);
    assert_eq!(view.admission(&old), Admission::Stale);
}

#[test]
fn a_blob_is_shown_while_a_promoted_model_holds_it() {
    let view = View::new();
    let (a, b) = (file("a", "a", 7), file("b", "b", 7));
    apply(&view, &[a.clone(), b.clone()]);
    let blob = format!(".by-digest/sha256-{}", "07".repeat(32));
    let node = look(&view, &blob).expect("shown");
    assert!(apply(&view, &[quarantined(a.clone()), b.clone()]).revoked.is_empty());
    assert_eq!((blobs(&view), view.admission(&node)), (vec![7], Admission::Current), "b still holds it");
    let changes = apply(&view, &[quarantined(a.clone()), quarantined(b)]);
    assert_eq!(changes.revoked.len(), 1);
    assert_eq!((blobs(&view), view.admission(&node)), (vec![], Admission::Quarantined));
    apply(&view, &[quarantined(a)]);
    assert_eq!(view.admission(&node), Admission::Quarantined);
    apply(&view, &[]);
    assert!(look(&view, &blob).is_none());
}

#[test]
fn a_revoked_file_whose_model_is_promoted_gets_a_new_inode() {
    let view = View::new();
    apply(&view, &[file("a", "a", 7)]);
    let node = look(&view, "a").expect("served");
    assert!(node.gate.shut(crate::gate::Why::TimedOut));
    assert_eq!(view.admission(&node), Admission::Stale);
    assert_eq!(view.renew(&node), Some((ROOT, "a".into())));
    assert_eq!(view.renew(&node), None, "once");
    let fresh = look(&view, "a").expect("served");
    assert_eq!(view.admission(&fresh), Admission::Current);
    assert_eq!(shown(&view), ["a"]);
}

/// The property itself, not a benchmark: one of ten thousand changed costs nothing like ten thousand.
#[test]
fn at_ten_thousand_models_a_change_touches_one() {
    let view = View::new();
    let mut models: Vec<Arc<Artifact>> = (0..10_000u32)
        .map(|i| {
            let mut a = file(&format!("m{i:05}"), &format!("m{i:05}.gguf"), 1);
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&i.to_le_bytes());
            a.files[0].sha256 = Sha256Digest::from_bytes(digest);
            Arc::new(a)
        })
        .collect();
    view.apply(models.iter(), &HashSet::new());
    assert_eq!((view.list(ROOT).expect("root").entries.len(), blobs(&view).len()), (10_001, 10_000));
    let node = look(&view, "m05000.gguf").expect("served");
    let other = look(&view, "m05001.gguf").expect("served");
    models[5000] = Arc::new(quarantined((*models[5000]).clone()));
    let next_before = view.tree.read().next_ino;
    let changes = view.apply(models.iter(), &HashSet::new());
    assert_eq!(changes.revoked.len(), 1);
    assert_eq!(view.tree.read().next_ino - next_before, 2, "one file and one blob got new inodes");
    assert_eq!(view.admission(&node), Admission::Quarantined);
    assert_eq!(view.admission(&other), Admission::Current);
    assert_eq!(view.list(ROOT).expect("root").entries.len(), 10_000);
}
