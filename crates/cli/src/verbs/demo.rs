//! `up --demo`.
//!
//! Owns: a temporary registry with a sample model, and the lines that say what to try. Promises: each line works as it is
//! printed; no registry but its own is touched, whatever the environment says; its folder is removed at the end; without
//! FUSE or with the port taken it goes on, saying so. Leaves out: how the parts run (`daemon`).

use super::daemon::{Parts, curl, mount_options, quoted, shown, with_options};
use super::{Context, sample};
use crate::args::Up;
use crate::exit::Code;
use crate::out::remark;
use securereg::{Artifact, Error, ErrorKind, PromoteRequest, Registry, Result, Source, Task};
use securereg_server::Config;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAME: &str = "demo/tiny-llama";
const FILE: &str = "tiny-llama-demo.gguf";

pub(crate) fn up(context: &mut Context, args: Up) -> Result<Code> {
    if context.root.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "--demo makes a root of its own: leave out --root, or --demo"));
    }
    let options = mount_options(&args.access)?;
    let folder = tempfile::Builder::new()
        .prefix("securereg-demo-")
        .tempdir()
        .map_err(|e| failed("make a temporary folder", e))?;
    // As the mount table will show it.
    let place = folder.path().canonicalize().map_err(|e| failed("make a temporary folder", e))?;
    let mut parts = Parts::new(context, |_| Registry::open_or_create(&place.join("registry")))?;
    parts.watch_stored(&args.monitor)?;
    let model = promote(&parts.registry, &place)?;

    // Not the environment's: the tokens and folders of a deployment are not the demo's to serve.
    let config = free(context, with_options(Config::default(), &args.http)?);
    let unmounted = |e| remark(context.form(), &format!("{e}; the demo goes on without the mount"));
    if !args.no_mount {
        parts.attach(&args.mount.unwrap_or_else(|| place.join("models")), options).unwrap_or_else(unmounted);
    }
    parts.confine(Some(&config), Some(&place))?;
    parts.bind(config)?;
    parts.answer().unwrap_or_else(unmounted);
    let lines = [parts.lines(), about(&parts, &model, &place)].concat();
    let code = parts.run(&mut context.out, &lines);
    let removed = folder.close().map_err(|e| failed("remove the demo's folder", e));
    code.and_then(|code| removed.map(|()| code))
}

/// Makes the sample and promotes it, as `promote` would.
fn promote(registry: &Registry, place: &Path) -> Result<Arc<Artifact>> {
    let path = sample_path(place);
    std::fs::write(&path, sample::gguf()).map_err(|e| failed("make the sample model", e))?;
    let request = PromoteRequest { source: "made by securereg up --demo".into(), ..PromoteRequest::new(NAME.parse()?) };
    Ok(registry.promote(request, Source::open(&path)?, &Context::actor(), &Task::unattended())?.artifact)
}

fn sample_path(place: &Path) -> PathBuf {
    place.join(FILE)
}

/// The settings, with a free port when theirs is taken.
fn free(context: &Context, mut config: Config) -> Config {
    let wanted = config.listen;
    if is_taken(wanted) {
        config.listen = SocketAddr::new(wanted.ip(), 0);
        remark(context.form(), &format!("{wanted} is taken; taking a free port instead"));
    }
    config
}

fn is_taken(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

/// The sample, and what to do with it.
fn about(parts: &Parts, model: &Artifact, place: &Path) -> Vec<String> {
    let mut lines = vec![
        format!("sample:   {}", shown(&sample_path(place))),
        format!("sha256:   {}", model.sha256),
        String::new(),
        "try next, in another terminal:".into(),
    ];
    let shown_at = parts.mountpoint().map(|dir| quoted(&dir.join(model.entry_path().as_str())));
    if let Some(file) = &shown_at {
        lines.push("  the model, each byte checked as it is read".into());
        lines.push(format!("  $ sha256sum {file}"));
    }
    if let Some(curl) = curl(parts) {
        lines.push("  the same over HTTP".into());
        lines.push(curl);
    }
    let securereg = std::env::current_exe().map_or_else(|_| "securereg".into(), |exe| quoted(&exe));
    let root = quoted(parts.registry.root());
    lines.push("  one byte of the stored file, changed behind the registry's back".into());
    lines.push(format!("  $ {}", tampering(parts.registry.root(), model)));
    match &shown_at {
        Some(file) => {
            lines.push("  now it is refused, and quarantined".into());
            lines.push(format!("  $ cat {file}"));
        }
        None => {
            lines.push("  now it fails its verification, and is quarantined".into());
            lines.push(format!("  $ {securereg} --root {root} verify {NAME}"));
        }
    }
    lines.push(format!("  $ {securereg} --root {root} list"));
    lines
}

/// The command that flips a byte in the middle of the stored file. It is written as octal, which every printf(1) knows.
fn tampering(root: &Path, model: &Artifact) -> String {
    let bytes = sample::gguf();
    let at = bytes.len() / 2;
    let blob = quoted(&root.join("blobs/sha256").join(model.sha256.to_string()));
    format!("chmod u+w {blob} && printf '\\{:03o}' | dd of={blob} bs=1 seek={at} conv=notrunc status=none", !bytes[at])
}

fn failed(what: &str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot {what}: {e}")).because(e)
}
