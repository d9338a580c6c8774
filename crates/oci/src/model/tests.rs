//! Tests of what makes a model.

use super::*;
use crate::manifest::{DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX};
use proptest::prelude::*;
use serde_json::{Value, json};

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str, annotations: Value) -> Value {
    let digest = Digest::sha256_of(media_type.as_bytes());
    json!({ "mediaType": media_type, "digest": digest, "size": media_type.len(), "annotations": annotations })
}

fn parsed(value: &Value) -> Manifest {
    Manifest::parse(value.to_string().as_bytes(), None).unwrap_or_else(|e| panic!("{value}: {e}"))
}

fn image(artifact_type: &str, config: &str, layers: &[Value]) -> Manifest {
    parsed(&json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "artifactType": artifact_type,
        "config": descriptor(config, json!(null)), "layers": layers,
    }))
}

/// The files of an artifact with these layers, none of which gives itself a name.
fn nameless(layers: &[&str]) -> Vec<ModelFile> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(layer, json!(null))).collect();
    ModelManifest::recognise(&image("", EMPTY, &layers)).expect("a model").files
}

fn family(artifact_type: &str, config: &str, layers: &[&str]) -> Option<Family> {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(layer, json!(null))).collect();
    ModelManifest::recognise(&image(artifact_type, config, &layers)).map(|model| model.family)
}

#[test]
fn a_model_says_so_by_its_type_its_config_or_a_layer() {
    use Family::*;
    const DOCKER: &str = "application/vnd.docker.container.image.v1+json";
    for (artifact_type, config, layers, expected) in [
        ("application/vnd.hanzo.model.v1", EMPTY, &["application/json"][..], Some(Hanzo)),
        ("application/vnd.hanzo.model.v1+json", EMPTY, &[], Some(Hanzo)),
        ("", "application/vnd.hanzo.model.v1", &["application/json"], Some(Hanzo)),
        ("", OCI_CONFIG, &["application/json", "application/vnd.hanzo.gguf"], Some(Hanzo)),
        ("application/vnd.unknown.thing.v1", EMPTY, &[LAYER, "application/vnd.hanzo.safetensors"], Some(Hanzo)),
        ("application/vnd.cncf.model.manifest.v1+json", OCI_CONFIG, &[LAYER], Some(ModelPack)),
        ("", "application/vnd.cncf.model.config.v1+json", &[], Some(ModelPack)),
        ("", "application/vnd.cnai.model.config.v1+json", &[], Some(ModelPack)),
        ("application/vnd.cnai.model.manifest.v1+json", EMPTY, &[], Some(ModelPack)),
        ("", EMPTY, &["application/vnd.cncf.model.doc.v1.raw"], Some(ModelPack)),
        ("", "application/vnd.docker.ai.model.config.v0.1+json", &[], Some(Docker)),
        ("", "application/vnd.docker.ai.model.config.v0.2+json", &[], Some(Docker)),
        ("", EMPTY, &["application/vnd.docker.ai.gguf.v3"], Some(Docker)),
        ("application/vnd.kitops.modelkit.manifest.v1+json", EMPTY, &[], Some(KitOps)),
        ("", "application/vnd.kitops.modelkit.config.v1+json", &[], Some(KitOps)),
        ("", DOCKER, &["application/vnd.ollama.image.template", "application/vnd.ollama.image.model"], Some(Ollama)),
        ("", EMPTY, &["Application/Vnd.Hanzo.GGUF; v=3"], Some(Hanzo)),
        ("", OCI_CONFIG, &[LAYER, LAYER], None),
        ("", DOCKER, &["application/vnd.docker.image.rootfs.diff.tar.gzip"], None),
        ("", OCI_CONFIG, &["application/json", "application/json"], None),
        ("application/vnd.example.thing", EMPTY, &["application/json"], None),
        (
            "application/vnd.dev.sigstore.bundle.v0.3+json",
            EMPTY,
            &["application/vnd.dev.sigstore.bundle.v0.3+json"],
            None,
        ),
        ("application/vnd.hanzo.object+json", EMPTY, &["application/vnd.hanzo.object+json"], None),
        ("application/vnd.kitops.modelkit.index.v1+json", EMPTY, &[], None),
        ("", EMPTY, &["application/octet-stream", "application/vnd.hanzoid.gguf"], None),
    ] {
        assert_eq!(family(artifact_type, config, layers), expected, "{artifact_type} {config} {layers:?}");
    }
}

