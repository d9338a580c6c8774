//! ONNX: what a `ModelProto` holds, and what a runtime would do with it.
//!
//! Owns: the walk over the protobuf, the rules, and the check of external data against the files of the set. Promises: no
//! weights are read or kept, only where they stand; what is kept is bounded by [`KEPT`], whatever the file; messages nest on
//! a stack of our own; each file that a tensor reads from lies below the model's folder and is in the set, long enough.
//! Leaves out: whether the operators' types and shapes fit together (the runtime checks that without harm), and the other
//! files' bytes.
//!
//! ```text
//! ModelProto     ir_version, opset_import*, producer, metadata_props*, graph, functions*, training_info*
//! GraphProto     node*, initializer*, sparse_initializer*, input*, output*, value_info*
//! NodeProto      op_type, domain, overload, attribute*  -> AttributeProto -> GraphProto (If, Loop, Scan), TensorProto
//! FunctionProto  name, domain, overload, node*          nodes whose op_type and domain name it are expanded in place
//! ```
//! Source: onnx/onnx-ml.proto and docs/ExternalData.md of onnx 1.23.

mod external;
mod functions;
mod schema;
mod tensor;
#[cfg(test)]
mod tests;

pub(crate) use external::{check_external, external_names};

use super::Kind as FileKind;
use super::description::{Description, Facts, Tensor};
use super::finding::{Findings, Halt, Parsed, Place, Rule, quoted, rules};
use super::input::Input;
use super::protobuf::{Fault, Field, MAX_MESSAGE, Step, Value, Walker};
use crate::artifact::Format;
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;
use functions::Functions;
use schema::{Form, Kind, Row, Times};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use tensor::{Coming, Wrong};

rules! {
    MALFORMED "onnx.malformed" Critical "the protobuf is broken: loaders would stop, or make different things of it"
    TOO_LARGE "onnx.too-large" Critical "the file is over 2 GiB, more than protobuf can parse"
    TOO_MUCH "onnx.too-much" Critical "the file names more things than any model has: a loader would run out of memory"
    TWICE "onnx.duplicate-field" Critical "a field that may come once comes again: one loader takes the first, another the last"
    DUPLICATE "onnx.duplicate-tensor" Critical "two initializers of a graph have one name: which one is used depends on the loader"
    NO_GRAPH "onnx.no-graph" Critical "there is no graph, so it is no model"
    IR "onnx.ir-version" Critical "the version of the format is missing or impossible"
    IR_NEW "onnx.new-ir-version" High "the version of the format is newer than any known: it may mean what nothing here looked at"
    TYPE "onnx.type" Critical "a tensor's element type does not exist or is not that of its values: a loader would guess their size"
    UNTYPED "onnx.untyped" High "a tensor with external data has no element type, so how much it reads is the loader's guess"
    SHAPE "onnx.shape" Critical "a tensor's shape is negative, too long or overflows: a loader would take too little memory"
    SIZE "onnx.size" Critical "a tensor's bytes are not as many as its shape and type call for: a loader would read past their end"
    TWO_DATA "onnx.two-data" Critical "a tensor has its values in two places: one loader takes these, another those"
    SEGMENT "onnx.segment" High "a tensor comes in segments, which no loader puts together"
    LOCATION "onnx.location" Critical "a tensor's data_location does not exist"
    EXTERNAL_PATH "onnx.external-path" Critical "external data outside of the model's folder: a loader would read any file it may (CVE-2024-27318, CVE-2024-5187, CVE-2025-51480)"
    EXTERNAL_MEMORY "onnx.external-memory" Critical "external data at an address in memory: ONNX Runtime would read its own process's memory"
    EXTERNAL_SELF "onnx.external-self" High "external data in the model itself: its metadata would be taken for weights"
    EXTERNAL_MISSING "onnx.external-missing" High "external data in a file that is not in the set: a loader would fail, or read what happens to lie there"
    EXTERNAL_SHORT "onnx.external-short" Critical "external data past the end of its file: a loader would read past it"
    EXTERNAL_MODEL "onnx.external-model" High "external data in a file that is something else too: what is weights and what is not could be confused"
    EXTERNAL_REST "onnx.external-rest" Warning "a file of external data is longer than what is read of it: the rest could be anything"
    EXTERNAL_RANGE "onnx.external-range" Critical "an offset or length of external data is no plain number: a loader would read where it likes"
    EXTERNAL_KEY "onnx.external-key" High "external data has a key that no specification knows, which loaders have set on their own objects"
    EXTERNAL_TWICE "onnx.external-duplicate" Critical "external data gives a key twice: one loader takes the first, another the last"
    EXTERNAL_UNUSED "onnx.external-unused" High "a tensor names an external file and does not say that it is used"
    CUSTOM "onnx.custom-op" High "an operator of a domain that no runtime knows needs someone's native code to run"
    NATIVE "onnx.native-op" High "an operator that runs Python or a compiled engine: code that nothing here can look at"
    FUNCTION_TWICE "onnx.duplicate-function" Critical "a function is defined twice: which one is used depends on the loader"
    RECURSION "onnx.recursion" Critical "functions call each other in a circle: a runtime would expand them until its stack or memory ends"
    EXPANSION "onnx.expansion" High "functions expand to more nodes than any model has: a runtime would run out of memory"
    SPARSE "onnx.sparse" High "a sparse tensor, whose indices a runtime writes by: they are not looked at here"
    TEXT "onnx.text" High "a text is not UTF-8: programs replace such bytes, and two names become one"
    LONG "onnx.long-name" High "a name is over 4096 bytes long, which no tool writes"
    UNKNOWN "onnx.unknown-field" Warning "a field that no version of the format knows: it could hide bytes"
    OPSET "onnx.opset" Warning "the operator sets are not stated, or stated twice: what the operators mean depends on the runtime"
    TRAINING "onnx.training" Warning "it holds a training algorithm beside the model: a trainer would run it"
    METADATA "onnx.metadata" Warning "a key of the metadata comes twice: what a tool shows depends on the tool"
}

