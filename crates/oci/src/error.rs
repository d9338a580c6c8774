//! What a refusal says: a code of the spec's table, an HTTP status, a sentence.
//!
//! Owns: [`Code`] and [`Failure`]. Promises: every code has one default status; a body is always the JSON of the spec ("Error Codes"), so that
//! clients show its message; a message is bounded and has no control characters, whatever a client sent. Leaves out: headers
//! (`WWW-Authenticate`, `Range`, `Location`), which need the request.

use serde_json::{Value, json};
use std::fmt;

/// No message is longer, in bytes.
pub const MAX_MESSAGE: usize = 1024;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// The code of an error: those of the spec's table, and the few that registries share beside it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// As it stands in a body.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }

            /// The HTTP status that goes with it unless the failure says otherwise.
            pub const fn status(self) -> u16 {
                match self {
                    $(Code::$name => $status,)*
                }
            }
        }
    };
}

codes! {
    /// The blob is not in this repository.
    BlobUnknown = "BLOB_UNKNOWN", 404;
    /// The upload cannot go on as asked.
    BlobUploadInvalid = "BLOB_UPLOAD_INVALID", 400;
    /// There is no such upload.
    BlobUploadUnknown = "BLOB_UPLOAD_UNKNOWN", 404;
    /// A digest is malformed, of an algorithm that is not known, or not the digest of what was sent.
    DigestInvalid = "DIGEST_INVALID", 400;
    /// A manifest names a blob or manifest that is not in its repository.
    ManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN", 404;
    /// What was put is not a manifest.
    ManifestInvalid = "MANIFEST_INVALID", 400;
    /// The manifest is not in this repository.
    ManifestUnknown = "MANIFEST_UNKNOWN", 404;
    /// Over [`crate::manifest::MAX_MANIFEST`].
    ManifestTooLarge = "MANIFEST_TOO_LARGE", 413;
    /// The repository's name is malformed.
    NameInvalid = "NAME_INVALID", 400;
    /// There is no such repository.
    NameUnknown = "NAME_UNKNOWN", 404;
    /// `n` is no number.
    PaginationNumberInvalid = "PAGINATION_NUMBER_INVALID", 400;
    /// A range that is not there, or a chunk that is not the next.
    RangeInvalid = "RANGE_INVALID", 416;
    /// A length that does not agree with another.
    SizeInvalid = "SIZE_INVALID", 400;
    /// The tag is malformed, or may not move ([`Failure::tag_immutable`], 409).
    TagInvalid = "TAG_INVALID", 400;
    /// Who asks is not known.
    Unauthorized = "UNAUTHORIZED", 401;
    /// Who asks may not.
    Denied = "DENIED", 403;
    /// The operation is not there, or not for this.
    Unsupported = "UNSUPPORTED", 405;
    /// Too much at once.
    TooManyRequests = "TOOMANYREQUESTS", 429;
    /// For the moment, the registry cannot.
    Unavailable = "UNAVAILABLE", 503;
    /// The registry failed.
    Unknown = "UNKNOWN", 500;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What is wrong, for programs.
    pub code: Code,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and the remedy, for people.
    pub message: String,
    /// More for programs.
    pub detail: Option<Value>,
}

