//! The manifest of a model that is pushed.
//!
//! Owns: the media types and annotations that we write. Promises: the same model gives the same bytes, so that a repeated push changes nothing;
//! what is written is recognised as the model that it is (`securereg_oci::model`). Leaves out: sending it.

use bytes::Bytes;
use securereg::{Artifact, FileEntry, Layout};
use securereg_oci::Digest;
use securereg_oci::manifest::OCI_IMAGE;
use securereg_oci::model::{FILEPATH, TITLE};
use serde_json::{Map, Value, json};

/// Whose media types a model is pushed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Types {
    /// `application/vnd.hanzo.model.v1`.
    #[default]
    Hanzo,
    /// CNCF's ModelPack.
    ModelPack,
}

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// What gguf-guard's manifest of tensors is sent as, in a referrer.
pub(crate) const GUARD_MANIFEST: &str = "application/vnd.securereg.gguf-guard.manifest.v1+json";
const GUARD_FINGERPRINT: &str = "org.securereg.gguf-guard.fingerprint";
/// The shape of a model, where its files do not say it.
pub(crate) const LAYOUT: &str = "org.securereg.layout";
/// No annotation of ours is longer: manifests are small.
const MAX_ANNOTATION: usize = 8 << 10;

/// A document and its digest.
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

impl Document {
    pub(crate) fn new(value: &Value) -> Document {
        Document::of(value.to_string().into())
    }

    pub(crate) fn of(bytes: Bytes) -> Document {
        let digest = Digest::sha256_of(&bytes);
        Document { bytes, digest }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest.as_str(), "size": self.bytes.len()})
    }
}

/// A model's config and manifest.
pub(crate) fn of_model(artifact: &Artifact, described: &Value, types: Types) -> (Document, Document) {
    let layers: Vec<Value> = artifact.files.iter().map(|file| layer(artifact, file, types)).collect();
    let mut annotations = Map::new();
    annotations.insert("org.securereg.sha256".into(), artifact.sha256.to_hex().into());
    if artifact.layout == Layout::Folder && artifact.files.len() == 1 {
        annotations.insert(LAYOUT.into(), artifact.layout.as_str().into());
    }
    if let Some(fingerprint) = described.get("gguf_guard_fingerprint").filter(|value| !value.is_null()) {
        let text = fingerprint.as_str().map_or_else(|| fingerprint.to_string(), str::to_owned);
        if text.len() <= MAX_ANNOTATION {
            annotations.insert(GUARD_FINGERPRINT.into(), text.into());
        }
    }
    let (config, config_type, artifact_type) = match types {
        Types::Hanzo => (json!({}), EMPTY, "application/vnd.hanzo.model.v1"),
        Types::ModelPack => (
            pack_config(artifact),
            "application/vnd.cncf.model.config.v1+json",
            "application/vnd.cncf.model.manifest.v1+json",
        ),
    };
    let config = Document::new(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "artifactType": artifact_type,
        "config": config.descriptor(config_type),
        "layers": layers,
        "annotations": annotations,
    });
    (config, Document::new(&manifest))
}

/// A referrer to `manifest` that holds `content`.
pub(crate) fn referrer(manifest: &Document, kind: &str, content: &Document) -> (Document, Document) {
    let config = Document::new(&json!({}));
    let value = json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "artifactType": kind,
        "config": config.descriptor(EMPTY),
        "layers": [content.descriptor(kind)],
        "subject": manifest.descriptor(OCI_IMAGE),
    });
    (config, Document::new(&value))
}

fn layer(artifact: &Artifact, file: &FileEntry, types: Types) -> Value {
    let path = file.path.as_str();
    let mut annotations = Map::new();
    annotations.insert(TITLE.into(), path.into());
    if types == Types::ModelPack {
        annotations.insert(FILEPATH[0].into(), path.into());
    }
    json!({
        "mediaType": media_type(artifact, path, types),
        "digest": format!("sha256:{}", file.sha256),
        "size": file.size_bytes,
        "annotations": annotations,
    })
}

fn media_type(artifact: &Artifact, path: &str, types: Types) -> String {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let weights = match extension {
        "gguf" => Some("gguf"),
        "safetensors" => Some("safetensors"),
        "onnx" => Some("onnx"),
        "bin" | "pt" | "pth" | "ckpt" => Some("pytorch"),
        // A model of one file is of the format that its bytes have, whatever it is called.
        _ if artifact.layout != Layout::Folder => Some(artifact.format.as_str()),
        _ => None,
    };
    let doc = ["readme", "license", "licence", "notice"].iter().any(|start| name.starts_with(start));
    match (types, weights) {
        (Types::Hanzo, Some(format)) => format!("application/vnd.hanzo.{format}"),
        (Types::Hanzo, None) if extension == "json" => "application/json".into(),
        (Types::Hanzo, None) => "application/octet-stream".into(),
        (Types::ModelPack, Some(_)) => "application/vnd.cncf.model.weight.v1.raw".into(),
        (Types::ModelPack, None) if doc || extension == "md" => "application/vnd.cncf.model.doc.v1.raw".into(),
        (Types::ModelPack, None) if extension == "py" => "application/vnd.cncf.model.code.v1.raw".into(),
        (Types::ModelPack, None) => "application/vnd.cncf.model.weight.config.v1.raw".into(),
    }
}

/// modelpack/model-spec, "config.md".
fn pack_config(artifact: &Artifact) -> Value {
    let diffs: Vec<String> = artifact.files.iter().map(|file| format!("sha256:{}", file.sha256)).collect();
    json!({
        "descriptor": {"name": artifact.name.repo(), "version": artifact.name.tag().unwrap_or_default()},
        "config": {"format": artifact.format.as_str()},
        "modelfs": {"type": "layers", "diffIds": diffs},
    })
}
