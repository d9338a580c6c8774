//! Passes and the eye between them.

use super::*;
use crate::models::gguf;
use crate::{ModelName, PromoteRequest, Source};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

struct Rig {
    dir: tempfile::TempDir,
    registry: Registry,
    stop: AtomicBool,
}

const LONG: Duration = Duration::from_secs(3600);

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        Rig { dir, registry, stop: AtomicBool::new(false) }
    }

    fn promote(&self, name: &str, seed: u64) {
        let path = self.dir.path().join(format!("{name}.gguf"));
        fs::write(&path, gguf(100_000, seed)).expect("written");
        let (source, me) = (Source::open(&path).expect("a source"), Actor::new("test", "tester"));
        let request = PromoteRequest::new(name.parse().expect("a name"));
        self.registry.promote(request, source, &me, &Task::unattended()).expect("promoted");
    }

    fn entry(&self, name: &str) -> FileEntry {
        let name: ModelName = name.parse().expect("a name");
        self.registry.catalog().expect("a catalog").require(&name).expect("there").files[0].clone()
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.registry.root().join("blobs/sha256").join(self.entry(name).sha256.to_hex())
    }

    /// Why a model is quarantined.
    fn why(&self, name: &str) -> Option<String> {
        let name: ModelName = name.parse().expect("a name");
        let catalog = self.registry.catalog().expect("a catalog");
        catalog.require(&name).expect("there").quarantine.as_ref().map(|q| q.reason.clone())
    }

    /// Runs `work` beside a monitor that is up.
    fn monitored<T>(&self, options: MonitorOptions, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| self.registry.monitor(self.eye(), &options, &self.stop).expect("monitors"));
            until("the monitor is up", || self.state().is_some_and(|state| state.alive));
            let done = work();
            self.stop.store(true, Ordering::Relaxed);
            done
        })
    }

    fn eye(&self) -> StoredWatch {
        self.registry.watch_stored().expect("it opens")
    }

    fn state(&self) -> Option<MonitorState> {
        self.registry.monitor_state().expect("readable")
    }

    fn monitor<'a>(&'a self, options: &'a MonitorOptions) -> Monitor<'a> {
        Monitor { inner: &self.registry.inner, options, watching: "nothing", give_way: AtomicBool::new(false) }
    }
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Changes a byte and puts the times back: what bit rot looks like, and a device that was written to.
fn rot(rig: &Rig, name: &str) {
    let (path, sha256) = (rig.blob(name), rig.entry(name).sha256);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50_000).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 50_000).expect("written");
    let inner = &rig.registry.inner;
    let stamps = crate::stamp::Stamps::at(inner.layout(), &sha256).expect("stored");
    inner.blobs().learn(&sha256, stamps);
}

#[test]
fn t12_a_write_to_a_stored_file_takes_its_model_out_of_service_and_says_who_wrote() {
    let rig = Rig::new();
    rig.promote("m", 1);
    rig.promote("other", 2);
    rig.monitored(MonitorOptions { interval: LONG, rate: None }, || {
        until("the first pass", || rig.registry.last_verify_all().expect("readable").is_some());
        let path = rig.blob("m");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(rig.why("m"), None, "a mode is no byte");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opens");
        file.write_all_at(b"x", 50_000).expect("written");
        until("quarantined", || rig.why("m").is_some());
        let why = rig.why("m").expect("quarantined");
        assert!(why.contains("was written to"), "{why}");
        if rig.state().expect("up").watching == "fanotify" {
            assert!(why.contains(&format!("by pid {} (", std::process::id())), "{why}");
        }
    });
    assert_eq!(rig.why("other"), None);
}

