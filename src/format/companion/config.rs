//! JSON beside weights: what it says that a loader acts on.
//!
//! Owns: the walk over one JSON file and the rules for its keys. Promises: every value of the file is seen once, with the keys
//! that lead to it, whatever the file's size; nothing is held but the keys on the way, the weight map and the templates, each
//! bounded. Leaves out: whether the files that are named are there (`folder`).

use super::super::description::{Adapter, Description, Facts};
use super::super::finding::{Findings, Halt, Parsed, Place, Rule};
use super::super::input::Input;
use super::super::json::{Lexer, Token};
use super::names::{self, PathKey};
use super::*;
use crate::digest::shorten;
use crate::name::RelPath;
use serde_json::Value;
use std::collections::BTreeMap;

/// The largest JSON that is read. The largest tokenizers have some 35 MB.
const SIZE_MAX: u64 = 64 << 20;
/// Entries of a weight map: the largest models have some 150,000 tensors.
const MAP_MAX: usize = 300_000;
/// Bytes of a weight map's names.
const MAP_BYTES: usize = 24 << 20;
/// Values that are shown of a file.
const SHOWN: usize = 64;

/// What a name says of a file, as far as rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Its texts are words of a language model: only the keys that no vocabulary has are looked for.
    Vocabulary,
    /// `*.index.json`
    Index,
    /// diffusers' model_index.json.
    Pipeline,
    /// sentence-transformers' modules.json.
    Modules,
    /// PEFT's adapter_config.json.
    Adapter,
    /// Everything else.
    Config,
}

fn role(name: &str) -> Role {
    match name.to_ascii_lowercase().as_str() {
        "tokenizer.json" | "vocab.json" | "added_tokens.json" | "merges.json" | "encoder.json" | "tekken.json" => {
            Role::Vocabulary
        }
        "model_index.json" | "modular_model_index.json" => Role::Pipeline,
        "modules.json" => Role::Modules,
        "adapter_config.json" => Role::Adapter,
        name if names::is_index(name) => Role::Index,
        _ => Role::Config,
    }
}

/// Where the walk is in one object or list that is open.
#[derive(Debug)]
enum Step {
    Key(String),
    Item(usize),
}

struct Walk<'a> {
    path: &'a RelPath,
    findings: &'a mut Findings,
    about: &'a mut Description,
    role: Role,
    trail: Vec<Step>,
    /// Where the value stands that is looked at.
    at: u64,
    map: Option<BTreeMap<String, String>>,
    map_bytes: usize,
    templates: Vec<(String, Vec<u8>)>,
    template_bytes: usize,
}

/// Walks over a JSON file.
pub(super) fn walk(path: &RelPath, input: &dyn Input, findings: &mut Findings, about: &mut Description) -> Parsed<()> {
    let size = input.size();
    if size > SIZE_MAX {
        let message = format!("the file has {size} bytes; up to {SIZE_MAX} of JSON are looked through");
        return Err(Halt::found(&TOO_LARGE, Place::whole(), message));
    }
    let mut lexer = Lexer::new(input, 0, size, &JSON);
    let mut walk = Walk {
        path,
        findings,
        about,
        role: role(path.file_name()),
        trail: Vec::new(),
        at: 0,
        map: None,
        map_bytes: 0,
        templates: Vec::new(),
        template_bytes: 0,
    };
    let walked = walk.all(&mut lexer);
    walk.end();
    walked?;
    if role(path.file_name()) == Role::Index && !matches!(about.facts, Facts::WeightMap(_)) {
        return Err(Halt::found(
            &INDEX,
            Place::whole(),
            "the index has no \"weight_map\": a loader would find no tensor",
        ));
    }
    Ok(())
}

