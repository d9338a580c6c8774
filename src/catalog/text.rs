//! manifest.yaml as text.
//!
//! Owns: the canonical form. Promises: what [`render`] writes, [`parse`] reads back equal, and nothing else parses: the last
//! line vouches for every byte before it, so truncation and edits show; an entry whose bytes did not change is not parsed
//! again. Leaves out: files and generations that were seen before (`store`).
//!
//! ```text
//! version: 1
//! generation: 42
//! models:                                   "models: []" when there are none
//! - name: "org/llama"                       entries sorted by name, each starting "- " in column 0
//!   sha256: "..."
//!   ...
//!   files:
//!   - path: "a.gguf"
//!     ...
//! # end generation=42 entries=1 blake3=...  BLAKE3 of all bytes before this line
//! ```

use super::{Catalog, Entry, guard};
use crate::artifact::{Artifact, Layout, list_digest};
use crate::error::{Error, ErrorKind, Result};
use std::fmt::Write;
use std::sync::Arc;

/// No manifest is larger; refused before it is read.
pub(crate) const MAX_BYTES: u64 = 48 << 20;

/// Of these, this much is kept free of promotions.
pub(crate) const KEPT_FREE: u64 = 8 << 20;

/// Whether a manifest of `bytes` may be written by this event. Room is kept for what must always be possible, a quarantine
/// above all.
pub(crate) fn fits(bytes: u64, event: &str) -> bool {
    bytes <= if event == "promote" { MAX_BYTES - KEPT_FREE } else { MAX_BYTES }
}

const VERSION: u64 = 1;

fn bad(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Manifest, format!("manifest.yaml is refused: {why}"))
}

fn refused(line: usize, why: &str) -> Error {
    Error::new(ErrorKind::Manifest, format!("manifest.yaml line {line} is refused: {why}"))
}

/// The whole file for a catalog.
pub(crate) fn render(catalog: &Catalog) -> String {
    let size: usize = catalog.entries().iter().map(|e| e.text.len()).sum();
    let mut out = String::with_capacity(size + 256);
    let models = if catalog.is_empty() { " []" } else { "" };
    let generation = catalog.generation();
    out.push_str(&format!("version: {VERSION}\ngeneration: {generation}\nmodels:{models}\n"));
    for entry in catalog.entries() {
        out.push_str(&entry.text);
    }
    let trailer = trailer(generation, catalog.len(), out.as_bytes());
    out.push_str(&trailer);
    out
}

fn trailer(generation: u64, entries: usize, body: &[u8]) -> String {
    format!("# end generation={generation} entries={entries} blake3={}\n", blake3::hash(body).to_hex())
}

