//! Digests: what content is called.
//!
//! Owns: [`Digest`] and its two algorithms, those that image-spec registers for all to implement. Promises: a digest that exists is canonical, `sha256:` with 64
//! or `sha512:` with 128 lower-case hex digits, so that equal content has one name, which is safe in a path and a header. Leaves out: hashing what streams by.

use crate::error::{Code, Failure, shorten};
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// As it stands before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// How many hex digits a digest has.
    pub const fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An algorithm, a colon, lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: Box<str>,
    algorithm: Algorithm,
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn sha256_of(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        match algorithm {
            Algorithm::Sha256 => Digest::written(algorithm, &sha2::Sha256::digest(bytes)),
            Algorithm::Sha512 => Digest::written(algorithm, &sha2::Sha512::digest(bytes)),
        }
    }

    /// The SHA-256 digest with these bytes.
    pub fn from_sha256(bytes: &[u8; 32]) -> Digest {
        Digest::written(Algorithm::Sha256, bytes)
    }

    /// The SHA-512 digest with these bytes.
    pub fn from_sha512(bytes: &[u8; 64]) -> Digest {
        Digest::written(Algorithm::Sha512, bytes)
    }

    fn written(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(algorithm.as_str().len() + 1 + algorithm.hex_len());
        text.push_str(algorithm.as_str());
        text.push(':');
        for byte in bytes {
            text.push(HEX[usize::from(byte >> 4)].into());
            text.push(HEX[usize::from(byte & 15)].into());
        }
        Digest { text: text.into(), algorithm }
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What is after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The whole of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The 32 bytes, of a SHA-256 digest.
    pub fn sha256_bytes(&self) -> Option<[u8; 32]> {
        if self.algorithm != Algorithm::Sha256 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(self.hex().as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Some(bytes)
    }

    /// Whether this is the digest of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        *self == Digest::of(self.algorithm, bytes)
    }
}

fn nibble(hex: u8) -> u8 {
    match hex {
        b'0'..=b'9' => hex - b'0',
        _ => hex.wrapping_sub(b'a').wrapping_add(10),
    }
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestError {
    /// A digest by form, of an algorithm that is not known here.
    UnknownAlgorithm(String),
    /// Not a digest.
    Malformed(String),
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DigestError::UnknownAlgorithm(name) => {
                write!(f, "digest algorithm {name:?} is not known: use sha256 or sha512")
            }
            DigestError::Malformed(text) => write!(
                f,
                "{text:?} is not a digest: \"sha256:\" with 64 or \"sha512:\" with 128 lower-case hex digits is wanted"
            ),
        }
    }
}

impl std::error::Error for DigestError {}

impl From<DigestError> for Failure {
    fn from(error: DigestError) -> Failure {
        Failure::new(Code::DigestInvalid, error.to_string())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let malformed = || DigestError::Malformed(shorten(text));
        let (name, encoded) = text.split_once(':').ok_or_else(malformed)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if is_algorithm(name) && is_encoded(encoded) => {
                return Err(DigestError::UnknownAlgorithm(shorten(name)));
            }
            _ => return Err(malformed()),
        };
        if encoded.len() != algorithm.hex_len() || !is_lower_hex(encoded) {
            return Err(malformed());
        }
        Ok(Digest { text: text.into(), algorithm })
    }
}

/// image-spec, "Digests": `[a-z0-9]+([+._-][a-z0-9]+)*`.
fn is_algorithm(name: &str) -> bool {
    name.split(['+', '.', '_', '-'])
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

/// image-spec, "Digests": `[a-zA-Z0-9=_-]+`.
fn is_encoded(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

crate::name::text_type!(Digest);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY_256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn digests_of_nothing_are_the_published_ones() {
        for (algorithm, text) in [(Algorithm::Sha256, EMPTY_256), (Algorithm::Sha512, EMPTY_512)] {
            let digest = Digest::of(algorithm, b"");
            assert_eq!(digest.to_string(), text);
            assert_eq!(text.parse::<Digest>(), Ok(digest.clone()));
            assert_eq!(digest.algorithm(), algorithm);
            assert_eq!(digest.hex().len(), algorithm.hex_len());
            assert!(digest.is_of(b"") && !digest.is_of(b"a"));
        }
        assert_eq!(EMPTY_512.parse::<Digest>().unwrap().sha256_bytes(), None);
    }

    #[test]
    fn an_unknown_algorithm_is_told_from_a_bad_form() {
        let hex = &EMPTY_256[7..];
        for unknown in [&format!("md5:{hex}"), "blake3:abc=_-Z", "sha256+b64u:LCa0a2j", &format!("sha384:{hex}")] {
            assert!(matches!(unknown.parse::<Digest>(), Err(DigestError::UnknownAlgorithm(_))), "{unknown}");
        }
        for malformed in [
            "",
            ":",
            "sha256",
            "sha256:",
            hex,
            &EMPTY_256[..70],
            &format!("{EMPTY_256}0"),
            &EMPTY_256.to_uppercase(),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha512:{hex}"),
            &format!(" {EMPTY_256}"),
            &format!("{EMPTY_256}\n"),
            &format!("sha256:{}é", &hex[2..]),
            "SHA256:abc",
            "md5:../../etc",
            "-a:b",
            "a--b:c",
        ] {
            assert!(matches!(malformed.parse::<Digest>(), Err(DigestError::Malformed(_))), "{malformed}");
            let failure = Failure::from(malformed.parse::<Digest>().unwrap_err());
            assert_eq!((failure.code, failure.status), (Code::DigestInvalid, 400));
        }
    }

    proptest! {
        #[test]
        fn bytes_and_text_are_the_same_digest(bytes: [u8; 32], more: [u8; 32]) {
            let digest = Digest::from_sha256(&bytes);
            prop_assert_eq!(digest.sha256_bytes(), Some(bytes));
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            let mut long = [0; 64];
            long[..32].copy_from_slice(&bytes);
            long[32..].copy_from_slice(&more);
            let digest = Digest::from_sha512(&long);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn any_text_is_a_digest_or_an_error(text in "(sha256:|sha512:|md5:)?[0-9a-f:=]{0,130}|\\PC*") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.as_str(), text);
            }
        }
    }
}