impl Walk<'_> {
    fn all(&mut self, lexer: &mut Lexer<'_>) -> Parsed<()> {
        while let Some(token) = lexer.next()? {
            match token {
                Token::Key { name, again } => {
                    if let Some(Step::Key(key)) = self.trail.last_mut() {
                        key.clear();
                        key.push_str(name);
                    }
                    if again {
                        self.add_again();
                    }
                }
                Token::Object | Token::List => {
                    self.open(token == Token::Object)?;
                    let step = if token == Token::Object { Step::Key(String::new()) } else { Step::Item(0) };
                    self.trail.push(step);
                }
                Token::ObjectEnd | Token::ListEnd => {
                    self.trail.pop();
                    self.past();
                }
                value => {
                    self.value(value)?;
                    self.past();
                }
            }
            // Near enough for a finding: where the token before it ended.
            self.at = lexer.position();
        }
        lexer.finish(b" \n\r\t").map(|_| ())
    }

    /// A value is over: in a list, the next one comes.
    fn past(&mut self) {
        if let Some(Step::Item(index)) = self.trail.last_mut() {
            *index += 1;
        }
    }

    /// The key of the value that is looked at, or of the list that it stands in.
    fn key(&self) -> &str {
        self.trail
            .iter()
            .rev()
            .find_map(|s| if let Step::Key(key) = s { Some(key.as_str()) } else { None })
            .unwrap_or("")
    }

    /// Whether such a key leads to the value.
    fn under(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.trail.iter().any(|s| matches!(s, Step::Key(key) if wanted(key)))
    }

    /// The way to the value, as `a.b[0]`.
    fn part(&self) -> String {
        let mut part = String::new();
        for step in &self.trail {
            match step {
                Step::Key(key) if part.is_empty() => part.push_str(&shorten(key)),
                Step::Key(key) => part.push_str(&format!(".{}", shorten(key))),
                Step::Item(index) => part.push_str(&format!("[{index}]")),
            }
        }
        part
    }

    fn add(&mut self, rule: &'static Rule, message: String) {
        self.findings.add(self.path, rule, Place::part_at(&self.part(), self.at), message);
    }

    fn add_again(&mut self) {
        let message = format!(
            "the key {:?} stands twice in its object: readers differ in which value they take",
            shorten(self.key())
        );
        self.add(&DUPLICATE, message);
    }

    /// A finding about a text under a key.
    fn add_text(&mut self, rule: &'static Rule, text: &str, why: &str) {
        let message = format!("{:?} is {:?}: {why}", self.part(), shorten(text));
        self.add(rule, message);
    }

    fn open(&mut self, object: bool) -> Parsed<()> {
        if self.role == Role::Index {
            match &self.trail[..] {
                [Step::Key(key)] if key == "weight_map" && object => {
                    self.map.get_or_insert_default();
                }
                [Step::Key(key), ..] if key == "weight_map" => return self.bad_map(),
                _ => {}
            }
        }
        if self.role != Role::Vocabulary && matches!(self.trail.last(), Some(Step::Key(key)) if key.starts_with("py/"))
        {
            let message = format!("{:?} holds more than a text: jsonpickle builds what it says", self.part());
            self.add(&JSONPICKLE, message);
        }
        // Python takes what is not empty for true, whatever it holds.
        self.switch(true);
        Ok(())
    }

    fn bad_map<T>(&self) -> Parsed<T> {
        let message =
            format!("{:?} is not the name of a file: \"weight_map\" leads from tensors to files", self.part());
        Err(Halt::found(&INDEX, Place::part_at(&self.part(), self.at), message))
    }

    fn value(&mut self, value: Token<'_>) -> Parsed<()> {
        match value {
            Token::Text(text) => self.text(text)?,
            Token::NotANumber => self
                .add(&NOT_A_NUMBER, format!("{:?} is no number of JSON: strict readers refuse the file", self.part())),
            _ => {}
        }
        if self.role == Role::Index {
            self.index(value)?;
        }
        let truthy = match value {
            Token::Bool(yes) => yes,
            Token::Integer(n) => n != 0,
            Token::Text(text) => !text.is_empty(),
            Token::Number | Token::NotANumber => true,
            _ => false,
        };
        self.switch(truthy);
        match self.key() {
            "weights_only" if matches!(value, Token::Bool(false) | Token::Integer(0) | Token::Text("")) => {
                self.add(&UNSAFE_LOAD, format!("{:?} asks to unpickle whatever is there", self.part()));
            }
            "use_dora" if truthy && self.role == Role::Adapter && self.trail.len() == 1 => {
                self.adapter().kind = "dora".into();
            }
            _ => {}
        }
        self.show(value);
        Ok(())
    }

    /// What a loader is asked to do, when the value under the key counts as true.
    fn switch(&mut self, truthy: bool) {
        match self.key() {
            "trust_remote_code" | "trust_repo" if truthy => {
                self.add(&REMOTE_CODE, format!("{:?} asks to run code that comes with the model", self.part()))
            }
            "use_kernels" if truthy => {
                self.add(&KERNEL, format!("{:?} asks to download kernels and run them", self.part()))
            }
            "allow_pickle" | "allow_dangerous_deserialization" if truthy => {
                self.add(&UNSAFE_LOAD, format!("{:?} asks to unpickle whatever is there", self.part()));
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> Parsed<()> {
        if self.under(|key| key == "chat_template") {
            return self.template(text);
        }
        for (key, rule, why) in [
            ("auto_map", &AUTO_MAP, "loaders import that code when they trust the model"),
            ("custom_pipelines", &CUSTOM_PIPELINE, "a pipeline imports that code"),
            ("custom_pipeline", &CUSTOM_PIPELINE, "a pipeline imports that code"),
            ("custom_generate", &CUSTOM_GENERATE, "generation runs that code"),
            ("_target_", &TARGET, "Hydra imports and calls it"),
        ] {
            if self.under(|k| k == key) {
                self.add_text(rule, text, why);
            }
        }
        if self.role == Role::Vocabulary {
            return Ok(());
        }
        if text.contains('/') && self.under(names::is_kernel_key) {
            self.add_text(&KERNEL, text, "a kernel of that name is downloaded and run");
        }
        if self.under(|key| key.starts_with("py/")) {
            self.add_text(&JSONPICKLE, text, "jsonpickle builds what it says");
        }
        if self.key() == "class_name" && text == "Lambda" {
            self.add_text(&LAMBDA, text, "such a layer holds bytecode");
        }
        if self.role == Role::Index {
            return Ok(());
        }
        self.classes(text);
        self.files(text);
        Ok(())
    }

    /// Classes and modules that a loader imports.
    fn classes(&mut self, text: &str) {
        let key = self.key().to_owned();
        let custom = match (self.role, &self.trail[..]) {
            (Role::Pipeline, [Step::Key(key), Step::Item(_)]) if key == "_class_name" => true,
            (Role::Pipeline, [Step::Key(key), Step::Item(0)]) if !key.starts_with('_') => {
                !names::is_pipeline_library(text)
            }
            (Role::Pipeline, [Step::Key(key), Step::Item(1)]) if !key.starts_with('_') => !names::is_identifier(text),
            (Role::Modules, [Step::Item(_), Step::Key(key)]) if key == "type" => {
                !text.starts_with("sentence_transformers.")
            }
            // sentence-transformers' Router and Asym: a module for each kind of input.
            (Role::Config, [Step::Key(key), Step::Key(_)]) if key == "types" => {
                text.contains('.') && !text.starts_with("sentence_transformers.")
            }
            _ => {
                (names::is_class_key(&key) && !names::is_identifier(text))
                    || (names::is_quantizer_key(&key) && self.under(|k| k == "quantization_config"))
            }
        };
        if custom {
            self.add_text(&CUSTOM_CLASS, text, "a loader imports it from there, with all that the module does");
        }
        let import = (names::is_import_key(&key)
            && (text.contains('.') || key == "parent_library")
            && !names::is_known_module(text))
            || (key == "megatron_core" && text != "megatron.core");
        if import {
            self.add_text(&IMPORT, text, "a loader imports that module");
        }
        if self.role == Role::Adapter && self.trail.len() == 1 {
            match key.as_str() {
                "peft_type" if self.adapter().kind != "dora" => {
                    self.adapter().kind = shorten(&text.to_ascii_lowercase())
                }
                "base_model_name_or_path" => {
                    self.adapter().base = shorten(text);
                    let odd = names::climbs(text) || names::is_absolute(text) || names::is_url(text);
                    self.add_text(if odd { &ODD_BASE } else { &BASE }, text, "the adapter is for that model");
                }
                _ => {}
            }
        }
    }

    fn adapter(&mut self) -> &mut Adapter {
        self.about.adapter.get_or_insert_with(|| Adapter { kind: "adapter".into(), base: String::new() })
    }

    /// Paths, files of code, addresses.
    fn files(&mut self, text: &str) {
        let key = self.key().to_owned();
        let module_path = self.role == Role::Modules && key == "path";
        if key == "model_file" {
            self.add_text(&CUSTOM_CODE, text, "mlx-lm runs that file as Python");
        } else if names::names_code(text) && !text.contains(char::is_whitespace) && !names::is_url(text) {
            self.add_text(&NAMES_CODE, text, "what runs it, trusts the model");
        }
        if names::is_url(text) && !text.contains(char::is_whitespace) {
            self.add_text(&URL, text, "something may be downloaded from there");
        } else if let Some(kind) = names::path_key(&key).or(module_path.then_some(PathKey::File)) {
            let note = kind == PathKey::Note;
            if names::climbs(text) {
                self.add_text(if note { &ABSOLUTE } else { &OUTSIDE }, text, "it leads out of the model's folder");
            } else if names::is_absolute(text) {
                self.add_text(
                    if kind == PathKey::File { &OUTSIDE } else { &ABSOLUTE },
                    text,
                    "it is a path of some machine",
                );
            }
        }
    }

    fn template(&mut self, text: &str) -> Parsed<()> {
        // In a list of templates each has a name beside it; in an object, "name" is a template's.
        if matches!(&self.trail[..], [.., Step::Item(_), Step::Key(key)] if key == "name") {
            return Ok(());
        }
        self.template_bytes += text.len();
        if self.template_bytes as u64 > TEMPLATE_MAX {
            let message = format!("the chat templates have over {TEMPLATE_MAX} bytes: they are not looked through");
            self.add(&TEMPLATE_SIZE, message);
            return Ok(());
        }
        self.templates.push((self.part(), text.as_bytes().to_vec()));
        Ok(())
    }

    fn index(&mut self, value: Token<'_>) -> Parsed<()> {
        match (&self.trail[..], value) {
            ([Step::Key(map), Step::Key(tensor)], Token::Text(file)) if map == "weight_map" => {
                let tensor = tensor.clone();
                self.map_bytes += tensor.len() + file.len();
                let map = self.map.get_or_insert_default();
                if map.len() >= MAP_MAX || self.map_bytes > MAP_BYTES {
                    let message = format!("the index has over {MAP_MAX} tensors or {MAP_BYTES} bytes of names");
                    return Err(Halt::found(&INDEX, Place::at(self.at), message));
                }
                map.insert(tensor, file.to_owned());
                Ok(())
            }
            ([Step::Key(map), ..], _) if map == "weight_map" => self.bad_map(),
            ([Step::Key(a), Step::Key(b)], Token::Integer(n)) if a == "metadata" && b == "total_size" => {
                self.about.metadata.insert(b.clone(), Value::from(n));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Notes a short value of the outermost object.
    fn show(&mut self, value: Token<'_>) {
        let [Step::Key(key)] = &self.trail[..] else { return };
        let value = match value {
            Token::Text(text) => Value::String(shorten(text)),
            Token::Integer(n) => Value::from(n),
            Token::Bool(yes) => Value::Bool(yes),
            _ => return,
        };
        if self.role != Role::Vocabulary && self.about.metadata.len() < SHOWN {
            self.about.metadata.insert(shorten(key), value);
        }
    }

    fn end(&mut self) {
        if let Some(map) = self.map.take() {
            self.about.facts = Facts::WeightMap(map);
        } else if !self.templates.is_empty() {
            self.about.facts = Facts::Templates(std::mem::take(&mut self.templates));
        }
    }
}
