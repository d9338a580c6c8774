//! policy.yaml.
//!
//! Owns: its form. Promises: what is not understood is an error that names the line and the nearest word that is known, never
//! passed over: a policy with a misspelt rule would admit what it was written to refuse; nothing in it can allow a critical
//! finding or do without the registry's own inspection. Leaves out: where it lies (`registry`), what it means (`policy`).
//!
//! ```yaml
//! version: 1
//! scanners: [format, clamav]          # must have run: `format` is ours, others come in a promotion's scanner_versions
//! formats: [gguf, safetensors]        # what may be promoted
//! severities: {high: refuse, warning: warn, info: allow}
//! rules:                              # by rule, or group; `securereg policy` lists them
//!   "folder.hidden": warn
//!   "template.*": refuse
//! signers:                            # who must have signed, by names: see `signers`
//!   - {name: "org/**", keys: [release.pem], require: true}
//! ```

use super::signers::{self, KeyFile, SignersText};
use super::{Action, Policy, SCANNER, Severities};
use crate::artifact::Format;
use crate::digest::{Sha256Digest, shorten};
use crate::error::{Error, ErrorKind, Result};
use crate::format;
use crate::format::finding::Severity;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A policy is written by hand: no sensible one is longer, in bytes.
pub(crate) const MAX_BYTES: u64 = 64 << 10;
const MAX_SCANNERS: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    #[serde(default)]
    scanners: Option<Vec<String>>,
    #[serde(default)]
    formats: Option<Vec<String>>,
    #[serde(default)]
    severities: Severities,
    /// As YAML's own type: that one refuses a key that stands twice.
    #[serde(default)]
    rules: serde_yaml::Mapping,
    #[serde(default)]
    signers: Vec<SignersText>,
}

pub(super) fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Manifest, format!("policy.yaml: {why}; nothing is promoted until it is put right"))
}

/// Reads a policy; `key_file` reads what it names beside itself.
pub(super) fn parse(text: &[u8], key_file: &KeyFile<'_>) -> Result<Policy> {
    if text.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("it has {} bytes, over the limit of {MAX_BYTES}", text.len())));
    }
    let utf8 = std::str::from_utf8(text).map_err(|e| wrong(format!("it is not UTF-8: {e}")))?;
    let parsed: Text = serde_yaml::from_str(utf8).map_err(wrong)?;
    if parsed.version != 1 {
        return Err(wrong(format!("it is of version {}; 1 is known", parsed.version)));
    }
    let mut policy = Policy { severities: parsed.severities, ..Policy::built_in() };
    if let Some(scanners) = parsed.scanners {
        policy.scanners = scanners;
    }
    check_scanners(&policy.scanners)?;
    if let Some(formats) = parsed.formats {
        policy.formats =
            formats.iter().map(|f| f.parse::<Format>().map_err(|e| wrong(e.message()))).collect::<Result<_>>()?;
    }
    if policy.formats.is_empty() {
        return Err(wrong("`formats` is empty: nothing could be promoted"));
    }
    policy.rules = rules(parsed.rules)?;
    policy.signers = signers::parse(parsed.signers, key_file)?;
    policy.sha256 = Some(Sha256Digest::of(text));
    Ok(policy)
}

fn check_scanners(scanners: &[String]) -> Result<()> {
    if !scanners.iter().any(|s| s == SCANNER) {
        return Err(wrong(format!(
            "`scanners` lacks {SCANNER:?}, the registry's own inspection, which always runs: add it"
        )));
    }
    if scanners.len() > MAX_SCANNERS {
        return Err(wrong(format!("it names over {MAX_SCANNERS} scanners")));
    }
    let named = |s: &&String| s.is_empty() || s.len() > 64 || s.chars().any(char::is_control);
    match scanners.iter().find(named) {
        Some(bad) => Err(wrong(format!("{:?} is no name of a scanner: 1 to 64 printable bytes are", shorten(bad)))),
        None => Ok(()),
    }
}

fn rules(mapping: serde_yaml::Mapping) -> Result<BTreeMap<String, Action>> {
    let mut rules = BTreeMap::new();
    for (key, value) in mapping {
        let key: String = serde_yaml::from_value(key).map_err(|e| wrong(format!("in `rules`: {e}")))?;
        let action: Action =
            serde_yaml::from_value(value).map_err(|e| wrong(format!("what follows from {:?}: {e}", shorten(&key))))?;
        check_rule(&key, action)?;
        rules.insert(key, action);
    }
    Ok(rules)
}

fn check_rule(key: &str, action: Action) -> Result<()> {
    if let Some(group) = key.strip_suffix('*') {
        let fits = |group: &str| group.is_empty() || format::rules().any(|r| r.id.starts_with(group));
        if !(group.is_empty() || group.ends_with('.')) || !fits(group) {
            return Err(wrong(format!(
                "{:?} is no group of rules: a group is what stands before the dot, then .*",
                shorten(key)
            )));
        }
        // A group may hold critical rules: those refuse all the same.
        return Ok(());
    }
    match format::rules().find(|rule| rule.id == key) {
        Some(rule) if rule.severity == Severity::Critical && action != Action::Refuse => Err(wrong(format!(
            "the rule {key:?} is critical (malformed, or runs code when it is loaded) and cannot be set to {}",
            action.as_str()
        ))),
        Some(_) => Ok(()),
        None => {
            let near = format::rules()
                .max_by(|a, b| strsim::jaro_winkler(a.id, key).total_cmp(&strsim::jaro_winkler(b.id, key)));
            let near = near.map_or("", |rule| rule.id);
            Err(wrong(format!("no rule is called {:?}; the nearest is {near:?}", shorten(key))))
        }
    }
}
