//! Jinja's statements, as a flat list.
//!
//! Owns: the way from tokens to [`Program`]: one list of statements in the order of the text, blocks as a beginning and an
//! end, and one list of expressions in which operands stand before what uses them. Whoever goes through either from front
//! to back needs no recursion. The grammar is that of Jinja2 3.1 (`jinja2/parser.py`) with `loopcontrols` and Hugging
//! Face's `generation`.
//!
//! Promises: no recursion; every list bounded by the number of tokens; nesting by [`MAX_NESTING`]. Leaves out: what
//! expressions mean (`judge`); their grammar is in `expression`.

use super::lexer::{Kind, Token, syntax};
use super::node::Node;
use super::rules::LIMIT;
use super::stack::{Mode, State};
use super::{Defect, MAX_NESTING};
use std::rc::Rc;

/// An expression by its place in [`Program::nodes`].
pub(super) type Id = usize;

/// The nodes that an expression is made of: `first..=root`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code {
    pub(super) first: Id,
    pub(super) root: Id,
}

/// A parsed template.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) statements: Vec<(usize, Statement)>,
    pub(super) nodes: Vec<Node>,
    /// Whether a loop may be called.
    pub(super) recursive: bool,
}

/// What `set` writes to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) names: Vec<Rc<str>>,
    /// `set names.attribute`
    pub(super) attribute: Option<Rc<str>>,
}

/// Parameters with their defaults.
pub(super) type Parameters = Vec<(Rc<str>, Option<Code>)>;

/// One statement, or the beginning or end of a block.
#[derive(Debug)]
pub(super) enum Statement {
    Output(Code),
    Set(Target, Code),
    /// The text up to its end is kept; the code is what the filters make of it.
    SetBlock(Target, Code),
    EndSet,
    For {
        targets: Vec<Rc<str>>,
        iterable: Code,
        condition: Option<Code>,
    },
    EndFor,
    If(Code),
    Elif(Code),
    /// Of an `if` or a `for`.
    Else,
    EndIf,
    Macro {
        name: Rc<str>,
        parameters: Parameters,
    },
    EndMacro,
    Call {
        parameters: Parameters,
        call: Code,
    },
    EndCall,
    Filter(Code),
    EndFilter,
    With(Vec<(Vec<Rc<str>>, Code)>),
    EndWith,
    Generation,
    EndGeneration,
    /// A statement that is not allowed; nothing is known of its inside.
    Refused(Rc<str>),
}

/// An open block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Set,
    For,
    If,
    /// After `else`, of the one or the other.
    ForElse,
    IfElse,
    Macro,
    Call,
    Filter,
    With,
    Generation,
}

/// Parses all tokens.
pub(super) fn parse(tokens: &[Token], end: usize) -> Result<Program, Defect> {
    let mut parser = Parser::new(tokens, end);
    while let Some(token) = parser.next() {
        match token.kind {
            Kind::VariableBegin => {
                let code = parser.expression(Mode::Tuple)?;
                parser.push(token.at, Statement::Output(code));
                parser.expect(&Kind::VariableEnd, "\"}}\"")?;
            }
            Kind::BlockBegin => {
                parser.statement(token.at)?;
                parser.expect(&Kind::BlockEnd, "\"%}\"")?;
            }
            _ => {}
        }
    }
    match parser.blocks.last() {
        Some((block, at)) => Err(syntax(*at, &format!("the block {block:?} is not closed").to_lowercase())),
        None => Ok(parser.program),
    }
}

pub(super) struct Parser<'a> {
    tokens: &'a [Token],
    position: usize,
    end: usize,
    pub(super) program: Program,
    blocks: Vec<(Block, usize)>,
    pub(super) state: State,
}

