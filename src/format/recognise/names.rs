//! What a file is, held against what its name says.
//!
//! Owns: the rules of content, the table of extensions, [`agree`] and [`inspect`]. Promises: a content that could do harm is
//! named whatever the file is called; a known content is accepted only under an extension of its own. Leaves out: hidden
//! files, links and folders (`folder`), and the content's own inspection.

use super::{Content, Sort, also, recognise};
use crate::error::Result;
use crate::format::finding::{Findings, Place, Rule, rules};
use crate::format::input::Input;
use crate::name::RelPath;

rules! {
    EMPTY "content.empty" Critical "the file is empty: a download or a copy failed"
    DISAGREES "content.disagrees" Critical "the bytes are of another format than the name says: a loader that goes by the name would be fed the other"
    UNKNOWN "content.unknown" Critical "the bytes are of no format that is known: nothing can be said of what a loader would do with them"
    EXECUTABLE "content.executable" Critical "the file is a program: whoever starts it runs it"
    LLAMAFILE "content.llamafile" Critical "the file is a llamafile, a program with a model inside: whoever starts it runs it"
    HTML "content.html" Critical "the file is a web page: a download gave an error page or a login form in place of the model"
    ARCHIVE "content.archive" Critical "the file is an archive, which hides what is in it from every check"
    HDF5 "content.hdf5" Critical "HDF5: Keras runs code from it when it is loaded, in safe mode too (CVE-2025-9905)"
    KERAS "content.keras" Critical "a Keras model: its configuration names code to run when it is loaded (CVE-2025-1550)"
    OLD_GGML "content.old-ggml" Critical "a ggml file from before GGUF, which no loader of today checks or reads"
    BIG_ENDIAN "content.big-endian" Critical "a big-endian GGUF: on this machine every number in it would be read backwards"
    LFS "content.lfs-pointer" Critical "a Git LFS pointer in place of the file"
    NOT_ALLOWED "content.not-allowed" Critical "a model in a format that is not allowed, because nothing here can tell what it does"
    POLYGLOT "content.polyglot" Critical "the file is two things at once: what was checked is not what another program would see"
    NOT_TEXT "content.not-text" High "a file that should be text is not UTF-8, so that programs read different things in it"
    CODE "content.code" High "program text: a loader that trusts the folder runs it"
    OTHER "content.other-file" High "a kind of file that a model's folder is not known to hold"
}

/// What a name says by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// One of these.
    Model(&'static [Content]),
    Vocabulary,
    Json,
    Text,
    /// Text in which pages are usual.
    Markdown,
    Picture,
    /// Program text.
    Code,
    /// What a machine, a shell, a browser or an installer runs as it is.
    Program,
    Keras,
    Nothing,
}

const PICKLED: &[Content] = &[Content::Zip, Content::Pickle, Content::Tar, Content::TorchLegacy];

/// Whether a name in lower case, without an extension, is that of a text: `README`, `LICENSE-MODEL`, `MODEL_LICENSE`.
fn is_terms(name: &str) -> bool {
    let plain = [
        "license",
        "notice",
        "readme",
        "use_policy",
        "copying",
        "modelfile",
        "authors",
        "changelog",
        "checksums",
        "template",
        "params",
        "system",
    ];
    plain.contains(&name) || name.split(['-', '_', ' ']).any(|word| ["license", "licence", "notice"].contains(&word))
}

