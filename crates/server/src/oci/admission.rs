//! What becomes of a model that is pushed.
//!
//! Owns: the way from a tag on a model's manifest to a promotion under `<repository>:<tag>`, and who may see a model that was not
//! admitted. Promises: a model is pulled by others only after the policy has cleared it; a tag that moves moves the model only when
//! the new content is admitted; what was pushed and not judged when a process ended is judged by the next. Leaves out:
//! judging (`securereg::Registry::promote`), what a model's manifest looks like (`securereg_oci::model`).
//!
//! ```text
//! PUT manifest ── pending ──┬── cleared ── admitted: <repository>:<tag> in the catalog and the mount
//!                           └── refused ── reason in the manifest's document, a referrer, the audit log
//! ```

use super::Asked;
use super::document::{State, Stored};
use super::failure::{Code, Failure};
use super::manifests::{file_name, stored};
use super::storage::{Kind, Outcome, Put, Storage};
use crate::blocking::Lane;
use crate::reply::Reply;
use crate::routes::App;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use parking_lot::Mutex;
use securereg::{Actor, Error, ErrorKind, Glob, ModelName, Noted, PromoteRequest, Registry, Source, Task};
use securereg_layers::{Unpacked, Verified};
use securereg_oci::manifest::Manifest;
use securereg_oci::model::{ModelManifest, Packaging};
use securereg_oci::{Algorithm, Digest};
use securereg_oci::{Reference, Repository, Tag};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tracing::Instrument;

/// How long a push waits for the verdict; a larger model is judged after its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long it is kept in mind that the audit log was told of something, and of how much.
const TOLD_FOR: Duration = Duration::from_secs(3600);
const MAX_TOLD: usize = 4096;

/// The type of the referrer that says why a model was refused, and of what it holds.
const VERDICT: &str = "application/vnd.securereg.verdict.v1+json";

/// How models are admitted.
#[derive(Default)]
pub(crate) struct Admission {
    /// Repositories whose models wait for `POST /v1/promote`.
    manual: Vec<Glob>,
    /// One name is judged at a time.
    names: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Who was given what, and when the audit log was told.
    told: Mutex<HashMap<(String, String), Instant>>,
}

impl Admission {
    pub(crate) fn new(manual: Vec<Glob>) -> Admission {
        Admission { manual, names: Mutex::default(), told: Mutex::default() }
    }

    /// Whether the audit log was told within the hour that this caller was given what was refused.
    pub(super) fn is_told(&self, who: &str, name: &str) -> bool {
        let told = self.told.lock();
        told.get(&(who.to_owned(), name.to_owned())).is_some_and(|at| at.elapsed() < TOLD_FOR)
    }

    pub(super) fn told(&self, who: &str, name: &str) {
        let mut told = self.told.lock();
        if told.len() >= MAX_TOLD {
            told.retain(|_, at| at.elapsed() < TOLD_FOR);
        }
        // With more than can be kept in mind, each is told again.
        if told.len() < MAX_TOLD {
            told.insert((who.to_owned(), name.to_owned()), Instant::now());
        }
    }

