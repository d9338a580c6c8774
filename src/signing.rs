//! Signatures over models.
//!
//! Owns: [`SignatureFile`] (what was found or given, and not yet believed), [`Signed`] (the proof that a trusted key signed these very
//! files), the rules by which a signature is refused, and signing itself. Promises: `Signed` is made in one place (`check`), after
//! the key was one that is trusted, its signature held over every byte of the statement, and the statement named each file with
//! the digest it has, and no other; nothing is fetched, nothing in a document chooses its key or its hash; what is not
//! understood is an error that names it. Leaves out: who is trusted with which name (`policy::signers`), certificates and
//! transparency logs: only keys are trusted.
//!
//! ```text
//! model.sig   sigstore bundle v0.3, JSON                                          bundle
//!               publicKey.hint     which key, a hint and no more
//!               dsseEnvelope       payload, payloadType, one signature            bundle: PAE, DSSE v1.0
//!                 payload          in-toto Statement v1                           statement
//!                   predicate      OMS: resources [{name, algorithm, digest}]     statement, check
//! FILE.sig    the same over one file, or cosign's: base64 of a signature over the file's SHA-256
//! ```

mod bundle;
mod check;
#[cfg(fuzzing)]
mod fuzzing;
mod key;
mod make;
mod statement;
#[cfg(test)]
mod tests;

pub(crate) use check::{Circle, NamedKey, Over, Trust, check};
#[cfg(fuzzing)]
pub(crate) use fuzzing::run as fuzz;
pub use key::{Algorithm, MAX_KEY, PrivateKey, PublicKey};
pub use make::{SignatureReport, sign, verify};

use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::finding::{Rule, quoted, rules};
use crate::layout::read_bounded;
use crate::source::MAX_FILES;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// No signature file is larger, in bytes: ten thousand files need some four million.
pub const MAX_SIGNATURE: u64 = 8 << 20;
/// Files that a statement may name: those of the largest model, and as many that a promotion leaves out.
pub(crate) const MAX_RESOURCES: usize = 2 * MAX_FILES;
/// The signature of a folder, by its name in it.
pub const IN_FOLDER: &str = "model.sig";
/// What a single file's signature is called: the file's name and this.
pub const BESIDE: &str = ".sig";

rules! {
    REQUIRED "signature.required" Critical "the policy requires a signer for this name, and no signature of a key it trusts with it covers these files"
    UNTRUSTED "signature.untrusted" Critical "the signature is of a key that the policy does not trust with this name"
    INVALID "signature.invalid" Critical "the signature does not hold: what was signed was altered, or another key signed it"
    FILES "signature.files" Critical "the signature is over other files: one differs, is missing, or is there and not signed"
    MALFORMED "signature.malformed" High "a signature that cannot be read: nobody knows what was signed, or by whom"
    UNSUPPORTED "signature.unsupported" High "a signature of a kind that is not verified here: nobody knows whether it holds"
    UNCHECKED "signature.unchecked" Info "a signature is there, and the policy trusts no key with this name that could have made it"
}

/// What is wrong with a signature, by the rule it breaks.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) rule: &'static Rule,
    pub(crate) message: String,
}

fn malformed(why: impl Into<String>) -> Flaw {
    Flaw { rule: &MALFORMED, message: why.into() }
}

fn unsupported(why: impl Into<String>) -> Flaw {
    Flaw { rule: &UNSUPPORTED, message: why.into() }
}

/// A text of the document's, for a message.
fn named(text: &str) -> String {
    format!("\"{}\"", quoted(text))
}

/// A signature as it was found or given: bytes, bounded, and nothing known of them.
#[derive(Clone, PartialEq, Eq)]
pub struct SignatureFile {
    name: String,
    bytes: Vec<u8>,
}

impl SignatureFile {
    /// The bytes of a signature file; `name` is what messages call it.
    ///
    /// # Errors
    /// `TooLarge` over [`MAX_SIGNATURE`].
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Result<SignatureFile> {
        let name = quoted(&name.into());
        if bytes.len() as u64 > MAX_SIGNATURE {
            let why = format!("the signature {name} has {} bytes, over the limit of {MAX_SIGNATURE}", bytes.len());
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        Ok(SignatureFile { name, bytes })
    }

    /// The same of a file.
    ///
    /// # Errors
    /// `TooLarge`, or what is wrong with reading it.
    pub fn read(path: &Path) -> Result<SignatureFile> {
        let bytes = read(path, MAX_SIGNATURE)?;
        SignatureFile::new(path.file_name().unwrap_or(path.as_os_str()).to_string_lossy(), bytes)
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for SignatureFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignatureFile({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// A small file of the caller's own, without waiting for whoever may be at the other end of a pipe.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let shown = path.display();
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::NOENT => Error::new(ErrorKind::NotFound, format!("{shown} does not exist")),
        e => Error::io(format_args!("opening {shown}"), e),
    })?;
    read_bounded(&file.into(), &shown.to_string(), limit)
}

/// What a signature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// OpenSSF Model Signing v1.0: a statement that names every file.
    Oms,
    /// What `cosign sign-blob` makes of one file.
    Cosign,
}

impl Kind {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Oms => "oms",
            Kind::Cosign => "cosign",
        }
    }
}

/// Proof that a trusted key signed exactly these files: only `check` makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signed {
    signer: String,
    key: Sha256Digest,
    kind: Kind,
    algorithm: &'static str,
}

impl Signed {
    /// Who signed, as the policy calls the key.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// The key's id: the SHA-256 of its public PEM.
    pub fn key(&self) -> &Sha256Digest {
        &self.key
    }

    /// What the signature is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How the key signs, by its name in the API.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// In a line, for the audit log.
    pub fn summary(&self) -> String {
        format!("signed by {} ({}, key {})", self.signer, self.kind.as_str(), &self.key.to_hex()[..12])
    }
}
