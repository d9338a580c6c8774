//! The nodes of expressions.
//!
//! Owns: [`Node`] and what it is made of. Promises: operands stand before what uses them, so that a walk from front to back
//! needs no recursion. Leaves out: how they are read (`expression`) and what they mean (`judge`).

use super::parser::Id;
use std::rc::Rc;

/// One node of an expression; its operands stand before it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) expr: Expr,
    /// Nodes on the longest way down, with itself.
    pub(super) depth: usize,
}

#[derive(Debug)]
pub(super) enum Expr {
    /// A name or attribute that turned out to be what is called; [`Callee`] has it.
    Taken,
    /// The text of a block, for its filters.
    Body,
    Str(Rc<str>),
    Int(u64),
    /// A float, a boolean, none.
    Number,
    Name(Rc<str>),
    Attribute(Id, Rc<str>),
    Index(Id, Id),
    Slice(Id),
    Call(Callee, Arguments),
    Filter(Id, Rc<str>, Arguments),
    /// A test of a value, which is nothing when it is a bare name that is tested for being defined.
    Test(Rc<str>, Arguments),
    Unary(Id),
    Binary(Operator, Id, Id),
    /// Value, alternative.
    Conditional(Id, Option<Id>),
    /// A list or tuple.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
}

/// What is called.
#[derive(Debug, Clone)]
pub(super) enum Callee {
    Function(Rc<str>),
    Method(Id, Rc<str>),
    /// Anything else.
    Value(Id),
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Id>,
    pub(super) named: Vec<(Rc<str>, Id)>,
    /// `*args` or `**kwargs` is among them.
    pub(super) spread: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    /// `value if test`: the test is being read.
    If,
    /// `value if test else`: the alternative is being read.
    Else,
    Or,
    And,
    Not,
    Compare,
    Add,
    Subtract,
    Concat,
    Multiply,
    Divide,
    Modulo,
    Power,
    Sign,
}

impl Operator {
    /// How tightly it binds.
    pub(super) fn precedence(self) -> u8 {
        match self {
            Operator::If | Operator::Else => 0,
            Operator::Or => 1,
            Operator::And => 2,
            Operator::Not => 3,
            Operator::Compare => 4,
            Operator::Add | Operator::Subtract => 5,
            Operator::Concat => 6,
            Operator::Multiply | Operator::Divide | Operator::Modulo => 7,
            Operator::Power => 8,
            Operator::Sign => 9,
        }
    }
}

/// The operator that is written so between two operands.
pub(super) fn binary(op: &str) -> Option<Operator> {
    Some(match op {
        "==" | "!=" | "<" | "<=" | ">" | ">=" => Operator::Compare,
        "+" => Operator::Add,
        "-" => Operator::Subtract,
        "~" => Operator::Concat,
        "*" => Operator::Multiply,
        "/" | "//" => Operator::Divide,
        "%" => Operator::Modulo,
        "**" => Operator::Power,
        _ => return None,
    })
}
