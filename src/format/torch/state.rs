//! The object that a pickle makes: a state dict.
//!
//! Owns: finding its tensors with their names, and what else is in it. Promises: each container is visited once, however
//! often it is nested into others; names are cut, and their number and length are bounded. Leaves out: how it was made.

use super::{PLAIN, REPEATED};
use crate::digest::shorten;
use crate::format::description::Tensor;
use crate::format::finding::Rule;
use crate::format::pickle::heap::{DictKind, Id, Value};
use crate::format::pickle::{LIMIT, Out, Walk};
use std::hash::{BuildHasher, RandomState};

/// How deep values are nested: an optimizer's state takes four.
const MAX_DEPTH: usize = 32;
/// Bytes of a tensor's name.
const MAX_NAME: usize = 1024;
/// Bytes of all names of one file.
const MAX_NAMES: usize = 8 << 20;
/// Findings of one rule in one object.
const MAX_DEFECTS: usize = 64;

/// Whether the object is a dict.
pub(super) fn is_dict(walk: &Walk<'_>, root: Id) -> bool {
    matches!(walk.heap.value(root), Value::Dict(..))
}

/// The tensors in the object, in its order, by their paths in it: `model.0.weight`.
pub(crate) fn tensors(walk: &Walk<'_>, root: Id, out: &mut Out<'_>) -> Vec<Tensor> {
    let mut state = State {
        walk,
        seen: vec![false; walk.heap.len()],
        hashes: vec![0; walk.heap.len()],
        hasher: RandomState::new(),
        frames: Vec::new(),
        tensors: Vec::new(),
        names: 0,
        plain: 0,
        repeated: 0,
    };
    for id in walk.heap.attached.iter().chain([&root]) {
        if let Err(why) = state.visit(*id, out) {
            let place = out.place(walk.end);
            out.add(&LIMIT, place, why);
            break;
        }
    }
    state.tensors
}

/// A container on the way down.
struct Frame {
    value: Value,
    /// The item that is visited next.
    next: usize,
}

struct State<'a> {
    walk: &'a Walk<'a>,
    /// Containers that have been visited, by their numbers.
    seen: Vec<bool>,
    /// What a text hashes to, 0 where it has not been: each text is hashed once, in however many dicts it is a key.
    hashes: Vec<u64>,
    hasher: RandomState,
    frames: Vec<Frame>,
    tensors: Vec<Tensor>,
    names: usize,
    /// How often each rule was broken: many defects of the one do not hide the other, which a policy judges by itself.
    plain: usize,
    repeated: usize,
}

