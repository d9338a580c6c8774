//! What the mount does, between the view and the kernel.
//!
//! Owns: the open handles, and the order in which catalog, view, gates and core are asked. Promises: an open asks the
//! catalog as it is on disk at that moment, and is refused when that cannot be vouched for; a read returns verified
//! bytes or EIO, never fewer bytes than asked for but at the end of the file; whatever may block runs on the pool.
//! Leaves out: FUSE requests (`adapter`), ending what was granted before (`revoke`).

use crate::errno;
use crate::gate::{Refusal, Why};
use crate::pool::Pool;
use crate::queue::Queue;
use crate::ticket::{Claim, Reply, Ticket};
use crate::view::{Admission, Changes, FileNode, Found, Listing, Opens, View};
use fuser::{Errno, FileHandle, FopenFlags, ReplyData, ReplyEntry, ReplyOpen};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use securereg::{ErrorKind, ReadBuf, ReadMode, Registry, VerifiedFile};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A re-hash at open may take this long for each byte, on top of the request timeout: 20 MB/s, a slow network disk.
const SLOWEST_REHASH: u64 = 20_000_000;
/// How long a reader that comes back with every EIO waits for its next one.
const SLOWED: Duration = Duration::from_millis(5);
/// At most this many such readers wait; more are answered at once.
const SLOWED_MAX: usize = 4096;

/// See the module's documentation.
pub(crate) struct Daemon {
    pub(crate) registry: Registry,
    pub(crate) view: View,
    pub(crate) revocations: Queue<Arc<FileNode>>,
    pub(crate) names: Queue<(u64, Box<str>)>,
    pub(crate) loops: Queue<Arc<FileNode>>,
    pub(crate) slowed: Queue<(Instant, ReplyData)>,
    /// Files to be closed, on a thread that nobody waits for.
    pub(crate) closing: Queue<Arc<OpenFile>>,
    /// The thread that ends loops: the only one to which a revoked file shows a size.
    pub(crate) loop_ender: AtomicU32,
    pool: OnceLock<Pool>,
    /// The generation that the view shows.
    applied: Mutex<Option<u64>>,
    handles: RwLock<HashMap<u64, Handle>>,
    /// By inode number. Emptied with each new generation, so that what was deleted or moved on is let go.
    kept: Mutex<LruCache<u64, Arc<OpenFile>, RandomState>>,
    next_handle: AtomicU64,
    /// Held by the one thread that looks at inodes while it dispatches; never waited for.
    looking: Mutex<()>,
}

/// What an open file handle stands for.
#[derive(Clone)]
enum Handle {
    File(Arc<OpenFile>),
    Dir(Arc<Listing>),
}

pub(crate) struct OpenFile {
    node: Arc<FileNode>,
    file: VerifiedFile,
}

const OPEN_FLAGS: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

/// Files kept open after their last close, so that the next open costs no more than looking whether they are still good.
const KEPT_OPEN: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

impl Daemon {
    /// The daemon over `registry`, with its pool started and nothing shown yet.
    pub(crate) fn start(registry: Registry, threads: usize, timeout: Duration) -> std::io::Result<Arc<Daemon>> {
        let daemon = Arc::new(Daemon {
            registry,
            view: View::new(),
            revocations: Queue::new(),
            names: Queue::new(),
            loops: Queue::new(),
            slowed: Queue::new(),
            closing: Queue::new(),
            loop_ender: AtomicU32::new(0),
            pool: OnceLock::new(),
            applied: Mutex::new(None),
            handles: RwLock::new(HashMap::new()),
            kept: Mutex::new(LruCache::with_hasher(KEPT_OPEN, RandomState::new())),
            next_handle: AtomicU64::new(1),
            looking: Mutex::new(()),
        });
        let weak: Weak<Daemon> = Arc::downgrade(&daemon);
        let pool = Pool::start(
            threads,
            timeout,
            Box::new(move |node| {
                if let Some(daemon) = weak.upgrade() {
                    daemon.revoke(node, Why::TimedOut);
                }
            }),
        )?;
        let _ = daemon.pool.set(pool);
        Ok(daemon)
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.pool.get().expect("start sets it before anything runs")
    }

    /// Ends every thread, as its work ends.
    pub(crate) fn close(&self) {
        self.pool().close();
        self.revocations.close();
        self.names.close();
        self.loops.close();
        self.slowed.close();
        self.closing.close();
    }

