//! What an OMS signature says: an in-toto statement whose predicate names every file.
//!
//! Owns: [`Statement`], read and written. Promises: one subject, the predicate of OMS v1.0, each name once and a plain path below the
//! model, each digest of the length of its algorithm, and the subject's digest that of all of them; anything else is a [`Flaw`] that
//! names it. Time and memory follow the payload's length. Leaves out: the signature around it (`bundle`), the files it speaks of (`check`).
//!
//! ```text
//! {"_type": "https://in-toto.io/Statement/v1",                       in-toto attestation, spec/v1/statement.md
//!  "subject": [{"name": MODEL, "digest": {"sha256": ROOT}}],         ROOT: SHA-256 over the resources' digests, as bytes, in their order
//!  "predicateType": "https://model_signing/signature/v1.0",          OMS v1.0; model_signing/_signing/signing.py
//!  "predicate": {
//!    "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": [PATH, ...]},
//!    "resources": [{"name": PATH, "algorithm": "sha256", "digest": HEX}, ...]}}       of a single file PATH is "."
//! ```
//! Members that are not listed are passed over, as OMS asks of a verifier. `ignore_paths` and `allow_symlinks` are what the signer's
//! program did; nothing follows from them here. Their order is theirs too: the writer sorts names by components.

use super::{Flaw, MAX_RESOURCES, malformed, named, unsupported};
use crate::digest::{Blake3Digest, Sha256Digest, hex};
use crate::error::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::json;
use sha2::Digest as _;
use std::collections::HashSet;

/// The payload's type in a DSSE envelope.
pub(crate) const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
/// Before version 1.0: without a root digest, and without a word on how files were hashed.
const OLD_PREDICATE_TYPE: &str = "https://model_signing/Digests/v0.1";

/// No name is longer, in bytes (PATH_MAX).
pub(crate) const MAX_PATH: usize = 4096;

/// A single file's name in its own signature.
pub(crate) const SINGLE: &str = ".";

/// What was signed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The model's name, in the signer's words: nothing follows from it.
    pub(crate) model: String,
    pub(crate) resources: Vec<Resource>,
}

/// A file, by its path and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) digest: FileDigest,
}

/// A file's digest, by one of the algorithms that a promotion computes anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileDigest {
    Sha256(Sha256Digest),
    Blake3(Blake3Digest),
}

impl FileDigest {
    fn algorithm(&self) -> &'static str {
        match self {
            FileDigest::Sha256(_) => "sha256",
            FileDigest::Blake3(_) => "blake3",
        }
    }

    fn as_bytes(&self) -> &[u8; 32] {
        match self {
            FileDigest::Sha256(digest) => digest.as_bytes(),
            FileDigest::Blake3(digest) => digest.as_bytes(),
        }
    }
}

impl std::fmt::Display for FileDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileDigest::Sha256(digest) => write!(f, "SHA-256 {digest}"),
            FileDigest::Blake3(digest) => write!(f, "BLAKE3 {digest}"),
        }
    }
}

/// What kind of statement it is, before its predicate is looked at.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

#[derive(Deserialize)]
struct Text {
    subject: Vec<Subject>,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    digest: RootDigest,
}

#[derive(Deserialize)]
struct RootDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<ResourceText>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
}

#[derive(Deserialize)]
struct ResourceText {
    name: String,
    algorithm: String,
    digest: String,
}

impl Statement {
    /// Reads a payload.
    pub(crate) fn parse(payload: &[u8]) -> Result<Statement, Flaw> {
        let wrong = |e: serde_json::Error| malformed(format!("its statement is not one: {}", named(&e.to_string())));
        let head: Head = serde_json::from_slice(payload).map_err(wrong)?;
        if head.kind != STATEMENT_TYPE {
            return Err(unsupported(format!(
                "its statement is of the type {}: {STATEMENT_TYPE} is read",
                named(&head.kind)
            )));
        }
        if head.predicate_type == OLD_PREDICATE_TYPE {
            return Err(unsupported("it was made by model_signing before 1.0: sign again with a newer one"));
        }
        if head.predicate_type != PREDICATE_TYPE {
            let what = named(&head.predicate_type);
            return Err(unsupported(format!("its predicate is of the type {what}: {PREDICATE_TYPE} is read")));
        }
        let text: Text = serde_json::from_slice(payload).map_err(wrong)?;
        let [subject] = text.subject.as_slice() else {
            return Err(malformed(format!("its statement has {} subjects: one is wanted", text.subject.len())));
        };
        let resources = resources(text.predicate)?;
        let root = root_digest(&resources);
        if !subject.digest.sha256.parse::<Sha256Digest>().is_ok_and(|said| said == root) {
            let said = named(&subject.digest.sha256);
            return Err(malformed(format!("its subject has the digest {said}, and the files it names make {root}")));
        }
        Ok(Statement { model: subject.name.clone(), resources })
    }

