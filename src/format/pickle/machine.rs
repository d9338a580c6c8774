//! Runs a pickle's opcodes on values that stand for what a loader would have, and calls nothing.
//!
//! Owns: stack, marks and memo, as CPython's unpickler has them (Modules/_pickle.c, Lib/pickle.py). Promises: whatever is
//! called, built or set is resolved to what it is, however it got onto the stack, or is taken for hostile; the work and the
//! memory are bounded. Leaves out: which calls are allowed with which arguments (`calls`).

use super::globals::{Global, allowed};
use super::heap::{DictKind, Heap, Id, MAX_CONTAINERS, MAX_ITEMS, MAX_VALUES, Value};
use super::op::{Op, Ops, Span, Writing, text_of};
use super::{BUFFER, BUILD, CALL, CONTAINER, EXTENSION, FRAME, GLOBAL, LIMIT, MEMO, Out, PERSISTENT, PROTOCOL, STACK};
use crate::digest::shorten;
use crate::format::finding::{Halt, Parsed, Place, Rule};
use std::collections::HashMap;

/// Opcodes of one stream: a state dict takes some 40 for each tensor.
pub(super) const MAX_OPS: usize = 1 << 22;
/// Memo entries, and one more than the highest index: CPython takes memory for all below it.
pub(super) const MAX_MEMO: usize = 1 << 20;
/// Values on the stack.
pub(super) const MAX_STACK: usize = 1 << 20;
/// Times that what is not allowed is named in one stream, and other findings: the walk of a hostile file ends there.
const MAX_DEFECTS: usize = 256;
/// Arguments of a call: torch's functions take up to eight.
const MAX_ARGUMENTS: usize = 16;
/// Distinct globals that are named in findings.
const MAX_FORBIDDEN: usize = 32;
/// The newest protocol (CPython 3.8 to 3.14).
const NEWEST: u8 = 5;
/// Marks an index of the memo that holds nothing.
const NOTHING: Id = Id::MAX;

/// A global that is not allowed.
struct Forbidden {
    name: String,
    at: usize,
    called: bool,
}

pub(super) struct Machine<'a, 'o, 'f> {
    pub(super) ops: Ops<'a>,
    pub(super) out: &'f mut Out<'o>,
    pub(super) heap: Heap,
    stack: Vec<Id>,
    /// The stack's height at each mark.
    marks: Vec<usize>,
    memo: Vec<Id>,
    memoized: usize,
    frame_end: Option<usize>,
    /// Whether anything but PROTO has been seen.
    begun: bool,
    /// Where the opcode in hand begins.
    pub(super) at: usize,
    forbidden: Vec<Forbidden>,
    /// How many have been found.
    defects: usize,
    /// Dimensions of the tensors that were built.
    pub(super) dimensions: usize,
    /// Whether any global was named, allowed or not.
    pub(super) named: bool,
    /// Numbers of storages by key, and by view of the same.
    pub(super) storages: HashMap<String, u32>,
    /// What was given as hooks: empty at the call, and to be empty at the end.
    pub(super) hooks: Vec<Id>,
}

