//! The names of an archive's members.
//!
//! Owns: judging them, each and against each other. Promises: names that pass lead to distinct files below one folder on
//! every system. Leaves out: which names a PyTorch archive has.

use super::header::Central;
use super::{DUPLICATE, NAME, Out};
use crate::digest::shorten;
use crate::format::finding::Place;
use std::collections::HashMap;

/// Bytes of a name.
const MAX_NAME: usize = 512;
/// Components of a name.
const MAX_DEPTH: usize = 16;

pub(super) fn check(entries: &[Central], out: &mut Out<'_>) {
    // Folded to lower case: Windows, macOS, and PyTorch's own reader (miniz) do not tell cases apart.
    let mut seen: HashMap<String, &str> = HashMap::new();
    for entry in entries {
        let place = || Place::part(&entry.name);
        if let Some(why) = defect(&entry.raw_name) {
            out.add(&NAME, place(), format!("{:?} {why}", shorten(&entry.name)));
            if entry.raw_name.len() > MAX_NAME {
                continue;
            }
        }
        let folded = entry.name.trim_end_matches('/').to_lowercase();
        if let Some(other) = seen.insert(folded, &entry.name) {
            let why = match other == entry.name {
                true => format!("{:?} stands twice: the first or the last is loaded, by the reader", shorten(other)),
                false => format!("{:?} and {:?} are one name to some readers", shorten(other), shorten(&entry.name)),
            };
            out.add(&DUPLICATE, place(), why);
        }
    }
    for entry in entries.iter().filter(|e| e.raw_name.len() <= MAX_NAME) {
        let folded = entry.name.trim_end_matches('/').to_lowercase();
        let above = folded.match_indices('/').take(MAX_DEPTH).filter_map(|(at, _)| seen.get(&folded[..at]));
        if let Some(file) = above.into_iter().find(|name| !name.ends_with('/')) {
            let why = format!("{:?} is a file, and {:?} would be in it", shorten(file), shorten(&entry.name));
            out.add(&DUPLICATE, Place::part(&entry.name), why);
        }
    }
}

/// What is wrong with a name.
fn defect(raw: &[u8]) -> Option<&'static str> {
    let Ok(name) = std::str::from_utf8(raw) else {
        return Some("is not UTF-8: readers spell it differently");
    };
    let components = || name.strip_suffix('/').unwrap_or(name).split('/');
    if name.is_empty() {
        Some("is no name")
    } else if name.starts_with('/') {
        Some("is an absolute path: unpacked, it is written outside the folder")
    } else if name.contains('\\') || name.contains(':') {
        Some("has a backslash or a drive letter: on Windows, it is written outside the folder")
    } else if components().any(|c| c == "..") {
        Some("leaves the folder by ..: unpacked, it is written elsewhere")
    } else if components().any(|c| c.is_empty() || c == "." || c.ends_with('.') || c.ends_with(' ')) {
        Some("has an empty component, or one that systems spell differently")
    } else if name.chars().any(is_unprintable) {
        Some("has control or direction characters")
    } else if name.len() > MAX_NAME || components().count() > MAX_DEPTH {
        Some("is longer or deeper than any model's")
    } else {
        None
    }
}

/// Control characters, and those that turn text round or cannot be seen.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
