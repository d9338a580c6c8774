//! SHA-256 as streams, two of which can go side by side.
//!
//! Owns: buffering, padding and the length (FIPS 180-4, section 5.1.1). Promises: what `sha2` gives for the same bytes, however
//! they are cut, alone or beside another stream; what is saved goes on elsewhere as if it had not been. Leaves out: the rounds
//! (`sys`, `sha2`).

use crate::digest::Sha256Digest;
use crate::sys::{Block, State, compress_two};

const BLOCK: usize = size_of::<Block>();

/// The state before the first block (FIPS 180-4, section 5.3.3).
const START: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A SHA-256 in the making, which can be saved and gone on with in another process.
#[derive(Debug, Clone)]
pub struct Stream {
    state: State,
    /// Bytes taken so far.
    len: u64,
    /// The block that is not full yet; its first `len % BLOCK` bytes count.
    open: Block,
}

impl Default for Stream {
    fn default() -> Self {
        Stream::new()
    }
}

impl Stream {
    /// Bytes that [`Stream::save`] makes.
    pub const SAVED: usize = 32 + 8 + BLOCK;

    /// Of nothing yet.
    pub fn new() -> Stream {
        Stream { state: START, len: 0, open: [0; BLOCK] }
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.len
    }

    /// All that [`Stream::restore`] needs: the eight words, the length (both big-endian), the block that is not full yet.
    pub fn save(&self) -> [u8; Stream::SAVED] {
        let mut saved = [0; Stream::SAVED];
        for (bytes, word) in saved.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        saved[32..40].copy_from_slice(&self.len.to_be_bytes());
        // What is left of the block before would say nothing, and differ from run to run.
        saved[40..40 + self.filled()].copy_from_slice(&self.open[..self.filled()]);
        saved
    }

