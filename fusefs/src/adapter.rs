//! FUSE requests, one function each.
//!
//! Owns: the translation between fuser's types and the daemon. Promises: every request that would change something is
//! EROFS, every write mode in open too, whatever the mount says of itself; a panic in a handler is an EIO, not a dead
//! thread; nothing here blocks. Leaves out: everything that decides (`view`, `daemon`).

use crate::allow::Modes;
use crate::daemon::Daemon;
use crate::gate::Shows;
use crate::revoke::LOOP_NAME;
use crate::view::{FileNode, Found, ROOT, Sort, Status};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// How long the kernel may keep names and attributes without asking; changes are told to it besides.
const TTL: Duration = Duration::from_secs(1);
const NO_TTL: Duration = Duration::ZERO;
/// One group of the tree: who reads in this unit has each byte hashed once.
const BLOCK: u32 = 64 * 1024;
/// The longest read the kernel sends in one request (256 pages, its own limit too).
const MAX_REQUEST: u32 = 1024 * 1024;
/// Inode numbers are never used again, so one generation does.
const GENERATION: Generation = Generation(0);

/// The file system as fuser calls it.
pub(crate) struct Adapter {
    daemon: Arc<Daemon>,
    modes: Modes,
}

/// Runs a handler. If it panics, the reply it owned is dropped by the unwinding, and a dropped reply answers EIO.
fn guarded(handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        tracing::error!("a request handler panicked; answered with EIO");
    }
}

impl Adapter {
    pub(crate) fn new(daemon: Arc<Daemon>, modes: Modes) -> Adapter {
        Adapter { daemon, modes }
    }

    /// Whether the request is from the thread that ends MAP_POPULATE loops.
    fn is_loop_ender(&self, req: &Request) -> bool {
        req.pid() != 0 && req.pid() == self.daemon.loop_ender.load(Ordering::SeqCst)
    }

    /// A lookup of the name that leads the loop-ending thread to a revoked inode.
    fn revoked_entry(&self, req: &Request, name: &str) -> Option<FileAttr> {
        let ino: u64 = name.strip_prefix(LOOP_NAME)?.parse().ok()?;
        if !self.is_loop_ender(req) {
            return None;
        }
        let Some(Found::File(node)) = self.daemon.view.find(ino) else { return None };
        let attr = self.modes.shown(&node)?;
        self.daemon.view.hold(ino)?;
        Some(attr)
    }
}

impl Modes {
    fn attr(&self, found: &Found) -> FileAttr {
        match found {
            Found::Dir { ino, mtime } => self.fill(*ino, FileType::Directory, 0, self.dir, *mtime),
            Found::File(node) => {
                let perm = match node.facts.status {
                    Status::Promoted => self.file,
                    // So that access(2) says no before open(2) does.
                    Status::Quarantined => 0,
                };
                self.fill(node.ino, FileType::RegularFile, node.facts.size, perm, node.mtime)
            }
        }
    }

    /// What the loop-ending thread is shown of a revoked file.
    fn shown(&self, node: &Arc<FileNode>) -> Option<FileAttr> {
        let whole = self.attr(&Found::File(Arc::clone(node)));
        match node.gate.shows() {
            Shows::Nothing => None,
            Shows::Empty => Some(FileAttr { size: 0, ..whole }),
            Shows::Whole => Some(whole),
        }
    }

    fn fill(&self, ino: u64, kind: FileType, size: u64, perm: u16, time: SystemTime) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }
}

/// The value of an extended attribute of a file.
fn xattr(node: &FileNode, name: &OsStr) -> Option<String> {
    match name.to_str()?.strip_prefix("user.securereg.")? {
        "sha256" => Some(node.facts.sha256.to_string()),
        "blake3" => Some(node.facts.blake3.to_string()),
        "status" => Some(node.facts.status.as_str().to_owned()),
        "promoted_at" => Some(node.facts.promoted_at.clone()),
        _ => None,
    }
}

const XATTRS: &[u8] =
    b"user.securereg.sha256\0user.securereg.blake3\0user.securereg.status\0user.securereg.promoted_at\0";

