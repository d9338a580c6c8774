//! `completions` and `man`.
//!
//! Owns: what is generated from the command line's definition. Promises: both always match it. Leaves out: installing them.

use super::Context;
use crate::args::{Cli, Completions, Man};
use crate::exit::Code;
use clap::CommandFactory;
use securereg::{Error, ErrorKind, Result};
use serde_json::json;
use std::path::Path;

pub(crate) fn completions(context: &mut Context, args: Completions) -> Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "securereg", &mut script);
    context.out.write(&String::from_utf8_lossy(&script))?;
    Ok(Code::Done)
}

pub(crate) fn man(context: &mut Context, args: Man) -> Result<Code> {
    let Some(folder) = args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(|e| failed(Path::new("securereg.1"), e))?;
        context.out.write(&String::from_utf8_lossy(&page))?;
        return Ok(Code::Done);
    };
    std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
    clap_mangen::generate_to(Cli::command(), &folder).map_err(|e| failed(&folder, e))?;
    context.out.print(&json!({ "out": folder }), |_| {
        format!("man pages written to {}\n", crate::text::plain(&folder.to_string_lossy()))
    })?;
    Ok(Code::Done)
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::PermissionDenied { ErrorKind::Permission } else { ErrorKind::Io };
    Error::new(kind, format!("cannot write the man page to {}: {e}", path.display())).because(e)
}
