//! Upload sessions: `POST`, `PATCH`, `PUT`, `GET`, `DELETE` below `blobs/uploads/`.
//!
//! Owns: their headers, and mounting from another repository. Promises: a chunk that does not begin where the session ends is 416 with
//! the range it has, and nothing that was accepted is lost; whether a blob exists elsewhere shows only to who may pull it
//! there. Leaves out: hashing and storing (the back end).

use super::access::Right;
use super::failure::{Code, Failure};
use super::reply::Answer;
use super::storage::{Kind, Outcome, Put};
use super::{Asked, admission};
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use securereg::Noted;
use securereg_oci::Digest;
use securereg_oci::Repository;
use securereg_oci::{Upload, range, upload};

pub(super) async fn begin(asked: &Asked, repository: &Repository, body: Body) -> Outcome<Response> {
    let digest = asked.parameter("digest");
    if let Some(mount) = asked.parameter("mount") {
        let digest: Digest = mount.parse()?;
        let from = match asked.parameter("from") {
            Some(from) => from.parse::<Repository>().ok(),
            None => anywhere(asked, &digest).await?,
        };
        if let Some(from) = from.filter(|from| asked.caller.may(Right::Pull, from))
            && may_have(asked, &from, repository, &digest).await?
            && asked.storage().mount(&from, repository, &digest).await?
        {
            return Ok(stored(asked, repository, &digest));
        }
    } else if let Some(digest) = digest {
        let digest: Digest = digest.parse()?;
        let id = asked.storage().begin(repository).await?;
        let length = content_length(asked)?;
        let admit = |size| Ok(Upload::resumed(size).accept_put(None, length).map(drop)?);
        let finished = asked.storage().finish(repository, &id, &admit, body, &digest).await;
        if finished.is_err() {
            // Nobody knows its id.
            let _ = asked.storage().abandon(repository, &id).await;
        }
        return finished.map(|()| stored(asked, repository, &digest));
    }
    let id = asked.storage().begin(repository).await?;
    Ok(session(asked, StatusCode::ACCEPTED, repository, &id, 0).empty())
}

/// Whether the caller could pull the blob there. What a model holds that was not admitted moves to another repository only with who may see
/// such, and is held back there as well.
async fn may_have(asked: &Asked, from: &Repository, to: &Repository, digest: &Digest) -> Outcome<bool> {
    let holders = asked.storage().list(from, Kind::Holder(digest), None, usize::MAX).await?;
    let Err(refused) = admission::check_blob(asked, from, &holders).await else { return Ok(true) };
    if !asked.caller.may(Right::Quarantined, from) {
        return Ok(false);
    }
    let why = format!("mounted in {to}; {}", refused.message);
    asked.note(Noted::ReadRefused, &format!("{from}@{digest}"), why).await?;
    for holder in &holders {
        asked.storage().put(to, Kind::Holder(digest), holder, Bytes::new(), Put::Always).await?;
    }
    Ok(true)
}

/// Repositories that are looked through for a blob whose place the client does not know.
const LOOKED_THROUGH: usize = 256;

/// A repository that the caller may pull from and that has the blob.
async fn anywhere(asked: &Asked, digest: &Digest) -> Outcome<Option<Repository>> {
    let known = asked.storage().repositories(None, LOOKED_THROUGH).await?;
    for repository in known.into_iter().filter(|repository| asked.caller.may(Right::Pull, repository)) {
        if asked.storage().blob(&repository, digest).await?.is_some() {
            return Ok(Some(repository));
        }
    }
    Ok(None)
}

pub(super) async fn status(asked: &Asked, repository: &Repository, id: &str) -> Outcome<Response> {
    let size = asked.storage().upload_size(repository, id).await?;
    Ok(session(asked, StatusCode::NO_CONTENT, repository, id, size).bare())
}

pub(super) async fn append(asked: &Asked, repository: &Repository, id: &str, body: Body) -> Outcome<Response> {
    let (place, length) = (content_range(asked)?, content_length(asked)?);
    let admit = |size| Ok(Upload::resumed(size).accept_patch(place, length).map(drop)?);
    let size = asked.storage().append(repository, id, &admit, body).await;
    let size = size.map_err(|failure| with_place(asked, repository, id, failure))?;
    Ok(session(asked, StatusCode::ACCEPTED, repository, id, size).empty())
}

pub(super) async fn finish(asked: &Asked, repository: &Repository, id: &str, body: Body) -> Outcome<Response> {
    let Some(digest) = asked.parameter("digest") else {
        return Err(Failure::new(Code::DigestInvalid, "the query has no digest: PUT ...?digest=sha256:..."));
    };
    let digest: Digest = digest.parse()?;
    let (place, length) = (content_range(asked)?, content_length(asked)?);
    let admit = |size| Ok(Upload::resumed(size).accept_put(place, length).map(drop)?);
    let finished = asked.storage().finish(repository, id, &admit, body, &digest).await;
    finished.map_err(|failure| with_place(asked, repository, id, failure))?;
    Ok(stored(asked, repository, &digest))
}

pub(super) async fn abandon(asked: &Asked, repository: &Repository, id: &str) -> Outcome<Response> {
    asked.storage().abandon(repository, id).await?;
    Ok(Answer::new(StatusCode::NO_CONTENT).bare())
}

fn stored(asked: &Asked, repository: &Repository, digest: &Digest) -> Response {
    Answer::new(StatusCode::CREATED)
        .with("location", asked.location(&format!("/v2/{repository}/blobs/{digest}")))
        .with("docker-content-digest", digest.to_string())
        .empty()
}

fn session(asked: &Asked, status: StatusCode, repository: &Repository, id: &str, size: u64) -> Answer {
    Answer::new(status)
        .with("location", place(asked, repository, id))
        .with("docker-upload-uuid", id)
        .with("range", upload::range_header(size))
}

fn place(asked: &Asked, repository: &Repository, id: &str) -> String {
    asked.location(&format!("/v2/{repository}/blobs/uploads/{id}"))
}

/// A refused chunk's client goes on where the session is.
fn with_place(asked: &Asked, repository: &Repository, id: &str, failure: Failure) -> Failure {
    if failure.status != StatusCode::RANGE_NOT_SATISFIABLE.as_u16() {
        return failure;
    }
    let range = failure.detail.as_ref().and_then(|detail| detail["range"].as_str()).map(str::to_owned);
    let failure = failure.with_header("location", place(asked, repository, id));
    match range {
        Some(range) => failure.with_header("range", range),
        None => failure,
    }
}

fn content_range(asked: &Asked) -> Outcome<Option<(u64, u64)>> {
    match asked.parts.headers.get("content-range") {
        None => Ok(None),
        Some(value) => Ok(Some(range::content_range(value.to_str().unwrap_or_default())?)),
    }
}

fn content_length(asked: &Asked) -> Outcome<Option<u64>> {
    Ok(asked.header("content-length").and_then(|length| length.parse().ok()))
}
