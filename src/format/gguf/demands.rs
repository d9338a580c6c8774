//! What single architectures of llama.cpp demand, and what ggml can compute with.
//!
//! Owns: asserts in llama.cpp's files of single architectures (src/models/*.cpp) that no check of it goes before, and the types of
//! tensors that ggml's kernels take (ggml-cpu: binary-ops.cpp, `type_traits_cpu`). Promises: all of it is found by running
//! changed models in llama.cpp: each rule's file aborts or crashes there. Leaves out: shapes, which llama.cpp checks itself.
//!
//! ```text
//! y = norm(x, eps) * w       eps >= 0, w F32        q = W x     W of a type with a dot product
//! ```

use super::{GgufHeader, TensorInfo, Value, ValueType};
use crate::format::finding::{Findings, Place, Rule, rules};
use crate::name::RelPath;

rules! {
    EPSILON "gguf.epsilon" High "the small number that a norm adds is negative or none: llama.cpp aborts"
    WEIGHT_TYPE "gguf.weight-type" High "a tensor is of a type that engines cannot compute with: llama.cpp aborts, or jumps to nowhere"
    DEMAND "gguf.demand" High "a hyperparameter is not what its architecture demands: llama.cpp aborts"
    HEAD_LENGTH "gguf.head-length" High "a head's keys, values and rotated dimensions are not as long as each other, which its architecture demands: llama.cpp aborts"
    SLIDING_WINDOW "gguf.sliding-window" High "the attention's window is larger than any context: llama.cpp makes room for all of it"
}

/// `attention.sliding_window`: the longest contexts of today are 10 million tokens.
const MAX_WINDOW: u64 = 1 << 24;
/// Types without a dot product: mul_mat calls a null pointer.
const NO_PRODUCT: [&str; 7] = ["F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"];
/// Of many tensors with one defect so many are named.
const NAMED: usize = 8;

/// Those that assert that a head's keys are as long as its values (`n_embd_head == hparams.n_embd_head_k()`), or multiply them
/// as if they were.
#[rustfmt::skip]
const ONE_LENGTH: &[&str] = &[
    "afmoe", "apertus", "arcee", "arctic", "baichuan", "bailingmoe2", "bert", "bitnet", "bloom", "chameleon", "chatglm",
    "codeshell", "cogvlm", "cohere2", "cohere2moe", "command-r", "dbrx", "deepseek", "dots1", "dream", "ernie4_5",
    "ernie4_5-moe", "eurobert", "exaone", "exaone-moe", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "glm4", "glm4moe", "gpt2", "gptneox", "granite", "granite_swa",
    "graniteswitch", "grok", "grovemoe", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais", "jais2", "laguna",
    "lfm2", "lfm2moe", "llada", "llada-moe", "llama", "llama4", "maincoder", "maple", "mellum", "minimax-m2", "minimax-m3", "mistral3",
    "modern-bert", "mpt", "muse-glimmer", "nanbeige", "nemotron", "neo-bert", "olmo", "olmo2", "olmoe", "openelm",
    "orion", "paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "pockettts", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3",
    "qwen3moe", "qwen3vl", "qwen3vlmoe", "refact", "rnd1", "seed_oss", "smallthinker", "smollm3", "spark2_5",
    "stablelm", "starcoder", "starcoder2", "t5", "xverse",
];
/// Those that assert that all of a head is rotated (`n_embd_head == n_rot`).
#[rustfmt::skip]
const ALL_ROTATED: &[&str] = &[
    "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "dbrx", "deepseek", "dots1", "dream",
    "ernie4_5", "ernie4_5-moe", "exaone", "granite", "graniteswitch", "grok", "grovemoe", "hunyuan-moe", "hunyuan_vl",
    "hy_v3", "internlm2", "jais2", "llada", "llada-moe", "llama4", "maincoder", "mistral3", "olmo", "olmoe", "orion",
    "paddleocr", "pangu-embedded", "plamo", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl",
    "qwen3vlmoe", "rnd1", "seed_oss", "smallthinker", "smollm3", "starcoder2", "talkie", "xverse",
];

