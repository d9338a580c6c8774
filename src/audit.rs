//! The audit log: one line for each decision, chained.
//!
//! Owns: `audit.jsonl`, and what it was when it had grown (`segments`). Promises: each line carries the SHA-256 of the line
//! before it, so that a line changed, removed or put in shows; a line is on the disk (fsync) before the decision it announces
//! takes effect; a last line cut short by a power cut is set aside, never built upon. Leaves out: what is decided.
//!
//! A change of the manifest writes two lines: its *intent*, with the generation it will make, before the manifest is
//! renamed, and its *outcome* after. A start closes an intent without outcome as `applied` or `aborted`, by the
//! generation the manifest shows.

mod segments;

use crate::digest::Sha256Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout};
use crate::sys::NoFileSizeSignal;
use crate::task::Actor;
use rustix::fs::FlockOperation;
use segments::{Segments, Tail};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

const LOCK: &str = "audit.lock";
/// No line is longer; reasons are cut to fit.
const MAX_LINE: usize = 16 << 10;
const MAX_TEXT: usize = 2 << 10;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditLine {
    /// Counts up from 1 without a gap.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// `promote`, `refuse`, `verify_failed`, `quarantine`, `release`, `restore`, `delete`, `open`; of repositories `move_tag`,
    /// `delete_content`, `read_refused`; and `gc`, `repair`.
    pub event: String,
    /// `intent`, `applied`, `aborted` for what changes the manifest; `noted` for what does not.
    pub phase: String,
    /// The model's name, as it was given.
    pub name: String,
    /// The door the request came through.
    pub via: String,
    /// Who stood there.
    pub who: String,
    /// The reason, or the digest, in words.
    pub why: String,
    /// The generation of the manifest this line makes or was decided at.
    pub generation: u64,
    /// SHA-256 of the line before, without its newline; 64 zeros in the first.
    pub prev: String,
}

/// What a verification of the whole log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditSummary {
    /// Lines checked.
    pub lines: u64,
    /// SHA-256 of the last line.
    pub head: String,
    /// The public key that what is remembered of the log is signed by; none where the root has no key.
    pub signed_by: Option<String>,
}

/// What is written down though it does not change the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// A promotion was refused.
    Refuse,
    /// A tag that does not move was moved by who may.
    MoveTag,
    /// A tag, a manifest or a blob of a repository is deleted.
    DeleteContent,
    /// A model that was not admitted is given to who may see such.
    ReadRefused,
    /// What nothing refers to is removed.
    Gc,
    /// Damaged bytes of a model are written anew, or cannot be.
    Repair,
}

impl Noted {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Noted::Refuse => "refuse",
            Noted::MoveTag => "move_tag",
            Noted::DeleteContent => "delete_content",
            Noted::ReadRefused => "read_refused",
            Noted::Gc => "gc",
            Noted::Repair => "repair",
        }
    }
}

/// What a line says.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    pub(crate) event: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) name: &'a str,
    pub(crate) why: &'a str,
    pub(crate) generation: u64,
}

/// The last line of the log at some moment: what the log must still hold afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

