//! What the library must not do to the process it is linked into: end it, or change it. Each test sets limits or masks of a
//! whole process, so each runs in one of its own.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use securereg::*;
use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::*;

const G: usize = GROUP as usize;
const CHILD: &str = "SECUREREG_TEST_CHILD";

/// Runs the test `name` again in a process of its own, which must pass; whether this is that process.
fn alone(name: &str) -> bool {
    run_alone(name, |child| child)
}

fn run_alone(name: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    // By this name, whoever the child is and wherever the build lies.
    let mut child = Command::new("/proc/self/exe");
    let output = prepare(child.args([name, "--exact", "--nocapture"]).env(CHILD, "1")).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{told}", output.status);
    assert!(told.contains("1 passed"), "{told}");
    false
}

/// Lowers the soft limit; the hard one stays, so that it can be raised again.
fn limit(resource: Resource, current: Option<u64>) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: current.or(maximum), maximum }).unwrap();
}

/// A set of signals of a thread, from /proc: bit 0 is signal 1.
/// None of a thread that has ended.
fn signals(thread: &Path, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(u64::from_str_radix(line.trim(), 16).unwrap())
}

fn of_this_thread(field: &str) -> u64 {
    signals(Path::new("/proc/thread-self"), field).unwrap()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as u64 - 1)
}

fn over_the_limit(what: &str, e: &Error) {
    assert_eq!(e.kind(), ErrorKind::NoSpace, "{what}: {e}");
    assert!(e.to_string().contains("ulimit -f"), "{what}: {e}");
}

