//! The bucket: a few calls of S3, with their errors in the protocol's words.
//!
//! Owns: the client's set-up (keys, encryption, time limits, retries), and the check that the store keeps its conditions. Promises: a
//! store that says it is busy (`SlowDown`, 5xx) is asked again, with pauses that grow; a conditional write happens or it does not, and
//! nobody else's comes between; nothing is written to a store that does not keep conditions. Leaves out: what keys mean.

use super::super::failure::{Code, Failure};
use super::super::storage::Outcome;
use crate::server::ServerError;
use crate::settings::{Encryption, S3 as Settings};
use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig, UpdateVersion,
};
use std::time::{Duration, SystemTime};
use tokio::sync::OnceCell;

/// How long a busy store is asked again before its client is told.
const RETRIES: RetryConfig = RetryConfig {
    backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(10), base: 2. },
    max_retries: 10,
    retry_timeout: Duration::from_secs(60),
};
const CONNECT: Duration = Duration::from_secs(10);
/// A store that sends nothing for so long has failed; it has a part to take in that time, too.
const SILENCE: Duration = Duration::from_secs(180);
/// Above this it is no document.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Keys that one request lists.
const PAGE: usize = 1000;
/// How long a client may use a URL it was sent to.
const SIGNED_FOR: Duration = Duration::from_secs(600);

/// What an object was when it was read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(String);

/// When an object is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum When<'a> {
    Always,
    /// When there is none.
    New,
    /// When it still is this version.
    Is(&'a Version),
}

/// What became of a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    Now(Version),
    /// The condition did not hold.
    Not,
}

impl Written {
    pub(super) fn is_now(&self) -> bool {
        matches!(self, Written::Now(_))
    }
}

/// A key, with when it was last written.
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) written: SystemTime,
}

/// A bucket, or what is below a prefix of one.
pub(super) struct Bucket {
    store: AmazonS3,
    /// Empty, or it ends in a slash.
    prefix: String,
    keeps_conditions: OnceCell<()>,
}

