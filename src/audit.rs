//! The audit log: one line for each decision, chained.
//!
//! Owns: `audit.jsonl`. Promises: each line carries the SHA-256 of the line before it, so that a line changed, removed or
//! put in shows; a line is on the disk (fsync) before the decision it announces takes effect; a last line cut short by a
//! power cut is set aside, never built upon. Leaves out: what is decided.
//!
//! A change of the manifest writes two lines: its *intent*, with the generation it will make, before the manifest is
//! renamed, and its *outcome* after. A start closes an intent without outcome as `applied` or `aborted`, by the
//! generation the manifest shows.

use crate::buffer;
use crate::digest::Sha256Digest;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::{Folder, Layout};
use crate::sys::NoFileSizeSignal;
use crate::task::Actor;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

const LOG: &str = "audit.jsonl";
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
    /// `delete_content`, `read_refused`.
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
}

impl Noted {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Noted::Refuse => "refuse",
            Noted::MoveTag => "move_tag",
            Noted::DeleteContent => "delete_content",
            Noted::ReadRefused => "read_refused",
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

/// Appends lines and syncs them, all or none. Returns the last one.
pub(crate) fn append(layout: &Layout, actor: &Actor, events: &[Event<'_>]) -> Result<Anchor> {
    let _lock = layout.lock(LOCK, FlockOperation::LockExclusive)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(layout.folder(Folder::Root), LOG, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|e| Error::io("opening audit.jsonl", e))?;
    let Tail { end, seq, hash } = Tail::read(&file)?;
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
        let written = file.write_all_at(text.as_bytes(), end).and_then(|()| file.set_len(end + text.len() as u64));
        // Of several lines some may be there whole: a line that was not acknowledged is not to be built upon.
        written.inspect_err(|_| drop(file.set_len(end))).map_err(io)?;
    }
    durable::sync_data(&file).map_err(io)?;
    if seq == 0 {
        layout.sync(Folder::Root)?;
    }
    Ok(anchor)
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

fn newest_first(text: &[u8]) -> impl Iterator<Item = AuditLine> {
    text.rsplit(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// Shows the lines from the last to the first, a MiB at a time, until it is told to stop.
fn backwards(layout: &Layout, mut visit: impl FnMut(AuditLine) -> ControlFlow<()>) -> Result<()> {
    let Some((file, mut end)) = whole_lines(layout)? else { return Ok(()) };
    // The beginning of a line whose end was in the piece after.
    let mut rest = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        let mut bytes = buffer::filled(0, (end - start) as usize)?;
        file.read_exact_at(&mut bytes, start).map_err(|e| Error::io("reading audit.jsonl", e))?;
        let first = match (start, bytes.iter().position(|b| *b == b'\n')) {
            (0, _) => 0,
            (_, Some(at)) => at + 1,
            (_, None) => {
                return Err(Error::new(ErrorKind::Audit, "audit.jsonl has a line without end: it was altered"));
            }
        };
        bytes.append(&mut rest);
        for line in newest_first(&bytes[first..]) {
            if visit(line).is_break() {
                return Ok(());
            }
        }
        bytes.truncate(first);
        rest = bytes;
        end = start;
    }
    Ok(())
}

/// One read of the log from its end.
const PIECE: u64 = 1 << 20;

/// The log, and where its last whole line ends; none without a log.
fn whole_lines(layout: &Layout) -> Result<Option<(File, u64)>> {
    let file = match layout.read(Folder::Root, LOG, OFlags::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(Error::io("opening audit.jsonl", e)),
    };
    let end = Tail::read(&file)?.end;
    Ok(Some((file, end)))
}

/// Whether the log exists.
pub(crate) fn exists(layout: &Layout) -> bool {
    layout.read(Folder::Root, LOG, OFlags::empty()).is_ok()
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
    let mut summary = AuditSummary { lines: 0, head: GENESIS.to_owned() };
    let mut holds = remembered.is_none();
    walk(layout, |line, hash| {
        let number = summary.lines + 1;
        if line.seq != number || line.prev != summary.head {
            return Err(broken(number, "it does not follow from the line before"));
        }
        holds |= remembered.is_some_and(|anchor| anchor.seq == number && anchor.hash == hash);
        summary = AuditSummary { lines: number, head: hash };
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
    let file = match layout.read(Folder::Root, LOG, OFlags::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(Error::io("opening audit.jsonl", e)),
    };
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let n = std::io::Read::take(&mut reader, MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut text)
            .map_err(|e| Error::io("reading audit.jsonl", e))?;
        if n == 0 {
            break;
        }
        if text.pop() != Some(b'\n') {
            if n > MAX_LINE {
                return Err(broken(number, "it is too long"));
            }
            // Cut short by a crash: never acknowledged, and the next append replaces it.
            break;
        }
        let line =
            serde_json::from_slice(&text).map_err(|e| broken(number, "it is not a line of this log").because(e))?;
        each(line, Sha256Digest::of(&text).to_hex())?;
    }
    Ok(())
}

/// The end of the last whole line, and what the next one builds on.
struct Tail {
    end: u64,
    seq: u64,
    hash: String,
}

impl Tail {
    fn read(file: &File) -> Result<Tail> {
        let io = |e| Error::io("reading audit.jsonl", e);
        let size = file.metadata().map_err(io)?.len();
        // Room for one whole line, its predecessor's newline, and a torn line after it.
        let start = size.saturating_sub(2 * MAX_LINE as u64 + 2);
        let mut bytes = vec![0; (size - start) as usize];
        file.read_exact_at(&mut bytes, start).map_err(io)?;
        let Some(newline) = bytes.iter().rposition(|b| *b == b'\n') else {
            return if size as usize <= MAX_LINE {
                Ok(Tail { end: 0, seq: 0, hash: GENESIS.to_owned() })
            } else {
                Err(Error::new(
                    ErrorKind::Audit,
                    "the end of audit.jsonl is not a line: the log was changed by another hand",
                ))
            };
        };
        let begin = bytes[..newline].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let text = &bytes[begin..newline];
        let line: AuditLine = serde_json::from_slice(text).map_err(|e| {
            Error::new(
                ErrorKind::Audit,
                "the last line of audit.jsonl is not one of this log: it was changed by another hand",
            )
            .because(e)
        })?;
        let end = start + newline as u64 + 1;
        Ok(Tail { end, seq: line.seq, hash: Sha256Digest::of(text).to_hex() })
    }
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
mod tests {
    use super::*;
    use crate::layout::Access;

    fn root() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::open(&dir.path().join("r"), Access::Create).expect("a root");
        (dir, layout)
    }

    fn say(layout: &Layout, why: &str) {
        let event = Event { event: "refuse", phase: "noted", name: "m", why, generation: 1 };
        append(layout, &Actor::new("test", "x"), &[event]).expect("appended");
    }

    #[test]
    fn any_change_to_the_log_shows_and_is_named() {
        let (_dir, layout) = root();
        for why in ["one", "two\nline", "three"] {
            say(&layout, why);
        }
        assert_eq!(verify(&layout, None).expect("whole").lines, 3);
        let path = layout.path().join(LOG);
        let good = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = good.lines().collect();
        assert_eq!(lines.len(), 3, "a newline in a reason stays inside its line");
        for (bad, number) in [
            (good.replace("\"one\"", "\"uno\""), 2),
            (format!("{}\n{}\n", lines[0], lines[2]), 2),
            (format!("{}\n{}\n", lines[1], lines[2]), 1),
            (format!("{}\n{}\n{}\n", lines[0], lines[0], lines[1]), 2),
            (format!("{good}junk\n"), 4),
        ] {
            std::fs::write(&path, bad).expect("written");
            let e = verify(&layout, None).expect_err("changed");
            assert_eq!(e.kind(), ErrorKind::Audit);
            assert!(e.to_string().contains(&format!("line {number} ")), "{e}");
        }
    }

    #[test]
    fn a_log_cut_short_is_known_by_the_line_remembered_apart_from_it() {
        let (_dir, layout) = root();
        let event = |why| Event { event: "refuse", phase: NOTED, name: "m", why, generation: 1 };
        let anchor =
            append(&layout, &Actor::new("test", "x"), &[event("one"), event("two"), event("three")]).expect("appended");
        assert_eq!((anchor.seq, verify(&layout, Some(&anchor)).expect("whole").lines), (3, 3));
        let path = layout.path().join(LOG);
        let good = std::fs::read_to_string(&path).expect("read");
        for kept in [0, 1, 2] {
            let cut: String = good.lines().take(kept).map(|l| format!("{l}\n")).collect();
            std::fs::write(&path, cut).expect("written");
            assert_eq!(verify(&layout, Some(&anchor)).expect_err("cut").kind(), ErrorKind::Audit, "{kept} lines kept");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(verify(&layout, Some(&anchor)).is_err());
    }

    #[test]
    fn a_torn_last_line_is_set_aside_and_the_chain_goes_on() {
        let (_dir, layout) = root();
        say(&layout, "one");
        let path = layout.path().join(LOG);
        let mut torn = std::fs::read(&path).expect("read");
        torn.extend_from_slice(&br#"{"seq":2,"time":"2026"#.repeat(20));
        std::fs::write(&path, torn).expect("written");
        assert_eq!(verify(&layout, None).expect("the torn line was never acknowledged").lines, 1);
        say(&layout, "two");
        assert_eq!(verify(&layout, None).expect("whole again").lines, 2);
        assert_eq!(lines(&layout).expect("read").last().map(|l| l.why.as_str()), Some("two"));
    }

    #[test]
    fn a_quarantine_is_found_behind_any_number_of_refusals_and_an_aborted_one_is_not() {
        let (_dir, layout) = root();
        let tester = Actor::new("test", "x");
        let line = |event, phase, name, generation| {
            append(&layout, &tester, &[Event { event, phase, name, why: "w", generation }]).expect("appended");
        };
        let change = |event, name, generation| {
            line(event, INTENT, name, generation);
            line(event, APPLIED, name, generation);
        };
        change("promote", "a", 1);
        change("quarantine", "a", 2);
        line("quarantine", INTENT, "b", 3);
        line("quarantine", ABORTED, "b", 2);
        change("promote", "c", 3);
        // Of a crash: the outcome is written by the next start.
        line("quarantine", INTENT, "d", 4);
        line("open", APPLIED, "d", 4);
        change("quarantine", "e", 5);
        let long = "y".repeat(2048);
        let events: Vec<Event<'_>> =
            (0..1000).map(|_| Event { event: "refuse", phase: NOTED, name: "m", why: &long, generation: 5 }).collect();
        append(&layout, &tester, &events).expect("appended");
        assert!(std::fs::metadata(layout.path().join(LOG)).expect("there").len() > 2 * PIECE);
        let found = |after, until| {
            let mut names: Vec<String> =
                quarantined_between(&layout, after, until).expect("read").into_iter().collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(found(0, u64::MAX), "a d e");
        assert_eq!(
            (found(1, 5), found(2, 5), found(3, 4), found(2, 3)),
            ("a d e".into(), "d e".into(), "d".into(), "".into())
        );
        assert_eq!(found(5, u64::MAX), "");
        assert_eq!(last_change(&layout).expect("read").map(|l| l.name).as_deref(), Some("e"));
        // A line without end is no line of ours.
        let path = layout.path().join(LOG);
        let mut torn = std::fs::read(&path).expect("read");
        let whole = torn.len();
        torn.truncate(whole - 3 * PIECE as usize / 2);
        let junk = vec![b'x'; 3 * PIECE as usize];
        let last = std::fs::read(&path).expect("read")[whole - 3000..].to_vec();
        std::fs::write(&path, [torn, junk, last].concat()).expect("written");
        assert_eq!(quarantined_between(&layout, 0, 9).expect_err("altered").kind(), ErrorKind::Audit);
    }

    #[test]
    fn a_hostile_reason_stays_inside_one_bounded_line() {
        let (_dir, layout) = root();
        say(&layout, &"\u{1}\"\\\u{202e}é".repeat(5000));
        say(&layout, "after");
        assert_eq!(verify(&layout, None).expect("whole").lines, 2);
        assert!(std::fs::metadata(layout.path().join(LOG)).expect("there").len() < 2 * MAX_LINE as u64);
    }
}
