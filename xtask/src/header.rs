//! `cargo xtask header`: include/securereg.h and the list of its symbols, out of src/ffi.
//!
//! Owns: what stands around the generated declarations. Promises: the same input gives the same bytes; `--check` changes
//! nothing and fails when what is committed differs. Leaves out: the declarations (cbindgen, pinned).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HEADER: &str = "include/securereg.h";
const SYMBOLS: &str = "include/securereg.symbols";
/// In the order a reader wants them; what a build for tests adds is not among them.
const SOURCES: [&str; 9] = ["status", "error", "text", "task", "registry", "model", "file", "sealed", "events"];
const LAST: &str = "gguf";

/// Writes the two files, or compares them.
pub(crate) fn run(check: bool) -> ExitCode {
    let outcome = generate(&crate::root()).and_then(|files| files.into_iter().try_for_each(|f| settle(&f, check)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("header: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A file to be: where, and what.
struct Made {
    path: PathBuf,
    text: String,
}

fn generate(root: &Path) -> Result<[Made; 2], String> {
    let version = version(root)?;
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    config.header = Some(preamble(&version));
    config.after_includes = Some(versions(&version));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES.iter().chain([&LAST]) {
        builder = builder.with_src(root.join("src/ffi").join(name).with_extension("rs"));
    }
    let mut bytes = Vec::new();
    builder.generate().map_err(|e| e.to_string())?.write(&mut bytes);
    let text = String::from_utf8(bytes).map_err(|e| e.to_string())?;
    let symbols = symbols(&text);
    // A parser that found nothing must not pass for an ABI without functions.
    if symbols.len() < 20 {
        return Err(format!("only {} functions were found in src/ffi", symbols.len()));
    }
    let list = symbols.iter().map(|s| format!("{s}\n")).collect();
    Ok([Made { path: root.join(HEADER), text }, Made { path: root.join(SYMBOLS), text: list }])
}

fn settle(made: &Made, check: bool) -> Result<(), String> {
    let shown = made.path.display();
    if !check {
        return std::fs::write(&made.path, &made.text).map_err(|e| format!("{shown}: {e}"));
    }
    let there = std::fs::read_to_string(&made.path).map_err(|e| format!("{shown}: {e}"))?;
    if there == made.text {
        return Ok(());
    }
    let line = there.lines().zip(made.text.lines()).take_while(|(a, b)| a == b).count() + 1;
    Err(format!("{shown} is not what src/ffi makes, from line {line} on: run `cargo xtask header` and commit it"))
}

/// The functions of a header, sorted: a name that is followed by its arguments.
pub(crate) fn symbols(header: &str) -> Vec<String> {
    let code = header.lines().filter(|l| !l.trim_start().starts_with(['*', '/', '#']));
    let mut found: Vec<String> = code
        .filter_map(|line| {
            let (before, _) = line.split_once('(')?;
            let name = before.rsplit([' ', '*']).next()?;
            (name.starts_with("securereg_") && !before.starts_with("typedef")).then(|| name.to_owned())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

fn version(root: &Path) -> Result<[u32; 3], String> {
    let text = std::fs::read_to_string(root.join("Cargo.toml")).map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|l| l.strip_prefix("version = \"")).ok_or("Cargo.toml names no version")?;
    let numbers: Vec<u32> =
        line.trim_end_matches('"').split('.').map(str::parse).collect::<Result<_, _>>().map_err(|e| format!("{e}"))?;
    numbers.try_into().map_err(|_| "the version is not three numbers".to_owned())
}

fn preamble([major, minor, patch]: &[u32; 3]) -> String {
    format!(
        "\
/* securereg {major}.{minor}.{patch}: verified model bytes for programs in C. Made by `cargo xtask header`; do not edit.
 *
 * Every byte that comes out of this library was hashed against what was promoted.
 *
 * Handles      are tokens in a struct of their own, passed by value; {{0}} is none. Closing none is fine. Using one that is
 *              closed, freed or none is SECUREREG_CLOSED and harms nothing: tokens are not addresses, and never come back.
 * Results      each function returns a status; outputs are written only when it is SECUREREG_OK. `error` may be NULL;
 *              else it is written only on failure (and not by SECUREREG_FORKED), and is the caller's to free. Pass {{0}}.
 * Structs      begin with their size: set it to sizeof, and leave what you do not use at zero. Fields are only ever added,
 *              at the end; numbers are only ever added.
 * Strings      are UTF-8 and end in NUL, given and taken. What the library gives belongs to the handle it came from.
 * Lengths      are in bytes, times of a model RFC 3339 in UTC, digests bare lower-case hex.
 * Threads      every function may be called from any thread at any time, also with the same handle.
 * fork         a forked child gets SECUREREG_FORKED from everything until it calls exec. The library starts no thread that
 *              outlives a call, and installs no signal handler.
 * Panics       of the library end at this boundary: SECUREREG_PANIC.
 */"
    )
}

fn versions([major, minor, patch]: &[u32; 3]) -> String {
    format!(
        "
#include <stddef.h>
#include <stdint.h>

#define SECUREREG_VERSION_MAJOR {major}
#define SECUREREG_VERSION_MINOR {minor}
#define SECUREREG_VERSION_PATCH {patch}
#define SECUREREG_VERSION \"{major}.{minor}.{patch}\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_from_types_and_words() {
        let header = "/**\n * securereg_words(that are none)\n */\ntypedef int32_t (*securereg_progress)(void *user);\n\
                      const char *securereg_version(void);\nstruct securereg_status securereg_b(struct x a,\n  int c);\n";
        assert_eq!(symbols(header), ["securereg_b", "securereg_version"]);
    }
}