/// Those that make of the embedding as many queries, and then take them for the heads' without a look.
#[rustfmt::skip]
const FILLED: &[&str] = &[
    "arctic", "baichuan", "bitnet", "bloom", "chameleon", "codeshell", "command-r", "dbrx", "deepseek", "dream",
    "falcon", "gpt2", "gptneox", "internlm2", "jais", "llada-moe", "mpt", "nemotron", "olmo", "olmoe", "orion",
    "phi2", "phi3", "plamo", "qwen2", "qwen2moe", "qwen2vl", "stablelm", "starcoder", "starcoder2", "xverse",
];

/// What a stated number must be.
#[derive(Clone, Copy)]
enum Must {
    Be(u64),
    BeAtLeast(u64),
    BeAtMost(u64),
    /// Less than the number under this key.
    BeBelow(&'static str),
    /// A multiple of, at least 1 times, the number under this key.
    Divide(&'static str),
    /// So many times the number under this key.
    BeTimes(u64, &'static str),
}

/// Architectures, a key, what must hold.
const DEMANDS: &[(&[&str], &str, Must)] = &[
    (&["hrm_text"], "hrm.layers_per_stack", Must::BeAtLeast(1)),
    (&["hrm_text"], "hrm.h_cycles", Must::BeAtLeast(1)),
    (&["hrm_text"], "hrm.l_cycles", Must::BeAtLeast(1)),
    (&["minimax-m3"], "attention.indexer.block_size", Must::BeAtLeast(1)),
    (&["minimax-m3"], "attention.indexer.block_size", Must::BeAtMost(MAX_WINDOW)),
    (&["qwen3vl", "qwen3vlmoe"], "n_deepstack_layers", Must::BeBelow("block_count")),
    (&["deepseek4"], "attention.output_group_count", Must::BeAtLeast(1)),
    (&["lfm2", "lfm2moe"], "shortconv.l_cache", Must::BeAtLeast(2)),
    (&["nanbeige"], "num_loops", Must::BeAtLeast(1)),
    (&["rwkv6", "rwkv7"], "token_shift_count", Must::Be(2)),
    (&["plamo2"], "ssm.group_count", Must::Be(0)),
    (&["granitehybrid", "jamba"], "ssm.inner_size", Must::BeTimes(2, "embedding_length")),
    (
        &["mamba2", "falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe", "plamo2"],
        "ssm.time_step_rank",
        Must::Divide("ssm.inner_size"),
    ),
    (
        &["mamba2", "falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe"],
        "ssm.group_count",
        Must::Divide("ssm.inner_size"),
    ),
    (&["qwen35", "qwen35moe", "qwen3next", "qwen4exp"], "ssm.group_count", Must::Divide("ssm.time_step_rank")),
];

/// Checks a file of the architecture `name`, which llama.cpp knows, and which is a model by itself.
pub(super) fn check(path: &RelPath, header: &GgufHeader, name: &str, findings: &mut Findings) {
    let mut check = Check { path, header, name, findings };
    check.epsilons();
    check.window();
    check.demands();
    check.stack();
    check.heads();
    check.temperature();
    check.lengths();
    check.types();
}

struct Check<'a> {
    path: &'a RelPath,
    header: &'a GgufHeader,
    name: &'a str,
    findings: &'a mut Findings,
}

impl Check<'_> {
    fn add(&mut self, rule: &'static Rule, part: &str, why: String) {
        self.findings.add(self.path, rule, Place::part(part), why);
    }

    fn key(&self, tail: &str) -> String {
        format!("{}.{tail}", self.name)
    }

    fn number(&self, tail: &str) -> Option<u64> {
        self.header.number(&self.key(tail))
    }

    /// ggml-cpu/ops.cpp: `GGML_ASSERT(eps >= 0.0f)`
    fn epsilons(&mut self) {
        for tail in ["layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"] {
            let key = self.key(&format!("attention.{tail}"));
            if let Some(Value::Float(ValueType::F32, eps)) = self.header.value(&key)
                && (eps.is_nan() || *eps < 0.0)
            {
                self.add(&EPSILON, &key, format!("{key} is {eps}, not 0 or more: llama.cpp aborts"));
            }
        }
    }

    /// llama-kv-cache.cpp reserves a list as long as the window.
    fn window(&mut self) {
        if let Some(window) = self.number("attention.sliding_window").filter(|n| *n > MAX_WINDOW) {
            let key = self.key("attention.sliding_window");
            let why = format!("{key} is {window}, over {MAX_WINDOW}: llama.cpp makes room for all of it");
            self.add(&SLIDING_WINDOW, &key, why);
        }
    }

    fn demands(&mut self) {
        for (names, tail, must) in DEMANDS {
            if !names.contains(&self.name) {
                continue;
            }
            let Some(n) = self.number(tail) else { continue };
            let why = match *must {
                Must::Be(want) if n != want => format!("not {want}"),
                Must::BeAtLeast(least) if n < least => format!("not {least} or more"),
                Must::BeAtMost(most) if n > most => format!("over {most}"),
                Must::BeBelow(other) => match self.number(other) {
                    Some(most) if n >= most => format!("not below {other}, {most}"),
                    _ => continue,
                },
                Must::Divide(other) => match self.number(other) {
                    Some(whole) if n > 0 && !whole.is_multiple_of(n) => {
                        format!("which does not divide {other}, {whole}")
                    }
                    _ => continue,
                },
                Must::BeTimes(times, other) => match self.number(other) {
                    Some(one) if one.checked_mul(times) != Some(n) => format!("not {times} times {other}, {one}"),
                    _ => continue,
                },
                Must::Be(_) | Must::BeAtLeast(_) | Must::BeAtMost(_) => continue,
            };
            let key = self.key(tail);
            self.add(&DEMAND, &key, format!("{key} is {n}, {why}: llama.cpp aborts"));
        }
    }

    /// Their files divide by the heads of a model that has layers, also when they are not said.
    fn heads(&mut self) {
        let divides = ["lfm2", "lfm2moe", "olmo2", "phimoe"].contains(&self.name);
        let key = self.key("attention.head_count");
        let layers = self.header.tensors.iter().any(|tensor| tensor.name.starts_with("blk."));
        if divides && layers && self.header.value(&key).is_none() {
            self.add(&DEMAND, &key, format!("{key} is missing, and llama.cpp divides by it"));
        }
    }

    /// llama-graph.cpp: `GGML_ASSERT(n_attn_temp_floor_scale != 0)`
    fn temperature(&mut self) {
        let scaled = matches!(self.header.value(&self.key("attention.temperature_scale")), Some(Value::Float(_, n)) if *n != 0.0);
        let length = self.number("attention.temperature_length").unwrap_or(0);
        if scaled && length == 0 && ["deepseek2", "mistral4"].contains(&self.name) {
            let key = self.key("attention.temperature_length");
            let why = format!("{key} is 0, and the temperature is scaled by it: llama.cpp aborts");
            self.add(&DEMAND, &key, why);
        }
    }

    /// hrm-text.cpp: `GGML_ASSERT(hparams.n_layer() == n_slot)`
    fn stack(&mut self) {
        let factors = ["hrm.layers_per_stack", "hrm.h_cycles", "hrm.l_cycles"].map(|tail| self.number(tail));
        let ([Some(stack), Some(high), Some(low)], Some(layers)) = (factors, self.number("block_count")) else {
            return;
        };
        let slots = low.checked_add(1).and_then(|low| stack.checked_mul(high)?.checked_mul(low));
        if self.name == "hrm_text" && slots != Some(layers) {
            let key = self.key("block_count");
            let why = format!("{key} is {layers}, not {stack} times {high} times {low} + 1: llama.cpp aborts");
            self.add(&DEMAND, &key, why);
        }
    }

    fn lengths(&mut self) {
        // One number for all layers; an array may hold 0 heads for the first, and then no head has a length.
        let heads = self.number("attention.head_count").filter(|n| *n > 0);
        let even = self.number("embedding_length").zip(heads).map(|(n, heads)| n / heads);
        let Some(even) = even else { return };
        let keys = self.number("attention.key_length").unwrap_or(even);
        let values = self.number("attention.value_length").unwrap_or(even);
        let key = self.key("attention.key_length");
        let one_length = ONE_LENGTH.contains(&self.name) && keys != values;
        if one_length {
            let why =
                format!("{key} is {keys}, and values are {values} long: llama.cpp aborts on a {} like that", self.name);
            self.add(&HEAD_LENGTH, &key, why);
        }
        if let Some(rotated) = self.number("rope.dimension_count")
            && ALL_ROTATED.contains(&self.name)
            && rotated != keys
        {
            let key = self.key("rope.dimension_count");
            let why = format!("{key} is {rotated} of a head's {keys}: llama.cpp aborts on a {} like that", self.name);
            self.add(&HEAD_LENGTH, &key, why);
        }
        let (heads, embedding) = (heads.unwrap_or(0), self.number("embedding_length").unwrap_or(0));
        if FILLED.contains(&self.name) && heads.checked_mul(keys) != Some(embedding) {
            let why = format!(
                "{heads} heads of {keys} are not the embedding's {embedding}, as a {}'s must be: llama.cpp aborts",
                self.name
            );
            self.add(&HEAD_LENGTH, &key, why);
        }
        // Of layers with a sliding window, whose heads may have other lengths.
        let keys = self.number("attention.key_length_swa").unwrap_or(keys);
        let values = self.number("attention.value_length_swa").unwrap_or(values);
        // Said once is enough.
        if ONE_LENGTH.contains(&self.name) && keys != values && !one_length {
            let key = self.key("attention.key_length_swa");
            let why =
                format!("{key} is {keys}, and values are {values} long: llama.cpp aborts on a {} like that", self.name);
            self.add(&HEAD_LENGTH, &key, why);
        }
        let rotated = self.number("rope.dimension_count_swa");
        if let Some(rotated) = rotated.filter(|n| n % 2 != 0 || *n > keys) {
            let key = self.key("rope.dimension_count_swa");
            self.add(
                &HEAD_LENGTH,
                &key,
                format!("{key} is {rotated}, which is odd or over a head's {keys}: llama.cpp aborts"),
            );
        }
    }

    /// llama.cpp's converter keeps in F32 what is added or multiplied element by element.
    fn types(&mut self) {
        let mut named = 0;
        for tensor in &self.header.tensors {
            let why = if by_element(tensor) && tensor.kind.name != "F32" {
                "not F32, and engines add or multiply by it element by element: llama.cpp aborts"
            } else if is_matrix(tensor) && NO_PRODUCT.contains(&tensor.kind.name) {
                "which has no product: llama.cpp jumps to nowhere"
            } else {
                continue;
            };
            let why = format!("the tensor {:?} is of type {}, {why}", tensor.name, tensor.kind.name);
            self.add(&WEIGHT_TYPE, &tensor.name, why);
            named += 1;
            if named == NAMED {
                break;
            }
        }
    }
}

/// Whether it belongs to a layer or stands around them.
fn known(tensor: &TensorInfo) -> bool {
    ["blk.", "enc.blk.", "dec.blk.", "output", "token_embd"].iter().any(|start| tensor.name.starts_with(start))
}

fn by_element(tensor: &TensorInfo) -> bool {
    known(tensor)
        && (tensor.name.ends_with("_norm.weight")
            || tensor.name.ends_with(".bias")
            || tensor.name.ends_with(".scale")
            || tensor.name.ends_with(".input_scale")
            || tensor.name.ends_with(".ssm_conv1d.weight"))
}

fn is_matrix(tensor: &TensorInfo) -> bool {
    // A table of numbers, which nothing is multiplied with.
    let table = tensor.name.ends_with("_tid2eid.weight");
    known(tensor) && !table && tensor.name.ends_with(".weight") && tensor.dimensions.get(1).is_some_and(|n| *n > 1)
}

#[cfg(test)]
mod tests {
    use super::super::build::*;
    use super::{ALL_ROTATED, DEMANDS, FILLED, NAMED, ONE_LENGTH};
    use crate::format::finding::Severity;

