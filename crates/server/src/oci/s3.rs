//! The second back end: a bucket of S3, which several instances share.
//!
//! Owns: where things lie in the bucket, and the trait's methods in terms of the parts below. Promises: nothing is kept in a process that
//! another needs, so any instance answers any request; documents are written whole and conditionally (`bucket`), so no tag is lost;
//! a blob's bytes are streamed into the object they stay in (`filling`), and never copied; a whole blob is checked while it is
//! read, a range cannot be (`reading`). Leaves out: checked ranges, which need a tree beside each blob; a model's files are brought
//! into the local store, and checked there.
//!
//! ```text
//! names/<repository>!                           that there is such a repository; it stays
//! repos/<repository>/_blobs/<digest>            record.rs
//!                    _manifests/ _tags/ _referrers/<digest>/ _holders/<digest>/   documents
//! uploads/<repository>/_/<id>                   session.rs
//! data/<id>/joined, whole, tail-<n>             bytes
//! shared/<id>/<mark>                            record.rs
//! ```

mod bucket;
mod filling;
mod localise;
mod reading;
mod record;
mod session;
#[cfg(test)]
pub(super) mod tests;

use super::failure::{Code, Failure};
use super::local::{Batches, Local};
use super::storage::{Admit, Kind, Outcome, Put, Storage};
use crate::server::ServerError;
use crate::settings::S3 as Settings;
use async_trait::async_trait;
use axum::body::{Body, Bytes};
use bucket::{Bucket, Version, When};
use filling::{ALL_UNDER_WAY, Filling};
use futures_util::{StreamExt, stream};
use localise::Localised;
use parking_lot::Mutex;
use record::{Record, Records, file_name};
use securereg::Registry;
use securereg_oci::{Digest, Repository};
use session::{Place, Session};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;

/// A repository has no more sessions at once.
const MAX_SESSIONS: usize = 1000;
/// No document's name is longer.
const MAX_NAME: usize = 255;
/// Requests that one listing has under way.
const ABREAST: usize = 16;

/// Repositories in a bucket.
pub(crate) struct S3 {
    shared: Arc<Shared>,
    local: Local,
    localised: Localised,
    /// Time for the next bytes of a body.
    patience: Duration,
    redirect: bool,
}

struct Shared {
    bucket: Arc<Bucket>,
    records: Arc<Records>,
    memory: Arc<Semaphore>,
    /// Sessions that a request of this process has.
    in_use: Mutex<HashSet<String>>,
    /// Repositories whose names are in the bucket.
    named: Mutex<HashSet<String>>,
}

impl S3 {
    /// As the settings have it. Nothing is connected to yet.
    pub(crate) fn new(settings: &Settings, registry: &Registry, patience: Duration) -> Result<S3, ServerError> {
        let shared = Shared {
            bucket: Arc::new(Bucket::open(settings)?),
            records: Arc::new(Records::new()),
            memory: Arc::new(Semaphore::new(ALL_UNDER_WAY)),
            in_use: Mutex::default(),
            named: Mutex::default(),
        };
        let local = Local::new(registry, patience);
        let localised = Localised::default();
        Ok(S3 { shared: Arc::new(shared), local, localised, patience, redirect: settings.redirect })
    }

    fn bucket(&self) -> &Bucket {
        &self.shared.bucket
    }

    /// Takes a session for this request: as it is in the bucket, and not over.
    async fn take(&self, repository: &Repository, id: &str) -> Outcome<(InUse, Place, Session, Version)> {
        let place = Place::new(repository, id).ok_or_else(|| session::unknown(repository))?;
        let in_use = InUse::new(&self.shared, &place).ok_or_else(|| session::taken(repository))?;
        let (session, version) = place.load(self.bucket()).await?;
        Ok((in_use, place, session, version))
    }

    /// Goes on with a session in a task of its own, which lives on when the client has gone.
    async fn fill(
        &self,
        in_use: InUse,
        place: Place,
        session: Session,
        version: Version,
        body: Body,
        digest: Option<Digest>,
    ) -> Outcome<u64> {
        let filling = Filling::new(&self.shared.bucket, &self.shared.memory, place, session, version)?;
        let shared = Arc::clone(&self.shared);
        let batches = Batches::new(body, self.patience);
        let task = tokio::spawn(async move {
            let _in_use = in_use;
            shared.run(filling, batches, digest).await
        });
        task.await.unwrap_or_else(|e| {
            tracing::error!(error = %e, "an upload ended early");
            Err(bucket::damaged("internal error; the service's log says more"))
        })
    }
}

