//! Chores of the workspace.
//!
//! Owns: `cargo xtask tidy` and `cargo xtask header`. Promises: exits 0 only when every rule ran and found nothing. Leaves out: what rustc, clippy
//! and cargo-deny check already.

mod header;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy [--list] | header [--check]

  tidy          check the invariants that ARCHITECTURE.md states
  tidy --list   name the rules
  header        write include/securereg.h and the list of its symbols
  header --check   fail if what is committed is not what src/ffi makes";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(),
        ["tidy", "--list"] => tidy::list(),
        ["header"] => header::run(false),
        ["header", "--check"] => header::run(true),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
