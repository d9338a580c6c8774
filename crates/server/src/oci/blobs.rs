//! `GET`, `HEAD` and `DELETE` of a blob.
//!
//! Owns: ranges and their headers. Promises: a blob is one of this repository, or it is unknown; one that a refused model holds is
//! given to nobody who may not see such. Leaves out: checking the bytes (the back end).

use super::failure::{Code, Failure};
use super::reply::Answer;
use super::storage::{Kind, Outcome};
use super::{Asked, admission};
use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use securereg::Noted;
use securereg_oci::Digest;
use securereg_oci::Repository;
use securereg_oci::range;

pub(super) async fn get(asked: &Asked, repository: &Repository, digest: &Digest) -> Outcome<Response> {
    // Who only asks whether it is there will leave it out of a push.
    let found = match asked.parts.method {
        Method::HEAD => asked.storage().renew(repository, digest).await?,
        _ => asked.storage().blob(repository, digest).await?,
    };
    let Some(size) = found else { return Err(unknown(repository, digest)) };
    let holders = asked.storage().list(repository, Kind::Holder(digest), None, usize::MAX).await?;
    let admitted = admission::check_blob(asked, repository, &holders).await;
    if asked.judged_only(repository) {
        admitted.clone()?;
    }
    let answer = |status| {
        Answer::new(status)
            .with("docker-content-digest", digest.to_string())
            .with("content-type", "application/octet-stream")
            .with("etag", format!("\"{digest}\""))
            .with("accept-ranges", "bytes")
    };
    if asked.parts.method == Method::HEAD {
        return Ok(answer(StatusCode::OK).with("content-length", size.to_string()).bare());
    }
    let (status, from, to, of) = match range::blob_range(asked.header("range"), size)? {
        None => (StatusCode::OK, 0, size, None),
        Some((from, last)) => {
            (StatusCode::PARTIAL_CONTENT, from, last + 1, Some(format!("bytes {from}-{last}/{size}")))
        }
    };
    if let Err(refused) = admitted {
        asked.note_refused(repository, digest, &refused.message).await?;
    }
    if let Some(url) = asked.storage().redirect(repository, digest).await? {
        return Ok(answer(StatusCode::TEMPORARY_REDIRECT).with("location", url).empty());
    }
    let body = if from == to { Body::empty() } else { asked.storage().read(repository, digest, from, to).await? };
    let answer = answer(status).with("content-length", (to - from).to_string());
    Ok(answer.with_some("content-range", of).body(body))
}

pub(super) async fn delete(asked: &Asked, repository: &Repository, digest: &Digest) -> Outcome<Response> {
    // Not asked first whether it is there: one that is damaged is not, and goes by this.
    asked.note(Noted::DeleteContent, &format!("{repository}@{digest}"), "the blob".to_owned()).await?;
    if !asked.storage().remove_blob(repository, digest).await? {
        return Err(unknown(repository, digest));
    }
    Ok(Answer::new(StatusCode::ACCEPTED).with("docker-content-digest", digest.to_string()).empty())
}

fn unknown(repository: &Repository, digest: &Digest) -> Failure {
    Failure::new(Code::BlobUnknown, format!("{repository} has no blob {digest}"))
}