/// Appends lines and syncs them, all or none. `then` is told of the last one before anybody else appends.
pub(crate) fn append(layout: &Layout, actor: &Actor, events: &[Event<'_>], then: impl FnOnce(&Anchor)) -> Result<()> {
    append_rotating(layout, actor, events, ROTATE_AT, then)
}

/// The log goes on in a new file once it has this many bytes.
const ROTATE_AT: u64 = 64 << 20;

fn append_rotating(
    layout: &Layout,
    actor: &Actor,
    events: &[Event<'_>],
    rotate_at: u64,
    then: impl FnOnce(&Anchor),
) -> Result<()> {
    let _lock = layout.lock(LOCK, FlockOperation::LockExclusive)?;
    let (file, Tail { end, seq, hash }) = segments::to_append(layout, rotate_at)?;
    let mut anchor = Anchor { seq, hash };
    let mut text = String::new();
    let time = now();
    for event in events {
        let line = AuditLine {
            seq: anchor.seq + 1,
            time: time.clone(),
            event: event.event.to_owned(),
            phase: event.phase.to_owned(),
            name: cut(event.name),
            via: cut(actor.via),
            who: cut(&actor.who),
            why: cut(event.why),
            generation: event.generation,
            prev: anchor.hash,
        };
        let line_text = serde_json::to_string(&line)
            .map_err(|e| Error::new(ErrorKind::Audit, "a line cannot be written").because(e))?;
        anchor = Anchor { seq: line.seq, hash: Sha256Digest::of(line_text.as_bytes()).to_hex() };
        text.push_str(&line_text);
        text.push('\n');
    }
    let io = |e| Error::io("writing audit.jsonl", e);
    {
        let _quiet = NoFileSizeSignal::new();
        let mut at = end;
        for piece in pieces(&text) {
            let written = file.write_all_at(piece, at).and_then(|()| file.set_len(at + piece.len() as u64));
            // Of several lines some may be there whole: a line that was not acknowledged is not to be built upon.
            written.and_then(|()| durable::sync_data(&file)).inspect_err(|_| drop(file.set_len(end))).map_err(io)?;
            at += piece.len() as u64;
        }
    }
    if end == 0 {
        layout.sync(Folder::Root)?;
    }
    then(&anchor);
    Ok(())
}

/// Whole lines, synced before the next: no more at a time than is looked at for what a power cut tore (`segments::Tail`).
fn pieces(text: &str) -> impl Iterator<Item = &[u8]> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let fitting = rest.iter().take(MAX_LINE).rposition(|b| *b == b'\n');
        let end = fitting.or_else(|| rest.iter().position(|b| *b == b'\n'))? + 1;
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// The last line about a change of the manifest: only refusals can stand after it.
pub(crate) fn last_change(layout: &Layout) -> Result<Option<AuditLine>> {
    let mut last = None;
    backwards(layout, |line| {
        if line.phase == NOTED {
            return ControlFlow::Continue(());
        }
        last = Some(line);
        ControlFlow::Break(())
    })?;
    Ok(last)
}

/// The models that were quarantined after `generation`, whatever became of them since.
pub(crate) fn quarantined_since(layout: &Layout, generation: u64) -> Result<HashSet<String>> {
    quarantined_between(layout, generation, u64::MAX)
}

/// The models that were quarantined after the generation `after` and up to `until`, whatever became of them. Looks as far
/// back as it must: refusals without number may stand in between.
pub(crate) fn quarantined_between(layout: &Layout, after: u64, until: u64) -> Result<HashSet<String>> {
    let mut found = HashSet::new();
    let mut aborted = None;
    backwards(layout, |line| {
        match line.phase.as_str() {
            NOTED => return ControlFlow::Continue(()),
            ABORTED => aborted = Some(line.generation.saturating_add(1)),
            // Of a crash only the intent may be there; it counts, unless it is known that nothing came of it.
            INTENT if aborted == Some(line.generation) => {}
            _ if line.generation <= after => return ControlFlow::Break(()),
            _ => {
                aborted = None;
                if line.event == "quarantine" && line.generation <= until {
                    found.insert(line.name);
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Shows the lines from the last to the first, until it is told to stop.
fn backwards(layout: &Layout, mut visit: impl FnMut(AuditLine) -> ControlFlow<()>) -> Result<()> {
    for segment in Segments::open(layout)?.newest_first() {
        if segments::backwards(&segment?, &mut visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The number of the last line; 0 without a log.
pub(crate) fn last_seq(layout: &Layout) -> Result<u64> {
    let mut last = 0;
    backwards(layout, |line| {
        last = line.seq;
        ControlFlow::Break(())
    })?;
    Ok(last)
}

/// Whether a file of the root is the log, or a part of it.
pub(crate) fn is_log(name: &str) -> bool {
    name.starts_with("audit")
}

/// Whether the log exists.
pub(crate) fn exists(layout: &Layout) -> bool {
    Segments::open(layout).is_ok_and(|segments| !segments.is_empty())
}

/// The lines that changed the manifest after a generation, in order: each once, and only those that were not aborted. Of the last
/// it may not be known whether it came about: then it is an intent.
pub(crate) fn changes_after(layout: &Layout, generation: u64) -> Result<Vec<AuditLine>> {
    let mut changes: Vec<AuditLine> = Vec::new();
    walk(layout, |line, _| {
        match line.phase.as_str() {
            INTENT => changes.push(line),
            ABORTED => changes.retain(|c| c.phase != INTENT || c.generation != line.generation + 1),
            APPLIED => {
                let of = changes.iter_mut().filter(|c| c.generation == line.generation && c.phase == INTENT);
                of.for_each(|c| c.phase = APPLIED.to_owned());
            }
            _ => {}
        }
        Ok(())
    })?;
    changes.retain(|line| line.generation > generation);
    Ok(changes)
}

/// Where the chain is broken in the file that is written: what is from there on is set aside, and the log goes on from the last good
/// line. Gives the name that the damaged file has now; none when the chain is whole. A file that was full and is damaged is beyond
/// this: its lines are named by every verification.
pub(crate) fn set_aside(layout: &Layout) -> Result<Option<String>> {
    let _lock = layout.lock(LOCK, FlockOperation::LockExclusive)?;
    let mut last = Anchor { seq: 0, hash: GENESIS.to_owned() };
    segments::set_aside(layout, |line, hash| {
        let follows = line.seq == last.seq + 1 && line.prev == last.hash;
        if follows {
            last = Anchor { seq: line.seq, hash };
        }
        follows
    })
}

/// Every line, unchecked but for its form.
pub(crate) fn lines(layout: &Layout) -> Result<Vec<AuditLine>> {
    let mut all = Vec::new();
    walk(layout, |line, _| {
        all.push(line);
        Ok(())
    })?;
    Ok(all)
}

/// Checks the chain from the first line to the last, and that it still holds the line remembered apart from it.
pub(crate) fn verify(layout: &Layout, remembered: Option<&Anchor>) -> Result<AuditSummary> {
    let mut summary = AuditSummary { lines: 0, head: GENESIS.to_owned(), signed_by: None };
    let mut holds = remembered.is_none();
    walk(layout, |line, hash| {
        let number = summary.lines + 1;
        if number == 1 && line.seq > 1 {
            let why = format!("the log begins with line {}: earlier files of it were taken away", line.seq);
            return Err(broken(1, &why));
        }
        if line.seq != number || line.prev != summary.head {
            return Err(broken(number, "it does not follow from the line before"));
        }
        holds |= remembered.is_some_and(|anchor| anchor.seq == number && anchor.hash == hash);
        summary = AuditSummary { lines: number, head: hash, signed_by: None };
        Ok(())
    })?;
    match remembered {
        Some(anchor) if !holds => {
            Err(broken(anchor.seq.min(summary.lines + 1), "the line that this root remembers is not there"))
        }
        _ => Ok(summary),
    }
}

/// A line that changes nothing in the manifest.
pub(crate) const NOTED: &str = "noted";
/// What a change will do.
pub(crate) const INTENT: &str = "intent";
/// The change is in the manifest.
pub(crate) const APPLIED: &str = "applied";
/// The change never reached the manifest.
pub(crate) const ABORTED: &str = "aborted";

const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn broken(number: u64, why: &str) -> Error {
    Error::new(
        ErrorKind::Audit,
        format!("audit.jsonl line {number} is bad: {why}; the log was changed by another hand"),
    )
}

fn walk(layout: &Layout, mut each: impl FnMut(AuditLine, String) -> Result<()>) -> Result<()> {
    let mut number = 0;
    for segment in Segments::open(layout)?.oldest_first() {
        segments::forwards(segment?, &mut number, &mut each)?;
    }
    Ok(())
}

/// Now, RFC 3339 in UTC, to the second.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // JSON escapes control characters up to six-fold; what is left of a hostile text still fits a line.
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
