//! The judgement of a parsed template.
//!
//! Owns: the walk over the statements. It estimates what every variable may be, once for the whole template whatever the
//! order (a variable is the join of all that is assigned to its name anywhere), again until nothing changes; then the last
//! walk reports. Promises: the estimate errs on the side of refusing: names that a text of the template's own could get
//! to, by whatever way, are not looked up. Leaves out: expressions (`judge/operations.rs`), sizes of loops (`cost`).

mod filters;
mod growth;
mod operations;

use super::Defect;
use super::cost::Cost;
use super::node::{Callee, Expr};
use super::parser::{Code, Id, Parameters, Program, Statement, Target};
use super::rules::{ATTRIBUTE, EXHAUSTION, NAME, STATEMENT, field, internal_object};
use super::value::{Atoms, MADE, NAMESPACE, Texts, Value};
use super::{MAX_MADE, rules};
use crate::digest::shorten;
use crate::format::finding::Rule;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Walks from which on a variable whose constants still grow is any text of the template's own: a macro that calls itself with
/// `indent + '  '` makes another constant each time.
const WIDENS: usize = 4;
/// Walks until variables must stand still; then they may be anything.
const MAX_WALKS: usize = 12;
/// Findings of one rule in one template: many of one hide none of another, as a policy judges each rule by itself.
const MAX_DEFECTS: usize = 64;
/// What every engine passes from the caller, not from the model's files. Anything else could be one of the model's own
/// "special tokens", which Hugging Face gives to the template by names that the model chooses.
const GIVEN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// What is wrong with a template that could be parsed.
pub(super) fn judge(program: &Program) -> Vec<Defect> {
    let mut judge = Judge::new(program);
    for walk in 0.. {
        judge.changed = false;
        judge.widens = walk >= WIDENS;
        judge.walk();
        if !judge.changed {
            break;
        }
        if walk >= MAX_WALKS {
            judge.give_up();
            break;
        }
    }
    judge.found = Some(Vec::new());
    judge.walk();
    judge.joint_growth();
    let mut found = judge.found.unwrap_or_default();
    found.extend(judge.cost.defects());
    found.sort_by_key(|defect| defect.at);
    let mut of_rule: HashMap<&str, usize> = HashMap::new();
    found.retain(|defect| {
        let count = of_rule.entry(defect.rule.id).or_default();
        *count += 1;
        *count <= MAX_DEFECTS
    });
    found
}

/// Names that are surely assigned, within an open block.
#[derive(Debug, Default)]
struct Scope {
    names: HashSet<Rc<str>>,
    /// What is assigned in all branches of an `if` before this one.
    before: Option<HashSet<Rc<str>>>,
    has_else: bool,
    of: Block,
    /// The variable that a loop goes through.
    over: Option<Variable>,
}

/// A variable, or a namespace and its field.
type Variable = (Rc<str>, Option<Rc<str>>);

/// How something holds a variable's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// As a whole.
    Whole,
    /// As a whole, or an element or a field of it.
    Deep,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Block {
    #[default]
    Other,
    If,
    For,
    Macro,
}

/// A `set` block that is open: what is captured, and how often it holds what.
#[derive(Debug)]
struct Capture {
    target: Variable,
    bytes: u64,
    held: HashMap<Variable, u64>,
    /// The loops around it, and how often it happens.
    begun: (usize, u64),
}

/// Where something is assigned in a loop, to what, and how often what is in it.
type Assignment = (usize, Variable, Vec<(Variable, u64)>);

struct Judge<'a> {
    program: &'a Program,
    texts: Texts,
    variables: HashMap<Rc<str>, Value>,
    /// Fields of namespaces, by name, of all namespaces together.
    fields: HashMap<Rc<str>, Value>,
    /// The bytes of all fields, each at its longest.
    field_bytes: u64,
    /// What got into lists and dicts by their methods, of all together.
    stored: Atoms,
    /// Something was put into what may be data.
    data_changed: bool,
    /// What recursive loops are called with.
    looped: Atoms,
    /// By name, in which there may be several.
    macros: HashMap<Rc<str>, Vec<&'a Parameters>>,
    /// Those that are open where the walk is.
    inside_macros: Vec<(&'a Rc<str>, &'a Parameters)>,
    /// Nodes of which only a field is read, or a method called.
    bases: HashSet<Id>,
    /// Names that are assigned anywhere, by whatever but `macro`.
    assigned: HashSet<Rc<str>>,
    /// Of each node.
    values: Vec<Value>,
    scopes: Vec<Scope>,
    captures: Vec<Capture>,
    cost: Cost,
    /// The first node of the expression in hand, and how many of its lists were looked at for growth.
    begun: (Id, usize),
    /// What is assigned in loops: where, to what, and how often what is in it.
    assignments: Vec<Assignment>,
    changed: bool,
    widens: bool,
    /// In the last walk.
    found: Option<Vec<Defect>>,
}

