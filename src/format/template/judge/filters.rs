//! What filters and tests of templates may do.
//!
//! Owns: the evaluation of filters, `map` and its like, tests, and the names that are given to them. Promises: a filter or a test
//! whose name is not on the list, or not known, is found; an attribute given by name is held against the rule of attributes.
//! Leaves out: the lists (`rules`).

use super::super::MAX_MADE;
use super::super::node::Arguments;
use super::super::parser::Id;
use super::super::rules::{EXHAUSTION, FILTER, Gives, INDEX, TEST, attribute_argument, filter, sized, test};
use super::super::value::{MADE, NAMESPACE, NUMBER, Value};
use super::Judge;
use crate::digest::shorten;

impl Judge<'_> {
    pub(super) fn filter(&mut self, at: usize, value: Id, name: &str, arguments: &Arguments) -> Value {
        self.check_spread(at, arguments);
        let Some(gives) = self.check_filter(at, name) else { return Value::anything() };
        let mut value = self.value(value);
        self.check_attribute(at, name, &value, arguments);
        if value.inner.has(NAMESPACE) {
            value.hold(&self.fields_told(name, arguments));
        }
        // A filter may call what its fields are: `dictsort` calls `items`.
        value.inner.bits |= if value.own.has(NAMESPACE) { MADE } else { 0 };
        let first = arguments.positional.first().copied();
        let second = arguments.positional.get(1).copied();
        match (name, first) {
            ("map", Some(first)) => {
                for mapped in self.literals(at, first, "a filter") {
                    // A filter that takes attributes would be told them here.
                    let joins = mapped == "join" && arguments.positional.len() <= 2 && arguments.named.is_empty();
                    let plain = attribute_argument(&mapped).is_none() && mapped != "select" && mapped != "reject";
                    if self.check_filter(at, &mapped).is_some() && !plain && !joins {
                        let why = "it could be told to read any attribute";
                        self.find(&FILTER, at, format!("the template maps with the filter {mapped:?}: {why}"));
                    }
                }
            }
            ("select" | "reject", Some(first)) => self.check_tests(at, first),
            ("selectattr" | "rejectattr", _) => {
                if let Some(second) = second {
                    self.check_tests(at, second);
                }
            }
            _ => {}
        }
        let passed = self.passed(arguments);
        if sized(name) && passed.number > MAX_MADE {
            let why = "it could take all of an engine's memory";
            self.find(&EXHAUSTION, at, format!("the template uses the filter {name:?} with {}: {why}", passed.number));
        }
        if name == "map" {
            return self.map(value, first.is_some(), arguments);
        }
        let mut result = self.give(gives, value, arguments);
        if sized(name) {
            result.bytes = result.bytes.max(passed.number.min(MAX_MADE));
        }
        result
    }

    fn map(&mut self, value: Value, filtered: bool, arguments: &Arguments) -> Value {
        let mut list = self.give(Gives::List, value, arguments);
        list.inner.bits |= if filtered { MADE } else { 0 };
        list
    }

    /// Fields of namespaces that a filter is told by their names.
    fn fields_told(&self, filter: &str, arguments: &Arguments) -> Value {
        let mut told = Value::default();
        for id in attributes(filter, arguments) {
            for text in self.value(id).own.texts() {
                let parts = self.texts.text(*text).split(['.', ',']);
                parts.filter_map(|part| self.fields.get(part.trim())).for_each(|field| told.join(field));
            }
        }
        told
    }

    pub(super) fn check_filter(&mut self, at: usize, name: &str) -> Option<Gives> {
        let gives = filter(name);
        if gives.is_none() {
            let why = match name {
                "attr" => "it reads any attribute, so rendering it could run code",
                "format" => "it formats texts, which can get past a sandbox",
                _ => "no known template uses it",
            };
            self.find(&FILTER, at, format!("the template uses the filter {:?}: {why}", shorten(name)));
        }
        gives
    }

    pub(super) fn check_test(&mut self, at: usize, name: &str) {
        if !test(name) {
            let message = format!("the template uses the test {:?}, which no known template uses", shorten(name));
            self.find(&TEST, at, message);
        }
    }

    pub(super) fn check_tests(&mut self, at: usize, id: Id) {
        for name in self.literals(at, id, "a test") {
            self.check_test(at, &name);
        }
    }

    /// The constants that an argument may be; anything else is a finding.
    pub(super) fn literals(&mut self, at: usize, id: Id, what: &str) -> Vec<String> {
        let value = self.value(id);
        if value.own.bits != 0 || value.own.texts().is_empty() {
            let why = "it could be one that reaches attributes";
            self.find(&INDEX, at, format!("the template puts the name of {what} together: {why}"));
        }
        value.own.texts().iter().map(|text| self.texts.text(*text).to_owned()).collect()
    }

    /// Names of attributes that a filter is told.
    fn check_attribute(&mut self, at: usize, filter: &str, of: &Value, arguments: &Arguments) {
        for id in attributes(filter, arguments) {
            let value = self.value(id);
            if value.own.bits == NUMBER && value.own.texts().is_empty() {
                continue;
            }
            for names in self.literals(at, id, "an attribute") {
                for name in names.split(['.', ',']) {
                    self.check_field(at, name.trim());
                    self.check_bound(at, &of.inner, name.trim());
                }
            }
        }
    }
}

/// The arguments of a filter that name attributes.
fn attributes(filter: &str, arguments: &Arguments) -> Vec<Id> {
    let named = arguments.named.iter().filter(|(name, _)| **name == *"attribute").map(|(_, id)| *id);
    let positional = attribute_argument(filter).and_then(|nth| arguments.positional.get(nth)).copied();
    named.chain(positional).collect()
}
