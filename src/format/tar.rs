//! Tar archives: PyTorch's first form, and others, which are refused.
//!
//! Owns: strict reading of ustar. Promises: an archive's members are named, and every pickle among them is walked. Leaves out:
//! the raw data of PyTorch 0.1's form: no release since 0.2 (2017) writes it, and it is refused as it cannot be read with
//! `weights_only`.
//!
//! ```text
//! (header:512 data padding to 512)* zeros:1024 zeros*                       (POSIX.1-1988, ustar)
//! name:100 mode:8 uid:8 gid:8 size:12 mtime:12 checksum:8 type:1 link:100 "ustar" version:3 ... prefix:155 at 345
//! members of PyTorch's: sys_info, pickle, storages, tensors                 (torch/serialization.py, legacy_load)
//! ```

use super::Kind;
use super::description::Description;
use super::finding::{Findings, Halt, Parsed, Place, rules};
use super::input::{Input, read_range};
use super::pickle::{self, MAX_PICKLE, Out};
use crate::artifact::Format;
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;
use std::collections::HashSet;

rules! {
    OTHER "archive.tar" Critical "a tar archive: unpacked or loaded, it is not known by what"
    FIRST_FORM "torch.tar" Critical "PyTorch's form of before 0.2, which weights_only cannot read: convert it to safetensors"
    HEADER "tar.header" Critical "a header that is malformed: readers disagree on what the archive holds"
    NAME "tar.name" Critical "a name that leaves the folder, or stands twice"
    LINK "tar.link" Critical "a link, a device or another special member"
    TRAILING "tar.trailing" Critical "bytes after the end, or no end"
}

const BLOCK: u64 = 512;
/// Members of one archive.
const MAX_MEMBERS: usize = 1 << 14;
/// Members whose content is walked, and bytes of all of them.
const MAX_WALKED: u64 = MAX_PICKLE;

/// Whether the file begins with a tar header: by the magic, or, of old ones, by the checksum.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.first_chunk::<{ BLOCK as usize }>() else { return false };
    header.get(257..262) == Some(b"ustar") || (header[0] != 0 && checksum(header))
}

/// A tar archive; it is refused in every case, and what is in it is named.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let description = Description::new(Kind::Model(Format::Pytorch), "a tar archive");
    let mut names = HashSet::new();
    let result = walk(path, input, &mut names, findings);
    if let Err(halt) = result {
        findings.halt(path, halt)?;
    }
    match ["sys_info", "pickle", "storages", "tensors"].iter().all(|name| names.contains(*name)) {
        true => findings.add(path, &FIRST_FORM, Place::whole(), FIRST_FORM.summary),
        false => findings.add(path, &OTHER, Place::whole(), "a tar archive, no model: what it holds would be unpacked"),
    }
    Ok(description)
}

fn walk(path: &RelPath, input: &dyn Input, names: &mut HashSet<String>, findings: &mut Findings) -> Parsed<()> {
    let (mut at, mut walked) = (0u64, 0u64);
    while input.size().saturating_sub(at) >= BLOCK {
        let header = read_range(input, at, BLOCK, BLOCK)?;
        if header.iter().all(|b| *b == 0) {
            return end(input, at);
        }
        if names.len() >= MAX_MEMBERS {
            return Err(Halt::found(&HEADER, Place::at(at), format!("more than {MAX_MEMBERS} members")));
        }
        let (name, size) = member(path, &header, at, findings)?;
        if !names.insert(name.clone()) {
            let why = format!("{:?} stands twice: the first or the last counts, by the reader", shorten(&name));
            findings.add(path, &NAME, Place::at(at), why);
        }
        let data = at + BLOCK;
        if size > input.size() - data {
            let why = format!("{:?} claims {size} bytes, {} are left", shorten(&name), input.size() - data);
            return Err(Halt::found(&HEADER, Place::at(at), why));
        }
        if walked.saturating_add(size) <= MAX_WALKED {
            walked += size;
            let bytes = read_range(input, data, size, MAX_WALKED)?;
            pickles(path, &name, &bytes, findings)?;
        }
        at = data.saturating_add(size.div_ceil(BLOCK) * BLOCK);
    }
    Err(Halt::found(&TRAILING, Place::at(at), "the archive has no end: it is cut short"))
}

/// Walks the pickles of a member: PyTorch's have several, one after another.
fn pickles(path: &RelPath, name: &str, bytes: &[u8], findings: &mut Findings) -> Result<()> {
    let known = matches!(name, "sys_info" | "pickle" | "storages" | "tensors");
    if !(known || matches!(bytes, [0x80, 2..=5, ..]) || pickle::is_program(path, bytes)?) {
        return Ok(());
    }
    pickle::walk(bytes, 0, &mut Out { path, part: Some(name), findings })?;
    Ok(())
}