    fn waits(&self, repository: &Repository) -> bool {
        self.manual.iter().any(|glob| glob.matches(repository.as_str()))
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut names = self.names.lock();
        names.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = names.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        names.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Judges what a tag points to now, unless a person is to ask for it; waits a moment for the verdict.
pub(super) async fn begin(asked: &Asked, repository: &Repository, tag: &Tag, digest: &Digest) {
    if asked.oci().admission.waits(repository) {
        return;
    }
    let (app, repository, tag, digest) = (Arc::clone(&asked.app), repository.clone(), tag.clone(), digest.clone());
    let actor = asked.actor();
    let judging = async move { judge(&app, &repository, &tag, &digest, &actor).await.map(drop) };
    let judging = tokio::spawn(judging.in_current_span());
    // It goes on by itself.
    let _ = tokio::time::timeout(PATIENCE, judging).await;
}

/// What was pushed and not judged; at a start, also what was admitted and is not in the catalog.
pub(super) async fn resume(app: &Arc<App>, start: bool) {
    let storage = Arc::clone(&app.oci.storage);
    let mut after: Option<String> = None;
    while let Ok(batch) = storage.repositories(after.as_deref(), 1000).await {
        let Some(last) = batch.last() else { break };
        after = Some(last.to_string());
        for repository in batch.iter().filter(|repository| !app.oci.admission.waits(repository)) {
            let tags = storage.list(repository, Kind::Tag, None, usize::MAX).await.unwrap_or_default();
            for tag in tags.iter().filter_map(|tag| tag.parse::<Tag>().ok()) {
                let Ok(Some((digest, found))) = tagged(&*storage, repository, &tag).await else { continue };
                // Admitted under another tag, or before it was moved here: this tag's model may be missing.
                let missing =
                    start && found.head.model == Some(State::Admitted) && !is_promoted(app, repository, &tag, &digest);
                if found.head.model == Some(State::Pending) || missing {
                    tracing::info!(%repository, %tag, "judging what was pushed before");
                    let _ = judge(app, repository, &tag, &digest, &Actor::this_process("oci")).await;
                }
            }
        }
    }
}

/// Whether the catalog has what this tag points to.
fn is_promoted(app: &App, repository: &Repository, tag: &Tag, digest: &Digest) -> bool {
    let name = format!("{repository}:{tag}").parse::<ModelName>();
    let source = source_text(repository, digest);
    let catalog = app.registry.catalog();
    matches!((name, catalog), (Ok(name), Ok(catalog)) if catalog.artifact(&name).is_some_and(|a| a.source == source))
}

/// What a model's entry says of where it came from.
fn source_text(repository: &Repository, digest: &Digest) -> String {
    format!("oci {repository}@{digest}")
}

async fn tagged(storage: &dyn Storage, repository: &Repository, tag: &Tag) -> Outcome<Option<(Digest, Stored)>> {
    let Some(text) = storage.get(repository, Kind::Tag, tag.as_str()).await? else { return Ok(None) };
    let Some(digest) = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<Digest>().ok()) else {
        return Ok(None);
    };
    let document = storage.get(repository, Kind::Manifest, &file_name(&digest)).await?;
    Ok(document.map(Stored::parse).transpose()?.map(|stored| (digest, stored)))
}

/// Promotes what a tag points to, if the policy clears it.
pub(super) async fn judge(
    app: &Arc<App>,
    repository: &Repository,
    tag: &Tag,
    digest: &Digest,
    actor: &Actor,
) -> Outcome<State> {
    let storage = &*app.oci.storage;
    let name = format!("{repository}:{tag}");
    let turn = app.oci.admission.turn(&name);
    let _turn = turn.lock().await;
    let Some((now, found)) = tagged(storage, repository, tag).await? else { return Ok(State::Pending) };
    if now != *digest {
        // Another push has moved it, and is judged after this.
        return Ok(State::Pending);
    }
    let manifest = Manifest::parse(&found.bytes, Some(&found.head.media_type))?;
    let Some(model) = ModelManifest::recognise(&manifest) else { return Ok(State::Admitted) };
    let promoted = promote(app, repository, &name, digest, model, actor).await;
    let by_name = matches!(&promoted, Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::InvalidInput));
    let state = match promoted {
        Ok(()) => State::Admitted,
        Err(e) if by_name || e.kind().is_verdict() => State::Refused { reason: e.to_string(), at: securereg::now() },
        Err(e) => {
            tracing::error!(name, error = %e, "a pushed model could not be judged; it is tried again at the next start");
            return Ok(State::Pending);
        }
    };
    // Another tag's name, or place in the mount, says nothing of content that was admitted.
    let of_the_name = by_name && found.head.model == Some(State::Admitted);
    if !of_the_name {
        note(storage, repository, digest, &state).await?;
    }
    if let State::Refused { reason, .. } = &state
        && !of_the_name
    {
        tracing::warn!(name, reason, "a pushed model was refused");
        if let Err(e) = refer(storage, repository, digest, &found, reason).await {
            tracing::error!(name, error = %e.message, "the verdict could not be stored beside the manifest");
        }
    }
    Ok(state)
}

