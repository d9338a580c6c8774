//! What the registry keeps of a promotion beside the bytes.
//!
//! Owns: the inspection sidecar: its form, and reading it back. Promises: it is plain JSON, content-addressed and pinned by the
//! model's entry in the manifest, so that the manifest vouches for it whole, names and shapes included (gguf-guard's own tree
//! binds neither). Leaves out: what the promoter sent along, which is a sidecar of its own (`promote`); where they lie
//! (`layout`).
//!
//! ```text
//! {"sidecar":"inspection","version":1,
//!  "verdict":{action, policy_sha256, scanners, findings, more},
//!  "files":[{path, what, adapter}],                             one a file, in the order of the entry
//!  "gguf":[{path, manifest}],                                   one a GGUF file: gguf-guard's tensor manifest
//!  "signature":{signer, key, kind, algorithm, document}}        when a trusted key signed it; `document` is the signature file
//! ```

use crate::artifact::Artifact;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::description::Adapter;
use crate::guard::{self, TensorManifest};
use crate::name::RelPath;
use crate::policy::Verdict;
use crate::registry::Inner;
use crate::signing::{self, SignatureFile, Signed};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// No sidecar is larger, in bytes: a tensor takes some 350, and no model has over 2^18.
pub(crate) const MAX_SIDECAR: u64 = 128 << 20;

const KIND: &str = "inspection";
const VERSION: u32 = 1;

/// What is written at promotion.
#[derive(Debug, Serialize)]
pub(crate) struct Written<'a> {
    sidecar: &'static str,
    version: u32,
    verdict: &'a Verdict,
    files: Vec<FileNote>,
    gguf: Vec<Guarded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'a SignatureNote>,
}

/// A signature that was good when the model was promoted, whole, so that it can be checked again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SignatureNote {
    signer: String,
    key: Sha256Digest,
    kind: signing::Kind,
    algorithm: String,
    document: String,
}

impl SignatureNote {
    pub(crate) fn of(signed: &Signed, file: &SignatureFile) -> SignatureNote {
        SignatureNote {
            signer: signed.signer().to_owned(),
            key: *signed.key(),
            kind: signed.kind(),
            algorithm: signed.algorithm().to_owned(),
            // What is not text is no signature that could have been good.
            document: String::from_utf8_lossy(file.bytes()).into_owned(),
        }
    }

    /// Whether it says the same.
    pub(crate) fn is_of(&self, signed: &Signed) -> bool {
        (self.signer.as_str(), &self.key, self.kind) == (signed.signer(), signed.key(), signed.kind())
    }
}

/// What is known of a file besides its digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileNote {
    pub(crate) path: RelPath,
    pub(crate) what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<Adapter>,
}

/// A GGUF file and its tensor manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Guarded {
    pub(crate) path: RelPath,
    pub(crate) manifest: TensorManifest,
}

/// The sidecar of a promotion, as it is stored.
pub(crate) fn write(
    verdict: &Verdict,
    files: Vec<FileNote>,
    gguf: Vec<Guarded>,
    signature: Option<&SignatureNote>,
) -> Result<Vec<u8>> {
    let text = serde_json::to_vec(&Written { sidecar: KIND, version: VERSION, verdict, files, gguf, signature })
        .map_err(|e| Error::new(ErrorKind::Io, "what inspection found cannot be written").because(e))?;
    if text.len() as u64 > MAX_SIDECAR {
        let why =
            format!("what is to be kept of its tensors has {} bytes, over the limit of {MAX_SIDECAR}", text.len());
        return Err(Error::new(ErrorKind::TooLarge, why));
    }
    Ok(text)
}

/// What was written, read back.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The verdict, as it was.
    pub(crate) verdict: Value,
    pub(crate) files: Vec<FileNote>,
    pub(crate) gguf: Vec<Guarded>,
    pub(crate) signature: Option<SignatureNote>,
}

/// The inspection of a model; none of one that was promoted before there was any.
pub(crate) fn read(inner: &Inner, artifact: &Artifact) -> Result<Option<Kept>> {
    let Some(digest) = &artifact.inspection else { return Ok(None) };
    let altered = |e| Error::new(ErrorKind::Corrupt, format!("the inspection kept with the model is not one: {e}"));
    let mut kept = inner.sidecar(digest).map_err(|e| e.on(&artifact.name))?;
    if kept.get("sidecar").and_then(Value::as_str) != Some(KIND) || kept.get("version") != Some(&json!(VERSION)) {
        return Err(altered("it is of another kind or version".to_owned()).on(&artifact.name));
    }
    let mut take = |key: &str| kept.remove(key).unwrap_or_default();
    let (verdict, files, gguf, signature) = (take("verdict"), take("files"), take("gguf"), take("signature"));
    let parsed = serde_json::from_value(files)
        .and_then(|f| Ok((f, serde_json::from_value(gguf)?, serde_json::from_value(signature)?)));
    let (files, gguf, signature) = parsed.map_err(|e| altered(e.to_string()).on(&artifact.name))?;
    Ok(Some(Kept { verdict, files, gguf, signature }))
}

/// Adds to the Artifact JSON what inspection found: `inspection` (the verdict with every finding), `adapter`, gguf-guard's
/// two fields, and who signed.
pub(crate) fn describe(kept: Kept, out: &mut Map<String, Value>) {
    let Kept { verdict, files, gguf, signature } = kept;
    out.insert("inspection".into(), verdict);
    if let Some(adapter) = files.into_iter().find_map(|f| f.adapter) {
        out.insert("adapter".into(), json!(adapter));
    }
    if let Some(SignatureNote { signer, key, kind, algorithm, .. }) = signature {
        out.insert("signature".into(), json!({"signer": signer, "key": key, "kind": kind, "algorithm": algorithm}));
    }
    match gguf.as_slice() {
        [] => {}
        [one] => {
            out.insert("gguf_guard_fingerprint".into(), json!(one.manifest.structure_hash));
            out.insert("gguf_guard_manifest".into(), json!(one.manifest));
        }
        // gguf-guard knows single files only: the structure of a set is that of all its tensors, and each has its manifest.
        set => {
            let tensors = set.iter().flat_map(|g| &g.manifest.tensors);
            out.insert("gguf_guard_fingerprint".into(), json!(guard::structure_hash_of(tensors)));
            out.insert("gguf_guard_manifest".into(), json!({"manifest_version": "1.0", "files": set}));
        }
    }
}
