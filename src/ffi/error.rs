//! Errors as C sees them.
//!
//! Owns: `securereg_error`, an owned object that says more than a status can. Promises: there is no thread-local or global
//! last error (a Go routine moves between threads); an error is made only where the caller asks for one. Leaves out: status
//! codes (`status`).

use super::status::securereg_status;
use super::status::securereg_status::{SECUREREG_CLOSED, SECUREREG_FORKED, SECUREREG_OK, SECUREREG_PANIC};
use super::{Result, table};
use crate::error::Error;
use crate::verify::{VerifyReport, VerifyStatus};
use std::any::Any;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a failed call says beyond its status. Begin with `{0}`, pass its address, and free it with securereg_error_free
/// after a failure; a success leaves it as it was.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct securereg_error {
    /// A token; 0 is no error.
    pub id: u64,
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: securereg_status,
    message: String,
    model: String,
    expected: String,
    actual: String,
}

impl Failure {
    pub(crate) fn new(status: securereg_status, message: impl Into<String>) -> Failure {
        let empty = String::new;
        Failure { status, message: message.into(), model: empty(), expected: empty(), actual: empty() }
    }

    pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Failure {
        let what = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => "something that is not text".to_owned(),
        };
        // A payload may panic again when it is dropped.
        std::mem::forget(payload);
        let place = super::panics::last_place();
        Failure::new(SECUREREG_PANIC, format!("a bug in securereg: it panicked{place}: {what}"))
    }

    /// The failure that a verification's report is, unless it passed.
    pub(crate) fn of_report(report: &VerifyReport) -> Result<()> {
        let status = match report.status {
            VerifyStatus::Verified => return Ok(()),
            VerifyStatus::Failed => securereg_status::SECUREREG_CORRUPT,
            VerifyStatus::Unreadable => securereg_status::SECUREREG_UNREADABLE,
        };
        let why = report.error.as_deref().unwrap_or("it did not pass");
        let mut failure = Failure::new(status, format!("{}: {why}", report.name));
        failure.model = report.name.to_string();
        failure.expected = report.expected.clone().unwrap_or_default();
        failure.actual = report.actual.clone().unwrap_or_default();
        Err(failure)
    }
}

impl Failure {
    /// The same failure as the first of several.
    pub(crate) fn one_of(mut self, bad: usize, checked: usize) -> Failure {
        self.message = format!("{bad} of {checked} models did not pass; {}", self.message);
        self
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        let mut failure = Failure::new(e.kind().into(), e.to_string());
        failure.model = e.name().unwrap_or_default().to_owned();
        if let Some((expected, actual)) = e.digests() {
            (failure.expected, failure.actual) = (expected.to_owned(), actual.to_owned());
        }
        failure
    }
}

/// What stands in the table.
struct Told {
    status: securereg_status,
    message: CString,
    model: CString,
    expected: CString,
    actual: CString,
}

/// No message is longer, in bytes: what it quotes may be anything.
const MAX_MESSAGE: usize = 4096;

/// Text for C: what cannot stand in a C string is shown as a replacement character.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default())
}

/// Hands a failure to a caller that asked for it.
///
/// # Safety
/// `out` is NULL, or valid for a write when it is aligned.
pub(crate) unsafe fn tell(out: *mut securereg_error, failure: Failure) {
    // An error is no reason for another: one that cannot be written is not told.
    if out.is_null() || !out.is_aligned() {
        return;
    }
    let Failure { status, message, model, expected, actual } = failure;
    let short = |text: String| {
        let end = (0..=text.len().min(MAX_MESSAGE)).rev().find(|end| text.is_char_boundary(*end));
        c_text(&text[..end.unwrap_or(0)])
    };
    let [message, model, expected, actual] = [message, model, expected, actual].map(short);
    if let Ok(id) = table::insert(Told { status, message, model, expected, actual }) {
        // SAFETY: not NULL, aligned, and the caller vouches for the rest.
        unsafe { out.write(securereg_error { id }) };
    }
}

fn told<T>(error: securereg_error, otherwise: T, of: impl FnOnce(&Told) -> T) -> T {
    if table::is_forked() {
        return otherwise;
    }
    let found = catch_unwind(AssertUnwindSafe(|| table::find::<Told>(error.id, "error").ok().map(|told| of(&told))));
    match found {
        Ok(found) => found.unwrap_or(otherwise),
        Err(payload) => {
            std::mem::forget(payload);
            otherwise
        }
    }
}

/// The status of the call that made this error: SECUREREG_OK of no error (id 0), SECUREREG_CLOSED of one that was freed.
/// Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_error_status(error: securereg_error) -> securereg_status {
    if error.id == 0 {
        return SECUREREG_OK;
    }
    if table::is_forked() {
        return SECUREREG_FORKED;
    }
    told(error, SECUREREG_CLOSED, |told| told.status)
}

/// What went wrong, on which name, and the remedy: UTF-8, lower case, never NULL ("" of no error or a freed one). The string
/// belongs to the error: it is gone with securereg_error_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_error_message(error: securereg_error) -> *const c_char {
    told(error, c"".as_ptr(), |told| told.message.as_ptr())
}

/// The model the error is about, "" where it is about none. Owned and bounded like securereg_error_message. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_error_model(error: securereg_error) -> *const c_char {
    told(error, c"".as_ptr(), |told| told.model.as_ptr())
}

/// Of a digest that is not what it should be: the one that was promoted or claimed, bare hex, else "". Owned like
/// securereg_error_message. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_error_expected(error: securereg_error) -> *const c_char {
    told(error, c"".as_ptr(), |told| told.expected.as_ptr())
}

/// Of a digest that is not what it should be: the one that was found, bare hex, else "". Owned like
/// securereg_error_message. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_error_actual(error: securereg_error) -> *const c_char {
    told(error, c"".as_ptr(), |told| told.actual.as_ptr())
}

/// Frees an error and its strings. Freeing no error (id 0) is fine; freeing one twice is SECUREREG_CLOSED and harms nothing.
/// Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_error_free(error: securereg_error) -> securereg_status {
    super::enter(std::ptr::null_mut(), || table::remove::<Told>(error.id, "error"))
}
