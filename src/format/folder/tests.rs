//! Tests of folders: the cases of the hostile set that are folders, and each rule at its edge.

use super::super::description::Description;
use super::super::finding::{Rule, Severity};
use super::super::input::Input;
use super::super::{companion, safetensors};
use super::*;

/// A safetensors file of these one-byte tensors.
fn weights(tensors: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = tensors
        .iter()
        .enumerate()
        .map(|(i, name)| format!("{name:?}:{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{i},{}]}}", i + 1))
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let header = format!("{header}{}", " ".repeat(header.len().wrapping_neg() % 8));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![1; tensors.len()]].concat()
}

fn index(entries: &[(&str, &str)], total: u64) -> Vec<u8> {
    let map: Vec<String> = entries.iter().map(|(tensor, file)| format!("{tensor:?}:{file:?}")).collect();
    format!("{{\"metadata\":{{\"total_size\":{total}}},\"weight_map\":{{{}}}}}", map.join(",")).into_bytes()
}

/// Inspects files in memory and then the folder; what the folder's rules found.
fn folder(files: &[(&str, &[u8])]) -> Findings {
    let mut findings = Findings::new();
    let mut described = Vec::new();
    for (path, bytes) in files {
        let path: RelPath = path.parse().expect("a path");
        let input: &dyn Input = bytes;
        let about = match path.file_name().rsplit_once('.').map(|(_, e)| e) {
            Some("safetensors") => safetensors::inspect(&path, input, &mut findings).expect("reads"),
            Some("bin") => Description::new(Kind::Model(Format::Pytorch), "pytorch"),
            Some("gguf") => Description::new(Kind::Model(Format::Gguf), "gguf"),
            _ => companion::inspect(&path, input, &mut findings).expect("reads"),
        };
        described.push(Candidate { path, size_bytes: bytes.len() as u64, description: about });
    }
    check(Layout::Folder, &described, &mut findings);
    findings
}

fn found(files: &[(&str, &[u8])]) -> Vec<&'static str> {
    folder(files).list().iter().map(|f| f.rule).collect()
}

