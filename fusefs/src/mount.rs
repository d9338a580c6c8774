//! Mounting and unmounting.
//!
//! Owns: [`Mount`], a running mount, and every decision about the mount point. Promises: a mount is made only on an empty
//! folder; a dead mount that a crash left there is detached first, a live one is left alone; what is unmounted is our own
//! mount, once, and lazily; a folder made for the mount is removed with it. Leaves out: the system calls (`kernel`), unmounting by
//! another process (`detach`), and what is shown (`daemon`).
//!
//! ```text
//! Attached::new: mount(2), no thread yet -> (a daemon gives up its rights here) -> Attached::serve: threads -> Mount
//! ```

mod detach;
mod kernel;
mod table;

pub use detach::detach_when_told;

use crate::adapter::Adapter;
use crate::allow::{Allow, Modes};
use crate::daemon::Daemon;
use crate::immutable;
use crate::pool::Pool;
use crate::revoke;
use detach::Detacher;
use fuser::{Config, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::event::EventfdFlags;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use securereg::{MountGuard, Registry, Task};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::Builder;
use std::time::Duration;

/// How a mount behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Who may read it.
    pub allow: Allow,
    /// After this long without an answer from the disk a request fails with EIO.
    pub request_timeout: Duration,
    /// Whether stored files get the immutable flag (`chattr +i`), so that not even root changes one by accident. Needs
    /// CAP_LINUX_IMMUTABLE and a file system that has it.
    pub immutable: bool,
    /// How many threads read and check; more are started while some are stuck.
    pub threads: usize,
}

impl Default for MountOptions {
    /// For whom [`Allow::for_this_user`] says, 30 seconds, and a thread for each core, four at least.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(4, usize::from);
        MountOptions {
            allow: Allow::for_this_user(),
            request_timeout: Duration::from_secs(30),
            immutable: false,
            threads: cores.clamp(4, 16),
        }
    }
}

/// Why a mount was not made, to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MountErrorKind {
    /// The kernel or the container offers no FUSE.
    NoFuse,
    /// A plain user needs fusermount3, and it is not installed.
    NoFusermount,
    /// The operating system does not permit it.
    Permission,
    /// The mount point is not an empty folder.
    Mountpoint,
    /// A live mount is there already.
    AlreadyMounted,
    /// An option cannot be understood.
    InvalidOption,
    /// The registry cannot be served.
    Registry,
    /// Anything else the operating system says.
    Failed,
}

/// Why a mount was not made: a kind, and a message with the remedy.
#[derive(Debug)]
pub struct MountError {
    kind: MountErrorKind,
    message: String,
}

impl MountError {
    pub(crate) fn new(kind: MountErrorKind, message: impl Into<String>) -> Self {
        MountError { kind, message: message.into() }
    }

    /// Why, to decide by.
    pub fn kind(&self) -> MountErrorKind {
        self.kind
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for MountError {}

impl From<securereg::Error> for MountError {
    fn from(e: securereg::Error) -> Self {
        MountError::new(MountErrorKind::Registry, e.to_string())
    }
}

/// A running mount. Dropped, it is unmounted.
pub struct Mount {
    unmounter: Unmounter,
}

/// Unmounts, from any thread: for a signal handler's.
#[derive(Clone)]
pub struct Unmounter(Arc<Running>);

struct Running {
    place: Place,
    standing: Mutex<Standing>,
    phase: Mutex<Phase>,
    end: Condvar,
    stop: OwnedFd,
    pool: Pool,
}

/// Where the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Ended,
}

/// What is still to be undone.
#[derive(Default)]
struct Standing {
    guard: Option<MountGuard>,
    /// Device numbers are used again as soon as a mount has ended, so ours is looked for only once.
    unmounted: bool,
}

/// How long [`Mount::unmount`] waits for clients to let go. A mapping that a client keeps lives until this process ends.
const LET_GO: Duration = Duration::from_secs(2);
/// How long a live mount at the wanted place may take to prove that it is one.
const PROOF_OF_LIFE: Duration = Duration::from_secs(2);
/// Enough for the deepest sequential reader; a fault at random pays for it with a longer wait.
const READ_AHEAD_KB: &[u8] = b"4096";

/// A mount that is made, before anyone answers for it: whoever asks waits. Dropped, it is unmounted.
///
/// Nothing that follows needs privileges, and no thread runs yet: a daemon gives up its rights here.
#[derive(Debug)]
pub struct Attached {
    /// None once it has been passed on.
    place: Option<Place>,
    allow: Allow,
    fd: Option<OwnedFd>,
    /// Open for writing, since a daemon without rights could not open it any more.
    read_ahead: Option<File>,
}

/// Where a mount is, and how it is undone.
#[derive(Debug)]
struct Place {
    mountpoint: PathBuf,
    /// The device number, by which our mount is told from another at the same place.
    device: String,
    created: bool,
    detacher: Option<Detacher>,
}

impl Place {
    /// Whether what is mounted there is ours, dead or alive.
    fn is_ours(&self) -> io::Result<bool> {
        is_ours(&self.mountpoint, &self.device)
    }

