//! A request of the kernel that is not answered yet.
//!
//! Owns: [`Ticket`], from which exactly one of worker, watchdog and revocation takes the reply. Promises: the reply is
//! sent once, and the file's gate is left only after the kernel has it. Leaves out: who works on it (`pool`).

use crate::view::FileNode;
use fuser::{Errno, FileHandle, FopenFlags, ReplyData, ReplyEntry, ReplyOpen};
use parking_lot::Mutex;
use securereg::Sha256Digest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

/// The kinds of reply that may wait.
#[derive(Debug)]
pub(crate) enum Reply {
    Read(ReplyData),
    Open(ReplyOpen),
    Entry(ReplyEntry),
    /// What was answered, for tests of the pool: fuser's replies cannot be made by hand.
    #[cfg(test)]
    Test(std::sync::mpsc::Sender<Result<Vec<u8>, i32>>),
}

/// Where the work on a request is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the queue.
    Queued,
    /// By a worker of the pool.
    Worker,
    /// By a thread of its own.
    Apart,
    /// By a worker that the watchdog has given up and replaced.
    Abandoned,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    /// The blob that the work waits for, if it does: no blob gets all the workers.
    pub(crate) blob: Option<Sha256Digest>,
    /// The file whose gate the reply has entered; only of reads.
    pub(crate) node: Option<Arc<FileNode>>,
    pub(crate) queued: Instant,
    deadline: Mutex<Instant>,
    place: AtomicU8,
    reply: Mutex<Option<Reply>>,
}

impl Ticket {
    /// A ticket for `reply`, due at `deadline`. With a `node`, its gate has been entered.
    pub(crate) fn new(
        id: u64,
        reply: Reply,
        blob: Option<Sha256Digest>,
        node: Option<Arc<FileNode>>,
        deadline: Instant,
    ) -> Ticket {
        Ticket {
            id,
            blob,
            node,
            queued: Instant::now(),
            deadline: Mutex::new(deadline),
            place: AtomicU8::new(0),
            reply: Mutex::new(Some(reply)),
        }
    }

    /// Takes the right and the duty to answer; None when another has it.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let reply = self.reply.lock().take()?;
        Some(Claim { reply: Some(reply), node: self.node.clone() })
    }

    /// Whether it is still to be answered.
    pub(crate) fn is_open(&self) -> bool {
        self.reply.lock().is_some()
    }

    pub(crate) fn deadline(&self) -> Instant {
        *self.deadline.lock()
    }

    pub(crate) fn extend(&self, deadline: Instant) {
        *self.deadline.lock() = deadline;
    }

    pub(crate) fn place(&self) -> Place {
        match self.place.load(Ordering::SeqCst) {
            0 => Place::Queued,
            1 => Place::Worker,
            2 => Place::Apart,
            _ => Place::Abandoned,
        }
    }

    pub(crate) fn put(&self, place: Place) {
        let code = match place {
            Place::Queued => 0,
            Place::Worker => 1,
            Place::Apart => 2,
            Place::Abandoned => 3,
        };
        self.place.store(code, Ordering::SeqCst);
    }
}

/// The right to answer one request. Dropped without an answer, it answers EIO.
#[derive(Debug)]
pub(crate) struct Claim {
    reply: Option<Reply>,
    node: Option<Arc<FileNode>>,
}

impl Claim {
    /// Answers a read with verified bytes, unless the file was revoked meanwhile.
    pub(crate) fn data(mut self, bytes: &[u8]) {
        if self.node.as_ref().is_some_and(|node| node.gate.is_shut()) {
            return;
        }
        match self.reply.take() {
            Some(Reply::Read(reply)) => reply.data(bytes),
            #[cfg(test)]
            Some(Reply::Test(sender)) => drop(sender.send(Ok(bytes.to_vec()))),
            other => self.reply = other,
        }
    }

    /// Answers an open.
    pub(crate) fn opened(mut self, handle: u64, flags: FopenFlags) {
        if let Some(Reply::Open(reply)) = self.reply.take() {
            reply.opened(FileHandle(handle), flags);
        }
    }

    /// The reply of a lookup, to be answered by the caller.
    pub(crate) fn entry(mut self) -> Option<ReplyEntry> {
        match self.reply.take() {
            Some(Reply::Entry(reply)) => Some(reply),
            _ => None,
        }
    }

    /// Answers with an error.
    pub(crate) fn fail(mut self, errno: Errno) {
        self.send(errno);
    }

    fn send(&mut self, errno: Errno) {
        match self.reply.take() {
            Some(Reply::Read(reply)) => reply.error(errno),
            Some(Reply::Open(reply)) => reply.error(errno),
            Some(Reply::Entry(reply)) => reply.error(errno),
            #[cfg(test)]
            Some(Reply::Test(sender)) => drop(sender.send(Err(errno.into()))),
            None => {}
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.send(Errno::EIO);
        if let Some(node) = &self.node {
            node.gate.leave();
        }
    }
}
