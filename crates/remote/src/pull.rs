//! `pull`.
//!
//! Owns: the line from a reference to a promoted model. Promises: only a manifest that says it is a model is fetched; every blob has its digest
//! before anything reads it; policy judges what came as it judges any source, and what it refuses leaves nothing behind; what was cancelled or
//! broke leaves parts that the next pull goes on from. Leaves out: one blob's way (`fetch`, `partial`), judging (the core).

use crate::auth::Pass;
use crate::client::{Ask, Client, Patience, Reply};
use crate::connect::Connector;
use crate::fail::{Trouble, broken, local, refused, shorten};
use crate::fetch::Fetch;
use crate::manifest::LAYOUT;
use crate::partial::{self, Whole};
use crate::watch::{Doing, Meter, Step, Watch};
use crate::{ImageRef, Options};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use securereg::signing::{BESIDE, IN_FOLDER};
use securereg::{
    Actor, Error, ErrorKind, ModelName, PromoteRequest, Promotion, Registry, RelPath, Result, Sha256Digest, Source,
    Transfer,
};
use securereg_layers::Unpacked;
use securereg_oci::manifest::{DOCKER_IMAGE, DOCKER_LIST, MAX_MANIFEST, OCI_ARTIFACT, OCI_IMAGE, OCI_INDEX};
use securereg_oci::model::{Family, ModelFile, ModelManifest, Packaging};
use securereg_oci::{Digest, Manifest, Reference};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Blobs at once, and requests at once.
const BLOBS: usize = 4;
const REQUESTS: usize = 6;
/// Files of one model, as the core has it.
const MAX_LAYERS: usize = securereg::MAX_FILES;

/// A model that was pulled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pulled {
    /// What the promotion did.
    pub promotion: Promotion,
    /// The manifest's digest.
    pub digest: Digest,
    /// Whose types the model came in.
    pub family: Family,
    /// Bytes of its layers.
    pub size_bytes: u64,
}

/// Fetches a model and promotes it under `name`, or else under `REPO:TAG`.
///
/// # Errors
/// `Refused` when the reference is no model, or policy refuses it; `DigestMismatch` when what came is not what the manifest says; `Cancelled`, after
/// which the parts that are there stay.
pub fn pull(
    registry: &Registry,
    from: &ImageRef,
    name: Option<ModelName>,
    options: &Options,
    actor: &Actor,
    watch: &Watch<'_>,
) -> Result<Pulled> {
    let name = match name {
        Some(name) => name,
        None => own_name(from)?,
    };
    let pass = Pass::new(options.keychain.find(from)?, from.repository(), "pull");
    let client = Arc::new(Client::new(Connector::new(from, options)?, pass));
    let meter = Meter::new(Doing::Download);
    let fetch = Fetch {
        client,
        repository: from.repository().clone(),
        staging: registry.staging(),
        meter: Arc::clone(&meter),
        gate: Arc::new(Semaphore::new(REQUESTS)),
    };
    let (found, blobs) = watch.run(&meter, async {
        let found = manifest(&fetch.client, from).await?;
        meter.expect(found.size_bytes);
        let staging = fetch.staging.clone();
        let sweep = staging.clone();
        tokio::task::spawn_blocking(move || partial::sweep(&sweep)).await.map_err(broken)?;
        let need = found.blobs.iter().map(|(digest, size)| (digest.clone(), *size)).collect();
        tokio::task::spawn_blocking(move || check_room(&staging, need)).await.map_err(broken)??;
        let blobs = fetch.all(&found.blobs).await?;
        Ok((found, blobs))
    })?;
    let mut request = PromoteRequest::new(name);
    request.source = match from.digest() {
        Some(_) => from.to_string(),
        None => format!("{from}@{}", found.digest),
    };
    request.transfer = Transfer::Move;
    request.evidence.insert("oci_manifest".into(), found.digest.to_string().into());
    let assembled = Assembled::new(registry, &found, &blobs, watch)?;
    let promoted = assembled.source(&found).and_then(|(source, sha256)| {
        request.sha256 = sha256;
        registry.promote(request, source, actor, &watch.task())
    });
    match promoted {
        Ok(promotion) => {
            blobs.values().for_each(|blob| blob.discard());
            Ok(Pulled { promotion, digest: found.digest, family: found.model.family, size_bytes: found.size_bytes })
        }
        Err(e) if e.kind().is_verdict() => {
            blobs.values().for_each(|blob| blob.discard());
            Err(e)
        }
        Err(e) => {
            assembled.take_back(&blobs);
            Err(e)
        }
    }
}

