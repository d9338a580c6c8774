//! Addresses that a registry gives: where an upload goes on, where a blob is, who makes tokens.
//!
//! Owns: [`Url`], of HTTP and HTTPS only. Promises: no user or password in it; what follows the host is fit to stand in a request.
//! Leaves out: whether we go there (`client`, `connect`).

use crate::fail::{refused, shorten};
use crate::image::host_and_port;
use hyper::Uri;
use securereg::Result;
use std::fmt;

/// Whom we speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// A name, an IPv4 address, or an IPv6 address between brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// As it stands in `Host`.
    pub(crate) fn authority(&self) -> String {
        match self.port == if self.tls { 443 } else { 80 } {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The host without brackets.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// `target` here.
    pub(crate) fn at(&self, target: impl Into<String>) -> Url {
        Url { origin: self.clone(), target: target.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// A place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query; may hold a signature, so that it stands in no message.
    pub(crate) target: String,
}

impl Url {
    /// What a header names, as seen from here: a whole address, or a path.
    pub(crate) fn join(&self, text: &str) -> Result<Url> {
        let bad = || refused(format!("{} points to {:?}, which is no address", self.origin, shorten(text)));
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let target = uri.path_and_query().map(|target| target.as_str().to_owned()).filter(|t| t.starts_with('/'));
        let Some(authority) = uri.authority() else {
            // A path; "//host/path" is none, and is not taken for one.
            return match target.filter(|target| text.starts_with('/') && !target.starts_with("//")) {
                Some(target) => Ok(self.origin.at(target)),
                None => Err(bad()),
            };
        };
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let (host, port) = host_and_port(authority.as_str()).ok_or_else(bad)?;
        // A registry behind a proxy that ends TLS may not know that it is spoken to through TLS.
        let own = self.origin.tls && host == self.origin.host && port.unwrap_or(443) == self.origin.port;
        let tls = tls || own;
        let origin = Origin { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }) };
        Ok(Url { origin, target: target.unwrap_or_else(|| "/".into()) })
    }

    /// The same with one more key in its query.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Url {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(key);
        self.target.push('=');
        self.target.push_str(&encoded(value));
        self
    }
}

/// RFC 3986, section 2.1: what is not unreserved, or usual in digests and scopes, as %XX.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_names_is_resolved_or_refused() {
        let here = Origin { tls: true, host: "r.example".into(), port: 443 }.at("/v2/a/blobs/uploads/");
        for (text, wanted) in [
            ("/v2/x?y=1", Some("https://r.example /v2/x?y=1")),
            ("https://s.example:444/x?sig=a%2Fb", Some("https://s.example:444 /x?sig=a%2Fb")),
            ("http://[::1]:9/x", Some("http://[::1]:9 /x")),
            ("https://S.example", Some("https://s.example /")),
            ("http://r.example/x", Some("https://r.example /x")),
            ("http://r.example:443/x", Some("https://r.example /x")),
            ("http://r.example:80/x", Some("http://r.example /x")),
            ("x/y", None),
            ("", None),
            ("//evil.example/x", None),
            ("ftp://s.example/x", None),
            ("https://u:p@s.example/x", None),
            ("https://s.example:0/x", None),
            ("file:///etc/passwd", None),
            ("https:///x", None),
            ("/x y", None),
        ] {
            let url = here.join(text).ok().map(|url| format!("{} {}", url.origin, url.target));
            assert_eq!(url.as_deref(), wanted, "{text}");
        }
        assert_eq!(here.join("/x?y=1").unwrap().with("digest", "sha256:ab&c").target, "/x?y=1&digest=sha256:ab%26c");
        assert_eq!(here.with("a", "b").target, "/v2/a/blobs/uploads/?a=b");
    }
}
