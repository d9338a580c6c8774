//! Standard output and standard error.
//!
//! Owns: whether output is JSON or text, coloured or not, and what a closed pipe means. Promises: with `--json` standard
//! output holds JSON and nothing else; a reader that stops reading (`list | head`) ends the output, not the command, whose
//! exit code stays what its work deserves; any other failure to write is an error. Leaves out: layout (`text`).

use crate::text::{self, Color, Table};
use securereg::{Error, ErrorKind, Result};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// What standard output carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// Where a verb prints.
#[derive(Debug)]
pub(crate) struct Out {
    form: Form,
    color: Color,
    /// The reader of our output has gone.
    closed: bool,
}

impl Out {
    /// Standard output as `form`; coloured on a terminal unless `NO_COLOR` (no-color.org) or a dumb terminal says otherwise.
    pub(crate) fn new(form: Form) -> Self {
        let color = if form == Form::Text && io::stdout().is_terminal() { color_wanted() } else { Color::Off };
        Out { form, color, closed: false }
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Prints `value` as JSON, or `text` when JSON was not asked for.
    pub(crate) fn print(&mut self, value: &impl Serialize, text: impl FnOnce(Color) -> String) -> Result<()> {
        match self.form {
            Form::Json => {
                let json = serde_json::to_string_pretty(value)
                    .map_err(|e| Error::new(ErrorKind::Io, format!("cannot write the result as JSON: {e}")))?;
                self.write(&(text::plain_json(&json) + "\n"))
            }
            Form::Text => self.write(&text(self.color)),
        }
    }

    /// Prints a table, or `value` as JSON; of an empty table only `empty`.
    pub(crate) fn table(&mut self, value: &impl Serialize, table: &Table, rows: usize, empty: &str) -> Result<()> {
        self.print(value, |color| if rows == 0 { format!("{empty}\n") } else { table.render(color) })
    }

    /// Writes `text` as it is: it must be escaped already.
    pub(crate) fn write(&mut self, text: &str) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => Err(Error::new(ErrorKind::Io, format!("cannot write to standard output: {e}")).because(e)),
        }
    }
}

/// Whether the environment wants colour.
pub(crate) fn color_wanted() -> Color {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
    if no_color || dumb { Color::Off } else { Color::On }
}

/// Says `error` on standard error: `securereg: <message>`, or one line of JSON. Never fails: there is nowhere to say so.
pub(crate) fn complain(form: Form, error: &Error) {
    let line = match form {
        Form::Text => format!("securereg: {}\n", text::plain(&error.to_string())),
        Form::Json => {
            let mut value = serde_json::json!({"error": error.to_string(), "kind": error.kind().as_str()});
            if let Some(name) = error.name() {
                value["name"] = name.into();
            }
            if let Some((expected, actual)) = error.digests() {
                value["expected"] = expected.into();
                value["actual"] = actual.into();
            }
            if !error.findings().is_empty() {
                value["findings"] = serde_json::json!(error.findings());
            }
            text::plain_json(&value.to_string()) + "\n"
        }
    };
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

/// A remark for a person on standard error; with JSON there is none.
pub(crate) fn remark(form: Form, text: &str) {
    if form == Form::Text {
        drop(io::stderr().lock().write_all(format!("securereg: {}\n", text::plain(text)).as_bytes()));
    }
}
