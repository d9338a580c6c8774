//! What the kernel is told about an error of the core.
//!
//! Owns: the one table from [`ErrorKind`] to errno. Promises: it is complete (no `_` arm), and nothing that says "these
//! bytes cannot be vouched for" ever becomes a success or an end of file. Leaves out: messages, which go to the log.

use fuser::Errno;
use securereg::ErrorKind;

/// The errno with which open(2) fails.
pub(crate) fn of_open(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Quarantined => Errno::EACCES,
        ErrorKind::Permission => Errno::EACCES,
        ErrorKind::NotFound => Errno::ENOENT,
        // Bytes, tree, manifest or log are not what they should be: closed.
        ErrorKind::Corrupt => Errno::EIO,
        ErrorKind::Unreadable => Errno::EIO,
        ErrorKind::Manifest => Errno::EIO,
        ErrorKind::Audit => Errno::EIO,
        ErrorKind::Io => Errno::EIO,
        ErrorKind::NoMemory => Errno::ENOMEM,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::TooLarge => Errno::EFBIG,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::Cancelled => Errno::EINTR,
        // None of these belongs to opening a file; if one comes, the file is not served.
        ErrorKind::InvalidInput => Errno::EIO,
        ErrorKind::DigestMismatch => Errno::EIO,
        ErrorKind::Refused => Errno::EIO,
        ErrorKind::SourceChanged => Errno::EIO,
        ErrorKind::Conflict => Errno::EIO,
        ErrorKind::NotMounted => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_an_error_to_the_kernel() {
        for kind in ErrorKind::ALL {
            assert!(i32::from(of_open(kind)) > 0, "{kind:?}");
        }
        assert_eq!(i32::from(of_open(ErrorKind::Quarantined)), libc::EACCES);
        assert_eq!(i32::from(of_open(ErrorKind::Corrupt)), libc::EIO);
        assert_eq!(i32::from(of_open(ErrorKind::Manifest)), libc::EIO);
        assert_eq!(i32::from(of_open(ErrorKind::NotFound)), libc::ENOENT);
    }
}
