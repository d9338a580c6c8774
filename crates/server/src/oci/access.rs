//! Who may do what to which repository.
//!
//! Owns: the users of registry.yaml's `access`, and the rights that the model API's tokens give here. Promises: no password or a
//! wrong one is 401 with a challenge, the same for every path; secrets are compared in constant time, each of them, whichever matched;
//! a right is asked for before a repository is looked at. Leaves out: where secrets come from (`tokens`).
//!
//! ```text
//! token        pull  push  delete  quarantined
//! read           x                               any user name, the token as password, or as a bearer token
//! promote        x     x
//! admin          x     x      x         x
//! ```

use crate::auth::{Scope, Tokens};
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use securereg::Glob;
use securereg_oci::Repository;

/// What may be done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Pull,
    Push,
    Delete,
    /// Seeing what was refused, and moving tags that do not move.
    Quarantined,
}

impl Right {
    pub(crate) const ALL: [Right; 4] = [Right::Pull, Right::Push, Right::Delete, Right::Quarantined];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Right::Pull => "pull",
            Right::Push => "push",
            Right::Delete => "delete",
            Right::Quarantined => "quarantined",
        }
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    pub(crate) fn with(self, right: Right) -> Rights {
        Rights(self.0 | 1 << right as u8)
    }

    fn has(self, right: Right) -> bool {
        self.0 & 1 << right as u8 != 0
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        rights.into_iter().fold(Rights::default(), Rights::with)
    }
}

/// A user of registry.yaml.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) secret: Box<[u8]>,
    pub(crate) repositories: Vec<Glob>,
    pub(crate) rights: Rights,
}

/// All that let anyone in.
pub(crate) struct Access {
    users: Vec<User>,
}

/// Who asks, and what that one may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    pub(super) who: String,
    /// Rights, each with the repositories they are for; none is all of them.
    granted: Vec<(Rights, Option<Vec<Glob>>)>,
}

impl Caller {
    pub(super) fn may(&self, right: Right, repository: &Repository) -> bool {
        self.granted.iter().any(|(rights, globs)| {
            let inside = globs.as_ref().is_none_or(|globs| globs.iter().any(|g| g.matches(repository.as_str())));
            rights.has(right) && inside
        })
    }
}

impl Access {
    pub(crate) fn new(users: Vec<User>) -> Access {
        Access { users }
    }

    /// Who has sent these headers; nobody without a right secret.
    pub(super) fn caller(&self, tokens: &Tokens, headers: &HeaderMap) -> Option<Caller> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (user, secret) = credentials(value.as_bytes())?;
        let mut caller = Caller::default();
        let held = tokens.matching(&secret);
        for scope in [Scope::Read, Scope::Promote, Scope::Admin] {
            if held.holds(scope) {
                caller.who = format!("{} token", scope.as_str());
                caller.granted.push((rights_of(scope), None));
            }
        }
        for known in &self.users {
            let same = constant_time_eq::constant_time_eq(&known.secret, &secret);
            // As a bearer token it comes without a name.
            if same & user.as_ref().is_none_or(|user| *user == known.name) {
                caller.who.clone_from(&known.name);
                caller.granted.push((known.rights, Some(known.repositories.clone())));
            }
        }
        (!caller.granted.is_empty()).then_some(caller)
    }
}

fn rights_of(scope: Scope) -> Rights {
    match scope {
        Scope::Read => [Right::Pull].into_iter().collect(),
        Scope::Promote => [Right::Pull, Right::Push].into_iter().collect(),
        Scope::Admin => Right::ALL.into_iter().collect(),
        Scope::Verify | Scope::Containment => Rights::default(),
    }
}

/// User name, if there is one, and secret: RFC 7617 and RFC 6750.
fn credentials(value: &[u8]) -> Option<(Option<String>, Vec<u8>)> {
    let at = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = (&value[..at], value[at..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some((None, rest.to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    let user = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
    Some((Some(user), decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn access() -> (Access, Tokens) {
        let tokens = Scope::ALL.map(|s| (s, format!("{}-token-0123456789", s.as_str()).into_bytes().into()));
        let user = |name: &str, globs: &[&str], rights: &[Right]| User {
            name: name.into(),
            secret: format!("secret-of-{name}").into_bytes().into(),
            repositories: globs.iter().map(|g| g.parse().expect("a pattern")).collect(),
            rights: rights.iter().copied().collect(),
        };
        let users =
            vec![user("ci", &["team/**", "one"], &[Right::Pull, Right::Push]), user("x", &["**"], &[Right::Pull])];
        (Access::new(users), Tokens::new(tokens.to_vec()))
    }

    fn caller(values: &[String]) -> Option<Caller> {
        let (access, tokens) = access();
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        access.caller(&tokens, &headers)
    }

    fn basic(user: &str, secret: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))
    }

    #[test]
    fn each_secret_gives_its_rights_and_no_others() {
        use Right::{Delete, Pull, Push, Quarantined};
        for (value, team, other) in [
            (basic("anyone", "read-token-0123456789"), &[Pull][..], &[Pull][..]),
            ("Bearer promote-token-0123456789".into(), &[Pull, Push], &[Pull, Push]),
            (basic("", "admin-token-0123456789"), &Right::ALL, &Right::ALL),
            (basic("ci", "secret-of-ci"), &[Pull, Push], &[]),
            ("bearer secret-of-ci".into(), &[Pull, Push], &[]),
            (basic("x", "secret-of-x"), &[Pull], &[Pull]),
        ] {
            let caller = caller(&[value]).expect("known");
            for right in [Pull, Push, Delete, Quarantined] {
                for (repository, rights) in [("team/a/b", team), ("other", other)] {
                    let may = caller.may(right, &repository.parse().expect("a name"));
                    assert_eq!(may, rights.contains(&right), "{right:?} {repository} {}", caller.who);
                }
            }
        }
    }

    #[test]
    fn nobody_is_let_in_without_a_whole_secret() {
        for values in [
            &[][..],
            &["".into()],
            &["Basic".into()],
            &["Basic !!".into()],
            &[basic("ci", "secret-of-x")],
            &[basic("x", "secret-of-ci")],
            &[basic("ci", "")],
            &[basic("ci", "secret-of-c")],
            &[format!("Basic {}", STANDARD.encode("nocolon"))],
            &[basic("v", "verify-token-0123456789")],
            &[basic("c", "containment-token-0123456789")],
            &["Digest x".into()],
            &[basic("ci", "secret-of-ci"), basic("ci", "secret-of-ci")],
        ] {
            assert!(caller(values).is_none(), "{values:?}");
        }
    }
}
