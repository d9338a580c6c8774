//! The log, on standard error.
//!
//! Owns: its filter and its two forms, lines for people and JSON. Promises: an event is one line, whatever stands in its values: what
//! came from a request, a model or a file name can neither begin another line nor act on a terminal; in JSON every line is one object,
//! a panic's too. Leaves out: what is logged.

use crate::out;
use crate::text::{self, Color};
use clap::ValueEnum;
use securereg::{Error, ErrorKind, Result};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::fmt::MakeWriter;

/// The environment's `--log-format`.
const FORMAT: &str = "SECUREREG_LOG_FORMAT";

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object
    Json,
}

/// Sends the log to standard error, by `--log`, else `RUST_LOG`, else warnings; in the form of `--log-format`, else of
/// `SECUREREG_LOG_FORMAT`, else as text.
pub(crate) fn start(filter: Option<String>, format: Option<LogFormat>) -> Result<()> {
    let from_environment = || std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = filter.or_else(from_environment).unwrap_or_else(|| "warn".into());
    let filter = tracing_subscriber::EnvFilter::builder().parse(&filter).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, format!("the log filter {filter:?} is not understood: {e}"))
    })?;
    let format = match format {
        Some(format) => format,
        None => environment()?,
    };
    let color = format == LogFormat::Text && io::stderr().is_terminal() && out::color_wanted() == Color::On;
    let lines = Lines { format, color };
    // A log that cannot be written (its disk is full) ends nothing: saying so on standard error as well would panic.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(lines)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
            std::panic::set_hook(Box::new(|panic| {
                let place = panic.location().map(ToString::to_string);
                let words = panic.payload();
                let words =
                    words.downcast_ref::<&str>().copied().or(words.downcast_ref::<String>().map(String::as_str));
                tracing::error!(place, "panicked: {}", words.unwrap_or("without a word"));
            }));
        }
    }
    Ok(())
}

fn environment() -> Result<LogFormat> {
    let Some(value) = std::env::var_os(FORMAT).filter(|value| !value.is_empty()) else { return Ok(LogFormat::Text) };
    let value = value.to_string_lossy();
    LogFormat::from_str(&value, false)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{FORMAT} is {value:?}: text or json is wanted")))
}

/// Where events go, each in one call.
#[derive(Debug, Clone, Copy)]
struct Lines {
    format: LogFormat,
    color: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        *self
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(line(event, self.format, self.color).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// An event as one harmless line.
fn line(event: &[u8], format: LogFormat, color: bool) -> String {
    let event = String::from_utf8_lossy(event);
    let event = event.strip_suffix('\n').unwrap_or(&event);
    let safe = match (format, color) {
        (LogFormat::Json, _) => text::plain_json(event),
        (LogFormat::Text, false) => text::plain(event),
        (LogFormat::Text, true) => painted(event),
    };
    safe + "\n"
}

/// The same, with the colours that the formatter has put in: sequences that do nothing but choose one.
fn painted(event: &str) -> String {
    let mut safe = String::with_capacity(event.len());
    let mut rest = event;
    while let Some(at) = rest.find('\u{1b}') {
        safe.push_str(&text::plain(&rest[..at]));
        let after = &rest[at + 1..];
        let length = after.strip_prefix('[').and_then(|codes| {
            let end = codes.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            codes[end..].starts_with('m').then_some(1 + end + 1)
        });
        match length {
            Some(length) => {
                safe.push('\u{1b}');
                safe.push_str(&after[..length]);
                rest = &after[length..];
            }
            None => {
                safe.push_str("\\u{1b}");
                rest = after;
            }
        }
    }
    safe + &text::plain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_stands_in_it() {
        let hostile = "WARN x: a\nERROR forged\r\u{1b}[2J\u{202e}\u{7}\u{85}\u{2028}b\n";
        let said = line(hostile.as_bytes(), LogFormat::Text, false);
        assert_eq!(said, "WARN x: a\\nERROR forged\\r\\u{1b}[2J\\u{202e}\\u{7}\\u{85}\\u{2028}b\n");
        let said =
            line("\u{1b}[33mWARN\u{1b}[0m a\nb\u{1b}[2J\u{1b}]0;t\u{7}\u{1b}[1;3".as_bytes(), LogFormat::Text, true);
        assert_eq!(said, "\u{1b}[33mWARN\u{1b}[0m a\\nb\\u{1b}[2J\\u{1b}]0;t\\u{7}\\u{1b}[1;3\n");
        let said = line("{\"a\":\"\u{202e}x\\n\"}\n".as_bytes(), LogFormat::Json, false);
        assert_eq!(said, "{\"a\":\"\\u202ex\\n\"}\n");
        assert_eq!(line(b"\xff\n", LogFormat::Text, false), "\u{fffd}\n");
    }
}
