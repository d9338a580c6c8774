//! Manifests and descriptors: what is pushed under a tag.
//!
//! Owns: the kinds of manifest, their media types, and the one parser. Promises: a [`Manifest`] that exists is at most [`MAX_MANIFEST`] bytes of JSON that
//! all clients read alike (`strict`), of the type that its sender and its `mediaType` say, without fields of another kind (an index that also
//! has layers is two things to two clients); every descriptor in it has a known digest, a size below 2^63 and, when `data` stands in it, the
//! content it claims. The bytes are kept as they came. Leaves out: whether what it names is there (the store), and what it is for (`model`).
//!
//! ```text
//! image      config, layers      application/vnd.oci.image.manifest.v1+json, …docker.distribution.manifest.v2+json
//! index      manifests           application/vnd.oci.image.index.v1+json, …docker.distribution.manifest.list.v2+json
//! artifact   blobs               application/vnd.oci.artifact.manifest.v1+json (withdrawn from image-spec 1.1; still met)
//! opaque     any of them         application/vnd.…+json of another vendor
//! each: subject, artifactType, annotations
//! ```

use crate::digest::Digest;
use crate::error::{Code, Failure, shorten};
use crate::strict;
use serde::Deserialize;
use serde::de::{Error as _, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// No manifest is longer, in bytes: what the spec asks a registry to take, at least ("Pushing Manifests").
pub const MAX_MANIFEST: usize = 4 << 20;
/// No descriptor has more URLs.
pub const MAX_URLS: usize = 256;

/// The OCI image manifest.
pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The artifact manifest of image-spec 1.1's release candidates.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Its forerunner.
pub const ORAS_ARTIFACT: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";
/// Docker's image manifest, version 2, schema 2.
pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_SCHEMA1: [&str; 3] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+jws",
];

/// What a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An OCI image manifest: images, and artifacts in its form.
    Image,
    /// An OCI image index.
    Index,
    /// Docker's image manifest, schema 2.
    DockerImage,
    /// Docker's manifest list.
    DockerList,
    /// An artifact manifest, from before image-spec 1.1.
    Artifact,
    /// Of another vendor's type: stored and served as it is.
    Opaque,
}

impl Kind {
    fn of(media_type: &str) -> Option<Kind> {
        Some(match media_type {
            OCI_IMAGE => Kind::Image,
            OCI_INDEX => Kind::Index,
            DOCKER_IMAGE => Kind::DockerImage,
            DOCKER_LIST => Kind::DockerList,
            OCI_ARTIFACT | ORAS_ARTIFACT => Kind::Artifact,
            _ => return None,
        })
    }

    /// Whether it has a config and layers.
    pub fn is_image(self) -> bool {
        matches!(self, Kind::Image | Kind::DockerImage)
    }

    /// Whether it names other manifests.
    pub fn is_index(self) -> bool {
        matches!(self, Kind::Index | Kind::DockerList)
    }

    /// Whether `field`, one of those that name content, has a place in it.
    fn has(self, field: &str) -> bool {
        match self {
            Kind::Image | Kind::DockerImage => matches!(field, "config" | "layers"),
            Kind::Index | Kind::DockerList => field == "manifests",
            Kind::Artifact => field == "blobs",
            Kind::Opaque => true,
        }
    }
}

/// What names content: image-spec, "OCI Content Descriptors".
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What the content is.
    #[serde(deserialize_with = "media_type")]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes, below 2^63.
    #[serde(deserialize_with = "size")]
    pub size: u64,
    /// Where else it may be had; none that this registry asks.
    #[serde(default, deserialize_with = "urls")]
    pub urls: Vec<String>,
    /// Its annotations.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// Of a manifest, what kind of artifact it is.
    #[serde(default, deserialize_with = "type_or_none")]
    pub artifact_type: Option<String>,
    /// In an index, what it runs on.
    pub platform: Option<Platform>,
    /// The content itself; it has the digest and the size above.
    #[serde(default, deserialize_with = "base64")]
    pub data: Option<Vec<u8>>,
    /// Ollama's name of a tensor or a file; in no spec.
    pub name: Option<String>,
}

/// What an image runs on: image-spec, "Image Index".
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Platform {
    /// Such as `amd64`.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// Such as `v8`.
    pub variant: Option<String>,
    /// Such as `10.0.14393.1066`.
    #[serde(rename = "os.version")]
    pub os_version: Option<String>,
}