/// The newest version of the format there is.
const NEWEST_IR: i64 = 14;
/// Bytes that may be kept of a file: 100,000 tensors with names of a hundred bytes fit.
const KEPT: usize = 24 << 20;
/// Defects after which no more are looked for.
const DEFECTS: u32 = 10_000;
/// The longest name there is.
const NAME: usize = 4096;
/// Metadata that is shown: pairs, and bytes of each.
const SHOWN: usize = 256;

/// What a message that is open has given so far.
enum Data {
    Plain,
    Model,
    Graph { names: HashSet<String> },
    Node { op: String, domain: String, overload: String },
    Function { name: String, domain: String, overload: String },
    Tensor(Box<Coming>),
    Entry { key: String, value: String },
    Opset { domain: String, version: i64 },
}

/// A message that is open.
struct Frame {
    kind: Kind,
    /// The field of the message around it that it stands in.
    number: u32,
    at: u64,
    /// By their row, the fields that have come.
    seen: u32,
    data: Data,
}

struct Walk<'a, 'f> {
    path: &'a RelPath,
    findings: &'f mut Findings,
    walker: Walker<'a>,
    frames: Vec<Frame>,
    description: Description,
    functions: Functions,
    external: BTreeMap<String, u64>,
    opsets: BTreeMap<String, i64>,
    ir_version: Option<i64>,
    kept: usize,
    defects: u32,
    unknown: u32,
    nodes: u64,
    /// Whether the model's graph has come.
    graph: bool,
    /// Tensors that are not the main graph's initializers.
    constants: u64,
}

/// Looks at an ONNX file.
///
/// # Errors
/// Only what is no defect of the file: it cannot be read.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut walk = Walk {
        path,
        findings,
        walker: Walker::new(input),
        frames: vec![Frame { kind: Kind::Model, number: 0, at: 0, seen: 0, data: Data::Model }],
        description: Description::new(FileKind::Model(Format::Onnx), "ONNX"),
        functions: Functions::default(),
        external: BTreeMap::new(),
        opsets: BTreeMap::new(),
        ir_version: None,
        kept: 0,
        defects: 0,
        unknown: 0,
        nodes: 0,
        graph: false,
        constants: 0,
    };
    let result = match input.size() {
        0..=MAX_MESSAGE => walk.all().and_then(|()| walk.whole()),
        size => {
            let why = format!(
                "it is {size} bytes long, and protobuf parses no more than {MAX_MESSAGE}: a loader would fail; keep the weights in external data"
            );
            Err(Halt::found(&TOO_LARGE, Place::whole(), why))
        }
    };
    let description = walk.describe();
    if let Err(halt) = result {
        findings.halt(path, halt)?;
    }
    Ok(description)
}

