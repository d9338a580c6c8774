//! How a server is set up.
//!
//! Owns: [`Config`] and the environment names that deployments already use. Promises: a setting that cannot be honoured
//! is an error that says so, never ignored. Leaves out: reading the token files (`tokens`).

use crate::oci::{AccessRight, Glob, User};
use crate::server::ServerError;
use crate::settings::{self, Settings};
use crate::tokens;
use securereg::Registry;
use securereg_oci::tags::{IMMUTABLE, TagRules};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The registry root whose staging folder has a fixed place as well.
const SYSTEM_ROOT: &str = "/var/lib/secure-ai/registry";
const SYSTEM_STAGING: &str = "/var/lib/secure-ai/quarantine";

/// The settings' file, in the root.
const FILE: &str = "registry.yaml";

/// The port of the model API.
pub const DEFAULT_PORT: u16 = 8470;

/// Names are asked for over TCP when an answer is long.
const DNS: u16 = 53;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on. Any but a loopback address needs configured tokens.
    pub listen: SocketAddr,
    /// Folders that promotions may take sources from, besides `<root>/quarantine`.
    pub staging: Vec<PathBuf>,
    /// The files that hold the bearer tokens.
    pub tokens: TokenFiles,
    /// How much is taken on at once.
    pub limits: Limits,
    /// The OCI registry below `/v2/`.
    pub oci: OciConfig,
}

/// How the OCI registry is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OciConfig {
    /// Where clients see this server, when neither a proxy's headers nor `Host` say it.
    pub external_url: Option<String>,
    /// Patterns of tags that do not move, in place of versions and `sha-<git>`.
    pub immutable_tags: Option<Vec<String>>,
    /// Patterns of tags that move although they match one of the above.
    pub movable_tags: Vec<String>,
    /// Patterns of repositories whose models wait for `POST /v1/promote`.
    pub manual: Vec<String>,
    pub(crate) users: Vec<crate::settings::User>,
    /// The bucket that repositories lie in, if they do not lie in the registry's root.
    pub(crate) s3: Option<crate::settings::S3>,
}

impl Default for Config {
    /// 127.0.0.1:8470, no further staging folder, generated tokens.
    fn default() -> Self {
        Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            staging: Vec::new(),
            tokens: TokenFiles::default(),
            limits: Limits::default(),
            oci: OciConfig::default(),
        }
    }
}

/// The files that hold the bearer tokens, one token each; those not given are closed scopes, unless none is given at
/// all: then all five are generated in `<root>/tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenFiles {
    /// `REGISTRY_READ_TOKEN_PATH`.
    pub read: Option<PathBuf>,
    /// `REGISTRY_VERIFY_TOKEN_PATH`.
    pub verify: Option<PathBuf>,
    /// `REGISTRY_PROMOTE_TOKEN_PATH`.
    pub promote: Option<PathBuf>,
    /// `REGISTRY_ADMIN_TOKEN_PATH`.
    pub admin: Option<PathBuf>,
    /// `CONTAINMENT_TOKEN_PATH`.
    pub containment: Option<PathBuf>,
    /// `SERVICE_TOKEN_PATH`, of deployments from before the scopes: one token for read, verify, promote and admin, taken
    /// only when none of those four has a file of its own. Never for containment.
    pub service: Option<PathBuf>,
}

/// How much a server takes on at once. The defaults suit a host that serves one team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections. At the cap a new one takes the place of the one that has been idle longest.
    pub connections: usize,
    /// Requests that wait for long work with their connection open; beyond, 429.
    pub waiting: usize,
    /// Jobs queued and running; beyond, 429.
    pub jobs: usize,
    /// Finished jobs that can still be asked for.
    pub finished_jobs: usize,
    /// Promotions that run at once.
    pub promotes: usize,
    /// Verifications that run at once; each uses all cores.
    pub verifies: usize,
    /// Short calls that run at once.
    pub quick_calls: usize,
    /// Bytes of a promotion's body, which carries scan results and tensor lists.
    pub promote_body: usize,
    /// Bytes of any other body.
    pub body: usize,
    /// Time for the headers of a request, which is also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Time for a body, and for a client to take at least one byte of an answer.
    pub body_timeout: Duration,
    /// How long a shutdown waits for requests and jobs before it cancels the jobs.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            waiting: 256,
            jobs: 64,
            finished_jobs: 256,
            promotes: 4,
            verifies: 2,
            quick_calls: 16,
            promote_body: 4 << 20,
            body: 64 << 10,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// Where a server connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere: it has no bucket.
    Nowhere,
    /// These TCP ports: its bucket's.
    Ports(Vec<u16>),
    /// Any: its bucket is reached through a proxy, or its keys are asked for where AWS's own tools ask.
    Anywhere,
}

