//! What is pushed.
//!
//! Owns: blobs of any size that differ from each other, without the memory they would take: a head of its own, then the same random
//! bytes over and over. Promises: the digest is computed when the blob is made, which is before the clock runs; what comes back is
//! compared byte by byte. Leaves out: sending.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// One write: what a copy loop of a client takes at a time.
const PIECE: usize = 256 << 10;
/// How long the random part is before it repeats: above a processor's caches.
const POOL: usize = 16 << 20;
const HEAD: u64 = 64;

/// Random bytes, shared by all blobs.
#[derive(Clone)]
pub(crate) struct Pool(Bytes);

impl Pool {
    /// xorshift64*: quick, and not to be compressed.
    pub(crate) fn new() -> Pool {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(POOL);
        while bytes.len() < POOL {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        Pool(bytes.into())
    }

    /// A blob of `size` bytes (at least 64) that no other number gives.
    pub(crate) fn blob(&self, number: u64, size: u64) -> Blob {
        let mut head = vec![0; HEAD as usize];
        head[..8].copy_from_slice(&number.to_le_bytes());
        let mut blob = Blob { head: head.into(), pool: self.clone(), size, digest: String::new() };
        let mut hash = Sha256::new();
        let mut at = 0;
        while let Some(piece) = blob.piece(at) {
            hash.update(&piece);
            at += piece.len() as u64;
        }
        blob.digest = digest(&hash.finalize());
        blob
    }
}

fn digest(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The digest of something small.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    digest(&Sha256::digest(bytes))
}

#[derive(Clone)]
pub(crate) struct Blob {
    head: Bytes,
    pool: Pool,
    pub(crate) size: u64,
    pub(crate) digest: String,
}

impl Blob {
    /// What stands at `at`, up to the end of a piece; none at the end.
    fn piece(&self, at: u64) -> Option<Bytes> {
        let left = usize::try_from(self.size.checked_sub(at)?).unwrap_or(usize::MAX).min(PIECE);
        if left == 0 {
            return None;
        }
        if at < HEAD {
            return Some(self.head.slice(at as usize..self.head.len().min(at as usize + left)));
        }
        let start = ((at - HEAD) % POOL as u64) as usize;
        Some(self.pool.0.slice(start..POOL.min(start + left)))
    }

    /// Whether `found` is what stands at `at`.
    pub(crate) fn holds(&self, mut at: u64, mut found: &[u8]) -> bool {
        while !found.is_empty() {
            let Some(piece) = self.piece(at) else { return false };
            let length = piece.len().min(found.len());
            if piece[..length] != found[..length] {
                return false;
            }
            found = &found[length..];
            at += length as u64;
        }
        true
    }

    /// As the body of a request: of a known length, or as a stream whose end nobody announced.
    pub(crate) fn body(&self, length: Length) -> Body {
        Body { source: Source::Blob { blob: self.clone(), at: 0 }, length }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Known,
    Unknown,
}

pub(crate) struct Body {
    source: Source,
    length: Length,
}

enum Source {
    Blob { blob: Blob, at: u64 },
    Small(Option<Bytes>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body { source: Source::Small(Some(bytes)), length: Length::Known }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut self.source {
            Source::Small(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()),
            Source::Blob { blob, at } => blob.piece(*at).inspect(|piece| *at += piece.len() as u64),
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.length) {
            (_, Length::Unknown) => SizeHint::default(),
            (Source::Small(bytes), _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            (Source::Blob { blob, at }, _) => SizeHint::with_exact(blob.size.saturating_sub(*at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_what_its_digest_says_and_nothing_else_is_taken_for_it() {
        let pool = Pool::new();
        for size in [64, 65, 1 << 20, POOL as u64 + HEAD, POOL as u64 + HEAD + 1, 40 << 20] {
            let blob = pool.blob(size, size);
            let mut bytes = Vec::new();
            while let Some(piece) = blob.piece(bytes.len() as u64) {
                bytes.extend_from_slice(&piece);
            }
            assert_eq!((bytes.len() as u64, digest_of(&bytes)), (size, blob.digest.clone()));
            assert!(blob.holds(0, &bytes) && blob.holds(3, &bytes[3..]) && blob.holds(size, &[]));
            assert!(!blob.holds(0, &[&bytes[..], b"x"].concat()), "longer");
            bytes[size as usize - 1] ^= 1;
            assert!(!blob.holds(0, &bytes), "another last byte");
            assert_ne!(pool.blob(size + 1, size).digest, blob.digest);
        }
    }
}