/// Removes what pulls that ended early left in the staging folder: parts that nobody has gone on with for a week, and folders of
/// processes that are gone. How many of both. What operators put there stays.
pub fn sweep(registry: &Registry) -> Result<usize> {
    let staging = registry.staging();
    Ok(partial::sweep(&staging) + securereg_layers::sweep(&staging)?)
}

/// Whether parts of blobs wait for the pull that goes on with them.
pub fn keeps_parts(registry: &Registry) -> bool {
    fs::read_dir(partial::folder(&registry.staging())).is_ok_and(|mut entries| entries.next().is_some())
}

/// `REPO:TAG`.
fn own_name(from: &ImageRef) -> Result<ModelName> {
    let Some(tag) = from.tag() else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{from} has no tag to name the model by: give --name"),
        ));
    };
    let why = |e: Error| Error::new(ErrorKind::InvalidInput, format!("{}: give another by --name", e.message()));
    format!("{}:{tag}", from.repository()).parse().map_err(why)
}

/// A manifest that is a model.
struct Found {
    digest: Digest,
    model: ModelManifest,
    /// A folder, although it has one file.
    folder: bool,
    /// Each blob once.
    blobs: Vec<(Digest, u64)>,
    size_bytes: u64,
}

impl Found {
    /// Each file and what it must be, by its path; none when that does not stand in the manifest. A folder's signature is no file of it.
    fn claimed(&self) -> Option<Vec<(&str, Sha256Digest)>> {
        let mut files = Vec::new();
        for file in &self.model.files {
            let bytes = file.digest.sha256_bytes().filter(|_| file.packaging == Packaging::Raw)?;
            files.push((file.path.as_str(), Sha256Digest::from_bytes(bytes)));
        }
        files.retain(|(path, _)| *path != IN_FOLDER);
        files.sort_unstable();
        Some(files)
    }
}

/// What `sha256sum` says of the list that it makes of the files: an artifact's SHA-256.
fn list_digest(files: &[(&str, Sha256Digest)]) -> Sha256Digest {
    let lines: String = files.iter().map(|(path, sha256)| format!("{sha256}  {path}\n")).collect();
    Sha256Digest::of(lines.as_bytes())
}

async fn manifest(client: &Client, from: &ImageRef) -> Result<Found> {
    let reference = from.reference().ok_or_else(|| refused(format!("{from} names neither a tag nor a digest")))?;
    let target = format!("/v2/{}/manifests/{reference}", from.repository());
    let mut ask = Ask::new(Method::GET, client.registry().at(target));
    for media_type in [OCI_IMAGE, DOCKER_IMAGE, OCI_ARTIFACT, OCI_INDEX, DOCKER_LIST] {
        ask = ask.header(ACCEPT, HeaderValue::from_static(media_type));
    }
    let mut patience = Patience::new();
    let (media_type, named, bytes) = loop {
        match document(client, &ask, from).await {
            Ok(document) => break document,
            Err(trouble) => patience.wait(trouble).await?,
        }
    };
    let digest = match &reference {
        Reference::Digest(digest) => digest.clone(),
        // The header is a convenience: what counts is that the bytes have it.
        Reference::Tag(_) => named.and_then(|named| named.parse().ok()).unwrap_or_else(|| Digest::sha256_of(&bytes)),
    };
    if !digest.is_of(&bytes) {
        let found = Digest::of(digest.algorithm(), &bytes);
        let why = format!("{from}: the manifest that came is another than {digest}");
        return Err(Error::new(ErrorKind::DigestMismatch, why).with_digests(digest.hex(), found.hex()));
    }
    let manifest = Manifest::parse(&bytes, media_type.as_deref())
        .map_err(|failure| refused(format!("{from} is no manifest: {}", shorten(&failure.message))))?;
    model(from, &manifest, digest)
}

