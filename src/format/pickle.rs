//! Pickles: read opcode by opcode, never run.
//!
//! Owns: the walk of one pickle, what it would call, and bare pickles. Promises: a pickle without findings calls nothing but
//! what makes a state dict of tensors, with the arguments that `torch.save` writes; whatever way a callable gets onto the
//! stack (by name, by memo, by text put together, by the extension registry), it is resolved or refused; every pickle of a
//! file is walked to its end, whatever is found on the way. Leaves out: the files around a pickle (`torch`).
//!
//! ```text
//! [PROTO n] opcode* STOP       (CPython, Lib/pickletools.py; Modules/_pickle.c for what a loader does)
//! MARK ... TUPLE | LIST | DICT | SETITEMS | APPENDS       containers
//! GLOBAL module name | STACK_GLOBAL | INST | EXT          names a function or class
//! REDUCE | NEWOBJ | NEWOBJ_EX | OBJ | INST | BUILD        calls it: what makes a pickle a program
//! ```

pub(crate) mod calls;
pub(crate) mod globals;
pub(crate) mod heap;
mod machine;
pub(crate) mod op;

use super::Kind;
use super::description::Description;
use super::finding::{Findings, Place, Rule, rules};
use crate::artifact::Format;
use crate::error::Result;
use crate::name::RelPath;
use heap::{Heap, Id};
use machine::Machine;

/// The longest pickle that is walked: a state dict's are some 100 bytes for each tensor.
pub(crate) const MAX_PICKLE: u64 = 8 << 20;
/// Pickles of one file that are walked.
const MAX_STREAMS: usize = 16;

rules! {
    CALL "pickle.call" Critical "calls what a state dict of tensors does not need: loading the pickle runs code"
    GLOBAL "pickle.global" Critical "names what a state dict of tensors does not need: importing it may run code"
    EXTENSION "pickle.extension" Critical "takes a global from the loader's extension registry: what it is cannot be known"
    BUILD "pickle.build" Critical "sets attributes of an object: loading may call its __setstate__"
    ARGUMENTS "pickle.arguments" Critical "calls an allowed function with arguments that torch.save does not write"
    PERSISTENT "pickle.persistent" Critical "a persistent id that is not that of a storage"
    CONTAINER "pickle.container" Critical "adds items to what is no list, dict or set: a loader would call a method of it"
    BUFFER "pickle.buffer" Critical "wants a buffer from outside the file"
    TRUNCATED "pickle.truncated" Critical "ends within an opcode or without STOP"
    MALFORMED "pickle.malformed" Critical "an opcode that is none, or an argument that breaks its form"
    TEXT "pickle.text" Critical "a string that is not UTF-8"
    PROTOCOL "pickle.protocol" Critical "a protocol that is not known, or declared within the pickle"
    FRAME "pickle.frame" Critical "a frame that does not hold whole opcodes: unpicklers disagree on it"
    STACK "pickle.stack" Critical "takes from an empty stack, or leaves values over"
    MEMO "pickle.memo" Critical "reads a memo entry that is not there, or writes one twice or far out"
    LIMIT "pickle.limit" Critical "more opcodes, values or tensors than any model has: loading it could exhaust memory"
    TRAILING "pickle.trailing" Critical "bytes after STOP: readers disagree on whether they are loaded"
    HIDDEN "pickle.hidden" Critical "a pickle that names functions, where none belongs"
    BARE "pickle.bare" High "a pickle outside torch.save's format: only pickle.load reads it, which runs what a pickle says"
}

/// Where findings of a pickle go.
pub(crate) struct Out<'a> {
    pub(crate) path: &'a RelPath,
    /// The archive's member, if it is one.
    pub(crate) part: Option<&'a str>,
    pub(crate) findings: &'a mut Findings,
}

impl Out<'_> {
    pub(crate) fn add(&mut self, rule: &'static Rule, place: Place, message: impl Into<String>) {
        self.findings.add(self.path, rule, place, message);
    }

    pub(crate) fn place(&self, at: usize) -> Place {
        self.part.map_or_else(|| Place::at(at as u64), |part| Place::part_at(part, at as u64))
    }
}

/// A pickle that was walked.
pub(crate) struct Walk<'a> {
    /// The stream that the values' text is in.
    pub(crate) bytes: &'a [u8],
    pub(crate) heap: Heap,
    /// What a loader would return; none when it would not get that far.
    pub(crate) root: Option<Id>,
    /// The byte after STOP, or where the walk ended.
    pub(crate) end: usize,
    /// Whether a global was named, allowed or not.
    pub(crate) named: bool,
}

/// Walks the pickle that begins at `at`. What is wrong with it is found; whatever stands after its STOP is not looked at.
pub(crate) fn walk<'a>(bytes: &'a [u8], at: usize, out: &mut Out<'_>) -> Result<Walk<'a>> {
    let mut machine = Machine::new(bytes, at, out);
    let root = machine.run();
    let (heap, end, named) = (std::mem::take(&mut machine.heap), machine.ops.at, machine.named);
    drop(machine);
    let root = match root {
        Ok(root) => Some(root),
        Err(halt) => {
            out.findings.halt(out.path, halt)?;
            None
        }
    };
    Ok(Walk { bytes, heap, root, end, named })
}

/// Walks whatever pickles stand from `at` on, and finds that they do: nothing belongs after the last STOP.
pub(crate) fn walk_trailing(bytes: &[u8], mut at: usize, out: &mut Out<'_>) -> Result<()> {
    if at >= bytes.len() {
        return Ok(());
    }
    let place = out.place(at);
    let why = format!("{} bytes follow the pickle's STOP: what loads the next pickle runs it too", bytes.len() - at);
    out.add(&TRAILING, place, why);
    for _ in 0..MAX_STREAMS {
        if at >= bytes.len() {
            return Ok(());
        }
        let next = walk(bytes, at, out)?;
        if next.root.is_none() {
            return Ok(());
        }
        at = next.end;
    }
    Ok(())
}

/// Whether a pickle that names globals begins here and reaches its STOP: nothing else happens to look like that.
pub(crate) fn is_program(path: &RelPath, bytes: &[u8]) -> Result<bool> {
    let mut findings = Findings::new();
    let walk = walk(bytes, 0, &mut Out { path, part: None, findings: &mut findings })?;
    let extension = findings.has(EXTENSION.id);
    Ok(walk.root.is_some() && (walk.named || extension))
}

/// A file that is a pickle and no more, whose beginning has been read.
pub(crate) fn bare(path: &RelPath, bytes: &[u8], size: u64, findings: &mut Findings) -> Result<Description> {
    let mut out = Out { path, part: None, findings };
    if size > MAX_PICKLE {
        out.add(&LIMIT, Place::whole(), format!("the pickle is over {MAX_PICKLE} bytes"));
    }
    let first = walk(bytes, 0, &mut out)?;
    if first.root.is_some() {
        walk_trailing(bytes, first.end, &mut out)?;
    }
    out.add(&BARE, Place::whole(), BARE.summary);
    Ok(Description::new(Kind::Model(Format::Pytorch), "a bare pickle"))
}

#[cfg(test)]
mod tests;
