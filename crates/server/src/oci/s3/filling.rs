//! Bytes on their way into the bucket.
//!
//! Owns: one request's hold on a session: hashing, cutting into parts, several of which are under way at once, and what is kept when it
//! ends. Promises: the bytes are hashed once, as they pass, and never read back, but for a tail and a SHA-512; a session in the
//! bucket is at any moment one that can be gone on with; memory is bounded whatever the blob's size below 8 GiB. Leaves out:
//! records of blobs (`record`).
//!
//! ```text
//! body ── hash ── buffer ── part ── part ── ...     every 64 MiB that are in, the session's document
//!                    └ at the end: a part, or a tail
//! ```

use super::super::failure::{Code, Failure};
use super::super::storage::Outcome;
use super::bucket::{Bucket, Version, When, damaged};
use super::session::{MAX_OBJECT, MAX_PARTS, Place, Session, Tail, hex, least_part, part_size, taken};
use axum::body::Bytes;
use futures_util::StreamExt;
use securereg::Sha256Stream;
use securereg_oci::{Algorithm, Digest};
use std::collections::{BTreeMap, TryReserveError, VecDeque};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes of parts that one upload has under way, if a part is not larger.
const UNDER_WAY: u64 = 16 << 20;
/// MiB of parts that all uploads have under way.
pub(super) const ALL_UNDER_WAY: usize = 128;
/// How much is sent again, at most, when an instance is killed.
const CHECKPOINT: u64 = 64 << 20;

/// Up to here a buffer grows as it is filled.
const SMALL: usize = 1 << 20;
/// Room for larger parts is made as they come.
const LARGEST_AT_ONCE: usize = 64 << 20;

/// A part that is cut, with the hash of all bytes up to its end.
struct Cut {
    size: u64,
    stream: Sha256Stream,
}

pub(super) struct Filling {
    bucket: Arc<Bucket>,
    memory: Arc<Semaphore>,
    place: Place,
    /// What is in the bucket for good, which may be more than its document there says.
    session: Session,
    version: Version,
    /// Of all bytes taken.
    stream: Sha256Stream,
    buffer: Vec<u8>,
    /// Whether the session's tail still lies in the bucket only.
    tail_there: bool,
    /// Parts that are cut and not in the session yet.
    cuts: VecDeque<Cut>,
    under_way: JoinSet<Outcome<(usize, String)>>,
    /// Of those that are in, the ones that are not the next.
    ended: BTreeMap<usize, String>,
    unsaved: u64,
    /// A tail that the document in the bucket names and the session no longer does.
    old_tail: Option<u64>,
}

