//! `fsck`, `gc` and `repair`.
//!
//! Owns: how what they found and did is shown, and what code they end with. Promises: `fsck` ends with 2 when anything is wrong, as
//! `guard` does; a repair that does not leave the model verified ends with a code that is not 0. Leaves out: the work
//! (`securereg::Registry`).

use super::{Context, name, verify};
use crate::args::{Fsck, Gc, Repair};
use crate::exit::Code;
use crate::out;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text::{self, Color, Paint};
use securereg::{
    Error, ErrorKind, FsckDepth, FsckReport, GcReport, Problem, Registry, RepairReport, RepairStatus, Result, Source,
    Tally, Urgency,
};
use serde::Serialize;
use std::fmt::Write;

pub(crate) fn fsck(context: &mut Context, args: &Fsck) -> Result<Code> {
    let signals = Signals::listen(context.form())?;
    let bar = Bar::new(context.form());
    let depth = if args.deep { FsckDepth::Deep } else { FsckDepth::Quick };
    let report = Registry::fsck(&context.root(), depth, &bar.task(&signals))?;
    drop(bar);
    let status = if report.is_clean() { "ok" } else { "problems" };
    context.out.print(&Told { status, report: &report }, |color| problems(&report, color))?;
    Ok(if report.is_clean() { Code::Done } else { Code::Refused })
}

/// A report with a word for it.
#[derive(Serialize)]
struct Told<'a, T> {
    status: &'static str,
    #[serde(flatten)]
    report: &'a T,
}

fn problems(report: &FsckReport, color: Color) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    for Problem { kind, urgency, path, what, remedy, .. } in &report.problems {
        let (word, paint) = match urgency {
            Urgency::Damage => ("damage", Paint::Bad),
            Urgency::Untidy => ("untidy", Paint::Strong),
            Urgency::Note => ("note", Paint::None),
        };
        line(&format!("{} {kind} {}", paint.on(word, color), text::plain(path)));
        line(&format!("  {}", text::plain(what)));
        line(&format!("  remedy: {}", text::plain(remedy)));
    }
    if report.more > 0 {
        line(&format!("and {} more", report.more));
    }
    let tally = |what: &str, tally: &Tally| format!("{} ({})", text::count(tally.files, what), text::size(tally.bytes));
    let models = report.models.map_or_else(|| "no manifest".to_owned(), |models| text::count(models, "model"));
    let mut looked = format!(
        "looked at {models}, {}, {}, {}, {}, {}",
        tally("stored file", &report.blobs),
        tally("tree", &report.trees),
        tally("sidecar", &report.sidecars),
        if report.repositories == 1 {
            "1 repository".to_owned()
        } else {
            format!("{} repositories", report.repositories)
        },
        text::count(report.records, "record"),
    );
    if let Some(hashed) = &report.hashed {
        write!(looked, "; hashed {}", tally("stored file", hashed)).expect("writing to a String never fails");
    }
    line(&looked);
    line(&if report.is_clean() {
        Paint::Good.on("nothing is wrong", color)
    } else {
        format!("damage: {}, untidy: {}", report.damage, report.untidy)
    });
    out
}

pub(crate) fn gc(context: &mut Context, args: &Gc) -> Result<Code> {
    let signals = Signals::listen(context.form())?;
    let bar = Bar::new(context.form());
    let (report, pulls) = if args.dry_run {
        let registry = context.registry_read_only()?;
        (registry.gc_preview(args.unreferenced_after, &bar.task(&signals))?, None)
    } else {
        let registry = context.registry()?;
        let report = registry.gc(args.unreferenced_after, &Context::actor(), &bar.task(&signals))?;
        (report, Some(securereg_remote::sweep(&registry)?))
    };
    drop(bar);
    context.out.print(&Swept { report: &report, pulls }, |_| swept(&report, pulls))?;
    for why in report.undecided.iter().chain(&report.left) {
        out::remark(context.form(), why);
    }
    if report.left.is_empty() {
        return Ok(Code::Done);
    }
    Ok(Code::Failed)
}

