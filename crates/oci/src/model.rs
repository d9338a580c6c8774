//! Which manifests are models, and which files they hold.
//!
//! Owns: the media types of five families of model artifacts, and how their files are named. Promises: a manifest is a model when its artifact type or its
//! config says so, or one of its layers is of a family's type; then every layer is a file of it, of whatever type: nothing is served from a
//! model that its judgement did not see. Ordinary images, signatures and `application/json` by itself are no models. Leaves out: whether a path is safe and
//! free (it is as it was given; the core refuses), and what the bytes are: role and format are what the sender says, for names and messages only.
//!
//! | family | claimed by | layers | source |
//! |---|---|---|---|
//! | Hanzo | `application/vnd.hanzo.model.v1` | `application/vnd.hanzo.{safetensors,gguf,pytorch,onnx,lora}` | this project's docs |
//! | ModelPack | `…vnd.cncf.model.{manifest,config}.v1+json` | `…vnd.cncf.model.{weight,weight.config,doc,code,dataset}.v1.{raw,tar,tar+gzip,tar+zstd}` | modelpack/model-spec `specs-go/v1/mediatype.go`; `weight.v1.{gguf,safetensors}`: docker/model-runner `pkg/distribution/modelpack` |
//! | …before its name changed | `…vnd.cnai.model.{manifest,config}.v1+json` | the same, and `layer.v1.tar[+gzip]` | CloudNativeAI/model-spec; containers/ramalama `annotations.py` |
//! | Docker | `…vnd.docker.ai.model.config.v0.1+json`, `v0.2` | `…vnd.docker.ai.{gguf.v3,safetensors,dduf,mmproj,license,chat.template.jinja,vllm.config.tar,dir.tar,model.file…}` | docker/model-runner `pkg/distribution/types/config.go`; `model.file.v1+gguf`: docker/model-distribution |
//! | KitOps | `…vnd.kitops.modelkit.{manifest,config}.v1+json` | `…vnd.kitops.modelkit.{model,modelpart,dataset,code,docs}.v1.{tar,raw}[+gzip,+zstd]` | kitops-ml/kitops `pkg/lib/constants/mediatype` |
//! | Ollama | its layers only | `application/vnd.ollama.image.{model,adapter,projector,draft,tensor,template,…}` | ollama/ollama `server`; `tensor`, `json`: its `x/imagegen` |

use crate::digest::Digest;
use crate::manifest::{Descriptor, Manifest};
use std::collections::HashMap;

/// Where a file goes: ModelPack's annotation, and its older name.
pub const FILEPATH: [&str; 2] = ["org.cncf.model.filepath", "org.cnai.model.filepath"];
/// What a file is called: image-spec, "Pre-Defined Annotation Keys".
pub const TITLE: &str = "org.opencontainers.image.title";
/// By this oras says that it packed a folder as tar+gzip, whatever the media type.
pub const UNPACK: &str = "io.deis.oras.content.unpack";

/// Whose types a model is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Hanzo.
    Hanzo,
    /// CNCF ModelPack, and what it was before.
    ModelPack,
    /// Docker Model Runner.
    Docker,
    /// KitOps.
    KitOps,
    /// Ollama.
    Ollama,
}

impl Family {
    /// Its name, for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Hanzo => "hanzo",
            Family::ModelPack => "modelpack",
            Family::Docker => "docker",
            Family::KitOps => "kitops",
            Family::Ollama => "ollama",
        }
    }
}

/// How a layer holds its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packaging {
    /// It is the file.
    Raw,
    /// A tar archive of files.
    Tar,
    /// The same under gzip.
    TarGzip,
    /// The same under zstd.
    TarZstd,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Weights.
    Weight,
    /// What an engine needs beside them: config, tokenizer.
    Config,
    /// Documents and licences.
    Doc,
    /// Programs.
    Code,
    /// Data.
    Dataset,
    /// Weights that go on top of others.
    Adapter,
    /// A chat template.
    Template,
    /// Anything else.
    Other,
}

/// A layer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelFile {
    /// Its path in the model, as it was given and not yet checked; without one, made up, and then no two are the same. Of an archive, whose members
    /// have paths of their own, it is only a name.
    pub path: String,
    /// The layer.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The layer's type, as it stands in the manifest.
    pub media_type: String,
    /// How it holds its files.
    pub packaging: Packaging,
    /// What it is for.
    pub role: Role,
    /// `gguf`, `safetensors`, `pytorch` or `onnx`, by its type or else its name.
    pub format: Option<&'static str>,
}

