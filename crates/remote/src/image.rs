//! `HOST/REPO:TAG`: what is pushed to and pulled from.
//!
//! Owns: [`ImageRef`] and its grammar. Promises: the host is said, never guessed; repository, tag and digest are as OCI has them.
//! Leaves out: whether anything is there.

use crate::url::Origin;
use securereg::{Error, ErrorKind, Result};
use securereg_oci::{Digest, Reference, Repository, Tag};
use std::fmt;
use std::str::FromStr;

/// A place in a registry: `HOST[:PORT]/REPO` with a tag, a digest, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// As it was written.
    host: Box<str>,
    name: Box<str>,
    port: Option<u16>,
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

/// What Docker Hub is called, and where it is.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];
const HUB_API: &str = "registry-1.docker.io";

impl ImageRef {
    /// `HOST[:PORT]`, as it was written: what passwords are kept under.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the manifest is asked for by: the digest wins.
    pub fn reference(&self) -> Option<Reference> {
        let tag = || self.tag.clone().map(Reference::Tag);
        self.digest.clone().map(Reference::Digest).or_else(tag)
    }

    pub(crate) fn is_hub(&self) -> bool {
        HUB.contains(&&*self.name)
    }

    /// Where the registry listens.
    pub(crate) fn origin(&self, tls: bool) -> Origin {
        let host = if self.is_hub() { HUB_API } else { &self.name };
        Origin { tls, host: host.to_owned(), port: self.port.unwrap_or(if tls { 443 } else { 80 }) }
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<ImageRef> {
        let refuse = |why: &str| {
            let text = crate::fail::shorten(text);
            Error::new(ErrorKind::InvalidInput, format!("{text:?} is no reference: {why}; write HOST/REPO:TAG"))
        };
        if text.contains("://") {
            return Err(refuse("it begins with a scheme"));
        }
        let (host, rest) = text.split_once('/').ok_or_else(|| refuse("it has no repository"))?;
        if !(host.contains(['.', ':', '[']) || host == "localhost") {
            return Err(refuse("it has no host: a host holds a dot or a port, or is localhost"));
        }
        let (name, port) = host_and_port(host).ok_or_else(|| refuse("its host is not one"))?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| refuse(&e.to_string()))?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse::<Tag>().map_err(|e| refuse(&e.message))?)),
            None => (rest, None),
        };
        // Docker's own images have no namespace in words, and have one in the protocol.
        let official = HUB.contains(&&*name) && !repository.contains('/');
        let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
        let repository = repository.parse::<Repository>().map_err(|e| refuse(&e.message))?;
        if tag.is_none() && digest.is_none() {
            return Err(refuse("it names neither a tag nor a digest"));
        }
        Ok(ImageRef { host: host.into(), name: name.into(), port, repository, tag, digest })
    }
}

/// A name or an address, and a port. An IPv6 address stays between brackets.
pub(crate) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{address}]"), if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let label = |l: &str| {
        !l.is_empty() && !l.starts_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() > 253 || !(host.starts_with('[') || host.split('.').all(label)) {
        return None;
    }
    let port = match port {
        None => None,
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Some(text.parse().ok()?),
        Some(_) => return None,
    };
    (port != Some(0)).then(|| (host.to_ascii_lowercase(), port))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_host_repository_and_tag_or_digest() {
        let digest = Digest::sha256_of(b"");
        for (text, host, port, repository, tag) in [
            ("localhost/a:v1", "localhost", None, "a", Some("v1")),
            ("127.0.0.1:8470/org/llama-3:v1", "127.0.0.1", Some(8470), "org/llama-3", Some("v1")),
            ("[::1]:5000/a/b:x", "[::1]", Some(5000), "a/b", Some("x")),
            ("GHCR.io/a/b:x", "ghcr.io", None, "a/b", Some("x")),
            ("docker.io/ai/smollm2:latest", "registry-1.docker.io", None, "ai/smollm2", Some("latest")),
            ("docker.io/x:latest", "registry-1.docker.io", None, "library/x", Some("latest")),
            (&format!("r.example/a@{digest}"), "r.example", None, "a", None),
            (&format!("r.example/a:t@{digest}"), "r.example", None, "a", Some("t")),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(
                (image.origin(true).host.as_str(), image.origin(true).port),
                (host, port.unwrap_or(443)),
                "{text}"
            );
            assert_eq!((image.repository().as_str(), image.tag().map(Tag::as_str)), (repository, tag), "{text}");
            if !text.contains("docker.io/x") {
                assert_eq!(image.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_reference_says_why() {
        for bad in [
            "",
            "a",
            "a:v1",
            "a/b:v1",
            "https://r.example/a:v1",
            "r.example/a",
            "r.example/:v1",
            "r.example/A:v1",
            "r.example/a:",
            "r.example/a:.v",
            "r.example/a@sha256:00",
            "r.example:x/a:v",
            "r.example:0/a:v",
            "r.example:70000/a:v",
            "u@r.example/a:v",
            "r.ex ample/a:v",
            ".../a:v",
            "-r.example/a:v",
            "[::1/a:v",
            "[x]/a:v",
            "r.example\n/a:v",
        ] {
            let error = bad.parse::<ImageRef>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(error.to_string().contains("HOST/REPO:TAG"), "{error}");
        }
    }
}
