//! `POST /v1/promote`, `POST /v1/model/promote`: both generations, one handler.
//!
//! Owns: those routes and the parsing of their body; `{"name":"repo:tag"}` alone is a model that was pushed (`oci`). Promises: sources come only from the staging folders; the digest the
//! caller's scanners saw is required, so that what is promoted is what was scanned; what the registry does not know of a
//! body is kept as evidence, bounded by the body's cap; a refusal made here is in the audit log like any other. Leaves
//! out: judging the content (`Registry::promote`).

use super::{App, either};
use crate::auth::Caller;
use crate::blocking::Lane;
use crate::body::{self, Fields};
use crate::jobs::{Job, Jobs, Key, Promote, Signature, Tune};
use crate::reply::{Answer, Reply};
use crate::staging::MAX_PATH;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use securereg::signing::SignatureFile;
use securereg::{Actor, Error, ModelName, Noted, PromoteRequest, Registry};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest name, file name or source, in bytes; the allow-lists of the core are narrower.
const MAX_TEXT: usize = 2048;
/// Members of a body that are kept as evidence, and how deep they nest.
const MAX_MEMBERS: usize = 64;
const MAX_DEPTH: usize = 32;

/// What an Artifact says of itself. A caller that sends such a member, an Artifact it read back for instance, must not be
/// able to say it in the registry's place, so these are dropped.
const OWN: [&str; 19] = [
    "action",
    "adapter",
    "blake3",
    "error",
    "evidence",
    "files",
    "findings",
    "generation",
    "incident_id",
    "inspection",
    "kind",
    "layout",
    "mounted",
    "promoted_at",
    "quarantine",
    "quarantine_reason",
    "safe_to_use",
    "skipped",
    "status",
];

/// 200 with the Artifact; 400 when validation fails; 409 when the name, the place in the mount or the content is taken.
pub(super) async fn promote(state: State<Arc<App>>, caller: Extension<Caller>, request: Request) -> Answer {
    start(state, caller, request, |reply| reply).await
}

/// The same, answered with 201: pipelines test for exactly that.
pub(super) async fn promote_created(state: State<Arc<App>>, caller: Extension<Caller>, request: Request) -> Answer {
    start(state, caller, request, |reply| reply.verdict_as(StatusCode::OK, StatusCode::CREATED)).await
}

async fn start(
    State(app): State<Arc<App>>,
    Extension(Caller { actor, .. }): Extension<Caller>,
    request: Request,
    tune: Tune,
) -> Answer {
    let headers = request.headers().clone();
    let body = body::read(request, app.limits.promote_body, app.limits.body_timeout).await?;
    if let Some(name) = pushed(&body) {
        return crate::oci::promote_pushed(&app, name, &actor).await.map(tune);
    }
    let promote = match parse(&body) {
        Ok(promote) => promote,
        Err(Bad::Malformed(reply)) => return Err(reply),
        Err(Bad::Refused(name, error)) => {
            let registry = app.registry.clone();
            return Ok(app.lanes.short(Lane::Change, move || refused(&registry, &name, error, &actor)).await);
        }
    };
    let asked = promote.clone();
    let work = move |app: &App, job: &Job| either(run(app, job, asked, &actor));
    Jobs::answer(&app, &headers, Key::Promote(Box::new(promote)), tune, work).await
}

/// The name, in a body that has nothing else: a model that was pushed as an OCI artifact and waits.
fn pushed(body: &[u8]) -> Option<ModelName> {
    let mut fields = Fields::parse(body).ok()?;
    let name: ModelName = fields.required("name", MAX_TEXT).ok()?.parse().ok()?;
    (fields.rest().is_empty() && name.tag().is_some()).then_some(name)
}

/// Why a body goes no further.
#[derive(Debug)]
enum Bad {
    /// It says nothing that could be done: no decision, so not in the audit log.
    Malformed(Reply),
    /// It asks for what is not allowed.
    Refused(ModelName, Error),
}

