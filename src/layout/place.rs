//! Where a root may lie.
//!
//! Owns: the two questions asked of it before anything in it is believed. Promises: a root that others can reach into, or whose
//! changes this kernel does not see, is not opened. Leaves out: what lies in it.

use super::Access;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::Mode;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A root must be private: whoever can write there can change what every reader gets, and whoever can read there walks
/// around the mount's permissions.
pub(super) fn check_private(root: &OwnedFd, path: &Path, access: Access) -> Result<()> {
    let stat = rustix::fs::fstat(root).map_err(|e| Error::io("reading the root's mode", e))?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if stat.st_mode & 0o077 == 0 && ours {
        return Ok(());
    }
    let empty = access == Access::Create
        && rustix::fs::Dir::read_from(root)
            .is_ok_and(|d| d.flatten().all(|e| matches!(e.file_name().to_bytes(), b"." | b"..")));
    if ours && empty {
        let private = rustix::fs::fchmod(root, Mode::RWXU).and_then(|()| durable::sync_folder(root));
        return private.map_err(|e| Error::io("making the root private", e));
    }
    let remedy = if ours {
        format!("chmod 700 {}", path.display())
    } else {
        format!("run this as its owner, or use a root of your own (--root DIR); {} may be led astray by it", whoami())
    };
    Err(Error::new(
        ErrorKind::Permission,
        format!(
            "{} is not private to this user (mode {:o}, owner uid {}): {remedy}",
            path.display(),
            stat.st_mode & 0o7777,
            stat.st_uid
        ),
    ))
}

fn whoami() -> String {
    format!("uid {}", rustix::process::geteuid().as_raw())
}

/// inotify sees only changes made through this kernel, and flock is not to be trusted everywhere: no network root.
pub(super) fn refuse_network(root: &OwnedFd, path: &Path) -> Result<()> {
    // statfs(2), "f_type": NFS, SMB, CIFS, SMB2, 9P, CEPH, AFS, LUSTRE, GFS2, OCFS2, FUSE.
    const REMOTE: [i64; 11] = [
        0x6969,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x0102_1997,
        0x00c3_6400,
        0x5346_414f,
        0x0bd0_0bd0,
        0x0116_1970,
        0x7461_636f,
        0x6573_5546,
    ];
    let fs = rustix::fs::fstatfs(root).map_err(|e| Error::io("reading the root's file system", e))?;
    if REMOTE.contains(&(fs.f_type as i64)) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} is on a network or FUSE file system, where a quarantine cannot reach every reader: use a local disk",
                path.display()
            ),
        ));
    }
    Ok(())
}
