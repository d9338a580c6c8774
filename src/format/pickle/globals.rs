//! Which globals a pickle may name.
//!
//! Owns: the allow-list. Promises: it holds what `torch.load(weights_only=True)` (torch/_weights_only_unpickler.py) needs for
//! an ordinary state dict of tensors, and nothing else; a name matches in whole, module and name apart. Leaves out: how each
//! may be called (`machine`).
//!
//! Of torch's own list these are missing, as no ordinary state dict needs them: `_rebuild_from_type_v2`,
//! `_rebuild_parameter_with_state` and `_rebuild_wrapper_subclass` (they set attributes of the file's choice), the two
//! `_rebuild_device_tensor_from_*` (numpy, or other devices), `_rebuild_meta_tensor_no_storage` (no weights), and the classes
//! of tensors (called, they give memory that was never written). `_rebuild_sparse_tensor` is known so that it can be named.

/// A global that may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    Counter,
    Set,
    Bytearray,
    Complex,
    /// `_codecs.encode`: how protocol 2 writes `bytes`.
    Encode,
    Size,
    Device,
    /// `torch.serialization._get_layout`.
    Layout,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildQuantized,
    RebuildSparse,
    /// `torch.per_tensor_affine` and its like.
    Scheme,
    Storage(&'static ElementType),
    Dtype(&'static ElementType),
}

impl Global {
    /// Whether it is a value: a dtype, a scheme.
    pub(crate) fn is_data(self) -> bool {
        matches!(self, Global::Dtype(_) | Global::Scheme)
    }
}

/// What a storage or a tensor holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ElementType {
    /// The storage class; empty where there is none.
    pub(crate) class: &'static str,
    /// The name in `torch.`.
    pub(crate) dtype: &'static str,
    pub(crate) bytes: u64,
}

const fn e(class: &'static str, dtype: &'static str, bytes: u64) -> ElementType {
    ElementType { class, dtype, bytes }
}

/// torch/storage.py, `_dtype_to_storage_type_map` and `_new_dtypes`. Types that pack several elements in a byte are missing.
static ELEMENTS: [ElementType; 25] = [
    e("DoubleStorage", "float64", 8),
    e("FloatStorage", "float32", 4),
    e("HalfStorage", "float16", 2),
    e("BFloat16Storage", "bfloat16", 2),
    e("LongStorage", "int64", 8),
    e("IntStorage", "int32", 4),
    e("ShortStorage", "int16", 2),
    e("CharStorage", "int8", 1),
    e("ByteStorage", "uint8", 1),
    e("BoolStorage", "bool", 1),
    e("ComplexDoubleStorage", "complex128", 16),
    e("ComplexFloatStorage", "complex64", 8),
    e("QInt8Storage", "qint8", 1),
    e("QUInt8Storage", "quint8", 1),
    e("QInt32Storage", "qint32", 4),
    e("UntypedStorage", "", 1),
    e("", "uint16", 2),
    e("", "uint32", 4),
    e("", "uint64", 8),
    e("", "float8_e4m3fn", 1),
    e("", "float8_e5m2", 1),
    e("", "float8_e4m3fnuz", 1),
    e("", "float8_e5m2fnuz", 1),
    e("", "float8_e8m0fnu", 1),
    e("", "complex32", 4),
];

const SCHEMES: [&str; 5] = [
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
];

/// The allowed global of this name, if it is one.
pub(super) fn allowed(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("collections", "Counter") => Global::Counter,
        // Protocol 2 writes Python 2's names; every unpickler maps them (CPython, Lib/_compat_pickle.py).
        ("builtins" | "__builtin__", "set") => Global::Set,
        ("builtins" | "__builtin__", "bytearray") => Global::Bytearray,
        ("builtins" | "__builtin__", "complex") => Global::Complex,
        ("_codecs", "encode") => Global::Encode,
        ("torch", "Size") => Global::Size,
        ("torch", "device") => Global::Device,
        ("torch.serialization", "_get_layout") => Global::Layout,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch._utils", "_rebuild_qtensor") => Global::RebuildQuantized,
        ("torch._utils", "_rebuild_sparse_tensor") => Global::RebuildSparse,
        ("torch.storage", "UntypedStorage") | ("torch" | "torch.cuda", _) => return of_torch(module, name),
        _ => return None,
    })
}

fn of_torch(module: &str, name: &str) -> Option<Global> {
    if name.is_empty() {
        return None;
    }
    if module == "torch" && SCHEMES.contains(&name) {
        return Some(Global::Scheme);
    }
    let storage = ELEMENTS.iter().find(|e| e.class == name).map(Global::Storage);
    let dtype = || ELEMENTS.iter().find(|e| e.dtype == name && module == "torch").map(Global::Dtype);
    storage.or_else(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_allowed_in_whole_or_not_at_all() {
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch.cuda", "HalfStorage"),
            ("torch.storage", "UntypedStorage"),
            ("torch", "float8_e4m3fn"),
            ("torch", "per_tensor_affine"),
            ("__builtin__", "set"),
            ("builtins", "bytearray"),
        ] {
            assert!(allowed(module, name).is_some(), "{module}.{name}");
        }
        for (module, name) in [
            ("torch", "_utils._rebuild_tensor_v2"),
            ("torch._utils", "_rebuild_tensor_v2 "),
            ("torch", ""),
            ("torch", "Tensor"),
            ("torch", "load"),
            ("torch.cuda", "float32"),
            ("torch.cuda", "per_tensor_affine"),
            ("torch.storage", "FloatStorage"),
            ("torch.storage", "TypedStorage"),
            ("os", "FloatStorage"),
            ("torch._utils", "_import_dotted_name"),
            ("torch._utils", "_rebuild_device_tensor_from_numpy"),
            ("torch._utils", "_rebuild_wrapper_subclass"),
            ("torch._tensor", "_rebuild_from_type_v2"),
            ("collections", "defaultdict"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("_codecs", "decode"),
            ("", ""),
        ] {
            assert_eq!(allowed(module, name), None, "{module}.{name}");
        }
    }
}
