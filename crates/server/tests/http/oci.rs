//! The OCI registry over real sockets: what clients do, what they must not, and what becomes of models.

use crate::rig::{OK_MIN, Rig, TINY, test_data, wait_until};
use securereg::Sha256Digest;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The path of its Location.
    pub(crate) fn location(&self) -> String {
        let location = self.header("location").unwrap();
        location.strip_prefix("http://x").unwrap_or(location).to_owned()
    }
}

pub(crate) fn call(rig: &Rig, method: &str, target: &str, scope: &str, headers: &str, body: &[u8]) -> Reply {
    let auth = if scope.is_empty() { String::new() } else { format!("authorization: Bearer {}\r\n", rig.token(scope)) };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{auth}{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = rig.connect();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: bytes[end + 4..].to_vec() }
}

pub(crate) fn get(rig: &Rig, target: &str, scope: &str) -> Reply {
    call(rig, "GET", target, scope, "", b"")
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256Digest::of(bytes))
}

/// Pushes a blob in one request.
pub(crate) fn blob(rig: &Rig, repository: &str, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let reply = call(rig, "POST", &target, "promote", "", bytes);
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(reply.header("docker-content-digest"), Some(&*digest));
    digest
}

pub(crate) fn manifest(rig: &Rig, repository: &str, reference: &str, scope: &str, manifest: &Value) -> Reply {
    let kind = manifest["mediaType"].as_str().unwrap();
    let target = format!("/v2/{repository}/manifests/{reference}");
    call(rig, "PUT", &target, scope, &format!("content-type: {kind}\r\n"), manifest.to_string().as_bytes())
}

pub(crate) fn image(config: &str, layers: &[(&str, usize)]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .map(|(digest, size)| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": layers,
    })
}

#[test]
fn a_blob_goes_in_by_each_way_and_comes_out_whole_and_in_ranges() {
    let rig = Rig::new();
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let name = digest(&bytes);
    // A streamed session: POST, PATCH without a range, an empty PUT.
    let begun = call(&rig, "POST", "/v2/a/b/blobs/uploads/", "promote", "", b"");
    assert_eq!((begun.status, begun.header("content-length")), (202, Some("0")));
    assert!(begun.header("location").unwrap().starts_with("http://x/v2/a/b/blobs/uploads/"), "absolute");
    let patched = call(&rig, "PATCH", &begun.location(), "promote", "", &bytes[..500_000]);
    assert_eq!((patched.status, patched.header("range")), (202, Some("0-499999")));
    let status = get(&rig, &patched.location(), "promote");
    assert_eq!((status.status, status.header("range")), (204, Some("0-499999")));
    // A chunk that is not the next one.
    let wrong = call(&rig, "PATCH", &patched.location(), "promote", "content-range: 1-3\r\n", b"xyz");
    assert_eq!((wrong.status, wrong.header("range")), (416, Some("0-499999")));
    assert!(wrong.header("location").is_some());
    let rest = format!("content-range: 500000-{}\r\n", bytes.len() - 1);
    let put = format!("{}?digest={name}", patched.location());
    let done = call(&rig, "PUT", &put, "promote", &rest, &bytes[500_000..]);
    assert_eq!((done.status, done.header("docker-content-digest")), (201, Some(&*name)));
    assert_eq!(get(&rig, &patched.location(), "promote").status, 404, "the session has ended");
    let at = format!("/v2/a/b/blobs/{name}");
    for (range, status, from, to) in [
        ("", 200, 0, bytes.len()),
        ("range: bytes=5-9\r\n", 206, 5, 10),
        ("range: bytes=1199990-\r\n", 206, 1_199_990, bytes.len()),
        ("range: bytes=-7\r\n", 206, bytes.len() - 7, bytes.len()),
        ("range: bytes=70000-1100000\r\n", 206, 70_000, 1_100_001),
    ] {
        let reply = call(&rig, "GET", &at, "read", range, b"");
        assert_eq!(reply.status, status, "{range}");
        assert!(reply.body == bytes[from..to], "{range}");
        assert_eq!(reply.header("content-length"), Some(&*(to - from).to_string()));
    }
    let past = call(&rig, "GET", &at, "read", "range: bytes=1200000-\r\n", b"");
    assert_eq!(past.status, 416);
    let head = call(&rig, "HEAD", &at, "read", "", b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("1200000")));
    assert_eq!(head.header("docker-content-digest"), Some(&*name));
    // Empty, and again the same.
    let empty = blob(&rig, "a/b", b"");
    assert_eq!(
        call(&rig, "HEAD", &format!("/v2/a/b/blobs/{empty}"), "read", "", b"").header("content-length"),
        Some("0")
    );
    blob(&rig, "a/b", &bytes);
    // sha512, which is not what the bytes are hashed by on the way.
    let sha512 = securereg_oci::Digest::of(securereg_oci::Algorithm::Sha512, &bytes);
    let target = format!("/v2/a/b/blobs/uploads/?digest={sha512}");
    let reply = call(&rig, "POST", &target, "promote", "", &bytes);
    assert_eq!((reply.status, reply.header("docker-content-digest")), (201, Some(sha512.as_str())));
    assert!(get(&rig, &format!("/v2/a/b/blobs/{sha512}"), "read").body == bytes);
    // Gone.
    assert_eq!(call(&rig, "DELETE", &at, "promote", "", b"").status, 403);
    assert_eq!(call(&rig, "DELETE", &at, "admin", "", b"").status, 202);
    assert_eq!(get(&rig, &at, "read").code(), "BLOB_UNKNOWN");
}

