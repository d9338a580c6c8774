//! What changes, for a program that wants to know.
//!
//! Owns: `securereg_events`. Promises: a pollable descriptor and no thread. Leaves out: finding out (`crate::events`).

use super::args::{Out, Sized0, SizedOut};
use super::error::securereg_error;
use super::registry::{find, securereg_registry};
use super::status::securereg_status;
use super::{enter, table};
use crate::events::{EventKind, Events};
use crate::name::MAX_NAME;
use parking_lot::Mutex;
use std::ffi::{c_char, c_int};
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;

/// A subscription to what changes in a registry: close it with securereg_events_close.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_events {
    /// A token; 0 is none.
    pub id: u64,
}

/// Nothing else has happened.
pub const SECUREREG_EVENT_NONE: u32 = 0;
/// A new model.
pub const SECUREREG_EVENT_PROMOTED: u32 = 1;
/// The name stands for other content now.
pub const SECUREREG_EVENT_REPLACED: u32 = 2;
/// The model is not served any more. Sealed memory of it stays as it is: `sealed` says how many of its files this process
/// holds, and stopping their use is the program's to do.
pub const SECUREREG_EVENT_QUARANTINED: u32 = 3;
/// The model is served again.
pub const SECUREREG_EVENT_RELEASED: u32 = 4;
/// The model is gone.
pub const SECUREREG_EVENT_DELETED: u32 = 5;

/// Bytes of securereg_event.name, its NUL included.
pub const SECUREREG_NAME_MAX: usize = 256;

/// One change of one model.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_event {
    /// sizeof(securereg_event), set by the caller.
    pub size: usize,
    /// A SECUREREG_EVENT_*; a number you do not know is a change of some other sort.
    pub kind: u32,
    /// How many of the model's files this process holds in sealed memory.
    pub sealed: u32,
    /// The generation of the catalog that shows it.
    pub generation: u64,
    /// The model's name.
    pub name: [c_char; SECUREREG_NAME_MAX],
}

// SAFETY: repr(C), begins with its size; integers only.
unsafe impl Sized0 for securereg_event {
    const FIRST: usize = offset_of!(securereg_event, name) + size_of::<[c_char; SECUREREG_NAME_MAX]>();
}

const _: () = assert!(MAX_NAME < SECUREREG_NAME_MAX);

/// The names are for one thread at a time; any number may ask.
type Shared = Mutex<Events>;

/// Subscribes to what changes in a registry from now on, by whatever process. `*out` is the caller's, to be closed with
/// securereg_events_close. Starts no thread. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_events_open(
    registry: securereg_registry,
    out: *mut securereg_events,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        let events = find(registry)?.events()?;
        out.put(securereg_events { id: table::insert(Shared::new(events))? });
        Ok(())
    })
}

/// A descriptor for poll(2): readable when securereg_events_next should be asked, until it has answered
/// SECUREREG_EVENT_NONE. It belongs to the subscription: do not read or close it. Thread-safe.
///
/// Errors: SECUREREG_IO when another part of the program has closed it by mistake.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_events_fd(
    events: securereg_events,
    out: *mut c_int,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        out.put(table::find::<Shared>(events.id, "events")?.lock().checked_fd()?.as_raw_fd());
        Ok(())
    })
}

/// The next event, or SECUREREG_EVENT_NONE when nothing else has happened; it does not wait. What is told is what changed
/// since it last told: several changes of one model in between are told as what they came to, a quarantine always. Set
/// `out->size` first. Thread-safe: each event is given to one caller.
///
/// Errors: SECUREREG_MANIFEST while the registry's records do not hold; SECUREREG_IO, SECUREREG_AUDIT and
/// SECUREREG_UNREADABLE when they cannot be read: nothing is lost by that, and the descriptor stays readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_events_next(
    events: securereg_events,
    out: *mut securereg_event,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { SizedOut::new(out, "out") }?;
        let next = table::find::<Shared>(events.id, "events")?.lock().poll()?;
        let mut told = securereg_event {
            size: 0,
            kind: SECUREREG_EVENT_NONE,
            sealed: 0,
            generation: 0,
            name: [0; SECUREREG_NAME_MAX],
        };
        if let Some(event) = next {
            told.kind = match event.kind {
                EventKind::Promoted => SECUREREG_EVENT_PROMOTED,
                EventKind::Replaced => SECUREREG_EVENT_REPLACED,
                EventKind::Quarantined => SECUREREG_EVENT_QUARANTINED,
                EventKind::Released => SECUREREG_EVENT_RELEASED,
                EventKind::Deleted => SECUREREG_EVENT_DELETED,
            };
            told.sealed = u32::try_from(event.sealed).unwrap_or(u32::MAX);
            told.generation = event.generation;
            // One byte is left for the NUL.
            for (to, from) in told.name[..SECUREREG_NAME_MAX - 1].iter_mut().zip(event.name.bytes()) {
                *to = from as c_char;
            }
        }
        out.put(told);
        Ok(())
    })
}

/// Ends a subscription; its descriptor is closed. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_events_close(events: securereg_events) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<Shared>(events.id, "events"))
}
