//! `quarantine`, `release`, `delete`.
//!
//! Owns: their words. Promises: each says what it did. Leaves out: who may decide it (the file system's rights on the root).

use super::{Context, name, verify};
use crate::args::{Quarantine, Release};
use crate::exit::Code;
use crate::out;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use securereg::{Blocked, ModelName, Registry, Release as Released, Result, VerifyReport};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

pub(crate) fn quarantine(context: &mut Context, args: Quarantine) -> Result<Code> {
    let name = name(&args.name)?;
    let registry = context.registry()?;
    let artifact = registry.quarantine(&name, &args.reason, args.incident.as_deref(), &Context::actor())?;
    let value = registry.describe_changed(&artifact);
    context.out.print(&value, |_| format!("{name} quarantined: {}\n", text::plain(&args.reason)))?;
    Ok(Code::Done)
}

pub(crate) fn release(context: &mut Context, args: Release) -> Result<Code> {
    let name = name(&args.name)?;
    let signals = Signals::listen(context.form())?;
    let registry = context.registry()?;
    if args.deleted {
        let lifted = registry.release_deleted(&name, &args.reason, &Context::actor())?;
        return say_lifted(context, &name, &lifted);
    }
    let bar = Bar::new(context.form());
    let released = registry.release(&name, &args.reason, &Context::actor(), &bar.task(&signals))?;
    drop(bar);
    let report = match released {
        Released::Model(report) => report,
        Released::Deleted(lifted) => return say_lifted(context, &name, &lifted),
    };
    let blocked = blocked(&registry, &name)?;
    context.out.print(&Outcome { report: &report, blocked }, |_| verify::sentence(&report))?;
    // Whoever meant these would take the sentence above for an answer.
    if blocked > 0 {
        let more = format!(
            "what was deleted as {name} under an incident stays blocked; `securereg release {name} --deleted` lifts that"
        );
        out::remark(context.form(), &more);
    }
    verify::conclude(context, &report)
}

/// The JSON of a release.
#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    report: &'a VerifyReport,
    /// Deleted models of this name whose bytes stay blocked.
    blocked: usize,
}

/// What is no longer blocked. There was nothing to verify.
fn say_lifted(context: &mut Context, name: &ModelName, lifted: &[Arc<Blocked>]) -> Result<Code> {
    let blocks: Vec<&Blocked> = lifted.iter().map(Arc::as_ref).collect();
    let value = json!({"status": "lifted", "name": name, "lifted": blocks});
    context.out.print(&value, |_| {
        let line = |b: &Arc<Blocked>| {
            let incident = text::plain(&b.quarantine.incident());
            format!(
                "{name}, deleted {} under {incident}: its bytes may be promoted again\n",
                text::plain(&b.deleted_at)
            )
        };
        lifted.iter().map(line).collect()
    })?;
    Ok(Code::Done)
}

pub(crate) fn delete(context: &mut Context, wanted: &str) -> Result<Code> {
    let name = name(wanted)?;
    let registry = context.registry()?;
    registry.delete(&name, &Context::actor())?;
    context.out.print(&json!({"status": "deleted", "name": name}), |_| format!("{name} deleted\n"))?;
    // It is deleted: what cannot be told now is no failure.
    if blocked(&registry, &name).is_ok_and(|count| count > 0) {
        let more =
            format!("what was deleted as {name} under an incident stays blocked until `securereg release {name}`");
        out::remark(context.form(), &more);
    }
    Ok(Code::Done)
}

/// How many deleted models of this name left their bytes blocked.
fn blocked(registry: &Registry, name: &ModelName) -> Result<usize> {
    Ok(registry.catalog()?.blocked_as(name).count())
}
