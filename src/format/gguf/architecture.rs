//! A GGUF's architecture and hyperparameters.
//!
//! Owns: `general.architecture`, and the keys under it that llama.cpp asserts, divides by or indexes with (llama-model.cpp,
//! `load_hparams`; mtmd/clip.cpp; the models' own files). Promises: what makes an engine abort or divide by zero is refused; what it
//! refuses cleanly is a warning, for other engines have other models. Only architectures that llama.cpp knows are judged by its
//! rules. Leaves out: whether the tensors have the shapes that the hyperparameters ask for, which llama.cpp checks itself.
//!
//! ```text
//! ARCH.block_count u32   1..=512          ARCH.attention.head_count(_kv) u32, or i32/u32[block_count]
//! ARCH.expert_count u32  0..=1024         ARCH.expert_used_count u32 or [block_count], 1..=expert_count when there are experts
//! ```

use super::parse::rules;
use super::{Array, GgufHeader, Value, ValueType};
use crate::digest::shorten;
use crate::format::finding::{Findings, Place, Rule, Severity};
use crate::name::RelPath;

rules! {
    ARCHITECTURE "gguf.architecture" Warning "the architecture is not said, or none that llama.cpp knows"
    READ_AS "gguf.read-as" Critical "a key has a value of another type than an engine reads it as without a look: it aborts, or takes one thing for another"
    HYPERPARAMETER_TYPE "gguf.hyperparameter-type" Warning "a hyperparameter is not of the type llama.cpp wants, so it does not load the model"
    HYPERPARAMETER_MISSING "gguf.hyperparameter-missing" Warning "a hyperparameter that llama.cpp needs is not there, so it does not load the model"
    LAYERS "gguf.layers" Critical "the number of layers is none that llama.cpp has room for: it aborts"
    LAYERS_PRESENT "gguf.layers-present" Warning "the layers that are there are not those that block_count says"
    EXPERTS "gguf.experts" Critical "the numbers of experts contradict each other: llama.cpp aborts"
    HEADS "gguf.heads" High "the attention heads do not divide as they must: engines divide by them, or abort"
    HEADS_EMBEDDING "gguf.heads-embedding" Warning "the heads do not divide the embedding"
    ZERO "gguf.zero" Critical "a size is 0 that engines divide by"
    ZERO_SIZE "gguf.zero-size" High "a size is 0 that no model has"
    ROPE_SCALING "gguf.rope-scaling" Critical "the kind of RoPE scaling is none that llama.cpp knows: it aborts"
    ARRAY_LENGTH "gguf.array-length" Warning "an array for the layers is not as long as there are layers, so llama.cpp does not load the model"
    EMBEDDING_ROWS "gguf.embedding-rows" Warning "the embedding has not as many rows as there are tokens, so llama.cpp does not load the model"
}

/// `LLAMA_MAX_LAYERS`
const MAX_LAYERS: u64 = 512;
/// `LLAMA_MAX_EXPERTS`
const MAX_EXPERTS: u64 = 1024;

