//! The root folder on disk, and the only ways to change it durably.
//!
//! Owns: where things lie, the open descriptors of the folders, writes that survive a power cut. Promises: every path
//! below the root is opened relative to a descriptor and never through a link; [`Layout::write_durably`] leaves the old
//! file or the new one, never a torn one. Leaves out: what the files mean.
//!
//! ```text
//! <root>/                mode 0700: nobody walks around the mount
//!   manifest.yaml        catalog/
//!   generation           the highest generation seen, apart from the manifest: an older one put back is noticed
//!   signing.key .pub     what both are signed with, where the root has a key
//!   history/             the last few manifests, for a recovery
//!   audit.jsonl          audit.rs
//!   blobs/sha256/<hex>   the bytes, mode 0444, one link
//!   trees/<hex>          tree.rs
//!   sidecars/sha256/     evidence, content-addressed, pinned by manifest.yaml
//!   stamps/<hex>         stamp.rs: a cache; losing it costs a re-check
//!   quarantine/          staging for HTTP promotions: never served
//!   oci/<repository>/    content/
//!   tmp/                 unfinished copies
//!   tokens/ run/         the server's tokens; locks and mount records
//! ```

mod place;

use crate::buffer;
use crate::digest::Sha256Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::figures::Disk;
use crate::immutable;
use crate::sys::NoFileSizeSignal;
use place::{check_private, refuse_network};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folders below the root, with the ones they need first.
pub(crate) const FOLDERS: [&str; 12] = [
    "blobs",
    "blobs/sha256",
    "trees",
    "sidecars",
    "sidecars/sha256",
    "stamps",
    "quarantine",
    "tmp",
    "tokens",
    "run",
    "run/mounts",
    "oci",
];

/// A folder of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    Root,
    Blobs,
    Trees,
    Sidecars,
    Stamps,
    Run,
    Mounts,
    Oci,
    Tmp,
}

/// An open root.
#[derive(Debug)]
pub(crate) struct Layout {
    path: PathBuf,
    access: Access,
    root: OwnedFd,
    blobs: OwnedFd,
    trees: OwnedFd,
    sidecars: OwnedFd,
    stamps: OwnedFd,
    run: OwnedFd,
    mounts: OwnedFd,
    oci: OwnedFd,
    tmp: OwnedFd,
}

