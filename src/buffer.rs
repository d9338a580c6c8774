//! Private, aligned memory for reads.
//!
//! Owns: [`ReadBuf`]. Promises: what is hashed in it cannot change before it is handed out, because nothing else has it;
//! it suits O_DIRECT. Leaves out: what is read into it.

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

    /// `len` bytes, aligned; what they hold is old.
    pub(crate) fn take(&mut self, len: usize) -> &mut [u8] {
        if self.store.len() < len + ALIGN {
            self.store = vec![0; len + ALIGN];
        }
        let start = self.start();
        &mut self.store[start..start + len]
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