#[test]
fn an_index_is_no_model_and_an_opaque_manifest_may_be() {
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": "application/vnd.hanzo.model.v1", "manifests": [],
    });
    assert_eq!(ModelManifest::recognise(&parsed(&index)), None);
    for (media_type, field) in [
        ("application/vnd.example.manifest.v1+json", "layers"),
        ("application/vnd.example.manifest.v1+json", "blobs"),
        (crate::manifest::OCI_ARTIFACT, "blobs"),
    ] {
        let manifest =
            json!({ "mediaType": media_type, field: [descriptor("application/vnd.hanzo.gguf", json!(null))] });
        let model = ModelManifest::recognise(&parsed(&manifest)).expect(media_type);
        assert_eq!(model.files[0].path, "model.gguf");
    }
}

#[test]
fn what_a_layer_is_stands_in_its_type() {
    use Packaging::*;
    use Role::*;
    for (media_type, role, packaging, format, path) in [
        ("application/vnd.hanzo.safetensors", Weight, Raw, Some("safetensors"), "model.safetensors"),
        ("application/vnd.hanzo.gguf", Weight, Raw, Some("gguf"), "model.gguf"),
        ("application/vnd.hanzo.gguf.v3", Weight, Raw, Some("gguf"), "model.gguf"),
        ("application/vnd.hanzo.pytorch", Weight, Raw, Some("pytorch"), "pytorch_model.bin"),
        ("application/vnd.hanzo.onnx", Weight, Raw, Some("onnx"), "model.onnx"),
        ("application/vnd.hanzo.lora", Adapter, Raw, None, "adapter"),
        ("application/vnd.cncf.model.weight.v1.raw", Weight, Raw, None, "model"),
        ("application/vnd.cncf.model.weight.v1.tar", Weight, Tar, None, "model.tar"),
        ("application/vnd.cncf.model.weight.v1.tar+gzip", Weight, TarGzip, None, "model.tar.gz"),
        ("application/vnd.cncf.model.weight.v1.tar+zstd", Weight, TarZstd, None, "model.tar.zst"),
        ("application/vnd.cncf.model.weight.v1.gguf", Weight, Raw, Some("gguf"), "model.gguf"),
        ("application/vnd.cncf.model.weight.v1.safetensors", Weight, Raw, Some("safetensors"), "model.safetensors"),
        ("application/vnd.cncf.model.weight.config.v1.raw", Config, Raw, None, "config"),
        ("application/vnd.cncf.model.weight.config.v1.tar+zstd", Config, TarZstd, None, "config.tar.zst"),
        ("application/vnd.cncf.model.doc.v1.tar", Doc, Tar, None, "doc.tar"),
        ("application/vnd.cncf.model.code.v1.raw", Code, Raw, None, "code"),
        ("application/vnd.cncf.model.dataset.v1.tar+gzip", Dataset, TarGzip, None, "dataset.tar.gz"),
        ("application/vnd.cnai.model.weight.v1.raw", Weight, Raw, None, "model"),
        ("application/vnd.cnai.model.layer.v1.tar+gzip", Other, TarGzip, None, "file.tar.gz"),
        ("application/vnd.docker.ai.gguf.v3", Weight, Raw, Some("gguf"), "model.gguf"),
        ("application/vnd.docker.ai.model.file.v1+gguf", Weight, Raw, Some("gguf"), "model.gguf"),
        ("application/vnd.docker.ai.safetensors", Weight, Raw, Some("safetensors"), "model.safetensors"),
        ("application/vnd.docker.ai.dduf", Weight, Raw, None, "model.dduf"),
        ("application/vnd.docker.ai.mmproj", Weight, Raw, Some("gguf"), "mmproj.gguf"),
        ("application/vnd.docker.ai.license", Doc, Raw, None, "LICENSE"),
        ("application/vnd.docker.ai.chat.template.jinja", Template, Raw, None, "chat_template.jinja"),
        ("application/vnd.docker.ai.vllm.config.tar", Config, Tar, None, "config.tar"),
        ("application/vnd.docker.ai.dir.tar", Other, Tar, None, "file.tar"),
        ("application/vnd.kitops.modelkit.model.v1.tar+gzip", Weight, TarGzip, None, "model.tar.gz"),
        ("application/vnd.kitops.modelkit.model.v1.tar+gzip-fastest", Weight, TarGzip, None, "model.tar.gz"),
        ("application/vnd.kitops.modelkit.model.v1.raw", Weight, Raw, None, "model"),
        ("application/vnd.kitops.modelkit.modelpart.v1.tar", Other, Tar, None, "modelpart.tar"),
        ("application/vnd.kitops.modelkit.dataset.v1.tar+zstd", Dataset, TarZstd, None, "dataset.tar.zst"),
        ("application/vnd.kitops.modelkit.code.v1.tar", Code, Tar, None, "code.tar"),
        ("application/vnd.kitops.modelkit.docs.v1.tar", Doc, Tar, None, "docs.tar"),
        ("application/vnd.ollama.image.model", Weight, Raw, Some("gguf"), "model.gguf"),
        ("application/vnd.ollama.image.projector", Weight, Raw, Some("gguf"), "mmproj.gguf"),
        ("application/vnd.ollama.image.draft", Weight, Raw, Some("gguf"), "draft.gguf"),
        ("application/vnd.ollama.image.adapter", Adapter, Raw, None, "adapter"),
        ("application/vnd.ollama.image.template", Template, Raw, None, "template.txt"),
        ("application/vnd.ollama.image.system", Config, Raw, None, "system.txt"),
        ("application/vnd.ollama.image.params", Config, Raw, None, "params.json"),
        ("application/vnd.ollama.image.messages", Config, Raw, None, "messages.json"),
        ("application/vnd.ollama.image.license", Doc, Raw, None, "LICENSE"),
        ("application/vnd.ollama.image.tensor", Weight, Raw, Some("safetensors"), "model.safetensors"),
        ("application/vnd.ollama.image.new", Other, Raw, None, "file"),
    ] {
        let files = nameless(&[media_type]);
        let [file] = files.as_slice() else { panic!("{media_type}: {files:?}") };
        let found = (file.role, file.packaging, file.format, file.path.as_str());
        assert_eq!(found, (role, packaging, format, path), "{media_type}");
        assert_eq!((file.media_type.as_str(), file.size), (media_type, media_type.len() as u64));
        assert_eq!(file.digest, Digest::sha256_of(media_type.as_bytes()));
    }
}