/// Threat 20.
#[test]
fn t20_a_wrong_digest_is_400_and_a_blob_of_another_repository_is_unknown() {
    let rig = Rig::new();
    let other = digest(b"other");
    let reply = call(&rig, "POST", &format!("/v2/a/blobs/uploads/?digest={other}"), "promote", "", b"bytes");
    assert_eq!((reply.status, reply.code().as_str()), (400, "DIGEST_INVALID"));
    let secret = blob(&rig, "team/secret", b"secret");
    assert_eq!(get(&rig, &format!("/v2/a/blobs/{secret}"), "read").status, 404);
    let mount = |from: &str| {
        let target = format!("/v2/b/blobs/uploads/?mount={secret}&from={from}");
        call(&rig, "POST", &target, "promote", "", b"")
    };
    assert_eq!(mount("a").status, 202, "it is not there");
    assert_eq!(mount("..").status, 202);
    assert_eq!(mount("team/secret").status, 201);
    // From wherever it is, if that may be pulled.
    assert_eq!(call(&rig, "POST", &format!("/v2/c/blobs/uploads/?mount={secret}"), "promote", "", b"").status, 201);
    let nowhere = format!("/v2/c/blobs/uploads/?mount={other}");
    assert_eq!(call(&rig, "POST", &nowhere, "promote", "", b"").status, 202);
    assert_eq!(get(&rig, &format!("/v2/b/blobs/{secret}"), "read").body, b"secret");
    // A session is one of its repository.
    let begun = call(&rig, "POST", "/v2/a/blobs/uploads/", "promote", "", b"");
    let elsewhere = begun.location().replace("/v2/a/", "/v2/b/");
    assert_eq!(call(&rig, "PATCH", &elsewhere, "promote", "", b"x").code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(call(&rig, "DELETE", &begun.location(), "promote", "", b"").status, 204);
    assert_eq!(call(&rig, "PATCH", &begun.location(), "promote", "", b"x").status, 404);
}

#[test]
fn nobody_is_let_in_without_a_token_and_each_token_has_its_rights() {
    let rig = Rig::new();
    for target in ["/v2/", "/v2", "/v2/_catalog", "/v2/a/tags/list", "/v2/A//x", "/v2/a/manifests/latest"] {
        let reply = get(&rig, target, "");
        assert_eq!((reply.status, reply.code().as_str()), (401, "UNAUTHORIZED"), "{target}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Basic realm="), "{target}");
    }
    assert_eq!(get(&rig, "/v2/", "read").status, 200);
    for scope in ["verify", "containment"] {
        assert_eq!(get(&rig, "/v2/", scope).status, 401, "{scope}");
    }
    assert_eq!(call(&rig, "POST", "/v2/a/blobs/uploads/", "read", "", b"").code(), "DENIED");
    let wrong = "authorization: Basic YTpi\r\n";
    assert_eq!(call(&rig, "GET", "/v2/", "", wrong, b"").status, 401);
}

