//! The immutable flag on stored files, for those who ask for it.
//!
//! Owns: `FS_IMMUTABLE_FL` on blobs and trees (ioctl_iflags(2), what chattr(1) calls `+i`). Promises: it is set only on files
//! whose stamps were known, and their new stamps are taken (the flag changes ctime), so that no open pays for it; the
//! registry's own removal and replacement take it off first. Leaves out: whether it is wanted (an option, because it needs a
//! capability and breaks `rm -rf`).

use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, blob_name};
use rustix::fs::{IFlags, OFlags};
use std::fs::File;

/// Sets the flag on a blob and its tree; whether either did not have it.
pub(crate) fn protect(layout: &Layout, sha256: &Sha256Digest) -> Result<bool> {
    let mut changed = false;
    for folder in [Folder::Blobs, Folder::Trees] {
        let file = layout
            .read(folder, &blob_name(sha256), OFlags::empty())
            .map_err(|e| Error::io("opening a stored file", e))?;
        let flags = rustix::fs::ioctl_getflags(&file).map_err(refused)?;
        if !flags.contains(IFlags::IMMUTABLE) {
            rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE).map_err(refused)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Takes the flag off again; whether it was there.
pub(crate) fn unprotect(file: &File) -> bool {
    rustix::fs::ioctl_getflags(file).is_ok_and(|flags| {
        flags.contains(IFlags::IMMUTABLE) && rustix::fs::ioctl_setflags(file, flags - IFlags::IMMUTABLE).is_ok()
    })
}

fn refused(e: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    match e {
        Errno::PERM | Errno::ACCESS => Error::new(
            ErrorKind::Permission,
            "stored files cannot be made immutable: that needs CAP_LINUX_IMMUTABLE (run as root, or leave --immutable out)",
        ),
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS => Error::new(
            ErrorKind::Unsupported,
            "the root's file system has no immutable flag: use ext4, XFS or btrfs, or leave --immutable out",
        ),
        e => Error::io("making a stored file immutable", e),
    }
}
