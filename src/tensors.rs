//! The SHA-256 of every tensor of a file, while the file goes by.
//!
//! Owns: the plan of a GGUF's tensors, and which bytes belong to which. Promises: each tensor's hash is that of its bytes and of no
//! others, wherever the pieces of the file are cut; a tensor that was not whole is an error, never a hash. Leaves out: the
//! header's parser (`format::gguf`), who reads the file (`ingest`).
//!
//! ```text
//! file     |header|pad|--- a ---|pad|- b -|---- c ----|end
//! pieces   |--------------|--------------|---------------|
//! tensors             a a   a     b b   c   c c
//! ```

use crate::buffer;
use crate::digest::Sha256Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::GgufHeader;
use crate::sha256::Stream;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The hashes of a GGUF's tensors, and the header that said where they lie: it was read before the bytes were hashed, so
/// whoever uses the hashes compares it with the header of what was stored.
#[derive(Debug)]
pub(crate) struct Tensors {
    pub(crate) header: GgufHeader,
    /// In the order of the header.
    pub(crate) digests: Vec<Sha256Digest>,
}

/// A header, and the hasher of the tensors it names.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) header: GgufHeader,
    pub(crate) hasher: TensorHasher,
}

impl Plan {
    /// Of a file of `size` bytes, if it is a GGUF whose tensors can be hashed: inspection says what is wrong with another.
    ///
    /// # Errors
    /// When `file` cannot be read, or memory is short.
    pub(crate) fn of(file: &File, size: u64) -> Result<Option<Plan>> {
        let planned = GgufHeader::read(BufReader::with_capacity(READ, At { file, at: 0 }), size).and_then(|header| {
            let data = header.tensors.iter().map(|t| (header.data_offset.saturating_add(t.offset), t.size_bytes));
            let hasher = TensorHasher::new(data, size)?;
            Ok(Plan { header, hasher })
        });
        match planned {
            Ok(plan) => Ok(Some(plan)),
            Err(e) if e.kind() == ErrorKind::Refused => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// One read of a header.
const READ: usize = 64 << 10;

/// Reads a file from its start without moving its offset, which others share.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(self.file, &mut *out, self.at))?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Where a tensor's data lie.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    /// Its place among the tensors as they were given.
    index: usize,
}

/// Hashes tensors as the bytes of their file are given to it in order.
#[derive(Debug)]
pub(crate) struct TensorHasher {
    /// In the order of the file.
    ranges: Vec<Range>,
    /// The first that is not whole yet.
    next: usize,
    /// The one at `next`, as far as it has come.
    stream: Stream,
    /// Bytes of the file so far.
    at: u64,
    digests: Vec<Sha256Digest>,
}

impl TensorHasher {
    /// For tensors at `(start, length)` in a file of `size` bytes, in any order.
    ///
    /// # Errors
    /// `Refused` when one does not lie in the file, or when two share bytes.
    pub(crate) fn new(tensors: impl ExactSizeIterator<Item = (u64, u64)>, size: u64) -> Result<TensorHasher> {
        let digests = buffer::filled(Sha256Digest::from_bytes([0; 32]), tensors.len())?;
        let mut ranges = buffer::with_room(tensors.len())?;
        for (index, (start, length)) in tensors.enumerate() {
            let Some(end) = start.checked_add(length).filter(|end| *end <= size) else {
                return Err(refused(format!("the data of tensor {index} do not lie in the file")));
            };
            ranges.push(Range { start, end, index });
        }
        // Of two that begin together at most the first may have bytes, so an empty one comes first.
        ranges.sort_unstable_by_key(|r| (r.start, r.end));
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
            return Err(refused(format!("the tensors {} and {} share bytes", pair[0].index, pair[1].index)));
        }
        Ok(TensorHasher { ranges, next: 0, stream: Stream::new(), at: 0, digests })
    }

    /// Takes the next bytes of the file, and the next of `other`, side by side.
    pub(crate) fn update_beside(&mut self, bytes: &[u8], other: &mut Stream, other_bytes: &[u8]) {
        let mut left = other_bytes;
        self.walk(bytes, |stream, part| {
            let (now, rest) = left.split_at(part.len().min(left.len()));
            Stream::update_two((stream, part), (other, now));
            left = rest;
        });
        other.update(left);
    }

    /// Takes the next bytes of the file.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.walk(bytes, Stream::update);
    }

