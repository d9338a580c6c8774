//! Private, aligned memory for reads.
//!
//! Owns: [`ReadBuf`], those that are kept for reuse, and memory whose size is a file's or a caller's. Promises: what is hashed in it cannot change before it is
//! handed out, because nothing else has it; it suits O_DIRECT; a lack of memory is an error, never the process's end. Leaves
//! out: what is read into it.

use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;

/// What O_DIRECT asks of addresses, offsets and lengths on any disk of today.
pub(crate) const ALIGN: usize = 4096;

/// A reusable buffer for [`VerifiedFile::read`](crate::VerifiedFile::read). It grows to what the largest read needs and
/// stays that large.
#[derive(Debug, Default)]
pub struct ReadBuf {
    store: Vec<u8>,
}

impl ReadBuf {
    /// An empty buffer.
    pub fn new() -> Self {
        ReadBuf::default()
    }

    /// `len` bytes, aligned; what they hold is old. An error leaves it empty.
    pub(crate) fn take(&mut self, len: usize) -> Result<&mut [u8]> {
        let needed = len.saturating_add(ALIGN);
        if self.store.len() < needed {
            // Given back first: both at once may be more than there is.
            self.store = Vec::new();
            self.store = filled(0, needed)?;
        }
        let start = self.start();
        Ok(&mut self.store[start..start + len])
    }

    /// Whether so much can be taken without more memory.
    fn has_room(&self, len: usize) -> bool {
        self.store.len() >= len.saturating_add(ALIGN)
    }

    /// The first `len` bytes of what was last taken.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        let start = self.start();
        &self.store[start..start + len]
    }

    fn start(&self) -> usize {
        self.store.as_ptr().align_offset(ALIGN).min(ALIGN)
    }
}

/// Buffers kept for reuse.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<ReadBuf>>);

/// No more are kept.
const MAX_SPARE: usize = 16;

impl Spare {
    /// A buffer, one that has room for `len` bytes if there is such.
    pub(crate) fn take(&self, len: usize) -> ReadBuf {
        let mut spare = self.0.lock();
        match spare.iter().position(|buf| buf.has_room(len)) {
            Some(at) => spare.swap_remove(at),
            None => spare.pop().unwrap_or_default(),
        }
    }

    pub(crate) fn give(&self, buf: impl Into<Option<ReadBuf>>) {
        let mut spare = self.0.lock();
        if spare.len() < MAX_SPARE {
            spare.extend(buf.into());
        }
    }
}

/// `count` times `value`. Of small things, `vec!` will do: what is named here grows with a file, a catalog or a request.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>> {
    let mut values = with_room(count)?;
    values.resize(count, value);
    Ok(values)
}

/// Nothing yet, with room for `count`.
pub(crate) fn with_room<T>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| no_memory(count.saturating_mul(size_of::<T>())))?;
    Ok(values)
}

/// The kernel, or a limit (ulimit -v, a control group), gave no more.
pub(crate) fn no_memory(bytes: usize) -> Error {
    Error::new(ErrorKind::NoMemory, format!("there is no memory for {bytes} bytes more: free some, or raise the limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error_and_the_buffer_is_usable_afterwards() {
        let mut buf = ReadBuf::new();
        for len in [usize::MAX, usize::MAX - ALIGN, isize::MAX as usize] {
            assert_eq!(buf.take(len).expect_err("no machine has it").kind(), ErrorKind::NoMemory);
        }
        for len in [1, 10, 3 * ALIGN, 5] {
            let taken = buf.take(len).expect("room");
            assert_eq!((taken.len(), taken.as_ptr().align_offset(ALIGN)), (len, 0));
        }
        assert_eq!(filled([0u8; 32], usize::MAX / 32).expect_err("no machine has it").kind(), ErrorKind::NoMemory);
        assert_eq!(filled(7u8, 3).expect("room"), [7, 7, 7]);
    }
}
