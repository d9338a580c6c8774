//! What a value of a template may be.
//!
//! Owns: [`Value`], an over-estimate of all values that an expression can have: the texts out of the template that it may
//! be, whether it may come from data, and how large the template's own constants can make it. Promises: whatever can
//! happen at run time is in the estimate; joining and comparing cost a bounded amount. Leaves out: how values come about
//! (`judge`).

use std::collections::HashMap;
use std::rc::Rc;

/// It may be a number, a boolean or none.
pub(super) const NUMBER: u8 = 1;
/// It may come from the messages or tools, as it is.
pub(super) const DATA: u8 = 2;
/// It may be a text that the template made out of others.
pub(super) const MADE: u8 = 4;
/// It may be a namespace.
pub(super) const NAMESPACE: u8 = 8;
/// It may be a list or dict that the template made, and so put something into later.
pub(super) const CONTAINER: u8 = 16;

/// Constants that are told apart in one value; with more, it may be anything.
const MAX_CONSTANTS: usize = 64;
/// The longest constant that is kept as such.
const MAX_CONSTANT: usize = 256;
/// All constants that are kept.
const MAX_KEPT: usize = 20_000;

/// A kept constant.
pub(super) type Text = u32;

/// All constants, each once.
#[derive(Debug, Default)]
pub(super) struct Texts {
    by_text: HashMap<Rc<str>, Text>,
    list: Vec<Rc<str>>,
}

impl Texts {
    /// Keeps a text; none when it is too long or there are too many.
    pub(super) fn keep(&mut self, text: &str) -> Option<Text> {
        if let Some(known) = self.by_text.get(text) {
            return Some(*known);
        }
        if text.len() > MAX_CONSTANT || self.list.len() >= MAX_KEPT {
            return None;
        }
        let (shared, id) = (Rc::<str>::from(text), Text::try_from(self.list.len()).ok()?);
        self.by_text.insert(shared.clone(), id);
        self.list.push(shared);
        Some(id)
    }

    pub(super) fn text(&self, id: Text) -> &str {
        self.list.get(id as usize).map_or("", |t| t)
    }
}

/// What something may be, apart from its elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Atoms {
    pub(super) bits: u8,
    /// Sorted, each once.
    texts: Option<Rc<[Text]>>,
}

impl Atoms {
    pub(super) fn of(bits: u8) -> Atoms {
        Atoms { bits, texts: None }
    }

    pub(super) fn constant(text: Text) -> Atoms {
        Atoms { bits: 0, texts: Some(Rc::from([text])) }
    }

    pub(super) fn texts(&self) -> &[Text] {
        self.texts.as_deref().unwrap_or(&[])
    }

    pub(super) fn has(&self, bits: u8) -> bool {
        self.bits & bits != 0
    }

    /// Whether it may be a text of the template's own.
    pub(super) fn own_text(&self) -> bool {
        self.has(MADE) || self.texts.is_some()
    }

    /// Whether it may be a text at all.
    pub(super) fn any_text(&self) -> bool {
        self.own_text() || self.has(DATA)
    }

    pub(super) fn join(&mut self, other: &Atoms) {
        self.bits |= other.bits;
        let Some(theirs) = &other.texts else { return };
        let Some(ours) = &self.texts else {
            self.texts = Some(theirs.clone());
            return;
        };
        if Rc::ptr_eq(ours, theirs) || theirs.iter().all(|t| ours.binary_search(t).is_ok()) {
            return;
        }
        let mut all: Vec<Text> = ours.iter().chain(theirs.iter()).copied().collect();
        all.sort_unstable();
        all.dedup();
        if all.len() > MAX_CONSTANTS {
            self.bits |= MADE;
            self.texts = None;
        } else {
            self.texts = Some(all.into());
        }
    }

    /// Any text of the template's own, if it is one: it makes no more constants then.
    pub(super) fn widen(&mut self) {
        self.bits |= if self.texts.is_some() { MADE } else { 0 };
    }

    /// Part of it, or with its letters changed: a constant is then one no more.
    pub(super) fn altered(&self) -> Atoms {
        let made = if self.own_text() { MADE } else { 0 };
        Atoms::of(self.bits & (NUMBER | DATA | CONTAINER) | made)
    }
}

/// What an expression may give.
#[derive(Debug, Clone, Default)]
pub(super) struct Value {
    pub(super) own: Atoms,
    /// Its elements, keys, values and fields, and theirs.
    pub(super) inner: Atoms,
    /// The largest number that the template's constants make of it.
    pub(super) number: u64,
    /// How many elements or letters it has because of the template; data counts as one.
    pub(super) count: u64,
    /// How many bytes, with all elements.
    pub(super) bytes: u64,
}

impl Value {
    /// Of this kind; its elements as well.
    pub(super) fn of(own: u8, inner: u8) -> Value {
        Value { own: Atoms::of(own), inner: Atoms::of(inner), number: 1, count: 1, bytes: 1 }
    }

    pub(super) fn number(number: u64) -> Value {
        Value { number, ..Value::of(NUMBER, 0) }
    }

    /// Untouched data.
    pub(super) fn data() -> Value {
        Value::of(NUMBER | DATA, NUMBER | DATA)
    }

    /// A text of which nothing is known.
    pub(super) fn made() -> Value {
        Value::of(MADE, 0)
    }

    /// What may be anything that is no namespace.
    pub(super) fn anything() -> Value {
        Value::of(NUMBER | DATA | MADE, NUMBER | DATA | MADE)
    }

    /// Whether its text may have one of the template's own in it: that of `['__class__']` has.
    pub(super) fn shows_own(&self) -> bool {
        self.own.has(NAMESPACE) || self.inner.has(NAMESPACE) || self.inner.own_text()
    }

    pub(super) fn join(&mut self, other: &Value) {
        self.own.join(&other.own);
        self.inner.join(&other.inner);
        self.number = self.number.max(other.number);
        self.count = self.count.max(other.count);
        self.bytes = self.bytes.max(other.bytes);
    }

    pub(super) fn joined(mut self, other: &Value) -> Value {
        self.join(other);
        self
    }

    /// Puts it in as an element.
    pub(super) fn hold(&mut self, element: &Value) {
        self.inner.join(&element.own);
        self.inner.join(&element.inner);
        self.bytes = self.bytes.saturating_add(element.bytes);
    }

    /// One of its elements: its letters, when it is a text, which are harmless each by itself.
    pub(super) fn element(&self) -> Value {
        let mut own = self.inner.clone();
        if self.own.any_text() {
            own.bits |= DATA;
        }
        let inner = own.clone();
        Value { own, inner, number: 1, count: 1, bytes: 1 }
    }

    /// Whether its texts and kinds are those of another.
    pub(super) fn alike(&self, other: &Value) -> bool {
        self.own == other.own && self.inner == other.inner
    }
}
