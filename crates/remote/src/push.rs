//! `push`.
//!
//! Owns: the line from a promoted model to a tag in a registry. Promises: what is not promoted is not pushed; the tag is put last, so that whoever
//! pulls it finds all of it; a blob that is there is not sent. Leaves out: one blob's way (`upload`).

use crate::auth::Pass;
use crate::body::Body;
use crate::client::{Ask, Client, Patience};
use crate::connect::Connector;
use crate::fail::{Trouble, broken, refused};
use crate::manifest::{self, Document, GUARD_MANIFEST, Types};
use crate::upload::{Content, Done, Upload};
use crate::watch::{Doing, Meter, Watch};
use crate::{ImageRef, Options};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use securereg::{Artifact, Error, ErrorKind, ModelName, ReadMode, Registry, Result};
use securereg_oci::manifest::OCI_IMAGE;
use securereg_oci::{Digest, Repository};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Uploads at once.
const UPLOADS: usize = 2;

/// A model that was pushed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pushed {
    /// The model.
    pub artifact: Arc<Artifact>,
    /// Its manifest's digest.
    pub digest: Digest,
    /// Files that were sent.
    pub sent: usize,
    /// Files that were there already.
    pub there: usize,
    /// What does not make the push fail, and is worth to know: what was not sent along, and why the registry does not serve the model.
    pub remarks: Vec<String>,
}

/// Publishes a promoted model under a tag.
///
/// # Errors
/// `Quarantined` and `Corrupt` as of any read of the model, `Permission` when the registry does not let us in, `Refused` when it will not
/// have the model.
pub fn push(
    registry: &Registry,
    name: &ModelName,
    to: &ImageRef,
    types: Types,
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Pushed> {
    let tag = match (to.tag(), to.digest()) {
        (Some(tag), None) => tag.clone(),
        _ => {
            let why = format!("{to}: a model is pushed to a tag, and its digest follows from it: write HOST/REPO:TAG");
            return Err(Error::new(ErrorKind::InvalidInput, why));
        }
    };
    let catalog = registry.catalog()?;
    let artifact = Arc::clone(catalog.require(name)?);
    let described = registry.describe(&artifact)?;
    let (config, manifest) = manifest::of_model(&artifact, &described, types);
    let pass = Pass::new(options.keychain.find(to)?, to.repository(), "pull,push");
    let client = Arc::new(Client::new(Connector::new(to, options)?, pass));
    let meter = Meter::new(Doing::Upload);
    meter.expect(artifact.size_bytes);
    let push = Push { client, repository: to.repository().clone(), meter: Arc::clone(&meter) };
    watch.run(&meter, async {
        let (sent, there) = push.files(registry, &artifact).await?;
        push.document(&config).await?;
        let mut remarks = Vec::new();
        if let Some(guard) = described.get("gguf_guard_manifest").filter(|value| !value.is_null())
            && let Err(e) = push.refer(&manifest, &Document::new(guard)).await
        {
            remarks.push(format!("gguf-guard's manifest was not sent along: {e}"));
        }
        push.manifest(&manifest, tag.as_str()).await?;
        remarks.extend(push.refusal(tag.as_str()).await);
        Ok(Pushed { artifact, digest: manifest.digest.clone(), sent, there, remarks })
    })
}

struct Push {
    client: Arc<Client>,
    repository: Repository,
    meter: Arc<Meter>,
}

impl Push {
    /// Sends every file that is not there; how many were sent, and how many were there.
    async fn files(&self, registry: &Registry, artifact: &Artifact) -> Result<(usize, usize)> {
        let gate = Arc::new(Semaphore::new(UPLOADS));
        let mut tasks = JoinSet::new();
        for file in &artifact.files {
            let (registry, name, path) = (registry.clone(), artifact.name.clone(), file.path.clone());
            let digest = Digest::from_sha256(file.sha256.as_bytes());
            let (client, repository, size) = (Arc::clone(&self.client), self.repository.clone(), file.size_bytes);
            let (gate, meter) = (Arc::clone(&gate), Arc::clone(&self.meter));
            tasks.spawn(async move {
                let _permit = gate.acquire_owned().await;
                let open = move || registry.open_file(&name, &path, ReadMode::Cached);
                let file = tokio::task::spawn_blocking(open).await.map_err(broken)??;
                let content = Content::File(Arc::new(file));
                Upload { client, repository, digest, size, content, meter }.run().await
            });
        }
        let (mut sent, mut there) = (0, 0);
        while let Some(done) = tasks.join_next().await {
            match done.map_err(broken)?? {
                Done::Sent => sent += 1,
                Done::WasThere => there += 1,
            }
        }
        Ok((sent, there))
    }

    async fn document(&self, document: &Document) -> Result<Done> {
        let content = Content::Bytes(document.bytes.clone());
        let upload = Upload {
            client: Arc::clone(&self.client),
            repository: self.repository.clone(),
            digest: document.digest.clone(),
            size: document.bytes.len() as u64,
            content,
            // Beside the files it is nothing.
            meter: Meter::new(Doing::Upload),
        };
        upload.run().await
    }

    async fn refer(&self, manifest: &Document, guard: &Document) -> Result<()> {
        let (config, referrer) = manifest::referrer(manifest, GUARD_MANIFEST, guard);
        self.document(&config).await?;
        self.document(guard).await?;
        self.manifest(&referrer, referrer.digest.as_str()).await
    }

    /// What a registry that judges says of a model that it has taken and does not serve.
    async fn refusal(&self, tag: &str) -> Option<String> {
        let target = format!("/v2/{}/manifests/{tag}", self.repository);
        let ask = Ask::new(Method::GET, self.client.registry().at(target))
            .header(ACCEPT, HeaderValue::from_static(OCI_IMAGE));
        let reply = self.client.send(&ask, Body::empty()).await.ok()?;
        if reply.status != StatusCode::FORBIDDEN {
            return None;
        }
        match self.client.failure(reply, "the registry has the model, and does not serve it").await {
            Trouble::Final(error) => Some(error.message().to_owned()),
            Trouble::Passing(..) => None,
        }
    }

    async fn manifest(&self, manifest: &Document, reference: &str) -> Result<()> {
        let target = format!("/v2/{}/manifests/{reference}", self.repository);
        let ask = Ask::new(Method::PUT, self.client.registry().at(target))
            .header(CONTENT_TYPE, HeaderValue::from_static(OCI_IMAGE));
        let mut patience = Patience::new();
        loop {
            let trouble = match self.client.send(&ask, Body::Whole(manifest.bytes.clone())).await {
                Ok(reply) if reply.status == StatusCode::CREATED => {
                    let named = reply.header(&HeaderName::from_static("docker-content-digest"));
                    return match named.is_none_or(|named| named == manifest.digest.as_str()) {
                        true => Ok(()),
                        false => Err(refused(format!(
                            "{} has stored another manifest than was sent",
                            self.client.registry()
                        ))),
                    };
                }
                Ok(reply) => self.client.failure(reply, &format!("putting {}:{reference}", self.repository)).await,
                Err(trouble) => trouble,
            };
            patience.wait(trouble).await?;
        }
    }
}
