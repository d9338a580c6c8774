//! The system calls that no safe crate offers.
//!
//! Owns: file leases. Promises: the only `unsafe` of the core besides `src/ffi`, one operation a block. Leaves out:
//! everything rustix and std wrap already.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// A read lease on a file (fcntl(2), F_SETLEASE): granted only while no one has the file open for writing or maps it so,
/// and broken, visibly, as soon as someone tries to open it for writing or to truncate it.
#[derive(Debug)]
pub(crate) struct ReadLease {
    file: Arc<File>,
}

impl ReadLease {
    /// Takes the lease, or says why the kernel refused it (EAGAIN: a writer; EACCES: another user's file).
    pub(crate) fn take(file: &Arc<File>) -> std::io::Result<Self> {
        // The default signal of a broken lease, SIGIO, would end the process; SIGURG is ignored by default, and we ask
        // with `is_unbroken` instead of listening.
        fcntl(file, F_SETSIG, libc::SIGURG)?;
        fcntl(file, libc::F_SETLEASE, libc::F_RDLCK)?;
        Ok(ReadLease { file: Arc::clone(file) })
    }

    /// Whether nobody has tried to write since.
    pub(crate) fn is_unbroken(&self) -> bool {
        fcntl(&self.file, libc::F_GETLEASE, 0).is_ok_and(|kind| kind == libc::F_RDLCK)
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        // Closing the file would release it too; a failure here leaves nothing to do.
        let _ = fcntl(&self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Linux's F_SETSIG (asm-generic/fcntl.h); the libc crate does not name it on every target.
const F_SETSIG: libc::c_int = 10;

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> std::io::Result<libc::c_int> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and each command used here takes an int and
    // touches no memory of ours.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if answer == -1 { Err(std::io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_refused_to_a_written_file_and_broken_by_a_writer() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f");
        std::fs::write(&path, b"x").expect("written");
        let read = Arc::new(File::open(&path).expect("opens"));
        let writer = File::options().write(true).open(&path).expect("opens");
        assert!(ReadLease::take(&read).is_err(), "someone holds it open for writing");
        drop(writer);
        let lease = ReadLease::take(&read).expect("nobody writes");
        assert!(lease.is_unbroken());
        let nonblocking = rustix::fs::open(
            &path,
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        assert_eq!(nonblocking.expect_err("the lease holds a writer off"), rustix::io::Errno::WOULDBLOCK);
        assert!(!lease.is_unbroken(), "and shows that one came");
    }
}
