//! Tests of manifests.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256_of(content), "size": content.len() })
}

/// `value` with the fields of `more`; null takes a field away.
fn with(mut value: Value, more: Value) -> Value {
    let fields = value.as_object_mut().unwrap();
    for (key, field) in more.as_object().unwrap() {
        match field {
            Value::Null => fields.remove(key),
            field => fields.insert(key.clone(), field.clone()),
        };
    }
    value
}

fn image() -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": descriptor(CONFIG, b"{}"), "layers": [descriptor(LAYER, b"layer")],
    })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_IMAGE, b"child")] })
}

fn parse(value: &Value, content_type: Option<&str>) -> Result<Manifest, Failure> {
    Manifest::parse(value.to_string().as_bytes(), content_type)
}

/// It is refused as invalid, for this reason.
fn refused(value: &Value, content_type: Option<&str>, why: &str) {
    let failure = parse(value, content_type).expect_err(&value.to_string());
    assert_eq!((failure.code, failure.status), (Code::ManifestInvalid, 400), "{value}");
    assert!(failure.message.contains(why), "{value}: {}", failure.message);
}

#[test]
fn each_kind_has_its_parts() {
    let artifact = json!({ "mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": [descriptor("a/c", b"blob")] });
    let opaque = json!({
        "mediaType": "application/vnd.example.v1+json", "config": descriptor("a/c", b"c"), "layers": [descriptor("a/c", b"l")],
        "blobs": [descriptor("a/c", b"b")], "manifests": [descriptor("a/m", b"m")],
    });
    for (value, kind, blobs, children, artifact_type) in [
        (image(), Kind::Image, 2, 0, Some(CONFIG)),
        (with(image(), json!({ "artifactType": "a/b" })), Kind::Image, 2, 0, Some("a/b")),
        (with(image(), json!({ "mediaType": DOCKER_IMAGE })), Kind::DockerImage, 2, 0, Some(CONFIG)),
        (with(image(), json!({ "layers": null })), Kind::Image, 1, 0, Some(CONFIG)),
        (index(), Kind::Index, 0, 1, None),
        (with(index(), json!({ "artifactType": "a/b" })), Kind::Index, 0, 1, Some("a/b")),
        (with(index(), json!({ "mediaType": DOCKER_LIST })), Kind::DockerList, 0, 1, None),
        (with(index(), json!({ "manifests": null })), Kind::Index, 0, 0, None),
        (artifact.clone(), Kind::Artifact, 1, 0, Some("a/b")),
        (with(artifact, json!({ "mediaType": ORAS_ARTIFACT })), Kind::Artifact, 1, 0, Some("a/b")),
        (opaque, Kind::Opaque, 3, 1, None),
    ] {
        let media_type = value["mediaType"].as_str().unwrap().to_owned();
        for content_type in [None, Some(""), Some(media_type.as_str()), Some(&format!(" {media_type} ; charset=utf-8"))]
        {
            let manifest = parse(&value, content_type).unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!((manifest.kind(), manifest.media_type()), (kind, media_type.as_str()));
            assert_eq!((manifest.blobs().count(), manifest.manifests().len()), (blobs, children), "{value}");
            assert_eq!(manifest.artifact_type(), artifact_type);
            assert_eq!(manifest.bytes(), value.to_string().as_bytes());
        }
    }
}

#[test]
fn a_manifest_without_a_type_is_what_it_was_sent_as_or_looks_like() {
    let untyped = |value| with(value, json!({ "mediaType": null }));
    for (value, content_type, kind) in [
        (untyped(image()), None, Kind::Image),
        (untyped(image()), Some(OCI_IMAGE), Kind::Image),
        (untyped(image()), Some(DOCKER_IMAGE), Kind::DockerImage),
        (untyped(index()), None, Kind::Index),
        (untyped(index()), Some(DOCKER_LIST), Kind::DockerList),
        (json!({ "x": 1 }), Some("application/vnd.example.thing+json"), Kind::Opaque),
        (json!({ "schemaVersion": 2 }), Some("application/vnd.example.thing+json"), Kind::Opaque),
        (with(image(), json!({ "mediaType": "" })), None, Kind::Image),
        (with(image(), json!({ "mediaType": OCI_IMAGE.to_uppercase() })), Some(OCI_IMAGE), Kind::Image),
    ] {
        assert_eq!(parse(&value, content_type).map(|m| m.kind()), Ok(kind), "{value}");
    }
    refused(&json!({ "schemaVersion": 2 }), None, "no mediaType");
    refused(&json!({ "schemaVersion": 2, "layers": [] }), None, "no mediaType");
}

