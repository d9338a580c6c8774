//! Keys, as PEM.
//!
//! Owns: [`PublicKey`] and [`PrivateKey`]: ECDSA over P-256, P-384 and P-521, and Ed25519. Promises: a key is one PEM block of a kind
//! that is named here, whole and on its curve, or an error that says what it is and the remedy; the hash of a signature follows
//! from the key and never from what is signed, so that no document can choose a weaker one; a private key is wiped from memory
//! when it is dropped. Leaves out: who is trusted with what (`policy::signers`), what is signed (`statement`).
//!
//! ```text
//! PUBLIC KEY        SubjectPublicKeyInfo, RFC 5280 section 4.1.2.7; RFC 5480 (EC), RFC 8410 (Ed25519)
//! PRIVATE KEY       PKCS#8, RFC 5958
//! EC PRIVATE KEY    RFC 5915; what `openssl ecparam -genkey` writes, after a block of EC PARAMETERS
//! ```
//! A key's id is the SHA-256 of its public PEM, as OpenSSL writes it: `sha256sum KEY.pub`. `model_signing` has the same as the hint in
//! its bundles.

use super::read;
use crate::digest::{Sha256Digest, shorten};
use crate::error::{Error, ErrorKind, Result};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::signature::{Signer, Verifier};
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::spki::SubjectPublicKeyInfoRef;
use p256::pkcs8::{DecodePublicKey, Document, EncodePublicKey, LineEnding, ObjectIdentifier, SecretDocument};
use std::fmt;
use std::path::Path;

/// No key is longer, in bytes of PEM.
pub const MAX_KEY: u64 = 16 << 10;

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA over P-384 with SHA-384.
    EcdsaP384,
    /// ECDSA over P-521 with SHA-512.
    EcdsaP521,
    /// Ed25519 of the message itself (RFC 8032).
    Ed25519,
}

impl Algorithm {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::EcdsaP256 => "ecdsa-p256",
            Algorithm::EcdsaP384 => "ecdsa-p384",
            Algorithm::EcdsaP521 => "ecdsa-p521",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

/// A key that signatures are held against.
#[derive(Clone)]
pub struct PublicKey {
    point: Point,
    id: Sha256Digest,
}

#[derive(Clone)]
enum Point {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

/// That a signature is not one of this key over this message; nothing more can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotSigned;

impl PublicKey {
    /// Reads a PEM block `PUBLIC KEY`.
    ///
    /// # Errors
    /// `InvalidInput`, with what it is instead.
    pub fn from_pem(text: &[u8]) -> Result<PublicKey> {
        let text = pem_text(text)?;
        let label = label(text)?;
        if label != "PUBLIC KEY" {
            return Err(other_label(label, "a public key is a block PUBLIC KEY"));
        }
        let (_, document) = Document::from_pem(text).map_err(|_| cut())?;
        let der = document.as_bytes();
        let info = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| bad("it is no SubjectPublicKeyInfo"))?;
        let point = match (info.algorithm.oid, info.algorithm.parameters_oid().ok()) {
            (EC, Some(P256)) => DecodePublicKey::from_public_key_der(der).map(Point::P256),
            (EC, Some(P384)) => DecodePublicKey::from_public_key_der(der).map(Point::P384),
            (EC, Some(P521)) => DecodePublicKey::from_public_key_der(der).map(Point::P521),
            (ED25519, None) => DecodePublicKey::from_public_key_der(der).map(Point::Ed25519),
            (RSA, _) => {
                return Err(bad("it is an RSA key: ECDSA keys (P-256, P-384, P-521) and Ed25519 keys are read"));
            }
            (other, curve) => {
                let curve = curve.map_or_else(String::new, |curve| format!(", curve {curve}"));
                return Err(bad(&format!("its algorithm is {other}{curve}: P-256, P-384, P-521 and Ed25519 are read")));
            }
        };
        PublicKey::of(point.map_err(|_| bad("it is not a point of its curve"))?)
    }

    /// The same of a file.
    ///
    /// # Errors
    /// As [`PublicKey::from_pem`], or what is wrong with reading it.
    pub fn read(path: &Path) -> Result<PublicKey> {
        PublicKey::from_pem(&read(path, MAX_KEY)?)
            .map_err(|e| Error::new(e.kind(), format!("{}: {}", path.display(), e.message())))
    }

