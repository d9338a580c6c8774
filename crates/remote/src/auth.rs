//! Being let in.
//!
//! Owns: the answer to a challenge: a password, or a token that a token server gives for it. Promises: secrets go to the registry and to
//! the token server that it names, over TLS when the registry is spoken to over TLS, and to nobody else; a challenge is answered once a
//! request. Leaves out: where secrets come from (`credentials`).

use crate::body::Body;
use crate::challenge::Challenge;
use crate::client::{Ask, Client};
use crate::credentials::Credential;
use crate::fail::{Trouble, refused, shorten};
use crate::url::encoded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use parking_lot::Mutex;
use securereg::{Error, ErrorKind, Result};
use securereg_oci::Repository;
use serde::Deserialize;

/// What we are to one registry.
pub(crate) struct Pass {
    credential: Credential,
    /// What we want to do, as token servers have it.
    scope: String,
    /// What let us in, and how often it was made.
    now: Mutex<(Option<HeaderValue>, u64)>,
    /// One asks, the others wait for what it gets.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Pass {
    /// To pull from a repository, and to push when `actions` says so.
    pub(crate) fn new(credential: Credential, repository: &Repository, actions: &str) -> Pass {
        Pass {
            credential,
            scope: format!("repository:{repository}:{actions}"),
            now: Mutex::new((None, 0)),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// What to send, and its number for [`Pass::answer`].
    pub(crate) fn header(&self) -> (Option<HeaderValue>, u64) {
        self.now.lock().clone()
    }

    /// After a 401 to what had the number `seen`: gets what is wanted now.
    pub(crate) async fn answer(&self, client: &Client, headers: &HeaderMap, seen: u64) -> Result<(), Trouble> {
        let _turn = self.turn.lock().await;
        if self.now.lock().1 != seen {
            // Another request has answered it meanwhile.
            return Ok(());
        }
        let registry = client.registry();
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<Challenge> = texts.flat_map(Challenge::parse).collect();
        let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let header = match (of("bearer"), of("basic"), &self.credential) {
            (Some(_), _, Credential::Token(token)) => format!("Bearer {token}"),
            (Some(challenge), _, _) => format!("Bearer {}", self.token(client, challenge).await?),
            (None, Some(_), Credential::Basic { user, secret }) => basic(user, secret),
            (None, Some(_), Credential::Token(token)) => format!("Bearer {token}"),
            (None, Some(_), _) => return Err(self.unknown(&registry.host).into()),
            (None, None, _) => {
                return Err(refused(format!(
                    "{registry} asks for a password in no way that is known: Basic and Bearer are"
                ))
                .into());
            }
        };
        let header = sensitive(&header)?;
        let mut now = self.now.lock();
        if now.0.as_ref() == Some(&header) {
            // The same again will not do.
            return Err(self.wrong(&registry.host).into());
        }
        *now = (Some(header), seen.wrapping_add(1));
        Ok(())
    }

    fn unknown(&self, host: &str) -> Error {
        let why =
            format!("{host} wants a password, and none is known: run `docker login {host}` or `podman login {host}`");
        Error::new(ErrorKind::Permission, why)
    }

    /// After it was refused what it was let in for.
    pub(crate) fn wrong(&self, host: &str) -> Error {
        match self.credential {
            Credential::None => self.unknown(host),
            _ => Error::new(
                ErrorKind::Permission,
                format!("{host} does not let us in with the password that is known: log in again"),
            ),
        }
    }

    /// Distribution's "Token Authentication Specification", and its OAuth2 form for identity tokens.
    async fn token(&self, client: &Client, challenge: &Challenge) -> Result<String, Trouble> {
        let registry = client.registry();
        let realm = challenge.parameter("realm").ok_or_else(|| refused(format!("{registry} names no token server")))?;
        let realm = registry.at("/").join(realm)?;
        let mut scopes = vec![self.scope.as_str()];
        let own = self.scope.rsplit_once(':').map_or("", |(place, _)| place);
        scopes.extend(challenge.parameter("scope").filter(|scope| !scope.starts_with(own) && !scope.is_empty()));
        let mut ask = Ask::new(Method::GET, realm);
        let mut body = Body::empty();
        if let Credential::Identity(identity) = &self.credential {
            let mut form = "grant_type=refresh_token&client_id=securereg".to_owned();
            let fields =
                [("refresh_token", identity.as_str()), ("service", challenge.parameter("service").unwrap_or_default())];
            for (key, value) in fields.into_iter().chain([("scope", scopes.join(" ").as_str())]) {
                form.push_str(&format!("&{key}={}", encoded(value)));
            }
            ask.method = Method::POST;
            ask = ask.header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            body = Body::Whole(form.into());
        } else {
            if let Some(service) = challenge.parameter("service") {
                ask.url = ask.url.with("service", service);
            }
            for scope in scopes {
                ask.url = ask.url.with("scope", scope);
            }
            if let Credential::Basic { user, secret } = &self.credential {
                ask.url = ask.url.with("account", user);
                ask = ask.header(AUTHORIZATION, sensitive(&basic(user, secret))?);
            }
        }
        let server = ask.url.origin.clone();
        let reply = client.once(&ask, body).await?;
        match reply.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.wrong(&server.host).into());
            }
            status => return Err(client.failure(reply, &format!("the token server {server} answers {status}")).await),
        }
        let bytes = reply.bytes(1 << 20).await?;
        let given: Option<Given> = serde_json::from_slice(&bytes).ok();
        let token = given.map(|given| if given.token.is_empty() { given.access_token } else { given.token });
        token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| refused(format!("the token server {} gives no token", shorten(&server.to_string()))).into())
    }
}

fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))
}

/// A header that no log shows.
fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, "a password or token holds what no header can: log in again")
    })?;
    value.set_sensitive(true);
    Ok(value)
}
