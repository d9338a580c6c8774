//! Digests as types.
//!
//! Owns: [`Sha256Digest`] (a blob's identity) and [`Blake3Digest`] (the root of its tree, which is the file's plain
//! BLAKE3 hash, so `b3sum` is an independent oracle). Promises: 32 bytes, parsed strictly from 64 lower or upper case hex
//! digits, printed in lower case. Leaves out: computing them (`ingest`, `tree`).

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The digest with these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                $name(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// 64 lower-case hex digits.
            pub fn to_hex(&self) -> String {
                hex(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                unhex(s).map($name).ok_or_else(|| {
                    Error::new(
                        ErrorKind::InvalidInput,
                        format!("{:?} is not a {} digest: 64 hex digits are wanted", shorten(s), $what),
                    )
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_hex())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest!(
    /// A SHA-256 digest: the identity of a blob.
    Sha256Digest,
    "SHA-256"
);
digest!(
    /// A BLAKE3 hash: the root of a blob's tree.
    Blake3Digest,
    "BLAKE3"
);

impl Sha256Digest {
    /// The digest of `bytes` held in memory.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Sha256Digest(sha2::Sha256::digest(bytes).into())
    }

    /// Like [`FromStr`], also taking the OCI form `sha256:<hex>`.
    pub fn parse_oci(s: &str) -> Result<Self> {
        s.strip_prefix("sha256:").unwrap_or(s).parse()
    }
}

/// Lower-case hex of any bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)] as char);
        out.push(DIGITS[usize::from(b & 15)] as char);
    }
    out
}

pub(crate) fn unhex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let digits = s.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(out)
}

/// At most 80 characters of what a caller sent, for a message.
pub(crate) fn shorten(s: &str) -> String {
    match s.char_indices().nth(80) {
        Some((at, _)) => format!("{}...", &s[..at]),
        None => s.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hex_digits_and_nothing_else() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256Digest::of(b"abc").to_hex(), hex);
        assert_eq!(
            hex.to_uppercase().parse::<Sha256Digest>().expect("upper case is hex too"),
            Sha256Digest::of(b"abc")
        );
        assert_eq!(Sha256Digest::parse_oci(&format!("sha256:{hex}")).expect("OCI form"), Sha256Digest::of(b"abc"));
        for bad in ["", "ba78", &hex[1..], &format!("{hex}0"), &hex.replace('b', "g"), &hex.replace('b', "é")] {
            assert_eq!(bad.parse::<Sha256Digest>().expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }
}