impl Filling {
    pub(super) fn new(
        bucket: &Arc<Bucket>,
        memory: &Arc<Semaphore>,
        place: Place,
        session: Session,
        version: Version,
    ) -> Outcome<Filling> {
        let stream = session.stream()?;
        let tail_there = session.tail.is_some();
        Ok(Filling {
            bucket: Arc::clone(bucket),
            memory: Arc::clone(memory),
            place,
            session,
            version,
            stream,
            buffer: Vec::new(),
            tail_there,
            cuts: VecDeque::new(),
            under_way: JoinSet::new(),
            ended: BTreeMap::new(),
            unsaved: 0,
            old_tail: None,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.stream.taken()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn next_part(&self) -> usize {
        self.session.parts.len() + self.cuts.len()
    }

    /// Takes the next bytes.
    pub(super) async fn add(&mut self, batch: &[Bytes]) -> Outcome<()> {
        self.thaw().await?;
        for bytes in batch {
            let mut left = &bytes[..];
            while !left.is_empty() {
                let room = part_size(self.next_part()).saturating_sub(self.buffer.len() as u64);
                let (now, rest) = left.split_at(left.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                if self.size().saturating_add(now.len() as u64) > MAX_OBJECT {
                    return Err(too_large());
                }
                self.reserve(now.len()).map_err(|_| damaged("there is no memory for an upload"))?;
                self.buffer.extend_from_slice(now);
                self.stream.update(now);
                left = rest;
                if self.buffer.len() as u64 >= part_size(self.next_part()) {
                    self.cut().await?;
                }
            }
        }
        Ok(())
    }

    /// Makes room: of what is no small blob, for a whole part at once. Doubling would take twice of it in the end.
    fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        let part = usize::try_from(part_size(self.next_part())).unwrap_or(usize::MAX);
        if self.buffer.len() + more <= SMALL || part > LARGEST_AT_ONCE {
            return self.buffer.try_reserve(more);
        }
        self.buffer.try_reserve_exact(part.saturating_sub(self.buffer.len()).max(more))
    }

    /// Takes the tail back, which is not the end any more. The hash has it already.
    async fn thaw(&mut self) -> Outcome<()> {
        let Some(tail) = self.session.tail.clone().filter(|_| self.tail_there) else { return Ok(()) };
        let stream = self.bucket.stream(&self.place.tail(tail.number), 0, tail.size).await?;
        // Gone, when another request has gone on with the session.
        let mut stream = stream.ok_or_else(|| taken(&self.place.repository))?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(super::bucket::failed)?);
            if bytes.len() as u64 > tail.size {
                break;
            }
        }
        if bytes.len() as u64 != tail.size || Digest::sha256_of(&bytes).hex() != tail.sha256 {
            return Err(damaged("what was kept of an upload is damaged: begin a new one"));
        }
        (self.buffer, self.tail_there) = (bytes, false);
        Ok(())
    }

    /// Sends the buffer off as a part.
    async fn cut(&mut self) -> Outcome<()> {
        let index = self.next_part();
        if index >= MAX_PARTS {
            return Err(too_large());
        }
        let upload = match &self.session.upload {
            Some(upload) => upload.clone(),
            None => self.begin_parts().await?,
        };
        let size = self.buffer.len() as u64;
        while !self.under_way.is_empty() && self.cuts.iter().map(|cut| cut.size).sum::<u64>() + size > UNDER_WAY {
            self.reap().await?;
        }
        let weight = u32::try_from(size >> 20).unwrap_or(u32::MAX).clamp(1, ALL_UNDER_WAY as u32);
        let permit = Arc::clone(&self.memory).acquire_many_owned(weight).await;
        let bytes = std::mem::take(&mut self.buffer);
        self.cuts.push_back(Cut { size, stream: self.stream.clone() });
        let (bucket, key) = (Arc::clone(&self.bucket), self.place.joined());
        self.under_way.spawn(async move {
            let part = bucket.put_part(&key, &upload, index, bytes.into()).await;
            drop(permit);
            part.map(|id| (index, id))
        });
        Ok(())
    }

    /// The document names the parts' upload before there is a part, so that whoever ends the session ends it, too.
    async fn begin_parts(&mut self) -> Outcome<String> {
        let upload = self.bucket.begin_parts(&self.place.joined()).await?;
        self.session.upload = Some(upload.clone());
        if let Err(e) = self.save().await {
            let _ = self.bucket.drop_parts(&self.place.joined(), &upload).await;
            return Err(e);
        }
        Ok(upload)
    }

    /// Waits for a part to be in.
    async fn reap(&mut self) -> Outcome<()> {
        let Some(ended) = self.under_way.join_next().await else { return Ok(()) };
        let (index, id) = ended.unwrap_or_else(|_| Err(damaged("a part was not sent")))?;
        self.ended.insert(index, id);
        while let Some(id) = self.ended.remove(&self.session.parts.len()) {
            let Some(cut) = self.cuts.pop_front() else { break };
            // The first part holds what was the tail.
            if let Some(tail) = self.session.tail.take() {
                self.old_tail = Some(tail.number);
            }
            self.session.parts.push(id);
            self.session.in_parts += cut.size;
            self.session.keep(&cut.stream);
            self.unsaved += cut.size;
        }
        if self.unsaved >= CHECKPOINT {
            self.save().await?;
        }
        Ok(())
    }

    async fn reap_all(&mut self) -> Outcome<()> {
        while !self.under_way.is_empty() {
            self.reap().await?;
        }
        Ok(())
    }

    async fn save(&mut self) -> Outcome<()> {
        self.version = self.place.save(&self.bucket, &mut self.session, Some(&self.version)).await?;
        self.unsaved = 0;
        if let Some(number) = self.old_tail.take() {
            self.drop_quietly(&self.place.tail(number)).await;
        }
        Ok(())
    }

    async fn drop_quietly(&self, key: &str) {
        if let Err(e) = self.bucket.delete(key).await {
            tracing::warn!(key, error = %e.message, "an object is left behind in the bucket until its session expires");
        }
    }

    /// Leaves the session to whoever goes on with it. Its size then.
    pub(super) async fn suspend(mut self) -> Outcome<u64> {
        if let Err(e) = self.keep().await {
            self.rescue().await;
            return Err(e);
        }
        Ok(self.session.size())
    }

    async fn keep(&mut self) -> Outcome<()> {
        if self.buffer.len() as u64 >= least_part(self.next_part()) {
            self.cut().await?;
        }
        self.reap_all().await?;
        let mut new_tail = None;
        if !self.buffer.is_empty() {
            let bytes = std::mem::take(&mut self.buffer);
            let number = self.session.tails + 1;
            let tail = Tail { number, size: bytes.len() as u64, sha256: Digest::sha256_of(&bytes).hex().to_owned() };
            self.bucket.put(&self.place.tail(number), bytes, When::Always).await?;
            if let Some(old) = self.session.tail.replace(tail) {
                self.old_tail = Some(old.number);
            }
            self.session.tails = number;
            self.session.keep(&self.stream);
            new_tail = Some(number);
        } else if self.unsaved == 0 {
            return Ok(());
        }
        let saved = self.save().await;
        if let (Err(_), Some(number)) = (&saved, new_tail) {
            // Another has the session: this tail is nobody's.
            self.drop_quietly(&self.place.tail(number)).await;
        }
        saved
    }

    /// After a failure: what is in for good is kept, if the bucket still answers.
    pub(super) async fn rescue(mut self) {
        self.under_way.shutdown().await;
        if self.unsaved > 0 && self.save().await.is_err() {
            tracing::warn!(repository = %self.place.repository, "an upload goes back to what was saved of it last");
        }
    }

    /// Compares the digest, and makes the bytes one object: its key, and the size. What a wrong digest names is dropped.
    pub(super) async fn complete(&mut self, digest: &Digest) -> Outcome<(String, u64)> {
        let size = self.size();
        if digest.algorithm() == Algorithm::Sha256 {
            let actual = Digest::from_sha256(self.stream.clone().finish().as_bytes());
            self.compare(digest, &actual)?;
        }
        let object = if self.next_part() > 0 { self.join(digest, size).await? } else { self.put_whole(digest).await? };
        if digest.algorithm() == Algorithm::Sha512 {
            let actual = self.read_back(&object, size).await?;
            self.compare(digest, &actual)?;
        }
        Ok((object, size))
    }

    fn compare(&self, digest: &Digest, actual: &Digest) -> Outcome<()> {
        if actual == digest {
            return Ok(());
        }
        let why = format!("the upload is {actual}, not {digest} as claimed: it was dropped, push it again");
        Err(Failure::new(Code::DigestInvalid, why).with_status(400))
    }

    async fn put_whole(&mut self, digest: &Digest) -> Outcome<String> {
        let object = match &self.session.tail {
            // Nothing has come since: it is the blob as it lies there.
            Some(tail) if self.tail_there => self.place.tail(tail.number),
            _ => {
                let bytes = std::mem::take(&mut self.buffer);
                self.bucket.put(&self.place.whole(), bytes, When::Always).await?;
                self.place.whole()
            }
        };
        self.intend(digest).await?;
        Ok(object)
    }

    async fn join(&mut self, digest: &Digest, size: u64) -> Outcome<String> {
        self.thaw().await?;
        if !self.buffer.is_empty() {
            self.cut().await?;
        }
        self.reap_all().await?;
        self.intend(digest).await?;
        let (key, upload) = (self.place.joined(), self.session.upload.clone().unwrap_or_default());
        if let Err(e) = self.bucket.join_parts(&key, &upload, &self.session.parts).await {
            // An instance that was killed after this step has left the object; nothing else makes one of this name.
            match self.bucket.head(&key).await? {
                Some((there, _)) if there == size => {}
                _ => return Err(e),
            }
        }
        Ok(key)
    }

    /// From here on the blob's record may be there: whoever ends the session looks for it first.
    async fn intend(&mut self, digest: &Digest) -> Outcome<()> {
        self.session.finishing = Some(digest.to_string());
        self.save().await
    }

    /// The one digest for which the object is read back, while it is seen that it is what was hashed.
    async fn read_back(&self, object: &str, size: u64) -> Outcome<Digest> {
        use sha2::Digest as _;
        let (mut sha512, mut sha256) = (sha2::Sha512::new(), Sha256Stream::new());
        if size > 0 {
            let mut stream = self.bucket.stream(object, 0, size).await?.ok_or_else(|| self.place.unknown())?;
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(super::bucket::failed)?;
                sha512.update(&piece);
                sha256.update(&piece);
            }
        }
        if sha256.finish() != self.stream.clone().finish() {
            return Err(damaged("the upload was changed in the bucket before it was finished: push it again"));
        }
        let bytes: [u8; 64] = sha512.finalize().into();
        Ok(Digest::from_sha512(&bytes))
    }

