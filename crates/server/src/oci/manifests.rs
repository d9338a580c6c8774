//! Manifests: `GET`, `HEAD`, `PUT`, `DELETE`.
//!
//! Owns: the order in which a push becomes visible (manifest, what it refers to, tag), tags that do not move, and what goes with a
//! manifest. Promises: the bytes come out as they went in, with the type they came with; a tag points to a manifest that is
//! there; a refused model is given to nobody who may not see such. Leaves out: judging (`admission`).

use super::access::Right;
use super::document::{Head, State, Stored};
use super::failure::{Code, Failure};
use super::reply::Answer;
use super::storage::{Kind, Outcome, Put};
use super::{Asked, admission};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use securereg::Noted;
use securereg_oci::manifest::{MAX_MANIFEST, Manifest};
use securereg_oci::model::ModelManifest;
use securereg_oci::referrers;
use securereg_oci::{Algorithm, Digest};
use securereg_oci::{Reference, Repository, Tag};

/// The name of a digest's document.
pub(super) fn file_name(digest: &Digest) -> String {
    digest.to_string().replacen(':', "-", 1)
}

/// The digest a tag points to.
pub(super) async fn resolve(asked: &Asked, repository: &Repository, tag: &Tag) -> Outcome<Option<Digest>> {
    let Some(text) = asked.storage().get(repository, Kind::Tag, tag.as_str()).await? else { return Ok(None) };
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
}

pub(super) async fn stored(asked: &Asked, repository: &Repository, digest: &Digest) -> Outcome<Option<Stored>> {
    let document = asked.storage().get(repository, Kind::Manifest, &file_name(digest)).await?;
    document.map(Stored::parse).transpose()
}

pub(super) async fn get(asked: &Asked, repository: &Repository, reference: &Reference) -> Outcome<Response> {
    let unknown = || Failure::new(Code::ManifestUnknown, format!("{repository} has no manifest {reference}"));
    let digest = match reference {
        Reference::Digest(digest) => digest.clone(),
        Reference::Tag(tag) => resolve(asked, repository, tag).await?.ok_or_else(unknown)?,
    };
    let found = stored(asked, repository, &digest).await?.ok_or_else(unknown)?;
    if let Err(refused) = admission::check_manifest(&asked.app, repository, reference, &found) {
        if asked.judged_only(repository) {
            return Err(refused);
        }
        if asked.parts.method == Method::GET {
            asked.note_refused(repository, &digest, &refused.message).await?;
        }
    }
    if Digest::of(digest.algorithm(), &found.bytes) != digest {
        tracing::error!(%repository, %digest, "a stored manifest is damaged");
        let failure =
            Failure::new(Code::ManifestUnknown, format!("the stored manifest {digest} is damaged: push it again"));
        return Err(failure.with_status(500));
    }
    let answer = Answer::new(StatusCode::OK)
        .with("docker-content-digest", digest.to_string())
        .with("content-type", &found.head.media_type)
        .with("etag", format!("\"{digest}\""))
        .with("content-length", found.bytes.len().to_string());
    Ok(if asked.parts.method == Method::HEAD { answer.bare() } else { answer.body(found.bytes) })
}