impl Config {
    /// Where a server that is set up so connects to; for whoever closes the rest to it.
    pub fn reach(&self) -> Reach {
        let Some(s3) = &self.oci.s3 else { return Reach::Nowhere };
        let proxied =
            std::env::vars_os().any(|(name, _)| name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy"));
        match s3.port() {
            Some(port) if !proxied => Reach::Ports(vec![port, DNS]),
            _ => Reach::Anywhere,
        }
    }

    /// The files of secrets that a server that is set up so reads.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let tokens = &self.tokens;
        let scopes =
            [&tokens.read, &tokens.verify, &tokens.promote, &tokens.admin, &tokens.containment, &tokens.service];
        let users = self.oci.users.iter().map(|user| &user.token_file);
        let bucket = self.oci.s3.iter().flat_map(|s3| s3.secret_files());
        scopes.into_iter().flatten().chain(users).chain(bucket).cloned().collect()
    }

    /// The root that `REGISTRY_DIR` names, if it does; for whoever opens the registry.
    pub fn root_from_env() -> Option<PathBuf> {
        std::env::var_os("REGISTRY_DIR").filter(|v| !v.is_empty()).map(PathBuf::from)
    }

    /// The set-up that the environment describes: `BIND_ADDR`, `PROMOTION_STAGING_DIR`, the token paths, and
    /// `REGISTRY_MANIFEST_PATH`, which may only say what is so anyway.
    pub fn from_env(registry: &Registry) -> Result<Config, ServerError> {
        Config::from_vars(registry.root(), |name| std::env::var_os(name))
    }

    /// The same, on top of registry.yaml: `file`, else that of `SECUREREG_CONFIG`, else the one in the root, if there is one.
    pub fn load(root: &Path, file: Option<&Path>) -> Result<Config, ServerError> {
        let file = Config::file(root, file);
        let settings = Settings::load(file.as_deref(), std::env::vars_os())?;
        Config::from_vars(root, |name| std::env::var_os(name))?.with(settings)
    }

    /// The settings' file that [`Config::load`] reads, if it reads one.
    pub fn file(root: &Path, file: Option<&Path>) -> Option<PathBuf> {
        let own = root.join(FILE);
        let variable = || std::env::var_os("SECUREREG_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        file.map(Path::to_owned).or_else(variable).or_else(|| own.exists().then_some(own))
    }

    /// What the settings say, where neither the environment nor the caller has said it.
    fn with(mut self, settings: Settings) -> Result<Config, ServerError> {
        if let Some(listen) = settings.listen.filter(|_| self.listen == Config::default().listen) {
            self.listen = Config::parse_listen(&listen)?;
        }
        self.staging.extend(settings.staging);
        let (own, given) = (&mut self.tokens, settings.tokens);
        for (own, given) in [
            (&mut own.read, given.read),
            (&mut own.verify, given.verify),
            (&mut own.promote, given.promote),
            (&mut own.admin, given.admin),
            (&mut own.containment, given.containment),
        ] {
            *own = own.take().or(given);
        }
        self.oci = OciConfig {
            external_url: settings.external_url,
            immutable_tags: settings.tags.immutable,
            movable_tags: settings.tags.movable,
            manual: settings.admission.manual,
            users: settings.access,
            s3: settings.storage.s3,
        };
        self.oci()?;
        Ok(self)
    }

    /// The parts of the OCI registry, or what cannot be honoured.
    pub(crate) fn oci(&self) -> Result<(Vec<User>, TagRules, Vec<Glob>), ServerError> {
        let OciConfig { external_url, immutable_tags, movable_tags, manual, users, s3 } = &self.oci;
        if let Some(s3) = s3 {
            s3.check()?;
        }
        if external_url.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return Err(ServerError::Config("external_url must begin with http:// or https://".into()));
        }
        let rules = match immutable_tags {
            None if movable_tags.is_empty() => Ok(TagRules::default()),
            None => TagRules::new(IMMUTABLE.iter().copied(), movable_tags),
            Some(patterns) => TagRules::new(patterns, movable_tags),
        };
        let rules = rules.map_err(|e| ServerError::Config(format!("tags: {e}")))?;
        let globs = |patterns: &[String], key: &str| {
            let parsed = patterns.iter().map(|pattern| pattern.parse::<Glob>());
            parsed.collect::<Result<Vec<_>, _>>().map_err(|e| ServerError::Config(format!("{key}: {e}")))
        };
        let mut known = Vec::new();
        for user in users {
            if user.name.is_empty() || user.name.contains(':') {
                return Err(ServerError::Config(format!("access: {:?} is no user name", user.name)));
            }
            let rights = user.rights.iter().map(|right| match right {
                settings::Right::Pull => AccessRight::Pull,
                settings::Right::Push => AccessRight::Push,
                settings::Right::Delete => AccessRight::Delete,
                settings::Right::Quarantined => AccessRight::Quarantined,
            });
            known.push(User {
                name: user.name.clone(),
                secret: tokens::read(&user.token_file)?,
                repositories: globs(&user.repositories, "access: repositories")?,
                rights: rights.collect(),
            });
        }
        Ok((known, rules, globs(manual, "admission.manual")?))
    }