impl<E: Into<Reply>> From<E> for Bad {
    fn from(e: E) -> Self {
        Bad::Malformed(e.into())
    }
}

fn parse(body: &[u8]) -> Result<Promote, Bad> {
    let mut fields = Fields::parse(body)?;
    let name: ModelName = fields.required("name", MAX_TEXT)?.parse()?;
    let sha256 = fields.required("sha256", MAX_TEXT)?.parse()?;
    let path = fields.text("path", MAX_PATH)?;
    let staged = fields.text("staged_filename", MAX_PATH)?;
    let filename = fields.text("filename", MAX_TEXT)?;
    let wanted = match (path, staged, &filename) {
        (Some(_), Some(_), _) => return Err(Reply::invalid("give \"path\" or \"staged_filename\", not both").into()),
        (Some(path), None, _) | (None, Some(path), _) => path,
        (None, None, Some(filename)) => filename.clone(),
        (None, None, None) => {
            return Err(Reply::invalid("field \"path\" is required (or \"staged_filename\", or \"filename\")").into());
        }
    };
    // The source's own base name is what it would be called anyway. Pipelines repeat it for folders too, of which the core
    // takes no file name.
    let own_name = Path::new(&wanted).file_name().and_then(|n| n.to_str());
    let filename = filename.filter(|f| own_name != Some(f)).map(|f| f.parse()).transpose()?;
    let size_bytes = fields.size("size_bytes")?;
    let format = match fields.text("format", MAX_TEXT)?.map(|f| f.parse()).transpose() {
        Ok(format) => format,
        Err(error) => return Err(Bad::Refused(name, error)),
    };
    let source = fields.text("source", MAX_TEXT)?.unwrap_or_default();
    let signature = self::signature(&mut fields)?;
    for key in ["policy_version", "source_revision"] {
        fields.check(key, "a string", Value::is_string)?;
    }
    fields.check("scanner_versions", "an object", Value::is_object)?;
    fields.check("scan_results", "an object or an array", |v| v.is_object() || v.is_array())?;
    let evidence = evidence(fields.rest())?;
    Ok(Promote {
        name,
        wanted: PathBuf::from(wanted),
        filename,
        sha256,
        size_bytes,
        format,
        source,
        signature,
        evidence,
    })
}

/// A path in a staging folder, or a bundle. What an Artifact that was read back says of its signature is neither, and is dropped like
/// its other words.
fn signature(fields: &mut Fields) -> Result<Option<Signature>, Bad> {
    match fields.any("signature") {
        None => Ok(None),
        Some(Value::Object(members)) if members.contains_key("signer") && !members.contains_key("mediaType") => {
            Ok(None)
        }
        Some(bundle @ Value::Object(_)) => {
            Ok(Some(Signature::Inline(SignatureFile::new("in the request", bundle.to_string().into_bytes())?)))
        }
        Some(Value::String(path)) if path.is_empty() => Ok(None),
        Some(Value::String(path)) if path.len() <= MAX_PATH && !path.chars().any(char::is_control) => {
            Ok(Some(Signature::Staged(PathBuf::from(path))))
        }
        Some(_) => {
            Err(Reply::invalid("field \"signature\" must be a path in a staging folder or a sigstore bundle").into())
        }
    }
}

fn evidence(rest: Map<String, Value>) -> Result<Map<String, Value>, Reply> {
    let kept: Map<String, Value> =
        rest.into_iter().filter(|(key, value)| !OWN.contains(&key.as_str()) && !value.is_null()).collect();
    if kept.len() > MAX_MEMBERS {
        return Err(Reply::invalid(&format!("the body has over {MAX_MEMBERS} members besides the known ones")));
    }
    for (key, value) in &kept {
        if key.len() > 64 || key.chars().any(char::is_control) {
            return Err(Reply::invalid(
                "the body has a member whose name is over 64 bytes or holds a control character",
            ));
        }
        if !nests_within(value, MAX_DEPTH) {
            return Err(Reply::invalid(&format!("field {key:?} nests deeper than {MAX_DEPTH}")));
        }
    }
    Ok(kept)
}

