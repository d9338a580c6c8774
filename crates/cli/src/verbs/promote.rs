//! `promote`.
//!
//! Owns: turning the options into a request, and saying what was done. Promises: Ctrl-C leaves no trace in the registry.
//! Leaves out: the promotion (`securereg::Registry::promote`).

use super::{Context, name};
use crate::args::Promote;
use crate::exit::Code;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use securereg::signing::SignatureFile;
use securereg::{Action, Method, Outcome, PromoteRequest, Promotion, Result, Source, Transfer};
use std::fmt::Write;

pub(crate) fn promote(context: &mut Context, args: Promote) -> Result<Code> {
    let request = PromoteRequest {
        filename: args.filename.as_deref().map(str::parse).transpose()?,
        sha256: args.sha256.as_deref().map(str::parse).transpose()?,
        format: args.format.as_deref().map(str::parse).transpose()?,
        source: args.source,
        signature: args.signature.as_deref().map(SignatureFile::read).transpose()?,
        transfer: if args.take { Transfer::Move } else { Transfer::Copy },
        ..PromoteRequest::new(name(&args.name)?)
    };
    let signals = Signals::listen(context.form())?;
    let source = Source::open(&args.path)?;
    let registry = context.registry_or_new()?;
    let bar = Bar::new(context.form());
    let promotion = registry.promote(request, source, &Context::actor(), &bar.task(&signals))?;
    drop(bar);
    let value = serde_json::json!({
        "outcome": outcome(promotion.outcome),
        "method": method(promotion.method),
        "skipped": promotion.skipped,
        "artifact": registry.describe_changed(&promotion.artifact),
    });
    context.out.print(&value, |_| sentence(&promotion))?;
    Ok(Code::Done)
}

pub(super) fn sentence(promotion: &Promotion) -> String {
    let artifact = &promotion.artifact;
    let done = match promotion.outcome {
        Outcome::Promoted => "promoted",
        Outcome::AlreadyThere => "already there:",
        Outcome::Moved => "promoted, and the tag moved:",
    };
    let mut line = format!(
        "{done} {}  {} in {}, {}, {}\nsha256 {}\n",
        artifact.name,
        text::size(artifact.size_bytes),
        text::count(artifact.files.len() as u64, "file"),
        artifact.format.as_str(),
        method(promotion.method),
        artifact.sha256,
    );
    if let Some(signed) = &promotion.signed {
        writeln!(line, "{}", text::plain(&signed.summary())).expect("writing to a String never fails");
    }
    for finding in promotion.verdict.with_action(Action::Warn) {
        let what = text::plain(&format!("{}: {} [{}]", finding.file, finding.message, finding.rule));
        writeln!(line, "warning: {what}").expect("writing to a String never fails");
    }
    for skipped in &promotion.skipped {
        writeln!(line, "not taken along: {}", text::plain(skipped)).expect("writing to a String never fails");
    }
    line
}

pub(super) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Promoted => "promoted",
        Outcome::AlreadyThere => "already_there",
        Outcome::Moved => "moved",
    }
}

pub(super) fn method(method: Method) -> &'static str {
    match method {
        Method::Copied => "copied",
        Method::Reflinked => "reflinked",
        Method::Adopted => "adopted",
        Method::Shared => "shared",
    }
}
