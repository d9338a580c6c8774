//! `verify NAME` and `verify --all`.
//!
//! Owns: how a verification is shown and what code it ends with. Promises: anything but `verified` for every model ends
//! with a code that is not 0. Leaves out: the verification (`securereg::Registry::verify`).

use super::{Context, code, name, word};
use crate::args::Verify;
use crate::exit::Code;
use crate::out;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text::{self, Cell, Paint, Side, Table};
use securereg::{Error, ErrorKind, Result, VerifyReport, VerifyStatus};
use serde_json::json;

pub(crate) fn verify(context: &mut Context, args: Verify) -> Result<Code> {
    match args.name {
        Some(name) => one(context, &name),
        None => all(context),
    }
}

fn one(context: &mut Context, wanted: &str) -> Result<Code> {
    let name = name(wanted)?;
    let signals = Signals::listen(context.form())?;
    let registry = context.registry()?;
    let bar = Bar::new(context.form());
    let report = registry.verify(&name, &Context::actor(), &bar.task(&signals))?;
    drop(bar);
    context.out.print(&report, |_| sentence(&report))?;
    conclude(context, &report)
}

fn all(context: &mut Context) -> Result<Code> {
    let signals = Signals::listen(context.form())?;
    let registry = context.registry()?;
    let bar = Bar::new(context.form());
    let all = registry.verify_all(&Context::actor(), &bar.task(&signals))?;
    drop(bar);
    let failed = all.models.iter().filter(|m| m.status != VerifyStatus::Verified).count();
    let value = json!({
        "status": if failed == 0 { "ok" } else { "failed" },
        "models": all.models,
        "checked": all.checked,
        "verified_at": all.verified_at,
    });
    let mut table =
        Table::new(&[("NAME", Side::Left), ("RESULT", Side::Left), ("SIZE", Side::Right), ("DETAIL", Side::Left)]);
    for report in &all.models {
        let paint = if report.status == VerifyStatus::Verified { Paint::Good } else { Paint::Bad };
        table.row([
            Cell::new(report.name.as_str()),
            Cell::painted(word(report.status), paint),
            Cell::new(&text::size(report.bytes)),
            Cell::new(detail(report)),
        ]);
    }
    context.out.table(&value, &table, all.models.len(), "no models to verify")?;
    if failed == 0 {
        return Ok(Code::Done);
    }
    let message = format!(
        "{} of {} did not verify; `securereg show NAME` says why",
        failed,
        text::count(all.models.len() as u64, "model")
    );
    out::remark(context.form(), &message);
    Ok(Code::Unverified)
}

/// What `verify NAME` and `release` print of a report.
pub(crate) fn sentence(report: &VerifyReport) -> String {
    let what = format!("{}, {}", text::count(report.files as u64, "file"), text::size(report.bytes));
    let restored = if report.restored { "; it is served again" } else { "" };
    format!("{} {} ({what}){restored}\nsha256 {}\n", report.name, word(report.status), report.sha256)
}

/// Complains of a report that is not `verified`, and gives the code.
pub(crate) fn conclude(context: &Context, report: &VerifyReport) -> Result<Code> {
    let code = code(report);
    if code != Code::Done {
        let kind = match report.status {
            VerifyStatus::Unreadable => ErrorKind::Unreadable,
            VerifyStatus::Failed | VerifyStatus::Verified => ErrorKind::Corrupt,
        };
        let why = report.error.as_deref().unwrap_or("stored bytes are not what was promoted");
        let mut error = Error::new(kind, why).on(&report.name);
        if let (Some(expected), Some(actual)) = (&report.expected, &report.actual) {
            error = error.with_digests(expected, actual);
        }
        out::complain(context.form(), &error);
    }
    Ok(code)
}

fn detail(report: &VerifyReport) -> &str {
    match &report.error {
        Some(error) => error,
        None if report.restored => "served again",
        None => "",
    }
}
