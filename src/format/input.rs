//! What inspection reads from.
//!
//! Owns: [`Input`], bytes of known length at any offset, and [`Reader`], which walks a range of one. Promises: nothing is read
//! past the end; memory is taken in pieces of at most [`PIECE`], as bytes arrive. Leaves out: where the bytes come from and
//! who checked them (`ingest`, the `inspect` verb).

use crate::error::{Error, ErrorKind, Result};
#[cfg(any(test, fuzzing))]
use std::cell::Cell;
use std::io::Read;

/// Memory for what a file declares is taken in pieces of at most this, so that a length alone costs nothing.
pub(crate) const PIECE: usize = 1 << 20;

/// Bytes of a known length, to be read at any offset.
pub(crate) trait Input {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// `SourceChanged` when there are fewer: a caller compares with [`Input::size`] first.
    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()>;
}

impl Input for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..out.len()));
        out.copy_from_slice(from.ok_or_else(short)?);
        Ok(())
    }
}

/// The file ended before its size.
pub(crate) fn short() -> Error {
    Error::new(ErrorKind::SourceChanged, "the file is shorter than it was: stop what writes it and try again")
}

/// The bytes of an input from `at` to `end`, at most `limit` of them; `limit` is the caller's bound.
pub(crate) fn read_range(input: &dyn Input, at: u64, length: u64, limit: u64) -> Result<Vec<u8>> {
    debug_assert!(length <= limit, "the caller has compared");
    let mut bytes = Vec::new();
    let mut left = length.min(limit);
    while left > 0 {
        let piece = left.min(PIECE as u64) as usize;
        let start = bytes.len();
        bytes.try_reserve(piece).map_err(|_| crate::buffer::no_memory(piece))?;
        bytes.resize(start + piece, 0);
        input.read_at(at + start as u64, &mut bytes[start..])?;
        left -= piece as u64;
    }
    Ok(bytes)
}

/// Walks an input from front to back through a buffer.
pub(crate) struct Reader<'a> {
    input: &'a dyn Input,
    /// Where the next byte comes from.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// The part of the buffer that has not been given out.
    start: usize,
}

/// Bytes asked of an input at once.
const BUFFER: usize = 64 << 10;

impl<'a> Reader<'a> {
    /// Over `at..end`, cut at the input's end.
    pub(crate) fn new(input: &'a dyn Input, at: u64, end: u64) -> Reader<'a> {
        let end = end.min(input.size());
        Reader { input, at: at.min(end), end, buffer: Vec::new(), start: 0 }
    }

    /// The offset of the next byte in the input.
    pub(crate) fn position(&self) -> u64 {
        self.at - (self.buffer.len() - self.start) as u64
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> u64 {
        self.end - self.position()
    }

    fn refill(&mut self) -> Result<()> {
        let more = (self.end - self.at).min(BUFFER as u64) as usize;
        self.buffer.resize(more, 0);
        self.start = 0;
        self.input.read_at(self.at, &mut self.buffer)?;
        self.at += more as u64;
        Ok(())
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.start == self.buffer.len() {
            self.refill().map_err(std::io::Error::other)?;
        }
        let n = out.len().min(self.buffer.len() - self.start);
        out[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.start += n;
        Ok(n)
    }
}

/// Bytes that count what is read of them: what a look costs, on any machine.
#[cfg(any(test, fuzzing))]
pub(crate) struct Counted<'a> {
    bytes: &'a [u8],
    /// How often something was read.
    pub(crate) reads: Cell<u64>,
    /// How many bytes.
    pub(crate) read: Cell<u64>,
}

#[cfg(any(test, fuzzing))]
impl<'a> Counted<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Counted<'a> {
        Counted { bytes, reads: Cell::new(0), read: Cell::new(0) }
    }
}

#[cfg(any(test, fuzzing))]
impl Input for Counted<'_> {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.reads.set(self.reads.get() + 1);
        self.read.set(self.read.get() + out.len() as u64);
        self.bytes.read_at(at, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gives_its_range_and_knows_where_it_is() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let slice = bytes.as_slice();
        for (at, end) in [(0, 0), (0, 1), (5, 200_000), (65_535, 65_537), (199_999, u64::MAX), (300_000, 400_000)] {
            let mut reader = Reader::new(&slice, at, end);
            let (from, to) = (at.min(200_000) as usize, end.min(200_000) as usize);
            assert_eq!(reader.left(), (to - from) as u64);
            let mut out = Vec::new();
            let mut piece = [0; 777];
            loop {
                assert_eq!(reader.position(), (from + out.len()) as u64);
                match reader.read(&mut piece).expect("reads") {
                    0 => break,
                    n => out.extend_from_slice(&piece[..n]),
                }
            }
            assert!(out == bytes[from..to]);
        }
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut out = [0; 4];
        for at in [7, 10, u64::MAX] {
            assert_eq!(
                b"0123456789".as_slice().read_at(at, &mut out).expect_err("short").kind(),
                ErrorKind::SourceChanged
            );
        }
        assert_eq!(read_range(&b"0123456789".as_slice(), 2, 5, 5).expect("there"), b"23456");
    }

    #[test]
    fn what_is_read_is_counted() {
        let counted = Counted::new(b"0123456789");
        for (at, length) in [(0, 3), (4, 2)] {
            counted.read_at(at, &mut [0; 4][..length]).expect("there");
        }
        assert_eq!((counted.reads.get(), counted.read.get()), (2, 5));
    }

    #[test]
    fn a_range_of_several_pieces_is_read_in_their_order() {
        let bytes: Vec<u8> = (0..3 * PIECE as u32 + 9).map(|i| (i % 251) as u8).collect();
        let (at, length) = (2 * PIECE + 7, PIECE + 2);
        let read = read_range(&bytes.as_slice(), at as u64, length as u64, length as u64).expect("there");
        assert!(read == bytes[at..at + length]);
    }
}