    /// The payload that says of these files that they are `model`; `left_out` are names that the signer's program passed over.
    pub(crate) fn write(model: &str, mut resources: Vec<Resource>, left_out: &[String]) -> Result<Vec<u8>> {
        resources.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
        // Of one algorithm, or it would not be read again.
        let algorithm = resources.first().map_or("sha256", |resource| resource.digest.algorithm());
        let digests: Vec<_> = resources
            .iter()
            .map(|r| json!({"name": r.name, "algorithm": r.digest.algorithm(), "digest": hex(r.digest.as_bytes())}))
            .collect();
        let statement = json!({
            "_type": STATEMENT_TYPE,
            "subject": [{"name": model, "digest": {"sha256": root_digest(&resources)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files", "hash_type": algorithm, "allow_symlinks": false, "ignore_paths": left_out,
                },
                "resources": digests,
            },
        });
        let failed = |e| Error::new(ErrorKind::Io, "the statement cannot be written").because(e);
        serde_json::to_vec(&statement).map_err(failed)
    }
}

fn root_digest(resources: &[Resource]) -> Sha256Digest {
    let mut hasher = sha2::Sha256::new();
    resources.iter().for_each(|resource| hasher.update(resource.digest.as_bytes()));
    Sha256Digest::from_bytes(hasher.finalize().into())
}

fn resources(predicate: Predicate) -> Result<Vec<Resource>, Flaw> {
    let Predicate { serialization: Serialization { method, hash_type }, resources } = predicate;
    match method.as_str() {
        "files" => {}
        "shards" => {
            return Err(unsupported(
                "it is over shards of files: sign whole files (model_signing sign, without shards)",
            ));
        }
        other => {
            return Err(unsupported(format!(
                "its files were serialized by the method {}: \"files\" is read",
                named(other)
            )));
        }
    }
    if !matches!(hash_type.as_str(), "sha256" | "blake3") {
        return Err(other_algorithm(&hash_type));
    }
    if resources.is_empty() || resources.len() > MAX_RESOURCES {
        return Err(malformed(format!("it names {} files: 1 to {MAX_RESOURCES} are read", resources.len())));
    }
    let mut seen = HashSet::with_capacity(resources.len());
    if let Some(twice) = resources.iter().find(|r| !seen.insert(r.name.as_str())) {
        return Err(malformed(format!("it names the file {} twice", named(&twice.name))));
    }
    drop(seen);
    resources.into_iter().map(|r| resource(r, &hash_type)).collect()
}

fn resource(text: ResourceText, hash_type: &str) -> Result<Resource, Flaw> {
    let ResourceText { name, algorithm, digest } = text;
    if name != SINGLE && !is_plain(&name) {
        return Err(malformed(format!("it names the file {}, which is no plain path below the model", named(&name))));
    }
    if algorithm != hash_type {
        if !matches!(algorithm.as_str(), "sha256" | "blake3") {
            return Err(other_algorithm(&algorithm));
        }
        let (file, is) = (named(&name), named(&algorithm));
        return Err(malformed(format!("the digest of {file} is {is}, and all are said to be {}", named(hash_type))));
    }
    let wrong =
        |_| malformed(format!("the digest of {} is {}: 64 hex digits are wanted", named(&name), named(&digest)));
    let digest = match hash_type {
        "sha256" => FileDigest::Sha256(digest.parse().map_err(wrong)?),
        _ => FileDigest::Blake3(digest.parse().map_err(wrong)?),
    };
    Ok(Resource { name, digest })
}

fn other_algorithm(name: &str) -> Flaw {
    unsupported(format!("its files were hashed by {}: sha256 and blake3 are read", named(name)))
}

/// Whether two programs can only mean one file by it: relative, each component a name, nothing that is printed oddly.
fn is_plain(name: &str) -> bool {
    let component = |c: &str| !matches!(c, "" | "." | "..");
    name.len() <= MAX_PATH
        && name.split('/').all(component)
        && !name.contains(['\\', '\0'])
        && !name.chars().any(char::is_control)
}
