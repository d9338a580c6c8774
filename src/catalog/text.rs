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
use crate::buffer;
use crate::error::{Error, ErrorKind, Result};
use std::fmt::Write;
use std::ops::Range;
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
pub(crate) fn render(catalog: &Catalog) -> Result<String> {
    let blocked = catalog.blocked_entries();
    let texts = || catalog.entries().iter().map(|e| &e.text).chain(blocked.iter().map(|e| &e.text));
    let size: usize = texts().map(|text| text.len()).sum();
    let mut out = String::new();
    out.try_reserve_exact(size + 256).map_err(|_| buffer::no_memory(size))?;
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
    Ok(out)
}

fn trailer(generation: u64, entries: usize, blocked: usize, body: &[u8]) -> String {
    let blocked = if blocked == 0 { String::new() } else { format!(" blocked={blocked}") };
    format!("# end generation={generation} entries={entries}{blocked} blake3={}\n", blake3::hash(body).to_hex())
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

/// The models of a manifest that a person edited, whatever its last line says: each entry of a form that we write, and consistent
/// in itself. What it blocks must be as it was in `before`.
pub(crate) fn parse_edited(bytes: &[u8], before: &Catalog) -> Result<Vec<Artifact>> {
    if !fits(bytes.len() as u64, "load") || !bytes.is_ascii() {
        return Err(bad("it is too long, or not plain ASCII"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text"))?;
    let body: String = text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    let (models, blocked) = match body.find("\nblocked:\n") {
        Some(at) => (&body[..=at], &body[at + 1 + BLOCKED.len()..]),
        None => (&body[..], ""),
    };
    let blocked_before: String = before.blocked_entries().iter().map(|e| &*e.text).collect();
    if blocked != blocked_before {
        return Err(bad("what is blocked was edited: only `securereg release` lifts that"));
    }
    let start = models.find("\n- ").map_or(models.len(), |at| at + 1);
    let entries = section(models, start..models.len(), before.entries(), decode_edited)?;
    Ok(entries.iter().map(|e| Artifact::clone(&e.item)).collect())
}

/// One entry, parsed strictly and found consistent.
fn decode(text: &str) -> Result<Entry<Artifact>> {
    let entry = decode_edited(text)?;
    if *entry.text != *text {
        return Err(bad(format_args!("the entry {} is not in canonical form", entry.item.name)));
    }
    Ok(entry)
}

/// The same, in canonical form or not.
fn decode_edited(text: &str) -> Result<Entry<Artifact>> {
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
    Ok(Entry::from(artifact))
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
    if let Some(inspection) = &a.inspection {
        pair(&mut out, "  inspection", &inspection.to_hex());
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
mod tests;