    fn of(point: Point) -> Result<PublicKey> {
        let text = pem(&point)?;
        // The neutral element and its like: under such a key one signature fits every message.
        if matches!(&point, Point::Ed25519(key) if key.is_weak()) {
            return Err(bad("it is a weak Ed25519 key, under which one signature is good for any message"));
        }
        Ok(PublicKey { point, id: Sha256Digest::of(text.as_bytes()) })
    }

    /// The SHA-256 of [`PublicKey::to_pem`].
    pub fn id(&self) -> Sha256Digest {
        self.id
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        match self.point {
            Point::P256(_) => Algorithm::EcdsaP256,
            Point::P384(_) => Algorithm::EcdsaP384,
            Point::P521(_) => Algorithm::EcdsaP521,
            Point::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The key as OpenSSL writes it.
    pub fn to_pem(&self) -> String {
        pem(&self.point).expect("it was written when the key was made")
    }

    /// Whether `signature` (DER of ECDSA, 64 bytes of Ed25519) is this key's over `message`.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), NotSigned> {
        let verified = match &self.point {
            Point::P256(key) => p256::ecdsa::Signature::from_der(signature).and_then(|s| key.verify(message, &s)),
            Point::P384(key) => p384::ecdsa::Signature::from_der(signature).and_then(|s| key.verify(message, &s)),
            Point::P521(key) => p521::ecdsa::Signature::from_der(signature).and_then(|s| key.verify(message, &s)),
            Point::Ed25519(key) => {
                ed25519_dalek::Signature::from_slice(signature).and_then(|s| key.verify_strict(message, &s))
            }
        };
        verified.map_err(|_| NotSigned)
    }

    /// The same over a blob of which only the SHA-256 is known. Of a P-521 key and of Ed25519 no signature is one: the first is
    /// defined over longer digests only (FIPS 186-5, section 6.4.1, and the half of its order that libraries ask for), the other over the whole blob.
    pub(crate) fn verify_sha256(&self, sha256: &Sha256Digest, signature: &[u8]) -> Result<(), NotSigned> {
        let digest = sha256.as_bytes();
        let verified = match &self.point {
            Point::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).and_then(|s| key.verify_prehash(digest, &s))
            }
            Point::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).and_then(|s| key.verify_prehash(digest, &s))
            }
            Point::P521(_) | Point::Ed25519(_) => return Err(NotSigned),
        };
        verified.map_err(|_| NotSigned)
    }
}

fn pem(point: &Point) -> Result<String> {
    let text = match point {
        Point::P256(key) => key.to_public_key_pem(LineEnding::LF),
        Point::P384(key) => key.to_public_key_pem(LineEnding::LF),
        Point::P521(key) => key.to_public_key_pem(LineEnding::LF),
        Point::Ed25519(key) => key.to_public_key_pem(LineEnding::LF),
    };
    text.map_err(|_| bad("it cannot be written as PEM"))
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm().as_str(), self.id)
    }
}

/// A key that signs. It is wiped when it is dropped, and never printed.
pub struct PrivateKey(Secret);

enum Secret {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl PrivateKey {
    /// Reads a PEM block `PRIVATE KEY` or `EC PRIVATE KEY`.
    ///
    /// # Errors
    /// `InvalidInput`, with what it is instead; `Unsupported` when it is encrypted, with how to decrypt it.
    pub fn from_pem(text: &[u8]) -> Result<PrivateKey> {
        let text = pem_text(text)?;
        // `openssl ecparam -genkey` writes the curve's name first, which the key says again.
        let parameters = text.split_once("-----END EC PARAMETERS-----").map(|(_, rest)| rest.trim_start());
        let text = parameters.unwrap_or(text);
        refuse_encrypted(text)?;
        let label = label(text)?;
        if !matches!(label, "PRIVATE KEY" | "EC PRIVATE KEY") {
            return Err(other_label(label, "a private key is a block PRIVATE KEY or EC PRIVATE KEY"));
        }
        let (_, document) = SecretDocument::from_pem(text).map_err(|_| cut())?;
        let der = document.as_bytes();
        // Each takes only a key of its own curve.
        if let Ok(key) = p256::SecretKey::from_der(der) {
            return Ok(PrivateKey(Secret::P256(key.into())));
        }
        if let Ok(key) = p384::SecretKey::from_der(der) {
            return Ok(PrivateKey(Secret::P384(key.into())));
        }
        if let Ok(key) = p521::SecretKey::from_der(der) {
            return Ok(PrivateKey(Secret::P521(key.into())));
        }
        if let Ok(key) = <ed25519_dalek::SigningKey as ed25519_dalek::pkcs8::DecodePrivateKey>::from_pkcs8_der(der) {
            return Ok(PrivateKey(Secret::Ed25519(Box::new(key))));
        }
        Err(bad("it is no private key for P-256, P-384, P-521 or Ed25519"))
    }

