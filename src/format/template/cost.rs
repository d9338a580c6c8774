//! How much a template can make an engine do by itself.
//!
//! Owns: [`Cost`]: rounds of loops over what the template itself makes, multiplied through nested loops and macros that call
//! each other. Promises: data counts as one round, so that no template is refused for what it is given; recursion over
//! data is free, recursion over nothing but constants is found. Leaves out: the sizes of values (`value`).

use super::rules::EXHAUSTION;
use super::{Defect, MAX_MADE};
use std::collections::HashMap;
use std::rc::Rc;

/// What the arguments of a call are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// Some of it may be data, which ends.
    Data,
    /// Only the template's own constants.
    Constants,
}

/// A macro, or the template itself.
#[derive(Debug, Default)]
struct Body {
    steps: u64,
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    to: usize,
    times: u64,
    fed: Fed,
    at: usize,
}

/// What was counted so far.
#[derive(Debug)]
pub(super) struct Cost {
    bodies: Vec<Body>,
    by_name: HashMap<Rc<str>, usize>,
    /// The bodies that are open, the innermost last, each with how often what is read now happens in it.
    open: Vec<(usize, Vec<u64>)>,
}

impl Cost {
    pub(super) fn new() -> Cost {
        Cost { bodies: vec![Body::default()], by_name: HashMap::new(), open: vec![(0, Vec::new())] }
    }

    fn body(&mut self, name: &Rc<str>) -> usize {
        let bodies = &mut self.bodies;
        *self.by_name.entry(name.clone()).or_insert_with(|| {
            bodies.push(Body::default());
            bodies.len() - 1
        })
    }

    pub(super) fn open_macro(&mut self, name: &Rc<str>) {
        let body = self.body(name);
        self.open.push((body, Vec::new()));
    }

    pub(super) fn close_macro(&mut self) {
        self.open.pop();
    }

    /// How often what stands here happens, in the macro it stands in.
    fn times(&self) -> u64 {
        self.open.last().and_then(|(_, loops)| loops.last()).copied().unwrap_or(1)
    }

    /// Whether a loop is open here.
    pub(super) fn in_loop(&self) -> bool {
        self.open.last().is_some_and(|(_, loops)| !loops.is_empty())
    }

    /// Whether what stands here may happen again and again: a macro may be called in a loop.
    pub(super) fn again(&self) -> bool {
        self.open.len() > 1 || self.in_loop()
    }

    /// The loops that are open here, and how often what stands here happens.
    pub(super) fn here(&self) -> (usize, u64) {
        (self.open.last().map_or(0, |(_, loops)| loops.len()), self.times())
    }

    /// Opens a loop; gives how often its body happens.
    pub(super) fn open_loop(&mut self, rounds: u64) -> u64 {
        let times = self.times().saturating_mul(rounds.max(1));
        if let Some((_, loops)) = self.open.last_mut() {
            loops.push(times);
        }
        times
    }

    pub(super) fn close_loop(&mut self) {
        if let Some((_, loops)) = self.open.last_mut() {
            loops.pop();
        }
    }

    pub(super) fn step(&mut self) {
        self.work(1);
    }

    /// Writes so many bytes; ten count as a step.
    pub(super) fn write(&mut self, bytes: u64) {
        self.work(bytes / 10);
    }

    fn work(&mut self, steps: u64) {
        let times = self.times().saturating_mul(steps);
        let open = self.open.last().map(|(body, _)| *body);
        if let Some(body) = open.and_then(|body| self.bodies.get_mut(body)) {
            body.steps = body.steps.saturating_add(times);
        }
    }

    pub(super) fn call(&mut self, name: &Rc<str>, fed: Fed, at: usize) {
        let (times, to) = (self.times(), self.body(name));
        let open = self.open.last().map(|(body, _)| *body);
        if let Some(body) = open.and_then(|body| self.bodies.get_mut(body)) {
            body.calls.push(Call { to, times, fed, at });
        }
    }

    /// What is too much of it.
    pub(super) fn defects(&self) -> Vec<Defect> {
        let groups = self.groups();
        let group = |body: usize| groups.get(body).copied().unwrap_or(0);
        let mut found = Vec::new();
        for (from, body) in self.bodies.iter().enumerate() {
            for call in &body.calls {
                if group(call.to) == group(from) && call.fed == Fed::Constants {
                    let why =
                        "a macro of the template calls itself with what it does not take apart: it might never end";
                    found.push(Defect::new(&EXHAUSTION, call.at, why));
                }
            }
        }
        // Callees have higher groups than their callers, so this way round they are known first.
        let mut order: Vec<usize> = (0..self.bodies.len()).collect();
        order.sort_unstable_by_key(|body| std::cmp::Reverse(group(*body)));
        let mut totals = vec![0u64; self.bodies.len()];
        for from in order {
            let Some(body) = self.bodies.get(from) else { continue };
            let mut total = body.steps;
            for call in body.calls.iter().filter(|call| group(call.to) != group(from)) {
                let callee = totals.get(call.to).copied().unwrap_or(0);
                total = total.saturating_add(call.times.saturating_mul(callee));
            }
            if let Some(slot) = totals.get_mut(from) {
                *slot = total;
            }
        }
        let total = totals.first().copied().unwrap_or(0);
        if total > 10 * MAX_MADE {
            let why =
                format!("the template takes {total} steps by itself: rendering it could occupy an engine for long");
            found.push(Defect::new(&EXHAUSTION, 0, why));
        }
        found
    }

    /// The groups of all that were named.
    pub(super) fn circles(&self) -> HashMap<Rc<str>, usize> {
        let groups = self.groups();
        let group = |body: usize| groups.get(body).copied().unwrap_or(0);
        self.by_name.iter().map(|(name, body)| (name.clone(), group(*body))).collect()
    }

    /// Bodies that call each other in a circle have one number; a callee outside has a higher one (Kosaraju and Sharir).
    fn groups(&self) -> Vec<usize> {
        let n = self.bodies.len();
        let mut callers = vec![Vec::new(); n];
        for (from, body) in self.bodies.iter().enumerate() {
            for call in &body.calls {
                if let Some(list) = callers.get_mut(call.to) {
                    list.push(from);
                }
            }
        }
        let callees = |body: usize, i: usize| self.bodies.get(body).and_then(|b| b.calls.get(i)).map(|c| c.to);
        let mut seen = vec![false; n];
        let mut finished = Vec::with_capacity(n);
        for start in 0..n {
            let mut stack = vec![(start, 0)];
            if std::mem::replace(&mut seen[start], true) {
                continue;
            }
            while let Some((body, next)) = stack.last_mut() {
                match callees(*body, *next) {
                    Some(to) => {
                        *next += 1;
                        if seen.get_mut(to).is_some_and(|seen| !std::mem::replace(seen, true)) {
                            stack.push((to, 0));
                        }
                    }
                    None => {
                        finished.push(*body);
                        stack.pop();
                    }
                }
            }
        }
        let mut groups = vec![usize::MAX; n];
        for (number, start) in finished.into_iter().rev().enumerate() {
            let mut stack = vec![start];
            while let Some(body) = stack.pop() {
                let Some(group) = groups.get_mut(body).filter(|g| **g == usize::MAX) else { continue };
                *group = number;
                stack.extend(callers.get(body).into_iter().flatten());
            }
        }
        groups
    }
}
