//! `recover` and `key`.
//!
//! Owns: showing a recovery before it is done, and the question. Promises: without `--yes`, or a `y` on a terminal, nothing is
//! changed. Leaves out: what a recovery is (`securereg::recover`).

use super::Context;
use crate::args::{KeyVerb, Recover};
use crate::exit::Code;
use crate::out::{self, Form};
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use securereg::{Error, ErrorKind, RecoverOptions, Recovery, Result};
use serde_json::json;
use std::io::{BufRead, IsTerminal};

pub(crate) fn recover(context: &mut Context, args: Recover) -> Result<Code> {
    let signals = Signals::listen(context.form())?;
    let (root, form) = (context.root(), context.form());
    let work = |apply| {
        let bar = Bar::new(form);
        let options = RecoverOptions { accept_edit: args.accept_edit, apply };
        securereg::recover(&root, options, &Context::actor(), &bar.task(&signals))
    };
    let Some(plan) = work(false)? else {
        context.out.print(&json!({"status": "ok"}), |_| {
            "nothing is wrong with the records; nothing to recover\n".to_owned()
        })?;
        return Ok(Code::Done);
    };
    if args.dry_run {
        context.out.print(&plan, |_| told(&plan))?;
        return Ok(Code::Records);
    }
    if form == Form::Text {
        context.out.write(&told(&plan))?;
    }
    if !args.yes && !agreed(form)? {
        let why = "nothing was changed: `securereg recover --yes` does it";
        return Err(Error::new(ErrorKind::Manifest, why));
    }
    let done =
        work(true)?.ok_or_else(|| Error::new(ErrorKind::Conflict, "somebody else has recovered it meanwhile"))?;
    let changed = done.steps.iter().filter(|step| !plan.steps.contains(step));
    let more: String = changed.map(line).collect();
    context.out.print(&done, |_| format!("{more}recovered: generation {} is served\n", done.generation))?;
    Ok(Code::Done)
}

/// What a recovery would do, in words.
fn told(plan: &Recovery) -> String {
    let steps: String = plan.steps.iter().map(line).collect();
    format!(
        "what is wrong: {}\nit would start from {}, of generation {}, and write generation {} with {}:\n{}",
        text::plain(&plan.wrong),
        plan.from,
        plan.from_generation,
        plan.generation,
        text::count(plan.models as u64, "model"),
        if steps.is_empty() { "  every model as it is there\n".to_owned() } else { steps },
    )
}

fn line(step: &securereg::RecoveryStep) -> String {
    let name = if step.name.is_empty() { String::new() } else { format!(" {}", text::plain(&step.name)) };
    format!("  {}{name}: {}\n", step.action, text::plain(&step.why))
}

/// Asks a person; where there is none, the answer is no.
fn agreed(form: Form) -> Result<bool> {
    if form == Form::Json || !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    out::remark(form, "do it? [y/N]");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| Error::new(ErrorKind::Io, format!("cannot read the answer: {e}")).because(e))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(crate) fn key(context: &mut Context, verb: KeyVerb) -> Result<Code> {
    let registry = context.registry()?;
    let public = match verb {
        KeyVerb::New => Some(registry.begin_signing(&Context::actor())?),
        KeyVerb::Show => registry.public_key()?,
    };
    let Some(public) = public else {
        let why = "this registry signs nothing: `securereg key new` makes a key";
        return Err(Error::new(ErrorKind::NotFound, why));
    };
    let pem = public.to_pem()?;
    context.out.print(&json!({"public_key": public.to_hex(), "pem": pem}), |_| pem.clone())?;
    Ok(Code::Done)
}