/// An exclusive or shared lock on a file under `run/`; dropped, it is released.
#[derive(Debug)]
pub(crate) struct LockFile(File);

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing would not do: a child forked meanwhile holds the same open file description.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Layout {
    /// Opens the folders of an existing root; with [`Access::Create`], makes those that are missing.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Layout> {
        if access == Access::Create {
            create_root(path).map_err(|e| Error::io(format_args!("creating {}", path.display()), e))?;
        }
        let path = path.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("no registry at {}: `securereg up` or `securereg promote` makes one", path.display()),
            ),
            _ => Error::io(format_args!("opening {}", path.display()), e),
        })?;
        let root = rustix::fs::open(&path, FOLDER, Mode::empty())
            .map_err(|e| Error::io(format_args!("opening {}", path.display()), e))?;
        refuse_network(&root, &path)?;
        check_private(&root, &path, access)?;
        if access == Access::Create {
            for folder in FOLDERS {
                match rustix::fs::mkdirat(&root, folder, Mode::RWXU) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(Error::io(format_args!("creating {}/{folder}", path.display()), e)),
                }
            }
        }
        let sub = |name: &str| {
            // A link anywhere on the way would lead outside.
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(&root, name, FOLDER, Mode::empty(), beneath)
                .map_err(|e| Error::io(format_args!("opening {}/{name}", path.display()), e))
        };
        if access == Access::Create {
            // Also what an earlier start has made: it may have ended before this.
            for above in FOLDERS.iter().filter_map(|folder| folder.split_once('/')).map(|(above, _)| above) {
                durable::sync_folder(&sub(above)?).map_err(|e| Error::io(format_args!("syncing {above}"), e))?;
            }
            durable::sync_folder(&root).map_err(|e| Error::io("syncing the root", e))?;
        }
        Ok(Layout {
            blobs: sub("blobs/sha256")?,
            trees: sub("trees")?,
            sidecars: sub("sidecars/sha256")?,
            stamps: sub("stamps")?,
            run: sub("run")?,
            mounts: sub("run/mounts")?,
            oci: sub("oci")?,
            tmp: sub("tmp")?,
            root,
            path,
            access,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The one gate in front of everything that changes the root.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match self.access {
            Access::Write | Access::Create => Ok(()),
            Access::Read => Err(Error::new(
                ErrorKind::Permission,
                format!("the registry {} was opened read-only: open it for writing", self.path.display()),
            )),
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.access != Access::Read
    }

    pub(crate) fn folder(&self, folder: Folder) -> &OwnedFd {
        match folder {
            Folder::Root => &self.root,
            Folder::Blobs => &self.blobs,
            Folder::Trees => &self.trees,
            Folder::Sidecars => &self.sidecars,
            Folder::Stamps => &self.stamps,
            Folder::Run => &self.run,
            Folder::Mounts => &self.mounts,
            Folder::Oci => &self.oci,
            Folder::Tmp => &self.tmp,
        }
    }

    /// A folder below the root, made where it is missing.
    pub(crate) fn made_folder(&self, name: &str) -> Result<OwnedFd> {
        self.check_writable()?;
        match rustix::fs::mkdirat(&self.root, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(Error::io(format_args!("creating {name}"), e)),
        }
        self.some_folder(name)?.ok_or_else(|| Error::new(ErrorKind::Io, format!("{name} vanished")))
    }

    /// A folder below the root, if it is there.
    pub(crate) fn some_folder(&self, name: &str) -> Result<Option<OwnedFd>> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.root, name, FOLDER, Mode::empty(), beneath) {
            Ok(folder) => Ok(Some(folder)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io(format_args!("opening {name}"), e)),
        }
    }

    /// Opens `name` in `folder` for reading; never through a link, never blocking on what is not a file.
    pub(crate) fn read(&self, folder: Folder, name: &str, extra: OFlags) -> rustix::io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | extra;
        rustix::fs::openat(self.folder(folder), name, flags, Mode::empty()).map(File::from)
    }

    /// Reads a small file whole; refuses one over `limit` bytes before reading it.
    pub(crate) fn read_small(&self, folder: Folder, name: &str, limit: u64) -> Result<Vec<u8>> {
        let file =
            self.read(folder, name, OFlags::empty()).map_err(|e| Error::io(format_args!("opening {name}"), e))?;
        read_bounded(&file, name, limit)
    }

    /// A new private file in tmp/, which nobody else knows, and its name. Whoever makes one holds [`Layout::use_temp`].
    pub(crate) fn new_temp(&self, extra: OFlags) -> Result<(File, String)> {
        self.check_writable()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW | extra;
        let (fd, name) = new_name(|name| rustix::fs::openat(&self.tmp, name, flags, Mode::RUSR | Mode::WUSR))?;
        Ok((File::from(fd), name))
    }

    /// A second link to an open file, in tmp/. By descriptor: the very file, wherever its name leads by now.
    pub(crate) fn link_temp(&self, file: &File) -> Result<String> {
        self.check_writable()?;
        let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        let link =
            |name: &str| rustix::fs::linkat(rustix::fs::CWD, &*by_descriptor, &self.tmp, name, AtFlags::SYMLINK_FOLLOW);
        new_name(link).map(|((), name)| name)
    }

    /// Writes `bytes` to `folder/name` so that a crash leaves the old file or the new one: temp, fsync, rename, fsync the
    /// folder.
    pub(crate) fn write_durably(&self, folder: Folder, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_atomically(folder, name, bytes)?;
        self.sync(folder)
    }

    /// Like [`Layout::write_durably`] but for a file whose loss is harmless: the new name may be gone after a crash,
    /// its content may not be torn.
    pub(crate) fn write_atomically(&self, folder: Folder, name: &str, bytes: &[u8]) -> Result<()> {
        let _in_use = self.use_temp()?;
        let temp = self.write_temp(bytes)?;
        self.publish(&temp, folder, name)
    }

    /// Replaces a file of a cache: another process sees the old one or the new one, a crash may lose or empty it.
    pub(crate) fn write_cache(&self, folder: Folder, name: &str, bytes: &[u8]) -> Result<()> {
        let _in_use = self.use_temp()?;
        let (file, temp) = self.new_temp(OFlags::empty())?;
        self.fill(&file, &temp, bytes)?;
        self.publish(&temp, folder, name)
    }

    /// Writes and syncs a file in tmp/. Whoever does holds [`Layout::use_temp`].
    pub(crate) fn write_temp(&self, bytes: &[u8]) -> Result<String> {
        let (file, temp) = self.new_temp(OFlags::empty())?;
        self.fill(&file, &temp, bytes)?;
        durable::sync_file(&file).map_err(|e| self.unwritten(&temp, e))?;
        Ok(temp)
    }

    /// Writes a file in tmp/ that is still to be synced. Whoever does holds [`Layout::use_temp`].
    pub(crate) fn write_temp_unsynced(&self, bytes: &[u8]) -> Result<(File, String)> {
        let (file, temp) = self.new_temp(OFlags::empty())?;
        self.fill(&file, &temp, bytes)?;
        Ok((file, temp))
    }

    fn fill(&self, mut file: &File, temp: &str, bytes: &[u8]) -> Result<()> {
        let _quiet = NoFileSizeSignal::new();
        file.write_all(bytes).map_err(|e| self.unwritten(temp, e))
    }

    fn unwritten(&self, temp: &str, e: std::io::Error) -> Error {
        self.discard(temp);
        Error::io("writing a temporary file", e)
    }

    /// Renames `temp`, already synced, to `folder/name`. The folder still has to be synced.
    pub(crate) fn publish(&self, temp: &str, folder: Folder, name: &str) -> Result<()> {
        self.check_writable()?;
        let rename = || durable::rename(&self.tmp, temp, self.folder(folder), name);
        self.despite_immutable(folder, name, rename).map_err(|e| {
            self.discard(temp);
            Error::io(format_args!("publishing {name}"), e)
        })
    }

    /// Renames `temp`, already synced, to a name in a folder below oci/, which still has to be synced.
    pub(crate) fn publish_in(&self, temp: &str, folder: &OwnedFd, name: &str) -> Result<()> {
        self.check_writable()?;
        durable::rename(&self.tmp, temp, folder, name).map_err(|e| Error::io(format_args!("publishing {name}"), e))
    }

    /// Renames a file of a folder below oci/, already synced, to `folder/name`. The folder still has to be synced.
    pub(crate) fn publish_from(&self, from: &OwnedFd, file: &str, folder: Folder, name: &str) -> Result<()> {
        self.check_writable()?;
        let rename = || durable::rename(from, file, self.folder(folder), name);
        self.despite_immutable(folder, name, rename).map_err(|e| Error::io(format_args!("publishing {name}"), e))
    }

    /// Does something to `folder/name` that the immutable flag forbids: takes the flag off if that is what is in the way.
    fn despite_immutable(
        &self,
        folder: Folder,
        name: &str,
        act: impl Fn() -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        match act() {
            Err(rustix::io::Errno::PERM)
                if self.read(folder, name, OFlags::empty()).is_ok_and(|f| immutable::unprotect(&f)) =>
            {
                act()
            }
            outcome => outcome,
        }
    }

    pub(crate) fn sync(&self, folder: Folder) -> Result<()> {
        durable::sync_folder(self.folder(folder)).map_err(|e| Error::io("syncing a folder", e))
    }

    /// Opens a file in tmp/ for reading: one of our own, whose name nobody else knows.
    pub(crate) fn read_temp(&self, temp: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(&self.tmp, temp, flags, Mode::empty())
            .map(File::from)
            .map_err(|e| Error::io("opening a temporary file", e))
    }

    /// Removes a temporary file; one that stays is swept at the next start.
    pub(crate) fn discard(&self, temp: &str) {
        let _ = rustix::fs::unlinkat(&self.tmp, temp, AtFlags::empty());
    }

    /// Removes `folder/name` if it is there.
    pub(crate) fn remove(&self, folder: Folder, name: &str) -> Result<()> {
        self.check_writable()?;
        let unlink = || rustix::fs::unlinkat(self.folder(folder), name, AtFlags::empty());
        match self.despite_immutable(folder, name, unlink) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::io(format_args!("removing {name}"), e)),
        }
    }

    /// Waits for the lock `run/<name>`.
    pub(crate) fn lock(&self, name: &str, kind: FlockOperation) -> Result<LockFile> {
        let file = self.lock_file(name)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, kind))
            .map_err(|e| Error::io(format_args!("locking run/{name}"), e))?;
        Ok(LockFile(file))
    }

    /// Takes the lock `run/<name>` unless another holds it.
    pub(crate) fn try_lock(&self, name: &str, kind: FlockOperation) -> Result<Option<LockFile>> {
        let file = self.lock_file(name)?;
        match rustix::fs::flock(&file, kind) {
            Ok(()) => Ok(Some(LockFile(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(Error::io(format_args!("locking run/{name}"), e)),
        }
    }

    /// Whether somebody holds the lock `run/<name>` at this moment, in whatever way. Also asked of a root that is open read-only: it is
    /// tried and let go at once.
    pub(crate) fn is_locked(&self, name: &str) -> Result<bool> {
        let file = match self.read(Folder::Run, name, OFlags::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(e) => return Err(Error::io(format_args!("opening run/{name}"), e)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                drop(LockFile(file));
                Ok(false)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(Error::io(format_args!("looking at run/{name}"), e)),
        }
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        self.check_writable()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.run, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|e| Error::io(format_args!("opening run/{name}"), e))
    }

    /// Removes what a crashed promotion left in tmp/, unless one is running now. How many files there were, and their bytes.
    pub(crate) fn sweep_temp(&self) -> Result<(u64, u64)> {
        let mut swept = (0, 0);
        let Some(_alone) = self.try_lock(TEMP_LOCK, FlockOperation::NonBlockingLockExclusive)? else {
            return Ok(swept);
        };
        for name in self.names(Folder::Tmp)? {
            let size = rustix::fs::statat(&self.tmp, &*name, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| stat.st_size);
            self.discard(&name);
            swept = (swept.0 + 1, swept.1 + u64::try_from(size).unwrap_or(0));
        }
        Ok(swept)
    }

    /// The names in a folder, in no order. What is not UTF-8 is not ours, and is named as well as it can be.
    pub(crate) fn names(&self, folder: Folder) -> Result<Vec<String>> {
        let io = |e| Error::io("listing a folder of the root", e);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.folder(folder)).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    /// Announces that temporary files are in use, for as long as the lock lives.
    pub(crate) fn use_temp(&self) -> Result<LockFile> {
        self.lock(TEMP_LOCK, FlockOperation::LockShared)
    }

    /// How full the disk is, and what unfinished copies hold of it.
    pub(crate) fn disk(&self) -> Result<Disk> {
        let fs = rustix::fs::fstatvfs(&self.root).map_err(|e| Error::io("asking for free space", e))?;
        let names = rustix::fs::Dir::read_from(&self.tmp).map_err(|e| Error::io("listing tmp", e))?;
        // One that is gone by now holds nothing.
        let sizes = names.flatten().filter_map(|entry| {
            let stat = rustix::fs::statat(&self.tmp, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
            is_file.then_some(stat.st_size as u64)
        });
        Ok(Disk {
            free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            size_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
            temp_bytes: sizes.fold(0, u64::saturating_add),
        })
    }

    /// Whether something could be written: tries it with a file in tmp/ that never has a name.
    pub(crate) fn try_write(&self) -> Result<()> {
        let _quiet = NoFileSizeSignal::new();
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let written = match rustix::fs::openat(&self.tmp, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => rustix::io::write(&file, b"ready").map(drop),
            // A file system without nameless files: a change would be refused only by what access(2) sees.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                rustix::fs::accessat(&self.tmp, ".", rustix::fs::Access::WRITE_OK, AtFlags::empty())
            }
            Err(e) => Err(e),
        };
        written.map_err(|e| Error::io("writing into the root", e))
    }

    /// Bytes a promotion may still take: what is free to us, less 5 percent of it.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let fs = rustix::fs::fstatvfs(&self.root).map_err(|e| Error::io("asking for free space", e))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        Ok(free - free / 20)
    }
}

/// Tries names that no other process uses until one is free.
fn new_name<T>(make: impl Fn(&str) -> rustix::io::Result<T>) -> Result<(T, String)> {
    loop {
        let name = unique_name();
        match make(&name) {
            Ok(made) => return Ok((made, name)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(Error::io("creating a temporary file", e)),
        }
    }
}

/// A name that no other process has, even one in another PID namespace on the same root.
pub(crate) fn unique_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // The standard library seeds each hasher's keys from the system's randomness.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{}-{}-{random:016x}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

const TEMP_LOCK: &str = "tmp.lock";

/// What may be done to a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing is written there, not even a lock file or a cache.
    Read,
    /// What is there may be changed.
    Write,
    /// And what is missing is made.
    Create,
}

/// The blob's name in blobs/, trees/ and stamps/.
pub(crate) fn blob_name(sha256: &Sha256Digest) -> String {
    sha256.to_hex()
}

/// Reads a regular file of at most `limit` bytes whole.
pub(crate) fn read_bounded(file: &File, what: &str, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let meta = file.metadata().map_err(|e| Error::io(format_args!("reading {what}"), e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{what} is not a regular file")));
    }
    if meta.len() > limit {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{what} has {} bytes, over the limit of {limit}", meta.len()),
        ));
    }
    let mut bytes = buffer::with_room(usize::try_from(meta.len()).unwrap_or(0))?;
    file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(format_args!("reading {what}"), e))?;
    Ok(bytes)
}

/// Makes the root where there is none, private from the first moment on, and the folders above it. The name of each is on the disk
/// before anything is put into it; that of the root also when an earlier start made it, which may have ended before this.
fn create_root(path: &Path) -> std::io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.iter().rev() {
        let mode = if *folder == path { 0o700 } else { 0o777 };
        match std::fs::DirBuilder::new().mode(mode).create(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        sync_above(folder)?;
    }
    if missing.is_empty() { sync_above(&path) } else { Ok(()) }
}

/// Syncs the folder that `path` is in. One that we may not read was not made by us.
fn sync_above(path: &Path) -> std::io::Result<()> {
    let Some(above) = path.parent() else { return Ok(()) };
    match File::open(above) {
        Ok(above) => Ok(durable::sync_folder(&above.into())?),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}