fn nests_within(value: &Value, depth: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => depth > 0 && items.iter().all(|v| nests_within(v, depth - 1)),
        Value::Object(members) => depth > 0 && members.values().all(|v| nests_within(v, depth - 1)),
    }
}

fn run(app: &App, job: &Job, asked: Promote, actor: &Actor) -> Answer {
    let source =
        app.staging.open(&asked.wanted).map_err(|refusal| refused(&app.registry, &asked.name, refusal, actor))?;
    let signature = match asked.signature {
        None => None,
        Some(Signature::Inline(signature)) => Some(signature),
        Some(Signature::Staged(path)) => {
            let staged = app.staging.open(&path).and_then(|staged| staged.as_signature());
            Some(staged.map_err(|refusal| refused(&app.registry, &asked.name, refusal, actor))?)
        }
    };
    let mut request = PromoteRequest::new(asked.name);
    request.signature = signature;
    request.filename = asked.filename;
    request.sha256 = Some(asked.sha256);
    request.size_bytes = asked.size_bytes;
    request.format = asked.format;
    request.source = asked.source;
    request.evidence = asked.evidence;
    let promotion = job.attend(|task| app.registry.promote(request, source, actor, task))?;
    let mut body = app.registry.describe_changed(&promotion.artifact);
    if !promotion.skipped.is_empty() {
        // Files of a folder that are no part of a model (a README, say): the caller should know they were left out.
        body["skipped"] = promotion.skipped.into();
    }
    Ok(Reply::ok(&body))
}