impl Shared {
    async fn run(&self, mut filling: Filling, mut batches: Batches, digest: Option<Digest>) -> Outcome<u64> {
        let broken = loop {
            match batches.next().await {
                Ok(None) => break None,
                Err(broken) => break Some(broken),
                Ok(Some(batch)) => {
                    if let Err(failed) = filling.add(&batch).await {
                        filling.rescue().await;
                        return Err(failed);
                    }
                }
            }
        };
        match (broken, digest) {
            (None, None) => filling.suspend().await,
            (Some(broken), _) => {
                filling.suspend().await?;
                Err(broken)
            }
            (None, Some(digest)) => self.finish(filling, &digest).await,
        }
    }

    async fn finish(&self, mut filling: Filling, digest: &Digest) -> Outcome<u64> {
        let (object, size) = match filling.complete(digest).await {
            Ok(done) => done,
            Err(e) if e.code == Code::DigestInvalid => {
                let (place, session, version) = filling.give_up().await;
                if let Err(e) = self.discard(&place, session, &version).await {
                    tracing::warn!(error = %e.message, "a refused upload stays until it expires");
                }
                return Err(e);
            }
            Err(e) => {
                filling.rescue().await;
                return Err(e);
            }
        };
        let repository = filling.place().repository.clone();
        self.name(&repository).await?;
        let owner = repository.to_string();
        let record = Record { size, sha256: filling.sha256(), object: object.clone(), owner, mark: None };
        let there = self.records.write(&self.bucket, &repository, digest, &record).await?;
        if there.object != object {
            // It has been pushed before, or at the same time.
            filling.close(&object).await;
            self.bucket.delete(&object).await?;
        } else if filling.is_ours().await? {
            filling.close(&object).await;
        } else {
            // Somebody has ended the session, and may not have seen the record.
            self.records.withdraw(&self.bucket, &repository, digest, &object).await?;
            return Err(session::taken(&repository));
        }
        Ok(size)
    }

    /// What a session became, if its blob's record is there: then it is over.
    async fn settled(&self, place: &Place, session: &Session) -> Outcome<Option<(Digest, String)>> {
        let Some(digest) = session::finishing(session) else { return Ok(None) };
        let record = self.records.read(&self.bucket, &place.repository, &digest).await?;
        Ok(record.filter(|record| place.has(&record.object)).map(|record| (digest, record.object)))
    }

    /// Ends a session and drops its bytes, but those that are a blob's.
    async fn discard(&self, place: &Place, mut session: Session, version: &Version) -> Outcome<()> {
        // Whoever has it now is told so, or has been faster; after this no record of these bytes is written that stays.
        place.save(&self.bucket, &mut session, Some(version)).await?;
        let kept = self.settled(place, &session).await?.map(|(_, object)| object);
        if let Some(upload) = &session.upload {
            self.bucket.drop_parts(&place.joined(), upload).await?;
        }
        for listed in self.bucket.list(&format!("data/{}/", place.id), None, usize::MAX).await? {
            if Some(&listed.key) != kept.as_ref() {
                self.bucket.delete(&listed.key).await?;
            }
        }
        self.bucket.delete(&place.key()).await
    }

    /// Sees to it that the repository is listed.
    async fn name(&self, repository: &Repository) -> Outcome<()> {
        if self.named.lock().contains(repository.as_str()) {
            return Ok(());
        }
        self.bucket.put(&format!("names/{repository}!"), Bytes::new(), When::Always).await?;
        self.named.lock().insert(repository.to_string());
        Ok(())
    }
}

/// A session that a request of this process has.
struct InUse {
    shared: Arc<Shared>,
    key: String,
}

impl InUse {
    fn new(shared: &Arc<Shared>, place: &Place) -> Option<InUse> {
        let key = place.key();
        shared.in_use.lock().insert(key.clone()).then(|| InUse { shared: Arc::clone(shared), key })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.shared.in_use.lock().remove(&self.key);
    }
}