    /// A model of this architecture; the keys go under its name.
    fn of(name: &str, numbers: &[(&str, u32)]) -> Vec<u8> {
        let mut pairs = vec![text("general.architecture", name)];
        pairs.extend(numbers.iter().map(|(tail, n)| u32(&format!("{name}.{tail}"), *n)));
        model(&pairs)
    }

    #[test]
    fn names_are_those_of_llama_cpp() {
        let names = DEMANDS.iter().flat_map(|d| d.0).chain(ONE_LENGTH).chain(ALL_ROTATED).chain(FILLED);
        names.for_each(|name| assert!(super::super::known::ARCHITECTURES.contains(name), "{name}"));
    }

    #[test]
    fn a_norm_adds_no_less_than_nothing() {
        for tail in ["layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"] {
            let key = format!("llama.attention.{tail}");
            let with = |eps| model(&[text("general.architecture", "llama"), f32(&key, eps)]);
            for eps in [-1e-30, f32::NAN, f32::NEG_INFINITY] {
                assert_found(tail, &with(eps), "gguf.epsilon", &format!("{key} is {}", f64::from(eps)));
            }
            for eps in [0.0, -0.0, 1e-5] {
                assert_clean(tail, &with(eps), Severity::Warning);
            }
        }
    }

    #[test]
    fn a_window_is_no_larger_than_any_context() {
        let with = |n| of("gemma2", &[("attention.sliding_window", n)]);
        assert_clean("the largest", &with(1 << 24), Severity::Warning);
        assert_found("over", &with((1 << 24) + 1), "gguf.sliding-window", "sliding_window is 16777217, over 16777216");
    }