    /// The stream that was saved. Whoever kept it vouches for it: any bytes are some stream.
    pub fn restore(saved: &[u8; Stream::SAVED]) -> Stream {
        let mut stream = Stream::new();
        for (word, bytes) in stream.state.iter_mut().zip(saved.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let (mut len, mut open) = ([0; 8], [0; BLOCK]);
        len.copy_from_slice(&saved[32..40]);
        open.copy_from_slice(&saved[40..]);
        Stream { len: u64::from_be_bytes(len), open, ..stream }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete(bytes).as_chunks::<BLOCK>();
        sha2::block_api::compress256(&mut self.state, blocks);
        self.keep(rest);
    }

    /// Takes the next bytes of both, which costs one core hardly more than one of them.
    pub(crate) fn update_two(a: (&mut Stream, &[u8]), b: (&mut Stream, &[u8])) {
        let (a_blocks, a_rest) = a.0.complete(a.1).as_chunks::<BLOCK>();
        let (b_blocks, b_rest) = b.0.complete(b.1).as_chunks::<BLOCK>();
        compress_two((&mut a.0.state, a_blocks), (&mut b.0.state, b_blocks));
        a.0.keep(a_rest);
        b.0.keep(b_rest);
    }

    /// The hash of all that was taken.
    pub fn finish(mut self) -> Sha256Digest {
        let bits = self.len.wrapping_mul(8);
        let filled = self.filled();
        // A one bit, zeros, and the length in the last eight bytes of a block.
        let zeros = (2 * BLOCK - 1 - 8 - filled) % BLOCK;
        let mut padding = [0; 2 * BLOCK];
        padding[0] = 0x80;
        padding[1 + zeros..1 + zeros + 8].copy_from_slice(&bits.to_be_bytes());
        self.update(&padding[..1 + zeros + 8]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        Sha256Digest::from_bytes(digest)
    }

    fn filled(&self) -> usize {
        (self.len % BLOCK as u64) as usize
    }

    /// Fills up the open block, and gives what of `bytes` is left: nothing while a block is still open.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let filled = self.filled();
        self.len = self.len.wrapping_add(bytes.len() as u64);
        if filled == 0 {
            return bytes;
        }
        let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - filled));
        self.open[filled..filled + now.len()].copy_from_slice(now);
        if filled + now.len() == BLOCK {
            sha2::block_api::compress256(&mut self.state, &[self.open]);
        }
        rest
    }

    /// Keeps the beginning of a block. `rest` is empty when `complete` left one open.
    fn keep(&mut self, rest: &[u8]) {
        self.open[..rest.len()].copy_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(text: &str) -> Sha256Digest {
        text.parse().expect("a digest")
    }

    fn data(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1] ^ seed).collect()
    }

    /// NIST, "SHA256.pdf" (Cryptographic Standards and Guidelines, examples with intermediate values) and CAVP.
    #[test]
    fn the_published_hashes_come_out_alone_and_beside_another() {
        let million = vec![b'a'; 1_000_000];
        for (bytes, hash) in [
            (b"".as_slice(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
            ),
            (b"\xbd", "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b"),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ] {
            let mut one = Stream::new();
            one.update(bytes);
            assert_eq!(one.finish(), digest(hash));
            let other = data(bytes.len() / 2 + 100, 7);
            let (mut a, mut b) = (Stream::new(), Stream::new());
            Stream::update_two((&mut a, bytes), (&mut b, &other));
            assert_eq!((a.finish(), b.finish()), (digest(hash), Sha256Digest::of(&other)));
        }
    }

    #[test]
    fn every_length_around_a_block_is_padded_right() {
        for len in (0..=260).chain([511, 512, 513, 4095, 4096, 4097]) {
            let (x, y) = (data(len, 0), data(len, 1));
            let (mut a, mut b) = (Stream::new(), Stream::new());
            Stream::update_two((&mut a, &x), (&mut b, &y));
            assert_eq!((a.finish(), b.finish()), (Sha256Digest::of(&x), Sha256Digest::of(&y)), "length {len}");
        }
    }

    #[test]
    fn a_saved_stream_goes_on_as_if_it_had_not_been() {
        for (before, after) in [(0, 0), (0, 5), (1, 63), (63, 1), (64, 0), (64, 200), (65, 1), (127, 129), (5000, 5000)]
        {
            let all = data(before + after, 3);
            let mut first = Stream::new();
            first.update(&all[..before]);
            let saved = first.save();
            let mut second = Stream::restore(&saved);
            assert_eq!((second.taken(), second.save()), (before as u64, saved), "{before}");
            second.update(&all[before..]);
            assert_eq!(second.finish(), Sha256Digest::of(&all), "{before} and {after}");
        }
        // The same bytes are saved alike, however they came.
        let (mut once, mut twice) = (Stream::new(), Stream::new());
        once.update(&data(100, 0));
        twice.update(&data(100, 0)[..70]);
        twice.update(&data(100, 0)[70..]);
        assert_eq!(once.save(), twice.save());
        // Nonsense is some stream, and no panic.
        let mut any = Stream::restore(&[0xff; Stream::SAVED]);
        any.update(&[0; 200]);
        any.finish();
    }

    proptest! {
        /// Cuts of either stream anywhere, so that one is in the middle of a block where the other is not.
        #[test]
        fn two_streams_are_what_sha2_makes_of_each(
            pieces in prop::collection::vec((0usize..400, 0usize..400, 0u8..3), 0..12),
            seed: u8,
        ) {
            let (x, y) = (data(pieces.iter().map(|p| p.0).sum(), seed), data(pieces.iter().map(|p| p.1).sum(), !seed));
            let (mut a, mut b) = (Stream::new(), Stream::new());
            let (mut left_x, mut left_y) = (x.as_slice(), y.as_slice());
            for (m, n, how) in pieces {
                let (now_x, now_y);
                (now_x, left_x) = left_x.split_at(m);
                (now_y, left_y) = left_y.split_at(n);
                match how {
                    0 => { a.update(now_x); b.update(now_y); }
                    1 => Stream::update_two((&mut a, now_x), (&mut b, now_y)),
                    _ => Stream::update_two((&mut b, now_y), (&mut a, now_x)),
                }
            }
            prop_assert_eq!(a.finish(), Sha256Digest::of(&x));
            prop_assert_eq!(b.finish(), Sha256Digest::of(&y));
        }
    }
}
