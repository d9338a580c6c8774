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

use super::known::ARCHITECTURES;
use super::{Array, GgufHeader, Value, ValueType};
use crate::digest::shorten;
use crate::format::finding::{Findings, Place, Rule, rules};
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
    ROPE "gguf.rope-dimension" High "the rotated dimensions are odd, or more than a head has: llama.cpp aborts"
    ENUMERATION "gguf.enumeration" High "a number that stands for a choice is none that llama.cpp knows: it aborts"
    ROPE_SCALING "gguf.rope-scaling" Critical "the kind of RoPE scaling is none that llama.cpp knows: it aborts"
    ARRAY_LENGTH "gguf.array-length" Warning "an array for the layers is not as long as there are layers, so llama.cpp does not load the model"
    EMBEDDING_ROWS "gguf.embedding-rows" Warning "the embedding has not as many rows as there are tokens, so llama.cpp does not load the model"
}

/// `LLAMA_MAX_LAYERS`
const MAX_LAYERS: u64 = 512;
/// `LLAMA_MAX_EXPERTS`
const MAX_EXPERTS: u64 = 1024;

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
/// Those that assert that there are experts (`GGML_ASSERT(n_expert > 0)` in their own files).
const NEED_EXPERTS: &[&str] = &["bailingmoe2", "grovemoe", "llada-moe", "smallthinker"];
/// Choices by number, and the last that llama.cpp knows.
const ENUMERATIONS: [(&str, u64); 3] = [("pooling_type", 4), ("classifier.pooling_type", 4), ("expert_gating_func", 4)];
/// T5's buckets are divided by 4 (`llama_relative_position_bucket`), and what comes out indexes a tensor.
const BUCKETS: &str = "attention.relative_buckets_count";
const T5: &[&str] = &["t5", "t5encoder"];
const RWKV: &[&str] = &["rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"];
const HEADED_SSM: &[&str] = &[
    "falcon-h1",
    "granitehybrid",
    "mamba2",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
];
const GROUPED_SSM: &[&str] = &[
    "falcon-h1",
    "granitehybrid",
    "mamba2",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
];
/// What engines divide by, under the architecture's name, and in which: llama.cpp itself writes 0 for what a model has not
/// (`llama_model_saver::add_kv_from_model`).
const DIVISORS: [(&str, &[&str]); 5] = [
    ("wkv.head_size", RWKV),
    ("ssm.time_step_rank", HEADED_SSM),
    ("ssm.group_count", GROUPED_SSM),
    ("experts_per_group", &["grovemoe"]),
    ("interleave_moe_layer_step", &["ernie4_5-moe"]),
];

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
        let unsaid = header.value("general.architecture").is_none();
        // An imatrix says what it is by `general.type` alone.
        if unsaid && !later_shard && header.text("general.type") != Some("imatrix") {
            check.add(
                &ARCHITECTURE,
                "general.architecture",
                "general.architecture is missing: llama.cpp does not load the file",
            );
        }
        return;
    };
    if !ARCHITECTURES.contains(&name) {
        if !matches!(name, "imatrix" | "controlvector") {
            let why = format!("the architecture {:?} is none that llama.cpp knows", shorten(name));
            check.add(&ARCHITECTURE, "general.architecture", why);
        }
        return;
    }
    check.prefix = format!("{name}.");
    // Adapters and mmproj files have hyperparameters of their own (`adapter`), or none.
    if name != "clip" && header.text("general.type") != Some("adapter") {
        check.hyperparameters(name);
        super::demands::check(path, header, name, findings);
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
            } else if value.number() == Some(0) && (tail == "patch_size" || key.ends_with("attention.head_count")) {
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
        for (tail, only) in DIVISORS {
            if only.contains(&name) && self.number(tail) == Some(0) {
                let key = format!("{}{tail}", self.prefix);
                self.add(&ZERO, &key, format!("{key} is 0, and engines divide by it"));
            }
        }
        if let Some(n) = self.number(BUCKETS).filter(|n| *n < 4 && T5.contains(&name)) {
            let key = format!("{}{BUCKETS}", self.prefix);
            self.add(&ZERO, &key, format!("{key} is {n}, and engines divide by a quarter of it, which is 0"));
        }
        for (tail, last) in ENUMERATIONS {
            // -1 is "not said".
            if let Some(n) = self.number(tail).filter(|n| *n > last && *n != u64::from(u32::MAX)) {
                let key = format!("{}{tail}", self.prefix);
                self.add(&ENUMERATION, &key, format!("{key} is {n}, over the {last} that llama.cpp knows: it aborts"));
            }
        }
        if let Some(layers) = layers {
            self.layers(layers);
        }
        let layers = layers.unwrap_or(0).min(MAX_LAYERS);
        self.experts(name, layers);
        self.heads(name, layers, embedding);
        self.rope(name, embedding);
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
        for tail in ["posnet.block_count", "convnext.block_count"] {
            if let Some(more) = self.number(tail).filter(|more| *more > layers) {
                let why = format!("{}{tail} is {more}, over {key}, {layers}: llama.cpp aborts", self.prefix);
                self.add(&LAYERS, &key, why);
            }
        }
        if let Some(more) = self.number("decoder_block_count").filter(|more| *more > MAX_LAYERS) {
            let why = format!("{}decoder_block_count is {more}; llama.cpp makes room for all of them", self.prefix);
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
        let needed = NEED_EXPERTS.contains(&name) && self.header.tensors.iter().any(|t| t.name.starts_with("blk."));
        let why = if needed && experts == 0 {
            format!("{name} has no experts, which it cannot be without")
        } else if experts > MAX_EXPERTS {
            format!("{experts} experts; llama.cpp has room for {MAX_EXPERTS}")
        } else if used > experts {
            format!("{used} experts are used, and there are {experts}")
        } else if experts > 0 && used == 0 {
            format!("there are {experts} experts, and none is used")
        } else if experts > 0 && groups >= experts {
            format!("there are {groups} groups of {experts} experts")
        } else if experts == 0 && groups > 0 {
            format!("there are {groups} groups of experts, and no experts")
        } else if groups > 1 && !experts.is_multiple_of(groups) {
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

    fn rope(&mut self, name: &str, embedding: Option<u64>) {
        let heads = self.header.number(&format!("{}attention.head_count", self.prefix)).filter(|n| *n > 0);
        let length = self.number("attention.key_length").or(embedding.zip(heads).map(|(n, heads)| n / heads));
        let stated = self.header.number(&format!("{}attention.key_length", self.prefix)).is_some_and(|n| n > 0);
        let key = format!("{}rope.dimension_count", self.prefix);
        // ggml_rope: GGML_ASSERT(n_dims % 2 == 0), GGML_ASSERT(n_dims <= ne0).
        let rotated = self.number("rope.dimension_count");
        // deepseek2.cpp: GGML_ASSERT(n_embd_head_qk_nope >= 1)
        let compressed = self.number("attention.key_length_mla").filter(|n| *n > 0);
        if let Some((n, length)) = rotated.zip(compressed).filter(|(n, length)| n >= length) {
            let why = format!("{key} is {n}, not below the key's length of {length}: llama.cpp aborts");
            self.add(&ROPE, &key, why);
        }
        match (rotated, length) {
            (Some(n), _) if n % 2 != 0 => {
                self.add(&ROPE, &key, format!("{key} is {n}, which is odd: llama.cpp aborts"))
            }
            (Some(n), Some(length)) if n > length && (stated || !WITHOUT_HEADS.contains(&name)) => {
                self.add(&ROPE, &key, format!("{key} is {n}, over the head's length of {length}: llama.cpp aborts"));
            }
            _ => {}
        }
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

#[cfg(test)]
mod tests {
    use super::super::build::*;

    /// A llama of these pairs, with one tensor for each of `layers` layers.
    fn llama(layers: u64, pairs: &[Vec<u8>]) -> Vec<u8> {
        let tensors: Vec<_> =
            (0..layers).map(|i| tensor(format!("blk.{i}.attn_norm.weight"), &[8], 0, 32 * i)).collect();
        let sizes =
            [text("general.architecture", "llama"), u32("llama.context_length", 64), u32("llama.embedding_length", 64)];
        file(&[&sizes[..], pairs].concat(), &tensors, 32 * layers as usize)
    }

    fn with(pairs: &[Vec<u8>]) -> Vec<u8> {
        llama(2, &[&[u32("llama.block_count", 2)], pairs].concat())
    }

    /// A model of another architecture.
    fn of(architecture: &str, pairs: &[Vec<u8>]) -> Vec<u8> {
        model(&[&[text("general.architecture", architecture)], pairs].concat())
    }

    const HEADS: &str = "llama.attention.head_count";
    const GROUPS: &str = "llama.attention.head_count_kv";

    #[test]
    fn what_llama_cpp_aborts_on_is_refused() {
        let experts = |count, used| vec![u32("llama.expert_count", count), u32("llama.expert_used_count", used)];
        let groups = |count, used| {
            [experts(8, 2), vec![u32("llama.expert_group_count", count), u32("llama.expert_group_used_count", used)]]
                .concat()
        };
        let scaling = |kind: &str| with(&[text("llama.rope.scaling.type", kind)]);
        for (bytes, rule, why) in [
            (llama(0, &[u32("llama.block_count", 0)]), "gguf.layers", "is 0; llama.cpp has room for 1 to 512"),
            (llama(0, &[u32("llama.block_count", 513)]), "gguf.layers", "is 513"),
            (llama(0, &[u32("llama.block_count", u32::MAX)]), "gguf.layers", "is 4294967295"),
            (with(&[u32("llama.nextn_predict_layers", 3)]), "gguf.layers", "nextn_predict_layers is 3"),
            (with(&experts(1025, 2)), "gguf.experts", "1025 experts; llama.cpp has room for 1024"),
            (with(&experts(8, 9)), "gguf.experts", "9 experts are used, and there are 8"),
            (with(&experts(8, 0)), "gguf.experts", "none is used"),
            (with(&experts(0, 1)), "gguf.experts", "1 experts are used, and there are 0"),
            (
                with(&[u32("llama.expert_count", 8), u32s("llama.expert_used_count", &[2, 9])]),
                "gguf.experts",
                "9 experts are used",
            ),
            (with(&groups(8, 1)), "gguf.experts", "8 groups of 8 experts"),
            (with(&groups(3, 1)), "gguf.experts", "do not divide into 3 groups"),
            (with(&groups(4, 0)), "gguf.experts", "0 of 4 groups"),
            (with(&groups(4, 4)), "gguf.experts", "4 of 4 groups"),
            (with(&[u32("llama.expert_group_count", 1)]), "gguf.experts", "1 groups of experts, and no experts"),
            (scaling("moon"), "gguf.rope-scaling", "\"moon\""),
            (scaling(""), "gguf.rope-scaling", "\"\""),
            (scaling("line\0ar"), "gguf.rope-scaling", "\"line\""),
            (with(&[u32("llama.rope.dimension_count", 7)]), "gguf.rope-dimension", "odd"),
            (
                with(&[u32(HEADS, 4), u32("llama.rope.dimension_count", 18)]),
                "gguf.rope-dimension",
                "over the head's length of 16",
            ),
            (
                with(&[u32("llama.attention.key_length", 8), u32("llama.rope.dimension_count", 10)]),
                "gguf.rope-dimension",
                "length of 8",
            ),
            (
                of("qwen35", &[u32("qwen35.attention.key_length", 8), u32("qwen35.rope.dimension_count", 10)]),
                "gguf.rope-dimension",
                "length of 8",
            ),
            (with(&[u32("llama.pooling_type", 5)]), "gguf.enumeration", "pooling_type is 5"),
            (with(&[u32("llama.classifier.pooling_type", 5)]), "gguf.enumeration", "pooling_type is 5"),
            (with(&[u32("llama.expert_gating_func", 5)]), "gguf.enumeration", "expert_gating_func is 5"),
            (of("t5", &[u32("t5.attention.relative_buckets_count", 3)]), "gguf.zero", "relative_buckets_count is 3"),
            (with(&[u32("llama.decoder_block_count", 513)]), "gguf.layers", "decoder_block_count is 513"),
            (with(&[u32("llama.posnet.block_count", 3)]), "gguf.layers", "posnet.block_count is 3"),
            (with(&[u32("llama.convnext.block_count", 3)]), "gguf.layers", "convnext.block_count is 3"),
            (
                with(&[u32("llama.attention.key_length_mla", 16), u32("llama.rope.dimension_count", 16)]),
                "gguf.rope-dimension",
                "not below the key's length of 16",
            ),
            (
                file(&[text("general.architecture", "grovemoe")], &[tensor("blk.0.a", &[8], 0, 0)], 32),
                "gguf.experts",
                "grovemoe has no experts",
            ),
            (of("rwkv6", &[u32("rwkv6.wkv.head_size", 0)]), "gguf.zero", "wkv.head_size is 0"),
            (of("mamba2", &[u32("mamba2.ssm.time_step_rank", 0)]), "gguf.zero", "time_step_rank is 0"),
            (of("grovemoe", &[u32("grovemoe.experts_per_group", 0)]), "gguf.zero", "experts_per_group is 0"),
            (of("llama", &[u32("llama.embedding_length", 0)]), "gguf.zero-size", "embedding_length is 0"),
            (of("llama", &[u32("llama.context_length", 0)]), "gguf.zero-size", "context_length is 0"),
            (
                of("llama", &[u32("llama.embedding_length", 0), u32(HEADS, 4)]),
                "gguf.zero-size",
                "embedding_length is 0",
            ),
            (with(&[u32(HEADS, 0)]), "gguf.heads", "head_count is 0"),
            (with(&[u32(HEADS, 4), u32(GROUPS, 0)]), "gguf.heads", "head_count_kv is 0"),
            (with(&[u32(HEADS, 4), u32(GROUPS, 3)]), "gguf.heads", "4 attention heads for 3"),
            (with(&[u32(HEADS, 4), u32(GROUPS, 8)]), "gguf.heads", "4 attention heads for 8"),
            (with(&[i32s(HEADS, &[4, 4]), i32s(GROUPS, &[2, 3])]), "gguf.heads", "layer 1 has 4 attention heads for 3"),
            (with(&[u32(HEADS, 4), i32s(GROUPS, &[2, 3])]), "gguf.heads", "layer 1 has 4 attention heads for 3"),
            (with(&[i32s(HEADS, &[4, 5]), u32(GROUPS, 2)]), "gguf.heads", "layer 1 has 5 attention heads for 2"),
            (with(&[u32(HEADS, 65)]), "gguf.heads", "65, over the embedding's 64"),
            (of("clip", &[u32("clip.vision.patch_size", 0)]), "gguf.zero", "patch_size is 0"),
            (of("clip", &[u32("clip.audio.attention.head_count", 0)]), "gguf.zero", "head_count is 0"),
        ] {
            assert_found(why, &bytes, rule, why);
        }
        let kinds = ["none", "linear", "yarn", "longrope"].map(scaling);
        for bytes in kinds.into_iter().chain([
            llama(1, &[u32("llama.block_count", 1)]),
            llama(512, &[u32("llama.block_count", 512)]),
            with(&[u32("llama.nextn_predict_layers", 2)]),
            with(&[u32("llama.pooling_type", 4), u32("llama.expert_gating_func", 4)]),
            with(&[u32("llama.pooling_type", u32::MAX)]),
            of("t5", &[u32("t5.attention.relative_buckets_count", 4)]),
            with(&[u32("llama.decoder_block_count", 512), u32("llama.posnet.block_count", 2)]),
            with(&[u32("llama.attention.key_length_mla", 17), u32("llama.rope.dimension_count", 16)]),
            of("grovemoe", &[]),
            with(&experts(1024, 1024)),
            with(&experts(0, 0)),
            with(&groups(4, 3)),
            with(&groups(1, 0)),
            with(&groups(0, 0)),
            with(&[u32(HEADS, 4), u32(GROUPS, 2), u32("llama.rope.dimension_count", 16)]),
            with(&[u32(HEADS, 64), i32s(GROUPS, &[0, 64])]),
            with(&[i32s(HEADS, &[0, 4]), i32s(GROUPS, &[0, 2])]),
            with(&[i32s(HEADS, &[0, 0]), u32(GROUPS, 0)]),
            with(&[u32(HEADS, 65), u32("llama.attention.key_length", 8), u32("llama.attention.value_length", 8)]),
            of("mamba", &[u32("mamba.attention.head_count", 0)]),
            of("hunyuan-dense", &[u32("hunyuan-dense.expert_count", 1), u32("hunyuan-dense.expert_used_count", 0)]),
            of("llama4", &[u32("llama4.interleave_moe_layer_step", 0)]),
            // What `llama_model_save_to_file` writes for what the model has not.
            with(&[
                u32("llama.wkv.head_size", 0),
                u32("llama.ssm.time_step_rank", 0),
                u32("llama.ssm.group_count", 0),
                u32("llama.experts_per_group", 0),
                u32("llama.attention.relative_buckets_count", 0),
            ]),
            of("clip", &[u32("clip.vision.patch_size", 14), u32("clip.vision.image_size", 0)]),
        ]) {
            let findings = findings_of(&bytes);
            assert!(found(&findings, Severity::Warning).is_empty(), "{:?}", findings.list());
        }
    }

    #[test]
    fn a_key_of_another_type_than_it_is_read_as_is_refused() {
        for (pair, want) in [
            (u32("general.architecture", 1), "str"),
            (u32("general.type", 1), "str"),
            (u32("general.name", 1), "str"),
            (u32("general.description", 1), "str"),
            (u32("adapter.type", 1), "str"),
            (u32("adapter.lora.alpha", 1), "f32"),
            (text("imatrix.chunk_count", "1"), "u32"),
            (i32("imatrix.chunk_size", 1), "u32"),
            (u32("clip.has_vision_encoder", 1), "bool"),
            (u32("clip.has_audio_encoder", 1), "bool"),
            (u32("clip.use_gelu", 1), "bool"),
            (u32("clip.use_silu", 1), "bool"),
            (u32("clip.projector_type", 1), "str"),
            (u32("clip.vision.projector_type", 1), "str"),
            (i32("clip.vision.image_size", 1), "u32"),
            (u32("clip.vision.attention.layer_norm_epsilon", 1), "f32"),
        ] {
            assert_found(want, &model(&[pair]), "gguf.read-as", &format!("read it as {want}"));
        }
        for pair in [
            f32("adapter.lora.alpha", 1.0),
            u32("imatrix.chunk_count", 1),
            boolean("clip.use_gelu", true),
            text("clip.vision.projector_type", "mlp"),
            f32("clip.vision.attention.layer_norm_epsilon", 1.0),
            u32("clip.vision.other", 0),
        ] {
            assert_clean("right", &model(&[pair]), Severity::High);
        }
    }

    #[test]
    fn what_llama_cpp_refuses_itself_is_a_warning() {
        let tokens = strings("tokenizer.ggml.tokens", &["a", "b"]);
        let rows = |rows| {
            file(
                &[text("general.architecture", "llama"), tokens.clone()],
                &[tensor("output.weight", &[8, rows], 0, 0)],
                32 * rows as usize,
            )
        };
        for (bytes, rule, why) in [
            (model(&[]), "gguf.architecture", "missing"),
            (of("moon", &[]), "gguf.architecture", "\"moon\""),
            (llama(1, &[]), "gguf.hyperparameter-missing", "block_count is missing"),
            (with(&[i32("llama.expert_count", 0)]), "gguf.hyperparameter-type", "type i32, not u32"),
            (with(&[text("llama.expert_count", "0")]), "gguf.hyperparameter-type", "type str, not u32"),
            (with(&[f32s(HEADS, &[1.0, 1.0])]), "gguf.hyperparameter-type", "array of f32"),
            (with(&[u32("llama.rope.scaling.type", 1)]), "gguf.hyperparameter-type", "not a string"),
            (with(&[i32s(HEADS, &[4])]), "gguf.array-length", "1 values for 2 layers"),
            (with(&[i32s(HEADS, &[4, 4, 4])]), "gguf.array-length", "3 values for 2 layers"),
            (with(&[u32(HEADS, 7)]), "gguf.heads-embedding", "7, which does not divide"),
            (llama(3, &[u32("llama.block_count", 2)]), "gguf.layers-present", "\"blk.2.attn_norm.weight\""),
            (llama(4, &[u32("llama.block_count", 2)]), "gguf.layers-present", "\"blk.2.attn_norm.weight\""),
            (llama(2, &[u32("llama.block_count", 3)]), "gguf.layers-present", "no tensor is of layer 2"),
            (rows(1), "gguf.embedding-rows", "1 rows for 2 tokens"),
            (rows(3), "gguf.embedding-rows", "3 rows for 2 tokens"),
        ] {
            let findings = findings_of(&bytes);
            assert!(
                findings.list().iter().any(|f| f.rule == rule && f.message.contains(why)),
                "{why}: {:?}",
                findings.list()
            );
            assert_clean(why, &bytes, Severity::High);
        }
        for (bytes, rule) in [
            (rows(2), "gguf.embedding-rows"),
            (model(&[u16("split.no", 1), u16("split.count", 2)]), "gguf.architecture"),
            (of("llama", &[]), "gguf.hyperparameter-missing"),
            (
                llama(2, &[u32("llama.block_count", 3), u16("split.no", 0), u16("split.count", 2)]),
                "gguf.layers-present",
            ),
            (of("imatrix", &[]), "gguf.architecture"),
            (of("controlvector", &[]), "gguf.architecture"),
            (model(&[text("general.type", "imatrix")]), "gguf.architecture"),
        ] {
            assert!(!findings_of(&bytes).has(rule), "{rule}");
        }
        // The first of several, and one alone, say what they are.
        let part = |no, count| vec![u16("split.no", no), u16("split.count", count)];
        assert!(findings_of(&model(&part(0, 2))).has("gguf.architecture"));
        let alone = llama(2, &[vec![u32("llama.block_count", 3)], part(0, 1)].concat());
        assert!(findings_of(&alone).has("gguf.layers-present"));
        // A length of zero is another rule's; it bounds nothing.
        for key in ["qwen35.attention.key_length", "qwen35.attention.key_length_mla"] {
            let zero = of("qwen35", &[u32(key, 0), u32("qwen35.rope.dimension_count", 10)]);
            assert!(!findings_of(&zero).has("gguf.rope-dimension"), "{key}");
        }
    }
}
