//! Tests of the guard.
//!
//! Owns: headers made by hand that fire each rule, and the forms Go prints. Promises: nothing. Leaves out: whole files
//! (tests/guard.rs).

use super::fingerprint::{architecture, elements, parameters, quant_type, type_name};
use super::gojson::{float, quote};
use super::*;
use crate::error::ErrorKind;
use crate::format::ggml_type::GgmlType;
use crate::format::gguf::{TensorInfo, Value as Meta, ValueType};
use proptest::prelude::*;

fn tensor(name: &str, kind: u32, dimensions: &[u64], offset: u64) -> TensorInfo {
    let kind = GgmlType::of(kind).expect("a type");
    let size_bytes = kind.size_of(dimensions).expect("a size");
    TensorInfo { name: name.to_owned(), dimensions: dimensions.to_vec(), kind, offset, size_bytes }
}

/// A header of the architecture `arch`, or without one; its tensors one after another.
fn header(arch: Option<&str>, tensors: Vec<TensorInfo>) -> GgufHeader {
    let pairs = arch.map(|arch| ("general.architecture".to_owned(), Meta::String(arch.into()))).into_iter().collect();
    GgufHeader { version: 3, pairs, tensors, alignment: 32, table_end: 1000, data_offset: 1024 }
}

fn small(names: &[&str]) -> Vec<TensorInfo> {
    names.iter().zip(0..).map(|(name, i)| tensor(name, 0, &[2, 2], i * 32)).collect()
}

fn kinds(header: &GgufHeader) -> Vec<(&'static str, &'static str, String)> {
    let report = inspect(header, 1 << 40).policy;
    assert_eq!(report.pass, report.violations.is_empty());
    report.violations.into_iter().map(|v| (v.kind, v.severity, v.description)).collect()
}

#[track_caller]
fn only(header: &GgufHeader, kind: &str, severity: &str, description: &str) {
    assert_eq!(kinds(header), [(kind, severity, description.to_owned())].map(|(a, b, c)| (leak(a), leak(b), c)));
}

fn leak(text: &str) -> &'static str {
    text.to_owned().leak()
}

fn manifest() -> TensorManifest {
    let header = header(Some("llama"), small(&["a", "b", "c"]));
    let tensors = ["1", "2", "3"].map(|t| Sha256Digest::of(t.as_bytes())).to_vec();
    TensorManifest::of(&header, &FileDigests { size_bytes: 2000, sha256: Sha256Digest::of(b"all"), tensors })
        .expect("one digest each")
}

#[test]
fn types_have_gguf_guards_names_and_ggmls_sizes() {
    let known = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (8, "Q8_0"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
        (15, "Q8_K"),
        (16, "IQ2"),
        (17, "IQ3"),
        (18, "IQ1"),
        (30, "BF16"),
    ];
    let mut seen = 0;
    for id in 0..64 {
        let Some(kind) = GgmlType::of(id) else { continue };
        let name = known.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned());
        assert_eq!(type_name(kind), name.unwrap_or_else(|| format!("unknown({id})")));
        seen += 1;
    }
    assert_eq!((seen, type_name(GgmlType::of(39).expect("MXFP4")).as_ref()), (35, "unknown(39)"));
}

#[test]
fn the_structure_hash_is_over_sorted_lines_whatever_the_order_of_the_tensors() {
    let of = |tensors| structure_hash(&header(None, tensors));
    let (a, b, c) = (tensor("b", 0, &[3, 2], 0), tensor("a", 20, &[32], 64), tensor("B", 14, &[256, 1, 2], 96));
    let lines = Sha256Digest::of(b"B:[256,1,2]:Q6_K\na:[32]:unknown(20)\nb:[3,2]:F32\n");
    assert_eq!(of(vec![a.clone(), b.clone(), c.clone()]), lines);
    assert_eq!(of(vec![c, a, b]), lines);
    assert_eq!(of(vec![]), Sha256Digest::of(b""));
    // The line feed is no part of what is sorted: 0x01 comes before it, but after the end.
    let (short, long) = (tensor("a", 0, &[1], 0), tensor("a:[1]:F32\u{1}", 0, &[1], 32));
    assert_eq!(of(vec![long, short]), Sha256Digest::of(b"a:[1]:F32\na:[1]:F32\x01:[1]:F32\n"));
}

