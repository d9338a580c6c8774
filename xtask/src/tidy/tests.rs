//! Every rule fires on a tree that breaks it, and no rule on a tree that breaks none.
//!
//! Owns: the fixtures. Promises: a rule without a fixture fails the test, so a rule that never fires cannot be added. Leaves
//! out: the workspace itself, which `cargo xtask tidy` checks.

use super::{Finding, RULES, Tree, lexer};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn tree(files: &[(&str, &str)], metadata: Value) -> Tree {
    let files: BTreeMap<String, String> = files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect();
    Tree { paths: files.keys().cloned().collect(), files, metadata }
}

/// Metadata of packages with `(package, what it uses, by which kind)`; all but `tokio` are members.
fn metadata(edges: &[(&str, &str, Option<&str>)]) -> Value {
    let mut names: Vec<&str> = edges.iter().flat_map(|(from, to, _)| [*from, *to]).chain(["securereg"]).collect();
    names.sort_unstable();
    names.dedup();
    let nodes = names.iter().map(|name| {
        let deps = edges.iter().filter(|edge| edge.0 == *name);
        let deps: Vec<Value> = deps.map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]})).collect();
        json!({"id": name, "deps": deps})
    });
    json!({
        "packages": names.iter().map(|n| json!({"id": n, "name": n})).collect::<Vec<_>>(),
        "workspace_members": names.iter().filter(|n| !["tokio", "between"].contains(*n)).collect::<Vec<_>>(),
        "resolve": {"nodes": nodes.collect::<Vec<_>>()},
    })
}

const THREATS: &str = "//! Threats.
fn t01_a() {} fn t02_a() {} fn t03_a() {} fn t04_a() {} fn t05_a() {} fn t06_a() {} fn t07_a() {} fn t08_a() {}
fn t10_a() {} fn t11_a() {} fn t12_a() {} fn t13_a() {} fn t14_a() {} fn t15_a() {} fn t17_a() {}
fn t18_a() {} fn t19_a() {} fn t20_a() {} fn t21_a() {}
";

/// A small workspace that breaks nothing.
fn sound() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "README.md",
            "See [how](docs/cli.md#exit) and [a](https://example.invalid/x).\n```\ncargo run --release -- up --demo\ncargo test --workspace\n[x](gone.md)\n```\n",
        ),
        ("ARCHITECTURE.md", "Invariant (tidy: unsafe-confined): so.\n"),
        ("CHANGELOG.md", "New.\n"),
        ("docs/cli.md", "[back](../README.md) and [all](../docs/)\n"),
        (".ci/run", "#!/bin/bash\ncargo run --release -- up --demo\ncargo test --workspace\n"),
        ("Cargo.toml", "[package]\nname = \"securereg\"\n[lints]\nworkspace = true\n"),
        ("src/sys/mod.rs", "//! Calls.\nfn f() { unsafe { g() } }\n"),
        ("src/durable.rs", "//! Syncs.\nfn f() { file.sync_all() }\n"),
        ("src/catalog/store.rs", "//! The writer.\nconst NAME: &str = \"manifest.yaml\";\n"),
        (
            "src/lib.rs",
            "#![forbid(unsafe_code)]\n//! It. No unsafe, no todo!.\nfn h() { say(\"unsafe todo!() dbg!\") }\n\n#[cfg(test)]\nmod tests { const M: &str = \"manifest.yaml\"; }\n",
        ),
        ("tests/threats.rs", THREATS),
        ("crates/server/src/auth.rs", "//! A.\nfn f() { constant_time_eq(a, b) }\n"),
        ("crates/server/src/oci/access.rs", "//! A.\nfn f() { x::constant_time_eq(a, b) }\n"),
    ]
}

fn findings(rule: &str, tree: &Tree) -> Vec<Finding> {
    let rule = RULES.iter().find(|r| r.name == rule).expect("a rule of that name");
    (rule.check)(tree)
}

#[test]
fn a_sound_tree_breaks_no_rule() {
    let tree = tree(&sound(), metadata(&[("securereg-cli", "securereg", None), ("securereg", "tokio", Some("dev"))]));
    for rule in &RULES {
        let findings = (rule.check)(&tree);
        assert!(findings.is_empty(), "{}: {findings:?}", rule.name);
    }
}

/// A rule, and files that break it (laid over the sound tree; no text removes a file).
type Broken = (&'static str, Vec<(&'static str, Option<String>)>);