pub(super) async fn put(
    asked: &Asked,
    repository: &Repository,
    reference: &Reference,
    body: Body,
) -> Outcome<Response> {
    let bytes = whole(asked, body).await?;
    let manifest = Manifest::parse(&bytes, asked.header("content-type"))?;
    let (digest, tags) = named(asked, reference, &bytes)?;
    for tag in &tags {
        check_movable(asked, repository, tag, &digest).await?;
    }
    check_blobs(asked, repository, &manifest).await?;
    let model = ModelManifest::recognise(&manifest);
    if model.as_ref().is_some_and(|model| model.files.len() > securereg::MAX_FILES) {
        let why = format!("a model has at most {} files", securereg::MAX_FILES);
        return Err(Failure::new(Code::ManifestInvalid, why));
    }
    if model.is_some() && manifest.layers().iter().any(|layer| layer.may_be_missing()) {
        let why =
            "a model's layers must be in the repository: none may have urls or be of a type that is not distributed";
        return Err(Failure::new(Code::ManifestInvalid, why));
    }
    let head = Head { media_type: manifest.media_type().to_owned(), model: model.as_ref().map(|_| State::Pending) };
    let name = file_name(&digest);
    if let Some(model) = &model {
        // Before the manifest, so that no blob of it is given out unjudged.
        for file in &model.files {
            let holder = Kind::Holder(&file.digest);
            asked.storage().put(repository, holder, &name, Bytes::new(), Put::Always).await?;
        }
    }
    let document = Stored::write(&head, &bytes);
    // The same bytes may have been judged already.
    asked.storage().put(repository, Kind::Manifest, &name, document, Put::New).await?;
    if let Some(subject) = manifest.subject() {
        let descriptor = referrers::descriptor_of(&manifest, &digest, bytes.len() as u64).to_string();
        let kind = Kind::Referrer(&subject.digest);
        asked.storage().put(repository, kind, &name, descriptor.into(), Put::Always).await?;
    }
    for tag in &tags {
        point(asked, repository, tag, &digest).await?;
        if model.is_some() {
            admission::begin(asked, repository, tag, &digest).await;
        }
    }
    let answer = Answer::new(StatusCode::CREATED)
        .with("location", asked.location(&format!("/v2/{repository}/manifests/{digest}")))
        .with("docker-content-digest", digest.to_string())
        .with_some("oci-subject", manifest.subject().map(|subject| subject.digest.to_string()));
    let mut response = answer.empty();
    if matches!(reference, Reference::Digest(_)) {
        for tag in &tags {
            if let Ok(value) = tag.as_str().parse() {
                response.headers_mut().append("oci-tag", value);
            }
        }
    }
    Ok(response)
}

/// The digest that the manifest gets, and the tags that point to it then.
fn named(asked: &Asked, reference: &Reference, bytes: &[u8]) -> Outcome<(Digest, Vec<Tag>)> {
    let parameters = asked.parameters();
    let given = |name: &str| {
        parameters.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let (digest, tags) = match reference {
        Reference::Digest(digest) => {
            let tags = given("tag").iter().map(|tag| tag.parse()).collect::<Result<Vec<Tag>, _>>()?;
            (digest.clone(), tags)
        }
        Reference::Tag(tag) => {
            let digest = match given("digest").first() {
                Some(digest) => digest.parse()?,
                None => Digest::of(Algorithm::Sha256, bytes),
            };
            (digest, vec![tag.clone()])
        }
    };
    let actual = Digest::of(digest.algorithm(), bytes);
    if actual != digest {
        return Err(Failure::new(Code::DigestInvalid, format!("the manifest's digest is {actual}, not {digest}")));
    }
    Ok((digest, tags))
}

async fn whole(asked: &Asked, body: Body) -> Outcome<Bytes> {
    let large = || {
        let why = format!("a manifest has at most {MAX_MANIFEST} bytes");
        Failure::new(Code::SizeInvalid, why).with_status(StatusCode::PAYLOAD_TOO_LARGE.as_u16())
    };
    let declared = asked.header("content-length").and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_MANIFEST as u64) {
        return Err(large());
    }
    let read = tokio::time::timeout(asked.app.limits.body_timeout, to_bytes(body, MAX_MANIFEST));
    match read.await {
        Ok(Ok(bytes)) if declared.is_none_or(|length| length == bytes.len() as u64) => Ok(bytes),
        Ok(Err(_)) if declared.is_none() => Err(large()),
        Ok(_) => Err(Failure::new(Code::SizeInvalid, "the manifest ended early")),
        Err(_) => Err(Failure::new(Code::SizeInvalid, "the manifest did not arrive in time").with_status(408)),
    }
}

async fn check_movable(asked: &Asked, repository: &Repository, tag: &Tag, digest: &Digest) -> Outcome<()> {
    if !asked.oci().rules.is_immutable(tag) {
        return Ok(());
    }
    match resolve(asked, repository, tag).await? {
        Some(there) if there != *digest => {}
        _ => return Ok(()),
    }
    if is_forced(asked, repository) { Ok(()) } else { Err(immovable(repository, tag)) }
}

fn is_forced(asked: &Asked, repository: &Repository) -> bool {
    asked.parameter("force").as_deref() == Some("true") && asked.caller.may(Right::Quarantined, repository)
}

fn immovable(repository: &Repository, tag: &Tag) -> Failure {
    let why = format!(
        "{repository}:{tag} is a version and does not move: push another tag, or let an administrator push with ?force=true"
    );
    Failure::new(Code::TagInvalid, why)
}