#[test]
fn manifests_come_out_as_they_went_in_and_tags_are_listed_in_pages() {
    let rig = Rig::new();
    let config = blob(&rig, "lib/x", b"{}");
    let layer = blob(&rig, "lib/x", b"layer");
    let wanted = image(&config, &[(&layer, 5)]);
    let missing = image(&config, &[(&digest(b"nowhere"), 7)]);
    assert_eq!(manifest(&rig, "lib/x", "v", "promote", &missing).code(), "MANIFEST_BLOB_UNKNOWN");
    let put = manifest(&rig, "lib/x", "latest", "promote", &wanted);
    let name = digest(wanted.to_string().as_bytes());
    assert_eq!((put.status, put.header("docker-content-digest")), (201, Some(&*name)));
    for reference in ["latest", &name] {
        let reply = get(&rig, &format!("/v2/lib/x/manifests/{reference}"), "read");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(IMAGE)));
        assert_eq!(reply.body, wanted.to_string().as_bytes());
    }
    for tag in ["b", "a", "c", "A"] {
        assert_eq!(manifest(&rig, "lib/x", tag, "promote", &wanted).status, 201);
    }
    let page = get(&rig, "/v2/lib/x/tags/list?n=3", "read");
    assert_eq!(page.json()["tags"], json!(["A", "a", "b"]));
    assert!(page.header("link").unwrap().contains("last=b"), "{:?}", page.header("link"));
    let rest = get(&rig, "/v2/lib/x/tags/list?n=3&last=b", "read");
    assert_eq!((rest.json()["tags"].clone(), rest.header("link")), (json!(["c", "latest"]), None));
    let none = get(&rig, "/v2/lib/x/tags/list?n=0", "read");
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), None));
    assert_eq!(get(&rig, "/v2/none/tags/list", "read").code(), "NAME_UNKNOWN");
    assert_eq!(get(&rig, "/v2/_catalog", "read").json()["repositories"], json!(["lib/x"]));
    let large = vec![b' '; (4 << 20) + 1];
    let header = format!("content-type: {IMAGE}\r\n");
    assert_eq!(call(&rig, "PUT", "/v2/lib/x/manifests/large", "promote", &header, &large).status, 413);
    assert_eq!(call(&rig, "DELETE", "/v2/lib/x/manifests/c", "admin", "", b"").status, 202);
    assert_eq!(get(&rig, "/v2/lib/x/manifests/c", "read").code(), "MANIFEST_UNKNOWN");
    assert_eq!(call(&rig, "DELETE", &format!("/v2/lib/x/manifests/{name}"), "admin", "", b"").status, 202);
    assert_eq!(get(&rig, "/v2/lib/x/manifests/latest", "read").status, 404, "its tags went with it");
}

#[test]
fn a_version_does_not_move_but_by_force_of_an_administrator() {
    let rig = Rig::new();
    let config = blob(&rig, "a", b"{}");
    let (one, two) = (blob(&rig, "a", b"one"), blob(&rig, "a", b"two"));
    let (one, two) = (image(&config, &[(&one, 3)]), image(&config, &[(&two, 3)]));
    for tag in ["v1.2.3", "1.0.0", "sha-0123abc", "latest", "sha256-abc.sig"] {
        assert_eq!(manifest(&rig, "a", tag, "promote", &one).status, 201, "{tag}");
        assert_eq!(manifest(&rig, "a", tag, "promote", &one).status, 201, "{tag}: the same again");
        let moves = matches!(tag, "latest" | "sha256-abc.sig");
        let moved = manifest(&rig, "a", tag, "promote", &two);
        assert_eq!(moved.status == 201, moves, "{tag}");
        if !moves {
            assert_eq!(moved.code(), "TAG_INVALID");
            assert!(moved.json().to_string().contains("does not move"), "{}", moved.json());
            assert_eq!(manifest(&rig, "a", &format!("{tag}?force=true"), "promote", &two).code(), "TAG_INVALID");
            assert_eq!(manifest(&rig, "a", &format!("{tag}?force=true"), "admin", &two).status, 201);
        }
        let now = get(&rig, &format!("/v2/a/manifests/{tag}"), "read");
        assert_eq!(now.body, two.to_string().as_bytes(), "{tag}");
    }
    let moves = rig.audit_events().into_iter().filter(|(event, ..)| event == "move_tag").collect::<Vec<_>>();
    assert_eq!(moves.len(), 3, "one for each that was moved: {moves:?}");
    assert!(moves.iter().any(|(_, name, why)| name == "a:v1.2.3" && why.contains("by force")));
}

