//! Rust without its comments and strings.
//!
//! Owns: telling code from text about code. Promises: the result has the lines and columns of the source; what stood inside
//! a comment, a string or a character is blank. Leaves out: everything else a compiler would see.

/// `source` with comments and the insides of literals blanked.
pub(crate) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes[i..].starts_with(b"//") => line_end(bytes, i),
            b'/' if bytes[i..].starts_with(b"/*") => comment_end(bytes, i),
            b'"' => string_end(bytes, i),
            b'r' if !is_word_before(bytes, i) => raw_end(bytes, i + 1).unwrap_or(i + 1),
            b'b' if !is_word_before(bytes, i) && bytes[i..].starts_with(b"br") => {
                raw_end(bytes, i + 2).unwrap_or(i + 1)
            }
            b'\'' => char_end(bytes, i).unwrap_or(i + 1),
            _ => i + 1,
        };
        if end > i + 1 {
            blank(&mut out[i..end]);
        }
        i = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
}

fn is_word_before(bytes: &[u8], i: usize) -> bool {
    i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_')
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| from + n)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut i) = (0_usize, from);
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut i = from + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The end of `"..."`, `#"..."#` and so on after an `r`; none when it is an identifier.
fn raw_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from..].iter().take_while(|b| **b == b'#').count();
    let open = from + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = &bytes[open + 1..];
    let end = body.windows(close.len()).position(|w| w == close).map_or(bytes.len(), |n| open + 1 + n + close.len());
    Some(end)
}

/// The end of a character; none when the quote begins a lifetime.
fn char_end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.get(from + 1) == Some(&b'\\') {
        return bytes[from + 3..].iter().position(|b| *b == b'\'').map(|n| from + 3 + n + 1);
    }
    let text = std::str::from_utf8(&bytes[from + 1..]).ok()?;
    let width = text.chars().next()?.len_utf8();
    (bytes.get(from + 1 + width) == Some(&b'\'')).then_some(from + width + 2)
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn comments_and_literals_are_blanked_and_code_is_kept() {
        for (source, kept, gone) in [
            ("a(); // unsafe\nb();", "b();", "unsafe"),
            ("/* x /* unsafe */ y */ c();", "c();", "unsafe"),
            (r#"d("un\"safe unsafe"); e();"#, "e();", "unsafe"),
            (r###"f(r#"unsafe " x"#); g();"###, "g();", "unsafe"),
            ("h(b\"unsafe\"); k();", "k();", "unsafe"),
            ("let q = '\"'; unsafe_less(); let r = '\\''; l();", "l();", "'\"'"),
            ("fn m<'a>(x: &'a str) { n(\"unsafe\") }", "fn m<'a>(x: &'a str)", "unsafe"),
            ("let r = bar; var(); r#type();", "r#type();", "zzz"),
        ] {
            let code = code(source);
            assert!(code.contains(kept) && !code.contains(gone), "{source:?} became {code:?}");
            assert_eq!(code.len(), source.len());
        }
    }
}
