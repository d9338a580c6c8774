//! The `securereg` command.
//!
//! Owns: the start and the end of the process: parse, log, run, complain, exit code. Promises: a wrong command line, a
//! failure and a closed pipe all end without a panic. Leaves out: everything else.

mod args;
mod exit;
mod harden;
mod log;
mod out;
mod progress;
mod signals;
mod supervisor;
mod text;
mod verbs;

use crate::exit::Code;
use crate::out::Form;
use clap::Parser;
use clap::error::ErrorKind as ClapKind;
use securereg::{Error, ErrorKind};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(command().number())
}

fn command() -> Code {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misread(&e),
    };
    let (filter, log_format) = (cli.global.log.clone(), cli.global.log_format);
    let (mut context, verb) = verbs::Context::new(cli);
    let form = context.out.form();
    let result = log::start(filter, log_format).and_then(|()| verbs::run(&mut context, verb));
    result.unwrap_or_else(|error| {
        out::complain(form, &error);
        Code::of(error.kind())
    })
}

/// Help and version are no errors; anything else is a wrong command line. What the user typed is quoted in it, so it is
/// escaped like any other text.
fn misread(e: &clap::Error) -> Code {
    match e.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => {
            // A closed pipe (`--help | head`) is no failure.
            drop(e.print());
            Code::Done
        }
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(e.print());
            Code::Usage
        }
        _ => {
            let message = e.render().to_string();
            let message = message.strip_prefix("error: ").unwrap_or(&message).trim_end();
            let json = std::env::args_os().any(|arg| arg == "--json");
            if json {
                out::complain(Form::Json, &Error::new(ErrorKind::InvalidInput, message));
            } else {
                // Nobody may be there to read it.
                drop(writeln!(std::io::stderr(), "securereg: {}", text::plain_lines(message)));
            }
            Code::Usage
        }
    }
}
