//! Zip archives, read as strictly as they can be written.
//!
//! Owns: the directory of an archive and its agreement with the bytes. Promises: an archive without findings has one
//! reading: read from its end (Python, miniz) or from its front (streaming readers), by its directory or by its local headers,
//! it holds the same members with the same bytes; no member's name leaves the archive's folder, and no member grows far
//! beyond its packed size. Leaves out: what the members are (`torch`).
//!
//! ```text
//! (local header, name, extra, data, [descriptor])*  at 0, without gaps      (PKWARE, APPNOTE.TXT 4.3)
//! central header*                                                            one for each, anywhere in any order
//! [zip64 end record, 56 bytes; zip64 locator, 20]                            PyTorch always writes both
//! end record, 22 bytes, no comment                                           at the end of the file
//! ```
//!
//! PyTorch's writer (caffe2/serialize/inline_container.cc, its miniz): members are stored; the local header has zeros for CRC
//! and sizes, flags 0x0808 and an extra field "FB" that pads the data to 64 bytes; a descriptor follows the data.

mod content;
mod header;
mod local;
mod names;

use super::finding::{Findings, Halt, Parsed, Place, Rule, rules};
use super::input::{Input, read_range};
use crate::error::Result;
use crate::name::RelPath;
pub(crate) use content::contents;
use header::{Central, End};

/// Members of one archive.
const MAX_MEMBERS: u64 = 1 << 16;
/// Bytes of the directory.
const MAX_DIRECTORY: u64 = 8 << 20;

rules! {
    END "zip.end" Critical "no end record where it belongs: the archive is cut short, or bytes follow it"
    PREFIX "zip.prefix" Critical "bytes before the first member: the file is also something else, or hides something"
    GAP "zip.gap" Critical "bytes that belong to no member: readers that scan see what others do not"
    OVERLAP "zip.overlap" Critical "members that share bytes: a bomb, or one member under two names"
    DIRECTORY "zip.directory" Critical "a directory that does not hold what it claims"
    ZIP64 "zip.zip64" Critical "zip64 fields that contradict the others: readers disagree on sizes and places"
    SPANNED "zip.spanned" Critical "a part of an archive that spans several files"
    MISMATCH "zip.mismatch" Critical "a local header that contradicts the directory: readers disagree on what the member is"
    DESCRIPTOR "zip.descriptor" Critical "a data descriptor that is missing or contradicts the directory"
    FLAGS "zip.flags" Critical "encrypted, patched or unknown: scanners skip what loaders read"
    METHOD "zip.method" Critical "a compression that is neither stored nor deflate"
    NAME "zip.name" Critical "a name that leaves the folder, or that systems read in different ways"
    DUPLICATE "zip.duplicate" Critical "two members under one name: the first or the last wins, by the reader"
    LINK "zip.link" Critical "a link or a special file: unpacked, it reaches out of the folder"
    EXTRA "zip.extra" Critical "an extra field that is malformed, or that renames or encrypts the member"
    EXTRA_UNKNOWN "zip.extra-unknown" Warning "an extra field of unknown meaning"
    COMMENT "zip.comment" High "a comment, which no model needs: readers search it for other end records"
    BOMB "zip.bomb" Critical "unpacks to far more than it takes: loading it would exhaust memory or disk"
    SIZE "zip.size" Critical "packed data that does not unpack to the member's size"
    CRC "zip.crc" Critical "data whose CRC-32 is not the member's: damaged, or meant to make scanners skip it"
    LIMIT "zip.limit" Critical "more members, or a longer directory, than any model has"
}

/// How a member is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Stored,
    Deflated,
}

/// A member whose headers agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) method: Method,
    /// Bytes when unpacked.
    pub(crate) size: u64,
    /// Bytes in the archive.
    pub(crate) packed: u64,
    pub(crate) crc: u32,
    /// Where they begin.
    pub(crate) data_at: u64,
}

impl Member {
    /// Whether it only names a folder.
    pub(crate) fn is_folder(&self) -> bool {
        self.name.ends_with('/')
    }
}

/// The members in the file's order; none when the directory cannot be read. What is wrong with it is found.
pub(crate) fn members(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Option<Vec<Member>>> {
    let mut out = Out { path, findings };
    match read(input, &mut out) {
        Ok(members) => Ok(Some(members)),
        Err(halt) => findings.halt(path, halt).map(|()| None),
    }
}

/// Where findings go.
struct Out<'a> {
    path: &'a RelPath,
    findings: &'a mut Findings,
}

impl Out<'_> {
    fn add(&mut self, rule: &'static Rule, place: Place, message: impl Into<String>) {
        self.findings.add(self.path, rule, place, message);
    }
}

fn read(input: &dyn Input, out: &mut Out<'_>) -> Parsed<Vec<Member>> {
    let end = header::end(input, out)?;
    let mut entries = directory(input, &end, out)?;
    names::check(&entries, out);
    for entry in &entries {
        entry.check(out);
    }
    bombs(&entries)?;
    entries.sort_by_key(|entry| entry.header_at);
    local::members(input, &entries, end.directory_at, out)
}

/// The central headers, in their own order.
fn directory(input: &dyn Input, end: &End, out: &mut Out<'_>) -> Parsed<Vec<Central>> {
    let whole = Place::at(end.directory_at);
    if end.count > MAX_MEMBERS || end.directory_size > MAX_DIRECTORY {
        let why = format!("the archive claims {} members in {} bytes of directory", end.count, end.directory_size);
        return Err(Halt::found(&LIMIT, whole, why));
    }
    let bytes = read_range(input, end.directory_at, end.directory_size, MAX_DIRECTORY)?;
    let (mut entries, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let place = Place::at(end.directory_at + at as u64);
        let Some((entry, length)) = Central::parse(&bytes[at..], place.clone(), out)? else {
            return Err(Halt::found(&DIRECTORY, place, "the directory holds what is no header, or is cut short"));
        };
        entries.push(entry);
        at += length;
    }
    if entries.len() as u64 != end.count {
        let why = format!("the directory holds {} members, the end record claims {}", entries.len(), end.count);
        return Err(Halt::found(&DIRECTORY, whole, why));
    }
    Ok(entries)
}

/// Unpacked bytes for each packed one, over the whole archive: text packs to a tenth, weights to a half.
const MAX_RATIO: u64 = 20;
/// What may be unpacked beside.
const SLACK: u64 = 4 << 20;

/// Refuses before anything is unpacked; `content` unpacks no more than the sizes that were judged here.
fn bombs(entries: &[Central]) -> Parsed<()> {
    let (mut size, mut packed) = (0u64, 0u64);
    for entry in entries {
        size = size.saturating_add(entry.size);
        packed = packed.saturating_add(entry.packed);
        let limit = |packed: u64| packed.saturating_mul(MAX_RATIO).saturating_add(SLACK);
        if entry.size > limit(entry.packed) || size > limit(packed) {
            let why = format!(
                "{:?} unpacks from {} bytes to {} (the archive to {size} so far): loading it would exhaust memory",
                crate::digest::shorten(&entry.name),
                entry.packed,
                entry.size
            );
            return Err(Halt::found(&BOMB, Place::part(&entry.name), why));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
