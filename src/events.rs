//! What changed in a registry, by whatever process, as a queue.
//!
//! Owns: [`Events`]. Promises: its descriptor is readable when there may be something to tell, also while some of it is still
//! queued; what it tells is found by comparing two catalogs, so that nothing is missed however long nobody asked (several
//! changes of one model in between are told as what they came to, but a quarantine is always told: the audit log has it).
//! Leaves out: why; the audit log says that.

use crate::artifact::Artifact;
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::lent::Lent;
use crate::registry::Registry;
use crate::sealed;
use crate::watch::Watch;
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// What happened to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Promoted,
    /// Its name stands for other content now: a tag moved, or it was deleted and promoted anew.
    Replaced,
    /// It is not served any more.
    Quarantined,
    /// It is served again.
    Released,
    /// It is gone.
    Deleted,
}

/// One change of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which model.
    pub name: String,
    /// The generation of the catalog that shows it.
    pub generation: u64,
    /// How many of the model's files this process still holds in sealed memory.
    pub sealed: usize,
}

/// A subscription to the changes of one registry.
#[derive(Debug)]
pub struct Events {
    registry: Registry,
    watch: Watch,
    /// Raised while there is something to ask for that no change of a file will tell.
    pending: OwnedFd,
    /// Readable when either of the two is.
    either: Lent,
    seen: Arc<Catalog>,
    queue: VecDeque<Event>,
}

impl Events {
    pub(crate) fn new(registry: &Registry) -> Result<Events> {
        // The watch first: what changes between the two is told twice at worst, and the catalog tells that nothing did.
        let watch = registry.watch()?;
        let seen = registry.catalog()?;
        let io = |e| Error::io("making a descriptor for events", e);
        let pending = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io)?;
        let either = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io)?;
        for fd in [watch.as_fd(), pending.as_fd()] {
            epoll::add(&either, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(io)?;
        }
        let either = Lent::new(either).map_err(io)?;
        Ok(Events { registry: registry.clone(), watch, pending, either, seen, queue: VecDeque::new() })
    }

    /// The next event, or none when nothing else has changed. Never blocks on another process.
    ///
    /// # Errors
    /// `Manifest` while manifest.yaml cannot be served: nothing is served then either. Whatever keeps the catalog or the log
    /// from being read; nothing is lost by that, and the descriptor stays readable.
    pub fn poll(&mut self) -> Result<Option<Event>> {
        let looked = if self.queue.is_empty() { self.look() } else { Ok(()) };
        let next = self.queue.pop_front();
        let again = match &looked {
            Ok(()) => !self.queue.is_empty(),
            // Its repair is a change of the file; until then asking again would tell the same.
            Err(e) => e.kind() != ErrorKind::Manifest,
        };
        self.raise(again);
        looked.map(|()| next)
    }

    /// Its descriptor, after a look at whether it is still one of the kind that was made.
    pub fn checked_fd(&self) -> Result<BorrowedFd<'_>> {
        if self.either.is_there() {
            return Ok(self.either.as_fd());
        }
        Err(Error::new(
            ErrorKind::Io,
            "the descriptor for events was closed, or replaced, by another part of this program",
        ))
    }

    fn look(&mut self) -> Result<()> {
        self.watch.drain();
        let now = self.registry.catalog()?;
        if now.generation() != self.seen.generation() {
            let quarantined = self.registry.quarantined_between(self.seen.generation(), now.generation())?;
            self.queue.extend(compare(&self.seen, &now, quarantined, self.registry.root()));
            self.seen = now;
        }
        Ok(())
    }

    /// Makes the descriptor readable, or no more so than the watch makes it.
    fn raise(&self, readable: bool) {
        let mut count = [0; 8];
        // Either cannot fail but by being done already: the counter is far from its limits.
        let _ = match readable {
            true => rustix::io::write(&self.pending, &1u64.to_ne_bytes()),
            false => rustix::io::read(&self.pending, &mut count),
        };
    }
}

impl AsFd for Events {
    /// Readable when [`Events::poll`] should be asked.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}

/// What led from one catalog to the other, in the order of names. `quarantined` are the models that were quarantined in
/// between, whatever became of them.
fn compare(old: &Catalog, new: &Catalog, mut quarantined: HashSet<String>, root: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let generation = new.generation();
    let mut tell = |kind, name: &str, artifact: Option<&Artifact>| {
        events.push(Event { kind, name: name.to_owned(), generation, sealed: sealed::held(root, name, artifact) });
    };
    // Both are sorted by name: one walk along the two.
    let (mut before, mut after) = (old.artifacts().peekable(), new.artifacts().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.name.as_str().cmp(is.name.as_str()),
        };
        let was = if order.is_le() { before.next() } else { None };
        let is = if order.is_ge() { after.next() } else { None };
        let Some(name) = was.or(is).map(|a| a.name.as_str()) else { break };
        let passed = quarantined.remove(name);
        let now_bad = is.is_some_and(|is| !is.is_promoted());
        let was_good = was.is_some_and(|was| was.is_promoted());
        let other = was.zip(is).is_some_and(|(was, is)| was.files != is.files);
        // An entry that reads as before is the same one, but it may have changed twice.
        if !passed && was.zip(is).is_some_and(|(was, is)| Arc::ptr_eq(was, is)) {
            continue;
        }
        if was.is_none() {
            tell(EventKind::Promoted, name, is.map(|a| &**a));
        }
        if passed && !now_bad {
            tell(EventKind::Quarantined, name, was.or(is).map(|a| &**a));
        }
        if other {
            tell(EventKind::Replaced, name, is.map(|a| &**a));
        }
        match is {
            None => tell(EventKind::Deleted, name, was.map(|a| &**a)),
            Some(is) if now_bad && (passed || was_good || was.is_none() || other) => {
                tell(EventKind::Quarantined, name, Some(is))
            }
            Some(is) if !now_bad && (passed || (was.is_some() && !was_good)) => {
                tell(EventKind::Released, name, Some(is))
            }
            Some(_) => {}
        }
    }
    // Come and gone between two looks.
    let mut gone: Vec<String> = quarantined.into_iter().collect();
    gone.sort();
    for name in gone {
        tell(EventKind::Promoted, &name, None);
        tell(EventKind::Quarantined, &name, None);
        tell(EventKind::Deleted, &name, None);
    }
    events
}
