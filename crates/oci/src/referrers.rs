//! Referrers: what points to a manifest.
//!
//! Owns: the descriptor that stands for a referrer, the index that lists them, and the tags that clients list them by on a registry without the API.
//! Promises: the list is an OCI image index with `manifests` in it, empty or not, of at most the size asked for. Leaves out: which manifests refer to what
//! (the store).

use crate::digest::Digest;
use crate::manifest::{Manifest, OCI_INDEX};
use crate::name::Tag;
use serde_json::{Value, json};

/// The `OCI-Filters-Applied` of a list that was filtered.
pub const FILTERS_APPLIED: &str = "artifactType";

/// The manifest that a tag lists the referrers of: `sha256-<hex>` (distribution-spec, "Referrers Tag Schema").
///
/// A tag cannot hold the whole of a SHA-512 digest: its cut form names none.
pub fn fallback_subject(tag: &Tag) -> Option<Digest> {
    let hex = tag.as_str().strip_prefix("sha256-")?;
    format!("sha256:{hex}").parse().ok()
}

/// The descriptor of a referrer: `digest` and `size` are of the manifest's bytes. Its annotations are copied, its artifact type is [`Manifest::artifact_type`].
pub fn descriptor_of(manifest: &Manifest, digest: &Digest, size: u64) -> Value {
    let mut descriptor = json!({ "mediaType": manifest.media_type(), "digest": digest.as_str(), "size": size });
    if let Some(artifact_type) = manifest.artifact_type() {
        descriptor["artifactType"] = artifact_type.into();
    }
    if !manifest.annotations().is_empty() {
        descriptor["annotations"] = json!(manifest.annotations());
    }
    descriptor
}

/// The image index of these descriptors, those of one artifact type only when there is a filter.
pub fn index(list: impl IntoIterator<Item = Value>, filter: Option<&str>) -> Vec<u8> {
    index_page(list, filter, usize::MAX).0
}

/// The same of as many as go into `max` bytes, but of one at least; and the digest of the last one when more follow: for the `last` of a `Link`.
pub fn index_page(
    list: impl IntoIterator<Item = Value>,
    filter: Option<&str>,
    max: usize,
) -> (Vec<u8>, Option<String>) {
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":["#);
    let tail = "]}";
    let mut bytes = head.into_bytes();
    let mut last: Option<String> = None;
    let wanted = |descriptor: &Value| filter.is_none_or(|f| descriptor["artifactType"].as_str() == Some(f));
    for descriptor in list.into_iter().filter(wanted) {
        let text = descriptor.to_string();
        if last.is_some() {
            if bytes.len().saturating_add(1 + text.len() + tail.len()) > max {
                bytes.extend_from_slice(tail.as_bytes());
                return (bytes, last);
            }
            bytes.push(b',');
        }
        bytes.extend_from_slice(text.as_bytes());
        last = Some(descriptor["digest"].as_str().unwrap_or_default().to_owned());
    }
    bytes.extend_from_slice(tail.as_bytes());
    (bytes, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_fallback_tag_names_its_subject() {
        let digest = Digest::sha256_of(b"");
        let tag = |text: String| text.parse::<Tag>().unwrap();
        assert_eq!(fallback_subject(&tag(format!("sha256-{}", digest.hex()))), Some(digest.clone()));
        for other in [
            "latest".to_owned(),
            "sha256-".to_owned(),
            format!("sha256-{}.sig", digest.hex()),
            format!("sha256-{}", digest.hex().to_uppercase()),
            format!("sha512-{}", digest.hex()),
        ] {
            assert_eq!(fallback_subject(&tag(other.clone())), None, "{other}");
        }
    }

    #[test]
    fn a_referrer_is_described_by_its_manifest() {
        let config =
            json!({ "mediaType": "application/vnd.x.config+json", "digest": Digest::sha256_of(b"{}"), "size": 2 });
        let image = |more: Value| {
            let mut image =
                json!({ "schemaVersion": 2, "mediaType": crate::manifest::OCI_IMAGE, "config": config, "layers": [] });
            image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            image
        };
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
        for (manifest, artifact_type, annotations) in [
            (image(json!({})), json!("application/vnd.x.config+json"), json!(null)),
            (image(json!({ "artifactType": "a/b" })), json!("a/b"), json!(null)),
            (image(json!({ "artifactType": "" })), json!("application/vnd.x.config+json"), json!(null)),
            (
                image(json!({ "annotations": { "k": "v" } })),
                json!("application/vnd.x.config+json"),
                json!({ "k": "v" }),
            ),
            (index, json!(null), json!(null)),
        ] {
            let bytes = manifest.to_string();
            let manifest = Manifest::parse(bytes.as_bytes(), None).unwrap();
            let digest = Digest::sha256_of(bytes.as_bytes());
            let found = descriptor_of(&manifest, &digest, bytes.len() as u64);
            assert_eq!(found["mediaType"], manifest.media_type());
            assert_eq!((&found["digest"], &found["size"]), (&json!(digest), &json!(bytes.len())));
            assert_eq!((&found["artifactType"], &found["annotations"]), (&artifact_type, &annotations), "{bytes}");
        }
    }

    #[test]
    fn a_list_is_an_index_that_is_never_null() {
        let empty = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
        assert_eq!(value(&index([], None)), empty);
        let item = |i: u32| json!({ "digest": format!("d{i}"), "artifactType": if i.is_multiple_of(2) { "a/even" } else { "a/odd" } });
        assert_eq!(value(&index((0..4).map(item), None))["manifests"], json!([item(0), item(1), item(2), item(3)]));
        assert_eq!(value(&index((0..4).map(item), Some("a/odd")))["manifests"], json!([item(1), item(3)]));
        assert_eq!(value(&index((0..4).map(item), Some("a/none"))), empty);
    }

    #[test]
    fn a_page_is_of_the_size_asked_for_and_says_where_to_go_on() {
        let items: Vec<Value> = (0..10).map(|i| json!({ "digest": format!("d{i}"), "artifactType": "a/b" })).collect();
        let whole = index(items.clone(), None).len();
        for (max, count) in [(0, 1), (1, 1), (whole - 1, 9), (whole, 10), (usize::MAX, 10)] {
            let (bytes, next) = index_page(items.clone(), None, max);
            assert_eq!(value(&bytes)["manifests"], json!(items[..count]), "{max}");
            assert_eq!(next, (count < 10).then(|| format!("d{}", count - 1)), "{max}");
            assert!(bytes.len() <= max || count == 1);
        }
    }
}
