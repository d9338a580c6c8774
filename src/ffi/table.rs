//! The table behind all handles.
//!
//! Owns: the tokens. Promises: a token names one object from when it was made until it is closed, and nothing ever after
//! (generations are never used again: a slot whose generations are used up is retired); looking one up keeps the object
//! alive for the call, whoever closes it meanwhile. Leaves out: what the objects are.
//!
//! ```text
//! token  bits 63..32 generation of the slot, from 1    bits 31..0 index of the slot     0 is no token
//! ```

use super::Result;
use super::error::Failure;
use super::status::securereg_status::{SECUREREG_CLOSED, SECUREREG_TOO_MANY};
use parking_lot::RwLock;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

type Object = Arc<dyn Any + Send + Sync>;

/// A program that has this many open is leaking them.
const MAX_HANDLES: usize = 1 << 20;

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: Vec::new() });

/// The process that uses the library, once one does.
static OWNER: AtomicI32 = AtomicI32::new(0);

#[derive(Default)]
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
    let me = rustix::process::getpid().as_raw_nonzero().get();
    match OWNER.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => false,
        Err(owner) => owner != me,
    }
}

/// Gives an object a token.
pub(crate) fn insert(object: impl Any + Send + Sync) -> Result<u64> {
    let object: Object = Arc::new(object);
    let mut table = TABLE.write();
    if let Some(index) = table.free.pop() {
        let slot = &mut table.slots[index as usize];
        slot.object = Some(object);
        return Ok(token(slot.generation, index));
    }
    let index = table.slots.len();
    let full = |why: &str| Failure::new(SECUREREG_TOO_MANY, format!("{index} handles are open already: {why}"));
    if index >= MAX_HANDLES {
        return Err(full("close or free what is not needed any more"));
    }
    table.slots.try_reserve(1).map_err(|e| full(&e.to_string()))?;
    table.slots.push(Slot { generation: 1, object: Some(object) });
    Ok(token(1, u32::try_from(index).map_err(|_| full("no token is left"))?))
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
        0 => format!("the {what} handle is zero: it was never opened"),
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
    fn a_token_ends_when_it_is_closed_and_never_comes_back() {
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
    fn a_slot_whose_generations_are_used_up_is_retired() {
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