/// Two empty blocks and nothing but zeros after them.
fn end(input: &dyn Input, at: u64) -> Parsed<()> {
    let place = Place::at(at);
    if input.size() - at < 2 * BLOCK {
        return Err(Halt::found(&TRAILING, place, "the archive has only half an end"));
    }
    // Tools pad to 10 KiB; more has no reason.
    let rest = input.size() - at;
    if rest > 64 << 10 || read_range(input, at, rest, 64 << 10)?.iter().any(|b| *b != 0) {
        return Err(Halt::found(&TRAILING, place, "bytes follow the archive's end: other readers go on there"));
    }
    Ok(())
}

/// A member's name and size.
fn member(path: &RelPath, header: &[u8], at: u64, findings: &mut Findings) -> Parsed<(String, u64)> {
    let bad = |why: &str| Halt::found(&HEADER, Place::at(at), why);
    if !header.first_chunk().is_some_and(checksum) {
        return Err(bad("a header's checksum is wrong: readers skip it or stop there"));
    }
    let size = octal(header.get(124..136).unwrap_or_default()).ok_or_else(|| bad("a size is no octal number"))?;
    let text = |field: &[u8]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let ustar = header.get(257..262) == Some(b"ustar");
    let (short, prefix) = (text(&header[..100]), if ustar { text(&header[345..500]) } else { String::new() });
    let name = if prefix.is_empty() { short } else { format!("{prefix}/{short}") };
    let printable = !name.chars().any(char::is_control) && !name.contains('\u{fffd}');
    let inside = !name.starts_with('/') && !name.contains(['\\', ':']) && name.split('/').all(|c| c != "..");
    if name.is_empty() || !inside || !printable {
        let why =
            format!("{:?} leaves the folder or cannot be printed: unpacked, it is written elsewhere", shorten(&name));
        findings.add(path, &NAME, Place::at(at), why);
    }
    let kind = header[156];
    if !matches!(kind, b'0' | 0 | b'5') {
        let link = text(&header[157..257]);
        let why = format!(
            "{:?} is of type {:?} (to {:?}): a link or a special member",
            shorten(&name),
            kind as char,
            shorten(&link)
        );
        findings.add(path, &LINK, Place::at(at), why);
    }
    Ok((name, size))
}

/// The sum of all bytes, its own field taken for spaces.
fn checksum(header: &[u8; BLOCK as usize]) -> bool {
    let (mut sum, mut signed) = (0u64, 0i64);
    for (i, byte) in header.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        sum += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    // Old tars summed signed bytes; Python's tarfile takes either.
    octal(&header[148..156]).is_some_and(|n| n == sum || i64::try_from(n) == Ok(signed))
}

