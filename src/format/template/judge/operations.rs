//! What expressions may give, and what they may not do.
//!
//! Owns: the evaluation of nodes, operands first. Promises: each attribute, index, call, filter and test of a template comes
//! by here and is held against `rules`. Leaves out: statements and variables.

use super::super::MAX_MADE;
use super::super::cost::Fed;
use super::super::node::{Arguments, Callee, Expr, Operator};
use super::super::parser::{Code, Id};
use super::super::places::{plain_format, width};
use super::super::rules::{
    ATTRIBUTE, CALL, EXHAUSTION, FORMAT, FUNCTIONS, Gives, INDEX, NAME, field, internal_object, method,
};
use super::super::value::{CONTAINER, DATA, MADE, NAMESPACE, NUMBER, Text, Value};
use super::{Block, Judge};
use crate::digest::shorten;
use std::rc::Rc;

/// Pairs of constants that are put together one by one.
const MAX_FOLDED: usize = 64;
/// A power beyond this is a number no template needs.
const MAX_POWER: u64 = 1_000_000_000_000_000;

impl<'a> Judge<'a> {
    /// Goes through the nodes of an expression.
    pub(super) fn evaluate(&mut self, code: Code) -> Value {
        let program = self.program;
        self.begun = (code.first, 0);
        for id in code.first..=code.root {
            let Some(node) = program.nodes.get(id) else { break };
            let mut value = self.node(node.at, &node.expr);
            self.settle(&mut value, &node.expr);
            if matches!(&node.expr, Expr::Name(name) if **name == *"loop") && !self.bases.contains(&id) {
                self.loop_escapes();
            }
            if value.bytes > MAX_MADE {
                let why = "it could take all of an engine's memory";
                self.find(&EXHAUSTION, node.at, format!("the template makes {} bytes by itself: {why}", value.bytes));
                value.bytes = 1;
            }
            if let Some(slot) = self.values.get_mut(id) {
                *slot = value;
            }
        }
        self.value(code.root)
    }

    /// Puts in what may have been put in since it was made.
    fn settle(&self, value: &mut Value, expr: &Expr) {
        let new = matches!(expr, Expr::List(_) | Expr::Dict(_));
        if value.own.has(CONTAINER) && !new || self.data_changed && value.own.has(DATA) {
            value.inner.join(&self.stored);
        }
        if value.own.has(NAMESPACE) {
            value.bytes = value.bytes.max(self.field_bytes);
        }
    }

    pub(super) fn value(&self, id: Id) -> Value {
        self.values.get(id).cloned().unwrap_or_default()
    }

    fn node(&mut self, at: usize, expr: &'a Expr) -> Value {
        match expr {
            Expr::Taken => Value::default(),
            Expr::Body => Value::made(),
            Expr::Str(text) => self.constant(text),
            Expr::Int(number) => Value::number(*number),
            Expr::Number => Value::number(1),
            Expr::Name(name) => self.read(at, name),
            Expr::Attribute(value, name) => {
                let numeric = "index index0 revindex revindex0 length depth depth0 first last";
                if self.is_loop(*value) && numeric.split(' ').any(|n| n == &**name) {
                    return Value::number(1);
                }
                self.check_field(at, name);
                let value = self.value(*value);
                self.check_bound(at, &value.own, name);
                self.field_of(&value, name)
            }
            Expr::Index(value, index) => self.index(at, *value, *index),
            Expr::Slice(value) => {
                let value = self.value(*value);
                Value { own: value.own.altered(), ..value }
            }
            Expr::Call(callee, arguments) => self.call(at, callee, arguments),
            Expr::Filter(value, name, arguments) => self.filter(at, *value, name, arguments),
            Expr::Test(name, arguments) => {
                self.check_test(at, name);
                self.check_spread(at, arguments);
                Value::number(1)
            }
            Expr::Unary(value) => Value::number(self.value(*value).number),
            Expr::Binary(operator, left, right) => self.binary(at, *operator, *left, *right),
            Expr::Conditional(value, other) => {
                let other = other.map_or_else(|| Value::number(1), |id| self.value(id));
                self.value(*value).joined(&other)
            }
            Expr::List(items) => self.list(items.iter(), items.len()),
            Expr::Dict(pairs) => self.list(pairs.iter().flat_map(|(key, value)| [key, value]), pairs.len()),
        }
    }

    pub(super) fn constant(&mut self, text: &str) -> Value {
        let kept = self.texts.keep(text).map(super::Atoms::constant);
        let own = kept.unwrap_or_else(|| super::Atoms::of(MADE));
        let (count, bytes) = (text.chars().count() as u64, text.len() as u64);
        Value { own, count, bytes, ..Value::number(1) }
    }