impl Descriptor {
    /// Whether a registry may be without it: it is not to be distributed, or is had elsewhere.
    pub fn may_be_missing(&self) -> bool {
        !self.urls.is_empty()
            || self.media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
            || self.media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
    }

    fn check(&self, place: &str) -> Result<(), Failure> {
        let Some(data) = &self.data else { return Ok(()) };
        if data.len() as u64 != self.size || !self.digest.is_of(data) {
            return Err(Failure::manifest_invalid(format_args!(
                "the data in {place} is not {} bytes with the digest {}: leave data out",
                self.size, self.digest
            )));
        }
        Ok(())
    }
}

/// The JSON of every kind at once.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "type_or_none")]
    media_type: Option<String>,
    #[serde(default, deserialize_with = "type_or_none")]
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

/// A manifest, as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    bytes: Box<[u8]>,
    kind: Kind,
    media_type: String,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest that was sent with this `Content-Type`.
    ///
    /// # Errors
    /// `MANIFEST_TOO_LARGE` (413) over [`MAX_MANIFEST`]; `MANIFEST_INVALID` (400) for all else.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Manifest, Failure> {
        if bytes.len() > MAX_MANIFEST {
            return Err(Failure::new(
                Code::ManifestTooLarge,
                format!("the manifest has {} bytes: at most {MAX_MANIFEST} are taken", bytes.len()),
            ));
        }
        strict::check(bytes).map_err(Failure::manifest_invalid)?;
        let raw: Raw = serde_json::from_slice(bytes).map_err(Failure::manifest_invalid)?;
        let (kind, media_type) = kind(&raw, content_type)?;
        check_fields(&raw, kind)?;
        let mut layers = raw.layers.unwrap_or_default();
        layers.extend(raw.blobs.unwrap_or_default());
        Ok(Manifest {
            bytes: bytes.into(),
            kind,
            media_type,
            artifact_type: raw.artifact_type,
            config: raw.config,
            layers,
            manifests: raw.manifests.unwrap_or_default(),
            subject: raw.subject,
            annotations: raw.annotations,
        })
    }

    /// As they came: its digest is theirs.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `Content-Type` that it is served with.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// What kind of artifact it is: its own `artifactType`; without one, of an image only, its config's media type.
    pub fn artifact_type(&self) -> Option<&str> {
        let config = || self.config.as_ref().filter(|_| self.kind.is_image()).map(|c| c.media_type.as_str());
        self.artifact_type.as_deref().or_else(config)
    }

    /// Its config; every image has one.
    pub fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// Its layers; of an artifact manifest, its blobs.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// The manifests that an index names.
    pub fn manifests(&self) -> &[Descriptor] {
        &self.manifests
    }

    /// The manifest that this one is about; it need not be there.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// Its annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// All blobs that it names: config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers)
    }

    /// The blobs that must be in its repository before it is.
    pub fn blobs_required(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs().filter(|blob| !blob.may_be_missing())
    }
}

/// What the manifest is, by what its sender and its own field say.
fn kind(raw: &Raw, content_type: Option<&str>) -> Result<(Kind, String), Failure> {
    let sent = match content_type.map(bare) {
        None | Some("") => None,
        Some(sent) if is_media_type(sent) => Some(sent),
        Some(sent) => {
            return Err(Failure::manifest_invalid(format_args!("Content-Type {:?} is no media type", shorten(sent))));
        }
    };
    let media_type = match (sent, raw.media_type.as_deref()) {
        (Some(sent), Some(own)) if !sent.eq_ignore_ascii_case(own) => {
            return Err(Failure::manifest_invalid(format_args!(
                "it was sent as {:?} and says itself that it is {:?}: send it with the Content-Type of its mediaType",
                shorten(sent),
                shorten(own)
            )));
        }
        (_, Some(own)) => own,
        (Some(sent), None) => sent,
        (None, None) if raw.schema_version == Some(1) => DOCKER_SCHEMA1[0],
        (None, None) if raw.manifests.is_some() => OCI_INDEX,
        (None, None) if raw.config.is_some() => OCI_IMAGE,
        (None, None) => {
            return Err(Failure::manifest_invalid("it has no mediaType: send one, or a Content-Type"));
        }
    }
    .to_ascii_lowercase();

    if raw.schema_version == Some(1) || DOCKER_SCHEMA1.contains(&media_type.as_str()) {
        return Err(Failure::manifest_invalid(
            "Docker's schema 1 is not supported: push with a client that writes schema 2 or OCI manifests",
        ));
    }
    let kind = match Kind::of(&media_type) {
        Some(kind) => kind,
        None if is_vendors(&media_type) => Kind::Opaque,
        None => {
            return Err(Failure::manifest_invalid(format_args!(
                "{:?} is no type of manifest: send an OCI or Docker manifest or index",
                shorten(&media_type)
            )));
        }
    };
    let without_version = matches!(kind, Kind::Artifact | Kind::Opaque) && raw.schema_version.is_none();
    if raw.schema_version != Some(2) && !without_version {
        return Err(Failure::manifest_invalid("its schemaVersion is not 2"));
    }
    Ok((kind, media_type))
}