    fn unmount(&self) -> io::Result<()> {
        match &self.detacher {
            Some(detacher) => detacher.detach(),
            None => kernel::unmount(&self.mountpoint),
        }
    }

    fn remove(&self) {
        if self.created {
            // Only if it is empty, and no longer a mount point: anything else is not ours to remove.
            let _ = std::fs::remove_dir(&self.mountpoint);
        }
    }
}

fn is_ours(mountpoint: &Path, device: &str) -> io::Result<bool> {
    Ok(table::at(mountpoint)?.is_some_and(|e| e.device == device && e.fstype == kernel::FSTYPE))
}

impl Attached {
    /// Makes the mount at `dir`, for whom `allow` says.
    ///
    /// # Errors
    /// See [`MountErrorKind`]. Nothing stays mounted after an error.
    pub fn new(dir: &Path, allow: Allow) -> Result<Attached, MountError> {
        let (mountpoint, created) = prepare(dir)?;
        let mounted = kernel::mount(&mountpoint, allow).and_then(|fd| match table::at(&mountpoint) {
            Ok(Some(entry)) if entry.fstype == kernel::FSTYPE => Ok((fd, entry.device)),
            Ok(_) => Err(MountError::new(MountErrorKind::Failed, "the mount vanished as soon as it was made")),
            Err(e) => Err(failed("reading /proc/self/mountinfo", e)),
        });
        let (fd, device) = mounted.inspect_err(|_| {
            if created {
                let _ = std::fs::remove_dir(&mountpoint);
            }
        })?;
        let read_ahead = open_read_ahead(&device);
        let place = Place { mountpoint, device, created, detacher: None };
        Ok(Attached { place: Some(place), allow, fd: Some(fd), read_ahead })
    }

    /// Where it is mounted, as an absolute path without links.
    pub fn mountpoint(&self) -> &Path {
        &self.place.as_ref().expect("passed on only by `serve`, which takes it").mountpoint
    }

    /// Leaves the unmounting to another process: `program`, which is told where, and calls [`detach_when_told`]. For a daemon that
    /// gives up the right to unmount.
    ///
    /// # Errors
    /// When it cannot be started, or does not say that it is ready. Nothing stays mounted then.
    pub fn detached_by(mut self, program: Command) -> Result<Attached, MountError> {
        let place = self.place.as_mut().expect("passed on only by `serve`, which takes it");
        place.detacher = Some(Detacher::start(program, &place.mountpoint, &place.device, place.created)?);
        Ok(self)
    }

    /// Answers for it: shows `registry`, and returns when the mount answers.
    ///
    /// # Errors
    /// See [`MountErrorKind`]. Nothing stays mounted after an error.
    pub fn serve(mut self, registry: Registry, options: &MountOptions) -> Result<Mount, MountError> {
        let daemon = Daemon::start(registry, options.threads, options.request_timeout)
            .map_err(|e| failed("starting threads", e))?;
        // Every thread ends with it: those that were started before the failure, too.
        self.start(&daemon, options).inspect_err(|_| daemon.close())
    }

