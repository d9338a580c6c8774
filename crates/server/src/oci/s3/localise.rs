//! A model's files, out of the bucket into the core's store, where they are judged and mounted from.
//!
//! Owns: which are wanted there, and by how many. Promises: what is brought was checked by the core; it stays while anyone who asked for
//! it needs it, and after that while a model holds it. Leaves out: judging (`admission`).

use super::super::local::Local;
use super::super::storage::{Outcome, Storage};
use axum::body::Body;
use securereg_oci::{Digest, Repository};
use std::collections::HashMap;
use tokio::sync::Mutex;

/// Blobs in the core's store for the time of a judgement, each with how many need it.
#[derive(Default)]
pub(super) struct Localised {
    /// Held while one of them is taken away, so that nobody counts on it meanwhile; never while one is brought.
    wanted: Mutex<HashMap<(Repository, Digest), usize>>,
}

impl Localised {
    pub(super) async fn bring(
        &self,
        from: &dyn Storage,
        local: &Local,
        repository: &Repository,
        digest: &Digest,
    ) -> Outcome<()> {
        *self.wanted.lock().await.entry((repository.clone(), digest.clone())).or_default() += 1;
        let brought = copy(from, local, repository, digest).await;
        if brought.is_err() {
            self.release(local, repository, digest).await?;
        }
        brought
    }

    pub(super) async fn release(&self, local: &Local, repository: &Repository, digest: &Digest) -> Outcome<()> {
        let key = (repository.clone(), digest.clone());
        let mut wanted = self.wanted.lock().await;
        match wanted.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                wanted.remove(&key);
                // A model that was promoted from it holds the bytes by now.
                local.remove_blob(repository, digest).await?;
            }
            None => {}
        }
        Ok(())
    }
}

async fn copy(from: &dyn Storage, local: &Local, repository: &Repository, digest: &Digest) -> Outcome<()> {
    if local.blob(repository, digest).await?.is_some() {
        return Ok(());
    }
    let Some(size) = from.blob(repository, digest).await? else { return Ok(()) };
    let body = if size == 0 { Body::empty() } else { from.read(repository, digest, 0, size).await? };
    let id = local.begin(repository).await?;
    let finished = local.finish(repository, &id, &|_| Ok(()), body, digest).await;
    if finished.is_err() {
        // A digest that did not match has ended it already.
        let _ = local.abandon(repository, &id).await;
    }
    finished
}
