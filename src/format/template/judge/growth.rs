//! Variables that grow without bound.
//!
//! Owns: what is put into itself, in a loop, by `set` or by a method; and macros and loops that are kept as values.
//! Promises: fields that double each other are found through all that hold them. Leaves out: sizes that constants make
//! (`cost`), lists and namespaces under several names, how often a macro writes what it is given.

use super::super::cost::{Cost, Fed};
use super::super::node::{Callee, Expr, Operator};
use super::super::parser::{Code, Id, Target};
use super::super::rules::{self, EXHAUSTION};
use super::super::value::{MADE, Value};
use super::{Held, Judge, Variable};
use crate::digest::shorten;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Lists of one expression that are looked at for growth.
const MAX_LISTS: usize = 16;
/// Variables of one expression that are looked at for growth.
const MAX_SOURCES: usize = 8;

impl Judge<'_> {
    /// In a loop, a variable that holds itself twice grows without bound: 40 rounds make a terabyte of a byte.
    pub(super) fn growth(&mut self, at: usize, target: &Target, code: Code) {
        if self.found.is_none() || !self.cost.again() {
            return;
        }
        let held = if target.attribute.is_some() { Held::Deep } else { Held::Whole };
        let mut sources = self.sources(code);
        let seen: HashSet<Variable> = sources.iter().map(|(source, _)| source.clone()).collect();
        for (i, name) in target.names.iter().enumerate() {
            let target = (name.clone(), target.attribute.clone());
            let times = match seen.contains(&target) || target.1.is_some() {
                true if i < MAX_SOURCES => self.mentions(&target, code, held),
                seen => 2 * u64::from(seen),
            };
            if times > 1 && self.cost.in_loop() {
                self.report_growth(at, &target);
                continue;
            }
            sources.iter_mut().filter(|(source, _)| *source == target).for_each(|(_, own)| *own = times);
            // Each of several has what the one before it has.
            let next = vec![(target.clone(), 1)];
            self.assignments.push((at, target, std::mem::replace(&mut sources, next)));
        }
    }

    /// The variables of an expression, and how often each is in it; one that is not looked at, as often as it must not be.
    pub(super) fn sources(&self, code: Code) -> Vec<(Variable, u64)> {
        let mut seen = HashSet::new();
        let all = (code.first..=code.root).filter_map(|id| self.variable(id));
        let each = all.filter(|source| seen.insert(source.clone())).enumerate();
        each.map(|(i, source)| {
            let times = if i < MAX_SOURCES { self.mentions(&source, code, Held::Deep) } else { 2 };
            (source, times)
        })
        .collect()
    }

    /// Variables that hold each other, and one of them twice: `a = b ~ b`, `b = a`. Only the fields of namespaces outlive a
    /// round of a loop.
    pub(super) fn joint_growth(&mut self) {
        let assignments = std::mem::take(&mut self.assignments);
        let key = |(name, field): &Variable| -> Rc<str> {
            field.as_ref().map_or_else(|| name.clone(), |field| format!("{name}.{field}").into())
        };
        let mut graph = Cost::new();
        for (at, target, sources) in &assignments {
            graph.open_macro(&key(target));
            let held = sources.iter().filter(|(_, times)| *times > 0);
            held.for_each(|(source, _)| graph.call(&key(source), Fed::Data, *at));
            graph.close_macro();
        }
        let circles = graph.circles();
        let circle = |variable: &Variable| circles.get(&key(variable)).copied();
        let lasting: HashSet<_> = assignments
            .iter()
            .filter(|(_, target, _)| target.1.is_some())
            .map(|(_, target, _)| circle(target))
            .collect();
        for (at, target, sources) in &assignments {
            let own = circle(target);
            let times = sources.iter().filter(|(source, _)| circle(source) == own).map(|(_, times)| *times);
            if lasting.contains(&own) && times.fold(0, u64::saturating_add) > 1 {
                self.report_growth(*at, target);
            }
        }
    }

    /// The variable that an expression is, if it is one.
    pub(super) fn variable(&self, id: Id) -> Option<Variable> {
        let expr = |id: Id| self.program.nodes.get(id).map(|n| &n.expr);
        match expr(id)? {
            Expr::Name(name) => Some((name.clone(), None)),
            Expr::Attribute(base, field) => match expr(*base)? {
                Expr::Name(name) => Some((name.clone(), Some(field.clone()))),
                _ => None,
            },
            Expr::Index(base, index) => match (expr(*base)?, expr(*index)?) {
                (Expr::Name(name), Expr::Str(field)) => Some((name.clone(), Some(field.clone()))),
                _ => None,
            },
            _ => None,
        }
    }

    /// A list that is put into itself, or grows while a loop goes through it.
    pub(super) fn list_growth(&mut self, at: usize, list: Id, arguments: &[Id]) {
        if self.found.is_none() || !self.cost.again() {
            return;
        }
        self.begun.1 += 1;
        if self.begun.1 > MAX_LISTS {
            let why = "more than are looked at, so that one could double in each round";
            self.find(
                &EXHAUSTION,
                at,
                format!("an expression of the template adds to more than {MAX_LISTS} lists: {why}"),
            );
            return;
        }
        let Some(list) = self.variable(list) else { return };
        let first = self.begun.0;
        let code = Code { first, root: arguments.iter().copied().max().unwrap_or(first) };
        let (whole, deep) = (self.holders(&list, code, Held::Whole), self.holders(&list, code, Held::Deep));
        let times = |holders: &HashMap<Id, u64>, id: &Id| holders.get(id).copied().unwrap_or(0);
        if arguments.iter().any(|id| times(&whole, id) > 0 || times(&deep, id) > 1) {
            self.report_growth(at, &list);
        }
        if self.scopes.iter().any(|scope| scope.over.as_ref() == Some(&list)) {
            let name = list.1.as_ref().unwrap_or(&list.0);
            let why = "it would never end";
            self.find(
                &EXHAUSTION,
                at,
                format!("a loop of the template adds to {:?}, which it goes through: {why}", shorten(name)),
            );
        }
    }

    pub(super) fn report_growth(&mut self, at: usize, target: &Variable) {
        let name = target.1.as_ref().unwrap_or(&target.0);
        let why = "it could take all of an engine's memory";
        self.find(&EXHAUSTION, at, format!("the template doubles {:?} in each round of a loop: {why}", shorten(name)));
    }

    /// How often a variable's value is in that of an expression.
    pub(super) fn mentions(&self, variable: &Variable, code: Code, held: Held) -> u64 {
        self.holders(variable, code, held).get(&code.root).copied().unwrap_or(0)
    }

    /// The nodes that hold it, and how often.
    fn holders(&self, variable: &Variable, code: Code, held: Held) -> HashMap<Id, u64> {
        let (name, attribute) = variable;
        let mut counts: HashMap<Id, u64> = HashMap::new();
        for id in code.first..=code.root {
            let Some(node) = self.program.nodes.get(id) else { break };
            let of = |id: &Id| counts.get(id).copied().unwrap_or(0);
            let sum = |ids: &[Id]| ids.iter().map(of).fold(0, u64::saturating_add);
            let named =
                |id: &Id| matches!(self.program.nodes.get(*id).map(|n| &n.expr), Some(Expr::Name(n)) if n == name);
            let count = match &node.expr {
                // All of a namespace has the field, too.
                Expr::Name(n) => u64::from(n == name),
                Expr::Attribute(base, _) | Expr::Index(base, _) => match self.variable(id) {
                    Some(other) if attribute.is_some() => u64::from(other == *variable),
                    None if attribute.is_some() && named(base) => 1,
                    _ if held == Held::Deep => of(base),
                    _ => 0,
                },
                Expr::Binary(Operator::Add | Operator::Concat | Operator::Modulo, a, b) => of(a).saturating_add(of(b)),
                Expr::Binary(Operator::Multiply | Operator::Power, a, b) => 2 * u64::from(of(a).max(of(b)) > 0),
                Expr::Binary(Operator::Or | Operator::And, a, b) => of(a).max(of(b)),
                Expr::Conditional(value, other) => of(value).max(other.as_ref().map_or(0, of)),
                Expr::List(items) => sum(items),
                Expr::Dict(pairs) => pairs.iter().map(|(_, value)| of(value)).fold(0, u64::saturating_add),
                Expr::Slice(value) => of(value),
                Expr::Filter(value, filter, arguments) => match rules::filter(filter) {
                    Some(rules::Gives::Number) => 0,
                    _ => of(value).saturating_add(sum(&arguments.positional)),
                },
                // A macro writes what it is given.
                Expr::Call(Callee::Function(name), arguments) if **name != *"range" => {
                    let named = arguments.named.iter().map(|(_, id)| of(id)).fold(0, u64::saturating_add);
                    sum(&arguments.positional).saturating_add(named)
                }
                Expr::Call(Callee::Method(value, method), arguments) => match rules::method(method) {
                    Some(rules::Gives::Mixed | rules::Gives::Made) => {
                        let named = arguments.named.iter().map(|(_, id)| of(id)).fold(0, u64::saturating_add);
                        of(value).saturating_add(sum(&arguments.positional)).saturating_add(named)
                    }
                    Some(rules::Gives::Part | rules::Gives::Parts) => of(value),
                    Some(rules::Gives::Element | rules::Gives::List | rules::Gives::Same) if held == Held::Deep => {
                        of(value).saturating_add(sum(&arguments.positional))
                    }
                    _ => 0,
                },
                _ => 0,
            };
            if count > 0 {
                counts.insert(id, count);
            }
        }
        counts
    }

    /// A recursive loop that is kept as a value can be called under another name, with anything.
    pub(super) fn loop_escapes(&mut self) {
        self.changed |= self.program.recursive && !self.looped.has(MADE);
        if self.program.recursive {
            self.looped.bits |= MADE;
        }
    }

    /// So can a macro.
    pub(super) fn macro_escapes(&mut self, name: &str) {
        for parameters in self.macros.get(name).cloned().unwrap_or_default() {
            parameters.iter().for_each(|(parameter, _)| self.assign(parameter, &Value::anything()));
        }
    }
}