/// A damaged blob, or one whose record was altered, is not there for who pulls, and goes when it is deleted.
#[test]
fn what_is_damaged_can_be_deleted() {
    let rig = Rig::new();
    for (bytes, damage) in [(b"one", "size_bytes"), (b"two", "sha256")] {
        let name = blob(&rig, "a", bytes);
        let record = rig.registry.root().join("oci/a/_blobs").join(name.replace(':', "-"));
        let text = fs::read_to_string(&record).unwrap().replace(damage, "other");
        fs::write(&record, text).unwrap();
        let target = format!("/v2/a/blobs/{name}");
        assert_eq!(get(&rig, &target, "read").status, 404);
        assert_eq!(call(&rig, "DELETE", &target, "admin", "", b"").status, 202, "{damage}");
        assert!(!record.exists());
    }
    let own = image(&blob(&rig, "a", b"{}"), &[]);
    assert_eq!(manifest(&rig, "a", "latest", "promote", &own).status, 201);
    let tag = rig.registry.root().join("oci/a/_tags/latest");
    fs::write(&tag, "nonsense").unwrap();
    assert_eq!(call(&rig, "DELETE", "/v2/a/manifests/latest", "admin", "", b"").status, 202);
    assert!(!tag.exists());
}

/// What changes repositories, or gives out what was refused, is in the audit log first, or is not done.
#[test]
fn what_cannot_be_written_down_is_not_done() {
    let rig = Rig::new();
    let config = blob(&rig, "a", b"{}");
    let (one, two) = (image(&config, &[]), image(&config, &[(&config, 2)]));
    assert_eq!(manifest(&rig, "a", "v1.0.0", "promote", &one).status, 201);
    let own = digest(one.to_string().as_bytes());
    let log = rig.registry.root().join("audit.jsonl");
    let aside = rig.registry.root().join("aside");
    let had_log = log.exists();
    if had_log {
        fs::rename(&log, &aside).unwrap();
    }
    fs::create_dir(&log).unwrap();
    let targets = ["manifests/v1.0.0", &format!("manifests/{own}"), &format!("blobs/{config}")];
    let forced = manifest(&rig, "a", "v1.0.0?force=true", "admin", &two);
    assert_eq!(forced.status, 503);
    assert!(forced.json().to_string().contains("audit log"), "{}", forced.json());
    for target in targets {
        assert_eq!(call(&rig, "DELETE", &format!("/v2/a/{target}"), "admin", "", b"").status, 503, "{target}");
    }
    fs::remove_dir(&log).unwrap();
    if had_log {
        fs::rename(&aside, &log).unwrap();
    }
    assert_eq!(get(&rig, "/v2/a/manifests/v1.0.0", "read").body, one.to_string().as_bytes(), "nothing was done");
    for target in targets {
        assert_eq!(get(&rig, &format!("/v2/a/{target}"), "read").status, 200, "{target}");
        assert_eq!(call(&rig, "DELETE", &format!("/v2/a/{target}"), "admin", "", b"").status, 202, "{target}");
        assert_eq!(call(&rig, "DELETE", &format!("/v2/a/{target}"), "admin", "", b"").status, 404, "{target}");
    }
    let deleted: Vec<_> = rig.audit_events().into_iter().filter(|(event, ..)| event == "delete_content").collect();
    let mut names: Vec<&str> = deleted.iter().map(|(_, name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(names, ["a:v1.0.0", &format!("a@{own}"), &format!("a@{config}")]);
}

#[test]
fn referrers_are_found_by_subject_filtered_and_imported() {
    let rig = Rig::new();
    let config = blob(&rig, "a", b"{}");
    let subject = image(&config, &[]);
    let name = digest(subject.to_string().as_bytes());
    let nothing = get(&rig, &format!("/v2/a/referrers/{name}"), "read");
    assert_eq!((nothing.status, nothing.header("content-type")), (200, Some(INDEX)));
    assert_eq!(nothing.json()["manifests"], json!([]));
    assert_eq!(manifest(&rig, "a", "latest", "promote", &subject).status, 201);
    let about = |kind: &str| {
        let mut artifact = image(&config, &[]);
        artifact["artifactType"] = kind.into();
        artifact["subject"] = json!({"mediaType": IMAGE, "digest": name, "size": subject.to_string().len()});
        artifact["annotations"] = json!({"k": kind});
        artifact
    };
    for kind in ["application/x.one", "application/x.two"] {
        let artifact = about(kind);
        let own = digest(artifact.to_string().as_bytes());
        let put = manifest(&rig, "a", &own, "promote", &artifact);
        assert_eq!((put.status, put.header("oci-subject")), (201, Some(&*name)));
    }
    let all = get(&rig, &format!("/v2/a/referrers/{name}"), "read").json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 2);
    let some = get(&rig, &format!("/v2/a/referrers/{name}?artifactType=application/x.two"), "read");
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));
    let found = &some.json()["manifests"];
    assert_eq!((found.as_array().unwrap().len(), &found[0]["annotations"]["k"]), (1, &json!("application/x.two")));
}

