//! How a source's files lie: their names, links and modes.
//!
//! Owns: [`check_source`], a pure function over what `source` saw. Promises: a name that is hidden, that hides what it is, or
//! that means two files on two file systems has a finding; so has a file that is reachable under another name. Leaves out:
//! looking (`source`), and which names can be promoted at all (`name`).

use super::super::finding::{Findings, Place, Rule};
use super::super::safetensors::is_hostile;
use super::{
    CASE, DEEP, DOUBLE_EXTENSION, HARD_LINK, HIDDEN, HOSTILE_NAME, ODD_NAME, OUTSIDE, RUNNABLE, SET_ID, SPECIAL,
    WRITABLE,
};
use crate::digest::shorten;
use crate::format::recognise::is_code_name;
use crate::name::{MAX_DEPTH, RelPath};
use std::collections::{HashMap, HashSet};

/// A file or a folder of the source, as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path below the source, `/` between components, whatever they hold.
    pub(crate) path: String,
    /// Whether it, or a folder on the way, is hidden.
    pub(crate) hidden: bool,
    /// How many names it has.
    pub(crate) nlink: u64,
    /// `st_mode`, with the kind of file; without a kind it is a file.
    pub(crate) mode: u32,
}

// st_mode (inode(7)).
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// Holds names and modes against what is safe everywhere.
pub(crate) fn check_source(entries: &[Entry], findings: &mut Findings) {
    // Each name on the way to each entry, by its folded form.
    let mut folded: HashMap<String, &str> = HashMap::new();
    let mut told: HashSet<&str> = HashSet::new();
    for entry in entries {
        let path = entry.path.as_str();
        name(entry, findings);
        mode(entry, findings);
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]).take(MAX_DEPTH + 1) {
            let way = &path[..end];
            let other = *folded.entry(way.to_lowercase()).or_insert(way);
            if other != way && told.insert(way) {
                let (one, two) = (shorten(other), shorten(way));
                add(
                    entry,
                    &CASE,
                    format!("{one:?} and {two:?} differ only by case: on some file systems they are one"),
                    findings,
                );
            }
        }
    }
}

fn add(entry: &Entry, rule: &'static Rule, message: String, findings: &mut Findings) {
    findings.add(&filed_under(&entry.path), rule, Place::part(&entry.path), message);
}

/// The path, where the registry can name it; else as much of it as it can.
fn filed_under(path: &str) -> RelPath {
    if let Ok(path) = path.parse() {
        return path;
    }
    let mut known: Option<RelPath> = None;
    for (end, _) in path.match_indices('/').take(MAX_DEPTH) {
        match path[..end].parse() {
            Ok(longer) => known = Some(longer),
            Err(_) => break,
        }
    }
    known.unwrap_or_else(|| "folder".parse().expect("a plain word is a path"))
}

/// What every download from a hub holds; it is left out, and is nothing to wonder at.
fn is_usual(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let before = path.len() - name.len();
    let in_sight = !path[..before].split('/').any(|c| c.starts_with('.'));
    let cache = [".cache", ".cache/huggingface"].contains(&path) || path.starts_with(".cache/huggingface/");
    (in_sight && [".gitattributes", ".gitignore", ".gitkeep", ".DS_Store"].contains(&name)) || cache
}

fn name(entry: &Entry, findings: &mut Findings) {
    let path = entry.path.as_str();
    let shown = shorten(path);
    let hidden = entry.hidden || path.split('/').any(|c| c.starts_with('.') && c != "." && c != "..");
    if hidden && !is_usual(path) {
        add(
            entry,
            &HIDDEN,
            format!("{shown:?} is hidden: it would not be promoted, and nobody sees it in the folder"),
            findings,
        );
    }
    if path.starts_with('/') || path.split('/').any(|c| matches!(c, "" | "." | "..")) {
        add(entry, &OUTSIDE, format!("{shown:?} is no path below the folder"), findings);
    }
    if path.split('/').count() > MAX_DEPTH {
        add(entry, &DEEP, format!("{shown:?} is more than {MAX_DEPTH} folders deep"), findings);
    }
    if path.chars().any(is_hostile) {
        add(entry, &HOSTILE_NAME, format!("{shown:?} has control or direction characters in its name"), findings);
    }
    let odd =
        path.split('/').any(|c| c.ends_with(['.', ' ']) && c != "." && c != ".." || c.starts_with(' ') || is_device(c));
    if odd || path.contains(['\\', ':', '*', '?', '"', '<', '>', '|']) {
        add(
            entry,
            &ODD_NAME,
            format!("{shown:?} is a name that Windows cannot hold or takes for something else"),
            findings,
        );
    }
    let file = path.rsplit('/').next().unwrap_or(path);
    let looks_like = file.rsplit_once('.').is_some_and(|(stem, _)| is_model_like(stem.trim_end()));
    if is_code_name(file) && looks_like {
        add(
            entry,
            &DOUBLE_EXTENSION,
            format!("{shown:?} is a program: where extensions are not shown it looks like a model's file"),
            findings,
        );
    }
}

/// Whether a name without its last extension still has one that a model's files have.
fn is_model_like(stem: &str) -> bool {
    const EXTENSIONS: [&str; 16] = [
        "gguf",
        "ggml",
        "safetensors",
        "bin",
        "pt",
        "pth",
        "ckpt",
        "onnx",
        "h5",
        "keras",
        "json",
        "txt",
        "md",
        "yaml",
        "model",
        "png",
    ];
    stem.rsplit_once('.').is_some_and(|(_, e)| EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()))
}

/// Names that Windows takes for devices, with any extension (Microsoft, "Naming Files, Paths, and Namespaces").
fn is_device(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or(component).trim_end().to_ascii_uppercase();
    let numbered =
        |name: &str| stem.strip_prefix(name).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
}

fn mode(entry: &Entry, findings: &mut Findings) {
    let shown = shorten(&entry.path);
    match entry.mode & KIND {
        FOLDER => return,
        FILE | 0 => {}
        kind => {
            add(entry, &SPECIAL, format!("{shown:?} is neither a file nor a folder (its kind is {kind:#o})"), findings);
            return;
        }
    }
    let links = entry.nlink;
    if links > 1 {
        let message = format!("{shown:?} has {links} names: it can be changed, or belongs to somebody, under another");
        add(entry, &HARD_LINK, message, findings);
    }
    if entry.mode & 0o6000 != 0 {
        add(entry, &SET_ID, format!("{shown:?} is marked to run with its owner's or its group's rights"), findings);
    }
    if entry.mode & 0o111 != 0 {
        add(entry, &RUNNABLE, format!("{shown:?} is marked as a program"), findings);
    }
    if entry.mode & 0o002 != 0 {
        add(entry, &WRITABLE, format!("{shown:?} can be changed by everybody on its machine"), findings);
    }
}