async fn check_blobs(asked: &Asked, repository: &Repository, manifest: &Manifest) -> Outcome<()> {
    for blob in manifest.blobs_required() {
        // Before the manifest is written, so that no sweep takes it in between.
        match asked.storage().renew(repository, &blob.digest).await? {
            Some(size) if size == blob.size => {}
            Some(size) => {
                let why = format!("{} has {size} bytes, not {} as the manifest says", blob.digest, blob.size);
                return Err(Failure::new(Code::ManifestInvalid, why));
            }
            None => {
                let why = format!("{repository} has no blob {}: push it first", blob.digest);
                return Err(Failure::new(Code::ManifestBlobUnknown, why));
            }
        }
    }
    Ok(())
}

/// Makes a tag point to a digest. One that must not move is only made, or moved by force, from what the audit log says to what it says.
async fn point(asked: &Asked, repository: &Repository, tag: &Tag, digest: &Digest) -> Outcome<()> {
    let text = Bytes::from(digest.to_string());
    let (storage, name) = (asked.storage(), tag.as_str());
    if !asked.oci().rules.is_immutable(tag) {
        return storage.put(repository, Kind::Tag, name, text, Put::Always).await.map(drop);
    }
    for _ in 0..8 {
        if storage.put(repository, Kind::Tag, name, text.clone(), Put::New).await? {
            return Ok(());
        }
        let Some(there) = storage.get(repository, Kind::Tag, name).await? else { continue };
        if there == text {
            return Ok(());
        }
        if !is_forced(asked, repository) {
            return Err(immovable(repository, tag));
        }
        let why = format!("tag moved by force from {} to {digest}", String::from_utf8_lossy(&there));
        asked.note(Noted::MoveTag, &format!("{repository}:{tag}"), why).await?;
        if storage.put(repository, Kind::Tag, name, text.clone(), Put::Instead(&there)).await? {
            return Ok(());
        }
    }
    Err(Failure::new(Code::TagInvalid, format!("{repository}:{tag} keeps moving: push again")).with_status(409))
}

pub(super) async fn delete(asked: &Asked, repository: &Repository, reference: &Reference) -> Outcome<Response> {
    let unknown = || Failure::new(Code::ManifestUnknown, format!("{repository} has no manifest {reference}"));
    match reference {
        Reference::Tag(tag) => {
            let why = match resolve(asked, repository, tag).await? {
                Some(digest) => format!("the tag, which points to {digest}"),
                None => "the tag, which points nowhere".to_owned(),
            };
            asked.note(Noted::DeleteContent, &format!("{repository}:{tag}"), why).await?;
            if !asked.storage().remove(repository, Kind::Tag, tag.as_str()).await? {
                return Err(unknown());
            }
            admission::forget(asked, repository, tag).await;
        }
        Reference::Digest(digest) => {
            let found = stored(asked, repository, digest).await?.ok_or_else(unknown)?;
            let why = "the manifest, and the tags that point to it".to_owned();
            asked.note(Noted::DeleteContent, &format!("{repository}@{digest}"), why).await?;
            for tag in asked.storage().list(repository, Kind::Tag, None, usize::MAX).await? {
                let Ok(tag) = tag.parse::<Tag>() else { continue };
                if resolve(asked, repository, &tag).await?.as_ref() == Some(digest) {
                    asked.storage().remove(repository, Kind::Tag, tag.as_str()).await?;
                    admission::forget(asked, repository, &tag).await;
                }
            }
            let name = file_name(digest);
            if let Ok(manifest) = Manifest::parse(&found.bytes, Some(&found.head.media_type)) {
                if let Some(subject) = manifest.subject() {
                    asked.storage().remove(repository, Kind::Referrer(&subject.digest), &name).await?;
                }
                // What was not admitted stays held back.
                if found.head.model == Some(State::Admitted)
                    && let Some(model) = ModelManifest::recognise(&manifest)
                {
                    for file in &model.files {
                        asked.storage().remove(repository, Kind::Holder(&file.digest), &name).await?;
                    }
                }
            }
            asked.storage().remove(repository, Kind::Manifest, &name).await?;
        }
    }
    Ok(Answer::new(StatusCode::ACCEPTED).empty())
}
