//! Registries that lie, and models of others' making.

use crate::models::gguf;
use crate::rig::{Answer, Fake, Local, Request, answer, digest, honest, image, kind_of, ranged};
use securereg::{ErrorKind, Layout, Source, Task};
use securereg_oci::model::Family;
use securereg_remote::Options;

const HANZO: &str = "application/vnd.hanzo.model.v1";
const GGUF: &str = "application/vnd.hanzo.gguf";

/// Pulls from a registry that answers so; how it failed. Whatever it was, nothing is promoted.
fn pulled(to: &Local, say: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (ErrorKind, String) {
    let fake = Fake::new(say);
    kind_of(to.pull(&format!("{}/a/m:v1", fake.addr), None, &Options::default()))
}

#[test]
fn models_of_each_family_are_recognised_and_promoted() {
    let model = gguf(5 << 20, 4);
    let tar = tar(&[("nested/m.gguf", &model), ("nested/config.json", b"{}")]);
    let docker = "application/vnd.docker.container.image.v1+json";
    for (family, config, layers, files) in [
        (
            Family::Ollama,
            docker,
            vec![
                ("application/vnd.ollama.image.model", model.as_slice(), ""),
                ("application/vnd.ollama.image.license", b"free\n".as_slice(), ""),
                ("application/vnd.ollama.image.params", b"{\"stop\":[\"x\"]}".as_slice(), ""),
            ],
            vec!["LICENSE", "model.gguf", "params.json"],
        ),
        (
            Family::Docker,
            "application/vnd.docker.ai.model.config.v0.1+json",
            vec![("application/vnd.docker.ai.gguf.v3", model.as_slice(), "")],
            vec!["model.gguf"],
        ),
        (
            Family::KitOps,
            "application/vnd.kitops.modelkit.config.v1+json",
            vec![("application/vnd.kitops.modelkit.model.v1.tar", tar.as_slice(), "")],
            vec!["nested/config.json", "nested/m.gguf"],
        ),
        (
            Family::ModelPack,
            "application/vnd.cncf.model.config.v1+json",
            vec![
                ("application/vnd.cncf.model.weight.v1.tar", tar.as_slice(), ""),
                ("application/vnd.cncf.model.doc.v1.raw", b"# m\n".as_slice(), "README.md"),
                ("application/vnd.cncf.model.doc.v1.raw", b"# m\n".as_slice(), "docs/README.md"),
            ],
            vec!["README.md", "docs/README.md", "nested/config.json", "nested/m.gguf"],
        ),
    ] {
        let to = Local::new();
        let blobs = layers.iter().map(|(_, bytes, _)| bytes.to_vec()).collect();
        let fake = Fake::new(honest(image(config, &layers), blobs));
        let pulled = to.pull(&format!("{}/a/m:v1", fake.addr), None, &Options::default()).unwrap();
        let names: Vec<&str> = pulled.promotion.artifact.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!((pulled.family, names), (family, files));
        assert_eq!(to.left(), (vec![], vec![]), "{family:?}");
    }
}

/// A layer by the name of a signature is one: what is pulled is judged with it, and is the same model without it.
#[test]
fn a_signature_is_pulled_with_its_model() {
    use securereg::signing::{PrivateKey, sign};
    let own = Local::new();
    let data =
        |name: &str| std::fs::read(format!("{}/../../tests/data/signing/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let key = PrivateKey::from_pem(&data("p256.pem")).unwrap();
    let (m, config) = (gguf(4096, 1), b"{}".to_vec());
    let folder = own.registry.staging().join("folder");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("m.gguf"), &m).unwrap();
    let signed = |path: &std::path::Path| sign(&Source::open(path).unwrap(), "m", &key, &Task::unattended()).unwrap();
    let single = signed(&folder.join("m.gguf"));
    std::fs::write(folder.join("config.json"), &config).unwrap();
    let whole = signed(&folder);
    let doc = "application/vnd.cncf.model.doc.v1.raw";
    for (layers, shape, good) in [
        (vec![(GGUF, &m, "m.gguf"), (doc, &single, "m.gguf.sig")], Layout::File, true),
        (vec![(GGUF, &m, "m.gguf"), (doc, &config, "config.json"), (doc, &whole, "model.sig")], Layout::Folder, true),
        (vec![(GGUF, &m, "m.gguf"), (doc, &config, "other.json"), (doc, &whole, "model.sig")], Layout::Folder, false),
        (vec![(GGUF, &m, "m.gguf"), (doc, &config, "config.json")], Layout::Folder, false),
    ] {
        let to = Local::new();
        std::fs::write(to.registry.root().join("lab.pub"), data("p256.pub")).unwrap();
        let policy = "version: 1\nsigners: [{name: \"a/**\", keys: [lab.pub], require: true}]\n";
        std::fs::write(to.registry.root().join("policy.yaml"), policy).unwrap();
        let blobs = layers.iter().map(|(_, bytes, _)| (*bytes).clone()).collect();
        let layers: Vec<(&str, &[u8], &str)> =
            layers.iter().map(|(kind, bytes, title)| (*kind, bytes.as_slice(), *title)).collect();
        let fake = Fake::new(honest(image(HANZO, &layers), blobs));
        let pulled = to.pull(&format!("{}/a/m:v1", fake.addr), None, &Options::default());
        match pulled {
            Ok(pulled) => {
                assert!(good, "{layers:?}");
                assert_eq!(pulled.promotion.artifact.layout, shape);
                assert_eq!(pulled.promotion.signed.unwrap().signer(), "lab.pub");
                assert!(pulled.promotion.artifact.files.iter().all(|f| !f.path.as_str().ends_with(".sig")));
            }
            Err(e) => assert!(!good && e.kind() == ErrorKind::Refused, "{e}"),
        }
    }
}

#[test]
fn what_is_no_model_is_not_fetched() {
    let to = Local::new();
    let layer = ("application/vnd.oci.image.layer.v1.tar", b"layer".as_slice(), "");
    let plain = image("application/vnd.oci.image.config.v1+json", &[layer]);
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{}\",\"size\":5}}]}}",
        digest(b"child")
    );
    let huge = format!("{}{}", " ".repeat(5 << 20), plain);
    for (manifest, headers, kind, part) in [
        (plain.clone(), String::new(), ErrorKind::Refused, "is no model"),
        (index, String::new(), ErrorKind::Refused, &*format!("m@{}", digest(b"child"))),
        ("<html>".into(), "content-type: text/html\r\n".into(), ErrorKind::Refused, "is no manifest"),
        (plain, format!("docker-content-digest: {}\r\n", digest(b"other")), ErrorKind::DigestMismatch, "another than"),
        (huge, String::new(), ErrorKind::TooLarge, "more than"),
    ] {
        let fake = Fake::new(move |_| answer(200, &headers, &manifest));
        let (found, text) = kind_of(to.pull(&format!("{}/a/m:v1", fake.addr), None, &Options::default()));
        assert!(found == kind && text.contains(part), "{found:?}: {text}");
        assert_eq!(fake.count("/blobs/"), 0);
        to.is_clean();
    }
}

/// Threat 22.
#[test]
fn t22_other_bytes_more_bytes_and_other_parts_than_the_manifest_says_are_refused() {
    let model = gguf(5 << 20, 5);
    let manifest = image(HANZO, &[(GGUF, &model, "m.gguf")]);
    let wrong = {
        let mut wrong = model.clone();
        wrong[4_500_000] ^= 1;
        wrong
    };
    let longer = [model.as_slice(), b"!"].concat();
    let chunked = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n0\r\n\r\n"].concat();
    let (whole_longer, streamed_longer) = (longer.clone(), chunked(&longer));
    let last = model.len() - 1;
    type Say = Box<dyn Fn(&Request) -> Answer + Send + Sync>;
    let size = model.len();
    let cases: Vec<(&str, ErrorKind, Say)> = vec![
        (
            "other bytes",
            ErrorKind::DigestMismatch,
            Box::new({
                let wrong = wrong.clone();
                move |r| ranged(r, &wrong)
            }),
        ),
        ("other bytes, without ranges", ErrorKind::DigestMismatch, Box::new(move |_| answer(200, "", &wrong))),
        ("a longer whole", ErrorKind::TooLarge, Box::new(move |_| answer(200, "", &whole_longer))),
        (
            "a longer stream",
            ErrorKind::TooLarge,
            Box::new(move |_| answer(200, "transfer-encoding: chunked\r\n", &streamed_longer)),
        ),
        (
            "another total",
            ErrorKind::Refused,
            Box::new({
                let longer = longer.clone();
                move |r| ranged(r, &longer)
            }),
        ),
        (
            "another part",
            ErrorKind::Refused,
            Box::new({
                let model = model.clone();
                move |_| answer(206, &format!("content-range: bytes 1-{last}/{size}\r\n"), &model[1..])
            }),
        ),
        (
            "a longer part",
            ErrorKind::TooLarge,
            Box::new(move |_| answer(206, &format!("content-range: bytes 0-{last}/{size}\r\n"), &longer)),
        ),
        (
            "encoded",
            ErrorKind::Refused,
            Box::new({
                let model = model.clone();
                move |_| answer(200, "content-encoding: gzip\r\n", &model)
            }),
        ),
        ("absent", ErrorKind::NotFound, Box::new(|_| answer(404, "", b""))),
        ("unsatisfied", ErrorKind::Refused, Box::new(|_| answer(416, "", b""))),
        ("a redirect to nowhere", ErrorKind::Refused, Box::new(|_| answer(307, "", b""))),
        (
            "a redirect to the cloud's secrets",
            ErrorKind::Refused,
            Box::new(|_| answer(307, "location: http://169.254.169.254/latest/meta-data\r\n", b"")),
        ),
        (
            "a redirect round and round",
            ErrorKind::Refused,
            Box::new(|r| answer(307, &format!("location: {}\r\n", r.target), b"")),
        ),
        (
            "a redirect to a file",
            ErrorKind::Refused,
            Box::new(|_| answer(307, "location: file:///etc/passwd\r\n", b"")),
        ),
    ];
    for (what, kind, say) in cases {
        let (to, manifest) = (Local::new(), manifest.clone());
        let (found, text) = pulled(&to, move |request| match request.path().contains("/manifests/") {
            true => answer(200, "", &manifest),
            false => say(request),
        });
        assert_eq!(found, kind, "{what}: {text}");
        assert_eq!(to.registry.catalog().unwrap().artifacts().count(), 0, "{what}");
        let (beside, parts) = to.left();
        assert!(beside.is_empty(), "{what}: {beside:?}");
        assert!(kind != ErrorKind::DigestMismatch || parts.is_empty(), "{what}: {parts:?}");
    }
}

#[test]
fn a_registry_without_ranges_is_read_from_the_beginning_and_one_that_stumbles_is_asked_again() {
    let model = gguf(9 << 20, 6);
    let manifest = image(HANZO, &[(GGUF, &model, "m.gguf")]);
    let to = Local::new();
    let (whole, page) = (model.clone(), manifest.clone());
    let fake =
        Fake::new(
            move |r| if r.path().contains("/manifests/") { answer(200, "", &page) } else { answer(200, "", &whole) },
        );
    to.pull(&format!("{}/a/m:v1", fake.addr), None, &Options::default()).unwrap();
    let asked = std::sync::atomic::AtomicU32::new(0);
    let good = honest(manifest, vec![model]);
    let fake = Fake::new(move |request| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        n if n % 2 == 0 => answer(if n == 0 { 503 } else { 429 }, "retry-after: 0\r\n", b""),
        _ => good(request),
    });
    to.pull(&format!("{}/a/m:v2", fake.addr), None, &Options::default()).unwrap();
    assert_eq!(to.sha256("a/m:v1"), to.sha256("a/m:v2"));
}