#[test]
fn a_layer_of_any_type_is_a_file_of_its_model() {
    use Packaging::*;
    use Role::*;
    let titled = |media_type: &str, title: &str| descriptor(media_type, json!({ TITLE: title }));
    let layers = [
        (titled("application/json", "config.json"), "config.json", Config, Raw, None),
        (descriptor("application/json", json!(null)), "config.json", Config, Raw, None),
        // oras names every file's type so, unless it is told another.
        (
            titled("application/vnd.oci.image.layer.v1.tar", "a/b.safetensors"),
            "a/b.safetensors",
            Weight,
            Raw,
            Some("safetensors"),
        ),
        (descriptor(LAYER, json!(null)), "file.tar.gz", Other, TarGzip, None),
        (descriptor(LAYER, json!({ TITLE: "dir", UNPACK: "true" })), "dir", Other, TarGzip, None),
        (
            descriptor("application/vnd.hanzo.gguf", json!({ TITLE: "dir", UNPACK: "true" })),
            "dir",
            Weight,
            TarGzip,
            Some("gguf"),
        ),
        (titled("application/x-tar", "x.tar"), "x.tar", Other, Raw, None),
        (titled("text/plain", "LICENSE.txt"), "LICENSE.txt", Doc, Raw, None),
        (titled("application/octet-stream", "README"), "README", Doc, Raw, None),
        (titled("application/octet-stream", "x/modeling.PY"), "x/modeling.PY", Code, Raw, None),
        (titled("application/octet-stream", "chat_template.jinja"), "chat_template.jinja", Template, Raw, None),
        (titled("application/octet-stream", "w.pt"), "w.pt", Weight, Raw, Some("pytorch")),
        (titled("application/octet-stream", "w.onnx"), "w.onnx", Weight, Raw, Some("onnx")),
        (titled("application/octet-stream", "a.gguf/b"), "a.gguf/b", Other, Raw, None),
        (descriptor("application/octet-stream", json!(null)), "file", Other, Raw, None),
    ];
    let manifest =
        image("application/vnd.hanzo.model.v1", EMPTY, &layers.iter().map(|layer| layer.0.clone()).collect::<Vec<_>>());
    let files = ModelManifest::recognise(&manifest).unwrap().files;
    assert_eq!(files.len(), layers.len());
    for (file, (layer, path, role, packaging, format)) in files.iter().zip(&layers) {
        let found = (file.path.as_str(), file.role, file.packaging, file.format);
        assert_eq!(found, (*path, *role, *packaging, *format), "{layer}");
    }
}

