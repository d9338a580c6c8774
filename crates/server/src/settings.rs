//! registry.yaml.
//!
//! Owns: the file's form, and its keys in the environment. Promises: a key that is not known is refused, naming the nearest one that is;
//! so is a value of the wrong kind; a file that others may write is not read. Leaves out: what the settings do.
//!
//! ```yaml
//! listen: 127.0.0.1:8470
//! external_url: https://models.example.org   # what clients see, when no proxy says it
//! staging: [/srv/staging]
//! tokens: {read: /etc/securereg/read.token, admin: /etc/securereg/admin.token}
//! access:                                    # users of /v2/ besides the tokens
//!   - {name: ci, token_file: /etc/securereg/ci.token, repositories: ["team/**"], rights: [pull, push]}
//! tags:
//!   immutable: [semver, git-sha, "rel-*"]    # the first two unless given
//!   movable: ["v0.*"]                        # of those, what moves all the same
//! admission:
//!   manual: ["prod/**"]                      # models there wait for POST /v1/promote
//! storage: {s3: {bucket: models}}            # where repositories lie (s3.rs); without it: in the registry's own root
//! ```
//!
//! Each key can be given in the environment, as YAML: `SECUREREG__EXTERNAL_URL`, `SECUREREG__TAGS__IMMUTABLE='["v*"]'`.

mod s3;

pub(crate) use s3::{Encryption, S3};

use crate::server::ServerError;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_yaml::{Mapping, Value};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Above this it is some other file.
const MAX: u64 = 1 << 20;
/// Before a key's name in the environment.
const PREFIX: &str = "SECUREREG__";

