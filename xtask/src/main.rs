//! Chores of the workspace.
//!
//! Owns: `cargo xtask tidy`. Promises: exits 0 only when every rule ran and found nothing. Leaves out: what rustc, clippy
//! and cargo-deny check already.

mod tidy;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy [--list]

  tidy          check the invariants that ARCHITECTURE.md states
  tidy --list   name the rules";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(),
        ["tidy", "--list"] => tidy::list(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
