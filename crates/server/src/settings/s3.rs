//! `storage.s3` of registry.yaml.
//!
//! Owns: its keys, what goes together, and reading the files of secrets. Promises: a setting that cannot be honoured is refused;
//! secrets stand in files that others cannot read, never in registry.yaml. Leaves out: the client (`oci::s3`).
//!
//! ```yaml
//! storage:
//!   s3:
//!     bucket: models
//!     prefix: securereg                  # keys begin with it
//!     endpoint: https://s3.example.org   # none: AWS, by the region
//!     region: eu-central-1
//!     access_key_file: /etc/securereg/s3.id    # neither: as AWS's own tools find them
//!     secret_key_file: /etc/securereg/s3.key
//!     allow_http: false
//!     virtual_hosted: false              # the bucket in the host's name
//!     sse: kms                           # aes256, kms, dsse, customer
//!     sse_kms_key_id: alias/models
//!     sse_bucket_key: true
//!     sse_customer_key_file: /etc/securereg/s3.sse   # with customer: 32 bytes as base64
//!     redirect: false                    # true: clients get blobs from the store, which nobody has checked
//! ```

use crate::server::ServerError;
use crate::tokens;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Some stores have short names for keys.
const LEAST: usize = 3;

/// A bucket of S3.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    pub(crate) prefix: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) access_key_file: Option<PathBuf>,
    pub(crate) secret_key_file: Option<PathBuf>,
    pub(crate) allow_http: bool,
    pub(crate) virtual_hosted: bool,
    pub(crate) sse: Option<Sse>,
    pub(crate) sse_kms_key_id: Option<String>,
    pub(crate) sse_bucket_key: Option<bool>,
    pub(crate) sse_customer_key_file: Option<PathBuf>,
    pub(crate) redirect: bool,
}

/// How the store encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sse {
    Aes256,
    Kms,
    Dsse,
    Customer,
}

/// The same with what it needs.
pub(crate) enum Encryption {
    Aes256,
    Kms(String),
    Dsse(String),
    /// The key as base64.
    Customer(String),
}

fn refuse<T>(why: &str) -> Result<T, ServerError> {
    Err(ServerError::Config(format!("storage.s3: {why}")))
}

impl S3 {
    /// Refuses what does not go together, without reading a file.
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if self.bucket.is_empty() || self.bucket.len() > 63 || !self.bucket.bytes().all(name) {
            return refuse("bucket must be the name of a bucket");
        }
        let prefix = self.prefix.as_deref().unwrap_or_default().trim_matches('/');
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(name);
        if prefix.len() > 200 || !prefix.is_empty() && !prefix.split('/').all(part) {
            return refuse("prefix must be letters, digits, '.', '-', '_' and '/', at most 200");
        }
        if let Some(endpoint) = &self.endpoint {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return refuse("endpoint must begin with https:// or http://");
            }
            if endpoint.starts_with("http://") && !self.allow_http {
                return refuse("endpoint is not encrypted: give an https:// one, or set allow_http: true");
            }
        }
        if self.access_key_file.is_some() != self.secret_key_file.is_some() {
            return refuse("access_key_file and secret_key_file go together");
        }
        let kms = matches!(self.sse, Some(Sse::Kms | Sse::Dsse));
        let customer = self.sse == Some(Sse::Customer);
        if kms != self.sse_kms_key_id.is_some() || self.sse_bucket_key.is_some() && !kms {
            return refuse(
                "sse_kms_key_id goes with sse: kms and sse: dsse, which need it, and sse_bucket_key with them only",
            );
        }
        if customer != self.sse_customer_key_file.is_some() {
            return refuse("sse_customer_key_file goes with sse: customer, which needs it");
        }
        if customer && self.redirect {
            return refuse("redirect is of no use with sse: customer: clients do not have the key");
        }
        Ok(())
    }

    /// The port it is reached at; none when that is not for us to know: without keys of its own it asks for some elsewhere.
    pub(crate) fn port(&self) -> Option<u16> {
        self.access_key_file.as_ref()?;
        let Some(endpoint) = &self.endpoint else { return Some(443) };
        let (scheme, rest) = endpoint.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host_and_port = authority.rsplit('@').next()?;
        match host_and_port.rsplit_once(':') {
            // Not a part of an IPv6 address, which stands in brackets.
            Some((_, port)) if !port.contains(']') => port.parse().ok(),
            _ => Some(if scheme == "http" { 80 } else { 443 }),
        }
    }

    /// The files of secrets.
    pub(crate) fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.access_key_file, &self.secret_key_file, &self.sse_customer_key_file].into_iter().flatten()
    }

    /// The access key's id and its secret, if files are named.
    pub(crate) fn keys(&self) -> Result<Option<(String, String)>, ServerError> {
        match (&self.access_key_file, &self.secret_key_file) {
            (Some(id), Some(secret)) => Ok(Some((secret_in(id)?, secret_in(secret)?))),
            _ => Ok(None),
        }
    }

    pub(crate) fn encryption(&self) -> Result<Option<Encryption>, ServerError> {
        let kms_key = || self.sse_kms_key_id.clone().unwrap_or_default();
        Ok(match (self.sse, &self.sse_customer_key_file) {
            (None, _) => None,
            (Some(Sse::Aes256), _) => Some(Encryption::Aes256),
            (Some(Sse::Kms), _) => Some(Encryption::Kms(kms_key())),
            (Some(Sse::Dsse), _) => Some(Encryption::Dsse(kms_key())),
            (Some(Sse::Customer), Some(file)) => Some(Encryption::Customer(secret_in(file)?)),
            (Some(Sse::Customer), None) => return refuse("sse: customer needs sse_customer_key_file"),
        })
    }
}

