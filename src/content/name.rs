//! The names of repositories and of their content.
//!
//! Owns: the allow-lists. Promises: a [`RepositoryName`], a [`ContentDigest`] and a checked document name may be joined below a
//! folder: lower-case ASCII letters, digits and separators, no component empty or beginning with `.`, `-` or `_`. Leaves out: the
//! rest of OCI's grammar (tags, references), which those who speak the protocol check.

use crate::digest::{Sha256Digest, hex, shorten};
use crate::error::{Error, ErrorKind, Result};
use crate::name::MAX_NAME;
use std::fmt;
use std::str::FromStr;

/// The name of an OCI repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, several of these with `/` between them (distribution-spec
/// 1.1.1, "Pulling manifests"), at most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Box<str>);

impl RepositoryName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if s.len() <= MAX_NAME && s.split('/').all(is_component) {
            return Ok(RepositoryName(s.into()));
        }
        let why = "lower-case letters and digits are allowed, single '.', '_', '__' or dashes between them, '/' between \
                   components, 255 bytes at most";
        Err(Error::new(ErrorKind::InvalidInput, format!("repository name {:?} is refused: {why}", shorten(s))))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One component of a repository's name: letters and digits, with a separator between two runs of them.
fn is_component(s: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bounded = s.starts_with(is_word) && s.ends_with(is_word);
    let separators = s.split(is_word).filter(|between| !between.is_empty());
    bounded && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// The digest by which a repository knows a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentDigest {
    /// `sha256:` and 64 hex digits.
    Sha256(Sha256Digest),
    /// `sha512:` and 128 hex digits.
    Sha512([u8; 64]),
}

impl ContentDigest {
    /// `sha256-<hex>` or `sha512-<hex>`: its name as a file.
    pub(crate) fn file_name(&self) -> String {
        self.joined('-')
    }

    /// The digest whose file name this is.
    pub(crate) fn of_file_name(name: &str) -> Option<ContentDigest> {
        parse(name, '-')
    }

    fn joined(&self, by: char) -> String {
        match self {
            ContentDigest::Sha256(digest) => format!("sha256{by}{digest}"),
            ContentDigest::Sha512(bytes) => format!("sha512{by}{}", hex(bytes)),
        }
    }
}

impl From<Sha256Digest> for ContentDigest {
    fn from(digest: Sha256Digest) -> Self {
        ContentDigest::Sha256(digest)
    }
}

impl FromStr for ContentDigest {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        parse(s, ':').ok_or_else(|| {
            let why = "\"sha256:\" and 64 lower-case hex digits, or \"sha512:\" and 128, are wanted";
            Error::new(ErrorKind::InvalidInput, format!("digest {:?} is refused: {why}", shorten(s)))
        })
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined(':'))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse(s: &str, by: char) -> Option<ContentDigest> {
    let (algorithm, hex) = s.split_once(by)?;
    if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    match algorithm {
        "sha256" => hex.parse().ok().map(ContentDigest::Sha256),
        "sha512" if hex.len() == 128 => {
            let half = |s: &str| s.parse::<Sha256Digest>().ok();
            let (high, low) = (half(&hex[..64])?, half(&hex[64..])?);
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(high.as_bytes());
            bytes[32..].copy_from_slice(low.as_bytes());
            Some(ContentDigest::Sha512(bytes))
        }
        _ => None,
    }
}

/// Whether `s` is the name of a manifest that others may refer to: `sha256-<hex>` or `sha512-<hex>`.
pub(crate) fn is_subject(s: &str) -> bool {
    parse(s, '-').is_some()
}

/// Whether a document may have this name: a digest with a dash, a tag.
pub(crate) fn is_document(s: &str) -> bool {
    let first = s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    first && s.len() <= MAX_NAME && s.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_name_is_ocis_lower_case_grammar() {
        for good in ["a", "0", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "library/tiny-llama/v1.5", &"a".repeat(255)]
        {
            assert_eq!(good.parse::<RepositoryName>().expect(good).as_str(), good);
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "a-_b",
            ".a",
            "a.",
            "_a",
            "a_",
            "-a",
            "a-",
            "..",
            "a/..",
            "a/_blobs",
            "ä",
            "a b",
            "a:b",
            "a\0b",
            "a\n",
            &"a".repeat(256),
        ] {
            assert_eq!(bad.parse::<RepositoryName>().expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_digest_is_read_as_it_is_written_and_no_other_way() {
        let short = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for good in [format!("sha256:{short}"), format!("sha512:{short}{short}")] {
            let digest: ContentDigest = good.parse().expect("a digest");
            assert_eq!(digest.to_string(), good);
            assert_eq!(digest.file_name(), good.replace(':', "-"));
            assert!(is_subject(&digest.file_name()) && is_document(&digest.file_name()));
        }
        let upper = short.to_uppercase();
        for bad in [
            "",
            "sha256",
            "sha256:",
            short,
            &format!("sha256:{upper}"),
            &format!("sha256:{short}0"),
            &format!("sha256:{short}{short}"),
            &format!("sha512:{short}"),
            &format!("sha256-{short}"),
            &format!("md5:{short}"),
            &format!("SHA256:{short}"),
            &format!("sha256::{short}"),
            &format!("sha512:{}é", &format!("{short}{short}")[..126]),
        ] {
            assert_eq!(bad.parse::<ContentDigest>().expect_err(bad).kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_document_has_a_tags_name_or_a_digests() {
        for good in ["latest", "v1.0-rc.1", "_x", "X", "1"] {
            assert!(is_document(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a b", "é", "a\0", &"a".repeat(256)] {
            assert!(!is_document(bad), "{bad}");
        }
        assert!(!is_subject("latest") && !is_subject("sha256-..") && !is_subject("sha256:ab"));
    }
}
