//! `guard`: what gguf-guard prints, of files that need not be in the registry.
//!
//! Owns: opening the files, where the output goes, and the exit codes. Promises: standard output is gguf-guard's, byte for byte
//! (on a terminal, what could act on it is escaped as JSON allows); nothing is opened that could block, and no output is
//! written over the files that were read. Leaves out: all that is computed (`securereg::guard`).

use super::Context;
use crate::args::{Guard, GuardFile, GuardVerb, VerifyManifest};
use crate::exit::Code;
use crate::out::remark;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use nix::libc;
use securereg::guard::{self, FileDigests, Fingerprint, TensorManifest, Wanted};
use securereg::{Error, ErrorKind, GgufHeader, Result};
use serde_json::json;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub(crate) fn guard(context: &mut Context, args: Guard) -> Result<Code> {
    match args.verb {
        GuardVerb::Fingerprint(args) => {
            let (model, header, digests) = survey(context, &args.file, Wanted::File)?;
            let fingerprint = Fingerprint::of(&header, digests.size_bytes, digests.sha256);
            print(context, &args, &model, &guard::to_json(&fingerprint))?;
            Ok(Code::Done)
        }
        GuardVerb::Manifest(args) => {
            let (model, header, digests) = survey(context, &args.file, Wanted::Tensors)?;
            let manifest = TensorManifest::of(&header, &digests)?;
            print(context, &args, &model, &guard::to_json(&manifest))?;
            Ok(Code::Done)
        }
        GuardVerb::VerifyManifest(args) => verify(context, &args),
        GuardVerb::Inspect(args) => inspect(context, &args),
    }
}

/// Ends like gguf-guard: 0 when all is as the manifest says, 2 when it is not.
fn verify(context: &mut Context, args: &VerifyManifest) -> Result<Code> {
    // The manifest first: it is small, and what is wrong with it need not wait for the model's hash.
    let manifest = TensorManifest::parse(&read(&args.manifest)?)?;
    let (_, header, digests) = survey(context, &args.file, Wanted::Tensors)?;
    let differences = guard::verify(&manifest, &TensorManifest::of(&header, &digests)?);
    let value = json!({
        "status": if differences.is_empty() { "verified" } else { "failed" },
        "differences": differences,
    });
    context.out.print(&value, |_| {
        let lines = guard::verify_lines(&differences);
        lines.iter().map(|line| text::plain(line) + "\n").collect()
    })?;
    let passed_over = differences.iter().filter(|d| !d.kind.is_checked_by_gguf_guard()).count();
    if passed_over > 0 {
        let what = format!("of these, gguf-guard 0.2.0 does not check {passed_over}");
        remark(context.form(), &what);
    }
    Ok(if differences.is_empty() { Code::Done } else { Code::Refused })
}

/// Ends like gguf-guard: 2 when there is any violation.
fn inspect(context: &mut Context, args: &GuardFile) -> Result<Code> {
    let (file, model) = open(&args.file)?;
    let header = GgufHeader::read(std::io::BufReader::new(&file), model.len()).map_err(|e| about(&args.file, e))?;
    let inspection = guard::inspect(&header, model.len());
    print(context, args, &model, &guard::to_json(&inspection))?;
    Ok(if inspection.policy.pass { Code::Done } else { Code::Refused })
}

/// Reads and hashes a model, with a bar.
fn survey(context: &Context, path: &Path, wanted: Wanted) -> Result<(Metadata, GgufHeader, FileDigests)> {
    let signals = Signals::listen(context.form())?;
    let (file, before) = open(path)?;
    let bar = Bar::new(context.form());
    let surveyed = guard::survey(&file, before.len(), wanted, &bar.task(&signals));
    drop(bar);
    let (header, digests) = surveyed.map_err(|e| about(path, e))?;
    let after = file.metadata().map_err(|e| failed("reading", path, e))?;
    let state = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    if state(&before) != state(&after) {
        let why = format!("{} changed while it was read: stop what writes it and try again", path.display());
        return Err(Error::new(ErrorKind::SourceChanged, why));
    }
    Ok((before, header, digests))
}

/// Opens a regular file, without waiting for whoever may be at the other end of another kind.
fn open(path: &Path) -> Result<(File, Metadata)> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| failed("opening", path, e))?;
    let meta = file.metadata().map_err(|e| failed("opening", path, e))?;
    if !meta.is_file() {
        return Err(Error::new(ErrorKind::Refused, format!("{} is not a regular file", path.display())));
    }
    Ok((file, meta))
}

/// A manifest's bytes, bounded.
fn read(path: &Path) -> Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that what is too long is seen to be.
    file.take(guard::MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(|e| failed("reading", path, e))?;
    Ok(bytes)
}

/// Prints `json`, or writes it to `--output`.
fn print(context: &mut Context, args: &GuardFile, model: &Metadata, json: &str) -> Result<()> {
    match &args.output {
        Some(path) => write(path, model, json),
        None if std::io::stdout().is_terminal() => context.out.write(&text::plain_json(json)),
        None => context.out.write(json),
    }
}

/// Writes `json` to a file that is whole or not there; to what is no regular file (`/dev/stdout`), as it is.
fn write(path: &Path, model: &Metadata, json: &str) -> Result<()> {
    // A link stays one: what it leads to is written.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match std::fs::metadata(&target) {
        Ok(there) if (there.dev(), there.ino()) == (model.dev(), model.ino()) => {
            let why = format!("{} is the model itself: it would be overwritten", path.display());
            return Err(Error::new(ErrorKind::InvalidInput, why));
        }
        Ok(there) if !there.is_file() => return std::fs::write(&target, json).map_err(|e| failed("writing", path, e)),
        _ => {}
    }
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::fs::Permissions::from_mode(0o644);
    let temp = tempfile::Builder::new().prefix(".securereg-").permissions(permissions).tempfile_in(folder);
    let mut temp = temp.map_err(|e| failed("writing", path, e))?;
    temp.write_all(json.as_bytes()).map_err(|e| failed("writing", path, e))?;
    temp.as_file().sync_all().map_err(|e| failed("writing", path, e))?;
    temp.persist(&target).map_err(|e| failed("writing", path, e.error))?;
    Ok(())
}

/// The same error, with the file that it is about.
fn about(path: &Path, e: Error) -> Error {
    match e.kind() {
        ErrorKind::Cancelled => e,
        kind => Error::new(kind, format!("{}: {}", path.display(), e.message())).because(e),
    }
}

pub(super) fn failed(doing: &str, path: &Path, e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Permission,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{doing} {}: {e}", path.display())).because(e)
}