impl Walk<'_, '_> {
    /// Walks to the end.
    fn all(&mut self) -> Parsed<()> {
        while !self.frames.is_empty() {
            match self.walker.step() {
                Ok(Step::Field(field)) => self.field(&field)?,
                Ok(Step::End) => {
                    if let Some(frame) = self.frames.pop() {
                        self.end(frame)?;
                    }
                }
                Err(fault) => return Err(self.broken(fault)),
            }
        }
        Ok(())
    }

    fn broken(&self, fault: Fault) -> Halt {
        match fault {
            Fault::Failed(e) => Halt::Failed(e),
            Fault::Wire(at, why) => {
                let within = self.frames.last().map_or("the file", |f| f.kind.name());
                let why = format!(
                    "a field of {within} at byte {at} is broken: {why}; loaders would stop or make different things of it"
                );
                Halt::found(&MALFORMED, Place::at(at), why)
            }
        }
    }

    fn add(&mut self, rule: &'static Rule, place: Place, why: impl Into<String>) -> Parsed<()> {
        self.findings.add(self.path, rule, place, why);
        self.defects += 1;
        match self.defects < DEFECTS {
            true => Ok(()),
            false => Err(Halt::found(
                &TOO_MUCH,
                Place::whole(),
                format!("there are over {DEFECTS} defects: the rest was not looked at"),
            )),
        }
    }

    /// Makes sure that so much more may be kept.
    fn keep(&mut self, bytes: usize) -> Parsed<()> {
        self.kept += bytes;
        match self.kept <= KEPT {
            true => Ok(()),
            false => Err(Halt::found(
                &TOO_MUCH,
                Place::whole(),
                format!(
                    "its names and tensors take over {} MiB, more than any model's: a loader would run out of memory",
                    KEPT >> 20
                ),
            )),
        }
    }