impl<'a> Parser<'a> {
    fn new(tokens: &'a [Token], end: usize) -> Parser<'a> {
        let program = Program::default();
        Parser { tokens, position: 0, end, program, blocks: Vec::new(), state: Default::default() }
    }

    pub(super) fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.position).map(|t| &t.kind)
    }

    pub(super) fn peek_second(&self) -> Option<&'a Kind> {
        self.tokens.get(self.position + 1).map(|t| &t.kind)
    }

    /// Where the next token begins.
    pub(super) fn at(&self) -> usize {
        self.tokens.get(self.position).map_or(self.end, |t| t.at)
    }

    pub(super) fn next(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.position);
        self.position += 1;
        token
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = matches!(self.peek(), Some(Kind::Op(o)) if *o == op);
        self.position += usize::from(found);
        found
    }

    pub(super) fn peek_word(&self) -> Option<&'a Rc<str>> {
        match self.peek() {
            Some(Kind::Name(name)) => Some(name),
            _ => None,
        }
    }

    pub(super) fn skip_word(&mut self, word: &str) -> bool {
        let found = self.peek_word().is_some_and(|w| **w == *word);
        self.position += usize::from(found);
        found
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T, Defect> {
        Err(syntax(self.at(), &format!("{wanted} is expected here")))
    }

    fn expect(&mut self, kind: &Kind, name: &str) -> Result<(), Defect> {
        if self.peek() != Some(kind) {
            return self.unexpected(name);
        }
        self.position += 1;
        Ok(())
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Result<(), Defect> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(&format!("{op:?}")) }
    }

    /// A name that is no keyword of expressions.
    pub(super) fn identifier(&mut self) -> Result<Rc<str>, Defect> {
        match self.peek_word() {
            Some(name) if !is_keyword(name) && !is_constant(name) => {
                self.position += 1;
                Ok(name.clone())
            }
            _ => self.unexpected("a name"),
        }
    }

    fn push(&mut self, at: usize, statement: Statement) {
        self.program.statements.push((at, statement));
    }

    fn open(&mut self, block: Block, at: usize, statement: Statement) -> Result<(), Defect> {
        if self.blocks.len() >= MAX_NESTING {
            let why =
                format!("blocks of the template are nested more than {MAX_NESTING} deep: an engine could crash on it");
            return Err(Defect::new(&LIMIT, at, why));
        }
        self.blocks.push((block, at));
        self.push(at, statement);
        Ok(())
    }

    fn close(&mut self, at: usize, tag: &str, blocks: &[Block], statement: Statement) -> Result<(), Defect> {
        match self.blocks.last() {
            Some((block, _)) if blocks.contains(block) => {
                self.blocks.pop();
                self.push(at, statement);
                Ok(())
            }
            _ => Err(syntax(at, &format!("{tag:?} closes nothing"))),
        }
    }

    fn statement(&mut self, at: usize) -> Result<(), Defect> {
        let Some(tag) = self.peek_word().cloned() else { return self.unexpected("a statement") };
        self.position += 1;
        match &*tag {
            "set" => self.set(at),
            "for" => self.for_loop(at),
            "if" => {
                let test = self.expression(Mode::Unconditional)?;
                self.open(Block::If, at, Statement::If(test))
            }
            "elif" => {
                let test = self.expression(Mode::Unconditional)?;
                if !matches!(self.blocks.last(), Some((Block::If, _))) {
                    return Err(syntax(at, "\"elif\" belongs to no \"if\""));
                }
                self.push(at, Statement::Elif(test));
                Ok(())
            }
            "else" => {
                match self.blocks.last_mut() {
                    Some((block @ Block::If, _)) => *block = Block::IfElse,
                    Some((block @ Block::For, _)) => *block = Block::ForElse,
                    _ => return Err(syntax(at, "\"else\" belongs to no \"if\" or \"for\"")),
                }
                self.push(at, Statement::Else);
                Ok(())
            }
            "macro" => {
                let name = self.identifier()?;
                let parameters = self.parameters()?;
                self.open(Block::Macro, at, Statement::Macro { name, parameters })
            }
            "call" => {
                let bracket = matches!(self.peek(), Some(Kind::Op("(")));
                let parameters = if bracket { self.parameters()? } else { Vec::new() };
                let call = self.expression(Mode::Single)?;
                if !self.is_call(call.root) {
                    return self.unexpected("a call before");
                }
                self.open(Block::Call, at, Statement::Call { parameters, call })
            }
            "filter" => {
                let filters = self.filters(true)?;
                self.open(Block::Filter, at, Statement::Filter(filters))
            }
            "with" => self.with(at),
            "generation" => self.open(Block::Generation, at, Statement::Generation),
            "break" | "continue" if self.blocks.iter().rev().any(|(b, _)| *b == Block::For) => Ok(()),
            "break" | "continue" => Err(syntax(at, &format!("{tag:?} is in no loop"))),
            "endset" => self.close(at, &tag, &[Block::Set], Statement::EndSet),
            "endfor" => self.close(at, &tag, &[Block::For, Block::ForElse], Statement::EndFor),
            "endif" => self.close(at, &tag, &[Block::If, Block::IfElse], Statement::EndIf),
            "endmacro" => self.close(at, &tag, &[Block::Macro], Statement::EndMacro),
            "endcall" => self.close(at, &tag, &[Block::Call], Statement::EndCall),
            "endfilter" => self.close(at, &tag, &[Block::Filter], Statement::EndFilter),
            "endwith" => self.close(at, &tag, &[Block::With], Statement::EndWith),
            "endgeneration" => self.close(at, &tag, &[Block::Generation], Statement::EndGeneration),
            _ => {
                // Refused as a whole, so that its inside need not be understood.
                while !matches!(self.peek(), None | Some(Kind::BlockEnd)) {
                    self.position += 1;
                }
                self.push(at, Statement::Refused(tag));
                Ok(())
            }
        }
    }

    fn set(&mut self, at: usize) -> Result<(), Defect> {
        let first = self.identifier()?;
        let target = if self.skip_op(".") {
            let Some(attribute) = self.peek_word().cloned() else { return self.unexpected("a name") };
            self.position += 1;
            Target { names: vec![first], attribute: Some(attribute) }
        } else {
            let mut names = vec![first];
            while self.skip_op(",") {
                names.push(self.identifier()?);
            }
            Target { names, attribute: None }
        };
        if self.skip_op("=") {
            let value = self.expression(Mode::Tuple)?;
            self.push(at, Statement::Set(target, value));
            return Ok(());
        }
        let filters = self.filters(false)?;
        self.open(Block::Set, at, Statement::SetBlock(target, filters))
    }

    fn for_loop(&mut self, at: usize) -> Result<(), Defect> {
        let (mut targets, mut depth) = (Vec::new(), 0usize);
        loop {
            while self.skip_op("(") {
                depth += 1;
            }
            targets.push(self.identifier()?);
            while depth > 0 && self.skip_op(")") {
                depth -= 1;
            }
            if !self.skip_op(",") {
                break;
            }
        }
        if depth > 0 || !self.skip_word("in") {
            return self.unexpected("\"in\"");
        }
        let iterable = self.expression(Mode::Unconditional)?;
        let condition = if self.skip_word("if") { Some(self.expression(Mode::Single)?) } else { None };
        self.program.recursive |= self.skip_word("recursive");
        self.open(Block::For, at, Statement::For { targets, iterable, condition })
    }

    fn with(&mut self, at: usize) -> Result<(), Defect> {
        let mut values = Vec::new();
        while self.peek() != Some(&Kind::BlockEnd) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.identifier()?;
            self.expect_op("=")?;
            values.push((vec![name], self.expression(Mode::Single)?));
        }
        self.open(Block::With, at, Statement::With(values))
    }

    fn parameters(&mut self) -> Result<Parameters, Defect> {
        let mut out: Parameters = Vec::new();
        self.expect_op("(")?;
        while !self.skip_op(")") {
            if !out.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.identifier()?;
            let default = if self.skip_op("=") { Some(self.expression(Mode::Single)?) } else { None };
            out.push((name, default));
        }
        Ok(out)
    }
}

/// Words that cannot be operands.
pub(super) fn is_keyword(name: &str) -> bool {
    matches!(name, "and" | "or" | "not" | "in" | "is" | "if" | "else")
}

/// Words that stand for constants.
pub(super) fn is_constant(name: &str) -> bool {
    matches!(name, "true" | "false" | "none" | "True" | "False" | "None")
}
