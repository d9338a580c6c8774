//! What may be called, with what, and what comes out.
//!
//! Owns: the arguments of each allowed global, and the persistent ids by which a pickle asks for storages. Promises: an
//! allowed function with other arguments than `torch.save` writes is refused; a tensor lies within its storage. Leaves out:
//! whether the storage is there (`torch`).
//!
//! ```text
//! _rebuild_tensor(storage, offset, size, stride)                         (torch/_utils.py)
//! _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])
//! _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])
//! _rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)
//! _rebuild_parameter(tensor, requires_grad, hooks)
//! persistent id: ("storage", class, key, location, count[, None | (key, offset, count)])     (torch/serialization.py)
//! ```

use super::globals::{ElementType, Global};
use super::heap::{DictKind, Id, StorageRef, TensorRef, Value};
use super::machine::Machine;
use super::{ARGUMENTS, CALL, LIMIT, PERSISTENT};
use crate::digest::shorten;
use crate::format::finding::Parsed;
use crate::format::torch::{BOUNDS, EXPANDED, HOOKS, KEY, LOCATION, SPARSE, STORAGE};

/// Tensors, and storages, of one pickle.
pub(crate) const MAX_TENSORS: usize = 1 << 16;
/// Dimensions of all tensors of one pickle: four for each.
pub(crate) const MAX_DIMENSIONS: usize = 4 * MAX_TENSORS;