    pub(crate) fn from_vars(root: &Path, var: impl Fn(&str) -> Option<OsString>) -> Result<Config, ServerError> {
        let path = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(manifest) = path("REGISTRY_MANIFEST_PATH") {
            let own = root.join("manifest.yaml");
            // Compared as they resolve as well, so that a link to the root is no reason to refuse.
            if manifest != own && !same_file(&manifest, &own) {
                return Err(ServerError::Config(format!(
                    "REGISTRY_MANIFEST_PATH is {}, but the manifest is always {}: unset it, or set REGISTRY_DIR to its folder",
                    manifest.display(),
                    own.display(),
                )));
            }
        }
        let mut config = Config {
            staging: path("PROMOTION_STAGING_DIR").into_iter().collect(),
            tokens: TokenFiles {
                read: path("REGISTRY_READ_TOKEN_PATH"),
                verify: path("REGISTRY_VERIFY_TOKEN_PATH"),
                promote: path("REGISTRY_PROMOTE_TOKEN_PATH"),
                admin: path("REGISTRY_ADMIN_TOKEN_PATH"),
                containment: path("CONTAINMENT_TOKEN_PATH"),
                service: path("SERVICE_TOKEN_PATH"),
            },
            ..Config::default()
        };
        if let Some(address) = var("BIND_ADDR").filter(|v| !v.is_empty()) {
            config.listen = Config::parse_listen(&address.to_string_lossy())?;
        }
        Ok(config)
    }

    /// An address as users write it: `127.0.0.1:8470`, `localhost:8470`, `[::1]:8470`, `:8470` (every address).
    pub fn parse_listen(text: &str) -> Result<SocketAddr, ServerError> {
        let bad = || ServerError::Config(format!("{text:?} is not an address to listen on: HOST:PORT is wanted"));
        if let Some(port) = text.strip_prefix(':') {
            return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.parse().map_err(|_| bad())?)));
        }
        text.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(bad)
    }

    /// All staging folders, in the order they are searched.
    pub fn staging_folders(&self, registry: &Registry) -> Result<Vec<PathBuf>, ServerError> {
        let (root, own) = (registry.root(), registry.staging());
        let mut folders = vec![own.clone()];
        for folder in &self.staging {
            if !folder.is_absolute() {
                return Err(ServerError::Config(format!(
                    "staging folder {} must be an absolute path",
                    folder.display()
                )));
            }
            folders.push(folder.clone());
        }
        if root == Path::new(SYSTEM_ROOT) {
            folders.push(PathBuf::from(SYSTEM_STAGING));
        }
        for folder in &folders {
            // Else the registry's own blobs and tokens could be named as sources; by whatever spelling or link.
            let real = resolve(folder)?;
            if real != own && (real.starts_with(root) || root.starts_with(&real)) {
                return Err(ServerError::Config(format!(
                    "staging folder {} must lie outside the registry root {} (only its quarantine/ is one), but it is {}",
                    folder.display(),
                    root.display(),
                    real.display(),
                )));
            }
        }
        let mut seen = Vec::new();
        folders.retain(|folder| {
            !seen.contains(folder) && {
                seen.push(folder.clone());
                true
            }
        });
        Ok(folders)
    }
}