/// llama-arch.cpp, `LLM_ARCH_NAMES`.
const ARCHITECTURES: &[&str] = &[
    "clip",
    "llama",
    "llama4",
    "deci",
    "falcon",
    "grok",
    "gpt2",
    "gptj",
    "gptneox",
    "mpt",
    "baichuan",
    "starcoder",
    "refact",
    "bert",
    "modern-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "eurobert",
    "bloom",
    "stablelm",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "qwen3next",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen35",
    "qwen35moe",
    "qwen4exp",
    "phi2",
    "phi3",
    "phimoe",
    "plamo",
    "plamo2",
    "plamo3",
    "codeshell",
    "orion",
    "internlm2",
    "minicpm",
    "minicpm3",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4-assistant",
    "gemma-embedding",
    "starcoder2",
    "mamba",
    "mamba2",
    "maple",
    "jamba",
    "falcon-h1",
    "xverse",
    "command-r",
    "cohere2",
    "cohere2moe",
    "dbrx",
    "olmo",
    "olmo2",
    "olmoe",
    "muse-glimmer",
    "openelm",
    "arctic",
    "deepseek",
    "deepseek2",
    "deepseek2-ocr",
    "deepseek32",
    "deepseek4",
    "chatglm",
    "glm4",
    "glm4moe",
    "glm-dsa",
    "bitnet",
    "t5",
    "t5encoder",
    "jais",
    "jais2",
    "nemotron",
    "nemotron_h",
    "nemotron_h_moe",
    "exaone",
    "exaone4",
    "exaone-moe",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "arwkv7",
    "granite",
    "granitemoe",
    "granitehybrid",
    "graniteswitch",
    "granite_swa",
    "chameleon",
    "wavtokenizer-dec",
    "plm",
    "bailingmoe",
    "bailingmoe2",
    "bailingmoe3",
    "dots1",
    "dots3note",
    "arcee",
    "afmoe",
    "laguna",
    "ernie4_5",
    "ernie4_5-moe",
    "hunyuan-moe",
    "hunyuan-dense",
    "hunyuan_vl",
    "hy_v3",
    "hy_v4",
    "smollm3",
    "gpt-oss",
    "lfm2",
    "lfm2moe",
    "dream",
    "smallthinker",
    "llada",
    "llada-moe",
    "seed_oss",
    "grovemoe",
    "apertus",
    "minimax-01",
    "hrm_text",
    "minimax-m2",
    "minimax-m3",
    "cogvlm",
    "rnd1",
    "pangu-embedded",
    "mistral3",
    "eagle3",
    "dflash",
    "mistral4",
    "paddleocr",
    "mimo2",
    "step35",
    "spark2_5",
    "llama-embed",
    "maincoder",
    "kimi-linear",
    "kimi-k3",
    "glm5-next",
    "talkie",
    "mellum",
    "nanbeige",
    "qwen3tts",
    "pockettts",
];
/// Those whose layers need not have attention (recurrent and hybrid ones, and such as have none): 0 heads are right there.
const WITHOUT_HEADS: &[&str] = &[
    "mamba",
    "mamba2",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "arwkv7",
    "jamba",
    "falcon-h1",
    "plamo2",
    "granitehybrid",
    "lfm2",
    "lfm2moe",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen3next",
    "kimi-linear",
    "bailingmoe3",
    "kimi-k3",
    "glm5-next",
    "qwen35",
    "qwen35moe",
    "qwen4exp",
    "deepseek4",
    "minimax-01",
    "wavtokenizer-dec",
    "deci",
    "eagle3",
    "dflash",
    "pockettts",
    "graniteswitch",
    "gemma4-assistant",
];
/// What engines divide by, under the architecture's name.
const DIVISORS: &[&str] = &["wkv.head_size"];

/// The architecture, when it is a string.
pub(super) fn name(header: &GgufHeader) -> Option<&str> {
    header.text("general.architecture")
}

/// Checks all of it.
pub(super) fn check(path: &RelPath, header: &GgufHeader, findings: &mut Findings) {
    let mut check = Check { path, header, findings, prefix: String::new() };
    check.read_as();
    // Of a set of shards only the first says what it is.
    let later_shard = header.number("split.no").is_some_and(|no| no > 0);
    let Some(name) = name(header) else {
        if header.value("general.architecture").is_none() && !later_shard {
            check.add(
                &ARCHITECTURE,
                "general.architecture",
                "general.architecture is missing: llama.cpp does not load the file",
            );
        }
        return;
    };
    if !ARCHITECTURES.contains(&name) {
        let known_file =
            matches!(header.text("general.type"), Some("imatrix")) || matches!(name, "imatrix" | "controlvector");
        if !known_file {
            let why = format!("the architecture {:?} is none that llama.cpp knows", shorten(name));
            check.add(&ARCHITECTURE, "general.architecture", why);
        }
        return;
    }
    check.prefix = format!("{name}.");
    // Adapters and mmproj files have hyperparameters of their own (`adapter`), or none.
    if name != "clip" && header.text("general.type") != Some("adapter") {
        check.hyperparameters(name);
    }
}

struct Check<'a> {
    path: &'a RelPath,
    header: &'a GgufHeader,
    findings: &'a mut Findings,
    /// The architecture and a dot.
    prefix: String,
}

impl<'a> Check<'a> {
    fn add(&mut self, rule: &'static Rule, key: &str, why: impl Into<String>) {
        self.findings.add(self.path, rule, Place::part(key), why);
    }

