//! Text of any length that belongs to the caller.
//!
//! Owns: `securereg_text`. Promises: the bytes stay where they are until it is freed. Leaves out: what they say.

use super::args::Out;
use super::error::{c_text, securereg_error};
use super::status::securereg_status;
use super::{Result, enter, table};
use std::ffi::{CString, c_char};

/// A piece of text that belongs to the caller: free it with securereg_text_free.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_text {
    /// A token; 0 is none.
    pub id: u64,
}

/// Makes one.
pub(crate) fn give(text: &str) -> Result<securereg_text> {
    table::insert(c_text(text)).map(|id| securereg_text { id })
}

/// The text: UTF-8, with a NUL after its last byte. `*data` stays valid until the text is freed; `len` may be NULL, else
/// `*len` is the length in bytes without the NUL. Thread-safe.
///
/// Errors: SECUREREG_CLOSED, SECUREREG_NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn securereg_text_data(
    text: securereg_text,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut securereg_error,
) -> securereg_status {
    enter(error, || {
        let found = table::find::<CString>(text.id, "text")?;
        // SAFETY: the caller vouches for `data` and `len`.
        let data = unsafe { Out::new(data, "data") }?;
        if !len.is_null() {
            // SAFETY: the same.
            unsafe { Out::new(len, "len") }?.put(found.as_bytes().len());
        }
        data.put(found.as_ptr());
        Ok(())
    })
}

/// Frees a text. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_text_free(text: securereg_text) -> securereg_status {
    enter(std::ptr::null_mut(), || table::remove::<CString>(text.id, "text"))
}