fn secret_in(path: &Path) -> Result<String, ServerError> {
    Ok(String::from_utf8_lossy(&tokens::secret(path, LEAST)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<S3, String> {
        let s3: S3 = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        s3.check().map_err(|e| e.to_string())?;
        Ok(s3)
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (text, why) in [
            ("{}", "name of a bucket"),
            ("{bucket: a/b}", "name of a bucket"),
            ("{bucket: b, prefix: a//b}", "prefix"),
            ("{bucket: b, prefix: ../b}", "prefix"),
            ("{bucket: b, endpoint: s3.example.org}", "must begin with https://"),
            ("{bucket: b, endpoint: \"http://s3\"}", "allow_http"),
            ("{bucket: b, access_key_file: /f}", "go together"),
            ("{bucket: b, sse: kms}", "sse_kms_key_id"),
            ("{bucket: b, sse_kms_key_id: k}", "sse_kms_key_id"),
            ("{bucket: b, sse: aes256, sse_bucket_key: true}", "sse_bucket_key"),
            ("{bucket: b, sse: customer}", "sse_customer_key_file"),
            ("{bucket: b, sse: customer, sse_customer_key_file: /f, redirect: true}", "redirect"),
            ("{bucket: b, sse: rot13}", "unknown variant"),
            ("{bucket: b, key: k}", "unknown field"),
        ] {
            let e = parse(text).expect_err(text);
            assert!(e.contains(why), "{text}: {e}");
        }
        for text in [
            "{bucket: b}",
            "{bucket: b.c-d, prefix: /a/b_c/, endpoint: \"http://s3\", allow_http: true, redirect: true}",
            "{bucket: b, sse: dsse, sse_kms_key_id: k, sse_bucket_key: false}",
        ] {
            parse(text).expect(text);
        }
    }

    #[test]
    fn the_port_of_a_bucket_is_known_where_nothing_else_is_asked() {
        let port = |endpoint: Option<&str>, keys: bool| {
            let file = keys.then(|| PathBuf::from("/f"));
            let endpoint = endpoint.map(str::to_owned);
            S3 { endpoint, access_key_file: file.clone(), secret_key_file: file, ..S3::default() }.port()
        };
        for (endpoint, expected) in [
            ("https://s3.example.org", Some(443)),
            ("http://s3.example.org/path:1", Some(80)),
            ("http://127.0.0.1:9000", Some(9000)),
            ("https://[::1]:9443/", Some(9443)),
            ("https://[::1]", Some(443)),
            ("https://user:1@s3:9", Some(9)),
            ("https://s3:port", None),
        ] {
            assert_eq!(port(Some(endpoint), true), expected, "{endpoint}");
        }
        assert_eq!(port(None, true), Some(443));
        assert_eq!(port(Some("https://s3.example.org"), false), None, "it asks for keys elsewhere");
    }

    #[test]
    fn secrets_come_from_files_that_others_cannot_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            Some(path)
        };
        let good = at("good", "0123456789abcdef\n", 0o600);
        let keys = |id, secret| S3 { access_key_file: id, secret_key_file: secret, ..S3::default() }.keys();
        let pair = "0123456789abcdef".to_owned();
        assert_eq!(keys(good.clone(), good.clone()).expect("read"), Some((pair.clone(), pair)));
        assert!(keys(None, None).expect("none").is_none());
        for bad in [
            at("open", "0123456789abcdef", 0o604),
            at("odd", "0123456789abcdef x", 0o600),
            at("short", "ab", 0o600),
            Some("/none".into()),
        ] {
            assert!(keys(good.clone(), bad.clone()).is_err(), "{bad:?}");
        }
    }
}
