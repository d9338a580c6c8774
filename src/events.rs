//! What changed in a registry, by whatever process, as a queue.
//!
//! Owns: [`Events`]. Promises: its descriptor is readable when there may be something to tell; what it tells is found by
//! comparing two catalogs, so that nothing is missed however long nobody asked (several changes of one model in between are
//! told as what they came to, but a quarantine is always told). Leaves out: why; the audit log says that.

use crate::artifact::Artifact;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::registry::Registry;
use crate::sealed;
use crate::watch::Watch;
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
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
    seen: Arc<Catalog>,
    queue: VecDeque<Event>,
}

impl Events {
    pub(crate) fn new(registry: &Registry) -> Result<Events> {
        // The watch first: what changes between the two is told twice at worst, and the catalog tells that nothing did.
        let watch = registry.watch()?;
        let seen = registry.catalog()?;
        Ok(Events { registry: registry.clone(), watch, seen, queue: VecDeque::new() })
    }

    /// The next event, or none when nothing else has changed. Never blocks on another process.
    ///
    /// # Errors
    /// `Manifest` while manifest.yaml cannot be served: nothing is served then either.
    pub fn poll(&mut self) -> Result<Option<Event>> {
        if self.queue.is_empty() {
            self.watch.drain();
            let now = self.registry.catalog()?;
            if now.generation() != self.seen.generation() {
                let quarantined = self.registry.quarantined_since(self.seen.generation())?;
                self.queue.extend(compare(&self.seen, &now, &quarantined));
                self.seen = now;
            }
        }
        Ok(self.queue.pop_front())
    }
}

impl AsFd for Events {
    /// Readable when [`Events::poll`] should be asked, until it has answered none.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// Both are sorted by name: one walk along the two.
fn compare(old: &Catalog, new: &Catalog, quarantined: &HashSet<String>) -> Vec<Event> {
    let mut events = Vec::new();
    let mut tell = |kind, artifact: &Artifact| {
        let (name, generation) = (artifact.name.to_string(), new.generation());
        events.push(Event { kind, name, generation, sealed: sealed::held(artifact) });
    };
    let (mut before, mut after) = (old.artifacts().peekable(), new.artifacts().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return events,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.name.as_str().cmp(is.name.as_str()),
        };
        let was = if order.is_le() { before.next() } else { None };
        let is = if order.is_ge() { after.next() } else { None };
        let was_good = was.is_some_and(|a| a.is_promoted());
        // In and out of quarantine between two looks, or quarantined and then deleted or replaced.
        let passed = |a: &Artifact| was_good && quarantined.contains(a.name.as_str());
        match (was, is) {
            // An entry that reads as before is the same one; it may have changed twice.
            (Some(was), Some(is)) if Arc::ptr_eq(was, is) && !passed(was) => {}
            (Some(was), Some(is)) => {
                if passed(was) && (is.is_promoted() || was.files != is.files) {
                    tell(EventKind::Quarantined, was);
                }
                if was.files != is.files {
                    tell(EventKind::Replaced, is);
                }
                match (was_good, is.is_promoted()) {
                    (true, false) => tell(EventKind::Quarantined, is),
                    (false, true) => tell(EventKind::Released, is),
                    (true, true) if passed(was) && was.files == is.files => tell(EventKind::Released, is),
                    _ => {}
                }
            }
            (Some(was), None) => {
                if passed(was) {
                    tell(EventKind::Quarantined, was);
                }
                tell(EventKind::Deleted, was);
            }
            (None, Some(is)) => {
                tell(EventKind::Promoted, is);
                if !is.is_promoted() {
                    tell(EventKind::Quarantined, is);
                }
            }
            (None, None) => return events,
        }
    }
}