    fn field(&mut self, field: &Field) -> Parsed<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let kind = frame.kind;
        let rows = kind.fields();
        let Some((index, row)) = rows.iter().enumerate().find(|(_, row)| row.0 == field.number) else {
            self.unknown += 1;
            if self.unknown > 16 {
                return Ok(());
            }
            let why = format!(
                "{} has a field {} that no version of ONNX knows: it could hide bytes",
                kind.name(),
                field.number
            );
            return self.add(&UNKNOWN, Place::at(field.at), why);
        };
        let (_, name, form, times) = *row;
        let again = frame.seen & 1 << index != 0;
        frame.seen |= 1 << index;
        if times == Times::Once && again {
            let why =
                format!("{} has the field {name} twice: one loader takes the first, another the last", kind.name());
            self.add(&TWICE, Place::at(field.at), why)?;
        }
        let fits = match (form, field.value) {
            (Form::Varint, Value::Varint(_)) | (Form::Float, Value::Fixed32(_)) => true,
            (Form::Text | Form::Bytes | Form::Message(_), Value::Bytes(_)) => true,
            (Form::Ints, Value::Varint(_) | Value::Bytes(_)) => true,
            (Form::Floats, Value::Fixed32(_)) | (Form::Doubles, Value::Fixed64) => true,
            (Form::Floats, Value::Bytes(n)) => n % 4 == 0,
            (Form::Doubles, Value::Bytes(n)) => n % 8 == 0,
            _ => false,
        };
        if !fits {
            return Err(self.broken(Fault::Wire(field.at, "its value is not of the field's type")));
        }
        self.take(kind, row, field)
    }

    /// A field that is known and of its type.
    fn take(&mut self, kind: Kind, row: &Row, field: &Field) -> Parsed<()> {
        match row.2 {
            Form::Message(inner) => self.enter(inner, field),
            Form::Text => self.text(kind, row, field),
            Form::Varint => {
                let Value::Varint(n) = field.value else { return Ok(()) };
                self.number(field.number, n.cast_signed());
                Ok(())
            }
            Form::Ints | Form::Floats | Form::Doubles | Form::Bytes => self.values(field),
            Form::Float => Ok(()),
        }
    }

    fn enter(&mut self, kind: Kind, field: &Field) -> Parsed<()> {
        self.walker.enter(field).map_err(|fault| self.broken(fault))?;
        // Messages of no bytes cost time: six million are as many as may come, a million and a half of them nodes.
        self.keep(if kind == Kind::Node { 16 } else { 4 })?;
        // Of the messages open, the one above is the model.
        self.graph |= kind == Kind::Graph && field.number == 7 && self.frames.len() == 1;
        let data = match kind {
            Kind::Graph => Data::Graph { names: HashSet::new() },
            Kind::Node => Data::Node { op: String::new(), domain: String::new(), overload: String::new() },
            Kind::Function => Data::Function { name: String::new(), domain: String::new(), overload: String::new() },
            Kind::Tensor => Data::Tensor(Box::default()),
            Kind::Entry => Data::Entry { key: String::new(), value: String::new() },
            Kind::Opset => Data::Opset { domain: String::new(), version: 0 },
            _ => Data::Plain,
        };
        self.frames.push(Frame { kind, number: field.number, at: field.at, seen: 0, data });
        Ok(())
    }

    fn text(&mut self, kind: Kind, row: &Row, field: &Field) -> Parsed<()> {
        let text = self.walker.text(field, NAME).map_err(|fault| self.broken(fault))?;
        let (number, name, ..) = *row;
        let Some(text) = text else {
            // Each by a name of its own, so that two of them are not taken for one.
            if let (Some(Frame { data: Data::Tensor(tensor), .. }), 8) = (self.frames.last_mut(), number) {
                tensor.name = Some(format!("(not UTF-8, at byte {})", field.at));
            }
            let why = format!(
                "{name} of {} is not UTF-8: programs replace such bytes, and two names become one",
                kind.name()
            );
            return self.add(&TEXT, Place::at(field.at), why);
        };
        let depth = self.frames.len();
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let into = match (&mut frame.data, number) {
            (Data::Node { op, .. }, 4) => op,
            (Data::Node { domain, .. }, 7) => domain,
            (Data::Node { overload, .. }, 8) => overload,
            (Data::Function { name, .. }, 1) => name,
            (Data::Function { domain, .. }, 10) => domain,
            (Data::Function { overload, .. }, 13) => overload,
            (Data::Tensor(tensor), 8) => tensor.name.insert(String::new()),
            (Data::Entry { key, .. } | Data::Opset { domain: key, .. }, 1) => key,
            (Data::Entry { value, .. }, 2) => {
                // A value of the metadata may be long; only the path of external data is a name.
                *value = text;
                return Ok(());
            }
            (Data::Model, 2..=4) => {
                self.description.metadata.insert(name.to_owned(), json!(quoted(&text)));
                return Ok(());
            }
            (Data::Graph { .. }, 2) if depth == 2 => {
                self.description.metadata.insert("graph".into(), json!(quoted(&text)));
                return Ok(());
            }
            _ => return Ok(()),
        };
        *into = text;
        if matches!(field.value, Value::Bytes(n) if n > NAME as u64) {
            let why = format!("{name} of {} is over {NAME} bytes long, which no tool writes", kind.name());
            self.add(&LONG, Place::at(field.at), why)?;
        }
        Ok(())
    }

    fn number(&mut self, number: u32, n: i64) {
        let Some(frame) = self.frames.last_mut() else { return };
        match (&mut frame.data, number) {
            (Data::Model, 1) => self.ir_version = Some(n),
            (Data::Model, 5) => {
                self.description.metadata.insert("model_version".into(), json!(n));
            }
            // Protobuf's parsers cut an int32 and an enum to 32 bits.
            (Data::Tensor(tensor), 2) => tensor.data_type = i64::from(n as i32),
            (Data::Tensor(tensor), 14) => tensor.location = i64::from(n as i32),
            (Data::Opset { version, .. }, 2) => *version = n,
            _ => {}
        }
    }

    /// A field of many values, or of bytes: of a tensor they are counted, or noted where they are.
    fn values(&mut self, field: &Field) -> Parsed<()> {
        let Some(Frame { data: Data::Tensor(tensor), .. }) = self.frames.last_mut() else { return Ok(()) };
        let walker = &mut self.walker;
        let slot = match field.number {
            1 => {
                let result = walker.varints(field, |dim| tensor.dim(dim));
                return result.map_err(|fault| self.broken(fault));
            }
            9 => {
                if let Value::Bytes(length) = field.value {
                    tensor.raw = Some((field.body, length));
                }
                return Ok(());
            }
            4..=7 => field.number - 4,
            10 | 11 => field.number - 6,
            _ => return Ok(()),
        };
        let more = match (field.number, field.value) {
            (4, Value::Bytes(n)) => Ok(n / 4),
            (10, Value::Bytes(n)) => Ok(n / 8),
            (5 | 7 | 11, Value::Bytes(_)) => walker.count_varints(field),
            _ => Ok(1),
        };
        match more {
            Ok(more) => {
                if let Some(count) = tensor.typed.get_mut(slot as usize) {
                    *count += more;
                }
                Ok(())
            }
            Err(fault) => Err(self.broken(fault)),
        }
    }

    /// A message is at its end.
    fn end(&mut self, frame: Frame) -> Parsed<()> {
        let Frame { number, at, data, kind, .. } = frame;
        match data {
            Data::Tensor(tensor) => self.tensor(*tensor, number, at),
            Data::Entry { key, value } => self.entry(key, value, number, at),
            Data::Opset { domain, version } => self.opset(domain, version, at),
            Data::Node { op, domain, overload } => {
                self.nodes += 1;
                let kept = self.functions.node(
                    &op,
                    &domain,
                    &overload,
                    self.frames.get(1).is_some_and(|f| f.kind == Kind::Function),
                );
                self.keep(kept)
            }
            Data::Function { name, domain, overload } => match self.functions.define(&name, &domain, &overload) {
                Ok(kept) => self.keep(kept),
                Err(()) => {
                    let why = format!(
                        "the function {:?} of {:?} is defined twice: which one is used depends on the loader",
                        shorten(&name),
                        shorten(&domain)
                    );
                    self.add(&FUNCTION_TWICE, Place::part_at(&name, at), why)
                }
            },
            Data::Plain if kind == Kind::Segment => {
                if let Some(Frame { data: Data::Tensor(tensor), .. }) = self.frames.last_mut() {
                    tensor.segment = true;
                }
                Ok(())
            }
            Data::Plain if kind == Kind::Sparse => self.add(
                &SPARSE,
                Place::at(at),
                "a sparse tensor: a runtime writes by its indices, which are not looked at here",
            ),
            Data::Plain if kind == Kind::Training => self.add(
                &TRAINING,
                Place::at(at),
                "it holds a training algorithm beside the model: a trainer would run it",
            ),
            Data::Plain | Data::Model | Data::Graph { .. } => Ok(()),
        }
    }

    fn tensor(&mut self, coming: Coming, number: u32, at: u64) -> Parsed<()> {
        let mut wrong: Vec<Wrong> = Vec::new();
        let (tensor, reads) = coming.finish(self.path, &mut wrong);
        for (rule, why) in wrong {
            self.add(rule, Place::part_at(&tensor.name, at), why)?;
        }
        if let Some((location, end)) = reads {
            if !self.external.contains_key(&location) {
                self.keep(location.len() + 64)?;
            }
            let known = self.external.entry(location).or_default();
            *known = end.max(*known);
        }
        // An initializer, or the values of a sparse one, which bear its name.
        let depth = self.frames.len();
        let graph = match self.frames.last() {
            Some(Frame { kind: Kind::Graph, .. }) if number == 5 => depth - 1,
            Some(Frame { kind: Kind::Sparse, number: 15, .. }) if number == 1 => depth - 2,
            _ => {
                self.constants += 1;
                return Ok(());
            }
        };
        self.keep(2 * tensor.name.len() + 8 * tensor.shape.len() + size_of::<Tensor>() + 48)?;
        let Some(Frame { data: Data::Graph { names }, .. }) = self.frames.get_mut(graph) else { return Ok(()) };
        let new = names.insert(tensor.name.clone());
        if !new {
            let why = format!(
                "two initializers are named {:?}: which one is used depends on the loader, and one hash could not vouch for both",
                shorten(&tensor.name)
            );
            self.add(&DUPLICATE, Place::part_at(&tensor.name, at), why)?;
        }
        // The model's own graph is the only one that can be open right above it.
        match graph {
            1 => self.description.tensors.push(tensor),
            _ => self.constants += 1,
        }
        Ok(())
    }

    fn entry(&mut self, key: String, value: String, number: u32, at: u64) -> Parsed<()> {
        match self.frames.last_mut() {
            Some(Frame { data: Data::Tensor(tensor), .. }) if number == 13 => tensor.entry(key, value),
            Some(Frame { kind: Kind::Model, .. }) => {
                let shown = format!("metadata.{}", quoted(&key));
                let metadata = &mut self.description.metadata;
                if metadata.contains_key(&shown) && key == shorten(&key) {
                    let why = format!(
                        "the key {:?} of the metadata comes twice: what a tool shows depends on the tool",
                        shorten(&key)
                    );
                    return self.add(&METADATA, Place::part_at(&key, at), why);
                }
                if metadata.len() < SHOWN {
                    metadata.insert(shown, json!(quoted(&value)));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn opset(&mut self, domain: String, version: i64, at: u64) -> Parsed<()> {
        // A function's own do not tell what the model's operators mean.
        if self.frames.len() != 1 {
            return Ok(());
        }
        self.keep(domain.len() + 64)?;
        let domain = if domain == "ai.onnx" { String::new() } else { domain };
        let shown = shorten(&domain);
        match self.opsets.insert(domain, version) {
            Some(old) if old != version => {
                let why = format!(
                    "the operator set {shown:?} is stated twice, as version {old} and {version}: what its operators mean depends on the runtime"
                );
                self.add(&OPSET, Place::at(at), why)
            }
            _ => Ok(()),
        }
    }

    /// What can be said when all has been seen.
    fn whole(&mut self) -> Parsed<()> {
        match self.ir_version {
            Some(1..=NEWEST_IR) => {}
            Some(n) if n > NEWEST_IR => {
                let why = format!(
                    "it claims IR version {n}, and {NEWEST_IR} is the newest known: it may mean what nothing here looked at"
                );
                self.add(&IR_NEW, Place::whole(), why)?;
            }
            Some(n) => self.add(
                &IR,
                Place::whole(),
                format!("it claims IR version {n}, which does not exist: no loader takes it"),
            )?,
            None => self.add(&IR, Place::whole(), "it does not state its IR version: no loader takes it")?,
        }
        if !self.graph {
            self.add(&NO_GRAPH, Place::whole(), "it has no graph, so it is no model")?;
        }
        if self.opsets.is_empty() {
            self.add(
                &OPSET,
                Place::whole(),
                "it states no operator set: what its operators mean depends on the runtime",
            )?;
        }
        for (rule, name, why) in self.functions.finish() {
            self.add(rule, Place::part(&name), why)?;
        }
        Ok(())
    }

    fn describe(&mut self) -> Description {
        let mut description = std::mem::replace(&mut self.description, Description::new(FileKind::Companion, ""));
        let ir = self.ir_version.unwrap_or(0);
        let (nodes, tensors) = (self.nodes, description.tensors.len());
        description.what = format!("ONNX, IR version {ir}, {nodes} nodes, {tensors} initializers");
        let metadata = &mut description.metadata;
        metadata.insert("ir_version".into(), json!(ir));
        metadata.insert("nodes".into(), json!(nodes));
        metadata.insert("functions".into(), json!(self.functions.count()));
        metadata.insert("constants".into(), json!(self.constants));
        for (domain, version) in self.opsets.iter().take(SHOWN) {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            metadata.insert(format!("opset.{}", quoted(domain)), json!(version));
        }
        if !self.external.is_empty() {
            let names: Vec<String> = self.external.keys().take(SHOWN).map(|n| quoted(n)).collect();
            metadata.insert("external_data".into(), json!(names));
            description.facts = Facts::External(std::mem::take(&mut self.external));
        }
        description
    }
}
