//! `push` and `pull`.
//!
//! Owns: turning the options into a call, and saying what was done. Promises: Ctrl-C leaves no trace in the registry but, of a pull, the parts
//! that came, and says so. Leaves out: the protocol (`securereg_remote`), judging (`securereg::Registry::promote`).

use super::promote::{method, outcome, sentence};
use super::{Context, name};
use crate::args::{Pull, Push, PushTypes, Remote};
use crate::exit::Code;
use crate::out::remark;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use securereg::Result;
use securereg_remote::{ImageRef, Keychain, Options, Pulled, Pushed, Types, Watch};

pub(crate) fn push(context: &mut Context, args: Push) -> Result<Code> {
    let (name, to) = (name(&args.name)?, args.to.parse::<ImageRef>()?);
    let types = match args.types {
        PushTypes::Hanzo => Types::Hanzo,
        PushTypes::Modelpack => Types::ModelPack,
    };
    let signals = Signals::listen(context.form())?;
    let registry = context.registry()?;
    let bar = Bar::new(context.form());
    let watch = Watch { cancelled: signals.flag(), tell: &|step| bar.step(step) };
    let pushed = securereg_remote::push(&registry, &name, &to, types, &options(args.remote), &watch)?;
    drop(bar);
    for line in &pushed.remarks {
        remark(context.form(), line);
    }
    let value = serde_json::json!({
        "name": pushed.artifact.name,
        "reference": to.to_string(),
        "digest": pushed.digest.as_str(),
        "sha256": pushed.artifact.sha256,
        "size_bytes": pushed.artifact.size_bytes,
        "sent": pushed.sent,
        "there": pushed.there,
        "remarks": pushed.remarks,
    });
    context.out.print(&value, |_| said(&pushed, &to))?;
    Ok(Code::Done)
}

fn said(pushed: &Pushed, to: &ImageRef) -> String {
    let artifact = &pushed.artifact;
    format!(
        "pushed {} to {}  {} in {}, of which {} sent\n{}\n",
        artifact.name,
        text::plain(&to.to_string()),
        text::size(artifact.size_bytes),
        text::count(artifact.files.len() as u64, "file"),
        pushed.sent,
        pushed.digest,
    )
}

pub(crate) fn pull(context: &mut Context, args: Pull) -> Result<Code> {
    let from = args.from.parse::<ImageRef>()?;
    let name = args.name.as_deref().map(name).transpose()?;
    let signals = Signals::listen(context.form())?;
    let registry = context.registry_or_new()?;
    let bar = Bar::new(context.form());
    let watch = Watch { cancelled: signals.flag(), tell: &|step| bar.step(step) };
    let pulled = securereg_remote::pull(&registry, &from, name, &options(args.remote), &Context::actor(), &watch);
    drop(bar);
    if pulled.is_err() && securereg_remote::keeps_parts(&registry) {
        remark(context.form(), "what has come is kept for a week: the same pull goes on from there");
    }
    let pulled = pulled?;
    let promotion = &pulled.promotion;
    let value = serde_json::json!({
        "reference": from.to_string(),
        "digest": pulled.digest.as_str(),
        "types": pulled.family.as_str(),
        "outcome": outcome(promotion.outcome),
        "method": method(promotion.method),
        "artifact": registry.describe_changed(&promotion.artifact),
    });
    context.out.print(&value, |_| got(&pulled, &from))?;
    Ok(Code::Done)
}

fn got(pulled: &Pulled, from: &ImageRef) -> String {
    let (from, types) = (text::plain(&from.to_string()), pulled.family.as_str());
    format!("pulled {from}  a {types} model\n{}\n{}", pulled.digest, sentence(&pulled.promotion))
}

fn options(remote: Remote) -> Options {
    Options { plain_http: remote.plain_http, ca: remote.ca, keychain: Keychain::of_this_user() }
}
