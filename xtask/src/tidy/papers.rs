//! Rules about documents, and about what no file may say.
//!
//! Owns: README, ARCHITECTURE, CHANGELOG, links, places and hosts. Promises: looks at every text file that git would commit.
//! Leaves out: whether a document is any good.

use super::{Finding, RULES, Tree};

/// Folders of the machines that this is written on.
const MACHINE: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

pub(crate) fn no_machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, number, line) in lines(tree) {
        for place in MACHINE {
            // `<root>/x`, `a/root/b` and a URL's path are no absolute paths.
            let absolute = line
                .match_indices(place)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/>}$~)".contains(c)));
            if absolute {
                findings.push(Finding::at(path, number, format!("names {place}, which is this machine's")));
            }
        }
    }
    findings
}

const HOSTS: [&str; 10] = [
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("registry.", "npmjs"),
    concat!("proxy.", "golang.org"),
    concat!("sum.", "golang.org"),
    concat!("maven.", "org"),
    concat!("maven.", "apache.org"),
    concat!("deb.", "debian.org"),
];

pub(crate) fn no_registry_hosts(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    // cargo writes its lock file, and names its own index there.
    for (path, number, line) in lines(tree).filter(|(path, ..)| !path.ends_with(".lock")) {
        for host in HOSTS.iter().filter(|host| line.contains(**host)) {
            findings.push(Finding::at(
                path,
                number,
                format!("names the host {host}: say which package, not from where"),
            ));
        }
    }
    findings
}

pub(crate) fn present(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for paper in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/cli.md"] {
        if tree.files.get(paper).is_none_or(|text| text.trim().is_empty()) {
            findings.push(Finding::new(paper, "is missing or empty"));
        }
    }
    let architecture = tree.files.get("ARCHITECTURE.md").map(String::as_str).unwrap_or_default();
    for (number, line) in architecture.lines().enumerate() {
        for cited in line.split("tidy: ").skip(1) {
            let name: String = cited.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if !RULES.iter().any(|rule| rule.name == name) {
                let what = format!("cites the rule `{name}`, which `cargo xtask tidy --list` does not name");
                findings.push(Finding::at("ARCHITECTURE.md", number + 1, what));
            }
        }
    }
    findings
}

/// README's two commands, each a line of its own in a fenced block.
const COMMANDS: [&str; 2] = ["cargo run --release -- up --demo", "cargo test --workspace"];

pub(crate) fn readme_commands_run(tree: &Tree) -> Vec<Finding> {
    let text = |path: &str| tree.files.get(path).map(String::as_str).unwrap_or_default();
    let (readme, ci) = (text("README.md"), text(".ci/run"));
    let mut findings = Vec::new();
    for command in COMMANDS {
        if !readme.lines().any(|line| line == command) {
            findings.push(Finding::new("README.md", format!("has no line `{command}`")));
        }
        let runs = ci.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(command));
        if !runs {
            findings.push(Finding::new(".ci/run", format!("does not run `{command}` as README gives it")));
        }
    }
    findings
}

pub(crate) fn links_resolve(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with(".md")) {
        let mut fenced = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            for target in targets(line).filter(|_| !fenced) {
                if !resolves(tree, path, target) {
                    findings.push(Finding::at(path, number + 1, format!("links to {target}, which is not there")));
                }
            }
        }
    }
    findings
}

/// The targets of `[text](target)` and `[label]: target` in `line`, without their fragments.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let label = line.starts_with('[').then(|| line.split_once("]: ")).flatten();
    let defined = label.and_then(|(_, rest)| rest.split(' ').next());
    inline.chain(defined).map(|target| target.split('#').next().unwrap_or_default()).filter(|target| !target.is_empty())
}

fn resolves(tree: &Tree, from: &str, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            // Out of the repository: nobody else has what lies there.
            ".." if parts.pop().is_none() => return false,
            ".." => {}
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let below = format!("{path}/");
    tree.paths.iter().any(|known| *known == path || known.starts_with(&below))
}

fn lines(tree: &Tree) -> impl Iterator<Item = (&str, usize, &str)> {
    tree.files
        .iter()
        .flat_map(|(path, text)| text.lines().enumerate().map(move |(n, line)| (path.as_str(), n + 1, line)))
}
