//! Where a GGUF's tensors lie.
//!
//! Owns: the tensors' offsets and sizes against each other and the file, and the bytes that belong to none. Promises: ggml's rule
//! in full: each tensor begins at the padded end of the one before, the first at 0; a file passes only if it holds, and what is
//! wrong is named by what it does (overlap, gap, order). Every byte outside a tensor is read and must be zero, so that the
//! header and the tensors' hashes together vouch for all of the file. Leaves out: the tensors' bytes.
//!
//! ```text
//! header | 0.. | tensor 0 | 0.. | tensor 1 | 0.. | end          padding is less than general.alignment, and zero
//!              ^ data_offset, a multiple of general.alignment   after the last it may be missing (llama.cpp loads both)
//! ```

use super::{GgufHeader, TensorInfo};
use crate::error::Result;
use crate::format::finding::{Findings, Halt, Parsed, Place, Rule, rules};
use crate::format::input::{Input, Reader};
use crate::name::RelPath;
use std::io::Read;

rules! {
    UNALIGNED "gguf.unaligned" Critical "a tensor does not begin at a multiple of the alignment: engines read it with aligned loads"
    OUTSIDE "gguf.outside" Critical "a tensor's data do not lie in the file: a loader would read past its end"
    OVERLAP "gguf.overlap" Critical "two tensors share bytes: one hash could not vouch for both"
    GAP "gguf.gap" Critical "bytes between two tensors belong to neither: no tensor's hash vouches for them"
    ORDER "gguf.order" Critical "the tensors' data are not in the order of the table, which ggml demands"
    PADDED "gguf.padded-size" Critical "the tensors' padded sizes do not fit 64 bits: the sum wraps and less is allocated than used"
    PADDING "gguf.padding" High "padding is not zero: bytes that no tensor's hash vouches for hide something"
    TRAILING "gguf.trailing" Critical "bytes follow the last tensor: the file is something else as well, or hides something"
}

/// Of many tensors in wrong places so many are named.
const NAMED: usize = 32;

/// The first tensor whose data do not lie in a file of `size` bytes, or begin at no multiple of the alignment.
pub(super) fn outside(header: &GgufHeader, size: u64) -> Option<(&TensorInfo, String)> {
    header.tensors.iter().find_map(|tensor| misplaced(header, tensor, size).map(|(_, why)| (tensor, why)))
}

fn misplaced(header: &GgufHeader, tensor: &TensorInfo, size: u64) -> Option<(&'static Rule, String)> {
    let TensorInfo { name, offset, size_bytes, .. } = tensor;
    let room = size.saturating_sub(header.data_offset);
    if offset % header.alignment != 0 {
        let why = format!("the tensor {name:?} begins at {offset}, not a multiple of {}", header.alignment);
        return Some((&UNALIGNED, why));
    }
    if offset.checked_add(*size_bytes).is_none_or(|end| end > room) {
        let why = format!(
            "the data of tensor {name:?} do not lie in the file: {size_bytes} bytes from {offset} on, and there are {room}"
        );
        return Some((&OUTSIDE, why));
    }
    None
}

/// Checks the tensors' places, and reads what belongs to none of them.
pub(super) fn check(path: &RelPath, input: &dyn Input, header: &GgufHeader, findings: &mut Findings) -> Parsed<()> {
    let size = input.size();
    let mut sound = sum(path, header, findings);
    // A few stand for all: there may be as many as there are tensors.
    let wrong = header.tensors.iter().filter_map(|tensor| Some((tensor, misplaced(header, tensor, size)?)));
    for (tensor, (rule, why)) in wrong.take(NAMED) {
        findings.add(path, rule, place(header, tensor), why);
        sound = false;
    }
    if !sound {
        return Ok(());
    }
    neighbours(path, header, findings);
    padding(path, input, header, findings).map_err(Halt::Failed)
}

fn place(header: &GgufHeader, tensor: &TensorInfo) -> Place {
    Place::part_at(&tensor.name, header.data_offset.saturating_add(tensor.offset))
}

