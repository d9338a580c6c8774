//! Names that mean something in a model's folder.
//!
//! Owns: the lists: libraries that loaders may import, keys that name files or classes; and what is shown of a name. Promises:
//! compares without regard to case where a file system or a loader might. Leaves out: what a file may hold under its name
//! (`recognise`), which rule follows.

/// The extension in lower case, empty when there is none.
pub(super) fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default()
}

/// Whether a value is the name of a file of code; addresses end in `.com` and words in `.so` too, so few count.
pub(super) fn names_code(text: &str) -> bool {
    const ENDS: [&str; 8] = [".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".wasm", ".exe"];
    let text = text.to_ascii_lowercase();
    ENDS.iter().any(|end| text.len() > end.len() && text.ends_with(end))
}

/// Whether a JSON file is an index of shards: `model.safetensors.index.json`, `x.safetensors.index.fp16.json`.
pub(crate) fn is_index(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".json") && name.contains(".index.")
}

/// What a name says that a file is, in a line.
pub(super) fn what(name: &str) -> &'static str {
    match (name.to_ascii_lowercase().as_str(), extension(name).as_str()) {
        ("config.json", _) => "the model's configuration",
        ("tokenizer.json", _) => "a tokenizer",
        ("adapter_config.json", _) => "an adapter's configuration",
        ("model_index.json", _) => "a pipeline's parts",
        (name, _) if is_index(name) => "an index of shards",
        (_, "json") => "JSON",
        (_, "jinja") => "a chat template",
        (_, "yaml" | "yml") => "YAML",
        (_, "model" | "spm") => "a vocabulary",
        _ => "text",
    }
}

/// What diffusers may import for a part of a pipeline: libraries, and the folders of its own pipelines that hold parts.
const PIPELINE_LIBRARIES: [&str; 50] = [
    "diffusers",
    "transformers",
    "onnxruntime",
    "onnxruntime.training",
    "optimum",
    "peft",
    "k_diffusion",
    "timm",
    "controlnet_aux",
    "accelerate",
    "flax",
    "ace_step",
    "audioldm2",
    "aura_flow",
    "chroma",
    "controlnet",
    "cosmos",
    "deepfloyd_if",
    "deprecated",
    "diffusion_gemma",
    "flux",
    "flux2",
    "hunyuandit",
    "hunyuan_video",
    "ideogram4",
    "kandinsky",
    "kandinsky2_2",
    "kandinsky3",
    "latent_diffusion",
    "ledits_pp",
    "ltx",
    "ltx2",
    "lumina",
    "marigold",
    "mochi",
    "musicldm",
    "paint_by_example",
    "pixart_alpha",
    "sana",
    "shap_e",
    "spectrogram_diffusion",
    "stable_audio",
    "stable_cascade",
    "stable_diffusion",
    "stable_diffusion_3",
    "stable_diffusion_safe",
    "stable_diffusion_xl",
    "unclip",
    "unidiffuser",
    "wuerstchen",
];

/// Whether diffusers knows a library for a part.
pub(super) fn is_pipeline_library(name: &str) -> bool {
    const LATER: [&str; 12] = [
        "versatile_diffusion",
        "blip_diffusion",
        "stable_video_diffusion",
        "kolors",
        "alt_diffusion",
        "vq_diffusion",
        "semantic_stable_diffusion",
        "t2i_adapter",
        "prx",
        "longcat_audio_dit",
        "latte",
        "consisid",
    ];
    PIPELINE_LIBRARIES.contains(&name) || LATER.contains(&name)
}

/// Whether a dotted name is of a library whose classes a loader may import; `transformers_modules`, where code of a model
/// goes, is none.
pub(super) fn is_known_module(dotted: &str) -> bool {
    const LIBRARIES: [&str; 9] = [
        "transformers",
        "diffusers",
        "sentence_transformers",
        "peft",
        "timm",
        "open_clip",
        "optimum",
        "mlx_lm",
        "gliner",
    ];
    let first = dotted.split('.').next().unwrap_or(dotted);
    LIBRARIES.contains(&first) || dotted.starts_with("torch.nn.")
}

/// Whether a text is one plain name.
pub(super) fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Keys whose value is a class of the loader's own library.
pub(super) fn is_class_key(key: &str) -> bool {
    const KEYS: [&str; 15] = [
        "architectures",
        "tokenizer_class",
        "slow_tokenizer_class",
        "fast_tokenizer_class",
        "processor_class",
        "image_processor_type",
        "image_processor_class",
        "feature_extractor_type",
        "feature_extractor_class",
        "video_processor_type",
        "video_processor_class",
        "model_class",
        "config_class",
        "_class_name",
        "_blocks_class_name",
    ];
    KEYS.contains(&key)
}

/// Keys whose value sentence-transformers imports as it is.
pub(super) fn is_import_key(key: &str) -> bool {
    const KEYS: [&str; 5] = [
        "activation_function",
        "activation_fn",
        "default_activation_function",
        "sbert_ce_default_activation_function",
        "parent_library",
    ];
    KEYS.contains(&key)
}

/// Keys whose value is a kernel's name when it has a slash.
pub(super) fn is_kernel_key(key: &str) -> bool {
    const KEYS: [&str; 9] = [
        "_attn_implementation",
        "attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "experts_implementation",
        "kernel_config",
        "kernel_mapping",
        "use_kernels",
        "kernels",
    ];
    KEYS.contains(&key)
}

