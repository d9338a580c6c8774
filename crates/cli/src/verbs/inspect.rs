//! `inspect`, `policy`: what a file is, what is wrong with it, and what the policy makes of that.
//!
//! Owns: how an inspection and a policy are shown. Promises: nothing is changed and no registry is needed; a verdict that
//! refuses is printed whole and then ends with the code of a refusal. Leaves out: inspecting and judging
//! (`securereg::inspect`, `securereg::Policy`).

use super::{Context, look::Sheet};
use crate::args::{Inspect, PolicyArgs};
use crate::exit::Code;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text::{self, Cell, Color, Paint, Side, Table};
use securereg::{Action, Error, ErrorKind, Inspected, Inspection, Policy, Registry, Result, Source};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

pub(crate) fn inspect(context: &mut Context, args: &Inspect) -> Result<Code> {
    // The policy may be a pipe that nobody writes to: until it is read, Ctrl-C ends the process at once.
    let policy = in_force(context, args.policy.as_deref())?;
    let signals = Signals::listen(context.form())?;
    let source = Source::open(&args.path)?;
    let bar = Bar::new(context.form());
    let inspection = securereg::inspect(&source, &policy, &bar.task(&signals))?;
    drop(bar);
    let mut value = serde_json::to_value(&inspection)
        .map_err(|e| Error::new(ErrorKind::Io, format!("cannot write the result as JSON: {e}")))?;
    value["path"] = json!(args.path.to_string_lossy());
    context.out.print(&value, |color| sheet(&args.path, &inspection, args.all, color))?;
    Ok(match inspection.verdict.action {
        Action::Refuse => Code::Refused,
        Action::Allow | Action::Warn => Code::Done,
    })
}

pub(crate) fn policy(context: &mut Context, args: &PolicyArgs) -> Result<Code> {
    let policy = in_force(context, args.file.as_deref())?;
    let mut table = Table::new(&[
        ("RULE", Side::Left),
        ("SEVERITY", Side::Left),
        ("VERDICT", Side::Left),
        ("WHAT IT IS ABOUT", Side::Left),
    ]);
    let mut rules = Vec::new();
    for (rule, action) in policy.table() {
        table.row([
            Cell::new(rule.id),
            Cell::new(rule.severity.as_str()),
            Cell::painted(action.as_str(), paint(action)),
            Cell::new(rule.summary),
        ]);
        rules.push(json!({"rule": rule.id, "severity": rule.severity, "action": action, "summary": rule.summary}));
    }
    let formats: Vec<&str> = policy.formats().iter().map(|f| f.as_str()).collect();
    let source = policy.sha256().map(|d| format!("policy.yaml, sha256 {d}"));
    let source = source.unwrap_or_else(|| "built in; a policy.yaml in the registry's root replaces it".into());
    let value = json!({
        "policy_sha256": policy.sha256(), "scanners": policy.scanners(), "formats": formats, "signers": policy.signers(), "rules": rules,
    });
    context.out.print(&value, |color| {
        let mut sheet = Sheet::default();
        sheet.line("policy", &source);
        sheet.line("scanners", &policy.scanners().join(", "));
        sheet.line("formats", &formats.join(", "));
        for signers in policy.signers() {
            let keys: Vec<String> =
                signers.keys().map(|(name, key)| format!("{name} ({})", &key.id().to_hex()[..12])).collect();
            let must = if signers.is_required() { "must be signed by" } else { "may be signed by" };
            sheet.line("signers", &format!("{} {must} {}", signers.names(), keys.join(" or ")));
        }
        sheet.text + "\n" + &table.render(color)
    })?;
    Ok(Code::Done)
}

/// The policy in a file, else that of the registry, else the built-in one where there is no registry yet.
fn in_force(context: &Context, file: Option<&Path>) -> Result<Policy> {
    if let Some(file) = file {
        // Cut one byte over any sensible size: then it is refused as too long, whatever the file is.
        let text = read_policy(file).map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            Error::new(kind, format!("the policy {} cannot be read: {e}", file.display()))
        })?;
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Policy::parse_in(folder, &text);
    }
    match Registry::open_read_only(&context.root()) {
        Ok(registry) => registry.policy(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Policy::built_in()),
        Err(e) => Err(e),
    }
}

fn read_policy(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(file)?.take(1 << 20).read_to_end(&mut text)?;
    Ok(text)
}