/// The end of a tensor's data with its padding, from the start of the data.
fn padded_end(header: &GgufHeader, tensor: &TensorInfo) -> Option<u64> {
    tensor.offset.checked_add(tensor.size_bytes)?.checked_next_multiple_of(header.alignment)
}

/// ggml adds up the padded sizes in a size_t.
fn sum(path: &RelPath, header: &GgufHeader, findings: &mut Findings) -> bool {
    let mut sum = 0u64;
    for tensor in &header.tensors {
        let padded = tensor.size_bytes.checked_next_multiple_of(header.alignment);
        let Some(next) = padded.and_then(|n| sum.checked_add(n)) else {
            let why = format!("the padded sizes up to tensor {:?} do not fit 64 bits: the sum would wrap", tensor.name);
            findings.add(path, &PADDED, place(header, tensor), why);
            return false;
        };
        sum = next;
    }
    true
}

/// Every tensor against the one before it, in the order of the data and in that of the table.
fn neighbours(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    let mut order: Vec<&TensorInfo> = header.tensors.iter().collect();
    // Stable: of two at one place the table's order stands, so that one without bytes may come before its neighbour.
    order.sort_by_key(|t| t.offset);
    let mut expected = 0;
    let mut before: Option<&TensorInfo> = None;
    let mut named = 0;
    for tensor in order {
        if named == NAMED {
            break;
        }
        let from = header.data_offset.saturating_add(tensor.offset);
        if tensor.offset > expected {
            let after = before.map_or("the header".to_owned(), |t| format!("the tensor {:?}", t.name));
            let why = format!(
                "{} bytes between {after} and the tensor {:?} belong to no tensor: no hash vouches for them",
                tensor.offset - expected,
                tensor.name
            );
            findings.add(path, &GAP, place(header, tensor), why);
            named += 1;
        } else if let Some(other) = before.filter(|_| tensor.offset < expected) {
            let end =
                other.offset.saturating_add(other.size_bytes).min(tensor.offset.saturating_add(tensor.size_bytes));
            let why = format!(
                "the tensors {:?} and {:?} share bytes {from}..{}: one hash could not vouch for both",
                other.name,
                tensor.name,
                header.data_offset.saturating_add(end).max(from)
            );
            findings.add(path, &OVERLAP, place(header, tensor), why);
            named += 1;
        }
        let end = padded_end(header, tensor).unwrap_or(u64::MAX);
        if end >= expected {
            expected = end;
            before = Some(tensor);
        }
    }
    if let Some((first, second)) =
        header.tensors.iter().zip(header.tensors.iter().skip(1)).find(|(a, b)| a.offset > b.offset)
    {
        let why = format!(
            "the tensor {:?} stands after {:?} in the table, its data before: ggml demands one order for both",
            second.name, first.name
        );
        findings.add(path, &ORDER, place(header, second), why);
    }
}

/// Reads all that no tensor covers.
fn padding(path: &RelPath, input: &dyn Input, header: &GgufHeader, findings: &mut Findings) -> Result<()> {
    let size = input.size();
    let mut holes = Vec::new();
    let mut at = header.table_end;
    for tensor in &header.tensors {
        let from = header.data_offset.saturating_add(tensor.offset);
        if from > at {
            holes.push((at, from));
        }
        at = at.max(from.saturating_add(tensor.size_bytes));
    }
    let padded = at.checked_next_multiple_of(header.alignment).unwrap_or(u64::MAX);
    if size > padded {
        let after = if header.tensors.is_empty() { "the header" } else { "the last tensor" };
        let why = format!(
            "{} bytes follow {after} and its padding: they belong to nothing, and no tensor's hash vouches for them",
            size - padded
        );
        findings.add(path, &TRAILING, Place::at(padded), why);
    }
    holes.push((at, size.min(padded)));
    for (from, to) in holes {
        // What is longer is a gap, and has been found already; it may be as long as the disk.
        let found = if to.saturating_sub(from) < header.alignment { first_set(input, from, to)? } else { None };
        if let Some(found) = found {
            let why = format!(
                "the padding {from}..{to} is not zero at byte {found}: it hides something that no tensor's hash vouches for"
            );
            findings.add(path, &PADDING, Place::at(found), why);
        }
    }
    Ok(())
}