/// 128 bits from the kernel, as hex.
fn random() -> Outcome<String> {
    let text = crate::tokens::random_hex().map_err(|_| bucket::damaged("the system gives no random bytes"))?;
    Ok(text.chars().take(32).collect())
}

fn folder(repository: &Repository, kind: Kind<'_>) -> String {
    let below = match kind {
        Kind::Manifest => "_manifests".to_owned(),
        Kind::Tag => "_tags".to_owned(),
        Kind::Referrer(digest) => format!("_referrers/{}", file_name(digest)),
        Kind::Holder(digest) => format!("_holders/{}", file_name(digest)),
    };
    format!("repos/{repository}/{below}/")
}

fn document(repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<String> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !first || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return Err(
            Failure::new(Code::NameInvalid, "a document's name is a tag or a digest with a dash").with_status(400)
        );
    }
    Ok(folder(repository, kind) + name)
}

#[async_trait]
impl Storage for S3 {
    async fn begin(&self, repository: &Repository) -> Outcome<String> {
        let id = random()?;
        let place = Place::new(repository, &id).ok_or_else(|| session::unknown(repository))?;
        let begun = Place::all_of(repository);
        let mut session = Session::new();
        let written = place.save(self.bucket(), &mut session, None);
        let (written, others) = tokio::join!(written, self.bucket().list(&begun, None, MAX_SESSIONS + 1));
        written?;
        if others?.len() > MAX_SESSIONS {
            self.bucket().delete(&place.key()).await?;
            let why = format!(
                "{repository} has {MAX_SESSIONS} unfinished uploads: finish or cancel some, or wait until they expire"
            );
            return Err(Failure::new(Code::TooManyRequests, why));
        }
        Ok(id)
    }

    async fn upload_size(&self, repository: &Repository, id: &str) -> Outcome<u64> {
        let place = Place::new(repository, id).ok_or_else(|| session::unknown(repository))?;
        let (session, _) = place.load(self.bucket()).await?;
        match self.shared.settled(&place, &session).await? {
            Some(_) => Err(place.unknown()),
            None => Ok(session.size()),
        }
    }

    async fn append(&self, repository: &Repository, id: &str, admit: Admit<'_>, body: Body) -> Outcome<u64> {
        let (in_use, place, session, version) = self.take(repository, id).await?;
        if self.shared.settled(&place, &session).await?.is_some() {
            return Err(place.unknown());
        }
        admit(session.size())?;
        self.fill(in_use, place, session, version, body, None).await
    }

    async fn finish(
        &self,
        repository: &Repository,
        id: &str,
        admit: Admit<'_>,
        body: Body,
        digest: &Digest,
    ) -> Outcome<()> {
        let (in_use, place, session, version) = self.take(repository, id).await?;
        if let Some((became, _)) = self.shared.settled(&place, &session).await? {
            // The instance that finished it was ended before it could say so.
            self.shared.discard(&place, session, &version).await?;
            return if became == *digest { Ok(()) } else { Err(place.unknown()) };
        }
        admit(session.size())?;
        self.fill(in_use, place, session, version, body, Some(digest.clone())).await.map(drop)
    }

    async fn abandon(&self, repository: &Repository, id: &str) -> Outcome<()> {
        let (_in_use, place, session, version) = self.take(repository, id).await?;
        self.shared.discard(&place, session, &version).await
    }

    async fn expire(&self, older_than: Duration) -> Outcome<usize> {
        let Some(limit) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
        let mut ended = 0;
        for listed in self.bucket().list("uploads/", None, usize::MAX).await? {
            let Some(place) = Place::of_key(&listed.key).filter(|_| listed.written <= limit) else { continue };
            match self.abandon(&place.repository, &place.id).await {
                Ok(()) => ended += 1,
                Err(e) => tracing::warn!(key = listed.key, error = %e.message, "an upload that has expired stays"),
            }
        }
        Ok(ended)
    }

    async fn blob(&self, repository: &Repository, digest: &Digest) -> Outcome<Option<u64>> {
        let record = self.shared.records.whole(self.bucket(), repository, digest).await?;
        Ok(record.map(|record| record.size))
    }