#[test]
fn t12_a_stored_file_that_is_cut_replaced_or_removed_is_noticed_and_so_is_its_tree() {
    let rig = Rig::new();
    for (i, name) in ["cut", "replaced", "removed", "tree", "kept"].into_iter().enumerate() {
        rig.promote(name, i as u64);
    }
    rig.monitored(MonitorOptions { interval: LONG, rate: None }, || {
        until("the first pass", || rig.registry.last_verify_all().expect("readable").is_some());
        let cut = rig.blob("cut");
        fs::set_permissions(&cut, fs::Permissions::from_mode(0o644)).expect("changed");
        fs::OpenOptions::new().write(true).open(&cut).expect("opens").set_len(10).expect("cut");
        let other = rig.dir.path().join("other");
        fs::write(&other, gguf(100_000, 99)).expect("written");
        fs::rename(&other, rig.blob("replaced")).expect("replaced");
        fs::remove_file(rig.blob("removed")).expect("removed");
        let tree = rig.registry.root().join("trees").join(rig.entry("tree").sha256.to_hex());
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o644)).expect("changed");
        fs::OpenOptions::new().write(true).open(&tree).expect("opens").write_all_at(b"junk", 0).expect("written");
        for name in ["cut", "replaced", "removed", "tree"] {
            until(name, || rig.why(name).is_some());
        }
    });
    assert_eq!(rig.why("kept"), None);
}

#[test]
fn our_own_changes_beside_a_monitor_quarantine_nothing() {
    let rig = Rig::new();
    rig.monitored(MonitorOptions { interval: Duration::from_millis(50), rate: None }, || {
        for round in 0..10 {
            rig.promote("m", 1);
            // The same bytes under another name, taken over: what is stored is replaced.
            let path = rig.dir.path().join("moved.gguf");
            fs::write(&path, gguf(100_000, 1)).expect("written");
            let request =
                PromoteRequest { transfer: crate::Transfer::Move, ..PromoteRequest::new("n".parse().expect("a name")) };
            let me = Actor::new("test", "tester");
            let source = Source::open(&path).expect("a source");
            rig.registry.promote(request, source, &me, &Task::unattended()).expect("promoted");
            rig.registry.delete(&"n".parse().expect("a name"), &me).expect("deleted");
            if round % 2 == 0 {
                rig.registry.delete(&"m".parse().expect("a name"), &me).expect("deleted");
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    });
    let log = rig.registry.audit_log().expect("readable");
    let bad: Vec<_> = log.iter().filter(|l| ["quarantine", "verify_failed"].contains(&l.event.as_str())).collect();
    assert!(bad.is_empty() && log.len() > 40, "{bad:?}");
}

#[test]
fn a_pass_finds_what_no_event_told_of_and_restores_what_is_good_again() {
    let rig = Rig::new();
    rig.promote("m", 1);
    rig.promote("other", 2);
    let good = fs::read(rig.blob("m")).expect("read");
    rot(&rig, "m");
    let options = MonitorOptions { interval: LONG, rate: None };
    let monitor = rig.monitor(&options);
    monitor.pass(&rig.stop).expect("a pass");
    assert!(rig.why("m").is_some_and(|why| why.contains("not what was promoted")), "{:?}", rig.why("m"));
    let last = rig.registry.last_verify_all().expect("readable").expect("kept");
    assert_eq!((last.checked, last.all_verified(), rig.why("other")), (2, false, None));
    fs::write(rig.blob("m"), good).expect("healed");
    monitor.pass(&rig.stop).expect("a pass");
    assert_eq!(rig.why("m"), None, "good again");
    assert!(rig.registry.last_verify_all().expect("readable").expect("kept").all_verified());
}

#[test]
fn after_a_restart_a_pass_goes_on_with_the_file_after_the_last_and_forgets_nothing_bad() {
    let rig = Rig::new();
    for seed in 0..6 {
        rig.promote(&format!("m{seed}"), seed);
    }
    let options = MonitorOptions { interval: LONG, rate: None };
    let mut digests: Vec<Sha256Digest> = (0..6).map(|i| rig.entry(&format!("m{i}")).sha256).collect();
    digests.sort();
    // Three are done; the first of them is bad, as was found before the restart.
    let bad = BTreeMap::from([(digests[0], Found::Bad("found before".into()))]);
    let saved = Pass { began: now(), after: Some(digests[2]), bad };
    let monitor = rig.monitor(&options);
    monitor.save(&saved);
    assert_eq!(monitor.saved(), Some(saved));
    // What is read again would be found: this one, which comes before, is not read.
    let skipped = (0..6).map(|i| format!("m{i}")).find(|name| rig.entry(name).sha256 == digests[1]).expect("one");
    rot(&rig, &skipped);
    monitor.pass(&rig.stop).expect("a pass");
    assert_eq!(rig.why(&skipped), None, "it was not read again in this pass");
    let first = (0..6).map(|i| format!("m{i}")).find(|name| rig.entry(name).sha256 == digests[0]).expect("one");
    let last = rig.registry.last_verify_all().expect("readable").expect("kept");
    // It is good by now: what failed is looked at again before it is judged, or it was quarantined for what was found.
    assert_eq!(last.checked, 6);
    assert!(rig.why(&first).is_none_or(|why| why == "found before"));
    assert_eq!(monitor.saved(), None);
    monitor.pass(&rig.stop).expect("a pass");
    assert!(rig.why(&skipped).is_some(), "the next pass reads it");
}

#[test]
fn a_pass_gives_way_to_a_person_who_verifies_and_counts_what_that_found_as_its_own() {
    let rig = Rig::new();
    rig.promote("m", 1);
    let options = MonitorOptions { interval: LONG, rate: Some(1) };
    rig.monitored(options, || {
        until("a pass is under way", || rig.state().is_some_and(|state| state.pass_began.is_some()));
        std::thread::sleep(Duration::from_millis(1100));
        let me = Actor::new("test", "tester");
        // A pass at a byte a second would take a day.
        let all = rig.registry.verify_all(&me, &Task::unattended()).expect("verified");
        assert!(all.all_verified());
        until("the pass has ended", || rig.state().is_some_and(|state| state.pass_began.is_none()));
    });
}

#[test]
fn one_monitor_a_root_and_another_takes_over_when_it_is_gone() {
    let rig = Rig::new();
    rig.promote("m", 1);
    let options = MonitorOptions { interval: LONG, rate: None };
    let second_stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        rig.monitored(options, || {
            let second = scope.spawn(|| rig.registry.monitor(rig.eye(), &options, &second_stop));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!second.is_finished(), "it waits");
        });
        until("the second has it", || rig.registry.inner.layout().is_locked(LOCK).expect("readable"));
        second_stop.store(true, Ordering::Relaxed);
    });
    assert!(!rig.state().expect("written").alive);
}