    fn start(&mut self, daemon: &Arc<Daemon>, options: &MountOptions) -> Result<Mount, MountError> {
        let registry = daemon.registry.clone();
        // In this order, so that no change falls between the first look and the watch.
        let watch = registry.watch()?;
        daemon.sync()?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| failed("making an event descriptor", e.into()))?;
        let stopped = stop.try_clone().map_err(|e| failed("making an event descriptor", e))?;
        if options.immutable {
            let stopped = stop.try_clone().map_err(|e| failed("making an event descriptor", e))?;
            immutable::start(&registry, registry.watch()?, stopped).map_err(|e| match e {
                immutable::Failure::Registry(e) => e.into(),
                immutable::Failure::Thread(e) => failed("starting threads", e),
            })?;
        }
        let place = self.place.take().expect("passed on once");
        let mountpoint = place.mountpoint.clone();
        // From here on, dropping it unmounts.
        let mount = Mount {
            unmounter: Unmounter(Arc::new(Running {
                place,
                standing: Mutex::new(Standing::default()),
                phase: Mutex::new(Phase::Starting),
                end: Condvar::new(),
                stop,
                pool: daemon.pool().clone(),
            })),
        };
        let running = Arc::clone(&mount.unmounter.0);
        let adapter = Adapter::new(Arc::clone(daemon), Modes::of(self.allow));
        let mut config = Config::default();
        // They only dispatch: one may be busy with a long listing, or hang in a look at an inode, while the other goes on.
        config.n_threads = Some(2);
        // Who may ask is the kernel's to check (allow_other, default_permissions): fuser's own check skips reads.
        let fd = self.fd.take().expect("passed on once");
        let session = Session::from_fd(adapter, fd, SessionACL::All, config)
            .map_err(|e| failed("the kernel and this program do not agree on FUSE", e))?;
        revoke::start(daemon, &session.notifier(), &mountpoint, watch, stopped)
            .map_err(|e| failed("starting threads", e))?;
        *running.phase.lock() = Phase::Serving;
        let (r, d) = (Arc::clone(&running), Arc::clone(daemon));
        let spawned = Builder::new().name("securereg-fuse".into()).spawn(move || {
            if let Err(e) = session.run() {
                tracing::error!("the mount ended: {e}");
            }
            d.close();
            r.ended();
        });
        if let Err(e) = spawned {
            *running.phase.lock() = Phase::Starting;
            return Err(failed("starting threads", e));
        }
        deepen_read_ahead(self.read_ahead.take());
        // The mount answers, or what is there is not ours.
        std::fs::metadata(&mountpoint).map_err(|e| failed("the mount does not answer", e))?;
        running.standing.lock().guard = Some(registry.record_mount(&mountpoint)?);
        let background = Builder::new().name("securereg-recheck".into()).spawn(move || {
            if let Err(e) = registry.recheck_stale(&Task::unattended()) {
                tracing::error!("re-checking files whose stamps are stale: {e}");
            }
        });
        if let Err(e) = background {
            // Opens re-check what they need themselves.
            tracing::warn!("no thread to re-check stale stamps: {e}");
        }
        Ok(mount)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let unmounted = place.is_ours().and_then(|ours| if ours { place.unmount() } else { Ok(()) });
        if let Err(e) = unmounted {
            tracing::error!("unmounting {}: {e}", place.mountpoint.display());
        }
        place.remove();
    }
}

impl Mount {
    /// Mounts `registry` at `dir`, and returns when the mount answers.
    ///
    /// # Errors
    /// See [`MountErrorKind`]. Nothing stays mounted after an error.
    pub fn new(registry: Registry, dir: &Path, options: MountOptions) -> Result<Mount, MountError> {
        // A registry that cannot be served is no reason to mount: it would refuse everything.
        registry.catalog()?;
        Attached::new(dir, options.allow)?.serve(registry, &options)
    }

    /// Whether a thread that reads and checks is free within `limit`, or becomes so: false says that all of them hang, and that no
    /// more can be started. Asked in this process and not through the mount, where the question itself could hang.
    pub fn answers_within(&self, limit: Duration) -> bool {
        self.unmounter.0.pool.answers_within(limit)
    }

