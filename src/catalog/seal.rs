//! The signature of manifest.yaml.
//!
//! Owns: where it stands, at the end of the last line. Promises: what was signed is the whole file, through the BLAKE3 hash and
//! the generation that the last line states; what [`open`] gives back is what was signed. Leaves out: keys (`key`), and
//! what the file says (`text`).
//!
//! ```text
//! # end generation=42 entries=1 blake3=... key=<public key> ed25519=<signature>
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::key::{Keys, Signed};

const KEY: &str = " key=";
const SIGNATURE: &str = " ed25519=";

/// Adds the signature to a manifest's text, where this root signs.
pub(crate) fn seal(mut text: String, keys: &Keys) -> Result<String> {
    let Some(signed) = keys.sign(&message(last_line(&text)))? else { return Ok(text) };
    text.truncate(text.trim_end_matches('\n').len());
    for part in [KEY, &signed.key, SIGNATURE, &signed.signature, "\n"] {
        text.push_str(part);
    }
    Ok(text)
}

/// The text without its signature, which was checked.
pub(crate) fn open(mut bytes: Vec<u8>, keys: &Keys) -> Result<Vec<u8>> {
    let from = bytes.iter().rposition(|b| *b == b'#').unwrap_or(bytes.len());
    // What is no text is refused by who parses it; it is not signed.
    let last = std::str::from_utf8(&bytes[from..]).unwrap_or("").trim_end_matches('\n');
    let parts = last.split_once(KEY).and_then(|(line, rest)| Some((line, rest.split_once(SIGNATURE)?)));
    let (line, signed) = match parts {
        Some((line, (key, signature))) => {
            (line.to_owned(), Some(Signed { key: key.to_owned(), signature: signature.to_owned() }))
        }
        None => (last.to_owned(), None),
    };
    keys.check(&message(&line), signed.as_ref()).map_err(|why| {
        let remedy = "`securereg recover` says what can be done; nothing is served until then";
        Error::new(ErrorKind::Manifest, format!("manifest.yaml is refused: {why}; {remedy}"))
    })?;
    if signed.is_some() {
        bytes.truncate(from + line.len());
        bytes.push(b'\n');
    }
    Ok(bytes)
}

fn last_line(text: &str) -> &str {
    text.lines().next_back().unwrap_or("")
}

/// What is signed: never the words of anything else that this key signs.
fn message(last_line: &str) -> String {
    format!("securereg manifest\n{last_line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, text};
    use crate::key;
    use crate::layout::{Access, Layout};

    #[test]
    fn a_signed_manifest_reads_as_what_was_signed_and_no_byte_of_it_can_be_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::open(dir.path(), Access::Create).expect("a root");
        let plain = text::render(&Catalog::default()).expect("room");
        let none = Keys::load(&layout).expect("no key");
        assert_eq!(seal(plain.clone(), &none).expect("as it is"), plain);
        assert_eq!(open(plain.clone().into_bytes(), &none).expect("as it is"), plain.as_bytes());

        key::publish(&layout, &key::make(&layout).expect("made")).expect("published");
        let keys = Keys::load(&layout).expect("a key");
        let sealed = seal(plain.clone(), &keys).expect("signed");
        assert_eq!(open(sealed.clone().into_bytes(), &keys).expect("good"), plain.as_bytes());
        assert_eq!(open(plain.clone().into_bytes(), &keys).expect_err("not signed").kind(), ErrorKind::Manifest);
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] ^= 1;
            let read = open(bytes, &keys).and_then(|bytes| text::parse(&bytes, None).map(drop));
            assert_eq!(read.map_err(|e| e.kind()), Err(ErrorKind::Manifest), "byte {at}");
        }
        for end in 0..sealed.len() {
            let read =
                open(sealed.as_bytes()[..end].to_vec(), &keys).and_then(|bytes| text::parse(&bytes, None).map(drop));
            // But for its newline.
            assert_eq!(read.is_ok(), end + 1 == sealed.len() && read.is_ok(), "cut at {end}");
        }
    }
}
