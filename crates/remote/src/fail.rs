//! Errors of this crate: the core's, made here.
//!
//! Owns: whether a failure may pass by itself. Promises: nothing that a registry answers is retried when asking again cannot help.
//! Leaves out: how long to wait ([`crate::client::Patience`]).

use securereg::{Error, ErrorKind};
use std::time::Duration;

/// Why a request did not succeed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may succeed when it is sent again, after this long.
    Passing(Error, Option<Duration>),
    /// It will not.
    Final(Error),
}

impl Trouble {
    pub(crate) fn passing(error: Error) -> Trouble {
        Trouble::Passing(error, None)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Final(error)
    }
}

/// Something a registry did that no registry should.
pub(crate) fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, why)
}

/// A failure of the network or of the other side.
pub(crate) fn remote(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, why)
}

/// A failure of this machine's.
pub(crate) fn local(what: impl std::fmt::Display, e: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match e.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::NoSpace,
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{what}: {e}")).because(e)
}

/// A task of ours that ended without a result.
pub(crate) fn broken(e: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Io, format!("a task ended early: {e}"))
}

/// The beginning of a text that somebody else wrote, for a message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
