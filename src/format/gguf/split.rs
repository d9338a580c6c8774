//! Models in several GGUF files.
//!
//! Owns: `split.*` against the file's name, and a set of shards as a whole. Promises: a set that passes is one that llama.cpp
//! (llama-model-loader.cpp) loads whole, by the names it makes up itself. Leaves out: which files make a set: it takes all of one
//! folder, and sorts them by the name before `-00001-of-00002.gguf`.
//!
//! ```text
//! BASE-NNNNN-of-MMMMM.gguf   split.no u16 = NNNNN - 1   split.count u16 = MMMMM   split.tensors.count i32 = tensors of all
//! ```

use super::architecture;
use super::{GgufHeader, Value, ValueType};
use crate::format::finding::{Findings, Place, rules};
use crate::name::RelPath;
use std::collections::{BTreeMap, HashMap};

rules! {
    SPLIT "gguf.split" Critical "what a shard says of its place is of the wrong type or contradicts itself: llama.cpp aborts, or loads the wrong one"
    SPLIT_NAME "gguf.split-name" High "a shard's name is not what it says of its place: llama.cpp finds the others by name"
    SPLIT_MISSING "gguf.split-missing" High "shards of a model are missing: what is there is not the model"
    SPLIT_COUNT "gguf.split-count" High "the shards of a model do not agree on how many there are, or of what"
    SPLIT_DUPLICATE "gguf.split-duplicate" High "two shards have one number, or one tensor is in two: which one is loaded is chance"
}

/// BASE, NNNNN and MMMMM of a shard's path.
fn parts(path: &str) -> Option<(&str, u64, u64)> {
    let rest = path.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (base, no) = rest.rsplit_once('-')?;
    // "%05d": five digits, and more for what does not fit.
    let number = |text: &str| {
        let digits = text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits && (text.len() == 5 || !text.starts_with('0')))
    };
    Some((base, number(no)?, number(count)?))
}

/// `split.no` and `split.count` of a file that is one of several.
fn place(header: &GgufHeader) -> Option<(u64, u64)> {
    let count = header.number("split.count").filter(|count| (2..=u64::from(u16::MAX)).contains(count))?;
    Some((header.number("split.no")?, count))
}

/// Checks one file.
pub(super) fn check_file(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    for (key, kind) in
        [("split.no", ValueType::U16), ("split.count", ValueType::U16), ("split.tensors.count", ValueType::I32)]
    {
        let right = |value: &&Value| match value {
            Value::Unsigned(of, _) => *of == kind,
            Value::Signed(of, n) => *of == kind && *n >= 0,
            _ => false,
        };
        if let Some(other) = header.value(key).filter(|value| !right(value)) {
            let why = format!(
                "{key} is of type {}, not {} or is negative: llama.cpp aborts",
                other.type_name(),
                kind.as_str()
            );
            findings.add(path, &SPLIT, Place::part(key), why);
        }
    }
    let count = header.number("split.count").unwrap_or(1);
    let no = header.number("split.no");
    if no.is_some_and(|no| no >= count.max(1)) {
        let why = format!("split.no is {}, and split.count {count}: there is no such shard", no.unwrap_or(0));
        findings.add(path, &SPLIT, Place::part("split.no"), why);
    }
    if count > 1 && no.is_none() {
        findings.add(
            path,
            &SPLIT,
            Place::part("split.no"),
            format!("split.count is {count}, and split.no is missing: llama.cpp aborts"),
        );
    }
    if let Some(all) = header.number("split.tensors.count").filter(|all| *all < header.tensors.len() as u64) {
        let why = format!("split.tensors.count is {all}, and this shard alone has {}", header.tensors.len());
        findings.add(path, &SPLIT, Place::part("split.tensors.count"), why);
    }
    let wrong = match (parts(path.file_name()), place(header)) {
        (None, None) => return,
        (Some((_, no, of)), Some((number, count))) if (no, of) == (number.saturating_add(1), count) => return,
        (Some(_), Some((no, count))) => {
            format!(
                "the name {:?} is not that of shard {} of {count}, which it says it is",
                path.file_name(),
                no.saturating_add(1)
            )
        }
        (None, Some((no, count))) => {
            format!(
                "it is shard {} of {count}, and its name {:?} does not say so: llama.cpp does not find the others",
                no.saturating_add(1),
                path.file_name()
            )
        }
        // "model-00001-of-00001.gguf" is what some name a whole one.
        (Some((_, 1, 1)), None) => return,
        (Some((_, no, of)), None) => {
            format!("its name says shard {no} of {of}, and the file does not: it may be another's")
        }
    };
    findings.add(path, &SPLIT_NAME, Place::part("split.no"), wrong);
}