async fn promote(
    app: &Arc<App>,
    repository: &Repository,
    name: &str,
    digest: &Digest,
    model: ModelManifest,
    actor: &Actor,
) -> securereg::Result<()> {
    let storage = &*app.oci.storage;
    let files: Vec<Digest> = model.files.iter().map(|file| file.digest.clone()).collect();
    let mut here = Vec::new();
    let mut brought = Ok(());
    for file in &files {
        brought = storage.localise(repository, file).await;
        match &brought {
            Ok(()) => here.push(file),
            Err(_) => break,
        }
    }
    let promoted = match brought {
        Ok(()) => promote_local(app, repository, name, digest, model, actor).await,
        Err(e) => Err(Error::new(ErrorKind::Io, format!("bringing the files of {name} here: {}", e.message))),
    };
    for file in here {
        if let Err(e) = storage.release(repository, file).await {
            tracing::warn!(name, %file, error = %e.message, "a file stays in the local store");
        }
    }
    promoted
}

/// The same, with its files in the core's store.
async fn promote_local(
    app: &Arc<App>,
    repository: &Repository,
    name: &str,
    digest: &Digest,
    model: ModelManifest,
    actor: &Actor,
) -> securereg::Result<()> {
    let registry = app.registry.clone();
    let (name, source) = (name.to_owned(), source_text(repository, digest));
    let (repository, digest) = (repository.to_string(), digest.to_string());
    let actor = actor.clone();
    let work = move || {
        let mut request = PromoteRequest::new(name.parse::<ModelName>()?);
        request.source = source;
        request.evidence.insert("oci_manifest".into(), digest.into());
        let (source, _unpacked) = match source_of(&registry, &repository, &model) {
            Ok(source) => source,
            Err(e) => {
                // The core has not been asked, and so has written nothing down.
                let why = format!("{}: {}", e.kind().as_str(), e.message());
                registry.audit_note(Noted::Refuse, request.name.as_str(), &why, &actor)?;
                return Err(e);
            }
        };
        registry.promote(request, source, &actor, &Task::unattended()).map(drop)
    };
    app.lanes.run(Lane::Promote, work).await
}

/// The files of a model, where they lie; what a layer packs is unpacked for as long as the second part lives.
fn source_of(
    registry: &Registry,
    repository: &str,
    model: &ModelManifest,
) -> securereg::Result<(Source, Option<Unpacked>)> {
    let (raw, packed): (Vec<_>, Vec<_>) = model.files.iter().partition(|file| file.packaging == Packaging::Raw);
    let content = registry.content();
    let name = repository.parse()?;
    let mut files = Vec::new();
    for file in raw {
        files.push((file.path.parse()?, file.digest.to_string().parse()?));
    }
    if packed.is_empty() {
        return Ok((Source::of_content(&content, &name, files)?, None));
    }
    let mut unpacked = Unpacked::new(&registry.staging())?;
    for layer in packed {
        let file = content.open(&name, &layer.digest.to_string().parse()?)?;
        unpacked.add(Verified::new(file), layer.packaging, layer.size)?;
    }
    let from_layers = Source::open(unpacked.path())?;
    if files.is_empty() {
        return Ok((from_layers, Some(unpacked)));
    }
    Ok((Source::of_content(&content, &name, files)?.join(from_layers)?, Some(unpacked)))
}

/// Writes a verdict into the manifest's document.
async fn note(storage: &dyn Storage, repository: &Repository, digest: &Digest, state: &State) -> Outcome<()> {
    let name = file_name(digest);
    // Another tag on the same manifest may be judged meanwhile.
    for _ in 0..8 {
        let Some(document) = storage.get(repository, Kind::Manifest, &name).await? else { return Ok(()) };
        let mut stored = Stored::parse(document)?;
        stored.head.model = Some(state.clone());
        let document = Stored::write(&stored.head, &stored.bytes);
        if storage.put(repository, Kind::Manifest, &name, document, Put::Instead(&stored.document)).await? {
            return Ok(());
        }
    }
    Err(Failure::new(Code::ManifestInvalid, "the manifest's document keeps changing").with_status(500))
}