fn reply_xattr(reply: ReplyXattr, value: &[u8], size: u32) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if size == 0 {
        reply.size(length);
    } else if length > size {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_AUTO_INVAL_DATA] {
            // AUTO_INVAL_DATA guards read(2) while a loop is ended, see `revoke`; it is as old as Linux 3.6.
            if config.add_capabilities(wanted).is_err() && wanted == InitFlags::FUSE_AUTO_INVAL_DATA {
                return Err(io::Error::from_raw_os_error(libc::EPROTO));
            }
        }
        // The nearest value that is possible is as good.
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| {
            // Every name in the tree is ASCII.
            let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
            if let Some(found) = self.daemon.view.lookup(parent.0, name) {
                return reply.entry(&TTL, &self.modes.attr(&found), GENERATION);
            }
            if parent.0 == ROOT && name.starts_with(LOOP_NAME) {
                return match self.revoked_entry(req, name) {
                    Some(attr) => reply.entry_with_ttls(&NO_TTL, &NO_TTL, &attr, GENERATION),
                    None => reply.error(Errno::ENOENT),
                };
            }
            let modes = self.modes;
            self.daemon.look_again(parent.0, name.to_owned(), reply, move |reply, found| {
                reply.entry(&TTL, &modes.attr(&found), GENERATION);
            });
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        guarded(|| self.daemon.view.forget(ino.0, count));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        guarded(|| match self.daemon.view.find(ino.0) {
            None => reply.error(Errno::ESTALE),
            Some(Found::File(node)) if node.gate.is_shut() => {
                let shown = if self.is_loop_ender(req) { self.modes.shown(&node) } else { None };
                match (shown, handle) {
                    (Some(attr), _) => reply.attr(&NO_TTL, &attr),
                    // With a handle it is read(2) or lseek(2) that asks: never an answer that could look like an end of
                    // file. Without, it may be stat(2) of a path, for which the kernel looks the name up again.
                    (None, Some(_)) => reply.error(Errno::EIO),
                    (None, None) => reply.error(Errno::ESTALE),
                }
            }
            Some(found) => reply.attr(&TTL, &self.modes.attr(&found)),
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| {
            // Not only the two write modes: 3 stands for neither and both. A mount may be remounted rw by root, and a
            // store through a shared mapping would change what others read.
            if flags.0 & libc::O_ACCMODE != libc::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
                return reply.error(Errno::EROFS);
            }
            self.daemon.open(ino.0, reply);
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded(|| self.daemon.read(handle.0, offset, size as usize, reply));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            self.daemon.release(handle.0);
            reply.ok();
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| self.daemon.open_dir(ino.0, reply));
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded(|| {
            let Some(listing) = self.daemon.listing(handle.0) else { return reply.error(Errno::EBADF) };
            let dots = [(".", ino.0), ("..", listing.parent)];
            let dots = dots.into_iter().map(|(name, ino)| (name, ino, FileType::Directory));
            let entries = listing.entries.iter().map(|(name, ino, sort)| {
                let kind = match sort {
                    Sort::File => FileType::RegularFile,
                    Sort::Dir => FileType::Directory,
                };
                (&**name, *ino, kind)
            });
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            for (index, (name, ino, kind)) in dots.chain(entries).enumerate().skip(start) {
                if reply.add(INodeNo(ino), index as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        guarded(|| {
            self.daemon.release(handle.0);
            reply.ok();
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded(|| {
            let (bytes, files) = self.daemon.view.totals();
            reply.statfs(bytes.div_ceil(4096), 0, 0, files, 0, 4096, 255, 4096);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded(|| match self.daemon.view.find(ino.0) {
            Some(Found::File(node)) if node.gate.is_shut() => reply.error(Errno::ESTALE),
            Some(Found::File(node)) => match xattr(&node, name) {
                Some(value) => reply_xattr(reply, value.as_bytes(), size),
                None => reply.error(Errno::NO_XATTR),
            },
            Some(Found::Dir { .. }) => reply.error(Errno::NO_XATTR),
            None => reply.error(Errno::ESTALE),
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(|| match self.daemon.view.find(ino.0) {
            Some(Found::File(_)) => reply_xattr(reply, XATTRS, size),
            Some(Found::Dir { .. }) => reply_xattr(reply, b"", size),
            None => reply.error(Errno::ESTALE),
        });
    }

    /// Only asked without `default_permissions`, which this mount always has.
    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        guarded(|| match self.daemon.view.find(ino.0) {
            _ if mask.contains(AccessFlags::W_OK) => reply.error(Errno::EROFS),
            Some(Found::File(node)) if node.facts.status == Status::Quarantined => reply.error(Errno::EACCES),
            Some(_) => reply.ok(),
            None => reply.error(Errno::ESTALE),
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // The kernel asks only for SEEK_DATA and SEEK_HOLE. To the reader a file is one piece of data.
        guarded(|| match self.daemon.view.find(ino.0) {
            Some(Found::File(node)) if node.gate.is_shut() => reply.error(Errno::EIO),
            Some(Found::File(node)) => {
                let size = i64::try_from(node.facts.size).unwrap_or(i64::MAX);
                match whence {
                    _ if offset < 0 || offset >= size => reply.error(Errno::ENXIO),
                    libc::SEEK_DATA => reply.offset(offset),
                    libc::SEEK_HOLE => reply.offset(size),
                    _ => reply.error(Errno::EINVAL),
                }
            }
            Some(Found::Dir { .. }) => reply.error(Errno::EISDIR),
            None => reply.error(Errno::ESTALE),
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readlink(&self, _req: &Request, _ino: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // What follows would change something. On a mount that is still ro the kernel refuses it without asking.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}