/// Checks the shards among the files of a model. Each has been inspected by itself.
pub(crate) fn check_split(files: &[(&RelPath, &GgufHeader)], findings: &mut Findings) {
    let mut sets: BTreeMap<&str, Vec<(&RelPath, &GgufHeader, u64, u64)>> = BTreeMap::new();
    for (path, header) in files {
        let Some((no, count)) = place(header) else { continue };
        // One whose name is no shard's makes a set by itself: nothing would find its others.
        let base = parts(path.as_str()).map_or(path.as_str(), |(base, ..)| base);
        sets.entry(base).or_default().push((path, header, no, count));
    }
    for (base, mut shards) in sets {
        shards.sort_by_key(|(_, _, no, _)| *no);
        check_set(base, &shards, findings);
    }
}

fn check_set(base: &str, shards: &[(&RelPath, &GgufHeader, u64, u64)], findings: &mut Findings) {
    let Some((first_path, first, _, count)) = shards.first() else { return };
    for (path, _, _, other) in shards.iter().filter(|(_, _, _, other)| other != count) {
        let why = format!("{first_path} says that there are {count} shards of {base:?}, {path} that there are {other}");
        findings.add(path, &SPLIT_COUNT, Place::part("split.count"), why);
    }
    for ((one, _, no, _), (other, ..)) in
        shards.iter().zip(shards.iter().skip(1)).filter(|((_, _, a, _), (_, _, b, _))| a == b)
    {
        let why = format!("{one} and {other} both say that they are shard {} of {base:?}", no.saturating_add(1));
        findings.add(other, &SPLIT_DUPLICATE, Place::part("split.no"), why);
    }
    let there: std::collections::BTreeSet<u64> = shards.iter().map(|(_, _, no, _)| *no).collect();
    let missing = (0..*count).filter(|no| !there.contains(no)).count();
    if let Some(no) = (0..*count).find(|no| !there.contains(no)) {
        let name = format!("{}-{:05}-of-{count:05}.gguf", crate::digest::shorten(base), no.saturating_add(1));
        let why = format!(
            "{missing} of {count} shards are not there: {name:?} is missing, and what is there is not the model"
        );
        findings.add(first_path, &SPLIT_MISSING, Place::part("split.count"), why);
    }
    let mut tensors: HashMap<&str, &RelPath> = HashMap::new();
    for (path, header, ..) in shards {
        for tensor in &header.tensors {
            if let Some(other) = tensors.insert(&tensor.name, path).filter(|other| other != path) {
                let why =
                    format!("the tensor {:?} is in {other} and in {path}: which one is loaded is chance", tensor.name);
                findings.add(path, &SPLIT_DUPLICATE, Place::part(&tensor.name), why);
            }
        }
    }
    let sum: u64 = shards.iter().map(|(_, header, ..)| header.tensors.len() as u64).sum();
    for (path, header, ..) in shards {
        let stated = header.number("split.tensors.count");
        if let Some(all) = stated.filter(|all| missing == 0 && *all != sum) {
            let why = format!("split.tensors.count of {path} is {all}, and the shards have {sum}");
            findings.add(path, &SPLIT_COUNT, Place::part("split.tensors.count"), why);
        }
        let (one, other) = (architecture::name(first), architecture::name(header));
        if let Some(other) = other.filter(|other| one.is_some_and(|one| one != *other)) {
            let why = format!(
                "{path} is of architecture {:?}, {first_path} of {:?}",
                crate::digest::shorten(other),
                crate::digest::shorten(one.unwrap_or(""))
            );
            findings.add(path, &SPLIT_COUNT, Place::part("general.architecture"), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::*;
    use super::super::{GgufHeader, check_split};
    use super::parts;
    use crate::format::finding::{Findings, Severity};
    use crate::name::RelPath;

    /// Shard `no` of `count` with one tensor of this name.
    fn shard(no: u16, count: u16, name: &str, more: &[Vec<u8>]) -> Vec<u8> {
        let pairs =
            [&[text("general.architecture", "llama"), u16("split.no", no), u16("split.count", count)], more].concat();
        file(&pairs, &[tensor(name, &[8], 0, 0)], 32)
    }

    #[test]
    fn a_shard_is_named_after_its_place() {
        assert_eq!(parts("a/b-00001-of-00002.gguf"), Some(("a/b", 1, 2)));
        assert_eq!(parts("b-00003-of-100000.gguf"), Some(("b", 3, 100_000)));
        for odd in [
            "b-1-of-2.gguf",
            "b-00001-of-00002",
            "b.gguf",
            "b-00001-of-000002.gguf",
            "-of-.gguf",
            "b-+0001-of-00002.gguf",
        ] {
            assert_eq!(parts(odd), None, "{odd}");
        }
        let pairs = |pairs: &[Vec<u8>]| model(&[&[text("general.architecture", "llama")], pairs].concat());
        let total = |n| vec![i32("split.tensors.count", n)];
        for (name, bytes, rule, why) in [
            ("b.gguf", shard(0, 2, "t", &[]), "gguf.split-name", "does not say so"),
            ("b-00002-of-00002.gguf", shard(0, 2, "t", &[]), "gguf.split-name", "not that of shard 1 of 2"),
            ("b-00001-of-00003.gguf", shard(0, 2, "t", &[]), "gguf.split-name", "not that of shard 1 of 2"),
            ("b-00001-of-00002.gguf", pairs(&[]), "gguf.split-name", "says shard 1 of 2, and the file does not"),
            ("b-00003-of-00002.gguf", shard(2, 2, "t", &[]), "gguf.split", "no such shard"),
            ("b.gguf", pairs(&[u16("split.no", 1)]), "gguf.split", "no such shard"),
            ("b-00001-of-00002.gguf", pairs(&[u16("split.count", 2)]), "gguf.split", "split.no is missing"),
            (
                "b-00001-of-00002.gguf",
                pairs(&[u32("split.no", 0), u16("split.count", 2)]),
                "gguf.split",
                "type u32, not u16",
            ),
            (
                "b-00001-of-00002.gguf",
                pairs(&[u16("split.no", 0), i32("split.count", 2)]),
                "gguf.split",
                "type i32, not u16",
            ),
            ("b-00001-of-00002.gguf", shard(0, 2, "t", &[u32("split.tensors.count", 2)]), "gguf.split", "not i32"),
            ("b-00001-of-00002.gguf", shard(0, 2, "t", &total(-1)), "gguf.split", "negative"),
            ("b-00001-of-00002.gguf", shard(0, 2, "t", &total(0)), "gguf.split", "this shard alone has 1"),
        ] {
            let findings = inspect_as(name, &bytes).1;
            assert!(
                findings.list().iter().any(|f| f.rule == rule && f.message.contains(why)),
                "{why}: {:?}",
                findings.list()
            );
        }
        for (name, bytes) in [
            ("b-00001-of-00002.gguf", shard(0, 2, "t", &total(1))),
            ("b-00002-of-00002.gguf", shard(1, 2, "t", &total(7))),
            ("b-00001-of-00001.gguf", pairs(&[])),
            ("b.gguf", shard(0, 1, "t", &[])),
            ("b.gguf", shard(0, 0, "t", &[])),
        ] {
            let findings = inspect_as(name, &bytes).1;
            assert!(found(&findings, Severity::High).is_empty(), "{name}: {:?}", findings.list());
        }
    }

    fn set(files: &[(&str, Vec<u8>)]) -> Findings {
        let read = |(name, bytes): &(&str, Vec<u8>)| {
            let header = GgufHeader::read(bytes.as_slice(), bytes.len() as u64).expect("a header");
            (name.parse::<RelPath>().expect("a path"), header)
        };
        let files: Vec<_> = files.iter().map(read).collect();
        let mut findings = Findings::new();
        check_split(&files.iter().map(|(path, header)| (path, header)).collect::<Vec<_>>(), &mut findings);
        findings
    }

    #[test]
    fn a_set_of_shards_is_whole_and_agrees() {
        let (one, two) = ("b-00001-of-00002.gguf", "b-00002-of-00002.gguf");
        let total = |n| vec![i32("split.tensors.count", n)];
        let whole = [(two, shard(1, 2, "u", &total(2))), (one, shard(0, 2, "t", &total(2))), ("c.gguf", model(&[]))];
        assert!(set(&whole).list().is_empty(), "{:?}", set(&whole).list());
        let other = vec![text("general.name", "x")];
        let moon = file(
            &[text("general.architecture", "qwen2"), u16("split.no", 1), u16("split.count", 2)],
            &[tensor("u", &[8], 0, 0)],
            32,
        );
        let silent = file(&[u16("split.no", 1), u16("split.count", 2)], &[tensor("u", &[8], 0, 0)], 32);
        assert!(set(&[(one, shard(0, 2, "t", &other)), (two, silent)]).list().is_empty());
        for (files, rule, why) in [
            (
                vec![(one, shard(0, 2, "t", &[]))],
                "gguf.split-missing",
                "1 of 2 shards are not there: \"b-00002-of-00002.gguf\" is missing",
            ),
            (vec![(two, shard(1, 2, "t", &[]))], "gguf.split-missing", "\"b-00001-of-00002.gguf\" is missing"),
            (vec![(one, shard(0, u16::MAX, "t", &[]))], "gguf.split-missing", "65534 of 65535 shards"),
            (
                vec![(one, shard(0, 2, "t", &[])), ("d-00002-of-00002.gguf", shard(1, 2, "u", &[]))],
                "gguf.split-missing",
                "\"d-00001-of-00002.gguf\" is missing",
            ),
            (
                vec![(one, shard(0, 2, "t", &[])), (two, shard(0, 2, "u", &[]))],
                "gguf.split-duplicate",
                "both say that they are shard 1",
            ),
            (vec![(one, shard(0, 2, "t", &[])), (two, shard(1, 2, "t", &[]))], "gguf.split-duplicate", "\"t\" is in"),
            (vec![(one, shard(0, 2, "t", &[])), (two, shard(1, 3, "u", &[]))], "gguf.split-count", "there are 3"),
            (
                vec![(one, shard(0, 2, "t", &total(3))), (two, shard(1, 2, "u", &[]))],
                "gguf.split-count",
                "is 3, and the shards have 2",
            ),
            (vec![(one, shard(0, 2, "t", &[])), (two, moon)], "gguf.split-count", "\"qwen2\""),
        ] {
            let findings = set(&files);
            let hit = findings
                .list()
                .iter()
                .any(|f| f.rule == rule && f.message.contains(why) && f.severity == Severity::High);
            assert!(hit, "{why}: {:?}", findings.list());
        }
        // A count that no shard could have must not make it count.
        let huge = file(
            &[u16("split.no", 0), array("x", 0, 0, &[]), pair("split.count", 10, &u64::MAX.to_le_bytes())],
            &[],
            0,
        );
        assert!(set(&[(one, huge)]).list().is_empty());
    }
}