fn source_of(path: &Path) -> Source {
    Source::open(path).unwrap()
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_the_end_of_the_process() {
    if !alone("a_limit_on_file_sizes_is_an_error_and_not_the_end_of_the_process") {
        return;
    }
    let root = Root::new();
    for (i, model) in ["a", "b", "linked", "stale"].into_iter().enumerate() {
        root.promote(model, &gguf(3 * G, i as u64));
    }
    std::fs::hard_link(root.blob("linked"), root.dir.path().join("second")).unwrap();
    let stamp = root.path().join("stamps").join(root.blob("stale").file_name().unwrap());
    std::fs::remove_file(stamp).unwrap();
    let (copied, moved) = (root.source("copied.gguf", &gguf(3 * G, 11)), root.source("moved.gguf", &gguf(3 * G, 12)));
    let ragged = root.source("ragged.gguf", &gguf(3 * G + 100, 13));
    let open = root.open("a").unwrap();
    let registry = &root.registry;
    let promote = |model: &str, path: &Path, transfer| {
        let request = PromoteRequest { transfer, ..PromoteRequest::new(name(model)) };
        registry.promote(request, source_of(path), &me(), &Task::unattended())
    };
    let mask = of_this_thread("SigBlk");
    assert_eq!(mask & bit(Signal::SIGXFSZ), 0);

    limit(Resource::Fsize, Some(16));
    // That it binds, and would kill: a write of our own, with the signal blocked.
    SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
    let canary = std::fs::write(root.dir.path().join("canary"), [0; 99]).expect_err("over the limit");
    assert_eq!(canary.raw_os_error(), Some(libc::EFBIG));
    assert_eq!(SigSet::from(Signal::SIGXFSZ).wait().unwrap(), Signal::SIGXFSZ);
    SigSet::from(Signal::SIGXFSZ).thread_unblock().unwrap();

    over_the_limit("a copy", &promote("n", &copied, Transfer::Copy).expect_err("it would be written"));
    over_the_limit("a move", &promote("n", &moved, Transfer::Move).expect_err("its tree would be written"));
    over_the_limit("a quarantine", &registry.quarantine(&name("b"), "why", None, &me()).expect_err("a change"));
    over_the_limit("a delete", &registry.delete(&name("b"), &me()).expect_err("a change"));
    over_the_limit("a line", &registry.audit_note(Noted::Refuse, "m", "why", &me()).expect_err("a line"));
    over_the_limit("a record", &registry.record_mount(Path::new("/m/of/a/longer/name")).expect_err("a record"));
    over_the_limit("a result", &registry.verify_all(&me(), &Task::unattended()).expect_err("it would be kept"));
    let new = root.dir.path().join("new");
    over_the_limit("a new root", &Registry::open_or_create(&new).expect_err("a manifest"));
    // The copy fits, and what is written around the page cache ends on a whole block beyond the limit.
    limit(Resource::Fsize, Some(3 * G as u64 + 100));
    over_the_limit("a whole block", &promote("n", &ragged, Transfer::Copy).expect_err("it would be written"));
    limit(Resource::Fsize, Some(16));
    // What can do without writing does.
    assert_eq!(root.read("stale").unwrap(), gguf(3 * G, 3), "a stamp is not recorded");
    registry.recheck_stale(&Task::unattended()).unwrap();
    limit(Resource::Fsize, None);
    flip(&root.blob("a"), G as u64 + 5);
    limit(Resource::Fsize, Some(16));
    for _ in 0..2 {
        let e = open.read_at(&mut vec![0; G], G as u64).expect_err("damaged, and the quarantine cannot be written");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    }
    assert_eq!(root.open("a").expect_err("refused by this process").kind(), ErrorKind::Corrupt);
    assert_eq!((of_this_thread("SigBlk"), of_this_thread("SigPnd")), (mask, 0));

    limit(Resource::Fsize, None);
    assert!(copied.exists() && moved.exists());
    assert_eq!((root.names("tmp"), root.names("run/mounts")), (vec![], vec![]));
    registry.audit_verify().unwrap();
    assert_eq!((root.status("a"), root.status("b")), ("promoted", "promoted"));
    assert_eq!(root.verify("a").status, VerifyStatus::Failed);
    registry.quarantine(&name("b"), "why", None, &me()).unwrap();
    promote("n", &moved, Transfer::Move).unwrap();
}

#[test]
fn a_sigxfsz_that_the_host_blocked_stays_blocked_and_its_own_stays_pending() {
    if !alone("a_sigxfsz_that_the_host_blocked_stays_blocked_and_its_own_stays_pending") {
        return;
    }
    let root = Root::new();
    root.promote("m", &gguf(100, 1));
    let (set, xfsz) = (SigSet::from(Signal::SIGXFSZ), bit(Signal::SIGXFSZ));
    set.thread_block().unwrap();
    let mask = of_this_thread("SigBlk");
    limit(Resource::Fsize, Some(16));
    let fail =
        || over_the_limit("a quarantine", &root.registry.quarantine(&name("m"), "why", None, &me()).unwrap_err());
    fail();
    assert_eq!((of_this_thread("SigBlk"), of_this_thread("SigPnd")), (mask, 0), "ours does not wait for the host");
    raise(Signal::SIGXFSZ).unwrap();
    fail();
    assert_eq!((of_this_thread("SigBlk"), of_this_thread("SigPnd")), (mask, xfsz), "the host's still does");
    assert_eq!(set.wait().unwrap(), Signal::SIGXFSZ);
    limit(Resource::Fsize, None);
    root.registry.quarantine(&name("m"), "why", None, &me()).unwrap();
}

#[test]
fn of_lines_that_did_not_all_fit_none_stays_in_the_log() {
    if !alone("of_lines_that_did_not_all_fit_none_stays_in_the_log") {
        return;
    }
    let root = Root::new();
    for model in ["a", "b"] {
        root.promote(model, &gguf(3 * G, 1));
    }
    let open = root.open("a").unwrap();
    let log = root.path().join("audit.jsonl");
    // One line whole, and a part of the next: damage is told of each model that holds it.
    let longest = std::fs::read_to_string(&log).unwrap().lines().map(str::len).max().unwrap() as u64;
    let before = std::fs::read(&log).unwrap();
    flip(&root.blob("a"), 5);
    limit(Resource::Fsize, Some(before.len() as u64 + longest * 3 / 2));
    assert_eq!(open.read_at(&mut [0; 9], 0).expect_err("damaged").kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read(&log).unwrap(), before);
    limit(Resource::Fsize, None);
    assert!(!root.registry.verify_all(&me(), &Task::unattended()).unwrap().all_verified());
    assert_eq!((root.status("a"), root.status("b")), ("quarantined", "quarantined"));
    root.registry.audit_verify().unwrap();
}

/// Someone without a privilege: limits do not bind root.
const NOBODY: u32 = 65_534;

#[test]
fn where_no_thread_can_be_started_a_scan_goes_on_alone_and_a_promotion_is_an_error() {
    let test = "where_no_thread_can_be_started_a_scan_goes_on_alone_and_a_promotion_is_an_error";
    let dir = tempfile::tempdir().unwrap();
    let child = run_alone(test, |child| {
        child.env("TMPDIR", dir.path());
        if !rustix::process::getuid().is_root() {
            return child;
        }
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        child.uid(NOBODY).gid(NOBODY)
    });
    if !child {
        return;
    }
    let root = Root::new();
    let bytes = gguf(3 * SPAN as usize, 1);
    root.promote("m", &bytes);
    let source = root.source("n.gguf", &gguf(3 * G, 2));
    let damaged = gguf(3 * SPAN as usize, 3);
    root.promote("damaged", &damaged);

    limit(Resource::Nproc, Some(1));
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "the limit does not bind this user");
    assert_eq!(root.verify("m").status, VerifyStatus::Verified);
    assert_eq!(root.read("m").unwrap(), bytes);
    // The last span is hashed too, by whoever is left.
    flip(&root.blob("damaged"), 3 * SPAN - 1);
    assert_eq!(root.open("damaged").expect_err("re-checked alone").kind(), ErrorKind::Corrupt);
    for transfer in [Transfer::Copy, Transfer::Move] {
        let request = PromoteRequest { transfer, ..PromoteRequest::new(name("n")) };
        let e = root.registry.promote(request, source_of(&source), &me(), &Task::unattended()).expect_err("no thread");
        assert_eq!(e.kind(), ErrorKind::Io, "{e}");
        assert!(e.to_string().contains("starting a thread"), "{e}");
    }
    assert!(source.exists() && root.names("tmp").is_empty());

    limit(Resource::Nproc, None);
    root.promote_path("n", &source).unwrap();
}