/// What a file's name says that it is, without regard to case: the one table of extensions.
fn says(name: &str) -> Says {
    let name = name.to_ascii_lowercase();
    let Some((_, extension)) = name.rsplit_once('.') else {
        return if is_terms(&name) { Says::Text } else { Says::Nothing };
    };
    match extension {
        "gguf" => Says::Model(&[Content::Gguf]),
        "safetensors" => Says::Model(&[Content::Safetensors]),
        "onnx" => Says::Model(&[Content::Onnx]),
        "npy" => Says::Model(&[Content::Numpy]),
        "pt" | "pth" | "bin" | "ckpt" | "pkl" | "pickle" | "th" => Says::Model(PICKLED),
        "keras" => Says::Keras,
        "model" | "spm" => Says::Vocabulary,
        "json" => Says::Json,
        "md" => Says::Markdown,
        "jsonl" | "txt" | "jinja" | "tiktoken" | "vocab" | "merges" | "yaml" | "yml" | "bpe" | "csv" | "tsv"
        | "rst" | "cff" | "bib" | "license" | "chk" | "codes" => Says::Text,
        "png" | "jpg" | "jpeg" | "gif" | "webp" => Says::Picture,
        "py" | "pyi" | "ipynb" | "sh" | "bash" | "js" | "mjs" | "ts" | "lua" | "rb" | "pl" | "php" | "bat" | "cmd"
        | "ps1" | "c" | "h" | "cc" | "cpp" | "hpp" | "cu" | "cuh" | "rs" | "go" | "java" | "r" => Says::Code,
        "pyw" | "pyx" | "pyc" | "pyo" | "pyd" | "whl" | "egg" | "so" | "dll" | "dylib" | "exe" | "com" | "msi"
        | "scr" | "sys" | "zsh" | "fish" | "csh" | "ksh" | "psm1" | "vbs" | "vbe" | "wsf" | "hta" | "cjs" | "wasm"
        | "html" | "htm" | "xhtml" | "svg" | "jar" | "class" | "dex" | "apk" | "cubin" | "ptx" | "elf" | "desktop"
        | "lnk" | "url" | "scpt" | "service" => Says::Program,
        // A library may have a version behind: `libx.so.1`.
        _ if name.contains(".so.") => Says::Program,
        _ => Says::Nothing,
    }
}

/// Whether a file's name is that of something that runs, whatever it holds.
pub(crate) fn is_code_name(name: &str) -> bool {
    matches!(says(name), Says::Code | Says::Program)
}

/// Whether a file's name is that of a model's weights, whatever it holds.
pub(crate) fn is_model_name(path: &RelPath) -> bool {
    matches!(says(path.file_name()), Says::Model(contents) if contents != [Content::Numpy])
}

/// Holds a file's content against its name; what is wrong with it otherwise.
pub(crate) fn agree(path: &RelPath, content: Content) -> std::result::Result<(), (&'static Rule, String)> {
    let says = says(path.file_name());
    let what = content.name();
    let harm = |rule: &'static Rule, rest: &str| Err((rule, format!("its content is {what}: {rest}")));
    match (content, says) {
        // An empty list of merges is one; an empty model is not.
        (Content::Empty, Says::Text | Says::Markdown | Says::Code) => Ok(()),
        (Content::Empty, _) => Err((&EMPTY, "the file is empty: a download or a copy failed; fetch it again".into())),
        (Content::LfsPointer, _) => harm(&LFS, "run `git lfs pull` and promote what it fetches"),
        (Content::OldGgml, _) => harm(&OLD_GGML, "no loader of today reads or checks it; convert it to GGUF"),
        (Content::BigEndianGguf, _) => {
            harm(&BIG_ENDIAN, "every number in it would be read backwards; convert it with gguf_convert_endian.py")
        }
        (Content::Llamafile, _) => harm(&LLAMAFILE, "whoever starts it runs it; take the .gguf out of it and promote that"),
        (Content::Script | Content::Php, Says::Code) => code(),
        (Content::Html | Content::Xml, Says::Markdown) | (Content::Image, Says::Picture) => Ok(()),
        (Content::Hdf5, _) => {
            harm(&HDF5, "Keras runs code from it when it is loaded, in safe mode too (CVE-2025-9905); convert it to safetensors")
        }
        (Content::Keras, _) | (Content::Zip, Says::Keras) => Err((
            &KERAS,
            "its content is a Keras model: its configuration names code to run when it is loaded (CVE-2025-1550); convert it to safetensors".into(),
        )),
        _ => match content.sort() {
            Sort::Executable => harm(&EXECUTABLE, "whoever starts it runs it; no model is a program"),
            Sort::Archive => harm(&ARCHIVE, "it hides what is in it from every check; unpack it and promote the files"),
            Sort::OtherModel => {
                harm(&NOT_ALLOWED, "nothing here can tell what it does when it is loaded; convert it to GGUF, safetensors or ONNX")
            }
            Sort::Page if content == Content::Php => harm(&EXECUTABLE, "a server that finds it runs it; no model is a program"),
            Sort::Page if content == Content::Html || !matches!(says, Says::Nothing | Says::Program) => {
                harm(&HTML, "a download gave an error page or a login form in place of the file; fetch it again")
            }
            Sort::Page | Sort::Document => match says {
                Says::Nothing | Says::Program => other(what),
                _ => disagrees(path, what, "something else"),
            },
            Sort::Known | Sort::Else => known(path, content, says),
        },
    }
}