#[test]
fn two_types_are_refused() {
    refused(&image(), Some(DOCKER_IMAGE), "says itself");
    refused(&image(), Some(OCI_INDEX), "says itself");
    refused(&image(), Some("application/json"), "says itself");
    refused(&index(), Some(OCI_IMAGE), "says itself");
    let child = json!([descriptor(OCI_IMAGE, b"child")]);
    refused(&with(image(), json!({ "manifests": child })), None, "\"manifests\"");
    refused(&with(image(), json!({ "manifests": [] })), None, "\"manifests\"");
    refused(&with(image(), json!({ "blobs": child })), None, "\"blobs\"");
    refused(&with(index(), json!({ "layers": child })), None, "\"layers\"");
    refused(&with(index(), json!({ "layers": [] })), None, "\"layers\"");
    refused(&with(index(), json!({ "config": child[0] })), None, "\"config\"");
    refused(&json!({ "mediaType": OCI_ARTIFACT, "layers": child }), None, "\"layers\"");
    let untyped = with(image(), json!({ "mediaType": null, "manifests": child }));
    refused(&untyped, None, "which its type does not have");
}

#[test]
fn what_is_no_manifest_is_refused() {
    for media_type in [
        "application/json",
        "application/octet-stream",
        "text/plain",
        "application/x-www-form-urlencoded",
        CONFIG,
        LAYER,
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.manifest.v2+json",
        "application/vnd.example.binary",
    ] {
        refused(&json!({ "schemaVersion": 2 }), Some(media_type), "no type of manifest");
        refused(&with(image(), json!({ "mediaType": media_type })), None, "no type of manifest");
    }
    for bad in ["x", "a/", "/b", "a/b/c", "a b/c", "é/b", &format!("a/{}", "b".repeat(128))] {
        refused(&image(), Some(bad), "no media type");
        refused(&with(image(), json!({ "mediaType": bad })), None, "no media type");
    }
    for bytes in
        [&b""[..], b"x", b"[]", b"null", b"\"\"", b"{}", b"{", b"\xff", b"{\"schemaVersion\":2}", b"PK\x03\x04"]
    {
        assert_eq!(Manifest::parse(bytes, None).unwrap_err().code, Code::ManifestInvalid, "{bytes:?}");
    }
    for version in [json!(null), json!(0), json!(3), json!("2"), json!(2.0), json!(-2)] {
        for value in [image(), index()] {
            assert!(parse(&with(value, json!({ "schemaVersion": version })), None).is_err(), "{version}");
        }
    }
    refused(&json!({ "mediaType": "application/vnd.example+json", "schemaVersion": 3 }), None, "schemaVersion");
    refused(&with(image(), json!({ "config": null })), None, "no config");
}

