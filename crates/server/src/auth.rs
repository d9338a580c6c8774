//! Who may ask what.
//!
//! Owns: the scopes, which token grants which, and the layer that stands before each route. Promises: a refusal is 403,
//! the same whatever was wrong, and is given before the body is read or a name is looked at; comparisons take the same
//! time whatever differs; every token is compared, whichever matched. Leaves out: where tokens come from (`tokens`).
//!
//! ```text
//! scope        read  verify  promote  admin  containment     tokens that pass
//! read           x                      x
//! verify               x                x
//! promote                      x                             not admin: the console of an administrator
//! admin                                 x                    must not be a way around the pipeline
//! containment                                     x
//! ```

use crate::reply::Reply;
use crate::routes::App;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use securereg::Actor;
use std::net::SocketAddr;
use std::sync::Arc;

/// A right to ask something; each has a token of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Listing and describing models.
    Read,
    /// Having models verified.
    Verify,
    /// Promoting.
    Promote,
    /// Deleting, and whatever reading and verifying allow.
    Admin,
    /// Quarantining during an incident.
    Containment,
}

impl Scope {
    pub(crate) const ALL: [Scope; 5] = [Scope::Read, Scope::Verify, Scope::Promote, Scope::Admin, Scope::Containment];

    /// As in file names and the audit log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Verify => "verify",
            Scope::Promote => "promote",
            Scope::Admin => "admin",
            Scope::Containment => "containment",
        }
    }

    /// The scope whose token lets a caller with `grants` through, if any does.
    fn admitted_by(self, grants: Grants) -> Option<Scope> {
        let also = match self {
            Scope::Read | Scope::Verify => Some(Scope::Admin),
            Scope::Promote | Scope::Admin | Scope::Containment => None,
        };
        [Some(self), also].into_iter().flatten().find(|scope| grants.holds(*scope))
    }
}

/// The scopes whose token a request carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Grants(u8);

impl Grants {
    fn with(self, scope: Scope) -> Self {
        Grants(self.0 | 1 << scope as u8)
    }

    pub(crate) fn holds(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether any token was right.
    fn any(self) -> bool {
        self.0 != 0
    }
}

/// The tokens of a server, by scope; a scope without one is closed.
pub(crate) struct Tokens(Vec<(Scope, Box<[u8]>)>);

impl Tokens {
    pub(crate) fn new(tokens: Vec<(Scope, Box<[u8]>)>) -> Self {
        Tokens(tokens)
    }

    /// What the one bearer token of a request grants.
    fn grants(&self, headers: &HeaderMap) -> Grants {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Grants::default() };
        let presented = match value.as_bytes().split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => return Grants::default(),
        };
        self.matching(presented)
    }

    /// Whether the token of a request is one for `scope`.
    pub(crate) fn admits(&self, scope: Scope, headers: &HeaderMap) -> bool {
        scope.admitted_by(self.grants(headers)).is_some()
    }

    /// What this secret grants.
    pub(crate) fn matching(&self, presented: &[u8]) -> Grants {
        // No early end: which token matched, and whether one did, must not show in the time this takes.
        self.0.iter().fold(Grants::default(), |grants, (scope, token)| {
            if constant_time_eq::constant_time_eq(token, presented) { grants.with(*scope) } else { grants }
        })
    }
}

/// Where a request comes from; the accept loop puts it there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A caller that has shown a right token.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// For the audit log.
    pub(crate) actor: Actor,
    grants: Grants,
}

impl Caller {
    /// Whether this caller may see what became of work that `scope` was needed for.
    pub(crate) fn may_follow(&self, scope: Scope) -> bool {
        self.grants.holds(scope) || self.grants.holds(Scope::Admin)
    }
}

/// What a route asks for.
#[derive(Clone)]
enum Need {
    Scope(Scope),
    AnyToken,
}

/// `routes`, for callers with `scope` only.
pub(crate) fn guard(app: &Arc<App>, scope: Scope, routes: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    routes.route_layer(from_fn_with_state((Arc::clone(app), Need::Scope(scope)), require))
}

/// `routes`, for callers with any right token; they decide by the caller what they tell.
pub(crate) fn guard_any(app: &Arc<App>, routes: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    routes.route_layer(from_fn_with_state((Arc::clone(app), Need::AnyToken), require))
}

async fn require(State((app, need)): State<(Arc<App>, Need)>, mut request: Request, next: Next) -> Response {
    let grants = app.tokens.grants(request.headers());
    let from = request.extensions().get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.to_string());
    let (passed, wanted) = match need {
        Need::Scope(scope) => (scope.admitted_by(grants).map(Scope::as_str), scope.as_str()),
        Need::AnyToken => (grants.any().then_some("any"), "any"),
    };
    let Some(token) = passed else {
        tracing::warn!(method = %request.method(), path = request.uri().path(), from, wanted, "refused: no token for it");
        let message = format!("a bearer token for the {wanted} scope is required");
        return Reply::failure(StatusCode::FORBIDDEN, "forbidden", &message).into_response();
    };
    let actor = Actor::new("http", format!("{token} token from {from}"));
    request.extensions_mut().insert(Caller { actor, grants });
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn tokens() -> Tokens {
        Tokens::new(Scope::ALL.map(|s| (s, format!("{}-token-0123456789", s.as_str()).into_bytes().into())).to_vec())
    }

    fn grants_of(values: &[&str]) -> Grants {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        tokens().grants(&headers)
    }

    #[test]
    fn read_and_verify_also_take_admin_and_promote_does_not() {
        for scope in Scope::ALL {
            for token in Scope::ALL {
                let passes = scope.admitted_by(Grants::default().with(token)).is_some();
                let wanted = scope == token || (token == Scope::Admin && matches!(scope, Scope::Read | Scope::Verify));
                assert_eq!(passes, wanted, "{token:?} token for {scope:?}");
            }
            assert_eq!(scope.admitted_by(Grants::default()), None);
        }
    }

    #[test]
    fn only_one_whole_bearer_token_grants_anything() {
        assert!(grants_of(&["Bearer read-token-0123456789"]).holds(Scope::Read));
        assert!(grants_of(&["bearer  read-token-0123456789 "]).holds(Scope::Read));
        for bad in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer read-token-012345678"],
            &["Bearer read-token-01234567890"],
            &["Bearer Read-token-0123456789"],
            &["Basic read-token-0123456789"],
            &["read-token-0123456789"],
            &["Bearer read-token-0123456789", "Bearer admin-token-0123456789"],
        ] {
            assert_eq!(grants_of(bad), Grants::default(), "{bad:?}");
        }
    }
}
