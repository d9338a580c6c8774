//! The files that stand beside weights: configuration, vocabulary, templates, words.
//!
//! Owns: what a companion may be by its name and must be by its bytes. Promises: a file that passes is of the kind its
//! extension says, and says nothing that makes transformers, diffusers, sentence-transformers, PEFT, vLLM, mlx-lm or Hydra
//! run code that is not theirs, without a finding. Leaves out: what a chat template does (it is handed on in
//! [`Facts::Templates`]), what files say of each other (`folder`).
//!
//! ```text
//! *.json                        strict JSON, walked by `config` with the rules for its name
//! *.jinja                       a chat template
//! *.yaml, *.yml                 text without tags that build Python objects
//! *.model, *.spm                SentencePiece's protobuf (begins with field 1), or text
//! *.txt, *.md, LICENSE, ...     text
//! *.png, ...                    pictures, by their magic
//! *.py, *.so, ...               code: found as such, whatever it holds
//! ```

mod config;
mod magic;
mod names;

use super::Kind;
use super::description::{Description, Facts};
use super::finding::{Findings, Halt, Parsed, Place, Rule, Severity};
use super::input::{Input, read_range};
use crate::digest::shorten;
use crate::error::Result;
use crate::name::RelPath;
pub(crate) use magic::disguise;
use magic::{Class, HEAD, recognise};
pub(crate) use names::{climbs, extension, is_absolute, is_code, is_index, is_plain, is_text, is_url};

/// Of a text, how much is looked at.
const TEXT_LOOK: u64 = 1 << 20;
/// Of YAML, how much there may be: all of it is looked at.
const YAML_MAX: u64 = 8 << 20;
/// Of a chat template; the longest in use have some 20,000 bytes.
const TEMPLATE_MAX: u64 = 1 << 20;