    #[test]
    fn single_architectures_have_demands() {
        for (name, numbers, why) in [
            ("hrm_text", &[("hrm.layers_per_stack", 0)][..], "layers_per_stack is 0, not 1 or more"),
            ("hrm_text", &[("hrm.h_cycles", 0)], "not 1 or more"),
            ("hrm_text", &[("hrm.l_cycles", 0)], "not 1 or more"),
            (
                "hrm_text",
                &[("hrm.layers_per_stack", 2), ("hrm.h_cycles", 3), ("hrm.l_cycles", 4), ("block_count", 29)],
                "block_count is 29, not 2 times 3 times 4 + 1",
            ),
            ("minimax-m3", &[("attention.indexer.block_size", 0)], "not 1 or more"),
            ("minimax-m3", &[("attention.indexer.block_size", (1 << 24) + 1)], "over 16777216"),
            ("qwen3vl", &[("n_deepstack_layers", 2), ("block_count", 2)], "is 2, not below block_count, 2"),
            ("deepseek4", &[("attention.output_group_count", 0)], "not 1 or more"),
            ("lfm2", &[("shortconv.l_cache", 1)], "not 2 or more"),
            ("nanbeige", &[("num_loops", 0)], "not 1 or more"),
            ("rwkv6", &[("token_shift_count", 1)], "is 1, not 2"),
            ("rwkv7", &[("token_shift_count", 3)], "is 3, not 2"),
            ("plamo2", &[("ssm.group_count", 1)], "is 1, not 0"),
            ("jamba", &[("ssm.inner_size", 127), ("embedding_length", 64)], "not 2 times embedding_length, 64"),
            ("mamba2", &[("ssm.time_step_rank", 3), ("ssm.inner_size", 64)], "does not divide ssm.inner_size, 64"),
            ("mamba2", &[("ssm.group_count", 3), ("ssm.inner_size", 64)], "does not divide ssm.inner_size, 64"),
            ("qwen35", &[("ssm.group_count", 3), ("ssm.time_step_rank", 4)], "does not divide ssm.time_step_rank, 4"),
        ] {
            assert_found(why, &of(name, numbers), "gguf.demand", why);
            // Of another architecture the same says nothing.
            assert!(!findings_of(&of("bloom", numbers)).has("gguf.demand"), "{name}");
        }
        for (name, numbers) in [
            ("hrm_text", &[("hrm.layers_per_stack", 1), ("hrm.h_cycles", 1), ("hrm.l_cycles", 2)][..]),
            ("hrm_text", &[("hrm.layers_per_stack", 2), ("hrm.h_cycles", 3), ("hrm.l_cycles", 4), ("block_count", 30)]),
            ("lfm2moe", &[("shortconv.l_cache", 2)]),
            ("minimax-m3", &[("attention.indexer.block_size", 1 << 24)]),
            ("qwen3vlmoe", &[("n_deepstack_layers", 1), ("block_count", 2)]),
            ("rwkv6", &[("token_shift_count", 2)]),
            ("plamo2", &[("ssm.group_count", 0)]),
            ("jamba", &[("ssm.inner_size", 128), ("embedding_length", 64)]),
            ("jamba", &[("ssm.inner_size", 128)]),
            ("mamba2", &[("ssm.time_step_rank", 4), ("ssm.group_count", 1), ("ssm.inner_size", 64)]),
            ("mamba2", &[("ssm.time_step_rank", 3)]),
        ] {
            assert_clean(name, &of(name, numbers), Severity::Warning);
        }
    }

