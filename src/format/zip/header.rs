//! The records at the archive's end: the end record, its zip64 forms, and the central headers.
//!
//! Owns: their fields. Promises: a record stands exactly where it belongs, and two that say the same thing agree. Leaves
//! out: local headers (`local`), names (`names`).
//!
//! ```text
//! end      "PK\5\6" disk:u16 directory_disk:u16 count_here:u16 count:u16 size:u32 offset:u32 comment:u16      (4.3.16)
//! locator  "PK\6\7" disk:u32 end64_at:u64 disks:u32                                                        (4.3.15)
//! end64    "PK\6\6" 44:u64 made_by:u16 needs:u16 disk:u32 directory_disk:u32 count_here:u64 count:u64 size:u64 offset:u64
//! central  "PK\1\2" made_by:u16 needs:u16 flags:u16 method:u16 time:u32 crc:u32 packed:u32 size:u32 name:u16 extra:u16
//!          comment:u16 disk:u16 internal:u16 external:u32 header_at:u32, then name, extra, comment          (4.3.12)
//! ```

use super::{
    COMMENT, DIRECTORY, DUPLICATE, END, EXTRA, EXTRA_UNKNOWN, FLAGS, GAP, LINK, METHOD, Method, NAME, Out, PREFIX,
    SPANNED, ZIP64,
};
use crate::digest::shorten;
use crate::format::finding::{Halt, Parsed, Place};
use crate::format::input::{Input, read_range};

const END_SIZE: u64 = 22;
const LOCATOR_SIZE: u64 = 20;
const END64_SIZE: u64 = 56;
/// The longest tail in which readers search the end record.
const TAIL: u64 = END_SIZE + 0xffff;

/// What the end records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) directory_at: u64,
    pub(super) directory_size: u64,
    pub(super) count: u64,
}

/// Little-endian numbers out of a record that has been measured; 0 where it ends.
pub(super) fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes.get(at..at + width).unwrap_or_default().iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The end record, which stands at the very end, with its zip64 forms before it.
pub(super) fn end(input: &dyn Input, out: &mut Out<'_>) -> Parsed<End> {
    let size = input.size();
    let tail = read_range(input, size - size.min(TAIL), size.min(TAIL), TAIL)?;
    let found = tail.windows(4).rposition(|w| w == b"PK\x05\x06").filter(|at| tail.len() - at >= END_SIZE as usize);
    let Some(found) = found else {
        let why = "no end record: the archive is cut short, and tools that repair it guess what it holds";
        return Err(Halt::found(&END, Place::whole(), why));
    };
    let (record, at) = (&tail[found..], size - (tail.len() - found) as u64);
    let comment = number(record, 20, 2);
    if record.len() as u64 != END_SIZE + comment {
        let why = format!("{} bytes follow the end record, which claims {comment}", record.len() as u64 - END_SIZE);
        return Err(Halt::found(&END, Place::at(at), why));
    }
    if comment > 0 {
        out.add(&COMMENT, Place::at(at), format!("the archive has a comment of {comment} bytes"));
    }
    // Readers that search from the front, or take a shorter comment, must not come upon another.
    if comment > 0 && tail[..found].windows(4).any(|w| w == b"PK\x05\x06") {
        return Err(Halt::found(
            &END,
            Place::at(at),
            "there are two end records: readers disagree on which one counts",
        ));
    }
    if number(record, 4, 2) != 0 || number(record, 6, 2) != 0 || number(record, 8, 2) != number(record, 10, 2) {
        return Err(Halt::found(&SPANNED, Place::at(at), "the end record is that of an archive in several parts"));
    }
    let short = [number(record, 10, 2), number(record, 12, 4), number(record, 16, 4)];
    let locator_at = at.checked_sub(LOCATOR_SIZE);
    let locator = locator_at.map(|at| read_range(input, at, LOCATOR_SIZE, LOCATOR_SIZE)).transpose()?;
    let (end, stop) = match (locator, locator_at) {
        (Some(locator), Some(locator_at)) if locator.starts_with(b"PK\x06\x07") => {
            end64(input, &locator, locator_at, short)?
        }
        _ => (End { count: short[0], directory_size: short[1], directory_at: short[2] }, at),
    };
    match end.directory_at.checked_add(end.directory_size) {
        Some(reaches) if reaches == stop => Ok(end),
        Some(reaches) if reaches < stop => {
            let (mut front, off) = ([0; 4], stop - reaches);
            input.read_at(0, &mut front)?;
            // Python's reader moves every place by what is missing; others do not.
            if end.count > 0 && &front != b"PK\x03\x04" {
                return Err(prefix(off));
            }
            let why = format!(
                "the directory ends at byte {reaches}, its end record begins at {stop}: {off} bytes are hidden"
            );
            Err(Halt::found(&GAP, Place::at(reaches), why))
        }
        _ => Err(Halt::found(&DIRECTORY, Place::at(at), "the directory reaches past its end record")),
    }
}

