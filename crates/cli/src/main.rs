//! The `securereg` command.
//!
//! Owns: the start and the end of the process: parse, log, run, complain, exit code. Promises: a wrong command line, a
//! failure and a closed pipe all end without a panic. Leaves out: everything else.

mod args;
mod exit;
mod out;
mod progress;
mod signals;
mod text;
mod verbs;

use crate::exit::Code;
use crate::out::Form;
use clap::Parser;
use clap::error::ErrorKind as ClapKind;
use securereg::{Error, ErrorKind};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(command().number())
}

fn command() -> Code {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misread(&e),
    };
    let filter = cli.global.log.clone();
    let (mut context, verb) = verbs::Context::new(cli);
    let form = context.out.form();
    let result = log(filter).and_then(|()| verbs::run(&mut context, verb));
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

/// Sends the log to standard error, by `--log`, else `RUST_LOG`, else warnings.
fn log(filter: Option<String>) -> securereg::Result<()> {
    let from_environment = || std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = filter.or_else(from_environment).unwrap_or_else(|| "warn".into());
    let filter = tracing_subscriber::EnvFilter::builder().parse(&filter).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("the log filter {filter:?} is not understood: {e}"))
    })?;
    let color = std::io::stderr().is_terminal() && out::color_wanted() == text::Color::On;
    // A log that cannot be written (its disk is full) ends nothing: saying so on standard error as well would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    log.log_internal_errors(false).init();
    Ok(())
}
