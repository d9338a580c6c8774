//! A descriptor that is given out, and still ours.
//!
//! Owns: [`Lent`]. Promises: one that another part of the program closed by mistake is noticed, by its inode, and whatever file
//! has its number by then is never closed by us. Leaves out: what the descriptor is for.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

/// An owned descriptor whose number others know.
#[derive(Debug)]
pub(crate) struct Lent {
    /// None only while it is dropped.
    fd: Option<OwnedFd>,
    id: (u64, u64),
}

impl Lent {
    pub(crate) fn new(fd: OwnedFd) -> rustix::io::Result<Lent> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Lent { fd: Some(fd), id: (stat.st_dev, stat.st_ino) })
    }

    /// Whether its number still leads to the file it was opened as.
    pub(crate) fn is_there(&self) -> bool {
        let stat = self.fd.as_ref().map(rustix::fs::fstat);
        stat.is_some_and(|stat| stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.id))
    }
}

impl AsFd for Lent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("taken in drop alone").as_fd()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_there() {
            // Forgotten: somebody closed it, and its number is nobody's, or somebody else's.
            let _ = self.fd.take().map(IntoRawFd::into_raw_fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_descriptor_that_is_another_file_by_now_is_not_closed() {
        let (one, two) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let mut lent = Lent::new(one.into()).expect("open");
        assert!(lent.is_there());
        // As if its number had been closed and used again.
        let other = Lent::new(two.try_clone().expect("a duplicate").into()).expect("open");
        lent.id = other.id;
        assert!(!lent.is_there());
        let kept = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&lent.as_fd()));
        drop(lent);
        assert!(File::open(&kept).is_ok(), "it was not ours to close");
        let gone = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&other.as_fd()));
        let id = other.id;
        drop(other);
        let there = rustix::fs::stat(gone.as_str()).map(|stat| (stat.st_dev, stat.st_ino));
        assert_ne!(there, Ok(id), "ours was closed");
    }
}