/// A model as oras pushes it, with Hanzo's types.
pub(crate) fn model(rig: &Rig, repository: &str, tag: &str, file: &str, title: &str) -> Reply {
    let bytes = fs::read(test_data(file)).unwrap();
    let config = blob(rig, repository, b"{}");
    let weights = blob(rig, repository, &bytes);
    let pushed = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "artifactType": "application/vnd.hanzo.model.v1",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{
            "mediaType": "application/vnd.hanzo.gguf", "digest": weights, "size": bytes.len(),
            "annotations": {"org.opencontainers.image.title": title},
        }],
    });
    manifest(rig, repository, tag, "promote", &pushed)
}

#[test]
fn a_pushed_model_is_promoted_under_its_tag_without_a_second_copy() {
    let rig = Rig::new();
    assert_eq!(model(&rig, "team/tiny", "v1.0.0", TINY, "tiny.gguf").status, 201);
    let artifact = |name: &str| rig.registry.catalog().unwrap().artifact(&name.parse().unwrap()).cloned();
    wait_until("it is promoted", || artifact("team/tiny:v1.0.0").is_some());
    let there = artifact("team/tiny:v1.0.0").unwrap();
    assert_eq!(there.files[0].path.as_str(), "tiny.gguf");
    assert_eq!(there.mount_path(&there.files[0]).as_str(), "team/tiny/v1.0.0/tiny.gguf");
    let weights = format!("sha256:{}", there.files[0].sha256);
    let stored = fs::read_dir(rig.registry.root().join("blobs/sha256")).unwrap().count();
    assert_eq!(stored, 2, "the config and the weights, once");
    assert_eq!(get(&rig, "/v2/team/tiny/manifests/v1.0.0", "read").status, 200);
    assert_eq!(get(&rig, &format!("/v2/team/tiny/blobs/{weights}"), "read").body, fs::read(test_data(TINY)).unwrap());
    let described = rig.call("GET", "/v1/model/team/tiny:v1.0.0", "read", None);
    assert_eq!((described.status, described.body["status"].as_str()), (200, Some("promoted")));
    // The repository and the model hold the bytes each.
    assert_eq!(call(&rig, "DELETE", &format!("/v2/team/tiny/blobs/{weights}"), "admin", "", b"").status, 202);
    let file = rig.registry.open_file(&there.name, &there.files[0].path, securereg::ReadMode::Cached).unwrap();
    assert_eq!(file.len(), there.files[0].size_bytes);
    assert_eq!(call(&rig, "DELETE", "/v2/team/tiny/manifests/v1.0.0", "admin", "", b"").status, 202);
    assert!(artifact("team/tiny:v1.0.0").is_none(), "the model goes with its tag");
}