/// The first byte of a range that is not 0.
fn first_set(input: &dyn Input, from: u64, to: u64) -> Result<Option<u64>> {
    let mut reader = Reader::new(input, from, to);
    let mut piece = [0; 4096];
    loop {
        let at = reader.position();
        let n = match reader.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(n) => n,
            Err(e) => {
                return Err(e.downcast().unwrap_or_else(|e| crate::error::Error::io("reading a GGUF's padding", e)));
            }
        };
        if let Some(i) = piece.iter().take(n).position(|b| *b != 0) {
            return Ok(Some(at + i as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::*;
    use crate::format::finding::Severity;

    /// Two tensors of 8 F32 (32 bytes) and of 5 (20, so 12 of padding), at these offsets, in so much data.
    fn two(a: u64, b: u64, data: usize) -> Vec<u8> {
        file(&[], &[tensor("a", &[8], 0, a), tensor("b", &[5], 0, b)], data)
    }

    /// Data of length `data`, 7 but for zeros in this range of them.
    fn zeroed(mut bytes: Vec<u8>, data: usize, zeros: std::ops::Range<usize>) -> Vec<u8> {
        let start = bytes.len() - data;
        bytes[start + zeros.start..start + zeros.end].fill(0);
        bytes
    }

    #[test]
    fn tensors_follow_each_other_as_ggml_demands() {
        assert_clean("in order", &two(0, 32, 52), Severity::High);
        assert_clean("padded at the end", &zeroed(two(0, 32, 64), 64, 52..64), Severity::High);
        assert_clean("partly padded", &zeroed(two(0, 32, 60), 60, 52..60), Severity::High);
        for (bytes, rule, why) in [
            (two(0, 0, 32), "gguf.overlap", "the tensors \"a\" and \"b\" share bytes 96..116"),
            (two(0, 33, 64), "gguf.unaligned", "begins at 33"),
            (two(0, 64, 84), "gguf.gap", "32 bytes between the tensor \"a\" and the tensor \"b\""),
            (two(32, 64, 84), "gguf.gap", "32 bytes between the header and the tensor \"a\""),
            (two(32, 0, 64), "gguf.order", "the tensor \"b\" stands after \"a\""),
            (
                two(0, 32, 51),
                "gguf.outside",
                "tensor \"b\" do not lie in the file: 20 bytes from 32 on, and there are 51",
            ),
            (zeroed(two(0, 32, 65), 65, 52..65), "gguf.trailing", "1 bytes follow the last tensor"),
            (two(0, 32, 53), "gguf.padding", "not zero at byte 148"),
            (zeroed(two(0, 32, 64), 64, 52..63), "gguf.padding", "not zero at byte 159"),
        ] {
            let bytes = if rule == "gguf.order" { zeroed(bytes, 64, 20..32) } else { bytes };
            assert_found(why, &bytes, rule, why);
        }
    }

    #[test]
    fn no_tensor_hides_inside_a_longer_one() {
        let inside = [
            tensor("long", &[64], 0, 0),
            tensor("b", &[8], 0, 32),
            tensor("c", &[8], 0, 192),
            tensor("d", &[8], 0, 256),
        ];
        let findings = findings_of(&file(&[], &inside, 288));
        let overlaps: Vec<_> = findings.list().iter().filter(|f| f.rule == "gguf.overlap").collect();
        assert_eq!(overlaps.len(), 2, "{overlaps:?}");
        assert!(overlaps[1].message.contains("\"long\" and \"c\""), "{overlaps:?}");
        assert!(!findings.has("gguf.gap"));
    }

    #[test]
    fn a_tensor_without_bytes_has_its_place() {
        let empty = |offset| {
            file(&[], &[tensor("a", &[8], 0, 0), tensor("none", &[0], 0, offset), tensor("b", &[8], 0, 32)], 64)
        };
        assert_eq!(found(&findings_of(&empty(32)), Severity::High), ["gguf.no-elements"]);
        assert!(findings_of(&empty(0)).has("gguf.overlap"), "ggml demands 32");
        // The padding before it belongs to nothing, as any other.
        let tensors = [tensor("a", &[5], 0, 0), tensor("none", &[0], 0, 32), tensor("b", &[8], 0, 32)];
        let hidden = file(&[], &tensors, 64);
        assert_eq!(found(&findings_of(&hidden), Severity::High), ["gguf.no-elements", "gguf.padding"]);
        assert_eq!(found(&findings_of(&zeroed(hidden, 64, 20..32)), Severity::High), ["gguf.no-elements"]);
    }

    #[test]
    fn a_tensor_is_found_at_its_data_and_a_few_stand_for_all() {
        let findings = findings_of(&two(0, 64, 84));
        let place = &findings.list()[0].place;
        assert_eq!((place.part.as_deref(), place.offset), (Some("b"), Some(96 + 64)));
        for (step, size, rule) in [(64, 40 * 64 - 32, "gguf.gap"), (0, 32, "gguf.overlap")] {
            let tensors: Vec<_> = (0..40).map(|i| tensor(format!("t{i}"), &[8], 0, i * step)).collect();
            let findings = findings_of(&file(&[], &tensors, size));
            assert!(findings.list().iter().all(|f| f.rule == rule || f.severity < Severity::High), "{findings:?}");
            let named = findings.list().iter().filter(|f| f.rule == rule).count() as u64 + findings.dropped();
            assert_eq!(named, super::NAMED as u64);
        }
    }

    #[test]
    fn padded_sizes_that_wrap_are_refused() {
        let large = (1u64 << 61) - 8;
        let tensors: Vec<_> = (0..3).map(|i| tensor(format!("t{i}"), &[large], 0, i * large * 4)).collect();
        let found = findings_of(&file(&[], &tensors, 32));
        assert!(found.has("gguf.padded-size"), "{found:?}");
        let fits = findings_of(&file(&[], &tensors[..2], 32));
        assert!(!fits.has("gguf.padded-size") && fits.has("gguf.outside"), "{fits:?}");
    }

    #[test]
    fn nothing_hides_before_the_data_or_after_a_header_alone() {
        let mut bytes = two(0, 32, 52);
        let start = bytes.len() - 52;
        bytes[start - 1] = 1;
        assert_found("before the data", &bytes, "gguf.padding", "not zero at byte");
        let alone = file(&[text("general.architecture", "llama")], &[], 0);
        assert_clean("a header and its padding", &alone, Severity::High);
        let end = 24 + 8 + 20 + 4 + 8 + 5;
        assert_clean("a header alone", &alone[..end], Severity::High);
        assert_clean("in between", &alone[..end + 3], Severity::High);
        assert_found("more", &[&alone[..], &[0]].concat(), "gguf.trailing", "1 bytes follow the header");
        let mut hidden = alone.clone();
        hidden[end] = b'#';
        assert_found("hidden", &hidden, "gguf.padding", &format!("not zero at byte {end}"));
    }

    #[test]
    fn a_gap_is_not_read_and_wide_padding_is() {
        // A gap as long as the file is told by the table alone; padding of a wide alignment to its last byte.
        let wide = |last: u8| {
            let mut out = header(3, 2, 1);
            out.extend(u32("general.alignment", 16_384));
            out.extend(tensor("a", &[8], 0, 0));
            out.extend(tensor("b", &[8], 0, 16_384));
            out.resize(2 * 16_384 - 1, 0);
            out.push(last);
            out.extend([7; 32]);
            out
        };
        assert_clean("wide", &wide(0), Severity::High);
        assert_found("wide", &wide(1), "gguf.padding", "16416..32768 is not zero at byte 32767");
    }
}
