//! GGUF files for tests.
//!
//! Owns: a builder that lays tensors out as ggml does, and lets each part be made wrong. Promises: what it builds untouched is
//! sound. Leaves out: real models.

use crate::format::description::Description;
use crate::format::finding::Findings;
pub(super) use crate::format::finding::Severity;

pub(super) fn string(s: impl AsRef<[u8]>) -> Vec<u8> {
    [&(s.as_ref().len() as u64).to_le_bytes(), s.as_ref()].concat()
}

pub(super) fn pair(key: impl AsRef<[u8]>, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

pub(super) fn u16(key: &str, n: u16) -> Vec<u8> {
    pair(key, 2, &n.to_le_bytes())
}

pub(super) fn u32(key: &str, n: u32) -> Vec<u8> {
    pair(key, 4, &n.to_le_bytes())
}

pub(super) fn i32(key: &str, n: i32) -> Vec<u8> {
    pair(key, 5, &n.to_le_bytes())
}

pub(super) fn f32(key: &str, n: f32) -> Vec<u8> {
    pair(key, 6, &n.to_le_bytes())
}

pub(super) fn boolean(key: &str, b: bool) -> Vec<u8> {
    pair(key, 7, &[u8::from(b)])
}

pub(super) fn text(key: &str, value: &str) -> Vec<u8> {
    pair(key, 8, &string(value))
}

pub(super) fn array(key: &str, of: u32, count: u64, bytes: &[u8]) -> Vec<u8> {
    pair(key, 9, &[&of.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
}

pub(super) fn strings<S: AsRef<[u8]>>(key: &str, list: &[S]) -> Vec<u8> {
    array(key, 8, list.len() as u64, &list.iter().flat_map(string).collect::<Vec<u8>>())
}

pub(super) fn i32s(key: &str, list: &[i32]) -> Vec<u8> {
    array(key, 5, list.len() as u64, &list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
}

pub(super) fn u32s(key: &str, list: &[u32]) -> Vec<u8> {
    array(key, 4, list.len() as u64, &list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
}

pub(super) fn f32s(key: &str, list: &[f32]) -> Vec<u8> {
    array(key, 6, list.len() as u64, &list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
}

pub(super) fn tensor(name: impl AsRef<[u8]>, ne: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let ne_bytes: Vec<u8> = ne.iter().flat_map(|n| n.to_le_bytes()).collect();
    [&string(name)[..], &(ne.len() as u32).to_le_bytes(), &ne_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()]
        .concat()
}

/// A file of these pairs and tensor descriptions, padded to 32, with `data` bytes of weights (all 7).
pub(super) fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut out = header(3, tensors.len() as u64, pairs.len() as u64);
    out.extend(pairs.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32), 0);
    out.resize(out.len() + data, 7);
    out
}

pub(super) fn header(version: u32, tensors: u64, pairs: u64) -> Vec<u8> {
    [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat()
}

/// A model of these pairs, with one tensor of 8 F32.
pub(super) fn model(pairs: &[Vec<u8>]) -> Vec<u8> {
    file(pairs, &[tensor("some.weight", &[8], 0, 0)], 32)
}

pub(super) fn inspect_as(name: &str, bytes: &[u8]) -> (Description, Findings) {
    let mut findings = Findings::new();
    let description = super::inspect(&name.parse().expect("a path"), &bytes, &mut findings).expect("no failure");
    (description, findings)
}

pub(super) fn findings_of(bytes: &[u8]) -> Findings {
    inspect_as("m.gguf", bytes).1
}

/// The rules that were found from `least` on, each once, in order.
pub(super) fn found(findings: &Findings, least: Severity) -> Vec<&'static str> {
    let mut rules: Vec<_> = findings.list().iter().filter(|f| f.severity >= least).map(|f| f.rule).collect();
    rules.dedup();
    rules
}

/// That a file has a finding of `rule` whose message says `why`, and of no other rule of High or worse.
pub(super) fn assert_found(what: &str, bytes: &[u8], rule: &str, why: &str) {
    let findings = findings_of(bytes);
    let hit = findings.list().iter().find(|f| f.rule == rule && f.message.contains(why));
    assert!(hit.is_some(), "{what}: {rule} saying {why:?} is not among {:#?}", findings.list());
    let others: Vec<_> = found(&findings, Severity::High).into_iter().filter(|r| *r != rule).collect();
    assert!(others.is_empty(), "{what}: beside {rule} also {:#?}", findings.list());
}

/// That a file has nothing of `least` or worse.
pub(super) fn assert_clean(what: &str, bytes: &[u8], least: Severity) {
    let findings = findings_of(bytes);
    assert!(found(&findings, least).is_empty(), "{what}: {:#?}", findings.list());
}