/// A layer by the name of a signature is the model's signature.
#[test]
fn a_pushed_model_is_admitted_by_the_signature_that_is_pushed_with_it() {
    use securereg::signing::{PrivateKey, sign};
    let rig = Rig::new();
    let root = rig.registry.root();
    fs::copy(test_data("signing/p256.pub"), root.join("lab.pub")).unwrap();
    fs::write(root.join("policy.yaml"), "version: 1\nsigners: [{name: \"team/**\", keys: [lab.pub], require: true}]\n")
        .unwrap();
    let signed = |key: &str| {
        let source = securereg::Source::open(&test_data(TINY)).unwrap();
        let key = PrivateKey::from_pem(&fs::read(test_data(key)).unwrap()).unwrap();
        sign(&source, "tiny", &key, &securereg::Task::unattended()).unwrap()
    };
    let weights = fs::read(test_data(TINY)).unwrap();
    let push = |tag: &str, signature: &[u8]| {
        let config = blob(&rig, "team/tiny", b"{}");
        let layer = |kind: &str, bytes: &[u8], title: &str| {
            let digest = blob(&rig, "team/tiny", bytes);
            let annotations = json!({"org.opencontainers.image.title": title});
            json!({"mediaType": kind, "digest": digest, "size": bytes.len(), "annotations": annotations})
        };
        let pushed = json!({
            "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.hanzo.model.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
            "layers": [layer("application/vnd.hanzo.gguf", &weights, "tiny.gguf"),
                layer("application/vnd.cncf.model.doc.v1.raw", signature, "tiny.gguf.sig")],
        });
        assert_eq!(manifest(&rig, "team/tiny", tag, "promote", &pushed).status, 201);
        format!("/v1/model/team/tiny:{tag}")
    };
    let good = push("good", &signed("signing/p256.pem"));
    wait_until("it is promoted", || rig.call("GET", &good, "read", None).body["status"] == "promoted");
    let shown = rig.call("GET", &good, "read", None).body;
    assert_eq!((&shown["signature"]["signer"], &shown["filename"]), (&json!("lab.pub"), &json!("tiny.gguf")));
    let bad = push("bad", &signed("signing/p384.pem"));
    let reason = || rig.call("GET", &bad, "read", None).body["quarantine"]["reason"].to_string();
    wait_until("it is judged", || reason().contains("signature.untrusted"));
}

#[test]
fn a_refused_model_is_pushed_and_never_served() {
    let rig = Rig::new();
    assert_eq!(model(&rig, "team/m", "latest", OK_MIN, "m.gguf").status, 201);
    let name = "team/m:latest".parse().unwrap();
    wait_until("it is promoted", || rig.registry.catalog().unwrap().artifact(&name).is_some());
    let before = rig.registry.catalog().unwrap().artifact(&name).unwrap().sha256;
    let hostile = fs::read_dir(test_data("hostile")).unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    let bad = hostile.filter(|n| n.ends_with(".gguf") && !n.contains("_ok")).min().unwrap();
    let pushed = model(&rig, "team/m", "latest", &format!("hostile/{bad}"), "m.gguf");
    assert_eq!(pushed.status, 201, "the push has succeeded");
    let own = pushed.header("docker-content-digest").unwrap().to_owned();
    let manifest = format!("/v2/team/m/manifests/{own}");
    wait_until("it is judged", || get(&rig, &manifest, "read").json().to_string().contains("refused"));
    for target in ["/v2/team/m/manifests/latest", &manifest] {
        let reply = get(&rig, target, "read");
        assert_eq!((reply.status, reply.code().as_str()), (403, "DENIED"), "{target}");
        assert_eq!(get(&rig, target, "admin").status, 200, "who may see quarantine sees it");
    }
    let weights = digest(&fs::read(test_data(&format!("hostile/{bad}"))).unwrap());
    assert_eq!(get(&rig, &format!("/v2/team/m/blobs/{weights}"), "read").code(), "DENIED");
    assert_eq!(get(&rig, &format!("/v2/team/m/blobs/{weights}"), "admin").status, 200);
    let read: Vec<_> = rig.audit_events().into_iter().filter(|(event, ..)| event == "read_refused").collect();
    let names: Vec<&str> = read.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, [&*format!("team/m@{own}"), &format!("team/m@{weights}")], "once, however often it is read");
    assert!(read.iter().all(|(.., why)| why.contains("was refused")), "{read:?}");
    // It goes to another repository with who may see it, and is held back there as well.
    let mount = format!("/v2/team/other/blobs/uploads/?mount={weights}&from=team/m");
    assert_eq!(call(&rig, "POST", &mount, "admin", "", b"").status, 201);
    let there = format!("/v2/team/other/blobs/{weights}");
    assert_eq!(get(&rig, &there, "read").code(), "DENIED");
    let part = call(&rig, "GET", &there, "admin", "range: bytes=-1\r\n", b"");
    assert!(matches!(part.status, 200 | 206), "{}", part.status);
    let mut told =
        rig.audit_events().into_iter().filter(|(event, ..)| event == "read_refused").map(|(_, name, _)| name);
    assert_eq!(told.next_back(), Some(format!("team/other@{weights}")), "in part, too");
    // Who pushes is told that it is there, and not given it.
    for target in [format!("/v2/team/m/blobs/{weights}"), manifest.clone()] {
        assert_eq!(call(&rig, "HEAD", &target, "promote", "", b"").status, 200, "{target}");
        assert_eq!(call(&rig, "HEAD", &target, "read", "", b"").status, 403, "{target}");
        assert_eq!(get(&rig, &target, "promote").status, 403, "{target}");
    }
    assert_eq!(rig.registry.catalog().unwrap().artifact(&name).unwrap().sha256, before, "the last admitted is served");
    assert!(rig.audit_events().iter().any(|(event, name, _)| event == "refuse" && name == "team/m:latest"));
    let referrers = get(&rig, &format!("/v2/team/m/referrers/{own}"), "read").json();
    assert_eq!(referrers["manifests"][0]["artifactType"], "application/vnd.securereg.verdict.v1+json");
    // One that was never admitted is described with its reason.
    model(&rig, "team/new", "latest", &format!("hostile/{bad}"), "m.gguf");
    wait_until("it is judged", || {
        let described = rig.call("GET", "/v1/model/team/new:latest", "read", None);
        described.body["quarantine"]["reason"].as_str().is_some_and(|reason| !reason.contains("not been judged"))
    });
}

