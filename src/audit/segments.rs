//! The files of the audit log.
//!
//! Owns: their names, which of them is written, and reading each from either end. Promises: the chain goes on from one file into
//! the next; a file that is full is never written again; who reads while another process begins a new one misses no
//! line and sees none twice. Leaves out: what lines mean, and the lock that who writes has.
//!
//! ```text
//! audit-00000000000000052311.jsonl     lines up to 52311; mode 0400, unless a crash came between the rename and that
//! audit.jsonl                          from 52312 on
//! ```

use super::{AuditLine, GENESIS, MAX_LINE, broken};
use crate::buffer;
use crate::digest::Sha256Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout, read_bounded};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};

pub(super) const LOG: &str = "audit.jsonl";

/// All files of the log. The one that is written is opened first: if it is full and renamed meanwhile, it is found by its new
/// name too, and left out there.
pub(super) struct Segments<'a> {
    layout: &'a Layout,
    full: Vec<u64>,
    current: Option<File>,
}

impl<'a> Segments<'a> {
    pub(super) fn open(layout: &'a Layout) -> Result<Segments<'a>> {
        let current = match layout.read(Folder::Root, LOG, OFlags::empty()) {
            Ok(file) => Some(file),
            Err(rustix::io::Errno::NOENT) => None,
            Err(e) => return Err(Error::io("opening audit.jsonl", e)),
        };
        let mut full = full(layout)?;
        if let Some(current) = &current {
            let ino = |file: &File| file.metadata().map(|m| m.ino()).map_err(|e| Error::io("reading the audit log", e));
            let opened = ino(current)?;
            // Others may have become full after it, too: they are none of what there was.
            for at in (0..full.len()).rev() {
                if ino(&open_full(layout, full[at])?)? == opened {
                    full.truncate(at);
                    break;
                }
            }
        }
        Ok(Segments { layout, full, current })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && self.full.is_empty()
    }

    /// One open at a time.
    pub(super) fn oldest_first(self) -> impl Iterator<Item = Result<File>> {
        let layout = self.layout;
        self.full.into_iter().map(move |last| open_full(layout, last)).chain(self.current.map(Ok))
    }

    /// The same from the other end.
    pub(super) fn newest_first(self) -> impl Iterator<Item = Result<File>> {
        let layout = self.layout;
        let full = self.full.into_iter().rev();
        self.current.map(Ok).into_iter().chain(full.map(move |last| open_full(layout, last)))
    }
}

/// The numbers of the last lines of the files that are full.
fn full(layout: &Layout) -> Result<Vec<u64>> {
    let entries = rustix::fs::Dir::read_from(layout.folder(Folder::Root));
    let entries = entries.map_err(|e| Error::io("listing the root", e))?;
    let number = |name: &str| name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok();
    let mut full: Vec<u64> = entries.flatten().filter_map(|e| number(e.file_name().to_str().ok()?)).collect();
    full.sort_unstable();
    Ok(full)
}

fn full_name(last: u64) -> String {
    format!("audit-{last:020}.jsonl")
}

fn open_full(layout: &Layout, last: u64) -> Result<File> {
    let name = full_name(last);
    layout.read(Folder::Root, &name, OFlags::empty()).map_err(|e| Error::io(format_args!("opening {name}"), e))
}

/// The file that the next line goes to, begun anew when it is full, and the line before it. For who has the lock.
pub(super) fn to_append(layout: &Layout, rotate_at: u64) -> Result<(File, Tail)> {
    let file = open_current(layout)?;
    let tail = Tail::read(&file)?;
    if tail.seq == 0 {
        // Full and renamed, and then the power went; or the first line of all.
        let Some(last) = full(layout)?.pop() else { return Ok((file, tail)) };
        return Ok((file, Tail { end: 0, ..Tail::read(&open_full(layout, last)?)? }));
    }
    if tail.end < rotate_at {
        return Ok((file, tail));
    }
    let failed = |e: std::io::Error| Error::io("beginning a new audit.jsonl", e);
    // Without a line that was torn.
    file.set_len(tail.end).map_err(failed)?;
    durable::sync_file(&file).map_err(failed)?;
    let root = layout.folder(Folder::Root);
    durable::rename(root, LOG, root, &full_name(tail.seq)).map_err(|e| failed(e.into()))?;
    // Last: under its old name a user who is not root could not go on with it.
    rustix::fs::fchmod(&file, Mode::RUSR).map_err(|e| failed(e.into()))?;
    Ok((open_current(layout)?, Tail { end: 0, ..tail }))
}

/// Cuts the file that is written before its first line that does not follow from what stands before, and keeps it whole under
/// another name. For who has the lock.
pub(super) fn set_aside(
    layout: &Layout,
    mut follows: impl FnMut(&AuditLine, String) -> bool,
) -> Result<Option<String>> {
    let mut number = 0;
    for last in full(layout)? {
        // A file that is full and damaged is no business of ours, but the file after it goes on from its last line.
        let file = open_full(layout, last)?;
        forwards(file, &mut number, &mut |line, hash| {
            follows(&line, hash);
            Ok(())
        })?;
    }
    let file = open_current(layout)?;
    let bytes = read_bounded(&file, LOG, MAX_READ)?;
    let mut good = 0;
    for text in bytes.split_inclusive(|b| *b == b'\n') {
        let Some(line) = text.strip_suffix(b"\n") else { break };
        let parsed: Option<AuditLine> = serde_json::from_slice(line).ok();
        if !parsed.is_some_and(|parsed| follows(&parsed, Sha256Digest::of(line).to_hex())) {
            break;
        }
        good += text.len();
    }
    if good == bytes.len() {
        return Ok(None);
    }
    let name = format!("damaged-{}-{}", super::now().replace(':', ""), LOG);
    let _in_use = layout.use_temp()?;
    for (text, name) in [(&bytes[..], name.as_str()), (&bytes[..good], LOG)] {
        let temp = layout.write_temp(text)?;
        layout.publish(&temp, Folder::Root, name)?;
    }
    layout.sync(Folder::Root)?;
    Ok(Some(name))
}

/// More than a file ever has before it is full.
const MAX_READ: u64 = 1 << 30;

fn open_current(layout: &Layout) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(layout.folder(Folder::Root), LOG, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|e| Error::io("opening audit.jsonl", e))
}

