//! `audit`.
//!
//! Owns: how the log is shown. Promises: text in it that others wrote cannot act on a terminal. Leaves out: the chain
//! (`securereg::Registry::audit_verify`).

use super::Context;
use crate::args::Audit;
use crate::exit::Code;
use crate::text::{self, Cell, Side, Table};
use securereg::Result;

pub(crate) fn audit(context: &mut Context, args: Audit) -> Result<Code> {
    let registry = context.registry()?;
    if args.verify {
        let summary = registry.audit_verify()?;
        context.out.print(&summary, |_| {
            let lines = text::count(summary.lines, "line");
            let signed = summary.signed_by.as_ref().map_or(String::new(), |key| format!(", signed by {key}"));
            format!("the audit log holds: {lines}, head {}{signed}\n", text::plain(&summary.head))
        })?;
        return Ok(Code::Done);
    }
    let mut lines = registry.audit_log()?;
    if let Some(last) = args.last {
        lines.drain(..lines.len().saturating_sub(last));
    }
    let mut table = Table::new(&[
        ("SEQ", Side::Right),
        ("TIME", Side::Left),
        ("EVENT", Side::Left),
        ("PHASE", Side::Left),
        ("NAME", Side::Left),
        ("VIA", Side::Left),
        ("WHO", Side::Left),
        ("WHY", Side::Left),
    ]);
    for line in &lines {
        let cells = [&line.time, &line.event, &line.phase, &line.name, &line.via, &line.who, &line.why];
        table.row(std::iter::once(Cell::new(&line.seq.to_string())).chain(cells.map(|text| Cell::new(text))));
    }
    context.out.table(&lines, &table, lines.len(), "the audit log is empty")?;
    Ok(Code::Done)
}