    /// The hash of each tensor, in the order in which they were given.
    ///
    /// # Errors
    /// `SourceChanged` when the file ended before the last one did.
    pub(crate) fn finish(mut self) -> Result<Vec<Sha256Digest>> {
        self.close();
        if self.next < self.ranges.len() {
            let why = "the file ended inside a tensor: stop what writes it and try again";
            return Err(Error::new(ErrorKind::SourceChanged, why));
        }
        Ok(self.digests)
    }

    /// Gives each part of `bytes` that belongs to a tensor to its stream.
    fn walk(&mut self, bytes: &[u8], mut take: impl FnMut(&mut Stream, &[u8])) {
        let end = self.at + bytes.len() as u64;
        let mut left = bytes;
        loop {
            self.close();
            let Some(range) = self.ranges.get(self.next).filter(|r| r.start < end) else { break };
            let padding = range.start.saturating_sub(self.at);
            // Both are at most what is left of `bytes`.
            let part = &left[padding as usize..(range.end.min(end) - self.at) as usize];
            left = &left[padding as usize + part.len()..];
            self.at += padding + part.len() as u64;
            take(&mut self.stream, part);
            if self.at == end {
                break;
            }
        }
        self.at = end;
    }

    /// Notes the hashes of the tensors that are whole.
    fn close(&mut self) {
        while let Some(range) = self.ranges.get(self.next).filter(|r| r.end <= self.at) {
            self.digests[range.index] = std::mem::take(&mut self.stream).finish();
            self.next += 1;
        }
    }
}

/// A hasher between two threads: one hashes the whole file, the other reads it. Pieces wait here, and a slice of the oldest goes to
/// the tensors at a time: beside the whole file's stream while the other thread reads, by that thread when it has nothing to
/// read into. So neither core idles while there is work:
///
/// ```text
/// reads     read |  b  |  b  |read |  b  |  b  |
/// whole     a + b|  a  |  a  |a + b|  a  |  a  |      a: the whole file, b: its tensors
/// ```
#[derive(Debug)]
pub(crate) struct Backlog<P> {
    /// Held while a slice is hashed, so that they are hashed in order; taken before `waiting`.
    chain: Mutex<Chain<P>>,
    waiting: Mutex<VecDeque<Arc<P>>>,
    /// Pieces that were hashed and let go.
    done: AtomicU64,
    /// The reading thread waits for the chain: the other leaves it.
    wanted: AtomicBool,
    /// Bytes of a slice.
    slice: usize,
}

#[derive(Debug)]
struct Chain<P> {
    hasher: TensorHasher,
    /// The piece that is being hashed, and how much of it was.
    open: Option<(Arc<P>, usize)>,
}

impl<P: AsRef<[u8]>> Backlog<P> {
    pub(crate) fn new(hasher: TensorHasher, slice: usize) -> Backlog<P> {
        let (chain, waiting, wanted) =
            (Mutex::new(Chain { hasher, open: None }), Mutex::default(), AtomicBool::new(false));
        Backlog { chain, waiting, done: AtomicU64::new(0), wanted, slice }
    }

    /// Adds the next piece of the file.
    pub(crate) fn push(&self, piece: Arc<P>) {
        self.waiting.lock().push_back(piece);
    }

    /// Gives `bytes` to `whole`, and beside them what waits to the tensors, while the reading thread leaves it that.
    pub(crate) fn beside(&self, whole: &mut Stream, bytes: &[u8]) {
        for part in bytes.chunks(self.slice) {
            if !self.lend(|hasher, slice| hasher.update_beside(slice, whole, part)) {
                whole.update(part);
            }
        }
    }