/// A vendor's type of JSON, but none of OCI's or Docker's: those are known, and what is not a manifest among them is a blob.
fn is_vendors(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.")
        && media_type.ends_with("+json")
        && !["application/vnd.oci.", "application/vnd.docker."].iter().any(|own| media_type.starts_with(own))
}

fn check_fields(raw: &Raw, kind: Kind) -> Result<(), Failure> {
    let lists = [("layers", &raw.layers), ("manifests", &raw.manifests), ("blobs", &raw.blobs)];
    let found = raw.config.is_some().then_some("config").into_iter();
    let mut found = found.chain(lists.iter().filter(|(_, list)| list.is_some()).map(|(name, _)| *name));
    if let Some(field) = found.find(|field| !kind.has(field)) {
        return Err(Failure::manifest_invalid(format_args!(
            "it has the field {field:?}, which its type does not have: other clients would take it for another manifest"
        )));
    }
    if kind.is_image() && raw.config.is_none() {
        return Err(Failure::manifest_invalid("it has no config"));
    }
    for (place, one) in [("config", &raw.config), ("subject", &raw.subject)] {
        one.as_ref().map_or(Ok(()), |descriptor| descriptor.check(place))?;
    }
    for (place, list) in lists {
        for (i, descriptor) in list.iter().flatten().enumerate() {
            descriptor.check(&format!("{place}[{i}]"))?;
        }
    }
    Ok(())
}

/// A media type without its parameters.
fn bare(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(bare, _)| bare).trim()
}

/// RFC 6838, section 4.2: `type/subtype`, each of at most 127 characters.
fn is_media_type(text: &str) -> bool {
    let name = |part: &str| {
        (1..=127).contains(&part.len())
            && part.as_bytes()[0].is_ascii_alphanumeric()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype))
}

/// A descriptor's type may have parameters: some clients write what a web server told them.
fn checked_type<E: serde::de::Error>(text: String) -> Result<String, E> {
    match is_media_type(bare(&text)) && text.len() <= 512 && !text.contains(char::is_control) {
        true => Ok(text),
        false => Err(E::custom(format_args!("{:?} is no media type", shorten(&text)))),
    }
}

fn media_type<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked_type(String::deserialize(from)?)
}

/// Null and the empty text stand for none: Go writes them.
fn type_or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()).map(checked_type).transpose()
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(from)?;
    match i64::try_from(size) {
        Ok(_) => Ok(size),
        Err(_) => Err(D::Error::custom("a size is below 2^63")),
    }
}

fn urls<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Urls;

    impl<'de> Visitor<'de> for Urls {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of URLs")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut urls = Vec::new();
            while let Some(url) = list.next_element()? {
                if urls.len() == MAX_URLS {
                    return Err(A::Error::custom(format_args!("a descriptor has at most {MAX_URLS} urls")));
                }
                urls.push(url);
            }
            Ok(urls)
        }

        fn visit_unit<E>(self) -> Result<Vec<String>, E> {
            Ok(Vec::new())
        }
    }

    from.deserialize_any(Urls)
}

/// RFC 4648, section 4: the standard alphabet, padded, nothing else, and no bits beside the content.
fn base64<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    decoded(text.as_bytes()).map(Some).ok_or_else(|| D::Error::custom("data is not base64"))
}

fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in text[..text.len() - padding].chunks(4) {
        let mut bits: u32 = 0;
        for byte in group {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        // A group of 2 or 3 characters holds 1 or 2 bytes.
        let bytes = group.len() - 1;
        bits <<= 6 * (4 - group.len());
        let [_, whole @ ..] = bits.to_be_bytes();
        if whole[bytes..].iter().any(|b| *b != 0) {
            return None;
        }
        out.extend_from_slice(&whole[..bytes]);
    }
    Some(out)
}

#[cfg(test)]
mod tests;