/// Tensors and metadata of a file that are shown without `--all`.
const SHOWN: usize = 20;

fn sheet(path: &Path, inspection: &Inspection, all: bool, color: Color) -> String {
    let mut sheet = Sheet::default();
    sheet.line("path", &path.to_string_lossy());
    sheet.line("layout", inspection.layout.as_str());
    sheet.line("format", inspection.format.map_or("none", |f| f.as_str()));
    let verdict = &inspection.verdict;
    let word = match verdict.action {
        Action::Refuse => "refused",
        Action::Warn => "admitted, with warnings",
        Action::Allow => "admitted",
    };
    sheet.painted("verdict", word, paint(verdict.action), color);
    for skipped in &inspection.skipped {
        sheet.line("not taken along", skipped);
    }
    if let Some(signature) = &inspection.signature {
        sheet.line("signature", &format!("{signature}, not checked here: `securereg verify-signature` does"));
    }
    let mut out = sheet.text;
    for file in &inspection.files {
        out.push('\n');
        describe(&mut out, file, all, color);
    }
    out.push_str(&findings(inspection, color));
    out
}

fn describe(out: &mut String, file: &Inspected, all: bool, color: Color) {
    let mut sheet = Sheet::default();
    sheet.painted("file", file.path.as_str(), Paint::Strong, color);
    let what = format!("{}, {}", file.description.what, text::size(file.size_bytes));
    sheet.line("what", &what);
    if let Some(adapter) = &file.description.adapter {
        let base = if adapter.base.is_empty() { "a model that it does not name" } else { &adapter.base };
        sheet.line("adapter", &format!("{} for {base}", adapter.kind));
    }
    let limit = if all { usize::MAX } else { SHOWN };
    let metadata = &file.description.metadata;
    for (key, value) in metadata.iter().take(limit) {
        writeln!(sheet.text, "  {} = {}", text::plain(key), text::plain(&brief(value))).expect("a String takes it");
    }
    rest(&mut sheet.text, metadata.len(), limit, "key");
    out.push_str(&sheet.text);
    let tensors = &file.description.tensors;
    if tensors.is_empty() {
        return;
    }
    let mut table = Table::new(&[
        ("TENSOR", Side::Left),
        ("TYPE", Side::Left),
        ("SHAPE", Side::Left),
        ("OFFSET", Side::Right),
        ("SIZE", Side::Right),
    ]);
    for tensor in tensors.iter().take(limit) {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        table.row([
            Cell::new(&tensor.name),
            Cell::new(&tensor.dtype),
            Cell::new(&shape.join(" x ")),
            Cell::new(&tensor.offset.map_or_else(|| "-".into(), |at| at.to_string())),
            Cell::new(&text::size(tensor.size_bytes)),
        ]);
    }
    out.push('\n');
    out.push_str(&table.render(color));
    rest(out, tensors.len(), limit, "tensor");
}

fn rest(out: &mut String, there: usize, shown: usize, what: &str) {
    if there > shown {
        let more = text::count((there - shown) as u64, what);
        writeln!(out, "  and {more} more: --all shows them, --json has them").expect("a String takes it");
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(100) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

fn findings(inspection: &Inspection, color: Color) -> String {
    let verdict = &inspection.verdict;
    if verdict.findings.is_empty() {
        return "\nno findings\n".to_owned();
    }
    let mut out = String::from("\n");
    for judged in &verdict.findings {
        let finding = &judged.finding;
        let mut place = finding.file.clone();
        if let Some(part) = &finding.place.part {
            write!(place, ", {part}").expect("a String takes it");
        }
        if let Some(offset) = finding.place.offset {
            write!(place, ", byte {offset}").expect("a String takes it");
        }
        let word = paint(judged.action).on(&format!("{:6}", judged.action.as_str()), color);
        let (rule, severity) = (finding.rule, finding.severity.as_str());
        writeln!(out, "{word}  {rule} ({severity}) in {}", text::plain(&place)).expect("a String takes it");
        writeln!(out, "        {}", text::plain(&finding.message)).expect("a String takes it");
    }
    if verdict.more > 0 {
        writeln!(out, "and {} of these rules", text::count(verdict.more, "more finding")).expect("a String takes it");
    }
    out
}

fn paint(action: Action) -> Paint {
    match action {
        Action::Allow => Paint::None,
        Action::Warn => Paint::Strong,
        Action::Refuse => Paint::Bad,
    }
}
