//! The table behind all handles.
//!
//! Owns: the tokens. Promises: a token names one object from when it was made until it is closed, and nothing ever after
//! (generations are never used again: a slot whose generations are used up is retired); looking one up keeps the object
//! alive for the call, whoever closes it meanwhile. Leaves out: what the objects are.
//!
//! ```text
//! token  bits 63..32 generation of the slot, never 0    bits 31..0 index of the slot     0 is no token
//! ```

use super::Result;
use super::error::Failure;
use super::status::securereg_status::{SECUREREG_CLOSED, SECUREREG_TOO_MANY};
use crate::sys::ForkMark;
use parking_lot::RwLock;
use std::any::Any;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

type Object = Arc<dyn Any + Send + Sync>;

/// A program that has this many open is leaking them.
const MAX_HANDLES: usize = 1 << 20;

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: Vec::new() });

/// The process that uses the library, once one does.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Set in that process, and wiped by the kernel in whatever is forked from it: in another PID namespace a child may have its
/// parent's number.
static MARK: OnceLock<Option<ForkMark>> = OnceLock::new();

struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    generation: u32,
    object: Option<Object>,
}

/// Whether this process is a fork of the one that uses the library. Takes no lock.
pub(crate) fn is_forked() -> bool {
    let owner = OWNER.load(Ordering::Acquire);
    owner != 0 && (owner != me() || MARK.get().and_then(Option::as_ref).is_some_and(ForkMark::is_wiped))
}

fn me() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The first generation of every slot: not the same in two copies of the library in one process, so that a token of one is
/// none of the other.
fn first_generation() -> u32 {
    static FIRST: OnceLock<u32> = OnceLock::new();
    // The standard library seeds each hasher's keys from the system's randomness. Half of all generations are left.
    *FIRST.get_or_init(|| 1 + (RandomState::new().build_hasher().finish() as u32 >> 1))
}

/// Gives an object a token.
pub(crate) fn insert(object: impl Any + Send + Sync) -> Result<u64> {
    Ok(reserve()?.fill(object))
}

/// A token that leads to nothing yet: for what must not fail once it has happened.
pub(crate) struct Reserved(u64);

/// Takes a token.
pub(crate) fn reserve() -> Result<Reserved> {
    if OWNER.load(Ordering::Acquire) == 0 {
        MARK.get_or_init(ForkMark::set);
        // Another thread of this process may have been faster.
        let _ = OWNER.compare_exchange(0, me(), Ordering::AcqRel, Ordering::Acquire);
    }
    let mut table = TABLE.write();
    if let Some(index) = table.free.pop() {
        return Ok(Reserved(token(table.slots[index as usize].generation, index)));
    }
    let index = table.slots.len();
    let full = |why: &str| Failure::new(SECUREREG_TOO_MANY, format!("{index} handles are open already: {why}"));
    if index >= MAX_HANDLES {
        return Err(full("close or free what is not needed any more"));
    }
    table.slots.try_reserve(1).map_err(|e| full(&e.to_string()))?;
    // Room for all of them to be free, so that closing never asks for memory.
    let room = index + 1 - table.free.len();
    table.free.try_reserve(room).map_err(|e| full(&e.to_string()))?;
    let generation = first_generation();
    table.slots.push(Slot { generation, object: None });
    Ok(Reserved(token(generation, u32::try_from(index).map_err(|_| full("no token is left"))?)))
}

impl Reserved {
    /// Puts the object there.
    pub(crate) fn fill(self, object: impl Any + Send + Sync) -> u64 {
        let object: Object = Arc::new(object);
        let token = self.0;
        std::mem::forget(self);
        TABLE.write().slots[token as u32 as usize].object = Some(object);
        token
    }
}

impl Drop for Reserved {
    /// Not used: the slot is free again, and its token never led anywhere.
    fn drop(&mut self) {
        TABLE.write().free.push(self.0 as u32);
    }
}