    #[test]
    fn heads_that_are_divided_by_are_said() {
        let with = |name: &str, tensor_name, more: &[Vec<u8>]| {
            file(&[&[text("general.architecture", name)], more].concat(), &[tensor(tensor_name, &[8, 1], 0, 0)], 32)
        };
        for name in ["lfm2", "lfm2moe", "olmo2", "phimoe"] {
            let why = "head_count is missing";
            assert_found(name, &with(name, "blk.0.x", &[]), "gguf.demand", why);
            assert_clean(name, &with(name, "x", &[]), Severity::High);
            let said = u32(&format!("{name}.attention.head_count"), 1);
            assert_clean(name, &with(name, "blk.0.x", &[said]), Severity::High);
        }
        assert_clean("llama", &with("llama", "blk.0.x", &[]), Severity::High);
    }

    #[test]
    fn a_temperature_is_scaled_over_a_length() {
        let with = |name: &str, scale, length| {
            model(&[
                text("general.architecture", name),
                f32(&format!("{name}.attention.temperature_scale"), scale),
                u32(&format!("{name}.attention.temperature_length"), length),
            ])
        };
        for name in ["deepseek2", "mistral4"] {
            assert_found(name, &with(name, 0.1, 0), "gguf.demand", "temperature_length is 0");
            assert_clean(name, &with(name, 0.1, 1), Severity::Warning);
            assert_clean(name, &with(name, 0.0, 0), Severity::Warning);
        }
        assert_clean("mistral3", &with("mistral3", 0.1, 0), Severity::Warning);
    }

