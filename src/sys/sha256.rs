//! SHA-256 of two streams at once on one core.
//!
//! Owns: the compression of blocks into two independent states (FIPS 180-4, section 6.2.2). Promises: each state comes out as
//! `sha2` alone would make it, on any CPU. Leaves out: buffering and padding (`sha256`).
//!
//! `SHA256RNDS2` (Intel, "SHA Extensions", 2013; AMD has them since Zen) does two rounds and needs the result of the two before it, so a
//! single stream waits for it most of the time. Two streams that know nothing of each other fill each other's waits:
//!
//! ```text
//! one stream    R . . . R . . . R . . . R      R: two rounds, dots: waiting for them
//! two streams   R S . . R S . . R S . . R S
//! ```

/// The state of a stream between two blocks.
pub(crate) type State = [u32; 8];
/// A block of a stream.
pub(crate) type Block = [u8; 64];

/// Compresses `a.1` into the state `a.0` and `b.1` into `b.0`: side by side as far as both have blocks and the CPU has the
/// instructions, else one after the other.
pub(crate) fn compress_two(a: (&mut State, &[Block]), b: (&mut State, &[Block])) {
    let how = if interleaves() { Way::Interleaved } else { Way::InTurn };
    compress(how, a, b);
}

/// How two streams are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Interleaved,
    InTurn,
}

fn compress(how: Way, a: (&mut State, &[Block]), b: (&mut State, &[Block])) {
    let both = if how == Way::Interleaved { a.1.len().min(b.1.len()) } else { 0 };
    let ((a_now, a_rest), (b_now, b_rest)) = (a.1.split_at(both), b.1.split_at(both));
    if both > 0 {
        interleaved(a.0, a_now, b.0, b_now);
    }
    sha2::block_api::compress256(a.0, a_rest);
    sha2::block_api::compress256(b.0, b_rest);
}

#[cfg(not(target_arch = "x86_64"))]
fn interleaves() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn interleaved(_: &mut State, _: &[Block], _: &mut State, _: &[Block]) {
    unreachable!("only where `interleaves` says so");
}

