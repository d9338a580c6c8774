//! Manifests and tags as they are stored.
//!
//! Owns: the form of a manifest's document: a line of JSON that says its media type and what became of the model it is, if it is one,
//! then its bytes as they were pushed. Promises: the bytes are never changed. Leaves out: where documents lie (the back end).

use super::failure::{Code, Failure};
use axum::body::Bytes;
use serde::{Deserialize, Serialize};

/// What became of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum State {
    /// Not judged yet, or waiting for a person.
    Pending,
    /// Promoted under its tag.
    Admitted,
    /// Refused, and why.
    Refused { reason: String, at: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) media_type: String,
    /// Of a model only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<State>,
}

/// A stored manifest.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) head: Head,
    pub(super) bytes: Bytes,
    /// The whole document.
    pub(super) document: Bytes,
}

impl Stored {
    pub(super) fn parse(document: Bytes) -> Result<Stored, Failure> {
        let end = document.iter().position(|b| *b == b'\n').ok_or_else(damaged)?;
        let head = serde_json::from_slice(&document[..end]).map_err(|_| damaged())?;
        let bytes = document.slice(end + 1..);
        Ok(Stored { head, bytes, document })
    }

    pub(super) fn write(head: &Head, bytes: &[u8]) -> Bytes {
        let mut document = serde_json::to_vec(head).unwrap_or_default();
        document.push(b'\n');
        document.extend_from_slice(bytes);
        document.into()
    }
}

fn damaged() -> Failure {
    Failure::new(Code::ManifestUnknown, "the stored manifest is damaged: push it again").with_status(500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_gives_back_its_bytes() {
        for model in [
            None,
            Some(State::Pending),
            Some(State::Admitted),
            Some(State::Refused { reason: "a\nb \"c\"".into(), at: "now".into() }),
        ] {
            for bytes in [&b""[..], b"{}", b"\n\n{\n}"] {
                let head = Head { media_type: "application/x".into(), model: model.clone() };
                let stored = Stored::parse(Stored::write(&head, bytes)).expect("whole");
                assert_eq!((&stored.bytes[..], &stored.head.model), (bytes, &model));
                assert_eq!(stored.head.media_type, "application/x");
            }
        }
        for bad in ["", "{}", "x\n", "{\"media_type\":1}\n"] {
            assert_eq!(Stored::parse(bad.as_bytes().to_vec().into()).expect_err(bad).status, 500);
        }
    }
}
