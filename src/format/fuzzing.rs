//! What fuzzing runs: every parser, by its target's name.
//!
//! Owns: the table of targets and what must hold of each run, whatever the bytes. Promises: compiled only under
//! `--cfg fuzzing`, which cargo-fuzz sets; a target is a line here and a `[[bin]]` in `fuzz/Cargo.toml`. Leaves out: memory, and an input that never
//! ends, which libFuzzer bounds (`fuzz/limits.sh`).

use super::description::Description;
use super::finding::Findings;
use super::input::{Counted, Input};
use super::{Inspector, Kind, companion, gguf, numpy, onnx, recognise, safetensors, tar, template, torch, zip};
use crate::artifact::Layout;
use crate::error::Result;
use crate::name::RelPath;
use std::time::Duration;

type Inspect = fn(&RelPath, &dyn Input, &mut Findings) -> Result<Description>;

/// Target, the name of the file that the bytes are taken for, the parser.
static TARGETS: &[(&str, &str, Inspect)] = &[
    ("companion", "tokenizer_config.json", companion::inspect),
    ("door", "any", door),
    ("gguf", "m-00001-of-00002.gguf", gguf::inspect),
    ("numpy", "array.npy", numpy::inspect),
    ("onnx", "dir/model.onnx", onnx::inspect),
    ("pickle", "model.pkl", torch::inspect),
    ("recognise", "model.gguf", recognised),
    ("safetensors", "model.safetensors", safetensors::inspect),
    ("signature", "model.sig", signature),
    ("tar", "model.tar", tar::inspect),
    ("template", "chat_template.jinja", templated),
    ("torch", "model.pt", torch::inspect),
    ("zip", "model.pt", zipped),
];

/// Names that decide what is done with a file: its first byte picks one.
const NAMES: [&str; 14] = [
    "m.gguf",
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer_config.json",
    "model_index.json",
    "adapter_config.json",
    "modules.json",
    "chat_template.jinja",
    "config.yaml",
    "pytorch_model.bin",
    "tokenizer.model",
    "model.onnx",
    "LICENSE",
];

/// Through the one door, as a promotion does, and over the set that this file is by itself.
fn door(_: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let mut first = [0];
    if input.size() > 0 {
        input.read_at(0, &mut first)?;
    }
    let path = NAMES[first[0] as usize % NAMES.len()].parse().expect("a path");
    let mut inspector = Inspector::default();
    inspector.file(&path, &Rest(input))?;
    let (mut candidates, found) = inspector.finish(Layout::Folder);
    *findings = found;
    Ok(candidates.pop().expect("one file").description)
}

/// All but the first byte.
struct Rest<'a>(&'a dyn Input);

impl Input for Rest<'_> {
    fn size(&self) -> u64 {
        self.0.size().saturating_sub(1)
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.0.read_at(at.saturating_add(1), out)
    }
}

fn templated(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let text = super::input::read_range(input, 0, input.size(), input.size())?;
    template::check(path, "", &text, findings);
    Ok(Description::new(Kind::Companion, "a template"))
}

/// A signature file, a statement and a key in one: it begins with what it is.
fn signature(_: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    let bytes = super::input::read_range(input, 0, input.size(), input.size())?;
    crate::signing::fuzz(&bytes, findings);
    Ok(Description::new(Kind::Companion, "a signature"))
}

fn zipped(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    for member in zip::members(path, input, findings)?.unwrap_or_default() {
        // What is wrong with its content is a finding of whoever asks for it.
        let _ = zip::contents(input, &member, &mut |_| {});
    }
    Ok(Description::new(Kind::Companion, "an archive"))
}

fn recognised(path: &RelPath, input: &dyn Input, findings: &mut Findings) -> Result<Description> {
    recognise::inspect(path, input, findings).map(|(content, _)| Description::new(Kind::Companion, content.name()))
}

/// What two inspections of an input may take, in a build with AddressSanitizer.
const SLOW: Duration = Duration::from_secs(1);

/// What this thread has used of a core.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("time does not run backwards")
}

/// The targets' names.
pub fn targets() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|t| t.0)
}

/// Inspects `bytes` as the target does, twice.
///
/// # Panics
/// When something does not hold that must hold of any bytes; that is the finding.
pub fn run(target: &str, bytes: &[u8]) {
    let (_, name, inspect) = TARGETS.iter().find(|t| t.0 == target).expect("a target of the table");
    let path = name.parse().expect("a path");
    let once = || {
        let input = Counted::new(bytes);
        let mut findings = Findings::new();
        let description = inspect(&path, &input, &mut findings).expect("bytes in memory can be read");
        let (reads, read, size) = (input.reads.get(), input.read.get(), bytes.len() as u64);
        assert!(reads <= 1000 + 8 * size, "{reads} reads of {size} bytes");
        assert!(read <= (64 << 20) + 64 * size, "{read} bytes read of {size}");
        (description, findings)
    };
    let begun = cpu_time();
    let (description, findings) = once();
    let again = once();
    // Of the core's time, so that a machine that does much else beside finds nothing that is not there.
    let took = cpu_time() - begun;
    assert!(took <= SLOW, "{took:?} for two inspections");
    assert_eq!(findings.list(), again.1.list(), "findings differ from one run to the next");
    assert_eq!(findings.dropped(), again.1.dropped());
    assert_eq!(
        (&description.what, &description.metadata, &description.tensors),
        (&again.0.what, &again.0.metadata, &again.0.tensors)
    );

    assert!(findings.list().len() <= 1200, "{} findings", findings.list().len());
    for finding in findings.list() {
        let bad = finding.message.chars().find(|c| c.is_control());
        assert!(bad.is_none(), "{bad:?} in {finding:?}");
        assert!((1..=4000).contains(&finding.message.len()), "{finding:?}");
    }
    // Every tensor and every pair of metadata has at least a byte of the file.
    assert!(description.tensors.len() <= bytes.len(), "{} tensors", description.tensors.len());
    assert!(description.metadata.len() <= 64 + bytes.len(), "{} pairs", description.metadata.len());
    assert!(!description.what.is_empty());
}
