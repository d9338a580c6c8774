//! `quarantine`, `release`, `delete`.
//!
//! Owns: their words. Promises: each says what it did. Leaves out: who may decide it (the file system's rights on the root).

use super::{Context, name, verify};
use crate::args::{Quarantine, Release};
use crate::exit::Code;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use securereg::Result;
use serde_json::json;

pub(crate) fn quarantine(context: &mut Context, args: Quarantine) -> Result<Code> {
    let name = name(&args.name)?;
    let registry = context.registry()?;
    let artifact = registry.quarantine(&name, &args.reason, args.incident.as_deref(), &Context::actor())?;
    let value = registry.describe(&artifact)?;
    context.out.print(&value, |_| format!("{name} quarantined: {}\n", text::plain(&args.reason)))?;
    Ok(Code::Done)
}

pub(crate) fn release(context: &mut Context, args: Release) -> Result<Code> {
    let name = name(&args.name)?;
    let signals = Signals::listen(context.form())?;
    let registry = context.registry()?;
    let bar = Bar::new(context.form());
    let report = registry.release(&name, &args.reason, &Context::actor(), &bar.task(&signals))?;
    drop(bar);
    context.out.print(&report, |_| verify::sentence(&report))?;
    verify::conclude(context, &report)
}

pub(crate) fn delete(context: &mut Context, wanted: &str) -> Result<Code> {
    let name = name(wanted)?;
    context.registry()?.delete(&name, &Context::actor())?;
    context.out.print(&json!({"status": "deleted", "name": name}), |_| format!("{name} deleted\n"))?;
    Ok(Code::Done)
}