#[test]
fn the_architecture_is_unknown_when_it_is_absent_or_no_string() {
    assert_eq!(architecture(&header(None, vec![])), "unknown");
    assert_eq!(architecture(&header(Some(""), vec![])), "");
    let mut odd = header(Some("llama"), vec![]);
    assert_eq!(architecture(&odd), "llama");
    odd.pairs[0].1 = Meta::Unsigned(ValueType::U32, 7);
    assert_eq!(architecture(&odd), "unknown");
    odd.pairs[0].1 = Meta::String(b"a\xe2\x82b\xff\xffc".to_vec());
    assert_eq!(architecture(&odd), "a\u{fffd}\u{fffd}b\u{fffd}\u{fffd}c", "one for each byte, as in Go");
    let fingerprint = Fingerprint::of(&odd, 0, Sha256Digest::of(b""));
    assert!(to_json(&fingerprint).contains(r#""architecture": "a\ufffd\ufffdb\ufffd\ufffdc","#));
}

#[test]
fn the_quantisation_is_the_commonest_type_and_of_several_the_lowest_number() {
    let of = |ids: &[u32]| quant_type(&header(None, ids.iter().map(|id| tensor("t", *id, &[256], 0)).collect()));
    for (ids, name) in [
        (&[][..], "F32"),
        (&[12], "Q4_K"),
        (&[12, 14], "Q4_K"),
        (&[14, 12], "Q4_K"),
        (&[14, 12, 14], "Q6_K"),
        (&[14, 14, 12, 12, 0], "Q4_K"),
        (&[30, 30, 12, 0], "BF16"),
        (&[23, 20], "unknown(20)"),
    ] {
        assert_eq!(of(ids), name, "{ids:?}");
    }
}

#[test]
fn counts_are_gguf_guards_and_saturate() {
    let mut big = tensor("t", 0, &[1], 0);
    assert_eq!(elements(&TensorInfo { dimensions: vec![], ..big.clone() }), 1);
    assert_eq!(elements(&tensor("t", 0, &[3, 5, 7], 0)), 105);
    big.dimensions = vec![1 << 40, 1 << 40];
    assert_eq!(elements(&big), u64::MAX);
    let all = header(None, vec![tensor("a", 0, &[3], 0), tensor("b", 0, &[4], 0)]);
    assert_eq!(parameters(&all), 7);
    assert_eq!(parameters(&header(None, vec![big.clone(), big])), u64::MAX);
    let layers = |names: &[&str]| Fingerprint::of(&header(None, small(names)), 0, Sha256Digest::of(b"")).layer_count;
    for (names, count) in [
        (&[][..], 0),
        (&["blk"], 0),
        (&["blk."], 1),
        (&["blk.0.a", "blk.0.b", "blk.1"], 2),
        (&["blk.0.a", "layers.0.a"], 2),
        (&["model.blk.0.a", "Blk.0.a", "blks.0", "layer.1"], 0),
    ] {
        assert_eq!(layers(names), count, "{names:?}");
    }
}

#[test]
fn the_merkle_root_pairs_an_odd_node_with_itself() {
    let leaves: Vec<Sha256Digest> = (0..8u8).map(|n| Sha256Digest::of(&[n])).collect();
    let node = |a: Sha256Digest, b: Sha256Digest| Sha256Digest::of(&[*a.as_bytes(), *b.as_bytes()].concat());
    let [a, b, c, d, e, f, g, h] = <[Sha256Digest; 8]>::try_from(leaves.clone()).expect("eight");
    let four = node(node(a, b), node(c, d));
    let five = node(node(e, e), node(e, e));
    for (count, root) in [
        (0, None),
        (1, Some(a)),
        (2, Some(node(a, b))),
        (3, Some(node(node(a, b), node(c, c)))),
        (4, Some(four)),
        (5, Some(node(four, five))),
        (6, Some(node(four, node(node(e, f), node(e, f))))),
        (7, Some(node(four, node(node(e, f), node(g, g))))),
        (8, Some(node(four, node(node(e, f), node(g, h))))),
    ] {
        assert_eq!(merkle_root(&leaves[..count]), root, "{count}");
    }
}

#[test]
fn a_file_without_tensors_has_empty_lists_and_an_empty_root() {
    let digests = FileDigests { size_bytes: 24, sha256: Sha256Digest::of(b"x"), tensors: vec![] };
    let both = Guard::of(&header(None, vec![]), &digests).expect("none for none");
    let json = to_json(&both.manifest);
    assert!(json.contains("\"merkle_root\": \"\",\n  \"tensors\": []\n}\n") && json.contains("\"F32\""), "{json}");
    assert!(to_json(&both.fingerprint).ends_with("\"layer_count\": 0,\n  \"tensor_summary\": []\n}\n"));
    assert_eq!(TensorManifest::parse(json.as_bytes()).expect("ours"), both.manifest);
    assert_eq!(both.fields()["gguf_guard_fingerprint"], Sha256Digest::of(b"").to_hex());
    assert_eq!(both.fields()["gguf_guard_manifest"]["tensors"], json!([]));
    assert_eq!(verify(&both.manifest, &both.manifest), []);
}

#[test]
fn each_tensor_needs_a_digest() {
    for count in [0, 1, 3] {
        let tensors = vec![Sha256Digest::of(b""); count];
        let digests = FileDigests { size_bytes: 0, sha256: Sha256Digest::of(b""), tensors };
        let e = Guard::of(&header(None, small(&["a", "b"])), &digests).expect_err("two are needed");
        assert_eq!((e.kind(), e.message()), (ErrorKind::InvalidInput, &*format!("{count} digests for 2 tensors")));
    }
}

#[test]
fn strings_are_escaped_like_gos() {
    for (text, json) in [
        ("a<b>&c", r#""a\u003cb\u003e\u0026c""#),
        ("\u{2028}\u{2029}\u{2027}\u{202a}", "\"\\u2028\\u2029\u{2027}\u{202a}\""),
        ("\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}", "\"\\b\\f\\n\\r\\t\\u0001\\u001f\u{7f}\""),
        ("\"\\/é\u{fffd}😀", "\"\\\"\\\\/é\u{fffd}😀\""),
        ("", "\"\""),
    ] {
        assert_eq!(to_json(&text), format!("{json}\n"));
    }
    let nested = json!({"architecture": {"\u{fffd}": "<"}, "b": ["&"]});
    let keys = "{\n  \"architecture\": {\n    \"\u{fffd}\": \"\\u003c\"\n  },\n  \"b\": [\n    \"\\u0026\"\n  ]\n}\n";
    assert_eq!(to_json(&nested), keys);
}

#[test]
fn floats_are_written_like_gos() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (0.92, "0.92"),
        (0.3, "0.3"),
        (1.0 * 0.7 + 0.3 - 0.08, "0.92"),
        (5.551115123125783e-17, "5.551115123125783e-17"),
        (1e-6, "0.000001"),
        (9.99e-7, "9.99e-7"),
        (-9.99e-7, "-9.99e-7"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (999999999999999900000.0, "999999999999999900000"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
    ] {
        assert_eq!(float(value), text);
        assert_eq!(to_json(&value), format!("{text}\n"));
    }
}

#[test]
fn names_are_quoted_like_gos() {
    for (text, quoted) in [
        ("blk.0", r#""blk.0""#),
        ("a\"b\\c'd", r#""a\"b\\c'd""#),
        ("\u{7}\u{8}\t\n\u{b}\u{c}\r", r#""\a\b\t\n\v\f\r""#),
        ("\0\u{1f} ~\u{7f}", r#""\x00\x1f ~\x7f""#),
        ("\u{80}\u{a0}\u{ad}é\u{300}\u{202e}", "\"\\u0080\\u00a0\\u00adé\u{300}\\u202e\""),
        ("\u{feff}\u{fffd}\u{ffff}😀\u{10ffff}", "\"\\ufeff\u{fffd}\\uffff😀\\U0010ffff\""),
        ("\u{300}", "\"\u{300}\""),
    ] {
        assert_eq!(quote(text), quoted);
    }
}

#[test]
fn a_sound_file_passes() {
    assert_eq!(kinds(&header(Some("gpt2"), small(&["blk.0.x", "layers.0.x"]))), []);
    let known = ["token_embd.weight", "blk.0.attn_q.bias", "output_norm.weight"];
    for arch in ["llama", "mistral", "qwen2", "gemma", "phi3", "phi", "mixtral"] {
        assert_eq!(kinds(&header(Some(arch), small(&known))), [], "{arch}");
    }
    assert_eq!(kinds(&header(Some("mixtral"), small(&["blk.1.ffn_gate_inp.weight", "x.ffn_up_exps.weight"]))), []);
    assert_eq!(kinds(&header(Some("gpt2"), vec![tensor("t", 20, &[32], 0)])), [], "a type that has a size in ggml");
    let json = to_json(&inspect(&header(Some("gpt2"), vec![]), 1024));
    assert!(json.starts_with("{\n  \"policy\": {\n    \"pass\": true\n  },\n  \"family_matches\": [\n    {"), "{json}");
}

#[test]
fn each_rule_of_the_policy_fires() {
    let arch = Some("gpt2");
    only(&header(None, vec![]), "missing_architecture", "warning", "no general.architecture metadata key found");
    let said = header(Some("unknown"), vec![]);
    only(&said, "missing_architecture", "warning", "no general.architecture metadata key found");
    let layers = "tensors use 'layers.' prefix instead of 'blk.' (uncommon for llama.cpp)";
    only(&header(arch, small(&["layers.0.x"])), "unusual_tensor_naming", "info", layers);
    let name = "tensor \"rope_freqs.weight\" does not match known patterns for llama";
    only(&header(Some("llama"), small(&["rope_freqs.weight"])), "unknown_tensor_name", "info", name);
    let name = "tensor \"ffn_gate_inp.weight\" does not match known patterns for phi3";
    only(&header(Some("phi3"), small(&["ffn_gate_inp.weight"])), "unknown_tensor_name", "info", name);

    let mut metadata = header(arch, vec![]);
    metadata.pairs.extend(["Key", "other", "kEY", "key"].map(|k| (k.to_owned(), Meta::Bool(true))));
    metadata.pairs.push(("long".to_owned(), Meta::String(vec![b'x'; 1 << 20])));
    metadata.pairs.push(("longer".to_owned(), Meta::String(vec![b'x'; (1 << 20) + 1])));
    let (twice, long) = ("suspicious_metadata_duplication", "oversized_metadata");
    assert_eq!(
        kinds(&metadata),
        [
            (twice, "warning", r#"metadata keys "Key" and "kEY" differ only by case"#.to_owned()),
            (twice, "warning", r#"metadata keys "kEY" and "key" differ only by case"#.to_owned()),
            (long, "warning", r#"metadata key "longer" has value >1MB (1048577 bytes)"#.to_owned()),
        ]
    );

    for (dimensions, name, kind) in [
        (&[1 << 30][..], "t", None),
        (&[(1 << 30) + 1], "t", Some("tensor \"t\" has dimension 1073741825 (>1B)")),
        (&[1], "t", None),
        (&[2], "a.weight", None),
        (&[1, 1], "a.weight", None),
        (&[1], "a.weights", Some("tensor \"a.weights\" is scalar but named as weight")),
        (&[], "weight", Some("tensor \"weight\" is scalar but named as weight")),
    ] {
        let found = kinds(&header(arch, vec![tensor(name, 0, dimensions, 0)]));
        assert_eq!(found.first().map(|f| f.2.as_str()), kind, "{dimensions:?} {name}");
        assert!(
            found.iter().all(|f| matches!((f.0, f.1), ("extreme_dimension", "warning") | ("scalar_weight", "info")))
        );
    }
    let empty = kinds(&header(arch, vec![tensor("t", 0, &[4, 0], 0)]));
    assert_eq!(
        empty,
        [
            ("zero_size_tensor", "warning", "tensor \"t\" has zero computed size".to_owned()),
            ("zero_element_tensor", "warning", "tensor \"t\" has zero elements".to_owned()),
        ]
    );
}

#[test]
fn a_tensor_outside_the_file_or_over_another_is_named() {
    let out = header(Some("gpt2"), vec![tensor("t", 0, &[4], 64)]);
    assert!(inspect(&out, 1024 + 64 + 16).policy.pass, "its last byte is the file's");
    let found = inspect(&out, 1024 + 64 + 15).policy.violations;
    let description = "tensor \"t\" extends beyond file (offset 1088 + size 16 > file size 1103)";
    assert_eq!(
        (found[0].kind, found[0].severity, &*found[0].description),
        ("tensor_out_of_bounds", "critical", description)
    );

    let touching = vec![tensor("b", 0, &[4], 16), tensor("a", 0, &[4], 0)];
    assert_eq!(kinds(&header(Some("gpt2"), touching)), []);
    let over = vec![tensor("b", 0, &[4], 15), tensor("a", 0, &[4], 0)];
    only(&header(Some("gpt2"), over), "tensor_overlap", "critical", "tensors \"b\" and \"a\" overlap in file");
}

#[test]
fn as_many_overlaps_as_you_like_cost_little() {
    for (tensors, listed) in [(141, 141 * 140 / 2), (142, 10_000), (20_000, 10_000)] {
        let all = (0..tensors).map(|i| tensor(&i.to_string(), 0, &[4], 0)).collect();
        assert_eq!(kinds(&header(Some("gpt2"), all)).len(), listed);
    }
}

proptest! {
    #[test]
    fn overlaps_are_those_of_a_look_at_every_pair(places in proptest::collection::vec((0u64..60, 0u64..12), 0..14)) {
        let all: Vec<_> = places.iter().zip(0..).map(|((at, n), i)| tensor(&format!("t{i}"), 24, &[*n], *at)).collect();
        let mut expected = Vec::new();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                let apart = a.offset + a.size_bytes <= b.offset || b.offset + b.size_bytes <= a.offset;
                if !apart && a.size_bytes > 0 && b.size_bytes > 0 {
                    expected.push(format!("tensors \"{}\" and \"{}\" overlap in file", a.name, b.name));
                }
            }
        }
        let found = kinds(&header(Some("gpt2"), all)).into_iter().filter(|k| k.0 == "tensor_overlap").map(|k| k.2);
        prop_assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}

fn family(header: &GgufHeader, name: &str) -> FamilyMatch {
    inspect(header, 1 << 40).family_matches.into_iter().find(|f| f.family == name).expect("a family")
}

#[test]
fn families_are_scored_like_gguf_guards() {
    let roles = [
        "attn_q.weight",
        "attn_k.weight",
        "attn_v.weight",
        "attn_output.weight",
        "attn_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
        "ffn_norm.weight",
    ];
    let mut tensors: Vec<_> =
        roles.iter().zip(0..).map(|(role, i)| tensor(&format!("blk.0.{role}"), 0, &[2, 2], i * 32)).collect();
    tensors[8] = tensor("blk.0.ffn_norm.weight", 0, &[4], 8 * 32);
    let whole = header(Some("LLaMA"), tensors.clone());
    let fit = family(&whole, "llama");
    assert_eq!((fit.match_score, fit.matched_roles, fit.missing_roles, fit.extra_roles), (1.0, 9, 0, 0));
    assert_eq!((fit.shape_violations, fit.details.len()), (0, 0));
    for other in ["mistral", "mixtral", "qwen2", "gemma", "phi"] {
        let none = family(&whole, other);
        assert_eq!((none.match_score, none.matched_roles, none.missing_roles), (0.0, 0, 0), "{other}");
    }

    // A norm of two dimensions, and of the second layer, which is not looked at, of three.
    tensors[8] = tensor("blk.0.ffn_norm.weight", 0, &[2, 2], 8 * 32);
    tensors.push(tensor("blk.1.ffn_norm.weight", 0, &[2, 2, 2], 9 * 32));
    tensors.extend(small(&["blk.1.x", "blk.2.x", "blk.1.y.z", "blk.1.rope_freqs.weight", "blk.1", "blk.1.", "a.1.w"]));
    let fit = family(&header(Some("llama"), tensors.clone()), "llama");
    assert_eq!((fit.extra_roles, fit.shape_violations, fit.matched_roles), (2, 1, 9));
    assert_eq!(fit.details, ["shape violation: blk.0.ffn_norm.weight has 2D, expected 1D"]);
    assert_eq!(float(fit.match_score), "0.9299999999999999", "1 - (1 * 0.05 + 2 * 0.01)");

    // Of no architecture: every family is tried, without a bonus.
    let fit = family(&header(None, tensors.clone()), "phi");
    assert_eq!((fit.matched_roles, fit.missing_roles, fit.extra_roles), (8, 0, 3));
    assert_eq!(float(fit.match_score), "0.97");
    let fit = family(&header(None, tensors), "mixtral");
    assert_eq!((fit.matched_roles, fit.missing_roles, fit.details.len()), (6, 4, 4));
    assert_eq!(fit.details[0], "missing expected role: ffn_gate_inp.weight");
    assert_eq!(float(fit.match_score), "0.5499999999999999", "6 / 10 - 5 * 0.01");

    let many = (0..40).map(|i| format!("blk.0.x{i}")).collect::<Vec<_>>();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(family(&header(Some("phi3"), small(&many[..10])), "phi").match_score, 0.3 - 0.1);
    assert_eq!(family(&header(Some("phi"), small(&many)), "phi").match_score, 0.0, "never below");
    assert_eq!(family(&header(Some("mi\u{17f}tral"), vec![]), "mistral").match_score, 0.3, "Go folds the long s");
}

#[test]
fn verification_finds_each_difference_and_names_it() {
    type Change = fn(&mut TensorManifest);
    use DifferenceKind as Kind;
    let cases: [(Kind, Option<&str>, Change); 16] = [
        (Kind::ManifestVersion, None, |m| m.manifest_version = "2.0".into()),
        (Kind::FileHash, None, |m| m.file_hash = Sha256Digest::of(b"other")),
        (Kind::StructureHash, None, |m| m.structure_hash = Sha256Digest::of(b"other")),
        (Kind::Architecture, None, |m| m.architecture = "phi".into()),
        (Kind::QuantType, None, |m| m.quant_type = "Q6_K".into()),
        (Kind::Parameters, None, |m| m.parameters += 1),
        (Kind::FileSize, None, |m| m.file_size -= 1),
        (Kind::TensorType, Some("b"), |m| m.tensors[1].kind = "F16".into()),
        (Kind::TensorShape, Some("b"), |m| m.tensors[1].shape = vec![4, 1]),
        (Kind::TensorShape, Some("b"), |m| m.tensors[1].shape.push(1)),
        (Kind::TensorOffset, Some("a"), |m| m.tensors[0].offset = 1),
        (Kind::TensorSize, Some("c"), |m| m.tensors[2].data_size -= 1),
        (Kind::TensorElements, Some("c"), |m| m.tensors[2].element_count += 1),
        (Kind::MerkleLeaves, None, |m| m.tensors.swap(0, 1)),
        (Kind::TensorHash, Some("b"), |m| {
            m.tensors[1].hash = Sha256Digest::of(b"other");
        }),
        (Kind::TensorDuplicate, Some("a"), |m| {
            let again = m.tensors[0].clone();
            m.tensors.push(again);
        }),
    ];
    for (kind, tensor, change) in cases {
        let mut changed = manifest();
        change(&mut changed);
        let found = verify(&changed, &manifest());
        let of_kind: Vec<_> = found.iter().filter(|d| d.kind == kind).collect();
        assert_eq!(of_kind.len(), 1, "{kind:?}: {found:?}");
        assert_eq!(of_kind[0].tensor.as_deref(), tensor, "{kind:?}");
        // What a leaf's change brings along; everything else changes alone.
        let allowed: &[Kind] = match kind {
            Kind::TensorHash => &[Kind::MerkleLeaves],
            Kind::TensorDuplicate => &[Kind::MerkleLeaves, Kind::TensorCount],
            _ => &[],
        };
        assert!(found.iter().all(|d| d.kind == kind || allowed.contains(&d.kind)), "{kind:?}: {found:?}");
    }
    assert_eq!(verify(&manifest(), &manifest()), []);
}

#[test]
fn a_tensor_that_is_missing_or_new_is_named() {
    let mut less = manifest();
    let gone = less.tensors.remove(1);
    less.tensor_count = 2;
    less.merkle_root = merkle_root(&[less.tensors[0].hash, less.tensors[1].hash]);
    let kinds = |found: &[Difference]| found.iter().map(|d| d.kind).collect::<Vec<_>>();
    use DifferenceKind as Kind;
    let found = verify(&less, &manifest());
    assert_eq!(kinds(&found), [Kind::TensorCount, Kind::MerkleRoot, Kind::TensorExtra]);
    assert_eq!(
        (found[2].tensor.as_deref(), &*found[2].message),
        (Some("b"), "the tensor \"b\" is not in the manifest")
    );
    let found = verify(&manifest(), &less);
    assert_eq!(kinds(&found), [Kind::TensorCount, Kind::MerkleRoot, Kind::TensorMissing]);
    assert_eq!(found[2].message, "the manifest's tensor \"b\" is not in the file");
    assert_eq!((&found[2].expected, &*found[2].actual), (&gone.hash.to_hex(), ""));

    // The count stated is right, the list is not.
    let mut short = manifest();
    short.tensors.pop();
    let found = verify(&short, &manifest());
    assert_eq!(kinds(&found), [Kind::TensorCount, Kind::MerkleLeaves, Kind::TensorExtra]);
    assert_eq!((&*found[0].expected, &*found[0].actual), ("3", "2"));
    let none = TensorManifest { merkle_root: None, ..manifest() };
    assert_eq!(kinds(&verify(&none, &manifest())), [Kind::MerkleRoot, Kind::MerkleLeaves]);
}

#[test]
fn any_of_the_commonest_types_is_the_quantisation() {
    let tensors = [12, 14, 12, 14, 0].iter().zip(0..).map(|(t, i)| tensor(&i.to_string(), *t, &[256], i * 1024));
    let header = header(None, tensors.collect());
    let digests = FileDigests { size_bytes: 9, sha256: Sha256Digest::of(b""), tensors: vec![Sha256Digest::of(b""); 5] };
    let actual = TensorManifest::of(&header, &digests).expect("five");
    for (said, differs) in [("Q4_K", 0), ("Q6_K", 0), ("F32", 1), ("Q8_0", 1), ("", 1)] {
        let found = verify(&TensorManifest { quant_type: said.into(), ..actual.clone() }, &actual);
        assert_eq!(found.len(), differs, "{said}: {found:?}");
    }
}

#[test]
fn the_lines_are_gguf_guards() {
    assert_eq!(verify_lines(&[]), ["PASS: all tensors match manifest"]);
    let mut changed = manifest();
    changed.tensors[1].hash = Sha256Digest::of(b"other");
    changed.tensors[0].offset = 7;
    changed.tensors[2].name = "new".into();
    changed.architecture = "phi".into();
    let (was, is) = (Sha256Digest::of(b"other").to_hex(), Sha256Digest::of(b"2").to_hex());
    let found = verify(&changed, &manifest());
    let lines = verify_lines(&found);
    assert_eq!((lines.len(), &*lines[0]), (7, "FAIL: 6 mismatches"));
    assert_eq!(lines[1], "  architecture mismatch (expected phi, got llama)");
    assert!(lines[2].starts_with("  manifest Merkle root does not match tensor hashes (expected "));
    assert_eq!(
        &lines[3..],
        [
            "  a: offset mismatch (expected 7, got 0)".to_owned(),
            format!("  b: hash mismatch (expected {}, got {})", &was[..16], &is[..16]),
            "  c: not in manifest".to_owned(),
            "  new: manifest tensor not present in file".to_owned(),
        ]
    );
    let checked = found.iter().filter(|d| d.kind.is_checked_by_gguf_guard()).map(|d| d.tensor.clone());
    assert_eq!(checked.collect::<Vec<_>>(), [Some("b".to_owned()), Some("c".to_owned())]);
    let json = serde_json::to_value(&found[3]).expect("plain data");
    assert_eq!((&json["kind"], &json["tensor"], &json["actual"]), (&json!("tensor_hash"), &json!("b"), &json!(is)));
    assert!(serde_json::to_value(&found[0]).expect("plain data").get("tensor").is_none());
}

#[test]
fn what_a_manifest_quotes_is_cut() {
    let long = "x".repeat(100_000);
    let changed = TensorManifest { architecture: long.clone(), quant_type: long, ..manifest() };
    for difference in verify(&changed, &manifest()) {
        assert!(difference.message.len() < 300 && difference.expected.len() < 100, "{difference:?}");
    }
}

#[test]
fn only_a_manifest_is_read_as_one() {
    let json = to_json(&manifest());
    assert_eq!(TensorManifest::parse(json.as_bytes()).expect("ours"), manifest());
    assert!(TensorManifest::parse(json.replace('}', ",\"more\":1}").as_bytes()).is_ok(), "what is not known is let be");
    let hash = manifest().tensors[0].hash.to_hex();
    let shape = "\"shape\": [\n        2,\n        2\n      ]";
    assert!(json.contains(shape));
    assert!(TensorManifest::parse(json.replace(shape, "\"shape\": [1,1,1,1,1,1,1,1]").as_bytes()).is_ok());
    for (bad, why) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "struct TensorManifest"),
        ("{}".to_owned(), "manifest_version"),
        (json.replace(shape, "\"shape\": [1,1,1,1,1,1,1,1,1]"), "8 dimensions"),
        (json.replace(shape, "\"shape\": null"), "dimensions"),
        (json.replace(shape, "\"shape\": [-1]"), "u64"),
        (json.replace(&hash, &hash[1..]), "64 hex digits"),
        (json.replace("\"merkle_root\": \"", "\"merkle_root\": \"0"), "64 hex digits"),
        (json.replacen("\"offset\": 0", "\"offset\": -1", 1), "u64"),
        (json.replacen("\"file_size\": 2000", "\"file_size\": 1e3", 1), "u64"),
        (json.replacen("\"file_size\"", "\"file_size\": 1, \"file_size\"", 1), "duplicate"),
        (json.clone() + "x", "trailing"),
    ] {
        let e = TensorManifest::parse(bad.as_bytes()).expect_err(why);
        assert_eq!(e.kind(), ErrorKind::Refused, "{why}");
        assert!(e.to_string().contains(why), "{e} should say {why:?}");
    }
    let most = vec![b' '; MAX_MANIFEST as usize + 1];
    assert_eq!(TensorManifest::parse(&most).expect_err("too long").kind(), ErrorKind::TooLarge);
    assert_eq!(TensorManifest::parse(&most[1..]).expect_err("empty").kind(), ErrorKind::Refused);
}