fn threads() -> HashSet<PathBuf> {
    std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_threads_of_the_library_take_none_of_the_hosts_signals() {
    if !alone("the_threads_of_the_library_take_none_of_the_hosts_signals") {
        return;
    }
    let root = Root::new();
    let source = root.source("m.gguf", &gguf(3 * SPAN as usize, 1));
    let (mask, mine) = (of_this_thread("SigBlk"), threads());
    let mut seen = 0;
    let mut look = |_: Progress| {
        for thread in threads().difference(&mine) {
            let Some(blocked) = signals(thread, "SigBlk") else { continue };
            seen += 1;
            for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1, Signal::SIGXFSZ] {
                assert_ne!(blocked & bit(signal), 0, "{signal} would reach a thread of the library");
            }
        }
    };
    let request = PromoteRequest::new(name("m"));
    let task = Task::unattended().with_progress(&mut look);
    root.registry.promote(request, source_of(&source), &me(), &task).unwrap();
    drop(task);
    let task = Task::unattended().with_progress(&mut look);
    assert_eq!(root.registry.verify(&name("m"), &me(), &task).unwrap().status, VerifyStatus::Verified);
    drop(task);
    assert!(seen > 0, "no thread of the library was seen");
    assert_eq!(of_this_thread("SigBlk"), mask, "the caller's own mask is as it was");
}

/// Bytes of address space that this process has taken.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn near_a_limit_on_memory_reads_and_checks_are_errors_and_not_the_end_of_the_process() {
    if !alone("near_a_limit_on_memory_reads_and_checks_are_errors_and_not_the_end_of_the_process") {
        return;
    }
    // The longest read there may be.
    const LONGEST: usize = 64 << 20;
    let root = Root::new();
    let mut bytes = gguf_start(LONGEST as u64);
    bytes.resize(LONGEST, 7);
    root.promote("m", &bytes);
    let large = root.source("large.gguf", &bytes);
    drop(bytes);
    let small = gguf(3 * G, 2);
    root.promote("small", &small);
    let (file, other) = (root.open("m").unwrap(), root.open("small").unwrap());
    let (mut out, mut refused) = (vec![0; small.len()], 0);
    assert_eq!(file.read(0, LONGEST, &mut ReadBuf::new()).unwrap().len(), LONGEST);
    other.read_at(&mut out, 0).unwrap();

    let taken = address_space();
    for step in 0..40 {
        limit(Resource::As, Some(taken + step * (2 << 20)));
        let mut buf = ReadBuf::new();
        let outcome = file.read(0, LONGEST, &mut buf).map(<[u8]>::len);
        match outcome {
            Ok(n) => assert_eq!(n, LONGEST),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NoMemory, "{e}");
                refused += 1;
            }
        }
        // What fits is read all the same, into the same buffer too.
        assert_eq!(other.read(0, small.len(), &mut buf).unwrap(), small);
        assert_eq!(other.read_at(&mut out, 0).unwrap(), small.len());
        assert_eq!(out, small);
        limit(Resource::As, None);
    }
    assert!((20..40).contains(&refused), "{refused} of 40 were refused");

    // What the allocator and the threads library hold in reserve may do, or not.
    limit(Resource::As, Some(taken + (1 << 20)));
    let verified = root.registry.verify(&name("m"), &me(), &Task::unattended());
    let promoted = root.promote_path("n", &large);
    limit(Resource::As, None);
    assert!(verified.as_ref().map_or_else(|e| e.kind() == ErrorKind::NoMemory, |r| r.error.is_none()), "{verified:?}");
    if let Err(e) = promoted {
        assert!(matches!(e.kind(), ErrorKind::NoMemory | ErrorKind::Io), "{e}");
    }
    assert_eq!((root.status("m"), root.names("tmp")), ("promoted", vec![]), "it says nothing about the bytes");

    // A file that is read whole.
    let kept = std::fs::File::create(root.path().join("run/integrity.json")).unwrap();
    kept.set_len(LONGEST as u64).unwrap();
    limit(Resource::As, Some(taken + (1 << 20)));
    let last = root.registry.last_verify_all();
    limit(Resource::As, None);
    assert_eq!(last.expect_err("no memory for it").kind(), ErrorKind::NoMemory);
    assert_eq!(root.verify("m").status, VerifyStatus::Verified);
}