    async fn read(&self, repository: &Repository, digest: &Digest, from: u64, to: u64) -> Outcome<Body> {
        let unknown = || Failure::new(Code::BlobUnknown, format!("{repository} has no blob {digest}")).with_status(404);
        let record = self.shared.records.read(self.bucket(), repository, digest).await?.ok_or_else(unknown)?;
        if from >= to || to > record.size {
            return Ok(Body::empty());
        }
        let source = self.bucket().stream(&record.object, from, to).await?.ok_or_else(unknown)?;
        let whole = (from == 0 && to == record.size).then(|| digest.clone());
        let (records, object) = (Arc::clone(&self.shared.records), record.object);
        Ok(Body::from_stream(reading::checked(source, to - from, whole, move || records.condemn(&object))))
    }

    async fn redirect(&self, repository: &Repository, digest: &Digest) -> Outcome<Option<String>> {
        if !self.redirect {
            return Ok(None);
        }
        match self.shared.records.read(self.bucket(), repository, digest).await? {
            Some(record) => self.bucket().signed_url(&record.object).await.map(Some),
            None => Ok(None),
        }
    }

    async fn localise(&self, repository: &Repository, digest: &Digest) -> Outcome<()> {
        self.localised.bring(self, &self.local, repository, digest).await
    }

    async fn release(&self, repository: &Repository, digest: &Digest) -> Outcome<()> {
        self.localised.release(&self.local, repository, digest).await
    }

    async fn mount(&self, from: &Repository, to: &Repository, digest: &Digest) -> Outcome<bool> {
        self.shared.name(to).await?;
        self.shared.records.mount(self.bucket(), from, to, digest).await
    }

    async fn remove_blob(&self, repository: &Repository, digest: &Digest) -> Outcome<bool> {
        self.shared.records.remove(self.bucket(), repository, digest).await
    }

    async fn put(
        &self,
        repository: &Repository,
        kind: Kind<'_>,
        name: &str,
        bytes: Bytes,
        put: Put<'_>,
    ) -> Outcome<bool> {
        let key = document(repository, kind, name)?;
        self.shared.name(repository).await?;
        let written = match put {
            Put::Always => self.bucket().put(&key, bytes, When::Always).await?,
            Put::New => self.bucket().put(&key, bytes, When::New).await?,
            Put::Instead(before) => match self.bucket().get(&key).await? {
                Some((there, version)) if there == before => self.bucket().put(&key, bytes, When::Is(&version)).await?,
                _ => return Ok(false),
            },
        };
        Ok(written.is_now())
    }

    async fn get(&self, repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<Option<Bytes>> {
        let Ok(key) = document(repository, kind, name) else { return Ok(None) };
        Ok(self.bucket().get(&key).await?.map(|(bytes, _)| bytes))
    }

    async fn remove(&self, repository: &Repository, kind: Kind<'_>, name: &str) -> Outcome<bool> {
        let Ok(key) = document(repository, kind, name) else { return Ok(false) };
        let there = self.bucket().head(&key).await?.is_some();
        if there {
            self.bucket().delete(&key).await?;
        }
        Ok(there)
    }

    async fn list(
        &self,
        repository: &Repository,
        kind: Kind<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Outcome<Vec<String>> {
        let folder = folder(repository, kind);
        let after = after.map(|after| format!("{folder}{after}"));
        let listed = self.bucket().list(&folder, after.as_deref(), limit).await?;
        Ok(listed.into_iter().filter_map(|listed| listed.key.strip_prefix(&folder).map(str::to_owned)).collect())
    }

    async fn repositories(&self, after: Option<&str>, limit: usize) -> Outcome<Vec<Repository>> {
        let mut after = after.map(|after| format!("names/{after}!"));
        let mut found = Vec::new();
        while found.len() < limit {
            let batch = self.bucket().list("names/", after.as_deref(), limit - found.len()).await?;
            let Some(last) = batch.last() else { break };
            after = Some(last.key.clone());
            let names =
                batch.iter().filter_map(|listed| listed.key.strip_prefix("names/")?.strip_suffix('!')?.parse().ok());
            // A name stays when all that the repository had has gone.
            let held = stream::iter(names.collect::<Vec<Repository>>()).map(|repository| async move {
                let any = self.bucket().list(&format!("repos/{repository}/_"), None, 1).await?;
                Outcome::Ok((!any.is_empty()).then_some(repository))
            });
            let mut held = held.buffered(ABREAST);
            while let Some(repository) = held.next().await {
                found.extend(repository?);
            }
        }
        Ok(found)
    }
}
