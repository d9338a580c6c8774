//! Archives, sound and hostile, written header by header.

use super::*;
use crate::format::input::Counted;
use crate::format::tests::{mutations, no_hang};

/// A member to be written, with room for lies.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) deflate: bool,
    /// PyTorch's way: zeros in the local header, and a descriptor.
    pub(crate) descriptor: bool,
    pub(crate) external: u32,
    pub(crate) flags: u16,
    pub(crate) extra: Vec<u8>,
    pub(crate) central_extra: Vec<u8>,
    pub(crate) comment: Vec<u8>,
}

pub(crate) fn entry(name: &str, data: &[u8]) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        data: data.to_vec(),
        deflate: false,
        descriptor: false,
        external: 0,
        flags: 0,
        extra: Vec::new(),
        central_extra: Vec::new(),
        comment: Vec::new(),
    }
}

/// The same as PyTorch's writer makes it.
pub(crate) fn torch_entry(name: &str, data: &[u8]) -> Entry {
    let padding = [b"FB\x05\0".as_slice(), b"ZZZZZ"].concat();
    Entry { descriptor: !data.is_empty(), flags: 0x800, extra: padding, ..entry(name, data) }
}

/// Where things of a built archive are.
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    pub(crate) headers: Vec<usize>,
    pub(crate) data: Vec<usize>,
    pub(crate) centrals: Vec<usize>,
    pub(crate) end64: Option<usize>,
    pub(crate) end: usize,
}

fn le(out: &mut Vec<u8>, fields: &[(u64, usize)]) {
    for (value, width) in fields {
        out.extend_from_slice(&value.to_le_bytes()[..*width]);
    }
}

pub(crate) fn build(entries: &[Entry], zip64: bool) -> Built {
    let (mut out, mut headers, mut data, mut centrals, mut packs) = (Vec::new(), vec![], vec![], vec![], vec![]);
    for e in entries {
        let crc = u64::from(crc32fast::hash(&e.data));
        let packed = if e.deflate { miniz_oxide::deflate::compress_to_vec(&e.data, 6) } else { e.data.clone() };
        let (size, pack) = (e.data.len() as u64, packed.len() as u64);
        let flags = u64::from(e.flags | if e.descriptor { 8 } else { 0 });
        let method = if e.deflate { 8 } else { 0 };
        headers.push(out.len());
        out.extend_from_slice(b"PK\x03\x04");
        let told = if e.descriptor { (0, 0, 0) } else { (crc, pack, size) };
        le(&mut out, &[(0, 2), (flags, 2), (method, 2), (0, 4), (told.0, 4), (told.1, 4), (told.2, 4)]);
        le(&mut out, &[(e.name.len() as u64, 2), (e.extra.len() as u64, 2)]);
        out.extend_from_slice(&e.name);
        out.extend_from_slice(&e.extra);
        data.push(out.len());
        out.extend_from_slice(&packed);
        if e.descriptor {
            out.extend_from_slice(b"PK\x07\x08");
            le(&mut out, &[(crc, 4), (pack, 4), (size, 4)]);
        }
        packs.push((crc, pack, size, flags, method));
    }
    let directory = out.len() as u64;
    for ((e, (crc, pack, size, flags, method)), header) in entries.iter().zip(packs).zip(&headers) {
        centrals.push(out.len());
        out.extend_from_slice(b"PK\x01\x02");
        le(&mut out, &[(0, 2), (0, 2), (flags, 2), (method, 2), (0, 4), (crc, 4), (pack, 4), (size, 4)]);
        le(&mut out, &[(e.name.len() as u64, 2), (e.central_extra.len() as u64, 2), (e.comment.len() as u64, 2)]);
        le(&mut out, &[(0, 2), (0, 2), (u64::from(e.external), 4), (*header as u64, 4)]);
        out.extend_from_slice(&e.name);
        out.extend_from_slice(&e.central_extra);
        out.extend_from_slice(&e.comment);
    }
    let (size, count, end64) = (out.len() as u64 - directory, entries.len() as u64, out.len());
    if zip64 {
        out.extend_from_slice(b"PK\x06\x06");
        le(
            &mut out,
            &[(44, 8), (0x031e, 2), (45, 2), (0, 4), (0, 4), (count, 8), (count, 8), (size, 8), (directory, 8)],
        );
        out.extend_from_slice(b"PK\x06\x07");
        le(&mut out, &[(0, 4), (end64 as u64, 8), (1, 4)]);
    }
    let end = out.len();
    out.extend_from_slice(b"PK\x05\x06");
    le(&mut out, &[(0, 2), (0, 2), (count, 2), (count, 2), (size, 4), (directory, 4), (0, 2)]);
    Built { bytes: out, headers, data, centrals, end64: zip64.then_some(end64), end }
}

