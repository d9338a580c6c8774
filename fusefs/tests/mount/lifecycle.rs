//! Mounting, unmounting, and what a crash leaves.

use crate::support::*;
use rustix::mount::UnmountFlags;
use securereg_fusefs::{Mount, MountErrorKind, MountOptions};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

fn mount(f: &Fixture) -> Result<Mount, securereg_fusefs::MountError> {
    Mount::new(f.registry.clone(), &f.at(""), MountOptions::default())
}

fn is_mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {} ", path.display()))
}

#[test]
fn a_mount_is_recorded_and_unmounted_once() {
    if !may_mount() {
        return;
    }
    let f = Fixture::unmounted();
    let first = mount(&f).unwrap();
    assert!(is_mounted(first.mountpoint()));
    assert_eq!(
        f.registry.mounts().unwrap().iter().map(|m| m.mountpoint.clone()).collect::<Vec<_>>(),
        [first.mountpoint()]
    );
    assert_eq!(mount(&f).unwrap_err().kind(), MountErrorKind::AlreadyMounted, "a live one is left alone");
    let unmounter = first.unmounter();
    unmounter.unmount().unwrap();
    first.wait();
    assert!(!is_mounted(first.mountpoint()) && f.registry.mounts().unwrap().is_empty());
    assert!(!f.at("").exists(), "the folder was made for the mount");
    // Whatever is mounted there next is not ours to unmount.
    let second = mount(&f).unwrap();
    unmounter.unmount().unwrap();
    drop(first);
    assert!(is_mounted(second.mountpoint()));
    second.unmount().unwrap();
    assert!(!f.at("").exists());
}

#[test]
fn an_outside_unmount_ends_the_mount() {
    if !may_mount() {
        return;
    }
    if !is_root() {
        return skip("only root can call umount(2)");
    }
    let f = Fixture::unmounted();
    let m = mount(&f).unwrap();
    rustix::mount::unmount(m.mountpoint(), UnmountFlags::empty()).unwrap();
    m.wait();
    assert!(f.registry.mounts().unwrap().is_empty());
    m.unmount().unwrap();
}

#[test]
fn a_mount_point_must_be_an_empty_folder() {
    if !may_mount() {
        return;
    }
    let f = Fixture::unmounted();
    std::fs::create_dir(f.at("")).unwrap();
    let keep = f.at("keep");
    std::fs::write(&keep, "x").unwrap();
    let e = mount(&f).unwrap_err();
    assert_eq!(e.kind(), MountErrorKind::Mountpoint);
    assert!(e.to_string().contains("not empty"), "{e}");
    std::fs::remove_file(&keep).unwrap();
    mount(&f).unwrap().unmount().unwrap();
    assert!(f.at("").exists(), "a folder that was there stays");
    std::fs::remove_dir(f.at("")).unwrap();
    std::fs::write(f.dir.path().join("mnt"), "a file").unwrap();
    assert_eq!(mount(&f).unwrap_err().kind(), MountErrorKind::Mountpoint);
}

#[test]
fn an_open_descriptor_does_not_keep_the_mount_from_being_unmounted() {
    let Some(mut f) = mounted() else { return };
    let path = f.promote("m", &gguf(100_000, 1));
    let mut file = File::open(&path).unwrap();
    let m = f.mount.take().unwrap();
    let at = m.mountpoint().to_owned();
    m.unmount().unwrap();
    assert!(!is_mounted(&at));
    let mut out = Vec::new();
    file.read_to_end(&mut out).unwrap();
    assert_eq!(out.len(), 100_000, "and is served until it is closed");
}

/// Threat 15.
#[test]
fn t15_after_a_kill_reads_fail_and_a_restart_mounts_again() {
    if !may_mount() {
        return;
    }
    let f = Fixture::unmounted();
    let bytes = gguf(3 << 20, 1);
    let path = f.promote("m", &bytes);
    let (root, at) = (f.registry.root().to_str().unwrap().to_owned(), f.at("").to_str().unwrap().to_owned());
    let mut daemon = probe::start("daemon", &[&root, &at]);
    assert_eq!(daemon.line(), "mounted");
    assert!(std::fs::read(&path).unwrap() == bytes);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    // Not waited for until a plain stat says ENOTCONN: for a second the kernel answers it from what it remembers.
    assert!(errno(File::open(&path)) != 0, "never stale bytes from a new open");
    assert!(f.registry.mounts().unwrap().is_empty(), "the record died with the daemon");
    let mut again = probe::start("daemon", &[&root, &at]);
    assert_eq!(again.line(), "mounted", "the dead mount is detached first");
    assert!(std::fs::read(&path).unwrap() == bytes);
    let refused = probe::start("daemon", &[&root, &at]);
    assert!(refused.line().starts_with("AlreadyMounted"), "a live one is left alone");
    again.go();
    assert!(again.end(Duration::from_secs(10)).is_some_and(|s| s.success()));
    assert!(!is_mounted(Path::new(&at)));
}

/// Threat 15: one bad model never stops the others.
#[test]
fn t15_one_bad_model_does_not_stop_the_others() {
    if !may_mount() {
        return;
    }
    let mut f = Fixture::unmounted();
    f.promote("bad", &gguf(100_000, 1));
    let good = f.promote("good", &gguf(100_000, 2));
    std::fs::remove_file(f.blob("bad")).unwrap();
    f.mount = Some(mount(&f).unwrap());
    assert!(std::fs::read(good).unwrap() == gguf(100_000, 2));
    assert!(errno(File::open(f.at("bad.gguf"))) != 0);
}