    /// Makes the view show the catalog as it is on disk now.
    pub(crate) fn sync(&self) -> securereg::Result<()> {
        let catalog = self.registry.catalog()?;
        let changes = {
            let mut applied = self.applied.lock();
            // Another thread may have applied a newer one since.
            if applied.is_some_and(|generation| generation >= catalog.generation()) {
                return Ok(());
            }
            // One step shows each quarantine by itself; of several, one may have been followed by a delete.
            let quarantined = match applied.replace(catalog.generation()) {
                Some(before) if catalog.generation() > before + 1 => self.registry.quarantined_since(before),
                _ => Ok(HashSet::new()),
            };
            let quarantined = quarantined.unwrap_or_else(|e| {
                tracing::error!("what was deleted meanwhile is not known to have been quarantined or not: {e}");
                HashSet::new()
            });
            let changes = self.view.apply(catalog.artifacts(), &quarantined);
            // After the view: an open that finishes now is asked against the new one, under this lock.
            let mut kept = self.kept.lock();
            while let Some((_, file)) = kept.pop_lru() {
                self.closing.push(file);
            }
            changes
        };
        let Changes { revoked, names } = changes;
        for node in &revoked {
            self.revoke(node, Why::Quarantined);
        }
        for name in names {
            self.names.push(name);
        }
        Ok(())
    }

    /// Stops `node` from being read, at once, and has the kernel's pages dropped.
    pub(crate) fn revoke(&self, node: &Arc<FileNode>, why: Why) {
        if !node.gate.shut(why) {
            return;
        }
        tracing::warn!(name = &*node.name, blob = %node.facts.sha256, ?why, "no longer served; open readers get EIO");
        // Reads under way are answered now, not when the disk has.
        self.pool().steal(node.ino);
        self.revocations.push(Arc::clone(node));
    }

    /// Answers a lookup that the view could not: the catalog may know more.
    pub(crate) fn look_again(
        self: &Arc<Self>,
        parent: u64,
        name: String,
        reply: ReplyEntry,
        answer: impl FnOnce(ReplyEntry, Found) + Send + 'static,
    ) {
        let daemon = Arc::clone(self);
        self.pool().submit(
            Reply::Entry(reply),
            None,
            None,
            Box::new(move |ticket, _| {
                let synced = daemon.sync();
                let Some(claim) = ticket.claim() else { return };
                if let Err(e) = synced {
                    tracing::error!("lookup of {name:?}: {e}");
                    return claim.fail(errno::of_open(e.kind()));
                }
                match daemon.view.lookup(parent, &name) {
                    None => claim.fail(Errno::ENOENT),
                    Some(found) => {
                        if let Some(reply) = claim.entry() {
                            answer(reply, found);
                        }
                    }
                }
            }),
        );
    }

    /// Opens a folder, as it is on disk now.
    pub(crate) fn open_dir(self: &Arc<Self>, ino: u64, reply: ReplyOpen) {
        let daemon = Arc::clone(self);
        self.pool().submit(
            Reply::Open(reply),
            None,
            None,
            Box::new(move |ticket, _| {
                let synced = daemon.sync();
                let Some(claim) = ticket.claim() else { return };
                match (synced, daemon.view.list(ino)) {
                    (Err(e), _) => {
                        tracing::error!("listing: {e}");
                        claim.fail(errno::of_open(e.kind()));
                    }
                    (Ok(()), None) => claim.fail(Errno::ENOENT),
                    (Ok(()), Some(listing)) => {
                        claim.opened(daemon.keep(Handle::Dir(listing)), FopenFlags::empty());
                    }
                }
            }),
        );
    }

