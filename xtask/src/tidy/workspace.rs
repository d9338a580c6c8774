//! Rules about packages.
//!
//! Owns: who may depend on whom. Promises: looks at what cargo resolved with every feature on, not at what a manifest seems
//! to say. Leaves out: licences and duplicates (deny.toml).

use super::{Finding, Tree};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What each package of the workspace may depend on, of the workspace's own.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("securereg", &[]),
    ("securereg-oci", &[]),
    ("securereg-fusefs", &["securereg"]),
    ("securereg-layers", &["securereg", "securereg-oci"]),
    ("securereg-remote", &["securereg", "securereg-oci", "securereg-layers"]),
    ("securereg-server", &["securereg", "securereg-oci", "securereg-layers"]),
    ("securereg-sandbox", &[]),
    ("securereg-cli", &["securereg", "securereg-fusefs", "securereg-remote", "securereg-sandbox", "securereg-server"]),
    ("securereg-registry-bench", &[]),
    ("securereg-crash-check", &["securereg"]),
    ("xtask", &[]),
];

/// What an engine that embeds the library must never get with it.
const NEVER_IN_CORE: [&str; 16] = [
    "async-std",
    "axum",
    "curl",
    "fuse3",
    "fuser",
    "futures",
    "h2",
    "hyper",
    "hyper-util",
    "isahc",
    "object_store",
    "reqwest",
    "smol",
    "tokio",
    "tower",
    "ureq",
];

pub(crate) fn core_links_no_runtime(tree: &Tree) -> Vec<Finding> {
    let graph = Graph::new(&tree.metadata);
    let Some(core) = graph.members.iter().find(|id| graph.name(id) == "securereg") else {
        return vec![Finding::new("Cargo.toml", "the workspace has no package `securereg`: nothing was checked")];
    };
    let mut seen = BTreeSet::from([*core]);
    let mut open = vec![*core];
    while let Some(id) = open.pop() {
        open.extend(graph.uses(id).filter(|next| seen.insert(next)));
    }
    let bad = seen.iter().map(|id| graph.name(id)).filter(|name| NEVER_IN_CORE.contains(name));
    bad.map(|name| {
        Finding::new("Cargo.toml", format!("the core links {name}; `cargo tree -p securereg -i {name}` shows how"))
    })
    .collect()
}

pub(crate) fn dependency_direction(tree: &Tree) -> Vec<Finding> {
    let graph = Graph::new(&tree.metadata);
    let mut findings = Vec::new();
    for id in &graph.members {
        let name = graph.name(id);
        let Some((_, allowed)) = MAY_USE.iter().find(|(member, _)| *member == name) else {
            findings.push(Finding::new("Cargo.toml", format!("{name} is new: say in xtask what it may depend on")));
            continue;
        };
        for used in graph.uses(id).filter(|used| graph.members.contains(used)).map(|used| graph.name(used)) {
            if !allowed.contains(&used) {
                findings.push(Finding::new("Cargo.toml", format!("{name} depends on {used}, against the direction")));
            }
        }
    }
    if graph.members.is_empty() {
        findings.push(Finding::new("Cargo.toml", "cargo names no members: nothing was checked"));
    }
    findings
}

/// Packages that link what nothing else here does, each a workspace of its own.
const OWN_WORKSPACES: [&str; 2] = ["fuzz/", "tests/clients/oci-client/"];

pub(crate) fn lints_inherited(tree: &Tree) -> Vec<Finding> {
    let manifests = tree.files.iter().filter(|(path, _)| path.rsplit('/').next() == Some("Cargo.toml"));
    let bare = |(path, text): (&String, &String)| {
        let takes = text.contains("[lints]\nworkspace = true");
        (text.contains("[package]") && !takes && !OWN_WORKSPACES.iter().any(|folder| path.starts_with(folder)))
            .then(|| Finding::new(path, "lacks `[lints] workspace = true`"))
    };
    manifests.filter_map(bare).collect()
}

/// What cargo resolved.
struct Graph<'a> {
    names: BTreeMap<&'a str, &'a str>,
    members: Vec<&'a str>,
    edges: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Graph<'a> {
    fn new(metadata: &'a Value) -> Graph<'a> {
        let list = |value: &'a Value| value.as_array().into_iter().flatten();
        let names =
            list(&metadata["packages"]).filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?))).collect();
        let members = list(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
        let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(id) = node["id"].as_str() else { continue };
            for dep in list(&node["deps"]) {
                // Kind null is an ordinary dependency; "dev" and "build" are not linked into the product.
                let linked = list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null());
                if let (true, Some(to)) = (linked, dep["pkg"].as_str()) {
                    edges.entry(id).or_default().push(to);
                }
            }
        }
        Graph { names, members, edges }
    }

    fn name(&self, id: &str) -> &'a str {
        self.names.get(id).copied().unwrap_or_default()
    }

    fn uses(&self, id: &str) -> impl Iterator<Item = &'a str> {
        self.edges.get(id).into_iter().flatten().copied()
    }
}