/// All places are off by what stands before the archive.
fn prefix(bytes: u64) -> Halt {
    let why = format!("{bytes} bytes stand before the archive: the file is also something else, or hides it");
    Halt::found(&PREFIX, Place::at(0), why)
}

/// The zip64 records; where they begin.
fn end64(input: &dyn Input, locator: &[u8], locator_at: u64, short: [u64; 3]) -> Parsed<(End, u64)> {
    let place = Place::at(locator_at);
    let wrong = |why: &str| Halt::found(&ZIP64, place.clone(), why);
    let at = locator_at.checked_sub(END64_SIZE).ok_or_else(|| wrong("there is no room for a zip64 end record"))?;
    let record = read_range(input, at, END64_SIZE, END64_SIZE)?;
    let (claimed, stands) = (number(locator, 8, 8), record.starts_with(b"PK\x06\x06"));
    if claimed < at && stands && number(&record, 48, 8).checked_add(number(&record, 40, 8)) == Some(claimed) {
        return Err(prefix(at - claimed));
    }
    if claimed != at {
        return Err(wrong("the zip64 end record does not stand before its locator, or is longer than it may be"));
    }
    if !stands || number(&record, 4, 8) != END64_SIZE - 12 {
        return Err(wrong("the zip64 locator names what is no zip64 end record"));
    }
    let one_part = number(locator, 4, 4) == 0
        && number(locator, 16, 4) <= 1
        && number(&record, 16, 8) == 0
        && number(&record, 24, 8) == number(&record, 32, 8);
    if !one_part {
        return Err(Halt::found(&SPANNED, place, "the zip64 end record is that of an archive in several parts"));
    }
    let long = [number(&record, 32, 8), number(&record, 40, 8), number(&record, 48, 8)];
    let sentinels = [0xffff, 0xffff_ffff, 0xffff_ffff];
    for ((short, long), sentinel) in short.into_iter().zip(long).zip(sentinels) {
        if short != sentinel && short != long {
            return Err(wrong("the end record and its zip64 form disagree: readers take the one or the other"));
        }
    }
    Ok((End { count: long[0], directory_size: long[1], directory_at: long[2] }, at))
}

/// A central header.
#[derive(Debug)]
pub(super) struct Central {
    /// As it is, for the comparison with the local header.
    pub(super) raw_name: Vec<u8>,
    /// Fit to be shown.
    pub(super) name: String,
    pub(super) flags: u64,
    pub(super) raw_method: u64,
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) size: u64,
    pub(super) header_at: u64,
    made_by: u64,
    external: u64,
}

/// Flags that change nothing: deflate's effort (1, 2), a descriptor (3), UTF-8 (11). The others encrypt or are not defined.
const FLAGS_KNOWN: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 11;
pub(super) const FLAG_DESCRIPTOR: u64 = 1 << 3;
const FLAG_UTF8: u64 = 1 << 11;
const CENTRAL_SIZE: usize = 46;

impl Central {
    /// The header at the front of `bytes`, and its length; none when there is none.
    pub(super) fn parse(bytes: &[u8], place: Place, out: &mut Out<'_>) -> Parsed<Option<(Central, usize)>> {
        if !bytes.starts_with(b"PK\x01\x02") || bytes.len() < CENTRAL_SIZE {
            return Ok(None);
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| number(bytes, at, 2) as usize);
        let length = CENTRAL_SIZE + name + extra + comment;
        let (Some(raw_name), Some(fields), true) = (
            bytes.get(CENTRAL_SIZE..CENTRAL_SIZE + name),
            bytes.get(CENTRAL_SIZE + name..CENTRAL_SIZE + name + extra),
            bytes.len() >= length,
        ) else {
            return Ok(None);
        };
        let mut entry = Central {
            raw_name: raw_name.to_vec(),
            name: String::from_utf8_lossy(raw_name).into_owned(),
            flags: number(bytes, 8, 2),
            raw_method: number(bytes, 10, 2),
            crc: number(bytes, 16, 4) as u32,
            packed: number(bytes, 20, 4),
            size: number(bytes, 24, 4),
            header_at: number(bytes, 42, 4),
            made_by: number(bytes, 4, 2) >> 8,
            external: number(bytes, 38, 4),
        };
        let zip64 = extras(fields, &entry.name, out)?;
        entry.widen(zip64, &place)?;
        if number(bytes, 34, 2) != 0 {
            let why = format!("{:?} is said to be in another part", shorten(&entry.name));
            return Err(Halt::found(&SPANNED, place, why));
        }
        if comment > 0 {
            out.add(&COMMENT, place, format!("{:?} has a comment of {comment} bytes", shorten(&entry.name)));
        }
        Ok(Some((entry, length)))
    }

