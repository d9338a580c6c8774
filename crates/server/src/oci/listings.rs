//! Lists: tags, repositories, referrers.
//!
//! Owns: paging. Promises: sorted; `[]`, never null; nothing that the caller may not pull. Leaves out: the bodies' form
//! (`securereg_oci`).

use super::Asked;
use super::access::Right;
use super::failure::{Code, Failure};
use super::manifests::{file_name, resolve, stored};
use super::reply::Answer;
use super::storage::{Kind, Outcome};
use axum::http::StatusCode;
use axum::response::Response;
use securereg_oci::Digest;
use securereg_oci::manifest::Manifest;
use securereg_oci::page::{self, Page};
use securereg_oci::referrers;
use securereg_oci::{Repository, Tag};
use serde_json::Value;
use std::collections::HashSet;

/// Entries of a page that asks for no number.
const PAGE: usize = 10_000;
/// Descriptors of a page of referrers.
const REFERRERS: usize = 1_000;
/// Bytes of them.
const BYTES: usize = 4 << 20;

pub(super) async fn tags(asked: &Asked, repository: &Repository) -> Outcome<Response> {
    let page = Page::parse(asked.parts.uri.query().unwrap_or_default())?;
    if !exists(asked, repository).await? {
        return Err(Failure::new(Code::NameUnknown, format!("there is no repository {repository}")));
    }
    let n = page.n.unwrap_or(PAGE).min(PAGE);
    let mut names = asked.storage().list(repository, Kind::Tag, page.last.as_deref(), n + 1).await?;
    let more = names.len() > n && n > 0;
    names.truncate(n);
    let link =
        more.then(|| page::link(&format!("/v2/{repository}/tags/list"), names.last().map_or("", |l| l), Some(n)));
    let answer = Answer::new(StatusCode::OK).with("content-type", "application/json").with_some("link", link);
    Ok(answer.body(page::tags_list(repository, &names)))
}

async fn exists(asked: &Asked, repository: &Repository) -> Outcome<bool> {
    for kind in [Kind::Tag, Kind::Manifest] {
        if !asked.storage().list(repository, kind, None, 1).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) async fn catalog(asked: &Asked) -> Outcome<Response> {
    let page = Page::parse(asked.parts.uri.query().unwrap_or_default())?;
    let n = page.n.unwrap_or(PAGE).min(PAGE);
    let mut names: Vec<String> = Vec::new();
    let mut after = page.last.clone();
    // Of each batch only some may be the caller's.
    while names.len() <= n {
        let batch = asked.storage().repositories(after.as_deref(), PAGE).await?;
        let Some(last) = batch.last() else { break };
        after = Some(last.to_string());
        let visible = batch.iter().filter(|name| asked.caller.may(Right::Pull, name));
        names.extend(visible.map(ToString::to_string));
        if batch.len() < PAGE {
            break;
        }
    }
    let more = names.len() > n && n > 0;
    names.truncate(n);
    let link = more.then(|| page::link("/v2/_catalog", names.last().map_or("", |l| l), Some(n)));
    let answer = Answer::new(StatusCode::OK).with("content-type", "application/json").with_some("link", link);
    Ok(answer.body(page::catalog(&names)))
}

pub(super) async fn referrers(asked: &Asked, repository: &Repository, subject: &Digest) -> Outcome<Response> {
    let page = Page::parse(asked.parts.uri.query().unwrap_or_default())?;
    let filter = asked.parameter("artifactType").filter(|filter| !filter.is_empty());
    let n = page.n.unwrap_or(REFERRERS).clamp(1, REFERRERS);
    let mut names = asked.storage().list(repository, Kind::Referrer(subject), page.last.as_deref(), n + 1).await?;
    let mut more = names.len() > n;
    names.truncate(n);
    let mut descriptors: Vec<Value> = Vec::new();
    let mut left = BYTES;
    for (i, name) in names.iter().enumerate() {
        let Some(bytes) = asked.storage().get(repository, Kind::Referrer(subject), name).await? else { continue };
        // At least one a page.
        if bytes.len() > left && i > 0 {
            names.truncate(i);
            more = true;
            break;
        }
        left = left.saturating_sub(bytes.len());
        descriptors.extend(serde_json::from_slice::<Value>(&bytes));
    }
    if !more {
        for imported in fallback(asked, repository, subject, left).await? {
            if !descriptors.iter().any(|known| known["digest"] == imported["digest"]) {
                descriptors.push(imported);
            }
        }
    }
    let link = more.then(|| {
        let path = match &filter {
            Some(filter) => format!("/v2/{repository}/referrers/{subject}?artifactType={}", page::encoded(filter)),
            None => format!("/v2/{repository}/referrers/{subject}"),
        };
        page::link(&path, names.last().map_or("", |l| l), Some(n))
    });
    let answer = Answer::new(StatusCode::OK)
        .with("content-type", "application/vnd.oci.image.index.v1+json")
        .with_some("link", link)
        .with_some("oci-filters-applied", filter.as_ref().map(|_| "artifactType"));
    Ok(answer.body(referrers::index(descriptors, filter.as_deref())))
}

/// What clients without the referrers API have noted under the tag `sha256-<hex>`.
async fn fallback(asked: &Asked, repository: &Repository, subject: &Digest, budget: usize) -> Outcome<Vec<Value>> {
    let Ok(tag) = file_name(subject).parse::<Tag>() else { return Ok(Vec::new()) };
    let Some(digest) = resolve(asked, repository, &tag).await? else { return Ok(Vec::new()) };
    let Some(index) = stored(asked, repository, &digest).await? else { return Ok(Vec::new()) };
    let Ok(index) = Manifest::parse(&index.bytes, Some(&index.head.media_type)) else { return Ok(Vec::new()) };
    let (mut found, mut seen, mut left) = (Vec::new(), HashSet::new(), budget);
    for child in index.manifests().iter().take(REFERRERS) {
        if !seen.insert(&child.digest) {
            continue;
        }
        let Some(there) = stored(asked, repository, &child.digest).await? else { continue };
        // A descriptor has a copy of the manifest's annotations.
        let Some(rest) = left.checked_sub(there.bytes.len()) else { break };
        left = rest;
        if let Ok(manifest) = Manifest::parse(&there.bytes, Some(&there.head.media_type)) {
            found.push(referrers::descriptor_of(&manifest, &child.digest, there.bytes.len() as u64));
        }
    }
    Ok(found)
}