async fn document(
    client: &Client,
    ask: &Ask,
    from: &ImageRef,
) -> Result<(Option<String>, Option<String>, Vec<u8>), Trouble> {
    let reply: Reply = client.read(ask).await?;
    if reply.status != StatusCode::OK {
        return Err(client.failure(reply, &format!("fetching {from}")).await);
    }
    let text = |name: &HeaderName| reply.header(name).map(str::to_owned);
    // A web server's guess is no statement.
    let media_type = text(&CONTENT_TYPE).filter(|text| text.starts_with("application/vnd."));
    let named = text(&HeaderName::from_static("docker-content-digest"));
    Ok((media_type, named, reply.bytes(MAX_MANIFEST).await?))
}

fn model(from: &ImageRef, manifest: &Manifest, digest: Digest) -> Result<Found> {
    if manifest.kind().is_index() {
        let list = manifest.manifests().iter().take(8);
        let list: Vec<String> =
            list.map(|child| format!("{}/{}@{}", from.host(), from.repository(), child.digest)).collect();
        let why =
            format!("{from} is an index of several manifests: pull one of them with --name NAME: {}", list.join(" "));
        return Err(refused(why));
    }
    let Some(model) = ModelManifest::recognise(manifest) else {
        let kind = shorten(manifest.artifact_type().unwrap_or("an image"));
        return Err(refused(format!("{from} is no model, but {kind}: only models are pulled")));
    };
    if model.files.is_empty() || model.files.len() > MAX_LAYERS {
        return Err(refused(format!("{from} has {} layers: a model has 1 to {MAX_LAYERS}", model.files.len())));
    }
    let mut sizes: HashMap<&Digest, u64> = HashMap::new();
    let mut blobs = Vec::new();
    for file in &model.files {
        match sizes.insert(&file.digest, file.size) {
            None => blobs.push((file.digest.clone(), file.size)),
            Some(size) if size == file.size => {}
            Some(_) => return Err(refused(format!("{from} gives {} two sizes", file.digest))),
        }
        if file.packaging == Packaging::Raw {
            file.path.parse::<RelPath>().map_err(|e| refused(format!("{from}: {}", e.message())))?;
        }
    }
    let size_bytes = blobs.iter().map(|(_, size)| *size).fold(0, u64::saturating_add);
    let folder = manifest.annotations().get(LAYOUT).is_some_and(|layout| layout == "folder");
    Ok(Found { digest, model, folder, blobs, size_bytes })
}

/// Room for what is not there yet, and the twentieth part of the disk that stays free.
fn check_room(staging: &Path, blobs: Vec<(Digest, u64)>) -> Result<()> {
    let stat = rustix::fs::statvfs(staging).map_err(|e| local("asking for room", e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let reserve = stat.f_blocks.saturating_mul(stat.f_frsize) / 20;
    let mut need: u64 = 0;
    for (digest, size) in blobs {
        let path = partial::folder(staging).join(digest.as_str().replace(':', "-"));
        let there =
            fs::symlink_metadata(path).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m).saturating_mul(512));
        need = need.saturating_add(size.saturating_sub(there));
    }
    if need > free.saturating_sub(reserve) {
        let why = format!(
            "the model needs {need} bytes more, and {} are free (5 percent are kept)",
            free.saturating_sub(reserve)
        );
        return Err(Error::new(ErrorKind::NoSpace, why));
    }
    Ok(())
}

type Blobs = HashMap<Digest, Whole>;

impl Fetch {
    async fn all(&self, blobs: &[(Digest, u64)]) -> Result<Blobs> {
        let mut fetched = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut left = blobs.iter().cloned();
        loop {
            while tasks.len() < BLOBS
                && let Some((digest, size)) = left.next()
            {
                let fetch = self.clone();
                tasks.spawn(async move { fetch.blob(digest.clone(), size).await.map(|blob| (digest, blob)) });
            }
            match tasks.join_next().await {
                Some(done) => fetched.extend([done.map_err(broken)??]),
                None => return Ok(fetched),
            }
        }
    }
}

/// The files of a model where the core can take them.
struct Assembled {
    folder: Unpacked,
    /// What was moved here, and of which blob.
    placed: Vec<(PathBuf, Digest)>,
}