fn broken() -> Vec<Broken> {
    let one = |path: &'static str, text: &str| vec![(path, Some(text.to_owned()))];
    vec![
        ("lints-inherited", one("crates/cli/Cargo.toml", "[package]\nname = \"x\"\n")),
        ("unsafe-confined", one("fusefs/src/a.rs", "//! A.\nfn f() { unsafe { g() } }\n")),
        ("unsafe-confined", one("crates/cli/tests/a.rs", "//! A.\nunsafe impl Send for X {}\n")),
        ("short-files", one("src/long.rs", &format!("//! L.\n{}", "fn f() {}\n".repeat(600)))),
        ("module-docs", one("src/a.rs", "use x;\n//! Late.\n")),
        ("module-docs", one("tests/a.rs", "")),
        ("nothing-unfinished", one("src/a.rs", "//! A.\nfn f() { todo!() }\n")),
        ("nothing-unfinished", one("src/a.rs", "//! A.\nfn f() { unimplemented!(\"x\") }\n")),
        ("nothing-unfinished", one("src/a.rs", "//! A.\nfn f() { dbg!(1); }\n")),
        ("nothing-unfinished", one("tests/a.rs", "//! A.\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n")),
        ("one-manifest-writer", one("src/a.rs", "//! A.\nfn f() { std::fs::write(\"manifest.yaml\", x) }\n")),
        ("one-manifest-writer", one("src/b.rs", "//! B.\nfn f() { layout.write_durably(store::MANIFEST, x) }\n")),
        ("one-manifest-writer", vec![("src/catalog/store.rs", None)]),
        ("syncs-recorded", one("src/a.rs", "//! A.\nfn f() { file.sync_all() }\n")),
        ("syncs-recorded", one("src/a.rs", "//! A.\nfn f() { rustix::fs::renameat(a, b, c, d) }\n")),
        ("threats-tested", one("tests/threats.rs", &THREATS.replace("fn t17_a", "fn other"))),
        // Named in a comment only: no test.
        ("threats-tested", one("tests/threats.rs", &THREATS.replace("fn t10_a() {}", "// fn t10_a() {}"))),
        ("secrets-compared", one("crates/server/src/auth.rs", "//! A. constant_time_eq()\nfn f() { a.eq(b) }\n")),
        (
            "secrets-compared",
            one("crates/server/src/oci/access.rs", "//! A.\nfn f() { constant_time_eq(a, b) || known.secret == b }\n"),
        ),
        ("secrets-compared", vec![("crates/server/src/auth.rs", None)]),
        ("verification-stays-on", one("src/a.rs", "//! A.\nconst E: &str = \"SECUREREG_SKIP_VERIFY\";\n")),
        ("verification-stays-on", one("fusefs/Cargo.toml", "[features]\nno-checksums = []\nno_integrity = []\n")),
        ("verification-stays-on", one("src/a.rs", "//! A.\n#[arg(long = \"disable-hash-check\")]\n")),
        ("no-machine-paths", one("docs/a.md", concat!("run /wo", "rk/main/x\n"))),
        ("no-machine-paths", one("src/a.rs", concat!("//! A.\nconst P: &str = \"/ro", "ot/x\";\n"))),
        ("no-registry-hosts", one("docs/a.md", concat!("from py", "pi.org\n"))),
        ("papers-present", vec![("CHANGELOG.md", None)]),
        ("papers-present", one("README.md", "\n")),
        ("papers-present", one("ARCHITECTURE.md", "Invariant (tidy: no-such-rule): so.\n")),
        ("readme-commands-run", one("README.md", "cargo test\ncargo run --release -- up --demo\n")),
        (
            "readme-commands-run",
            one(".ci/run", "cargo test\n# cargo test --workspace\ncargo run --release -- up --demo\n"),
        ),
        ("links-resolve", one("docs/a.md", "see [b](b.md)\n")),
        ("links-resolve", one("docs/a.md", "[b]: ../../outside.md\n")),
    ]
}

#[test]
fn each_rule_over_files_fires_on_what_breaks_it() {
    for (rule, over) in broken() {
        let mut files: BTreeMap<&str, String> = sound().into_iter().map(|(p, t)| (p, t.to_owned())).collect();
        for (path, text) in over.clone() {
            match text {
                Some(text) => files.insert(path, text),
                None => files.remove(path),
            };
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (*p, t.as_str())).collect();
        let found = findings(rule, &tree(&files, metadata(&[])));
        assert!(!found.is_empty(), "{rule} says nothing of {over:?}");
    }
}

#[test]
fn each_rule_over_packages_fires_on_what_breaks_it() {
    type Edge = (&'static str, &'static str, Option<&'static str>);
    let cases: [(&str, &[Edge]); 6] = [
        ("core-links-no-runtime", &[("securereg", "tokio", None)]),
        // Not only what the manifest of the core names.
        ("core-links-no-runtime", &[("securereg", "between", None), ("between", "tokio", None)]),
        ("dependency-direction", &[("securereg", "securereg-server", None)]),
        ("dependency-direction", &[("securereg-fusefs", "securereg-server", None)]),
        ("dependency-direction", &[("securereg-new", "securereg", None)]),
        ("dependency-direction", &[("xtask", "securereg", None)]),
    ];
    for (rule, edges) in cases {
        assert!(!findings(rule, &tree(&sound(), metadata(edges))).is_empty(), "{rule} says nothing of {edges:?}");
    }
    for rule in ["core-links-no-runtime", "dependency-direction"] {
        assert!(!findings(rule, &tree(&sound(), json!({}))).is_empty(), "{rule} passes where cargo said nothing");
    }
}

#[test]
fn no_rule_is_without_a_fixture() {
    let over_packages = ["core-links-no-runtime", "dependency-direction"];
    for rule in &RULES {
        let has = over_packages.contains(&rule.name) || broken().iter().any(|(name, _)| *name == rule.name);
        assert!(has, "{} has no fixture that breaks it", rule.name);
    }
}

#[test]
fn a_finding_names_the_line() {
    let files = [("src/a.rs", "//! A.\n\nfn f() { unsafe { g() } }\n")];
    let found = findings("unsafe-confined", &tree(&files, json!({})));
    assert_eq!(found.iter().map(|f| f.place.as_str()).collect::<Vec<_>>(), ["src/a.rs:3"]);
    assert_eq!(lexer::code("a // b").trim_end(), "a");
}
