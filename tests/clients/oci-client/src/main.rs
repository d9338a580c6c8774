//! What oci-client does against a server, a step a word: `oci-client-check STEP HOST USER PASSWORD [FILE]`. Each step fails on the first
//! thing that is not as it should be. Run by ../oci-client.sh, in its order; leaves out deletion, which oci-client does not have.

use std::collections::BTreeMap;
use std::error::Error;

use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::config::{Architecture, Os};
use oci_client::manifest::{
    IMAGE_MANIFEST_MEDIA_TYPE, ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
    OciImageIndex, OciImageManifest, OciManifest, Platform,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const LAYER: &str = "application/vnd.test.layer";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[tokio::main]
async fn main() -> Result {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "a TLS library was there already")?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [step, host, user, password, rest @ ..] = args.as_slice() else {
        return Err("STEP HOST USER PASSWORD [FILE]".into());
    };
    let check = Check { host: host.clone(), auth: RegistryAuth::Basic(user.clone(), password.clone()) };
    match step.as_str() {
        "push" => check.push().await,
        "pull" => check.pull().await,
        "index" => check.index().await,
        "copy" => check.copy().await,
        "tags" => check.tags().await,
        "referrers" => check.referrers().await,
        "stream" => check.stream(rest.first().ok_or("stream needs a FILE")?).await,
        other => Err(format!("no step {other}").into()),
    }
}

struct Check {
    host: String,
    auth: RegistryAuth,
}