#[test]
fn a_redirect_is_followed_and_takes_no_password_along() {
    let model = gguf(5 << 20, 7);
    let manifest = image(HANZO, &[(GGUF, &model, "m.gguf")]);
    let store = Fake::new(move |request| ranged(request, &model));
    let there = store.addr;
    let fake = Fake::new(move |request| match request.path() {
        _ if request.header("authorization").is_none() => answer(401, "www-authenticate: Basic realm=\"x\"\r\n", b""),
        path if path.contains("/manifests/") => answer(200, "", &manifest),
        _ => answer(307, &format!("location: http://{there}/store?sig=1\r\n"), b""),
    });
    let to = Local::new();
    let host = fake.addr.to_string();
    to.pull(&format!("{host}/a/m:v1"), None, &to.options(&[(&host, "secret")])).unwrap();
    let seen = store.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn what_policy_refuses_leaves_nothing_behind() {
    let good = gguf(4096, 8);
    let pickle = b"\x80\x04cos\nsystem\n(S'true'\ntR.";
    let evil = tar(&[("../out.gguf", &good)]);
    let twice = tar(&[("m.gguf", &good), ("m.gguf", b"other")]);
    let packed = "application/vnd.cncf.model.weight.v1.tar";
    for (what, layers) in [
        ("junk", vec![(GGUF, b"seventeen bytes!!".as_slice(), "m.gguf")]),
        ("code", vec![(GGUF, good.as_slice(), "m.gguf"), ("application/octet-stream", pickle.as_slice(), "x.bin")]),
        ("a path outside", vec![(GGUF, good.as_slice(), "../m.gguf")]),
        ("an absolute path", vec![(GGUF, good.as_slice(), "/tmp/m.gguf")]),
        ("a path twice", vec![(GGUF, good.as_slice(), "m.gguf"), (GGUF, b"x".as_slice(), "m.gguf")]),
        ("a file below a file", vec![(GGUF, good.as_slice(), "m.gguf"), (GGUF, b"x".as_slice(), "m.gguf/x")]),
        ("an archive that climbs", vec![(packed, evil.as_slice(), "")]),
        ("an archive with a file twice", vec![(packed, twice.as_slice(), "")]),
        (
            "an archive that is none",
            vec![(packed, b"no tar, but long enough to be looked at as if it were one".as_slice(), "")],
        ),
    ] {
        let to = Local::new();
        let blobs = layers.iter().map(|(_, bytes, _)| bytes.to_vec()).collect();
        let (kind, text) = pulled(&to, honest(image(HANZO, &layers), blobs));
        assert!(matches!(kind, ErrorKind::Refused | ErrorKind::InvalidInput), "{what}: {kind:?}: {text}");
        to.is_clean();
        assert!(!std::fs::exists("/tmp/m.gguf").unwrap() && !to.registry.root().join("out.gguf").exists(), "{what}");
    }
}

#[test]
fn a_model_larger_than_the_disk_is_refused_before_anything_is_fetched() {
    let manifest = image(HANZO, &[(GGUF, b"x", "m.gguf")]).replace("\"size\":1}", "\"size\":4611686018427387904}");
    let manifest = manifest.replace("\"size\":1,", "\"size\":4611686018427387904,");
    let to = Local::new();
    let (kind, text) = pulled(&to, honest(manifest, vec![]));
    assert_eq!(kind, ErrorKind::NoSpace, "{text}");
    to.is_clean();
}

#[test]
fn certificates_that_cannot_be_read_are_said() {
    let to = Local::new();
    let with = |ca| Options { ca: Some(to.dir.path().join(ca)), ..Options::default() };
    assert_eq!(kind_of(to.pull("127.0.0.1:1/a:v", None, &with("absent"))).0, ErrorKind::NotFound);
    std::fs::write(to.dir.path().join("ca.pem"), "nothing").unwrap();
    let (kind, text) = kind_of(to.pull("127.0.0.1:1/a:v", None, &with("ca.pem")));
    assert!(kind == ErrorKind::InvalidInput && text.contains("no certificate"), "{text}");
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        let mut head = [0; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..107].copy_from_slice(b"0000644");
        head[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        head[136..147].copy_from_slice(b"00000000000");
        head[156] = b'0';
        head[257..265].copy_from_slice(b"ustar\x0000");
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend(head);
        out.extend(*bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}
