//! Who must have signed, by the names of models.
//!
//! Owns: `signers` of policy.yaml. Promises: a key is written into the policy as PEM or lies beside it under a plain name, and is read
//! with it, so that a policy whose key is missing admits nothing; a pattern holds for a name however its letters are written, since
//! two names that differ only by case are one to the registry; a rule never takes away what another requires. Leaves out: what a
//! signature must be (`signing::check`).
//!
//! ```yaml
//! signers:
//!   - name: "org/**"                  # patterns as in registry.yaml: `*` in a component, `**` any number of them; every tag
//!     keys: [release.pem, lab.pem]    # one of these signed; files beside policy.yaml, or PEM
//!     require: true
//!   - name: "scratch/*:dev*"          # only tags like dev*
//!     keys: ["-----BEGIN PUBLIC KEY-----\n..."]
//!     require: false                  # unsigned is fine, a signature must hold
//! ```

use super::text::wrong;
use crate::digest::shorten;
use crate::error::{Error, Result};
use crate::glob::Glob;
use crate::name::{ModelName, RelPath};
use crate::signing::{Circle, MAX_KEY, NamedKey, PublicKey, Trust, read};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;

/// Rules of one policy, and keys of one rule.
const MAX_SIGNERS: usize = 64;
const MAX_KEYS: usize = 16;

/// Reads a key file that the policy names.
pub(crate) type KeyFile<'a> = dyn Fn(&str) -> Result<Vec<u8>> + 'a;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignersText {
    name: String,
    keys: Vec<String>,
    require: bool,
}

/// Keys that are trusted with the names of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers {
    repo: Glob,
    tag: Option<Glob>,
    circle: Circle,
}

impl Signers {
    /// The pattern, as it was written.
    pub fn names(&self) -> &str {
        &self.circle.names
    }

    /// Whether one of them must have signed.
    pub fn is_required(&self) -> bool {
        self.circle.required
    }

    /// Each key's name and the key.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &PublicKey)> {
        self.circle.keys.iter().map(|named| (named.name.as_str(), &named.key))
    }

    fn matches(&self, name: &ModelName) -> bool {
        let fits = |glob: &Glob, text: &str| glob.matches(&text.to_ascii_lowercase());
        fits(&self.repo, name.repo()) && self.tag.as_ref().is_none_or(|tag| name.tag().is_some_and(|t| fits(tag, t)))
    }
}

impl Serialize for Signers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let keys: Vec<_> = self
            .keys()
            .map(|(name, key)| json!({"name": name, "key": key.id(), "algorithm": key.algorithm().as_str()}))
            .collect();
        json!({"name": self.names(), "keys": keys, "require": self.is_required()}).serialize(serializer)
    }
}

/// Those of the rules that speak of a name.
pub(super) fn trusted<'a>(signers: &'a [Signers], name: &ModelName) -> Trust<'a> {
    Trust(signers.iter().filter(|rule| rule.matches(name)).map(|rule| &rule.circle).collect())
}

pub(super) fn parse(texts: Vec<SignersText>, key_file: &KeyFile<'_>) -> Result<Vec<Signers>> {
    if texts.len() > MAX_SIGNERS {
        return Err(wrong(format!("`signers` has {} rules, over the limit of {MAX_SIGNERS}", texts.len())));
    }
    texts.into_iter().map(|text| one(text, key_file)).collect()
}

fn one(text: SignersText, key_file: &KeyFile<'_>) -> Result<Signers> {
    let SignersText { name, keys, require } = text;
    let glob = |text: &str| text.to_ascii_lowercase().parse::<Glob>().map_err(|e| wrong(format!("in `signers`: {e}")));
    let (repo, tag) = match name.split_once(':') {
        Some((repo, tag)) if !tag.contains('/') => (repo, Some(glob(tag)?)),
        Some(_) => return Err(wrong(format!("in `signers`: {:?} is no pattern: a tag has no '/'", shorten(&name)))),
        None => (name.as_str(), None),
    };
    let repo = glob(repo)?;
    if keys.is_empty() || keys.len() > MAX_KEYS {
        let why = format!("`signers` trusts {} keys with {:?}: 1 to {MAX_KEYS} are wanted", keys.len(), shorten(&name));
        return Err(wrong(why));
    }
    let mut named: Vec<NamedKey> = Vec::new();
    for (i, text) in keys.iter().enumerate() {
        let key = one_key(text, i, &name, key_file)?;
        if let Some(before) = named.iter().find(|before| before.key == key.key) {
            return Err(wrong(format!(
                "`signers` trusts one key twice with {:?}: {} and {}",
                shorten(&name),
                before.name,
                key.name
            )));
        }
        named.push(key);
    }
    Ok(Signers { repo, tag, circle: Circle { names: name, keys: named, required: require } })
}

/// A key out of the policy, or out of a file beside it.
fn one_key(text: &str, i: usize, names: &str, key_file: &KeyFile<'_>) -> Result<NamedKey> {
    let about = |name: &str, e: &Error| wrong(format!("in `signers`, the key {name}: {}", e.message()));
    if text.contains("-----BEGIN") {
        let name = format!("key {} of {names}", i + 1);
        let key = PublicKey::from_pem(text.as_bytes()).map_err(|e| about(&name, &e))?;
        return Ok(NamedKey { name, key });
    }
    let plain = text.parse::<RelPath>().ok().filter(|path| path.components().count() == 1);
    let Some(file) = plain else {
        let what = shorten(text);
        return Err(wrong(format!(
            "in `signers`, {what:?} is no key: PEM is, or the plain name of a file beside policy.yaml"
        )));
    };
    let name = file.as_str();
    let key = key_file(name).and_then(|text| PublicKey::from_pem(&text)).map_err(|e| about(name, &e))?;
    Ok(NamedKey { name: name.to_owned(), key })
}

/// A key file in a folder of whoever asks.
pub(super) fn read_beside(folder: &Path, name: &str) -> Result<Vec<u8>> {
    read(&folder.join(name), MAX_KEY)
}

#[cfg(test)]
mod tests;
