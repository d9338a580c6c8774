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
//! While anything is blocked, the version is 2, which a program that knows nothing of it refuses instead of forgetting it:
//!
//! ```text
//! version: 2
//! ...
//! blocked:
//! - name: "org/bad"                         sorted by name, then by weights
//!   deleted_at: "..."
//!   quarantine:
//!     ...                                   as of a model; its cause is an incident
//!   weights:
//!   - sha256: "..."                         sorted, each once, at least one
//! # end generation=42 entries=1 blocked=1 blake3=...
//! ```

use super::{Catalog, Entry, guard};
use crate::artifact::{Artifact, Blocked, Cause, Layout, Quarantine, list_digest};
use crate::error::{Error, ErrorKind, Result};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// No manifest is larger; refused before it is read.
pub(crate) const MAX_BYTES: u64 = 48 << 20;

/// Of these, this much is kept free of promotions.
pub(crate) const KEPT_FREE: u64 = 8 << 20;

/// Of a manifest in which nothing is blocked.
const VERSION: u64 = 1;
/// Of one in which something is.
const VERSION_BLOCKED: u64 = 2;

const BLOCKED: &str = "blocked:\n";

fn bad(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Manifest, format!("manifest.yaml is refused: {why}"))
}

fn refused(line: usize, why: &str) -> Error {
    Error::new(ErrorKind::Manifest, format!("manifest.yaml line {line} is refused: {why}"))
}

/// The whole file for a catalog.
pub(crate) fn render(catalog: &Catalog) -> String {
    let blocked = catalog.blocked_entries();
    let texts = || catalog.entries().iter().map(|e| &e.text).chain(blocked.iter().map(|e| &e.text));
    let size: usize = texts().map(|text| text.len()).sum();
    let mut out = String::with_capacity(size + 256);
    let version = if blocked.is_empty() { VERSION } else { VERSION_BLOCKED };
    let models = if catalog.is_empty() { " []" } else { "" };
    let generation = catalog.generation();
    out.push_str(&format!("version: {version}\ngeneration: {generation}\nmodels:{models}\n"));
    for (i, text) in texts().enumerate() {
        if i == catalog.len() {
            out.push_str(BLOCKED);
        }
        out.push_str(text);
    }
    let trailer = trailer(generation, catalog.len(), blocked.len(), out.as_bytes());
    out.push_str(&trailer);
    out
}

fn trailer(generation: u64, entries: usize, blocked: usize, body: &[u8]) -> String {
    let blocked = if blocked == 0 { String::new() } else { format!(" blocked={blocked}") };
    format!("# end generation={generation} entries={entries}{blocked} blake3={}\n", blake3::hash(body).to_hex())
}