fn assert_only(files: &[(&str, &[u8])], rule: &Rule, words: &str) {
    let findings = folder(files);
    assert_eq!(findings.list().iter().map(|f| f.rule).collect::<Vec<_>>(), [rule.id], "{:?}", findings.list());
    let message = &findings.list()[0].message;
    assert!(message.contains(words), "{message:?} should say {words:?}");
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[test]
fn d00_a_sound_folder_has_no_findings() {
    let (a, b) = (weights(&["a"]), weights(&["b", "c"]));
    let map = index(&[("a", ONE), ("b", TWO), ("c", TWO)], 3);
    let files: [(&str, &[u8]); 5] =
        [("config.json", b"{}"), (ONE, &a), (TWO, &b), (INDEX, &map), ("tokenizer.json", b"{}")];
    assert_eq!(found(&files), [""; 0]);
    let below = files.map(|(path, bytes)| (format!("text_encoder/{path}"), bytes));
    let below: Vec<(&str, &[u8])> = below.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
    assert_eq!(found(&below), [""; 0]);
    assert_eq!(
        found(&[("model.safetensors", &a), ("sub/model.safetensors", &b), ("model.fp16.safetensors", &a)]),
        [""; 0]
    );
}

#[test]
fn d01_an_index_leads_nowhere_else() {
    let a = weights(&["a"]);
    for file in [
        "../../other/model.safetensors",
        "/etc/passwd",
        "a/../../b",
        "..",
        "",
        "C:/x",
        "~/x",
        "a\\b",
        "..\\b",
        "https://x/y.safetensors",
        "a\0b",
        "a\u{202e}b",
    ] {
        let map = format!("{{\"weight_map\":{{\"a\":{}}}}}", serde_json::to_string(file).expect("JSON"));
        assert_only(&[(INDEX, map.as_bytes()), ("model.safetensors", &a)], &INDEX_OUTSIDE, "\"a\"");
    }
}

#[test]
fn d02_an_index_names_weights_that_are_there() {
    let (a, b) = (weights(&["a"]), weights(&["b"]));
    let map = index(&[("a", ONE), ("b", TWO)], 2);
    assert_only(&[(INDEX, &map), (ONE, &a)], &INDEX_MISSING, TWO);
    assert_only(&[(INDEX, &map), (ONE, &a), ("sub/x.txt", b"x"), ("y.txt", b"y")], &INDEX_MISSING, "\"b\"");
    assert_eq!(found(&[(INDEX, &map), (ONE, &a), (TWO, &b)]), [""; 0]);
    let other = index(&[("a", "config.json")], 1);
    assert_only(&[(INDEX, &other), ("config.json", b"{}")], &INDEX_NO_WEIGHTS, "config.json");
    let pickle = index(&[("a", "pytorch_model.bin")], 1);
    assert_only(&[(INDEX, &pickle), ("pytorch_model.bin", b"")], &INDEX_FORMAT, "pytorch");
    assert_eq!(found(&[("pytorch_model.bin.index.json", &pickle), ("pytorch_model.bin", b"")]), [""; 0]);
}

#[test]
fn the_map_and_the_shards_agree() {
    let (a, b, bc) = (weights(&["a"]), weights(&["b"]), weights(&["b", "c"]));
    let map = index(&[("a", ONE), ("b", TWO)], 2);
    let lacks = index(&[("a", ONE), ("b", TWO), ("c", TWO)], 2);
    assert_only(&[(INDEX, &lacks), (ONE, &a), (TWO, &b)], &INDEX_TENSOR, "\"c\"");
    let unlisted = index(&[("a", ONE), ("b", TWO)], 3);
    assert_only(&[(INDEX, &unlisted), (ONE, &a), (TWO, &bc)], &INDEX_UNLISTED, "\"c\"");
    let (ab, three) = (weights(&["a", "b"]), index(&[("a", ONE), ("b", TWO)], 3));
    assert_only(&[(INDEX, &three), (ONE, &ab), (TWO, &b)], &INDEX_TWICE, "\"b\"");
    for (total, expected) in [(1, vec![INDEX_SIZE.id]), (2, vec![]), (3, vec![INDEX_SIZE.id])] {
        assert_eq!(found(&[(INDEX, &index(&[("a", ONE), ("b", TWO)], total)), (ONE, &a), (TWO, &b)]), expected);
    }
    let extra = weights(&["z"]);
    assert_only(
        &[(INDEX, &map), (ONE, &a), (TWO, &b), ("model-00003-of-00003.safetensors", &extra)],
        &INDEX_SHARD,
        "00003",
    );
    assert_eq!(found(&[(INDEX, &map), (ONE, &a), (TWO, &b), ("other-00001-of-00001.safetensors", &extra)]), [""; 0]);
}

#[test]
fn two_indexes_tell_the_same() {
    let (a, b) = (weights(&["a"]), weights(&["b"]));
    let (one, two) = (index(&[("a", "x.safetensors")], 1), index(&[("b", "y.safetensors")], 1));
    let files: [(&str, &[u8]); 4] = [
        ("x.safetensors.index.json", &one),
        ("x.safetensors", &a),
        ("y.safetensors.index.json", &two),
        ("y.safetensors", &b),
    ];
    assert_only(&files, &INDEX_DISAGREE, "x.safetensors.index.json");
    let same = [files[0], files[1], ("y.safetensors.index.json", &one), files[3]];
    assert_eq!(found(&same), [""; 0]);
    let apart = [files[0], files[1], ("sub/y.safetensors.index.json", &two), ("sub/y.safetensors", &b)];
    assert_eq!(found(&apart), [""; 0]);
}

#[test]
fn weights_that_stand_for_each_other_are_told() {
    let a = weights(&["a"]);
    for other in ["pytorch_model.bin", "consolidated.safetensors", "model.bin"] {
        assert_only(&[("model.safetensors", &a), (other, &a)], &SHADOWED, other);
    }
    let map = index(&[("a", ONE)], 1);
    assert_only(&[("model.safetensors", &a), (ONE, &a), (INDEX, &map)], &SHADOWED, ONE);
    assert_only(&[(ONE, &a)], &NO_INDEX, ONE);
    assert_eq!(found(&[("a.gguf", b""), ("a.safetensors", &a)]), [""; 0]);
    assert_eq!(found(&[("a.Q4-00001-of-00002.gguf", b"")]), [""; 0]);
    assert_eq!(found(&[("model-x-of-y.safetensors", &a), ("model-1-of-.safetensors", &a)]), [""; 0]);
    // Only a folder is loaded as one.
    let described =
        [("model.safetensors", "a"), ("model.bin", "b"), ("adapter_config.json", "c")].map(|(path, what)| Candidate {
            path: path.parse().expect("a path"),
            size_bytes: 1,
            description: Description::new(Kind::Model(Format::Pytorch), what),
        });
    let mut findings = Findings::new();
    check(Layout::Split, &described, &mut findings);
    assert_eq!(findings.list(), []);
    check(Layout::Folder, &described, &mut findings);
    assert!(findings.has(SHADOWED.id) && findings.has(ADAPTER_ALONE.id));
}

#[test]
fn an_adapter_is_two_files() {
    let a = weights(&["a"]);
    assert_only(&[("x/adapter_config.json", b"{}")], &ADAPTER_ALONE, "weights");
    assert_only(&[("x/adapter_model.safetensors", &a)], &ADAPTER_ALONE, "adapter_config.json");
    assert_eq!(found(&[("x/adapter_config.json", b"{}"), ("x/adapter_model.safetensors", &a)]), [""; 0]);
    assert_eq!(found(&[("x/adapter_config.json", b"{}"), ("adapter_model.bin", b"")]).len(), 2);
}

fn entry(path: &str) -> Entry {
    Entry { path: path.into(), hidden: false, nlink: 1, mode: 0o100_644 }
}

fn source(entries: &[Entry]) -> Vec<&'static str> {
    let mut findings = Findings::new();
    check_source(entries, &mut findings);
    assert!(findings.list().iter().all(|f| f.place.part.is_some() && !f.message.is_empty()));
    findings.list().iter().map(|f| f.rule).collect()
}

