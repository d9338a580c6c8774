//! Names of repositories and tags, and the references to a manifest.
//!
//! Owns: [`Repository`], [`Tag`] and [`Reference`], by the grammar of distribution-spec 1.1.1 ("Pulling manifests"). Promises: a repository or a tag that exists is
//! ASCII letters, digits, `.`, `_`, `-` (and `/` between the components of a repository); no component is empty, `.` or `..`, begins with `.`
//! or `-`, or holds what a path, a header or a log would take amiss. Leaves out: whether there is such a thing, and names of the registry's own.

use crate::digest::{Digest, DigestError};
use crate::error::{Code, Failure, shorten};
use std::fmt;
use std::str::FromStr;

/// No repository's name is longer, in bytes: clients bound host and name together by 255.
pub const MAX_REPOSITORY: usize = 255;
/// No tag is longer, in bytes.
pub const MAX_TAG: usize = 128;

/// What a type that is a checked text has besides its `FromStr` and `as_str`.
macro_rules! text_type {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_type;

/// The name of a repository: lower-case components between slashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Box<str>);

impl Repository {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for Repository {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Repository, Failure> {
        if text.len() > MAX_REPOSITORY {
            let found = text.len();
            return Err(Failure::new(
                Code::NameInvalid,
                format!("a repository's name of {found} bytes is too long: at most {MAX_REPOSITORY} are allowed"),
            ));
        }
        match text.split('/').all(is_component) {
            true => Ok(Repository(text.into())),
            false => Err(Failure::new(
                Code::NameInvalid,
                format!(
                    "{:?} is not a repository's name: lower-case letters and digits, between them one of . _ __ or \
                     dashes, in components separated by /",
                    shorten(text)
                ),
            )),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

text_type!(Repository);

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// The whole tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Tag, Failure> {
        let good = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        match good {
            true => Ok(Tag(text.into())),
            false => Err(Failure::new(
                Code::TagInvalid,
                format!(
                    "{:?} is not a tag: up to {MAX_TAG} letters, digits, . _ and -, not beginning with . or -",
                    shorten(text)
                ),
            )),
        }
    }
}

text_type!(Tag);

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// Whatever the tag names now.
    Tag(Tag),
    /// The manifest with this digest.
    Digest(Digest),
}

impl Reference {
    /// The whole reference.
    pub fn as_str(&self) -> &str {
        match self {
            Reference::Tag(tag) => tag.as_str(),
            Reference::Digest(digest) => digest.as_str(),
        }
    }
}

impl FromStr for Reference {
    type Err = Failure;

    /// What holds a colon is a digest: no tag does.
    fn from_str(text: &str) -> Result<Reference, Failure> {
        if text.contains(':') {
            return text.parse().map(Reference::Digest).map_err(|error: DigestError| error.into());
        }
        text.parse().map(Reference::Tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repositories_follow_the_grammar() {
        let longest = "a".repeat(MAX_REPOSITORY);
        for good in ["a", "0", "library/alpine", "a/b/c/d", "a.b", "a_b", "a__b", "a-b", "a---b", "0.a"] {
            assert_eq!(good.parse::<Repository>().unwrap().as_str(), good);
        }
        assert!(longest.parse::<Repository>().is_ok());
        for bad in [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a..b", "a.-b", "a-.b", "a___b", "a_-b", "_a", "a_",
            "-a", "a-", "a.", ".a", "A", "aB", "a b", "a:b", "a@b", "a\0b", "é", "a/é", "a%2fb", "a\\b", "a\n",
        ] {
            let failure = bad.parse::<Repository>().unwrap_err();
            assert_eq!((failure.code, failure.status), (Code::NameInvalid, 400), "{bad:?}");
        }
        assert_eq!(format!("{longest}a").parse::<Repository>().unwrap_err().code, Code::NameInvalid);
    }

    #[test]
    fn tags_follow_the_grammar() {
        let longest = "a".repeat(MAX_TAG);
        for good in ["a", "A", "0", "_", "__", "v1.2.3-rc.1_b", "a..b", "a-", "latest", &longest] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "a:b", "a+b", "é", "a\n", "a\0", &format!("{longest}a")] {
            let failure = bad.parse::<Tag>().unwrap_err();
            assert_eq!((failure.code, failure.status), (Code::TagInvalid, 400), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        let digest = Digest::sha256_of(b"");
        assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
        assert_eq!("sha256".parse(), Ok(Reference::Tag("sha256".parse().unwrap())));
        for (bad, code) in
            [("sha256:abc", Code::DigestInvalid), ("md5:abc", Code::DigestInvalid), ("", Code::TagInvalid)]
        {
            assert_eq!(bad.parse::<Reference>().unwrap_err().code, code, "{bad}");
        }
    }

    /// The grammar as the spec writes it, by trying every way to split: slow, and plainly right.
    fn slow_component(text: &[u8]) -> bool {
        let word = |t: &[u8]| !t.is_empty() && t.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        word(text)
            || (1..text.len()).any(|head| {
                word(&text[..head])
                    && (head + 1..text.len()).any(|tail| {
                        let between = &text[head..tail];
                        (matches!(between, b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
                            && slow_component(&text[tail..])
                    })
            })
    }

    proptest! {
        #[test]
        fn repositories_agree_with_the_slow_reference(text in "[ab0._/-]{0,12}") {
            let slow = text.split('/').all(|c| slow_component(c.as_bytes()));
            prop_assert_eq!(text.parse::<Repository>().is_ok(), slow);
        }

        #[test]
        fn names_come_back_as_they_were(text in "[a-zA-Z0-9._/:-]{0,20}|\\PC*") {
            if let Ok(name) = text.parse::<Repository>() {
                prop_assert_eq!(name.to_string(), text.clone());
                prop_assert!(name.components().all(|c| !c.is_empty() && !c.starts_with(['.', '-'])));
            }
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert_eq!(tag.to_string(), text.clone());
            }
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
