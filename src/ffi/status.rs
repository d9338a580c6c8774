//! Status codes.
//!
//! Owns: the numbers, and the one table from the core's kinds of error. Promises: the table is complete (no `_` arm); a
//! number never changes its meaning and is never used again. Leaves out: messages.

use crate::error::ErrorKind;
use std::ffi::{CStr, c_char};

/// How a call ended. Numbers are only ever added: treat one you do not know as a failure.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum securereg_status {
    /// It did what it says.
    SECUREREG_OK = 0,
    /// An argument is malformed: a name outside the allow-list, a bad digest, a length over SIZE_MAX / 2.
    SECUREREG_INVALID_INPUT = 1,
    /// The source's bytes are not what was claimed (SHA-256 or size).
    SECUREREG_DIGEST_MISMATCH = 2,
    /// Policy refused the content: the message names the worst findings, each with its rule in brackets.
    SECUREREG_REFUSED = 3,
    /// The source changed while it was read.
    SECUREREG_SOURCE_CHANGED = 4,
    /// The name, the mount path or the bytes are taken, or the bytes are under an incident.
    SECUREREG_CONFLICT = 5,
    /// No such model, file or registry.
    SECUREREG_NOT_FOUND = 6,
    /// The model is quarantined.
    SECUREREG_QUARANTINED = 7,
    /// Stored bytes are not what was promoted. They were not given out, and the model is quarantined.
    SECUREREG_CORRUPT = 8,
    /// Stored bytes could not be read; nothing is said about their content.
    SECUREREG_UNREADABLE = 9,
    /// manifest.yaml is missing, torn, edited or older than one already seen: nothing is served.
    SECUREREG_MANIFEST = 10,
    /// The audit log is broken.
    SECUREREG_AUDIT = 11,
    /// No live mount shows the model.
    SECUREREG_NOT_MOUNTED = 12,
    /// No space left on the disk, or a limit on file sizes (`ulimit -f`).
    SECUREREG_NO_SPACE = 13,
    /// Something is over a limit.
    SECUREREG_TOO_LARGE = 14,
    /// The operating system refused access, or the registry was opened read-only.
    SECUREREG_PERMISSION = 15,
    /// Not possible on this machine, file system or root.
    SECUREREG_UNSUPPORTED = 16,
    /// The progress callback asked to stop.
    SECUREREG_CANCELLED = 17,
    /// Another failure of the operating system.
    SECUREREG_IO = 18,
    /// Not enough memory for what was asked.
    SECUREREG_NO_MEMORY = 19,
    /// The handle is zero, was closed or freed, or is of another kind.
    SECUREREG_CLOSED = 64,
    /// This process was forked from one that uses the library: nothing works here until exec.
    SECUREREG_FORKED = 65,
    /// A pointer is NULL that may not be.
    SECUREREG_NULL = 66,
    /// The `size` at the beginning of a struct is none this library knows.
    SECUREREG_WRONG_SIZE = 67,
    /// Too many handles are open.
    SECUREREG_TOO_MANY = 68,
    /// A bug in the library: it panicked, and was stopped at the boundary.
    SECUREREG_PANIC = 69,
}

use securereg_status::*;

impl From<ErrorKind> for securereg_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => SECUREREG_INVALID_INPUT,
            ErrorKind::DigestMismatch => SECUREREG_DIGEST_MISMATCH,
            ErrorKind::Refused => SECUREREG_REFUSED,
            ErrorKind::SourceChanged => SECUREREG_SOURCE_CHANGED,
            ErrorKind::Conflict => SECUREREG_CONFLICT,
            ErrorKind::NotFound => SECUREREG_NOT_FOUND,
            ErrorKind::Quarantined => SECUREREG_QUARANTINED,
            ErrorKind::Corrupt => SECUREREG_CORRUPT,
            ErrorKind::Unreadable => SECUREREG_UNREADABLE,
            ErrorKind::Manifest => SECUREREG_MANIFEST,
            ErrorKind::Audit => SECUREREG_AUDIT,
            ErrorKind::NotMounted => SECUREREG_NOT_MOUNTED,
            ErrorKind::NoSpace => SECUREREG_NO_SPACE,
            ErrorKind::TooLarge => SECUREREG_TOO_LARGE,
            ErrorKind::Permission => SECUREREG_PERMISSION,
            ErrorKind::Unsupported => SECUREREG_UNSUPPORTED,
            ErrorKind::Cancelled => SECUREREG_CANCELLED,
            ErrorKind::Io => SECUREREG_IO,
            ErrorKind::NoMemory => SECUREREG_NO_MEMORY,
        }
    }
}

/// Every status with its word.
const WORDS: [(securereg_status, &CStr); 26] = [
    (SECUREREG_OK, c"ok"),
    (SECUREREG_INVALID_INPUT, c"invalid_input"),
    (SECUREREG_DIGEST_MISMATCH, c"digest_mismatch"),
    (SECUREREG_REFUSED, c"refused"),
    (SECUREREG_SOURCE_CHANGED, c"source_changed"),
    (SECUREREG_CONFLICT, c"conflict"),
    (SECUREREG_NOT_FOUND, c"not_found"),
    (SECUREREG_QUARANTINED, c"quarantined"),
    (SECUREREG_CORRUPT, c"corrupt"),
    (SECUREREG_UNREADABLE, c"unreadable"),
    (SECUREREG_MANIFEST, c"manifest"),
    (SECUREREG_AUDIT, c"audit"),
    (SECUREREG_NOT_MOUNTED, c"not_mounted"),
    (SECUREREG_NO_SPACE, c"no_space"),
    (SECUREREG_TOO_LARGE, c"too_large"),
    (SECUREREG_PERMISSION, c"permission"),
    (SECUREREG_UNSUPPORTED, c"unsupported"),
    (SECUREREG_CANCELLED, c"cancelled"),
    (SECUREREG_IO, c"io"),
    (SECUREREG_NO_MEMORY, c"no_memory"),
    (SECUREREG_CLOSED, c"closed"),
    (SECUREREG_FORKED, c"forked"),
    (SECUREREG_NULL, c"null"),
    (SECUREREG_WRONG_SIZE, c"wrong_size"),
    (SECUREREG_TOO_MANY, c"too_many"),
    (SECUREREG_PANIC, c"panic"),
];

/// The word for a status, `snake_case`, such as "not_found"; "unknown" for a number this library does not know. The
/// string is static. Works in a forked child too. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_status_name(status: i32) -> *const c_char {
    WORDS.iter().find(|(known, _)| *known as i32 == status).map_or(c"unknown", |(_, word)| word).as_ptr()
}

/// The library's version, such as "0.1.0": compare it with SECUREREG_VERSION, which the program was compiled with. The
/// string is static. Works in a forked child too. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn securereg_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"unknown",
    };
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t23_every_kind_has_a_status_of_its_own_with_the_kinds_word() {
        for kind in ErrorKind::ALL {
            let status = securereg_status::from(kind);
            let word = WORDS.iter().find(|(known, _)| *known == status).expect("a word").1;
            assert_eq!(word.to_str(), Ok(kind.as_str()));
        }
        assert!(WORDS.is_sorted_by(|a, b| (a.0 as i32) < b.0 as i32), "no number twice");
    }
}
