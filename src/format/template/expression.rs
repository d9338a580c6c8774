//! Jinja's expressions.
//!
//! Owns: the grammar of expressions as an operator-precedence parser with its own stacks: operators, operands
//! and open brackets. From loosest to tightest, all binary ones from the left:
//! ```text
//! a if t else b | or | and | not | == != < <= > >= in not-in | + - | ~ | * / // % | ** | unary + - | x|f, x is t | x.y x[y] x(y)
//! ```
//! (A filter after a unary minus filters the negated value.) Promises: no recursion, and no tree deeper than [`MAX_DEPTH`],
//! so that nothing which goes through it later (an engine, too) needs more. Leaves out: the meaning.

use super::lexer::{Kind, syntax};
use super::node::{Arguments, Callee, Expr, Node, Operator, binary};
use super::parser::{Code, Id, Parser, is_constant, is_keyword};
use super::rules::{LIMIT, internal_object};
use super::stack::{Frame, Mode, Negation, Opened};
use super::{Defect, MAX_DEPTH, MAX_NESTING};
use std::rc::Rc;

impl Parser<'_> {
    /// An expression from here on, up to what cannot belong to it.
    pub(super) fn expression(&mut self, mode: Mode) -> Result<Code, Defect> {
        let first = self.program.nodes.len();
        self.open_frame(Opened::Top(mode))?;
        self.operand()?;
        self.run(first)
    }

    /// The filters of a block: `| f | g`, or `f | g` where the first bar is left out.
    pub(super) fn filters(&mut self, bare: bool) -> Result<Code, Defect> {
        let first = self.program.nodes.len();
        self.open_frame(Opened::Top(Mode::Single))?;
        let body = self.node(self.at(), Expr::Body, &[])?;
        self.state.operands.push(body);
        self.state.filtered = true;
        if bare {
            self.filter()?;
        }
        let at = self.at();
        let code = self.run(first)?;
        let mut root = code.root;
        while let Some(Node { expr: Expr::Filter(value, ..), .. }) = self.program.nodes.get(root) {
            root = *value;
        }
        if root == body { Ok(code) } else { Err(syntax(at, "a block takes filters and nothing more")) }
    }

    pub(super) fn is_call(&self, id: Id) -> bool {
        matches!(self.program.nodes.get(id), Some(Node { expr: Expr::Call(..), .. }))
    }

    /// After an operand: until the outermost frame is done.
    fn run(&mut self, first: Id) -> Result<Code, Defect> {
        loop {
            if let Some(root) = self.after_operand()? {
                return Ok(Code { first, root });
            }
        }
    }

    fn node(&mut self, at: usize, expr: Expr, operands: &[Id]) -> Result<Id, Defect> {
        let depth = |id: &Id| self.program.nodes.get(*id).map_or(0, |n| n.depth);
        let depth = 1 + operands.iter().map(depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            let why =
                format!("an expression of the template is more than {MAX_DEPTH} deep: an engine could crash on it");
            return Err(Defect::new(&LIMIT, at, why));
        }
        self.program.nodes.push(Node { at, expr, depth });
        Ok(self.program.nodes.len() - 1)
    }

    fn open_frame(&mut self, opened: Opened) -> Result<(), Defect> {
        let at = self.at();
        if self.state.frames.len() >= MAX_NESTING {
            let why = format!(
                "brackets of the template are nested more than {MAX_NESTING} deep: an engine could crash on it"
            );
            return Err(Defect::new(&LIMIT, at, why));
        }
        let operators = self.state.operators.len();
        let (items, named) = (Vec::new(), Vec::new());
        let frame = Frame { opened, at, operators, items, named, name: None, colons: 0, commas: 0, spread: false };
        self.state.frames.push(frame);
        Ok(())
    }

    fn frame(&mut self) -> Result<&mut Frame, Defect> {
        let at = self.at();
        self.state.frames.last_mut().ok_or_else(|| syntax(at, "a bracket is missing"))
    }

    fn pop_operand(&mut self) -> Result<Id, Defect> {
        self.state.operands.pop().ok_or_else(|| syntax(self.at(), "an operand is missing"))
    }

    fn push_operator(&mut self, operator: Operator) -> Result<(), Defect> {
        if self.state.operators.len() >= MAX_DEPTH {
            let why =
                format!("an expression of the template is more than {MAX_DEPTH} deep: an engine could crash on it");
            return Err(Defect::new(&LIMIT, self.at(), why));
        }
        self.state.operators.push((operator, self.at()));
        Ok(())
    }

    /// Up to and with the next operand's first token that is a value; brackets stay open.
    fn operand(&mut self) -> Result<(), Defect> {
        loop {
            let at = self.at();
            let base = self.frame()?.operators;
            let top = self.state.operators.get(base..).and_then(|ops| ops.last()).map(|(op, _)| *op);
            let expr = match self.peek() {
                Some(Kind::Str(_)) => self.strings(),
                Some(Kind::Int(value)) => Expr::Int(*value),
                Some(Kind::Float) => Expr::Number,
                Some(Kind::Name(word)) if is_constant(word) => Expr::Number,
                Some(Kind::Name(word)) if **word == *"not" => {
                    if top.is_some_and(|op| op.precedence() > Operator::Not.precedence()) {
                        return Err(syntax(at, "\"not\" cannot stand here"));
                    }
                    self.push_operator(Operator::Not)?;
                    self.next();
                    continue;
                }
                Some(Kind::Name(word)) if is_keyword(word) => return self.unexpected("a value"),
                Some(Kind::Name(word)) => Expr::Name(word.clone()),
                Some(Kind::Op("+" | "-")) => {
                    self.push_operator(Operator::Sign)?;
                    self.next();
                    continue;
                }
                Some(Kind::Op(op @ ("(" | "[" | "{"))) => {
                    let opened = match *op {
                        "(" => Opened::Paren,
                        "[" => Opened::List,
                        _ => Opened::Dict,
                    };
                    self.open_frame(opened)?;
                    self.next();
                    if self.closes_empty()? {
                        return Ok(());
                    }
                    continue;
                }
                _ => return self.unexpected("a value"),
            };
            self.next();
            let id = self.node(at, expr, &[])?;
            self.state.operands.push(id);
            self.state.filtered = false;
            return Ok(());
        }
    }

    /// A string; several in a row are one.
    fn strings(&mut self) -> Expr {
        let mut whole = String::new();
        while let Some(Kind::Str(part)) = self.peek() {
            whole.push_str(part);
            if !matches!(self.peek_second(), Some(Kind::Str(_))) {
                break;
            }
            self.next();
        }
        Expr::Str(whole.into())
    }

    /// Closes a bracket that has nothing (more) in it, when its end stands here; else begins an argument.
    fn closes_empty(&mut self) -> Result<bool, Defect> {
        let end = match self.frame()?.opened {
            Opened::List => "]",
            Opened::Dict => "}",
            Opened::Paren | Opened::Call(_) | Opened::Filter(..) | Opened::Test(..) => ")",
            _ => return Ok(false),
        };
        if self.skip_op(end) {
            self.close_frame()?;
            return Ok(true);
        }
        if matches!(self.frame()?.opened, Opened::Call(_) | Opened::Filter(..) | Opened::Test(..)) {
            if matches!(self.peek(), Some(Kind::Op("*" | "**"))) {
                self.frame()?.spread = true;
                self.next();
            } else if let (Some(name), Some(Kind::Op("="))) = (self.peek_word(), self.peek_second()) {
                self.frame()?.name = Some(name.clone());
                self.next();
                self.next();
            } else if !self.frame()?.named.is_empty() {
                return self.unexpected("a named argument");
            }
        }
        Ok(false)
    }

    /// Applies operators of the innermost frame that bind at least that tightly.
    fn reduce(&mut self, precedence: u8) -> Result<(), Defect> {
        let base = self.frame()?.operators;
        while self.state.operators.len() > base {
            let Some((operator, at)) = self.state.operators.last().copied() else { break };
            if operator.precedence() < precedence {
                break;
            }
            self.state.operators.pop();
            let last = self.pop_operand()?;
            let id = match operator {
                Operator::Not | Operator::Sign => self.node(at, Expr::Unary(last), &[last])?,
                Operator::If => {
                    let value = self.pop_operand()?;
                    self.node(at, Expr::Conditional(value, None), &[last, value])?
                }
                Operator::Else => {
                    let (test, value) = (self.pop_operand()?, self.pop_operand()?);
                    self.node(at, Expr::Conditional(value, Some(last)), &[test, value, last])?
                }
                _ => {
                    let left = self.pop_operand()?;
                    self.node(at, Expr::Binary(operator, left, last), &[left, last])?
                }
            };
            self.state.operands.push(id);
        }
        Ok(())
    }

    /// The element that was read is done.
    fn element(&mut self) -> Result<(), Defect> {
        self.reduce(0)?;
        let id = self.pop_operand()?;
        let frame = self.frame()?;
        match frame.name.take() {
            Some(name) => frame.named.push((name, id)),
            None => frame.items.push(id),
        }
        Ok(())
    }

    /// Makes the node of a bracket whose end was read.
    fn close_frame(&mut self) -> Result<(), Defect> {
        let at = self.at();
        let frame = self.state.frames.pop().ok_or_else(|| syntax(at, "a bracket is missing"))?;
        let Frame { opened, at, items, named, commas, colons, spread, .. } = frame;
        let mut operands = items.clone();
        operands.extend(named.iter().map(|(_, id)| *id));
        self.state.filtered = false;
        let arguments = |positional| Arguments { positional, named, spread };
        let (expr, negation) = match opened {
            Opened::Top(_) => return self.unexpected("an expression"),
            Opened::Paren if commas == 0 && items.len() == 1 => {
                self.state.operands.extend(items);
                return Ok(());
            }
            Opened::Paren | Opened::List => (Expr::List(items), Negation::Is),
            Opened::Dict => {
                let pairs = items.chunks_exact(2).filter_map(|p| Some((*p.first()?, *p.get(1)?))).collect();
                (Expr::Dict(pairs), Negation::Is)
            }
            Opened::Subscript(value) => {
                operands.push(value);
                match (items.as_slice(), colons) {
                    ([index], 0) if commas == 0 => (Expr::Index(value, *index), Negation::Is),
                    (_, 1 | 2) if commas == 0 => (Expr::Slice(value), Negation::Is),
                    _ => return Err(syntax(at, "an index is one value or one slice")),
                }
            }
            Opened::Call(callee) => {
                if let Callee::Method(value, _) | Callee::Value(value) = callee {
                    operands.push(value);
                }
                (Expr::Call(callee, arguments(items)), Negation::Is)
            }
            Opened::Filter(value, name) => {
                operands.push(value);
                self.state.filtered = true;
                (Expr::Filter(value, name, arguments(items)), Negation::Is)
            }
            Opened::Test(value, name, negation) | Opened::TestArgument(value, name, negation) => {
                operands.push(value);
                self.state.filtered = true;
                let bare = matches!(&*name, "defined" | "undefined");
                let bare = bare
                    && matches!(self.program.nodes.get(value).map(|n| &n.expr), Some(Expr::Name(n)) if !internal_object(n));
                if bare && let Some(node) = self.program.nodes.get_mut(value) {
                    node.expr = Expr::Taken;
                }
                (Expr::Test(name, arguments(items)), negation)
            }
        };
        let mut id = self.node(at, expr, &operands)?;
        if negation == Negation::IsNot {
            id = self.node(at, Expr::Unary(id), &[id])?;
        }
        self.state.operands.push(id);
        Ok(())
    }

    /// What follows an operand. Gives the expression once it is complete.
    fn after_operand(&mut self) -> Result<Option<Id>, Defect> {
        let filtered = self.state.filtered;
        match self.peek() {
            Some(Kind::Op(".")) if !filtered => self.attribute()?,
            Some(Kind::Op("[")) if !filtered => {
                let value = self.pop_operand()?;
                self.open_frame(Opened::Subscript(value))?;
                self.next();
                self.slice_or_operand()?;
            }
            Some(Kind::Op("(")) => {
                let value = self.pop_operand()?;
                let callee = self.callee(value);
                self.open_frame(Opened::Call(callee))?;
                self.next();
                if !self.closes_empty()? {
                    self.operand()?;
                }
            }
            // A test's bare argument is an operand with what clings to it, nothing more.
            _ if matches!(self.frame()?.opened, Opened::TestArgument(..)) => {
                let id = self.pop_operand()?;
                self.frame()?.items.push(id);
                self.close_frame()?;
            }
            Some(Kind::Op("|")) => {
                self.reduce(Operator::Sign.precedence())?;
                self.next();
                self.filter()?;
            }
            Some(Kind::Name(word)) => return self.after_operand_word(word),
            Some(Kind::Op(op)) => match binary(op) {
                Some(operator) => {
                    self.reduce(operator.precedence())?;
                    self.push_operator(operator)?;
                    self.next();
                    self.operand()?;
                }
                None => return self.punctuation(op),
            },
            _ => return self.finish().map(Some),
        }
        Ok(None)
    }

    fn after_operand_word(&mut self, word: &str) -> Result<Option<Id>, Defect> {
        let conditional = !matches!(self.frame()?.opened, Opened::Top(Mode::Unconditional));
        let operator = match word {
            "is" => {
                self.reduce(Operator::Sign.precedence())?;
                self.next();
                self.test()?;
                return Ok(None);
            }
            "and" => Operator::And,
            "or" => Operator::Or,
            "in" => Operator::Compare,
            "not" if matches!(self.peek_second(), Some(Kind::Name(w)) if **w == *"in") => {
                self.next();
                Operator::Compare
            }
            "if" if conditional => {
                self.reduce(1)?;
                // `a if t if u`: the first one is complete.
                let base = self.frame()?.operators;
                if self
                    .state
                    .operators
                    .get(base..)
                    .and_then(|ops| ops.last())
                    .is_some_and(|(op, _)| *op == Operator::If)
                {
                    self.fold_if()?;
                }
                self.push_operator(Operator::If)?;
                self.next();
                self.operand()?;
                return Ok(None);
            }
            "else" => {
                self.reduce(1)?;
                let base = self.frame()?.operators;
                match self.state.operators.get_mut(base..).and_then(|ops| ops.last_mut()) {
                    Some((operator @ Operator::If, _)) => *operator = Operator::Else,
                    _ => return self.unexpected("something other than \"else\""),
                }
                self.next();
                self.operand()?;
                return Ok(None);
            }
            _ => return self.finish().map(Some),
        };
        self.reduce(operator.precedence())?;
        self.push_operator(operator)?;
        self.next();
        self.operand()?;
        Ok(None)
    }

    /// Completes the `value if test` on top.
    fn fold_if(&mut self) -> Result<(), Defect> {
        let at = self.at();
        self.state.operators.pop();
        let (test, value) = (self.pop_operand()?, self.pop_operand()?);
        let id = self.node(at, Expr::Conditional(value, None), &[test, value])?;
        self.state.operands.push(id);
        Ok(())
    }

    /// A comma, a colon or a bracket's end.
    fn punctuation(&mut self, op: &str) -> Result<Option<Id>, Defect> {
        let frame = self.frame()?;
        let dict_key = matches!(frame.opened, Opened::Dict) && frame.items.len().is_multiple_of(2);
        match (&frame.opened, op) {
            (Opened::Top(Mode::Tuple | Mode::Unconditional), ",") => {
                frame.commas += 1;
                self.element()?;
                self.next();
                if matches!(self.peek(), None | Some(Kind::VariableEnd | Kind::BlockEnd)) {
                    return self.tuple().map(Some);
                }
                self.operand()?;
            }
            (Opened::Top(_), _) => return self.finish().map(Some),
            (Opened::Dict, ":") if dict_key => {
                self.element()?;
                self.next();
                self.operand()?;
            }
            (Opened::Dict, "," | "}") if dict_key => return self.unexpected("\":\""),
            (Opened::Subscript(_), ":" | ",") => {
                self.element()?;
                self.slice_or_operand()?;
            }
            (Opened::Paren | Opened::List | Opened::Dict, ",")
            | (Opened::Call(_) | Opened::Filter(..) | Opened::Test(..), ",") => {
                frame.commas += 1;
                self.element()?;
                self.next();
                if !self.closes_empty()? {
                    self.operand()?;
                }
            }
            (Opened::List | Opened::Subscript(_), "]")
            | (Opened::Dict, "}")
            | (Opened::Paren | Opened::Call(_) | Opened::Filter(..) | Opened::Test(..), ")") => {
                self.element()?;
                self.next();
                self.close_frame()?;
            }
            _ => return self.unexpected("something other"),
        }
        Ok(None)
    }

    /// In a subscript: colons, commas and the end, up to the next operand.
    fn slice_or_operand(&mut self) -> Result<(), Defect> {
        loop {
            if self.skip_op(":") {
                self.frame()?.colons += 1;
            } else if self.skip_op(",") {
                self.frame()?.commas += 1;
            } else if self.skip_op("]") {
                return self.close_frame();
            } else {
                return self.operand();
            }
        }
    }

    fn attribute(&mut self) -> Result<(), Defect> {
        let at = self.at();
        self.next();
        let value = self.pop_operand()?;
        let id = match self.peek() {
            Some(Kind::Name(name)) => self.node(at, Expr::Attribute(value, name.clone()), &[value])?,
            Some(Kind::Int(number)) => {
                let index = self.node(at, Expr::Int(*number), &[])?;
                self.node(at, Expr::Index(value, index), &[value, index])?
            }
            _ => return self.unexpected("a name"),
        };
        self.next();
        self.state.operands.push(id);
        Ok(())
    }

    /// A name or an attribute in front of a bracket is not read, but called.
    fn callee(&mut self, value: Id) -> Callee {
        let Some(node) = self.program.nodes.get_mut(value) else { return Callee::Value(value) };
        match std::mem::replace(&mut node.expr, Expr::Taken) {
            Expr::Name(name) => Callee::Function(name),
            Expr::Attribute(of, name) => Callee::Method(of, name),
            other => {
                node.expr = other;
                Callee::Value(value)
            }
        }
    }

    /// A dotted name, as filters and tests have.
    fn dotted(&mut self) -> Result<Rc<str>, Defect> {
        let mut name = String::new();
        loop {
            let Some(word) = self.peek_word() else { return self.unexpected("a name") };
            name.push_str(word);
            self.next();
            if !self.skip_op(".") {
                return Ok(name.into());
            }
            name.push('.');
        }
    }

    /// A filter, after its bar.
    fn filter(&mut self) -> Result<(), Defect> {
        let value = self.pop_operand()?;
        let name = self.dotted()?;
        self.open_frame(Opened::Filter(value, name))?;
        if self.skip_op("(") { self.arguments() } else { self.close_frame() }
    }

    /// A test, after `is`.
    fn test(&mut self) -> Result<(), Defect> {
        let value = self.pop_operand()?;
        let negation = if self.skip_word("not") { Negation::IsNot } else { Negation::Is };
        let name = self.dotted()?;
        if self.skip_op("(") {
            self.open_frame(Opened::Test(value, name, negation))?;
            return self.arguments();
        }
        self.open_frame(Opened::TestArgument(value, name, negation))?;
        match self.peek() {
            Some(Kind::Name(word)) if matches!(&**word, "else" | "or" | "and") => self.close_frame(),
            // Jinja2 would take these words for the test's argument.
            Some(Kind::Name(word)) if is_keyword(word) => self.unexpected("a test's argument"),
            Some(Kind::Name(_) | Kind::Str(_) | Kind::Int(_) | Kind::Float | Kind::Op("[" | "{")) => self.operand(),
            _ => self.close_frame(),
        }
    }

    fn arguments(&mut self) -> Result<(), Defect> {
        if self.closes_empty()? { Ok(()) } else { self.operand() }
    }

    /// The outermost frame ends here.
    fn finish(&mut self) -> Result<Id, Defect> {
        let frame = self.frame()?;
        if !matches!(frame.opened, Opened::Top(_)) {
            return self.unexpected("a bracket's end");
        }
        let commas = frame.commas;
        self.element()?;
        if commas > 0 {
            return self.tuple();
        }
        let frame = self.state.frames.pop();
        frame.and_then(|f| f.items.first().copied()).ok_or_else(|| syntax(self.at(), "an expression is missing"))
    }

    /// The outermost frame was a tuple.
    fn tuple(&mut self) -> Result<Id, Defect> {
        let Some(Frame { at, items, .. }) = self.state.frames.pop() else { return self.unexpected("an expression") };
        let operands = items.clone();
        self.node(at, Expr::List(items), &operands)
    }
}
