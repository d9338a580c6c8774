//! Where a registry's content lies.
//!
//! Owns: the trait that every back end has, and its words. Promises of a back end: what is acknowledged is durable; a blob is there
//! whole or not at all, under the digest that its bytes have; two that write the same thing at once both succeed; nothing
//! waits for what concerns another repository. Leaves out: the protocol (`securereg_oci`), and who may ask (`access`).

use super::failure::Failure;
use async_trait::async_trait;
use axum::body::{Body, Bytes};
use securereg_oci::Digest;
use securereg_oci::Repository;
use std::time::Duration;

pub(super) type Outcome<T> = Result<T, Failure>;

/// Small files of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// Manifests, by digest.
    Manifest,
    /// Tags: each the digest it points to.
    Tag,
    /// Of this subject: descriptors, by the digest of the manifest they describe.
    Referrer(&'a Digest),
    /// Of this blob: the manifests of models that hold it.
    Holder(&'a Digest),
}

/// When a document is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Put<'a> {
    Always,
    /// When there is none yet.
    New,
    /// When it still is this.
    Instead(&'a [u8]),
}

/// What may come next in a session of so many bytes.
pub(super) type Admit<'a> = &'a (dyn Fn(u64) -> Outcome<()> + Send + Sync);

#[async_trait]
pub(super) trait Storage: Send + Sync {
    /// A new upload session, and its id.
    async fn begin(&self, repository: &Repository) -> Outcome<String>;
    /// Bytes that a session has.
    async fn upload_size(&self, repository: &Repository, id: &str) -> Outcome<u64>;
    /// Adds to a session, if `admit` takes it as it is; what arrived of a body that breaks off stays. Its size then.
    async fn append(&self, repository: &Repository, id: &str, admit: Admit<'_>, body: Body) -> Outcome<u64>;
    /// Adds to a session, and makes it the blob `digest`.
    async fn finish(
        &self,
        repository: &Repository,
        id: &str,
        admit: Admit<'_>,
        body: Body,
        digest: &Digest,
    ) -> Outcome<()>;
    /// Ends a session and drops its bytes.
    async fn abandon(&self, repository: &Repository, id: &str) -> Outcome<()>;
    /// Ends the sessions that nobody has had for this long; how many.
    async fn expire(&self, older_than: Duration) -> Outcome<usize>;

    /// The size of a blob of this repository.
    async fn blob(&self, repository: &Repository, digest: &Digest) -> Outcome<Option<u64>>;
    /// The same for who is about to refer to it, or asks in order to: no sweep drops it meanwhile.
    async fn renew(&self, repository: &Repository, digest: &Digest) -> Outcome<Option<u64>> {
        self.blob(repository, digest).await
    }
    /// Bytes `from` to `to`, exclusive. Of a local blob each is checked before it is given out; of one in S3, when it is read whole, the
    /// last bytes are held back until all of them are, and a range of it cannot be checked.
    async fn read(&self, repository: &Repository, digest: &Digest, from: u64, to: u64) -> Outcome<Body>;
    /// Where clients are to read this blob instead, unchecked; only when the settings ask for it.
    async fn redirect(&self, _repository: &Repository, _digest: &Digest) -> Outcome<Option<String>> {
        Ok(None)
    }
    /// Sees to it that the core's content has this blob under the same repository, until it is released.
    async fn localise(&self, _repository: &Repository, _digest: &Digest) -> Outcome<()> {
        Ok(())
    }
    /// Undoes one `localise`.
    async fn release(&self, _repository: &Repository, _digest: &Digest) -> Outcome<()> {
        Ok(())
    }
    /// Makes a blob of one repository one of another, too. Whether it was there.
    async fn mount(&self, from: &Repository, to: &Repository, digest: &Digest) -> Outcome<bool>;
    /// Takes a blob from a repository. Whether it was there.
    async fn remove_blob(&self, repository: &Repository, digest: &Digest) -> Outcome<bool>;

    /// Writes a document. Whether `put` allowed it.
    async fn put(
        &self,
        repository: &Repository,
        kind: Kind<'_>,
        name: &str,
        bytes: Bytes,
        put: Put<'_>,
    ) -> Outcome<bool>;
    async fn get(&self, repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<Option<Bytes>>;
    /// Whether it was there.
    async fn remove(&self, repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<bool>;
    /// Names after `after`, sorted, at most `limit`.
    async fn list(
        &self,
        repository: &Repository,
        kind: Kind<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Outcome<Vec<String>>;
    /// Repositories that have anything, after `after`, sorted, at most `limit`.
    async fn repositories(&self, after: Option<&str>, limit: usize) -> Outcome<Vec<Repository>>;
}
