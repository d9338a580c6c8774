//! Where the operator's policy lies.
//!
//! Owns: reading policy.yaml and the keys beside it from the root. Promises: as they are now, so that a change holds from the next
//! promotion on; a file that others may write is no word of the operator's, and is an error like one that cannot be read: nothing is
//! promoted then. Leaves out: what stands in it (`text`, `signers`).

use super::{MAX_BYTES, Policy};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, read_bounded};
use crate::registry::Inner;
use crate::signing::MAX_KEY;
use rustix::fs::OFlags;

/// The operator's policy, in the root.
const POLICY: &str = "policy.yaml";

impl Inner {
    /// The policy, as it is now.
    pub(crate) fn policy(&self) -> Result<Policy> {
        let bad = |e: &dyn std::fmt::Display| {
            let why = format!("policy.yaml cannot be read: {e}; nothing is promoted until it can");
            Error::new(ErrorKind::Manifest, why)
        };
        let text = match self.operators_file(POLICY, MAX_BYTES) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Policy::built_in()),
            Err(e) => return Err(bad(&e)),
        };
        Policy::parse_with(&text, &|name| self.operators_file(name, MAX_KEY))
    }

    /// A small file in the root that the operator wrote, and nobody else can.
    fn operators_file(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let file = self.layout().read(Folder::Root, name, OFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT => {
                Error::new(ErrorKind::NotFound, format!("there is no {name} in the registry's root"))
            }
            e => Error::io(format_args!("opening {name}"), e),
        })?;
        let mode = rustix::fs::fstat(&file).map_err(|e| Error::io(format_args!("reading {name}"), e))?.st_mode;
        if mode & 0o022 != 0 {
            let why = format!("others may write {name} (mode {:o}): chmod 600 it", mode & 0o7777);
            return Err(Error::new(ErrorKind::Permission, why));
        }
        read_bounded(&file, name, limit)
    }
}
