//! Which blobs a repository has in the bucket.
//!
//! Owns: a small document a blob, which names the object that holds the bytes, and the marks of those who share an object. Promises: a
//! record is written when the bytes are there, and the bytes go when nobody has a record of them: never before, whoever mounts and
//! removes at once; at worst something is left behind. Leaves out: the bytes.
//!
//! ```text
//! repos/<repository>/_blobs/<algorithm>-<hex>    the record
//! shared/<id>/<random>                           somebody besides the first repository has data/<id>/...
//! ```
//! Who mounts writes a mark, looks whether the source still has its record, and writes its own. Who removes takes its record away, then
//! its mark, then looks for the first repository's record, then for marks. So one of the two sees the other.

use super::super::storage::Outcome;
use super::bucket::{Bucket, When, damaged};
use axum::body::Bytes;
use parking_lot::Mutex;
use securereg_oci::{Digest, Repository};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// How often something may change under our hands before it is an error.
const TRIES: usize = 8;
/// Objects that are remembered as damaged.
const MAX_DAMAGED: usize = 10_000;

/// A blob of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) size: u64,
    pub(super) sha256: String,
    pub(super) object: String,
    /// The repository it was pushed to.
    pub(super) owner: String,
    /// Its mark, of one that shares the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<String>,
}

impl Record {
    /// `<id>` of `data/<id>/...`.
    fn source(&self) -> Option<&str> {
        self.object.strip_prefix("data/")?.split('/').next()
    }

    fn marks(&self) -> String {
        format!("shared/{}/", self.source().unwrap_or_default())
    }

    fn bytes(&self) -> Outcome<Bytes> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|_| damaged("a record cannot be written"))
    }
}

/// `sha256-<hex>`.
pub(super) fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

fn key(repository: &Repository, digest: &Digest) -> String {
    format!("repos/{repository}/_blobs/{}", file_name(digest))
}

/// The records of a bucket.
pub(super) struct Records {
    /// Objects that were seen not to be what they should: they are not there, so that they are pushed again.
    damaged: Mutex<HashSet<String>>,
}

impl Records {
    pub(super) fn new() -> Records {
        Records { damaged: Mutex::default() }
    }

    pub(super) fn condemn(&self, object: &str) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < MAX_DAMAGED {
            damaged.insert(object.to_owned());
        }
    }

    pub(super) async fn read(
        &self,
        bucket: &Bucket,
        repository: &Repository,
        digest: &Digest,
    ) -> Outcome<Option<Record>> {
        let Some((bytes, _)) = bucket.get(&key(repository, digest)).await? else { return Ok(None) };
        parse(&bytes).map(Some)
    }

    /// The same, if its bytes are there, as far as can be seen without reading them.
    pub(super) async fn whole(
        &self,
        bucket: &Bucket,
        repository: &Repository,
        digest: &Digest,
    ) -> Outcome<Option<Record>> {
        match self.read(bucket, repository, digest).await? {
            Some(record) if self.is_there(bucket, &record).await? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    async fn is_there(&self, bucket: &Bucket, record: &Record) -> Outcome<bool> {
        if self.damaged.lock().contains(&record.object) {
            return Ok(false);
        }
        Ok(bucket.head(&record.object).await?.is_some_and(|(size, _)| size == record.size))
    }

    /// Makes a blob one of a repository, unless it has it already. The record that is there then.
    pub(super) async fn write(
        &self,
        bucket: &Bucket,
        repository: &Repository,
        digest: &Digest,
        record: &Record,
    ) -> Outcome<Record> {
        let key = key(repository, digest);
        for _ in 0..TRIES {
            if bucket.put(&key, record.bytes()?, When::New).await?.is_now() {
                return Ok(record.clone());
            }
            let Some((bytes, version)) = bucket.get(&key).await? else { continue };
            // One that cannot be read is replaced, as is one whose bytes are gone.
            if let Ok(there) = parse(&bytes)
                && (there.object == record.object || self.is_there(bucket, &there).await?)
            {
                return Ok(there);
            }
            if bucket.put(&key, record.bytes()?, When::Is(&version)).await?.is_now() {
                return Ok(record.clone());
            }
        }
        Err(damaged("the record of a blob keeps changing: try again"))
    }

    /// Takes back a record that was written too late.
    pub(super) async fn withdraw(
        &self,
        bucket: &Bucket,
        repository: &Repository,
        digest: &Digest,
        object: &str,
    ) -> Outcome<()> {
        match self.read(bucket, repository, digest).await? {
            Some(there) if there.object == object => bucket.delete(&key(repository, digest)).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn mount(
        &self,
        bucket: &Bucket,
        from: &Repository,
        to: &Repository,
        digest: &Digest,
    ) -> Outcome<bool> {
        let Some(source) = self.whole(bucket, from, digest).await? else { return Ok(false) };
        if from == to {
            return Ok(true);
        }
        let mark = super::random()?;
        let own = Record { mark: Some(mark.clone()), ..source.clone() };
        let mark = format!("{}{mark}", own.marks());
        bucket.put(&mark, Bytes::new(), When::Always).await?;
        // Once the mark is there, whoever removes the source's record sees it.
        let still = self.read(bucket, from, digest).await?.is_some_and(|now| now.object == source.object);
        let there = if still { Some(self.write(bucket, to, digest, &own).await?) } else { None };
        if there.as_ref() != Some(&own) {
            bucket.delete(&mark).await?;
        }
        Ok(there.is_some())
    }

    /// Takes a blob from a repository. Whether it was there.
    pub(super) async fn remove(&self, bucket: &Bucket, repository: &Repository, digest: &Digest) -> Outcome<bool> {
        let key = key(repository, digest);
        let Some((bytes, _)) = bucket.get(&key).await? else { return Ok(false) };
        bucket.delete(&key).await?;
        // One that cannot be read says nothing of bytes.
        let Ok(record) = parse(&bytes) else { return Ok(true) };
        if let Some(mark) = &record.mark {
            bucket.delete(&format!("{}{mark}", record.marks())).await?;
        }
        self.drop_unheld(bucket, repository, digest, &record).await?;
        Ok(true)
    }

    async fn drop_unheld(
        &self,
        bucket: &Bucket,
        repository: &Repository,
        digest: &Digest,
        record: &Record,
    ) -> Outcome<()> {
        if record.source().is_none() {
            return Ok(());
        }
        // In this order: see above.
        if record.owner != repository.as_str()
            && let Ok(owner) = record.owner.parse::<Repository>()
            && self.read(bucket, &owner, digest).await?.is_some_and(|there| there.object == record.object)
        {
            return Ok(());
        }
        if bucket.list(&record.marks(), None, 1).await?.is_empty() {
            bucket.delete(&record.object).await?;
            self.damaged.lock().remove(&record.object);
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Outcome<Record> {
    let record: Record = serde_json::from_slice(bytes).map_err(|_| broken())?;
    let key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'/' | b'-');
    let mark = |mark: &String| mark.bytes().all(|b| b.is_ascii_hexdigit());
    let plain = record.object.starts_with("data/") && record.object.bytes().all(key);
    if plain && record.mark.as_ref().is_none_or(mark) { Ok(record) } else { Err(broken()) }
}

fn broken() -> super::super::failure::Failure {
    damaged("the record of a blob in the bucket is damaged: push the blob again")
}