/// Keys of a quantization that name code of its own.
pub(super) fn is_quantizer_key(key: &str) -> bool {
    const KEYS: [&str; 10] = [
        "custom_module",
        "custom_modules",
        "custom_class",
        "custom_quantizer",
        "quantizer_class",
        "module_path",
        "import_path",
        "class_path",
        "custom_op_library",
        "plugin",
    ];
    KEYS.contains(&key)
}

/// How much a path under a key matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKey {
    /// Loaders open what stands there.
    File,
    /// Loaders have put their own path there, and put another in its place.
    Remembered,
    /// Where something once was, for people.
    Note,
}

/// Whether a key's value is a path.
pub(super) fn path_key(key: &str) -> Option<PathKey> {
    match key {
        "tokenizer_file" | "special_tokens_map_file" | "vocab_file" | "merges_file" | "spm_file" => {
            Some(PathKey::Remembered)
        }
        "file" | "filename" | "file_name" => Some(PathKey::File),
        _ if key.ends_with("_file") || key.ends_with("_filename") || key.ends_with("_files") => Some(PathKey::File),
        _ if key.ends_with("_path") || key.ends_with("_dir") => Some(PathKey::Note),
        _ => None,
    }
}

/// Whether a path climbs out of its folder.
pub(crate) fn climbs(path: &str) -> bool {
    path.split(['/', '\\']).any(|component| component == "..")
}

/// Whether a path does not begin in its folder.
pub(crate) fn is_absolute(path: &str) -> bool {
    let drive = matches!(path.as_bytes(), [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic());
    path.starts_with(['/', '\\', '~']) || drive
}

/// Whether a text is an address.
pub(crate) fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        !rest.is_empty() && !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+')
    })
}

/// What a line of YAML would make a loader do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Yaml {
    /// Build a Python object: PyYAML's own tags, and HyperPyYAML's.
    Tag,
    /// Have Hydra call something.
    Target,
    AutoMap,
    RemoteCode,
}

/// Whether a tag of the line has a byte in hexadecimal, as no tool writes it: `!!pyth%6Fn/name:os.system`. In one pass, however many
/// tags there are.
fn escaped_tag(line: &str) -> bool {
    let bytes = line.as_bytes();
    let (mut tag, mut before) = (false, ' ');
    for (at, c) in line.char_indices() {
        match c {
            '!' => tag |= matches!(before, ' ' | '\t' | '[' | '{' | ',' | ':' | '!'),
            '%' if tag => {
                let hexadecimal = |i: usize| bytes.get(at + i).is_some_and(u8::is_ascii_hexdigit);
                if hexadecimal(1) && hexadecimal(2) {
                    return true;
                }
            }
            c if c.is_whitespace() => tag = false,
            _ => {}
        }
        before = c;
    }
    false
}

/// What is dangerous in a line, and the word that is; also when letters of it are escaped, as YAML may in quotes.
pub(super) fn yaml_line(line: &str) -> Option<(Yaml, &'static str)> {
    plain_line(line).or_else(|| plain_line(&unescaped(line)?))
}

/// The line with `\x5f`, `\u005f` and `\U0000005f` replaced; none when there is none.
fn unescaped(line: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = line;
    let mut any = false;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let digits = match after.as_bytes().first() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let code = after.get(1..1 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                any = true;
                out.push(c);
                rest = after.get(1 + digits..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    any.then_some(out)
}

fn plain_line(line: &str) -> Option<(Yaml, &'static str)> {
    // "!!python/" and the long form "tag:yaml.org,2002:python/".
    if line.contains("!!python/") || line.contains("yaml.org,2002:python/") {
        return Some((Yaml::Tag, "python/"));
    }
    // A handle of the file's own may stand for any tag, and in a tag %70 for p.
    if line.trim_start_matches('\u{feff}').starts_with("%TAG") {
        return Some((Yaml::Tag, "%TAG"));
    }
    if escaped_tag(line) {
        return Some((Yaml::Tag, "%"));
    }
    for tag in ["!new:", "!apply:", "!name:", "!module:"] {
        for (at, _) in line.match_indices(tag) {
            let target = line[at + tag.len()..].trim_start();
            if !target.starts_with("speechbrain.") && !target.starts_with("torch.nn.") {
                return Some((Yaml::Tag, tag));
            }
        }
    }
    if !values(line, "_target_").is_empty() {
        return Some((Yaml::Target, "_target_"));
    }
    if !values(line, "auto_map").is_empty() {
        return Some((Yaml::AutoMap, "auto_map"));
    }
    let harmless =
        |value: &&str| ["false", "no", "off", "null", "~", "0"].contains(&value.trim().to_ascii_lowercase().as_str());
    let trusting = !values(line, "trust_remote_code").iter().all(harmless);
    trusting.then_some((Yaml::RemoteCode, "trust_remote_code"))
}

/// What follows `key` and a colon, wherever it stands in the line.
fn values<'a>(line: &'a str, key: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices(key) {
        let rest = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start_matches([' ', '\t']);
        found.extend(rest.strip_prefix(':'));
    }
    found
}
