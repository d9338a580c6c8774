//! Names as types: models, tags, paths inside an artifact.
//!
//! Owns: the allow-list. Promises: a [`ModelName`] or [`RelPath`] that exists is safe to join below a folder, to print in
//! a log, a route and a terminal: ASCII letters, digits, `.`, `_`, `-`, with `/` between components; no component is empty
//! or starts with `.` or `-`. Leaves out: whether a name is taken (`catalog`).

use crate::digest::shorten;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

/// No name or path is longer, in bytes: it must fit one component of a file system even when it is flattened.
pub const MAX_NAME: usize = 255;
/// No tag is longer (OCI distribution-spec 1.1, "tag").
pub const MAX_TAG: usize = 128;
/// No path has more components.
pub const MAX_DEPTH: usize = 32;

/// First components that are routes of the HTTP API.
const RESERVED: [&str; 5] = ["path", "verify", "verify-manifest", "promote", "delete"];

/// A model's name: `repo` or `repo:tag`.
///
/// Without a tag it is immutable once promoted; with one it is a pointer that moves when new content is admitted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName {
    full: Box<str>,
    repo_len: u8,
}

impl ModelName {
    /// The whole name, `repo` or `repo:tag`.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The part before the tag.
    pub fn repo(&self) -> &str {
        &self.full[..usize::from(self.repo_len)]
    }

    /// The tag, when there is one.
    pub fn tag(&self) -> Option<&str> {
        self.full.get(usize::from(self.repo_len) + 1..)
    }

    /// The name with case folded: two names that fold alike collide.
    pub fn folded(&self) -> String {
        self.full.to_ascii_lowercase()
    }
}

impl FromStr for ModelName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let refuse = |why: &str| Err(bad("model name", s, why));
        if s.len() > MAX_NAME {
            return refuse("it is over 255 bytes");
        }
        let (repo, tag) = match s.split_once(':') {
            Some((repo, tag)) => (repo, Some(tag)),
            None => (s, None),
        };
        if let Err(why) = check_path(repo, MAX_DEPTH) {
            return refuse(why);
        }
        if let Some(tag) = tag {
            if tag.len() > MAX_TAG {
                return refuse("its tag is over 128 bytes");
            }
            if let Err(why) = check_component(tag) {
                return refuse(why);
            }
        }
        let first = repo.split('/').next().unwrap_or(repo);
        if RESERVED.iter().any(|word| first.eq_ignore_ascii_case(word)) {
            return refuse("its first component is reserved for a route of the API");
        }
        let repo_len = u8::try_from(repo.len()).map_err(|_| bad("model name", s, "it is over 255 bytes"))?;
        Ok(ModelName { full: s.into(), repo_len })
    }
}

/// A relative path of one file inside an artifact or the mount.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<str>);

impl RelPath {
    /// The path, `/` between components.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The components in order; never empty.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path with case folded: two paths that fold alike collide.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// `self/below`.
    pub fn join(&self, below: &RelPath) -> Result<RelPath> {
        format!("{self}/{below}").parse()
    }
}

impl AsRef<std::path::Path> for RelPath {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(&*self.0)
    }
}

impl FromStr for RelPath {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        // A tagged model's files live below repo/tag, so a mount path may be longer and deeper than a name.
        if s.len() > 4 * MAX_NAME {
            return Err(bad("path", s, "it is over 1020 bytes"));
        }
        check_path(s, 2 * MAX_DEPTH + 1).map_err(|why| bad("path", s, why))?;
        Ok(RelPath(s.into()))
    }
}

fn bad(what: &str, s: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("{what} {:?} is refused: {why} (allowed: A-Z a-z 0-9 . _ - with / between components)", shorten(s)),
    )
}

fn check_path(s: &str, depth: usize) -> Result<(), &'static str> {
    if s.is_empty() {
        return Err("it is empty");
    }
    if s.split('/').count() > depth {
        return Err("it has too many components");
    }
    s.split('/').try_for_each(check_component)
}

