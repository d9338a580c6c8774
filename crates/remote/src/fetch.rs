//! Blobs from a registry.
//!
//! Owns: a blob's ranges, side by side, into its `Partial`. Promises: what comes back has its digest; a server that sends more than the manifest
//! says, another part than was asked for, or something encoded, is refused; one that knows no ranges is read from the beginning; what broke is
//! asked for again from where it broke. Leaves out: what the blob is for.

use crate::client::{Ask, Client, Patience, Reply};
use crate::fail::{Trouble, broken, refused};
use crate::partial::{PIECE, Partial, Whole};
use crate::watch::Meter;
use hyper::Method;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use securereg::{Error, ErrorKind, Result};
use securereg_oci::{Digest, Repository};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Pieces in one request.
const STRETCH: usize = 16;
/// Fewer bytes than this are no progress: a server must not keep us by dripping.
const PROGRESS: u64 = 64 << 10;

/// What all blobs of a pull share.
#[derive(Clone)]
pub(crate) struct Fetch {
    pub(crate) client: Arc<Client>,
    pub(crate) repository: Repository,
    pub(crate) staging: PathBuf,
    pub(crate) meter: Arc<Meter>,
    /// Requests at once.
    pub(crate) gate: Arc<Semaphore>,
}

/// Stops the thread that hashes when its blob is given up.
struct Hashing(Arc<Partial>);

impl Drop for Hashing {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Fetch {
    /// The blob, whole, with its digest; whatever was there of it before was not fetched again.
    ///
    /// # Errors
    /// `DigestMismatch` when the bytes are others: they are thrown away. What is there when anything else goes wrong stays for the next time.
    pub(crate) async fn blob(&self, digest: Digest, size: u64) -> Result<Whole> {
        let (staging, wanted) = (self.staging.clone(), digest.clone());
        let open = move || Partial::open(&staging, &wanted, size);
        let partial = Arc::new(tokio::task::spawn_blocking(open).await.map_err(broken)??);
        self.meter.add(partial.present());
        let hashing = Hashing(Arc::clone(&partial));
        let hash = tokio::task::spawn_blocking({
            let partial = Arc::clone(&partial);
            move || partial.hash()
        });
        self.fill(&partial, &digest).await?;
        let found = hash.await.map_err(broken)??;
        drop(hashing);
        match found {
            Some(found) if found == digest => partial.whole(),
            Some(found) => {
                partial.discard();
                let why = format!("{} sends other bytes than {digest}", self.client.registry());
                Err(Error::new(ErrorKind::DigestMismatch, why).with_digests(digest.hex(), found.hex()))
            }
            None => Err(Error::new(ErrorKind::Io, format!("hashing {digest} was stopped"))),
        }
    }

    async fn fill(&self, partial: &Arc<Partial>, digest: &Digest) -> Result<()> {
        let mut stretches = partial.missing(STRETCH).into_iter();
        let Some(first) = stretches.next() else { return Ok(()) };
        let target = format!("/v2/{}/blobs/{digest}", self.repository);
        let ask = Ask::new(Method::GET, self.client.registry().at(target));
        let stretch = |(start, end)| Stretch {
            fetch: self.clone(),
            partial: Arc::clone(partial),
            ask: ask.clone(),
            at: start,
            end,
            hasher: blake3::Hasher::new(),
            patience: Patience::new(),
        };
        let mut first = stretch(first);
        // The first answer says whether there are ranges.
        let reply = first.begin().await?;
        let mut tasks = JoinSet::new();
        if reply.0.status == StatusCode::OK {
            // There are none: this one goes to the end, over what is there.
            first.end = partial.size();
            tasks.spawn(first.run(Some(reply)));
        } else {
            tasks.spawn(first.run(Some(reply)));
            for next in stretches {
                while tasks.len() >= 4 {
                    if let Some(done) = tasks.join_next().await {
                        done.map_err(broken)??;
                    }
                }
                tasks.spawn(stretch(next).run(None));
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(broken)??;
        }
        Ok(())
    }
}

/// A part of a blob on its way.
struct Stretch {
    fetch: Fetch,
    partial: Arc<Partial>,
    ask: Ask,
    /// The next byte to write; until the first end of a piece, `hasher` has all since the last one.
    at: u64,
    end: u64,
    hasher: blake3::Hasher,
    patience: Patience,
}

type Begun = (Reply, tokio::sync::OwnedSemaphorePermit);

impl Stretch {
    /// An answer with the next bytes in it, after as many tries as it takes.
    async fn begin(&mut self) -> Result<Begun> {
        loop {
            match self.request().await {
                Ok(begun) => return Ok(begun),
                Err(trouble) => self.patience.wait(trouble).await?,
            }
        }
    }