    /// Keys that are read by a getter which asserts their type (`gguf_get_val_str` and the like).
    fn read_as(&mut self) {
        let string = |value: &Value| matches!(value, Value::String(_));
        let float = |value: &Value| matches!(value, Value::Float(ValueType::F32, _));
        let unsigned = |value: &Value| matches!(value, Value::Unsigned(ValueType::U32, _));
        let boolean = |value: &Value| matches!(value, Value::Bool(_));
        type Is = fn(&Value) -> bool;
        let table: [(&str, &str, Is); 13] = [
            ("general.architecture", "str", string),
            ("general.type", "str", string),
            ("general.name", "str", string),
            ("general.description", "str", string),
            ("adapter.type", "str", string),
            ("adapter.lora.alpha", "f32", float),
            ("imatrix.chunk_count", "u32", unsigned),
            ("imatrix.chunk_size", "u32", unsigned),
            ("clip.has_vision_encoder", "bool", boolean),
            ("clip.has_audio_encoder", "bool", boolean),
            ("clip.use_gelu", "bool", boolean),
            ("clip.use_silu", "bool", boolean),
            ("clip.projector_type", "str", string),
        ];
        for (key, want, is) in table {
            if let Some(other) = self.header.value(key).filter(|value| !is(value)) {
                let why = format!(
                    "{key} is of type {}, and engines read it as {want} without a look: they abort",
                    other.type_name()
                );
                self.add(&READ_AS, key, why);
            }
        }
        let header = self.header;
        for (key, value) in header.pairs.iter().filter(|(key, _)| key.starts_with("clip.")) {
            // What clip.cpp reads with get_u32, get_f32 and get_string, whatever the modality.
            let tail = key.rsplit('.').next().unwrap_or("");
            let (want, right) = match tail {
                "image_size"
                | "patch_size"
                | "embedding_length"
                | "feed_forward_length"
                | "block_count"
                | "projection_dim"
                | "head_count"
                | "head_count_kv"
                | "num_mel_bins"
                | "spatial_merge_size" => ("u32", unsigned(value)),
                "layer_norm_epsilon" => ("f32", float(value)),
                "projector_type" if key != "clip.projector_type" => ("str", string(value)),
                _ => continue,
            };
            if !right {
                let why = format!(
                    "{key} is of type {}, and engines read it as {want} without a look: they abort",
                    value.type_name()
                );
                self.add(&READ_AS, key, why);
            } else if value.number() == Some(0)
                && matches!(tail, "patch_size" | "image_size" | "head_count" | "spatial_merge_size")
            {
                self.add(&ZERO, key, format!("{key} is 0, and engines divide by it"));
            }
        }
    }

    /// A number under the architecture's name: none when it is not there; what is not u32 is noted.
    fn number(&mut self, tail: &str) -> Option<u64> {
        let key = format!("{}{tail}", self.prefix);
        match self.header.value(&key)? {
            Value::Unsigned(ValueType::U32, n) => Some(*n),
            other => {
                let n = other.number();
                let why = format!("{key} is of type {}, not u32: llama.cpp does not load the model", other.type_name());
                self.add(&HYPERPARAMETER_TYPE, &key, why);
                n
            }
        }
    }

    /// A number for each of `layers` layers, said once or as an array.
    fn numbers(&mut self, tail: &str, layers: u64) -> Option<Vec<u64>> {
        let key = format!("{}{tail}", self.prefix);
        let Some(Value::Array(array)) = self.header.value(&key) else {
            return self.number(tail).map(|n| vec![n]);
        };
        if !matches!(array, Array::Packed { of: ValueType::U32 | ValueType::I32, .. }) {
            let why = format!(
                "{key} is an array of {}, not of u32 or i32: llama.cpp does not load the model",
                array.element().as_str()
            );
            self.add(&HYPERPARAMETER_TYPE, &key, why);
            return None;
        }
        if array.count() != layers {
            let why =
                format!("{key} has {} values for {layers} layers: llama.cpp does not load the model", array.count());
            self.add(&ARRAY_LENGTH, &key, why);
        }
        // llama.cpp takes what is negative as uint32_t.
        let values = array.integers()?.take(MAX_LAYERS as usize).map(|n| u64::from(n as u32));
        Some(values.collect())
    }