fn known(path: &RelPath, content: Content, says: Says) -> std::result::Result<(), (&'static Rule, String)> {
    let what = content.name();
    let text = matches!(content, Content::Text | Content::Json);
    match says {
        Says::Model(contents) if contents.contains(&content) => Ok(()),
        Says::Vocabulary if text || content == Content::SentencePiece => Ok(()),
        // What is no JSON, its own inspection says.
        Says::Json | Says::Text | Says::Markdown if text => Ok(()),
        Says::Code | Says::Program if text => code(),
        Says::Text | Says::Markdown | Says::Code if content == Content::Unknown => Err((
            &NOT_TEXT,
            "it should be text and is not UTF-8, or has NULs in it, so that programs read different things in it; save it as UTF-8".into(),
        )),
        _ if content == Content::Unknown => {
            let name = path.file_name();
            Err((&UNKNOWN, format!("the bytes of {name} are of no format that is known: nothing can be said of what a loader would do with them")))
        }
        Says::Nothing | Says::Program => match home(content) {
            // An archive without a model's name is one that hides something.
            _ if matches!(content, Content::Zip | Content::Tar) => {
                Err((&ARCHIVE, format!("its content is {what}: it hides what is in it from every check; unpack it and promote the files")))
            }
            Some(home) => Err((&DISAGREES, format!("its content is {what}, so its name must end in {home}: a loader that goes by the name would take it for something else"))),
            None => other(what),
        },
        Says::Model(contents) => disagrees(path, what, contents.first().map_or("a model", |c| c.name())),
        Says::Picture => disagrees(path, what, "a picture"),
        Says::Vocabulary => disagrees(path, what, "a vocabulary"),
        Says::Json => disagrees(path, what, "JSON"),
        Says::Text | Says::Markdown | Says::Code => disagrees(path, what, "text"),
        Says::Keras => disagrees(path, what, "a Keras model"),
    }
}

/// The extensions that a content belongs under.
fn home(content: Content) -> Option<&'static str> {
    match content {
        Content::Gguf => Some(".gguf"),
        Content::Safetensors => Some(".safetensors"),
        Content::Onnx => Some(".onnx"),
        Content::Numpy => Some(".npy"),
        Content::Pickle | Content::TorchLegacy => Some(".pt, .pth, .bin, .ckpt or .pkl"),
        Content::SentencePiece => Some(".model or .spm"),
        _ => None,
    }
}

fn disagrees(path: &RelPath, what: &str, claims: &str) -> std::result::Result<(), (&'static Rule, String)> {
    let name = path.file_name();
    Err((
        &DISAGREES,
        format!(
            "its name {name} says {claims}, its content is {what}: a loader that goes by the name would be fed the other"
        ),
    ))
}

fn code() -> std::result::Result<(), (&'static Rule, String)> {
    Err((&CODE, "it is program text: a loader that trusts the folder runs it; leave it out, or read it and let a policy allow it".into()))
}

fn other(what: &str) -> std::result::Result<(), (&'static Rule, String)> {
    Err((
        &OTHER,
        format!(
            "its content is {what}, and by its name it is none of the files that a model's folder is known to hold; leave it out"
        ),
    ))
}

/// What came of holding a content against the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may be there, if it is sound.
    Accepted,
    /// There is a finding that says why it may not.
    Refused,
}

/// Tells what a file is and notes what its name has to do with it.
///
/// # Errors
/// Only what is no defect of the file: it cannot be read.
pub(crate) fn inspect(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<(Content, Standing)> {
    let content = recognise(input)?;
    let standing = match agree(path, content) {
        Ok(()) => Standing::Accepted,
        Err((rule, why)) => {
            findings.add(path, rule, Place::whole(), why);
            Standing::Refused
        }
    };
    if (content.sort() == Sort::Known || standing == Standing::Accepted)
        && let Some(other) = also(input, content)?
    {
        let why = format!(
            "its content is {} and also {}: what was checked is not what another program would see",
            content.name(),
            other.name()
        );
        findings.add(path, &POLYGLOT, Place::whole(), why);
    }
    Ok((content, standing))
}