    async fn request(&self) -> Result<Begun, Trouble> {
        let permit = Arc::clone(&self.fetch.gate).acquire_owned().await;
        let permit = permit.map_err(|_| Error::new(ErrorKind::Cancelled, "cancelled"))?;
        let range = format!("bytes={}-{}", self.at, self.end - 1);
        let range = HeaderValue::from_str(&range).map_err(|_| refused("a range is no header"))?;
        let reply = self.fetch.client.read(&self.ask.clone().header(RANGE, range)).await?;
        let origin = reply.url.origin.clone();
        if !matches!(reply.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(self.fetch.client.failure(reply, &format!("fetching {}", self.ask.url.target)).await);
        }
        if reply.header(&CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(refused(format!("{origin} encodes a blob: as it is was asked for")).into());
        }
        let size = self.partial.size();
        if reply.status == StatusCode::PARTIAL_CONTENT {
            let given = reply.header(&CONTENT_RANGE).and_then(content_range);
            if !given.is_some_and(|(start, end, total)| {
                start == self.at && end <= self.end && total.is_none_or(|t| t == size)
            }) {
                let why = format!("{origin} sends another part of a blob than {}-{} of {size}", self.at, self.end - 1);
                return Err(refused(why).into());
            }
        } else if let Some(length) = reply.header(&CONTENT_LENGTH)
            && length.parse() != Ok(size)
        {
            let why = format!("{origin} sends {length} bytes for a blob of {size}");
            return Err(Error::new(ErrorKind::TooLarge, why).into());
        }
        Ok((reply, permit))
    }

    /// Fills the stretch.
    async fn run(mut self, begun: Option<Begun>) -> Result<()> {
        let mut begun = begun;
        loop {
            let (reply, _permit) = match begun.take() {
                Some(begun) => begun,
                None => self.begin().await?,
            };
            let from = self.at;
            let result = self.take(reply).await;
            if self.at - from >= PROGRESS {
                self.patience.renew();
            }
            match result {
                Ok(()) if self.at == self.end => return Ok(()),
                Ok(()) if self.at > from => {}
                Ok(()) => self.patience.wait(Trouble::passing(refused("an answer without bytes"))).await?,
                Err(trouble) => self.patience.wait(trouble).await?,
            }
        }
    }

    /// Writes what an answer brings.
    async fn take(&mut self, mut reply: Reply) -> Result<(), Trouble> {
        let whole = reply.status == StatusCode::OK;
        // A whole blob came although a part was asked for: what we have is passed over.
        let mut skip = if whole { self.at } else { 0 };
        while self.at < self.end {
            let Some(bytes) = reply.next().await? else { return Ok(()) };
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= passed as u64;
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let bytes = &bytes[passed..];
            if bytes.len() > left && (!whole || self.end == self.partial.size()) {
                return Err(self.too_much(&reply));
            }
            self.write(&bytes[..bytes.len().min(left)])?;
        }
        if !whole || self.end == self.partial.size() {
            if reply.next().await?.is_some_and(|more| !more.is_empty()) {
                return Err(self.too_much(&reply));
            }
            self.fetch.client.keep(reply);
        }
        Ok(())
    }

    fn too_much(&self, reply: &Reply) -> Trouble {
        let why = format!("{} sends more than the {} bytes of a blob", reply.url.origin, self.partial.size());
        Error::new(ErrorKind::TooLarge, why).into()
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let to_end = PIECE - self.at % PIECE;
            let (now, later) = bytes.split_at(usize::try_from(to_end).unwrap_or(usize::MAX).min(bytes.len()));
            self.partial.write(now, self.at)?;
            self.hasher.update(now);
            self.at += now.len() as u64;
            self.fetch.meter.add(now.len() as u64);
            if let Some(piece) = self.partial.ends_at(self.at) {
                self.partial.note(piece, &self.hasher.finalize());
                self.hasher.reset();
            }
            bytes = later;
        }
        Ok(())
    }
}

/// `bytes A-B/TOTAL` as start, end and total; `*` is no total.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (start, end) = (number(start)?, number(last)?.checked_add(1)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    (start < end).then_some((start, end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_numbers_in_order() {
        for (text, wanted) in [
            ("bytes 0-9/10", Some((0, 10, Some(10)))),
            ("bytes 5-5/*", Some((5, 6, None))),
            ("bytes 9-5/10", None),
            ("bytes +1-5/10", None),
            ("bytes 0-18446744073709551615/1", None),
            ("bytes */10", None),
            ("items 0-9/10", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), wanted, "{text}");
        }
    }
}
