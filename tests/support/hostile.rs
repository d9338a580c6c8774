//! The hostile cases of tests/data/hostile/INDEX.json, laid out for a promotion: shared by the core's, the command's and the
//! server's tests. Those under `dirs/` do not travel in git (links, hidden files, odd names), so they are made here.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

pub struct Case {
    pub file: String,
    /// `accept`, `reject` or `policy`.
    pub expected: String,
    pub why: String,
}

/// All of them.
pub fn cases(data: &Path) -> Vec<Case> {
    let index = fs::read(data.join("hostile/INDEX.json")).unwrap();
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).unwrap();
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap().to_owned();
    let cases: Vec<Case> = index
        .iter()
        .map(|c| Case { file: text(c, "file"), expected: text(c, "expected"), why: text(c, "why") })
        .collect();
    assert!(cases.len() > 50, "the index was not read");
    cases
}

/// The rule that must be found in one that is not accepted: what is wrong with it, and not something else. None when it is
/// refused as a source, before there is anything to inspect.
pub fn rule(file: &str) -> Option<&'static str> {
    let (_, rule) = EXPECTED.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("{file} is new"));
    (!rule.is_empty()).then_some(rule)
}

const EXPECTED: &[(&str, &str)] = &[
    ("g01_empty.gguf", "content.empty"),
    ("g05_ver4.gguf", "gguf.version"),
    ("g06_bigendian.gguf", "content.big-endian"),
    ("g10_nkv_max.gguf", "gguf.count"),
    ("g11_keylen_max.gguf", "gguf.key"),
    ("g15_kv_type13.gguf", "gguf.value-type"),
    ("g16_arr_len_max.gguf", "gguf.count"),
    ("g20_align0.gguf", "gguf.alignment"),
    ("g21_align3.gguf", "gguf.alignment"),
    ("g25_dup_tensor.gguf", "gguf.tensor-duplicate"),
    ("g26_ndims5.gguf", "gguf.dimensions"),
    ("g30_nbytes_wrap.gguf", "gguf.size"),
    ("g31_size_acc_wrap.gguf", "gguf.size"),
    ("g35_type_removed4.gguf", "gguf.tensor-type"),
    ("g36_ne0_notblock.gguf", "gguf.blocks"),
    ("g40_off_gap.gguf", "gguf.gap"),
    ("g41_overlap.gguf", "gguf.overlap"),
    ("g45_tpl_ssti.gguf", "template.attribute"),
    ("g46_tpl_named.gguf", "template.attribute"),
    ("g50_name_nonutf8.gguf", "gguf.name-utf8"),
    ("g51_split_missing-00001-of-00002.gguf", "gguf.split-missing"),
    ("g55_scores_i8.gguf", "gguf.vocabulary-type"),
    ("g56_scores_short.gguf", "gguf.vocabulary-count"),
    ("g60_bos_oob.gguf", "gguf.token-id"),
    ("g61_q_nbytes.gguf", "gguf.size"),
    ("k02_h5.h5", "content.hdf5"),
    ("k03_zipslip.keras", "zip.name"),
    ("o03_extdata_self.onnx", "onnx.external-self"),
    ("p00_raw.pkl", "pickle.call"),
    ("p04_no_stop.pkl", "pickle.truncated"),
    ("p05_ext1.pkl", "pickle.extension"),
    ("p09_timeit.pkl", "pickle.call"),
    ("p10_torch.pt", "pickle.call"),
    ("p14_prefix_junk.pt", "zip.prefix"),
    ("p15_7z_pt.pt", "content.archive"),
    ("p19_bomb.pt", "zip.bomb"),
    ("p20_dup_member.pt", "zip.duplicate"),
    ("s01_short.safetensors", "content.disagrees"),
    ("s05_not_utf8.safetensors", "safetensors.json"),
    ("s06_not_brace.safetensors", "content.unknown"),
    ("s10_overlap.safetensors", "safetensors.overlap"),
    ("s11_first_gap.safetensors", "safetensors.hole"),
    ("s15_trailing.safetensors", "safetensors.trailing"),
    ("s16_trunc.safetensors", "safetensors.truncated"),
    ("s20_deep_json.safetensors", "safetensors.field"),
    ("s21_pickle_named.safetensors", "content.disagrees"),
    ("x01_llamafile.gguf", "content.llamafile"),
    ("x02_html.gguf", "content.html"),
    ("dirs/d01_idx_traversal", "index.outside"),
    ("dirs/d02_idx_missing", "index.missing"),
    ("dirs/d06_hidden", "folder.hidden"),
    ("dirs/d07_case", ""),
    ("dirs/d11_symlink_dir", ""),
    ("dirs/d12_hardlink", "folder.hard-link"),
    ("dirs/d16_deep", ""),
    ("dirs/d17_model_index_custom", "config.custom-class"),
];