/// A refused model's bytes stay where they are: no mount, no deletion and no other tag's name changes who gets them.
#[test]
fn a_verdict_holds_wherever_the_bytes_go() {
    let rig = Rig::new();
    let hostile = fs::read_dir(test_data("hostile")).unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    let bad = hostile.filter(|n| n.ends_with(".gguf") && !n.contains("_ok")).min().unwrap();
    let pushed = model(&rig, "team/bad", "latest", &format!("hostile/{bad}"), "m.gguf");
    let own = pushed.header("docker-content-digest").unwrap().to_owned();
    let weights = digest(&fs::read(test_data(&format!("hostile/{bad}"))).unwrap());
    let blob = format!("/v2/team/bad/blobs/{weights}");
    wait_until("it is judged", || {
        get(&rig, &format!("/v2/team/bad/manifests/{own}"), "read").json().to_string().contains("refused")
    });
    for from in ["&from=team/bad", ""] {
        let mount = format!("/v2/team/other/blobs/uploads/?mount={weights}{from}");
        assert_eq!(call(&rig, "POST", &mount, "promote", "", b"").status, 202, "{from}");
    }
    assert_eq!(get(&rig, &format!("/v2/team/other/blobs/{weights}"), "read").status, 404);
    assert_eq!(call(&rig, "DELETE", &format!("/v2/team/bad/manifests/{own}"), "admin", "", b"").status, 202);
    assert_eq!(get(&rig, &blob, "read").code(), "DENIED", "its manifest has gone, the verdict has not");
    // One that was admitted, under a name that another's case takes.
    assert_eq!(model(&rig, "team/good", "v1", OK_MIN, "m.gguf").status, 201);
    let name = "team/good:v1".parse().unwrap();
    wait_until("it is promoted", || rig.registry.catalog().unwrap().artifact(&name).is_some());
    assert_eq!(model(&rig, "team/good", "V1", OK_MIN, "m.gguf").status, 201);
    wait_until("the other tag is refused", || {
        rig.audit_events().iter().any(|(e, n, _)| e == "refuse" && n == "team/good:V1")
    });
    assert_eq!(get(&rig, "/v2/team/good/manifests/v1", "read").status, 200, "it goes on being pulled");
    // Under an incident nobody pulls it.
    let body = json!({"action": "quarantine", "incident_id": "i", "model_name": "team/good:v1", "reason": "r"});
    assert_eq!(rig.call("POST", "/api/v1/quarantine", "containment", Some(&body)).status, 200);
    let sound = digest(&fs::read(test_data(OK_MIN)).unwrap());
    for target in ["/v2/team/good/manifests/v1".to_owned(), format!("/v2/team/good/blobs/{sound}")] {
        let reply = get(&rig, &target, "read");
        assert_eq!((reply.status, reply.code().as_str()), (403, "DENIED"), "{target}");
        assert_eq!(get(&rig, &target, "admin").status, 200, "{target}");
    }
}