    fn list<'i>(&self, items: impl Iterator<Item = &'i Id>, count: usize) -> Value {
        let mut list = Value { count: count as u64, ..Value::of(CONTAINER, 0) };
        items.for_each(|id| self.values.get(*id).into_iter().for_each(|value| list.hold(value)));
        list
    }

    pub(super) fn expr(&self, id: Id) -> Option<&'a Expr> {
        self.program.nodes.get(id).map(|n| &n.expr)
    }

    pub(super) fn is_loop(&self, id: Id) -> bool {
        matches!(self.expr(id), Some(Expr::Name(name)) if **name == *"loop") && !self.assigned.contains("loop")
    }

    pub(super) fn check_field(&mut self, at: usize, name: &str) {
        if !field(name) {
            let message =
                format!("the template reaches the attribute {:?}: rendering it could run code", shorten(name));
            self.find(&ATTRIBUTE, at, message);
        }
    }

    /// A method that is read can be called by any name: `{'count': '{0.x}'.format}.count(y)`.
    pub(super) fn check_bound(&mut self, at: usize, of: &super::Atoms, name: &str) {
        // Templates read a field of that name (JSON Schema's) from what may be data, or a text that they have made.
        let plain = |text: &Text| plain_format(self.texts.text(*text));
        let may_be_field = of.has(DATA) && of.texts().iter().all(plain);
        if name == "format" && of.own_text() && !may_be_field {
            self.check_format(at, of);
        }
        if method(name) == Some(Gives::Stored) {
            let why = "known templates only call it, and what it changes could not be seen";
            self.find(&CALL, at, format!("the template uses the method {name:?} as a value: {why}"));
        }
    }

    /// A field by its name, wherever it may have been set.
    pub(super) fn field_of(&self, value: &Value, name: &str) -> Value {
        let mut field = value.element();
        // What is not there is undefined; what a method gives is a text that is made.
        field.own.bits |= NUMBER | bound(value, name);
        match self.fields.get(name) {
            Some(set) if value.own.has(NAMESPACE) => field.joined(set),
            _ => field,
        }
    }

    pub(super) fn index(&mut self, at: usize, value: Id, index: Id) -> Value {
        let (value, index) = (self.value(value), self.value(index));
        let names: Vec<Text> = index.own.texts().to_vec();
        let mut result = value.element();
        result.own.bits |= NUMBER;
        for name in names {
            let name: Rc<str> = self.texts.text(name).into();
            self.check_field(at, &name);
            self.check_bound(at, &value.own, &name);
            result.own.bits |= bound(&value, &name);
            if let Some(set) = self.fields.get(&name).filter(|_| value.own.has(NAMESPACE)) {
                result.join(set);
            }
        }
        if index.own.has(MADE) {
            let why = "it could be that of an internal attribute, so rendering it could run code";
            self.find(&INDEX, at, format!("the template looks up a name that it puts together itself: {why}"));
        }
        if value.own.has(NAMESPACE) && index.own.has(DATA | MADE) {
            result.join(&Value::anything());
        }
        result
    }

    pub(super) fn check_spread(&mut self, at: usize, arguments: &Arguments) {
        if arguments.spread {
            let why = "what gets to the call cannot be seen";
            self.find(&CALL, at, format!("the template passes arguments with \"*\" or \"**\": {why}"));
        }
        for (name, _) in &arguments.named {
            if name.starts_with("__") {
                self.check_field(at, name);
            }
        }
    }

    /// Everything that is passed to a call, joined: as what it is, and as elements.
    pub(super) fn passed(&self, arguments: &Arguments) -> Value {
        let all = arguments.positional.iter().chain(arguments.named.iter().map(|(_, id)| id));
        all.filter_map(|id| self.values.get(*id)).fold(Value::default(), |sum, value| sum.joined(value))
    }

    fn call(&mut self, at: usize, callee: &Callee, arguments: &Arguments) -> Value {
        self.check_spread(at, arguments);
        match callee {
            Callee::Function(name) => self.function(at, name, arguments),
            Callee::Method(value, name) => self.method(at, *value, name, arguments),
            Callee::Value(_) => {
                let why = "what it is cannot be seen, so rendering it could run code";
                self.find(&CALL, at, format!("the template calls what an expression gives: {why}"));
                Value::anything()
            }
        }
    }

    fn function(&mut self, at: usize, name: &Rc<str>, arguments: &Arguments) -> Value {
        let shadowed = self.assigned.contains(name);
        if internal_object(name) {
            let why = "payloads get from it to Python, so rendering it could run code";
            self.find(&NAME, at, format!("the template calls {:?}: {why}", shorten(name)));
            return Value::anything();
        }
        let callable = match &**name {
            "caller" => self.inside(Block::Macro),
            "loop" => self.inside(Block::For),
            _ => self.macros.contains_key(name) || FUNCTIONS.contains(&&**name),
        };
        if !callable || shadowed {
            let why =
                if shadowed { "it is a variable, too, and could be anything" } else { "no known template calls it" };
            self.find(&CALL, at, format!("the template calls {:?}: {why}; rendering it could run code", shorten(name)));
            return Value::anything();
        }
        if self.macros.contains_key(name) {
            return self.call_macro(at, name, arguments);
        }
        let passed = self.passed(arguments);
        match &**name {
            "range" => {
                if passed.number > MAX_MADE {
                    let why = "it could occupy an engine for long";
                    self.find(&EXHAUSTION, at, format!("the template makes a range of {}: {why}", passed.number));
                }
                Value { count: passed.number.max(1), ..Value::of(0, NUMBER) }
            }
            "namespace" | "dict" => {
                let spaced = **name == *"namespace";
                let mut made = Value::of(if spaced { NAMESPACE } else { CONTAINER }, 0);
                for (name, id) in &arguments.named {
                    let value = self.value(*id);
                    if spaced {
                        self.set_field(name, &value);
                        continue;
                    }
                    made.hold(&value);
                    let key = self.constant(name);
                    made.inner.join(&key.own);
                }
                for id in &arguments.positional {
                    made.hold(&self.value(*id));
                }
                made
            }
            "raise_exception" => Value::number(1),
            "strftime_now" => {
                self.check_width(at, &passed);
                Value::made()
            }
            "loop" => {
                let given = arguments.positional.first().and_then(|id| self.expr(*id));
                let given = matches!(given, Some(Expr::Name(name)) if super::GIVEN.contains(&&**name));
                if given || !passed.own.has(DATA) && !passed.inner.has(DATA) {
                    let why =
                        "a loop of the template calls itself with what it does not take apart: it might never end";
                    self.find(&EXHAUSTION, at, why);
                }
                let before = self.looped.clone();
                self.looped.join(&passed.own);
                self.looped.join(&passed.inner);
                self.changed |= self.looped != before;
                Value::made()
            }
            _ => Value::made(),
        }
    }

    pub(super) fn call_macro(&mut self, at: usize, name: &Rc<str>, arguments: &Arguments) -> Value {
        let passed = self.passed(arguments);
        let data = passed.own.has(DATA) || passed.inner.has(DATA);
        // A call of itself with the very arguments it was called with gets nowhere.
        let same = match self.inside_macros.last() {
            Some((own, parameters)) if *own == name => arguments.positional.iter().all(|id| match self.expr(*id) {
                Some(Expr::Name(name)) => parameters.iter().any(|(parameter, _)| parameter == name),
                _ => false,
            }),
            _ => false,
        };
        let data = data && !(same && arguments.named.is_empty());
        self.cost.call(name, if data { Fed::Data } else { Fed::Constants }, at);
        // Of all macros of that name: which one it is, is told by when it is called.
        for parameters in self.macros.get(name).cloned().unwrap_or_default() {
            for (i, (parameter, _)) in parameters.iter().enumerate() {
                let named = arguments.named.iter().find(|(name, _)| name == parameter).map(|(_, id)| id);
                if let Some(id) = arguments.positional.get(i).or(named) {
                    let value = self.value(*id);
                    self.assign(parameter, &value);
                }
            }
        }
        Value::made()
    }

    /// What gets into a list or dict by a method may come out of any.
    pub(super) fn hold(&mut self, value: &Value) {
        let before = self.stored.clone();
        self.stored.join(&value.own);
        self.stored.join(&value.inner);
        self.changed |= self.stored != before;
    }

    fn method(&mut self, at: usize, value: Id, name: &str, arguments: &Arguments) -> Value {
        if matches!(name, "append" | "extend" | "insert" | "update") {
            let all = arguments.positional.iter().chain(arguments.named.iter().map(|(_, id)| id));
            self.list_growth(at, value, &all.copied().collect::<Vec<_>>());
        }
        let value = self.value(value);
        if !field(name) {
            self.check_field(at, name);
            return Value::anything();
        }
        let Some(gives) = method(name) else {
            let why = "no known template calls it; rendering it could run code";
            self.find(&CALL, at, format!("the template calls the method {:?}: {why}", shorten(name)));
            return Value::anything();
        };
        let of_lists = matches!(gives, Gives::Element | Gives::List | Gives::Same | Gives::Stored | Gives::Argument)
            || matches!(name, "index" | "count" | "changed");
        let list = value.own.has(CONTAINER) && !value.own.any_text();
        if value.own.has(NAMESPACE) || list && !of_lists {
            let why = "it is no method of theirs, so what it is cannot be seen; rendering it could run code";
            let what = shorten(name);
            self.find(&CALL, at, format!("the template calls {what:?} of a list, dict or namespace: {why}"));
        }
        if name == "format" {
            self.check_format(at, &value.own);
        }
        if name == "strftime" {
            let passed = self.passed(arguments);
            self.check_width(at, &passed);
        }
        // A dict has no such method, but may have what is called by that name.
        let other = value.own.has(CONTAINER) || self.data_changed && value.own.has(DATA);
        let other = other && matches!(gives, Gives::Number | Gives::Stored | Gives::Argument);
        let found = if other { value.inner.clone() } else { super::Atoms::default() };
        let mut given = self.give(gives, value, arguments);
        given.own.join(&found);
        given
    }

    /// What a method or filter makes of its value.
    pub(super) fn give(&mut self, gives: Gives, value: Value, arguments: &Arguments) -> Value {
        let passed = self.passed(arguments);
        let size = Value { count: value.count, bytes: value.bytes, ..Value::number(value.number) };
        match gives {
            Gives::Number => Value::number(1),
            Gives::Part => {
                let mut own = value.own.altered();
                own.bits |= if value.shows_own() { MADE } else { 0 };
                Value { own, inner: value.inner.altered(), ..size }
            }
            Gives::Parts => Value { own: super::Atoms::of(CONTAINER), inner: value.own.altered(), ..size },
            Gives::Mixed => {
                let mut own = value.own.altered();
                // Letters are harmless each by itself, but not put into each other: `'_'.replace('', 'c', 1)`.
                let mixed = value.shows_own() || passed.shows_own() || passed.own.any_text() || passed.inner.any_text();
                own.bits |= if mixed { MADE } else { DATA };
                let bytes = value.bytes.saturating_mul(passed.bytes.max(1));
                Value { own, bytes, count: bytes, ..Value::number(1) }
            }
            Gives::Made => {
                let bytes = value.bytes.saturating_add(passed.bytes.saturating_mul(value.count.max(1)));
                Value { bytes, count: bytes, ..Value::made() }
            }
            Gives::Same => value.joined(&passed),
            Gives::Marked => {
                let mut marked = value;
                marked.own.bits |= if marked.shows_own() { MADE } else { 0 };
                marked
            }
            Gives::Element => {
                let mut element = value.element().joined(&passed);
                element.own.bits |= NUMBER;
                element
            }
            Gives::List => {
                let mut list = Value { own: super::Atoms::of(CONTAINER), inner: value.inner.clone(), ..size };
                list.inner.bits |= if value.own.has(CONTAINER) { 0 } else { CONTAINER };
                // Letters of a text are harmless each by itself; one that is reversed stays a text.
                list.inner.bits |= if value.own.any_text() { DATA } else { 0 };
                list.hold(&passed);
                list.own.bits |= if value.own.own_text() { MADE } else { 0 };
                list
            }
            Gives::Parsed => {
                if value.own.own_text() {
                    Value::anything()
                } else {
                    Value::data()
                }
            }
            Gives::Stored => {
                self.changed |= value.own.has(DATA) && !self.data_changed;
                self.data_changed |= value.own.has(DATA);
                self.hold(&passed);
                Value::number(1)
            }
            Gives::Argument => passed,
        }
    }

    /// A format text may only have plain places: `{0.x}` and `{0[x]}` read attributes.
    pub(super) fn check_format(&mut self, at: usize, own: &super::Atoms) {
        let known = own.bits == 0 && !own.texts().is_empty();
        let plain = known && own.texts().iter().all(|text| plain_format(self.texts.text(*text)));
        if !plain {
            let why = "places in the text can reach attributes, past a sandbox even";
            self.find(
                &FORMAT,
                at,
                format!("the template calls \"format\" on a text with more than plain places: {why}"),
            );
        }
    }

    /// `%9999999d` makes as many bytes.
    pub(super) fn check_width(&mut self, at: usize, value: &Value) {
        let widest = value.own.texts().iter().map(|text| width(self.texts.text(*text))).max().unwrap_or(0);
        if widest > MAX_MADE {
            let why = "it could take all of an engine's memory";
            self.find(&EXHAUSTION, at, format!("the template formats to a width of {widest}: {why}"));
        }
    }

    fn binary(&mut self, at: usize, operator: Operator, left: Id, right: Id) -> Value {
        let (left, right) = (self.value(left), self.value(right));
        let numbers = |n: u64| Value::number(n);
        match operator {
            Operator::Or | Operator::And => left.joined(&right),
            Operator::Add => self.add(left, right),
            Operator::Concat => self.concat(&left, &right),
            Operator::Subtract | Operator::Divide => {
                // Of sets: the elements of the left one.
                let mut result = numbers(left.number);
                result.inner = left.inner;
                result
            }
            Operator::Multiply => {
                let mut result = numbers(left.number.saturating_mul(right.number));
                result.own.bits |= (left.own.bits | right.own.bits) & CONTAINER;
                // Of data that is a list, too.
                result.own.bits |= if left.own.has(DATA) || right.own.has(DATA) { CONTAINER } else { 0 };
                result.inner = left.inner.clone();
                result.inner.join(&right.inner);
                // Of letters too: two of them are no letter.
                if left.own.any_text() || right.own.any_text() {
                    result.own.bits |= MADE;
                }
                let only_numbers = |value: &Value| value.own.bits == NUMBER && value.own.texts().is_empty();
                if !(only_numbers(&left) && only_numbers(&right)) {
                    result.bytes = left.bytes.saturating_mul(right.number).max(right.bytes.saturating_mul(left.number));
                    result.count = left.count.saturating_mul(right.number).max(right.count.saturating_mul(left.number));
                }
                result
            }
            Operator::Modulo => {
                self.check_width(at, &left);
                let mut result = numbers(right.number);
                let worked_in = right.own.own_text() || right.shows_own();
                let made = left.own.own_text() || left.own.has(DATA) && worked_in;
                result.own.bits |= if made { MADE } else { left.own.bits & DATA };
                result.bytes = left.bytes.saturating_add(right.bytes);
                result
            }
            Operator::Power => {
                let power = left.number.saturating_pow(u32::try_from(right.number).unwrap_or(u32::MAX));
                if power > MAX_POWER {
                    let why = "an engine could work on it for ever";
                    self.find(&EXHAUSTION, at, format!("the template makes a power of more than {MAX_POWER}: {why}"));
                }
                numbers(power)
            }
            _ => numbers(1),
        }
    }

    fn add(&mut self, left: Value, right: Value) -> Value {
        let number = left.number.saturating_add(right.number);
        let mut result = if left.own.any_text() && right.own.any_text() {
            self.concat(&left, &right)
        } else {
            // One of them is no text, so both are not, or it fails.
            Value { bytes: left.bytes.saturating_add(right.bytes), ..Value::of(0, 0) }
        };
        result.number = number;
        result.count = left.count.saturating_add(right.count);
        result.inner = left.inner;
        result.inner.join(&right.inner);
        result.own.bits |= (left.own.bits | right.own.bits) & (NUMBER | CONTAINER);
        result.own.bits |= if left.own.has(DATA) && right.own.has(DATA) { CONTAINER } else { 0 };
        result
    }

    /// Constants that are put together are constants; all else is made.
    fn concat(&mut self, left: &Value, right: &Value) -> Value {
        let (bytes, count) = (left.bytes.saturating_add(right.bytes), left.count.saturating_add(right.count));
        let mut result = Value { bytes, count, ..Value::made() };
        let (ours, theirs) = (left.own.texts(), right.own.texts());
        let constants = left.own.bits == 0 && right.own.bits == 0 && !ours.is_empty() && !theirs.is_empty();
        if !constants || ours.len().saturating_mul(theirs.len()) > MAX_FOLDED {
            return result;
        }
        let mut own = super::Atoms::default();
        for (a, b) in ours.iter().flat_map(|a| theirs.iter().map(move |b| (*a, *b))) {
            let whole = format!("{}{}", self.texts.text(a), self.texts.text(b));
            let Some(text) = self.texts.keep(&whole) else { return result };
            own.join(&super::Atoms::constant(text));
        }
        result.own = own;
        result
    }
}

/// What a method may give that is read and not called.
fn bound(value: &Value, name: &str) -> u8 {
    if value.own.own_text() && method(name).is_some() { MADE } else { 0 }
}