/// Where `folder` leads. One that is not there yet leads where it will be, as far as the folders above it are there.
fn resolve(folder: &Path) -> Result<PathBuf, ServerError> {
    let unclear = |why: &dyn std::fmt::Display| {
        ServerError::Config(format!("staging folder {} leads nowhere that is known: {why}", folder.display()))
    };
    match folder.canonicalize() {
        Ok(real) => Ok(real),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unclear(&e)),
        Err(_) if folder.is_symlink() => Err(unclear(&"it is a link to what is not there; make that first")),
        Err(e) => match (folder.parent(), folder.file_name()) {
            (Some(above), Some(name)) => Ok(resolve(above)?.join(name)),
            _ => Err(unclear(&e)),
        },
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<Config, ServerError> {
        Config::from_vars(Path::new("/srv/reg"), |name| {
            vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_environment_names_of_earlier_deployments_are_kept() {
        let config = from(&[
            ("BIND_ADDR", "127.0.0.1:9000"),
            ("REGISTRY_MANIFEST_PATH", "/srv/reg/manifest.yaml"),
            ("PROMOTION_STAGING_DIR", "/srv/staging"),
            ("REGISTRY_READ_TOKEN_PATH", "/t/read"),
            ("SERVICE_TOKEN_PATH", ""),
            ("CONTAINMENT_TOKEN_PATH", "/t/containment"),
        ])
        .expect("a set-up");
        assert_eq!(config.listen, "127.0.0.1:9000".parse().expect("an address"));
        assert_eq!(config.staging, [PathBuf::from("/srv/staging")]);
        assert_eq!((config.tokens.read, config.tokens.service), (Some("/t/read".into()), None));
        assert_eq!(config.tokens.containment, Some("/t/containment".into()));
        assert_eq!(from(&[]).expect("the defaults").listen, "127.0.0.1:8470".parse().expect("an address"));
        assert_eq!(
            from(&[("BIND_ADDR", ":1")]).expect("every address").listen,
            "0.0.0.0:1".parse().expect("an address")
        );
    }

    /// Threat 2: a link into the root would make its blobs and tokens sources.
    #[test]
    fn t02_a_staging_folder_that_is_in_the_root_or_leads_there_is_refused() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("a folder");
        let registry = Registry::open_or_create(&dir.path().join("root")).expect("a root");
        let root = registry.root();
        let at = |name: &str| dir.path().canonicalize().expect("there").join(name);
        for folder in ["outside", "rooted"] {
            std::fs::create_dir(at(folder)).expect("made");
        }
        std::fs::write(at("file"), b"").expect("written");
        for (target, link) in [
            (root.join("blobs"), "link"),
            (root.to_owned(), "outside/deep"),
            (at("link"), "twice"),
            (at("none"), "dangling"),
            (at("round"), "round"),
            (at("outside"), "fine"),
            (registry.staging(), "own"),
        ] {
            symlink(target, at(link)).expect("a link");
        }
        let with = |folder: PathBuf| Config { staging: vec![folder], ..Config::default() }.staging_folders(&registry);
        for (folder, why) in [
            (root.to_owned(), "must lie outside"),
            (root.join("blobs"), "must lie outside"),
            (root.join("quarantine/sub"), "must lie outside"),
            (at(""), "must lie outside"),
            (PathBuf::from("/"), "must lie outside"),
            (at("rooted/../root/blobs"), "must lie outside"),
            (at("link"), "must lie outside"),
            (at("twice"), "must lie outside"),
            (at("outside/deep"), "must lie outside"),
            (at("outside/deep/blobs"), "must lie outside"),
            (at("outside/deep/not/yet/there"), "must lie outside"),
            (at("dangling"), "make that first"),
            (at("dangling/below"), "make that first"),
            (at("round"), "leads nowhere"),
            (at("file/below"), "leads nowhere"),
            (at("none/../root"), "leads nowhere"),
            (PathBuf::from("relative"), "absolute"),
        ] {
            let e = with(folder.clone()).expect_err("refused").to_string();
            assert!(e.contains(why), "{}: {e}", folder.display());
        }
        for folder in [at("outside"), at("fine"), at("own"), at("not/yet/there"), registry.staging()] {
            let all = with(folder.clone()).expect("taken");
            assert!(all.contains(&folder) && all[0] == registry.staging(), "{}", folder.display());
        }
    }

    #[test]
    fn a_manifest_elsewhere_is_refused_not_ignored() {
        let e = from(&[("REGISTRY_MANIFEST_PATH", "/elsewhere/manifest.yaml")]).expect_err("refused").to_string();
        assert!(e.contains("REGISTRY_MANIFEST_PATH") && e.contains("/srv/reg/manifest.yaml"), "{e}");
        for bad in ["x", "127.0.0.1", ":x", "127.0.0.1:99999"] {
            assert!(from(&[("BIND_ADDR", bad)]).expect_err(bad).to_string().contains("HOST:PORT"));
        }
    }
}