fn token(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

/// The object of a token.
pub(crate) fn find<T: Any + Send + Sync>(token: u64, what: &str) -> Result<Arc<T>> {
    let table = TABLE.read();
    let object = table.slots.get(token as u32 as usize).filter(|slot| u64::from(slot.generation) == token >> 32);
    object
        .and_then(|slot| slot.object.clone())
        .and_then(|object| object.downcast().ok())
        .ok_or_else(|| Failure::new(SECUREREG_CLOSED, closed(token, what)))
}

fn closed(token: u64, what: &str) -> String {
    match token {
        0 => format!("the {what} handle is zero: none is open"),
        _ => format!("the {what} handle is closed, or belongs to something else"),
    }
}

/// Ends a token; zero is nothing to end. Whoever uses the object this moment keeps it until the call returns.
pub(crate) fn remove<T: Any + Send + Sync>(token: u64, what: &str) -> Result<()> {
    if token == 0 {
        return Ok(());
    }
    let removed = {
        let mut table = TABLE.write();
        let index = token as u32;
        let slot = table.slots.get_mut(index as usize).filter(|slot| u64::from(slot.generation) == token >> 32);
        let slot = slot.filter(|slot| slot.object.as_ref().is_some_and(|object| object.is::<T>()));
        let Some(slot) = slot else { return Err(Failure::new(SECUREREG_CLOSED, closed(token, what))) };
        let removed = slot.object.take();
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            table.free.push(index);
        }
        removed
    };
    // Not under the lock: this may unmap gigabytes.
    drop(removed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t23_a_token_ends_when_it_is_closed_and_never_comes_back() {
        let first = insert(1u8).expect("room");
        assert_eq!(*find::<u8>(first, "t").expect("open"), 1);
        assert_eq!(find::<u16>(first, "t").expect_err("another kind").status, SECUREREG_CLOSED);
        assert_eq!(remove::<u16>(first, "t").expect_err("another kind").status, SECUREREG_CLOSED);
        let held = find::<u8>(first, "t").expect("open");
        remove::<u8>(first, "t").expect("closed");
        assert_eq!(*held, 1, "who has it keeps it");
        assert_eq!(remove::<u8>(first, "t").expect_err("twice").status, SECUREREG_CLOSED);
        let tokens: Vec<u64> = (0..100).map(|n: u8| insert(n).expect("room")).collect();
        assert!(!tokens.contains(&first));
        assert!(find::<u8>(first, "t").is_err());
        tokens.iter().for_each(|t| remove::<u8>(*t, "t").expect("closed"));
        remove::<u8>(0, "t").expect("zero is nothing to close");
        for never in [1, u64::MAX, 1 << 32, u64::from(u32::MAX)] {
            assert!(find::<String>(never, "t").is_err(), "{never}");
        }
    }

    #[test]
    fn t23_a_token_that_was_reserved_leads_nowhere_until_it_is_filled() {
        struct Mine(u8);
        let reserved = reserve().expect("room");
        let token = reserved.0;
        assert!(find::<Mine>(token, "t").is_err() && remove::<Mine>(token, "t").is_err());
        assert_eq!(reserved.fill(Mine(7)), token);
        assert_eq!(find::<Mine>(token, "t").expect("filled").0, 7);
        remove::<Mine>(token, "t").expect("closed");
        let unused = reserve().expect("room");
        let index = unused.0 as u32;
        drop(unused);
        assert!(TABLE.read().free.contains(&index));
    }

    #[test]
    fn t23_a_slot_whose_generations_are_used_up_is_retired() {
        struct Mine;
        let token = insert(Mine).expect("room");
        let index = token as u32;
        TABLE.write().slots[index as usize].generation = u32::MAX;
        let last = super::token(u32::MAX, index);
        remove::<Mine>(last, "t").expect("closed");
        assert!(!TABLE.read().free.contains(&index));
        assert!(find::<Mine>(last, "t").is_err());
    }
}
