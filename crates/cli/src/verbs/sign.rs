//! `sign`, `verify-signature`: of models that need not be in the registry.
//!
//! Owns: where signatures lie and are written, and the exit codes. Promises: a signature that is there is written over only when that is
//! asked for, and then whole or not at all; a verification that fails ends with the code of bytes that are not verified. Leaves out:
//! signing and verifying (`securereg::signing`).

use super::Context;
use super::guard::failed;
use crate::args::{Sign, VerifySignature};
use crate::exit::Code;
use crate::out::remark;
use crate::progress::Bar;
use crate::signals::Signals;
use crate::text;
use securereg::signing::{self, BESIDE, IN_FOLDER, PrivateKey, PublicKey, SignatureFile, SignatureReport};
use securereg::{Error, ErrorKind, Layout, Result, Source};
use serde_json::json;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(crate) fn sign(context: &mut Context, args: &Sign) -> Result<Code> {
    let key = PrivateKey::read(&args.key)?;
    let signals = Signals::listen(context.form())?;
    let source = Source::open(&args.path)?;
    let out = args.out.clone().unwrap_or_else(|| beside(&args.path, source.layout()));
    refuse_extra(&args.path, source.layout(), &out)?;
    if !args.force && out.symlink_metadata().is_ok() {
        return Err(taken(&out));
    }
    let model = args.path.file_name().unwrap_or(args.path.as_os_str()).to_string_lossy();
    let bar = Bar::new(context.form());
    let bundle = signing::sign(&source, &model, &key, &bar.task(&signals));
    drop(bar);
    write(&out, &bundle?, args.force)?;
    for skipped in source.skipped() {
        remark(context.form(), &format!("not signed, since no promotion takes it along: {skipped}"));
    }
    let public = key.public();
    let value = json!({
        "signature": out.to_string_lossy(), "key": public.id(), "algorithm": public.algorithm().as_str(), "skipped": source.skipped(),
    });
    context.out.print(&value, |_| {
        let out = text::plain(&out.to_string_lossy());
        format!("signed: {out}\nkey {} ({})\n", public.id(), public.algorithm().as_str())
    })?;
    Ok(Code::Done)
}

pub(crate) fn verify(context: &mut Context, args: &VerifySignature) -> Result<Code> {
    let key = PublicKey::read(&args.key)?;
    let signals = Signals::listen(context.form())?;
    let source = Source::open(&args.path)?;
    let signature = match &args.signature {
        Some(file) => SignatureFile::read(file)?,
        None => source.signature()?.ok_or_else(|| {
            let place = beside(&args.path, source.layout());
            Error::new(
                ErrorKind::NotFound,
                format!("there is no {}: say where it is with --signature", place.display()),
            )
        })?,
    };
    let signer = args.key.file_name().unwrap_or(args.key.as_os_str()).to_string_lossy();
    let bar = Bar::new(context.form());
    let report = signing::verify(&source, &signature, &signer, key, &bar.task(&signals));
    drop(bar);
    let report = report?;
    let value = json!({
        "status": if report.signed.is_some() { "verified" } else { "failed" },
        "path": args.path.to_string_lossy(),
        "signature": report.signed,
        "findings": report.findings,
        "skipped": report.skipped,
    });
    context.out.print(&value, |_| sentences(&report))?;
    Ok(if report.signed.is_some() { Code::Done } else { Code::Unverified })
}

fn sentences(report: &SignatureReport) -> String {
    let mut out = match &report.signed {
        Some(signed) => format!("verified: {}\n", text::plain(&signed.summary())),
        None => "not verified\n".to_owned(),
    };
    for finding in &report.findings {
        let what = text::plain(&format!("{} [{}]", finding.message, finding.rule));
        writeln!(out, "{what}").expect("writing to a String never fails");
    }
    for skipped in &report.skipped {
        writeln!(out, "not looked at: {}", text::plain(skipped)).expect("writing to a String never fails");
    }
    out
}

/// Where a promotion looks for it.
fn beside(path: &Path, layout: Layout) -> PathBuf {
    match layout {
        Layout::Folder => path.join(IN_FOLDER),
        Layout::File | Layout::Split => {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(BESIDE);
            path.with_file_name(name)
        }
    }
}

/// In the folder under another name it would be a file that is not signed.
fn refuse_extra(path: &Path, layout: Layout, out: &Path) -> Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(model), Ok(folder)) = (path.canonicalize(), folder.canonicalize()) else { return Ok(()) };
    let own = folder == model && out.file_name().is_some_and(|name| name == IN_FOLDER);
    if layout != Layout::Folder || own || !folder.starts_with(&model) {
        return Ok(());
    }
    let why = format!(
        "{} lies in the folder that is signed: call it {IN_FOLDER} at its top, or write it elsewhere",
        out.display()
    );
    Err(Error::new(ErrorKind::InvalidInput, why))
}

fn write(out: &Path, bundle: &[u8], force: bool) -> Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e| failed("writing", out, e);
    let temp =
        tempfile::Builder::new().prefix(".securereg-").permissions(Permissions::from_mode(0o644)).tempfile_in(folder);
    let mut temp = temp.map_err(failed)?;
    temp.write_all(bundle).and_then(|()| temp.as_file().sync_all()).map_err(failed)?;
    if force {
        return temp.persist(out).map(drop).map_err(|e| failed(e.error));
    }
    temp.persist_noclobber(out).map(drop).map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(out),
        _ => failed(e.error),
    })
}

fn taken(out: &Path) -> Error {
    Error::new(ErrorKind::Conflict, format!("{} is there already: --force writes over it", out.display()))
}
