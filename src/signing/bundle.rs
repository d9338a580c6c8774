//! The files that signatures come in.
//!
//! Owns: [`Document`]: a sigstore bundle v0.3 (JSON), or the base64 of cosign. Promises: one envelope with one signature, or one message
//! signature, in the one encoding that is written here; a bundle that was made with a certificate is told apart from one that was made
//! with a key; no member is believed that the signature does not cover, but for the hint, from which nothing follows but which key is
//! tried. Leaves out: what is signed (`statement`), by whom it may be (`check`).
//!
//! ```text
//! {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",      sigstore protobuf-specs, sigstore_bundle.proto, as protobuf's JSON
//!  "verificationMaterial": {"publicKey": {"hint": HINT}, "tlogEntries": [...]},         the entries are not looked at
//!  "dsseEnvelope": {"payload": BASE64, "payloadType": TYPE, "signatures": [{"sig": BASE64, "keyid": ""}]}}
//!  or "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": BASE64}, "signature": BASE64}
//!
//! BASE64 [newline]                                                    cosign sign-blob --output-signature; a signature in DER
//! ```
//! DSSE v1.0, protocol.md: what is signed is `"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload` ([`pae`]).

use super::statement::{PAYLOAD_TYPE, Statement};
use super::{Flaw, malformed, named, unsupported};
use crate::digest::Sha256Digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// As cosign and sigstore's older writers have it.
const MEDIA_TYPE_TOO: &str = "application/vnd.dev.sigstore.bundle+json;version=0.3";
/// No signature is longer, in bytes: P-521's have 139.
const MAX_RAW: usize = 1024;

/// What a signature file holds. None of it is believed yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// A statement in an envelope.
    Oms(Envelope),
    /// A signature over one file.
    Blob(Blob),
}

/// A DSSE envelope.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) hint: Option<String>,
    /// What was signed: the payload with its type.
    pub(crate) signed: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) statement: Statement,
}

