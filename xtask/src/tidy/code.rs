//! Rules about Rust sources.
//!
//! Owns: what may stand in which file. Promises: looks at code, not at comments or strings, unless a rule is about those.
//! Leaves out: what clippy denies already.

use super::{Finding, Tree, lexer};

/// Where `unsafe` may stand: system calls, the C ABI, and what the mount tests need to map files.
const UNSAFE_ALLOWED: [&str; 4] = ["src/sys/", "src/ffi/", "fusefs/tests/support/", "fusefs/tests/support.rs"];

pub(crate) fn unsafe_confined(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, code) in tree.code() {
        let allowed = UNSAFE_ALLOWED.iter().any(|place| path.starts_with(place));
        if !allowed && path != "src/sys.rs" && path != "src/ffi.rs" {
            findings.extend(lines_with_word(path, &code, "unsafe", "`unsafe` belongs in src/sys or src/ffi"));
        }
    }
    findings
}

const LONGEST: usize = 600;

pub(crate) fn short_files(tree: &Tree) -> Vec<Finding> {
    let long = |(path, text): (&str, &str)| {
        let lines = without_tests(text).lines().count();
        (!is_test(path) && lines > LONGEST)
            .then(|| Finding::new(path, format!("{lines} lines, over {LONGEST}: split it by what it owns")))
    };
    tree.rust().filter_map(long).collect()
}

pub(crate) fn module_docs(tree: &Tree) -> Vec<Finding> {
    let undocumented = |(path, text): (&str, &str)| {
        let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
        (!first.is_some_and(|line| line.starts_with("//! ")))
            .then(|| Finding::new(path, "begins without `//!`: say what it owns, promises and leaves out"))
    };
    tree.rust().filter_map(undocumented).collect()
}

pub(crate) fn nothing_unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, code) in tree.code() {
        for word in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
            findings.extend(lines_with(path, &code, word, &format!("`{word}` is not finished work")));
        }
        findings.extend(lines_with(path, &code, "should_panic", "assert values, not that something panics somewhere"));
    }
    findings
}

/// The module that reads and writes the manifest.
const MANIFEST_STORE: &str = "src/catalog/store.rs";

/// How a file could be opened, read, written or replaced.
const TOUCHES: [&str; 8] =
    ["File::open", "File::create", "OpenOptions", "fs::read", "fs::write", "write_durably", "rename", ".read(Folder"];

/// Others may name the manifest, to compare a path with it or in a message; who names it and touches files is suspect.
pub(crate) fn one_manifest_writer(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in
        tree.rust().filter(|(path, _)| *path != MANIFEST_STORE && !is_test(path) && !path.starts_with("xtask/"))
    {
        let text = without_tests(text);
        let code = lexer::code(text);
        // The name as a whole literal, or the constant that holds it.
        let named =
            text.contains(concat!("\"manifest", ".yaml\"")) || !lines_with_word("", &code, "MANIFEST", "").is_empty();
        if named {
            for how in TOUCHES {
                let why = format!("names the manifest and uses `{how}`: only {MANIFEST_STORE} opens it");
                findings.extend(lines_with(path, &code, how, &why));
            }
        }
    }
    if !tree.files.contains_key(MANIFEST_STORE) {
        findings.push(Finding::new(MANIFEST_STORE, "is gone: say in xtask which module writes the manifest"));
    }
    findings
}

/// The module in which the core's tests see each sync and each rename.
const DURABLE: &str = "src/durable.rs";

/// Calls that make something durable without that module.
const UNSEEN: [&str; 6] = [".sync_all", ".sync_data", "fs::fsync", "fs::fdatasync", "fs::rename", "fs::syncfs"];

pub(crate) fn syncs_recorded(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| path.starts_with("src/") && *path != DURABLE && !is_test(path)) {
        let code = lexer::code(without_tests(text));
        for call in UNSEEN {
            findings.extend(lines_with(path, &code, call, &format!("`{call}` belongs in {DURABLE}")));
        }
    }
    findings
}

/// The threats that this stage answers (issue 2).
const THREATS: [u8; 19] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21];

pub(crate) fn threats_tested(tree: &Tree) -> Vec<Finding> {
    let code: Vec<String> = tree.code().map(|(_, code)| code).collect();
    let untested = |threat: u8| {
        let start = format!("fn t{threat:02}_");
        (!code.iter().any(|code| code.contains(&start)))
            .then(|| Finding::new("tests", format!("no test is called `{start}...`: threat {threat} is untested")))
    };
    THREATS.into_iter().filter_map(untested).collect()
}

/// Where secrets are compared with what somebody sent.
const COMPARED: [&str; 2] = ["crates/server/src/auth.rs", "crates/server/src/oci/access.rs"];

/// How long a comparison takes must not say how much of a secret was right; no test can see that.
pub(crate) fn secrets_compared_in_constant_time(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in COMPARED {
        let code = tree.files.get(path).map(|text| lexer::code(without_tests(text))).unwrap_or_default();
        if !code.contains("constant_time_eq(") {
            findings.push(Finding::new(path, "compares secrets without `constant_time_eq`"));
        }
        for operator in ["secret ==", "token ==", "presented ==", "== secret", "== token", "== presented"] {
            findings.extend(lines_with(
                path,
                &code,
                operator,
                &format!("`{operator}` tells by its time how much is right"),
            ));
        }
    }
    findings
}

const OFF: [&str; 9] = ["no", "skip", "disable", "bypass", "without", "ignore", "insecure", "unsafe", "allow_bad"];
const CHECK: [&str; 8] = ["verif", "check", "hash", "integrity", "digest", "audit", "tree", "sha256"];

pub(crate) fn verification_stays_on(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &tree.files {
        let looked_at = [".rs", ".toml", ".sh", ".service", "run"].iter().any(|end| path.ends_with(end));
        // cargo-deny is told here what to skip, by its own words.
        if !looked_at || path.starts_with("xtask/") || path == "deny.toml" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = switch(line) {
                findings.push(Finding::at(
                    path,
                    number + 1,
                    format!("`{word}` sounds like a switch that turns a check off"),
                ));
            }
        }
    }
    findings
}

/// A word of `line` such as `skip_verify` or `NO-HASH`.
fn switch(line: &str) -> Option<String> {
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
    words.map(|word| word.trim_matches(['-', '_'])).find_map(|word| {
        let folded = word.to_ascii_lowercase().replace('-', "_");
        let bad = OFF.iter().any(|off| {
            CHECK.iter().any(|check| {
                let joined = format!("{off}_{check}");
                folded.starts_with(&joined) || folded.contains(&format!("_{joined}"))
            })
        });
        // A test or a function is named after a promise; a switch is short.
        (bad && folded.split('_').count() <= 4).then(|| word.to_owned())
    })
}

/// Whether `path` holds tests only.
fn is_test(path: &str) -> bool {
    ["tests", "benches", "fuzz"].iter().any(|folder| path.split('/').any(|part| part == *folder))
        || path.ends_with("/tests.rs")
}

/// `text` up to its unit tests, which stand last.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |end| &text[..end])
}

fn lines_with(path: &str, text: &str, what: &str, why: &str) -> Vec<Finding> {
    let hits = text.lines().enumerate().filter(|(_, line)| line.contains(what));
    hits.map(|(number, _)| Finding::at(path, number + 1, why)).collect()
}

fn lines_with_word(path: &str, code: &str, word: &str, why: &str) -> Vec<Finding> {
    let has_word = |line: &str| line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == word);
    let hits = code.lines().enumerate().filter(|(_, line)| has_word(line));
    hits.map(|(number, _)| Finding::at(path, number + 1, why)).collect()
}
