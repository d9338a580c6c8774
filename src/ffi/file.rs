//! Verified reads.
//!
//! Owns: `securereg_file`. Promises: every byte it hands out was hashed against what was promoted, out of memory that nobody
//! else could write. Leaves out: sealed memory (`sealed`).

use super::args::{self, Out};
use super::error::{Failure, securereg_error};
use super::registry::{find, name_of, securereg_registry};
use super::status::securereg_status;
use super::status::securereg_status::SECUREREG_INVALID_INPUT;
use super::{Result, enter, table};
use crate::name::{ModelName, RelPath};
use crate::registry::Registry;
use crate::verified::{ReadMode, VerifiedFile};
use std::ffi::{c_char, c_void};

/// One file of a promoted model, open for verified reads: close it with securereg_file_close. May be used by any number of
/// threads at once.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_file {
    /// A token; 0 is none.
    pub id: u64,
}

/// The file that is meant: the one at `path`, or the only one.
pub(crate) fn file_of(registry: &Registry, name: &ModelName, path: Option<&str>) -> Result<RelPath> {
    if let Some(path) = path {
        return Ok(path.parse::<RelPath>()?);
    }
    let catalog = registry.catalog()?;
    let artifact = catalog.require(name)?;
    match &artifact.files[..] {
        [only] => Ok(only.path.clone()),
        files => Err(Failure::new(
            SECUREREG_INVALID_INPUT,
            format!("{name} has {} files: say which, such as {}", files.len(), files[0].path),
        )),
    }
}

/// Opens the file at `path` inside the promoted model `name`; NULL means its only file. At once, however large it is, when
/// the stored file is untouched since it was last checked, else after all of it was hashed again. `*out` is the caller's, to
/// be closed with securereg_file_close; it outlives the registry's handle. Thread-safe.
///
/// Errors: SECUREREG_NOT_FOUND, SECUREREG_QUARANTINED, SECUREREG_CORRUPT (the model is quarantined by then),
/// SECUREREG_UNREADABLE, SECUREREG_INVALID_INPUT when `path` is NULL and there are several files.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_file_open(
    registry: securereg_registry,
    name: *const c_char,
    path: *const c_char,
    out: *mut securereg_file,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for the strings and for `out`.
        let (name, path, out) = unsafe { (name_of(name)?, args::optional_text(path, "path")?, Out::new(out, "out")?) };
        let registry = find(registry)?;
        let path = file_of(&registry, &name, path)?;
        let file = registry.open_file(&name, &path, ReadMode::Cached)?;
        out.put(securereg_file { id: table::insert(file)? });
        Ok(())
    })
}

/// Its size in bytes, as promoted. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_file_size(
    file: securereg_file,
    out: *mut u64,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        // SAFETY: the caller vouches for `out`.
        let out = unsafe { Out::new(out, "out") }?;
        out.put(table::find::<VerifiedFile>(file.id, "file")?.len());
        Ok(())
    })
}

/// Reads up to `len` bytes from `offset` on into `buffer`. `*read` is how many: less than `len` only at the end of the file,
/// 0 from its end on. Each 64 KiB group that the range touches is read whole and hashed; small reads within one group are
/// served from the last that was checked. After a failure `buffer` may hold bytes, but none that were not checked. `buffer`
/// may be NULL when `len` is 0. Thread-safe.
///
/// Errors: SECUREREG_CORRUPT (the model is quarantined by then), SECUREREG_UNREADABLE, SECUREREG_QUARANTINED once an
/// incident has ended it, SECUREREG_INVALID_INPUT for a `len` over SIZE_MAX / 2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_read_at(
    file: securereg_file,
    buffer: *mut c_void,
    len: usize,
    offset: u64,
    read: *mut usize,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        let file = table::find::<VerifiedFile>(file.id, "file")?;
        let left = file.len().saturating_sub(offset);
        // SAFETY: the caller vouches for `buffer` and `read`.
        let (buffer, read) =
            unsafe { (args::buffer(buffer.cast::<u8>(), len, left, "buffer")?, Out::new(read, "read")?) };
        read.put(file.read_at(buffer, offset)?);
        Ok(())
    })
}

/// Closes a file. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe: reads of this moment finish.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_file_close(file: securereg_file) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<VerifiedFile>(file.id, "file"))
}