#[test]
fn an_ordinary_source_has_no_findings() {
    let names = [
        "config.json",
        "model.safetensors",
        "text_encoder/model.safetensors",
        ".gitattributes",
        ".gitignore",
        "a/.gitkeep",
        ".DS_Store",
        ".cache/huggingface/download/model.safetensors.metadata",
        "README.md",
        "model.Q4_K_M.gguf",
        "v1.0/x",
        "com1x.txt",
        "console.txt",
    ];
    let mut entries: Vec<Entry> = names.map(entry).into();
    for folder in [".cache", ".cache/huggingface", "text_encoder"] {
        entries.push(Entry { nlink: 5, mode: 0o042_777, hidden: folder.starts_with('.'), ..entry(folder) });
    }
    entries.push(Entry { mode: 0o644, ..entry("without.kind") });
    assert_eq!(source(&entries), [""; 0]);
}

#[test]
fn d06_hidden_files_are_told() {
    for path in [
        ".env",
        ".hidden.safetensors",
        ".git/config",
        "a/.x/y",
        ".cache/evil",
        ".cache/huggingfacex",
        ".x/.gitattributes",
        "...x",
        ".cachex/huggingface/x",
    ] {
        assert_eq!(source(&[entry(path)]), [HIDDEN.id], "{path}");
    }
    assert_eq!(source(&[Entry { hidden: true, ..entry("plain") }]), [HIDDEN.id]);
}