    /// The SHA-256 of the whole.
    pub(super) fn sha256(&self) -> String {
        hex(self.stream.clone().finish().as_bytes())
    }

    /// Whether the session is still this request's.
    pub(super) async fn is_ours(&self) -> Outcome<bool> {
        Ok(self.bucket.head(&self.place.key()).await?.is_some_and(|(_, version)| version == self.version))
    }

    /// After the blob's record is there: ends the session, and what of it the blob does not need.
    pub(super) async fn close(self, object: &str) {
        let tail = self.session.tail.as_ref().map(|tail| tail.number).or(self.old_tail);
        if let Some(key) = tail.map(|number| self.place.tail(number)).filter(|key| key != object) {
            self.drop_quietly(&key).await;
        }
        if let Some(upload) = self.session.upload.as_ref().filter(|_| self.session.parts.is_empty()) {
            // Begun before a failure, and not needed in the end.
            let _ = self.bucket.drop_parts(&self.place.joined(), upload).await;
        }
        self.drop_quietly(&self.place.key()).await;
    }

    /// The session as it is, for whoever ends it.
    pub(super) async fn give_up(mut self) -> (Place, Session, Version) {
        self.under_way.shutdown().await;
        (self.place, self.session, self.version)
    }
}

fn too_large() -> Failure {
    Failure::new(Code::SizeInvalid, "S3 takes objects of at most 5 TiB, in at most 10000 parts").with_status(413)
}