/// Octal digits between spaces, ended by a space or NUL.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches([' ', '\0']);
    if text.is_empty() || !text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of old, with the checksum that fits.
    fn header(name: &str, size: usize, kind: u8, magic: &[u8]) -> Vec<u8> {
        let mut h = vec![0; 512];
        h[..name.len()].copy_from_slice(name.as_bytes());
        h[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        h[156] = kind;
        h[257..257 + magic.len()].copy_from_slice(magic);
        seal(&mut h);
        h
    }

    fn seal(h: &mut [u8]) {
        h[148..156].fill(b' ');
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
        h[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = [header(name, data.len(), b'0', b"ustar\x0000"), data.to_vec()].concat();
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn look(bytes: &[u8]) -> (Vec<&'static str>, String) {
        let mut findings = Findings::new();
        let path = "model.tar".parse().expect("a path");
        inspect(&path, &bytes, &mut findings).expect("no failure");
        let said = findings.list().iter().map(|f| format!("{}\n", f.message)).collect();
        (findings.list().iter().map(|f| f.rule).collect(), said)
    }

    const END: [u8; 1024] = [0; 1024];

    fn first_form(object: &[u8]) -> Vec<u8> {
        let members = [
            ("sys_info", b"\x80\x02}.".as_slice()),
            ("pickle", object),
            ("storages", b"\x80\x02K\0."),
            ("tensors", b"\x80\x02K\0."),
        ];
        members.iter().flat_map(|(name, data)| member(name, data)).chain(END).collect()
    }

    #[test]
    fn tars_are_known_and_refused() {
        let plain = [member("a", b"1"), member("b", b""), END.to_vec()].concat();
        assert!(is_tar(&plain) && is_tar(&header("a", 1, 0, b"")), "by the magic, and by the checksum");
        assert!(!is_tar(&[0; 512]) && !is_tar(&plain[..511]) && !is_tar(&[b'x'; 512]));
        assert_eq!(look(&plain).0, ["archive.tar"]);
        assert_eq!(look(&first_form(b"\x80\x02}.")).0, ["torch.tar"]);
        let (rules, said) = look(&first_form(b"cos\nsystem\n)R."));
        assert!(rules.contains(&"pickle.call") && said.contains("calls os.system"), "{rules:?}");
        for data in [b"cos\nsystem\n)R.".as_slice(), b"\x80\x02cos\nsystem\n)R"] {
            let (rules, _) = look(&[member("any.txt", data), END.to_vec()].concat());
            assert!(rules.contains(&"pickle.call"));
        }
    }

    #[test]
    fn members_are_read_strictly() {
        let with = |name: &str| look(&[member(name, b"1"), END.to_vec()].concat()).0;
        for name in ["a", "a/b", "a..b"] {
            assert_eq!(with(name), ["archive.tar"], "{name}");
        }
        for name in ["/a", "../a", "a/../b", "..", "a\\b", "C:a", "a\nb", ""] {
            assert_eq!(with(name), ["tar.name", "archive.tar"], "{name}");
        }
        let prefixed = |prefix: &str, magic: &[u8]| {
            let mut h = header("a", 0, b'0', magic);
            h[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
            seal(&mut h);
            look(&[h, END.to_vec()].concat()).0
        };
        assert_eq!(prefixed("..", b"ustar\x0000"), ["tar.name", "archive.tar"]);
        assert_eq!(prefixed("..", b""), ["archive.tar"], "no ustar, no prefix");
        let (rules, said) = look(&[member("a", b"1"), member("a", b"2"), END.to_vec()].concat());
        assert!(rules.contains(&"tar.name") && said.contains("\"a\" stands twice"));
        for kind in 0..=255u8 {
            let rules = look(&[header("a", 0, kind, b"ustar\x0000"), END.to_vec()].concat()).0;
            assert_eq!(rules.contains(&"tar.link"), !matches!(kind, 0 | b'0' | b'5'), "{kind}");
        }
    }

    #[test]
    fn sizes_checksums_and_ends_are_right() {
        let sound = [member("a", b"1"), END.to_vec()].concat();
        let edit = |at: usize, byte: u8, sealed: bool| {
            let mut out = sound.clone();
            out[at] = byte;
            if sealed {
                seal(&mut out[..512]);
            }
            look(&out)
        };
        assert!(edit(0, b'b', false).1.contains("checksum"));
        assert!(edit(124, b'9', true).1.contains("octal"));
        assert!(edit(124, b'+', true).1.contains("octal"), "no sign");
        assert!(edit(124, 0x80, true).1.contains("octal"), "no base-256 sizes");
        assert!(edit(124, b'7', true).1.contains("are left"));
        let size = |n: usize| {
            let mut out = header("a", n, b'0', b"ustar");
            out.extend([7; 512]);
            out.extend(END);
            look(&out).0
        };
        assert_eq!(size(512), ["archive.tar"]);
        assert_eq!(size(1536), ["tar.trailing", "archive.tar"], "the end is data");
        assert_eq!(size(1537), ["tar.header", "archive.tar"]);
        for (more, rule) in [(0, ""), (1, ""), (9 * 1024, ""), (63 << 10, ""), (64 << 10, "tar.trailing")] {
            let rules = look(&[sound.clone(), vec![0; more]].concat()).0;
            assert_eq!(rules[0] == "tar.trailing", rule == "tar.trailing", "{more}");
        }
        assert_eq!(look(&[sound.as_slice(), b"x"].concat()).0, ["tar.trailing", "archive.tar"]);
        for length in [1536, 1537, 2047] {
            assert_eq!(look(&sound[..length]).0, ["tar.trailing", "archive.tar"], "half an end");
        }
        assert_eq!(look(&sound[..1024]).0, ["tar.trailing", "archive.tar"], "no end");
    }

    #[test]
    fn pickles_are_walked_up_to_so_many_bytes_of_all_members() {
        let evil = b"cos\nsystem\n)R.";
        for (before, walked) in [(MAX_WALKED as usize - evil.len(), true), (MAX_WALKED as usize, false)] {
            let rules = look(&[member("a", &vec![0; before]), member("b", evil), END.to_vec()].concat()).0;
            assert_eq!(rules.contains(&"pickle.call"), walked, "{before}");
        }
    }

    #[test]
    fn members_are_so_many_at_most() {
        let many =
            |n: usize| (0..n).flat_map(|i| header(&i.to_string(), 0, b'0', b"ustar")).chain(END).collect::<Vec<u8>>();
        assert_eq!(look(&many(MAX_MEMBERS)).0, ["archive.tar"]);
        assert_eq!(look(&many(MAX_MEMBERS + 1)).0, ["tar.header", "archive.tar"]);
    }
}
