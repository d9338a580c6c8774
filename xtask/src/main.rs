//! Chores of the workspace.
//!
//! Owns: `cargo xtask tidy`, `cargo xtask header` and `cargo xtask mutants`. Promises: exits 0 only when every rule ran and found nothing. Leaves out: what rustc, clippy
//! and cargo-deny check already.

mod header;
mod mutants;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy [--list] | header [--check] | mutants [OPTION...]

  tidy          check the invariants that ARCHITECTURE.md states
  tidy --list   name the rules
  header        write include/securereg.h and the list of its symbols
  header --check   fail if what is committed is not what src/ffi makes
  mutants       change one thing of src/format and the policy at a time: a test must fail (an hour; needs cargo-mutants)
    --only FILE    only the mutants that FILE names, one a line
    --alone only   those that can't stand in the one build
    --again N      N of each genre a second time, by an edit of the source and a build: the verdicts must agree
    --under CMD    run what takes time under CMD, such as `nice -n 5`";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(),
        ["tidy", "--list"] => tidy::list(),
        ["header"] => header::run(false),
        ["header", "--check"] => header::run(true),
        ["mutants", ref options @ ..] => mutants::run(options),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The clone it is run in, which need not be the one it was built in: two may share a target folder.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().map(Path::to_owned).unwrap_or_default()
}