fn check_component(s: &str) -> Result<(), &'static str> {
    if s.is_empty() {
        return Err("a component is empty");
    }
    if s.len() > MAX_NAME {
        return Err("a component is over 255 bytes");
    }
    if s.starts_with(['.', '-']) {
        return Err("a component starts with '.' or '-'");
    }
    if !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err("it holds a character that is not allowed");
    }
    Ok(())
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
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
as_text!(ModelName);
as_text!(RelPath);

#[cfg(test)]
mod tests {
    use super::*;

    /// Threat 1.
    #[test]
    fn t01_hostile_names_are_refused_by_an_allow_list() {
        let long = "a".repeat(256);
        let deep = vec!["a"; 33].join("/");
        let deeper = vec!["a"; 66].join("/");
        let tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "/x",
            "x/",
            "a//b",
            "a/../b",
            "a/./b",
            ".hidden",
            "a/.hidden",
            "-x",
            "a/-x",
            "a\0b",
            "a\nb",
            "a\u{202e}b",
            "a b",
            "é",
            "a\\b",
            "a:b:c",
            "a:",
            ":t",
            "a:../b",
            "a:b/c",
            "a:.b",
            "a:-b",
            "%2e%2e",
            "a*",
            "~a",
            "path",
            "verify",
            "Verify-Manifest",
            "promote/x",
            "delete:1",
            &long,
            &deep,
            &tag,
        ] {
            let e = bad.parse::<ModelName>().expect_err(bad);
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{bad:?}");
            assert!(!e.to_string().contains('\0') && !e.to_string().contains('\n'), "{bad:?} is escaped in messages");
        }
        for bad in
            ["", ".", "..", "../x", "/x", "x/", "a//b", "a/..", "a\0", "a\n", "a:b", "-rf", &deeper, &"a/".repeat(600)]
        {
            assert_eq!(bad.parse::<RelPath>().expect_err(bad).kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!("a".repeat(256).parse::<RelPath>().is_err(), "a component fits a file system's 255 bytes");
        let of_length = |n: usize| format!("{0}/{0}/{0}/{1}", "a".repeat(254), "b".repeat(n - 765));
        assert_eq!(of_length(1020).parse::<RelPath>().expect("1020 bytes fit").as_str().len(), 1020);
        assert!(of_length(1021).replace("/b", "b/").parse::<RelPath>().is_err(), "and no more");
    }

    #[test]
    fn ordinary_names_pass_and_split_at_the_tag() {
        let n: ModelName = "org/Llama-3.1_8B:v1.0".parse().expect("a name");
        assert_eq!((n.repo(), n.tag(), n.as_str()), ("org/Llama-3.1_8B", Some("v1.0"), "org/Llama-3.1_8B:v1.0"));
        let n: ModelName = "tiny".parse().expect("a name");
        assert_eq!((n.repo(), n.tag()), ("tiny", None));
        assert_eq!("A".repeat(255).parse::<ModelName>().expect("255 fit").as_str().len(), 255);
        let deepest = vec!["a"; 32].join("/");
        assert_eq!(deepest.parse::<ModelName>().expect("32 fit").repo(), deepest);
        assert_eq!(
            format!("a:{}", "t".repeat(128)).parse::<ModelName>().expect("128 fit").tag().map(str::len),
            Some(128)
        );
        assert_eq!("pathology".parse::<ModelName>().expect("only the word itself is reserved").as_str(), "pathology");
        let p: RelPath = "a/B.txt".parse().expect("a path");
        assert_eq!((p.file_name(), p.folded().as_str(), p.components().count()), ("B.txt", "a/b.txt", 2));
        assert_eq!(p.join(&"c".parse().expect("a path")).expect("joins").as_str(), "a/B.txt/c");
        assert_eq!(n.folded(), "tiny");
    }
}
