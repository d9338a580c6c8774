//! One pass over a GGUF file: its header, its SHA-256 and each tensor's.
//!
//! Owns: [`survey`]. Promises: every byte is read once, from front to back, and what the header says and what was hashed are of
//! the same bytes; work is linear in the file's size whatever the header says, so tensors that share bytes are refused; a
//! cancelled task ends it. Leaves out: opening the file, and whether it changed meanwhile.

use super::FileDigests;
use crate::digest::{Sha256Digest, shorten};
use crate::error::{Error, ErrorKind, Result};
use crate::format::gguf::{GgufHeader, TensorInfo};
use crate::format::input::short;
use crate::task::{Phase, Progress, Task};
use sha2::Digest as _;
use std::io::{BufReader, Read};

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// What a [`survey`] is to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The file as a whole: no digest of a tensor is given.
    File,
    /// The file and each of its tensors.
    Tensors,
}

/// Reads a GGUF file of `size` bytes from its beginning to its end.
///
/// # Errors
/// `Refused` when the header is not sound, or tensors whose digests are wanted share bytes; `SourceChanged` when there are
/// not `size` bytes; `Cancelled`; `Io`.
pub fn survey(input: impl Read, size: u64, wanted: Wanted, task: &Task<'_>) -> Result<(GgufHeader, FileDigests)> {
    let mut pass = Pass { input: BufReader::with_capacity(BUFFER, input), hasher: sha2::Sha256::new(), at: 0 };
    let header = GgufHeader::read(&mut pass, size)?;
    let mut run = Run { pass, size, task, buffer: vec![0; BUFFER] };
    let tensors = match wanted {
        Wanted::File => Vec::new(),
        Wanted::Tensors => run.tensors(&header)?,
    };
    run.to(size, |_| {})?;
    // A file that grew is not the one whose size was asked.
    if run.pass.read(&mut [0]).map_err(reading)? != 0 {
        return Err(Error::new(ErrorKind::SourceChanged, "the file grew while it was read: stop what writes it"));
    }
    let sha256 = Sha256Digest::from_bytes(run.pass.hasher.finalize().into());
    Ok((header, FileDigests { size_bytes: size, sha256, tensors }))
}

/// An input whose bytes are hashed as they pass.
struct Pass<R> {
    input: BufReader<R>,
    hasher: sha2::Sha256,
    at: u64,
}

impl<R: Read> Read for Pass<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(out)?;
        self.hasher.update(&out[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

/// The rest of a pass, once the header is known.
struct Run<'a, 'b, R> {
    pass: Pass<R>,
    size: u64,
    task: &'a Task<'b>,
    buffer: Vec<u8>,
}

impl<R: Read> Run<'_, '_, R> {
    /// The digest of each tensor, in the header's order.
    fn tensors(&mut self, header: &GgufHeader) -> Result<Vec<Sha256Digest>> {
        let mut digests = vec![Sha256Digest::of(b""); header.tensors.len()];
        let mut order: Vec<(usize, &TensorInfo)> = header.tensors.iter().enumerate().collect();
        order.sort_by_key(|(_, t)| t.offset);
        let mut before: Option<&TensorInfo> = None;
        for (index, tensor) in order {
            let start = header.data_offset.saturating_add(tensor.offset);
            if let Some(before) = before.filter(|_| start < self.pass.at) {
                let (a, b) = (shorten(&before.name), shorten(&tensor.name));
                let why = format!("the tensors {a:?} and {b:?} share bytes: one hash could not vouch for both");
                return Err(Error::new(ErrorKind::Refused, why));
            }
            self.to(start, |_| {})?;
            let mut hasher = sha2::Sha256::new();
            self.to(start.saturating_add(tensor.size_bytes), |bytes| hasher.update(bytes))?;
            if let Some(digest) = digests.get_mut(index) {
                *digest = Sha256Digest::from_bytes(hasher.finalize().into());
            }
            before = Some(tensor);
        }
        Ok(digests)
    }

    /// Reads up to the offset `end`, telling `seen` of the bytes.
    fn to(&mut self, end: u64, mut seen: impl FnMut(&[u8])) -> Result<()> {
        while self.pass.at < end {
            let piece = (end - self.pass.at).min(BUFFER as u64) as usize;
            let out = &mut self.buffer[..piece];
            let n = match self.pass.read(out) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                n => n.map_err(reading)?,
            };
            if n == 0 {
                return Err(short());
            }
            seen(&out[..n]);
            self.task.step(Progress { phase: Phase::Verify, done: self.pass.at, total: self.size })?;
        }
        Ok(())
    }
}

fn reading(e: std::io::Error) -> Error {
    Error::io("reading a GGUF file", e)
}