    /// Of the thread that hashes the whole file, when it has nothing to hash: a slice. Whether there was one to be had.
    pub(crate) fn idle(&self) -> bool {
        self.lend(TensorHasher::update)
    }

    /// Of the thread that reads: a slice. Whether there was one.
    pub(crate) fn help(&self) -> bool {
        self.wanted.store(true, Ordering::Relaxed);
        let mut chain = self.chain.lock();
        self.wanted.store(false, Ordering::Relaxed);
        self.step(&mut chain, TensorHasher::update)
    }

    /// Hashes pieces until the first `count` are done and let go, on both threads.
    pub(crate) fn settle(&self, count: u64) {
        while self.done.load(Ordering::Acquire) < count && self.help() {}
    }

    /// A slice by the thread that has the chain only when nobody else would have it.
    fn lend(&self, take: impl FnOnce(&mut TensorHasher, &[u8])) -> bool {
        !self.wanted.load(Ordering::Relaxed)
            && self.chain.try_lock().is_some_and(|mut chain| self.step(&mut chain, take))
    }

    fn step(&self, chain: &mut Chain<P>, take: impl FnOnce(&mut TensorHasher, &[u8])) -> bool {
        let Some((piece, at)) = chain.open.take().or_else(|| Some((self.waiting.lock().pop_front()?, 0))) else {
            return false;
        };
        let left = &(*piece).as_ref()[at..];
        let (slice, rest) = left.split_at(left.len().min(self.slice));
        take(&mut chain.hasher, slice);
        if rest.is_empty() {
            // Before the chain is: who then takes it, or sees the count, may be sure that the piece is nobody's any more.
            drop(piece);
            self.done.fetch_add(1, Ordering::Release);
        } else {
            let at = at + slice.len();
            chain.open = Some((piece, at));
        }
        true
    }