impl Failure {
    /// A failure with the code's own status.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code, status: code.status(), message: told(message.into()), detail: None }
    }

    /// The same with another HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Failure {
        self.status = status;
        self
    }

    /// The same with more for programs.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Failure {
        self.detail = Some(detail);
        self
    }

    /// `digest` is not a blob of `repository`.
    pub fn blob_unknown(repository: &crate::Repository, digest: &crate::Digest) -> Failure {
        Failure::new(Code::BlobUnknown, format!("repository {repository} has no blob {digest}"))
            .with_detail(json!({ "digest": digest.as_str() }))
    }

    /// `reference` is not a manifest of `repository`.
    pub fn manifest_unknown(repository: &crate::Repository, reference: &crate::Reference) -> Failure {
        Failure::new(Code::ManifestUnknown, format!("repository {repository} has no manifest {reference}"))
            .with_detail(json!({ "reference": reference.to_string() }))
    }

    /// A manifest names `digest`, which `repository` does not have.
    pub fn manifest_blob_unknown(repository: &crate::Repository, digest: &crate::Digest) -> Failure {
        Failure::new(
            Code::ManifestBlobUnknown,
            format!("the manifest names {digest}, which repository {repository} does not have: push it first"),
        )
        .with_detail(json!({ "digest": digest.as_str() }))
    }

    /// What was put is not a manifest, because of `why`.
    pub fn manifest_invalid(why: impl fmt::Display) -> Failure {
        Failure::new(Code::ManifestInvalid, format!("the manifest is invalid: {why}"))
    }

    /// There is no such repository, or not for who asks.
    pub fn name_unknown(repository: &crate::Repository) -> Failure {
        Failure::new(Code::NameUnknown, format!("there is no repository {repository}"))
    }

    /// There is no upload `id` in `repository`.
    pub fn upload_unknown(repository: &crate::Repository, id: &str) -> Failure {
        let id = shorten(id);
        Failure::new(Code::BlobUploadUnknown, format!("repository {repository} has no upload {id:?}: begin a new one"))
    }

    /// What arrived has the digest `found`, not the `claimed` one.
    pub fn digest_mismatch(claimed: &crate::Digest, found: &crate::Digest) -> Failure {
        Failure::new(Code::DigestInvalid, format!("what was sent has the digest {found}, not {claimed}: send it again"))
            .with_detail(json!({ "claimed": claimed.as_str(), "found": found.as_str() }))
    }

    /// A push would move a tag that may not move: 409.
    pub fn tag_immutable(repository: &crate::Repository, tag: &crate::Tag) -> Failure {
        Failure::new(
            Code::TagInvalid,
            format!("tag {tag} of {repository} is immutable and names another manifest: push under a new tag"),
        )
        .with_status(409)
        .with_detail(json!({ "tag": tag.as_str() }))
    }

    /// The JSON of the reply: `{"errors":[{"code":…,"message":…,"detail":…}]}`.
    pub fn body(&self) -> String {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message });
        if let (Some(detail), Some(fields)) = (&self.detail, error.as_object_mut()) {
            fields.insert("detail".to_owned(), detail.clone());
        }
        json!({ "errors": [error] }).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A message as it may be told: without control characters, cut at [`MAX_MESSAGE`].
fn told(message: String) -> String {
    let mut message =
        if message.chars().any(char::is_control) { message.replace(char::is_control, " ") } else { message };
    if message.len() > MAX_MESSAGE {
        let ends = message.char_indices().map(|(at, _)| at);
        let end = ends.take_while(|at| *at <= MAX_MESSAGE - '…'.len_utf8()).last().unwrap_or_default();
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The first characters of what a client sent, for a message.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_one_text_and_an_error_status() {
        let mut texts: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            // distribution-spec, "Error Codes": only uppercase letters and underscores.
            assert!(code.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{code}");
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn a_body_is_the_specs_json() {
        let plain = Failure::new(Code::Denied, "no");
        assert_eq!(plain.body(), r#"{"errors":[{"code":"DENIED","message":"no"}]}"#);
        assert_eq!(plain.status, 403);
        let detailed = plain.with_status(404).with_detail(json!({ "a": 1 }));
        assert_eq!(detailed.body(), r#"{"errors":[{"code":"DENIED","detail":{"a":1},"message":"no"}]}"#);
        assert_eq!(detailed.status, 404);
    }

    #[test]
    fn a_message_is_bounded_and_plain_whatever_was_sent() {
        let failure = Failure::new(Code::Unknown, format!("a\r\nb\u{1b}[2J{}", "é".repeat(2000)));
        assert!(failure.message.len() <= MAX_MESSAGE, "{}", failure.message.len());
        assert!(failure.message.starts_with("a  b [2J"));
        assert!(!failure.message.chars().any(char::is_control));
        assert_eq!(shorten(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
        assert_eq!(shorten(&"é".repeat(80)), "é".repeat(80));
    }
}
