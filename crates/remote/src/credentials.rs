//! Passwords, where docker and podman keep them.
//!
//! Owns: `config.json` and `auth.json`, and credential helpers. Promises: a secret stands in no argument, no log and no message; only a
//! helper that a configuration of this user names is run; it is asked for this registry only. Leaves out: writing any of it (`docker login`
//! does), and what a secret is sent to (`auth`).

use crate::ImageRef;
use crate::fail::local;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use securereg::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// No configuration and no helper's answer is longer.
const LONGEST: u64 = 1 << 20;
/// Docker Hub's key, from the days of its first protocol.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What opens a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Nothing: what anyone may.
    None,
    /// A user and a password.
    Basic { user: String, secret: String },
    /// What the token server takes for a token.
    Identity(String),
    /// A token.
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::None => "None",
            Credential::Basic { .. } => "Basic(..)",
            Credential::Identity(_) => "Identity(..)",
            Credential::Token(_) => "Token(..)",
        })
    }
}

/// The files that hold passwords, the first that has one wins.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    /// Docker's and podman's configurations.
    pub files: Vec<PathBuf>,
    /// Where credential helpers are looked for instead of in `PATH`.
    pub helpers: Option<OsString>,
}

impl Keychain {
    /// This user's: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, then `$REGISTRY_AUTH_FILE` or
    /// `$XDG_RUNTIME_DIR/containers/auth.json`.
    pub fn of_this_user() -> Keychain {
        let path = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = path("DOCKER_CONFIG").or_else(|| path("HOME").map(|home| home.join(".docker")));
        let podman =
            path("REGISTRY_AUTH_FILE").or_else(|| path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")));
        Keychain { files: docker.map(|dir| dir.join("config.json")).into_iter().chain(podman).collect(), helpers: None }
    }

    /// What these files have for the registry of `image`.
    pub(crate) fn find(&self, image: &ImageRef) -> Result<Credential> {
        for file in &self.files {
            if let Some(config) = read(file)? {
                let found = self.look(&config, image, file)?;
                if found != Credential::None {
                    return Ok(found);
                }
            }
        }
        Ok(Credential::None)
    }

    fn look(&self, config: &Config, image: &ImageRef, file: &Path) -> Result<Credential> {
        let keys = keys(image);
        if let Some((key, helper)) = keys.iter().find_map(|key| config.cred_helpers.get(key).map(|h| (key, h))) {
            return self.ask(helper, key, file);
        }
        if let Some(entry) = keys.iter().find_map(|key| config.auths.get(key)) {
            let found = entry.credential(file, image.host())?;
            if found != Credential::None {
                return Ok(found);
            }
        }
        match config.creds_store.as_deref().filter(|store| !store.is_empty()) {
            Some(store) => {
                let key = if image.is_hub() { HUB_KEY } else { image.host() };
                self.ask(store, key, file)
            }
            None => Ok(Credential::None),
        }
    }

    /// `docker-credential-NAME get`, the registry on its standard input.
    fn ask(&self, helper: &str, key: &str, file: &Path) -> Result<Credential> {
        let bad = |why: String| Error::new(ErrorKind::InvalidInput, format!("{}: {why}", file.display()));
        if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(bad(format!("{:?} is no name of a credential helper", crate::fail::shorten(helper))));
        }
        let program = format!("docker-credential-{helper}");
        let failed = |e: std::io::Error| bad(format!("{program}, which it names, cannot be run: {e}"));
        let mut command = Command::new(&program);
        if let Some(path) = &self.helpers {
            command.env("PATH", path);
        }
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read has answered all the same.
            drop(stdin.write_all(key.as_bytes()));
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LONGEST).read_to_end(&mut answer).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        if !status.success() {
            let none = String::from_utf8_lossy(&answer).contains("credentials not found");
            return match none {
                true => Ok(Credential::None),
                false => Err(bad(format!("{program}, which it names, failed ({status})"))),
            };
        }
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|_| bad(format!("{program} gave no credentials")))?;
        Ok(match answer {
            Answer { secret, .. } if secret.is_empty() => Credential::None,
            Answer { username, secret } if username == "<token>" => Credential::Identity(secret),
            Answer { username, secret } => Credential::Basic { user: username, secret },
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Entry {
    fn credential(&self, file: &Path, host: &str) -> Result<Credential> {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Credential::Token(token));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Credential::Identity(token));
        }
        if !self.auth.is_empty() {
            let bad = || {
                let why = format!("{}: the auth of {host} is not base64 of USER:PASSWORD", file.display());
                Error::new(ErrorKind::InvalidInput, why)
            };
            let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| bad())?;
            let text = String::from_utf8(bytes).map_err(|_| bad())?;
            let (user, secret) = text.split_once(':').ok_or_else(bad)?;
            return Ok(Credential::Basic { user: user.to_owned(), secret: secret.trim_end_matches('\0').to_owned() });
        }
        Ok(match (given(&self.username), given(&self.password)) {
            (Some(user), Some(secret)) => Credential::Basic { user, secret },
            _ => Credential::None,
        })
    }
}

/// What a registry may be called in these files, the closest first: podman knows repositories, too.
fn keys(image: &ImageRef) -> Vec<String> {
    let host = image.host();
    let mut place = format!("{host}/{}", image.repository());
    let mut keys = Vec::new();
    while place.len() > host.len() {
        keys.push(place.clone());
        place.truncate(place.rfind('/').unwrap_or(0));
    }
    keys.push(host.to_owned());
    if image.is_hub() {
        keys.extend([HUB_KEY.to_owned(), "docker.io".into(), "index.docker.io".into()]);
    }
    for scheme in ["https", "http"] {
        keys.extend(["", "/", "/v1/", "/v2/"].map(|end| format!("{scheme}://{host}{end}")));
    }
    keys
}

fn read(file: &Path) -> Result<Option<Config>> {
    let what = || format!("reading {}", file.display());
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(local(what(), e)),
    };
    let mut text = Vec::new();
    opened.take(LONGEST).read_to_end(&mut text).map_err(|e| local(what(), e))?;
    // What is wrong in it may be next to a secret: only where it is, is said.
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        let place = format!("line {} column {}", e.line(), e.column());
        Error::new(ErrorKind::InvalidInput, format!("{} is not what docker or podman writes ({place})", file.display()))
    })
}

#[cfg(test)]
mod tests;