    /// The hash of each tensor, when all pieces have been hashed.
    ///
    /// # Errors
    /// As [`TensorHasher::finish`].
    pub(crate) fn finish(self) -> Result<Vec<Sha256Digest>> {
        while self.help() {}
        self.chain.into_inner().hasher.finish()
    }
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::Refused, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1]).collect()
    }

    /// The plain way: each tensor cut out and hashed by itself.
    fn plain(file: &[u8], tensors: &[(u64, u64)]) -> Vec<Sha256Digest> {
        tensors.iter().map(|(at, len)| Sha256Digest::of(&file[*at as usize..(at + len) as usize])).collect()
    }

    fn hasher(tensors: &[(u64, u64)], size: usize) -> Result<TensorHasher> {
        TensorHasher::new(tensors.iter().copied(), size as u64)
    }

    #[test]
    fn each_tensor_has_the_hash_of_its_own_bytes() {
        let file = data(1000);
        for tensors in [
            &[][..],
            &[(0, 1000)],
            &[(0, 0)],
            &[(1000, 0)],
            &[(0, 1), (999, 1)],
            &[(100, 200), (300, 1), (301, 64), (400, 600)],
            // Out of order, with empty ones at each end, between and inside the padding.
            &[(500, 500), (0, 0), (10, 0), (64, 64), (64, 0), (128, 0), (128, 64), (300, 0), (1000, 0)],
        ] {
            for piece in [1, 7, 64, 100, 999, 1000] {
                let (mut alone, mut beside) =
                    (hasher(tensors, 1000).expect("sound"), hasher(tensors, 1000).expect("sound"));
                let mut whole = Stream::new();
                for bytes in file.chunks(piece) {
                    alone.update(bytes);
                    beside.update_beside(bytes, &mut whole, bytes);
                }
                let expected = plain(&file, tensors);
                assert_eq!(alone.finish().expect("whole"), expected, "{tensors:?} in pieces of {piece}");
                assert_eq!(beside.finish().expect("whole"), expected, "{tensors:?} in pieces of {piece}");
                assert_eq!(whole.finish(), Sha256Digest::of(&file));
            }
        }
    }

    #[test]
    fn ranges_outside_the_file_or_over_each_other_are_refused() {
        for (tensors, why) in [
            (&[(0, 11)][..], "tensor 0 do not lie"),
            (&[(0, 10), (10, 1)], "tensor 1 do not lie"),
            (&[(11, 0)], "do not lie"),
            (&[(u64::MAX, 1)], "do not lie"),
            (&[(1, u64::MAX)], "do not lie"),
            (&[(0, 5), (4, 5)], "tensors 0 and 1 share"),
            (&[(4, 5), (0, 5)], "tensors 1 and 0 share"),
            (&[(3, 2), (3, 2)], "share"),
            (&[(0, 10), (5, 0)], "share"),
        ] {
            let e = hasher(tensors, 10).expect_err("refused");
            assert_eq!(e.kind(), ErrorKind::Refused);
            assert!(e.to_string().contains(why), "{e} should say {why:?}");
        }
        for tensors in [&[(0, 10)][..], &[(0, 5), (5, 5)], &[(10, 0)], &[(5, 0), (5, 5), (5, 0)]] {
            assert!(hasher(tensors, 10).is_ok(), "{tensors:?}");
        }
    }

    #[test]
    fn a_tensor_that_did_not_come_whole_has_no_hash() {
        let file = data(100);
        for (tensors, len, whole) in [
            (&[(10, 50)][..], 59, false),
            (&[(10, 50)], 60, true),
            (&[(10, 50), (60, 0)], 60, true),
            (&[(10, 50), (61, 0)], 60, false),
        ] {
            let mut hasher = hasher(tensors, 100).expect("sound");
            hasher.update(&file[..len]);
            let outcome = hasher.finish().map_err(|e| e.kind());
            assert_eq!(
                outcome,
                if whole { Ok(plain(&file, tensors)) } else { Err(ErrorKind::SourceChanged) },
                "{tensors:?}"
            );
        }
    }

    /// In every order in which the two threads may come to it.
    #[test]
    fn a_backlog_is_hashed_in_order_by_whoever_comes() {
        let file = data(1000);
        let tensors = [(10, 300), (310, 90), (500, 500)];
        for (turns, slice) in (0..1u32 << 10).flat_map(|turns| [(turns, 1000), (turns, 100), (turns, 33)]) {
            let backlog: Backlog<Vec<u8>> = Backlog::new(hasher(&tensors, 1000).expect("sound"), slice);
            let mut whole = Stream::new();
            let mut queue = VecDeque::new();
            for (i, piece) in file.chunks(100).enumerate() {
                backlog.push(Arc::new(piece.to_vec()));
                queue.push_back(piece);
                match turns >> i & 3 {
                    1 => assert!(backlog.help()),
                    2 => assert!(backlog.idle()),
                    _ => {}
                }
                // The other thread is two pieces behind.
                if queue.len() > 2
                    && let Some(old) = queue.pop_front()
                {
                    backlog.beside(&mut whole, old);
                }
            }
            queue.into_iter().for_each(|old| backlog.beside(&mut whole, old));
            assert_eq!(backlog.finish().expect("whole"), plain(&file, &tensors), "{turns:b} {slice}");
            assert_eq!(whole.finish(), Sha256Digest::of(&file), "{turns:b} {slice}");
        }
    }

    #[test]
    fn what_is_settled_is_let_go() {
        for slice in [100, 70, 1] {
            let backlog: Backlog<Vec<u8>> = Backlog::new(hasher(&[(0, 400)], 400).expect("sound"), slice);
            let pieces: Vec<_> = data(400).chunks(100).map(|piece| Arc::new(piece.to_vec())).collect();
            pieces.iter().for_each(|piece| backlog.push(Arc::clone(piece)));
            let held = || pieces.iter().map(|piece| Arc::strong_count(piece) - 1).collect::<Vec<_>>();
            for (count, expected) in
                [(0, [1, 1, 1, 1]), (1, [0, 1, 1, 1]), (3, [0, 0, 0, 1]), (2, [0, 0, 0, 1]), (9, [0; 4])]
            {
                backlog.settle(count);
                assert_eq!(held(), expected, "{count} settled");
            }
            assert!(!backlog.help(), "nothing is left");
            assert!(!backlog.idle(), "nothing is left");
            assert_eq!(backlog.finish().expect("whole"), [Sha256Digest::of(&data(400))]);
        }
    }

    #[test]
    fn two_threads_share_a_backlog() {
        let file = data(100_000);
        let tensors = [(1, 40_000), (50_000, 49_999)];
        let backlog: Backlog<Vec<u8>> = Backlog::new(hasher(&tensors, file.len()).expect("sound"), 300);
        let whole = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| {
                let mut whole = Stream::new();
                for piece in file.chunks(1000) {
                    backlog.beside(&mut whole, piece);
                    backlog.idle();
                }
                whole.finish()
            });
            for (count, piece) in (1..).zip(file.chunks(1000)) {
                backlog.push(Arc::new(piece.to_vec()));
                backlog.settle(count);
            }
            hashing.join().expect("no panic")
        });
        assert_eq!(whole, Sha256Digest::of(&file));
        assert_eq!(backlog.finish().expect("whole"), plain(&file, &tensors));
    }

    /// While one thread hashes tensors, or waits to, the other goes on with its own stream and does not wait.
    #[test]
    fn the_whole_file_goes_on_while_the_tensors_are_the_other_threads() {
        let backlog = Backlog::<Vec<u8>>::new(hasher(&[(0, 5)], 5).expect("sound"), 2);
        backlog.push(Arc::new(b"12345".to_vec()));
        let mut whole = Stream::new();
        let held = backlog.chain.lock();
        backlog.beside(&mut whole, b"123");
        assert!(!backlog.idle());
        drop(held);
        backlog.wanted.store(true, Ordering::Relaxed);
        backlog.beside(&mut whole, b"45");
        assert!(!backlog.idle());
        assert!(backlog.chain.lock().open.is_none(), "nothing was begun");
        assert!(backlog.help());
        assert!(!backlog.wanted.load(Ordering::Relaxed), "it is no longer wanted by who has it");
        assert!(backlog.idle());
        assert_eq!(whole.finish(), Sha256Digest::of(b"12345"));
        assert_eq!(backlog.finish().expect("whole"), [Sha256Digest::of(b"12345")]);
    }

    proptest! {
        #[test]
        fn cuts_and_gaps_anywhere(
            parts in prop::collection::vec((0u64..150, 0u64..300), 0..12),
            tail in 0u64..200,
            cuts in prop::collection::vec(1usize..500, 1..8),
            lag in 0usize..4,
        ) {
            let mut tensors = Vec::new();
            let mut at = 0;
            for (gap, len) in parts {
                tensors.push((at + gap, len));
                at += gap + len;
            }
            let file = data((at + tail) as usize);
            tensors.reverse();
            let mut hasher = hasher(&tensors, file.len()).expect("sound");
            let mut whole = Stream::new();
            let mut pieces = Vec::new();
            let mut left = file.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, rest) = left.split_at(left.len().min(*cut));
                pieces.push(now);
                left = rest;
                if left.is_empty() { break }
            }
            // The whole file's stream may be some pieces ahead.
            let behind = std::iter::repeat_n([].as_slice(), lag).chain(pieces.iter().copied());
            let ahead = pieces.iter().copied().chain(std::iter::repeat_n([].as_slice(), lag));
            for (old, new) in behind.zip(ahead) {
                hasher.update_beside(old, &mut whole, new);
            }
            prop_assert_eq!(hasher.finish().expect("whole"), plain(&file, &tensors));
            prop_assert_eq!(whole.finish(), Sha256Digest::of(&file));
        }
    }
}
