//! The system calls and instructions that no safe crate offers.
//!
//! Owns: file leases, the I/O class of a thread, mappings of sealed memory, a mark that a fork wipes, close-on-exec for all descriptors, in
//! [`signals`] what shields the host from signals, and in
//! [`sha256`] the one computation that needs instructions of the CPU's own. Promises: the only
//! `unsafe` of the core besides `src/ffi`, one operation a block. Leaves out: everything rustix and std wrap already.

mod sha256;
mod signals;

pub(crate) use sha256::{Block, State, compress_two};
pub(crate) use signals::{NoFileSizeSignal, spawn_quietly, spawn_scoped_quietly};

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
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

/// This thread, and those it starts, wait for the disk behind everybody else (ioprio_set(2), the idle class) for as long as this lives.
/// Where the I/O scheduler knows no classes nothing changes.
#[derive(Debug)]
pub(crate) struct IdleIo(());

impl IdleIo {
    pub(crate) fn new() -> IdleIo {
        set_io_class(IOPRIO_CLASS_IDLE);
        IdleIo(())
    }
}

impl Drop for IdleIo {
    fn drop(&mut self) {
        set_io_class(IOPRIO_CLASS_NONE);
    }
}

// include/uapi/linux/ioprio.h
const IOPRIO_CLASS_NONE: libc::c_int = 0;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

fn set_io_class(class: libc::c_int) {
    // SAFETY: three integers, no memory; 0 is the calling thread. A refusal changes nothing.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << IOPRIO_CLASS_SHIFT) };
}

/// A read-only mapping of a memfd that can neither be written nor cut short any more.
#[derive(Debug)]
pub(crate) struct SealedMap {
    /// None for an empty file, which cannot be mapped.
    map: Option<memmap2::Mmap>,
}

impl SealedMap {
    /// Maps `len` bytes.
    ///
    /// # Errors
    /// `InvalidInput` when a seal is missing: without it the bytes could change or vanish under a reader.
    pub(crate) fn new(fd: &OwnedFd, len: u64) -> std::io::Result<Self> {
        use rustix::fs::SealFlags;
        let needed = SealFlags::WRITE | SealFlags::SHRINK;
        if !rustix::fs::fcntl_get_seals(fd)?.contains(needed) || rustix::fs::fstat(fd)?.st_size as u64 != len {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the memory is not sealed"));
        }
        if len == 0 {
            return Ok(SealedMap { map: None });
        }
        let len = usize::try_from(len).map_err(std::io::Error::other)?;
        // SAFETY: the seals just asked for make the file's bytes and its size unchangeable for everyone and for good, so a
        // shared slice of the mapping is sound for as long as the mapping lives, which `self` owns.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(fd.as_raw_fd())? };
        Ok(SealedMap { map: Some(map) })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

/// A page of this process that the kernel zeroes in a forked child (madvise(2), MADV_WIPEONFORK).
#[derive(Debug)]
pub(crate) struct ForkMark {
    page: memmap2::MmapMut,
}

impl ForkMark {
    /// Sets the mark; none where the kernel has no such pages.
    pub(crate) fn set() -> Option<Self> {
        let mut page = memmap2::MmapMut::map_anon(1).ok()?;
        // SAFETY: the page is ours, whole, and mapped until `page` is dropped; the advice concerns forked children only.
        if unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_WIPEONFORK) } != 0 {
            return None;
        }
        page[0] = 1;
        Some(ForkMark { page })
    }

    /// Whether this process was forked since.
    pub(crate) fn is_wiped(&self) -> bool {
        // SAFETY: one byte of a page that stays mapped while `self` lives. Volatile, because the kernel changes it behind the
        // compiler's back, though never while anything of this process runs.
        unsafe { self.page.as_ptr().read_volatile() == 0 }
    }
}

/// Has the C library's allocator keep memory that is freed, up to 16 MiB in each of 4 places, for what comes: by default it gives buffers of a
/// hundred KiB back to the kernel each time, which zeroes a page for each 4 KiB that is used again. For servers, which take such buffers
/// all the time; a library leaves its host's memory alone. Nothing where the C library knows no such settings.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (setting, value) in
        [(libc::M_MMAP_THRESHOLD, 16 << 20), (libc::M_TRIM_THRESHOLD, 16 << 20), (libc::M_ARENA_MAX, 4)]
    {
        // SAFETY: it changes numbers of the allocator, under the allocator's own lock, and touches no memory of ours.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Marks every descriptor but the three standard streams close-on-exec: those that this process inherited too. For a daemon at its start,
/// so that no program it starts is given any of them.
///
/// # Errors
/// On kernels before 5.11, which cannot.
pub fn close_all_on_exec() -> std::io::Result<()> {
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: with this flag nothing is closed: a mark is set on descriptors, by whomever they are owned, and no memory is touched.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if answer == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
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
    fn a_fork_wipes_the_mark() {
        let mark = ForkMark::set().expect("Linux 4.14 or later");
        assert!(!mark.is_wiped());
        // SAFETY: the child calls nothing but _exit, which may be called after a fork of any process.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(mark.is_wiped())) };
        }
        let mut status = 0;
        // SAFETY: `status` is ours, and `child` is this process's child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 1);
        assert!(!mark.is_wiped());
    }

    #[test]
    fn only_sealed_memory_is_mapped() {
        use rustix::fs::{MemfdFlags, SealFlags};
        let make = |bytes: &[u8]| {
            let fd = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
            rustix::io::pwrite(&fd, bytes, 0).expect("written");
            fd
        };
        let fd = make(b"abc");
        assert!(SealedMap::new(&fd, 3).is_err(), "not sealed");
        rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE).expect("sealed");
        assert!(SealedMap::new(&fd, 3).is_err(), "it could be cut short");
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).expect("sealed");
        assert_eq!(SealedMap::new(&fd, 3).expect("mapped").bytes(), b"abc");
        assert!(SealedMap::new(&fd, 4).is_err(), "another length");
        let empty = make(b"");
        rustix::fs::fcntl_add_seals(&empty, SealFlags::WRITE | SealFlags::SHRINK).expect("sealed");
        assert_eq!(SealedMap::new(&empty, 0).expect("mapped").bytes(), b"");
    }

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