impl Assembled {
    fn new(registry: &Registry, found: &Found, blobs: &Blobs, watch: &Watch<'_>) -> Result<Assembled> {
        let mut assembled = Assembled { folder: Unpacked::new(&registry.staging())?, placed: Vec::new() };
        let result = assembled.fill(found, blobs, watch);
        if let Err(e) = &result {
            match e.kind().is_verdict() {
                true => blobs.values().for_each(|blob| blob.discard()),
                false => assembled.take_back(blobs),
            }
        }
        result.map(|()| assembled)
    }

    fn fill(&mut self, found: &Found, blobs: &Blobs, watch: &Watch<'_>) -> Result<()> {
        let blob = |file: &ModelFile| {
            let absent = || Error::new(ErrorKind::Io, format!("{} was not fetched", file.digest));
            blobs.get(&file.digest).ok_or_else(absent)
        };
        // Archives first: a raw layer may be the same blob, and takes it away.
        let (raw, packed): (Vec<_>, Vec<_>) =
            found.model.files.iter().partition(|file| file.packaging == Packaging::Raw);
        for file in packed {
            let layer = Watched { file: blob(file)?.data()?, watch, done: 0, total: file.size };
            let unpacked = self.folder.add(layer, file.packaging, file.size);
            watch.go_on()?;
            unpacked?;
        }
        for file in raw {
            watch.go_on()?;
            let path: RelPath = file.path.parse()?;
            let to = self.folder.path().join(&path);
            let what = || format!("placing {path}");
            if let Some(above) = to.parent() {
                fs::create_dir_all(above).map_err(|e| clash(&path, e))?;
            }
            if fs::symlink_metadata(&to).is_ok() {
                return Err(refused(format!("{path} is in the model twice")));
            }
            match self.placed.iter().find(|(_, digest)| *digest == file.digest) {
                Some((first, _)) => drop(fs::copy(first, &to).map_err(|e| local(what(), e))?),
                None => {
                    blob(file)?.place(&to)?;
                    self.placed.push((to, file.digest.clone()));
                }
            }
        }
        Ok(())
    }

    /// What is promoted, a file, a split set by its first shard, else the folder; and the SHA-256 that follows from the manifest, so that
    /// the core, too, holds against it what it takes in. It follows when no layer is an archive.
    fn source(&self, found: &Found) -> Result<(Source, Option<Sha256Digest>)> {
        let folder = self.folder.path();
        let what = |e| local("looking at what was pulled", e);
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(what)? {
            let entry = entry.map_err(what)?;
            let name = entry.file_name().into_string().unwrap_or_default();
            names.push((name, entry.file_type().map_err(what)?.is_file()));
        }
        names.sort();
        let only_files = names.iter().all(|(_, is_file)| *is_file);
        let files = found.claimed();
        let list = files.as_deref().map(list_digest);
        let signed = |file: &str| matches!(&names[..], [_, (name, true)] if name.strip_suffix(BESIDE) == Some(file));
        match names.first() {
            Some((only, true)) if (names.len() == 1 || signed(only)) && !found.folder => {
                let own = files.and_then(|files| files.first().map(|(_, sha256)| *sha256));
                Ok((Source::open(&folder.join(only))?, own))
            }
            Some((first, _)) if only_files && is_first_of(first, names.len()) => {
                Ok((Source::open(&folder.join(first))?, list))
            }
            _ => Ok((Source::open(folder)?, list)),
        }
    }

    fn take_back(&self, blobs: &Blobs) {
        for (path, digest) in &self.placed {
            if let Some(blob) = blobs.get(digest) {
                blob.take_back(path);
            }
        }
    }
}

fn clash(path: &RelPath, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            refused(format!("{path} is in the model below a file"))
        }
        _ => local(format_args!("placing {path}"), e),
    }
}

/// Whether a name is that of the first shard of `count`, as llama.cpp names them.
fn is_first_of(name: &str, count: usize) -> bool {
    name.ends_with(&format!("-00001-of-{count:05}.gguf"))
}

/// A layer that tells how far it is, and stops when it is to.
struct Watched<'a> {
    file: File,
    watch: &'a Watch<'a>,
    done: u64,
    total: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.watch.go_on().map_err(io::Error::other)?;
        let n = self.file.read(out)?;
        self.done += n as u64;
        (self.watch.tell)(Step { doing: Doing::Unpack, done: self.done.min(self.total), total: self.total });
        Ok(n)
    }
}