macro_rules! rules {
    ($($name:ident = $id:literal, $severity:ident, $summary:literal;)*) => {
        $(static $name: Rule = Rule { id: $id, severity: Severity::$severity, summary: $summary };)*
        /// Every rule about companions.
        pub(crate) static RULES: &[&Rule] = &[$(&$name),*];
    };
}
rules! {
    EXECUTABLE = "folder.executable", Critical, "a native program under the name of something else";
    MISMATCH = "companion.mismatch", Critical, "the content is another format than the extension says";
    PAGE = "companion.page", Critical, "a web page was saved in place of the file";
    POINTER = "companion.lfs-pointer", Critical, "a Git LFS pointer stands in place of the file it points to";
    CODE = "folder.code", High, "a file of code: a loader that trusts the model runs it";
    UNKNOWN = "companion.unknown", High, "not a kind of file that a model's folder is known to hold";
    NOT_TEXT = "companion.not-text", High, "a file that should be text holds NUL bytes";
    NOT_VOCABULARY = "companion.not-vocabulary", High, "a SentencePiece model that does not begin like one";
    ENCODING = "companion.encoding", Warning, "a text that is not UTF-8";
    TOO_LARGE = "companion.too-large", Critical, "the file is larger than any of its kind, too large to look through";
    JSON = "json.malformed", Critical, "the file is no well-formed JSON: one loader fails on it, another guesses";
    DUPLICATE = "json.duplicate-key", High, "a key stands twice in an object: one reader takes the first value, another the last";
    NOT_A_NUMBER = "json.not-a-number", Warning, "NaN or Infinity, which only Python's reader takes";
    AUTO_MAP = "config.auto-map", High, "auto_map names Python code that transformers imports, of this folder or of another repository";
    REMOTE_CODE = "config.remote-code", High, "the configuration asks loaders to trust code that comes with the model";
    CUSTOM_PIPELINE = "config.custom-pipeline", High, "custom_pipelines names Python code that a pipeline imports";
    CUSTOM_GENERATE = "config.custom-generate", High, "custom_generate names Python code that generation runs";
    KERNEL = "config.kernel", High, "a kernel from a hub is named: it is downloaded and run when the model is loaded";
    TARGET = "config.target", High, "_target_ names a Python object that Hydra calls with arguments from the file";
    JSONPICKLE = "config.jsonpickle", High, "py/ keys are instructions to jsonpickle, which builds any Python object";
    LAMBDA = "config.keras-lambda", High, "a Lambda layer holds Python bytecode that Keras runs";
    CUSTOM_CLASS = "config.custom-class", High, "a class outside the known libraries is named, which a loader imports";
    IMPORT = "config.import", High, "a Python module outside the known libraries is named, which a loader imports";
    CUSTOM_CODE = "config.custom-code", High, "a file of code is named, which a loader runs";
    UNSAFE_LOAD = "config.unsafe-load", High, "the configuration asks for unpickling without restraint";
    OUTSIDE = "config.outside-path", High, "a path leads out of the model's folder: a loader would read what is there";
    PYTHON_TAG = "yaml.python-tag", High, "a YAML tag builds a Python object when the file is loaded";
    INDEX = "index.malformed", Critical, "the index has no weight_map from tensors to files";
    TEMPLATE_SIZE = "template.too-large", High, "a chat template is larger than any in use, too large to look through";
    ABSOLUTE = "config.absolute-path", Warning, "an absolute path of another machine, which may exist on this one";
    NAMES_CODE = "config.names-code", Warning, "a file of code is named";
    URL = "config.url", Info, "an address on the network is named";
    BASE = "adapter.base", Info, "which model the adapter is for";
    ODD_BASE = "adapter.base-path", Warning, "the adapter's base is a place on a disk or the network, not a model's name";
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
    let name = path.file_name();
    let extension = extension(name);
    let head = read_range(input, 0, input.size().min(HEAD as u64), HEAD as u64)?;
    if is_code(name) {
        let message = format!("{name:?} is code: a loader that trusts the model, or a person, would run it");
        findings.add(path, &CODE, Place::whole(), message);
        return Ok(());
    }
    if let Some((class, what)) = recognise(&head) {
        about.what = what.to_owned();
        let known = names::is_companion(name);
        let rule = match class {
            Class::Executable => &EXECUTABLE,
            Class::Script => &CODE,
            Class::Page if extension == "md" => return text(path, input, findings),
            Class::Page => &PAGE,
            Class::Pointer => &POINTER,
            Class::Picture if names::is_picture(&extension) => return Ok(()),
            _ if known => &MISMATCH,
            _ => &UNKNOWN,
        };
        return Err(Halt::found(rule, Place::at(0), format!("{name:?} is {what}: its name says something else")));
    }
    match extension.as_str() {
        "json" => config::walk(path, input, findings, about),
        "jinja" => template(input, about),
        "yaml" | "yml" => yaml(path, input, findings),
        "model" | "spm" if head.first() == Some(&0x0a) => Ok(()),
        "model" | "spm" if head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..)) => {
            text(path, input, findings)
        }
        "model" | "spm" => {
            let message = format!("{name:?} begins with the byte {:#04x}, as no SentencePiece model does", head[0]);
            Err(Halt::found(&NOT_VOCABULARY, Place::at(0), message))
        }
        _ if names::is_picture(&extension) => {
            Err(Halt::found(&MISMATCH, Place::at(0), format!("{name:?} is no picture, as its name says")))
        }
        _ if names::is_companion(name) => text(path, input, findings),
        _ => {
            let message = format!("{name:?} is not a kind of file that a model's folder is known to hold");
            Err(Halt::found(&UNKNOWN, Place::whole(), message))
        }
    }
}

/// Text is for people: it must be text, and nothing more is asked.
fn text(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Parsed<()> {
    let bytes = read_range(input, 0, input.size().min(TEXT_LOOK), TEXT_LOOK)?;
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        let message = format!("{:?} should be text and holds NUL bytes: it is something else", path.file_name());
        return Err(Halt::found(&NOT_TEXT, Place::at(at as u64), message));
    }
    if let Err(e) = std::str::from_utf8(&bytes) {
        // A character may be cut where the look ends.
        if e.error_len().is_some() || bytes.len() as u64 == input.size() {
            let message = format!("{:?} is not UTF-8", path.file_name());
            findings.add(path, &ENCODING, Place::at(e.valid_up_to() as u64), message);
        }
    }
    Ok(())
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
    text(path, input, findings)
}

#[cfg(test)]
mod tests;