fn same<T: PartialEq + std::fmt::Debug>(wanted: T, found: T) -> Result {
    if wanted == found { Ok(()) } else { Err(format!("wanted {wanted:?}, found {found:?}").into()) }
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What the layer of an image holds: over a megabyte, so that it is sent in more than one write.
fn content(arch: &str) -> Vec<u8> {
    arch.bytes().cycle().take(1_500_000).collect()
}

fn config(arch: &str) -> Vec<u8> {
    format!(r#"{{"architecture":"{arch}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#)
        .into_bytes()
}

impl Check {
    /// A client that takes this platform out of an index.
    fn client(&self, arch: &'static str) -> Client {
        Client::new(ClientConfig {
            protocol: ClientProtocol::Http,
            platform_resolver: Some(Box::new(move |entries: &[ImageIndexEntry]| {
                let is = |entry: &&ImageIndexEntry| {
                    entry.platform.as_ref().is_some_and(|p| p.architecture.to_string() == arch)
                };
                entries.iter().find(is).map(|entry| entry.digest.clone())
            })),
            ..ClientConfig::default()
        })
    }

    fn reference(&self, rest: &str) -> Result<Reference> {
        Ok(format!("{}/oci-client/{rest}", self.host).parse()?)
    }

    async fn push(&self) -> Result {
        for arch in ["amd64", "arm64"] {
            let client = self.client("amd64");
            let image = self.reference(&format!("app:{arch}"))?;
            let layer = ImageLayer::new(content(arch), LAYER.into(), None);
            client.push(&image, &[layer], Config::new(config(arch), CONFIG.into(), None), &self.auth, None).await?;
            let (bytes, digest) = client.pull_manifest_raw(&image, &self.auth, &[OCI_IMAGE_MEDIA_TYPE]).await?;
            same(sha256(&bytes), digest)?;
        }
        Ok(())
    }

    async fn pull(&self) -> Result {
        let client = self.client("amd64");
        let image = self.reference("app:arm64")?;
        let pulled = client.pull(&image, &self.auth, vec![LAYER]).await?;
        same(1, pulled.layers.len())?;
        if pulled.layers[0].data != content("arm64") {
            return Err("the layer has other bytes".into());
        }
        let digest = client.fetch_manifest_digest(&image, &self.auth).await?;
        same(Some(digest.clone()), pulled.digest)?;
        client.pull(&self.reference(&format!("app@{digest}"))?, &self.auth, vec![LAYER]).await?;
        // A download that goes on in the middle.
        let layer = pulled.manifest.ok_or("no manifest")?.layers.remove(0);
        let BlobResponse::Partial(part) = client.pull_blob_stream_partial(&image, &layer, 70_000, Some(1000)).await?
        else {
            return Err("a range was answered with the whole".into());
        };
        let bytes: Vec<u8> = part
            .stream
            .try_fold(Vec::new(), |mut all, some| async move {
                all.extend(some);
                Ok(all)
            })
            .await?;
        same(content("arm64")[70_000..71_000].to_vec(), bytes)
    }

    async fn index(&self) -> Result {
        let client = self.client("amd64");
        let mut manifests = Vec::new();
        for (arch, architecture) in [("amd64", Architecture::Amd64), ("arm64", Architecture::ARM64)] {
            let image = self.reference(&format!("app:{arch}"))?;
            let (bytes, digest) = client.pull_manifest_raw(&image, &self.auth, &[OCI_IMAGE_MEDIA_TYPE]).await?;
            manifests.push(ImageIndexEntry {
                media_type: OCI_IMAGE_MEDIA_TYPE.into(),
                digest,
                size: bytes.len().try_into()?,
                platform: Some(Platform {
                    architecture,
                    os: Os::Linux,
                    os_version: None,
                    os_features: None,
                    variant: None,
                    features: None,
                }),
                annotations: None,
                artifact_type: None,
            });
        }
        let index = OciImageIndex {
            schema_version: 2,
            media_type: Some(OCI_IMAGE_INDEX_MEDIA_TYPE.into()),
            manifests,
            artifact_type: None,
            annotations: None,
        };
        let multi = self.reference("app:multi")?;
        client.push_manifest_list(&multi, &self.auth, index).await?;
        for arch in ["amd64", "arm64"] {
            let pulled = self.client(arch).pull(&multi, &self.auth, vec![LAYER]).await?;
            if pulled.layers[0].data != content(arch) {
                return Err(format!("{arch} was resolved to another image").into());
            }
        }
        Ok(())
    }

    async fn copy(&self) -> Result {
        let client = self.client("amd64");
        let (from, to) = (self.reference("app:amd64")?, self.reference("copied/deeper:amd64")?);
        let (bytes, digest) = client.pull_manifest_raw(&from, &self.auth, &[OCI_IMAGE_MEDIA_TYPE]).await?;
        let manifest: OciImageManifest = serde_json::from_slice(&bytes)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            same(false, client.blob_exists(&to, &blob.digest).await?)?;
            client.mount_blob(&to, &from, &blob.digest).await?;
            same(true, client.blob_exists(&to, &blob.digest).await?)?;
        }
        client.push_manifest_raw(&to, bytes, OCI_IMAGE_MEDIA_TYPE.parse()?).await?;
        same(digest, client.fetch_manifest_digest(&to, &self.auth).await?)
    }

    async fn tags(&self) -> Result {
        let client = self.client("amd64");
        let app = self.reference("app")?;
        let names = |page: oci_client::client::TagResponse| page.tags;
        same(
            vec!["amd64".to_owned(), "arm64".into(), "multi".into()],
            names(client.list_tags(&app, &self.auth, None, None).await?),
        )?;
        same(
            vec!["amd64".to_owned(), "arm64".into()],
            names(client.list_tags(&app, &self.auth, Some(2), None).await?),
        )?;
        same(vec!["multi".to_owned()], names(client.list_tags(&app, &self.auth, Some(2), Some("arm64")).await?))?;
        let all = client.catalog(&app, &self.auth, Some(1000), None).await?.repositories;
        same(true, all.iter().any(|name| name == "oci-client/app"))
    }

    async fn referrers(&self) -> Result {
        let client = self.client("amd64");
        let app = self.reference("app:amd64")?;
        let (bytes, digest) =
            client.pull_manifest_raw(&app, &self.auth, &[OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE]).await?;
        let subject = OciDescriptor {
            media_type: OCI_IMAGE_MEDIA_TYPE.into(),
            digest: digest.clone(),
            size: bytes.len().try_into()?,
            ..OciDescriptor::default()
        };
        let empty = OciDescriptor {
            media_type: "application/vnd.oci.empty.v1+json".into(),
            digest: client_digest(&client, &app, b"{}").await?,
            size: 2,
            ..OciDescriptor::default()
        };
        for kind in ["one", "two"] {
            let manifest = OciImageManifest {
                schema_version: 2,
                media_type: Some(OCI_IMAGE_MEDIA_TYPE.into()),
                config: empty.clone(),
                layers: vec![empty.clone()],
                subject: Some(subject.clone()),
                artifact_type: Some(format!("application/vnd.test.{kind}")),
                annotations: Some(BTreeMap::from([("kind".to_owned(), kind.to_owned())])),
            };
            let tagged = self.reference(&format!("app:about-{kind}"))?;
            client.push_manifest(&tagged, &OciManifest::Image(manifest)).await?;
        }
        let about = self.reference(&format!("app@{digest}"))?;
        same(2, client.pull_referrers(&about, None).await?.manifests.len())?;
        let one = client.pull_referrers(&about, Some("application/vnd.test.two")).await?.manifests;
        same(1, one.len())?;
        same(Some("two"), one[0].annotations.as_ref().and_then(|all| all.get("kind")).map(String::as_str))
    }

    /// A file as one blob, in chunks, as large artifacts are pushed.
    async fn stream(&self, file: &str) -> Result {
        let client = self.client("amd64");
        let image = self.reference("big:big")?;
        client.store_auth_if_needed(image.resolve_registry(), &self.auth).await;
        let bytes = std::fs::read(file)?;
        let digest = sha256(&bytes);
        let pieces: Vec<Vec<u8>> = bytes.chunks(1 << 20).map(<[u8]>::to_vec).collect();
        let pieces = stream::iter(pieces).map(|piece| Ok(piece.into()));
        let pushed = client.push_blob_stream_chunked(&image, pieces).await?;
        same(digest.clone(), pushed.blob_digest)?;
        let mut back = Vec::new();
        let layer = OciDescriptor {
            media_type: LAYER.into(),
            digest,
            size: bytes.len().try_into()?,
            ..OciDescriptor::default()
        };
        client.pull_blob(&image, &layer, &mut back).await?;
        if back == bytes { Ok(()) } else { Err("the blob has other bytes".into()) }
    }
}

async fn client_digest(client: &Client, image: &Reference, bytes: &'static [u8]) -> Result<String> {
    let digest = sha256(bytes);
    client.push_blob(image, bytes, &digest).await?;
    Ok(digest)
}