#[cfg(target_arch = "x86_64")]
use x86::{interleaved, interleaves};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, State};
    use std::arch::x86_64::*;

    /// Whether the CPU has what [`interleaved`] needs; asked once a process by the standard library.
    pub(super) fn interleaves() -> bool {
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
    }

    /// Both streams, block by block. Where the CPU lacks the instructions it panics.
    pub(super) fn interleaved(a: &mut State, a_blocks: &[Block], b: &mut State, b_blocks: &[Block]) {
        assert!(interleaves(), "the caller has asked");
        // SAFETY: the CPU has every feature that `kernel` is compiled for: the line above.
        unsafe { kernel(a, a_blocks, b, b_blocks) }
    }

    /// The constants of the rounds (FIPS 180-4, section 4.2.2).
    static K: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
        0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
        0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
        0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
        0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
        0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
        0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2,
    ];

    /// One stream inside the kernel: the state in the two registers SHA256RNDS2 wants, and the last sixteen words of the
    /// message schedule.
    struct Lane {
        abef: __m128i,
        cdgh: __m128i,
        w: [__m128i; 4],
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn kernel(a: &mut State, a_blocks: &[Block], b: &mut State, b_blocks: &[Block]) {
        let (mut x, mut y) = (Lane::of(a), Lane::of(b));
        for (a_block, b_block) in a_blocks.iter().zip(b_blocks) {
            let before = [(x.abef, x.cdgh), (y.abef, y.cdgh)];
            x.take(a_block);
            y.take(b_block);
            // In straight lines, so that the schedule stays in registers: the compiler does not unroll a loop of this size.
            macro_rules! quads {
                ($($quad:literal)*) => {$(
                    let k = constants($quad);
                    let (x_low, x_high) = x.words::<$quad>(k);
                    let (y_low, y_high) = y.words::<$quad>(k);
                    x.cdgh = _mm_sha256rnds2_epu32(x.cdgh, x.abef, x_low);
                    y.cdgh = _mm_sha256rnds2_epu32(y.cdgh, y.abef, y_low);
                    x.abef = _mm_sha256rnds2_epu32(x.abef, x.cdgh, x_high);
                    y.abef = _mm_sha256rnds2_epu32(y.abef, y.cdgh, y_high);
                )*};
            }
            quads!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            x.add(before[0]);
            y.add(before[1]);
        }
        *a = x.state();
        *b = y.state();
    }

    impl Lane {
        #[inline]
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn of(state: &State) -> Lane {
            let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
            let none = _mm_setzero_si128();
            Lane { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h), w: [none; 4] }
        }

        #[inline]
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn state(&self) -> State {
            let lanes = |v| {
                [_mm_extract_epi32(v, 3), _mm_extract_epi32(v, 2), _mm_extract_epi32(v, 1), _mm_extract_epi32(v, 0)]
            };
            let ([a, b, e, f], [c, d, g, h]) = (lanes(self.abef), lanes(self.cdgh));
            [a, b, c, d, e, f, g, h].map(i32::cast_unsigned)
        }

        /// A block's sixteen words, which are big-endian.
        #[inline]
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn take(&mut self, block: &Block) {
            let swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
            for (w, bytes) in self.w.iter_mut().zip(block.as_chunks::<16>().0) {
                // SAFETY: sixteen bytes are read, and `bytes` has as many; the instruction asks for no alignment.
                let word = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
                *w = _mm_shuffle_epi8(word, swap);
            }
        }

        /// What four rounds add, `4 * QUAD` and on, for the first two of them and the last; from the fifth quad on the schedule is
        /// drawn out first.
        #[inline]
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn words<const QUAD: usize>(&mut self, k: __m128i) -> (__m128i, __m128i) {
            let at = QUAD % 4;
            if QUAD >= 4 {
                let [w16, w12, w8, w4] = [self.w[at], self.w[(at + 1) % 4], self.w[(at + 2) % 4], self.w[(at + 3) % 4]];
                let seven_back = _mm_alignr_epi8(w4, w8, 4);
                self.w[at] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w16, w12), seven_back), w4);
            }
            let low = _mm_add_epi32(self.w[at], k);
            (low, _mm_shuffle_epi32(low, 0b00_00_11_10))
        }

        #[inline]
        #[target_feature(enable = "sha,ssse3,sse4.1")]
        fn add(&mut self, before: (__m128i, __m128i)) {
            self.abef = _mm_add_epi32(self.abef, before.0);
            self.cdgh = _mm_add_epi32(self.cdgh, before.1);
        }
    }

    /// Four of the constants.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn constants(quad: usize) -> __m128i {
        let [a, b, c, d] = K.as_chunks::<4>().0[quad].map(u32::cast_signed);
        _mm_set_epi32(d, c, b, a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(count: usize, seed: u64) -> Vec<Block> {
        let word = |i: u64| (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).to_le_bytes();
        (0..count as u64).map(|b| std::array::from_fn(|i| word(64 * b + i as u64)[0])).collect()
    }

    fn alone(mut state: State, blocks: &[Block]) -> State {
        sha2::block_api::compress256(&mut state, blocks);
        state
    }

    #[test]
    fn each_state_comes_out_as_alone_whatever_the_other_has() {
        let starts: [State; 2] =
            [std::array::from_fn(|i| 0xdead_beef ^ i as u32), std::array::from_fn(|i| !(i as u32))];
        for (m, n) in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (7, 7), (100, 3), (3, 100)] {
            let (x, y) = (blocks(m, 1), blocks(n, 2));
            let [mut a, mut b] = starts;
            compress_two((&mut a, &x), (&mut b, &y));
            assert_eq!((a, b), (alone(starts[0], &x), alone(starts[1], &y)), "{m} and {n} blocks");
        }
    }

    /// As on a CPU without the instructions; and with them, where this one has them.
    #[test]
    fn both_ways_of_compressing_agree() {
        let (x, y) = (blocks(50, 3), blocks(40, 4));
        let ways = [Way::InTurn, Way::Interleaved].into_iter().filter(|how| *how == Way::InTurn || interleaves());
        for how in ways {
            let (mut a, mut b) = ([7; 8], [9; 8]);
            compress(how, (&mut a, &x), (&mut b, &y));
            assert_eq!((a, b), (alone([7; 8], &x), alone([9; 8], &y)), "{how:?}");
        }
    }
}