impl<'a, 'o, 'f> Machine<'a, 'o, 'f> {
    pub(super) fn new(bytes: &'a [u8], at: usize, out: &'f mut Out<'o>) -> Machine<'a, 'o, 'f> {
        let (stack, marks, memo, forbidden, hooks) = Default::default();
        Machine {
            ops: Ops::new(bytes, at, out.part),
            out,
            heap: Heap::default(),
            stack,
            marks,
            memo,
            memoized: 0,
            frame_end: None,
            begun: false,
            at,
            forbidden,
            defects: 0,
            dimensions: 0,
            named: false,
            storages: HashMap::new(),
            hooks,
        }
    }

    /// Runs up to STOP; the value that the loader would return.
    pub(super) fn run(&mut self) -> Parsed<Id> {
        let result = self.run_to_stop();
        // Also of what fails later: a loader has run it by then.
        for global in std::mem::take(&mut self.forbidden) {
            let (name, place) = (shorten(&global.name), self.ops.place(global.at));
            match global.called {
                true => self.out.add(&CALL, place, format!("calls {name}: loading it would run code")),
                false => self.out.add(&GLOBAL, place, format!("names {name}, which no state dict of tensors needs")),
            }
        }
        let hooks = std::mem::take(&mut self.hooks);
        self.check_hooks(&hooks);
        result
    }

    fn run_to_stop(&mut self) -> Parsed<Id> {
        for _ in 0..MAX_OPS {
            self.at = self.ops.at;
            if self.frame_end == Some(self.at) {
                self.frame_end = None;
            }
            let op = self.ops.next()?;
            if self.frame_end.is_some_and(|end| self.ops.at > end) {
                return Err(
                    self.found(&FRAME, "an opcode crosses its frame's end: unpicklers disagree on what follows")
                );
            }
            if op == Op::Stop {
                return self.stop();
            }
            self.step(op)?;
            self.begun = true;
            if self.defects > MAX_DEFECTS {
                return Err(self.found(&LIMIT, format!("the pickle has more than {MAX_DEFECTS} defects")));
            }
        }
        Err(self.found(&LIMIT, format!("the pickle has more than {MAX_OPS} opcodes")))
    }

    fn stop(&mut self) -> Parsed<Id> {
        let root = self.pop()?;
        if self.frame_end.is_some_and(|end| end != self.ops.at) {
            return Err(self.found(&FRAME, "the pickle stops before its frame does"));
        }
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(self.found(&STACK, "values are left over at STOP: no pickler writes that"));
        }
        Ok(root)
    }

    pub(super) fn place(&self) -> Place {
        self.ops.place(self.at)
    }

    pub(super) fn found(&self, rule: &'static Rule, message: impl Into<String>) -> Halt {
        Halt::found(rule, self.place(), message)
    }

    /// Notes a defect after which the walk goes on, up to a number of them.
    pub(super) fn note(&mut self, rule: &'static Rule, message: impl Into<String>) {
        self.defects += 1;
        let place = self.place();
        self.out.add(rule, place, message);
    }

