//! What files are, by their bytes, and what is wrong with them.
//!
//! Owns: [`inspect`], which looks at one file, and [`Inspector`], which looks at all files of a candidate and then at what they
//! say of each other. Promises: what a file is, its content decides, and its name must agree; every file gets the inspection
//! of what it is, or a finding that refuses it. Leaves out: the formats themselves (a module each, with the rules it knows),
//! and what follows from a finding (`policy`).
//!
//! ```text
//! input -> recognise -> gguf | safetensors | torch (pickle, zip, tar) | onnx (protobuf) | numpy | companion (json, template)
//!                           \-> Description, Findings -> folder, gguf::check_split, onnx::check_external -> policy
//! ```

pub(crate) mod companion;
pub(crate) mod description;
pub(crate) mod finding;
pub(crate) mod folder;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod ggml_type;
pub(crate) mod gguf;
pub(crate) mod input;
pub(crate) mod json;
pub(crate) mod numpy;
pub(crate) mod onnx;
pub(crate) mod pickle;
pub(crate) mod protobuf;
pub(crate) mod recognise;
pub(crate) mod safetensors;
pub(crate) mod tar;
pub(crate) mod template;
pub(crate) mod torch;
pub(crate) mod zip;

use crate::artifact::{Format, Layout};
use crate::error::Result;
use crate::name::RelPath;
use description::{Description, Facts};
use finding::{Findings, Rule};
use input::Input;
pub(crate) use recognise::is_model_name;
use recognise::{Content, Standing};
use std::collections::BTreeSet;

/// What a file is to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Weights.
    Model(Format),
    /// A file that belongs to a model's folder: configuration, vocabulary, words.
    Companion,
    /// Nothing that a model's folder should hold: a finding says what it is.
    Other,
}

/// One file of a candidate, described.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) path: RelPath,
    pub(crate) size_bytes: u64,
    pub(crate) description: Description,
}

/// Every rule of inspection and of judging, in no order.
pub(crate) fn rules() -> impl Iterator<Item = &'static Rule> {
    let all = [
        crate::policy::RULES,
        crate::signing::RULES,
        companion::RULES,
        folder::RULES,
        gguf::RULES,
        numpy::RULES,
        onnx::RULES,
        pickle::RULES,
        recognise::RULES,
        safetensors::RULES,
        tar::RULES,
        template::RULES,
        torch::RULES,
        zip::RULES,
    ];
    all.into_iter().flatten().copied()
}

/// Whether what is to be inspected must be read, or unpacked, to its end: a look at it costs what a copy does.
pub(crate) fn is_read_whole(input: &dyn Input) -> Result<bool> {
    let content = recognise::recognise(input)?;
    Ok(matches!(content, Content::Zip | Content::Tar | Content::Pickle | Content::TorchLegacy | Content::Onnx))
}

/// Looks at one file by itself.
///
/// # Errors
/// Only what is no defect of the file: it cannot be read, memory is short.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let (content, standing) = recognise::inspect(path, input, findings)?;
    let description = match content {
        Content::Gguf => gguf::inspect(path, input, findings)?,
        Content::Safetensors => safetensors::inspect(path, input, findings)?,
        Content::Zip | Content::Tar | Content::Pickle | Content::TorchLegacy => torch::inspect(path, input, findings)?,
        Content::Onnx => onnx::inspect(path, input, findings)?,
        Content::Numpy => numpy::inspect(path, input, findings)?,
        Content::Json | Content::Text | Content::SentencePiece if standing == Standing::Accepted => {
            companion::inspect(path, input, findings)?
        }
        // Pictures, pages in Markdown, empty lists; or refused above.
        other => {
            let kind = if standing == Standing::Accepted { Kind::Companion } else { Kind::Other };
            Description::new(kind, other.name())
        }
    };
    match &description.facts {
        Facts::Gguf(header) => {
            gguf::templates(header).into_iter().for_each(|(key, text)| template::check(path, key, text, findings));
        }
        Facts::Templates(templates) => {
            templates.iter().for_each(|(part, text)| template::check(path, part, text, findings));
        }
        Facts::None | Facts::WeightMap(_) | Facts::External(_) => {}
    }
    Ok(description)
}

/// Looks at the files of a candidate, one after another, and then at all of them together.
#[derive(Debug, Default)]
pub(crate) struct Inspector {
    candidates: Vec<Candidate>,
    /// Files that an ONNX file keeps its weights in: raw bytes under any name.
    external: BTreeSet<RelPath>,
    pub(crate) findings: Findings,
}

impl Inspector {
    /// In which order to look at files of these names: an ONNX file before what it keeps beside it.
    pub(crate) fn order<'a>(paths: impl Iterator<Item = &'a RelPath>) -> Vec<usize> {
        let mut order: Vec<(bool, usize)> =
            paths.enumerate().map(|(i, p)| (!p.as_str().ends_with(".onnx"), i)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, i)| i).collect()
    }

    /// Looks at one file.
    pub(crate) fn file(&mut self, path: &RelPath, input: &dyn Input) -> Result<()> {
        let raw = self.external.contains(path) && recognise::recognise(input)?.may_be_raw();
        let description = if raw {
            Description::new(Kind::Companion, "raw weights of an ONNX file")
        } else {
            inspect(path, input, &mut self.findings)?
        };
        self.external.extend(onnx::external_names(path, &description));
        self.candidates.push(Candidate { path: path.clone(), size_bytes: input.size(), description });
        Ok(())
    }

    /// What it says of the file it looked at last.
    pub(crate) fn latest(&self) -> Option<&Description> {
        self.candidates.last().map(|c| &c.description)
    }

    /// What each file is, in the order of their paths, and what was found, also of the files together.
    pub(crate) fn finish(mut self, layout: Layout) -> (Vec<Candidate>, Findings) {
        self.candidates.sort_by(|a, b| a.path.cmp(&b.path));
        onnx::check_external(&self.candidates, &mut self.findings);
        folder::check(layout, &self.candidates, &mut self.findings);
        let headers = self.candidates.iter().filter_map(|c| match &c.description.facts {
            Facts::Gguf(header) => Some((&c.path, &**header)),
            _ => None,
        });
        gguf::check_split(&headers.collect::<Vec<_>>(), &mut self.findings);
        (self.candidates, self.findings)
    }
}

#[cfg(test)]
mod tests;