    /// Where it is mounted, as an absolute path without links.
    pub fn mountpoint(&self) -> &Path {
        &self.unmounter.0.place.mountpoint
    }

    /// A handle that unmounts, for another thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Waits until the mount has ended: unmounted from outside, or by [`Mount::unmounter`].
    pub fn wait(&self) {
        let running = &self.unmounter.0;
        let mut phase = running.phase.lock();
        while *phase != Phase::Ended {
            running.end.wait(&mut phase);
        }
    }

    /// Unmounts. What clients still have open ends with this process.
    ///
    /// # Errors
    /// When the operating system refuses to; what is mounted there stays.
    pub fn unmount(self) -> io::Result<()> {
        self.unmounter.unmount()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(e) = self.unmounter.unmount() {
            tracing::error!("unmounting {}: {e}", self.unmounter.0.place.mountpoint.display());
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("mountpoint", &self.unmounter.0.place.mountpoint).finish_non_exhaustive()
    }
}

impl Unmounter {
    /// Unmounts; the second call finds nothing to do.
    ///
    /// # Errors
    /// As [`Mount::unmount`].
    pub fn unmount(&self) -> io::Result<()> {
        let running = &self.0;
        // Held all along: the loser must not return before the winner has unmounted.
        let mut standing = running.standing.lock();
        if std::mem::replace(&mut standing.unmounted, true) {
            return Ok(());
        }
        let phase = *running.phase.lock();
        // Once the session has ended, our mount is gone, and another may have its place and number; or it was aborted,
        // and lies there dead.
        if running.place.is_ours()? && (phase != Phase::Ended || !is_alive(&running.place.mountpoint)) {
            running.place.unmount().inspect_err(|_| standing.unmounted = false)?;
        }
        // The record goes after the mount, so that whoever finds it finds the mount too.
        drop(standing.guard.take());
        drop(standing);
        let mut phase = running.phase.lock();
        while *phase == Phase::Serving {
            if running.end.wait_for(&mut phase, LET_GO).timed_out() {
                break;
            }
        }
        drop(phase);
        running.place.remove();
        if *running.phase.lock() == Phase::Starting {
            // Otherwise the catalog is followed as long as anyone has a file open.
            running.stop_following();
        }
        Ok(())
    }
}

impl Running {
    fn stop_following(&self) {
        // It can fail only when it was written before.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    fn ended(&self) {
        drop(self.standing.lock().guard.take());
        self.stop_following();
        *self.phase.lock() = Phase::Ended;
        self.end.notify_all();
    }
}

fn failed(what: &str, e: io::Error) -> MountError {
    MountError::new(MountErrorKind::Failed, format!("{what}: {e}"))
}

/// Says why this machine cannot mount, by trying to.
///
/// # Errors
/// What [`Mount::new`] would fail with, whatever the registry.
pub fn can_mount() -> Result<(), MountError> {
    let name = format!("securereg-try-{}-{:?}", std::process::id(), std::thread::current().id());
    let dir = std::env::temp_dir().join(name.replace(['(', ')'], ""));
    let making = |e| failed(&format!("making {}", dir.display()), e);
    std::fs::create_dir(&dir).map_err(making)?;
    let dir = dir.canonicalize().map_err(making)?;
    let outcome = kernel::mount(&dir, Allow::Owner).and_then(|fd| {
        let unmounted = kernel::unmount(&dir);
        drop(fd);
        unmounted.map_err(|e| failed(&format!("unmounting {}", dir.display()), e))
    });
    let _ = std::fs::remove_dir(&dir);
    outcome
}

/// Makes `dir` an empty folder with nothing mounted on it; whether it was created.
fn prepare(dir: &Path) -> Result<(PathBuf, bool), MountError> {
    let refuse = |why: String| MountError::new(MountErrorKind::Mountpoint, why);
    // A dead mount answers nothing, so its own path cannot be resolved: resolve its parent's.
    let absolute = std::path::absolute(dir).map_err(|e| refuse(format!("{}: {e}", dir.display())))?;
    let resolved = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => parent.join(name),
            Err(_) => absolute,
        },
        _ => return Err(refuse(format!("{} cannot be a mount point", dir.display()))),
    };
    if !table::can_hold(&resolved) {
        return Err(refuse("the mount point's name holds a NUL".to_owned()));
    }
    clear(&resolved)?;
    let created = match std::fs::symlink_metadata(&resolved) {
        Ok(_) => false,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = resolved.parent() {
                std::fs::create_dir_all(parent).map_err(|e| refuse(format!("making {}: {e}", parent.display())))?;
            }
            std::fs::create_dir(&resolved).map_err(|e| refuse(format!("making {}: {e}", resolved.display())))?;
            true
        }
        Err(e) => return Err(refuse(format!("{}: {e}", resolved.display()))),
    };
    let resolved = resolved.canonicalize().map_err(|e| refuse(format!("{}: {e}", resolved.display())))?;
    // Once more: the last component may have been a link, and this is what it leads to.
    clear(&resolved)?;
    let mut entries = std::fs::read_dir(&resolved)
        .map_err(|e| refuse(format!("{} is not a folder that can be mounted on: {e}", resolved.display())))?;
    if entries.next().is_some() {
        return Err(refuse(format!(
            "{} is not empty: what is in it would be hidden; name an empty or a new folder",
            resolved.display()
        )));
    }
    Ok((resolved, created))
}