    pub(super) fn push(&mut self, value: Value) -> Parsed<()> {
        if self.heap.values.len() >= MAX_VALUES {
            return Err(self.found(&LIMIT, format!("the pickle makes more than {MAX_VALUES} values")));
        }
        let id = self.heap.values.len() as Id;
        self.heap.values.push(value);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Parsed<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(self.found(&LIMIT, format!("the pickle's stack holds more than {MAX_STACK} values")));
        }
        self.stack.push(id);
        Ok(())
    }

    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn underflow(&self) -> Halt {
        self.found(
            &STACK,
            "an opcode takes a value from an empty stack: a loader runs what stands before it, then fails",
        )
    }

    fn pop(&mut self) -> Parsed<Id> {
        if self.stack.len() <= self.fence() {
            return Err(self.underflow());
        }
        self.stack.pop().ok_or_else(|| self.underflow())
    }

    fn top(&self) -> Parsed<Id> {
        if self.stack.len() <= self.fence() {
            return Err(self.underflow());
        }
        self.stack.last().copied().ok_or_else(|| self.underflow())
    }

    /// The values above the last mark, which is taken away.
    fn pop_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark =
            self.marks.pop().ok_or_else(|| self.found(&STACK, "an opcode looks for a mark, and there is none"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    pub(super) fn room(&self, more: usize) -> Parsed<()> {
        if self.heap.items.len() + self.heap.grown + more > MAX_ITEMS {
            return Err(
                self.found(&LIMIT, format!("the pickle's tuples, lists and dicts hold more than {MAX_ITEMS} items"))
            );
        }
        Ok(())
    }

    fn tuple(&mut self, items: &[Id]) -> Parsed<()> {
        self.room(items.len())?;
        let start = self.heap.items.len() as u32;
        self.heap.items.extend_from_slice(items);
        self.push(Value::Tuple(start, self.heap.items.len() as u32))
    }

    /// The number of a new container with these items.
    pub(super) fn grow(&mut self, items: Vec<Id>) -> Parsed<u32> {
        self.room(items.len())?;
        if self.heap.growing.len() >= MAX_CONTAINERS {
            return Err(
                self.found(&LIMIT, format!("the pickle makes more than {MAX_CONTAINERS} lists, dicts and sets"))
            );
        }
        self.heap.grown += items.len();
        self.heap.growing.push(items);
        Ok(self.heap.growing.len() as u32 - 1)
    }

    fn pairs(&self, items: &[Id]) -> Parsed<()> {
        match items.len() % 2 {
            0 => Ok(()),
            _ => Err(self.found(&CONTAINER, "a dict is given a key without a value")),
        }
    }

    /// Adds items to the list, dict or set on top of the stack.
    fn add(&mut self, items: Vec<Id>, kind: &str) -> Parsed<()> {
        let target = self.heap.value(self.top()?);
        let at = match (target, kind) {
            (Value::List(at), "list") | (Value::Dict(at, _), "dict") | (Value::Set(at), "set") => at,
            (Value::Unknown | Value::Forbidden(_), _) => {
                self.use_of(target);
                return Ok(());
            }
            _ => {
                let why = format!("items are added to what is no {kind}: a loader would call a method of it");
                return Err(self.found(&CONTAINER, why));
            }
        };
        if kind == "dict" {
            self.pairs(&items)?;
        }
        self.room(items.len())?;
        self.heap.grown += items.len();
        if let Some(list) = self.heap.growing.get_mut(at as usize) {
            list.extend(items);
        }
        Ok(())
    }

    fn step(&mut self, op: Op) -> Parsed<()> {
        match op {
            Op::Proto(version) => self.protocol(version),
            Op::Frame(length) => self.frame(length),
            Op::Stop => Ok(()),
            Op::Mark => {
                if self.marks.len() >= MAX_STACK {
                    return Err(self.found(&LIMIT, format!("the pickle sets more than {MAX_STACK} marks")));
                }
                self.marks.push(self.stack.len());
                Ok(())
            }
            // CPython's POP takes a mark away when nothing stands above it.
            Op::Pop if !self.marks.is_empty() && self.stack.len() == self.fence() => self.pop_mark().map(drop),
            Op::Pop => self.pop().map(drop),
            Op::PopMark => self.pop_mark().map(drop),
            Op::Dup => {
                let top = self.top()?;
                self.push_id(top)
            }
            Op::None => self.push(Value::None),
            Op::Bool(value) => self.push(Value::Bool(value)),
            Op::Int(value) => self.push(Value::Int(value)),
            Op::Big(span) => self.push(Value::Big(span)),
            Op::Float => self.push(Value::Float),
            Op::Text(span, writing) => self.push(Value::Text(span, writing)),
            Op::Bytes(_) | Op::Bytearray(_) => self.push(Value::Bytes),
            Op::Buffer => Err(self.found(&BUFFER, "the pickle wants a buffer from outside, which a file has not")),
            Op::EmptyList => self.container(Vec::new(), Value::List),
            Op::Append => {
                let item = self.pop()?;
                self.add(vec![item], "list")
            }
            Op::Appends => {
                let items = self.pop_mark()?;
                self.add(items, "list")
            }
            Op::List => {
                let items = self.pop_mark()?;
                self.container(items, Value::List)
            }
            Op::EmptyTuple => self.tuple(&[]),
            Op::Tuple => {
                let items = self.pop_mark()?;
                self.tuple(&items)
            }
            Op::TupleOf(count) => {
                let start = self.stack.len().checked_sub(count).filter(|start| *start >= self.fence());
                let items = self.stack.split_off(start.ok_or_else(|| self.underflow())?);
                self.tuple(&items)
            }
            Op::EmptyDict => self.container(Vec::new(), |at| Value::Dict(at, DictKind::Dict)),
            Op::Dict => {
                let items = self.pop_mark()?;
                self.pairs(&items)?;
                self.container(items, |at| Value::Dict(at, DictKind::Dict))
            }
            Op::SetItem => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.add(vec![key, value], "dict")
            }
            Op::SetItems => {
                let items = self.pop_mark()?;
                self.add(items, "dict")
            }
            Op::EmptySet => self.container(Vec::new(), Value::Set),
            Op::AddItems => {
                let items = self.pop_mark()?;
                self.add(items, "set")
            }
            Op::FrozenSet => {
                let items = self.pop_mark()?;
                self.container(items, Value::Set)
            }
            Op::Get(index) => self.recall(index),
            Op::Put(index) => self.memoize(index),
            Op::Memoize => self.memoize(self.memoized as u64),
            Op::Extension(code) => {
                let why = format!("extension code {code} stands for a global that only the loader's registry knows");
                self.note(&EXTENSION, why);
                self.push(Value::Unknown)
            }
            Op::Global(module, name) => {
                let global = self.global_of(module, name);
                self.push(global)
            }
            Op::StackGlobal => self.stack_global(),
            Op::Inst(module, name) => {
                let args = self.pop_mark()?;
                let global = self.global_of(module, name);
                let result = self.call(global, &args)?;
                self.push(result)
            }
            Op::Obj => {
                let items = self.pop_mark()?;
                let (class, args) = items.split_first().ok_or_else(|| self.underflow())?;
                let result = self.call(self.heap.value(*class), args)?;
                self.push(result)
            }
            Op::Reduce => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.call_with(callee, args)
            }
            Op::NewObj => {
                let (args, class) = (self.pop()?, self.pop()?);
                self.new_object(class, args)
            }
            Op::NewObjEx => {
                let (named, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                let named = self.heap.value(named);
                if !matches!(named, Value::Dict(..)) || !self.heap.items(named).is_empty() {
                    self.note(&CALL, "makes an object with named arguments, which no state dict of tensors needs");
                }
                self.new_object(class, args)
            }
            Op::Build => self.build(),
            Op::PersId(_) => {
                self.note(&PERSISTENT, "a persistent id stands in text: PyTorch knows none");
                self.push(Value::Unknown)
            }
            Op::BinPersId => {
                let id = self.pop()?;
                let storage = self.persistent(id)?;
                self.push(storage)
            }
        }
    }

    fn container(&mut self, items: Vec<Id>, of: fn(u32) -> Value) -> Parsed<()> {
        let at = self.grow(items)?;
        self.push(of(at))
    }

    fn protocol(&mut self, version: u8) -> Parsed<()> {
        if version > NEWEST {
            return Err(self.found(&PROTOCOL, format!("the pickle claims protocol {version}; {NEWEST} is the newest")));
        }
        if self.begun {
            self.note(&PROTOCOL, "the protocol is declared within the pickle: no pickler writes that");
        }
        Ok(())
    }

    fn frame(&mut self, length: u64) -> Parsed<()> {
        if self.frame_end.is_some() {
            return Err(self.found(&FRAME, "a frame begins within a frame"));
        }
        let end = usize::try_from(length).ok().and_then(|length| self.ops.at.checked_add(length));
        match end.filter(|end| *end <= self.ops.bytes.len()) {
            Some(end) => {
                self.frame_end = Some(end);
                Ok(())
            }
            None => Err(self.found(&FRAME, format!("a frame claims {length} bytes, more than there are"))),
        }
    }

    fn recall(&mut self, index: u64) -> Parsed<()> {
        let known = usize::try_from(index).ok().and_then(|index| self.memo.get(index)).filter(|id| **id != NOTHING);
        let id = *known.ok_or_else(|| self.found(&MEMO, format!("memo entry {index} is read before it is written")))?;
        self.push_id(id)
    }

    fn memoize(&mut self, index: u64) -> Parsed<()> {
        let id = self.top()?;
        let Some(index) = usize::try_from(index).ok().filter(|index| *index < MAX_MEMO) else {
            let why = format!("memo index {index} is over {MAX_MEMO}: a loader would take memory for all below it");
            return Err(self.found(&MEMO, why));
        };
        if self.memo.len() <= index {
            self.memo.resize(index + 1, NOTHING);
        }
        match self.memo.get_mut(index) {
            Some(entry) if *entry == NOTHING => *entry = id,
            _ => return Err(self.found(&MEMO, format!("memo entry {index} is written twice: no pickler does that"))),
        }
        self.memoized += 1;
        Ok(())
    }

    fn global_of(&mut self, module: Span, name: Span) -> Value {
        let [module, name] = [module, name].map(|span| text_of(self.ops.bytes, span, Writing::Plain));
        self.global(&module, &name)
    }

    fn global(&mut self, module: &str, name: &str) -> Value {
        self.named = true;
        if let Some(global) = allowed(module, name) {
            return Value::Global(global);
        }
        self.defects += 1;
        let full = shorten(&format!("{}.{}", shorten(module), shorten(name))).escape_debug().to_string();
        let known = self.forbidden.iter().position(|f| f.name == full);
        let index = known.unwrap_or_else(|| {
            if self.forbidden.len() < MAX_FORBIDDEN {
                self.forbidden.push(Forbidden { name: full, at: self.at, called: false });
            }
            self.forbidden.len() - 1
        });
        Value::Forbidden(index as u32)
    }

    fn stack_global(&mut self) -> Parsed<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let texts = self.heap.text(self.ops.bytes, module).zip(self.heap.text(self.ops.bytes, name));
        let global = match texts {
            Some((module, name)) => self.global(&module, &name),
            None => {
                self.named = true;
                self.note(&GLOBAL, "takes a global's name from what is no string: it cannot be known what it would be");
                Value::Unknown
            }
        };
        self.push(global)
    }

    /// What is not allowed was called, built or added to.
    pub(super) fn use_of(&mut self, value: Value) {
        match value {
            Value::Forbidden(index) => {
                if let Some(global) = self.forbidden.get_mut(index as usize) {
                    global.called = true;
                }
            }
            _ => self.note(&CALL, "uses a value that cannot be known: loading it could run code"),
        }
    }

    fn call_with(&mut self, callee: Id, args: Id) -> Parsed<()> {
        let (callee, args) = (self.heap.value(callee), self.heap.value(args));
        let result = match args {
            Value::Tuple(..) if self.heap.items(args).len() <= MAX_ARGUMENTS => {
                let args = self.heap.items(args).to_vec();
                self.call(callee, &args)?
            }
            // An unknown value as arguments, what is no tuple, or a long one: whatever is called, is called.
            _ => {
                match callee {
                    Value::Global(_) => self.note(&CALL, "calls a function with arguments that cannot be known"),
                    _ => self.use_of(callee),
                }
                Value::Unknown
            }
        };
        self.push(result)
    }

    fn new_object(&mut self, class: Id, args: Id) -> Parsed<()> {
        match self.heap.value(class) {
            Value::Global(Global::OrderedDict | Global::Counter | Global::Set)
            | Value::Forbidden(_)
            | Value::Unknown => self.call_with(class, args),
            _ => {
                self.note(&CALL, "makes an object of a class that no state dict of tensors needs");
                self.push(Value::Unknown)
            }
        }
    }

    /// BUILD: CPython calls `__setstate__`, or updates `__dict__`, or sets attributes. An OrderedDict of `state_dict()` has
    /// one attribute, `_metadata`; nothing else of a state dict is built.
    fn build(&mut self) -> Parsed<()> {
        let (state, object) = (self.pop()?, self.top()?);
        let (value, items) = (self.heap.value(object), self.heap.items(self.heap.value(state)));
        match (value, self.heap.value(state), items) {
            (Value::Dict(_, DictKind::OrderedDict), Value::Dict(_, DictKind::Dict), [key, attached])
                if self.heap.text(self.ops.bytes, *key).is_some_and(|key| key == "_metadata") =>
            {
                self.heap.attached.push(*attached);
                return Ok(());
            }
            (Value::Forbidden(_) | Value::Unknown, ..) => self.use_of(value),
            _ => {}
        }
        self.note(&BUILD, "sets attributes of an object: only an OrderedDict's _metadata may be set");
        Ok(())
    }
}