    #[test]
    fn a_heads_parts_are_of_one_length() {
        let heads = [("embedding_length", 64), ("attention.head_count", 4)];
        let with = |name, more: &[(&str, u32)]| of(name, &[&heads[..], more].concat());
        for (name, more, why) in [
            ("cohere2", &[("attention.value_length", 8)][..], "key_length is 16, and values are 8 long"),
            ("cohere2", &[("attention.key_length", 8)], "key_length is 8, and values are 16 long"),
            ("qwen3", &[("rope.dimension_count", 8)], "dimension_count is 8 of a head's 16"),
            (
                "phi2",
                &[("attention.key_length", 8), ("attention.value_length", 8)],
                "4 heads of 8 are not the embedding's 64",
            ),
            ("laguna", &[("attention.key_length_swa", 8)], "key_length_swa is 8, and values are 16 long"),
            ("exaone-moe", &[("attention.value_length_swa", 8)], "key_length_swa is 16, and values are 8 long"),
            ("qwen2", &[("rope.dimension_count_swa", 18)], "odd or over a head's 16"),
            ("qwen2", &[("rope.dimension_count_swa", 7)], "dimension_count_swa is 7"),
            ("gemma4", &[("rope.dimension_count_swa", 10), ("attention.key_length_swa", 8)], "over a head's 8"),
        ] {
            assert_found(why, &with(name, more), "gguf.head-length", why);
        }
        for (name, more) in [
            ("qwen3", &[("attention.key_length", 8), ("attention.value_length", 8), ("rope.dimension_count", 8)][..]),
            ("falcon", &[("attention.key_length", 16), ("attention.value_length", 16)]),
            ("deepseek2", &[("attention.key_length", 24)]),
            ("phi2", &[("rope.dimension_count", 8)]),
            ("qwen2", &[("rope.dimension_count", 16), ("rope.dimension_count_swa", 16)]),
            ("gemma4", &[("rope.dimension_count_swa", 18), ("attention.key_length_swa", 18)]),
        ] {
            assert_clean(name, &with(name, more), Severity::High);
        }
        // No heads in the first layer: no length.
        let none = of("falcon", &[("embedding_length", 64), ("attention.key_length", 8)]);
        assert_clean("no heads", &none, Severity::High);
    }

