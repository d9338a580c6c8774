//! The values of a pickle, as far as they can be known without running it.
//!
//! Owns: [`Heap`]: values by number. Promises: a value that is used twice stands here once, so that no nesting of tuples
//! expands; the number of values and of their parts is bounded. Leaves out: what makes them (`machine`).

use super::globals::{ElementType, Global};
use super::op::{Span, Writing, text_of};

/// A value's number.
pub(crate) type Id = u32;

/// Values of one stream: a state dict takes some 15 for each tensor.
pub(super) const MAX_VALUES: usize = 1 << 20;
/// Items of all tuples, lists and dicts of one stream.
pub(super) const MAX_ITEMS: usize = 1 << 21;
/// Lists, dicts and sets of one stream.
pub(super) const MAX_CONTAINERS: usize = 1 << 18;
/// Bytes of text that are looked at: more than any name that is compared with.
const MAX_TEXT: u32 = 4096;

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits.
    Big(Span),
    /// A float or a complex number.
    Float,
    Text(Span, Writing),
    /// `bytes` or `bytearray`.
    Bytes,
    /// `start..end` of the items.
    Tuple(u32, u32),
    /// A list, by its number among the growing containers.
    List(u32),
    /// A `dict`, `OrderedDict` or `Counter`: keys and values by turns.
    Dict(u32, DictKind),
    Set(u32),
    Global(Global),
    /// A global that is not allowed, by its number.
    Forbidden(u32),
    /// Out of what was not allowed: nothing is known of it.
    Unknown,
    /// `torch.Size`, `torch.device`, a layout, a dtype.
    Plain,
    /// A storage, by its number.
    Storage(u32),
    /// A tensor, by its number.
    Tensor(u32),
}

/// Which class of dict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DictKind {
    Dict,
    OrderedDict,
    Counter,
}

/// A storage that the pickle asks its loader for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageRef {
    pub(crate) key: String,
    pub(crate) element: &'static ElementType,
    /// How many elements the whole storage has.
    pub(crate) count: u64,
    /// A legacy view: the part of it that is meant.
    pub(crate) view: Option<(u64, u64)>,
    /// Where the pickle asks for it.
    pub(crate) at: usize,
}

/// A tensor that the pickle builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorRef {
    /// The storage's number.
    pub(crate) storage: u32,
    pub(crate) element: &'static ElementType,
    pub(crate) shape: Vec<u64>,
    /// Bytes of its elements.
    pub(crate) size: u64,
}

/// All values of one stream.
#[derive(Debug, Default)]
pub(crate) struct Heap {
    pub(super) values: Vec<Value>,
    pub(super) items: Vec<Id>,
    pub(super) growing: Vec<Vec<Id>>,
    /// Items in `growing`.
    pub(super) grown: usize,
    pub(crate) storages: Vec<StorageRef>,
    pub(crate) tensors: Vec<TensorRef>,
    /// What BUILD attached to dicts: held to the same rules as the object.
    pub(crate) attached: Vec<Id>,
}

impl Heap {
    pub(crate) fn value(&self, id: Id) -> Value {
        self.values.get(id as usize).copied().unwrap_or(Value::Unknown)
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The items of a tuple, a list, a set or a dict (keys and values by turns).
    pub(crate) fn items(&self, value: Value) -> &[Id] {
        match value {
            Value::Tuple(start, end) => self.items.get(start as usize..end as usize).unwrap_or_default(),
            Value::List(at) | Value::Dict(at, _) | Value::Set(at) => {
                self.growing.get(at as usize).map_or(&[], Vec::as_slice)
            }
            _ => &[],
        }
    }

    /// The text of a value, when it is text; cut where it is longer than any name.
    pub(crate) fn text(&self, bytes: &[u8], id: Id) -> Option<String> {
        match self.value(id) {
            Value::Text(span, writing) => Some(text_of(bytes, Span { len: span.len.min(MAX_TEXT), ..span }, writing)),
            _ => None,
        }
    }

    /// The bytes of an integer beyond 64 bits, little-endian.
    pub(crate) fn big<'a>(&self, bytes: &'a [u8], id: Id) -> Option<&'a [u8]> {
        match self.value(id) {
            Value::Big(span) => Some(super::op::bytes_of(bytes, span)),
            _ => None,
        }
    }

    /// A number that is no less than 0.
    pub(super) fn count(&self, id: Id) -> Option<u64> {
        match self.value(id) {
            Value::Int(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// A tuple, list or `torch.Size` of numbers that are no less than 0.
    pub(super) fn counts(&self, id: Id) -> Option<Vec<u64>> {
        let value = self.value(id);
        if !matches!(value, Value::Tuple(..) | Value::List(_)) || self.items(value).len() > 64 {
            return None;
        }
        self.items(value).iter().map(|i| self.count(*i)).collect()
    }
}