#[test]
fn schema_1_is_refused_by_name() {
    let schema1 =
        json!({ "schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [], "signatures": [] });
    for content_type in DOCKER_SCHEMA1.map(Some).into_iter().chain([None, Some(OCI_IMAGE)]) {
        refused(&schema1, content_type, "schema 1 is not supported");
    }
    refused(&json!({ "mediaType": DOCKER_SCHEMA1[1] }), None, "schema 1 is not supported");
}

#[test]
fn what_two_clients_would_read_differently_is_refused() {
    let text = image().to_string();
    let doubled = text.replacen('{', r#"{"layers":[],"#, 1);
    let other_case = text.replacen('{', r#"{"Layers":[],"#, 1);
    let in_descriptor = text.replacen(r#""digest":"#, r#""Digest":"","digest":"#, 1);
    let nested = text.replacen('{', r#"{"x":{"a":[{"b":1,"b":2}]},"#, 1);
    for (bad, why) in
        [(doubled, "twice"), (other_case, "in case only"), (in_descriptor, "in case only"), (nested, "twice")]
    {
        let failure = Manifest::parse(bad.as_bytes(), None).unwrap_err();
        assert!(failure.code == Code::ManifestInvalid && failure.message.contains(why), "{bad}: {failure}");
    }
}

#[test]
fn a_manifest_is_at_most_4_mib() {
    let bytes = |size: usize| {
        let mut text = image().to_string();
        text.push_str(&" ".repeat(size - text.len()));
        text.into_bytes()
    };
    assert_eq!(Manifest::parse(&bytes(MAX_MANIFEST), None).unwrap().bytes().len(), MAX_MANIFEST);
    let failure = Manifest::parse(&bytes(MAX_MANIFEST + 1), None).unwrap_err();
    assert_eq!((failure.code, failure.status), (Code::ManifestTooLarge, 413));
}

#[test]
fn descriptors_are_checked_wherever_they_stand() {
    let good = descriptor("a/b", b"content");
    for (more, why) in [
        (json!({ "digest": null }), "digest"),
        (json!({ "digest": "sha256:abc" }), "is not a digest"),
        (json!({ "digest": "md5:0123" }), "not known"),
        (json!({ "digest": 1 }), "invalid type"),
        (json!({ "size": null }), "size"),
        (json!({ "size": -1 }), "invalid value"),
        (json!({ "size": 1.0 }), "invalid type"),
        (json!({ "size": "1" }), "invalid type"),
        (json!({ "size": 1u64 << 63 }), "below 2^63"),
        (json!({ "mediaType": null }), "mediaType"),
        (json!({ "mediaType": "" }), "no media type"),
        (json!({ "mediaType": "a/b\n" }), "no media type"),
        (json!({ "mediaType": format!("a/b;{}", "x".repeat(512)) }), "no media type"),
        (json!({ "artifactType": "x" }), "no media type"),
        (json!({ "urls": vec![""; MAX_URLS + 1] }), "at most 256 urls"),
        (json!({ "urls": "x" }), "list of URLs"),
        (json!({ "annotations": { "a": 1 } }), "invalid type"),
        (json!({ "platform": 1 }), "invalid type"),
        (json!({ "data": "!" }), "not base64"),
        (json!({ "data": "b3RoZXJzIQ==" }), "the data in"),
        (json!({ "data": "Y29udGVudHM=" }), "the data in"),
    ] {
        let bad = with(good.clone(), more);
        refused(&with(image(), json!({ "config": bad })), None, why);
        refused(&with(image(), json!({ "layers": [good, bad] })), None, why);
        refused(&with(image(), json!({ "subject": bad })), None, why);
        refused(&with(index(), json!({ "manifests": [good, bad] })), None, why);
        refused(&with(index(), json!({ "subject": bad })), None, why);
        refused(&json!({ "mediaType": OCI_ARTIFACT, "blobs": [bad] }), None, why);
    }
}

#[test]
fn a_descriptor_has_what_the_spec_gives_it() {
    let full = with(
        descriptor("text/html; charset=utf-8", b"content"),
        json!({
            "urls": vec!["https://example.invalid"; MAX_URLS], "annotations": { "a": "b", "A": "c" }, "artifactType": "a/t",
            "data": "Y29udGVudA==", "name": "n", "x": [{}],
            "platform": { "architecture": "arm64", "os": "linux", "variant": "v8", "os.version": "1", "os.features": ["x"] },
        }),
    );
    let manifest = parse(&with(image(), json!({ "layers": [full] })), None).unwrap();
    let [layer] = manifest.layers() else { panic!("{manifest:?}") };
    assert_eq!((layer.media_type.as_str(), layer.size), ("text/html; charset=utf-8", 7));
    assert_eq!(layer.digest, Digest::sha256_of(b"content"));
    assert_eq!((layer.urls.len(), layer.annotations.len()), (MAX_URLS, 2));
    assert_eq!(layer.artifact_type.as_deref(), Some("a/t"));
    assert_eq!(layer.data.as_deref(), Some(&b"content"[..]));
    let platform = layer.platform.as_ref().unwrap();
    assert_eq!((platform.architecture.as_str(), platform.os.as_str()), ("arm64", "linux"));
    assert_eq!((platform.variant.as_deref(), platform.os_version.as_deref()), (Some("v8"), Some("1")));

    // What Go writes for what is not there.
    let text = r#"{"mediaType":"a/b","digest":"D","size":0,"urls":null,"annotations":null,"artifactType":"","platform":null,"data":null}"#;
    let digest = Digest::of(crate::Algorithm::Sha512, b"");
    let nulls: Value = serde_json::from_str(&text.replace('D', digest.as_str())).unwrap();
    let mut value = image();
    value["layers"] = json!([nulls]);
    value["annotations"] = Value::Null;
    value["subject"] = Value::Null;
    value["manifests"] = Value::Null;
    let manifest = parse(&value, None).unwrap();
    assert_eq!(manifest.layers()[0].digest, digest);
    assert_eq!((manifest.layers()[0].size, manifest.subject(), manifest.annotations().len()), (0, None, 0));
}

#[test]
fn only_what_is_had_elsewhere_may_be_missing() {
    let inline = with(descriptor(LAYER, b"content"), json!({ "data": "Y29udGVudA==" }));
    let urls = |urls: Value| with(descriptor(LAYER, b"u"), json!({ "urls": urls }));
    for (layer, required) in [
        (descriptor(LAYER, b"a"), true),
        (inline, true),
        (urls(json!([])), true),
        (urls(json!(["https://example.invalid"])), false),
        (descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", b"n"), false),
        (descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"n"), false),
        (descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"n"), false),
        (descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", b"n"), true),
    ] {
        let manifest = parse(&with(image(), json!({ "layers": [layer] })), None).unwrap();
        assert_eq!(manifest.blobs().count(), 2);
        let wanted: Vec<&Digest> = manifest.blobs_required().map(|blob| &blob.digest).collect();
        assert_eq!(wanted[0], &Digest::sha256_of(b"{}"));
        assert_eq!(wanted.len(), if required { 2 } else { 1 }, "{layer}");
    }
    // A subject is nothing that must be there, an index needs no blob.
    let subject = json!({ "subject": descriptor(OCI_IMAGE, b"s") });
    assert_eq!(parse(&with(image(), subject.clone()), None).unwrap().blobs_required().count(), 2);
    let index = parse(&with(index(), subject), None).unwrap();
    assert_eq!(index.blobs_required().count(), 0);
    assert_eq!(index.subject().unwrap().digest, Digest::sha256_of(b"s"));
}

#[test]
fn base64_is_the_standard_one() {
    for (text, bytes) in [
        ("", Some(&b""[..])),
        ("Zg==", Some(b"f")),
        ("Zm8=", Some(b"fo")),
        ("Zm9v", Some(b"foo")),
        ("Zm9vYg==", Some(b"foob")),
        ("+/+/", Some(b"\xfb\xff\xbf")),
        ("Zg", None),
        ("Zg=", None),
        ("Zh==", None),
        ("Zm9=", None),
        ("Z===", None),
        ("====", None),
        ("=", None),
        ("Zg==Zg==", None),
        ("-_-_", None),
        ("Zm9v\n", None),
        ("Zm 9", None),
    ] {
        assert_eq!(decoded(text.as_bytes()).as_deref(), bytes, "{text:?}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(descriptor("a/b", b"x")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = "mediaType|digest|size|urls|data|platform|annotations|[a-zA-Z]{1,4}";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_manifest_or_an_error(bytes: Vec<u8>, content_type in prop::option::of("\\PC*")) {
        let _ = Manifest::parse(&bytes, content_type.as_deref());
    }

    #[test]
    fn any_value_in_any_field_is_taken_or_refused(
        base in prop_oneof![Just(image()), Just(index())],
        field in "schemaVersion|mediaType|artifactType|config|layers|manifests|blobs|subject|annotations|[a-z]{1,3}",
        value in json_value(),
    ) {
        let bytes = with(base, json!({ field: value })).to_string();
        if let Ok(manifest) = Manifest::parse(bytes.as_bytes(), None) {
            prop_assert_eq!(manifest.bytes(), bytes.as_bytes());
            prop_assert_eq!(Manifest::parse(bytes.as_bytes(), Some(manifest.media_type())), Ok(manifest.clone()));
            crate::ModelManifest::recognise(&manifest);
        }
    }

    #[test]
    fn data_comes_back_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = Vec::new();
        for group in bytes.chunks(3) {
            let padded = [0, group[0], *group.get(1).unwrap_or(&0), *group.get(2).unwrap_or(&0)];
            let bits = u32::from_be_bytes(padded);
            text.extend((0..4).map(|i| {
                if i <= group.len() { ALPHABET[(bits >> (18 - 6 * i) & 63) as usize] } else { b'=' }
            }));
        }
        prop_assert_eq!(decoded(&text), Some(bytes));
    }
}