/// The rules that were broken, and all messages.
pub(crate) fn look(bytes: &[u8]) -> (Vec<&'static str>, String, Option<Vec<Member>>) {
    let mut findings = Findings::new();
    let path = "model.pt".parse().expect("a path");
    let members = members(&path, &bytes, &mut findings).expect("no failure");
    for member in members.iter().flatten() {
        if let Err(halt) = contents(&bytes, member, &mut |_| {}) {
            findings.halt(&path, halt).expect("a defect");
        }
    }
    let rules = findings.list().iter().map(|f| f.rule).collect();
    let said = findings.list().iter().map(|f| format!("{}\n", f.message)).collect();
    (rules, said, members)
}

fn two() -> [Entry; 2] {
    [torch_entry("archive/data.pkl", b"\x80\x02}."), torch_entry("archive/data/0", &[7; 32])]
}

#[test]
fn sound_archives_are_read_without_findings() {
    let deflated = Entry { deflate: true, ..entry("a/text", &b"words ".repeat(100)) };
    let streamed = Entry { descriptor: true, ..deflated.clone() };
    for zip64 in [false, true] {
        for entries in [
            &two()[..],
            &[entry("x", b"x"), entry("b/c", b""), deflated.clone()],
            &[entry("d/", b""), entry("d/e", b"1"), streamed.clone()],
            &[Entry { deflate: true, ..entry("far more than is unpacked at once", &[0; 200_000]) }],
            &[entry("no data", b"")],
            &[Entry { external: 0o100_644 << 16, ..entry("mode", b"1") }],
            &[Entry { external: 0o40_755 << 16 | 0x10, ..entry("folder/", b"") }],
            &[Entry { flags: 0x800, ..entry("n\u{e4}me", b"1") }],
            &[Entry {
                extra: b"UT\x05\0\x03abcd".to_vec(),
                central_extra: b"UT\x05\0\x03abcd".to_vec(),
                ..entry("t", b"1")
            }],
        ] {
            let built = build(entries, zip64);
            let (rules, said, members) = look(&built.bytes);
            assert_eq!(rules, [""; 0], "{said}");
            let members = members.expect("read");
            assert_eq!(members.len(), entries.len());
            for ((member, entry), at) in members.iter().zip(entries).zip(&built.data) {
                assert_eq!((member.name.as_bytes(), member.size), (entry.name.as_slice(), entry.data.len() as u64));
                let mut out = Vec::new();
                contents(&built.bytes.as_slice(), member, &mut |b| out.extend_from_slice(b)).expect("sound");
                assert!(out == entry.data && member.data_at == *at as u64);
            }
        }
    }
}

/// Applies an edit to a sound archive of two members; the rule that refuses it.
#[track_caller]
fn broken(rule: &str, word: &str, zip64: bool, edit: impl FnOnce(&mut Built)) {
    let mut built = build(&two(), zip64);
    assert_eq!(look(&built.bytes).0, [""; 0], "the control");
    edit(&mut built);
    let (rules, said, _) = look(&built.bytes);
    assert!(rules.contains(&rule), "{rule}: found {rules:?}: {said}");
    assert!(said.contains(word), "{said} should say {word:?}");
}

