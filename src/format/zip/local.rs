//! Local headers: each member as a reader from the front sees it.
//!
//! Owns: their agreement with the directory, and that members cover the file up to the directory without gap or overlap.
//! Promises: a member that is given out has the same name, method, size and CRC by both headers. Leaves out: its bytes.
//!
//! ```text
//! local       "PK\3\4" needs:u16 flags:u16 method:u16 time:u32 crc:u32 packed:u32 size:u32 name:u16 extra:u16     (4.3.7)
//! descriptor  ["PK\7\8"] crc:u32 packed:u32|u64 size:u32|u64                                                    (4.3.9)
//! ```

use super::header::{Central, FLAG_DESCRIPTOR, extras, number};
use super::{DESCRIPTOR, GAP, MISMATCH, Member, OVERLAP, Out, PREFIX};
use crate::digest::shorten;
use crate::error::Result;
use crate::format::finding::{Halt, Parsed, Place};
use crate::format::input::Input;

const LOCAL_SIZE: usize = 30;
/// The longest descriptor: with its signature and 64-bit sizes.
const DESCRIPTOR_MAX: u64 = 24;

/// The members of `entries`, which are sorted by the place of their headers; they end where the directory begins.
pub(super) fn members(
    input: &dyn Input,
    entries: &[Central],
    directory_at: u64,
    out: &mut Out<'_>,
) -> Parsed<Vec<Member>> {
    let mut window = Window { input, at: 0, bytes: Vec::new() };
    let (mut members, mut expected) = (Vec::new(), 0);
    let nexts = entries.iter().skip(1).map(|next| next.header_at).chain([directory_at]);
    for (entry, next) in entries.iter().zip(nexts) {
        place_of(entry, expected, members.is_empty())?;
        let data_at = local(entry, &mut window, out)?;
        let data_end = data_at.checked_add(entry.packed).filter(|end| *end <= next);
        let Some(data_end) = data_end else {
            let why = format!("{:?} reaches into what follows it at byte {next}", shorten(&entry.name));
            return Err(Halt::found(&OVERLAP, Place::at(entry.header_at), why));
        };
        expected = data_end;
        if entry.flags & FLAG_DESCRIPTOR != 0 {
            expected += descriptor(entry, &mut window, data_end, next)?;
        }
        if let Some(method) = entry.method() {
            let Central { name, size, packed, crc, .. } = entry;
            members.push(Member { name: name.clone(), method, size: *size, packed: *packed, crc: *crc, data_at });
        }
    }
    if expected != directory_at {
        let why = format!("bytes {expected}..{directory_at} before the directory belong to no member");
        return Err(Halt::found(if entries.is_empty() { &PREFIX } else { &GAP }, Place::at(expected), why));
    }
    Ok(members)
}

/// A member begins where the one before it ends; that none begins earlier has been seen.
fn place_of(entry: &Central, expected: u64, first: bool) -> Parsed<()> {
    let name = shorten(&entry.name);
    let (rule, why) = match entry.header_at {
        at if at == expected => return Ok(()),
        at if first => (&PREFIX, format!("{at} bytes stand before the first member {name:?}")),
        at => (&GAP, format!("bytes {expected}..{at} before {name:?} belong to no member")),
    };
    Err(Halt::found(rule, Place::at(entry.header_at), why))
}