/// A file in an archive of one (POSIX ustar).
fn packed(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(156, "0");
    put(257, "ustar\x0000");
    put(148, "        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    [&header[..], bytes, &vec![0; bytes.len().next_multiple_of(512) - bytes.len() + 1024]].concat()
}

/// The catalog knows what was in a layer, not the layer: an incident holds that back, too.
#[test]
fn a_packed_model_under_an_incident_is_not_pulled() {
    let rig = Rig::new();
    let layer = packed("m.gguf", &fs::read(test_data(OK_MIN)).unwrap());
    let (config, weights) = (blob(&rig, "team/p", b"{}"), blob(&rig, "team/p", &layer));
    let pushed = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": {"mediaType": "application/vnd.cncf.model.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.cncf.model.weight.v1.tar", "digest": weights, "size": layer.len()}],
    });
    assert_eq!(manifest(&rig, "team/p", "v1", "promote", &pushed).status, 201);
    let name = "team/p:v1".parse().unwrap();
    wait_until("it is promoted", || rig.registry.catalog().unwrap().artifact(&name).is_some());
    let targets = ["/v2/team/p/manifests/v1".to_owned(), format!("/v2/team/p/blobs/{weights}")];
    targets.iter().for_each(|target| assert_eq!(get(&rig, target, "read").status, 200, "{target}"));
    let body = json!({"action": "quarantine", "incident_id": "i", "model_name": "team/p:v1", "reason": "r"});
    assert_eq!(rig.call("POST", "/api/v1/quarantine", "containment", Some(&body)).status, 200);
    targets.iter().for_each(|target| assert_eq!(get(&rig, target, "read").status, 403, "{target}"));
}

/// An index that names one manifest many times, and referrers with large annotations: bounded.
#[test]
fn referrers_cost_what_a_page_may() {
    let rig = Rig::new();
    let config = blob(&rig, "a", b"{}");
    let mut artifact = image(&config, &[]);
    artifact["annotations"] = json!({"k": "x".repeat(1 << 20)});
    let subject = digest(b"subject");
    artifact["subject"] = json!({"mediaType": IMAGE, "digest": subject, "size": 7});
    for n in 0..6 {
        artifact["annotations"]["n"] = n.to_string().into();
        let own = digest(artifact.to_string().as_bytes());
        assert_eq!(manifest(&rig, "a", &own, "promote", &artifact).status, 201);
    }
    let child = digest(artifact.to_string().as_bytes());
    let size = artifact.to_string().len();
    let children: Vec<Value> =
        (0..10_000).map(|_| json!({"mediaType": IMAGE, "digest": child, "size": size})).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    let tag = subject.replace(':', "-");
    assert_eq!(manifest(&rig, "a", &tag, "promote", &index).status, 201);
    let mut target = format!("/v2/a/referrers/{subject}");
    let mut seen = 0;
    loop {
        let page = get(&rig, &target, "read");
        assert_eq!(page.status, 200);
        assert!(page.body.len() < 6 << 20, "{} bytes", page.body.len());
        seen += page.json()["manifests"].as_array().unwrap().len();
        let Some(link) = page.header("link") else { break };
        target = link[1..link.find('>').unwrap()].to_owned();
    }
    assert_eq!(seen, 6, "each once");
}

/// The session is on the disk: a server that starts again goes on with it.
#[test]
fn an_upload_survives_a_restart() {
    let mut rig = Rig::new();
    let bytes = vec![7; 3 << 20];
    let begun = call(&rig, "POST", "/v2/a/blobs/uploads/", "promote", "", b"");
    let patched = call(&rig, "PATCH", &begun.location(), "promote", "", &bytes[..1 << 20]);
    assert_eq!(patched.status, 202);
    rig.restart();
    let status = get(&rig, &patched.location(), "promote");
    assert_eq!((status.status, status.header("range")), (204, Some("0-1048575")));
    let rest =
        call(&rig, "PATCH", &patched.location(), "promote", "content-range: 1048576-3145727\r\n", &bytes[1 << 20..]);
    assert_eq!(rest.status, 202);
    let put = format!("{}?digest={}", rest.location(), digest(&bytes));
    assert_eq!(call(&rig, "PUT", &put, "promote", "", b"").status, 201);
}
