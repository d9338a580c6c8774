//! Model files in sealed memory.
//!
//! Owns: `securereg_sealed`. Promises: the descriptor and the mapping show the promoted bytes and nothing else, for good:
//! the seals make every write fail, also ours. Leaves out: how the memory is filled and checked (`crate::sealed`).

use super::args::{self, Out};
use super::error::{c_text, securereg_error};
use super::file::file_of;
use super::registry::{find, name_of, securereg_registry};
use super::status::securereg_status;
use super::task::{self, securereg_task};
use super::{Result, enter, table};
use crate::sealed::Sealed;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// One file of a promoted model in sealed memory: close it with securereg_sealed_close. May be used by any number of threads
/// at once.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_sealed {
    /// A token; 0 is none.
    pub id: u64,
}

struct Open {
    sealed: Sealed,
    path: OnceLock<CString>,
}

/// # Safety
/// The strings and `task` are what the header says.
unsafe fn open(
    registry: securereg_registry,
    name: *const c_char,
    path: *const c_char,
    task: *const securereg_task,
) -> Result<Open> {
    let registry = find(registry)?;
    // SAFETY: as the caller of this vouches, here and below.
    let (name, path) = unsafe { (name_of(name)?, args::optional_text(path, "path")?) };
    let path = file_of(&registry, &name, path)?;
    // SAFETY: the same.
    let sealed = unsafe { task::with(task, |task| Ok(registry.open_sealed(&name, &path, task)?)) }?;
    Ok(Open { sealed, path: OnceLock::new() })
}

/// Puts the file at `path` inside the promoted model `name` (NULL: its only file) into a memfd, hashes all of it, and seals
/// it with F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_SEAL, so that nobody can change a byte afterwards. A loader
/// opens it by securereg_sealed_path; of a split set, open each shard. `task` may be NULL. One content is one memfd in a
/// process: opening it again, also from other threads and registries, shares it. `*out` is the caller's, to be closed with
/// securereg_sealed_close. It takes as much memory as the file is large until it is closed and no mapping of it is left.
/// Sealed bytes outlive a quarantine: watch for it with securereg_events_open. Thread-safe.
///
/// Errors: SECUREREG_NO_MEMORY, naming the need, when the machine, a control group or `ulimit -f` does not allow it (nothing
/// was taken); else as securereg_file_open, and SECUREREG_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_open_sealed(
    registry: securereg_registry,
    name: *const c_char,
    path: *const c_char,
    task: *const securereg_task,
    out: *mut securereg_sealed,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for all of them.
        let (out, open) = unsafe { (Out::new(out, "out")?, open(registry, name, path, task)?) };
        out.put(securereg_sealed { id: table::insert(open)? });
        Ok(())
    })
}

/// The same, mapped: `*data` and `*len` are the file's bytes, to be read only. They stay until the sealed memory is closed
/// with securereg_sealed_close; `*data` of an empty file is not NULL, and leads to nothing. Thread-safe.
///
/// Errors: as securereg_open_sealed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_map(
    registry: securereg_registry,
    name: *const c_char,
    path: *const c_char,
    task: *const securereg_task,
    out: *mut securereg_sealed,
    data: *mut *const c_void,
    len: *mut usize,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for all of them.
        let (out, data, len) = unsafe { (Out::new(out, "out")?, Out::new(data, "data")?, Out::new(len, "len")?) };
        // SAFETY: the same.
        let open = unsafe { open(registry, name, path, task) }?;
        // The mapping is the memory's, and stays where it is while the table has it.
        let (start, length) = open.sealed.bytes().map(|bytes| (bytes.as_ptr(), bytes.len()))?;
        out.put(securereg_sealed { id: table::insert(open)? });
        data.put(start.cast());
        len.put(length);
        Ok(())
    })
}

/// The bytes of sealed memory, mapped: see securereg_map. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_sealed_map(
    sealed: securereg_sealed,
    data: *mut *const c_void,
    len: *mut usize,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `data` and `len`.
        let (data, len) = unsafe { (Out::new(data, "data")?, Out::new(len, "len")?) };
        let open = table::find::<Open>(sealed.id, "sealed memory")?;
        let bytes = open.sealed.bytes()?;
        data.put(bytes.as_ptr().cast());
        len.put(bytes.len());
        Ok(())
    })
}

/// The descriptor: close-on-exec, opened read-only and with a position of its own (without /proc: a duplicate whose position
/// other handles of the same content share, and whose writes fail by the seals). It belongs to the sealed memory: do not
/// close it; dup it or open securereg_sealed_path to have one of your own. Thread-safe.
///
/// Errors: SECUREREG_IO when another part of the program has closed it by mistake: what stands at its number now is never
/// given out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_sealed_fd(
    sealed: securereg_sealed,
    out: *mut c_int,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        out.put(table::find::<Open>(sealed.id, "sealed memory")?.sealed.checked_fd()?.as_raw_fd());
        Ok(())
    })
}

/// A path that opens the sealed memory in this process, "/proc/self/fd/N": what a loader is given, such as
/// llama_model_load_from_file. The string and what it leads to belong to the sealed memory. Thread-safe.
///
/// Errors: SECUREREG_IO as securereg_sealed_fd; SECUREREG_NOT_FOUND without /proc; SECUREREG_UNSUPPORTED in a thread that has
/// a descriptor table of its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_sealed_path(
    sealed: securereg_sealed,
    out: *mut *const c_char,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        let open = table::find::<Open>(sealed.id, "sealed memory")?;
        let path = open.sealed.checked_path()?;
        out.put(open.path.get_or_init(|| c_text(&path)).as_ptr());
        Ok(())
    })
}

/// Closes sealed memory: its descriptor, its path and what securereg_map gave are gone with the last handle of this content.
/// Mappings and descriptors of the caller's own stay. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_sealed_close(sealed: securereg_sealed) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<Open>(sealed.id, "sealed memory"))
}
