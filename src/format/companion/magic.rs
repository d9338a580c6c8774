//! What a file is that is not what its name says.
//!
//! Owns: the magic numbers of what hides in a model's folder: programs, archives, pickles, pages. Promises: looks at the first
//! bytes only; a text that merely resembles one of them is not taken for it. Leaves out: what follows from it.

/// What was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A program or a library that the machine runs.
    Executable,
    /// A script that names its interpreter.
    Script,
    /// A web page, saved in place of a file.
    Page,
    /// A Git LFS pointer, saved in place of what it points to.
    Pointer,
    /// A picture.
    Picture,
    /// Another format: an archive, a pickle, a model.
    Other,
}

/// How many bytes [`recognise`] wants to see.
pub(crate) const HEAD: usize = 1024;

/// Magic numbers at the start of a file.
const STARTS: [(&[u8], Class, &str); 41] = [
    (b"\x7fELF", Class::Executable, "an ELF program or library"),
    (b"MZqFpD", Class::Executable, "an APE program (llamafile)"),
    (b"\xfe\xed\xfa\xce", Class::Executable, "a Mach-O program"),
    (b"\xfe\xed\xfa\xcf", Class::Executable, "a Mach-O program"),
    (b"\xce\xfa\xed\xfe", Class::Executable, "a Mach-O program"),
    (b"\xcf\xfa\xed\xfe", Class::Executable, "a Mach-O program"),
    (b"\xca\xfe\xba\xbe", Class::Executable, "a Mach-O program or a Java class"),
    (b"\0asm", Class::Executable, "a WebAssembly module"),
    (b"dex\n", Class::Executable, "an Android program"),
    (b"BC\xc0\xde", Class::Executable, "LLVM bitcode"),
    (b"!<arch>\n", Class::Executable, "an archive of object files"),
    (b"L\0\0\0\x01\x14\x02\0", Class::Executable, "a Windows shortcut"),
    (b"#!", Class::Script, "a script"),
    (b"version https://git-lfs.github.com/spec/", Class::Pointer, "a Git LFS pointer, not the file it points to"),
    (b"version https://hawser.github.com/spec/", Class::Pointer, "a Git LFS pointer, not the file it points to"),
    (b"\x89PNG\r\n\x1a\n", Class::Picture, "a PNG picture"),
    (b"\xff\xd8\xff", Class::Picture, "a JPEG picture"),
    (b"GIF87a", Class::Picture, "a GIF picture"),
    (b"GIF89a", Class::Picture, "a GIF picture"),
    (b"GGUF", Class::Other, "a GGUF model"),
    (b"PK\x03\x04", Class::Other, "a zip archive"),
    (b"PK\x05\x06", Class::Other, "an empty zip archive"),
    (b"PK\x07\x08", Class::Other, "a spanned zip archive"),
    (b"7z\xbc\xaf\x27\x1c", Class::Other, "a 7z archive"),
    (b"Rar!\x1a\x07", Class::Other, "a RAR archive"),
    (b"\x1f\x8b", Class::Other, "gzip"),
    (b"BZh", Class::Other, "bzip2"),
    (b"\xfd7zXZ\0", Class::Other, "xz"),
    (b"\x28\xb5\x2f\xfd", Class::Other, "Zstandard"),
    (b"\x04\x22\x4d\x18", Class::Other, "LZ4"),
    (b"\x89HDF\r\n\x1a\n", Class::Other, "HDF5"),
    (b"\x93NUMPY", Class::Other, "a numpy array"),
    (b"SQLite format 3\0", Class::Other, "an SQLite database"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Class::Other, "an OLE document"),
    (b"%PDF-", Class::Other, "a PDF document"),
    (b"\x80\x02", Class::Other, "a Python pickle"),
    (b"\x80\x03", Class::Other, "a Python pickle"),
    (b"\x80\x04", Class::Other, "a Python pickle"),
    (b"\x80\x05", Class::Other, "a Python pickle"),
    (b"{\\rtf", Class::Other, "an RTF document"),
    (b"MSCF\0\0\0\0", Class::Other, "a cabinet archive"),
];

/// What these first bytes of a file are, when they are something that has no place in a model's folder under another name.
pub(crate) fn recognise(head: &[u8]) -> Option<(Class, &'static str)> {
    if let Some((_, class, what)) = STARTS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Some((*class, what));
    }
    if is_windows_program(head) {
        return Some((Class::Executable, "a Windows program or library"));
    }
    // CPython: a 16-bit number that grew from 3000 to 3600 and more, "\r\n".
    if matches!(head, [_, 0x0b..=0x0f, b'\r', b'\n', ..]) {
        return Some((Class::Executable, "compiled Python"));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some((Class::Other, "a tar archive"));
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        return Some((Class::Picture, "a WebP picture"));
    }
    if matches!(head.split_first_chunk::<8>(), Some((n, [b'{', ..])) if (2..=100_000_000).contains(&u64::from_le_bytes(*n)))
    {
        return Some((Class::Other, "safetensors"));
    }
    is_page(head).then_some((Class::Page, "an HTML page"))
}

/// What these first bytes are, in words.
pub(crate) fn disguise(head: &[u8]) -> Option<&'static str> {
    recognise(head).map(|(_, what)| what)
}

/// "MZ" alone begins words too: the header must lead to another one, or hold what no text does.
fn is_windows_program(head: &[u8]) -> bool {
    let Some(rest) = head.strip_prefix(b"MZ") else { return false };
    rest.len() >= 62 && rest[..62].contains(&0)
}

fn is_page(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let starts = |word: &[u8]| text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
    starts(b"<!doctype html") || starts(b"<html") || starts(b"<head") || starts(b"<script") || starts(b"<body")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_companion_is_known_by_its_bytes() {
        for (magic, class, what) in STARTS {
            assert_eq!(recognise(&[magic, b" and more"].concat()), Some((class, what)));
            assert_ne!(recognise(&magic[..magic.len() - 1]), Some((class, what)), "{what}, cut");
        }
        let mut mz = [b"MZ".as_slice(), &[b'x'; 61], &[0]].concat();
        assert_eq!(disguise(&mz), Some("a Windows program or library"));
        mz.pop();
        assert_eq!(disguise(&mz), None);
        mz.push(b'x');
        assert_eq!(disguise(&mz), None, "words");
        assert_eq!(recognise(b"\xcb\x0d\r\n\0\0").map(|r| r.0), Some(Class::Executable));
        assert_eq!(disguise(b"a\x0e\r\n"), Some("compiled Python"));
        assert_eq!(disguise(b"ab\r\n"), None);
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        assert_eq!(disguise(&tar), Some("a tar archive"));
        assert_eq!(disguise(b"RIFF\0\0\0\0WEBPVP8"), Some("a WebP picture"));
        assert_eq!(disguise(b"\x02\0\0\0\0\0\0\0{}"), Some("safetensors"));
        assert_eq!(disguise(b"\x01\0\0\0\0\0\0\0{}"), None);
        for page in ["<!DOCTYPE html>", "  \n<HTML lang=en>", "\u{feff}<html>", "<head>", "<script>", "<Body>"] {
            assert_eq!(recognise(page.as_bytes()), Some((Class::Page, "an HTML page")), "{page}");
        }
        for text in ["", "{}", "# Words\n<div>", "M", "MZ", "<p>hello</p>", "#", "version 4.38"] {
            assert_eq!(recognise(text.as_bytes()), None, "{text}");
        }
    }
}
