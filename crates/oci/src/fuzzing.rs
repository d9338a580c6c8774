//! What fuzzing runs: every parser, by its target's name.
//!
//! Owns: what must hold of each run, whatever the bytes. Promises: compiled only under `--cfg fuzzing`; a target is a `[[bin]]` in
//! `fuzz/Cargo.toml` whose name begins with `oci-`. Leaves out: memory, and an input that never ends, which libFuzzer bounds.

use crate::manifest::{Kind, Manifest};
use crate::model::ModelManifest;
use crate::{Digest, Page, Reference, Repository, Tag, TagRules, Upload, range, referrers, tags, upload};

/// Runs `target` on `bytes`.
///
/// # Panics
/// When something does not hold that must hold of any bytes; that is the finding.
pub fn run(target: &str, bytes: &[u8]) {
    match target {
        "oci-manifest" => manifest(bytes),
        "oci-name" => name(&String::from_utf8_lossy(bytes)),
        "oci-range" => ranges(bytes),
        _ => panic!("there is no target {target}"),
    }
}

/// The first line, when it is short, is the `Content-Type`.
fn manifest(bytes: &[u8]) {
    let line = bytes.iter().take(100).position(|b| *b == b'\n');
    let (content_type, body) = match line {
        Some(end) => (std::str::from_utf8(&bytes[..end]).ok(), &bytes[end + 1..]),
        None => (None, bytes),
    };
    let manifest = match Manifest::parse(body, content_type) {
        Ok(manifest) => manifest,
        Err(failure) => {
            assert!(failure.status == 400 && !failure.message.chars().any(char::is_control), "{failure:?}");
            assert!(serde_json::from_str::<serde_json::Value>(&failure.body()).is_ok());
            return;
        }
    };
    assert_eq!(manifest.bytes(), body);
    assert_eq!(
        Manifest::parse(body, Some(manifest.media_type())).as_ref(),
        Ok(&manifest),
        "of its own type it is another"
    );
    assert!(manifest.blobs_required().count() <= manifest.blobs().count());
    if manifest.kind() != Kind::Opaque {
        assert!(manifest.manifests().is_empty() || manifest.blobs().next().is_none(), "it is two things");
    }
    let descriptor = referrers::descriptor_of(&manifest, &Digest::sha256_of(body), body.len() as u64);
    let index = referrers::index([descriptor], None);
    let index = Manifest::parse(&index, None).expect("a list of referrers is an index");
    assert_eq!(index.manifests()[0].artifact_type.as_deref(), manifest.artifact_type());
    if let Some(model) = ModelManifest::recognise(&manifest) {
        assert_eq!(model.files.len(), manifest.layers().len());
        assert!(model.files.iter().all(|file| !file.path.is_empty()));
    }
}

fn name(text: &str) {
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.as_str(), text);
        assert!(repository.components().all(|c| !c.is_empty() && !c.starts_with('.')));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.as_str(), text);
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert!(!tags::is_clients_own(&tag) || !TagRules::new(["*"], [""; 0]).expect("a glob").is_immutable(&tag));
        assert!(referrers::fallback_subject(&tag).is_none() || tags::is_clients_own(&tag));
    }
    if let Some((pattern, tag)) = text.split_once(' ')
        && let (Ok(rules), Ok(tag)) = (TagRules::new([pattern], [""; 0]), tag.parse())
    {
        rules.is_immutable(&tag);
    }
    let _ = upload::valid_id(text);
}

/// The first 8 bytes are the size, the rest is a header or a query.
fn ranges(bytes: &[u8]) {
    let Some((size, text)) = bytes.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(Some((start, end))) = range::blob_range(Some(text), size) {
        assert!(start <= end && end < size);
    }
    if let Ok((start, end)) = range::content_range(text) {
        let mut upload = Upload::resumed(size);
        match upload.accept_patch(Some((start, end)), None) {
            Ok(accept) => {
                assert_eq!(start, size);
                upload.received(accept, end - start + 1).expect("as announced");
                assert_eq!(upload.size(), end + 1);
            }
            Err(_) => assert!(start != size || end == u64::MAX),
        }
    }
    if let Ok(page) = Page::parse(text) {
        page.cut(["a", "b"], 1);
    }
}
