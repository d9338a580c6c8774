//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md, tested.
//!
//! Owns: the table of rules, and running them over the files that git would commit. Promises: each rule has a fixture that
//! breaks it and a test that the rule fires on it. Leaves out: the rules (`code`, `papers`, `workspace`).

mod code;
mod lexer;
mod papers;
mod workspace;

#[cfg(test)]
mod tests;

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

/// What a rule looks at.
pub(crate) struct Tree {
    /// Every file that is text, by its path from the workspace's root.
    files: BTreeMap<String, String>,
    /// Every path, also of files that are not text.
    paths: Vec<String>,
    /// `cargo metadata`.
    metadata: Value,
}

/// Where and how a rule is broken.
#[derive(Debug)]
pub(crate) struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding { place: place.into(), what: what.into() }
    }

    fn at(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding::new(format!("{path}:{line}"), what)
    }
}

/// A rule: its name, the invariant it tests, and the test.
struct Rule {
    name: &'static str,
    invariant: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

const RULES: [Rule; 17] = [
    Rule {
        name: "core-links-no-runtime",
        invariant: "the core never links an async runtime, an HTTP stack or FUSE",
        check: workspace::core_links_no_runtime,
    },
    Rule {
        name: "dependency-direction",
        invariant: "the workspace's crates depend on each other in the listed direction only",
        check: workspace::dependency_direction,
    },
    Rule {
        name: "lints-inherited",
        invariant: "every crate takes the workspace's lints",
        check: workspace::lints_inherited,
    },
    Rule {
        name: "unsafe-confined",
        invariant: "`unsafe` stands in src/sys, src/ffi and the mount tests' support module only",
        check: code::unsafe_confined,
    },
    Rule {
        name: "short-files",
        invariant: "no source file has over 600 lines, its tests apart",
        check: code::short_files,
    },
    Rule { name: "module-docs", invariant: "every source file begins with what it is", check: code::module_docs },
    Rule {
        name: "nothing-unfinished",
        invariant: "no unfinished code, debug print or ignored test",
        check: code::nothing_unfinished,
    },
    Rule {
        name: "one-manifest-writer",
        invariant: "the manifest is read and written in one module",
        check: code::one_manifest_writer,
    },
    Rule {
        name: "syncs-recorded",
        invariant: "the core syncs and renames in one module, where its tests see the order",
        check: code::syncs_recorded,
    },
    Rule {
        name: "threats-tested",
        invariant: "each threat of this stage has a test named after it",
        check: code::threats_tested,
    },
    Rule {
        name: "secrets-compared",
        invariant: "secrets are compared in constant time",
        check: code::secrets_compared_in_constant_time,
    },
    Rule {
        name: "verification-stays-on",
        invariant: "no flag, feature or environment variable turns verification off",
        check: code::verification_stays_on,
    },
    Rule {
        name: "no-machine-paths",
        invariant: "no file names a path of one machine",
        check: papers::no_machine_paths,
    },
    Rule {
        name: "no-registry-hosts",
        invariant: "no file names a package registry's host",
        check: papers::no_registry_hosts,
    },
    Rule {
        name: "papers-present",
        invariant: "README, ARCHITECTURE and CHANGELOG exist and cite only rules that exist",
        check: papers::present,
    },
    Rule {
        name: "readme-commands-run",
        invariant: "CI runs README's commands as README gives them",
        check: papers::readme_commands_run,
    },
    Rule {
        name: "links-resolve",
        invariant: "relative links in documents lead somewhere",
        check: papers::links_resolve,
    },
];

/// Runs every rule over the workspace.
pub(crate) fn run() -> ExitCode {
    let tree = match Tree::read() {
        Ok(tree) => tree,
        Err(why) => {
            eprintln!("tidy: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut broken = 0;
    for rule in RULES {
        let findings = (rule.check)(&tree);
        for finding in &findings {
            eprintln!("{}: {} [{}: {}]", finding.place, finding.what, rule.name, rule.invariant);
        }
        broken += usize::from(!findings.is_empty());
    }
    println!("tidy: {} files, {} rules, {} broken", tree.paths.len(), RULES.len(), broken);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Names the rules.
pub(crate) fn list() -> ExitCode {
    for rule in RULES {
        println!("{:24} {}", rule.name, rule.invariant);
    }
    ExitCode::SUCCESS
}

impl Tree {
    fn read() -> Result<Tree, String> {
        let root = crate::root();
        // Also files not added yet, so that the answer before `git add` is the answer after it.
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let list = output(git.current_dir(&root))?;
        let paths: Vec<String> =
            list.split('\0').filter(|p| !p.is_empty() && root.join(p).is_file()).map(str::to_owned).collect();
        if paths.is_empty() {
            return Err("git lists no files: nothing was checked".into());
        }
        let mut files = BTreeMap::new();
        for path in &paths {
            let bytes = std::fs::read(root.join(path)).map_err(|e| format!("cannot read {path}: {e}"))?;
            if let Ok(text) = String::from_utf8(bytes)
                && !text.contains('\0')
            {
                files.insert(path.clone(), text);
            }
        }
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
        let metadata = output(cargo.current_dir(&root))?;
        let metadata = serde_json::from_str(&metadata).map_err(|e| format!("cannot read cargo metadata: {e}"))?;
        Ok(Tree { files, paths, metadata })
    }

    /// The Rust files with their code: comments and the insides of strings blanked.
    fn code(&self) -> impl Iterator<Item = (&str, String)> {
        self.rust().map(|(path, text)| (path, lexer::code(text)))
    }

    /// The Rust files as they are.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("cannot run {name}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} printed something that is not text"))
}