    fn hyperparameters(&mut self, name: &str) {
        let layers = self.number("block_count");
        let embedding = self.number("embedding_length");
        let context = self.number("context_length");
        // A vocabulary alone, or a model's pieces for a test, say less than a model does.
        if self.header.tensors.iter().any(|t| t.name.starts_with("blk.")) {
            for (key, value) in [("block_count", layers), ("embedding_length", embedding), ("context_length", context)]
            {
                if value.is_none() {
                    let key = format!("{}{key}", self.prefix);
                    let why = format!("{key} is missing: llama.cpp does not load the model");
                    self.add(&HYPERPARAMETER_MISSING, &key, why);
                }
            }
        }
        for (key, value) in [("embedding_length", embedding), ("context_length", context)] {
            if value == Some(0) {
                let key = format!("{}{key}", self.prefix);
                self.add(&ZERO_SIZE, &key, format!("{key} is 0, which no model has"));
            }
        }
        for tail in DIVISORS {
            if self.number(tail) == Some(0) {
                let key = format!("{}{tail}", self.prefix);
                self.add(&ZERO, &key, format!("{key} is 0, and engines divide by it"));
            }
        }
        if let Some(layers) = layers {
            self.layers(layers);
        }
        let layers = layers.unwrap_or(0).min(MAX_LAYERS);
        self.experts(name, layers);
        self.heads(name, layers, embedding);
        self.rope();
        self.rows();
    }

    fn layers(&mut self, layers: u64) {
        let key = format!("{}block_count", self.prefix);
        if !(1..=MAX_LAYERS).contains(&layers) {
            let why = format!("{key} is {layers}; llama.cpp has room for 1 to {MAX_LAYERS}, and aborts");
            self.add(&LAYERS, &key, why);
            return;
        }
        if let Some(more) = self.number("nextn_predict_layers").filter(|more| *more > layers) {
            let why = format!("{}nextn_predict_layers is {more}, over {key}, {layers}: llama.cpp aborts", self.prefix);
            self.add(&LAYERS, &key, why);
        }
        if self.header.number("split.count").is_some_and(|n| n > 1) {
            return;
        }
        let mut there = vec![false; layers as usize];
        let mut beyond = None;
        let mut any = false;
        for tensor in &self.header.tensors {
            let Some(rest) = tensor.name.strip_prefix("blk.") else { continue };
            let Some(n) = rest.split('.').next().and_then(|n| n.parse::<u64>().ok()) else { continue };
            any = true;
            match usize::try_from(n).ok().and_then(|n| there.get_mut(n)) {
                Some(there) => *there = true,
                None if beyond.is_none() => beyond = Some(&tensor.name),
                None => {}
            }
        }
        if let Some(name) = beyond {
            let why = format!("the tensor {name:?} is of a layer beyond the {layers} of {key}");
            self.add(&LAYERS_PRESENT, &key, why);
        }
        if let Some(missing) = there.iter().position(|there| !there).filter(|_| any) {
            let why = format!("{key} is {layers}, and no tensor is of layer {missing}");
            self.add(&LAYERS_PRESENT, &key, why);
        }
    }

    /// `GGML_ASSERT(n_expert_used_max <= hparams.n_expert)` and those around it.
    fn experts(&mut self, name: &str, layers: u64) {
        let mut experts = self.number("expert_count").unwrap_or(0);
        let mut used = self.numbers("expert_used_count", layers).unwrap_or_default().into_iter().max().unwrap_or(0);
        let groups = self.number("expert_group_count").unwrap_or(0);
        let groups_used = self.number("expert_group_used_count").unwrap_or(0);
        if matches!(name, "hunyuan_vl" | "hunyuan-dense") && experts <= 1 {
            (experts, used) = (0, 0);
        }
        let why = if experts > MAX_EXPERTS {
            format!("{experts} experts; llama.cpp has room for {MAX_EXPERTS}")
        } else if used > experts {
            format!("{used} experts are used, and there are {experts}")
        } else if experts > 0 && used == 0 {
            format!("there are {experts} experts, and none is used")
        } else if experts > 0 && groups >= experts {
            format!("there are {groups} groups of {experts} experts")
        } else if experts == 0 && groups > 0 {
            format!("there are {groups} groups of experts, and no experts")
        } else if groups > 1 && experts % groups != 0 {
            format!("{experts} experts do not divide into {groups} groups")
        } else if groups > 1 && !(1..groups).contains(&groups_used) {
            format!("{groups_used} of {groups} groups of experts are used; it must be fewer, and at least 1")
        } else {
            return;
        };
        let key = format!("{}expert_count", self.prefix);
        self.add(&EXPERTS, &key, format!("{why}: llama.cpp aborts"));
    }