/// Puts a case below `folder`; what is to be promoted.
pub fn lay_out(data: &Path, case: &str, folder: &Path) -> PathBuf {
    let to = folder.join(case);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    match case.strip_prefix("dirs/") {
        None => drop(fs::copy(data.join("hostile").join(case), &to).unwrap()),
        Some(kind) => {
            fs::create_dir_all(&to).unwrap();
            let tensor = fs::read(data.join("hostile/s00_ok.safetensors")).unwrap();
            fs::write(to.join("config.json"), b"{\"model_type\": \"test\"}").unwrap();
            make(kind, &to, &tensor);
        }
    }
    to
}

fn make(kind: &str, to: &Path, tensor: &[u8]) {
    let index = |map: &[(&str, &str)]| {
        let map: serde_json::Map<String, serde_json::Value> =
            map.iter().map(|(tensor, file)| ((*tensor).to_owned(), (*file).into())).collect();
        let text = serde_json::json!({"metadata": {"total_size": 4}, "weight_map": map}).to_string();
        fs::write(to.join("model.safetensors.index.json"), text).unwrap();
    };
    let shard = |name: &str| fs::write(to.join(name), tensor).unwrap();
    match kind {
        "d00_ok" => shard("model.safetensors"),
        "d01_idx_traversal" => {
            shard("model.safetensors");
            index(&[("a", "../../other/model.safetensors")]);
        }
        "d02_idx_missing" => {
            shard("model-00001-of-00002.safetensors");
            index(&[("a", "model-00001-of-00002.safetensors"), ("b", "model-00002-of-00002.safetensors")]);
        }
        "d06_hidden" => {
            shard("model.safetensors");
            fs::write(to.join(".payload"), b"hidden").unwrap();
        }
        "d07_case" => {
            shard("model.safetensors");
            fs::write(to.join("Config.json"), b"{\"model_type\": \"other\"}").unwrap();
        }
        "d11_symlink_dir" => {
            let outside = to.with_file_name("d11_outside");
            fs::create_dir_all(&outside).unwrap();
            fs::write(outside.join("model.safetensors"), tensor).unwrap();
            std::os::unix::fs::symlink(&outside, to.join("weights")).unwrap();
            shard("model.safetensors");
        }
        "d12_hardlink" => {
            let outside = to.with_file_name("d12_outside.safetensors");
            fs::write(&outside, tensor).unwrap();
            fs::hard_link(&outside, to.join("model.safetensors")).unwrap();
        }
        "d16_deep" => {
            let deep = (0..300).fold(to.to_owned(), |folder, _| folder.join("d"));
            fs::create_dir_all(&deep).unwrap();
            fs::write(deep.join("model.safetensors"), tensor).unwrap();
        }
        "d17_model_index_custom" => {
            shard("model.safetensors");
            let text = r#"{"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0", "unet": ["my_unet", "MyUNet"]}"#;
            fs::write(to.join("model_index.json"), text).unwrap();
            fs::create_dir(to.join("unet")).unwrap();
            fs::write(to.join("unet/config.json"), b"{}").unwrap();
        }
        other => panic!("{other} is new: say here how it is made"),
    }
}