/// The JSON of a sweep.
#[derive(Serialize)]
struct Swept<'a> {
    #[serde(flatten)]
    report: &'a GcReport,
    /// What pulls that ended early had left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pulls: Option<usize>,
}

fn swept(report: &GcReport, pulls: Option<usize>) -> String {
    let mut out = String::new();
    let verb = if report.dry_run { "would remove" } else { "removed" };
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String never fails");
    let tallies = [
        ("stored file that nobody holds", "stored files that nobody holds", report.blobs),
        ("hash tree", "hash trees", report.trees),
        ("stamp", "stamps", report.stamps),
        ("sidecar", "sidecars", report.sidecars),
        ("unfinished copy", "unfinished copies", report.temporary),
    ];
    for (one, many, tally) in tallies.iter().filter(|(_, _, tally)| tally.files > 0) {
        let what = if tally.files == 1 { one } else { many };
        line(format!("{verb} {} {what} ({})", tally.files, text::size(tally.bytes)));
    }
    let counts = [
        ("upload that nobody went on with", "uploads that nobody went on with", report.uploads),
        ("record that no manifest referred to", "records that no manifest referred to", report.records),
        ("record of a dead mount", "records of dead mounts", report.mounts),
        ("leftover of a pull", "leftovers of pulls", pulls.unwrap_or(0) as u64),
    ];
    for (one, many, count) in counts.iter().filter(|(_, _, count)| *count > 0) {
        line(format!("{verb} {count} {}", if *count == 1 { one } else { many }));
    }
    if report.waiting > 0 {
        line(format!(
            "{} that no manifest refers to: not for long enough yet",
            text::count(report.waiting, "pushed blob")
        ));
    }
    if out.is_empty() {
        out.push_str("nothing to remove\n");
    }
    out
}

pub(crate) fn repair(context: &mut Context, args: &Repair) -> Result<Code> {
    let name = name(&args.name)?;
    let signals = Signals::listen(context.form())?;
    let sources = args.from.iter().map(|path| Source::open(path)).collect::<Result<Vec<Source>>>()?;
    let registry = context.registry()?;
    let bar = Bar::new(context.form());
    let report = registry.repair(&name, &sources, &Context::actor(), &bar.task(&signals))?;
    drop(bar);
    context.out.print(&report, |_| repaired(&report))?;
    for other in &report.others {
        let more = format!("{other} holds the same bytes and is still quarantined: `securereg verify {other}`");
        out::remark(context.form(), &more);
    }
    match (&report.verify, report.gaps.first()) {
        (Some(verified), _) => verify::conclude(context, verified),
        (None, Some(gap)) => {
            let why =
                format!("{} from {} on ({} bytes): {}; nothing was written", gap.path, gap.offset, gap.bytes, gap.why);
            out::complain(context.form(), &Error::new(ErrorKind::Corrupt, why).on(&name));
            Ok(Code::Unverified)
        }
        (None, None) => Ok(Code::Unverified),
    }
}

fn repaired(report: &RepairReport) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String never fails");
    for file in &report.files {
        line(format!("{}: {}", text::plain(file.path.as_str()), text::plain(&file.damage.join("; "))));
    }
    for gap in &report.gaps {
        let what = format!("{} from {} on, {} bytes: {}", gap.path, gap.offset, gap.bytes, gap.why);
        line(format!("not healed: {}", text::plain(&what)));
    }
    if report.more_gaps > 0 {
        line(format!("not healed: {} more places", report.more_gaps));
    }
    let name = &report.name;
    line(match report.status {
        RepairStatus::Whole => format!("{name}: nothing was damaged"),
        RepairStatus::Refused => {
            format!("{name}: nothing was written, because {} bad groups cannot all be healed", report.groups_bad)
        }
        RepairStatus::Healed => format!(
            "{name}: {} of {} bad groups written anew ({})",
            report.groups_rewritten,
            report.groups_bad,
            text::size(report.bytes_rewritten)
        ),
    });
    if let Some(verified) = &report.verify {
        out.push_str(&verify::sentence(verified));
    }
    out
}