impl State<'_> {
    fn visit(&mut self, root: Id, out: &mut Out<'_>) -> Result<(), String> {
        self.enter(root, out)?;
        while let Some(frame) = self.frames.last_mut() {
            let (value, at) = (frame.value, frame.next);
            // Of a dict, the values: the keys have been looked at.
            frame.next += 1;
            let index = if matches!(value, Value::Dict(..)) { 2 * at + 1 } else { at };
            match self.walk.heap.items(value).get(index).copied() {
                Some(item) => self.enter(item, out)?,
                None => drop(self.frames.pop()),
            }
        }
        Ok(())
    }

    fn enter(&mut self, id: Id, out: &mut Out<'_>) -> Result<(), String> {
        let value = self.walk.heap.value(id);
        let what = match value {
            Value::Tensor(number) => return self.tensor(number),
            Value::Tuple(..) | Value::List(_) | Value::Dict(..) => return self.container(id, value, out),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float | Value::Text(..) => {
                return Ok(());
            }
            // What made the unknown has been found.
            Value::Plain | Value::Unknown | Value::Forbidden(_) => return Ok(()),
            Value::Global(global) if global.is_data() => return Ok(()),
            Value::Global(_) => "a function or a class",
            Value::Bytes => "bytes",
            Value::Set(_) => "a set",
            Value::Storage(_) => "a storage without a tensor",
        };
        self.note(&PLAIN, format!("the object holds {what}, which no state dict of tensors does"), out);
        Ok(())
    }

    fn note(&mut self, rule: &'static Rule, why: String, out: &mut Out<'_>) {
        let noted = if std::ptr::eq(rule, &REPEATED) { &mut self.repeated } else { &mut self.plain };
        *noted += 1;
        if *noted <= MAX_DEFECTS {
            let place = out.place(self.walk.end);
            out.add(rule, place, why);
        }
    }

    fn container(&mut self, id: Id, value: Value, out: &mut Out<'_>) -> Result<(), String> {
        match self.seen.get_mut(id as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return Ok(()),
        }
        if self.frames.len() >= MAX_DEPTH {
            return Err(format!("values are nested more than {MAX_DEPTH} deep: a loader could run out of stack"));
        }
        if let Value::Dict(_, kind) = value {
            self.keys(value, kind, out);
        }
        self.frames.push(Frame { value, next: 0 });
        Ok(())
    }

    /// Keys are text or numbers, each once.
    fn keys(&mut self, value: Value, kind: DictKind, out: &mut Out<'_>) {
        let walk = self.walk;
        let mut hashes = Vec::new();
        for key in walk.heap.items(value).iter().step_by(2) {
            match walk.heap.value(*key) {
                Value::Text(..) | Value::Int(_) | Value::Bool(_) => hashes.push((self.hash(*key), *key)),
                Value::None | Value::Float | Value::Big(_) | Value::Plain | Value::Global(_) => {}
                // Python's own dicts of an optimizer's or a scheduler's state.
                Value::Tuple(..) if kind != DictKind::OrderedDict => {}
                _ => self.note(&PLAIN, "a dict has a key that is neither text nor a number".to_owned(), out),
            }
        }
        hashes.sort_unstable();
        for pair in hashes.windows(2) {
            let [(a, _), (b, key)] = pair else { continue };
            if a == b && self.repeated < MAX_DEFECTS {
                let name = walk.heap.text(walk.bytes, *key).unwrap_or_else(|| "a number".to_owned());
                let why = format!("{:?} stands twice in a dict: the first or the last counts", shorten(&name));
                self.note(&REPEATED, why, out);
            }
        }
    }

    /// Equal for equal keys; for others only by a chance that the file cannot steer, as the hasher is random.
    fn hash(&mut self, id: Id) -> u64 {
        let (walk, known) = (self.walk, self.hashes.get(id as usize).copied().unwrap_or(0));
        if known != 0 {
            return known;
        }
        let hash = match walk.heap.value(id) {
            Value::Text(span, writing) => self.hasher.hash_one((true, span.bytes(walk.bytes, writing))),
            Value::Int(n) => self.hasher.hash_one((false, n)),
            Value::Bool(b) => self.hasher.hash_one((false, i64::from(b))),
            _ => 1,
        };
        if let Some(entry) = self.hashes.get_mut(id as usize) {
            *entry = hash;
        }
        hash
    }

    fn tensor(&mut self, number: u32) -> Result<(), String> {
        let Some(tensor) = self.walk.heap.tensors.get(number as usize) else { return Ok(()) };
        let parts: Vec<String> = self.frames.iter().map(|frame| self.part(frame)).collect();
        let name = if parts.is_empty() { "tensor".to_owned() } else { parts.join(".") };
        self.names += name.len();
        let many = crate::format::pickle::calls::MAX_TENSORS;
        if name.len() > MAX_NAME || self.names > MAX_NAMES || self.tensors.len() >= many {
            return Err(format!("the tensor {:?} has too long a name, or is one of too many", shorten(&name)));
        }
        let storage = self.walk.heap.storages.get(tensor.storage as usize);
        let typed = storage.filter(|s| s.element == tensor.element).map(|s| s.element.class);
        let (dtype, shape) = (typed.unwrap_or(tensor.element.dtype).to_owned(), tensor.shape.clone());
        self.tensors.push(Tensor { name, dtype, shape, offset: None, size_bytes: tensor.size });
        Ok(())
    }

    /// What the item in hand is called in its container.
    fn part(&self, frame: &Frame) -> String {
        let (heap, at) = (&self.walk.heap, frame.next - 1);
        let key = match frame.value {
            Value::Dict(..) => heap.items(frame.value).get(2 * at),
            _ => None,
        };
        match key.map(|key| (heap.value(*key), heap.text(self.walk.bytes, *key))) {
            None => at.to_string(),
            Some((_, Some(text))) => text,
            Some((Value::Int(n), _)) => n.to_string(),
            Some(_) => "?".to_owned(),
        }
    }
}
