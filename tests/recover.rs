//! Records that do not hold: older manifests, edits, tears, logs that another hand changed; and what `recover` makes of each.

use securereg::{ErrorKind, RecoverOptions, Recovery, Registry, Task, VerifyStatus, recover};
use std::fs;
use std::path::{Path, PathBuf};
use support::{Root, flip, gguf, me, name};

mod support;

struct Rig {
    root: Root,
}

impl std::ops::Deref for Rig {
    type Target = Root;
    fn deref(&self) -> &Root {
        &self.root
    }
}

impl Rig {
    fn new() -> Rig {
        Rig { root: Root::new() }
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn promote(&self, wanted: &str, seed: u64) {
        self.root.promote(wanted, &gguf(1000, seed));
    }

    fn recover(&self, accept_edit: bool, apply: bool) -> securereg::Result<Option<Recovery>> {
        recover(self.root(), RecoverOptions { accept_edit, apply }, &me(), &Task::unattended())
    }

    /// Recovers, and says what was done and how each model stands then.
    fn recovered(&self, accept_edit: bool) -> (Recovery, Vec<String>) {
        let plan = self.recover(accept_edit, false).expect("a plan").expect("something is wrong");
        assert!(!plan.applied);
        let plan_again = self.recover(accept_edit, false).expect("a plan").expect("a plan changes nothing");
        assert_eq!(plan.steps, plan_again.steps);
        let done = self.recover(accept_edit, true).expect("done").expect("something was wrong");
        assert!(done.applied);
        assert_eq!(self.recover(false, true).expect("looked"), None, "nothing is wrong any more");
        let registry = Registry::open(self.root()).expect("opens");
        registry.audit_verify().expect("the log holds");
        let all = registry.verify_all(&me(), &Task::unattended()).expect("verified");
        assert!(all.models.iter().all(|m| m.status == VerifyStatus::Verified), "{all:?}");
        (done, standing(&registry))
    }
}

fn standing(registry: &Registry) -> Vec<String> {
    let catalog = registry.catalog().expect("a catalog");
    catalog.artifacts().map(|a| format!("{}{}", a.name, if a.is_promoted() { "" } else { " quarantined" })).collect()
}

fn steps(recovery: &Recovery) -> Vec<String> {
    recovery.steps.iter().map(|s| format!("{} {}", s.action, s.name)).collect()
}

fn opens(root: &Path) -> Result<(), ErrorKind> {
    Registry::open(root).map(drop).map_err(|e| e.kind())
}

#[test]
fn t09_an_older_manifest_put_back_serves_nothing_until_the_newest_kept_one_is_recovered() {
    let rig = Rig::new();
    rig.promote("a", 1);
    let older = fs::read(rig.path("manifest.yaml")).expect("read");
    rig.promote("b", 2);
    fs::write(rig.path("manifest.yaml"), older).expect("put back");
    assert_eq!(opens(rig.root()), Err(ErrorKind::Manifest));
    assert_eq!(
        rig.registry.catalog().map(drop).map_err(|e| e.kind()),
        Err(ErrorKind::Manifest),
        "also who has it open"
    );
    let (done, models) = rig.recovered(false);
    assert_eq!((done.from_generation, done.generation, models), (2, 3, vec!["a".into(), "b".into()]));
}

#[test]
fn t10_a_torn_missing_or_edited_manifest_is_recovered_from_the_last_one_that_was_kept() {
    for damage in ["torn", "missing", "edited", "empty", "junk"] {
        let rig = Rig::new();
        rig.promote("a", 1);
        rig.promote("b", 2);
        let path = rig.path("manifest.yaml");
        let text = fs::read_to_string(&path).expect("read");
        match damage {
            "torn" => fs::write(&path, &text[..text.len() / 2]).expect("written"),
            "missing" => fs::remove_file(&path).expect("removed"),
            "edited" => fs::write(&path, text.replace("size_bytes", "size_byte")).expect("written"),
            "empty" => fs::write(&path, "").expect("written"),
            _ => fs::write(&path, [0xff; 100]).expect("written"),
        }
        assert_eq!(opens(rig.root()), Err(ErrorKind::Manifest), "{damage}");
        let (done, models) = rig.recovered(false);
        assert_eq!((steps(&done), models), (vec![], vec!["a".to_owned(), "b".to_owned()]), "{damage}");
        assert_eq!(done.generation, 3, "{damage}");
    }
}

#[test]
fn what_came_after_the_newest_whole_manifest_is_done_again_as_far_as_the_log_tells() {
    let rig = Rig::new();
    for (model, seed) in [("deleted", 1), ("bad", 2), ("moved:v", 3), ("kept", 4)] {
        rig.promote(model, seed);
    }
    let base = fs::read(rig.path("manifest.yaml")).expect("read");
    rig.registry.delete(&name("deleted"), &me()).expect("deleted");
    rig.registry.quarantine(&name("bad"), "an incident", Some("INC-1"), &me()).expect("quarantined");
    rig.promote("moved:v", 5);
    rig.promote("new", 6);
    for kept in fs::read_dir(rig.path("history")).expect("kept").flatten() {
        fs::remove_file(kept.path()).expect("removed");
    }
    fs::write(rig.path("manifest.yaml"), base).expect("put back");
    let (done, models) = rig.recovered(false);
    assert_eq!(steps(&done), ["delete deleted", "quarantine bad", "lost moved:v", "lost new"]);
    assert_eq!(models, ["bad quarantined", "kept"]);
    assert_eq!(done.generation, 9, "above all that was seen");
    rig.promote("new", 6);
    rig.promote("moved:v", 5);
    assert_eq!(standing(&rig.registry), ["bad quarantined", "kept", "moved:v", "new"]);
}

#[test]
fn a_model_whose_stored_file_is_not_what_it_was_comes_back_quarantined() {
    let rig = Rig::new();
    rig.promote("a", 1);
    rig.promote("b", 2);
    flip(&rig.blob("a"), 900);
    fs::remove_file(rig.path("manifest.yaml")).expect("removed");
    let done = rig.recover(false, true).expect("done").expect("something was wrong");
    assert_eq!(steps(&done), ["quarantine a"]);
    assert_eq!(standing(&Registry::open(rig.root()).expect("opens")), ["a quarantined", "b"]);
}

#[test]
fn t10_a_hand_edit_is_taken_over_only_when_asked_for_and_only_with_bytes_that_are_stored_and_good() {
    let rig = Rig::new();
    rig.promote("a", 1);
    rig.promote("b", 2);
    let path = rig.path("manifest.yaml");
    let text = fs::read_to_string(&path).expect("read");
    let b = text.find("- name: \"b\"").expect("b");
    let end = text.find("# end").expect("the end");
    let without_b = format!("{}{}", &text[..b], &text[end..]);
    fs::write(&path, &without_b).expect("edited");
    assert_eq!(opens(rig.root()), Err(ErrorKind::Manifest));
    let (done, models) = rig.recovered(true);
    assert_eq!((steps(&done), models), (vec!["delete b".to_owned()], vec!["a".to_owned()]));

    rig.promote("b", 2);
    let text = fs::read_to_string(&path).expect("read");
    fs::write(&path, text.replace("  source: \"\"", "  source: \"by hand\"")).expect("edited");
    let (done, models) = rig.recovered(true);
    assert_eq!((steps(&done), models.len()), (vec!["accept a".to_owned(), "accept b".to_owned()], 2));

    // Bytes that are not there.
    let text = fs::read_to_string(&path).expect("read");
    let catalog = rig.registry.catalog().expect("a catalog");
    let sha256 = catalog.require(&name("a")).expect("there").sha256.to_hex();
    fs::write(&path, text.replace(&sha256, &"0".repeat(64))).expect("edited");
    assert_eq!(rig.recover(true, true).expect_err("not stored").kind(), ErrorKind::Corrupt);
    assert_eq!(opens(rig.root()), Err(ErrorKind::Manifest), "nothing was changed");
    fs::write(&path, &text).expect("back");

    // A quarantine, and what is blocked.
    rig.registry.quarantine(&name("a"), "bad", Some("INC-1"), &me()).expect("quarantined");
    let text = fs::read_to_string(&path).expect("read");
    let from = text.find("  quarantine:\n").expect("a quarantine");
    let to = from + text[from..].find("  size_bytes").expect("what follows");
    fs::write(&path, format!("{}{}", &text[..from], &text[to..])).expect("edited");
    assert_eq!(rig.recover(true, true).expect_err("it lifts a quarantine").kind(), ErrorKind::Manifest);
    fs::write(&path, &text).expect("back");
    rig.registry.delete(&name("a"), &me()).expect("deleted");
    let text = fs::read_to_string(&path).expect("read");
    let from = text.find("blocked:\n").expect("blocked");
    let to = text.find("# end").expect("the end");
    fs::write(&path, format!("{}{}", &text[..from], &text[to..])).expect("edited");
    assert_eq!(rig.recover(true, true).expect_err("it lifts what is blocked").kind(), ErrorKind::Manifest);
}

#[test]
fn a_log_that_another_hand_changed_is_set_aside_and_goes_on_from_its_last_good_line() {
    for (damage, opens_all_the_same) in [("a line changed", true), ("cut short", true), ("its end is junk", false)] {
        let rig = Rig::new();
        rig.promote("a", 1);
        rig.promote("b", 2);
        let path = rig.path("audit.jsonl");
        let text = fs::read_to_string(&path).expect("read");
        let damaged = match damage {
            "a line changed" => text.replacen("\"b\"", "\"c\"", 1),
            "cut short" => text.lines().take(2).map(|l| format!("{l}\n")).collect(),
            _ => format!("{text}{}\n", "x".repeat(40_000)),
        };
        fs::write(&path, &damaged).expect("written");
        assert_eq!(opens(rig.root()).is_ok(), opens_all_the_same, "{damage}");
        let (_, models) = rig.recovered(false);
        assert_eq!(models, ["a", "b"], "{damage}");
        let mut files = fs::read_dir(rig.root()).expect("listed").flatten();
        let kept = files.find(|e| e.file_name().to_string_lossy().starts_with("damaged-"));
        match damage {
            "cut short" => assert!(kept.is_none(), "nothing of what is left is wrong"),
            _ => assert_eq!(fs::read_to_string(kept.expect("kept").path()).expect("read"), damaged, "{damage}"),
        }
    }
}

#[test]
fn a_root_that_signs_serves_nothing_that_is_not_signed_by_its_key() {
    let rig = Rig::new();
    rig.promote("a", 1);
    let unsigned = fs::read(rig.path("manifest.yaml")).expect("read");
    let key = rig.registry.begin_signing(&me()).expect("a key");
    assert_eq!(rig.registry.begin_signing(&me()).expect_err("there is one").kind(), ErrorKind::Conflict);
    rig.promote("b", 2);
    assert_eq!(rig.registry.public_key().expect("a key"), Some(key));
    assert_eq!(Registry::open(rig.root()).expect("opens").public_key().expect("a key"), Some(key));
    assert_eq!(rig.registry.audit_verify().expect("holds").signed_by, Some(key.to_hex()));
    let path = rig.path("manifest.yaml");
    let signed = fs::read_to_string(&path).expect("read");
    let stripped = format!("{}\n", &signed[..signed.find(" key=").expect("a signature")]);
    for (what, bad) in [("not signed", stripped.as_bytes()), ("from before", &unsigned[..])] {
        fs::write(&path, bad).expect("written");
        assert_eq!(opens(rig.root()), Err(ErrorKind::Manifest), "{what}");
        assert!(rig.registry.catalog().is_err(), "{what}");
    }
    let (_, models) = rig.recovered(false);
    assert_eq!(models, ["a", "b"], "from the last that is signed");

    // Made by somebody who has a key of their own.
    let other = Rig::new();
    other.registry.begin_signing(&me()).expect("a key");
    other.promote("evil", 3);
    for file in ["manifest.yaml", "generation", "audit.jsonl"] {
        let mine = fs::read(rig.path(file)).expect("read");
        fs::copy(other.path(file), rig.path(file)).expect("copied");
        assert!(opens(rig.root()).is_err() || rig.registry.audit_verify().is_err(), "{file}");
        fs::write(rig.path(file), mine).expect("back");
    }
    rig.registry.catalog().expect("as before");
    // The key itself replaced: who has seen the first one refuses.
    let mine = fs::read(rig.path("signing.pub")).expect("read");
    for file in ["manifest.yaml", "generation", "audit.jsonl", "signing.pub", "signing.key"] {
        fs::copy(other.path(file), rig.path(file)).expect("copied");
    }
    assert!(rig.registry.catalog().is_err(), "a process that has seen the key goes by it");
    fs::write(rig.path("signing.pub"), mine).expect("back");
}

#[test]
fn without_its_private_key_a_root_that_signs_is_served_and_not_changed() {
    let rig = Rig::new();
    rig.promote("a", 1);
    rig.registry.begin_signing(&me()).expect("a key");
    fs::rename(rig.path("signing.key"), rig.dir.path().join("key")).expect("moved");
    let registry = Registry::open(rig.root()).expect("opens");
    assert_eq!(standing(&registry), ["a"]);
    let e = registry.quarantine(&name("a"), "why", None, &me()).expect_err("it cannot be signed");
    assert!(e.kind() == ErrorKind::Permission && e.to_string().contains("signing.key"), "{e}");
    assert_eq!(standing(&registry), ["a"], "and nothing happened");
}

#[test]
fn with_nothing_whole_left_nothing_is_invented() {
    let rig = Rig::new();
    rig.promote("a", 1);
    fs::remove_file(rig.path("manifest.yaml")).expect("removed");
    fs::remove_dir_all(rig.path("history")).expect("removed");
    let e = rig.recover(false, true).expect_err("nothing is left");
    assert!(e.kind() == ErrorKind::Manifest && e.to_string().contains("backup"), "{e}");
}

#[test]
fn a_root_with_nothing_wrong_is_left_alone() {
    let rig = Rig::new();
    rig.promote("a", 1);
    let before = fs::read(rig.path("manifest.yaml")).expect("read");
    assert_eq!(rig.recover(true, true).expect("looked"), None);
    assert_eq!(fs::read(rig.path("manifest.yaml")).expect("read"), before);
}

#[test]
fn only_so_many_manifests_are_kept() {
    let rig = Rig::new();
    for seed in 0..12 {
        rig.promote(&format!("m{seed}"), seed);
    }
    assert_eq!(fs::read_dir(rig.path("history")).expect("kept").count(), 8);
}