/// A manifest that is a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelManifest {
    /// Whose types it is written in.
    pub family: Family,
    /// Every layer, in the manifest's order.
    pub files: Vec<ModelFile>,
}

impl ModelManifest {
    /// The model that a manifest is, when it says that it is one. An index is none: the manifests in it may be.
    pub fn recognise(manifest: &Manifest) -> Option<ModelManifest> {
        if manifest.kind().is_index() {
            return None;
        }
        let config = manifest.config().map(|config| config.media_type.as_str());
        let claimed = [manifest.artifact_type(), config].into_iter().flatten().find_map(|t| claim(&lower(t)));
        let known: Vec<Option<Known>> =
            manifest.layers().iter().map(|layer| known(&lower(&layer.media_type))).collect();
        let family = claimed.or_else(|| known.iter().flatten().map(|known| known.family).next())?;
        let layers: Vec<(&Descriptor, Option<Known>)> = manifest.layers().iter().zip(known).collect();
        let mut made_up = MadeUp::of(layers.iter().map(|(layer, known)| (*layer, known.as_ref())));
        let files = layers.iter().map(|(layer, known)| file(layer, known.as_ref(), &mut made_up)).collect();
        Some(ModelManifest { family, files })
    }
}

fn file(layer: &Descriptor, known: Option<&Known>, made_up: &mut MadeUp) -> ModelFile {
    let path = given(layer, known);
    let name = path.as_deref().unwrap_or_default();
    let role =
        known.map(|known| known.role).filter(|role| *role != Role::Other).unwrap_or_else(|| role_of(layer, name));
    let format = known.and_then(|known| known.format).or_else(|| format_of(name));
    ModelFile {
        packaging: packaging(layer, known),
        role,
        format,
        path: path.unwrap_or_else(|| made_up.next(layer, known)),
        digest: layer.digest.clone(),
        size: layer.size,
        media_type: layer.media_type.clone(),
    }
}

/// The path that a layer gives itself.
fn given(layer: &Descriptor, known: Option<&Known>) -> Option<String> {
    let annotation = |key: &str| layer.annotations.get(key).filter(|path| !path.is_empty()).cloned();
    let [now, before] = FILEPATH;
    annotation(now).or_else(|| annotation(before)).or_else(|| annotation(TITLE)).or_else(|| {
        // Ollama names tensors and their companions in a field of its own; each tensor is a file in the form of safetensors.
        known.filter(|known| known.family == Family::Ollama)?;
        let name = layer.name.as_ref().filter(|name| !name.is_empty())?;
        Some(if lower(&layer.media_type) == "application/vnd.ollama.image.tensor" {
            format!("{name}.safetensors")
        } else {
            name.clone()
        })
    })
}

