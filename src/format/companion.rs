//! The files that stand beside weights: configuration, vocabulary, templates, words.
//!
//! Owns: what a companion may say. Promises: a file that passes says nothing that makes transformers, diffusers,
//! sentence-transformers, PEFT, vLLM, mlx-lm or Hydra run code that is not theirs, without a finding. Leaves out: what a
//! file is and whether its name may say so (`recognise`, which comes first: what gets here is text, JSON or SentencePiece
//! under a name for it), what a chat template does (it is handed on in [`Facts::Templates`]), what files say of each other
//! (`folder`).
//!
//! ```text
//! *.json                        strict JSON, walked by `config` with the rules for its name
//! *.jinja                       a chat template
//! *.yaml, *.yml                 text without tags that build Python objects
//! *.model, *.spm                SentencePiece's protobuf (begins with field 1), or printable text
//! *.txt, *.md, LICENSE, ...     text: nothing more is asked
//! ```

mod config;
mod names;

use super::Kind;
use super::description::{Description, Facts};
use super::finding::{Findings, Halt, Parsed, Place, rules};
use super::input::{Input, read_range};
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;
use names::extension;
pub(crate) use names::{climbs, is_absolute, is_index, is_url};

/// Of a vocabulary, how much is looked at.
const VOCABULARY_LOOK: u64 = 1024;
/// Of YAML, how much there may be: all of it is looked at.
const YAML_MAX: u64 = 8 << 20;
/// Of a chat template; the longest in use have some 20,000 bytes.
const TEMPLATE_MAX: u64 = 1 << 20;

rules! {
    NOT_VOCABULARY "companion.not-vocabulary" High "a SentencePiece model that does not begin like one"
    TOO_LARGE "companion.too-large" Critical "the file is larger than any of its kind, too large to look through"
    JSON "json.malformed" Critical "the file is no well-formed JSON: one loader fails on it, another guesses"
    DUPLICATE "json.duplicate-key" High "a key stands twice in an object: one reader takes the first value, another the last"
    NOT_A_NUMBER "json.not-a-number" Warning "NaN or Infinity, which only Python's reader takes"
    AUTO_MAP "config.auto-map" High "auto_map names Python code that transformers imports, of this folder or of another repository"
    REMOTE_CODE "config.remote-code" High "the configuration asks loaders to trust code that comes with the model"
    CUSTOM_PIPELINE "config.custom-pipeline" High "custom_pipelines names Python code that a pipeline imports"
    CUSTOM_GENERATE "config.custom-generate" High "custom_generate names Python code that generation runs"
    KERNEL "config.kernel" High "a kernel from a hub is named: it is downloaded and run when the model is loaded"
    TARGET "config.target" High "_target_ names a Python object that Hydra calls with arguments from the file"
    JSONPICKLE "config.jsonpickle" High "py/ keys are instructions to jsonpickle, which builds any Python object"
    LAMBDA "config.keras-lambda" High "a Lambda layer holds Python bytecode that Keras runs"
    CUSTOM_CLASS "config.custom-class" High "a class outside the known libraries is named, which a loader imports"
    IMPORT "config.import" High "a Python module outside the known libraries is named, which a loader imports"
    CUSTOM_CODE "config.custom-code" High "a file of code is named, which a loader runs"
    UNSAFE_LOAD "config.unsafe-load" High "the configuration asks for unpickling without restraint"
    OUTSIDE "config.outside-path" High "a path leads out of the model's folder: a loader would read what is there"
    PYTHON_TAG "yaml.python-tag" High "a YAML tag builds a Python object when the file is loaded"
    INDEX "index.malformed" Critical "the index has no weight_map from tensors to files"
    TEMPLATE_SIZE "template.too-large" High "a chat template is larger than any in use, too large to look through"
    ABSOLUTE "config.absolute-path" Warning "an absolute path of another machine, which may exist on this one"
    NAMES_CODE "config.names-code" Warning "a file of code is named"
    URL "config.url" Info "an address on the network is named"
    BASE "adapter.base" Info "which model the adapter is for"
    ODD_BASE "adapter.base-path" Warning "the adapter's base is a place on a disk or the network, not a model's name"
}

/// Looks through a file that is no weights.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut about = Description::new(Kind::Companion, names::what(path.file_name()));
    if let Err(halt) = file(path, input, findings, &mut about) {
        findings.halt(path, halt)?;
    }
    Ok(about)
}

fn file(path: &RelPath, input: &dyn Input, findings: &mut Findings, about: &mut Description) -> Parsed<()> {
    match extension(path.file_name()).as_str() {
        "json" => config::walk(path, input, findings, about),
        "jinja" => template(input, about),
        "yaml" | "yml" => yaml(path, input, findings),
        "model" | "spm" => vocabulary(path, input),
        // Text is for people: that it is text was seen when it was recognised, and nothing more is asked.
        _ => Ok(()),
    }
}

/// SentencePiece's protobuf begins with a piece; every other vocabulary is printable.
fn vocabulary(path: &RelPath, input: &dyn Input) -> Parsed<()> {
    let head = read_range(input, 0, input.size().min(VOCABULARY_LOOK), VOCABULARY_LOOK)?;
    let printable = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | b' '..);
    match head.first() {
        Some(first) if *first != 0x0a && !head.iter().all(printable) => {
            let message =
                format!("{:?} begins with the byte {first:#04x}, as no SentencePiece model does", path.file_name());
            Err(Halt::found(&NOT_VOCABULARY, Place::at(0), message))
        }
        _ => Ok(()),
    }
}

fn template(input: &dyn Input, about: &mut Description) -> Parsed<()> {
    let size = input.size();
    if size > TEMPLATE_MAX {
        let message = format!("the template has {size} bytes; up to {TEMPLATE_MAX} are looked through");
        return Err(Halt::found(&TEMPLATE_SIZE, Place::whole(), message));
    }
    about.facts = Facts::Templates(vec![(String::new(), read_range(input, 0, size, TEMPLATE_MAX)?)]);
    Ok(())
}

/// YAML is not parsed: what makes a loader build objects are tags and keys, which stand in the text as they are.
fn yaml(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Parsed<()> {
    let size = input.size();
    if size > YAML_MAX {
        let message = format!("the file has {size} bytes; up to {YAML_MAX} of YAML are looked through");
        return Err(Halt::found(&TOO_LARGE, Place::whole(), message));
    }
    let bytes = read_range(input, 0, size, YAML_MAX)?;
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let line_text = String::from_utf8_lossy(line);
        if let Some((rule, what)) = names::yaml_line(&line_text) {
            let rule = match rule {
                names::Yaml::Tag => &PYTHON_TAG,
                names::Yaml::Target => &TARGET,
                names::Yaml::AutoMap => &AUTO_MAP,
                names::Yaml::RemoteCode => &REMOTE_CODE,
            };
            let message =
                format!("the line {:?} has {what:?}: a loader would run code for it", shorten(line_text.trim()));
            findings.add(path, rule, Place::at(at), message);
        }
        at += line.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