fn set(built: &mut Built, at: usize, bytes: &[u8]) {
    built.bytes[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn the_end_record_stands_at_the_end() {
    broken("zip.end", "no end record", false, |b| b.bytes.truncate(b.end));
    broken("zip.end", "no end record", false, |b| b.bytes.truncate(b.end + 21));
    broken("zip.end", "1 bytes follow", false, |b| b.bytes.push(0));
    broken("zip.end", "0 bytes follow", false, |b| set(b, b.end + 20, &[1, 0]));
    broken("zip.comment", "comment of 3", false, |b| {
        set(b, b.end + 20, &[3, 0]);
        b.bytes.extend_from_slice(b"abc");
        assert_eq!(look(&b.bytes).0, ["zip.comment"]);
    });
    broken("zip.end", "two end records", false, |b| {
        let real = b.bytes[b.end..].to_vec();
        set(b, b.end + 20, &[23, 0]);
        b.bytes.extend_from_slice(&real);
        b.bytes.push(0);
        let at = b.bytes.len() - 3;
        set(b, at, &[1, 0]);
    });
    for (at, zip64) in [(4, false), (6, false), (8, false), (8, true)] {
        broken("zip.spanned", "several parts", zip64, |b| set(b, b.end + at, &[1]));
    }
}

#[test]
fn nothing_stands_before_between_or_after_the_members() {
    broken("zip.prefix", "32 bytes stand before", false, |b| drop(b.bytes.splice(0..0, [b'J'; 32])));
    broken("zip.prefix", "1 bytes stand before", true, |b| {
        b.bytes.insert(0, b'P');
        // A prefix that the places allow for.
        for at in b.centrals.clone() {
            let old = number_at(&b.bytes, at + 43);
            set(b, at + 43, &(old + 1).to_le_bytes());
        }
        let (end64, end) = (b.end64.expect("there") + 1, b.end + 1);
        let directory = number_at(&b.bytes, end + 16) + 1;
        set(b, end + 16, &directory.to_le_bytes());
        set(b, end64 + 48, &directory.to_le_bytes());
        let at = end64 as u32;
        set(b, end - 12, &at.to_le_bytes());
    });
    // A gap between the last member and the directory.
    broken("zip.gap", "belong to no member", false, |b| {
        *b = build(&[entry("a", b"1234")], false);
        let at = b.centrals[0];
        b.bytes.insert(at, 0);
        let (end, old) = (b.end + 1, at as u32);
        set(b, end + 16, &(old + 1).to_le_bytes());
    });
    // And between two members.
    broken("zip.gap", "before \"b\" belong to no member", false, |b| {
        *b = build(&[entry("a", b"1234"), entry("b", b"5")], false);
        let (at, directory) = (b.headers[1], b.centrals[0] as u32);
        b.bytes.insert(at, 0);
        set(b, b.centrals[1] + 1 + 42, &(at as u32 + 1).to_le_bytes());
        set(b, b.end + 1 + 16, &(directory + 1).to_le_bytes());
    });
    broken("zip.gap", "are hidden", false, |b| b.bytes.insert(b.end, 0));
    broken("zip.gap", "1 bytes are hidden", false, |b| b.bytes = [b"x".as_slice(), &build(&[], false).bytes].concat());
    broken("zip.overlap", "reaches into", false, |b| set(b, b.centrals[1] + 42, &[0]));
    broken("zip.overlap", "reaches into", false, |b| {
        let at = b.centrals[0];
        set(b, at + 20, &[200]);
        set(b, at + 24, &[200]);
    });
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"))
}

#[test]
fn the_directory_holds_what_it_claims() {
    broken("zip.directory", "claims 3", false, |b| {
        set(b, b.end + 8, &[3]);
        set(b, b.end + 10, &[3]);
    });
    broken("zip.directory", "claims 1", false, |b| {
        set(b, b.end + 8, &[1]);
        set(b, b.end + 10, &[1]);
    });
    broken("zip.directory", "no header", false, |b| set(b, b.centrals[1], b"PX"));
    broken("zip.directory", "cut short", false, |b| set(b, b.centrals[1] + 28, &[255]));
    broken("zip.directory", "reaches past", false, |b| set(b, b.end + 15, &[1]));
    broken("zip.limit", "65537 members", true, |b| {
        let at = b.end64.expect("there");
        set(b, at + 24, &65_537u64.to_le_bytes());
        set(b, at + 32, &65_537u64.to_le_bytes());
        set(b, b.end + 8, &[255; 4]);
    });
    broken("zip.spanned", "another part", false, |b| set(b, b.centrals[0] + 34, &[1]));
    broken("zip.comment", "\"archive/data.pkl\" has a comment", false, |b| {
        let mut entries = two();
        entries[0].comment = b"hi".to_vec();
        *b = build(&entries, false);
    });
}

#[test]
fn a_directory_has_a_length_and_members_at_most() {
    let read = |count: u64, directory_size: u64| {
        let (path, mut findings) = ("model.pt".parse().expect("a path"), Findings::new());
        let bytes = vec![0; MAX_DIRECTORY as usize + 1];
        let end = End { directory_at: 0, directory_size, count };
        let result = directory(&bytes.as_slice(), &end, &mut Out { path: &path, findings: &mut findings });
        findings.halt(&path, result.expect_err("no directory")).expect("a defect");
        findings.list()[0].rule
    };
    assert_eq!(read(MAX_MEMBERS, MAX_DIRECTORY), "zip.directory");
    assert_eq!(read(MAX_MEMBERS + 1, MAX_DIRECTORY), "zip.limit");
    assert_eq!(read(MAX_MEMBERS, MAX_DIRECTORY + 1), "zip.limit");
}

#[test]
fn what_is_no_header_is_told_by_its_place() {
    let mut built = build(&two(), false);
    let at = built.centrals[1];
    set(&mut built, at, b"PX");
    let (path, mut findings) = ("model.pt".parse().expect("a path"), Findings::new());
    members(&path, &built.bytes.as_slice(), &mut findings).expect("no failure");
    let finding = &findings.list()[0];
    assert_eq!((finding.rule, &finding.place), ("zip.directory", &Place::at(at as u64)));
}

#[test]
fn zip64_fields_agree() {
    for (at, value) in [(10usize, 7u64), (12, 1), (16, 1)] {
        broken("zip.zip64", "disagree", true, |b| {
            let width = if at == 10 { 2 } else { 4 };
            set(b, b.end + at, &value.to_le_bytes()[..width]);
            if at == 10 {
                set(b, b.end + 8, &[7, 0]);
            }
        });
    }
    // Sentinels that need not be there: the values are the others'.
    let mut built = build(&two(), true);
    let end = built.end;
    set(&mut built, end + 8, &[255; 12]);
    assert_eq!(look(&built.bytes).0, [""; 0]);
    broken("zip.zip64", "does not stand before", true, |b| set(b, b.end - 12, &[0]));
    broken("zip.zip64", "no zip64 end record", true, |b| set(b, b.end64.expect("there"), b"PX"));
    broken("zip.zip64", "no zip64 end record", true, |b| set(b, b.end64.expect("there") + 4, &[45]));
    for at in [16, 20, 24] {
        broken("zip.spanned", "several parts", true, |b| set(b, b.end64.expect("there") + at, &[9]));
    }
    broken("zip.spanned", "several parts", true, |b| set(b, b.end - 4, &[2]));
    broken("zip.spanned", "several parts", true, |b| set(b, b.end - 16, &[1]));
    for extra in [b"\x01\0\0\0".as_slice(), b"\x01\0\x08\0\0\0\0\0\0\0\0\0"] {
        broken("zip.zip64", "leaves out", false, |b| {
            let mut entries = two();
            entries[1].central_extra = extra.to_vec();
            *b = build(&entries, false);
        });
    }
    // A size in the zip64 field, in both headers, and no other way.
    let wide = |size: u64, packed: u64| {
        let mut e = entry("big", &[1; 10]);
        e.extra = [b"\x01\0\x10\0".as_slice(), &10u64.to_le_bytes(), &10u64.to_le_bytes()].concat();
        e.central_extra = [b"\x01\0\x10\0".as_slice(), &size.to_le_bytes(), &packed.to_le_bytes()].concat();
        let mut b = build(&[e], true);
        let (local, central) = (b.headers[0], b.centrals[0]);
        set(&mut b, local + 18, &[255; 8]);
        set(&mut b, central + 20, &[255; 8]);
        b
    };
    assert_eq!(look(&wide(10, 10).bytes).0, [""; 0]);
    assert_eq!(look(&wide(9, 10).bytes).0, ["zip.size", "zip.mismatch"]);
    assert_eq!(look(&wide(11, 11).bytes).0, ["zip.mismatch"]);
    // The local field always has both, if only one does not fit.
    for at in [18, 22] {
        let mut one = wide(10, 10);
        let at = one.headers[0] + at;
        set(&mut one, at, &10u32.to_le_bytes());
        assert_eq!(look(&one.bytes).0, [""; 0]);
    }
    // A second field, and one for what fits.
    let field = |size: u64| [b"\x01\0\x10\0".as_slice(), &size.to_le_bytes(), &10u64.to_le_bytes()].concat();
    let mut twice = entry("big", &[1; 10]);
    twice.extra = [field(10), field(11)].concat();
    assert!(look(&build(&[twice], false).bytes).0.contains(&"zip.extra"));
    let needless = Entry { extra: field(10), ..entry("small", &[1; 10]) };
    assert_eq!(look(&build(&[needless], false).bytes).0, ["zip.mismatch"]);
    let mut other = wide(10, 10);
    let at = other.headers[0] + 30 + 3 + 4;
    set(&mut other, at, &[9]);
    assert_eq!(look(&other.bytes).0, ["zip.mismatch"]);
}

#[test]
fn miniz_zip64_fields_beyond_4_gib_are_understood() {
    // What miniz writes of a small member whose header stands beyond 4 GiB: its place, in the local header too. Here the
    // place is small, so that the directory needs no field.
    for (field, sound) in
        [(vec![0u64], true), (vec![32, 32], true), (vec![32, 32, 0], true), (vec![1], false), (vec![32], false)]
    {
        let mut e = torch_entry("a/data/0", &[7; 32]);
        let values: Vec<u8> = field.iter().flat_map(|v| v.to_le_bytes()).collect();
        e.extra = [b"\x01\0".as_slice(), &(values.len() as u16).to_le_bytes(), &values].concat();
        let (rules, said, _) = look(&build(&[e], true).bytes);
        assert_eq!(rules.is_empty(), sound, "{field:?}: {rules:?} {said}");
    }
}

#[test]
fn local_headers_say_what_the_directory_says() {
    broken("zip.mismatch", "no local header", false, |b| set(b, b.headers[1], b"PX"));
    broken("zip.mismatch", "another name, \"brchive/data.pkl\"", false, |b| set(b, b.headers[0] + 30, b"b"));
    broken("zip.mismatch", "set of flags", false, |b| set(b, b.headers[0] + 6, &[0x0a]));
    broken("zip.mismatch", "method", false, |b| set(b, b.headers[0] + 8, &[8]));
    broken("zip.mismatch", "CRC", false, |b| set(b, b.headers[0] + 14, &[1]));
    broken("zip.mismatch", "CRC", false, |b| set(b, b.headers[0] + 18, &[4]));
    let plain = |edit: &dyn Fn(&mut Built)| {
        let mut b = build(&[entry("a", b"1234")], false);
        edit(&mut b);
        look(&b.bytes)
    };
    assert_eq!(plain(&|b| set(b, b.headers[0] + 14, &[1])).0, ["zip.mismatch"]);
    assert!(plain(&|b| set(b, b.headers[0] + 18, &[3])).1.contains("another size"));
    assert!(plain(&|b| set(b, b.headers[0] + 22, &[3])).1.contains("another size"));
    // Without the flag, zeros are no promise.
    assert_eq!(plain(&|b| set(b, b.headers[0] + 14, &[0; 12])).0, ["zip.mismatch"]);
    for (at, byte) in [(0, b'X'), (4, 1), (8, 1), (12, 1)] {
        broken("zip.descriptor", "not the descriptor", false, |b| set(b, b.data[1] + 32 + at, &[byte]));
    }
    let mut none = build(&[Entry { flags: 8, ..entry("a", b"1234") }], false);
    assert_eq!(look(&none.bytes).0, ["zip.descriptor"]);
    none = build(&[entry("a", b"")], false);
    assert_eq!(look(&none.bytes).0, [""; 0]);
}

#[test]
fn descriptors_of_every_form_are_read() {
    let crc = crc32fast::hash(b"1234");
    for (signed, wide) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut b = build(&[Entry { descriptor: true, ..entry("a", b"1234") }], false);
        let number = |n: u64| n.to_le_bytes()[..if wide { 8 } else { 4 }].to_vec();
        let mut form = if signed { b"PK\x07\x08".to_vec() } else { Vec::new() };
        form.extend([crc.to_le_bytes().to_vec(), number(4), number(4)].concat());
        let (from, old) = (b.data[0] + 4, b.centrals[0]);
        b.bytes.splice(from..old, form.iter().copied());
        let end = b.bytes.len() - 22;
        set(&mut b, end + 16, &((from + form.len()) as u32).to_le_bytes());
        assert_eq!(look(&b.bytes).0, [""; 0], "{signed} {wide}");
    }
}

#[test]
fn flags_and_methods_beyond_what_is_needed_are_refused() {
    for bit in 0..16 {
        let flag = 1u16 << bit;
        let e = Entry { flags: flag & !8, descriptor: flag == 8, ..entry("a", b"1234") };
        let (rules, said, _) = look(&build(&[e], false).bytes);
        let known = [1, 2, 3, 11].contains(&bit);
        assert_eq!(rules, if known { vec![] } else { vec!["zip.flags"] }, "{bit}: {said}");
    }
    for (method, refused) in [(0u8, false), (1, true), (9, true), (12, true), (14, true), (93, true), (99, true)] {
        let mut b = build(&[entry("archive/x", b"1234")], false);
        let (local, central) = (b.headers[0] + 8, b.centrals[0] + 10);
        set(&mut b, local, &[method]);
        set(&mut b, central, &[method]);
        let (rules, said, _) = look(&b.bytes);
        assert_eq!(rules, if refused { vec!["zip.method"] } else { vec![] });
        assert_eq!(said.contains("\"archive/x\""), refused);
    }
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let long = "a".repeat(512);
    let deep = vec!["d"; 16].join("/");
    for name in ["a", "a/b", "a b/c.d", ".hidden", "a..b", long.as_str(), deep.as_str()] {
        assert_eq!(look(&build(&[entry(name, b"1")], false).bytes).0, [""; 0], "{name}");
    }
    let (longer, deeper) = (format!("{long}a"), format!("{deep}/d"));
    for (name, why) in [
        ("", "no name"),
        ("/etc/passwd", "absolute"),
        ("../x", "leaves the folder"),
        ("a/../x", "leaves the folder"),
        ("a/..", "leaves the folder"),
        ("..", "leaves the folder"),
        ("a\\b", "backslash"),
        ("C:x", "drive"),
        ("a/./b", "component"),
        ("a//b", "component"),
        ("a./b", "component"),
        ("a /b", "component"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\u{7f}", "control"),
        (&longer, "longer"),
        (&deeper, "deeper"),
    ] {
        let (rules, said, _) = look(&build(&[entry(name, b"1")], false).bytes);
        assert!(rules.contains(&"zip.name") && said.contains(why), "{name:?}: {rules:?} {said}");
    }
    let utf8 =
        |name: &[u8], flags| look(&build(&[Entry { name: name.to_vec(), flags, ..entry("", b"1") }], false).bytes);
    assert_eq!(utf8("ä".as_bytes(), 0x800).0, [""; 0]);
    assert_eq!(utf8("ä".as_bytes(), 0).0, ["zip.name"]);
    assert_eq!(utf8(b"\xff\xfe", 0x800).0, ["zip.name"]);
    assert_eq!(utf8("a\u{202e}b".as_bytes(), 0x800).0, ["zip.name"]);
    assert_eq!(utf8("a\u{200b}b".as_bytes(), 0x800).0, ["zip.name"]);
}

#[test]
fn names_that_stand_twice_are_refused() {
    for (a, b, why) in [
        ("a/b", "a/b", "stands twice"),
        ("a/B", "a/b", "one name to some"),
        ("a/b", "a/b/c", "would be in it"),
        ("a/b/c", "A/b", "would be in it"),
        ("a/b/", "a/b", "one name to some"),
    ] {
        let (rules, said, _) = look(
            &build(
                &[entry(a, b"1"), entry(b, b"2")].map(|mut e| {
                    if e.name.ends_with(b"/") {
                        e.data.clear();
                    }
                    e
                }),
                false,
            )
            .bytes,
        );
        assert_eq!(rules, ["zip.duplicate"], "{a} {b}");
        assert!(said.contains(why), "{said}");
    }
    let (rules, said, _) = look(&build(&[entry("folder/", b"12")], false).bytes);
    assert_eq!(rules, ["zip.duplicate"]);
    assert!(said.contains("holds 2 bytes"));
    for (crc, packed, size) in [(1, 0, 0), (0, 2, 0), (0, 0, 2)] {
        let mut b = build(&[Entry { deflate: packed > 0, ..entry("folder/", b"") }], false);
        for at in [b.headers[0] + 14, b.centrals[0] + 16] {
            set(&mut b, at, &[crc, 0, 0, 0, packed, 0, 0, 0, size]);
        }
        assert!(look(&b.bytes).0.contains(&"zip.duplicate"), "{crc} {packed} {size}");
    }
    // Names that are refused for themselves, but for those too long to be compared.
    for (name, twice) in
        [("../a".to_owned(), true), (format!("../{}", "a".repeat(509)), true), ("a".repeat(513), false)]
    {
        let rules = look(&build(&[entry(&name, b"1"), entry(&name, b"2")], false).bytes).0;
        let expected = if twice { &["zip.name", "zip.name", "zip.duplicate"][..] } else { &["zip.name", "zip.name"] };
        assert_eq!(rules, expected, "{name}");
    }
}

#[test]
fn links_and_special_files_are_refused() {
    for (mode, name, refused) in [
        (0o100_644u32, "a", false),
        (0o644, "a", false),
        (0o120_777, "a", true),
        (0o10_644, "a", true),
        (0o20_644, "a", true),
        (0o60_644, "a", true),
        (0o140_644, "a", true),
        (0o40_755, "a", true),
        (0o40_755, "a/", false),
        (0o120_777, "a/", true),
    ] {
        let data: &[u8] = if name == "a" { b"1" } else { b"" };
        let e = Entry { external: mode << 16, ..entry(name, data) };
        let (rules, said, _) = look(&build(&[e], false).bytes);
        assert_eq!(rules, if refused { vec!["zip.link"] } else { vec![] }, "{mode:o} {said}");
        assert_eq!(said.contains("a symbolic link"), mode == 0o120_777, "{said}");
    }
    let mut b = build(&[Entry { external: 0o120_777 << 16, ..entry("a", b"1") }], false);
    let at = b.centrals[0] + 4;
    set(&mut b, at, &[0x1e, 3]);
    assert!(look(&b.bytes).1.contains("made by 3)"));
    let e = Entry { external: 0x10, ..entry("a", b"1") };
    assert_eq!(look(&build(&[e], false).bytes).0, ["zip.link"]);
}

#[test]
fn extra_fields_that_rename_or_encrypt_are_refused() {
    for (extra, rule) in [
        (b"FB\x02\0ZZ".as_slice(), ""),
        (b"UT\x01\0Z", ""),
        (b"up\x02\0ZZ", "zip.extra"),
        (b"uc\x02\0ZZ", "zip.extra"),
        (b"\x01\x99\x02\0ZZ", "zip.extra"),
        (b"\x17\0\x02\0ZZ", "zip.extra"),
        (b"\x99\x98\x02\0ZZ", "zip.extra-unknown"),
        (b"FB\x03\0ZZ", "zip.extra"),
        (b"FB\x03", "zip.extra"),
    ] {
        for central in [false, true] {
            let mut e = entry("a", b"1");
            *(if central { &mut e.central_extra } else { &mut e.extra }) = extra.to_vec();
            let (rules, said, _) = look(&build(&[e], false).bytes);
            assert_eq!(rules.first().copied().unwrap_or_default(), rule, "{extra:?} {central} {said}");
        }
    }
}

#[test]
fn contents_have_their_size_and_crc() {
    broken("zip.crc", "\"archive/data/0\" has the CRC-32", false, |b| set(b, b.data[1], &[8]));
    broken("zip.size", "is stored in 33", false, |b| {
        let mut e = entry("a", &[7; 33]);
        e.flags = 0;
        *b = build(&[e], false);
        let (local, central) = (b.headers[0] + 22, b.centrals[0] + 24);
        set(b, local, &[32]);
        set(b, central, &[32]);
    });
    let deflated = |edit: &dyn Fn(&mut Built)| {
        let mut b = build(&[Entry { deflate: true, ..entry("a", &b"words ".repeat(1000)) }], false);
        edit(&mut b);
        look(&b.bytes)
    };
    assert_eq!(deflated(&|_| {}).0, [""; 0]);
    let sized = |size: u32| {
        move |b: &mut Built| {
            let (local, central) = (b.headers[0] + 22, b.centrals[0] + 24);
            set(b, local, &size.to_le_bytes());
            set(b, central, &size.to_le_bytes());
        }
    };
    assert!(deflated(&sized(5999)).1.contains("more than the 5999"));
    assert!(deflated(&sized(6001)).1.contains("unpacks to 6000"));
    assert!(deflated(&|b| set(b, b.data[0], &[0xff, 0xff])).1.contains("does not unpack"));
    // A byte behind the deflate stream, and one that is missing.
    for (longer, why) in [(true, "bytes behind"), (false, "does not unpack")] {
        let (_, said, _) = deflated(&|b| {
            let packed = (b.centrals[0] - b.data[0]) as u32;
            let (mut central, mut end) = (b.centrals[0], b.end);
            let packed = if longer {
                b.bytes.insert(central, 0);
                (central, end) = (central + 1, end + 1);
                packed + 1
            } else {
                b.bytes.remove(central - 1);
                (central, end) = (central - 1, end - 1);
                packed - 1
            };
            let local = b.headers[0] + 18;
            set(b, local, &packed.to_le_bytes());
            set(b, central + 20, &packed.to_le_bytes());
            set(b, end + 16, &(central as u32).to_le_bytes());
        });
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn bombs_are_refused_before_anything_is_unpacked() {
    let zeros = |size: usize| Entry { deflate: true, ..entry("archive/data/0", &vec![0; size]) };
    // 4 MiB and 20 for each packed byte are allowed.
    let packed = |size: usize| miniz_oxide::deflate::compress_to_vec(&vec![0; size], 6).len();
    let limit = (4 << 20) + 20 * packed(4 << 20);
    assert!(packed(limit) >= packed(4 << 20));
    let at_most = (4 << 20) + 20 * packed(limit);
    assert_eq!(look(&build(&[zeros(limit)], false).bytes).0, [""; 0]);
    let (rules, said, members) = look(&build(&[zeros(at_most + 4096)], false).bytes);
    assert_eq!((rules, members), (vec!["zip.bomb"], None));
    assert!(said.contains("\"archive/data/0\" unpacks"), "{said}");
    // One that would be no bomb among so much else.
    let beside = [zeros(8 << 20), entry("archive/data/1", &[7; 1 << 20])];
    assert_eq!(look(&build(&beside, false).bytes).0, ["zip.bomb"]);
    // Many small ones are one large one.
    let many: Vec<Entry> = (0..3).map(|i| Entry { name: vec![b'a' + i], ..zeros(2 << 20) }).collect();
    assert_eq!(look(&build(&many, false).bytes).0, ["zip.bomb"]);
}

#[test]
fn each_member_is_held_to_the_ratio_and_all_together() {
    let judge = |sizes: &[(u64, u64)]| {
        let (path, mut findings) = ("model.pt".parse().expect("a path"), Findings::new());
        let mut out = Out { path: &path, findings: &mut findings };
        let bytes = build(&vec![entry("a", b""); sizes.len()], false).bytes;
        let end = header::end(&bytes.as_slice(), &mut out).expect("an end");
        let mut entries = directory(&bytes.as_slice(), &end, &mut out).expect("entries");
        for (entry, (packed, size)) in entries.iter_mut().zip(sizes) {
            (entry.packed, entry.size) = (*packed, *size);
        }
        bombs(&entries).is_ok()
    };
    let limit = |packed: u64| packed * 20 + (4 << 20);
    assert!(judge(&[(100, limit(100))]));
    assert!(!judge(&[(100, limit(100) + 1)]) && !judge(&[(100, limit(100) + 2)]));
    assert!(judge(&[(60, limit(0)), (40, 2000)]));
    assert!(!judge(&[(60, limit(0)), (40, 2001)]), "together");
    assert!(!judge(&[(1 << 20, 1 << 20), (100, limit(100) + 2)]), "among much else");
    assert!(!judge(&[(0, u64::MAX), (0, 1)]));
}

#[test]
fn a_stream_that_gives_nothing_for_long_goes_on_until_it_ends() {
    let unpacked = |packed: &[u8]| {
        let mut out = Vec::new();
        let member = Member {
            name: "a".into(),
            method: Method::Deflated,
            size: 5,
            packed: packed.len() as u64,
            crc: crc32fast::hash(b"words"),
            data_at: 0,
        };
        contents(&packed, &member, &mut |bytes| out.extend_from_slice(bytes)).map(|()| out)
    };
    // Stored blocks without a byte, more than are read at once.
    let nothing = [0, 0, 0, 0xff, 0xff].repeat(30_000);
    let words = miniz_oxide::deflate::compress_to_vec(b"words", 6);
    assert_eq!(unpacked(&[nothing.as_slice(), &words].concat()).expect("sound"), b"words");
    for cut in [&nothing[..], &nothing[..1], &words[..words.len() - 1], b""] {
        assert!(unpacked(cut).is_err());
    }
}

#[test]
fn the_most_members_cost_what_they_take_up() {
    let archive = |n: usize| {
        let members: Vec<Entry> = (0..n).map(|i| entry(&format!("a/b/c/d/e/f/{i}"), b"1")).collect();
        build(&members, true).bytes
    };
    // What is read of an archive, for each of its members.
    let cost = |n: usize| {
        let bytes = archive(n);
        let input = Counted::new(&bytes);
        let path = "model.pt".parse().expect("a path");
        let found = members(&path, &input, &mut Findings::new()).expect("no failure");
        assert_eq!(found.map(|all| all.len()), Some(n));
        (input.reads.get() / n as u64, input.read.get() / n as u64)
    };
    let (few, many) = (cost(6_000), cost(60_000));
    assert!(many.0 <= few.0 + 1 && many.1 <= few.1 + 8, "{few:?}, and of ten times as many {many:?}");
    assert_eq!(no_hang("60,000 members", || look(&archive(60_000)).0), [""; 0]);
    let same: Vec<Entry> = (0..60_000).map(|_| entry("../a", b"1")).collect();
    let same = build(&same, true).bytes;
    assert!(no_hang("60,000 members of one name", || look(&same).0).contains(&"zip.duplicate"));
}

#[test]
fn no_mutation_of_an_archive_panics() {
    let mut entries = two().to_vec();
    entries.push(Entry { deflate: true, ..entry("archive/text", &b"words ".repeat(50)) });
    let sound = build(&entries, true).bytes;
    for bytes in mutations(1, &[&sound], 20_000) {
        look(&bytes);
    }
}