/// The end of the last whole line, and what the next one builds on.
pub(super) struct Tail {
    pub(super) end: u64,
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl Tail {
    pub(super) fn read(file: &File) -> Result<Tail> {
        let (start, bytes) = written(file)?;
        let Some(newline) = bytes.iter().rposition(|b| *b == b'\n') else {
            return if start == 0 && bytes.len() <= MAX_LINE {
                Ok(Tail { end: 0, seq: 0, hash: GENESIS.to_owned() })
            } else {
                Err(Error::new(
                    ErrorKind::Audit,
                    "the end of audit.jsonl is not a line: the log was changed by another hand",
                ))
            };
        };
        let begin = bytes[..newline].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let text = &bytes[begin..newline];
        let line: AuditLine = serde_json::from_slice(text).map_err(|e| {
            Error::new(
                ErrorKind::Audit,
                "the last line of audit.jsonl is not one of this log: it was changed by another hand",
            )
            .because(e)
        })?;
        let end = start + newline as u64 + 1;
        Ok(Tail { end, seq: line.seq, hash: Sha256Digest::of(text).to_hex() })
    }
}

/// The end of a file, and where that begins: room for one whole line, its predecessor's newline, and what a power cut left of an
/// append after it. Of that, some blocks may be on the disk and one before them not: there are zeros in its place, which no line has.
/// From the first on, nothing was acknowledged.
fn written(file: &File) -> Result<(u64, Vec<u8>)> {
    let io = |e| Error::io("reading the audit log", e);
    let size = file.metadata().map_err(io)?.len();
    let start = size.saturating_sub(2 * MAX_LINE as u64 + 2);
    let mut bytes = vec![0; (size - start) as usize];
    file.read_exact_at(&mut bytes, start).map_err(io)?;
    let hole = bytes.iter().position(|b| *b == 0);
    bytes.truncate(hole.unwrap_or(bytes.len()));
    Ok((start, bytes))
}

/// One read of a file from its end.
pub(super) const PIECE: u64 = 1 << 20;

/// Shows a file's lines from the last to the first, a MiB at a time, until it is told to stop.
pub(super) fn backwards(file: &File, visit: &mut impl FnMut(AuditLine) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
    let mut end = Tail::read(file)?.end;
    // The beginning of a line whose end was in the piece after.
    let mut rest = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let mut bytes = buffer::filled(0, (end - start) as usize)?;
        file.read_exact_at(&mut bytes, start).map_err(|e| Error::io("reading the audit log", e))?;
        let first = match (start, bytes.iter().position(|b| *b == b'\n')) {
            (0, _) => 0,
            (_, Some(at)) => at + 1,
            (_, None) => {
                return Err(Error::new(ErrorKind::Audit, "audit.jsonl has a line without end: it was altered"));
            }
        };
        bytes.append(&mut rest);
        for line in bytes[first..].rsplit(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
            if visit(line).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        bytes.truncate(first);
        rest = bytes;
        end = start;
    }
    Ok(ControlFlow::Continue(()))
}

/// Shows a file's lines with their hashes; `number` counts them over all files.
pub(super) fn forwards(
    file: File,
    number: &mut u64,
    each: &mut impl FnMut(AuditLine, String) -> Result<()>,
) -> Result<()> {
    let (start, bytes) = written(&file)?;
    let mut reader = BufReader::with_capacity(256 << 10, file.take(start + bytes.len() as u64));
    let mut text = Vec::new();
    loop {
        text.clear();
        let n = Read::take(&mut reader, MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut text)
            .map_err(|e| Error::io("reading the audit log", e))?;
        if n == 0 {
            return Ok(());
        }
        *number += 1;
        if text.pop() != Some(b'\n') {
            if n > MAX_LINE {
                return Err(broken(*number, "it is too long"));
            }
            // Cut short by a crash: never acknowledged, and the next append replaces it.
            return Ok(());
        }
        let line =
            serde_json::from_slice(&text).map_err(|e| broken(*number, "it is not a line of this log").because(e))?;
        each(line, Sha256Digest::of(&text).to_hex())?;
    }
}