    /// Takes from the zip64 field what did not fit: exactly that, in this order (4.5.3).
    fn widen(&mut self, zip64: Option<&[u8]>, place: &Place) -> Parsed<()> {
        let fields = [&mut self.size, &mut self.packed, &mut self.header_at];
        let wide = fields.into_iter().filter(|field| **field == 0xffff_ffff);
        let mut at = 0;
        let given = zip64.unwrap_or_default();
        for field in wide {
            *field = if at + 8 <= given.len() { number(given, at, 8) } else { *field };
            at += 8;
        }
        // A member of 4 GiB less one byte needs no field; nothing else lacks it.
        if at == given.len() && (zip64.is_none() || at > 0) {
            return Ok(());
        }
        let why = format!("{:?} has a zip64 field that does not hold what its header leaves out", shorten(&self.name));
        Err(Halt::found(&ZIP64, place.clone(), why))
    }

    pub(super) fn method(&self) -> Option<Method> {
        match self.raw_method {
            0 => Some(Method::Stored),
            8 => Some(Method::Deflated),
            _ => None,
        }
    }

    /// Holds what the header says by itself against what a model's archive may have.
    pub(super) fn check(&self, out: &mut Out<'_>) {
        let (place, name) = (Place::part(&self.name), shorten(&self.name));
        if self.flags & !FLAGS_KNOWN != 0 {
            let why = format!("{name:?} has flags 0x{:04x}: encrypted, patched or unknown", self.flags);
            out.add(&FLAGS, place.clone(), why);
        }
        match self.method() {
            None => out.add(&METHOD, place.clone(), format!("{name:?} is packed by method {}", self.raw_method)),
            Some(Method::Stored) if self.size != self.packed => {
                let why = format!("{name:?} is stored in {} bytes and claims {}", self.packed, self.size);
                out.add(&super::SIZE, place.clone(), why);
            }
            Some(_) => {}
        }
        if !self.raw_name.is_ascii() && self.flags & FLAG_UTF8 == 0 {
            let why = format!("{name:?} is not ASCII and does not say that it is UTF-8: readers spell it differently");
            out.add(&NAME, place.clone(), why);
        }
        self.check_file_type(place, &name, out);
    }

    /// The upper half of the external attributes is a Unix mode whatever the archive says made it: unpackers act on it.
    fn check_file_type(&self, place: Place, name: &str, out: &mut Out<'_>) {
        let (kind, folder) = (self.external >> 28, self.name.ends_with('/'));
        let fits = match kind {
            0 | 8 => true,
            4 => folder,
            _ => false,
        };
        if !fits {
            let what = if kind == 0xa { "a symbolic link" } else { "a folder or special file" };
            out.add(&LINK, place.clone(), format!("{name:?} is {what} by its attributes (made by {})", self.made_by));
        }
        if self.external & 0x10 != 0 && !folder {
            out.add(&LINK, place.clone(), format!("{name:?} is a folder by its attributes"));
        }
        if folder && (self.size != 0 || self.packed != 0 || self.crc != 0) {
            out.add(&DUPLICATE, place, format!("{name:?} is named as a folder and holds {} bytes", self.size));
        }
    }
}

/// The zip64 field among the extra fields; the others are judged.
pub(super) fn extras<'a>(mut fields: &'a [u8], name: &str, out: &mut Out<'_>) -> Parsed<Option<&'a [u8]>> {
    let place = || Place::part(name);
    let mut zip64 = None;
    while !fields.is_empty() {
        let (id, length) = (number(fields, 0, 2), number(fields, 2, 2) as usize);
        let Some(field) = fields.get(4..4 + length).filter(|_| fields.len() >= 4) else {
            let why = format!("the extra fields of {:?} do not end where they say", shorten(name));
            return Err(Halt::found(&EXTRA, place(), why));
        };
        match id {
            1 if zip64.is_none() => zip64 = Some(field),
            // PyTorch's padding; times and owners by Info-ZIP and NTFS.
            0x4246 | 0x5455 | 0x7875 | 0x7855 | 0x5855 | 0x000a => {}
            1 | 0x7075 | 0x6375 | 0x9901 | 0x0017 => {
                let why = format!("{:?} has the extra field 0x{id:04x}: another name, size or cipher", shorten(name));
                out.add(&EXTRA, place(), why);
            }
            _ => out.add(&EXTRA_UNKNOWN, place(), format!("{:?} has the extra field 0x{id:04x}", shorten(name))),
        }
        fields = fields.get(4 + length..).unwrap_or_default();
    }
    Ok(zip64)
}
