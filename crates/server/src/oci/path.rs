//! What a path below `/v2/` names.
//!
//! Owns: the table of routes of the OCI distribution-spec 1.1.1 ("Endpoints"), read from the end of the path, since a repository's
//! name has slashes of its own. Promises: only names, references and digests that are well formed come out. Leaves out: which
//! methods a target takes.

use super::failure::{Code, Failure};
use percent_encoding::percent_decode_str;
use securereg_oci::Digest;
use securereg_oci::{Reference, Repository};

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Base,
    Catalog,
    Uploads(Repository),
    Upload(Repository, String),
    Blob(Repository, Digest),
    Manifest(Repository, Reference),
    Tags(Repository),
    Referrers(Repository, Digest),
}

impl Target {
    /// Of what follows `/v2`, as it came.
    pub(super) fn of(path: &str) -> Result<Target, Failure> {
        let decoded = percent_decode_str(path).decode_utf8();
        let path = decoded.map_err(|_| Failure::new(Code::NameInvalid, "the path is not UTF-8"))?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        match path {
            "" => return Ok(Target::Base),
            "_catalog" => return Ok(Target::Catalog),
            _ => {}
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            [name @ .., "tags", "list"] => Ok(Target::Tags(repository(name)?)),
            [name @ .., "blobs", "uploads", ""] | [name @ .., "blobs", "uploads"] => {
                Ok(Target::Uploads(repository(name)?))
            }
            [name @ .., "blobs", "uploads", id] => Ok(Target::Upload(repository(name)?, (*id).to_owned())),
            [name @ .., "blobs", digest] => Ok(Target::Blob(repository(name)?, digest.parse()?)),
            [name @ .., "manifests", reference] => Ok(Target::Manifest(repository(name)?, reference.parse()?)),
            [name @ .., "referrers", digest] => Ok(Target::Referrers(repository(name)?, digest.parse()?)),
            _ => Err(Failure::new(Code::NameUnknown, "there is no such route below /v2/").with_status(404)),
        }
    }

    /// Its route, without what it names.
    pub(super) fn pattern(&self) -> &'static str {
        match self {
            Target::Base => "/v2/",
            Target::Catalog => "/v2/_catalog",
            Target::Uploads(_) => "/v2/{name}/blobs/uploads/",
            Target::Upload(..) => "/v2/{name}/blobs/uploads/{id}",
            Target::Blob(..) => "/v2/{name}/blobs/{digest}",
            Target::Manifest(..) => "/v2/{name}/manifests/{reference}",
            Target::Tags(_) => "/v2/{name}/tags/list",
            Target::Referrers(..) => "/v2/{name}/referrers/{digest}",
        }
    }

    /// The repository, if it is about one.
    pub(super) fn repository(&self) -> Option<&Repository> {
        match self {
            Target::Base | Target::Catalog => None,
            Target::Uploads(name)
            | Target::Upload(name, _)
            | Target::Blob(name, _)
            | Target::Manifest(name, _)
            | Target::Tags(name)
            | Target::Referrers(name, _) => Some(name),
        }
    }
}

fn repository(parts: &[&str]) -> Result<Repository, Failure> {
    Ok(parts.join("/").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_from_the_end() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let name = |text: &str| text.parse::<Repository>().expect("a name");
        let digest = || format!("sha256:{hex}").parse::<Digest>().expect("a digest");
        for (path, target) in [
            ("", Target::Base),
            ("/", Target::Base),
            ("/_catalog", Target::Catalog),
            ("/a/tags/list", Target::Tags(name("a"))),
            ("/a/tags/tags/list", Target::Tags(name("a/tags"))),
            ("/a/b/blobs/uploads/", Target::Uploads(name("a/b"))),
            ("/a/b/blobs/uploads", Target::Uploads(name("a/b"))),
            ("/a/blobs/uploads/x1", Target::Upload(name("a"), "x1".into())),
            (&format!("/a/blobs/sha256:{hex}"), Target::Blob(name("a"), digest())),
            (&format!("/a/blobs/sha256%3A{hex}"), Target::Blob(name("a"), digest())),
            (
                &format!("/a/manifests/manifests/sha256:{hex}"),
                Target::Manifest(name("a/manifests"), Reference::Digest(digest())),
            ),
            (&format!("/a/referrers/sha256:{hex}"), Target::Referrers(name("a"), digest())),
        ] {
            assert_eq!(Target::of(path).expect(path), target, "{path}");
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (path, code) in [
            ("/A/tags/list", Code::NameInvalid),
            ("/../tags/list", Code::NameInvalid),
            ("/%2e%2e/tags/list", Code::NameInvalid),
            ("/a%2f..%2fb/tags/list", Code::NameInvalid),
            ("/tags/list", Code::NameInvalid),
            ("/%ff/tags/list", Code::NameInvalid),
            ("/a/blobs/sha256:00", Code::DigestInvalid),
            ("/a/blobs/x", Code::DigestInvalid),
            ("/a/referrers/x", Code::DigestInvalid),
            ("/a", Code::NameUnknown),
            ("/a/blobs/uploads/x/y", Code::NameUnknown),
        ] {
            assert_eq!(Target::of(path).expect_err(path).code, code, "{path}");
        }
    }
}
