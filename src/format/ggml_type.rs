//! ggml's tensor types: their names, and how many bytes a row takes.
//!
//! Owns: the table. Promises: it is ggml's own (ggml.c, `type_traits`; ggml-common.h, the block structs), by the numbers
//! that stand in files. Leaves out: what the bytes mean.

/// One type: `block` elements are stored in `bytes` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// The number that stands in a GGUF file.
    pub id: u32,
    /// ggml's name, in upper case.
    pub name: &'static str,
    /// Elements of one block; a row is a whole number of blocks.
    pub block: u64,
    /// Bytes of one block.
    pub bytes: u64,
}

impl GgmlType {
    /// The type of this number, when ggml knows it.
    pub fn of(id: u32) -> Option<&'static GgmlType> {
        TYPES.binary_search_by_key(&id, |t| t.id).ok().map(|i| &TYPES[i])
    }

    /// The name of a type that ggml once had under this number.
    pub(crate) fn removed(id: u32) -> Option<&'static str> {
        REMOVED.iter().find(|(gone, _)| *gone == id).map(|(_, name)| *name)
    }

    /// Bytes of a tensor with these dimensions (ne0 first); none when ne0 is not a whole number of blocks or the product
    /// does not fit.
    pub fn size_of(&self, dimensions: &[u64]) -> Option<u64> {
        let row = dimensions.first().copied().unwrap_or(1);
        if row % self.block != 0 {
            return None;
        }
        dimensions.iter().skip(1).try_fold((row / self.block).checked_mul(self.bytes)?, |n, d| n.checked_mul(*d))
    }
}

const fn t(id: u32, name: &'static str, block: u64, bytes: u64) -> GgmlType {
    GgmlType { id, name, block, bytes }
}

/// What was taken out of ggml: its block size is 0 there, and no file may hold it.
const REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

/// Sorted by number; 43 (`GGML_TYPE_COUNT`) and above are not known yet.
const TYPES: [GgmlType; 35] = [
    t(0, "F32", 1, 4),
    t(1, "F16", 1, 2),
    t(2, "Q4_0", 32, 18),
    t(3, "Q4_1", 32, 20),
    t(6, "Q5_0", 32, 22),
    t(7, "Q5_1", 32, 24),
    t(8, "Q8_0", 32, 34),
    t(9, "Q8_1", 32, 36),
    t(10, "Q2_K", 256, 84),
    t(11, "Q3_K", 256, 110),
    t(12, "Q4_K", 256, 144),
    t(13, "Q5_K", 256, 176),
    t(14, "Q6_K", 256, 210),
    t(15, "Q8_K", 256, 292),
    t(16, "IQ2_XXS", 256, 66),
    t(17, "IQ2_XS", 256, 74),
    t(18, "IQ3_XXS", 256, 98),
    t(19, "IQ1_S", 256, 50),
    t(20, "IQ4_NL", 32, 18),
    t(21, "IQ3_S", 256, 110),
    t(22, "IQ2_S", 256, 82),
    t(23, "IQ4_XS", 256, 136),
    t(24, "I8", 1, 1),
    t(25, "I16", 1, 2),
    t(26, "I32", 1, 4),
    t(27, "I64", 1, 8),
    t(28, "F64", 1, 8),
    t(29, "IQ1_M", 256, 56),
    t(30, "BF16", 1, 2),
    t(34, "TQ1_0", 256, 54),
    t(35, "TQ2_0", 256, 66),
    t(39, "MXFP4", 32, 17),
    t(40, "NVFP4", 64, 36),
    t(41, "Q1_0", 128, 18),
    t(42, "Q2_0", 64, 18),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_rows_are_whole_blocks() {
        assert!(TYPES.is_sorted_by(|a, b| a.id < b.id));
        let q4_k = GgmlType::of(12).expect("known");
        assert_eq!(q4_k.size_of(&[4096, 4096]), Some(4096 / 256 * 144 * 4096));
        assert_eq!(q4_k.size_of(&[100, 2]), None, "not a whole number of blocks");
        assert_eq!(q4_k.size_of(&[256, u64::MAX]), None, "does not fit");
        let f32 = GgmlType::of(0).expect("known");
        assert_eq!((f32.size_of(&[]), f32.size_of(&[3]), f32.size_of(&[3, 0])), (Some(4), Some(12), Some(0)));
        for gone in [4, 5, 31, 36, 38, 43, u32::MAX] {
            assert_eq!(GgmlType::of(gone), None, "{gone}");
        }
        assert_eq!((GgmlType::removed(4), GgmlType::removed(38)), (Some("Q4_2"), Some("IQ4_NL_8_8")));
        // Every number below ggml's count is one or the other.
        for id in 0..43 {
            assert_ne!(GgmlType::of(id).is_some(), GgmlType::removed(id).is_some(), "{id}");
        }
        assert_eq!((GgmlType::removed(0), GgmlType::removed(43)), (None, None));
    }
}