/// An artifact that refers to the refused manifest and says why.
async fn refer(
    storage: &dyn Storage,
    repository: &Repository,
    digest: &Digest,
    refused: &Stored,
    reason: &str,
) -> Outcome<()> {
    let verdict = json!({"verdict": "refused", "reason": reason, "manifest": digest.to_string()}).to_string();
    let empty = "{}";
    let mut layers = Vec::new();
    for text in [empty, &verdict] {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        let id = storage.begin(repository).await?;
        storage.finish(repository, &id, &|_| Ok(()), Body::from(text.to_owned()), &digest).await?;
        layers.push((digest.to_string(), text.len()));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": VERDICT,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": layers[0].0, "size": layers[0].1},
        "layers": [{"mediaType": VERDICT, "digest": layers[1].0, "size": layers[1].1}],
        "subject": {"mediaType": refused.head.media_type, "digest": digest.to_string(), "size": refused.bytes.len()},
        "annotations": {"org.securereg.verdict": "refused"},
    })
    .to_string();
    let own = Digest::of(Algorithm::Sha256, manifest.as_bytes());
    let parsed = Manifest::parse(manifest.as_bytes(), None)?;
    let head = super::document::Head { media_type: parsed.media_type().to_owned(), model: None };
    let document = Stored::write(&head, manifest.as_bytes());
    storage.put(repository, Kind::Manifest, &file_name(&own), document, Put::New).await?;
    let descriptor = securereg_oci::referrers::descriptor_of(&parsed, &own, manifest.len() as u64).to_string();
    storage.put(repository, Kind::Referrer(digest), &file_name(&own), Bytes::from(descriptor), Put::Always).await?;
    Ok(())
}

/// Refuses a manifest that was not admitted, or whose bytes are under quarantine since, to who may not see such.
pub(super) fn check_manifest(
    app: &App,
    repository: &Repository,
    reference: &Reference,
    stored: &Stored,
) -> Outcome<()> {
    let why = match &stored.head.model {
        None => return Ok(()),
        Some(State::Admitted) => match quarantined(app, repository, stored)? {
            None => return Ok(()),
            Some(why) => format!("{repository}, {reference}: {why}"),
        },
        Some(State::Pending) => format!("{repository}, {reference}: this model has not been judged yet"),
        Some(State::Refused { reason, .. }) => format!("{repository}, {reference}: this model was refused: {reason}"),
    };
    Err(Failure::new(Code::Denied, why))
}

/// Why the bytes of an admitted model are no longer given out, if they are not: what was promoted from this manifest is under an
/// incident, or a model that holds one of its files is, or was when it was deleted.
fn quarantined(app: &App, repository: &Repository, stored: &Stored) -> Outcome<Option<String>> {
    let closed = |_| Failure::new(Code::Unavailable, "the registry's manifest cannot be read: nothing is given out");
    let catalog = app.registry.catalog().map_err(closed)?;
    let incident =
        |a: &&Arc<securereg::Artifact>| a.quarantine.as_ref().is_some_and(|q| q.cause == securereg::Cause::Incident);
    let under = |held: &Arc<securereg::Artifact>| Ok(Some(format!("{} is under an incident", held.name)));
    let mut incidents = catalog.artifacts().filter(incident).peekable();
    if incidents.peek().is_some() {
        // Packed layers, and files that the manifest names by SHA-512, have other digests in the catalog.
        let from = [Algorithm::Sha256, Algorithm::Sha512]
            .map(|algorithm| source_text(repository, &Digest::of(algorithm, &stored.bytes)));
        if let Some(held) = incidents.find(|a| from.contains(&a.source)) {
            return under(held);
        }
    }
    let manifest = Manifest::parse(&stored.bytes, Some(&stored.head.media_type))?;
    let Some(model) = ModelManifest::recognise(&manifest) else { return Ok(None) };
    for bytes in model.files.iter().filter_map(|file| file.digest.sha256_bytes()) {
        let sha256 = securereg::Sha256Digest::from_bytes(bytes);
        if let Some(held) = catalog.holders(&sha256).find(incident) {
            return under(held);
        }
        if catalog.blocked().any(|blocked| blocked.weights.iter().any(|w| w.sha256 == sha256)) {
            return Ok(Some("its weights are those of a model that was deleted under an incident".into()));
        }
    }
    Ok(None)
}

