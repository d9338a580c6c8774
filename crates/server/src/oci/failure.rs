//! A refusal with the headers that go with it.
//!
//! Owns: [`Failure`]. Promises: whatever the protocol refuses becomes one. Leaves out: codes and bodies (`securereg_oci::error`).

use securereg_oci::{DigestError, error};
use std::ops::Deref;

pub(crate) use securereg_oci::error::Code;

/// Why a request is refused.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    said: error::Failure,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Failure {
        error::Failure::new(code, message).into()
    }

    #[must_use]
    pub(super) fn with_status(self, status: u16) -> Failure {
        Failure { said: self.said.with_status(status), headers: self.headers }
    }

    #[must_use]
    pub(super) fn with_header(mut self, name: &'static str, value: String) -> Failure {
        self.headers.push((name, value));
        self
    }
}

impl From<error::Failure> for Failure {
    fn from(said: error::Failure) -> Failure {
        Failure { said, headers: Vec::new() }
    }
}

impl From<DigestError> for Failure {
    fn from(e: DigestError) -> Failure {
        error::Failure::from(e).into()
    }
}

impl Deref for Failure {
    type Target = error::Failure;
    fn deref(&self) -> &error::Failure {
        &self.said
    }
}