/// Parses a whole file. Entries that `previous` has with the same bytes are taken from there.
pub(crate) fn parse(bytes: &[u8], previous: Option<&Catalog>) -> Result<Catalog> {
    if bytes.len() as u64 > MAX_BYTES {
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
    let version = number(body.lines().next(), "version")?;
    let models_end = match version {
        VERSION => body.len(),
        // No line of an entry stands in column 0 but its first.
        VERSION_BLOCKED => body.find("\nblocked:\n").map(|at| at + 1).ok_or_else(|| bad("it blocks nothing"))?,
        _ => {
            let known = format_args!("its version is {version}; this program knows {VERSION} and {VERSION_BLOCKED}");
            return Err(bad(known));
        }
    };
    let models_start = body[..models_end].find("\n- ").map_or(models_end, |at| at + 1);
    let header = &body[..models_start];
    guard::check(header).map_err(|(line, why)| refused(line, why))?;
    let mut lines = header.lines().skip(1);
    let generation = number(lines.next(), "generation")?;
    let models = if models_start == models_end { "models: []" } else { "models:" };
    if lines.next() != Some(models) || lines.next().is_some() {
        return Err(bad("its head is not version, generation and models"));
    }
    let entries = section(body, models_start..models_end, previous.map_or(&[], Catalog::entries), decode)?;
    let blocked_start = body.len().min(models_end + BLOCKED.len());
    let known = previous.map_or(&[][..], Catalog::blocked_entries);
    let blocked = section(body, blocked_start..body.len(), known, decode_blocked)?;
    if version == VERSION_BLOCKED && blocked.is_empty() {
        return Err(bad("it blocks nothing"));
    }
    if last != trailer(generation, entries.len(), blocked.len(), body.as_bytes()) {
        return Err(bad("its last line does not fit its content: it was torn or edited by hand"));
    }
    if !entries.is_sorted_by(|a, b| a.item.name.as_str() < b.item.name.as_str()) {
        return Err(bad("its entries are not sorted by name, each once"));
    }
    if !blocked.is_sorted_by(|a, b| a.item.key() < b.item.key()) {
        return Err(bad("what it blocks is not sorted by name and weights, each once"));
    }
    Catalog::new(generation, entries, blocked)
}

/// The entries in a part of `body`. Those that are known with the same bytes are taken from there.
fn section<T: Clone>(
    body: &str,
    part: Range<usize>,
    known: &[Entry<T>],
    decode: fn(&str) -> Result<Entry<T>>,
) -> Result<Vec<Entry<T>>> {
    let mut entries = Vec::with_capacity(known.len());
    let mut known = known.iter().peekable();
    let mut at = part.start;
    while at < part.end {
        let rest = &body[at..part.end];
        let text = &rest[..rest.find("\n- ").map_or(rest.len(), |end| end + 1)];
        // Both are sorted by name, so one walk over what is known finds every entry that did not change.
        while known.peek().is_some_and(|entry| name_line(&entry.text) < name_line(text)) {
            known.next();
        }
        entries.push(match known.next_if(|entry| &*entry.text == text) {
            Some(entry) => entry.clone(),
            None => {
                // Counted only for a message: counting for each entry would be quadratic.
                guard::check(text).map_err(|(line, why)| refused(body[..at].matches('\n').count() + line, why))?;
                decode(text)?
            }
        });
        at += text.len();
    }
    Ok(entries)
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

/// One entry, of whatever kind, as a list of one item.
fn only<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    let mut list: Vec<T> = serde_yaml::from_str(text).map_err(|e| bad("an entry is malformed").because(e))?;
    match (list.pop(), list.is_empty()) {
        (Some(item), true) => Ok(item),
        _ => Err(bad("an entry is not one item")),
    }
}

/// One entry, parsed strictly and found consistent.
fn decode(text: &str) -> Result<Entry<Artifact>> {
    let artifact: Artifact = only(text)?;
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
    Ok(Entry { text: text.into(), item: Arc::new(artifact) })
}

/// The same of what is blocked.
fn decode_blocked(text: &str) -> Result<Entry<Blocked>> {
    let blocked: Blocked = only(text)?;
    let inconsistent = |why: &str| bad(format_args!("what it blocks of {} {why}", blocked.name));
    if blocked.quarantine.cause != Cause::Incident {
        return Err(inconsistent("is under no incident"));
    }
    // None at all is not canonical: `weights:` alone is no list, and `weights: []` is never written.
    if !blocked.weights.is_sorted_by(|a, b| a < b) {
        return Err(inconsistent("is not a sorted list of weights, each once"));
    }
    if encode_blocked(&blocked) != text {
        return Err(inconsistent("is not in canonical form"));
    }
    Ok(Entry { text: text.into(), item: Arc::new(blocked) })
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
        quarantine(&mut out, q);
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

/// The canonical text of what is blocked. Shorter than that of the model it was: a delete always finds room.
pub(crate) fn encode_blocked(b: &Blocked) -> String {
    let mut out = String::with_capacity(512 + 128 * b.weights.len());
    pair(&mut out, "- name", b.name.as_str());
    pair(&mut out, "  deleted_at", &b.deleted_at);
    quarantine(&mut out, &b.quarantine);
    out.push_str("  weights:\n");
    for weights in &b.weights {
        pair(&mut out, "  - sha256", &weights.sha256.to_hex());
    }
    out
}

fn quarantine(out: &mut String, q: &Quarantine) {
    out.push_str("  quarantine:\n");
    pair(out, "    cause", q.cause.as_str());
    pair(out, "    reason", &q.reason);
    if let Some(id) = &q.incident_id {
        pair(out, "    incident_id", id);
    }
    pair(out, "    at", &q.at);
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
    use crate::artifact::Weights;
    use crate::catalog::Edit;
    use crate::digest::Sha256Digest;
    use proptest::prelude::*;

    fn catalog(artifacts: Vec<Artifact>) -> Catalog {
        Catalog::new(9, artifacts.into_iter().map(Entry::from).collect(), Vec::new()).expect("a catalog")
    }

    fn incident(reason: &str, id: Option<&str>) -> Option<Quarantine> {
        let (reason, incident_id) = (reason.to_owned(), id.map(str::to_owned));
        Some(Quarantine { cause: Cause::Incident, reason, incident_id, at: "t".into() })
    }

    fn sample_catalog() -> Catalog {
        let mut b = artifact("b/c:v1", Layout::Folder, &["config.json", "x/y.gguf"]);
        b.quarantine = incident("why", Some("i"));
        b.evidence = Some(b.sha256);
        catalog(vec![artifact("a", Layout::File, &["a.gguf"]), b])
    }

    fn sample() -> String {
        render(&sample_catalog())
    }

    /// The same after models under an incident were deleted: two of one name, one of them with two files.
    fn sample_blocked() -> Catalog {
        let mut catalog = sample_catalog();
        for (name, files, id) in
            [("x", &["1.gguf", "2.gguf"][..], Some("i1")), ("x", &["3.gguf"], None), ("w", &["4.gguf"], None)]
        {
            let mut bad = artifact(name, Layout::Folder, files);
            bad.quarantine = incident("bad", id);
            catalog = catalog.with(&[Edit::Put(bad.clone().into())]).expect("put");
            catalog = catalog.with(&[Edit::Remove { name: bad.name, at: "d".into() }]).expect("removed");
        }
        catalog
    }

    /// Puts a fitting last line under a body that somebody edited.
    fn sealed(body: &str, generation: u64, entries: usize, blocked: usize) -> String {
        format!("{body}{}", trailer(generation, entries, blocked, body.as_bytes()))
    }

    fn body(text: &str) -> &str {
        &text[..text.rfind("# end").expect("a last line")]
    }

    fn blocked(c: &Catalog) -> Vec<Blocked> {
        c.blocked().map(|b| (**b).clone()).collect()
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
        fn what_is_blocked_is_read_back(reason in ".*", id in proptest::option::of(".*"), deleted_at in ".*", seeds in proptest::collection::btree_set(any::<u8>(), 1..5)) {
            let name: crate::name::ModelName = "m".parse().expect("a name");
            let mut weights: Vec<Weights> = seeds.iter().map(|s| Weights { sha256: Sha256Digest::of(&[*s]) }).collect();
            weights.sort();
            let quarantine = incident(&reason, id.as_deref()).expect("some");
            let one = Blocked { name, deleted_at, quarantine, weights };
            let text = render(&Catalog::new(9, Vec::new(), vec![one.clone().into()]).expect("a catalog"));
            let read = parse(text.as_bytes(), None).expect("our own text");
            prop_assert_eq!((blocked(&read), read.len()), (vec![one], 0));
        }

        /// So that a delete finds room in the fullest manifest.
        #[test]
        fn what_a_delete_leaves_is_shorter_than_what_it_takes(reason in ".*", id in proptest::option::of(".*"), files in 1..9_usize) {
            let files: Vec<String> = (0..files).map(|i| format!("{i}.gguf")).collect();
            let mut a = artifact("m", Layout::Folder, &files.iter().map(String::as_str).collect::<Vec<_>>());
            a.quarantine = incident(&reason, id.as_deref());
            let before = catalog(vec![a.clone()]);
            let after = before.with(&[Edit::Remove { name: a.name, at: crate::audit::now() }]).expect("removed");
            prop_assert!(render(&after).len() < render(&before).len());
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
        let with_blocked = render(&sample_blocked());
        let whole = parse(with_blocked.as_bytes(), None).expect("whole");
        assert_eq!((whole.len(), blocked(&whole)), (2, blocked(&sample_blocked())));
        for text in [text, with_blocked] {
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
    }

    #[test]
    fn a_manifest_that_blocks_nothing_is_of_version_1_and_one_that_does_is_refused_by_who_knows_only_that() {
        let text = sample();
        assert!(text.starts_with("version: 1\n") && !text.contains("blocked"), "{text}");
        let catalog = sample_blocked();
        assert!(render(&catalog).starts_with("version: 2\n"));
        let names: Vec<_> = catalog.blocked().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["w", "x", "x"]);
        let lifted = ["w", "x"].map(|name| Edit::Unblock(name.parse().expect("a name")));
        let lifted = catalog.with(&lifted).expect("lifted");
        assert_eq!(render(&lifted).lines().next(), Some("version: 1"));
    }

    /// Threat 11, with a last line that fits: each of these must be refused for what it says.
    #[test]
    fn t11_a_sealed_manifest_that_lies_is_refused() {
        let text = sample();
        let body = body(&text);
        assert!(parse(sealed(body, 9, 2, 0).as_bytes(), None).is_ok(), "the seal itself is right");
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
            let lie = sealed(&body.replacen(from, to, 1), 9, 2, 0);
            assert_eq!(parse(lie.as_bytes(), None).expect_err(to).kind(), ErrorKind::Manifest, "{from:?} -> {to:?}");
        }
        assert!(parse(sealed(body, 9, 3, 0).as_bytes(), None).is_err(), "the number of entries is checked");
        assert!(parse(&vec![b'a'; MAX_BYTES as usize + 1], None).is_err(), "too large");
        assert!(parse("é".as_bytes(), None).is_err(), "not ASCII");
    }

    /// The same of what is blocked.
    #[test]
    fn t11_a_sealed_manifest_that_lies_of_what_is_blocked_is_refused() {
        let catalog = sample_blocked();
        let (text, generation) = (render(&catalog), catalog.generation());
        let body = body(&text);
        assert!(parse(sealed(body, generation, 2, 3).as_bytes(), None).is_ok(), "the seal itself is right");
        let (models, list) = body.split_at(body.find("blocked:\n").expect("a list"));
        let items: Vec<String> = list.split("\n- ").skip(1).map(|item| format!("- {}\n", item.trim_end())).collect();
        let two = items.iter().find(|item| item.matches("sha256").count() == 2).expect("one with two files");
        let mut lines: Vec<&str> = two.lines().collect();
        let last = lines.len() - 1;
        lines.swap(last, last - 1);
        let unsorted = format!("{}\n", lines.join("\n"));
        let twice = format!("{two}{}\n", lines[last - 1]);
        let none = two[..two.find("  - sha256").expect("weights")].to_owned();
        let empty_list = none.replace("weights:", "weights: []");
        for (from, to) in [
            ("version: 2", "version: 1"),
            ("version: 2", "version: 3"),
            ("blocked:\n", ""),
            ("blocked:\n", "blocked: []\n"),
            ("blocked:\n", "blocked:\nblocked:\n"),
            ("blocked:\n", "blocked:\nextra: 1\n"),
            (list, "blocked:\n"),
            (two, &unsorted),
            (two, &twice),
            (two, &none),
            (two, &empty_list),
            (two, &format!("{two}{two}")),
            (&items[0], ""),
            (list, &format!("blocked:\n{}{}{}", items[1], items[0], items[2])),
            (list, &format!("blocked:\n{}{}{}", items[0], items[2], items[1])),
            ("  deleted_at: \"d\"\n", ""),
            ("  deleted_at: \"d\"\n", "  deleted_at: \"\\x64\"\n"),
            ("  deleted_at: \"d\"\n", "  deleted_at: \"d\"\n  unknown: 1\n"),
            ("  deleted_at: \"d\"\n", "  deleted_at: &a \"d\"\n"),
            ("cause: \"incident\"\n    reason: \"bad\"", "cause: \"integrity\"\n    reason: \"bad\""),
            ("- name: \"w\"", "- name: \"../w\""),
            ("  weights:\n  - sha256: \"", "  weights:\n  - sha256: \"0"),
        ] {
            assert!(body.contains(from), "{from}");
            let lie = sealed(&format!("{models}{list}").replacen(from, to, 1), generation, 2, 3);
            assert_eq!(parse(lie.as_bytes(), None).expect_err(to).kind(), ErrorKind::Manifest, "{from:?} -> {to:?}");
        }
        for (entries, blocked) in [(2, 2), (3, 3), (5, 0)] {
            assert!(parse(sealed(body, generation, entries, blocked).as_bytes(), None).is_err(), "{entries} {blocked}");
        }
        let empty = format!("{models}blocked:\n");
        for blocked in [0, 1] {
            assert!(parse(sealed(&empty, generation, 2, blocked).as_bytes(), None).is_err(), "nothing is blocked");
        }
    }

    #[test]
    fn an_unchanged_entry_is_not_parsed_again() {
        let first = parse(render(&sample_blocked()).as_bytes(), None).expect("whole");
        let next = first
            .with(&[
                Edit::Put(artifact("n", Layout::File, &["n.gguf"]).into()),
                Edit::Unblock("w".parse().expect("a name")),
            ])
            .expect("put");
        let again = parse(render(&next).as_bytes(), Some(&first)).expect("whole");
        let kept = again.artifacts().zip(first.artifacts()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((again.len(), kept), (3, 2));
        let kept = again.blocked().zip(first.blocked().skip(1)).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((again.blocked().count(), kept), (2, 2));
    }
}