#[test]
fn a_pass_is_spread_over_its_interval_within_the_limit() {
    let rig = Rig::new();
    let rate = |interval, rate, total| {
        let options = MonitorOptions { interval: Duration::from_secs(interval), rate };
        rig.monitor(&options).rate(total)
    };
    assert_eq!(rate(900, None, 1 << 20), SLOWEST);
    assert_eq!(rate(1000, None, 900_000_000_000), 1_000_000_000);
    assert_eq!(rate(1000, Some(50_000_000), 900_000_000_000), 50_000_000);
}

/// What a pass read before a quarantine says nothing of it.
#[test]
fn t12_a_pass_that_ends_after_a_quarantine_does_not_lift_it_for_what_it_read_before() {
    let rig = Rig::new();
    rig.promote("m", 1);
    let options = MonitorOptions { interval: LONG, rate: None };
    let monitor = rig.monitor(&options);
    let catalog = rig.registry.catalog().expect("a catalog");
    let file = rig.entry("m");
    let unique = BTreeMap::from([(file.sha256, &file)]);
    let read = Pass { after: Some(file.sha256), ..Pass::begin() };
    // It was read, and is good; then it is damaged, and that is found.
    rig.registry.inner.report_corruption(&file.sha256, "damaged since");
    monitor.finish(&read, &catalog, &unique, None).expect("finished");
    assert_eq!(rig.why("m").as_deref(), Some("damaged since"));

    // The same of a pass that a restart broke off: when it goes on the quarantine is there, but not when it read.
    monitor.save(&read);
    monitor.pass(&rig.stop).expect("a pass");
    assert_eq!(rig.why("m").as_deref(), Some("damaged since"));
    monitor.pass(&rig.stop).expect("a whole pass");
    assert_eq!(rig.why("m"), None, "it is good, and was read after");
}
