//! What OCI repositories hold.
//!
//! Owns: pushes without a server, and looking at what was pushed. Promises: makes the very calls of the core that the server makes.
//! Leaves out: the protocol.

use crate::whole::{digest, names};
use securereg::{ContentDigest, Error, ErrorKind, Kind, Put, Registry, RepositoryName, Result, Sha256Digest};
use serde_json::{Map, Value, json};
use std::path::Path;

fn bytes(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| Error::new(ErrorKind::Io, format!("reading {}: {e}", file.display())))
}

/// A blob in pieces, as it comes from the network.
pub(crate) fn push(root: &Path, repo: &str, file: &Path) -> Result<()> {
    let (registry, repo, bytes) = (Registry::open_or_create(root)?, repo.parse::<RepositoryName>()?, bytes(file)?);
    let mut upload = registry.content().begin(&repo)?;
    for piece in bytes.chunks(50_000) {
        upload.append(piece)?;
    }
    upload.finish(&Sha256Digest::of(&bytes).into()).map(drop)
}

/// A manifest or a tag.
pub(crate) fn put(root: &Path, repo: &str, kind: &str, name: &str, file: &Path) -> Result<()> {
    let registry = Registry::open_or_create(root)?;
    let kind = if kind == "tag" { Kind::Tag } else { Kind::Manifest };
    registry.content().put(&repo.parse()?, &kind, name, &bytes(file)?, Put::Any).map(drop)
}

/// Takes a blob from a repository.
pub(crate) fn remove(root: &Path, repo: &str, file: &Path) -> Result<()> {
    let registry = Registry::open_or_create(root)?;
    registry.content().remove_blob(&repo.parse()?, &Sha256Digest::of(&bytes(file)?).into()).map(drop)
}

fn recorded(registry: &Registry, repo: &str) -> Result<Vec<ContentDigest>> {
    let folder = registry.root().join("oci").join(repo).join("_blobs");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let digest = |name: String| name.strip_prefix("sha256-").and_then(|hex| hex.parse::<Sha256Digest>().ok());
    Ok(names(&folder)?.into_iter().filter_map(digest).map(ContentDigest::from).collect())
}

fn repositories(registry: &Registry) -> Result<Vec<String>> {
    registry.content().repositories(None, 1000)
}

/// What is shown of every repository: its blobs, its manifests and tags with their bytes' digests.
pub(crate) fn state(registry: &Registry) -> Result<Value> {
    let content = registry.content();
    let mut all = Map::new();
    for name in repositories(registry)? {
        let repo: RepositoryName = name.parse()?;
        let mut blobs = Vec::new();
        for digest in recorded(registry, &name)? {
            if let Some(held) = content.blob(&repo, &digest)? {
                blobs.push(held.sha256.to_hex());
            }
        }
        let documents = |kind: &Kind<'_>| -> Result<Value> {
            let mut found = Map::new();
            for name in content.list(&repo, kind, None, 1000)? {
                let bytes = content.get(&repo, kind, &name)?.unwrap_or_default();
                found.insert(name, json!(Sha256Digest::of(&bytes).to_hex()));
            }
            Ok(Value::Object(found))
        };
        let shown = json!({"blobs": blobs, "manifests": documents(&Kind::Manifest)?, "tags": documents(&Kind::Tag)?});
        // A folder that nothing is in yet is made before what goes into it.
        if shown != json!({"blobs": [], "manifests": {}, "tags": {}}) {
            all.insert(name, shown);
        }
    }
    Ok(Value::Object(all))
}

/// The stored files that repositories hold.
pub(crate) fn blobs(registry: &Registry) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for name in repositories(registry)? {
        let repo: RepositoryName = name.parse()?;
        for digest in recorded(registry, &name)? {
            all.extend(registry.content().blob(&repo, &digest)?.map(|held| held.sha256.to_hex()));
        }
    }
    Ok(all)
}

/// What is shown is given, every byte of it.
pub(crate) fn every_blob_is_whole(registry: &Registry, problems: &mut Vec<String>) -> Result<()> {
    let content = registry.content();
    for name in repositories(registry)? {
        let repo: RepositoryName = name.parse()?;
        for wanted in recorded(registry, &name)? {
            let Some(held) = content.blob(&repo, &wanted)? else { continue };
            let read = content.open(&repo, &wanted).and_then(|open| digest(|out, at| open.read_at(out, at)));
            match read {
                Ok(found) if found == (held.size_bytes, held.sha256) => {}
                Ok(_) => problems.push(format!("{name}: wrong bytes of {}", held.sha256)),
                Err(e) => problems.push(format!("{name}: {} is shown and cannot be read: {e}", held.sha256)),
            }
        }
    }
    Ok(())
}
