//! Which protobuf a file is, if it is one.
//!
//! Owns: the fields by which those that models are stored in differ. Promises: nothing is taken for a protobuf that does not
//! walk as one from the first byte to the last. Leaves out: what is in it.
//!
//! ```text
//! ONNX           1 ir_version: number   7 graph: message        others of ModelProto
//! Core ML        1 version: number      2 description: message  200 and up, the kind of model: message
//! SavedModel     1 version: number      2 graphs: message       and nothing else
//! GraphDef       1 node*: message { 1 name: text, 2 op: text }  2 library, 3 version, 4 versions
//! SentencePiece  1 piece*: message { 1 piece: text, 2 score: float }  2 trainer, 3 normalizer, 4, 5
//! ```

use super::Content;
use crate::error::Result;
use crate::format::input::{Input, read_range};
use crate::format::protobuf::{Fault, Field, MAX_MESSAGE, Step, Value, Walked, Walker};

/// The kind of protobuf.
pub(super) fn by_fields(input: &dyn Input) -> Result<Option<Content>> {
    if input.size() > MAX_MESSAGE + (1 << 20) {
        return Ok(None);
    }
    match walk(input) {
        Ok(content) => Ok(content),
        Err(Fault::Wire(..)) => Ok(None),
        Err(Fault::Failed(e)) => Err(e),
    }
}

fn walk(input: &dyn Input) -> Walked<Option<Content>> {
    let mut walker = Walker::new(input);
    // By number: whether fields of wire type 0 and 2 have come.
    let (mut numbers, mut messages) = (0u32, 0u32);
    let mut model_kind = false;
    let mut node = None;
    while let Step::Field(field) = walker.step()? {
        match (field.number, field.value) {
            (n @ 1..=31, Value::Varint(_)) => numbers |= 1 << n,
            (n @ 1..=31, Value::Bytes(_)) => messages |= 1 << n,
            (200.., Value::Bytes(_)) => model_kind = true,
            // Later versions' fields: each format's own inspection says what it thinks of them.
            (32.., _) => {}
            _ => return Ok(None),
        }
        if node.is_none() && field.number == 1 && matches!(field.value, Value::Bytes(_)) {
            node = Some(second_field(input, &field)?);
        }
    }
    let (number, message) = (|n: u32| numbers & 1 << n != 0, |n: u32| messages & 1 << n != 0);
    Ok(match node {
        _ if number(1) && message(1) => None,
        None if number(1) && message(7) => Some(Content::Onnx),
        None if number(1) && model_kind => Some(Content::CoreMl),
        None if number(1) && messages == 1 << 2 && numbers == 1 << 1 => Some(Content::TensorFlow),
        // The graph may come before the version, and the version not at all.
        None if message(7) && messages & !0x0610_41dc == 0 => Some(Content::Onnx),
        Some(Some(Second::Score)) => Some(Content::SentencePiece),
        Some(Some(Second::Op)) => Some(Content::TensorFlow),
        _ => None,
    })
}

/// The second field of a message whose first is a text.
fn second_field(input: &dyn Input, field: &Field) -> Walked<Option<Second>> {
    let Value::Bytes(length) = field.value else { return Ok(None) };
    let head = read_range(input, field.body, length.min(300), 300)?;
    let [0x0a, first @ 0..=0x7f, rest @ ..] = head.as_slice() else { return Ok(None) };
    Ok(match rest.get(usize::from(*first)..) {
        Some([0x12, ..]) => Some(Second::Op),
        Some([0x15 | 0x18, ..] | []) => Some(Second::Score),
        _ => None,
    })
}

/// What comes after the name.
enum Second {
    /// A text: the operator of a node.
    Op,
    /// A piece's score, its kind, or nothing: both have defaults.
    Score,
}