/// A media type as it is compared: without parameters, in lower case.
fn lower(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whose model a manifest with this artifact type or config is.
fn claim(media_type: &str) -> Option<Family> {
    let claims = [
        ("application/vnd.hanzo.model.v", Family::Hanzo),
        ("application/vnd.cncf.model.manifest.v", Family::ModelPack),
        ("application/vnd.cncf.model.config.v", Family::ModelPack),
        ("application/vnd.cnai.model.manifest.v", Family::ModelPack),
        ("application/vnd.cnai.model.config.v", Family::ModelPack),
        ("application/vnd.docker.ai.model.config.v", Family::Docker),
        ("application/vnd.kitops.modelkit.manifest.v", Family::KitOps),
        ("application/vnd.kitops.modelkit.config.v", Family::KitOps),
    ];
    claims.iter().find(|(start, _)| media_type.starts_with(start)).map(|(_, family)| *family)
}

/// What a layer's type says.
struct Known {
    family: Family,
    role: Role,
    format: Option<&'static str>,
    /// What it is called when it does not say, and the extension.
    stem: (&'static str, &'static str),
}

/// A layer's type, when it is one of a family's.
fn known(media_type: &str) -> Option<Known> {
    let of = |family, (role, format, stem, extension)| Known { family, role, format, stem: (stem, extension) };
    let rest = media_type.strip_prefix("application/vnd.")?;
    if let Some(rest) = rest.strip_prefix("hanzo.") {
        return hanzo(rest).map(|what| of(Family::Hanzo, what));
    }
    if let Some(rest) = rest.strip_prefix("cncf.model.").or_else(|| rest.strip_prefix("cnai.model.")) {
        return Some(of(Family::ModelPack, model_pack(rest)));
    }
    if let Some(rest) = rest.strip_prefix("docker.ai.") {
        return Some(of(Family::Docker, docker(rest)));
    }
    if let Some(rest) = rest.strip_prefix("kitops.modelkit.") {
        return Some(of(Family::KitOps, kit(rest)));
    }
    rest.strip_prefix("ollama.image.").map(|rest| of(Family::Ollama, ollama(rest)))
}

type What = (Role, Option<&'static str>, &'static str, &'static str);

const GGUF: What = (Role::Weight, Some("gguf"), "model", "gguf");
const SAFETENSORS: What = (Role::Weight, Some("safetensors"), "model", "safetensors");
const PYTORCH: What = (Role::Weight, Some("pytorch"), "pytorch_model", "bin");
const ONNX: What = (Role::Weight, Some("onnx"), "model", "onnx");
const LICENSE: What = (Role::Doc, None, "LICENSE", "");
const OTHER: What = (Role::Other, None, "file", "");

/// The parts of a type: `weight.v1.tar+gzip` has four.
fn parts(rest: &str) -> impl Iterator<Item = &str> {
    rest.split(['.', '+'])
}

/// The vendor has types that are no model's, so that only the listed ones count.
fn hanzo(rest: &str) -> Option<What> {
    Some(match parts(rest).next()? {
        "safetensors" => SAFETENSORS,
        "gguf" => GGUF,
        "pytorch" => PYTORCH,
        "onnx" => ONNX,
        "lora" => (Role::Adapter, None, "adapter", ""),
        _ => return None,
    })
}

fn model_pack(rest: &str) -> What {
    let has = |part: &str| parts(rest).any(|p| p == part);
    match parts(rest).next() {
        Some("weight") if parts(rest).nth(1) == Some("config") => (Role::Config, None, "config", ""),
        Some("weight") if has("gguf") => GGUF,
        Some("weight") if has("safetensors") => SAFETENSORS,
        Some("weight") => (Role::Weight, None, "model", ""),
        Some("doc") => (Role::Doc, None, "doc", ""),
        Some("code") => (Role::Code, None, "code", ""),
        Some("dataset") => (Role::Dataset, None, "dataset", ""),
        _ => OTHER,
    }
}

fn docker(rest: &str) -> What {
    let has = |part: &str| parts(rest).any(|p| p == part);
    match parts(rest).next() {
        Some("gguf") => GGUF,
        Some("safetensors") => SAFETENSORS,
        Some("model") if has("gguf") => GGUF,
        Some("model") if has("safetensors") => SAFETENSORS,
        Some("mmproj") => (Role::Weight, Some("gguf"), "mmproj", "gguf"),
        Some("dduf") => (Role::Weight, None, "model", "dduf"),
        Some("lora" | "adapter") => (Role::Adapter, None, "adapter", ""),
        Some("license") => LICENSE,
        Some("chat") if has("template") => (Role::Template, None, "chat_template", "jinja"),
        Some("vllm" | "tokenizer") => (Role::Config, None, "config", ""),
        _ => OTHER,
    }
}

fn kit(rest: &str) -> What {
    match parts(rest).next() {
        Some("model") => (Role::Weight, None, "model", ""),
        Some("dataset") => (Role::Dataset, None, "dataset", ""),
        Some("code") => (Role::Code, None, "code", ""),
        Some("docs") => (Role::Doc, None, "docs", ""),
        Some("modelpart") => (Role::Other, None, "modelpart", ""),
        _ => OTHER,
    }
}

fn ollama(rest: &str) -> What {
    match rest {
        "model" => GGUF,
        "draft" => (Role::Weight, Some("gguf"), "draft", "gguf"),
        "projector" => (Role::Weight, Some("gguf"), "mmproj", "gguf"),
        "tensor" => SAFETENSORS,
        "adapter" => (Role::Adapter, None, "adapter", ""),
        // A template of Go's, not of jinja.
        "template" => (Role::Template, None, "template", "txt"),
        "system" => (Role::Config, None, "system", "txt"),
        "prompt" => (Role::Config, None, "prompt", "txt"),
        "params" => (Role::Config, None, "params", "json"),
        "messages" => (Role::Config, None, "messages", "json"),
        "json" | "tokenizer.config" => (Role::Config, None, "config", "json"),
        "tokenizer" => (Role::Config, None, "tokenizer", ""),
        "license" | "licence" => LICENSE,
        _ => OTHER,
    }
}

fn packaging(layer: &Descriptor, known: Option<&Known>) -> Packaging {
    if layer.annotations.get(UNPACK).is_some_and(|unpack| unpack == "true") {
        return Packaging::TarGzip;
    }
    let media_type = lower(&layer.media_type);
    // What oras calls any file, unless it is told a type: such a layer is an archive only when it does not have a file's name.
    let image_layer = media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.");
    let archive = match known {
        Some(_) => true,
        None => image_layer && given(layer, None).is_none(),
    };
    let subtype = media_type.split_once('/').map_or("", |(_, subtype)| subtype);
    let has = |part: &str| parts(subtype).any(|p| p == part);
    match () {
        () if !archive || !has("tar") => Packaging::Raw,
        () if has("zstd") => Packaging::TarZstd,
        () if has("gzip") || has("gzip-fastest") => Packaging::TarGzip,
        () => Packaging::Tar,
    }
}

/// What a file whose type does not say is for, by its name.
fn role_of(layer: &Descriptor, path: &str) -> Role {
    let name = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    match extension(&name) {
        _ if ["license", "licence", "readme", "notice"].iter().any(|start| name.starts_with(start)) => Role::Doc,
        "md" | "txt" | "pdf" => Role::Doc,
        "py" | "sh" => Role::Code,
        "jinja" => Role::Template,
        "json" | "yaml" | "yml" | "model" => Role::Config,
        _ if format_of(&name).is_some() => Role::Weight,
        _ if lower(&layer.media_type) == "application/json" => Role::Config,
        _ => Role::Other,
    }
}

fn format_of(path: &str) -> Option<&'static str> {
    match extension(&path.to_ascii_lowercase()) {
        "gguf" => Some("gguf"),
        "safetensors" => Some("safetensors"),
        "onnx" => Some("onnx"),
        "bin" | "pt" | "pth" | "ckpt" => Some("pytorch"),
        _ => None,
    }
}

fn extension(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default().rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Names for the layers that give themselves none, by what they are: `model.gguf`, or of several weights `model-00001-of-00002.gguf` as their order is
/// that of the shards (Docker's), or `LICENSE` and `LICENSE-2`.
struct MadeUp {
    /// Of each stem and extension: how many there are, how many have been named.
    groups: HashMap<(&'static str, String), (usize, usize)>,
}

impl MadeUp {
    fn of<'a>(layers: impl Iterator<Item = (&'a Descriptor, Option<&'a Known>)>) -> MadeUp {
        let mut groups: HashMap<_, (usize, usize)> = HashMap::new();
        for (layer, known) in layers.filter(|(layer, known)| given(layer, *known).is_none()) {
            groups.entry(stem(layer, known)).or_default().0 += 1;
        }
        MadeUp { groups }
    }

    fn next(&mut self, layer: &Descriptor, known: Option<&Known>) -> String {
        let (stem, extension) = stem(layer, known);
        let (count, named) = self.groups.entry((stem, extension.clone())).or_default();
        *named += 1;
        let sharded = known.is_some_and(|k| k.role == Role::Weight) && packaging(layer, known) == Packaging::Raw;
        match (*count, *named) {
            (0 | 1, _) => format!("{stem}{extension}"),
            (count, i) if sharded => format!("{stem}-{i:05}-of-{count:05}{extension}"),
            (_, 1) => format!("{stem}{extension}"),
            (_, i) => format!("{stem}-{i}{extension}"),
        }
    }
}

/// What a layer is called when it does not say, and its extension with the dot.
fn stem(layer: &Descriptor, known: Option<&Known>) -> (&'static str, String) {
    let json = lower(&layer.media_type) == "application/json";
    let (stem, extension) = known.map_or(if json { ("config", "json") } else { ("file", "") }, |known| known.stem);
    let extension = match packaging(layer, known) {
        Packaging::Raw if extension.is_empty() => String::new(),
        Packaging::Raw => format!(".{extension}"),
        Packaging::Tar => ".tar".to_owned(),
        Packaging::TarGzip => ".tar.gz".to_owned(),
        Packaging::TarZstd => ".tar.zst".to_owned(),
    };
    (stem, extension)
}

#[cfg(test)]
mod tests;