impl<'a> Judge<'a> {
    fn new(program: &'a Program) -> Judge<'a> {
        let mut macros: HashMap<Rc<str>, Vec<&'a Parameters>> = HashMap::new();
        let mut assigned = HashSet::new();
        for (_, statement) in &program.statements {
            match statement {
                Statement::Macro { name, parameters } => {
                    macros.entry(name.clone()).or_default().push(parameters);
                    assigned.extend(parameters.iter().map(|(name, _)| name.clone()));
                }
                Statement::Call { parameters, .. } => assigned.extend(parameters.iter().map(|(name, _)| name.clone())),
                Statement::Set(target, _) | Statement::SetBlock(target, _) if target.attribute.is_none() => {
                    assigned.extend(target.names.iter().cloned());
                }
                Statement::For { targets, .. } => assigned.extend(targets.iter().cloned()),
                Statement::With(values) => assigned.extend(values.iter().flat_map(|(names, _)| names.iter().cloned())),
                _ => {}
            }
        }
        let bases = program.nodes.iter().filter_map(|node| match &node.expr {
            Expr::Attribute(base, _) | Expr::Call(Callee::Method(base, _), _) => Some(*base),
            _ => None,
        });
        Judge {
            bases: bases.collect(),
            program,
            texts: Texts::default(),
            variables: HashMap::new(),
            fields: HashMap::new(),
            field_bytes: 0,
            stored: Atoms::default(),
            data_changed: false,
            looped: Atoms::default(),
            macros,
            inside_macros: Vec::new(),
            assigned,
            values: vec![Value::default(); program.nodes.len()],
            scopes: Vec::new(),
            captures: Vec::new(),
            cost: Cost::new(),
            begun: (0, 0),
            assignments: Vec::new(),
            changed: false,
            widens: false,
            found: None,
        }
    }

    /// Takes every variable for anything.
    fn give_up(&mut self) {
        for value in self.variables.values_mut().chain(self.fields.values_mut()) {
            value.join(&Value::anything());
            value.join(&Value::of(NAMESPACE, NAMESPACE));
        }
        self.stored.bits |= MADE;
        self.looped.bits |= MADE;
        self.data_changed = true;
    }

    fn find(&mut self, rule: &'static Rule, at: usize, message: impl Into<String>) {
        if let Some(found) = &mut self.found
            && found.iter().filter(|defect| std::ptr::eq(defect.rule, rule)).count() < MAX_DEFECTS
        {
            found.push(Defect::new(rule, at, message));
        }
    }

    fn walk(&mut self) {
        self.cost = Cost::new();
        self.scopes = vec![Scope::default()];
        self.captures.clear();
        let program = self.program;
        for (at, statement) in &program.statements {
            self.cost.step();
            self.statement(*at, statement);
        }
    }

    fn statement(&mut self, at: usize, statement: &'a Statement) {
        match statement {
            Statement::Output(code) => {
                let value = self.evaluate(*code);
                self.cost.write(value.bytes);
                self.captured(*code, &value);
            }
            Statement::Set(target, code) => {
                let value = self.evaluate(*code);
                self.growth(at, target, *code);
                self.assign_target(at, target, &value);
            }
            Statement::SetBlock(target, filters) => {
                self.evaluate(*filters);
                let first = target.names.first().cloned().unwrap_or_else(|| "".into());
                let (held, begun) = (HashMap::new(), self.cost.here());
                self.captures.push(Capture { target: (first, target.attribute.clone()), bytes: 0, held, begun });
                self.assign_target(at, target, &Value::made());
                self.open(Block::Other, &[]);
            }
            Statement::EndSet => {
                self.scopes.pop();
                self.end_capture(at);
            }
            Statement::For { targets, iterable, condition } => self.open_loop(at, targets, *iterable, *condition),
            Statement::EndFor => {
                self.scopes.pop();
                self.cost.close_loop();
            }
            Statement::If(test) => {
                self.evaluate(*test);
                self.open(Block::If, &[]);
            }
            Statement::Elif(test) => {
                self.next_branch();
                self.evaluate(*test);
            }
            Statement::Else => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.has_else = true;
                }
                self.next_branch();
            }
            Statement::EndIf => {
                self.next_branch();
                let closed = self.scopes.pop().unwrap_or_default();
                if let (true, Some(names), Some(scope)) = (closed.has_else, closed.before, self.scopes.last_mut()) {
                    scope.names.extend(names);
                }
            }
            Statement::Macro { name, parameters } => {
                self.check_name(at, name);
                self.defaults(parameters);
                self.cost.open_macro(name);
                self.inside_macros.push((name, parameters));
                self.open_with(Block::Macro, at, parameters.iter().map(|(name, _)| name));
            }
            Statement::EndMacro => {
                self.scopes.pop();
                self.cost.close_macro();
                self.inside_macros.pop();
            }
            Statement::Call { parameters, call } => {
                self.evaluate(*call);
                self.defaults(parameters);
                // What the macro passes to `caller` is not followed.
                for (name, _) in parameters {
                    self.assign(name, &Value::anything());
                }
                self.open_with(Block::Other, at, parameters.iter().map(|(name, _)| name));
            }
            Statement::Filter(filters) => {
                self.evaluate(*filters);
                self.open(Block::Other, &[]);
            }
            Statement::With(values) => {
                for (names, code) in values {
                    let value = self.evaluate(*code);
                    names.iter().for_each(|name| self.assign(name, &value));
                }
                self.open_with(Block::Other, at, values.iter().flat_map(|(names, _)| names));
            }
            Statement::Generation => self.open(Block::Other, &[]),
            Statement::EndCall | Statement::EndFilter | Statement::EndWith | Statement::EndGeneration => {
                self.scopes.pop();
            }
            Statement::Refused(tag) => {
                let why = rules::statement(tag);
                self.find(&STATEMENT, at, format!("the template has the statement {:?}: {why}", shorten(tag)));
            }
        }
    }

    fn open(&mut self, of: Block, names: &[Rc<str>]) {
        self.scopes.push(Scope { names: names.iter().cloned().collect(), of, ..Scope::default() });
    }

    fn open_with<'n>(&mut self, of: Block, at: usize, names: impl Iterator<Item = &'n Rc<str>>) {
        let names: Vec<Rc<str>> = names.cloned().collect();
        names.iter().for_each(|name| self.check_name(at, name));
        self.open(of, &names);
    }

    /// A branch of an `if` or `for` is done.
    fn next_branch(&mut self) {
        let Some(scope) = self.scopes.last_mut() else { return };
        let names = std::mem::take(&mut scope.names);
        scope.before = Some(match scope.before.take() {
            Some(before) => before.into_iter().filter(|name| names.contains(name)).collect(),
            None => names,
        });
    }

    fn inside(&self, block: Block) -> bool {
        self.scopes.iter().any(|scope| scope.of == block)
    }

    fn open_loop(&mut self, at: usize, targets: &[Rc<str>], iterable: Code, condition: Option<Code>) {
        let all = self.evaluate(iterable);
        let mut element = all.element();
        element.own.join(&self.looped);
        element.inner.join(&self.looped);
        let rounds = self.cost.open_loop(all.count);
        if rounds > MAX_MADE {
            let why =
                format!("loops of the template run {rounds} times by themselves: it could occupy an engine for long");
            self.find(&EXHAUSTION, at, why);
        }
        targets.iter().for_each(|name| self.assign(name, &element));
        let mut own_loop = Value::default();
        own_loop.hold(&element);
        let name: Rc<str> = "loop".into();
        self.assign(&name, &own_loop);
        self.open_with(Block::For, at, targets.iter().chain([&name]));
        let over = self.variable(iterable.root);
        if let Some(scope) = self.scopes.last_mut() {
            scope.over = over;
        }
        if let Some(condition) = condition {
            self.evaluate(condition);
        }
    }

    fn defaults(&mut self, parameters: &Parameters) {
        for (name, default) in parameters {
            // A parameter that is not passed is undefined.
            let value = default.map_or_else(|| Value::number(1), |code| self.evaluate(code));
            self.assign(name, &value);
        }
    }

    fn check_name(&mut self, at: usize, name: &str) {
        if internal_object(name) {
            let why = "engines keep internals under such names, and it could stand for them";
            self.find(&NAME, at, format!("the template assigns to {:?}: {why}", shorten(name)));
        }
    }

    fn assign_target(&mut self, at: usize, target: &Target, value: &Value) {
        if let Some(name) = &target.attribute {
            if !field(name) {
                let why = "rendering it could change an engine's internals";
                self.find(&ATTRIBUTE, at, format!("the template sets the attribute {:?}: {why}", shorten(name)));
            }
            self.set_field(name, value);
            return;
        }
        let element = value.element();
        for name in &target.names {
            self.check_name(at, name);
            self.assign(name, if target.names.len() > 1 { &element } else { value });
            if let Some(scope) = self.scopes.last_mut() {
                scope.names.insert(name.clone());
            }
        }
    }

    fn assign(&mut self, name: &Rc<str>, value: &Value) {
        self.changed |= join_into(&mut self.variables, name, value, self.widens);
    }

    fn set_field(&mut self, name: &Rc<str>, value: &Value) {
        let before = self.fields.get(name).map_or(0, |field| field.bytes);
        self.field_bytes = self.field_bytes.saturating_add(value.bytes.saturating_sub(before));
        self.changed |= join_into(&mut self.fields, name, value, self.widens);
    }

    /// What a name stands for when it is read.
    fn read(&mut self, at: usize, name: &str) -> Value {
        if internal_object(name) {
            let why = "payloads get from it to Python, so rendering it could run code";
            self.find(&NAME, at, format!("the template uses {:?}: {why}", shorten(name)));
            return Value::anything();
        }
        self.macro_escapes(name);
        let known = self.variables.get(name).cloned();
        let surely = self.scopes.iter().any(|scope| scope.names.contains(name));
        if let (Some(value), true) = (&known, surely) {
            return value.clone();
        }
        if rules::FUNCTIONS.contains(&name) && !self.assigned.contains(name) {
            let why = "known templates only call it, and payloads build names out of it";
            self.find(&rules::CALL, at, format!("the template uses the function {name:?} as a value: {why}"));
        }
        let context = if GIVEN.contains(&name) { Value::data() } else { Value::anything() };
        known.map_or(context.clone(), |value| context.joined(&value))
    }

    /// Text that is written while a `set` block is open.
    fn captured(&mut self, code: Code, value: &Value) {
        if self.found.is_none() {
            return;
        }
        let sources = if self.cost.again() { self.sources(code) } else { Vec::new() };
        let (loops, times) = self.cost.here();
        for capture in &mut self.captures {
            let (outer, once) = capture.begun;
            capture.bytes = capture.bytes.saturating_add(value.bytes.saturating_mul(times / once.max(1)));
            // In a loop of its own, it may be there twice.
            let rounds = if loops > outer { 2 } else { 1 };
            for (source, times) in &sources {
                let held = capture.held.entry(source.clone()).or_default();
                *held = held.saturating_add(times.saturating_mul(rounds));
            }
        }
    }

    fn end_capture(&mut self, at: usize) {
        let Some(Capture { target, bytes, held, .. }) = self.captures.pop() else { return };
        if bytes > MAX_MADE {
            self.find(&EXHAUSTION, at, format!("a block of the template gets {bytes} bytes long by itself"));
        }
        let value = Value { bytes, count: bytes, ..Value::made() };
        match &target.1 {
            Some(field) => self.set_field(field, &value),
            None => self.assign(&target.0, &value),
        }
        if held.get(&target).is_some_and(|times| *times > 1) && self.cost.in_loop() {
            self.report_growth(at, &target);
        } else if !held.is_empty() {
            self.assignments.push((at, target, held.into_iter().collect()));
        }
    }
}

/// Joins a value into what a name may be; tells whether that is more than before.
fn join_into(map: &mut HashMap<Rc<str>, Value>, name: &Rc<str>, value: &Value, widens: bool) -> bool {
    match map.get_mut(name) {
        Some(old) => {
            let before = old.clone();
            old.join(value);
            if widens && !old.alike(&before) {
                old.own.widen();
                old.inner.widen();
            }
            !old.alike(&before)
        }
        None => {
            map.insert(name.clone(), value.clone());
            true
        }
    }
}