/// Refuses a blob that only models hold which were not admitted.
pub(super) async fn check_blob(asked: &Asked, repository: &Repository, holders: &[String]) -> Outcome<()> {
    let mut refusal = Ok(());
    for holder in holders {
        let Ok(digest) = holder.replacen('-', ":", 1).parse::<Digest>() else { continue };
        let Some(found) = stored(asked, repository, &digest).await? else {
            // Of an admitted model, its holders' documents went with the manifest.
            let why = format!("{repository}: a model that was not admitted held this, and was deleted");
            refusal = Err(Failure::new(Code::Denied, why));
            continue;
        };
        match check_manifest(&asked.app, repository, &Reference::Digest(digest), &found) {
            Ok(()) => return Ok(()),
            Err(refused) => refusal = Err(refused),
        }
    }
    refusal
}

/// After its tag has gone the model goes, too.
pub(super) async fn forget(asked: &Asked, repository: &Repository, tag: &Tag) {
    let registry = asked.app.registry.clone();
    let name = format!("{repository}:{tag}");
    let actor = asked.actor();
    let turn = asked.oci().admission.turn(&name);
    let _turn = turn.lock().await;
    if !matches!(asked.storage().get(repository, Kind::Tag, tag.as_str()).await, Ok(None)) {
        // It is back already.
        return;
    }
    let work = move || {
        let name: ModelName = name.parse()?;
        // Only what came this way.
        let ours = registry.catalog()?.artifact(&name).is_some_and(|a| a.source.starts_with("oci "));
        if ours { registry.delete(&name, &actor) } else { Ok(()) }
    };
    if let Err(e) = asked.app.lanes.run(Lane::Change, work).await {
        tracing::error!(%repository, %tag, error = %e, "the model of a removed tag stays");
    }
}

/// What the model API says of a name that is no promoted model: a pushed one that was refused or waits.
pub(crate) async fn describe(app: &App, name: &ModelName) -> Option<Value> {
    let repository: Repository = name.repo().parse().ok()?;
    let tag: Tag = name.tag()?.parse().ok()?;
    let (digest, found) = tagged(&*app.oci.storage, &repository, &tag).await.ok()??;
    let (reason, since) = match found.head.model? {
        State::Admitted => return None,
        State::Pending => ("it has not been judged yet".to_owned(), None),
        State::Refused { reason, at } => (reason, Some(at)),
    };
    Some(json!({
        "name": name,
        "status": "quarantined",
        "source": format!("oci {repository}@{digest}"),
        "quarantine": {"cause": "policy", "reason": reason, "since": since},
    }))
}

/// `POST /v1/promote` of a pushed model, by name: 200 with the Artifact, or the refusal.
pub(crate) async fn promote_pushed(app: &Arc<App>, name: ModelName, actor: &Actor) -> Result<Reply, Reply> {
    let unknown = || Reply::from(Error::new(ErrorKind::NotFound, format!("nothing was pushed as {name}")).on(&name));
    let failed = |failure: Failure| {
        let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Reply::failure(status, "oci", &failure.message)
    };
    let repository: Repository = name.repo().parse().map_err(|_| unknown())?;
    let tag: Tag = name.tag().and_then(|tag| tag.parse().ok()).ok_or_else(unknown)?;
    let found = tagged(&*app.oci.storage, &repository, &tag).await.map_err(failed)?;
    let (digest, found) = found.ok_or_else(unknown)?;
    if found.head.model.is_none() {
        let why = format!("{name} is an image or an artifact, not a model: it is served as it is");
        return Err(Error::new(ErrorKind::Refused, why).on(&name).into());
    }
    let state = judge(app, &repository, &tag, &digest, actor).await.map_err(failed)?;
    let registry = app.registry.clone();
    match state {
        State::Admitted => {
            let describe = move || match registry.catalog().and_then(|c| registry.describe(c.require(&name)?)) {
                Ok(described) => Reply::ok(&described),
                Err(e) => e.into(),
            };
            Ok(app.lanes.short(Lane::Quick, describe).await)
        }
        State::Refused { reason, .. } => Err(Error::new(ErrorKind::Refused, reason).on(&name).into()),
        State::Pending => Err(Reply::failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            &format!("{name} could not be judged now, or another push has moved the tag: ask again"),
        )),
    }
}