#[test]
fn a_path_is_taken_raw_from_the_first_that_names_one() {
    let weight = "application/vnd.cncf.model.weight.v1.raw";
    for (annotations, path) in [
        (json!({ "org.cncf.model.filepath": "a", "org.cnai.model.filepath": "b", TITLE: "c" }), "a"),
        (json!({ "org.cncf.model.filepath": "", "org.cnai.model.filepath": "b", TITLE: "c" }), "b"),
        (json!({ TITLE: "c" }), "c"),
        (json!({ TITLE: "" }), "model"),
        (json!({ TITLE: "../../etc/passwd" }), "../../etc/passwd"),
        (json!({ TITLE: "/abs\u{0}\n\u{202e}" }), "/abs\u{0}\n\u{202e}"),
        (json!({ TITLE: "." }), "."),
    ] {
        let model = ModelManifest::recognise(&image("", EMPTY, &[descriptor(weight, annotations.clone())])).unwrap();
        assert_eq!(model.files[0].path, path, "{annotations}");
    }
}

#[test]
fn ollamas_names_are_its_own() {
    let mut tensor = descriptor("application/vnd.ollama.image.tensor", json!(null));
    tensor["name"] = "model.layers.0.weight".into();
    let mut config = descriptor("application/vnd.ollama.image.json", json!(null));
    config["name"] = "config.json".into();
    let mut other = descriptor("application/octet-stream", json!(null));
    other["name"] = "x".into();
    let layers = [tensor, config, other];
    let manifest = json!({
        "schemaVersion": 2, "mediaType": DOCKER_IMAGE,
        "config": descriptor("application/vnd.docker.container.image.v1+json", json!(null)), "layers": layers,
    });
    let files = ModelManifest::recognise(&parsed(&manifest)).unwrap().files;
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["model.layers.0.weight.safetensors", "config.json", "file"]);
}

#[test]
fn made_up_names_are_distinct_and_shards_are_in_order() {
    let files = nameless(&[
        "application/vnd.docker.ai.gguf.v3",
        "application/vnd.docker.ai.license",
        "application/vnd.docker.ai.gguf.v3",
        "application/vnd.docker.ai.license",
        "application/vnd.docker.ai.dir.tar",
        "application/vnd.docker.ai.dir.tar",
        "application/vnd.docker.ai.mmproj",
    ]);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "model-00001-of-00002.gguf",
            "LICENSE",
            "model-00002-of-00002.gguf",
            "LICENSE-2",
            "file.tar",
            "file-2.tar",
            "mmproj.gguf",
        ]
    );
}

proptest! {
    #[test]
    fn any_types_and_paths_are_recognised_or_not(
        layers in prop::collection::vec(
            (
                "(application/vnd\\.(hanzo|cncf\\.model|docker\\.ai|kitops\\.modelkit|ollama\\.image|oci\\.image)\\.)[a-z.+]{1,20}",
                prop::option::of("\\PC*"),
            ),
            0..12,
        ),
    ) {
        let layers: Vec<Value> = layers.iter().map(|(t, title)| descriptor(t, json!({ TITLE: title.clone().unwrap_or_default() }))).collect();
        if let Some(model) = ModelManifest::recognise(&image("", EMPTY, &layers)) {
            prop_assert_eq!(model.files.len(), layers.len());
            let mut made_up: Vec<&str> = Vec::new();
            for (file, layer) in model.files.iter().zip(&layers) {
                prop_assert!(!file.path.is_empty());
                match layer["annotations"][TITLE].as_str().unwrap() {
                    "" => made_up.push(&file.path),
                    title => prop_assert_eq!(title, &file.path),
                }
            }
            let count = made_up.len();
            made_up.sort_unstable();
            made_up.dedup();
            prop_assert_eq!(made_up.len(), count);
        }
    }
}
