//! Disks that hang or fail.

use crate::support::*;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Hangs the reads of one process from a disk, by allowing it one byte a second.
struct Throttle {
    folder: PathBuf,
    rule: PathBuf,
    disk: String,
    v2: bool,
}

impl Throttle {
    /// None where the machine offers no block cgroup.
    fn new(pid: u32, on: &Path) -> Option<Throttle> {
        let dev = std::fs::metadata(on).unwrap().dev();
        let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
        let mut device = std::fs::canonicalize(link).ok()?;
        if device.join("partition").exists() {
            device.pop();
        }
        let disk = std::fs::read_to_string(device.join("dev")).ok()?.trim().to_owned();
        let name = format!("securereg-test-{pid}");
        let (v1, v2) = (Path::new("/sys/fs/cgroup/blkio"), Path::new("/sys/fs/cgroup"));
        let is_v2 = std::fs::read_to_string(v2.join("cgroup.subtree_control")).is_ok_and(|c| c.contains("io"));
        let folder = if is_v2 { v2.join(name) } else { v1.join(name) };
        std::fs::create_dir(&folder).ok()?;
        let rule = folder.join(if is_v2 { "io.max" } else { "blkio.throttle.read_bps_device" });
        let throttle = Throttle { folder, rule, disk, v2: is_v2 };
        let hung =
            throttle.limit(Some(1)) && std::fs::write(throttle.folder.join("cgroup.procs"), pid.to_string()).is_ok();
        hung.then_some(throttle)
    }

    fn limit(&self, bytes: Option<u32>) -> bool {
        let rule = match (self.v2, bytes) {
            (true, Some(n)) => format!("{} rbps={n}", self.disk),
            (true, None) => format!("{} rbps=max", self.disk),
            (false, n) => format!("{} {}", self.disk, n.unwrap_or(0)),
        };
        std::fs::write(&self.rule, rule).is_ok()
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.limit(None);
        // Back to where it came from, or the group cannot be removed.
        if let (Some(parent), Ok(pids)) =
            (self.folder.parent(), std::fs::read_to_string(self.folder.join("cgroup.procs")))
        {
            for pid in pids.lines() {
                let _ = std::fs::write(parent.join("cgroup.procs"), pid);
            }
        }
        let folder = self.folder.clone();
        let start = Instant::now();
        while std::fs::remove_dir(&folder).is_err() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Threat 17.
#[test]
fn t17_a_hung_disk_is_eio_in_time_and_hangs_no_loader() {
    if !may_mount() {
        return;
    }
    let f = Fixture::unmounted();
    let len = 3 << 20;
    let paths: Vec<PathBuf> =
        ["read", "mapped", "cached"].iter().map(|m| f.promote(m, &gguf(len, m.len() as u64))).collect();
    let (root, at) = (f.registry.root().to_str().unwrap().to_owned(), f.at("").to_str().unwrap().to_owned());
    let mut daemon = probe::start("daemon", &[&root, &at, "1000"]);
    assert_eq!(daemon.line(), "mounted");
    let files: Vec<File> = paths.iter().map(|p| File::open(p).unwrap()).collect();
    assert!(std::fs::read(&paths[2]).unwrap().len() == len);
    let original = f.dir.path().join("source/mapped.gguf");
    let mut loader =
        probe::start("late-map", &[paths[1].to_str().unwrap(), original.to_str().unwrap(), "shared-populate"]);
    assert_eq!(loader.line(), "open");
    let Some(throttle) = Throttle::new(daemon.child.id(), f.registry.root()) else {
        skip("no block cgroup to hang a disk with");
        return;
    };
    loader.go();
    let start = Instant::now();
    let mut out = vec![0; 4096];
    assert_eq!(errno(files[0].read_exact_at(&mut out, 2 << 20)), libc::EIO);
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(500) && waited < Duration::from_secs(6), "{waited:?}");
    files[2].read_exact_at(&mut out, 0).unwrap();
    let listing = Instant::now();
    assert_eq!(std::fs::read_dir(f.at("")).unwrap().count(), 4);
    assert!(listing.elapsed() < Duration::from_secs(1), "what needs no disk is answered: {:?}", listing.elapsed());
    let status = loader.end(Duration::from_secs(20));
    assert!(status.is_some_and(probe::is_sigbus), "{status:?} after {:?}", start.elapsed());
    drop(throttle);
    assert_eq!(f.status("read"), "promoted", "a disk that hangs says nothing about the bytes");
    until("served again", Duration::from_secs(10), || std::fs::read(&paths[0]).is_ok_and(|b| b.len() == len));
    daemon.go();
    assert!(daemon.end(Duration::from_secs(10)).is_some_and(|s| s.success()));
}

/// An ext4 image of its own, whose disk can be made to fail.
struct Image {
    at: PathBuf,
}

impl Image {
    fn new(dir: &Path) -> Option<Image> {
        let (file, at) = (dir.join("image"), dir.join("image-mnt"));
        std::fs::create_dir(&at).unwrap();
        File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            Command::new(program).args(args).stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
        };
        let made = run("mkfs.ext4", &["-q".as_ref(), file.as_ref()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), file.as_ref(), at.as_ref()]);
        made.then_some(Image { at })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Threat 17: a disk that answers with errors.
#[test]
fn t17_an_unreadable_disk_is_eio_and_hangs_no_loader() {
    if !may_mount() {
        return;
    }
    let mut f = Fixture::unmounted();
    let image = if is_root() { Image::new(f.dir.path()) } else { None };
    let Some(image) = image else {
        skip("no loop-mounted ext4 here");
        return;
    };
    f.registry = securereg::Registry::open_or_create(&image.at.join("root")).unwrap();
    f.mount = Some(
        securereg_fusefs::Mount::new(f.registry.clone(), &f.at(""), securereg_fusefs::MountOptions::default()).unwrap(),
    );
    let path = f.promote("m", &gguf(3 << 20, 1));
    let file = File::open(&path).unwrap();
    let original = f.dir.path().join("source/m.gguf");
    let args = [path.to_str().unwrap(), original.to_str().unwrap(), "shared-populate"];
    let mut loader = probe::start("late-map", &args);
    assert_eq!(loader.line(), "open");
    probe::shut_down(&File::open(&image.at).unwrap());
    let mut out = vec![0; 4096];
    assert_eq!(errno(file.read_exact_at(&mut out, 100_000)), libc::EIO);
    loader.go();
    let status = loader.end(Duration::from_secs(20));
    assert!(status.is_some_and(probe::is_sigbus), "{status:?}");
    assert!(errno(File::open(&path)) != 0);
    f.mount = None;
    drop(image);
}
