//! The object that a pickle makes: a state dict.
//!
//! Owns: finding its tensors with their names, and what else is in it. Promises: each container is visited once, however
//! often it is nested into others; names are cut, and their number and length are bounded. Leaves out: how it was made.

use super::{PLAIN, REPEATED};
use crate::digest::shorten;
use crate::format::description::Tensor;
use crate::format::pickle::heap::{DictKind, Id, Value};
use crate::format::pickle::{LIMIT, Out, Walk};
use std::collections::HashSet;

/// How deep tensors stand: an optimizer's state takes four.
const MAX_DEPTH: usize = 32;
/// Bytes of a tensor's name.
const MAX_NAME: usize = 1024;
/// Bytes of all names of one file.
const MAX_NAMES: usize = 8 << 20;

/// Whether the object is a dict.
pub(super) fn is_dict(walk: &Walk<'_>, root: Id) -> bool {
    matches!(walk.heap.value(root), Value::Dict(..))
}

/// A value that is to be visited: where it stands.
struct Visit {
    id: Id,
    /// The container's number among those visited, and the value's name in it.
    parent: Option<usize>,
    key: Key,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Key {
    Root,
    Of(Id),
    Index(usize),
}

/// The tensors in the object, in its order, by their paths in it: `model.0.weight`.
pub(super) fn tensors(walk: &Walk<'_>, root: Id, out: &mut Out<'_>) -> Vec<Tensor> {
    let mut state = State { walk, visited: Vec::new(), tensors: Vec::new(), names: 0 };
    let attached = walk.heap.attached.iter().rev();
    let mut seen: HashSet<Id> = HashSet::new();
    let mut todo: Vec<Visit> =
        attached.chain([&root]).map(|id| Visit { id: *id, parent: None, key: Key::Root, depth: 0 }).collect();
    while let Some(visit) = todo.pop() {
        let value = walk.heap.value(visit.id);
        match value {
            Value::Tensor(number) => {
                if let Err(why) = state.tensor(&visit, number) {
                    let place = out.place(walk.end);
                    out.add(&LIMIT, place, why);
                    break;
                }
            }
            Value::Tuple(..) | Value::List(_) | Value::Dict(..) if !seen.insert(visit.id) => {}
            Value::Tuple(..) | Value::List(_) | Value::Dict(..) if visit.depth >= MAX_DEPTH => {
                let place = out.place(walk.end);
                out.add(
                    &LIMIT,
                    place,
                    format!("values are nested more than {MAX_DEPTH} deep: a loader could run out of stack"),
                );
                break;
            }
            Value::Tuple(..) | Value::List(_) => {
                let (parent, depth) = (Some(state.visited.len()), visit.depth + 1);
                state.visited.push(visit);
                let items = walk.heap.items(value).iter().enumerate();
                todo.extend(items.rev().map(|(at, id)| Visit { id: *id, parent, key: Key::Index(at), depth }));
            }
            Value::Dict(_, kind) => {
                state.dict(&visit, value, kind, out);
                let (parent, depth) = (Some(state.visited.len()), visit.depth + 1);
                state.visited.push(visit);
                let pairs = walk.heap.items(value).chunks_exact(2).rev();
                todo.extend(pairs.map(|pair| Visit { id: pair[1], parent, key: Key::Of(pair[0]), depth }));
            }
            _ => state.leaf(value, out),
        }
    }
    state.tensors
}

struct State<'a> {
    walk: &'a Walk<'a>,
    visited: Vec<Visit>,
    tensors: Vec<Tensor>,
    names: usize,
}

impl State<'_> {
    /// Keys are text or numbers, each once.
    fn dict(&mut self, _visit: &Visit, value: Value, kind: DictKind, out: &mut Out<'_>) {
        let heap = &self.walk.heap;
        let mut keys: HashSet<(bool, std::borrow::Cow<'_, [u8]>)> = HashSet::new();
        for pair in heap.items(value).chunks_exact(2) {
            let key = match heap.value(pair[0]) {
                Value::Text(span, writing) => (true, span.bytes(self.walk.bytes, writing)),
                Value::Int(n) => (false, n.to_le_bytes().to_vec().into()),
                Value::Bool(b) => (false, i64::from(b).to_le_bytes().to_vec().into()),
                Value::None | Value::Float | Value::Big(_) | Value::Plain | Value::Global(_) => continue,
                Value::Tuple(..) | Value::Bytes if kind != DictKind::OrderedDict => continue,
                _ => {
                    let place = out.place(self.walk.end);
                    out.add(&PLAIN, place, "a dict has a key that is neither text nor a number");
                    continue;
                }
            };
            if !keys.insert(key) {
                let name = heap.text(self.walk.bytes, pair[0]).unwrap_or_else(|| "a number".into());
                let place = out.place(self.walk.end);
                out.add(
                    &REPEATED,
                    place,
                    format!("{:?} stands twice in a dict: the first or the last counts", shorten(&name)),
                );
            }
        }
    }

    fn leaf(&mut self, value: Value, out: &mut Out<'_>) {
        let what = match value {
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float | Value::Text(..) => return,
            Value::Plain => return,
            // What made these has been found.
            Value::Unknown | Value::Forbidden(_) => return,
            Value::Global(global) if global.is_data() => return,
            Value::Global(_) => "a function or a class",
            Value::Bytes => "bytes",
            Value::Set(_) => "a set",
            Value::Storage(_) => "a storage without a tensor",
            Value::Tuple(..) | Value::List(_) | Value::Dict(..) | Value::Tensor(_) => return,
        };
        let place = out.place(self.walk.end);
        out.add(&PLAIN, place, format!("the object holds {what}, which no state dict of tensors does"));
    }

    fn tensor(&mut self, visit: &Visit, number: u32) -> Result<(), String> {
        let Some(tensor) = self.walk.heap.tensors.get(number as usize) else { return Ok(()) };
        let mut parts = vec![self.part(visit.key)];
        let mut parent = visit.parent.and_then(|at| self.visited.get(at));
        while let Some(above) = parent {
            if !matches!(above.key, Key::Root) {
                parts.push(self.part(above.key));
            }
            parent = above.parent.and_then(|at| self.visited.get(at));
        }
        parts.reverse();
        let name = parts.join(".");
        self.names += name.len();
        if name.len() > MAX_NAME
            || self.names > MAX_NAMES
            || self.tensors.len() >= crate::format::pickle::calls::MAX_TENSORS
        {
            return Err(format!("the tensor {:?} has too long a name, or is one of too many", shorten(&name)));
        }
        let storage = self.walk.heap.storages.get(tensor.storage as usize);
        let class = storage.map_or("", |s| s.element.class);
        let dtype = if storage.is_some_and(|s| s.element == tensor.element) { class } else { tensor.element.dtype };
        let shape = tensor.shape.clone();
        self.tensors.push(Tensor { name, dtype: dtype.to_owned(), shape, offset: None, size_bytes: tensor.size });
        Ok(())
    }

    /// One component of a name, cut where none is that long.
    fn part(&self, key: Key) -> String {
        match key {
            Key::Root => "tensor".to_owned(),
            Key::Index(at) => at.to_string(),
            Key::Of(id) => match self.walk.heap.value(id) {
                Value::Text(span, _) if span.length() > MAX_NAME => "?".repeat(MAX_NAME + 1),
                Value::Text(..) => self.walk.heap.text(self.walk.bytes, id).unwrap_or_default(),
                Value::Int(n) => n.to_string(),
                _ => "?".to_owned(),
            },
        }
    }
}