    /// The same of a file.
    ///
    /// # Errors
    /// As [`PrivateKey::from_pem`], or what is wrong with reading it.
    pub fn read(path: &Path) -> Result<PrivateKey> {
        let text = Zeroizing::new(read(path, MAX_KEY)?);
        PrivateKey::from_pem(&text).map_err(|e| Error::new(e.kind(), format!("{}: {}", path.display(), e.message())))
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        let point = match &self.0 {
            Secret::P256(key) => Point::P256(*key.verifying_key()),
            Secret::P384(key) => Point::P384(*key.verifying_key()),
            Secret::P521(key) => Point::P521(p521::ecdsa::VerifyingKey::from(key)),
            Secret::Ed25519(key) => Point::Ed25519(key.verifying_key()),
        };
        PublicKey::of(point).expect("a private key's public key is a good one")
    }

    /// A signature over `message`: of ECDSA in DER and by RFC 6979, so that no bad source of randomness can give the key away.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            Secret::P256(key) => Signer::<p256::ecdsa::Signature>::sign(key, message).to_der().as_bytes().to_vec(),
            Secret::P384(key) => Signer::<p384::ecdsa::Signature>::sign(key, message).to_der().as_bytes().to_vec(),
            Secret::P521(key) => Signer::<p521::ecdsa::Signature>::sign(key, message).to_der().as_bytes().to_vec(),
            Secret::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {:?})", self.public())
    }
}

fn refuse_encrypted(text: &str) -> Result<()> {
    let remedies = [
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "write it without a password: openssl pkey -in KEY -out PLAIN.pem"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", COSIGN),
        ("-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----", COSIGN),
        ("Proc-Type: 4,ENCRYPTED", "write it without a password: openssl pkey -in KEY -out PLAIN.pem"),
    ];
    match remedies.iter().find(|(mark, _)| text.contains(mark)) {
        Some((_, remedy)) => {
            Err(Error::new(ErrorKind::Unsupported, format!("the key is encrypted, and no password is taken: {remedy}")))
        }
        None => Ok(()),
    }
}

const COSIGN: &str = "it is one of cosign's own: sign with cosign sign-blob, or with a key of openssl's (openssl genpkey -algorithm EC \
                      -pkeyopt ec_paramgen_curve:P-256)";

fn pem_text(text: &[u8]) -> Result<&str> {
    if text.len() as u64 > MAX_KEY {
        return Err(bad(&format!("it has {} bytes, over the limit of {MAX_KEY}", text.len())));
    }
    // The decoder wants one line end behind the block and nothing else; editors leave more.
    std::str::from_utf8(text).map(str::trim).map_err(|_| bad("it is not PEM, which is text"))
}

/// What the first line says that the block is.
fn label(text: &str) -> Result<&str> {
    let first = text.lines().next().unwrap_or("").trim_end();
    let label = first.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
    label.ok_or_else(|| bad("it is not PEM: its first line is no -----BEGIN PUBLIC KEY----- or the like"))
}

fn cut() -> Error {
    bad("its PEM block is cut, or altered, or not alone")
}

fn other_label(label: &str, wanted: &str) -> Error {
    let hint = match label {
        "PRIVATE KEY" | "EC PRIVATE KEY" => ", and this is a private one: openssl pkey -in KEY -pubout",
        "PUBLIC KEY" => ", and this is a public one",
        "CERTIFICATE" => ", and this is a certificate: openssl x509 -in CERT -pubkey -noout",
        _ => "",
    };
    bad(&format!("it is a block {:?}; {wanted}{hint}", shorten(label)))
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the key cannot be used: {why}"))
}
