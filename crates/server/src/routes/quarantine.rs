//! `POST /api/v1/quarantine`: containment, as incident responders call it.
//!
//! Owns: that route, and which model a path of the mount means. Promises: one model is quarantined or none; a selector
//! that fits several is 409 naming them; a name and a path given together must mean the same model. Leaves out: what
//! quarantine does (`Registry::quarantine`).

use super::{App, either};
use crate::auth::Caller;
use crate::blocking::Lane;
use crate::body::{self, Fields};
use crate::reply::{Answer, Reply};
use crate::staging::MAX_PATH;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use securereg::{Artifact, Catalog, ErrorKind, ModelName, Registry};
use serde_json::json;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const MAX_NAME: usize = 1024;
/// The core keeps no longer one.
const MAX_INCIDENT: usize = 256;
const MAX_REASON: usize = 4096;
/// No more models than this are named in a 409.
const NAMED: usize = 10;

/// 200 `{"status":"quarantined","incident_id","model_name","reason","sha256","manifest_updated":true}`; 400; 404; 409
/// `{"error","kind":"conflict","matches":[...]}`.
pub(super) async fn quarantine(
    State(app): State<Arc<App>>,
    Extension(Caller { actor, .. }): Extension<Caller>,
    request: Request,
) -> Answer {
    let body = body::read(request, app.limits.body, app.limits.body_timeout).await?;
    let asked = parse(&body)?;
    let registry = app.registry.clone();
    let call = move || {
        let name = select(&registry, &asked)?;
        let artifact = registry.quarantine(&name, &asked.reason, Some(&asked.incident_id), &actor)?;
        Ok(Reply::ok(&json!({
            "status": "quarantined", "incident_id": asked.incident_id, "model_name": artifact.name, "reason": asked.reason,
            "sha256": artifact.sha256, "manifest_updated": true,
        })))
    };
    Ok(app.lanes.short(Lane::Contain, move || either(call())).await)
}

#[derive(Debug)]
struct Asked {
    incident_id: String,
    name: Option<ModelName>,
    path: Option<PathBuf>,
    reason: String,
}

fn parse(body: &[u8]) -> Result<Asked, Reply> {
    let mut fields = Fields::parse(body)?;
    let action = fields.required("action", MAX_NAME)?;
    if action != "quarantine" {
        return Err(Reply::invalid("field \"action\" must be \"quarantine\""));
    }
    let incident_id = fields.required("incident_id", MAX_INCIDENT)?;
    let name = fields.text("model_name", MAX_NAME)?.map(|name| name.parse()).transpose()?;
    let path = fields.text("model_path", MAX_PATH)?.map(PathBuf::from);
    if name.is_none() && path.is_none() {
        return Err(Reply::invalid("field \"model_name\" or \"model_path\" is required"));
    }
    let reason = fields.text("reason", MAX_REASON)?.unwrap_or_else(|| format!("incident {incident_id}"));
    Ok(Asked { incident_id, name, path, reason })
}

fn select(registry: &Registry, asked: &Asked) -> Result<ModelName, Reply> {
    let Some(path) = &asked.path else {
        return asked.name.clone().ok_or_else(|| Reply::invalid("field \"model_name\" or \"model_path\" is required"));
    };
    let mut mounts: Vec<PathBuf> = registry.mounts()?.into_iter().map(|mount| mount.mountpoint).collect();
    // Where it is mounted as a rule: containment must not fail because the daemon has just died.
    mounts.push(Registry::default_mount());
    let catalog = registry.catalog()?;
    let named = |name: &ModelName| asked.name.as_ref().is_none_or(|wanted| wanted == name);
    let matches: Vec<&ModelName> =
        matching(&catalog, &mounts, path).into_iter().map(|artifact| &artifact.name).filter(|n| named(n)).collect();
    match matches.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Reply::failure(StatusCode::NOT_FOUND, ErrorKind::NotFound.as_str(), "no model is at that path")),
        several => Err(Reply::json(
            StatusCode::CONFLICT,
            &json!({
                "error": format!("the path fits {} models: name one with \"model_name\"", several.len()),
                "kind": ErrorKind::Conflict.as_str(), "matches": several[..several.len().min(NAMED)],
            }),
        )),
    }
}

/// The artifacts that `path` means: it is one's place in the mount, lies inside it, or is a folder above it; or it is the
/// path of a blob, which several may share. A relative path is relative to the mount.
fn matching<'c>(catalog: &'c Catalog, mounts: &[PathBuf], path: &Path) -> Vec<&'c Artifact> {
    let below: Vec<&Path> = match path.is_absolute() {
        true => mounts.iter().filter_map(|mount| path.strip_prefix(mount).ok()).collect(),
        false => vec![path],
    };
    // Spelled out, or not at all: `..` could step out of one model's folder into another's.
    let spelled =
        |p: &&Path| p.components().all(|c| matches!(c, Component::Normal(_))) && p.components().next().is_some();
    let below: Vec<&Path> = below.into_iter().filter(spelled).collect();
    let means = |artifact: &&Artifact| below.iter().any(|path| is_at(artifact, path));
    catalog.artifacts().map(|artifact| &**artifact).filter(means).collect()
}

fn is_at(artifact: &Artifact, path: &Path) -> bool {
    if let Ok(blob) = path.strip_prefix(".by-digest") {
        let hex = blob.to_str().and_then(|name| name.strip_prefix("sha256-"));
        return artifact.files.iter().any(|file| hex == Some(file.sha256.to_hex().as_str()));
    }
    let claim = artifact.mount_claim();
    let claim = Path::new(claim.as_str());
    path.starts_with(claim) || claim.starts_with(path)
}
