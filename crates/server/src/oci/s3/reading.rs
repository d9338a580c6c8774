//! A blob on its way out of the bucket.
//!
//! Owns: the streams that readers get. Promises: of a whole blob the last bytes are held back until all of them have the digest, so
//! that no reader takes a wrong blob for a whole one; of a range the length is right, and nothing else is known. Leaves out: where the
//! object is.

use axum::body::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use securereg::Sha256Stream;
use securereg_oci::{Algorithm, Digest};
use std::io::{Error, ErrorKind};

type Source = BoxStream<'static, object_store::Result<Bytes>>;

enum Hash {
    Sha256(Sha256Stream),
    Sha512(Box<sha2::Sha512>),
}

impl Hash {
    fn new(algorithm: Algorithm) -> Hash {
        use sha2::Digest as _;
        match algorithm {
            Algorithm::Sha256 => Hash::Sha256(Sha256Stream::new()),
            Algorithm::Sha512 => Hash::Sha512(Box::new(sha2::Sha512::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        use sha2::Digest as _;
        match self {
            Hash::Sha256(stream) => stream.update(bytes),
            Hash::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        use sha2::Digest as _;
        match self {
            Hash::Sha256(stream) => Digest::from_sha256(stream.finish().as_bytes()),
            Hash::Sha512(hasher) => Digest::from_sha512(&hasher.finalize().into()),
        }
    }
}

struct Reading<F> {
    source: Source,
    /// None of a range.
    hash: Option<(Hash, Digest)>,
    left: u64,
    held: Option<Bytes>,
    on_damage: F,
}

/// Bytes of `source`, which must be `length` and, if a digest is given, have it. Else `on_damage` is called, and the stream ends in an
/// error before its last bytes.
pub(super) fn checked<F>(
    source: Source,
    length: u64,
    digest: Option<Digest>,
    on_damage: F,
) -> impl Stream<Item = Result<Bytes, Error>> + Send
where
    F: FnOnce() + Send + 'static,
{
    let hash = digest.map(|digest| (Hash::new(digest.algorithm()), digest));
    let first = Reading { source, hash, left: length, held: None, on_damage };
    stream::try_unfold(Some(first), |reading| async {
        let Some(mut reading) = reading else { return Ok(None) };
        loop {
            match reading.source.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    let Some(left) = reading.left.checked_sub(bytes.len() as u64) else {
                        return Err(reading.damage("is longer than it should be"));
                    };
                    reading.left = left;
                    if let Some((hash, _)) = &mut reading.hash {
                        hash.update(&bytes);
                    }
                    if let Some(before) = reading.held.replace(bytes) {
                        return Ok(Some((before, Some(reading))));
                    }
                }
                Some(Err(e)) => {
                    tracing::error!(error = %e, "a blob could not be read from the bucket to its end");
                    return Err(Error::other(e));
                }
                None if reading.left > 0 => return Err(reading.damage("ends early")),
                None => {
                    if let Some((hash, digest)) = reading.hash.take()
                        && hash.finish() != digest
                    {
                        return Err(reading.damage("does not have its digest"));
                    }
                    return Ok(reading.held.take().map(|last| (last, None)));
                }
            }
        }
    })
}

impl<F: FnOnce()> Reading<F> {
    fn damage(self, why: &str) -> Error {
        tracing::error!(why, "a blob in the bucket is damaged");
        (self.on_damage)();
        Error::new(ErrorKind::InvalidData, format!("a stored blob {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    async fn read(pieces: &[&'static [u8]], length: u64, digest: Option<Digest>) -> (Vec<u8>, Option<String>, bool) {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let seen = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&seen);
        let source = stream::iter(pieces).boxed();
        let mut out = std::pin::pin!(checked(source, length, digest, move || mark.store(true, Ordering::Relaxed)));
        let mut bytes = Vec::new();
        while let Some(piece) = out.next().await {
            match piece {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(e) => return (bytes, Some(e.to_string()), seen.load(Ordering::Relaxed)),
            }
        }
        (bytes, None, seen.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_wrong_blob_never_comes_out_whole() {
        let whole = b"abcdef";
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, whole);
            for pieces in [&[&whole[..]][..], &[b"abc", b"", b"def"], &[b"a", b"b", b"c", b"d", b"e", b"f"]] {
                assert_eq!(read(pieces, 6, Some(digest.clone())).await, (whole.to_vec(), None, false));
            }
            for (pieces, why) in [
                (&[&b"abcdeX"[..]][..], "digest"),
                (&[b"Xbc", b"def"], "digest"),
                (&[b"abc", b"de"], "early"),
                (&[b"abc", b"defg"], "longer"),
                (&[], "early"),
            ] {
                let (bytes, error, seen) = read(pieces, 6, Some(digest.clone())).await;
                assert!(
                    bytes.len() < 6 && error.as_ref().is_some_and(|e| e.contains(why)) && seen,
                    "{pieces:?}: {error:?}"
                );
            }
        }
        // Of a range only the length is known.
        assert_eq!(read(&[b"bXd"], 3, None).await, (b"bXd".to_vec(), None, false));
        assert!(read(&[b"bc"], 3, None).await.1.is_some());
    }
}