/// Checks the local header; where the data begins.
fn local(entry: &Central, window: &mut Window<'_>, out: &mut Out<'_>) -> Parsed<u64> {
    let (at, name) = (entry.header_at, shorten(&entry.name));
    let differs = |what: &str| {
        let why = format!("{name:?}: the local header says another {what} than the directory");
        Halt::found(&MISMATCH, Place::at(at), why)
    };
    let header = window.get(at, LOCAL_SIZE)?.map(<[u8]>::to_vec).unwrap_or_default();
    if !header.starts_with(b"PK\x03\x04") {
        return Err(Halt::found(&MISMATCH, Place::at(at), format!("{name:?}: there is no local header at its place")));
    }
    let (name_length, extra_length) = (number(&header, 26, 2) as usize, number(&header, 28, 2) as usize);
    let rest = window.get(at + LOCAL_SIZE as u64, name_length + extra_length)?;
    let (local_name, fields) = rest.and_then(|r| r.split_at_checked(name_length)).ok_or_else(|| differs("length"))?;
    if local_name != entry.raw_name {
        return Err(differs(&format!("name, {:?},", shorten(&String::from_utf8_lossy(local_name)))));
    }
    if number(&header, 6, 2) != entry.flags {
        return Err(differs("set of flags"));
    }
    if number(&header, 8, 2) != entry.raw_method {
        return Err(differs("method"));
    }
    let zip64 = extras(fields, &entry.name, out)?;
    let [crc, packed, size] = [14, 18, 22].map(|at| number(&header, at, 4));
    let wide = size == 0xffff_ffff || packed == 0xffff_ffff;
    let (size, packed) = match zip64 {
        Some(field) if wide && field.len() == 16 => (number(field, 0, 8), number(field, 8, 8)),
        // miniz: the sizes are 0 for the descriptor to give, and the field holds what the directory's does.
        Some(field) if !wide && entry.flags & FLAG_DESCRIPTOR != 0 => {
            let known = [entry.size, entry.packed, entry.header_at];
            let told: Vec<u64> = field.chunks(8).map(|c| number(c, 0, c.len())).collect();
            if field.len() % 8 != 0 || !(told == known || told == known[..2] || told == known[2..]) {
                return Err(differs("zip64 field"));
            }
            (size, packed)
        }
        Some(_) => return Err(differs("zip64 field")),
        None => (size, packed),
    };
    let deferred = entry.flags & FLAG_DESCRIPTOR != 0 && (crc, packed, size) == (0, 0, 0);
    if !deferred && crc != u64::from(entry.crc) {
        return Err(differs("CRC"));
    }
    if !deferred && (packed, size) != (entry.packed, entry.size) {
        return Err(differs("size"));
    }
    Ok(at + (LOCAL_SIZE + name_length + extra_length) as u64)
}

/// Checks the descriptor between `at` and `next`; its length.
fn descriptor(entry: &Central, window: &mut Window<'_>, at: u64, next: u64) -> Parsed<u64> {
    let length = next - at;
    let bytes = match length {
        12 | 16 | 20 | DESCRIPTOR_MAX => window.get(at, length as usize)?.map(<[u8]>::to_vec),
        _ => None,
    };
    let fits = bytes.is_some_and(|bytes| {
        let (signed, width) = match length {
            12 => (false, 4),
            16 => (true, 4),
            20 => (false, 8),
            _ => (true, 8),
        };
        let rest = if signed { bytes.strip_prefix(b"PK\x07\x08") } else { Some(bytes.as_slice()) };
        rest.is_some_and(|rest| {
            let told = (number(rest, 0, 4), number(rest, 4, width), number(rest, 4 + width, width));
            told == (u64::from(entry.crc), entry.packed, entry.size)
        })
    });
    if fits {
        return Ok(length);
    }
    let why = format!("{:?}: what follows its data is not the descriptor that its flags promise", shorten(&entry.name));
    Err(Halt::found(&DESCRIPTOR, Place::at(at), why))
}

/// Small reads in rising order, for each of which a system call would be too much.
struct Window<'a> {
    input: &'a dyn Input,
    at: u64,
    bytes: Vec<u8>,
}

/// Bytes read at once: names and extra fields take up to 128 KiB.
const WINDOW: u64 = 16 << 10;

impl Window<'_> {
    /// The bytes from `at` on; none when the file ends before.
    fn get(&mut self, at: u64, length: usize) -> Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(length as u64).filter(|end| *end <= self.input.size()) else { return Ok(None) };
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            let more = (length as u64).max(WINDOW).min(self.input.size() - at);
            self.bytes = crate::format::input::read_range(self.input, at, more, more)?;
            self.at = at;
        }
        let start = (at - self.at) as usize;
        Ok(self.bytes.get(start..start + length))
    }
}
