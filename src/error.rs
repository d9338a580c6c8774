//! The one error type of the core.
//!
//! Owns: what can go wrong, as a closed list of kinds. Promises: a message says what failed, on which name, and the
//! remedy; `Corrupt` is never `Io`. Leaves out: errno, HTTP and C codes, which each boundary maps in one `match`.

use crate::format::finding::Finding;
use std::fmt;

/// What went wrong, for a caller that decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request itself is malformed: a name outside the allow-list, a bad digest, a wrong option.
    InvalidInput,
    /// The bytes are not what the caller claimed (SHA-256 or size).
    DigestMismatch,
    /// Policy refused the candidate: junk, a format that is not allowed, a claim that its content contradicts.
    Refused,
    /// The source changed, grew or shrank while it was read.
    SourceChanged,
    /// Something else already holds the name, the mount path, or the bytes are under an incident.
    Conflict,
    /// No such model, file or blob.
    NotFound,
    /// The model is quarantined.
    Quarantined,
    /// Stored bytes, a tree or a sidecar are not what was promoted.
    Corrupt,
    /// Stored bytes could not be read (a disk error, a missing mount); nothing is said about their content.
    Unreadable,
    /// The manifest is missing, torn, edited or older than one already seen.
    Manifest,
    /// The audit log is broken.
    Audit,
    /// No live mount shows the model.
    NotMounted,
    /// Not enough free space, a quota, or this process's limit on file sizes.
    NoSpace,
    /// A declared or actual size over a limit.
    TooLarge,
    /// The operating system refused access.
    Permission,
    /// What was asked for cannot work on this machine, file system or root.
    Unsupported,
    /// The caller cancelled.
    Cancelled,
    /// Any other failure of the operating system.
    Io,
    /// Not enough memory for what was asked.
    NoMemory,
}

impl ErrorKind {
    /// Every kind, in order; for tables that must be complete.
    pub const ALL: [ErrorKind; 19] = [
        ErrorKind::InvalidInput,
        ErrorKind::DigestMismatch,
        ErrorKind::Refused,
        ErrorKind::SourceChanged,
        ErrorKind::Conflict,
        ErrorKind::NotFound,
        ErrorKind::Quarantined,
        ErrorKind::Corrupt,
        ErrorKind::Unreadable,
        ErrorKind::Manifest,
        ErrorKind::Audit,
        ErrorKind::NotMounted,
        ErrorKind::NoSpace,
        ErrorKind::TooLarge,
        ErrorKind::Permission,
        ErrorKind::Unsupported,
        ErrorKind::Cancelled,
        ErrorKind::Io,
        ErrorKind::NoMemory,
    ];

    /// Whether a promotion that failed so says something of the bytes or names it was given, and would say it again.
    pub fn is_verdict(self) -> bool {
        matches!(
            self,
            ErrorKind::Refused
                | ErrorKind::InvalidInput
                | ErrorKind::DigestMismatch
                | ErrorKind::TooLarge
                | ErrorKind::Unsupported
                | ErrorKind::Quarantined
        )
    }

    /// A stable word for logs and JSON, `snake_case`.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::InvalidInput => "invalid_input",
            ErrorKind::DigestMismatch => "digest_mismatch",
            ErrorKind::Refused => "refused",
            ErrorKind::SourceChanged => "source_changed",
            ErrorKind::Conflict => "conflict",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Quarantined => "quarantined",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unreadable => "unreadable",
            ErrorKind::Manifest => "manifest",
            ErrorKind::Audit => "audit",
            ErrorKind::NotMounted => "not_mounted",
            ErrorKind::NoSpace => "no_space",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Permission => "permission",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Io => "io",
            ErrorKind::NoMemory => "no_memory",
        }
    }
}

/// An error of the core: a kind to decide by, a message to read, and the model concerned where there is one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    name: Option<String>,
    detail: Option<Box<Detail>>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What few errors carry, kept apart so that the others stay small.
#[derive(Debug, Default)]
struct Detail {
    digests: Option<(String, String)>,
    findings: Vec<Finding>,
}

/// The core's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with `message` (lower case, what failed, the remedy).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), name: None, detail: None, source: None }
    }

    /// The same error, about the model `name`.
    #[must_use]
    pub fn on(mut self, name: impl fmt::Display) -> Self {
        self.name.get_or_insert_with(|| name.to_string());
        self
    }

    /// The same error, with the digests that should have been equal (bare hex).
    #[must_use]
    pub fn with_digests(mut self, expected: impl fmt::Display, actual: impl fmt::Display) -> Self {
        self.detail.get_or_insert_default().digests = Some((expected.to_string(), actual.to_string()));
        self
    }

    /// The same error, with the findings that led to it.
    #[must_use]
    pub fn with_findings(mut self, findings: Vec<Finding>) -> Self {
        self.detail.get_or_insert_default().findings = findings;
        self
    }

    /// The same error, caused by `source`.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong, to decide by.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The model the error is about.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The expected and the actual digest, of a mismatch.
    pub fn digests(&self) -> Option<(&str, &str)> {
        self.detail.as_deref()?.digests.as_ref().map(|(e, a)| (e.as_str(), a.as_str()))
    }

    /// What was found, of a refusal by policy.
    pub fn findings(&self) -> &[Finding] {
        self.detail.as_deref().map_or(&[], |detail| &detail.findings)
    }

    /// The message alone, without the causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// An operating system error while doing `what`; permission, space and absence keep kinds of their own.
    pub(crate) fn io(what: impl fmt::Display, e: impl Into<std::io::Error>) -> Self {
        let e = e.into();
        let kind = match e.raw_os_error() {
            Some(libc::EFBIG) => {
                let limit = "it is over this process's limit on file sizes (ulimit -f: raise it), or the file system's";
                return Error::new(ErrorKind::NoSpace, format!("{what}: {e}: {limit}")).because(e);
            }
            Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::Permission,
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::ENOMEM) => ErrorKind::NoMemory,
            // Said by the standard library's own buffers.
            None if e.kind() == std::io::ErrorKind::OutOfMemory => ErrorKind::NoMemory,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{what}: {e}")).because(e)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) if !self.message.contains(name.as_str()) => write!(f, "{name}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