impl Bucket {
    /// As the settings have it. Nothing is connected to yet.
    pub(super) fn open(settings: &Settings) -> Result<Bucket, ServerError> {
        let refuse = |why: String| ServerError::Config(format!("storage.s3: {why}"));
        settings.check()?;
        // One for the process; another part of it may have chosen it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keys = settings.keys()?;
        let mut builder = match &keys {
            Some((id, secret)) => AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(secret),
            // As AWS's own tools find them: variables, web identity, the container's or the machine's role.
            None => AmazonS3Builder::from_env(),
        };
        builder = builder
            .with_bucket_name(&settings.bucket)
            .with_retry(RETRIES)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_virtual_hosted_style_request(settings.virtual_hosted)
            // A body that goes on for an hour is fine as long as it goes on.
            .with_client_options(
                ClientOptions::new()
                    .with_timeout_disabled()
                    .with_connect_timeout(CONNECT)
                    .with_read_timeout(SILENCE)
                    .with_allow_http(settings.allow_http),
            );
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder = match settings.encryption()? {
            None => builder,
            Some(Encryption::Aes256) => {
                let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
                builder.with_config(key.map_err(|e| refuse(e.to_string()))?, "AES256")
            }
            Some(Encryption::Kms(key)) => builder.with_sse_kms_encryption(key),
            Some(Encryption::Dsse(key)) => builder.with_dsse_kms_encryption(key),
            Some(Encryption::Customer(key)) => builder.with_ssec_encryption(key),
        };
        if let Some(bucket_key) = settings.sse_bucket_key {
            builder = builder.with_bucket_key(bucket_key);
        }
        let store = builder.build().map_err(|e| refuse(e.to_string()))?;
        let prefix = settings.prefix.as_deref().unwrap_or_default().trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Bucket { store, prefix, keeps_conditions: OnceCell::new() })
    }

    fn path(&self, key: &str) -> Outcome<Path> {
        Path::parse(format!("{}{key}", self.prefix)).map_err(|e| failed(e.into()))
    }

    /// Refuses a store that would let two writers at once undo each other's work. Asked once, before the first write.
    pub(super) async fn check(&self) -> Outcome<()> {
        let ask = || async {
            let key = format!("probe/{}", super::random()?);
            let first = self.write(&key, Bytes::from_static(b"1"), When::New).await?;
            let again = self.write(&key, Bytes::from_static(b"2"), When::New).await?;
            let there = self.write(&key, Bytes::from_static(b"3"), When::Always).await?;
            let stale = match &first {
                Written::Now(version) => self.write(&key, Bytes::from_static(b"4"), When::Is(version)).await?,
                Written::Not => Written::Not,
            };
            self.delete(&key).await?;
            if first.is_now() && there.is_now() && again == Written::Not && stale == Written::Not {
                return Ok(());
            }
            tracing::error!(
                "the S3 store ignores If-None-Match or If-Match: tags could be lost, so nothing is written to it"
            );
            let why = "the S3 store does not keep conditional writes: use one that honours If-None-Match and If-Match";
            Err(Failure::new(Code::Unsupported, why).with_status(500))
        };
        self.keeps_conditions.get_or_try_init(ask).await.map(drop)
    }

    /// Writes an object whole.
    pub(super) async fn put(&self, key: &str, bytes: impl Into<PutPayload>, when: When<'_>) -> Outcome<Written> {
        self.check().await?;
        self.write(key, bytes, when).await
    }

    async fn write(&self, key: &str, bytes: impl Into<PutPayload>, when: When<'_>) -> Outcome<Written> {
        let mode = match when {
            When::Always => PutMode::Overwrite,
            When::New => PutMode::Create,
            When::Is(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: None }),
        };
        match self.store.put_opts(&self.path(key)?, bytes.into(), PutOptions::from(mode)).await {
            Ok(put) => Ok(Written::Now(version(put.e_tag)?)),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Written::Not),
            Err(e) => Err(failed(e)),
        }
    }

    /// An object that is a document, and which version it is.
    pub(super) async fn get(&self, key: &str) -> Outcome<Option<(Bytes, Version)>> {
        let found = match self.store.get(&self.path(key)?).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        if found.meta.size > MAX_DOCUMENT {
            tracing::error!(key, size = found.meta.size, "an object of the bucket is none of ours");
            return Err(damaged("an object of the bucket is too large to be a document"));
        }
        let version = version(found.meta.e_tag.clone())?;
        // Its stream may yet be longer than it said.
        let (mut stream, mut bytes) = (found.into_stream(), Vec::new());
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(failed)?);
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err(damaged("an object of the bucket is longer than it said"));
            }
        }
        Ok(Some((bytes.into(), version)))
    }

    /// The size and version of an object, if it is there.
    pub(super) async fn head(&self, key: &str) -> Outcome<Option<(u64, Version)>> {
        match self.store.head(&self.path(key)?).await {
            Ok(meta) => Ok(Some((meta.size, version(meta.e_tag)?))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// An object's bytes `from` to `to`, exclusive, as they come. Nothing has checked them.
    pub(super) async fn stream(
        &self,
        key: &str,
        from: u64,
        to: u64,
    ) -> Outcome<Option<BoxStream<'static, object_store::Result<Bytes>>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(from..to)), ..GetOptions::default() };
        match self.store.get_opts(&self.path(key)?, options).await {
            Ok(found) => Ok(Some(found.into_stream())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Removes an object, if it is there.
    pub(super) async fn delete(&self, key: &str) -> Outcome<()> {
        match self.store.delete(&self.path(key)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Keys that begin with `start`, after `after`, sorted, at most `limit`; both without what the settings put before.
    pub(super) async fn list(&self, start: &str, after: Option<&str>, limit: usize) -> Outcome<Vec<Listed>> {
        let prefix = format!("{}{start}", self.prefix);
        let mut found = Vec::new();
        let mut token = None;
        while found.len() < limit {
            let options = PaginatedListOptions {
                offset: after.filter(|_| token.is_none()).map(|after| format!("{}{after}", self.prefix)),
                max_keys: Some(PAGE.min(limit - found.len())),
                page_token: token.take(),
                ..PaginatedListOptions::default()
            };
            let page = self.store.list_paginated(Some(&prefix), options).await.map_err(failed)?;
            for object in page.result.objects {
                let Some(key) = object.location.as_ref().strip_prefix(&self.prefix) else { continue };
                // Not every store honours the place to begin at.
                if after.is_none_or(|after| key > after) {
                    found.push(Listed { key: key.to_owned(), written: object.last_modified.into() });
                }
            }
            match page.page_token {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    pub(super) async fn begin_parts(&self, key: &str) -> Outcome<String> {
        self.check().await?;
        self.store.create_multipart(&self.path(key)?).await.map_err(failed)
    }

    /// The part `index`, from 0; what names it when they are put together.
    pub(super) async fn put_part(&self, key: &str, upload: &str, index: usize, bytes: PutPayload) -> Outcome<String> {
        let (path, upload) = (self.path(key)?, upload.to_owned());
        match self.store.put_part(&path, &upload, index, bytes).await {
            Ok(part) => Ok(part.content_id),
            // Its session has ended meanwhile.
            Err(e) if names(&e, &["NoSuchUpload"]) => {
                let why = "the upload was finished or cancelled meanwhile: begin a new one";
                Err(Failure::new(Code::BlobUploadUnknown, why).with_status(404))
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Makes the parts one object, where they lie.
    pub(super) async fn join_parts(&self, key: &str, upload: &str, parts: &[String]) -> Outcome<()> {
        let parts = parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
        match self.store.complete_multipart(&self.path(key)?, &upload.to_owned(), parts).await {
            Ok(_) => Ok(()),
            // Another request has gone on with the session, or ended it.
            Err(e) if names(&e, &["NoSuchUpload", "InvalidPart"]) => {
                let why = "the upload's parts are not the ones that were sent: begin a new one";
                Err(Failure::new(Code::BlobUploadUnknown, why).with_status(404))
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Drops the parts.
    pub(super) async fn drop_parts(&self, key: &str, upload: &str) -> Outcome<()> {
        match self.store.abort_multipart(&self.path(key)?, &upload.to_owned()).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) if names(&e, &["NoSuchUpload"]) => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// A URL from which anyone can get this object for a while.
    pub(super) async fn signed_url(&self, key: &str) -> Outcome<String> {
        let path = self.path(key)?;
        let signed = self.store.signed_url(axum::http::Method::GET, &path, SIGNED_FOR).await;
        signed.map(|url| url.to_string()).map_err(failed)
    }
}

/// A version that cannot be told from another protects nothing.
fn version(e_tag: Option<String>) -> Outcome<Version> {
    e_tag.map(Version).ok_or_else(|| damaged("the S3 store gives no ETag"))
}

pub(super) fn damaged(why: &str) -> Failure {
    Failure::new(Code::Unsupported, why).with_status(500)
}

fn names(e: &Error, codes: &[&str]) -> bool {
    let said = e.to_string();
    codes.iter().any(|code| said.contains(code))
}

/// The store's refusal, for a client. What it said in detail is the operator's.
pub(super) fn failed(e: Error) -> Failure {
    tracing::error!(error = %e, "the S3 store failed");
    match &e {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            damaged("the S3 store does not let this registry in; the service's log says more")
        }
        e if names(e, &["SlowDown"]) => {
            Failure::new(Code::TooManyRequests, "the S3 store is busy: try again later").with_status(429)
        }
        _ => {
            let why = "the S3 store does not answer as it should: try again later; the service's log says more";
            Failure::new(Code::Unsupported, why).with_status(503)
        }
    }
}