/// Detaches dead mounts of ours from `path`; refuses a live one.
fn clear(path: &Path) -> Result<(), MountError> {
    let refuse = |kind, why: String| Err(MountError::new(kind, why));
    // A crash may have left several, one on the other.
    for _ in 0..16 {
        let entry = table::at(path)
            .map_err(|e| MountError::new(MountErrorKind::Failed, format!("reading /proc/self/mountinfo: {e}")))?;
        let Some(entry) = entry else { return Ok(()) };
        if !entry.fstype.starts_with("fuse") {
            return Ok(());
        }
        if is_alive(path) {
            return refuse(
                MountErrorKind::AlreadyMounted,
                format!(
                    "{} is mounted already ({}); unmount it first (`umount {}`), or mount elsewhere",
                    path.display(),
                    entry.fstype,
                    path.display()
                ),
            );
        }
        if entry.fstype != kernel::FSTYPE {
            return refuse(
                MountErrorKind::Mountpoint,
                format!("a dead {} mount is in the way; detach it with `umount -l {}`", entry.fstype, path.display()),
            );
        }
        tracing::warn!("detaching the dead mount that an earlier process left at {}", path.display());
        if let Err(e) = kernel::unmount(path) {
            return refuse(
                MountErrorKind::Mountpoint,
                format!("a dead mount at {} cannot be detached: {e}; try `umount -l` as root", path.display()),
            );
        }
    }
    refuse(MountErrorKind::Mountpoint, format!("too many dead mounts lie over {}", path.display()))
}

/// Whether the FUSE mount at `path` has a process behind it. One that does not answer in time counts as alive: it may
/// only be stopped, and then detaching it would take it from its readers.
fn is_alive(path: &Path) -> bool {
    let (answer, wait) = mpsc::channel();
    let path = path.to_owned();
    let asked = Builder::new().name("securereg-probe".into()).spawn(move || {
        // Not a plain stat: the kernel answers that from what it remembers, for a second after the process is gone.
        let asked = statx(CWD, &path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
        let alive = !matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED));
        let _ = answer.send(alive);
    });
    asked.is_err() || wait.recv_timeout(PROOF_OF_LIFE).unwrap_or(true)
}

fn open_read_ahead(device: &str) -> Option<File> {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let told = |e: &io::Error| tracing::info!("{path} cannot be written ({e}): cold sequential reads will be slower");
    File::options().write(true).open(&path).inspect_err(told).ok()
}

/// The kernel offers 128 KiB, and takes less but not more in INIT; only root may raise it afterwards.
fn deepen_read_ahead(file: Option<File>) {
    if let Some(mut file) = file
        && let Err(e) = file.write_all(READ_AHEAD_KB)
    {
        tracing::info!("the depth of read-ahead cannot be set ({e}): cold sequential reads will be slower");
    }
}
