//! Whose each byte behind a safetensors header is.
//!
//! Owns: the comparison of all tensors' offsets with each other and with the file's end. Promises: in the time of a sort,
//! whatever the offsets; every byte belongs to exactly one tensor or a [`Defect`] says so, of which the first few are kept.
//! Leaves out: a tensor on its own (its type, its shape).

use super::super::finding::{Place, Rule};
use super::{HOLE, OVERLAP, TRAILING, TRUNCATED};
use std::collections::BTreeMap;

/// Defects that are told of one file.
pub(super) const DEFECTS_MAX: usize = 16;

/// What is kept of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    pub(super) begin: u64,
    pub(super) end: u64,
    /// Which one it is, in the header's order.
    pub(super) index: u64,
}

/// Names by index.
pub(super) type Names = BTreeMap<u64, String>;

/// Something wrong with the offsets, counted from the first byte behind the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Defect {
    /// Both hold the bytes between.
    Overlap {
        first: u64,
        second: u64,
        from: u64,
        to: u64,
    },
    /// None holds the bytes between; the tensor behind them is named.
    Hole {
        before: u64,
        from: u64,
        to: u64,
    },
    /// The last tensor ends there, and the file after it or before.
    Trailing {
        from: u64,
        to: u64,
    },
    Truncated {
        last: u64,
        end: u64,
        there: u64,
    },
}

/// Holds the offsets against each other and against the number of bytes that are there.
pub(super) fn check_layout(mut records: Vec<Record>, there: u64) -> Vec<Defect> {
    records.sort_unstable();
    let mut defects = Vec::new();
    let (mut end, mut last) = (0, 0);
    for record in &records {
        if defects.len() >= DEFECTS_MAX - 1 {
            break;
        }
        if record.begin > end {
            defects.push(Defect::Hole { before: record.index, from: end, to: record.begin });
        } else if record.begin < end {
            let to = end.min(record.end);
            defects.push(Defect::Overlap { first: last, second: record.index, from: record.begin, to });
        }
        if record.end >= end {
            (end, last) = (record.end, record.index);
        }
    }
    let furthest = records.iter().max_by_key(|r| r.end);
    let end = furthest.map_or(0, |r| r.end);
    if end > there {
        defects.push(Defect::Truncated { last: furthest.map_or(0, |r| r.index), end, there });
    } else if end < there {
        defects.push(Defect::Trailing { from: end, to: there });
    }
    defects
}

impl Defect {
    /// The tensors that it is about.
    pub(super) fn tensors(&self) -> impl Iterator<Item = u64> {
        let (one, other) = match self {
            Defect::Overlap { first, second, .. } => (Some(*first), Some(*second)),
            Defect::Hole { before: one, .. } | Defect::Truncated { last: one, .. } => (Some(*one), None),
            Defect::Trailing { .. } => (None, None),
        };
        one.into_iter().chain(other)
    }

    /// The finding; the tensors' bytes begin at `base` in the file.
    pub(super) fn tell(&self, names: &Names, base: u64) -> (&'static Rule, Place, String) {
        let name = |index: &u64| names.get(index).map_or("", String::as_str);
        let at = |offset: &u64| base.saturating_add(*offset);
        match self {
            Defect::Overlap { first, second, from, to } => {
                let (one, other) = (name(first), name(second));
                let message = format!(
                    "the tensors {one:?} and {other:?} share bytes {from}..{to}: one hash could not vouch for both"
                );
                (&OVERLAP, Place::part_at(other, at(from)), message)
            }
            Defect::Hole { before, from, to } => {
                let name = name(before);
                let message =
                    format!("bytes {from}..{to} before the tensor {name:?} belong to none: something could hide there");
                (&HOLE, Place::part_at(name, at(from)), message)
            }
            Defect::Trailing { from, to } => {
                let message = format!("{} bytes follow the last tensor: another format could begin there", to - from);
                (&TRAILING, Place::at(at(from)), message)
            }
            Defect::Truncated { last, end, there } => {
                let name = name(last);
                let message = format!(
                    "the tensor {name:?} ends at byte {end} behind the header, where only {there} are: a reader would go past the end"
                );
                (&TRUNCATED, Place::part_at(name, at(there)), message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(spans: &[(u64, u64)], there: u64) -> Vec<Defect> {
        let record =
            |(index, (begin, end)): (usize, &(u64, u64))| Record { begin: *begin, end: *end, index: index as u64 };
        check_layout(spans.iter().enumerate().map(record).collect(), there)
    }

    #[test]
    fn each_byte_belongs_to_exactly_one_tensor() {
        for (spans, there) in [
            (&[][..], 0),
            (&[(0, 8)], 8),
            (&[(8, 16), (0, 8)], 16),
            (&[(0, 0), (0, 8), (8, 8), (8, 8), (8, 9), (9, 9)], 9),
        ] {
            assert_eq!(layout(spans, there), [], "{spans:?}");
        }
        let hole = |before, from, to| Defect::Hole { before, from, to };
        let overlap = |first, second, from, to| Defect::Overlap { first, second, from, to };
        for (spans, there, defects) in [
            (&[][..], 1, vec![Defect::Trailing { from: 0, to: 1 }]),
            (&[(1, 8)], 8, vec![hole(0, 0, 1)]),
            (&[(0, 7), (8, 9)], 9, vec![hole(1, 7, 8)]),
            (&[(0, 8), (7, 9)], 9, vec![overlap(0, 1, 7, 8)]),
            (&[(0, 8), (0, 8)], 8, vec![overlap(0, 1, 0, 8)]),
            (&[(0, 8), (4, 4)], 8, vec![overlap(0, 1, 4, 4)]),
            (&[(0, 16), (2, 4), (4, 6)], 16, vec![overlap(0, 1, 2, 4), overlap(0, 2, 4, 6)]),
            (&[(0, 8)], 9, vec![Defect::Trailing { from: 8, to: 9 }]),
            (&[(0, 8)], 7, vec![Defect::Truncated { last: 0, end: 8, there: 7 }]),
            (&[(4, u64::MAX), (0, 4)], 8, vec![Defect::Truncated { last: 0, end: u64::MAX, there: 8 }]),
        ] {
            assert_eq!(layout(spans, there), defects, "{spans:?}");
        }
    }

    #[test]
    fn of_many_defects_a_few_are_told_and_the_end_of_the_file_always() {
        let spans: Vec<(u64, u64)> = (0..1000).map(|i| (i, i + 10)).collect();
        let defects = layout(&spans, 5000);
        assert_eq!((defects.len(), defects.last()), (DEFECTS_MAX, Some(&Defect::Trailing { from: 1009, to: 5000 })));
    }
}