/// Parses a whole file. Entries that `previous` has with the same bytes are taken from there.
pub(crate) fn parse(bytes: &[u8], previous: Option<&Catalog>) -> Result<Catalog> {
    if !fits(bytes.len() as u64, "load") {
        return Err(bad(format_args!("it has {} bytes, over the limit of {MAX_BYTES}", bytes.len())));
    }
    if !bytes.is_ascii() {
        return Err(bad("it is not plain ASCII"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text"))?;
    let body_end = text.strip_suffix('\n').and_then(|t| t.rfind('\n')).map_or(0, |at| at + 1);
    let (body, last) = text.split_at(body_end);
    if !last.starts_with("# end ") || !last.ends_with('\n') {
        return Err(bad("its last line is missing: it was cut short"));
    }
    let (header, mut rest) = match body.find("\n- ") {
        Some(at) => body.split_at(at + 1),
        None => (body, ""),
    };
    guard::check(header).map_err(|(line, why)| refused(line, why))?;
    let mut lines = header.lines();
    let version = number(lines.next(), "version")?;
    let generation = number(lines.next(), "generation")?;
    if version != VERSION {
        return Err(bad(format_args!("its version is {version}; this program knows {VERSION}")));
    }
    let models = if rest.is_empty() { "models: []" } else { "models:" };
    if lines.next() != Some(models) || lines.next().is_some() {
        return Err(bad("its head is not version, generation and models"));
    }
    let mut known = previous.map_or(&[][..], Catalog::entries).iter().peekable();
    let mut entries: Vec<Entry> = Vec::with_capacity(previous.map_or(16, Catalog::len));
    while !rest.is_empty() {
        let end = rest.find("\n- ").map_or(rest.len(), |at| at + 1);
        let (text, tail) = rest.split_at(end);
        // Both are sorted by name, so one walk over what is known finds every entry that did not change.
        while known.peek().is_some_and(|entry| name_line(&entry.text) < name_line(text)) {
            known.next();
        }
        entries.push(match known.next_if(|entry| &*entry.text == text) {
            Some(entry) => entry.clone(),
            None => {
                // Counted only for a message: counting for each entry would be quadratic.
                let before = &body[..body.len() - rest.len()];
                guard::check(text).map_err(|(line, why)| refused(before.matches('\n').count() + line, why))?;
                decode(text)?
            }
        });
        rest = tail;
    }
    if last != trailer(generation, entries.len(), body.as_bytes()) {
        return Err(bad("its last line does not fit its content: it was torn or edited by hand"));
    }
    if !entries.is_sorted_by(|a, b| a.artifact.name.as_str() < b.artifact.name.as_str()) {
        return Err(bad("its entries are not sorted by name, each once"));
    }
    Catalog::new(generation, entries)
}

/// The first line of an entry, which holds its name. The closing quote sorts before every character that a name may hold,
/// so these lines sort as the names do.
fn name_line(text: &str) -> &str {
    text.split('\n').next().unwrap_or(text)
}

fn number(line: Option<&str>, key: &str) -> Result<u64> {
    line.and_then(|l| l.strip_prefix(key)?.strip_prefix(": ")?.parse().ok())
        .ok_or_else(|| bad(format_args!("its head has no {key}")))
}

/// One entry, parsed strictly and found consistent.
fn decode(text: &str) -> Result<Entry> {
    let mut list: Vec<Artifact> = serde_yaml::from_str(text).map_err(|e| bad("an entry is malformed").because(e))?;
    let (Some(artifact), true) = (list.pop(), list.is_empty()) else {
        return Err(bad("an entry is not one model"));
    };
    let name = &artifact.name;
    let inconsistent = |why: &str| bad(format_args!("the entry {name} {why}"));
    if artifact.files.is_empty() || (artifact.layout == Layout::File && artifact.files.len() != 1) {
        return Err(inconsistent("has the wrong number of files"));
    }
    if !artifact.files.is_sorted_by(|a, b| a.path < b.path) {
        return Err(inconsistent("lists its files out of order"));
    }
    let sha256 = if artifact.layout == Layout::File { artifact.files[0].sha256 } else { list_digest(&artifact.files) };
    let size = artifact.files.iter().try_fold(0u64, |sum, f| sum.checked_add(f.size_bytes));
    if artifact.sha256 != sha256 || size != Some(artifact.size_bytes) {
        return Err(inconsistent("does not agree with its files"));
    }
    artifact.check_paths().map_err(|e| inconsistent(e.message()))?;
    if encode(&artifact) != text {
        return Err(inconsistent("is not in canonical form"));
    }
    Ok(Entry { text: text.into(), artifact: Arc::new(artifact) })
}

/// The canonical text of one entry.
pub(crate) fn encode(a: &Artifact) -> String {
    let mut out = String::with_capacity(512 + 256 * a.files.len());
    pair(&mut out, "- name", a.name.as_str());
    pair(&mut out, "  sha256", &a.sha256.to_hex());
    pair(&mut out, "  layout", a.layout.as_str());
    pair(&mut out, "  format", a.format.as_str());
    pair(&mut out, "  source", &a.source);
    pair(&mut out, "  promoted_at", &a.promoted_at);
    if let Some(evidence) = &a.evidence {
        pair(&mut out, "  evidence", &evidence.to_hex());
    }
    if let Some(q) = &a.quarantine {
        out.push_str("  quarantine:\n");
        pair(&mut out, "    cause", q.cause.as_str());
        pair(&mut out, "    reason", &q.reason);
        if let Some(id) = &q.incident_id {
            pair(&mut out, "    incident_id", id);
        }
        pair(&mut out, "    at", &q.at);
    }
    let _ = write!(out, "  size_bytes: {}\n  files:\n", a.size_bytes);
    for f in &a.files {
        pair(&mut out, "  - path", f.path.as_str());
        let _ = writeln!(out, "    size_bytes: {}", f.size_bytes);
        pair(&mut out, "    sha256", &f.sha256.to_hex());
        pair(&mut out, "    blake3", &f.blake3.to_hex());
    }
    out
}

fn pair(out: &mut String, key: &str, value: &str) {
    out.push_str(key);
    out.push_str(": ");
    quote(out, value);
    out.push('\n');
}

/// A YAML double-quoted scalar of printable ASCII (YAML 1.2.2, section 5.7 for the escapes).
fn quote(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(c),
            c if u32::from(c) <= 0xff => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::tests::artifact;
    use super::*;
    use crate::artifact::{Cause, Quarantine};
    use proptest::prelude::*;

    fn catalog(artifacts: Vec<Artifact>) -> Catalog {
        Catalog::new(9, artifacts.into_iter().map(Entry::new).collect()).expect("a catalog")
    }

    fn sample() -> String {
        let mut b = artifact("b/c:v1", Layout::Folder, &["config.json", "x/y.gguf"]);
        b.quarantine = Some(Quarantine {
            cause: Cause::Incident,
            reason: "why".into(),
            incident_id: Some("i".into()),
            at: "t".into(),
        });
        b.evidence = Some(b.sha256);
        render(&catalog(vec![artifact("a", Layout::File, &["a.gguf"]), b]))
    }

    /// Puts a fitting last line under a body that somebody edited.
    fn sealed(body: &str, generation: u64, entries: usize) -> String {
        format!("{body}{}", trailer(generation, entries, body.as_bytes()))
    }

    fn artifacts(c: &Catalog) -> Vec<Artifact> {
        c.artifacts().map(|a| (**a).clone()).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(source in any::<String>(), reason in ".*", id in proptest::option::of(".*"), q in any::<bool>()) {
            let mut a = artifact("m", Layout::File, &["m.gguf"]);
            a.source = source;
            let cause = if q { Cause::Integrity } else { Cause::Incident };
            a.quarantine = Some(Quarantine { cause, reason, incident_id: id, at: "t".into() });
            let text = render(&catalog(vec![a.clone()]));
            prop_assert_eq!(artifacts(&parse(text.as_bytes(), None).expect("our own text")), vec![a]);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse(&bytes, None).is_err());
        }
    }

    #[test]
    fn an_empty_catalog_is_said_to_be_empty() {
        let text = render(&catalog(vec![]));
        assert!(text.contains("models: []\n# end generation=9 entries=0 "), "{text}");
        assert_eq!(parse(text.as_bytes(), None).expect("empty").len(), 0);
    }

    /// Threat 10.
    #[test]
    fn t10_a_torn_or_edited_manifest_is_refused_at_every_byte() {
        let text = sample();
        let whole = parse(text.as_bytes(), None).expect("whole");
        assert_eq!((whole.generation(), whole.len()), (9, 2));
        for cut in 0..text.len() {
            assert_eq!(
                parse(&text.as_bytes()[..cut], None).expect_err("cut").kind(),
                ErrorKind::Manifest,
                "cut at {cut}"
            );
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(parse(&bytes, None).expect_err("flipped").kind(), ErrorKind::Manifest, "flipped at {at}");
        }
        assert!(parse(format!("{text}{text}").as_bytes(), None).is_err());
        assert!(parse(format!("{text}\n").as_bytes(), None).is_err());
    }

    /// Threat 11, with a last line that fits: each of these must be refused for what it says.
    #[test]
    fn t11_a_sealed_manifest_that_lies_is_refused() {
        let text = sample();
        let body = &text[..text.rfind("# end").expect("a last line")];
        assert!(parse(sealed(body, 9, 2).as_bytes(), None).is_ok(), "the seal itself is right");
        for (from, to) in [
            ("version: 1", "version: 2"),
            ("version: 1\n", ""),
            ("generation: 9", "generation: 8"),
            ("models:\n", "models: []\n"),
            ("models:\n", "models:\nextra: 1\n"),
            ("  size_bytes: 7\n  files", "  size_bytes: 8\n  files"),
            ("  layout: \"file\"", "  layout: \"folder\""),
            ("  layout: \"folder\"", "  layout: \"file\""),
            ("  format: \"gguf\"", "  format: \"pickle\""),
            ("\"a.gguf\"", "\"../a.gguf\""),
            ("name: \"a\"", "name: \"../a\""),
            ("name: \"a\"", "name: \"z\""),
            ("name: \"a\"", "name: \"b/c:v1\""),
            ("  source: \"test\"\n", ""),
            ("  source: \"test\"\n", "  source: \"test\"\n  unknown: 1\n"),
            ("  source: \"test\"\n", "  source: \"test\"\n  source: \"test\"\n"),
            ("  source: \"test\"\n", "  source: \"\\x74est\"\n"),
            ("  source: \"test\"\n", "  source: &a \"test\"\n"),
            ("  source: \"test\"\n", "  source: *a\n"),
            ("\"config.json\"", "\"zonfig.json\""),
            ("cause: \"incident\"", "cause: \"other\""),
        ] {
            assert!(body.contains(from), "{from}");
            let lie = sealed(&body.replacen(from, to, 1), 9, 2);
            assert_eq!(parse(lie.as_bytes(), None).expect_err(to).kind(), ErrorKind::Manifest, "{from:?} -> {to:?}");
        }
        assert!(parse(sealed(body, 9, 3).as_bytes(), None).is_err(), "the number of entries is checked");
        assert!(parse(&vec![b'a'; MAX_BYTES as usize + 1], None).is_err(), "too large");
        assert!(parse("é".as_bytes(), None).is_err(), "not ASCII");
    }

    #[test]
    fn promotions_leave_room_that_everything_else_may_use() {
        let (most, promotions) = (48 << 20, 40 << 20);
        assert!(fits(promotions, "promote") && !fits(promotions + 1, "promote"));
        assert!(fits(most, "quarantine") && !fits(most + 1, "quarantine"));
        assert!(fits(most, "load") && !fits(most + 1, "load"));
    }

    #[test]
    fn a_sealed_entry_with_files_that_cannot_be_is_refused() {
        let entry = |files: &[&str], layout| {
            let mut a = artifact("m", Layout::Folder, files);
            a.layout = layout;
            a.sha256 = if layout == Layout::File { a.files[0].sha256 } else { list_digest(&a.files) };
            let body = format!("version: 1\ngeneration: 9\nmodels:\n{}", encode(&a));
            parse(sealed(&body, 9, 1).as_bytes(), None).map(drop)
        };
        assert!(entry(&["a.gguf"], Layout::File).is_ok());
        assert!(entry(&["a.gguf", "b.gguf"], Layout::Folder).is_ok());
        let e = entry(&["a.gguf", "b.gguf"], Layout::File).expect_err("a file is one file");
        assert!(e.to_string().contains("wrong number"), "{e}");
        for order in [["a.gguf", "a.gguf"], ["b.gguf", "a.gguf"]] {
            let e = entry(&order, Layout::Folder).expect_err("each once, sorted");
            assert!(e.to_string().contains("out of order"), "{e}");
        }
    }

    #[test]
    fn each_character_has_one_way_to_be_written() {
        let quoted = |text: &str| {
            let mut out = String::new();
            quote(&mut out, text);
            out
        };
        assert_eq!(quoted("a\"\\\n\u{7f}\u{ff}"), r#""a\"\\\x0a\x7f\xff""#);
        assert_eq!(quoted("\u{100}\u{ffff}\u{10000}\u{10ffff}"), r#""\u0100\uffff\U00010000\U0010ffff""#);
    }

    #[test]
    fn an_unchanged_entry_is_not_parsed_again() {
        let first = parse(sample().as_bytes(), None).expect("whole");
        let next =
            first.with(&[crate::catalog::Edit::Put(artifact("n", Layout::File, &["n.gguf"]).into())]).expect("put");
        let again = parse(render(&next).as_bytes(), Some(&first)).expect("whole");
        let kept = again.artifacts().zip(first.artifacts()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((again.len(), kept), (3, 2));
    }
}