    /// Opens a file, if the catalog on disk says at this moment that it may be.
    pub(crate) fn open(self: &Arc<Self>, ino: u64, reply: ReplyOpen) {
        let node = match self.view.find(ino) {
            Some(Found::File(node)) => node,
            Some(Found::Dir { .. }) => return reply.error(Errno::EISDIR),
            None => return reply.error(Errno::ESTALE),
        };
        if let Some(file) = self.still_open(&node) {
            let handle = self.keep(Handle::File(file));
            return reply.opened(FileHandle(handle), OPEN_FLAGS);
        }
        let daemon = Arc::clone(self);
        let blob = node.facts.sha256;
        self.pool().submit(
            Reply::Open(reply),
            Some(blob),
            None,
            Box::new(move |ticket, _| {
                if let Err(errno) = daemon.admit(&node) {
                    return refuse(ticket, errno);
                }
                if daemon.registry.opens_at_once(&blob) {
                    return daemon.open_now(ticket, &node);
                }
                // It must be hashed first: not on a worker that others wait for.
                let longer = Duration::from_secs(node.facts.size / SLOWEST_REHASH);
                let pool = daemon.pool().clone();
                pool.apart(ticket, longer, move |ticket| daemon.open_now(ticket, &node));
            }),
        );
    }

    /// A file that was open before and may be handed out again. Asks the manifest and the inodes themselves, and reads
    /// nothing, so that it may be asked on the thread that dispatches: whatever is not plain goes to the pool. Should the
    /// kernel have dropped one of these inodes and the disk hang, that thread hangs too: only one at a time may, and the other
    /// goes on with everything else.
    fn still_open(&self, node: &Arc<FileNode>) -> Option<Arc<OpenFile>> {
        let _looking = self.looking.try_lock()?;
        let file = Arc::clone(self.kept.lock().get(&node.ino)?);
        let admitted = self.still_good(node, &file);
        admitted.is_some().then_some(file)
    }

    fn still_good(&self, node: &FileNode, file: &OpenFile) -> Option<()> {
        let catalog = self.registry.catalog_if_unchanged()?;
        let shown = *self.applied.try_lock()? == Some(catalog.generation());
        let admitted = shown && self.view.admission(node) == Admission::Current && !node.gate.is_shut();
        (admitted && file.file.is_fresh()).then_some(())
    }

    fn admit(&self, node: &FileNode) -> Result<(), Errno> {
        if let Err(e) = self.sync() {
            tracing::error!("open of {}: {e}", node.name);
            return Err(errno::of_open(e.kind()));
        }
        match self.view.admission(node) {
            Admission::Current => Ok(()),
            Admission::Quarantined => {
                self.registry.count_refused_read(ErrorKind::Quarantined);
                Err(Errno::EACCES)
            }
            // The kernel looks the name up again and comes back with what it finds.
            Admission::Stale => Err(Errno::ESTALE),
        }
    }

    fn open_now(&self, ticket: &Ticket, node: &Arc<FileNode>) {
        let opened = match &node.facts.opens {
            Opens::File(name, path) => self.registry.open_file(name, path, ReadMode::Direct),
            Opens::Blob => self.registry.open_blob(&node.facts.sha256, ReadMode::Direct),
        };
        let file = match opened {
            Ok(file) => file,
            Err(e) => {
                tracing::warn!("open of {} is refused: {e}", node.name);
                return refuse(ticket, errno::of_open(e.kind()));
            }
        };
        // A tag may have moved between the view and the core: never other bytes under an inode that has pages cached.
        if *file.sha256() != node.facts.sha256 || file.len() != node.facts.size {
            return refuse(ticket, Errno::ESTALE);
        }
        if let Some(claim) = ticket.claim() {
            let open = Arc::new(OpenFile { node: Arc::clone(node), file });
            let handle = self.keep(Handle::File(Arc::clone(&open)));
            claim.opened(handle, OPEN_FLAGS);
            // Not when the catalog has moved on meanwhile: nothing would let it go.
            let mut kept = self.kept.lock();
            if self.view.admission(node) == Admission::Current
                && let Some((_, victim)) = kept.push(node.ino, open)
            {
                self.closing.push(victim);
            }
        }
    }

    /// Reads through the handle `fh`.
    pub(crate) fn read(self: &Arc<Self>, fh: u64, offset: u64, len: usize, reply: ReplyData) {
        let Some(Handle::File(open)) = self.handles.read().get(&fh).cloned() else {
            return reply.error(Errno::EBADF);
        };
        if !open.node.gate.enter() {
            return self.refuse_read(&open.node, reply);
        }
        let (daemon, node) = (Arc::clone(self), Arc::clone(&open.node));
        let blob = node.facts.sha256;
        let work = Box::new(move |ticket: &Arc<Ticket>, buffer: &mut ReadBuf| {
            let outcome = open.file.read(offset, len, buffer);
            let Some(claim) = ticket.claim() else { return };
            match outcome {
                Ok(bytes) => claim.data(bytes),
                Err(e) => daemon.read_failed(&open.node, offset, claim, &e),
            }
        });
        self.pool().submit(Reply::Read(reply), Some(blob), Some(node), work);
    }

