//! Tests of companions: each rule fires on what it is for, and on nothing that real models hold.

use super::*;
use crate::format::description::Adapter;
use crate::format::finding::Rule;

fn look(name: &str, bytes: &[u8]) -> (Description, Findings) {
    let mut findings = Findings::new();
    let about = inspect(&name.parse().expect("a path"), &bytes, &mut findings).expect("reads");
    (about, findings)
}

fn rules(name: &str, bytes: &[u8]) -> Vec<&'static str> {
    look(name, bytes).1.list().iter().map(|f| f.rule).collect()
}

/// Exactly these findings, of which the first says these words.
fn assert_only(name: &str, bytes: impl AsRef<[u8]>, rule: &Rule, words: &str) {
    let bytes = bytes.as_ref();
    let (_, findings) = look(name, bytes);
    let shown = format!("{name}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
    let found: Vec<&str> = findings.list().iter().map(|f| f.rule).collect();
    assert_eq!(found, [rule.id], "{shown}: {:?}", findings.list());
    let message = &findings.list()[0].message;
    assert!(message.contains(words), "{shown}: {message:?} should say {words:?}");
}

/// A file and no finding, by itself and through the one door.
fn assert_accepted(name: &str, bytes: impl AsRef<[u8]>) {
    assert_sound(name, bytes.as_ref());
    let mut findings = Findings::new();
    let path = name.parse().expect("a path");
    let about = crate::format::inspect(&path, &bytes.as_ref(), &mut findings).expect("reads");
    assert_eq!(about.kind, Kind::Companion, "{name}");
    assert_eq!(findings.list(), [], "{name}");
}

/// A file and no finding.
fn assert_sound(name: &str, bytes: impl AsRef<[u8]>) {
    let (_, findings) = look(name, bytes.as_ref());
    assert_eq!(findings.list(), [], "{name}: {}", String::from_utf8_lossy(bytes.as_ref()));
}

#[test]
fn ordinary_companions_have_no_findings() {
    for (name, text) in [
        (
            "config.json",
            r#"{"architectures":["LlamaForCausalLM"],"hidden_act":"silu","rope_scaling":null,"torch_dtype":"bfloat16",
            "_attn_implementation":"flash_attention_2","attn_implementation":{"text_config":"sdpa"},"rms_norm_eps":1e-05,"trust_remote_code":false,
            "activation_function":"gelu_new","_name_or_path":"meta-llama/Llama-3.1-8B","auto_map":{},"custom_pipelines":{},
            "quantization_config":{"quant_method":"awq","modules_to_not_convert":["lm_head"],"bits":4},"use_kernels":false}"#,
        ),
        (
            "generation_config.json",
            r#"{"bos_token_id":1,"temperature":0.6,"custom_generate":null,"_from_model_config":true}"#,
        ),
        (
            "tokenizer_config.json",
            r#"{"tokenizer_class":"PreTrainedTokenizerFast","model_max_length":1000000000000000019884624838656,
            "added_tokens_decoder":{"0":{"content":"<s>","special":true}},"vocab_file":"tokenizer.model","auto_map":{"AutoTokenizer":[null,null]}}"#,
        ),
        (
            "tokenizer.json",
            r#"{"model":{"vocab":{"auto_map":1,"../":2,"http://":3,"py/object":4,"trust_remote_code":0,".py":5},"merges":[["http","://x.y"],["a","/../b.py"]]}}"#,
        ),
        ("vocab.json", r#"{"_target_":1,"Lambda":2}"#),
        ("config.json", r#"{"allow_pickle":false,"allow_dangerous_deserialization":0,"path":"../x"}"#),
        ("model_index.json", r#"{"_note":["any library","any.class"]}"#),
        ("modules.json", r#"[{"idx":0,"name":"../0","path":"0","type":"sentence_transformers.models.Transformer"}]"#),
        ("special_tokens_map.json", r#"{"bos_token":{"content":"<s>","lstrip":false}}"#),
        ("preprocessor_config.json", r#"{"image_processor_type":"CLIPImageProcessor","size":{"shortest_edge":224}}"#),
        ("processor_config.json", r#"{"processor_class":"LlavaProcessor","patch_size":14}"#),
        (
            "model_index.json",
            r#"{"_class_name":"StableDiffusionPipeline","_diffusers_version":"0.6.0","safety_checker":["stable_diffusion",
            "StableDiffusionSafetyChecker"],"unet":["diffusers","UNet2DConditionModel"],"text_encoder":["transformers","CLIPTextModel"],
            "image_encoder":[null,null],"requires_safety_checker":true,"prior":["kandinsky","X"],"text_encoder_2":["kolors","ChatGLMModel"],"movq":["onnxruntime.training","Y_1"]}"#,
        ),
        (
            "modules.json",
            r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
            {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}]"#,
        ),
        ("2_Dense/config.json", r#"{"in_features":768,"activation_function":"torch.nn.modules.activation.Tanh"}"#),
        (
            "router_config.json",
            r#"{"types":{"a_0":"sentence_transformers.models.StaticEmbedding"},"structure":{"query":["a_0"]}}"#,
        ),
        ("README.md", "---\nlicense: mit\n---\n<div align=\"center\">\n# A model: é\n"),
        ("README.md", "<!DOCTYPE html><html></html>"),
        ("merges.txt", "#version: 0.2\nĠ t\nh e\n"),
        ("LICENSE", "Copyright"),
        ("LICENSE-MODEL", "Copyright"),
        ("MODEL_LICENSE", "Copyright"),
        ("THIRD_PARTY_NOTICE", "Copyright"),
        ("hyperparams.yaml", "a: \"100% !\"\nb: !!float 3\nc: \"C:\\\\x5 \\u00e9\"\n"),
        ("Notice", "words"),
        ("tokenizer.model", "\n\u{b}\n\u{5}<unk>"),
        ("original/tokenizer.model", "IQ== 0\nIg== 1\n"),
        ("config.yaml", "model:\n  target: x\n  trust_remote_code: false\n  layers: !!int 3\n"),
        ("hyperparams.yaml", "x: !new:speechbrain.nnet.RNN.LSTM\ny: !name:torch.nn.Linear\n"),
        ("hyperparams.yaml", "x: !a%6 b\ny: !a%g6\nz: 100%6f\n"),
        ("data.jsonl", "{}\n{}\n"),
        ("results.csv", "a,b\n1,2\n"),
        ("results.tsv", "a\tb\n"),
        ("CITATION.cff", "cff-version: 1.2.0\n"),
        ("paper.bib", "@article{a}\n"),
        ("README.rst", "A model\n=======\n"),
        ("MIT.license", "words"),
        ("Modelfile", "FROM ./m.gguf\nPARAMETER temperature 1\n"),
        ("AUTHORS", "A. Person\n"),
        ("CHANGELOG", "1.0\n"),
        ("checksums", "00  m.gguf\n"),
        ("empty.txt", ""),
    ] {
        assert_accepted(name, text);
    }
    for (name, magic) in [
        ("picture.png", &b"\x89PNG\r\n\x1a\nxxxx"[..]),
        ("a.jpg", b"\xff\xd8\xff\xe0"),
        ("a.JPEG", b"\xff\xd8\xff"),
        ("a.gif", b"GIF89a"),
        ("a.webp", b"RIFF\0\0\0\0WEBP"),
    ] {
        assert_accepted(name, magic);
    }
}

#[test]
fn a_vocabulary_is_sentencepiece_or_printable() {
    assert_only("tokenizer.model", b"\x01\x02", &NOT_VOCABULARY, "0x01");
    assert_only("a.spm", b"abc\x02", &NOT_VOCABULARY, "0x61");
    assert_only("a.spm", b"ab\x1f", &NOT_VOCABULARY, "0x61");
    for sound in [&b""[..], b"\n\x02\x01", b"a\tb\r\nc \xc3\xa9"] {
        assert_sound("a.spm", sound);
    }
    // Only the beginning is looked at.
    let mut long = vec![b'a'; VOCABULARY_LOOK as usize];
    long.push(1);
    assert_sound("a.model", &long);
    long.remove(0);
    assert_only("a.model", &long, &NOT_VOCABULARY, "0x61");
}

#[test]
fn every_json_is_strict() {
    for text in ["", "{", "{'a':1}", "{\"a\":1,}", "{} {}", "{\"a\":\"\\ud800\"}", "\u{feff}{}", "// x\n{}"] {
        for name in ["config.json", "anything.json", "tokenizer.json"] {
            assert_only(name, text, &JSON, "");
        }
    }
    assert_only("config.json", b"{\"\xff\":1}", &JSON, "UTF-8");
    assert_only("config.json", "[".repeat(100_000), &JSON, "nested");
    assert_only("config.json", r#"{"a":1,"b":{"c":1,"c":2}}"#, &DUPLICATE, "\"c\"");
    assert_only("tokenizer.json", r#"{"model":{"vocab":{"x":1,"x":2}}}"#, &DUPLICATE, "\"x\"");
    assert_only("config.json", r#"{"limit":[0.0,Infinity]}"#, &NOT_A_NUMBER, "limit[1]");
    assert_eq!(
        rules("config.json", br#"{"auto_map":"a.B","#),
        [AUTO_MAP.id, JSON.id],
        "what stands before the defect is told"
    );
}

#[test]
fn what_is_as_large_as_may_be_is_looked_through() {
    struct Spaces(u64);
    impl Input for Spaces {
        fn size(&self) -> u64 {
            self.0
        }
        fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
            out.fill(b' ');
            if at == 0 {
                out[..2].copy_from_slice(b"{}");
            }
            Ok(())
        }
    }
    for (size, found) in [(64 << 20, None), ((64 << 20) + 1, Some(TOO_LARGE.id)), (1 << 40, Some(TOO_LARGE.id))] {
        let mut findings = Findings::new();
        inspect(&"config.json".parse().expect("a path"), &Spaces(size), &mut findings).expect("reads");
        assert_eq!(findings.list().first().map(|f| f.rule), found, "{size}");
    }
    for (name, most, rule) in [("a.yaml", YAML_MAX, TOO_LARGE.id), ("a.jinja", TEMPLATE_MAX, TEMPLATE_SIZE.id)] {
        for (size, found) in [(most, None), (most + 1, Some(rule))] {
            let mut findings = Findings::new();
            inspect(&name.parse().expect("a path"), &Spaces(size), &mut findings).expect("reads");
            assert_eq!(findings.list().first().map(|f| f.rule), found, "{name}");
        }
    }
}

#[test]
fn keys_that_run_code_are_found_at_any_level() {
    for (name, text, rule, words) in [
        (
            "config.json",
            r#"{"auto_map":{"AutoConfig":"configuration_x.XConfig"}}"#,
            &AUTO_MAP,
            "configuration_x.XConfig",
        ),
        ("config.json", r#"{"auto_map":{"AutoModel":"org/repo--modeling_x.X"}}"#, &AUTO_MAP, "org/repo--"),
        (
            "config.json",
            r#"{"a":{"text_config":{"auto_map":{"AutoModel":"m.X"}}}}"#,
            &AUTO_MAP,
            "a.text_config.auto_map.AutoModel",
        ),
        ("tokenizer_config.json", r#"{"auto_map":{"AutoTokenizer":["t.Slow",null]}}"#, &AUTO_MAP, "t.Slow"),
        ("preprocessor_config.json", r#"{"auto_map":"p.X"}"#, &AUTO_MAP, "p.X"),
        ("generation_config.json", r#"{"auto_map":{"x":"p.X"}}"#, &AUTO_MAP, "p.X"),
        ("other.json", r#"{"auto\u005fmap":"p.X"}"#, &AUTO_MAP, "p.X"),
        ("tokenizer.json", r#"{"auto_map":{"x":"p.X"}}"#, &AUTO_MAP, "p.X"),
        ("config.json", r#"{"trust_remote_code":true}"#, &REMOTE_CODE, "trust_remote_code"),
        ("config.json", r#"{"x":{"trust_remote_code":1}}"#, &REMOTE_CODE, "x.trust_remote_code"),
        ("config.json", r#"{"trust_remote_code":"false"}"#, &REMOTE_CODE, "trust_remote_code"),
        ("config.json", r#"{"trust_remote_code":1.5}"#, &REMOTE_CODE, "trust_remote_code"),
        ("config.json", r#"{"trust_remote_code":{"a":null}}"#, &REMOTE_CODE, "trust_remote_code"),
        ("config.json", r#"{"trust_repo":[null]}"#, &REMOTE_CODE, "trust_repo"),
        ("config.json", r#"{"trust_repo":true}"#, &REMOTE_CODE, "trust_repo"),
        ("config.json", r#"{"custom_pipelines":{"x":{"impl":"p.XPipeline"}}}"#, &CUSTOM_PIPELINE, "p.XPipeline"),
        ("config.json", r#"{"custom_pipeline":"pipe"}"#, &CUSTOM_PIPELINE, "pipe"),
        ("generation_config.json", r#"{"custom_generate":"org/repo"}"#, &CUSTOM_GENERATE, "org/repo"),
        ("config.json", r#"{"_attn_implementation":"kernels-community/flash-attn"}"#, &KERNEL, "kernels-community"),
        ("config.json", r#"{"attn_implementation":{"text_config":"paged|o/r@v1:f"}}"#, &KERNEL, "o/r@v1"),
        ("config.json", r#"{"kernel_config":{"RMSNorm":"o/r:RMSNorm"}}"#, &KERNEL, "o/r"),
        ("config.json", r#"{"use_kernels":true}"#, &KERNEL, "use_kernels"),
        ("config.json", r#"{"model":{"_target_":"os.system","_args_":["id"]}}"#, &TARGET, "os.system"),
        ("config.json", r#"{"x":{"py/object":"posix.system"}}"#, &JSONPICKLE, "posix.system"),
        ("config.json", r#"{"a":{"py/reduce":[{}]}}"#, &JSONPICKLE, "py/reduce"),
        ("config.json", r#"{"layers":[{"class_name":"Lambda"}]}"#, &LAMBDA, "Lambda"),
        ("config.json", r#"{"model_file":"model.txt"}"#, &CUSTOM_CODE, "model.txt"),
        ("config.json", r#"{"x":"run.py"}"#, &NAMES_CODE, "run.py"),
        ("config.json", r#"{"allow_pickle":true}"#, &UNSAFE_LOAD, "allow_pickle"),
        ("config.json", r#"{"x":{"allow_dangerous_deserialization":true}}"#, &UNSAFE_LOAD, "x.allow"),
        ("config.json", r#"{"weights_only":false}"#, &UNSAFE_LOAD, "weights_only"),
        ("config.json", r#"{"weights_only":0}"#, &UNSAFE_LOAD, "weights_only"),
        ("config.json", r#"{"weights_only":""}"#, &UNSAFE_LOAD, "weights_only"),
        ("tokenizer_config.json", r#"{"tokenizer_class":"org/repo--tok.Tok"}"#, &CUSTOM_CLASS, "org/repo"),
        ("config.json", r#"{"architectures":["a.B"]}"#, &CUSTOM_CLASS, "a.B"),
        ("config.json", r#"{"quantization_config":{"custom_module":"evil"}}"#, &CUSTOM_CLASS, "evil"),
        ("model_index.json", r#"{"_class_name":"a.B"}"#, &CUSTOM_CLASS, "a.B"),
        ("model_index.json", r#"{"_class_name":"X","unet":["my_unet","MyUNet"]}"#, &CUSTOM_CLASS, "my_unet"),
        ("model_index.json", r#"{"unet":["os","system"]}"#, &CUSTOM_CLASS, "\"os\""),
        ("model_index.json", r#"{"unet":["diffusers_modules.local.x","Y"]}"#, &CUSTOM_CLASS, "diffusers_modules"),
        ("model_index.json", r#"{"unet":["diffusers","a.b"]}"#, &CUSTOM_CLASS, "a.b"),
        ("modular_model_index.json", r#"{"unet":["evil","X",{}]}"#, &CUSTOM_CLASS, "evil"),
        ("modules.json", r#"[{"idx":0,"path":"","type":"custom_st.X"}]"#, &CUSTOM_CLASS, "custom_st.X"),
        (
            "modules.json",
            r#"[{"idx":0,"path":"","type":"sentence_transformersx.X"}]"#,
            &CUSTOM_CLASS,
            "sentence_transformersx",
        ),
        ("modules.json", r#"[{"path":"../x"}]"#, &OUTSIDE, "../x"),
        ("modules.json", r#"[{"path":"/x"}]"#, &OUTSIDE, "/x"),
        ("router_config.json", r#"{"types":{"a":"os.X"}}"#, &CUSTOM_CLASS, "os.X"),
        ("2_Dense/config.json", r#"{"activation_function":"os.system"}"#, &IMPORT, "os.system"),
        ("config.json", r#"{"sentence_transformers":{"activation_fn":"torch.hub.load"}}"#, &IMPORT, "torch.hub"),
        (
            "adapter_config.json",
            r#"{"auto_mapping":{"parent_library":"evil","base_model_class":"X"}}"#,
            &IMPORT,
            "evil",
        ),
        (
            "adapter_config.json",
            r#"{"auto_mapping":{"parent_library":"transformers_modules.x"}}"#,
            &IMPORT,
            "transformers_modules",
        ),
        ("adapter_config.json", r#"{"megatron_core":"evil.core"}"#, &IMPORT, "evil.core"),
    ] {
        assert_only(name, text, rule, words);
    }
    let list = br#"{"_class_name":["pipeline",null,"EvilPipeline"]}"#;
    assert_eq!(rules("model_index.json", list), [CUSTOM_CLASS.id; 2], "the module and the class in it");
    assert_sound(
        "adapter_config.json",
        r#"{"megatron_core":"megatron.core","auto_mapping":{"parent_library":"transformers.models.llama.modeling_llama"}}"#,
    );
    assert_sound("config.json", r#"{"weights_only":true,"x":"a quantizer","custom_module":"x","class_name":"Dense"}"#);
    assert_sound("config.json", r#"{"types":{"a":"plain"},"type":"a.b"}"#);
}

#[test]
fn paths_and_addresses_are_weighed() {
    for (text, rule) in [
        (r#"{"weights_file":"../../x.bin"}"#, &OUTSIDE),
        (r#"{"weights_file":"a\\..\\x"}"#, &OUTSIDE),
        (r#"{"weights_file":"/etc/passwd"}"#, &OUTSIDE),
        (r#"{"weights_file":"C:\\x"}"#, &OUTSIDE),
        (r#"{"weights_file":"~/x"}"#, &OUTSIDE),
        (r#"{"filename":"\\\\host\\x"}"#, &OUTSIDE),
        (r#"{"data_files":["a","/b"]}"#, &OUTSIDE),
        (r#"{"tokenizer_file":"../x"}"#, &OUTSIDE),
        (r#"{"tokenizer_file":"/srv/cache/x"}"#, &ABSOLUTE),
        (r#"{"special_tokens_map_file":"/srv/x"}"#, &ABSOLUTE),
        (r#"{"_name_or_path":"/home/me/model"}"#, &ABSOLUTE),
        (r#"{"_name_or_path":"../model"}"#, &ABSOLUTE),
        (r#"{"output_dir":"/out"}"#, &ABSOLUTE),
        (r#"{"data_path":"../x"}"#, &ABSOLUTE),
        (r#"{"anything":"https://example.org/x"}"#, &URL),
        (r#"{"weights_file":"s3://bucket/x"}"#, &URL),
    ] {
        assert_only("config.json", text, rule, "");
    }
    for text in [
        r#"{"weights_file":"a/b.bin"}"#,
        r#"{"weights_file":"a..b"}"#,
        r#"{"name":"/x"}"#,
        r#"{"text":"see https://x.y z"}"#,
        r#"{"a":"://x"}"#,
        r#"{"a":"x://"}"#,
        r#"{"vocab_file":"v.txt"}"#,
        r#"{"data_file":"1:/x"}"#,
        r#"{"weights_file":"ab:/x"}"#,
    ] {
        assert_sound("config.json", text);
    }
}

#[test]
fn yaml_tags_that_build_objects_are_found() {
    for (line, rule) in [
        ("x: !!python/object/apply:os.system [id]", &PYTHON_TAG),
        ("x: !<tag:yaml.org,2002:python/name:os.system>", &PYTHON_TAG),
        ("x: !<tag:yaml.org,2002:python%2Fname:os.system>", &PYTHON_TAG),
        ("x: !!pyth%6fn/name:os.system", &PYTHON_TAG),
        ("[!!pyth%6fn/name:os.system ]", &PYTHON_TAG),
        ("- !n%65w:os.system", &PYTHON_TAG),
        ("%TAG !e! tag:yaml.org,2002:pyth", &PYTHON_TAG),
        ("x: !apply:os.system", &PYTHON_TAG),
        ("x: !new:evil.X", &PYTHON_TAG),
        ("x: !name:evil.X", &PYTHON_TAG),
        ("x: !module:evil", &PYTHON_TAG),
        ("  _target_: os.system", &TARGET),
        ("{\"_target_\" : x}", &TARGET),
        ("auto_map: x", &AUTO_MAP),
        ("%TAG !p! tag:yaml.org,2002:", &PYTHON_TAG),
        ("x: !!pyth%6fn/object/apply:os.system [id]", &PYTHON_TAG),
        ("x: [!<tag:yaml.org,2002:pyth%6Fn/name:os.system>]", &PYTHON_TAG),
        (r#""\x5ftarget_": os.system"#, &TARGET),
        (r#""_targ\u0065t_": os.system"#, &TARGET),
        (r#""auto\U0000005fmap": x"#, &AUTO_MAP),
        ("trust_remote_code: true", &REMOTE_CODE),
        ("trust_remote_code: yes # x", &REMOTE_CODE),
        // Not only the first of a line.
        ("x: [!new:torch.nn.Linear {}, !new:os.system {}]", &PYTHON_TAG),
        ("{x_target_y: 1, _target_: os.system}", &TARGET),
        ("{auto_maps: 1, auto_map: x}", &AUTO_MAP),
        ("{trust_remote_codes: 1, trust_remote_code: true}", &REMOTE_CODE),
        ("trust_remote_code: false, trust_remote_code: 1", &REMOTE_CODE),
        ("x: a!b !c%41", &PYTHON_TAG),
        ("x: !a!b%41", &PYTHON_TAG),
    ] {
        assert_only("a.yaml", format!("a: 1\n{line}\nb: 2\n"), rule, "would run code");
        assert_only("a.yml", line, rule, "would run code");
        assert_eq!(look("a.yaml", format!("a: 1\n{line}\n").as_bytes()).1.list()[0].place.offset, Some(5));
    }
    for line in [
        "trust_remote_code: False",
        "trust_remote_code: no",
        "trust_remote_code: 0",
        "the _target_ is",
        "auto_map",
        "x: !torch",
        "x: wow!50%25 and more! 100%",
        "x: !a %41",
    ] {
        assert_sound("a.yaml", line);
    }
}

/// Found by fuzzing: a tag was looked through to the end of its line, and so was each tag in it.
#[test]
fn a_line_of_many_tags_takes_one_pass() {
    for unit in ["!", "]!", "!a%", "_target_", "!new:torch.nn.", "trust_remote_code: 0 "] {
        let line = unit.repeat((1 << 20) / unit.len());
        // By the square of its length this would take minutes.
        names::yaml_line(&line);
        names::yaml_line(&line.repeat(3));
    }
}

fn templates(about: Description) -> Vec<(String, String)> {
    let Facts::Templates(all) = about.facts else { return Vec::new() };
    all.into_iter().map(|(part, text)| (part, String::from_utf8(text).expect("text"))).collect()
}

#[test]
fn chat_templates_are_handed_on_from_wherever_they_stand() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    for (name, text, expected) in [
        ("tokenizer_config.json", r#"{"chat_template":"{{ \"a\" }}"}"#, vec![pair("chat_template", "{{ \"a\" }}")]),
        (
            "tokenizer_config.json",
            r#"{"chat_template":[{"name":"default","template":"T"},{"template":"U","name":"rag"}]}"#,
            vec![pair("chat_template[0].template", "T"), pair("chat_template[1].template", "U")],
        ),
        ("chat_template.json", r#"{"chat_template":"T"}"#, vec![pair("chat_template", "T")]),
        ("processor_config.json", r#"{"chat_template":{"default":"T"}}"#, vec![pair("chat_template.default", "T")]),
        ("processor_config.json", r#"{"chat_template":{"name":"T"}}"#, vec![pair("chat_template.name", "T")]),
        ("chat_template.jinja", "{{ x }}", vec![pair("", "{{ x }}")]),
        ("additional_chat_templates/rag.jinja", "R", vec![pair("", "R")]),
        ("config.json", r#"{"x":"{{ y }}"}"#, vec![]),
    ] {
        let (about, findings) = look(name, text.as_bytes());
        assert_eq!(findings.list(), [], "{name}");
        assert_eq!(templates(about), expected, "{name}");
    }
    let of = |n: u64| format!("{{\"chat_template\":\"{}\"}}", "x".repeat(n as usize));
    assert_sound("tokenizer_config.json", of(TEMPLATE_MAX));
    assert_only("tokenizer_config.json", of(TEMPLATE_MAX + 1), &TEMPLATE_SIZE, "1048576");
}

#[test]
fn adapters_say_what_they_are_for() {
    let adapter = |text: &str| look("adapter_config.json", text.as_bytes()).0.adapter;
    let expected = |kind: &str, base: &str| Some(Adapter { kind: kind.into(), base: base.into() });
    assert_eq!(adapter(r#"{"peft_type":"LORA","base_model_name_or_path":"org/base"}"#), expected("lora", "org/base"));
    assert_eq!(adapter(r#"{"use_dora":true,"peft_type":"LORA"}"#), expected("dora", ""));
    assert_eq!(adapter(r#"{"peft_type":"LORA","use_dora":true}"#), expected("dora", ""));
    assert_eq!(adapter(r#"{"peft_type":"LORA","use_dora":false}"#), expected("lora", ""));
    assert_eq!(adapter(r#"{"x":{"peft_type":"LORA"}}"#), None);
    assert_eq!(look("config.json", br#"{"peft_type":"LORA","use_dora":true}"#).0.adapter, None);
    assert_only("adapter_config.json", r#"{"base_model_name_or_path":"org/base"}"#, &BASE, "org/base");
    for base in ["/data/base", "../base", "C:/base"] {
        let text = format!("{{\"base_model_name_or_path\":{base:?}}}");
        assert!(rules("adapter_config.json", text.as_bytes()).contains(&ODD_BASE.id), "{base}");
    }
    assert!(rules("adapter_config.json", br#"{"base_model_name_or_path":"https://x/y"}"#).contains(&ODD_BASE.id));
}

#[test]
fn an_index_is_a_map_from_tensors_to_files() {
    let name = "model.safetensors.index.json";
    let (about, findings) =
        look(name, br#"{"metadata":{"total_size":12},"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#);
    assert_eq!(findings.list(), []);
    let Facts::WeightMap(map) = &about.facts else { panic!("a weight map") };
    assert_eq!(
        map.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(),
        [("a", "x.safetensors"), ("b", "y.safetensors")]
    );
    assert_eq!(about.metadata["total_size"], 12);
    assert_sound("x.safetensors.index.fp16.json", r#"{"weight_map":{}}"#);
    for text in [
        "{}",
        "[]",
        "1",
        r#"{"metadata":{}}"#,
        r#"{"metadata":{"format":"pt"}}"#,
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":"x"}"#,
        r#"{"weight_map":null}"#,
        r#"{"weight_map":{"a":1}}"#,
        r#"{"weight_map":{"a":["x"]}}"#,
        r#"{"weight_map":{"a":{}}}"#,
        r#"{"weight_map":{"a":null}}"#,
        r#"{"x":{"weight_map":{}}}"#,
    ] {
        assert_only(name, text, &INDEX, "weight_map");
    }
    assert_only(name, r#"{"weight_map":{"a":"x","a":"y"}}"#, &DUPLICATE, "\"a\"");
    assert!(matches!(look("config.json", br#"{"weight_map":{"a":"x"}}"#).0.facts, Facts::None));
    // What stands beside the map is none of it, and of numbers only the size is told.
    let beside = br#"{"metadata":{"format":"pt","n":1},"x":{"total_size":2,"y":"z"},"weight_map":{}}"#;
    let (about, findings) = look(name, beside);
    assert!(findings.list().is_empty() && about.metadata.is_empty(), "{:?} {:?}", findings.list(), about.metadata);
    assert!(matches!(about.facts, Facts::WeightMap(map) if map.is_empty()));
}

#[test]
fn an_index_has_tensors_and_bytes_at_most() {
    let name = "model.safetensors.index.json";
    let all: Vec<String> = (0..300_001).map(|i| format!("\"{i}\":\"x\"")).collect();
    assert_sound(name, format!("{{\"weight_map\":{{{}}}}}", all[1..].join(",")));
    assert_only(name, format!("{{\"weight_map\":{{{}}}}}", all.join(",")), &INDEX, "300000");
    let long = "n".repeat(60_000);
    let all: Vec<String> = (0..500).map(|i| format!("\"{i}{long}\":\"x\"")).collect();
    assert_only(name, format!("{{\"weight_map\":{{{}}}}}", all.join(",")), &INDEX, "bytes of names");
}

#[test]
fn short_values_are_shown() {
    let (about, _) = look("config.json", br#"{"model_type":"llama","n":3,"b":true,"f":1.5,"o":{"x":1},"l":[1]}"#);
    assert_eq!(serde_json::to_string(&about.metadata).expect("JSON"), r#"{"b":true,"model_type":"llama","n":3}"#);
    let many: Vec<String> = (0..100).map(|i| format!("\"{i}\":1")).collect();
    assert_eq!(look("config.json", format!("{{{}}}", many.join(",")).as_bytes()).0.metadata.len(), 64);
    assert!(look("vocab.json", br#"{"a":1}"#).0.metadata.is_empty());
    for (name, what) in [
        ("config.json", "the model's configuration"),
        ("tokenizer.json", "a tokenizer"),
        ("adapter_config.json", "an adapter's configuration"),
        ("model_index.json", "a pipeline's parts"),
        ("x.index.json", "an index of shards"),
        ("a.json", "JSON"),
        ("a.jinja", "a chat template"),
        ("a.yml", "YAML"),
        ("a.spm", "a vocabulary"),
        ("a.txt", "text"),
        ("LICENSE", "text"),
    ] {
        assert_eq!(look(name, b"").0.what, what);
    }
}

/// A changed byte, a cut: no panic, whatever comes of it.
#[test]
fn mutations_are_survived() {
    let text = br#"{"auto_map":{"a":"b.C"},"chat_template":[{"name":"n","template":"T"}],"weight_map":{"a":"x"},"py/object":[{}],"unet":["os","x"]}"#;
    for name in [
        "config.json",
        "model.safetensors.index.json",
        "model_index.json",
        "modules.json",
        "adapter_config.json",
        "tokenizer.json",
        "a.yaml",
        "a.model",
    ] {
        for at in 0..text.len() {
            for byte in [0, b'"', b'\\', b'{', b'}', b'[', b']', b',', 0x80, 0xff] {
                let mut changed = text.to_vec();
                changed[at] = byte;
                look(name, &changed);
            }
            look(name, &text[..at]);
        }
    }
}

#[test]
fn names_of_code_and_addresses_are_told_from_what_is_like_them() {
    for (text, code, url) in [
        ("a.py", true, false),
        (".py", false, false),
        ("git+https://x", false, true),
        ("a b://x", false, false),
        ("a://", false, false),
        ("://x", false, false),
    ] {
        assert_eq!((names::names_code(text), names::is_url(text)), (code, url), "{text}");
    }
    for key in ["_name_or_path", "name_or_path", "base_model_name_or_path"] {
        assert_eq!(names::path_key(key), Some(names::PathKey::Note), "{key}");
    }
}

/// Zeros, as many as it says.
struct Zeros(u64);

impl Input for Zeros {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, _: u64, out: &mut [u8]) -> crate::error::Result<()> {
        out.fill(0);
        Ok(())
    }
}

#[test]
fn what_is_too_large_is_not_looked_through() {
    let found = |name: &str, size: u64, rule: &Rule| {
        let mut findings = Findings::new();
        inspect(&name.parse().expect("a path"), &Zeros(size), &mut findings).expect("reads");
        findings.has(rule.id)
    };
    for (name, most, rule) in [("a.json", 64 << 20, &TOO_LARGE), ("a.jinja", TEMPLATE_MAX, &TEMPLATE_SIZE)] {
        assert_eq!([most, most + 1].map(|size| found(name, size, rule)), [false, true], "{name}");
    }
    assert!(found("a.yaml", YAML_MAX + 1, &TOO_LARGE));
}
