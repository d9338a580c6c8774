//! `crash-check`: what the rigs of tests/crash ask of a registry, and the changes that no command makes by itself.
//!
//! Owns: what "whole" means after a crash. Promises: a registry is called whole only after every check below ran; what it holds
//! is said as one value that does not depend on the time or the place, so that two roots can be compared. Leaves out: crashing
//! (the rigs), and which of two states is the right one (they know what was acknowledged).
//!
//! ```text
//! crash-check check PROBE      for each root on standard input, a line each: {"root", "state", "problems", "garbage"}
//! crash-check push ROOT REPO FILE           a blob, as the server stores it
//! crash-check put ROOT REPO manifest|tag NAME FILE
//! crash-check remove ROOT REPO FILE         the blob that FILE is
//! ```
//! `PROBE` is a sound model that the registry does not hold: it is promoted and deleted again, because a registry that cannot be
//! changed any more is not whole.

mod oci;
mod whole;

use securereg::Result;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "crash-check check PROBE <ROOTS | push ROOT REPO FILE | put ROOT REPO manifest|tag NAME FILE | remove ROOT REPO FILE";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check", probe] => check(Path::new(probe)),
        ["push", root, repo, file] => oci::push(Path::new(root), repo, Path::new(file)),
        ["put", root, repo, kind, name, file] => oci::put(Path::new(root), repo, kind, name, Path::new(file)),
        ["remove", root, repo, file] => oci::remove(Path::new(root), repo, Path::new(file)),
        _ => {
            complain(USAGE);
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("crash-check: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// `eprintln` would panic where every write fails, and that is one of the things that the rigs do.
fn complain(what: &str) {
    drop(writeln!(std::io::stderr(), "{what}"));
}

/// Answers for each root as it comes, so that one process serves thousands.
fn check(probe: &Path) -> Result<()> {
    let io = |e| securereg::Error::new(securereg::ErrorKind::Io, format!("talking to the rig: {e}"));
    for root in std::io::stdin().lock().lines() {
        let root = root.map_err(io)?;
        let found = whole::look(Path::new(&root), probe);
        let Value::Object(mut answer) = found else { unreachable!("an object is what it answers") };
        answer.insert("root".into(), json!(root));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", Value::Object(answer)).and_then(|()| out.flush()).map_err(io)?;
    }
    Ok(())
}
