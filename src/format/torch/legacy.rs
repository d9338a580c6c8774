//! The form of `torch.save` before 1.6, and of `_use_new_zipfile_serialization=False`.
//!
//! Owns: its streams and its raw storages. Promises: every pickle is walked; the storages stand in the file in the order and
//! the sizes that it says, and nothing follows them. Leaves out: pickles that are none of this (`pickle::bare`).
//!
//! ```text
//! pickle  the magic number 0x1950a86a20f9469cfc6c            (torch/serialization.py, _legacy_save)
//! pickle  the protocol, 1001
//! pickle  {protocol_version: 1001, little_endian: True, type_sizes: {short: 2, int: 4, long: 4}}
//! pickle  the object; a persistent id names a storage
//! pickle  [key, ...] of the storages that follow
//! (count:i64, count * element bytes)*   by the keys
//! ```

use super::{BYTEORDER, FOREIGN, LEGACY, STORAGE, state};
use crate::artifact::Format;
use crate::digest::shorten;
use crate::error::Result;
use crate::format::Kind;
use crate::format::description::Description;
use crate::format::finding::{Findings, Place};
use crate::format::input::{Input, read_range};
use crate::format::pickle::heap::{StorageRef, Value};
use crate::format::pickle::{self, MAX_PICKLE, Out, Walk};
use crate::name::RelPath;
use std::collections::{HashMap, HashSet};

/// `0x1950a86a20f9469cfc6c`, as LONG1 holds it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// A file that is neither zip nor tar: this form, a bare pickle, or neither.
pub(super) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let length = input.size().min(MAX_PICKLE);
    let bytes = read_range(input, 0, length, MAX_PICKLE)?;
    let mut trial = Findings::new();
    let first = pickle::walk(&bytes, 0, &mut Out { path, part: None, findings: &mut trial })?;
    let magic = first.root.is_some_and(|root| first.heap.big(&bytes, root) == Some(&MAGIC));
    if magic {
        // The magic number may be the last thing that its pickle leaves, not the only one that it does.
        pickle::walk(&bytes, 0, &mut Out { path, part: None, findings })?;
        return streams(path, input, &bytes, first.end, findings);
    }
    // Nothing that could be called or made before it broke: no pickle at all.
    if first.root.is_none() && !first.named && !matches!(bytes.as_slice(), [0x80, 0..=5, ..]) {
        let why = "neither a zip, nor a pickle, nor a tar: no PyTorch file";
        findings.add(path, &FOREIGN, Place::whole(), why);
    }
    pickle::bare(path, &bytes, input.size(), findings)
}

fn streams(path: &RelPath, input: &dyn Input, bytes: &[u8], at: usize, findings: &mut Findings) -> Result<Description> {
    let mut description = Description::new(Kind::Model(Format::Pytorch), "PyTorch object, in one stream");
    let mut out = Out { path, part: None, findings };
    let mut at = at;
    let mut walks = Vec::new();
    for _ in 0..4 {
        let walk = pickle::walk(bytes, at, &mut out)?;
        at = walk.end;
        if walk.root.is_none() {
            return Ok(description);
        }
        walks.push(walk);
    }
    let [protocol, system, object, keys] = walks.as_slice() else { return Ok(description) };
    check_system(protocol, system, &mut out);
    let Some(root) = object.root else { return Ok(description) };
    description.tensors = state::tensors(object, root, &mut out);
    let kind = if state::is_dict(object, root) { "PyTorch state dict" } else { "PyTorch object" };
    description.what = format!("{kind}, {} tensors, in one stream", description.tensors.len());
    if let Some(keys) = read_keys(keys, &mut out) {
        check_storages(input, at as u64, &keys, &object.heap.storages, &mut out)?;
    }
    Ok(description)
}

/// The second and third pickle.
fn check_system(protocol: &Walk<'_>, system: &Walk<'_>, out: &mut Out<'_>) {
    let value = |walk: &Walk<'_>| walk.root.map(|root| walk.heap.value(root));
    if value(protocol) != Some(Value::Int(PROTOCOL)) {
        let place = out.place(protocol.end);
        out.add(&LEGACY, place, format!("the protocol of the stream form is not {PROTOCOL}"));
    }
    let Some(dict @ Value::Dict(..)) = value(system) else {
        let place = out.place(system.end);
        out.add(&LEGACY, place, "the third pickle does not describe the system that wrote it");
        return;
    };
    let little = system.heap.items(dict).chunks_exact(2).find_map(|pair| {
        let name = system.heap.text(system.bytes, pair[0])?;
        (name == "little_endian").then(|| system.heap.value(pair[1]))
    });
    if little != Some(Value::Bool(true)) {
        let place = out.place(system.end);
        out.add(&BYTEORDER, place, "the file does not say that it is little-endian: weights would be read as nonsense");
    }
}

/// The keys of the storages that follow; none when the list is malformed.
fn read_keys(walk: &Walk<'_>, out: &mut Out<'_>) -> Option<Vec<String>> {
    let root = walk.heap.value(walk.root?);
    let keys: Option<Vec<String>> = match root {
        Value::List(_) => walk.heap.items(root).iter().map(|id| walk.heap.text(walk.bytes, *id)).collect(),
        _ => None,
    };
    let distinct = keys.as_ref().is_some_and(|keys| keys.iter().collect::<HashSet<_>>().len() == keys.len());
    if !distinct {
        let place = out.place(walk.end);
        out.add(&LEGACY, place, "the last pickle is not a list of distinct storage keys");
        return None;
    }
    keys
}

/// The raw storages: each is asked for, has its size, and the last ends the file.
fn check_storages(
    input: &dyn Input,
    mut at: u64,
    keys: &[String],
    asked: &[StorageRef],
    out: &mut Out<'_>,
) -> Result<()> {
    let known: HashMap<&str, &StorageRef> = asked.iter().map(|s| (s.key.as_str(), s)).collect();
    let listed: HashSet<&str> = keys.iter().map(String::as_str).collect();
    for storage in asked.iter().filter(|s| !listed.contains(s.key.as_str())) {
        let place = out.place(storage.at);
        out.add(&STORAGE, place, format!("storage {:?} is missing from the file", storage.key));
    }
    for key in keys {
        let Some(storage) = known.get(key.as_str()) else {
            let why =
                format!("storage {:?} is in the file, and nothing asks for it: its size cannot be known", shorten(key));
            out.add(&STORAGE, Place::at(at), why);
            return Ok(());
        };
        let needs = storage.count.saturating_mul(storage.element.bytes);
        if input.size().saturating_sub(at) < 8 {
            out.add(&STORAGE, Place::at(at), format!("the file ends before storage {key:?}"));
            return Ok(());
        }
        let mut count = [0; 8];
        input.read_at(at, &mut count)?;
        let count = i64::from_le_bytes(count);
        if u64::try_from(count) != Ok(storage.count) {
            let why = format!("storage {key:?} has {count} elements, the object asks for {}", storage.count);
            out.add(&STORAGE, Place::at(at), why);
            return Ok(());
        }
        at += 8;
        if needs > input.size() - at {
            let why = format!("storage {key:?} needs {needs} bytes, the file has {} left", input.size() - at);
            out.add(&STORAGE, Place::at(at), why);
            return Ok(());
        }
        at += needs;
    }
    if at != input.size() {
        let why =
            format!("{} bytes follow the last storage: nothing reads them, or something else does", input.size() - at);
        out.add(&LEGACY, Place::at(at), why);
    }
    Ok(())
}