    fn heads(&mut self, name: &str, layers: u64, embedding: Option<u64>) {
        let key = format!("{}attention.head_count", self.prefix);
        let said_once = !matches!(self.header.value(&key), Some(Value::Array(_)));
        let heads = self.numbers("attention.head_count", layers).unwrap_or_default();
        let groups = self.numbers("attention.head_count_kv", layers).unwrap_or_default();
        let needs_heads = !WITHOUT_HEADS.contains(&name);
        if needs_heads && said_once && heads == [0] {
            self.add(&HEADS, &key, format!("{key} is 0: engines divide by it"));
        }
        if needs_heads && groups == [0] && heads.iter().any(|n| *n > 0) {
            self.add(&HEADS, &key, format!("{key}_kv is 0: engines divide by it"));
        }
        // One number stands for all layers; an array, for one each.
        let pairs = (0..heads.len().max(groups.len())).filter_map(|i| {
            let of = |list: &[u64]| if list.len() == 1 { list.first().copied() } else { list.get(i).copied() };
            Some((i, of(&heads)?, of(&groups)?))
        });
        let odd = pairs.into_iter().find(|(_, heads, groups)| *heads > 0 && *groups > 0 && heads % groups != 0);
        if let Some((layer, heads, groups)) = odd {
            let why = format!(
                "layer {layer} has {heads} attention heads for {groups} of keys and values, which do not divide them: llama.cpp aborts"
            );
            self.add(&HEADS, &key, why);
        }
        let own_length = self.number("attention.key_length").is_some();
        let (Some(embedding), Some(heads)) = (embedding, heads.first().copied().filter(|n| *n > 0)) else { return };
        if embedding > 0 && heads > embedding && !own_length {
            self.add(&HEADS, &key, format!("{key} is {heads}, over the embedding's {embedding}: a head has length 0"));
        } else if embedding % heads != 0 && !own_length {
            let why = format!("{key} is {heads}, which does not divide the embedding's {embedding}");
            self.add(&HEADS_EMBEDDING, &key, why);
        }
    }

    fn rope(&mut self) {
        let key = format!("{}rope.scaling.type", self.prefix);
        match self.header.value(&key) {
            None => {}
            Some(Value::String(kind)) => {
                // `gguf_get_val_str` cuts at a NUL.
                let kind = kind.split(|b| *b == 0).next().unwrap_or_default();
                if !matches!(kind, b"none" | b"linear" | b"yarn" | b"longrope") {
                    let shown = shorten(&String::from_utf8_lossy(kind));
                    self.add(
                        &ROPE_SCALING,
                        &key,
                        format!("{key} is {shown:?}, which llama.cpp does not know: it aborts"),
                    );
                }
            }
            Some(other) => {
                let why =
                    format!("{key} is of type {}, not a string: llama.cpp does not load the model", other.type_name());
                self.add(&HYPERPARAMETER_TYPE, &key, why);
            }
        }
    }

    /// The embedding against the vocabulary.
    fn rows(&mut self) {
        let Some(Value::Array(Array::Strings(tokens))) = self.header.value("tokenizer.ggml.tokens") else { return };
        let tokens = tokens.len() as u64;
        for name in ["token_embd.weight", "output.weight"] {
            let Some(tensor) = self.header.tensors.iter().find(|t| t.name == name) else { continue };
            let rows = tensor.dimensions.get(1).copied().unwrap_or(1);
            if rows != tokens {
                let why = format!(
                    "the tensor {name:?} has {rows} rows for {tokens} tokens: llama.cpp does not load the model"
                );
                self.add(&EMBEDDING_ROWS, name, why);
            }
        }
    }
}
