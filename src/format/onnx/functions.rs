//! Which operators a model's nodes name, and what its own functions come to when they are expanded.
//!
//! Owns: the names, the calls between functions, and what follows from them. Promises: linear in what it was given; names
//! of one operator are kept once. Leaves out: attributes and types.

use super::{CUSTOM, EXPANSION, NATIVE, RECURSION, Rule, shorten};
use std::collections::{BTreeMap, HashMap};

/// Nodes that a model may have when its functions are expanded.
const EXPANDED: u64 = 10_000_000;

/// Domains whose operators a common runtime has itself: ONNX's own, and those built into ONNX Runtime.
const KNOWN: [&str; 9] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
];

/// Operators of known domains that run code which no inspection of the file can see: (operator, what it does).
const RUNNERS: [(&str, &str); 6] = [
    ("PythonOp", "runs a Python function by its name"),
    ("PythonOpGrad", "runs a Python function by its name"),
    ("ATen", "runs any operator of PyTorch by its name"),
    ("EPContext", "loads a compiled engine, from itself or from a path"),
    ("Snpe", "loads a compiled engine for SNPE"),
    ("OpenVINO_EP_Subgraph", "loads a compiled engine for OpenVINO"),
];

/// Domain, operator, overload.
type Operator = (String, String, String);
/// How often each operator is called.
type Calls = BTreeMap<u32, u64>;

/// What nodes and functions have come.
#[derive(Debug, Default)]
pub(super) struct Functions {
    /// Every operator's number.
    numbers: HashMap<Operator, u32>,
    operators: Vec<Operator>,
    /// By the function's number: what it calls.
    defined: BTreeMap<u32, Calls>,
    /// The calls of the function whose nodes are coming.
    coming: Calls,
    /// The calls of the graph.
    graph: Calls,
}

impl Functions {
    fn number(&mut self, domain: &str, op: &str, overload: &str, kept: &mut usize) -> u32 {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        let operator = (domain.to_owned(), op.to_owned(), overload.to_owned());
        if let Some(&number) = self.numbers.get(&operator) {
            return number;
        }
        let number = self.operators.len() as u32;
        *kept += 2 * (domain.len() + op.len() + overload.len() + size_of::<Operator>()) + 64;
        self.operators.push(operator.clone());
        self.numbers.insert(operator, number);
        number
    }

    /// A node, of the graph or of the function whose end comes next. How many more bytes are kept.
    pub(super) fn node(&mut self, op: &str, domain: &str, overload: &str, in_function: bool) -> usize {
        let mut kept = 0;
        let number = self.number(domain, op, overload, &mut kept);
        let calls = if in_function { &mut self.coming } else { &mut self.graph };
        let times = calls.entry(number).or_insert_with(|| {
            kept += 48;
            0
        });
        *times += 1;
        kept
    }

    /// The end of a function, whose nodes have come. `Err` when it was defined before.
    pub(super) fn define(&mut self, name: &str, domain: &str, overload: &str) -> Result<usize, ()> {
        let mut kept = 64;
        let number = self.number(domain, name, overload, &mut kept);
        let calls = std::mem::take(&mut self.coming);
        match self.defined.insert(number, calls) {
            Some(_) => Err(()),
            None => Ok(kept),
        }
    }

    /// How many functions there are.
    pub(super) fn count(&self) -> usize {
        self.defined.len()
    }

    /// What is wrong: the rule, the operator, the sentence.
    pub(super) fn finish(&self) -> Vec<(&'static Rule, String, String)> {
        let mut wrong = Vec::new();
        for (number, (domain, op, _)) in (0..).zip(&self.operators) {
            let shown = format!("the operator {:?} of the domain {:?}", shorten(op), shorten(domain));
            // A function of the model's by that name changes nothing: a runtime that has the operator takes its own.
            let runner = RUNNERS.iter().find(|(name, _)| name == op);
            if let Some((_, does)) = runner {
                wrong.push((&NATIVE, op.clone(), format!("{shown} {does}: code that nothing here can look at")));
            } else if !self.defined.contains_key(&number) && !KNOWN.contains(&domain.as_str()) {
                let why = format!("{shown} is in no runtime: it needs someone's native library, which runs as code");
                wrong.push((&CUSTOM, op.clone(), why));
            }
        }
        if let Some(number) = self.expand(&mut wrong) {
            let name = self.operators.get(number as usize).map(|o| o.1.clone()).unwrap_or_default();
            let why = format!(
                "the function {:?} calls itself, by way of others or not: a runtime would expand it until its stack or memory ends",
                shorten(&name)
            );
            wrong.push((&RECURSION, name, why));
        }
        wrong
    }

    /// Counts what the graph comes to; gives a function that is part of a circle.
    fn expand(&self, wrong: &mut Vec<(&'static Rule, String, String)>) -> Option<u32> {
        // In the order in which all that a function calls comes before it (Kahn's algorithm).
        let mut callers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut waiting: BTreeMap<u32, usize> = BTreeMap::new();
        for (&function, calls) in &self.defined {
            let own = calls.keys().filter(|callee| self.defined.contains_key(callee));
            waiting.insert(function, own.clone().count());
            own.for_each(|callee| callers.entry(*callee).or_default().push(function));
        }
        let mut ready: Vec<u32> = waiting.iter().filter(|(_, n)| **n == 0).map(|(f, _)| *f).collect();
        let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
        let size = |calls: &Calls, sizes: &BTreeMap<u32, u64>| {
            calls.iter().fold(0u64, |sum, (callee, times)| {
                sum.saturating_add(sizes.get(callee).copied().unwrap_or(1).saturating_mul(*times))
            })
        };
        while let Some(function) = ready.pop() {
            let calls = self.defined.get(&function)?;
            sizes.insert(function, size(calls, &sizes).max(1));
            for caller in callers.get(&function).into_iter().flatten() {
                if let Some(left) = waiting.get_mut(caller) {
                    *left -= 1;
                    if *left == 0 {
                        ready.push(*caller);
                    }
                }
            }
        }
        let nodes = size(&self.graph, &sizes);
        if nodes > EXPANDED {
            let why = format!(
                "with its functions expanded the graph has {nodes} nodes, more than {EXPANDED}: a runtime would run out of memory"
            );
            wrong.push((&EXPANSION, String::new(), why));
        }
        self.circle(&waiting)
    }

    /// A function in a circle: of those that still wait, some only call one. Each that waits calls another that does.
    fn circle(&self, waiting: &BTreeMap<u32, usize>) -> Option<u32> {
        let stuck = |f: &u32| waiting.get(f).is_some_and(|n| *n > 0);
        let mut at = waiting.iter().find(|(_, n)| **n > 0).map(|(f, _)| *f)?;
        // After as many steps as there are functions, the walk goes round the circle.
        for _ in 0..waiting.len() {
            at = *self.defined.get(&at)?.keys().find(|callee| stuck(callee))?;
        }
        Some(at)
    }
}