/// The answer to a refusal decided here, which is written down like those of the core.
fn refused(registry: &Registry, name: &ModelName, refusal: Error, actor: &Actor) -> Reply {
    let why = format!("{}: {}", refusal.kind().as_str(), refusal.message());
    match registry.audit_note(Noted::Refuse, name.as_str(), &why, actor) {
        Ok(()) => refusal.on(name).into(),
        // Refused either way; that the log cannot be written is the graver fault, so that is told.
        Err(e) => e.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn with(extra: Value) -> Result<Promote, Bad> {
        let mut body = json!({"name": "m", "sha256": HEX, "path": "m.gguf"});
        for (key, value) in extra.as_object().expect("an object") {
            body[key] = value.clone();
        }
        parse(body.to_string().as_bytes())
    }

    fn reply_to(parsed: Result<Promote, Bad>) -> Reply {
        match parsed.expect_err("refused") {
            Bad::Malformed(reply) => reply,
            Bad::Refused(_, error) => error.into(),
        }
    }

    #[test]
    fn both_generations_of_bodies_parse() {
        let seed = json!({"name":"m","path":"/srv/q/m.gguf","sha256":HEX,"format":"gguf","source":"hf"});
        let p = parse(seed.to_string().as_bytes()).expect("the seed's body");
        assert_eq!((p.wanted, p.filename, p.source.as_str()), ("/srv/q/m.gguf".into(), None, "hf"));
        let staged = json!({"name":"m","filename":"m.gguf","staged_filename":"scan-1.gguf","sha256":HEX,"size_bytes":3,
            "scan_results":{"malware":"clean"},"scanner_versions":{},"policy_version":"p","policy_bundle":{"version":1},
            "source_revision":"","gguf_guard_fingerprint":{},"gguf_guard_manifest":"x","directory_provenance":null,"more":[1]});
        let p = parse(staged.to_string().as_bytes()).expect("the pipeline's body");
        assert_eq!((p.wanted, p.size_bytes), ("scan-1.gguf".into(), Some(3)));
        assert_eq!(p.filename.expect("given").as_str(), "m.gguf");
        let kept: Vec<&str> = p.evidence.keys().map(String::as_str).collect();
        let wanted = ["gguf_guard_fingerprint", "gguf_guard_manifest", "more", "policy_bundle", "policy_version"];
        assert_eq!(kept[..5], wanted);
        assert_eq!(kept[5..], ["scan_results", "scanner_versions", "source_revision"]);
        let short = json!({"name":"m","filename":"m.gguf","sha256":HEX});
        assert_eq!(parse(short.to_string().as_bytes()).expect("no staged name").wanted, PathBuf::from("m.gguf"));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (extra, field) in [
            (json!({"name": 1}), "name"),
            (json!({"name": null}), "name"),
            (json!({"sha256": ""}), "sha256"),
            (json!({"sha256": "abc"}), "SHA-256"),
            (json!({"path": null}), "path"),
            (json!({"path": ["a"]}), "path"),
            (json!({"path": "a\u{0}b"}), "path"),
            (json!({"staged_filename": "x"}), "staged_filename"),
            (json!({"filename": "../x"}), "path"),
            (json!({"filename": "a\nb"}), "filename"),
            (json!({"size_bytes": "3"}), "size_bytes"),
            (json!({"size_bytes": -3}), "size_bytes"),
            (json!({"format": "pickle"}), "format"),
            (json!({"format": 3}), "format"),
            (json!({"source": {}}), "source"),
            (json!({"source": "x".repeat(3000)}), "source"),
            (json!({"policy_version": 3}), "policy_version"),
            (json!({"source_revision": []}), "source_revision"),
            (json!({"scanner_versions": "1"}), "scanner_versions"),
            (json!({"scan_results": true}), "scan_results"),
        ] {
            let reply = reply_to(with(extra.clone()));
            assert_eq!(reply.status(), 400, "{extra}");
            assert!(reply.body()["error"].to_string().contains(field), "{extra}: {}", reply.body());
        }
    }

    #[test]
    fn a_signature_is_a_staged_file_or_a_bundle() {
        let signature = |value: Value| with(json!({"signature": value})).map(|p| p.signature);
        assert_eq!(signature(json!("m.sig")).expect("a path"), Some(Signature::Staged("m.sig".into())));
        let bundle = json!({"mediaType": "x", "signer": "me"});
        let Some(Signature::Inline(inline)) = signature(bundle.clone()).expect("a bundle") else { panic!("a bundle") };
        assert_eq!(serde_json::from_slice::<Value>(inline.bytes()).expect("JSON"), bundle);
        // Any other object is tried, and refused by the core; but not what an Artifact says.
        assert!(signature(json!({})).expect("an object").is_some());
        for none in [json!(null), json!(""), json!({"signer": "lab", "key": HEX, "kind": "oms"})] {
            let p = with(json!({"signature": none})).expect("fits");
            assert_eq!((p.signature, p.evidence), (None, Map::new()));
        }
        for bad in [json!(1), json!([]), json!(true), json!("a\u{0}b"), json!("x".repeat(MAX_PATH + 1))] {
            assert_eq!(reply_to(with(json!({"signature": bad}))).status(), 400, "{bad}");
        }
    }

    #[test]
    fn evidence_is_bounded_and_cannot_speak_for_the_registry() {
        let p = with(json!({"status": "promoted", "promoted_at": "never", "files": [], "mine": 1})).expect("fits");
        assert_eq!(p.evidence, *json!({"mine": 1}).as_object().expect("an object"));
        let many: Map<String, Value> = (0..65).map(|i| (format!("k{i}"), json!(1))).collect();
        assert_eq!(reply_to(with(Value::Object(many))).status(), 400);
        let deep = (0..33).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(reply_to(with(json!({"deep": deep}))).status(), 400);
        assert_eq!(reply_to(with(json!({"k".repeat(65): 1}))).status(), 400);
    }
}