    /// A model of one tensor.
    fn one(architecture: &str, name: &str, ne: &[u64], kind: u32, size: usize) -> Vec<u8> {
        file(&[text("general.architecture", architecture)], &[tensor(name, ne, kind, 0)], size)
    }

    #[test]
    fn tensors_are_of_types_to_compute_with() {
        for (name, ne, kind, size, why) in [
            ("blk.0.attn_norm.weight", &[16][..], 1, 32, "type F16, not F32"),
            ("output_norm.weight", &[16], 30, 32, "type BF16, not F32"),
            ("blk.0.attn_q.bias", &[16], 28, 128, "type F64, not F32"),
            ("enc.blk.0.attn_norm.weight", &[32], 8, 34, "type Q8_0, not F32"),
            ("blk.0.attn_q.scale", &[1], 1, 2, "type F16, not F32"),
            ("blk.0.attn_q.input_scale", &[1], 1, 2, "type F16, not F32"),
            ("blk.0.ssm_conv1d.weight", &[4, 4], 1, 32, "type F16, not F32"),
            ("blk.0.attn_q.weight", &[4, 2], 28, 64, "type F64, which has no product"),
            ("token_embd.weight", &[8, 4], 24, 32, "type I8"),
            ("blk.0.attn_q.weight", &[8, 4], 25, 64, "type I16"),
            ("output.weight", &[8, 4], 26, 128, "type I32"),
            ("dec.blk.0.attn_q.weight", &[8, 2], 27, 128, "type I64"),
            ("blk.0.attn_q.weight", &[32, 2], 9, 72, "type Q8_1"),
            ("blk.0.attn_q.weight", &[256, 2], 15, 584, "type Q8_K"),
        ] {
            assert_found(why, &one("llama", name, ne, kind, size), "gguf.weight-type", why);
            assert!(!findings_of(&one("moon", name, ne, kind, size)).has("gguf.weight-type"), "{name}");
        }
        for (name, ne, kind, size) in [
            ("blk.0.attn_norm.weight", &[16][..], 0, 64),
            ("blk.0.attn_q.weight", &[16, 2], 1, 64),
            ("blk.0.attn_q.weight", &[32, 2], 8, 68),
            ("blk.0.x_f64", &[4, 2], 28, 64),
            ("blk.0.ffn_gate_tid2eid.weight", &[16, 4], 26, 256),
            ("blk.0.x.weight", &[8, 1], 26, 32),
            ("else.weight", &[4, 2], 28, 64),
        ] {
            assert!(!findings_of(&one("llama", name, ne, kind, size)).has("gguf.weight-type"), "{name}");
        }
        let many: Vec<Vec<u8>> =
            (0..NAMED as u64 + 2).map(|i| tensor(format!("blk.{i}.attn_q.bias"), &[16], 1, 32 * i)).collect();
        let findings = findings_of(&file(&[text("general.architecture", "llama")], &many, 32 * many.len()));
        assert_eq!(findings.list().iter().filter(|f| f.rule == "gguf.weight-type").count(), NAMED);
    }
}