/// What registry.yaml says; what it does not say is left to the environment and the defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) listen: Option<String>,
    pub(crate) external_url: Option<String>,
    pub(crate) staging: Vec<PathBuf>,
    pub(crate) tokens: Tokens,
    pub(crate) access: Vec<User>,
    pub(crate) tags: Tags,
    pub(crate) admission: Admission,
    pub(crate) storage: Storage,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Storage {
    pub(crate) s3: Option<S3>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tokens {
    pub(crate) read: Option<PathBuf>,
    pub(crate) verify: Option<PathBuf>,
    pub(crate) promote: Option<PathBuf>,
    pub(crate) admin: Option<PathBuf>,
    pub(crate) containment: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) token_file: PathBuf,
    pub(crate) repositories: Vec<String>,
    pub(crate) rights: Vec<Right>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Right {
    Pull,
    Push,
    Delete,
    Quarantined,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tags {
    pub(crate) immutable: Option<Vec<String>>,
    /// Of those, the ones that move all the same.
    pub(crate) movable: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admission {
    pub(crate) manual: Vec<String>,
}

impl Settings {
    /// Of `file`, if one is given, and of the variables.
    pub(crate) fn load(
        file: Option<&Path>,
        vars: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, ServerError> {
        let mut root = match file {
            Some(path) => parse(&read(path)?, &path.display().to_string())?,
            None => Mapping::new(),
        };
        for (key, value) in vars {
            let Some(keys) = key.to_str().and_then(|key| key.strip_prefix(PREFIX)) else { continue };
            let keys: Vec<String> = keys.split("__").map(str::to_ascii_lowercase).collect();
            let named = key.to_string_lossy().into_owned();
            let value: Value = value
                .to_str()
                .and_then(|text| serde_yaml::from_str(text).ok())
                .ok_or_else(|| ServerError::Config(format!("{named} is not YAML")))?;
            put(&mut root, &keys, value, &named)?;
        }
        let shown = file.map_or_else(|| "the environment".to_owned(), |path| path.display().to_string());
        serde_yaml::from_value(Value::Mapping(root))
            .map_err(|e| ServerError::Config(format!("{shown}: {}", explain(&e.to_string()))))
    }
}

fn put(root: &mut Mapping, keys: &[String], value: Value, named: &str) -> Result<(), ServerError> {
    let (last, above) = keys.split_last().ok_or_else(|| ServerError::Config(format!("{named} names no key")))?;
    let mut at = root;
    for key in above {
        let inner = at.entry(Value::String(key.clone())).or_insert_with(|| Value::Mapping(Mapping::new()));
        match inner {
            Value::Mapping(inner) => at = inner,
            _ => return Err(ServerError::Config(format!("{named}: {key} holds no keys"))),
        }
    }
    at.insert(Value::String(last.clone()), value);
    Ok(())
}

fn parse(text: &str, shown: &str) -> Result<Mapping, ServerError> {
    match serde_yaml::from_str(text) {
        Ok(Value::Mapping(root)) => Ok(root),
        Ok(Value::Null) => Ok(Mapping::new()),
        Ok(_) => Err(ServerError::Config(format!("{shown} is not a list of keys and values"))),
        Err(e) => Err(ServerError::Config(format!("{shown} is not YAML: {e}"))),
    }
}

fn read(path: &Path) -> Result<String, ServerError> {
    let refuse = |why: String| ServerError::Config(format!("{}: {why}", path.display()));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| refuse(format!("cannot be opened: {e}")))?;
    let file = File::from(file);
    let meta = file.metadata().map_err(|e| refuse(format!("cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > MAX {
        return Err(refuse(format!("is not a file of at most {MAX} bytes")));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(refuse(format!("others may write it (mode {:04o}): chmod 644 it", meta.mode() & 0o7777)));
    }
    let mut text = String::new();
    file.take(MAX).read_to_string(&mut text).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    Ok(text)
}

/// With the nearest known key, where one is not known: the library's message lists those that are.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first().filter(|_| message.contains("unknown")) else {
        return message.to_owned();
    };
    let near = known.iter().filter(|k| strsim::damerau_levenshtein(k, unknown) <= 3);
    match near.min_by_key(|k| strsim::damerau_levenshtein(k, unknown)) {
        Some(near) => format!("{message}; did you mean `{near}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn load(text: Option<&str>, vars: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("registry.yaml");
        if let Some(text) = text {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        }
        let vars = vars.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        Settings::load(text.map(|_| path.as_path()), vars).map_err(|e| e.to_string())
    }

    #[test]
    fn what_the_file_says_and_what_the_environment_says_instead() {
        let text = "listen: 127.0.0.1:1\ntags: {immutable: [\"v*\"]}\naccess:\n- {name: ci, token_file: /t, repositories: [\"a/**\"], rights: [pull, push]}\n";
        let settings = load(Some(text), &[]).expect("fine");
        assert_eq!(settings.listen.as_deref(), Some("127.0.0.1:1"));
        assert_eq!(settings.tags.immutable, Some(vec!["v*".to_owned()]));
        assert_eq!(settings.access[0].rights, [Right::Pull, Right::Push]);
        let vars = [("SECUREREG__LISTEN", "127.0.0.1:2"), ("SECUREREG__TAGS__IMMUTABLE", "[]"), ("OTHER", "x")];
        let settings = load(Some(text), &vars).expect("fine");
        assert_eq!((settings.listen.as_deref(), settings.tags.immutable), (Some("127.0.0.1:2"), Some(Vec::new())));
        assert_eq!(load(None, &vars[..1]).expect("fine").listen.as_deref(), Some("127.0.0.1:2"));
        for empty in ["", "# nothing\n"] {
            assert!(load(Some(empty), &[]).expect("fine").access.is_empty());
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_the_nearest_that_is() {
        for (text, vars, why) in [
            (Some("lisen: x"), &[][..], "did you mean `listen`?"),
            (Some("tags: {imutable: []}"), &[], "did you mean `immutable`?"),
            (Some("access: [{name: a, token_file: /t, repositories: [], rights: [pul]}]"), &[], "did you mean `pull`?"),
            (Some("storage: {s4: {}}"), &[], "did you mean `s3`?"),
            (Some("storage: {s3: {bucket: b, regoin: x}}"), &[], "did you mean `region`?"),
            (Some("zzzzzzzzzz: 1"), &[], "unknown field"),
            (Some("listen: [1]"), &[], "invalid type"),
            (Some("[]"), &[], "not a list of keys"),
            (Some("a: b: c"), &[], "not YAML"),
            (Some("access: [{name: a}]"), &[], "missing field"),
            (None, &[("SECUREREG__LISEN", "x")], "did you mean `listen`?"),
            (None, &[("SECUREREG__LISTEN", "[")], "not YAML"),
            (Some("listen: x"), &[("SECUREREG__LISTEN__X", "1")], "holds no keys"),
        ] {
            let e = load(text, vars).expect_err(why);
            assert!(e.contains(why), "{text:?} {vars:?}: {e}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_not_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("registry.yaml");
        std::fs::write(&path, "").expect("written");
        for (mode, fine) in [(0o600, true), (0o644, true), (0o660, false), (0o606, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(Settings::load(Some(&path), std::iter::empty()).is_ok(), fine, "{mode:o}");
        }
        assert!(Settings::load(Some(dir.path()), std::iter::empty()).is_err(), "a folder");
        assert!(Settings::load(Some(&dir.path().join("none")), std::iter::empty()).is_err());
    }
}