#[test]
fn d07_names_that_differ_by_case_are_told() {
    assert_eq!(source(&[entry("Model.gguf"), entry("model.gguf")]), [CASE.id]);
    assert_eq!(source(&[entry("A/x"), entry("a/y"), entry("a/z")]), [CASE.id], "once for a folder");
    assert_eq!(source(&[entry("É"), entry("é")]), [CASE.id]);
    let deep = |name: &str| entry(&format!("{}{name}", "d/".repeat(crate::name::MAX_DEPTH - 1)));
    assert_eq!(source(&[deep("a"), deep("A")]), [CASE.id], "as deep as may be");
    assert_eq!(source(&[entry("a/x"), entry("b/x"), entry("a/x")]), [""; 0]);
}

#[test]
fn d12_a_hard_link_is_refused() {
    for (nlink, expected) in [(0, vec![]), (1, vec![]), (2, vec![HARD_LINK.id]), (u64::MAX, vec![HARD_LINK.id])] {
        assert_eq!(source(&[Entry { nlink, ..entry("a") }]), expected);
    }
    assert_eq!(HARD_LINK.severity, Severity::Critical);
}

#[test]
fn d11_d13_what_is_no_file_is_refused() {
    for kind in [0o120_000, 0o010_000, 0o020_000, 0o060_000, 0o140_000] {
        assert_eq!(source(&[Entry { mode: kind | 0o777, nlink: 2, ..entry("a") }]), [SPECIAL.id]);
    }
}

#[test]
fn d16_depth_is_bounded() {
    let deep = |n: usize| vec!["d"; n].join("/");
    assert_eq!(source(&[entry(&deep(32))]), [""; 0]);
    assert_eq!(source(&[entry(&deep(33))]), [DEEP.id]);
    assert_eq!(source(&[entry(&deep(301))]), [DEEP.id]);
}

#[test]
fn modes_are_told() {
    for (mode, expected) in [
        (0o644, vec![]),
        (0o4644, vec![SET_ID.id]),
        (0o2644, vec![SET_ID.id]),
        (0o1644, vec![]),
        (0o744, vec![RUNNABLE.id]),
        (0o654, vec![RUNNABLE.id]),
        (0o645, vec![RUNNABLE.id]),
        (0o664, vec![]),
        (0o646, vec![WRITABLE.id]),
        (0o6777, vec![SET_ID.id, RUNNABLE.id, WRITABLE.id]),
    ] {
        assert_eq!(source(&[Entry { mode: 0o100_000 | mode, ..entry("a") }]), expected, "{mode:o}");
    }
}

#[test]
fn names_that_mislead_are_told() {
    for path in [
        "a.", "a ", " a", "x./y", "CON", "nul.txt", "aux.json", "COM1", "lpt9.x", "prn", "conin$", "a:b", "a*", "a?",
        "a\"", "a<", "a>", "a|", "a\\b",
    ] {
        assert_eq!(source(&[entry(path)]), [ODD_NAME.id], "{path:?}");
    }
    for path in ["a\nb", "a\u{202e}gpj.x", "a\u{200b}"] {
        assert_eq!(source(&[entry(path)]), [HOSTILE_NAME.id], "{path:?}");
    }
    for path in ["model.gguf.exe", "a/model.safetensors.sh", "config.json.py", "model.BIN   .exe", "x.png.js"] {
        assert_eq!(source(&[entry(path)]), [DOUBLE_EXTENSION.id], "{path:?}");
    }
    for path in ["run.sh", "a.b.py", "model.exe.gguf", "CONFIG", "COM10", "COM", "LPTX", "xCON"] {
        assert_eq!(source(&[entry(path)]), [""; 0], "{path:?}");
    }
    for path in ["/a", "a//b", "../a", "a/./b", "a/.."] {
        assert_eq!(source(&[entry(path)]), [OUTSIDE.id], "{path:?}");
    }
}

#[test]
fn findings_are_filed_under_what_the_registry_can_name() {
    let mut findings = Findings::new();
    check_source(&[entry("a/b/.x"), entry(".y"), Entry { nlink: 2, ..entry("c") }], &mut findings);
    let files: Vec<&str> = findings.list().iter().map(|f| f.file.as_str()).collect();
    assert_eq!(files, ["a/b", "folder", "c"]);
}
