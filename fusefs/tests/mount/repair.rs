//! A model that is healed while it is mounted: its readers get EIO, then the right bytes, and never wrong ones.

use crate::support::*;
use securereg::{RepairStatus, Source, Task};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LEN: usize = 8 * 64 * 1024 + 1000;

/// What one open and one pass over the file came to: the whole of it, or an error. Whatever came must be right.
fn pass(path: &Path, bytes: &[u8]) -> Result<(), i32> {
    let file = File::open(path).map_err(|e| e.raw_os_error().unwrap())?;
    let mut piece = vec![0; 48 * 1024];
    let mut at = 0;
    while at < bytes.len() {
        let n = file.read_at(&mut piece, at as u64).map_err(|e| e.raw_os_error().unwrap())?;
        assert!(n > 0, "no error may look like the end of the file");
        assert!(piece[..n] == bytes[at..at + n], "wrong bytes at {at}");
        at += n;
    }
    Ok(())
}

/// Threat 12: the cached pages too.
#[test]
fn t12_readers_of_a_mount_get_eio_and_after_the_repair_the_right_bytes() {
    let Some(f) = mounted() else { return };
    let bytes = gguf(LEN, 1);
    let path = f.promote("m", &bytes);
    let copy = f.source("copy/backup.gguf", &bytes);
    let (done, good, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match pass(&path, &bytes) {
                        Ok(()) => good.fetch_add(1, Ordering::Relaxed),
                        Err(errno) => {
                            assert!([libc::EIO, libc::EACCES, libc::ENOENT].contains(&errno), "errno {errno}");
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            });
        }
        for round in 0..10u64 {
            let before = good.load(Ordering::Relaxed);
            assert!(until(|| good.load(Ordering::Relaxed) > before), "round {round}: it is read");
            f.damage_below("m", |file| (0..3).for_each(|i| flip(file, (round + 3 * i) % 8 * GROUP + 9)));
            let before = refused.load(Ordering::Relaxed);
            // The kernel may hold every page: a verification finds it in any case.
            let report = f.registry.verify(&name("m"), &me(), &Task::unattended()).unwrap();
            assert_eq!(report.status, securereg::VerifyStatus::Failed, "round {round}");
            assert!(until(|| refused.load(Ordering::Relaxed) > before), "round {round}: it is refused");
            let sources = [Source::open(&copy).unwrap()];
            let report = f.registry.repair(&name("m"), &sources, &me(), &Task::unattended()).unwrap();
            assert_eq!((report.status, report.groups_rewritten), (RepairStatus::Healed, 3), "round {round}");
            assert_eq!(f.status("m"), "promoted", "round {round}");
        }
        let before = good.load(Ordering::Relaxed);
        assert!(until(|| good.load(Ordering::Relaxed) > before + 3), "it is read in the end");
    });
    assert_eq!((pass(&path, &bytes), f.status("m")), (Ok(()), "promoted"));
}

/// The readers stop when the test fails, too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until(met: impl Fn() -> bool) -> bool {
    let begun = std::time::Instant::now();
    while !met() {
        if begun.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