/// A signature over a file's SHA-256.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) hint: Option<String>,
    /// The file's digest, where the document says one.
    pub(crate) digest: Option<Sha256Digest>,
    pub(crate) signature: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleText {
    media_type: Option<String>,
    verification_material: Option<MaterialText>,
    dsse_envelope: Option<EnvelopeText>,
    message_signature: Option<MessageText>,
    /// Of cosign's own bundles, before there were sigstore's.
    base64_signature: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MaterialText {
    public_key: Option<KeyText>,
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct KeyText {
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeText {
    payload: String,
    payload_type: String,
    signatures: Vec<SignatureText>,
}

#[derive(Deserialize)]
struct SignatureText {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageText {
    message_digest: Option<MessageDigestText>,
    signature: String,
}

#[derive(Deserialize)]
struct MessageDigestText {
    algorithm: String,
    digest: String,
}

impl Document {
    /// Reads a signature file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Document, Flaw> {
        let text = std::str::from_utf8(bytes).map_err(|_| {
            malformed("it is neither a sigstore bundle nor base64, but bytes: it may be a signature of another kind")
        })?;
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if text.starts_with('{') {
            return bundle(text);
        }
        if text.starts_with("-----BEGIN") {
            return Err(unsupported("it is PEM or PGP armour, not a sigstore bundle or cosign's base64"));
        }
        let signature = raw(text, "the signature file")?;
        // A SEQUENCE, X.690 section 8.9: by chance, words are base64 too.
        if signature[0] != 0x30 {
            return Err(malformed("it is base64 of something else than an ECDSA signature in DER"));
        }
        Ok(Document::Blob(Blob { hint: None, digest: None, signature }))
    }
}

fn bundle(text: &str) -> Result<Document, Flaw> {
    let wrong = |e: serde_json::Error| malformed(format!("it is no sigstore bundle: {}", named(&e.to_string())));
    let text: BundleText = serde_json::from_str(text).map_err(wrong)?;
    match text.media_type.as_deref() {
        Some(MEDIA_TYPE | MEDIA_TYPE_TOO) => {}
        Some(other) => return Err(unsupported(format!("it is of the type {}: {MEDIA_TYPE} is read", named(other)))),
        None if text.base64_signature.is_some() => {
            return Err(unsupported(
                "it is a bundle of cosign's own: cosign sign-blob --new-bundle-format writes sigstore's",
            ));
        }
        None => return Err(malformed("it is JSON without a mediaType: no sigstore bundle")),
    }
    let material = text.verification_material.ok_or_else(|| malformed("it has no verificationMaterial"))?;
    if material.certificate.is_some() || material.x509_certificate_chain.is_some() {
        return Err(unsupported(
            "it was made with a certificate (keyless): sign with a key, which is what a policy trusts",
        ));
    }
    let key = material.public_key.ok_or_else(|| malformed("it does not say which key made it (publicKey)"))?;
    // Pre-1.0 writers have none, and so does protobuf of an empty one.
    let hint = key.hint.filter(|hint| !hint.is_empty());
    match (text.dsse_envelope, text.message_signature) {
        (Some(envelope), None) => self::envelope(hint, &envelope).map(Document::Oms),
        (None, Some(message)) => blob(hint, &message).map(Document::Blob),
        (Some(_), Some(_)) => Err(malformed("it has an envelope and a message signature: one is wanted")),
        (None, None) => Err(malformed("it has no dsseEnvelope and no messageSignature: nothing is signed")),
    }
}

fn envelope(hint: Option<String>, text: &EnvelopeText) -> Result<Envelope, Flaw> {
    if text.payload_type != PAYLOAD_TYPE {
        let what = named(&text.payload_type);
        return Err(unsupported(format!("its envelope holds {what}: {PAYLOAD_TYPE} is read")));
    }
    let [signature] = text.signatures.as_slice() else {
        return Err(malformed(format!("its envelope has {} signatures: one is wanted", text.signatures.len())));
    };
    let payload = decoded(&text.payload, "the payload")?;
    let statement = Statement::parse(&payload)?;
    Ok(Envelope { hint, signed: pae(&payload), signature: raw(&signature.sig, "the signature")?, statement })
}

fn blob(hint: Option<String>, text: &MessageText) -> Result<Blob, Flaw> {
    let digest = match &text.message_digest {
        None => None,
        Some(said) if said.algorithm == "SHA2_256" => {
            let bytes = decoded(&said.digest, "the message digest")?;
            let bytes = <[u8; 32]>::try_from(bytes);
            Some(bytes.map_err(|_| malformed("its message digest is no SHA-256: 32 bytes are wanted"))?)
        }
        Some(said) => {
            return Err(unsupported(format!("its message was hashed by {}: SHA2_256 is read", named(&said.algorithm))));
        }
    };
    Ok(Blob { hint, digest: digest.map(Sha256Digest::from_bytes), signature: raw(&text.signature, "the signature")? })
}

fn raw(text: &str, what: &str) -> Result<Vec<u8>, Flaw> {
    let bytes = decoded(text, what)?;
    match bytes.len() {
        1..=MAX_RAW => Ok(bytes),
        n => Err(malformed(format!("{what} has {n} bytes: 1 to {MAX_RAW} are wanted"))),
    }
}

fn decoded(text: &str, what: &str) -> Result<Vec<u8>, Flaw> {
    STANDARD.decode(text).map_err(|e| malformed(format!("{what} is not base64, or cut: {}", named(&e.to_string()))))
}

/// What is signed of a payload, with its type: DSSE's pre-authentication encoding.
pub(crate) fn pae(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// A bundle, as `model_signing` writes it.
pub(crate) fn write(hint: &Sha256Digest, payload: &[u8], signature: &[u8]) -> Vec<u8> {
    let bundle = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        },
    });
    bundle.to_string().into_bytes()
}