impl Machine<'_, '_, '_> {
    /// Calls `callee`, as far as it is known what that does.
    pub(super) fn call(&mut self, callee: Value, args: &[Id]) -> Parsed<Value> {
        let Value::Global(global) = callee else {
            match callee {
                Value::Forbidden(_) | Value::Unknown => self.use_of(callee),
                _ => self.note(&CALL, "calls a value that is no function: loaders disagree on what happens"),
            }
            return Ok(Value::Unknown);
        };
        let result = match global {
            Global::OrderedDict => self.ordered_dict(args)?,
            Global::Counter => match args {
                [] => Some(Value::Dict(self.grow(Vec::new())?, DictKind::Counter)),
                [of] => match self.heap.value(*of) {
                    dict @ Value::Dict(..) => {
                        let items = self.heap.items(dict).to_vec();
                        Some(Value::Dict(self.grow(items)?, DictKind::Counter))
                    }
                    _ => None,
                },
                _ => None,
            },
            Global::Set => match args {
                [] => Some(Value::Set(self.grow(Vec::new())?)),
                [of] => match self.heap.value(*of) {
                    list @ Value::List(_) => {
                        let items = self.heap.items(list).to_vec();
                        Some(Value::Set(self.grow(items)?))
                    }
                    _ => None,
                },
                _ => None,
            },
            Global::Bytearray => match args {
                [] => Some(Value::Bytes),
                [of] => (self.heap.value(*of) == Value::Bytes).then_some(Value::Bytes),
                [of, codec] => self.latin(*of, *codec),
                _ => None,
            },
            Global::Encode => match args {
                [of, codec] => self.latin(*of, *codec),
                _ => None,
            },
            Global::Complex => {
                let number = |id: &Id| matches!(self.heap.value(*id), Value::Float | Value::Int(_));
                (args.len() == 2 && args.iter().all(number)).then_some(Value::Float)
            }
            Global::Size => match args {
                [of] => self.heap.counts(*of).map(|_| Value::Plain),
                _ => None,
            },
            Global::Device => match args {
                [kind] => self.is_text(*kind).then_some(Value::Plain),
                [kind, index] => {
                    let fits = self.is_text(*kind) && self.heap.count(*index).is_some();
                    fits.then_some(Value::Plain)
                }
                _ => None,
            },
            Global::Layout => match args {
                [name] => self.is_text(*name).then_some(Value::Plain),
                _ => None,
            },
            Global::RebuildTensor => match args {
                [_, _, _, _] => self.tensor(args, None)?,
                _ => None,
            },
            Global::RebuildTensorV2 => match args {
                [_, _, _, _, grad, hooks, metadata @ ..] if self.plain_tail(*grad, *hooks, metadata) => {
                    self.tensor(args, None)?
                }
                _ => None,
            },
            Global::RebuildTensorV3 => match args {
                [_, _, _, _, grad, hooks, dtype, metadata @ ..] if self.plain_tail(*grad, *hooks, metadata) => {
                    match self.heap.value(*dtype) {
                        Value::Global(Global::Dtype(element)) => self.tensor(args, Some(element))?,
                        _ => None,
                    }
                }
                _ => None,
            },
            Global::RebuildQuantized => match args {
                [_, _, _, _, quantizer, grad, hooks]
                    if self.plain_tail(*grad, *hooks, &[]) && self.quantizer(*quantizer) =>
                {
                    self.tensor(args, None)?
                }
                _ => None,
            },
            Global::RebuildParameter => match args {
                [tensor, grad, hooks] if self.plain_tail(*grad, *hooks, &[]) => {
                    Some(self.heap.value(*tensor)).filter(|tensor| matches!(tensor, Value::Tensor(_) | Value::Unknown))
                }
                _ => None,
            },
            Global::RebuildSparse => {
                let why =
                    "builds a sparse tensor: its indices are data, and a loader that trusts them reads out of bounds";
                self.note(&SPARSE, why);
                Some(Value::Unknown)
            }
            Global::Scheme | Global::Storage(_) | Global::Dtype(_) => {
                self.note(&CALL, format!("calls {global:?}, which a state dict of tensors only names"));
                return Ok(Value::Unknown);
            }
        };
        if result.is_none() {
            let why = format!("calls {} with arguments that torch.save does not write", name_of(global));
            self.note(&ARGUMENTS, why);
        }
        Ok(result.unwrap_or(Value::Unknown))
    }

    fn is_text(&self, id: Id) -> bool {
        matches!(self.heap.value(id), Value::Text(..))
    }

    fn says(&self, id: Id, words: &[&str]) -> bool {
        self.heap.text(self.ops.bytes, id).is_some_and(|text| words.contains(&text.as_str()))
    }

    /// Bytes written as text. Another codec would compress, or be the loader's own.
    fn latin(&self, of: Id, codec: Id) -> Option<Value> {
        (self.is_text(of) && self.says(codec, &["latin1", "latin-1"])).then_some(Value::Bytes)
    }

    /// `OrderedDict()`, or as Python 2 wrote it, `OrderedDict([[key, value], ...])`.
    fn ordered_dict(&mut self, args: &[Id]) -> Parsed<Option<Value>> {
        let pairs = match args {
            [] => Value::None,
            [pairs] => self.heap.value(*pairs),
            _ => return Ok(None),
        };
        if !args.is_empty() && !matches!(pairs, Value::List(_)) {
            return Ok(None);
        }
        self.room(2 * self.heap.items(pairs).len())?;
        let mut items = Vec::new();
        for pair in self.heap.items(pairs) {
            let [key, value] = self.heap.items(self.heap.value(*pair)) else {
                return Err(self.found(&ARGUMENTS, "calls collections.OrderedDict with what are no pairs"));
            };
            items.extend([*key, *value]);
        }
        Ok(Some(Value::Dict(self.grow(items)?, DictKind::OrderedDict)))
    }

    /// `requires_grad, hooks[, metadata]`, with no hooks.
    fn plain_tail(&mut self, grad: Id, hooks: Id, metadata: &[Id]) -> bool {
        let metadata = match metadata {
            [] => true,
            [of] => match self.heap.value(*of) {
                Value::None => true,
                dict @ Value::Dict(_, DictKind::Dict) => self.heap.items(dict).chunks(2).all(|pair| match pair {
                    [key, value] => {
                        self.says(*key, &["conj", "neg"]) && matches!(self.heap.value(*value), Value::Bool(_))
                    }
                    _ => false,
                }),
                _ => false,
            },
            _ => false,
        };
        let hooked = match self.heap.value(hooks) {
            Value::None => true,
            Value::Dict(..) => {
                if self.hooks.last() != Some(&hooks) {
                    self.hooks.push(hooks);
                }
                true
            }
            _ => false,
        };
        metadata && hooked && matches!(self.heap.value(grad), Value::Bool(_) | Value::Int(0 | 1))
    }

    /// Hooks are called when the tensor is used. Looked at when all is built: they can be filled after the call.
    pub(super) fn check_hooks(&mut self, hooks: &[Id]) {
        if hooks.iter().any(|id| !self.heap.items(self.heap.value(*id)).is_empty()) {
            self.note(&HOOKS, "a tensor has hooks, which are called when it is used");
        }
    }

    /// `(scheme, scale, zero_point[, axis])`: numbers, or tensors of them.
    fn quantizer(&self, id: Id) -> bool {
        let Value::Tuple(..) = self.heap.value(id) else { return false };
        let number = |id: &Id| matches!(self.heap.value(*id), Value::Float | Value::Int(_) | Value::Tensor(_));
        match self.heap.items(self.heap.value(id)) {
            [scheme, rest @ ..] => {
                self.heap.value(*scheme) == Value::Global(Global::Scheme)
                    && (2..=3).contains(&rest.len())
                    && rest.iter().all(number)
            }
            [] => false,
        }
    }

    /// A tensor of `storage, offset, size, stride`, the first of `args`; none when they are something else.
    fn tensor(&mut self, args: &[Id], dtype: Option<&'static ElementType>) -> Parsed<Option<Value>> {
        let &[storage, offset, shape, stride, ..] = args else { return Ok(None) };
        let number = match self.heap.value(storage) {
            Value::Storage(number) => number,
            Value::Unknown => return Ok(Some(Value::Unknown)),
            _ => return Ok(None),
        };
        let Some(of) = self.heap.storages.get(number as usize) else { return Ok(None) };
        let element = dtype.unwrap_or(of.element);
        let count = of.view.map_or(of.count, |(_, count)| count);
        let has = count.saturating_mul(of.element.bytes);
        let key = of.key.clone();
        let (Some(offset), Some(shape), Some(stride)) =
            (self.heap.count(offset), self.heap.counts(shape), self.heap.counts(stride))
        else {
            self.note(
                &BOUNDS,
                format!("a tensor in storage {key:?} has an offset, size or stride that is no number from 0 up"),
            );
            return Ok(Some(Value::Unknown));
        };
        if shape.len() != stride.len() {
            self.note(
                &BOUNDS,
                format!("a tensor in storage {key:?} has {} sizes and {} strides", shape.len(), stride.len()),
            );
            return Ok(Some(Value::Unknown));
        }
        let needs = extent(offset, &shape, &stride).and_then(|n| n.checked_mul(element.bytes));
        let size = shape.iter().try_fold(element.bytes, |n, d| n.checked_mul(*d));
        let (Some(size), Some(true)) = (size, needs.map(|needs| needs <= has)) else {
            let why = format!(
                "a tensor of shape {shape:?} at element {offset} of storage {key:?} reaches past the storage's {has} bytes: \
                 a loader would read out of bounds"
            );
            self.note(&BOUNDS, why);
            return Ok(Some(Value::Unknown));
        };
        if size > has {
            let why = format!(
                "a tensor of shape {shape:?} repeats the {has} bytes of storage {key:?}: a copy of it takes {size} bytes"
            );
            self.note(&EXPANDED, why);
        }
        if self.heap.tensors.len() >= MAX_TENSORS {
            return Err(self.found(&LIMIT, format!("the pickle builds more than {MAX_TENSORS} tensors")));
        }
        self.dimensions += shape.len();
        if self.dimensions > MAX_DIMENSIONS {
            let why = format!("the pickle's tensors have more than {MAX_DIMENSIONS} dimensions together");
            return Err(self.found(&LIMIT, why));
        }
        self.heap.tensors.push(TensorRef { storage: number, element, shape, size });
        Ok(Some(Value::Tensor(self.heap.tensors.len() as u32 - 1)))
    }

    /// What a persistent id asks the loader for.
    pub(super) fn persistent(&mut self, id: Id) -> Parsed<Value> {
        let value = self.heap.value(id);
        let items = if let Value::Tuple(..) = value { self.heap.items(value) } else { &[] };
        let (kind, rest) = items.split_first().map_or((None, &[][..]), |(kind, rest)| (Some(*kind), rest));
        let is_storage = kind.is_some_and(|kind| self.says(kind, &["storage"]));
        let Some((&[class, key, place, count], view)) = rest.split_first_chunk::<4>().filter(|_| is_storage) else {
            self.note(
                &PERSISTENT,
                "a persistent id is not that of a storage: a loader would have to make something else",
            );
            return Ok(Value::Unknown);
        };
        let known = match self.heap.value(class) {
            Value::Global(Global::Storage(element)) => {
                let text = |id| self.heap.text(self.ops.bytes, id);
                text(key).zip(text(place)).zip(self.heap.count(count)).map(|((k, p), n)| (element, k, p, n))
            }
            _ => None,
        };
        let view = match view {
            [] => Some(None),
            [only] => self.view(*only),
            _ => None,
        };
        let (Some((element, key, place, count)), Some(view)) = (known, view) else {
            self.note(&PERSISTENT, "a storage's class, key, place, count or view is not what torch.save writes");
            return Ok(Value::Unknown);
        };
        if !is_key(&key) {
            let why = format!("storage {:?} is no plain name: it is part of a path in the archive", shorten(&key));
            self.note(&KEY, why);
            return Ok(Value::Unknown);
        }
        if !is_location(&place) {
            self.note(&LOCATION, format!("storage {key:?} is at {:?}, which is no device", shorten(&place)));
        }
        let bytes = count.checked_mul(element.bytes).filter(|bytes| *bytes <= i64::MAX as u64);
        let within = view.is_none_or(|(at, n)| at.checked_add(n).is_some_and(|end| end <= count));
        if bytes.is_none() || !within {
            self.note(&BOUNDS, format!("storage {key:?} of {count} elements, or its view, is larger than can be"));
            return Ok(Value::Unknown);
        }
        self.storage(StorageRef { key, element, count, view, at: self.at })
    }

    fn storage(&mut self, storage: StorageRef) -> Parsed<Value> {
        let first = self.storages.get(&storage.key).copied();
        if let Some(known) = first.and_then(|n| self.heap.storages.get(n as usize)) {
            // A loader keeps the first under this key, whatever the second says of itself.
            if (known.element, known.count) != (storage.element, storage.count) {
                let why = format!("storage {:?} is asked for twice, as different things", storage.key);
                self.note(&STORAGE, why);
                return Ok(Value::Unknown);
            }
            if let (Some(number), true) = (first, known.view == storage.view) {
                return Ok(Value::Storage(number));
            }
        }
        if self.heap.storages.len() >= MAX_TENSORS {
            return Err(self.found(&LIMIT, format!("the pickle asks for more than {MAX_TENSORS} storages")));
        }
        let number = self.heap.storages.len() as u32;
        self.storages.entry(storage.key.clone()).or_insert(number);
        self.heap.storages.push(storage);
        Ok(Value::Storage(number))
    }

    /// A legacy view: nothing, or `(key, offset, count)`; none when it is something else.
    fn view(&self, id: Id) -> Option<Option<(u64, u64)>> {
        let value = self.heap.value(id);
        match (value, self.heap.items(value)) {
            (Value::None, _) => Some(None),
            (Value::Tuple(..), [key, at, count]) if self.is_text(*key) => {
                self.heap.count(*at).zip(self.heap.count(*count)).map(Some)
            }
            _ => None,
        }
    }
}

