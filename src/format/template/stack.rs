//! The stacks of the expression parser.
//!
//! Owns: what is open while an expression is read: brackets with what was read in them, operators, operands. Promises:
//! plain data. Leaves out: the grammar (`expression`).

use super::node::{Callee, Operator};
use super::parser::Id;
use std::rc::Rc;

/// Which expression is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// With `if`, or several with commas.
    Tuple,
    /// Several with commas, without `if`, which belongs to the statement.
    Unconditional,
    /// One, with `if`.
    Single,
}

#[derive(Debug)]
pub(super) enum Opened {
    Top(Mode),
    Paren,
    List,
    Dict,
    Subscript(Id),
    Call(Callee),
    Filter(Id, Rc<str>),
    Test(Id, Rc<str>, Negation),
    /// A test's argument without brackets: one operand.
    TestArgument(Id, Rc<str>, Negation),
}

/// `is` or `is not`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Negation {
    Is,
    IsNot,
}

/// An open bracket, and what was read in it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) opened: Opened,
    pub(super) at: usize,
    pub(super) operators: usize,
    pub(super) items: Vec<Id>,
    pub(super) named: Vec<(Rc<str>, Id)>,
    /// The name of the argument that is being read.
    pub(super) name: Option<Rc<str>>,
    /// Colons of a slice, or whether a dict's value is being read.
    pub(super) colons: usize,
    pub(super) commas: usize,
    pub(super) spread: bool,
}

/// The stacks; empty between expressions.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) frames: Vec<Frame>,
    pub(super) operators: Vec<(Operator, usize)>,
    pub(super) operands: Vec<Id>,
    /// After a filter or test only filters and tests follow.
    pub(super) filtered: bool,
}