    fn read_failed(&self, node: &Arc<FileNode>, offset: u64, claim: Claim, e: &securereg::Error) {
        tracing::error!("read of {} at {offset}: {e}", node.name);
        claim.fail(Errno::EIO);
        match e.kind() {
            // The first mismatch ends the file: what was read so far was right, and nothing more is.
            ErrorKind::Corrupt => self.revoke(node, Why::Corrupt),
            ErrorKind::Quarantined => self.revoke(node, Why::Quarantined),
            _ => {
                if node.gate.unreadable(offset, Instant::now()) {
                    self.revoke(node, Why::Unreadable);
                }
            }
        }
    }

    /// Refuses a read of a revoked file. Whoever comes back with every refusal is the kernel's MAP_POPULATE loop.
    fn refuse_read(&self, node: &Arc<FileNode>, reply: ReplyData) {
        let now = Instant::now();
        self.registry.count_refused_read(match node.gate.why() {
            Some(Why::Quarantined) | None => ErrorKind::Quarantined,
            Some(Why::Corrupt) => ErrorKind::Corrupt,
            Some(Why::Unreadable | Why::TimedOut) => ErrorKind::Unreadable,
        });
        let refusal = node.gate.refuse(now);
        if refusal == Refusal::Now || self.slowed.len() >= SLOWED_MAX {
            reply.error(Errno::EIO);
        } else {
            self.slowed.push((now + SLOWED, reply));
        }
        if refusal == Refusal::Loop && node.gate.start_ending() {
            self.loops.push(Arc::clone(node));
        }
    }

    /// What the folder handle `fh` listed when it was opened.
    pub(crate) fn listing(&self, fh: u64) -> Option<Arc<Listing>> {
        match self.handles.read().get(&fh)? {
            Handle::Dir(listing) => Some(Arc::clone(listing)),
            Handle::File(_) => None,
        }
    }

    /// Closes the handle `fh`.
    pub(crate) fn release(&self, fh: u64) {
        // Closing the last descriptor of a deleted file frees its blocks, which takes as long as the disk likes.
        if let Some(Handle::File(file)) = self.handles.write().remove(&fh) {
            self.closing.push(file);
        }
    }

    fn keep(&self, handle: Handle) -> u64 {
        let fh = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.write().insert(fh, handle);
        fh
    }
}

fn refuse(ticket: &Ticket, errno: Errno) {
    if let Some(claim) = ticket.claim() {
        claim.fail(errno);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use securereg::{Actor, PromoteRequest, Source, Task};
    use std::sync::mpsc::channel;

    /// That an inode is not in memory and its disk hangs cannot be had everywhere; what other opens do meanwhile is decided
    /// here.
    #[test]
    fn t17_while_one_dispatching_thread_hangs_in_a_look_at_inodes_the_other_leaves_that_to_the_pool() {
        let dir = tempfile::tempdir().expect("a folder");
        let source = dir.path().join("m.gguf");
        std::fs::write(&source, [b"GGUF\x03\0\0\0".as_slice(), &[0; 16]].concat()).expect("written");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let request = PromoteRequest::new("m".parse().expect("a name"));
        let source = Source::open(&source).expect("a source");
        registry.promote(request, source, &Actor::new("test", "x"), &Task::unattended()).expect("promoted");
        let daemon = Daemon::start(registry, 1, Duration::from_secs(60)).expect("started");
        daemon.sync().expect("shown");
        let Some(Found::File(node)) = daemon.view.lookup(crate::view::ROOT, "m.gguf") else { panic!("it is shown") };
        assert!(daemon.still_open(&node).is_none(), "nobody has opened it");
        let (reply, _answer) = channel();
        daemon.open_now(&Ticket::new(1, Reply::Test(reply), None, None, Instant::now()), &node);
        assert!(daemon.still_open(&node).is_some(), "kept open, and good");

        let hung = daemon.looking.lock();
        assert!(daemon.still_open(&node).is_none());
        drop(hung);
        assert!(daemon.still_open(&node).is_some());
        daemon.close();
    }
}