/// How many elements of a storage a tensor reaches over.
fn extent(offset: u64, shape: &[u64], stride: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(offset);
    }
    let last =
        shape.iter().zip(stride).try_fold(offset, |at, (n, step)| at.checked_add((n - 1).checked_mul(*step)?))?;
    last.checked_add(1)
}

/// Keys are numbers in decimal; no letter does harm.
fn is_key(key: &str) -> bool {
    (1..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `cpu`, `cuda:0`, `meta`, `mps`, `xpu:1`, ...
fn is_location(place: &str) -> bool {
    let (kind, index) = place.split_once(':').unwrap_or((place, "0"));
    (1..=32).contains(&kind.len())
        && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && (1..=4).contains(&index.len())
        && index.bytes().all(|b| b.is_ascii_digit())
}

fn name_of(global: Global) -> &'static str {
    match global {
        Global::OrderedDict => "collections.OrderedDict",
        Global::Counter => "collections.Counter",
        Global::Set => "set",
        Global::Bytearray => "bytearray",
        Global::Complex => "complex",
        Global::Encode => "_codecs.encode",
        Global::Size => "torch.Size",
        Global::Device => "torch.device",
        Global::Layout => "torch.serialization._get_layout",
        Global::RebuildTensor => "torch._utils._rebuild_tensor",
        Global::RebuildTensorV2 => "torch._utils._rebuild_tensor_v2",
        Global::RebuildTensorV3 => "torch._utils._rebuild_tensor_v3",
        Global::RebuildParameter => "torch._utils._rebuild_parameter",
        Global::RebuildQuantized => "torch._utils._rebuild_qtensor",
        Global::RebuildSparse => "torch._utils._rebuild_sparse_tensor",
        Global::Scheme => "a quantization scheme",
        Global::Storage(_) => "a storage class",
        Global::Dtype(_) => "a dtype",
    }
}
